//! Messages whose envelope and state are in the spool only, because they take up memory and nothing goes on with them
//! (`queue.memory`). Here they are read when something does: their time comes, their turn comes, or an operator asks.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use parking_lot::MutexGuard;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::Inner;
use crate::entry::{Entry, Loaded, Texts};
use crate::envelope::Envelope;
use crate::message::{Destination, QueueId};
use crate::messages::{Context, Effects, Messages};
use crate::spool::{Spool, StoreError};
use crate::state::MessageState;

/// How often it is tried to get hold of messages that others change and leave to the spool again meanwhile.
const TRIES: usize = 8;

/// Messages that are read together, and then put into the queue together.
const BATCH: usize = 256;

/// Lines whose messages in front are read together: about as many messages.
const LINES: usize = 16;

/// Asks for messages to be read.
#[derive(Debug)]
pub(crate) struct Loads {
    windows: mpsc::UnboundedSender<Destination>,
    messages: mpsc::UnboundedSender<Vec<QueueId>>,
}

/// What is asked for. No line waits behind all messages whose time has come, and these do not wait for ever behind lines.
#[derive(Debug)]
pub(crate) struct Wanted {
    windows: mpsc::UnboundedReceiver<Destination>,
    messages: mpsc::UnboundedReceiver<Vec<QueueId>>,
    /// Whether lines were served last.
    lines_were_last: bool,
}

/// What is read together.
#[derive(Debug, PartialEq, Eq)]
enum Batch {
    /// The messages in front of the lines of these destinations.
    Windows(Vec<Destination>),
    /// Messages with which something is to be done.
    Messages(Vec<QueueId>),
}

/// Both ends.
pub(crate) fn loads() -> (Loads, Wanted) {
    let (windows, wanted_windows) = mpsc::unbounded_channel();
    let (messages, wanted_messages) = mpsc::unbounded_channel();
    let wanted = Wanted { windows: wanted_windows, messages: wanted_messages, lines_were_last: false };
    (Loads { windows, messages }, wanted)
}

impl Loads {
    /// Asks for what a step of the queue needs. Fails only when the queue is closed.
    pub(crate) fn ask(&self, messages: Vec<QueueId>, windows: Vec<Destination>) {
        for destination in windows {
            let _ = self.windows.send(destination);
        }
        if !messages.is_empty() {
            let _ = self.messages.send(messages);
        }
    }
}

impl Wanted {
    /// What is to be read next; `None`: nobody asks any more.
    async fn next(&mut self) -> Option<Batch> {
        if std::mem::take(&mut self.lines_were_last)
            && let Ok(ids) = self.messages.try_recv()
        {
            return Some(self.messages(ids));
        }
        tokio::select! {
            biased;
            Some(line) = self.windows.recv() => Some(self.windows(line)),
            Some(ids) = self.messages.recv() => Some(self.messages(ids)),
            else => None,
        }
    }

    fn windows(&mut self, first: Destination) -> Batch {
        self.lines_were_last = true;
        let mut lines = vec![first];
        while lines.len() < LINES
            && let Ok(line) = self.windows.try_recv()
        {
            lines.push(line);
        }
        Batch::Windows(lines)
    }

    fn messages(&mut self, first: Vec<QueueId>) -> Batch {
        let mut ids = first;
        while ids.len() < BATCH
            && let Ok(more) = self.messages.try_recv()
        {
            ids.extend(more);
        }
        Batch::Messages(ids)
    }
}

/// Reads what is asked for, in batches, until the queue is closed.
pub(crate) async fn run(queue: Weak<Inner>, mut wanted: Wanted, closing: CancellationToken) {
    loop {
        let batch = tokio::select! {
            () = closing.cancelled() => return,
            batch = wanted.next() => batch,
        };
        let (Some(batch), Some(inner)) = (batch, queue.upgrade()) else {
            return;
        };
        match batch {
            Batch::Windows(lines) => {
                let ids = {
                    let messages = inner.messages.lock();
                    lines.iter().flat_map(|line| messages.cold_window(line)).collect()
                };
                inner.take_in(inner.load(ids).await);
                inner.with(|messages, _, _| messages.windows_loaded(&lines));
            }
            Batch::Messages(ids) => {
                let asked = ids.len();
                inner.take_in(inner.load(ids).await);
                inner.with(|messages, _, _| messages.asked_loaded(asked));
            }
        }
    }
}

impl Inner {
    /// Reads messages from the spool.
    pub(crate) async fn load(self: &Arc<Self>, ids: Vec<QueueId>) -> Vec<Loaded> {
        let spool = self.spool.clone();
        let wanted = ids.clone();
        let read = tokio::task::spawn_blocking(move || load(&*spool, &wanted)).await;
        read.unwrap_or_else(|panic| {
            error!(%panic, "reading messages from the spool failed");
            let closed = |id| Loaded { id, texts: Err(Arc::new(StoreError::Closed)) };
            ids.into_iter().map(closed).collect()
        })
    }

    /// Has everything done that waited for messages. A panic costs the message that it came from, and neither the
    /// others nor the loader: without it nothing that is cold would ever be delivered.
    fn take_in(self: &Arc<Self>, loaded: Vec<Loaded>) {
        let mut loaded = loaded.into_iter();
        loop {
            let left = loaded.len();
            let take = || self.with(|messages, cx, fx| messages.loaded(loaded.by_ref(), cx, fx));
            if catch_unwind(AssertUnwindSafe(take)).is_ok() {
                break;
            }
            error!("work on a message that was read from the spool panicked: a fault in this server");
            if loaded.len() == left {
                break;
            }
        }
    }

    /// Locks the queue with everything at hand that some messages are read with: what is not in memory was loaded. Blocking.
    pub(crate) fn lock_loaded(
        &self,
        wanted: impl Fn(&Messages) -> Vec<QueueId>,
    ) -> (MutexGuard<'_, Messages>, HashMap<QueueId, Loaded>) {
        let mut loaded: HashMap<QueueId, Loaded> = HashMap::new();
        for _ in 0..TRIES {
            let messages = self.messages.lock();
            if !messages.has_cold() {
                return (messages, loaded);
            }
            let is_missing =
                |id: &QueueId| messages.entry(*id).is_some_and(|entry| !entry.is_readable(loaded.get(id)));
            let missing: Vec<QueueId> = wanted(&messages).into_iter().filter(is_missing).collect();
            if missing.is_empty() {
                return (messages, loaded);
            }
            drop(messages);
            loaded.extend(load(&*self.spool, &missing).into_iter().map(|found| (found.id, found)));
        }
        (self.messages.lock(), loaded)
    }

    /// Looks at one message. `None`: there is no such message. Blocking, if it is not in memory.
    pub(crate) fn look_at<R>(
        &self,
        id: QueueId,
        look: impl FnOnce(&Messages, &Entry, Option<&Loaded>) -> R,
    ) -> Option<R> {
        let (messages, loaded) = self.lock_loaded(|_| vec![id]);
        let entry = messages.entry(id)?;
        Some(look(&messages, entry, loaded.get(&id)))
    }

    /// Looks at each of some messages, at all in one moment. Those that are not in memory are read off the event loop.
    pub(crate) async fn look_at_each(
        self: &Arc<Self>,
        ids: &[QueueId],
        mut look: impl FnMut(QueueId, &Messages, Option<&Loaded>),
    ) {
        let mut loaded: HashMap<QueueId, Loaded> = HashMap::new();
        for attempt in 1..=TRIES {
            let missing: Vec<QueueId> = {
                let messages = self.messages.lock();
                let is_missing = |id: &QueueId| {
                    messages.entry(*id).is_some_and(|entry| !entry.is_readable(loaded.get(id)))
                };
                let missing: Vec<QueueId> = ids.iter().copied().filter(is_missing).collect();
                if missing.is_empty() || attempt == TRIES {
                    ids.iter().for_each(|id| look(*id, &messages, loaded.get(id)));
                    return;
                }
                missing
            };
            loaded.extend(self.load(missing).await.into_iter().map(|found| (found.id, found)));
        }
    }

    /// Reads one message. `None`: there is none, or it cannot be read. Blocking, if it is not in memory.
    pub(crate) fn read<R>(&self, id: QueueId, read: impl FnOnce(&Envelope, &MessageState) -> R) -> Option<R> {
        self.look_at(id, |_, entry, loaded| entry.read(loaded, read).ok())?
    }

    /// Works on each of some messages; those that are not in memory are loaded before. Returns those that cannot be read.
    pub(crate) async fn with_each(
        self: &Arc<Self>,
        ids: &[QueueId],
        mut work: impl FnMut(QueueId, &mut Messages, &Context<'_>, &mut Effects),
    ) -> Vec<(QueueId, Arc<StoreError>)> {
        let mut unread = Vec::new();
        let mut rest = ids.to_vec();
        for attempt in 1..=TRIES {
            let cold = {
                let messages = self.messages.lock();
                let is_cold = |id: &QueueId| messages.is_cold(*id);
                rest.iter().copied().filter(is_cold).collect::<Vec<_>>()
            };
            let loaded = if cold.is_empty() { Vec::new() } else { self.load(cold).await };
            let mut loaded: HashMap<QueueId, Loaded> =
                loaded.into_iter().map(|found| (found.id, found)).collect();
            rest = self.with(|messages, cx, fx| {
                let mut later = Vec::new();
                for id in std::mem::take(&mut rest) {
                    // Right before it is worked on: others may be left to the spool again meanwhile.
                    let found = loaded.remove(&id);
                    found.iter().for_each(|found| messages.warm(found));
                    if !messages.entry(id).is_some_and(|entry| entry.is_cold()) {
                        work(id, messages, cx, fx);
                    } else if let Some(Loaded { texts: Err(error), .. }) = found {
                        unread.push((id, error));
                    } else if attempt == TRIES {
                        unread.push((id, Arc::new(StoreError::NoMessage(id))));
                    } else {
                        later.push(id);
                    }
                }
                later
            });
            if rest.is_empty() {
                break;
            }
        }
        unread
    }
}

/// Blocking.
fn load(spool: &dyn Spool, ids: &[QueueId]) -> Vec<Loaded> {
    let read = |id: &QueueId| {
        let texts =
            spool.load(*id).map(|found| Texts::new(&found.meta, found.state.as_deref().unwrap_or(&[])));
        Loaded { id: *id, texts: texts.map_err(Arc::new) }
    };
    ids.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: usize) -> Destination {
        Destination(format!("{number}.test").into())
    }

    fn ids(range: std::ops::Range<u64>) -> Vec<QueueId> {
        range.map(QueueId).collect()
    }

    #[tokio::test]
    async fn a_line_does_not_wait_behind_all_messages_that_are_due_nor_they_behind_all_lines() {
        let (loads, mut wanted) = loads();
        loads.ask(ids(0..200), Vec::new());
        loads.ask(ids(200..400), Vec::new());
        loads.ask(ids(400..600), Vec::new());
        assert_eq!(wanted.next().await, Some(Batch::Messages(ids(0..400))));
        loads.ask(Vec::new(), (0..3 * LINES).map(line).collect());
        assert_eq!(wanted.next().await, Some(Batch::Windows((0..LINES).map(line).collect())));
        assert_eq!(wanted.next().await, Some(Batch::Messages(ids(400..600))));
        assert_eq!(wanted.next().await, Some(Batch::Windows((LINES..2 * LINES).map(line).collect())));
        assert_eq!(wanted.next().await, Some(Batch::Windows((2 * LINES..3 * LINES).map(line).collect())));
        drop(loads);
        assert_eq!(wanted.next().await, None);
    }
}
