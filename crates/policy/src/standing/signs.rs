//! Signs that a login is in the wrong hands.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use postern_config::auth::Signs as Rules;
use postern_smtp::Address;
use serde::{Deserialize, Serialize};

use super::alarms::Cause;
use super::by_login::ByLogin;
use super::window::{Hour, seconds};

/// Senders of one login that are told apart; more are many in any case.
const MOST_SENDERS: usize = 1000;
/// Networks of one login that are remembered, the latest.
const MOST_NETWORKS: usize = 64;
const HOUR: u64 = 3600;

/// What was seen of each login.
#[derive(Debug, Default)]
pub struct Signs {
    logins: ByLogin<Seen>,
}

/// What was seen of one.
#[derive(Debug, Default)]
struct Seen {
    recipients: Hour,
    new: Hour,
    unknown: Hour,
    /// Hashes of senders, with the second they were used last.
    senders: Vec<(u32, u64)>,
    /// The latest last.
    networks: Vec<String>,
    /// When it logged in last, sent, or had something bounced, in seconds since 1970.
    used: u64,
}

/// A sign: what it is, and in a sentence with numbers.
pub type Sign = (Cause, String);

impl Signs {
    /// A recipient of the login was accepted; `is_new`: it had not written to it before.
    pub fn recipient(&self, login: &str, is_new: bool, rules: &Rules, now: SystemTime) -> Option<Sign> {
        self.logins.change(login, |seen| {
            seen.used = seconds(now);
            seen.recipients.add(1, now);
            if !is_new {
                return None;
            }
            seen.new.add(1, now);
            let (new, limit) = (seen.new.total(now), rules.new_recipients_per_hour);
            (limit > 0 && new >= u64::from(limit)).then(|| {
                let text =
                    format!("{login} wrote to {new} recipients in an hour that it had not written to before");
                (Cause::ManyNewRecipients, text)
            })
        })
    }

    /// A recipient was refused when the login named it, as there is no such user.
    pub fn refused(&self, login: &str, rules: &Rules, now: SystemTime) -> Option<Sign> {
        self.logins.change(login, |seen| seen.recipients.add(1, now));
        self.bounced(login, rules, now)
    }

    /// A recipient that was accepted turned out not to exist (5.1.1).
    pub fn bounced(&self, login: &str, rules: &Rules, now: SystemTime) -> Option<Sign> {
        self.logins.change(login, |seen| {
            seen.used = seconds(now);
            seen.unknown.add(1, now);
            let (unknown, all) = (seen.unknown.total(now), seen.recipients.total(now));
            let limit = rules.unknown_recipients_per_hour;
            let is_sign = limit > 0
                && unknown >= u64::from(limit)
                && unknown as f64 >= all as f64 * rules.unknown_ratio;
            is_sign.then(|| {
                let text = format!("{unknown} recipients of {login} in an hour do not exist, of {all}");
                (Cause::ManyUnknownRecipients, text)
            })
        })
    }

    /// The login uses a sender.
    pub fn sender(&self, login: &str, sender: &Address, rules: &Rules, now: SystemTime) -> Option<Sign> {
        let hash = super::stable_hash(sender.folded().to_string().as_bytes());
        let now = seconds(now);
        let senders = self.logins.change(login, |seen| {
            seen.used = now;
            seen.senders.retain(|(other, at)| *other != hash && *at <= now && now - at < HOUR);
            if seen.senders.len() >= MOST_SENDERS {
                seen.senders.remove(0);
            }
            seen.senders.push((hash, now));
            seen.senders.len()
        });
        let limit = (rules.senders_per_hour as usize).min(MOST_SENDERS);
        let is_sign = limit > 0 && senders >= limit;
        is_sign.then(|| (Cause::ManySenders, format!("{login} used {senders} different senders in an hour")))
    }

    /// The login is used from an address.
    pub fn address(&self, login: &str, client: IpAddr, rules: &Rules, now: SystemTime) -> Option<Sign> {
        let network = wide_network(client);
        let is_new = self.logins.change(login, |seen| {
            seen.used = seconds(now);
            let known = seen.networks.len();
            seen.networks.retain(|other| *other != network);
            // The first one of all says nothing.
            let is_new = known > 0 && seen.networks.len() == known;
            if seen.networks.len() >= MOST_NETWORKS {
                seen.networks.remove(0);
            }
            seen.networks.push(network.clone());
            is_new
        });
        let client = client.to_canonical();
        (is_new && rules.new_network).then(|| {
            (
                Cause::NewNetwork,
                format!("{login} logged in from {client}; it was not used from {network} before"),
            )
        })
    }

    /// Whether anybody has logged in by this name, as far as is remembered.
    pub fn knows(&self, login: &str) -> bool {
        self.logins.look(login, |seen| !seen.networks.is_empty()).unwrap_or(false)
    }

    /// The logins that were used so lately, with the seconds since 1970 at which they were used last.
    pub fn used_within(&self, time: Duration, now: SystemTime) -> Vec<(String, u64)> {
        let since = seconds(now).saturating_sub(time.as_secs());
        self.logins.all(|login, seen| (seen.used >= since).then(|| (login.to_owned(), seen.used)))
    }

    /// Forgets logins that are gone.
    pub fn keep(&self, is_kept: impl Fn(&str) -> bool) {
        self.logins.keep(is_kept);
    }

    /// The networks of each login, for a file. The rest is of one hour, and not worth keeping.
    pub fn snapshot(&self) -> Vec<NetworksOfLogin> {
        self.logins.all(|login, seen| {
            let networks = seen.networks.clone();
            (!networks.is_empty()).then(|| NetworksOfLogin {
                login: login.to_owned(),
                networks,
                used: seen.used,
            })
        })
    }

    /// Takes up what was known before a restart.
    pub fn restore(&self, known: impl IntoIterator<Item = NetworksOfLogin>, now: SystemTime) {
        for NetworksOfLogin { login, mut networks, used } in known {
            networks.drain(..networks.len().saturating_sub(MOST_NETWORKS));
            // A file of an earlier version does not say it.
            let used = if used == 0 { seconds(now) } else { used };
            self.logins.insert(login, Seen { networks, used, ..Seen::default() });
        }
    }
}

/// Where a login was used from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworksOfLogin {
    login: String,
    networks: Vec<String>,
    #[serde(default)]
    used: u64,
}

/// About one provider: IPv4 /16, IPv6 /32.
fn wide_network(client: IpAddr) -> String {
    match client.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            format!("{a}.{b}.0.0/16")
        }
        IpAddr::V6(v6) => {
            let [a, b, ..] = v6.segments();
            format!("{a:x}:{b:x}::/32")
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const LOGIN: &str = "alice@proseware.test";

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    fn rules() -> Rules {
        Rules {
            new_recipients_per_hour: 3,
            senders_per_hour: 3,
            unknown_recipients_per_hour: 2,
            unknown_ratio: 0.5,
            ..Rules::default()
        }
    }

    fn causes(signs: impl IntoIterator<Item = Option<Sign>>) -> Vec<Option<Cause>> {
        signs.into_iter().map(|sign| sign.map(|(cause, _)| cause)).collect()
    }

    #[test]
    fn many_new_recipients_are_a_sign_and_old_friends_are_none() {
        let signs = Signs::default();
        let met = |is_new| signs.recipient(LOGIN, is_new, &rules(), now());
        let found = causes([met(true), met(false), met(false), met(true), met(true)]);
        assert_eq!(found, [None, None, None, None, Some(Cause::ManyNewRecipients)]);
        let off = Rules { new_recipients_per_hour: 0, ..rules() };
        assert_eq!(signs.recipient(LOGIN, true, &off, now()), None);
    }

    #[test]
    fn unknown_recipients_are_a_sign_where_they_are_many_and_a_large_part() {
        let signs = Signs::default();
        for _ in 0..3 {
            signs.recipient(LOGIN, false, &rules(), now());
        }
        let refused = || signs.refused(LOGIN, &rules(), now());
        assert_eq!(
            causes([refused(), refused(), refused()]),
            [None, None, Some(Cause::ManyUnknownRecipients)]
        );
        // What bounces was a recipient before.
        let later = now() + Duration::from_secs(2 * HOUR);
        signs.recipient(LOGIN, false, &rules(), later);
        assert_eq!(signs.bounced(LOGIN, &rules(), later), None);
        assert!(signs.bounced(LOGIN, &rules(), later).is_some());
    }

    #[test]
    fn different_senders_are_counted_once_each() {
        let signs = Signs::default();
        let used = |sender: &str| signs.sender(LOGIN, &Address::parse(sender).unwrap(), &rules(), now());
        let found = causes(["a@x.test", "A@x.test", "b@x.test", "c@x.test"].map(used));
        assert_eq!(found, [None, None, None, Some(Cause::ManySenders)]);
    }

    #[test]
    fn a_network_is_new_once_and_the_first_is_none() {
        let signs = Signs::default();
        let from = |client: &str| signs.address(LOGIN, client.parse().unwrap(), &rules(), now());
        let found = ["192.0.2.7", "192.0.77.7", "198.51.100.9", "::ffff:198.51.1.1", "2001:db8::1"].map(from);
        let new = Some(Cause::NewNetwork);
        assert_eq!(causes(found), [None, None, new, None, new]);
        let again = Signs::default();
        again.restore(signs.snapshot(), now());
        assert_eq!(again.address(LOGIN, "192.0.2.7".parse().unwrap(), &rules(), now()), None);
        assert!(again.address(LOGIN, "203.0.113.1".parse().unwrap(), &rules(), now()).is_some());
    }
}
