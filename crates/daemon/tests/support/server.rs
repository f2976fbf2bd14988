//! A server without sockets: the rules, what holds beside them, a queue.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, ArcSwapOption};
use postern_admin::api::Delivery;
use postern_admin::explain::{Beyond, Mail};
use postern_config::account::AccountsFile;
use postern_config::{self as config, Config};
use postern_policy::Policy;
use postern_policy::facts::NobodyToAsk;
use postern_policy::owners_lock::OwnersLock;
use postern_policy::record::{Records, Settings};
use postern_policy::relay::{Decision, Question, Verdict};
use postern_policy::sender_domains::SenderPolicy;
use postern_policy::standing::Standing;
use postern_policy::standing::bans::Ban;
use postern_policy::standing::blocklists::Answered;
use postern_policy::standing::grants::TemporaryGrant;
use postern_policy::standing::recipients::Said;
use postern_policy::standing::suspensions::Suspension;
use postern_policy::verification::{DomainReport, Outcome, State};
use postern_queue::operate::HeaderPattern;
use postern_queue::rules::{Forecast, NewRule, Refused, RuleAction};
use postern_queue::{Destination, Envelope, Filter, Origin, Queue, Recipient, Surroundings};
use postern_runtime::{Clock, ManualClock};
use postern_smtp::{Address, Domain, ReversePath};
use postern_smtp_inbound::replies::{self, Refused as Refusing};
use postern_smtp_inbound::{Metrics, Shared};
use prometheus::Registry;
use tempfile::TempDir;

/// Sat, 21 Nov 2026 18:05:25 UTC: when everything here happens.
pub const NOW: u64 = 1_795_284_325;

/// The spool lives as long as this.
pub struct Server {
    pub shared: Shared,
    pub queue: Queue,
    _directory: TempDir,
}

impl Server {
    /// The server of `tests/agreement/`, and more configuration. Inside a runtime.
    pub fn new(more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agreement");
        let read = |name: &str| std::fs::read_to_string(source.join(name)).unwrap();
        // Not loaded as the daemon would: a configuration with a loop of aliases does not load.
        let text = format!("{}\n{more}", read("postern.toml"));
        let mut config: Config = toml::from_str(&text).unwrap_or_else(|error| panic!("{error}"));
        config.accounts = toml::from_str::<AccountsFile>(&read("accounts.toml")).unwrap().accounts;
        config.queue.path = directory.path().join("spool");
        std::fs::create_dir(&config.queue.path).unwrap();
        let config = Arc::new(config);
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(now()));
        let queue = open_queue(&config, clock.clone());
        let standing = Arc::new(standing(&config));
        // The same few clients ask again and again.
        let settings = Settings { max_per_client: u32::MAX, ..Settings::of(&config) };
        let records = Records::open(&directory.path().join("records"), settings, now).unwrap();
        let shared = Shared {
            policy: Arc::new(ArcSwap::from_pointee(Policy::over(&config, standing))),
            config: Arc::new(ArcSwap::new(config)),
            facts: Arc::new(NobodyToAsk),
            records: Arc::new(records),
            door: queue.clone().into(),
            tls: Arc::new(ArcSwapOption::empty()),
            metrics: Metrics::register(&Registry::new()).unwrap(),
            decisions: postern_policy::metrics::Metrics::register(&Registry::new()).unwrap(),
            clock,
        };
        Self { shared, queue, _directory: directory }
    }

    /// The same server, which counts the decisions of one session only.
    pub fn counted_anew(&self) -> (Arc<Shared>, Registry) {
        let registry = Registry::new();
        let decisions = postern_policy::metrics::Metrics::register(&registry).unwrap();
        let Shared { config, policy, facts, records, door, tls, metrics, clock, .. } = &self.shared;
        let shared = Shared {
            config: config.clone(),
            policy: policy.clone(),
            facts: facts.clone(),
            records: records.clone(),
            door: door.clone(),
            tls: tls.clone(),
            metrics: metrics.clone(),
            decisions,
            clock: clock.clone(),
        };
        (Arc::new(shared), registry)
    }
}

/// When everything here happens.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn open_queue(config: &Arc<Config>, clock: Arc<dyn Clock>) -> Queue {
    let surroundings = Arc::new(Nowhere { config: config.clone() });
    let metrics = postern_queue::metrics::Metrics::register(&Registry::new()).unwrap();
    let (queue, _) = Queue::open(&config.queue, surroundings, clock, metrics).unwrap();
    let reject = |filter: Filter, temporary: bool| NewRule {
        action: RuleAction::Reject,
        filter,
        reason: "a test of refusals".to_owned(),
        text: Some("refused for now".to_owned()),
        temporary,
        until: None,
    };
    let sender = Filter { sender: Some("*@blocked.test".to_owned()), ..Filter::default() };
    let recipient = Filter { rcpt: Some("dave@adatum.test".to_owned()), ..Filter::default() };
    queue.rules().add(reject(sender, false), 0).unwrap();
    queue.rules().add(reject(recipient, true), 0).unwrap();
    let header = |name: &str, pattern: &str| Filter {
        header: Some(HeaderPattern { name: name.to_owned(), pattern: pattern.to_owned() }),
        ..Filter::default()
    };
    queue.rules().add(reject(header("From", "bob@adatum"), false), 0).unwrap();
    queue.rules().add(reject(header("Reply-To", "carol@"), true), 0).unwrap();
    queue.rules().add(reject(header("Subject", "carol@"), true), 0).unwrap();
    let hold = NewRule { action: RuleAction::Hold, text: None, ..reject(header("Sender", "carol@"), false) };
    queue.rules().add(hold, 0).unwrap();
    queue
}

/// Temporary grants, host names, and what DNS said of the domains of senders.
fn standing(config: &Config) -> Standing {
    let standing = Standing::default();
    let domain = |name: &str| Domain::parse(name).unwrap();
    for (network, seconds) in [("203.0.113.7/32", 600), ("2001:db8:3::/64", 600), ("203.0.113.8/32", 0)] {
        let grant = TemporaryGrant {
            network: network.parse().unwrap(),
            until: (NOW + seconds) * 1000,
            why: "pop login".to_owned(),
        };
        standing.grants.give(grant, config.relay.temporary.max_grants, now()).unwrap();
    }
    let dynamic: IpAddr = "198.51.100.77".parse().unwrap();
    standing.hosts.learn(&domain("dynamic.proseware.test"), vec![dynamic], now());
    standing.hosts.learn(&domain("gone.proseware.test"), Vec::new(), now());
    standing.hosts.not_told(&domain("silent.proseware.test"), "SERVFAIL".to_owned(), now());
    for (network, by_hand) in [("203.0.113.9/32", false), ("198.51.100.39/32", true)] {
        let network = network.parse().unwrap();
        let why = "a test of bans".to_owned();
        standing.bans.add(Ban { network, since: NOW, until: NOW + 600, why, by_hand }, now());
    }
    let stolen = Suspension::by_server("stolen@proseware.test", NOW, "a burst of new recipients");
    standing.suspensions.suspend(stolen);
    let host = || "mx.asked.test".to_owned();
    for (recipient, said) in [
        ("carol@asked.test", Said::Exists { host: host() }),
        ("dave@asked.test", Said::Unknown { host: host(), reply: "550 5.1.1 no".to_owned() }),
        ("erin@asked.test", Said::Nothing("no answer in time".to_owned())),
    ] {
        let recipient = Address::parse(recipient).unwrap();
        standing.recipients.learn(&recipient, said, Duration::from_secs(600), 10, now());
    }
    for (client, is_good) in [
        ("192.0.3.0", false),
        ("192.0.2.9", false),
        ("198.51.100.47", false),
        ("198.51.100.48", true),
        ("2001:db8:4::9", false),
        ("127.0.0.1", false),
    ] {
        let listed = |zone: &str| {
            let answered = Answered::Addresses(vec!["127.0.0.2".parse().unwrap()]);
            let client = client.parse().unwrap();
            standing.blocklists.learn(&domain(zone), zone, client, answered, Duration::from_secs(600), now());
        };
        listed("zen.example.test");
        if is_good {
            listed("good.example.test");
        }
    }
    let senders = &standing.sender_domains;
    let logins = |names: &[&str]| OwnersLock::Logins(names.iter().map(|&name| name.to_owned()).collect());
    for (name, lock) in [
        ("proseware.test", Ok(OwnersLock::Open)),
        ("branch.test", Ok(logins(&["alice@proseware.test"]))),
        ("quiet.test", Ok(logins(&["somebody@else.test", "office@mail.proseware.test"]))),
        ("adatum.test", Ok(OwnersLock::Broken("two records".to_owned()))),
        ("covers.test", Ok(OwnersLock::Open)),
        ("thephone-company.test", Err("SERVFAIL".to_owned())),
    ] {
        senders.learn_lock(&domain(name), lock, now());
    }
    for (name, policy) in [
        ("covers.test", Ok(SenderPolicy::Covers)),
        ("adatum.test", Ok(SenderPolicy::DoesNot("fail for 192.0.2.25".to_owned()))),
        ("thephone-company.test", Err("SERVFAIL".to_owned())),
    ] {
        senders.learn_policy(&domain(name), policy, now());
    }
    let report = |state, outcome| DomainReport { state, outcome: Some(outcome), ..DomainReport::default() };
    senders.set_report(&domain("proseware.test"), report(State::Verified, Outcome::InOrder));
    senders.set_report(&domain("branch.test"), report(State::Failed, Outcome::Lacking));
    standing
}

/// What only the daemon knows: words and standing rules.
pub struct Extra<'a>(pub &'a Server);

impl Beyond for Extra<'_> {
    fn delivery(&self, _mail: &Mail<'_>, _recipient: &Address) -> Option<Delivery> {
        None
    }

    fn reply(&self, question: &Question<'_>, decision: &Decision) -> Option<String> {
        let refused = matches!(decision.verdict, Verdict::Reject | Verdict::Defer);
        refused.then(|| {
            let config = self.0.shared.config.load();
            replies::refused(&Refusing { question, decision, name: None, config: &config }).0.to_string()
        })
    }

    fn refused(&self, question: &Question<'_>, recipients: &[Recipient]) -> Option<Refused> {
        let policy = self.0.shared.policy.load();
        let trusted = policy.relay.trusted_network(question.client);
        let origin = match (question.login, trusted) {
            (Some(login), _) => Origin::Login(login.name.clone()),
            (None, Some(trusted)) => Origin::TrustedNetwork(trusted.label.clone()),
            (None, None) => policy.granted(question).map_or(Origin::Outsider, Origin::Granted),
        };
        let client = Some(question.client.to_canonical());
        self.0.queue.rules().would_refuse_recipient(question.reverse_path, &origin, client, recipients)
    }

    fn forecast(&self, envelope: &Envelope, header: Option<&[u8]>) -> Option<Forecast> {
        self.0.queue.rules().forecast(envelope, header)
    }
}

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
