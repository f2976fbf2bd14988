//! What operators ask of the spool beside its messages: how it is, whether it is whole, a backup, what was set aside and
//! how it comes back.

use std::sync::Arc;

use postern_smtp::{Address, Body, ReversePath};
use serde::{Deserialize, Serialize};

use crate::envelope::{Envelope, Recipient};
use crate::incoming::AcceptError;
use crate::message::QueueId;
use crate::spool::{StoreError, StoredBody};
use crate::state::MessageState;
use crate::store::Store;
use crate::store::quarantine::{Kept, KeptKind, KeptRecord, Salvaged};
use crate::transfer::{TransferError, describe};
use crate::{Inner, Queue};

/// Recipients of a message that was set aside that are listed.
const MAX_RECIPIENTS: usize = 20;

/// Something that was set aside, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptView {
    /// Its name.
    pub name: String,
    /// `octets` of a segment, a `large-file`, a `damaged-segment` or `unreadable-segment` that is kept, a
    /// `missing-segment`, or `foreign`.
    pub kind: String,
    /// Octets.
    pub octets: u64,
    /// When it was set aside, in seconds since 1970.
    pub since: Option<u64>,
    /// The number of the segment.
    pub segment: Option<u32>,
    /// Where in the segment it was.
    pub offset: Option<u64>,
    /// The messages in it, as far as can be told.
    pub messages: Vec<KeptMessage>,
}

/// A message that was set aside, as far as it can be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptMessage {
    /// Its queue id; where the record is damaged, probably.
    pub id: String,
    /// What of it is as it was written: `all`, its `envelope`, its `content`, or `nothing`.
    pub readable: String,
    /// Whether it is in the queue all the same.
    pub in_queue: bool,
    /// Octets of the content.
    pub size: u64,
    /// MAIL FROM; empty is the null sender.
    pub sender: Option<String>,
    /// The first recipients.
    pub recipients: Vec<String>,
    /// Recipients that are not listed.
    pub more_recipients: usize,
}

/// An envelope that an operator gives to a message whose own cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenEnvelope {
    /// MAIL FROM.
    pub sender: ReversePath,
    /// RCPT TO.
    pub recipients: Vec<Address>,
}

/// Why a message is not put back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It never left.
    #[error("message {0} is in the queue: there is nothing to put back")]
    InQueue(QueueId),
    /// Nothing was set aside from which its content could be read.
    #[error("no content of message {0} was set aside that can be read")]
    NoContent(QueueId),
    /// Its envelope cannot be read, and none was given.
    #[error("the envelope of message {0} cannot be read: say whom it is for (--rcpt, --sender)")]
    NoEnvelope(QueueId),
    /// The queue does not take it.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// The spool cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<AcceptError> for RestoreError {
    fn from(error: AcceptError) -> Self {
        Self::Transfer(error.into())
    }
}

impl Queue {
    /// The store on the disk, for the verbs of operators that are about it. All of them block.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: the queue is kept elsewhere.
    pub fn disk(&self) -> Result<Arc<Store>, StoreError> {
        self.inner.disk.clone().ok_or_else(|| {
            StoreError::Refused(
                "this queue's store is not on a disk of this machine: look after it with the means of its own"
                    .into(),
            )
        })
    }

    /// What was set aside because it could not be read. Blocking: reads all of it.
    ///
    /// # Errors
    /// [`StoreError::Io`]; as [`Queue::disk`].
    pub fn quarantine(&self) -> Result<Vec<KeptView>, StoreError> {
        let kept = self.disk()?.quarantine()?;
        Ok(kept.into_iter().map(|kept| self.inner.kept_view(kept)).collect())
    }

    /// Puts a message that was set aside back into the queue: as a new one, held, with a new id, since nobody can say how
    /// the old one ended. Its lifetime begins anew. Answers the new id.
    ///
    /// # Errors
    /// [`RestoreError`]; nothing has changed then.
    pub async fn restore(&self, id: QueueId, given: Option<GivenEnvelope>) -> Result<QueueId, RestoreError> {
        if self.inner.messages.lock().entry(id).is_some() {
            return Err(RestoreError::InQueue(id));
        }
        let store = self.disk()?;
        let salvaged = blocking(move || store.salvage(id)).await.map_err(|error| match error {
            StoreError::NoMessage(id) => RestoreError::NoContent(id),
            error => error.into(),
        })?;
        let Salvaged { envelope, mut body, name } = salvaged;
        let mut envelope = envelope_of(id, envelope.as_deref(), given)?;
        envelope.received = self.inner.clock.now();
        envelope.size = body.len();
        let held = format!("put back from damaged/{name}, was {id}: some recipients may have it already");
        let state = MessageState { held: Some(held), ..MessageState::of(&envelope) };
        let transfer = describe(self.inner.spool.next_id(), &envelope, &state);
        let (mut incoming, envelope) = self.incoming_transfer(&transfer)?;
        loop {
            let (rest, piece) = blocking(move || next(body)).await?;
            let Some(piece) = piece else { break };
            incoming.write(piece).await?;
            body = rest;
        }
        Ok(incoming.commit(envelope, Vec::new()).await?)
    }
}

fn next(mut body: StoredBody) -> Result<(StoredBody, Option<bytes::Bytes>), StoreError> {
    let piece = body.next()?;
    Ok((body, piece))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(StoreError::Closed))
}

/// The envelope that a message is put back with: what was given counts for more than what was read.
fn envelope_of(
    id: QueueId,
    encoded: Option<&[u8]>,
    given: Option<GivenEnvelope>,
) -> Result<Envelope, RestoreError> {
    let read = encoded.and_then(|encoded| Envelope::decode(encoded).ok());
    let mut envelope =
        read.unwrap_or_else(|| Envelope { body: Body::EightBitMime, ..Envelope::unreadable(id) });
    if let Some(GivenEnvelope { sender, recipients }) = given {
        envelope.reverse_path = sender;
        envelope.recipients = recipients.into_iter().map(Recipient::new).collect();
    }
    if envelope.recipients.is_empty() {
        return Err(RestoreError::NoEnvelope(id));
    }
    Ok(envelope)
}

impl Inner {
    fn kept_view(&self, kept: Kept) -> KeptView {
        let kind = match kept.kind {
            KeptKind::Octets => "octets",
            KeptKind::LargeFile => "large-file",
            KeptKind::DamagedSegment => "damaged-segment",
            KeptKind::UnreadableSegment => "unreadable-segment",
            KeptKind::MissingSegment => "missing-segment",
            KeptKind::Foreign => "foreign",
        };
        KeptView {
            kind: kind.to_owned(),
            octets: kept.octets,
            since: kept.since,
            segment: kept.segment,
            offset: kept.offset,
            messages: kept.records.into_iter().map(|record| self.kept_message(record)).collect(),
            name: kept.name,
        }
    }

    fn kept_message(&self, record: KeptRecord) -> KeptMessage {
        let envelope = record.envelope.as_deref().and_then(|encoded| Envelope::decode(encoded).ok());
        let readable = match (envelope.is_some(), record.has_content) {
            (true, true) => "all",
            (true, false) => "envelope",
            (false, true) => "content",
            (false, false) => "nothing",
        };
        let all = envelope.as_ref().map_or(0, |envelope| envelope.recipients.len());
        let recipients: Vec<String> = envelope
            .iter()
            .flat_map(|envelope| &envelope.recipients)
            .take(MAX_RECIPIENTS)
            .map(|recipient| recipient.address.to_string())
            .collect();
        KeptMessage {
            id: record.id.to_string(),
            readable: readable.to_owned(),
            in_queue: self.messages.lock().entry(record.id).is_some(),
            size: record.length,
            sender: envelope.map(|envelope| envelope.reverse_path.to_string()),
            more_recipients: all - recipients.len(),
            recipients,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::messages::tests::envelope;

    fn given() -> GivenEnvelope {
        GivenEnvelope {
            sender: ReversePath::parse("alice@proseware.test").unwrap(),
            recipients: vec![Address::parse("carol@adatum.test").unwrap()],
        }
    }

    #[test]
    fn an_envelope_that_was_given_counts_for_more_than_the_one_that_was_read() {
        let id = QueueId(1 << 60);
        let read = envelope(2);
        let encoded = read.encode();
        assert_eq!(envelope_of(id, Some(&encoded), None).unwrap().recipients, read.recipients);
        let replaced = envelope_of(id, Some(&encoded), Some(given())).unwrap();
        assert_eq!((replaced.reverse_path, replaced.helo), (given().sender, read.helo));
        assert_eq!(replaced.recipients[0].address, given().recipients[0]);
    }

    #[test]
    fn without_an_envelope_somebody_must_say_whom_it_is_for() {
        let id = QueueId(1 << 60);
        for encoded in [None, Some(&b"nonsense"[..])] {
            assert!(matches!(envelope_of(id, encoded, None), Err(RestoreError::NoEnvelope(_))));
            let made = envelope_of(id, encoded, Some(given())).unwrap();
            assert_eq!((made.recipients.len(), made.body), (1, Body::EightBitMime));
            assert!(!made.origin.is_signed(), "nobody knows where it came from");
        }
    }
}
