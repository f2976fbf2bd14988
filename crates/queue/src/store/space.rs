//! How much room the spool's file system has: asked by a thread of its own, known to everybody without waiting.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{Inner, Space};

/// How often the system is asked.
const INTERVAL: Duration = Duration::from_secs(1);

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    free: AtomicU64,
    inodes: AtomicU64,
    closed: Mutex<bool>,
    changed: Condvar,
}

impl Gauge {
    /// The room there was when the system was asked last.
    pub fn known(&self) -> Space {
        let (free, inodes) = (self.free.load(Ordering::Relaxed), self.inodes.load(Ordering::Relaxed));
        Space { free, inodes }
    }

    /// Ends the thread.
    pub fn close(&self) {
        *self.closed.lock() = true;
        self.changed.notify_all();
    }

    fn set(&self, space: Space) {
        self.free.store(space.free, Ordering::Relaxed);
        self.inodes.store(space.inodes, Ordering::Relaxed);
    }

    /// Waits for one interval. Whether to go on.
    fn wait(&self) -> bool {
        let mut closed = self.closed.lock();
        if !*closed {
            self.changed.wait_for(&mut closed, INTERVAL);
        }
        !*closed
    }
}

/// Asks the system until the store is closed.
pub(super) fn run(inner: &Inner) {
    while inner.space.wait() {
        measure(inner);
    }
}

/// Asks the system. Blocking.
pub(super) fn measure(inner: &Inner) {
    let space = inner.files.space(&inner.layout.root).unwrap_or_else(|error| {
        tracing::error!(%error, "cannot learn how much room the spool has");
        Space { free: 0, inodes: 0 }
    });
    inner.space.set(space);
}
