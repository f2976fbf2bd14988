//! What an operator sees and changes: metrics, reload, explanations, accounts, the configuration check.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output};

use serde_json::Value as Json;

use crate::harness::client::message;
use crate::harness::daemon::PASSWORD;
use crate::harness::{Client, Daemon, NextHop, PATIENCE, Script, Setup, eventually};

const ALICE: &str = "alice@proseware.test";
const CAROL: &str = "carol@adatum.test";

/// The body of a page of the metrics port, and its status.
fn page(daemon: &Daemon, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(daemon.metrics()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: metrics.test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The sum of a metric over all label sets that contain every one of `labels`.
pub fn metric(daemon: &Daemon, name: &str, labels: &[&str]) -> f64 {
    let (status, text) = page(daemon, "/metrics");
    assert_eq!(status, 200);
    let lines = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
    let chosen = lines.filter(|line| labels.iter().all(|label| line.contains(label)));
    chosen.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

#[test]
fn metrics_have_names_and_move() {
    let hop = NextHop::start(Script::default().reply("RCPT TO:<busy", "451 4.2.1 busy"));
    let daemon = Setup::new().next_hop("adatum.test", &hop).start();
    let refused = ["stage=\"rcpt\"", "verdict=\"reject\"", "reason=\"not-trusted-not-local\""];
    assert_eq!(metric(&daemon, "postern_policy_decisions_total", &refused), 0.0);
    let mut client = Client::connect(daemon.mx());
    client.ehlo();
    client.expect("MAIL FROM:<a@client.test>", 250);
    client.expect(&format!("RCPT TO:<{CAROL}>"), 550);
    assert_eq!(metric(&daemon, "postern_policy_decisions_total", &refused), 1.0);

    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    let content = message(ALICE, CAROL, "counted", "hello");
    assert_eq!(client.deliver(ALICE, &[CAROL, "busy@adatum.test"], &content).code, 250);
    hop.wait_for_message();
    daemon.wait_in_queue("a deferred message", |m| m["state"] == "deferred");
    for (name, labels, least) in [
        ("postern_smtp_accepted_messages_total", "listener=\"submission\"", 1.0),
        ("postern_smtp_refusals_total", "reason=\"not-trusted-not-local\"", 1.0),
        ("postern_smtp_logins_total", "", 1.0),
        ("postern_queue_accepted_total", "", 1.0),
        ("postern_queue_messages", "", 1.0),
        ("postern_queue_outcomes_total", "outcome=\"delivered\"", 1.0),
        ("postern_queue_outcomes_total", "outcome=\"deferred\"", 1.0),
        ("postern_outbound_outcomes_total", "result=\"delivered\"", 1.0),
        ("postern_queue_free_octets", "", 1.0),
    ] {
        eventually(name, || (metric(&daemon, name, &[labels]) >= least).then_some(()));
    }
    assert_eq!(metric(&daemon, "postern_queue_store_errors_total", &[]), 0.0);
    let (_, text) = page(&daemon, "/metrics");
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        assert!(line.starts_with("postern_") || line.starts_with("process_"), "{line}");
    }
    // None of them names a mailbox: labels are few, and the page is for everybody who reaches the port.
    assert!(!text.contains("@proseware.test") && !text.contains("@adatum.test"), "{text}");
    let printed = daemon.ctl(&["metrics"]);
    assert!(printed.stdout.contains("postern_policy_decisions_total"), "{printed:?}");
    let (status, _) = page(&daemon, "/healthz");
    assert_eq!(status, 200);
    assert_eq!(page(&daemon, "/nothing").0, 404);
}

#[test]
fn status_tells_listeners_and_totals() {
    let daemon = Setup::new().start();
    let status = daemon.ask(&["status"]);
    assert_eq!(status["hostname"], "mail.proseware.test");
    assert_eq!(status["pid"], daemon.pid());
    let listeners = status["listeners"].as_array().unwrap();
    assert!(
        listeners.iter().any(|l| l["kind"] == "mx" && l["address"] == daemon.mx().to_string()),
        "{status}"
    );
    assert_eq!(status["queue"]["messages"], 0);
    assert_eq!(status["health"]["ok"], true);
    assert!(daemon.ctl(&["status"]).stdout.contains("mail.proseware.test"));
    let unreachable = daemon.ctl(&["--socket", "/nonexistent/control.sock", "status"]);
    assert_eq!(unreachable.code, 4);
    assert!(unreachable.stderr.contains("/nonexistent/control.sock"), "{unreachable:?}");
}

fn is_recipient(daemon: &Daemon, address: &str) -> bool {
    let mut client = Client::connect(daemon.mx());
    client.ehlo();
    client.expect("MAIL FROM:<a@client.test>", 250);
    client.command(&format!("RCPT TO:<{address}>")).code == 250
}

#[test]
fn reload_by_signal_and_by_command_takes_effect() {
    let daemon = Setup::new().start();
    let mut open = Client::connect(daemon.mx());
    open.ehlo();
    assert!(!is_recipient(&daemon, "carl@proseware.test"));
    daemon.change_config("[[domain]]\nname = \"branch.test\"\nmailboxes = [\"carl\"]");
    daemon.hang_up();
    daemon.wait_for("reloaded", |_| true);
    assert!(is_recipient(&daemon, "carl@branch.test"));

    daemon.change_config("[[domain]]\nname = \"second.test\"\nmailboxes = [\"carl\"]");
    let answer = daemon.ask(&["reload"]);
    assert_eq!(answer["configuration"], daemon.config().to_str().unwrap());
    assert!(is_recipient(&daemon, "carl@second.test"));
    // A session from before goes on.
    open.expect("NOOP", 250);
}

#[test]
fn a_renewed_certificate_is_served_after_a_reload() {
    let daemon = Setup::new().start();
    let renewed = crate::harness::tls::Identity::new(&["renewed.test"]);
    std::fs::write(daemon.folder().join("cert.pem"), &renewed.certificate_pem).unwrap();
    std::fs::write(daemon.folder().join("key.pem"), &renewed.key_pem).unwrap();
    drop(Client::connect_tls(daemon.submissions()));
    daemon.ask(&["reload"]);
    // The client of the tests checks the name, which the new certificate does not have.
    let address = daemon.submissions();
    let handshake = std::panic::catch_unwind(|| drop(Client::connect_tls(address)));
    assert!(handshake.is_err());
    // A pair that does not fit keeps the old one in use.
    std::fs::write(daemon.folder().join("key.pem"), "no key").unwrap();
    assert_ne!(daemon.ctl(&["reload"]).code, 0);
    let mut client = Client::connect(daemon.submission());
    client.ehlo();
    client.expect("STARTTLS", 220);
}

#[test]
fn a_bad_reload_keeps_the_old_configuration_running() {
    let mut daemon = Setup::new().start();
    let good = std::fs::read_to_string(daemon.config()).unwrap();
    std::fs::write(daemon.config(), format!("hostnme = \"x\"\n{good}")).unwrap();
    daemon.hang_up();
    let event = daemon.wait_for("reload-failed", |_| true);
    assert!(event.to_string().contains("hostnme"), "{event}");
    let output = daemon.ctl(&["--socket", daemon.folder().join("control.sock").to_str().unwrap(), "reload"]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(is_recipient(&daemon, ALICE));
    assert!(daemon.is_running());
    let socket = daemon.folder().join("control.sock");
    let warned = daemon.ctl(&["--socket", socket.to_str().unwrap(), "status"]).stdout;
    assert!(warned.contains("the last reload failed") && warned.contains("hostnme"), "{warned}");
    assert!(warned.contains(" config check`): ") && !warned.contains("errors"), "{warned}");

    std::fs::write(daemon.config(), format!("hostnme = \"x\"\nuzer = \"y\"\nqueu = 1\n{good}")).unwrap();
    let refused = daemon.ctl(&["--socket", socket.to_str().unwrap(), "reload"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    let warned = daemon.ctl(&["--socket", socket.to_str().unwrap(), "status"]).stdout;
    assert!(warned.contains("a start may fail: there are 3 errors, `posternctl "), "{warned}");
    let all = " config check` shows them all; the first: ";
    assert!(warned.contains(all) && warned.contains("hostnme") && !warned.contains("uzer"), "{warned}");
    std::fs::write(daemon.config(), good).unwrap();
    daemon.ask(&["reload"]);
    let status = daemon.ctl(&["status"]).stdout;
    assert!(!status.contains("the last reload failed"), "{status}");
}

#[test]
fn explanations_agree_with_the_live_answers() {
    let hop = NextHop::start(Script::default());
    let daemon = Setup::new().trust("127.66.0.0/16").next_hop("adatum.test", &hop).start();
    let guest = daemon.mx().ip().to_string();
    for (client, user, from, to) in [
        (guest.as_str(), None, "a@client.test", ALICE),
        (&guest, None, "a@client.test", CAROL),
        (&guest, None, "a@client.test", "nobody@proseware.test"),
        (&guest, Some(ALICE), ALICE, CAROL),
        (&guest, Some(ALICE), "bob@proseware.test", CAROL),
        ("127.66.0.9", None, "printer@proseware.test", CAROL),
    ] {
        let mut arguments = vec!["policy", "explain", "--client", client, "--from", from, "--to", to];
        if let Some(user) = user {
            arguments.extend(["--user", user, "--listener", "submission", "--tls"]);
        }
        // A refusal is a finding, which is exit code 1.
        let output = daemon.ctl(&[arguments.as_slice(), &["--json"]].concat());
        let explained = output.json();
        let last = explained["stages"].as_array().unwrap().last().unwrap().clone();
        let live = live_answer(&daemon, client, user, from, to);
        let verdict = if live.code == 250 { "accept" } else { "reject" };
        assert_eq!(last["verdict"], verdict, "{arguments:?}: {} but {last}", live.text());
        assert!(!last["rules"].as_array().unwrap().is_empty());
        if live.code == 250 {
            assert_eq!(explained["deliveries"][0]["recipient"], to);
            assert_eq!(output.code, 0);
        } else {
            assert!(live.text().starts_with(last["reply"].as_str().unwrap().split_at(9).0), "{last}");
            assert_eq!(output.code, 1);
            assert_explains_by_reference(&daemon, &live.text(), &last);
        }
    }
}

fn live_answer(
    daemon: &Daemon,
    client: &str,
    user: Option<&str>,
    from: &str,
    to: &str,
) -> crate::harness::client::Reply {
    let source = client.parse().unwrap();
    let mut client = match user {
        Some(user) => Client::log_in(daemon.submission(), user, PASSWORD),
        None => {
            let mut client = Client::connect_from(source, daemon.mx());
            client.ehlo();
            client
        }
    };
    let reply = client.command(&format!("MAIL FROM:<{from}>"));
    if reply.code != 250 {
        return reply;
    }
    client.command(&format!("RCPT TO:<{to}>"))
}

/// The reference in the reply leads to the same decision.
fn assert_explains_by_reference(daemon: &Daemon, reply: &str, explained: &Json) {
    let Some(rest) = reply.split("(ref ").nth(1) else { return };
    let reference = &rest[..9];
    let output = daemon.ctl(&["explain", reference, "--json"]);
    let record = output.json();
    assert_eq!(record["reference"], reference);
    assert_eq!(record["reason"]["kind"], explained["reason"]["kind"]);
    assert_eq!(record["verdict"], explained["verdict"]);
    let text = daemon.ctl(&["explain", &reference.to_lowercase()]).stdout;
    assert!(text.contains(explained["reason"]["kind"].as_str().unwrap()), "{text}");
}

#[test]
fn an_account_that_is_added_can_log_in() {
    let daemon = Setup::new().start();
    let before = std::fs::read_to_string(daemon.folder().join("accounts.toml")).unwrap();
    std::fs::write(daemon.folder().join("accounts.toml"), format!("# a note of the operator\n{before}"))
        .unwrap();
    let output = daemon
        .ctl_with_input(&["account", "add", "carl@proseware.test", "--password-stdin"], "open sesame\n");
    assert_eq!(output.code, 0, "{output:?}");
    let after = std::fs::read_to_string(daemon.folder().join("accounts.toml")).unwrap();
    assert!(after.contains("# a note of the operator") && after.contains("$argon2id$"), "{after}");
    assert!(!after.contains("open sesame"));
    let mut client = Client::connect_tls(daemon.submissions());
    client.ehlo();
    eventually("the login", || {
        (client.auth_plain("carl@proseware.test", "open sesame").code == 235).then_some(())
    });
    let list = daemon.ctl(&["account", "list"]);
    assert!(list.stdout.contains("carl@proseware.test") && !list.stdout.contains("$argon2id$"), "{list:?}");
}

#[test]
fn a_hostile_control_request_does_not_stop_the_daemon() {
    use std::os::unix::net::UnixStream;
    let mut daemon = Setup::new().start();
    let long = "x".repeat(5_000_000);
    let requests = [
        "\0\u{1}\u{2}garbage\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        "POST /v1/queue/list HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n".to_owned(),
        "POST /v1/queue/list HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{\"filter\"".to_owned(),
        "POST /v1/queue/drop HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}".to_owned(),
        format!("GET /{long} HTTP/1.1\r\n\r\n"),
        format!("POST /v1/queue/list HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n{long}"),
        format!("POST /v1/queue/list HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n{}", "[".repeat(200_000)),
    ];
    for request in requests {
        let mut stream = UnixStream::connect(daemon.folder().join("control.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // The daemon may close before it has read everything.
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    }
    assert!(daemon.is_running());
    assert!(daemon.queue().is_empty());
}

fn check(daemon: &Daemon) -> Output {
    Command::new(env!("CARGO_BIN_EXE_posternd"))
        .args(["check", "--config"])
        .arg(daemon.config())
        .output()
        .unwrap()
}

#[test]
fn check_says_where_and_what_is_meant() {
    let daemon = Setup::new().prepare();
    assert!(check(&daemon).status.success());
    // The file may be named in front of the command, too.
    let missing =
        Command::new(env!("CARGO_BIN_EXE_posternd")).args(["--config", "/nowhere.toml", "check"]).output();
    let said = missing.unwrap();
    assert_eq!(said.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&said.stderr).contains("/nowhere.toml"), "{said:?}");
    let good = std::fs::read_to_string(daemon.config()).unwrap().replace("user = \"root\"\n", "");
    let cases = [
        ("hostnme = \"x\"\n", ":1:1", "hostname"),
        ("routes = 7\n", ":1:1", "route"),
        ("user = 7\n", ":1:8", "string"),
        ("hostname = \n", ":1:", ""),
    ];
    for (line, place, word) in cases {
        std::fs::write(daemon.config(), format!("{line}{good}")).unwrap();
        let output = check(&daemon);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{line}: {text}");
        assert!(text.contains(&format!("postern.toml{place}")) && text.contains(word), "{line}: {text}");
    }
}

#[test]
fn aliases_that_go_round_in_circles_do_not_load() {
    let aliases = "[[domain]]\nname = \"branch.test\"\naliases = { one = [\"two\"], two = [\"one\"] }";
    let output = check(&Setup::new().with(aliases).prepare());
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("one@branch.test -> two@branch.test -> one@branch.test"), "{text}");
}

#[test]
fn a_configuration_that_relays_for_everyone_does_not_load() {
    for network in ["0.0.0.0/0", "::/0", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"] {
        let daemon = Setup::new().trust(network).prepare();
        let output = check(&daemon);
        assert_eq!(output.status.code(), Some(78), "{network}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("accept_open_relay_risk"), "{output:?}");
    }
    let knowingly = "[[relay.trusted_networks]]\nnetwork = \"10.0.0.0/8\"\nlabel = \"all\"\naccept_open_relay_risk = true";
    assert!(check(&Setup::new().with(knowingly).prepare()).status.success());
}

#[test]
fn the_demonstration_runs_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_posternd"))
        .args(["demo", "--once", "--dir"])
        .arg(folder.path().join("demo"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
