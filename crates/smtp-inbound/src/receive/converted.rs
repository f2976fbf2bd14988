//! The chunks of a BINARYMIME message, read as what becomes of it (RFC 3030 §3).
//!
//! Octets go through the [`Converter`], and what comes out through the reader that looks at every other message in chunks: so
//! nothing gets into the queue that DATA could not carry.

use bytes::{Buf, Bytes, BytesMut};
use postern_smtp::Chunk;
use postern_smtp::binary::{Converter, Unconvertible, converted_size};
use postern_smtp::chunk::ChunkReader;
use postern_smtp::data::{BareLf, Findings, Step};

/// Takes the content of a message out of its chunks, converted.
#[derive(Debug)]
pub(super) struct ConvertedChunks {
    chunk: Chunk,
    /// Octets of the chunk that did not come yet.
    remaining: u64,
    /// `None` behind what it cannot convert.
    converter: Option<Converter>,
    /// Looks at what comes out, which is one chunk to it.
    lines: ChunkReader,
}

/// What came of some input.
#[derive(Debug)]
pub(super) struct Piece {
    /// Octets taken from the input.
    pub taken: u64,
    /// What goes to the queue, as far as it is known.
    pub content: BytesMut,
    /// Why nothing can follow it.
    pub error: Option<Unconvertible>,
    /// Whether the chunk has ended.
    pub is_end: bool,
}

impl ConvertedChunks {
    /// Before the first chunk. The limits are those of a line and of a header.
    pub fn new(max_line: u64, max_header: u64) -> Self {
        let mut lines = ChunkReader::new(max_line, BareLf::Report);
        lines.begin(Chunk { octets: u64::MAX, is_last: false });
        let max_header = usize::try_from(max_header).unwrap_or(usize::MAX);
        let chunk = Chunk { octets: 0, is_last: false };
        Self { chunk, remaining: 0, converter: Some(Converter::new(max_header)), lines }
    }

    pub fn begin(&mut self, chunk: Chunk) {
        self.chunk = chunk;
        self.remaining = chunk.octets;
    }

    pub fn chunk(&self) -> Chunk {
        self.chunk
    }

    pub fn findings(&self) -> Findings {
        self.lines.findings()
    }

    pub fn ends_a_line(&self) -> bool {
        self.lines.ends_a_line()
    }

    pub fn in_memory(&self) -> usize {
        self.converter.as_ref().map_or(0, Converter::in_memory)
    }

    /// Takes what belongs to the chunk away from `input`.
    pub fn take(&mut self, input: &mut BytesMut) -> Piece {
        let here =
            usize::try_from(self.remaining).map_or(input.len(), |remaining| remaining.min(input.len()));
        self.remaining -= here as u64;
        let is_end = self.remaining == 0;
        // As much as is needed where all of it is binary: the queue keeps the buffer.
        let mut content = Vec::with_capacity(usize::try_from(converted_size(here as u64)).unwrap_or(here));
        let converted = self.convert(&input[..here], is_end && self.chunk.is_last, &mut content);
        input.advance(here);
        // Also in front of an error, so that it does not matter how much was read at once.
        self.look_at(&content);
        if converted.is_err() {
            self.converter = None;
        } else if is_end && self.chunk.is_last {
            // A CR at the very end is bare.
            self.lines.begin(Chunk { octets: 0, is_last: true });
            self.lines.next(&[]);
        }
        let content = BytesMut::from(Bytes::from(content));
        Piece { taken: here as u64, content, error: converted.err(), is_end }
    }

    fn convert(&mut self, octets: &[u8], is_last: bool, out: &mut Vec<u8>) -> Result<(), Unconvertible> {
        let Some(converter) = &mut self.converter else { return Ok(()) };
        converter.push(octets, out)?;
        if is_last { converter.finish(out) } else { Ok(()) }
    }

    /// Nothing is rewritten: what an LF in a message with binary parts means only its parts know.
    fn look_at(&mut self, content: &[u8]) {
        let mut rest = content;
        while let Step::Content(octets) = self.lines.next(rest) {
            rest = &rest[octets..];
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const HEADER: &str = "Content-Transfer-Encoding: binary\r\n\r\n";

    /// Gives a message in these chunks, in reads of so many octets with a command behind each chunk.
    fn read(chunks: &[&[u8]], reads: usize) -> (String, ConvertedChunks) {
        let mut reader = ConvertedChunks::new(100, 1000);
        let mut text = Vec::new();
        for (at, chunk) in chunks.iter().enumerate() {
            reader.begin(Chunk { octets: chunk.len() as u64, is_last: at + 1 == chunks.len() });
            let wire = [chunk, &b"NOOP\r\n"[..]].concat();
            let (mut input, mut taken) = (BytesMut::new(), 0);
            let mut reads = wire.chunks(reads);
            loop {
                let piece = reader.take(&mut input);
                assert_eq!(piece.error, None);
                text.extend_from_slice(&piece.content);
                taken += piece.taken;
                if piece.is_end {
                    break;
                }
                assert!(input.is_empty());
                input.extend_from_slice(reads.next().unwrap());
            }
            assert_eq!(taken, chunk.len() as u64);
        }
        (String::from_utf8(text).unwrap(), reader)
    }

    #[test]
    fn chunks_may_end_anywhere() {
        let message = format!("{HEADER}\n\n\n\r\n\0");
        for cut in 0..message.len() {
            let (first, last) = message.as_bytes().split_at(cut);
            for reads in [1, 7, 1000] {
                let (text, reader) = read(&[first, last], reads);
                assert_eq!(text, "Content-Transfer-Encoding: base64\r\n\r\nCgoKDQoA");
                assert_eq!(reader.findings(), Findings::default());
                assert!(!reader.ends_a_line());
            }
        }
    }

    #[test]
    fn what_comes_out_is_looked_at() {
        let findings = |content: &str| read(&[content.as_bytes()], 1000).1.findings();
        assert!(findings("Subject: x\r\n\r\na\nb").bare_lf);
        assert!(findings("Subject: x\r\n\r\na\r").bare_cr);
        assert!(findings(&format!("Subject: x\r\n\r\n{}", "x".repeat(101))).long_line);
        assert_eq!(findings(&format!("{HEADER}{}", "\0".repeat(5000))), Findings::default());
    }

    #[test]
    fn what_comes_in_front_of_an_error_is_still_given() {
        let message = format!("{}\r\n--b\r\n{HEADER}", "Content-Type: multipart/signed; boundary=b\r\n");
        for reads in [1, 1000] {
            let mut reader = ConvertedChunks::new(100, 1000);
            reader.begin(Chunk { octets: message.len() as u64, is_last: true });
            let pieces: Vec<Piece> =
                message.as_bytes().chunks(reads).map(|read| reader.take(&mut BytesMut::from(read))).collect();
            let errors: Vec<_> = pieces.iter().filter_map(|piece| piece.error).collect();
            assert_eq!(errors, [Unconvertible::Signed]);
            let text: Vec<u8> = pieces.iter().flat_map(|piece| piece.content.to_vec()).collect();
            assert_eq!(text, message.strip_suffix(HEADER).unwrap().as_bytes());
            assert!(pieces.last().unwrap().is_end && reader.in_memory() == 0);
        }
    }
}
