//! Deliveries: how many at once, and the steps of one attempt.
//!
//! `route -> connect and secure -> sign -> send -> outcome`; a step is a method of `Attempt` with its name.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use postern_queue::{
    Destination, Feedback, Handover, Lease, LeasedRecipient, Origin, Outcome, Progress, Queue, Recipient,
};
use postern_runtime::Clock;
use postern_smtp::EnhancedStatus;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::{Connection, Dial, Protocol};
use crate::content::{Outgoing, Source};
use crate::maildir::{self, Maildir};
use crate::metrics::{Metrics, Phase};
use crate::outcome::{self, Circumstances, Failure, Stage, Verdict};
use crate::pool::Pool;
use crate::postmaster::Postmaster;
use crate::reach::{Change, Reach};
use crate::route::{Hop, NEARBY, RouteFailure, Target};
use crate::settings::Settings;
use crate::tls_policy::TlsPolicy;
use crate::transaction::{Mail, To};

/// How often idle connections are looked through.
const SWEEP: Duration = Duration::from_millis(500);
/// Messages that are written into mailboxes at once: more would only make the disk seek.
const LOCAL_DELIVERIES: usize = 16;

/// While all slots are taken, a slot is given back after so long, though more messages wait for the same destination. The
/// queue ends the turns of fast hosts by number of messages; this ends those of slow ones.
const TURN: Duration = Duration::from_secs(10);
/// While all slots are taken, how often the queue is asked for deliveries that need none.
const NEARBY_LOOK: Duration = Duration::from_millis(50);

/// What deliveries work with.
#[derive(Debug)]
pub struct Shared {
    /// The settings in force.
    pub settings: Arc<ArcSwap<Settings>>,
    /// Where leases come from and outcomes go.
    pub queue: Queue,
    /// Counters.
    pub metrics: Metrics,
    /// The time in outcomes.
    pub clock: Arc<dyn Clock>,
}

/// All deliveries of a server.
#[derive(Debug)]
pub struct Outbound {
    shared: Shared,
    pool: Pool,
    slots: Arc<Slots>,
    /// The destinations that need no slot.
    nearby: [Destination; 4],
    local: Semaphore,
    reach: Reach,
    postmaster: Postmaster,
    /// Connections that are being closed politely.
    farewells: TaskTracker,
}

impl Outbound {
    /// Deliveries that have not begun.
    pub fn new(shared: Shared) -> Arc<Self> {
        let local = Semaphore::new(LOCAL_DELIVERIES);
        Arc::new(Self {
            shared,
            pool: Pool::default(),
            slots: Arc::default(),
            nearby: NEARBY.map(|name| Destination(name.into())),
            local,
            reach: Reach::default(),
            postmaster: Postmaster::default(),
            farewells: TaskTracker::new(),
        })
    }

    /// Puts new settings into force. Attempts under way end with the old ones; idle connections are closed, as they were
    /// made under the old ones.
    pub fn reload(&self, settings: Settings) {
        self.shared.settings.store(Arc::new(settings));
        for connection in self.pool.empty() {
            self.farewells.spawn(connection.close());
        }
    }

    /// Whether connections to MX hosts only time out, at many destinations: the network seems to block the port.
    pub fn is_port_blocked(&self) -> bool {
        self.reach.is_blocked()
    }

    /// Delivers until `stop`. Attempts run in `tasks`; those under way when it stops come to their end there.
    pub async fn run(self: Arc<Self>, stop: CancellationToken, tasks: TaskTracker) {
        tasks.spawn(self.clone().sweep(stop.clone()));
        while let Some((slot, lease)) = stop.run_until_cancelled(self.next()).await {
            let outbound = self.clone();
            let stop = stop.clone();
            tasks.spawn(async move { outbound.work(lease, slot, &stop).await });
        }
        for connection in self.pool.close() {
            self.farewells.spawn(connection.close());
        }
        self.farewells.close();
        self.farewells.wait().await;
    }

    /// Waits for a free slot, then for a lease. Deliveries on this machine need no slot, so that slow hosts elsewhere never
    /// hold them up; the queue bounds them for each destination.
    async fn next(&self) -> (Option<Slot>, Lease) {
        tokio::select! {
            biased;
            slot = self.slots.take(|| self.max_deliveries()) => {
                let lease = self.shared.queue.lease().await;
                let is_nearby = self.nearby.contains(&lease.destination);
                ((!is_nearby).then_some(slot), lease)
            }
            lease = self.next_nearby() => (None, lease),
        }
    }

    /// Waits for a lease of a delivery on this machine.
    async fn next_nearby(&self) -> Lease {
        loop {
            let lease = self.nearby.iter().find_map(|destination| self.shared.queue.lease_for(destination));
            match lease {
                Some(lease) => return lease,
                None => tokio::time::sleep(NEARBY_LOOK).await,
            }
        }
    }

    fn max_deliveries(&self) -> usize {
        self.shared.settings.load().config.outbound.max_deliveries
    }

    /// Closes connections that were idle too long.
    async fn sweep(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(SWEEP)).await.is_some() {
            let longest = self.shared.settings.load().config.outbound.idle_connection;
            for connection in self.pool.expired(longest) {
                self.farewells.spawn(connection.close());
            }
        }
    }

    /// Delivers one message, and then others that wait for the same destination. The connection is in the pool when the
    /// turn ends before the line does.
    async fn work(&self, lease: Lease, slot: Option<Slot>, stop: &CancellationToken) {
        let started = tokio::time::Instant::now();
        let mut next = Some(lease);
        while let Some(lease) = next {
            let (id, destination) = (lease.id, lease.destination.clone());
            match contained(self.attempt(lease)).await {
                Ok(Ended::Settled) => {}
                Ok(Ended::Stalled) => return,
                Err(panic) => {
                    // The lease was dropped on the way: the queue counts that, and holds the message after the third time.
                    self.shared.metrics.panicked();
                    tracing::error!(event = "panic", %id, %destination, %panic, "delivery attempt panicked");
                    return;
                }
            }
            let is_wanted = slot.is_some() && self.slots.are_taken(self.max_deliveries());
            next = match stop.is_cancelled() || (is_wanted && started.elapsed() >= TURN) {
                true => None,
                false => self.shared.queue.lease_for(&destination),
            };
        }
    }

    /// Takes in how a connection to an MX host went.
    fn learn(&self, destination: &Destination, failure: Option<&Failure>) {
        let Some(change) = self.reach.connection(destination, failure) else { return };
        self.shared.metrics.port_blocked(change == Change::Blocked);
        let port = self.shared.settings.load().config.outbound.port;
        match change {
            Change::Blocked => tracing::error!(
                event = "port-blocked",
                port,
                "no MX host can be connected to, all time out: does the provider block outbound port {port}?"
            ),
            Change::Open => tracing::info!(event = "port-open", port, "MX hosts can be connected to"),
        }
    }

    /// One attempt, settled, or cut short when the queue finds that it makes no progress.
    async fn attempt(&self, lease: Lease) -> Ended {
        // In this order: a reload in between only costs a connection that is not kept.
        let generation = self.pool.generation();
        let settings = self.shared.settings.load_full();
        let mut attempt = Attempt::new(self, &settings, &lease, generation);
        let ran = lease.stop().run_until_cancelled(attempt.run()).await;
        let (outcomes, feedback) = attempt.finish();
        if ran.is_none() {
            self.shared.queue.abandon(lease, outcomes);
            return Ended::Stalled;
        }
        self.shared.queue.settle(lease, outcomes, feedback);
        Ended::Settled
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// With its outcomes.
    Settled,
    /// It made no progress and was cut short.
    Stalled,
}

/// Ends a future that panics with the text of the panic.
async fn contained<T>(future: impl Future<Output = T>) -> Result<T, String> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| match std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
        Err(panic) => Poll::Ready(Err(panic_text(&*panic))),
    })
    .await
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text").to_owned()
}

/// The attempts at once. Their limit may change at a reload.
#[derive(Debug, Default)]
struct Slots {
    taken: AtomicUsize,
    freed: Notify,
}

impl Slots {
    /// Waits until fewer than the limit are taken. Only one task takes.
    async fn take(self: &Arc<Self>, limit: impl Fn() -> usize) -> Slot {
        loop {
            let freed = self.freed.notified();
            if !self.are_taken(limit()) {
                self.taken.fetch_add(1, Ordering::AcqRel);
                return Slot(self.clone());
            }
            freed.await;
        }
    }

    fn are_taken(&self, limit: usize) -> bool {
        self.taken.load(Ordering::Acquire) >= limit.max(1)
    }
}

/// The right to one attempt.
#[derive(Debug)]
struct Slot(Arc<Slots>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
        self.0.freed.notify_one();
    }
}

/// One attempt under way.
struct Attempt<'a> {
    outbound: &'a Outbound,
    settings: &'a Settings,
    lease: &'a Lease,
    progress: Progress,
    /// Of the pool, when the attempt began.
    generation: u64,
    started: Instant,
    phases: Phases,
    /// Beside the recipients of the lease.
    outcomes: Vec<Option<Outcome>>,
    feedback: Feedback,
    /// Read, and with its signatures, once a connection is there.
    outgoing: Option<Outgoing<'a>>,
    /// What the log says of the signatures.
    dkim: String,
    /// Where the recipients that are decided were sent, for the log.
    address: String,
    /// Likewise, by recipient, where the mail went into a mailbox of ours.
    mailboxes: BTreeMap<usize, String>,
    reused: bool,
}

impl<'a> Attempt<'a> {
    fn new(outbound: &'a Outbound, settings: &'a Settings, lease: &'a Lease, generation: u64) -> Self {
        Self {
            outbound,
            settings,
            lease,
            progress: lease.progress(),
            generation,
            started: Instant::now(),
            phases: Phases::default(),
            outcomes: vec![None; lease.recipients.len()],
            feedback: Feedback::Nothing,
            outgoing: None,
            dkim: String::new(),
            address: String::new(),
            mailboxes: BTreeMap::new(),
            reused: false,
        }
    }

    async fn run(&mut self) {
        let ours: Vec<usize> =
            (0..self.lease.recipients.len()).filter(|at| self.is_still_ours(*at)).collect();
        let Some(first) = ours.first() else { return };
        match self.hop(*first) {
            hop @ (Hop::Mx(_) | Hop::Relay(_)) => self.remote(&hop, &ours).await,
            _ => self.local(&ours).await,
        }
    }

    fn hop(&self, at: usize) -> Hop<'a> {
        let settings: &'a Settings = self.settings;
        let lease: &'a Lease = self.lease;
        let recipient = &lease.recipients[at];
        let via = details(lease, recipient).and_then(|details| details.via.as_deref());
        settings.router.route(&lease.envelope.reverse_path, &recipient.address, via)
    }

    /// Whether a recipient still goes where it was leased for. After a reload it may not: the queue then finds its new
    /// destination, as it has no outcome.
    fn is_still_ours(&self, at: usize) -> bool {
        self.hop(at).to_string() == *self.lease.destination.0
    }

    /// Delivers over the network: to the first host that takes the message.
    async fn remote(&mut self, hop: &Hop<'_>, ours: &[usize]) {
        let targets = match self.route(hop).await {
            Ok(targets) => targets,
            Err(failure) => {
                if let RouteFailure::Dns { .. } = failure {
                    self.feedback = Feedback::Unreachable(failure.to_string());
                }
                return self.decide_rest(ours, &failure.verdict(), &self.circumstances(None));
            }
        };
        let mut last = None;
        for target in &targets {
            match Box::pin(self.host(hop, target, ours)).await {
                Ok(()) => return,
                Err(failure) => {
                    self.note(target, &failure);
                    if let Failure::LoginRefused(answer) = &failure {
                        self.tell_postmaster(answer).await;
                    }
                    let goes_on = failure.suggests_next_host();
                    // It returns only where no host at all promises it: one that failed otherwise may do so later.
                    if last.is_none() || !failure.is_unmet_demand() {
                        last = Some((failure, target));
                    }
                    if !goes_on {
                        break;
                    }
                }
            }
        }
        if let Some((failure, target)) = last {
            self.blame(&failure);
            let circumstances = self.circumstances(Some(target));
            self.decide_rest(ours, &failure.verdict(), &circumstances);
        }
    }

    /// The hosts to try, best first.
    async fn route(&mut self, hop: &Hop<'_>) -> Result<Vec<Target>, RouteFailure> {
        let started = Instant::now();
        let resolved = self.settings.router.resolve(hop, self.settings.dns.as_ref()).await;
        self.took(Phase::Route, started.elapsed());
        self.progress.step("route resolved");
        let mut targets = resolved?;
        self.outbound.pool.reachable_first(&mut targets);
        Ok(targets)
    }

    /// Sends to one host: over an idle connection, or if that has died meanwhile or there is none, over a new one.
    async fn host(&mut self, hop: &Hop<'_>, target: &Target, ours: &[usize]) -> Result<(), Failure> {
        let longest = self.settings.config.outbound.idle_connection;
        // Idle connections were made under the policy of other messages.
        let idle = (!self.requires_tls())
            .then(|| self.outbound.pool.take(&self.lease.destination, &target.endpoint, longest))
            .flatten();
        if let Some(mut connection) = idle {
            self.reused = true;
            connection.progress = self.progress.clone();
            self.outbound.shared.metrics.reused();
            match self.deliver(connection, ours).await {
                Err(failure) if failure.stage() <= Stage::Mail => {
                    tracing::debug!(id = %self.lease.id, host = %target.host, %failure, "idle connection had died");
                }
                done => return done,
            }
        }
        self.reused = false;
        let connection = self.connect(hop, target).await.map_err(|failure| match failure {
            Failure::TlsNotOffered if self.requires_tls() => Failure::EncryptionNotOffered,
            failure => failure,
        })?;
        self.feedback = Feedback::Reached;
        if self.requires_tls()
            && connection.protocol == Protocol::Smtp
            && !connection.capabilities.has("REQUIRETLS")
        {
            self.keep(connection);
            return Err(Failure::RequireTlsNotOffered);
        }
        self.deliver(connection, ours).await
    }

    async fn connect(&mut self, hop: &Hop<'_>, target: &Target) -> Result<Connection, Failure> {
        let config = &self.settings.config;
        let (protocol, policy, credentials) = match hop {
            Hop::Relay(relay) => (relay.protocol, relay.tls, relay.credentials.as_ref()),
            _ => (Protocol::Smtp, TlsPolicy::May, None),
        };
        let policy = if self.requires_tls() { policy.for_require_tls() } else { policy };
        let dial = Dial {
            hostname: &config.hostname,
            source_addresses: &config.outbound.source_addresses,
            timeouts: &config.outbound.timeouts,
            protocol,
            tls: &self.settings.tls,
            policy,
            credentials,
            progress: &self.progress,
        };
        let opened = Box::pin(Connection::open(target, &dial)).await;
        match &opened {
            Ok(connection) => {
                self.outbound.shared.metrics.opened(connection.protection);
                self.took(Phase::Connect, connection.timings.connect);
                self.took(Phase::Secure, connection.timings.secure);
            }
            Err(_) => self.outbound.shared.metrics.connection_failed(),
        }
        // What a host cannot do for this message says nothing of its other mail.
        if !opened.as_ref().is_err_and(|failure| self.is_refused_by_demand(failure)) {
            self.outbound.pool.note(&target.endpoint, opened.is_ok());
        }
        if matches!(hop, Hop::Mx(_)) {
            self.outbound.learn(&self.lease.destination, opened.as_ref().err());
        }
        opened
    }

    /// Whether the message goes over verified TLS only (RFC 8689).
    fn requires_tls(&self) -> bool {
        self.lease.envelope.terms.require_tls
    }

    /// Whether a host would do for mail that demands no REQUIRETLS.
    fn is_refused_by_demand(&self, failure: &Failure) -> bool {
        self.requires_tls() && failure.stage() == Stage::Tls
    }

    fn took(&mut self, phase: Phase, time: Duration) {
        self.phases.add(phase, time);
        self.outbound.shared.metrics.took(phase, time);
    }

    /// Reads and signs the message, once an attempt.
    async fn sign(&mut self) -> Result<Outgoing<'a>, Failure> {
        if let Some(outgoing) = self.outgoing.take() {
            return Ok(outgoing);
        }
        let started = Instant::now();
        let lease: &'a Lease = self.lease;
        let source = Source::load(lease).await.map_err(Failure::Content)?;
        let hostname = &self.settings.config.hostname;
        let signed =
            self.settings.keys.sign(&lease.envelope, hostname, &source).await.map_err(Failure::Content)?;
        self.dkim = signed.summary;
        let outgoing =
            Outgoing::new(source, signed.fields, lease.envelope.smtputf8).await.map_err(Failure::Content)?;
        self.progress.step("content read");
        self.took(Phase::Sign, started.elapsed());
        Ok(outgoing)
    }

    /// Sends over a connection and keeps it for the next message.
    async fn deliver(&mut self, connection: Connection, ours: &[usize]) -> Result<(), Failure> {
        let outgoing = self.sign().await?;
        let started = Instant::now();
        let sent = self.send(connection, &outgoing, ours).await;
        self.took(Phase::Send, started.elapsed());
        self.outgoing = Some(outgoing);
        if let Some(connection) = sent? {
            self.keep(connection);
        }
        Ok(())
    }

    /// In as many transactions as the other side wants: it may take fewer recipients at once than were leased. Answers the
    /// connection if it is fit for another message.
    async fn send(
        &mut self,
        mut connection: Connection,
        outgoing: &Outgoing<'_>,
        ours: &[usize],
    ) -> Result<Option<Connection>, Failure> {
        loop {
            let open: Vec<usize> = ours.iter().copied().filter(|at| self.outcomes[*at].is_none()).collect();
            if open.is_empty() {
                return Ok(Some(connection));
            }
            let lease = self.lease;
            let to = open.iter().map(|at| {
                let recipient = &lease.recipients[*at];
                To { address: &recipient.address, details: details(lease, recipient) }
            });
            let mail = Mail { envelope: &lease.envelope, to: to.collect(), outgoing, now: self.now() };
            let sent = connection.transact(&mail).await;
            let circumstances = Circumstances {
                host: Some(connection.host.clone()),
                tls: Some(connection.protection.to_string()),
                at: self.now(),
                handover: connection.handover(),
            };
            self.address = connection.endpoint.to_string();
            if self.feedback == Feedback::Nothing {
                self.feedback = Feedback::Reached;
            }
            if let Some(words) = sent.slow_down {
                self.feedback = Feedback::SlowDown(words);
            }
            let mut decided = 0;
            for (at, verdict) in open.iter().zip(sent.verdicts) {
                let Some(verdict) = verdict else { continue };
                decided += 1;
                self.outcomes[*at] = Some(outcome::outcome(verdict, &circumstances));
            }
            match sent.failure {
                // Where everybody has an outcome, nobody needs to hear of a failure; the connection ends all the same.
                Some(_) if ours.iter().all(|at| self.outcomes[*at].is_some()) => return Ok(None),
                Some(failure) => return Err(failure),
                None if decided == 0 => return Ok(Some(connection)),
                None => {}
            }
        }
    }

    fn keep(&self, mut connection: Connection) {
        connection.progress = Progress::default();
        let outbound = &self.settings.config.outbound;
        let destination = &self.lease.destination;
        let left = match connection.transactions < outbound.max_messages_per_connection {
            true => self.outbound.pool.put(destination, connection, outbound.max_deliveries, self.generation),
            false => Some(connection),
        };
        if let Some(connection) = left {
            self.outbound.farewells.spawn(connection.close());
        }
    }

    /// Logs why a host did not do.
    fn note(&self, target: &Target, failure: &Failure) {
        let Lease { id, destination, .. } = self.lease;
        let (host, address, stage) = (&target.host, &target.endpoint, failure.stage().as_str());
        match failure {
            Failure::LoginRefused(_) => {
                tracing::error!(event = "login-refused", %id, %destination, host, %address, %failure);
            }
            Failure::Content(_) => tracing::error!(event = "content-unreadable", %id, %failure),
            _ => tracing::info!(event = "host-failed", %id, %destination, host, %address, stage, %failure),
        }
    }

    /// Mail for a smarthost waits until somebody mends the login, and the senders cannot.
    async fn tell_postmaster(&self, answer: &str) {
        let Outbound { postmaster, shared, .. } = self.outbound;
        let smarthost = &self.lease.destination;
        postmaster.login_refused(smarthost, answer, self.settings, &shared.queue, self.now()).await;
    }

    /// What the last failure says of the destination as a whole.
    fn blame(&mut self, failure: &Failure) {
        // A host that turns us away before MAIL, be it with a 421, serves nobody; nor does one that falls silent on everybody.
        let nobody_decided = self.outcomes.iter().all(Option::is_none);
        if self.is_refused_by_demand(failure) {
            self.feedback = Feedback::Reached;
            return;
        }
        if failure.stage() < Stage::Mail || (failure.is_no_answer() && nobody_decided) {
            self.feedback = Feedback::Unreachable(failure.to_string());
        } else if failure.closing().is_some() {
            self.feedback = Feedback::SlowDown(failure.to_string());
        }
    }

    /// Delivers on this machine, recipient by recipient.
    async fn local(&mut self, ours: &[usize]) {
        self.feedback = Feedback::Reached;
        let mut source = None;
        for at in ours {
            let verdict = match self.hop(*at) {
                Hop::Local(maildir) | Hop::Maildir(maildir) => self.mailbox(*at, &maildir, &mut source).await,
                Hop::Gone => Verdict::never(1, 1, "the mailbox does not exist any more"),
                Hop::Discard => done("discarded, as the route of the recipient says"),
                Hop::Reject(text) => Verdict::never(7, 1, text),
                Hop::Mx(_) | Hop::Relay(_) => continue,
            };
            self.outcomes[*at] = Some(outcome::outcome(verdict, &self.circumstances(None)));
        }
    }

    /// Writes one copy. The message is read for the first of them.
    async fn mailbox(&mut self, at: usize, maildir: &Maildir, read: &mut Option<Source<'a>>) -> Verdict {
        self.progress.waits("waits for other mailboxes");
        // Never closed, so there is always a permit to come.
        let _permit = self.outbound.local.acquire().await;
        self.progress.step("mailbox begun");
        let started = Instant::now();
        let lease: &'a Lease = self.lease;
        let recipient = &lease.recipients[at];
        let source = match read {
            Some(source) => source,
            None => match Source::load(lease).await {
                Ok(source) => read.insert(source),
                Err(error) => return Failure::Content(error).verdict(),
            },
        };
        let copy = maildir::Copy {
            sender: &lease.envelope.reverse_path,
            recipient: &recipient.address,
            given: details(lease, recipient).and_then(|details| details.given.as_ref()),
            hostname: &self.settings.config.hostname,
            progress: &self.progress,
        };
        let delivered = maildir::deliver(maildir, &copy, source, self.now()).await;
        self.progress.step("mailbox written");
        self.took(Phase::Send, started.elapsed());
        self.mailboxes.insert(at, maildir.path.display().to_string());
        match delivered {
            Ok(_) => done("delivered to the mailbox"),
            Err(error) => error.verdict(),
        }
    }

    fn decide_rest(&mut self, ours: &[usize], verdict: &Verdict, circumstances: &Circumstances) {
        for at in ours.iter().filter(|at| self.outcomes[**at].is_none()).copied().collect::<Vec<_>>() {
            self.outcomes[at] = Some(outcome::outcome(verdict.clone(), circumstances));
        }
    }

    fn circumstances(&self, target: Option<&Target>) -> Circumstances {
        Circumstances {
            host: target.map(|target| target.host.clone()),
            tls: None,
            at: self.now(),
            // No host has taken anything: only a mailbox can have.
            handover: Handover::Final,
        }
    }

    fn now(&self) -> SystemTime {
        self.outbound.shared.clock.now()
    }

    /// Logs and counts the outcomes, and answers what the queue is told.
    fn finish(self) -> (Vec<(usize, Outcome)>, Feedback) {
        let kind = self.lease.destination.0.split(' ').next().unwrap_or_default();
        let now = self.now();
        let mut told = Vec::with_capacity(self.outcomes.len());
        for (at, (recipient, outcome)) in self.lease.recipients.iter().zip(&self.outcomes).enumerate() {
            let Some(outcome) = outcome else { continue };
            self.outbound.shared.metrics.outcome(kind, outcome);
            self.note_unknown_user(outcome, now);
            self.log(recipient, self.mailboxes.get(&at).unwrap_or(&self.address), outcome, now);
            told.push((recipient.index, outcome.clone()));
        }
        (told, self.feedback)
    }

    /// Many recipients who do not exist are a sign that a login is in the wrong hands.
    fn note_unknown_user(&self, outcome: &Outcome, now: SystemTime) {
        // RFC 3463 §3.2: bad destination mailbox address.
        const UNKNOWN: EnhancedStatus = EnhancedStatus::new(5, 1, 1);
        if let (Outcome::Failed(report), Origin::Login(login)) = (outcome, &self.lease.envelope.origin)
            && report.status == UNKNOWN
        {
            self.settings.policy.note_bounce(login, now);
        }
    }

    /// One line for each recipient and attempt: what became of it, and why.
    fn log(&self, recipient: &LeasedRecipient, address: &str, outcome: &Outcome, now: SystemTime) {
        let report = outcome.report();
        let event = match outcome {
            Outcome::Delivered(..) => "delivered",
            Outcome::Deferred(..) => "deferred",
            Outcome::Failed(_) => "failed",
        };
        let delay = now.duration_since(self.lease.envelope.received).unwrap_or_default();
        tracing::info!(
            event,
            id = %self.lease.id,
            from = %self.lease.envelope.reverse_path,
            to = %recipient.address,
            destination = %self.lease.destination,
            host = report.host.as_deref(),
            address = (!address.is_empty()).then_some(address),
            status = %report.status,
            reply = report.text,
            attempts = recipient.attempts + 1,
            delay = delay.as_secs_f64(),
            took = self.started.elapsed().as_secs_f64(),
            phases = %self.phases,
            tls = report.tls.as_deref(),
            dkim = (!self.dkim.is_empty()).then_some(self.dkim.as_str()),
            reused = self.reused,
        );
    }
}

/// How long the parts of an attempt took, for the log.
#[derive(Debug, Default)]
struct Phases(BTreeMap<Phase, Duration>);

impl Phases {
    fn add(&mut self, phase: Phase, time: Duration) {
        *self.0.entry(phase).or_default() += time;
    }
}

impl fmt::Display for Phases {
    /// `route=0.0010 connect=0.0120 ...`, in seconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (phase, time)) in self.0.iter().enumerate() {
            let space = if number == 0 { "" } else { " " };
            write!(f, "{space}{}={:.4}", phase.as_str(), time.as_secs_f64())?;
        }
        Ok(())
    }
}

fn done(text: &str) -> Verdict {
    Verdict::Ours { status: EnhancedStatus::new(2, 0, 0), text: text.to_owned() }
}

/// What the envelope says of a recipient.
fn details<'l>(lease: &'l Lease, recipient: &LeasedRecipient) -> Option<&'l Recipient> {
    lease.envelope.recipients.get(recipient.index)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::net::SocketAddr;
    use std::path::Path;

    use bytes::Bytes;
    use postern_queue::{Envelope, MessageView, QueueId};
    use postern_runtime::SystemClock;
    use postern_runtime::dns::StaticDns;
    use postern_smtp::Domain;
    use prometheus::Registry;
    use tempfile::TempDir;
    use tokio::net::TcpListener;

    use super::*;
    use crate::surroundings::QueueSurroundings;
    use crate::testing::{Server, Sink, envelope, settings_with};

    /// A queue, and deliveries from it.
    struct Site {
        outbound: Arc<Outbound>,
        queue: Queue,
        stop: CancellationToken,
        tasks: TaskTracker,
        folder: TempDir,
    }

    impl Site {
        async fn start(text: &str, dns: StaticDns) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let queue_table = format!("[queue]\npath = {:?}\n", folder.path());
            let settings = settings_with(&format!("{queue_table}{text}"), dns);
            let schedule = settings.schedule.clone();
            let settings = Arc::new(ArcSwap::from_pointee(settings));
            let surroundings = Arc::new(QueueSurroundings::new(settings.clone()));
            let registry = Registry::new();
            let clock: Arc<dyn Clock> = Arc::new(SystemClock);
            let queue_metrics = postern_queue::metrics::Metrics::register(&registry).unwrap();
            let runtime_clock = clock.clone();
            let opening = move || Queue::open(&schedule, surroundings, runtime_clock, queue_metrics);
            let (queue, _) = tokio::task::spawn_blocking(opening).await.unwrap().unwrap();
            let metrics = Metrics::register(&registry).unwrap();
            let outbound = Outbound::new(Shared { settings, queue: queue.clone(), metrics, clock });
            let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
            tasks.spawn(outbound.clone().run(stop.clone(), tasks.clone()));
            Self { outbound, queue, stop, tasks, folder }
        }

        /// A site that gives everything to one server.
        async fn with_smarthost(address: SocketAddr) -> Self {
            let route = format!("[[route]]\nvia = \"smarthost\"\nhosts = [\"{address}\"]\n");
            Self::start(&route, StaticDns::new()).await
        }

        async fn submit(&self, to: &[&str], text: &str) -> QueueId {
            let mut incoming = self.queue.incoming().unwrap();
            incoming.write(Bytes::copy_from_slice(text.as_bytes())).await.unwrap();
            let now = SystemTime::now();
            let envelope = Envelope { received: now, ..envelope("alice@proseware.test", to) };
            incoming.commit(envelope, b"Received: x\r\n".to_vec()).await.unwrap()
        }

        async fn until(&self, what: &str, reached: impl Fn(&Self) -> bool) {
            let waiting = async {
                while !reached(self) {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            assert!(tokio::time::timeout(Duration::from_secs(20), waiting).await.is_ok(), "{what}");
        }

        async fn until_gone(&self, id: QueueId) {
            self.until("delivered", |site| site.queue.show(id).is_none()).await;
        }

        /// The message after its first attempt.
        async fn until_tried(&self, id: QueueId) -> MessageView {
            self.until("tried", |site| {
                site.queue.show(id).is_some_and(|message| message.recipients.iter().all(|r| r.attempts > 0))
            })
            .await;
            self.queue.show(id).unwrap()
        }

        async fn stop(self) {
            self.stop.cancel();
            self.tasks.close();
            self.tasks.wait().await;
            self.queue.close().await;
        }
    }

    const HELLO: [&str; 3] = ["220 hi\r\n", "EHLO", "250-hi\r\n250 PIPELINING\r\n"];
    const TAKE: [&str; 4] = ["DATA", "250 ok\r\n250 ok\r\n354 go\r\n", ".", "250 queued\r\n"];

    #[tokio::test]
    async fn a_message_is_delivered_and_the_connection_used_again() {
        let server = Server::start(&[&HELLO[..], &TAKE, &TAKE, &["QUIT", "221 bye\r\n"]].concat()).await;
        let site = Site::with_smarthost(server.address()).await;
        for _ in 0..2 {
            let id = site.submit(&["bob@adatum.test"], "Subject: x\r\n\r\n.dot\r\n").await;
            site.until_gone(id).await;
        }
        site.stop().await;
        let lines = server.finished().await;
        assert_eq!(lines.iter().filter(|line| line.starts_with("EHLO")).count(), 1);
        assert_eq!(lines.iter().filter(|line| *line == "..dot").count(), 2);
        assert_eq!(lines.last().unwrap(), "QUIT");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_messages_share_a_few_connections() {
        let sink = Sink::start().await;
        let site = Arc::new(Site::with_smarthost(sink.address).await);
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let site = site.clone();
            clients.spawn(async move {
                for _ in 0..50 {
                    site.submit(&["bob@adatum.test"], "Subject: x\r\n\r\nx\r\n").await;
                }
            });
        }
        clients.join_all().await;
        site.until("delivered", |site| site.queue.summary().messages == 0).await;
        // 20 at once, each replaced after 100 messages.
        let connections = sink.connections.load(Ordering::Relaxed);
        assert!(connections <= 25, "{connections}");
    }

    #[tokio::test]
    async fn a_slow_host_gives_its_slot_to_others_in_between() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // Two destinations, one server.
        let routes = format!(
            "[outbound]\nmax_deliveries = 1\n\
             [[route]]\ndomain = \"adatum.test\"\nvia = \"smarthost\"\nhosts = [\"127.0.0.1:{port}\"]\n\
             [[route]]\nvia = \"smarthost\"\nhosts = [\"[127.0.0.1]:{port}\"]\n"
        );
        let site = Site::start(&routes, StaticDns::new()).await;
        site.submit(&["bob@adatum.test"], "x\r\n").await;
        site.until("begun", |site| site.queue.summary().active == 1).await;
        site.submit(&["eve@thephone-company.test"], "x\r\n").await;
        for _ in 0..5 {
            site.submit(&["bob@adatum.test"], "x\r\n").await;
        }
        tokio::time::pause();
        tokio::time::advance(TURN).await;
        tokio::time::resume();
        // The first attempt waits for its greeting until here.
        let sink = Sink::start_on(listener);
        site.until("delivered", |site| site.queue.summary().messages == 0).await;
        site.stop().await;
        let served = sink.recipients.lock().clone();
        assert_eq!(served.iter().position(|line| line.contains("eve@")), Some(1), "{served:?}");
    }

    #[tokio::test]
    async fn deliveries_on_this_machine_do_not_wait_for_slow_hosts() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap();
        let text = format!(
            "[outbound]\nmax_deliveries = 1\n{LOCAL}\
             [[route]]\nvia = \"smarthost\"\nhosts = [\"{address}\"]\n"
        );
        let site = Site::start(&text, StaticDns::new()).await;
        site.submit(&["bob@adatum.test"], "x\r\n").await;
        let (waiting, _) = silent.accept().await.unwrap();
        let id = site.submit(&["alice@proseware.test"], "x\r\n").await;
        site.until_gone(id).await;
        drop((waiting, silent));
        site.stop().await;
    }

    #[tokio::test]
    async fn an_idle_connection_that_dies_costs_no_attempt() {
        let dying = [&HELLO[..], &TAKE, &["DATA", "421 idle too long\r\n", "close"]].concat();
        let fresh = [&HELLO[..], &TAKE].concat();
        let server = Server::start_several(&[&dying, &fresh]).await;
        let site = Site::with_smarthost(server.address()).await;
        for _ in 0..2 {
            let id = site.submit(&["bob@adatum.test"], "x\r\n").await;
            site.until_gone(id).await;
        }
        site.stop().await;
        server.finished().await;
    }

    #[tokio::test]
    async fn recipients_of_one_message_have_outcomes_of_their_own() {
        let replies = "250 ok\r\n250 ok\r\n451 4.7.1 greylisted, try again in 10 minutes\r\n354 go\r\n";
        let script = [&HELLO[..], &["DATA", replies, ".", "250 queued\r\n"]].concat();
        let server = Server::start(&script).await;
        let site = Site::with_smarthost(server.address()).await;
        let id = site.submit(&["bob@adatum.test", "eve@adatum.test"], "x\r\n").await;
        let message = site.until_tried(id).await;
        assert_eq!(message.recipients[0].state, "delivered");
        let eve = &message.recipients[1];
        assert_eq!((eve.state.as_str(), eve.status.as_deref()), ("deferred", Some("4.7.1")));
        assert!(eve.text.as_deref().unwrap().contains("greylisted"));
        assert_eq!(eve.tls.as_deref(), Some("clear"));
        let wait = eve.next_attempt.unwrap() - eve.last_attempt.unwrap();
        assert!((595..=605).contains(&wait), "{wait}");
        site.stop().await;
    }

    #[tokio::test]
    async fn the_next_mx_is_tried_in_the_same_attempt() {
        let refusing = Server::start(&["554 not today\r\n", "close"]).await;
        let domain = |text: &str| Domain::parse(text).unwrap();
        let port = refusing.address().port();
        // A second loopback address with the port of the first.
        let taking = Server::start_at(&format!("127.0.0.2:{port}"), &[&HELLO[..], &TAKE].concat()).await;
        let dns = StaticDns::new()
            .mx_record(domain("adatum.test"), 1, domain("a.adatum.test"))
            .mx_record(domain("adatum.test"), 2, domain("b.adatum.test"))
            .address_record(domain("a.adatum.test"), refusing.address().ip())
            .address_record(domain("b.adatum.test"), taking.address().ip());
        let site =
            Site::start(&format!("[outbound]\nallow_private_targets = true\nport = {port}\n"), dns).await;
        let id = site.submit(&["bob@adatum.test"], "x\r\n").await;
        site.until_gone(id).await;
        refusing.finished().await;
        site.stop().await;
        taking.finished().await;
    }

    #[tokio::test]
    async fn the_only_host_that_refuses_everybody_defers() {
        let server = Server::start(&["554 not today\r\n", "close"]).await;
        let site = Site::with_smarthost(server.address()).await;
        let id = site.submit(&["bob@adatum.test"], "x\r\n").await;
        let bob = site.until_tried(id).await.recipients.remove(0);
        assert_eq!((bob.state.as_str(), bob.status.as_deref()), ("deferred", Some("4.0.0")));
        assert_eq!(bob.text.as_deref(), Some("554 not today"));
        site.stop().await;
    }

    /// Whether the destination of a message rests after one attempt at a host with this script.
    async fn rests_after(script: &[&str]) -> bool {
        let server = Server::start(script).await;
        let sending = "[outbound]\ndestination_back_off = \"5h\"\ndestination_back_off_cap = \"5h\"";
        let route = format!("[[route]]\nvia = \"smarthost\"\nhosts = [\"{}\"]\n", server.address());
        let site = Site::start(&format!("{sending}\n{route}"), StaticDns::new()).await;
        let id = site.submit(&["bob@adatum.test"], "x\r\n").await;
        let bob = site.until_tried(id).await.recipients.remove(0);
        assert_eq!(bob.state, "deferred");
        site.stop().await;
        server.finished().await;
        bob.next_attempt.unwrap() - bob.last_attempt.unwrap() > 4 * 3600
    }

    #[tokio::test]
    async fn a_host_that_serves_nobody_rests() {
        assert!(rests_after(&["421 busy\r\n", "close"]).await);
        assert!(rests_after(&["220 hi\r\n", "EHLO", "421 busy\r\n", "close"]).await);
        assert!(rests_after(&[&HELLO[..], &["MAIL", "close"]].concat()).await);
        assert!(rests_after(&[&HELLO[..], &TAKE[..2], &[".", "close"]].concat()).await);
        assert!(rests_after(&[&HELLO[..], &["DATA", "HTTP/1.1 400 Bad Request\r\n"]].concat()).await);
    }

    #[tokio::test]
    async fn a_host_that_answers_does_not_rest() {
        assert!(!rests_after(&[&HELLO[..], &["DATA", "421 slowly\r\n", "close"]].concat()).await);
        let greylisted = "250 ok\r\n451 4.7.1 later\r\n503 nobody\r\n";
        assert!(!rests_after(&[&HELLO[..], &["DATA", greylisted]].concat()).await);
    }

    #[tokio::test]
    async fn recipients_beyond_what_the_host_takes_go_in_another_transaction() {
        let two = "250 ok\r\n250 ok\r\n250 ok\r\n452 4.5.3 too many\r\n354 go\r\n";
        let server =
            Server::start(&[&HELLO[..], &["DATA", two, ".", "250 queued\r\n"], &TAKE].concat()).await;
        let site = Site::with_smarthost(server.address()).await;
        let id = site.submit(&["a@adatum.test", "b@adatum.test", "c@adatum.test"], "x\r\n").await;
        site.until_gone(id).await;
        site.stop().await;
        let lines = server.finished().await;
        assert_eq!(lines.iter().filter(|line| line.starts_with("MAIL")).count(), 2);
    }

    const LOCAL: &str = "[[domain]]\nname = \"proseware.test\"\nmailboxes = [\"alice\", \"bob\"]\n";

    fn new_mail(folder: &Path, mailbox: &str) -> Vec<String> {
        let directory = folder.join("mail/proseware.test").join(mailbox).join("new");
        let files = std::fs::read_dir(directory).unwrap();
        files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect()
    }

    #[tokio::test]
    async fn mailboxes_get_a_copy_each_and_missing_ones_a_refusal() {
        let site = Site::start(LOCAL, StaticDns::new()).await;
        let to = ["alice@proseware.test", "bob@proseware.test", "gone@proseware.test"];
        let large = format!("Subject: x\r\n\r\n{}", "0123456789\r\n".repeat(100_000));
        let id = site.submit(&to, &large).await;
        site.until("delivered", |site| {
            let states = |message: MessageView| message.recipients.iter().all(|r| r.attempts > 0);
            site.queue.show(id).is_none_or(states)
        })
        .await;
        for mailbox in ["alice", "bob"] {
            let mail = new_mail(site.folder.path(), mailbox);
            let expected = format!(
                "Return-Path: <alice@proseware.test>\nDelivered-To: {mailbox}@proseware.test\nReceived: x\n{}",
                large.replace("\r\n", "\n")
            );
            assert!(mail.contains(&expected), "{mailbox}");
        }
        // The refusal of the third is reported to alice.
        site.until("reported", |site| new_mail(site.folder.path(), "alice").len() == 2).await;
        site.stop().await;
    }

    #[tokio::test]
    async fn an_attempt_without_progress_is_cut_short_and_what_it_achieved_counts() {
        let script = ["220 hi\r\n", "LHLO", "250-hi\r\n250 PIPELINING\r\n", "DATA"];
        let replies = "250 ok\r\n250 ok\r\n452 4.5.3 too many\r\n354 go\r\n";
        let wedges = [&script[..], &[replies, ".", "250 queued\r\n", "hang"]].concat();
        let goes_on = [&script[..], &["250 ok\r\n250 ok\r\n354 go\r\n", ".", "250 queued\r\n"]].concat();
        let server = Server::start_at_once(&[&wedges, &goes_on]).await;
        let text = format!(
            "stall_limit = \"500ms\"\n[[route]]\nvia = \"lmtp\"\nhosts = [\"{}\"]\n",
            server.address()
        );
        let site = Site::start(&text, StaticDns::new()).await;
        let id = site.submit(&["a@adatum.test", "b@adatum.test"], "x\r\n").await;
        site.until("cut short", |site| {
            site.queue.show(id).is_some_and(|message| message.state == "deferred")
        })
        .await;
        let message = site.queue.show(id).unwrap();
        let states: Vec<_> = message.recipients.iter().map(|r| (r.state.as_str(), r.attempts)).collect();
        assert_eq!(states, [("delivered", 1), ("deferred", 0)]);
        site.queue
            .retry(&[id], postern_queue::operate::Retry { ignore_breaker: true, ..Default::default() })
            .await
            .unwrap();
        site.until_gone(id).await;
        site.stop().await;
        let lines = server.finished().await;
        assert_eq!(lines.iter().filter(|line| line.starts_with("RCPT TO:<a@")).count(), 1, "{lines:?}");
    }

    #[tokio::test]
    async fn waiting_for_other_mailboxes_is_no_standstill() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let route =
            format!("[[route]]\nvia = \"smarthost\"\nhosts = [\"{}\"]\n", silent.local_addr().unwrap());
        let site = Site::start(&format!("stall_limit = \"300ms\"\n{LOCAL}{route}"), StaticDns::new()).await;
        let others = site.outbound.local.acquire_many(LOCAL_DELIVERIES as u32).await.unwrap();
        let local = site.submit(&["alice@proseware.test"], "x\r\n").await;
        let step = |site: &Site, id| site.queue.show(id)?.attempt.map(|attempt| attempt.step);
        site.until("waiting", |site| step(site, local).as_deref() == Some("waits for other mailboxes")).await;
        // One that came later does stand still.
        let remote = site.submit(&["bob@adatum.test"], "x\r\n").await;
        site.until("cut short", |site| site.queue.show(remote).is_some_and(|m| m.state == "deferred")).await;
        assert_eq!(site.queue.show(local).unwrap().state, "active");
        drop(others);
        site.until_gone(local).await;
        site.stop().await;
    }

    #[tokio::test]
    async fn postmaster_is_told_of_a_login_that_is_refused() {
        let hello = ["220 hi\r\n", "EHLO", "250-hi\r\n250 AUTH PLAIN\r\n"];
        let server = Server::start(&[&hello[..], &["AUTH", "535 5.7.8 no\r\n"]].concat()).await;
        let folder = tempfile::tempdir().unwrap();
        let password = folder.path().join("password");
        std::fs::write(&password, "secret").unwrap();
        let route = format!(
            "[[route]]\nvia = \"smarthost\"\nhosts = [\"{}\"]\ntls = \"may\"\n\
             username = \"alice\"\npassword_file = {password:?}\n",
            server.address()
        );
        let alias = "aliases = { postmaster = [\"alice\"] }";
        let site = Site::start(&format!("{LOCAL}{alias}\n{route}"), StaticDns::new()).await;
        let id = site.submit(&["bob@adatum.test"], "x\r\n").await;
        site.until_tried(id).await;
        site.until("told", |site| site.queue.summary().messages == 1).await;
        let mail = new_mail(site.folder.path(), "alice").concat();
        assert!(mail.starts_with("Return-Path: <>\n") && mail.contains("\n    535 5.7.8 no\n"), "{mail}");
        site.stop().await;
    }

    #[tokio::test]
    async fn a_route_that_changed_meanwhile_is_followed_and_connections_are_made_anew() {
        let server = Server::start(&[&HELLO[..], &TAKE, &["QUIT", "221 bye\r\n"]].concat()).await;
        let site = Site::with_smarthost(server.address()).await;
        let id = site.submit(&["bob@adatum.test"], "x\r\n").await;
        site.until_gone(id).await;
        let text = format!("[queue]\npath = {:?}\n[[route]]\nvia = \"discard\"\n", site.folder.path());
        site.outbound.reload(settings_with(&text, StaticDns::new()));
        assert_eq!(server.finished().await.last().unwrap(), "QUIT");
        let id = site.submit(&["bob@adatum.test"], "x\r\n").await;
        site.until_gone(id).await;
        site.stop().await;
    }

    #[tokio::test]
    async fn a_panic_ends_the_attempt_and_nothing_else() {
        let panicking = async {
            tokio::task::yield_now().await;
            panic!("poison {}", 7);
        };
        assert_eq!(contained(panicking).await, Err::<(), _>("poison 7".to_owned()));
        assert_eq!(contained(async { 7 }).await, Ok(7));
    }

    #[tokio::test]
    async fn no_more_attempts_than_allowed_run_at_once() {
        let slots = Arc::new(Slots::default());
        let first = slots.take(|| 1).await;
        let waiting = tokio::time::timeout(Duration::ZERO, slots.take(|| 1));
        assert!(waiting.await.is_err());
        let second = slots.take(|| 2).await;
        drop(first);
        drop(second);
        slots.take(|| 1).await;
    }
}
