//! A wall clock that is set: ids grow all the same, and none is ever given to two messages.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use postern_queue::QueueId;
use postern_queue::store::Store;
use postern_runtime::ManualClock;

use crate::disk::{Disk, Nothing};
use crate::support::*;

const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_284_325)
}

fn open_with_clock(directory: &std::path::Path, clock: &ManualClock) -> Store {
    open_at(directory, Arc::new(Disk(Arc::new(Nothing))), Arc::new(clock.clone())).unwrap().0
}

/// The times that a clock is set to, one after the other.
fn jumps() -> [SystemTime; 7] {
    [
        start(),
        start() - DAY,
        start() + YEAR,
        start() + Duration::from_secs(1),
        SystemTime::UNIX_EPOCH,
        SystemTime::UNIX_EPOCH - YEAR,
        start() + DAY,
    ]
}

#[test]
fn ids_grow_whatever_the_clock_is_set_to_between_two_starts() {
    for (ends, index) in [(true, true), (true, false), (false, true), (false, false)] {
        let directory = tempfile::tempdir().unwrap();
        let mut last = QueueId(0);
        for time in jumps() {
            let store = open_with_clock(directory.path(), &ManualClock::new(time));
            for length in [10, 3000, 4000] {
                let id = put(&store, length);
                assert!(id > last, "{id} is not after {last} at {time:?}");
                last = id;
                if ends {
                    delete(&store, id);
                }
            }
            // Ids that are gone with their segments are remembered too.
            for _ in 0..3 {
                store.collect();
            }
            store.close();
            if !index {
                std::fs::remove_dir_all(directory.path().join("index")).unwrap();
            }
        }
    }
}

#[test]
fn ids_grow_whatever_the_clock_is_set_to_while_the_store_runs() {
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(start());
    let store = open_with_clock(directory.path(), &clock);
    let mut given = Vec::new();
    for time in jumps() {
        clock.set(time);
        given.extend((0..300).map(|_| store.next_id()));
        given.push(put(&store, 100));
    }
    assert!(given.is_sorted_by(|former, later| former < later));
}

#[test]
fn an_id_says_when_unless_the_clock_went_back() {
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(start());
    let store = open_with_clock(directory.path(), &clock);
    let micros = |id: QueueId| Duration::from_micros(id.0 >> 8);
    assert_eq!(SystemTime::UNIX_EPOCH + micros(store.next_id()), start());
    clock.advance(DAY);
    let ahead = store.next_id();
    assert_eq!(SystemTime::UNIX_EPOCH + micros(ahead), start() + DAY);
    clock.set(start());
    assert_eq!(store.next_id().0, ahead.0 + 1);
}

#[test]
fn messages_of_a_clock_that_was_ahead_are_not_taken_for_recent_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(start() + YEAR);
    let store = open_with_clock(directory.path(), &clock);
    let id = put(&store, 100);
    assert!(store.read(id).unwrap().is_warm());
    clock.set(start());
    assert!(!store.read(id).unwrap().is_warm());
}

#[test]
fn ids_grow_when_the_clock_goes_back_and_the_newest_segment_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_with_clock(directory.path(), &ManualClock::new(start() + YEAR));
    let last = [10, 9000, 20].map(|length| put(&store, length))[2];
    store.close();
    let newest = segments(directory.path()).pop().unwrap();
    std::fs::remove_file(newest).unwrap();
    let store = open_with_clock(directory.path(), &ManualClock::new(start()));
    assert!(store.next_id() > last, "the index remembers");
}
