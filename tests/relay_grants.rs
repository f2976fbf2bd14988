//! Who may relay without a login: address grants, temporary grants, host names, client certificates; and relay domains whose
//! server is asked.

use std::fs;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::thread;

use hickory_proto::rr::RecordType;
use serde_json::Value as Json;

use crate::admin::metric;
use crate::harness::client::{Reply, message};
use crate::harness::mail_servers::{Dovecot, peer};
use crate::harness::tls::Identity;
use crate::harness::{Action, Client, Daemon, NextHop, Script, Setup, eventually, installed, loopback};

const CAROL: &str = "carol@adatum.test";
const SCANNER: &str = "scanner@proseware.test";
/// Somebody's own network.
const LAPTOP: Ipv4Addr = Ipv4Addr::new(127, 88, 0, 30);
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 88, 0, 31);

const TEMPORARY: &str = "[relay.temporary]\nenabled = true\nmax_ttl = \"1h\"";

/// What the MX port says to a recipient of a sender from somewhere.
fn ask(daemon: &Daemon, from: Ipv4Addr, sender: &str, recipient: &str) -> Reply {
    let mut client = Client::connect_from(from, daemon.mx());
    client.ehlo();
    client.expect(&format!("MAIL FROM:<{sender}>"), 250);
    client.command(&format!("RCPT TO:<{recipient}>"))
}

fn may_relay(daemon: &Daemon, from: Ipv4Addr) -> bool {
    let reply = ask(daemon, from, "alice@proseware.test", CAROL);
    assert!(matches!(reply.code, 250 | 550), "{}", reply.text());
    reply.code == 250
}

fn grant(daemon: &Daemon, network: &str, ttl: &str) {
    let output = daemon.ctl(&["relay", "grant", network, "--ttl", ttl, "--reason", "pop login alice"]);
    assert_eq!(output.code, 0, "{output:?}");
}

/// The audit lines of a verb.
fn audited(daemon: &Daemon, verb: &str) -> Vec<Json> {
    let events = daemon.ask(&["audit"])["events"].as_array().unwrap().clone();
    events.into_iter().filter(|event| event["verb"] == verb).collect()
}

#[test]
fn a_temporary_grant_lets_one_address_relay_until_it_is_revoked() {
    let hop = NextHop::start(Script::default());
    let daemon = Setup::new().with(TEMPORARY).next_hop("adatum.test", &hop).start();
    let laptop = LAPTOP.to_string();
    assert!(!may_relay(&daemon, LAPTOP));
    let dry = ["relay", "grant", &laptop, "--ttl", "30m", "--reason", "x", "--dry-run"];
    let granted = daemon.ask(&dry);
    assert_eq!((&granted["dry_run"], &granted["grant"]["left"]), (&true.into(), &1800.into()));
    assert!(!may_relay(&daemon, LAPTOP));
    assert_eq!(metric(&daemon, "postern_relay_grants_given_total", &[]), 0.0);

    let granted = daemon.ask(&["relay", "grant", &laptop, "--ttl", "30m", "--reason", "pop login alice"]);
    assert_eq!(granted["grant"]["network"], format!("{LAPTOP}/32"));
    assert!(may_relay(&daemon, LAPTOP) && !may_relay(&daemon, STRANGER));
    let listed = daemon.ask(&["relay", "list"])["temporary"]["grants"].clone();
    assert_eq!(listed[0]["reason"], "pop login alice");
    assert!((1700..=1800).contains(&listed[0]["left"].as_u64().unwrap()), "{listed}");
    assert_eq!(metric(&daemon, "postern_relay_grants_given_total", &[]), 1.0);
    assert_eq!(metric(&daemon, "postern_relay_grants", &[]), 1.0);
    let event = daemon.wait_for("operator", |line| line["verb"] == "relay-grant");
    assert_eq!(
        (&event["object"], &event["reason"]),
        (&granted["grant"]["network"], &"pop login alice".into())
    );
    assert_eq!(audited(&daemon, "relay-grant").len(), 1);

    // What it lets out is on the record, and counts as mail of our own people.
    let mut client = Client::connect_from(LAPTOP, daemon.mx());
    client.ehlo();
    let sent = client.deliver(
        "alice@proseware.test",
        &[CAROL],
        &message("alice@proseware.test", CAROL, "granted", "x"),
    );
    assert_eq!(sent.code, 250, "{}", sent.text());
    hop.wait_for_message();
    daemon.wait_for("accepted", |line| line["right"] == format!("temporary grant {LAPTOP}/32"));

    let output = daemon.ctl(&["relay", "revoke", &laptop]);
    assert!(output.code == 0 && output.stdout.contains("revoked"), "{output:?}");
    assert!(!may_relay(&daemon, LAPTOP));
    assert_eq!(metric(&daemon, "postern_relay_grants", &[]), 0.0);
    assert_eq!(audited(&daemon, "relay-revoke").len(), 1);
    let again = daemon.ctl(&["relay", "revoke", &laptop]);
    assert!(again.code == 1 && again.stderr.contains("no temporary grant"), "{again:?}");
}

#[test]
fn a_temporary_grant_ends_by_itself() {
    let daemon = Setup::new().with(TEMPORARY).start();
    grant(&daemon, &LAPTOP.to_string(), "2s");
    assert!(may_relay(&daemon, LAPTOP));
    eventually("the grant has ended", || (!may_relay(&daemon, LAPTOP)).then_some(()));
    assert_eq!(daemon.ask(&["relay", "list"])["temporary"]["grants"], Json::Array(Vec::new()));
}

#[test]
fn grants_that_make_no_sense_are_refused_with_what_would() {
    let daemon = Setup::new().with(TEMPORARY).start();
    for (network, ttl, said) in [
        ("192.0.2.1/24", "30m", "write 192.0.2.0/24 for the network or 192.0.2.1 for the one address"),
        ("203.0.112.0/23", "30m", "too large for a temporary grant: a /24"),
        ("203.0.113.7", "2h", "2h is longer than relay.temporary.max_ttl allows: 1h at most"),
        ("alice", "30m", "neither an address nor a network"),
        ("127.0.0.1", "30m", "127.0.0.1 is an address of this server itself"),
        ("0.0.0.0", "30m", "no address of a client"),
    ] {
        let output = daemon.ctl(&["relay", "grant", network, "--ttl", ttl, "--reason", "x"]);
        assert!(output.code == 2 && output.stderr.contains(said), "{network}: {output:?}");
    }
    assert_eq!(daemon.ctl(&["relay", "grant", "203.0.113.7", "--ttl", "30m", "--reason", " "]).code, 2);
    assert_eq!(daemon.ctl(&["relay", "grant", "203.0.113.7", "--ttl", "soon", "--reason", "x"]).code, 2);
    assert_eq!(daemon.ctl(&["relay", "revoke"]).code, 2);
    assert_eq!(daemon.ask(&["relay", "list"])["temporary"]["grants"], Json::Array(Vec::new()));
    // Tried and failed is in the audit log too.
    assert!(audited(&daemon, "relay-grant").iter().all(|event| event["error"].is_string()));
}

#[test]
fn temporary_grants_are_off_until_they_are_switched_on() {
    let daemon = Setup::new().start();
    let grant = || daemon.ctl(&["relay", "grant", &LAPTOP.to_string(), "--ttl", "30m", "--reason", "x"]);
    let refused = grant();
    assert!(refused.code == 1 && refused.stderr.contains("[relay.temporary]\nenabled = true"), "{refused:?}");
    daemon.change_config(TEMPORARY);
    daemon.ask(&["reload"]);
    assert_eq!(grant().code, 0);
    assert!(may_relay(&daemon, LAPTOP));
    // A reload keeps what was given; switched off, it does not count.
    daemon.ask(&["reload"]);
    assert!(may_relay(&daemon, LAPTOP));
    daemon.change_config("[relay.temporary]\nenabled = false");
    daemon.ask(&["reload"]);
    assert!(!may_relay(&daemon, LAPTOP));
    let list = daemon.ctl(&["relay", "list"]);
    assert!(list.stdout.contains("switched off"), "{list:?}");
}

#[test]
fn temporary_grants_outlive_a_restart_and_a_damaged_file_does_not_keep_from_starting() {
    let mut daemon = Setup::new().with(TEMPORARY).start();
    grant(&daemon, &LAPTOP.to_string(), "30m");
    grant(&daemon, "203.0.113.64/28", "30m");
    daemon.terminate();
    daemon.start();
    assert!(may_relay(&daemon, LAPTOP));
    assert_eq!(daemon.ask(&["relay", "list"])["temporary"]["grants"].as_array().unwrap().len(), 2);
    let all = daemon.ctl(&["relay", "revoke", "--all"]);
    assert!(all.code == 2 && all.stderr.contains("--yes"), "{all:?}");
    assert_eq!(daemon.ask(&["relay", "revoke", "--all", "--yes"])["grants"].as_array().unwrap().len(), 2);
    grant(&daemon, &LAPTOP.to_string(), "30m");
    daemon.terminate();

    let file = daemon.folder().join("spool/policy/grants.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, &text[..text.len() / 2]).unwrap();
    daemon.start();
    daemon.wait_for("state-damaged", |line| line["path"].as_str().unwrap().ends_with("grants.json"));
    assert!(!may_relay(&daemon, LAPTOP));
    grant(&daemon, &LAPTOP.to_string(), "30m");
    assert!(may_relay(&daemon, LAPTOP));
}

#[test]
fn the_rate_of_a_grant_does_not_start_anew_with_the_daemon() {
    let hop = NextHop::start(Script::default().reply("RCPT", "451 4.2.1 later"));
    let grant = format!(
        "[[relay.grants]]\nlabel = \"scanner\"\nnetwork = \"{LAPTOP}/32\"\nsenders = [\"{SCANNER}\"]\n\
         recipients = [\"@adatum.test\"]\nrate = \"3/h\""
    );
    let mut daemon = Setup::new().with(&grant).next_hop("adatum.test", &hop).start();
    let used = |daemon: &Daemon| daemon.ask(&["relay", "list"])["grants"][0]["used"].as_u64().unwrap();
    for _ in 0..2 {
        assert_eq!(send(&daemon, LAPTOP).code, 250);
    }
    assert_eq!(used(&daemon), 2);
    // It is written every five seconds, not for each recipient: what was written is what a crash leaves.
    let file = daemon.folder().join("spool/policy/rates.json");
    eventually("the rate in its file", || {
        let content: Json = serde_json::from_slice(&fs::read(&file).ok()?).ok()?;
        (content["grants"][0]["level"].as_f64()? > 1.9).then_some(())
    });
    daemon.kill();
    daemon.start();
    assert_eq!(used(&daemon), 2);
    assert_eq!(send(&daemon, LAPTOP).code, 250);
    let full = ask(&daemon, LAPTOP, SCANNER, CAROL);
    assert!(full.code == 451 && full.text().contains("limit of 3"), "{full:?}");
    // A daemon that ends in order writes all of it.
    daemon.restart();
    assert_eq!(ask(&daemon, LAPTOP, SCANNER, CAROL).code, 451);
    // Damage is set aside, and keeps nobody from starting.
    daemon.kill();
    fs::write(&file, "{").unwrap();
    daemon.start();
    daemon.wait_for("state-damaged", |line| line["path"].as_str().unwrap().ends_with("rates.json"));
    assert_eq!(ask(&daemon, LAPTOP, SCANNER, CAROL).code, 250);
}

/// A message of the scanner, from its address.
fn send(daemon: &Daemon, client: Ipv4Addr) -> Reply {
    let mut client = Client::connect_from(client, daemon.mx());
    client.ehlo();
    client.deliver(SCANNER, &[CAROL], &message(SCANNER, CAROL, "scan", "x"))
}

#[test]
fn the_rate_of_a_grant_counts_what_was_sent_only() {
    let hop = NextHop::start(Script::default().reply("RCPT", "451 4.2.1 later"));
    let grant = format!(
        "[[relay.grants]]\nlabel = \"scanner\"\nnetwork = \"{LAPTOP}/32\"\nsenders = [\"{SCANNER}\"]\n\
         recipients = [\"@adatum.test\"]\nrate = \"1/d\""
    );
    let daemon = Setup::new().with(&grant).next_hop("adatum.test", &hop).start();
    let mut client = Client::connect_from(LAPTOP, daemon.mx());
    client.ehlo();
    for _ in 0..3 {
        client.expect(&format!("MAIL FROM:<{SCANNER}>"), 250);
        client.expect(&format!("RCPT TO:<{CAROL}>"), 250);
        client.expect("RSET", 250);
    }
    let forged = message("boss@proseware.test", CAROL, "forged", "x");
    for _ in 0..3 {
        let refused = client.deliver(SCANNER, &[CAROL], &forged);
        assert!(refused.text().starts_with("550 5.7.1 From header not permitted"), "{}", refused.text());
    }
    assert_eq!(send(&daemon, LAPTOP).code, 250);
    assert_eq!(ask(&daemon, LAPTOP, SCANNER, CAROL).code, 451);
}

#[test]
fn an_address_grant_covers_its_senders_its_recipients_and_its_rate() {
    let hop = NextHop::start(Script::default().reply("RCPT", "451 4.2.1 later"));
    let grant = format!(
        "[[relay.grants]]\nlabel = \"scanner\"\nnetwork = \"{LAPTOP}/32\"\nsenders = [\"{SCANNER}\"]\n\
         recipients = [\"@adatum.test\"]\nrate = \"2/h\""
    );
    let daemon = Setup::new().with(&grant).next_hop("adatum.test", &hop).start();
    let refused = ask(&daemon, LAPTOP, "alice@proseware.test", CAROL);
    assert!(
        refused.code == 550 && refused.text().contains(&format!("the grant for {LAPTOP} does not cover")),
        "{refused:?}"
    );
    // Its label is for operators.
    assert!(!refused.text().contains("grant scanner"), "{refused:?}");
    assert_eq!(ask(&daemon, LAPTOP, SCANNER, "x@thephone-company.test").code, 550);
    assert_eq!(ask(&daemon, STRANGER, SCANNER, CAROL).code, 550);

    let mut client = Client::connect_from(LAPTOP, daemon.mx());
    client.ehlo();
    // Its mail is signed as ours: nor does the header name others.
    let forged = message("boss@proseware.test", "alice@proseware.test", "forged", "x");
    let refused = client.deliver(SCANNER, &["alice@proseware.test"], &forged);
    assert!(refused.text().starts_with("550 5.7.1 From header not permitted"), "{}", refused.text());
    let reference = daemon.wait_for("refused", |line| line["reason"] == "header-from-mismatch");
    assert_eq!(reference["rule"], "header From", "{reference}");
    let narrow = daemon.wait_for("refused", |line| line["reason"] == "grant-too-narrow");
    assert_eq!(
        (&narrow["rule"], &narrow["recipient"]),
        (&"address grant".into(), &"foreign".into()),
        "{narrow}"
    );
    assert_eq!(client.deliver(SCANNER, &[CAROL], &message(SCANNER, CAROL, "scan", "x")).code, 250);
    let queued = daemon.wait_in_queue("the scan", |message| message["sender"] == SCANNER);
    let shown = daemon.ask(&["queue", "show", queued["id"].as_str().unwrap()]);
    assert_eq!(shown["message"]["origin"], "grant scanner", "{shown}");

    assert_eq!(send(&daemon, LAPTOP).code, 250);
    let used_up = ask(&daemon, LAPTOP, SCANNER, CAROL);
    assert!(used_up.text().starts_with("451 4.7.1") && used_up.text().contains("2 recipients an hour"));
    let listed = daemon.ask(&["relay", "list"])["grants"][0].clone();
    assert_eq!((&listed["used"], &listed["limit"]), (&2.into(), &2.into()));
}

const BRANCH: &str =
    "[relay]\nhost_refresh = \"50ms\"\nhosts = [{ name = \"branch.client.test\", label = \"branch\" }]";

#[test]
fn a_host_may_relay_from_where_its_name_leads_now() {
    let setup = Setup::new().with(BRANCH);
    setup.dns().a("branch.client.test", LAPTOP);
    let daemon = setup.start();
    // From the first question on.
    assert!(may_relay(&daemon, LAPTOP) && !may_relay(&daemon, STRANGER));
    daemon.wait_for("relay-host", |line| line["addresses"] == LAPTOP.to_string());
    daemon.dns().a("branch.client.test", STRANGER);
    eventually("the new address", || may_relay(&daemon, STRANGER).then_some(()));
    assert!(!may_relay(&daemon, LAPTOP));
    daemon.wait_for("relay-host", |line| line["addresses"] == STRANGER.to_string());

    // Name servers that fail for a while end no right.
    daemon.dns().fail("branch.client.test", true);
    daemon.wait_for("relay-host-unknown", |_| true);
    assert!(may_relay(&daemon, STRANGER));
    let host = daemon.ask(&["relay", "list"])["hosts"][0].clone();
    assert_eq!((&host["counts"], &host["addresses"][0]), (&true.into(), &STRANGER.to_string().into()));
    assert!(host["problem"].is_string(), "{host}");
    assert_eq!(metric(&daemon, "postern_relay_host_problems", &[]), 1.0);
}

#[test]
fn a_host_that_dns_has_never_told_is_asked_to_come_again() {
    let setup = Setup::new().with(BRANCH);
    setup.dns().a("branch.client.test", LAPTOP);
    setup.dns().fail("branch.client.test", true);
    let daemon = setup.start();
    let later = ask(&daemon, LAPTOP, "alice@proseware.test", CAROL);
    assert!(later.text().starts_with("451 4.4.3") && !later.text().contains("branch"), "{}", later.text());
    assert_eq!(ask(&daemon, LAPTOP, "a@client.test", "alice@proseware.test").code, 250);
    daemon.dns().fail("branch.client.test", false);
    eventually("the address", || {
        (ask(&daemon, LAPTOP, "alice@proseware.test", CAROL).code == 250).then_some(())
    });
    assert!(!may_relay(&daemon, STRANGER));
}

#[test]
fn a_host_of_a_new_configuration_is_known_at_once() {
    let setup = Setup::new();
    setup.dns().a("branch.client.test", LAPTOP);
    let daemon = setup.start();
    assert!(!may_relay(&daemon, LAPTOP));
    daemon.change_config(&BRANCH.replace("50ms", "1h"));
    daemon.ask(&["reload"]);
    assert!(may_relay(&daemon, LAPTOP));
    assert!(daemon.dns().asked("branch.client.test", RecordType::A) >= 1);
}

/// What the MX port says to a foreign recipient under TLS.
fn ask_showing(daemon: &Daemon, identity: &Identity) -> Reply {
    let mut client = Client::connect(daemon.mx());
    client.ehlo();
    client.start_tls_showing(identity);
    client.ehlo();
    client.expect("MAIL FROM:<alice@proseware.test>", 250);
    client.command(&format!("RCPT TO:<{CAROL}>"))
}

#[test]
fn a_client_certificate_may_relay_by_its_name_or_its_fingerprint() {
    let hop = NextHop::start(Script::default());
    let setup = Setup::new().next_hop("adatum.test", &hop);
    let ca = setup.folder().join("ca.pem");
    let setup = setup.with(&format!(
        "[tls]\nclient_ca = \"{}\"\n[relay]\ncertificates = [{{ name = \"gw.client.test\", label = \"gateway\" }}]",
        ca.display()
    ));
    let daemon = setup.start();
    let (gateway, other) = (Identity::new(&["gw.client.test"]), Identity::new(&["other.client.test"]));
    // Nobody must show one.
    let mut client = Client::connect(daemon.mx());
    client.ehlo();
    client.start_tls();
    client.ehlo();
    client.expect("MAIL FROM:<alice@proseware.test>", 250);
    client.expect(&format!("RCPT TO:<{CAROL}>"), 550);
    assert_eq!(ask_showing(&daemon, &other).code, 550);
    assert_eq!(ask_showing(&daemon, &gateway).code, 250);

    // By the fingerprint, as the log has it.
    let refused = daemon.wait_for("refused", |line| line["certificate"].is_string());
    let sha256 = refused["certificate"].as_str().unwrap();
    daemon.change_config(&format!("[[relay.certificates]]\nsha256 = \"{sha256}\"\nlabel = \"other\""));
    daemon.ask(&["reload"]);
    assert_eq!(ask_showing(&daemon, &other).code, 250);

    let mut client = Client::connect(daemon.mx());
    client.ehlo();
    client.start_tls_showing(&other);
    client.ehlo();
    let content = message("alice@proseware.test", CAROL, "by-certificate", "x");
    assert_eq!(client.deliver("alice@proseware.test", &[CAROL], &content).code, 250);
    let received = hop.wait_for_message().mail.field("Received");
    assert!(received.contains(&format!("(client certificate sha256 {sha256})")), "{received}");
}

#[test]
fn smtplib_relays_with_a_certificate() {
    const PROGRAM: &str = "import smtplib, ssl, sys\n\
        host, port, ca, pem, sender, recipient = sys.argv[1:]\n\
        context = ssl.create_default_context(cafile=ca)\n\
        if pem: context.load_cert_chain(pem)\n\
        server = smtplib.SMTP(host, int(port))\n\
        server.starttls(context=context)\n\
        server.sendmail(sender, [recipient], 'Subject: by smtplib\\r\\n\\r\\nhello\\r\\n')\n\
        server.quit()";
    let Some(python) = peer("python3", installed("python3")) else { return };
    let hop = NextHop::start(Script::default());
    let setup = Setup::new().next_hop("adatum.test", &hop);
    let (ca, pem) = (setup.folder().join("ca.pem"), setup.folder().join("client.pem"));
    let gateway = Identity::new(&["gw.client.test"]);
    fs::write(&pem, format!("{}{}", gateway.certificate_pem, gateway.key_pem)).unwrap();
    let setup = setup.with(&format!(
        "[tls]\nclient_ca = \"{}\"\n[relay]\ncertificates = [{{ name = \"gw.client.test\", label = \"gateway\" }}]",
        ca.display()
    ));
    let daemon = setup.start();
    let run = |pem: &str| {
        let (host, port) = (daemon.mx().ip().to_string(), daemon.mx().port().to_string());
        Command::new(&python)
            .args(["-c", PROGRAM, &host, &port, ca.to_str().unwrap(), pem, "alice@proseware.test", CAROL])
            .output()
            .unwrap()
    };
    let without = run("");
    assert!(
        !without.status.success() && String::from_utf8_lossy(&without.stderr).contains("relay not permitted")
    );
    let with = run(pem.to_str().unwrap());
    assert!(with.status.success(), "{}", String::from_utf8_lossy(&with.stderr));
    assert_eq!(hop.wait_for_message().mail.field("Subject"), "by smtplib");
}

/// A backup MX for customer.test, whose primary is this next hop.
fn backup(primary: &NextHop, call_forward: &str) -> Daemon {
    Setup::new()
        .with("[[relay.relay_domains]]\nname = \"customer.test\"\nrecipients = \"call-forward\"")
        .with(&format!("[relay.call_forward]\n{call_forward}"))
        .next_hop("customer.test", primary)
        .start()
}

fn ask_backup(daemon: &Daemon, recipient: &str) -> Reply {
    ask(daemon, STRANGER, "a@client.test", recipient)
}

/// How often the primary was asked for recipients.
fn questions(primary: &NextHop) -> usize {
    primary.sessions().iter().flatten().filter(|line| line.starts_with("RCPT")).count()
}

#[test]
fn the_primary_of_a_relay_domain_says_who_exists() {
    let primary = NextHop::start(Script::default().reply("RCPT TO:<nobody@", "550 5.1.1 no such user"));
    let daemon = backup(&primary, "");
    assert_eq!(ask_backup(&daemon, "carol@customer.test").code, 250);
    let refused = ask_backup(&daemon, "nobody@customer.test");
    assert!(refused.text().starts_with("550 5.1.1 <nobody@customer.test>"), "{}", refused.text());
    // No message was begun.
    let said: Vec<String> = primary.sessions().concat();
    assert!(said.iter().any(|line| line == "MAIL FROM:<>"), "{said:?}");
    assert!(!said.iter().any(|line| line.starts_with("DATA")), "{said:?}");
    // The record says what the primary said.
    let reference = refused.text().split("(ref ").nth(1).unwrap()[..9].to_owned();
    let explained = daemon.ctl(&["explain", &reference]);
    assert!(
        explained.stdout.contains("refuses nobody@customer.test: 550 5.1.1 no such user"),
        "{explained:?}"
    );

    // Both answers are kept, in any case of letters.
    assert_eq!(questions(&primary), 2);
    for _ in 0..3 {
        assert_eq!(ask_backup(&daemon, "Carol@Customer.test").code, 250);
        assert_eq!(ask_backup(&daemon, "NOBODY@customer.test").code, 550);
    }
    assert_eq!(questions(&primary), 2);
    assert_eq!(ask_backup(&daemon, "postmaster@customer.test").code, 250);
    assert_eq!(questions(&primary), 2);
}

#[test]
fn mail_is_taken_whenever_the_primary_gives_no_clear_no() {
    let script = Script::default()
        .reply("RCPT TO:<grey@", "451 4.7.1 greylisted")
        .on("RCPT TO:<broken@", Action::Drop)
        .on("RCPT TO:<slow@", Action::Hang);
    let mut primary = NextHop::start(script);
    let daemon = backup(&primary, "timeout = \"1s\"\ndown_ttl = \"1s\"");
    for recipient in ["grey", "broken", "slow"] {
        let reply = ask_backup(&daemon, &format!("{recipient}@customer.test"));
        assert_eq!(reply.code, 250, "{recipient}: {}", reply.text());
    }
    primary.set_script(Script::default().reply("MAIL FROM:<>", "550 5.7.1 no null sender here"));
    assert_eq!(ask_backup(&daemon, "carol@customer.test").code, 250);
    primary.go_down();
    let mut client = Client::connect_from(STRANGER, daemon.mx());
    client.ehlo();
    let content = message("a@client.test", "dave@customer.test", "kept-for-the-primary", "x");
    assert_eq!(client.deliver("a@client.test", &["dave@customer.test"], &content).code, 250);
    daemon.wait_for("call-forward-down", |line| line["domain"] == "customer.test");
    // That is what a backup is for.
    primary.set_script(Script::default());
    primary.come_up();
    assert_eq!(primary.wait_for_message().mail.field("Subject"), "kept-for-the-primary");
}

#[test]
fn many_clients_ask_the_primary_once() {
    let primary = NextHop::start(Script::default());
    let daemon = backup(&primary, "");
    thread::scope(|scope| {
        let ask = || assert_eq!(ask_backup(&daemon, "carol@customer.test").code, 250);
        (0..8).for_each(|_| drop(scope.spawn(ask)));
    });
    assert_eq!(questions(&primary), 1);
}

#[test]
fn a_backup_that_leads_to_itself_asks_nobody() {
    let setup = Setup::new()
        .with("[[relay.relay_domains]]\nname = \"customer.test\"\nrecipients = \"call-forward\"")
        .with("[relay.call_forward]\ntimeout = \"5s\"");
    setup.dns().mx("customer.test", &[(10, "mail.proseware.test")]);
    let daemon = setup.start();
    assert_eq!(ask_backup(&daemon, "carol@customer.test").code, 250);
    let down = daemon.wait_for("call-forward-down", |_| true);
    assert!(down["why"].as_str().unwrap().contains("loops back"), "{down}");
}

/// Logs in over POP3 from an address, and leaves.
fn pop_login(dovecot: &Dovecot, from: Ipv4Addr, password: &str) -> bool {
    const PROGRAM: &str = "import socket, sys\n\
        host, port, source, user, password = sys.argv[1:]\n\
        s = socket.create_connection((host, int(port)), timeout=30, source_address=(source, 0))\n\
        f = s.makefile('rwb', buffering=0)\n\
        def say(line):\n\
        \x20   f.write(line.encode() + b'\\r\\n')\n\
        \x20   return f.readline()\n\
        f.readline()\n\
        say('USER ' + user)\n\
        ok = say('PASS ' + password).startswith(b'+OK')\n\
        say('QUIT')\n\
        sys.exit(0 if ok else 1)";
    let status = Command::new("python3")
        .args(["-c", PROGRAM, &dovecot.address.ip().to_string(), &dovecot.address.port().to_string()])
        .args([&from.to_string(), "alice", password])
        .stderr(Stdio::inherit())
        .status();
    status.unwrap().success()
}

/// The script of the documentation, with the `posternctl` of the tests.
fn post_login_script(daemon: &Daemon) -> String {
    let page = fs::read_to_string(crate::harness::repository().join("docs/relay-grants.md")).unwrap();
    let script = page.split("```sh\n#!/bin/sh\n").nth(1).expect("the script in docs/relay-grants.md");
    let script = script.split("```").next().unwrap();
    let ctl = format!("{} --config {}", env!("CARGO_BIN_EXE_posternctl"), daemon.config().display());
    assert!(script.contains("posternctl relay grant") && script.contains("--ttl 30m"), "{script}");
    format!(
        "#!/bin/sh\n{}",
        script.replace("posternctl relay", &format!("{ctl} relay")).replace("--ttl 30m", "--ttl 3s")
    )
}

#[test]
fn a_pop_login_lets_its_address_relay_for_a_while() {
    let Some(_) = peer("python3", installed("python3")) else { return };
    let daemon = Setup::new().with(TEMPORARY).start();
    let Some(dovecot) = Dovecot::start(&post_login_script(&daemon)) else { return };
    // Addresses of this process: others log in at the same time.
    let (alice, stranger) = (loopback(), loopback());
    assert!(!may_relay(&daemon, alice));
    assert!(!pop_login(&dovecot, stranger, "wrong"));
    assert!(!may_relay(&daemon, stranger));
    assert!(pop_login(&dovecot, alice, Dovecot::PASSWORD));
    eventually("the grant of the login", || may_relay(&daemon, alice).then_some(()));
    let event = daemon.wait_for("operator", |line| line["verb"] == "relay-grant");
    assert_eq!(event["reason"], "pop login alice");
    assert!(!may_relay(&daemon, stranger));
    eventually("the end of the grant", || (!may_relay(&daemon, alice)).then_some(()));
}
