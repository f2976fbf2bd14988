//! Where the host names are that may relay. They are looked up again and again: such hosts have addresses that change.

use std::sync::Arc;

use arc_swap::ArcSwap;
use postern_runtime::Clock;
use postern_runtime::clock::Pending;
use postern_runtime::dns::Answer;
use postern_smtp::Domain;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::route::join_all;
use crate::settings::Settings;

/// Names that are looked up at once.
const AT_ONCE: usize = 20;

/// Looks all of them up, again and again, until `stop`: every `relay.host_refresh`, and when `changed` says that there is
/// another configuration. The resolver asks again only when what it knows is too old.
pub async fn refresh(
    settings: Arc<ArcSwap<Settings>>,
    clock: Arc<dyn Clock>,
    changed: Arc<Notify>,
    stop: CancellationToken,
) {
    loop {
        let now = settings.load_full();
        if stop.run_until_cancelled(look_up_all(&now, &*clock)).await.is_none() {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed.notified() => {}
            () = tokio::time::sleep(now.config.relay.host_refresh) => {}
        }
    }
}

async fn look_up_all(settings: &Settings, clock: &dyn Clock) {
    let names = settings.policy.relay.hosts();
    settings.policy.standing.hosts.keep(|name| names.contains(name));
    for some in names.chunks(AT_ONCE) {
        let asking = some.iter().map(|name| Box::pin(look_up(name, settings, clock)) as Pending<'_, ()>);
        join_all(asking.collect()).await;
    }
}

/// Looks one up, and tells the log where something has changed.
pub(super) async fn look_up(name: &Domain, settings: &Settings, clock: &dyn Clock) {
    let hosts = &settings.policy.standing.hosts;
    let limit = settings.config.outbound.timeouts.dns;
    let answer = tokio::time::timeout(limit, settings.dns.addresses(name)).await;
    let addresses = match answer.unwrap_or_else(|_| Answer::TryLater("no answer in time".to_owned())) {
        Answer::Records(addresses) => addresses,
        Answer::NoRecords | Answer::NoSuchName => Vec::new(),
        Answer::TryLater(problem) => {
            if hosts.not_told(name, problem.clone(), clock.now()) {
                tracing::warn!(event = "relay-host-unknown", host = %name, problem, "DNS does not say where it is");
            }
            return;
        }
    };
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let is_nowhere = addresses.is_empty();
    if !hosts.learn(name, addresses, clock.now()) {
        return;
    }
    match is_nowhere {
        true => tracing::warn!(event = "relay-host", host = %name, "has no address: nobody may relay as it"),
        false => tracing::info!(event = "relay-host", host = %name, addresses = shown.join(" "), "may relay"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::net::IpAddr;
    use std::time::{Duration, SystemTime};

    use postern_runtime::ManualClock;
    use postern_runtime::dns::StaticDns;

    use super::*;
    use crate::testing::settings_with;

    const CONFIG: &str = r#"
        [relay]
        host_refresh = "1h"
        hosts = [{ name = "a.proseware.test", label = "a" }, { name = "b.proseware.test", label = "b" }]
    "#;

    fn name(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn every_name_is_looked_up_and_those_that_are_gone_forgotten() {
        let address: IpAddr = "203.0.113.7".parse().unwrap();
        let dns = StaticDns::new()
            .address_record(name("a.proseware.test"), address)
            .failing(name("b.proseware.test"));
        let settings = Arc::new(settings_with(CONFIG, dns));
        let standing = settings.policy.standing.clone();
        standing.hosts.learn(&name("former.proseware.test"), vec![address], SystemTime::UNIX_EPOCH);
        let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(7)));
        look_up_all(&settings, &*clock).await;
        let now = clock.now();
        assert!(standing.hosts.has(&name("a.proseware.test"), address, now));
        assert_eq!(standing.hosts.known(&name("a.proseware.test")).unwrap().at, Some(now));
        assert!(standing.hosts.known(&name("b.proseware.test")).unwrap().problem.is_some());
        assert_eq!(standing.hosts.known(&name("former.proseware.test")), None);
    }

    #[tokio::test(start_paused = true)]
    async fn another_configuration_is_looked_at_without_waiting() {
        let address: IpAddr = "203.0.113.7".parse().unwrap();
        let dns = StaticDns::new().address_record(name("a.proseware.test"), address);
        let settings = Arc::new(ArcSwap::from_pointee(settings_with(CONFIG, StaticDns::new())));
        let (changed, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH));
        let task = tokio::spawn(refresh(settings.clone(), clock, changed.clone(), stop.clone()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let next = settings_with(CONFIG, dns);
        let standing = next.policy.standing.clone();
        settings.store(Arc::new(next));
        changed.notify_one();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(standing.hosts.has(&name("a.proseware.test"), address, SystemTime::UNIX_EPOCH));
        stop.cancel();
        task.await.unwrap();
    }
}
