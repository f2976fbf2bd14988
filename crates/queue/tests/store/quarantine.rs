//! What was set aside is shown, and comes back as far as it can be read.

use std::fs;
use std::path::{Path, PathBuf};

use postern_queue::QueueId;
use postern_queue::store::quarantine::{Kept, KeptKind, Salvaged};
use postern_queue::store::{Store, StoreError};

use crate::support::*;

/// A closed spool of some messages, without an index that would make up for damage.
fn spool(directory: &Path) -> Vec<QueueId> {
    let (store, _) = open(directory);
    let messages = (0..20).map(|_| put(&store, 900)).collect();
    store.close();
    fs::remove_dir_all(directory.join("index")).unwrap();
    messages
}

/// Where the record of a message begins: in front of its envelope.
fn record(directory: &Path, id: QueueId) -> (PathBuf, usize) {
    let wanted = envelope(id);
    for path in segments(directory) {
        let octets = fs::read(&path).unwrap();
        if let Some(at) = octets.windows(wanted.len()).position(|window| window == wanted) {
            return (path, at - 64);
        }
    }
    panic!("message {id} is nowhere");
}

fn octets(salvaged: Salvaged) -> Vec<u8> {
    let mut body = salvaged.body;
    let mut octets = Vec::new();
    while let Some(piece) = body.next().unwrap() {
        octets.extend_from_slice(&piece);
    }
    octets
}

fn marks(store: &Store) -> Vec<Kept> {
    store.quarantine().unwrap().into_iter().filter(|kept| kept.kind.is_mark()).collect()
}

fn pieces(store: &Store) -> Vec<Kept> {
    store.quarantine().unwrap().into_iter().filter(|kept| !kept.kind.is_mark()).collect()
}

/// Ends something set aside as soon as the index knows its segment; the refusal, where there is another reason for one.
fn discard(store: &Store, name: &str) -> Result<(), String> {
    let mut result = Ok(());
    eventually("an index that knows the segment", || {
        result = match store.discard(name) {
            Err(StoreError::Refused(reason)) if reason.contains("a moment") => return false,
            Err(StoreError::Refused(reason)) => Err(reason),
            Err(error) => panic!("{error}"),
            Ok(()) => Ok(()),
        };
        true
    });
    result
}

#[test]
fn a_message_behind_a_damaged_header_is_read_whole() {
    // In the magic, the version, the segment, the sync offset, the origin and the header's own checksum.
    for at in [0, 5, 9, 25, 33, 61] {
        let directory = tempfile::tempdir().unwrap();
        let messages = spool(directory.path());
        let (path, begin) = record(directory.path(), messages[5]);
        flip(&path, begin + at);
        let (store, found) = open(directory.path());
        assert_eq!((found.damaged, found.messages.len()), (1, 19), "flip at {at}");
        let [piece] = &pieces(&store)[..] else { panic!("{:?}", store.quarantine()) };
        assert_eq!((piece.kind, piece.offset), (KeptKind::Octets, Some(begin as u64)));
        assert!(piece.since.is_some() && piece.segment.is_some());
        let [kept] = &piece.records[..] else { panic!("{piece:?}") };
        assert_eq!((kept.id, kept.envelope.clone()), (messages[5], Some(envelope(messages[5]))));
        assert!(kept.has_content && kept.length == 900);
        let salvaged = store.salvage(messages[5]).unwrap();
        assert_eq!(salvaged.envelope, Some(envelope(messages[5])));
        assert_eq!(octets(salvaged), content(messages[5], 900));
    }
}

#[test]
fn of_a_damaged_record_is_read_what_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let messages = spool(directory.path());
    let (path, begin) = record(directory.path(), messages[3]);
    flip(&path, begin + 70);
    let (path, begin) = record(directory.path(), messages[12]);
    flip(&path, begin + 40);
    flip(&path, begin + 500);
    let (store, found) = open(directory.path());
    assert_eq!(found.damaged, 2);
    let salvaged = store.salvage(messages[3]).unwrap();
    assert_eq!(salvaged.envelope, None, "its envelope is damaged");
    assert_eq!(octets(salvaged), content(messages[3], 900));
    assert!(matches!(store.salvage(messages[12]), Err(StoreError::NoMessage(_))), "nothing of it is proven");
    assert!(matches!(store.salvage(messages[0]), Err(StoreError::NoMessage(_))), "it is in the queue");
}

#[test]
fn a_large_message_is_put_together_from_its_record_and_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let whole = put_large(&store, 5000);
    let alone = put_large(&store, 6000);
    put(&store, 10);
    store.close();
    fs::remove_dir_all(directory.path().join("index")).unwrap();
    let (path, begin) = record(directory.path(), whole);
    flip(&path, begin + 9);
    let (path, begin) = record(directory.path(), alone);
    flip(&path, begin + 33);
    flip(&path, begin + 70);
    let (store, found) = open(directory.path());
    assert_eq!((found.damaged, found.messages.len()), (1, 1), "one gap of two records");
    assert_eq!(pieces(&store).iter().filter(|piece| piece.kind == KeptKind::LargeFile).count(), 2);
    let salvaged = store.salvage(whole).unwrap();
    assert_eq!(salvaged.envelope, Some(envelope(whole)));
    assert_eq!(octets(salvaged), [HEADER, &content(whole, 5000)].concat());
    let salvaged = store.salvage(alone).unwrap();
    assert_eq!(salvaged.envelope, None);
    assert_eq!(octets(salvaged), content(alone, 6000));
}

#[test]
fn a_content_cannot_pass_for_a_record_that_was_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let messages = spool(directory.path());
    // A whole record of another spool, as the content of a message.
    let (path, begin) = record(directory.path(), messages[0]);
    let forged = fs::read(path).unwrap()[begin..begin + 992].to_vec();
    let other = tempfile::tempdir().unwrap();
    let (store, _) = open(other.path());
    let id = store.next_id();
    let padding = vec![0; 16 - envelope(id).len() % 16];
    let body = postern_queue::store::NewBody::Inline(vec![[&padding[..], &forged].concat().into()]);
    commit(&store, vec![postern_queue::store::Change::Enqueue { id, meta: envelope(id), body }]);
    put(&store, 10);
    store.close();
    fs::remove_dir_all(other.path().join("index")).unwrap();
    let (path, begin) = record(other.path(), id);
    // Neither header nor content of the true record prove anything.
    flip(&path, begin + 9);
    flip(&path, begin + 64 + envelope(id).len() + 2);
    let (store, found) = open(other.path());
    assert_eq!(found.damaged, 1);
    let pieces = pieces(&store);
    assert_eq!((pieces.len(), pieces[0].records.len()), (1, 0), "{pieces:?}");
}

#[test]
fn a_damaged_segment_goes_when_it_is_released_and_what_counts_stays() {
    let directory = tempfile::tempdir().unwrap();
    let messages = spool(directory.path());
    let (path, begin) = record(directory.path(), messages[1]);
    flip(&path, begin + 9);
    let (store, _) = open(directory.path());
    let [mark] = &marks(&store)[..] else { panic!("{:?}", store.quarantine()) };
    assert_eq!((mark.kind, mark.segment), (KeptKind::DamagedSegment, Some(1)));
    assert_eq!(store.status().damage.segments, 1);
    discard(&store, &mark.name).unwrap();
    assert!(!path.exists() && marks(&store).is_empty());
    assert_eq!(pieces(&store).len(), 1, "the copy of what could not be read stays");
    for id in messages.iter().filter(|id| **id != messages[1]) {
        assert_eq!(read(&store, *id).unwrap(), content(*id, 900));
    }
    store.discard(&pieces(&store)[0].name).unwrap();
    assert_eq!(store.quarantine().unwrap(), []);
    assert!(matches!(store.discard("seg-0000000100000001.damaged"), Err(StoreError::Refused(_))));
    assert!(matches!(store.discard("../FORMAT"), Err(StoreError::Refused(_))));
    store.close();
    for rebuilt in [false, true] {
        if rebuilt {
            fs::remove_dir_all(directory.path().join("index")).unwrap();
        }
        let (_, found) = open(directory.path());
        assert_eq!((found.messages.len(), found.damaged), (19, 0));
    }
}

#[test]
fn a_segment_whose_damage_is_needed_is_not_released() {
    let directory = tempfile::tempdir().unwrap();
    let messages = spool(directory.path());
    // A damaged part that keeps the segment, and a message in it whose content is damaged and waits for a decision.
    let (path, begin) = record(directory.path(), messages[1]);
    flip(&path, begin + 9);
    let (_, begin) = record(directory.path(), messages[2]);
    flip(&path, begin + 500);
    let (store, _) = open(directory.path());
    let mark = marks(&store).remove(0);
    let reason = discard(&store, &mark.name).unwrap_err();
    assert!(reason.contains(&messages[2].to_string()), "{reason}");
    assert!(path.exists() && store.len() == 19);
    delete(&store, messages[2]);
    discard(&store, &mark.name).unwrap();
    assert!(!path.exists() && store.len() == 18);
}

#[test]
fn damage_that_the_collector_finds_is_shown_and_copied_before_its_segment_goes() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let messages: Vec<QueueId> = (0..20).map(|_| put(&store, 900)).collect();
    let (path, begin) = record(directory.path(), messages[0]);
    flip(&path, begin + 9);
    messages[..19].iter().for_each(|id| delete(&store, *id));
    eventually("finding the damage", || {
        store.collect();
        !marks(&store).is_empty()
    });
    assert!(pieces(&store).is_empty());
    discard(&store, &marks(&store)[0].name).unwrap();
    assert!(!path.exists());
    let [piece] = &pieces(&store)[..] else { panic!("{:?}", store.quarantine()) };
    assert_eq!(piece.records[0].id, messages[0]);
}
