//! The index over the log, in sled: a row for each message with its place, envelope and newest state, so that a start
//! needs to read only the end of the log. The only file that names sled.
//!
//! Nothing that was acknowledged depends on it. It is written behind the log by a thread of its own, and any doubt about
//! it (an error, a panic, a wrong sum, a time-out) makes the next start rebuild it from the log. What makes that safe:
//! * each row has a checksum, and a summary row, written in the same atomic batch, counts the rows and sums up their
//!   checksums: rows that sled lost, or brought back, are noticed;
//! * the summary names the place in the log up to which the rows are complete; everything behind it is replayed, in
//!   order, and rows that are newer than it do no harm then. An older copy of the whole index is as good as the newest.
//!
//! What is known of sled 0.34 and dealt with here: `flush` is no `fdatasync`, so one is made; it panics on damage, also
//! late; a handle is dead after its first error; a `snap.*.generating` that a kill has left behind makes every `open`
//! fail; values that make a page large become files that are never synced, so rows are small; `flush_async` may hang;
//! room is not given back, so the whole index is rewritten from time to time.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex};

use super::Inner;
use super::catalogue::{Location, Place, Position, RowFault, number};
use super::files::{Access, Files};

/// Without a sign of life for this long, sled counts as stuck.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the last round may take when the store is closed. What is not written then is replayed at the next start.
const LAST_ROUND: Duration = Duration::from_secs(2);
/// Rows in one batch.
const BATCH: usize = 500;
/// Longer envelopes and states are read from the log instead.
const INLINE: usize = 2048;
/// After so many batches the size on disk is looked at.
const SIZE_CHECK: u64 = 200;
/// The index is rewritten when it is this many times larger than its rows.
const SLACK: u64 = 8;
/// Octets of pages that sled keeps. Rounds, and the reading at a start, go through the rows in order, so little of it is
/// enough; sled keeps some more in memory all the same.
const CACHE: u64 = 4 * 1024 * 1024;
/// How often sled cleans up its file. Each time it syncs it too, also when nothing was written.
const CLEANING: Duration = Duration::from_secs(2);
/// So many rows are worth the second that it takes to close and open the index.
const MANY_ROWS: u64 = 50_000;
const VERSION: u8 = 1;
const SUMMARY: &[u8] = b"summary";
const SEGMENTS: &[u8] = b"segments";
const ROW: u8 = b'm';

/// The envelope and the newest state of a message, encoded.
pub type Texts = (Vec<u8>, Option<Vec<u8>>);

/// What a row says of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Where it is.
    pub location: Location,
    /// The envelope and the newest state. `None`: too long for a row, read them from the log.
    pub texts: Option<Texts>,
}

impl Row {
    const FIXED: usize = 38;

    /// A row, with its checksum in front.
    pub fn encode(location: &Location, meta: &[u8], state: Option<&[u8]>) -> Vec<u8> {
        let inline = meta.len() + state.map_or(0, <[u8]>::len) <= INLINE;
        let place = location.state().unwrap_or(Place { segment: 0, unit: 0 });
        let mut row = vec![0; 4];
        row.push(VERSION);
        row.push(
            u8::from(location.in_file)
                | u8::from(state.is_some()) << 1
                | u8::from(location.state().is_some()) << 2
                | u8::from(inline) << 3,
        );
        let numbers = [
            location.place.segment,
            location.place.unit,
            location.length,
            location.origin,
            place.segment,
            place.unit,
            location.state_length(),
            if inline { meta.len() as u32 } else { 0 },
        ];
        numbers.iter().for_each(|n| row.extend_from_slice(&n.to_le_bytes()));
        if inline {
            row.extend_from_slice(meta);
            row.extend_from_slice(state.unwrap_or_default());
        }
        with_checksum(row)
    }

    /// Reads a row. `None`: it is damaged, or of an unknown version.
    pub fn decode(octets: &[u8]) -> Option<Self> {
        let row = checked(octets)?;
        if row.len() < Self::FIXED || row[4] != VERSION {
            return None;
        }
        let flag = |bit: u8| row[5] & 1 << bit != 0;
        let word = |index: usize| {
            let at = 6 + 4 * index;
            u32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]])
        };
        let place = Place { segment: word(0), unit: word(1) };
        let mut location = Location::new(place, word(2), word(3), flag(0));
        if flag(2) {
            location.set_state(Place { segment: word(4), unit: word(5) }, word(6));
        }
        location.indexed = true;
        let texts = if flag(3) {
            let (meta, state) = row[Self::FIXED..].split_at_checked(word(7) as usize)?;
            Some((meta.to_vec(), flag(1).then(|| state.to_vec())))
        } else {
            None
        };
        Some(Self { location, texts })
    }
}

/// What the summary row says of all rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    rows: u64,
    /// Sum of a mixture of each row's id and checksum.
    digest: u64,
    /// Octets of all rows.
    octets: u64,
    /// Up to where in the log the rows are complete. `None`: they never were yet.
    pub complete_to: Option<Position>,
    /// The highest id ever given out.
    pub last_id: u64,
}

impl Summary {
    const LENGTH: usize = 54;

    fn encode(&self) -> Vec<u8> {
        let mut row = vec![0; 4];
        row.push(VERSION);
        row.push(u8::from(self.complete_to.is_some()));
        let to = self.complete_to.unwrap_or(Position { segment: 0, offset: 0 });
        let numbers = [self.rows, self.digest, self.octets, to.segment, to.offset, self.last_id];
        numbers.iter().for_each(|n| row.extend_from_slice(&n.to_le_bytes()));
        with_checksum(row)
    }

    fn decode(octets: &[u8]) -> Option<Self> {
        let row = checked(octets)?;
        if row.len() != Self::LENGTH || row[4] != VERSION {
            return None;
        }
        let word = |index: usize| {
            let at = 6 + 8 * index;
            row[at..].first_chunk::<8>().map_or(0, |octets| u64::from_le_bytes(*octets))
        };
        let complete_to = (row[5] == 1).then(|| Position { segment: word(3), offset: word(4) });
        Some(Self { rows: word(0), digest: word(1), octets: word(2), complete_to, last_id: word(5) })
    }

    fn add(&mut self, id: u64, row: &[u8]) {
        self.rows = self.rows.wrapping_add(1);
        self.digest = self.digest.wrapping_add(mixed(id, row));
        self.octets = self.octets.wrapping_add(row.len() as u64);
    }

    fn subtract(&mut self, id: u64, row: &[u8]) {
        self.rows = self.rows.wrapping_sub(1);
        self.digest = self.digest.wrapping_sub(mixed(id, row));
        self.octets = self.octets.wrapping_sub(row.len() as u64);
    }

    /// Whether it is the summary of as many rows with the same contents.
    fn describes(&self, counted: &Self) -> bool {
        (self.rows, self.digest, self.octets) == (counted.rows, counted.digest, counted.octets)
    }
}

/// What the index says beside its rows.
#[derive(Debug, Default)]
pub struct Contents {
    /// About all rows.
    pub summary: Summary,
    /// The names of the segments that there were.
    pub segments: Vec<u64>,
}

fn encode_names(names: &[u64]) -> Vec<u8> {
    let mut row = vec![0; 4];
    row.push(VERSION);
    names.iter().for_each(|name| row.extend_from_slice(&name.to_le_bytes()));
    with_checksum(row)
}

fn decode_names(octets: &[u8]) -> Option<Vec<u64>> {
    let (version, names) = checked(octets)?.get(4..)?.split_first()?;
    let names = names.chunks(8).map(|name| Some(u64::from_le_bytes(*name.first_chunk()?)));
    if *version == VERSION { names.collect() } else { None }
}

/// Spreads an id and the checksum of its row over 64 bits (the finaliser of SplitMix64).
fn mixed(id: u64, row: &[u8]) -> u64 {
    let crc = row.first_chunk::<4>().map_or(0, |octets| u32::from_le_bytes(*octets));
    let mut value = id ^ u64::from(crc).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ value >> 31
}

fn with_checksum(mut row: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&row[4..]);
    row[..4].copy_from_slice(&crc.to_le_bytes());
    row
}

fn checked(row: &[u8]) -> Option<&[u8]> {
    let (crc, rest) = row.split_first_chunk::<4>()?;
    (u32::from_le_bytes(*crc) == crc32c::crc32c(rest)).then_some(row)
}

fn key(id: u64) -> [u8; 9] {
    let mut key = [ROW; 9];
    key[1..].copy_from_slice(&id.to_be_bytes());
    key
}

fn id(key: &[u8]) -> Option<u64> {
    let (_, id) = key.split_first()?;
    Some(u64::from_be_bytes(id.try_into().ok()?))
}

/// Wakes and stops the indexer, and says how it is.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// Since when the store is being closed, if it is.
    closed: Mutex<Option<Instant>>,
    changed: Condvar,
    /// Why there is no index, if there is none.
    lost: Mutex<Option<String>>,
    /// What the indexer is asked to do beside its rounds. `None`: there is nobody to do it.
    errands: Mutex<Option<VecDeque<Errand>>>,
    figures: Mutex<Figures>,
}

/// What the indexer is asked to do beside its rounds, and whom it tells. It tells nobody when the index is given up or the
/// store is closed before it is done.
#[derive(Debug)]
pub(super) enum Errand {
    /// To write what has changed up to now.
    Round(SyncSender<()>),
    /// To put the index aside and write a new one; tells the number of rows.
    Rebuild(SyncSender<u64>),
    /// The same where it has just been begun anew: it is done with the first round.
    Complete(SyncSender<u64>),
    /// To compare all rows with what is known.
    Compare(SyncSender<Comparison>),
}

/// How the index is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Figures {
    /// Rows in it.
    pub rows: u64,
    /// Octets that its files take.
    pub octets: u64,
    /// Up to where in the log it is complete. `None`: it never was yet.
    pub complete_to: Option<Position>,
    /// Messages whose rows are written in this round, and those that are still to be written.
    round: u64,
    pub left: u64,
}

impl Figures {
    /// How far the present round is: rows done, rows in all.
    pub fn progress(&self) -> (u64, u64) {
        (self.round - self.left, self.round)
    }
}

/// What comparing the index with what is known has shown.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// Rows looked at.
    pub rows: u64,
    /// Whether the summary fits them.
    pub is_summed_up: bool,
    /// Messages whose row is wrong; at most [`MAX_FAULTS`].
    pub faults: Vec<(u64, RowFault)>,
    /// More of them.
    pub more: u64,
}

/// Wrong rows that are named: one is reason enough for a new index.
const MAX_FAULTS: usize = 100;

impl Control {
    /// Asks the indexer for something; it answers on the receiver, or hangs up.
    pub fn ask<T>(&self, errand: impl FnOnce(SyncSender<T>) -> Errand) -> Receiver<T> {
        let (told, answer) = sync_channel(1);
        if let Some(errands) = self.errands.lock().as_mut() {
            errands.push_back(errand(told));
        }
        // The indexer looks for errands under this lock before it waits: it cannot miss this one.
        let _waiting = self.closed.lock();
        self.changed.notify_all();
        answer
    }

    /// How the index is.
    pub fn figures(&self) -> Figures {
        *self.figures.lock()
    }

    fn next_errand(&self) -> Option<Errand> {
        self.errands.lock().as_mut()?.pop_front()
    }

    fn has_errand(&self) -> bool {
        self.errands.lock().as_ref().is_some_and(|errands| !errands.is_empty())
    }

    /// Somebody does errands from now on.
    fn serve(&self) {
        *self.lost.lock() = None;
        self.errands.lock().get_or_insert_default();
    }

    /// Nobody does them any more; those who wait see that.
    fn stop_serving(&self) {
        *self.errands.lock() = None;
    }

    pub fn close(&self) {
        *self.closed.lock() = Some(Instant::now());
        self.changed.notify_all();
    }

    /// Why there is no index, if there is none.
    pub fn lost(&self) -> Option<String> {
        self.lost.lock().clone()
    }

    pub fn set_lost(&self, reason: String) {
        tracing::error!(
            %reason,
            "the spool's index is not used any more; it is rebuilt at the next start, or by `posternctl store rebuild`"
        );
        *self.lost.lock() = Some(reason);
        *self.figures.lock() = Figures::default();
    }

    /// Waits for one interval. Whether to go on.
    fn wait(&self, interval: Duration) -> bool {
        let mut closed = self.closed.lock();
        if closed.is_none() && !self.has_errand() {
            self.changed.wait_for(&mut closed, interval);
        }
        closed.is_none()
    }

    /// Whether the store has been waiting long enough for the index.
    fn hurries(&self) -> bool {
        self.closed.lock().is_some_and(|since| since.elapsed() > LAST_ROUND)
    }
}

/// The names of the directories.
#[derive(Debug, Clone)]
struct Directories {
    root: PathBuf,
    index: PathBuf,
    fresh: PathBuf,
    former: PathBuf,
}

impl Directories {
    fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            index: root.join("index"),
            fresh: root.join("index.new"),
            former: root.join("index.old"),
        }
    }
}

/// Puts an index aside that is not to be used. It is kept for one start, for whoever wants to look at it.
pub(super) fn set_aside(files: &dyn Files, root: &Path) -> std::io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let bad = root.join(format!("index.bad-{now}"));
    files.remove_tree(&bad)?;
    match files.rename(&root.join("index"), &bad) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// What the indexer says while it reads the index.
enum Loaded {
    Rows(Vec<(u64, Row)>),
    /// All rows were given; they fit the summary. `None`: the index is empty.
    All(Option<Contents>),
    Failed(String),
}

/// What the indexer is told to do.
enum Order {
    /// Read all rows once more.
    Load,
    /// Recovery is done.
    Begin {
        inner: Arc<Inner>,
        /// Whether to begin an empty index.
        fresh: bool,
    },
}

/// The indexer before recovery is done.
#[derive(Debug)]
pub(super) struct Opening {
    loaded: Receiver<Loaded>,
    orders: Sender<Order>,
    ended: Receiver<()>,
}

/// The indexer at work.
#[derive(Debug)]
pub(super) struct Running {
    ended: Receiver<()>,
    /// Whether sled was given up: nobody waits for it.
    is_abandoned: bool,
}

/// Why an index cannot be used.
pub(super) enum Unusable {
    /// There is nothing in it: it can be filled.
    Empty,
    /// It is damaged or cannot be opened: begin a fresh one.
    Bad(String),
    /// sled does not return: go on without any.
    Stuck(String),
}

impl Opening {
    /// Starts the thread that all calls of sled are made on, and has it read the index.
    pub fn start(root: &Path, files: Arc<dyn Files>) -> std::io::Result<Self> {
        let directories = Directories::new(root);
        // A few chunks of rows may wait; more would be memory.
        let (loaded_sender, loaded) = sync_channel(4);
        let (orders, ordered) = channel();
        let (ended_sender, ended) = sync_channel(1);
        std::thread::Builder::new().name("spool-index".into()).spawn(move || {
            run(&directories, files, &loaded_sender, &ordered);
            drop(ended_sender);
        })?;
        Ok(Self { loaded, orders, ended })
    }

    /// Reads all rows once more.
    pub fn load_again(&self, row: impl FnMut(u64, Row)) -> Result<Contents, Unusable> {
        let _ = self.orders.send(Order::Load);
        self.load(row)
    }

    /// Reads all rows.
    pub fn load(&self, mut row: impl FnMut(u64, Row)) -> Result<Contents, Unusable> {
        loop {
            match self.loaded.recv_timeout(PATIENCE) {
                Ok(Loaded::Rows(rows)) => rows.into_iter().for_each(|(id, found)| row(id, found)),
                Ok(Loaded::All(contents)) => return contents.ok_or(Unusable::Empty),
                Ok(Loaded::Failed(reason)) => return Err(Unusable::Bad(reason)),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Unusable::Stuck(format!("the index did not open in {PATIENCE:?}")));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Unusable::Stuck("the indexer thread has ended".into()));
                }
            }
        }
    }

    /// Begins to keep the index up to date.
    pub fn begin(self, inner: Arc<Inner>, fresh: bool) -> Running {
        inner.index.serve();
        let served = Arc::clone(&inner);
        if self.orders.send(Order::Begin { inner, fresh }).is_err() {
            served.catalogue.lock().index_lost();
            served.index.set_lost("the indexer thread has ended".into());
            served.index.stop_serving();
        }
        Running { ended: self.ended, is_abandoned: false }
    }

    /// Closes it after it was read, and waits until its files are free.
    pub fn close(self) {
        drop(self.orders);
        drop(self.loaded);
        Running { ended: self.ended, is_abandoned: false }.join();
    }

    /// Does without it: the thread ends when sled lets it.
    pub fn abandon(self) -> Running {
        Running { ended: self.ended, is_abandoned: true }
    }
}

/// Starts an indexer again after the former one has ended, with an empty index that is filled from the log. Tells the
/// number of rows when it is complete.
pub(super) fn begin_again(inner: Arc<Inner>) -> std::io::Result<(Running, Receiver<u64>)> {
    let mut index = Index::new(Directories::new(&inner.layout.root), Arc::clone(&inner.files));
    let (ended_sender, ended) = sync_channel(1);
    inner.catalogue.lock().index_anew();
    inner.index.serve();
    let complete = inner.index.ask(Errand::Complete);
    std::thread::Builder::new().name("spool-index".into()).spawn(move || {
        index.serve(&inner, true);
        drop(ended_sender);
    })?;
    Ok((Running { ended, is_abandoned: false }, complete))
}

impl Running {
    /// Waits until the thread has ended, but not for ever: sled may be stuck.
    pub fn join(&self) {
        if self.is_abandoned {
            return;
        }
        if self.ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the spool's index did not close in time");
        }
    }

    /// Whether the thread has ended, or does so in a moment.
    pub fn ends_within(&self, time: Duration) -> bool {
        self.ended.recv_timeout(time) == Err(RecvTimeoutError::Disconnected)
    }
}

/// Calls sled: an error or a panic of it is a reason to give the index up.
fn guarded<T>(call: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("sled panicked: {}", text.unwrap_or("without a word")))
    })
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn run(
    directories: &Directories,
    files: Arc<dyn Files>,
    loaded: &SyncSender<Loaded>,
    orders: &Receiver<Order>,
) {
    let mut index = Index::new(directories.clone(), files);
    let opened = guarded(|| {
        index.open()?;
        index.load(|rows| drop(loaded.send(Loaded::Rows(rows))))
    });
    let _ = loaded.send(opened.map_or_else(Loaded::Failed, Loaded::All));
    if let Err(error) = index.tidy() {
        tracing::warn!(%error, "cannot remove an index that is not used any more");
    }
    let (inner, fresh) = loop {
        match orders.recv() {
            Ok(Order::Load) => {
                let again = guarded(|| index.load(|rows| drop(loaded.send(Loaded::Rows(rows)))));
                let _ = loaded.send(again.map_or_else(Loaded::Failed, Loaded::All));
            }
            Ok(Order::Begin { inner, fresh }) => break (inner, fresh),
            Err(_) => {
                // Nobody goes on with it. What it says when it is closed changes nothing.
                let _ = guarded(|| index.close());
                return;
            }
        }
    };
    index.serve(&inner, fresh);
}

/// The index.
struct Index {
    directories: Directories,
    files: Arc<dyn Files>,
    db: Option<sled::Db>,
    /// Whether there was anything before it was opened.
    existed: bool,
    /// A copy of it that is being made. Kept here so that it is never dropped by a panic.
    copy: Option<sled::Db>,
    summary: Summary,
    /// The names of segments as they stand in it.
    segments: Vec<u64>,
    batches: u64,
}

fn open_sled(files: &dyn Files, path: &Path) -> Result<sled::Db, String> {
    files.create_directory(path).map_err(text)?;
    for entry in files.list(path).map_err(text)? {
        if entry.name.starts_with("snap.") && entry.name.ends_with(".generating") {
            files.remove(&path.join(entry.name)).map_err(text)?;
        }
    }
    let db = sled::Config::new()
        .path(path)
        .mode(sled::Mode::LowSpace)
        .cache_capacity(CACHE)
        .flush_every_ms(u64::try_from(CLEANING.as_millis()).ok())
        .use_compression(false)
        .open()
        .map_err(text)?;
    // sled never syncs some of its files, nor the directory.
    sync_all(files, path)?;
    Ok(db)
}

fn sync_all(files: &dyn Files, directory: &Path) -> Result<(), String> {
    for entry in files.list(directory).map_err(text)? {
        files.open(&directory.join(entry.name), Access::Read).and_then(|file| file.sync()).map_err(text)?;
    }
    files.sync_directory(directory).map_err(text)
}

impl Index {
    fn new(directories: Directories, files: Arc<dyn Files>) -> Self {
        Self {
            directories,
            files,
            db: None,
            existed: false,
            copy: None,
            summary: Summary::default(),
            segments: Vec::new(),
            batches: 0,
        }
    }

    /// Removes what earlier runs have put aside or not finished.
    fn tidy(&self) -> Result<(), String> {
        for entry in self.files.list(&self.directories.root).map_err(text)? {
            if entry.name.starts_with("index.") {
                self.files.remove_tree(&self.directories.root.join(entry.name)).map_err(text)?;
            }
        }
        Ok(())
    }

    /// Keeps the index up to date until the store is closed, or sled fails.
    fn serve(&mut self, inner: &Inner, fresh: bool) {
        let begun = match fresh {
            true => guarded(|| self.close()).and_then(|()| guarded(|| self.begin_anew())),
            false => guarded(|| self.forget_pages()),
        };
        let result = begun.and_then(|()| guarded(|| self.keep_up(inner)));
        // Not within the same guard: sled writes once more when it is closed, and a panic in that while another one unwinds
        // would end the process.
        let closed = guarded(|| self.close());
        let result = result.and(closed);
        if let Err(reason) = result {
            inner.catalogue.lock().index_lost();
            inner.index.set_lost(reason);
        }
        inner.index.stop_serving();
    }

    fn open(&mut self) -> Result<(), String> {
        self.existed = self.files.list(&self.directories.index).is_ok_and(|entries| !entries.is_empty());
        self.db = Some(open_sled(&*self.files, &self.directories.index)?);
        Ok(())
    }

    /// Opens it anew when much was read from it: sled keeps what was read in memory, beyond what its cache may take.
    fn forget_pages(&mut self) -> Result<(), String> {
        if self.summary.rows < MANY_ROWS {
            return Ok(());
        }
        self.close()?;
        self.open()
    }

    fn close(&mut self) -> Result<(), String> {
        if self.copy.take().is_some() {
            self.wait_until_closed(&self.directories.fresh)?;
        }
        if self.db.take().is_some() {
            self.wait_until_closed(&self.directories.index)?;
        }
        Ok(())
    }

    /// Threads of sled may hold its files for a moment longer than the handle exists. Nobody says when they are done,
    /// but its lock does.
    fn wait_until_closed(&self, directory: &Path) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        while self.files.lock(&directory.join("db")).map_err(text)?.is_none() {
            if Instant::now() >= end {
                return Err("sled does not let go of its files".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Puts aside what there is, and begins empty.
    fn begin_anew(&mut self) -> Result<(), String> {
        set_aside(&*self.files, &self.directories.root).map_err(text)?;
        self.summary = Summary::default();
        self.segments = Vec::new();
        self.open()
    }

    fn db(&self) -> Result<&sled::Db, String> {
        self.db.as_ref().ok_or_else(|| "the index is closed".into())
    }

    /// Gives all rows and compares them with the summary. `None`: the index is empty.
    fn load(&mut self, mut give: impl FnMut(Vec<(u64, Row)>)) -> Result<Option<Contents>, String> {
        let mut counted = Summary::default();
        let mut chunk = Vec::new();
        for entry in self.db()?.scan_prefix([ROW]) {
            let (key, value) = entry.map_err(text)?;
            let (Some(id), Some(row)) = (id(&key), Row::decode(&value)) else {
                return Err("a row is damaged".into());
            };
            counted.add(id, &value);
            chunk.push((id, row));
            if chunk.len() == BATCH {
                give(std::mem::take(&mut chunk));
            }
        }
        give(chunk);
        let Some(octets) = self.db()?.get(SUMMARY).map_err(text)? else {
            // What looks empty is garbage, or was never filled: if there are rows, they are not there now.
            return if self.existed { Err("the summary is missing".into()) } else { Ok(None) };
        };
        self.summary = Summary::decode(&octets).ok_or("the summary is damaged")?;
        if !self.summary.describes(&counted) {
            return Err("rows do not fit their summary".into());
        }
        let names = self.db()?.get(SEGMENTS).map_err(text)?;
        self.segments = match names {
            Some(octets) => decode_names(&octets).ok_or("the list of segments is damaged")?,
            None => Vec::new(),
        };
        Ok(Some(Contents { summary: self.summary, segments: self.segments.clone() }))
    }

    /// Writes behind the log until the store is closed.
    fn keep_up(&mut self, inner: &Inner) -> Result<(), String> {
        loop {
            if !self.round(inner)? {
                return Ok(());
            }
            while let Some(errand) = inner.index.next_errand() {
                if !self.run(errand, inner)? {
                    return Ok(());
                }
            }
            if self.batches >= SIZE_CHECK {
                self.batches = 0;
                self.rewrite_if_bloated(inner.tuning.index_octets)?;
            }
            if !inner.index.wait(inner.index_interval) {
                return self.round(inner).map(drop);
            }
        }
    }

    /// Whoever asked may have gone away: then nobody is told. False: a round was not finished, as in [`Index::round`].
    fn run(&mut self, errand: Errand, inner: &Inner) -> Result<bool, String> {
        match errand {
            Errand::Round(told) => {
                if !self.round(inner)? {
                    return Ok(false);
                }
                let _ = told.send(());
            }
            Errand::Rebuild(told) => {
                if !self.rebuild(inner)? {
                    return Ok(false);
                }
                self.tell_if_complete(&told);
            }
            Errand::Complete(told) => self.tell_if_complete(&told),
            Errand::Compare(told) => drop(told.send(self.compare(inner)?)),
        }
        Ok(true)
    }

    /// It is not when the store was closed meanwhile.
    fn tell_if_complete(&self, told: &SyncSender<u64>) {
        if self.summary.complete_to.is_some() {
            let _ = told.send(self.summary.rows);
        }
    }

    /// Puts the index aside and writes a new one. Returns whether it is finished.
    fn rebuild(&mut self, inner: &Inner) -> Result<bool, String> {
        tracing::info!("the spool's index is rebuilt from the log");
        self.close()?;
        // One that is put aside is enough.
        self.tidy()?;
        inner.catalogue.lock().index_anew();
        self.begin_anew()?;
        self.round(inner)
    }

    /// Compares all rows with what is known.
    fn compare(&self, inner: &Inner) -> Result<Comparison, String> {
        let mut found = Comparison::default();
        let mut counted = Summary::default();
        let mut rows = Vec::with_capacity(BATCH);
        let mut from = 0;
        let mut look = |ids: RangeInclusive<u64>, rows: &[(u64, Option<Location>)]| {
            let faults = inner.catalogue.lock().row_faults(ids, rows);
            for fault in faults {
                if found.faults.len() < MAX_FAULTS {
                    found.faults.push(fault);
                } else {
                    found.more += 1;
                }
            }
        };
        for entry in self.db()?.scan_prefix([ROW]) {
            let (key, value) = entry.map_err(text)?;
            let id = id(&key).ok_or("a row is damaged")?;
            counted.add(id, &value);
            rows.push((id, Row::decode(&value).map(|row| row.location)));
            if rows.len() == BATCH {
                look(from..=id, &rows);
                rows.clear();
                from = id.saturating_add(1);
            }
        }
        look(from..=u64::MAX, &rows);
        found.rows = counted.rows;
        found.is_summed_up = self.summary.describes(&counted);
        Ok(found)
    }

    /// Says how the index is.
    fn publish(&self, inner: &Inner) -> Result<(), String> {
        let entries = self.files.list(&self.directories.index).map_err(text)?;
        let octets = entries.iter().map(|entry| entry.length).sum();
        *inner.index.figures.lock() = Figures {
            rows: self.summary.rows,
            octets,
            complete_to: self.summary.complete_to,
            round: 0,
            left: 0,
        };
        Ok(())
    }

    /// Writes what has changed since the last round, in net. Returns whether that was all of it. When the store has waited long
    /// enough to be closed it is not, and this must be the last round: what was taken and not written is replayed at the next
    /// start, unless a later round says that the rows are complete.
    fn round(&mut self, inner: &Inner) -> Result<bool, String> {
        let (taken, segments) = {
            let mut catalogue = inner.catalogue.lock();
            let taken = catalogue.take_unindexed();
            (taken, catalogue.list().map(|(name, _)| name).collect::<Vec<u64>>())
        };
        let (ids, position) = taken.ok_or("the index was given up")?;
        if ids.is_empty() && self.summary.complete_to == Some(position) {
            self.publish(inner)?;
            return Ok(true);
        }
        let count = ids.len() as u64;
        let before = inner.index.figures();
        *inner.index.figures.lock() = Figures { round: count, left: count, ..before };
        let mut chunks = ids.chunks(BATCH).peekable();
        loop {
            let chunk = chunks.next().unwrap_or_default();
            let last = chunks.peek().is_none();
            if !last && inner.index.hurries() {
                return Ok(false);
            }
            if last {
                self.summary.complete_to = Some(position);
            }
            self.summary.last_id = inner.last_id.load(std::sync::atomic::Ordering::SeqCst);
            self.write(inner, chunk, last.then_some(&segments))?;
            inner.index.figures.lock().left -= chunk.len() as u64;
            if last {
                break;
            }
        }
        let path = self.directories.index.join("db");
        self.files.open(&path, Access::Read).and_then(|file| file.sync()).map_err(text)?;
        inner.catalogue.lock().indexed_to = Some(number(position.segment));
        inner.meter.index_rounds.inc();
        self.publish(inner)?;
        Ok(true)
    }

    /// Writes the rows of some messages, and the summary with them.
    fn write(&mut self, inner: &Inner, ids: &[u64], segments: Option<&Vec<u64>>) -> Result<(), String> {
        let mut batch = sled::Batch::default();
        for id in ids {
            let key = key(*id);
            if let Some(former) = self.db()?.get(key).map_err(text)? {
                self.summary.subtract(*id, &former);
            }
            let found = inner.load(*id).map_err(text)?;
            // One that came after the ids were taken is for the next round. Without that its end would not be told to the index.
            let found = found.filter(|(location, ..)| location.indexed);
            let Some((location, meta, state)) = found else {
                batch.remove(&key);
                continue;
            };
            let row = Row::encode(&location, &meta, state.as_deref());
            self.summary.add(*id, &row);
            batch.insert(&key, row);
        }
        batch.insert(SUMMARY, self.summary.encode());
        if let Some(names) = segments.filter(|names| **names != self.segments) {
            batch.insert(SEGMENTS, encode_names(names));
            self.segments.clone_from(names);
        }
        self.db()?.apply_batch(batch).map_err(text)?;
        // Without this sled's memory grows with what is not flushed.
        self.db()?.flush().map_err(text)?;
        self.batches += 1;
        Ok(())
    }

    /// sled gives no room back: copies the rows to a fresh index when it has grown far beyond them.
    fn rewrite_if_bloated(&mut self, allowed: u64) -> Result<(), String> {
        let entries = self.files.list(&self.directories.index).map_err(text)?;
        let size: u64 = entries.iter().map(|entry| entry.length).sum();
        if size <= allowed.max(SLACK * self.summary.octets) {
            return Ok(());
        }
        tracing::info!(size, rows = self.summary.rows, "rewriting the spool's index");
        self.copy_rows()?;
        // Closed before they are renamed: sled makes files by their names.
        self.close()?;
        let Directories { root, index, fresh, former } = &self.directories;
        self.files.remove_tree(former).map_err(text)?;
        self.files.rename(index, former).map_err(text)?;
        self.files.rename(fresh, index).map_err(text)?;
        self.files.sync_directory(root).map_err(text)?;
        self.files.remove_tree(former).map_err(text)?;
        self.open()
    }

    fn copy_rows(&mut self) -> Result<(), String> {
        let fresh = self.directories.fresh.clone();
        self.files.remove_tree(&fresh).map_err(text)?;
        let copy = self.copy.insert(open_sled(&*self.files, &fresh)?);
        let db = self.db.as_ref().ok_or("the index is closed")?;
        let mut counted = Summary::default();
        let mut batch = sled::Batch::default();
        for entry in db.scan_prefix([ROW]) {
            let (key, value) = entry.map_err(text)?;
            counted.add(id(&key).ok_or("a row is damaged")?, &value);
            batch.insert(key, value);
            if counted.rows % BATCH as u64 == 0 {
                copy.apply_batch(std::mem::take(&mut batch)).map_err(text)?;
                copy.flush().map_err(text)?;
            }
        }
        if !self.summary.describes(&counted) {
            return Err("rows do not fit their summary".into());
        }
        batch.insert(SUMMARY, self.summary.encode());
        batch.insert(SEGMENTS, encode_names(&self.segments));
        copy.apply_batch(batch).map_err(text)?;
        copy.flush().map_err(text)?;
        self.copy = None;
        self.wait_until_closed(&fresh)?;
        sync_all(&*self.files, &fresh)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::store::files::SystemFiles;
    use crate::store::{Change, NewBody, Spool, Store};

    fn location() -> Location {
        let mut location = Location::new(Place { segment: 3, unit: 40 }, 12, 2, true);
        location.set_state(Place { segment: 4, unit: 8 }, 6);
        location.indexed = true;
        location
    }

    #[test]
    fn a_row_is_read_as_it_was_written() {
        let row = Row::encode(&location(), b"meta", Some(b"state"));
        let texts = Some((b"meta".to_vec(), Some(b"state".to_vec())));
        assert_eq!(Row::decode(&row), Some(Row { location: location(), texts }));
        let long = Row::encode(&location(), &[7; INLINE], Some(b"s"));
        assert!(long.len() < 100);
        assert_eq!(Row::decode(&long), Some(Row { location: location(), texts: None }));
    }

    #[test]
    fn the_names_of_segments_are_read_as_they_were_written() {
        for names in [vec![], vec![1 << 32 | 5, 7 << 32]] {
            let row = encode_names(&names);
            assert_eq!(decode_names(&row), Some(names));
            assert_eq!(decode_names(&row[..row.len() - 1]), None);
        }
    }

    #[test]
    fn every_flipped_bit_of_a_row_is_seen() {
        let row = Row::encode(&location(), b"meta", None);
        for bit in 0..row.len() * 8 {
            let mut flipped = row.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Row::decode(&flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn a_row_that_comes_back_or_is_lost_does_not_fit_the_summary() {
        let row = Row::encode(&location(), b"meta", None);
        let other = Row::encode(&location(), b"other", None);
        let mut summary = Summary::default();
        summary.add(1, &row);
        summary.add(2, &row);
        assert_eq!(Summary::decode(&summary.encode()), Some(summary));
        let mut counted = Summary::default();
        counted.add(2, &row);
        assert!(!summary.describes(&counted));
        counted.add(1, &other);
        assert!(!summary.describes(&counted));
        counted.subtract(1, &other);
        counted.add(1, &row);
        assert!(summary.describes(&counted));
    }

    /// A store with so many messages that its indexer has not written yet.
    fn store_with_unindexed(path: &Path, messages: usize) -> Store {
        let hour = Duration::from_secs(3600);
        let config =
            postern_config::Queue { path: path.to_owned(), index_interval: hour, ..Default::default() };
        let (store, _) = Store::open(&config, Arc::new(postern_runtime::SystemClock)).unwrap();
        let (done, all_done) = channel();
        // Its first round is over when the index is complete up to a place.
        while store.inner.catalogue.lock().indexed_to.is_none() {
            std::thread::yield_now();
        }
        for _ in 0..messages {
            let body = NewBody::Inline(vec!["x".into()]);
            let change = Change::Enqueue { id: store.next_id(), meta: b"meta".to_vec(), body };
            let done = done.clone();
            store.commit(vec![change], Box::new(move |result| done.send(result.is_ok()).unwrap()));
        }
        drop(done);
        assert_eq!(all_done.iter().filter(|is_ok| *is_ok).count(), messages);
        store
    }

    #[test]
    fn an_index_that_is_not_finished_when_the_store_closes_is_not_called_complete() {
        for (waited, is_complete) in [(Duration::ZERO, true), (LAST_ROUND * 2, false)] {
            let directory = tempfile::tempdir().unwrap();
            let store = store_with_unindexed(&directory.path().join("spool"), 3 * BATCH);
            let mut index =
                Index::new(Directories::new(&directory.path().join("other")), Arc::new(SystemFiles));
            index.open().unwrap();
            // Without waking the store's own indexer.
            *store.inner.index.closed.lock() = Instant::now().checked_sub(waited);
            index.keep_up(&store.inner).unwrap();
            assert_eq!(index.summary.complete_to.is_some(), is_complete, "closed for {waited:?}");
            assert_eq!(index.summary.rows == 3 * BATCH as u64, is_complete);
            index.close().unwrap();
        }
    }

    #[test]
    fn a_message_that_comes_while_a_round_is_written_is_left_to_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let store = store_with_unindexed(&directory.path().join("spool"), 1);
        let mut index = Index::new(Directories::new(&directory.path().join("other")), Arc::new(SystemFiles));
        index.open().unwrap();
        let id = store.inner.catalogue.lock().messages_from(0, 1)[0].0;
        index.write(&store.inner, &[id], None).unwrap();
        assert_eq!(index.summary.rows, 0);
        let taken = store.inner.catalogue.lock().take_unindexed().unwrap().0;
        index.write(&store.inner, &taken, None).unwrap();
        assert_eq!((taken, index.summary.rows), (vec![id], 1));
        index.close().unwrap();
    }

    #[test]
    fn rewriting_keeps_the_rows_and_gives_room_back() {
        let directory = tempfile::tempdir().unwrap();
        let directories = Directories::new(directory.path());
        let mut index = Index::new(directories.clone(), Arc::new(SystemFiles));
        index.open().unwrap();
        let row = Row::encode(&location(), &[1; 1000], None);
        for id in 0..1200 {
            index.db().unwrap().insert(key(id), row.as_slice()).unwrap();
            index.summary.add(id, &row);
        }
        for id in 0..1100 {
            index.db().unwrap().remove(key(id)).unwrap();
            index.summary.subtract(id, &row);
        }
        index.db().unwrap().flush().unwrap();
        let size = || -> u64 {
            SystemFiles.list(&directories.index).unwrap().iter().map(|entry| entry.length).sum()
        };
        let before = size();
        index.rewrite_if_bloated(u64::MAX).unwrap();
        assert_eq!(size(), before);
        index.rewrite_if_bloated(0).unwrap();
        assert!(size() < before, "{} of {before}", size());
        assert!(!directories.fresh.exists() && !directories.former.exists());
        index.close().unwrap();
        let mut again = Index::new(directories, Arc::new(SystemFiles));
        again.open().unwrap();
        let mut ids = Vec::new();
        // The test wrote no summary; the rewriting did.
        assert!(again.load(|rows| ids.extend(rows.into_iter().map(|(id, _)| id))).unwrap().is_some());
        assert_eq!(ids, (1100..1200).collect::<Vec<u64>>());
    }
}
