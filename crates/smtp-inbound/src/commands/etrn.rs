//! ETRN (RFC 1985): a server that was away asks for the mail that waits for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postern_config::Config;
use postern_config::route::{Route, Via};
use postern_policy::Policy;
use postern_queue::{Queue, Turned};
use postern_smtp::command::Node;
use postern_smtp::{Address, Domain, LocalPart, Reply, ReversePath};

use crate::replies;
use crate::session::Context;

/// For how long the client waits for the figure; the mail is on its way all the same. Servers wait five minutes for replies
/// (RFC 5321 §4.5.3.2.7).
const PATIENCE: Duration = Duration::from_secs(10);
/// Domains whose last run is remembered. Only domains that the server relays for come here, but a route may be for all names
/// below one.
const MAX_REMEMBERED: usize = 10_000;

/// A run of the queue that a client asks for.
#[derive(Debug)]
pub struct Run {
    /// Whose mail.
    node: Node,
    queue: Queue,
    relayed: Relayed,
}

/// Which domains mail is relayed to.
#[derive(Debug)]
struct Relayed {
    policy: Arc<Policy>,
    config: Arc<Config>,
}

/// What came of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done(Turned),
    /// It goes on.
    GoesOn,
    /// The last one of these domains was not long enough ago.
    TooSoon,
    /// The queue did not do it.
    Failed,
}

/// When what was last run. A run looks through the whole queue and ends what keeps failing destinations from being tried, so
/// no client has it done as often as it likes.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    /// By what was asked for; the time is [`postern_runtime::Clock::running`].
    last: Mutex<HashMap<String, Duration>>,
}

impl Runs {
    /// Whether a run may begin now; then it has.
    pub fn begin(&self, node: &Node, now: Duration, interval: Duration) -> bool {
        let mut last = self.last.lock();
        last.retain(|_, then| now.saturating_sub(*then) < interval);
        if last.len() >= MAX_REMEMBERED || last.contains_key(&node.to_string()) {
            return false;
        }
        last.insert(node.to_string(), now);
        true
    }
}

/// What is to be run, if this client may have it.
pub(crate) fn begin(context: &Context, node: Node) -> Result<Run, Reply> {
    let relayed = Relayed { policy: context.policy.clone(), config: context.config.clone() };
    let asked = match &node {
        Node::Domain(domain) => relayed.has(domain),
        // Which of them are relayed for is known when it is known what waits.
        Node::Within(domain) => relayed.has_some_within(domain),
    };
    if !asked {
        return Err(replies::node_not_relayed(&node));
    }
    match context.shared.door.now() {
        Some(queue) => Ok(Run { node, queue, relayed }),
        None => Err(replies::node_not_now(&node)),
    }
}

impl Run {
    /// Whose mail is asked for.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Runs the queue.
    pub async fn run(self) -> Outcome {
        let Self { node, queue, relayed } = self;
        // It goes on where the client does not wait for it.
        let run = tokio::spawn(async move {
            let domains = match &node {
                Node::Domain(domain) => vec![domain.clone()],
                Node::Within(_) => {
                    let all = queue.clone();
                    let mut domains =
                        tokio::task::spawn_blocking(move || all.waiting_domains()).await.unwrap_or_default();
                    domains.retain(|domain| node.names(domain) && relayed.has(domain));
                    domains
                }
            };
            queue.turn(domains).await
        });
        match tokio::time::timeout(PATIENCE, run).await {
            Ok(Ok(Ok(turned))) => Outcome::Done(turned),
            Ok(_) => Outcome::Failed,
            Err(_) => Outcome::GoesOn,
        }
    }
}

impl Relayed {
    /// Whether the server passes mail for the domain on: it is a relay domain, or a route of its own leads to its server.
    fn has(&self, domain: &Domain) -> bool {
        if self.policy.relay.is_relay_domain(domain) {
            return true;
        }
        let Ok(local) = LocalPart::parse("postmaster") else { return false };
        let anybody = Address::new(local, domain.clone());
        let first = self.config.routes.iter().find(|route| route.matches(&ReversePath::Null, &anybody));
        first.is_some_and(leads_to_a_server) && !self.policy.directory.is_local(domain)
    }

    /// Whether there may be such domains at or below this one.
    fn has_some_within(&self, domain: &Domain) -> bool {
        let relay = self.config.relay.relay_domains.iter().map(|relay| relay.name.clone());
        let routes = self.config.routes.iter().filter(|route| leads_to_a_server(route));
        let named = routes.filter_map(|route| Domain::parse(route.domain.trim_start_matches('.')).ok());
        relay.chain(named).any(|name| name.is_within(domain)) || self.has(domain)
    }
}

/// Whether the route is for domains of its own, whose servers come for their mail.
fn leads_to_a_server(route: &Route) -> bool {
    route.domain != "*" && matches!(route.via, Via::Mx | Via::Smarthost | Via::Lmtp)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn node(name: &str) -> Node {
        Node::Domain(Domain::parse(name).unwrap())
    }

    #[test]
    fn a_domain_is_run_again_only_after_the_interval() {
        let (runs, minute) = (Runs::default(), Duration::from_secs(60));
        let at = |seconds| Duration::from_secs(seconds);
        assert!(runs.begin(&node("customer.test"), at(0), minute));
        assert!(!runs.begin(&node("customer.test"), at(59), minute));
        assert!(runs.begin(&node("other.test"), at(59), minute));
        assert!(runs.begin(&Node::Within(Domain::parse("customer.test").unwrap()), at(59), minute));
        assert!(runs.begin(&node("customer.test"), at(60), minute));
        assert!(!runs.begin(&node("customer.test"), at(61), minute));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let runs = Runs::default();
        let hour = Duration::from_secs(3600);
        for n in 0..MAX_REMEMBERED {
            assert!(runs.begin(&node(&format!("n{n}.customer.test")), hour, hour));
        }
        assert!(!runs.begin(&node("one-more.customer.test"), hour, hour));
        assert!(runs.begin(&node("one-more.customer.test"), 2 * hour, hour));
        assert_eq!(runs.last.lock().len(), 1);
    }
}
