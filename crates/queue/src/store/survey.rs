//! Reads the segments of a log one after the other and says what is in them, as a start would understand it; changes
//! nothing.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::catalogue::{Location, Place, Position, number, units};
use super::files::{StoredFile, read_exact};
use super::large::Mention;
use super::missing::Expected;
use super::record::Kind;
use super::scan::{Bodies, Entry, Item, Scan, scan, whole_groups};

/// A message that is in the log and has not ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Logged {
    /// Where it is, with its newest state.
    pub location: Location,
    /// Whether its content, or for a large message what is said of its file, fits its checksum.
    pub is_readable: bool,
    /// Whether it only stands for a message whose content is lost.
    pub is_lost: bool,
    /// The first segment that a record of it was seen in.
    pub first: u32,
}

/// A part of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// It is no good record.
    Damaged {
        /// Where it begins.
        from: u64,
        /// Where it ends.
        to: u64,
    },
    /// It is the end of the log, left by a crash before anybody was told that it is durable: a start cuts it off.
    Unfinished {
        /// Where it begins.
        from: u64,
        /// Where it ends.
        to: u64,
    },
    /// The disk cannot read some of it.
    Unreadable,
}

/// What was read so far.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// The messages that are in the log.
    pub messages: BTreeMap<u64, Logged>,
    /// What is said of the files of large messages.
    pub mentions: HashMap<u64, Mention>,
    /// From here on [`Survey::touched`] is kept.
    pub behind: Option<Position>,
    /// Messages that the log says something of behind that place.
    pub touched: HashSet<u64>,
    /// The segments that there should be.
    pub expected: Expected,
    /// States of messages whose record comes later.
    states: HashMap<u64, (Place, u32)>,
}

impl Survey {
    /// Reads a segment, or what was added to it, in which everything was durable once.
    pub fn read(
        &mut self,
        name: u64,
        file: &dyn StoredFile,
        from: u64,
        length: u64,
        bodies: Bodies,
    ) -> Vec<Part> {
        let Scan { items, is_unreadable, .. } = scan(file, name, from, length, bodies);
        let mut parts = Vec::new();
        for item in items {
            self.take(name, file, item, &mut parts);
        }
        parts.extend(is_unreadable.then_some(Part::Unreadable));
        parts
    }

    /// Reads the newest segment, which may end with what a crash has left: only what is known to have been durable, and
    /// whole groups behind that, count.
    pub fn read_newest(&mut self, name: u64, file: &dyn StoredFile, length: u64) -> Vec<Part> {
        let Scan { items, synced, is_unreadable } = scan(file, name, 0, length, Bodies::Check);
        let durable = if is_unreadable { length } else { synced };
        let last = items.last().map_or(0, Item::to);
        let mut end = 0;
        let mut parts = Vec::new();
        let mut items = items.into_iter().peekable();
        while let Some(item) = items.next_if(|item| item.from() < durable) {
            end = item.to();
            self.take(name, file, item, &mut parts);
        }
        end = whole_groups(&mut items, end, |entry| self.apply(name, file, &entry));
        if end < last {
            parts.push(Part::Unfinished { from: end, to: last });
        }
        parts.extend(is_unreadable.then_some(Part::Unreadable));
        parts
    }

    fn take(&mut self, name: u64, file: &dyn StoredFile, item: Item, parts: &mut Vec<Part>) {
        match item {
            Item::Record(entry) => self.apply(name, file, &entry),
            Item::Gap { from, to } => parts.push(Part::Damaged { from, to }),
        }
    }

    fn apply(&mut self, name: u64, file: &dyn StoredFile, entry: &Entry) {
        let id = entry.header.id;
        let segment = number(name);
        if self.behind.is_some_and(|at| (segment, entry.offset) >= (number(at.segment), at.offset)) {
            self.touched.insert(id);
        }
        let place = Place::new(segment, entry.offset);
        let length = units(entry.header.record_length());
        match entry.header.kind {
            Some(Kind::Enqueue | Kind::Move) => self.apply_message(place, length, file, entry),
            Some(Kind::State) => match self.messages.get_mut(&id) {
                Some(logged) => logged.location.set_state(place, length),
                None => drop(self.states.insert(id, (place, length))),
            },
            Some(Kind::Delete) => {
                self.messages.remove(&id);
                self.states.remove(&id);
                self.mentions.remove(&id);
            }
            Some(Kind::Head) => self.expected.begins(entry.header.segment, &entry.meta),
            Some(Kind::Pad) => self.expected.leave(&entry.meta),
            None => {}
        }
    }

    fn apply_message(&mut self, place: Place, length: u32, file: &dyn StoredFile, entry: &Entry) {
        let header = &entry.header;
        let has_file = header.in_file && !header.is_lost;
        let mention = if has_file { read_mention(file, entry) } else { None };
        let is_readable = entry.body_fits && (mention.is_some() || !has_file);
        if let Some(logged) = self.messages.get_mut(&header.id) {
            // What stands for a message that was lost does not replace the message, when that is back.
            let is_worse = header.is_lost && header.origin != logged.location.origin;
            // A copy that did not arrive does not replace the good one.
            if is_readable && !is_worse {
                logged.location.place = place;
                logged.location.length = length;
                logged.is_readable = true;
                logged.is_lost = header.is_lost;
                self.mentions.extend(mention.map(|mention| (header.id, mention)));
            }
            return;
        }
        let mut location = Location::new(place, length, header.origin, header.in_file);
        if let Some((place, length)) = self.states.remove(&header.id) {
            location.set_state(place, length);
        }
        self.mentions.extend(mention.map(|mention| (header.id, mention)));
        let logged = Logged { location, is_readable, is_lost: header.is_lost, first: place.segment };
        self.messages.insert(header.id, logged);
    }
}

/// What a record says of the file of its message. `None`: it is damaged.
pub(super) fn read_mention(file: &dyn StoredFile, entry: &Entry) -> Option<Mention> {
    let header = &entry.header;
    let mut body = vec![0; header.body_length as usize];
    let read = read_exact(file, &mut body, entry.offset + header.body_offset());
    // The scan has found the record within the file, so it is the disk that fails.
    if read.is_err() || crc32c::crc32c(&body) != header.body_crc {
        return None;
    }
    Mention::split(&body).map(|(_, mention)| mention)
}
