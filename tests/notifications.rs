//! What senders ask to be told, and are: NOTIFY, ORCPT, RET and ENVID (RFC 3461) from MAIL to the report.

use crate::harness::client::message;
use crate::harness::daemon::PASSWORD;
use crate::harness::mail::{Dsn, contains};
use crate::harness::{Client, Daemon, NextHop, Script, Setup};

const ALICE: &str = "alice@proseware.test";
const BOB: &str = "bob@proseware.test";
const CAROL: &str = "carol@adatum.test";

/// Sends a message with these parameters of MAIL and RCPT.
fn send(client: &mut Client, mail: &str, recipients: &[&str], subject: &str) {
    client.expect(&format!("MAIL FROM:{mail}"), 250);
    for recipient in recipients {
        client.expect(&format!("RCPT TO:{recipient}"), 250);
    }
    let reply = client.content(&message(ALICE, CAROL, subject, "the body"));
    assert_eq!(reply.code, 250, "{}", reply.text());
}

/// The same as alice.
fn submit(daemon: &Daemon, mail: &str, recipients: &[&str], subject: &str) {
    send(&mut Client::log_in(daemon.submission(), ALICE, PASSWORD), mail, recipients, subject);
}

/// The only report that alice gets about a message, and the fields about its only recipient by name.
fn only_report(daemon: &Daemon, about: &str) -> Dsn {
    let mail = daemon.maildir(ALICE).wait_for(about);
    daemon.wait_for_empty_queue();
    assert_eq!(daemon.maildir(ALICE).messages().len(), 1, "one report, not more");
    let dsn = Dsn::parse(&mail);
    assert_eq!(dsn.recipients.len(), 1, "{dsn:?}");
    dsn
}

fn hop_with_dsn() -> NextHop {
    let mut script = Script::default();
    script.extensions.push("DSN".to_owned());
    NextHop::start(script)
}

#[test]
fn delivery_into_a_mailbox_is_reported_to_whoever_asks() {
    let daemon = Setup::new().start();
    let mail = format!("<{ALICE}> RET=FULL ENVID=order+2B7");
    let to = format!("<{BOB}> NOTIFY=SUCCESS ORCPT=rfc822;Bob@elsewhere.test");
    submit(&daemon, &mail, &[&to], "told-of-delivery");
    let dsn = only_report(&daemon, "told-of-delivery");
    assert_eq!(dsn.message.field("Original-Envelope-Id"), "order+7");
    for (name, value) in [
        ("Action", "delivered"),
        ("Status", "2.0.0"),
        ("Final-Recipient", "rfc822; bob@proseware.test"),
        ("Original-Recipient", "rfc822; Bob@elsewhere.test"),
    ] {
        assert_eq!(dsn.recipients[0].field(name), value);
    }
    assert!(!contains(&dsn.returned, "the body"), "RET is about failures");
    daemon.maildir(BOB).wait_for("told-of-delivery");
}

#[test]
fn relaying_to_a_host_without_dsn_is_reported() {
    let hop = NextHop::start(Script::default());
    let daemon = Setup::new().next_hop("adatum.test", &hop).start();
    let to = format!("<{CAROL}> NOTIFY=SUCCESS,DELAY");
    submit(&daemon, &format!("<{ALICE}>"), &[&to], "told-of-relaying");
    let dsn = only_report(&daemon, "told-of-relaying");
    assert_eq!(dsn.recipients[0].field("Action"), "relayed");
    assert!(dsn.recipients[0].field("Remote-MTA").contains("mx.adatum.test"), "{dsn:?}");
    let received = hop.wait_for_message();
    assert!(!received.from.contains("ENVID") && !received.recipients[0].contains("NOTIFY"), "{received:?}");
}

#[test]
fn a_host_with_dsn_is_asked_to_report_and_we_do_not() {
    let hop = hop_with_dsn();
    let daemon = Setup::new().next_hop("adatum.test", &hop).start();
    let to = format!("<{CAROL}> ORCPT=utf-8;\\x{{17E}}ofie@elsewhere.test NOTIFY=FAILURE,SUCCESS");
    submit(&daemon, &format!("<{ALICE}> RET=HDRS ENVID=7"), &[&to], "passed-on");
    let received = hop.wait_for_message();
    assert!(received.from.ends_with(" RET=HDRS ENVID=7"), "{}", received.from);
    assert_eq!(
        received.recipients,
        [format!("<{CAROL}> NOTIFY=SUCCESS,FAILURE ORCPT=utf-8;\\x{{17E}}ofie@elsewhere.test")]
    );
    daemon.wait_for_empty_queue();
    assert!(daemon.maildir(ALICE).messages().is_empty());
}

#[test]
fn an_alias_for_several_is_reported_once_as_expanded() {
    let hop = hop_with_dsn();
    let aliases =
        format!("[[domain]]\nname = \"lists.test\"\naliases = {{ team = [\"{BOB}\", \"{CAROL}\"] }}");
    let daemon = Setup::new().next_hop("adatum.test", &hop).with(&aliases).start();
    let to = "<team@lists.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;team@lists.test";
    submit(&daemon, &format!("<{ALICE}>"), &[to], "to-a-team");
    let dsn = only_report(&daemon, "to-a-team");
    assert_eq!(dsn.recipients[0].field("Action"), "expanded");
    assert_eq!(dsn.recipients[0].field("Final-Recipient"), "rfc822; team@lists.test");
    assert!(!dsn.text.contains("carol"), "who is behind it is not told: {}", dsn.text);
    daemon.maildir(BOB).wait_for("to-a-team");
    let received = hop.wait_for_message();
    assert_eq!(received.recipients, [format!("<{CAROL}> NOTIFY=FAILURE ORCPT=rfc822;team@lists.test")]);
}

#[test]
fn who_wants_to_hear_nothing_hears_nothing() {
    let hop = NextHop::start(Script::default().reply("RCPT TO:<carol", "550 5.1.1 no such user"));
    let daemon = Setup::new().next_hop("adatum.test", &hop).start();
    let to = [format!("<{CAROL}> NOTIFY=NEVER"), "<dave@adatum.test> NOTIFY=SUCCESS".to_owned()];
    submit(&daemon, &format!("<{ALICE}>"), &to.each_ref().map(String::as_str), "never-told");
    let dsn = only_report(&daemon, "never-told");
    assert_eq!(dsn.recipients[0].field("Final-Recipient"), "rfc822; dave@adatum.test");
    assert!(!dsn.text.contains("carol"), "{}", dsn.text);
}

#[test]
fn ret_says_how_much_of_a_message_that_failed_returns() {
    let hop = NextHop::start(Script::default().reply("RCPT", "550 5.1.1 no such user"));
    for (ret, is_full) in [("RET=HDRS", false), ("RET=FULL", true)] {
        let daemon = Setup::new().next_hop("adatum.test", &hop).start();
        let to = format!("<{CAROL}> NOTIFY=FAILURE");
        submit(&daemon, &format!("<{ALICE}> {ret}"), &[&to], "returned");
        let dsn = only_report(&daemon, "returned");
        assert_eq!(dsn.recipients[0].field("Action"), "failed");
        assert!(contains(&dsn.returned, "Subject: returned"));
        assert_eq!(contains(&dsn.returned, "the body"), is_full, "{ret}");
    }
}

#[test]
fn a_delay_is_told_to_those_who_want_it() {
    let hop = NextHop::start(Script::default().reply("RCPT", "451 4.3.0 later"));
    let daemon = Setup::new().next_hop("adatum.test", &hop).with("[queue]\ndelay_notice = \"100ms\"").start();
    let to = [format!("<{CAROL}> NOTIFY=FAILURE"), "<dave@adatum.test> NOTIFY=DELAY".to_owned()];
    submit(&daemon, &format!("<{ALICE}>"), &to.each_ref().map(String::as_str), "late");
    let dsn = Dsn::parse(&daemon.maildir(ALICE).wait_for("late"));
    assert_eq!(dsn.recipients.len(), 1, "{dsn:?}");
    assert_eq!(dsn.recipients[0].field("Action"), "delayed");
    assert_eq!(dsn.recipients[0].field("Final-Recipient"), "rfc822; dave@adatum.test");
}

#[test]
fn strangers_are_told_too_unless_the_configuration_says_otherwise() {
    let hop = NextHop::start(Script::default());
    let daemon = Setup::new().next_hop("adatum.test", &hop).start();
    let mut stranger = Client::connect(daemon.mx());
    assert!(stranger.ehlo().offers("DSN"));
    let to = format!("<{BOB}> NOTIFY=SUCCESS");
    send(&mut stranger, "<>", &[&to], "from-nobody");
    send(&mut stranger, &format!("<{CAROL}>"), &[&to], "from-a-stranger");
    let report = hop.wait_for_message();
    assert_eq!(report.sender(), "<>");
    assert!(contains(&report.mail.0, "Action: delivered") && contains(&report.mail.0, "from-a-stranger"));
    daemon.wait_for_empty_queue();
    assert_eq!(hop.received().len(), 1, "the null sender gets none");

    let daemon = Setup::new().with("[smtp]\ndsn = \"known\"").start();
    let mut stranger = Client::connect(daemon.mx());
    assert!(!stranger.ehlo().offers("DSN"));
    stranger.expect(&format!("MAIL FROM:<{CAROL}>"), 250);
    assert!(stranger.expect(&format!("RCPT TO:{to}"), 555).text().contains("5.5.4"));
    submit(&daemon, &format!("<{ALICE}>"), &[&to], "from-a-login");
    only_report(&daemon, "from-a-login");
}

#[test]
fn reports_that_are_owed_survive_a_crash() {
    let hop = NextHop::start(Script::default().reply("RCPT", "451 4.3.0 later"));
    let aliases =
        format!("[[domain]]\nname = \"lists.test\"\naliases = {{ team = [\"{BOB}\", \"{CAROL}\"] }}");
    let mut daemon = Setup::new().next_hop("adatum.test", &hop).with(&aliases).start();
    let to = [format!("<{CAROL}> NOTIFY=SUCCESS"), "<team@lists.test> NOTIFY=SUCCESS".to_owned()];
    submit(&daemon, &format!("<{ALICE}> ENVID=crash"), &to.each_ref().map(String::as_str), "crashed");
    hop.wait_for_command("RCPT", 1);
    daemon.kill();
    hop.set_script(Script::default());
    daemon.start();
    hop.wait_for_message();
    daemon.wait_for_empty_queue();
    let reports: Vec<Dsn> = daemon.maildir(ALICE).messages().iter().map(Dsn::parse).collect();
    let mut actions: Vec<String> =
        reports.iter().flat_map(|dsn| &dsn.recipients).map(|recipient| recipient.field("Action")).collect();
    actions.sort();
    assert_eq!(actions, ["expanded", "relayed"]);
    assert!(reports.iter().all(|dsn| dsn.message.field("Original-Envelope-Id") == "crash"), "{reports:?}");
}
