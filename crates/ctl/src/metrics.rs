//! `metrics`: the counters of the daemon, printed or served.

use std::net::SocketAddr;

use clap::Args;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Session;
use crate::failure::{Exit, Failure};

/// How they are wanted.
#[derive(Debug, Args)]
pub struct Metrics {
    /// Serve them at this address, /metrics and /healthz, until Ctrl-C: for a daemon whose [metrics] names no address.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
}

impl Metrics {
    /// Prints the text that Prometheus reads, or serves it.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let client = session.client()?;
        let Some(address) = self.listen else {
            client.stream("/metrics", |piece| session.out.octets(piece)).await?;
            return Ok(Exit::Done);
        };
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let address = postern_admin::metrics::proxy(address, client, stop.clone(), &tasks)
            .map_err(|error| Failure::Other(error.into()))?;
        session.note(&format!("serving http://{address}/metrics until Ctrl-C"));
        tokio::signal::ctrl_c().await?;
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        Ok(Exit::Done)
    }
}
