//! Whom to ask: the daemon, or, where it does not answer, the configuration.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use postern_admin::api::Status;
use postern_admin::api::doctor::{Check, Finding, Findings, Reports, Tally, note_delivered};
use postern_admin::{Client, ClientError};
use postern_config::Config;
use postern_outbound::checkup::Checkup;
use postern_queue::history::offline_tally;

use crate::Session;
use crate::config;
use crate::failure::Failure;

/// Who knows.
pub(super) struct Sources {
    client: Client,
    /// What the daemon says of itself; `Err` is why it does not.
    pub(super) status: Result<Status, String>,
    path: PathBuf,
    config: OnceCell<Arc<Config>>,
    now: SystemTime,
}

impl Sources {
    /// Asks the daemon whether it is there.
    ///
    /// # Errors
    /// A daemon that is there and does not answer us.
    pub(super) async fn find(session: &Session) -> Result<Self, Failure> {
        let client = session.client()?;
        let status = match client.get::<Status>("/v1/status").await {
            Ok(status) => Ok(status),
            Err(error @ ClientError::Unreachable { .. }) => Err(error.to_string()),
            Err(error) => return Err(error.into()),
        };
        // It may run with another file than the one that was named.
        let path = match &status {
            Ok(status) if session.global.socket.is_some() => PathBuf::from(&status.configuration),
            _ => session.global.config.clone(),
        };
        Ok(Self { client, status, path, config: OnceCell::new(), now: session.now })
    }

    /// The daemon, if it answers.
    pub(super) fn daemon(&self) -> Option<&Client> {
        self.status.is_ok().then_some(&self.client)
    }

    /// The configuration file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration as the file has it. Whoever may ask the daemon need not be allowed to read it.
    ///
    /// # Errors
    /// [`Failure::Finding`] with what is wrong.
    pub(super) fn config(&self) -> Result<Arc<Config>, Failure> {
        if let Some(config) = self.config.get() {
            return Ok(config.clone());
        }
        let config = Arc::new(config::load(&self.path)?.config);
        Ok(self.config.get_or_init(|| config).clone())
    }

    /// Has a check made.
    ///
    /// # Errors
    /// [`Failure`].
    pub(super) async fn check(&self, check: Check) -> Result<Vec<Finding>, Failure> {
        if let Some(daemon) = self.daemon() {
            let found: Findings = daemon.get(&format!("/v1/doctor/{}", check.as_str())).await?;
            return Ok(found.findings);
        }
        Ok(self.checkup()?.run(check, self.now).await)
    }

    /// What became of the mail of the last `reach` seconds.
    ///
    /// # Errors
    /// [`Failure`].
    pub(super) async fn tally(&self, reach: u64) -> Result<Tally, Failure> {
        let since = self.now - Duration::from_secs(reach);
        self.tally_since(since.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()))
            .await
    }

    async fn tally_since(&self, since: u64) -> Result<Tally, Failure> {
        if let Some(daemon) = self.daemon() {
            return Ok(daemon.get(&format!("/v1/doctor/reputation?since={since}")).await?);
        }
        Ok(offline_tally(&self.config()?.queue.history_path(), since)?)
    }

    /// What others report: where the configuration says that it stands, or in these places, which are read as whoever calls.
    ///
    /// # Errors
    /// [`Failure`].
    pub(super) async fn reports(&self, places: &[PathBuf]) -> Result<Reports, Failure> {
        if let Some(daemon) = self.daemon().filter(|_| places.is_empty()) {
            return Ok(daemon.get("/v1/doctor/reports").await?);
        }
        let places = (!places.is_empty()).then(|| places.to_vec());
        let mut reports = self.checkup()?.reports(places, self.now).await;
        if !reports.complaints.is_empty() {
            let tally = self.tally_since(reports.since).await?;
            note_delivered(&mut reports, &tally);
        }
        Ok(reports)
    }

    /// The checks as this program can make them itself.
    fn checkup(&self) -> Result<Checkup, Failure> {
        let config = self.config()?;
        let dns = config::resolver(&config)?;
        Ok(Checkup::new(config, Arc::new(dns)))
    }
}
