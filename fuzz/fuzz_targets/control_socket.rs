//! The control socket: the first line is a method and a path, the rest the body of a request, or, behind a `!`, all of it goes
//! over the socket as it is. The daemon answers the next request whatever came.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use libfuzzer_sys::fuzz_target;
use postern_admin::api::Delivery;
use postern_admin::explain::Mail;
use postern_admin::{Daemon, Listening, ReloadReport, Shared, server};
use postern_config::{Config, Outbound, Queue as Schedule};
use postern_policy::Policy;
use postern_policy::checkup::reports::Reports;
use postern_policy::checkup::{Check, Finding};
use postern_policy::record::{Records, Settings};
use postern_policy::relay::{Decision, Question};
use postern_queue::{Destination, Queue, Surroundings};
use postern_runtime::SystemClock;
use postern_runtime::clock::Pending;
use postern_smtp::{Address, Domain, ReversePath};
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
/// Octets of an answer that are looked at.
const ANSWER: usize = 64 * 1024;

thread_local! {
    static RUNNING: Running = Running::start();
}

fuzz_target!(|octets: &[u8]| RUNNING.with(|running| running.ask(octets)));

struct Running {
    runtime: Runtime,
    socket: PathBuf,
    _folder: TempDir,
}

impl Running {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let folder = TempDir::new().expect("a folder");
        let socket = folder.path().join("control.sock");
        runtime.block_on(async {
            let shared = shared(folder.path());
            server::serve(&socket, shared, CancellationToken::new(), &TaskTracker::new()).expect("a socket");
        });
        Self { runtime, socket, _folder: folder }
    }

    fn ask(&self, octets: &[u8]) {
        self.runtime.block_on(async {
            let answer = self.answer(&request(octets)).await;
            let status = answer.get(..12).map(String::from_utf8_lossy);
            if let Some(status) = status {
                assert!(status.starts_with("HTTP/1.") && !status.ends_with("500"), "{status}");
            }
            let health = self.answer(b"GET /healthz HTTP/1.0\r\nHost: x\r\n\r\n").await;
            assert!(health.starts_with(b"HTTP/1.0 200"), "{}", String::from_utf8_lossy(&health));
        });
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

fn request(octets: &[u8]) -> Vec<u8> {
    if let Some(raw) = octets.strip_prefix(b"!") {
        return raw.to_vec();
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
        daemon: Arc::new(Nowhere),
        started: SystemTime::now(),
        release: "0",
    }
}

/// A daemon that does nothing, around a queue that delivers nothing.
#[derive(Debug)]
struct Nowhere;

impl Surroundings for Nowhere {
    fn destination(&self, _: &ReversePath, recipient: &Address, _: Option<&str>) -> Destination {
        Destination(recipient.host.to_string().into())
    }

    fn checked_route(&self, via: &str) -> Result<String, String> {
        (via == "mx").then(|| via.to_owned()).ok_or_else(|| "no route".to_owned())
    }

    fn is_local(&self, _: &Address) -> bool {
        false
    }

    fn final_recipients(&self, address: &Address) -> Vec<Address> {
        vec![address.clone()]
    }

    fn hostname(&self) -> Domain {
        Domain::parse("mail.proseware.test").expect("a name")
    }

    fn schedule(&self) -> Arc<Schedule> {
        Arc::default()
    }

    fn sending(&self) -> Arc<Outbound> {
        Arc::default()
    }
}

impl Daemon for Nowhere {
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
