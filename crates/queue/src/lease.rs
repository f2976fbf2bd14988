//! The right to work on some recipients of a message: in memory only, so that a crash leaves no lock behind.

use std::fmt;
use std::sync::{Arc, Weak};

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
        let store =
            self.claim.0.as_ref().and_then(|held| held.queue.upgrade()).map(|queue| queue.store.clone());
        Content::new(store, self.id, self.envelope.size)
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
    body: Option<StoredBody>,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").field("id", &self.id).field("len", &self.len).finish_non_exhaustive()
    }
}

impl Content {
    pub(crate) fn new(store: Option<Arc<Store>>, id: QueueId, len: u64) -> Self {
        Self { store, id, len, body: None }
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
        match self.body.take() {
            Some(mut body) if body.is_warm() => {
                let piece = body.next();
                self.body = Some(body);
                piece
            }
            Some(body) => self.read(move || Ok(body)).await,
            None => {
                let store = self.store.clone().ok_or(StoreError::Closed)?;
                let id = self.id;
                self.read(move || store.read(id)).await
            }
        }
    }

    /// Reads on a thread that may block.
    async fn read(
        &mut self,
        open: impl FnOnce() -> Result<StoredBody, StoreError> + Send + 'static,
    ) -> Result<Option<Bytes>, StoreError> {
        let read = move || {
            let mut body = open()?;
            let piece = body.next()?;
            Ok((body, piece))
        };
        let (body, piece) = tokio::task::spawn_blocking(read).await.unwrap_or(Err(StoreError::Closed))?;
        self.body = Some(body);
        Ok(piece)
    }
}
