//! The parts of a server, how they start and how they end.
//!
//! Start: ports as root, then an ordinary user, then keys and spool with the rights of that user, then everybody at
//! once. Stop: no new connections; sessions and deliveries get `GRACE` to come to an end; the spool is closed last.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use nix::unistd::User;
use postern_admin as admin;
use postern_config::{Config, Listener, Loaded};
use postern_outbound::{Facts, Keeper, Outbound, QueueSurroundings};
use postern_policy::record::Records;
use postern_policy::standing::Standing;
use postern_queue::Queue;
use postern_runtime::{Clock, SystemClock};
use postern_smtp_inbound::{BoundListener, Inbound};
use prometheus::Registry;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::logging::LogHandle;
use crate::privileges;
use crate::reload::{Generation, Live, Reloader, Services};

/// How long sessions and deliveries may take to end. systemd's own patience (`TimeoutStopSec`) is longer.
const GRACE: Duration = Duration::from_secs(10);
/// Refusals that can be explained by their reference; some 600 octets each.
const REFUSALS_KEPT: usize = 10_000;

/// Runs a server until SIGTERM or SIGINT.
///
/// # Errors
/// What kept it from starting: a port in use, an unreadable key, a spool that cannot be used.
pub fn run(loaded: Loaded, log: Arc<LogHandle>) -> anyhow::Result<()> {
    // The one provider of the build; installing it twice is no harm.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let user = privileges::target(loaded.config.user.as_deref())?;
    let listeners = bind_all(&loaded.config.listeners)?;
    prepare_folders(&loaded.config, user.as_ref())?;
    if let Some(user) = &user {
        privileges::become_user(user)?;
    }
    privileges::raise_file_limit();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(async {
        // Before anybody is told that the server is there: a signal that nobody waits for would end it at once.
        let signals = Signals::expect().context("waiting for signals")?;
        let server = Server::start(loaded, listeners, log).await?;
        server.until_told_to_stop(signals).await;
        server.stop().await;
        Ok(())
    })
}

type Bound = Vec<(Listener, BoundListener)>;

fn bind_all(listeners: &[Listener]) -> anyhow::Result<Bound> {
    let bind = |listener: &Listener| {
        let bound = postern_smtp_inbound::bind(listener).with_context(|| {
            let Listener { kind, address } = listener;
            format!("listening on {address} ({}): is another mail server running?", kind.as_str())
        })?;
        Ok((listener.clone(), bound))
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
    queue: Queue,
    reloader: Arc<Reloader>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Server {
    async fn start(loaded: Loaded, listeners: Bound, log: Arc<LogHandle>) -> anyhow::Result<Self> {
        let addresses: Vec<SocketAddr> =
            listeners.iter().map(|(_, bound)| bound.local_addr()).collect::<Result<_, _>>()?;
        let standing = Arc::new(Standing::default());
        let live = Live::from(Generation::prepare(loaded, &addresses, standing.clone())?);
        let (registry, tasks, stop) = (Registry::new(), TaskTracker::new(), CancellationToken::new());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let queue = open_queue(&live, &clock, &registry).await?;
        let records = Arc::new(Records::new(REFUSALS_KEPT));
        let sending = postern_outbound::Metrics::register(&registry)?;
        let keeper = Arc::new(Keeper::open(live.settings.clone(), clock.clone(), sending.clone()));
        let outbound = Outbound::new(postern_outbound::Shared {
            settings: live.settings.clone(),
            queue: queue.clone(),
            metrics: sending,
            clock: clock.clone(),
        });
        let facts = Arc::new(Facts::new(live.settings.clone(), clock.clone()));
        let inbound = Inbound::new(postern_smtp_inbound::Shared {
            config: live.config.clone(),
            policy: live.policy.clone(),
            facts: facts.clone(),
            records: records.clone(),
            queue: queue.clone(),
            tls: live.tls.clone(),
            metrics: postern_smtp_inbound::Metrics::register(&registry)?,
            decisions: postern_policy::metrics::Metrics::register(&registry)?,
            clock,
        });
        let services = Services { inbound, outbound: outbound.clone(), keeper: keeper.clone(), standing };
        let reloader = Arc::new(Reloader::new(live.clone(), services, log, tasks.clone(), stop.clone()));
        let shared = admin::Shared {
            queue: queue.clone(),
            records,
            facts,
            policy: live.policy,
            config: live.config.clone(),
            registry,
            daemon: reloader.clone(),
            started: SystemTime::now(),
            release: env!("CARGO_PKG_VERSION"),
        };
        serve_operators(&live.config.load(), shared, &stop, &tasks)?;
        for (listener, bound) in listeners {
            reloader.listen(listener, bound)?;
        }
        tasks.spawn(outbound.run(stop.clone(), tasks.clone()));
        tasks.spawn(keeper.run(stop.clone()));
        tracing::info!(event = "ready", version = env!("CARGO_PKG_VERSION"), "accepting mail");
        tell_systemd(&[NotifyState::Ready]);
        Ok(Self { queue, reloader, tasks, stop })
    }

    /// Reloads on SIGHUP; ends on SIGTERM or SIGINT.
    async fn until_told_to_stop(&self, mut signals: Signals) {
        let mut watchdog = tokio::time::interval(watchdog_period());
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => return,
                _ = signals.interrupt.recv() => return,
                _ = signals.hang_up.recv() => {
                    tell_systemd(&[NotifyState::Reloading]);
                    self.reloader.on_signal().await;
                    tell_systemd(&[NotifyState::Ready]);
                }
                _ = watchdog.tick() => tell_systemd(&[NotifyState::Watchdog]),
            }
        }
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
        self.queue.close().await;
        tracing::info!(event = "stopped");
    }
}

async fn open_queue(live: &Live, clock: &Arc<dyn Clock>, registry: &Registry) -> anyhow::Result<Queue> {
    let config = live.config.load().queue.clone();
    let surroundings = Arc::new(QueueSurroundings::new(live.settings.clone()));
    let metrics = postern_queue::metrics::Metrics::register(registry)?;
    let (clock, runtime) = (clock.clone(), tokio::runtime::Handle::current());
    let path = config.path.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let _runtime = runtime.enter();
        Queue::open(&config, surroundings, clock, metrics)
    });
    let (queue, recovery) = opened.await?.with_context(|| format!("opening the spool {}", path.display()))?;
    tracing::info!(
        event = "recovered",
        messages = recovery.messages,
        damaged = recovery.damaged,
        index_rebuilt = recovery.index_rebuilt,
        "spool is open"
    );
    if let Err(problem) = queue.admits(0) {
        tracing::warn!(
            event = "no-new-mail",
            "mail in the queue is delivered, new mail is refused: {problem}"
        );
    }
    Ok(queue)
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
fn tell_systemd(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}

/// Half of what systemd waits for; rarely, where it does not.
fn watchdog_period() -> Duration {
    sd_notify::watchdog_enabled().map_or(Duration::from_secs(3600), |limit| limit / 2)
}
