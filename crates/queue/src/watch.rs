//! Recipients that were being delivered when an operator changed their message: how many of the attempts have ended, and how.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Attempts that an operator's verb looks after. The message notes their ends, the verb reads them.
#[derive(Debug)]
pub(crate) struct Watch {
    indices: Vec<usize>,
    open: AtomicUsize,
    delivered: AtomicUsize,
}

impl Watch {
    /// Watches these recipients, all of them in hand.
    pub(crate) fn new(indices: Vec<usize>) -> Self {
        let open = AtomicUsize::new(indices.len());
        Self { indices, open, delivered: AtomicUsize::new(0) }
    }

    /// An attempt at a recipient has ended.
    pub(crate) fn ended(&self, index: usize, is_delivered: bool) {
        if !self.indices.contains(&index) || self.open() == 0 {
            return;
        }
        self.delivered.fetch_add(usize::from(is_delivered), Ordering::AcqRel);
        self.open.fetch_sub(1, Ordering::AcqRel);
    }

    /// Recipients that were being delivered.
    pub(crate) fn recipients(&self) -> usize {
        self.indices.len()
    }

    /// Those whose attempt has not ended.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Those whose attempt has ended with delivery.
    pub(crate) fn delivered(&self) -> usize {
        self.delivered.load(Ordering::Acquire)
    }
}
