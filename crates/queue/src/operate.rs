//! The verbs of operators: list, count, shape, show, hold, release, retry, fail, drop. Which messages they take says the
//! [`Filter`].

use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use postern_smtp::{Address, EnhancedStatus};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::codec::milliseconds;
use crate::entry::{Entry, Status, Work};
use crate::envelope::{Envelope, Origin, Recipient};
pub use crate::filter::{BadFilter, Filter, HeaderPattern, RecipientPick};
use crate::filter::{Found, Matcher};
use crate::message::{Destination, QueueId, Report};
use crate::messages::{Context, Effects, Messages};
use crate::state::{MessageState, Phase, RecipientState};
use crate::store::StoreError;
use crate::{Content, Inner, Queue, retry};

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
    /// Until when the destination rests, in seconds since 1970: only where destinations are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rests_until: Option<u64>,
}

/// What messages are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupBy {
    /// Recipient domain.
    Domain,
    /// The destination that recipients wait for: MX group, smarthost, mailbox.
    #[serde(alias = "mx")]
    Destination,
    /// Envelope sender.
    Sender,
    /// Domain of the envelope sender.
    SenderDomain,
    /// Login.
    Account,
    /// The client's address.
    Client,
    /// Last enhanced code.
    Code,
    /// State.
    State,
}

/// Some messages of a list, and where it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The messages, in order.
    pub messages: Vec<MessageView>,
    /// Behind the last of them, if more match.
    pub next: Option<Cursor>,
    /// How many messages were looked at to find these.
    pub examined: usize,
}

/// A place in a list: behind the message that stood last on a page. It holds for the order it was made in. A list by age
/// misses and repeats nothing; in another order a message can move while the list is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    key: u64,
    id: QueueId,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", QueueId(self.key), self.id)
    }
}

impl FromStr for Cursor {
    type Err = BadFilter;

    fn from_str(text: &str) -> Result<Self, BadFilter> {
        let parts = text.split_once('-').and_then(|(key, id)| Some((key.parse().ok()?, id.parse().ok()?)));
        let (QueueId(key), id) = parts.ok_or_else(|| {
            BadFilter(format!("{text:?} is no cursor: take the one that the page before gave"))
        })?;
        Ok(Self { key, id })
    }
}

/// How old the messages of each domain are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// The upper ends of the columns, in seconds. A last column without an end follows.
    pub buckets: Vec<u64>,
    /// All messages, each counted once, by column.
    pub total: Vec<usize>,
    /// The domains with the most messages first.
    pub rows: Vec<ShapeRow>,
    /// Domains that were left out.
    pub omitted: usize,
}

/// The messages of one domain by age.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShapeRow {
    /// The domain.
    pub key: String,
    /// Messages by column.
    pub messages: Vec<usize>,
}

/// Which domains a [`Shape`] has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShapeBy {
    /// Those of the recipients.
    #[default]
    Recipient,
    /// Those of the senders.
    Sender,
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

impl Queue {
    /// Messages that match, in order, at most `limit`, from `after` on. Blocking if the filter asks for a header, and long
    /// in a large queue unless the order is by age.
    ///
    /// # Errors
    /// [`BadFilter`].
    pub fn list(
        &self,
        filter: &Filter,
        sort: Sort,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Page, BadFilter> {
        let matcher = Matcher::new(filter, self.inner.clock.now())?;
        // One more than asked for says whether there are more.
        let wanted = limit.saturating_add(1);
        let (mut places, examined) = match sort {
            Sort::Age => self.inner.first_by_age(&matcher, after, wanted)?,
            _ => self.inner.first_by_key(&matcher, sort, after, wanted)?,
        };
        let has_more = places.len() > limit;
        places.truncate(limit);
        let next = places.last().copied().filter(|_| has_more);
        let messages = places.iter().filter_map(|place| self.show(place.id)).collect();
        Ok(Page { messages, next, examined })
    }

    /// The ids of all messages that match, by age: for the verbs that change them. Blocking, as [`Queue::list`].
    ///
    /// # Errors
    /// [`BadFilter`].
    pub fn select(&self, filter: &Filter) -> Result<Vec<QueueId>, BadFilter> {
        let matcher = Matcher::new(filter, self.inner.clock.now())?;
        let mut ids = Vec::new();
        self.inner.scan(&matcher, QueueId(0), |found| {
            ids.push(found.id);
            true
        })?;
        Ok(ids)
    }

    /// Counts the messages that match, by group. Blocking, as [`Queue::list`].
    ///
    /// # Errors
    /// [`BadFilter`].
    pub fn count(&self, filter: &Filter, by: GroupBy) -> Result<Vec<Group>, BadFilter> {
        let matcher = Matcher::new(filter, self.inner.clock.now())?;
        let mut groups: BTreeMap<String, Group> = BTreeMap::new();
        self.inner.scan(&matcher, QueueId(0), |found| {
            for (key, recipients) in keys(found, by) {
                let new =
                    || Group { key: key.clone(), messages: 0, recipients: 0, octets: 0, rests_until: None };
                let group = groups.entry(key.clone()).or_insert_with(new);
                group.messages += 1;
                group.recipients += recipients;
                group.octets += found.envelope.size;
            }
            true
        })?;
        let mut groups: Vec<Group> = groups.into_values().collect();
        groups.sort_by(|a, b| b.messages.cmp(&a.messages).then_with(|| a.key.cmp(&b.key)));
        if by == GroupBy::Destination {
            let messages = self.inner.messages.lock();
            for group in &mut groups {
                let rest = messages.scheduler.rest_of(&Destination(group.key.as_str().into()));
                group.rests_until = rest.map(|(until, _)| seconds(until));
            }
        }
        Ok(groups)
    }

    /// Counts the messages that match by domain and age, the `limit` largest domains. A message with recipients in several
    /// domains counts in each. `buckets` are the upper ends of the columns in seconds. Blocking, as [`Queue::list`].
    ///
    /// # Errors
    /// [`BadFilter`], also for buckets that do not grow.
    pub fn shape(
        &self,
        filter: &Filter,
        by: ShapeBy,
        buckets: &[u64],
        limit: usize,
    ) -> Result<Shape, BadFilter> {
        if buckets.is_empty() || buckets.len() > MAX_BUCKETS || !buckets.is_sorted_by(|a, b| a < b) {
            return Err(BadFilter(format!("buckets: 1 to {MAX_BUCKETS} ages, each above the one before")));
        }
        let now = self.inner.clock.now();
        let matcher = Matcher::new(filter, now)?;
        let by = if by == ShapeBy::Sender { GroupBy::SenderDomain } else { GroupBy::Domain };
        let mut total = vec![0; buckets.len() + 1];
        let mut rows: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        self.inner.scan(&matcher, QueueId(0), |found| {
            let age = now.duration_since(found.envelope.received).unwrap_or_default().as_secs();
            let column = buckets.partition_point(|end| *end <= age);
            total[column] += 1;
            for (key, _) in keys(found, by) {
                rows.entry(key).or_insert_with(|| vec![0; buckets.len() + 1])[column] += 1;
            }
            true
        })?;
        let mut rows: Vec<ShapeRow> =
            rows.into_iter().map(|(key, messages)| ShapeRow { key, messages }).collect();
        // Stable: equal ones stay in the order of their names.
        rows.sort_by_key(|row| std::cmp::Reverse(row.messages.iter().sum::<usize>()));
        let omitted = rows.len().saturating_sub(limit);
        rows.truncate(limit);
        Ok(Shape { buckets: buckets.to_vec(), total, rows, omitted })
    }

    /// One message.
    pub fn show(&self, id: QueueId) -> Option<MessageView> {
        let cx = self.inner.context();
        let messages = self.inner.messages.lock();
        let entry = messages.entry(id)?;
        let scheduler = &messages.scheduler;
        let view = |envelope: &Envelope, state: &MessageState| {
            view(&Found { id, status: entry.status, envelope, state, scheduler, cx: &cx })
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
        self.inner.metrics.update_spool(&self.inner.store.figures());
    }

    /// Keeps messages back until they are released. They still expire. Survives a restart. For those that are being
    /// delivered it waits up to `wait`.
    ///
    /// # Errors
    /// [`OperateError`].
    pub async fn hold(&self, ids: &[QueueId], reason: &str, wait: Duration) -> Result<Change, OperateError> {
        let hold = |work: &mut Work| {
            not_in_flight(work)?;
            if work.state.held.is_some() {
                return Err("already held");
            }
            if work.waiting().next().is_none() {
                return Err("nothing waits");
            }
            work.state.held = Some(reason.to_owned());
            work.dirty = true;
            Ok(Vec::new())
        };
        let is_held = |now: Seen<'_>| now.is_some_and(|(_, state)| state.held.is_some());
        self.change(ids, Rests::Stay, wait, hold, is_held).await
    }

    /// Ends a hold; the messages are due at once.
    ///
    /// # Errors
    /// [`OperateError`].
    pub async fn release(&self, ids: &[QueueId]) -> Result<Change, OperateError> {
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
        let is_free = |now: Seen<'_>| now.is_none_or(|(_, state)| state.held.is_none());
        self.change(ids, Rests::Stay, Duration::ZERO, release, is_free).await
    }

    /// Makes waiting recipients due, spread over `spread`, and ends the rest of their destinations.
    ///
    /// # Errors
    /// [`OperateError`].
    pub async fn retry(&self, ids: &[QueueId], spread: Duration) -> Result<Change, OperateError> {
        let now = self.inner.clock.now();
        let retry = |work: &mut Work| {
            if work.state.held.is_some() {
                return Err("held");
            }
            if work.waiting().next().is_none() {
                return Err(if work.leases > 0 { IN_FLIGHT } else { "nothing waits" });
            }
            // What stands in line already was kept back by the rest of its destination alone.
            let at = (!spread.is_zero()).then(|| now + spread.mul_f64(rand::random()));
            Ok(make_due(work, at))
        };
        self.change(ids, Rests::End, Duration::ZERO, retry, |_| true).await
    }

    /// Ends the recipients that are picked with a report to the sender that gives the reason. For messages that are being
    /// delivered it waits up to `wait`.
    ///
    /// # Errors
    /// [`OperateError`].
    pub async fn fail(
        &self,
        ids: &[QueueId],
        pick: &RecipientPick,
        reason: &str,
        wait: Duration,
    ) -> Result<Change, OperateError> {
        let report = self.administrative(reason);
        let fail = |work: &mut Work| {
            not_in_flight(work)?;
            for index in picked(work, pick)? {
                work.fail(index, report.clone(), false);
            }
            Ok(Vec::new())
        };
        self.change(ids, Rests::Stay, wait, fail, |now| have_ended(now, pick)).await
    }

    /// Ends the recipients that are picked without telling anybody; a message without others is removed. For messages that
    /// are being delivered it waits up to `wait`.
    ///
    /// # Errors
    /// [`OperateError`].
    pub async fn remove(
        &self,
        ids: &[QueueId],
        pick: &RecipientPick,
        wait: Duration,
    ) -> Result<Change, OperateError> {
        let report = self.administrative("dropped by an administrator");
        let remove = |work: &mut Work| {
            not_in_flight(work)?;
            let ended = picked(work, pick);
            if work.envelope.recipients.iter().all(|recipient| pick.takes(recipient)) {
                work.discard();
                return Ok(Vec::new());
            }
            for index in ended? {
                work.fail(index, report.clone(), false);
                work.state.recipients[index].phase = Phase::Failed { expired: false, report_owed: false };
            }
            Ok(Vec::new())
        };
        self.change(ids, Rests::Stay, wait, remove, |now| have_ended(now, pick)).await
    }

    fn administrative(&self, reason: &str) -> Report {
        Report {
            status: ADMINISTRATIVE,
            text: reason.to_owned(),
            is_reply: false,
            host: None,
            tls: None,
            at: self.inner.clock.now(),
        }
    }

    /// Changes messages, and comes back to those in flight whenever a lease has ended, until `wait` is over.
    async fn change(
        &self,
        ids: &[QueueId],
        rests: Rests,
        wait: Duration,
        verb: impl Fn(&mut Work) -> Result<Vec<u32>, &'static str> + Sync,
        is_changed: impl Fn(Seen<'_>) -> bool + Sync,
    ) -> Result<Change, OperateError> {
        let deadline = Instant::now() + wait.min(MAX_WAIT);
        let mut change = Change { matched: ids.len(), ..Change::default() };
        let mut open = ids.to_vec();
        loop {
            // From here on no end of a lease is missed.
            let lease_ended = self.inner.lease_ended.notified();
            open = self.change_once(&open, rests, &verb, &is_changed, &mut change).await?;
            if open.is_empty() || wait.is_zero() || timeout_at(deadline, lease_ended).await.is_err() {
                let in_flight = |id: QueueId| (id.to_string(), IN_FLIGHT.to_owned());
                change.skipped.extend(open.into_iter().map(in_flight));
                return Ok(change);
            }
        }
    }

    /// Changes some hundred messages at a time, waits until each change is durable, and looks again whether it is there.
    /// Returns the messages that are being delivered.
    async fn change_once(
        &self,
        ids: &[QueueId],
        rests: Rests,
        verb: &(impl Fn(&mut Work) -> Result<Vec<u32>, &'static str> + Sync),
        is_changed: &(impl Fn(Seen<'_>) -> bool + Sync),
        change: &mut Change,
    ) -> Result<Vec<QueueId>, OperateError> {
        let mut in_flight = Vec::new();
        for step in ids.chunks(STEP) {
            let mut begun = Vec::with_capacity(step.len());
            self.inner.with(|messages, cx, fx| {
                for id in step {
                    match begin(messages, *id, rests, cx, fx, verb) {
                        Ok(durable) => begun.push((*id, durable)),
                        Err(IN_FLIGHT) => in_flight.push(*id),
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
                    None if self.inner.check(id, is_changed) => change.changed += 1,
                    None => change.skipped.push((id.to_string(), "changed again".to_owned())),
                }
            }
        }
        Ok(in_flight)
    }
}

/// The waiting recipients that a verb ends.
fn picked(work: &Work, pick: &RecipientPick) -> Result<Vec<usize>, &'static str> {
    let recipients = &work.envelope.recipients;
    let picked: Vec<usize> = work.waiting().filter(|index| pick.takes(&recipients[*index])).collect();
    if picked.is_empty() { Err("nothing waits") } else { Ok(picked) }
}

/// A message as it is when a change is read back; none if it is gone.
type Seen<'a> = Option<(&'a Envelope, &'a MessageState)>;

/// Whether none of the picked recipients waits any more.
fn have_ended(now: Seen<'_>, pick: &RecipientPick) -> bool {
    now.is_none_or(|(envelope, state)| {
        let mut recipients = envelope.recipients.iter().zip(&state.recipients);
        recipients.all(|(recipient, state)| !pick.takes(recipient) || !state.phase.is_waiting())
    })
}

impl Inner {
    fn check(&self, id: QueueId, is_changed: impl Fn(Seen<'_>) -> bool) -> bool {
        let messages = self.messages.lock();
        match messages.entry(id) {
            Some(entry) => entry.read(|envelope, state| is_changed(Some((envelope, state)))).unwrap_or(false),
            None => is_changed(None),
        }
    }

    /// The first messages by age, and how many were looked at.
    fn first_by_age(
        &self,
        matcher: &Matcher,
        after: Option<Cursor>,
        wanted: usize,
    ) -> Result<(Vec<Cursor>, usize), BadFilter> {
        let mut places = Vec::new();
        let from = QueueId(after.map_or(0, |after| after.id.0.saturating_add(1)));
        let examined = self.scan(matcher, from, |found| {
            places.push(Cursor { key: found.id.0, id: found.id });
            places.len() < wanted
        })?;
        Ok((places, examined))
    }

    /// The first messages in another order: all are looked at, and no more than are wanted are kept.
    fn first_by_key(
        &self,
        matcher: &Matcher,
        sort: Sort,
        after: Option<Cursor>,
        wanted: usize,
    ) -> Result<(Vec<Cursor>, usize), BadFilter> {
        // The last of those kept is on top, and gives way to what comes before it.
        let mut first: BinaryHeap<Cursor> = BinaryHeap::new();
        let examined = self.scan(matcher, QueueId(0), |found| {
            let place = Cursor { key: sort_key(found, sort), id: found.id };
            if after.is_none_or(|after| place > after) {
                first.push(place);
                if first.len() > wanted {
                    first.pop();
                }
            }
            true
        })?;
        Ok((first.into_sorted_vec(), examined))
    }

    /// Shows what matches, by age, from an id on, until `visit` has seen enough. Others get at the queue in between, and
    /// headers are read while they do. Returns how many messages were looked at.
    pub(crate) fn scan(
        &self,
        matcher: &Matcher,
        from: QueueId,
        mut visit: impl FnMut(&Found<'_>) -> bool,
    ) -> Result<usize, BadFilter> {
        let (mut examined, mut headers) = (0, 0);
        let mut next = Some(from);
        while let Some(from) = next {
            let cx = self.context();
            let messages = self.messages.lock();
            let (entries, behind) = step(&messages, matcher.ids(), from);
            next = behind;
            if !matcher.wants_header() {
                if !visit_all(entries, &messages, &cx, matcher, &mut examined, &mut visit) {
                    break;
                }
                continue;
            }
            let mut passing = Vec::new();
            visit_all(entries, &messages, &cx, matcher, &mut examined, |found| {
                passing.push(found.id);
                true
            });
            drop(messages);
            headers += passing.len();
            if headers > MAX_HEADERS {
                let error =
                    format!("the header of more than {MAX_HEADERS} messages would be read: add conditions");
                return Err(BadFilter(error));
            }
            passing.retain(|id| self.matches_header(*id, matcher));
            let messages = self.messages.lock();
            let entries = passing.iter().filter_map(|id| Some((*id, messages.entry(*id)?)));
            // They were counted already.
            if !visit_all(entries, &messages, &cx, matcher, &mut 0, &mut visit) {
                break;
            }
        }
        Ok(examined)
    }

    /// Reads the header of a message from the spool. One that cannot be read matches nothing, not even a negation.
    fn matches_header(&self, id: QueueId, matcher: &Matcher) -> bool {
        match self.header(id) {
            Ok(header) => matcher.matches_header(&header),
            // It has ended meanwhile.
            Err(StoreError::NoMessage(_)) => false,
            Err(error) => {
                tracing::warn!(id = %id, %error, "a header could not be read for a filter");
                false
            }
        }
    }

    /// The beginning of a message: its header, at most [`MAX_HEADER`] octets of it and something of what follows.
    fn header(&self, id: QueueId) -> Result<Vec<u8>, StoreError> {
        let mut body = self.store.read(id)?;
        let mut header = Vec::new();
        while header.len() < MAX_HEADER && !header.windows(4).any(|window| window == b"\r\n\r\n") {
            let Some(piece) = body.next()? else {
                break;
            };
            header.extend_from_slice(&piece);
        }
        Ok(header)
    }
}

type Entries<'a> = Box<dyn Iterator<Item = (QueueId, &'a Entry)> + 'a>;

/// The next messages to look at, and with which id the ones after them begin.
fn step<'a>(
    messages: &'a Messages,
    ids: Option<&'a [QueueId]>,
    from: QueueId,
) -> (Entries<'a>, Option<QueueId>) {
    let Some(ids) = ids else {
        let next = messages.from(from).nth(STEP).map(|(id, _)| id);
        return (Box::new(messages.from(from).take(STEP)), next);
    };
    let ids = &ids[ids.partition_point(|id| *id < from)..];
    let (now, later) = ids.split_at(ids.len().min(STEP));
    (Box::new(now.iter().filter_map(|id| Some((*id, messages.entry(*id)?)))), later.first().copied())
}

fn visit_all<'a>(
    entries: impl Iterator<Item = (QueueId, &'a Entry)>,
    messages: &Messages,
    cx: &Context<'_>,
    matcher: &Matcher,
    examined: &mut usize,
    mut visit: impl FnMut(&Found<'_>) -> bool,
) -> bool {
    for (id, entry) in entries {
        *examined += 1;
        if !matcher.may_match(entry) {
            continue;
        }
        let seen = entry.read(|envelope, state| {
            let scheduler = &messages.scheduler;
            let found = Found { id, status: entry.status, envelope, state, scheduler, cx };
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

/// Headers that one request reads at most.
const MAX_HEADERS: usize = 100_000;

/// Octets of a header that are read.
const MAX_HEADER: usize = 256 * 1024;

/// Columns of a [`Shape`].
const MAX_BUCKETS: usize = 32;

/// For the end of an attempt at most.
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// Why a message that is being delivered is left alone.
const IN_FLIGHT: &str = "in-flight";

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
    if work.leases > 0 { Err(IN_FLIGHT) } else { Ok(()) }
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
        GroupBy::Destination => {
            let waiting = (0..envelope.recipients.len())
                .filter(|index| found.state.recipients[*index].phase.is_waiting());
            each(&mut waiting.filter_map(|index| found.destination(index)).map(|to| to.to_string()))
        }
        GroupBy::Code => {
            each(&mut found.state.recipients.iter().map(|r| {
                r.last.as_ref().map_or_else(|| "none".to_owned(), |report| report.status.to_string())
            }))
        }
        GroupBy::Sender => {
            all(envelope.reverse_path.address().map_or_else(|| "<>".to_owned(), Address::folded))
        }
        GroupBy::SenderDomain => {
            let domain = envelope.reverse_path.address().map(|address| address.host.to_string());
            all(domain.unwrap_or_else(|| "<>".to_owned()))
        }
        GroupBy::Account => all(found.account().unwrap_or("none").to_owned()),
        GroupBy::Client => all(envelope.client.map_or_else(|| "none".to_owned(), |ip| ip.to_string())),
        GroupBy::State => all(found.status.as_str().to_owned()),
    }
}

fn view(found: &Found<'_>) -> MessageView {
    let Found { id, status, envelope, state, cx, .. } = found;
    let expires = retry::expires(&cx.schedule, envelope.received, envelope.has_null_sender());
    let recipients = envelope.recipients.iter().zip(&state.recipients).enumerate();
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
        recipients: recipients.map(|(index, (r, s))| recipient_view(index, r, s, found)).collect(),
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
        Phase::Waiting { next: None } => "ready",
        Phase::Waiting { next: Some(_) } => "deferred",
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
    }
}

/// Why a changing verb did nothing.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    /// The change could not be made durable.
    #[error("the change could not be written")]
    Store(#[source] StoreError),
}

/// Seconds since 1970, as views show times.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
