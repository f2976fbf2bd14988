//! What became of messages waits for new mail and is written with it: new mail waits for nothing, nor does whoever asks.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{TryRecvError, channel};
use std::time::Duration;

use postern_queue::store::{Change, Store, Tuning};
use postern_runtime::SystemClock;

use crate::disk::{Call, Disk, Say};
use crate::support::*;

/// Longer than any test: what is told was not told because its time was over.
const FOR_EVER: Duration = Duration::from_secs(24 * 3600);

/// Counts how often the log is made durable: once for each write.
#[derive(Debug, Default)]
struct Counting {
    syncs: AtomicUsize,
}

impl Counting {
    fn syncs(&self) -> usize {
        self.syncs.load(Ordering::SeqCst)
    }
}

impl Say for Counting {
    fn before(&self, path: &Path, call: Call<'_>) -> io::Result<()> {
        let of_log = path.parent().is_some_and(|directory| directory.ends_with("log"));
        if of_log && matches!(call, Call::Sync) {
            self.syncs.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }
}

fn open_lingering(directory: &Path, linger: Duration) -> (Store, Arc<Counting>) {
    let config = postern_config::Queue { segment_size: 1024 * 1024, ..config(directory) };
    open_configured(&config, linger)
}

fn open_configured(config: &postern_config::Queue, linger: Duration) -> (Store, Arc<Counting>) {
    let disk = Arc::new(Counting::default());
    let files = Arc::new(Disk(Arc::clone(&disk)));
    let tuning = Tuning { linger, ..tuning() };
    let (store, _) = Store::open_with(config, files, Arc::new(SystemClock), tuning).unwrap();
    (store, disk)
}

fn is_told(told: &Told) {
    told.recv_timeout(Duration::from_secs(30)).unwrap().unwrap();
}

#[test]
fn outcomes_are_written_with_the_next_new_mail_and_share_its_sync() {
    let directory = tempfile::tempdir().unwrap();
    let (store, disk) = open_lingering(directory.path(), FOR_EVER);
    let [ended, deferred] = [put(&store, 1000), put(&store, 1000)];
    let syncs = disk.syncs();
    let told = [
        hand_over(&store, vec![Change::Delete { id: ended }]),
        hand_over(&store, vec![state(deferred, "tried")]),
    ];
    assert!(told.iter().all(|told| matches!(told.try_recv(), Err(TryRecvError::Empty))));
    assert_eq!(disk.syncs(), syncs);

    let id = store.next_id();
    is_told(&hand_over(&store, vec![enqueue(id, 1000)]));
    told.iter().for_each(is_told);
    assert_eq!(disk.syncs(), syncs + 1);
    store.close();
    let (_, found) = open(directory.path());
    assert_eq!((ids(&found), state_of(&found, deferred).as_deref()), (vec![deferred, id], Some("tried")));
}

#[test]
fn a_group_with_a_new_message_is_new_mail_whatever_else_is_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open_lingering(directory.path(), FOR_EVER);
    let about = put(&store, 1000);
    let report = enqueue(store.next_id(), 500);
    is_told(&hand_over(&store, vec![report, Change::Delete { id: about }]));
}

#[test]
fn outcomes_that_somebody_waits_for_are_written_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let (store, disk) = open_lingering(directory.path(), FOR_EVER);
    let ids = [put(&store, 1000), put(&store, 1000)];
    let syncs = disk.syncs();
    let told = ids.map(|id| hand_over(&store, vec![state(id, "held")]));
    store.hurry();
    told.iter().for_each(is_told);
    assert_eq!(disk.syncs(), syncs + 1);
    // That was for those who waited then.
    store.hurry();
    let told = hand_over(&store, vec![state(ids[0], "released")]);
    put(&store, 1000);
    is_told(&told);
    assert_eq!(disk.syncs(), syncs + 2);
}

#[test]
fn outcomes_are_written_without_new_mail_when_their_time_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open_lingering(directory.path(), Duration::from_millis(1));
    let id = put(&store, 1000);
    is_told(&hand_over(&store, vec![state(id, "tried")]));
    is_told(&hand_over(&store, vec![Change::Delete { id }]));
}

#[test]
fn what_lingers_is_written_when_the_store_closes() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open_lingering(directory.path(), FOR_EVER);
    let [ended, kept] = [put(&store, 1000), put(&store, 1000)];
    let told = hand_over(&store, vec![Change::Delete { id: ended }]);
    store.close();
    is_told(&told);
    assert_eq!(ids(&open(directory.path()).1), [kept]);
}

#[test]
fn a_crash_forgets_outcomes_that_linger_and_no_mail() {
    let directory = tempfile::tempdir().unwrap();
    let (root, crashed) = (directory.path().join("spool"), directory.path().join("crashed"));
    let (store, _) = open_lingering(&root, FOR_EVER);
    let before = put(&store, 1000);
    let forgotten = put(&store, 1000);
    let known = hand_over(&store, vec![Change::Delete { id: before }]);
    let last = put(&store, 1000);
    is_told(&known);
    let _told = hand_over(&store, vec![Change::Delete { id: forgotten }]);
    copy(&root, &crashed);
    assert_eq!(ids(&open(&crashed).1), [forgotten, last], "one of them is delivered again");
}

#[test]
fn giving_room_back_does_not_wait_for_new_mail() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open_configured(&config(directory.path()), FOR_EVER);
    let messages: Vec<_> = (0..20).map(|_| put(&store, 2000)).collect();
    messages[..15].iter().for_each(|id| delete(&store, *id));
    let told = hand_over(&store, vec![Change::Delete { id: messages[15] }]);
    let compacted = store.compact(&mut listen).unwrap();
    assert!(compacted.given_back() > 0, "{compacted:?}");
    is_told(&told);
    store.close();
    assert_eq!(ids(&open(directory.path()).1), messages[16..]);
}

#[test]
fn a_start_that_writes_a_state_down_again_does_not_wait_for_new_mail() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let kept = put(&store, SEGMENT as usize - 200);
    commit(&store, vec![state(kept, "all but one have it")]);
    store.close();
    // Only the index knows the state now.
    let segments = segments(directory.path());
    assert_eq!(segments.len(), 2);
    std::fs::remove_file(&segments[1]).unwrap();
    let config = config(directory.path());
    let (sender, opened) = channel();
    std::thread::spawn(move || drop(sender.send(open_configured(&config, FOR_EVER))));
    let (store, _) = opened.recv_timeout(Duration::from_secs(30)).unwrap();
    drop(store);
    std::fs::remove_dir_all(directory.path().join("index")).unwrap();
    let (_, found) = open(directory.path());
    assert_eq!(state_of(&found, kept).as_deref(), Some("all but one have it"));
    assert!(found.lost.is_empty());
}
