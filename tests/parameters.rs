//! What senders demand of every server on the way: REQUIRETLS, FUTURERELEASE, DELIVERBY, MT-PRIORITY.

use crate::harness::client::message;
use crate::harness::daemon::PASSWORD;
use crate::harness::mail::{Dsn, contains};
use crate::harness::tls::Identity;
use crate::harness::{Client, Daemon, NextHop, Script, Setup};

const ALICE: &str = "alice@proseware.test";
const BOB: &str = "bob@proseware.test";
const CAROL: &str = "carol@adatum.test";

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
    let daemon = Setup::new().next_hop("adatum.test", &hop).start();
    submit(&daemon, &format!("<{CAROL}>"), "REQUIRETLS", "secret");
    let received = hop.wait_for_message();
    assert!(received.tls && received.from.ends_with(" REQUIRETLS"), "{received:?}");
    daemon.wait_for_empty_queue();
}

#[test]
fn a_message_that_demands_tls_returns_from_a_host_that_does_not_promise_it() {
    let hop = hop("mx.adatum.test", &[]);
    let daemon = Setup::new().next_hop("adatum.test", &hop).start();
    submit(&daemon, &format!("<{CAROL}>"), "REQUIRETLS RET=FULL", "secret");
    let dsn = report(&daemon, "secret");
    assert_eq!(dsn.recipients[0].field("Status"), "5.7.30");
    assert!(!contains(&dsn.returned, "the body"), "the header only");
    // Other mail goes on at once.
    submit(&daemon, &format!("<{CAROL}>"), "", "no secret");
    assert!(contains(&hop.wait_for_message().mail.0, "no secret"));
    assert_eq!(hop.received().len(), 1);
}

#[test]
fn a_message_that_demands_tls_waits_for_a_host_that_proves_its_name() {
    let hop = hop("wrong.test", &["REQUIRETLS"]);
    let daemon = Setup::new().next_hop("adatum.test", &hop).start();
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
