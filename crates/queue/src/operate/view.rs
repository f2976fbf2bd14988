//! Messages and totals as operators see them.

use postern_smtp::Address;
use serde::{Deserialize, Serialize};

use super::seconds;
use crate::entry::Status;
use crate::envelope::{Envelope, Origin, Recipient};
use crate::filter::Found;
use crate::message::QueueId;
use crate::progress::AttemptView;
use crate::state::{MessageState, Phase, RecipientState};
use crate::{Content, Queue};

/// A queued message as operators see it. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageView {
    /// The queue id.
    pub id: String,
    /// `ready`, `active`, `deferred` or `held`.
    pub state: String,
    /// Why it is held.
    pub held: Option<String>,
    /// When the hold ends by itself, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_until: Option<u64>,
    /// When it was accepted.
    pub received: u64,
    /// When its last recipient is given up.
    pub expires: u64,
    /// Octets.
    pub size: u64,
    /// How far it is brought forward in the lines of its destinations: one of [`super::PRIORITIES`], 0 for most.
    #[serde(default)]
    pub priority: i8,
    /// What its sender demands of every server on the way, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub terms: Vec<String>,
    /// MAIL FROM; empty is the null sender.
    pub sender: String,
    /// `login alice`, `trusted network office`, `outsider`, `own`.
    pub origin: String,
    /// The client's address.
    pub client: Option<String>,
    /// Where the client had the message from, as it said by XFORWARD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarded: Option<String>,
    /// The Message-ID.
    pub message_id: Option<String>,
    /// Its recipients.
    pub recipients: Vec<RecipientView>,
    /// The delivery attempt under way that began first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<AttemptView>,
}

/// A recipient as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientView {
    /// The address.
    pub address: String,
    /// What RCPT TO said, where it differs.
    pub given: Option<String>,
    /// `ready`, `active`, `deferred`, `held`, `delivered`, `failed`.
    pub state: String,
    /// The destination it waits for.
    pub destination: String,
    /// Attempts so far.
    pub attempts: u32,
    /// The last attempt.
    pub last_attempt: Option<u64>,
    /// The next one, the rest of the destination included.
    pub next_attempt: Option<u64>,
    /// The last enhanced code.
    pub status: Option<String>,
    /// What was said last.
    pub text: Option<String>,
    /// By whom.
    pub host: Option<String>,
    /// Over which protection.
    pub tls: Option<String>,
    /// The route that an operator has chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// What becomes of it when the attempt under way ends without delivery, as an operator wants it: `failed`, `dropped`,
    /// `delivered` (it counts as that), `replaced`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<String>,
}

/// A summary for `posternctl status` and health checks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Messages in all.
    pub messages: usize,
    /// Due and waiting for a free slot.
    pub ready: usize,
    /// Being delivered.
    pub active: usize,
    /// Waiting for their next attempt.
    pub deferred: usize,
    /// Held.
    pub held: usize,
    /// Octets of all.
    pub octets: u64,
    /// Age of the oldest, in seconds.
    pub oldest: Option<u64>,
    /// Why the spool takes nothing at the moment, if so.
    pub store_error: Option<String>,
    /// Records set aside as damaged.
    pub damaged: usize,
    /// The delivery attempt under way that began first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_attempt: Option<AttemptView>,
}

impl Queue {
    /// One message. Blocking, if its envelope is not in memory.
    pub fn show(&self, id: QueueId) -> Option<MessageView> {
        let cx = self.inner.context();
        let (status, shown) = self.inner.look_at(id, |messages, entry, loaded| {
            let (scheduler, status) = (&messages.scheduler, entry.status);
            let view = |envelope: &Envelope, state: &MessageState| {
                view(&Found { id, status, envelope, state, scheduler, cx: &cx })
            };
            entry.read(loaded, view).ok().map(|shown| (status, shown))
        })??;
        let attempt = (status == Status::Active).then(|| self.inner.attempts.oldest(Some(id))).flatten();
        Some(MessageView { attempt, ..shown })
    }

    /// The content of one message.
    pub fn content(&self, id: QueueId) -> Option<Content> {
        let facts = self.inner.messages.lock().entry(id)?.facts();
        Some(Content::new(Some(&self.inner), id, facts.size, facts.received))
    }

    /// The totals.
    pub fn summary(&self) -> Summary {
        let now = self.inner.clock.now();
        let store_error = self.inner.spool.health();
        let oldest_attempt = self.inner.attempts.oldest(None);
        let messages = self.inner.messages.lock();
        let oldest =
            messages.oldest().map(|facts| now.duration_since(facts.received).unwrap_or_default().as_secs());
        Summary {
            messages: messages.len(),
            ready: messages.count(Status::Ready),
            active: messages.count(Status::Active),
            deferred: messages.count(Status::Deferred),
            held: messages.count(Status::Held),
            octets: messages.octets(),
            oldest,
            store_error,
            damaged: messages.damaged,
            oldest_attempt,
        }
    }

    /// Brings the gauges of the metrics up to date: call it before they are read.
    pub fn update_metrics(&self) {
        self.inner.metrics.update(&self.summary());
        self.inner.rules.update_metrics();
        self.inner.metrics.free_space(self.inner.spool.space().free);
        if let Some(disk) = &self.inner.disk {
            self.inner.metrics.update_spool(&disk.figures());
        }
    }
}

fn view(found: &Found<'_>) -> MessageView {
    let Found { id, status, envelope, state, cx, .. } = found;
    let expires = envelope.expires(&cx.schedule);
    let recipients = envelope.recipients.iter().zip(&state.recipients).enumerate();
    MessageView {
        id: id.to_string(),
        state: status.as_str().to_owned(),
        held: state.held.clone(),
        held_until: state.held_until.map(seconds),
        received: seconds(envelope.received),
        expires: seconds(expires),
        size: envelope.size,
        priority: envelope.priority,
        terms: envelope.terms.in_words(),
        sender: envelope.reverse_path.to_string(),
        origin: origin(&envelope.origin),
        client: envelope.client.map(|ip| ip.to_string()),
        forwarded: envelope.forwarded.clone(),
        message_id: envelope.message_id.clone(),
        recipients: recipients.map(|(index, (r, s))| recipient_view(index, r, s, found)).collect(),
        attempt: None,
    }
}

/// By which right a message came, in words.
pub(crate) fn origin(origin: &Origin) -> String {
    match origin {
        Origin::Login(login) => format!("login {login}"),
        Origin::TrustedNetwork(label) => format!("trusted network {label}"),
        Origin::Granted(right) => right.clone(),
        Origin::Outsider => "outsider".to_owned(),
        Origin::Own => "own".to_owned(),
    }
}

fn recipient_view(
    index: usize,
    recipient: &Recipient,
    state: &RecipientState,
    found: &Found<'_>,
) -> RecipientView {
    let shown = match state.phase {
        Phase::Delivered { .. } => "delivered",
        Phase::Failed { .. } => "failed",
        Phase::Waiting { .. } if state.leased => "active",
        Phase::Waiting { .. } if found.state.held.is_some() => "held",
        Phase::Waiting { .. } if state.is_due() => "ready",
        Phase::Waiting { .. } => "deferred",
    };
    let last = state.last.as_ref();
    RecipientView {
        address: recipient.address.to_string(),
        given: recipient.given.as_ref().map(Address::to_string),
        state: shown.to_owned(),
        destination: found.destination(index).map_or_else(String::new, |to| to.to_string()),
        attempts: state.attempts,
        last_attempt: last.filter(|_| state.attempts > 0).map(|report| seconds(report.at)),
        next_attempt: found.next_attempt(index).map(seconds),
        status: last.map(|report| report.status.to_string()),
        text: last.map(|report| report.text.clone()),
        host: last.and_then(|report| report.host.clone()),
        tls: last.and_then(|report| report.tls.clone()),
        via: recipient.via.as_deref().map(str::to_owned),
        ending: state.ending.as_ref().map(|ending| ending.kind.as_str().to_owned()),
    }
}
