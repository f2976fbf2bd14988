//! A queued message in memory: a few hundred octets while it waits, unpacked while something goes on with it.

use std::sync::Arc;
use std::time::SystemTime;

use postern_smtp::EnhancedStatus;
use tokio::sync::oneshot;

use crate::codec::Damaged;
use crate::dsn::{Action, Told};
use crate::envelope::{Envelope, Facts};
use crate::lease::LeasedRecipient;
use crate::message::{Destination, Outcome, QueueId, Report};
use crate::messages::{Context, Leased, PAUSE};
use crate::reports::{NewReport, Owed};
use crate::retry;
use crate::state::{MessageState, Phase, shortened};
use crate::store::StoreError;

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

/// A queued message.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The encoded envelope.
    meta: Box<[u8]>,
    /// The encoded state; empty while nothing has happened. Out of date while `work` is there.
    state: Box<[u8]>,
    pub(crate) work: Option<Box<Work>>,
    /// Its time among the timers in milliseconds since 1970; 0: none.
    pub(crate) wake: u64,
    pub(crate) status: Status,
}

/// A message with which something goes on.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) envelope: Arc<Envelope>,
    pub(crate) state: MessageState,
    /// Attempts under way.
    pub(crate) leases: usize,
    /// Whether a change is on its way to the disk. There is one at a time, so that they arrive in order.
    pub(crate) writing: bool,
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
}

/// Told when a change is durable.
pub(crate) type Waiter = oneshot::Sender<Result<(), Arc<StoreError>>>;

impl Entry {
    /// A message found in the spool or just accepted; an empty `state` means that nothing has happened yet.
    ///
    /// # Errors
    /// [`Damaged`].
    pub(crate) fn new(meta: &[u8], state: &[u8]) -> Result<Self, Damaged> {
        let (envelope, decoded) = decode(meta, state)?;
        let work = Some(Box::new(Work::new(envelope, decoded)));
        Ok(Self { meta: meta.into(), state: state.into(), work, wake: 0, status: Status::Ready })
    }

    pub(crate) fn facts(&self) -> Facts {
        Facts::read(&self.meta)
    }

    /// Octets that it holds in memory while it waits.
    pub(crate) fn weight(&self) -> u64 {
        (self.meta.len() + self.state.len()) as u64
    }

    /// Unpacks it, to work on it.
    ///
    /// # Errors
    /// [`Damaged`]: cannot happen, as what is packed was read or written by this process.
    pub(crate) fn work(&mut self) -> Result<&mut Work, Damaged> {
        if self.work.is_none() {
            let (envelope, state) = decode(&self.meta, &self.state)?;
            self.work = Some(Box::new(Work::new(envelope, state)));
        }
        self.work.as_deref_mut().ok_or(Damaged::Truncated)
    }

    /// Reads it, without unpacking it for longer.
    ///
    /// # Errors
    /// As [`Entry::work`].
    pub(crate) fn read<R>(&self, read: impl FnOnce(&Envelope, &MessageState) -> R) -> Result<R, Damaged> {
        if let Some(work) = &self.work {
            return Ok(read(&work.envelope, &work.state));
        }
        let (envelope, state) = decode(&self.meta, &self.state)?;
        Ok(read(&envelope, &state))
    }

    /// Packs it if nothing goes on with it.
    pub(crate) fn pack(&mut self) {
        let Some(work) = self.work.take_if(|work| work.is_idle()) else {
            return;
        };
        let fresh = MessageState::fresh(work.state.recipients.len());
        self.state =
            if work.state == fresh { Box::default() } else { work.state.encode().into_boxed_slice() };
    }
}

fn decode(meta: &[u8], state: &[u8]) -> Result<(Envelope, MessageState), Damaged> {
    let envelope = Envelope::decode(meta)?;
    let recipients = envelope.recipients.len();
    let state = if state.is_empty() {
        MessageState::fresh(recipients)
    } else {
        MessageState::decode(state, recipients)?
    };
    Ok((envelope, state))
}

impl Work {
    fn new(envelope: Envelope, state: MessageState) -> Self {
        Self {
            envelope: Arc::new(envelope),
            state,
            leases: 0,
            writing: false,
            dirty: false,
            write_after: None,
            discarded: false,
            reporting: false,
            report: None,
            settled: Vec::new(),
            waiters: Vec::new(),
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
            Outcome::Delivered(report) => {
                let report_owed = notify.success && !null_sender;
                recipient.phase = Phase::Delivered { report_owed };
                // Every later outcome writes this state again: what nobody will ask for is not part of it.
                recipient.last = report_owed.then(|| kept(report));
            }
            Outcome::Failed(report) => {
                self.fail(index, kept(report), false);
                self.count_unreported(1, cx);
            }
            Outcome::Deferred(report, wished) => {
                let wished = wished.filter(|wished| !recipient.wish_granted && retry::is_granted(wished));
                let jitter = rand::random_range(-1.0..=1.0);
                let retry = &cx.schedule.retry;
                let next = retry::next_attempt(retry, expires, recipient.attempts, wished, jitter, cx.now);
                recipient.wish_granted |= wished.is_some();
                // Without a next attempt its time is over: `expire` ends it with this evidence. While the clock is in
                // doubt it does not, and the recipient is tried again, but not at once.
                recipient.phase = Phase::Waiting { next: Some(next.unwrap_or(cx.now + PAUSE)) };
                recipient.last = Some(kept(report));
            }
        }
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
        retry::expires(&cx.schedule, self.envelope.received, self.envelope.has_null_sender())
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
        let waiting: Vec<usize> = self.waiting().collect();
        for index in &waiting {
            let report = self.last_words(*index, cx);
            let expired = Report { status: EnhancedStatus::new(4, 4, 7), ..report };
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
        recipient.phase = Phase::Failed { expired, report_owed: wanted };
        recipient.last = Some(report);
        self.dirty = true;
    }

    /// Makes the waiting recipients ready whose time has come. Returns them.
    pub(crate) fn take_due(&mut self, cx: &Context<'_>) -> Vec<u32> {
        let mut due = Vec::new();
        if self.state.held.is_some() || self.discarded {
            return due;
        }
        let horizon = cx.now + retry::horizon(&cx.schedule.retry);
        for (index, recipient) in self.state.recipients.iter_mut().enumerate() {
            if recipient.leased {
                continue;
            }
            if let Phase::Waiting { next: Some(next) } = recipient.phase
                && (next <= cx.now || next > horizon)
            {
                recipient.phase = Phase::Waiting { next: None };
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
            let next = self.waiting().filter_map(|index| match self.state.recipients[index].phase {
                Phase::Waiting { next } => next,
                _ => None,
            });
            wake = next.fold(wake, SystemTime::min);
        }
        // A notice that is due already waits for the end of the attempts under way, and that end comes by itself.
        let notice = self.delay_notice_due(cx).filter(|due| *due > cx.now);
        Some(notice.map_or(wake, |notice| wake.min(notice)))
    }

    /// When the sender is told of a delay, if he still is to be told.
    fn delay_notice_due(&self, cx: &Context<'_>) -> Option<SystemTime> {
        let after = cx.schedule.delay_notice;
        if after.is_zero()
            || self.state.delay_told
            || self.state.held.is_some()
            || self.envelope.has_null_sender()
        {
            return None;
        }
        self.waiting().find(|index| self.envelope.recipients[*index].notify.delay)?;
        Some(self.envelope.received + after)
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
                Phase::Delivered { report_owed: true } => (Action::Relayed, false),
                Phase::Waiting { .. } if delayed && recipient.notify.delay => (Action::Delayed, false),
                _ => continue,
            };
            let attempted = state.attempts > 0;
            let report = self.last_words(index, cx);
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
            match self.state.recipients[index].phase {
                Phase::Waiting { next: None } => return Status::Ready,
                _ => status = Status::Deferred,
            }
        }
        status
    }
}

/// The evidence as it is kept.
fn kept(report: Report) -> Report {
    Report { text: shortened(&report.text).to_owned(), ..report }
}
