//! What keeps a flood from taking the server: `[smtp.clients]`, `[smtp.pregreet]`, `[smtp.stress]`.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::check::not_zero;
use crate::relay::check_network;
use crate::source::{Findings, Node};
use crate::units;

/// How much one address, and all addresses of one network, may do. An IPv6 client counts as its /64, because each customer
/// has a whole one. Trusted networks and `exempt` have no such limits; loopback, the server's own addresses and
/// `auth.guessing.never` are limited in connections at once alone; nothing that a client does after its login counts.
/// Everything here is answered with 421 4.7.0; 0 is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Clients {
    /// Length of the prefix that makes a network of IPv4 addresses: 8 to 32. 24 is what is announced at least, so it
    /// mostly has one owner.
    pub ipv4_prefix: u8,
    /// The same for IPv6: 16 to 64. With 64 a network is what counts as one client, and only the limits of addresses
    /// hold; 56 or 48 takes in customers who have more than one /64.
    pub ipv6_prefix: u8,
    /// New connections of one address in a minute. Large senders open some dozens.
    pub connections_per_minute: u32,
    /// New connections of one network in a minute.
    pub network_connections_per_minute: u32,
    /// Errors of one address in an hour: bad commands, refused senders and recipients. Ten sessions that go to their end.
    pub errors_per_hour: u32,
    /// Errors of one network in an hour.
    pub network_errors_per_hour: u32,
    /// Recipients that do not exist, named by one address in an hour. A list that is out of date names some, whoever
    /// tries names to find addresses has thousands.
    pub unknown_recipients_per_hour: u32,
    /// The same for one network.
    pub network_unknown_recipients_per_hour: u32,
    /// Networks without any limit of this table and of connections at once: another MX of yours, a list server: CIDR.
    #[schemars(with = "Vec<String>")]
    pub exempt: Vec<IpNet>,
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            ipv4_prefix: 24,
            ipv6_prefix: 64,
            connections_per_minute: 300,
            network_connections_per_minute: 1000,
            errors_per_hour: 200,
            network_errors_per_hour: 1000,
            unknown_recipients_per_hour: 100,
            network_unknown_recipients_per_hour: 400,
            exempt: Vec::new(),
        }
    }
}

/// How much one address, or one network, may do; 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// New connections in a minute.
    pub connections_per_minute: u32,
    /// Errors in an hour.
    pub errors_per_hour: u32,
    /// Recipients that do not exist, in an hour.
    pub unknown_recipients_per_hour: u32,
}

impl Clients {
    /// What one address may do.
    pub fn of_address(&self) -> Allowance {
        Allowance {
            connections_per_minute: self.connections_per_minute,
            errors_per_hour: self.errors_per_hour,
            unknown_recipients_per_hour: self.unknown_recipients_per_hour,
        }
    }

    /// What one network may do.
    pub fn of_network(&self) -> Allowance {
        Allowance {
            connections_per_minute: self.network_connections_per_minute,
            errors_per_hour: self.network_errors_per_hour,
            unknown_recipients_per_hour: self.network_unknown_recipients_per_hour,
        }
    }

    /// Whether the address is in `exempt`.
    pub fn exempts(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.exempt.iter().any(|network| network.contains(&client))
    }

    pub(crate) fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        for (key, length, allowed) in
            [("ipv4_prefix", self.ipv4_prefix, 8..=32), ("ipv6_prefix", self.ipv6_prefix, 16..=64)]
        {
            if !allowed.contains(&length) {
                let message = format!("`{key}` is {length}, which makes no network to count");
                let help = format!("write a length from {} to {}", allowed.start(), allowed.end());
                findings.error(&node.key(key), message, help);
            }
        }
        for (node, network) in node.each("exempt", &self.exempt) {
            check_network(&node, *network, findings);
        }
    }
}

/// Who talks before the greeting does not wait for replies, and few programs but those that send spam do that (RFC 5321 §3.1:
/// the client waits for the greeting).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pregreet {
    /// How long the greeting is held back, and the client listened to. 0: not at all, which is the default because every
    /// honest server waits as long, with a place for its session. 3 to 6 seconds catch most of what is in a hurry. Under
    /// stress a third of it.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub wait: Duration,
    /// What becomes of a client that talks before the greeting: `reject` (554 5.5.1, and the connection is closed), `log`
    /// (it is noted and goes on), `off` (nobody waits).
    pub action: PregreetAction,
    /// Also on submission listeners. Off, since people wait there, and they have to log in.
    pub submission: bool,
}

impl Default for Pregreet {
    fn default() -> Self {
        Self { wait: Duration::ZERO, action: PregreetAction::Reject, submission: false }
    }
}

/// What becomes of a client that talks before the greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PregreetAction {
    /// Nobody waits and nobody looks.
    Off,
    /// It is noted.
    Log,
    /// It is refused.
    Reject,
}

impl PregreetAction {
    /// The word in the configuration, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Log => "log",
            Self::Reject => "reject",
        }
    }
}

/// A greeting that comes later than this is one that clients have given up on (RFC 5321 §4.5.3.2.1 gives it 5 minutes, mail
/// programs less).
const LONGEST_PREGREET: Duration = Duration::from_secs(30);

impl Pregreet {
    pub(crate) fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        if self.wait > LONGEST_PREGREET {
            let message = format!("`wait` is longer than {} s", LONGEST_PREGREET.as_secs());
            findings.error(&node.key("wait"), message, "6s catches as many; each wait holds a place");
        }
    }
}

/// What changes while nearly all places for sessions are taken. Trusted networks, `smtp.clients.exempt` and clients that have
/// logged in keep their times.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Stress {
    /// From this percentage of `smtp.max_connections` on; it ends 10 below. 0: never.
    pub from_percent: u8,
    /// For the next command, instead of `smtp.timeouts.command`, and for a TLS handshake. 10 s is enough for a server that
    /// is at work.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub command: Duration,
    /// The same for a client that has done nothing useful yet: no sender of it was accepted, and it has not logged in.
    /// Their places come free first.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub idle: Duration,
    /// For the next piece of a message, instead of `smtp.timeouts.data_block`.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub data_block: Duration,
    /// Octets of a message in a second, instead of `smtp.min_data_rate`.
    #[serde(deserialize_with = "units::size")]
    #[schemars(with = "String")]
    pub min_data_rate: u64,
}

impl Default for Stress {
    fn default() -> Self {
        Self {
            from_percent: 80,
            command: Duration::from_secs(10),
            idle: Duration::from_secs(4),
            data_block: Duration::from_secs(20),
            min_data_rate: 1000,
        }
    }
}

impl Stress {
    pub(crate) fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        if self.from_percent > 100 {
            let message = format!("`from_percent` is {}, which is never reached", self.from_percent);
            findings.error(&node.key("from_percent"), message, "80 is usual; 0 turns it off");
        }
        for (key, value) in [("command", self.command), ("idle", self.idle), ("data_block", self.data_block)]
        {
            not_zero(node, key, value, findings);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exempt_network_is_known_in_both_forms_of_its_addresses() {
        let clients = Clients { exempt: "192.0.2.0/24".parse().into_iter().collect(), ..Clients::default() };
        for (address, exempt) in [("192.0.2.7", true), ("::ffff:192.0.2.7", true), ("192.0.3.7", false)] {
            assert_eq!(address.parse().map(|address| clients.exempts(address)), Ok(exempt), "{address}");
        }
    }

    #[test]
    fn networks_have_larger_allowances_than_their_addresses() {
        let (address, network) = (Clients::default().of_address(), Clients::default().of_network());
        assert!(address.connections_per_minute < network.connections_per_minute);
        assert!(address.errors_per_hour < network.errors_per_hour);
        assert!(address.unknown_recipients_per_hour < network.unknown_recipients_per_hour);
    }
}
