//! Looks after what is known about logins beside the configuration: has postmaster told of alarms, holds the mail of logins
//! that were suspended, and keeps usage, suspensions, bans and the secret of this server over a restart, and with them what
//! grants have used of their rates.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use postern_outbound::postmaster::{self, Notice};
use postern_policy::metrics::Metrics;
use postern_policy::shell::word;
use postern_policy::standing::Standing;
use postern_policy::standing::alarms::{Alarm, Cause};
use postern_policy::standing::bans::Ban;
use postern_policy::standing::rates::UsedOfGrant;
use postern_policy::standing::signs::NetworksOfLogin;
use postern_policy::standing::suspensions::Suspension;
use postern_policy::standing::usage::UsageOfLogin;
use postern_queue::{Door, Filter, Queue};
use postern_runtime::Clock;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use crate::interfaces;
use crate::reload::Live;
use crate::state_file::StateFile;

/// How soon an alarm is told, and a ban or suspension is on disk.
const TICK: Duration = Duration::from_millis(500);
/// How often usage is written. What was sent since is not counted after a crash.
const SNAPSHOT: Duration = Duration::from_secs(60);
/// How often the rates of grants are written, where one was used. Smaller and oftener than usage: printers send in bursts.
const RATES_EVERY: Duration = Duration::from_secs(5);
/// How long the mail that is on its way is waited for where a login was suspended.
const HOLD_PATIENCE: Duration = Duration::from_secs(10);

/// Messages to postmaster in an hour: an attack on every login at once must not fill the mailbox. The log has them all.
const MOST_NOTICES: u32 = 30;
const HOUR: Duration = Duration::from_secs(3600);

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct UsageContent {
    logins: Vec<UsageOfLogin>,
    networks: Vec<NetworksOfLogin>,
    told: Vec<(String, Cause, u64)>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct SuspensionsContent {
    suspensions: Vec<Suspension>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct BansContent {
    bans: Vec<Ban>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct RatesContent {
    grants: Vec<UsedOfGrant>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct SecretContent {
    secret: String,
}

/// One for the whole life of the daemon.
pub struct Guard {
    live: Live,
    standing: Arc<Standing>,
    door: Door,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    usage: StateFile<UsageContent>,
    suspensions: StateFile<SuspensionsContent>,
    bans: StateFile<BansContent>,
    rates: StateFile<RatesContent>,
    secret: StateFile<SecretContent>,
    written_suspensions: AtomicU64,
    written_bans: AtomicU64,
    /// How many messages postmaster got since when.
    notices: Mutex<(u32, Option<Instant>)>,
}

impl Guard {
    /// Takes up what was known at the end of the last run. Blocking: reads files.
    pub fn open(
        live: Live,
        standing: Arc<Standing>,
        door: Door,
        metrics: Metrics,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        let spool = live.config.load().queue.path.clone();
        let guard = Self {
            usage: StateFile::new(&spool, "usage.json"),
            suspensions: StateFile::new(&spool, "suspensions.json"),
            bans: StateFile::new(&spool, "bans.json"),
            rates: StateFile::new(&spool, "rates.json"),
            secret: StateFile::new(&spool, "secret.json"),
            written_suspensions: AtomicU64::default(),
            written_bans: AtomicU64::default(),
            notices: Mutex::default(),
            live,
            standing,
            door,
            metrics,
            clock,
        };
        guard.restore();
        guard.standing.own.set(interfaces::addresses());
        Arc::new(guard)
    }

    fn restore(&self) {
        let UsageContent { logins, networks, told } = self.usage.read();
        self.standing.usage.restore(logins);
        self.standing.signs.restore(networks, self.clock.now());
        self.standing.alarms.restore(told);
        self.standing.suspensions.restore(self.suspensions.read().suspensions);
        self.standing.bans.restore(self.bans.read().bans);
        self.standing.rates.restore(self.rates.read().grants, self.clock.now());
        if !self.standing.secret.restore(&self.secret.read().secret) {
            self.secret.write_or_warn(SecretContent { secret: self.standing.secret.snapshot() });
        }
    }

    /// Works until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (mut ticks, mut written, mut rates_written) = (interval(TICK), Instant::now(), Instant::now());
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.tell().await;
            self.metrics.set_standing(
                self.standing.bans.tidy(self.clock.now()),
                self.standing.suspensions.list().len(),
            );
            self.write_changes().await;
            if rates_written.elapsed() >= RATES_EVERY {
                self.write_rates().await;
                rates_written = Instant::now();
            }
            if written.elapsed() >= SNAPSHOT {
                self.look_at_interfaces().await;
                self.write_usage().await;
                written = Instant::now();
            }
        }
    }

    /// Addresses come and go.
    async fn look_at_interfaces(&self) {
        // It does not panic; and if it did, what was known would still be.
        if let Ok(addresses) = tokio::task::spawn_blocking(interfaces::addresses).await {
            self.standing.own.set(addresses);
        }
    }

    /// Writes everything: at the end, when no session counts any more.
    pub async fn save(self: &Arc<Self>) {
        self.write_changes().await;
        self.write_rates().await;
        self.write_usage().await;
    }

    /// Nothing reaches the disk where no grant was used since.
    async fn write_rates(self: &Arc<Self>) {
        self.live.policy.load().forget_gone_grants();
        let guard = self.clone();
        let write =
            move || guard.rates.write_or_warn(RatesContent { grants: guard.standing.rates.snapshot() });
        let _ = tokio::task::spawn_blocking(write).await;
    }

    async fn write_usage(self: &Arc<Self>) {
        self.live.policy.load().forget_gone_logins(self.clock.now());
        let guard = self.clone();
        let write = move || {
            let standing = &guard.standing;
            guard.usage.write_or_warn(UsageContent {
                logins: standing.usage.snapshot(),
                networks: standing.signs.snapshot(),
                told: standing.alarms.told(),
            });
        };
        // It does not panic; and if it did, the next one writes.
        let _ = tokio::task::spawn_blocking(write).await;
    }

    /// Writes what an attacker would like forgotten at once.
    async fn write_changes(self: &Arc<Self>) {
        let (suspensions, bans) = (self.standing.suspensions.changes(), self.standing.bans.changes());
        let is_old = |written: &AtomicU64, now| written.swap(now, Ordering::Relaxed) != now;
        let write_suspensions = is_old(&self.written_suspensions, suspensions);
        let write_bans = is_old(&self.written_bans, bans);
        if !write_suspensions && !write_bans {
            return;
        }
        let guard = self.clone();
        let write = move || {
            if write_suspensions {
                let suspensions = guard.standing.suspensions.list();
                guard.suspensions.write_or_warn(SuspensionsContent { suspensions });
            }
            if write_bans {
                let bans = guard.standing.bans.list(guard.clock.now());
                guard.bans.write_or_warn(BansContent { bans });
            }
        };
        let _ = tokio::task::spawn_blocking(write).await;
    }

    /// Has the alarms told that wait; they wait for the queue, too.
    async fn tell(&self) {
        let Some(queue) = self.door.now() else { return };
        while let Some(alarm) = self.standing.alarms.next() {
            let Alarm { login, cause, text, suspended } = &alarm;
            tracing::warn!(event = "login-alarm", login, cause = cause.as_str(), suspended, "{text}");
            self.metrics.alarmed(*cause);
            let held = if *suspended { hold(&queue, login, text).await } else { 0 };
            if self.may_tell(Instant::now()) {
                self.tell_postmaster(&alarm, held, &queue).await;
            }
        }
    }

    /// Whether postmaster has not heard too much already; counts the message.
    fn may_tell(&self, now: Instant) -> bool {
        let mut notices = self.notices.lock();
        if notices.1.is_none_or(|since| now.duration_since(since) >= HOUR) {
            *notices = (0, Some(now));
        }
        notices.0 += 1;
        if notices.0 == MOST_NOTICES + 1 {
            tracing::warn!(event = "postmaster-spared", "further alarms of this hour are in the log only");
        }
        notices.0 <= MOST_NOTICES
    }

    async fn tell_postmaster(&self, alarm: &Alarm, held: usize, queue: &Queue) {
        let settings = self.live.settings.load_full();
        let notice = notice(alarm, held);
        match postmaster::tell(&notice, &settings, queue, self.clock.now()).await {
            Ok(Some(id)) => tracing::info!(event = "postmaster-told", %id, login = alarm.login),
            Ok(None) => tracing::warn!(event = "postmaster-unknown", login = alarm.login),
            Err(error) => tracing::warn!(event = "postmaster-not-told", login = alarm.login, %error),
        }
    }
}

/// Holds the waiting mail of a login; how many messages.
async fn hold(queue: &Queue, login: &str, why: &str) -> usize {
    let filter = Filter { account: Some(login.to_owned()), ..Filter::default() };
    let ids = queue.select(&filter).unwrap_or_default();
    let reason = format!("login suspended: {why}");
    match queue.hold(&ids, &reason, None, HOLD_PATIENCE).await {
        Ok(change) => change.changed,
        Err(error) => {
            tracing::error!(event = "not-held", login, %error, "mail of a suspended login goes on");
            0
        }
    }
}

fn notice(alarm: &Alarm, held: usize) -> Notice {
    let Alarm { login, cause, text, suspended } = alarm;
    let what = match cause {
        Cause::LimitPerMessage | Cause::LimitPerHour | Cause::LimitPerDay | Cause::LimitNewRecipients => {
            "It was refused what goes beyond, and is until there is room again. If it needs more, raise its `limits` in\r\n\
             accounts.toml; if not, somebody else may have its password.\r\n"
        }
        Cause::Guessed => {
            "The login is not locked, as that would lock out whom it belongs to. See that its password is a strong one.\r\n"
        }
        _ => "That is what it looks like when somebody else has the password of a login.\r\n",
    };
    let quoted = word(login);
    let mut body = format!("{text}.\r\n\r\n{what}\r\n");
    if *suspended {
        body += &format!(
            "The login is suspended, and {held} messages of it that waited are held. When it is in the right hands again:\r\n\r\n    \
             posternctl account unlock {quoted}\r\n    posternctl queue release --account {quoted}\r\n\r\n"
        );
    } else {
        body += &format!("To lock it:\r\n\r\n    posternctl account lock {quoted} --hold-queue\r\n\r\n");
    }
    body += &format!(
        "To look at it:\r\n\r\n    posternctl account show {quoted}\r\n    posternctl queue list --account {quoted}\r\n"
    );
    body += "\r\nOf this login and cause you are told once a day.\r\n";
    Notice { subject: format!("Login {login}: {}", cause.as_str().replace('-', " ")), body }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn postmaster_is_told_what_to_do() {
        let alarm = |cause, suspended| Alarm {
            login: "alice@proseware.test".to_owned(),
            cause,
            text: "alice@proseware.test used 20 different senders in an hour".to_owned(),
            suspended,
        };
        let told = notice(&alarm(Cause::ManySenders, false), 0);
        assert_eq!(told.subject, "Login alice@proseware.test: many senders");
        assert!(told.body.contains("account lock alice@proseware.test --hold-queue"), "{}", told.body);
        let told = notice(&alarm(Cause::ManySenders, true), 7);
        assert!(told.body.contains("7 messages") && told.body.contains("account unlock"), "{}", told.body);
        assert!(notice(&alarm(Cause::Guessed, false), 0).body.contains("not locked"));
        for line in told.body.lines() {
            assert!(line.len() <= 998, "RFC 5322 section 2.1.1");
        }
    }
}
