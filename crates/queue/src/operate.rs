//! The verbs of operators: list, count, show, hold, release, retry, fail, drop. One filter grammar for all.

use std::collections::{BTreeMap, BinaryHeap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use postern_smtp::{Address, Domain, EnhancedStatus, Host, ReversePath};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::codec::milliseconds;
use crate::entry::{Entry, Status, Work};
use crate::envelope::{Envelope, Origin, Recipient};
use crate::message::{QueueId, Report};
use crate::messages::{Context, Effects, Messages};
use crate::scheduler::Scheduler;
use crate::state::{MessageState, Phase, RecipientState};
use crate::store::StoreError;
use crate::{Content, Inner, Queue, retry};

/// Which messages: all conditions that are given must hold. The default matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// One of these ids (as text); empty: any.
    pub ids: Vec<String>,
    /// Envelope sender: an address, `@domain`, or `<>`. Case is folded.
    pub sender: Option<String>,
    /// A recipient: an address or `@domain`.
    pub rcpt: Option<String>,
    /// The domain of a recipient.
    pub rcpt_domain: Option<String>,
    /// The login it came from.
    pub account: Option<String>,
    /// The address it came from.
    pub client_ip: Option<String>,
    /// `ready`, `active`, `deferred`, `held`.
    pub state: Option<String>,
    /// Beginning of the last enhanced code or reply code of a recipient, such as `4.7.`.
    pub code: Option<String>,
    /// Older than so many seconds.
    pub older: Option<u64>,
    /// Younger than so many seconds.
    pub newer: Option<u64>,
    /// Octets at least.
    pub min_size: Option<u64>,
    /// Octets at most.
    pub max_size: Option<u64>,
    /// A recipient was tried more than so many times.
    pub min_attempts: Option<u32>,
    /// Only messages with a null sender.
    pub dsn: bool,
    /// The Message-ID field, without angle brackets.
    pub message_id: Option<String>,
}

/// How a list is ordered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sort {
    /// Oldest first.
    #[default]
    Age,
    /// Next attempt first.
    Next,
    /// Largest first.
    Size,
    /// Most attempts first.
    Attempts,
}

/// A queued message as operators see it. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageView {
    /// The queue id.
    pub id: String,
    /// `ready`, `active`, `deferred` or `held`.
    pub state: String,
    /// Why it is held.
    pub held: Option<String>,
    /// When it was accepted.
    pub received: u64,
    /// When its last recipient is given up.
    pub expires: u64,
    /// Octets.
    pub size: u64,
    /// MAIL FROM; empty is the null sender.
    pub sender: String,
    /// `login alice`, `trusted network office`, `outsider`, `own`.
    pub origin: String,
    /// The client's address.
    pub client: Option<String>,
    /// The Message-ID.
    pub message_id: Option<String>,
    /// Its recipients.
    pub recipients: Vec<RecipientView>,
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
}

/// What a changing verb did. `changed` is counted after the change was durable and read back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Messages the filter found.
    pub matched: usize,
    /// Messages that are different now.
    pub changed: usize,
    /// Those that are not, with the reason (`in-flight`, `not held` ...).
    pub skipped: Vec<(String, String)>,
}

/// How many messages a group has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The value they share.
    pub key: String,
    /// Messages.
    pub messages: usize,
    /// Recipients.
    pub recipients: usize,
    /// Octets.
    pub octets: u64,
}

/// What messages are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupBy {
    /// Recipient domain.
    Domain,
    /// Envelope sender.
    Sender,
    /// Login.
    Account,
    /// Last enhanced code.
    Code,
    /// State.
    State,
}

/// A summary for `posternctl status` and health checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// A filter with a value that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadFilter(pub String);

impl Queue {
    /// Messages that match, in order, at most `limit`.
    ///
    /// # Errors
    /// [`BadFilter`].
    pub fn list(&self, filter: &Filter, sort: Sort, limit: usize) -> Result<Vec<MessageView>, BadFilter> {
        let matcher = Matcher::new(filter, self.inner.clock.now())?;
        let mut views = Vec::new();
        for id in self.inner.select(&matcher, sort, limit) {
            views.extend(self.show(id));
        }
        Ok(views)
    }

    /// Counts the messages that match, by group.
    ///
    /// # Errors
    /// [`BadFilter`].
    pub fn count(&self, filter: &Filter, by: GroupBy) -> Result<Vec<Group>, BadFilter> {
        let matcher = Matcher::new(filter, self.inner.clock.now())?;
        let mut groups: BTreeMap<String, Group> = BTreeMap::new();
        self.inner.scan(&matcher, |found| {
            for (key, recipients) in keys(found, by) {
                let new = || Group { key: key.clone(), messages: 0, recipients: 0, octets: 0 };
                let group = groups.entry(key.clone()).or_insert_with(new);
                group.messages += 1;
                group.recipients += recipients;
                group.octets += found.envelope.size;
            }
            true
        });
        let mut groups: Vec<Group> = groups.into_values().collect();
        groups.sort_by(|a, b| b.messages.cmp(&a.messages).then_with(|| a.key.cmp(&b.key)));
        Ok(groups)
    }

    /// One message.
    pub fn show(&self, id: QueueId) -> Option<MessageView> {
        let cx = self.inner.context();
        let messages = self.inner.messages.lock();
        let entry = messages.entry(id)?;
        let view = |envelope: &Envelope, state: &MessageState| {
            view(&Found { id, status: entry.status, envelope, state }, &messages.scheduler, &cx)
        };
        entry.read(view).ok()
    }

    /// The content of one message.
    pub fn content(&self, id: QueueId) -> Option<Content> {
        let facts = self.inner.messages.lock().entry(id)?.facts();
        Some(Content::new(Some(&self.inner), id, facts.size, facts.received))
    }

    /// The totals.
    pub fn summary(&self) -> Summary {
        let now = self.inner.clock.now();
        let store_error = self.inner.store.health();
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
        }
    }

    /// Brings the gauges of the metrics up to date: call it before they are read.
    pub fn update_metrics(&self) {
        self.inner.metrics.update(&self.summary());
        self.inner.metrics.free_space(self.inner.store.space().free);
    }

    /// Keeps messages back until they are released. They still expire. Survives a restart.
    ///
    /// # Errors
    /// [`OperateError`].
    pub async fn hold(&self, filter: &Filter, reason: &str) -> Result<Change, OperateError> {
        let hold = |work: &mut Work| {
            not_in_flight(work)?;
            if work.state.held.is_some() {
                return Err("already held");
            }
            work.state.held = Some(reason.to_owned());
            work.dirty = true;
            Ok(Vec::new())
        };
        self.change(filter, Rests::Stay, hold, |state| state.is_some_and(|state| state.held.is_some())).await
    }

    /// Ends a hold; the messages are due at once.
    ///
    /// # Errors
    /// [`OperateError`].
    pub async fn release(&self, filter: &Filter) -> Result<Change, OperateError> {
        let release = |work: &mut Work| {
            if work.state.held.take().is_none() {
                return Err("not held");
            }
            work.state.strikes = 0;
            work.dirty = true;
            let waiting: Vec<usize> = work.waiting().collect();
            for index in waiting {
                work.state.recipients[index].phase = Phase::Waiting { next: None };
            }
            Ok(work.ready())
        };
        self.change(filter, Rests::Stay, release, |state| state.is_none_or(|state| state.held.is_none()))
            .await
    }

    /// Makes waiting recipients due, spread over `spread`, and ends the rest of their destinations.
    ///
    /// # Errors
    /// [`OperateError`].
    pub async fn retry(&self, filter: &Filter, spread: Duration) -> Result<Change, OperateError> {
        let now = self.inner.clock.now();
        let retry = |work: &mut Work| {
            if work.state.held.is_some() {
                return Err("held");
            }
            if work.waiting().next().is_none() {
                return Err(if work.leases > 0 { "in-flight" } else { "nothing waits" });
            }
            // What stands in line already was kept back by the rest of its destination alone.
            let at = (!spread.is_zero()).then(|| now + spread.mul_f64(rand::random()));
            Ok(make_due(work, at))
        };
        self.change(filter, Rests::End, retry, |_| true).await
    }

    /// Ends messages with a report to the sender that gives the reason.
    ///
    /// # Errors
    /// [`OperateError`].
    pub async fn fail(&self, filter: &Filter, reason: &str) -> Result<Change, OperateError> {
        let report = Report {
            status: ADMINISTRATIVE,
            text: reason.to_owned(),
            is_reply: false,
            host: None,
            tls: None,
            at: self.inner.clock.now(),
        };
        let fail = |work: &mut Work| {
            not_in_flight(work)?;
            let waiting: Vec<usize> = work.waiting().collect();
            for index in waiting {
                work.fail(index, report.clone(), false);
            }
            Ok(Vec::new())
        };
        let has_ended = |state: &MessageState| state.recipients.iter().all(|r| !r.phase.is_waiting());
        self.change(filter, Rests::Stay, fail, |state| state.is_none_or(has_ended)).await
    }

    /// Removes messages without telling anybody.
    ///
    /// # Errors
    /// [`OperateError`].
    pub async fn remove(&self, filter: &Filter) -> Result<Change, OperateError> {
        let remove = |work: &mut Work| {
            not_in_flight(work)?;
            work.discarded = true;
            work.report = None;
            Ok(Vec::new())
        };
        self.change(filter, Rests::Stay, remove, |state| state.is_none()).await
    }

    /// Changes what matches, some hundred messages at a time, waits until each change is durable, and looks again whether
    /// it is there.
    async fn change(
        &self,
        filter: &Filter,
        rests: Rests,
        verb: impl Fn(&mut Work) -> Result<Vec<u32>, &'static str>,
        is_changed: impl Fn(Option<&MessageState>) -> bool,
    ) -> Result<Change, OperateError> {
        let matcher = Matcher::new(filter, self.inner.clock.now())?;
        let inner = self.inner.clone();
        let select = move || inner.select(&matcher, Sort::Age, usize::MAX);
        let selected = tokio::task::spawn_blocking(select).await;
        let ids = selected.map_err(|_| OperateError::Store(StoreError::Closed))?;
        let mut change = Change { matched: ids.len(), ..Change::default() };
        for step in ids.chunks(STEP) {
            let mut begun = Vec::with_capacity(step.len());
            self.inner.with(|messages, cx, fx| {
                for id in step {
                    match begin(messages, *id, rests, cx, fx, &verb) {
                        Ok(durable) => begun.push((*id, durable)),
                        Err(reason) => change.skipped.push((id.to_string(), reason.to_owned())),
                    }
                }
            });
            for (id, durable) in begun {
                // Without an answer there was nothing to write: the change is one of memory alone.
                let refused = durable.await.ok().and_then(Result::err);
                match refused {
                    Some(error) if change.changed == 0 => {
                        return Err(OperateError::Store(crate::owned(&error)));
                    }
                    Some(error) => change.skipped.push((id.to_string(), error.to_string())),
                    None if self.inner.check(id, &is_changed) => change.changed += 1,
                    None => change.skipped.push((id.to_string(), "changed again".to_owned())),
                }
            }
        }
        Ok(change)
    }
}

impl Inner {
    fn check(&self, id: QueueId, is_changed: impl Fn(Option<&MessageState>) -> bool) -> bool {
        let messages = self.messages.lock();
        match messages.entry(id) {
            Some(entry) => entry.read(|_, state| is_changed(Some(state))).unwrap_or(false),
            None => is_changed(None),
        }
    }

    /// The ids of what matches, in order, at most `limit`.
    fn select(&self, matcher: &Matcher, sort: Sort, limit: usize) -> Vec<QueueId> {
        if sort == Sort::Age {
            let mut ids = Vec::new();
            self.scan(matcher, |found| {
                if ids.len() < limit {
                    ids.push(found.id);
                }
                ids.len() < limit
            });
            return ids;
        }
        // The largest of the first `limit` is on top, and gives way to what comes before it.
        let mut first: BinaryHeap<(u64, QueueId)> = BinaryHeap::new();
        self.scan(matcher, |found| {
            first.push((sort_key(found, sort), found.id));
            if first.len() > limit {
                first.pop();
            }
            true
        });
        first.into_sorted_vec().into_iter().map(|(_, id)| id).collect()
    }

    /// Shows what matches, by age, until `visit` has seen enough. Others get at the queue in between.
    fn scan(&self, matcher: &Matcher, mut visit: impl FnMut(&Found<'_>) -> bool) {
        if let Some(ids) = &matcher.ids {
            for step in ids.chunks(STEP) {
                let messages = self.messages.lock();
                let entries = step.iter().filter_map(|id| Some((*id, messages.entry(*id)?)));
                if !visit_all(entries, matcher, &mut visit) {
                    return;
                }
            }
            return;
        }
        let mut next = Some(QueueId(0));
        while let Some(from) = next {
            let messages = self.messages.lock();
            next = messages.from(from).nth(STEP).map(|(id, _)| id);
            if !visit_all(messages.from(from).take(STEP), matcher, &mut visit) {
                return;
            }
        }
    }
}

fn visit_all<'a>(
    entries: impl Iterator<Item = (QueueId, &'a Entry)>,
    matcher: &Matcher,
    visit: &mut impl FnMut(&Found<'_>) -> bool,
) -> bool {
    for (id, entry) in entries {
        if !matcher.may_match(entry) {
            continue;
        }
        let seen = entry.read(|envelope, state| {
            let found = Found { id, status: entry.status, envelope, state };
            !matcher.matches(&found) || visit(&found)
        });
        if seen == Ok(false) {
            return false;
        }
    }
    true
}

/// Messages that a verb changes before it lets others at the queue.
const STEP: usize = 500;

/// The status of what an operator ends by hand: delivery not authorised (RFC 3463 §3.8).
const ADMINISTRATIVE: EnhancedStatus = EnhancedStatus::new(5, 7, 1);

/// What a verb does to the rests of the destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rests {
    Stay,
    End,
}

/// Applies a verb to one message; the receiver hears when it is durable.
fn begin(
    messages: &mut Messages,
    id: QueueId,
    rests: Rests,
    cx: &Context<'_>,
    fx: &mut Effects,
    verb: impl Fn(&mut Work) -> Result<Vec<u32>, &'static str>,
) -> Result<oneshot::Receiver<Result<(), Arc<StoreError>>>, &'static str> {
    let (waiter, durable) = oneshot::channel();
    messages.change(id, cx, fx, |work| {
        let ready = verb(work)?;
        if work.dirty || work.discarded {
            work.waiters.push(waiter);
        }
        Ok(ready)
    })?;
    if rests == Rests::End {
        messages.end_rests(id, cx);
    }
    Ok(durable)
}

fn not_in_flight(work: &Work) -> Result<(), &'static str> {
    if work.leases > 0 { Err("in-flight") } else { Ok(()) }
}

/// Gives the deferred recipients an earlier time, or makes them ready; returns those that became ready.
fn make_due(work: &mut Work, at: Option<SystemTime>) -> Vec<u32> {
    let waiting: Vec<usize> = work.waiting().collect();
    let mut ready = Vec::new();
    for index in waiting {
        let phase = &mut work.state.recipients[index].phase;
        let Phase::Waiting { next: Some(former) } = *phase else {
            continue;
        };
        *phase = Phase::Waiting { next: at.map(|at| at.min(former)) };
        work.dirty = true;
        if at.is_none() {
            ready.push(index as u32);
        }
    }
    ready
}

/// A message that was found.
struct Found<'a> {
    id: QueueId,
    status: Status,
    envelope: &'a Envelope,
    state: &'a MessageState,
}

/// Smaller comes first.
fn sort_key(found: &Found<'_>, sort: Sort) -> u64 {
    let recipients = &found.state.recipients;
    match sort {
        Sort::Age => found.id.0,
        Sort::Next => recipients.iter().map(next_key).min().unwrap_or(u64::MAX),
        Sort::Size => u64::MAX - found.envelope.size,
        Sort::Attempts => u64::MAX - u64::from(recipients.iter().map(|r| r.attempts).max().unwrap_or(0)),
    }
}

fn next_key(recipient: &RecipientState) -> u64 {
    match recipient.phase {
        Phase::Waiting { next } => next.map_or(0, milliseconds),
        Phase::Delivered { .. } | Phase::Failed { .. } => u64::MAX,
    }
}

/// What a message is counted under, and how many of its recipients each time.
fn keys(found: &Found<'_>, by: GroupBy) -> BTreeMap<String, usize> {
    let envelope = found.envelope;
    let all = |key: String| BTreeMap::from([(key, envelope.recipients.len())]);
    let each = |keys: &mut dyn Iterator<Item = String>| {
        let mut counted = BTreeMap::new();
        for key in keys {
            *counted.entry(key).or_insert(0) += 1;
        }
        counted
    };
    match by {
        GroupBy::Domain => each(&mut envelope.recipients.iter().map(|r| r.address.host.to_string())),
        GroupBy::Code => {
            each(&mut found.state.recipients.iter().map(|r| {
                r.last.as_ref().map_or_else(|| "none".to_owned(), |report| report.status.to_string())
            }))
        }
        GroupBy::Sender => {
            all(envelope.reverse_path.address().map_or_else(|| "<>".to_owned(), Address::folded))
        }
        GroupBy::Account => all(account(envelope).unwrap_or("none").to_owned()),
        GroupBy::State => all(found.status.as_str().to_owned()),
    }
}

fn account(envelope: &Envelope) -> Option<&str> {
    match &envelope.origin {
        Origin::Login(login) => Some(login),
        Origin::TrustedNetwork(_) | Origin::Outsider | Origin::Own => None,
    }
}

/// A filter, read once.
#[derive(Debug)]
struct Matcher {
    ids: Option<Vec<QueueId>>,
    sender: Option<Pattern>,
    rcpt: Option<Pattern>,
    rcpt_domain: Option<Pattern>,
    account: Option<String>,
    client_ip: Option<IpAddr>,
    state: Option<Status>,
    code: Option<String>,
    received_before: Option<SystemTime>,
    received_after: Option<SystemTime>,
    min_size: u64,
    max_size: u64,
    min_attempts: Option<u32>,
    dsn: bool,
    message_id: Option<String>,
}

impl Matcher {
    fn new(filter: &Filter, now: SystemTime) -> Result<Self, BadFilter> {
        let ids: Vec<QueueId> =
            filter.ids.iter().map(|id| parsed("queue id", id)).collect::<Result<_, _>>()?;
        let age =
            |seconds: u64| now.checked_sub(Duration::from_secs(seconds)).unwrap_or(SystemTime::UNIX_EPOCH);
        Ok(Self {
            ids: (!ids.is_empty()).then_some(ids),
            sender: filter.sender.as_deref().map(Pattern::new).transpose()?,
            rcpt: filter.rcpt.as_deref().map(Pattern::new).transpose()?,
            rcpt_domain: filter.rcpt_domain.as_deref().map(Pattern::domain).transpose()?,
            account: filter.account.clone(),
            client_ip: filter.client_ip.as_deref().map(|ip| parsed("address", ip)).transpose()?,
            state: filter.state.as_deref().map(status).transpose()?,
            code: filter.code.clone(),
            received_before: filter.older.map(age),
            received_after: filter.newer.map(age),
            min_size: filter.min_size.unwrap_or(0),
            max_size: filter.max_size.unwrap_or(u64::MAX),
            min_attempts: filter.min_attempts,
            dsn: filter.dsn,
            message_id: filter.message_id.clone(),
        })
    }

    /// What can be said without decoding the message.
    fn may_match(&self, entry: &Entry) -> bool {
        if self.state.is_some_and(|state| state != entry.status) {
            return false;
        }
        let facts = entry.facts();
        self.received_before.is_none_or(|before| facts.received < before)
            && self.received_after.is_none_or(|after| facts.received > after)
            && (self.min_size..=self.max_size).contains(&facts.size)
    }

    fn matches(&self, found: &Found<'_>) -> bool {
        let Found { envelope, state, .. } = found;
        let is_rcpt = |pattern: &Pattern| envelope.recipients.iter().any(|r| pattern.matches_recipient(r));
        self.sender.as_ref().is_none_or(|pattern| pattern.matches_sender(&envelope.reverse_path))
            && self.rcpt.as_ref().is_none_or(is_rcpt)
            && self.rcpt_domain.as_ref().is_none_or(is_rcpt)
            && self.account.as_deref().is_none_or(|wanted| account(envelope) == Some(wanted))
            && self.client_ip.is_none_or(|ip| envelope.client == Some(ip))
            && self.code.as_deref().is_none_or(|code| state.recipients.iter().any(|r| has_code(r, code)))
            && self.min_attempts.is_none_or(|least| state.recipients.iter().any(|r| r.attempts > least))
            && (!self.dsn || envelope.has_null_sender())
            && self.message_id.as_deref().is_none_or(|id| envelope.message_id.as_deref() == Some(id))
    }
}

fn has_code(recipient: &RecipientState, code: &str) -> bool {
    recipient.last.as_ref().is_some_and(|report| {
        report.status.to_string().starts_with(code) || (report.is_reply && report.text.starts_with(code))
    })
}

fn parsed<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, BadFilter>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error| BadFilter(format!("{text:?} is no {what}: {error}")))
}

fn status(text: &str) -> Result<Status, BadFilter> {
    let found = Status::ALL.into_iter().find(|status| status.as_str() == text);
    found.ok_or_else(|| BadFilter(format!("{text:?} is no state: ready, active, deferred or held")))
}

/// Which addresses.
#[derive(Debug, PartialEq, Eq)]
enum Pattern {
    Null,
    Domain(Domain),
    Address(String),
}

impl Pattern {
    /// `<>`, `@domain` or an address.
    fn new(text: &str) -> Result<Self, BadFilter> {
        match text.strip_prefix('@') {
            _ if text == "<>" => Ok(Self::Null),
            Some(domain) => Self::domain(domain),
            None => parsed::<Address>("address", text).map(|address| Self::Address(address.folded())),
        }
    }

    fn domain(text: &str) -> Result<Self, BadFilter> {
        parsed("domain", text).map(Self::Domain)
    }

    fn matches_sender(&self, sender: &ReversePath) -> bool {
        sender.address().map_or(*self == Self::Null, |address| self.matches(address))
    }

    fn matches_recipient(&self, recipient: &Recipient) -> bool {
        self.matches(&recipient.address) || recipient.given.as_ref().is_some_and(|given| self.matches(given))
    }

    fn matches(&self, address: &Address) -> bool {
        match self {
            Self::Null => false,
            Self::Domain(domain) => address.host == Host::Domain(domain.clone()),
            Self::Address(folded) => address.folded() == *folded,
        }
    }
}

fn view(found: &Found<'_>, scheduler: &Scheduler, cx: &Context<'_>) -> MessageView {
    let Found { id, status, envelope, state } = found;
    let expires = retry::expires(&cx.schedule, envelope.received, envelope.has_null_sender());
    let recipients = envelope.recipients.iter().zip(&state.recipients);
    MessageView {
        id: id.to_string(),
        state: status.as_str().to_owned(),
        held: state.held.clone(),
        received: seconds(envelope.received),
        expires: seconds(expires),
        size: envelope.size,
        sender: envelope.reverse_path.to_string(),
        origin: match &envelope.origin {
            Origin::Login(login) => format!("login {login}"),
            Origin::TrustedNetwork(label) => format!("trusted network {label}"),
            Origin::Outsider => "outsider".to_owned(),
            Origin::Own => "own".to_owned(),
        },
        client: envelope.client.map(|ip| ip.to_string()),
        message_id: envelope.message_id.clone(),
        recipients: recipients.map(|(r, s)| recipient_view(r, s, found, scheduler, cx)).collect(),
    }
}

fn recipient_view(
    recipient: &Recipient,
    state: &RecipientState,
    found: &Found<'_>,
    scheduler: &Scheduler,
    cx: &Context<'_>,
) -> RecipientView {
    let is_held = found.state.held.is_some();
    let destination = cx.surroundings.destination(&found.envelope.reverse_path, &recipient.address);
    let shown = match state.phase {
        Phase::Delivered { .. } => "delivered",
        Phase::Failed { .. } => "failed",
        Phase::Waiting { .. } if state.leased => "active",
        Phase::Waiting { .. } if is_held => "held",
        Phase::Waiting { next: None } => "ready",
        Phase::Waiting { next: Some(_) } => "deferred",
    };
    let next = match state.phase {
        Phase::Waiting { next } if !state.leased && !is_held => Some(next.unwrap_or(cx.now)),
        _ => None,
    };
    let rest = scheduler.rest_of(&destination).map(|(until, _)| until);
    let last = state.last.as_ref();
    RecipientView {
        address: recipient.address.to_string(),
        given: recipient.given.as_ref().map(Address::to_string),
        state: shown.to_owned(),
        destination: destination.to_string(),
        attempts: state.attempts,
        last_attempt: last.filter(|_| state.attempts > 0).map(|report| seconds(report.at)),
        next_attempt: next.map(|next| seconds(rest.map_or(next, |rest| rest.max(next)))),
        status: last.map(|report| report.status.to_string()),
        text: last.map(|report| report.text.clone()),
        host: last.and_then(|report| report.host.clone()),
        tls: last.and_then(|report| report.tls.clone()),
    }
}

/// Why a changing verb did nothing.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    /// The filter makes no sense.
    #[error(transparent)]
    Filter(#[from] BadFilter),
    /// The change could not be made durable.
    #[error("the change could not be written")]
    Store(#[source] StoreError),
}

/// Seconds since 1970, as views show times.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
