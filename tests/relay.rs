//! Who may send what to whom: the six cases that every release must pass, the operator's own tables, and explanations that
//! agree with what happens.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};

use serde_json::{Value as Json, json};

use crate::harness::client::{Reply, message};
use crate::harness::daemon::PASSWORD;
use crate::harness::mail::contains;
use crate::harness::{Client, Daemon, NextHop, PATIENCE, Random, Script, Setup};

/// Our own network, which [`proseware`] trusts.
const OWN: Ipv4Addr = Ipv4Addr::new(127, 66, 0, 10);
/// The network of thephone-company.test.
const FOREIGN: Ipv4Addr = Ipv4Addr::new(127, 88, 0, 30);
/// A hotel: one of ours is there, on a network of somebody else.
const HOTEL: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 20);

const ALICE: &str = "alice@proseware.test";
const BOB: &str = "bob@adatum.test";
const CAROL: &str = "carol@thephone-company.test";

/// The server of proseware.test, which delivers to adatum.test.
fn proseware(hop: &NextHop) -> Daemon {
    Setup::new().trust("127.66.0.0/16").next_hop("adatum.test", hop).start()
}

/// A client from some network on port 25 that has said EHLO.
fn on_port_25(daemon: &Daemon, network: Ipv4Addr) -> Client {
    let mut client = Client::connect_from(network, daemon.mx());
    client.ehlo();
    client
}

/// Under TLS from port 587, EHLO said.
fn on_port_587(daemon: &Daemon, network: Ipv4Addr) -> Client {
    let mut client = Client::connect_from(network, daemon.submission());
    client.ehlo();
    client.start_tls();
    client.ehlo();
    client
}

/// Under TLS from the first octet, EHLO said.
fn on_port_465(daemon: &Daemon, network: Ipv4Addr) -> Client {
    let mut client = Client::open_from(network, daemon.submissions());
    client.handshake();
    client.expect_reply(220);
    client.ehlo();
    client
}

/// A message that must be accepted, and delivered to a mailbox of ours.
fn assert_arrives_here(daemon: &Daemon, client: &mut Client, from: &str, subject: &str) {
    assert_eq!(client.deliver(from, &[ALICE], &message(from, ALICE, subject, "hello")).code, 250);
    daemon.maildir(ALICE).wait_for(subject);
}

/// A message that must be accepted, and delivered to the other server.
fn assert_is_relayed(hop: &NextHop, client: &mut Client, from: &str, subject: &str) {
    let before = hop.received().len();
    assert_eq!(client.deliver(from, &[BOB], &message(from, BOB, subject, "hello")).code, 250);
    let received = hop.wait_for_count(before + 1);
    let last = received.last().unwrap();
    assert_eq!(last.sender(), format!("<{from}>"));
    assert!(contains(&last.mail.0, subject));
}

/// A reply that refuses relaying must say who was refused, for whom, what to do, and by which name to ask about it.
fn assert_explains_refusal(reply: &Reply, client: Ipv4Addr, recipient: &str) {
    let text = reply.text();
    let expected = format!(
        "550 5.7.1 <{recipient}>: relay not permitted: {client} is not logged in and not a trusted network; log in on port \
         587 or 465 (ref "
    );
    let reference = text.strip_prefix(&expected).unwrap_or_else(|| panic!("expected {expected}, not {text}"));
    assert!(reference.as_bytes()[4] == b'-' && reference.len() >= 9, "{text:?}");
    assert!(reply.lines.iter().all(|line| line.len() + 6 <= 512), "RFC 5321 §4.5.3.1.5: {text:?}");
}

// The six cases that every release must pass.

#[test]
fn case_1_own_network_to_own_recipient_is_not_relaying() {
    let hop = NextHop::start(Script::default());
    let daemon = proseware(&hop);
    assert_arrives_here(&daemon, &mut on_port_25(&daemon, OWN), "printer@proseware.test", "case-1");
    assert!(hop.received().is_empty());
}

#[test]
fn case_2_own_network_to_foreign_recipient_is_trusted() {
    let hop = NextHop::start(Script::default());
    let daemon = proseware(&hop);
    assert_is_relayed(&hop, &mut on_port_25(&daemon, OWN), "printer@proseware.test", "case-2");
}

#[test]
fn case_3_foreign_network_to_own_recipient_is_not_relaying() {
    let hop = NextHop::start(Script::default());
    let daemon = proseware(&hop);
    assert_arrives_here(&daemon, &mut on_port_25(&daemon, FOREIGN), CAROL, "case-3");
}

#[test]
fn case_4_foreign_network_to_foreign_recipient_is_refused_with_the_reason() {
    let hop = NextHop::start(Script::default());
    let daemon = proseware(&hop);
    let mut client = on_port_25(&daemon, FOREIGN);
    // Whoever it claims to be.
    for sender in [CAROL, ALICE, BOB, ""] {
        client.expect(&format!("MAIL FROM:<{sender}>"), 250);
        let reply = client.command(&format!("RCPT TO:<{BOB}>"));
        assert_explains_refusal(&reply, FOREIGN, BOB);
        assert_eq!(client.expect("DATA", 554).text(), "554 5.5.1 no valid recipients");
        client.expect("RSET", 250);
    }
    assert!(hop.sessions().is_empty() && daemon.queue().is_empty());
}

#[test]
fn case_5_foreign_network_with_a_login_may_send_to_foreign_recipients() {
    let hop = NextHop::start(Script::default());
    let daemon = proseware(&hop);
    let mut clients = [on_port_587(&daemon, FOREIGN), on_port_465(&daemon, FOREIGN)];
    for (client, subject) in clients.iter_mut().zip(["case-5-starttls", "case-5-tls"]) {
        // Not before the login, although it is the right port.
        let early = client.command(&format!("MAIL FROM:<{ALICE}>")).without_reference();
        assert_eq!(early, "530 5.7.0 authentication required: log in with AUTH first, on this port");
        assert_eq!(client.auth_plain(ALICE, PASSWORD).text(), "235 2.7.0 Authentication successful");
        assert_is_relayed(&hop, client, ALICE, subject);
        // And as itself only.
        let other = client.command("MAIL FROM:<bob@proseware.test>").text();
        assert!(
            other.starts_with(
                "550 5.7.1 <bob@proseware.test>: sender not permitted: alice@proseware.test may not send as this address"
            ),
            "{other}"
        );
    }
}

#[test]
fn case_6_hotel_guest_on_port_25_is_told_where_to_log_in() {
    let hop = NextHop::start(Script::default());
    let daemon = proseware(&hop);
    let mut client = Client::connect_from(HOTEL, daemon.mx());
    let offer = client.ehlo();
    assert!(offer.lines.iter().all(|line| !line.starts_with("AUTH")), "{offer:?}");
    let refused = client.auth_plain(ALICE, PASSWORD).without_reference();
    assert_eq!(refused, "503 5.5.1 no authentication on this port: log in on port 587 or 465");
    client.expect(&format!("MAIL FROM:<{ALICE}>"), 250);
    assert_explains_refusal(&client.command(&format!("RCPT TO:<{BOB}>")), HOTEL, BOB);
    // What the reply says is what helps.
    for mut client in [on_port_587(&daemon, HOTEL), on_port_465(&daemon, HOTEL)] {
        assert_eq!(client.auth_plain(ALICE, PASSWORD).code, 235);
        assert_is_relayed(&hop, &mut client, ALICE, "case-6");
    }
}

#[test]
fn passwords_are_not_asked_for_in_clear() {
    let daemon = Setup::new().start();
    let mut client = Client::connect_from(HOTEL, daemon.submission());
    let offer = client.ehlo();
    assert!(offer.lines.iter().all(|line| !line.starts_with("AUTH")), "{offer:?}");
    let refused = client.auth_plain(ALICE, PASSWORD).without_reference();
    assert_eq!(refused, "538 5.7.11 encryption required for authentication: use STARTTLS first, or port 465");
    let refused = client.command(&format!("MAIL FROM:<{ALICE}>")).without_reference();
    let expected =
        "530 5.7.0 authentication required: use STARTTLS and log in here on port 587, or use TLS on port 465";
    assert_eq!(refused, expected);
}

// Tables of questions.

/// The six cases as a table.
const TABLE: &str = r#"
[[question]]
name = "own network, own recipient"
client = "127.66.0.10"
from = "printer@proseware.test"
to = "alice@proseware.test"
expect = "accept"
reason = "local-recipient"

[[question]]
name = "own network, foreign recipient"
client = "127.66.0.10"
from = "printer@proseware.test"
to = "bob@adatum.test"
expect = "accept"
reason = "trusted-network"

[[question]]
name = "foreign network, own recipient"
client = "127.88.0.30"
from = "carol@thephone-company.test"
to = "alice@proseware.test"
expect = "accept"

[[question]]
name = "foreign network, foreign recipient"
client = "127.88.0.30"
from = "carol@thephone-company.test"
to = "bob@adatum.test"
expect = "reject"
reason = "not-trusted-not-local"
code = 550

[[question]]
name = "a login from anywhere"
client = "127.77.0.20"
listener = "submissions"
user = "alice@proseware.test"
from = "alice@proseware.test"
to = "bob@adatum.test"
header = "From: Alice <alice@proseware.test>"
expect = "accept"
reason = "authenticated"

[[question]]
name = "a login on port 25"
client = "127.77.0.20"
user = "alice@proseware.test"
from = "alice@proseware.test"
to = "bob@adatum.test"
expect = "reject"
code = 503
"#;

const TESTED: &str = "[policy]\ntests = [\"relay-tests.toml\"]";
/// As [`TABLE`] does not allow it.
const TOO_MUCH_TRUST: &str = "[[relay.trusted_networks]]\nnetwork = \"127.88.0.0/16\"\nlabel = \"too much\"";

/// A server that is not started, with the table in its folder and in its configuration.
fn tested() -> Daemon {
    let setup = Setup::new().trust("127.66.0.0/16").with(TESTED);
    fs::write(setup.folder().join("relay-tests.toml"), TABLE).unwrap();
    setup.prepare()
}

fn posternd_check(daemon: &Daemon) -> Output {
    Command::new(env!("CARGO_BIN_EXE_posternd"))
        .args(["check", "--config"])
        .arg(daemon.config())
        .output()
        .unwrap()
}

#[test]
fn a_table_with_right_answers_passes() {
    let daemon = tested();
    let table = daemon.folder().join("relay-tests.toml");
    let output = daemon.ctl(&["policy", "test", table.to_str().unwrap()]);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(output.stdout.contains("6 questions, each answered as expected"), "{}", output.stdout);
    // Without a file it is the tables of the configuration.
    let answer = daemon.ask(&["policy", "test"]);
    assert_eq!((&answer["questions"], &answer["failed"]), (&json!(6), &json!(0)));
    assert_eq!(answer["tables"][0]["rows"][3]["answer"]["code"], 550);
    assert_eq!(posternd_check(&daemon).status.code(), Some(0));
    assert_eq!(daemon.ctl(&["config", "check"]).code, 0);
}

#[test]
fn a_wrong_answer_names_the_question_and_every_rule_looked_at() {
    let daemon = tested();
    daemon.change_config(TOO_MUCH_TRUST);
    let output = daemon.ctl(&["policy", "test"]);
    assert_eq!(output.code, 1, "{output:?}");
    for part in [
        "relay-tests.toml:25: foreign network, foreign recipient",
        "it is answered with accept, not reject",
        "RCPT TO:<bob@adatum.test>",
        "127.88.0.30 is in 127.88.0.0/16 (too much)",
        "6 questions, 1 not answered as expected",
    ] {
        assert!(output.stdout.contains(part), "no {part:?} in\n{}", output.stdout);
    }
    let failed = daemon.ctl(&["policy", "test", "--json"]);
    let row = &failed.json()["tables"][0]["rows"][3];
    assert_eq!((&row["passed"], &row["line"]), (&json!(false), &json!(25)));
    assert_eq!(row["answer"]["reason"], "trusted-network");
    assert!(row["explanation"]["stages"][1]["rules"].as_array().unwrap().len() > 1, "{row}");
}

#[test]
fn who_expects_a_refusal_is_not_told_what_would_prevent_it() {
    let daemon = tested();
    let table = daemon.folder().join("codes.toml");
    let question =
        "[[question]]\nclient = \"127.88.0.30\"\nfrom = \"x@client.test\"\nto = \"bob@adatum.test\"\n";
    let test = |answer: &str, more: &[&str]| {
        fs::write(&table, format!("{question}{answer}")).unwrap();
        let output = daemon.ctl(&[&["policy", "test", table.to_str().unwrap()], more].concat());
        assert_eq!(output.code, 1, "{output:?}");
        output.stdout
    };
    let code = test("expect = \"reject\"\ncode = 554\n", &[]);
    assert!(code.contains("RCPT TO:<bob@adatum.test>") && !code.contains("what would allow it"), "{code}");
    let accept = "expect = \"accept\"\n";
    assert!(test(accept, &[]).contains("what would allow it"));
    let quiet = test(accept, &["--quiet"]);
    assert!(quiet.contains("it is answered with reject, not accept"), "{quiet}");
    assert!(!quiet.contains("RCPT TO:") && !quiet.contains("what would allow it"), "{quiet}");
}

#[test]
fn a_table_that_cannot_be_read_is_a_usage_error() {
    let daemon = tested();
    let broken = daemon.folder().join("broken.toml");
    fs::write(&broken, "[[question]]\nclient = \"127.0.0.1\"\nto = \"a@b.test\"\nexpect = \"maybe\"\n")
        .unwrap();
    for (table, problem) in [("broken.toml", "line 4"), ("missing.toml", "missing.toml")] {
        let path = daemon.folder().join(table);
        let output = daemon.ctl(&["policy", "test", path.to_str().unwrap()]);
        assert_eq!(output.code, 2, "{output:?}");
        assert!(output.stderr.contains(problem), "{output:?}");
    }
    let none = Setup::new().prepare().ctl(&["policy", "test"]);
    assert!(none.code == 2 && none.stderr.contains("[policy] tests"), "{none:?}");
}

#[test]
fn a_reload_with_a_wrong_answer_keeps_the_old_rules() {
    let mut daemon = tested();
    daemon.start();
    let good = fs::read_to_string(daemon.config()).unwrap();
    daemon.change_config(TOO_MUCH_TRUST);
    let output = daemon.ctl(&["reload"]);
    assert_eq!(output.code, 1, "{output:?}");
    for part in ["relay-tests.toml:25", "foreign network, foreign recipient", "127.88.0.0/16 (too much)"] {
        assert!(output.stderr.contains(part), "no {part:?} in {}", output.stderr);
    }
    let mut client = on_port_25(&daemon, FOREIGN);
    client.expect(&format!("MAIL FROM:<{CAROL}>"), 250);
    client.expect(&format!("RCPT TO:<{BOB}>"), 550);
    // With SIGHUP the log says so.
    daemon.hang_up();
    let event = daemon.wait_for("reload-failed", |event| event.to_string().contains("relay-tests.toml:25"));
    assert!(event.to_string().contains("the old configuration stays in force"), "{event}");
    fs::write(daemon.config(), good).unwrap();
    daemon.ask(&["reload"]);
}

#[test]
fn a_start_with_a_wrong_answer_is_refused_like_a_wrong_configuration() {
    let mut daemon = tested();
    daemon.change_config(TOO_MUCH_TRUST);
    let output = posternd_check(&daemon);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("relay-tests.toml:25:1: error: \"foreign network, foreign recipient\""), "{text}");
    let checked = daemon.ctl(&["config", "check"]);
    assert!(checked.code == 1 && checked.stderr.contains("relay-tests.toml:25"), "{checked:?}");
    daemon.launch();
    assert_eq!(daemon.finish().code(), Some(78));
    // And so is a table that is not there.
    fs::remove_file(daemon.folder().join("relay-tests.toml")).unwrap();
    let output = posternd_check(&daemon);
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8(output.stderr).unwrap().contains("cannot be read"));
}

// Explanations.

/// What a question may be made of. Logins are made with the password of the harness.
const CLIENTS: [Ipv4Addr; 5] =
    [OWN, FOREIGN, HOTEL, Ipv4Addr::new(127, 99, 0, 40), Ipv4Addr::new(127, 99, 0, 41)];
const LOGINS: [&str; 5] =
    [ALICE, "bob@proseware.test", "office", "former@proseware.test", "nobody@proseware.test"];
const SENDERS: [&str; 9] = [
    "",
    ALICE,
    "alice+news@proseware.test",
    "bob@proseware.test",
    "shared@proseware.test",
    "scanner@proseware.test",
    "x@branch.test",
    CAROL,
    "@relay.test:carol@thephone-company.test",
];
const RECIPIENTS: [&str; 16] = [
    "postmaster",
    ALICE,
    "ALICE+x@Proseware.Test",
    "info@proseware.test",
    "away@proseware.test",
    "nobody@proseware.test",
    "bob%adatum.test@proseware.test",
    "anybody@branch.test",
    "anybody@customer.test",
    "bob%adatum.test@customer.test",
    "carol@listed.test",
    "nobody@listed.test",
    "x@closed.test",
    "bob@[192.0.2.1]",
    BOB,
    "\"bob\"@ADATUM.test",
];
const HEADERS: [&str; 6] = [
    "From: alice@proseware.test",
    "From: bob@proseware.test",
    "From: shared@proseware.test, alice@proseware.test",
    "From: alice@proseware.test\nSender: bob@adatum.test",
    "From: undisclosed:;",
    "Subject: nobody",
];

const MANY_RIGHTS: &str = r#"
[relay]
relay_domains = [{ name = "customer.test" }, { name = "listed.test", recipients = ["carol"] }]
[[relay.grants]]
label = "printer"
network = "127.99.0.40/32"
senders = ["scanner@proseware.test"]
recipients = ["@adatum.test"]
rate = "1000000/s"
[[domain]]
name = "branch.test"
catch_all = "alice@proseware.test"
[[route]]
domain = "closed.test"
via = "reject"
text = "this domain is closed"
[[route]]
domain = "*"
via = "discard"
"#;

/// A server with most kinds of rights.
fn many_rights() -> Daemon {
    let setup = Setup::new()
        .trust("127.66.0.0/16")
        .with(MANY_RIGHTS)
        .account("office", "permission = \"local\"")
        .account("former@proseware.test", "state = \"disabled\"");
    // The first domain is that of the harness.
    let mut daemon = setup.prepare();
    let text = fs::read_to_string(daemon.config()).unwrap();
    let mut config: toml::Table = text.parse().unwrap();
    let aliases = "info = [\"alice\", \"carol@adatum.test\"]\naway = [\"x@closed.test\"]";
    let domain = config["domain"].as_array_mut().unwrap()[0].as_table_mut().unwrap();
    domain.insert("aliases".into(), toml::Value::Table(aliases.parse().unwrap()));
    fs::write(daemon.config(), config.to_string()).unwrap();
    daemon.start();
    daemon
}

#[test]
fn explanations_are_what_clients_hear() {
    let daemon = many_rights();
    let seed = std::env::var("POSTERN_SEED").map_or(25, |seed| seed.parse().unwrap());
    let mut random = Random::new(seed);
    let mut answers = std::collections::BTreeMap::new();
    for number in 0..300 {
        let question = question(&mut random, &daemon);
        let explained = post(&daemon, "/v1/policy/explain", &question);
        let live = play(&daemon, &question);
        let about =
            format!("seed {seed}, question {number}: {question:#}\n{explained:#}\nlive: {}", live.text());
        let Some(stage) = explained["stages"].as_array().and_then(|stages| stages.last()) else {
            // A login that does not exist cannot be asked about; a client hears of a wrong password at most.
            assert!(matches!(live.code, 503 | 535 | 538), "{about}");
            continue;
        };
        let verdict = match live.code {
            200..400 => "accept",
            400..500 => "defer",
            _ => "reject",
        };
        assert_eq!(stage["verdict"], verdict, "{about}");
        let text = live.text();
        let (words, reference) = text
            .split_once(" (ref ")
            .map_or((text.as_str(), None), |(words, rest)| (words, Some(rest[..9].to_owned())));
        if verdict != "accept" {
            assert_eq!(stage["reply"], words, "{about}");
        }
        if let Some(reference) = reference {
            let record = get(&daemon, &format!("/v1/explain/{reference}"));
            for part in ["verdict", "reason", "rules", "remedies"] {
                assert_eq!(record[part], stage[part], "{part} of {about}\n{record:#}");
            }
        }
        *answers.entry(stage["reason"]["kind"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    assert!(answers.len() >= 12, "too few kinds of answers: {answers:?}");
}

fn question(random: &mut Random, daemon: &Daemon) -> Json {
    let mut one_of = |pool: &[&'static str]| pool[random.below(pool.len() as u64) as usize];
    let listener = one_of(&["mx", "submission", "submissions"]);
    let (login, from, to, header) =
        (one_of(&LOGINS), one_of(&SENDERS), one_of(&RECIPIENTS), one_of(&HEADERS));
    // On port 25 hardly anybody tries to log in.
    let has_login = random.below(6) < if listener == "mx" { 1 } else { 5 };
    let tls = listener == "submissions" || random.below(5) > 0;
    let from = if has_login && login.contains('@') && random.below(2) == 0 { login } else { from };
    json!({
        "client": CLIENTS[random.below(CLIENTS.len() as u64) as usize].to_string(),
        "local": daemon.mx().ip().to_string(),
        "helo": "client.test",
        "listener": listener,
        "tls": tls,
        "user": has_login.then_some(login),
        "from": from,
        "to": to,
        "message": (random.below(2) == 0).then(|| format!("{header}\n\n")),
    })
}

/// The answer to the first command that is refused, or to the last one.
fn play(daemon: &Daemon, question: &Json) -> Reply {
    let text = |key: &str| question[key].as_str().unwrap_or_default();
    let source = text("client").parse().unwrap();
    let mut client = open(daemon, source, text("listener"), question["tls"] == true);
    if question["user"].is_string() {
        let reply = client.auth_plain(text("user"), PASSWORD);
        if reply.code != 235 {
            return reply;
        }
    }
    for command in [format!("MAIL FROM:<{}>", text("from")), format!("RCPT TO:<{}>", text("to"))] {
        let reply = client.command(&command);
        if reply.code != 250 || (question["message"].is_null() && command.starts_with("RCPT")) {
            return reply;
        }
    }
    client.content(&text("message").replace('\n', "\r\n"))
}

fn open(daemon: &Daemon, source: Ipv4Addr, listener: &str, tls: bool) -> Client {
    let address: SocketAddr = match listener {
        "submissions" => return on_port_465(daemon, source),
        "submission" => daemon.submission(),
        _ => daemon.mx(),
    };
    let mut client = Client::connect_from(source, address);
    client.ehlo();
    if tls {
        client.start_tls();
        client.ehlo();
    }
    client
}

fn post(daemon: &Daemon, path: &str, body: &Json) -> Json {
    let body = body.to_string();
    let head =
        format!("POST {path} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {}", body.len());
    request(daemon, &format!("{head}\r\nHost: postern\r\nConnection: close\r\n\r\n{body}"))
}

fn get(daemon: &Daemon, path: &str) -> Json {
    request(daemon, &format!("GET {path} HTTP/1.1\r\nHost: postern\r\nConnection: close\r\n\r\n"))
}

/// Asks the control socket as a shell would: a `posternctl` for every question takes longer than all the rest.
fn request(daemon: &Daemon, request: &str) -> Json {
    let mut socket = UnixStream::connect(daemon.folder().join("control.sock")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}
