//! Wrong passwords: by whom, and whose.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use ipnet::{IpNet, Ipv6Net};
use parking_lot::Mutex;
use postern_config::auth::Guessing;

use super::by_login::ByLogin;
use super::window::seconds;

/// Sources are remembered in two halves of so many: of a flood from a million addresses the latest. Some 200 octets each.
const SOURCES: usize = 20_000;
/// The time in which addresses that fail for one login are counted.
const HOUR: u64 = 3600;

/// Who has failed lately, and for whom.
#[derive(Debug, Default)]
pub struct Guesses {
    sources: Mutex<Sources>,
    /// Wrong logins that lead to no ban.
    mistakes: Mutex<Sources>,
    /// For logins that exist; of each the latest sources.
    logins: ByLogin<Vec<(IpNet, u64)>>,
}

#[derive(Debug, Default)]
struct Sources {
    young: HashMap<IpNet, Failures>,
    old: HashMap<IpNet, Failures>,
}

/// The seconds of the latest wrong logins, oldest first: as many as lead to a ban.
type Failures = Vec<u64>;

/// What follows from a wrong login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// Wrong logins of the address within the window.
    pub failures: usize,
    /// How long the answer waits.
    pub delay: Duration,
    /// There were as many as lead to a ban.
    pub is_too_much: bool,
}

/// Whom an address stands for: one IPv6 customer has a whole /64.
pub fn source(client: IpAddr) -> IpNet {
    match client.to_canonical() {
        IpAddr::V4(v4) => IpNet::from(IpAddr::V4(v4)),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            let network = Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0);
            Ipv6Net::new(network, 64).map_or_else(|_| IpNet::from(IpAddr::V6(v6)), IpNet::V6)
        }
    }
}

impl Guesses {
    /// Counts a wrong login of an address.
    pub fn failed(&self, client: IpAddr, rules: &Guessing, now: SystemTime) -> Failed {
        let source = source(client);
        let failures = self.sources.lock().count(source, rules, now);
        let is_too_much = rules.max_failures > 0 && failures >= rules.max_failures as usize;
        if is_too_much {
            // The ban stands for them; when it ends, they are over too.
            self.sources.lock().forget(source);
        }
        Failed { failures, delay: delay(rules, failures), is_too_much }
    }

    /// Counts a wrong login that is no guess, or that comes from where nobody is banned: only its answer waits.
    pub fn mistaken(&self, client: IpAddr, rules: &Guessing, now: SystemTime) -> Failed {
        let failures = self.mistakes.lock().count(source(client), rules, now);
        Failed { failures, delay: delay(rules, failures), is_too_much: false }
    }

    /// Counts the address among those that failed for a login that exists; how many that are within an hour, if they are as
    /// many as raise an alarm.
    pub fn guessed(&self, login: &str, client: IpAddr, rules: &Guessing, now: SystemTime) -> Option<usize> {
        let alarm = rules.alarm_addresses as usize;
        let (source, now) = (source(client), seconds(now));
        let count = self.logins.change(login, |sources| {
            sources.retain(|(other, at)| *other != source && *at <= now && now - at < HOUR);
            if sources.len() >= alarm.max(1) {
                sources.remove(0);
            }
            sources.push((source, now));
            sources.len()
        });
        (alarm > 0 && count >= alarm).then_some(count)
    }

    /// Forgets what an address did, where an operator lifts its ban.
    pub fn forgive(&self, network: IpNet) {
        self.sources.lock().forget(network);
        self.mistakes.lock().forget(network);
    }

    /// Forgets logins that are gone.
    pub fn keep(&self, is_kept: impl Fn(&str) -> bool) {
        self.logins.keep(is_kept);
    }
}

/// A wait that has doubled so often is at any limit there may be.
const MOST_DOUBLINGS: u32 = 16;

fn delay(rules: &Guessing, failures: usize) -> Duration {
    let Some(doublings) = failures.checked_sub(2) else { return Duration::ZERO };
    let doublings = u32::try_from(doublings).unwrap_or(MOST_DOUBLINGS).min(MOST_DOUBLINGS);
    rules.delay.saturating_mul(1 << doublings).min(rules.max_delay)
}

impl Sources {
    /// Counts a wrong login; how many there are within the window.
    fn count(&mut self, source: IpNet, rules: &Guessing, now: SystemTime) -> usize {
        let now = seconds(now);
        let since = now.saturating_sub(rules.window.as_secs().max(1));
        let most = (rules.max_failures as usize).max(MOST_DOUBLINGS as usize);
        self.change(source, |times| {
            // A time to come is of a clock that was wrong.
            times.retain(|at| *at > since && *at <= now);
            if times.len() >= most {
                times.remove(0);
            }
            times.push(now);
            times.len()
        })
    }

    fn change<R>(&mut self, source: IpNet, change: impl FnOnce(&mut Failures) -> R) -> R {
        let mut failures =
            self.young.remove(&source).or_else(|| self.old.remove(&source)).unwrap_or_default();
        let result = change(&mut failures);
        if self.young.len() >= SOURCES {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(source, failures);
        result
    }

    fn forget(&mut self, source: IpNet) {
        self.young.remove(&source);
        self.old.remove(&source);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    fn address(n: u32) -> IpAddr {
        IpAddr::from((0x0a00_0000 + n).to_be_bytes())
    }

    fn rules() -> Guessing {
        Guessing { max_failures: 5, alarm_addresses: 3, ..Guessing::default() }
    }

    #[test]
    fn answers_take_longer_from_the_second_failure_on_until_it_is_too_much() {
        let guesses = Guesses::default();
        let fail = |second| {
            let failed = guesses.failed(address(1), &rules(), at(second));
            (failed.delay.as_secs(), failed.is_too_much)
        };
        assert_eq!([0, 1, 2, 3].map(fail), [(0, false), (1, false), (2, false), (4, false)]);
        assert_eq!(fail(4), (8, true));
        assert_eq!(fail(5), (0, false), "the ban stands for what led to it");
        let many = Guessing { max_failures: 0, ..rules() };
        let last = (0..100).map(|n| guesses.failed(address(2), &many, at(n))).last().unwrap();
        assert_eq!((last.delay, last.is_too_much), (many.max_delay, false));
    }

    #[test]
    fn mistakes_are_delayed_and_never_too_much() {
        let guesses = Guesses::default();
        let fail = |second| guesses.mistaken(address(1), &rules(), at(second));
        let delays: Vec<u64> = (0..6).map(|second| fail(second).delay.as_secs()).collect();
        assert_eq!(delays, [0, 1, 2, 4, 8, 10]);
        assert!((6..100).all(|second| !fail(second).is_too_much));
        assert_eq!(guesses.failed(address(1), &rules(), at(100)).failures, 1, "guesses count by themselves");
    }

    #[test]
    fn failures_are_forgotten_after_the_window() {
        let guesses = Guesses::default();
        for n in 0..4 {
            assert!(!guesses.failed(address(1), &rules(), at(n)).is_too_much);
        }
        assert_eq!(guesses.failed(address(1), &rules(), at(603)).failures, 1);
    }

    #[test]
    fn ipv6_addresses_count_by_network() {
        let guesses = Guesses::default();
        let fail = |text: &str| guesses.failed(text.parse().unwrap(), &rules(), at(0)).failures;
        assert_eq!(
            [fail("2001:db8:1:2::1"), fail("2001:db8:1:2:ffff::9"), fail("2001:db8:1:3::1")],
            [1, 2, 1]
        );
        assert_eq!([fail("::ffff:192.0.2.1"), fail("192.0.2.1"), fail("192.0.2.2")], [1, 2, 1]);
    }

    #[test]
    fn a_flood_from_a_million_addresses_costs_bounded_memory() {
        let guesses = Guesses::default();
        for n in 0..1_000_000 {
            guesses.failed(address(n), &rules(), at(0));
        }
        let sources = guesses.sources.lock();
        assert!(sources.young.len() <= SOURCES && sources.old.len() <= SOURCES);
        assert!(sources.young.contains_key(&source(address(999_999))));
    }

    #[test]
    fn a_login_that_many_addresses_guess_raises_an_alarm() {
        let guesses = Guesses::default();
        let guess = |n, second| guesses.guessed("alice", address(n), &rules(), at(second));
        assert_eq!([guess(1, 0), guess(1, 1), guess(2, 2), guess(3, 3)], [None, None, None, Some(3)]);
        assert_eq!(guess(4, 4), Some(3), "no more are remembered");
        assert_eq!(guess(5, 4 + HOUR), None);
        assert_eq!(guesses.guessed("bob", address(1), &rules(), at(4)), None);
    }
}
