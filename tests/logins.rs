//! Logins: states, networks, app passwords, limits, signs of theft, and who guesses at them.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::thread;

use serde_json::Value as Json;

use crate::harness::client::{Reply, message};
use crate::harness::daemon::PASSWORD;
use crate::harness::mail::contains;
use crate::harness::{Client, Daemon, NextHop, Script, Setup, eventually, repository, skip};

const ALICE: &str = "alice@proseware.test";
const BOB: &str = "bob@proseware.test";
const CARL: &str = "carl@proseware.test";
/// Guessers come from loopback here.
const GUESSING: &str =
    "[auth.guessing]\nban_loopback = true\nmax_failures = 3\ndelay = \"1ms\"\nban = \"1h\"\n";
const GUESSER: Ipv4Addr = Ipv4Addr::new(127, 77, 1, 1);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(127, 77, 1, 2);

#[track_caller]
fn assert_says(reply: &Reply, code: u16, words: &[&str]) {
    let text = reply.text();
    assert_eq!(reply.code, code, "{text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text:?}");
    }
}

/// A client under TLS that has said EHLO.
fn client_from(source: Ipv4Addr, daemon: &Daemon) -> Client {
    let mut client = Client::connect_from(source, daemon.submission());
    client.ehlo();
    client.start_tls();
    client.ehlo();
    client
}

fn client(daemon: &Daemon) -> Client {
    client_from(Ipv4Addr::LOCALHOST, daemon)
}

fn log_in(daemon: &Daemon, name: &str, password: &str) -> Reply {
    client(daemon).auth_plain(name, password)
}

fn ctl(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = daemon.ctl(arguments);
    assert_eq!(output.code, 0, "{arguments:?}: {output:?}");
    output.stdout
}

/// Puts an end that is over in the place of one to come: nobody can make an app password that is over.
fn let_expire(daemon: &Daemon, end: &str) {
    let file = daemon.folder().join("accounts.toml");
    fs::write(&file, fs::read_to_string(&file).unwrap().replace(end, "2001-01-01")).unwrap();
    ctl(daemon, &["reload"]);
}

/// A message of a login to recipients in proseware.test.
fn send(daemon: &Daemon, login: &str, to: &[&str]) -> Reply {
    Client::log_in(daemon.submission(), login, PASSWORD).deliver(login, to, &message(login, to[0], "s", "x"))
}

#[test]
fn a_state_is_told_after_the_right_password_only_and_can_be_explained() {
    let daemon = Setup::new()
        .account(CARL, "state = \"suspended\"\nstate_reason = \"spam on Friday\"")
        .account("dora", "state = \"quota-locked\"")
        .start();
    assert_says(&log_in(&daemon, CARL, "guess"), 535, &["5.7.8", "wrong user name or password"]);
    let refused = log_in(&daemon, CARL, PASSWORD);
    assert_says(&refused, 535, &["5.7.13", "carl@proseware.test is suspended", "(ref "]);
    assert!(!refused.text().contains("Friday"), "the reason is for operators");
    assert_says(&log_in(&daemon, "dora", PASSWORD), 535, &["5.7.13", "dora is quota-locked"]);
    let text = refused.text();
    let reference = text.split("(ref ").nth(1).unwrap().trim_end_matches(')');
    let explained = daemon.ctl(&["explain", reference]);
    for word in ["login-suspended", "spam on Friday", "account unlock carl@proseware.test"] {
        assert!(explained.stdout.contains(word), "no {word:?}: {explained:?}");
    }
    let explained = daemon.ctl(&[
        "policy",
        "explain",
        "--client",
        "198.51.100.9",
        "--listener",
        "submission",
        "--tls",
        "--user",
        CARL,
        "--from",
        CARL,
        "--to",
        BOB,
    ]);
    assert!(explained.code == 1 && explained.stdout.contains("535 5.7.13"), "{explained:?}");
}

#[test]
fn a_login_is_used_from_its_networks_only() {
    let daemon = Setup::new().account(CARL, "networks = [\"127.77.1.0/31\", \"192.0.2.0/24\"]").start();
    let ask = |source| client_from(source, &daemon).auth_plain(CARL, PASSWORD);
    assert_says(&ask(GUESSER), 235, &[]);
    assert_says(&ask(NEIGHBOUR), 535, &["5.7.1", "carl@proseware.test", "127.77.1.2", "(ref "]);
}

#[test]
fn app_passwords_are_named_in_the_log_and_refused_like_wrong_ones() {
    let daemon = Setup::new().start();
    let add = |label: &str, more: &[&str]| {
        let made = daemon.ask(&[&["account", "app-password", "add", ALICE, label], more].concat());
        made["password"].as_str().unwrap().to_owned()
    };
    let phone = add("phone", &[]);
    let scanner = add("scanner", &["--network", "127.77.1.1"]);
    let past = daemon.ctl(&["account", "app-password", "add", ALICE, "guest", "--expires", "2001-01-01"]);
    assert!(past.code == 2 && past.stderr.contains("over already"), "{past:?}");
    let guest = add("guest", &["--expires", "2099-01-01"]);
    let_expire(&daemon, "2099-01-01");
    assert_says(&log_in(&daemon, ALICE, &phone), 235, &[]);
    daemon.wait_for("login", |line| line["app_password"] == "phone");
    assert_says(&client_from(GUESSER, &daemon).auth_plain(ALICE, &scanner), 235, &[]);
    let refused = |password: &str| log_in(&daemon, ALICE, password).without_reference();
    let wrong = refused("wrong");
    assert_eq!(refused(&scanner), wrong);
    assert_eq!(refused(&guest), wrong);
    let logged = daemon.wait_for("app-password-refused", |line| line["app_password"] == "guest");
    assert!(logged["why"].as_str().unwrap().contains("expired"), "{logged}");
    let logged = daemon.wait_for("app-password-refused", |line| line["app_password"] == "scanner");
    assert!(logged["why"].as_str().unwrap().contains("127.0.0.1"), "{logged}");
    let explained = daemon.ctl(&["explain", logged["reference"].as_str().unwrap()]).stdout;
    let why = "the app password \"scanner\" may not be used from 127.0.0.1";
    assert!(explained.contains(why) && !explained.contains("account password"), "{explained}");
    assert_says(&log_in(&daemon, ALICE, PASSWORD), 235, &[]);

    let listed = ctl(&daemon, &["account", "app-password", "list", ALICE]);
    assert!(listed.contains("2001-01-01 (over)") && !listed.contains("$argon2id$"), "{listed}");
    let again = daemon.ctl(&["account", "app-password", "add", ALICE, "phone"]);
    assert!(again.code == 1 && again.stderr.contains("already"), "{again:?}");
    ctl(&daemon, &["account", "app-password", "remove", ALICE, "phone"]);
    assert_eq!(refused(&phone), wrong);
}

#[test]
fn limits_are_counted_by_recipients_and_outlive_a_restart() {
    let limits = "limits = { per_message = 3, per_hour = 4 }";
    let mut daemon = Setup::new()
        .with("domain = [{ name = \"many.test\", catch_all = \"alice@proseware.test\" }]")
        .account(CARL, limits)
        .start();
    let many = ["one@many.test", "two@many.test", "three@many.test", "four@many.test"];
    // One mailbox behind all of them: final recipients count.
    assert_says(&send(&daemon, CARL, &many), 250, &[]);
    assert_eq!(show(&daemon, CARL)["used"]["hour"], 1);
    assert_says(&send(&daemon, CARL, &[ALICE, BOB]), 250, &[]);
    daemon.restart();
    let used = show(&daemon, CARL);
    assert_eq!(used["used"]["hour"], 3, "{used}");

    let mut client = Client::log_in(daemon.submission(), CARL, PASSWORD);
    client.expect(&format!("MAIL FROM:<{CARL}>"), 250);
    client.expect(&format!("RCPT TO:<{ALICE}>"), 250);
    let refused = client.command(&format!("RCPT TO:<{BOB}>"));
    assert_says(
        &refused,
        451,
        &["4.7.1", "4 recipients an hour", "this would make 5", "try again in", "minutes", "(ref "],
    );
    // Postmaster is told once.
    assert_says(&client.command(&format!("RCPT TO:<{BOB}>")), 451, &[]);
    daemon.wait_for("login-alarm", |line| line["cause"] == "limit-per-hour" && line["login"] == CARL);
    let told = daemon.maildir("postmaster@proseware.test").wait_for("carl@proseware.test has a limit");
    assert!(contains(&told.0, "4 recipients an hour") && contains(&told.0, "account lock"), "{told:?}");
    assert_eq!(daemon.maildir("postmaster@proseware.test").messages().len(), 1);
    // Another login has its own.
    assert_says(&send(&daemon, ALICE, &[BOB]), 250, &[]);
}

fn show(daemon: &Daemon, login: &str) -> Json {
    daemon.ask(&["account", "show", login])
}

#[test]
fn recipients_that_are_new_have_a_cap_of_their_own() {
    let hop = NextHop::start(Script::default());
    let daemon = Setup::new()
        .next_hop("adatum.test", &hop)
        .with("auth.limits.new_recipients_per_day = 2")
        .account(CARL, "limits = { new_recipients_per_day = 0 }")
        .start();
    let rcpt = |login: &str, to: &str| {
        let mut client = Client::log_in(daemon.submission(), login, PASSWORD);
        client.expect(&format!("MAIL FROM:<{login}>"), 250);
        client.command(&format!("RCPT TO:<{to}@adatum.test>"))
    };
    for to in ["one@adatum.test", "two@adatum.test", "one@adatum.test"] {
        assert_says(&send(&daemon, ALICE, &[to]), 250, &[]);
    }
    assert_says(&rcpt(ALICE, "three"), 451, &["2 new recipients a day", "hours"]);
    assert_says(&rcpt(ALICE, "TWO"), 250, &[]);
    for to in ["one", "two", "three"] {
        assert_says(&rcpt(CARL, to), 250, &[]);
    }
}

#[test]
fn locking_a_login_is_one_step_and_unlocking_too() {
    let hop = NextHop::start(Script::default().reply("RCPT", "451 4.2.1 busy"));
    let daemon = Setup::new()
        .next_hop("adatum.test", &hop)
        .with("[queue.retry]\nfirst = \"1h\"\ncap = \"4h\"")
        .start();
    let before = fs::read_to_string(daemon.folder().join("accounts.toml")).unwrap();
    fs::write(daemon.folder().join("accounts.toml"), format!("# a note of the operator\n{before}")).unwrap();
    assert_says(&send(&daemon, ALICE, &["x@adatum.test"]), 250, &[]);
    daemon.wait_in_queue("the message", |m| m["state"] == "deferred");
    let mut open = Client::log_in(daemon.submission(), ALICE, PASSWORD);

    let dry = ctl(&daemon, &["account", "lock", "ALICE@proseware.test", "--hold-queue", "--dry-run"]);
    assert!(dry.contains("nothing was changed"), "{dry}");
    open.expect(&format!("MAIL FROM:<{ALICE}>"), 250);
    open.expect("RSET", 250);

    let locked =
        ctl(&daemon, &["account", "lock", "ALICE@proseware.test", "--hold-queue", "--reason", "stolen"]);
    assert!(locked.contains("locked alice@proseware.test") && locked.contains("1 changed"), "{locked}");
    assert_says(&open.command(&format!("MAIL FROM:<{ALICE}>")), 550, &["5.7.13", "suspended"]);
    assert_says(&log_in(&daemon, ALICE, PASSWORD), 535, &["5.7.13"]);
    daemon.wait_in_queue("the held message", |m| m["state"] == "held");
    let shown = show(&daemon, ALICE);
    assert_eq!(
        (shown["state"].as_str(), shown["state_reason"].as_str()),
        (Some("suspended"), Some("stolen"))
    );
    let file = fs::read_to_string(daemon.folder().join("accounts.toml")).unwrap();
    assert!(
        file.starts_with("# a note of the operator\n") && file.contains("state = \"suspended\""),
        "{file}"
    );

    ctl(&daemon, &["account", "unlock", ALICE]);
    assert_says(&log_in(&daemon, ALICE, PASSWORD), 235, &[]);
    assert_says(&send(&daemon, ALICE, &["y@adatum.test"]), 250, &[]);
    // More than one message is asked about, but the lock does not wait for the answer.
    let unasked = daemon.ctl(&["account", "lock", ALICE, "--purge-queue"]);
    assert!(
        unasked.code == 2 && unasked.stderr.contains("alice@proseware.test is locked, but"),
        "{unasked:?}"
    );
    assert_says(&log_in(&daemon, ALICE, PASSWORD), 535, &["5.7.13"]);
    ctl(&daemon, &["account", "unlock", ALICE]);
    assert_says(&open.command(&format!("MAIL FROM:<{ALICE}>")), 250, &[]);
    let purged = ctl(&daemon, &["account", "lock", ALICE, "--purge-queue", "--yes", "--reason", "spam"]);
    assert!(purged.contains("2 changed"), "{purged}");
    daemon.wait_for_empty_queue();
    let audit = ctl(&daemon, &["audit"]);
    for verb in ["account-suspend", "account-lock", "account-unlock"] {
        assert!(audit.contains(verb), "{audit}");
    }
    let enabled = daemon.ctl(&["account", "enable", ALICE]);
    assert!(enabled.code == 1 && enabled.stderr.contains("account unlock alice@"), "{enabled:?}");
    ctl(&daemon, &["account", "unlock", ALICE]);
    let again = daemon.ctl(&["account", "unlock", ALICE]);
    assert!(again.code == 1 && again.stdout.contains("was not locked"), "{again:?}");
    ctl(&daemon, &["account", "disable", ALICE]);
    let refused = log_in(&daemon, ALICE, PASSWORD);
    assert_says(&refused, 535, &["is disabled"]);
    let reference = refused.text().split_once("(ref ").unwrap().1[..9].to_owned();
    let explained = ctl(&daemon, &["explain", &reference]);
    assert!(daemon.as_usual(&explained).contains("posternctl account enable alice@"), "{explained}");
    assert!(explained.contains("state disabled)") && !explained.contains("account unlock"), "{explained}");
    // Whoever lifts locks must not bring it back.
    let unlocked = daemon.ctl(&["account", "unlock", ALICE]);
    assert!(unlocked.code == 1 && unlocked.stderr.contains("account enable alice@"), "{unlocked:?}");
    assert_says(&log_in(&daemon, ALICE, PASSWORD), 535, &["is disabled"]);
    let unknown = daemon.ctl(&["account", "lock", "nobody"]);
    assert!(unknown.code == 1 && unknown.stderr.contains("account list"), "{unknown:?}");
}

/// alice may send; nobody else comes into it.
const ALICE_SENDS: &str = r#"
[[question]]
name = "alice sends"
client = "198.51.100.9"
listener = "submissions"
user = "alice@proseware.test"
from = "alice@proseware.test"
to = "bob@adatum.test"
expect = "accept"
"#;

#[test]
fn a_policy_table_keeps_no_login_from_being_locked_nor_the_server_from_starting() {
    let setup = Setup::new().with("[policy]\ntests = [\"tests.toml\"]");
    fs::write(setup.folder().join("tests.toml"), ALICE_SENDS).unwrap();
    let mut daemon = setup.start();
    let mut open = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    let locked = daemon.ctl(&["account", "lock", ALICE]);
    assert_eq!(locked.code, 0, "{locked:?}");
    assert!(locked.stderr.contains("tests.toml:2") && locked.stderr.contains("is suspended"), "{locked:?}");
    assert_says(&open.command(&format!("MAIL FROM:<{ALICE}>")), 550, &["5.7.13"]);
    assert_says(&log_in(&daemon, ALICE, PASSWORD), 535, &["5.7.13"]);
    // It is in the file, and holds nowhere else.
    let shown = show(&daemon, ALICE);
    assert_eq!((shown["state"].as_str(), shown.get("suspension")), (Some("suspended"), None), "{shown}");
    assert_eq!(daemon.ctl(&["reload"]).code, 0);
    let tested = daemon.ctl(&["policy", "test"]);
    assert!(tested.code == 0 && tested.stdout.contains("as if it were not"), "{tested:?}");
    daemon.restart();
    assert_says(&log_in(&daemon, ALICE, PASSWORD), 535, &["5.7.13"]);
    assert!(ctl(&daemon, &["status"]).contains("is suspended"), "the status warns");
    ctl(&daemon, &["account", "unlock", ALICE]);
    assert_says(&log_in(&daemon, ALICE, PASSWORD), 235, &[]);
    // A question about a login that is gone cannot be asked: nothing is done.
    let removed = daemon.ctl(&["account", "remove", ALICE]);
    assert!(removed.code == 1 && removed.stderr.contains("tests.toml"), "{removed:?}");
    assert_says(&log_in(&daemon, ALICE, PASSWORD), 235, &[]);
}

#[test]
fn a_server_that_is_more_closed_than_its_table_says_starts_and_says_so() {
    let setup = Setup::new().with("[policy]\ntests = [\"tests.toml\"]");
    fs::write(setup.folder().join("tests.toml"), ALICE_SENDS.replace("alice", "nobody")).unwrap();
    let mut daemon = setup.prepare();
    daemon.start();
    daemon.wait_for("policy-test-failed", |line| line.to_string().contains("tests.toml:2"));
    assert!(ctl(&daemon, &["status"]).contains("answered otherwise than expected"));
    let metrics = ctl(&daemon, &["metrics"]);
    assert!(metrics.contains("postern_policy_failed_tests 1"), "{metrics}");
    assert_says(&log_in(&daemon, ALICE, PASSWORD), 235, &[]);
    assert_eq!(daemon.ctl(&["reload"]).code, 1, "a reload has an old configuration that stays in force");
    fs::write(daemon.folder().join("tests.toml"), ALICE_SENDS).unwrap();
    assert_eq!(daemon.ctl(&["reload"]).code, 0);
    assert!(ctl(&daemon, &["metrics"]).contains("postern_policy_failed_tests 0"));
}

#[test]
fn a_login_is_locked_whatever_is_wrong_with_the_configuration() {
    let mut daemon = Setup::new().start();
    let good = fs::read_to_string(daemon.config()).unwrap();
    daemon.change_config("no_such_key = 1");
    let mut open = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    let locked = daemon.ctl(&["account", "lock", ALICE, "--state", "quota-locked", "--reason", "stolen"]);
    assert_eq!(locked.code, 3, "{locked:?}");
    assert!(locked.stdout.contains("holds beside the file") && locked.stdout.contains("no_such_key"));
    assert_says(&open.command(&format!("MAIL FROM:<{ALICE}>")), 550, &["5.7.13", "quota-locked"]);
    fs::write(daemon.config(), &good).unwrap();
    daemon.restart();
    assert_says(&log_in(&daemon, ALICE, PASSWORD), 535, &["quota-locked"]);
    let listed = ctl(&daemon, &["account", "list"]);
    assert!(listed.contains("quota-locked (file: active)"), "{listed}");
    assert!(ctl(&daemon, &["account", "show", ALICE]).contains("by an operator, beside the file: stolen"));
    daemon.change_config("no_such_key = 1");
    let listed = daemon.ctl(&["account", "list"]);
    assert!(listed.code == 1 && listed.stderr.contains("no_such_key"), "{listed:?}");
    assert!(listed.stdout.contains("quota-locked (file: active)"), "{listed:?}");
    let unlocked = daemon.ctl(&["account", "unlock", ALICE]);
    assert_eq!(unlocked.code, 3, "{unlocked:?}");
    assert!(unlocked.stdout.contains("only what held beside the file"), "{unlocked:?}");
    assert!(!unlocked.stdout.contains("until `posternctl account unlock`"), "{unlocked:?}");
    // What is wrong is told line by line, as `config check` tells it.
    assert!(unlocked.stdout.lines().any(|line| line.contains("no_such_key")), "{unlocked:?}");
    assert!(!unlocked.stdout.contains('?'), "{unlocked:?}");
    assert_says(&log_in(&daemon, ALICE, PASSWORD), 235, &[]);
    fs::write(daemon.config(), good).unwrap();
    ctl(&daemon, &["account", "lock", ALICE, "--state", "quota-locked"]);
    assert!(ctl(&daemon, &["account", "show", ALICE]).contains("quota-locked"));
    let file = fs::read_to_string(daemon.folder().join("accounts.toml")).unwrap();
    assert!(file.contains("state = \"quota-locked\""), "{file}");
}

/// The answer to the message of a login, after DATA was taken.
fn end_of_data(client: &mut Client, login: &str) -> Reply {
    client.command(&format!("{}.", message(login, BOB, "s", "x")))
}

#[test]
fn locking_ends_a_transaction_that_is_open() {
    let daemon = Setup::new().start();
    let begin = || {
        let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
        client.expect(&format!("MAIL FROM:<{ALICE}>"), 250);
        client.expect(&format!("RCPT TO:<{BOB}>"), 250);
        client
    };
    for (verb, back) in [
        (&["account", "lock", ALICE, "--purge-queue", "--yes"][..], "unlock"),
        (&["account", "disable", ALICE], "enable"),
    ] {
        let (mut at_rcpt, mut at_data) = (begin(), begin());
        at_data.expect("DATA", 354);
        ctl(&daemon, verb);
        assert_says(&at_rcpt.command(&format!("RCPT TO:<{ALICE}>")), 550, &["5.7.13"]);
        at_rcpt.expect("DATA", 354);
        for mut client in [at_rcpt, at_data] {
            assert_says(&end_of_data(&mut client, ALICE), 550, &["5.7.13"]);
        }
        daemon.wait_for_empty_queue();
        ctl(&daemon, &["account", back, ALICE]);
    }
    // And so does removing it.
    let mut client = begin();
    client.expect("DATA", 354);
    ctl(&daemon, &["account", "remove", ALICE]);
    assert_says(&end_of_data(&mut client, ALICE), 530, &["5.7.0"]);
    assert!(daemon.maildir(BOB).messages().is_empty());
}

#[test]
fn a_session_ends_with_the_password_that_opened_it() {
    let daemon = Setup::new().start();
    let made = daemon.ask(&["account", "app-password", "add", ALICE, "phone"]);
    let phone = made["password"].as_str().unwrap().to_owned();
    let session = |password: &str| Client::log_in(daemon.submission(), ALICE, password);
    let (mut at_mail, mut at_data, mut other) = (session(&phone), session(&phone), session(PASSWORD));
    at_data.expect(&format!("MAIL FROM:<{ALICE}>"), 250);
    at_data.expect(&format!("RCPT TO:<{BOB}>"), 250);
    at_data.expect("DATA", 354);
    ctl(&daemon, &["account", "app-password", "remove", ALICE, "phone"]);
    assert_says(&at_mail.command(&format!("MAIL FROM:<{ALICE}>")), 530, &["5.7.0"]);
    assert_says(&end_of_data(&mut at_data, ALICE), 530, &["5.7.0"]);
    other.expect(&format!("MAIL FROM:<{ALICE}>"), 250);
    other.expect("RSET", 250);
    let made = daemon.ask(&["account", "password", ALICE, "--generate"]);
    assert_says(&other.command(&format!("MAIL FROM:<{ALICE}>")), 530, &["5.7.0"]);
    assert_says(&other.auth_plain(ALICE, PASSWORD), 535, &["5.7.8"]);
    assert_says(&other.auth_plain(ALICE, made["password"].as_str().unwrap()), 235, &[]);
    other.expect(&format!("MAIL FROM:<{ALICE}>"), 250);
}

#[test]
fn an_old_app_password_bans_nobody() {
    let daemon = Setup::new().with(GUESSING).start();
    let made = daemon.ask(&["account", "app-password", "add", ALICE, "old", "--expires", "2099-01-01"]);
    let_expire(&daemon, "2099-01-01");
    let old = made["password"].as_str().unwrap();
    for _ in 0..5 {
        assert_says(&client_from(GUESSER, &daemon).auth_plain(ALICE, old), 535, &["5.7.8"]);
    }
    assert_says(&client_from(GUESSER, &daemon).auth_plain(ALICE, PASSWORD), 235, &[]);
    assert_eq!(ctl(&daemon, &["ban", "list"]), "nobody is banned\n");
}

#[test]
fn the_addresses_of_this_machine_cannot_be_banned() {
    let daemon = Setup::new()
        .with("listener = [{ kind = \"mx\", address = \"0.0.0.0:0\" }]")
        .with("outbound.source_addresses = [\"192.0.2.26\"]\npolicy.public_addresses = [\"192.0.2.25\"]")
        .start();
    let refused = |address: &str| {
        let refused = daemon.ctl(&["ban", "add", address]);
        assert!(refused.code == 2 && refused.stderr.contains("never banned"), "{address}: {refused:?}");
    };
    ["192.0.2.26", "192.0.2.25", "192.0.2.24/30"].iter().for_each(|address| refused(address));
    ctl(&daemon, &["ban", "add", "192.0.2.27"]);
    let interfaces = postern_daemon::interfaces::addresses();
    match interfaces.iter().find(|address| !address.is_loopback()) {
        Some(own) => refused(&own.to_string()),
        None => skip("this machine has loopback only"),
    }
}

#[test]
fn what_the_server_has_suspended_is_listed_so() {
    let daemon = Setup::new().with("[auth.signs]\nsenders_per_hour = 1\nsuspend = true\n").start();
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    client.expect(&format!("MAIL FROM:<{ALICE}>"), 250);
    assert!(ctl(&daemon, &["account", "list"]).contains("suspended (by the server)"));
    let mut daemon = daemon;
    assert!(daemon.terminate().success());
    let alone = daemon.ctl(&["account", "list"]);
    assert!(alone.code == 0 && alone.stdout.contains("active"), "{alone:?}");
    assert!(alone.stderr.contains("the states are those of the file"), "{alone:?}");
}

#[test]
fn limits_hold_for_sessions_at_the_same_time_and_refused_mail_costs_nothing() {
    let hop = NextHop::start(Script::default());
    let daemon = Setup::new()
        .next_hop("adatum.test", &hop)
        .account(CARL, "limits = { per_hour = 2, new_recipients_per_day = 2 }")
        .start();
    let begin = |to: [&str; 2]| {
        let mut client = Client::log_in(daemon.submission(), CARL, PASSWORD);
        client.expect(&format!("MAIL FROM:<{CARL}>"), 250);
        to.iter().for_each(|to| drop(client.expect(&format!("RCPT TO:<{to}@adatum.test>"), 250)));
        client
    };
    let refused = |client: &mut Client| {
        assert_says(&client.content(&message(ALICE, "x@adatum.test", "s", "x")), 550, &["From header"]);
    };
    // Refused, reset, or cut off: its new recipients are as new as before.
    refused(&mut begin(["one", "two"]));
    begin(["three", "four"]).expect("RSET", 250);
    drop(begin(["five", "six"]));
    eventually("the end of the transaction", || {
        (show(&daemon, CARL)["used"]["new_recipients"] == 0).then_some(())
    });
    let (mut first, mut second) = (begin(["one", "two"]), begin(["one", "two"]));
    let deliver = |client: &mut Client| client.content(&message(CARL, "one@adatum.test", "s", "x"));
    assert_says(&deliver(&mut first), 250, &[]);
    assert_says(&deliver(&mut second), 451, &["2 recipients an hour"]);
    let used = show(&daemon, CARL);
    assert_eq!((&used["used"]["hour"], &used["used"]["new_recipients"]), (&2.into(), &2.into()), "{used}");
}

#[test]
fn a_password_is_made_where_none_is_given_and_weak_ones_are_refused() {
    let daemon = Setup::new().start();
    let add = |name: &str, more: &[&str], input: &str| {
        daemon.ctl_with_input(&[&["account", "add", name], more].concat(), input)
    };
    for weak in ["short\n", "xx-carl-2026-xx\n", "Password2026!\n"] {
        let refused = add(CARL, &["--password-stdin"], weak);
        assert!(refused.code == 2 && refused.stderr.contains("--allow-weak"), "{refused:?}");
    }
    let taken = add(CARL, &["--password-stdin", "--allow-weak"], "short\n");
    assert_eq!(taken.code, 0, "{taken:?}");
    assert_says(&log_in(&daemon, CARL, "short"), 235, &[]);
    let made = daemon.ask(&["account", "add", "dora", "--generate"]);
    assert_says(&log_in(&daemon, "dora", made["password"].as_str().unwrap()), 235, &[]);
}

#[test]
fn who_guesses_is_banned_for_a_while_also_after_a_restart_and_neighbours_are_not() {
    let mut daemon = Setup::new().with(GUESSING).start();
    let mut guesser = client_from(GUESSER, &daemon);
    for _ in 0..3 {
        assert_says(&guesser.auth_plain(ALICE, "guess"), 535, &["5.7.8"]);
    }
    daemon.wait_for("banned", |line| line["network"] == "127.77.1.1/32");
    assert_says(&guesser.auth_plain(ALICE, PASSWORD), 421, &["4.7.0"]);
    assert!(guesser.is_closed());
    let connect = |daemon: &Daemon| Client::open_from(GUESSER, daemon.submission()).reply();
    assert_says(&connect(&daemon), 421, &["4.7.0", "too many failed logins"]);
    // Mail from there to us is still taken; so are logins from elsewhere.
    Client::connect_from(GUESSER, daemon.mx());
    assert_says(&client_from(NEIGHBOUR, &daemon).auth_plain(ALICE, PASSWORD), 235, &[]);
    daemon.restart();
    assert_says(&connect(&daemon), 421, &["4.7.0"]);
    let listed = ctl(&daemon, &["ban", "list"]);
    assert!(listed.contains("127.77.1.1") && listed.contains("3 wrong logins"), "{listed}");
    ctl(&daemon, &["ban", "remove", "127.77.1.1"]);
    assert_says(&client_from(GUESSER, &daemon).auth_plain(ALICE, PASSWORD), 235, &[]);
    let none = daemon.ctl(&["ban", "remove", "127.77.1.1"]);
    assert_eq!(none.code, 1, "{none:?}");
}

#[test]
fn a_ban_ends_by_itself() {
    let daemon = Setup::new().with(GUESSING).with("auth.guessing.ban = \"1s\"").start();
    let mut guesser = client_from(GUESSER, &daemon);
    for _ in 0..3 {
        guesser.auth_plain(ALICE, "guess");
    }
    eventually("the end of the ban", || {
        let mut client = Client::open_from(GUESSER, daemon.submission());
        (client.reply().code == 220).then_some(())
    });
}

#[test]
fn operators_ban_and_the_servers_own_are_never_banned() {
    let daemon = Setup::new().with(GUESSING).trust("127.77.9.0/24").start();
    ctl(&daemon, &["ban", "add", "127.77.2.0/24", "--ttl", "1h", "--reason", "spam"]);
    for address in [daemon.mx(), daemon.submission()] {
        let mut client = Client::open_from(Ipv4Addr::new(127, 77, 2, 200), address);
        let reply = client.reply();
        assert_says(&reply, 421, &["4.7.0", "ask postmaster"]);
        assert!(!reply.text().contains("failed logins"), "nobody guessed: {reply:?}");
    }
    let own = daemon.mx().ip().to_string();
    let listens = format!("this server listens at {own}");
    for (spared, why) in
        [(own.as_str(), listens.as_str()), ("127.77.9.1", "trusted network 127.77.9.0/24 (office)")]
    {
        let refused = daemon.ctl(&["ban", "add", spared]);
        assert!(refused.code != 0 && refused.stderr.contains("never banned"), "{refused:?}");
        assert!(refused.stderr.contains(why), "{refused:?}");
    }
    let mut trusted = client_from(Ipv4Addr::new(127, 77, 9, 1), &daemon);
    for _ in 0..6 {
        assert_says(&trusted.auth_plain(ALICE, "guess"), 535, &[]);
    }
    assert_says(&trusted.auth_plain(ALICE, PASSWORD), 235, &[]);
    let audit = ctl(&daemon, &["audit"]);
    assert!(audit.contains("ban-add") && audit.contains("127.77.2.0/24"), "{audit}");
    // Most likely one address: who bans a whole /8 must have written so.
    let ambiguous = daemon.ctl(&["ban", "add", "203.0.113.7/8"]);
    assert_eq!((ambiguous.code, ambiguous.stderr.contains("host bits")), (2, true), "{ambiguous:?}");
    assert!(ambiguous.stderr.contains("203.0.113.7 for the one address"), "{ambiguous:?}");
    let large = daemon.ctl(&["ban", "add", "112.0.0.0/4"]);
    assert!(large.code == 2 && large.stderr.contains("too large"), "{large:?}");
}

#[test]
fn a_login_guessed_from_many_addresses_raises_an_alarm_and_is_not_locked() {
    let daemon = Setup::new().with(GUESSING).with("auth.guessing.alarm_addresses = 4").start();
    for host in 1..=4 {
        let source = Ipv4Addr::new(127, 77, 3, host);
        assert_says(&client_from(source, &daemon).auth_plain(ALICE, "guess"), 535, &[]);
    }
    let alarm = daemon.wait_for("login-alarm", |line| line["cause"] == "guessed-from-many-addresses");
    assert_eq!(alarm["login"], ALICE);
    daemon.wait_for("postmaster-told", |line| line["login"] == ALICE);
    assert_says(&log_in(&daemon, ALICE, PASSWORD), 235, &[]);
}

#[test]
fn a_login_that_looks_stolen_is_reported_and_where_that_is_on_suspended() {
    let signs = "[auth.signs]\nsenders_per_hour = 3\nsuspend = true\n";
    let mut daemon = Setup::new().with(signs).account("agency", "permission = \"any\"").start();
    let mut client = Client::log_in(daemon.submission(), "agency", PASSWORD);
    for sender in ["a@one.test", "b@two.test", "c@three.test"] {
        client.expect(&format!("MAIL FROM:<{sender}>"), 250);
        client.expect("RSET", 250);
    }
    assert_says(&client.command("MAIL FROM:<d@four.test>"), 550, &["5.7.13", "suspended"]);
    let alarm = daemon.wait_for("login-alarm", |line| line["cause"] == "many-senders");
    assert_eq!(alarm["suspended"], true);
    let mail = daemon.maildir("postmaster@proseware.test").wait_for("account unlock agency");
    assert!(contains(&mail.0, "agency used 3 different senders in an hour"));
    assert_says(&log_in(&daemon, ALICE, PASSWORD), 235, &[]);
    daemon.restart();
    assert_says(&log_in(&daemon, "agency", PASSWORD), 535, &["5.7.13"]);
    assert!(ctl(&daemon, &["account", "show", "agency"]).contains("suspended by the server"));
    ctl(&daemon, &["account", "unlock", "agency"]);
    assert_says(&log_in(&daemon, "agency", PASSWORD), 235, &[]);
}

#[test]
fn a_damaged_state_file_does_not_keep_the_server_from_starting() {
    let daemon = Setup::new().with(GUESSING).prepare();
    let folder = daemon.folder().join("spool/policy");
    fs::create_dir_all(&folder).unwrap();
    for name in ["usage.json", "bans.json", "suspensions.json"] {
        fs::write(folder.join(name), "{ damaged").unwrap();
    }
    let mut daemon = daemon;
    daemon.start();
    daemon.wait_for("state-damaged", |_| true);
    assert_says(&log_in(&daemon, ALICE, PASSWORD), 235, &[]);
    assert!(!fs::read_to_string(folder.join("bans.json")).is_ok_and(|text| text.contains("damaged")));
}

/// How long it waits at most is tested where the turns are.
#[test]
fn a_flood_of_wrong_logins_from_few_addresses_does_not_starve_a_right_one() {
    let daemon = Setup::new().with("[auth.guessing]\nmax_failures = 0\n").start();
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        for thread in 0..8 {
            let (stop, daemon) = (&stop, &daemon);
            scope.spawn(move || {
                let source = Ipv4Addr::new(127, 77, 4, 1 + thread % 2);
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let mut client = client_from(source, daemon);
                    for _ in 0..5 {
                        client.auth_plain("nobody", "guess");
                    }
                }
            });
        }
        daemon.wait_for("login-failed", |_| true);
        let reply = log_in(&daemon, ALICE, PASSWORD);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_says(&reply, 235, &[]);
    });
}

/// The lines that a daemon with this format of the log really writes about a wrong login: one of an honest client, and one
/// whose user name tries to blame somebody else.
fn logged_failures(format: &str) -> Vec<String> {
    let mut daemon = Setup::new().with(&format!("log.format = {format:?}")).prepare();
    daemon.launch();
    let submission = eventually("the submission port", || {
        let status = daemon.ctl(&["status", "--json"]);
        let status: Json = serde_json::from_str(&status.stdout).ok()?;
        let listeners = status["listeners"].as_array()?.clone();
        let found = listeners.iter().find(|listener| listener["kind"] == "submission")?.clone();
        found["address"].as_str()?.parse().ok()
    });
    for (source, name) in
        [(GUESSER, "nobody"), (NEIGHBOUR, "x\" client=192.0.2.1 listener=\"x\",\"client\":\"192.0.2.1\",")]
    {
        let mut client = Client::connect_from(source, submission);
        client.ehlo();
        client.start_tls();
        client.ehlo();
        assert_says(&client.auth_plain(name, "guess"), 535, &[]);
    }
    [GUESSER, NEIGHBOUR]
        .map(|source| {
            daemon.wait_for_line(|line| line.contains("login-failed") && line.contains(&source.to_string()))
        })
        .into()
}

/// The expressions of the filter that we ship, with a named group in the place of <HOST>.
fn fail2ban_expressions() -> Vec<regex::Regex> {
    let filter = fs::read_to_string(repository().join("packaging/fail2ban/filter.d/postern.conf")).unwrap();
    let (_, rest) = filter.split_once("failregex =").unwrap();
    let (expressions, _) = rest.split_once("\n\n").unwrap();
    let expressions: Vec<_> = expressions.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(expressions.len(), 2);
    expressions
        .iter()
        .map(|line| regex::Regex::new(&line.replace("<HOST>", r"(?P<host>[0-9a-f.:]+)")).unwrap())
        .collect()
}

#[test]
fn the_fail2ban_filter_finds_the_address_in_our_log_and_no_other() {
    let expressions = fail2ban_expressions();
    let date = regex::Regex::new(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z").unwrap();
    for (format, expression) in ["text", "json"].into_iter().zip(&expressions) {
        for (line, source) in logged_failures(format).iter().zip([GUESSER, NEIGHBOUR]) {
            // fail2ban cuts the date out first; the journal and syslog put their own in front.
            let cut = date.replace(line, "").into_owned();
            for line in [cut.clone(), format!("mail posternd[42]:{cut}")] {
                let found = expression
                    .captures(&line)
                    .unwrap_or_else(|| panic!("{expression} does not match {line}"));
                assert_eq!(found["host"], source.to_string(), "{line}");
            }
        }
    }
}

/// With the program itself, where it is installed.
#[test]
fn fail2ban_itself_takes_the_filter() {
    let Ok(output) = Command::new("fail2ban-regex").arg("--version").output() else {
        return skip("fail2ban-regex is not installed");
    };
    assert!(output.status.success());
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("postern.log");
    let lines: Vec<String> = ["text", "json"].into_iter().flat_map(logged_failures).collect();
    fs::write(&log, lines.join("\n") + "\n").unwrap();
    let filter = repository().join("packaging/fail2ban/filter.d/postern.conf");
    let output = Command::new("fail2ban-regex").arg(&log).arg(&filter).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("4 matched, 0 missed"), "{said}");
}

#[test]
fn the_command_that_a_refusal_names_lets_the_sender_pass() {
    let daemon = Setup::new().start();
    let mail = "MAIL FROM:<desk@proseware.test>";
    let mut open = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    let refused = open.command(mail).text();
    assert!(refused.starts_with("550 5.7.1"), "{refused}");
    let reference = refused.split("(ref ").nth(1).unwrap().trim_end_matches(')');
    let record = daemon.ctl(&["explain", reference, "--json"]).json();
    let remedy = record["remedies"][0].as_str().unwrap();
    let command = remedy.split('`').nth(1).unwrap().strip_prefix("posternctl ").unwrap();
    let granted = ctl(&daemon, &command.split(' ').collect::<Vec<_>>());
    assert!(granted.contains("may now send as more: alice@proseware.test"), "{granted}");
    open.expect(mail, 250);
    open.expect("RSET", 250);
    let again = daemon.ctl(&["account", "grant", ALICE, "--send-as", "desk@proseware.test"]);
    assert!(again.code == 1 && again.stderr.contains("has it already"), "{again:?}");
    ctl(&daemon, &["account", "revoke", ALICE, "--send-as", "desk@proseware.test"]);
    assert_says(&open.command(mail), 550, &["5.7.1"]);
    let nothing = daemon.ctl(&["account", "grant", ALICE]);
    assert!(nothing.code == 2 && nothing.stderr.contains("--send-as"), "{nothing:?}");
    let audit = ctl(&daemon, &["audit"]);
    assert!(audit.contains("account-grant") && audit.contains("account-revoke"), "{audit}");
}
