//! A [`Spool`] in memory: for tests, and for trying things without a directory. Never for mail: nothing survives the process,
//! so what it acknowledges breaks the promise of `250`. No configuration reaches it.
//!
//! It is also the measure of [`Spool`]: what the queue does over this store, it does because of what that trait says, and not
//! because of something that a disk happens to do. So it answers at once, where a disk takes its time: a commit is usually
//! told before [`Spool::commit`] returns.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use postern_runtime::Clock;

use crate::message::QueueId;
use crate::spool::{
    Change, Done, FinishedBody, Found, InUse, LargeBody, NewBody, News, PIECE, ReadBody, Recovered, Space,
    Spool, StoreError, StoredBody, Unclaimed,
};

/// What would be on the disk: messages that outlive the stores opened on them, so that a test can close and open again.
/// Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    contents: Mutex<Contents>,
    /// Whether a store is open on them.
    is_in_use: AtomicBool,
}

#[derive(Debug, Default)]
struct Contents {
    messages: BTreeMap<QueueId, Message>,
    /// The highest id that was given or came.
    last_id: QueueId,
}

/// A message.
#[derive(Debug)]
struct Message {
    meta: Vec<u8>,
    state: Option<Vec<u8>>,
    body: VecDeque<Bytes>,
}

impl Memory {
    /// Opens a store on what is there, and tells what that is.
    ///
    /// # Errors
    /// [`StoreError::InUse`]: one is open already.
    pub fn open(
        &self,
        clock: Arc<dyn Clock>,
        tell: &mut dyn FnMut(News),
    ) -> Result<(MemorySpool, Found), StoreError> {
        if self.shared.is_in_use.swap(true, Ordering::AcqRel) {
            let process = Some(std::process::id());
            return Err(StoreError::InUse(InUse { path: "in memory".into(), process }));
        }
        let spool = MemorySpool {
            shared: self.shared.clone(),
            clock,
            bodies: Bodies::default(),
            answers: Mutex::default(),
            is_closed: AtomicBool::new(false),
        };
        for (id, message) in &self.shared.contents.lock().messages {
            tell(News::Message(message.recovered(*id)));
        }
        Ok((spool, Found::default()))
    }
}

impl Contents {
    /// Applies changes, or none of them.
    fn apply(&mut self, changes: Vec<Change>, bodies: &Bodies) -> Result<(), StoreError> {
        let mut bodies = bodies.lock();
        let is_foreign = |change: &Change| match change {
            Change::Enqueue { id, body: NewBody::Large { .. }, .. } => !bodies.contains_key(id),
            _ => false,
        };
        if changes.iter().any(is_foreign) {
            let text = "a large message whose content was not begun on this store, or under another id";
            return Err(StoreError::Refused(text.into()));
        }
        for change in changes {
            match change {
                Change::Enqueue { id, meta, body } => {
                    self.last_id = self.last_id.max(id);
                    let body = match body {
                        NewBody::Inline(pieces) => pieces.into(),
                        NewBody::Large { header, body } => {
                            let content = bodies.remove(&id).unwrap_or_default();
                            body.keep();
                            VecDeque::from([header.into(), content])
                        }
                    };
                    self.messages.insert(id, Message { meta, state: None, body });
                }
                Change::State { id, state } => {
                    if let Some(message) = self.messages.get_mut(&id) {
                        message.state = Some(state);
                    }
                }
                Change::Delete { id } => drop(self.messages.remove(&id)),
            }
        }
        Ok(())
    }
}

impl Message {
    fn recovered(&self, id: QueueId) -> Recovered {
        Recovered { id, meta: self.meta.clone(), state: self.state.clone() }
    }
}

/// A store open on some [`Memory`].
pub struct MemorySpool {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    bodies: Bodies,
    answers: Mutex<Answers>,
    is_closed: AtomicBool,
}

/// The large bodies that belong to no message: they end with the store that they were begun on.
type Bodies = Arc<Mutex<HashMap<QueueId, Bytes>>>;

/// What was committed and is not yet told, in the order of the commits.
#[derive(Default)]
struct Answers {
    waiting: VecDeque<Answer>,
    /// Whether a thread tells them: then it goes on with those that come meanwhile, also from those whom it tells.
    are_told: bool,
}

type Answer = (Done, Result<(), Arc<StoreError>>);

impl fmt::Debug for MemorySpool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySpool").finish_non_exhaustive()
    }
}

impl MemorySpool {
    fn tell(&self) {
        let mut answers = self.answers.lock();
        if answers.are_told {
            return;
        }
        answers.are_told = true;
        while let Some((done, result)) = answers.waiting.pop_front() {
            let is_told = MutexGuard::unlocked(&mut answers, || {
                // Whatever the one who is told does, the others must be told too.
                catch_unwind(AssertUnwindSafe(|| done(result))).is_ok()
            });
            if !is_told {
                tracing::error!("a commit's completion panicked");
            }
        }
        answers.are_told = false;
    }
}

impl Spool for MemorySpool {
    fn next_id(&self) -> QueueId {
        let mut contents = self.shared.contents.lock();
        contents.last_id = QueueId::after(contents.last_id, self.clock.now());
        contents.last_id
    }

    /// `done` is called in this thread, or in one that tells those before it.
    fn commit(&self, changes: Vec<Change>, done: Done) {
        let mut contents = self.shared.contents.lock();
        let result = if self.is_closed.load(Ordering::Acquire) {
            // With the large bodies among them, before anybody is told.
            drop(changes);
            Err(Arc::new(StoreError::Closed))
        } else {
            contents.apply(changes, &self.bodies).map_err(Arc::new)
        };
        // Before another one can commit: the order of the answers is that of the commits.
        self.answers.lock().waiting.push_back((done, result));
        drop(contents);
        self.tell();
    }

    fn begin_body(&self, id: QueueId) -> Result<Box<dyn LargeBody>, StoreError> {
        let is_message = self.shared.contents.lock().messages.contains_key(&id);
        let mut bodies = self.bodies.lock();
        if is_message || bodies.contains_key(&id) {
            let what = format!("beginning the content of message {id}");
            return Err(StoreError::Io { what, source: io::Error::from(ErrorKind::AlreadyExists) });
        }
        bodies.insert(id, Bytes::new());
        let claim = Claim { id, bodies: self.bodies.clone(), is_kept: false };
        Ok(Box::new(Body { octets: Vec::new(), claim }))
    }

    fn read(&self, id: QueueId) -> Result<StoredBody, StoreError> {
        let contents = self.shared.contents.lock();
        let message = contents.messages.get(&id).ok_or(StoreError::NoMessage(id))?;
        let length = message.body.iter().map(|piece| piece.len() as u64).sum();
        Ok(StoredBody::new(length, true, Box::new(Reader(message.body.clone()))))
    }

    fn load(&self, id: QueueId) -> Result<Recovered, StoreError> {
        let contents = self.shared.contents.lock();
        contents.messages.get(&id).map(|message| message.recovered(id)).ok_or(StoreError::NoMessage(id))
    }

    /// No allocation can be larger.
    fn space(&self) -> Space {
        Space { free: isize::MAX as u64, inodes: isize::MAX as u64 }
    }

    fn health(&self) -> Option<String> {
        None
    }

    fn close(&self) {
        let _contents = self.shared.contents.lock();
        if !self.is_closed.swap(true, Ordering::AcqRel) {
            self.shared.is_in_use.store(false, Ordering::Release);
        }
    }
}

impl Drop for MemorySpool {
    fn drop(&mut self) {
        self.close();
    }
}

/// A large body while it arrives.
#[derive(Debug)]
struct Body {
    octets: Vec<u8>,
    claim: Claim,
}

impl LargeBody for Body {
    fn write(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        self.octets.extend_from_slice(piece);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<FinishedBody, StoreError> {
        let Self { octets, claim } = *self;
        let (length, crc) = (octets.len() as u64, crc32c::crc32c(&octets));
        claim.bodies.lock().insert(claim.id, octets.into());
        Ok(FinishedBody::new(length, crc, Box::new(claim)))
    }
}

/// The place of a large body, until a message has it.
#[derive(Debug)]
struct Claim {
    id: QueueId,
    bodies: Bodies,
    is_kept: bool,
}

impl Unclaimed for Claim {
    fn keep(mut self: Box<Self>) {
        self.is_kept = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.is_kept {
            self.bodies.lock().remove(&self.id);
        }
    }
}

/// Reads a content: what it holds stays, whatever becomes of the message.
#[derive(Debug)]
struct Reader(VecDeque<Bytes>);

impl ReadBody for Reader {
    fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        while let Some(front) = self.0.front_mut() {
            let piece = front.split_to(front.len().min(PIECE));
            if front.is_empty() {
                self.0.pop_front();
            }
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::mpsc::channel;

    use postern_runtime::SystemClock;

    use super::*;

    fn open() -> MemorySpool {
        Memory::default().open(Arc::new(SystemClock), &mut |_| ()).unwrap().0
    }

    #[test]
    fn a_large_body_of_another_store_is_refused_with_its_whole_group() {
        let (spool, other) = (open(), open());
        let (id, second) = (spool.next_id(), spool.next_id());
        let enqueue = |id, body| Change::Enqueue { id, meta: b"envelope".to_vec(), body };
        let body = other.begin_body(id).unwrap().finish().unwrap();
        let foreign = NewBody::Large { header: Vec::new(), body };
        let (sender, receiver) = channel();
        let changes = vec![enqueue(second, NewBody::Inline(Vec::new())), enqueue(id, foreign)];
        spool.commit(changes, Box::new(move |result| sender.send(result).unwrap()));
        assert!(matches!(*receiver.recv().unwrap().unwrap_err(), StoreError::Refused(_)));
        assert!(matches!(spool.load(second), Err(StoreError::NoMessage(_))));
        assert!(other.begin_body(id).is_ok(), "and is removed");
    }
}
