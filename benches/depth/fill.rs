//! Fills a spool through the queue's own crate: every message is accepted, tried or held as a server would have it.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use postern_config as config;
use postern_queue::{
    Destination, Envelope, Feedback, Origin, Outcome, Queue, QueueId, Recipient, Report, Surroundings,
    metrics,
};
use postern_runtime::SystemClock;
use postern_smtp::{Address, Body, Domain, EnhancedStatus, ReversePath};
use tokio::task::JoinSet;

use crate::harness::load;

/// What fills at once.
const TASKS: usize = 256;
/// Filters by one of them find a tenth.
const SENDERS: usize = 10;
/// A hold names so many messages.
const HELD_AT_ONCE: usize = 10_000;
/// What a busy host says: 200 octets.
const REPLY: &str = "450 4.7.1 <somebody@busy.test>: the mail server is temporarily unable to accept more messages \
                     for this recipient from your network; your message has been deferred, please try it again later";
/// Nothing is due while it is measured.
const RETRY: config::queue::Retry =
    config::queue::Retry { first: HOURS, growth: 1.0, cap: HOURS, jitter: 0.0 };
const HOURS: Duration = Duration::from_secs(4 * 3600);

/// What is in the queue.
#[derive(Debug, Clone, Copy)]
pub struct Fill {
    pub messages: usize,
    pub state: State,
    pub domains: usize,
    pub octets: usize,
}

impl Fill {
    /// How many messages one sender has.
    pub fn share(&self) -> usize {
        self.messages / SENDERS
    }
}

impl fmt::Display for Fill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { messages, state, domains, octets } = self;
        let state = match state {
            State::Deferred => "deferred",
            State::Held => "held",
            State::Ready => "ready",
        };
        write!(f, "{messages} {state} messages of {octets} octets for {domains} domains")
    }
}

/// In what state the messages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Tried once; the evidence is a reply of 200 octets.
    Deferred,
    Held,
    /// Due, for destinations that cannot be reached.
    Ready,
}

impl FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "deferred" => Ok(Self::Deferred),
            "held" => Ok(Self::Held),
            "ready" => Ok(Self::Ready),
            _ => Err(format!("{text:?} is not deferred, held or ready")),
        }
    }
}

/// One of the senders.
pub fn sender(number: usize) -> String {
    format!("sender{}@proseware.test", number % SENDERS)
}

/// Every domain is a destination of its own.
#[derive(Debug)]
struct Plain {
    schedule: Arc<config::Queue>,
    sending: Arc<config::Outbound>,
    hostname: Domain,
}

impl Surroundings for Plain {
    fn destination(&self, _: &ReversePath, recipient: &Address, _: Option<&str>) -> Destination {
        Destination(format!("mx {}", recipient.host).into())
    }

    fn checked_route(&self, via: &str) -> Result<String, String> {
        Ok(via.to_owned())
    }

    fn is_local(&self, _: &Address) -> bool {
        false
    }

    fn final_recipients(&self, address: &Address) -> Vec<Address> {
        vec![address.clone()]
    }

    fn hostname(&self) -> Domain {
        self.hostname.clone()
    }

    fn schedule(&self) -> Arc<config::Queue> {
        self.schedule.clone()
    }

    fn sending(&self) -> Arc<config::Outbound> {
        self.sending.clone()
    }
}

/// Fills the spool. It is closed in order behind it.
pub fn fill(spool: &Path, fill: &Fill) -> Result<(), String> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let queue = open(spool)?;
        let ids = accept(&queue, fill).await?;
        match fill.state {
            State::Deferred => defer(&queue, fill.messages).await,
            State::Held => hold(&queue, &ids).await?,
            State::Ready => {}
        }
        queue.close().await;
        Ok(())
    })
}

fn open(spool: &Path) -> Result<Queue, String> {
    let schedule = Arc::new(config::Queue {
        path: spool.to_owned(),
        max_messages: usize::MAX,
        retry: RETRY,
        ..config::Queue::default()
    });
    let hostname = Domain::parse("mail.proseware.test").map_err(|e| e.to_string())?;
    let surroundings = Plain { schedule: schedule.clone(), sending: Arc::default(), hostname };
    let metrics = metrics::Metrics::register(&prometheus::Registry::new()).map_err(|e| e.to_string())?;
    let opened = Queue::open(&schedule, Arc::new(surroundings), Arc::new(SystemClock), metrics);
    opened.map(|(queue, _)| queue).map_err(|e| e.to_string())
}

/// Lets tasks share work that is numbered.
async fn shared<T, F>(
    count: usize,
    work: impl Fn(usize) -> F + Clone + Send + 'static,
) -> Result<Vec<T>, String>
where
    T: Send + 'static,
    F: Future<Output = Result<T, String>> + Send + 'static,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let (next, work) = (next.clone(), work.clone());
        tasks.spawn(async move {
            let mut done = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok::<_, String>(done);
                }
                done.push(work(number).await?);
            }
        });
    }
    let mut all = Vec::with_capacity(count);
    for done in tasks.join_all().await {
        all.extend(done?);
    }
    Ok(all)
}

async fn accept(queue: &Queue, fill: &Fill) -> Result<Vec<QueueId>, String> {
    let body = Bytes::from(load::message(fill.octets));
    // Without the dot behind it.
    let body = body.slice(..body.len().saturating_sub(3));
    let (queue, domains) = (queue.clone(), fill.domains);
    shared(fill.messages, move |number| {
        let (queue, body) = (queue.clone(), body.clone());
        async move {
            let envelope = envelope(number, domains)?;
            let mut incoming = queue.incoming().map_err(|e| e.to_string())?;
            let header =
                format!("Received: from load by mail.proseware.test with ESMTP id {};\r\n", incoming.id());
            incoming.write(body).await.map_err(|e| e.to_string())?;
            incoming.commit(envelope, header.into_bytes()).await.map_err(|e| e.to_string())
        }
    })
    .await
}

fn envelope(number: usize, domains: usize) -> Result<Envelope, String> {
    // Neighbours differ in both, so that each sender has mail for each domain.
    let recipient = format!("user{number}@domain{:04}.test", number / SENDERS % domains);
    let recipient = Recipient::new(Address::parse(&recipient).map_err(|e| e.to_string())?);
    Ok(Envelope {
        reverse_path: ReversePath::parse(&sender(number)).map_err(|e| e.to_string())?,
        origin: Origin::TrustedNetwork("loopback".to_owned()),
        client: Some([127, 0, 0, 1].into()),
        forwarded: None,
        helo: Some("load.proseware.test".to_owned()),
        received: SystemTime::now(),
        body: Body::SevenBit,
        smtputf8: false,
        ret: None,
        envelope_id: None,
        message_id: Some(format!("{number}@proseware.test")),
        priority: 0,
        terms: Default::default(),
        size: 0,
        recipients: vec![recipient],
    })
}

/// Tries each message once, at a host that is busy.
async fn defer(queue: &Queue, messages: usize) {
    let tried = queue.clone();
    let work = move |_| {
        let queue = tried.clone();
        async move {
            let lease = queue.lease().await;
            let report = Report {
                status: EnhancedStatus::new(4, 7, 1),
                text: REPLY.to_owned(),
                is_reply: true,
                host: Some("mx.busy.test".to_owned()),
                tls: Some("TLSv1.3 verified".to_owned()),
                at: SystemTime::now(),
            };
            let outcome = Outcome::Deferred(report, None);
            let outcomes = lease.recipients.iter().map(|r| (r.index, outcome.clone())).collect();
            queue.settle(lease, outcomes, Feedback::Reached);
            Ok(())
        }
    };
    // None of it can fail.
    let _ = shared(messages, work).await;
    while queue.summary().deferred < messages {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn hold(queue: &Queue, ids: &[QueueId]) -> Result<(), String> {
    for ids in ids.chunks(HELD_AT_ONCE) {
        let change = queue.hold(ids, "measured", None, Duration::ZERO).await.map_err(|e| e.to_string())?;
        if change.changed < ids.len() {
            return Err(format!("{} of {} messages could be held", change.changed, ids.len()));
        }
    }
    Ok(())
}
