//! What postmaster is to be told about logins, once a day for each login and cause.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::window::seconds;

/// Between two alarms of the same login and cause.
const SILENCE: Duration = Duration::from_secs(24 * 3600);
/// Alarms that wait to be told: more come only when something is badly wrong, and then these say so.
const MOST_WAITING: usize = 1000;
/// Alarms whose time is remembered.
const MOST_TOLD: usize = 100_000;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// It would pass its limit of recipients a message.
    LimitPerMessage,
    /// It would pass its limit of recipients an hour.
    LimitPerHour,
    /// It would pass its limit of recipients a day.
    LimitPerDay,
    /// It would pass its limit of new recipients a day.
    LimitNewRecipients,
    /// It writes to many whom it has not written to before.
    ManyNewRecipients,
    /// It writes to many who do not exist.
    ManyUnknownRecipients,
    /// It uses many senders.
    ManySenders,
    /// It is used from a network that it was not used from before.
    NewNetwork,
    /// Its password is being guessed from many addresses.
    Guessed,
}

impl Cause {
    /// The word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LimitPerMessage => "limit-per-message",
            Self::LimitPerHour => "limit-per-hour",
            Self::LimitPerDay => "limit-per-day",
            Self::LimitNewRecipients => "limit-new-recipients",
            Self::ManyNewRecipients => "many-new-recipients",
            Self::ManyUnknownRecipients => "many-unknown-recipients",
            Self::ManySenders => "many-senders",
            Self::NewNetwork => "new-network",
            Self::Guessed => "guessed-from-many-addresses",
        }
    }
}

/// Something about a login that a person should look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// The login.
    pub login: String,
    /// What is wrong.
    pub cause: Cause,
    /// The same in a sentence, with numbers.
    pub text: String,
    /// Whether the login was suspended for it.
    pub suspended: bool,
}

/// Alarms on their way.
#[derive(Debug, Default)]
pub struct Alarms {
    waiting: Mutex<VecDeque<Alarm>>,
    told: Mutex<HashMap<(String, Cause), u64>>,
}

impl Alarms {
    /// Notes an alarm, unless the same was told within a day; whether it was noted. One that suspends is always told.
    pub fn raise(&self, alarm: Alarm, now: SystemTime) -> bool {
        let mut waiting = self.waiting.lock();
        // What finds no place has not been told, and is news when it comes again.
        if waiting.len() >= MOST_WAITING && !alarm.suspended || !self.is_news(&alarm, seconds(now)) {
            return false;
        }
        if waiting.len() >= MOST_WAITING
            && let Some(at) = waiting.iter().position(|other| !other.suspended)
            && let Some(Alarm { login, cause, .. }) = waiting.remove(at)
        {
            self.told.lock().remove(&(login, cause));
        }
        // Those that suspend come once for each login, so that they are bounded too; the mail of each login is to be held.
        waiting.push_back(alarm);
        true
    }

    fn is_news(&self, alarm: &Alarm, now: u64) -> bool {
        // A clock that was set back makes it news, too.
        let lately = |at: &u64| now.checked_sub(*at).is_some_and(|age| age < SILENCE.as_secs());
        let key = (alarm.login.clone(), alarm.cause);
        let mut told = self.told.lock();
        if !alarm.suspended && told.get(&key).is_some_and(lately) {
            return false;
        }
        if told.len() >= MOST_TOLD {
            told.retain(|_, at| lately(at));
        }
        if told.len() < MOST_TOLD {
            told.insert(key, now);
        }
        true
    }

    /// The next that waits.
    pub fn next(&self) -> Option<Alarm> {
        self.waiting.lock().pop_front()
    }

    /// What was told when, in seconds since 1970, for a file.
    pub fn told(&self) -> Vec<(String, Cause, u64)> {
        self.told.lock().iter().map(|((login, cause), at)| (login.clone(), *cause, *at)).collect()
    }

    /// Takes up what was told before a restart.
    pub fn restore(&self, told: impl IntoIterator<Item = (String, Cause, u64)>) {
        self.told.lock().extend(told.into_iter().map(|(login, cause, at)| ((login, cause), at)));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn alarm(login: &str, cause: Cause) -> Alarm {
        Alarm { login: login.to_owned(), cause, text: String::new(), suspended: false }
    }

    #[test]
    fn postmaster_hears_of_a_login_and_cause_once_a_day_also_after_a_restart() {
        let (alarms, start) = (Alarms::default(), SystemTime::UNIX_EPOCH + SILENCE);
        assert!(alarms.raise(alarm("alice", Cause::LimitPerHour), start));
        assert!(!alarms.raise(alarm("alice", Cause::LimitPerHour), start + SILENCE / 2));
        assert!(alarms.raise(alarm("alice", Cause::LimitPerDay), start));
        assert!(alarms.raise(alarm("bob", Cause::LimitPerHour), start));
        let after = Alarms::default();
        after.restore(alarms.told());
        assert!(!after.raise(alarm("bob", Cause::LimitPerHour), start));
        assert!(after.raise(alarm("bob", Cause::LimitPerHour), start + SILENCE));
        assert_eq!(alarms.next().unwrap().login, "alice");
        assert_eq!(std::iter::from_fn(|| alarms.next()).count(), 2);
    }

    #[test]
    fn a_flood_of_alarms_does_not_swallow_one_that_suspends() {
        let (alarms, start) = (Alarms::default(), SystemTime::UNIX_EPOCH + SILENCE);
        for n in 0..MOST_WAITING {
            assert!(alarms.raise(alarm(&n.to_string(), Cause::Guessed), start));
        }
        assert!(!alarms.raise(alarm("late", Cause::Guessed), start), "there is no room");
        assert!(alarms.raise(Alarm { suspended: true, ..alarm("stolen", Cause::ManySenders) }, start));
        let waiting: Vec<Alarm> = std::iter::from_fn(|| alarms.next()).collect();
        assert_eq!(waiting.len(), MOST_WAITING);
        assert!(waiting.last().unwrap().suspended);
        assert!(alarms.raise(alarm("late", Cause::Guessed), start), "nobody was told of it");
    }

    #[test]
    fn a_flood_of_alarms_is_bounded() {
        let alarms = Alarms::default();
        for n in 0..MOST_TOLD + 10 {
            alarms.raise(alarm(&n.to_string(), Cause::Guessed), SystemTime::UNIX_EPOCH);
        }
        assert_eq!(alarms.waiting.lock().len(), MOST_WAITING);
        assert!(alarms.told().len() <= MOST_TOLD);
    }
}
