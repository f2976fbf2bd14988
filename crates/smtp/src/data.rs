//! Line ends, dots, the end of a message (RFC 5321 §4.5.2): [`DataReader`] for a server, [`DotStuffer`] for a client.
//!
//! Only CRLF.CRLF ends a message. What other servers may take for an end (a dot between bare line feeds, or behind a
//! bare carriage return) is content here, and is reported, so that nobody can hide a second message in the first one.

use memchr::{memchr, memchr2};

/// What a message has that some servers misunderstand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Findings {
    /// A CR without LF.
    pub bare_cr: bool,
    /// An LF without CR.
    pub bare_lf: bool,
    /// A NUL.
    pub nul: bool,
    /// An octet above 127.
    pub eight_bit: bool,
    /// A line longer than the limit.
    pub long_line: bool,
}

/// What to do with a bare LF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BareLf {
    /// It stays where it is and is reported: the message is to be refused.
    Report,
    /// It becomes CRLF. It still cannot end the message.
    Normalise,
}

/// What comes next in the input of a [`DataReader`] or a [`ChunkReader`](crate::chunk::ChunkReader).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The next octets, so many, are content.
    Content(usize),
    /// The next octets, so many, are none: a stuffed dot.
    Skip(usize),
    /// The next octet is a bare LF, for which the content has CRLF.
    LineEnd,
    /// The message or the chunk ended; the next octets, so many, belong to its end. What follows them are commands.
    End(usize),
    /// More input is needed. Octets that are left (at most two) must be given again, in front of it.
    More,
}

/// Finds the content and the end of a message behind DATA, in input that comes in any pieces.
///
/// It never copies: each [`Step`] says what the next octets of the input are. After a bare CR or LF it goes on to the
/// real end, so that the session stays in step with the client.
#[derive(Debug, Clone)]
pub struct DataReader {
    place: Place,
    line: u64,
    max_line: u64,
    bare_lf: BareLf,
    findings: Findings,
}

/// What stands in front of the next octet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// CRLF, or the beginning.
    LineStart,
    /// A bare LF that was normalised: a stuffed dot may follow, the end may not.
    SoftLineStart,
    /// The dot that began a line.
    Dot,
    /// Anything else.
    Middle,
}

impl DataReader {
    /// A reader that reports lines of more than `max_line` octets (CRLF not counted).
    pub fn new(max_line: u64, bare_lf: BareLf) -> Self {
        Self { place: Place::LineStart, line: 0, max_line, bare_lf, findings: Findings::default() }
    }

    /// What was found so far.
    pub fn findings(&self) -> Findings {
        self.findings
    }

    /// Looks at the octets that follow those of the steps before. Take away from `input` what the step says, then ask again.
    pub fn next(&mut self, input: &[u8]) -> Step {
        match (self.place, input) {
            (_, []) => Step::More,
            (Place::LineStart, [b'.', b'\r', b'\n', ..]) => Step::End(3),
            (Place::LineStart, [b'.', ..]) => {
                self.place = Place::Dot;
                Step::Skip(1)
            }
            (Place::Dot, [b'\r', b'\n', ..]) => Step::End(2),
            (Place::SoftLineStart, [b'.']) => Step::More,
            (Place::SoftLineStart, [b'.', b'.', ..]) => {
                self.place = Place::Middle;
                Step::Skip(1)
            }
            _ => self.content(input),
        }
    }

    /// The longest run of content: up to a line that begins with a dot, or a bare LF that must be rewritten.
    fn content(&mut self, input: &[u8]) -> Step {
        let mut at = 0;
        loop {
            let Some(ahead) = memchr2(b'\r', b'\n', &input[at..]) else {
                self.grow_line(input.len() - at);
                return self.run_ends(input, input.len(), Place::Middle);
            };
            self.grow_line(ahead);
            at += ahead;
            match (input[at], input.get(at + 1)) {
                (b'\r', Some(b'\n')) => {
                    self.line = 0;
                    at += 2;
                    if matches!(input.get(at), None | Some(b'.')) {
                        return self.run_ends(input, at, Place::LineStart);
                    }
                }
                (b'\r', None) => {
                    let place = if at > 0 { Place::Middle } else { self.place };
                    return self.run_ends(input, at, place);
                }
                (b'\r', Some(_)) => {
                    self.findings.bare_cr = true;
                    self.grow_line(1);
                    at += 1;
                }
                _ if self.bare_lf == BareLf::Report => {
                    self.findings.bare_lf = true;
                    self.grow_line(1);
                    at += 1;
                }
                _ if at > 0 => return self.run_ends(input, at, Place::Middle),
                _ => {
                    self.findings.bare_lf = true;
                    self.line = 0;
                    self.place = Place::SoftLineStart;
                    return Step::LineEnd;
                }
            }
        }
    }

    fn run_ends(&mut self, input: &[u8], length: usize, place: Place) -> Step {
        self.place = place;
        if length == 0 {
            return Step::More;
        }
        let run = &input[..length];
        self.findings.nul |= memchr(0, run).is_some();
        self.findings.eight_bit |= !run.is_ascii();
        Step::Content(length)
    }

    fn grow_line(&mut self, octets: usize) {
        self.line += octets as u64;
        self.findings.long_line |= self.line > self.max_line;
    }
}

/// Writes the content of a message as it goes over the wire behind DATA, from pieces cut anywhere.
///
/// The content should have CRLF line ends only; a bare CR or LF is sent as it is and begins no line.
#[derive(Debug, Clone)]
pub struct DotStuffer {
    last: Last,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    CrLf,
    Cr,
    Other,
}

impl Default for DotStuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl DotStuffer {
    /// At the beginning of a message.
    pub fn new() -> Self {
        Self { last: Last::CrLf }
    }

    /// Appends a piece of content to `out`, with one more dot in front of each line that begins with one.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let mut rest = piece;
        while let Some(first) = rest.first() {
            if *first == b'.' && self.last == Last::CrLf {
                out.push(b'.');
            }
            let line = match memchr(b'\n', rest) {
                Some(at) => &rest[..=at],
                None => rest,
            };
            out.extend_from_slice(line);
            self.last = self.ending(line);
            rest = &rest[line.len()..];
        }
    }

    /// Appends the end: CRLF if the content did not end with it, then a line of one dot.
    pub fn finish(self, out: &mut Vec<u8>) {
        if self.last != Last::CrLf {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
    }

    fn ending(&self, line: &[u8]) -> Last {
        match line {
            [.., b'\r', b'\n'] => Last::CrLf,
            [b'\n'] if self.last == Last::Cr => Last::CrLf,
            [.., b'\r'] => Last::Cr,
            _ => Last::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;
    use crate::testing::split;

    #[derive(Debug, PartialEq, Eq)]
    struct Read {
        content: Vec<u8>,
        findings: Findings,
        /// What follows the message; `None` if it did not end.
        commands: Option<Vec<u8>>,
    }

    /// Gives the reader the input in pieces, as a connection would.
    fn read(pieces: &[&[u8]], bare_lf: BareLf) -> Read {
        let mut reader = DataReader::new(100, bare_lf);
        let mut buffer = Vec::new();
        let mut content = Vec::new();
        for (at, piece) in pieces.iter().enumerate() {
            buffer.extend_from_slice(piece);
            loop {
                match reader.next(&buffer) {
                    Step::Content(length) => content.extend(buffer.drain(..length)),
                    Step::Skip(length) => drop(buffer.drain(..length)),
                    Step::LineEnd => {
                        buffer.drain(..1);
                        content.extend_from_slice(b"\r\n");
                    }
                    Step::More => break,
                    Step::End(length) => {
                        buffer.drain(..length);
                        pieces[at + 1..].iter().for_each(|piece| buffer.extend_from_slice(piece));
                        return Read { content, findings: reader.findings(), commands: Some(buffer) };
                    }
                }
            }
            assert!(buffer.len() <= 2, "more than two octets wait: {buffer:?}");
        }
        Read { content, findings: reader.findings(), commands: None }
    }

    fn strict(input: &[u8]) -> Read {
        read(&[input], BareLf::Report)
    }

    #[test]
    fn a_message_ends_at_crlf_dot_crlf_and_commands_follow() {
        let read = strict(b"a\r\nb\r\n.\r\nQUIT\r\n");
        assert_eq!(read.content, b"a\r\nb\r\n");
        assert_eq!(read.commands.unwrap(), b"QUIT\r\n");
        assert_eq!(read.findings, Findings::default());
    }

    #[test]
    fn a_dot_on_the_first_line_ends_an_empty_message() {
        let read = strict(b".\r\nQUIT\r\n");
        assert_eq!((read.content.len(), read.commands.unwrap()), (0, b"QUIT\r\n".to_vec()));
    }

    #[test]
    fn stuffed_dots_are_removed_on_every_line() {
        assert_eq!(strict(b"..a\r\n..\r\n.b\r\nc.\r\n.\r\n").content, b".a\r\n.\r\nb\r\nc.\r\n");
    }

    #[test]
    fn nothing_but_crlf_dot_crlf_ends_a_message() {
        for (end, findings) in [
            ("\n.\n", Findings { bare_lf: true, ..Findings::default() }),
            ("\n.\r\n", Findings { bare_lf: true, ..Findings::default() }),
            ("\r\n.\n", Findings { bare_lf: true, ..Findings::default() }),
            ("\r\n.\r", Findings { bare_cr: true, ..Findings::default() }),
            ("\r.\r\n", Findings { bare_cr: true, ..Findings::default() }),
            ("\r.\r", Findings { bare_cr: true, ..Findings::default() }),
            ("\r\n.\r\r\n", Findings { bare_cr: true, ..Findings::default() }),
            ("\r\r\n.\r\r\n", Findings { bare_cr: true, ..Findings::default() }),
            ("\r\n\0.\r\n", Findings { nul: true, ..Findings::default() }),
            ("\r\n.\0\r\n", Findings { nul: true, ..Findings::default() }),
        ] {
            let smuggled = format!("a{end}MAIL FROM:<>\r\n.\r\nQUIT\r\n");
            let read = strict(smuggled.as_bytes());
            assert_eq!(read.commands.as_deref(), Some(&b"QUIT\r\n"[..]), "{end:?}");
            assert!(String::from_utf8_lossy(&read.content).contains("MAIL FROM"), "{end:?}");
            assert_eq!(read.findings, findings, "{end:?}");
        }
    }

    #[test]
    fn bare_line_feeds_become_crlf_where_that_is_asked_for() {
        let normalised = |input: &[u8]| read(&[input], BareLf::Normalise);
        let read = normalised(b"a\n..b\n.c\n\r\nd\n.\r\ne\r\n.\nf\r\n.\r\n");
        assert_eq!(read.content, b"a\r\n.b\r\n.c\r\n\r\nd\r\n.\r\ne\r\n\r\nf\r\n");
        assert!(read.findings.bare_lf && !read.findings.bare_cr);
        assert!(read.commands.is_some());
        assert!(normalised(b"a\n.\n.\n.\r\n").commands.is_none());
        assert!(normalised(b"a\rb\r\n.\r\n").findings.bare_cr);
    }

    #[test]
    fn long_lines_are_found_across_pieces() {
        let line = [b'x'; 50];
        assert!(!read(&[&line, &line, b"\r\n.\r\n"], BareLf::Report).findings.long_line);
        assert!(read(&[&line, &line, b"x\r\n.\r\n"], BareLf::Report).findings.long_line);
        assert!(!read(&[&line, b"\r", b"\n", &line, b"\r\n.\r\n"], BareLf::Report).findings.long_line);
    }

    #[test]
    fn eight_bit_octets_are_found() {
        assert!(strict("ä\r\n.\r\n".as_bytes()).findings.eight_bit);
    }

    #[test]
    fn an_ending_without_crlf_is_completed_by_the_stuffer() {
        for (content, wire) in [
            (&b""[..], &b".\r\n"[..]),
            (b"a", b"a\r\n.\r\n"),
            (b"a\r\n", b"a\r\n.\r\n"),
            (b"a\r", b"a\r\r\n.\r\n"),
            (b".", b"..\r\n.\r\n"),
            (b".a\r\n.\r\n", b"..a\r\n..\r\n.\r\n"),
            (b"a\n.b\r\n", b"a\n.b\r\n.\r\n"),
        ] {
            assert_eq!(stuffed(&[content]), wire, "{content:?}");
        }
    }

    fn stuffed(pieces: &[&[u8]]) -> Vec<u8> {
        let mut stuffer = DotStuffer::new();
        let mut out = Vec::new();
        pieces.iter().for_each(|piece| stuffer.push(piece, &mut out));
        stuffer.finish(&mut out);
        out
    }

    /// Text of the characters that matter, so that their combinations are met.
    fn lines() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(proptest::sample::select(&b"\r\n..a\0\x80"[..]), 0..40)
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_result(text in lines(), cuts in proptest::collection::vec(0usize..64, 0..8)) {
            for bare_lf in [BareLf::Report, BareLf::Normalise] {
                let whole = [&text[..], b"\r\n.\r\nQUIT\r\n"].concat();
                prop_assert_eq!(read(&split(&whole, &cuts), bare_lf), read(&[&whole], bare_lf));
                let octets: Vec<&[u8]> = whole.chunks(1).collect();
                prop_assert_eq!(read(&octets, bare_lf), read(&[&whole], bare_lf));
            }
        }

        #[test]
        fn what_is_stuffed_is_read_back(text in lines(), cuts in proptest::collection::vec(0usize..64, 0..8)) {
            let wire = stuffed(&split(&text, &cuts));
            prop_assert_eq!(&wire, &stuffed(&[&text]));
            let read = strict(&wire);
            prop_assert_eq!(read.commands, Some(Vec::new()));
            let complete = text.is_empty() || text.ends_with(b"\r\n");
            let expected = if complete { text } else { [&text[..], b"\r\n"].concat() };
            prop_assert_eq!(read.content, expected);
        }

        #[test]
        fn normalised_content_has_no_bare_line_feed(text in lines()) {
            let read = read(&[&text, b"\r\n.\r\n"], BareLf::Normalise);
            let bare = memchr::memchr_iter(b'\n', &read.content).any(|at| at == 0 || read.content[at - 1] != b'\r');
            prop_assert!(!bare);
        }
    }
}
