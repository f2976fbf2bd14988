//! Whether delivery attempts get on. One that takes no step for `queue.stall_limit` is told to end; one that does not react
//! to that for as long again loses its lease. So neither a message nor a slot waits for ever, whatever the fault is.
//!
//! The time-outs of a delivery end it long before. This is for what they do not cover: a filesystem that hangs, a wait that
//! somebody forgot to bound, a library that never comes back.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use postern_runtime::Clock;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::Inner;
use crate::message::{Destination, Feedback, QueueId};
use crate::messages::Settlement;
use crate::operate::seconds;

/// What an attempt has done, for whoever must tell the queue of its steps. Cheap to clone; the default tells nobody.
#[derive(Debug, Clone, Default)]
pub struct Progress(Option<Arc<Attempt>>);

impl Progress {
    pub(crate) fn new(attempt: Arc<Attempt>) -> Self {
        Self(Some(attempt))
    }

    /// A step is done; operators read its name (`connected`, `reply to DATA received`). Costs a look at the clock.
    pub fn step(&self, step: &'static str) {
        self.note(step, false);
    }

    /// From here to the next step the attempt waits for other attempts, which are watched themselves: that is no standstill.
    pub fn waits(&self, step: &'static str) {
        self.note(step, true);
    }

    fn note(&self, step: &'static str, waits: bool) {
        if let Some(attempt) = &self.0 {
            let at = attempt.clock.running();
            let mut course = attempt.course.lock();
            *course = Course { step, at, waits, ..*course };
        }
    }
}

/// One lease, as it is watched.
pub(crate) struct Attempt {
    pub(crate) id: QueueId,
    pub(crate) destination: Destination,
    /// The recipients it has in hand.
    pub(crate) indices: Vec<usize>,
    began: SystemTime,
    clock: Arc<dyn Clock>,
    /// Never held for longer than it takes to copy it, and by two at once only when the timer looks.
    course: Mutex<Course>,
    /// Fires when the attempt is to end.
    pub(crate) stop: CancellationToken,
}

/// How far an attempt has come. Times are those of [`Clock::running`], which nobody can set.
#[derive(Debug, Clone, Copy)]
struct Course {
    step: &'static str,
    at: Duration,
    waits: bool,
    /// When it was told to end.
    told: Option<Duration>,
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Attempt");
        shown.field("id", &self.id).field("destination", &self.destination).finish_non_exhaustive()
    }
}

impl Attempt {
    pub(crate) fn new(
        id: QueueId,
        destination: Destination,
        indices: Vec<usize>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let course = Course { step: "leased", at: clock.running(), waits: false, told: None };
        let (course, began) = (Mutex::new(course), clock.now());
        Self { id, destination, indices, began, clock, course, stop: CancellationToken::new() }
    }

    /// What it did last.
    pub(crate) fn step(&self) -> &'static str {
        self.course.lock().step
    }

    /// Decides what is to be done with it now, and when it must be looked at again.
    fn judge(&self, limit: Duration, now: Duration) -> (Option<Verdict>, Duration) {
        let mut course = self.course.lock();
        let since = match course.told {
            None if course.waits => now,
            None => course.at,
            Some(told) => told,
        };
        let due = since.saturating_add(limit);
        if now < due {
            return (None, due);
        }
        if course.told.is_some() {
            return (Some(Verdict::End), due);
        }
        course.told = Some(now);
        (Some(Verdict::Tell), now.saturating_add(limit))
    }

    fn view(&self) -> AttemptView {
        let course = *self.course.lock();
        let ago = self.clock.running().saturating_sub(course.at);
        let step_at = self.clock.now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
        AttemptView {
            id: self.id.to_string(),
            destination: self.destination.to_string(),
            recipients: self.indices.len(),
            began: seconds(self.began),
            step: course.step.to_owned(),
            step_at: seconds(step_at),
        }
    }
}

/// A delivery attempt under way, as operators see it. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptView {
    /// The message.
    pub id: String,
    /// Where to.
    pub destination: String,
    /// How many recipients it has in hand.
    pub recipients: usize,
    /// When it began.
    pub began: u64,
    /// What it did last.
    pub step: String,
    /// When it did that.
    pub step_at: u64,
}

/// What becomes of an attempt that stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It is told to end.
    Tell,
    /// It was told; its lease is over.
    End,
}

/// All leases. There are as many as deliveries at once, a few hundred, so that looking at all of them is cheap; and they are
/// looked at only when the one that has done nothing for longest may be due.
#[derive(Debug, Default)]
pub(crate) struct Attempts(Mutex<Live>);

#[derive(Debug, Default)]
struct Live {
    /// By generation, which is by age. No generation is used twice: what comes from a lease that was ended meets nothing here.
    attempts: BTreeMap<u64, Arc<Attempt>>,
    last: u64,
    /// When to look again, for which limit.
    look: Option<(Duration, Duration)>,
}

impl Attempts {
    /// Takes a lease in. Returns its generation, and whether the timer must be woken to hear of it.
    fn begin(&self, attempt: Arc<Attempt>, limit: Duration) -> (u64, bool) {
        let begun = attempt.clock.running();
        let mut live = self.0.lock();
        live.last += 1;
        let generation = live.last;
        live.attempts.insert(generation, attempt);
        // Who comes later is due later, so a look that is planned is early enough.
        let wakes = live.look.is_none();
        if wakes {
            live.look = Some((begun.saturating_add(limit), limit));
        }
        (generation, wakes)
    }

    /// Ends a lease. Returns whether it was one still: whoever ends it first says what became of it.
    pub(crate) fn end(&self, generation: u64) -> bool {
        self.0.lock().attempts.remove(&generation).is_some()
    }

    /// Finds those that stand still.
    fn look(&self, limit: Duration, now: Duration) -> Vec<(Verdict, Arc<Attempt>)> {
        let mut live = self.0.lock();
        let is_due = |(at, planned_for): (Duration, Duration)| at <= now || planned_for != limit;
        if !live.look.is_some_and(is_due) {
            return Vec::new();
        }
        let mut found = Vec::new();
        let mut next = None;
        live.attempts.retain(|_, attempt| {
            let (verdict, due) = attempt.judge(limit, now);
            found.extend(verdict.map(|verdict| (verdict, attempt.clone())));
            let stays = verdict != Some(Verdict::End);
            if stays {
                next = next.into_iter().chain([due]).min();
            }
            stays
        });
        live.look = next.map(|at| (at, limit));
        found
    }

    fn next_look(&self) -> Option<Duration> {
        self.0.lock().look.map(|(at, _)| at)
    }

    /// The attempt that began first, of all or of one message.
    pub(crate) fn oldest(&self, of: Option<QueueId>) -> Option<AttemptView> {
        let live = self.0.lock();
        let oldest = live.attempts.values().find(|attempt| of.is_none_or(|id| attempt.id == id)).cloned();
        drop(live);
        oldest.map(|attempt| attempt.view())
    }
}

impl Inner {
    /// Begins to watch a lease; answers its generation.
    pub(crate) fn watch(&self, attempt: Arc<Attempt>) -> u64 {
        let (generation, wakes) = self.attempts.begin(attempt, self.surroundings.schedule().stall_limit);
        if wakes {
            self.timer.notify_one();
        }
        generation
    }

    /// When [`Inner::end_standstill`] has something to do.
    pub(crate) fn next_look(&self) -> Option<SystemTime> {
        let wait = self.attempts.next_look()?.saturating_sub(self.clock.running());
        self.clock.now().checked_add(wait)
    }

    /// Tells attempts that stand still to end, and ends the leases of those that do not react.
    pub(crate) fn end_standstill(self: &Arc<Self>) {
        let limit = self.surroundings.schedule().stall_limit;
        for (verdict, attempt) in self.attempts.look(limit, self.clock.running()) {
            let Attempt { id, destination, .. } = &*attempt;
            let (step, seconds) = (attempt.step(), limit.as_secs_f64());
            match verdict {
                Verdict::Tell => {
                    self.metrics.stalls.inc();
                    error!(event = "stalled", %id, %destination, step, seconds, "delivery attempt makes no progress: it is told to end");
                    attempt.stop.cancel();
                }
                Verdict::End => {
                    self.metrics.forced_ends.inc();
                    error!(event = "forced-end", %id, %destination, step, seconds, "delivery attempt does not end: its lease is over");
                    self.strike(nothing_known(&attempt), step);
                }
            }
        }
    }
}

/// What is known of an attempt that said nothing.
pub(crate) fn nothing_known(attempt: &Attempt) -> Settlement {
    Settlement {
        id: attempt.id,
        destination: attempt.destination.clone(),
        indices: attempt.indices.clone(),
        outcomes: Vec::new(),
        feedback: Feedback::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use postern_runtime::ManualClock;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(1800);
    const MINUTE: Duration = Duration::from_secs(60);

    struct Bench {
        clock: ManualClock,
        attempts: Attempts,
        limit: Duration,
    }

    impl Bench {
        fn new() -> Self {
            let clock = ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_284_325));
            Self { clock, attempts: Attempts::default(), limit: LIMIT }
        }

        fn begin(&self, id: u64) -> (Progress, u64, bool) {
            let to = Destination("mx adatum.test".into());
            let attempt = Arc::new(Attempt::new(QueueId(id), to, vec![0], Arc::new(self.clock.clone())));
            let (generation, wakes) = self.attempts.begin(attempt.clone(), self.limit);
            (Progress::new(attempt), generation, wakes)
        }

        /// What a look finds after a time: the verdicts and the messages.
        fn after(&self, time: Duration) -> Vec<(Verdict, u64)> {
            self.clock.advance(time);
            let found = self.attempts.look(self.limit, self.clock.running());
            found.into_iter().map(|(verdict, attempt)| (verdict, attempt.id.0)).collect()
        }
    }

    #[test]
    fn an_attempt_that_stands_still_is_told_and_then_ended() {
        let bench = Bench::new();
        let (progress, generation, wakes) = bench.begin(1);
        assert!(wakes, "the timer sleeps without leases");
        assert_eq!(bench.after(LIMIT - MINUTE), []);
        assert_eq!(bench.after(MINUTE), [(Verdict::Tell, 1)]);
        // Too late: it was to end, not to go on.
        progress.step("connected");
        assert_eq!(bench.after(LIMIT - MINUTE), []);
        assert_eq!(bench.after(MINUTE), [(Verdict::End, 1)]);
        assert!(!bench.attempts.end(generation), "it has no lease to end");
        assert_eq!(bench.attempts.next_look(), None);
    }

    #[test]
    fn steps_and_waiting_for_others_are_no_standstill() {
        let bench = Bench::new();
        let (busy, generation, _) = bench.begin(1);
        let (waiting, _, wakes) = bench.begin(2);
        assert!(!wakes, "it is due later than what the timer sleeps for");
        waiting.waits("waiting");
        for _ in 0..10 {
            assert_eq!(bench.after(LIMIT - MINUTE), []);
            busy.step("content sent");
        }
        assert!(bench.attempts.end(generation));
        waiting.step("read");
        assert_eq!(bench.after(LIMIT), [(Verdict::Tell, 2)]);
    }

    #[test]
    fn leases_are_looked_at_when_the_first_may_be_due_and_not_before() {
        let bench = Bench::new();
        bench.begin(1);
        let due = bench.clock.running() + LIMIT;
        bench.clock.advance(MINUTE);
        bench.begin(2);
        assert_eq!(bench.attempts.next_look(), Some(due));
        assert_eq!(bench.after(LIMIT - MINUTE), [(Verdict::Tell, 1)]);
        assert_eq!(bench.attempts.next_look(), Some(due + MINUTE));
        assert_eq!(bench.after(MINUTE), [(Verdict::Tell, 2)]);
    }

    #[test]
    fn a_shorter_limit_counts_at_once() {
        let mut bench = Bench::new();
        bench.begin(1);
        bench.clock.advance(MINUTE);
        bench.limit = MINUTE;
        assert_eq!(bench.after(Duration::ZERO), [(Verdict::Tell, 1)]);
    }

    #[test]
    fn the_oldest_attempt_is_shown_with_its_last_step() {
        let bench = Bench::new();
        assert_eq!(bench.attempts.oldest(None), None);
        bench.begin(1);
        let (second, ..) = bench.begin(2);
        let began = seconds(bench.clock.now());
        bench.clock.advance(MINUTE);
        second.step("connected");
        bench.clock.advance(MINUTE);
        let expected = AttemptView {
            id: QueueId(2).to_string(),
            destination: "mx adatum.test".to_owned(),
            recipients: 1,
            began,
            step: "connected".to_owned(),
            step_at: began + 60,
        };
        assert_eq!(bench.attempts.oldest(Some(QueueId(2))), Some(expected));
        assert_eq!(bench.attempts.oldest(None).map(|attempt| attempt.id), Some(QueueId(1).to_string()));
    }

    #[test]
    fn steps_that_nobody_watches_are_no_harm() {
        Progress::default().step("connected");
    }
}
