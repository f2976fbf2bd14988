//! A running server of the demonstration: this program again, with a configuration of its own.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::fs::OpenOptions;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// A server starts, and an event comes, well within this time.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server process and the events of its log so far.
#[derive(Debug)]
pub struct Server {
    child: Child,
    events: watch::Receiver<Vec<Value>>,
}

impl Server {
    /// Starts a server and waits until it says that it is ready. Its log goes to `log`.
    ///
    /// # Errors
    /// When it does not come up; its last words are in the log.
    pub async fn start(config: &Path, log: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("finding this program")?;
        let mut child = Command::new(program)
            .args(["run", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting posternd")?;
        let stderr = child.stderr.take().context("its log")?;
        let mut file = OpenOptions::new().create(true).append(true).open(log).await?;
        let (sender, events) = watch::channel(Vec::new());
        tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                // The file is for the reader; the demonstration itself goes by the events.
                let _ = file.write_all(format!("{line}\n").as_bytes()).await;
                if let Ok(event) = serde_json::from_str(&line) {
                    sender.send_modify(|events| events.push(event));
                }
            }
        });
        let server = Self { child, events };
        server.event("ready", |_| true).await.with_context(|| format!("see {}", log.display()))?;
        Ok(server)
    }

    /// Waits for an event of this name that `fits`; also one that came before.
    ///
    /// # Errors
    /// When it does not come in time, or the server ends.
    pub async fn event(&self, name: &str, fits: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let found =
            |events: &Vec<Value>| events.iter().find(|event| event["event"] == name && fits(event)).cloned();
        let mut events = self.events.clone();
        let wait = events.wait_for(|events| found(events).is_some());
        let events = tokio::time::timeout(PATIENCE, wait).await;
        let events = events.with_context(|| format!("the event {name:?} did not come"))?;
        let events = events.with_context(|| format!("the server ended before {name:?}"))?;
        found(&events).context("the event went away")
    }

    /// Stops the server as systemd would, and waits for its end.
    ///
    /// # Errors
    /// When it cannot be told, or does not end.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(id) = self.child.id() {
            kill(Pid::from_raw(i32::try_from(id)?), Signal::SIGTERM)?;
        }
        tokio::time::timeout(PATIENCE, self.child.wait()).await.context("the server did not stop")??;
        Ok(())
    }
}
