//! Giving room back changes nothing but the room.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use postern_queue::QueueId;
use postern_queue::store::{Change, Store};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::support::*;

#[test]
fn segments_in_which_nothing_counts_are_removed_and_nothing_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let first = put(&store, 100);
    let others: Vec<QueueId> = (0..60).map(|_| put(&store, 1000)).collect();
    assert!(segments(directory.path()).len() > 6);
    others.iter().for_each(|id| delete(&store, *id));
    eventually("removing segments", || {
        store.collect();
        segments(directory.path()).len() <= 3
    });
    assert_eq!(read(&store, first).unwrap(), content(first, 100));
    store.close();
    for without_index in [false, true] {
        if without_index {
            fs::remove_dir_all(directory.path().join("index")).unwrap();
        }
        let (store, found) = open(directory.path());
        assert_eq!((ids(&found), found.damaged), (vec![first], 0));
        assert_eq!(read(&store, first).unwrap(), content(first, 100));
    }
}

#[test]
fn a_state_outlives_its_segment() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let kept: Vec<QueueId> = (0..8).map(|_| put(&store, 1000)).collect();
    let filling: Vec<QueueId> = (0..4).map(|_| put(&store, 1500)).collect();
    kept.iter().for_each(|id| commit(&store, vec![state(*id, "tried once")]));
    commit(&store, vec![state(kept[0], "tried twice")]);
    let with_states = segments(directory.path());
    let more: Vec<QueueId> = (0..20).map(|_| put(&store, 1500)).collect();
    filling.iter().chain(&more).for_each(|id| delete(&store, *id));
    eventually("removing the segment with the states", || {
        store.collect();
        !with_states.last().unwrap().exists()
    });
    store.close();
    fs::remove_dir_all(directory.path().join("index")).unwrap();
    let (_store, found) = open(directory.path());
    assert_eq!(ids(&found), kept);
    assert_eq!(state_of(&found, kept[0]).as_deref(), Some("tried twice"));
    for id in &kept[1..] {
        assert_eq!(state_of(&found, *id).as_deref(), Some("tried once"));
    }
}

#[test]
fn a_deletion_outlives_its_segment_while_the_segment_of_its_message_exists() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    // The first segment stays: most of it counts.
    let kept: Vec<QueueId> = (0..5).map(|_| put(&store, 1200)).collect();
    let deleted = put(&store, 300);
    let first = segments(directory.path());
    assert_eq!(first.len(), 1);
    let filling: Vec<QueueId> = (0..12).map(|_| put(&store, 1200)).collect();
    delete(&store, deleted);
    let with_deletion = segments(directory.path()).pop().unwrap();
    let more: Vec<QueueId> = (0..12).map(|_| put(&store, 1200)).collect();
    filling.iter().chain(&more).for_each(|id| delete(&store, *id));
    eventually("removing the segment with the deletion", || {
        store.collect();
        !with_deletion.exists()
    });
    assert!(first[0].exists());
    store.close();
    fs::remove_dir_all(directory.path().join("index")).unwrap();
    assert_eq!(ids(&open(directory.path()).1), kept);
}

/// Collects until a segment is gone.
fn collect_until_gone(store: &Store, what: &str, segment: &Path) {
    eventually(what, || {
        store.collect();
        !segment.exists()
    });
}

#[test]
fn a_message_that_came_back_under_its_id_and_ended_again_does_not_come_back_once_more() {
    let directory = tempfile::tempdir().unwrap();
    let newest = || segments(directory.path()).pop().unwrap();
    let fill = |store: &Store| (0..12).map(|_| put(store, 1200)).collect::<Vec<QueueId>>();
    let (store, _) = open(directory.path());
    // A segment stays when most of it counts.
    let kept: Vec<QueueId> = (0..5).map(|_| put(&store, 1200)).collect();
    let returning = put(&store, 300);
    let first = newest();
    let mut filling = fill(&store);
    delete(&store, returning);
    let with_first_end = newest();
    filling.extend(fill(&store));
    let behind = newest();
    // Each start begins a segment.
    store.close();
    let (store, _) = open(directory.path());
    // As `queue import` does with what `queue drop --export` has removed.
    commit(&store, vec![enqueue(returning, 300)]);
    let second = newest();
    let kept_longer: Vec<QueueId> = (0..5).map(|_| put(&store, 1200)).collect();
    filling.extend(fill(&store));
    filling.drain(..).for_each(|id| delete(&store, id));
    collect_until_gone(&store, "removing what is behind the first end", &behind);
    assert!(with_first_end.exists(), "the first end cannot be copied while the message is there");
    store.close();
    let (store, _) = open(directory.path());
    assert_eq!(read(&store, returning).unwrap(), content(returning, 300));

    delete(&store, returning);
    let with_ends = newest();
    collect_until_gone(&store, "copying the first end behind the second one", &with_first_end);
    fill(&store).into_iter().for_each(|id| delete(&store, id));
    collect_until_gone(&store, "copying both ends", &with_ends);
    assert!(first.exists() && second.exists());
    // The second end is forgotten with the segment that it is for, the first one is not.
    kept_longer.into_iter().for_each(|id| delete(&store, id));
    collect_until_gone(&store, "removing the second segment", &second);
    let with_first_end = newest();
    fill(&store).into_iter().for_each(|id| delete(&store, id));
    collect_until_gone(&store, "copying the first end once more", &with_first_end);
    store.close();
    fs::remove_dir_all(directory.path().join("index")).unwrap();
    assert_eq!(ids(&open(directory.path()).1), kept);
}

#[test]
fn readers_are_not_disturbed() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let store = Arc::new(store);
    let kept: Vec<QueueId> = (0..100)
        .flat_map(|_| {
            let kept = put(&store, 500);
            let gone = [put(&store, 1000), put(&store, 1000)];
            gone.into_iter().for_each(|id| delete(&store, id));
            [kept]
        })
        .collect();
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (store, kept, done) = (Arc::clone(&store), kept.clone(), Arc::clone(&done));
            std::thread::spawn(move || {
                let mut rounds = 0;
                while !done.load(Ordering::Relaxed) || rounds == 0 {
                    for id in &kept {
                        assert_eq!(read(&store, *id).unwrap(), content(*id, 500));
                    }
                    rounds += 1;
                }
            })
        })
        .collect();
    let before = segments(directory.path());
    for _ in 0..40 {
        let id = put(&store, 3000);
        delete(&store, id);
        store.collect();
    }
    eventually("moving everything", || {
        store.collect();
        !before[..10].iter().any(|path| path.exists())
    });
    done.store(true, Ordering::Relaxed);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    drop(store);
    assert_eq!(ids(&open(directory.path()).1), kept);
}

#[test]
fn a_message_that_was_moved_and_ended_does_not_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let moved = put(&store, 200);
    let fill = |count: usize| {
        let filling: Vec<QueueId> = (0..count).map(|_| put(&store, 1500)).collect();
        filling.into_iter().for_each(|id| delete(&store, id));
    };
    fill(10);
    let first = segments(directory.path()).remove(0);
    eventually("moving", || {
        store.collect();
        !first.exists()
    });
    // As if the removal had not reached the disk: the message is in two segments.
    commit(&store, vec![state(moved, "tried"), Change::Delete { id: moved }]);
    fill(30);
    eventually("removing", || {
        store.collect();
        segments(directory.path()).len() <= 2
    });
    store.close();
    fs::remove_dir_all(directory.path().join("index")).unwrap();
    assert_eq!(ids(&open(directory.path()).1), []);
}

#[test]
fn what_changes_while_it_is_copied_has_the_last_word() {
    let directory = tempfile::tempdir().unwrap();
    // Writes that take their time leave room for the race.
    let (store, _) = open_synced(directory.path());
    let messages: Vec<QueueId> = (0..40)
        .map(|_| {
            let (kept, gone) = (put(&store, 100), put(&store, 1500));
            delete(&store, gone);
            kept
        })
        .collect();
    let mut last = HashMap::new();
    let mut random = StdRng::seed_from_u64(1);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                store.collect();
            }
        });
        for round in 0..400 {
            let text = format!("round {round}");
            let changed: Vec<QueueId> =
                (0..6).map(|_| messages[random.random_range(0..messages.len())]).collect();
            commit(&store, changed.iter().map(|id| state(*id, &text)).collect());
            changed.iter().for_each(|id| drop(last.insert(*id, text.clone())));
            let filling = put(&store, 4000);
            delete(&store, filling);
        }
        done.store(true, Ordering::Relaxed);
    });
    messages[30..].iter().for_each(|id| delete(&store, *id));
    store.collect();
    drop(store);
    fs::remove_dir_all(directory.path().join("index")).unwrap();
    let (_store, found) = open(directory.path());
    assert_eq!(ids(&found), messages[..30]);
    for id in &messages[..30] {
        assert_eq!(state_of(&found, *id).as_ref(), last.get(id));
    }
}
