//! How much each login has sent lately, and to whom it has written before.

use std::fmt;
use std::time::{Duration, SystemTime};

use postern_config::Limits;
use postern_smtp::Address;
use serde::{Deserialize, Serialize};

use super::by_login::ByLogin;
use super::window::{Day, Hour, Steps};

/// Recipients that a login has written to are remembered in two halves of so many: the latest this many are always known,
/// twice as many at most. Whoever was not written to for so long counts as new again. 8 KiB a login at most.
const KNOWN_RECIPIENTS: usize = 1024;

/// What all logins have used.
#[derive(Debug, Default)]
pub struct Usage {
    logins: ByLogin<Used>,
}

/// What one login has used: some 700 octets, beside its recipients.
#[derive(Debug, Default)]
struct Used {
    hour: Hour,
    day: Day,
    new: Day,
    known: Known,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Recipients of the message so far, the one asked about among them.
    pub recipients: usize,
    /// Whether the login has not written to it before.
    pub is_new: bool,
}

/// A limit that would be passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceeded {
    /// Which: `200 recipients an hour`.
    pub limit: String,
    /// How many it would be.
    pub used: u64,
    /// In how long there is room again; none where waiting does not help.
    pub resets_in: Option<Duration>,
}

/// The numbers of one login.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Recipients of the last hour.
    pub hour: u64,
    /// Recipients of the last 24 hours.
    pub day: u64,
    /// Recipients of the last 24 hours that it had not written to before.
    pub new_recipients: u64,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hour, day, new_recipients } = self;
        write!(f, "{hour} recipients in the last hour, {day} in the last day, {new_recipients} of them new")
    }
}

impl Usage {
    /// The numbers of a login.
    pub fn totals(&self, login: &str, now: SystemTime) -> Totals {
        self.logins.look(login, |used| used.totals(now)).unwrap_or_default()
    }

    /// Whether the login can send so much more; its numbers so far.
    ///
    /// # Errors
    /// The first limit that would be passed.
    pub fn room(
        &self,
        login: &str,
        limits: &Limits,
        load: Load,
        now: SystemTime,
    ) -> Result<Totals, Exceeded> {
        let recipients = load.recipients as u64;
        let over = |limit: u32, used: u64| limit > 0 && used > u64::from(limit);
        if over(limits.per_message, recipients) {
            let limit = format!("{} recipients a message", limits.per_message);
            return Err(Exceeded { limit, used: recipients, resets_in: None });
        }
        let room = |used: &mut Used| {
            let totals = used.totals(now);
            let new = totals.new_recipients + u64::from(load.is_new);
            let windows: [(u32, u64, &str); 3] = [
                (limits.per_hour, totals.hour + recipients, "recipients an hour"),
                (limits.per_day, totals.day + recipients, "recipients a day"),
                (if load.is_new { limits.new_recipients_per_day } else { 0 }, new, "new recipients a day"),
            ];
            let Some(at) = windows.iter().position(|(limit, used, _)| over(*limit, *used)) else {
                return Ok(totals);
            };
            let (limit, much, noun) = windows[at];
            let excess = much - u64::from(limit);
            let resets_in = match at {
                0 => used.hour.until_gone(excess, now),
                1 => used.day.until_gone(excess, now),
                _ => used.new.until_gone(excess, now),
            };
            Err(Exceeded { limit: format!("{limit} {noun}"), used: much, resets_in })
        };
        // A login that has sent nothing yet can still ask for too much at once.
        self.logins.look(login, room).unwrap_or_else(|| room(&mut Used::default()))
    }

    /// Whether the login has not written to the recipient before, as far as is known.
    pub fn is_new(&self, login: &str, recipient: &Address) -> bool {
        let hash = hash(recipient);
        self.logins.look(login, |used| !used.known.has(hash)).unwrap_or(true)
    }

    /// The login writes to a recipient; whether that is the first time. Counted when the recipient is accepted.
    pub fn meet(&self, login: &str, recipient: &Address, now: SystemTime) -> bool {
        let hash = hash(recipient);
        self.logins.change(login, |used| {
            let is_new = used.known.note(hash);
            if is_new {
                used.new.add(1, now);
            }
            is_new
        })
    }

    /// The login sends a message to so many recipients.
    pub fn take(&self, login: &str, recipients: usize, now: SystemTime) {
        let recipients = u32::try_from(recipients).unwrap_or(u32::MAX);
        self.logins.change(login, |used| {
            used.hour.add(recipients, now);
            used.day.add(recipients, now);
        });
    }

    /// The message was not accepted after all.
    pub fn give_back(&self, login: &str, recipients: usize, now: SystemTime) {
        let recipients = u32::try_from(recipients).unwrap_or(u32::MAX);
        self.logins.look(login, |used| {
            used.hour.take_back(recipients, now);
            used.day.take_back(recipients, now);
        });
    }

    /// First-time recipients of a login in the last 24 hours and all others are forgotten where it is gone.
    pub fn keep(&self, is_kept: impl Fn(&str) -> bool) {
        self.logins.keep(is_kept);
    }

    /// For a file.
    pub fn snapshot(&self) -> Vec<UsageOfLogin> {
        self.logins.all(|login, used| {
            Some(UsageOfLogin {
                login: login.to_owned(),
                hour: used.hour.steps(),
                day: used.day.steps(),
                new: used.new.steps(),
                known: used.known.all(),
            })
        })
    }

    /// Takes up what was used before a restart.
    pub fn restore(&self, usage: impl IntoIterator<Item = UsageOfLogin>) {
        for UsageOfLogin { login, hour, day, new, known } in usage {
            let mut memory = Known::default();
            for hash in known {
                memory.note(hash);
            }
            let (hour, day, new) = (Hour::restore(&hour), Day::restore(&day), Day::restore(&new));
            self.logins.insert(login, Used { hour, day, new, known: memory });
        }
    }
}

impl Used {
    fn totals(&mut self, now: SystemTime) -> Totals {
        Totals { hour: self.hour.total(now), day: self.day.total(now), new_recipients: self.new.total(now) }
    }
}

/// What of a login stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageOfLogin {
    login: String,
    hour: Steps,
    day: Steps,
    new: Steps,
    known: Vec<u32>,
}

/// Recipients by their hashes. Two different ones look alike once in some millions.
#[derive(Debug, Default)]
struct Known {
    /// Sorted.
    young: Vec<u32>,
    /// Sorted.
    old: Vec<u32>,
}

impl Known {
    fn has(&self, hash: u32) -> bool {
        self.young.binary_search(&hash).is_ok() || self.old.binary_search(&hash).is_ok()
    }

    /// Whether it was not known.
    fn note(&mut self, hash: u32) -> bool {
        let Err(at) = self.young.binary_search(&hash) else { return false };
        let is_new = self.old.binary_search(&hash).is_err();
        self.young.insert(at, hash);
        if self.young.len() >= KNOWN_RECIPIENTS {
            self.old = std::mem::take(&mut self.young);
        }
        is_new
    }

    /// The older ones first.
    fn all(&self) -> Vec<u32> {
        self.old.iter().chain(&self.young).copied().collect()
    }
}

/// FNV-1a: the same in every release, as it stands in a file.
fn hash(recipient: &Address) -> u32 {
    super::stable_hash(recipient.folded().to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const LOGIN: &str = "alice@proseware.test";

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 * 3600)
    }

    fn address(n: usize) -> Address {
        Address::parse(&format!("user{n}@adatum.test")).unwrap()
    }

    fn more(recipients: usize) -> Load {
        Load { recipients, is_new: false }
    }

    #[test]
    fn each_limit_is_counted_by_recipients_and_says_when_it_resets() {
        let usage = Usage::default();
        let limits = Limits { per_message: 5, per_hour: 10, per_day: 12, new_recipients_per_day: 0 };
        let room = |recipients, now| usage.room(LOGIN, &limits, more(recipients), now);
        assert_eq!(room(6, now()).unwrap_err().resets_in, None);
        assert!(room(5, now()).is_ok());
        usage.take(LOGIN, 8, now());
        let over = room(3, now()).unwrap_err();
        assert_eq!((over.limit.as_str(), over.used), ("10 recipients an hour", 11));
        assert_eq!(over.resets_in, Some(Duration::from_secs(61 * 60)));
        let later = now() + Duration::from_secs(61 * 60);
        assert!(room(4, later).is_ok());
        let over = room(5, later).unwrap_err();
        assert_eq!((over.limit.as_str(), over.used), ("12 recipients a day", 13));
        usage.give_back(LOGIN, 8, later);
        assert!(room(5, later).is_ok());
    }

    #[test]
    fn zero_is_no_limit() {
        let usage = Usage::default();
        usage.take(LOGIN, 1_000_000, now());
        assert!(usage.room(LOGIN, &Limits::default(), more(1_000_000), now()).is_ok());
    }

    #[test]
    fn only_recipients_that_are_new_count_as_new() {
        let usage = Usage::default();
        let limits = Limits { new_recipients_per_day: 2, ..Limits::default() };
        for n in [1, 2, 1, 2] {
            usage.meet(LOGIN, &address(n), now());
        }
        assert_eq!(usage.totals(LOGIN, now()).new_recipients, 2);
        assert!(!usage.is_new(LOGIN, &Address::parse("User1@ADATUM.test").unwrap()));
        assert!(usage.is_new(LOGIN, &address(3)));
        let ask = |is_new| usage.room(LOGIN, &limits, Load { recipients: 1, is_new }, now());
        assert!(ask(false).is_ok());
        assert_eq!(ask(true).unwrap_err().limit, "2 new recipients a day");
        // The cap of another login is its own.
        assert!(usage.room("bob", &limits, Load { recipients: 1, is_new: true }, now()).is_ok());
    }

    #[test]
    fn the_memory_of_recipients_is_bounded_and_keeps_the_latest() {
        let usage = Usage::default();
        for n in 0..10 * KNOWN_RECIPIENTS {
            usage.meet(LOGIN, &address(n), now());
        }
        let last = 10 * KNOWN_RECIPIENTS - 1;
        let known = usage.snapshot()[0].known.len();
        assert!(known <= 2 * KNOWN_RECIPIENTS, "{known}");
        assert!((last - KNOWN_RECIPIENTS / 2..=last).all(|n| !usage.is_new(LOGIN, &address(n))));
        assert!(usage.is_new(LOGIN, &address(0)));
    }

    #[test]
    fn usage_outlives_a_restart() {
        let before = Usage::default();
        before.take(LOGIN, 7, now());
        before.meet(LOGIN, &address(1), now());
        let after = Usage::default();
        after.restore(before.snapshot());
        assert_eq!(after.totals(LOGIN, now()), Totals { hour: 7, day: 7, new_recipients: 1 });
        assert!(!after.is_new(LOGIN, &address(1)));
        after.keep(|login| login != LOGIN);
        assert!(after.snapshot().is_empty());
    }
}
