//! Lines for the log that come up while the messages are locked. They are written when the lock is free: a log that nobody
//! reads makes those wait who write to it, and must not make everybody wait who wants the lock.

use std::fmt;

/// Lines to be written.
#[derive(Default)]
pub(crate) struct Lines(Vec<Box<dyn FnOnce() + Send>>);

impl Lines {
    /// Keeps a line: `write` writes it.
    pub(crate) fn keep(&mut self, write: impl FnOnce() + Send + 'static) {
        self.0.push(Box::new(write));
    }

    /// Writes them. May wait.
    pub(crate) fn write(self) {
        self.0.into_iter().for_each(|write| write());
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("len", &self.0.len()).finish()
    }
}
