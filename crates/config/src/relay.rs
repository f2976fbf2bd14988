//! `[relay]`: who may relay without a login, and for which domains.

mod call_forward;
mod danger;
mod grant;
mod recipients;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::time::Duration;

use ipnet::IpNet;
use postern_smtp::{Domain, LocalPart};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::check::not_zero;
use crate::source::{Findings, Node};
use crate::surroundings::Surroundings;
use crate::units;

use danger::{HELP, danger, gateway_in};

pub use call_forward::CallForward;
pub use danger::refused_for_a_while;
pub(crate) use grant::fingerprint;
pub use grant::{ClientCertificate, Grant, HostName, Rate, Scope, Temporary};
pub use recipients::Recipients;

/// Closed by default: nobody is trusted, not even loopback, until it is listed here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Relay {
    /// Clients that may send to anywhere, without a login.
    pub trusted_networks: Vec<TrustedNetwork>,
    /// Domains of others that we take mail for and pass on: backup MX, gateway.
    pub relay_domains: Vec<RelayDomain>,
    /// Hosts that may send as some senders to some recipients, without a login.
    pub grants: Vec<Grant>,
    /// Hosts with changing addresses that may send to anywhere, without a login.
    pub hosts: Vec<HostName>,
    /// Clients that may send to anywhere because of the certificate they show.
    pub certificates: Vec<ClientCertificate>,
    /// Rights for a while.
    pub temporary: Temporary,
    /// How often the addresses of `hosts` are looked up. What DNS has said is asked for again when its TTL is over.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub host_refresh: Duration,
    /// How the servers of relay domains are asked for recipients.
    pub call_forward: CallForward,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            trusted_networks: Vec::new(),
            relay_domains: Vec::new(),
            grants: Vec::new(),
            hosts: Vec::new(),
            certificates: Vec::new(),
            temporary: Temporary::default(),
            host_refresh: Duration::from_secs(60),
            call_forward: CallForward::default(),
        }
    }
}

/// A network whose clients may relay.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustedNetwork {
    /// CIDR, such as `"192.0.2.0/24"`; host bits must be zero.
    #[schemars(with = "String")]
    pub network: IpNet,
    /// A name for logs and explanations: who are they?
    pub label: String,
    /// A whole address family, a whole private range (RFC 1918, fc00::/7), or more public addresses than a /12 of IPv4 or a
    /// /20 of IPv6 has, is refused unless this says so: such networks are how servers become open relays.
    #[serde(default)]
    pub accept_open_relay_risk: bool,
}

/// A domain that we relay for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RelayDomain {
    /// The domain; names below it are not included.
    #[serde(with = "units::domain")]
    #[schemars(with = "String")]
    pub name: Domain,
    /// Who exists there: a list of local parts; `"call-forward"`, then the server that the domain's mail goes to is asked at
    /// RCPT, see `[relay.call_forward]`; or `"any"`, then any recipient is taken, and the primary's refusals become our reports.
    #[serde(default)]
    pub recipients: Recipients,
}

impl Relay {
    pub(crate) fn check(
        &self,
        has_ca: bool,
        node: &Node<'_>,
        surroundings: &Surroundings,
        findings: &mut Findings<'_>,
    ) {
        for (node, trusted) in node.each("trusted_networks", &self.trusted_networks) {
            trusted.check(&node, surroundings, findings);
        }
        for (node, grant) in node.each("grants", &self.grants) {
            grant.check(&node, surroundings, findings);
        }
        for (node, host) in node.each("hosts", &self.hosts) {
            if host.name.as_str().rsplit('.').next().is_some_and(|top| top.eq_ignore_ascii_case("invalid")) {
                let help = "write the name that leads to the address of the host";
                findings.warning(
                    &node.key("name"),
                    format!("{} is nobody's name (RFC 6761)", host.name),
                    help,
                );
            }
        }
        for (node, certificate) in node.each("certificates", &self.certificates) {
            certificate.check(has_ca, &node, findings);
        }
        self.check_sum(node, findings);
        self.check_repeated(node, findings);
        not_zero(node, "host_refresh", self.host_refresh, findings);
        self.call_forward.check(&node.key("call_forward"), findings);
        for (node, domain) in node.each("relay_domains", &self.relay_domains) {
            for (node, name) in node.each("recipients", domain.recipients.listed()) {
                if let Err(error) = LocalPart::parse(name) {
                    let help = "write the part in front of the \"@\" only";
                    findings.error(&node, format!("{name:?} is not a local part: {error}"), help);
                }
            }
        }
    }
}

impl Relay {
    /// What is told apart by a key must not have it twice: the second one would count as the first, or not at all.
    fn check_repeated(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        let labels: Vec<_> = self.grants.iter().map(|grant| Some(grant.label.trim())).collect();
        for (first, again) in repeated(&labels) {
            let first = findings.place(&node.key("grants").item(first).key("label"));
            let help =
                format!("the first is at {first}; give this one another label: rates are counted by it");
            let at = node.key("grants").item(again).key("label");
            findings.error(&at, format!("two grants have the label {:?}", self.grants[again].label), help);
        }
        let keys: Vec<_> = self.certificates.iter().map(ClientCertificate::key).collect();
        for (first, again) in repeated(&keys) {
            let is_name = self.certificates[again].sha256.is_none();
            let (key, noun) = if is_name { ("name", "name") } else { ("sha256", "fingerprint") };
            let list = node.key("certificates");
            let first = findings.place(&list.item(first).key(key));
            let help = format!("the first is at {first}; remove one of them");
            let certificate = self.certificates[again].key().unwrap_or_default();
            findings.error(
                &list.item(again).key(key),
                format!("the {noun} {certificate} is there twice"),
                help,
            );
        }
    }
}

/// Places of values that are there twice: that of the first, and that of the other. `None` is unlike anything.
fn repeated<T: Eq + Hash>(values: &[Option<T>]) -> Vec<(usize, usize)> {
    let mut seen = HashMap::new();
    let mut found = Vec::new();
    for (at, value) in values.iter().enumerate() {
        let Some(value) = value else { continue };
        match seen.entry(value) {
            Entry::Occupied(first) => found.push((*first.get(), at)),
            Entry::Vacant(free) => drop(free.insert(at)),
        }
    }
    found
}

impl TrustedNetwork {
    fn check(&self, node: &Node<'_>, surroundings: &Surroundings, findings: &mut Findings<'_>) {
        let at = node.key("network");
        if !check_network(&at, self.network, findings) {
            return;
        }
        let Some(danger) = danger(self.network).or_else(|| gateway_in(self.network, surroundings)) else {
            return;
        };
        let message = format!("trusting {} ({}) would relay for {danger}", self.network, self.label);
        risk(&at, message, self.accept_open_relay_risk, findings);
    }
}

/// A network that is too large is an error, unless its entry says that this is known.
fn risk(at: &Node<'_>, message: String, is_accepted: bool, findings: &mut Findings<'_>) {
    match is_accepted {
        true => findings.warning(at, message, "accept_open_relay_risk = true lets it load"),
        false => findings.error(at, message, HELP),
    }
}

/// Whether a network is what its writer means. `192.0.2.1/24` is most likely one address, or the network 192.0.2.0/24; and
/// clients over IPv4 are compared as IPv4, so that the IPv6 form of a network holds nobody.
pub(crate) fn check_network(node: &Node<'_>, network: IpNet, findings: &mut Findings<'_>) -> bool {
    if let Some(v4) = mapped(network) {
        let help = format!("clients over IPv4 are always compared as IPv4: write the network as {v4}");
        findings.error(node, format!("{network} is an IPv4 network in IPv6 form"), help);
        return false;
    }
    let truncated = network.trunc();
    if truncated != network {
        let single = IpNet::from(network.addr());
        let help = format!("write {truncated} for the network or {single} for the one address");
        findings.error(node, format!("{network} has host bits set"), help);
        return false;
    }
    true
}

/// The IPv4 network that is meant by `::ffff:192.0.2.0/120`.
fn mapped(network: IpNet) -> Option<IpNet> {
    let IpNet::V6(v6) = network else { return None };
    let address = v6.addr().to_ipv4_mapped()?;
    let bits = v6.prefix_len().checked_sub(96)?;
    IpNet::new(address.into(), bits).ok().map(|network| network.trunc())
}
