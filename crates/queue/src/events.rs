//! What happens to messages, told to those who watch and kept in the journal.
//!
//! An `Event` is noted while the messages are locked, and only if somebody wants its kind: it shares the envelope and
//! copies the evidence. It is put into words ([`EventView`]) when the lock is free. A watcher that is too slow is told how
//! much it missed; nobody waits for it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use postern_smtp::{Address, Domain};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::Queue;
use crate::codec::milliseconds;
use crate::entry::Work;
use crate::envelope::Envelope;
use crate::filter::BadFilter;
use crate::history::Journal;
use crate::message::{Destination, Outcome, QueueId, Report};
use crate::messages::Context;
use crate::metrics::Metrics;
use crate::operate;

/// Events that a watcher can be behind: some ten seconds of a busy server. Each has at most [`MAX_RECIPIENTS`]
/// recipients, so that they are a few MiB at worst.
const BACKLOG: usize = 1024;

/// Watchers at once. Each takes one of the connections of the control socket, and operators need some for questions.
pub const MAX_WATCHERS: usize = 16;

/// Recipients of one event; what happens to more at once is told in several.
const MAX_RECIPIENTS: usize = 100;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// The message is durable, and its sender was told so.
    Accepted,
    /// The next hop took responsibility for recipients, or their mailbox has it.
    Delivered,
    /// An attempt ended with something that may pass.
    Deferred,
    /// Recipients are given up: the next hop said no for good, or an operator.
    Failed,
    /// Recipients are given up because their time was over.
    Expired,
    /// The message is kept back.
    Held,
    /// A hold has ended.
    Released,
    /// An operator made recipients due before their time.
    Retried,
    /// An operator ended recipients without telling the sender.
    Dropped,
    /// An operator changed the envelope or the way of the message.
    Edited,
    /// A report to the sender was written: a message with an id of its own.
    Reported,
    /// The message has left the queue.
    Gone,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Accepted,
        Self::Delivered,
        Self::Deferred,
        Self::Failed,
        Self::Expired,
        Self::Held,
        Self::Released,
        Self::Retried,
        Self::Dropped,
        Self::Edited,
        Self::Reported,
        Self::Gone,
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Delivered => "delivered",
            Self::Deferred => "deferred",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Held => "held",
            Self::Released => "released",
            Self::Retried => "retried",
            Self::Dropped => "dropped",
            Self::Edited => "edited",
            Self::Reported => "reported",
            Self::Gone => "gone",
        }
    }

    /// Whether the journal keeps it. Not what its other lines tell as well: every line says when the message was
    /// accepted, a message without an end is in the queue, and who retried what is in the audit log.
    pub(crate) fn is_kept(self) -> bool {
        !matches!(self, Self::Accepted | Self::Retried | Self::Gone)
    }

    /// Whether it is the end of its recipients.
    pub(crate) fn is_end(self) -> bool {
        matches!(self, Self::Delivered | Self::Failed | Self::Expired | Self::Dropped)
    }
}

/// An event as operators see it. Times are milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    /// When, since 1970.
    pub time: u64,
    /// The queue id of the message.
    pub id: String,
    /// What.
    pub event: EventKind,
    /// MAIL FROM; empty is the null sender.
    pub sender: String,
    /// The recipients it is about: at most a hundred. None where it is about the message as a whole.
    pub recipients: Vec<EventRecipient>,
    /// The Message-ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// Octets of the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The client's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Where the client had the message from, as it said by XFORWARD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarded: Option<String>,
    /// `login alice`, `trusted network office`, `outsider`, `own`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Where the recipients waited, for what an attempt ended with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The host that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// How the connection was protected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
    /// The enhanced code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// What the other side said, or our own words, or the reason of an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
    /// Attempts so far, this one included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Since the message was accepted.
    pub delay: u64,
    /// The queue id of the report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
    /// What it reports: `failed`, `delayed` or `relayed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_kind: Option<String>,
    /// Whether it is the work of an operator.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub operator: bool,
}

/// A recipient in an [`EventView`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecipient {
    /// The address.
    pub address: String,
    /// What RCPT TO said, where it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<String>,
}

/// Which events somebody wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Interest {
    pub(crate) journal: bool,
    pub(crate) watchers: bool,
}

impl Interest {
    pub(crate) fn wants(self, kind: EventKind) -> bool {
        self.watchers || (self.journal && kind.is_kept())
    }
}

/// An event before it is put into words.
#[derive(Debug)]
pub(crate) struct Event {
    kind: EventKind,
    time: SystemTime,
    id: QueueId,
    envelope: Arc<Envelope>,
    /// As the envelope counts them.
    recipients: Vec<u32>,
    /// For what an attempt ended with.
    destination: Option<Destination>,
    attempts: u32,
    evidence: Evidence,
    is_operators: bool,
}

/// What goes with an event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Evidence {
    None,
    Outcome(Report),
    Reason(String),
    /// A report was written: its id and kind.
    Written(QueueId, &'static str),
}

impl Evidence {
    fn is_outcome(&self, report: &Report) -> bool {
        let Self::Outcome(own) = self else {
            return false;
        };
        // The moment of each recipient's reply says nothing new.
        (own.status, &own.text, &own.host, &own.tls)
            == (report.status, &report.text, &report.host, &report.tls)
    }
}

/// Events that were noted under the lock.
#[derive(Debug, Default)]
pub(crate) struct Noted(Vec<Event>);

impl Noted {
    /// The outcome of one recipient, before it is taken in. Recipients with the same outcome share an event.
    pub(crate) fn outcome(
        &mut self,
        (id, index): (QueueId, usize),
        work: &Work,
        destination: &Destination,
        outcome: &Outcome,
        cx: &Context<'_>,
    ) {
        let kind = match outcome {
            Outcome::Delivered(..) => EventKind::Delivered,
            Outcome::Deferred(..) => EventKind::Deferred,
            Outcome::Failed(_) => EventKind::Failed,
        };
        if cx.events.wants(kind) {
            let attempts = work.state.recipients[index].attempts.saturating_add(1);
            let event = self.about((id, index), kind, work, attempts, outcome.report(), cx);
            event.destination.get_or_insert_with(|| destination.clone());
        }
    }

    /// The end of recipients; why, is in their state.
    pub(crate) fn expired(&mut self, id: QueueId, work: &Work, indices: &[usize], cx: &Context<'_>) {
        if !cx.events.wants(EventKind::Expired) {
            return;
        }
        for index in indices {
            let recipient = &work.state.recipients[*index];
            if let Some(report) = &recipient.last {
                self.about((id, *index), EventKind::Expired, work, recipient.attempts, report, cx);
            }
        }
    }

    /// What an operator did with recipients.
    pub(crate) fn operator(
        &mut self,
        (kind, reason): (EventKind, &str),
        id: QueueId,
        work: &Work,
        indices: &[usize],
        cx: &Context<'_>,
    ) {
        let evidence = if reason.is_empty() { Evidence::None } else { Evidence::Reason(reason.to_owned()) };
        for indices in indices.chunks(MAX_RECIPIENTS) {
            self.0.push(Event {
                recipients: indices.iter().map(|index| *index as u32).collect(),
                is_operators: true,
                ..Event::new(kind, id, &work.envelope, evidence.clone(), cx)
            });
        }
    }

    /// What happened to a message as a whole.
    pub(crate) fn message(
        &mut self,
        kind: EventKind,
        id: QueueId,
        envelope: &Arc<Envelope>,
        evidence: Evidence,
        cx: &Context<'_>,
    ) {
        if cx.events.wants(kind) {
            self.0.push(Event::new(kind, id, envelope, evidence, cx));
        }
    }

    /// A message that is about to be accepted.
    pub(crate) fn accepted(&mut self, id: QueueId, envelope: Envelope, cx: &Context<'_>) {
        if !cx.events.wants(EventKind::Accepted) {
            return;
        }
        let envelope = Arc::new(envelope);
        let all: Vec<u32> = (0..envelope.recipients.len() as u32).collect();
        for recipients in all.chunks(MAX_RECIPIENTS) {
            let event = Event::new(EventKind::Accepted, id, &envelope, Evidence::None, cx);
            self.0.push(Event { recipients: recipients.to_vec(), ..event });
        }
    }

    pub(crate) fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// The event that this recipient shares with those before it, or a new one.
    fn about(
        &mut self,
        (id, index): (QueueId, usize),
        kind: EventKind,
        work: &Work,
        attempts: u32,
        report: &Report,
        cx: &Context<'_>,
    ) -> &mut Event {
        let is_shared = self.0.last().is_some_and(|last| {
            (last.id, last.kind, last.attempts) == (id, kind, attempts)
                && last.recipients.len() < MAX_RECIPIENTS
                && last.evidence.is_outcome(report)
        });
        if !is_shared {
            let evidence = Evidence::Outcome(report.clone());
            self.0.push(Event { attempts, ..Event::new(kind, id, &work.envelope, evidence, cx) });
        }
        let last = self.0.len() - 1;
        let event = &mut self.0[last];
        event.recipients.push(index as u32);
        event
    }
}

impl Event {
    fn new(
        kind: EventKind,
        id: QueueId,
        envelope: &Arc<Envelope>,
        evidence: Evidence,
        cx: &Context<'_>,
    ) -> Self {
        Self {
            kind,
            time: cx.now,
            id,
            envelope: envelope.clone(),
            recipients: Vec::new(),
            destination: None,
            attempts: 0,
            evidence,
            is_operators: false,
        }
    }

    fn view(&self) -> EventView {
        let envelope = &self.envelope;
        let recipient = |index: &u32| {
            let recipient = envelope.recipients.get(*index as usize)?;
            let given = recipient.given.as_ref().map(Address::to_string);
            Some(EventRecipient { address: recipient.address.to_string(), given })
        };
        let delay = self.time.duration_since(envelope.received).unwrap_or_default();
        let mut view = EventView {
            time: milliseconds(self.time),
            id: self.id.to_string(),
            event: self.kind,
            sender: envelope.reverse_path.to_string(),
            recipients: self.recipients.iter().filter_map(recipient).collect(),
            message_id: envelope.message_id.clone(),
            size: Some(envelope.size),
            client: envelope.client.map(|ip| ip.to_string()),
            forwarded: envelope.forwarded.clone(),
            origin: Some(operate::origin(&envelope.origin)),
            destination: self.destination.as_ref().map(Destination::to_string),
            host: None,
            tls: None,
            status: None,
            reply: None,
            attempts: (self.attempts > 0).then_some(self.attempts),
            delay: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            report: None,
            report_kind: None,
            operator: self.is_operators,
        };
        match &self.evidence {
            Evidence::None => {}
            Evidence::Outcome(report) => {
                view.host.clone_from(&report.host);
                view.tls.clone_from(&report.tls);
                view.status = Some(report.status.to_string());
                view.reply = Some(report.text.clone());
            }
            Evidence::Reason(reason) => view.reply = Some(reason.clone()),
            Evidence::Written(report, kind) => {
                view.report = Some(report.to_string());
                view.report_kind = Some((*kind).to_owned());
            }
        }
        view
    }
}

/// Where events go.
#[derive(Debug)]
pub(crate) struct Hub {
    journal: Option<Journal>,
    /// Where the journal is, or was while one was kept.
    pub(crate) folder: PathBuf,
    sender: broadcast::Sender<Arc<EventView>>,
    /// The channel could tell as well, at the price of a lock.
    watchers: AtomicUsize,
    metrics: Metrics,
}

impl Hub {
    pub(crate) fn new(journal: Option<Journal>, folder: PathBuf, metrics: Metrics) -> Self {
        let (sender, _) = broadcast::channel(BACKLOG);
        Self { journal, folder, sender, watchers: AtomicUsize::new(0), metrics }
    }

    pub(crate) fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref()
    }

    pub(crate) fn interest(&self) -> Interest {
        let watchers = self.watchers.load(Ordering::Relaxed) > 0;
        Interest { journal: self.journal.is_some(), watchers }
    }

    /// Tells what was noted. Does not wait for anybody.
    pub(crate) fn publish(&self, noted: Noted) {
        let watched = self.watchers.load(Ordering::Relaxed) > 0;
        for event in noted.0 {
            let view = event.view();
            if let Some(journal) = self.journal.as_ref().filter(|_| event.kind.is_kept()) {
                journal.append(&view);
            }
            if watched {
                // Fails when the last watcher has just gone.
                let _ = self.sender.send(Arc::new(view));
            }
        }
    }
}

/// Which events: all conditions that are given must hold. The default takes every event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventFilter {
    /// One of these messages, or a report with one of these ids; empty: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<String>,
    /// One of these kinds; empty: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<EventKind>,
    /// Envelope sender: an address, `@domain`, or `<>`. Case is folded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    /// A recipient: an address or `@domain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rcpt: Option<String>,
    /// The domain of a recipient.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rcpt_domain: Option<String>,
    /// The login the message came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The address it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<String>,
    /// Beginning of the enhanced code or reply code, such as `4.7.`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// Ids in one filter: what one request can name is plenty, and every event is compared with them.
const MAX_IDS: usize = 1000;

/// An [`EventFilter`], read once.
#[derive(Debug)]
struct Conditions {
    ids: Vec<String>,
    kinds: Vec<EventKind>,
    sender: Option<Who>,
    rcpt: Option<Who>,
    rcpt_domain: Option<Who>,
    origin: Option<String>,
    client: Option<String>,
    code: Option<String>,
}

impl Conditions {
    fn new(filter: &EventFilter) -> Result<Self, BadFilter> {
        if filter.ids.len() > MAX_IDS {
            return Err(BadFilter(format!("at most {MAX_IDS} ids can be watched")));
        }
        let id = |text: &String| {
            let id: Result<QueueId, _> = text.parse();
            id.map(|id| id.to_string()).map_err(|error| BadFilter(format!("{text:?}: {error}")))
        };
        let client = |text: &str| {
            let ip: Result<IpAddr, _> = text.parse();
            ip.map(|ip| ip.to_string()).map_err(|error| BadFilter(format!("{text:?}: {error}")))
        };
        Ok(Self {
            ids: filter.ids.iter().map(id).collect::<Result<_, _>>()?,
            kinds: filter.kinds.clone(),
            sender: filter.sender.as_deref().map(Who::new).transpose()?,
            rcpt: filter.rcpt.as_deref().map(Who::new).transpose()?,
            rcpt_domain: filter.rcpt_domain.as_deref().map(Who::domain).transpose()?,
            origin: filter.account.as_ref().map(|login| format!("login {login}")),
            client: filter.client_ip.as_deref().map(client).transpose()?,
            code: filter.code.clone(),
        })
    }

    fn matches(&self, event: &EventView) -> bool {
        let is_one = |id: &String| *id == event.id || Some(id) == event.report.as_ref();
        let is_rcpt = |who: &Who| who.is_among(&event.recipients);
        (self.ids.is_empty() || self.ids.iter().any(is_one))
            && (self.kinds.is_empty() || self.kinds.contains(&event.event))
            && self.sender.as_ref().is_none_or(|who| who.matches(&event.sender))
            && self.rcpt.as_ref().is_none_or(is_rcpt)
            && self.rcpt_domain.as_ref().is_none_or(is_rcpt)
            && (self.origin.is_none() || self.origin == event.origin)
            && (self.client.is_none() || self.client == event.client)
            && self.code.as_deref().is_none_or(|code| has_code(event, code))
    }
}

fn has_code(event: &EventView, code: &str) -> bool {
    let begins = |text: &Option<String>| text.as_ref().is_some_and(|text| text.starts_with(code));
    begins(&event.status) || (event.host.is_some() && begins(&event.reply))
}

/// Which addresses, as they stand in events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Who {
    Null,
    /// Everything in a domain.
    Domain(Domain),
    /// An address in lower case.
    Address(String),
}

impl Who {
    /// `<>`, `@domain` or an address.
    pub(crate) fn new(text: &str) -> Result<Self, BadFilter> {
        match text.strip_prefix('@') {
            _ if text == "<>" => Ok(Self::Null),
            Some(domain) => Self::domain(domain),
            None => {
                let address = Address::parse(text);
                let address = address.map_err(|e| BadFilter(format!("{text:?} is no address: {e}")))?;
                Ok(Self::Address(address.to_string().to_lowercase()))
            }
        }
    }

    pub(crate) fn domain(text: &str) -> Result<Self, BadFilter> {
        let domain = Domain::parse(text);
        domain.map(Self::Domain).map_err(|error| BadFilter(format!("{text:?} is no domain: {error}")))
    }

    pub(crate) fn matches(&self, address: &str) -> bool {
        match self {
            Self::Null => address.is_empty(),
            Self::Domain(domain) => address.rsplit_once('@').is_some_and(|(_, host)| host == domain.as_str()),
            Self::Address(folded) => address.to_lowercase() == *folded,
        }
    }

    pub(crate) fn is_among(&self, recipients: &[EventRecipient]) -> bool {
        let mut addresses = recipients.iter().flat_map(|r| [Some(&r.address), r.given.as_ref()]);
        addresses.any(|address| address.is_some_and(|address| self.matches(address)))
    }
}

/// Why nothing can be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The filter makes no sense.
    #[error(transparent)]
    Filter(#[from] BadFilter),
    /// Others watch already.
    #[error("{MAX_WATCHERS} watchers are there already: end one of them")]
    TooMany,
}

/// What a [`Watcher`] sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watched {
    /// An event that matches.
    Event(Arc<EventView>),
    /// The watcher was too slow: it missed so many events, whether they match or not.
    Missed(u64),
}

/// Somebody who watches. Its place is free again when it is dropped.
#[derive(Debug)]
pub struct Watcher {
    receiver: broadcast::Receiver<Arc<EventView>>,
    conditions: Conditions,
    hub: Arc<Hub>,
    closing: CancellationToken,
}

impl Watcher {
    /// The next event; `None` when the queue is closed. May be dropped before it ends.
    pub async fn next(&mut self) -> Option<Watched> {
        loop {
            let received = self.closing.run_until_cancelled(self.receiver.recv()).await?;
            match received {
                Ok(event) if self.conditions.matches(&event) => return Some(Watched::Event(event)),
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => return Some(Watched::Missed(missed)),
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let before = self.hub.watchers.fetch_sub(1, Ordering::Relaxed);
        self.hub.metrics.watchers(before.saturating_sub(1));
    }
}

impl Queue {
    /// Watches what happens from now on.
    ///
    /// # Errors
    /// [`WatchError`].
    pub fn watch(&self, filter: &EventFilter) -> Result<Watcher, WatchError> {
        let conditions = Conditions::new(filter)?;
        let hub = self.inner.events.clone();
        let more = |watchers| (watchers < MAX_WATCHERS).then_some(watchers + 1);
        let before = hub.watchers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        let before = before.map_err(|_| WatchError::TooMany)?;
        hub.metrics.watchers(before + 1);
        let receiver = hub.sender.subscribe();
        Ok(Watcher { receiver, conditions, hub, closing: self.inner.closing.clone() })
    }
}
