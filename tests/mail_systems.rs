//! Other mail systems: hosts that speak for their clients, servers that come for their mail.

use std::net::{Ipv4Addr, SocketAddr};

use crate::harness::client::message;
use crate::harness::mail::contains;
use crate::harness::{Client, NextHop, Script, Setup, eventually};

const ALICE: &str = "alice@proseware.test";
/// A proxy or filter in front of the server.
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 88, 0, 1);
const LISTS: &str = "[smtp]\nxclient_from = [\"127.88.0.1/32\"]\nxforward_from = [\"127.88.0.1/32\"]";

/// A session of the proxy.
fn proxy(address: SocketAddr) -> Client {
    let mut client = Client::connect_from(PROXY, address);
    client.ehlo();
    client
}

// XCLIENT.

#[test]
fn the_client_that_xclient_names_is_the_client() {
    let daemon = Setup::new().with(LISTS).with("[smtp]\nmax_connections_per_address = 1").start();
    let mut client = proxy(daemon.mx());
    client.expect("XCLIENT NAME=client.test ADDR=192.0.2.77 PORT=4711", 220);
    client.ehlo();
    client.expect("MAIL FROM:<a@client.test>", 250);
    let refused = client.expect("RCPT TO:<nobody@proseware.test>", 550).text();
    let reference = refused.split("(ref ").nth(1).unwrap().trim_end_matches(')').to_owned();
    let explained = daemon.ctl(&["explain", &reference]).stdout;
    assert!(explained.contains("192.0.2.77"));
    client.expect("RSET", 250);
    let content = message("a@client.test", ALICE, "handed-over", "hello");
    assert_eq!(client.deliver("a@client.test", &[ALICE], &content).code, 250);
    let mail = daemon.maildir(ALICE).wait_for("handed-over");
    assert!(contains(&mail.0, "([192.0.2.77])"), "{}", String::from_utf8_lossy(&mail.0));
    let line = daemon.wait_for("xclient", |line| line["client"] == "192.0.2.77");
    assert_eq!((line["host"].as_str(), line["name"].as_str()), (Some("127.88.0.1"), Some("client.test")));
    daemon.wait_for("accepted", |line| line["client"] == "192.0.2.77");

    // Its limits are its own, and those of the proxy are none.
    let mut again = proxy(daemon.mx());
    let said = again.command("XCLIENT ADDR=192.0.2.77").text();
    assert_eq!(said, "421 4.7.0 too many connections from your address");
    assert!(again.is_closed());
    let mut other = proxy(daemon.mx());
    other.expect("XCLIENT ADDR=192.0.2.78", 220);
    // The place of the first client is free when its session has gone on with another one.
    client.expect("XCLIENT ADDR=192.0.2.79", 220);
    other.expect("EHLO other.test", 250);
    other.expect("XCLIENT ADDR=192.0.2.77", 220);
}

#[test]
fn a_banned_client_is_kept_out_behind_a_proxy_too() {
    let daemon = Setup::new().with(LISTS).start();
    let ban = daemon.ctl(&["ban", "add", "203.0.113.0/24", "--ttl", "1h", "--reason", "flood"]);
    assert_eq!(ban.code, 0, "{}", ban.stderr);
    let mut client = proxy(daemon.mx());
    let said = client.command("XCLIENT ADDR=203.0.113.77").text();
    assert!(said.starts_with("421 4.7.0 "), "{said}");
    assert!(client.is_closed());
    proxy(daemon.mx()).expect("XCLIENT ADDR=198.51.100.7", 220);
}

#[test]
fn strangers_cannot_hand_over() {
    let daemon = Setup::new().with(LISTS).start();
    let mut client = Client::connect_from(Ipv4Addr::new(127, 88, 0, 2), daemon.mx());
    let greeting = client.ehlo();
    assert!(!greeting.offers("XCLIENT") && !greeting.offers("XFORWARD"));
    let said = client.expect("XCLIENT ADDR=192.0.2.77", 500).text();
    assert_eq!(said, client.expect("NONSENSE", 500).text());
    assert_eq!(daemon.logged("xclient"), 0);
}

// XFORWARD.

#[test]
fn the_log_and_the_history_say_where_a_forwarded_message_came_from() {
    let daemon = Setup::new().with(LISTS).start();
    let mut filter = proxy(daemon.mx());
    filter.expect("XFORWARD NAME=spike.client.test ADDR=192.0.2.77 PROTO=ESMTP", 250);
    filter.expect("XFORWARD HELO=spike IDENT=4F2A1 SOURCE=REMOTE", 250);
    let content = message("a@client.test", ALICE, "filtered", "hello");
    let id = filter.deliver("a@client.test", &[ALICE], &content).queue_id();
    let line = daemon.wait_for("accepted", |line| line["id"] == id.as_str());
    assert_eq!(line["client"], "127.88.0.1");
    let said = "NAME=spike.client.test ADDR=192.0.2.77 PROTO=ESMTP HELO=spike IDENT=4F2A1 SOURCE=REMOTE";
    assert_eq!(line["forwarded"], said);
    let mail = daemon.maildir(ALICE).wait_for("filtered");
    assert!(
        contains(&mail.0, "([127.88.0.1])") && !contains(&mail.0, "192.0.2.77"),
        "decides and claims nothing"
    );
    let history = eventually("the end of the message in the history", || {
        let history = daemon.ask(&["message", "history", &id]);
        history["messages"][0]["events"]
            .as_array()
            .is_some_and(|events| !events.is_empty())
            .then_some(history)
    });
    let story = &history["messages"][0];
    assert_eq!(
        (story["client"].as_str(), story["forwarded"].as_str()),
        (Some("127.88.0.1"), Some("spike.client.test [192.0.2.77]"))
    );

    // It was about that message alone.
    let second = filter.deliver("a@client.test", &[ALICE], &content).queue_id();
    let line = daemon.wait_for("accepted", |line| line["id"] == second.as_str());
    assert_eq!(line.get("forwarded"), None);
}

// ETRN.

#[test]
fn a_server_that_is_back_asks_for_its_mail() {
    let mut hop = NextHop::start(Script::default());
    hop.go_down();
    // Without ETRN the next attempt is hours away.
    let settings = "[smtp]\netrn_from = [\"127.88.0.0/16\"]\n\
                    [queue]\nretry = { first = \"3h\", cap = \"4h\" }\n\
                    [outbound]\ndestination_back_off = \"1h\"\ndestination_back_off_cap = \"2h\"\n\
                    [relay]\nrelay_domains = [{ name = \"adatum.test\" }]";
    let daemon = Setup::new().next_hop("adatum.test", &hop).with(settings).start();
    let mut sender = Client::connect(daemon.mx());
    sender.ehlo();
    let content = message("a@client.test", "carol@adatum.test", "waits", "hello");
    assert_eq!(sender.deliver("a@client.test", &["carol@adatum.test"], &content).code, 250);
    daemon.wait_in_queue("a message that was tried", |message| {
        message["recipients"][0]["attempts"].as_u64() > Some(0)
            && message["recipients"][0]["state"] == "deferred"
    });
    sender.expect("ETRN adatum.test", 502);

    hop.come_up();
    let mut client = proxy(daemon.mx());
    let said = client.expect("ETRN adatum.test", 253).text();
    assert_eq!(said, "253 2.0.0 Ok: 1 messages for adatum.test started");
    assert!(contains(&hop.wait_for_message().mail.0, "waits"));
    daemon.wait_for_empty_queue();
    assert_eq!(
        client.expect("ETRN adatum.test", 458).text(),
        "458 4.7.0 the queue for adatum.test is run once in 60 s: try again later"
    );
    client.expect("ETRN proseware.test", 459);
    let line = daemon.wait_for("etrn", |line| line["node"] == "adatum.test");
    assert_eq!((line["client"].as_str(), line["started"].as_u64()), (Some("127.88.0.1"), Some(1)));
}
