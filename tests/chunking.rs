//! BDAT from the first octet to the next hop: what comes in chunks goes on by DATA.

use crate::harness::client::message;
use crate::harness::daemon::PASSWORD;
use crate::harness::{Client, NextHop, Script, Setup};

const ALICE: &str = "alice@proseware.test";
const CAROL: &str = "carol@adatum.test";

/// Sends a message in chunks of this size, without waiting for any reply but the last.
fn deliver_in_chunks(client: &mut Client, from: &str, to: &[&str], content: &[u8], size: usize) -> String {
    let mut wire = format!("MAIL FROM:<{from}>\r\n").into_bytes();
    for recipient in to {
        wire.extend_from_slice(format!("RCPT TO:<{recipient}>\r\n").as_bytes());
    }
    let chunks = content.chunks(size);
    let count = chunks.len();
    for chunk in chunks {
        wire.extend_from_slice(format!("BDAT {}\r\n", chunk.len()).as_bytes());
        wire.extend_from_slice(chunk);
    }
    wire.extend_from_slice(b"BDAT 0 LAST\r\n");
    client.send(&wire);
    for _ in 0..1 + to.len() + count {
        client.expect_reply(250);
    }
    client.expect_reply(250).queue_id()
}

#[test]
fn a_message_in_chunks_reaches_the_next_hop_and_the_mailbox_as_it_is() {
    let hop = NextHop::start(Script::default());
    let daemon = Setup::new().next_hop("adatum.test", &hop).start();
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    assert!(client.ehlo().offers("CHUNKING"));
    let end = ".\r\n..\r\nMAIL FROM:<smuggled@adatum.test>\r\nRCPT TO:<victim@adatum.test>\r\nDATA\r\n.\r\n";
    for size in [1, 7, 100_000] {
        let body = format!("first\r\n{end}caf\u{e9}\r\n.");
        let subject = format!("in-chunks-of-{size}");
        let content = message(ALICE, CAROL, &subject, &body);
        deliver_in_chunks(&mut client, ALICE, &[CAROL, "bob@proseware.test"], content.as_bytes(), size);
        let local = daemon.maildir("bob@proseware.test").wait_for(&subject);
        assert_eq!(local.body(), format!("{body}\r\n").as_bytes());
    }
    let received = hop.wait_for_count(3);
    assert_eq!(received.len(), 3, "nothing was smuggled");
    for received in received {
        assert_eq!(received.sender(), format!("<{ALICE}>"));
        assert!(received.mail.body().ends_with(format!("first\r\n{end}caf\u{e9}\r\n.\r\n").as_bytes()));
    }
}

#[test]
fn what_another_server_could_take_for_an_end_is_not_taken_in_chunks_either() {
    let hop = NextHop::start(Script::default());
    let setup = Setup::new().next_hop("adatum.test", &hop).with("[smtp]\nmax_errors = 10000");
    let daemon = setup.start();
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    for end in ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r\n", "\r\n.\r", "\r.\r", "\r\n.\r\r\n", "\r"] {
        let content = format!("From: <{ALICE}>\r\nSubject: smuggling\r\n\r\na{end}MAIL FROM:<>\r\n");
        // Wherever a chunk ends: before it, inside, behind it.
        for cut in content.len() - 22..content.len() {
            let (first, last) = content.split_at(cut);
            client.expect(&format!("MAIL FROM:<{ALICE}>"), 250);
            client.expect(&format!("RCPT TO:<{CAROL}>"), 250);
            let chunks = format!("BDAT {}\r\n{first}BDAT {} LAST\r\n{last}", first.len(), last.len());
            client.send(chunks.as_bytes());
            let _ = client.reply();
            let text = client.reply().text();
            assert!(text.starts_with("550 5.6.0 message has bare CR or LF"), "{end:?} {cut}: {text}");
        }
    }
    let clean = message(ALICE, CAROL, "clean", "body");
    deliver_in_chunks(&mut client, ALICE, &[CAROL], clean.as_bytes(), 64);
    assert_eq!(hop.wait_for_message().mail.field("Subject"), "clean");
    assert_eq!(hop.received().len(), 1);
}
