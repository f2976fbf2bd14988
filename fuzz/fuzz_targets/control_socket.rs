//! The control socket: the first line is a method and a path, the rest the body of a request, or, behind a `!`, all of it goes
//! over the socket as it is. There is always a message in the queue; `MMMMMMMMMMMMM` stands for its id. The daemon answers the next
//! request whatever came.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use libfuzzer_sys::fuzz_target;
use postern_admin::api::Delivery;
use postern_admin::explain::Mail;
use postern_admin::{Daemon, Listening, ReloadReport, Shared, server};
use postern_config::Config;
use postern_fuzz::nowhere::Nowhere;
use postern_policy::Policy;
use postern_policy::checkup::reports::Reports;
use postern_policy::checkup::{Check, Finding};
use postern_policy::record::{Records, Settings};
use postern_policy::relay::{Decision, Question};
use postern_queue::operate::Sort;
use postern_queue::{Envelope, Filter, Origin, Queue, Recipient, Terms};
use postern_runtime::SystemClock;
use postern_runtime::clock::Pending;
use postern_runtime::dns::Trouble;
use postern_smtp::{Address, Body, Domain, Notify, ReversePath};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const CONFIGURATION: &str = r#"
    hostname = "mail.proseware.test"
    [queue]
    min_free_space = "1KiB"
    min_free_inodes = 1
    max_messages = 100
    [[domain]]
    name = "proseware.test"
    mailboxes = ["alice"]
"#;
/// What stands for the id of a message in an input.
const MESSAGE: &str = "MMMMMMMMMMMMM";
/// Octets of an answer that are looked at.
const ANSWER: usize = 64 * 1024;

thread_local! {
    static RUNNING: Running = Running::start();
}

fuzz_target!(|octets: &[u8]| RUNNING.with(|running| running.ask(octets)));

struct Running {
    runtime: Runtime,
    queue: Queue,
    socket: PathBuf,
    _folder: TempDir,
}

impl Running {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let folder = TempDir::new().expect("a folder");
        let socket = folder.path().join("control.sock");
        let queue = runtime.block_on(async {
            let shared = shared(folder.path());
            let queue = shared.door.now().expect("an open queue");
            server::serve(&socket, shared, CancellationToken::new(), &TaskTracker::new()).expect("a socket");
            queue
        });
        Self { runtime, queue, socket, _folder: folder }
    }

    fn ask(&self, octets: &[u8]) {
        self.runtime.block_on(async {
            let id = self.message().await;
            let answer = self.answer(&request(octets, &id)).await;
            let status = answer.get(..12).map(String::from_utf8_lossy);
            if let Some(status) = status {
                assert!(status.starts_with("HTTP/1.") && !status.ends_with("500"), "{status}");
            }
            let health = self.answer(b"GET /healthz HTTP/1.0\r\nHost: x\r\n\r\n").await;
            assert!(health.starts_with(b"HTTP/1.0 200"), "{}", String::from_utf8_lossy(&health));
        });
    }

    /// The oldest message; a new one where there is none.
    async fn message(&self) -> String {
        let page = self.queue.list(&Filter::default(), Sort::Age, None, 1).expect("no filter is a good one");
        if let Some(message) = page.messages.first() {
            return message.id.clone();
        }
        let mut incoming = self.queue.incoming().expect("room for a message");
        incoming.write(b"Subject: x\r\n\r\nHello\r\n"[..].into()).await.expect("room for its content");
        incoming.commit(envelope(), Vec::new()).await.expect("room for its envelope").to_string()
    }

    /// What comes back before the connection ends; a request that asks for events without end is left after its beginning.
    async fn answer(&self, request: &[u8]) -> Vec<u8> {
        let mut stream = UnixStream::connect(&self.socket).await.expect("the daemon listens");
        let mut answer = Vec::new();
        if stream.write_all(request).await.is_ok() && stream.shutdown().await.is_ok() {
            let mut buffer = [0; 4096];
            while answer.len() < ANSWER
                && !answer.starts_with(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson")
            {
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(octets) => answer.extend_from_slice(&buffer[..octets]),
                }
            }
        }
        answer
    }
}

fn request(octets: &[u8], id: &str) -> Vec<u8> {
    if let Some(raw) = octets.strip_prefix(b"!") {
        return raw.to_vec();
    }
    let mut octets = octets.to_vec();
    while let Some(at) = octets.windows(MESSAGE.len()).position(|window| window == MESSAGE.as_bytes()) {
        octets[at..at + MESSAGE.len()].copy_from_slice(id.as_bytes());
    }
    let end = octets.iter().position(|octet| *octet == b'\n').unwrap_or(octets.len());
    let (line, body) = (&octets[..end], octets.get(end + 1..).unwrap_or_default());
    let mut request = line.to_vec();
    let fields = format!(
        " HTTP/1.1\r\nHost: postern\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    request.extend_from_slice(fields.as_bytes());
    request.extend_from_slice(body);
    request
}

fn envelope() -> Envelope {
    let address = |text: &str| Address::parse(text).expect("an address");
    let recipient = |text: &str| Recipient {
        address: address(text),
        given: None,
        notify: Notify::default(),
        original: None,
        via: None,
        expanded: false,
    };
    Envelope {
        reverse_path: ReversePath::Address(address("alice@proseware.test")),
        origin: Origin::Login("alice@proseware.test".to_owned()),
        client: Some([192, 0, 2, 7].into()),
        helo: Some("client.test".to_owned()),
        forwarded: None,
        received: SystemTime::now(),
        body: Body::SevenBit,
        smtputf8: false,
        ret: None,
        envelope_id: None,
        message_id: Some("1@proseware.test".to_owned()),
        priority: 0,
        terms: Terms::default(),
        size: 0,
        recipients: ["bob@adatum.test", "carol@thephone-company.test"].map(recipient).into(),
    }
}

fn shared(folder: &Path) -> Shared {
    let mut config: Config = toml::from_str(CONFIGURATION).expect("a configuration");
    config.queue.path = folder.join("spool");
    let registry = prometheus::Registry::new();
    let metrics = postern_queue::metrics::Metrics::register(&registry).expect("metrics");
    let (surroundings, clock) = (Arc::new(Nowhere), Arc::new(SystemClock));
    let (queue, _) = Queue::open(&config.queue, surroundings, clock, metrics).expect("a spool");
    let records = Records::open(&folder.join("records"), Settings::of(&config), SystemTime::now);
    Shared {
        facts: Arc::new(postern_policy::facts::NobodyToAsk),
        door: queue.into(),
        records: Arc::new(records.expect("records")),
        policy: Arc::new(ArcSwap::from_pointee(Policy::new(&config))),
        config: Arc::new(ArcSwap::from_pointee(config)),
        registry,
        daemon: Arc::new(Idle),
        started: SystemTime::now(),
        release: "0",
    }
}

/// A daemon that does nothing.
#[derive(Debug)]
struct Idle;

impl Daemon for Idle {
    fn reload(&self) -> Pending<'_, Result<ReloadReport, String>> {
        Box::pin(std::future::ready(Err("nothing to reload".to_owned())))
    }

    fn delivery(&self, _: &Mail<'_>, recipient: &Address) -> Delivery {
        Delivery { recipient: recipient.to_string(), ..Delivery::default() }
    }

    fn reply(&self, _: &Question<'_>, decision: &Decision) -> Option<String> {
        Some(decision.reason.as_str().to_owned())
    }

    fn listening(&self) -> Vec<Listening> {
        vec![Listening { kind: "mx".to_owned(), address: "127.0.0.1:25".parse().expect("an address") }]
    }

    fn load(&self) -> postern_admin::api::load::Load {
        postern_admin::api::load::Load::default()
    }

    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    fn dns_trouble(&self) -> Pending<'_, Option<Trouble>> {
        Box::pin(std::future::ready(None))
    }

    fn verify(&self, _: Vec<Domain>) -> Pending<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn check(&self, check: Check) -> Pending<'_, Vec<Finding>> {
        Box::pin(std::future::ready(vec![Finding::note(check.as_str(), "looked at")]))
    }

    fn reports(&self) -> Pending<'_, Reports> {
        Box::pin(std::future::ready(Reports::default()))
    }
}
