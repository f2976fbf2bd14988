//! What is wrong with a spool is found, and what is right is not.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use postern_queue::store::check::{self, Checked, Options, Subject};
use postern_queue::store::files::{Files, SystemFiles};
use postern_queue::store::quarantine::KeptKind;
use postern_queue::store::{Change, Store, StoreError};

use crate::disk::{Call, Disk, Say};
use crate::support::*;

const FULL: Options = Options { full: true, rate: u64::MAX };
const LIVE: Options = Options { full: false, rate: u64::MAX };

fn online(store: &Store, options: Options) -> (Checked, Findings) {
    let mut findings = Findings::default();
    let checked = store.check(options, &mut findings.listener()).unwrap();
    assert_eq!(checked.wrong as usize, findings.about().len(), "{:?}", findings.0);
    (checked, findings)
}

fn offline(directory: &Path) -> (Checked, Findings) {
    let mut findings = Findings::default();
    let files: Arc<dyn Files> = Arc::new(SystemFiles);
    let checked = check::check_directory(directory, &files, LIVE, &mut findings.listener()).unwrap();
    assert_eq!(checked.wrong as usize, findings.about().len(), "{:?}", findings.0);
    (checked, findings)
}

/// Inverts a bit of the content of a message of [`put`], wherever it is.
fn flip_content(directory: &Path, id: postern_queue::QueueId, length: usize) {
    let wanted = content(id, length);
    for path in segments(directory) {
        let octets = fs::read(&path).unwrap();
        if let Some(at) = octets.windows(length).position(|window| window == wanted) {
            return flip(&path, at + length / 2);
        }
    }
    panic!("message {id} is nowhere");
}

#[test]
fn nothing_is_wrong_with_a_sound_spool() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let messages: Vec<_> = (0..40).map(|_| put(&store, 700)).collect();
    let large = put_large(&store, 300_000);
    commit(&store, vec![state(messages[3], "tried"), state(large, "tried")]);
    messages[10..30].iter().for_each(|id| delete(&store, *id));
    store.collect();
    for options in [LIVE, FULL] {
        let (checked, findings) = online(&store, options);
        assert_eq!(findings.0, []);
        assert_eq!((checked.messages, checked.large_files), (21, 1));
        assert_eq!(checked.octets, 20 * 700 + 300_000 + HEADER.len() as u64);
        assert!(checked.segments > 1);
    }
    eventually("an index that is up to date", || online(&store, LIVE).0.rows == Some(21));
    store.close();
    let (checked, findings) = offline(directory.path());
    assert_eq!(findings.0, []);
    assert_eq!((checked.messages, checked.large_files, checked.rows), (21, 1, Some(21)));
    let (_, found) = open(directory.path());
    assert_eq!(found.index_rebuilt, None, "looking at the index changes nothing");
}

#[test]
fn a_flipped_bit_in_a_content_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let messages: Vec<_> = (0..20).map(|_| put(&store, 900)).collect();
    flip_content(directory.path(), messages[4], 900);
    for options in [LIVE, FULL] {
        let (checked, findings) = online(&store, options);
        assert_eq!((findings.about(), checked.messages), (vec![Subject::Content], 20));
        let finding = &findings.0[0];
        assert_eq!(finding.id, Some(messages[4].to_string()));
        assert!(
            finding.place.starts_with("log/seg-") && finding.advice.contains("posternctl"),
            "{finding:?}"
        );
    }
    store.close();
    let (_, findings) = offline(directory.path());
    assert_eq!(findings.about(), [Subject::Content]);
    assert_eq!(findings.0[0].id, Some(messages[4].to_string()));
}

#[test]
fn lost_and_damaged_files_of_large_messages_are_found() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let [lost, damaged, short, good] = [(); 4].map(|()| put_large(&store, 5000));
    let path = |id: postern_queue::QueueId| directory.path().join(format!("big/{:016x}", id.0));
    fs::remove_file(path(lost)).unwrap();
    flip(&path(damaged), 500);
    fs::write(path(short), "short").unwrap();
    let expected = [lost, damaged, short].map(|id| Some(id.to_string()));
    let (checked, findings) = online(&store, LIVE);
    assert_eq!(findings.about(), [Subject::Content; 3]);
    assert_eq!(findings.0.iter().map(|f| f.id.clone()).collect::<Vec<_>>(), expected);
    assert!(findings.0[0].what.contains("missing"), "{:?}", findings.0[0]);
    assert_eq!((checked.messages, checked.large_files), (4, 1), "{good} is whole");
    store.close();
    let (_, mut findings) = offline(directory.path());
    findings.0.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(findings.0.iter().map(|f| f.id.clone()).collect::<Vec<_>>(), expected);
}

#[test]
fn files_that_no_message_mentions_are_found_and_those_being_received_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    put_large(&store, 5000);
    let mut arriving = store.begin_body(store.next_id()).unwrap();
    arriving.write(&[b'x'; 300_000]).unwrap();
    let finished = store.begin_body(store.next_id()).unwrap().finish().unwrap();
    assert_eq!(online(&store, LIVE).1.0, []);
    fs::write(directory.path().join("big/0000000000000007"), "left over").unwrap();
    fs::write(directory.path().join("big/notes"), "mine").unwrap();
    fs::write(directory.path().join("log/seg-0000000900000007.log"), "mine").unwrap();
    let (_, findings) = online(&store, LIVE);
    let mut about = findings.about();
    about.sort_by_key(|about| format!("{about:?}"));
    assert_eq!(about, [Subject::File, Subject::File, Subject::Orphan]);
    drop((arriving, finished));
}

#[test]
fn a_part_of_the_log_that_counts_for_nothing_is_read_when_everything_is() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let messages: Vec<_> = (0..20).map(|_| put(&store, 900)).collect();
    // It stays where it is, because of its neighbours, and counts no more.
    delete(&store, messages[1]);
    let first = segments(directory.path()).remove(0);
    let octets = fs::read(&first).unwrap();
    flip(&first, octets.windows(25).position(|window| window == envelope(messages[1])).unwrap());
    assert_eq!(online(&store, LIVE).1.0, []);
    let (_, findings) = online(&store, FULL);
    assert_eq!(findings.about(), [Subject::Segment]);
}

#[test]
fn a_missing_segment_is_found_with_its_messages() {
    let directory = tempfile::tempdir().unwrap();
    // Not kept open by the one who wrote it.
    let (store, _) = open(directory.path());
    (0..20).for_each(|_| _ = put(&store, 900));
    store.close();
    let (store, _) = open(directory.path());
    fs::remove_file(&segments(directory.path())[0]).unwrap();
    let (checked, findings) = online(&store, FULL);
    assert_eq!(findings.about()[0], Subject::File);
    assert!(findings.about()[1..].iter().all(|about| *about == Subject::Message), "{:?}", findings.0);
    assert!(findings.0.len() > 2 && checked.messages == 20);
}

#[test]
fn a_segment_that_was_removed_at_rest_is_missed_until_somebody_has_seen_it() {
    for is_newest in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = open(directory.path());
        (0..40).for_each(|_| _ = put(&store, 900));
        store.close();
        let there = segments(directory.path());
        // Of the newest one only the index knows, of the others the log itself.
        let gone = if is_newest { there.last() } else { there.get(1) }.unwrap();
        fs::remove_file(gone).unwrap();
        let (_, findings) = offline(directory.path());
        assert_eq!(findings.about(), [Subject::File], "{:?}", findings.0);
        let name = gone.file_name().unwrap().to_str().unwrap();
        assert!(findings.0[0].place.contains(name), "{:?}", findings.0[0]);

        let (store, found) = open(directory.path());
        assert!(!found.lost.is_empty());
        let (_, findings) = online(&store, FULL);
        let mut expected = vec![Subject::File];
        expected.extend(found.lost.iter().map(|_| Subject::Content));
        assert_eq!(findings.about(), expected);
        assert!(findings.0[1].what.contains("lost"), "{:?}", findings.0[1]);
        found.lost.iter().for_each(|id| delete(&store, *id));
        store.close();
        let (_, findings) = offline(directory.path());
        assert_eq!(findings.about(), [Subject::File], "the mark of the start: {:?}", findings.0);

        let (store, _) = open(directory.path());
        let mark = name.replace(".log", ".missing");
        let kept = store.quarantine().unwrap();
        assert!(kept.iter().any(|kept| kept.name == mark && kept.kind == KeptKind::MissingSegment));
        store.discard(&mark).unwrap();
        assert_eq!(online(&store, FULL).1.0, []);
        store.close();
        assert_eq!(offline(directory.path()).1.0, []);
        assert_eq!(open(directory.path()).1.damaged, 0);
    }
}

/// A disk that takes its time for each new segment but the first, until nobody holds the other end of `go_on`.
#[derive(Debug)]
struct Slow {
    begun: SyncSender<()>,
    go_on: Mutex<Receiver<()>>,
}

impl Say for Slow {
    fn before(&self, path: &Path, call: Call<'_>) -> io::Result<()> {
        let name = path.file_name().unwrap().to_str().unwrap();
        let is_second = name.starts_with("seg-00000002") && name.ends_with(".log");
        if is_second && matches!(call, Call::Allocate(_)) {
            let _ = self.begun.try_send(());
            let _ = self.go_on.lock().unwrap().recv();
        }
        Ok(())
    }
}

#[test]
fn a_segment_that_is_being_made_is_no_foreign_file() {
    let directory = tempfile::tempdir().unwrap();
    let (begun, has_begun) = sync_channel(1);
    let (go, go_on) = sync_channel(1);
    let slow = Slow { begun, go_on: Mutex::new(go_on) };
    let (store, _) = open_on(directory.path(), Arc::new(Disk(Arc::new(slow)))).unwrap();
    std::thread::scope(|scope| {
        // Goes with this thread, however that ends.
        let go = go;
        scope.spawn(|| (0..40).for_each(|_| _ = put(&store, 900)));
        has_begun.recv().unwrap();
        assert_eq!(segments(directory.path()).len(), 2);
        assert_eq!(online(&store, FULL).1.0, []);
        drop(go);
    });
    assert_eq!(online(&store, FULL).0.messages, 40);
}

#[test]
fn nothing_is_found_wrong_while_mail_flows() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for sender in 0..2 {
            let (store, stop) = (&store, &stop);
            scope.spawn(move || {
                let mut waiting = std::collections::VecDeque::new();
                for number in 0_usize.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let id =
                        if (number + sender) % 9 == 0 { put_large(store, 3000) } else { put(store, 600) };
                    commit(store, vec![state(id, "tried")]);
                    waiting.push_back(id);
                    if waiting.len() > 30 {
                        // Some stay for long, so that segments are copied out of.
                        let ended = if number % 2 == 0 { waiting.pop_front() } else { waiting.pop_back() };
                        commit(store, vec![Change::Delete { id: ended.unwrap() }]);
                    }
                }
            });
        }
        for round in 0..16 {
            let (_, findings) = online(&store, if round % 2 == 0 { FULL } else { LIVE });
            if !findings.0.is_empty() {
                stop.store(true, Ordering::Relaxed);
            }
            assert_eq!(findings.0, [], "round {round}");
        }
        stop.store(true, Ordering::Relaxed);
    });
    store.close();
    // Files of messages that have just ended are removed at the next start.
    assert_eq!(offline(directory.path()).1.about(), []);
}

#[test]
fn what_a_crash_left_unfinished_is_a_note() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    (0..3).for_each(|_| _ = put(&store, 900));
    let crashed = tempfile::tempdir().unwrap();
    copy(directory.path(), crashed.path());
    // Copied while it was written, which no crash does.
    fs::remove_dir_all(crashed.path().join("index")).unwrap();
    // A fourth record, of which only the beginning arrived.
    let newest = segments(crashed.path()).pop().unwrap();
    let mut octets = fs::read(&newest).unwrap();
    let end = 64 + 3 * 992;
    octets.copy_within(64..64 + 500, end);
    fs::write(newest, octets).unwrap();
    fs::write(crashed.path().join("big/0000000000000007"), "half").unwrap();
    let (checked, findings) = offline(crashed.path());
    assert_eq!(findings.about(), []);
    assert_eq!((findings.0.len(), checked.messages), (2, 3), "{:?}", findings.0);
}

#[test]
fn a_spool_in_use_and_a_directory_that_is_none_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let files: Arc<dyn Files> = Arc::new(SystemFiles);
    let check = || check::check_directory(directory.path(), &files, LIVE, &mut listen);
    assert!(matches!(check(), Err(StoreError::Refused(_))));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is made");
    let (store, _) = open(directory.path());
    assert!(matches!(check(), Err(StoreError::InUse(_))));
    store.close();
    assert!(check().is_ok());
    fs::write(directory.path().join("FORMAT"), "2\n").unwrap();
    assert!(matches!(check(), Err(StoreError::UnknownFormat(format)) if format == "2"));
}

#[test]
fn a_check_ends_when_nobody_waits_for_it_and_when_the_store_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    (0..5).for_each(|_| _ = put(&store, 900));
    let mut leave = |_| std::ops::ControlFlow::Break(());
    assert!(matches!(store.check(LIVE, &mut leave), Err(StoreError::Interrupted)));
    store.close();
    assert!(matches!(store.check(LIVE, &mut listen), Err(StoreError::Interrupted)));
}
