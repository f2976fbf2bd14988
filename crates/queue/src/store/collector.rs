//! Gives room back: removes segments in which nothing counts any more, copies what is left out of those in which
//! little does, and removes the files of large messages that have ended. On its own thread, at a bounded rate.
//!
//! Three rules keep a removed segment from changing what the log says:
//! * a `Delete` is kept as long as any segment that held its message exists, or the message would come back; if the
//!   message is in the queue again it cannot be copied, and its segment is kept;
//! * the newest `State` of a message is kept as long as the message lives, or recipients would be sent it again;
//! * a segment with anything in it that cannot be read is never removed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::catalogue::{Catalogue, Place, Segment};
use super::committer::{Draft, Group, Purpose, is_out_of_space};
use super::files::{StoredFile, is_shortage, read_exact};
use super::job::Job;
use super::record::{Kind, Record};
use super::scan::{Bodies, Entry, Item, Scan, scan};
use super::{Inner, StoreError, large, missing, quarantine};
use crate::message::QueueId;

/// Copied in one group.
const COPY_OCTETS: u64 = 2 * 1024 * 1024;
/// A segment is copied out of when less than this share of it counts, in percent.
const LIVE_PERCENT: u64 = 30;
/// The same when an operator asks for room. A segment that was just copied has its head and deletions in it, which count
/// for nothing: without a limit each compaction would copy everything once more.
const LIVE_PERCENT_ON_DEMAND: u64 = 90;
/// How often the collector looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Wakes and stops the collector.
#[derive(Debug, Default)]
pub(super) struct Control {
    state: Mutex<State>,
    changed: Condvar,
    /// One pass at a time.
    pass: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    work: bool,
    closed: bool,
}

impl Control {
    /// There is something to remove.
    pub fn wake(&self) {
        self.state.lock().work = true;
        self.changed.notify_all();
    }

    /// Ends the thread, soon.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    pub fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Nothing is removed while this is held.
    pub fn hold(&self) -> MutexGuard<'_, ()> {
        self.pass.lock()
    }

    /// Waits until there is work or `time` has passed. Whether to go on.
    fn wait(&self, time: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.work && !state.closed {
            self.changed.wait_for(&mut state, time);
        }
        state.work = false;
        !state.closed
    }

    /// Waits for `time` unless the store is closed meanwhile.
    fn pause(&self, time: Duration) {
        let end = Instant::now() + time;
        let mut state = self.state.lock();
        while !state.closed && !self.changed.wait_until(&mut state, end).timed_out() {}
    }
}

/// Collects until the store is closed.
pub(super) fn run(inner: &Arc<Inner>) {
    while inner.collector.wait(INTERVAL) {
        collect(inner);
    }
}

/// Removes what can be removed now.
pub(super) fn collect(inner: &Arc<Inner>) {
    let _one_at_a_time = inner.collector.hold();
    remove_ended_files(inner);
    // Oldest first: a segment that was copied out of before a crash is gone before the deletions behind it are looked at.
    for (number, segment) in candidates(inner, worth_while(inner)) {
        if inner.collector.is_closed() {
            return;
        }
        if let Err(error) = remove_segment(inner, number, &segment) {
            tracing::warn!(segment = number, %error, "cannot remove a segment");
            return;
        }
    }
}

/// Removes and copies out of all segments from which room can be had, however little it is and however new they are.
pub(super) fn compact(inner: &Arc<Inner>, job: &mut Job<'_>) -> Result<(), StoreError> {
    let _one_at_a_time = inner.collector.hold();
    remove_ended_files(inner);
    let candidates =
        candidates(inner, |segment| segment.live_octets() * 100 < segment.length * LIVE_PERCENT_ON_DEMAND);
    job.stage("segments", candidates.len() as u64)?;
    for (number, segment) in candidates {
        if inner.collector.is_closed() {
            return Err(StoreError::Interrupted);
        }
        remove_segment(inner, number, &segment)?;
        job.advance(1)?;
    }
    Ok(())
}

/// Empties a damaged segment and removes it: what could not be read in it is given up.
pub(super) fn release(inner: &Arc<Inner>, number: u32) -> Result<(), StoreError> {
    let _one_at_a_time = inner.collector.hold();
    let refused = |text: &str| Err(StoreError::Refused(format!("segment {number}: {text}")));
    let (segment, is_head, is_indexed) = {
        let catalogue = inner.catalogue.lock();
        let Some(segment) = catalogue.segments.get(&number) else { return Ok(()) };
        let is_indexed = catalogue.indexed_to.is_none_or(|to| number < to);
        (segment.clone(), catalogue.head == Some(number), is_indexed)
    };
    if is_head {
        return refused("it is still written to; ask again when a newer one was begun, or after a restart");
    }
    if !is_indexed {
        return refused("the index does not know yet what is in it; ask again in a moment");
    }
    let file = inner.open_segment(segment.name)?;
    let found = scan(&*file, segment.name, 0, segment.length, Bodies::Skip);
    if let Some(id) = pin(inner, number, &found) {
        return refused_as_pinned(number, id);
    }
    let mut copier = Copier::new(inner, number, &*file);
    for item in &found.items {
        let entry = match item {
            Item::Record(entry) => entry,
            Item::Gap { from, to } => {
                quarantine::set_aside(&inner.layout, &*inner.files, segment.name, &*file, *from, *to)?;
                continue;
            }
        };
        if !copier.copy(entry)? {
            let id = QueueId(entry.header.id);
            return refused(&format!(
                "it holds message {id}, whose content is damaged; end that first (`posternctl queue fail {id}`)"
            ));
        }
    }
    copier.flush()?;
    let (user, pinned_by) = {
        let catalogue = inner.catalogue.lock();
        (catalogue.user_of(number), catalogue.segments.get(&number).and_then(|segment| segment.pinned_by))
    };
    if let Some(id) = pinned_by {
        return refused_as_pinned(number, id);
    }
    match user {
        None => remove_emptied(inner, number, &segment),
        Some((id, true)) => refused(&format!(
            "the state of message {0} is in its damaged part; holding and releasing the message writes it anew \
             (`posternctl queue hold {0}`, `posternctl queue release {0}`)",
            QueueId(id)
        )),
        Some((id, false)) => refused(&format!(
            "message {0} is in its damaged part; end that first (`posternctl queue fail {0}`)",
            QueueId(id)
        )),
    }
}

fn remove_ended_files(inner: &Inner) {
    let ended = std::mem::take(&mut inner.catalogue.lock().ended_files);
    for id in ended {
        let path = inner.layout.big.join(large::name(id));
        if let Err(error) = inner.files.remove(&path) {
            // It is removed at the next start.
            tracing::warn!(path = %path.display(), %error, "cannot remove the file of a message that has ended");
        }
    }
}

/// Sealed segments that may be removed.
fn sound(catalogue: &Catalogue) -> impl Iterator<Item = (&u32, &Segment)> {
    let head = catalogue.head.unwrap_or(0);
    catalogue.segments.range(..head).filter(|(_, segment)| !segment.damaged)
}

/// Whether it is worth the work to copy out of a segment.
fn worth_while(inner: &Inner) -> impl Fn(&Segment) -> bool {
    let catalogue = inner.catalogue.lock();
    let live: u64 = sound(&catalogue).map(|(_, segment)| segment.live_octets()).sum();
    let used: u64 = sound(&catalogue).map(|(_, segment)| segment.length).sum();
    let tuning = inner.tuning.clone();
    let pressure = inner.pressure.load(std::sync::atomic::Ordering::Relaxed);
    let compact = pressure || used.saturating_sub(live) > tuning.dead_octets.max(live);
    move |segment| {
        let nearly_dead = segment.live_octets() * 100 < segment.length * LIVE_PERCENT;
        let settled = pressure || segment.sealed.elapsed() >= tuning.compaction_age;
        nearly_dead && (segment.messages == 0 || (compact && settled))
    }
}

/// The segments to remove, oldest first: those that are not used, and those that are `wanted`.
fn candidates(inner: &Inner, wanted: impl Fn(&Segment) -> bool) -> Vec<(u32, Segment)> {
    let catalogue = inner.catalogue.lock();
    let Some(head) = catalogue.head else { return Vec::new() };
    // What the index does not know yet is read from the segments at the next start.
    let end = catalogue.indexed_to.map_or(head, |number| number.min(head));
    let unused = |segment: &Segment| segment.messages == 0 && segment.states == 0;
    sound(&catalogue)
        .filter(|(number, segment)| **number < end && !catalogue.is_pinned(segment))
        .filter(|(_, segment)| unused(segment) || wanted(segment))
        .map(|(number, segment)| (*number, segment.clone()))
        .collect()
}

/// Copies what counts out of a segment and removes it. One that cannot be read is kept, and the others do not wait for it:
/// an error is one of writing, or a shortage that passes.
fn remove_segment(inner: &Arc<Inner>, number: u32, segment: &Segment) -> Result<(), StoreError> {
    let file = match inner.open_segment(segment.name) {
        Err(StoreError::Io { source, .. }) if !is_shortage(&source) => {
            tracing::error!(segment = number, error = %source, "cannot open a segment");
            keep_damaged(inner, number);
            return Ok(());
        }
        result => result?,
    };
    let found = scan(&*file, segment.name, 0, segment.length, Bodies::Skip);
    if !found.is_sound() {
        keep_damaged(inner, number);
        return Ok(());
    }
    if pin(inner, number, &found).is_some() {
        return Ok(());
    }
    let mut copier = Copier::new(inner, number, &*file);
    for item in &found.items {
        let Item::Record(entry) = item else { continue };
        if !copier.copy(entry)? {
            keep_damaged(inner, number);
            return Ok(());
        }
    }
    copier.flush()?;

    // A message may have come back meanwhile, and ended again: the pin says so in both cases.
    let is_used = |s: &Segment| s.messages > 0 || s.states > 0 || s.pinned_by.is_some();
    let still_used = inner.catalogue.lock().segments.get(&number).is_some_and(is_used);
    if still_used || inner.collector.is_closed() {
        return Ok(());
    }
    remove_emptied(inner, number, segment)
}

/// Pins a segment that holds the former end of a message that is in the queue again, if the message's former record
/// exists: it would come back when the message has ended once more.
fn pin(inner: &Inner, number: u32, found: &Scan) -> Option<u64> {
    let needed_by = found.items.iter().find_map(|item| {
        let Item::Record(Entry { header, .. }) = item else { return None };
        if header.kind != Some(Kind::Delete) {
            return None;
        }
        let catalogue = inner.catalogue.lock();
        let is_back = catalogue.location(header.id).is_some();
        (is_back && catalogue.may_return(header.origin, header.target, number)).then_some(header.id)
    });
    inner.catalogue.lock().pin(number, needed_by);
    needed_by
}

fn refused_as_pinned(number: u32, id: u64) -> Result<(), StoreError> {
    let id = QueueId(id);
    Err(StoreError::Refused(format!(
        "segment {number}: it remembers the former end of message {id}, which is in the queue again; ask again when that has \
         ended"
    )))
}

/// Removes a segment in which nothing counts any more.
fn remove_emptied(inner: &Inner, number: u32, segment: &Segment) -> Result<(), StoreError> {
    let is_announced = announce(inner, number, segment.name)?;
    let path = inner.segment_path(segment.name);
    inner.files.remove(&path).map_err(|e| StoreError::io("removing", &path, e))?;
    // Deletions that pointed here are forgotten only when it cannot come back.
    inner
        .files
        .sync_directory(&inner.layout.log)
        .map_err(|e| StoreError::io("syncing", &inner.layout.log, e))?;
    inner.segments.forget(segment.name);
    inner.catalogue.lock().segments.remove(&number);
    if !is_announced && let Err(error) = note_leaving(inner, segment.name) {
        tracing::warn!(segment = number, %error, "a segment that was removed could not be noted: a start may miss it");
    }
    tracing::debug!(segment = number, "removed a segment");
    Ok(())
}

/// Writes down that a segment goes, so that the next start does not miss it. False: there is no room for that before it is
/// gone. On a disk that is full to the last block room matters more than a false alarm after a crash just then.
fn announce(inner: &Inner, number: u32, name: u64) -> Result<bool, StoreError> {
    let set_leaving = |leaving| {
        if let Some(segment) = inner.catalogue.lock().segments.get_mut(&number) {
            segment.leaving = leaving;
        }
    };
    set_leaving(true);
    match note_leaving(inner, name) {
        Ok(()) => Ok(true),
        Err(error) if is_out_of_space(&error) => Ok(false),
        Err(error) => {
            set_leaving(false);
            Err(StoreError::Io {
                what: "noting that a segment goes".into(),
                source: std::io::Error::other(error),
            })
        }
    }
}

fn note_leaving(inner: &Inner, name: u64) -> Result<(), Arc<StoreError>> {
    let record = Record::new(Kind::Pad, 0, &missing::encode([(name, 0)]), Vec::new());
    write(inner, vec![Draft { record: record.map_err(StoreError::from)?, purpose: Purpose::Change }])
}

/// Waits until records are durable.
fn write(inner: &Inner, drafts: Vec<Draft>) -> Result<(), Arc<StoreError>> {
    let (sender, receiver) = sync_channel(1);
    let done = Box::new(move |result: Result<(), Arc<StoreError>>| {
        let _ = sender.send(result);
    });
    inner.waiting.push(Group { drafts, files: Vec::new(), done });
    receiver.recv().unwrap_or_else(|_| Err(Arc::new(StoreError::Closed)))
}

fn keep_damaged(inner: &Inner, number: u32) {
    tracing::error!(segment = number, "a segment of the spool is damaged: it is kept");
    if let Some(segment) = inner.catalogue.lock().segments.get_mut(&number) {
        segment.damaged = true;
    }
}

/// Copies records out of a segment to the end of the log.
struct Copier<'a> {
    inner: &'a Arc<Inner>,
    number: u32,
    file: &'a dyn StoredFile,
    drafts: Vec<Draft>,
    octets: u64,
    /// Deletions are written twice; one of them is enough to copy. A message that came back has several ends.
    deletions: BTreeSet<(u64, u32, u32)>,
}

impl<'a> Copier<'a> {
    fn new(inner: &'a Arc<Inner>, number: u32, file: &'a dyn StoredFile) -> Self {
        Self { inner, number, file, drafts: Vec::new(), octets: 0, deletions: BTreeSet::new() }
    }

    /// Copies the record if it still counts. False: it is damaged.
    fn copy(&mut self, entry: &Entry) -> Result<bool, StoreError> {
        let here = Place::new(self.number, entry.offset);
        let header = &entry.header;
        match header.kind {
            Some(Kind::Delete) => self.copy_deletion(entry)?,
            Some(Kind::State) => {
                let counts =
                    self.inner.catalogue.lock().location(header.id).and_then(|l| l.state()) == Some(here);
                if counts {
                    let record = Record::new(Kind::State, header.id, &entry.meta, Vec::new())?;
                    self.add(record, Purpose::Copy { from: here, origin: header.origin })?;
                }
            }
            Some(Kind::Enqueue | Kind::Move) => {
                let location = self.inner.catalogue.lock().location(header.id).copied();
                let Some(location) = location.filter(|l| l.place == here) else { return Ok(true) };
                return self.copy_message(entry, Purpose::Copy { from: here, origin: location.origin });
            }
            Some(Kind::Head | Kind::Pad) | None => {}
        }
        Ok(true)
    }

    fn copy_deletion(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let header = &entry.header;
        let (origin, target) = (header.origin, header.target);
        let from = self.number;
        if self.deletions.contains(&(header.id, origin, target))
            || !self.inner.catalogue.lock().may_return(origin, target, from)
        {
            return Ok(());
        }
        self.deletions.insert((header.id, origin, target));
        for _ in 0..super::DELETIONS {
            let record = Record::new(Kind::Delete, header.id, &[], Vec::new())?;
            self.add(record, Purpose::Deletion { origin, target, from })?;
        }
        Ok(())
    }

    fn copy_message(&mut self, entry: &Entry, purpose: Purpose) -> Result<bool, StoreError> {
        let header = &entry.header;
        let mut body = vec![0; header.body_length as usize];
        if let Err(error) = read_exact(self.file, &mut body, entry.offset + header.body_offset()) {
            tracing::error!(segment = self.number, %error, "cannot read a message");
            return Ok(false);
        }
        if crc32c::crc32c(&body) != header.body_crc {
            return Ok(false);
        }
        let mut record = Record::new(Kind::Move, header.id, &entry.meta, vec![Bytes::from(body)])?;
        if header.in_file {
            record = if header.is_lost { record.lost() } else { record.in_file() };
        }
        self.add(record, purpose)?;
        Ok(true)
    }

    fn add(&mut self, record: Record, purpose: Purpose) -> Result<(), StoreError> {
        self.octets += record.length();
        self.drafts.push(Draft { record, purpose });
        if self.octets >= COPY_OCTETS { self.flush() } else { Ok(()) }
    }

    /// Makes the copies durable, then waits as long as the rate asks for.
    fn flush(&mut self) -> Result<(), StoreError> {
        if self.drafts.is_empty() {
            return Ok(());
        }
        let octets = std::mem::take(&mut self.octets);
        write(self.inner, std::mem::take(&mut self.drafts)).map_err(|error| {
            let source = std::io::Error::other(error);
            StoreError::Io { what: "copying records".into(), source }
        })?;
        if !self.inner.pressure.load(std::sync::atomic::Ordering::Relaxed) {
            let rate = self.inner.tuning.copy_rate.max(1);
            self.inner.collector.pause(Duration::from_secs_f64(octets as f64 / rate as f64));
        }
        Ok(())
    }
}
