//! Replies: written by a server, read by a client (RFC 5321 §4.2, RFC 2034).

use std::fmt;

use crate::status::EnhancedStatus;

/// A reply line may have 512 octets with its CRLF (RFC 5321 §4.5.3.1.5).
const MAX_LINE: usize = 512;

/// What the first digit of a reply code says (RFC 5321 §4.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyClass {
    /// 2yz: done.
    Success,
    /// 3yz: go on.
    Intermediate,
    /// 4yz: later.
    Transient,
    /// 5yz: never.
    Permanent,
}

/// One reply, of one or several lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// 200 to 599.
    pub code: u16,
    /// The enhanced status code, if the reply has one.
    pub status: Option<EnhancedStatus>,
    /// The texts, one a line, without codes. Never empty.
    pub lines: Vec<String>,
}

impl Reply {
    /// A reply of one text with an enhanced status code. A line end in the text begins a new line of the reply.
    pub fn new(code: u16, status: EnhancedStatus, text: impl AsRef<str>) -> Self {
        Self { code, status: Some(status), lines: split_lines(text.as_ref()) }
    }

    /// A reply without an enhanced status code: the greeting, EHLO and 3yz have none (RFC 2034 §4).
    pub fn plain(code: u16, text: impl AsRef<str>) -> Self {
        Self { code, status: None, lines: split_lines(text.as_ref()) }
    }

    /// What the first digit says; anything outside 2 to 5 cannot be built by this module's parser.
    pub fn class(&self) -> ReplyClass {
        match self.code {
            0..=299 => ReplyClass::Success,
            300..=399 => ReplyClass::Intermediate,
            400..=499 => ReplyClass::Transient,
            _ => ReplyClass::Permanent,
        }
    }

    /// 2yz.
    pub fn is_success(&self) -> bool {
        self.class() == ReplyClass::Success
    }

    /// 5yz.
    pub fn is_permanent(&self) -> bool {
        self.class() == ReplyClass::Permanent
    }

    /// The same for a client that reads ASCII only: every other character is shown as "?".
    pub fn into_ascii(mut self) -> Self {
        for line in self.lines.iter_mut().filter(|line| !line.is_ascii()) {
            *line = line.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
        }
        self
    }

    /// All texts in one line, for logs and reports.
    pub fn text(&self) -> String {
        self.lines.join(" ")
    }

    /// Appends the reply as it goes over the wire. Long texts are folded into several lines of at most 512 octets;
    /// control characters are replaced, so that nothing echoed can forge a line.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let status = self.status.map(|s| format!("{s} ")).unwrap_or_default();
        let room = MAX_LINE - 2 - 4 - status.len();
        let folded: Vec<&str> = self.lines.iter().flat_map(|line| fold(line, room)).collect();
        for (at, text) in folded.iter().enumerate() {
            let dash = if at + 1 == folded.len() { ' ' } else { '-' };
            out.extend_from_slice(format!("{}{dash}{status}", self.code).as_bytes());
            for c in text.chars() {
                let shown = if c.is_control() { '?' } else { c };
                out.extend_from_slice(shown.encode_utf8(&mut [0; 4]).as_bytes());
            }
            out.extend_from_slice(b"\r\n");
        }
    }
}

impl fmt::Display for Reply {
    /// One line: code, status, texts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.code)?;
        if let Some(status) = self.status {
            write!(f, "{status} ")?;
        }
        f.write_str(&self.text())
    }
}

fn split_lines(text: &str) -> Vec<String> {
    text.split('\n').map(|line| line.trim_end_matches('\r').to_owned()).collect()
}

/// Cuts a text at spaces (or, where there is none, anywhere) into pieces of at most `room` octets.
fn fold(text: &str, room: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while rest.len() > room {
        let mut cut = room;
        while !rest.is_char_boundary(cut) {
            cut -= 1;
        }
        let at_space = rest[..cut].rfind(' ').filter(|at| *at > 0);
        let (piece, tail) = rest.split_at(at_space.unwrap_or(cut));
        pieces.push(piece);
        rest = tail.strip_prefix(' ').unwrap_or(tail);
    }
    pieces.push(rest);
    pieces
}

/// Why bytes from a server are no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// Not `ddd`, `ddd text` or `ddd-text`.
    #[error("not an SMTP reply: {0:?}")]
    Malformed(String),
    /// The lines of one reply have different codes.
    #[error("lines of one reply disagree: {0} and {1}")]
    MixedCodes(u16, u16),
    /// More lines or octets than any sane server sends.
    #[error("reply longer than {0} octets")]
    TooLong(usize),
}

/// Assembles replies from lines, for the client side.
#[derive(Debug)]
pub struct ReplyReader {
    partial: Option<Reply>,
    octets: usize,
    limit: usize,
}

impl ReplyReader {
    /// A reader that refuses a reply of more than `limit` octets.
    pub fn new(limit: usize) -> Self {
        Self { partial: None, octets: 0, limit }
    }

    /// Takes one line without its line end; answers the reply when this was its last line.
    ///
    /// # Errors
    /// [`ReplyError`]; the connection is of no more use then.
    pub fn line(&mut self, line: &[u8]) -> Result<Option<Reply>, ReplyError> {
        self.octets += line.len();
        if self.octets > self.limit {
            return Err(ReplyError::TooLong(self.limit));
        }
        let (code, more, text) = split_reply_line(line)?;
        let status = leading_status(&text, code);
        let text = match status {
            Some(_) => text.split_once(' ').map_or(String::new(), |(_, rest)| rest.to_owned()),
            None => text,
        };
        let reply = match self.partial.take() {
            None => Reply { code, status, lines: vec![text] },
            Some(partial) if partial.code != code => return Err(ReplyError::MixedCodes(partial.code, code)),
            Some(mut partial) => {
                // The last line's enhanced code is the one that counts where they differ.
                partial.status = status.or(partial.status);
                partial.lines.push(text);
                partial
            }
        };
        if more {
            self.partial = Some(reply);
            return Ok(None);
        }
        self.octets = 0;
        Ok(Some(reply))
    }
}

fn split_reply_line(line: &[u8]) -> Result<(u16, bool, String), ReplyError> {
    let malformed =
        || ReplyError::Malformed(String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned());
    let (digits, rest) = line.split_at_checked(3).ok_or_else(malformed)?;
    let code = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
    let code: u16 = code.and_then(|d| d.parse().ok()).ok_or_else(malformed)?;
    if !(200..600).contains(&code) {
        return Err(malformed());
    }
    let (more, text) = match rest.split_first() {
        None => (false, &rest[..0]),
        Some((b' ', text)) => (false, text),
        Some((b'-', text)) => (true, text),
        Some(_) => return Err(malformed()),
    };
    Ok((code, more, String::from_utf8_lossy(text).into_owned()))
}

/// The enhanced status code at the start of a text, if its class agrees with the reply code (RFC 2034 §4).
fn leading_status(text: &str, code: u16) -> Option<EnhancedStatus> {
    let word = text.split(' ').next()?;
    let status: EnhancedStatus = word.parse().ok()?;
    (u16::from(status.class) == code / 100).then_some(status)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn wire(reply: &Reply) -> String {
        let mut out = Vec::new();
        reply.write_to(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn long_texts_fold_at_512_octets_and_repeat_the_codes() {
        let text = wire(&Reply::new(550, EnhancedStatus::new(5, 7, 1), "word ".repeat(300)));
        let lines: Vec<&str> = text.split_terminator("\r\n").collect();
        assert!(lines.len() > 2);
        assert!(lines.iter().all(|l| l.len() <= 510));
        assert!(lines[..lines.len() - 1].iter().all(|l| l.starts_with("550-5.7.1 ")));
        assert!(lines[lines.len() - 1].starts_with("550 5.7.1 "));
    }

    #[test]
    fn echoed_control_characters_cannot_forge_a_line() {
        let text = wire(&Reply::plain(501, "bad\r250 ok\u{7}"));
        assert_eq!(text, "501 bad?250 ok?\r\n");
    }

    #[test]
    fn replies_of_several_lines_are_read() {
        let mut reader = ReplyReader::new(4096);
        assert_eq!(reader.line(b"550-5.7.1 no relay"), Ok(None));
        let reply = reader.line(b"550 5.7.1 here").unwrap().unwrap();
        assert_eq!(reply.status, Some(EnhancedStatus::new(5, 7, 1)));
        assert_eq!(reply.text(), "no relay here");
        assert_eq!(reader.line(b"250").unwrap().unwrap().text(), "");
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        let mut reader = ReplyReader::new(100);
        assert!(reader.line(b"99 x").is_err());
        assert!(reader.line(b"999 x").is_err());
        assert!(reader.line(b"250x").is_err());
        assert_eq!(reader.line(b"450-a"), Ok(None));
        assert_eq!(reader.line(b"550 b"), Err(ReplyError::MixedCodes(450, 550)));
        assert!(ReplyReader::new(10).line(b"250 0123456789").is_err());
    }
}
