//! A small spool with small segments.

use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use postern_queue::QueueId;
use postern_queue::store::check::{Finding, Subject};
use postern_queue::store::files::{Files, SystemFiles};
use postern_queue::store::job::Tidings;
use postern_queue::store::{Change, Found, NewBody, Store, StoreError, Tuning};
use postern_runtime::{Clock, SystemClock};

pub use postern_queue::Spool as _;

use crate::disk::{Disk, Nothing};

/// Small segments, so that a few messages fill several.
pub const SEGMENT: u64 = 8 * 1024;

pub fn config(directory: &Path) -> postern_config::Queue {
    postern_config::Queue {
        path: directory.to_owned(),
        segment_size: SEGMENT,
        index_interval: Duration::from_millis(5),
        ..postern_config::Queue::default()
    }
}

pub fn tuning() -> Tuning {
    Tuning {
        compaction_age: Duration::ZERO,
        dead_octets: 0,
        copy_rate: u64::MAX,
        probe_interval: Duration::from_millis(5),
        ..Tuning::default()
    }
}

/// Opens a store that does not wait for the disk: what is read back in the same minute needs no sync.
pub fn open(directory: &Path) -> (Store, Found) {
    open_on(directory, Arc::new(Disk(Arc::new(Nothing)))).unwrap()
}

/// Opens a store as it is in use.
pub fn open_synced(directory: &Path) -> (Store, Found) {
    open_on(directory, Arc::new(SystemFiles)).unwrap()
}

pub fn open_on(directory: &Path, files: Arc<dyn Files>) -> Result<(Store, Found), StoreError> {
    open_at(directory, files, Arc::new(SystemClock))
}

/// Opens a store whose time is that of a clock of the test's.
pub fn open_at(
    directory: &Path,
    files: Arc<dyn Files>,
    clock: Arc<dyn Clock>,
) -> Result<(Store, Found), StoreError> {
    open_patiently(|| Store::open_with(&config(directory), files.clone(), clock.clone(), tuning()))
}

/// Opens a store that may have been closed a moment ago. A process that another test starts just then has the lock for a
/// moment, too: from its parent, until it becomes the program that it was started for.
pub fn open_patiently<T>(open: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
    loop {
        match open() {
            Err(StoreError::InUse(holder))
                if holder.process == Some(std::process::id()) && std::time::Instant::now() < end =>
            {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            result => return result,
        }
    }
}

/// Hears what has become of a change.
pub type Told = Receiver<Result<(), Arc<StoreError>>>;

/// Commits and does not wait.
pub fn hand_over(store: &Store, changes: Vec<Change>) -> Told {
    let (sender, told) = channel();
    store.commit(changes, Box::new(move |result| drop(sender.send(result))));
    told
}

/// Commits and waits.
pub fn try_commit(store: &Store, changes: Vec<Change>) -> Result<(), Arc<StoreError>> {
    let told = hand_over(store, changes);
    store.hurry();
    told.recv_timeout(Duration::from_secs(30)).unwrap()
}

pub fn commit(store: &Store, changes: Vec<Change>) {
    try_commit(store, changes).unwrap();
}

/// The content of a message, different for each id.
pub fn content(id: QueueId, length: usize) -> Vec<u8> {
    let seed = format!("{id} ");
    seed.bytes().cycle().take(length).collect()
}

pub fn envelope(id: QueueId) -> Vec<u8> {
    format!("envelope of {id}").into_bytes()
}

pub fn enqueue(id: QueueId, length: usize) -> Change {
    let content = Bytes::from(content(id, length));
    let half = length / 2;
    let body = NewBody::Inline(vec![content.slice(..half), content.slice(half..)]);
    Change::Enqueue { id, meta: envelope(id), body }
}

pub fn state(id: QueueId, text: &str) -> Change {
    Change::State { id, state: text.as_bytes().to_vec() }
}

/// A new message, committed.
pub fn put(store: &Store, length: usize) -> QueueId {
    let id = store.next_id();
    commit(store, vec![enqueue(id, length)]);
    id
}

pub fn delete(store: &Store, id: QueueId) {
    commit(store, vec![Change::Delete { id }]);
}

pub fn read(store: &Store, id: QueueId) -> Result<Vec<u8>, StoreError> {
    let mut body = store.read(id)?;
    let length = body.len();
    let mut octets = Vec::new();
    while let Some(piece) = body.next()? {
        assert!(piece.len() <= 256 * 1024);
        octets.extend_from_slice(&piece);
    }
    assert_eq!(octets.len() as u64, length);
    Ok(octets)
}

pub fn ids(found: &Found) -> Vec<QueueId> {
    found.messages.iter().map(|message| message.id).collect()
}

pub fn state_of(found: &Found, id: QueueId) -> Option<String> {
    let message = found.messages.iter().find(|message| message.id == id)?;
    message.state.clone().map(|state| String::from_utf8(state).unwrap())
}

/// A number from the environment.
pub fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} should be a number, not {text:?}")))
}

/// Tells the person who runs the tests something even when they pass: the table of a long one.
pub fn say(text: &str) {
    // A closed standard error is no reason to fail.
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// A message with a file of its own, behind [`HEADER`].
pub fn put_large(store: &Store, length: usize) -> QueueId {
    let id = store.next_id();
    let mut file = store.begin_body(id).unwrap();
    content(id, length).chunks(100_000).for_each(|piece| file.write(piece).unwrap());
    let body = NewBody::Large { header: HEADER.to_vec(), body: file.finish().unwrap() };
    commit(store, vec![Change::Enqueue { id, meta: envelope(id), body }]);
    id
}

/// Our header fields of a large message.
pub const HEADER: &[u8] = b"Received: from client.test\r\n";

/// Hears the news of a job and lets it go on.
pub fn listen(_news: Tidings) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The findings of a job.
#[derive(Default)]
pub struct Findings(pub Vec<Finding>);

impl Findings {
    pub fn listener(&mut self) -> impl FnMut(Tidings) -> ControlFlow<()> {
        |news| {
            if let Tidings::Finding(finding) = news {
                self.0.push(finding);
            }
            ControlFlow::Continue(())
        }
    }

    /// What they are about, notes left out.
    pub fn about(&self) -> Vec<Subject> {
        self.0.iter().filter(|finding| !finding.is_note).map(|finding| finding.about).collect()
    }
}

/// Inverts a bit in a file that may be in use: nothing else of it is touched.
pub fn flip(path: &Path, at: usize) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut octet = [0];
    file.read_exact_at(&mut octet, at as u64).unwrap();
    file.write_all_at(&[octet[0] ^ 4], at as u64).unwrap();
}

/// Waits for what another thread does.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within a minute");
        std::thread::yield_now();
    }
}

/// The segments of a spool, oldest first.
pub fn segments(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut paths: Vec<_> =
        std::fs::read_dir(directory.join("log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// How many segments the store has missed.
pub fn missing(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory.join("damaged")).into_iter().flatten();
    entries.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|e| e == "missing")).count()
}

/// Copies a directory as a crash would leave it.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
