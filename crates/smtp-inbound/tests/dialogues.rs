//! Plays `tests/dialogues/*.smtp` without a socket (`support/dialogue.rs` says how they are written), and what no dialogue of a
//! fixed text can show.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "support/dialogue.rs"]
mod dialogue;
#[path = "support/player.rs"]
mod player;
mod support;

use std::fmt::Write as _;
use std::sync::Arc;

use dialogue::{directory, fits};
use player::{Player, TLS};
use postern_config::ListenerKind;
use postern_smtp_inbound::session::Peer;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use support::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn every_dialogue_goes_as_written() {
    let mut failures = String::new();
    for (name, played) in dialogue::play_all().await {
        if let Err(difference) = played {
            let _ = writeln!(failures, "{name}: {difference}");
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}

/// Lines that mean something, so that random ones reach every state.
const LINES: [&str; 36] = [
    "LHLO client.test",
    "XCLIENT ADDR=192.0.2.8 HELO=client.test",
    "XFORWARD ADDR=192.0.2.8",
    "ETRN proseware.test",
    "EHLO client.test",
    "HELO client.test",
    "STARTTLS",
    "AUTH PLAIN",
    "AUTH LOGIN",
    "AUTH PLAIN AGEAYg==",
    "AUTH SCRAM-SHA-256",
    "AUTH SCRAM-SHA-256 biwsbj1hLHI9YmM=",
    "AUTH EXTERNAL =",
    "biwsbj1hLHI9YmM=",
    "YWxpY2U=",
    "*",
    "MAIL FROM:<a@adatum.test>",
    "MAIL FROM:<> SIZE=1",
    "MAIL FROM:<> BODY=BINARYMIME",
    "Content-Transfer-Encoding: binary",
    "RCPT TO:<alice@proseware.test>",
    "RCPT TO:<postmaster>",
    "RCPT TO:<b@adatum.test>",
    "DATA",
    ".",
    "",
    "Subject: x",
    "RSET",
    "NOOP",
    "..",
    "BDAT 0",
    "BDAT 0 LAST",
    "BDAT 7",
    "BDAT 12 LAST",
    "BDAT 39",
    "BDAT 20000",
];

#[test]
fn no_order_of_lines_confuses_a_session() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let text = std::fs::read_to_string(directory().join("default.toml")).unwrap();
    let text = format!("{text}\n[auth]\nmechanisms = [\"scram-sha-256\", \"plain\", \"login\"]\n");
    let server = runtime.block_on(async { Server::new(&text) });
    let shared = Arc::new(server.shared);
    let line = prop_oneof![
        8 => proptest::sample::select(&LINES[..]).prop_map(|line| format!("{line}\r\n").into_bytes()),
        1 => proptest::collection::vec(any::<u8>(), 0..40),
    ];
    // Some lines wait for their reply, others are sent ahead.
    let batches = proptest::collection::vec(proptest::collection::vec(line, 1..4), 0..30);
    let kinds = proptest::sample::select(
        &[ListenerKind::Mx, ListenerKind::Submission, ListenerKind::Submissions, ListenerKind::Lmtp][..],
    );
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    let played = TestRunner::new(config).run(&(kinds, batches), |(listener, batches)| {
        let tls = (listener == ListenerKind::Submissions).then_some(TLS);
        let peer = Peer {
            listener,
            client: "192.0.2.7".parse().unwrap(),
            local: "192.0.2.25".parse().unwrap(),
            is_local: false,
        };
        let mut player = Player::new(Arc::clone(&shared), peer, tls);
        for batch in batches {
            runtime.block_on(player.hear(&batch.concat()));
        }
        for reply in player.said.iter().filter(|line| !line.starts_with(['-', '('])) {
            prop_assert!(reply.as_bytes()[0].is_ascii_digit() && reply.len() <= 510, "{}", reply);
            prop_assert!(
                !reply.contains("wait for the reply") && !reply.contains("was asked for"),
                "{}",
                reply
            );
        }
        Ok(())
    });
    played.unwrap();
}

#[test]
fn however_chunks_are_cut_into_reads_the_replies_are_the_same() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let text = std::fs::read_to_string(directory().join("default.toml")).unwrap();
    let server = runtime.block_on(async { Server::new(&text) });
    let shared = Arc::new(server.shared);
    let peer = Peer {
        listener: ListenerKind::Mx,
        client: "198.51.100.9".parse().unwrap(),
        local: "192.0.2.25".parse().unwrap(),
        is_local: false,
    };
    let said = |reads: &[&[u8]]| {
        let mut player = Player::new(Arc::clone(&shared), peer, None);
        runtime.block_on(async {
            for read in reads {
                player.hear(read).await;
            }
        });
        let without_id = |line: String| line.split(" queued as ").next().unwrap().to_owned();
        player.said.into_iter().map(without_id).collect::<Vec<_>>()
    };
    // Mostly whole lines, so that many messages are accepted; some chunks are over the limit of a line or a message.
    let pieces =
        [&b"a"[..], b".", b"QUIT\r\n", b"\r\n", b"\r\n.\r\n", b"\r", b"\n", &[b'x'; 1501], &[b'y'; 9000]];
    let binary =
        &b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Transfer-Encoding: binary\r\n\r\n"
            [..];
    let pieces = [&pieces[..], &[binary, b"\r\n--b", b"\r\n--b--\r\n"]].concat();
    let piece = prop_oneof![8 => 0..5_usize, 1 => 5..9_usize, 3 => 9..12_usize]
        .prop_map(move |at| pieces[at].to_vec());
    let chunk = proptest::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat());
    let chunks = proptest::collection::vec(chunk, 1..4);
    let body = proptest::sample::select(&["", " BODY=BINARYMIME"][..]);
    let messages = proptest::collection::vec((body, chunks), 1..4);
    let cuts = proptest::collection::vec(0..usize::MAX, 0..12);
    let config = ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() };
    let played = TestRunner::new(config).run(&(messages, cuts), |(messages, cuts)| {
        let mut wire = b"EHLO client.test\r\n".to_vec();
        for (body, chunks) in &messages {
            let commands = format!("MAIL FROM:<a@adatum.test>{body}\r\nRCPT TO:<alice@proseware.test>\r\n");
            wire.extend_from_slice(commands.as_bytes());
            for (at, chunk) in chunks.iter().enumerate() {
                let last = if at + 1 == chunks.len() { " LAST" } else { "" };
                wire.extend_from_slice(format!("BDAT {}{last}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
            }
        }
        wire.extend_from_slice(b"NOOP\r\n");
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % wire.len()).chain([0, wire.len()]).collect();
        cuts.sort_unstable();
        let reads: Vec<&[u8]> = cuts.windows(2).map(|cut| &wire[cut[0]..cut[1]]).collect();
        let whole = said(&[&wire]);
        let commands: usize = messages.iter().map(|(_, chunks)| 2 + chunks.len()).sum();
        let replies = whole.iter().filter(|line| line.as_bytes()[3] == b' ').count();
        prop_assert_eq!(replies, 1 + commands + 1, "{:?}", whole);
        prop_assert_eq!(said(&reads), whole);
        Ok(())
    });
    played.unwrap();
}

#[tokio::test]
async fn a_login_that_a_reload_disables_sends_no_more() {
    let text = std::fs::read_to_string(directory().join("default.toml")).unwrap();
    let Server { shared, registry: _registry, directory: _directory } = Server::new(&text);
    let shared = Arc::new(shared);
    let peer = Peer {
        listener: ListenerKind::Submissions,
        client: "198.51.100.9".parse().unwrap(),
        local: "192.0.2.25".parse().unwrap(),
        is_local: false,
    };
    let mut player = Player::new(Arc::clone(&shared), peer, Some(TLS));
    player.hear(b"EHLO client.test\r\nAUTH PLAIN AGFsaWNlQHByb3Nld2FyZS50ZXN0AGNvcnJlY3QgaG9yc2U=\r\n").await;
    player.hear(b"MAIL FROM:<alice@proseware.test>\r\nRSET\r\n").await;
    let mut config = postern_config::Config::clone(&shared.config.load());
    config.accounts[0].state = postern_config::LoginState::Disabled;
    shared.policy.store(Arc::new(postern_policy::Policy::new(&config)));
    player.said.clear();
    player.hear(b"MAIL FROM:<alice@proseware.test>\r\n").await;
    assert!(player.said[0].starts_with("550 5.7.13 alice@proseware.test is disabled"), "{:?}", player.said);
}

#[test]
fn wildcards_stand_for_anything_and_nothing_else_does() {
    for (pattern, text, matches) in [
        ("250 Ok", "250 Ok", true),
        ("250 *", "250 Ok", true),
        ("* (ref *)", "550 no (ref 4QX7-93KD)", true),
        ("250 Ok", "250 Ok more", false),
        ("250 *k", "250 Ox", false),
        ("*", "", true),
    ] {
        assert_eq!(fits(pattern, text), matches, "{pattern} {text}");
    }
}
