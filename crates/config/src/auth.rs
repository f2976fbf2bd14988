//! What is asked of logins beside their password: state, networks, limits, signs of theft, guessing.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use postern_smtp::date;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::check::{at_least_one, not_zero};
use crate::password_hash;
use crate::relay::check_network;
use crate::scram::Mechanism;
use crate::source::{Findings, Node};
use crate::units;

/// Whether a login may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LoginState {
    /// It may.
    #[default]
    Active,
    /// It may not: nobody uses it for now.
    Disabled,
    /// It may not: it was misused, or somebody looks into it.
    Suspended,
    /// It may not: it has sent more than it should.
    QuotaLocked,
}

impl LoginState {
    /// As the file has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Suspended => "suspended",
            Self::QuotaLocked => "quota-locked",
        }
    }
}

/// A further password of a login, for one program or device: it can be taken back by itself.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AppPassword {
    /// What uses it; the log names it.
    pub label: String,
    /// The hash of the password, of any kind that a login may have.
    pub password: String,
    /// The only networks that it may be used from: CIDR. Empty: those of the login.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub networks: Vec<IpNet>,
    /// Until when it may be used: a day (`"2026-12-31"`, that day included, UTC) or a time (`"2026-12-31T18:00:00Z"`).
    #[serde(default)]
    pub expires: Option<String>,
}

impl std::fmt::Debug for AppPassword {
    /// Without the hash: it must not reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppPassword").field("label", &self.label).finish_non_exhaustive()
    }
}

impl AppPassword {
    /// The end of its time; `None` where it has none.
    pub fn end(&self) -> Option<SystemTime> {
        // What cannot be read was refused when the file was loaded; here it would be over long ago.
        self.expires.as_deref().map(|text| date::parse_end(text).unwrap_or(SystemTime::UNIX_EPOCH))
    }

    pub(crate) fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        if self.label.trim().is_empty() {
            findings.error(
                &node.key("label"),
                "the label is empty",
                "name the program or device that uses it",
            );
        }
        if let Err(problem) = password_hash::format(&self.password) {
            let message = format!("the app password {:?} {problem}", self.label);
            findings.error(&node.key("password"), message, password_hash::HELP);
        }
        networks(node, &self.networks, findings);
        if let Some(text) = self.expires.as_deref().filter(|text| date::parse_end(text).is_none()) {
            let help = "write a day such as \"2026-12-31\", or a time such as \"2026-12-31T18:00:00Z\"";
            findings.error(&node.key("expires"), format!("{text:?} is no day and no time"), help);
        }
    }
}

/// Networks that a login or an app password may be used from.
pub(crate) fn networks(node: &Node<'_>, networks: &[IpNet], findings: &mut Findings<'_>) {
    for (node, network) in node.each("networks", networks) {
        check_network(&node, *network, findings);
    }
}

/// How much a login may send, counted by final recipients. 0 is no limit. The defaults are about those of large providers for
/// one mailbox: enough for a person, and little for whoever has stolen the password. Programs that send more have `limits` of
/// their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Recipients of one message. RFC 5321 §4.5.3.1.8 asks for at least 100.
    pub per_message: u32,
    /// Recipients in any hour.
    pub per_hour: u32,
    /// Recipients in any 24 hours.
    pub per_day: u32,
    /// Recipients in any 24 hours that the login has not written to before. Off by default: every recipient of a new login is
    /// new; `signs.new_recipients_per_hour` tells postmaster of many.
    pub new_recipients_per_day: u32,
}

impl Limits {
    /// No limit at all.
    pub const NONE: Self = Self { per_message: 0, per_hour: 0, per_day: 0, new_recipients_per_day: 0 };
}

impl Default for Limits {
    fn default() -> Self {
        Self { per_message: 100, per_hour: 300, per_day: 1000, new_recipients_per_day: 0 }
    }
}

/// The limits of one login. What is left out is as `[auth.limits]` has it; 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OwnLimits {
    /// Recipients of one message.
    pub per_message: Option<u32>,
    /// Recipients in any hour.
    pub per_hour: Option<u32>,
    /// Recipients in any 24 hours.
    pub per_day: Option<u32>,
    /// Recipients in any 24 hours that the login has not written to before.
    pub new_recipients_per_day: Option<u32>,
}

impl OwnLimits {
    /// With those of `[auth.limits]` where there are none of its own.
    pub fn over(self, common: Limits) -> Limits {
        Limits {
            per_message: self.per_message.unwrap_or(common.per_message),
            per_hour: self.per_hour.unwrap_or(common.per_hour),
            per_day: self.per_day.unwrap_or(common.per_day),
            new_recipients_per_day: self.new_recipients_per_day.unwrap_or(common.new_recipients_per_day),
        }
    }
}

/// What looks as if a login were in the wrong hands. Postmaster is told of each sign once a day for each login; 0 turns
/// a sign off.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Signs {
    /// So many recipients in an hour that the login has not written to before.
    pub new_recipients_per_hour: u32,
    /// So many different senders (MAIL FROM) in an hour.
    pub senders_per_hour: u32,
    /// So many recipients in an hour that do not exist (5.1.1, here or where the mail went) ...
    pub unknown_recipients_per_hour: u32,
    /// ... if they are at least this part of all recipients of that hour, from 0.0 to 1.0.
    pub unknown_ratio: f64,
    /// A login from a network that it was not used from before: IPv4 /16, IPv6 /32. The first network of a login is none.
    pub new_network: bool,
    /// Whether a login that shows a sign is suspended until `posternctl account unlock`, and its waiting mail held. A new
    /// network alone never suspends: people travel.
    pub suspend: bool,
}

impl Default for Signs {
    fn default() -> Self {
        Self {
            new_recipients_per_hour: 200,
            senders_per_hour: 20,
            unknown_recipients_per_hour: 25,
            unknown_ratio: 0.3,
            new_network: true,
            suspend: false,
        }
    }
}

impl Signs {
    pub(crate) fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        if !(0.0..=1.0).contains(&self.unknown_ratio) {
            let message = format!("`unknown_ratio` is {}", self.unknown_ratio);
            findings.error(
                &node.key("unknown_ratio"),
                message,
                "write a part of all recipients, from 0.0 to 1.0",
            );
        }
    }
}

/// What becomes of clients that guess passwords. IPv4 clients count by address, IPv6 clients by /64.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Guessing {
    /// So many wrong logins within `window` and the address is banned from the submission ports; 0: nobody is banned.
    pub max_failures: u32,
    /// The time in which they are counted.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub window: Duration,
    /// How long a ban holds.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub ban: Duration,
    /// How long the answer to the second wrong login of an address waits; each further one waits twice as long.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub delay: Duration,
    /// The longest of these waits.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub max_delay: Duration,
    /// So many addresses that failed for one login within an hour raise an alarm; 0: none is raised. The login itself is
    /// never locked: that would let strangers lock people out.
    pub alarm_addresses: u32,
    /// Networks that are never banned, such as proxies and web mailers that log in for many people: CIDR. Trusted networks
    /// and the server's own addresses never are.
    #[schemars(with = "Vec<String>")]
    pub never: Vec<IpNet>,
    /// Whether also loopback addresses can be banned, and meet the limits of `[smtp.clients]` by minute and hour like any other
    /// client: for trying it out on one machine.
    pub ban_loopback: bool,
}

impl Default for Guessing {
    fn default() -> Self {
        Self {
            max_failures: 10,
            window: Duration::from_secs(600),
            ban: Duration::from_secs(3600),
            delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(10),
            alarm_addresses: 10,
            never: Vec::new(),
            ban_loopback: false,
        }
    }
}

/// Of each address, and of each login, so many failures are remembered at most.
const MOST_REMEMBERED: u32 = 100;
/// The longest answer to a wrong login; a client that waits longer has given up.
const LONGEST_DELAY: Duration = Duration::from_secs(60);

impl Guessing {
    /// Whether an address is never banned, by this table alone.
    pub fn spares(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        (client.is_loopback() && !self.ban_loopback)
            || self.never.iter().any(|network| network.contains(&client))
    }

    pub(crate) fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        not_zero(node, "window", self.window, findings);
        if self.max_failures > 0 {
            not_zero(node, "ban", self.ban, findings);
        }
        for (key, value) in [("max_failures", self.max_failures), ("alarm_addresses", self.alarm_addresses)] {
            if value > MOST_REMEMBERED {
                let message = format!("`{key}` is {value}; {MOST_REMEMBERED} is the most");
                findings.error(&node.key(key), message, "10 is usual; 0 turns it off");
            }
        }
        if self.max_delay > LONGEST_DELAY {
            let message = format!("`max_delay` is longer than {} s", LONGEST_DELAY.as_secs());
            findings.error(
                &node.key("max_delay"),
                message,
                "each wait keeps a connection open; 10s is usual",
            );
        }
        for (node, network) in node.each("never", &self.never) {
            check_network(&node, *network, findings);
        }
    }
}

pub(crate) fn check(auth: &crate::Auth, node: &Node<'_>, findings: &mut Findings<'_>) {
    at_least_one(node, "max_password_checks", auth.max_password_checks as u64, findings);
    if auth.mechanisms.as_ref().is_some_and(Vec::is_empty) {
        let help = "name some, such as [\"scram-sha-256\", \"plain\"], or leave the key out";
        findings.error(&node.key("mechanisms"), "without a mechanism nobody can log in", help);
    }
    let is_of_tokens =
        |mechanism: &&Mechanism| matches!(mechanism, Mechanism::OAuthBearer | Mechanism::XOAuth2);
    let listed = auth.mechanisms.iter().flatten().find(is_of_tokens);
    if listed.is_some() && auth.oauth.is_none() {
        let message = "`oauthbearer` and `xoauth2` need to know whose tokens are taken";
        findings.error(&node.key("mechanisms"), message, "add [auth.oauth], or remove them");
    }
    if let Some(backend) = &auth.backend {
        backend.check(&node.key("backend"), findings);
    }
    if let Some(oauth) = &auth.oauth {
        oauth.check(&node.key("oauth"), findings);
    }
    auth.signs.check(&node.key("signs"), findings);
    auth.guessing.check(&node.key("guessing"), findings);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_a_login_stand_over_the_common_ones() {
        let common = Limits { per_message: 50, per_hour: 100, per_day: 500, new_recipients_per_day: 0 };
        let own = OwnLimits { per_hour: Some(1000), per_day: Some(0), ..OwnLimits::default() };
        assert_eq!(own.over(common), Limits { per_hour: 1000, per_day: 0, ..common });
    }

    #[test]
    fn logins_have_limits_where_nothing_is_said_and_zero_is_none() {
        let limits = |text: &str| toml::from_str::<crate::Auth>(text).map(|auth| auth.limits);
        let default = Limits { per_message: 100, per_hour: 300, per_day: 1000, new_recipients_per_day: 0 };
        assert_eq!(limits(""), Ok(default));
        assert_eq!(limits("limits = { per_hour = 0 }"), Ok(Limits { per_hour: 0, ..default }));
        // The default sign of theft comes before the limit, so that it is seen.
        assert!(Signs::default().new_recipients_per_hour < default.per_hour);
    }

    #[test]
    fn loopback_and_listed_networks_are_spared() {
        let mut guessing =
            Guessing { never: "192.0.2.0/24".parse().into_iter().collect(), ..Guessing::default() };
        for (address, spared) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("::ffff:192.0.2.7", true),
            ("198.51.100.9", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(address.parse().map(|address| guessing.spares(address)), Ok(spared), "{address}");
        }
        guessing.ban_loopback = true;
        assert!(!guessing.spares(IpAddr::from([127, 0, 0, 1])));
    }
}
