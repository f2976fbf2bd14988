//! `[outbound]`: how mail is sent.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use postern_smtp::Domain;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::account::DomainName;
use crate::check::{at_least_one, not_zero, readable};
use crate::source::{Findings, Node};
use crate::units;

/// Each list is asked about every address of ours.
const MOST_BLOCKLISTS: usize = 50;

/// Deliveries to other servers.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Outbound {
    /// The port of MX hosts. Another than 25 is for tests on one machine.
    pub port: u16,
    /// MX hosts in private, loopback and benchmark networks are skipped unless this is true: a foreign domain must not be
    /// able to point our mail at our own network.
    pub allow_private_targets: bool,
    /// Local addresses to send from; the first of the right family is used. Empty: the system chooses.
    #[schemars(with = "Vec<String>")]
    pub source_addresses: Vec<IpAddr>,
    /// Lists of addresses that send spam (DNSBLs), at which `posternctl doctor blocklists` looks for our own addresses.
    /// Some answer only those who have registered, and many no public resolver. Left out: `zen.spamhaus.org`,
    /// `bl.spamcop.net`, `psbl.surriel.com`.
    #[schemars(with = "Vec<String>")]
    pub blocklists: Vec<DomainName>,
    /// Certificates (PEM) that count as authorities beside the system's, for verified TLS.
    pub ca_file: Option<PathBuf>,
    /// Deliveries at once in all.
    pub max_deliveries: usize,
    /// Connections at once to one destination; reached step by step while deliveries succeed.
    pub max_per_destination: usize,
    /// Connections at once to a destination not seen yet, or just recovered.
    pub initial_per_destination: usize,
    /// How long a destination rests after it could not be reached; doubles up to `destination_back_off_cap`.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub destination_back_off: Duration,
    /// See `destination_back_off`.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub destination_back_off_cap: Duration,
    /// Recipients of one transaction. RFC 5321 §4.5.3.1.8: every server takes 100.
    pub max_recipients: usize,
    /// Messages over one connection.
    pub max_messages_per_connection: usize,
    /// How long an idle connection is kept for the next message.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub idle_connection: Duration,
    /// MX hosts tried in one attempt.
    pub max_hosts: usize,
    /// How long the other side may take.
    pub timeouts: Timeouts,
}

impl Default for Outbound {
    fn default() -> Self {
        Self {
            port: 25,
            allow_private_targets: false,
            source_addresses: Vec::new(),
            blocklists: default_blocklists(),
            ca_file: None,
            max_deliveries: 200,
            max_per_destination: 20,
            initial_per_destination: 5,
            destination_back_off: Duration::from_secs(60),
            destination_back_off_cap: Duration::from_secs(1800),
            max_recipients: 100,
            max_messages_per_connection: 100,
            idle_connection: Duration::from_secs(5),
            max_hosts: 5,
            timeouts: Timeouts::default(),
        }
    }
}

/// Those that many receivers ask, that tell everybody, and that take a listing back without being paid.
fn default_blocklists() -> Vec<DomainName> {
    const LISTS: [&str; 3] = ["zen.spamhaus.org", "bl.spamcop.net", "psbl.surriel.com"];
    LISTS.into_iter().filter_map(|list| Domain::parse(list).ok()).map(DomainName).collect()
}

/// How long each stage of a delivery may take (RFC 5321 §4.5.3.2; connecting and TLS are shorter, as the next host waits).
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// All DNS of one attempt.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub dns: Duration,
    /// One TCP connection.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub connect: Duration,
    /// The TLS handshake.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub handshake: Duration,
    /// The greeting (RFC 5321 §4.5.3.2.1: 5 minutes).
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub greeting: Duration,
    /// Each command (5 minutes).
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub command: Duration,
    /// Each block of data (3 minutes).
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub data_block: Duration,
    /// The reply to the final dot (10 minutes: giving up early means sending twice).
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub data_end: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            dns: Duration::from_secs(15),
            connect: Duration::from_secs(30),
            handshake: Duration::from_secs(30),
            greeting: Duration::from_secs(300),
            command: Duration::from_secs(300),
            data_block: Duration::from_secs(180),
            data_end: Duration::from_secs(600),
        }
    }
}

impl Outbound {
    pub(crate) fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        for (key, value) in [
            ("port", u64::from(self.port)),
            ("max_deliveries", self.max_deliveries as u64),
            ("max_per_destination", self.max_per_destination as u64),
            ("initial_per_destination", self.initial_per_destination as u64),
            ("max_recipients", self.max_recipients as u64),
            ("max_messages_per_connection", self.max_messages_per_connection as u64),
            ("max_hosts", self.max_hosts as u64),
        ] {
            at_least_one(node, key, value, findings);
        }
        if self.initial_per_destination > self.max_per_destination {
            let message = "`initial_per_destination` is above `max_per_destination`";
            findings.error(
                &node.key("initial_per_destination"),
                message,
                "start with fewer connections than the most",
            );
        }
        not_zero(node, "destination_back_off", self.destination_back_off, findings);
        if self.destination_back_off > self.destination_back_off_cap {
            let message = "`destination_back_off` is longer than `destination_back_off_cap`";
            findings.error(&node.key("destination_back_off"), message, "the first rest is the shortest one");
        }
        for (node, address) in node.each("source_addresses", &self.source_addresses) {
            if address.is_unspecified() || address.is_multicast() {
                let help = "leave the list empty to let the system choose";
                findings.error(&node, format!("{address} is no address to send from"), help);
            }
        }
        if self.blocklists.len() > MOST_BLOCKLISTS {
            let message = format!("{} lists are more than {MOST_BLOCKLISTS}", self.blocklists.len());
            findings.error(&node.key("blocklists"), message, "name those that receivers really ask");
        }
        if let Some(path) = &self.ca_file {
            readable(&node.key("ca_file"), "CA file", path, findings);
        }
        self.timeouts.check(&node.key("timeouts"), findings);
    }
}

impl Timeouts {
    /// The longest of them: as long as an attempt may take for one step.
    pub fn longest(&self) -> Duration {
        let Self { dns, connect, handshake, greeting, command, data_block, data_end } = self;
        [dns, connect, handshake, greeting, command, data_block, data_end]
            .into_iter()
            .copied()
            .max()
            .unwrap_or_default()
    }

    fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        for (key, value) in [
            ("dns", self.dns),
            ("connect", self.connect),
            ("handshake", self.handshake),
            ("greeting", self.greeting),
            ("command", self.command),
            ("data_block", self.data_block),
            ("data_end", self.data_end),
        ] {
            not_zero(node, key, value, findings);
        }
    }
}
