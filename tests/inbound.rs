//! Who may send what to whom; and wrong, hostile, broken and slow clients.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::harness::client::message;
use crate::harness::daemon::PASSWORD;
use crate::harness::{Client, Daemon, NextHop, Random, Script, Setup, eventually};

/// In the network that [`office`] trusts.
const OFFICE: Ipv4Addr = Ipv4Addr::new(127, 66, 0, 10);
/// Far from it.
const HOTEL: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 20);

/// A server that trusts the network of [`OFFICE`] and sends mail for adatum.test to the next hop.
fn office(hop: &NextHop) -> Daemon {
    Setup::new().trust("127.66.0.0/16").next_hop("adatum.test", hop).start()
}

fn alice(daemon: &Daemon) -> Client {
    Client::log_in(daemon.submission(), "alice@proseware.test", PASSWORD)
}

/// A client on the MX port that has said EHLO.
fn outsider(daemon: &Daemon) -> Client {
    let mut client = Client::connect(daemon.mx());
    client.ehlo();
    client
}

#[test]
fn known_open_relay_tricks_are_refused() {
    let hop = NextHop::start(Script::default());
    let daemon = Setup::new().next_hop("adatum.test", &hop).with("[smtp]\nmax_errors = 10000").start();
    let ip = daemon.mx().ip();
    let senders =
        ["", "alice@proseware.test", "postmaster@proseware.test", "x@mail.proseware.test", "bob@adatum.test"];
    let recipients = [
        "<bob@adatum.test>".to_owned(),
        "<BOB@ADATUM.TEST>".to_owned(),
        "<bob%adatum.test@proseware.test>".to_owned(),
        "<bob%adatum.test@mail.proseware.test>".to_owned(),
        format!("<bob%adatum.test@[{ip}]>"),
        "<\"bob@adatum.test\"@proseware.test>".to_owned(),
        "<\"bob%adatum.test\"@proseware.test>".to_owned(),
        "<@proseware.test:bob@adatum.test>".to_owned(),
        "<@proseware.test,@mail.proseware.test:bob@adatum.test>".to_owned(),
        format!("<@[{ip}]:bob@adatum.test>"),
        "<adatum.test!bob>".to_owned(),
        "<adatum.test!bob@proseware.test>".to_owned(),
        "<proseware.test!adatum.test!bob>".to_owned(),
        "<bob@adatum.test.>".to_owned(),
        "<bob@proseware.test@adatum.test>".to_owned(),
        "<bob@adatum.test@proseware.test>".to_owned(),
        "<bob%adatum.test>".to_owned(),
        "<\"bob@adatum.test\">".to_owned(),
        "bob@adatum.test".to_owned(),
        format!("<bob@[{}]>", hop.ip()),
        format!("<bob@{}>", hop.ip()),
        "<bob@[IPv6:::1]>".to_owned(),
        "<bob@adatum.test,alice@proseware.test>".to_owned(),
        "<alice@proseware.test>,<bob@adatum.test>".to_owned(),
        "<bob@adatum.test\0@proseware.test>".to_owned(),
        "<alice@proseware.test\0bob@adatum.test>".to_owned(),
    ];
    for sender in senders {
        let mut client = outsider(&daemon);
        client.expect(&format!("MAIL FROM:<{sender}>"), 250);
        for recipient in &recipients {
            let reply = client.command(&format!("RCPT TO:{recipient}"));
            assert!((500..600).contains(&reply.code), "{recipient} from <{sender}>: {}", reply.text());
        }
        client.expect("DATA", 554);
    }
    assert!(daemon.queue().is_empty());
    assert!(hop.sessions().is_empty());
}

#[test]
fn claimed_client_addresses_are_not_believed() {
    let hop = NextHop::start(Script::default());
    let daemon = office(&hop);
    let mut client = outsider(&daemon);
    let reply = client.command(&format!("XCLIENT ADDR={OFFICE}"));
    assert!(reply.code >= 500, "{}", reply.text());
    client.expect("MAIL FROM:<printer@proseware.test>", 250);
    client.expect("RCPT TO:<bob@adatum.test>", 550);

    let mut client = Client::open(daemon.mx());
    client.send(format!("PROXY TCP4 {OFFICE} 127.0.0.1 4000 25\r\n").as_bytes());
    // 220, or 554 for somebody who speaks first; after that the line must have been an unknown command.
    let refused = client.try_reply().is_ok_and(|reply| reply.code >= 500)
        || client.try_reply().map_or(true, |reply| reply.code >= 500);
    assert!(refused, "{}", client.transcript());
}

// What is wrong with a command has a code of its own.

#[test]
fn commands_out_of_order_get_503() {
    let daemon = Setup::new().start();
    let mut client = Client::connect(daemon.mx());
    client.play(
        "C: MAIL FROM:<a@client.test>
         S: 503 5.5.1
         C: EHLO client.test
         S: 250
         C: RCPT TO:<alice@proseware.test>
         S: 503 5.5.1
         C: DATA
         S: 503 5.5.1
         C: MAIL FROM:<a@client.test>
         S: 250 2.1.0
         C: MAIL FROM:<b@client.test>
         S: 503 5.5.1
         C: DATA
         S: 503 5.5.1
         C: RSET
         S: 250 2.0.0
         C: RCPT TO:<alice@proseware.test>
         S: 503 5.5.1
         C: NOOP
         S: 250 2.0.0
         C: QUIT
         S: 221 2.0.0",
    );
    assert!(client.is_closed());
}

#[test]
fn bad_syntax_gets_501_and_unknown_commands_500() {
    let daemon = Setup::new().with("[smtp]\nmax_errors = 10000").start();
    let mut client = outsider(&daemon);
    for line in [
        "EHLO",
        "HELO",
        "MAIL",
        "MAIL FROM",
        "MAIL FROM:",
        "MAIL FROM:<a@client.test",
        "MAIL FROM:<a@>",
        "MAIL FROM:<a b@client.test>",
        "MAIL FROM:<a@client..test>",
        "MAIL FROM:<a@client.test> SIZE=abc",
        "MAIL FROM:<a@client.test> SIZE=1 SIZE=2",
    ] {
        let reply = client.command(line);
        assert_eq!(reply.code, 501, "{line}: {}", reply.text());
        assert!(reply.text().starts_with("501 5."), "{line}: {}", reply.text());
    }
    for line in ["FOO", "", "MAILFROM:<a@client.test>", "\u{fffd}\u{fffd}"] {
        let reply = client.command(line);
        assert_eq!(reply.code, 500, "{line:?}: {}", reply.text());
    }
    client.expect("MAIL FROM:<a@client.test>", 250);
    for line in
        ["RCPT", "RCPT TO:", "RCPT TO:<>", "RCPT TO:<alice@proseware.test", "RCPT TO:<alice@ proseware.test>"]
    {
        let reply = client.command(line);
        assert_eq!(reply.code, 501, "{line}: {}", reply.text());
    }
    client.expect("RCPT TO:<alice@proseware.test>", 250);
}

#[test]
fn unsupported_parameters_get_555_and_unsupported_mechanisms_504() {
    let daemon = Setup::new().start();
    let mut client = outsider(&daemon);
    client.expect("MAIL FROM:<a@client.test> FOO=BAR", 555);
    client.expect("MAIL FROM:<a@client.test> FOO", 555);
    client.expect("MAIL FROM:<a@client.test>", 250);
    client.expect("RCPT TO:<alice@proseware.test> FOO=BAR", 555);
    // One of MAIL.
    client.expect("RCPT TO:<alice@proseware.test> RET=FULL", 555);

    let mut client = Client::connect_tls(daemon.submissions());
    client.ehlo();
    assert!(client.expect("AUTH GSSAPI", 504).text().starts_with("504 5.5.4"));
    assert!(client.expect("AUTH PLAIN !!!!", 501).text().starts_with("501 5.5.2"));
}

#[test]
fn sizes_are_judged_at_mail_and_at_the_end_of_data() {
    let daemon = Setup::new().with("[smtp]\nmax_message_size = \"100KiB\"").start();
    let mut client = Client::connect(daemon.mx());
    assert!(client.ehlo().lines.contains(&"SIZE 102400".to_owned()));
    for size in ["102401", "99999999999999999999999999"] {
        assert!(
            client
                .expect(&format!("MAIL FROM:<a@client.test> SIZE={size}"), 552)
                .text()
                .starts_with("552 5.3.4")
        );
    }
    let long = message(
        "a@client.test",
        "alice@proseware.test",
        "long",
        &"x".repeat(70).replace('x', "0123456789\r\n").repeat(150),
    );
    let reply = client.deliver("a@client.test", &["alice@proseware.test"], &long);
    assert!(reply.text().starts_with("552 5.3.4"), "{}", reply.text());
    // The session goes on behind the message that was too long.
    let content = message("a@client.test", "alice@proseware.test", "short", "hello");
    assert_eq!(client.deliver("a@client.test", &["alice@proseware.test"], &content).code, 250);
    daemon.maildir("alice@proseware.test").wait_for("short");
    assert_eq!(daemon.maildir("alice@proseware.test").messages().len(), 1);
}

#[test]
fn too_long_lines_are_refused() {
    let limits = "[smtp]\nmax_command_line = 1000\nmax_data_line = \"2000B\"\nmax_header_size = \"20KiB\"";
    let daemon = Setup::new().with(limits).start();
    let mut client = outsider(&daemon);
    client.expect(&format!("NOOP {}", "x".repeat(5000)), 500);
    client.expect("NOOP", 250);
    let line = message("a@client.test", "alice@proseware.test", "line", &"x".repeat(2500));
    let reply = client.deliver("a@client.test", &["alice@proseware.test"], &line);
    assert!((500..600).contains(&reply.code), "{}", reply.text());
    let header = format!("X-Long: {}\r\n", "x".repeat(1000)).repeat(30);
    let reply = client.deliver("a@client.test", &["alice@proseware.test"], &format!("{header}\r\nhello\r\n"));
    assert_eq!(reply.code, 552, "{}", reply.text());
    client.expect("NOOP", 250);
}

#[test]
fn recipients_beyond_the_limit_get_452_and_the_others_the_message() {
    let daemon = Setup::new().with("[smtp]\nmax_recipients = 2").start();
    let mut client = outsider(&daemon);
    client.expect("MAIL FROM:<a@client.test>", 250);
    client.expect("RCPT TO:<alice@proseware.test>", 250);
    client.expect("RCPT TO:<bob@proseware.test>", 250);
    assert!(client.expect("RCPT TO:<postmaster@proseware.test>", 452).text().starts_with("452 4.5.3"));
    let content = message("a@client.test", "alice@proseware.test", "two", "hello");
    assert_eq!(client.content(&content).code, 250);
    daemon.maildir("alice@proseware.test").wait_for("two");
    daemon.maildir("bob@proseware.test").wait_for("two");
}

#[test]
fn unknown_users_are_refused_by_name_and_the_session_ends_after_too_many() {
    let daemon = Setup::new().start();
    let mut client = outsider(&daemon);
    client.expect("MAIL FROM:<a@client.test>", 250);
    let reply = client.expect("RCPT TO:<nobody@proseware.test>", 550);
    assert!(reply.text().starts_with("550 5.1.1 <nobody@proseware.test>"), "{}", reply.text());
    let last = (0..30).find_map(|n| {
        let reply = client.command(&format!("RCPT TO:<nobody{n}@proseware.test>"));
        (reply.code != 550).then_some(reply)
    });
    let last = last.expect("an end after 20 errors");
    assert!(last.text().starts_with("421 4.7.0"), "{}", last.text());
    assert!(client.is_closed());
}

#[test]
fn refused_routes_answer_with_their_text() {
    let route = "[[route]]\ndomain = \"fabrikam.test\"\nvia = \"reject\"\ntext = \"no mail to competitors\"";
    let daemon = Setup::new().with(route).start();
    let mut client = alice(&daemon);
    client.expect("MAIL FROM:<alice@proseware.test>", 250);
    let reply = client.expect("RCPT TO:<bob@fabrikam.test>", 550);
    assert!(
        reply.text().starts_with("550 5.7.1") && reply.text().contains("no mail to competitors"),
        "{}",
        reply.text()
    );
}

#[test]
fn relay_domains_take_mail_for_their_recipients() {
    let hop = NextHop::start(Script::default());
    let relay = "[[relay.relay_domains]]\nname = \"adatum.test\"\nrecipients = [\"bob\"]";
    let daemon = Setup::new().next_hop("adatum.test", &hop).with(relay).start();
    let mut client = outsider(&daemon);
    client.expect("MAIL FROM:<a@client.test>", 250);
    assert!(client.expect("RCPT TO:<nobody@adatum.test>", 550).text().starts_with("550 5.1.1"));
    client.expect("RSET", 250);
    let content = message("a@client.test", "bob@adatum.test", "backup", "hello");
    assert_eq!(client.deliver("a@client.test", &["bob@adatum.test"], &content).code, 250);
    assert_eq!(hop.wait_for_message().recipients, ["<bob@adatum.test>"]);
}

// Clients that send garbage, too much, too little, too slowly.

#[test]
fn garbage_neither_stops_the_server_nor_becomes_mail() {
    let daemon = Setup::new().start();
    let mut random = Random::new(0x5eed);
    for listener in [daemon.mx(), daemon.submission(), daemon.submissions()] {
        for _ in 0..20 {
            let mut client = Client::open(listener);
            let length = 1 + random.below(20_000) as usize;
            // The server may close in the middle of it.
            let _ = client.try_send(&random.bytes(length));
            client.set_patience(Duration::from_millis(1));
            client.is_closed();
        }
    }
    let mut client = outsider(&daemon);
    let content = message("a@client.test", "alice@proseware.test", "after-garbage", "hello");
    assert_eq!(client.deliver("a@client.test", &["alice@proseware.test"], &content).code, 250);
    daemon.maildir("alice@proseware.test").wait_for("after-garbage");
    assert_eq!(daemon.maildir("alice@proseware.test").messages().len(), 1);
}

#[test]
fn an_endless_line_is_cut_off_and_costs_no_memory() {
    let mut daemon = Setup::new().start();
    outsider(&daemon);
    let before = resident_kib(daemon.pid());
    for _ in 0..3 {
        let mut client = outsider(&daemon);
        let block = vec![b'A'; 1024 * 1024];
        // Either it closes in between or it reads on without keeping anything.
        let _ = (0..20).try_for_each(|_| client.try_send(&block));
    }
    let after = resident_kib(daemon.pid());
    assert!(after < before + 16 * 1024, "{before} KiB before, {after} KiB after 60 MiB of one line");
    assert!(daemon.is_running());
    outsider(&daemon).expect("NOOP", 250);
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_client_that_stops_sending_still_gets_its_replies() {
    let daemon = Setup::new().start();
    let mut client = outsider(&daemon);
    client.send(b"MAIL FROM:<a@client.test>\r\nRCPT TO:<alice@proseware.test>\r\nRSET\r\nQUIT\r\n");
    client.shut_down_writing();
    for code in [250, 250, 250, 221] {
        client.expect_reply(code);
    }
    assert!(client.is_closed());
}

#[test]
fn a_message_that_breaks_off_is_not_accepted() {
    let daemon = Setup::new().start();
    let mut client = outsider(&daemon);
    client.expect("MAIL FROM:<a@client.test>", 250);
    client.expect("RCPT TO:<alice@proseware.test>", 250);
    client.expect("DATA", 354);
    client.send(b"Subject: half\r\n\r\nhello\r\n");
    client.shut_down_writing();
    assert!(client.is_closed());
    // A second, whole one shows that the first would have arrived by now.
    let mut client = outsider(&daemon);
    let content = message("a@client.test", "alice@proseware.test", "whole", "hello");
    assert_eq!(client.deliver("a@client.test", &["alice@proseware.test"], &content).code, 250);
    daemon.maildir("alice@proseware.test").wait_for("whole");
    assert_eq!(daemon.maildir("alice@proseware.test").messages().len(), 1);
    daemon.wait_for_empty_queue();
}

#[test]
fn silent_and_slow_clients_are_cut_off() {
    let timeouts = r#"timeouts = { greeting = "300ms", command = "300ms", handshake = "300ms", data_block = "300ms", data_total = "1s" }"#;
    let daemon = Setup::new().with(&format!("[smtp]\n{timeouts}")).start();
    let mut silent = Client::connect(daemon.mx());
    assert_eq!(silent.reply().code, 421);
    assert!(silent.is_closed());

    let mut silent = Client::open(daemon.submissions());
    assert!(silent.is_closed());

    let mut stuck = outsider(&daemon);
    stuck.expect("MAIL FROM:<a@client.test>", 250);
    stuck.expect("RCPT TO:<alice@proseware.test>", 250);
    stuck.expect("DATA", 354);
    stuck.send(b"Subject: slow\r\n");
    assert_eq!(stuck.reply().code, 421);
    assert!(stuck.is_closed());

    // A line every now and then keeps within the time for a block, but not within that for the whole message.
    let mut dripping = outsider(&daemon);
    dripping.expect("MAIL FROM:<a@client.test>", 250);
    dripping.expect("RCPT TO:<alice@proseware.test>", 250);
    dripping.expect("DATA", 354);
    dripping.set_patience(Duration::from_millis(100));
    let reply = eventually("the end of a message that drips in", || {
        // It may be closed already; then the reply is there to be read.
        let _ = dripping.try_send(b"drip\r\n");
        dripping.try_reply().ok()
    });
    assert_eq!(reply.code, 421);
    assert!(daemon.maildir("alice@proseware.test").messages().is_empty());
}

#[test]
fn pipelined_commands_are_answered_in_order() {
    let daemon = Setup::new().start();
    let mut client = outsider(&daemon);
    let content = message("a@client.test", "alice@proseware.test", "pipelined", "hello");
    client.send(b"MAIL FROM:<a@client.test>\r\nRCPT TO:<nobody@proseware.test>\r\nRCPT TO:<alice@proseware.test>\r\nDATA\r\n");
    for code in [250, 550, 250, 354] {
        client.expect_reply(code);
    }
    client.send(format!("{content}.\r\nNOOP\r\nQUIT\r\n").as_bytes());
    for code in [250, 250, 221] {
        client.expect_reply(code);
    }
    daemon.maildir("alice@proseware.test").wait_for("pipelined");
}

#[test]
fn a_body_before_354_ends_the_session() {
    let daemon = Setup::new().start();
    let mut client = outsider(&daemon);
    client.expect("MAIL FROM:<a@client.test>", 250);
    client.send(b"RCPT TO:<alice@proseware.test>\r\nDATA\r\nSubject: early\r\n\r\nhello\r\n.\r\n");
    client.expect_reply(250);
    client.expect_reply(503);
    assert!(client.is_closed());
    assert!(daemon.queue().is_empty());
}

#[test]
fn what_was_sent_behind_starttls_in_clear_is_forgotten() {
    let daemon = Setup::new().start();
    for listener in [daemon.mx(), daemon.submission()] {
        let mut client = Client::connect(listener);
        client.ehlo();
        client.send(b"STARTTLS\r\nEHLO injected.test\r\nMAIL FROM:<injected@client.test>\r\n");
        // Refusing it altogether is as good.
        if client.reply().code != 220 {
            continue;
        }
        client.handshake();
        // Were the injected commands obeyed, their answers would come first.
        assert!(client.expect("NOOP", 250).lines.len() == 1, "{}", client.transcript());
        client.expect("RCPT TO:<alice@proseware.test>", 503);
        // What was said in clear before STARTTLS is gone too (RFC 3207 §4.2).
        client.expect("MAIL FROM:<a@client.test>", 503);
    }
}

#[test]
fn smuggled_ends_of_data_are_refused_and_no_second_message_appears() {
    let daemon = Setup::new().with("[smtp]\nmax_errors = 10000").start();
    let vectors: [&[u8]; 13] = [
        b"\n.\r\n",
        b"\r.\r\n",
        b"\r\n.\n",
        b"\r\n.\r",
        b"\n.\n",
        b"\r.\r",
        b"\n.\r",
        b"\r.\n",
        b"\r\n.\r\r\n",
        b"\n\r.\r\n",
        b"\r\n\n.\r\n",
        b"\r\n\r.\r\n",
        b"\n\n.\r\n",
    ];
    for vector in vectors {
        let mut client = outsider(&daemon);
        client.expect("MAIL FROM:<a@client.test>", 250);
        client.expect("RCPT TO:<alice@proseware.test>", 250);
        client.expect("DATA", 354);
        let mut content = b"Subject: carrier\r\n\r\nhello".to_vec();
        content.extend_from_slice(vector);
        content.extend_from_slice(
            b"MAIL FROM:<admin@proseware.test>\r\nRCPT TO:<bob@proseware.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nhello\r\n.\r\n",
        );
        client.send(&content);
        let reply = client.reply();
        assert!(
            reply.text().starts_with("550 5.6.0"),
            "{:?}: {}",
            vector.escape_ascii().to_string(),
            reply.text()
        );
        // Whether the session goes on or ends, there is no answer to a second message.
        client.send_line("NOOP");
        while let Ok(reply) = client.try_reply() {
            assert_ne!(reply.code, 354, "{:?}: {}", vector.escape_ascii().to_string(), client.transcript());
            if reply.code == 250 {
                break;
            }
        }
    }
    assert!(daemon.queue().is_empty());
    for mailbox in ["alice@proseware.test", "bob@proseware.test"] {
        assert!(daemon.maildir(mailbox).messages().is_empty());
    }
}

#[test]
fn listed_networks_may_have_bare_line_feeds_rewritten() {
    let daemon = Setup::new().with("[smtp]\nnormalise_line_ends_from = [\"127.66.0.0/16\"]").start();
    let mut client = Client::connect_from(OFFICE, daemon.mx());
    client.ehlo();
    client.expect("MAIL FROM:<a@client.test>", 250);
    client.expect("RCPT TO:<alice@proseware.test>", 250);
    client.expect("DATA", 354);
    client.send(b"Subject: normalised\n\nfirst\nsecond\r\n.\r\n");
    client.expect_reply(250);
    let mail = daemon.maildir("alice@proseware.test").wait_for("normalised");
    assert_eq!(mail.body(), b"first\r\nsecond\r\n");
}

// Logins.

#[test]
fn auth_is_offered_and_taken_under_tls_only() {
    let daemon = Setup::new().start();
    let mut client = Client::connect(daemon.submission());
    let offer = client.ehlo();
    assert!(!offer.offers("AUTH") && offer.offers("STARTTLS"), "{offer:?}");
    let reply = client.auth_plain("alice@proseware.test", PASSWORD);
    assert!(reply.text().starts_with("538 5.7.11"), "{}", reply.text());
    let reply = client.expect("MAIL FROM:<alice@proseware.test>", 530);
    assert!(reply.text().starts_with("530 5.7.0"), "{}", reply.text());
    client.start_tls();
    let offer = client.ehlo();
    assert!(offer.offers("AUTH") && !offer.offers("STARTTLS"), "{offer:?}");
    client.expect("MAIL FROM:<alice@proseware.test>", 530);
    assert_eq!(client.auth_plain("alice@proseware.test", PASSWORD).code, 235);
    // RFC 4954 §4: once is enough.
    assert_eq!(client.auth_plain("alice@proseware.test", PASSWORD).code, 503);

    let mut client = outsider(&daemon);
    client.start_tls();
    let offer = client.ehlo();
    assert!(!offer.offers("AUTH"), "{offer:?}");
    assert!(client.auth_plain("alice@proseware.test", PASSWORD).code >= 500);
}

#[test]
fn wrong_passwords_and_unknown_users_get_the_same_535() {
    let disabled = "state = \"disabled\"";
    let daemon = Setup::new().account("carol@proseware.test", disabled).start();
    let mut client = Client::connect_tls(daemon.submissions());
    client.ehlo();
    let wrong = client.auth_plain("alice@proseware.test", "guess");
    let unknown = client.auth_plain("nobody@proseware.test", "guess");
    let guessed = client.auth_plain("carol@proseware.test", "guess");
    let disabled = client.auth_plain("carol@proseware.test", PASSWORD);
    assert!(wrong.text().starts_with("535 5.7.8"), "{}", wrong.text());
    assert_eq!(wrong.without_reference(), unknown.without_reference());
    assert_eq!(wrong.without_reference(), guessed.without_reference());
    assert!(
        wrong.text().len() == unknown.text().len() && wrong.text().contains(" (ref "),
        "{}",
        unknown.text()
    );
    assert!(
        disabled.text().starts_with("535 5.7.13 carol@proseware.test is disabled"),
        "{}",
        disabled.text()
    );
    assert_eq!(client.auth_plain("Alice@Proseware.Test", PASSWORD).code, 235);
}

#[test]
fn auth_login_and_separate_plain_responses_work() {
    let daemon = Setup::new().start();
    let mut client = Client::connect_tls(daemon.submissions());
    client.ehlo();
    client.play(
        "C: AUTH LOGIN
         S: 334 VXNlcm5hbWU6
         C: *
         S: 501",
    );
    client.expect("AUTH LOGIN", 334);
    client.expect("YWxpY2VAcHJvc2V3YXJlLnRlc3Q=", 334);
    client.expect("Y29ycmVjdCBob3JzZSBiYXR0ZXJ5IHN0YXBsZQ==", 235);

    let mut client = Client::connect_tls(daemon.submissions());
    client.ehlo();
    client.expect("AUTH PLAIN", 334);
    client.expect("AGFsaWNlQHByb3Nld2FyZS50ZXN0AGNvcnJlY3QgaG9yc2UgYmF0dGVyeSBzdGFwbGU=", 235);
}

#[test]
fn a_login_sends_as_itself_only() {
    let hop = NextHop::start(Script::default());
    let daemon = office(&hop);
    let mut client = alice(&daemon);
    for sender in ["bob@proseware.test", "alice@adatum.test", "postmaster@proseware.test"] {
        let reply = client.expect(&format!("MAIL FROM:<{sender}>"), 550);
        assert!(reply.text().starts_with("550 5.7.1"), "{}", reply.text());
        assert!(reply.text().contains("(ref "), "{}", reply.text());
    }
    let to = "bob@adatum.test";
    let with_from = |from: &str| {
        format!("{from}Subject: forged\r\nDate: Sat, 21 Nov 2026 18:00:00 +0000\r\n\r\nhello\r\n")
    };
    for (header, code) in [
        ("From: <bob@proseware.test>\r\n", "550 5.7.1"),
        ("From: alice@proseware.test, bob@proseware.test\r\n", "550 5.7.1"),
        (
            "From: team: alice@proseware.test, bob@proseware.test;\r\nSender: alice@proseware.test\r\n",
            "550 5.7.1",
        ),
        ("From: \"alice@proseware.test\" <bob@proseware.test>\r\n", "550 5.7.1"),
        ("From: alice@proseware.test\r\nSender: bob@proseware.test\r\n", "550 5.7.1"),
        ("From: alice@proseware.test\r\nFrom: bob@proseware.test\r\n", "550 5.6.0"),
        ("From: nobody;:\r\n", "550 5.6.0"),
        ("", "550 5.6.0"),
    ] {
        for sender in ["alice@proseware.test", ""] {
            let reply = client.deliver(sender, &[to], &with_from(header));
            assert!(reply.text().starts_with(code), "{header:?} from <{sender}>: {}", reply.text());
        }
    }
    assert!(daemon.queue().is_empty() && hop.received().is_empty());

    let content = message("alice+list@proseware.test", to, "own", "hello");
    assert_eq!(client.deliver("alice+list@proseware.test", &[to], &content).code, 250);
    let content = message("alice@proseware.test", to, "receipt", "hello");
    assert_eq!(client.deliver("", &[to], &content).code, 250);
    hop.wait_for_count(2);
}

#[test]
fn grants_let_a_login_send_as_others() {
    let hop = NextHop::start(Script::default());
    let daemon = Setup::new()
        .next_hop("adatum.test", &hop)
        .account("office", "send_as = [\"shared@proseware.test\", \"@branch.test\"]")
        .account("site", "permission = \"local\"")
        .account("robot", "permission = \"any\"")
        .start();
    for (login, sender, code) in [
        ("office", "shared@proseware.test", 250),
        ("office", "any@branch.test", 250),
        ("office", "alice@proseware.test", 550),
        ("site", "whoever@proseware.test", 250),
        ("site", "whoever@branch.test", 550),
        ("robot", "whoever@thephone-company.test", 250),
    ] {
        let mut client = Client::log_in(daemon.submission(), login, PASSWORD);
        client.expect(&format!("MAIL FROM:<{sender}>"), code);
        if code == 250 {
            client.expect("RCPT TO:<bob@adatum.test>", 250);
            let content = message(sender, "bob@adatum.test", login, "hello");
            assert_eq!(client.content(&content).code, 250);
        }
    }
    hop.wait_for_count(4);
}

#[test]
fn submission_completes_messages_and_removes_bcc() {
    let hop = NextHop::start(Script::default());
    let daemon = office(&hop);
    let mut client = alice(&daemon);
    let content =
        "From: <alice@proseware.test>\r\nBcc: <carol@adatum.test>\r\nSubject: bare\r\n\r\nhello\r\n";
    assert_eq!(client.deliver("alice@proseware.test", &["bob@adatum.test"], content).code, 250);
    let mail = hop.wait_for_message().mail;
    assert!(mail.fields("Bcc").is_empty());
    assert!(mail.field("Message-ID").contains('@'));
    assert!(!mail.field("Date").is_empty());
    let received = mail.field("Received");
    assert!(received.contains("by mail.proseware.test") && received.contains("with ESMTPSA"), "{received}");
}

#[test]
fn mail_from_outside_keeps_its_content_to_the_byte() {
    let daemon = Setup::new().start();
    let mut client = outsider(&daemon);
    let long = "x".repeat(1500);
    let content = format!(
        "Subject: bytes\r\nX-Folded: a\r\n\tb\r\n\r\n.dot\r\n..two\r\n\0nul \u{e9}\r\n{long}\r\n   \r\n\r\n\r\n"
    );
    assert_eq!(client.deliver("a@client.test", &["alice@proseware.test"], &content).code, 250);
    let mail = daemon.maildir("alice@proseware.test").wait_for("Subject: bytes");
    assert!(mail.0.ends_with(content.as_bytes()), "{}", mail.0.escape_ascii());
    assert_eq!(mail.field("Return-Path"), "<a@client.test>");
    let received = mail.field("Received");
    assert!(received.contains("from client.test") && received.contains("with ESMTP"), "{received}");
    assert!(mail.fields("Date").is_empty() && mail.fields("Message-ID").is_empty());
}

// Who is behind an address.

#[test]
fn aliases_catch_all_and_subaddresses_reach_their_mailboxes_once() {
    let hop = NextHop::start(Script::default());
    let domain = r#"
        [[domain]]
        name = "branch.test"
        mailboxes = ["desk"]
        catch_all = "desk"
        [domain.aliases]
        sales = ["alice@proseware.test", "bob@proseware.test", "partner@adatum.test"]
        all = ["sales", "bob@proseware.test", "desk"]
    "#;
    let daemon = Setup::new().with(domain).next_hop("adatum.test", &hop).start();
    let mut client = outsider(&daemon);
    let to = ["all@branch.test", "sales@branch.test", "alice+list@proseware.test", "ALICE@proseware.test"];
    let content = message("a@client.test", "all@branch.test", "to-all", "hello");
    assert_eq!(client.deliver("a@client.test", &to, &content).code, 250);
    assert_eq!(hop.wait_for_message().recipients, ["<partner@adatum.test>"]);
    for mailbox in ["alice@proseware.test", "bob@proseware.test", "desk@branch.test"] {
        daemon.maildir(mailbox).wait_for("to-all");
    }
    let content = message("a@client.test", "x@branch.test", "to-anybody", "hello");
    assert_eq!(client.deliver("a@client.test", &["whoever@branch.test"], &content).code, 250);
    daemon.maildir("desk@branch.test").wait_for("to-anybody");
    daemon.wait_for_empty_queue();
    assert_eq!(daemon.maildir("alice@proseware.test").messages().len(), 1);
    assert_eq!(daemon.maildir("bob@proseware.test").messages().len(), 1);
    assert_eq!(daemon.maildir("desk@branch.test").messages().len(), 2);
    assert_eq!(hop.received().len(), 1);
}

#[test]
fn postmaster_is_always_there() {
    let daemon = Setup::new().start();
    let mut client = outsider(&daemon);
    let literal = format!("Postmaster@[{}]", daemon.mx().ip());
    let to = ["Postmaster", "POSTMASTER@proseware.test", "postmaster@mail.proseware.test", &literal];
    let content = message("a@client.test", "postmaster@proseware.test", "complaint", "hello");
    assert_eq!(client.deliver("a@client.test", &to, &content).code, 250);
    daemon.maildir("postmaster@proseware.test").wait_for("complaint");
    daemon.wait_for_empty_queue();
    assert_eq!(daemon.maildir("postmaster@proseware.test").messages().len(), 1);
}

#[test]
fn a_message_that_goes_round_in_circles_is_refused() {
    let daemon = Setup::new().start();
    let mut client = outsider(&daemon);
    let travelled = "Received: from a by b; Sat, 21 Nov 2026 18:00:00 +0000\r\n".repeat(60);
    let content = format!("{travelled}{}", message("a@client.test", "alice@proseware.test", "loop", "hello"));
    let reply = client.deliver("a@client.test", &["alice@proseware.test"], &content);
    assert!(reply.text().starts_with("554 5.4.6"), "{}", reply.text());
}

// Limits.

#[test]
fn connections_are_limited_by_address_and_in_all() {
    let limits = "[smtp]\nmax_connections = 4\nmax_connections_per_address = 2";
    let daemon = Setup::new().trust("127.66.0.0/16").with(limits).start();
    let mut guests = [Client::connect_from(HOTEL, daemon.mx()), Client::connect_from(HOTEL, daemon.mx())];
    let mut third = Client::open_from(HOTEL, daemon.mx());
    assert!(third.expect_reply(421).text().starts_with("421 4.7.0"));
    assert!(third.is_closed());
    // Others are not concerned.
    let _others = [Client::connect_from(OFFICE, daemon.mx()), Client::connect_from(OFFICE, daemon.mx())];
    let mut fifth = Client::open(daemon.mx());
    assert!(fifth.expect_reply(421).text().starts_with("421 4.3.2"));
    assert!(fifth.is_closed());
    // The places come back.
    guests[0].expect("QUIT", 221);
    assert!(guests[0].is_closed());
    eventually("a free place", || (Client::open_from(HOTEL, daemon.mx()).reply().code == 220).then_some(()));
}

#[test]
fn a_session_ends_after_its_messages_and_commands() {
    let daemon = Setup::new().with("[smtp]\nmax_messages = 2\nmax_commands = 20").start();
    let mut client = outsider(&daemon);
    let content = message("a@client.test", "alice@proseware.test", "one-of-two", "hello");
    for _ in 0..2 {
        assert_eq!(client.deliver("a@client.test", &["alice@proseware.test"], &content).code, 250);
    }
    assert!(client.expect("MAIL FROM:<a@client.test>", 421).text().starts_with("421 4.7.0"));
    assert!(client.is_closed());

    let mut idler = outsider(&daemon);
    let last = (0..30).find_map(|_| Some(idler.command("NOOP")).filter(|reply| reply.code != 250));
    assert_eq!(last.expect("an end of NOOP").code, 421);
}

#[test]
fn sigterm_lets_a_transaction_finish_and_says_421_to_the_others() {
    let mut daemon = Setup::new().start();
    let mut idle = outsider(&daemon);
    let mut sending = outsider(&daemon);
    sending.expect("MAIL FROM:<a@client.test>", 250);
    sending.expect("RCPT TO:<alice@proseware.test>", 250);
    sending.expect("DATA", 354);
    std::thread::scope(|scope| {
        let client = scope.spawn(move || {
            assert_eq!(idle.reply().code, 421);
            // Only now: the daemon is stopping.
            let content = message("a@client.test", "alice@proseware.test", "at-the-end", "hello");
            sending.send(format!("{content}.\r\n").as_bytes());
            sending.reply().code
        });
        assert!(daemon.terminate().success());
        assert_eq!(client.join().unwrap(), 250);
    });
    daemon.start();
    daemon.maildir("alice@proseware.test").wait_for("at-the-end");
}
