//! How much each login has sent lately, and to whom it has written before.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use postern_config::Limits;
use postern_smtp::Address;
use serde::{Deserialize, Serialize};

use super::Standing;
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
        let room = |used: &mut Used| used.room(limits, load, now);
        // A login that has sent nothing yet can still ask for too much at once.
        self.logins.look(login, room).unwrap_or_else(|| room(&mut Used::default()))
    }

    /// Whether the login has not written to the recipient before, as far as is known.
    pub fn is_new(&self, login: &str, recipient: &Address) -> bool {
        let hash = hash(recipient);
        self.logins.look(login, |used| !used.known.has(hash)).unwrap_or(true)
    }

    /// The login sends a message to so many recipients. Counted if there is room for them, in one step: sessions of one login
    /// at the same time do not pass its limits together.
    ///
    /// # Errors
    /// The first limit that would be passed; nothing is counted then.
    pub fn reserve(
        &self,
        login: &str,
        limits: &Limits,
        recipients: usize,
        now: SystemTime,
    ) -> Result<(), Exceeded> {
        let count = u32::try_from(recipients).unwrap_or(u32::MAX);
        self.logins.change(login, |used| {
            used.room(limits, Load { recipients, is_new: false }, now)?;
            used.hour.add(count, now);
            used.day.add(count, now);
            Ok(())
        })
    }

    /// The login writes to a recipient; its hash if that is the first time. In one step, as [`Usage::reserve`].
    fn meet(
        &self,
        login: &str,
        recipient: &Address,
        limits: &Limits,
        now: SystemTime,
    ) -> Result<Option<u32>, Exceeded> {
        let hash = hash(recipient);
        self.logins.change(login, |used| {
            if used.known.has(hash) {
                // It is one of the latest again.
                used.known.note(hash);
                return Ok(None);
            }
            let only_new = Limits { new_recipients_per_day: limits.new_recipients_per_day, ..Limits::NONE };
            used.room(&only_new, Load { recipients: 0, is_new: true }, now)?;
            used.known.note(hash);
            used.new.add(1, now);
            Ok(Some(hash))
        })
    }

    /// The login has not written to these after all.
    fn forget_met(&self, login: &str, hashes: &[u32], now: SystemTime) {
        self.logins.look(login, |used| {
            hashes.iter().for_each(|hash| used.known.forget(*hash));
            used.new.take_back(u32::try_from(hashes.len()).unwrap_or(u32::MAX), now);
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

/// Whom the login of one transaction writes to for the first time. Forgotten again, and given back to its cap, unless the
/// message is accepted: dropping this does it, however the transaction ends.
#[derive(Debug)]
pub struct FirstMet {
    standing: Arc<Standing>,
    login: String,
    hashes: Vec<u32>,
    /// When the last of them was met.
    at: SystemTime,
}

impl FirstMet {
    /// Nobody yet.
    pub fn new(standing: Arc<Standing>, login: &str) -> Self {
        Self { standing, login: login.to_owned(), hashes: Vec::new(), at: SystemTime::UNIX_EPOCH }
    }

    /// The login writes to a recipient.
    ///
    /// # Errors
    /// The cap on new recipients that would be passed.
    pub fn meet(&mut self, recipient: &Address, limits: &Limits, now: SystemTime) -> Result<(), Exceeded> {
        self.hashes.extend(self.standing.usage.meet(&self.login, recipient, limits, now)?);
        self.at = now;
        Ok(())
    }

    /// The message is accepted: they are no longer new.
    pub fn keep(mut self) {
        self.hashes.clear();
    }
}

impl Drop for FirstMet {
    fn drop(&mut self) {
        if !self.hashes.is_empty() {
            self.standing.usage.forget_met(&self.login, &self.hashes, self.at);
        }
    }
}

impl Used {
    fn room(&mut self, limits: &Limits, load: Load, now: SystemTime) -> Result<Totals, Exceeded> {
        let recipients = load.recipients as u64;
        let over = |limit: u32, used: u64| limit > 0 && used > u64::from(limit);
        if over(limits.per_message, recipients) {
            let limit = format!("{} recipients a message", limits.per_message);
            return Err(Exceeded { limit, used: recipients, resets_in: None });
        }
        let totals = self.totals(now);
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
            0 => self.hour.until_gone(excess, now),
            1 => self.day.until_gone(excess, now),
            _ => self.new.until_gone(excess, now),
        };
        Err(Exceeded { limit: format!("{limit} {noun}"), used: much, resets_in })
    }

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

    fn forget(&mut self, hash: u32) {
        for half in [&mut self.young, &mut self.old] {
            if let Ok(at) = half.binary_search(&hash) {
                half.remove(at);
            }
        }
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

    /// A message that is accepted.
    fn send(usage: &Usage, recipients: usize) {
        usage.reserve(LOGIN, &Limits::NONE, recipients, now()).unwrap();
    }

    /// A recipient that is accepted, with its message.
    fn meet(usage: &Usage, n: usize) -> bool {
        usage.meet(LOGIN, &address(n), &Limits::NONE, now()).unwrap().is_some()
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
        send(&usage, 8);
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
    fn sessions_at_the_same_time_do_not_pass_a_limit_together() {
        let usage = Usage::default();
        let limits = Limits { per_hour: 10, ..Limits::NONE };
        let taken: usize = std::thread::scope(|scope| {
            let send = || (0..100).filter(|_| usage.reserve(LOGIN, &limits, 3, now()).is_ok()).count();
            let sessions: Vec<_> = (0..4).map(|_| scope.spawn(send)).collect();
            sessions.into_iter().map(|session| session.join().unwrap()).sum()
        });
        assert_eq!((taken, usage.totals(LOGIN, now()).hour), (3, 9));
        let over = usage.reserve(LOGIN, &limits, 3, now()).unwrap_err();
        assert_eq!((over.limit.as_str(), over.used), ("10 recipients an hour", 12));
    }

    #[test]
    fn whom_a_refused_message_was_for_is_new_again_and_costs_nothing() {
        let standing = Arc::new(Standing::default());
        let usage = &standing.usage;
        let limits = Limits { new_recipients_per_day: 2, ..Limits::NONE };
        let mut refused = FirstMet::new(standing.clone(), LOGIN);
        for n in [1, 2, 1] {
            refused.meet(&address(n), &limits, now()).unwrap();
        }
        let over = refused.meet(&address(3), &limits, now()).unwrap_err();
        assert_eq!((over.limit.as_str(), over.used), ("2 new recipients a day", 3));
        assert!(refused.meet(&address(1), &limits, now()).is_ok(), "it is known");
        drop(refused);
        assert_eq!(usage.totals(LOGIN, now()).new_recipients, 0);
        assert!(usage.is_new(LOGIN, &address(1)));

        let mut accepted = FirstMet::new(standing.clone(), LOGIN);
        accepted.meet(&address(1), &limits, now()).unwrap();
        accepted.keep();
        assert_eq!(usage.totals(LOGIN, now()).new_recipients, 1);
        assert!(!usage.is_new(LOGIN, &address(1)));
    }

    #[test]
    fn zero_is_no_limit() {
        let usage = Usage::default();
        send(&usage, 1_000_000);
        assert!(usage.room(LOGIN, &Limits::NONE, more(1_000_000), now()).is_ok());
    }

    #[test]
    fn only_recipients_that_are_new_count_as_new() {
        let usage = Usage::default();
        let limits = Limits { new_recipients_per_day: 2, ..Limits::NONE };
        assert_eq!([1, 2, 1, 2].map(|n| meet(&usage, n)), [true, true, false, false]);
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
            meet(&usage, n);
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
        send(&before, 7);
        meet(&before, 1);
        let after = Usage::default();
        after.restore(before.snapshot());
        assert_eq!(after.totals(LOGIN, now()), Totals { hour: 7, day: 7, new_recipients: 1 });
        assert!(!after.is_new(LOGIN, &address(1)));
        after.keep(|login| login != LOGIN);
        assert!(after.snapshot().is_empty());
    }
}
