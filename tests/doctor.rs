//! The checks of `posternctl doctor`: against our own daemon, Postfix, Exim, and servers that are wrong on purpose.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value as Json;

use crate::harness::ctl::Output;
use crate::harness::mail::contains;
use crate::harness::mail_servers::{Exim, Postfix};
use crate::harness::{Daemon, Setup, loopback, repository, say, skip};

/// Hardly anybody trusts it, and the tests of this file do not.
const STRANGER: &str = "127.0.0.9";
const PERCENT: &str = "percent";

/// `posternctl doctor relay` without a daemon of ours.
fn doctor(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_posternctl"))
        .args(["doctor", "relay"])
        .args(arguments)
        .output()
        .unwrap();
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The same for a server of a domain, quickly and for programs.
fn examine(address: SocketAddr, domain: &str, further: &[&str]) -> Output {
    let address = address.to_string();
    let fixed = [&*address, "--domain", domain, "--source", STRANGER, "--pause", "0s", "--json"];
    doctor(&[&fixed, further].concat())
}

/// The findings of a server, by trick; of several domains the last.
fn tricks(server: &Json) -> BTreeMap<String, Json> {
    let findings = server["tricks"].as_array().unwrap_or_else(|| panic!("no tricks: {server}"));
    findings.iter().map(|finding| (finding["trick"].as_str().unwrap().to_owned(), finding.clone())).collect()
}

/// The tricks with this verdict.
fn with_verdict(server: &Json, verdict: &str) -> Vec<String> {
    tricks(server).into_iter().filter(|(_, f)| f["verdict"] == verdict).map(|(name, _)| name).collect()
}

fn servers(output: &Output) -> Vec<Json> {
    output.json()["servers"].as_array().unwrap().clone()
}

fn only_server(output: &Output) -> Json {
    let servers = servers(output);
    assert_eq!(servers.len(), 1, "{output:?}");
    servers[0].clone()
}

fn text_of(list: &Json) -> String {
    list.as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

// Our own server.

#[test]
fn our_own_listeners_are_closed() {
    let daemon = Setup::new().start();
    let output = daemon.ctl(&["doctor", "relay", "--json"]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(output.json()["outcome"], "closed");
    let servers = servers(&output);
    let kinds: Vec<&str> = servers.iter().map(|server| server["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["mx", "submission", "submissions"]);
    for server in &servers {
        assert_eq!(server["domains"], serde_json::json!(["proseware.test"]));
        for verdict in ["accepted", "accepted-as-local", "doubtful", "local", "tolerated"] {
            assert_eq!(with_verdict(server, verdict), [] as [String; 0], "{verdict}: {output:?}");
        }
        assert!(tricks(server).len() > 60);
    }
    let mx = tricks(&servers[0]);
    assert!(
        mx["foreign-recipient"]["reply"].as_str().unwrap().starts_with("550 5.7.1 <relay-test@example.com>")
    );
    assert_eq!(mx["smuggle-lf.lf"]["verdict"], "refused");
    assert_eq!(mx["smuggle-lf.lf"]["stage"], "data");
    assert_eq!(mx["smuggle-nul.crlf"]["verdict"], "not-tried");
    assert_eq!(mx["starttls-injection"]["verdict"], "refused");
    assert!(mx["starttls-injection"]["meaning"].as_str().unwrap().contains("thrown away"));
    assert_eq!(
        mx["proxy-v1"]["stage"], "rcpt",
        "the header is an unknown command, and no more: {}",
        mx["proxy-v1"]
    );
    assert_eq!(tricks(&servers[1])["foreign-recipient"]["stage"], "mail");
    assert_eq!(servers[2]["tls"], true);
    assert_eq!(daemon.queue(), [] as [Json; 0], "no trick may leave a message");
}

#[test]
fn starttls_is_used_when_it_is_asked_for() {
    let daemon = Setup::new().start();
    let output = daemon.ctl(&["doctor", "relay", "--starttls", "--json"]);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(servers(&output).iter().all(|server| server["tls"] == true));
}

#[test]
fn a_trusted_address_proves_nothing_and_another_one_does() {
    let daemon = Setup::new().trust("127.0.0.1/32").start();
    let output = daemon.ctl(&["doctor", "relay", "--json"]);
    assert_eq!(output.code, 1, "{output:?}");
    for server in servers(&output) {
        assert_eq!(server["outcome"], "doubtful");
        assert_eq!(server["tricks"], serde_json::json!([]));
        let doubts = text_of(&server["doubts"]);
        assert!(
            doubts.contains("you are in a trusted network: 127.0.0.1 is in 127.0.0.1/32 (office)"),
            "{doubts}"
        );
        assert!(doubts.contains("--source 127.0.0.9"), "{doubts}");
    }
    let output = daemon.ctl(&["doctor", "relay", "--source", STRANGER, "--json"]);
    assert_eq!((output.code, &output.json()["outcome"]), (0, &Json::from("closed")), "{output:?}");
    assert_eq!(servers(&output)[0]["source"], STRANGER);
}

/// An address of this machine that is not loopback: the one that it would use to reach the world. Nothing is sent.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("198.51.100.9:9").ok()?;
    Some(socket.local_addr().unwrap().ip()).filter(|ip| !ip.is_loopback())
}

#[test]
fn a_listener_for_all_addresses_is_asked_from_one_that_is_not_trusted() {
    let Some(own) = own_address() else { return skip("this machine has no address but loopback") };
    // As on a server that was just installed.
    let everywhere = "[[listener]]\nkind = \"mx\"\naddress = \"0.0.0.0:0\"";
    let daemon = Setup::new().trust("127.0.0.0/8").with(everywhere).start();
    let server = |output: &Output| {
        let is_everywhere = |server: &Json| !server["address"].as_str().unwrap().starts_with("127.");
        servers(output).into_iter().find(is_everywhere)
    };
    let output = daemon.ctl(&["doctor", "relay", "--json"]);
    let asked = server(&output).unwrap_or_else(|| panic!("{output:?}"));
    assert_eq!(asked["outcome"], "closed", "{asked}");
    assert!(!asked["source"].as_str().unwrap().starts_with("127."), "{asked}");
    // Where that one may relay for a while, nothing is concluded from it.
    let open = format!(
        "[[relay.grants]]\nlabel = \"x\"\nnetwork = \"{own}/32\"\nsenders = [\"*\"]\nrecipients = [\"*\"]\nrate = \"9/h\""
    );
    daemon.change_config(&open);
    daemon.ask(&["reload"]);
    let source = own.to_string();
    let output = daemon.ctl(&["doctor", "relay", "--source", &source, "--json"]);
    let asked = server(&output).unwrap_or_else(|| panic!("{output:?}"));
    assert_eq!(asked["outcome"], "doubtful", "{asked}");
    assert!(text_of(&asked["doubts"]).contains("you may relay: "), "{asked}");
}

#[test]
fn where_all_of_loopback_is_trusted_only_another_machine_can_tell() {
    let daemon = Setup::new().trust("127.0.0.0/8").start();
    let output = daemon.ctl(&["doctor", "relay", "--source", STRANGER]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stdout.contains("ask from another machine\n"), "{}", output.stdout);
    assert!(output.stdout.ends_with("doubtful\n"), "{}", output.stdout);
}

#[test]
fn what_a_catch_all_takes_is_local() {
    let catch_all = "[[domain]]\nname = \"adatum.test\"\nmailboxes = [\"carol\"]\ncatch_all = \"carol\"\n";
    let daemon = Setup::new().with(catch_all).start();
    let output = daemon.ctl(&["doctor", "relay", "--json"]);
    assert_eq!(output.code, 0, "{output:?}");
    let mx = &servers(&output)[0];
    let percent = |domain: &str| {
        let findings = mx["tricks"].as_array().unwrap().iter();
        findings.clone().find(|f| f["trick"] == PERCENT && f["domain"] == domain).unwrap().clone()
    };
    assert_eq!(percent("proseware.test")["verdict"], "refused");
    assert_eq!(percent("adatum.test")["verdict"], "local");
    assert!(percent("adatum.test")["meaning"].as_str().unwrap().contains("carol@adatum.test"));
}

#[test]
fn a_recipient_of_our_own_is_no_test() {
    let relayed = "[[relay.relay_domains]]\nname = \"adatum.test\"\n";
    let daemon = Setup::new().with(relayed).start();
    for recipient in ["nobody@proseware.test", "carol@adatum.test"] {
        let output = daemon.ctl(&["doctor", "relay", "--recipient", recipient]);
        assert_eq!(output.code, 2, "{output:?}");
        assert!(output.stderr.contains("--recipient"), "{output:?}");
    }
}

#[test]
fn with_send_a_message_with_nul_arrives_as_one() {
    let daemon = Setup::new().start();
    let output = daemon.ctl(&["doctor", "relay", "--send", "bob@proseware.test", "--json"]);
    assert_eq!(output.code, 0, "{output:?}");
    let mx = &servers(&output)[0];
    assert_eq!(with_verdict(mx, "tolerated"), ["smuggle-.nul.crlf", "smuggle-nul.crlf"]);
    let mails = daemon.maildir("bob@proseware.test").wait_for_count(2);
    for mail in mails {
        assert!(mail.field("Subject").starts_with("Postern relay test: smuggle-"), "{}", mail.header());
        assert!(contains(mail.body(), "MAIL FROM:"), "the second message should be text of the first");
    }
}

#[test]
fn without_a_daemon_the_configuration_says_where_to_ask() {
    let mut daemon = Setup::new().start();
    daemon.kill();
    let output = daemon.ctl(&["doctor", "relay"]);
    assert_eq!(output.code, 4, "{output:?}");
    assert!(output.stdout.contains("the listeners are those of"), "{output:?}");
    // Somebody else answers there now, and takes everything.
    let fake = Fake::start(takes_everything);
    let fixed = format!("listener = [{{ kind = \"mx\", address = \"{}\" }}]", fake.address);
    let config = fs::read_to_string(daemon.config()).unwrap();
    let mut config: toml::Table = config.parse().unwrap();
    config.extend(fixed.parse::<toml::Table>().unwrap());
    fs::write(daemon.config(), config.to_string()).unwrap();
    let output = daemon.ctl(&["doctor", "relay", "--json"]);
    assert_eq!((output.code, &output.json()["outcome"]), (1, &Json::from("open")), "{output:?}");
    assert!(text_of(&output.json()["notes"]).contains("no daemon answers"), "{output:?}");
}

// Servers that are wrong on purpose.

/// A server that answers each line as a function says; the second argument counts the lines of the connection.
struct Fake {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    fn start(answer: impl Fn(&str, usize) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((loopback(), 0)).unwrap();
        let (address, heard) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let (answer, log) = (Arc::new(answer), Arc::clone(&heard));
        // Ends with the process: the tests have no other way to stop an accept.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                thread::spawn(move || converse(&stream, &*answer, &log));
            }
        });
        Self { address, heard }
    }

    fn heard(&self, beginning: &str) -> usize {
        self.heard.lock().unwrap().iter().filter(|line| line.starts_with(beginning)).count()
    }
}

/// Lines end with LF, with or without CR: also those of a message, which ends with a dot alone on one.
fn converse(
    mut stream: &TcpStream,
    answer: &(impl Fn(&str, usize) -> String + ?Sized),
    log: &Mutex<Vec<String>>,
) {
    let mut reader = BufReader::new(stream);
    let mut said = "220 fake.adatum.test ESMTP".to_owned();
    log.lock().unwrap().push("CONNECT".to_owned());
    for number in 0.. {
        if stream.write_all(format!("{said}\r\n").as_bytes()).is_err() || ends(&said) {
            return;
        }
        let in_message = said.starts_with("354");
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line).unwrap_or(0) == 0 {
                return;
            }
            if !in_message || line.trim_ascii() == b"." {
                break;
            }
        }
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        log.lock().unwrap().push(line.clone());
        said = answer(&line, number);
    }
}

fn ends(reply: &str) -> bool {
    reply.starts_with("221") || reply.starts_with("421")
}

fn takes_everything(line: &str, _number: usize) -> String {
    let word = line.split([' ', ':']).next().unwrap_or_default();
    match word {
        "EHLO" => "250-fake.adatum.test\r\n250 SMTPUTF8",
        "DATA" => "354 go on",
        "QUIT" => "221 bye",
        "AUTH" | "XCLIENT" | "XFORWARD" | "PROXY" | "NOPE" | "" => "500 what?",
        _ => "250 fine",
    }
    .to_owned()
}

/// Takes mail for adatum.test only, by what stands behind the last @.
fn takes_own_domain(line: &str, number: usize) -> String {
    let is_own = line.contains("@adatum.test>") && !line.contains(">,<");
    match line.starts_with("RCPT") && !is_own {
        true => "550 5.7.1 relaying denied".to_owned(),
        false => takes_everything(line, number),
    }
}

fn takes_nothing(line: &str, number: usize) -> String {
    match line.starts_with("RCPT") && line != "RCPT TO:<postmaster@adatum.test>" {
        true => "550 5.7.1 relaying denied".to_owned(),
        false => takes_everything(line, number),
    }
}

#[test]
fn an_open_relay_is_found_and_gets_no_message() {
    let fake = Fake::start(takes_everything);
    let output = examine(fake.address, "adatum.test", &[]);
    assert_eq!(output.code, 1, "{output:?}");
    let server = only_server(&output);
    assert_eq!(server["outcome"], "open");
    assert_eq!(tricks(&server)["foreign-recipient"]["verdict"], "accepted");
    assert_eq!(tricks(&server)[PERCENT]["verdict"], "accepted-as-local");
    assert_eq!(tricks(&server)["smuggle-lf.lf"]["verdict"], "not-tried");
    assert_eq!(fake.heard("DATA"), 0);
}

#[test]
fn an_open_relay_is_explained_to_people() {
    let fake = Fake::start(takes_everything);
    let address = fake.address.to_string();
    let output = doctor(&[&address, "--domain", "adatum.test", "--pause", "0s"]);
    assert_eq!(output.code, 1, "{output:?}");
    for expected in [
        "OPEN: foreign-recipient: the server takes mail for another host from a stranger",
        "ACCEPTED AS LOCAL: percent (adatum.test): a catch-all mailbox",
        "the trick: user%domain at a local domain",
        "\nOPEN\n",
    ] {
        assert!(output.stdout.contains(expected), "{expected:?} not in\n{}", output.stdout);
    }
    let output = doctor(&[&address, "--domain", "adatum.test", "--pause", "0s", "--verbose"]);
    for said in ["| C: MAIL FROM:<relay-test-sender@example.org>", "| S: 250 fine", "| C: NOOP\\n"] {
        assert!(output.stdout.contains(said), "{said:?} not in\n{}", output.stdout);
    }
}

#[test]
fn what_is_taken_as_local_is_doubtful() {
    let fake = Fake::start(takes_own_domain);
    let output = examine(fake.address, "adatum.test", &[]);
    assert_eq!(output.code, 1, "{output:?}");
    let server = only_server(&output);
    assert_eq!(server["outcome"], "doubtful");
    assert_eq!(with_verdict(&server, "accepted"), [] as [String; 0]);
    let taken = with_verdict(&server, "accepted-as-local");
    for trick in [PERCENT, "quoted-at", "bang-at-local", "route-percent"] {
        assert!(taken.iter().any(|name| name == trick), "{trick} not in {taken:?}");
    }
}

#[test]
fn a_server_that_breaks_off_after_errors_is_asked_everything() {
    // A limit below the tricks of one connection: each one that was cut off is tried again.
    let fake = Fake::start(|line, number| match number {
        0..=6 => takes_nothing(line, number),
        _ => "421 4.7.0 too many errors".to_owned(),
    });
    let output = examine(fake.address, "adatum.test", &[]);
    assert_eq!(output.code, 0, "{output:?}");
    let server = only_server(&output);
    assert_eq!(server["outcome"], "closed");
    assert_eq!(with_verdict(&server, "doubtful"), [] as [String; 0]);
    assert!(fake.heard("CONNECT") > 15, "{}", fake.heard("CONNECT"));
}

#[test]
fn a_server_that_breaks_off_always_is_left_in_peace() {
    let fake = Fake::start(|line, number| match line.starts_with("MAIL") && number > 0 {
        true => "421 4.7.0 go away".to_owned(),
        false => takes_everything(line, number),
    });
    let output = examine(fake.address, "adatum.test", &[]);
    assert_eq!(output.code, 1, "{output:?}");
    assert_eq!(only_server(&output)["outcome"], "doubtful");
    assert!(output.stdout.contains("does not answer any more"), "{output:?}");
    assert!(fake.heard("CONNECT") < 10, "{}", fake.heard("CONNECT"));
}

#[test]
fn a_greylist_proves_nothing() {
    let fake = Fake::start(|line, number| match line.starts_with("RCPT") {
        true => "451 4.7.0 try again in five minutes".to_owned(),
        false => takes_everything(line, number),
    });
    let output = examine(fake.address, "adatum.test", &[]);
    assert_eq!((output.code, &output.json()["outcome"]), (1, &Json::from("doubtful")), "{output:?}");
    let plain = tricks(&only_server(&output))["foreign-recipient"].clone();
    assert_eq!(plain["verdict"], "doubtful");
    assert!(plain["meaning"].as_str().unwrap().contains("ask again"), "{plain}");
}

#[test]
fn a_refused_sender_is_no_refusal_to_relay() {
    let fake = Fake::start(|line, number| match line.starts_with("MAIL") {
        true => "550 5.1.8 Sender address rejected: Domain not found".to_owned(),
        false => takes_everything(line, number),
    });
    let output = examine(fake.address, "adatum.test", &[]);
    assert_eq!(output.code, 1, "{output:?}");
    let doubts = text_of(&only_server(&output)["doubts"]);
    assert!(doubts.contains("--sender"), "{doubts}");
    // No sequence was sent, so that nothing is known about any.
    let output = examine(fake.address, "adatum.test", &["--send", "bob@adatum.test"]);
    let smuggled = tricks(&only_server(&output))["smuggle-lf.lf"].clone();
    assert_eq!(smuggled["verdict"], "not-tried", "{smuggled}");
    assert!(smuggled["meaning"].as_str().unwrap().contains("550 5.1.8"), "{smuggled}");
}

#[test]
fn a_domain_that_is_not_the_servers_is_noticed() {
    let fake = Fake::start(takes_nothing);
    let output = examine(fake.address, "proseware.test", &[]);
    assert_eq!(output.code, 1, "{output:?}");
    let doubts = text_of(&only_server(&output)["doubts"]);
    assert!(doubts.contains("does not know postmaster at proseware.test"), "{doubts}");
}

#[test]
fn the_domain_is_guessed_from_the_name_of_the_server() {
    let fake = Fake::start(takes_nothing);
    let address = fake.address.to_string();
    let output = doctor(&[&address, "--pause", "0s", "--json"]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(only_server(&output)["domains"], serde_json::json!(["adatum.test", "fake.adatum.test"]));
}

#[test]
fn a_forged_identity_that_is_believed_is_a_finding() {
    let fake = Fake::start(|line, number| match line {
        _ if line.starts_with("XCLIENT ") => "220 fake.adatum.test ESMTP".to_owned(),
        _ if line.starts_with("AUTH PLAIN ") => "235 welcome".to_owned(),
        _ => takes_nothing(line, number),
    });
    let output = examine(fake.address, "adatum.test", &[]);
    assert_eq!(output.code, 1, "{output:?}");
    let server = only_server(&output);
    let believed = ["auth-empty-password", "auth-in-clear", "xclient-address", "xclient-login"];
    assert_eq!(with_verdict(&server, "doubtful"), believed);
}

#[test]
fn smuggling_is_found_where_a_bare_line_end_ends_a_message() {
    let fake = Fake::start(takes_own_domain);
    let output = examine(fake.address, "adatum.test", &["--send", "carol@adatum.test"]);
    assert_eq!(output.code, 1, "{output:?}");
    let server = only_server(&output);
    assert_eq!(
        with_verdict(&server, "accepted"),
        ["smuggle-crlf.crcrlf", "smuggle-crlf.lf", "smuggle-lf.crlf", "smuggle-lf.lf"]
    );
    let smuggled = &tricks(&server)["smuggle-lf.lf"];
    assert!(smuggled["meaning"].as_str().unwrap().contains("2 messages acknowledged"), "{smuggled}");
    assert_eq!(tricks(&server)["bare-lf-command"]["verdict"], "tolerated");
}

#[test]
fn with_send_the_message_goes_to_who_was_named() {
    let fake = Fake::start(takes_everything);
    let output = examine(fake.address, "adatum.test", &["--send", "me@proseware.test"]);
    assert_eq!(output.code, 1, "{output:?}");
    let server = only_server(&output);
    let plain = &tricks(&server)["foreign-recipient"];
    assert_eq!((&plain["verdict"], &plain["stage"]), (&Json::from("accepted"), &Json::from("data")));
    assert!(plain["meaning"].as_str().unwrap().contains("arrives at me@proseware.test"), "{plain}");
    // Nothing is sent to a domain that only looks like one that somebody named.
    assert_eq!(tricks(&server)["ends-alike"]["stage"], "rcpt");
    assert!(fake.heard("DATA") > 20);
}

#[test]
fn nobody_at_home_is_not_closed() {
    let nobody = TcpListener::bind((loopback(), 0)).unwrap().local_addr().unwrap();
    let output = examine(nobody, "adatum.test", &[]);
    assert_eq!((output.code, &output.json()["outcome"]), (4, &Json::from("unreachable")), "{output:?}");
    let output = doctor(&["mx.adatum.invalid"]);
    assert_eq!(output.code, 4, "{output:?}");
}

#[test]
fn a_server_that_turns_everybody_away_has_proved_nothing() {
    let listener = TcpListener::bind((loopback(), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.write_all(b"554 no service for you\r\n");
        }
    });
    let output = examine(address, "adatum.test", &[]);
    assert_eq!((output.code, &output.json()["outcome"]), (1, &Json::from("doubtful")), "{output:?}");
    assert!(output.stdout.contains("no service for you"), "{output:?}");
}

#[test]
fn what_makes_no_sense_is_usage() {
    for arguments in [
        &["--tls"] as &[&str],
        &["mx.adatum.test:smtp"],
        &["mx.adatum.test", "--send", "nobody"],
        &["mx.adatum.test", "--source", "here"],
    ] {
        assert_eq!(doctor(arguments).code, 2, "{arguments:?}");
    }
}

// Servers of others.

#[test]
fn a_closed_postfix_is_closed() {
    let Some(postfix) = Postfix::start("") else { return };
    let output = examine(postfix.address, "adatum.test", &[]);
    assert_eq!(output.code, 0, "{output:?}");
    let server = only_server(&output);
    assert_eq!(server["outcome"], "closed");
    assert_eq!(tricks(&server)["foreign-recipient"]["stage"], "rcpt");
    assert!(text_of(&server["notes"]).contains("smuggling"), "{server}");
}

#[test]
fn a_postfix_that_trusts_the_whole_internet_is_open() {
    let Some(postfix) = Postfix::start("mynetworks = 0.0.0.0/0\n") else { return };
    let output = examine(postfix.address, "adatum.test", &[]);
    assert_eq!(output.code, 1, "{output:?}");
    let server = only_server(&output);
    assert_eq!(server["outcome"], "open");
    assert_eq!(tricks(&server)["foreign-recipient"]["verdict"], "accepted");
}

#[test]
fn a_postfix_without_relay_restrictions_is_open() {
    // A plain "permit" it refuses to run with.
    let settings = "smtpd_relay_restrictions = check_client_access static:OK, reject_unauth_destination\n";
    let Some(postfix) = Postfix::start(settings) else { return };
    let output = examine(postfix.address, "adatum.test", &[]);
    assert_eq!((output.code, &output.json()["outcome"]), (1, &Json::from("open")), "{output:?}");
}

#[test]
fn a_postfix_that_believes_xclient_is_found() {
    let Some(postfix) =
        Postfix::start("smtpd_authorized_xclient_hosts = 0.0.0.0/0\nmynetworks = 127.0.0.1/32\n")
    else {
        return;
    };
    let output = examine(postfix.address, "adatum.test", &[]);
    assert_eq!(output.code, 1, "{output:?}");
    let server = only_server(&output);
    assert_eq!(with_verdict(&server, "accepted"), ["xclient-address"]);
}

#[test]
fn a_closed_exim_is_closed() {
    let Some(exim) = Exim::start() else { return };
    let output = examine(exim.address, "adatum.test", &[]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(only_server(&output)["outcome"], "closed");
}

#[test]
fn the_checks_and_the_tricks_are_listed() {
    let listed = |arguments: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_posternctl")).arg("doctor").args(arguments).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(listed(&["--help"]).contains("\n  relay "));
    assert!(listed(&["relay", "--list"]).contains("\npercent "));
    let json: Json = serde_json::from_str(&listed(&["relay", "--list", "--json"])).unwrap();
    assert_eq!(json["tricks"][0]["trick"], "foreign-recipient");
}

#[test]
fn every_example_of_the_documentation_runs() {
    let daemon = Setup::new().start();
    let mut seen = 0;
    for page in ["docs/relay.md", "docs/operations.md"] {
        let text = fs::read_to_string(repository().join(page)).unwrap();
        for line in text.lines().filter_map(|line| line.strip_prefix("posternctl doctor relay")) {
            // A comment may follow.
            let words: Vec<&str> = line.split_whitespace().take_while(|word| *word != "#").collect();
            let mx = daemon.mx().to_string();
            let words: Vec<&str> = words
                .into_iter()
                .map(|word| if word == "mail.proseware.test" { &*mx } else { word })
                .collect();
            let output = daemon.ctl(&[&["doctor", "relay"], &*words, &["--pause", "0s"]].concat());
            assert_eq!(output.code, 0, "{page}: {line}: {output:?}");
            seen += 1;
        }
    }
    assert!(seen > 3, "the examples are gone");
}

/// What our server, Postfix and Exim say to each trick: docs/relay.md quotes it. Written to target/tmp.
#[test]
fn our_answers_beside_those_of_others() {
    let daemon = Setup::new().start();
    let ours = column(&daemon_output(&daemon));
    let postfix = Postfix::start("").map(|postfix| {
        let output = examine(postfix.address, "adatum.test", &["--send", "carol@adatum.test"]);
        (postfix.version(), column(&output))
    });
    let exim = Exim::start().map(|exim| {
        let output = examine(exim.address, "adatum.test", &["--send", "carol@adatum.test"]);
        (exim.version(), column(&output))
    });
    let none = || ("not installed".to_owned(), BTreeMap::new());
    let (postfix, exim) = (postfix.unwrap_or_else(none), exim.unwrap_or_else(none));
    let mut table = format!("| trick | Postern | {} | {} |\n|---|---|---|---|\n", postfix.0, exim.0);
    for (trick, answer) in &ours {
        let of = |column: &BTreeMap<String, String>| column.get(trick).cloned().unwrap_or_default();
        table += &format!("| `{trick}` | {answer} | {} | {} |\n", of(&postfix.1), of(&exim.1));
    }
    let path = repository().join("target/tmp/relay-tricks.md");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, &table).unwrap();
    say(&table);
    documented(&ours);
}

fn daemon_output(daemon: &Daemon) -> Output {
    examine(daemon.mx(), "proseware.test", &["--send", "bob@proseware.test"])
}

/// In a word, for each trick.
fn column(output: &Output) -> BTreeMap<String, String> {
    tricks(&only_server(output)).into_iter().map(|(name, finding)| (name, in_a_word(&finding))).collect()
}

fn in_a_word(finding: &Json) -> String {
    let reply = finding["reply"].as_str().unwrap_or_default();
    let codes: Vec<&str> =
        reply.split(' ').take(2).filter(|word| word.starts_with(|c: char| c.is_ascii_digit())).collect();
    let codes = codes.join(" ");
    let stage = finding["stage"].as_str().unwrap_or_default();
    match finding["verdict"].as_str().unwrap() {
        "not-tried" => "\u{2014}".to_owned(),
        // What it means stands in place of a reply.
        "refused" if codes.is_empty() => {
            finding["meaning"].as_str().unwrap().split([',', ':']).next().unwrap().to_owned()
        }
        // Most are refused at RCPT: only other stages are named.
        "refused" if stage == "rcpt" => codes,
        "refused" => format!("{codes} ({stage})"),
        // The message arrives, and is one.
        "tolerated" if stage == "data" => format!("{codes}, one message"),
        verdict => format!("**{}**, {codes}", verdict.replace('-', " ")),
    }
}

/// The page has a row for each trick, with our answer in it.
fn documented(ours: &BTreeMap<String, String>) {
    let page = fs::read_to_string(repository().join("docs/relay.md")).unwrap();
    for (trick, answer) in ours {
        let row = format!("| `{trick}` | {answer} |");
        assert!(
            page.contains(&row),
            "docs/relay.md lacks {row}: take the table from target/tmp/relay-tricks.md"
        );
    }
}
