//! Who may send as whom, where DNS has a say: SPF, the owner's lock, domains that are verified.

use std::net::Ipv4Addr;
use std::process::Command;

use hickory_proto::rr::RecordType;
use serde_json::Value as Json;

use crate::harness::client::{Reply, message};
use crate::harness::daemon::PASSWORD;
use crate::harness::{Client, Daemon, Setup, eventually};

/// By which the world knows the server of these tests.
const OURS: &str = "policy.public_addresses = [\"192.0.2.25\"]\npolicy.sender_dns_refresh = \"0s\"\n";

/// With a login that may send as anybody whose SPF record covers the server.
fn agency() -> Setup {
    Setup::new().with(OURS).account("agency@proseware.test", "permission = \"any\"\nany_if_spf = true")
}

fn log_in(daemon: &Daemon, login: &str) -> Client {
    Client::log_in(daemon.submission(), login, PASSWORD)
}

/// The reply to MAIL FROM.
fn mail_from(daemon: &Daemon, login: &str, sender: &str) -> Reply {
    log_in(daemon, login).command(&format!("MAIL FROM:<{sender}>"))
}

/// The reply to a message of alice to herself whose header names this sender.
fn header_from(client: &mut Client, from: &str) -> Reply {
    client.deliver("alice@proseware.test", &["alice@proseware.test"], &message(from, "a@b.test", "s", "x"))
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
fn a_login_may_use_domains_whose_spf_record_covers_this_server() {
    let setup = agency();
    setup.dns().txt("adatum.test", "v=spf1 include:_spf.adatum.test -all");
    setup.dns().txt("_spf.adatum.test", "v=spf1 ip4:192.0.2.0/24 ~all");
    setup.dns().txt("thephone-company.test", "v=spf1 ip4:198.51.100.7 -all");
    let daemon = setup.start();
    let ask = |sender| mail_from(&daemon, "agency@proseware.test", sender);
    assert_says(&ask("news@adatum.test"), 250, &[]);
    let words = ["5.7.1", "thephone-company.test", "SPF", "fail", "192.0.2.25", "(ref "];
    assert_says(&ask("news@thephone-company.test"), 550, &words);
    assert_says(&ask("news@nowhere.test"), 550, &["none"]);
    // Its own address is its own.
    assert_says(&ask("agency@proseware.test"), 250, &[]);
    // What the header says is asked about as well.
    let mut client = log_in(&daemon, "agency@proseware.test");
    client.expect("MAIL FROM:<agency@proseware.test>", 250);
    client.expect("RCPT TO:<alice@proseware.test>", 250);
    client.expect("DATA", 354);
    assert_says(&client.command("From: x@thephone-company.test\r\n\r\nhello\r\n."), 550, &["SPF"]);
}

#[test]
fn a_session_that_is_open_has_looked_up_what_a_reload_asks_for() {
    let daemon = Setup::new().start();
    let mut client = log_in(&daemon, "alice@proseware.test");
    daemon.change_config("policy.owners_lock = true");
    daemon.ask(&["reload"]);
    assert_says(&client.command("MAIL FROM:<alice@proseware.test>"), 250, &[]);
    assert_eq!(daemon.dns().asked("_postern.proseware.test", RecordType::TXT), 1);
}

#[test]
fn dns_trouble_is_never_a_pass_and_never_a_lasting_no() {
    let setup = agency().with("policy.owners_lock = true");
    setup.dns().txt("adatum.test", "v=spf1 +all");
    setup.dns().fail("adatum.test", true);
    let daemon = setup.start();
    let ask = || mail_from(&daemon, "agency@proseware.test", "news@adatum.test");
    assert_says(&ask(), 451, &["4.4.3", "adatum.test", "SPF", "try again later"]);
    daemon.dns().fail("adatum.test", false);
    assert_says(&ask(), 250, &[]);
    // A pass of a moment ago does not stand for one that DNS does not give now.
    daemon.dns().fail("adatum.test", true);
    assert_says(&ask(), 451, &["4.4.3"]);
}

#[test]
fn the_owner_of_a_domain_names_its_only_logins() {
    let daemon = Setup::new().with(OURS).with("policy.owners_lock = true").start();
    let dns = daemon.dns();
    let lock = |record: &str| dns.txt("_postern.proseware.test", record);
    let ask = |login: &str| mail_from(&daemon, login, login);
    assert_says(&ask("bob@proseware.test"), 250, &[]);
    lock("v=postern1; logins=alice@proseware.test");
    assert_says(&ask("alice@proseware.test"), 250, &[]);
    let words = ["5.7.1", "bob@proseware.test", "_postern.proseware.test"];
    assert_says(&ask("bob@proseware.test"), 550, &words);
    // While DNS does not answer, the last known lock holds.
    dns.fail("_postern.proseware.test", true);
    assert_says(&ask("alice@proseware.test"), 250, &[]);
    assert_says(&ask("bob@proseware.test"), 550, &["_postern.proseware.test"]);
    dns.fail("_postern.proseware.test", false);
    lock("v=postern1; login=alice@proseware.test");
    assert_says(
        &ask("alice@proseware.test"),
        550,
        &["_postern.proseware.test", "cannot be understood", "logins="],
    );
}

#[test]
fn a_lock_that_was_never_known_defers_while_dns_does_not_answer() {
    let setup = Setup::new().with("policy.owners_lock = true");
    setup.dns().fail("_postern.proseware.test", true);
    let daemon = setup.start();
    let reply = mail_from(&daemon, "alice@proseware.test", "alice@proseware.test");
    assert_says(&reply, 451, &["4.4.3", "_postern.proseware.test"]);
    assert!(daemon.dns().asked("_postern.proseware.test", RecordType::TXT) > 0);
}

#[test]
fn without_the_options_dns_is_not_asked_about_senders() {
    let daemon = Setup::new().start();
    assert_says(&mail_from(&daemon, "alice@proseware.test", "alice@proseware.test"), 250, &[]);
    for name in ["_postern.proseware.test", "proseware.test"] {
        assert_eq!(daemon.dns().asked(name, RecordType::TXT), 0, "{name}");
    }
}

#[test]
fn explain_asks_dns_as_a_session_would() {
    let setup = agency();
    setup.dns().txt("adatum.test", "v=spf1 ip4:192.0.2.25 -all");
    let daemon = setup.start();
    let explain = |from: &str| {
        daemon.ctl(&[
            "policy",
            "explain",
            "--client",
            "198.51.100.9",
            "--listener",
            "submission",
            "--tls",
            "--user",
            "agency@proseware.test",
            "--from",
            from,
            "--to",
            "alice@proseware.test",
        ])
    };
    let covered = explain("x@adatum.test");
    assert!(covered.stdout.contains("adatum.test lets this server send for it"), "{}", covered.stdout);
    let refused = explain("x@thephone-company.test");
    assert!(refused.stdout.contains("spf-does-not-cover"), "{}", refused.stdout);
}

#[test]
fn clients_that_did_not_log_in_are_not_bound_by_the_header() {
    let daemon = Setup::new().with("policy.owners_lock = true").start();
    let mut client = Client::connect_from(Ipv4Addr::new(127, 77, 0, 20), daemon.mx());
    client.ehlo();
    assert_says(&header_from(&mut client, "bob@adatum.test"), 250, &[]);
}

const ALICE: &str = "alice@proseware.test";

/// Domains must be verified, and are looked at all the time. proseware.test signs with a key.
fn verifying(mode: &str) -> Setup {
    let setup = Setup::new().with(OURS).with(&format!(
        "[policy]\nrequire_verified = {mode:?}\nverify_failures = 2\nverify_pending_every = \"100ms\"\nverify_every = \"100ms\""
    ));
    let keys = setup.folder().join("keys");
    let generated = Command::new(env!("CARGO_BIN_EXE_posternctl"))
        .arg("--config")
        .arg(setup.folder().join("postern.toml"))
        .args(["dkim", "generate", "--domain", "proseware.test", "--selector", "2026a", "--out"])
        .arg(&keys)
        .output()
        .unwrap();
    assert!(generated.status.success(), "{generated:?}");
    // Not a second [[domain]]: the key is one of the first.
    let key = keys.join("proseware.test.2026a.pem");
    setup.with(&format!(
        "domain = [{{ name = \"signed.test\", mailboxes = [\"dora\"], dkim = [{{ selector = \"2026a\", key = {:?} }}] }}]",
        key.display().to_string()
    ))
    .account("dora@signed.test", "")
}

/// Publishes what `posternctl domain records` prints.
fn publish(daemon: &Daemon, arguments: &[&str]) {
    let printed = daemon.ask(&[&["domain", "records"], arguments].concat());
    for record in printed["records"].as_array().unwrap() {
        let text = |key: &str| record[key].as_str().unwrap();
        match text("type") {
            "TXT" => daemon.dns().txt(text("name"), text("value")),
            "CNAME" => daemon.dns().cname(text("name"), text("value")),
            "MX" => {}
            other => panic!("{other}"),
        }
    }
}

/// What is known of a domain.
fn known(daemon: &Daemon, domain: &str) -> Json {
    let list = daemon.ask(&["domain", "list"]);
    list["domains"].as_array().unwrap().iter().find(|view| view["name"] == domain).unwrap().clone()
}

fn wait_for_state(daemon: &Daemon, domain: &str, state: &str) {
    eventually(state, || (known(daemon, domain)["state"] == state).then_some(()));
}

#[test]
fn a_domain_may_be_sent_from_once_it_publishes_what_records_prints() {
    // The operator is to find it, not the timer.
    let mut daemon = verifying("enforce").with("policy.verify_pending_every = \"1h\"").start();
    eventually("a look-up", || known(&daemon, "signed.test")["checked"].as_u64());
    let ask = |daemon: &Daemon| mail_from(daemon, "dora@signed.test", "dora@signed.test");
    let words = ["5.7.1", "signed.test", "SPF", "DKIM 2026a", "DMARC", "(ref "];
    assert_says(&ask(&daemon), 550, &words);
    let status = daemon.ctl(&["status"]);
    assert!(status.stdout.contains("the domain signed.test is pending"), "{status:?}");

    publish(&daemon, &["signed.test"]);
    let verified = daemon.ctl(&["domain", "verify", "signed.test"]);
    assert_eq!(verified.code, 0, "{verified:?}");
    assert!(
        verified.stdout.contains("state      verified") && verified.stdout.contains("is ours"),
        "{verified:?}"
    );
    daemon.wait_for("domain-state", |line| line["domain"] == "signed.test" && line["to"] == "verified");
    assert_says(&ask(&daemon), 250, &[]);
    let metrics = daemon.ctl(&["metrics"]).stdout;
    assert!(metrics.contains("postern_domains{state=\"verified\"} 1"), "{metrics}");
    assert!(!daemon.ctl(&["status"]).stdout.contains("the domain signed.test is"));
    let audit = daemon.ask(&["audit"]);
    let event =
        audit["events"].as_array().unwrap().iter().find(|event| event["verb"] == "domain-verify").unwrap();
    assert_eq!((event["object"].as_str(), event["changed"].as_u64()), (Some("signed.test"), Some(1)));

    // What is known outlives a restart while DNS is away.
    for name in ["signed.test", "_dmarc.signed.test", "2026a._domainkey.signed.test"] {
        daemon.dns().fail(name, true);
    }
    assert!(daemon.terminate().success());
    daemon.start();
    assert_says(&ask(&daemon), 250, &[]);
}

#[test]
fn aliases_to_names_of_ours_are_enough() {
    let daemon = verifying("enforce").start();
    publish(&daemon, &["signed.test", "--cnames"]);
    daemon.dns().txt("_dmarc.signed.test", "v=DMARC1; p=reject");
    let verified = daemon.ctl(&["domain", "verify", "signed.test"]);
    assert_eq!(verified.code, 0, "{verified:?}");
    assert!(verified.stdout.contains("postern-return.signed.test is an alias of return.mail.proseware.test"));
}

#[test]
fn a_verified_domain_fails_when_its_records_stay_away_but_not_for_trouble_with_dns() {
    let daemon = verifying("warn").start();
    publish(&daemon, &["signed.test"]);
    wait_for_state(&daemon, "signed.test", "verified");
    daemon.dns().fail("signed.test", true);
    let before = daemon.dns().asked("signed.test", RecordType::TXT);
    eventually("several look-ups", || {
        (daemon.dns().asked("signed.test", RecordType::TXT) > before + 8).then_some(())
    });
    let troubled = known(&daemon, "signed.test");
    assert_eq!(
        (troubled["state"].as_str(), troubled["outcome"].as_str()),
        (Some("verified"), Some("undecided"))
    );
    daemon.dns().fail("signed.test", false);
    daemon.dns().txts("signed.test", &["v=spf1 -all", "v=spf1 ip4:192.0.2.25 -all"]);
    wait_for_state(&daemon, "signed.test", "failed");
    let shown = daemon.ctl(&["domain", "show", "signed.test"]);
    assert_eq!(shown.code, 1);
    assert!(shown.stdout.contains("2 SPF records"), "{shown:?}");
}

#[test]
fn with_warn_mail_is_taken_and_said_to_be() {
    let daemon = verifying("warn").start();
    assert_says(&mail_from(&daemon, ALICE, ALICE), 250, &[]);
    let warned = daemon.wait_for("domain-not-verified", |line| line["login"] == ALICE);
    assert!(warned["message"].as_str().unwrap().contains("proseware.test is "), "{warned}");
    assert!(daemon.ctl(&["status"]).stdout.contains("its mail is taken all the same"));
}

#[test]
fn domains_can_be_looked_up_without_the_daemon() {
    let daemon = verifying("off").start();
    let lacking = daemon.ctl(&["domain", "verify", "--all", "--offline"]);
    assert_eq!(lacking.code, 1, "{lacking:?}");
    let publish = "publish: signed.test. IN TXT \"v=spf1 ip4:192.0.2.25 ~all\"";
    assert!(lacking.stdout.contains(publish), "{lacking:?}");
    // The daemon was not asked, and knows nothing of it.
    assert_eq!(known(&daemon, "signed.test")["checked"], Json::Null);
    let zone = daemon.ctl(&["domain", "records", "signed.test", "--format", "zone"]).stdout;
    // An RSA key is longer than one string of a TXT record.
    assert!(zone.contains("2026a._domainkey.signed.test. IN TXT ( \"v=DKIM1; k=rsa; p="), "{zone}");
}

#[test]
fn domains_that_are_not_here_are_named() {
    let daemon = verifying("off").start();
    for arguments in [
        &["domain", "verify", "nowhere.test"][..],
        &["domain", "verify", "nowhere.test", "--offline"],
        &["domain", "show", "nowhere.test"],
        &["domain", "records", "nowhere.test"],
    ] {
        let output = daemon.ctl(arguments);
        assert_eq!(output.code, 1, "{output:?}");
        assert!(output.stderr.contains("no [[domain]] nowhere.test"), "{output:?}");
    }
    assert_eq!(daemon.ctl(&["domain", "verify"]).code, 2);
}
