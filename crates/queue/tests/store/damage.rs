//! Damage to the log costs what is damaged.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use postern_queue::QueueId;
use postern_queue::store::files::Access;
use postern_queue::store::quarantine::KeptKind;
use postern_queue::store::{Store, StoreError};
use postern_runtime::SystemClock;

use crate::disk::{Call, Disk, Say};
use crate::support::*;

#[test]
fn a_flipped_bit_anywhere_in_the_log_costs_one_message_at_most_and_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let messages: Vec<QueueId> = (0..16).map(|_| put(&store, 900)).collect();
    commit(&store, vec![state(messages[0], "tried")]);
    delete(&store, messages[15]);
    store.close();
    // Without the index, which would make up for much of it.
    fs::remove_dir_all(directory.path().join("index")).unwrap();
    for (file, path) in segments(directory.path()).iter().enumerate() {
        let whole = fs::read(path).unwrap();
        for at in (file * 7..whole.len()).step_by(211) {
            let damaged = tempfile::tempdir().unwrap();
            copy(directory.path(), damaged.path());
            let mut octets = whole.clone();
            octets[at] ^= 1 << (at % 8);
            fs::write(damaged.path().join("log").join(path.file_name().unwrap()), octets).unwrap();
            let (store, found) = open(damaged.path());
            let readable = messages[..15].iter().filter(|id| match read(&store, **id) {
                Ok(octets) => octets == content(**id, 900),
                Err(StoreError::Damaged(_) | StoreError::NoMessage(_)) => false,
                Err(error) => panic!("{error}"),
            });
            let readable = readable.count();
            assert!(readable >= 14, "{} lost by a flip at {at} of segment {file}", 15 - readable);
            assert!(!ids(&found).contains(&messages[15]), "a deleted message is back");
            let unnoticed = found.damaged == 0 && readable < 15;
            let in_sight = ids(&found).len() == 15;
            assert!(!unnoticed || in_sight, "a message is gone and nobody was told");
        }
    }
}

#[test]
fn a_segment_with_damage_is_never_removed() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let messages: Vec<QueueId> = (0..20).map(|_| put(&store, 900)).collect();
    store.close();
    let first = segments(directory.path()).remove(0);
    let mut octets = fs::read(&first).unwrap();
    octets[100] ^= 1;
    fs::write(&first, octets).unwrap();
    // The index does not know; the collector finds out before it removes anything.
    let (store, found) = open(directory.path());
    assert_eq!(found.damaged, 0);
    messages.iter().for_each(|id| delete(&store, *id));
    let others = segments(directory.path());
    eventually("removing the other segments", || {
        store.collect();
        segments(directory.path()).iter().filter(|path| others[1..3].contains(path)).count() == 0
    });
    assert!(first.exists());
    store.close();
    fs::remove_dir_all(directory.path().join("index")).unwrap();
    let (store, found) = open(directory.path());
    assert_eq!((ids(&found), found.damaged), (Vec::new(), 1), "deletions outlive their segments for it");
    assert!(fs::read_dir(directory.path().join("damaged")).unwrap().count() > 0);
    store.collect();
    assert!(first.exists());
}

/// A disk with a segment that cannot be opened, or not be read at one place.
#[derive(Debug, Default)]
struct BadSegment {
    segment: Mutex<Option<PathBuf>>,
    /// The place. `None`: it cannot be opened.
    offset: Mutex<Option<u64>>,
    /// What the system says.
    error: i32,
}

impl BadSegment {
    fn fail(&self, path: &Path, is_meant: impl FnOnce(Option<u64>) -> bool) -> io::Result<()> {
        let is_bad = self.segment.lock().as_deref() == Some(path) && is_meant(*self.offset.lock());
        if is_bad { Err(io::Error::from_raw_os_error(self.error)) } else { Ok(()) }
    }
}

impl Say for BadSegment {
    fn before(&self, _path: &Path, _call: Call<'_>) -> io::Result<()> {
        Ok(())
    }

    fn before_open(&self, path: &Path, _access: Access) -> io::Result<()> {
        self.fail(path, |offset| offset.is_none())
    }

    fn before_read(&self, path: &Path, octets: Range<u64>) -> io::Result<()> {
        self.fail(path, |offset| offset.is_some_and(|offset| octets.contains(&offset)))
    }
}

const ENOENT: i32 = 2;
const EIO: i32 = 5;
const ENOMEM: i32 = 12;
const EACCES: i32 = 13;
const EMFILE: i32 = 24;
const EBADMSG: i32 = 74;
const EUCLEAN: i32 = 117;

/// A segment from which a message must be copied is bad, at an offset from its end or as a whole.
fn other_segments_go(from_end: Option<u64>, error: i32) {
    let directory = tempfile::tempdir().unwrap();
    let config = postern_config::Queue { segment_size: 40_000, ..config(directory.path()) };
    let disk = Arc::new(BadSegment { error, ..BadSegment::default() });
    let open = || {
        let files = Arc::new(Disk(Arc::clone(&disk)));
        Store::open_with(&config, files, Arc::new(SystemClock), tuning()).unwrap()
    };
    let (store, _) = open();
    let mut ending: Vec<QueueId> = (0..2).map(|_| put(&store, 14_000)).collect();
    let kept = put(&store, 9000);
    ending.extend((0..6).map(|_| put(&store, 14_000)));
    // So that no segment is open any more.
    store.close();
    let all = segments(directory.path());
    let (store, _) = open();
    *disk.offset.lock() = from_end.map(|from_end| fs::metadata(&all[0]).unwrap().len() - from_end);
    *disk.segment.lock() = Some(all[0].clone());
    ending.iter().for_each(|id| delete(&store, *id));
    eventually("removing the other segments", || {
        store.collect();
        all[1..].iter().all(|path| !path.exists())
    });
    store.compact(&mut listen).unwrap();
    assert!(all[0].exists());
    *disk.segment.lock() = None;
    assert_eq!(read(&store, kept).unwrap(), content(kept, 9000));
    store.close();
    // The next start finds it well, and empties it.
    let (store, found) = open();
    assert_eq!((ids(&found), found.damaged), (vec![kept], 0));
    eventually("emptying it", || {
        store.collect();
        !all[0].exists()
    });
    assert_eq!(read(&store, kept).unwrap(), content(kept, 9000));
}

#[test]
fn a_segment_that_cannot_be_read_or_opened_does_not_keep_the_others_from_going() {
    other_segments_go(Some(4500), EIO);
    other_segments_go(None, EIO);
    other_segments_go(None, ENOENT);
}

/// Makes a record of a message unreadable while the store is in use, touches the message, and writes the index anew.
fn index_outlives(break_it: impl Fn(&BadSegment, &Path, u64), heal: impl Fn(&BadSegment, &Path, u64)) {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(BadSegment { error: EIO, ..BadSegment::default() });
    let open = || open_on(directory.path(), Arc::new(Disk(Arc::clone(&disk)))).unwrap();
    let (store, _) = open();
    let messages: Vec<QueueId> = (0..20).map(|_| put(&store, 1000)).collect();
    eventually("rows of all", || store.status().index.rows == 20);
    let segment = segments(directory.path()).remove(0);
    let text = envelope(messages[3]);
    let octets = fs::read(&segment).unwrap();
    let at = octets.windows(text.len()).position(|piece| piece == text).unwrap() as u64;
    break_it(&disk, &segment, at);

    commit(&store, vec![state(messages[3], "tried")]);
    put(&store, 100);
    eventually("a round", || store.status().index.rows == 21 || store.index_lost().is_some());
    assert_eq!(store.index_lost(), None);
    assert_eq!(store.rebuild_index(&mut listen).unwrap(), 21);
    store.close();
    let (store, found) = open();
    assert_eq!((ids(&found).len(), found.damaged, found.index_rebuilt), (21, 1, None));
    assert!(found.messages[3].meta.is_empty());
    store.close();

    heal(&disk, &segment, at);
    let (_, found) = open();
    assert_eq!((found.damaged, found.index_rebuilt.as_deref()), (0, None));
    assert_eq!(found.messages[3].meta, text);
    assert_eq!(state_of(&found, messages[3]).as_deref(), Some("tried"));
}

#[test]
fn a_message_that_cannot_be_read_does_not_cost_the_index() {
    let flip = |_: &BadSegment, segment: &Path, at: u64| flip(segment, at as usize);
    index_outlives(flip, flip);
    let break_it = |disk: &BadSegment, segment: &Path, at| {
        *disk.offset.lock() = Some(at);
        *disk.segment.lock() = Some(segment.to_owned());
    };
    index_outlives(break_it, |disk, _, _| *disk.segment.lock() = None);
}

/// Opens a spool one of whose segments cannot be opened. The messages in it, and all.
fn spool_with_bad_segment(disk: &BadSegment, directory: &Path, pick: usize) -> [Vec<QueueId>; 2] {
    let (store, _) = open(directory);
    let all: Vec<QueueId> = (0..20).map(|_| put(&store, 900)).collect();
    store.close();
    // The whole log is read.
    fs::remove_dir_all(directory.join("index")).unwrap();
    let path = segments(directory).remove(pick);
    let octets = fs::read(&path).unwrap();
    let is_inside = |id: &QueueId| octets.windows(25).any(|piece| piece == envelope(*id));
    *disk.segment.lock() = Some(path);
    [all.iter().copied().filter(is_inside).collect(), all]
}

#[test]
fn a_segment_that_the_medium_does_not_give_does_not_keep_the_store_from_opening() {
    for error in [EIO, EUCLEAN, EBADMSG] {
        let directory = tempfile::tempdir().unwrap();
        let disk = Arc::new(BadSegment { error, ..BadSegment::default() });
        let [inside, mut all] = spool_with_bad_segment(&disk, directory.path(), 1);
        assert!(!inside.is_empty() && inside.len() < all.len());
        let bad = disk.segment.lock().clone().unwrap();
        // Neither start may lose it, also not with an index that was completed without it.
        for _ in 0..2 {
            let (store, found) = open_on(directory.path(), Arc::new(Disk(Arc::clone(&disk)))).unwrap();
            let readable: Vec<QueueId> = all.iter().copied().filter(|id| !inside.contains(id)).collect();
            assert_eq!((ids(&found), found.damaged), (readable, 1), "error {error}");
            all.push(put(&store, 900));
            let ended = all.remove(0);
            delete(&store, ended);
            store.collect();
            assert_eq!(store.quarantine().unwrap()[0].kind, KeptKind::UnreadableSegment);
            store.close();
            assert!(bad.exists());
        }
        *disk.segment.lock() = None;
        for is_known_sound in [false, true] {
            let (store, found) = open_on(directory.path(), Arc::new(Disk(Arc::clone(&disk)))).unwrap();
            assert_eq!((ids(&found), found.damaged), (all.clone(), 0), "error {error}");
            assert_eq!(store.quarantine().unwrap().is_empty(), is_known_sound);
            store.close();
        }
    }
}

#[test]
fn a_segment_that_somebody_can_set_right_or_the_newest_is_not_passed_over() {
    for (error, newest) in [(EACCES, false), (EMFILE, false), (ENOMEM, false), (EIO, true)] {
        let directory = tempfile::tempdir().unwrap();
        let disk = Arc::new(BadSegment { error, ..BadSegment::default() });
        let pick = if newest { 2 } else { 1 };
        let [_, all] = spool_with_bad_segment(&disk, directory.path(), pick);
        assert_eq!(segments(directory.path()).len(), 3);
        let refused = open_on(directory.path(), Arc::new(Disk(Arc::clone(&disk)))).unwrap_err().to_string();
        let path = disk.segment.lock().take().unwrap();
        assert!(refused.contains(&*path.to_string_lossy()), "{refused}");
        let (_, found) = open_on(directory.path(), Arc::new(Disk(Arc::clone(&disk)))).unwrap();
        assert_eq!((ids(&found), found.damaged), (all, 0), "error {error}");
    }
}

#[test]
fn foreign_files_in_the_log_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let id = put(&store, 10);
    store.close();
    for name in ["seg-zz.log", "seg-0000000000000001.log", "README"] {
        fs::write(directory.path().join("log").join(name), "mine").unwrap();
    }
    let (store, found) = open(directory.path());
    assert_eq!((ids(&found), found.damaged), (vec![id], 3));
    store.collect();
    assert!(directory.path().join("log/README").exists());
}
