//! What is where: the messages by id, the segments, and what the index does not know yet. In memory only; the log is
//! the truth and this is what it says.

use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;
use std::time::Instant;

use super::record::{ALIGNMENT, Kind};
use crate::ascending::AscendingMap;

/// The place of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Number of the segment.
    pub segment: u32,
    /// Offset in it, in units of [`ALIGNMENT`].
    pub unit: u32,
}

impl Place {
    /// A place by its offset in octets. Segments are far shorter than 2^36 octets.
    pub fn new(segment: u32, offset: u64) -> Self {
        Self { segment, unit: units(offset) }
    }

    /// The offset in octets.
    pub fn offset(self) -> u64 {
        u64::from(self.unit) * ALIGNMENT
    }
}

/// Lengths and offsets in units of [`ALIGNMENT`].
pub fn units(octets: u64) -> u32 {
    u32::try_from(octets / ALIGNMENT).unwrap_or(u32::MAX)
}

/// Where a message is. There is one for every message in the queue: every octet counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// Its `Enqueue` or `Move` record.
    pub place: Place,
    /// Length of that record, in units.
    pub length: u32,
    /// The segment that first held it.
    pub origin: u32,
    /// Its newest state. Segment 0: none.
    state: Place,
    /// Length of the state's record in units, as far as it fits; for the accounts only.
    state_length: u16,
    /// Whether the content is in a file of its own.
    pub in_file: bool,
    /// Whether the index may have a row of it.
    pub indexed: bool,
}

impl Location {
    /// A message without a state.
    pub fn new(place: Place, length: u32, origin: u32, in_file: bool) -> Self {
        let state = Place { segment: 0, unit: 0 };
        Self { place, length, origin, state, state_length: 0, in_file, indexed: false }
    }

    /// The place of its newest state.
    pub fn state(&self) -> Option<Place> {
        (self.state.segment != 0).then_some(self.state)
    }

    /// Length of the state's record in units, at most 65535.
    pub fn state_length(&self) -> u32 {
        u32::from(self.state_length)
    }

    /// Its newest state is nowhere in the log.
    pub fn forget_state(&mut self) {
        self.state = Place { segment: 0, unit: 0 };
        self.state_length = 0;
    }

    /// Says where its newest state is.
    pub fn set_state(&mut self, place: Place, length: u32) {
        self.state = place;
        self.state_length = u16::try_from(length).unwrap_or(u16::MAX);
    }
}

/// A segment of the log.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Number in the upper half, salt in the lower.
    pub name: u64,
    /// Octets in it.
    pub length: u64,
    /// Messages that are in it.
    pub messages: u32,
    /// Newest states of messages that are in it.
    pub states: u32,
    /// Units of both.
    pub live: u64,
    /// Since when nothing is appended to it.
    pub sealed: Instant,
    /// Whether there is something in it that cannot be read: it is never removed.
    pub damaged: bool,
    /// Whether the log says that it is being removed.
    pub leaving: bool,
    /// A message that is in the queue again under its id (`queue import` of what was dropped), while its former end stands
    /// in this segment. Nothing can take the place of that end until the message ends once more: a copy of it would end the
    /// message. Until then the segment is kept.
    pub pinned_by: Option<u64>,
}

impl Segment {
    /// An empty segment.
    pub fn new(name: u64, length: u64, now: Instant) -> Self {
        Self {
            name,
            length,
            messages: 0,
            states: 0,
            live: 0,
            sealed: now,
            damaged: false,
            leaving: false,
            pinned_by: None,
        }
    }

    /// Octets of messages and states that count.
    pub fn live_octets(&self) -> u64 {
        self.live * ALIGNMENT
    }
}

/// The number in a segment's name.
pub fn number(name: u64) -> u32 {
    (name >> 32) as u32
}

/// Whether a segment can have this name. Numbers that no spool reaches are none: there must be room behind the last.
pub fn is_name(name: u64) -> bool {
    (1..=u32::MAX / 2).contains(&number(name))
}

/// How far the log is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Name of the segment.
    pub segment: u64,
    /// Offset in it.
    pub offset: u64,
}

/// A record that has become durable.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    /// What it says.
    pub kind: Kind,
    /// The message.
    pub id: u64,
    /// Where it is.
    pub place: Place,
    /// How long, in units.
    pub length: u32,
    /// The segment that first held the message.
    pub origin: u32,
    /// Whether the content is in a file of its own.
    pub in_file: bool,
}

/// What is wrong with the row of a message in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFault {
    /// Its checksum does not fit.
    Damaged,
    /// There is none.
    Missing,
    /// There is one, and no such message.
    Ended,
    /// It names another place.
    Misplaced,
}

/// See the module.
#[derive(Debug)]
pub struct Catalogue {
    messages: AscendingMap<u64, Location>,
    /// By number.
    pub segments: BTreeMap<u32, Segment>,
    /// The segment that is written to.
    pub head: Option<u32>,
    /// The name of one that is being made: there may be a file already, which may take the disk a while.
    pub beginning: Option<u64>,
    /// How far the log is durable.
    pub position: Position,
    /// Ids whose row in the index is missing, old, or no longer wanted. `None`: there is no index.
    pub unindexed: Option<HashSet<u64>>,
    /// The segment up to which the index is complete: it and those behind it are needed to bring the index up to date.
    pub indexed_to: Option<u32>,
    /// Messages that have ended and had a file of their own, which can be removed now.
    pub ended_files: Vec<u64>,
}

impl Catalogue {
    /// Of what was found in the log.
    pub fn new(
        messages: AscendingMap<u64, Location>,
        mut segments: BTreeMap<u32, Segment>,
        position: Position,
        unindexed: HashSet<u64>,
    ) -> Self {
        for location in messages.values() {
            if let Some(segment) = segments.get_mut(&location.place.segment) {
                segment.messages += 1;
                segment.live += u64::from(location.length);
            }
            let state = location.state().and_then(|place| segments.get_mut(&place.segment));
            if let Some(segment) = state {
                segment.states += 1;
                segment.live += u64::from(location.state_length());
            }
        }
        Self {
            messages,
            segments,
            head: None,
            beginning: None,
            position,
            unindexed: Some(unindexed),
            indexed_to: None,
            ended_files: Vec::new(),
        }
    }

    /// Where a message is.
    pub fn location(&self, id: u64) -> Option<&Location> {
        self.messages.get(&id)
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether a segment other than `but` still holds a record of a message that was first in `origin` and last in
    /// `target`: as long as one does, its `Delete` must be kept, or the message would come back.
    pub fn may_return(&self, origin: u32, target: u32, but: u32) -> bool {
        origin <= target && self.segments.range(origin..=target).any(|(number, _)| *number != but)
    }

    /// Says which message a segment is kept for, beside what is in it.
    pub fn pin(&mut self, segment: u32, id: Option<u64>) {
        if let Some(segment) = self.segments.get_mut(&segment) {
            segment.pinned_by = id;
        }
    }

    /// Whether the message that a segment is kept for has not ended yet.
    pub fn is_pinned(&self, segment: &Segment) -> bool {
        segment.pinned_by.is_some_and(|id| self.location(id).is_some())
    }

    /// Names and lengths of the segments that should be there after a restart.
    pub fn list(&self) -> impl Iterator<Item = (u64, u64)> {
        // One that was only begun is given up without a word when the first write to it fails.
        let stays = |segment: &&Segment| !segment.leaving && segment.length > 0;
        self.segments.values().filter(stays).map(|segment| (segment.name, segment.length))
    }

    /// Takes note of a record that has become durable.
    pub fn apply(&mut self, written: Written) {
        match written.kind {
            Kind::Enqueue => self.enqueued(written),
            Kind::State => self.state_changed(written),
            Kind::Delete => self.deleted(written.id),
            Kind::Move => self.moved(written),
            Kind::Head | Kind::Pad => {}
        }
    }

    /// Takes the ids whose rows in the index are to be written, and how far the log is when they are.
    pub fn take_unindexed(&mut self) -> Option<(Vec<u64>, Position)> {
        let mut ids: Vec<u64> = std::mem::take(self.unindexed.as_mut()?).into_iter().collect();
        ids.sort_unstable();
        for id in &ids {
            if let Some(location) = self.messages.get_mut(id) {
                // From now on there may be a row, so a deletion must be told to the index.
                location.indexed = true;
            }
        }
        Some((ids, self.position))
    }

    /// Some messages with the places they are at, from an id on, in order.
    pub fn messages_from(&self, id: u64, count: usize) -> Vec<(u64, Location)> {
        self.messages.range_from(id).take(count).map(|(id, location)| (id, *location)).collect()
    }

    /// A message that a segment is needed for, and whether it is for its state alone.
    pub fn user_of(&self, segment: u32) -> Option<(u64, bool)> {
        let uses = |location: &Location| {
            let has_message = location.place.segment == segment;
            let has_state = location.state().is_some_and(|place| place.segment == segment);
            (has_message || has_state).then_some(!has_message)
        };
        self.messages.iter().find_map(|(id, location)| uses(location).map(|is_state| (id, is_state)))
    }

    /// How many messages have a row in the index that is missing or old.
    pub fn behind(&self) -> usize {
        self.unindexed.as_ref().map_or(self.messages.len(), HashSet::len)
    }

    /// Compares rows of the index, in order, with what is known. They are all that there are for these ids. Messages whose
    /// row is still to be written are passed over.
    pub fn row_faults(
        &self,
        ids: RangeInclusive<u64>,
        rows: &[(u64, Option<Location>)],
    ) -> Vec<(u64, RowFault)> {
        let Some(unindexed) = &self.unindexed else { return Vec::new() };
        let known = self.messages.range_from(*ids.start()).take_while(|(id, _)| ids.contains(id));
        let known = known.filter(|(_, location)| location.indexed);
        let mut rows = rows.iter().peekable();
        let mut faults = Vec::new();
        for (id, location) in known {
            while let Some((ended, _)) = rows.next_if(|(other, _)| *other < id) {
                faults.push((*ended, RowFault::Ended));
            }
            match rows.next_if(|(other, _)| *other == id) {
                None => faults.push((id, RowFault::Missing)),
                Some((_, None)) => faults.push((id, RowFault::Damaged)),
                Some((_, Some(row))) if row != location => faults.push((id, RowFault::Misplaced)),
                Some(_) => {}
            }
        }
        faults.extend(rows.map(|(id, _)| (*id, RowFault::Ended)));
        faults.retain(|(id, _)| !unindexed.contains(id));
        faults
    }

    /// A new index is begun: it has no rows yet.
    pub fn index_anew(&mut self) {
        self.unindexed = Some(self.messages.keys().collect());
        self.indexed_to = None;
    }

    /// There is no index any more.
    pub fn index_lost(&mut self) {
        self.unindexed = None;
        self.indexed_to = None;
    }

    fn enqueued(&mut self, written: Written) {
        let mut location = Location::new(written.place, written.length, written.origin, written.in_file);
        // It was there before, and the index has not been told of its end yet: there may be a row.
        location.indexed = self.unindexed.as_ref().is_some_and(|ids| ids.contains(&written.id));
        if let Some(former) = self.messages.insert(written.id, location) {
            self.forget(&former);
        }
        if let Some(segment) = self.segments.get_mut(&written.place.segment) {
            segment.messages += 1;
            segment.live += u64::from(written.length);
        }
        self.mark(written.id);
    }

    fn state_changed(&mut self, written: Written) {
        let Some(location) = self.messages.get_mut(&written.id) else { return };
        let former = *location;
        location.set_state(written.place, written.length);
        let length = location.state_length();
        self.forget_state(&former);
        if let Some(segment) = self.segments.get_mut(&written.place.segment) {
            segment.states += 1;
            segment.live += u64::from(length);
        }
        self.mark(written.id);
    }

    fn deleted(&mut self, id: u64) {
        let Some(location) = self.messages.remove(&id) else { return };
        self.forget(&location);
        if location.in_file {
            self.ended_files.push(id);
        }
        if location.indexed {
            self.mark(id);
        } else if let Some(ids) = &mut self.unindexed {
            ids.remove(&id);
        }
    }

    fn moved(&mut self, written: Written) {
        let Some(location) = self.messages.get_mut(&written.id) else { return };
        let former = *location;
        location.place = written.place;
        location.length = written.length;
        self.forget_message(&former);
        if let Some(segment) = self.segments.get_mut(&written.place.segment) {
            segment.messages += 1;
            segment.live += u64::from(written.length);
        }
        self.mark(written.id);
    }

    fn mark(&mut self, id: u64) {
        if let Some(ids) = &mut self.unindexed {
            ids.insert(id);
        }
    }

    fn forget(&mut self, location: &Location) {
        self.forget_message(location);
        self.forget_state(location);
    }

    fn forget_message(&mut self, location: &Location) {
        if let Some(segment) = self.segments.get_mut(&location.place.segment) {
            segment.messages = segment.messages.saturating_sub(1);
            segment.live = segment.live.saturating_sub(location.length.into());
        }
    }

    fn forget_state(&mut self, location: &Location) {
        let Some(place) = location.state() else { return };
        if let Some(segment) = self.segments.get_mut(&place.segment) {
            segment.states = segment.states.saturating_sub(1);
            segment.live = segment.live.saturating_sub(location.state_length().into());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn catalogue() -> Catalogue {
        let segments = (1..=3u32)
            .map(|number| (number, Segment::new(u64::from(number) << 32, 1600, Instant::now())))
            .collect();
        let position = Position { segment: 3 << 32, offset: 0 };
        Catalogue::new(AscendingMap::default(), segments, position, HashSet::new())
    }

    fn written(kind: Kind, id: u64, segment: u32) -> Written {
        Written { kind, id, place: Place::new(segment, 160), length: 10, origin: segment, in_file: false }
    }

    fn accounts(catalogue: &Catalogue) -> Vec<(u32, u32, u64)> {
        catalogue.segments.values().map(|s| (s.messages, s.states, s.live)).collect()
    }

    #[test]
    fn a_location_is_small() {
        assert!(size_of::<Location>() + size_of::<u64>() <= 40);
    }

    #[test]
    fn each_segment_knows_what_counts_in_it() {
        let mut catalogue = catalogue();
        catalogue.apply(written(Kind::Enqueue, 7, 1));
        catalogue.apply(written(Kind::State, 7, 2));
        assert_eq!(accounts(&catalogue), [(1, 0, 10), (0, 1, 10), (0, 0, 0)]);
        catalogue.apply(written(Kind::State, 7, 3));
        catalogue.apply(written(Kind::Move, 7, 3));
        assert_eq!(accounts(&catalogue), [(0, 0, 0), (0, 0, 0), (1, 1, 20)]);
        assert_eq!(catalogue.location(7).unwrap().origin, 1, "a move keeps the origin");
        catalogue.apply(written(Kind::Delete, 7, 3));
        assert_eq!(accounts(&catalogue), [(0, 0, 0); 3]);
    }

    #[test]
    fn what_comes_and_goes_between_two_rounds_never_reaches_the_index() {
        let mut catalogue = catalogue();
        catalogue.apply(written(Kind::Enqueue, 7, 1));
        catalogue.apply(written(Kind::Delete, 7, 1));
        assert!(catalogue.take_unindexed().unwrap().0.is_empty());
    }

    #[test]
    fn a_message_deleted_while_its_row_is_written_is_told_to_the_index_afterwards() {
        let mut catalogue = catalogue();
        catalogue.apply(written(Kind::Enqueue, 7, 1));
        assert_eq!(catalogue.take_unindexed().unwrap().0, [7]);
        catalogue.apply(written(Kind::Delete, 7, 1));
        assert_eq!(catalogue.take_unindexed().unwrap().0, [7]);
    }

    #[test]
    fn the_index_is_told_of_the_end_of_a_message_that_came_back_in_between() {
        let mut catalogue = catalogue();
        catalogue.apply(written(Kind::Enqueue, 7, 1));
        catalogue.take_unindexed().unwrap();
        for kind in [Kind::Delete, Kind::Enqueue, Kind::Delete] {
            catalogue.apply(written(kind, 7, 2));
        }
        assert_eq!(catalogue.take_unindexed().unwrap().0, [7]);
    }

    #[test]
    fn rows_that_do_not_fit_are_named() {
        let mut catalogue = catalogue();
        for id in [1, 3, 5, 7] {
            catalogue.apply(written(Kind::Enqueue, id, 1));
        }
        catalogue.take_unindexed().unwrap();
        let row = |id: u64| (id, catalogue.location(id).copied());
        let good = [row(1), row(3), row(5), row(7)];
        assert_eq!(catalogue.row_faults(0..=u64::MAX, &good), []);
        assert_eq!(catalogue.row_faults(4..=6, &good[2..3]), [], "the others are outside");
        let elsewhere = Location { origin: 9, ..*catalogue.location(5).unwrap() };
        let bad = [(0, None), row(1), (3, None), (5, Some(elsewhere)), (8, good[0].1)];
        let faults = [
            (0, RowFault::Ended),
            (3, RowFault::Damaged),
            (5, RowFault::Misplaced),
            (7, RowFault::Missing),
            (8, RowFault::Ended),
        ];
        assert_eq!(catalogue.row_faults(0..=u64::MAX, &bad), faults);
        // What is yet to be written is no fault.
        for id in [3, 5, 7] {
            catalogue.apply(written(Kind::State, id, 2));
        }
        assert_eq!(catalogue.row_faults(0..=u64::MAX, &bad), [faults[0], faults[4]]);
        catalogue.index_anew();
        assert_eq!(catalogue.behind(), 4);
        assert_eq!(catalogue.row_faults(0..=u64::MAX, &[]), []);
    }

    #[test]
    fn it_is_known_who_needs_a_segment() {
        let mut catalogue = catalogue();
        assert_eq!(catalogue.user_of(1), None);
        catalogue.apply(written(Kind::Enqueue, 7, 1));
        catalogue.apply(written(Kind::State, 7, 2));
        assert_eq!((catalogue.user_of(1), catalogue.user_of(2)), (Some((7, false)), Some((7, true))));
        assert_eq!(catalogue.messages_from(0, 5).len(), 1);
        assert_eq!(catalogue.messages_from(8, 5).len(), 0);
    }

    #[test]
    fn a_message_may_return_from_any_segment_it_was_in() {
        let mut catalogue = catalogue();
        assert!(!catalogue.may_return(2, 2, 2));
        assert!(catalogue.may_return(1, 3, 2));
        catalogue.segments.remove(&1);
        assert!(!catalogue.may_return(1, 2, 2));
    }
}
