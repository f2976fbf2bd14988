//! A queue over any store, and a clock that stands until it is moved.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use postern_config as config;
use postern_queue::memory::Memory;
use postern_queue::{
    Change, Content, Destination, Envelope, Feedback, Handover, Lease, MessageView, Origin, Outcome, Queue,
    QueueId, Recipient, Recovery, Report, StoreError, Surroundings, metrics,
};
use postern_runtime::{Clock, ManualClock};
use postern_smtp::{Address, Body, Domain, EnhancedStatus, ReversePath};

pub const ALICE: &str = "alice@proseware.test";
pub const HEADER: &[u8] = b"Received: by mail.proseware.test\r\n";
pub const BODY: &[u8] = b"Message-ID: <1@proseware.test>\r\nSubject: hello\r\n\r\nHello Bob\r\n";

#[derive(Debug)]
pub struct TestSurroundings {
    pub schedule: Arc<config::Queue>,
    sending: Arc<config::Outbound>,
    /// As long as this holds, composing a report panics.
    pub reports_fail: AtomicBool,
    /// Every domain goes to this destination instead of its own.
    pub rerouted: AtomicBool,
    /// Who is behind info@proseware.test.
    pub info: Mutex<Vec<Address>>,
}

impl Surroundings for TestSurroundings {
    fn destination(&self, _: &ReversePath, recipient: &Address, via: Option<&str>) -> Destination {
        if let Some(via) = via {
            return to(via);
        }
        if self.rerouted.load(Ordering::Relaxed) {
            return to("smarthost");
        }
        to(recipient.domain().unwrap().as_str())
    }

    fn checked_route(&self, via: &str) -> Result<String, String> {
        via.starts_with("smarthost ")
            .then(|| via.to_owned())
            .ok_or_else(|| format!("{via:?}: write smarthost HOST"))
    }

    fn is_local(&self, recipient: &Address) -> bool {
        recipient.domain().is_some_and(|domain| domain.as_str() == "proseware.test")
    }

    fn final_recipients(&self, address: &Address) -> Vec<Address> {
        assert!(!self.reports_fail.load(Ordering::Relaxed), "as the test wants it");
        match address.to_string().as_str() {
            "team@proseware.test" => vec![addr(ALICE), addr("bill@proseware.test")],
            "info@proseware.test" => self.info.lock().unwrap().clone(),
            "gone@proseware.test" => Vec::new(),
            _ => vec![address.clone()],
        }
    }

    fn hostname(&self) -> Domain {
        Domain::parse("mail.proseware.test").unwrap()
    }

    fn schedule(&self) -> Arc<config::Queue> {
        self.schedule.clone()
    }

    fn sending(&self) -> Arc<config::Outbound> {
        self.sending.clone()
    }
}

/// What the envelopes of waiting messages may take up in memory. With 0 each is left to the spool as soon as nothing goes
/// on with it, which must make no difference to anybody.
pub fn memory() -> u64 {
    std::env::var("POSTERN_QUEUE_MEMORY")
        .map_or(config::Queue::default().memory, |text| text.parse().unwrap())
}

/// Where the queue of a world is kept.
pub trait Backing: Clone + Default + Send + 'static {
    /// Opens a queue on what is there.
    fn open(
        &self,
        config: &config::Queue,
        surroundings: Arc<dyn Surroundings>,
        clock: Arc<dyn Clock>,
        metrics: metrics::Metrics,
    ) -> Result<(Queue, Recovery), StoreError>;
}

/// In the directory of the configuration.
#[derive(Clone, Default)]
pub struct OnDisk;

impl Backing for OnDisk {
    fn open(
        &self,
        config: &config::Queue,
        surroundings: Arc<dyn Surroundings>,
        clock: Arc<dyn Clock>,
        metrics: metrics::Metrics,
    ) -> Result<(Queue, Recovery), StoreError> {
        Queue::open(config, surroundings, clock, metrics)
    }
}

/// In memory.
#[derive(Clone, Default)]
pub struct InMemory(Memory);

impl Backing for InMemory {
    fn open(
        &self,
        config: &config::Queue,
        surroundings: Arc<dyn Surroundings>,
        clock: Arc<dyn Clock>,
        metrics: metrics::Metrics,
    ) -> Result<(Queue, Recovery), StoreError> {
        let time = clock.clone();
        Queue::open_on(config, surroundings, clock, metrics, |tell| {
            let (spool, found) = self.0.open(time, tell)?;
            Ok((Arc::new(spool), found))
        })
    }
}

/// What outlives the queues that are opened in it: their store, their time, what they ask of others.
pub struct World<B> {
    _dir: tempfile::TempDir,
    pub backing: B,
    pub clock: ManualClock,
    pub surroundings: Arc<TestSurroundings>,
}

impl<B: Backing> World<B> {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut config::Queue)) -> Self {
        Self::with_sending(change, config::Outbound { max_recipients: 2, ..config::Outbound::default() })
    }

    pub fn with_sending(change: impl FnOnce(&mut config::Queue), sending: config::Outbound) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut schedule = config::Queue {
            path: dir.path().join("spool"),
            min_free_space: 0,
            min_free_inodes: 0,
            memory: memory(),
            segment_size: 4 * 1024 * 1024,
            ..config::Queue::default()
        };
        schedule.retry.jitter = 0.0;
        change(&mut schedule);
        let surroundings = TestSurroundings {
            schedule: Arc::new(schedule),
            sending: Arc::new(sending),
            reports_fail: AtomicBool::new(false),
            rerouted: AtomicBool::new(false),
            info: Mutex::new(vec![addr(ALICE)]),
        };
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_284_325);
        let (backing, clock) = (B::default(), ManualClock::new(start));
        Self { _dir: dir, backing, clock, surroundings: Arc::new(surroundings) }
    }

    pub async fn open(&self) -> Queue {
        self.open_and_tell().await.0
    }

    /// Opens the queue; the one before may take a moment to let go of it.
    pub async fn open_and_tell(&self) -> (Queue, Recovery) {
        let mut opened = None;
        until(async || {
            let (surroundings, clock) = (self.surroundings.clone(), Arc::new(self.clock.clone()));
            let backing = self.backing.clone();
            let open = move || {
                let metrics = metrics::Metrics::register(&prometheus::Registry::new()).unwrap();
                backing.open(&surroundings.schedule.clone(), surroundings, clock, metrics)
            };
            match tokio::task::spawn_blocking(open).await.unwrap() {
                Ok(queue) => opened = Some(queue),
                Err(StoreError::InUse(_)) => {}
                Err(error) => panic!("{error}"),
            }
            opened.is_some()
        })
        .await;
        opened.unwrap()
    }

    pub fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }
}

/// Asks until it is so.
pub async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    in_time(async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

pub async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it did not happen")
}

pub fn to(destination: &str) -> Destination {
    Destination(destination.into())
}

pub fn addr(text: &str) -> Address {
    Address::parse(text).unwrap()
}

pub fn envelope(world: &World<impl Backing>, sender: &str, recipients: &[&str]) -> Envelope {
    let recipient = |text: &&str| Recipient::new(addr(text));
    Envelope {
        reverse_path: ReversePath::parse(sender).unwrap(),
        origin: Origin::Login("alice".to_owned()),
        client: Some("192.0.2.7".parse().unwrap()),
        forwarded: None,
        helo: Some("laptop".to_owned()),
        received: world.clock.now(),
        body: Body::SevenBit,
        smtputf8: false,
        ret: None,
        envelope_id: None,
        message_id: Some("1@proseware.test".to_owned()),
        priority: 0,
        terms: Default::default(),
        size: 0,
        recipients: recipients.iter().map(recipient).collect(),
    }
}

pub async fn accept(
    world: &World<impl Backing>,
    queue: &Queue,
    sender: &str,
    recipients: &[&str],
) -> QueueId {
    accept_as(queue, envelope(world, sender, recipients)).await
}

pub async fn accept_as(queue: &Queue, envelope: Envelope) -> QueueId {
    let mut incoming = queue.incoming().unwrap();
    incoming.write(Bytes::from_static(BODY)).await.unwrap();
    incoming.commit(envelope, HEADER.to_vec()).await.unwrap()
}

pub async fn lease(queue: &Queue) -> Lease {
    in_time(queue.lease()).await
}

pub async fn read(mut content: Content) -> Vec<u8> {
    let mut octets = Vec::new();
    while let Some(piece) = content.next().await.unwrap() {
        octets.extend_from_slice(&piece);
    }
    assert_eq!(octets.len() as u64, content.len());
    octets
}

pub fn report(world: &World<impl Backing>, status: (u8, u16, u16), text: &str) -> Report {
    Report {
        status: EnhancedStatus::new(status.0, status.1, status.2),
        text: text.to_owned(),
        is_reply: true,
        host: Some("mx.adatum.test".to_owned()),
        tls: Some("TLSv1.3 verified".to_owned()),
        at: world.clock.now(),
    }
}

pub fn delivered(world: &World<impl Backing>) -> Outcome {
    Outcome::Delivered(report(world, (2, 0, 0), "250 2.0.0 Ok"), Handover::Relayed)
}

pub fn deferred(world: &World<impl Backing>) -> Outcome {
    Outcome::Deferred(report(world, (4, 7, 1), "450 4.7.1 Come back later"), None)
}

pub fn failed(world: &World<impl Backing>) -> Outcome {
    Outcome::Failed(report(world, (5, 1, 1), "550 5.1.1 No such user"))
}

/// Settles all recipients of a lease alike.
pub fn settle(queue: &Queue, lease: Lease, outcome: &Outcome) {
    let outcomes = lease.recipients.iter().map(|recipient| (recipient.index, outcome.clone())).collect();
    queue.settle(lease, outcomes, Feedback::Reached);
}

pub async fn wait_for_messages(queue: &Queue, count: usize) {
    until(async || queue.summary().messages == count).await;
}

pub async fn wait_for_state(queue: &Queue, id: QueueId, state: &str) -> MessageView {
    until(async || queue.show(id).is_some_and(|view| view.state == state)).await;
    queue.show(id).unwrap()
}

pub fn changed(matched: usize, changed: usize) -> Change {
    Change { matched, changed, ..Change::default() }
}
