//! What waits, and until when: the durable spool, its index, the schedule and delivery reports.
//!
//! Inbound and outbound meet only here. A message is accepted with [`Queue::incoming`], worked on under a [`Lease`],
//! and every outcome is told with [`Queue::settle`]; operators list and change it with the verbs at the end of [`Queue`].
//! Nothing outside this crate may know that the spool is on a local disk, and inside it the engine only knows a [`Spool`].
//!
//! | module | what |
//! |---|---|
//! | [`envelope`] | what is kept of a message beside its content, and its encoding |
//! | [`terms`] | what a sender demands of every server on the way |
//! | `state` | what became of its recipients so far, and its encoding |
//! | `codec` | tag, length, value |
//! | [`message`] | states, outcomes, views |
//! | [`door`] | a queue for those who need it before it is loaded |
//! | [`incoming`] | a message while it is being received |
//! | [`lease`] | the right to work on some recipients of a message |
//! | [`progress`] | whether attempts get on |
//! | `messages`, `entry` | all messages in memory, and what can happen to one |
//! | `ascending` | the map that they are in |
//! | `cold`, `domains` | messages whose envelopes are left to the spool, and what is known of them all the same |
//! | `edits` | what operators have changed of an envelope |
//! | `watch` | the ends of attempts that an operator waits for |
//! | [`scheduler`] | what is due, by destination, fairly; back-off of destinations |
//! | [`retry`] | when a recipient is tried again |
//! | [`dsn`] | delivery status notifications (RFC 3464) |
//! | `reports`, `owing` | reports that are owed, and whose turn it is |
//! | `log` | lines for the log, until the messages are not locked any more |
//! | `lost` | messages of which the spool has lost the content |
//! | [`operate`] | the verbs of operators: list, hold, release, retry, fail, drop, edit, reroute, requeue |
//! | `filter` | which messages they take |
//! | [`events`] | what happens, told to those who watch |
//! | [`history`] | the journal of it, and its search |
//! | [`rules`] | standing rules: what becomes of messages that arrive and match |
//! | [`transfer`] | moving a message to another machine's queue |
//! | [`spool`] | what all of this asks of the store below it |
//! | [`store`] | the store on a disk, and the promise: records durable before they are acknowledged |
//! | [`memory`] | a store for tests that keeps nothing |
//! | [`upkeep`] | what operators ask of the spool: is it whole, a backup, what was set aside |
//! | [`metrics`] | counters and gauges |

mod ascending;
mod codec;
mod cold;
mod domains;
pub mod door;
pub mod dsn;
mod edits;
mod entry;
pub mod envelope;
pub mod events;
mod filter;
pub mod history;
pub mod incoming;
pub mod lease;
mod log;
mod lost;
pub mod memory;
pub mod message;
mod messages;
pub mod metrics;
pub mod operate;
mod owing;
pub mod progress;
mod reports;
pub mod retry;
pub mod rules;
pub mod scheduler;
pub mod spool;
mod state;
pub mod store;
pub mod terms;
pub mod transfer;
pub mod upkeep;
mod watch;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use postern_config as config;
use postern_runtime::Clock;
use postern_smtp::{Address, Domain, ReversePath};
use spool::{Found, News, Recovered};
use state::MessageState;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

pub use door::{Door, Opener};
pub use envelope::{Envelope, Origin, Recipient};
pub use incoming::{AcceptError, Incoming};
pub use lease::{Content, Lease, LeasedRecipient};
pub use message::{Destination, Feedback, Handover, Outcome, QueueId, Report};
pub use operate::{Change, Filter, MessageView, RecipientView, Turned};
pub use progress::{AttemptView, Progress};
pub use spool::{Spool, StoreError};
pub use store::Claim;
pub use terms::{DeliverBy, Late, Terms};
pub use transfer::Transfer;

/// What the queue asks of its surroundings; answered by the daemon from the configuration in force.
pub trait Surroundings: Send + Sync + std::fmt::Debug {
    /// Which destination a recipient waits for: recipients with the same one share connections, concurrency and back-off.
    /// `via` is a route that an operator has chosen, as [`Surroundings::checked_route`] gave it; one that the configuration
    /// in force has no more counts as none.
    fn destination(&self, sender: &ReversePath, recipient: &Address, via: Option<&str>) -> Destination;

    /// Reads a route that an operator chooses, and answers how it is kept.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right, in words.
    fn checked_route(&self, via: &str) -> Result<String, String>;

    /// Whether the recipient is of a domain of ours: no route takes it elsewhere.
    fn is_local(&self, recipient: &Address) -> bool;

    /// Who is behind an address now: the address itself unless it is a local alias. Empty: nobody any more.
    fn final_recipients(&self, address: &Address) -> Vec<Address>;

    /// The host name in reports.
    fn hostname(&self) -> Domain;

    /// Retry schedule and lifetimes.
    fn schedule(&self) -> Arc<config::Queue>;

    /// Concurrency and back-off of destinations.
    fn sending(&self) -> Arc<config::Outbound>;
}

/// A queue over one [`Spool`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Queue {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spool: Arc<dyn Spool>,
    /// The same, if it is on a disk: for what only such a store can do.
    disk: Option<Arc<store::Store>>,
    surroundings: Arc<dyn Surroundings>,
    clock: Arc<dyn Clock>,
    metrics: metrics::Metrics,
    /// Those who watch, and the journal.
    events: Arc<events::Hub>,
    rules: Arc<rules::Rules>,
    inline_limit: u64,
    /// Never held while waiting, and never while the spool is called.
    messages: Mutex<messages::Messages>,
    /// All leases. Never locked together with the messages.
    attempts: progress::Attempts,
    /// Something may be leased.
    leasable: Notify,
    /// The timer must sleep shorter.
    timer: Arc<Notify>,
    /// Messages whose report is to be composed: as many as there may be at a time.
    reports: mpsc::UnboundedSender<QueueId>,
    /// Messages that must be read from the spool.
    loads: cold::Loads,
    /// Room for what is on its way to the spool, in KiB.
    backlog: Arc<Semaphore>,
    /// Messages being received.
    arriving: AtomicUsize,
    /// Changes on their way to the spool.
    pending: AtomicUsize,
    /// No change is on its way any more.
    quiet: Notify,
    /// A lease has ended, or a change is durable: for operators who wait for it.
    progress: Notify,
    /// Messages whose content is gone.
    lost: Mutex<Vec<QueueId>>,
    /// Whether the last change was refused.
    failing: AtomicBool,
    closing: CancellationToken,
    tasks: TaskTracker,
}

/// Octets on their way to the spool at most, in KiB; more wait for [`Incoming::commit`]'s time-out.
const BACKLOG_UNITS: usize = 64 * 1024;

/// Messages that the timer works on before it lets others at the lock.
const TIMER_STEP: usize = 200;

/// What was found when the queue was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Messages in the queue.
    pub messages: usize,
    /// Records that could not be read and were set aside.
    pub damaged: usize,
    /// Why the index was rebuilt, if it was.
    pub index_rebuilt: Option<String>,
}

impl Queue {
    /// Opens the spool, recovers what is in it, and starts the threads that write. Call it off the event loop, inside a
    /// tokio runtime. How to begin without waiting for all of it: [`Door`].
    ///
    /// # Errors
    /// When the directory cannot be used at all: no right to write, another daemon has it, an unknown format.
    /// Damage to single messages is no error: they are set aside and counted.
    pub fn open(
        config: &config::Queue,
        surroundings: Arc<dyn Surroundings>,
        clock: Arc<dyn Clock>,
        metrics: metrics::Metrics,
    ) -> Result<(Self, Recovery), StoreError> {
        let claim = Self::claim(config)?;
        Self::load(claim, config, surroundings, clock, metrics, &AtomicUsize::new(0))
    }

    /// The beginning of [`Queue::open`]: makes the spool ours. It takes no time, and finds what most often keeps a spool
    /// from being used.
    ///
    /// # Errors
    /// When the directory cannot be written, another daemon has it, or it is of an unknown format.
    pub fn claim(config: &config::Queue) -> Result<store::Claim, StoreError> {
        store::Store::claim(&config.path, Arc::new(store::files::SystemFiles))
    }

    /// The rest of [`Queue::open`]. `read` is how many messages are known so far.
    fn load(
        claim: store::Claim,
        config: &config::Queue,
        surroundings: Arc<dyn Surroundings>,
        clock: Arc<dyn Clock>,
        metrics: metrics::Metrics,
        read: &AtomicUsize,
    ) -> Result<(Self, Recovery), StoreError> {
        let (tuning, meter, time) = (store::Tuning::default(), metrics.spool.clone(), clock.clone());
        Self::start(config, surroundings, clock, metrics, read, |tell| {
            let (store, found) = store::Store::open_claimed(claim, config, time, tuning, meter, tell)?;
            let store = Arc::new(store);
            Ok(Opened { spool: store.clone(), disk: Some(store), found })
        })
    }

    /// The same over any store: `open` opens it, and tells what is in it. The standing rules and the journal are still where
    /// `config` has them; whoever wants them makes the directory `config.path`.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn open_on(
        config: &config::Queue,
        surroundings: Arc<dyn Surroundings>,
        clock: Arc<dyn Clock>,
        metrics: metrics::Metrics,
        open: impl FnOnce(&mut dyn FnMut(News)) -> Result<(Arc<dyn Spool>, Found), StoreError>,
    ) -> Result<(Self, Recovery), StoreError> {
        Self::start(config, surroundings, clock, metrics, &AtomicUsize::new(0), |tell| {
            open(tell).map(|(spool, found)| Opened { spool, disk: None, found })
        })
    }

    fn start(
        config: &config::Queue,
        surroundings: Arc<dyn Surroundings>,
        clock: Arc<dyn Clock>,
        metrics: metrics::Metrics,
        read: &AtomicUsize,
        open: impl FnOnce(&mut dyn FnMut(News)) -> Result<Opened, StoreError>,
    ) -> Result<(Self, Recovery), StoreError> {
        let mut restored = Restored::default();
        let mut tell = |news| {
            let cx = messages::Context {
                now: clock.now(),
                running: clock.running(),
                schedule: surroundings.schedule(),
                sending: surroundings.sending(),
                surroundings: &*surroundings,
                metrics: &metrics,
                events: events::Interest::default(),
            };
            restored.take(news, &cx);
            read.store(restored.messages.len(), Ordering::Relaxed);
        };
        let Opened { spool, disk, found } = open(&mut tell)?;
        let lost = found.lost.clone();
        let (messages, recovery) = restored.finish(found);
        let rules = Arc::new(rules::Rules::open(&config.path, clock.clone(), metrics.clone()));
        let (reports, owed) = mpsc::unbounded_channel();
        let (loads, wanted) = cold::loads();
        // Mail goes on without a journal.
        let journal = history::Journal::start(config, clock.clone(), &metrics).unwrap_or_else(|error| {
            error!(%error, "no journal: its thread cannot be started");
            None
        });
        let events = Arc::new(events::Hub::new(journal, config.history_path(), metrics.clone()));
        let inner = Arc::new(Inner {
            spool,
            disk,
            surroundings,
            clock,
            metrics,
            events,
            rules: rules.clone(),
            inline_limit: config.inline_limit,
            messages: Mutex::new(messages),
            attempts: progress::Attempts::default(),
            leasable: Notify::new(),
            timer: Arc::new(Notify::new()),
            reports,
            loads,
            backlog: Arc::new(Semaphore::new(BACKLOG_UNITS)),
            arriving: AtomicUsize::new(0),
            pending: AtomicUsize::new(0),
            quiet: Notify::new(),
            progress: Notify::new(),
            lost: Mutex::new(lost),
            failing: AtomicBool::new(false),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        inner.tasks.spawn(run_timer(Arc::downgrade(&inner), inner.closing.clone()));
        inner.tasks.spawn(rules.keep(inner.closing.clone()));
        inner.tasks.spawn(write_reports(Arc::downgrade(&inner), owed, inner.closing.clone()));
        inner.tasks.spawn(cold::run(Arc::downgrade(&inner), wanted, inner.closing.clone()));
        Ok((Self { inner }, recovery))
    }

    /// Whether a new message would be taken now: asked before MAIL is answered.
    ///
    /// # Errors
    /// [`AcceptError::NoSpace`] or [`AcceptError::Full`]. A spool that failed last time is tried again.
    pub fn admits(&self, announced_size: u64) -> Result<(), AcceptError> {
        let schedule = self.inner.surroundings.schedule();
        let messages = self.inner.messages.lock().len() + self.inner.arriving.load(Ordering::Relaxed);
        if messages >= schedule.max_messages {
            return Err(AcceptError::Full(messages));
        }
        let space = self.inner.spool.space();
        let wanted = schedule.min_free_space.max(announced_size.saturating_mul(2));
        if space.free < wanted {
            let (free, wanted) = (rounded(space.free), rounded(wanted));
            return Err(AcceptError::NoSpace(format!("{free} free, {wanted} wanted")));
        }
        if space.inodes < schedule.min_free_inodes {
            let wanted = schedule.min_free_inodes;
            return Err(AcceptError::NoSpace(format!("{} inodes free, {wanted} wanted", space.inodes)));
        }
        Ok(())
    }

    /// Begins to take a message: gives it its id.
    ///
    /// # Errors
    /// As [`Queue::admits`].
    pub fn incoming(&self) -> Result<Incoming, AcceptError> {
        self.admits(0)?;
        Ok(Incoming::new(self.inner.clone()))
    }

    /// Waits until some recipients of a message are due and their destination has room, and leases them.
    /// Fair between destinations. Several callers may wait. Never ends after [`Queue::close`].
    pub async fn lease(&self) -> Lease {
        loop {
            let leasable = self.inner.leasable.notified();
            if let Some(lease) = self.inner.lease(messages::Messages::lease) {
                return lease;
            }
            leasable.await;
        }
    }

    /// The next message for a destination the caller has a connection to, if one is due: keeps the slot of the lease
    /// that was settled just before.
    pub fn lease_for(&self, destination: &Destination) -> Option<Lease> {
        self.inner.lease(|messages, cx, fx| messages.lease_for(destination, cx, fx))
    }

    /// Tells the outcome of each leased recipient (by its index in the envelope; one that is missing counts as not tried)
    /// and how the destination did. Returns at once: the records are written with the next batch, and the lease ends when
    /// they are durable.
    pub fn settle(&self, lease: Lease, outcomes: Vec<(usize, Outcome)>, feedback: Feedback) {
        if let Some((settlement, _)) = lease.settle(outcomes, feedback) {
            self.inner.with(|messages, cx, fx| messages.settle(settlement, cx, fx));
            self.inner.progress.notify_waiters();
        }
    }

    /// Ends a lease whose attempt was cut short. What is known counts, so that nobody gets a message twice; the attempt is a
    /// strike, after three of which the message is held.
    pub fn abandon(&self, lease: Lease, outcomes: Vec<(usize, Outcome)>) {
        if let Some((settlement, step)) = lease.settle(outcomes, Feedback::Nothing) {
            self.inner.strike(settlement, step);
        }
    }

    /// Stops handing out leases, waits until what was settled is durable, and ends the threads.
    pub async fn close(&self) {
        self.inner.closing.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.spool.hurry();
        loop {
            let quiet = self.inner.quiet.notified();
            if self.inner.pending.load(Ordering::Acquire) == 0 {
                break;
            }
            quiet.await;
        }
        let (spool, events) = (self.inner.spool.clone(), self.inner.events.clone());
        let close = move || {
            spool.close();
            events.journal().into_iter().for_each(history::Journal::close);
        };
        if tokio::task::spawn_blocking(close).await.is_err() {
            error!("closing the spool failed");
        }
    }
}

/// Octets for people: how full a disk is need not be known to the last one.
fn rounded(octets: u64) -> String {
    match octets {
        0..0x10_0000 => format!("{:.1} KiB", octets as f64 / 1024.0),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", octets as f64 / f64::from(1 << 20)),
        _ => format!("{:.1} GiB", octets as f64 / f64::from(1 << 30)),
    }
}

impl Inner {
    fn context(&self) -> messages::Context<'_> {
        messages::Context {
            now: self.clock.now(),
            running: self.clock.running(),
            schedule: self.surroundings.schedule(),
            sending: self.surroundings.sending(),
            surroundings: &*self.surroundings,
            metrics: &self.metrics,
            events: self.events.interest(),
        }
    }

    /// Works on the messages, then does what follows from it: everything that changes them goes through here. A panic goes
    /// on when that is done, as it is about one message and what follows may be about many.
    fn with<R>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut messages::Messages, &messages::Context<'_>, &mut messages::Effects) -> R,
    ) -> R {
        let cx = self.context();
        let mut fx = messages::Effects::default();
        let mut messages = self.messages.lock();
        let worked = catch_unwind(AssertUnwindSafe(|| {
            messages.watch_clock(&cx, &mut fx);
            work(&mut messages, &cx, &mut fx)
        }));
        if worked.is_err() {
            messages.after_panic(&cx);
        }
        let has_next = messages.has_next();
        let must_wake = messages.must_wake_timer();
        drop(messages);
        if has_next {
            self.leasable.notify_one();
        }
        if must_wake {
            self.timer.notify_one();
        }
        self.loads.ask(fx.loads, fx.windows);
        self.events.publish(fx.events);
        for id in fx.reports {
            // Fails only when the queue is closed; a restart finds what is owed.
            let _ = self.reports.send(id);
        }
        for messages::Write { id, changes, then } in fx.writes {
            self.commit(changes, move |inner, result| inner.written(id, then, result));
        }
        if fx.hurry {
            self.spool.hurry();
        }
        // Last, as it may wait.
        fx.log.write();
        worked.unwrap_or_else(|panic| resume_unwind(panic))
    }

    fn lease(
        self: &Arc<Self>,
        take: impl FnOnce(
            &mut messages::Messages,
            &messages::Context<'_>,
            &mut messages::Effects,
        ) -> Option<messages::Leased>,
    ) -> Option<Lease> {
        if self.closing.is_cancelled() {
            return None;
        }
        self.with(take).map(|leased| Lease::new(leased, self))
    }

    /// A lease ended without an outcome for everybody; `step` is what its attempt had done last.
    fn strike(self: &Arc<Self>, settlement: messages::Settlement, step: &'static str) {
        self.with(|messages, cx, fx| messages.strike(settlement, step, cx, fx));
        self.progress.notify_waiters();
    }

    /// A new message is durable, and the client was told to come again: it would be a second copy.
    fn discard(self: &Arc<Self>, arrival: messages::Arrival) {
        self.with(|messages, cx, fx| messages.discard(arrival, cx, fx));
    }

    /// A new message is durable.
    fn arrived(self: &Arc<Self>, arrival: messages::Arrival) {
        self.metrics.accepted.inc();
        self.with(|messages, cx, _| messages.insert(arrival, cx));
    }

    /// Hands changes to the spool; `then` is called when it answers, on a thread of its own or in this one.
    fn commit(
        self: &Arc<Self>,
        changes: Vec<spool::Change>,
        then: impl FnOnce(&Arc<Self>, Result<(), Arc<StoreError>>) + Send + 'static,
    ) {
        self.pending.fetch_add(1, Ordering::AcqRel);
        let started = Instant::now();
        // The rest lingers without keeping anybody waiting.
        let is_new_mail = changes.iter().any(|change| matches!(change, store::Change::Enqueue { .. }));
        let inner = Arc::downgrade(self);
        let done = move |result: Result<(), Arc<StoreError>>| {
            let Some(inner) = inner.upgrade() else {
                return;
            };
            let pending = Pending(&inner);
            if is_new_mail {
                inner.metrics.commit(started.elapsed());
            }
            inner.note_health(&result);
            then(&inner, result);
            drop(pending);
            release(inner);
        };
        self.spool.commit(changes, Box::new(done));
    }

    /// Says once that the spool refuses changes, and once that it takes them again.
    fn note_health(&self, result: &Result<(), Arc<StoreError>>) {
        if let Err(error) = result {
            self.metrics.store_errors.inc();
            if !self.failing.swap(true, Ordering::Relaxed) {
                error!(%error, "the spool refuses changes");
            }
        } else if self.failing.load(Ordering::Relaxed) && self.failing.swap(false, Ordering::Relaxed) {
            info!("the spool takes changes again");
        }
    }

    fn written(
        self: &Arc<Self>,
        id: QueueId,
        then: messages::AfterWrite,
        result: Result<(), Arc<StoreError>>,
    ) {
        let waiters = self.with(|messages, cx, fx| messages.written(id, then, result.is_ok(), cx, fx));
        self.progress.notify_waiters();
        for waiter in waiters {
            // An operator who has gone away does not need the answer.
            let _ = waiter.send(result.clone());
        }
    }
}

/// A store that was opened.
struct Opened {
    spool: Arc<dyn Spool>,
    disk: Option<Arc<store::Store>>,
    found: Found,
}

/// What the spool holds, while it is told.
#[derive(Debug, Default)]
struct Restored {
    messages: messages::Messages,
    damaged: usize,
}

impl Restored {
    fn take(&mut self, news: News, cx: &messages::Context<'_>) {
        let (Recovered { id, meta, state }, is_lost) = match news {
            News::Message(message) => (message, false),
            News::Lost(message) => (message, true),
            News::Gone(id) => return self.messages.forget(id),
            News::Nothing => return *self = Self::default(),
        };
        let state = state.unwrap_or_default();
        let state = if is_lost { lost::hold(id, &meta, state) } else { state };
        let arrival = messages::Arrival::new(id, &meta, &state, cx);
        let arrival = arrival.map(|arrival| if is_lost { arrival.kept() } else { arrival });
        let arrival = arrival.or_else(|damage| {
            self.damaged += 1;
            held_as_damaged(id, meta, damage, cx)
        });
        match arrival {
            Ok(arrival) => self.messages.insert(arrival, cx),
            Err(damage) => error!(id = %id, %damage, "message left in the spool"),
        }
    }

    fn finish(mut self, found: Found) -> (messages::Messages, Recovery) {
        self.messages.damaged = found.damaged + self.damaged;
        let recovery = Recovery {
            messages: self.messages.len(),
            damaged: self.messages.damaged,
            index_rebuilt: found.index_rebuilt,
        };
        (self.messages, recovery)
    }
}

/// A message with a record that cannot be read: held, so that an operator sees it and decides. Without its state it may be
/// released; without its envelope it can only be dropped, or read by a release that knows its form.
fn held_as_damaged(
    id: QueueId,
    meta: Vec<u8>,
    damage: codec::Damaged,
    cx: &messages::Context<'_>,
) -> Result<messages::Arrival, codec::Damaged> {
    let (meta, state, reason) = match Envelope::decode(&meta) {
        Ok(envelope) => {
            let reason = format!("its state cannot be read ({damage}): some recipients may have it already");
            (meta, MessageState::of(&envelope), reason)
        }
        Err(_) => {
            let reason = format!("its envelope cannot be read ({damage})");
            (Envelope::unreadable(id).encode(), MessageState::default(), reason)
        }
    };
    error!(id = %id, reason, "message held");
    let state = MessageState { held: Some(reason), ..state };
    messages::Arrival::new(id, &meta, &state.encode(), cx).map(messages::Arrival::kept)
}

/// A change on its way to the spool. [`Queue::close`] waits for its end, also when that is a panic.
struct Pending<'a>(&'a Inner);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if self.0.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.quiet.notify_waiters();
        }
    }
}

impl Drop for Inner {
    /// Without [`Queue::close`] nothing is lost either: that is what the spool is for.
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

/// Gives up a reference on a thread that may be the spool's own. The last one ends that thread and waits for it: elsewhere,
/// then.
fn release(inner: Arc<Inner>) {
    if let Some(last) = Arc::into_inner(inner) {
        std::thread::spawn(move || drop(last));
    }
}

/// An error of one's own from one that several have.
fn owned(error: &Arc<StoreError>) -> StoreError {
    match &**error {
        StoreError::Io { what, source } => {
            let source = std::io::Error::new(source.kind(), source.to_string());
            StoreError::Io { what: what.clone(), source }
        }
        StoreError::InUse(holder) => StoreError::InUse(holder.clone()),
        StoreError::UnknownFormat(format) => StoreError::UnknownFormat(format.clone()),
        StoreError::Damaged(id) => StoreError::Damaged(*id),
        StoreError::NoMessage(id) => StoreError::NoMessage(*id),
        StoreError::Closed => StoreError::Closed,
        StoreError::Refused(reason) => StoreError::Refused(reason.clone()),
        StoreError::Interrupted => StoreError::Interrupted,
    }
}

/// However far away the next thing to do is, the timer looks at the clock this often: it may have been set.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Wakes when something is due.
async fn run_timer(queue: Weak<Inner>, closing: CancellationToken) {
    loop {
        let (clock, timer, until) = {
            let Some(inner) = queue.upgrade() else {
                return;
            };
            while run_step(&inner) {
                if closing.is_cancelled() {
                    return;
                }
                tokio::task::yield_now().await;
            }
            let until = inner.messages.lock().timer_sleeps();
            let until = until.into_iter().chain(inner.next_look()).min();
            (inner.clock.clone(), inner.timer.clone(), until)
        };
        let due = async {
            match until {
                Some(until) => clock.until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = closing.cancelled() => return,
            () = timer.notified() => {}
            () = due => {}
            () = tokio::time::sleep(LONGEST_SLEEP) => {}
        }
    }
}

/// Does some of what is due. Returns whether there may be more. A panic costs what was being done, and not the timer:
/// without it nothing would ever be tried again.
fn run_step(inner: &Arc<Inner>) -> bool {
    let step = || {
        inner.end_standstill();
        inner.with(|messages, cx, fx| messages.run(TIMER_STEP, cx, fx))
    };
    catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|_| {
        error!("a step of the queue's timer panicked: a fault in this server");
        true
    })
}

/// Composes the reports that are owed, one after the other.
async fn write_reports(
    queue: Weak<Inner>,
    mut owed: mpsc::UnboundedReceiver<QueueId>,
    closing: CancellationToken,
) {
    loop {
        let id = tokio::select! {
            () = closing.cancelled() => return,
            id = owed.recv() => id,
        };
        let (Some(id), Some(inner)) = (id, queue.upgrade()) else {
            return;
        };
        let compose = {
            let inner = inner.clone();
            move || inner.compose_report(id)
        };
        if tokio::task::spawn_blocking(compose).await.is_err() {
            warn!(id = %id, "composing a report failed");
            inner.with(|messages, cx, fx| messages.report_composed(id, None, cx, fx));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::messages::tests::{TestSurroundings, envelope};
    use postern_runtime::ManualClock;
    use postern_smtp::EnhancedStatus;
    use std::time::SystemTime;

    /// Panics when it is asked for the way of a recipient, as long as it is told to.
    #[derive(Debug, Default)]
    struct Faulty {
        sound: TestSurroundings,
        is_broken: AtomicBool,
        panics: AtomicUsize,
    }

    impl Surroundings for Faulty {
        fn destination(&self, sender: &ReversePath, recipient: &Address, via: Option<&str>) -> Destination {
            if self.is_broken.load(Ordering::Relaxed) {
                self.panics.fetch_add(1, Ordering::Relaxed);
                panic!("as the test wants it");
            }
            self.sound.destination(sender, recipient, via)
        }

        fn checked_route(&self, via: &str) -> Result<String, String> {
            self.sound.checked_route(via)
        }

        fn is_local(&self, recipient: &Address) -> bool {
            self.sound.is_local(recipient)
        }

        fn final_recipients(&self, address: &Address) -> Vec<Address> {
            self.sound.final_recipients(address)
        }

        fn hostname(&self) -> Domain {
            self.sound.hostname()
        }

        fn schedule(&self) -> Arc<config::Queue> {
            self.sound.schedule()
        }

        fn sending(&self) -> Arc<config::Outbound> {
            self.sound.sending()
        }
    }

    async fn accept(queue: &Queue) -> QueueId {
        let envelope = Envelope { received: queue.inner.clock.now(), ..envelope(1) };
        queue.incoming().unwrap().commit(envelope, b"x".to_vec()).await.unwrap()
    }

    async fn defer(queue: &Queue, lease: Lease) {
        let id = lease.id;
        let report = Report {
            status: EnhancedStatus::new(4, 0, 0),
            text: "later".to_owned(),
            is_reply: false,
            host: None,
            tls: None,
            at: SystemTime::UNIX_EPOCH,
        };
        queue.settle(lease, vec![(0, Outcome::Deferred(report, None))], Feedback::Reached);
        while queue.show(id).unwrap().state != "deferred" {
            tokio::task::yield_now().await;
        }
    }

    /// A queue in a directory, with envelopes of so many octets in memory at most; what it asks, and its clock.
    fn open(path: &std::path::Path, memory: u64) -> (Queue, Arc<Faulty>, ManualClock) {
        let config = config::Queue {
            path: path.join("spool"),
            segment_size: 1024 * 1024,
            min_free_space: 0,
            memory,
            ..config::Queue::default()
        };
        let sound = TestSurroundings { schedule: Arc::new(config.clone()) };
        let surroundings = Arc::new(Faulty { sound, ..Faulty::default() });
        let clock = ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_284_325));
        let metrics = metrics::Metrics::register(&prometheus::Registry::new()).unwrap();
        let queue = Queue::open(&config, surroundings.clone(), Arc::new(clock.clone()), metrics).unwrap().0;
        (queue, surroundings, clock)
    }

    /// Lets time pass with the fault in it, until it has been met.
    async fn meet_the_fault(surroundings: &Faulty, clock: &ManualClock) {
        surroundings.is_broken.store(true, Ordering::Relaxed);
        clock.advance(Duration::from_secs(600));
        while surroundings.panics.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        surroundings.is_broken.store(false, Ordering::Relaxed);
    }

    /// Waits until all these messages are leased at once, as time passes.
    async fn all_are_leased(queue: &Queue, clock: &ManualClock, ids: &[QueueId]) {
        let mut leases: Vec<Lease> = Vec::new();
        while ids.iter().any(|id| leases.iter().all(|lease| lease.id != *id)) {
            leases.extend(queue.lease_for(&Destination("adatum.test".into())));
            clock.advance(Duration::from_millis(100));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_does_not_stop_the_timer_nor_harm_what_was_done_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let (queue, surroundings, clock) = open(dir.path(), u64::MAX);
        let test = async {
            let (held, deferred) = (accept(&queue).await, accept(&queue).await);
            let until = clock.now() + Duration::from_secs(60);
            queue.hold(&[held], "until then", Some(until), Duration::ZERO).await.unwrap();
            defer(&queue, queue.lease().await).await;
            // The end of the hold comes first, and is to be written; then the other one is due, and that panics.
            meet_the_fault(&surroundings, &clock).await;
            all_are_leased(&queue, &clock, &[held, deferred]).await;
        };
        tokio::time::timeout(PATIENCE, test).await.unwrap();
    }

    /// Hears what is logged, and looks whether the messages are locked then.
    struct Listener {
        inner: Arc<Inner>,
        /// Of each line: whether they were not.
        heard: Arc<Mutex<Vec<bool>>>,
    }

    impl tracing::Subscriber for Listener {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }

        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

        fn event(&self, _: &tracing::Event<'_>) {
            // Others may have them for a moment.
            let is_free = self.inner.messages.try_lock_for(Duration::from_secs(5)).is_some();
            self.heard.lock().push(is_free);
        }

        fn enter(&self, _: &tracing::span::Id) {}

        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nobody_waits_for_the_log_while_the_messages_are_locked() {
        let dir = tempfile::tempdir().unwrap();
        let (queue, _, clock) = open(dir.path(), u64::MAX);
        accept(&queue).await;
        let lease = queue.lease().await;
        clock.advance(Duration::from_secs(30 * 24 * 3600));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let listener = Listener { inner: queue.inner.clone(), heard: heard.clone() };
        tracing::subscriber::with_default(listener, || {
            queue.settle(lease, Vec::new(), Feedback::Unreachable("connection refused".to_owned()));
        });
        let heard = heard.lock();
        assert!(!heard.is_empty() && heard.iter().all(|is_free| *is_free), "{heard:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_does_not_stop_the_loader() {
        let dir = tempfile::tempdir().unwrap();
        let (queue, surroundings, clock) = open(dir.path(), 0);
        let test = async {
            let first = accept(&queue).await;
            defer(&queue, queue.lease().await).await;
            meet_the_fault(&surroundings, &clock).await;
            let second = accept(&queue).await;
            all_are_leased(&queue, &clock, &[first, second]).await;
        };
        tokio::time::timeout(PATIENCE, test).await.unwrap();
    }
}
