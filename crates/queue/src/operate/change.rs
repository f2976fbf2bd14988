//! How a verb changes messages: some hundred at a time, each change durable and then looked at again. Attempts under way are
//! not disturbed; what has become of them is said, and waited for if somebody wants it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::entry::{Loaded, Work};
use crate::envelope::Envelope;
use crate::events::{EventKind, Noted};
use crate::filter::RecipientPick;
use crate::message::QueueId;
use crate::messages::{Context, Effects, Messages, Refusal};
use crate::spool::StoreError;
use crate::state::MessageState;
use crate::watch::Watch;
use crate::{Inner, Queue};

/// Messages that a verb changes before it lets others at the queue.
pub(super) const STEP: usize = 500;

/// For the end of an attempt at most.
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// What a changing verb did. `changed` is counted after the change was durable and read back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Messages the filter found.
    pub matched: usize,
    /// Messages that are different now. Of those that are in `in_flight` too, the recipients that were being delivered are
    /// not yet what the verb wants them to be: it counts for them when their attempt has ended without delivery.
    pub changed: usize,
    /// Those that are not, with the reason (`in-flight`, `not held`, `delivered meanwhile` ...).
    pub skipped: Vec<(String, String)>,
    /// Of `skipped`, those that are changed and not yet durable, as the spool refused the change: it is written again until
    /// that works, and a crash before may undo it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub not_durable: usize,
    /// Messages with recipients that were being delivered when they were changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub in_flight: Vec<InFlight>,
    /// `retry`: messages that are due and still wait, as a destination of theirs rests.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub resting: usize,
}

/// A message that was changed while recipients of it were being delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlight {
    /// The queue id.
    pub id: String,
    /// How many recipients of those that the verb is about.
    pub recipients: usize,
    /// Those whose attempt had not ended when the answer was given.
    pub open: usize,
    /// Those whose attempt had ended with delivery: for them the verb came too late.
    pub delivered: usize,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// A verb, as it changes one message.
pub(super) trait Verb: Sync {
    /// Changes a message, or says why it is left alone: nothing is different then.
    fn apply(&self, work: &mut Work, cx: &Context<'_>) -> Result<Applied, Refusal>;

    /// Whether the change is there when the message is looked at again; `None`: the message has ended.
    fn is_there(&self, applied: &Applied, now: Option<Seen<'_>>) -> bool;

    /// What it is called in the journal, and why it is done.
    fn told(&self) -> (EventKind, &str);

    /// Whether the destinations of the message are tried though they rest.
    fn ends_rests(&self) -> bool {
        false
    }
}

/// What a verb did to a message.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// Recipients to be put in line.
    pub(super) ready: Vec<u32>,
    /// The recipients that it is about, those in hand included, each with its attempts so far.
    pub(super) about: Vec<(usize, u32)>,
    /// Those of them that it ends, or wants to end.
    pub(super) ended: Vec<usize>,
    /// Recipients of the message when it was done.
    pub(super) recipients: usize,
    /// When the last of them is due at the latest.
    pub(super) due: Option<SystemTime>,
}

/// A message when it is looked at again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) envelope: &'a Envelope,
    pub(super) state: &'a MessageState,
    /// Whether it is removed as soon as the attempts under way have ended.
    pub(super) is_discarded: bool,
}

impl Applied {
    /// About these recipients.
    pub(super) fn about(work: &Work, indices: &[usize]) -> Self {
        let about = indices.iter().map(|index| (*index, work.state.recipients[*index].attempts)).collect();
        Self { about, ..Self::default() }
    }

    /// Whether the recipients to be ended have ended, or will when the attempt at them has.
    pub(super) fn has_ended(&self, now: Seen<'_>) -> bool {
        self.ended
            .iter()
            .filter_map(|index| now.state.recipients.get(*index))
            .all(|recipient| now.is_discarded || !recipient.phase.is_waiting() || recipient.ending.is_some())
    }
}

/// The recipients that are not done, those in hand included.
pub(super) fn unfinished(work: &Work) -> Vec<usize> {
    let recipients = work.state.recipients.iter().enumerate();
    recipients.filter(|(_, recipient)| recipient.phase.is_waiting()).map(|(index, _)| index).collect()
}

/// Those of them that are meant.
pub(super) fn picked(work: &Work, pick: &RecipientPick, cx: &Context<'_>) -> Vec<usize> {
    let mut picked = unfinished(work);
    picked.retain(|index| pick.takes(&work.envelope, *index, cx));
    picked
}

/// A message that was changed.
struct Begun {
    id: QueueId,
    applied: Applied,
    watch: Option<Arc<Watch>>,
}

/// Hears when a change is durable; `None`: there is nothing to write, the change is one of memory alone.
type Durable = Option<oneshot::Receiver<Result<(), Arc<StoreError>>>>;

impl Queue {
    /// Changes messages, waits up to `wait` for the attempts under way at them, and looks at them again.
    pub(super) async fn change(&self, ids: &[QueueId], wait: Duration, verb: &impl Verb) -> Change {
        let deadline = Instant::now() + wait.min(MAX_WAIT);
        let mut change = Change { matched: ids.len(), ..Change::default() };
        let mut open = Vec::new();
        let mut steps = ids.chunks(STEP);
        while let Some(step) = steps.next() {
            let (begun, refusal) = self.change_step(step, verb, &mut change).await;
            let is_awaited = |begun: &Begun| begun.watch.is_some() && !wait.is_zero();
            let (awaited, done) = begun.into_iter().partition(is_awaited);
            open.extend::<Vec<Begun>>(awaited);
            self.conclude(done, verb, &mut change).await;
            if let Some(error) = refusal {
                // What is changed and not written stays unpacked in memory.
                let reason = format!("left alone, as changes cannot be written now: {error}");
                change.skipped.extend(steps.by_ref().flatten().map(|id| (id.to_string(), reason.clone())));
            }
        }
        loop {
            // From here on no end of an attempt is missed.
            let progress = self.inner.progress.notified();
            let settled: Vec<Begun>;
            (settled, open) = open.into_iter().partition(|begun| self.inner.has_settled(begun));
            self.conclude(settled, verb, &mut change).await;
            if open.is_empty() || timeout_at(deadline, progress).await.is_err() {
                break;
            }
        }
        self.conclude(open, verb, &mut change).await;
        change
    }

    /// Changes some messages and waits until that is durable. Returns those of which it is, and why it is not of the others.
    async fn change_step(
        &self,
        ids: &[QueueId],
        verb: &impl Verb,
        change: &mut Change,
    ) -> (Vec<Begun>, Option<Arc<StoreError>>) {
        let mut begun = Vec::with_capacity(ids.len());
        let on_each = |id: QueueId, messages: &mut Messages, cx: &Context<'_>, fx: &mut Effects| match begin(
            messages, id, verb, cx, fx,
        ) {
            Ok(one) => begun.push(one),
            Err(reason) => change.skipped.push((id.to_string(), reason.into_owned())),
        };
        let unread = self.inner.with_each(ids, on_each).await;
        change.skipped.extend(unread.into_iter().map(|(id, error)| (id.to_string(), error.to_string())));
        let mut done = Vec::with_capacity(begun.len());
        let mut refusal = None;
        for (begun, durable) in begun {
            match written(durable).await {
                Ok(()) => done.push(begun),
                Err(error) => {
                    change.not_durable += 1;
                    change.skipped.push((begun.id.to_string(), not_durable(&error)));
                    refusal = Some(error);
                }
            }
        }
        (done, refusal)
    }

    /// Looks at messages again, and counts them.
    async fn conclude(&self, begun: Vec<Begun>, verb: &impl Verb, change: &mut Change) {
        let ids: Vec<QueueId> = begun.iter().map(|begun| begun.id).collect();
        let mut begun = begun.into_iter();
        let look = |id: QueueId, messages: &Messages, loaded: Option<&Loaded>| {
            if let Some(begun) = begun.next() {
                let (is_there, is_gone) = look_again(id, messages, loaded, |now| {
                    (verb.is_there(&begun.applied, now), now.is_none())
                });
                begun.count(is_there, is_gone, change);
            }
        };
        self.inner.look_at_each(&ids, look).await;
    }
}

/// Looks at a message; `None`: it has ended. One that cannot be read is as good as gone to whoever asks.
fn look_again<R>(
    id: QueueId,
    messages: &Messages,
    loaded: Option<&Loaded>,
    look: impl Fn(Option<Seen<'_>>) -> R,
) -> R {
    let seen = messages.entry(id).and_then(|entry| {
        let is_discarded = entry.work.as_ref().is_some_and(|work| work.discarded);
        entry.read(loaded, |envelope, state| look(Some(Seen { envelope, state, is_discarded }))).ok()
    });
    seen.unwrap_or_else(|| look(None))
}

impl Begun {
    /// Counts what became of it.
    fn count(self, is_there: bool, is_gone: bool, change: &mut Change) {
        let Self { id, applied, watch } = self;
        let delivered = watch.as_ref().map_or(0, |watch| watch.delivered());
        if let Some(watch) = watch {
            let (recipients, open) = (watch.recipients(), watch.open());
            change.in_flight.push(InFlight { id: id.to_string(), recipients, open, delivered });
        }
        let skipped = match (is_there, is_gone) {
            _ if delivered > 0 && delivered == applied.about.len() => "delivered meanwhile",
            (true, _) => {
                change.changed += 1;
                return;
            }
            (false, true) => "ended meanwhile",
            (false, false) => "changed again",
        };
        change.skipped.push((id.to_string(), skipped.to_owned()));
    }
}

impl Inner {
    /// Whether the attempts at a message have ended, and what they ended with is durable.
    fn has_settled(&self, begun: &Begun) -> bool {
        if begun.watch.as_ref().is_some_and(|watch| watch.open() > 0) {
            return false;
        }
        let messages = self.messages.lock();
        let work = messages.entry(begun.id).and_then(|entry| entry.work.as_ref());
        work.is_none_or(|work| !work.dirty && !work.writing && !work.discarded)
    }
}

/// Waits until a change is durable. One of which nobody tells is not.
async fn written(durable: Durable) -> Result<(), Arc<StoreError>> {
    match durable {
        Some(durable) => durable.await.unwrap_or_else(|_| Err(Arc::new(StoreError::Closed))),
        None => Ok(()),
    }
}

/// What is said of a message that is changed in memory, and not in the spool.
fn not_durable(error: &StoreError) -> String {
    match error {
        StoreError::Closed => "changed, but the queue was closed before that was durable".to_owned(),
        error => format!("changed, but not durable yet: it is written again until it is ({error})"),
    }
}

/// Applies a verb to one message.
fn begin(
    messages: &mut Messages,
    id: QueueId,
    verb: &impl Verb,
    cx: &Context<'_>,
    fx: &mut Effects,
) -> Result<(Begun, Durable), Refusal> {
    let mut done = None;
    let mut durable = None;
    let told = verb.told();
    let mut noted = Noted::default();
    messages.change(id, cx, fx, |work| {
        let before = if cx.events.wants(told.0) { unfinished(work) } else { Vec::new() };
        let mut applied = verb.apply(work, cx)?;
        let in_hand: Vec<usize> = applied
            .about
            .iter()
            .map(|(index, _)| *index)
            .filter(|i| work.state.recipients[*i].leased)
            .collect();
        let watch = (!in_hand.is_empty()).then(|| work.watch(in_hand));
        if work.dirty || work.discarded {
            let (waiter, answer) = oneshot::channel();
            work.waiters.push(waiter);
            durable = Some(answer);
        }
        // What an attempt has in hand ends with it, and is told then.
        let is_about = |index: &usize| {
            let recipient = &work.state.recipients[*index];
            let has_ended = !recipient.phase.is_waiting() || (work.discarded && !recipient.leased);
            !told.0.is_end() || has_ended
        };
        let about: Vec<usize> = before.into_iter().filter(is_about).collect();
        noted.operator(told, id, work, &about, cx);
        let ready = std::mem::take(&mut applied.ready);
        done = Some(Begun { id, applied, watch });
        Ok(ready)
    })?;
    fx.events.append(noted);
    if verb.ends_rests() {
        messages.end_rests(id, cx);
    }
    Ok((done.ok_or("gone")?, durable))
}
