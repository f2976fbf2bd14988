//! Is a client on a list in DNS (RFC 5782)?

use std::net::IpAddr;
use std::time::Duration;

use postern_policy::standing::blocklists::{Answered, SHORTEST, Trouble, query_name};
use postern_runtime::Clock;
use postern_runtime::dns::Answer;
use postern_smtp::Domain;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::settings::Settings;

/// Questions that are under way at once: whoever opens many sessions must not keep the resolver from what deliveries ask.
const AT_ONCE: usize = 64;

/// Addresses of one answer that the log shows: lists give a handful, broken ones thousands.
const MOST_LOGGED: usize = 8;

/// Asks lists.
#[derive(Debug)]
pub(super) struct Blocklists {
    room: Semaphore,
}

impl Default for Blocklists {
    fn default() -> Self {
        Self { room: Semaphore::new(AT_ONCE) }
    }
}

impl Blocklists {
    /// Asks the list in a zone about a client, and keeps the answer. Ends in `policy.dnsbl_timeout` at the latest; who has not
    /// answered by then lists nobody.
    pub(super) async fn ask(&self, zone: &Domain, client: IpAddr, settings: &Settings, clock: &dyn Clock) {
        let deadline = Instant::now() + settings.config.policy.dnsbl_timeout;
        let known = &settings.policy.standing.blocklists;
        // A reload may have taken the list out meanwhile.
        let Some(label) = settings.policy.relay.blocklists().label(zone) else { return };
        let Ok(_room) = timeout_at(deadline, self.room.acquire()).await else {
            return known.not_asked(zone, label, client, "too many questions are under way", clock.now());
        };
        let (answered, ttl) = match timeout_at(deadline, look_up(zone, client, settings)).await {
            Ok(answered) => answered,
            Err(_) => (Answered::Nothing("no answer in time".to_owned()), SHORTEST),
        };
        if let Answered::Addresses(answers) = &answered {
            let answers: Vec<String> = answers.iter().take(MOST_LOGGED).map(ToString::to_string).collect();
            tracing::info!(event = "dnsbl-answer", list = label, %client, answers = answers.join(" "));
        }
        match known.learn(zone, label, client, answered, ttl, clock.now()) {
            Some(trouble @ Trouble::Broken(_)) => {
                tracing::warn!(event = "dnsbl-broken", list = label, "the list {trouble}");
            }
            Some(trouble @ Trouble::Silent(_)) => {
                tracing::warn!(event = "dnsbl-silent", list = label, "the list {trouble}");
            }
            None => {}
        }
    }
}

async fn look_up(zone: &Domain, client: IpAddr, settings: &Settings) -> (Answered, Duration) {
    let name = match query_name(client, zone) {
        Ok(name) => name,
        Err(error) => return (Answered::Nothing(format!("the zone cannot be asked: {error}")), SHORTEST),
    };
    let (answer, ttl) = settings.dns.ipv4(&name).await;
    let answered = match answer {
        Answer::Records(addresses) => Answered::Addresses(addresses),
        Answer::NoRecords | Answer::NoSuchName => Answered::NotListed,
        Answer::TryLater(why) => Answered::Nothing(why),
    };
    (answered, ttl)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::time::{SystemTime, UNIX_EPOCH};

    use postern_policy::standing::blocklists::Said;
    use postern_runtime::ManualClock;
    use postern_runtime::dns::StaticDns;

    use super::*;
    use crate::testing::settings_with;

    const CONFIG: &str = r#"
        [[policy.dnsbl]]
        zone = "zen.example.test"
        label = "Zen"
        [[policy.dnsbl]]
        zone = "slow.example.test"
    "#;
    const NOW: SystemTime = UNIX_EPOCH;

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    fn client() -> IpAddr {
        "198.51.100.9".parse().unwrap()
    }

    async fn asked(zone: &str, dns: StaticDns) -> (Option<Said>, Settings) {
        let settings = settings_with(CONFIG, dns);
        Blocklists::default().ask(&domain(zone), client(), &settings, &ManualClock::new(NOW)).await;
        let said = settings.policy.standing.blocklists.find(&domain(zone), client(), NOW);
        (said, settings)
    }

    #[tokio::test]
    async fn the_answer_of_a_list_is_kept_under_its_zone() {
        let name = domain("9.100.51.198.zen.example.test");
        let listed = StaticDns::new().address_record(name.clone(), "127.0.0.2".parse().unwrap());
        let (said, settings) = asked("zen.example.test", listed).await;
        assert_eq!(said, Some(Said::Listed(vec!["127.0.0.2".parse().unwrap()])));
        let health = settings.policy.standing.blocklists.health(&domain("zen.example.test")).unwrap();
        assert_eq!((health.label.as_str(), health.counts.listed), ("Zen", 1));
        assert_eq!(asked("zen.example.test", StaticDns::new()).await.0, Some(Said::NotListed));
        let failing = StaticDns::new().failing(name);
        let nothing = Said::Nothing("server failure".to_owned());
        assert_eq!(asked("zen.example.test", failing).await.0, Some(nothing));
    }

    #[tokio::test]
    async fn a_list_that_is_not_configured_any_more_is_not_asked() {
        assert_eq!(asked("former.example.test", StaticDns::new()).await.0, None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_room_in_time_counts_as_not_listed() {
        let settings = settings_with(CONFIG, StaticDns::new());
        let lists = Blocklists { room: Semaphore::new(0) };
        lists.ask(&domain("slow.example.test"), client(), &settings, &ManualClock::new(NOW)).await;
        let said = settings.policy.standing.blocklists.find(&domain("slow.example.test"), client(), NOW);
        assert!(matches!(said, Some(Said::Nothing(why)) if why.contains("under way")));
        assert_eq!(settings.policy.standing.blocklists.all()[0].trouble, None);
    }
}
