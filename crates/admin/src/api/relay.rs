//! Requests and answers about who may relay.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v1/relay` | | [`RelayList`] |
//! | `POST /v1/relay/grant` | [`GrantRequest`] | [`Granted`] |
//! | `POST /v1/relay/revoke` | [`RevokeRequest`] | [`Revoked`] |

use serde::{Deserialize, Serialize};

/// The answer to `GET /v1/relay`: every right to relay without a login, and the domains that are relayed for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayList {
    /// `relay.trusted_networks`.
    pub trusted_networks: Vec<TrustedNetwork>,
    /// `relay.grants`.
    pub grants: Vec<AddressGrant>,
    /// `relay.hosts`.
    pub hosts: Vec<HostName>,
    /// `relay.certificates`.
    pub certificates: Vec<Certificate>,
    /// Rights for a while.
    pub temporary: Temporary,
    /// `relay.relay_domains`.
    pub relay_domains: Vec<RelayDomain>,
}

/// Clients that may send to anywhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustedNetwork {
    /// The network.
    pub network: String,
    /// Its label.
    pub label: String,
}

/// Hosts that may send as some senders to some recipients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressGrant {
    /// Its label.
    pub label: String,
    /// The hosts.
    pub network: String,
    /// As whom, as the configuration says it.
    pub senders: Vec<String>,
    /// To whom, likewise.
    pub recipients: Vec<String>,
    /// How many recipients: `100 recipients an hour`.
    pub rate: String,
    /// How many of these.
    pub limit: u32,
    /// How many of them are used up now.
    pub used: u32,
}

/// A host whose address is looked up again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostName {
    /// The name.
    pub name: String,
    /// Its label.
    pub label: String,
    /// Where it is, as DNS said last.
    pub addresses: Vec<String>,
    /// When DNS said so, in seconds since 1970. `None`: it has not said anything yet.
    pub at: Option<u64>,
    /// Why DNS did not answer the last time, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Whether these addresses may relay now: not any more when DNS has been silent for an hour.
    pub counts: bool,
}

/// A client certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Its label.
    pub label: String,
    /// SHA-256 over it, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// A DNS name in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// `relay.temporary`, and the rights that were given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Temporary {
    /// Whether they count, and new ones can be given.
    pub enabled: bool,
    /// The longest time that one may be given for, in seconds.
    pub max_ttl: u64,
    /// How many there may be at once.
    pub max_grants: usize,
    /// Those whose time is not over, by network.
    pub grants: Vec<TemporaryGrant>,
}

/// A right that ends by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemporaryGrant {
    /// Who has it.
    pub network: String,
    /// Until when, in seconds since 1970.
    pub until: u64,
    /// For how many seconds more.
    pub left: u64,
    /// Why.
    pub reason: String,
}

/// A domain that is relayed for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayDomain {
    /// The domain.
    pub name: String,
    /// `any`, `list` or `call-forward`.
    pub recipients: String,
    /// How many the list has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listed: Option<usize>,
}

/// `POST /v1/relay/grant`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantRequest {
    /// An address, or a network in CIDR notation.
    pub network: String,
    /// For how many seconds.
    pub ttl: u64,
    /// Why, for operators.
    pub reason: String,
    /// Only say whether it could be given.
    #[serde(default)]
    pub dry_run: bool,
}

/// The answer to [`GrantRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// Whether nothing was changed because `dry_run` was asked.
    pub dry_run: bool,
    /// The right as it is in force; with `dry_run` as it would be.
    pub grant: TemporaryGrant,
    /// The one for the same network whose place it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<TemporaryGrant>,
}

/// `POST /v1/relay/revoke`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RevokeRequest {
    /// The addresses or networks, as they were granted.
    pub networks: Vec<String>,
    /// All temporary grants.
    pub all: bool,
    /// Why, for operators.
    pub reason: Option<String>,
    /// Only say which.
    pub dry_run: bool,
}

/// The answer to [`RevokeRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Whether nothing was changed because `dry_run` was asked.
    pub dry_run: bool,
    /// The rights that were taken back.
    pub grants: Vec<RevokedGrant>,
}

/// A right that was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedGrant {
    /// The right as it was.
    #[serde(flatten)]
    pub grant: TemporaryGrant,
    /// What lets the same addresses relay all the same, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub still: Option<String>,
}
