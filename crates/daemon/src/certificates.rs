//! Looks after our certificates while the server runs: takes renewed files into use, and tells of those that end.
//!
//! Whoever renews certificates need not tell the server. A pair that cannot be used, because it is half-written or its key
//! belongs to another certificate, changes nothing: the one before stays in use, and the files are looked at again.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use postern_runtime::Clock;
use postern_smtp::date::rfc3339;
use postern_smtp_inbound::tls::{Metrics, Renewal, ServerTls, Shown, Standing, Tickets, TlsError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::reload::Live;

/// How often the ends of certificates are looked at where files are not.
const LOOK_AT_ENDS: Duration = Duration::from_secs(60);
/// How often one certificate is told of in the log.
const DAY: Duration = Duration::from_secs(86_400);

/// One for the whole life of the daemon.
pub struct Certificates {
    /// The keys of session tickets.
    pub tickets: Arc<Tickets>,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    /// Why files are not in use.
    failures: Mutex<Vec<String>>,
    /// When a certificate was told of last, and of which end.
    told: Mutex<HashMap<PathBuf, (Standing, SystemTime)>>,
    in_force: Notify,
}

impl Certificates {
    /// Nothing is in use yet.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn new(metrics: Metrics, clock: Arc<dyn Clock>) -> Result<Arc<Self>, TlsError> {
        let tickets = Arc::new(Tickets::new()?);
        let (failures, told, in_force) = (Mutex::default(), Mutex::default(), Notify::new());
        Ok(Arc::new(Self { tickets, metrics, clock, failures, told, in_force }))
    }

    /// These came into force with a configuration; all files were good.
    pub fn take_into_force(&self, tls: Option<&ServerTls>) {
        self.failures.lock().clear();
        self.metrics.show(tls);
        self.in_force.notify_one();
    }

    /// A configuration did not come into force because of its certificates.
    pub fn refused(&self) {
        self.metrics.reloaded(false);
    }

    /// Works until `stop`.
    pub async fn run(self: Arc<Self>, live: Live, stop: CancellationToken) {
        loop {
            self.tell_of_ends(&live);
            let interval = reload_interval(&live);
            tokio::select! {
                () = stop.cancelled() => return,
                // Another configuration may have another interval.
                () = self.in_force.notified() => continue,
                () = tokio::time::sleep(interval.unwrap_or(LOOK_AT_ENDS)) => {}
            }
            if interval.is_some() {
                self.look_at_files(&live.tls).await;
            }
        }
    }

    async fn look_at_files(&self, tls: &ArcSwapOption<ServerTls>) {
        let Some(old) = tls.load_full() else { return };
        let looked = Arc::clone(&old);
        let look = move || looked.files_changed().then(|| looked.renew());
        // It does not panic; and if it did, what is in use would still be.
        let Ok(Some(Renewal { server, failures })) = tokio::task::spawn_blocking(look).await else { return };
        // A reload that came meanwhile has read the same files, and has its own words for what it found.
        if tls.load().as_ref().is_some_and(|now| Arc::ptr_eq(now, &old)) {
            self.tell_of_failures(&failures);
        }
        let Some(new) = server.map(Arc::new) else { return };
        let changed = !new.shows_the_same(&old);
        let before = tls.compare_and_swap(&old, Some(Arc::clone(&new)));
        let is_swapped = before.as_ref().is_some_and(|before| Arc::ptr_eq(before, &old));
        if is_swapped && changed {
            self.tell_of_renewal(&new);
        }
    }

    fn tell_of_renewal(&self, new: &ServerTls) {
        self.metrics.reloaded(true);
        self.metrics.show(Some(new));
        for shown in new.certificates() {
            tracing::info!(
                event = "certificate-reloaded",
                certificate = %shown.certificate.display(),
                name = shown.name(),
                ends = shown.not_after.map(rfc3339),
                "the files had changed: new handshakes show what is in them now"
            );
        }
    }

    /// Once for each failure, however often the files are looked at.
    fn tell_of_failures(&self, failures: &[TlsError]) {
        let texts: Vec<String> = failures.iter().map(ToString::to_string).collect();
        let old = std::mem::replace(&mut *self.failures.lock(), texts);
        for error in failures.iter().filter(|error| !old.contains(&error.to_string())) {
            self.metrics.reloaded(false);
            tracing::error!(
                event = "certificate-not-reloaded",
                help = error.help(),
                "the certificate before stays in use: {error}"
            );
        }
    }

    /// At the start, whenever it becomes worse, and once a day.
    fn tell_of_ends(&self, live: &Live) {
        let now = self.clock.now();
        let mut told = self.told.lock();
        let ending = ending(live, now);
        told.retain(|path, _| ending.iter().any(|(shown, _)| shown.certificate == *path));
        for (shown, standing) in &ending {
            let is_told = told.get(&shown.certificate).is_some_and(|(of, when)| {
                of == standing && now.duration_since(*when).is_ok_and(|since| since < DAY)
            });
            if is_told {
                continue;
            }
            told.insert(shown.certificate.clone(), (*standing, now));
            let text = shown.told(*standing, now);
            match standing {
                Standing::Expired(_) => tracing::error!(event = "certificate-expired", "{text}"),
                _ => tracing::warn!(event = "certificate-ends-soon", "{text}"),
            }
        }
    }

    /// For `posternctl status` and the answer to a reload.
    pub fn warnings(&self, live: &Live) -> Vec<String> {
        let now = self.clock.now();
        let ends = ending(live, now).into_iter().map(|(shown, standing)| shown.told(standing, now));
        let tls = live.tls.load();
        let never_shown = tls.iter().flat_map(|tls| tls.warnings());
        let failures = self.failures.lock();
        let kept = failures.iter().map(|failure| {
            format!("renewed files are not in use, the certificate before them is: {failure}")
        });
        kept.chain(ends).chain(never_shown).collect()
    }
}

/// `None`: files are read at a reload only.
fn reload_interval(live: &Live) -> Option<Duration> {
    let config = live.config.load();
    config.tls.as_ref().map(|tls| tls.reload_interval).filter(|interval| !interval.is_zero())
}

/// Certificates with too little time left.
fn ending(live: &Live, now: SystemTime) -> Vec<(Shown, Standing)> {
    let (config, tls) = (live.config.load(), live.tls.load());
    let (Some(config), Some(tls)) = (&config.tls, &*tls) else { return Vec::new() };
    let standings =
        tls.certificates().map(|shown| (shown.clone(), shown.standing(config.expiry_warning, now)));
    standings.filter(|(_, standing)| *standing != Standing::Good).collect()
}
