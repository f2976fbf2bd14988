//! SMTP smuggling: sequences that one server takes for the end of a message and another does not, so that what follows
//! is text to the one and commands to the other.

use postern_smtp::Reply;
use postern_smtp::date;

use super::client::{Client, Lost};
use super::report::{Answer, Stage, Verdict};

/// What is put in front of the second message. Only CR LF . CR LF ends a message (RFC 5321 §4.1.1.4).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sequence {
    pub(super) name: &'static str,
    pub(super) octets: &'static [u8],
    /// Whether a sound server may take the whole as one message: it has no bare CR or LF in it.
    pub(super) may_arrive: bool,
}

const fn refusable(name: &'static str, octets: &'static [u8]) -> Sequence {
    Sequence { name, octets, may_arrive: false }
}

const fn ordinary(name: &'static str, octets: &'static [u8]) -> Sequence {
    Sequence { name, octets, may_arrive: true }
}

/// All that are tried.
pub(super) const SEQUENCES: [Sequence; 11] = [
    refusable("smuggle-lf.lf", b"\n.\n"),
    refusable("smuggle-lf.crlf", b"\n.\r\n"),
    refusable("smuggle-crlf.lf", b"\r\n.\n"),
    refusable("smuggle-cr.cr", b"\r.\r"),
    refusable("smuggle-crlf.cr", b"\r\n.\r"),
    refusable("smuggle-cr.crlf", b"\r.\r\n"),
    refusable("smuggle-cr.lf", b"\r.\n"),
    refusable("smuggle-lf.cr", b"\n.\r"),
    refusable("smuggle-crlf.crcrlf", b"\r\n.\r\r\n"),
    ordinary("smuggle-nul.crlf", b"\r\n\0.\r\n"),
    ordinary("smuggle-.nul.crlf", b"\r\n.\0\r\n"),
];

/// The envelope of both messages.
pub(super) struct Letter<'a> {
    /// MAIL FROM, with its brackets.
    pub(super) sender: &'a str,
    /// RCPT TO, with its brackets: somebody who agreed to get it.
    pub(super) recipient: &'a str,
    /// What the message says of itself.
    pub(super) header: &'a str,
}

/// More replies than this are not counted: two messages have six.
const MAX_REPLIES: usize = 12;

/// Sends the message with the sequence inside, on a connection after EHLO that is of no use afterwards.
pub(super) async fn smuggle(
    client: &mut Client,
    sequence: &Sequence,
    letter: &Letter<'_>,
) -> Result<Answer, Lost> {
    let (sender, recipient) = (letter.sender, letter.recipient);
    let mail = client.command(&format!("MAIL FROM:{sender}")).await?;
    if !mail.is_success() {
        return Ok(Answer::not_tried(format!("{sender} is not taken: {mail}")));
    }
    let rcpt = client.command(&format!("RCPT TO:{recipient}")).await?;
    if !rcpt.is_success() {
        return Ok(Answer::not_tried(format!("{recipient} is not taken: {rcpt}")));
    }
    let data = client.command("DATA").await?;
    if data.code != 354 {
        return Ok(Answer::not_tried(format!("DATA is not taken: {data}")));
    }
    match client.say(&content(sequence, letter)).await {
        // A server that breaks off in the middle has mostly said why.
        Ok(()) | Err(Lost::Closed) => {}
        Err(lost) => return Err(lost),
    }
    judge(&replies(client).await?)
}

/// The first message, the sequence, and a second transaction, which is text to a sound server. The end of the second
/// message is then that of the first.
fn content(sequence: &Sequence, letter: &Letter<'_>) -> Vec<u8> {
    let Letter { sender, recipient, header } = letter;
    let first = format!(
        "{header}\r\nThis tests whether a server takes {} for the end of a message.\r\n\
         If nothing below reads like SMTP, it did.",
        sequence.octets.escape_ascii()
    );
    let second = format!(
        "MAIL FROM:{sender}\r\nRCPT TO:{recipient}\r\nDATA\r\n{header}\r\nThis message was smuggled.\r\n.\r\nQUIT\r\n"
    );
    [first.as_bytes(), sequence.octets, second.as_bytes()].concat()
}

/// Everything the server says until it says goodbye or closes.
async fn replies(client: &mut Client) -> Result<Vec<Reply>, Lost> {
    let mut replies = Vec::new();
    while replies.len() < MAX_REPLIES {
        match client.reply().await {
            Ok(reply) if reply.code == 221 => break,
            Ok(reply) => replies.push(reply),
            // A server that closes has said all it wants to say.
            Err(Lost::Closed | Lost::Dismissed(_)) => break,
            Err(lost) => return if replies.is_empty() { Err(lost) } else { Ok(replies) },
        }
    }
    Ok(replies)
}

fn judge(replies: &[Reply]) -> Result<Answer, Lost> {
    let Some(first) = replies.first() else {
        let meaning = "closed: the server ended the connection instead of taking the message";
        return Ok(Answer::without_reply(Verdict::Refused, Some(Stage::Data), meaning));
    };
    // What a server says behind the answer to the message is an answer to what stood in the message.
    let executed = &replies[1..];
    if executed.iter().any(|reply| !reply.is_permanent()) {
        let meaning = format!(
            "the sequence ended the message, and commands inside it were executed: {} acknowledged; whoever may send \
             through another server can write mail in anybody's name that seems to come from there",
            counted_messages(replies)
        );
        return Ok(Answer::new(Verdict::Accepted, Stage::Data, &replies[replies.len() - 1]).meaning(meaning));
    }
    if !executed.is_empty() {
        let meaning =
            "the sequence ended the message: what stood behind it was read as commands, and refused";
        return Ok(Answer::new(Verdict::Doubtful, Stage::Data, &executed[0]).meaning(meaning));
    }
    Ok(match first.is_success() {
        true => Answer::new(Verdict::Tolerated, Stage::Data, first).meaning(
            "taken as one message, so nothing was smuggled in; look whether it left the sequence in the text",
        ),
        false => Answer::new(Verdict::Refused, Stage::Data, first),
    })
}

/// The first reply is about the first message; that behind each 354 about a further one.
fn counted_messages(replies: &[Reply]) -> String {
    let first = replies.iter().take(1).filter(|reply| reply.is_success()).count();
    let more = replies.windows(2).filter(|pair| pair[0].code == 354 && pair[1].is_success()).count();
    crate::output::counted(first + more, "message")
}

/// The header of a test message.
pub(super) fn header(sender: &str, recipient: &str, trick: &str, now: std::time::SystemTime) -> String {
    let stamp = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    // The null sender has no address to show.
    let from = if sender == "<>" { "<postmaster@localhost>" } else { sender };
    format!(
        "From: {from}\r\nTo: {recipient}\r\nSubject: Postern relay test: {trick}\r\nDate: {}\r\n\
         Message-ID: <{stamp}.{}@posternctl.invalid>\r\n",
        date::rfc5322(now),
        std::process::id(),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn verdict(codes: &[u16]) -> (Verdict, Option<String>) {
        let replies: Vec<Reply> = codes.iter().map(|code| Reply::plain(*code, "x")).collect();
        let answer = judge(&replies).unwrap();
        (answer.verdict, answer.meaning)
    }

    #[test]
    fn a_reply_too_many_means_that_commands_were_executed() {
        let (open, meaning) = verdict(&[250, 250, 250, 354, 250]);
        assert_eq!(open, Verdict::Accepted);
        assert!(meaning.unwrap().contains("2 messages acknowledged"));
        let (open, meaning) = verdict(&[250, 250, 550]);
        assert_eq!(open, Verdict::Accepted);
        assert!(meaning.unwrap().contains("1 message acknowledged"));
        assert_eq!(verdict(&[250, 503, 503]).0, Verdict::Doubtful);
    }

    #[test]
    fn one_answer_is_one_message() {
        assert_eq!(verdict(&[550]).0, Verdict::Refused);
        assert_eq!(verdict(&[250]).0, Verdict::Tolerated);
        assert_eq!(verdict(&[]).0, Verdict::Refused);
    }

    #[test]
    fn only_the_very_end_ends_the_message() {
        for sequence in &SEQUENCES {
            let letter = Letter { sender: "<a@b.test>", recipient: "<c@d.test>", header: "Subject: x\r\n" };
            let content = content(sequence, &letter);
            let ends = content.windows(5).filter(|window| window == b"\r\n.\r\n").count();
            assert_eq!(ends, 1, "{}", sequence.name);
            assert!(content.ends_with(b"\r\n.\r\nQUIT\r\n"));
        }
    }

    #[test]
    fn sequences_that_may_arrive_have_no_bare_line_ends() {
        for sequence in &SEQUENCES {
            let text = sequence.octets.escape_ascii().to_string().replace("\\r\\n", "");
            assert_eq!(
                sequence.may_arrive,
                !text.contains("\\r") && !text.contains("\\n"),
                "{}",
                sequence.name
            );
        }
    }
}
