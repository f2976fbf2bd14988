#!/usr/bin/env python3
"""The life of an installed package: install, take and deliver a mail, remove, purge.

Called by test-deb.sh in namespaces of its own, with the chroot as argument and the package as /postern.deb in it. There is
no systemd in a chroot, so this script does what the unit says: the unit's user, its one capability, and readiness by
NOTIFY_SOCKET.
"""

import configparser
import functools
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import time
from pathlib import Path

DEADLINE = 60  # seconds that any one event may take
ROOT = Path(sys.argv[1])
SPOOL = ROOT / "var/spool/postern"
MAILBOX = SPOOL / "mail/proseware.test/postmaster"
LOG = ROOT / "postern.log"  # what the daemons said, shown when something fails
SUBJECT = "the package works"
OUTSIDE = "192.0.2.25"  # an address that nobody trusts: who connects to it also comes from it


def ok(step):
    print(f"test-deb: ok: {step}", flush=True)


def require(condition, problem):
    if not condition:
        if LOG.exists():
            print(LOG.read_text(), end="")
        sys.exit(f"test-deb: FAILED: {problem}")


def run(*command, inside=True, **options):
    """Runs a command in the chroot; its output is shown only when it fails."""
    command = ["chroot", str(ROOT), *command] if inside else list(command)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, **options
    )
    require(done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def wait_for(what, condition):
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    require(False, f"{what}: not within {DEADLINE} s")


@functools.cache
def unit():
    """The [Service] section of the installed unit; kept, since it is needed after a removal too."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str
    parser.read(ROOT / "usr/lib/systemd/system/postern.service")
    return parser["Service"]


def start():
    """Starts the daemon as the unit does, and waits until it says that it is ready."""
    service = unit()
    capability = service["AmbientCapabilities"].removeprefix("CAP_").lower()
    run("install", "-d", "-o", service["User"], "-g", service["Group"], "-m", "750", "/run/postern")
    notify = ROOT / "run/postern-notify"
    notify.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(str(notify))
        notify.chmod(0o777)
        ready.settimeout(DEADLINE)
        daemon = subprocess.Popen(
            ["chroot", str(ROOT), "setpriv", f"--reuid={service['User']}", f"--regid={service['Group']}",
             "--init-groups", "--no-new-privs", f"--bounding-set=-all,+{capability}",
             f"--inh-caps=-all,+{capability}", f"--ambient-caps=-all,+{capability}", *service["ExecStart"].split()],
            env={"PATH": "/usr/sbin:/usr/bin", "NOTIFY_SOCKET": "/run/postern-notify"},
            umask=int(service["UMask"], 8),
            stderr=LOG.open("a"),
        )
        try:
            while b"READY=1" not in ready.recv(4096):
                pass
        except TimeoutError:
            require(False, f"no READY=1 within {DEADLINE} s; the daemon's exit code is {daemon.poll()}")
    return daemon


def stop(daemon):
    """SIGTERM, as systemd does; the daemon must be gone in the unit's time, with success."""
    daemon.send_signal(signal.SIGTERM)
    seconds = int(unit()["TimeoutStopSec"])
    try:
        code = daemon.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        require(False, f"still running {seconds} s after SIGTERM")
    require(code == 0, f"the daemon ended with {code} after SIGTERM")


def send(recipient):
    """Sends from this machine, which the installed configuration trusts."""
    message = f"From: probe@proseware.test\r\nTo: {recipient}\r\nSubject: {SUBJECT}\r\n\r\nHello.\r\n"
    with smtplib.SMTP("127.0.0.1", 25, timeout=DEADLINE) as smtp:
        smtp.sendmail("probe@proseware.test", [recipient], message)


def delivered():
    return sorted(MAILBOX.glob("new/*"))


def refuses_to_relay():
    with smtplib.SMTP(OUTSIDE, 25, timeout=DEADLINE) as smtp:
        smtp.ehlo("client.thephone-company.test")
        smtp.mail("probe@thephone-company.test")
        code, text = smtp.rcpt("someone@adatum.test")
        return code == 550 and b"5.7.1" in text


def owner(path):
    """Owner, group and mode as the chroot names them: `postern postern 700`."""
    return run("stat", "-c", "%U %G %a", str(path)).strip()


def install():
    run("apt-get", "install", "--yes", "--no-install-recommends", "--reinstall", "/postern.deb")
    for path, expected in {
        "/var/spool/postern": "postern postern 700",
        "/etc/postern": "root root 755",
        "/etc/postern/postern.toml": "root root 644",
        "/etc/postern/keys": "root postern 750",
    }.items():
        found = owner(path)
        require(found == expected, f"{path} is '{found}', not '{expected}'")
    run("runuser", "-u", "postern", "--", "/usr/sbin/posternd", "check")


def main():
    run("ip", "link", "set", "lo", "up", inside=False)
    run("ip", "address", "add", f"{OUTSIDE}/32", "dev", "lo", inside=False)
    run("mount", "--make-rprivate", "/", inside=False)
    run("mount", "-t", "proc", "proc", str(ROOT / "proc"), inside=False)
    run("mount", "--rbind", "/dev", str(ROOT / "dev"), inside=False)
    # Nothing answers there: the namespace has no network but loopback.
    (ROOT / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
    # No service is started by installing, as on any system that is being built.
    (ROOT / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (ROOT / "usr/sbin/policy-rc.d").chmod(0o755)

    install()
    ok("installed: user, directories, and a configuration that the daemon's user can load")

    daemon = start()
    ok("started as the unit's user, ready on port 25")
    send("postmaster@proseware.test")
    mail = wait_for("the mail in postmaster's Maildir", delivered)
    require(f"Subject: {SUBJECT}" in mail[0].read_text(), "the file in the Maildir is another mail")
    rights = owner("/" + str(mail[0].relative_to(ROOT)))
    require(rights == "postern postern 600", f"the mail in the Maildir is '{rights}'")
    ok("a mail to postmaster is in the Maildir")
    require(refuses_to_relay(), "relaying for a stranger was not refused with 550 5.7.1")
    ok("relaying for a stranger is refused")
    run("posternctl", "status")
    ok("root can ask the daemon over the control socket")
    stop(daemon)
    ok("stopped by SIGTERM")

    run("apt-get", "remove", "--yes", "postern")
    require((ROOT / "etc/postern/postern.toml").exists(), "remove deleted the configuration")
    run("apt-get", "purge", "--yes", "postern")
    require(not (ROOT / "etc/postern").exists(), "purge left the configuration")
    require(mail[0].exists() and (SPOOL / "FORMAT").exists(), "purge deleted a spool that was used")
    ok("remove keeps the configuration; purge deletes it, and keeps the mail")

    install()
    daemon = start()
    stop(daemon)
    require(mail[0].exists(), "the mail is gone after installing again")
    ok("installed again, the daemon goes on with its spool")

    shutil.rmtree(SPOOL)
    install()
    run("apt-get", "purge", "--yes", "postern")
    require(not SPOOL.exists(), "purge kept a spool that was never used")
    ok("purge deletes a spool that was never used")


main()
