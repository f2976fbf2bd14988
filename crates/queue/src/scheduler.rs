//! What is due, by destination, fairly; and the back-off of destinations.
//!
//! Every destination has a line of messages that are due. Destinations that may be served stand in a ring and are served
//! one message each in turn, so that a long line at one of them delays nobody at another. While a destination rests,
//! its line stays as it is: nothing is written, and no message uses up an attempt.
//!
//! Within a line the senders take turns (start-time fair queueing): each message is given a turn, one after the last turn
//! of the same sender, and not before that which is being served. Whoever sends a thousand messages has turns far ahead;
//! the one message of somebody else comes next. A priority brings a message forward by a number of turns, so that it
//! overtakes others and starves nobody. When an operator gives a message another priority, its places move by the
//! difference: it keeps its turn among the messages of its sender.
//!
//! Envelopes of messages that stand far behind need not be in memory: those in front of a line, its window, are loaded
//! before their turn comes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, SystemTime};

use postern_config as config;

use postern_smtp::Address;

use crate::ascending::AscendingMap;
use crate::envelope::{Envelope, Origin};
use crate::message::{Destination, Feedback, QueueId};

/// Recipients of a message that stand in the line of a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) id: QueueId,
    indices: Places,
    share: Share,
    /// Its turn, when it had one.
    turn: u64,
}

/// Indices in the envelope. `None` is the first one alone: most messages have one recipient, and a million of them wait
/// cheaply. A boxed slice would be twice as wide.
type Places = Option<Box<Vec<u32>>>;

fn places(indices: Vec<u32>) -> Places {
    if indices == [0] { None } else { Some(Box::new(indices)) }
}

impl Ready {
    pub(crate) fn new(id: QueueId, indices: Vec<u32>, share: Share) -> Self {
        Self { id, indices: places(indices), share, turn: 0 }
    }

    /// Some of its recipients, in the same turn.
    pub(crate) fn with(self, indices: Vec<u32>) -> Self {
        Self { indices: places(indices), ..self }
    }

    pub(crate) fn indices(&self) -> &[u32] {
        self.indices.as_deref().map_or(&[0], Vec::as_slice)
    }
}

/// Whose turn a message takes, and how far it is brought forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    sender: u32,
    priority: i8,
}

impl Share {
    /// That of the login it came from, else of its sender.
    pub(crate) fn of(envelope: &Envelope) -> Self {
        let mut hasher = DefaultHasher::new();
        match &envelope.origin {
            Origin::Login(login) => login.hash(&mut hasher),
            _ => envelope.reverse_path.address().map(Address::folded).hash(&mut hasher),
        }
        Self { sender: hasher.finish() as u32, priority: envelope.priority }
    }
}

/// What an operator should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A destination rests until a time, for a reason.
    Rests(SystemTime, String),
    /// A destination that rested answers again.
    Recovered,
}

/// Lines, rests and limits of all destinations.
#[derive(Debug, Default)]
pub(crate) struct Scheduler {
    destinations: HashMap<Destination, Line>,
    /// Destinations that may have something to lease, each once.
    ring: VecDeque<Destination>,
    /// When a destination must be looked at: its rest ends, or it is forgotten. May name a time that holds no longer.
    alarms: BinaryHeap<Reverse<(SystemTime, Destination)>>,
    /// Messages with another priority, and by how many turns their places lie too early for it. Moved together, as that
    /// takes one pass over all lines: before anybody is served, and before one of them gets a place more.
    moves: HashMap<QueueId, i64>,
}

/// Messages that are moved together at most: a map of some hundred kilobytes.
const MOVED_TOGETHER: usize = 10_000;

/// Turns of messages that are brought forward lie before it.
const FIRST_TURN: u64 = 1 << 32;

/// While others wait for a slot, one of so many messages of a destination gives its slot up.
const FAIR_SHARE: usize = 20;

/// Turns that one step of priority is worth.
const TURNS_PER_PRIORITY: i64 = 100;

/// Messages in front of a line that are loaded together: a fraction of a millisecond of reading, and a few megabytes for a
/// thousand lines of them.
const WINDOW: usize = 16;

/// Senders whose last turn is remembered, before those are forgotten whose turn has passed.
const REMEMBERED: usize = 64;

/// One destination.
#[derive(Debug)]
struct Line {
    /// By turn and age.
    ready: AscendingMap<(u64, QueueId), Places>,
    /// The turn that is being served.
    turn: u64,
    /// The last turn of each sender, if it lies ahead.
    turns: HashMap<u32, u64>,
    /// How many there may be before those that have passed are forgotten.
    turns_at_most: usize,
    /// Whether the messages in front are being loaded.
    loads: bool,
    /// Whether it waits for them.
    waits: bool,
    /// Whether it stands in the ring.
    in_ring: bool,
    /// Slots in use: leases, and those kept for the next message of a connection.
    in_flight: usize,
    /// Leases that were settled and are not yet durable.
    settling: usize,
    /// Of the slots in use, those of settled leases that nobody has taken over.
    lingering: usize,
    /// Messages in a row that came by [`Scheduler::next_for`].
    in_a_row: usize,
    /// Slots at most.
    limit: usize,
    /// Leases that reached the destination since the limit was last changed.
    successes: usize,
    /// Rests in a row.
    failures: u32,
    rests_until: Option<SystemTime>,
    reason: String,
    /// Whether an alarm is set that forgets it.
    will_be_forgotten: bool,
}

impl Line {
    fn new(sending: &config::Outbound) -> Self {
        Self {
            ready: AscendingMap::default(),
            turn: FIRST_TURN,
            turns: HashMap::new(),
            turns_at_most: REMEMBERED,
            loads: false,
            waits: false,
            in_ring: false,
            in_flight: 0,
            settling: 0,
            lingering: 0,
            in_a_row: 0,
            limit: initial_limit(sending),
            successes: 0,
            failures: 0,
            rests_until: None,
            reason: String::new(),
            will_be_forgotten: false,
        }
    }

    fn has_room(&self) -> bool {
        self.in_flight < self.limit && self.rests_until.is_none() && !self.waits
    }

    /// Gives a message its turn.
    fn push(&mut self, ready: Ready) {
        let Ready { id, indices, share, .. } = ready;
        let last = self.turns.get(&share.sender).copied().unwrap_or(0);
        let turn = last.max(self.turn) + 1;
        if self.turns.len() >= self.turns_at_most {
            self.turns.retain(|_, turn| *turn > self.turn);
            self.turns_at_most = REMEMBERED.max(2 * self.turns.len());
        }
        self.turns.insert(share.sender, turn);
        self.ready.insert((turn.saturating_add_signed(-forward(share.priority)), id), indices);
    }

    /// Moves the places of messages by so many turns.
    fn move_places(&mut self, moves: &HashMap<QueueId, i64>) {
        let mut moved = Vec::new();
        self.ready.retain(|(turn, id), indices| {
            let by = moves.get(&id);
            moved.extend(by.map(|by| (turn, id, *by, std::mem::take(indices))));
            by.is_none()
        });
        for (turn, id, by, indices) in moved {
            self.ready.insert((turn.saturating_add_signed(by), id), indices);
        }
    }

    /// Takes the message whose turn it is.
    fn pop(&mut self) -> Option<Ready> {
        let ((turn, id), indices) = self.ready.pop_first()?;
        // One that was brought forward does not bring the others back.
        self.turn = self.turn.max(turn);
        if self.ready.is_empty() {
            self.turns.clear();
        }
        Some(Ready { id, indices, share: Share { sender: 0, priority: 0 }, turn })
    }

    fn is_idle(&self) -> bool {
        self.ready.is_empty()
            && !self.loads
            && self.in_flight == 0
            && self.settling == 0
            && self.rests_until.is_none()
    }

    /// Whether forgetting it loses something that was learnt.
    fn has_history(&self, sending: &config::Outbound) -> bool {
        self.failures > 0 || self.limit < initial_limit(sending)
    }

    /// It answered. Returns whether that ends a time of failures.
    fn reached(&mut self, sending: &config::Outbound) -> bool {
        if self.failures > 0 {
            self.failures = 0;
            self.rests_until = None;
            self.limit = initial_limit(sending);
            self.successes = 0;
            return true;
        }
        self.successes += 1;
        if self.successes >= self.limit {
            self.limit = (self.limit + 1).min(sending.max_per_destination.max(1));
            self.successes = 0;
        }
        false
    }

    /// It did not answer. Returns until when it rests, unless it rests already: attempts that failed together count once.
    fn unreachable(
        &mut self,
        reason: &str,
        sending: &config::Outbound,
        now: SystemTime,
    ) -> Option<SystemTime> {
        self.reason = reason.to_owned();
        if self.rests_until.is_some() {
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        self.limit = 1;
        self.successes = 0;
        let until = now + rest(sending, self.failures);
        self.rests_until = Some(until);
        Some(until)
    }
}

/// By how many turns a priority brings a message forward.
fn forward(priority: i8) -> i64 {
    i64::from(priority) * TURNS_PER_PRIORITY
}

fn initial_limit(sending: &config::Outbound) -> usize {
    sending.initial_per_destination.min(sending.max_per_destination).max(1)
}

/// The n-th rest in a row.
fn rest(sending: &config::Outbound, failures: u32) -> Duration {
    let factor = 2_u32.saturating_pow(failures.saturating_sub(1));
    sending.destination_back_off.saturating_mul(factor).min(sending.destination_back_off_cap)
}

impl Scheduler {
    /// Puts recipients at the end of the line of their destination.
    pub(crate) fn push(&mut self, destination: Destination, ready: Ready, sending: &config::Outbound) {
        if self.moves.contains_key(&ready.id) {
            self.move_places();
        }
        self.line(&destination, sending).push(ready);
        self.consider(&destination);
    }

    /// Puts recipients at the head of the line: those that did not fit into the lease before.
    pub(crate) fn push_front(&mut self, destination: &Destination, ready: Ready, sending: &config::Outbound) {
        self.line(destination, sending).ready.insert((ready.turn, ready.id), ready.indices);
        self.consider(destination);
    }

    /// A message has another priority now: its places in the lines are moved.
    pub(crate) fn reprioritise(&mut self, id: QueueId, from: i8, to: i8) {
        if from == to {
            return;
        }
        *self.moves.entry(id).or_default() += forward(from) - forward(to);
        if self.moves.len() >= MOVED_TOGETHER {
            self.move_places();
        }
    }

    fn move_places(&mut self) {
        let moves = std::mem::take(&mut self.moves);
        for line in self.destinations.values_mut().filter(|line| !line.ready.is_empty()) {
            line.move_places(&moves);
        }
    }

    /// The message whose turn it is must be loaded first: puts it back, and nobody is served until
    /// [`Scheduler::window_loaded`]. Whether to begin to load; else it is being done.
    pub(crate) fn wait_for_window(&mut self, destination: &Destination, ready: Ready) -> bool {
        let Some(line) = self.destinations.get_mut(destination) else {
            return false;
        };
        line.ready.insert((ready.turn, ready.id), ready.indices);
        line.waits = true;
        !std::mem::replace(&mut line.loads, true)
    }

    /// The messages in front of a line.
    pub(crate) fn window(&self, destination: &Destination) -> impl Iterator<Item = QueueId> {
        let line = self.destinations.get(destination);
        line.into_iter().flat_map(|line| line.ready.keys().take(WINDOW).map(|(_, id)| id))
    }

    /// A message so near that those in front should be loaded, unless they are already.
    pub(crate) fn ahead(&self, destination: &Destination) -> Option<QueueId> {
        let line = self.destinations.get(destination).filter(|line| !line.loads)?;
        let place = (WINDOW / 2).min(line.ready.len().checked_sub(1)?);
        line.ready.keys().nth(place).map(|(_, id)| id)
    }

    /// The messages in front are being loaded; the line goes on meanwhile.
    pub(crate) fn loads_window(&mut self, destination: &Destination) {
        if let Some(line) = self.destinations.get_mut(destination) {
            line.loads = true;
        }
    }

    /// The messages in front are loaded.
    pub(crate) fn window_loaded(&mut self, destination: &Destination) {
        if let Some(line) = self.destinations.get_mut(destination) {
            (line.loads, line.waits) = (false, false);
        }
        self.consider(destination);
    }

    /// Takes the next recipients that may be leased, and a slot for them.
    pub(crate) fn next(&mut self) -> Option<(Destination, Ready)> {
        if !self.moves.is_empty() {
            self.move_places();
        }
        while let Some(destination) = self.ring.pop_front() {
            let Some(line) = self.destinations.get_mut(&destination) else {
                continue;
            };
            line.in_ring = false;
            if !line.has_room() {
                continue;
            }
            let Some(ready) = line.pop() else {
                continue;
            };
            line.in_flight += 1;
            line.in_a_row = 0;
            self.consider(&destination);
            return Some((destination, ready));
        }
        None
    }

    /// The same for one destination, taking over the slot of a settled lease where there is one. Not while more leases
    /// than the limit wait for the disk: what a crash makes happen twice must stay little however slow the disk is. And
    /// not for ever while other destinations could be served and nobody is there to do it.
    pub(crate) fn next_for(&mut self, destination: &Destination) -> Option<Ready> {
        if !self.moves.is_empty() {
            self.move_places();
        }
        let others_wait = self.others_wait(destination);
        let line = self.destinations.get_mut(destination)?;
        if others_wait && line.in_a_row >= FAIR_SHARE {
            line.in_a_row = 0;
            return None;
        }
        let takes_over = line.lingering > 0
            && line.rests_until.is_none()
            && line.in_flight <= line.limit
            && line.settling <= line.limit;
        if line.waits || (!takes_over && !line.has_room()) {
            return None;
        }
        let ready = line.pop()?;
        if takes_over {
            line.lingering -= 1;
        } else {
            line.in_flight += 1;
        }
        line.in_a_row += 1;
        Some(ready)
    }

    /// Whether another destination could be served. Whoever waits for any message would have taken it: so all are busy.
    fn others_wait(&self, destination: &Destination) -> bool {
        let is_served = |other: &Destination| {
            self.destinations.get(other).is_some_and(|line| line.has_room() && !line.ready.is_empty())
        };
        self.ring.iter().any(|other| other != destination && is_served(other))
    }

    /// Gives a slot back for which nothing could be leased.
    pub(crate) fn give_back(
        &mut self,
        destination: &Destination,
        sending: &config::Outbound,
        now: SystemTime,
    ) {
        if let Some(line) = self.destinations.get_mut(destination) {
            line.in_flight = line.in_flight.saturating_sub(1);
        }
        self.consider(destination);
        self.tidy(destination, sending, now);
    }

    /// A lease was settled. Its slot stays until [`Scheduler::durable`], unless [`Scheduler::next_for`] takes it over.
    pub(crate) fn settled(
        &mut self,
        destination: &Destination,
        feedback: &Feedback,
        sending: &config::Outbound,
        now: SystemTime,
    ) -> Option<Event> {
        let line = self.line(destination, sending);
        line.settling += 1;
        line.lingering += 1;
        match feedback {
            Feedback::Reached => line.reached(sending).then_some(Event::Recovered),
            Feedback::SlowDown(reason) if line.limit == 1 => {
                // Even one at a time is too much.
                let until = line.unreachable(reason, sending, now)?;
                self.alarms.push(Reverse((until, destination.clone())));
                Some(Event::Rests(until, reason.clone()))
            }
            Feedback::SlowDown(_) => {
                line.limit = (line.limit / 2).max(1);
                line.successes = 0;
                None
            }
            Feedback::Unreachable(reason) => {
                let until = line.unreachable(reason, sending, now)?;
                self.alarms.push(Reverse((until, destination.clone())));
                Some(Event::Rests(until, reason.clone()))
            }
            Feedback::Nothing => None,
        }
    }

    /// The outcome of a settled lease is durable: its slot is free unless it was taken over.
    pub(crate) fn durable(&mut self, destination: &Destination, sending: &config::Outbound, now: SystemTime) {
        if let Some(line) = self.destinations.get_mut(destination) {
            line.settling = line.settling.saturating_sub(1);
            if line.lingering > line.settling {
                line.lingering -= 1;
                line.in_flight = line.in_flight.saturating_sub(1);
            }
        }
        self.consider(destination);
        self.tidy(destination, sending, now);
    }

    /// Until when a destination rests, and why.
    pub(crate) fn rest_of(&self, destination: &Destination) -> Option<(SystemTime, &str)> {
        let line = self.destinations.get(destination)?;
        line.rests_until.map(|until| (until, line.reason.as_str()))
    }

    /// Ends the rest of a destination before its time: one probe follows. If that fails too the rests begin from the
    /// shortest: an operator who tries again and again must not make them longer.
    pub(crate) fn end_rest(&mut self, destination: &Destination) {
        if let Some(line) = self.destinations.get_mut(destination) {
            line.rests_until = None;
            line.failures = 0;
        }
        self.consider(destination);
    }

    /// Ends the rests whose time has come, and forgets destinations that were idle for long.
    pub(crate) fn run(&mut self, sending: &config::Outbound, now: SystemTime) {
        while let Some(Reverse((at, _))) = self.alarms.peek() {
            if *at > now {
                return;
            }
            let Some(Reverse((_, destination))) = self.alarms.pop() else {
                return;
            };
            let Some(line) = self.destinations.get_mut(&destination) else {
                continue;
            };
            if line.rests_until.is_some_and(|until| until <= now) {
                line.rests_until = None;
                line.will_be_forgotten = false;
                self.consider(&destination);
                self.tidy(&destination, sending, now);
            } else if line.is_idle() {
                self.destinations.remove(&destination);
            } else {
                line.will_be_forgotten = false;
            }
        }
    }

    /// The clock was put back: what was to end in a minute still does.
    pub(crate) fn clock_went_back(&mut self, by: Duration) {
        let earlier = |at: SystemTime| at.checked_sub(by).unwrap_or(SystemTime::UNIX_EPOCH);
        for line in self.destinations.values_mut() {
            line.rests_until = line.rests_until.map(earlier);
        }
        let alarms = std::mem::take(&mut self.alarms).into_iter();
        self.alarms = alarms.map(|Reverse((at, destination))| Reverse((earlier(at), destination))).collect();
    }

    /// When [`Scheduler::run`] has something to do.
    pub(crate) fn alarm(&self) -> Option<SystemTime> {
        self.alarms.peek().map(|Reverse((at, _))| *at)
    }

    /// Whether [`Scheduler::next`] may have something.
    pub(crate) fn has_next(&self) -> bool {
        !self.ring.is_empty()
    }

    /// Drops what stands in a line and is not due any more.
    pub(crate) fn retain(&mut self, mut is_due: impl FnMut(QueueId, &[u32]) -> bool) {
        for line in self.destinations.values_mut() {
            line.ready.retain(|(_, id), indices| is_due(id, indices.as_deref().map_or(&[0], Vec::as_slice)));
        }
    }

    fn line(&mut self, destination: &Destination, sending: &config::Outbound) -> &mut Line {
        self.destinations.entry(destination.clone()).or_insert_with(|| Line::new(sending))
    }

    /// Puts a destination into the ring if it may be served.
    fn consider(&mut self, destination: &Destination) {
        let Some(line) = self.destinations.get_mut(destination) else {
            return;
        };
        if !line.in_ring && line.has_room() && !line.ready.is_empty() {
            line.in_ring = true;
            self.ring.push_back(destination.clone());
        }
    }

    /// Forgets a destination with which nothing goes on; one with a history only after the longest rest, so that it does
    /// not look like a new one to the next message.
    fn tidy(&mut self, destination: &Destination, sending: &config::Outbound, now: SystemTime) {
        let line = self.destinations.get_mut(destination);
        let Some(line) = line.filter(|line| line.is_idle() && !line.in_ring && !line.will_be_forgotten)
        else {
            return;
        };
        if line.has_history(sending) {
            line.will_be_forgotten = true;
            self.alarms.push(Reverse((now + sending.destination_back_off_cap, destination.clone())));
        } else {
            self.destinations.remove(destination);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    struct Bench {
        scheduler: Scheduler,
        sending: config::Outbound,
        now: SystemTime,
        next_id: u64,
    }

    impl Bench {
        fn new() -> Self {
            let sending = config::Outbound {
                initial_per_destination: 2,
                max_per_destination: 4,
                destination_back_off: Duration::from_secs(60),
                destination_back_off_cap: Duration::from_secs(200),
                ..config::Outbound::default()
            };
            Self { scheduler: Scheduler::default(), sending, now: NOW, next_id: 0 }
        }

        fn push(&mut self, destination: &str, count: usize) {
            for _ in 0..count {
                self.next_id += 1;
                let ready = Ready::new(QueueId(self.next_id), vec![0], share(1));
                self.scheduler.push(to(destination), ready, &self.sending);
            }
        }

        fn settle(&mut self, destination: &str, feedback: Feedback) -> Option<Event> {
            let event = self.scheduler.settled(&to(destination), &feedback, &self.sending, self.now);
            self.scheduler.durable(&to(destination), &self.sending, self.now);
            event
        }

        fn pass(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
            self.scheduler.run(&self.sending, self.now);
        }

        /// Leases everything that may be leased; answers the destinations in the order they were served.
        fn drain(&mut self) -> Vec<String> {
            std::iter::from_fn(|| self.scheduler.next())
                .map(|(destination, _)| destination.to_string())
                .collect()
        }
    }

    fn share(sender: u32) -> Share {
        Share { sender, priority: 0 }
    }

    fn to(destination: &str) -> Destination {
        Destination(destination.into())
    }

    fn down() -> Feedback {
        Feedback::Unreachable("connection refused".to_owned())
    }

    #[test]
    fn destinations_take_turns() {
        let mut bench = Bench::new();
        bench.push("a", 1000);
        bench.push("b", 2);
        assert_eq!(bench.drain(), ["a", "b", "a", "b"]);
    }

    #[test]
    fn the_limit_grows_by_one_for_each_round_of_successes() {
        let mut bench = Bench::new();
        bench.push("a", 1000);
        assert_eq!(bench.drain().len(), 2);
        bench.settle("a", Feedback::Reached);
        assert_eq!(bench.drain().len(), 1);
        bench.settle("a", Feedback::Reached);
        assert_eq!(bench.drain().len(), 2, "one slot free and one more");
        for _ in 0..100 {
            bench.settle("a", Feedback::Reached);
            bench.drain();
        }
        assert_eq!(bench.scheduler.destinations[&to("a")].limit, 4);
    }

    #[test]
    fn slowing_down_halves_the_limit() {
        let mut bench = Bench::new();
        bench.push("a", 100);
        bench.drain();
        bench.settle("a", Feedback::SlowDown("421".to_owned()));
        assert_eq!(bench.drain().len(), 0);
        bench.settle("a", Feedback::Nothing);
        assert_eq!(bench.drain().len(), 1);
    }

    #[test]
    fn an_unreachable_destination_rests_longer_each_time_and_is_then_probed_once() {
        let mut bench = Bench::new();
        bench.push("a", 100);
        assert_eq!(bench.drain().len(), 2);
        let until = NOW + Duration::from_secs(60);
        assert_eq!(bench.settle("a", down()), Some(Event::Rests(until, "connection refused".to_owned())));
        assert_eq!(bench.settle("a", down()), None, "attempts that failed together count once");
        assert_eq!(bench.scheduler.rest_of(&to("a")), Some((until, "connection refused")));
        for rest in [60, 120, 200, 200] {
            bench.pass(rest - 1);
            assert_eq!(bench.drain().len(), 0);
            bench.pass(1);
            assert_eq!(bench.drain().len(), 1);
            bench.settle("a", down());
        }
        bench.pass(200);
        assert_eq!(bench.drain().len(), 1);
        assert_eq!(bench.settle("a", Feedback::Reached), Some(Event::Recovered));
        assert_eq!(bench.drain().len(), 2);
    }

    #[test]
    fn a_rest_is_no_longer_when_the_clock_is_put_back() {
        let mut bench = Bench::new();
        bench.now += Duration::from_secs(10_000);
        bench.push("a", 10);
        bench.drain();
        bench.settle("a", down());
        bench.settle("a", Feedback::Nothing);
        let step = Duration::from_secs(5000);
        bench.now -= step;
        bench.scheduler.clock_went_back(step);
        bench.pass(59);
        assert_eq!(bench.drain().len(), 0);
        bench.pass(1);
        assert_eq!(bench.drain().len(), 1);
    }

    #[test]
    fn a_rest_can_be_ended_by_hand() {
        let mut bench = Bench::new();
        bench.push("a", 10);
        bench.drain();
        bench.settle("a", down());
        bench.settle("a", Feedback::Nothing);
        assert_eq!(bench.drain().len(), 0);
        bench.scheduler.end_rest(&to("a"));
        assert_eq!(bench.drain().len(), 1);
    }

    #[test]
    fn a_connection_keeps_its_slot_for_the_next_message() {
        let mut bench = Bench::new();
        bench.push("a", 10);
        assert_eq!(bench.drain().len(), 2);
        assert_eq!(bench.scheduler.next_for(&to("a")), None);
        bench.scheduler.settled(&to("a"), &Feedback::Nothing, &bench.sending, NOW);
        assert_eq!(bench.drain().len(), 0, "the slot is kept");
        assert!(bench.scheduler.next_for(&to("a")).is_some());
        assert_eq!(bench.scheduler.next_for(&to("a")), None);
        bench.scheduler.durable(&to("a"), &bench.sending, NOW);
        assert_eq!(bench.drain().len(), 0, "it was taken over");
        bench.settle("a", Feedback::Nothing);
        assert_eq!(bench.drain().len(), 1);
    }

    #[test]
    fn a_destination_that_is_asked_to_slow_down_at_its_slowest_rests() {
        let slow = || Feedback::SlowDown("421 4.7.0 Too many messages".to_owned());
        let mut bench = Bench::new();
        bench.push("a", 100);
        bench.drain();
        assert_eq!(bench.settle("a", slow()), None);
        for rest in [60, 120] {
            assert!(matches!(bench.settle("a", slow()), Some(Event::Rests(..))));
            bench.settle("a", Feedback::Nothing);
            assert_eq!(bench.drain().len(), 0);
            bench.pass(rest - 1);
            assert_eq!(bench.drain().len(), 0);
            bench.pass(1);
            assert_eq!(bench.drain().len(), 1);
        }
    }

    #[test]
    fn a_connection_gives_its_slot_up_when_others_wait_for_one() {
        let mut bench = Bench::new();
        bench.push("a", 1000);
        bench.drain();
        let in_a_row = |bench: &mut Bench| {
            let deliver = |bench: &mut Bench| {
                bench.scheduler.settled(&to("a"), &Feedback::Nothing, &bench.sending, NOW);
                let next = bench.scheduler.next_for(&to("a"));
                bench.scheduler.durable(&to("a"), &bench.sending, NOW);
                next.is_some()
            };
            (0..100).take_while(|_| deliver(bench)).count()
        };
        assert_eq!(in_a_row(&mut bench), 100, "nobody waits");
        bench.push("b", 1);
        assert!(in_a_row(&mut bench) <= FAIR_SHARE);
        assert_eq!(bench.drain(), ["b", "a"]);
    }

    #[test]
    fn a_connection_does_not_run_ahead_of_the_disk() {
        let mut bench = Bench::new();
        bench.push("a", 100);
        bench.drain();
        let mut ahead = 0;
        while bench.scheduler.settled(&to("a"), &Feedback::Nothing, &bench.sending, NOW).is_none()
            && bench.scheduler.next_for(&to("a")).is_some()
        {
            ahead += 1;
        }
        assert_eq!(ahead, 2, "as many as the limit");
        assert_eq!(bench.drain().len(), 0);
        for _ in 0..=ahead {
            bench.scheduler.durable(&to("a"), &bench.sending, NOW);
        }
        assert_eq!(bench.drain().len(), 1);
    }

    #[test]
    fn idle_destinations_are_forgotten() {
        let mut bench = Bench::new();
        bench.push("a", 1);
        bench.push("b", 1);
        bench.drain();
        bench.settle("a", Feedback::Reached);
        bench.settle("b", down());
        assert_eq!(bench.scheduler.destinations.len(), 1, "one that failed is remembered");
        bench.pass(60);
        assert_eq!(bench.scheduler.destinations.len(), 1);
        bench.pass(200);
        assert_eq!(bench.scheduler.destinations.len(), 0);
        assert_eq!(bench.scheduler.alarm(), None);
    }

    #[test]
    fn senders_take_turns_in_a_line() {
        let mut bench = Bench::new();
        bench.sending.initial_per_destination = 4;
        let mut ids = Vec::new();
        for (sender, id) in [(1, 1), (1, 2), (1, 3), (1, 4), (2, 5), (3, 6), (2, 7)] {
            bench.scheduler.push(to("a"), Ready::new(QueueId(id), vec![0], share(sender)), &bench.sending);
        }
        while let Some((destination, ready)) = bench.scheduler.next() {
            ids.push(ready.id.0);
            bench.settle(&destination.0, Feedback::Nothing);
        }
        assert_eq!(ids, [1, 5, 6, 2, 7, 3, 4]);
    }

    #[test]
    fn who_comes_later_does_not_overtake_whoever_has_waited() {
        let mut bench = Bench::new();
        let push = |bench: &mut Bench, sender: u32, id: u64| {
            bench.scheduler.push(to("a"), Ready::new(QueueId(id), vec![0], share(sender)), &bench.sending);
        };
        for id in 1..=3 {
            push(&mut bench, 1, id);
        }
        let mut served = Vec::new();
        // A new sender with each message that is served: the first one still gets on.
        for newcomer in 100..110 {
            push(&mut bench, newcomer, newcomer.into());
            served.push(bench.scheduler.next().map(|(_, ready)| ready.id.0));
            bench.settle("a", Feedback::Nothing);
        }
        assert!([1, 2, 3].iter().all(|id| served.contains(&Some(*id))), "{served:?}");
    }

    #[test]
    fn a_priority_brings_forward_and_starves_nobody() {
        let mut bench = Bench::new();
        let push = |bench: &mut Bench, id: u64, priority: i8| {
            let share = Share { sender: id as u32, priority };
            bench.scheduler.push(to("a"), Ready::new(QueueId(id), vec![0], share), &bench.sending);
        };
        push(&mut bench, 1, -1);
        push(&mut bench, 2, 0);
        push(&mut bench, 3, 5);
        let mut served = Vec::new();
        for id in 10..400 {
            push(&mut bench, id, 0);
            served.push(bench.scheduler.next().map(|(_, ready)| ready.id.0));
            bench.settle("a", Feedback::Nothing);
        }
        assert_eq!(served[..2], [Some(3), Some(2)]);
        assert!(served[50..].contains(&Some(1)), "a low priority waits for some, not for ever");
    }

    /// The message that is served next.
    fn served(bench: &mut Bench) -> Option<u64> {
        let next = bench.scheduler.next().map(|(_, ready)| ready.id.0);
        bench.settle("a", Feedback::Nothing);
        next
    }

    #[test]
    fn another_priority_moves_the_places_of_a_message_and_leaves_no_other_behind() {
        let mut bench = Bench::new();
        // One sender, so that each message has a turn of its own.
        bench.push("a", 6);
        bench.scheduler.reprioritise(QueueId(5), 0, 3);
        bench.scheduler.reprioritise(QueueId(1), 0, -3);
        bench.scheduler.reprioritise(QueueId(6), 0, 9);
        // Twice before anybody is served, and back again.
        bench.scheduler.reprioritise(QueueId(6), 9, 4);
        bench.scheduler.reprioritise(QueueId(2), 0, 7);
        bench.scheduler.reprioritise(QueueId(2), 7, 0);
        bench.scheduler.reprioritise(QueueId(99), 0, 7);
        let order: Vec<u64> = std::iter::from_fn(|| served(&mut bench)).collect();
        assert_eq!(order, [6, 5, 2, 3, 4, 1]);
    }

    #[test]
    fn who_gets_a_place_after_another_priority_gets_the_one_of_that() {
        let mut bench = Bench::new();
        bench.push("a", 2);
        let push = |bench: &mut Bench, id: u64, priority: i8| {
            let share = Share { sender: id as u32, priority };
            bench.scheduler.push(to("a"), Ready::new(QueueId(id), vec![1], share), &bench.sending);
        };
        bench.scheduler.reprioritise(QueueId(2), 0, -1);
        // A recipient more of the same message, which is moved no further; and somebody between.
        push(&mut bench, 2, -1);
        push(&mut bench, 7, 0);
        let order: Vec<u64> = std::iter::from_fn(|| served(&mut bench)).collect();
        assert_eq!(order, [1, 7, 2, 2]);
        let turn = |bench: &mut Bench, id, from, to_priority| {
            bench.push("b", 1);
            bench.scheduler.reprioritise(QueueId(id), from, to_priority);
            bench.scheduler.next_for(&to("b")).map(|ready| ready.turn)
        };
        assert_eq!(turn(&mut bench, 3, 0, 1), Some(FIRST_TURN + 1 - 100), "also where one line is asked");
    }

    #[test]
    fn many_moves_are_not_collected_without_end() {
        let mut bench = Bench::new();
        bench.push("a", 3);
        for id in 1..=2 * MOVED_TOGETHER as u64 {
            bench.scheduler.reprioritise(QueueId(id), 0, if id == 3 { 9 } else { 1 });
            assert!(bench.scheduler.moves.len() < MOVED_TOGETHER);
        }
        let order: Vec<u64> = std::iter::from_fn(|| served(&mut bench)).collect();
        assert_eq!(order, [3, 1, 2]);
    }

    #[test]
    fn a_line_waits_for_the_window_it_needs() {
        let mut bench = Bench::new();
        bench.push("a", 3);
        let (destination, ready) = bench.scheduler.next().unwrap_or_else(|| panic!("nothing"));
        assert!(bench.scheduler.wait_for_window(&destination, ready.clone()));
        bench.scheduler.give_back(&destination, &bench.sending, bench.now);
        assert!(bench.drain().is_empty() && bench.scheduler.next_for(&destination).is_none());
        assert_eq!(bench.scheduler.window(&destination).next(), Some(ready.id), "it keeps its place");
        assert_eq!(bench.scheduler.ahead(&destination), None, "one at a time");
        bench.scheduler.window_loaded(&destination);
        assert_eq!(bench.scheduler.ahead(&destination), Some(QueueId(3)));
        assert_eq!(bench.scheduler.next().map(|(_, again)| again.id), Some(ready.id));
    }

    #[test]
    fn one_recipient_costs_twenty_four_octets_in_line() {
        assert_eq!(size_of::<((u64, QueueId), Places)>(), 24);
        assert_eq!(Ready::new(QueueId(1), vec![0], share(1)).indices(), [0]);
        assert_eq!(Ready::new(QueueId(1), vec![3, 5], share(1)).indices(), [3, 5]);
    }
}
