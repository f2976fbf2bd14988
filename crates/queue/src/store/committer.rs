//! The one thread that writes the log: what waits goes out in one write with one `fdatasync`, and while that runs the
//! next batch gathers by itself.
//!
//! New mail never waits for anything else. What becomes of mail does ([`Tuning::linger`](super::Tuning::linger)): nobody
//! is kept waiting by it, and a batch of its own costs a sync and a page of the disk for a hundred octets. It goes out with
//! the next new mail, when somebody wants it to, or after that time.
//!
//! When a write fails nobody can say what of it is on the disk. So all who waited for it are refused, the segment is
//! cut back to what was durable before and never written again, and nothing more is acknowledged until the cut is made:
//! what was refused cannot come back at a restart.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::catalogue::{Catalogue, Place, Position, Segment, Written, units};
use super::files::{Access, StoredFile, write_all};
use super::meter::Meter;
use super::record::{HEADER, Kind, Record, Seal};
use super::{Done, FinishedBody, Inner, StoreError, missing};

/// One batch is at most this large, so that the first in it does not wait long for the last.
const BATCH_OCTETS: u64 = 8 * 1024 * 1024;
/// And has at most this many records.
const BATCH_RECORDS: usize = 1024;
/// The least that the system writes: of a page that a batch ends in, the next one writes all once more.
const PAGE: u64 = 4096;
/// The rest of a batch's last page is filled if that makes the batch longer by at most this part of it: a little more log
/// for a page that is not written twice.
const PADDING: u64 = 8;

/// What a record is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A change that somebody wants.
    Change,
    /// A copy out of a segment that is to be removed. Left out if the original no longer counts when it would be written.
    Copy { from: Place, origin: u32 },
    /// A copy of a deletion that must be remembered longer than its segment, `from`.
    Deletion { origin: u32, target: u32, from: u32 },
}

/// A record on its way.
#[derive(Debug)]
pub(super) struct Draft {
    pub record: Record,
    pub purpose: Purpose,
}

/// Records that become durable together or not at all.
pub(super) struct Group {
    pub drafts: Vec<Draft>,
    pub files: Vec<FinishedBody>,
    pub done: Done,
}

impl Group {
    fn octets(&self) -> u64 {
        self.drafts.iter().map(|draft| draft.record.length()).sum()
    }

    fn is_copy(&self) -> bool {
        self.drafts.first().is_some_and(|draft| draft.purpose != Purpose::Change)
    }

    /// New mail is refused first when the disk is full: everything else gives room back or spares a second delivery.
    fn is_new_mail(&self) -> bool {
        self.drafts.iter().any(|draft| draft.record.kind == Kind::Enqueue)
    }

    /// Whether it tells only what became of messages: nobody is answered when it is durable. That it is lost in a crash
    /// costs a second delivery.
    fn may_linger(&self) -> bool {
        let tells_outcome = |draft: &Draft| {
            draft.purpose == Purpose::Change && matches!(draft.record.kind, Kind::State | Kind::Delete)
        };
        self.drafts.iter().all(tells_outcome)
    }

    fn complete(self, result: Result<(), Arc<StoreError>>) {
        if result.is_ok() {
            self.files.into_iter().for_each(FinishedBody::keep);
        }
        // Whatever the one who is told does, the others must be told too.
        if catch_unwind(AssertUnwindSafe(|| (self.done)(result))).is_err() {
            tracing::error!("a commit's completion panicked");
        }
    }
}

/// What waits for the committer.
pub(super) struct Waiting {
    groups: Mutex<Pending>,
    arrived: Condvar,
    octets: AtomicU64,
    /// For how long what may linger does.
    linger: Duration,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("octets", &self.octets).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Pending {
    groups: VecDeque<Group>,
    /// When they are written at the latest; none if nothing waits.
    due: Option<Instant>,
    closed: bool,
}

enum Next {
    Batch(Vec<Group>),
    Probe,
    Closed,
}

impl Waiting {
    pub fn new(linger: Duration) -> Self {
        Self { groups: Mutex::default(), arrived: Condvar::new(), octets: AtomicU64::new(0), linger }
    }

    /// Octets that wait or are being written.
    pub fn octets(&self) -> u64 {
        self.octets.load(Ordering::Relaxed)
    }

    /// Hands a group to the committer, or completes it with an error if there is none any more. Unless it may linger it is
    /// written at once, and what waits with it.
    pub fn push(&self, group: Group) {
        let due = Instant::now() + if group.may_linger() { self.linger } else { Duration::ZERO };
        let mut pending = self.groups.lock();
        if pending.closed {
            drop(pending);
            return group.complete(Err(Arc::new(StoreError::Closed)));
        }
        self.octets.fetch_add(group.octets(), Ordering::Relaxed);
        pending.groups.push_back(group);
        let is_sooner = pending.is_due_by(due);
        drop(pending);
        if is_sooner {
            self.arrived.notify_one();
        }
    }

    /// Has what waits written at once.
    pub fn hurry(&self) {
        let mut pending = self.groups.lock();
        if !pending.groups.is_empty() && pending.is_due_by(Instant::now()) {
            drop(pending);
            self.arrived.notify_one();
        }
    }

    /// Takes no more groups; those that wait are still written.
    pub fn close(&self) {
        self.groups.lock().closed = true;
        self.arrived.notify_all();
    }

    fn next(&self, probe_after: Option<Duration>) -> Next {
        let mut pending = self.groups.lock();
        loop {
            let due = pending.due;
            if due.is_some_and(|due| pending.closed || due <= Instant::now()) {
                return Next::Batch(pending.batch());
            }
            if pending.closed {
                return Next::Closed;
            }
            match due.or_else(|| probe_after.map(|time| Instant::now() + time)) {
                None => self.arrived.wait(&mut pending),
                Some(until) if !self.arrived.wait_until(&mut pending, until).timed_out() => {}
                Some(_) if pending.due.is_none() => return Next::Probe,
                Some(_) => {}
            }
        }
    }

    fn finished(&self, octets: u64) {
        self.octets.fetch_sub(octets, Ordering::Relaxed);
    }

    /// The committer has ended: nobody may wait for it.
    fn abandon(&self) {
        let left = {
            let mut pending = self.groups.lock();
            pending.closed = true;
            pending.due = None;
            std::mem::take(&mut pending.groups)
        };
        for group in left {
            self.finished(group.octets());
            group.complete(Err(Arc::new(StoreError::Closed)));
        }
    }
}

impl Pending {
    /// What waits is to be written at this time or before. Whether that is sooner than it would have been.
    fn is_due_by(&mut self, due: Instant) -> bool {
        let is_sooner = self.due.is_none_or(|before| due < before);
        if is_sooner {
            self.due = Some(due);
        }
        is_sooner
    }

    /// The groups at the front that fit one batch. Copies go alone: whether they still count is decided by the
    /// catalogue, which knows nothing of changes in the same batch.
    fn batch(&mut self) -> Vec<Group> {
        let mut batch: Vec<Group> = Vec::new();
        let (mut octets, mut records) = (0, 0);
        while let Some(group) = self.groups.front() {
            octets += group.octets();
            records += group.drafts.len();
            let fits = octets <= BATCH_OCTETS && records <= BATCH_RECORDS;
            let alike = batch.first().is_none_or(|first| first.is_copy() == group.is_copy());
            let room = batch.is_empty() || (fits && alike);
            if !room {
                break;
            }
            batch.extend(self.groups.pop_front());
        }
        // What did not fit has waited for this batch.
        self.due = (!self.groups.is_empty()).then(Instant::now);
        batch
    }
}

/// Ends the waiting of everybody when the committer thread ends, however it does.
struct Ending(Arc<Inner>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.waiting.abandon();
    }
}

/// The segment that is written to.
#[derive(Debug)]
struct Head {
    number: u32,
    name: u64,
    file: Arc<dyn StoredFile>,
    /// Where the next batch goes; everything before it is durable.
    offset: u64,
}

impl Head {
    /// The seal of a record that is a group by itself, of a message that was never elsewhere.
    fn alone(&self) -> Seal {
        Seal {
            segment: self.name,
            synced: self.offset,
            place: 0,
            continues: false,
            origin: self.number,
            target: self.number,
        }
    }
}

/// A segment that must be cut back before anything else is written.
#[derive(Debug)]
struct Spoilt {
    path: PathBuf,
    length: u64,
}

/// The committer.
#[derive(Debug)]
pub(super) struct Committer {
    inner: Arc<Inner>,
    head: Option<Head>,
    spoilt: Option<Spoilt>,
    next_number: u32,
    /// Whether the reserve is gone, or could not be made: no new mail until it is there.
    full: bool,
    unwell: bool,
    reserve_tried: Option<Instant>,
}

impl Committer {
    /// A committer that writes segments from `next_number` on. Tries at once to begin one; that this fails (a full
    /// disk) does not prevent the start: what is in the queue can be read and delivered.
    pub fn new(inner: Arc<Inner>, next_number: u32) -> Self {
        let mut committer = Self {
            inner,
            head: None,
            spoilt: None,
            next_number,
            full: true,
            unwell: false,
            reserve_tried: None,
        };
        committer.restore_reserve();
        committer.write_admitted(Vec::new());
        committer
    }

    /// Writes what comes until the store is closed.
    pub fn run(mut self) {
        let ending = Ending(Arc::clone(&self.inner));
        loop {
            let doubtful = self.unwell || self.full;
            match self.inner.waiting.next(doubtful.then_some(self.inner.tuning.probe_interval)) {
                Next::Batch(groups) => self.write(groups),
                Next::Probe => self.probe(),
                Next::Closed => break,
            }
        }
        self.finish();
        drop(ending);
    }

    fn write(&mut self, groups: Vec<Group>) {
        let octets = groups.iter().map(Group::octets).sum();
        let spoilt = self.spoilt_path();
        let groups = self.refuse_while_full(groups, &spoilt);
        if !groups.is_empty() {
            self.write_admitted(groups);
        }
        self.inner.waiting.finished(octets);
    }

    fn write_admitted(&mut self, mut groups: Vec<Group>) {
        let spoilt_before = self.spoilt_path();
        let mut result = self.append(&mut groups);
        if result.as_ref().is_err_and(is_out_of_space) {
            self.release_reserve();
            groups = self.refuse_while_full(groups, &spoilt_before);
            if groups.is_empty() {
                self.unwell = true;
                return;
            }
            result = self.append(&mut groups);
        }
        match result {
            Ok(()) => {
                self.succeeded();
                groups.into_iter().for_each(|group| group.complete(Ok(())));
            }
            Err(error) => {
                self.failed(&error);
                self.refuse(groups, &spoilt_before, &Arc::new(error));
            }
        }
    }

    /// The segment that must be cut back.
    fn spoilt_path(&self) -> Option<PathBuf> {
        self.spoilt.as_ref().map(|spoilt| spoilt.path.clone())
    }

    /// Refuses groups; `spoilt_before` is the segment that had to be cut back before anything of them was written.
    fn refuse(&self, groups: Vec<Group>, spoilt_before: &Option<PathBuf>, error: &Arc<StoreError>) {
        let in_doubt = self.spoilt.is_some() && self.spoilt_path() != *spoilt_before;
        for mut group in groups {
            if in_doubt {
                // The record may still be there after a restart: then its file must be there too. If it is not, the
                // file is removed then.
                group.files.drain(..).for_each(FinishedBody::keep);
            }
            group.complete(Err(Arc::clone(error)));
        }
    }

    /// Without the reserve new mail is refused; gives back the rest.
    fn refuse_while_full(&mut self, groups: Vec<Group>, spoilt_before: &Option<PathBuf>) -> Vec<Group> {
        if !self.full || !groups.iter().any(Group::is_new_mail) {
            return groups;
        }
        self.restore_reserve();
        if !self.full {
            return groups;
        }
        let (refused, admitted) = groups.into_iter().partition(Group::is_new_mail);
        let source = io::Error::from(io::ErrorKind::StorageFull);
        self.refuse(
            refused,
            spoilt_before,
            &Arc::new(StoreError::Io { what: "writing the spool".into(), source }),
        );
        admitted
    }

    /// Appends the groups as one batch and makes it durable. With no groups it still begins a segment if there is none.
    fn append(&mut self, groups: &mut [Group]) -> Result<(), StoreError> {
        self.repair()?;
        let inner = Arc::clone(&self.inner);
        let octets = groups.iter().map(Group::octets).sum();
        let head = self.head_for(octets)?;
        let mut beginning = match head.offset {
            0 => {
                let list = missing::encode(inner.catalogue.lock().list());
                Some(Record::new(Kind::Head, inner.last_id.load(Ordering::SeqCst), &list, Vec::new())?)
            }
            _ => None,
        };
        if beginning.is_none() && octets == 0 {
            return Ok(());
        }
        let mut catalogue = inner.catalogue.lock();
        groups.iter_mut().for_each(|group| drop_stale_copies(group, &mut catalogue));
        let (written, mut length) = seal(head, &mut beginning, groups, &catalogue);
        drop(catalogue);
        let padding = match padding(head.offset + length, length, inner.segment_size) {
            0 => None,
            octets => Some(pad(head, octets)?),
        };
        length += padding.as_ref().map_or(0, Record::length);

        if let Err(source) = write_durably(head, &beginning, groups, &padding, &inner.meter) {
            let what = format!("writing segment {:016x}", head.name);
            self.abandon_head();
            return Err(StoreError::Io { what, source });
        }
        head.offset += length;
        inner.meter.batch(written.len() + usize::from(beginning.is_some()), length);

        catalogue = inner.catalogue.lock();
        catalogue.position = Position { segment: head.name, offset: head.offset };
        if let Some(segment) = catalogue.segments.get_mut(&head.number) {
            segment.length = head.offset;
        }
        written.into_iter().for_each(|record| catalogue.apply(record));
        let ended_files = !catalogue.ended_files.is_empty();
        drop(catalogue);
        if ended_files {
            inner.collector.wake();
        }
        Ok(())
    }

    /// The segment that the next batch goes to, a new one if it does not fit the present one.
    fn head_for(&mut self, octets: u64) -> Result<&mut Head, StoreError> {
        let fits = |head: &Head| head.offset == 0 || head.offset + octets <= self.inner.segment_size;
        if self.head.as_ref().is_some_and(|head| !fits(head)) {
            self.seal_head();
        }
        if self.head.is_none() {
            self.head = Some(self.begin_segment()?);
        }
        self.head.as_mut().ok_or(StoreError::Closed)
    }

    /// Everything in the head is durable already; what is left of the room reserved for it is given back.
    fn seal_head(&mut self) {
        let Some(head) = self.head.take() else { return };
        if let Err(error) = head.file.truncate(head.offset) {
            tracing::warn!(segment = head.number, %error, "cannot give back unused room of a segment");
        }
        let mut catalogue = self.inner.catalogue.lock();
        catalogue.head = None;
        if let Some(segment) = catalogue.segments.get_mut(&head.number) {
            segment.sealed = Instant::now();
        }
    }

    /// Makes a segment. Its name is durable before anything in it is acknowledged.
    fn begin_segment(&mut self) -> Result<Head, StoreError> {
        let number = self.next_number;
        self.next_number = number.checked_add(1).ok_or(StoreError::Closed)?;
        let name = u64::from(number) << 32 | u64::from(rand::random::<u32>());
        let path = self.inner.segment_path(name);
        // Before there is a file: nobody may take it for one that is none of ours.
        self.inner.catalogue.lock().beginning = Some(name);
        let file = match self.create(&path) {
            Ok(file) => file,
            Err(source) => {
                // Without its name being durable it may be there after a restart or not; empty, it does no harm.
                let _ = self.inner.files.remove(&path);
                self.inner.catalogue.lock().beginning = None;
                return Err(StoreError::io("creating", &path, source));
            }
        };
        self.inner.segments.insert(name, Arc::clone(&file));
        let mut catalogue = self.inner.catalogue.lock();
        catalogue.segments.insert(number, Segment::new(name, 0, Instant::now()));
        catalogue.head = Some(number);
        catalogue.beginning = None;
        Ok(Head { number, name, file, offset: 0 })
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        let file = self.inner.files.open(path, Access::CreateNew)?;
        // Reserved room makes each fdatasync cheaper, and a full disk is noticed here rather than half-way.
        if !self.full {
            file.allocate(self.inner.segment_size)?;
        }
        self.inner.files.sync_directory(&self.inner.layout.log)?;
        Ok(file)
    }

    /// After a failed write: the head is never written to again, and what was not durable in it is cut off.
    fn abandon_head(&mut self) {
        let Some(head) = self.head.take() else { return };
        self.spoilt = Some(Spoilt { path: self.inner.segment_path(head.name), length: head.offset });
        self.inner.segments.forget(head.name);
        let mut catalogue = self.inner.catalogue.lock();
        catalogue.head = None;
        if head.offset == 0 {
            catalogue.segments.remove(&head.number);
        } else if let Some(segment) = catalogue.segments.get_mut(&head.number) {
            segment.sealed = Instant::now();
        }
        drop(catalogue);
        if let Err(error) = self.repair() {
            tracing::error!(%error, "cannot cut back a segment after a failed write: nothing is written until this succeeds");
        }
    }

    /// Cuts off what was not durable, through a new handle: success of the old one would mean nothing.
    fn repair(&mut self) -> Result<(), StoreError> {
        let Some(spoilt) = &self.spoilt else { return Ok(()) };
        let files = &self.inner.files;
        let result = if spoilt.length == 0 {
            match files.remove(&spoilt.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                result => result,
            }
            .and_then(|()| files.sync_directory(&self.inner.layout.log))
        } else {
            files.open(&spoilt.path, Access::Write).and_then(|file| {
                file.truncate(spoilt.length)?;
                file.sync()
            })
        };
        result.map_err(|e| StoreError::io("cutting back", &spoilt.path, e))?;
        self.spoilt = None;
        Ok(())
    }

    /// Nothing waits, and the last write failed or the disk was full: sees whether that has passed.
    fn probe(&mut self) {
        self.restore_reserve();
        if self.full && !self.unwell {
            return;
        }
        let Ok(record) = Record::new(Kind::Pad, 0, &[], Vec::new()) else { return };
        let draft = Draft { record, purpose: Purpose::Change };
        let group = Group { drafts: vec![draft], files: Vec::new(), done: Box::new(|_| {}) };
        self.write_admitted(vec![group]);
    }

    /// The last record says that everything before it is durable: damage found there later is damage, and is not taken
    /// for the end of a log cut short by a crash.
    fn finish(&mut self) {
        if self.head.as_ref().is_some_and(|head| head.offset > 0) {
            self.probe();
        }
        self.seal_head();
    }

    fn succeeded(&mut self) {
        if std::mem::take(&mut self.unwell) {
            tracing::info!("the spool can be written again");
        }
        if !self.full {
            *self.inner.health.lock() = None;
        }
    }

    fn failed(&mut self, error: &StoreError) {
        if !self.unwell {
            tracing::error!(%error, "the spool cannot be written");
        }
        self.unwell = true;
        *self.inner.health.lock() = Some(error.to_string());
    }

    /// Gives back the reserve, so that the ends of messages can be recorded on a full disk.
    fn release_reserve(&mut self) {
        tracing::error!("no space left on the spool's file system: new mail is refused");
        self.full = true;
        self.reserve_tried = Some(Instant::now());
        self.inner.pressure.store(true, Ordering::Relaxed);
        *self.inner.health.lock() = Some(self.no_space());
        if let Err(error) = self.inner.files.remove(&self.inner.reserve_path()) {
            tracing::warn!(%error, "cannot remove the spool's reserve");
        }
    }

    /// Makes the reserve again if there is room for it and for a segment.
    fn restore_reserve(&mut self) {
        let tried = self.reserve_tried.is_some_and(|at| at.elapsed() < self.inner.tuning.probe_interval);
        if !self.full || tried {
            return;
        }
        self.reserve_tried = Some(Instant::now());
        match self.allocate_reserve() {
            Ok(()) => {
                self.full = false;
                self.inner.pressure.store(false, Ordering::Relaxed);
            }
            Err(error) => {
                self.inner.pressure.store(true, Ordering::Relaxed);
                let why = match error.kind() {
                    io::ErrorKind::StorageFull => self.no_space(),
                    _ => format!("the reserve of the spool cannot be made: {error}"),
                };
                *self.inner.health.lock() = Some(why);
            }
        }
    }

    /// How much is missing, and where. It may be far more than new mail wants: the log grows by whole segments.
    fn no_space(&self) -> String {
        let inner = &self.inner;
        let wanted = crate::rounded(inner.reserve_size() + inner.segment_size);
        let free = inner
            .files
            .space(&inner.layout.root)
            .map(|space| format!(", {} are", crate::rounded(space.free)));
        format!(
            "no space left: the next segment and the reserve want {wanted} free on the disk of {}{}. New mail gets 452. Make room there \
             (or make queue.segment_size smaller, which counts after a restart): nothing that was accepted is lost",
            inner.layout.root.display(),
            free.unwrap_or_default()
        )
    }

    fn allocate_reserve(&self) -> io::Result<()> {
        let inner = &self.inner;
        let size = inner.reserve_size();
        let path = inner.reserve_path();
        // One that is left from the last run still holds its room.
        if inner.files.open(&path, Access::Read).and_then(|file| file.length()).is_ok_and(|l| l == size) {
            return Ok(());
        }
        if inner.files.space(&inner.layout.root)?.free < size + inner.segment_size {
            return Err(io::ErrorKind::StorageFull.into());
        }
        inner.files.open(&path, Access::Replace)?.allocate(size)
    }
}

/// Leaves out copies whose original no longer counts: a copy behind a newer state or behind the message's end would
/// be believed.
fn drop_stale_copies(group: &mut Group, catalogue: &mut Catalogue) {
    group.drafts.retain(|draft| match draft.purpose {
        Purpose::Change => true,
        Purpose::Deletion { from, .. } => {
            let has_ended = catalogue.location(draft.record.id).is_none();
            if !has_ended {
                // It has come back under its id (`queue import` of what was dropped) and would end once more.
                catalogue.pin(from, Some(draft.record.id));
            }
            has_ended
        }
        Purpose::Copy { from, .. } => {
            let location = catalogue.location(draft.record.id);
            match draft.record.kind {
                Kind::State => location.and_then(|l| l.state()) == Some(from),
                _ => location.map(|l| l.place) == Some(from),
            }
        }
    });
}

/// Fills in the headers. Gives what will be durable when it is written, and its length.
fn seal(
    head: &Head,
    beginning: &mut Option<Record>,
    groups: &mut [Group],
    catalogue: &Catalogue,
) -> (Vec<Written>, u64) {
    let mut written = Vec::with_capacity(groups.iter().map(|group| group.drafts.len()).sum());
    let mut offset = head.offset;
    let alone = head.alone();
    if let Some(record) = beginning {
        record.seal(alone);
        offset += record.length();
    }
    for group in groups {
        let last = group.drafts.len().saturating_sub(1);
        for (place, draft) in group.drafts.iter_mut().enumerate() {
            let record = &mut draft.record;
            let (origin, target) = match (draft.purpose, record.kind) {
                (Purpose::Copy { origin, .. }, _) => (origin, head.number),
                (Purpose::Deletion { origin, target, .. }, _) => (origin, target),
                (Purpose::Change, Kind::Delete) => catalogue
                    .location(record.id)
                    .map_or((head.number, head.number), |l| (l.origin, l.place.segment)),
                (Purpose::Change, _) => (head.number, head.number),
            };
            let place = place as u32;
            record.seal(Seal { place, continues: place < last as u32, origin, target, ..alone });
            written.push(Written {
                kind: record.kind,
                id: record.id,
                place: Place::new(head.number, offset),
                length: units(record.length()),
                origin,
                in_file: record.in_file,
            });
            offset += record.length();
        }
    }
    (written, offset - head.offset)
}

/// Octets that a batch of this length with this end is followed by, up to the end of its last page. 0: they are too many,
/// too few for a record, or beyond the segment.
fn padding(end: u64, length: u64, segment_size: u64) -> u64 {
    let rest = end.next_multiple_of(PAGE) - end;
    let fits = rest >= HEADER as u64 && rest <= length / PADDING && end + rest <= segment_size;
    if fits { rest } else { 0 }
}

/// A record of so many octets, a header at least, that says nothing.
fn pad(head: &Head, octets: u64) -> Result<Record, StoreError> {
    static ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];
    let body = Bytes::from_static(&ZEROS[HEADER..octets as usize]);
    let mut record = Record::new(Kind::Pad, 0, &[], vec![body])?;
    record.seal(head.alone());
    Ok(record)
}

fn write_durably(
    head: &Head,
    beginning: &Option<Record>,
    groups: &[Group],
    padding: &Option<Record>,
    meter: &Meter,
) -> io::Result<()> {
    let records = groups.iter().flat_map(|group| group.drafts.iter().map(|draft| &draft.record));
    let mut slices: Vec<IoSlice<'_>> = beginning
        .iter()
        .chain(records)
        .chain(padding)
        .flat_map(Record::slices)
        .filter(|octets| !octets.is_empty())
        .map(IoSlice::new)
        .collect();
    if slices.is_empty() {
        return Ok(());
    }
    write_all(&*head.file, &mut slices, head.offset)?;
    meter.sync(|| head.file.sync())
}

/// Whether a write failed for want of room.
pub(super) fn is_out_of_space(error: &StoreError) -> bool {
    let StoreError::Io { source, .. } = error else { return false };
    matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::collections::{BTreeMap, HashSet};

    use super::*;
    use crate::ascending::AscendingMap;

    fn group(drafts: Vec<Draft>) -> Group {
        Group { drafts, files: Vec::new(), done: Box::new(|_| {}) }
    }

    fn draft(kind: Kind, id: u64, purpose: Purpose) -> Draft {
        Draft { record: Record::new(kind, id, &[], Vec::new()).unwrap(), purpose }
    }

    #[test]
    fn a_copy_of_what_has_changed_meanwhile_is_left_out() {
        let position = Position { segment: 0, offset: 0 };
        let mut catalogue =
            Catalogue::new(AscendingMap::default(), BTreeMap::new(), position, HashSet::new());
        for number in [5, 6] {
            let segment = Segment::new(u64::from(number) << 32, 1600, Instant::now());
            catalogue.segments.insert(number, segment);
        }
        let place = |unit| Place { segment: 1, unit };
        let mut note = |kind, id, unit| {
            catalogue.apply(Written { kind, id, place: place(unit), length: 4, origin: 1, in_file: false });
        };
        for id in 1..=3 {
            note(Kind::Enqueue, id, id as u32);
            note(Kind::State, id, 10 + id as u32);
        }
        note(Kind::State, 1, 21);
        note(Kind::Delete, 2, 22);
        let copy = |kind, id, unit| draft(kind, id, Purpose::Copy { from: place(unit), origin: 1 });
        let mut copies = group(vec![
            copy(Kind::Move, 1, 1),
            copy(Kind::State, 1, 11),
            copy(Kind::Move, 2, 2),
            copy(Kind::State, 2, 12),
            copy(Kind::Move, 3, 3),
            copy(Kind::State, 3, 13),
            draft(Kind::Delete, 9, Purpose::Deletion { origin: 1, target: 1, from: 5 }),
            draft(Kind::Delete, 3, Purpose::Deletion { origin: 1, target: 1, from: 6 }),
        ]);
        drop_stale_copies(&mut copies, &mut catalogue);
        let left: Vec<_> = copies.drafts.iter().map(|draft| (draft.record.kind, draft.record.id)).collect();
        assert_eq!(left, [(Kind::Move, 1), (Kind::Move, 3), (Kind::State, 3), (Kind::Delete, 9)]);
        let pins: Vec<_> = catalogue.segments.values().map(|segment| segment.pinned_by).collect();
        assert_eq!(pins, [None, Some(3)], "the former end of a message that is back must not be forgotten");
    }

    #[test]
    fn the_last_page_is_filled_when_little_is_left_of_it() {
        let segment = 1024 * 1024;
        // Whole pages, too little for a record, just enough, an eighth, more.
        let cases = [(8192, 8192, 0), (8144, 8144, 0), (8128, 8128, 64), (7680, 4096, 512), (7664, 4096, 0)];
        for (end, length, octets) in cases {
            assert_eq!(padding(end, length, segment), octets, "{length} octets up to {end}");
        }
        assert_eq!(padding(segment - 96, 4096, segment), 96);
        assert_eq!(padding(segment - 96, 4096, segment - 16), 0, "beyond the end of the segment");
    }

    #[test]
    fn a_batch_is_bounded_and_copies_go_alone() {
        let mut pending = Pending::default();
        let change = || draft(Kind::Pad, 0, Purpose::Change);
        let copy = || draft(Kind::Pad, 0, Purpose::Deletion { origin: 1, target: 1, from: 1 });
        pending.groups.extend((0..BATCH_RECORDS + 5).map(|_| group(vec![change()])));
        pending.groups.push_back(group(vec![copy(), copy()]));
        pending.groups.push_back(group((0..2 * BATCH_RECORDS).map(|_| change()).collect()));
        let sizes: Vec<usize> = (0..4).map(|_| pending.batch().len()).collect();
        assert_eq!(sizes, [BATCH_RECORDS, 5, 1, 1]);
        assert!(pending.groups.is_empty());
    }
}
