//! Floods, early talkers, slow clients: what keeps them from taking the server, and that honest clients get through.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::admin::metric;
use crate::harness::client::message;
use crate::harness::daemon::PASSWORD;
use crate::harness::mail::contains;
use crate::harness::{Client, Daemon, Setup, eventually, loopback};

/// An honest client, in a network of its own.
const HONEST: Ipv4Addr = Ipv4Addr::new(127, 66, 0, 10);
/// What loopback clients did is remembered only where the configuration says so.
const LOOPBACK_COUNTS: &str = "[auth.guessing]\nban_loopback = true";

/// One of many clients: the network, and the address in it.
fn flooder(network: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 77, network, host)
}

fn deliver(client: &mut Client, daemon: &Daemon, subject: &str) {
    client.ehlo();
    let content = message("a@client.test", "alice@proseware.test", subject, "hello");
    assert_eq!(client.deliver("a@client.test", &["alice@proseware.test"], &content).code, 250);
    daemon.maildir("alice@proseware.test").wait_for(subject);
}

// Limits of addresses and networks.

#[test]
fn an_honest_client_gets_through_a_flood_from_one_network() {
    let daemon = Setup::new().with("[smtp]\nmax_connections_per_network = 10").start();
    let mut flood: Vec<Client> =
        (1..=100).map(|host| Client::open_from(flooder(1, host), daemon.mx())).collect();
    let replies: Vec<String> = flood.iter_mut().map(|client| client.reply().text()).collect();
    let refused =
        replies.iter().filter(|reply| *reply == "421 4.7.0 too many connections from your network").count();
    assert_eq!(refused, 90, "{replies:#?}");
    deliver(&mut Client::connect_from(HONEST, daemon.mx()), &daemon, "through");
    let limit = [r#"limit="network""#];
    assert_eq!(metric(&daemon, "postern_smtp_connections_refused_total", &limit), 90.0);
    // One line for the network and the minute; a minute may have ended in between.
    assert!(daemon.logged("turned-away") <= 2, "{} lines", daemon.logged("turned-away"));
    let line = daemon.wait_for("turned-away", |line| line["limit"] == "network");
    assert_eq!(line["network"], "127.77.1.0/24");
}

#[test]
fn an_honest_client_gets_through_a_flood_from_everywhere() {
    let limits = "[smtp]\nmax_connections = 40\nstress = { idle = \"300ms\" }";
    let daemon = Setup::new().with(limits).start();
    // Nearly all of them find a place: each comes from a network of its own, and says nothing.
    let flood: Vec<Client> =
        (0..200).map(|network| Client::open_from(flooder(network, 1), daemon.mx())).collect();
    daemon.wait_for("stress", |_| true);
    daemon.wait_for("turned-away", |line| line["limit"] == "all");
    let mut honest = eventually("a place for an honest client", || {
        let mut client = Client::open_from(HONEST, daemon.mx());
        (client.reply().code == 220).then_some(client)
    });
    deliver(&mut honest, &daemon, "through");
    eventually("the end of the stress", || {
        (metric(&daemon, "postern_smtp_stress", &[]) == 0.0).then_some(())
    });
    assert!(metric(&daemon, "postern_smtp_timeouts_total", &[r#"reason="stress""#]) >= 5.0);
    drop(flood);
}

#[test]
fn new_connections_are_limited_by_the_minute_but_not_for_logins_and_trusted_networks() {
    let limits = "[smtp.clients]\nconnections_per_minute = 5\nnetwork_connections_per_minute = 8";
    let daemon = Setup::new().with(LOOPBACK_COUNTS).with(limits).trust("127.66.0.0/16").start();
    let connect = |source| Client::open_from(source, daemon.mx()).reply().text();
    // A minute may end in between, and half of it count: then it takes some more.
    let limited = (0..20).map(|_| connect(flooder(1, 1))).find(|reply| !reply.starts_with("220"));
    let limited = limited.expect("a limit of new connections");
    assert_eq!(limited, "421 4.7.0 too many new connections from your address, try again in a minute");
    let network = (2..30).map(|host| connect(flooder(1, host))).find(|reply| !reply.starts_with("220"));
    let network = network.expect("a limit of the network");
    assert_eq!(network, "421 4.7.0 too many new connections from your network, try again in a minute");
    assert!(connect(flooder(2, 1)).starts_with("220"));
    for _ in 0..20 {
        assert!(connect(HONEST).starts_with("220"), "trusted networks have no such limit");
        let mut client = Client::log_in(daemon.submission(), "alice@proseware.test", PASSWORD);
        client.expect("QUIT", 221);
    }
}

#[test]
fn whoever_tries_names_is_shut_out_for_an_hour_and_others_are_not() {
    let limits = "[smtp.clients]\nunknown_recipients_per_hour = 4\nnetwork_unknown_recipients_per_hour = 7";
    let daemon = Setup::new().with(LOOPBACK_COUNTS).with(limits).start();
    // What is said in the end, after as many refusals as there may be.
    let guess = |source: Ipv4Addr, most: usize| {
        let mut client = Client::connect_from(source, daemon.mx());
        client.ehlo();
        client.expect("MAIL FROM:<a@client.test>", 250);
        for n in 0..most {
            client.expect(&format!("RCPT TO:<nobody{n}@proseware.test>"), 550);
        }
        let last = client.reply().text();
        assert!(client.is_closed());
        last
    };
    assert_eq!(
        guess(flooder(1, 1), 4),
        "421 4.7.0 too many unknown recipients from your address within an hour, try again later"
    );
    let again = Client::open_from(flooder(1, 1), daemon.mx()).reply();
    assert!(again.text().starts_with("421 4.7.0 too many unknown recipients from your address"));
    // The second address brings its network over the limit.
    assert_eq!(
        guess(flooder(1, 2), 3),
        "421 4.7.0 too many unknown recipients from your network within an hour, try again later"
    );
    let third = Client::open_from(flooder(1, 3), daemon.mx()).reply();
    assert!(third.text().starts_with("421 4.7.0 too many unknown recipients from your network"));
    deliver(&mut Client::connect_from(HONEST, daemon.mx()), &daemon, "through");
}

#[test]
fn errors_are_limited_by_the_hour_over_all_sessions() {
    let limits = "[smtp.clients]\nerrors_per_hour = 6";
    let daemon = Setup::new().with(LOOPBACK_COUNTS).with(limits).start();
    for _ in 0..2 {
        let mut client = Client::connect_from(flooder(1, 1), daemon.mx());
        client.expect("RUBBISH", 500);
        client.expect("RUBBISH", 500);
        client.expect("QUIT", 221);
    }
    let mut client = Client::connect_from(flooder(1, 1), daemon.mx());
    client.expect("RUBBISH", 500);
    client.expect("RUBBISH", 500);
    let last = client.reply().text();
    assert_eq!(last, "421 4.7.0 too many errors from your address within an hour, try again later");
    assert!(client.is_closed());
    assert_eq!(Client::open_from(flooder(1, 1), daemon.mx()).reply().text(), last);
    deliver(&mut Client::connect_from(flooder(1, 2), daemon.mx()), &daemon, "neighbour");
}

// Early talkers.

#[test]
fn whoever_talks_before_the_greeting_is_refused_where_that_is_wanted() {
    let pregreet = "[smtp.pregreet]\nwait = \"400ms\"";
    let daemon = Setup::new().with(pregreet).trust("127.66.0.0/16").start();
    let mut early = Client::open_from(flooder(1, 1), daemon.mx());
    early.send_line("EHLO client.test");
    let reply = early.reply().text();
    assert_eq!(reply, "554 5.5.1 you talked before the greeting (RFC 5321 section 3.1)");
    assert!(early.is_closed());
    daemon.wait_for("early-talker", |line| line["action"] == "reject");
    deliver(&mut Client::connect_from(flooder(1, 1), daemon.mx()), &daemon, "patient");
    // These are greeted at once: what they say is no news then.
    for (source, listener) in [(HONEST, daemon.mx()), (flooder(1, 2), daemon.submission())] {
        let mut client = Client::open_from(source, listener);
        client.send_line("NOOP");
        client.expect_reply(220);
        client.expect_reply(250);
    }
}

#[test]
fn early_talkers_are_only_noted_where_that_is_wanted() {
    let daemon = Setup::new().with("[smtp.pregreet]\nwait = \"400ms\"\naction = \"log\"").start();
    let mut early = Client::open_from(flooder(1, 1), daemon.mx());
    early.send_line("NOOP");
    early.expect_reply(220);
    early.expect_reply(250);
    daemon.wait_for("early-talker", |line| line["action"] == "log");
    let action = [r#"action="log""#];
    assert_eq!(metric(&daemon, "postern_smtp_early_talkers_total", &action), 1.0);
}

// Slow clients, and those that do nothing.

#[test]
fn under_stress_idle_clients_go_first_and_those_at_work_stay() {
    let stress = "[smtp]\nmax_connections = 10\nstress = { from_percent = 20, idle = \"300ms\" }";
    let daemon = Setup::new().with(stress).start();
    let mut at_work = Client::connect_from(HONEST, daemon.mx());
    at_work.ehlo();
    at_work.expect("MAIL FROM:<a@client.test>", 250);
    let mut idle: Vec<Client> =
        (1..=5).map(|network| Client::connect_from(flooder(network, 1), daemon.mx())).collect();
    for client in &mut idle {
        assert_eq!(client.reply().text(), "421 4.4.2 timeout, closing connection");
        assert!(client.is_closed());
    }
    at_work.expect("RCPT TO:<alice@proseware.test>", 250);
    let content = message("a@client.test", "alice@proseware.test", "at-work", "hello");
    assert_eq!(at_work.content(&content).code, 250);
}

#[test]
fn a_command_line_that_drips_in_is_cut_off() {
    let daemon = Setup::new().with("[smtp]\ntimeouts = { command_line = \"300ms\" }").start();
    let mut client = Client::connect_from(flooder(1, 1), daemon.mx());
    client.ehlo();
    client.set_patience(Duration::from_millis(50));
    let reply = eventually("the end of a line that drips in", || {
        // It may be closed already; then the reply is there to be read.
        let _ = client.try_send(b"N");
        client.try_reply().ok()
    });
    assert_eq!(reply.text(), "421 4.4.2 timeout, closing connection");
    assert_eq!(metric(&daemon, "postern_smtp_timeouts_total", &[r#"reason="slow-line""#]), 1.0);
}

#[test]
fn a_message_that_comes_too_slowly_is_cut_off() {
    let limits = "[smtp]\nmin_data_rate = \"10KiB\"\ntimeouts = { data_grace = \"300ms\" }";
    let daemon = Setup::new().with(limits).start();
    let mut client = Client::connect_from(flooder(1, 1), daemon.mx());
    client.ehlo();
    client.expect("MAIL FROM:<a@client.test>", 250);
    client.expect("RCPT TO:<alice@proseware.test>", 250);
    client.expect("DATA", 354);
    client.set_patience(Duration::from_millis(50));
    let reply = eventually("the end of a message that drips in", || {
        let _ = client.try_send(b"drip\r\n");
        client.try_reply().ok()
    });
    assert_eq!(reply.text(), "421 4.4.2 timeout, closing connection");
    assert_eq!(metric(&daemon, "postern_smtp_timeouts_total", &[r#"reason="slow-data""#]), 1.0);
    deliver(&mut Client::connect_from(flooder(1, 1), daemon.mx()), &daemon, "fast-enough");
}

// Memory.

#[test]
fn before_memory_runs_out_new_mail_and_new_sessions_are_deferred() {
    let daemon = Setup::new().with("[smtp]\nmax_buffers = \"4MiB\"").start();
    let buffers = || metric(&daemon, "postern_smtp_buffer_octets", &[]);
    // Headers without an end stay in memory. Each is waited for, so that none comes behind the others.
    let header = format!("X-Long: {}\r\n", "x".repeat(990)).repeat(100);
    let mut senders = Vec::new();
    let refused = loop {
        assert!(senders.len() < 60, "{} octets in buffers and no end", buffers());
        let mut client = Client::connect_from(flooder(senders.len() as u8, 1), daemon.mx());
        client.ehlo();
        let reply = client.command("MAIL FROM:<a@client.test>");
        if reply.code != 250 {
            break reply.text();
        }
        client.expect("RCPT TO:<alice@proseware.test>", 250);
        client.expect("DATA", 354);
        let before = buffers();
        client.send(header.as_bytes());
        eventually("the header in memory", || (buffers() >= before + 80_000.0).then_some(()));
        senders.push(client);
    };
    assert_eq!(refused, "452 4.3.1 no memory for new mail, try again later");
    // Those on their way go on, and fill the rest.
    let count = senders.len();
    let turned_away = (0..2000).find_map(|n| {
        senders[n % count].send(&header.as_bytes()[..2000]);
        let reply = Client::open_from(HONEST, daemon.mx()).reply();
        (reply.code != 220).then(|| reply.text())
    });
    assert_eq!(turned_away.as_deref(), Some("421 4.3.2 no memory for more connections, try again later"));
    let status = daemon.ctl(&["status"]);
    assert!(status.stdout.contains(" of 4.0 MiB"), "{}", status.stdout);
    // However much more they send, it stays near the budget: some are given up, and get the same words at their end.
    for sender in &mut senders {
        sender.send(header.repeat(2).as_bytes());
    }
    let ends: Vec<String> = senders
        .iter_mut()
        .map(|sender| {
            sender.send(b"\r\nhello\r\n.\r\n");
            sender.reply().text()
        })
        .collect();
    let given_up = ends.iter().filter(|end| end.starts_with("452 4.3.1 no memory for new mail")).count();
    assert!(
        given_up > 0 && ends.iter().all(|end| end.starts_with("250 ") || end.starts_with("452 ")),
        "{ends:#?}"
    );
    drop(senders);
    eventually("room again", || (buffers() < 1e6).then_some(()));
    deliver(&mut Client::connect_from(HONEST, daemon.mx()), &daemon, "room-again");
}

// Delays.

#[test]
fn no_more_sessions_are_delayed_than_may_be() {
    let limits =
        "[smtp]\nmax_delayed = 1\nerror_delay_from = 1\nerror_delay = \"1h\"\nmax_error_delay = \"60s\"";
    let daemon = Setup::new().with(limits).start();
    let mut first = Client::connect_from(flooder(1, 1), daemon.mx());
    first.send_line("RUBBISH");
    eventually("a session that is delayed", || {
        (metric(&daemon, "postern_smtp_delayed_sessions", &[]) == 1.0).then_some(())
    });
    let mut second = Client::connect_from(flooder(2, 1), daemon.mx());
    assert_eq!(second.command("RUBBISH").text(), "421 4.7.0 too many errors");
    assert!(second.is_closed());
    deliver(&mut Client::connect_from(HONEST, daemon.mx()), &daemon, "no-errors");
}

// Proxies.

/// A server that also listens behind a proxy at [`HONEST`], and where that is.
fn behind_proxy(limits: &str) -> (Daemon, SocketAddr) {
    let address = loopback();
    let listener =
        format!("[[listener]]\nkind = \"mx\"\naddress = \"{address}:0\"\nproxy = [\"{HONEST}/32\"]");
    let daemon = Setup::new().with(&listener).with(limits).start();
    let event = daemon.wait_for("listening", |line| {
        line["address"].as_str().is_some_and(|text| text.starts_with(&format!("{address}:")))
    });
    let address = event["address"].as_str().unwrap().parse().unwrap();
    (daemon, address)
}

#[test]
fn the_client_that_a_listed_proxy_names_is_the_client() {
    let (daemon, listener) = behind_proxy("[smtp]\nmax_connections_per_address = 1");
    let header = "PROXY TCP4 192.0.2.77 198.51.100.25 4000 25\r\n";
    let mut client = Client::open_from(HONEST, listener);
    client.send(header.as_bytes());
    client.expect_reply(220);
    client.ehlo();
    let content = message("a@client.test", "alice@proseware.test", "proxied", "hello");
    assert_eq!(client.deliver("a@client.test", &["alice@proseware.test"], &content).code, 250);
    let mail = daemon.maildir("alice@proseware.test").wait_for("proxied");
    assert!(contains(&mail.0, "from client.test ([192.0.2.77])"), "{}", String::from_utf8_lossy(&mail.0));
    // The limits are those of that client.
    let mut again = Client::open_from(HONEST, listener);
    again.send(header.as_bytes());
    assert_eq!(again.reply().text(), "421 4.7.0 too many connections from your address");
    let mut other = Client::open_from(HONEST, listener);
    let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    binary.extend([192, 0, 2, 78, 198, 51, 100, 25, 0x0f, 0xa0, 0, 25]);
    // A client that sends its first command at once is served all the same.
    binary.extend(b"NOOP\r\n");
    other.send(&binary);
    other.expect_reply(220);
    other.expect_reply(250);
}

#[test]
fn a_proxy_without_the_header_is_refused_and_a_header_from_others_is_no_command() {
    let (daemon, listener) = behind_proxy("");
    for begin in ["EHLO client.test\r\n", "PROXY TCP4 192.0.2.77\r\n"] {
        let mut proxy = Client::open_from(HONEST, listener);
        proxy.send(begin.as_bytes());
        assert_eq!(proxy.reply().text(), "421 4.3.5 PROXY protocol header expected");
        assert!(proxy.is_closed());
    }
    daemon.wait_for("proxy-refused", |line| line["proxy"] == HONEST.to_string());
    let mut check = Client::open_from(HONEST, listener);
    check.send(b"PROXY UNKNOWN\r\n");
    check.expect_reply(220);
    let mut stranger = Client::connect_from(flooder(1, 1), listener);
    stranger.expect("PROXY TCP4 127.66.0.10 198.51.100.25 4000 25", 500);
    stranger.expect("QUIT", 221);
}
