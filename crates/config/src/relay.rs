//! `[relay]`: who may relay without a login, and for which domains.

mod call_forward;
mod grant;
mod recipients;

use std::time::Duration;

use ipnet::IpNet;
use postern_smtp::{Domain, LocalPart};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::check::not_zero;
use crate::source::{Findings, Node};
use crate::surroundings::Surroundings;
use crate::units;

pub use call_forward::CallForward;
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
    /// A whole address family, or a whole private range (RFC 1918, fc00::/7), is refused unless this says so:
    /// such networks are how servers become open relays.
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

/// Whole private ranges (RFC 1918, RFC 4193): whoever trusts one of them trusts networks not yet thought of.
const PRIVATE_RANGES: [&str; 4] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];
/// A shorter prefix is a good part of the internet. No owner of IPv6 addresses has more of them than a /20.
const SHORTEST_V4_PREFIX: u8 = 8;
const SHORTEST_V6_PREFIX: u8 = 20;
/// IPv6 ranges that the internet does not reach: private (RFC 4193) and link-local (RFC 4291 §2.5.6).
const UNREACHABLE_V6: [&str; 2] = ["fc00::/7", "fe80::/10"];

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
        for (node, certificate) in node.each("certificates", &self.certificates) {
            certificate.check(has_ca, &node, findings);
        }
        self.check_sum(node, findings);
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

    /// Networks that are harmless each may together be a range that is not, such as two halves of one. A grant from anybody to
    /// anybody is as good as trust.
    fn check_sum(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        let is_harmless = |network: IpNet, is_accepted: bool| !is_accepted && danger(network).is_none();
        let trusted = self.trusted_networks.iter().map(|entry| (entry.network, entry.accept_open_relay_risk));
        let trusted: Vec<IpNet> =
            trusted.filter(|(network, accepted)| is_harmless(*network, *accepted)).map(|(n, _)| n).collect();
        let open = self.grants.iter().filter(|grant| grant.is_open());
        let open = open.map(|entry| (entry.network, entry.accept_open_relay_risk));
        let open: Vec<IpNet> =
            open.filter(|(network, accepted)| is_harmless(*network, *accepted)).map(|(n, _)| n).collect();
        let of_trusted = IpNet::aggregate(&trusted);
        for sum in &of_trusted {
            if let Some(danger) = danger(*sum) {
                let message = format!("trusted networks make up {sum} together: {danger}");
                findings.error(&node.key("trusted_networks"), message, HELP);
            }
        }
        for sum in IpNet::aggregate(&[trusted, open].concat()) {
            if let Some(danger) = danger(sum).filter(|_| !of_trusted.contains(&sum)) {
                let message = format!(
                    "grants to all senders and recipients and trusted networks make up {sum} together: {danger}"
                );
                findings.error(&node.key("grants"), message, HELP);
            }
        }
    }
}

const HELP: &str = "list the networks of your own clients only; if this is meant, set accept_open_relay_risk = true on the entry";

impl TrustedNetwork {
    fn check(&self, node: &Node<'_>, surroundings: &Surroundings, findings: &mut Findings<'_>) {
        let at = node.key("network");
        host_bits(&at, self.network, findings);
        if let IpNet::V6(network) = self.network
            && network.addr().to_ipv4_mapped().is_some()
        {
            let help = "clients over IPv4 are always compared as IPv4: write the network as 192.0.2.0/24";
            findings.error(&at, format!("{} is an IPv4 network in IPv6 form", self.network), help);
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

/// Why nobody should trust the network inside this container, if so.
fn gateway_in(network: IpNet, surroundings: &Surroundings) -> Option<String> {
    let gateway = surroundings.gateways.iter().find(|gateway| network.contains(*gateway))?;
    let danger =
        format!("the default gateway {gateway}, as which the whole internet may appear inside a container");
    surroundings.container.then_some(danger)
}

/// Why nobody should trust the network, if so.
fn danger(network: IpNet) -> Option<String> {
    if network.prefix_len() == 0 {
        return Some("a whole address family: an open relay".to_owned());
    }
    let covers = |range: &&&str| range.parse::<IpNet>().is_ok_and(|range| network.contains(&range));
    if let Some(range) = PRIVATE_RANGES.iter().find(|range| covers(range)) {
        return Some(format!("all of the private range {range}"));
    }
    let within = |range: &&str| range.parse::<IpNet>().is_ok_and(|range| range.contains(&network));
    let shortest = match network {
        IpNet::V4(_) => SHORTEST_V4_PREFIX,
        IpNet::V6(_) if UNREACHABLE_V6.iter().any(within) => return None,
        IpNet::V6(_) => SHORTEST_V6_PREFIX,
    };
    (network.prefix_len() < shortest).then(|| "a large part of the internet".to_owned())
}

/// `192.0.2.1/24` is most likely meant to be something else: one address, or the network 192.0.2.0/24.
pub(crate) fn host_bits(node: &Node<'_>, network: IpNet, findings: &mut Findings<'_>) {
    let truncated = network.trunc();
    if truncated != network {
        let single = IpNet::from(network.addr());
        let help = format!("write {truncated} for the network or {single} for the one address");
        findings.error(node, format!("{network} has host bits set"), help);
    }
}
