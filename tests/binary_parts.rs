//! BINARYMIME from the first octet to the next hop: what comes as binary parts goes on as lines, and readers find the same octets.

use mail_parser::{MessageParser, MimeHeaders};

use crate::harness::daemon::PASSWORD;
use crate::harness::mail::{Mail, contains};
use crate::harness::{Client, NextHop, Random, Script, Setup};

const ALICE: &str = "alice@proseware.test";
const BOB: &str = "bob@proseware.test";
const CAROL: &str = "carol@adatum.test";

/// Text of LFs alone: as lines it could not be sent.
const TEXT: &[u8] = b"Dear Carol,\n.\nthe picture is below.\n";

/// A message with a text and a picture, in which everything is that has a meaning outside binary parts.
fn with_picture(subject: &str, picture: &[u8]) -> Vec<u8> {
    let header = format!(
        "From: <{ALICE}>\r\nTo: <{CAROL}>\r\nSubject: {subject}\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary=\"==picture==\"\r\nContent-Transfer-Encoding: binary\r\n\r\n\
         --==picture==\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    );
    let between = "\r\n--==picture==\r\nContent-Type: image/png; name=\"hall.png\"\r\n\
         Content-Disposition: attachment; filename=\"hall.png\"\r\nContent-Transfer-Encoding: binary\r\n\r\n";
    [header.as_bytes(), TEXT, between.as_bytes(), picture, b"\r\n--==picture==--\r\n"].concat()
}

fn picture() -> Vec<u8> {
    let random = Random::new(3030).bytes(100_000);
    let ends = b"\r\n.\r\nQUIT\r\n\r\n--==picture=\r\n--==picture==x\r\n\n.\n\r";
    [&b"\x89PNG\r\n\x1a\n\0"[..], &random, ends].concat()
}

/// The text and the picture, as another reader of mail finds them.
fn read(mail: &Mail) -> (Vec<u8>, Vec<u8>) {
    let message = MessageParser::default().parse(&mail.0).unwrap();
    let picture = message.attachments().find(|part| part.attachment_name() == Some("hall.png")).unwrap();
    (message.body_text(0).unwrap().as_bytes().to_vec(), picture.contents().to_vec())
}

#[test]
fn binary_parts_reach_the_next_hop_and_the_mailbox_octet_for_octet() {
    // It offers neither CHUNKING nor BINARYMIME.
    let hop = NextHop::start(Script::default());
    let daemon = Setup::new().next_hop("adatum.test", &hop).start();
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    assert!(client.ehlo().offers("BINARYMIME"));
    let picture = picture();
    let message = with_picture("the-hall", &picture);
    let (first, last) = message.split_at(message.len() / 2);
    let mut wire = format!(
        "MAIL FROM:<{ALICE}> BODY=BINARYMIME SIZE={}\r\nRCPT TO:<{CAROL}>\r\nRCPT TO:<{BOB}>\r\nBDAT {}\r\n",
        message.len(),
        first.len()
    )
    .into_bytes();
    wire.extend_from_slice(first);
    wire.extend_from_slice(format!("BDAT {} LAST\r\n", last.len()).as_bytes());
    wire.extend_from_slice(last);
    client.send(&wire);
    for _ in 0..5 {
        client.expect_reply(250);
    }

    let kept = daemon.maildir(BOB).wait_for("the-hall");
    let sent = hop.wait_for_message();
    assert_eq!(sent.sender(), format!("<{ALICE}>"));
    assert!(!sent.from.contains("BODY="), "nothing is left of more than 7 bits: {}", sent.from);
    for mail in [&kept, &sent.mail] {
        assert!(mail.0.is_ascii() && !contains(&mail.0, "Encoding: binary"));
        assert_eq!(mail.field("Content-Transfer-Encoding"), "8bit");
        let (text, attached) = read(mail);
        assert_eq!(text, TEXT);
        assert!(attached == picture, "the picture is another");
    }
    assert_eq!(hop.received().len(), 1, "nothing was smuggled");
}

#[test]
fn binary_octets_outside_binary_parts_do_not_get_in() {
    let daemon = Setup::new().start();
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    let labelled = String::from_utf8(with_picture("no-label", b"a\nb")).unwrap();
    let message = labelled.replace("Encoding: binary\r\n\r\na\nb", "Encoding: 8bit\r\n\r\na\nb");
    assert_ne!(message, labelled);
    client.expect(&format!("MAIL FROM:<{ALICE}> BODY=BINARYMIME"), 250);
    client.expect(&format!("RCPT TO:<{BOB}>"), 250);
    client.expect("DATA", 503);
    client.send(format!("BDAT {} LAST\r\n{message}", message.len()).as_bytes());
    let text = client.expect_reply(550).text();
    assert!(text.contains("BINARYMIME needs Content-Transfer-Encoding: binary there"), "{text}");
    assert!(daemon.maildir(BOB).messages().is_empty());
}
