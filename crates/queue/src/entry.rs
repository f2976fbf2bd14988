//! A queued message in memory: a few hundred octets while it waits, unpacked while something goes on with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use postern_smtp::{Address, EnhancedStatus, Notify, ReversePath};
use tokio::sync::oneshot;

use crate::codec::{Damaged, milliseconds};
use crate::domains::DomainNumber;
use crate::dsn::{Action, Told};
use crate::envelope::{Envelope, Recipient};
use crate::lease::LeasedRecipient;
use crate::message::{Destination, Handover, Outcome, QueueId, Report};
use crate::messages::{Context, Leased, PAUSE};
use crate::reports::{NewReport, Owed};
use crate::retry;
use crate::spool::StoreError;
use crate::state::{Ending, EndingKind, MessageState, Phase, RecipientState, shortened};
use crate::terms::{DeliverBy, Late};
use crate::watch::Watch;

/// The state of a message as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Ready,
    Active,
    Deferred,
    Held,
}

impl Status {
    pub(crate) const ALL: [Self; 4] = [Self::Ready, Self::Active, Self::Deferred, Self::Held];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Active => "active",
            Self::Deferred => "deferred",
            Self::Held => "held",
        }
    }
}

/// Envelope and state of a message as the spool keeps them, in one piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Texts {
    /// Length of the envelope, envelope, state.
    octets: Box<[u8]>,
}

impl Texts {
    const LENGTH: usize = size_of::<u32>();

    /// An empty `state` means that nothing has happened yet.
    pub(crate) fn new(meta: &[u8], state: &[u8]) -> Self {
        let length = u32::try_from(meta.len()).unwrap_or(u32::MAX);
        Self { octets: [&length.to_le_bytes(), meta, state].concat().into_boxed_slice() }
    }

    fn parts(&self) -> (&[u8], &[u8]) {
        let (length, rest) = self.octets.split_first_chunk().unwrap_or((&[0; Self::LENGTH], &[]));
        rest.split_at(rest.len().min(u32::from_le_bytes(*length) as usize))
    }

    fn meta(&self) -> &[u8] {
        self.parts().0
    }

    /// Octets that it takes up.
    fn weight(&self) -> u64 {
        self.octets.len() as u64
    }

    /// Of the state; 0 if there is none.
    fn checksum(&self) -> u32 {
        checksum(self.parts().1)
    }

    /// # Errors
    /// [`Damaged`].
    fn decode(&self) -> Result<(Envelope, MessageState), Damaged> {
        let (meta, state) = self.parts();
        let mut envelope = Envelope::decode(meta)?;
        let recipients = envelope.recipients.len();
        let state = if state.is_empty() {
            MessageState::of(&envelope)
        } else {
            MessageState::decode(state, recipients)?
        };
        state.edits.apply(&mut envelope);
        Ok((envelope, state))
    }
}

/// The checksum of an encoded state; 0 of none.
pub(crate) fn checksum(state: &[u8]) -> u32 {
    crc32c::crc32c(state)
}

/// The credit of a message that something is done with.
const USED: u8 = 1;

/// The credit of a message that was read from the spool: its turn comes soon, and to read it once more costs more than to
/// read another one that is far behind.
const LOADED: u8 = 8;

/// What is known of a message also when it is cold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    /// When it was accepted.
    pub(crate) received: SystemTime,
    /// Octets of its content.
    pub(crate) size: u64,
}

/// Why a message cannot be worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unread {
    /// Its texts are in the spool only: they must be loaded first.
    Cold,
    /// They make no sense. Cannot happen, as what is in memory was read or written by this process.
    Damaged(Damaged),
}

impl From<Damaged> for Unread {
    fn from(damage: Damaged) -> Self {
        Self::Damaged(damage)
    }
}

/// A queued message.
#[derive(Debug)]
pub(crate) struct Entry {
    /// `None`: the message is cold, and only the spool has them. The state in them is out of date while `work` is there.
    texts: Option<Texts>,
    pub(crate) work: Option<Box<Work>>,
    /// Its time among the timers in milliseconds since 1970; 0: none.
    pub(crate) wake: u64,
    /// When it was accepted, in milliseconds since 1970.
    received: u64,
    /// Octets of the content.
    size: u64,
    /// Recipients whose time came within so many milliseconds after that stand in the lines: see [`Work::looked`].
    looked: u32,
    /// The domain of its only recipient, if it has only one: by its number among the domains.
    pub(crate) domain: DomainNumber,
    /// Checksum of the state that the spool has. What is read there is out of date if it has another one.
    saved: u32,
    /// How often [`Entry::cool_in_turn`] passes it over before its texts are left to the spool.
    credit: u8,
    pub(crate) status: Status,
}

/// A message with which something goes on.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) envelope: Arc<Envelope>,
    pub(crate) state: MessageState,
    /// When [`Work::take_due`] looked last, in milliseconds since 1970; 0: not yet.
    looked: u64,
    /// Attempts under way.
    pub(crate) leases: usize,
    /// Whether a change is on its way to the disk. There is one at a time, so that they arrive in order.
    pub(crate) writing: bool,
    /// Whether that change is its deletion: from then on nothing about it can be changed, unless the disk refuses.
    pub(crate) deleting: bool,
    /// Whether the state has changed since it was last handed to the disk.
    pub(crate) dirty: bool,
    /// When the next write is tried after one that failed.
    pub(crate) write_after: Option<SystemTime>,
    /// Whether it is to be removed without telling anybody, when no attempt is under way.
    pub(crate) discarded: bool,
    /// Whether a report is being composed.
    pub(crate) reporting: bool,
    /// A composed report, to be written with the next change.
    pub(crate) report: Option<Box<NewReport>>,
    /// Destinations of settled leases whose slots the next write frees.
    pub(crate) settled: Vec<Destination>,
    /// Who waits for the next write.
    pub(crate) waiters: Vec<Waiter>,
    /// Who looks after attempts under way.
    pub(crate) watches: Vec<Arc<Watch>>,
}

/// Told when a change is durable.
pub(crate) type Waiter = oneshot::Sender<Result<(), Arc<StoreError>>>;

impl Entry {
    /// A message found in the spool or just accepted.
    ///
    /// # Errors
    /// [`Damaged`].
    pub(crate) fn new(texts: Texts) -> Result<Self, Damaged> {
        let (envelope, state) = texts.decode()?;
        let (received, size) = (milliseconds(envelope.received), envelope.size);
        let saved = texts.checksum();
        Ok(Self {
            texts: Some(texts),
            work: Some(Box::new(Work::new(envelope, state, 0))),
            wake: 0,
            received,
            size,
            looked: 0,
            domain: DomainNumber::NONE,
            saved,
            credit: USED,
            status: Status::Ready,
        })
    }

    /// When it was accepted, and how large it is.
    pub(crate) fn facts(&self) -> Facts {
        Facts { received: SystemTime::UNIX_EPOCH + Duration::from_millis(self.received), size: self.size }
    }

    /// Octets of its texts in memory while it waits.
    pub(crate) fn weight(&self) -> u64 {
        self.texts.as_ref().map_or(0, Texts::weight)
    }

    /// Unpacks it, to work on it.
    ///
    /// # Errors
    /// [`Unread`].
    pub(crate) fn work(&mut self) -> Result<&mut Work, Unread> {
        self.credit = self.credit.max(USED);
        if self.work.is_none() {
            let (envelope, state) = self.texts.as_ref().ok_or(Unread::Cold)?.decode()?;
            self.work = Some(Box::new(Work::new(envelope, state, self.looked())));
        }
        self.work.as_deref_mut().ok_or(Unread::Cold)
    }

    /// Reads it, without unpacking it for longer. For a cold one `loaded` is what the spool has.
    ///
    /// # Errors
    /// As [`Entry::work`].
    pub(crate) fn read<R>(
        &self,
        loaded: Option<&Loaded>,
        read: impl FnOnce(&Envelope, &MessageState) -> R,
    ) -> Result<R, Unread> {
        if let Some(work) = &self.work {
            return Ok(read(&work.envelope, &work.state));
        }
        let loaded = loaded.and_then(|loaded| self.accepted(loaded));
        let (envelope, mut state) = self.texts.as_ref().or(loaded).ok_or(Unread::Cold)?.decode()?;
        mark_due(&mut state, self.looked());
        Ok(read(&envelope, &state))
    }

    /// Until when its recipients were looked at, in milliseconds since 1970.
    fn looked(&self) -> u64 {
        if self.looked == 0 { 0 } else { self.received + u64::from(self.looked) }
    }

    /// What was loaded, unless it was changed meanwhile.
    fn accepted<'a>(&self, loaded: &'a Loaded) -> Option<&'a Texts> {
        loaded.texts.as_ref().ok().filter(|texts| texts.checksum() == self.saved)
    }

    /// Packs it if nothing goes on with it.
    pub(crate) fn pack(&mut self) {
        let Some(work) = self.work.take_if(|work| work.is_idle()) else {
            return;
        };
        let Some(texts) = &self.texts else {
            return;
        };
        // The spool has no state of a message with which nothing has happened.
        let is_fresh = self.saved == 0 && work.state.is_fresh(&work.envelope);
        let state = if is_fresh { Vec::new() } else { work.state.encode() };
        if texts.parts().1 != state {
            self.texts = Some(Texts::new(texts.meta(), &state));
        }
        let looked = work.looked.saturating_sub(self.received).max(u64::from(work.looked != 0));
        self.looked = u32::try_from(looked).unwrap_or(u32::MAX);
    }

    /// The clock was put back: when its recipients were looked at says nothing any more.
    pub(crate) fn clock_went_back(&mut self) {
        self.looked = 0;
        if let Some(work) = &mut self.work {
            work.looked = 0;
        }
    }

    /// The state with this checksum is durable.
    pub(crate) fn saved(&mut self, checksum: u32) {
        self.saved = checksum;
    }

    /// Whether its texts are in the spool only.
    pub(crate) fn is_cold(&self) -> bool {
        self.texts.is_none()
    }

    /// Whether [`Entry::read`] has what it needs, or will not get it.
    pub(crate) fn is_readable(&self, loaded: Option<&Loaded>) -> bool {
        let is_final = |loaded: &Loaded| loaded.texts.is_err() || self.accepted(loaded).is_some();
        !self.is_cold() || loaded.is_some_and(is_final)
    }

    /// Leaves its texts to the spool if nothing goes on with it, and the spool has them as they are.
    pub(crate) fn cool(&mut self) {
        let is_saved = || self.texts.as_ref().is_some_and(|texts| texts.checksum() == self.saved);
        if self.work.is_none() && is_saved() {
            self.texts = None;
        }
    }

    /// The same when its credit is used up. What waits for a time or for an operator has none: it will not be used for a
    /// while, whatever happened to it just now.
    pub(crate) fn cool_in_turn(&mut self) {
        if self.credit == 0 || self.waits_long() {
            self.cool();
        }
        self.credit = self.credit.saturating_sub(1);
    }

    /// Whether it waits for a time or for an operator, and not in a line.
    pub(crate) fn waits_long(&self) -> bool {
        matches!(self.status, Status::Deferred | Status::Held)
    }

    /// Takes what was loaded, unless it was changed meanwhile.
    pub(crate) fn warm(&mut self, loaded: &Loaded) {
        if self.is_cold() {
            self.texts = self.accepted(loaded).cloned();
            self.credit = LOADED;
        }
    }

    /// Has other texts than the spool, of a message that cannot be read.
    pub(crate) fn replace(&mut self, texts: Texts) {
        self.texts = Some(texts);
        self.keep();
    }

    /// The spool does not have its texts as they are: they stay in memory until a state is written.
    pub(crate) fn keep(&mut self) {
        self.saved = !self.texts.as_ref().map_or(0, Texts::checksum);
    }
}

/// What the spool has of a message.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    pub(crate) id: QueueId,
    pub(crate) texts: Result<Texts, Arc<StoreError>>,
}

/// Says which recipients stand in the lines: those whose time had come when they were looked at.
fn mark_due(state: &mut MessageState, looked: u64) {
    for recipient in &mut state.recipients {
        recipient.due =
            matches!(recipient.phase, Phase::Waiting { next: Some(next) } if milliseconds(next) <= looked);
    }
}

impl Work {
    fn new(envelope: Envelope, mut state: MessageState, looked: u64) -> Self {
        mark_due(&mut state, looked);
        Self {
            envelope: Arc::new(envelope),
            state,
            looked,
            leases: 0,
            writing: false,
            deleting: false,
            dirty: false,
            write_after: None,
            discarded: false,
            reporting: false,
            report: None,
            settled: Vec::new(),
            waiters: Vec::new(),
            watches: Vec::new(),
        }
    }

    fn is_idle(&self) -> bool {
        let at_rest = self.leases == 0 && !self.writing && !self.dirty && !self.reporting && !self.discarded;
        at_rest && self.report.is_none() && self.settled.is_empty() && self.waiters.is_empty()
    }

    /// Whether a recipient may be leased.
    pub(crate) fn is_ready(&self, index: u32) -> bool {
        !self.discarded && self.state.is_ready(index)
    }

    /// All recipients that may be leased.
    pub(crate) fn ready(&self) -> Vec<u32> {
        (0..self.state.recipients.len() as u32).filter(|index| self.is_ready(*index)).collect()
    }

    /// Takes recipients in hand; `None` if there are none.
    pub(crate) fn lease(
        &mut self,
        id: QueueId,
        destination: &Destination,
        indices: &[u32],
    ) -> Option<Leased> {
        if indices.is_empty() {
            return None;
        }
        self.leases += 1;
        let mut recipients = Vec::with_capacity(indices.len());
        for index in indices.iter().map(|index| *index as usize) {
            let state = &mut self.state.recipients[index];
            state.leased = true;
            let address = self.envelope.recipients[index].address.clone();
            recipients.push(LeasedRecipient { index, address, attempts: state.attempts });
        }
        Some(Leased { id, destination: destination.clone(), envelope: self.envelope.clone(), recipients })
    }

    /// Takes in the outcome of one recipient's attempt.
    pub(crate) fn take_outcome(&mut self, index: usize, outcome: Outcome, cx: &Context<'_>) {
        let expires = self.expires(cx);
        let null_sender = self.envelope.has_null_sender();
        let notify = self.envelope.recipients[index].notify;
        let recipient = &mut self.state.recipients[index];
        recipient.attempts = recipient.attempts.saturating_add(1);
        self.dirty = true;
        match outcome {
            Outcome::Delivered(report, handover) => {
                // Whatever an operator wanted instead: it is there.
                recipient.ending = None;
                let is_told = (notify.success && handover != Handover::Reporting)
                    || (wants_trace(self.envelope.terms.deliver_by, handover) && notify != Notify::NEVER);
                let report_owed = is_told && !null_sender;
                recipient.end(Phase::Delivered { report_owed });
                // Every later outcome writes this state again: what nobody will ask for is not part of it.
                recipient.last = report_owed.then(|| kept(report));
                recipient.is_final = report_owed && handover == Handover::Final;
            }
            Outcome::Failed(report) => {
                // What the other side said tells the sender more than what an operator did.
                recipient.ending.take_if(|ending| ending.kind == EndingKind::Failed);
                self.fail(index, kept(report), false);
                self.count_unreported(1, cx);
            }
            Outcome::Deferred(report, wished) => {
                let wished = wished.filter(|wished| !recipient.wish_granted && retry::is_granted(wished));
                let jitter = rand::random_range(-1.0..=1.0);
                let retry = &cx.schedule.retry;
                let counted = recipient.attempts.saturating_sub(recipient.forgiven).max(1);
                let next = retry::next_attempt(retry, expires, counted, wished, jitter, cx.now);
                recipient.wish_granted |= wished.is_some();
                // Without a next attempt its time is over: `expire` ends it with this evidence. While the clock is in
                // doubt it does not, and the recipient is tried again, but not at once.
                recipient.last = Some(kept(report));
                self.wait(index, next.unwrap_or(cx.now + PAUSE), cx);
            }
        }
    }

    /// Has a recipient wait until a time that lies ahead. It has no place in a line then, also if the clock was put back by a
    /// little since the message was looked at.
    pub(crate) fn wait(&mut self, index: usize, until: SystemTime, cx: &Context<'_>) {
        self.looked = self.looked.min(milliseconds(cx.now).saturating_sub(1));
        self.state.recipients[index].wait_until(Some(until));
        self.dirty = true;
    }

    /// Counts failures of which nobody is told.
    pub(crate) fn count_unreported(&self, failures: usize, cx: &Context<'_>) {
        if self.envelope.has_null_sender() {
            cx.metrics.undeliverable_reports.inc_by(failures as u64);
        }
    }

    /// Whether its last change is a deletion.
    pub(crate) fn is_over(&self) -> bool {
        self.leases == 0 && (self.discarded || self.state.is_over())
    }

    /// Has it removed without telling anybody, as soon as no attempt is under way. Until then it is held: after a crash in
    /// between it must not be delivered.
    pub(crate) fn discard(&mut self) {
        self.discarded = true;
        self.report = None;
        if self.leases > 0 {
            self.state.held = Some("to be removed when the attempt under way has ended".to_owned());
            self.dirty = true;
        }
    }

    /// When its recipients are given up.
    pub(crate) fn expires(&self, cx: &Context<'_>) -> SystemTime {
        self.envelope.expires(&cx.schedule)
    }

    /// The domain of its only recipient; none if it has several, or came by another domain.
    pub(crate) fn only_domain(&self) -> Option<String> {
        let [recipient] = &self.envelope.recipients[..] else {
            return None;
        };
        let came_by = recipient.given.as_ref().map_or(&recipient.address.host, |given| &given.host);
        (*came_by == recipient.address.host).then(|| recipient.address.host.to_string())
    }

    /// The waiting recipients that no attempt has in hand.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = usize> {
        let recipients = self.state.recipients.iter().enumerate();
        recipients.filter(|(_, r)| r.phase.is_waiting() && !r.leased).map(|(index, _)| index)
    }

    /// Gives up the waiting recipients of a message whose time is over, in whatever state it is. Returns them.
    pub(crate) fn expire(&mut self, cx: &Context<'_>) -> Vec<usize> {
        if self.discarded || cx.now < self.expires(cx) {
            return Vec::new();
        }
        // RFC 2852 §4.1: what its sender wants back will not be tried again, by anybody.
        let class = if self.envelope.returns_at().is_some_and(|returns| returns <= cx.now) { 5 } else { 4 };
        let waiting: Vec<usize> = self.waiting().collect();
        for index in &waiting {
            let report = self.last_words(*index, cx);
            let expired = Report { status: EnhancedStatus::new(class, 4, 7), ..report };
            self.fail(*index, expired, true);
        }
        waiting
    }

    /// What is known of why a recipient still waits.
    fn last_words(&self, index: usize, cx: &Context<'_>) -> Report {
        if let Some(report) = &self.state.recipients[index].last {
            return report.clone();
        }
        let text = match &self.state.held {
            Some(reason) => format!("held by this server: {reason}"),
            None => {
                "the mail server of this destination could not be reached, so no attempt was made".to_owned()
            }
        };
        Report {
            status: EnhancedStatus::new(4, 4, 1),
            text,
            is_reply: false,
            host: None,
            tls: None,
            at: cx.now,
        }
    }

    /// Ends a recipient; a report is owed unless nobody wants one.
    pub(crate) fn fail(&mut self, index: usize, report: Report, expired: bool) {
        let wanted = self.envelope.recipients[index].notify.failure && !self.envelope.has_null_sender();
        let recipient = &mut self.state.recipients[index];
        recipient.end(Phase::Failed { expired, report_owed: wanted });
        recipient.last = Some(report);
        self.dirty = true;
    }

    /// Ends a recipient as an operator wants it: at once, or, while an attempt has it in hand, when that has ended without
    /// delivery.
    pub(crate) fn end(&mut self, index: usize, ending: Ending) {
        self.dirty = true;
        let recipient = &mut self.state.recipients[index];
        if recipient.leased {
            recipient.ending = Some(Box::new(ending));
            return;
        }
        let Ending { kind, report } = ending;
        if recipient.phase.is_waiting() {
            recipient.last = Some(kept(report.clone()));
        }
        match kind {
            EndingKind::Failed => self.fail(index, kept(report), false),
            EndingKind::Dropped => recipient.end(SILENT),
            EndingKind::Delivered => recipient.end(Phase::Delivered { report_owed: false }),
            EndingKind::Replaced => {
                recipient.end(SILENT);
                recipient.replaced = true;
            }
        }
    }

    /// Whether an operator has ended a recipient that nobody has in hand any more.
    pub(crate) fn has_marked(&self) -> bool {
        self.state.recipients.iter().any(|recipient| !recipient.leased && recipient.ending.is_some())
    }

    /// Ends the recipients that an operator ended while they were being delivered, and that were not. Returns them by how
    /// they ended, and why.
    pub(crate) fn end_marked(&mut self) -> BTreeMap<(EndingKind, String), Vec<usize>> {
        let mut ended: BTreeMap<(EndingKind, String), Vec<usize>> = BTreeMap::new();
        for index in 0..self.state.recipients.len() {
            let recipient = &mut self.state.recipients[index];
            if !recipient.leased
                && let Some(ending) = recipient.ending.take()
            {
                ended.entry((ending.kind, ending.report.text.clone())).or_default().push(index);
                self.end(index, *ending);
            }
        }
        ended
    }

    /// Gives the message another sender.
    pub(crate) fn set_sender(&mut self, sender: ReversePath) {
        self.state.edits.sender = Some(sender.clone());
        let envelope = Arc::make_mut(&mut self.envelope);
        envelope.smtputf8 |= sender.address().is_some_and(Address::needs_utf8);
        envelope.reverse_path = sender;
        self.dirty = true;
    }

    /// Gives the message another priority.
    pub(crate) fn set_priority(&mut self, priority: i8) {
        self.state.edits.priority = Some(priority);
        Arc::make_mut(&mut self.envelope).priority = priority;
        self.dirty = true;
    }

    /// Adds a recipient; answers its index.
    pub(crate) fn add_recipient(&mut self, recipient: Recipient) -> usize {
        self.state.edits.added.push(recipient.clone());
        self.state.recipients.push(RecipientState::default());
        let envelope = Arc::make_mut(&mut self.envelope);
        envelope.smtputf8 |= recipient.address.needs_utf8();
        envelope.recipients.push(recipient);
        self.dirty = true;
        envelope.recipients.len() - 1
    }

    /// Gives a recipient a route of its own, or takes it away.
    pub(crate) fn set_route(&mut self, index: usize, via: Option<Arc<str>>) {
        if self.envelope.recipients[index].via == via {
            return;
        }
        match &via {
            Some(via) => self.state.edits.routes.insert(index as u32, via.clone()),
            None => self.state.edits.routes.remove(&(index as u32)),
        };
        Arc::make_mut(&mut self.envelope).recipients[index].via = via;
        self.dirty = true;
    }

    /// Ends the hold. What waits is due then, and in line at once or from a time on.
    pub(crate) fn release(&mut self, next: Option<SystemTime>) {
        self.state.held = None;
        self.state.held_until = None;
        self.state.strikes = 0;
        self.dirty = true;
        let waiting: Vec<usize> = self.waiting().collect();
        for index in waiting {
            self.state.recipients[index].wait_until(next);
        }
    }

    /// Ends a hold whose time is over. Returns whether there was one.
    pub(crate) fn end_hold(&mut self, cx: &Context<'_>) -> bool {
        let is_over = self.state.held_until.is_some_and(|until| until <= cx.now);
        if is_over && !self.discarded {
            // Not in line before that is durable: what is due by its time is put there then.
            self.release(Some(self.envelope.starts().max(cx.now)));
        }
        is_over && !self.discarded
    }

    /// Looks after the attempts at some recipients that are in hand.
    pub(crate) fn watch(&mut self, indices: Vec<usize>) -> Arc<Watch> {
        let watch = Arc::new(Watch::new(indices));
        self.watches.retain(|watch| Arc::strong_count(watch) > 1);
        self.watches.push(watch.clone());
        watch
    }

    /// The attempts at these recipients have ended.
    pub(crate) fn tell_watches(&self, indices: &[usize]) {
        for index in indices {
            let is_delivered = matches!(self.state.recipients[*index].phase, Phase::Delivered { .. });
            self.watches.iter().for_each(|watch| watch.ended(*index, is_delivered));
        }
    }

    /// Makes the waiting recipients ready whose time has come. Returns them.
    pub(crate) fn take_due(&mut self, cx: &Context<'_>) -> Vec<u32> {
        let mut due = Vec::new();
        if self.state.held.is_some() || self.discarded {
            return due;
        }
        let horizon = (cx.now + retry::horizon(&cx.schedule.retry)).max(self.envelope.starts());
        let horizon = milliseconds(horizon);
        self.looked = milliseconds(cx.now);
        for (index, recipient) in self.state.recipients.iter_mut().enumerate() {
            let Phase::Waiting { next: Some(next) } = recipient.phase else {
                continue;
            };
            let next = milliseconds(next);
            if recipient.leased || recipient.due {
                continue;
            }
            if next <= self.looked {
                recipient.due = true;
                due.push(index as u32);
            } else if next > horizon {
                // Set by a clock that was wrong.
                recipient.wait_until(None);
                self.dirty = true;
                due.push(index as u32);
            }
        }
        due
    }

    /// When something must be done without anybody asking: an attempt, a notice of delay, the end of the lifetime.
    pub(crate) fn wake(&self, cx: &Context<'_>) -> Option<SystemTime> {
        if self.discarded {
            return None;
        }
        self.waiting().next()?;
        let mut wake = self.expires(cx);
        if self.state.held.is_none() {
            let next = self.waiting().filter_map(|index| match &self.state.recipients[index] {
                RecipientState { phase: Phase::Waiting { next }, due: false, .. } => *next,
                _ => None,
            });
            wake = next.fold(wake, SystemTime::min);
        } else if let Some(until) = self.state.held_until {
            wake = wake.min(until);
        }
        // A notice that is due already waits for the end of the attempts under way, and that end comes by itself.
        let notice = self.delay_notice_due(cx).filter(|due| *due > cx.now);
        Some(notice.map_or(wake, |notice| wake.min(notice)))
    }

    /// When the sender is told of a delay, if he still is to be told.
    fn delay_notice_due(&self, cx: &Context<'_>) -> Option<SystemTime> {
        let after = cx.schedule.delay_notice;
        let late = self.envelope.tells_late_at();
        if (after.is_zero() && late.is_none())
            || self.state.delay_told
            || self.state.held.is_some()
            || self.envelope.has_null_sender()
        {
            return None;
        }
        self.waiting().find(|index| self.envelope.recipients[*index].notify.delay)?;
        // Once: at the time that the sender has named, or at ours.
        Some(late.unwrap_or(self.envelope.starts() + after))
    }

    /// Whether a report must be written now. It waits for attempts under way: one report collects what they end with.
    pub(crate) fn wants_report(&self, cx: &Context<'_>) -> bool {
        let owed = self.state.recipients.iter().any(|r| r.phase.owes_report());
        let delayed = self.delay_notice_due(cx).is_some_and(|due| due <= cx.now);
        self.leases == 0 && !self.reporting && self.report.is_none() && (owed || delayed)
    }

    /// What the report tells that is wanted now.
    pub(crate) fn owed(&self, cx: &Context<'_>) -> Owed {
        let delayed = self.delay_notice_due(cx).is_some_and(|due| due <= cx.now);
        let mut owed = Owed {
            envelope: self.envelope.clone(),
            indices: Vec::new(),
            told: Vec::new(),
            tells_delay: delayed,
        };
        for (index, state) in self.state.recipients.iter().enumerate() {
            let recipient = &self.envelope.recipients[index];
            let (action, expired) = match state.phase {
                Phase::Failed { expired, report_owed: true } => (Action::Failed, expired),
                Phase::Delivered { report_owed: true } if recipient.expanded => (Action::Expanded, false),
                Phase::Delivered { report_owed: true } if state.is_final => (Action::Delivered, false),
                Phase::Delivered { report_owed: true } => (Action::Relayed, false),
                Phase::Waiting { .. } if delayed && recipient.notify.delay => (Action::Delayed, false),
                _ => continue,
            };
            let attempted = state.attempts > 0;
            let report = match action {
                Action::Expanded => expanded(self.envelope.received),
                _ => self.last_words(index, cx),
            };
            // A delay is told, not owed: what such a recipient comes to owe meanwhile is told by another report.
            if state.phase.owes_report() {
                owed.indices.push(index as u32);
            }
            owed.told.push(Told { recipient: recipient.clone(), action, report, expired, attempted });
        }
        owed
    }

    /// The status of the message as a whole.
    pub(crate) fn status(&self) -> Status {
        if self.leases > 0 {
            return Status::Active;
        }
        if self.state.held.is_some() {
            return Status::Held;
        }
        let mut status = Status::Active;
        for index in self.waiting() {
            if self.state.recipients[index].is_due() {
                return Status::Ready;
            }
            status = Status::Deferred;
        }
        status
    }
}

/// Whether the sender of a message with a time wants to hear that a host has taken it: of each, or of one that may not know of
/// the time any more (RFC 2852 §4.1).
fn wants_trace(by: Option<DeliverBy>, handover: Handover) -> bool {
    by.is_some_and(|by| match handover {
        Handover::Final => false,
        Handover::Relayed => by.trace || by.late == Late::Notify,
        Handover::Reporting => by.trace,
    })
}

/// The evidence that an alias was expanded.
fn expanded(at: SystemTime) -> Report {
    let text = "the address stands for several recipients, and the message goes to each of them".to_owned();
    Report { status: EnhancedStatus::new(2, 0, 0), text, is_reply: false, host: None, tls: None, at }
}

/// The phase of a recipient that ended without delivery and without a word to anybody.
const SILENT: Phase = Phase::Failed { expired: false, report_owed: false };

/// The evidence as it is kept.
fn kept(report: Report) -> Report {
    Report { text: shortened(&report.text).to_owned(), ..report }
}
