//! The verbs that keep messages back, try them again, or end them.

use std::time::{Duration, SystemTime};

use postern_smtp::EnhancedStatus;

use super::OperateError;
use super::change::{Applied, Change, STEP, Seen, Verb, picked, unfinished};
use crate::Queue;
use crate::codec;
use crate::entry::{Loaded, Work};
use crate::envelope::Envelope;
use crate::events::EventKind;
use crate::filter::RecipientPick;
use crate::message::{QueueId, Report};
use crate::messages::{Context, Messages, Refusal};
use crate::retry;
use crate::state::{Ending, EndingKind, MessageState, Phase, shortened};

/// Why a message that is being delivered is not tried again.
pub(super) const IN_FLIGHT: &str = "in-flight";

/// Why a message for later is left alone.
const NOT_RELEASED: &str = "its sender wants it sent later (FUTURERELEASE): name it by its id";

/// Why a message without a recipient that waits is left alone.
pub(super) const NOTHING_WAITS: &str = "nothing waits";

/// The status of what an operator ends by hand: delivery not authorised (RFC 3463 §3.8).
const ADMINISTRATIVE: EnhancedStatus = EnhancedStatus::new(5, 7, 1);

/// How messages are tried again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retry {
    /// At this time, also where the schedule has an earlier one; without it, now.
    pub at: Option<SystemTime>,
    /// The attempts are spread over so long from then on.
    pub spread: Duration,
    /// The back-off of the recipients begins anew, as if they had not been tried.
    pub reset_backoff: bool,
    /// Destinations that rest are tried at once.
    pub ignore_breaker: bool,
    /// Also messages whose sender wants them sent later than that (FUTURERELEASE); they are left alone otherwise.
    pub before_release: bool,
}

impl Queue {
    /// Keeps messages back until they are released, or until a time. They still expire. Survives a restart. Attempts under
    /// way come to their end, and are waited for up to `wait`.
    ///
    /// # Errors
    /// [`OperateError`]; [`OperateError::Bad`] when the time is over already.
    pub async fn hold(
        &self,
        ids: &[QueueId],
        reason: &str,
        until: Option<SystemTime>,
        wait: Duration,
    ) -> Result<Change, OperateError> {
        self.check_until(until)?;
        // As the spool keeps it.
        let until = until.and_then(|until| codec::time(codec::milliseconds(until)));
        Ok(self.change(ids, wait, &Hold { reason, until }).await)
    }

    /// Whether a hold can end then.
    ///
    /// # Errors
    /// [`OperateError::Bad`].
    pub fn check_until(&self, until: Option<SystemTime>) -> Result<(), OperateError> {
        if until.is_some_and(|until| until <= self.inner.clock.now()) {
            return Err(OperateError::Bad("the hold would be over already: give a time to come".to_owned()));
        }
        Ok(())
    }

    /// Ends a hold; the messages are due at once, or when their sender wants them sent (FUTURERELEASE).
    ///
    /// # Errors
    /// [`OperateError`].
    pub async fn release(&self, ids: &[QueueId]) -> Result<Change, OperateError> {
        Ok(self.change(ids, Duration::ZERO, &Release).await)
    }

    /// Makes waiting recipients due. What is being delivered is left alone: it is being tried.
    ///
    /// # Errors
    /// [`OperateError`]; [`OperateError::Bad`] for a time that is further off than the longest interval of the schedule: for
    /// such there are holds.
    pub async fn retry(&self, ids: &[QueueId], how: Retry) -> Result<Change, OperateError> {
        self.check_retry(&how)?;
        let verb = TryAgain { how, pick: RecipientPick::default(), why: "" };
        let mut change = self.change(ids, Duration::ZERO, &verb).await;
        if !how.ignore_breaker {
            change.resting = self.resting(ids).await;
        }
        Ok(change)
    }

    /// Whether messages can be tried again like this. A time further ahead than any of the schedule would look like a clock
    /// that was put back, and count as over.
    ///
    /// # Errors
    /// [`OperateError::Bad`].
    pub fn check_retry(&self, how: &Retry) -> Result<(), OperateError> {
        let Some(at) = how.at else {
            return Ok(());
        };
        let furthest = retry::horizon(&self.inner.surroundings.schedule().retry);
        let is_near =
            at.checked_add(how.spread).is_some_and(|last| last <= self.inner.clock.now() + furthest);
        if is_near {
            return Ok(());
        }
        let minutes = furthest.as_secs() / 60;
        Err(OperateError::Bad(format!(
            "an attempt can be set at most {minutes} minutes ahead, the longest interval of the schedule: hold the messages until \
             then"
        )))
    }

    /// How many of the messages have recipients in line for a destination that rests.
    async fn resting(&self, ids: &[QueueId]) -> usize {
        let mut resting = 0;
        for step in ids.chunks(STEP) {
            let cx = self.inner.context();
            let look = |id: QueueId, messages: &Messages, loaded: Option<&Loaded>| {
                let waits = messages.entry(id).and_then(|entry| {
                    let waits = |envelope: &Envelope, state: &MessageState| {
                        let mut ready =
                            (0..state.recipients.len()).filter(|index| state.is_ready(*index as u32));
                        let rests = |index| messages.scheduler.rest_of(&cx.destination(envelope, index));
                        ready.any(|index| rests(index).is_some())
                    };
                    entry.read(loaded, waits).ok()
                });
                resting += usize::from(waits.unwrap_or(false));
            };
            self.inner.look_at_each(step, look).await;
        }
        resting
    }

    /// Ends the recipients that are picked with a report to the sender that gives the reason; those that are being delivered
    /// when the attempt ends without delivery, which is waited for up to `wait`.
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
        let ending = Ending { kind: EndingKind::Failed, report: self.administrative(reason) };
        Ok(self.change(ids, wait, &End { pick, ending }).await)
    }

    /// Ends the recipients that are picked without telling anybody but the journal, which gets the reason; a message without others is removed. Those that are being
    /// delivered end when the attempt ends without delivery, which is waited for up to `wait`.
    ///
    /// # Errors
    /// [`OperateError`].
    pub async fn remove(
        &self,
        ids: &[QueueId],
        pick: &RecipientPick,
        reason: &str,
        wait: Duration,
    ) -> Result<Change, OperateError> {
        let report = self.administrative(reason);
        let ending = Ending { kind: EndingKind::Dropped, report };
        Ok(self.change(ids, wait, &End { pick, ending }).await)
    }

    /// The evidence of what an operator did.
    pub(super) fn administrative(&self, reason: &str) -> Report {
        Report {
            status: ADMINISTRATIVE,
            text: shortened(reason).to_owned(),
            is_reply: false,
            host: None,
            tls: None,
            at: self.inner.clock.now(),
        }
    }
}

struct Hold<'a> {
    reason: &'a str,
    until: Option<SystemTime>,
}

impl Verb for Hold<'_> {
    fn apply(&self, work: &mut Work, _: &Context<'_>) -> Result<Applied, Refusal> {
        if work.state.held.is_some() && work.state.held_until == self.until {
            return Err("already held".into());
        }
        let unfinished = unfinished(work);
        if unfinished.is_empty() {
            return Err(NOTHING_WAITS.into());
        }
        if work.state.held.is_none() || !self.reason.is_empty() {
            work.state.held = Some(self.reason.to_owned());
        }
        work.state.held_until = self.until;
        work.dirty = true;
        Ok(Applied::about(work, &unfinished))
    }

    fn told(&self) -> (EventKind, &str) {
        (EventKind::Held, self.reason)
    }

    fn is_there(&self, _: &Applied, now: Option<Seen<'_>>) -> bool {
        now.is_some_and(|now| now.state.held.is_some() && now.state.held_until == self.until)
    }
}

struct Release;

impl Verb for Release {
    fn apply(&self, work: &mut Work, cx: &Context<'_>) -> Result<Applied, Refusal> {
        if work.state.held.is_none() {
            return Err("not held".into());
        }
        // The hold was ours, the time is its sender's.
        let starts = work.envelope.starts();
        work.release((starts > cx.now).then_some(starts));
        Ok(Applied { ready: work.ready(), ..Applied::default() })
    }

    fn told(&self) -> (EventKind, &str) {
        (EventKind::Released, "")
    }

    fn is_there(&self, _: &Applied, now: Option<Seen<'_>>) -> bool {
        now.is_none_or(|now| now.state.held.is_none())
    }
}

pub(super) struct TryAgain {
    pub(super) how: Retry,
    /// Which recipients.
    pub(super) pick: RecipientPick,
    /// Why, for the journal.
    pub(super) why: &'static str,
}

impl Verb for TryAgain {
    fn apply(&self, work: &mut Work, cx: &Context<'_>) -> Result<Applied, Refusal> {
        let Self { how, pick, .. } = self;
        if work.state.held.is_some() {
            return Err("held".into());
        }
        let waiting = work.waiting().filter(|index| pick.takes(&work.envelope, *index, cx));
        let waiting: Vec<usize> = waiting.collect();
        if waiting.is_empty() {
            return Err(if work.leases > 0 { IN_FLIGHT } else { NOTHING_WAITS }.into());
        }
        let first = how.at.unwrap_or(cx.now);
        if !how.before_release && first < work.envelope.starts() {
            return Err(NOT_RELEASED.into());
        }
        let latest = first + how.spread;
        if how.at.is_some() && latest >= work.expires(cx) {
            return Err("expires before then".into());
        }
        let mut applied = Applied { due: Some(latest), ..Applied::about(work, &waiting) };
        if how.reset_backoff {
            begin_anew(work, &waiting);
        }
        applied.ready = make_due(work, &waiting, how, cx.now);
        Ok(applied)
    }

    fn told(&self) -> (EventKind, &str) {
        (EventKind::Retried, self.why)
    }

    /// Due, in line, being tried, or tried since.
    fn is_there(&self, applied: &Applied, now: Option<Seen<'_>>) -> bool {
        let Some(now) = now else {
            return true;
        };
        applied.about.iter().all(|(index, attempts)| {
            now.state.recipients.get(*index).is_some_and(|recipient| {
                let is_due = match recipient.phase {
                    Phase::Waiting { next } => next <= applied.due,
                    Phase::Delivered { .. } | Phase::Failed { .. } => true,
                };
                let is_reset = !self.how.reset_backoff || recipient.forgiven >= *attempts;
                is_reset && (is_due || recipient.leased || recipient.attempts > *attempts)
            })
        })
    }

    fn ends_rests(&self) -> bool {
        self.how.ignore_breaker
    }
}

/// The schedule of these recipients begins anew.
pub(super) fn begin_anew(work: &mut Work, indices: &[usize]) {
    for index in indices {
        let recipient = &mut work.state.recipients[*index];
        work.dirty |= recipient.forgiven != recipient.attempts || recipient.wish_granted;
        recipient.forgiven = recipient.attempts;
        recipient.wish_granted = false;
    }
}

/// Gives deferred recipients an earlier time, or all of them the time that was asked for. Returns those that became ready.
pub(super) fn make_due(work: &mut Work, indices: &[usize], how: &Retry, now: SystemTime) -> Vec<u32> {
    let base = how.at.unwrap_or(now);
    // One time for all recipients of a message, so that they travel together.
    let time = base + how.spread.mul_f64(rand::random());
    let mut ready = Vec::new();
    for index in indices {
        let recipient = &mut work.state.recipients[*index];
        let Phase::Waiting { next: former } = recipient.phase else {
            continue;
        };
        if recipient.leased {
            continue;
        }
        let next = match (how.at, former) {
            (Some(_), _) => Some(time),
            // What stands in line is due already.
            (None, former) if recipient.is_due() => former,
            (None, _) if how.spread.is_zero() => None,
            (None, former) => former.map(|former| time.min(former)),
        };
        if next == former {
            continue;
        }
        recipient.wait_until(next);
        work.dirty = true;
        if next.is_none() {
            ready.push(*index as u32);
        }
    }
    ready
}

/// Fails or drops.
struct End<'a> {
    pick: &'a RecipientPick,
    ending: Ending,
}

impl Verb for End<'_> {
    fn apply(&self, work: &mut Work, cx: &Context<'_>) -> Result<Applied, Refusal> {
        let picked = picked(work, self.pick, cx);
        let applied = Applied { ended: picked.clone(), ..Applied::about(work, &picked) };
        let is_whole = self.ending.kind == EndingKind::Dropped && self.pick.takes_all(&work.envelope);
        if picked.is_empty() && !is_whole {
            return Err(NOTHING_WAITS.into());
        }
        // A message that nobody has in hand is removed as it is. Of another one, a crash must not forget what was wanted.
        if !is_whole || work.leases > 0 {
            picked.iter().for_each(|index| work.end(*index, self.ending.clone()));
        }
        if is_whole {
            work.discard();
        }
        Ok(applied)
    }

    fn told(&self) -> (EventKind, &str) {
        (self.ending.kind.event(), &self.ending.report.text)
    }

    fn is_there(&self, applied: &Applied, now: Option<Seen<'_>>) -> bool {
        now.is_none_or(|now| applied.has_ended(now))
    }
}
