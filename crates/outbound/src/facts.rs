//! Facts that decisions need and that only others know: asked for in DNS and at other servers, and put where decisions look.
//!
//! | fact | module |
//! |---|---|
//! | does the server of a relay domain take mail for a recipient? | `call_forward` |
//! | where is a host that may relay? | [`host_names`] |
//! | does the SPF record of a domain cover this server? | `spf` |
//! | by which addresses does the world know us? | `own_addresses` |
//! | is a client on lists in DNS? | `blocklists` |
//! | whom does the owner of a domain let send for it? | here; the record is read in `postern_policy::owners_lock` |

mod blocklists;
mod call_forward;
pub mod host_names;
mod own_addresses;
pub(crate) mod spf;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use postern_policy::facts::{Finder, Wanted};
use postern_policy::owners_lock::OwnersLock;
use postern_policy::sender_domains::SenderPolicy;
use postern_runtime::Clock;
use postern_runtime::dns::Answer;
use postern_smtp::Domain;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::settings::Settings;

use blocklists::Blocklists;
use call_forward::CallForward;

pub(crate) use own_addresses::{configured_addresses, own_addresses};

/// Facts that are looked for at once. A resolver has many questions in flight over one socket; those of senders must leave
/// room for those of deliveries.
const AT_ONCE: usize = 16;

/// Finds facts. One for the whole life of the daemon; cheap to clone.
#[derive(Clone)]
pub struct Facts {
    settings: Arc<ArcSwap<Settings>>,
    clock: Arc<dyn Clock>,
    room: Arc<Semaphore>,
    call_forward: Arc<CallForward>,
    blocklists: Arc<Blocklists>,
}

impl fmt::Debug for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Facts").finish_non_exhaustive()
    }
}

impl Facts {
    /// Asks the name servers of the settings in force, and notes what it finds in their policy's
    /// [`postern_policy::standing::Standing`].
    pub fn new(settings: Arc<ArcSwap<Settings>>, clock: Arc<dyn Clock>) -> Self {
        let room = Arc::new(Semaphore::new(AT_ONCE));
        Self { settings, clock, room, call_forward: Arc::default(), blocklists: Arc::default() }
    }

    /// Finds one fact within the time that DNS, or the other server, may take. What came meanwhile is not asked for again.
    async fn find_one(self, wanted: Wanted) {
        let settings = self.settings.load_full();
        let limit = settings.config.outbound.timeouts.dns;
        let domains = &settings.policy.standing.sender_domains;
        let refresh = settings.policy.senders.refresh;
        // Strangers must not take the room of those who log in.
        if let Wanted::Blocklist { zone, client } = &wanted {
            return self.blocklists.ask(zone, *client, &settings, &*self.clock).await;
        }
        // The semaphore is never closed.
        let _room = self.room.acquire().await;
        match &wanted {
            Wanted::OwnersLock(domain) if !domains.is_lock_fresh(domain, self.clock.now(), refresh) => {
                let lock = in_time(limit, lock(&settings, domain)).await;
                domains.learn_lock(domain, lock, self.clock.now());
            }
            Wanted::SenderPolicy(domain) if !domains.is_policy_fresh(domain, self.clock.now(), refresh) => {
                let found = in_time(limit, sender_policy(&settings, domain)).await;
                domains.learn_policy(domain, found, self.clock.now());
            }
            Wanted::Recipient(recipient) => self.call_forward.ask(recipient, &settings, &*self.clock).await,
            Wanted::HostName(name) => host_names::look_up(name, &settings, &*self.clock).await,
            Wanted::OwnersLock(_) | Wanted::SenderPolicy(_) | Wanted::Blocklist { .. } => {}
        }
    }
}

impl Finder for Facts {
    fn find(&self, wanted: Vec<Wanted>) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let mut looking: JoinSet<()> = JoinSet::new();
            for wanted in wanted {
                looking.spawn(self.clone().find_one(wanted));
            }
            // One that panicked has found nothing, and the decision says so.
            while looking.join_next().await.is_some() {}
        })
    }
}

async fn in_time<T>(limit: Duration, answer: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let late = || Err(format!("no answer within {} s", limit.as_secs_f64()));
    tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| late())
}

async fn lock(settings: &Settings, domain: &Domain) -> Result<OwnersLock, String> {
    // Too long a domain has no room for a record below it, and so no lock.
    let Some(name) = OwnersLock::name_for(domain) else { return Ok(OwnersLock::Open) };
    match settings.dns.txt(&name).await {
        Answer::Records(records) => Ok(OwnersLock::read(&records)),
        Answer::NoRecords | Answer::NoSuchName => Ok(OwnersLock::Open),
        Answer::TryLater(why) => Err(why),
    }
}

/// Every address that our mail may come from must be covered: which one is taken depends on where the mail goes.
async fn sender_policy(settings: &Settings, domain: &Domain) -> Result<SenderPolicy, String> {
    let hostname = &settings.config.hostname;
    let addresses = own_addresses(&settings.config, &*settings.dns).await?;
    for ip in &addresses {
        match spf::check_host(&*settings.dns, *ip, domain, hostname).await {
            spf::Verdict::Pass => {}
            spf::Verdict::TempError(why) => return Err(why),
            other => return Ok(SenderPolicy::DoesNot(format!("{other} (for {ip})"))),
        }
    }
    Ok(SenderPolicy::Covers)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::time::{SystemTime, UNIX_EPOCH};

    use postern_policy::sender_domains::Known;
    use postern_runtime::ManualClock;
    use postern_runtime::dns::StaticDns;

    use super::*;
    use crate::testing::settings_with;

    fn domain(text: &str) -> Domain {
        Domain::parse_tolerant(text).unwrap()
    }

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    fn facts(config: &str, dns: StaticDns) -> Facts {
        let clock = Arc::new(ManualClock::new(now()));
        Facts::new(Arc::new(ArcSwap::from_pointee(settings_with(config, dns))), clock)
    }

    async fn policy(facts: &Facts, name: &str) -> Known<SenderPolicy> {
        facts.find(vec![Wanted::SenderPolicy(domain(name))]).await;
        let policy = facts.settings.load().policy.clone();
        policy.standing.sender_domains.policy(&domain(name), now(), Duration::ZERO)
    }

    #[tokio::test]
    async fn every_address_of_ours_must_be_covered() {
        let dns = StaticDns::new()
            .txt_record(domain("both.test"), "v=spf1 ip4:192.0.2.0/24 -all")
            .txt_record(domain("one.test"), "v=spf1 ip4:192.0.2.25 ~all");
        let facts = facts("policy.public_addresses = [\"192.0.2.25\", \"192.0.2.26\"]", dns);
        assert_eq!(policy(&facts, "both.test").await, Known::Answer(Arc::new(SenderPolicy::Covers)));
        let one = SenderPolicy::DoesNot("softfail (for 192.0.2.26)".to_owned());
        assert_eq!(policy(&facts, "one.test").await, Known::Answer(Arc::new(one)));
        let none = SenderPolicy::DoesNot("none: there is no SPF record (for 192.0.2.25)".to_owned());
        assert_eq!(policy(&facts, "none.test").await, Known::Answer(Arc::new(none)));
    }

    #[tokio::test]
    async fn an_address_that_dns_does_not_tell_covers_nothing() {
        let dns = StaticDns::new()
            .failing(domain("mail.proseware.test"))
            .failing(domain("broken.test"))
            .txt_record(domain("all.test"), "v=spf1 +all");
        let unknown = facts("", dns.clone());
        assert!(matches!(policy(&unknown, "all.test").await, Known::Trouble(_)));
        let known = facts("outbound.source_addresses = [\"203.0.113.25\"]", dns);
        assert_eq!(policy(&known, "all.test").await, Known::Answer(Arc::new(SenderPolicy::Covers)));
        assert!(matches!(policy(&known, "broken.test").await, Known::Trouble(_)));
    }

    #[tokio::test]
    async fn the_owners_lock_is_read_from_below_the_domain() {
        let dns = StaticDns::new()
            .txt_record(domain("_postern.adatum.test"), "v=postern1; logins=alice@proseware.test")
            .failing(domain("_postern.broken.test"));
        let facts = facts("", dns);
        let names = ["adatum.test", "broken.test", "free.test"].map(domain);
        facts.find(names.iter().cloned().map(Wanted::OwnersLock).collect()).await;
        let policy = facts.settings.load().policy.clone();
        let lock = |name| policy.standing.sender_domains.lock(name, now(), Duration::ZERO);
        assert!(matches!(lock(&names[0]), Known::Answer(lock) if matches!(*lock, OwnersLock::Logins(_))));
        assert_eq!(lock(&names[1]), Known::Trouble("server failure".to_owned()));
        assert_eq!(lock(&names[2]), Known::Answer(Arc::new(OwnersLock::Open)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_domain_too_long_for_a_lock_has_none() {
        let long = domain(
            &["a".repeat(60), "b".repeat(60), "c".repeat(60), "d".repeat(60), "test".into()].join("."),
        );
        let facts = facts("", StaticDns::new());
        facts.find(vec![Wanted::OwnersLock(long.clone())]).await;
        let policy = facts.settings.load().policy.clone();
        let lock = policy.standing.sender_domains.lock(&long, now(), Duration::ZERO);
        assert_eq!(lock, Known::Answer(Arc::new(OwnersLock::Open)));
    }
}
