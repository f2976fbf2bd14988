//! The [`Spool`] on a disk. The promise: what its [`commit`](Spool::commit) has acknowledged survives kill -9 and power loss.
//!
//! The truth is an append-only log of checksummed records in segment files; one committer thread writes what waits
//! with one `fdatasync`. sled holds an index over it that may be lost at any time and is rebuilt from the log.
//! Messages above `queue.inline_limit` have a file of their own that is synced before their record is written.
//!
//! ```text
//! LOCK               locked by the process that uses the spool; holds its number
//! FORMAT             "1", durable before anything else is written
//! log/seg-<name>.log segments of the log: number, then salt, in hexadecimal; the numbers only grow
//! big/<id>           contents of large messages
//! index/             the index; index.bad-<time> one that was not used, kept for one start
//! damaged/           copies of what is no good record, and marks of the segments that have such places or are missing
//! reserve            room that is given up when the disk is full, so that the ends of messages can be recorded
//! ```
//!
//! | file | what |
//! |---|---|
//! | `record.rs` | the form of a record |
//! | `scan.rs` | reading a segment from end to end |
//! | `recovery.rs` | what a start does |
//! | `missing.rs` | segments that should be there and are not |
//! | `catalogue.rs` | what is where, in memory |
//! | `committer.rs` | the thread that writes |
//! | `collector.rs` | the thread that gives room back |
//! | `space.rs` | the thread that asks how much room there is |
//! | `index.rs` | the thread that keeps the index; the only file that names sled |
//! | `large.rs`, `body.rs` | writing large messages, reading any |
//! | `files.rs` | every file call |
//! | `format.rs` | the formats there have been |
//! | `meter.rs`, `status.rs` | what is written and how things stand, for operators |
//! | `check.rs`, `survey.rs`, `fix.rs` | is everything there and whole? What can be mended without losing anything? |
//! | `backup.rs` | a copy of a spool in use |
//! | `quarantine.rs` | what was set aside, and how it comes back |
//! | `job.rs` | work over the whole spool that somebody waits for |

pub mod backup;
mod body;
mod catalogue;
pub mod check;
mod collector;
mod committer;
pub mod files;
pub mod fix;
pub mod format;
mod index;
pub mod job;
mod large;
pub mod meter;
mod missing;
pub mod quarantine;
mod record;
mod recovery;
mod scan;
mod space;
pub mod status;
mod survey;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::{self, Debug};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

use parking_lot::Mutex;
use postern_runtime::Clock;
use serde::{Deserialize, Serialize};

use crate::message::QueueId;
use body::Part;
use catalogue::{Catalogue, Location, Place};
use committer::{Committer, Draft, Group, Purpose, Waiting};
use files::{Access, Files, StoredFile, SystemFiles, read_exact};
use job::Job;
use large::{LargeFile, Mention};
use meter::Meter;
use record::{Header, Kind, Record, TooLong, read_meta};
use recovery::{Indexer, Layout, Recovery, Remains};

pub use crate::spool::{
    Change, Done, FinishedBody, Found, InUse, LargeBody, NewBody, News, Recovered, Space, Spool, StoreError,
    StoredBody,
};

/// How often a deletion is written, one copy behind the other: a flipped bit in the only one would bring a message back
/// that was delivered.
const DELETIONS: usize = 2;
/// Segments that are kept open for reading.
const OPEN_SEGMENTS: usize = 64;
/// For how long what was written is probably still in memory.
const WARM: Duration = Duration::from_secs(60);
/// How often a record is looked up again that was moved while it was opened.
const LOOKUPS: usize = 16;

impl From<TooLong> for StoreError {
    fn from(_: TooLong) -> Self {
        Self::Io { what: "writing a record".into(), source: io::ErrorKind::FileTooLarge.into() }
    }
}

/// What the spool takes of its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Segments of the log.
    pub segments: u64,
    /// Octets that their files take, with the room that is reserved in the newest.
    pub log: u64,
    /// Octets of large messages.
    pub large: u64,
    /// Octets free on the file system.
    pub free: u64,
}

impl Usage {
    /// As the file system says.
    fn of(inner: &Inner) -> Result<Self, StoreError> {
        let list = |path: &Path| inner.files.list(path).map_err(|e| StoreError::io("reading", path, e));
        let log = list(&inner.layout.log)?;
        let large = list(&inner.layout.big)?;
        let sum = |entries: &[files::Entry]| entries.iter().map(|entry| entry.length).sum();
        let space = inner.files.space(&inner.layout.root);
        let space = space.map_err(|e| StoreError::io("asking for the room of", &inner.layout.root, e))?;
        let segments = log.len() as u64;
        Ok(Self { segments, log: sum(&log), large: sum(&large), free: space.free })
    }
}

/// What a compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compacted {
    /// As it was.
    pub before: Usage,
    /// As it is.
    pub after: Usage,
}

impl Compacted {
    /// Octets that were given back. Mail that came meanwhile may have taken more.
    pub fn given_back(&self) -> u64 {
        (self.before.log + self.before.large).saturating_sub(self.after.log + self.after.large)
    }
}

/// How the store looks after itself. The defaults are right for everybody; tests want it to be quicker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuning {
    /// Segments are copied out of only when they have been complete for this long: what is in them may end by itself.
    pub compaction_age: Duration,
    /// And only while more octets than this, and more than those that count, are dead.
    pub dead_octets: u64,
    /// Octets a second that are copied then.
    pub copy_rate: u64,
    /// The index is not rewritten below this size.
    pub index_octets: u64,
    /// After a failed write, how often it is tried whether the disk takes writes again and has room for the reserve.
    pub probe_interval: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            compaction_age: Duration::from_secs(600),
            dead_octets: 256 * 1024 * 1024,
            copy_rate: 32 * 1024 * 1024,
            index_octets: 256 * 1024 * 1024,
            probe_interval: Duration::from_secs(1),
        }
    }
}

/// A spool that is ours, and of which nothing was read yet. Dropping it gives it back.
#[derive(Debug)]
pub struct Claim {
    layout: Layout,
    files: Arc<dyn Files>,
    lock: File,
}

/// The spool.
pub struct Store {
    inner: Arc<Inner>,
    threads: Mutex<Option<Threads>>,
}

impl Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("root", &self.inner.layout.root).finish_non_exhaustive()
    }
}

struct Threads {
    committer: JoinHandle<()>,
    collector: JoinHandle<()>,
    gauge: JoinHandle<()>,
    indexer: index::Running,
}

impl Store {
    /// Locks the directory, recovers, starts the committer and the indexer. Blocking.
    ///
    /// # Errors
    /// See [`crate::Queue::open`].
    pub fn open(config: &postern_config::Queue, clock: Arc<dyn Clock>) -> Result<(Self, Found), StoreError> {
        Self::open_with(config, Arc::new(SystemFiles), clock, Tuning::default())
    }

    /// The same on another file system and with other tuning.
    ///
    /// # Errors
    /// See [`crate::Queue::open`].
    pub fn open_with(
        config: &postern_config::Queue,
        files: Arc<dyn Files>,
        clock: Arc<dyn Clock>,
        tuning: Tuning,
    ) -> Result<(Self, Found), StoreError> {
        let mut messages = BTreeMap::new();
        let mut tell = |news| match news {
            News::Message(message) | News::Lost(message) => drop(messages.insert(message.id, message)),
            News::Gone(id) => drop(messages.remove(&id)),
            News::Nothing => messages.clear(),
        };
        let (store, found) = Self::open_telling(config, files, clock, tuning, own_meter()?, &mut tell)?;
        Ok((store, Found { messages: messages.into_values().collect(), ..found }))
    }

    /// The same; the messages are told one by one, so that they need not all be in memory. Counts with somebody's counters.
    ///
    /// # Errors
    /// See [`crate::Queue::open`].
    pub fn open_telling(
        config: &postern_config::Queue,
        files: Arc<dyn Files>,
        clock: Arc<dyn Clock>,
        tuning: Tuning,
        meter: Meter,
        tell: &mut dyn FnMut(News),
    ) -> Result<(Self, Found), StoreError> {
        let claim = Self::claim(&config.path, files)?;
        Self::open_claimed(claim, config, clock, tuning, meter, tell)
    }

    /// Makes a spool ours, and makes its directories if it is new. Reads nothing of it: takes no time, however much is in
    /// it. Blocking.
    ///
    /// # Errors
    /// See [`crate::Queue::claim`].
    pub(crate) fn claim(path: &Path, files: Arc<dyn Files>) -> Result<Claim, StoreError> {
        let layout = Layout::new(path);
        let lock = layout.claim(&*files)?;
        Ok(Claim { layout, files, lock })
    }

    /// The rest of [`Store::open_telling`].
    ///
    /// # Errors
    /// The same.
    pub(crate) fn open_claimed(
        claim: Claim,
        config: &postern_config::Queue,
        clock: Arc<dyn Clock>,
        tuning: Tuning,
        meter: Meter,
        tell: &mut dyn FnMut(News),
    ) -> Result<(Self, Found), StoreError> {
        let Claim { layout, files, lock } = claim;
        let Recovery { catalogue, mut found, untold, next_number, last_id, indexer, remains } =
            recovery::recover(&layout, &files, tell)?;
        let inner = Arc::new(Inner {
            layout,
            files,
            clock,
            tuning,
            segment_size: config.segment_size.max(SMALLEST_SEGMENT),
            index_interval: config.index_interval,
            lock: Mutex::new(Some(lock)),
            catalogue: Mutex::new(catalogue),
            segments: OpenSegments::default(),
            waiting: Waiting::default(),
            collector: collector::Control::default(),
            index: index::Control::default(),
            last_id: AtomicU64::new(last_id),
            pressure: AtomicBool::new(false),
            health: Mutex::new(None),
            space: space::Gauge::default(),
            unfinished: large::Unfinished::default(),
            meter,
        });
        space::measure(&inner);
        found.damaged += inner.tell(&untold, &found.lost, &remains, tell);
        // Before the index forgets it.
        let written = inner.keep(remains);
        let threads = Threads::start(&inner, next_number, indexer)
            .map_err(|source| StoreError::Io { what: "starting a thread".into(), source })?;
        // Ends when all are written, or refused.
        let _ = written.recv();
        Ok((Self { inner, threads: Mutex::new(Some(threads)) }, found))
    }

    /// Octets that wait to be written, or are being written. Whoever commits should wait while they are many.
    pub fn backlog(&self) -> u64 {
        self.inner.waiting.octets()
    }

    /// How many messages are in the spool.
    pub fn len(&self) -> usize {
        self.inner.catalogue.lock().len()
    }

    /// Whether there is no message in the spool.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Why the index is not used any more, if so. Nothing is lost; the next start takes longer.
    pub fn index_lost(&self) -> Option<String> {
        self.inner.index.lost()
    }

    /// Puts the index aside and writes a new one from the log while mail flows; also when it was given up in this run.
    /// Returns when it is complete, with the number of its rows. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: it was given up, with the reason; [`StoreError::Closed`], [`StoreError::Interrupted`].
    pub fn rebuild_index(&self, listener: &mut job::Listener<'_>) -> Result<u64, StoreError> {
        let mut job = Job::new(job::RATE, listener);
        job.stage("index", 0)?;
        let written = self.begin_rebuild()?;
        let control = &self.inner.index;
        let rows = job.wait_while(&written, || Some(control.figures().progress()))?;
        rows.ok_or_else(|| index_gone(control))
    }

    /// The same for a spool that no daemon uses: starts on it, waits until the index is complete, and stops. Blocking.
    ///
    /// # Errors
    /// As [`Store::open`]; [`StoreError::Refused`]: there is no spool.
    pub fn rebuild_at_rest(
        config: &postern_config::Queue,
        clock: Arc<dyn Clock>,
        listener: &mut job::Listener<'_>,
    ) -> Result<u64, StoreError> {
        let lock = check::claim(&config.path, &SystemFiles)?;
        index::set_aside(&SystemFiles, &config.path)
            .map_err(|e| StoreError::io("renaming the index of", &config.path, e))?;
        drop(lock);
        let (files, tuning) = (Arc::new(SystemFiles), Tuning::default());
        let (store, _) = Self::open_telling(config, files, clock, tuning, own_meter()?, &mut |_| ())?;
        let mut job = Job::new(job::RATE, listener);
        job.stage("index", 0)?;
        let control = &store.inner.index;
        let complete = control.ask(index::Errand::Complete);
        let rows = job.wait_while(&complete, || Some(control.figures().progress()))?;
        let rows = rows.ok_or_else(|| index_gone(control));
        store.close();
        rows
    }

    /// Begins what [`Store::rebuild_index`] waits for.
    ///
    /// # Errors
    /// [`StoreError::Closed`]; [`StoreError::Refused`]: the index hangs in the system.
    pub fn begin_rebuild(&self) -> Result<Receiver<u64>, StoreError> {
        let mut threads = self.threads.lock();
        let threads = threads.as_mut().ok_or(StoreError::Closed)?;
        let is_lost = self.inner.index.lost().is_some();
        // It says that it is lost before it ends.
        let patience = if is_lost { Duration::from_secs(1) } else { Duration::ZERO };
        if !threads.indexer.ends_within(patience) {
            if is_lost {
                return Err(StoreError::Refused(
                    "the index hangs in a call that does not return: only a restart of the daemon ends it"
                        .into(),
                ));
            }
            return Ok(self.inner.index.ask(index::Errand::Rebuild));
        }
        let (indexer, complete) = index::begin_again(Arc::clone(&self.inner))
            .map_err(|source| StoreError::Io { what: "starting the indexer".into(), source })?;
        threads.indexer = indexer;
        Ok(complete)
    }

    /// Gives back what room can be had now, however little it is and however new the segments are, and says what there was
    /// before and after. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Interrupted`]: what was given back before that stays so.
    pub fn compact(&self, listener: &mut job::Listener<'_>) -> Result<Compacted, StoreError> {
        let inner = &self.inner;
        let mut job = Job::new(job::RATE, listener);
        let before = Usage::of(inner)?;
        // What the index does not know yet would be kept for it. Without an index nothing is.
        job.stage("index", 0)?;
        job.wait_for(&inner.index.ask(index::Errand::Round))?;
        collector::compact(inner, &mut job)?;
        space::measure(inner);
        Ok(Compacted { before, after: Usage::of(inner)? })
    }

    /// Gives back what room can be given back now. Blocking. The store does it by itself; this is for whoever cannot wait.
    pub fn collect(&self) {
        collector::collect(&self.inner);
    }
}

/// What is durable here is durable: `done(Ok)` is called after the `fdatasync` that covers the group.
impl Spool for Store {
    fn next_id(&self) -> QueueId {
        let now = self.inner.clock.now();
        let next = |last: u64| QueueId::after(QueueId(last), now).0;
        let last =
            self.inner.last_id.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |last| Some(next(last)));
        QueueId(next(last.unwrap_or_else(|last| last)))
    }

    /// The group is written with the next batch, by the committer thread, which also calls `done`. When the store is closed
    /// or a change cannot be written at all, it is called at once in this thread.
    fn commit(&self, changes: Vec<Change>, done: Done) {
        match drafts(changes) {
            Ok((drafts, files)) => {
                // They are from `next_id`, or should be: if not, later ones are above them all the same.
                let last = drafts.iter().map(|draft| draft.record.id).max().unwrap_or(0);
                self.inner.last_id.fetch_max(last, Ordering::SeqCst);
                self.inner.waiting.push(Group { drafts, files, done });
            }
            Err(error) => done(Err(Arc::new(error))),
        }
    }

    /// A large message has a file of its own.
    fn begin_body(&self, id: QueueId) -> Result<Box<dyn LargeBody>, StoreError> {
        let inner = &self.inner;
        let (files, meter) = (Arc::clone(&inner.files), inner.meter.clone());
        let file = LargeFile::create(files, &inner.layout.big, id.0, &inner.unfinished, meter)?;
        Ok(Box::new(file))
    }

    fn read(&self, id: QueueId) -> Result<StoredBody, StoreError> {
        self.inner.open_body(id)
    }

    /// From the log.
    fn load(&self, id: QueueId) -> Result<Recovered, StoreError> {
        let (_, meta, state) = self.inner.load(id.0)?.ok_or(StoreError::NoMessage(id))?;
        Ok(Recovered { id, meta, state })
    }

    /// As it was a second ago: a file system that hangs would take all who ask with it. If the system does not say, there is
    /// none.
    fn space(&self) -> Space {
        self.inner.space.known()
    }

    /// While it is set a write is tried every second.
    fn health(&self) -> Option<String> {
        self.inner.health.lock().clone()
    }

    /// Also ends the threads and brings the index up to date.
    fn close(&self) {
        let Some(threads) = self.threads.lock().take() else { return };
        self.inner.waiting.close();
        join(threads.committer);
        self.inner.collector.close();
        join(threads.collector);
        self.inner.space.close();
        join(threads.gauge);
        self.inner.index.close();
        threads.indexer.join();
        *self.inner.lock.lock() = None;
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

impl Threads {
    fn start(inner: &Arc<Inner>, next_number: u32, indexer: Indexer) -> io::Result<Self> {
        let committer = Committer::new(Arc::clone(inner), next_number);
        let committer =
            std::thread::Builder::new().name("spool-commit".into()).spawn(move || committer.run())?;
        let collected = Arc::clone(inner);
        let collector = std::thread::Builder::new()
            .name("spool-collect".into())
            .spawn(move || collector::run(&collected))?;
        let measured = Arc::clone(inner);
        let gauge =
            std::thread::Builder::new().name("spool-space".into()).spawn(move || space::run(&measured))?;
        let indexer = match indexer {
            Indexer::Continues(opening) => opening.begin(Arc::clone(inner), false),
            Indexer::BeginsAnew(opening) => opening.begin(Arc::clone(inner), true),
            Indexer::Lost(opening, reason) => {
                inner.catalogue.lock().index_lost();
                inner.index.set_lost(reason);
                opening.abandon()
            }
        };
        Ok(Self { committer, collector, gauge, indexer })
    }
}

/// Waits for a thread, unless it is this one: the last owner of a store may let go of it in a completion.
fn join(thread: JoinHandle<()>) {
    if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
        tracing::error!("a thread of the spool panicked");
    }
}

/// The records of some changes. Their checksums are computed here.
fn drafts(changes: Vec<Change>) -> Result<(Vec<Draft>, Vec<FinishedBody>), StoreError> {
    let mut drafts = Vec::with_capacity(changes.len());
    let mut files = Vec::new();
    let mut add = |record| drafts.push(Draft { record, purpose: Purpose::Change });
    for change in changes {
        match change {
            Change::Enqueue { id, meta, body: NewBody::Inline(body) } => {
                add(Record::new(Kind::Enqueue, id.0, &meta, body)?);
            }
            Change::Enqueue { id, meta, body: NewBody::Large { mut header, body } } => {
                header.extend_from_slice(&Mention::of(&body).encode());
                add(Record::new(Kind::Enqueue, id.0, &meta, vec![header.into()])?.in_file());
                files.push(body);
            }
            Change::State { id, state } => add(Record::new(Kind::State, id.0, &state, Vec::new())?),
            Change::Delete { id } => {
                for _ in 0..DELETIONS {
                    add(Record::new(Kind::Delete, id.0, &[], Vec::new())?);
                }
            }
        }
    }
    Ok((drafts, files))
}

/// Segments are never smaller than this.
const SMALLEST_SEGMENT: u64 = 4096;
/// The reserve is never larger than this.
const LARGEST_RESERVE: u64 = 64 * 1024 * 1024;

/// What the threads share.
#[derive(Debug)]
struct Inner {
    layout: Layout,
    files: Arc<dyn Files>,
    clock: Arc<dyn Clock>,
    tuning: Tuning,
    segment_size: u64,
    index_interval: Duration,
    lock: Mutex<Option<File>>,
    catalogue: Mutex<Catalogue>,
    segments: OpenSegments,
    waiting: Waiting,
    collector: collector::Control,
    index: index::Control,
    last_id: AtomicU64,
    /// Whether the disk is full.
    pressure: AtomicBool,
    health: Mutex<Option<String>>,
    space: space::Gauge,
    /// Large messages that are being received.
    unfinished: large::Unfinished,
    meter: Meter,
}

/// Counters that nobody else reads.
fn own_meter() -> Result<Meter, StoreError> {
    Meter::new().map_err(|error| StoreError::Io {
        what: "making the spool's counters".into(),
        source: io::Error::other(error),
    })
}

/// Why the indexer did not do what it was asked.
fn index_gone(control: &index::Control) -> StoreError {
    control.lost().map_or(StoreError::Closed, |reason| {
        StoreError::Refused(format!(
            "the index was given up ({reason}): `posternctl store rebuild` writes it anew"
        ))
    })
}

impl Inner {
    fn segment_path(&self, name: u64) -> PathBuf {
        self.layout.segment(name)
    }

    fn reserve_path(&self) -> PathBuf {
        self.layout.root.join("reserve")
    }

    fn reserve_size(&self) -> u64 {
        self.segment_size.min(LARGEST_RESERVE)
    }

    fn open_segment(&self, name: u64) -> Result<Arc<dyn StoredFile>, StoreError> {
        if let Some(file) = self.segments.find(name) {
            return Ok(file);
        }
        let path = self.segment_path(name);
        let file = self.files.open(&path, Access::Read).map_err(|e| StoreError::io("opening", &path, e))?;
        self.segments.insert(name, Arc::clone(&file));
        Ok(file)
    }

    /// Reads the header and meta part of a record of a message, wherever `place` says it is. It may be moved while it is
    /// opened: then it is looked up again. `None`: there is no such message.
    fn read_record(
        &self,
        id: u64,
        place: impl Fn(&Location) -> Option<Place>,
    ) -> Result<Option<FoundRecord>, StoreError> {
        let mut failure = StoreError::Damaged(QueueId(id));
        for _ in 0..LOOKUPS {
            let (location, at, name) = {
                let catalogue = self.catalogue.lock();
                let Some(location) = catalogue.location(id) else { return Ok(None) };
                let Some(at) = place(location) else { return Ok(None) };
                let Some(segment) = catalogue.segments.get(&at.segment) else { return Err(failure) };
                (*location, at, segment.name)
            };
            let read = self.open_segment(name).and_then(|file| {
                let found = read_meta(&*file, at.offset(), name, id);
                let found = found.map_err(|e| StoreError::io("reading", &self.segment_path(name), e))?;
                let (header, meta) = found.ok_or(StoreError::Damaged(QueueId(id)))?;
                Ok(FoundRecord { location, file, offset: at.offset(), header, meta })
            });
            match read {
                Ok(found) => return Ok(Some(found)),
                Err(error) => failure = error,
            }
            let moved = self.catalogue.lock().location(id).and_then(&place) != Some(at);
            if !moved {
                break;
            }
        }
        Err(failure)
    }

    /// Tells what the log has of some messages, and what is left of others. A record that cannot be read is told without its
    /// text: somebody must see that there is a message. Returns how many there are of that kind.
    fn tell(&self, ids: &[u64], lost: &[QueueId], remains: &Remains, tell: &mut dyn FnMut(News)) -> usize {
        let lost: HashSet<QueueId> = lost.iter().copied().collect();
        let newer: HashMap<QueueId, &Vec<u8>> =
            remains.states.iter().map(|(id, state)| (*id, state)).collect();
        let mut damaged = 0;
        for id in ids.iter().map(|id| QueueId(*id)) {
            let message = match self.load(id.0) {
                Ok(Some((_, meta, state))) => {
                    let state = newer.get(&id).map(|state| state.to_vec()).or(state);
                    Recovered { id, meta, state }
                }
                Ok(None) => {
                    tell(News::Gone(id));
                    continue;
                }
                Err(error) => {
                    tracing::error!(%id, %error, "a message cannot be read");
                    damaged += 1;
                    Recovered { id, meta: Vec::new(), state: None }
                }
            };
            tell(if lost.contains(&id) { News::Lost(message) } else { News::Message(message) });
        }
        for message in &remains.envelopes {
            tell(News::Lost(message.clone()));
        }
        damaged
    }

    /// Where a message is, its envelope and its newest state. `None`: there is no such message.
    #[allow(clippy::type_complexity, reason = "three things that are taken apart at once")]
    fn load(&self, id: u64) -> Result<Option<(Location, Vec<u8>, Option<Vec<u8>>)>, StoreError> {
        for _ in 0..LOOKUPS {
            let Some(message) = self.read_record(id, |location| Some(location.place))? else {
                return Ok(None);
            };
            let state = self.read_record(id, Location::state)?;
            // Both of the same moment, or again.
            let same = |state: &FoundRecord| state.location.state() == message.location.state();
            if state.as_ref().map_or(message.location.state().is_none(), same) {
                return Ok(Some((message.location, message.meta, state.map(|found| found.meta))));
            }
        }
        Err(StoreError::Damaged(QueueId(id)))
    }

    fn open_body(&self, id: QueueId) -> Result<StoredBody, StoreError> {
        let found = self.read_record(id.0, |location| Some(location.place))?;
        let found = found.ok_or(StoreError::NoMessage(id))?;
        if found.header.in_file {
            return self.open_large_body(id, found);
        }
        let part = Part {
            offset: found.offset + found.header.body_offset(),
            length: found.header.body_length.into(),
            crc: found.header.body_crc,
            file: found.file,
        };
        Ok(body::stored(id, self.is_recent(id), [part]))
    }

    /// Writes down what only the index knew, so that messages without a content stay in sight, and nobody who has a message
    /// is sent it again.
    /// The answer ends when it is done.
    fn keep(&self, remains: Remains) -> Receiver<()> {
        let (sender, written) = channel();
        for Recovered { id, meta, state } in remains.envelopes {
            let enqueue = Record::new(Kind::Enqueue, id.0, &meta, Vec::new()).map(Record::lost);
            let state = state.map(|state| Record::new(Kind::State, id.0, &state, Vec::new()));
            self.keep_records(id, std::iter::once(enqueue).chain(state).collect(), sender.clone());
        }
        for (id, state) in remains.states {
            let state = Record::new(Kind::State, id.0, &state, Vec::new());
            self.keep_records(id, state.map(|record| vec![record]), sender.clone());
        }
        written
    }

    fn keep_records(&self, id: QueueId, records: Result<Vec<Record>, TooLong>, waiter: Sender<()>) {
        // They were written once: they are not too long.
        let Ok(records) = records else { return };
        let drafts = records.into_iter().map(|record| Draft { record, purpose: Purpose::Change }).collect();
        let done = Box::new(move |result: Result<(), Arc<StoreError>>| {
            if let Err(error) = result {
                tracing::error!(%id, %error, "cannot write again what the log has lost of a message");
            }
            drop(waiter);
        });
        self.waiting.push(Group { drafts, files: Vec::new(), done });
    }

    fn since_1970(&self) -> Duration {
        self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    /// Whether a message came so lately that it is probably still in memory. Ids of a clock that was ahead say nothing.
    fn is_recent(&self, id: QueueId) -> bool {
        self.since_1970().abs_diff(Duration::from_micros(id.0 >> 8)) < WARM
    }

    fn open_large_body(&self, id: QueueId, found: FoundRecord) -> Result<StoredBody, StoreError> {
        if found.header.is_lost {
            return Err(StoreError::Damaged(id));
        }
        let offset = found.offset + found.header.body_offset();
        let mut body = vec![0; found.header.body_length as usize];
        let reading = |e| StoreError::Io { what: format!("reading message {id}"), source: e };
        read_exact(&*found.file, &mut body, offset).map_err(reading)?;
        let sound = crc32c::crc32c(&body) == found.header.body_crc;
        let Some((header, mention)) = Mention::split(&body).filter(|_| sound) else {
            return Err(StoreError::Damaged(id));
        };
        let path = self.layout.big.join(large::name(id.0));
        let file = match self.files.open(&path, Access::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let ended = self.catalogue.lock().location(id.0).is_none();
                return Err(if ended { StoreError::NoMessage(id) } else { StoreError::Damaged(id) });
            }
            result => result.map_err(|e| StoreError::io("opening", &path, e))?,
        };
        let length = header.len() as u64;
        let front = Part { file: found.file, offset, length, crc: crc32c::crc32c(header) };
        let rest = Part { file, offset: 0, length: mention.length, crc: mention.crc };
        Ok(body::stored(id, false, [front, rest]))
    }
}

/// A record of a message, read.
struct FoundRecord {
    /// Where the message was then.
    location: Location,
    file: Arc<dyn StoredFile>,
    offset: u64,
    header: Header,
    meta: Vec<u8>,
}

/// Segments that are open for reading, the one used last at the end. Not all: a long queue has more of them than a
/// process may open files.
#[derive(Debug, Default)]
struct OpenSegments {
    open: Mutex<Vec<(u64, Arc<dyn StoredFile>)>>,
}

impl OpenSegments {
    fn find(&self, name: u64) -> Option<Arc<dyn StoredFile>> {
        let mut open = self.open.lock();
        let at = open.iter().rposition(|(other, _)| *other == name)?;
        open[at..].rotate_left(1);
        open.last().map(|(_, file)| Arc::clone(file))
    }

    fn insert(&self, name: u64, file: Arc<dyn StoredFile>) {
        let mut open = self.open.lock();
        open.retain(|(other, _)| *other != name);
        if open.len() == OPEN_SEGMENTS {
            open.remove(0);
        }
        open.push((name, file));
    }

    fn forget(&self, name: u64) {
        self.open.lock().retain(|(other, _)| *other != name);
    }
}
