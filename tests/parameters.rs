//! What senders demand of every server on the way: REQUIRETLS, FUTURERELEASE, DELIVERBY, MT-PRIORITY.

use crate::harness::client::message;
use crate::harness::daemon::PASSWORD;
use crate::harness::mail::{Dsn, contains};
use crate::harness::tls::Identity;
use crate::harness::{Action, Client, Daemon, NextHop, Script, Setup};

const ALICE: &str = "alice@proseware.test";
const BOB: &str = "bob@proseware.test";
const CAROL: &str = "carol@adatum.test";

/// Senders may demand TLS on the whole way.
const REQUIRETLS: &str = "[smtp]\nrequire_tls = \"on\"";

/// A host with a certificate for `name` that offers these extensions too.
fn hop(name: &str, extensions: &[&str]) -> NextHop {
    let mut script = Script { tls: Some(Identity::new(&[name])), ..Script::default() };
    script.extensions.extend(extensions.iter().map(|extension| (*extension).to_owned()));
    NextHop::start(script)
}

/// Submits a message as alice with these parameters; answers its queue id.
fn submit(daemon: &Daemon, to: &str, parameters: &str, subject: &str) -> String {
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    client.expect(&format!("MAIL FROM:<{ALICE}> {parameters}"), 250);
    client.expect(&format!("RCPT TO:{to}"), 250);
    let reply = client.content(&message(ALICE, CAROL, subject, "the body"));
    assert_eq!(reply.code, 250, "{}", reply.text());
    reply.queue_id()
}

/// The report about a message that alice sent.
fn report(daemon: &Daemon, about: &str) -> Dsn {
    Dsn::parse(&daemon.maildir(ALICE).wait_for(about))
}

#[test]
fn a_message_that_demands_tls_goes_to_a_proved_host_that_promises_the_same() {
    let hop = hop("mx.adatum.test", &["REQUIRETLS"]);
    let daemon = Setup::new().next_hop("adatum.test", &hop).with(REQUIRETLS).start();
    submit(&daemon, &format!("<{CAROL}>"), "REQUIRETLS", "secret");
    let received = hop.wait_for_message();
    assert!(received.tls && received.from.ends_with(" REQUIRETLS"), "{received:?}");
    daemon.wait_for_empty_queue();
}

#[test]
fn a_message_that_demands_tls_returns_from_a_host_that_does_not_promise_it() {
    let in_clear = Script { extensions: vec!["REQUIRETLS".to_owned()], ..Script::default() };
    for (hop, status) in [(hop("mx.adatum.test", &[]), "5.7.30"), (NextHop::start(in_clear), "5.7.10")] {
        let daemon = Setup::new().next_hop("adatum.test", &hop).with(REQUIRETLS).start();
        submit(&daemon, &format!("<{CAROL}>"), "REQUIRETLS RET=FULL", "secret");
        let dsn = report(&daemon, "secret");
        assert_eq!(dsn.recipients[0].field("Status"), status);
        assert!(!contains(&dsn.returned, "the body"), "the header only");
        // Other mail goes on at once.
        submit(&daemon, &format!("<{CAROL}>"), "", "nothing special");
        assert!(contains(&hop.wait_for_message().mail.0, "nothing special"));
        assert_eq!(hop.received().len(), 1);
    }
}

#[test]
fn a_message_that_demands_tls_waits_for_a_host_that_proves_its_name() {
    let hop = hop("wrong.test", &["REQUIRETLS"]);
    let daemon = Setup::new().next_hop("adatum.test", &hop).with(REQUIRETLS).start();
    let id = submit(&daemon, &format!("<{CAROL}>"), "REQUIRETLS", "secret");
    let waiting = daemon.wait_in_queue("a deferred message", |m| {
        m["state"] == "deferred" && m["recipients"][0]["status"] == "4.7.5"
    });
    assert_eq!(waiting["id"], id.as_str());
    let shown = daemon.ctl(&["queue", "show", &id]).stdout;
    assert!(shown.contains("only over verified TLS (REQUIRETLS)"), "{shown}");
    assert!(
        hop.received().is_empty() && hop.sessions().iter().flatten().all(|line| !line.starts_with("MAIL"))
    );
}

#[test]
fn a_demand_of_tls_is_taken_only_where_the_operator_offers_it() {
    for (config, offers, code) in [("", false, 555), (REQUIRETLS, true, 250)] {
        let daemon = Setup::new().with(config).start();
        let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
        assert_eq!(client.ehlo().offers("REQUIRETLS"), offers);
        client.expect(&format!("MAIL FROM:<{ALICE}> REQUIRETLS"), code);
    }
}

#[test]
fn mail_for_later_waits_for_its_time_over_a_restart_or_until_an_operator_lets_it_go() {
    let mut daemon = Setup::new().start();
    let mut client = Client::connect_tls(daemon.submissions());
    assert!(client.ehlo().text().contains("FUTURERELEASE 604800 20"), "seconds and the date");
    let id = submit(&daemon, &format!("<{BOB}>"), "HOLDFOR=86400", "for tomorrow");
    let later = submit(&daemon, &format!("<{BOB}>"), "HOLDFOR=2", "for soon");
    let is_waiting = |m: &serde_json::Value| {
        let waits =
            m["recipients"][0]["next_attempt"].as_u64() > m["received"].as_u64().map(|at| at + 86_000);
        let lives = m["expires"].as_u64() > m["received"].as_u64().map(|at| at + 86_400 + 3600);
        m["id"] == id.as_str() && m["state"] == "deferred" && waits && lives
    };
    daemon.wait_in_queue("mail for tomorrow", is_waiting);
    daemon.restart();
    daemon.wait_in_queue("mail for tomorrow, after a restart", is_waiting);
    let shown = daemon.ctl(&["queue", "show", &id]).stdout;
    assert!(shown.contains("as the sender wants (FUTURERELEASE)"), "{shown}");

    daemon.maildir(BOB).wait_for("for soon");
    assert!(
        daemon.queue().iter().all(|m| m["id"] != later.as_str() || m["recipients"][0]["state"] != "deferred")
    );
    assert_eq!(daemon.maildir(BOB).messages().len(), 1, "the other one waits");
    assert_eq!(daemon.change_queue(&["retry", "--sender", ALICE]), 0, "nobody has named it");
    assert_eq!(daemon.change_queue(&["hold", "--id", &id, "--reason", "looked at"]), 1);
    assert_eq!(daemon.change_queue(&["release", "--id", &id]), 1);
    daemon.wait_in_queue("mail for tomorrow, after a hold", is_waiting);
    assert_eq!(daemon.change_queue(&["retry", "--id", &id]), 1);
    daemon.maildir(BOB).wait_for("for tomorrow");
    daemon.wait_for_empty_queue();
}

#[test]
fn mail_is_held_for_logins_and_within_limits_only() {
    let daemon = Setup::new().with("[smtp]\nmax_hold = \"1h\"").start();
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    let refused = client.expect(&format!("MAIL FROM:<{ALICE}> HOLDFOR=3601"), 501).text();
    assert!(refused.contains("5.5.4") && refused.contains("3600 seconds"), "{refused}");
    client.expect(&format!("MAIL FROM:<{ALICE}> HOLDUNTIL=2099-01-01T00:00:00Z"), 501);
    client.expect(&format!("MAIL FROM:<{ALICE}> HOLDUNTIL=2020-01-01T00:00:00Z"), 250);
    let mut stranger = Client::connect(daemon.mx());
    assert!(!stranger.ehlo().offers("FUTURERELEASE"));
    stranger.expect(&format!("MAIL FROM:<{CAROL}> HOLDFOR=60"), 555);
}

#[test]
fn mail_that_is_not_delivered_in_time_returns() {
    let mut script = Script::default().reply("RCPT", "451 4.3.0 later");
    script.extensions.push("DELIVERBY".to_owned());
    let hop = NextHop::start(script);
    let setup = Setup::new().next_hop("adatum.test", &hop).with("[smtp]\nmin_deliver_by = \"1s\"");
    let daemon = setup.start();
    submit(&daemon, &format!("<{CAROL}>"), "BY=3;R", "urgent");
    let dsn = report(&daemon, "urgent");
    assert_eq!(dsn.recipients[0].field("Action"), "failed");
    assert_eq!(dsn.recipients[0].field("Status"), "5.4.7");
    assert!(dsn.recipients[0].field("Diagnostic-Code").contains("later"), "{dsn:?}");
    let asked = hop.sessions().into_iter().flatten().find(|line| line.starts_with("MAIL")).unwrap();
    assert!(asked.contains(" BY=2;R") || asked.contains(" BY=3;R"), "{asked}");
    daemon.wait_for_empty_queue();
}

#[test]
fn a_sender_who_wants_to_know_is_told_that_mail_is_late_and_it_is_tried_on() {
    let hop = NextHop::start(Script::default().reply("RCPT", "451 4.3.0 later"));
    let daemon = Setup::new().next_hop("adatum.test", &hop).start();
    let id = submit(&daemon, &format!("<{CAROL}>"), "BY=1;N", "wanted soon");
    let dsn = report(&daemon, "wanted soon");
    assert_eq!(dsn.recipients[0].field("Action"), "delayed");
    let waiting = daemon.wait_in_queue("the message, tried on", |m| m["id"] == id.as_str());
    assert!(
        waiting["terms"][0].as_str().unwrap().contains("else the sender is told (DELIVERBY)"),
        "{waiting}"
    );
    hop.set_script(Script::default());
    hop.wait_for_message();
    // A host that knows nothing of the time has it now: the sender hears of that too.
    daemon.wait_for_empty_queue();
    let reports = daemon.maildir(ALICE).messages();
    assert_eq!(reports.len(), 2);
    assert!(reports.iter().any(|mail| contains(&mail.0, "Action: relayed")));
}

#[test]
fn mail_that_is_to_return_does_not_go_where_nobody_returns_it() {
    let hop = NextHop::start(Script::default());
    let daemon = Setup::new().next_hop("adatum.test", &hop).start();
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    assert!(client.ehlo().text().contains("DELIVERBY 60"));
    client.expect(&format!("MAIL FROM:<{ALICE}> BY=59;R"), 555);
    client.expect(&format!("MAIL FROM:<{ALICE}> BY=0;R"), 501);
    submit(&daemon, &format!("<{CAROL}>"), "BY=600;R", "returns");
    assert_eq!(report(&daemon, "returns").recipients[0].field("Status"), "5.3.3");
    assert!(hop.received().is_empty());
    // A mailbox of ours is in time.
    submit(&daemon, &format!("<{BOB}>"), "BY=600;R", "in time");
    daemon.maildir(BOB).wait_for("in time");
}

#[test]
fn a_stranger_cannot_have_a_report_sent_by_a_time() {
    let daemon = Setup::new().start();
    let mut stranger = Client::connect(daemon.mx());
    assert!(!stranger.ehlo().offers("DELIVERBY"));
    for by in ["1;N", "600;NT", "600;R", "600;RT"] {
        stranger.expect(&format!("MAIL FROM:<{CAROL}> BY={by}"), 555);
    }
    stranger.expect(&format!("MAIL FROM:<{CAROL}>"), 250);
}

#[test]
fn a_priority_is_granted_lowered_and_passed_on() {
    let hop = hop("mx.adatum.test", &["MT-PRIORITY"]);
    let daemon = Setup::new().next_hop("adatum.test", &hop).start();
    let waiting = submit(&daemon, &format!("<{BOB}>"), "MT-PRIORITY=-5 HOLDFOR=3600", "waiting");
    let shown = daemon.wait_in_queue("its priority", |m| m["id"] == waiting.as_str());
    assert_eq!(shown["priority"], -5, "its place in the line");
    daemon.change_queue(&["drop", "--id", &waiting, "--reason", "seen"]);
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    let lowered = client.expect(&format!("MAIL FROM:<{ALICE}> MT-PRIORITY=9"), 250).text();
    assert!(lowered.contains("2.3.6") && lowered.contains("priority 4"), "{lowered}");
    for (number, (asked, granted)) in (1..).zip([(9, 4), (-2, -2)]) {
        submit(&daemon, &format!("<{CAROL}>"), &format!("MT-PRIORITY={asked}"), "prioritised");
        let received = hop.wait_for_count(number);
        let from = &received[number - 1].from;
        assert!(from.ends_with(&format!(" MT-PRIORITY={granted}")), "{from}");
    }
    let mut stranger = Client::connect(daemon.mx());
    assert!(!stranger.ehlo().offers("MT-PRIORITY"));
    stranger.expect(&format!("MAIL FROM:<{CAROL}> MT-PRIORITY=1"), 555);
}

#[test]
fn what_has_a_higher_priority_goes_first_to_its_destination() {
    let mut hop = NextHop::start(Script::default().times(1, "MAIL", Action::Hang));
    // One at a time, and time enough to come up again before the next attempt.
    let one_by_one = "[outbound]\nmax_per_destination = 1\ninitial_per_destination = 1\ndestination_back_off = \"3s\"\n\
                      destination_back_off_cap = \"3s\"";
    let daemon = Setup::new().next_hop("adatum.test", &hop).with(one_by_one).start();
    submit(&daemon, &format!("<{CAROL}>"), "", "takes the line");
    hop.wait_for_command("MAIL", 1);
    let held = [-4, 4, 1];
    let ids = held.map(|priority| {
        submit(
            &daemon,
            &format!("<{CAROL}>"),
            &format!("MT-PRIORITY={priority}"),
            &format!("priority {priority}."),
        )
    });
    for id in &ids {
        daemon.wait_in_queue("a message in line", |m| m["id"] == id.as_str() && m["state"] == "ready");
    }
    hop.go_down();
    hop.come_up();
    let mails: Vec<_> = hop.wait_for_count(4).into_iter().map(|received| received.mail.0).collect();
    let place = |priority: i32| {
        let subject = format!("priority {priority}.");
        mails.iter().position(|mail| contains(mail, &subject)).unwrap()
    };
    assert!(place(4) < place(1) && place(1) < place(-4), "{:?}", held.map(place));
}
