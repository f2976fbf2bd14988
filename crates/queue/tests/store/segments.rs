//! Segments that somebody removed, emptied, cut short, swapped or doubled: the store starts, says what is damaged, gives
//! out the rest, and keeps in sight what it still knows of the messages that are gone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use postern_queue::QueueId;
use postern_queue::store::{Change, Found, Store, StoreError};

use crate::support::*;

const LENGTH: usize = 900;

/// A closed spool with the segment of each message.
struct Spool {
    directory: tempfile::TempDir,
    messages: BTreeMap<QueueId, PathBuf>,
    ended: Vec<QueueId>,
}

impl Spool {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = open(directory.path());
        let mut messages = BTreeMap::new();
        let mut ended = Vec::new();
        for number in 0..40 {
            let id = put(&store, LENGTH);
            messages.insert(id, segments(directory.path()).pop().unwrap());
            if number % 5 == 4 {
                commit(&store, vec![state(id, "tried")]);
            }
            if number % 8 == 7 {
                delete(&store, id);
                messages.remove(&id);
                ended.push(id);
            }
        }
        store.close();
        assert!(segments(directory.path()).len() >= 5);
        Self { directory, messages, ended }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Messages of a segment.
    fn of(&self, segment: &Path) -> Vec<QueueId> {
        self.messages.iter().filter(|(_, path)| *path == segment).map(|(id, _)| *id).collect()
    }

    fn without_index(&self) {
        fs::remove_dir_all(self.path().join("index")).unwrap();
    }

    /// Opens it: whoever is not among `hurt` must be there, and nothing wrong is given out. Answers which of `hurt` are
    /// in sight.
    fn check(&self, hurt: &[QueueId], may_return: bool, what: &str) -> (Store, Found, Vec<QueueId>) {
        let (store, found) = open(self.path());
        let there = ids(&found);
        for id in self.messages.keys().filter(|id| !hurt.contains(id)) {
            assert!(there.contains(id), "{what}: {id} is gone");
            assert!(read(&store, *id).unwrap() == content(*id, LENGTH), "{what}: wrong content");
        }
        for message in &found.messages {
            assert_eq!(message.meta, envelope(message.id), "{what}");
            assert!(may_return || !self.ended.contains(&message.id), "{what}: {} is back", message.id);
            match read(&store, message.id) {
                Ok(octets) => assert!(octets == content(message.id, LENGTH), "{what}: wrong content"),
                Err(StoreError::Damaged(_)) => assert!(hurt.contains(&message.id), "{what}"),
                Err(error) => panic!("{what}: {error}"),
            }
        }
        let seen = hurt.iter().copied().filter(|id| there.contains(id)).collect();
        let late = put(&store, 10);
        assert_eq!(read(&store, late).unwrap(), content(late, 10));
        delete(&store, late);
        (store, found, seen)
    }
}

/// First, some in the middle, and the newest with anything in it.
fn places(spool: &Spool) -> Vec<PathBuf> {
    let all: Vec<PathBuf> =
        segments(spool.path()).into_iter().filter(|path| !spool.of(path).is_empty()).collect();
    vec![all[0].clone(), all[all.len() / 2].clone(), all[all.len() - 1].clone()]
}

#[test]
fn messages_of_a_segment_that_was_removed_stay_in_sight_until_somebody_ends_them() {
    for place in 0..3 {
        let spool = Spool::new();
        let segment = places(&spool).remove(place);
        let lost = spool.of(&segment);
        fs::remove_file(&segment).unwrap();
        // At the first start and at all later ones, with the index and without it.
        for round in 0..4 {
            let what = format!("segment {place} removed, start {round}");
            let (store, found, seen) = spool.check(&lost, false, &what);
            assert_eq!(seen, lost, "{what}");
            assert_eq!(found.lost, lost, "{what}");
            assert!(found.damaged > lost.len(), "{what}: {}", found.damaged);
            store.close();
            if round == 1 {
                spool.without_index();
            }
        }
        let (store, _) = open(spool.path());
        lost.iter().for_each(|id| delete(&store, *id));
        store.close();
        for without_index in [false, true] {
            if without_index {
                spool.without_index();
            }
            let (_store, found) = open(spool.path());
            assert!(found.lost.is_empty() && !ids(&found).iter().any(|id| lost.contains(id)));
            assert_eq!(found.damaged, 1, "the segment is still missed");
        }
        fs::remove_dir_all(spool.path().join("damaged")).unwrap();
        assert_eq!(open(spool.path()).1.damaged, 0, "until the note about it is removed");
    }
}

#[test]
fn states_of_a_segment_that_was_removed_are_not_forgotten() {
    for newest in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = open(directory.path());
        let kept: Vec<QueueId> = (0..6).map(|_| put(&store, 1000)).collect();
        let first = segments(directory.path());
        assert_eq!(first.len(), 1);
        let filling = put(&store, 7000);
        commit(&store, vec![state(kept[0], "all but one have it")]);
        let with_state = segments(directory.path()).pop().unwrap();
        let more: Vec<QueueId> =
            if newest { Vec::new() } else { (0..4).map(|_| put(&store, 4000)).collect() };
        store.close();
        assert!(!first.contains(&with_state));
        fs::remove_file(&with_state).unwrap();
        for _ in 0..3 {
            let (store, found) = open(directory.path());
            assert_eq!(state_of(&found, kept[0]).as_deref(), Some("all but one have it"), "newest: {newest}");
            assert_eq!(state_of(&found, kept[1]), None);
            assert!(found.lost.iter().all(|id| *id == filling));
            assert!(more.iter().all(|id| ids(&found).contains(id)));
            store.close();
        }
        fs::remove_dir_all(directory.path().join("index")).unwrap();
        assert_eq!(state_of(&open(directory.path()).1, kept[0]).as_deref(), Some("all but one have it"));
    }
}

#[test]
fn a_segment_that_is_missed_is_noticed_without_the_index_too() {
    for place in 0..2 {
        let spool = Spool::new();
        let segment = places(&spool).remove(place);
        let lost = spool.of(&segment);
        fs::remove_file(&segment).unwrap();
        spool.without_index();
        for round in 0..2 {
            let (store, found, seen) = spool.check(&lost, true, "without segment and index");
            assert_eq!((seen.len(), found.damaged), (0, 1), "round {round}");
            store.close();
        }
    }
}

#[test]
fn a_segment_that_is_put_back_is_read_and_its_messages_are_whole_again() {
    for (with_index, place) in [(true, 1), (false, 1), (true, 2)] {
        let spool = Spool::new();
        let segment = places(&spool).remove(place);
        let lost = spool.of(&segment);
        let aside = spool.path().join("aside");
        fs::rename(&segment, &aside).unwrap();
        if !with_index {
            spool.without_index();
        }
        for _ in 0..2 {
            let (store, found, _) = spool.check(&lost, true, "without it");
            assert_eq!(found.lost.len(), if with_index { lost.len() } else { 0 });
            let later = store.next_id();
            assert!(
                spool.messages.keys().chain(&spool.ended).all(|id| *id < later),
                "ids are not used again"
            );
            store.collect();
            store.close();
        }
        fs::rename(&aside, &segment).unwrap();
        for round in 0..3 {
            let (store, found, seen) = spool.check(&[], !with_index, "put back");
            assert!(seen.is_empty());
            assert_eq!((found.lost.len(), found.damaged), (0, 0), "start {round}");
            store.collect();
            store.close();
        }
    }
}

#[test]
fn a_segment_emptied_or_cut_short_is_noticed_and_costs_what_is_cut_off() {
    for place in 0..3 {
        for part in [0, 1, 2] {
            for with_index in [true, false] {
                let spool = Spool::new();
                let segment = places(&spool).remove(place);
                let hurt = spool.of(&segment);
                let file = fs::OpenOptions::new().write(true).open(&segment).unwrap();
                file.set_len(file.metadata().unwrap().len() * part / 3).unwrap();
                if !with_index {
                    spool.without_index();
                }
                let what = format!("segment {place} cut to {part} thirds, index: {with_index}");
                let (store, found, seen) = spool.check(&hurt, !with_index, &what);
                // Nobody but the index knows how long the newest one was.
                assert!(found.damaged > 0 || (place == 2 && !with_index), "{what}");
                if with_index {
                    assert_eq!(seen, hurt, "{what}");
                }
                store.close();
                let (_store, again, seen_again) = spool.check(&hurt, !with_index, &what);
                assert_eq!(seen_again, seen, "{what}");
                assert_eq!(again.lost, found.lost, "{what}");
            }
        }
    }
}

#[test]
fn swapped_segments_are_damage_and_nothing_of_them_is_believed() {
    for with_index in [true, false] {
        let spool = Spool::new();
        let [first, middle, _] = <[PathBuf; 3]>::try_from(places(&spool)).unwrap();
        let aside = spool.path().join("aside");
        fs::rename(&first, &aside).unwrap();
        fs::rename(&middle, &first).unwrap();
        fs::rename(&aside, &middle).unwrap();
        let hurt = [spool.of(&first), spool.of(&middle)].concat();
        if !with_index {
            spool.without_index();
        }
        let (store, found, seen) = spool.check(&hurt, true, "swapped");
        if with_index {
            assert_eq!(seen, hurt);
        } else {
            assert!(found.damaged >= 2);
        }
        for id in hurt {
            assert!(matches!(read(&store, id), Err(StoreError::Damaged(_) | StoreError::NoMessage(_))));
        }
        store.close();
        // Put right again, without the index, which has its own idea of it by now.
        fs::rename(&first, &aside).unwrap();
        fs::rename(&middle, &first).unwrap();
        fs::rename(&aside, &middle).unwrap();
        spool.without_index();
        spool.check(&[], true, "put right");
    }
}

#[test]
fn a_second_file_with_the_number_of_a_segment_takes_nothing_from_the_first() {
    let spool = Spool::new();
    for segment in places(&spool) {
        let name = segment.file_name().unwrap().to_string_lossy().into_owned();
        let number = &name[4..12];
        // One that is listed before and one that is listed behind it, whatever the order is.
        for salt in ["00000000", "ffffffff"] {
            fs::copy(&segment, segment.with_file_name(format!("seg-{number}{salt}.log"))).unwrap();
        }
    }
    let doubles = 6;
    for with_index in [true, false] {
        if !with_index {
            spool.without_index();
        }
        let (store, found, _) = spool.check(&[], false, "doubled");
        assert_eq!(found.damaged, doubles);
        store.collect();
        store.close();
    }
    assert_eq!(segments(spool.path()).iter().filter(|path| is_double(path)).count(), doubles);
}

fn is_double(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy();
    name.ends_with("00000000.log") || name.ends_with("ffffffff.log")
}

#[test]
fn a_copy_of_a_segment_under_a_new_number_brings_nothing_back() {
    for number in ["00000001", "0000ffff"] {
        let spool = Spool::new();
        let segment = places(&spool).remove(1);
        let before = segments(spool.path());
        if number == "00000001" {
            // The number of one that was given back.
            let first = before[0].clone();
            let (store, _) = open(spool.path());
            spool.of(&first).iter().for_each(|id| delete(&store, *id));
            eventually("giving the first segment back", || {
                store.collect();
                !first.exists()
            });
            store.close();
            fs::copy(&segment, first.with_file_name(format!("seg-{number}12345678.log"))).unwrap();
            let hurt = spool.of(&first);
            let (_store, found) = open(spool.path());
            assert!(!ids(&found).iter().any(|id| hurt.contains(id) || spool.ended.contains(id)));
            continue;
        }
        fs::copy(&segment, segment.with_file_name(format!("seg-{number}12345678.log"))).unwrap();
        for with_index in [true, false] {
            if !with_index {
                spool.without_index();
            }
            spool.check(&[], false, "a copy under a new number").0.close();
        }
    }
}

#[test]
fn nothing_that_lies_in_the_log_prevents_the_start() {
    let spool = Spool::new();
    let log = spool.path().join("log");
    fs::create_dir(log.join("seg-0000fff012345678.log")).unwrap();
    fs::create_dir(log.join("lost+found")).unwrap();
    fs::write(log.join("seg-ffffffff12345678.log"), "beyond all numbers").unwrap();
    fs::write(log.join("seg-0000000000000000.log"), "").unwrap();
    fs::write(log.join("core"), vec![0xA5; 100_000]).unwrap();
    std::os::unix::fs::symlink("nowhere", log.join("seg-0000001112345678.log")).unwrap();
    for with_index in [true, false] {
        if !with_index {
            spool.without_index();
        }
        let (store, found, _) = spool.check(&[], false, "foreign files");
        assert_eq!(found.damaged, 6);
        store.close();
    }
}

#[test]
fn an_emptied_log_is_not_taken_for_a_new_spool_as_long_as_the_index_knows_better() {
    let spool = Spool::new();
    let lost: Vec<QueueId> = spool.messages.keys().copied().collect();
    segments(spool.path()).iter().for_each(|path| fs::remove_file(path).unwrap());
    for _ in 0..2 {
        let (store, found) = open(spool.path());
        assert_eq!((ids(&found), &found.lost), (lost.clone(), &lost));
        for message in &found.messages {
            assert_eq!(message.meta, envelope(message.id));
            assert!(matches!(read(&store, message.id), Err(StoreError::Damaged(_))));
        }
        commit(&store, vec![Change::State { id: lost[0], state: b"held".to_vec() }]);
        store.close();
    }
}
