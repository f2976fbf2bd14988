//! Messages with a file of their own.

use std::fs;
use std::path::Path;

use postern_queue::QueueId;
use postern_queue::store::StoreError;

use crate::support::*;

fn expected(id: QueueId, length: usize) -> Vec<u8> {
    [HEADER, &content(id, length)].concat()
}

fn files(directory: &Path) -> usize {
    fs::read_dir(directory.join("big")).unwrap().count()
}

#[test]
fn a_large_message_is_read_as_it_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let lengths = [0, 1, 256 * 1024, 1_000_000];
    let messages = lengths.map(|length| put_large(&store, length));
    store.close();
    let (store, found) = open(directory.path());
    assert_eq!(ids(&found), messages);
    for (id, length) in messages.into_iter().zip(lengths) {
        assert_eq!(read(&store, id).unwrap(), expected(id, length));
        assert!(!store.read(id).unwrap().is_warm());
    }
}

#[test]
fn the_file_of_a_message_that_has_ended_is_removed_and_who_reads_it_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let id = put_large(&store, 600_000);
    let mut reader = store.read(id).unwrap();
    delete(&store, id);
    eventually("removing the file", || files(directory.path()) == 0);
    let mut octets = Vec::new();
    while let Some(piece) = reader.next().unwrap() {
        octets.extend_from_slice(&piece);
    }
    assert_eq!(octets, expected(id, 600_000));
    assert!(matches!(store.read(id), Err(StoreError::NoMessage(_))));
}

#[test]
fn files_that_no_message_mentions_are_removed_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let kept = put_large(&store, 1000);
    store.close();
    fs::write(directory.path().join("big/0000000000000007"), "of a session that was killed").unwrap();
    let (store, found) = open(directory.path());
    assert_eq!((files(directory.path()), found.damaged), (1, 0));
    assert_eq!(read(&store, kept).unwrap(), expected(kept, 1000));
}

#[test]
fn a_file_that_is_not_committed_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let mut unfinished = store.begin_body(store.next_id()).unwrap();
    unfinished.write(&[0; 300_000]).unwrap();
    let finished = store.begin_body(store.next_id()).unwrap().finish().unwrap();
    assert_eq!(files(directory.path()), 2);
    drop((unfinished, finished));
    assert_eq!(files(directory.path()), 0);
}

#[test]
fn a_message_survives_the_removal_of_its_segment_with_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let id = put_large(&store, 5000);
    let others: Vec<QueueId> = (0..20).map(|_| put(&store, 1000)).collect();
    let first = segments(directory.path()).remove(0);
    others.into_iter().for_each(|other| delete(&store, other));
    eventually("removing the first segment", || {
        store.collect();
        !first.exists()
    });
    assert_eq!(read(&store, id).unwrap(), expected(id, 5000));
    store.close();
    let (store, found) = open(directory.path());
    assert_eq!(ids(&found), [id]);
    assert_eq!(read(&store, id).unwrap(), expected(id, 5000));
}

#[test]
fn a_lost_or_damaged_file_is_seen_and_its_message_stays_in_sight() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let lost = put_large(&store, 1000);
    let damaged = put_large(&store, 1000);
    let short = put_large(&store, 1000);
    store.close();
    let path = |id: QueueId| directory.path().join(format!("big/{:016x}", id.0));
    fs::remove_file(path(lost)).unwrap();
    let mut octets = fs::read(path(damaged)).unwrap();
    octets[500] ^= 1;
    fs::write(path(damaged), octets).unwrap();
    fs::write(path(short), "short").unwrap();
    let (store, found) = open(directory.path());
    assert_eq!((ids(&found), found.damaged), (vec![lost, damaged, short], 1));
    for id in [lost, damaged, short] {
        assert!(matches!(read(&store, id), Err(StoreError::Damaged(_))));
    }
}
