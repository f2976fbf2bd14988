//! What a refused client and its administrator are told to do is right, and does what it says.

use std::fs;
use std::net::Ipv4Addr;

use crate::harness::client::Reply;
use crate::harness::{Client, Daemon, Setup, repository};

const ALICE: &str = "alice@proseware.test";
const BOB: &str = "bob@adatum.test";

/// A stranger's attempt to relay, up to the reply to RCPT.
fn relay(daemon: &Daemon) -> Reply {
    let mut client = Client::connect(daemon.mx());
    client.ehlo();
    client.expect("MAIL FROM:<x@client.test>", 250);
    client.command(&format!("RCPT TO:<{BOB}>"))
}

/// What `posternctl explain` prints of a refusal.
fn explained(daemon: &Daemon, reply: &Reply) -> String {
    let text = reply.text();
    let reference = text.split("(ref ").nth(1).unwrap_or_else(|| panic!("no reference in {text:?}"));
    let output = daemon.ctl(&["explain", &reference[..9]]);
    assert_eq!(output.code, 0, "{output:?}");
    daemon.as_usual(&output.stdout)
}

/// Lines that are printed for a file, from their header on.
fn printed_block(text: &str, header: &str) -> String {
    let lines = text.lines().map(str::trim).skip_while(|line| *line != header);
    let block: Vec<&str> = lines.take_while(|line| *line != "then posternctl reload").collect();
    assert!(block.len() > 1, "no {header} in {text}");
    block.join("\n")
}

#[test]
fn printed_lines_are_pasted_as_they_are_and_let_the_client_in() {
    let daemon = Setup::new().with("[relay]\nhost_refresh = \"1h\"").start();
    let text = explained(&daemon, &relay(&daemon));
    assert!(
        text.contains(&format!("grant it to the client: at the end of {}:", daemon.config().display())),
        "{text}"
    );
    let before = fs::read_to_string(daemon.config()).unwrap();
    for header in ["[[relay.grants]]", "[[relay.trusted_networks]]"] {
        fs::write(daemon.config(), format!("{before}\n{}\n", printed_block(&text, header))).unwrap();
        assert_eq!(daemon.ctl(&["reload"]).code, 0);
        assert_eq!(relay(&daemon).code, 250, "{header}");
    }
}

#[test]
fn of_a_wrong_password_the_operator_learns_whether_the_login_can_be_used() {
    let daemon = Setup::new().account("carl@proseware.test", "state = \"disabled\"").start();
    let refused = |name: &str| {
        let mut client = Client::connect_from(Ipv4Addr::LOCALHOST, daemon.submission());
        client.ehlo();
        client.start_tls();
        client.ehlo();
        client.auth_plain(name, "guess")
    };
    let mut replies = Vec::new();
    for (name, said) in [
        (ALICE, "exists and is active"),
        ("carl@proseware.test", "carl@proseware.test exists and is disabled"),
        ("nobody@proseware.test", "there is no login of this name (nobody@proseware.test)"),
    ] {
        let reply = refused(name);
        let text = explained(&daemon, &reply);
        assert!(text.contains(said), "{name}: {text}");
        assert!(!text.contains("sender"), "there is none at AUTH: {text}");
        replies.push(reply.without_reference());
    }
    assert!(replies.iter().all(|reply| *reply == replies[0]), "clients are told the same: {replies:?}");
}

#[test]
fn a_banned_client_reads_why_also_where_tls_comes_first() {
    let daemon = Setup::new().with("auth.guessing.ban_loopback = true").start();
    let output = daemon.ctl(&["ban", "add", "127.77.2.0/24", "--ttl", "1h", "--reason", "spam"]);
    assert_eq!(output.code, 0, "{output:?}");
    let mut client = Client::open_from(Ipv4Addr::new(127, 77, 2, 200), daemon.submissions());
    client.handshake();
    let reply = client.reply();
    assert!(
        reply.text().starts_with("421 4.7.0 connections from your address are not accepted now"),
        "{reply:?}"
    );
    assert!(client.is_closed());
    daemon.wait_for("turned-away", |line| line["limit"] == "banned");
}

#[test]
fn a_ban_that_ends_a_session_is_logged_with_its_network_and_its_end() {
    let guessing = "[auth.guessing]\nban_loopback = true\nmax_failures = 2\ndelay = \"1ms\"\n";
    let daemon = Setup::new().with(guessing).start();
    let mut client = Client::connect_from(Ipv4Addr::new(127, 77, 1, 1), daemon.submission());
    client.ehlo();
    client.start_tls();
    client.ehlo();
    for _ in 0..2 {
        assert_eq!(client.auth_plain(ALICE, "guess").code, 535);
    }
    assert_eq!(client.auth_plain(ALICE, "guess").code, 421);
    let is_moment = |until: &str| until.len() == "2026-11-22T07:00:00Z".len() && until.ends_with('Z');
    for event in ["banned", "turned-away"] {
        let line =
            daemon.wait_for(event, |line| line["network"] == "127.77.1.1/32" && line.get("until").is_some());
        assert!(is_moment(line["until"].as_str().unwrap()), "{line}");
    }
}

#[test]
fn a_server_without_ports_for_logins_does_not_send_people_to_them() {
    let daemon = Setup::new().prepare();
    let text = fs::read_to_string(daemon.config()).unwrap();
    let mut config: toml::Table = text.parse().unwrap();
    config["listener"].as_array_mut().unwrap().retain(|listener| listener["kind"].as_str() == Some("mx"));
    fs::write(daemon.config(), config.to_string()).unwrap();
    let asked = [
        "policy",
        "explain",
        "--offline",
        "--client",
        "198.51.100.9",
        "--from",
        "x@client.test",
        "--to",
        BOB,
    ];
    let output = daemon.ctl(&asked);
    assert!(output.stdout.contains("; this server takes no logins"), "{output:?}");
    assert!(
        output.stdout.contains("no listener takes logins") && !output.stdout.contains("on port 587"),
        "{output:?}"
    );
}

#[test]
fn a_login_without_an_address_is_told_what_it_lacks() {
    let daemon = Setup::new().start();
    let add = |name: &str| daemon.ctl(&["account", "add", name, "--generate"]).stdout;
    let said = add("carol");
    assert!(
        said.contains("send as nobody yet")
            && said.contains("account grant carol --send-as carol@proseware.test"),
        "{said}"
    );
    assert!(!add("carol@proseware.test").contains("nobody yet"));
}

#[test]
fn the_page_about_submission_shows_what_clients_read() {
    let page = fs::read_to_string(repository().join("docs/submission.md")).unwrap();
    let daemon = Setup::new().start();
    let on_clear_submission = |command: &str| {
        let mut client = Client::connect(daemon.submission());
        client.ehlo();
        client.command(command)
    };
    let mut on_mx = Client::connect(daemon.mx());
    on_mx.ehlo();
    let mut under_tls = Client::connect(daemon.submission());
    under_tls.ehlo();
    under_tls.start_tls();
    under_tls.ehlo();
    let wrong = under_tls.auth_plain(ALICE, "guess");
    let mut logged_in = Client::log_in(daemon.submission(), ALICE, crate::harness::daemon::PASSWORD);
    for reply in [
        relay(&daemon),
        on_clear_submission("MAIL FROM:<alice@proseware.test>"),
        on_clear_submission("AUTH PLAIN"),
        on_mx.command("AUTH PLAIN"),
        wrong,
        logged_in.command("MAIL FROM:<office@proseware.test>"),
    ] {
        let text = reply.text();
        let (words, _) = text.split_once("(ref ").unwrap_or_else(|| panic!("no reference: {text}"));
        let words = words.replace("127.0.0.1", "198.51.100.9");
        assert!(page.contains(&format!("`{words}(ref 4QX7-93KD)`")), "{words}");
    }
}

#[test]
fn a_login_is_shown_although_the_configuration_does_not_load() {
    let mut daemon = Setup::new().account("carl@proseware.test", "state = \"disabled\"").start();
    daemon.change_config("no_such_key = 1");
    let show = |daemon: &Daemon| {
        daemon.ctl(&["--socket", &socket(daemon), "account", "show", "carl@proseware.test"])
    };
    let asked = show(&daemon);
    assert!(asked.code == 1 && asked.stderr.contains("no_such_key"), "{asked:?}");
    assert!(asked.stdout.contains("disabled"), "{asked:?}");
    daemon.terminate();
    let from_file = show(&daemon);
    assert!(from_file.code == 1 && from_file.stdout.contains("state in the file  disabled"), "{from_file:?}");
    assert!(from_file.stderr.contains("no_such_key") && from_file.stderr.contains("from the file of logins"));
    let unknown = daemon.ctl(&["account", "show", "nobody"]);
    assert!(unknown.code == 1 && unknown.stderr.contains("no account \"nobody\""), "{unknown:?}");
}

fn socket(daemon: &Daemon) -> String {
    daemon.folder().join("control.sock").display().to_string()
}

#[test]
fn a_reload_that_fails_is_one_line_of_the_log() {
    let daemon = Setup::new().with("[log]\nformat = \"text\"").prepare();
    let mut daemon = daemon;
    daemon.launch();
    daemon.wait_for_line(|line| line.contains("event=\"ready\""));
    daemon.change_config("no_such_key = 1");
    assert_ne!(daemon.ctl(&["--socket", &socket(&daemon), "reload"]).code, 0);
    let line = daemon.wait_for_line(|line| line.contains("reload-failed"));
    for part in ["stays in force: ", "no_such_key", "event=\"reload-failed\""] {
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn a_bundle_about_nothing_says_what_it_can_be_about() {
    let daemon = Setup::new().prepare();
    let output = daemon.ctl(&["doctor", "bundle", "--output", "case.tar"]);
    assert!(output.code == 2 && output.stderr.contains("one of --message, --ref, --bounce"), "{output:?}");
}
