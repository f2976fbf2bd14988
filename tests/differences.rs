//! What Postern answers where Postfix and Exim answer otherwise: for those who come from them. docs/smtp.md has the table.

use std::fs;
use std::net::SocketAddr;

use crate::harness::mail_servers::{Exim, Postfix};
use crate::harness::{Client, Setup, repository, say};

const HELLO: &str = "EHLO client.thephone-company.test\r\n";
const MAIL: &str = "MAIL FROM:<x@thephone-company.test>\r\n";
const RCPT: &str = "RCPT TO:<RECIPIENT>\r\n";

/// What a client does, and the octets that it sends: after each piece it waits for as many replies as there are
/// commands in it. The reply to the last of them counts.
const TRIED: [(&str, &[&str]); 20] = [
    ("a command that ends with LF alone", &[HELLO, "NOOP\n"]),
    ("a command of 100,000 octets", &[HELLO, "NOOP LONG\r\n"]),
    ("a tab behind `MAIL`", &[HELLO, "MAIL\tFROM:<x@thephone-company.test>\r\n"]),
    ("`QUIT now`", &["QUIT now\r\n"]),
    ("`EHLO` with two words", &["EHLO client test\r\n"]),
    ("`EHLO my_host`", &["EHLO my_host\r\n"]),
    ("`MAIL` before `EHLO`", &[MAIL]),
    (
        "`BODY=8BITMIME` after `HELO`",
        &["HELO x\r\n", "MAIL FROM:<x@thephone-company.test> BODY=8BITMIME\r\n"],
    ),
    ("`STARTTLS` before `EHLO`", &["STARTTLS\r\n"]),
    ("`STARTTLS` inside a transaction", &[HELLO, MAIL, "STARTTLS\r\n"]),
    ("`MAIL FROM:<root>`", &[HELLO, "MAIL FROM:<root>\r\n"]),
    ("`MAIL FROM:<a@b@thephone-company.test>`", &[HELLO, "MAIL FROM:<a@b@thephone-company.test>\r\n"]),
    ("`SIZE=abc`", &[HELLO, "MAIL FROM:<x@thephone-company.test> SIZE=abc\r\n"]),
    ("an address in UTF-8 without `SMTPUTF8`", &[HELLO, "MAIL FROM:<ü@thephone-company.test>\r\n"]),
    ("`RCPT TO:<postmaster>`", &[HELLO, MAIL, "RCPT TO:<postmaster>\r\n"]),
    ("a recipient with a final dot", &[HELLO, MAIL, "RCPT TO:<RECIPIENT.>\r\n"]),
    ("a recipient elsewhere", &[HELLO, MAIL, "RCPT TO:<a@litware.test>\r\n"]),
    ("the message before `354`", &[HELLO, MAIL, RCPT, "DATA\r\nSubject: x\r\n\r\nx\r\n.\r\n"]),
    ("a bare CR in a message", &[HELLO, MAIL, RCPT, "DATA\r\n", "Subject: x\r\n\r\nx\ry\r\n.\r\n"]),
    ("100 `Received` fields", &[HELLO, MAIL, RCPT, "DATA\r\n", "RECEIVED\r\nSubject: x\r\n\r\nx\r\n.\r\n"]),
];

#[test]
fn what_those_who_come_from_postfix_or_exim_will_notice() {
    let daemon = Setup::new().start();
    let ours = answers(daemon.mx(), "bob@proseware.test");
    let of_peer = |version: String, address| (version, answers(address, "carol@adatum.test"));
    // One after the other: both listen at the same place.
    let postfix = Postfix::start("").map(|postfix| of_peer(postfix.version(), postfix.address));
    let exim = Exim::start().map(|exim| of_peer(exim.version(), exim.address));
    let none = || ("not installed".to_owned(), vec!["?".to_owned(); TRIED.len()]);
    let (postfix, exim) = (postfix.unwrap_or_else(none), exim.unwrap_or_else(none));
    let mut table = format!("| tried | Postern | {} | {} |\n|---|---|---|---|\n", postfix.0, exim.0);
    for (number, (tried, _)) in TRIED.iter().enumerate() {
        table += &format!("| {tried} | {} | {} | {} |\n", ours[number], postfix.1[number], exim.1[number]);
    }
    say(&table);
    let page = fs::read_to_string(repository().join("docs/smtp.md")).unwrap();
    for ((tried, _), answer) in TRIED.iter().zip(&ours) {
        let row = format!("| {tried} | {answer} |");
        assert!(page.contains(&row), "docs/smtp.md lacks {row}: take the table from what this test prints");
    }
}

fn answers(address: SocketAddr, recipient: &str) -> Vec<String> {
    TRIED.iter().map(|(tried, pieces)| answer(address, recipient, tried, pieces)).collect()
}

/// The codes of the last reply, and whether the server closes the connection with it.
fn answer(address: SocketAddr, recipient: &str, tried: &str, pieces: &[&str]) -> String {
    let mut client = Client::open(address);
    client.expect_reply(220);
    let mut last = None;
    for piece in pieces {
        let octets = piece.replace("RECIPIENT", recipient).replace("LONG", &"x".repeat(100_000)).replace(
            "RECEIVED\r\n",
            &"Received: from a by b; Sun, 22 Nov 2026 09:00:00 +0000\r\n".repeat(100),
        );
        // A server may say its reply before it has read everything, and close.
        let _ = client.try_send(octets.as_bytes());
        last = Some(client.reply());
    }
    let reply = last.unwrap_or_else(|| panic!("{tried}: nothing is sent"));
    let is_code = |word: &&str| word.bytes().all(|b| b == b'.' || b.is_ascii_digit()) && word.contains('.');
    let enhanced = reply.lines[0].split(' ').next().filter(is_code);
    let mut answer = format!("{} {}", reply.code, enhanced.unwrap_or_default()).trim_end().to_owned();
    if matches!(reply.code, 400.. if is_closing(&mut client)) {
        answer += ", closed";
    }
    answer
}

fn is_closing(client: &mut Client) -> bool {
    let sent = client.try_send(b"NOOP\r\n");
    sent.is_err() || client.try_reply().is_err()
}
