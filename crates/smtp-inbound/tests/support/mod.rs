//! A server in a temporary directory, as far as the tests of this crate need it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, ArcSwapOption};
use postern_config as config;
use postern_config::Config;
use postern_config::account::AccountsFile;
use postern_policy::Policy;
use postern_policy::accounts::hash_password;
use postern_policy::facts::NobodyToAsk;
use postern_policy::record::{Records, Settings};
use postern_queue::{Destination, Queue, Surroundings};
use postern_runtime::{Clock, ManualClock};
use postern_smtp::{Address, Domain, ReversePath};
use postern_smtp_inbound::{Metrics, Shared, tls};
use prometheus::Registry;
use tempfile::TempDir;

/// Sat, 21 Nov 2026 18:05:25 UTC.
pub const NOW: u64 = 1_795_284_325;
/// The password of every login.
pub const PASSWORD: &str = "correct horse";

const ACCOUNTS: &str = r#"
    [[account]]
    name = "alice@proseware.test"
    password = "HASH"
    [[account]]
    name = "bob@proseware.test"
    password = "HASH"
    state = "disabled"
    [[account]]
    name = "kiosk@proseware.test"
    password = "HASH"
    networks = ["192.0.2.0/24"]
    [[account]]
    name = "agency@proseware.test"
    password = "HASH"
    permission = "any"
    any_if_spf = true
"#;

/// What the queue asks; nothing is delivered here.
#[derive(Debug)]
struct Nowhere {
    config: Arc<Config>,
}

impl Surroundings for Nowhere {
    fn destination(&self, _: &ReversePath, recipient: &Address, _: Option<&str>) -> Destination {
        Destination(recipient.host.to_string().into())
    }

    fn checked_route(&self, via: &str) -> Result<String, String> {
        Err(format!("{via:?} is no route: write mx"))
    }

    fn is_local(&self, _: &Address) -> bool {
        false
    }

    fn final_recipients(&self, address: &Address) -> Vec<Address> {
        vec![address.clone()]
    }

    fn hostname(&self) -> Domain {
        self.config.hostname.clone()
    }

    fn schedule(&self) -> Arc<config::Queue> {
        Arc::new(self.config.queue.clone())
    }

    fn sending(&self) -> Arc<config::Outbound> {
        Arc::new(self.config.outbound.clone())
    }
}

/// The spool lives as long as this.
pub struct Server {
    pub shared: Shared,
    pub registry: Registry,
    pub directory: TempDir,
}

impl Server {
    /// A server with this configuration, some logins and a certificate of its own. Call it inside a runtime.
    pub fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config: Config = toml::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        config.queue.path = directory.path().join("spool");
        std::fs::create_dir(&config.queue.path).unwrap();
        let accounts = ACCOUNTS.replace("HASH", &hash_password(PASSWORD.as_bytes()).unwrap());
        config.accounts = toml::from_str::<AccountsFile>(&accounts).unwrap().accounts;
        let config = Arc::new(config);
        let registry = Registry::new();
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(now()));
        let surroundings = Arc::new(Nowhere { config: Arc::clone(&config) });
        let metrics = postern_queue::metrics::Metrics::register(&registry).unwrap();
        let (queue, _) = Queue::open(&config.queue, surroundings, Arc::clone(&clock), metrics).unwrap();
        let (settings, now) = (Settings::of(&config), Arc::clone(&clock));
        let records = Records::open(&directory.path().join("records"), settings, move || now.now()).unwrap();
        let shared = Shared {
            policy: Arc::new(ArcSwap::from_pointee(Policy::new(&config))),
            config: Arc::new(ArcSwap::new(config)),
            facts: Arc::new(NobodyToAsk),
            records: Arc::new(records),
            door: queue.into(),
            tls: Arc::new(ArcSwapOption::from(Some(certificate(&directory)))),
            metrics: Metrics::register(&registry).unwrap(),
            decisions: postern_policy::metrics::Metrics::register(&registry).unwrap(),
            clock,
        };
        Self { shared, registry, directory }
    }
}

/// When everything here happens.
pub fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn certificate(directory: &TempDir) -> Arc<tls::ServerTls> {
    let issued = rcgen::generate_simple_self_signed(["mail.proseware.test".to_owned()]).unwrap();
    let files = config::Tls::new(directory.path().join("cert.pem"), directory.path().join("key.pem"));
    std::fs::write(&files.certificate, issued.cert.pem()).unwrap();
    std::fs::write(&files.key, issued.signing_key.serialize_pem()).unwrap();
    let tickets = Arc::new(tls::Tickets::new().unwrap());
    Arc::new(tls::load(&files, Vec::new(), &tickets).unwrap())
}
