//! Other people's programs, where they are installed: clients that submit, and Postfix on both sides.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::harness::client::message;
use crate::harness::daemon::PASSWORD;
use crate::harness::mail::{Maildir, contains};
use crate::harness::mail_servers::{self, Exim, peer};
use crate::harness::tls::Identity;
use crate::harness::{Client, Daemon, NextHop, Script, Setup, installed, loopback, say};

const ALICE: &str = "alice@proseware.test";
const CAROL: &str = "carol@adatum.test";
const BODY: &str = "first line\r\n.dot\r\n..two dots\r\n\r\ncaf\u{e9} \u{2014} last line\r\n";

/// A server, its next hop, and a message in a file: what every submitting client needs.
struct Submission {
    daemon: Daemon,
    hop: NextHop,
    subject: String,
    file: PathBuf,
    ca: PathBuf,
}

impl Submission {
    fn new(client: &str) -> Self {
        let hop = NextHop::start(Script::default());
        let daemon = Setup::new().next_hop("adatum.test", &hop).start();
        let subject = format!("sent-by-{client}");
        let file = daemon.folder().join("message.eml");
        fs::write(&file, message(ALICE, CAROL, &subject, BODY.trim_end())).unwrap();
        let ca = daemon.folder().join("ca.pem");
        Self { daemon, hop, subject, file, ca }
    }

    fn host(&self) -> String {
        self.daemon.submission().ip().to_string()
    }

    fn port(&self, implicit_tls: bool) -> String {
        let address = if implicit_tls { self.daemon.submissions() } else { self.daemon.submission() };
        address.port().to_string()
    }

    /// Runs the client, which gets the message on standard input too, and compares what arrives at both recipients.
    fn run(&self, command: &mut Command) {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // It may not read it.
        let _ = child.stdin.take().unwrap().write_all(&fs::read(&self.file).unwrap());
        let output = child.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&said));
        let before = self.hop.received().len();
        let received = self.hop.wait_for_count(before.max(1));
        let remote = &received.last().unwrap().mail;
        for mail in [remote, &self.daemon.maildir("bob@proseware.test").wait_for(&self.subject)] {
            assert_eq!(mail.field("Subject"), self.subject);
            assert_eq!(mail.field("Message-ID"), format!("<{}@client.test>", self.subject));
            assert!(mail.field("Received").contains("ESMTPSA"), "{}", mail.header());
            let body = String::from_utf8(mail.body().to_vec()).unwrap();
            assert_eq!(body.trim_end(), BODY.trim_end());
        }
    }
}

#[test]
fn swaks_submits() {
    let Some(swaks) = peer("swaks", installed("swaks")) else { return };
    for (implicit_tls, flag) in [(false, "--tls"), (true, "--tls-on-connect")] {
        let site = Submission::new("swaks");
        site.run(
            Command::new(&swaks)
                .args(["--server", &site.host(), "--port", &site.port(implicit_tls), flag, "--tls-verify"])
                .args(["--tls-ca-path", site.ca.to_str().unwrap(), "--auth", "PLAIN", "--auth-user", ALICE])
                .args([
                    "--auth-password",
                    PASSWORD,
                    "--from",
                    ALICE,
                    "--to",
                    &format!("{CAROL},bob@proseware.test"),
                ])
                .args(["--data", "-"]),
        );
    }
}

#[test]
fn curl_submits() {
    let Some(curl) = peer("curl", installed("curl")) else { return };
    for (implicit_tls, scheme) in [(false, "smtp"), (true, "smtps")] {
        let site = Submission::new("curl");
        site.run(
            Command::new(&curl)
                .args(["--silent", "--show-error", "--ssl-reqd", "--cacert", site.ca.to_str().unwrap()])
                .args([
                    "--url",
                    &format!("{scheme}://{}:{}/client.test", site.host(), site.port(implicit_tls)),
                ])
                .args(["--user", &format!("{ALICE}:{PASSWORD}"), "--mail-from", ALICE])
                .args(["--mail-rcpt", CAROL, "--mail-rcpt", "bob@proseware.test"])
                .args(["--upload-file", site.file.to_str().unwrap()]),
        );
    }
}

#[test]
fn msmtp_submits() {
    let Some(msmtp) = peer("msmtp", installed("msmtp")) else { return };
    for (implicit_tls, starttls) in [(false, "--tls-starttls=on"), (true, "--tls-starttls=off")] {
        let site = Submission::new("msmtp");
        site.run(
            Command::new(&msmtp)
                .args(["--file=/dev/null", "--tls=on", starttls, "--auth=plain"])
                .args([format!("--host={}", site.host()), format!("--port={}", site.port(implicit_tls))])
                .args([format!("--tls-trust-file={}", site.ca.display()), format!("--user={ALICE}")])
                .args([format!("--passwordeval=echo {PASSWORD}"), format!("--from={ALICE}")])
                .args([CAROL, "bob@proseware.test"]),
        );
    }
}

#[test]
fn smtplib_submits() {
    const PROGRAM: &str = "import smtplib, ssl, sys\n\
        host, port, implicit, ca, user, password, *recipients = sys.argv[1:]\n\
        context = ssl.create_default_context(cafile=ca)\n\
        if implicit == 'True':\n\
        \x20   server = smtplib.SMTP_SSL(host, int(port), context=context)\n\
        else:\n\
        \x20   server = smtplib.SMTP(host, int(port))\n\
        \x20   server.starttls(context=context)\n\
        server.login(user, password)\n\
        refused = server.sendmail(user, recipients, sys.stdin.buffer.read(), ['BODY=8BITMIME'])\n\
        server.quit()\n\
        sys.exit(1 if refused else 0)";
    let Some(python) = peer("python3", installed("python3")) else { return };
    for (implicit_tls, word) in [(false, "False"), (true, "True")] {
        let site = Submission::new("smtplib");
        site.run(
            Command::new(&python)
                .args([
                    "-c",
                    PROGRAM,
                    &site.host(),
                    &site.port(implicit_tls),
                    word,
                    site.ca.to_str().unwrap(),
                ])
                .args([ALICE, PASSWORD, CAROL, "bob@proseware.test"]),
        );
    }
}

#[test]
fn nodemailer_submits() {
    const PROGRAM: &str = "const fs = require('fs');\n\
        const [host, port, secure, ca, user, pass, file, ...to] = process.argv.slice(1);\n\
        const transport = require('nodemailer').createTransport({ host, port: Number(port), secure: secure === 'True',\n\
            requireTLS: true, auth: { user, pass }, tls: { ca: fs.readFileSync(ca) } });\n\
        transport.sendMail({ envelope: { from: user, to }, raw: fs.readFileSync(file) })\n\
            .then(() => transport.close(), (error) => { console.error(error); process.exit(1); });";
    let modules =
        std::env::var_os("POSTERN_PEERS_DIR").map(|folder| PathBuf::from(folder).join("node_modules"));
    let modules = modules.filter(|modules| modules.join("nodemailer").is_dir());
    let node = installed("node").filter(|_| modules.is_some());
    let (Some(node), Some(modules)) = (peer("nodemailer", node), modules) else { return };
    for (implicit_tls, word) in [(false, "False"), (true, "True")] {
        let site = Submission::new("nodemailer");
        site.run(
            Command::new(&node)
                .env("NODE_PATH", &modules)
                .args([
                    "-e",
                    PROGRAM,
                    &site.host(),
                    &site.port(implicit_tls),
                    word,
                    site.ca.to_str().unwrap(),
                ])
                .args([ALICE, PASSWORD, site.file.to_str().unwrap(), CAROL, "bob@proseware.test"]),
        );
    }
}

#[test]
fn gsasl_logs_in_by_scram_with_and_without_channel_binding() {
    let Some(gsasl) = peer("gsasl", installed("gsasl")) else { return };
    let site = Submission::new("gsasl");
    set_passwords(&site.daemon);
    // It says STARTTLS without EHLO.
    let address = site.daemon.submission();
    let run = |mechanism: &str, password: &str| {
        let mut command = Command::new(&gsasl);
        command.args(["--smtp", "--client", "--quiet", "--starttls", &format!("--connect={address}")]);
        command.args([format!("--x509-ca-file={}", site.ca.display()), format!("--mechanism={mechanism}")]);
        command.args([format!("--authentication-id={ALICE}"), format!("--password={password}")]);
        if mechanism == "SCRAM-SHA-256" {
            // Otherwise it says that it could do channel binding, and is refused, as the server offers that.
            command.arg("--no-cb");
        }
        command.stdin(Stdio::null()).output().unwrap()
    };
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"] {
        let output = run(mechanism, PASSWORD);
        assert!(output.status.success(), "{mechanism}: {output:?}");
        site.daemon.wait_for("login", |line| line["mechanism"] == mechanism);
        let output = run(mechanism, "guess");
        assert!(!output.status.success(), "{mechanism}: {output:?}");
        site.daemon.wait_for("login-failed", |line| line["mechanism"] == mechanism);
    }
}

#[test]
fn msmtp_submits_by_scram() {
    let Some(msmtp) = peer("msmtp", installed("msmtp")) else { return };
    let site = Submission::new("msmtp");
    set_passwords(&site.daemon);
    site.run(
        Command::new(&msmtp)
            .args(["--file=/dev/null", "--tls=on", "--auth=scram-sha-256"])
            .args([format!("--host={}", site.host()), format!("--port={}", site.port(false))])
            .args([format!("--tls-trust-file={}", site.ca.display()), format!("--user={ALICE}")])
            .args([format!("--passwordeval=echo {PASSWORD}"), format!("--from={ALICE}")])
            .args([CAROL, "bob@proseware.test"]),
    );
    site.daemon.wait_for("login", |line| line["mechanism"] == "SCRAM-SHA-256");
}

/// Sets the passwords of both logins, which writes their verifiers.
fn set_passwords(daemon: &Daemon) {
    for login in [ALICE, "bob@proseware.test"] {
        let set = ["account", "password", login, "--password-stdin"];
        let output = daemon.ctl_with_input(&set, &format!("{PASSWORD}\n"));
        assert_eq!(output.code, 0, "{output:?}");
    }
}

#[test]
fn curl_logs_in_with_a_certificate() {
    let Some(curl) = peer("curl", installed("curl")) else { return };
    let hop = NextHop::start(Script::default());
    let identity = Identity::new(&["client.test"]);
    let keys = format!("certificates = [\"{}\"]", identity.fingerprint());
    let daemon = Setup::new().next_hop("adatum.test", &hop).account("carl@proseware.test", &keys).start();
    let file = |name: &str, text: &str| {
        let path = daemon.folder().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let (certificate, key) =
        (file("client.pem", &identity.certificate_pem), file("client.key", &identity.key_pem));
    let mail = file("message.eml", &message("carl@proseware.test", CAROL, "by-curl", "x"));
    let address = daemon.submission();
    let output = Command::new(&curl)
        .args(["--silent", "--show-error", "--ssl-reqd", "--cacert"])
        .arg(daemon.folder().join("ca.pem"))
        .arg("--cert")
        .arg(&certificate)
        .arg("--key")
        .arg(&key)
        .args(["--url", &format!("smtp://{address}/client.test"), "--login-options", "AUTH=EXTERNAL"])
        .args(["--user", "carl@proseware.test:", "--mail-from", "carl@proseware.test", "--mail-rcpt", CAROL])
        .arg("--upload-file")
        .arg(&mail)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(hop.wait_for_message().mail.field("Subject"), "by-curl");
    daemon.wait_for("login", |line| line["mechanism"] == "EXTERNAL");
}

#[test]
fn postfix_is_a_next_hop() {
    let Some(postfix) =
        Postfix::start(|address| Setup::new().with(&format!("[outbound]\nport = {}", address.port())))
    else {
        return;
    };
    let daemon = &postfix.daemon;
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    for n in 0..5 {
        let content = message(ALICE, CAROL, &format!("to-postfix-{n}"), BODY.trim_end());
        assert_eq!(client.deliver(ALICE, &[CAROL], &content).code, 250);
    }
    for n in 0..5 {
        let mail = postfix.mailbox("carol").wait_for(&format!("Subject: to-postfix-{n}"));
        assert_eq!(String::from_utf8(mail.body().to_vec()).unwrap().trim_end(), BODY.trim_end());
        assert!(mail.fields("Received").iter().any(|field| field.contains("using TLS")), "{}", mail.header());
    }
    // Its refusal comes back as a report.
    let content = message(ALICE, "nobody@adatum.test", "to-nobody", "hello");
    assert_eq!(client.deliver(ALICE, &["nobody@adatum.test"], &content).code, 250);
    let report = daemon.maildir(ALICE).wait_for("to-nobody");
    assert!(contains(&report.0, "Status: 5.1.1"), "{}", String::from_utf8_lossy(&report.0));
    daemon.wait_for_empty_queue();
}

#[test]
fn postfix_reports_success_in_our_place_and_we_in_its_place() {
    let Some(postfix) =
        Postfix::start(|address| Setup::new().with(&format!("[outbound]\nport = {}", address.port())))
    else {
        return;
    };
    let daemon = &postfix.daemon;
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    client.expect(&format!("MAIL FROM:<{ALICE}> RET=HDRS ENVID=ours+2B1"), 250);
    client.expect(&format!("RCPT TO:<{CAROL}> NOTIFY=SUCCESS ORCPT=rfc822;c@elsewhere.test"), 250);
    assert_eq!(client.content(&message(ALICE, CAROL, "ask-postfix", "hello")).code, 250);
    let report = daemon.maildir(ALICE).wait_for("ask-postfix");
    for text in [
        "Reporting-MTA: dns; mx.adatum.test",
        "Action: delivered",
        "rfc822;c@elsewhere.test",
        "Original-Envelope-Id: ours+1",
    ] {
        assert!(contains(&report.0, text), "{text} in {}", String::from_utf8_lossy(&report.0));
    }
    daemon.wait_for_empty_queue();
    assert_eq!(daemon.maildir(ALICE).messages().len(), 1, "and no report of ours");

    let mut client = Client::connect(postfix.address);
    assert!(client.ehlo().offers("DSN"));
    client.expect(&format!("MAIL FROM:<{CAROL}> ENVID=theirs"), 250);
    client.expect(&format!("RCPT TO:<{ALICE}> NOTIFY=SUCCESS"), 250);
    assert_eq!(client.content(&message(CAROL, ALICE, "ask-us", "hello")).code, 250);
    let report = postfix.mailbox("carol").wait_for("ask-us");
    for text in
        ["Reporting-MTA: dns; mail.proseware.test", "Action: delivered", "Original-Envelope-Id: theirs"]
    {
        assert!(contains(&report.0, text), "{text} in {}", String::from_utf8_lossy(&report.0));
    }
}

#[test]
fn postfix_sends_to_us() {
    let Some(postfix) = Postfix::start(|_| Setup::new()) else { return };
    let mut client = Client::connect(postfix.address);
    client.ehlo();
    for n in 0..20 {
        let content = message(CAROL, ALICE, &format!("from-postfix-{n}"), BODY.trim_end());
        assert_eq!(client.deliver(CAROL, &[ALICE, "bob@proseware.test"], &content).code, 250);
    }
    for mailbox in [ALICE, "bob@proseware.test"] {
        let mails = postfix.daemon.maildir(mailbox).wait_for_count(20);
        for mail in mails {
            assert_eq!(String::from_utf8(mail.body().to_vec()).unwrap().trim_end(), BODY.trim_end());
            let received = mail.fields("Received");
            assert!(received[0].contains("with ESMTPS"), "{received:?}");
        }
    }
    // What we refuse, Postfix returns to its user.
    let content = message(CAROL, "nobody@proseware.test", "refused-by-us", "hello");
    assert_eq!(client.deliver(CAROL, &["nobody@proseware.test"], &content).code, 250);
    let report = postfix.mailbox("carol").wait_for("refused-by-us");
    assert!(contains(&report.0, "550 5.1.1"), "{}", String::from_utf8_lossy(&report.0));
}

#[test]
fn exim_sends_to_us_in_chunks() {
    let daemon = Setup::new().start();
    let Some(exim) = Exim::with_smarthost(daemon.mx()) else { return };
    let mut client = Client::connect(exim.address);
    client.ehlo();
    // Exim sends chunks of some kilobytes: the second message has many.
    for (subject, lines) in [("one-chunk", 1), ("many-chunks", 20_000)] {
        let body: String = (0..lines).map(|n| format!(".line {n}\r\n.\r\n")).collect();
        let content = message(CAROL, ALICE, subject, body.trim_end());
        assert_eq!(client.deliver(CAROL, &[ALICE, "bob@proseware.test"], &content).code, 250);
        for mailbox in [ALICE, "bob@proseware.test"] {
            let mail = daemon.maildir(mailbox).wait_for(subject);
            assert!(mail.body() == body.as_bytes(), "{subject} is another when it arrives");
        }
    }
    // Exim marks a delivery by BDAT with K.
    let log = exim.log();
    let deliveries: Vec<&str> = log.lines().filter(|line| line.contains(" => ")).collect();
    assert!(!deliveries.is_empty() && deliveries.iter().all(|line| line.contains(" K ")), "{log}");
}

/// A Postfix instance in a folder of its own, for adatum.test, which sends everything else to the daemon.
struct Postfix {
    daemon: Daemon,
    address: SocketAddr,
    folder: TempDir,
}

impl Postfix {
    /// `None` where it is not installed or may not be started.
    fn start(setup: impl Fn(SocketAddr) -> Setup) -> Option<Self> {
        mail_servers::postfix()?;
        let address = SocketAddr::from((loopback(), 2525));
        let setup = setup(address);
        setup.dns().mx("adatum.test", &[(10, "mx.adatum.test")]);
        setup.dns().a("mx.adatum.test", ip(address));
        let daemon = setup.start();
        let folder = tempfile::Builder::new().prefix("postern-postfix-").tempdir().unwrap();
        let postfix = Self { daemon, address, folder };
        postfix.write_files();
        postfix.run("start");
        Some(postfix)
    }

    fn write_files(&self) {
        let folder = self.folder.path();
        // Its processes run as users of their own, who must get in here.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["etc", "queue", "data", "mail"] {
            fs::create_dir(folder.join(name)).unwrap();
        }
        let (user, group) = mail_servers::owner_of("postfix");
        for name in ["data", "mail"] {
            chown(folder.join(name), Some(user), Some(group)).unwrap();
        }
        let identity = Identity::new(&["mx.adatum.test"]);
        fs::write(folder.join("etc/cert.pem"), identity.certificate_pem).unwrap();
        fs::write(folder.join("etc/key.pem"), identity.key_pem).unwrap();
        fs::write(folder.join("etc/mailboxes"), "carol@adatum.test carol/\n").unwrap();
        fs::write(folder.join("etc/main.cf"), self.main_cf(user, group)).unwrap();
        fs::write(folder.join("etc/master.cf"), mail_servers::postfix_services(self.address)).unwrap();
    }

    fn main_cf(&self, user: u32, group: u32) -> String {
        let (folder, relay) = (self.folder.path().display(), self.daemon.mx());
        format!(
            "compatibility_level = 3.6\n\
             queue_directory = {folder}/queue\n\
             data_directory = {folder}/data\n\
             maillog_file = {folder}/log\n\
             maillog_file_prefixes = /tmp, {folder}\n\
             myhostname = mx.adatum.test\n\
             mydestination =\n\
             inet_interfaces = all\n\
             inet_protocols = ipv4\n\
             mynetworks = 127.0.0.0/8\n\
             alias_maps =\n\
             smtpd_peername_lookup = no\n\
             smtpd_tls_cert_file = {folder}/etc/cert.pem\n\
             smtpd_tls_key_file = {folder}/etc/key.pem\n\
             smtpd_tls_security_level = may\n\
             smtpd_tls_received_header = yes\n\
             virtual_mailbox_domains = adatum.test\n\
             virtual_mailbox_base = {folder}/mail\n\
             virtual_mailbox_maps = texthash:{folder}/etc/mailboxes\n\
             virtual_minimum_uid = 1\n\
             virtual_uid_maps = static:{user}\n\
             virtual_gid_maps = static:{group}\n\
             relayhost = [{}]:{}\n\
             smtp_tls_security_level = encrypt\n\
             smtp_connection_cache_on_demand = yes\n\
             bounce_queue_lifetime = 1h\n",
            relay.ip(),
            relay.port(),
        )
    }

    fn run(&self, verb: &str) {
        let program = installed("postfix").unwrap_or_else(|| PathBuf::from("/usr/sbin/postfix"));
        let config = self.folder.path().join("etc");
        let output = Command::new(program).arg("-c").arg(config).arg(verb).output().unwrap();
        assert!(output.status.success(), "postfix {verb}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn mailbox(&self, name: &str) -> Maildir {
        Maildir(self.folder.path().join("mail").join(name))
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            say(&format!("--- log of Postfix ---\n{log}"));
        }
        self.run("stop");
    }
}

fn ip(address: SocketAddr) -> Ipv4Addr {
    match address {
        SocketAddr::V4(address) => *address.ip(),
        SocketAddr::V6(_) => panic!("peers are on 127/8"),
    }
}
