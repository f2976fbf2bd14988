//! Room is given back when it is asked for.

use std::sync::Arc;

use postern_queue::store::files::SystemFiles;
use postern_queue::store::{Store, StoreError, Tuning};
use postern_runtime::SystemClock;

use crate::support::*;

#[test]
fn room_is_given_back_whatever_the_thresholds_say() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open_with(
        &config(directory.path()),
        Arc::new(SystemFiles),
        Arc::new(SystemClock),
        Tuning::default(),
    )
    .unwrap();
    let messages: Vec<_> = (0..80).map(|_| put(&store, 900)).collect();
    // One in three stays: too many, too new and too little for the store to do it by itself.
    let (kept, ended): (Vec<_>, Vec<_>) = messages.iter().enumerate().partition(|(at, _)| at % 3 == 0);
    ended.iter().for_each(|(_, id)| delete(&store, **id));
    store.collect();
    let compacted = store.compact(&mut listen).unwrap();
    assert!(compacted.given_back() > 30 * 900, "{compacted:?}");
    assert!(compacted.after.segments < compacted.before.segments);
    let there: u64 = segments(directory.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert_eq!(compacted.after.log, there, "as the file system says");
    for (_, id) in &kept {
        assert_eq!(read(&store, **id).unwrap(), content(**id, 900));
    }
    let again = store.compact(&mut listen).unwrap();
    assert!(again.given_back() < SEGMENT, "what was copied once is not copied for ever: {again:?}");
    store.close();
    let (_, found) = open(directory.path());
    assert_eq!(found.messages.len(), kept.len());
}

#[test]
fn a_compaction_works_without_an_index_and_ends_when_nobody_waits() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let messages: Vec<_> = (0..40).map(|_| put(&store, 900)).collect();
    let full = segments(directory.path());
    std::fs::remove_dir_all(directory.path().join("index")).unwrap();
    eventually("losing the index", || {
        put(&store, 10);
        store.index_lost().is_some()
    });
    messages[..38].iter().for_each(|id| delete(&store, *id));
    let mut leave = |_| std::ops::ControlFlow::Break(());
    assert!(matches!(store.compact(&mut leave), Err(StoreError::Interrupted)));
    store.compact(&mut listen).unwrap();
    // The last one has the two that stay, or nothing else of them.
    assert!(full[..full.len() - 1].iter().all(|path| !path.exists()));
}

#[test]
fn a_message_that_came_back_under_its_id_outlives_its_former_end() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open_with(
        &config(directory.path()),
        Arc::new(SystemFiles),
        Arc::new(SystemClock),
        Tuning::default(),
    )
    .unwrap();
    // Its first record is in a segment that stays, its end in one that goes.
    let back = put(&store, 50);
    (0..8).for_each(|_| _ = put(&store, 900));
    let first = segments(directory.path())[0].clone();
    let between: Vec<_> = (0..4).map(|_| put(&store, 900)).collect();
    delete(&store, back);
    let second: Vec<_> = (0..8).map(|_| put(&store, 900)).collect();
    // As `queue import` does with what `queue drop --export` has removed.
    commit(&store, vec![enqueue(back, 50), state(back, "imported")]);
    (0..8).for_each(|_| _ = put(&store, 900));
    let ended = segments(directory.path())[1].clone();
    between.iter().chain(&second).for_each(|id| delete(&store, *id));
    store.compact(&mut listen).unwrap();
    assert!(first.exists() && ended.exists(), "its former end cannot be copied while it is there");
    store.close();
    for _ in 0..2 {
        let (store, found) = open(directory.path());
        assert!(ids(&found).contains(&back), "its former end came behind it");
        assert_eq!(state_of(&found, back).as_deref(), Some("imported"));
        assert_eq!(read(&store, back).unwrap(), content(back, 50));
        store.close();
        std::fs::remove_dir_all(directory.path().join("index")).unwrap();
    }
}
