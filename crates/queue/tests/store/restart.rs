//! What was acknowledged is there after a restart, and nothing else.

use std::sync::Arc;

use postern_queue::QueueId;
use postern_queue::store::files::SystemFiles;
use postern_queue::store::{Change, Store, StoreError};
use postern_runtime::SystemClock;

use crate::support::*;

#[test]
fn what_was_committed_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (store, found) = open_synced(directory.path());
    assert!(found.messages.is_empty());
    assert_eq!((found.damaged, found.index_rebuilt), (0, None));
    let messages: Vec<QueueId> = (0..40).map(|n| put(&store, n * 100)).collect();
    commit(&store, vec![state(messages[3], "first")]);
    commit(&store, vec![state(messages[3], "second"), Change::Delete { id: messages[4] }]);
    store.close();

    let (store, found) = open_synced(directory.path());
    assert_eq!((found.damaged, &found.index_rebuilt), (0, &None));
    let expected: Vec<QueueId> = messages.iter().copied().filter(|id| *id != messages[4]).collect();
    assert_eq!(ids(&found), expected);
    assert_eq!(state_of(&found, messages[3]).as_deref(), Some("second"));
    assert_eq!(state_of(&found, messages[5]), None);
    for (number, id) in messages.iter().enumerate().filter(|(number, _)| *number != 4) {
        assert_eq!(read(&store, *id).unwrap(), content(*id, number * 100));
        assert_eq!(store.load(*id).unwrap().meta, envelope(*id));
    }
    assert!(matches!(store.read(messages[4]), Err(StoreError::NoMessage(_))));
    assert_eq!(store.len(), 39);
}

#[test]
fn a_killed_process_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let kept = put(&store, 3000);
    let gone = put(&store, 3000);
    commit(&store, vec![state(kept, "tried"), Change::Delete { id: gone }]);
    // What is on the disk while the store runs, without its index: that may be of any moment.
    let copied = tempfile::tempdir().unwrap();
    copy(&directory.path().join("log"), &copied.path().join("log"));
    let (store, found) = open(copied.path());
    assert_eq!(ids(&found), [kept]);
    assert_eq!(state_of(&found, kept).as_deref(), Some("tried"));
    assert_eq!(read(&store, kept).unwrap(), content(kept, 3000));
}

#[test]
fn ids_grow_and_are_never_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    // As if the clock had been ahead: later ids must be above it all the same.
    let ahead = QueueId(store.next_id().0 + (3_600_000_000 << 8));
    commit(&store, vec![enqueue(ahead, 10)]);
    delete(&store, ahead);
    store.close();
    for round in 0..3 {
        let (store, found) = open(directory.path());
        assert!(found.messages.is_empty());
        let next = store.next_id();
        assert!(next > ahead, "round {round}: {next} is not after {ahead}");
        assert!(store.next_id() > next);
        store.collect();
        store.close();
        // The index knows too; the log must be enough.
        std::fs::remove_dir_all(directory.path().join("index")).unwrap();
    }
}

#[test]
fn only_one_process_uses_a_spool() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let second =
        Store::open_with(&config(directory.path()), Arc::new(SystemFiles), Arc::new(SystemClock), tuning());
    let Err(StoreError::InUse(in_use)) = second else { panic!("{second:?}") };
    assert_eq!((&*in_use.path, in_use.process), (directory.path(), Some(std::process::id())));
    // Who holds it may not have come to say so.
    std::fs::write(directory.path().join("LOCK"), "").unwrap();
    let second =
        Store::open_with(&config(directory.path()), Arc::new(SystemFiles), Arc::new(SystemClock), tuning());
    assert!(second.unwrap_err().to_string().contains("in use by another process"));
    std::fs::write(directory.path().join("LOCK"), std::process::id().to_string()).unwrap();
    assert_eq!(
        std::fs::read_to_string(directory.path().join("LOCK")).unwrap().trim(),
        std::process::id().to_string()
    );
    store.close();
    drop(open(directory.path()));
}

#[test]
fn a_spool_of_another_format_is_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("FORMAT"), "2\n").unwrap();
    let opened = open_on(directory.path(), std::sync::Arc::new(postern_queue::store::files::SystemFiles));
    assert!(matches!(opened, Err(StoreError::UnknownFormat(format)) if format == "2"));
    assert!(!directory.path().join("log").exists());
}

#[test]
fn a_closed_store_refuses() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let id = put(&store, 10);
    store.close();
    let refused = try_commit(&store, vec![Change::Delete { id }]).unwrap_err();
    assert!(matches!(*refused, StoreError::Closed));
    assert_eq!(store.backlog(), 0);
}

#[test]
fn closing_writes_what_waits() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open_synced(directory.path());
    let ids: Vec<QueueId> = (0..200).map(|_| store.next_id()).collect();
    for id in &ids {
        store.commit(vec![enqueue(*id, 500)], Box::new(|result| result.unwrap()));
    }
    drop(store);
    assert_eq!(crate::support::ids(&open_synced(directory.path()).1), ids);
}

#[test]
fn a_completion_that_panics_harms_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let first = store.next_id();
    store.commit(vec![enqueue(first, 10)], Box::new(|_| panic!("on purpose")));
    let second = put(&store, 10);
    store.close();
    assert_eq!(ids(&open(directory.path()).1), [first, second]);
}

#[test]
fn a_store_may_be_dropped_by_a_completion() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let store = std::sync::Arc::new(store);
    let held = std::sync::Arc::clone(&store);
    let (sender, receiver) = std::sync::mpsc::channel();
    let id = store.next_id();
    let done = Box::new(move |_| {
        drop(held);
        sender.send(()).unwrap();
    });
    store.commit(vec![enqueue(id, 10)], done);
    drop(store);
    receiver.recv().unwrap();
}

#[test]
fn warm_is_what_came_lately_and_is_in_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let now = put(&store, 10);
    let old = QueueId(now.0 - (600_000_000 << 8));
    commit(&store, vec![enqueue(old, 10)]);
    assert!(store.read(now).unwrap().is_warm());
    assert!(!store.read(old).unwrap().is_warm());
}
