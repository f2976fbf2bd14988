//! The content behind DATA: the same in whatever pieces it comes, ended by CRLF.CRLF alone, and sent on as it came.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern_fuzz::{cut, read};
use postern_smtp::data::{BareLf, DataReader, DotStuffer};

fuzz_target!(|octets: &[u8]| {
    let (pieces, input) = cut(octets);
    for bare_lf in [BareLf::Report, BareLf::Normalise] {
        let (mut whole, mut cut) = (DataReader::new(100, bare_lf), DataReader::new(100, bare_lf));
        let at_once = read(&[input], |input| whole.next(input));
        assert_eq!(read(&pieces, |input| cut.next(input)), at_once);
        let Some(rest) = &at_once.rest else { continue };
        assert_eq!(whole.findings(), cut.findings());
        let taken = &input[..input.len() - rest.len()];
        assert!(taken == b".\r\n" || taken.ends_with(b"\r\n.\r\n"), "{taken:?} is no end");
        let inner = &taken[..taken.len() - 3];
        let earlier = inner.starts_with(b".\r\n") || inner.windows(5).any(|octets| octets == b"\r\n.\r\n");
        assert!(!earlier, "an end was missed in {inner:?}");
        assert_eq!(sent_on(&at_once.content, &pieces), at_once.content);
    }
    assert_eq!(without_a_missing_line_end(sent_on(input, &pieces), input), input);
});

/// Writes content as a client does, in the pieces given, and reads it as a server does.
fn sent_on(content: &[u8], pieces: &[&[u8]]) -> Vec<u8> {
    let (mut stuffer, mut wire) = (DotStuffer::new(), Vec::new());
    let mut left = content;
    for piece in pieces {
        let (now, later) = left.split_at(piece.len().min(left.len()));
        stuffer.push(now, &mut wire);
        left = later;
    }
    stuffer.push(left, &mut wire);
    stuffer.finish(&mut wire);
    let mut reader = DataReader::new(u64::MAX, BareLf::Report);
    let read = read(&[&wire], |input| reader.next(input));
    assert_eq!(read.rest, Some(Vec::new()), "the end of {content:?} is elsewhere");
    read.content
}

/// The end of the message needs a line end in front of it: content that has none gets one.
fn without_a_missing_line_end(mut read: Vec<u8>, content: &[u8]) -> Vec<u8> {
    if read.len() == content.len() + 2 && !content.ends_with(b"\r\n") {
        assert!(read.ends_with(b"\r\n"));
        read.truncate(content.len());
    }
    read
}
