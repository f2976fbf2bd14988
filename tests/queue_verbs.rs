//! The verbs that change what waits: while it is being delivered, over restarts, and by another way.

use std::fs;

use serde_json::Value as Json;

use crate::harness::client::message;
use crate::harness::ctl::Output;
use crate::harness::daemon::PASSWORD;
use crate::harness::mail::{Dsn, contains};
use crate::harness::next_hop::Received;
use crate::harness::{Action, Client, Daemon, NextHop, Script, Setup, eventually};

const ALICE: &str = "alice@proseware.test";
const CAROL: &str = "carol@adatum.test";
const DAVE: &str = "dave@adatum.test";

/// Retries that nobody waits for in a test.
const SLOW: &str = "[queue.retry]\nfirst = \"1h\"\ncap = \"4h\"";

fn busy() -> Script {
    Script::default().reply("RCPT", "451 4.2.1 mailbox busy")
}

/// Takes everything but the end of the data: the attempt goes on until the hop goes down.
fn endless() -> Script {
    Script::default().on(".", Action::Hang)
}

fn sending_to(hop: &NextHop) -> Daemon {
    Setup::new().next_hop("adatum.test", hop).with(SLOW).start()
}

fn submit(daemon: &Daemon, to: &[&str], subject: &str) -> String {
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    let reply = client.deliver(ALICE, to, &message(ALICE, to[0], subject, "hello"));
    assert_eq!(reply.code, 250, "{}", reply.text());
    reply.queue_id()
}

/// A message that waits for its next attempt, far away.
fn deferred(daemon: &Daemon, to: &[&str], subject: &str) -> String {
    let id = submit(daemon, to, subject);
    daemon.wait_in_queue("a deferred message", |m| m["id"] == id.as_str() && m["state"] == "deferred");
    id
}

/// A message that is being delivered and does not come to an end.
fn in_hand(daemon: &Daemon, hop: &NextHop, to: &[&str], subject: &str) -> String {
    let id = submit(daemon, to, subject);
    hop.wait_for_command("DATA", 1);
    id
}

/// A verb of `queue` with `--json`: its exit code and its answer.
fn verb(daemon: &Daemon, arguments: &[&str]) -> (i32, Json) {
    let output = daemon.ctl(&[&["queue"], arguments, &["--json"]].concat());
    (output.code, output.json())
}

/// One that must change one message.
fn change(daemon: &Daemon, arguments: &[&str]) {
    let (code, answer) = verb(daemon, arguments);
    assert_eq!((code, &answer["changed"]), (0, &1.into()), "{arguments:?}: {answer}");
}

fn shown(daemon: &Daemon, id: &str) -> Json {
    daemon.ask(&["queue", "show", id])["message"].clone()
}

#[test]
fn what_is_dropped_while_it_is_being_delivered_goes_when_the_attempt_has_ended() {
    let mut hop = NextHop::start(endless());
    let mut daemon = sending_to(&hop);
    let id = in_hand(&daemon, &hop, &[CAROL], "dropped");
    let (code, answer) = verb(&daemon, &["drop", "--id", &id, "--reason", "spam"]);
    assert_eq!((code, &answer["changed"], &answer["skipped"]), (3, &1.into(), &Json::Array(Vec::new())));
    let in_flight = &answer["in_flight"][0];
    assert_eq!((&in_flight["open"], &in_flight["delivered"]), (&1.into(), &0.into()), "{answer}");
    let message = shown(&daemon, &id);
    assert_eq!(message["state"], "active");
    assert!(message["held"].as_str().unwrap().contains("to be removed"), "{message}");
    // Not even a crash lets it out again.
    daemon.kill();
    daemon.start();
    daemon.wait_for_empty_queue();
    assert_eq!(hop.sessions().iter().flatten().filter(|line| *line == "DATA").count(), 1);

    let id = in_hand(&daemon, &hop, &[CAROL], "dropped-again");
    hop.wait_for_command("DATA", 2);
    verb(&daemon, &["drop", "--id", &id, "--reason", "spam"]);
    hop.go_down();
    daemon.wait_for_empty_queue();
    assert!(hop.received().is_empty() && daemon.maildir(ALICE).messages().is_empty());
    // The journal gets the reason when the end has come.
    let told = eventually("the drop in the journal", || {
        let output = daemon.ctl(&["message", "history", &id]);
        output.stdout.contains("dropped ").then_some(output.stdout)
    });
    assert!(told.contains("dropped    carol@adatum.test by an operator: spam\n"), "{told}");
}

#[test]
fn a_hold_stands_at_once_and_the_attempt_under_way_counts() {
    let mut hop = NextHop::start(endless());
    let daemon = sending_to(&hop);
    let id = in_hand(&daemon, &hop, &[CAROL], "held");
    let (code, answer) = verb(&daemon, &["hold", "--id", &id, "--reason", "looks odd"]);
    assert_eq!((code, &answer["changed"], &answer["in_flight"][0]["open"]), (3, &1.into(), &1.into()));
    assert_eq!(shown(&daemon, &id)["held"], "looks odd");
    hop.go_down();
    let held = daemon.wait_in_queue("the held message", |m| m["state"] == "held");
    assert_eq!(held["recipients"][0]["attempts"], 1);
    hop.set_script(Script::default());
    hop.come_up();
    change(&daemon, &["release", "--id", &id]);
    assert!(contains(&hop.wait_for_message().mail.0, "held"));
    daemon.wait_for_empty_queue();
}

#[test]
fn fail_waits_for_the_attempt_and_says_what_came_of_it() {
    let mut hop = NextHop::start(endless());
    let daemon = sending_to(&hop);
    let id = in_hand(&daemon, &hop, &[CAROL], "given-up");
    let arguments = ["fail", "--id", &id, "--reason", "the customer has left", "--wait", "60"];
    let (code, answer) = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| verb(&daemon, &arguments));
        eventually("the mark", || (shown(&daemon, &id)["recipients"][0]["ending"] == "failed").then_some(()));
        hop.go_down();
        waiting.join().unwrap()
    });
    assert_eq!((code, &answer["changed"]), (0, &1.into()), "{answer}");
    assert_eq!(answer["in_flight"][0]["open"], 0);
    let dsn = Dsn::parse(&daemon.maildir(ALICE).wait_for("the customer has left"));
    assert_eq!(dsn.recipients[0].field("Action"), "failed");
    daemon.wait_for_empty_queue();
}

#[test]
fn what_was_delivered_meanwhile_is_delivered_and_not_called_dropped() {
    let hop = NextHop::start(Script::default());
    let daemon = sending_to(&hop);
    // The daemon's own clock decides which of the two is first; what is said must be true in both cases.
    for round in 0..20 {
        let id = submit(&daemon, &[CAROL], &format!("race-{round}"));
        let output =
            daemon.ctl(&["queue", "drop", "--id", &id, "--reason", "race", "--wait", "60", "--json"]);
        let answer = output.json();
        eventually("the end of the message", || daemon.queue().is_empty().then_some(()));
        let is_delivered = hop.received().iter().any(|m| m.mail.field("Subject") == format!("race-{round}"));
        assert_eq!(answer["changed"] == 1, !is_delivered, "{answer}");
    }
}

#[test]
fn a_hold_ends_at_its_time_over_a_restart() {
    let hop = NextHop::start(busy());
    let mut daemon = sending_to(&hop);
    let id = deferred(&daemon, &[CAROL], "until-then");
    change(&daemon, &["hold", "--id", &id, "--until", "3s", "--reason", "the mailbox moves"]);
    assert!(
        shown(&daemon, &id)["held_until"].as_u64().unwrap()
            > shown(&daemon, &id)["received"].as_u64().unwrap()
    );
    let text = daemon.ctl(&["queue", "show", &id]).stdout;
    assert!(text.contains("held until") && text.contains("when the hold ends"), "{text}");
    hop.set_script(Script::default());
    daemon.restart();
    assert!(contains(&hop.wait_for_message().mail.0, "until-then"));
    daemon.wait_for_empty_queue();
    let output = daemon.ctl(&["queue", "hold", "--all", "--until", "2020-01-01T00:00:00Z"]);
    assert_eq!(output.code, 2, "{output:?}");
}

#[test]
fn a_retry_has_its_time_and_says_what_still_rests() {
    let mut hop = NextHop::start(busy());
    let long = "[outbound]\ndestination_back_off = \"1h\"\ndestination_back_off_cap = \"1h\"";
    let daemon = Setup::new().next_hop("adatum.test", &hop).with(SLOW).with(long).start();
    let id = deferred(&daemon, &[CAROL], "impatient");
    change(&daemon, &["retry", "--id", &id, "--in", "2h"]);
    let next = shown(&daemon, &id)["recipients"][0]["next_attempt"].as_u64().unwrap();
    assert!(next > shown(&daemon, &id)["received"].as_u64().unwrap() + 7100, "{next}");
    let far = daemon.ctl(&["queue", "retry", "--id", &id, "--in", "2d"]);
    assert!(far.code == 2 && far.stderr.contains("minutes ahead"), "{far:?}");

    hop.go_down();
    change(&daemon, &["retry", "--id", &id, "--reset-backoff"]);
    daemon.wait_in_queue("an attempt that failed", |m| {
        m["state"] == "deferred" && m["recipients"][0]["attempts"] == 2
    });
    let (_, answer) = verb(&daemon, &["retry", "--id", &id]);
    assert_eq!(answer["resting"], 1, "{answer}");
    let told = daemon.ctl(&["queue", "retry", "--id", &id]);
    assert!(told.stderr.contains("destination"), "{told:?}");
    hop.set_script(Script::default());
    hop.come_up();
    change(&daemon, &["retry", "--id", &id, "--ignore-breaker"]);
    hop.wait_for_message();
    daemon.wait_for_empty_queue();
}

#[test]
fn an_edited_envelope_is_the_one_that_is_sent() {
    let hop = NextHop::start(busy());
    let mut daemon = sending_to(&hop);
    let id = deferred(&daemon, &[CAROL, "erin@adatum.test", "frank@adatum.test"], "edited");
    let edit = ["edit", &id, "--sender", "bob@proseware.test", "--add-rcpt", DAVE, "--remove-rcpt", CAROL];
    change(
        &daemon,
        &[&edit[..], &["--mark-delivered", "erin@adatum.test", "--reason", "typing errors"]].concat(),
    );
    for wrong in [&["edit", &id, "--remove-rcpt", CAROL][..], &["edit", &id, "--add-rcpt", DAVE]] {
        let (code, answer) = verb(&daemon, wrong);
        assert_eq!((code, &answer["changed"]), (3, &0.into()), "{answer}");
    }
    assert_eq!(daemon.ctl(&["queue", "edit", &id]).code, 2);
    assert_eq!(daemon.ctl(&["queue", "edit", &id, "--add-rcpt", "dave"]).code, 2);
    assert_eq!(daemon.ctl(&["queue", "edit", "0000000000001", "--add-rcpt", DAVE]).code, 1);
    daemon.restart();
    hop.set_script(Script::default());
    change(&daemon, &["retry", "--id", &id]);
    let mut recipients = Vec::new();
    eventually("both recipients", || {
        let received = hop.received();
        assert!(received.iter().all(|message| message.sender() == "<bob@proseware.test>"), "{received:?}");
        recipients = received.into_iter().flat_map(|message| message.recipients).collect();
        (recipients.len() == 2).then_some(())
    });
    recipients.sort();
    assert!(recipients[0].starts_with(&format!("<{DAVE}>")), "{recipients:?}");
    assert!(recipients[1].starts_with("<frank@adatum.test>"), "{recipients:?}");
    daemon.wait_for_empty_queue();
    assert!(daemon.maildir(ALICE).messages().is_empty(), "nobody is told of what an operator took out");
    let audit = daemon.ask(&["audit"]);
    let detail = audit["events"][0]["detail"].as_str().unwrap();
    assert!(
        detail.contains("sender <bob@proseware.test>") && detail.contains(&format!("add <{DAVE}>")),
        "{audit}"
    );
}

#[test]
fn mail_goes_another_way_when_that_is_said() {
    let mut down = NextHop::start(Script::default());
    let relay = NextHop::start(Script::default());
    let mut daemon = sending_to(&down);
    down.go_down();
    let id = submit(&daemon, &[CAROL, ALICE], "rerouted");
    daemon.wait_in_queue("a resting destination", |m| {
        m["recipients"][0]["state"] != "active"
            && m["recipients"].as_array().unwrap().iter().any(|r| r["state"] == "delivered")
    });
    let via = format!("smarthost [{}]:{}", relay.ip(), relay.port());
    let wrong = daemon.ctl(&["queue", "reroute", "--id", &id, "--via", "relay.adatum.test"]);
    assert!(wrong.code == 2 && wrong.stderr.contains("smarthost HOST[:PORT]"), "{wrong:?}");
    let local = verb(&daemon, &["reroute", "--id", &id, "--rcpt", ALICE, "--via", "mx"]);
    assert_eq!((local.0, &local.1["changed"]), (3, &0.into()), "{local:?}");
    change(&daemon, &["hold", "--id", &id]);
    change(&daemon, &["reroute", "--destination", "adatum.test", "--via", &via]);
    assert_eq!(shown(&daemon, &id)["recipients"][0]["destination"], via.as_str());
    daemon.restart();
    assert_eq!(shown(&daemon, &id)["recipients"][0]["via"], via.as_str());
    assert!(daemon.ctl(&["queue", "show", &id]).stdout.contains("chosen by hand"));
    change(&daemon, &["release", "--id", &id]);
    assert!(contains(&relay.wait_for_message().mail.0, "rerouted"));
    daemon.wait_for_empty_queue();

    // And back to what the configuration says.
    let id = submit(&daemon, &[DAVE], "back");
    change(&daemon, &["hold", "--id", &id, "--wait", "60"]);
    change(&daemon, &["reroute", "--id", &id, "--via", &via]);
    change(&daemon, &["reroute", "--id", &id, "--via", "none"]);
    assert_eq!(shown(&daemon, &id)["recipients"][0]["destination"], "mx adatum.test");
    down.come_up();
    change(&daemon, &["release", "--id", &id]);
    assert!(contains(&down.wait_for_message().mail.0, "back"));
    assert_eq!(relay.received().len(), 1);
}

#[test]
fn a_requeued_message_follows_the_aliases_of_now() {
    let hop = NextHop::start(busy());
    let alias = format!("[[domain]]\nname = \"branch.test\"\naliases = {{ info = [\"{CAROL}\"] }}");
    let daemon = Setup::new().next_hop("adatum.test", &hop).with(SLOW).with(&alias).start();
    let id = deferred(&daemon, &["info@branch.test"], "requeued");
    let config = fs::read_to_string(daemon.config()).unwrap().replace(CAROL, DAVE);
    fs::write(daemon.config(), config).unwrap();
    assert_eq!(daemon.ctl(&["reload"]).code, 0);
    assert_eq!(shown(&daemon, &id)["recipients"][0]["address"], CAROL);
    hop.set_script(Script::default());
    change(&daemon, &["requeue", "--id", &id, "--reset-backoff"]);
    let received = hop.wait_for_message();
    assert!(received.recipients[0].starts_with(&format!("<{DAVE}>")), "{received:?}");
    daemon.wait_for_empty_queue();
    assert!(daemon.maildir(ALICE).messages().is_empty());
}

#[test]
fn lists_are_printed_as_somebody_wants_them() {
    let hop = NextHop::start(busy());
    let daemon = sending_to(&hop);
    let id = deferred(&daemon, &[CAROL, DAVE], "listed");
    let lines = |arguments: &[&str]| -> Output { daemon.ctl(&[&["queue", "list"], arguments].concat()) };
    let text = lines(&["--format", r"{id}\t<{sender}>\t{recipients}"]).stdout;
    assert_eq!(text, format!("{id}\t<{ALICE}>\t{CAROL},{DAVE}\n"));
    let text = lines(&["--by", "recipient", "--format", "{address} {status} {attempts}"]).stdout;
    assert_eq!(text, format!("{CAROL} 4.2.1 1\n{DAVE} 4.2.1 1\n"));
    let wrong = lines(&["--format", "{subject}"]);
    assert!(wrong.code == 2 && wrong.stderr.contains("message_id"), "{wrong:?}");
    assert_eq!(lines(&["--format", "{id}", "--jsonl"]).code, 2);
}

#[test]
fn only_what_was_copied_is_dropped() {
    let mut hop = NextHop::start(busy());
    let daemon = sending_to(&hop);
    let id = deferred(&daemon, &[CAROL, DAVE], "copied");
    hop.set_script(endless());
    let other = in_hand(&daemon, &hop, &[CAROL], "in-hand");
    let folder = daemon.folder().join("dropped");
    let arguments = ["drop", "--rcpt", CAROL, "--reason", "spam", "--yes", "--export"];
    let (code, answer) = verb(&daemon, &[&arguments[..], &[folder.to_str().unwrap()]].concat());
    assert_eq!((code, &answer["matched"], &answer["changed"]), (3, &2.into(), &1.into()), "{answer}");
    assert_eq!(answer["skipped"][0][0], other.as_str());
    assert!(folder.join(format!("{id}.json")).exists() && folder.join(format!("{id}.eml")).exists());
    assert!(!folder.join(format!("{other}.json")).exists());
    // The other recipient of the copied message was not meant.
    let message = shown(&daemon, &id);
    assert_eq!(message["recipients"][1]["state"], "deferred", "{message}");
    hop.set_script(Script::default());
    hop.go_down();
    hop.come_up();
    change(&daemon, &["retry", "--id", &id, "--ignore-breaker"]);
    let received = hop.wait_for_message();
    assert_eq!(received.recipients.len(), 1);
    assert!(received.recipients[0].starts_with(&format!("<{DAVE}>")), "{received:?}");
}

#[test]
fn a_moved_message_takes_its_edits_along() {
    let hop = NextHop::start(busy());
    let (here, there) = (sending_to(&hop), sending_to(&hop));
    let id = deferred(&here, &[CAROL], "moved");
    change(&here, &["hold", "--id", &id, "--until", "1h", "--reason", "moves"]);
    change(&here, &["edit", &id, "--sender", "bob@proseware.test", "--add-rcpt", DAVE]);
    change(&here, &["reroute", "--id", &id, "--via", "mx backup.adatum.test"]);
    let folder = here.folder().join("export");
    assert_eq!(here.ctl(&["queue", "export", folder.to_str().unwrap()]).code, 0);
    let imported = there.ctl(&["queue", "import", folder.to_str().unwrap()]);
    assert_eq!(imported.code, 0, "{imported:?}");
    assert_eq!(shown(&there, &id), shown(&here, &id));
    assert_eq!(shown(&there, &id)["recipients"][1]["via"], "mx backup.adatum.test");
}

#[test]
fn messages_with_another_priority_are_sent_in_its_order_also_after_a_restart() {
    let hop = NextHop::start(busy());
    let one_by_one = "[outbound]\ninitial_per_destination = 1\nmax_per_destination = 1";
    let with = format!("{SLOW}\n{one_by_one}");
    let mut daemon = Setup::new().next_hop("adatum.test", &hop).with(&with).start();
    let subjects = ["first", "second", "third", "fourth"];
    let ids = subjects.map(|subject| deferred(&daemon, &[CAROL], subject));

    let out_of_range = daemon.ctl(&["queue", "edit", &ids[0], "--priority", "10"]);
    assert_eq!(out_of_range.code, 2, "{out_of_range:?}");
    assert!(out_of_range.stderr.contains("from -9 to 9"), "{out_of_range:?}");
    assert_eq!(daemon.ctl(&["queue", "edit", "--priority", "1"]).code, 2, "which messages?");
    let several = daemon.ctl(&["queue", "edit", "--sender", ALICE, "--priority", "1"]);
    assert!(several.code == 2 && several.stderr.contains("--yes"), "{several:?}");
    let dry = daemon.ctl(&["queue", "edit", "--sender", ALICE, "--priority", "1", "--dry-run"]);
    assert!(dry.code == 0 && dry.stdout.contains("4 messages matched, nothing was changed"), "{dry:?}");

    let all = ["edit", "--sender", ALICE, "--priority", "-2", "--yes", "--reason", "can wait"];
    assert_eq!(daemon.change_queue(&all), 4);
    change(&daemon, &["edit", &ids[3], "--priority", "9"]);
    change(&daemon, &["edit", "--id", &ids[1], "--priority", "0"]);
    let (code, answer) = verb(&daemon, &["edit", &ids[1], "--priority", "0"]);
    assert_eq!((code, &answer["changed"]), (3, &0.into()), "{answer}");
    assert!(answer["skipped"][0][1].as_str().unwrap().contains("already"), "{answer}");

    daemon.restart();
    let show = daemon.ctl(&["queue", "show", &ids[3]]);
    assert!(show.stdout.lines().any(|line| line.starts_with("priority") && line.ends_with(" 9")), "{show:?}");
    let (_, list) = verb(&daemon, &["list"]);
    let priorities: Vec<i64> =
        list["messages"].as_array().unwrap().iter().map(|m| m["priority"].as_i64().unwrap()).collect();
    assert_eq!(priorities, [-2, 0, -2, 9]);
    let (_, low) = verb(&daemon, &["list", "--has-priority", "<0"]);
    assert_eq!(low["messages"].as_array().unwrap().len(), 2);

    // They come into their line together when the hop takes them.
    assert_eq!(daemon.change_queue(&["hold", "--all", "--yes"]), 4);
    hop.set_script(Script::default());
    assert_eq!(daemon.change_queue(&["release", "--all", "--yes"]), 4);
    daemon.wait_for_empty_queue();
    let sent = hop.received();
    let is_about =
        |message: &Received, subject: &str| contains(&message.mail.0, &format!("Subject: {subject}\r\n"));
    let order: Vec<&str> = sent
        .iter()
        .flat_map(|message| subjects.into_iter().filter(|subject| is_about(message, subject)))
        .collect();
    assert_eq!(order, ["fourth", "second", "first", "third"]);

    let history = daemon.ask(&["message", "history", &ids[3]]).to_string();
    assert!(history.contains("priority 9") && history.contains("priority -2"), "{history}");
    let audit = daemon.ask(&["audit"]);
    let event = &audit["events"][0];
    assert_eq!(
        (&event["verb"], &event["detail"], &event["reason"], &event["changed"]),
        (&"prioritise".into(), &"priority -2".into(), &"can wait".into(), &4.into())
    );
}
