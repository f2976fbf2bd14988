//! The index is written anew while the store is in use.

use std::fs;

use postern_queue::store::StoreError;

use crate::support::*;

#[test]
fn an_index_is_written_anew_while_mail_flows() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let messages: Vec<_> = (0..1200).map(|_| put(&store, 10)).collect();
    commit(&store, vec![state(messages[3], "tried")]);
    std::thread::scope(|scope| {
        scope.spawn(|| messages[..50].iter().for_each(|id| delete(&store, *id)));
        let rows = store.rebuild_index(&mut listen).unwrap();
        assert!((1150..=1200).contains(&rows), "{rows}");
    });
    let aside = fs::read_dir(directory.path()).unwrap();
    let is_aside = |name: &str| name.starts_with("index.bad-");
    assert_eq!(aside.filter(|e| is_aside(&e.as_ref().unwrap().file_name().to_string_lossy())).count(), 1);
    eventually("the deletions in the index", || store.status().index.rows == 1150);
    let status = store.status().index;
    assert!(status.in_use && status.complete && status.octets > 0, "{status:?}");
    store.close();
    let (_, found) = open(directory.path());
    assert_eq!((found.messages.len(), found.index_rebuilt), (1150, None));
}

#[test]
fn an_index_that_was_lost_comes_back_without_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let messages: Vec<_> = (0..20).map(|_| put(&store, 10)).collect();
    for _ in 0..2 {
        fs::remove_dir_all(directory.path().join("index")).unwrap();
        put(&store, 10);
        eventually("losing the index", || store.index_lost().is_some());
        let status = store.status().index;
        assert!(
            !status.in_use && !status.complete && status.rows == 0 && status.lost.is_some(),
            "{status:?}"
        );
        assert!(store.figures().index_rows == 0 && !store.figures().index_in_use);
        let mut findings = Findings::default();
        let checked = store.check(Default::default(), &mut findings.listener()).unwrap();
        assert_eq!((findings.0.len(), checked.rows), (1, None), "{:?}", findings.0);
        assert!(findings.0[0].advice.contains("store rebuild"));

        let rows = store.rebuild_index(&mut listen).unwrap();
        assert_eq!((rows as usize, store.index_lost()), (store.len(), None));
    }
    delete(&store, messages[0]);
    store.close();
    let (_, found) = open(directory.path());
    assert_eq!((found.messages.len(), found.index_rebuilt), (21, None));
}

#[test]
fn a_closed_store_rebuilds_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    store.close();
    assert!(matches!(store.rebuild_index(&mut listen), Err(StoreError::Closed)));
}

#[test]
fn an_empty_store_has_an_index_without_rows() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    assert_eq!(store.rebuild_index(&mut listen).unwrap(), 0);
    assert!(store.status().index.complete);
}
