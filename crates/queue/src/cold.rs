//! Messages whose envelope and state are in the spool only, because they take up memory and nothing goes on with them
//! (`queue.memory`). Here they are read when something does: their time comes, their turn comes, or an operator asks.

use std::collections::HashMap;
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

/// What is to be read.
#[derive(Debug)]
pub(crate) enum Load {
    /// Messages with which something is to be done.
    Messages(Vec<QueueId>),
    /// Those in front of the line of a destination, when it is read.
    Window(Destination),
}

impl Load {
    /// What a step of the queue has asked for.
    pub(crate) fn of(loads: Vec<QueueId>, windows: Vec<Destination>) -> impl Iterator<Item = Self> {
        let loads = (!loads.is_empty()).then_some(Self::Messages(loads));
        windows.into_iter().map(Self::Window).chain(loads)
    }
}

/// Reads what is asked for, in batches, until the queue is closed.
pub(crate) async fn run(
    queue: Weak<Inner>,
    mut wanted: mpsc::UnboundedReceiver<Load>,
    closing: CancellationToken,
) {
    loop {
        let first = tokio::select! {
            () = closing.cancelled() => return,
            first = wanted.recv() => first,
        };
        let (Some(mut load), Some(inner)) = (first, queue.upgrade()) else {
            return;
        };
        let (mut ids, mut lines) = (Vec::new(), Vec::new());
        loop {
            match load {
                Load::Messages(more) => ids.extend(more),
                Load::Window(destination) => {
                    ids.extend(inner.messages.lock().cold_window(&destination));
                    lines.push(destination);
                }
            }
            if ids.len() >= BATCH {
                break;
            }
            let Ok(more) = wanted.try_recv() else { break };
            load = more;
        }
        let loaded = inner.load(ids).await;
        inner.with(|messages, cx, fx| messages.loaded(loaded, lines, cx, fx));
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
