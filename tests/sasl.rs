//! SASL: SCRAM with and without channel binding, client certificates, hashes of other systems; and who tries
//! to get round them.

use std::fs;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use aws_lc_rs::{hmac, pbkdf2};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::Value as Json;

use crate::harness::client::{Reply, message};
use crate::harness::daemon::PASSWORD;
use crate::harness::tls::Identity;
use crate::harness::{Client, Daemon, Setup};

const ALICE: &str = "alice@proseware.test";
const BOB: &str = "bob@proseware.test";
const CARL: &str = "carl@proseware.test";

/// Under TLS, after EHLO; and what the server offers for AUTH.
fn client(daemon: &Daemon) -> (Client, String) {
    let mut client = Client::connect(daemon.submission());
    client.ehlo();
    client.start_tls();
    let offered = offered(&client.ehlo());
    (client, offered)
}

fn offered(reply: &Reply) -> String {
    reply.lines.iter().find_map(|line| line.strip_prefix("AUTH ")).unwrap_or_default().to_owned()
}

/// Sets the password anew, which writes a verifier.
fn set_password(daemon: &Daemon, login: &str) {
    let output =
        daemon.ctl_with_input(&["account", "password", login, "--password-stdin"], &format!("{PASSWORD}\n"));
    assert_eq!(output.code, 0, "{output:?}");
}

fn logged(daemon: &Daemon, event: &str, login: &str, mechanism: &str) -> Json {
    daemon.wait_for(event, |line| line["login"] == login && line["mechanism"] == mechanism)
}

#[track_caller]
fn assert_says(reply: &Reply, code: u16, words: &[&str]) {
    let text = reply.text();
    assert_eq!(reply.code, code, "{text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text:?}");
    }
}

#[test]
fn scram_is_offered_when_every_login_can_use_it_and_binds_to_the_session() {
    let daemon = Setup::new().start();
    assert_eq!(client(&daemon).1, "PLAIN LOGIN");
    set_password(&daemon, ALICE);
    assert_eq!(client(&daemon).1, "PLAIN LOGIN", "bob could not log in with it");
    set_password(&daemon, BOB);
    assert_eq!(client(&daemon).1, "SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN");
    for (mechanism, header) in [
        ("SCRAM-SHA-256", "n,,"),
        ("SCRAM-SHA-256-PLUS", "p=tls-exporter,,"),
        ("SCRAM-SHA-256-PLUS", "p=tls-server-end-point,,"),
        ("SCRAM-SHA-256", "n,a=ALICE@proseware.test,"),
    ] {
        let (mut client, _) = client(&daemon);
        let scram = Scram { header, ..Scram::new(mechanism, ALICE) };
        assert_says(&scram.log_in(&mut client), 235, &["2.7.0"]);
        assert_eq!(offered(&client.ehlo()), "", "who has logged in is offered nothing");
        assert_eq!(client.deliver(ALICE, &[BOB], &message(ALICE, BOB, "by-scram", "x")).code, 250);
        logged(&daemon, "login", ALICE, mechanism);
    }
    let audit = daemon.ctl(&["audit"]);
    assert!(audit.stdout.contains("account-password"), "{audit:?}");
    // A password of its own for a program: SCRAM could not tell which one is meant.
    daemon.ask(&["account", "app-password", "add", ALICE, "phone"]);
    assert_eq!(client(&daemon).1, "PLAIN LOGIN");
    assert!(client(&daemon).0.command("AUTH SCRAM-SHA-256").text().starts_with("504 5.5.4"));
}

#[test]
fn without_a_verifier_a_login_looks_like_one_that_does_not_exist() {
    let mut daemon = Setup::new()
        .with("[auth]\nmechanisms = [\"scram-sha-256\", \"plain\"]")
        .with("[auth.guessing]\nban_loopback = true\nmax_failures = 8\ndelay = \"1ms\"")
        .start();
    set_password(&daemon, ALICE);
    let (mut open, offered) = client(&daemon);
    assert_eq!(offered, "SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN");
    let wrong = open.auth_plain(ALICE, "guess").without_reference();
    assert!(wrong.starts_with("535 5.7.8"), "{wrong}");
    for (login, password) in [(ALICE, "guess"), (BOB, PASSWORD), ("nobody", PASSWORD), ("nobody", "")] {
        let scram = Scram { password, ..Scram::new("SCRAM-SHA-256", login) };
        assert_eq!(scram.log_in(&mut open).without_reference(), wrong, "{login}");
    }
    let told = logged(&daemon, "login-failed", BOB, "SCRAM-SHA-256");
    assert!(told["why"].as_str().unwrap().contains("account password"), "{told}");
    // The questions look alike, and stay the same over a restart.
    let ask = |daemon: &Daemon, login| {
        let (mut client, _) = client(daemon);
        let challenge = Scram::new("SCRAM-SHA-256", login).begin(&mut client);
        assert_eq!(client.command("*").code, 501);
        let fields: Vec<String> = challenge.split(',').skip(1).map(str::to_owned).collect();
        (fields[0].clone(), fields[1].clone())
    };
    let before: Vec<_> = [ALICE, BOB, "nobody"].iter().map(|login| ask(&daemon, login)).collect();
    for (salt, iterations) in &before {
        assert_eq!((salt.len(), iterations), (before[0].0.len(), &before[0].1));
    }
    daemon.restart();
    let after: Vec<_> = [ALICE, BOB, "nobody"].iter().map(|login| ask(&daemon, login)).collect();
    assert_eq!(before, after);
    // Guessing is guessing, whichever mechanism it goes by.
    let (mut guesser, _) = client(&daemon);
    for _ in 0..8 {
        let reply = Scram { password: "guess", ..Scram::new("SCRAM-SHA-256", ALICE) }.log_in(&mut guesser);
        assert_eq!(reply.code, 535);
    }
    daemon.wait_for("banned", |line| {
        line["network"].as_str().is_some_and(|network| network.starts_with("127."))
    });
    assert_says(&Scram::new("SCRAM-SHA-256", ALICE).log_in(&mut guesser), 421, &["4.7.0"]);
}

#[test]
fn who_sits_in_between_cannot_pass_a_login_on() {
    let daemon = Setup::new().with("auth.mechanisms = [\"scram-sha-256\"]").start();
    set_password(&daemon, ALICE);
    let (mut open, _) = client(&daemon);
    let with = |mechanism, header| Scram { header, ..Scram::new(mechanism, ALICE) };
    // The client can do channel binding and has not seen it offered: somebody took it out.
    let refused = with("SCRAM-SHA-256", "y,,").log_in(&mut open);
    assert_says(&refused, 535, &["5.7.0", "channel binding is offered here"]);
    daemon.wait_for("login-downgraded", |line| line["mechanism"] == "SCRAM-SHA-256");
    // Bound to the session that the client has with somebody else.
    let foreign = Scram { data: Some(vec![7; 32]), ..with("SCRAM-SHA-256-PLUS", "p=tls-exporter,,") };
    assert_says(&foreign.log_in(&mut open), 535, &["5.7.8", "wrong user name or password"]);
    let told = logged(&daemon, "login-failed", ALICE, "SCRAM-SHA-256-PLUS");
    assert!(told["why"].as_str().unwrap().contains("another TLS session"), "{told}");
    let unknown = with("SCRAM-SHA-256-PLUS", "p=tls-unique,,").log_in(&mut open);
    assert_says(&unknown, 501, &["5.5.4", "tls-exporter"]);
    assert_says(&with("SCRAM-SHA-256-PLUS", "n,,").log_in(&mut open), 501, &["5.5.2"]);
    assert_says(&with("SCRAM-SHA-256", "n,a=bob@proseware.test,").log_in(&mut open), 535, &["5.7.8"]);
    assert_says(&with("SCRAM-SHA-256-PLUS", "p=tls-exporter,,").log_in(&mut open), 235, &[]);
}

#[test]
fn the_rules_about_a_login_are_asked_after_its_proof() {
    let suspended = "state = \"suspended\"\nstate_reason = \"spam on Friday\"";
    let daemon = Setup::new().with("auth.mechanisms = [\"scram-sha-256\"]").account(CARL, suspended).start();
    set_password(&daemon, CARL);
    let (mut open, _) = client(&daemon);
    let guess = Scram { password: "guess", ..Scram::new("SCRAM-SHA-256", CARL) }.log_in(&mut open);
    assert_says(&guess, 535, &["5.7.8"]);
    let refused = Scram::new("SCRAM-SHA-256", CARL).log_in(&mut open);
    assert_says(&refused, 535, &["5.7.13", "carl@proseware.test is suspended", "(ref "]);
    assert_says(&open.command("MAIL FROM:<carl@proseware.test>"), 530, &["5.7.0"]);
}

#[test]
fn scram_with_sha_1_is_an_option() {
    let daemon = Setup::new().with("auth.mechanisms = [\"scram-sha-1\", \"plain\"]").start();
    set_password(&daemon, ALICE);
    let file = fs::read_to_string(daemon.folder().join("accounts.toml")).unwrap();
    assert!(file.contains("scram_sha1 = \"SCRAM-SHA-1$") && !file.contains("SCRAM-SHA-256"), "{file}");
    let (mut open, offered) = client(&daemon);
    assert_eq!(offered, "SCRAM-SHA-1-PLUS SCRAM-SHA-1 PLAIN");
    assert_says(
        &Scram::new("SCRAM-SHA-256", ALICE).log_in(&mut open),
        504,
        &["SCRAM-SHA-1 and PLAIN are known"],
    );
    assert_says(&Scram::new("SCRAM-SHA-1", ALICE).log_in(&mut open), 235, &[]);
}

#[test]
fn a_password_that_programs_write_differently_has_no_verifier() {
    let daemon = Setup::new().start();
    let password = "caf\u{e9} \u{2014} au lait";
    let changed =
        daemon.ctl_with_input(&["account", "password", ALICE, "--password-stdin"], &format!("{password}\n"));
    assert!(changed.code == 0 && changed.stderr.contains("beyond ASCII"), "{changed:?}");
    assert_says(&client(&daemon).0.auth_plain(ALICE, password), 235, &[]);
    assert_says(&client(&daemon).0.auth_plain(ALICE, PASSWORD), 535, &[]);
    let unknown = daemon.ctl_with_input(&["account", "password", "nobody", "--generate"], "");
    assert!(unknown.code == 1 && unknown.stderr.contains("account list"), "{unknown:?}");
    let weak = daemon.ctl_with_input(&["account", "password", ALICE, "--password-stdin"], "short\n");
    assert!(weak.code == 2 && weak.stderr.contains("--allow-weak"), "{weak:?}");
}

#[test]
fn a_client_certificate_is_a_login_where_one_lists_it() {
    let (printer, shared) = (Identity::new(&["printer.client.test"]), Identity::new(&["shared.client.test"]));
    let other = Identity::new(&["other.client.test"]);
    let fingerprint = printer.fingerprint();
    let setup = Setup::new()
        .account(CARL, &format!("certificates = [\"{fingerprint}\", \"shared.client.test\"]"))
        .account("dora", "certificates = [\"shared.client.test\"]\nnetworks = [\"192.0.2.0/24\"]");
    let ca = setup.folder().join("ca.pem");
    let daemon = setup.with(&format!("[tls]\nclient_ca = \"{}\"", ca.display())).start();
    let showing = |identity: &Identity| {
        let mut client = Client::connect(daemon.submission());
        client.ehlo();
        client.start_tls_showing(identity);
        let offered = offered(&client.ehlo());
        (client, offered)
    };
    // Whoever shows none, or one that no login lists, hears nothing of it.
    for (mut client, offered) in [client(&daemon), showing(&other)] {
        assert_eq!(offered, "PLAIN LOGIN");
        assert_says(&client.command("AUTH EXTERNAL ="), 504, &["5.5.4"]);
    }
    let (mut open, offered) = showing(&printer);
    assert_eq!(offered, "PLAIN LOGIN EXTERNAL");
    assert_says(&open.command("AUTH EXTERNAL"), 334, &[]);
    assert_says(&open.command("*"), 501, &["5.7.0"]);
    assert_says(&open.command("AUTH EXTERNAL \u{2a}"), 501, &["5.7.0"]);
    assert_says(&open.command("AUTH EXTERNAL AAAA"), 501, &["5.5.2"]);
    let as_name = |name: &str| format!("AUTH EXTERNAL {}", BASE64_STANDARD.encode(name));
    assert_says(&open.command(&as_name(ALICE)), 535, &["5.7.8", "wrong user name or password"]);
    let told = logged(&daemon, "login-failed", ALICE, "EXTERNAL");
    assert!(told["why"].as_str().unwrap().contains("does not list"), "{told}");
    assert_says(&open.command("AUTH EXTERNAL ="), 235, &["2.7.0"]);
    assert_eq!(open.deliver(CARL, &[BOB], &message(CARL, BOB, "by-certificate", "x")).code, 250);
    let received = daemon.maildir(BOB).wait_for("by-certificate").field("Received");
    assert!(received.contains("ESMTPSA"), "{received}");
    logged(&daemon, "login", CARL, "EXTERNAL");

    // A certificate of several logins is none of them until one is named; then the rules of that one hold.
    let (mut open, _) = showing(&shared);
    assert_says(&open.command("AUTH EXTERNAL ="), 535, &["5.7.8"]);
    assert_says(&open.command(&as_name("dora")), 535, &["5.7.1", "dora", "(ref "]);
    assert_says(&open.command(&as_name("CARL@proseware.test")), 235, &[]);
    // Port 25 takes no logins, whatever is shown.
    let mut mx = Client::connect(daemon.mx());
    mx.ehlo();
    mx.start_tls_showing(&printer);
    assert_eq!(self::offered(&mx.ehlo()), "");
    assert_says(&mx.command("AUTH EXTERNAL ="), 503, &["5.5.1"]);
}

#[test]
fn a_login_that_has_certificates_needs_no_password() {
    let printer = Identity::new(&["printer.client.test"]);
    let daemon = Setup::new().prepare();
    let file = daemon.folder().join("accounts.toml");
    let login = format!("[[account]]\nname = \"printer\"\ncertificates = [\"{}\"]\n", printer.fingerprint());
    fs::write(&file, &login).unwrap();
    let mut daemon = daemon;
    daemon.start();
    let (mut open, _) = client(&daemon);
    assert_says(&open.auth_plain("printer", ""), 535, &["5.7.8"]);
    let mut open = Client::connect(daemon.submission());
    open.ehlo();
    open.start_tls_showing(&printer);
    open.ehlo();
    assert_says(&open.command("AUTH EXTERNAL"), 334, &[]);
    assert_says(&open.command(""), 235, &[]);
    // Without either nobody could log in, and names count only where an authority has signed them.
    for (keys, word) in [
        ("", "has no password"),
        ("certificates = [\"gw.client.test\"]", "an authority has signed it"),
        ("certificates = [\"not a name\"]", "no SHA-256 fingerprint"),
    ] {
        fs::write(&file, format!("[[account]]\nname = \"printer\"\n{keys}\n")).unwrap();
        let checked = daemon.ctl(&["config", "check"]);
        assert!(checked.code != 0 && format!("{checked:?}").contains(word), "{keys}: {checked:?}");
    }
}

#[test]
fn hashes_of_other_systems_are_passwords() {
    // Of "correct horse", made with crypt(3).
    let hashes = [
        ("blowfish", "$2y$05$c2FsdHNhbHRzYWx0c2FsdO5ZIUSFkJXD56sUHLdpb5o61YZFYQXgq"),
        ("sha256", "$5$saltstring$vc6YOOogU4kWVvwga8e9zTFgKcy4tb5LaPxIiPJzqEC"),
        (
            "sha512",
            "$6$saltstring$.r0X7ub5wGR2v4Xz7svCIozfnlorFh19V89t8KC9Umd81uGhFgsyTRNyzQDXDIm17fFcR9z3z7oBNdsyYBbtm/",
        ),
        ("yescrypt", "$y$j75$F5Jx5fExrKuPp53xLKQ..1$aEFV0VcEI5Jx.rzUhLbfRgipTKSbuNF0ldHPkDpnco3"),
    ];
    let mut daemon = Setup::new().prepare();
    let logins = hashes.map(|(name, hash)| format!("[[account]]\nname = {name:?}\npassword = {hash:?}\n"));
    let file = daemon.folder().join("accounts.toml");
    fs::write(&file, logins.concat()).unwrap();
    daemon.start();
    for (name, _) in hashes {
        assert_says(&client(&daemon).0.auth_plain(name, "correct horse"), 235, &[]);
        assert_says(&client(&daemon).0.auth_plain(name, "Correct horse"), 535, &["5.7.8"]);
    }
    // The next password is hashed as all of ours are, and has a verifier.
    set_password(&daemon, "sha256");
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("$argon2id$") && text.contains("SCRAM-SHA-256$") && !text.contains("$5$"),
        "{text}"
    );
    assert_says(&client(&daemon).0.auth_plain("sha256", PASSWORD), 235, &[]);
    let costly = "$6$rounds=999999999$saltstring$".to_owned() + &"a".repeat(86);
    fs::write(&file, format!("[[account]]\nname = \"x\"\npassword = {costly:?}\n")).unwrap();
    let checked = daemon.ctl(&["config", "check"]);
    assert!(checked.code != 0 && format!("{checked:?}").contains("cannot be worked with"), "{checked:?}");
}

/// A client of SCRAM (RFC 5802), written from its side: it knows the password, and checks the server too.
struct Scram<'a> {
    mechanism: &'a str,
    /// What it says of channel binding, and as whom it wants to act.
    header: &'a str,
    /// What it takes for the data of the TLS session; left out: what they are.
    data: Option<Vec<u8>>,
    login: &'a str,
    password: &'a str,
}

const NONCE: &str = "fyko+d2lbbFgONRv9qkxdawL";

impl<'a> Scram<'a> {
    fn new(mechanism: &'a str, login: &'a str) -> Self {
        let header = if mechanism.ends_with("-PLUS") { "p=tls-exporter,," } else { "n,," };
        Self { mechanism, header, data: None, login, password: PASSWORD }
    }

    fn bare(&self) -> String {
        format!("n={},r={NONCE}", self.login)
    }

    /// Asks for the challenge, which must come.
    fn begin(&self, client: &mut Client) -> String {
        let first = BASE64_STANDARD.encode(format!("{}{}", self.header, self.bare()));
        let reply = client.expect(&format!("AUTH {} {first}", self.mechanism), 334);
        String::from_utf8(BASE64_STANDARD.decode(&reply.lines[0]).unwrap()).unwrap()
    }

    /// The whole exchange, or as much of it as the server takes.
    fn log_in(&self, client: &mut Client) -> Reply {
        let first = BASE64_STANDARD.encode(format!("{}{}", self.header, self.bare()));
        let reply = client.command(&format!("AUTH {} {first}", self.mechanism));
        if reply.code != 334 {
            return reply;
        }
        let challenge = String::from_utf8(BASE64_STANDARD.decode(&reply.lines[0]).unwrap()).unwrap();
        let (answer, expected) = self.answer(&challenge, client);
        let reply = client.command(&BASE64_STANDARD.encode(answer));
        if reply.code != 334 {
            return reply;
        }
        assert_eq!(
            reply.lines[0],
            BASE64_STANDARD.encode(format!("v={expected}")),
            "the server proves itself"
        );
        client.command("")
    }

    /// The last message, and what the server must answer.
    fn answer(&self, challenge: &str, client: &Client) -> (String, String) {
        let field = |name: &str| challenge.split(',').find_map(|field| field.strip_prefix(name)).unwrap();
        let (nonce, salt) = (field("r="), BASE64_STANDARD.decode(field("s=")).unwrap());
        assert!(nonce.starts_with(NONCE) && nonce.len() > NONCE.len());
        let keys = Keys::new(self.mechanism, self.password, &salt, field("i=").parse().unwrap());
        let data = self.data.clone().unwrap_or_else(|| match self.header.split(',').next() {
            Some("p=tls-exporter") => client.exported(b"EXPORTER-Channel-Binding"),
            Some("p=tls-server-end-point") => digest(&SHA256, &client.server_certificate()).as_ref().to_vec(),
            _ => Vec::new(),
        });
        let binding = BASE64_STANDARD.encode([self.header.as_bytes(), &data].concat());
        let without_proof = format!("c={binding},r={nonce}");
        let signed = format!("{},{challenge},{without_proof}", self.bare());
        let (proof, signature) = keys.sign(signed.as_bytes());
        (format!("{without_proof},p={proof}"), signature)
    }
}

struct Keys {
    hmac: hmac::Algorithm,
    hash: &'static aws_lc_rs::digest::Algorithm,
    salted: Vec<u8>,
}

impl Keys {
    fn new(mechanism: &str, password: &str, salt: &[u8], iterations: u32) -> Self {
        let (derivation, hmac, hash) =
            match mechanism.starts_with("SCRAM-SHA-1") && !mechanism.contains("256") {
                true => {
                    (pbkdf2::PBKDF2_HMAC_SHA1, hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &SHA1_FOR_LEGACY_USE_ONLY)
                }
                false => (pbkdf2::PBKDF2_HMAC_SHA256, hmac::HMAC_SHA256, &SHA256),
            };
        let mut salted = vec![0; hash.output_len()];
        pbkdf2::derive(derivation, iterations.try_into().unwrap(), salt, password.as_bytes(), &mut salted);
        Self { hmac, hash, salted }
    }

    fn hmac(&self, key: &[u8], text: &[u8]) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(self.hmac, key), text).as_ref().to_vec()
    }

    /// Our proof, and that of the server.
    fn sign(&self, signed: &[u8]) -> (String, String) {
        let client_key = self.hmac(&self.salted, b"Client Key");
        let signature = self.hmac(digest(self.hash, &client_key).as_ref(), signed);
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(one, other)| one ^ other).collect();
        let server = self.hmac(&self.hmac(&self.salted, b"Server Key"), signed);
        (BASE64_STANDARD.encode(proof), BASE64_STANDARD.encode(server))
    }
}
