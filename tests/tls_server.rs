//! TLS of the server: which certificate a client gets, how renewed ones come into use, who may resume, what is spoken.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::{ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;

use crate::harness::client::message;
use crate::harness::daemon::PASSWORD;
use crate::harness::mail_servers::peer;
use crate::harness::tls::{Asked, Identity, client_config};
use crate::harness::{Client, Daemon, Setup, eventually, installed};

const HOST: &str = "mail.proseware.test";
const ALICE: &str = "alice@proseware.test";
const DAY: Duration = Duration::from_secs(86_400);

fn put(daemon: &Daemon, identity: &Identity) {
    fs::write(daemon.folder().join("cert.pem"), &identity.certificate_pem).unwrap();
    fs::write(daemon.folder().join("key.pem"), &identity.key_pem).unwrap();
}

/// What a new client is shown.
fn shown(daemon: &Daemon) -> Vec<u8> {
    Client::connect_tls(daemon.submissions()).server_certificate()
}

fn status(daemon: &Daemon) -> String {
    daemon.ctl(&["status"]).stdout
}

/// The value of a line of the metrics that begins so.
fn metric(daemon: &Daemon, beginning: &str) -> f64 {
    let text = daemon.ctl(&["metrics"]).stdout;
    let line = text.lines().find(|line| line.starts_with(beginning));
    let line = line.unwrap_or_else(|| panic!("{beginning} is not in\n{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn each_name_has_its_certificate() {
    let setup = Setup::new();
    let adatum = Identity::new(&["mx.adatum.test", "*.in.adatum.test"]);
    fs::write(setup.folder().join("adatum.pem"), &adatum.certificate_pem).unwrap();
    fs::write(setup.folder().join("adatum.key"), &adatum.key_pem).unwrap();
    let daemon =
        setup.with("[[tls.certificates]]\ncertificate = \"adatum.pem\"\nkey = \"adatum.key\"").start();
    let shown_for = |name: &str| {
        Client::connect_tls_with(daemon.submissions(), client_config(), name).server_certificate()
    };
    // The client verifies the name.
    assert_eq!(shown_for("mx.adatum.test"), adatum.der());
    assert_eq!(shown_for("a.in.adatum.test"), adatum.der());
    assert_ne!(shown_for(HOST), adatum.der());
    // An address is no name that could be asked for (RFC 6066 §3).
    let address = daemon.submissions().ip().to_string();
    assert_eq!(shown_for(&address), shown_for(HOST));
}

#[test]
fn renewed_files_are_taken_into_use_and_no_session_is_dropped() {
    let daemon = Setup::new().with("[tls]\nreload_interval = \"50ms\"").start();
    let mut open = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    open.expect(&format!("MAIL FROM:<{ALICE}>"), 250);
    let renewed = Identity::new(&[HOST]);
    put(&daemon, &renewed);
    daemon.wait_for("certificate-reloaded", |line| line["name"] == HOST);
    eventually("the renewed certificate", || (shown(&daemon) == renewed.der()).then_some(()));
    // In the middle of its transaction, under the certificate of before.
    assert_ne!(open.server_certificate(), renewed.der());
    open.expect("RCPT TO:<bob@proseware.test>", 250);
    assert_eq!(open.content(&message(ALICE, "bob@proseware.test", "under-way", "x")).code, 250);
    daemon.maildir("bob@proseware.test").wait_for("under-way");
    assert!(metric(&daemon, "postern_tls_certificate_reloads_total{result=\"ok\"}") >= 1.0);
}

#[test]
fn a_bad_pair_keeps_the_one_before_until_there_is_a_good_one() {
    let daemon = Setup::new().with("[tls]\nreload_interval = \"50ms\"").start();
    let before = shown(&daemon);
    let (other, last) = (Identity::new(&[HOST]), Identity::new(&[HOST]));
    let certificate = daemon.folder().join("cert.pem");
    let half = &other.certificate_pem[..other.certificate_pem.len() / 2];
    for (content, problem) in [
        (&*other.certificate_pem, "key.pem is not the key of the first certificate in"),
        (half, "the file ends in the middle"),
        ("", "no certificate in it"),
    ] {
        fs::write(&certificate, content).unwrap();
        let event = daemon.wait_for("certificate-not-reloaded", |line| line.to_string().contains(problem));
        assert!(event["help"].is_string(), "{event}");
        assert_eq!(shown(&daemon), before, "{problem}");
        eventually("the warning", || {
            let text = status(&daemon);
            (text.contains("renewed files are not in use") && text.contains(problem)).then_some(())
        });
    }
    assert!(metric(&daemon, "postern_tls_certificate_reloads_total{result=\"failed\"}") >= 3.0);
    put(&daemon, &last);
    eventually("the good certificate", || (shown(&daemon) == last.der()).then_some(()));
    eventually("no warning", || (!status(&daemon).contains("are not in use")).then_some(()));
}

#[test]
fn a_reload_takes_renewed_files_where_nobody_looks_for_them() {
    let daemon = Setup::new().with("[tls]\nreload_interval = \"0s\"").start();
    let before = shown(&daemon);
    let renewed = Identity::new(&[HOST]);
    fs::write(daemon.folder().join("cert.pem"), &renewed.certificate_pem).unwrap();
    let refused = daemon.ctl(&["reload"]);
    assert!(refused.code == 1 && refused.stderr.contains("is not the key of"), "{refused:?}");
    assert_eq!(shown(&daemon), before);
    assert!(status(&daemon).contains("the last reload failed"));
    assert_eq!(metric(&daemon, "postern_tls_certificate_reloads_total{result=\"failed\"}"), 1.0);
    put(&daemon, &renewed);
    daemon.ask(&["reload"]);
    assert_eq!(shown(&daemon), renewed.der());
}

#[test]
fn a_key_of_another_certificate_is_found_before_the_start() {
    let daemon = Setup::new().prepare();
    fs::write(daemon.folder().join("cert.pem"), Identity::new(&[HOST]).certificate_pem).unwrap();
    let output = daemon.ctl(&["config", "check"]);
    assert_eq!(output.code, 1, "{output:?}");
    for part in ["key.pem is not the key of the first certificate in", "cert.pem", "of one renewal"] {
        assert!(output.stderr.contains(part), "{part}: {output:?}");
    }
    let check = Command::new(env!("CARGO_BIN_EXE_posternd"))
        .args(["check", "--config"])
        .arg(daemon.config())
        .output()
        .unwrap();
    assert_eq!(check.status.code(), Some(78), "{check:?}");
}

#[test]
fn sessions_are_resumed_at_other_listeners_and_behind_a_renewal() {
    let daemon = Setup::new().start();
    let config = client_config();
    let connect = || {
        let mut client = Client::connect_tls_with(daemon.submissions(), config.clone(), HOST);
        client.expect("NOOP", 250);
        client.is_resumed()
    };
    assert!(!connect());
    assert!(connect());
    let mut mx = Client::connect(daemon.mx());
    mx.ehlo();
    mx.expect("STARTTLS", 220);
    mx.handshake_with(config.clone());
    assert!(mx.is_resumed());
    mx.ehlo();
    put(&daemon, &Identity::new(&[HOST]));
    daemon.ask(&["reload"]);
    assert!(connect());
    daemon.change_config("[tls]\nsession_tickets = false");
    daemon.ask(&["reload"]);
    assert!(!connect());
    assert!(!connect());
}

/// Runs `openssl s_client` for one short session, and answers all that it printed.
fn s_client(openssl: &PathBuf, address: SocketAddr, arguments: &[&str]) -> String {
    let mut child = Command::new(openssl)
        .args(["s_client", "-connect", &address.to_string(), "-servername", HOST, "-ign_eof"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Small letters: large ones are commands of s_client. It may have ended already.
    let _ = child.stdin.take().unwrap().write_all(b"noop\r\nquit\r\n");
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn openssl_resumes_sessions_of_both_versions() {
    let Some(openssl) = peer("openssl", installed("openssl")) else { return };
    let daemon = Setup::new().start();
    for version in ["-tls1_2", "-tls1_3"] {
        let session = daemon.folder().join("session.pem");
        let session = session.to_str().unwrap();
        let first = s_client(&openssl, daemon.submissions(), &[version, "-sess_out", session]);
        assert!(first.contains("New, TLSv1."), "{first}");
        let second = s_client(&openssl, daemon.submissions(), &[version, "-sess_in", session]);
        assert!(second.contains("Reused, TLSv1."), "{second}");
    }
}

#[test]
fn versions_and_ciphers_are_those_of_the_configuration() {
    let Some(openssl) = peer("openssl", installed("openssl")) else { return };
    let tls = "[tls]\nmin_version = \"1.2\"\nciphers = [\"ECDHE-ECDSA-CHACHA20-POLY1305\", \"TLS_AES_128_GCM_SHA256\"]\n\
               groups = [\"P-384\"]";
    let daemon = Setup::new().with(tls).start();
    let old = s_client(&openssl, daemon.submissions(), &["-tls1_2"]);
    assert!(old.contains("Cipher is ECDHE-ECDSA-CHACHA20-POLY1305"), "{old}");
    let new = s_client(&openssl, daemon.submissions(), &["-tls1_3"]);
    assert!(new.contains("Cipher is TLS_AES_128_GCM_SHA256") && new.contains("secp384r1"), "{new}");
    daemon.change_config("[tls]\nmin_version = \"1.3\"");
    daemon.ask(&["reload"]);
    let refused = s_client(&openssl, daemon.submissions(), &["-tls1_2"]);
    assert!(refused.contains("alert protocol version"), "{refused}");
    daemon.change_config("[tls]\nciphers = [\"AES256-SHA\"]");
    let output = daemon.ctl(&["config", "check"]);
    assert!(output.code == 1 && output.stderr.contains("\"AES256-SHA\" is not known"), "{output:?}");
    assert!(output.stderr.contains("TLS_AES_256_GCM_SHA384"), "{output:?}");
}

#[test]
fn certificates_that_end_are_told_of() {
    let daemon = Setup::new().prepare();
    put(&daemon, &Identity::ending(&[HOST], 10 * DAY));
    let mut daemon = daemon;
    daemon.start();
    let event = daemon.wait_for("certificate-ends-soon", |_| true);
    assert!(event.to_string().contains("in 9 days") || event.to_string().contains("in 10 days"), "{event}");
    assert!(status(&daemon).contains("(mail.proseware.test) ends in"), "{}", status(&daemon));
    let end = metric(&daemon, "postern_tls_certificate_expiry_timestamp_seconds{");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((end - now - 10.0 * DAY.as_secs_f64()).abs() < 60.0, "{end} {now}");
    let doctor = daemon.ctl(&["doctor", "settings"]).stdout;
    assert!(doctor.contains("it expires soon"), "{doctor}");

    daemon.change_config("[tls]\nexpiry_warning = \"5d\"");
    daemon.ask(&["reload"]);
    assert!(!status(&daemon).contains("ends in"), "{}", status(&daemon));

    // It is used all the same: most servers do not look, and without it they would send in clear.
    put(&daemon, &Identity::ending(&[HOST], Duration::ZERO));
    let reloaded = daemon.ctl(&["reload"]);
    assert!(reloaded.code == 0 && reloaded.stdout.contains("expired at"), "{reloaded:?}");
    daemon.wait_for("certificate-expired", |line| line["level"] == "ERROR");
    assert!(status(&daemon).contains("expired at"));
    assert!(daemon.ctl(&["doctor", "settings"]).stdout.contains("it expired at"));
}

/// `posternd check` and `posternctl config check` of a server that need not run: what both say.
fn checked(daemon: &Daemon) -> String {
    let output = daemon.ctl(&["config", "check"]);
    assert!(output.code == 0 && output.stdout.contains("ok:"), "{output:?}");
    let of_daemon = Command::new(env!("CARGO_BIN_EXE_posternd"))
        .args(["check", "--config"])
        .arg(daemon.config())
        .output()
        .unwrap();
    assert!(of_daemon.status.success(), "{of_daemon:?}");
    // Commands to be pasted name the configuration that the operator named.
    let said = output.stderr.replace(&format!(" --config {}", daemon.config().display()), "");
    assert_eq!(said, String::from_utf8(of_daemon.stderr).unwrap());
    said
}

#[test]
fn a_check_warns_of_certificates_that_clients_will_refuse() {
    let daemon = Setup::new().prepare();
    let good = checked(&daemon);
    assert!(!good.contains("[tls]"), "{good}");

    put(&daemon, &Identity::ending(&[HOST], 10 * DAY));
    let ending = checked(&daemon);
    assert!(ending.contains("warning: [tls]: the certificate ") && ending.contains("ends in"), "{ending}");
    assert!(ending.contains("= help: get a certificate for mail.proseware.test"), "{ending}");
    daemon.change_config("[tls]\nexpiry_warning = \"5d\"");
    assert!(!checked(&daemon).contains("[tls]"), "{}", checked(&daemon));

    put(&daemon, &Identity::ending(&[HOST], Duration::ZERO));
    assert!(checked(&daemon).contains("(mail.proseware.test) expired at"), "{}", checked(&daemon));

    put(&daemon, &Identity::new(&["www.proseware.test"]));
    let other = checked(&daemon);
    assert!(
        other.contains("is for www.proseware.test, not for mail.proseware.test: mail programs refuse it"),
        "{other}"
    );
    let answer = daemon.ctl(&["config", "check", "--json"]);
    assert!(answer.code == 0 && answer.stdout.contains(r#""severity":"warning""#), "{answer:?}");
}

#[test]
fn a_certificate_beside_the_main_one_may_be_the_one_for_the_host_name() {
    let setup = Setup::new();
    let own = Identity::new(&[HOST]);
    fs::write(setup.folder().join("own.pem"), &own.certificate_pem).unwrap();
    fs::write(setup.folder().join("own.key"), &own.key_pem).unwrap();
    let daemon = setup.with("[[tls.certificates]]\ncertificate = \"own.pem\"\nkey = \"own.key\"").prepare();
    put(&daemon, &Identity::new(&["www.proseware.test"]));
    assert!(!checked(&daemon).contains("[tls]"), "{}", checked(&daemon));
}

#[test]
fn clients_are_asked_for_a_certificate_only_where_it_is_of_use() {
    let gateway = Identity::new(&["gw.client.test"]);
    let asked_at = |address: SocketAddr, starttls: bool| {
        let asked = Arc::new(Asked::default());
        let mut client = match starttls {
            true => {
                let mut client = Client::connect(address);
                client.expect("STARTTLS", 220);
                client.handshake_with(asked.client_config());
                client
            }
            false => Client::connect_tls_with(address, asked.client_config(), HOST),
        };
        client.ehlo();
        asked.was_asked()
    };
    let page = "[report]\nlisten = \"127.0.0.1:0\"\nurl = \"https://mail.proseware.test/r/\"\ntls = true";
    let daemon = Setup::new()
        .with(page)
        .account("carl@proseware.test", &format!("certificates = [\"{}\"]", gateway.fingerprint()))
        .start();
    // A login by certificate is of use where logins are taken.
    assert!(!asked_at(daemon.mx(), true));
    assert!(asked_at(daemon.submission(), true) && asked_at(daemon.submissions(), false));
    // Relaying by certificate is of use everywhere.
    let grant =
        format!("[[relay.certificates]]\nsha256 = \"{}\"\nlabel = \"gateway\"", gateway.fingerprint());
    daemon.change_config(&grant);
    daemon.ask(&["reload"]);
    assert!(asked_at(daemon.mx(), true));
    // Browsers would bother their users with the question.
    let asked = Arc::new(Asked::default());
    let name = ServerName::try_from(HOST).unwrap();
    let session = ClientConnection::new(asked.client_config(), name).unwrap();
    let mut stream = StreamOwned::new(session, TcpStream::connect(daemon.report()).unwrap());
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).unwrap();
    }
    assert!(!asked.was_asked());
}

#[test]
fn what_is_sent_ahead_of_the_handshake_is_thrown_away() {
    let daemon = Setup::new().start();
    let secret = BASE64_STANDARD.encode(format!("\0{ALICE}\0{PASSWORD}"));
    let injections = [
        format!("AUTH PLAIN {secret}\r\n"),
        format!("EHLO client.test\r\nAUTH PLAIN {secret}\r\nMAIL FROM:<{ALICE}>\r\n"),
        "EHLO client.test\r\nMAIL FROM:<a@client.test>\r\nRCPT TO:<bob@proseware.test>\r\nBDAT 6 LAST\r\nA: b\r\n"
            .to_owned(),
    ];
    for injected in injections {
        // With and without EHLO in clear.
        for greets in [true, false] {
            let mut client = Client::connect(daemon.submission());
            if greets {
                client.ehlo();
            }
            client.send(format!("STARTTLS\r\n{injected}").as_bytes());
            client.expect_reply(220);
            client.handshake();
            // Were it obeyed, its answers would come first, and EHLO would be known.
            client.expect(&format!("MAIL FROM:<{ALICE}>"), 503);
            client.expect("BDAT 0 LAST", 503);
            client.ehlo();
            // Nobody has logged in.
            client.expect(&format!("MAIL FROM:<{ALICE}>"), 530);
            client.expect("STARTTLS", 503);
        }
    }
    assert!(daemon.queue().is_empty());
    assert_eq!(daemon.logged("login"), 0);
}
