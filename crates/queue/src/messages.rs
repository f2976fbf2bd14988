//! All messages of the queue in memory, and what can happen to them. Nothing here waits or writes: what must be done when
//! the lock is free is noted in [`Effects`].

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use postern_config as config;
use tracing::{error, info, warn};

use crate::Surroundings;
use crate::ascending::AscendingMap;
use crate::codec::{self, milliseconds};
use crate::domains::{DomainNumber, Domains};
use crate::entry::{self, Entry, Facts, Loaded, Status, Texts, Unread, Waiter, Work};
use crate::envelope::Envelope;
use crate::events::{EventKind, Evidence, Interest, Noted};
use crate::lease::LeasedRecipient;
use crate::log::Lines;
use crate::message::{Destination, Feedback, Outcome, QueueId};
use crate::metrics::Metrics;
use crate::owing::Owing;
use crate::reports::{NewReport, Owed};
use crate::scheduler::{Event, Ready, Scheduler, Share};
use crate::spool::{Change, StoreError};
use crate::state::MessageState;

/// After so many attempts that ended without an outcome a message is held.
const MAX_STRIKES: u8 = 3;

/// After an attempt without an outcome, and when an attempt tried nobody.
pub(crate) const PAUSE: Duration = Duration::from_secs(60);

/// After a change that the spool refused.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// A clock that was put forward by more than this is not believed at once.
const BIG_STEP: Duration = Duration::from_secs(3600);

/// For so long: time to put it right before mail is given up for a mistake.
const DOUBT: Duration = Duration::from_secs(15 * 60);

/// While so many changes of messages are on their way to the spool the timer makes no more: several of the largest groups
/// that a disk writes at once. Each keeps its message unpacked.
const MAX_WRITING: usize = 2000;

/// The same while so many cold messages are asked for: several times what is read together. More would be left to the spool
/// again before it is their turn.
const MAX_LOADING: usize = 1000;

/// Messages that the hand passes at a time.
const COOL_STEP: usize = 64;

/// A clock that was put back by more than this is noticed.
const SMALL_STEP: Duration = Duration::from_secs(10);

/// What every operation is given: the time, and the configuration in force.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) now: SystemTime,
    /// How long the clock has been running: see [`postern_runtime::Clock::running`].
    pub(crate) running: Duration,
    pub(crate) schedule: Arc<config::Queue>,
    pub(crate) sending: Arc<config::Outbound>,
    pub(crate) surroundings: &'a dyn Surroundings,
    pub(crate) metrics: &'a Metrics,
    /// Which events somebody wants.
    pub(crate) events: Interest,
}

impl Context<'_> {
    /// Where a recipient waits.
    pub(crate) fn destination(&self, envelope: &Envelope, index: usize) -> Destination {
        let recipient = &envelope.recipients[index];
        self.surroundings.destination(&envelope.reverse_path, &recipient.address, recipient.via.as_deref())
    }
}

/// What is to be done when the lock is free.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Changes to hand to the spool.
    pub(crate) writes: Vec<Write>,
    /// Messages whose report is to be composed.
    pub(crate) reports: Vec<QueueId>,
    /// Cold messages that are to be loaded, because something is to be done with them.
    pub(crate) loads: Vec<QueueId>,
    /// Destinations of which the messages in front of the line are to be loaded.
    pub(crate) windows: Vec<Destination>,
    /// What is to be told.
    pub(crate) events: Noted,
    /// Whether somebody waits for what is on its way to the disk: an operator, or a destination.
    pub(crate) hurry: bool,
    /// What is to be logged.
    pub(crate) log: Lines,
}

/// A change of one message on its way to the spool.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) id: QueueId,
    pub(crate) changes: Vec<Change>,
    pub(crate) then: AfterWrite,
}

impl Write {
    /// The change that brings the spool up to date with a message; it takes a composed report along, so that the report
    /// and the note that it is no longer owed are durable together.
    fn of(id: QueueId, work: &mut Work) -> Self {
        work.writing = true;
        let was_dirty = std::mem::take(&mut work.dirty);
        let mut changes = Vec::with_capacity(2);
        let mut report = work.report.take();
        let mut deletes = work.is_over();
        let mut reported = None;
        if let Some(report) = &mut report {
            changes.extend(report.message.iter_mut().flat_map(|message| message.enqueue()));
            let state = reported.insert(work.state.clone());
            report.mark(state);
            deletes = work.leases == 0 && state.is_over();
        }
        work.deleting = deletes;
        let mut saved = 0;
        changes.push(if deletes {
            Change::Delete { id }
        } else {
            let state = reported.as_ref().unwrap_or(&work.state).encode();
            saved = entry::checksum(&state);
            Change::State { id, state }
        });
        let settled = std::mem::take(&mut work.settled);
        let waiters = std::mem::take(&mut work.waiters);
        Self { id, changes, then: AfterWrite { deletes, saved, was_dirty, settled, waiters, report } }
    }
}

/// What follows when a change is durable.
#[derive(Debug)]
pub(crate) struct AfterWrite {
    deletes: bool,
    /// Checksum of the state, if it is not a deletion.
    saved: u32,
    /// Whether the state had changed, and not only a report was added.
    was_dirty: bool,
    settled: Vec<Destination>,
    pub(crate) waiters: Vec<Waiter>,
    report: Option<Box<NewReport>>,
}

/// Why a verb leaves a message alone.
pub(crate) type Refusal = Cow<'static, str>;

/// Recipients that were taken in hand.
#[derive(Debug)]
pub(crate) struct Leased {
    pub(crate) id: QueueId,
    pub(crate) destination: Destination,
    pub(crate) envelope: Arc<Envelope>,
    pub(crate) recipients: Vec<LeasedRecipient>,
}

/// What became of them.
#[derive(Debug)]
pub(crate) struct Settlement {
    pub(crate) id: QueueId,
    pub(crate) destination: Destination,
    /// Those that were leased.
    pub(crate) indices: Vec<usize>,
    pub(crate) outcomes: Vec<(usize, Outcome)>,
    pub(crate) feedback: Feedback,
}

/// A message that is durable, or about to be, ready to be put into the queue: made outside the lock.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) id: QueueId,
    entry: Entry,
    /// The domain of its only recipient.
    domain: Option<String>,
    wake: Option<SystemTime>,
    ready: Vec<(Destination, Ready)>,
}

impl Arrival {
    /// A message and what is to be done with it first.
    ///
    /// # Errors
    /// [`codec::Damaged`].
    pub(crate) fn new(
        id: QueueId,
        meta: &[u8],
        state: &[u8],
        cx: &Context<'_>,
    ) -> Result<Self, codec::Damaged> {
        let mut entry = Entry::new(Texts::new(meta, state))?;
        let work = entry.work.as_deref_mut().ok_or(codec::Damaged::Truncated)?;
        work.take_due(cx);
        let ready = lines(id, &work.envelope, work.ready(), cx);
        let domain = work.only_domain();
        // Something is owed, or a crash came between the last outcome and the deletion: look at it at once.
        let is_due = cx.now >= work.expires(cx) || work.has_marked() || work.dirty;
        let needs_care = work.is_over() || work.wants_report(cx) || is_due;
        let wake = if needs_care { Some(cx.now) } else { work.wake(cx) };
        entry.status = work.status();
        entry.pack();
        Ok(Self { id, entry, domain, wake, ready })
    }

    /// The same message; what is known of it is not what the spool has.
    pub(crate) fn kept(mut self) -> Self {
        self.entry.keep();
        self
    }
}

/// All messages.
#[derive(Default)]
pub(crate) struct Messages {
    /// By id, which is by age.
    entries: AscendingMap<QueueId, Entry>,
    pub(crate) scheduler: Scheduler,
    /// When something must be done with a message, in milliseconds since 1970.
    timers: AscendingMap<(u64, QueueId), ()>,
    counts: [usize; Status::ALL.len()],
    octets: u64,
    pub(crate) domains: Domains,
    /// What envelopes and states take up in memory.
    memory: Footprint,
    /// What was just loaded must not be left to the spool again before anybody had a chance to work on it.
    keeps_warm: bool,
    /// Where [`Messages::cool`] goes on.
    hand: QueueId,
    /// Messages that may stand in no line though recipients of theirs are ready: they could not be loaded when it was their
    /// turn, or work on them panicked. The next time that something is done with them puts that right.
    passed_over: BTreeSet<QueueId>,
    /// The message that [`Messages::advance`] works on.
    advancing: Option<QueueId>,
    /// Reports that are owed.
    owing: Owing,
    /// Changes on their way to the spool.
    writing: usize,
    /// Messages that were asked for because something is to be done with them, and are not loaded yet.
    loading: usize,
    /// At most so many places in the lines belong to messages that are not due any more.
    stale: usize,
    /// Whether the spool refused the last outcome. Nothing is leased then: each attempt would end with another one that
    /// nobody remembers after a crash. The outcome is written again and again, so this ends when the spool recovers.
    refused: bool,
    /// The time when it was last looked at, and for how long the clock had been running then.
    seen: Option<(SystemTime, Duration)>,
    /// Nothing expires before the clock has been running for so long.
    doubt: Option<Duration>,
    /// Until when the timer sleeps.
    sleeps_until: Option<SystemTime>,
    pub(crate) damaged: usize,
}

/// What the texts of messages take up in memory.
#[derive(Debug, Default)]
struct Footprint {
    octets: u64,
    /// Messages whose texts are not there.
    cold: usize,
}

impl Footprint {
    fn add(&mut self, entry: &Entry) {
        self.octets += entry.weight();
        self.cold += usize::from(entry.is_cold());
    }

    fn subtract(&mut self, entry: &Entry) {
        self.octets -= entry.weight();
        self.cold -= usize::from(entry.is_cold());
    }
}

impl fmt::Debug for Messages {
    /// Not a million of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Messages {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether [`Messages::lease`] may have something.
    pub(crate) fn has_next(&self) -> bool {
        !self.refused && self.scheduler.has_next()
    }

    pub(crate) fn count(&self, status: Status) -> usize {
        self.counts[status as usize]
    }

    pub(crate) fn octets(&self) -> u64 {
        self.octets
    }

    pub(crate) fn oldest(&self) -> Option<Facts> {
        self.entries.first_key_value().map(|(_, entry)| entry.facts())
    }

    pub(crate) fn entry(&self, id: QueueId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// The messages from an id on.
    pub(crate) fn from(&self, id: QueueId) -> impl Iterator<Item = (QueueId, &Entry)> {
        self.entries.range_from(id)
    }

    /// The timer goes to sleep: until when.
    pub(crate) fn timer_sleeps(&mut self) -> Option<SystemTime> {
        self.sleeps_until = self.next_wake();
        self.sleeps_until
    }

    /// Whether something is due before the timer would wake. True once for each such time.
    pub(crate) fn must_wake_timer(&mut self) -> bool {
        let next = self.next_wake();
        let is_earlier = next.is_some_and(|next| self.sleeps_until.is_none_or(|until| next < until));
        if is_earlier {
            self.sleeps_until = next;
        }
        is_earlier
    }

    /// Whether so much is being done that the timer begins nothing new.
    fn is_congested(&self) -> bool {
        self.writing >= MAX_WRITING || self.loading >= MAX_LOADING
    }

    /// When [`Messages::run`] has something to do.
    fn next_wake(&self) -> Option<SystemTime> {
        let first = self.timers.first_key_value().filter(|_| !self.is_congested());
        let message = first.and_then(|((at, _), ())| codec::time(at));
        message.into_iter().chain(self.scheduler.alarm()).min()
    }

    /// Notices when the clock was set. What waits must not wait for years because the clock was wrong for a moment, and must
    /// not be given up for it either.
    pub(crate) fn watch_clock(&mut self, cx: &Context<'_>, fx: &mut Effects) {
        // Somebody who asked earlier and came later to the lock.
        if self.seen.is_some_and(|(_, running)| cx.running < running) {
            return;
        }
        self.doubt.take_if(|doubt| *doubt <= cx.running);
        let Some((then, running)) = self.seen.replace((cx.now, cx.running)) else {
            return;
        };
        let expected = then + cx.running.saturating_sub(running);
        let ahead = cx.now.duration_since(expected).unwrap_or_default();
        let behind = expected.duration_since(cx.now).unwrap_or_default();
        if ahead > BIG_STEP {
            let seconds = ahead.as_secs();
            let log = move || warn!(seconds, "the clock was put forward: for a while no message expires");
            fx.log.keep(log);
            self.doubt = Some(cx.running + DOUBT);
        }
        if behind > SMALL_STEP {
            let seconds = behind.as_secs();
            let log = move || warn!(seconds, "the clock was put back: all messages are looked at again");
            fx.log.keep(log);
            self.doubt = None;
            self.scheduler.clock_went_back(behind);
            let now = milliseconds(cx.now).max(1);
            let waiting = self.entries.iter_mut().filter(|(_, entry)| entry.wake != 0);
            self.timers = waiting
                .map(|(id, entry)| {
                    entry.clock_went_back();
                    entry.wake = now;
                    ((now, id), ())
                })
                .collect();
        }
    }

    /// Whether a message's time is over.
    fn is_expired(&self, expires: SystemTime, cx: &Context<'_>) -> bool {
        self.doubt.is_none() && cx.now >= expires
    }

    /// Puts a message into the queue, in the place of what was known of it.
    pub(crate) fn insert(&mut self, arrival: Arrival, cx: &Context<'_>) {
        let Arrival { id, mut entry, domain, wake, ready } = arrival;
        self.forget(id);
        if let Some(domain) = domain {
            entry.domain = self.domains.take(&domain);
        }
        self.octets += entry.facts().size;
        self.memory.add(&entry);
        self.counts[entry.status as usize] += 1;
        self.entries.insert(id, entry);
        self.set_wake(id, wake);
        for (destination, ready) in ready {
            self.scheduler.push(destination, ready, &cx.sending);
        }
        self.cool(cx);
    }

    /// Deletes a message that must not be in the queue: by way of it, so that the deletion is tried until it works.
    pub(crate) fn discard(&mut self, arrival: Arrival, cx: &Context<'_>, fx: &mut Effects) {
        let id = arrival.id;
        // Not left to the spool before it is marked: its state is the one that the spool has.
        self.keeps_warm = true;
        self.insert(Arrival { ready: Vec::new(), wake: None, ..arrival }, cx);
        self.keeps_warm = false;
        if let Some(work) = self.work(id) {
            work.discarded = true;
        }
        self.advance(id, cx, fx);
    }

    /// Leases the next recipients that are due, wherever they go.
    pub(crate) fn lease(&mut self, cx: &Context<'_>, fx: &mut Effects) -> Option<Leased> {
        if self.refused {
            return None;
        }
        while let Some((destination, ready)) = self.scheduler.next() {
            match self.open_lease(&destination, ready, cx, fx) {
                Some(leased) => return Some(leased),
                None => self.scheduler.give_back(&destination, &cx.sending, cx.now),
            }
        }
        None
    }

    /// Leases the next recipients that are due for one destination.
    pub(crate) fn lease_for(
        &mut self,
        destination: &Destination,
        cx: &Context<'_>,
        fx: &mut Effects,
    ) -> Option<Leased> {
        if self.refused {
            return None;
        }
        while let Some(ready) = self.scheduler.next_for(destination) {
            match self.open_lease(destination, ready, cx, fx) {
                Some(leased) => return Some(leased),
                None => self.scheduler.give_back(destination, &cx.sending, cx.now),
            }
        }
        None
    }

    /// Takes the recipients in hand that are still due and still go there. What stands in a line may be out of date: the
    /// message may have ended, or be held, or the configuration may send it elsewhere now. One that is cold goes back to the
    /// head of the line, which waits until it is loaded.
    fn open_lease(
        &mut self,
        destination: &Destination,
        ready: Ready,
        cx: &Context<'_>,
        fx: &mut Effects,
    ) -> Option<Leased> {
        let id = ready.id;
        let is_cold = self.entries.get(&id)?.is_cold();
        if is_cold && self.passed_over.contains(&id) {
            // It comes back when it can be read.
            return None;
        }
        if is_cold {
            if self.scheduler.wait_for_window(destination, ready) {
                fx.windows.push(destination.clone());
            }
            return None;
        }
        self.load_ahead(destination, fx);
        let expires = self.work(id)?.expires(cx);
        if self.is_expired(expires, cx) {
            self.advance(id, cx, fx);
            return None;
        }
        let work = self.work(id)?;
        let due: Vec<u32> = ready.indices().iter().copied().filter(|index| work.is_ready(*index)).collect();
        if due.is_empty() {
            self.stale = self.stale.saturating_sub(1);
            self.advance(id, cx, fx);
            return None;
        }
        let share = Share::of(&work.envelope);
        let mut lines = group(&work.envelope, due, cx);
        let mut indices = lines.remove(destination).unwrap_or_default();
        let rest = indices.split_off(indices.len().min(cx.sending.max_recipients.max(1)));
        let leased = work.lease(id, destination, &indices);
        if !rest.is_empty() {
            self.scheduler.push_front(destination, ready.with(rest), &cx.sending);
        }
        for (elsewhere, indices) in lines {
            self.scheduler.push(elsewhere, Ready::new(id, indices, share), &cx.sending);
        }
        self.refresh(id, cx);
        leased.inspect(|_| cx.metrics.leases.inc())
    }

    /// Has the messages in front of a line loaded before the line comes to them, so that it need not wait.
    fn load_ahead(&mut self, destination: &Destination, fx: &mut Effects) {
        let ahead = self.scheduler.ahead(destination);
        if ahead.is_some_and(|id| self.is_cold(id)) {
            self.scheduler.loads_window(destination);
            fx.windows.push(destination.clone());
        }
    }

    /// The cold messages in front of a line.
    pub(crate) fn cold_window(&self, destination: &Destination) -> impl Iterator<Item = QueueId> {
        self.scheduler.window(destination).filter(|id| self.is_cold(*id))
    }

    /// Whether the texts of any message are in the spool only.
    pub(crate) fn has_cold(&self) -> bool {
        self.memory.cold > 0
    }

    /// Whether there is such a message, and its texts are in the spool only.
    pub(crate) fn is_cold(&self, id: QueueId) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.is_cold())
    }

    /// What was to be loaded is there, or cannot be read: what waited for it is done. Takes one after the other, so that
    /// after a panic the others are left.
    pub(crate) fn loaded(
        &mut self,
        loaded: impl Iterator<Item = Loaded>,
        cx: &Context<'_>,
        fx: &mut Effects,
    ) {
        self.keeps_warm = true;
        for loaded in loaded {
            let id = loaded.id;
            match &loaded.texts {
                Ok(_) => self.warm(&loaded),
                Err(error) => self.unreadable(id, error, cx, fx),
            }
            if self.is_cold(id) {
                // Or it has changed while it was read.
                self.passed_over.insert(id);
                self.end_report(id);
                self.set_wake(id, Some(cx.now + PAUSE));
                continue;
            }
            self.advance(id, cx, fx);
        }
        self.keeps_warm = false;
    }

    /// The messages in front of these lines are loaded, as far as they can be: the lines go on.
    pub(crate) fn windows_loaded(&mut self, windows: &[Destination]) {
        windows.iter().for_each(|destination| self.scheduler.window_loaded(destination));
    }

    /// So many of the messages that were asked for are loaded, as far as they can be.
    pub(crate) fn asked_loaded(&mut self, asked: usize) {
        self.loading = self.loading.saturating_sub(asked);
    }

    /// What was being done with a message panicked: that is tried again, but not at once.
    pub(crate) fn after_panic(&mut self, cx: &Context<'_>) {
        self.keeps_warm = false;
        if let Some(id) = self.advancing.take() {
            self.passed_over.insert(id);
            self.set_wake(id, Some(cx.now + PAUSE));
        }
    }

    /// Puts what is ready of a message into the lines.
    fn queue_up(&mut self, id: QueueId, cx: &Context<'_>) {
        if let Some(work) = self.work(id) {
            let (envelope, ready) = (work.envelope.clone(), work.ready());
            self.push(id, &envelope, ready, cx);
        }
    }

    /// Gives a cold message what was loaded of it.
    pub(crate) fn warm(&mut self, loaded: &Loaded) {
        if let Some(entry) = self.entries.get_mut(&loaded.id) {
            self.memory.subtract(entry);
            entry.warm(loaded);
            self.memory.add(entry);
        }
    }

    /// A message cannot be loaded. When the disk is the reason it is tried again. A record that is damaged stays so: the
    /// message is held, so that an operator sees it.
    fn unreadable(&mut self, id: QueueId, error: &Arc<StoreError>, cx: &Context<'_>, fx: &mut Effects) {
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.is_cold()) else {
            return;
        };
        let logged = error.clone();
        if !matches!(**error, StoreError::Damaged(_) | StoreError::NoMessage(_)) {
            let log = move || warn!(id = %id, error = %logged, "a message cannot be read from the spool: tried again");
            return fx.log.keep(log);
        }
        fx.log
            .keep(move || error!(id = %id, error = %logged, "a message cannot be read from the spool: held"));
        let held = Some(format!("it cannot be read from the spool ({error})"));
        let state = MessageState { held, ..MessageState::default() };
        self.memory.subtract(entry);
        entry.replace(Texts::new(&Envelope::unreadable(id).encode(), &state.encode()));
        self.memory.add(entry);
        self.damaged += 1;
        self.set_wake(id, None);
        let _ = self.work(id);
        self.refresh(id, cx);
    }

    /// Takes in the outcomes of a lease.
    pub(crate) fn settle(&mut self, settlement: Settlement, cx: &Context<'_>, fx: &mut Effects) {
        let Settlement { id, destination, indices, outcomes, feedback } = settlement;
        self.feedback(&destination, &feedback, cx, fx);
        fx.hurry |= self.scheduler.waits_for_disk(&destination);
        let Some(work) = self.work(id) else {
            self.scheduler.durable(&destination, &cx.sending, cx.now);
            return;
        };
        work.leases = work.leases.saturating_sub(1);
        for index in &indices {
            work.state.recipients[*index].leased = false;
        }
        let mut untried = indices.clone();
        for (index, outcome) in outcomes {
            let Some(place) = untried.iter().position(|i| *i == index) else {
                fx.log.keep(move || warn!(id = %id, index, "an outcome for a recipient that was not leased"));
                continue;
            };
            untried.swap_remove(place);
            cx.metrics.outcome(&outcome);
            fx.events.outcome((id, index), work, &destination, &outcome, cx);
            work.take_outcome(index, outcome, cx);
        }
        let learnt_nothing = untried.len() == indices.len() && !matches!(feedback, Feedback::Unreachable(_));
        if learnt_nothing {
            // An attempt that ends at once without trying anybody must not come back at once.
            for index in untried.drain(..) {
                work.wait(index, cx.now + PAUSE, cx);
            }
        }
        work.tell_watches(&indices);
        let untried = untried.into_iter().map(|index| index as u32).collect();
        self.after_lease(id, destination, untried, cx, fx);
    }

    /// A lease ended without an outcome for everybody; `step` is what its attempt had done last.
    pub(crate) fn strike(
        &mut self,
        settlement: Settlement,
        step: &'static str,
        cx: &Context<'_>,
        fx: &mut Effects,
    ) {
        let Settlement { id, destination, indices, outcomes, feedback } = settlement;
        self.feedback(&destination, &feedback, cx, fx);
        cx.metrics.strikes.inc();
        let Some(work) = self.work(id) else {
            self.scheduler.durable(&destination, &cx.sending, cx.now);
            return;
        };
        work.leases = work.leases.saturating_sub(1);
        for index in &indices {
            work.state.recipients[*index].leased = false;
            work.wait(*index, cx.now + PAUSE, cx);
        }
        for (index, outcome) in outcomes.into_iter().filter(|(index, _)| indices.contains(index)) {
            cx.metrics.outcome(&outcome);
            fx.events.outcome((id, index), work, &destination, &outcome, cx);
            work.take_outcome(index, outcome, cx);
        }
        work.tell_watches(&indices);
        work.state.strikes = work.state.strikes.saturating_add(1);
        work.dirty = true;
        let strikes = work.state.strikes;
        if strikes >= MAX_STRIKES && work.state.held.is_none() {
            let reason = format!(
                "{strikes} delivery attempts ended without an outcome, the last one after {step:?}: a fault in this server"
            );
            let (destination, logged) = (destination.clone(), reason.clone());
            fx.log
                .keep(move || error!(id = %id, destination = %destination, reason = logged, "message held"));
            let evidence = Evidence::Reason(reason.clone());
            fx.events.message(EventKind::Held, id, &work.envelope, evidence, cx);
            work.state.held = Some(reason);
            self.stale += 1;
        } else {
            let destination = destination.clone();
            fx.log.keep(move || {
                warn!(id = %id, destination = %destination, strikes, step, "delivery attempt ended without an outcome");
            });
        }
        self.after_lease(id, destination, Vec::new(), cx, fx);
    }

    /// Frees the slot, at once if there is nothing to write.
    fn after_lease(
        &mut self,
        id: QueueId,
        destination: Destination,
        untried: Vec<u32>,
        cx: &Context<'_>,
        fx: &mut Effects,
    ) {
        let Some(work) = self.work(id) else {
            return;
        };
        let envelope = work.envelope.clone();
        if work.dirty {
            work.settled.push(destination);
        } else {
            self.scheduler.durable(&destination, &cx.sending, cx.now);
        }
        self.push(id, &envelope, untried, cx);
        self.advance(id, cx, fx);
    }

    fn feedback(
        &mut self,
        destination: &Destination,
        feedback: &Feedback,
        cx: &Context<'_>,
        fx: &mut Effects,
    ) {
        let Some(event) = self.scheduler.settled(destination, feedback, &cx.sending, cx.now) else {
            return;
        };
        let (destination, now) = (destination.clone(), cx.now);
        fx.log.keep(move || match event {
            Event::Rests(until, reason) => {
                let seconds = until.duration_since(now).unwrap_or_default().as_secs();
                warn!(destination = %destination, seconds, reason, "destination rests");
            }
            Event::Recovered => info!(destination = %destination, "destination recovered"),
        });
    }

    /// Does what is to be done next with a message: give up, write, report, queue up, wait.
    pub(crate) fn advance(&mut self, id: QueueId, cx: &Context<'_>, fx: &mut Effects) {
        self.advancing = Some(id);
        self.do_next(id, cx, fx);
        self.advancing = None;
    }

    fn do_next(&mut self, id: QueueId, cx: &Context<'_>, fx: &mut Effects) {
        let in_doubt = self.doubt.is_some();
        if self.is_cold(id) {
            fx.loads.push(id);
            self.loading += 1;
            return;
        }
        if self.passed_over.remove(&id) {
            self.queue_up(id, cx);
        }
        let Some(work) = self.work(id) else {
            return;
        };
        fx.hurry |= !work.waiters.is_empty();
        if work.writing {
            return;
        }
        for ((kind, why), indices) in work.end_marked() {
            if cx.events.wants(kind.event()) {
                fx.events.operator((kind.event(), &why), id, work, &indices, cx);
            }
        }
        if !in_doubt && work.end_hold(cx) {
            fx.log.keep(move || info!(id = %id, "the hold has ended at its time"));
            fx.events.message(EventKind::Released, id, &work.envelope, Evidence::None, cx);
        }
        let given_up = if in_doubt { Vec::new() } else { work.expire(cx) };
        let expired = given_up.len();
        if expired > 0 {
            fx.events.expired(id, work, &given_up, cx);
            cx.metrics.expired.inc_by(expired as u64);
            work.count_unreported(expired, cx);
            fx.log.keep(move || info!(id = %id, recipients = expired, "expired: recipients given up"));
        }
        // One that is further away was set before the clock was put back.
        if work.write_after.is_some_and(|after| cx.now < after && after <= cx.now + PAUSE) {
            let wake = work.write_after;
            self.set_wake(id, wake);
            self.refresh(id, cx);
            return;
        }
        if work.dirty || work.report.is_some() || work.is_over() {
            fx.writes.push(Write::of(id, work));
            self.writing += 1;
            self.stale += usize::from(expired > 0);
            self.refresh(id, cx);
            self.prune();
            return;
        }
        let wants_report = !work.discarded && work.wants_report(cx);
        let has_turn = wants_report && self.owing.has_turn(id);
        let Some(work) = self.work(id) else {
            return;
        };
        if has_turn {
            work.reporting = true;
            fx.reports.push(id);
        }
        let is_reporting = work.reporting;
        let due = work.take_due(cx);
        let wake = if is_reporting { None } else { work.wake(cx) };
        // What would expire now is looked at again, but not at once.
        let wake = wake.map(|wake| if in_doubt { wake.max(cx.now + PAUSE) } else { wake });
        let is_written = work.dirty;
        if is_written {
            fx.writes.push(Write::of(id, work));
        }
        let envelope = work.envelope.clone();
        self.writing += usize::from(is_written);
        self.push(id, &envelope, due, cx);
        self.set_wake(id, wake);
        if !is_reporting && !wants_report {
            self.end_report(id);
        }
        self.refresh(id, cx);
    }

    /// A report is made, or none is wanted now: the next message that owes one has its turn.
    fn end_report(&mut self, id: QueueId) {
        if !self.owing.leave(id) {
            return;
        }
        while let Some(next) = self.owing.next() {
            // At once.
            self.set_wake(next, Some(SystemTime::UNIX_EPOCH));
        }
    }

    /// A change is durable, or was refused. Returns who waits for it.
    pub(crate) fn written(
        &mut self,
        id: QueueId,
        then: AfterWrite,
        is_durable: bool,
        cx: &Context<'_>,
        fx: &mut Effects,
    ) -> Vec<Waiter> {
        let AfterWrite { deletes, saved, was_dirty, settled, waiters, report } = then;
        self.writing = self.writing.saturating_sub(1);
        let had_report = report.is_some();
        if had_report {
            self.end_report(id);
        } else {
            // Reports are new mail: a full disk refuses that and still takes outcomes.
            self.refused = !is_durable;
        }
        if is_durable {
            for destination in &settled {
                self.scheduler.durable(destination, &cx.sending, cx.now);
            }
            if let Some(report) = report {
                self.report_written(id, *report, cx, fx);
            }
            if deletes {
                if let Some(work) = self.work(id).filter(|_| cx.events.wants(EventKind::Gone)) {
                    fx.events.message(EventKind::Gone, id, &work.envelope, Evidence::None, cx);
                }
                self.forget(id);
                return waiters;
            }
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.saved(saved);
            }
        }
        if let Some(work) = self.work(id) {
            work.writing = false;
            work.deleting = false;
            work.write_after = None;
            if !is_durable {
                // Nothing is lost and nothing is undone: the same is written again. A report is composed anew, and later: a
                // full disk refuses it together with all new mail, while the ends of messages still find room.
                work.dirty |= was_dirty;
                work.settled.extend(settled);
                let pause = if had_report && !was_dirty { PAUSE } else { WRITE_AGAIN };
                work.write_after = Some(cx.now + pause);
            }
        }
        self.advance(id, cx, fx);
        waiters
    }

    /// A report is durable together with the note that it is no longer owed.
    fn report_written(&mut self, about: QueueId, report: NewReport, cx: &Context<'_>, fx: &mut Effects) {
        if let Some(work) = self.work(about) {
            report.mark(&mut work.state);
            if let Some(message) = &report.message {
                let evidence = Evidence::Written(message.arrival.id, report.kind);
                fx.events.message(EventKind::Reported, about, &work.envelope, evidence, cx);
            }
        }
        let Some(message) = report.message else {
            return;
        };
        let (id, kind, recipients) = (message.arrival.id, report.kind, report.recipients);
        fx.log.keep(move || info!(id = %about, report = %id, kind, recipients, "report written"));
        cx.metrics.report(report.kind);
        self.insert(message.arrival, cx);
    }

    /// What the report tells that a message owes.
    pub(crate) fn owed(&mut self, id: QueueId, cx: &Context<'_>) -> Option<Owed> {
        self.work(id).map(|work| work.owed(cx))
    }

    /// A composed report goes to the spool with the next change of the message; `None`: it could not be composed, and is
    /// tried again later.
    pub(crate) fn report_composed(
        &mut self,
        id: QueueId,
        report: Option<NewReport>,
        cx: &Context<'_>,
        fx: &mut Effects,
    ) {
        let Some(work) = self.work(id) else {
            return;
        };
        work.reporting = false;
        match report {
            // Removed meanwhile, and nobody is to be told.
            Some(_) if work.discarded => {}
            Some(report) => work.report = Some(Box::new(report)),
            None => {
                self.end_report(id);
                self.set_wake(id, Some(cx.now + PAUSE));
                return;
            }
        }
        self.advance(id, cx, fx);
    }

    /// Does what is due, for at most so many messages. Returns whether there may be more.
    pub(crate) fn run(&mut self, most: usize, cx: &Context<'_>, fx: &mut Effects) -> bool {
        self.scheduler.run(&cx.sending, cx.now);
        if self.is_congested() {
            // The timer is woken when that is over.
            return false;
        }
        let now = milliseconds(cx.now);
        for _ in 0..most {
            let is_due = self.timers.first_key_value().is_some_and(|((at, _), ())| at <= now);
            let Some(((_, id), ())) = is_due.then(|| self.timers.pop_first()).flatten() else {
                return false;
            };
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.wake = 0;
            }
            self.advance(id, cx, fx);
        }
        true
    }

    /// A change by an operator. `change` answers which recipients it made ready, or why it did nothing.
    pub(crate) fn change(
        &mut self,
        id: QueueId,
        cx: &Context<'_>,
        fx: &mut Effects,
        change: impl FnOnce(&mut Work) -> Result<Vec<u32>, Refusal>,
    ) -> Result<(), Refusal> {
        let work = self.work(id).ok_or("gone")?;
        if work.is_over() || work.discarded || work.deleting {
            return Err("ended".into());
        }
        let was_ready = work.status() == Status::Ready;
        let priority = work.envelope.priority;
        let (held, held_until) = (work.state.held.clone(), work.state.held_until);
        let mut changed = change(work);
        if work.envelope.recipients.is_empty() && !work.discarded {
            // It would be over without its hold, and what is in the spool must not be written over.
            work.state.held = held;
            work.state.held_until = held_until;
            work.dirty = false;
            work.waiters.clear();
            changed = Err("its envelope cannot be read".into());
        }
        let is_ready = work.status() == Status::Ready && !work.discarded;
        let envelope = work.envelope.clone();
        match changed {
            Ok(ready) => {
                self.stale += usize::from(was_ready && !is_ready);
                self.scheduler.reprioritise(id, priority, envelope.priority);
                self.push(id, &envelope, ready, cx);
                self.advance(id, cx, fx);
                Ok(())
            }
            Err(reason) => {
                self.refresh(id, cx);
                Err(reason)
            }
        }
    }

    /// Ends the rests of the destinations that the waiting recipients of a message go to.
    pub(crate) fn end_rests(&mut self, id: QueueId, cx: &Context<'_>) {
        let Some(work) = self.work(id) else {
            return;
        };
        let waiting = work.waiting().map(|index| index as u32).collect();
        for (destination, _) in group(&work.envelope, waiting, cx) {
            self.scheduler.end_rest(&destination);
        }
        self.refresh(id, cx);
    }

    /// A message that is not cold.
    fn work(&mut self, id: QueueId) -> Option<&mut Work> {
        match self.entries.get_mut(&id)?.work() {
            Ok(work) => Some(work),
            Err(Unread::Cold) => None,
            Err(Unread::Damaged(damage)) => {
                error!(id = %id, %damage, "message cannot be read back from memory");
                None
            }
        }
    }

    /// Puts recipients into the lines of their destinations.
    fn push(&mut self, id: QueueId, envelope: &Envelope, indices: Vec<u32>, cx: &Context<'_>) {
        for (destination, ready) in lines(id, envelope, indices, cx) {
            self.scheduler.push(destination, ready, &cx.sending);
        }
    }

    fn set_wake(&mut self, id: QueueId, wake: Option<SystemTime>) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        // Rounded up, so that what is due at this time is due when the timer goes off.
        let wake = wake.map_or(0, |at| milliseconds(at + Duration::from_nanos(999_999)).max(1));
        if entry.wake == wake {
            return;
        }
        if entry.wake != 0 {
            self.timers.remove(&(entry.wake, id));
        }
        entry.wake = wake;
        if wake != 0 {
            self.timers.insert((wake, id), ());
        }
    }

    /// Brings the totals up to date, and packs the message if nothing goes on with it.
    fn refresh(&mut self, id: QueueId, cx: &Context<'_>) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        if let Some(work) = &entry.work {
            let status = work.status();
            self.counts[entry.status as usize] -= 1;
            self.counts[status as usize] += 1;
            entry.status = status;
            if self.domains.name(entry.domain).is_some() && work.envelope.recipients.len() > 1 {
                // Recipients were added.
                self.domains.give_back(std::mem::replace(&mut entry.domain, DomainNumber::NONE));
            }
        }
        let is_short = self.memory.octets > cx.schedule.memory;
        self.memory.subtract(entry);
        entry.pack();
        // Of what is in memory the lines' windows are worth most: what waits long makes room for them at once.
        if entry.waits_long() && is_short && !self.keeps_warm {
            entry.cool();
        }
        self.memory.add(entry);
        self.cool(cx);
    }

    /// Leaves the texts of some messages to the spool while they take up more memory than they may: of those first that
    /// will not be used soon.
    fn cool(&mut self, cx: &Context<'_>) {
        if self.memory.octets <= cx.schedule.memory || self.keeps_warm {
            return;
        }
        let mut looked_at = 0;
        for (id, entry) in self.entries.range_from_mut(self.hand).take(COOL_STEP) {
            self.memory.subtract(entry);
            entry.cool_in_turn();
            self.memory.add(entry);
            self.hand = QueueId(id.0.saturating_add(1));
            looked_at += 1;
        }
        if looked_at < COOL_STEP {
            self.hand = QueueId(0);
        }
    }

    /// A message is not in the queue any more.
    pub(crate) fn forget(&mut self, id: QueueId) {
        self.set_wake(id, None);
        self.passed_over.remove(&id);
        self.end_report(id);
        if let Some(entry) = self.entries.remove(&id) {
            self.octets -= entry.facts().size;
            self.memory.subtract(&entry);
            self.counts[entry.status as usize] -= 1;
            self.domains.give_back(entry.domain);
        }
    }

    fn is_due(&self, id: QueueId, indices: &[u32]) -> bool {
        let Some(entry) = self.entries.get(&id) else {
            return false;
        };
        let any = |_: &Envelope, state: &MessageState| indices.iter().any(|index| state.is_ready(*index));
        // What is cold may be.
        entry.read(None, any).unwrap_or(true)
    }

    /// Clears the lines of what is not due any more, when that is most of what stands in them.
    fn prune(&mut self) {
        if self.stale < 1000 || self.stale < self.count(Status::Ready) {
            return;
        }
        self.stale = 0;
        let mut scheduler = std::mem::take(&mut self.scheduler);
        scheduler.retain(|id, indices| self.is_due(id, indices));
        self.scheduler = scheduler;
    }
}

/// Recipients by destination.
fn group(envelope: &Envelope, indices: Vec<u32>, cx: &Context<'_>) -> BTreeMap<Destination, Vec<u32>> {
    let mut lines: BTreeMap<Destination, Vec<u32>> = BTreeMap::new();
    for index in indices {
        let destination = cx.destination(envelope, index as usize);
        lines.entry(destination).or_default().push(index);
    }
    lines
}

/// The places in the lines that recipients take.
fn lines(id: QueueId, envelope: &Envelope, indices: Vec<u32>, cx: &Context<'_>) -> Vec<(Destination, Ready)> {
    let from = Share::of(envelope);
    let lines = group(envelope, indices, cx);
    lines.into_iter().map(|(destination, indices)| (destination, Ready::new(id, indices, from))).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::envelope::{Origin, Recipient};
    use crate::message::{Handover, Report};
    use crate::owing::AT_A_TIME;
    use crate::reports::NewReport;
    use crate::state::Phase;
    use crate::state::tests::fresh;
    use postern_smtp::{Address, Body, Domain, EnhancedStatus, ReversePath};

    /// Every domain is its own destination.
    #[derive(Debug, Default)]
    pub(crate) struct TestSurroundings {
        pub(crate) schedule: Arc<config::Queue>,
    }

    impl Surroundings for TestSurroundings {
        fn destination(&self, _: &ReversePath, recipient: &Address, via: Option<&str>) -> Destination {
            Destination(via.map_or_else(|| recipient.host.to_string().into(), Into::into))
        }

        fn checked_route(&self, via: &str) -> Result<String, String> {
            Ok(via.to_owned())
        }

        fn is_local(&self, recipient: &Address) -> bool {
            recipient.host.to_string() == "proseware.test"
        }

        fn final_recipients(&self, address: &Address) -> Vec<Address> {
            vec![address.clone()]
        }

        fn hostname(&self) -> Domain {
            Domain::parse("mail.proseware.test").unwrap()
        }

        fn schedule(&self) -> Arc<config::Queue> {
            self.schedule.clone()
        }

        fn sending(&self) -> Arc<config::Outbound> {
            Arc::default()
        }
    }

    pub(crate) fn envelope(recipients: usize) -> Envelope {
        let recipient =
            |number: usize| Recipient::new(Address::parse(&format!("r{number}@adatum.test")).unwrap());
        Envelope {
            reverse_path: ReversePath::parse("alice@proseware.test").unwrap(),
            origin: Origin::Outsider,
            client: None,
            forwarded: None,
            helo: None,
            received: START,
            body: Body::SevenBit,
            smtputf8: false,
            ret: None,
            envelope_id: None,
            message_id: None,
            priority: 0,
            terms: Default::default(),
            size: 100,
            recipients: (0..recipients).map(recipient).collect(),
        }
    }

    const START: SystemTime = SystemTime::UNIX_EPOCH;
    const ID: QueueId = QueueId(7);

    /// Messages with a spool that does as it is told.
    struct Bench {
        messages: Messages,
        surroundings: TestSurroundings,
        metrics: Metrics,
        now: SystemTime,
        running: Duration,
        writes: Vec<Write>,
        reports: Vec<QueueId>,
        /// Whether somebody has been found to wait.
        hurry: bool,
    }

    impl Bench {
        fn with_message(recipients: usize) -> Self {
            let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
            let mut bench = Self {
                messages: Messages::default(),
                surroundings: TestSurroundings::default(),
                metrics,
                now: START,
                running: Duration::ZERO,
                writes: Vec::new(),
                reports: Vec::new(),
                hurry: false,
            };
            let meta = envelope(recipients).encode();
            bench.with(|messages, cx, _| messages.insert(Arrival::new(ID, &meta, &[], cx).unwrap(), cx));
            bench
        }

        fn with<R>(&mut self, work: impl FnOnce(&mut Messages, &Context<'_>, &mut Effects) -> R) -> R {
            let mut fx = Effects::default();
            let cx = Context {
                now: self.now,
                running: self.running,
                schedule: self.surroundings.schedule(),
                sending: self.surroundings.sending(),
                surroundings: &self.surroundings,
                metrics: &self.metrics,
                events: Interest::default(),
            };
            self.messages.watch_clock(&cx, &mut fx);
            let result = work(&mut self.messages, &cx, &mut fx);
            self.writes.extend(fx.writes);
            self.reports.extend(fx.reports);
            self.hurry |= fx.hurry;
            result
        }

        fn lease(&mut self) -> Option<Leased> {
            self.with(Messages::lease)
        }

        fn settle(&mut self, leased: Leased, outcome: &Outcome) {
            let indices: Vec<usize> = leased.recipients.iter().map(|recipient| recipient.index).collect();
            let settlement = Settlement {
                id: leased.id,
                destination: leased.destination,
                outcomes: indices.iter().map(|index| (*index, outcome.clone())).collect(),
                indices,
                feedback: Feedback::Reached,
            };
            self.with(|messages, cx, fx| messages.settle(settlement, cx, fx));
        }

        /// The spool takes or refuses the one change that is on its way; answers what it was.
        fn written(&mut self, is_durable: bool) -> String {
            assert_eq!(self.writes.len(), 1);
            let Write { id, changes, then } = self.writes.remove(0);
            let shown = changes.iter().map(|change| match change {
                Change::Enqueue { .. } => "enqueue",
                Change::State { .. } => "state",
                Change::Delete { .. } => "delete",
            });
            let shown = shown.collect::<Vec<_>>().join(" ");
            self.with(|messages, cx, fx| messages.written(id, then, is_durable, cx, fx));
            shown
        }

        fn change(&mut self, change: impl FnOnce(&mut Work)) {
            let change = |work: &mut Work| {
                change(work);
                Ok(Vec::new())
            };
            self.with(|messages, cx, fx| messages.change(ID, cx, fx, change)).unwrap();
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
            self.running += time;
            self.run();
        }

        fn run(&mut self) {
            while self.with(|messages, cx, fx| messages.run(10, cx, fx)) {}
        }

        /// A report with nobody to send it to.
        fn compose(&mut self) {
            assert_eq!(self.reports.pop(), Some(ID));
            let Owed { indices, tells_delay, .. } =
                self.with(|messages, cx, _| messages.owed(ID, cx)).unwrap();
            let report =
                NewReport { kind: "failed", recipients: indices.len(), indices, tells_delay, message: None };
            self.with(|messages, cx, fx| messages.report_composed(ID, Some(report), cx, fx));
        }
    }

    fn report() -> Report {
        Report {
            status: EnhancedStatus::new(5, 0, 0),
            text: "no".to_owned(),
            is_reply: false,
            host: None,
            tls: None,
            at: START,
        }
    }

    #[test]
    fn a_delivery_that_cannot_be_written_is_kept_and_written_again() {
        let mut bench = Bench::with_message(1);
        let leased = bench.lease().unwrap();
        bench.settle(leased, &Outcome::Delivered(report(), Handover::Relayed));
        assert_eq!(bench.written(false), "delete");
        assert!(bench.lease().is_none(), "delivered is delivered, written or not");
        bench.pass(WRITE_AGAIN);
        assert_eq!(bench.written(false), "delete");
        bench.pass(WRITE_AGAIN);
        assert_eq!(bench.written(true), "delete");
        assert_eq!((bench.messages.len(), bench.messages.octets()), (0, 0));
        assert!(!bench.with(|messages, _, _| messages.must_wake_timer()), "nothing is left to wait for");
    }

    #[test]
    fn a_failure_is_durable_before_its_report_and_a_refused_report_is_composed_again() {
        let mut bench = Bench::with_message(1);
        let leased = bench.lease().unwrap();
        bench.settle(leased, &Outcome::Failed(report()));
        assert!(bench.reports.is_empty());
        assert_eq!(bench.written(true), "state");
        bench.compose();
        assert_eq!(bench.written(false), "delete");
        bench.pass(WRITE_AGAIN);
        assert!(bench.writes.is_empty() && bench.reports.is_empty());
        bench.pass(PAUSE);
        assert!(bench.lease().is_none());
        bench.compose();
        assert_eq!(bench.written(true), "delete");
        assert_eq!(bench.messages.len(), 0);
    }

    #[test]
    fn nothing_is_added_to_a_message_that_is_deleted_with_its_report() {
        let mut bench = Bench::with_message(1);
        let leased = bench.lease().unwrap();
        bench.settle(leased, &Outcome::Failed(report()));
        assert_eq!(bench.written(true), "state");
        bench.compose();
        let added = Recipient { via: None, ..envelope(1).recipients.remove(0) };
        let add = |work: &mut Work| Ok(vec![work.add_recipient(added.clone()) as u32]);
        let refused = bench.with(|messages, cx, fx| messages.change(ID, cx, fx, add));
        assert_eq!(refused.unwrap_err(), "ended");
        assert_eq!(bench.written(false), "delete");
        // The disk has refused it: the message is there, and may have more recipients.
        bench.with(|messages, cx, fx| messages.change(ID, cx, fx, add)).unwrap();
        bench.pass(PAUSE);
        assert_eq!(bench.written(true), "state");
        assert_eq!(bench.lease().unwrap().recipients[0].index, 1);
    }

    #[test]
    fn changes_of_one_message_go_to_the_spool_one_after_the_other() {
        let mut bench = Bench::with_message(150);
        let (first, second) = (bench.lease().unwrap(), bench.lease().unwrap());
        assert_eq!((first.recipients.len(), second.recipients.len()), (100, 50));
        bench.settle(first, &Outcome::Delivered(report(), Handover::Relayed));
        bench.settle(second, &Outcome::Delivered(report(), Handover::Relayed));
        assert_eq!(bench.written(true), "state");
        assert_eq!(bench.written(true), "delete");
        assert_eq!(bench.messages.len(), 0);
    }

    #[test]
    fn the_spool_is_hurried_for_an_operator_and_not_for_an_outcome() {
        let mut bench = Bench::with_message(1);
        let leased = bench.lease().unwrap();
        bench.settle(leased, &Outcome::Deferred(report(), None));
        assert!(!bench.hurry);
        let (waiter, _durable) = tokio::sync::oneshot::channel();
        bench.change(|work| {
            work.dirty = true;
            work.waiters.push(waiter);
        });
        assert!(std::mem::take(&mut bench.hurry), "for the outcome, which is written before");
        assert_eq!(bench.written(true), "state");
        assert!(std::mem::take(&mut bench.hurry), "for the change itself");
        assert_eq!(bench.written(true), "state");
        assert!(!bench.hurry);
    }

    #[test]
    fn one_report_waits_for_all_attempts_under_way() {
        let mut bench = Bench::with_message(150);
        let (first, second) = (bench.lease().unwrap(), bench.lease().unwrap());
        bench.settle(first, &Outcome::Failed(report()));
        assert_eq!(bench.written(true), "state");
        assert!(bench.reports.is_empty());
        bench.settle(second, &Outcome::Failed(report()));
        assert_eq!(bench.written(true), "state");
        bench.compose();
        assert_eq!(bench.written(true), "delete");
    }

    /// More messages like the first one, with ids that follow.
    fn insert_more(bench: &mut Bench, count: usize, state: &MessageState) {
        let (meta, state) = (envelope(1).encode(), state.encode());
        bench.with(|messages, cx, _| {
            for id in 1..=count {
                let arrival = Arrival::new(QueueId(ID.0 + id as u64), &meta, &state, cx).unwrap();
                messages.insert(arrival, cx);
            }
        });
    }

    #[test]
    fn some_reports_are_made_at_a_time_however_many_are_owed() {
        let mut bench = Bench::with_message(1);
        let mut state = fresh(1);
        state.recipients[0].phase = Phase::Failed { expired: false, report_owed: true };
        insert_more(&mut bench, AT_A_TIME + 3, &state);
        bench.pass(Duration::from_secs(1));
        assert_eq!(bench.reports.len(), AT_A_TIME);
        let unpacked = bench.messages.entries.values().filter(|entry| entry.work.is_some()).count();
        assert_eq!(unpacked, AT_A_TIME, "the others wait as they are");
        // One is composed, and its turn lasts until it is durable.
        let (id, indices) = (bench.reports[0], vec![0]);
        let report = NewReport { kind: "failed", recipients: 1, indices, tells_delay: false, message: None };
        bench.with(|messages, cx, fx| messages.report_composed(id, Some(report), cx, fx));
        bench.run();
        assert_eq!(bench.reports.len(), AT_A_TIME);
        assert_eq!(bench.written(true), "delete");
        bench.run();
        assert_eq!(bench.reports.len(), AT_A_TIME + 1);
        // One cannot be composed, and comes again after the others.
        let id = bench.reports[1];
        bench.with(|messages, cx, fx| messages.report_composed(id, None, cx, fx));
        bench.run();
        assert_eq!(bench.reports.len(), AT_A_TIME + 2);
        // One is removed.
        let id = bench.reports[2];
        let discard = |work: &mut Work| {
            work.discard();
            Ok(Vec::new())
        };
        bench.with(|messages, cx, fx| messages.change(id, cx, fx, discard)).unwrap();
        assert_eq!(bench.written(true), "delete");
        bench.run();
        let asked: BTreeSet<QueueId> = bench.reports.iter().copied().collect();
        assert_eq!((bench.reports.len(), asked.len()), (AT_A_TIME + 3, AT_A_TIME + 3));
    }

    #[test]
    fn the_timer_waits_while_many_changes_are_on_their_way() {
        let mut bench = Bench::with_message(1);
        insert_more(&mut bench, MAX_WRITING + 500, &fresh(1));
        bench.pass(Duration::from_secs(30 * 24 * 3600));
        bench.pass(DOUBT);
        assert!((MAX_WRITING..MAX_WRITING + 10).contains(&bench.writes.len()), "{}", bench.writes.len());
        assert_eq!(bench.messages.timer_sleeps(), None);
        for Write { id, then, .. } in std::mem::take(&mut bench.writes) {
            bench.with(|messages, cx, fx| messages.written(id, then, true, cx, fx));
        }
        assert!(bench.messages.must_wake_timer());
        bench.run();
        assert!(bench.writes.len() >= 490, "the rest: {}", bench.writes.len());
    }

    #[test]
    fn a_notice_of_delay_waits_for_attempts_under_way() {
        let mut bench = Bench::with_message(150);
        let leased = bench.lease().unwrap();
        bench.pass(Duration::from_secs(4 * 3600));
        assert!(bench.reports.is_empty());
        bench.settle(leased, &Outcome::Delivered(report(), Handover::Relayed));
        assert_eq!(bench.written(true), "state");
        bench.compose();
        assert_eq!(bench.written(true), "state");
        assert!(bench.reports.is_empty(), "told once");
    }

    #[test]
    fn a_failure_that_comes_while_a_notice_of_delay_is_made_is_told_too() {
        let hours = Duration::from_secs(4 * 3600);
        for fails_while_written in [false, true] {
            let mut bench = Bench::with_message(1);
            bench.messages.scheduler = Scheduler::default();
            bench.pass(hours);
            assert_eq!(bench.reports.pop(), Some(ID));
            let Owed { indices, told, tells_delay, .. } =
                bench.with(|messages, cx, _| messages.owed(ID, cx)).unwrap();
            assert_eq!((told.len(), tells_delay), (1, true));
            let notice = NewReport { kind: "delayed", recipients: 1, indices, tells_delay, message: None };
            let fail = |bench: &mut Bench| bench.change(|work| work.fail(0, report(), false));
            if !fails_while_written {
                fail(&mut bench);
                assert_eq!(bench.written(true), "state");
            }
            bench.with(|messages, cx, fx| messages.report_composed(ID, Some(notice), cx, fx));
            if fails_while_written {
                fail(&mut bench);
                assert_eq!(bench.written(true), "state");
            }
            assert_eq!(bench.written(true), "state");
            bench.compose();
            assert_eq!(bench.written(true), "delete");
        }
    }

    #[test]
    fn nothing_is_leased_while_the_spool_refuses_outcomes() {
        let mut bench = Bench::with_message(150);
        let leased = bench.lease().unwrap();
        let destination = leased.destination.clone();
        bench.settle(leased, &Outcome::Delivered(report(), Handover::Relayed));
        assert_eq!(bench.written(false), "state");
        assert!(!bench.messages.has_next() && bench.lease().is_none());
        assert!(bench.with(|messages, cx, fx| messages.lease_for(&destination, cx, fx)).is_none());
        bench.pass(WRITE_AGAIN);
        assert_eq!(bench.written(true), "state");
        assert!(bench.messages.has_next());
        assert_eq!(bench.lease().unwrap().recipients.len(), 50);
    }

    #[test]
    fn nobody_is_told_of_a_message_that_is_removed_while_its_report_is_composed() {
        let mut bench = Bench::with_message(1);
        let leased = bench.lease().unwrap();
        bench.settle(leased, &Outcome::Failed(report()));
        assert_eq!(bench.written(true), "state");
        let Owed { indices, .. } = bench.with(|messages, cx, _| messages.owed(ID, cx)).unwrap();
        bench.change(Work::discard);
        let composed =
            NewReport { kind: "failed", recipients: 1, indices, tells_delay: false, message: None };
        bench.with(|messages, cx, fx| messages.report_composed(ID, Some(composed), cx, fx));
        assert_eq!(bench.written(false), "delete");
        assert!(bench.messages.work(ID).unwrap().report.is_none());
        bench.pass(WRITE_AGAIN);
        assert_eq!(bench.written(true), "delete");
    }

    #[test]
    fn a_message_that_is_removed_during_an_attempt_is_held_until_its_end() {
        let mut bench = Bench::with_message(150);
        let leased = bench.lease().unwrap();
        bench.change(Work::discard);
        assert_eq!(bench.written(true), "state");
        assert!(bench.messages.work(ID).unwrap().state.held.is_some(), "after a crash");
        assert!(bench.lease().is_none());
        bench.pass(Duration::from_secs(30 * 24 * 3600));
        assert!(bench.writes.is_empty() && bench.reports.is_empty());
        bench.settle(leased, &Outcome::Deferred(report(), None));
        assert_eq!(bench.written(true), "delete");
        assert_eq!(bench.messages.len(), 0);
    }

    #[test]
    fn a_message_that_is_held_during_an_attempt_stays_after_it() {
        let mut bench = Bench::with_message(150);
        let leased = bench.lease().unwrap();
        bench.change(|work| {
            work.state.held = Some("by hand".to_owned());
            work.dirty = true;
        });
        assert_eq!(bench.written(true), "state");
        assert!(bench.lease().is_none(), "nor the recipients that wait");
        bench.settle(leased, &Outcome::Deferred(report(), None));
        assert_eq!(bench.written(true), "state");
        bench.pass(Duration::from_secs(3600));
        assert!(bench.lease().is_none());
        assert_eq!(bench.messages.count(Status::Held), 1);
    }

    #[test]
    fn a_clock_that_is_put_back_delays_nothing_beyond_the_longest_interval() {
        let year = Duration::from_secs(365 * 24 * 3600);
        let mut bench = Bench::with_message(1);
        let leased = bench.lease().unwrap();
        bench.settle(leased, &Outcome::Deferred(report(), None));
        assert_eq!(bench.written(true), "state");
        // A mistake of a year that is put right: the next attempt seems to be in a year.
        let hour = Duration::from_secs(3600);
        bench.messages.work(ID).unwrap().state.recipients[0].phase =
            Phase::Waiting { next: Some(START + year) };
        bench.messages.set_wake(ID, Some(START + year));
        bench.now += hour;
        bench.running += 2 * hour;
        bench.run();
        assert!(bench.lease().is_some());
    }

    #[test]
    fn a_clock_that_is_put_forward_expires_nothing_at_once() {
        let mut bench = Bench::with_message(1);
        bench.run();
        bench.now += Duration::from_secs(30 * 24 * 3600);
        bench.run();
        let leased = bench.lease().unwrap();
        bench.settle(leased, &Outcome::Deferred(report(), None));
        assert_eq!(bench.written(true), "state");
        bench.compose();
        assert_eq!(bench.written(true), "state");
        assert!(bench.lease().is_none(), "not again at once");
        bench.pass(PAUSE);
        let leased = bench.lease().unwrap();
        assert_eq!(leased.recipients[0].attempts, 1);
        bench.pass(DOUBT);
        bench.settle(leased, &Outcome::Deferred(report(), None));
        assert_eq!(bench.written(true), "state");
        assert!(bench.messages.work(ID).unwrap().waiting().next().is_none(), "now it is believed");
    }

    #[test]
    fn a_waiting_message_is_small() {
        let mut bench = Bench::with_message(1);
        assert!(size_of::<Entry>() <= 64);
        assert!(bench.messages.entry(ID).unwrap().work.is_none());
        let fresh = bench.messages.memory.octets;
        let leased = bench.lease().unwrap();
        bench.settle(leased, &Outcome::Deferred(report(), None));
        assert!(bench.messages.entry(ID).unwrap().work.is_some());
        assert_eq!(bench.written(true), "state");
        assert!(bench.messages.entry(ID).unwrap().work.is_none());
        assert!(bench.messages.memory.octets > fresh, "the evidence counts");
        bench.change(Work::discard);
        assert_eq!(bench.written(true), "delete");
        assert_eq!(bench.messages.memory.octets, 0);
    }

    /// A message that was deferred once, and whose texts are left to the spool; and what the spool has of it.
    fn cold() -> (Bench, Texts) {
        let mut bench = Bench::with_message(1);
        bench.surroundings.schedule = Arc::new(config::Queue { memory: 0, ..config::Queue::default() });
        let leased = bench.lease().unwrap();
        bench.settle(leased, &Outcome::Deferred(report(), None));
        let Some(Change::State { state, .. }) = bench.writes[0].changes.first() else { panic!() };
        let texts = Texts::new(&envelope(1).encode(), state);
        assert_eq!(bench.written(true), "state");
        assert!(bench.messages.is_cold(ID) && bench.messages.has_cold());
        assert_eq!(bench.messages.memory.octets, 0);
        (bench, texts)
    }

    fn is_due(bench: &mut Bench) {
        bench.now += Duration::from_secs(3600);
        bench.running += Duration::from_secs(3600);
        let mut fx = bench.with(|messages, cx, _| {
            let mut fx = Effects::default();
            while messages.run(10, cx, &mut fx) {}
            fx
        });
        assert_eq!(std::mem::take(&mut fx.loads), [ID], "its time has come: it is asked for");
    }

    fn load(bench: &mut Bench, texts: Result<Texts, StoreError>) {
        let loaded = Loaded { id: ID, texts: texts.map_err(Arc::new) };
        bench.with(|messages, cx, fx| messages.loaded([loaded].into_iter(), cx, fx));
    }

    #[test]
    fn a_cold_message_is_tried_when_it_was_read() {
        let (mut bench, texts) = cold();
        is_due(&mut bench);
        assert!(bench.lease().is_none());
        load(&mut bench, Ok(texts));
        assert!(!bench.messages.has_cold());
        assert_eq!(bench.lease().unwrap().recipients[0].attempts, 1);
    }

    #[test]
    fn the_timer_waits_while_many_messages_are_being_loaded() {
        let mut bench = Bench::with_message(1);
        let later = Phase::Waiting { next: Some(START + Duration::from_secs(60)) };
        let mut state = fresh(1);
        state.recipients[0].phase = later;
        insert_more(&mut bench, MAX_LOADING + 500, &state);
        bench.messages.entries.iter_mut().for_each(|(_, entry)| entry.cool());
        bench.now += Duration::from_secs(60);
        bench.running += Duration::from_secs(60);
        let ask = |bench: &mut Bench| {
            bench.with(|messages, cx, _| {
                let mut fx = Effects::default();
                while messages.run(10, cx, &mut fx) {}
                fx.loads.len()
            })
        };
        let asked = ask(&mut bench);
        assert!((MAX_LOADING..MAX_LOADING + 10).contains(&asked), "{asked}");
        assert_eq!((ask(&mut bench), bench.messages.timer_sleeps()), (0, None));
        bench.messages.asked_loaded(asked);
        assert!(bench.messages.must_wake_timer());
        assert_eq!(asked + ask(&mut bench), MAX_LOADING + 500);
    }

    #[test]
    fn what_was_read_of_a_message_that_has_changed_meanwhile_does_not_count() {
        let (mut bench, _) = cold();
        is_due(&mut bench);
        load(&mut bench, Ok(Texts::new(&envelope(1).encode(), &[])));
        assert!(bench.messages.is_cold(ID) && bench.lease().is_none());
        bench.messages.forget(ID);
        assert!(!bench.messages.has_cold());
    }

    #[test]
    fn a_message_that_cannot_be_read_now_is_read_later() {
        let (mut bench, texts) = cold();
        is_due(&mut bench);
        let source = std::io::Error::from_raw_os_error(5);
        load(&mut bench, Err(StoreError::Io { what: "reading".to_owned(), source }));
        assert!(bench.lease().is_none());
        bench.now += PAUSE;
        bench.running += PAUSE;
        let asked = bench.with(|messages, cx, _| {
            let mut fx = Effects::default();
            while messages.run(10, cx, &mut fx) {}
            fx.loads
        });
        assert_eq!(asked, [ID]);
        load(&mut bench, Ok(texts));
        assert!(bench.lease().is_some());
    }

    #[test]
    fn a_message_that_could_not_be_read_in_its_turn_is_in_line_again_when_an_operator_touches_it() {
        let (mut bench, texts) = cold();
        is_due(&mut bench);
        load(&mut bench, Ok(texts.clone()));
        bench.with(|messages, _, _| {
            let entry = messages.entries.get_mut(&ID).unwrap();
            messages.memory.subtract(entry);
            entry.cool();
            messages.memory.add(entry);
        });
        let source = std::io::Error::from_raw_os_error(5);
        load(&mut bench, Err(StoreError::Io { what: "reading".to_owned(), source }));
        assert!(bench.lease().is_none(), "its place in the line is gone");
        let loaded = Loaded { id: ID, texts: Ok(texts) };
        bench.with(|messages, _, _| messages.warm(&loaded));
        bench.change(|_| {});
        assert!(bench.lease().is_some());
    }

    #[test]
    fn a_message_whose_record_is_damaged_is_held_and_counted() {
        let (mut bench, _) = cold();
        is_due(&mut bench);
        load(&mut bench, Err(StoreError::Damaged(ID)));
        assert_eq!((bench.messages.count(Status::Held), bench.messages.damaged), (1, 1));
        assert!(
            bench.lease().is_none() && bench.writes.is_empty(),
            "what is in the spool is not written over"
        );
        assert!(!bench.messages.is_cold(ID), "the spool does not know that it is held");
        assert!(!bench.messages.has_cold());
    }

    #[test]
    fn what_must_not_be_in_the_queue_is_deleted_however_little_memory_there_is() {
        let mut bench = Bench::with_message(1);
        bench.surroundings.schedule = Arc::new(config::Queue { memory: 0, ..config::Queue::default() });
        let state = MessageState { held: Some("a rule".to_owned()), ..fresh(1) }.encode();
        let meta = envelope(1).encode();
        bench.with(|messages, cx, fx| {
            messages.discard(Arrival::new(QueueId(8), &meta, &state, cx).unwrap(), cx, fx);
        });
        assert_eq!(bench.written(true), "delete");
        assert_eq!(bench.messages.len(), 1);
    }

    #[test]
    fn the_head_of_a_line_is_read_before_it_is_leased() {
        let (mut bench, texts) = cold();
        is_due(&mut bench);
        load(&mut bench, Ok(texts.clone()));
        // In line now, and then left to the spool again.
        bench.with(|messages, _, _| {
            let entry = messages.entries.get_mut(&ID).unwrap();
            messages.memory.subtract(entry);
            entry.cool();
            messages.memory.add(entry);
        });
        let windows = bench.with(|messages, cx, _| {
            let mut fx = Effects::default();
            assert!(messages.lease(cx, &mut fx).is_none());
            fx.windows
        });
        assert_eq!(windows.len(), 1);
        assert_eq!(bench.messages.cold_window(&windows[0]).collect::<Vec<_>>(), [ID]);
        let loaded = Loaded { id: ID, texts: Ok(texts) };
        bench.with(|messages, cx, fx| messages.loaded([loaded].into_iter(), cx, fx));
        assert!(bench.lease().is_none(), "the line waits");
        bench.with(|messages, _, _| messages.windows_loaded(&windows));
        assert!(bench.lease().is_some());
    }

    #[test]
    fn what_nobody_asks_for_is_not_written_again_with_every_outcome() {
        let mut bench = Bench::with_message(200);
        let long = Report { text: "x".repeat(2000), ..report() };
        let first = bench.lease().unwrap();
        bench.settle(first, &Outcome::Delivered(long.clone(), Handover::Relayed));
        let Some(Change::State { state, .. }) = bench.writes[0].changes.first() else { panic!() };
        assert!(state.len() < 200 * 8, "{}", state.len());
        bench.written(true);
        let second = bench.lease().unwrap();
        bench.settle(second, &Outcome::Deferred(long, None));
        let Some(Change::State { state, .. }) = bench.writes[0].changes.first() else { panic!() };
        assert!(state.len() < 100 * 600, "{}", state.len());
        bench.written(true);
    }

    #[test]
    fn lines_are_cleared_of_messages_that_are_held_and_released_again_and_again() {
        let mut bench = Bench::with_message(1);
        for _ in 0..5000 {
            let hold = |work: &mut Work| {
                work.state.held = Some("x".to_owned());
                work.dirty = true;
                Ok(Vec::new())
            };
            let release = |work: &mut Work| {
                work.state.held = None;
                work.dirty = true;
                Ok(work.ready())
            };
            bench.with(|messages, cx, fx| messages.change(ID, cx, fx, hold)).unwrap();
            bench.written(true);
            bench.with(|messages, cx, fx| messages.change(ID, cx, fx, release)).unwrap();
            bench.written(true);
        }
        let mut places = 0;
        bench.messages.scheduler.retain(|_, _| {
            places += 1;
            true
        });
        assert!(places <= 2000, "{places}");
    }
}
