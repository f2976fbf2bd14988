//! The answers to what the queue asks: destinations, reports, schedule.

use std::sync::Arc;

use arc_swap::ArcSwap;
use postern_config as config;
use postern_policy::directory::Resolution;
use postern_queue::{Destination, Surroundings};
use postern_smtp::{Address, Domain, ForwardPath, ReversePath};

use crate::settings::Settings;

/// Answers from the settings in force.
#[derive(Debug, Clone)]
pub struct QueueSurroundings {
    settings: Arc<ArcSwap<Settings>>,
}

impl QueueSurroundings {
    /// The same settings that [`crate::Outbound`] works with.
    pub fn new(settings: Arc<ArcSwap<Settings>>) -> Self {
        Self { settings }
    }
}

impl Surroundings for QueueSurroundings {
    fn destination(&self, sender: &ReversePath, recipient: &Address, via: Option<&str>) -> Destination {
        self.settings.load().router.destination(sender, recipient, via)
    }

    fn checked_route(&self, via: &str) -> Result<String, String> {
        self.settings
            .load()
            .router
            .by_hand(via)
            .map(|route| route.to_string())
            .map_err(|error| error.to_string())
    }

    fn is_local(&self, recipient: &Address) -> bool {
        let settings = self.settings.load();
        recipient.domain().is_some_and(|domain| settings.policy.directory.is_local(domain))
    }

    fn final_recipients(&self, address: &Address) -> Vec<Address> {
        let path = ForwardPath::Address(address.clone());
        match self.settings.load().policy.directory.resolve(&path, None) {
            Resolution::NotLocal => vec![address.clone()],
            Resolution::Recipients(recipients) => recipients,
            Resolution::Unknown | Resolution::AliasLoop => Vec::new(),
        }
    }

    fn hostname(&self) -> Domain {
        self.settings.load().config.hostname.clone()
    }

    fn schedule(&self) -> Arc<config::Queue> {
        self.settings.load().schedule.clone()
    }

    fn sending(&self) -> Arc<config::Outbound> {
        self.settings.load().sending.clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::testing::settings;

    const LOCAL: &str = r#"
        [[domain]]
        name = "proseware.test"
        mailboxes = ["alice"]
        aliases = { info = ["alice", "partner@adatum.test"] }
    "#;

    #[test]
    fn reports_go_to_whoever_is_behind_the_sender_now() {
        let surroundings = QueueSurroundings::new(Arc::new(ArcSwap::from_pointee(settings(LOCAL))));
        let report_to = |address: &str| -> Vec<String> {
            let list = surroundings.final_recipients(&Address::parse(address).unwrap());
            list.iter().map(Address::to_string).collect()
        };
        assert_eq!(report_to("bob@adatum.test"), ["bob@adatum.test"]);
        assert_eq!(report_to("info@proseware.test"), ["alice@proseware.test", "partner@adatum.test"]);
        assert!(report_to("gone@proseware.test").is_empty());
    }

    #[test]
    fn a_reload_changes_the_answers() {
        let shared = Arc::new(ArcSwap::from_pointee(settings("")));
        let surroundings = QueueSurroundings::new(shared.clone());
        let alice = Address::parse("alice@proseware.test").unwrap();
        assert_eq!(
            surroundings.destination(&ReversePath::Null, &alice, None).to_string(),
            "mx proseware.test"
        );
        shared.store(Arc::new(settings(LOCAL)));
        assert_eq!(surroundings.destination(&ReversePath::Null, &alice, None).to_string(), "local");
        assert!(surroundings.is_local(&alice));
    }
}
