//! The control socket from outside: a real queue behind it, the client of `posternctl` and raw octets in front.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use postern_admin::api::Versioned;
use postern_admin::api::doctor::{Findings, Tally};
use postern_admin::api::edit::EditRequest;
use postern_admin::api::history::{EventFilter, EventKind, EventView, History, HistoryRequest, WatchRequest};
use postern_admin::api::store::{
    self, CheckRequest, Event, Fix, FixRequest, Fixed, RestoreRequest, Restored,
};
use postern_admin::api::{
    Audit, AuditRequest, ChangeRequest, Changed, CountRequest, Counts, Delivery, ExplainRequest, Explanation,
    Filter, GroupBy, Health, Imported, List, ListRequest, ProblemKind, Refusal, Reloaded, Shape,
    ShapeRequest, ShowRequest, Shown, Status,
};
use postern_admin::explain::Mail;
use postern_admin::server::ServeError;
use postern_admin::{Client, ClientError, Daemon, Listening, ReloadReport, Shared, metrics, server};
use postern_config::replies::Class;
use postern_config::{self as config, Config, ListenerKind};
use postern_policy::Policy;
use postern_policy::checkup::reports::{Complaints, Reports};
use postern_policy::checkup::{Check, Finding};
use postern_policy::record::{Record, Records, Settings, Told, Transcript};
use postern_policy::relay::{Decision, Question, Stage, decide};
use postern_queue::events::MAX_WATCHERS;
use postern_queue::{
    Destination, Door, Envelope, Feedback, Opener, Origin, Queue, QueueId, Recipient, Surroundings,
};
use postern_runtime::SystemClock;
use postern_runtime::clock::Pending;
use postern_runtime::dns::Trouble;
use postern_smtp::{Address, Body, Domain, ForwardPath, ReversePath};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// For what must happen at once; only a fault takes so long.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct TestSurroundings;

impl Surroundings for TestSurroundings {
    fn destination(&self, _sender: &ReversePath, recipient: &Address, _via: Option<&str>) -> Destination {
        Destination(format!("mx {}", recipient.host).into())
    }

    fn checked_route(&self, via: &str) -> Result<String, String> {
        (via == "mx").then(|| via.to_owned()).ok_or_else(|| format!("{via:?} is no route: write mx"))
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
        Arc::default()
    }

    fn sending(&self) -> Arc<config::Outbound> {
        Arc::default()
    }
}

struct TestDaemon {
    reloading: Arc<Reloading>,
}

/// Whoever has the permit keeps reloads waiting.
#[derive(Debug)]
struct Reloading {
    turn: Semaphore,
    begun: AtomicUsize,
}

impl Default for Reloading {
    fn default() -> Self {
        Self { turn: Semaphore::new(1), begun: AtomicUsize::new(0) }
    }
}

impl Daemon for TestDaemon {
    fn reload(&self) -> Pending<'_, Result<ReloadReport, String>> {
        Box::pin(async {
            self.reloading.begun.fetch_add(1, Ordering::SeqCst);
            let _turn = self.reloading.turn.acquire().await;
            Err("postern.toml:1:1: error: unknown key `hostnam`".to_owned())
        })
    }

    fn delivery(&self, _mail: &Mail<'_>, recipient: &Address) -> Delivery {
        let route = Some(format!("mx {}", recipient.host));
        Delivery { recipient: recipient.to_string(), route, ..Delivery::default() }
    }

    fn dns_trouble(&self) -> Pending<'_, Option<Trouble>> {
        Box::pin(async {
            let servers = vec!["192.0.2.53:53".parse().unwrap()];
            let problem = "request timed out".to_owned();
            Some(Trouble { servers, failed: 2, since: Duration::from_secs(60), problem })
        })
    }

    fn reply(&self, _question: &Question<'_>, decision: &Decision) -> Option<String> {
        Some(format!("said because of {}", decision.reason.as_str()))
    }

    fn listening(&self) -> Vec<Listening> {
        vec![Listening { kind: "mx".to_owned(), address: "127.0.0.1:2525".parse().unwrap() }]
    }

    fn load(&self) -> postern_admin::api::load::Load {
        postern_admin::api::load::Load { sessions: 3, max_sessions: 1000, ..Default::default() }
    }

    fn warnings(&self) -> Vec<String> {
        vec!["tls.key: others may read it".to_owned()]
    }

    fn verify(&self, _: Vec<postern_smtp::Domain>) -> Pending<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn check(&self, check: Check) -> Pending<'_, Vec<Finding>> {
        Box::pin(std::future::ready(vec![Finding::note(check.as_str(), "looked at")]))
    }

    fn reports(&self) -> Pending<'_, Reports> {
        let complaints =
            vec![Complaints { provider: "adatum.test".to_owned(), count: 3, ..Complaints::default() }];
        Box::pin(std::future::ready(Reports { complaints, ..Reports::default() }))
    }
}

struct Running {
    folder: TempDir,
    queue: Queue,
    shared: Shared,
    reloading: Arc<Reloading>,
    client: Client,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Running {
    async fn start() -> Self {
        let (running, opener) = Self::start_loading(tempfile::tempdir().unwrap()).await;
        opener.open(running.queue.clone());
        running
    }

    /// The same, with all messages read and the door still closed.
    async fn start_loading(folder: TempDir) -> (Self, Opener) {
        let (shared, opener, queue) = shared(folder.path()).await;
        let reloading = Arc::new(Reloading::default());
        let daemon = Arc::new(TestDaemon { reloading: reloading.clone() });
        let shared = Shared { daemon, ..shared };
        let socket = folder.path().join("control.sock");
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        server::serve(&socket, shared.clone(), stop.clone(), &tasks).unwrap();
        (Self { client: Client::new(&socket), folder, queue, shared, reloading, stop, tasks }, opener)
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    async fn stop(self) -> TempDir {
        self.stop.cancel();
        self.tasks.close();
        tokio::time::timeout(PATIENCE, self.tasks.wait()).await.unwrap();
        self.queue.close().await;
        self.folder
    }

    async fn queue_message(&self, from: &str, to: &str, body: &[u8]) -> QueueId {
        let mut incoming = self.queue.incoming().unwrap();
        for piece in body.chunks(100_000) {
            incoming.write(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        let recipient = Recipient::new(Address::parse(to).unwrap());
        let envelope = Envelope {
            reverse_path: ReversePath::parse(from).unwrap(),
            origin: Origin::Outsider,
            client: Some("198.51.100.9".parse().unwrap()),
            forwarded: None,
            helo: Some("client.test".to_owned()),
            received: SystemTime::now(),
            body: Body::EightBitMime,
            smtputf8: false,
            ret: None,
            envelope_id: None,
            message_id: None,
            priority: 0,
            terms: Default::default(),
            size: body.len() as u64,
            recipients: vec![recipient],
        };
        incoming.commit(envelope, b"Received: by mail.proseware.test\r\n".to_vec()).await.unwrap()
    }

    async fn list(&self, filter: Filter) -> List {
        let request = ListRequest { filter, ..ListRequest::default() };
        self.client.post("/v1/queue/list", &request).await.unwrap()
    }

    async fn change(&self, verb: &str, request: &ChangeRequest) -> Result<Changed, ClientError> {
        self.client.post(&format!("/v1/queue/{verb}"), request).await
    }

    async fn is_alive(&self) -> bool {
        self.client.get::<Status>("/v1/status").await.is_ok()
    }
}

async fn shared(folder: &Path) -> (Shared, Opener, Queue) {
    let mut config: Config = toml::from_str(
        r#"
        hostname = "mail.proseware.test"
        [queue]
        min_free_space = "1KiB"
        min_free_inodes = 1
        [[domain]]
        name = "proseware.test"
        mailboxes = ["alice"]
        "#,
    )
    .unwrap();
    config.queue.path = folder.join("spool");
    let registry = prometheus::Registry::new();
    let settings = config.queue.clone();
    let queue_metrics = postern_queue::metrics::Metrics::register(&registry).unwrap();
    let (door, opener) = Door::closed();
    let loaded = tokio::task::spawn_blocking(move || {
        let (surroundings, clock) = (Arc::new(TestSurroundings), Arc::new(SystemClock));
        let claim = Queue::claim(&settings).unwrap();
        let (queue, _) = opener.load(claim, &settings, surroundings, clock, queue_metrics).unwrap();
        (opener, queue)
    });
    let (opener, queue) = loaded.await.unwrap();
    let records = Records::open(&folder.join("records"), Settings::of(&config), SystemTime::now).unwrap();
    let shared = Shared {
        facts: Arc::new(postern_policy::facts::NobodyToAsk),
        door,
        records: Arc::new(records),
        policy: Arc::new(ArcSwap::from_pointee(Policy::new(&config))),
        config: Arc::new(ArcSwap::from_pointee(config)),
        registry,
        daemon: Arc::new(TestDaemon { reloading: Arc::default() }),
        started: SystemTime::now(),
        release: "0.1.0",
    };
    (shared, opener, queue)
}

fn by_id(id: QueueId) -> Filter {
    Filter { ids: vec![id.to_string()], ..Filter::default() }
}

fn refusal(result: Result<Changed, ClientError>) -> ProblemKind {
    match result {
        Err(ClientError::Refused(problem)) => problem.kind,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_listeners_health_and_warnings() {
    let running = Running::start().await;
    running.queue_message("a@client.test", "bob@adatum.test", b"Subject: x\r\n\r\nhello\r\n").await;
    let status: Status = running.client.get("/v1/status").await.unwrap();
    assert_eq!((status.hostname.as_str(), status.pid), ("mail.proseware.test", std::process::id()));
    assert_eq!(status.listeners[0].address, "127.0.0.1:2525");
    assert_eq!(status.queue.messages, 1);
    assert!(status.health.ok, "{:?}", status.health);
    let dns = status.dns.unwrap();
    assert_eq!((dns.servers, dns.failed), (vec!["192.0.2.53:53".to_owned()], 2));
    assert!(dns.since < status.started);
    assert_eq!(status.warnings.len(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_queue_is_loaded_status_says_so_and_what_needs_it_is_told_to_come_again() {
    let running = Running::start().await;
    let id = running
        .queue_message("a@client.test", "bob@adatum.test", b"Subject: x\r\n\r\nx\r\n")
        .await
        .to_string();
    let (running, opener) = Running::start_loading(running.stop().await).await;
    let reason = "the queue is being loaded: 1 messages so far";
    let status: Status = running.client.get("/v1/status").await.unwrap();
    assert_eq!((status.loading, status.queue.messages, status.listeners.len()), (Some(1), 0, 1));
    assert_eq!((status.health.ok, status.health.reasons), (false, vec![reason.to_owned()]));
    let any = "127.0.0.1:0".parse().unwrap();
    let pages = metrics::serve(any, running.shared.clone(), running.stop.clone(), &running.tasks).unwrap();
    let health = tcp_get(pages, "/healthz").await;
    assert!(health.starts_with("HTTP/1.1 503") && health.contains(reason), "{health}");
    let page = tcp_get(pages, "/metrics").await;
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("\npostern_queue_"), "{page}");

    let told = |answer: Result<serde_json::Value, ClientError>, path: &str| match answer {
        Err(ClientError::Refused(problem)) => {
            assert_eq!((problem.kind, problem.error.as_str()), (ProblemKind::Loading, reason), "{path}");
        }
        other => panic!("{path}: {other:?}"),
    };
    let one = serde_json::json!({ "id": id });
    let some = serde_json::json!({ "all": true, "reason": "x", "via": null });
    let rule =
        serde_json::json!({ "action": "hold", "filter": { "sender": "a@client.test" }, "reason": "x" });
    let mail =
        serde_json::json!({ "client": "192.0.2.7", "from": "a@client.test", "to": ["bob@adatum.test"] });
    let question =
        serde_json::json!({ "client": "192.0.2.7", "from": "a@client.test", "to": "bob@adatum.test" });
    let route = serde_json::json!({ "all": true, "via": "mx" });
    let nothing = serde_json::json!({});
    for (path, request) in [
        ("/v1/queue/list", &nothing),
        ("/v1/queue/count", &serde_json::json!({ "by": "domain" })),
        ("/v1/queue/shape", &nothing),
        ("/v1/queue/show", &one),
        ("/v1/queue/hold", &some),
        ("/v1/queue/release", &some),
        ("/v1/queue/retry", &some),
        ("/v1/queue/fail", &some),
        ("/v1/queue/drop", &some),
        ("/v1/queue/reroute", &route),
        ("/v1/queue/requeue", &some),
        ("/v1/queue/edit", &one),
        ("/v1/queue/import", &nothing),
        ("/v1/queue/watch", &nothing),
        ("/v1/message/history", &serde_json::json!({ "key": id })),
        ("/v1/store/check", &nothing),
        ("/v1/store/rebuild", &nothing),
        ("/v1/store/compact", &nothing),
        ("/v1/store/backup", &serde_json::json!({ "directory": "/nowhere" })),
        ("/v1/store/quarantine/restore", &one),
        ("/v1/store/quarantine/remove", &serde_json::json!({ "all": true })),
        ("/v1/rules/add", &rule),
        ("/v1/rules/remove", &serde_json::json!({ "all": true })),
        ("/v1/rules/test", &mail),
        ("/v1/policy/explain", &question),
    ] {
        told(running.client.post(path, request).await, path);
    }
    let (cat, export) = (format!("/v1/queue/cat?id={id}"), format!("/v1/queue/export?id={id}"));
    for path in [cat.as_str(), &export, "/v1/store/status", "/v1/store/quarantine", "/v1/rules"] {
        told(running.client.get(path).await, path);
    }
    // What was asked was not done, and is in no log as if it were.
    let audit: Audit = running.client.post("/v1/audit", &AuditRequest::default()).await.unwrap();
    assert!(audit.events.is_empty(), "{audit:?}");

    opener.open(running.queue.clone());
    let status: Status = running.client.get("/v1/status").await.unwrap();
    assert_eq!((status.loading, status.queue.messages, status.health.ok), (None, 1, true));
    assert_eq!(running.list(Filter::default()).await.messages[0].id, id);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_listed_counted_and_shown() {
    let running = Running::start().await;
    let first = running.queue_message("a@client.test", "bob@adatum.test", b"\r\nx\r\n").await;
    running.queue_message("", "carol@thephone-company.test", b"\r\nx\r\n").await;
    let all = running.list(Filter::default()).await;
    assert_eq!((all.messages.len(), all.more), (2, false));
    assert_eq!(all.messages[0].id, first.to_string());
    let dsn = running.list(Filter { dsn: true, ..Filter::default() }).await;
    assert_eq!(dsn.messages.iter().map(|m| m.sender.as_str()).collect::<Vec<_>>(), [""]);
    let request = ListRequest { limit: Some(1), ..ListRequest::default() };
    let one: List = running.client.post("/v1/queue/list", &request).await.unwrap();
    assert_eq!((one.messages.len(), one.more), (1, true));
    let request = CountRequest { filter: Filter::default(), by: GroupBy::Domain };
    let counts: Counts = running.client.post("/v1/queue/count", &request).await.unwrap();
    let mut domains: Vec<_> = counts.groups.iter().map(|g| (g.key.as_str(), g.messages)).collect();
    domains.sort_unstable();
    assert_eq!(domains, [("adatum.test", 1), ("thephone-company.test", 1)]);
    let shown: Shown =
        running.client.post("/v1/queue/show", &ShowRequest { id: first.to_string() }).await.unwrap();
    assert_eq!(shown.message.recipients[0].address, "bob@adatum.test");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_not_found() {
    let running = Running::start().await;
    let kind = |error: ClientError| match error {
        ClientError::Refused(problem) => problem.kind,
        other => panic!("{other}"),
    };
    let show = |id: &str| ShowRequest { id: id.to_owned() };
    let post = running.client.post::<Shown>("/v1/queue/show", &show("0000000000001")).await;
    assert_eq!(kind(post.unwrap_err()), ProblemKind::NotFound);
    let post = running.client.post::<Shown>("/v1/queue/show", &show("?")).await;
    assert_eq!(kind(post.unwrap_err()), ProblemKind::BadRequest);
    let get = running.client.get::<Refusal>("/v1/explain/4QX7-93KD").await;
    assert_eq!(kind(get.unwrap_err()), ProblemKind::NotFound);
    let get = running.client.get::<Status>("/v2/status").await;
    assert_eq!(kind(get.unwrap_err()), ProblemKind::NotFound);
    let get = running.client.get::<Status>("/v1/queue/list").await;
    assert_eq!(kind(get.unwrap_err()), ProblemKind::BadRequest);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_counted_and_can_be_read_back() {
    let running = Running::start().await;
    let first = running.queue_message("a@client.test", "bob@adatum.test", b"\r\nx\r\n").await;
    running.queue_message("b@client.test", "bob@adatum.test", b"\r\nx\r\n").await;
    let hold =
        ChangeRequest { filter: by_id(first), reason: Some("odd".to_owned()), ..ChangeRequest::default() };
    let held = running.change("hold", &hold).await.unwrap();
    assert_eq!((held.change.matched, held.change.changed), (1, 1));
    let list = running.list(Filter { state: Some("held".to_owned()), ..Filter::default() }).await;
    assert_eq!(list.messages[0].held.as_deref(), Some("odd"));
    let release = ChangeRequest { filter: by_id(first), ..ChangeRequest::default() };
    assert_eq!(running.change("release", &release).await.unwrap().change.changed, 1);
    assert!(
        running
            .list(Filter { state: Some("held".to_owned()), ..Filter::default() })
            .await
            .messages
            .is_empty()
    );
    let drop =
        ChangeRequest { filter: by_id(first), reason: Some("spam".to_owned()), ..ChangeRequest::default() };
    assert_eq!(running.change("drop", &drop).await.unwrap().change.changed, 1);
    assert_eq!(running.list(Filter::default()).await.messages.len(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_needs_a_filter_and_stays_below_its_fuse() {
    let running = Running::start().await;
    for _ in 0..3 {
        running.queue_message("a@client.test", "bob@adatum.test", b"\r\nx\r\n").await;
    }
    let everything = ChangeRequest::default();
    assert_eq!(refusal(running.change("hold", &everything).await), ProblemKind::TooMany);
    let filter = Filter { sender: Some("a@client.test".to_owned()), ..Filter::default() };
    let two = ChangeRequest { filter: filter.clone(), max: Some(2), ..ChangeRequest::default() };
    assert_eq!(refusal(running.change("hold", &two).await), ProblemKind::TooMany);
    let dry = ChangeRequest { filter, dry_run: true, ..ChangeRequest::default() };
    let dry = running.change("hold", &dry).await.unwrap();
    assert_eq!((dry.dry_run, dry.change.matched, dry.change.changed), (true, 3, 0));
    assert!(
        running
            .list(Filter { state: Some("held".to_owned()), ..Filter::default() })
            .await
            .messages
            .is_empty()
    );
    let all = ChangeRequest { all: true, max: Some(2), ..ChangeRequest::default() };
    assert_eq!(running.change("hold", &all).await.unwrap().change.changed, 3);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_back_needs_a_reason_of_one_line() {
    let running = Running::start().await;
    let id = running.queue_message("a@client.test", "bob@adatum.test", b"\r\nx\r\n").await;
    let with = |reason: Option<&str>| ChangeRequest {
        filter: by_id(id),
        reason: reason.map(str::to_owned),
        ..ChangeRequest::default()
    };
    for verb in ["fail", "drop"] {
        for reason in [None, Some("  "), Some("a\r\nBcc: x@y.test")] {
            assert_eq!(refusal(running.change(verb, &with(reason)).await), ProblemKind::BadRequest);
        }
    }
    assert_eq!(running.list(Filter::default()).await.messages.len(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_a_large_message_are_streamed() {
    let running = Running::start().await;
    let body = "A line of the body.\r\n\r\n".repeat(50_000);
    let message = format!("Subject: large\r\n\r\n{body}");
    let id = running.queue_message("a@client.test", "bob@adatum.test", message.as_bytes()).await;
    let header = "Received: by mail.proseware.test\r\nSubject: large\r\n\r\n";
    for (part, expected) in
        [("headers", header.to_owned()), ("body", body.clone()), ("raw", format!("{header}{body}"))]
    {
        let mut text = Vec::new();
        let path = format!("/v1/queue/cat?id={id}&part={part}");
        running
            .client
            .stream(&path, |piece| {
                text.extend_from_slice(piece);
                Ok(())
            })
            .await
            .unwrap();
        assert!(text == expected.as_bytes(), "{part}: {} octets, expected {}", text.len(), expected.len());
    }
    let wrong = running.client.stream(&format!("/v1/queue/cat?id={id}&part=x"), |_| Ok(())).await;
    assert!(matches!(wrong, Err(ClientError::Refused(problem)) if problem.kind == ProblemKind::BadRequest));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_explanation_ends_with_the_reply_or_the_route() {
    let running = Running::start().await;
    let request = |to: &str| ExplainRequest::new("198.51.100.9".parse().unwrap(), "a@client.test", to);
    let refused: Explanation =
        running.client.post("/v1/policy/explain", &request("bob@adatum.test")).await.unwrap();
    let last = refused.stages.last().unwrap();
    assert_eq!(last.reply.as_deref(), Some("said because of not-trusted-not-local"));
    assert!(refused.deliveries.is_empty());
    let accepted: Explanation =
        running.client.post("/v1/policy/explain", &request("alice@proseware.test")).await.unwrap();
    assert_eq!(accepted.deliveries[0].route.as_deref(), Some("mx proseware.test"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_found_by_its_reference() {
    let running = Running::start().await;
    let recipient = ForwardPath::parse("bob@adatum.test").unwrap();
    let question = Question {
        listener: ListenerKind::Mx,
        client: "198.51.100.9".parse().unwrap(),
        local: None,
        tls: true,
        certificate: None,
        login: None,
        helo: Some("client.test"),
        now: SystemTime::UNIX_EPOCH,
        recipients: 0,
        reverse_path: &ReversePath::Null,
        stage: Stage::Rcpt(&recipient),
    };
    let decision = decide(&question, &running.shared.policy.load());
    let question = Question { now: SystemTime::now(), ..question };
    let records = &running.shared.records;
    let name = records.name(question.client).unwrap();
    let told = Told {
        class: Class::Relay,
        cause: "relay not permitted".to_owned(),
        advice: "log in".to_owned(),
        reply: "550 5.7.1 relay not permitted".to_owned(),
    };
    records.keep(&name, Record::new(&name, &question, &decision, told, &Transcript::default()));
    let reference = name.reference;
    let refusal: Refusal = running.client.get(&format!("/v1/explain/{reference}")).await.unwrap();
    assert_eq!(refusal.recipient.as_deref(), Some("bob@adatum.test"));
    assert_eq!((refusal.decision.reason.kind.as_str(), refusal.tls), ("not-trusted-not-local", true));
    assert_eq!((refusal.class.as_str(), refusal.stage.as_str()), ("relay", "rcpt"));
    assert!(!refusal.decision.remedies.is_empty());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_fails_says_why() {
    let running = Running::start().await;
    let error = running.client.post::<Reloaded>("/v1/reload", &serde_json::json!({})).await.unwrap_err();
    let ClientError::Refused(problem) = error else { panic!("{error}") };
    assert_eq!(problem.kind, ProblemKind::ReloadFailed);
    assert!(problem.error.contains("hostnam"), "{}", problem.error);
    running.stop().await;
}

async fn tcp_get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_reads_metrics_and_health_and_nothing_else() {
    let running = Running::start().await;
    let up = prometheus::IntGauge::new("postern_test", "A test").unwrap();
    running.shared.registry.register(Box::new(up)).unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let direct = metrics::serve(any, running.shared.clone(), running.stop.clone(), &running.tasks).unwrap();
    let proxied = metrics::proxy(any, running.client.clone(), running.stop.clone(), &running.tasks).unwrap();
    for address in [direct, proxied] {
        let page = tcp_get(address, "/metrics").await;
        assert!(page.starts_with("HTTP/1.1 200 OK") && page.contains("\npostern_test 0\n"), "{page}");
        assert!(page.contains("content-type: text/plain; version=0.0.4"), "{page}");
        let page = tcp_get(address, "/healthz").await;
        assert!(
            page.starts_with("HTTP/1.1 200 OK") && page.ends_with(r#"{"version":1,"ok":true,"reasons":[]}"#),
            "{page}"
        );
        assert!(tcp_get(address, "/v1/status").await.starts_with("HTTP/1.1 404"));
    }
    let health: Health = running.client.get("/healthz").await.unwrap();
    assert!(health.ok);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_read_page_by_page() {
    let running = Running::start().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(running.queue_message("a@client.test", "bob@adatum.test", b"\r\nx\r\n").await.to_string());
    }
    let (mut found, mut cursor) = (Vec::new(), None);
    for expected in [2, 2, 1] {
        let request = ListRequest { limit: Some(2), cursor, ..ListRequest::default() };
        let page: List = running.client.post("/v1/queue/list", &request).await.unwrap();
        assert_eq!((page.messages.len(), page.more), (expected, page.cursor.is_some()));
        found.extend(page.messages.into_iter().map(|message| message.id));
        cursor = page.cursor;
    }
    assert_eq!((found, cursor), (ids, None));
    let request = ListRequest { cursor: Some("x".to_owned()), ..ListRequest::default() };
    let error = running.client.post::<List>("/v1/queue/list", &request).await.unwrap_err();
    assert!(error.to_string().contains("no cursor"), "{error}");
    let request = ShapeRequest { buckets: vec![60], ..ShapeRequest::default() };
    let shape: Shape = running.client.post("/v1/queue/shape", &request).await.unwrap();
    assert_eq!((shape.total, shape.rows.len()), (vec![5, 0], 1));
    running.stop().await;
}

/// The lines of the answer to long work.
async fn lines(running: &Running, path: &str, request: &impl serde::Serialize) -> Vec<serde_json::Value> {
    let mut lines = Vec::new();
    let line = |line: &[u8]| {
        lines.push(serde_json::from_slice(line).unwrap());
        Ok(())
    };
    running.client.lines(path, request, line).await.unwrap();
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn long_work_is_told_line_by_line_and_what_it_changes_is_in_the_audit_log() {
    let running = Running::start().await;
    running.queue_message("a@client.test", "bob@adatum.test", b"\r\nx\r\n").await;
    let checked = lines(&running, "/v1/store/check", &CheckRequest { full: true, rate: None }).await;
    assert!(checked.iter().all(|line| line["version"] == 1));
    let last = checked.last().unwrap();
    assert_eq!((&last["event"], &last["messages"], &last["wrong"]), (&"done".into(), &1.into(), &0.into()));
    assert!(checked[..checked.len() - 1].iter().all(|line| line["event"] == "progress"));

    let refused = serde_json::json!({ "directory": "relative", "reason": "test" });
    let failed = lines(&running, "/v1/store/backup", &refused).await;
    assert_eq!(failed.last().unwrap()["event"], "failed");
    assert_eq!(failed.last().unwrap()["kind"], "conflict");
    lines(&running, "/v1/store/compact", &serde_json::json!({})).await;
    let wrong = serde_json::json!({ "reason": "two\nlines" });
    let problem = running.client.post::<serde_json::Value>("/v1/store/compact", &wrong).await;
    assert!(matches!(problem, Err(ClientError::Refused(problem)) if problem.kind == ProblemKind::BadRequest));

    let audit: Audit = running.client.post("/v1/audit", &AuditRequest::default()).await.unwrap();
    let events: Vec<_> =
        audit.events.iter().map(|e| (e.verb.as_str(), e.object.as_deref(), e.changed)).collect();
    assert_eq!(events, [("store backup", Some("relative"), 0), ("store compact", None, 1)]);
    assert!(audit.events[0].error.is_some() && audit.events[0].reason.as_deref() == Some("test"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fixes_are_made_as_far_as_they_hold_and_each_is_in_the_audit_log() {
    let running = Running::start().await;
    let file = |name: &str| Fix::SetAside { file: format!("big/{name}") };
    std::fs::write(running.folder.path().join("spool/big/notes.txt"), "x").unwrap();
    let fixes = vec![file("notes.txt"), file("gone.txt"), Fix::RebuildIndex];
    let request = FixRequest { fixes: fixes.clone(), reason: Some("test".to_owned()) };
    let answer = lines(&running, "/v1/store/fix", &request).await.pop().unwrap();
    let fixed: Fixed = serde_json::from_value(answer.clone()).unwrap_or_else(|_| panic!("{answer}"));
    assert_eq!(fixed.fixed, [fixes[0].clone(), Fix::RebuildIndex]);
    assert_eq!(fixed.skipped, [(file("gone.txt"), "it is not there any more".to_owned())]);
    for wrong in [Vec::new(), vec![Fix::RebuildIndex; 1001]] {
        let request = FixRequest { fixes: wrong, reason: None };
        let problem = running.client.post::<serde_json::Value>("/v1/store/fix", &request).await;
        assert!(
            matches!(problem, Err(ClientError::Refused(problem)) if problem.kind == ProblemKind::BadRequest)
        );
    }
    let audit: Audit = running.client.post("/v1/audit", &AuditRequest::default()).await.unwrap();
    let [event] = audit.events.as_slice() else { panic!("{audit:?}") };
    assert_eq!((event.verb.as_str(), event.reason.as_deref()), ("store fix", Some("test")));
    assert_eq!((event.matched, event.changed, event.skipped), (3, 2, 1));
    let detail = event.detail.as_deref().unwrap();
    assert!(detail.contains("big/gone.txt") && detail.ends_with("; write the index anew"), "{detail}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_work_is_done_one_at_a_time_and_ends_with_its_peer_or_the_server() {
    let running = Running::start().await;
    running.queue_message("a@client.test", "bob@adatum.test", &vec![b'x'; 16_000_000]).await;
    let endless = CheckRequest { full: false, rate: Some(1) };
    let refused = running.client.lines("/v1/store/check", &endless, |_| Ok(())).await;
    assert!(matches!(refused, Err(ClientError::Refused(problem)) if problem.kind == ProblemKind::BadRequest));
    // At this rate it would take a minute.
    let slow = || CheckRequest { full: false, rate: Some(store::MIN_RATE) };
    let request = slow();
    let client = running.client.clone();
    let (begun, is_begun) = tokio::sync::oneshot::channel();
    let first = tokio::spawn(async move {
        let mut begun = Some(begun);
        let line = |_: &[u8]| {
            begun.take().map(|begun| begun.send(()));
            Ok(())
        };
        client.lines("/v1/store/check", &request, line).await
    });
    tokio::time::timeout(PATIENCE, is_begun).await.unwrap().unwrap();
    let busy = running.client.lines("/v1/store/check", &CheckRequest::default(), |_| Ok(())).await;
    assert!(matches!(busy, Err(ClientError::Refused(problem)) if problem.kind == ProblemKind::Conflict));
    // Whoever may only read does not keep others from changing something.
    let compacted = lines(&running, "/v1/store/compact", &serde_json::json!({})).await;
    assert_eq!(compacted.last().unwrap()["event"], "done");
    assert!(!first.is_finished());
    first.abort();
    assert!(first.await.is_err());
    let free = async {
        while running.client.lines("/v1/store/check", &CheckRequest::default(), |_| Ok(())).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, free).await.unwrap();
    let client = running.client.clone();
    let request = slow();
    let last = tokio::spawn(async move {
        let line = |line: &[u8]| {
            let event: Event<store::Checked> = serde_json::from_slice(line).unwrap();
            assert!(matches!(event, Event::Progress(_)));
            Ok(())
        };
        client.lines("/v1/store/check", &request, line).await
    });
    // Nobody waits for it when the server stops.
    running.stop().await;
    assert!(last.await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_in_the_audit_log() {
    let running = Running::start().await;
    let id = running.queue_message("a@client.test", "bob@adatum.test", b"\r\nx\r\n").await;
    let request =
        ChangeRequest { filter: by_id(id), reason: Some("odd".to_owned()), ..ChangeRequest::default() };
    let dry = ChangeRequest { dry_run: true, ..request.clone() };
    running.change("hold", &dry).await.unwrap();
    running.change("hold", &request).await.unwrap();
    running.change("hold", &request).await.unwrap();
    let _ = running.client.post::<Reloaded>("/v1/reload", &serde_json::json!({})).await;
    running.client.stream(&format!("/v1/queue/cat?id={id}&part=raw"), |_| Ok(())).await.unwrap();
    let audit: Audit = running.client.post("/v1/audit", &AuditRequest::default()).await.unwrap();
    let events: Vec<_> =
        audit.events.iter().map(|e| (e.verb.as_str(), e.matched, e.changed, e.skipped)).collect();
    assert_eq!(events, [("hold", 1, 1, 0), ("hold", 1, 0, 1), ("reload", 0, 0, 0), ("cat", 0, 0, 0)]);
    assert_eq!(audit.events[0].filter, Some(by_id(id)));
    assert_eq!(audit.events[0].reason.as_deref(), Some("odd"));
    assert!(audit.events[2].error.as_deref().is_some_and(|error| error.contains("hostnam")));
    let file = running.shared.config.load().queue.path.join("audit.jsonl");
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    let later = AuditRequest { since: u64::MAX, limit: None };
    let audit: Audit = running.client.post("/v1/audit", &later).await.unwrap();
    assert!(audit.events.is_empty() && !audit.more);
    running.stop().await;
}

/// Asks for a change, waits until `is_begun`, and hangs up before there is an answer.
async fn hang_up(
    running: &Running,
    path: &str,
    request: &impl serde::Serialize,
    is_begun: impl AsyncFn() -> bool,
) {
    let body = serde_json::to_string(request).unwrap();
    let mut stream = UnixStream::connect(running.socket()).await.unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let begun = async {
        while !is_begun().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, begun).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    // When this ends the server has noticed it.
    let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    assert!(closed.is_ok() && answer.is_empty(), "{path}: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_hangs_up_leaves_a_line_in_the_audit_log() {
    let running = Running::start().await;
    let mut ids = Vec::new();
    for from in ["a@client.test", "b@client.test", "c@client.test"] {
        ids.push(running.queue_message(from, "bob@adatum.test", b"\r\nx\r\n").await);
    }
    // The changes wait for the attempts under way.
    let attempts = [running.queue.lease().await, running.queue.lease().await, running.queue.lease().await];
    let is_held = async |id| running.list(by_id(id)).await.messages[0].held.is_some();
    let wait = Some(100);
    let hold = ChangeRequest { filter: by_id(ids[0]), wait, ..ChangeRequest::default() };
    hang_up(&running, "/v1/queue/hold", &hold, async || is_held(ids[0]).await).await;
    let edit =
        EditRequest { id: ids[1].to_string(), sender: Some("<>".into()), wait, ..EditRequest::default() };
    let is_edited = async || running.list(by_id(ids[1])).await.messages[0].sender.is_empty();
    hang_up(&running, "/v1/queue/edit", &edit, is_edited).await;
    let rule = serde_json::json!({
        "action": "hold", "filter": { "sender": "c@client.test" }, "reason": "x", "existing": true, "wait": 100,
    });
    hang_up(&running, "/v1/rules/add", &rule, async || is_held(ids[2]).await).await;
    let turn = running.reloading.turn.acquire().await.unwrap();
    let is_reloading = async || running.reloading.begun.load(Ordering::SeqCst) == 1;
    hang_up(&running, "/v1/reload", &serde_json::json!({}), is_reloading).await;

    drop(turn);
    for attempt in attempts {
        running.queue.settle(attempt, Vec::new(), Feedback::Nothing);
    }
    let audited = async {
        loop {
            let audit: Audit = running.client.post("/v1/audit", &AuditRequest::default()).await.unwrap();
            if audit.events.len() >= 4 {
                break audit.events;
            }
        }
    };
    let events = tokio::time::timeout(PATIENCE, audited).await.unwrap();
    let mut verbs: Vec<_> = events.iter().map(|event| (event.verb.as_str(), event.changed)).collect();
    verbs.sort_unstable();
    assert_eq!(verbs, [("edit", 1), ("hold", 1), ("reload", 0), ("rule-hold", 1)]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_the_end_of_the_server_breaks_off_is_in_the_audit_log() {
    let running = Running::start().await;
    let id = running.queue_message("a@client.test", "bob@adatum.test", b"\r\nx\r\n").await;
    let _attempt = running.queue.lease().await;
    let hold = ChangeRequest { filter: by_id(id), wait: Some(100), ..ChangeRequest::default() };
    let is_begun = async || running.list(by_id(id)).await.messages[0].held.is_some();
    hang_up(&running, "/v1/queue/hold", &hold, is_begun).await;
    let file = running.shared.config.load().queue.path.join("audit.jsonl");
    let _folder = running.stop().await;
    let line = std::fs::read_to_string(file).unwrap();
    assert!(line.contains(r#""verb":"hold""#) && line.contains("the server stopped"), "{line}");
}

/// Reads a pipe in the end, so that a test that fails does not wait for a writer for ever.
struct Reader(PathBuf);

impl Drop for Reader {
    fn drop(&mut self) {
        // To read and write: this waits for nobody.
        let _ = std::fs::OpenOptions::new().read(true).write(true).open(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_back_is_noted_as_taken_before_anything_else() {
    let running = Running::start().await;
    let spool = running.shared.config.load().queue.path.clone();
    let id = running.queue_message("a@client.test", "bob@adatum.test", b"\r\nx\r\n").await;
    // As if the segment had been set aside.
    let segment = std::fs::read_dir(spool.join("log")).unwrap().next().unwrap().unwrap();
    let name = segment.file_name().into_string().unwrap();
    std::fs::create_dir(spool.join("damaged")).unwrap();
    let piece = format!("{}-0", name.strip_suffix(".log").unwrap());
    std::fs::copy(segment.path(), spool.join("damaged").join(piece)).unwrap();
    let drop = ChangeRequest { filter: by_id(id), reason: Some("x".into()), ..ChangeRequest::default() };
    assert_eq!(running.change("drop", &drop).await.unwrap().change.changed, 1);

    // Whoever writes the line of the audit log waits for a reader.
    let audit = spool.join("audit.jsonl");
    std::fs::remove_file(&audit).unwrap();
    assert!(Command::new("mkfifo").arg(&audit).status().unwrap().success());
    let _reader = Reader(audit.clone());
    let request = RestoreRequest { id: id.to_string(), ..RestoreRequest::default() };
    let is_noted = async || {
        std::fs::read_to_string(spool.join("imported")).is_ok_and(|ids| ids.contains(&id.to_string()))
    };
    hang_up(&running, "/v1/store/quarantine/restore", &request, is_noted).await;
    let line = tokio::task::spawn_blocking(move || std::fs::read_to_string(audit)).await.unwrap().unwrap();
    assert!(line.contains(r#""verb":"store quarantine restore""#), "{line}");
    std::fs::remove_file(spool.join("audit.jsonl")).unwrap();
    let again = running.client.post::<Restored>("/v1/store/quarantine/restore", &request).await;
    assert!(matches!(again, Err(ClientError::Refused(problem)) if problem.kind == ProblemKind::Conflict));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envelopes_are_edited_and_every_word_of_it_is_in_the_audit_log() {
    let running = Running::start().await;
    let id = running.queue_message("a@client.test", "bob@adatum.test", b"\r\nx\r\n").await;
    let request = EditRequest {
        id: id.to_string(),
        sender: Some("<>".to_owned()),
        add: vec!["carol@adatum.test".to_owned()],
        remove: vec!["bob@adatum.test".to_owned()],
        reason: Some("a typing error".to_owned()),
        ..EditRequest::default()
    };
    let edit = async |request: &EditRequest| running.client.post::<Changed>("/v1/queue/edit", request).await;
    let dry = edit(&EditRequest { dry_run: true, ..request.clone() }).await.unwrap();
    assert_eq!((dry.dry_run, dry.change.changed), (true, 0));
    assert_eq!(edit(&request).await.unwrap().change.changed, 1);
    let message = &running.list(Filter::default()).await.messages[0];
    assert_eq!(message.sender, "");
    let shown: Vec<_> = message.recipients.iter().map(|r| (r.address.as_str(), r.state.as_str())).collect();
    assert_eq!(shown, [("bob@adatum.test", "failed"), ("carol@adatum.test", "ready")]);
    let again = edit(&EditRequest { sender: None, add: Vec::new(), ..request.clone() }).await.unwrap();
    assert!(again.change.skipped[0].1.contains("is no recipient that waits"), "{again:?}");
    let audit: Audit = running.client.post("/v1/audit", &AuditRequest::default()).await.unwrap();
    let event = &audit.events[0];
    assert_eq!(
        (event.verb.as_str(), event.changed, event.id.as_deref()),
        ("edit", 1, Some(&*id.to_string()))
    );
    assert_eq!(event.detail.as_deref(), Some("sender <>, add <carol@adatum.test>, remove <bob@adatum.test>"));
    assert_eq!(event.reason.as_deref(), Some("a typing error"));
    for (wrong, kind) in [
        (EditRequest { add: vec!["carol".to_owned()], ..request.clone() }, ProblemKind::BadRequest),
        (EditRequest { id: id.to_string(), ..EditRequest::default() }, ProblemKind::BadRequest),
        (EditRequest { id: "0000000000001".to_owned(), ..request.clone() }, ProblemKind::NotFound),
    ] {
        assert_eq!(refusal(edit(&wrong).await), kind);
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_given_another_priority_and_it_is_in_the_audit_log() {
    let running = Running::start().await;
    let first = running.queue_message("a@client.test", "bob@adatum.test", b"\r\nx\r\n").await;
    let second = running.queue_message("a@client.test", "bob@adatum.test", b"\r\nx\r\n").await;
    let filter = Filter { sender: Some("@client.test".to_owned()), ..Filter::default() };
    let reason = Some("it is urgent".to_owned());
    let request = ChangeRequest { filter, priority: Some(7), reason, ..ChangeRequest::default() };
    let dry =
        running.change("prioritise", &ChangeRequest { dry_run: true, ..request.clone() }).await.unwrap();
    assert_eq!((dry.change.matched, dry.change.changed), (2, 0));
    assert_eq!(running.change("prioritise", &request).await.unwrap().change.changed, 2);
    let edit = EditRequest { id: second.to_string(), priority: Some(-9), ..EditRequest::default() };
    let edited: Changed = running.client.post("/v1/queue/edit", &edit).await.unwrap();
    assert_eq!(edited.change.changed, 1);
    let wrong = EditRequest { priority: Some(-10), ..edit.clone() };
    let error = running.client.post::<Changed>("/v1/queue/edit", &wrong).await.unwrap_err();
    assert!(error.to_string().contains("-10 is not -9 to 9"), "{error}");
    let list = running.list(Filter { min_priority: Some(0), ..Filter::default() }).await;
    assert_eq!(
        (list.messages.len(), list.messages[0].id.as_str(), list.messages[0].priority),
        (1, &*first.to_string(), 7)
    );
    let audit: Audit = running.client.post("/v1/audit", &AuditRequest::default()).await.unwrap();
    let told: Vec<_> =
        audit.events.iter().map(|e| (e.verb.as_str(), e.detail.as_deref(), e.changed)).collect();
    assert_eq!(told, [("prioritise", Some("priority 7"), 2), ("edit", Some("priority -9"), 1)]);
    assert_eq!(audit.events[0].reason.as_deref(), Some("it is urgent"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_verb_cannot_do_is_refused_before_anything_is_changed() {
    let running = Running::start().await;
    let id = running.queue_message("a@client.test", "bob@adatum.test", b"\r\nx\r\n").await;
    let request = ChangeRequest { filter: by_id(id), ..ChangeRequest::default() };
    let with_route = |via: &str| ChangeRequest { via: Some(via.to_owned()), ..request.clone() };
    for (verb, wrong, says) in [
        ("reroute", with_route("by hand"), "write mx"),
        ("reroute", request.clone(), "needs `via`"),
        ("hold", with_route("mx"), "does not belong"),
        ("hold", ChangeRequest { until: Some(1), ..request.clone() }, "over already"),
        ("retry", ChangeRequest { delay: Some(1_000_000), ..request.clone() }, "minutes ahead"),
        ("prioritise", request.clone(), "needs `priority`: -9 to 9"),
        ("prioritise", ChangeRequest { priority: Some(300), ..request.clone() }, "300 is not -9 to 9"),
        ("retry", ChangeRequest { priority: Some(1), ..request.clone() }, "does not belong"),
    ] {
        for dry_run in [true, false] {
            let error = running.change(verb, &ChangeRequest { dry_run, ..wrong.clone() }).await.unwrap_err();
            assert!(error.to_string().contains(says), "{verb}: {error}");
        }
    }
    assert_eq!(running.change("reroute", &with_route("mx")).await.unwrap().change.changed, 1);
    assert_eq!(running.list(Filter::default()).await.messages[0].recipients[0].via.as_deref(), Some("mx"));
    assert_eq!(running.change("reroute", &with_route("none")).await.unwrap().change.changed, 1);
    assert_eq!(running.change("requeue", &request).await.unwrap().change.changed, 1);
    let until = SystemTime::now() + Duration::from_secs(3600);
    let until = until.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let hold = ChangeRequest { until: Some(until), ..request };
    assert_eq!(running.change("hold", &hold).await.unwrap().change.changed, 1);
    assert_eq!(running.list(Filter::default()).await.messages[0].held_until, Some(until));
    let audit: Audit = running.client.post("/v1/audit", &AuditRequest::default()).await.unwrap();
    let details: Vec<_> = audit.events.iter().map(|e| e.detail.as_deref().unwrap_or_default()).collect();
    assert_eq!(details[..3], ["via mx", "via none", ""]);
    assert!(details[3].starts_with("until 20"), "{details:?}");
    running.stop().await;
}

/// What an export of a message gives: the line, and the content.
async fn export(running: &Running, id: QueueId) -> (String, Vec<u8>) {
    let mut octets = Vec::new();
    let sink = |piece: &[u8]| {
        octets.extend_from_slice(piece);
        Ok(())
    };
    running.client.stream(&format!("/v1/queue/export?id={id}"), sink).await.unwrap();
    let end = octets.iter().position(|byte| *byte == b'\n').unwrap();
    let content = octets.split_off(end + 1);
    octets.pop();
    (String::from_utf8(octets).unwrap(), content)
}

async fn import(running: &Running, line: &str, content: &[u8]) -> Result<Imported, ClientError> {
    let mut pieces = vec![Bytes::copy_from_slice(content), format!("{line}\n").into()];
    running.client.upload("/v1/queue/import", move || Ok(pieces.pop())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_moves_once_with_its_id() {
    let (here, there) = (Running::start().await, Running::start().await);
    let body = format!("Subject: large\r\n\r\n{}", "A line of the body.\r\n".repeat(50_000));
    let id = here.queue_message("a@client.test", "bob@adatum.test", body.as_bytes()).await;
    let (line, content) = export(&here, id).await;
    assert!(content.ends_with(body.as_bytes()));
    let taken = import(&there, &line, &content).await.unwrap();
    assert_eq!(taken, Imported { id: id.to_string(), skipped: None });
    assert_eq!(export(&there, id).await, (line.clone(), content.clone()));
    let again = import(&there, &line, &content).await.unwrap();
    assert_eq!(again.skipped.as_deref(), Some("already imported"));
    let drop = ChangeRequest { filter: by_id(id), reason: Some("x".to_owned()), ..ChangeRequest::default() };
    assert_eq!(there.change("drop", &drop).await.unwrap().change.changed, 1);
    let again = import(&there, &line, &content).await.unwrap();
    assert_eq!(again.skipped.as_deref(), Some("already imported"), "it must not be delivered a second time");
    let at_home = import(&here, &line, &content).await.unwrap();
    assert_eq!(at_home.skipped.as_deref(), Some("already in the queue"));
    here.stop().await;
    there.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_message_is_not_imported() {
    let (here, there) = (Running::start().await, Running::start().await);
    let id = here.queue_message("a@client.test", "bob@adatum.test", b"\r\nx\r\n").await;
    let (line, content) = export(&here, id).await;
    let short = &content[1..];
    let long = [&content[..], b"more"].concat();
    let injected = line.replace("client.test", "client.test\\r\\nRCPT");
    for (line, content) in [
        (line.as_str(), short),
        (line.as_str(), long.as_slice()),
        ("{}", &content),
        ("", &content),
        (injected.as_str(), &content),
    ] {
        let error = import(&there, line, content).await.unwrap_err();
        assert!(matches!(&error, ClientError::Refused(p) if p.kind == ProblemKind::BadRequest), "{error}");
    }
    assert!(there.list(Filter::default()).await.messages.is_empty());
    assert!(import(&there, &line, &content).await.unwrap().skipped.is_none(), "a failure leaves no trace");
    here.stop().await;
    there.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_are_told_line_by_line_and_leave_room_for_questions() {
    let running = Running::start().await;
    let request = WatchRequest::default();
    let follow = || running.client.follow("/v1/queue/watch", &request);
    let mut lines = follow().await.unwrap();
    assert_eq!(lines.next().await.unwrap().as_deref(), Some(""), "from here on nothing is missed");
    let id = running.queue_message("a@client.test", "bob@adatum.test", b"Subject: x\r\n\r\n").await;
    let line = lines.next().await.unwrap().unwrap();
    let event: Versioned<EventView> = serde_json::from_str(&line).unwrap();
    assert_eq!((event.version, event.answer.event), (1, EventKind::Accepted));
    assert_eq!(event.answer.id, id.to_string());

    let mut others = Vec::new();
    let refused = loop {
        match follow().await {
            Ok(lines) => others.push(lines),
            Err(ClientError::Refused(problem)) => break problem,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!((others.len() + 1, refused.kind), (MAX_WATCHERS, ProblemKind::Busy));
    assert!(running.is_alive().await);
    let bad = WatchRequest { filter: EventFilter { rcpt: Some("x".to_owned()), ..EventFilter::default() } };
    match running.client.follow("/v1/queue/watch", &bad).await {
        Err(ClientError::Refused(problem)) => assert_eq!(problem.kind, ProblemKind::BadRequest),
        other => panic!("{other:?}"),
    }
    running.stop.cancel();
    // They are told the end, and not cut off when there is no time left.
    while lines.next().await.unwrap().is_some() {}
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_asked_by_key() {
    let running = Running::start().await;
    let id = running.queue_message("a@client.test", "bob@adatum.test", b"Subject: x\r\n\r\n").await;
    let request = |key: &str| HistoryRequest { key: key.to_owned(), since: None, until: None, limit: None };
    let history: History =
        running.client.post("/v1/message/history", &request("@adatum.test")).await.unwrap();
    assert_eq!((history.messages.len(), history.enabled), (1, Some(true)));
    assert_eq!(history.messages[0].id, id.to_string());
    assert!(history.messages[0].queued.is_some());
    match running.client.post::<History>("/v1/message/history", &request("")).await {
        Err(ClientError::Refused(problem)) => assert_eq!(problem.kind, ProblemKind::BadRequest),
        other => panic!("{other:?}"),
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_has_a_limit() {
    let running = Running::start().await;
    let id = running.queue_message("a@client.test", "bob@adatum.test", b"\r\nx\r\n").await;
    let held = running.queue.lease().await;
    let with = |wait| ChangeRequest {
        filter: by_id(id),
        reason: Some("x".to_owned()),
        wait: Some(wait),
        ..ChangeRequest::default()
    };
    assert_eq!(refusal(running.change("drop", &with(101)).await), ProblemKind::BadRequest);
    let change = running.change("hold", &with(0)).await.unwrap().change;
    assert_eq!((change.changed, change.in_flight[0].open), (1, 1), "held, and still being delivered");
    let request = with(100);
    let (change, ()) = tokio::join!(running.change("drop", &request), async {
        running.queue.settle(held, Vec::new(), Feedback::Nothing);
    });
    let change = change.unwrap().change;
    // It may have come before or after the end of the attempt.
    assert!(change.changed == 1 && change.in_flight.iter().all(|message| message.open == 0), "{change:?}");
    assert!(running.list(Filter::default()).await.messages.is_empty());
    running.stop().await;
}

/// A small generator, so that a run that fails can be repeated.
struct Octets(u64);

impl Octets {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_octets_stop_the_server() {
    let running = Running::start().await;
    let mut octets = Octets(0x5EED);
    let sound = b"POST /v1/queue/list HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\nConnection: close\r\n\r\n{\"limit\":  10 }";
    for round in 0..300 {
        let mut request = match round % 3 {
            0 => octets.take(200),
            _ => sound.to_vec(),
        };
        if round % 3 == 1 {
            let at = octets.next() as usize % request.len();
            request[at] = octets.next() as u8;
        }
        if round % 3 == 2 {
            request.truncate(octets.next() as usize % request.len());
        }
        let mut stream = UnixStream::connect(running.socket()).await.unwrap();
        stream.write_all(&request).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // How it answers is its own affair; that it lets go of the connection is not.
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    }
    assert!(running.is_alive().await);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_wrong_or_too_long_are_answered_with_a_problem() {
    let running = Running::start().await;
    let long = format!("{{\"id\": \"{}\"}}", "x".repeat(2 * 1024 * 1024));
    let nested = "[".repeat(100_000);
    for (body, status) in [
        ("{", "400"),
        ("{\"filter\": {\"colour\": \"red\"}}", "400"),
        ("[1, 2]", "400"),
        (nested.as_str(), "400"),
        (long.as_str(), "413"),
    ] {
        let mut stream = UnixStream::connect(running.socket()).await.unwrap();
        let head = format!(
            "POST /v1/queue/list HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // The server may answer and close before it has read everything.
        let _ = stream.write_all(body.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(answer.contains("\"version\":1") && answer.contains("\"error\""), "{answer}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let running = Running::start().await;
    let mode = std::fs::metadata(running.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again =
        |path: &Path| server::serve(path, running.shared.clone(), running.stop.clone(), &running.tasks);
    assert!(matches!(again(&running.socket()), Err(ServeError::InUse(_))));
    assert!(running.is_alive().await);
    let stale = running.folder.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    again(&stale).unwrap();
    assert!(Client::new(&stale).get::<Status>("/v1/status").await.is_ok());
    let file = running.folder.path().join("a-file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(again(&file), Err(ServeError::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_removes_the_socket_and_does_not_wait_for_idle_clients() {
    let running = Running::start().await;
    let socket = running.socket();
    let mut idle = UnixStream::connect(&socket).await.unwrap();
    idle.write_all(b"GET /v1/status HTTP/1.1\r\n").await.unwrap();
    assert!(running.is_alive().await);
    let client = running.client.clone();
    let folder = {
        running.stop.cancel();
        running.tasks.close();
        tokio::time::timeout(PATIENCE, running.tasks.wait()).await.unwrap();
        running.folder
    };
    assert!(!socket.exists() && folder.path().exists());
    let error = client.get::<Status>("/v1/status").await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
}

/// Set for the process that [`others_are_denied`] starts.
const PROBE: &str = "POSTERN_TEST_PROBE_SOCKET";
/// Set if it may read.
const PROBE_READS: &str = "POSTERN_TEST_PROBE_READS";

async fn changes_of_the_spool_are_denied(client: &Client) {
    let body = serde_json::json!({});
    for verb in ["fix", "rebuild", "compact", "backup", "quarantine/restore", "quarantine/remove"] {
        let refused = client.post::<serde_json::Value>(&format!("/v1/store/{verb}"), &body).await;
        assert!(matches!(refused, Err(ClientError::Denied { .. })), "{verb}: {refused:?}");
    }
}

/// Set for the process that [`others_cannot_shut_root_out`] starts.
const CROWD: &str = "POSTERN_TEST_CROWD_SOCKET";

/// As somebody without a right: takes all the connections that there are, says so, and waits until they are closed.
async fn crowd(socket: &Path) {
    let mut refused = UnixStream::connect(socket).await.unwrap();
    refused.write_all(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(UnixStream::connect(socket).await.unwrap());
    }
    std::io::stdout().write_all(b"crowded\n").unwrap();
    // Without keep-alive: this ends with the answer.
    tokio::time::timeout(PATIENCE, refused.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("connection: close"), "{answer}");
    let mut busy = 0;
    for mut stream in idle {
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        busy += usize::from(answer.starts_with(b"HTTP/1.1 503") && answer.ends_with(b"}"));
    }
    assert!(busy > 0, "the others are told that there is no room");
}

/// Only root can run this test to its end.
#[tokio::test(flavor = "multi_thread")]
async fn others_cannot_shut_root_out() {
    if let Ok(socket) = std::env::var(CROWD) {
        return crowd(Path::new(&socket)).await;
    }
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let running = Running::start().await;
    let (program, socket) = (open_to_all(&running), running.socket());
    let mut command = tokio::process::Command::new(program);
    command
        .args(["--exact", "others_cannot_shut_root_out", "--nocapture"])
        .env(CROWD, socket)
        .current_dir("/");
    let mut child = command.uid(65534).gid(65534).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
    while !lines.next_line().await.unwrap().unwrap().contains("crowded") {}
    let asked = tokio::time::timeout(PATIENCE, running.client.get::<Status>("/v1/status")).await;
    asked.unwrap().unwrap();
    while lines.next_line().await.unwrap().is_some() {}
    assert!(child.wait().await.unwrap().success());
    running.stop().await;
}

/// Opens the socket wide, and gives a copy of this program that others can run: the directory of the build may be closed
/// to them.
fn open_to_all(running: &Running) -> PathBuf {
    for (path, mode) in [(running.folder.path().to_owned(), 0o755), (running.socket(), 0o666)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let program = running.folder.path().join("probe");
    // By another process: a program cannot be run while a process that another test starts has inherited its file, open to be
    // written.
    let mut copy = Command::new("cp");
    assert!(copy.arg(std::env::current_exe().unwrap()).arg(&program).status().unwrap().success());
    program
}

/// Only root can become somebody else, so only root can run this test to its end.
#[tokio::test(flavor = "multi_thread")]
async fn others_are_denied() {
    if let Ok(socket) = std::env::var(PROBE) {
        let client = Client::new(socket);
        let error = match std::env::var(PROBE_READS).is_ok() {
            false => client.get::<Status>("/v1/status").await.unwrap_err(),
            true => {
                client.get::<Status>("/v1/status").await.unwrap();
                client.get::<store::Status>("/v1/store/status").await.unwrap();
                client.lines("/v1/store/check", &store::CheckRequest::default(), |_| Ok(())).await.unwrap();
                changes_of_the_spool_are_denied(&client).await;
                let all = ChangeRequest { all: true, ..ChangeRequest::default() };
                client.post::<Changed>("/v1/queue/hold", &all).await.unwrap_err()
            }
        };
        assert!(matches!(&error, ClientError::Denied { reason, .. } if reason.contains("admins")), "{error}");
        return;
    }
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let running = Running::start().await;
    // On purpose: the peer's credentials must be enough.
    let program = open_to_all(&running);
    // The group of the probe may read from the second time on: a reload gives the right at once.
    for may_read in [false, true] {
        if may_read {
            let mut config = Config::clone(&running.shared.config.load());
            config.admin.operators =
                nix::unistd::Group::from_gid(65534.into()).unwrap().map(|group| group.name);
            running.shared.config.store(Arc::new(config));
        }
        let (program, socket) = (program.clone(), running.socket());
        let probe = tokio::task::spawn_blocking(move || {
            let mut command = Command::new(program);
            command.args(["--exact", "others_are_denied", "--nocapture"]).env(PROBE, socket).current_dir("/");
            if may_read {
                command.env(PROBE_READS, "1");
            }
            command.uid(65534).gid(65534).output().unwrap()
        });
        let output = probe.await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
    }
    running.stop().await;
}

#[tokio::test]
async fn the_checks_of_the_daemon_are_asked_for_by_name() {
    let running = Running::start().await;
    for check in Check::ALL {
        let found: Findings = running.client.get(&format!("/v1/doctor/{}", check.as_str())).await.unwrap();
        assert_eq!(found.findings, [Finding::note(check.as_str(), "looked at")]);
    }
    let tally: Tally = running.client.get("/v1/doctor/reputation").await.unwrap();
    assert_eq!(tally.domains, []);
    let tally: Tally = running.client.get("/v1/doctor/reputation?since=7").await.unwrap();
    assert_eq!(tally.since, 7);
    let reports: Reports = running.client.get("/v1/doctor/reports").await.unwrap();
    assert_eq!((reports.complaints[0].count, reports.complaints[0].delivered), (3, None));
    let problem = running.client.get::<Findings>("/v1/doctor/everything").await.unwrap_err();
    assert!(problem.to_string().contains("names, senders, dns, blocklists"), "{problem}");
    running.stop().await;
}
