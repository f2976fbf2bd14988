//! The index may be lost, old, damaged or somebody else's: the mail is all there.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use postern_queue::QueueId;
use postern_queue::store::Change;

use crate::disk::{Call, Disk, Say};
use crate::support::*;

/// A closed spool: some messages, with some states, some ended.
fn spool(directory: &Path) -> Vec<QueueId> {
    let (store, _) = open(directory);
    let messages: Vec<QueueId> = (0..30).map(|n| put(&store, n * 50)).collect();
    commit(&store, vec![state(messages[7], "tried"), Change::Delete { id: messages[8] }]);
    store.close();
    messages
}

fn check(directory: &Path, messages: &[QueueId]) -> Option<String> {
    let (store, found) = open(directory);
    let mut expected = messages.to_vec();
    expected.remove(8);
    assert_eq!(ids(&found), expected);
    assert_eq!(state_of(&found, messages[7]).as_deref(), Some("tried"));
    assert_eq!(found.damaged, 0);
    for message in &found.messages {
        assert_eq!(message.meta, envelope(message.id));
    }
    let length = |id: &QueueId| 50 * messages.iter().position(|other| other == id).unwrap();
    for id in &expected {
        assert_eq!(read(&store, *id).unwrap(), content(*id, length(id)));
    }
    assert_eq!(store.index_lost(), None);
    found.index_rebuilt
}

#[test]
fn a_missing_index_is_rebuilt() {
    let directory = tempfile::tempdir().unwrap();
    let messages = spool(directory.path());
    assert_eq!(check(directory.path(), &messages), None);
    fs::remove_dir_all(directory.path().join("index")).unwrap();
    assert!(check(directory.path(), &messages).is_some());
    assert_eq!(check(directory.path(), &messages), None, "the rebuilt one is used");
}

#[test]
fn garbage_in_place_of_the_index_is_put_aside() {
    let directory = tempfile::tempdir().unwrap();
    let messages = spool(directory.path());
    for name in ["db", "conf"] {
        fs::write(directory.path().join("index").join(name), [0x5A; 70_000]).unwrap();
        assert!(check(directory.path(), &messages).is_some(), "garbage in {name}");
        let aside = fs::read_dir(directory.path())
            .unwrap()
            .any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with("index.bad-"));
        assert!(aside);
        assert_eq!(check(directory.path(), &messages), None);
    }
}

#[test]
fn a_truncated_index_costs_no_mail() {
    let directory = tempfile::tempdir().unwrap();
    let messages = spool(directory.path());
    let whole = tempfile::tempdir().unwrap();
    copy(directory.path(), whole.path());
    let length = fs::metadata(whole.path().join("index/db")).unwrap().len();
    for part in 0..8 {
        let cut = tempfile::tempdir().unwrap();
        copy(whole.path(), cut.path());
        let file = fs::OpenOptions::new().write(true).open(cut.path().join("index/db")).unwrap();
        file.set_len(length * part / 8).unwrap();
        check(cut.path(), &messages);
    }
}

#[test]
fn flipped_bits_in_the_index_cost_no_mail() {
    let directory = tempfile::tempdir().unwrap();
    let messages = spool(directory.path());
    let db = fs::read(directory.path().join("index/db")).unwrap();
    let used: Vec<usize> = (0..db.len()).filter(|at| db[*at] != 0).collect();
    for number in 0..12 {
        let flipped = tempfile::tempdir().unwrap();
        copy(directory.path(), flipped.path());
        let mut octets = db.clone();
        octets[used[used.len() * number / 12]] ^= 1 << (number % 8);
        fs::write(flipped.path().join("index/db"), octets).unwrap();
        check(flipped.path(), &messages);
    }
}

#[test]
fn an_older_index_is_brought_up_to_date() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let messages: Vec<QueueId> = (0..20).map(|_| put(&store, 500)).collect();
    commit(&store, vec![state(messages[1], "old")]);
    store.close();
    let old = tempfile::tempdir().unwrap();
    copy(&directory.path().join("index"), &old.path().join("index"));

    let (store, _) = open(directory.path());
    commit(&store, vec![state(messages[1], "new"), Change::Delete { id: messages[2] }]);
    messages[5..].iter().for_each(|id| delete(&store, *id));
    let late = put(&store, 500);
    // Segments go, and with them records that the old index needs; what is left must make up for it.
    store.collect();
    let filling: Vec<QueueId> = (0..40).map(|_| put(&store, 500)).collect();
    filling.iter().for_each(|id| delete(&store, *id));
    store.collect();
    store.close();

    fs::remove_dir_all(directory.path().join("index")).unwrap();
    copy(&old.path().join("index"), &directory.path().join("index"));
    let (store, found) = open(directory.path());
    assert_eq!(ids(&found), [messages[0], messages[1], messages[3], messages[4], late]);
    assert_eq!(state_of(&found, messages[1]).as_deref(), Some("new"));
    for message in &found.messages {
        assert_eq!(read(&store, message.id).unwrap(), content(message.id, 500));
    }
}

#[test]
fn an_index_of_any_age_is_brought_up_to_date() {
    let directory = tempfile::tempdir().unwrap();
    let mut ages = Vec::new();
    let mut live: Vec<QueueId> = Vec::new();
    for age in 0..8 {
        let (store, _) = open(directory.path());
        live.extend((0..12).map(|_| put(&store, 700)));
        commit(&store, vec![state(live[0], &format!("age {age}"))]);
        let ending = live.split_off(live.len() - 7);
        ending.iter().for_each(|id| delete(&store, *id));
        // What an older index needs is given back meanwhile, as far as it can be.
        for _ in 0..3 {
            store.collect();
        }
        store.close();
        let aside = tempfile::tempdir().unwrap();
        copy(&directory.path().join("index"), &aside.path().join("index"));
        ages.push(aside);
    }
    for (age, aside) in ages.iter().enumerate() {
        let spool = tempfile::tempdir().unwrap();
        copy(directory.path(), spool.path());
        fs::remove_dir_all(spool.path().join("index")).unwrap();
        copy(&aside.path().join("index"), &spool.path().join("index"));
        for _ in 0..2 {
            let (store, found) = open(spool.path());
            assert_eq!(ids(&found), live, "age {age}");
            assert_eq!(state_of(&found, live[0]).as_deref(), Some("age 7"), "age {age}");
            assert_eq!((found.damaged, found.lost.len(), missing(spool.path())), (0, 0, 0), "age {age}");
            for id in &live {
                assert_eq!(read(&store, *id).unwrap(), content(*id, 700));
            }
            assert_eq!(store.index_lost(), None);
        }
    }
}

#[test]
fn a_file_in_place_of_the_index_is_put_aside_and_goes_away() {
    let directory = tempfile::tempdir().unwrap();
    let messages = spool(directory.path());
    let index = directory.path().join("index");
    fs::remove_dir_all(&index).unwrap();
    fs::write(&index, "no directory").unwrap();
    assert!(check(directory.path(), &messages).is_some());
    assert!(index.is_dir());
    assert_eq!(check(directory.path(), &messages), None);
    let left = fs::read_dir(directory.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("index.bad-"));
    assert_eq!(left.count(), 0, "it is kept for one start");
}

#[test]
fn foreign_files_in_the_index_cost_no_mail() {
    for name in ["snap.0000000000000099", "blobs", "db.old", "snap.0000000000000042.generating"] {
        let directory = tempfile::tempdir().unwrap();
        let messages = spool(directory.path());
        let _ = fs::remove_dir_all(directory.path().join("index").join(name));
        fs::write(directory.path().join("index").join(name), vec![0x5A; 5000]).unwrap();
        check(directory.path(), &messages);
        assert_eq!(check(directory.path(), &messages), None, "{name}");
    }
}

/// Nobody may look into the index.
#[derive(Debug)]
struct Forbidden;

impl Say for Forbidden {
    fn before(&self, _path: &Path, _call: Call<'_>) -> io::Result<()> {
        Ok(())
    }

    fn admits_index(&self) -> bool {
        false
    }
}

#[test]
fn without_the_right_to_use_the_index_the_store_works_without_it() {
    let directory = tempfile::tempdir().unwrap();
    let messages = spool(directory.path());
    let (store, found) = open_on(directory.path(), Arc::new(Disk(Arc::new(Forbidden)))).unwrap();
    assert!(found.index_rebuilt.is_some());
    let mut expected = messages.clone();
    expected.remove(8);
    assert_eq!(ids(&found), expected);
    eventually("giving the index up", || store.index_lost().is_some());
    let late = put(&store, 100);
    delete(&store, late);
    store.collect();
    store.close();
    check(directory.path(), &messages);
    assert_eq!(check(directory.path(), &messages), None);
}

#[test]
fn the_index_of_another_spool_is_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let messages = spool(directory.path());
    let other = tempfile::tempdir().unwrap();
    spool(other.path());
    fs::remove_dir_all(directory.path().join("index")).unwrap();
    copy(&other.path().join("index"), &directory.path().join("index"));
    assert!(check(directory.path(), &messages).is_some());
}

#[test]
fn an_unfinished_snapshot_of_a_killed_process_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let messages = spool(directory.path());
    fs::write(directory.path().join("index/snap.0000000000000042.generating"), "half").unwrap();
    assert_eq!(check(directory.path(), &messages), None);
}

#[test]
fn envelopes_too_long_for_a_row_come_from_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let id = store.next_id();
    let meta = vec![7; 100_000];
    let body = postern_queue::store::NewBody::Inline(Vec::new());
    commit(&store, vec![Change::Enqueue { id, meta: meta.clone(), body }]);
    commit(&store, vec![state(id, &"s".repeat(5000))]);
    let short = put(&store, 10);
    store.close();
    let (_store, found) = open(directory.path());
    assert_eq!(found.index_rebuilt, None);
    assert_eq!(ids(&found), [id, short]);
    assert_eq!(found.messages[0].meta, meta);
    assert_eq!(state_of(&found, id), Some("s".repeat(5000)));
}
