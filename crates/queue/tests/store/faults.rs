//! Disks that fail: nothing that was acknowledged is lost, nothing that was refused counts, and the store recovers.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use postern_queue::QueueId;
use postern_queue::store::{Change, NewBody, Space, Store, StoreError};

use crate::disk::{Call, Disk, Say};
use crate::support::*;

const ENOSPC: i32 = 28;
const EIO: i32 = 5;
const EROFS: i32 = 30;

/// When calls fail.
#[derive(Debug)]
struct Plan {
    /// Calls that succeed before the first that fails.
    good: AtomicI64,
    /// Calls that fail then.
    bad: AtomicI64,
    error: i32,
    failed: AtomicU64,
    /// Octets that are written at once at most: short writes are the rule here.
    at_once: usize,
}

impl Plan {
    fn new(good: i64, bad: i64, error: i32) -> Arc<Self> {
        let (good, bad) = (AtomicI64::new(good), AtomicI64::new(bad));
        Arc::new(Self { good, bad, error, failed: AtomicU64::new(0), at_once: 700 })
    }

    /// From call `good` on until [`Plan::recover`].
    fn for_good(good: i64, error: i32) -> Arc<Self> {
        Self::new(good, i64::MAX, error)
    }

    fn recover(&self) {
        self.bad.store(0, Ordering::SeqCst);
    }

    fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst) > 0
    }
}

impl Say for Plan {
    fn before(&self, _path: &Path, _call: Call<'_>) -> io::Result<()> {
        if self.good.fetch_sub(1, Ordering::SeqCst) > 0 || self.bad.fetch_sub(1, Ordering::SeqCst) <= 0 {
            return Ok(());
        }
        self.failed.fetch_add(1, Ordering::SeqCst);
        Err(io::Error::from_raw_os_error(self.error))
    }

    fn at_once(&self) -> usize {
        self.at_once
    }
}

/// What was acknowledged.
#[derive(Debug, Default)]
struct Told {
    there: Vec<(QueueId, usize)>,
    gone: Vec<QueueId>,
    refused: Vec<QueueId>,
    state: Option<(QueueId, String)>,
}

impl Told {
    fn put(&mut self, store: &Store, length: usize) {
        let id = store.next_id();
        match try_commit(store, vec![enqueue(id, length)]) {
            Ok(()) => self.there.push((id, length)),
            Err(_) => self.refused.push(id),
        }
    }

    fn put_large(&mut self, store: &Store, length: usize) {
        let id = store.next_id();
        let file = store.begin_body(id).and_then(|mut file| {
            file.write(&content(id, length))?;
            file.finish()
        });
        let Ok(file) = file else { return self.refused.push(id) };
        let body = NewBody::Large { header: Vec::new(), body: file };
        match try_commit(store, vec![Change::Enqueue { id, meta: envelope(id), body }]) {
            Ok(()) => self.there.push((id, length)),
            Err(_) => self.refused.push(id),
        }
    }

    /// A report and the end of what it is about: one group.
    fn replace(&mut self, store: &Store) {
        let Some((old, length)) = self.there.pop() else { return };
        let new = store.next_id();
        match try_commit(store, vec![enqueue(new, 400), Change::Delete { id: old }]) {
            Ok(()) => {
                self.gone.push(old);
                self.there.push((new, 400));
            }
            Err(_) => {
                self.refused.push(new);
                self.there.push((old, length));
            }
        }
    }

    fn change(&mut self, store: &Store, text: &str) {
        let Some((id, _)) = self.there.first() else { return };
        if try_commit(store, vec![state(*id, text)]).is_ok() {
            self.state = Some((*id, text.to_owned()));
        }
    }

    fn check(&self, directory: &Path, what: &str) {
        let (store, found) = open(directory);
        let mut expected: Vec<QueueId> = self.there.iter().map(|(id, _)| *id).collect();
        expected.sort();
        assert_eq!(ids(&found), expected, "{what}: {self:?}");
        assert_eq!(found.damaged, 0, "{what}");
        for (id, length) in &self.there {
            assert_eq!(read(&store, *id).unwrap(), content(*id, *length), "{what}");
        }
        if let Some((id, text)) = &self.state {
            assert_eq!(state_of(&found, *id).as_ref(), Some(text), "{what}");
        }
    }
}

fn work(store: &Store, told: &mut Told) {
    told.put(store, 3000);
    told.put(store, 2000);
    told.change(store, "one");
    told.put(store, 2500);
    told.put_large(store, 9000);
    told.put(store, 3500);
    told.replace(store);
    told.change(store, "two");
    told.put(store, 100);
}

/// Uses a store on a disk that fails for a while, until it has recovered. Whether the disk failed at all.
fn fail(good: i64, bad: i64, error: i32) -> bool {
    let what = format!("{bad} calls after {good} fail with {error}");
    let directory = tempfile::tempdir().unwrap();
    let plan = Plan::new(good, bad, error);
    let files = || Arc::new(Disk(Arc::clone(&plan)));
    let mut told = Told::default();
    let store = loop {
        // A failure during the start is reported, and the next start succeeds once the disk does.
        if let Ok((store, _)) = open_on(directory.path(), files()) {
            break store;
        }
        assert!(plan.failed.load(Ordering::SeqCst) > 0, "{what}: does not open");
    };
    work(&store, &mut told);
    eventually(&what, || store.health().is_none());
    plan.bad.store(0, Ordering::SeqCst);
    eventually(&what, || {
        let id = store.next_id();
        let recovered = try_commit(&store, vec![enqueue(id, 10)]).is_ok();
        if recovered {
            delete(&store, id);
        }
        recovered
    });
    work(&store, &mut told);
    assert!(told.there.len() >= 6, "{what}: works again");
    store.close();
    told.check(directory.path(), &what);
    told.check(directory.path(), &what);
    plan.failed.load(Ordering::SeqCst) > 0
}

#[test]
fn whichever_call_fails_with_eio_nothing_is_lost_and_nothing_refused_comes_back() {
    for bad in [1, 2, 5] {
        let mut good = 0;
        while fail(good, bad, EIO) {
            good += 1;
        }
        assert!(good > 40, "only {good} calls were tried");
    }
}

#[test]
fn whichever_call_fails_with_enospc_nothing_is_lost_and_nothing_refused_comes_back() {
    for bad in [1, 3] {
        let mut good = 0;
        while fail(good, bad, ENOSPC) {
            good += 1;
        }
        assert!(good > 40, "only {good} calls were tried");
    }
}

#[test]
fn whichever_call_fails_because_the_disk_may_not_be_written_nothing_is_lost() {
    for bad in [1, 3] {
        let mut good = 0;
        while fail(good, bad, EROFS) {
            good += 1;
        }
        assert!(good > 40, "only {good} calls were tried");
    }
}

/// The disk takes nothing from some call on, as when the system has made it read-only, until it is repaired.
fn becomes_unwritable(good: i64, error: i32) -> bool {
    let what = format!("error {error} from call {good} on");
    let directory = tempfile::tempdir().unwrap();
    let plan = Plan::for_good(good, error);
    let files = || Arc::new(Disk(Arc::clone(&plan)));
    let mut told = Told::default();
    let store = match open_on(directory.path(), files()) {
        Ok((store, _)) => store,
        Err(refused) => {
            assert!(matches!(refused, StoreError::Io { .. }) && plan.has_failed(), "{what}: {refused}");
            plan.recover();
            open_on(directory.path(), files()).unwrap().0
        }
    };
    work(&store, &mut told);
    let has_failed = plan.has_failed();
    let is_bad = has_failed && plan.bad.load(Ordering::SeqCst) > 0;
    if is_bad {
        // Nothing is taken, that is said, and what is there can be read.
        let refused = told.refused.len();
        work(&store, &mut told);
        told.put(&store, 500);
        assert!(told.refused.len() > refused, "{what}");
        assert!(store.health().is_some(), "{what}: the store says that it is well");
        for (id, length) in &told.there {
            assert_eq!(read(&store, *id).unwrap(), content(*id, *length), "{what}");
        }
        plan.recover();
        // Nobody writes: the store finds out by itself.
        eventually(&what, || store.health().is_none());
    }
    plan.recover();
    let refused = told.refused.len();
    work(&store, &mut told);
    assert_eq!(told.refused.len(), refused, "{what}: takes mail again");
    store.close();
    told.check(directory.path(), &what);
    told.check(directory.path(), &what);
    has_failed
}

#[test]
fn a_disk_that_becomes_unwritable_is_said_to_be_and_is_used_again_when_it_is_repaired() {
    for error in [EROFS, EIO, ENOSPC] {
        let mut good = 0;
        while becomes_unwritable(good, error) {
            good += 1;
        }
        assert!(good > 40, "only {good} calls were tried");
    }
}

#[test]
fn writes_of_single_octets_are_put_together() {
    let directory = tempfile::tempdir().unwrap();
    let plan = Arc::new(Plan { at_once: 1, ..Arc::into_inner(Plan::new(i64::MAX, 0, EIO)).unwrap() });
    let (store, _) = open_on(directory.path(), Arc::new(Disk(plan))).unwrap();
    let mut told = Told::default();
    work(&store, &mut told);
    assert!(told.refused.is_empty());
    store.close();
    told.check(directory.path(), "single octets");
}

/// A disk that has room for nothing but what the reserve gives back.
#[derive(Debug)]
struct Full {
    reserve: PathBuf,
    full: AtomicBool,
}

impl Say for Full {
    fn before(&self, _path: &Path, call: Call<'_>) -> io::Result<()> {
        let needs_room = matches!(call, Call::Write(..) | Call::Allocate(_));
        if needs_room && self.full.load(Ordering::SeqCst) && self.reserve.exists() {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        Ok(())
    }

    fn space(&self) -> Option<Space> {
        let full = self.full.load(Ordering::SeqCst);
        full.then_some(Space { free: 1, inodes: 1000 })
    }
}

#[test]
fn on_a_full_disk_messages_can_be_read_and_can_end_but_none_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let reserve = directory.path().join("reserve");
    let disk = Arc::new(Full { reserve: reserve.clone(), full: false.into() });
    let (store, _) = open_on(directory.path(), Arc::new(Disk(Arc::clone(&disk)))).unwrap();
    let kept = put(&store, 1000);
    let ending = put(&store, 1000);
    assert!(reserve.exists());
    disk.full.store(true, Ordering::SeqCst);

    let refused = try_commit(&store, vec![enqueue(store.next_id(), 1000)]).unwrap_err();
    let StoreError::Io { source, .. } = &*refused else { panic!("{refused}") };
    assert_eq!(source.kind(), io::ErrorKind::StorageFull);
    assert!(!reserve.exists(), "the reserve is given up");
    commit(&store, vec![state(kept, "tried")]);
    delete(&store, ending);
    assert_eq!(read(&store, kept).unwrap(), content(kept, 1000));
    assert!(store.health().is_some());
    assert!(try_commit(&store, vec![enqueue(store.next_id(), 1000)]).is_err());

    // The reserve stays away and the store starts all the same.
    store.close();
    let (store, found) = open_on(directory.path(), Arc::new(Disk(Arc::clone(&disk)))).unwrap();
    assert_eq!((ids(&found), state_of(&found, kept).as_deref()), (vec![kept], Some("tried")));
    assert!(try_commit(&store, vec![enqueue(store.next_id(), 1000)]).is_err());
    commit(&store, vec![state(kept, "again")]);

    disk.full.store(false, Ordering::SeqCst);
    eventually("the reserve is back", || store.health().is_none());
    assert!(reserve.exists());
    let late = put(&store, 1000);
    store.close();
    assert_eq!(ids(&open(directory.path()).1), [kept, late]);
}

/// A log that can be written and neither synced nor cut back.
#[derive(Debug)]
struct Stubborn {
    is_bad: AtomicBool,
}

impl Say for Stubborn {
    fn before(&self, path: &Path, call: Call<'_>) -> io::Result<()> {
        let of_log = path.parent().is_some_and(|directory| directory.ends_with("log"));
        let refused = matches!(call, Call::Sync | Call::Truncate(_) | Call::Remove);
        if of_log && refused && self.is_bad.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        Ok(())
    }
}

#[test]
fn files_of_refused_messages_do_not_stay_while_a_segment_cannot_be_cut_back() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(Stubborn { is_bad: false.into() });
    let (store, _) = open_on(directory.path(), Arc::new(Disk(Arc::clone(&disk)))).unwrap();
    let mut told = Told::default();
    told.put_large(&store, 9000);
    disk.is_bad.store(true, Ordering::SeqCst);
    for _ in 0..10 {
        told.put_large(&store, 9000);
    }
    assert_eq!((told.there.len(), told.refused.len()), (1, 10));
    let files = || std::fs::read_dir(directory.path().join("big")).unwrap().count();
    eventually("at most one file more than is needed, which is in doubt", || files() <= 2);
    disk.is_bad.store(false, Ordering::SeqCst);
    eventually("the store recovers", || store.health().is_none());
    store.close();
    told.check(directory.path(), "after cutting back");
    assert_eq!(files(), 1);
}
