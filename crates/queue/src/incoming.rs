//! A message while it is being received.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{error, warn};

use crate::Inner;
use crate::envelope::Envelope;
use crate::events::Noted;
use crate::message::QueueId;
use crate::messages::Arrival;
use crate::operate::MAX_HEADER;
use crate::rules::{Fate, Refused};
use crate::spool::{Change, FinishedBody, LargeBody, NewBody, StoreError};

/// Large messages go to the spool in blocks of this size.
const BLOCK: usize = 256 * 1024;

/// Smaller pieces are copied together: a piece costs some memory of its own, and may keep a larger buffer alive.
const SMALL_PIECE: usize = 8 * 1024;

/// Why a message was not taken. None of them loses anything: the client keeps its copy.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The filesystem is nearly full (452 4.3.1).
    #[error("no space left for new mail: {0}")]
    NoSpace(String),
    /// The queue holds as many messages as it may (452 4.3.1).
    #[error("the queue is full: {0} messages")]
    Full(usize),
    /// The disk did not answer in time (451 4.3.0).
    #[error("the spool did not answer in time")]
    Timeout,
    /// Writing failed (451 4.3.0).
    #[error("the spool could not be written")]
    Store(#[source] StoreError),
    /// A standing rule of the operator refuses it (550 or 450 with its text).
    #[error("refused by rule {}: {}", .0.rule, .0.reason)]
    Rule(Refused),
}

impl From<StoreError> for AcceptError {
    /// A disk that became full between the question and the write is still a full disk.
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Io { what, source } if is_full(source.kind()) => {
                Self::NoSpace(format!("{what}: {source}"))
            }
            error => Self::Store(error),
        }
    }
}

fn is_full(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Takes the content piece by piece. Small messages stay in memory until [`Incoming::commit`]; large ones go to the spool as
/// they arrive. Dropped without a commit, it leaves nothing behind.
#[derive(Debug)]
pub struct Incoming {
    queue: Arc<Inner>,
    id: QueueId,
    /// What is not yet in the spool.
    pieces: Vec<Bytes>,
    /// The end of it, while it is put together from small pieces.
    tail: BytesMut,
    /// Octets in `pieces` and `tail`.
    in_memory: usize,
    /// Octets written so far.
    size: u64,
    /// The beginning of what went into the large body: rules may look at the header.
    beginning: Vec<u8>,
    large: Large,
    /// The encoded state of a message that comes from another queue; empty: nothing has happened yet.
    state: Vec<u8>,
}

/// Where the content of a message goes.
#[derive(Debug)]
enum Large {
    /// Into the change that brings the message, as far as is known.
    No,
    /// To the spool, as it arrives.
    Open(Box<dyn LargeBody>),
    /// It was lost with a write that failed or was interrupted.
    Lost,
}

impl Incoming {
    pub(crate) fn new(queue: Arc<Inner>) -> Self {
        let id = queue.spool.next_id();
        Self::transferred(queue, id, Vec::new())
    }

    /// A message that comes from another queue, with its id and state.
    pub(crate) fn transferred(queue: Arc<Inner>, id: QueueId, state: Vec<u8>) -> Self {
        queue.arriving.fetch_add(1, Ordering::Relaxed);
        Self {
            queue,
            id,
            pieces: Vec::new(),
            tail: BytesMut::new(),
            in_memory: 0,
            size: 0,
            beginning: Vec::new(),
            large: Large::No,
            state,
        }
    }

    /// The id the message will have: it stands in our Received field and in the reply.
    pub fn id(&self) -> QueueId {
        self.id
    }

    /// Octets of the content that are in memory: all of a small message, the last block of a large one.
    pub fn in_memory(&self) -> usize {
        self.in_memory
    }

    /// Appends content: lines with CRLF, dots unstuffed.
    ///
    /// # Errors
    /// When a large message cannot be written to the spool.
    pub async fn write(&mut self, piece: Bytes) -> Result<(), AcceptError> {
        self.size += piece.len() as u64;
        self.in_memory += piece.len();
        if piece.len() < SMALL_PIECE {
            self.tail.extend_from_slice(&piece);
        } else {
            self.end_tail();
            self.pieces.push(piece);
        }
        let most = match self.large {
            Large::No => usize::try_from(self.queue.inline_limit).unwrap_or(usize::MAX),
            Large::Open(_) | Large::Lost => BLOCK,
        };
        if self.in_memory > most { self.write_large().await } else { Ok(()) }
    }

    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push(self.tail.split().freeze());
        }
    }

    /// Writes what is in memory to the large body of this message, and begins it if need be.
    async fn write_large(&mut self) -> Result<(), AcceptError> {
        self.end_tail();
        self.in_memory = 0;
        if matches!(self.large, Large::No) {
            self.beginning = header(&self.pieces);
        }
        let pieces = std::mem::take(&mut self.pieces);
        let large = std::mem::replace(&mut self.large, Large::Lost);
        let queue = self.queue.clone();
        let id = self.id;
        let body = blocking(move || {
            let mut body = match large {
                Large::No => queue.spool.begin_body(id)?,
                Large::Open(body) => body,
                Large::Lost => return Err(StoreError::Closed),
            };
            for piece in &pieces {
                body.write(piece)?;
            }
            Ok(body)
        })
        .await?;
        self.large = Large::Open(body);
        Ok(())
    }

    /// Makes the message durable: `header` (our own fields) goes in front of what was written. When this returns `Ok`, the
    /// message survives kill -9 and power loss, and delivery may have begun; or a standing rule had it dropped.
    /// `envelope.size` is set here.
    ///
    /// # Errors
    /// Nothing was accepted then. [`AcceptError::Rule`] when a standing rule refuses the message.
    pub async fn commit(mut self, mut envelope: Envelope, header: Vec<u8>) -> Result<QueueId, AcceptError> {
        envelope.size = header.len() as u64 + self.size;
        let asked = self.queue.rules.asks();
        match self.fate(&mut envelope, &header) {
            Fate::Queued(state) => self.state = state,
            Fate::Dropped => return Ok(self.id),
            Fate::Refused(refused) => return Err(AcceptError::Rule(refused)),
        }
        let patience = Instant::now() + self.queue.surroundings.schedule().commit_timeout;
        match timeout_at(patience, self.hand_over(envelope, header, asked)).await {
            Ok(handed_over) => handed_over?.answer(patience).await.map(|()| self.id),
            Err(_) => Err(AcceptError::Timeout),
        }
    }

    /// What the standing rules say. A message from another queue was accepted there.
    fn fate(&mut self, envelope: &mut Envelope, own: &[u8]) -> Fate {
        if !self.state.is_empty() {
            return Fate::Queued(std::mem::take(&mut self.state));
        }
        self.end_tail();
        let whole = || match self.large {
            Large::No => [own, &header(&self.pieces)].concat(),
            Large::Open(_) | Large::Lost => [own, &self.beginning].concat(),
        };
        self.queue.rules.apply(self.id, envelope, &whole)
    }

    /// Hands the message to the spool.
    async fn hand_over(
        &mut self,
        envelope: Envelope,
        header: Vec<u8>,
        asked: TaskTrackerToken,
    ) -> Result<Waiting, AcceptError> {
        let body = self.finish(header).await?;
        let meta = envelope.encode();
        let mut accepted = Noted::default();
        let arrival = {
            let cx = self.queue.context();
            accepted.accepted(self.id, envelope, &cx);
            Arrival::new(self.id, &meta, &self.state, &cx)
        };
        let arrival = arrival.map_err(|damage| {
            error!(id = %self.id, %damage, "an envelope that cannot be read back");
            AcceptError::Store(StoreError::Damaged(self.id))
        })?;
        let cost = meta.len()
            + if let NewBody::Inline(pieces) = &body { pieces.iter().map(Bytes::len).sum() } else { 0 };
        let room = self.queue.backlog_room(cost).await?;
        let (waiting, mut arriving) = handover(arrival, room, asked);
        arriving.accepted = accepted;
        let mut changes = vec![Change::Enqueue { id: self.id, meta, body }];
        if !self.state.is_empty() {
            changes.push(Change::State { id: self.id, state: std::mem::take(&mut self.state) });
        }
        self.queue.commit(changes, move |queue, result| {
            arriving.written(queue, result.map_err(|error| crate::owned(&error)));
        });
        Ok(waiting)
    }

    /// The whole content, as the spool takes it.
    async fn finish(&mut self, header: Vec<u8>) -> Result<NewBody, AcceptError> {
        if matches!(self.large, Large::No) {
            self.end_tail();
            let mut pieces = Vec::with_capacity(self.pieces.len() + 1);
            pieces.push(Bytes::from(header));
            pieces.append(&mut self.pieces);
            return Ok(NewBody::Inline(pieces));
        }
        self.write_large().await?;
        let large = std::mem::replace(&mut self.large, Large::Lost);
        let finish = || -> Result<FinishedBody, StoreError> {
            match large {
                Large::Open(body) => body.finish(),
                Large::No | Large::Lost => Err(StoreError::Closed),
            }
        };
        Ok(NewBody::Large { header, body: blocking(finish).await? })
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.queue.arriving.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The header in the beginning of a content, at most [`MAX_HEADER`] octets of it.
fn header(pieces: &[Bytes]) -> Vec<u8> {
    let mut header = Vec::new();
    for piece in pieces {
        let from = header.len().saturating_sub(3);
        header.extend_from_slice(&piece[..piece.len().min(MAX_HEADER - header.len())]);
        if let Some(end) = header[from..].windows(4).position(|end| end == b"\r\n\r\n") {
            header.truncate(from + end + 4);
            break;
        }
    }
    header
}

/// Runs what may wait for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, AcceptError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(StoreError::Closed)).map_err(AcceptError::from)
}

/// Whether the session still waits for the disk. One word decides between the two ends: a message whose client was told
/// "later" must not stay in the queue, and one that was acknowledged must not leave it.
const WAITING: u8 = 0;
const ABANDONED: u8 = 1;
const DECIDED: u8 = 2;

/// The session's end. Dropped before the fate is decided (time-out, lost connection) it abandons the message.
#[derive(Debug)]
struct Waiting {
    fate: Arc<AtomicU8>,
    answered: oneshot::Receiver<Result<(), StoreError>>,
}

/// The spool's end.
#[derive(Debug)]
struct Arriving {
    fate: Arc<AtomicU8>,
    arrival: Arrival,
    answer: oneshot::Sender<Result<(), StoreError>>,
    /// Told when it is in the queue.
    accepted: Noted,
    /// Room in the backlog, given back when this is dropped.
    _room: OwnedSemaphorePermit,
    /// The rules were asked about it, and it is not in the queue before this is dropped.
    _asked: TaskTrackerToken,
}

fn handover(arrival: Arrival, room: OwnedSemaphorePermit, asked: TaskTrackerToken) -> (Waiting, Arriving) {
    let fate = Arc::new(AtomicU8::new(WAITING));
    let (answer, answered) = oneshot::channel();
    (
        Waiting { fate: fate.clone(), answered },
        Arriving { fate, arrival, answer, accepted: Noted::default(), _room: room, _asked: asked },
    )
}

fn decide(fate: &AtomicU8, as_what: u8) -> bool {
    fate.compare_exchange(WAITING, as_what, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

impl Waiting {
    /// What became of the message. One that the spool was faster with than the time-out is in the queue, whoever noticed
    /// first: then the answer is on its way, and it is the truth.
    async fn answer(mut self, patience: Instant) -> Result<(), AcceptError> {
        let answer = match timeout_at(patience, &mut self.answered).await {
            Ok(answer) => answer,
            Err(_) if decide(&self.fate, ABANDONED) => return Err(AcceptError::Timeout),
            Err(_) => (&mut self.answered).await,
        };
        answer.unwrap_or(Err(StoreError::Closed)).map_err(AcceptError::from)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        decide(&self.fate, ABANDONED);
    }
}

impl Arriving {
    /// The disk has answered.
    fn written(self, queue: &Arc<Inner>, result: Result<(), StoreError>) {
        let Self { fate, arrival, answer, accepted, .. } = self;
        let is_awaited = decide(&fate, DECIDED);
        let is_durable = result.is_ok();
        if is_durable && is_awaited {
            // Before anybody can deliver it.
            queue.events.publish(accepted);
            queue.arrived(arrival);
        } else if is_durable {
            warn!(id = %arrival.id, "durable too late: removed again");
            queue.discard(arrival);
        }
        // Nobody listens if it was abandoned.
        let _ = answer.send(result);
    }
}

impl Inner {
    /// Waits for room among what is on its way to the disk.
    async fn backlog_room(&self, octets: usize) -> Result<OwnedSemaphorePermit, AcceptError> {
        let units = (octets / 1024 + 1).min(crate::BACKLOG_UNITS);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let room = self.backlog.clone().acquire_many_owned(units).await;
        room.map_err(|_| AcceptError::Store(StoreError::Closed))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::messages::tests::{TestSurroundings, envelope};
    use crate::{Queue, metrics};
    use postern_runtime::SystemClock;
    use std::time::Duration;
    use tokio::time::timeout;

    fn open(path: &std::path::Path) -> Queue {
        open_with(path, |_| {})
    }

    fn open_with(path: &std::path::Path, change: impl FnOnce(&mut postern_config::Queue)) -> Queue {
        let mut config = postern_config::Queue {
            path: path.join("spool"),
            segment_size: 1024 * 1024,
            min_free_space: 0,
            ..postern_config::Queue::default()
        };
        change(&mut config);
        let surroundings = TestSurroundings { schedule: Arc::new(config.clone()) };
        let metrics = metrics::Metrics::register(&prometheus::Registry::new()).unwrap();
        Queue::open(&config, Arc::new(surroundings), Arc::new(SystemClock), metrics).unwrap().0
    }

    /// Hands a message to the spool, and lets the session go away in between if `is_abandoned`.
    async fn write(queue: &Queue, is_abandoned: bool) -> QueueId {
        let inner = &queue.inner;
        let id = inner.spool.next_id();
        let envelope = crate::Envelope { received: std::time::SystemTime::now(), ..envelope(1) };
        let meta = envelope.encode();
        let arrival = Arrival::new(id, &meta, &[], &inner.context()).unwrap();
        let room = inner.backlog_room(1).await.unwrap();
        let (waiting, arriving) = handover(arrival, room, inner.rules.asks());
        if is_abandoned {
            // As dropping it does, but the test waits for the spool all the same.
            decide(&waiting.fate, ABANDONED);
        }
        let change = Change::Enqueue { id, meta, body: NewBody::Inline(vec![Bytes::from_static(b"x")]) };
        inner.commit(vec![change], move |queue, result| {
            arriving.written(queue, result.map_err(|error| crate::owned(&error)));
        });
        waiting.answer(Instant::now() + Duration::from_secs(60)).await.unwrap();
        id
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_message_that_is_queued_is_acknowledged_however_late_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let queue = open(dir.path());
        let inner = &queue.inner;
        for is_queued in [true, false] {
            let meta = envelope(1).encode();
            let arrival = Arrival::new(inner.spool.next_id(), &meta, &[], &inner.context()).unwrap();
            let room = inner.backlog_room(1).await.unwrap();
            let (waiting, arriving) = handover(arrival, room, inner.rules.asks());
            let fate = waiting.fate.clone();
            assert!(!is_queued || decide(&fate, DECIDED));
            let spool = async move {
                if is_queued {
                    let _ = arriving.answer.send(Ok(()));
                } else {
                    std::mem::forget(arriving);
                }
            };
            // The time-out is over, and what was decided before it is told after it.
            let (answer, ()) = tokio::join!(waiting.answer(Instant::now()), spool);
            if is_queued {
                answer.unwrap();
            } else {
                assert!(matches!(answer, Err(AcceptError::Timeout)));
                assert_eq!(fate.load(Ordering::Acquire), ABANDONED);
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_the_rules_have_let_through_is_waited_for_until_it_is_in_the_queue() {
        let dir = tempfile::tempdir().unwrap();
        let queue = open(dir.path());
        let inner = &queue.inner;
        let being_committed = async |inner: &Inner| {
            let asked = inner.rules.asks();
            let (id, meta) = (inner.spool.next_id(), envelope(1).encode());
            let arrival = Arrival::new(id, &meta, &[], &inner.context()).unwrap();
            (id, handover(arrival, inner.backlog_room(1).await.unwrap(), asked))
        };
        let (id, (_waiting, arriving)) = being_committed(inner).await;
        let mut first = std::pin::pin!(queue.rules_settled());
        let mut second = std::pin::pin!(queue.rules_settled());
        assert!(timeout(Duration::ZERO, &mut first).await.is_err());
        assert!(timeout(Duration::ZERO, &mut second).await.is_err());
        arriving.written(inner, Ok(()));
        tokio::join!(first, second);
        assert_eq!(queue.select(&crate::Filter::default()).unwrap(), [id]);
        // One that is refused does not come any more.
        let (_, (_waiting, arriving)) = being_committed(inner).await;
        let mut settled = std::pin::pin!(queue.rules_settled());
        assert!(timeout(Duration::ZERO, &mut settled).await.is_err());
        arriving.written(inner, Err(StoreError::Closed));
        settled.await;
        assert_eq!(queue.select(&crate::Filter::default()).unwrap(), [id]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_message_that_is_durable_after_its_client_was_sent_away_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let queue = open(dir.path());
        let late = write(&queue, true).await;
        let kept = write(&queue, false).await;
        queue.close().await;
        drop(queue);
        let queue = open(dir.path());
        assert!(queue.show(late).is_none());
        assert!(queue.show(kept).is_some());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_message_whose_envelope_cannot_be_read_is_held_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let queue = open(dir.path());
        let kept = write(&queue, false).await;
        let id = queue.inner.spool.next_id();
        let body = NewBody::Inline(vec![Bytes::from_static(b"x")]);
        let (told, written) = oneshot::channel();
        let change = Change::Enqueue { id, meta: b"nonsense".to_vec(), body };
        queue.inner.commit(vec![change], move |_, result| {
            let _ = told.send(result.is_ok());
        });
        assert!(written.await.unwrap());
        for _ in 0..2 {
            queue.close().await;
            let queue = open(dir.path());
            let summary = queue.summary();
            assert_eq!((summary.messages, summary.held, summary.damaged), (2, 1, 1));
            assert!(queue.show(kept).is_some());
            assert!(queue.show(id).unwrap().held.unwrap().contains("envelope cannot be read"));
            let refused = queue.release(&[id]).await.unwrap();
            assert_eq!((refused.changed, refused.skipped.len()), (0, 1));
            assert!(queue.show(id).unwrap().held.is_some());
            queue.close().await;
        }
        let queue = open(dir.path());
        assert_eq!(
            queue
                .remove(&[id], &crate::operate::RecipientPick::default(), "a test", Duration::ZERO)
                .await
                .unwrap()
                .changed,
            1
        );
        queue.close().await;
        assert_eq!(open(dir.path()).summary().messages, 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_message_whose_state_cannot_be_read_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let queue = open(dir.path());
        let id = write(&queue, false).await;
        let (told, written) = oneshot::channel();
        let change = Change::State { id, state: b"nonsense".to_vec() };
        queue.inner.commit(vec![change], move |_, result| {
            let _ = told.send(result.is_ok());
        });
        assert!(written.await.unwrap());
        queue.close().await;
        let queue = open(dir.path());
        let view = queue.show(id).unwrap();
        assert!(view.held.unwrap().contains("state cannot be read"));
        assert_eq!(view.recipients.len(), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_in_a_completion_does_not_keep_the_queue_from_closing() {
        let dir = tempfile::tempdir().unwrap();
        let queue = open(dir.path());
        let id = queue.inner.spool.next_id();
        queue.inner.commit(vec![Change::Delete { id }], |_, _| panic!("as the test wants it"));
        tokio::time::timeout(Duration::from_secs(60), queue.close()).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn small_pieces_are_put_together() {
        let dir = tempfile::tempdir().unwrap();
        let queue = open(dir.path());
        let mut incoming = queue.incoming().unwrap();
        for _ in 0..1000 {
            incoming.write(Bytes::from_static(b"x")).await.unwrap();
        }
        incoming.write(Bytes::from(vec![b'y'; SMALL_PIECE])).await.unwrap();
        assert_eq!(incoming.pieces.len(), 2);
        assert_eq!(incoming.pieces[0].len(), 1000);
    }

    #[test]
    fn a_disk_that_fills_up_meanwhile_is_no_space() {
        let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = AcceptError::from(StoreError::Io { what: "writing".to_owned(), source });
        assert!(matches!(error, AcceptError::NoSpace(_)));
    }
}
