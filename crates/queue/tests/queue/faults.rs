//! Over a store that fails as a test wants it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use postern_config as config;
use postern_queue::memory::{Memory, MemorySpool};
use postern_queue::operate::Retry;
use postern_queue::rules::{NewRule, RuleAction};
use postern_queue::spool::{Change, Done, LargeBody, Recovered, Space, StoredBody};
use postern_queue::{Filter, Queue, QueueId, Recovery, Spool, StoreError, Surroundings, metrics};
use postern_runtime::Clock;
use tokio::time::timeout;

use crate::world::*;

type World = crate::world::World<OnFaults>;

/// In memory, and faulty.
#[derive(Clone, Default)]
pub struct OnFaults {
    memory: Memory,
    faults: Arc<Faults>,
}

/// A commit that is kept back.
type Commit = Box<dyn FnOnce() + Send>;

/// What is wrong with the store.
#[derive(Default)]
struct Faults {
    /// It refuses changes.
    refuses: AtomicBool,
    /// It stands still: these changes are taken when it goes on.
    stands_still: Mutex<Option<Vec<Commit>>>,
    /// Nothing may be read on this thread.
    event_loop: Mutex<Option<ThreadId>>,
    /// What was read there all the same.
    read_there: AtomicUsize,
    /// Groups of changes that it took.
    taken: AtomicUsize,
}

impl Backing for OnFaults {
    fn open(
        &self,
        config: &config::Queue,
        surroundings: Arc<dyn Surroundings>,
        clock: Arc<dyn Clock>,
        metrics: metrics::Metrics,
    ) -> Result<(Queue, Recovery), StoreError> {
        let time = clock.clone();
        // The standing rules are a file also where the mail is not.
        std::fs::create_dir_all(&config.path).unwrap();
        Queue::open_on(config, surroundings, clock, metrics, |tell| {
            let (below, found) = self.memory.open(time, tell)?;
            Ok((Arc::new(Faulty { below: Arc::new(below), faults: self.faults.clone() }), found))
        })
    }
}

struct Faulty {
    below: Arc<MemorySpool>,
    faults: Arc<Faults>,
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").finish_non_exhaustive()
    }
}

fn broken() -> StoreError {
    StoreError::Io { what: "writing".to_owned(), source: std::io::Error::from_raw_os_error(5) }
}

impl Spool for Faulty {
    fn next_id(&self) -> QueueId {
        self.below.next_id()
    }

    fn commit(&self, changes: Vec<Change>, done: Done) {
        if self.faults.refuses.load(Ordering::SeqCst) {
            return done(Err(Arc::new(broken())));
        }
        if let Some(kept) = &mut *self.faults.stands_still.lock().unwrap() {
            let below = self.below.clone();
            return kept.push(Box::new(move || below.commit(changes, done)));
        }
        self.faults.taken.fetch_add(1, Ordering::SeqCst);
        self.below.commit(changes, done);
    }

    fn begin_body(&self, id: QueueId) -> Result<Box<dyn LargeBody>, StoreError> {
        self.below.begin_body(id)
    }

    fn read(&self, id: QueueId) -> Result<StoredBody, StoreError> {
        self.below.read(id)
    }

    fn load(&self, id: QueueId) -> Result<Recovered, StoreError> {
        if *self.faults.event_loop.lock().unwrap() == Some(thread::current().id()) {
            self.faults.read_there.fetch_add(1, Ordering::SeqCst);
        }
        self.below.load(id)
    }

    fn space(&self) -> Space {
        self.below.space()
    }

    fn health(&self) -> Option<String> {
        self.below.health()
    }

    fn close(&self) {
        self.below.close();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_refused_by_the_disk_is_open_and_not_undone() {
    let world = World::new();
    let queue = world.open().await;
    let mut ids = Vec::new();
    for _ in 0..501 {
        ids.push(accept(&world, &queue, ALICE, &["bob@adatum.test"]).await);
    }
    world.backing.faults.refuses.store(true, Ordering::SeqCst);
    let change = queue.hold(&ids, "looks odd", None, Duration::ZERO).await.unwrap();
    assert_eq!(
        (change.matched, change.changed, change.not_durable, change.skipped.len()),
        (501, 0, 500, 501)
    );
    let reason = &change.skipped[0].1;
    assert!(reason.contains("not durable yet") && reason.contains("writing"), "{reason}");
    // Those that come after a refusal are not touched.
    assert!(change.skipped[500].1.contains("left alone"), "{change:?}");
    world.backing.faults.refuses.store(false, Ordering::SeqCst);
    world.pass(Duration::from_secs(1));
    until(async || world.backing.faults.taken.load(Ordering::SeqCst) == 501 + 500).await;
    drop(queue);
    let summary = world.open().await.summary();
    assert_eq!((summary.messages, summary.held), (501, 500));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_rules_let_through_before_another_came_is_in_the_queue_when_they_have_settled() {
    let world = World::new();
    let queue = world.open().await;
    let faults = &world.backing.faults;
    *faults.stands_still.lock().unwrap() = Some(Vec::new());
    let (accepting, envelope) = (queue.clone(), envelope(&world, ALICE, &["bob@adatum.test"]));
    let accepting = tokio::spawn(async move { accept_as(&accepting, envelope).await });
    until(async || faults.stands_still.lock().unwrap().as_ref().is_some_and(|kept| kept.len() == 1)).await;
    let rule = NewRule {
        action: RuleAction::Hold,
        filter: Filter { sender: Some(ALICE.to_owned()), ..Filter::default() },
        reason: "a test".to_owned(),
        text: None,
        temporary: false,
        until: None,
    };
    queue.rules().add(rule, 7).unwrap();
    let mut settled = std::pin::pin!(queue.rules_settled());
    assert!(timeout(Duration::ZERO, &mut settled).await.is_err());
    let kept = faults.stands_still.lock().unwrap().take().unwrap();
    kept.into_iter().for_each(|commit| commit());
    settled.await;
    let found = queue.select(&Filter::default()).unwrap();
    assert_eq!(found, [in_time(accepting).await.unwrap()]);
}

#[tokio::test]
async fn a_verb_reads_nothing_on_the_event_loop() {
    let world = World::with(|queue| queue.memory = 0);
    let queue = world.open().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(accept(&world, &queue, ALICE, &["bob@adatum.test"]).await);
    }
    // There is one thread for everything that is not blocking.
    let faults = &world.backing.faults;
    *faults.event_loop.lock().unwrap() = Some(thread::current().id());
    assert_eq!(queue.hold(&ids, "a test", None, Duration::ZERO).await.unwrap(), changed(3, 3));
    let held = queue.retry(&ids, Retry::default()).await.unwrap();
    assert_eq!((held.changed, held.skipped.len()), (0, 3));
    assert_eq!(queue.release(&ids).await.unwrap(), changed(3, 3));
    assert_eq!(faults.read_there.load(Ordering::SeqCst), 0);
}
