//! What several fuzz targets need.

use postern_smtp::data::Step;

pub mod client;
pub mod nowhere;
pub mod provider;

/// Cuts the input where its first octets say, so that the same input comes in other pieces: the first octet is how many cuts
/// there are (16 at most), then there are two octets for each. The rest is the input.
pub fn cut(octets: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let Some((count, rest)) = octets.split_first() else { return (Vec::new(), octets) };
    let count = usize::from(count % 17).min(rest.len() / 2);
    let (places, input) = rest.split_at(count * 2);
    let mut ends: Vec<usize> = places
        .chunks_exact(2)
        .map(|place| usize::from(u16::from_le_bytes([place[0], place[1]])) % (input.len() + 1))
        .chain([0, input.len()])
        .collect();
    ends.sort_unstable();
    (ends.windows(2).map(|ends| &input[ends[0]..ends[1]]).collect(), input)
}

/// What a reader made of its input.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// The content.
    pub content: Vec<u8>,
    /// What follows the end; `None` where it did not come.
    pub rest: Option<Vec<u8>>,
}

/// Gives a reader pieces, one after the other, as a connection does: what it leaves is given again in front of the next.
///
/// # Panics
/// When the reader answers what makes no sense: that is what is looked for.
pub fn read(pieces: &[&[u8]], mut next: impl FnMut(&[u8]) -> Step) -> Read {
    let mut read = Read::default();
    let mut input = Vec::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        let mut at = 0;
        while read.rest.is_none() {
            match next(&input[at..]) {
                Step::Content(octets) => {
                    assert!(octets > 0, "an empty run of content");
                    read.content.extend_from_slice(&input[at..at + octets]);
                    at += octets;
                }
                Step::Skip(octets) => {
                    assert!(octets > 0, "nothing was skipped");
                    at += octets;
                }
                Step::LineEnd => {
                    read.content.extend_from_slice(b"\r\n");
                    at += 1;
                }
                Step::End(octets) => {
                    at += octets;
                    read.rest = Some(Vec::new());
                }
                Step::More => {
                    assert!(input.len() - at <= 2, "{} octets are left", input.len() - at);
                    break;
                }
            }
        }
        input.drain(..at);
    }
    if let Some(rest) = &mut read.rest {
        *rest = input;
    }
    read
}
