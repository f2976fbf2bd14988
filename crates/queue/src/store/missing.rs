//! Segments that should be in the log and are not, and messages of which nothing is left but what the index knows.
//!
//! The log says itself which segments there are: each one begins with the names and lengths of all (the meta part of its
//! `Head` record), and before one is removed because nothing in it counts any more, its name is written (the meta part of
//! a `Pad` record). The index keeps the names of the moment it was written, too. So a start can tell a segment that was
//! given back from one that somebody deleted or cut short, also when it was given an older index.

use std::collections::BTreeMap;

use super::catalogue::{is_name, number};

/// A segment in the list of all.
const ENTRY: usize = 16;

/// The list that a segment begins with: names and lengths.
pub fn encode(segments: impl IntoIterator<Item = (u64, u64)>) -> Vec<u8> {
    segments
        .into_iter()
        .flat_map(|(name, length)| [name.to_le_bytes(), length.to_le_bytes()].concat())
        .collect()
}

/// What can be no name is left out: the next segment has a number behind all of these.
fn decode(octets: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    let entries = octets.chunks_exact(ENTRY).map(|entry| {
        let word = |at: usize| entry[at..].first_chunk::<8>().map_or(0, |octets| u64::from_le_bytes(*octets));
        (word(0), word(8))
    });
    entries.filter(|(name, _)| is_name(*name))
}

/// The segments that should be there, as far as the log was read: name and least length by number.
#[derive(Debug, Default)]
pub struct Expected(BTreeMap<u32, (u64, u64)>);

impl Expected {
    /// Those that the index knows of.
    pub fn of_index(names: &[u64]) -> Self {
        let names = names.iter().filter(|name| is_name(**name));
        Self(names.map(|name| (number(*name), (*name, 0))).collect())
    }

    /// A segment begins, and says what there is beside it.
    pub fn begins(&mut self, segment: u64, list: &[u8]) {
        if !list.is_empty() {
            self.0 = decode(list).map(|(name, length)| (number(name), (name, length))).collect();
        }
        self.0.insert(number(segment), (segment, 0));
    }

    /// Segments are removed because nothing in them counts any more.
    pub fn leave(&mut self, list: &[u8]) {
        for (name, _) in decode(list) {
            self.0.remove(&number(name));
        }
    }

    /// Whether a segment of this number should be there.
    pub fn contains(&self, number: u32) -> bool {
        self.0.contains_key(&number)
    }

    /// What is wrong with those that there are, by number with name and length: names, and what is wrong.
    pub fn compare(&self, there: &BTreeMap<u32, (u64, u64)>) -> Vec<(u64, Wrong)> {
        let mut wrong = Vec::new();
        for (number, (name, length)) in &self.0 {
            match there.get(number) {
                Some((found, actual)) if found == name => {
                    if actual < length {
                        wrong.push((*name, Wrong::Short { length: *length, actual: *actual }));
                    }
                }
                _ => wrong.push((*name, Wrong::Missing)),
            }
        }
        wrong
    }
}

/// What is wrong with a segment as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// It is not there.
    Missing,
    /// It was longer.
    Short {
        /// What was written to it at least.
        length: u64,
        /// What there is.
        actual: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u64) -> u64 {
        number << 32 | 7
    }

    #[test]
    fn what_was_given_back_is_not_missed() {
        let mut expected = Expected::of_index(&[name(1), name(2)]);
        expected.begins(name(4), &encode([(name(1), 100), (name(2), 200), (name(3), 300), (name(4), 0)]));
        expected.leave(&encode([(name(1), 0)]));
        let there = BTreeMap::from([(3, (name(3), 300)), (4, (name(4), 50))]);
        assert_eq!(expected.compare(&there), [(name(2), Wrong::Missing)]);
        assert!(expected.contains(2) && !expected.contains(1));
    }

    #[test]
    fn what_can_be_no_name_is_not_missed() {
        for nobody in [0, 7, u64::MAX, name(u64::from(u32::MAX)), name(1 << 31)] {
            let mut expected = Expected::of_index(&[nobody, name(1)]);
            assert!(expected.contains(1) && !expected.contains(number(nobody)), "{nobody:x}");
            expected.begins(name(2), &encode([(nobody, 100)]));
            assert_eq!(expected.compare(&BTreeMap::from([(2, (name(2), 64))])), [], "{nobody:x}");
        }
    }

    #[test]
    fn a_segment_cut_short_or_replaced_by_another_is_seen() {
        let mut expected = Expected::default();
        expected.begins(name(3), &encode([(name(1), 100), (name(2), 200), (name(3), 0)]));
        let there = BTreeMap::from([(1, (name(1) + 1, 100)), (2, (name(2), 199)), (3, (name(3), 0))]);
        let short = Wrong::Short { length: 200, actual: 199 };
        assert_eq!(expected.compare(&there), [(name(1), Wrong::Missing), (name(2), short)]);
    }

    #[test]
    fn a_segment_without_a_list_adds_itself() {
        let mut expected = Expected::default();
        expected.begins(name(1), &[]);
        expected.begins(name(2), &[]);
        assert!(expected.contains(1) && expected.contains(2));
        assert!(expected.compare(&BTreeMap::new()).len() == 2);
    }
}
