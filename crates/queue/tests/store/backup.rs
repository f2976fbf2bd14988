//! A copy of a spool in use, from which another one starts.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use postern_queue::QueueId;
use postern_queue::store::backup::{self, BackedUp, Options};
use postern_queue::store::check;
use postern_queue::store::files::{Files, SystemFiles};
use postern_queue::store::{Store, StoreError};

use crate::support::*;

fn back_up(store: &Store, directory: &Path) -> BackedUp {
    let mut findings = Findings::default();
    let backup = store.backup(directory, Options::default(), &mut findings.listener()).unwrap();
    assert_eq!(findings.0, []);
    backup
}

fn verify(directory: &Path) -> Result<Findings, StoreError> {
    let files: Arc<dyn Files> = Arc::new(SystemFiles);
    let mut findings = Findings::default();
    let options = check::Options { full: false, rate: u64::MAX };
    backup::verify(directory, &files, options, &mut findings.listener())?;
    Ok(findings)
}

#[test]
fn a_spool_starts_from_a_backup_with_all_that_was_there() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let messages: Vec<_> = (0..40).map(|_| put(&store, 900)).collect();
    let large = put_large(&store, 300_000);
    commit(&store, vec![state(messages[1], "tried")]);
    delete(&store, messages[2]);
    let unfinished = store.begin_body(store.next_id()).unwrap();
    fs::write(directory.path().join("audit.jsonl"), "{}\n").unwrap();
    fs::write(directory.path().join("rules.json"), "[1]").unwrap();
    fs::write(directory.path().join("rules.json.new"), "[").unwrap();
    fs::create_dir_all(directory.path().join("history")).unwrap();
    fs::write(directory.path().join("history/00000001-20260101.jsonl"), "{}\n{}\n").unwrap();
    fs::create_dir_all(directory.path().join("mail/proseware.test")).unwrap();
    fs::create_dir_all(directory.path().join("damaged")).unwrap();
    fs::write(directory.path().join("damaged/seg-0000000100000001-40"), "aside").unwrap();

    let target = directory.path().join("backup/monday");
    let made = back_up(&store, &target);
    assert_eq!((made.checked.messages, made.checked.large_files), (40, 1));
    assert!(made.linked > 3 && made.copied > 2, "{made:?}");
    assert!(!target.join("index").exists() && !target.join("mail").exists() && !target.join("LOCK").exists());
    assert_eq!(fs::read_dir(target.join("big")).unwrap().count(), 1, "what is being received is left out");
    assert!(target.join("audit.jsonl").exists() && target.join("damaged/seg-0000000100000001-40").exists());
    let copied = |name: &str| fs::read_to_string(target.join(name)).unwrap();
    assert_eq!(copied("rules.json"), "[1]");
    assert!(!target.join("rules.json.new").exists());
    assert_eq!(copied("history/00000001-20260101.jsonl"), "{}\n{}\n");
    assert_eq!(verify(&target).unwrap().0, []);
    drop(unfinished);

    // What happens to the original does not reach it, and the other way round.
    messages.iter().filter(|id| **id != messages[2]).for_each(|id| delete(&store, *id));
    delete(&store, large);
    store.compact(&mut listen).unwrap();
    let (copy, found) = open(&target);
    let mut expected: Vec<QueueId> = messages.iter().copied().filter(|id| *id != messages[2]).collect();
    expected.push(large);
    assert_eq!((ids(&found), found.damaged), (expected.clone(), 0));
    assert_eq!(state_of(&found, messages[1]).as_deref(), Some("tried"));
    for id in &expected[..39] {
        assert_eq!(read(&copy, *id).unwrap(), content(*id, 900));
    }
    assert_eq!(read(&copy, large).unwrap(), [HEADER, &content(large, 300_000)].concat());
    expected.iter().for_each(|id| delete(&copy, *id));
    copy.close();
    assert_eq!(store.len(), 0);
}

#[test]
fn what_was_acknowledged_before_a_backup_under_load_is_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open_synced(directory.path());
    let acknowledged = Mutex::new(Vec::new());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for sender in 0..3 {
            let (store, stop, acknowledged) = (&store, &stop, &acknowledged);
            scope.spawn(move || {
                for number in 0_usize.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let id = if number % 7 == sender { put_large(store, 5000) } else { put(store, 700) };
                    acknowledged.lock().unwrap().push(id);
                    // And much comes and goes, so that segments are removed.
                    let short = put(store, 1500);
                    delete(store, short);
                }
            });
        }
        for round in 0..4 {
            eventually("some mail", || acknowledged.lock().unwrap().len() > 20 * (round + 1));
            let before = acknowledged.lock().unwrap().clone();
            let target = directory.path().join(format!("backup-{round}"));
            let made = back_up(&store, &target);
            assert!(made.checked.messages as usize >= before.len());
            let (copy, found) = open(&target);
            assert_eq!(found.damaged, 0);
            let there = ids(&found);
            for id in &before {
                assert!(there.contains(id), "message {id} is missing in round {round}");
            }
            for id in &there {
                read(&copy, *id).unwrap();
            }
            copy.close();
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn nothing_is_shared_if_that_is_not_wanted_and_the_newest_segment_never_is() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    (0..20).for_each(|_| _ = put(&store, 900));
    let links = |target: &Path| -> Vec<u64> {
        segments(target).iter().map(|path| path.metadata().unwrap().nlink()).collect()
    };
    let linked = directory.path().join("linked");
    back_up(&store, &linked);
    let links_of_linked = links(&linked);
    assert_eq!(links_of_linked.last(), Some(&1));
    assert!(links_of_linked[..links_of_linked.len() - 1].iter().all(|links| *links == 2));
    let copied = directory.path().join("copied");
    let made = store.backup(&copied, Options { copies_all: true }, &mut listen).unwrap();
    assert_eq!(made.linked, 0);
    assert!(links(&copied).iter().all(|links| *links == 1));
    assert_eq!(verify(&copied).unwrap().0, []);
}

#[test]
fn a_backup_goes_only_into_a_new_directory_that_the_spool_does_not_use() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    put(&store, 10);
    let full = tempfile::tempdir().unwrap();
    fs::write(full.path().join("mine"), "mine").unwrap();
    let root = directory.path();
    let refused = [
        (full.path().to_owned(), "not empty"),
        (root.to_owned(), "uses"),
        (root.join("log"), "uses"),
        (root.join("big/x"), "uses"),
        (root.join("mail/backup"), "uses"),
        (root.join("index.backup"), "uses"),
        ("backup".into(), "whole path"),
        (root.join("a/../log"), "whole path"),
    ];
    for (target, why) in refused {
        let error = store.backup(&target, Options::default(), &mut listen).unwrap_err();
        assert!(matches!(&error, StoreError::Refused(text) if text.contains(why)), "{target:?}: {error}");
    }
    assert_eq!(fs::read_dir(full.path()).unwrap().count(), 1);
    assert!(!root.join("index.backup").exists() && !root.join("mail").exists());
}

#[test]
fn a_backup_that_is_broken_off_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    (0..20).for_each(|_| _ = put(&store, 900));
    let target = directory.path().join("backup");
    let mut leave = |_| std::ops::ControlFlow::Break(());
    assert!(matches!(store.backup(&target, Options::default(), &mut leave), Err(StoreError::Interrupted)));
    assert!(!target.exists());
    back_up(&store, &target);
}

#[test]
fn damage_to_a_backup_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    (0..5).for_each(|_| _ = put(&store, 900));
    let large = put_large(&store, 5000);
    let made = directory.path().join("backup");
    back_up(&store, &made);
    let damaged = tempfile::tempdir().unwrap();
    copy(&made, damaged.path());
    fs::remove_file(damaged.path().join(format!("big/{:016x}", large.0))).unwrap();
    assert_eq!(verify(damaged.path()).unwrap().about(), [check::Subject::Content]);
    flip(&segments(damaged.path())[0], 300);
    assert_eq!(verify(damaged.path()).unwrap().about().len(), 2);
    fs::remove_file(damaged.path().join("BACKUP")).unwrap();
    assert!(matches!(verify(damaged.path()), Err(StoreError::Refused(_))), "it was never completed");
    assert!(matches!(verify(directory.path()), Err(StoreError::InUse(_))));
}
