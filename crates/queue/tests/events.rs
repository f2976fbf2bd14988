//! What happens to messages, as watchers see it and as the journal tells it: a real spool, and a clock that stands until it
//! is moved.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use postern_config as config;
use postern_queue::events::{EventFilter, EventKind, EventView, MAX_WATCHERS, WatchError, Watched, Watcher};
use postern_queue::history::{History, Query};
use postern_queue::operate::{RecipientPick, Retry};
use postern_queue::{
    Destination, Envelope, Feedback, Filter, Handover, Lease, Origin, Outcome, Queue, QueueId, Recipient,
    Report, Surroundings, metrics,
};
use postern_runtime::{Clock, ManualClock};
use postern_smtp::{Address, Body, Domain, EnhancedStatus, ReversePath};

const ALICE: &str = "alice@proseware.test";
const BOB: &str = "bob@adatum.test";
const CAROL: &str = "carol@adatum.test";

#[derive(Debug)]
struct Local(Arc<config::Queue>);

impl Surroundings for Local {
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
        Domain::parse("mail.proseware.test").unwrap()
    }

    fn schedule(&self) -> Arc<config::Queue> {
        self.0.clone()
    }

    fn sending(&self) -> Arc<config::Outbound> {
        Arc::default()
    }
}

struct World {
    dir: tempfile::TempDir,
    clock: ManualClock,
    queue: Queue,
}

impl World {
    async fn new(is_kept: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_284_325));
        let queue = open(&dir, &clock, is_kept).await;
        Self { dir, clock, queue }
    }

    async fn accept(&self, to: &[&str]) -> QueueId {
        let recipient = |address: &&str| Recipient::new(Address::parse(address).unwrap());
        let envelope = Envelope {
            reverse_path: ReversePath::parse(ALICE).unwrap(),
            origin: Origin::Login(ALICE.to_owned()),
            client: Some("192.0.2.7".parse().unwrap()),
            forwarded: None,
            helo: None,
            received: self.clock.now(),
            body: Body::SevenBit,
            smtputf8: false,
            ret: None,
            envelope_id: None,
            message_id: Some("1@proseware.test".to_owned()),
            priority: 0,
            terms: Default::default(),
            size: 0,
            recipients: to.iter().map(recipient).collect(),
        };
        let mut incoming = self.queue.incoming().unwrap();
        incoming.write(Bytes::from_static(b"Subject: secret\r\n\r\nhello\r\n")).await.unwrap();
        incoming.commit(envelope, Vec::new()).await.unwrap()
    }

    async fn lease(&self) -> Lease {
        tokio::time::timeout(Duration::from_secs(60), self.queue.lease()).await.unwrap()
    }

    /// Ends an attempt: the same outcome for all.
    fn settle(&self, lease: Lease, outcome: &Outcome) {
        let outcomes = lease.recipients.iter().map(|r| (r.index, outcome.clone())).collect();
        self.queue.settle(lease, outcomes, Feedback::Reached);
    }

    fn report(&self, status: (u8, u16, u16), text: &str) -> Report {
        Report {
            status: EnhancedStatus::new(status.0, status.1, status.2),
            text: text.to_owned(),
            is_reply: true,
            host: Some("mx1.adatum.test [192.0.2.25]:25".to_owned()),
            tls: Some("TLSv1.3 verified".to_owned()),
            at: self.clock.now(),
        }
    }

    fn delivered(&self) -> Outcome {
        Outcome::Delivered(self.report((2, 0, 0), "250 2.0.0 Ok: queued as 12345"), Handover::Relayed)
    }

    fn deferred(&self) -> Outcome {
        Outcome::Deferred(self.report((4, 3, 0), "451 4.3.0 later"), None)
    }

    async fn history(&self, key: &str) -> History {
        let (queue, query) =
            (self.queue.clone(), Query { key: key.to_owned(), limit: 10, ..Query::default() });
        tokio::task::spawn_blocking(move || queue.history(&query)).await.unwrap().unwrap()
    }

    fn journal(&self) -> String {
        let Ok(entries) = std::fs::read_dir(self.dir.path().join("spool/history")) else {
            return String::new();
        };
        entries.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect()
    }
}

async fn open(dir: &tempfile::TempDir, clock: &ManualClock, is_kept: bool) -> Queue {
    let mut schedule = config::Queue {
        path: dir.path().join("spool"),
        min_free_space: 0,
        min_free_inodes: 0,
        segment_size: 1024 * 1024,
        ..config::Queue::default()
    };
    schedule.retry.jitter = 0.0;
    schedule.history.enabled = is_kept;
    let clock = Arc::new(clock.clone());
    let open = move || {
        let metrics = metrics::Metrics::register(&prometheus::Registry::new()).unwrap();
        Queue::open(&schedule.clone(), Arc::new(Local(Arc::new(schedule))), clock, metrics).unwrap().0
    };
    tokio::task::spawn_blocking(open).await.unwrap()
}

async fn next(watcher: &mut Watcher) -> EventView {
    match tokio::time::timeout(Duration::from_secs(60), watcher.next()).await.unwrap() {
        Some(Watched::Event(event)) => (*event).clone(),
        other => panic!("{other:?}"),
    }
}

fn told(event: &EventView) -> (EventKind, Vec<&str>) {
    (event.event, event.recipients.iter().map(|recipient| recipient.address.as_str()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_sees_a_message_from_its_acceptance_to_its_end() {
    let world = World::new(true).await;
    let mut watcher = world.queue.watch(&EventFilter::default()).unwrap();
    let id = world.accept(&[BOB, CAROL]).await;
    let accepted = next(&mut watcher).await;
    assert_eq!(told(&accepted), (EventKind::Accepted, vec![BOB, CAROL]));
    assert_eq!((accepted.id.as_str(), accepted.sender.as_str()), (id.to_string().as_str(), ALICE));
    assert_eq!(accepted.origin.as_deref(), Some("login alice@proseware.test"));
    assert_eq!((accepted.size, accepted.client.as_deref()), (Some(26), Some("192.0.2.7")));

    let lease = world.lease().await;
    world.clock.advance(Duration::from_millis(1500));
    world.settle(lease, &world.deferred());
    let deferred = next(&mut watcher).await;
    assert_eq!(told(&deferred), (EventKind::Deferred, vec![BOB, CAROL]), "the same outcome is one event");
    assert_eq!((deferred.attempts, deferred.delay), (Some(1), 1500));
    assert_eq!(deferred.destination.as_deref(), Some("mx adatum.test"));
    assert_eq!(deferred.reply.as_deref(), Some("451 4.3.0 later"));

    world.clock.advance(Duration::from_secs(3600));
    let lease = world.lease().await;
    let bounce = Outcome::Failed(world.report((5, 1, 1), "550 5.1.1 no such user"));
    let outcomes = vec![(0, world.delivered()), (1, bounce)];
    world.queue.settle(lease, outcomes, Feedback::Reached);
    assert_eq!(told(&next(&mut watcher).await), (EventKind::Delivered, vec![BOB]));
    let failed = next(&mut watcher).await;
    assert_eq!(told(&failed), (EventKind::Failed, vec![CAROL]));
    assert_eq!((failed.attempts, failed.status.as_deref()), (Some(2), Some("5.1.1")));
    let reported = next(&mut watcher).await;
    assert_eq!((reported.event, reported.report_kind.as_deref()), (EventKind::Reported, Some("failed")));
    assert_eq!(told(&next(&mut watcher).await), (EventKind::Gone, vec![]));

    let report = world.lease().await;
    assert_eq!(Some(report.id.to_string()), reported.report);
    world.settle(report, &world.delivered());
    assert_eq!(told(&next(&mut watcher).await), (EventKind::Delivered, vec![ALICE]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_operators_do_is_told_with_their_reasons() {
    let world = World::new(true).await;
    let mut watcher = world.queue.watch(&EventFilter::default()).unwrap();
    let id = world.accept(&[BOB]).await;
    let other = world.accept(&[CAROL]).await;
    let (pick, now) = (RecipientPick::default(), Duration::ZERO);
    world.queue.hold(&[id], "looks odd", None, now).await.unwrap();
    world.queue.release(&[id]).await.unwrap();
    world.queue.retry(&[id], Retry::default()).await.unwrap();
    world.queue.remove(&[id], &pick, "spam", now).await.unwrap();
    world.queue.fail(&[other], &pick, "the customer has left", now).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 5 {
        let event = next(&mut watcher).await;
        if event.operator {
            seen.push((event.event, event.id.clone(), event.reply.clone().unwrap_or_default()));
        }
    }
    let (id, other) = (id.to_string(), other.to_string());
    let expected = [
        (EventKind::Held, id.clone(), "looks odd"),
        (EventKind::Released, id.clone(), ""),
        (EventKind::Retried, id.clone(), ""),
        (EventKind::Dropped, id.clone(), "spam"),
        (EventKind::Failed, other, "the customer has left"),
    ];
    assert_eq!(seen, expected.map(|(kind, id, reason)| (kind, id, reason.to_owned())));
    // Who retried what is in the audit log, and tells nothing of the message.
    let kept: Vec<EventKind> = world.history(&id).await.messages[0].events.iter().map(|e| e.event).collect();
    assert_eq!(kept, [EventKind::Held, EventKind::Released, EventKind::Dropped]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_held_for_a_fault_is_told_as_nobodys_work() {
    let world = World::new(true).await;
    let filter = EventFilter { kinds: vec![EventKind::Held], ..EventFilter::default() };
    let mut watcher = world.queue.watch(&filter).unwrap();
    world.accept(&[BOB]).await;
    for _ in 0..3 {
        drop(world.lease().await);
        world.clock.advance(Duration::from_secs(61));
    }
    let held = next(&mut watcher).await;
    assert!(!held.operator && held.reply.as_ref().unwrap().contains("without an outcome"), "{held:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_see_what_they_asked_for() {
    let world = World::new(false).await;
    let filter = |change: fn(&mut EventFilter)| {
        let mut filter = EventFilter::default();
        change(&mut filter);
        filter
    };
    let matching = [
        filter(|f| f.sender = Some("ALICE@proseware.test".to_owned())),
        filter(|f| f.sender = Some("@proseware.test".to_owned())),
        filter(|f| f.rcpt = Some(CAROL.to_owned())),
        filter(|f| f.rcpt_domain = Some("Adatum.test".to_owned())),
        filter(|f| f.account = Some(ALICE.to_owned())),
        filter(|f| f.client_ip = Some("192.0.2.7".to_owned())),
        filter(|f| f.code = Some("4.3".to_owned())),
        filter(|f| f.code = Some("451".to_owned())),
        filter(|f| f.kinds = vec![EventKind::Gone, EventKind::Deferred]),
    ];
    let others = [
        filter(|f| f.sender = Some("<>".to_owned())),
        filter(|f| f.rcpt = Some("dave@adatum.test".to_owned())),
        filter(|f| f.rcpt_domain = Some("test".to_owned())),
        filter(|f| f.account = Some("bob".to_owned())),
        filter(|f| f.client_ip = Some("192.0.2.8".to_owned())),
        filter(|f| f.code = Some("5.".to_owned())),
        filter(|f| f.kinds = vec![EventKind::Delivered]),
        filter(|f| f.ids = vec![QueueId(7).to_string()]),
    ];
    let watch = |filter: &EventFilter| world.queue.watch(filter).unwrap();
    let mut matching: Vec<Watcher> = matching.iter().map(watch).collect();
    let mut silent: Vec<Watcher> = others[..MAX_WATCHERS - matching.len()].iter().map(watch).collect();
    assert!(matches!(world.queue.watch(&EventFilter::default()), Err(WatchError::TooMany)));
    world.accept(&[BOB, CAROL]).await;
    world.settle(world.lease().await, &world.deferred());
    for (number, watcher) in matching.iter_mut().enumerate() {
        while next(watcher).await.event != EventKind::Deferred {
            assert!(number < 6, "{number} should see nothing else");
        }
    }
    world.queue.close().await;
    for (number, watcher) in silent.iter_mut().enumerate() {
        assert_eq!(watcher.next().await, None, "{number}");
    }
    drop((matching, silent));
    assert!(world.queue.watch(&others[7]).is_ok(), "places are given back");
    for bad in [
        filter(|f| f.ids = vec!["1".to_owned()]),
        filter(|f| f.sender = Some("alice".to_owned())),
        filter(|f| f.rcpt_domain = Some("-".to_owned())),
        filter(|f| f.client_ip = Some("localhost".to_owned())),
        filter(|f| f.ids = vec![QueueId(7).to_string(); 1001]),
    ] {
        assert!(matches!(world.queue.watch(&bad), Err(WatchError::Filter(_))), "{bad:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_watcher_is_told_what_it_missed_and_holds_up_nobody() {
    let world = World::new(false).await;
    let mut watcher = world.queue.watch(&EventFilter::default()).unwrap();
    let many: Vec<String> = (0..1000).map(|n| format!("r{n}@adatum.test")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let id = world.accept(&many).await;
    for _ in 0..60 {
        world.queue.hold(&[id], "x", None, Duration::ZERO).await.unwrap();
        world.queue.release(&[id]).await.unwrap();
    }
    let missed = match watcher.next().await {
        Some(Watched::Missed(missed)) => missed,
        other => panic!("{other:?}"),
    };
    // An event has at most a hundred recipients.
    assert_eq!(missed, 10 + 60 * 20 - 1024);
    let oldest = next(&mut watcher).await;
    assert_eq!(oldest.recipients.len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_and_the_queue_tell_one_story() {
    let world = World::new(true).await;
    let id = world.accept(&[BOB]).await;
    world.settle(world.lease().await, &world.deferred());
    for key in [&id.to_string(), "1@proseware.test", BOB, ALICE, "@adatum.test"] {
        let history = world.history(key).await;
        let [story] = &history.messages[..] else { panic!("{key}: {history:?}") };
        assert_eq!(story.events.len(), 1, "{key}: {story:?}");
        assert_eq!(story.queued.as_ref().unwrap().id, id.to_string());
        assert_eq!(history.enabled, Some(true));
    }
    let fresh = world.accept(&["dave@client.test"]).await;
    let history = world.history("dave@client.test").await;
    assert_eq!(history.messages[0].id, fresh.to_string(), "a message to which nothing has happened yet");
    assert!(history.messages[0].events.is_empty());
    world.clock.advance(Duration::from_secs(3600));
    let (first, second) = (world.lease().await, world.lease().await);
    let old = if first.id == id { first } else { second };
    world.settle(old, &world.delivered());
    while world.queue.show(id).is_some() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let history = world.history(&id.to_string()).await;
    let story = &history.messages[0];
    assert_eq!((story.queued.as_ref(), story.events.len()), (None, 2));
    assert_eq!(story.events[1].delay, 3_600_000);
    assert!(!world.journal().contains("secret"), "nothing of the content");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_is_told_with_the_last_words() {
    let world = World::new(true).await;
    let id = world.accept(&[BOB]).await;
    world.settle(world.lease().await, &world.deferred());
    while world.queue.show(id).unwrap().state != "deferred" {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let filter = EventFilter { ids: vec![id.to_string()], ..EventFilter::default() };
    let mut watcher = world.queue.watch(&filter).unwrap();
    world.clock.advance(Duration::from_secs(6 * 24 * 3600));
    let expired = next(&mut watcher).await;
    assert_eq!(told(&expired), (EventKind::Expired, vec![BOB]));
    assert_eq!(
        (expired.status.as_deref(), expired.reply.as_deref()),
        (Some("4.4.7"), Some("451 4.3.0 later"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_journal_nothing_is_written_and_the_queue_is_searched() {
    let world = World::new(false).await;
    let id = world.accept(&[BOB]).await;
    let history = world.history(BOB).await;
    assert_eq!((history.messages[0].id.clone(), history.enabled), (id.to_string(), Some(false)));
    world.settle(world.lease().await, &world.delivered());
    while !world.queue.select(&Filter::default()).unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(world.history(BOB).await.messages, []);
    assert!(!world.dir.path().join("spool/history").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_the_queue_writes_what_was_pending_and_a_restart_goes_on() {
    let world = World::new(true).await;
    let id = world.accept(&[BOB]).await;
    world.settle(world.lease().await, &world.delivered());
    world.queue.close().await;
    assert!(world.journal().contains(&id.to_string()));
    let World { dir, clock, queue } = world;
    drop(queue);
    let world = World { queue: open(&dir, &clock, true).await, dir, clock };
    let second = world.accept(&[CAROL]).await;
    world.settle(world.lease().await, &world.delivered());
    world.queue.close().await;
    let files = std::fs::read_dir(world.dir.path().join("spool/history")).unwrap().count();
    assert_eq!((files, world.journal().lines().count()), (1, 2));
    assert!(world.journal().contains(&second.to_string()));
}
