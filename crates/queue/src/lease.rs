//! The right to work on some recipients of a message: in memory only, so that a crash leaves no lock behind.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use postern_smtp::Address;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::Inner;
use crate::envelope::Envelope;
use crate::message::{Destination, Feedback, Outcome, QueueId};
use crate::messages::{Leased, Settlement};
use crate::progress::{Attempt, Progress, nothing_known};
use crate::spool::{Spool, StoreError, StoredBody};

/// Recipients of one message that share a destination, owned by one delivery attempt. A lease that is dropped without
/// [`crate::Queue::settle`] (a panic in the attempt) counts as a strike; after three the message is held. So does one whose
/// attempt makes no progress for `queue.stall_limit`: it tells its steps to [`Lease::progress`], and ends when
/// [`Lease::stop`] fires.
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
        let indices = recipients.iter().map(|recipient| recipient.index).collect();
        let attempt = Arc::new(Attempt::new(id, destination.clone(), indices, queue.clock.clone()));
        let generation = queue.watch(attempt.clone());
        let claim = Claim { queue: Arc::downgrade(queue), generation, attempt };
        Self { id, destination, envelope, recipients, claim }
    }

    /// Where the attempt tells its steps: without any for `queue.stall_limit` it is told to end.
    pub fn progress(&self) -> Progress {
        Progress::new(self.claim.attempt.clone())
    }

    /// Fires when the attempt has made no progress for too long: it is to end with [`crate::Queue::abandon`]. If it does not,
    /// the queue ends the lease after as long again, and what the attempt says later is ignored.
    pub fn stop(&self) -> &CancellationToken {
        &self.claim.attempt.stop
    }

    /// The content of the message.
    pub fn content(&self) -> Content {
        let queue = self.claim.queue.upgrade();
        Content::new(queue.as_deref(), self.id, self.envelope.size, self.envelope.received)
    }

    /// Ends the lease with its outcomes; answers also what the attempt did last. `None`: it was ended by force before.
    pub(crate) fn settle(
        self,
        outcomes: Vec<(usize, Outcome)>,
        feedback: Feedback,
    ) -> Option<(Settlement, &'static str)> {
        if self.claim.end().is_none() {
            let Self { id, destination, .. } = &self;
            warn!(%id, %destination, outcomes = outcomes.len(), "outcomes of an attempt that was given up are ignored");
            return None;
        }
        let attempt = &self.claim.attempt;
        Some((Settlement { outcomes, feedback, ..nothing_known(attempt) }, attempt.step()))
    }
}

/// The place of a lease among those that are watched; it is there until the lease ends. It says what the queue must hear of
/// when the lease is dropped, not the public fields: those are the caller's.
#[derive(Debug)]
struct Claim {
    queue: Weak<Inner>,
    generation: u64,
    attempt: Arc<Attempt>,
}

impl Claim {
    /// Gives the place up. `None`: it has no place any more, or there is no queue.
    fn end(&self) -> Option<Arc<Inner>> {
        self.queue.upgrade().filter(|queue| queue.attempts.end(self.generation))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // When the server stops that says nothing about the message.
        if let Some(queue) = self.end().filter(|queue| !queue.closing.is_cancelled()) {
            queue.strike(nothing_known(&self.attempt), self.attempt.step());
        }
    }
}

/// The content of a queued message: our header fields and then what the client sent.
pub struct Content {
    spool: Option<Arc<dyn Spool>>,
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
        let spool = queue.map(|queue| queue.spool.clone());
        Self { spool, id, len, given: 0, is_warm, body: None }
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
        let spool = self.spool.clone().ok_or(StoreError::Closed)?;
        let id = self.id;
        let read = move || {
            let mut body = body.map_or_else(|| spool.read(id), Ok)?;
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
