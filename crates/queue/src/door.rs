//! A queue that others hold while it is still being loaded.
//!
//! A deep queue takes seconds to read. Clients need not wait for it to be greeted, nor operators to be answered: whoever
//! needs the queue holds a [`Door`] to it, and waits there, or says that it is closed. The one [`Opener`] loads the queue and
//! opens the door, once and for good.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use postern_config as config;
use postern_runtime::Clock;
use tokio::sync::SetOnce;

use crate::metrics::Metrics;
use crate::store::{Claim, StoreError};
use crate::{Queue, Recovery, Surroundings};

/// The way to a queue that may still be closed. Cheap to clone; behind an open door nothing is locked.
#[derive(Debug, Clone)]
pub struct Door {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    queue: SetOnce<Queue>,
    /// Messages read so far.
    read: AtomicUsize,
}

impl Door {
    /// A closed door, and what opens it.
    pub fn closed() -> (Self, Opener) {
        let door = Self { inner: Arc::default() };
        (door.clone(), Opener { door })
    }

    /// The queue, when the door is open. Waits for ever if the queue cannot be loaded: whoever waits bounds it. May be
    /// dropped before it ends.
    pub async fn queue(&self) -> Queue {
        self.inner.queue.wait().await.clone()
    }

    /// The queue, if the door is open.
    pub fn now(&self) -> Option<Queue> {
        self.inner.queue.get().cloned()
    }

    /// How many messages were read so far.
    pub fn messages_read(&self) -> usize {
        self.inner.read.load(Ordering::Relaxed)
    }
}

/// A door that is open.
impl From<Queue> for Door {
    fn from(queue: Queue) -> Self {
        Self { inner: Arc::new(Inner { queue: queue.into(), read: AtomicUsize::new(0) }) }
    }
}

/// What opens a [`Door`]. Dropped unused, it leaves the door closed for ever.
#[derive(Debug)]
pub struct Opener {
    door: Door,
}

impl Opener {
    /// Loads the queue of a spool that [`Queue::claim`] has made ours: the rest of [`Queue::open`]. The door counts the
    /// messages meanwhile and stays closed.
    ///
    /// # Errors
    /// Those of [`Queue::open`].
    pub fn load(
        &self,
        claim: Claim,
        config: &config::Queue,
        surroundings: Arc<dyn Surroundings>,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Result<(Queue, Recovery), StoreError> {
        Queue::load(claim, config, surroundings, clock, metrics, &self.door.inner.read)
    }

    /// Opens the door: everybody who waits goes on with this queue.
    pub fn open(self, queue: Queue) {
        // There is one opener of a door and this takes it, so the door is closed.
        let _ = self.door.inner.queue.set(queue);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::time::SystemTime;

    use postern_runtime::SystemClock;
    use prometheus::Registry;

    use super::*;
    use crate::Envelope;
    use crate::messages::tests::{TestSurroundings, envelope};

    fn config(folder: &std::path::Path) -> config::Queue {
        config::Queue {
            path: folder.join("spool"),
            segment_size: 1024 * 1024,
            min_free_space: 0,
            ..config::Queue::default()
        }
    }

    fn load(opener: &Opener, claim: Claim, config: &config::Queue) -> (Queue, Recovery) {
        let surroundings = Arc::new(TestSurroundings { schedule: Arc::new(config.clone()) });
        let metrics = Metrics::register(&Registry::new()).unwrap();
        opener.load(claim, config, surroundings, Arc::new(SystemClock), metrics).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_waits_goes_on_when_the_door_is_opened_and_not_when_all_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        for messages in [0, 3] {
            let (door, opener) = Door::closed();
            let waiting = tokio::spawn({
                let door = door.clone();
                async move { door.queue().await }
            });
            let claim = Queue::claim(&config).unwrap();
            assert_eq!(door.messages_read(), 0);
            let (queue, recovery) = load(&opener, claim, &config);
            assert_eq!((door.messages_read(), recovery.messages), (messages, messages));
            assert!(door.now().is_none() && !waiting.is_finished());
            opener.open(queue.clone());
            for entered in [waiting.await.unwrap(), door.now().unwrap(), door.queue().await] {
                assert!(Arc::ptr_eq(&entered.inner, &queue.inner));
                let envelope = Envelope { received: SystemTime::now(), ..envelope(1) };
                entered.incoming().unwrap().commit(envelope, b"x".to_vec()).await.unwrap();
            }
            queue.close().await;
        }
    }

    #[test]
    fn a_spool_is_claimed_once_and_given_back_unread() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let claim = Queue::claim(&config).unwrap();
        assert!(matches!(Queue::claim(&config), Err(StoreError::InUse(_))));
        drop(claim);
        Queue::claim(&config).unwrap();
        std::fs::write(config.path.join("FORMAT"), "99\n").unwrap();
        assert!(matches!(Queue::claim(&config), Err(StoreError::UnknownFormat(_))));
    }

    #[test]
    fn a_door_without_an_opener_stays_closed() {
        let (door, opener) = Door::closed();
        drop(opener);
        assert!(door.now().is_none());
    }
}
