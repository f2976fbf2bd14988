//! The parts of a server, how they start and how they end.
//!
//! Start: ports as root, then an ordinary user, then keys with the rights of that user; the spool is made ours; clients and
//! operators are served; the queue is loaded; deliveries begin. Stop: no new connections; sessions and deliveries get `GRACE`
//! to come to an end; the spool is closed last. A queue that is still being loaded is not waited for.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use nix::unistd::User;
use postern_admin as admin;
use postern_config::{Config, ListenAddress, Listener};
use postern_outbound::{Facts, Keeper, Outbound, facts};
use postern_policy::record::{Records, Settings};
use postern_policy::standing::Standing;
use postern_queue::Door;
use postern_runtime::{Clock, SystemClock};
use postern_smtp_inbound::{BoundListener, Inbound, tls};
use prometheus::Registry;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::certificates::Certificates;
use crate::expectations::Checked;
use crate::guard::Guard;
use crate::loading::{Loading, no_new_mail};
use crate::logging::LogHandle;
use crate::reload::{Generation, Live, Reloader, Services};
use crate::{privileges, sockets};

/// How long sessions and deliveries may take to end. systemd's own patience (`TimeoutStopSec`) is longer.
const GRACE: Duration = Duration::from_secs(10);
/// Where records of refusals are, in the spool directory.
const RECORDS: &str = "policy/records";

/// Runs a server until SIGTERM or SIGINT.
///
/// # Errors
/// What kept it from starting: a port in use, an unreadable key, a spool that cannot be used. What was served meanwhile was
/// stopped in order.
pub fn run(checked: Checked, log: Arc<LogHandle>) -> anyhow::Result<()> {
    // The one provider of the build; installing it twice is no harm.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = &checked.loaded.config;
    let user = privileges::target(config.user.as_deref())?;
    let listeners = bind_all(&config.listeners, user.as_ref())?;
    prepare_folders(config, user.as_ref())?;
    if let Some(user) = &user {
        privileges::become_user(user)?;
    }
    privileges::raise_file_limit();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(async {
        // Before anybody is told that the server is there: a signal that nobody waits for would end it at once.
        let signals = Signals::expect().context("waiting for signals")?;
        let (server, loading) = Server::start(checked, listeners, log)?;
        let ended = server.until_told_to_stop(signals, loading).await;
        server.stop().await;
        ended
    })
}

type Bound = Vec<(Listener, BoundListener)>;

fn bind_all(listeners: &[Listener], user: Option<&User>) -> anyhow::Result<Bound> {
    let bind = |listener: &Listener| {
        let Listener { kind, address, .. } = listener;
        match sockets::bind(listener, user) {
            Ok(bound) => Ok((listener.clone(), bound)),
            Err(error) => {
                let hint = sockets::hint(&error, address);
                Err(anyhow!("listening on {address} ({}): {error:#}{hint}", kind.as_str()))
            }
        }
    };
    listeners.iter().map(bind).collect()
}

/// Makes the folders of spool, control socket and journal while there is still a right to do so.
fn prepare_folders(config: &Config, user: Option<&User>) -> anyhow::Result<()> {
    let journal = config.queue.history.path.as_deref().filter(|_| config.queue.history.enabled);
    let folders = [Some(config.queue.path.as_path()), config.admin.socket.parent(), journal];
    for folder in folders.into_iter().flatten().filter(|folder| !folder.exists()) {
        make_private(folder).with_context(|| format!("making {}", folder.display()))?;
        if let Some(user) = user {
            privileges::give(folder, user)?;
        }
    }
    Ok(())
}

fn make_private(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// The signals that a server obeys.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn expect() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }
}

/// A running server.
struct Server {
    door: Door,
    live: Live,
    reloader: Arc<Reloader>,
    records: Arc<Records>,
    /// The counters of deliveries, which begin when the queue is loaded.
    deliveries: postern_outbound::Metrics,
    guard: Arc<Guard>,
    clock: Arc<dyn Clock>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Server {
    /// Serves clients and operators, who wait for the queue where they need it. Inside a runtime.
    fn start(checked: Checked, listeners: Bound, log: Arc<LogHandle>) -> anyhow::Result<(Self, Loading)> {
        let addresses: Vec<ListenAddress> =
            listeners.iter().map(|(_, bound)| bound.local_addr()).collect::<Result<_, _>>()?;
        let addresses: Vec<SocketAddr> = addresses.iter().filter_map(ListenAddress::tcp).collect();
        let standing = Arc::new(Standing::default());
        let (registry, tasks, stop) = (Registry::new(), TaskTracker::new(), CancellationToken::new());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let certificates = Certificates::new(tls::Metrics::register(&registry)?, clock.clone())?;
        let generation =
            Generation::prepare(checked.loaded, &addresses, standing.clone(), &certificates.tickets)?;
        let live = Live::from(generation);
        certificates.take_into_force(live.tls.load().as_deref());
        let (door, loading) = Loading::new(&live, clock.clone(), &registry)?;
        // The spool is ours now, and what lies beside it.
        admin::relay::restore(&live.config.load().queue.path, &standing, clock.now());
        admin::relay::register(standing.clone(), &registry)?;
        admin::blocklists::register(standing.clone(), &registry)?;
        let records = open_records(&live.config.load(), clock.clone(), &registry)?;
        let deliveries = postern_outbound::Metrics::register(&registry)?;
        let keeper = Arc::new(Keeper::open(live.settings.clone(), clock.clone(), deliveries.clone()));
        let decisions = postern_policy::metrics::Metrics::register(&registry)?;
        decisions.set_failed_tests(checked.wrong.len());
        let guard =
            Guard::open(live.clone(), standing.clone(), door.clone(), decisions.clone(), clock.clone());
        let finder = Arc::new(Facts::new(live.settings.clone(), clock.clone()));
        let inbound = Inbound::new(postern_smtp_inbound::Shared {
            config: live.config.clone(),
            policy: live.policy.clone(),
            facts: finder.clone(),
            records: records.clone(),
            door: door.clone(),
            tls: live.tls.clone(),
            metrics: postern_smtp_inbound::Metrics::register(&registry)?,
            decisions: decisions.clone(),
            clock: clock.clone(),
        });
        let services = Services {
            inbound,
            keeper: keeper.clone(),
            standing,
            records: records.clone(),
            decisions,
            certificates: certificates.clone(),
        };
        let reloader = Arc::new(Reloader::new(live.clone(), services, log, tasks.clone(), stop.clone()));
        serve_report(&live, records.clone(), &stop, &tasks)?;
        let shared = admin::Shared {
            door: door.clone(),
            records: records.clone(),
            facts: finder,
            policy: live.policy.clone(),
            config: live.config.clone(),
            registry,
            daemon: reloader.clone(),
            started: SystemTime::now(),
            release: env!("CARGO_PKG_VERSION"),
        };
        serve_operators(&live.config.load(), shared, &stop, &tasks)?;
        let hosts = facts::host_names::refresh(
            live.settings.clone(),
            clock.clone(),
            reloader.reloaded(),
            stop.clone(),
        );
        tasks.spawn(hosts);
        for (listener, bound) in listeners {
            reloader.listen(listener, bound)?;
        }
        tasks.spawn(keeper.run(stop.clone()));
        tasks.spawn(guard.clone().run(stop.clone()));
        tasks.spawn(certificates.run(live.clone(), stop.clone()));
        Ok((Self { door, live, reloader, records, deliveries, guard, clock, tasks, stop }, loading))
    }

    /// Loads the queue, then begins to deliver.
    async fn load(&self, loading: Loading) -> anyhow::Result<()> {
        let queue = loading.run().await?;
        let state = match no_new_mail(&queue) {
            None => "accepting mail",
            Some(_) => "delivering what is in the queue; new mail is refused, see the event no-new-mail",
        };
        let outbound = Outbound::new(postern_outbound::Shared {
            settings: self.live.settings.clone(),
            queue,
            metrics: self.deliveries.clone(),
            clock: self.clock.clone(),
        });
        self.reloader.deliver(outbound.clone());
        self.tasks.spawn(outbound.run(self.stop.clone(), self.tasks.clone()));
        tracing::info!(event = "ready", version = env!("CARGO_PKG_VERSION"), "{state}");
        tell_systemd(&[NotifyState::Ready, NotifyState::Status("")]);
        Ok(())
    }

    /// Loads the queue; reloads on SIGHUP; ends on SIGTERM or SIGINT, or when the queue cannot be loaded.
    async fn until_told_to_stop(&self, mut signals: Signals, loading: Loading) -> anyhow::Result<()> {
        let mut watchdog = tokio::time::interval(watchdog_period());
        let mut loading = pin!(self.load(loading));
        let mut is_ready = false;
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => return Ok(()),
                _ = signals.interrupt.recv() => return Ok(()),
                _ = signals.hang_up.recv() => self.reload(is_ready).await,
                loaded = &mut loading, if !is_ready => {
                    loaded?;
                    is_ready = true;
                }
                _ = watchdog.tick() => tell_systemd(&[NotifyState::Watchdog]),
            }
        }
    }

    /// To systemd it is a reload only if the start is over: READY would end it.
    async fn reload(&self, is_ready: bool) {
        if !is_ready {
            return self.reloader.on_signal().await;
        }
        tell_systemd(&[NotifyState::Reloading]);
        self.reloader.on_signal().await;
        tell_systemd(&[NotifyState::Ready]);
    }

    async fn stop(self) {
        tracing::info!(event = "stopping", "no new connections; transactions under way may end");
        tell_systemd(&[NotifyState::Stopping]);
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(GRACE, self.tasks.wait()).await.is_err() {
            // What they have not acknowledged or settled is sent again by the client, or tried again by us.
            tracing::warn!(
                event = "cut-off",
                tasks = self.tasks.len(),
                "sessions or deliveries did not end in time"
            );
        }
        self.guard.save().await;
        // What waits of it is little; nobody waits for an answer any more.
        self.records.close();
        if let Some(queue) = self.door.now() {
            queue.close().await;
        }
        tracing::info!(event = "stopped");
    }
}

/// The records of refusals. What is wrong with their folder is told by `posternctl status`, and keeps no mail out.
fn open_records(config: &Config, clock: Arc<dyn Clock>, registry: &Registry) -> anyhow::Result<Arc<Records>> {
    let folder = config.queue.path.join(RECORDS);
    let records = Records::open(&folder, Settings::of(config), move || clock.now())
        .context("starting the thread that keeps refusals")?;
    records.register(registry)?;
    Ok(Arc::new(records))
}

/// The public page of refusals, where it is configured.
fn serve_report(
    live: &Live,
    records: Arc<Records>,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> anyhow::Result<()> {
    let Some(address) = live.config.load().report.listen else { return Ok(()) };
    let tls = live.tls.clone();
    let tls = Arc::new(move || Some(tls.load_full()?.unasked_config()));
    let shared = admin::report::Shared { records, config: live.config.clone(), tls };
    let address = admin::report::serve(address, shared, stop.clone(), tasks).context("report.listen")?;
    tracing::info!(event = "listening", listener = "report", %address);
    Ok(())
}

/// The control socket, and the metrics page where it is configured.
fn serve_operators(
    config: &Config,
    shared: admin::Shared,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> anyhow::Result<()> {
    if let Some(address) = config.metrics.listen {
        let address =
            admin::metrics::serve(address, shared.clone(), stop.clone(), tasks).context("metrics.listen")?;
        tracing::info!(event = "listening", listener = "metrics", %address);
    }
    admin::server::serve(&config.admin.socket, shared, stop.clone(), tasks).context("admin.socket")
}

/// Without systemd nobody listens, and that is well.
pub(crate) fn tell_systemd(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}

/// Half of what systemd waits for; rarely, where it does not.
fn watchdog_period() -> Duration {
    sd_notify::watchdog_enabled().map_or(Duration::from_secs(3600), |limit| limit / 2)
}
