//! A message in chunks: the same in whatever pieces its octets come, each chunk of the length that was announced.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern_fuzz::{cut, read};
use postern_smtp::Chunk;
use postern_smtp::chunk::ChunkReader;
use postern_smtp::data::BareLf;

fuzz_target!(|octets: &[u8]| {
    let (pieces, input) = cut(octets);
    let Some((first, input)) = input.split_first() else { return };
    let first = u64::from(*first).min(input.len() as u64);
    for bare_lf in [BareLf::Report, BareLf::Normalise] {
        let (mut one, mut two) = (ChunkReader::new(100, bare_lf), ChunkReader::new(100, bare_lf));
        let chunks = [(first, false), (input.len() as u64 - first, true)];
        let (mut whole, mut cut) = (Vec::new(), Vec::new());
        let mut begin = 0;
        for (octets, is_last) in chunks {
            let chunk = Chunk { octets, is_last };
            let here = &input[begin..begin + octets as usize];
            begin += octets as usize;
            one.begin(chunk);
            two.begin(chunk);
            let at_once = read(&[here], |input| one.next(input));
            assert_eq!(at_once.rest, Some(Vec::new()), "the chunk did not end");
            whole.extend(at_once.content);
            cut.extend(read(&in_lengths_of(&pieces, here), |input| two.next(input)).content);
            assert_eq!(one.ends_a_line(), two.ends_a_line());
        }
        assert_eq!(whole, cut);
        assert_eq!(one.findings(), two.findings());
        if bare_lf == BareLf::Report {
            assert_eq!(whole, input);
        }
    }
});

/// The octets in pieces as long as those.
fn in_lengths_of<'a>(pieces: &[&[u8]], octets: &'a [u8]) -> Vec<&'a [u8]> {
    let mut left = octets;
    let mut cut = Vec::new();
    for piece in pieces {
        let (now, later) = left.split_at(piece.len().min(left.len()));
        cut.push(now);
        left = later;
    }
    cut.push(left);
    cut
}
