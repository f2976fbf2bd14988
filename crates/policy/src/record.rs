//! What is kept of a refusal, so that its reference can be explained.
//!
//! | part | module |
//! |---|---|
//! | the reference in the reply, the token of the page | `names` |
//! | what was said in the transaction | `transcript` |
//! | where records are, and which are in the way | `files` |
//! | who writes them | `writer` |
//!
//! Records explain, they are not mail: they are written behind the reply by one thread, without waiting for the disk, and
//! the oldest make room for new ones. [`Records::keep`] puts a record into a queue of bounded room and returns. Where there is
//! no room, or one client fills the place, [`Records::name`] says so before the reply is made: then it has no reference.

mod files;
mod names;
mod transcript;
mod writer;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, RwLock};
use postern_config::Config;
use postern_config::replies::Class;
use prometheus::{IntCounterVec, Opts, Registry};
use serde::{Deserialize, Serialize};

use crate::relay::{Decision, HeaderSenders, Question, Stage};
use files::Files;
pub use names::{BadReference, BadToken, Name, Reference, Token};
pub use transcript::Transcript;
use writer::{Order, Writer};

/// Records that wait to be written; a record has at most some 10 KiB. Beyond it refusals come faster than the disk takes them.
const MOST_WAITING: usize = 2048;
/// Clients whose refusals are counted. When there are more, counting begins anew: it is about few that knock too often.
const MOST_CLIENTS: usize = 50_000;
/// How long a question waits for records on their way to the disk.
const PATIENCE: Duration = Duration::from_secs(5);
/// Octets of one text in a record. An address has at most 320 (RFC 5321 §4.5.3.1).
const MOST_OF_TEXT: usize = 320;
/// Rules in a record: enough for every decision that there is.
const MOST_RULES: usize = 100;
/// Sender fields of a header in a record.
const MOST_FIELDS: usize = 20;

/// Every fact of a question, the answer, and what was said. The reference and the time come first: the files are indexed
/// by them without reading the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The reference in the reply.
    pub reference: String,
    /// Seconds since 1970.
    pub time: u64,
    /// `connect`, `login`, `mail`, `rcpt`, `message`.
    pub stage: String,
    /// `mx`, `submission`, `submissions`.
    pub listener: String,
    /// The client's address.
    pub client: String,
    /// Our address that it connected to.
    pub local: Option<String>,
    /// Whether it was under TLS.
    pub tls: bool,
    /// SHA-256 of the certificate that the client showed.
    pub certificate: Option<String>,
    /// The login.
    pub login: Option<String>,
    /// EHLO or HELO.
    pub helo: Option<String>,
    /// MAIL FROM; empty is the null sender.
    pub reverse_path: String,
    /// RCPT TO, if it was about a recipient.
    pub recipient: Option<String>,
    /// Recipients that the transaction had so far.
    pub recipients: usize,
    /// The senders that the header names, if it was about the message: `From: alice@proseware.test`.
    pub header: Vec<String>,
    /// The answer.
    pub decision: Decision,
    /// What it is about, as far as wording goes.
    pub class: Class,
    /// The cause in words, for the sender.
    pub cause: String,
    /// What the sender can do, in words; empty where there is nothing.
    pub advice: String,
    /// The reply as it was sent.
    pub reply: String,
    /// What was said before it, oldest first.
    pub transcript: Vec<String>,
    /// SHA-256 of the token, in hexadecimal, if the reply had one.
    pub token: Option<String>,
}

/// How a refusal was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What it is about.
    pub class: Class,
    /// The cause in words.
    pub cause: String,
    /// What the sender can do; empty where there is nothing.
    pub advice: String,
    /// The reply as it is sent.
    pub reply: String,
}

impl Record {
    /// A record of this refusal.
    pub fn new(
        name: &Name,
        question: &Question<'_>,
        decision: &Decision,
        told: Told,
        transcript: &Transcript,
    ) -> Self {
        let (recipient, header) = match question.stage {
            Stage::Rcpt(path) => (Some(bounded(&path.to_string())), Vec::new()),
            Stage::Message(senders) => (None, fields(senders)),
            Stage::Connect | Stage::Login | Stage::Mail => (None, Vec::new()),
        };
        let mut decision = decision.clone();
        decision.trace.0.truncate(MOST_RULES);
        Self {
            reference: name.reference.to_string(),
            time: seconds(question.now),
            stage: question.stage.as_str().to_owned(),
            listener: question.listener.as_str().to_owned(),
            client: question.client.to_canonical().to_string(),
            local: question.local.map(|local| local.to_canonical().to_string()),
            tls: question.tls,
            certificate: question.certificate.map(|certificate| certificate.sha256.clone()),
            login: question.login.map(|login| bounded(&login.name)),
            helo: question.helo.map(bounded),
            reverse_path: bounded(&question.reverse_path.to_string()),
            recipient,
            recipients: question.recipients,
            header,
            decision,
            class: told.class,
            cause: told.cause,
            advice: told.advice,
            reply: names::without_tokens(&told.reply),
            transcript: transcript.lines(),
            token: name.token.map(|token| token.fingerprint()),
        }
    }
}

fn fields(senders: &HeaderSenders) -> Vec<String> {
    let from = senders.from.iter().map(|field| ("From", field));
    let others = senders.others(true).flat_map(|(name, list)| list.iter().map(move |field| (name, field)));
    let line = |(name, field): (&str, &crate::relay::SenderField)| match field {
        Ok(addresses) => {
            let shown: Vec<String> = addresses.iter().take(MOST_FIELDS).map(ToString::to_string).collect();
            bounded(&format!("{name}: {}", shown.join(", ")))
        }
        Err(problem) => bounded(&format!("{name}: (cannot be read: {problem})")),
    };
    from.chain(others).take(MOST_FIELDS).map(line).collect()
}

/// Not longer than any address.
fn bounded(text: &str) -> String {
    match text.char_indices().find(|(at, _)| *at >= MOST_OF_TEXT) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What is kept, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Whether anything is.
    pub enabled: bool,
    /// Records of all files.
    pub max_records: u64,
    /// Octets of all files.
    pub max_size: u64,
    /// Older ones are not shown.
    pub max_age: Duration,
    /// Records an hour of one client.
    pub max_per_client: u32,
    /// Octets of the disk that stay free.
    pub min_free_space: u64,
    /// Whether names have a token, for a page.
    pub with_tokens: bool,
}

impl Settings {
    /// Those of a configuration.
    pub fn of(config: &Config) -> Self {
        let records = &config.policy.records;
        Self {
            enabled: records.enabled,
            max_records: records.max_records,
            max_size: records.max_size,
            max_age: records.max_age,
            max_per_client: records.max_per_client,
            min_free_space: config.queue.min_free_space,
            with_tokens: config.report.base().is_some(),
        }
    }
}

/// What there is, and what is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Records in the files.
    pub records: u64,
    /// Octets of the files.
    pub octets: u64,
    /// Octets of memory of their index.
    pub memory: usize,
    /// The time of the oldest, in seconds since 1970.
    pub oldest: Option<u64>,
    /// Lines that were unreadable when the files were opened.
    pub unreadable: u64,
    /// Refusals since the start that have no record, by why: `crowded`, `client`, `failed`.
    pub not_kept: [(&'static str, u64); 3],
    /// Why nothing can be written, if so.
    pub trouble: Option<String>,
}

/// What tells the time.
type Now = dyn Fn() -> SystemTime + Send + Sync;

/// The records of refusals. One for the life of a daemon.
pub struct Records {
    shared: Arc<Shared>,
    clients: Mutex<Clients>,
    orders: Sender<Order>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").field("shared", &self.shared).finish_non_exhaustive()
    }
}

/// What the thread that writes shares with everybody.
struct Shared {
    settings: RwLock<Settings>,
    files: Mutex<Files>,
    /// Records on their way to the thread.
    waiting: AtomicUsize,
    /// Whether the last write succeeded.
    is_usable: AtomicBool,
    trouble: Mutex<Option<String>>,
    counts: IntCounterVec,
    now: Box<Now>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("settings", &*self.settings.read()).finish_non_exhaustive()
    }
}

impl Shared {
    fn count(&self, fate: Fate, records: u64) {
        self.counts.with_label_values(&[fate.as_str()]).inc_by(records);
    }

    /// Notes why nothing can be written, or that it can.
    fn note(&self, trouble: Option<String>) {
        self.is_usable.store(trouble.is_none(), Ordering::Relaxed);
        *self.trouble.lock() = trouble;
    }
}

/// What becomes of a record.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Kept,
    /// They come faster than they can be written.
    Crowded,
    /// Its client has too many.
    Client,
    /// It could not be written.
    Failed,
}

impl Fate {
    const LOST: [Self; 3] = [Self::Crowded, Self::Client, Self::Failed];

    fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Crowded => "crowded",
            Self::Client => "client",
            Self::Failed => "failed",
        }
    }
}

/// Refusals of each client in the present hour.
#[derive(Debug, Default)]
struct Clients {
    hour: u64,
    counts: HashMap<IpAddr, u32>,
}

impl Clients {
    /// Whether there is room for one more; then it is counted.
    fn take(&mut self, client: IpAddr, now: u64, most: u32) -> bool {
        let hour = now / 3600;
        if self.hour != hour || self.counts.len() >= MOST_CLIENTS {
            *self = Self { hour, counts: HashMap::new() };
        }
        let count = self.counts.entry(network(client)).or_default();
        let has_room = *count < most;
        *count += u32::from(has_room);
        has_room
    }
}

/// Where one client may come from: an IPv4 address, a /64 of IPv6.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(client) => client.into(),
        IpAddr::V6(client) => Ipv6Addr::from_bits(client.to_bits() >> 64 << 64).into(),
    }
}

impl Records {
    /// Opens the records in a folder, which is made where it is not there, and begins to read what it holds. Trouble with the
    /// folder keeps nobody from working: see [`Status::trouble`].
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn open(
        folder: &Path,
        settings: Settings,
        now: impl Fn() -> SystemTime + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let options = Opts::new("postern_refusal_records_total", "Refusals by what became of their record");
        let counts = IntCounterVec::new(options, &["fate"]).map_err(std::io::Error::other)?;
        let shared = Arc::new(Shared {
            settings: RwLock::new(settings),
            files: Mutex::new(Files::new(folder)),
            waiting: AtomicUsize::new(0),
            is_usable: AtomicBool::new(true),
            trouble: Mutex::new(None),
            counts,
            now: Box::new(now),
        });
        let (orders, receiver) = channel();
        let writer = Writer::new(shared.clone(), receiver);
        let writer = std::thread::Builder::new().name("records".to_owned()).spawn(|| writer.run())?;
        Ok(Self { shared, clients: Mutex::default(), orders, writer: Mutex::new(Some(writer)) })
    }

    /// Registers the counters.
    ///
    /// # Errors
    /// When they are registered twice.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.shared.counts.clone()))
    }

    /// Takes new settings into force.
    pub fn set(&self, settings: Settings) {
        *self.shared.settings.write() = settings;
        // Smaller limits count now, not at the next refusal. A writer that is gone has nothing to tidy.
        let _ = self.orders.send(Order::Tidy);
    }

    /// A name for the record of a refusal of this client. `None`: it would not be kept, so that the reply must not name it.
    pub fn name(&self, client: IpAddr) -> Option<Name> {
        let settings = *self.shared.settings.read();
        if !settings.enabled {
            return None;
        }
        let fate = if !self.shared.is_usable.load(Ordering::Relaxed) {
            Fate::Failed
        } else if self.shared.waiting.load(Ordering::Relaxed) >= MOST_WAITING {
            Fate::Crowded
        } else if self.clients.lock().take(client, seconds((self.shared.now)()), settings.max_per_client) {
            return Some(Name::random(settings.with_tokens));
        } else {
            Fate::Client
        };
        self.shared.count(fate, 1);
        None
    }

    /// Keeps a record under its name; it is written later.
    pub fn keep(&self, name: &Name, record: Record) {
        self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        if self.orders.send(Order::Keep(name.reference, Box::new(record))).is_err() {
            self.shared.count(Fate::Failed, 1);
        }
    }

    /// The record of a reference as a person types it: any case, with or without the hyphen. Blocking.
    pub fn find(&self, reference: &str) -> Option<Record> {
        let reference: Reference = reference.parse().ok()?;
        self.read(reference, |_| true)
    }

    /// The record that was meant, if one digit of the reference is wrong or two are in the wrong order. Blocking.
    pub fn find_near(&self, reference: Reference) -> Option<Record> {
        let near: Vec<Reference> = {
            let files = self.shared.files.lock();
            reference.near().filter(|near| !files.places(*near).is_empty()).collect()
        };
        near.into_iter().find_map(|near| self.read(near, |_| true))
    }

    /// The record that a token opens. Blocking.
    pub fn find_by_token(&self, token: &Token) -> Option<Record> {
        let fingerprint = token.fingerprint();
        self.read(token.reference(), |record| record.token.as_ref() == Some(&fingerprint))
    }

    /// What there is, and what is not.
    pub fn status(&self) -> Status {
        let files = self.shared.files.lock();
        let count = |fate: Fate| self.shared.counts.with_label_values(&[fate.as_str()]).get();
        Status {
            records: files.records(),
            octets: files.octets(),
            memory: files.memory(),
            oldest: files.oldest(),
            unreadable: files.unreadable(),
            not_kept: Fate::LOST.map(|fate| (fate.as_str(), count(fate))),
            trouble: self.shared.trouble.lock().clone(),
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> Settings {
        *self.shared.settings.read()
    }

    /// Writes what waits, and ends. What is kept afterwards is lost.
    pub fn close(&self) {
        let Some(writer) = self.writer.lock().take() else { return };
        let _ = self.orders.send(Order::Stop);
        // The thread has no reason to panic; if it did, there is nothing left to do about it.
        let _ = writer.join();
    }

    /// The latest record of this reference that fits and has not expired.
    fn read(&self, reference: Reference, fits: impl Fn(&Record) -> bool) -> Option<Record> {
        self.flush();
        let places = self.shared.files.lock().places(reference);
        let max_age = self.shared.settings.read().max_age.as_secs();
        let now = seconds((self.shared.now)());
        let records = places.into_iter().filter_map(|place| files::read(&place));
        let mut records = records.filter(|record| record.time.saturating_add(max_age) >= now);
        let name = reference.to_string();
        records.find(|record| record.reference == name && fits(record))
    }

    /// Waits until what was kept so far can be found.
    fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.orders.send(Order::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(PATIENCE);
        }
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests;
