//! Mail that is handed over on UNIX sockets: a Postfix in front of us, and whose the socket is.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::client::message;
use crate::harness::mail::contains;
use crate::harness::mail_servers::{Postfix, owner_of, peer, postfix};
use crate::harness::{Client, Daemon, Setup, eventually, is_root, repository, skip};

const ALICE: &str = "alice@proseware.test";
const BOB: &str = "bob@proseware.test";
const NOBODY: &str = "nobody@proseware.test";

/// The socket that docs/mail-systems.md names.
const DOCUMENTED: &str = "/run/postern/lmtp.sock";

/// The block of docs/mail-systems.md that begins so.
fn documented(start: &str) -> String {
    let page = fs::read_to_string(repository().join("docs/mail-systems.md")).unwrap();
    let (_, block) = page.split_once(start).unwrap_or_else(|| panic!("no {start:?} in docs/mail-systems.md"));
    block.split_once("\n```").unwrap().0.to_owned() + "\n"
}

/// A server with a socket for other mail systems, in a folder that they may enter.
fn with_socket(keys: &str) -> (Setup, PathBuf) {
    let setup = Setup::new();
    fs::set_permissions(setup.folder(), fs::Permissions::from_mode(0o755)).unwrap();
    let socket = setup.folder().join("run/lmtp.sock");
    let listener =
        format!("[[listener]]\nkind = \"lmtp\"\naddress = \"unix:{}\"\n{keys}\n", socket.display());
    (setup.with(&listener), socket)
}

// Postfix in front.

/// A server and a Postfix that takes mail for proseware.test from the network and hands it over, set up as
/// docs/mail-systems.md says.
fn behind_postfix() -> Option<(Daemon, Postfix)> {
    // Before the daemon: its group must exist for the socket.
    postfix()?;
    let setup = Setup::new();
    fs::set_permissions(setup.folder(), fs::Permissions::from_mode(0o755)).unwrap();
    let socket = setup.folder().join("run/lmtp.sock");
    let here = |text: String| text.replace(DOCUMENTED, socket.to_str().unwrap());
    let listener = here(documented("```toml,partial\n[[listener]]\nkind = \"lmtp\"\n"));
    let daemon = setup.with(&format!("[[listener]]\nkind = \"lmtp\"\n{listener}")).start();
    let settings = here(documented("hands mail for a domain over with\n\n```text\n"));
    let all_recipients = "virtual_mailbox_domains = proseware.test\nvirtual_mailbox_maps =\n";
    let postfix = Postfix::start(&format!("{all_recipients}{settings}"))?;
    Some((daemon, postfix))
}

/// Gives Postfix a message for these.
fn send(postfix: &Postfix, recipients: &[&str], subject: &str) {
    let mut client = Client::connect(postfix.address);
    client.ehlo();
    let content = message(BOB, ALICE, subject, ".first line\r\nlast line");
    assert_eq!(client.deliver(BOB, recipients, &content).code, 250);
}

/// The line in Postfix's log about what became of a recipient.
fn fate(postfix: &Postfix, recipient: &str, status: &str) -> String {
    let (to, status) = (format!("to=<{recipient}>"), format!("status={status} "));
    eventually(&format!("{to} {status}in the log of Postfix"), || {
        let log = postfix.log();
        let line = log.lines().find(|line| line.contains(&to) && line.contains(&status));
        line.map(str::to_owned)
    })
}

#[test]
fn postfix_hands_over_and_returns_only_the_recipient_that_is_refused() {
    let Some((daemon, postfix)) = behind_postfix() else { return };
    send(&postfix, &[ALICE, NOBODY, BOB], "by-postfix");
    for recipient in [ALICE, BOB] {
        // The report to bob has the header of the message in it.
        let mail = eventually("the message itself", || {
            let messages = daemon.maildir(recipient).messages();
            messages.into_iter().find(|mail| mail.fields("Subject") == ["by-postfix"])
        });
        assert_eq!(String::from_utf8_lossy(mail.body()), ".first line\r\nlast line\r\n");
        let received = &mail.fields("Received")[0];
        assert!(
            received.contains("from mx.adatum.test (local)") && received.contains("with LMTP id"),
            "{received}"
        );
        let line = fate(&postfix, recipient, "sent");
        assert!(
            line.contains("run/lmtp.sock]") && line.contains("dsn=2.0.0") && line.contains("queued as"),
            "{line}"
        );
    }
    let line = fate(&postfix, NOBODY, "bounced");
    assert!(line.contains("dsn=5.1.1") && line.contains("in reply to RCPT TO command"), "{line}");
    // The report goes to the sender, who is ours: by the same way.
    let report = daemon.maildir(BOB).wait_for("Undelivered Mail");
    for text in [&format!("Final-Recipient: rfc822; {NOBODY}"), "Status: 5.1.1", "550 5.1.1"] {
        assert!(contains(&report.0, text), "{text} in {}", String::from_utf8_lossy(&report.0));
    }
    assert!(!contains(&report.0, &format!("Final-Recipient: rfc822; {ALICE}")));
    eventually("an empty queue of Postfix", || postfix.queue().is_empty().then_some(()));
    assert_eq!(daemon.maildir(ALICE).messages().len(), 1);
    let line = daemon.wait_for("accepted", |line| line["listener"] == "lmtp");
    assert_eq!((line["client"].as_str(), line["to"].as_u64()), (Some("local"), Some(2)));
}

#[test]
fn what_each_recipient_is_told_behind_the_message_is_in_the_queue_of_postfix() {
    let Some((daemon, postfix)) = behind_postfix() else { return };
    let rule = ["rule", "add", "reject", "--temporary", "--header", "Subject=later", "--reason", "outage"];
    let rule = daemon.ask(&rule)["rule"]["id"].to_string();
    send(&postfix, &[ALICE, NOBODY, BOB], "later");
    for recipient in [ALICE, BOB] {
        let line = fate(&postfix, recipient, "deferred");
        assert!(line.contains("dsn=4.7.1") && line.contains("in reply to end of DATA command"), "{line}");
    }
    fate(&postfix, NOBODY, "bounced");
    // Both wait, and the third one does not.
    let waiting = eventually("a message that waits at Postfix", || {
        postfix.queue().into_iter().find(|message| message["queue_name"] == "deferred")
    });
    let recipients = waiting["recipients"].as_array().unwrap();
    let told: Vec<(&str, bool)> = recipients
        .iter()
        .map(|to| {
            let reason = to["delay_reason"].as_str().unwrap_or_default();
            (to["address"].as_str().unwrap(), reason.contains("450 4.7.1"))
        })
        .collect();
    assert_eq!(told, [(ALICE, true), (BOB, true)], "{waiting}");
    assert!(daemon.maildir(ALICE).messages().is_empty());

    assert_eq!(daemon.ctl(&["rule", "remove", &rule]).code, 0);
    postfix.flush();
    for recipient in [ALICE, BOB] {
        daemon.maildir(recipient).wait_for("Subject: later");
        fate(&postfix, recipient, "sent");
    }
    eventually("an empty queue of Postfix", || postfix.queue().is_empty().then_some(()));
    assert_eq!(daemon.maildir(ALICE).messages().len(), 1);
}

#[test]
fn a_message_that_is_refused_as_a_whole_is_returned_for_each_recipient() {
    let Some((daemon, postfix)) = behind_postfix() else { return };
    let rule = ["rule", "add", "reject", "--header", "Subject=unwanted", "--reason", "an outbreak"];
    daemon.ask(&rule);
    send(&postfix, &[ALICE, BOB], "unwanted");
    for recipient in [ALICE, BOB] {
        let line = fate(&postfix, recipient, "bounced");
        assert!(line.contains("dsn=5.7.1") && line.contains("in reply to end of DATA command"), "{line}");
    }
}

#[test]
fn postfix_keeps_mail_while_the_socket_is_gone() {
    let Some((mut daemon, postfix)) = behind_postfix() else { return };
    assert!(daemon.terminate().success());
    send(&postfix, &[ALICE], "while-away");
    let line = fate(&postfix, ALICE, "deferred");
    assert!(line.contains("No such file"), "{line}");
    daemon.start();
    postfix.flush();
    daemon.maildir(ALICE).wait_for("Subject: while-away");
}

// Whose the socket is.

/// The name of a group in /etc/group.
fn group_name(id: u32) -> String {
    let groups = fs::read_to_string("/etc/group").unwrap();
    let named = groups.lines().find(|line| line.split(':').nth(2) == Some(&id.to_string())).unwrap();
    named.split(':').next().unwrap().to_owned()
}

/// Whether this user gets through to the socket.
fn may_connect(python: &Path, user: u32, socket: &Path) -> bool {
    const PROGRAM: &str = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(3).decode())";
    let mut command = Command::new(python);
    let output = command.args(["-c", PROGRAM]).arg(socket).uid(user).gid(user).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim() == "220"
}

#[test]
fn a_socket_is_given_to_another_user() {
    if !is_root() {
        return skip("only root can give a socket to somebody else");
    }
    // Not one in the folders of a user: others must be able to run it.
    let python = Some(PathBuf::from("/usr/bin/python3")).filter(|python| python.is_file());
    let Some(python) = peer("python3", python) else { return };
    let (user, group) = owner_of("nobody");
    let (setup, socket) = with_socket("user = \"nobody\"\nmode = \"0600\"");
    let mut daemon = setup.start();
    let is_whose = |socket: &Path| {
        let found = fs::metadata(socket).unwrap();
        (found.uid(), found.gid(), found.mode() & 0o777)
    };
    assert_eq!(is_whose(&socket), (user, 0, 0o600), "the group is the daemon's where none is named");
    assert!(may_connect(&python, user, &socket), "its owner gets through");
    assert!(!may_connect(&python, user - 1, &socket), "others do not");

    // The file is replaced, and is theirs again.
    daemon.kill();
    daemon.start();
    assert_eq!(is_whose(&socket), (user, 0, 0o600));
    assert!(daemon.terminate().success());
    assert!(!socket.exists());

    let (setup, socket) =
        with_socket(&format!("user = \"nobody\"\ngroup = \"{}\"\nmode = \"0660\"", group_name(group)));
    let _daemon = setup.start();
    assert_eq!(is_whose(&socket), (user, group, 0o660));
}

#[test]
fn a_daemon_that_is_not_root_any_more_still_takes_mail_on_a_socket_of_somebody_else() {
    if !is_root() {
        return skip("only root can become somebody else");
    }
    let (setup, socket) = with_socket("user = \"root\"\nmode = \"0600\"");
    let (user, group) = owner_of("nobody");
    let mut daemon = setup.with("user = \"nobody\"").prepare();
    for entry in [".", "cert.pem", "key.pem", "ca.pem", "accounts.toml", "postern.toml"] {
        std::os::unix::fs::chown(daemon.folder().join(entry), Some(user), Some(group)).unwrap();
    }
    daemon.start();
    let found = fs::metadata(&socket).unwrap();
    assert_eq!((found.uid(), found.gid()), (0, group));
    assert!(UnixStream::connect(&socket).is_ok());
    assert!(daemon.terminate().success());
    assert!(!socket.exists(), "the folder is the daemon's");
}

#[test]
fn names_that_nobody_has_are_refused_with_the_place_in_the_file() {
    for (key, named) in [("user", "no-such-user"), ("group", "no-such-group")] {
        let (setup, socket) = with_socket(&format!("{key} = \"{named}\""));
        let mut daemon = setup.prepare();
        let checked = daemon.ctl(&["config", "check"]);
        assert_eq!(checked.code, 1, "{checked:?}");
        let said = format!("{}{}", checked.stdout, checked.stderr);
        assert!(
            said.contains(&format!("there is no {key} \"{named}\"")) && said.contains("postern.toml:"),
            "{said}"
        );
        daemon.launch();
        assert!(!daemon.finish().success());
        assert!(!socket.exists());
    }
}
