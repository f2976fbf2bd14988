//! What was said in a transaction: commands and replies, without secrets, in bounded room.

use std::collections::VecDeque;

use postern_smtp::Reply;

use super::names::without_tokens;

/// Octets of one line that are kept.
const MOST_OF_LINE: usize = 300;
/// Octets of the lines before the transaction: EHLO, STARTTLS, AUTH.
const MOST_BEFORE: usize = 1024;
/// Octets of the transaction itself; of a long one the end is kept, where the refusal is.
const MOST_IN_TRANSACTION: usize = 3 * 1024;

/// Commands whose arguments are no secret.
const OPEN: [&[u8]; 13] = [
    b"EHLO",
    b"HELO",
    b"MAIL",
    b"RCPT",
    b"DATA",
    b"BDAT",
    b"RSET",
    b"NOOP",
    b"QUIT",
    b"VRFY",
    b"EXPN",
    b"HELP",
    b"STARTTLS",
];
/// Mechanisms that are named. Any other word behind AUTH may be a password in the wrong place.
const MECHANISMS: [&str; 13] = [
    "PLAIN",
    "LOGIN",
    "SCRAM-SHA-256-PLUS",
    "SCRAM-SHA-256",
    "SCRAM-SHA-1-PLUS",
    "SCRAM-SHA-1",
    "EXTERNAL",
    "CRAM-MD5",
    "DIGEST-MD5",
    "NTLM",
    "GSSAPI",
    "XOAUTH2",
    "OAUTHBEARER",
];

/// The lines of a session that matter for its present transaction.
#[derive(Debug, Default)]
pub struct Transcript {
    before: Lines,
    transaction: Lines,
    is_in_transaction: bool,
}

impl Transcript {
    /// A command line of the client. Only lines with a command that we know are kept as they are: what else comes may
    /// be a password whose AUTH was refused, or a piece of a message.
    pub fn command(&mut self, line: &[u8]) {
        let verb = line.split(|byte| *byte == b' ').next().unwrap_or_default();
        let is = |known: &[u8]| verb.eq_ignore_ascii_case(known);
        if is(b"MAIL") {
            self.transaction = Lines::default();
            self.is_in_transaction = true;
        } else if is(b"EHLO") || is(b"HELO") {
            self.transaction = Lines::default();
            self.is_in_transaction = false;
        }
        if OPEN.iter().any(|known| is(known)) {
            self.push("C: ", &String::from_utf8_lossy(&line[..line.len().min(2 * MOST_OF_LINE)]));
        } else if is(b"AUTH") {
            self.push("C: ", &auth(line));
        } else {
            self.push("C: ", &format!("({} octets that are no command)", line.len()));
        }
    }

    /// A line of the client inside AUTH: nothing of it is kept.
    pub fn auth_response(&mut self) {
        self.push("C: ", "(response, not kept)");
    }

    /// A reply of ours.
    pub fn reply(&mut self, reply: &Reply) {
        self.push("S: ", &without_tokens(&reply.to_string()));
    }

    /// The message was taken in.
    pub fn message(&mut self) {
        self.push("C: ", "(message)");
    }

    /// The lines, oldest first. Where some did not fit, a line says so.
    pub fn lines(&self) -> Vec<String> {
        self.before.all().chain(self.transaction.all()).collect()
    }

    fn push(&mut self, who: &str, text: &str) {
        match self.is_in_transaction {
            true => self.transaction.push(who, text, MOST_IN_TRANSACTION),
            false => self.before.push(who, text, MOST_BEFORE),
        }
    }
}

/// The command without what may be a secret.
fn auth(line: &[u8]) -> String {
    let mechanism = line.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let known = MECHANISMS.iter().find(|known| mechanism.eq_ignore_ascii_case(known.as_bytes()));
    let rest = line.splitn(3, |byte| *byte == b' ').nth(2).map_or("", |_| " (response, not kept)");
    match known {
        Some(known) => format!("AUTH {known}{rest}"),
        None => "AUTH (not kept)".to_owned(),
    }
}

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<String>,
    octets: usize,
    dropped: u32,
}

impl Lines {
    fn push(&mut self, who: &str, text: &str, most: usize) {
        let mut line = String::with_capacity(who.len() + text.len().min(MOST_OF_LINE));
        line.push_str(who);
        for c in text.chars() {
            if line.len() >= MOST_OF_LINE {
                line.push_str("...");
                break;
            }
            line.push(if c.is_control() { '?' } else { c });
        }
        self.octets += line.len();
        self.kept.push_back(line);
        while self.octets > most {
            let Some(first) = self.kept.pop_front() else { break };
            self.octets -= first.len();
            self.dropped += 1;
        }
    }

    fn all(&self) -> impl Iterator<Item = String> {
        let gap = (self.dropped > 0).then(|| format!("({} lines that did not fit)", self.dropped));
        gap.into_iter().chain(self.kept.iter().cloned())
    }
}

#[cfg(test)]
mod tests {
    use postern_smtp::EnhancedStatus;

    use super::*;

    fn reply(text: &str) -> Reply {
        Reply::new(250, EnhancedStatus::new(2, 0, 0), text)
    }

    #[test]
    fn no_form_of_a_password_is_kept() {
        let secret = "AGFsaWNlAHNlY3JldA==";
        for line in [
            format!("AUTH PLAIN {secret}"),
            format!("auth plain {secret}"),
            format!("AUTH  PLAIN {secret}"),
            format!("AUTH {secret}"),
            format!("AUTH LOGIN\t{secret}"),
            format!("AUTH\t{secret}"),
            secret.to_owned(),
            format!("AUTHPLAIN {secret}"),
            format!("PASS {secret}"),
        ] {
            let mut transcript = Transcript::default();
            transcript.command(line.as_bytes());
            let lines = transcript.lines().join("\n");
            assert!(lines.starts_with("C: ") && !lines.contains(secret), "{line}: {lines}");
        }
        let mut transcript = Transcript::default();
        transcript.command(b"AUTH LOGIN YWxpY2U=");
        transcript.auth_response();
        assert_eq!(transcript.lines(), ["C: AUTH LOGIN (response, not kept)", "C: (response, not kept)"]);
    }

    #[test]
    fn a_new_transaction_takes_the_place_of_the_old_one() {
        let mut transcript = Transcript::default();
        for line in ["EHLO client.test", "MAIL FROM:<a@b.test>", "RCPT TO:<c@d.test>", "RSET", "MAIL FROM:<>"]
        {
            transcript.command(line.as_bytes());
            transcript.reply(&reply("Ok"));
        }
        assert_eq!(
            transcript.lines(),
            ["C: EHLO client.test", "S: 250 2.0.0 Ok", "C: MAIL FROM:<>", "S: 250 2.0.0 Ok"]
        );
        transcript.command(b"ehlo again.test");
        assert_eq!(transcript.lines().len(), 3);
    }

    #[test]
    fn a_transcript_has_bounded_room_and_no_control_characters() {
        let mut transcript = Transcript::default();
        transcript.command(b"EHLO a\r\nb\x1b[2J");
        transcript.command(format!("MAIL FROM:<{}>", "ä".repeat(10_000)).as_bytes());
        for at in 0..1000 {
            transcript.command(format!("RCPT TO:<r{at}@d.test>").as_bytes());
            transcript.reply(&reply(&"word ".repeat(200)));
        }
        let lines = transcript.lines();
        assert!(lines.iter().map(String::len).sum::<usize>() < MOST_BEFORE + MOST_IN_TRANSACTION + 100);
        assert!(lines.iter().all(|line| !line.contains(char::is_control) && line.len() < MOST_OF_LINE + 10));
        assert_eq!(lines[0], "C: EHLO a??b?[2J");
        assert!(
            lines[1].contains("lines that did not fit") && lines.iter().any(|l| l.contains("r999@")),
            "{lines:?}"
        );
    }
}
