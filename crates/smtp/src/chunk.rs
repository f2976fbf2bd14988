//! A message in chunks (RFC 3030 §2): BDAT says how many octets follow, so that no dot is stuffed and nothing in the
//! content can be its end.
//!
//! The content must still be one that DATA can carry, for the next hop gets it with DATA: lines end with CRLF, and a bare CR
//! or LF is found here as [`DataReader`](crate::data::DataReader) finds it, also where a chunk ends in the middle of a CRLF.

use memchr::{memchr, memchr2};

use crate::data::{BareLf, Findings, Step};

/// What BDAT announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// How many octets follow behind the CRLF of the command.
    pub octets: u64,
    /// Whether the message ends with them.
    pub is_last: bool,
}

/// Finds the content of a message in its chunks, in input that comes in any pieces.
///
/// Its steps are those of a [`DataReader`](crate::data::DataReader), but nothing is skipped, nothing waits for what follows
/// it, and [`Step::End`] is the end of a chunk: `End(0)`, because no octet marks it.
#[derive(Debug, Clone)]
pub struct ChunkReader {
    chunk: Chunk,
    /// Octets of the chunk that did not come yet.
    remaining: u64,
    /// The octet in front of the next one, in this chunk or the one before.
    last: Last,
    line: u64,
    max_line: u64,
    bare_lf: BareLf,
    findings: Findings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    /// CRLF, or the beginning of the message.
    LineEnd,
    /// A CR: with LF behind it a line end, else a bare one.
    Cr,
    Other,
}

impl ChunkReader {
    /// A reader that reports lines of more than `max_line` octets (CRLF not counted), before the first chunk.
    pub fn new(max_line: u64, bare_lf: BareLf) -> Self {
        let chunk = Chunk { octets: 0, is_last: false };
        let findings = Findings::default();
        Self { chunk, remaining: 0, last: Last::LineEnd, line: 0, max_line, bare_lf, findings }
    }

    /// The input goes on with this chunk.
    pub fn begin(&mut self, chunk: Chunk) {
        self.chunk = chunk;
        self.remaining = chunk.octets;
    }

    /// The chunk that is being read, or was read last.
    pub fn chunk(&self) -> Chunk {
        self.chunk
    }

    /// What was found so far. A CR at the very end of a message is bare, at the end of another chunk it may not be.
    pub fn findings(&self) -> Findings {
        self.findings
    }

    /// Whether the content so far ends with a line end, or is empty.
    pub fn ends_a_line(&self) -> bool {
        self.last == Last::LineEnd
    }

    /// Looks at the octets that follow those of the steps before. Take away from `input` what the step says, then ask again.
    pub fn next(&mut self, input: &[u8]) -> Step {
        if self.remaining == 0 {
            if self.chunk.is_last && self.last == Last::Cr {
                self.bare_cr();
            }
            return Step::End(0);
        }
        let here =
            usize::try_from(self.remaining).map_or(input.len(), |remaining| remaining.min(input.len()));
        let step = self.content(&input[..here]);
        self.remaining -= match step {
            Step::Content(octets) => octets as u64,
            Step::LineEnd => 1,
            Step::Skip(_) | Step::End(_) | Step::More => 0,
        };
        step
    }

    /// The longest run of content: all there is, or up to a bare LF that must be rewritten.
    fn content(&mut self, input: &[u8]) -> Step {
        let mut at = 0;
        while at < input.len() {
            if std::mem::replace(&mut self.last, Last::Other) == Last::Cr {
                if input[at] == b'\n' {
                    self.last = Last::LineEnd;
                    self.line = 0;
                    at += 1;
                    continue;
                }
                self.bare_cr();
            }
            let ahead = memchr2(b'\r', b'\n', &input[at..]).unwrap_or(input.len() - at);
            self.grow_line(ahead);
            at += ahead;
            match input.get(at) {
                None => {}
                Some(b'\r') => {
                    self.last = Last::Cr;
                    at += 1;
                }
                Some(_) if self.bare_lf == BareLf::Report => {
                    self.findings.bare_lf = true;
                    self.grow_line(1);
                    at += 1;
                }
                Some(_) if at > 0 => return self.run_ends(&input[..at]),
                Some(_) => {
                    self.findings.bare_lf = true;
                    self.last = Last::LineEnd;
                    self.line = 0;
                    return Step::LineEnd;
                }
            }
        }
        self.run_ends(input)
    }

    /// The octet before was a CR, and no LF came.
    fn bare_cr(&mut self) {
        self.last = Last::Other;
        self.findings.bare_cr = true;
        self.grow_line(1);
    }

    fn run_ends(&mut self, run: &[u8]) -> Step {
        if run.is_empty() {
            return Step::More;
        }
        self.findings.nul |= memchr(0, run).is_some();
        self.findings.eight_bit |= !run.is_ascii();
        Step::Content(run.len())
    }

    fn grow_line(&mut self, octets: usize) {
        self.line += octets as u64;
        self.findings.long_line |= self.line > self.max_line;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::{DataReader, DotStuffer};
    use crate::testing::split;

    const MAX_LINE: u64 = 5;

    #[derive(Debug, PartialEq, Eq)]
    struct Read {
        content: Vec<u8>,
        findings: Findings,
        ends_a_line: bool,
    }

    /// Gives the reader a message in these chunks, as a connection would: with commands behind each of them, in reads of so
    /// many octets.
    fn read_in(chunks: &[&[u8]], reads: usize, bare_lf: BareLf) -> Read {
        let mut reader = ChunkReader::new(MAX_LINE, bare_lf);
        let mut content = Vec::new();
        for (at, chunk) in chunks.iter().enumerate() {
            reader.begin(Chunk { octets: chunk.len() as u64, is_last: at + 1 == chunks.len() });
            let wire = [chunk, &b"\nBDAT 0\r\n"[..]].concat();
            let mut read = 0;
            let mut buffer = Vec::new();
            loop {
                match reader.next(&buffer) {
                    Step::Content(octets) => content.extend(buffer.drain(..octets)),
                    Step::LineEnd => {
                        assert_eq!(buffer.remove(0), b'\n');
                        content.extend_from_slice(b"\r\n");
                    }
                    Step::More => {
                        assert!(buffer.is_empty(), "octets wait: {buffer:?}");
                        let next = wire.len().min(read + reads);
                        buffer.extend_from_slice(&wire[read..next]);
                        read = next;
                    }
                    Step::End(0) => break,
                    step => panic!("{step:?}"),
                }
            }
            assert_eq!([&buffer[..], &wire[read..]].concat(), b"\nBDAT 0\r\n", "the rest are commands");
        }
        Read { content, findings: reader.findings(), ends_a_line: reader.ends_a_line() }
    }

    fn read(chunks: &[&[u8]], bare_lf: BareLf) -> Read {
        read_in(chunks, usize::MAX / 2, bare_lf)
    }

    fn findings(chunks: &[&[u8]]) -> Findings {
        read(chunks, BareLf::Report).findings
    }

    #[test]
    fn content_is_kept_octet_for_octet() {
        for content in ["", ".", "a\r\n.\r\nb\r\n", "..\r\n.a\r\n", "\r\n.\r\n", "QUIT\r\n"] {
            let read = read(&[content.as_bytes()], BareLf::Report);
            assert_eq!(read.content, content.as_bytes());
            assert_eq!(read.findings, Findings::default(), "{content:?}");
        }
    }

    #[test]
    fn a_line_end_may_be_cut_by_the_end_of_a_chunk() {
        assert_eq!(findings(&[b"a\r", b"\nb\r\n"]), Findings::default());
        assert_eq!(findings(&[b"a\r", b"", b"", b"\n"]), Findings::default());
        assert!(findings(&[b"a\r", b"b\n"]).bare_cr);
        assert!(findings(&[b"a", b"\nb"]).bare_lf);
        assert!(findings(&[b"\n"]).bare_lf);
    }

    #[test]
    fn a_carriage_return_at_the_end_of_the_message_is_bare() {
        assert!(findings(&[b"a\r"]).bare_cr);
        assert!(findings(&[b"a\r", b""]).bare_cr);
        assert!(!findings(&[b"a\r\n"]).bare_cr);
    }

    #[test]
    fn whether_the_last_line_has_an_end_is_known() {
        for (content, ends) in [("", true), ("a", false), ("a\r\n", true), ("a\r\n.", false), ("a\r", false)]
        {
            assert_eq!(read(&[content.as_bytes()], BareLf::Report).ends_a_line, ends, "{content:?}");
        }
        assert!(read(&[b"a\n"], BareLf::Normalise).ends_a_line);
    }

    #[test]
    fn long_lines_are_found_across_chunks() {
        assert!(!findings(&[b"12345\r\n", b"123", b"45\r\n"]).long_line);
        assert!(findings(&[b"123", b"456\r\n"]).long_line);
        assert!(!findings(&[b"12345\r", b"\n"]).long_line);
    }

    #[test]
    fn what_eight_bits_and_nul_are_is_said() {
        assert!(findings(&[b"\0"]).nul && findings(&["ä".as_bytes()]).eight_bit);
    }

    #[test]
    fn a_chunk_beyond_what_can_be_addressed_waits_for_more() {
        let mut reader = ChunkReader::new(MAX_LINE, BareLf::Report);
        reader.begin(Chunk { octets: u64::MAX, is_last: true });
        assert_eq!(reader.next(b"ab"), Step::Content(2));
        assert_eq!(reader.next(b""), Step::More);
    }

    /// What DATA makes of the same content.
    fn by_data(content: &[u8]) -> (Vec<u8>, Findings) {
        let mut wire = Vec::new();
        let mut stuffer = DotStuffer::new();
        stuffer.push(content, &mut wire);
        stuffer.finish(&mut wire);
        let mut reader = DataReader::new(MAX_LINE, BareLf::Report);
        let mut read = Vec::new();
        loop {
            match reader.next(&wire) {
                Step::Content(octets) => read.extend(wire.drain(..octets)),
                Step::Skip(octets) => drop(wire.drain(..octets)),
                Step::End(octets) => {
                    assert_eq!(octets, wire.len(), "the content ends where the message does");
                    return (read, reader.findings());
                }
                step => panic!("{step:?}"),
            }
        }
    }

    /// Text of the characters that matter, so that their combinations are met.
    fn lines() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(proptest::sample::select(&b"\r\n\r\n..a\0\x80"[..]), 0..40)
    }

    proptest! {
        #[test]
        fn any_chunks_in_any_reads_give_the_same_result(
            text in lines(),
            cuts in proptest::collection::vec(0usize..64, 0..8),
            reads in 1usize..9,
        ) {
            for bare_lf in [BareLf::Report, BareLf::Normalise] {
                let whole = read(&[&text], bare_lf);
                prop_assert_eq!(&read_in(&split(&text, &cuts), reads, bare_lf), &whole);
                prop_assert_eq!(&read_in(&[&text], 1, bare_lf), &whole);
            }
        }

        #[test]
        fn a_message_is_the_same_by_bdat_and_by_data(text in lines()) {
            let by_bdat = read(&[&text], BareLf::Report);
            prop_assert_eq!(&by_bdat.content, &text);
            let complete = match by_bdat.ends_a_line {
                true => text,
                false => [&text[..], b"\r\n"].concat(),
            };
            prop_assert_eq!((complete, by_bdat.findings), by_data(&by_bdat.content));
        }

        #[test]
        fn normalised_content_has_no_bare_line_feed(text in lines(), cuts in proptest::collection::vec(0usize..64, 0..8)) {
            let content = read(&split(&text, &cuts), BareLf::Normalise).content;
            let bare = memchr::memchr_iter(b'\n', &content).any(|at| at == 0 || content[at - 1] != b'\r');
            prop_assert!(!bare);
        }
    }
}
