//! Reports that are owed: read the message, compose, hand over to be written.
//!
//! A recipient that failed is first durable as `failed, report owed`. The report and the note that it is written are one
//! change of the spool, so a crash at any moment leaves either both or the debt, and a restart pays it.

use std::sync::Arc;

use bytes::Bytes;
use postern_smtp::{Address, Domain, LocalPart, Notify, ReversePath};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{error, info, warn};

use crate::Inner;
use crate::dsn::{self, Action, FULL_RETURN_LIMIT, Facts, Original, Told};
use crate::envelope::{Envelope, Origin, Recipient};
use crate::message::QueueId;
use crate::messages::{Arrival, Context};
use crate::rules::{Fate, Rules};
use crate::spool::{Change, NewBody, Spool, StoreError};
use crate::state::{MessageState, Phase};
use crate::terms::Terms;

/// What a message owes its sender.
#[derive(Debug)]
pub(crate) struct Owed {
    pub(crate) envelope: Arc<Envelope>,
    /// Those recipients of `told` that are owed no other report after it, as the envelope counts them.
    pub(crate) indices: Vec<u32>,
    pub(crate) told: Vec<Told>,
    /// Whether a notice of delay is part of it.
    pub(crate) tells_delay: bool,
}

/// A report that is composed and not yet written.
#[derive(Debug)]
pub(crate) struct NewReport {
    /// For metrics and the log: one of [`Action::as_str`].
    pub(crate) kind: &'static str,
    /// How many recipients it tells of.
    pub(crate) recipients: usize,
    /// The recipients that are owed nothing any more when it is written.
    pub(crate) indices: Vec<u32>,
    /// Whether it is the notice of delay.
    pub(crate) tells_delay: bool,
    /// The report as a message; none if there is nobody to send it to.
    pub(crate) message: Option<ReportMessage>,
}

/// A report as a message of the queue.
#[derive(Debug)]
pub(crate) struct ReportMessage {
    pub(crate) arrival: Arrival,
    meta: Vec<u8>,
    /// As a standing rule will have it; empty: nothing has happened yet.
    state: Vec<u8>,
    content: Bytes,
    /// The rules were asked about it, and it is not in the queue before this is dropped.
    _asked: TaskTrackerToken,
}

impl NewReport {
    /// Notes in the state of the message that the report is written.
    pub(crate) fn mark(&self, state: &mut MessageState) {
        for index in &self.indices {
            let recipient = &mut state.recipients[*index as usize];
            recipient.phase = recipient.phase.reported();
            if matches!(recipient.phase, Phase::Delivered { .. }) {
                recipient.last = None;
            }
        }
        state.delay_told |= self.tells_delay;
    }
}

impl ReportMessage {
    /// Its changes of the spool; taken once.
    pub(crate) fn enqueue(&mut self) -> impl Iterator<Item = Change> + use<> {
        let id = self.arrival.id;
        let body = NewBody::Inline(vec![std::mem::take(&mut self.content)]);
        let state = std::mem::take(&mut self.state);
        let state = (!state.is_empty()).then_some(Change::State { id, state });
        std::iter::once(Change::Enqueue { id, meta: std::mem::take(&mut self.meta), body }).chain(state)
    }
}

impl Inner {
    /// Composes the report that a message owes. Blocking: reads the message.
    pub(crate) fn compose_report(self: &Arc<Self>, about: QueueId) {
        let Some(owed) = self.with(|messages, cx, _| messages.owed(about, cx)) else {
            return;
        };
        let report = new_report(&*self.spool, &self.rules, about, owed, &self.context());
        self.with(|messages, cx, fx| messages.report_composed(about, report, cx, fx));
    }
}

fn new_report(
    spool: &dyn Spool,
    rules: &Rules,
    about: QueueId,
    owed: Owed,
    cx: &Context<'_>,
) -> Option<NewReport> {
    let Owed { envelope, indices, told, tells_delay } = owed;
    let kind = kind(&told);
    let mut report = NewReport { kind, recipients: told.len(), indices, tells_delay, message: None };
    let Some(to) = envelope.reverse_path.address().filter(|_| !told.is_empty()) else {
        return Some(report);
    };
    let Some((to, recipients)) = readers(to, &envelope.origin, &told, cx) else {
        info!(id = %about, sender = %to, kind, "no report: the sender does not exist");
        return Some(report);
    };
    // Whoever reads for postmaster need not read what others wrote.
    let is_senders = envelope.reverse_path.address() == Some(&to);
    let is_full_wanted = is_senders && Original::is_full_wanted(&envelope, &told);
    let original = read_original(spool, about, is_full_wanted).unwrap_or_else(|error| {
        warn!(id = %about, %error, "the message cannot be read for its report");
        Original::Unreadable
    });
    let id = spool.next_id();
    let composed = dsn::compose(&Facts {
        hostname: &cx.surroundings.hostname(),
        id,
        about,
        envelope: &envelope,
        to: &to,
        told: &told,
        original: &original,
        retried_until: envelope.expires(&cx.schedule),
        now: cx.now,
    });
    let mut envelope = Envelope {
        reverse_path: ReversePath::Null,
        origin: Origin::Own,
        client: None,
        forwarded: None,
        helo: None,
        received: cx.now,
        body: composed.body,
        smtputf8: composed.smtputf8,
        ret: None,
        envelope_id: None,
        message_id: Some(composed.message_id),
        priority: envelope.terms.priority.unwrap_or(0),
        // RFC 8689 §5: what must not be read on the way is not told in clear either.
        terms: Terms {
            require_tls: envelope.terms.require_tls,
            priority: envelope.terms.priority,
            ..Terms::default()
        },
        size: composed.content.len() as u64,
        recipients: recipients.into_iter().map(report_recipient).collect(),
    };
    let asked = rules.asks();
    let Fate::Queued(state) = rules.apply(id, &mut envelope, &|| composed.content.clone()) else {
        return Some(report);
    };
    let meta = envelope.encode();
    match Arrival::new(id, &meta, &state, cx) {
        Ok(arrival) => {
            let content = composed.content.into();
            report.message = Some(ReportMessage { arrival, meta, state, content, _asked: asked });
            Some(report)
        }
        Err(damage) => {
            error!(id = %about, %damage, "the report cannot be queued");
            None
        }
    }
}

/// To which address a report goes, and who is behind it. Mail of our own people must not vanish with a sender that nobody
/// reads, such as that of a printer: postmaster hears that it failed. What outsiders make up as a sender is nobody's mail.
fn readers(
    sender: &Address,
    origin: &Origin,
    told: &[Told],
    cx: &Context<'_>,
) -> Option<(Address, Vec<Address>)> {
    let behind = |address: Address| {
        let recipients = cx.surroundings.final_recipients(&address);
        (!recipients.is_empty()).then_some((address, recipients))
    };
    let fails = || told.iter().any(|told| told.action == Action::Failed);
    let postmaster = |domain: Domain| Some(Address::new(LocalPart::parse("postmaster").ok()?, domain));
    behind(sender.clone()).or_else(|| {
        let is_owed = *origin != Origin::Outsider && fails();
        let domains = is_owed.then(|| [sender.domain().cloned(), Some(cx.surroundings.hostname())]);
        domains.into_iter().flatten().flatten().filter_map(postmaster).find_map(behind)
    })
}

fn kind(told: &[Told]) -> &'static str {
    let order = [Action::Failed, Action::Delayed, Action::Relayed, Action::Delivered];
    let action = order.into_iter().find(|action| told.iter().any(|told| told.action == *action));
    action.unwrap_or(Action::Expanded).as_str()
}

/// RFC 3461 §6.1: nobody is told when a report fails.
fn report_recipient(address: Address) -> Recipient {
    Recipient { notify: Notify::NEVER, ..Recipient::new(address) }
}

/// Reads what a report returns: never more than [`FULL_RETURN_LIMIT`].
fn read_original(spool: &dyn Spool, id: QueueId, is_full_wanted: bool) -> Result<Original, StoreError> {
    let most = FULL_RETURN_LIMIT as usize;
    let mut body = spool.read(id)?;
    let mut content = Vec::new();
    while content.len() <= most {
        match body.next()? {
            Some(piece) => content.extend_from_slice(&piece),
            None => return Ok(Original::from_content(content, is_full_wanted)),
        }
    }
    content.truncate(most);
    Ok(Original::from_content(content, false))
}
