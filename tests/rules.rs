//! Standing rules: what becomes of mail that arrives and matches.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use serde_json::Value as Json;

use crate::harness::client::{Reply, message};
use crate::harness::ctl::Output;
use crate::harness::daemon::PASSWORD;
use crate::harness::mail::Dsn;
use crate::harness::{Client, Daemon, NextHop, Script, Setup, eventually, is_root, say};

const ALICE: &str = "alice@proseware.test";
const BOB: &str = "bob@proseware.test";
const CAROL: &str = "carol@adatum.test";
const MALLORY: &str = "mallory@client.test";

/// Adds a rule; answers its number.
fn add(daemon: &Daemon, arguments: &[&str]) -> String {
    let added = daemon.ask(&[&["rule", "add"], arguments].concat());
    added["rule"]["id"].as_u64().unwrap_or_else(|| panic!("{added}")).to_string()
}

/// A rule as it is listed.
fn rule(daemon: &Daemon, id: &str) -> Json {
    let list = daemon.ask(&["rule", "list"]);
    let rules = list["rules"].as_array().unwrap();
    rules
        .iter()
        .find(|rule| rule["id"].as_u64() == id.parse().ok())
        .unwrap_or_else(|| panic!("{list}"))
        .clone()
}

/// A stranger's message, up to the first refusal.
fn from_outside(daemon: &Daemon, from: &str, to: &[&str], content: &str) -> Reply {
    let mut client = Client::connect(daemon.mx());
    client.ehlo();
    let mut reply = client.command(&format!("MAIL FROM:<{from}>"));
    for recipient in to {
        if reply.code == 250 {
            reply = client.command(&format!("RCPT TO:<{recipient}>"));
        }
    }
    if reply.code == 250 { client.content(content) } else { reply }
}

/// A message of alice, who logs in.
fn from_alice(daemon: &Daemon, to: &[&str], subject: &str) -> Reply {
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    client.deliver(ALICE, to, &message(ALICE, to[0], subject, "hello"))
}

/// What `posternctl explain` says of the reference in a reply.
fn explained(daemon: &Daemon, reply: &Reply) -> Json {
    let text = reply.text();
    let reference = text.split("(ref ").nth(1).unwrap_or_else(|| panic!("no reference in {text:?}"));
    daemon.ask(&["explain", &reference[..9]])
}

#[test]
fn reject_answers_at_rcpt_with_its_text_and_can_be_explained() {
    let daemon = Setup::new().start();
    let reason = "mail bomb, ticket 4711";
    let id = add(
        &daemon,
        &["reject", "--sender", "@client.test", "--rcpt", BOB, "--reason", reason, "--text", "write to us"],
    );
    let content = message(MALLORY, BOB, "bomb", "x");
    let reply = from_outside(&daemon, "Mallory@Client.Test", &[ALICE, BOB], &content);
    assert!(reply.text().starts_with(&format!("550 5.7.1 <{BOB}>: write to us (ref ")), "{}", reply.text());
    let record = explained(&daemon, &reply);
    assert_eq!((&record["verdict"], &record["recipient"]), (&"reject".into(), &BOB.into()));
    assert_eq!(record["reason"]["kind"], "standing-rule");
    assert_eq!((&record["reason"]["rule"], &record["reason"]["why"]), (&id.as_str().into(), &reason.into()));
    let text = daemon.ctl(&["explain", record["reference"].as_str().unwrap()]).stdout;
    assert!(text.contains(&format!("rule {id}")) && text.contains("rule remove"), "{text}");
    let logged = daemon.wait_for("refused", |line| line["to"] == BOB);
    assert_eq!((&logged["rule"], &logged["reason"]), (&format!("rule {id}").into(), &"standing-rule".into()));

    // Others pass, and so do other recipients.
    assert_eq!(from_outside(&daemon, "a@adatum.test", &[BOB], &content).code, 250);
    assert_eq!(from_outside(&daemon, MALLORY, &[ALICE], &content).code, 250);
    let found = rule(&daemon, &id);
    assert_eq!(found["hits"], 1);
    assert!(found["last_hit"].as_u64() >= found["added"].as_u64(), "{found}");
    // `policy explain` agrees with the live answer, and counts nothing.
    let client = daemon.mx().ip().to_string();
    let asked = ["policy", "explain", "--client", &client, "--from", MALLORY, "--to", BOB, "--json"];
    let output = daemon.ctl(&asked);
    assert_eq!(output.code, 1, "{output:?}");
    assert_eq!(output.json()["stages"][1]["reason"]["kind"], "standing-rule");
    assert_eq!(rule(&daemon, &id)["hits"], 1);
}

#[test]
fn a_temporary_rejection_is_450_and_defers_the_transaction() {
    let daemon = Setup::new().start();
    add(&daemon, &["reject", "--client-ip", "127.66.0.0/16", "--temporary", "--reason", "too fast"]);
    let content = message(MALLORY, ALICE, "elsewhere", "x");
    assert_eq!(from_outside(&daemon, MALLORY, &[ALICE], &content).code, 250);
    let mut client = Client::connect_from("127.66.0.9".parse().unwrap(), daemon.mx());
    client.ehlo();
    client.expect(&format!("MAIL FROM:<{MALLORY}>"), 250);
    let reply = client.expect(&format!("RCPT TO:<{ALICE}>"), 450);
    assert!(reply.text().starts_with("450 4.7.1 "), "{}", reply.text());
    assert_eq!(explained(&daemon, &reply)["verdict"], "defer");
    client.expect("DATA", 451);
}

#[test]
fn a_rule_on_the_header_rejects_at_the_end_of_the_message() {
    let daemon = Setup::new().start();
    let id = add(
        &daemon,
        &[
            "reject",
            "--header",
            "Subject=(?i)^you won",
            "--not",
            "--sender",
            "@adatum.test",
            "--reason",
            "scam",
        ],
    );
    let won = |from: &str| message(from, ALICE, "You won", "hello");
    let reply = from_outside(&daemon, MALLORY, &[ALICE], &won(MALLORY));
    assert!(reply.text().starts_with(&format!("550 5.7.1 <{MALLORY}>: not accepted")), "{}", reply.text());
    assert_eq!(explained(&daemon, &reply)["reason"]["rule"], id.as_str());
    assert_eq!(from_outside(&daemon, "a@adatum.test", &[ALICE], &won("a@adatum.test")).code, 250);
    assert_eq!(
        from_outside(&daemon, MALLORY, &[ALICE], &message(MALLORY, ALICE, "hello", "You won")).code,
        250
    );
    // A large message goes to disk while it comes; its header counts all the same.
    let large =
        message(MALLORY, ALICE, "you WON", &"0123456789012345678901234567890123456789\r\n".repeat(20_000));
    assert_eq!(from_outside(&daemon, MALLORY, &[ALICE], &large).code, 550);
    assert_eq!(rule(&daemon, &id)["hits"], 2);
    daemon.wait_for_empty_queue();
    assert_eq!(daemon.maildir(ALICE).messages().len(), 2);
}

#[test]
fn hold_keeps_new_messages_until_they_are_released() {
    let hop = NextHop::start(Script::default());
    let mut daemon = Setup::new().next_hop("adatum.test", &hop).start();
    let id = add(&daemon, &["hold", "--account", ALICE, "--reason", "stolen password?"]);
    let held = from_alice(&daemon, &[CAROL], "held").queue_id();
    let expected = format!("rule {id}: stolen password?");
    let shown = daemon.ask(&["queue", "show", &held]);
    assert_eq!((&shown["message"]["state"], &shown["message"]["held"]), (&"held".into(), &expected.into()));
    daemon.wait_for("rule-applied", |line| line["id"] == held.as_str() && line["action"] == "held");

    // It is still held, and the rule still there, after a restart; so are the counters.
    daemon.restart();
    assert_eq!(daemon.queue()[0]["state"], "held");
    assert_eq!(rule(&daemon, &id)["hits"], 1);
    let status = daemon.ask(&["status"]);
    assert_eq!(status["rules"]["in_force"]["hold"], 1);
    assert!(daemon.ctl(&["status"]).stdout.contains("1 in force (1 hold)"));
    let second = from_alice(&daemon, &[CAROL], "second").queue_id();

    // What is released stays released, also while the rule is there.
    assert_eq!(daemon.change_queue(&["release", &held]), 1);
    hop.wait_for_count(1);
    eventually("the other one alone", || (daemon.queue().len() == 1).then_some(()));
    daemon.kill();
    daemon.start();
    let removed = daemon.ctl(&["rule", "remove", &id]);
    assert_eq!(removed.code, 0, "{removed:?}");
    let way_out = format!("posternctl queue release --held-by {id}");
    assert!(
        removed.stdout.contains("1 message stays held")
            && daemon.as_usual(&removed.stdout).contains(&way_out),
        "{removed:?}"
    );
    assert_eq!(daemon.queue()[0]["id"], second.as_str());
    assert_eq!(daemon.change_queue(&["release", "--held-by", &id]), 1);
    hop.wait_for_count(2);
    assert_eq!(from_alice(&daemon, &[CAROL], "third").code, 250);
    hop.wait_for_count(3);
    daemon.wait_for_empty_queue();
}

#[test]
fn fail_reports_to_our_own_users_and_refuses_strangers() {
    let hop = NextHop::start(Script::default());
    let daemon = Setup::new().next_hop("adatum.test", &hop).start();
    let text = "Carol has left; write to info@adatum.test";
    let to_carol = add(&daemon, &["fail", "--rcpt", CAROL, "--reason", "has left", "--text", text]);
    let to_bob = add(&daemon, &["fail", "--rcpt", BOB, "--reason", "has left too"]);
    assert_eq!(from_alice(&daemon, &[CAROL, "dave@adatum.test"], "farewell").code, 250);
    let dsn = Dsn::parse(&daemon.maildir(ALICE).wait_for("farewell"));
    let [failed] = dsn.recipients.as_slice() else { panic!("{dsn:?}") };
    assert_eq!(failed.field("Final-Recipient"), format!("rfc822; {CAROL}"));
    assert_eq!((failed.field("Action").as_str(), failed.field("Status").as_str()), ("failed", "5.7.1"));
    assert!(dsn.text.contains(text), "{}", dsn.text);
    // The other recipient gets it.
    assert_eq!(hop.wait_for_message().recipients.len(), 1);

    // No report to strangers, whose sender may be anybody, and none about a message without a sender.
    let reply = from_outside(&daemon, MALLORY, &[BOB], "");
    assert!(reply.text().starts_with(&format!("550 5.7.1 <{BOB}>")), "{}", reply.text());
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    client.expect("MAIL FROM:<>", 250);
    client.expect(&format!("RCPT TO:<{CAROL}>"), 550);
    daemon.wait_for_empty_queue();
    assert_eq!(daemon.maildir(ALICE).messages().len(), 1);
    assert_eq!((&rule(&daemon, &to_carol)["hits"], &rule(&daemon, &to_bob)["hits"]), (&2.into(), &1.into()));
}

#[test]
fn drop_accepts_and_keeps_nothing_but_a_trace_for_operators() {
    let daemon = Setup::new().start();
    let endless = daemon.ctl(&["rule", "add", "drop", "--sender", MALLORY, "--reason", "flood"]);
    assert_eq!(endless.code, 2, "{endless:?}");
    assert!(endless.stderr.contains("--for"), "{endless:?}");
    let id = add(&daemon, &["drop", "--sender", MALLORY, "--reason", "flood", "--for", "1h"]);
    let reply = from_outside(&daemon, MALLORY, &[ALICE, BOB], &message(MALLORY, ALICE, "flood", "x"));
    assert_eq!(reply.code, 250, "{}", reply.text());
    let queue_id = reply.queue_id();
    let line = daemon.wait_for("rule-applied", |line| line["id"] == queue_id.as_str());
    assert_eq!((&line["action"], &line["to"]), (&"dropped".into(), &format!("{ALICE},{BOB}").into()));
    assert_eq!(
        from_outside(&daemon, "a@adatum.test", &[ALICE], &message("a@adatum.test", ALICE, "kept", "x")).code,
        250
    );
    daemon.maildir(ALICE).wait_for("kept");
    daemon.wait_for_empty_queue();
    assert_eq!(daemon.maildir(ALICE).messages().len(), 1);
    assert!(daemon.maildir(BOB).messages().is_empty());
    let found = rule(&daemon, &id);
    assert_eq!(found["hits"], 1);
    assert_eq!(found["until"].as_u64(), found["added"].as_u64().map(|added| added + 3600));
    let metrics = daemon.ctl(&["metrics"]).stdout;
    assert!(metrics.contains("postern_queue_rule_hits_total{action=\"drop\"} 1"), "{metrics}");
    assert!(metrics.contains("postern_queue_rules{action=\"drop\"} 1"), "{metrics}");
}

#[test]
fn the_null_sender_has_rules_of_its_own() {
    let daemon = Setup::new().start();
    add(&daemon, &["reject", "--dsn", "--rcpt", BOB, "--reason", "backscatter"]);
    let report = message("mailer-daemon@client.test", BOB, "returned", "x");
    assert_eq!(from_outside(&daemon, "", &[BOB], &report).code, 550);
    assert_eq!(from_outside(&daemon, "", &[ALICE], &report).code, 250);
    assert_eq!(from_outside(&daemon, MALLORY, &[BOB], &report).code, 250);
    add(&daemon, &["reject", "--not", "--sender", "<>", "--rcpt", BOB, "--reason", "reports only"]);
    assert_eq!(from_outside(&daemon, MALLORY, &[BOB], &report).code, 550);
}

#[test]
fn a_rule_ends_by_itself() {
    let daemon = Setup::new().start();
    let id = add(&daemon, &["reject", "--sender", MALLORY, "--reason", "for a moment", "--for", "2s"]);
    let content = message(MALLORY, ALICE, "patience", "x");
    let first = from_outside(&daemon, MALLORY, &[ALICE], &content).code;
    let end = daemon.wait_for("rule-expired", |line| line["rule"].as_u64() == id.parse().ok());
    // On a slow machine it may have been over before.
    assert_eq!(end["hits"].as_u64().unwrap(), u64::from(first == 550));
    assert_eq!(from_outside(&daemon, MALLORY, &[ALICE], &content).code, 250);
    assert!(daemon.ctl(&["rule", "list"]).stdout.contains("expired"));
    assert!(daemon.ask(&["status"]).get("rules").is_none());
    // What is over is removed like any other.
    assert_eq!(daemon.ctl(&["rule", "remove", &id]).code, 0);
    assert_eq!(daemon.ctl(&["rule", "remove", &id]).code, 1);
}

#[test]
fn a_damaged_file_is_set_aside_and_health_says_so_until_it_is_removed() {
    let mut daemon = Setup::new().start();
    let first = add(&daemon, &["reject", "--sender", MALLORY, "--reason", "lost soon"]);
    assert!(daemon.terminate().success());
    let file = daemon.folder().join("spool/rules.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, &text[..text.len() / 2]).unwrap();
    daemon.start();
    daemon.wait_for("rules-damaged", |line| line["level"] == "ERROR");
    let status = daemon.ctl(&["status", "--json"]);
    assert_eq!(status.code, 1, "{status:?}");
    let reasons = status.json()["health"]["reasons"].to_string();
    assert!(reasons.contains("rules.json.damaged-"), "{reasons}");
    let list = daemon.ctl(&["rule", "list"]);
    assert!(list.code == 1 && list.stderr.contains("rules.json.damaged-"), "{list:?}");

    // Mail goes on, and rules can be made again, with numbers that no held message can know.
    let content = message(MALLORY, ALICE, "goes-on", "x");
    assert_eq!(from_outside(&daemon, MALLORY, &[ALICE], &content).code, 250);
    let again = add(&daemon, &["reject", "--sender", MALLORY, "--reason", "lost soon"]);
    assert_ne!(first, again);
    assert_eq!(from_outside(&daemon, MALLORY, &[ALICE], &content).code, 550);
    let folder = fs::read_dir(daemon.folder().join("spool")).unwrap();
    let aside =
        folder.map(|entry| entry.unwrap().path()).find(|path| path.to_str().unwrap().contains(".damaged-"));
    assert_eq!(fs::read_to_string(aside.as_ref().unwrap()).unwrap(), text[..text.len() / 2]);
    fs::remove_file(aside.unwrap()).unwrap();
    assert_eq!(daemon.ctl(&["status"]).code, 0);
}

#[test]
fn filters_that_mean_nothing_for_new_mail_are_refused_with_the_reason() {
    let daemon = Setup::new().start();
    for (arguments, says) in [
        (&["hold", "--attempts", ">3"][..], "never tried"),
        (&["hold", "--older", "1h"], "just come"),
        (&["hold", "--not", "--state", "held"], "not queued yet"),
        (&["hold", "--code", "4.7."], "nobody has answered"),
        (&["hold", "--destination", "mx adatum.test"], "name its recipients"),
        (&["hold", "--held-by", "7"], "not queued yet"),
        (&["hold", "0BZ3K7QW2M4XA"], "it is new"),
        (&["hold", "--header", "Subject=("], "no regular expression"),
        (&["hold", "--sender", "nobody"], "address"),
        (&["hold", "--client-ip", "192.0.2.0/33"], "no network"),
        (&["hold"], "which messages"),
        (&["hold", "--all", "--for", "0s"], "before it begins"),
        (&["reject", "--all", "--text", "a\nb"], "one line"),
    ] {
        let output = daemon.ctl(&[&["rule", "add"], arguments, &["--reason", "x"]].concat());
        assert_eq!(output.code, 2, "{arguments:?}: {output:?}");
        assert!(output.stderr.contains(says), "{arguments:?}: {output:?}");
    }
    assert_eq!(daemon.ctl(&["rule", "add", "hold", "--all"]).code, 2);
    let dry = daemon.ask(&["rule", "add", "hold", "--all", "--reason", "x", "--dry-run"]);
    assert_eq!((&dry["dry_run"], &dry["rule"]), (&true.into(), &Json::Null));
    assert_eq!(daemon.ask(&["rule", "list"])["rules"], Json::Array(Vec::new()));
    assert!(!daemon.folder().join("spool/rules.json").exists());
}

#[test]
fn existing_messages_are_taken_in_hand_too_when_that_is_asked() {
    let mut hop = NextHop::start(Script::default());
    let daemon = Setup::new().next_hop("adatum.test", &hop).start();
    hop.go_down();
    for subject in ["one", "two"] {
        assert_eq!(from_alice(&daemon, &[CAROL], subject).code, 250);
    }
    let hold = ["rule", "add", "hold", "--account", ALICE, "--reason", "look first", "--existing"];
    let with = |more: &[&str]| daemon.ctl(&[&hold[..], more].concat());
    let dry = with(&["--dry-run", "--json"]);
    assert_eq!(dry.json()["existing"]["matched"], 2);
    for refused in [with(&[]), with(&["--yes", "--max", "1"])] {
        assert_eq!(refused.code, 2, "{refused:?}");
        assert!(refused.stderr.contains("2 messages match"), "{refused:?}");
    }
    // Nothing by halves: there is no rule either.
    assert_eq!(daemon.ask(&["rule", "list"])["rules"], Json::Array(Vec::new()));
    let added = with(&["--yes", "--wait", "10", "--json"]);
    assert_eq!(added.code, 0, "{added:?}");
    let added = added.json();
    assert_eq!((&added["existing"]["changed"], &added["rule"]["id"]), (&2.into(), &1.into()));
    assert!(daemon.queue().iter().all(|m| m["held"] == "rule 1: look first"));
    assert_eq!(rule(&daemon, "1")["hits"], 2);

    let fail =
        ["fail", "--rcpt", CAROL, "--reason", "has left", "--text", "Carol has left", "--existing", "--yes"];
    assert_eq!(daemon.ask(&[&["rule", "add"], &fail[..]].concat())["existing"]["changed"], 2);
    assert!(Dsn::parse(&daemon.maildir(ALICE).wait_for("one")).text.contains("Carol has left"));
    let reject = daemon.ctl(&["rule", "add", "reject", "--all", "--reason", "x", "--existing"]);
    assert_eq!(reject.code, 2, "{reject:?}");

    // Everybody who changed something is in the audit log.
    let audit = daemon.ask(&["audit"]);
    let events: Vec<(&str, u64)> = audit["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| (event["verb"].as_str().unwrap(), event["rule"].as_u64().unwrap()))
        .collect();
    assert_eq!(events, [("rule-hold", 1), ("rule-fail", 2)]);
    assert_eq!(audit["events"][0]["changed"], 2);
}

#[test]
fn a_message_that_does_not_exist_can_be_tried() {
    let daemon = Setup::new().start();
    let header = add(&daemon, &["hold", "--header", "Subject=invoice", "--reason", "look"]);
    let reject =
        add(&daemon, &["reject", "--rcpt-domain", "proseware.test", "--sender", MALLORY, "--reason", "no"]);
    let file = daemon.folder().join("draft.eml");
    fs::write(&file, "Subject: an invoice\n\nhello\n").unwrap();
    let test = |more: &[&str]| -> Output {
        daemon.ctl(&[&["rule", "test", "--to", ALICE, "--json"], more].concat())
    };
    let ids = |output: &Output| -> Vec<String> {
        output.json()["matching"].as_array().unwrap().iter().map(|rule| rule["id"].to_string()).collect()
    };
    let nothing = test(&["--from", "a@adatum.test"]);
    assert_eq!((nothing.code, ids(&nothing).len()), (0, 0), "{nothing:?}");
    let both = test(&["--from", MALLORY, "--message", file.to_str().unwrap()]);
    assert_eq!((both.code, ids(&both)), (1, vec![header.clone(), reject.clone()]));
    assert_eq!((&both.json()["decides"].to_string(), &both.json()["at_rcpt"]), (&reject, &true.into()));
    let held = test(&["--from", "<>", "--user", ALICE, "--message", file.to_str().unwrap()]);
    assert_eq!((held.json()["decides"].to_string(), ids(&held)), (header.clone(), vec![header]));
    assert_eq!(test(&["--from", "<>", "--user", "nobody"]).code, 2);
    assert_eq!(rule(&daemon, &reject)["hits"], 0);
}

#[test]
fn rules_are_listed_and_removed_all_together() {
    let mut daemon = Setup::new().start();
    for sender in ["a@client.test", "b@client.test", "c@client.test"] {
        add(&daemon, &["reject", "--sender", sender, "--reason", "one of three"]);
    }
    let lines = daemon.ctl(&["rule", "list", "--jsonl"]).stdout;
    let rules: Vec<Json> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rules.iter().map(|rule| rule["id"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(rules.iter().all(|rule| rule["version"] == 1 && rule["reason"] == "one of three"));
    let text = daemon.ctl(&["rule", "list"]).stdout;
    assert!(text.contains("sender=b@client.test") && text.contains("never"), "{text}");
    // One that is not there: then none is removed.
    assert_eq!(daemon.ctl(&["rule", "remove", "2", "99"]).code, 1);
    assert_eq!(daemon.ctl(&["rule", "remove", "--all"]).code, 2);
    assert_eq!(daemon.ask(&["rule", "remove", "--all", "--dry-run"])["rules"].as_array().unwrap().len(), 3);
    assert_eq!(daemon.ask(&["rule", "list"])["rules"].as_array().unwrap().len(), 3);
    assert_eq!(daemon.ask(&["rule", "remove", "2"])["rules"][0]["id"], 2);
    assert_eq!(daemon.ask(&["rule", "remove", "--all", "--yes"])["rules"].as_array().unwrap().len(), 2);
    daemon.restart();
    assert_eq!(daemon.ctl(&["rule", "remove", "--all", "--yes"]).code, 1);
    assert_eq!(add(&daemon, &["hold", "--dsn", "--reason", "x"]), "4");
}

#[test]
fn operators_may_list_and_admins_change() {
    if !is_root() {
        return say("skipped: rights of groups: only root can become somebody else");
    }
    // Groups that exist everywhere; the user is in neither database, so only the group of the process counts.
    let daemon = Setup::new().with("[admin]\noperators = \"daemon\"\nadmins = \"bin\"").start();
    let id = add(&daemon, &["reject", "--sender", MALLORY, "--reason", "x"]);
    open_to_all(&daemon);
    let group = |name: &str| -> u32 {
        let groups = fs::read_to_string("/etc/group").unwrap();
        let line = groups.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
        line.split(':').nth(2).unwrap().parse().unwrap()
    };
    let as_member = |name: &str, arguments: &[&str]| {
        let socket = daemon.folder().join("control.sock");
        let output = Command::new(env!("CARGO_BIN_EXE_posternctl"))
            .arg("--socket")
            .arg(socket)
            .args(arguments)
            .uid(4_000_000)
            .gid(group(name))
            .output()
            .unwrap();
        output.status.code().unwrap()
    };
    let hold = ["rule", "add", "hold", "--dsn", "--reason", "x"];
    assert_eq!(as_member("daemon", &["rule", "list"]), 0);
    assert_eq!(as_member("daemon", &["rule", "test", "--from", "<>", "--to", ALICE]), 0);
    assert_eq!(as_member("daemon", &hold), 5);
    assert_eq!(as_member("daemon", &["rule", "remove", &id]), 5);
    assert_eq!(as_member("nogroup", &["rule", "list"]), 5);
    assert_eq!(as_member("bin", &hold), 0);
    assert_eq!(as_member("bin", &["rule", "remove", &id]), 0);
    let audit = daemon.ask(&["audit"]);
    assert_eq!(audit["events"].as_array().unwrap().last().unwrap()["uid"], 4_000_000);
}

/// The temporary directory is for its owner only; the socket decides for itself.
fn open_to_all(daemon: &Daemon) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(daemon.folder(), fs::Permissions::from_mode(0o755)).unwrap();
}
