//! One configuration with everything made of it, and how the next one takes its place.
//!
//! A reload is all or nothing: files are read, keys tried and new ports bound first; only when none of it failed is
//! anything changed, and what is changed then cannot fail.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use postern_admin::api::{self, Delivery};
use postern_admin::explain::Mail;
use postern_admin::{Daemon, Listening, ReloadReport};
use postern_config::diagnostic::Severity;
use postern_config::{Config, ConfigError, ListenAddress, Listener, ListenerKind, Loaded, Resolver};
use postern_outbound::checkup::Checkup;
use postern_outbound::forecast::{Forecast, Prospect};
use postern_outbound::{Keeper, Outbound, Settings};
use postern_policy::Policy;
use postern_policy::checkup::reports::Reports;
use postern_policy::checkup::{Check, Finding};
use postern_policy::record::{Records, Settings as RecordSettings};
use postern_policy::relay::{Decision, Question, Verdict, blocklist_warnings};
use postern_policy::standing::Standing;
use postern_policy::verification;
use postern_runtime::clock::Pending;
use postern_runtime::dns::{HickoryDns, NameServers, Trouble};
use postern_smtp::{Address, Domain};
use postern_smtp_inbound::replies::{self, Refused};
use postern_smtp_inbound::tls::{ServerTls, Tickets, TlsError};
use postern_smtp_inbound::{BoundListener, Inbound};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::certificates::Certificates;
use crate::expectations;
use crate::failure;
use crate::logging::{self, LogHandle};

/// A configuration, compiled: rules, certificate, routes, keys.
pub struct Generation {
    /// The configuration.
    pub config: Arc<Config>,
    policy: Arc<Policy>,
    tls: Option<Arc<ServerTls>>,
    settings: Settings,
    warnings: Vec<String>,
}

impl Generation {
    /// Reads everything that the configuration names. `own` are the addresses this server listens at; `standing` is what holds
    /// beside every configuration, as do `tickets`. Blocking; inside a runtime.
    ///
    /// # Errors
    /// The first thing that cannot be used.
    pub fn prepare(
        loaded: Loaded,
        own: &[SocketAddr],
        standing: Arc<Standing>,
        tickets: &Arc<Tickets>,
    ) -> anyhow::Result<Self> {
        let config = Arc::new(loaded.config);
        logging::check_level(&config.log.level).context("log.level")?;
        let policy = Arc::new(Policy::over(&config, standing));
        let asked =
            ListenerKind::ALL.into_iter().filter(|kind| config.asks_for_certificates(*kind)).collect();
        let tls = config.tls.as_ref().map(|tls| postern_smtp_inbound::tls::load(tls, asked, tickets));
        let tls = tls.transpose().context("[tls]")?.map(Arc::new);
        let dns = Arc::new(HickoryDns::new(&name_servers(&config.resolver)).context("[resolver]")?);
        let settings = Settings::new(config.clone(), policy.clone(), dns, own)?;
        let warnings = loaded.warnings.iter().map(ToString::to_string).collect();
        Ok(Self { config, policy, tls, settings, warnings })
    }
}

fn name_servers(config: &Resolver) -> NameServers {
    let Resolver { nameservers, timeout, attempts, cache_size } = config.clone();
    NameServers { addresses: nameservers, timeout, attempts, cache_size }
}

/// The generation in force, as the services see it.
#[derive(Debug, Clone)]
pub struct Live {
    /// The configuration.
    pub config: Arc<ArcSwap<Config>>,
    /// Its rules.
    pub policy: Arc<ArcSwap<Policy>>,
    /// Its certificates.
    pub tls: Arc<ArcSwapOption<ServerTls>>,
    /// What delivery needs of it.
    pub settings: Arc<ArcSwap<Settings>>,
    warnings: Arc<ArcSwap<Vec<String>>>,
}

impl From<Generation> for Live {
    fn from(generation: Generation) -> Self {
        Self {
            config: Arc::new(ArcSwap::new(generation.config)),
            policy: Arc::new(ArcSwap::new(generation.policy)),
            tls: Arc::new(ArcSwapOption::new(generation.tls)),
            settings: Arc::new(ArcSwap::from_pointee(generation.settings)),
            warnings: Arc::new(ArcSwap::from_pointee(generation.warnings)),
        }
    }
}

/// Takes new configurations into force, and knows the listeners that are open.
pub struct Reloader {
    live: Live,
    /// What the process started with: some settings count only from there.
    at_start: Arc<Config>,
    services: Services,
    /// Once the queue is loaded.
    outbound: OnceLock<Arc<Outbound>>,
    log: Arc<LogHandle>,
    listeners: Mutex<HashMap<Listener, Open>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// One reload at a time.
    turn: tokio::sync::Mutex<()>,
    /// Told after each reload.
    reloaded: Arc<Notify>,
    /// Why the files are not in force, where the last reload failed.
    not_taken: Mutex<Option<NotTaken>>,
}

/// Why the files of a configuration are not in force.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NotTaken {
    /// The first error in one line.
    first: String,
    /// How many errors there are, 1 or more.
    errors: usize,
}

impl NotTaken {
    fn new(error: &anyhow::Error) -> Self {
        let of_files = error.chain().find_map(|cause| cause.downcast_ref::<ConfigError>());
        let diagnostics = of_files.map(|error| error.diagnostics.as_slice()).unwrap_or_default();
        // Warnings stand beside them, and kept nothing from coming into force.
        let mut errors = diagnostics.iter().filter(|found| found.severity == Severity::Error);
        match errors.next() {
            Some(first) => Self { first: first.to_string(), errors: 1 + errors.count() },
            None => {
                Self { first: failure::told(error).lines().next().unwrap_or_default().to_owned(), errors: 1 }
            }
        }
    }

    /// For `posternctl status`.
    fn warning(&self) -> String {
        let Self { first, errors } = self;
        let all = match errors {
            1 => " (`posternctl config check`): ".to_owned(),
            errors => {
                format!(": there are {errors} errors, `posternctl config check` shows them all; the first: ")
            }
        };
        format!(
            "the last reload failed, the configuration before it is in force, and a start may fail{all}{first}"
        )
    }
}

/// What goes on from one configuration to the next.
pub struct Services {
    /// Takes mail in.
    pub inbound: Inbound,
    /// Looks after the DNS of our domains.
    pub keeper: Arc<Keeper>,
    /// What decisions look at beside the configuration.
    pub standing: Arc<Standing>,
    /// What is kept of refusals.
    pub records: Arc<Records>,
    /// Counters of decisions.
    pub decisions: postern_policy::metrics::Metrics,
    /// Looks after our certificates.
    pub certificates: Arc<Certificates>,
}

/// A listener that is open.
struct Open {
    address: ListenAddress,
    stop: CancellationToken,
}

impl Reloader {
    /// Nothing is listened on and nothing delivered yet.
    pub fn new(
        live: Live,
        services: Services,
        log: Arc<LogHandle>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let turn = tokio::sync::Mutex::new(());
        let at_start = live.config.load_full();
        let (outbound, listeners) = (OnceLock::new(), Mutex::default());
        Self {
            live,
            at_start,
            services,
            outbound,
            log,
            listeners,
            tasks,
            stop,
            turn,
            reloaded: Arc::default(),
            not_taken: Mutex::default(),
        }
    }

    /// Who waits for it is told of each reload.
    pub fn reloaded(&self) -> Arc<Notify> {
        self.reloaded.clone()
    }

    /// Lets these deliveries know of reloads from now on.
    pub fn deliver(&self, outbound: Arc<Outbound>) {
        // It is called once.
        let _ = self.outbound.set(outbound);
    }

    /// Serves a socket until it is no longer configured or the server stops.
    ///
    /// # Errors
    /// When the system does not tell its address.
    pub fn listen(&self, listener: Listener, bound: BoundListener) -> std::io::Result<()> {
        let open = Open { address: bound.local_addr()?, stop: self.stop.child_token() };
        tracing::info!(event = "listening", listener = listener.kind.as_str(), address = %open.address);
        let (inbound, stop, tasks) = (self.services.inbound.clone(), open.stop.clone(), self.tasks.clone());
        self.listeners.lock().insert(listener, open);
        self.tasks.spawn(async move {
            if let Err(error) = inbound.run(bound, stop, tasks).await {
                tracing::error!(event = "listener-failed", %error);
            }
        });
        Ok(())
    }

    /// Reloads because of SIGHUP: the answer goes to the log.
    pub async fn on_signal(&self) {
        // The outcome is logged by `reload`.
        let _ = self.reload_logged().await;
    }

    async fn reload_logged(&self) -> Result<ReloadReport, String> {
        let result = self.reload_once().await;
        *self.not_taken.lock() = result.as_ref().err().map(NotTaken::new);
        let result = result.map_err(|error| failure::told(&error));
        match &result {
            Ok(report) => {
                for warning in &report.warnings {
                    tracing::warn!(event = "configuration", "{warning}");
                }
                for setting in &report.needs_restart {
                    tracing::warn!(event = "needs-restart", setting, "counts only after a restart");
                }
                tracing::info!(event = "reloaded", path = %report.path.display(), "new configuration in force");
            }
            Err(error) => {
                let error = logging::one_line(error);
                tracing::error!(event = "reload-failed", "the old configuration stays in force: {error}")
            }
        }
        result
    }

    async fn reload_once(&self) -> anyhow::Result<ReloadReport> {
        let _turn = self.turn.lock().await;
        let old = self.live.config.load_full();
        let path = old.path.clone();
        let own = self.addresses();
        let handle = tokio::runtime::Handle::current();
        let standing = self.services.standing.clone();
        let tickets = self.services.certificates.tickets.clone();
        let prepare = move || {
            let _runtime = handle.enter();
            prepare(&path, &own, standing, &tickets)
        };
        let prepared = tokio::task::spawn_blocking(prepare).await.unwrap_or_else(|panic| Err(panic.into()));
        if prepared.as_ref().is_err_and(|error| error.chain().any(|cause| cause.is::<TlsError>())) {
            self.services.certificates.refused();
        }
        let generation = prepared?;
        let added = self.bind_added(&generation.config.listeners)?;
        let mut report = ReloadReport {
            path: old.path.clone(),
            warnings: generation.warnings.clone(),
            needs_restart: needs_restart(&self.at_start, &generation.config),
        };
        self.take_into_force(generation, added);
        report.warnings.extend(self.services.certificates.warnings(&self.live));
        Ok(report)
    }

    fn bind_added(&self, wanted: &[Listener]) -> anyhow::Result<Vec<(Listener, BoundListener)>> {
        let open = self.listeners.lock();
        let added = wanted.iter().filter(|listener| !open.contains_key(*listener));
        added
            .map(|listener| {
                if open.keys().any(|other| other.address == listener.address && listener.address.is_fixed()) {
                    return Err(anyhow!(
                        "{} is open with other settings: restart to change it",
                        listener.address
                    ));
                }
                let bound = crate::sockets::bind(listener, None).map_err(|error| {
                    let hint = crate::sockets::hint(&error, &listener.address);
                    anyhow!("listening on {}: {error:#}{hint}", listener.address)
                })?;
                Ok((listener.clone(), bound))
            })
            .collect()
    }

    fn take_into_force(&self, generation: Generation, added: Vec<(Listener, BoundListener)>) {
        let wanted = generation.config.listeners.clone();
        // The level was tried in `prepare`.
        let _ = self.log.set_level(&generation.config.log.level);
        let lists = generation.policy.relay.blocklists();
        self.services.standing.blocklists.keep(|zone| lists.label(zone).is_some());
        self.live.policy.store(generation.policy);
        self.live.tls.store(generation.tls);
        let records = RecordSettings::of(&generation.config);
        // The page is opened at the start only: until then nobody could read what a token leads to.
        let with_tokens = records.with_tokens && self.at_start.report.listen.is_some();
        self.services.records.set(RecordSettings { with_tokens, ..records });
        self.live.config.store(generation.config);
        self.live.warnings.store(Arc::new(generation.warnings));
        match self.outbound.get() {
            Some(outbound) => outbound.reload(generation.settings),
            None => self.live.settings.store(Arc::new(generation.settings)),
        }
        // With a wrong answer it would not have come into force.
        self.services.decisions.set_failed_tests(0);
        self.services.keeper.reloaded();
        self.services.certificates.take_into_force(self.live.tls.load().as_deref());
        self.reloaded.notify_one();
        for (listener, bound) in added {
            if let Err(error) = self.listen(listener, bound) {
                tracing::error!(event = "listener-failed", %error);
            }
        }
        self.listeners.lock().retain(|listener, open| {
            let keep = wanted.contains(listener);
            if !keep {
                tracing::info!(event = "closing", listener = listener.kind.as_str(), address = %open.address);
                open.stop.cancel();
            }
            keep
        });
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.lock().values().filter_map(|open| open.address.tcp()).collect()
    }
}

fn prepare(
    path: &Path,
    own: &[SocketAddr],
    standing: Arc<Standing>,
    tickets: &Arc<Tickets>,
) -> anyhow::Result<Generation> {
    let loaded = expectations::load(path)?.loaded;
    let own: Vec<SocketAddr> =
        own.iter().copied().chain(loaded.config.listeners.iter().filter_map(|l| l.address.tcp())).collect();
    Generation::prepare(loaded, &own, standing, tickets)
}

/// Settings that are read at start only, and differ from what was read then.
fn needs_restart(old: &Config, new: &Config) -> Vec<String> {
    let settings = [
        ("user", old.user == new.user),
        ("queue.path", old.queue.path == new.queue.path),
        ("queue.segment_size", old.queue.segment_size == new.queue.segment_size),
        ("queue.index_interval", old.queue.index_interval == new.queue.index_interval),
        ("queue.history", old.queue.history == new.queue.history),
        ("auth.max_password_checks", old.auth.max_password_checks == new.auth.max_password_checks),
        ("admin.socket", old.admin.socket == new.admin.socket),
        ("metrics.listen", old.metrics.listen == new.metrics.listen),
        ("report.listen", old.report.listen == new.report.listen),
        ("log.format", old.log.format == new.log.format),
    ];
    settings.into_iter().filter(|(_, same)| !same).map(|(name, _)| name.to_owned()).collect()
}

impl Reloader {
    /// The files are not what is in force.
    fn not_in_force(&self) -> Option<String> {
        self.not_taken.lock().as_ref().map(NotTaken::warning)
    }

    /// What is meant for a few days is not forgotten.
    fn migrating(&self) -> Option<String> {
        let is_on = self.live.config.load().replies.migrating;
        is_on.then(|| {
            "replies.migrating is on: whoever may not relay is told to try again; take it out when the move is over".to_owned()
        })
    }
}

impl Daemon for Reloader {
    fn reload(&self) -> Pending<'_, Result<ReloadReport, String>> {
        Box::pin(self.reload_logged())
    }

    fn delivery(&self, mail: &Mail<'_>, recipient: &Address) -> Delivery {
        let Mail { sender, origin, header } = *mail;
        let settings = self.live.settings.load();
        let Forecast { route, source, tls, signature, retries, expires } =
            settings.forecast(&Prospect { sender, origin, header }, recipient);
        Delivery {
            recipient: recipient.to_string(),
            route: Some(route),
            source,
            tls,
            signature,
            expires: (!expires.is_zero()).then_some(expires.as_secs()),
            retries: retries.iter().map(Duration::as_secs).collect(),
        }
    }

    fn reply(&self, question: &Question<'_>, decision: &Decision) -> Option<String> {
        let refused = matches!(decision.verdict, Verdict::Reject | Verdict::Defer);
        refused.then(|| {
            let config = self.live.config.load();
            let refused = Refused { question, decision, name: None, config: &config };
            replies::refused(&refused).0.to_string()
        })
    }

    fn load(&self) -> api::load::Load {
        let load = self.services.inbound.load();
        api::load::Load {
            sessions: load.sessions,
            max_sessions: load.max_sessions,
            stressed: load.is_stressed,
            buffers: load.buffers,
            max_buffers: load.max_buffers,
        }
    }

    fn listening(&self) -> Vec<Listening> {
        let listeners = self.listeners.lock();
        let listening = listeners.iter().map(|(listener, open)| Listening {
            kind: listener.kind.as_str().to_owned(),
            address: open.address.clone(),
        });
        let mut listening: Vec<_> = listening.collect();
        listening.sort_by_key(|listening| (listening.address.port(), listening.address.clone()));
        listening
    }

    fn warnings(&self) -> Vec<String> {
        let pending = needs_restart(&self.at_start, &self.live.config.load());
        let pending =
            pending.iter().map(|setting| format!("{setting} has changed and counts only after a restart"));
        let domains = verification::warnings(&self.live.config.load(), &self.live.policy.load());
        let lists = blocklist_warnings(&self.live.policy.load());
        let state = self.not_in_force().into_iter().chain(self.migrating());
        self.live
            .warnings
            .load()
            .iter()
            .cloned()
            .chain(state)
            .chain(pending)
            .chain(domains)
            .chain(lists)
            .chain(self.services.certificates.warnings(&self.live))
            .collect()
    }

    fn verify(&self, domains: Vec<Domain>) -> Pending<'_, ()> {
        Box::pin(async move { self.services.keeper.verify(&domains).await })
    }

    fn check(&self, check: Check) -> Pending<'_, Vec<Finding>> {
        let checkup = Checkup::of(&self.live.settings.load());
        Box::pin(async move { checkup.run(check, SystemTime::now()).await })
    }

    fn dns_trouble(&self) -> Pending<'_, Option<Trouble>> {
        let (dns, hostname) =
            (self.live.settings.load().dns.clone(), self.live.config.load().hostname.clone());
        Box::pin(async move { dns.trouble(&hostname).await })
    }

    fn reports(&self) -> Pending<'_, Reports> {
        let checkup = Checkup::of(&self.live.settings.load());
        Box::pin(async move { checkup.reports(None, SystemTime::now()).await })
    }
}
