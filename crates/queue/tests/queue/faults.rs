//! Over a store that fails as a test wants it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use postern_config as config;
use postern_queue::memory::{Memory, MemorySpool};
use postern_queue::spool::{Change, Done, LargeBody, Recovered, Space, StoredBody};
use postern_queue::{Queue, QueueId, Recovery, Spool, StoreError, Surroundings, metrics};
use postern_runtime::Clock;

use crate::world::*;

type World = crate::world::World<OnFaults>;

/// In memory, and faulty.
#[derive(Clone, Default)]
pub struct OnFaults {
    memory: Memory,
    faults: Arc<Faults>,
}

/// What is wrong with the store.
#[derive(Debug, Default)]
struct Faults {
    /// It refuses changes.
    refuses: AtomicBool,
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
        Queue::open_on(config, surroundings, clock, metrics, |tell| {
            let (below, found) = self.memory.open(time, tell)?;
            Ok((Arc::new(Faulty { below, faults: self.faults.clone() }), found))
        })
    }
}

#[derive(Debug)]
struct Faulty {
    below: MemorySpool,
    faults: Arc<Faults>,
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
