//! `[policy]`: what senders and their domains must be like, and strangers who bring mail.

mod dnsbl;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::check::{at_least_one, not_zero};
use crate::records::Records;
use crate::source::{Findings, Node};
use crate::units;

pub use dnsbl::{AnswerRange, DnsList, ListAction, is_listing};

/// What is asked of the senders of logins, beside the rights of each login.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Whether Reply-To, too, must name addresses only that the login may send as.
    pub check_reply_to: bool,
    /// Whether the owner of a domain may name the only logins that may send for it: a TXT record at `_postern.<domain>`.
    pub owners_lock: bool,
    /// Whether the DNS of a `[[domain]]` must be in order before a login may send from it.
    pub require_verified: RequireVerified,
    /// The addresses that the world sees our mail come from: the SPF record of a domain must cover all of them. Empty: the
    /// public ones of `outbound.source_addresses`; are there none, those that the host name has in DNS.
    #[schemars(with = "Vec<String>")]
    pub public_addresses: Vec<IpAddr>,
    /// How often a `[[domain]]` that is pending or failed is looked up, where `require_verified` is on.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub verify_pending_every: Duration,
    /// How often a verified `[[domain]]` is looked up.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub verify_every: Duration,
    /// After how many of these look-ups in a row, each with a definite answer that something is wrong, a domain has
    /// failed. Trouble with DNS is no answer.
    pub verify_failures: u32,
    /// How long what DNS said about the domain of a sender (owner's lock, SPF) is taken as it is. After that the resolver
    /// is asked again, which keeps answers for their TTL.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub sender_dns_refresh: Duration,
    /// Files with questions and the answers that these rules must give. They are asked by `posternd check`, at the start and at
    /// every reload; with a wrong answer the configuration does not load. A start goes on where the rules are only more closed
    /// than expected.
    pub tests: Vec<PathBuf>,
    /// Lists in DNS that clients are looked up in who are strangers here: on the MX port, in no trusted network, without a grant.
    /// `postmaster` and `abuse` of our domains get their mail all the same (RFC 5321 section 4.5.1).
    pub dnsbl: Vec<DnsList>,
    /// From which weight of all lists together a client is refused.
    pub dnsbl_threshold: u32,
    /// How long the client waits at RCPT for all lists, which are asked at once. One that has not answered lists nobody.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub dnsbl_timeout: Duration,
    /// Clients that are never looked up.
    #[schemars(with = "Vec<String>")]
    pub dnsbl_exempt: Vec<IpNet>,
    /// Whether loopback and private addresses are looked up, too: for lists of your own.
    pub dnsbl_private: bool,
    /// What is kept of refusals, so that their references can be explained.
    pub records: Records,
}

/// What `require_verified` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RequireVerified {
    /// Nothing; nobody looks.
    #[default]
    Off,
    /// Mail from a domain that is not verified is taken; it is logged, and `posternctl status` says so.
    Warn,
    /// Mail from a domain that is not verified is refused.
    Enforce,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            check_reply_to: false,
            owners_lock: false,
            require_verified: RequireVerified::Off,
            public_addresses: Vec::new(),
            verify_pending_every: Duration::from_secs(600),
            verify_every: Duration::from_secs(86_400),
            verify_failures: 3,
            sender_dns_refresh: Duration::from_secs(30),
            tests: Vec::new(),
            dnsbl: Vec::new(),
            dnsbl_threshold: 1,
            dnsbl_timeout: Duration::from_secs(5),
            dnsbl_exempt: Vec::new(),
            dnsbl_private: false,
            records: Records::default(),
        }
    }
}

impl Policy {
    pub(crate) fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        not_zero(node, "verify_pending_every", self.verify_pending_every, findings);
        not_zero(node, "verify_every", self.verify_every, findings);
        at_least_one(node, "verify_failures", u64::from(self.verify_failures), findings);
        self.records.check(&node.key("records"), findings);
        dnsbl::check(self, node, findings);
        for (node, address) in node.each("public_addresses", &self.public_addresses) {
            if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
                let help = "write the address that other servers see, or leave the list empty";
                findings.error(&node, format!("no mail comes to others from {address}"), help);
            }
        }
    }
}
