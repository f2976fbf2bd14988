//! The queue, loaded while clients and operators are served already.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use postern_config::Config;
use postern_outbound::QueueSurroundings;
use postern_queue::{Claim, Door, Opener, Queue};
use postern_runtime::Clock;
use prometheus::Registry;
use sd_notify::NotifyState;
use tokio::sync::oneshot;

use crate::reload::Live;
use crate::server::tell_systemd;

/// How often systemd is told how many messages were read.
const TELL: Duration = Duration::from_secs(1);
/// systemd waits at least so much longer for a start that has read more messages since it was told last, also beyond
/// `TimeoutStartSec`. One that reads nothing for so long is stuck.
const EXTENSION: Duration = Duration::from_secs(60);

/// A spool that is ours and not read yet.
pub struct Loading {
    claim: Claim,
    door: Door,
    opener: Opener,
    config: Arc<Config>,
    surroundings: QueueSurroundings,
    clock: Arc<dyn Clock>,
    metrics: postern_queue::metrics::Metrics,
}

impl Loading {
    /// Makes the spool ours, and reads nothing yet: the door to its queue is closed.
    ///
    /// # Errors
    /// When the spool is another daemon's, may not be written, or has an unknown format.
    pub fn new(live: &Live, clock: Arc<dyn Clock>, registry: &Registry) -> anyhow::Result<(Door, Self)> {
        let config = live.config.load_full();
        let claim = Queue::claim(&config.queue).with_context(|| opening(&config))?;
        let (door, opener) = Door::closed();
        let surroundings = QueueSurroundings::new(live.settings.clone());
        let metrics = postern_queue::metrics::Metrics::register(registry)?;
        Ok((door.clone(), Self { claim, door, opener, config, surroundings, clock, metrics }))
    }

    /// Reads the queue and opens its door. Dropped before its end, it leaves the reading to the end of the process: like
    /// kill -9, that loses nothing.
    ///
    /// # Errors
    /// When the spool cannot be read at all.
    pub async fn run(self) -> anyhow::Result<Queue> {
        let Self { claim, door, opener, config, surroundings, clock, metrics } = self;
        let (runtime, settings) = (tokio::runtime::Handle::current(), Arc::clone(&config));
        let (tell, told) = oneshot::channel();
        let load = move || {
            let _runtime = runtime.enter();
            let loaded = opener.load(claim, &settings.queue, Arc::new(surroundings), clock, metrics);
            // Nobody hears it when the server stops meanwhile.
            let _ = tell.send(loaded.map(|loaded| (loaded, opener)));
        };
        // A thread and not a blocking task: the end of the runtime, and so that of the process, would wait for it.
        std::thread::Builder::new().name("queue-load".into()).spawn(load).context("starting a thread")?;
        let loaded = tokio::select! {
            loaded = told => loaded.context("the thread that reads the spool has ended")?,
            never = tell_progress(&door) => match never {},
        };
        let ((queue, recovery), opener) = loaded.with_context(|| opening(&config))?;
        tracing::info!(
            event = "recovered",
            messages = recovery.messages,
            damaged = recovery.damaged,
            index_rebuilt = recovery.index_rebuilt,
            "spool is open"
        );
        if let Some(problem) = no_new_mail(&queue) {
            tracing::warn!(
                event = "no-new-mail",
                "mail in the queue is delivered, new mail is refused: {problem}"
            );
        }
        opener.open(queue.clone());
        Ok(queue)
    }
}

/// Why a message that came now would be refused: the spool has less room than is to stay free, or than its next segment and its
/// reserve take; or it cannot be written.
pub(crate) fn no_new_mail(queue: &Queue) -> Option<String> {
    let refused = queue.admits(0).err().map(|error| error.to_string());
    refused.or_else(|| queue.summary().store_error)
}

fn opening(config: &Config) -> String {
    format!("opening the spool {}", config.queue.path.display())
}

/// Tells systemd again and again how far the loading is, and asks for time as long as it gets on.
async fn tell_progress(door: &Door) -> Infallible {
    let mut told = 0;
    loop {
        tokio::time::sleep(TELL).await;
        let read = door.messages_read();
        if read > told {
            let status = format!("loading the queue: {read} messages so far");
            let more = u32::try_from(EXTENSION.as_micros()).unwrap_or(u32::MAX);
            tell_systemd(&[NotifyState::Status(&status), NotifyState::ExtendTimeoutUsec(more)]);
        }
        told = read;
    }
}
