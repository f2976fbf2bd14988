//! A message with binary parts, converted: the same in whatever pieces it comes, nothing to convert a second time, and as it was
//! where nothing is labelled binary.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern_fuzz::cut;
use postern_smtp::binary::{Converter, MAX_DEPTH, Unconvertible};
use postern_smtp::mime::MAX_BOUNDARY;

const MAX_HEADER: usize = 1000;
/// A header that was converted may be this much longer: the field is written with a space and a line end.
const LONGER: usize = 3;

fuzz_target!(|octets: &[u8]| {
    let (pieces, message) = cut(octets);
    let converted = convert(&[message], MAX_HEADER);
    assert_eq!(convert(&pieces, MAX_HEADER), converted);
    let Ok(converted) = converted else { return };
    let again = convert(&[&converted], MAX_HEADER + LONGER);
    assert_eq!(again.as_deref(), Ok(converted.as_slice()), "converted twice");
    let says_binary = message.windows(6).any(|word| word.eq_ignore_ascii_case(b"binary"));
    // In quotes the word may have escapes.
    if !says_binary && !message.contains(&b'"') {
        assert_eq!(converted, message, "nothing was to be converted");
    }
});

fn convert(pieces: &[&[u8]], max_header: usize) -> Result<Vec<u8>, Unconvertible> {
    let mut converter = Converter::new(max_header);
    let mut out = Vec::new();
    for piece in pieces {
        converter.push(piece, &mut out)?;
        // What is held: a header, or a line; a vector may have twice the room.
        let most = 2 * (max_header + 1000 + piece.len()) + MAX_DEPTH * MAX_BOUNDARY;
        assert!(converter.in_memory() <= most, "{} octets are held", converter.in_memory());
    }
    converter.finish(&mut out)?;
    Ok(out)
}
