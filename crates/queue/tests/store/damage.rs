//! Damage to the log costs what is damaged.

use std::fs;

use postern_queue::QueueId;
use postern_queue::store::StoreError;

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
