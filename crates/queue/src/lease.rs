//! The right to work on some recipients of a message: in memory only, so that a crash leaves no lock behind.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use postern_smtp::Address;

use crate::Inner;
use crate::envelope::Envelope;
use crate::message::{Destination, Feedback, Outcome, QueueId};
use crate::messages::{Leased, Settlement};
use crate::store::{Store, StoreError, StoredBody};

/// Recipients of one message that share a destination, owned by one delivery attempt. A lease that is dropped without
/// [`crate::Queue::settle`] (a panic in the attempt) counts as a strike; after three the message is held.
#[derive(Debug)]
pub struct Lease {
    /// The message.
    pub id: QueueId,
    /// Where to.
    pub destination: Destination,
    /// Its whole envelope; [`LeasedRecipient::index`] counts in it.
    pub envelope: Arc<Envelope>,
    /// The recipients to try: those of the lease only.
    pub recipients: Vec<LeasedRecipient>,
    claim: Claim,
}

/// A recipient of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasedRecipient {
    /// Index into the envelope's recipients; name it in the outcome.
    pub index: usize,
    /// The address.
    pub address: Address,
    /// Attempts before this one.
    pub attempts: u32,
}

impl Lease {
    pub(crate) fn new(leased: Leased, queue: &Arc<Inner>) -> Self {
        let Leased { id, destination, envelope, recipients } = leased;
        let held = Held {
            queue: Arc::downgrade(queue),
            id,
            destination: destination.clone(),
            indices: recipients.iter().map(|recipient| recipient.index).collect(),
        };
        Self { id, destination, envelope, recipients, claim: Claim(Some(held)) }
    }

    /// The content of the message.
    pub fn content(&self) -> Content {
        let queue = self.claim.0.as_ref().and_then(|held| held.queue.upgrade());
        Content::new(queue.as_deref(), self.id, self.envelope.size, self.envelope.received)
    }

    /// Ends the lease with its outcomes.
    pub(crate) fn settle(
        mut self,
        outcomes: Vec<(usize, Outcome)>,
        feedback: Feedback,
    ) -> Option<Settlement> {
        let Held { id, destination, indices, .. } = self.claim.0.take()?;
        Some(Settlement { id, destination, indices, outcomes, feedback })
    }
}

/// What the queue must hear of if the lease is dropped. Not what the public fields say: those are the caller's.
#[derive(Debug)]
struct Claim(Option<Held>);

#[derive(Debug)]
struct Held {
    queue: Weak<Inner>,
    id: QueueId,
    destination: Destination,
    indices: Vec<usize>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(held) = self.0.take() else {
            return;
        };
        if let Some(queue) = held.queue.upgrade() {
            queue.strike(held.id, held.destination, &held.indices);
        }
    }
}

/// The content of a queued message: our header fields and then what the client sent.
pub struct Content {
    store: Option<Arc<Store>>,
    id: QueueId,
    len: u64,
    given: u64,
    /// Whether it came so lately that opening it does not wait for the disk.
    is_warm: bool,
    body: Option<StoredBody>,
}

/// For so long what was accepted stays in the memory of the system, probably.
const WARM: Duration = Duration::from_secs(30);

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").field("id", &self.id).field("len", &self.len).finish_non_exhaustive()
    }
}

impl Content {
    /// The content of a message of `len` octets that came at `received`. Without a queue there is nothing to read.
    pub(crate) fn new(queue: Option<&Inner>, id: QueueId, len: u64, received: SystemTime) -> Self {
        let age = queue.and_then(|queue| queue.clock.now().duration_since(received).ok());
        let is_warm = age.is_some_and(|age| age < WARM);
        let store = queue.map(|queue| queue.store.clone());
        Self { store, id, len, given: 0, is_warm, body: None }
    }

    /// Its length in octets.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next piece, of at most 256 KiB; `None` at the end.
    ///
    /// # Errors
    /// When the disk cannot be read, or what it gives is damaged (the checksum is compared before the last piece is given).
    pub async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.given > 0 && self.given >= self.len {
            return Ok(None);
        }
        let is_warm = self.body.as_ref().map_or(self.is_warm, StoredBody::is_warm);
        let body = self.body.take();
        let store = self.store.clone().ok_or(StoreError::Closed)?;
        let id = self.id;
        let read = move || {
            let mut body = body.map_or_else(|| store.read(id), Ok)?;
            let piece = body.next()?;
            Ok((body, piece))
        };
        let (body, piece) = if is_warm {
            read()?
        } else {
            tokio::task::spawn_blocking(read).await.unwrap_or(Err(StoreError::Closed))?
        };
        self.body = Some(body);
        self.given += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Ok(piece)
    }
}
