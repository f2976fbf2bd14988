//! The checks of `posternctl doctor` that ask DNS, and the one that asks the rules. They change nothing.
//!
//! | check | module |
//! |---|---|
//! | does our host name lead to us, and do our addresses lead back? | `names` |
//! | are the records of our domains in order? | `records`, on top of [`crate::domains`] |
//! | are our addresses on lists? | `blocklists` |
//! | who may send as whom? | `postern_policy::checkup::senders` |
//! | what do others report of our mail? | [`reports`], which reads files instead |

mod blocklists;
mod names;
mod records;
pub mod reports;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use postern_config::Config;
use postern_policy::Policy;
use postern_policy::checkup::reports::{Problem, Reports};
use postern_policy::checkup::{Check, Finding, senders};
use postern_runtime::Dns;

use crate::facts::own_addresses;
use crate::settings::Settings;

use reports::{Reach, read_all};

/// One check. Whoever asks waits for two minutes at most.
const LIMIT: Duration = Duration::from_secs(90);

/// A configuration, and whom to ask about it.
#[derive(Debug, Clone)]
pub struct Checkup {
    config: Arc<Config>,
    policy: Arc<Policy>,
    dns: Arc<dyn Dns>,
}

impl Checkup {
    /// Of what is in force.
    pub fn of(settings: &Settings) -> Self {
        Self { config: settings.config.clone(), policy: settings.policy.clone(), dns: settings.dns.clone() }
    }

    /// Of a configuration that no daemon has in force.
    pub fn new(config: Arc<Config>, dns: Arc<dyn Dns>) -> Self {
        Self { policy: Arc::new(Policy::new(&config)), config, dns }
    }

    /// Makes a check. Bounded in time: what DNS did not say until then is a finding of its own.
    pub async fn run(&self, check: Check, now: SystemTime) -> Vec<Finding> {
        let work = async {
            match check {
                Check::Names => names::of_host(&self.config, &*self.dns).await,
                Check::Senders => senders(&self.config, &self.policy, now),
                Check::Dns => self.dns().await,
                Check::Blocklists => self.blocklists().await,
            }
        };
        tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_| {
            let text = format!("DNS did not answer all questions within {} s", LIMIT.as_secs());
            vec![Finding::trouble("resolver", text).mend(RESOLVER)]
        })
    }

    async fn dns(&self) -> Vec<Finding> {
        let mut found = records::of_domains(&self.config, &self.dns).await;
        match self.addresses().await {
            Ok(addresses) => {
                for address in addresses {
                    found.extend(names::of_address(address, &self.config.hostname, &*self.dns).await);
                }
            }
            Err(finding) => found.push(finding),
        }
        found
    }

    async fn blocklists(&self) -> Vec<Finding> {
        match self.addresses().await {
            Ok(addresses) => {
                let lists = self.config.outbound.blocklists.iter().map(|list| list.0.clone()).collect();
                blocklists::look_up(lists, &addresses, &self.dns).await
            }
            Err(finding) => vec![finding],
        }
    }

    /// What others report of our mail, in these places, or in those of `[reputation]`. Changes nothing.
    pub async fn reports(&self, places: Option<Vec<PathBuf>>, now: SystemTime) -> Reports {
        let reputation = &self.config.reputation;
        let places = places.unwrap_or_else(|| reputation.reports.clone());
        if places.is_empty() {
            return Reports::default();
        }
        let reach = Reach { max_age: reputation.max_age, max_files: reputation.max_reports };
        // Without them everything counts as foreign: whoever draws conclusions sees that there are none.
        let own = match tokio::time::timeout(LIMIT, self.addresses()).await {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(_)) | Err(_) => Vec::new(),
        };
        let read = move || read_all(&places, reach, &own, now);
        tokio::task::spawn_blocking(read).await.unwrap_or_else(|_| {
            let problem = Problem { path: "reputation.reports".to_owned(), why: "reading failed".to_owned() };
            Reports { problems: vec![problem], ..Reports::default() }
        })
    }

    /// Those that the world sees our mail come from.
    async fn addresses(&self) -> Result<Vec<IpAddr>, Finding> {
        own_addresses(&self.config, &*self.dns).await.map_err(|why| {
            let place = "outbound addresses";
            Finding::trouble(place, format!("by which addresses the world knows us is not known: {why}"))
                .mend("set policy.public_addresses to the addresses that other servers see")
        })
    }
}

const RESOLVER: &str = "see [resolver]: are its name servers reachable from here?";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_runtime::dns::StaticDns;

    use super::*;
    use crate::testing::Silent;

    fn checkup(keys: &str, dns: StaticDns) -> Checkup {
        let config = toml::from_str(&format!("hostname = \"mail.proseware.test\"\n{keys}")).unwrap();
        Checkup::new(Arc::new(config), Arc::new(dns))
    }

    #[tokio::test]
    async fn addresses_that_nobody_knows_are_a_finding_with_the_setting_that_tells_them() {
        for check in [Check::Dns, Check::Blocklists] {
            let found = checkup("", StaticDns::new()).run(check, SystemTime::UNIX_EPOCH).await;
            let [only] = &found[..] else { panic!("{found:?}") };
            assert!(
                only.is_concern() && only.remedy.as_ref().unwrap().contains("public_addresses"),
                "{only:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn name_servers_that_say_nothing_end_a_check_in_time() {
        let checkup = Checkup { dns: Arc::new(Silent), ..checkup("", StaticDns::new()) };
        for check in [Check::Names, Check::Dns, Check::Blocklists] {
            let found = checkup.run(check, SystemTime::UNIX_EPOCH).await;
            let [only] = &found[..] else { panic!("{found:?}") };
            assert!(only.is_concern() && only.text.contains("within 90 s"), "{only:?}");
        }
    }

    #[tokio::test]
    async fn every_check_can_be_made() {
        let keys = "policy.public_addresses = [\"192.0.2.25\"]\noutbound.blocklists = []";
        for check in Check::ALL {
            let found = checkup(keys, StaticDns::new()).run(check, SystemTime::UNIX_EPOCH).await;
            let concerns = found.iter().filter(|finding| finding.is_concern()).count();
            // Nobody has a login, and nobody can have one.
            let is_well = matches!(check, Check::Senders | Check::Blocklists);
            assert_eq!(concerns == 0, is_well, "{check:?}: {found:?}");
        }
    }
}
