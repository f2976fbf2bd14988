//! Looks after the reports of domains: when they are due, when an operator asks, and on disk.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use postern_config::RequireVerified;
use postern_config::domain::Domain as LocalDomain;
use postern_policy::verification::{Cause, DomainReport, LookUp, State, Weight};
use postern_runtime::Clock;
use postern_smtp::Domain;
use tokio::sync::{Mutex, Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::file::ReportFile;
use super::{keys, look_up};
use crate::metrics::Metrics;
use crate::settings::Settings;

/// Domains that are looked up at once. Nobody waits for the timer, and resolvers have mail to care for.
const AT_ONCE: usize = 4;

/// Looks domains up and keeps what it finds. One for the whole life of the daemon.
pub struct Keeper {
    settings: Arc<ArcSwap<Settings>>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    file: ReportFile,
    /// One writer of reports at a time.
    turn: Mutex<()>,
    wake: Notify,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Keeper {
    /// Takes up the reports of the last run. Blocking: reads a file.
    pub fn open(settings: Arc<ArcSwap<Settings>>, clock: Arc<dyn Clock>, metrics: Metrics) -> Self {
        let file = ReportFile::new(&settings.load().config.queue.path);
        let known = &settings.load().policy.standing.sender_domains;
        for (domain, report) in file.read() {
            known.set_report(&domain, report);
        }
        let keeper = Self { settings, clock, metrics, file, turn: Mutex::default(), wake: Notify::new() };
        keeper.tidy();
        keeper
    }

    /// A new configuration is in force: new domains are looked up at once.
    pub fn reloaded(&self) {
        self.tidy();
        self.wake.notify_one();
    }

    /// Looks domains up as they become due, where that is asked for, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let next = stop.run_until_cancelled(self.look_up_due()).await.flatten();
            let due = async {
                match next {
                    Some(next) => self.clock.until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wake.notified() => {}
                () = due => {}
            }
        }
    }

    /// Looks up what is due now; tells when the next one is.
    async fn look_up_due(&self) -> Option<SystemTime> {
        let settings = self.settings.load_full();
        let config = &settings.config;
        if config.policy.require_verified == RequireVerified::Off {
            return None;
        }
        let now = self.clock.now();
        let due = |domain: &LocalDomain| {
            settings.policy.standing.sender_domains.report(&domain.name).due(&config.policy)
        };
        let now_due: Vec<Domain> = config
            .domains
            .iter()
            .filter(|domain| due(domain) <= now)
            .map(|domain| domain.name.clone())
            .collect();
        if !now_due.is_empty() {
            self.look_up(&now_due, Cause::Timer).await;
        }
        // One that is due still could not be looked up: not again at once.
        let pause = |due: SystemTime| if due > now { due } else { now + config.policy.verify_pending_every };
        config.domains.iter().map(|domain| pause(due(domain))).min()
    }

    /// Looks these domains up now, because an operator asks. Those that are no `[[domain]]` are left out.
    pub async fn verify(&self, domains: &[Domain]) {
        self.look_up(domains, Cause::Operator).await;
        // What is due next may have changed.
        self.wake.notify_one();
    }

    async fn look_up(&self, domains: &[Domain], cause: Cause) {
        let settings = self.settings.load_full();
        let room = Arc::new(Semaphore::new(AT_ONCE));
        let mut looking = JoinSet::new();
        let configured: HashMap<&Domain, usize> =
            settings.config.domains.iter().enumerate().map(|(at, domain)| (&domain.name, at)).collect();
        for at in domains.iter().filter_map(|domain| configured.get(domain).copied()) {
            let (settings, room) = (settings.clone(), room.clone());
            looking.spawn(async move {
                // The semaphore is never closed.
                let _room = room.acquire().await;
                (settings.config.domains[at].name.clone(), looked_up(&settings, at).await)
            });
        }
        while let Some(done) = looking.join_next().await {
            // One that panicked has found nothing: it stays what it was, and due.
            if let Ok((domain, found)) = done {
                self.note(&domain, found, cause).await;
            }
        }
        self.save().await;
        self.count();
    }

    /// Notes what a look-up found, and says so where it changes anything.
    async fn note(&self, domain: &Domain, found: LookUp, cause: Cause) {
        let _turn = self.turn.lock().await;
        let settings = self.settings.load();
        let known = &settings.policy.standing.sender_domains;
        let before = known.report(domain);
        let report = before.after(found, cause, settings.config.policy.verify_failures, self.clock.now());
        if report.state != before.state {
            let (from, to, missing) = (before.state.as_str(), report.state.as_str(), report.missing());
            match report.state {
                State::Verified => {
                    tracing::info!(event = "domain-state", %domain, from, to, "its DNS is in order")
                }
                _ => {
                    tracing::warn!(event = "domain-state", %domain, from, to, missing, "its DNS is not in order")
                }
            }
        }
        known.set_report(domain, report);
    }

    /// Writes all reports. What cannot be written is looked up again after a restart.
    async fn save(&self) {
        let _turn = self.turn.lock().await;
        let (file, reports) = (self.file.clone(), self.reports());
        let written = tokio::task::spawn_blocking(move || file.write(reports)).await;
        let result = written.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
        if let Err(error) = result {
            tracing::error!(event = "domain-reports-not-written", %error, "the reports of domains are in memory only");
        }
    }

    fn reports(&self) -> Vec<(Domain, DomainReport)> {
        let settings = self.settings.load();
        let known = &settings.policy.standing.sender_domains;
        let domains = settings.config.domains.iter();
        domains.map(|domain| (domain.name.clone(), (*known.report(&domain.name)).clone())).collect()
    }

    /// Forgets domains that are gone.
    fn tidy(&self) {
        let settings = self.settings.load();
        let directory = &settings.policy.directory;
        settings.policy.standing.sender_domains.keep_reports(|domain| directory.is_configured(domain));
        self.count();
    }

    fn count(&self) {
        let mut counts: HashMap<State, i64> = HashMap::new();
        for (_, report) in self.reports() {
            *counts.entry(report.state).or_default() += 1;
        }
        for state in State::ALL {
            self.metrics.domains(state, counts.get(&state).copied().unwrap_or_default());
        }
    }
}

async fn looked_up(settings: &Arc<Settings>, at: usize) -> LookUp {
    let reading = settings.clone();
    let read = tokio::task::spawn_blocking(move || keys::public_keys(&reading.config.domains[at])).await;
    let keys = match read {
        Ok(Ok(keys)) => keys,
        Ok(Err(error)) => return unread(error.to_string()),
        Err(panic) => return unread(panic.to_string()),
    };
    look_up(&settings.config, &settings.config.domains[at], &keys, &*settings.dns).await
}

/// Without our own keys nothing can be said about those that are published.
fn unread(problem: String) -> LookUp {
    let mut found = LookUp::default();
    found.add(Weight::Trouble, "DKIM", format!("our own keys cannot be read: {problem}"), None);
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::path::Path;
    use std::time::{Duration, UNIX_EPOCH};

    use postern_runtime::ManualClock;
    use postern_runtime::dns::StaticDns;
    use prometheus::Registry;

    use super::*;
    use crate::testing::settings_with;

    const RECORDS: [(&str, &str); 2] =
        [("adatum.test", "v=spf1 ip4:192.0.2.25 -all"), ("_dmarc.adatum.test", "v=DMARC1; p=none")];

    fn domain(text: &str) -> Domain {
        Domain::parse_tolerant(text).unwrap()
    }

    fn zone(names: &[(&str, &str)]) -> StaticDns {
        names.iter().fold(StaticDns::new(), |dns, (name, text)| dns.txt_record(domain(name), text))
    }

    fn config(spool: &Path, mode: &str) -> String {
        format!(
            "queue.path = {:?}\npolicy = {{ require_verified = {mode:?}, public_addresses = [\"192.0.2.25\"], \
             verify_failures = 2, verify_pending_every = \"10m\", verify_every = \"1d\" }}\n[[domain]]\nname = \"adatum.test\"",
            spool.display().to_string()
        )
    }

    struct House {
        keeper: Arc<Keeper>,
        clock: ManualClock,
        registry: Registry,
    }

    impl House {
        fn new(spool: &Path, mode: &str, dns: StaticDns) -> Self {
            let clock = ManualClock::new(UNIX_EPOCH + Duration::from_secs(1_000_000));
            let registry = Registry::new();
            let settings = Arc::new(ArcSwap::from_pointee(settings_with(&config(spool, mode), dns)));
            let metrics = Metrics::register(&registry).unwrap();
            let keeper = Arc::new(Keeper::open(settings, Arc::new(clock.clone()), metrics));
            Self { keeper, clock, registry }
        }

        fn report(&self) -> Arc<DomainReport> {
            let settings = self.keeper.settings.load();
            settings.policy.standing.sender_domains.report(&domain("adatum.test"))
        }

        /// The gauges, as `pending verified failed`.
        fn counted(&self) -> String {
            let families = self.registry.gather();
            let family = families.iter().find(|family| family.name() == "postern_domains").unwrap();
            let of = |state: State| {
                let metric = family.get_metric().iter().find(|m| m.get_label()[0].value() == state.as_str());
                metric.unwrap().get_gauge().get_value().to_string()
            };
            State::ALL.map(of).join(" ")
        }
    }

    #[tokio::test]
    async fn due_domains_are_looked_up_and_their_state_outlives_the_run() {
        let spool = tempfile::tempdir().unwrap();
        let house = House::new(spool.path(), "enforce", zone(&RECORDS));
        assert_eq!(house.counted(), "1 0 0");
        let next = house.keeper.look_up_due().await.unwrap();
        assert_eq!(house.report().state, State::Verified, "{:?}", house.report());
        assert_eq!(next, house.clock.now() + Duration::from_secs(86_400));
        assert_eq!(house.counted(), "0 1 0");

        let again = House::new(spool.path(), "enforce", StaticDns::new());
        assert_eq!(again.report().state, State::Verified);
        // Not due: nothing was asked, so nothing changed.
        assert_eq!(again.keeper.look_up_due().await.unwrap(), next);
        assert_eq!(again.report().state, State::Verified);
    }

    #[tokio::test]
    async fn a_verified_domain_fails_after_its_records_were_gone_for_several_look_ups() {
        let spool = tempfile::tempdir().unwrap();
        House::new(spool.path(), "warn", zone(&RECORDS)).keeper.look_up_due().await;
        let gone = House::new(spool.path(), "warn", StaticDns::new());
        gone.clock.advance(Duration::from_secs(86_400));
        let next = gone.keeper.look_up_due().await.unwrap();
        assert_eq!((gone.report().state, gone.report().failures), (State::Verified, 1));
        assert_eq!(next, gone.clock.now() + Duration::from_secs(600));
        gone.clock.set(next);
        gone.keeper.look_up_due().await;
        assert_eq!(gone.report().state, State::Failed);
        assert_eq!(gone.counted(), "0 0 1");
    }

    #[tokio::test]
    async fn where_nobody_asks_for_it_only_operators_have_domains_looked_up() {
        let spool = tempfile::tempdir().unwrap();
        let house = House::new(spool.path(), "off", zone(&RECORDS));
        assert_eq!(house.keeper.look_up_due().await, None);
        assert_eq!(house.report().checked, None);
        house.keeper.verify(&[domain("adatum.test"), domain("elsewhere.test")]).await;
        assert_eq!(house.report().state, State::Verified);
    }

    #[tokio::test]
    async fn the_timer_runs_until_it_is_stopped_and_again_after_a_reload() {
        let spool = tempfile::tempdir().unwrap();
        let house = House::new(spool.path(), "enforce", zone(&RECORDS));
        let stop = CancellationToken::new();
        let running = tokio::spawn(house.keeper.clone().run(stop.clone()));
        while house.report().checked.is_none() {
            tokio::task::yield_now().await;
        }
        let first = house.report().checked;
        house.clock.advance(Duration::from_secs(86_400));
        while house.report().checked == first {
            tokio::task::yield_now().await;
        }
        house.keeper.reloaded();
        stop.cancel();
        running.await.unwrap();
    }
}
