//! `[relay]`: who may relay without a login, and for which domains.

mod grant;

use ipnet::IpNet;
use postern_smtp::{Domain, LocalPart};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::source::{Findings, Node};
use crate::surroundings::Surroundings;
use crate::units;

pub use grant::{ClientCertificate, Grant, HostName, Rate, Scope, Temporary};

/// Closed by default: nobody is trusted, not even loopback, until it is listed here.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
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
    /// Local parts that exist there. Left out: any recipient is taken, and the primary's refusals become our reports.
    #[serde(default)]
    pub recipients: Option<Vec<String>>,
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
            grant.check(&node, findings);
        }
        for (node, certificate) in node.each("certificates", &self.certificates) {
            certificate.check(has_ca, &node, findings);
        }
        self.check_sum(node, findings);
        for (node, domain) in node.each("relay_domains", &self.relay_domains) {
            for (node, name) in node.each("recipients", domain.recipients.as_deref().unwrap_or_default()) {
                if let Err(error) = LocalPart::parse(name) {
                    let help = "write the part in front of the \"@\" only";
                    findings.error(&node, format!("{name:?} is not a local part: {error}"), help);
                }
            }
        }
    }

    /// Networks that are harmless each may together be a range that is not, such as two halves of one.
    fn check_sum(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        let harmless: Vec<IpNet> = self
            .trusted_networks
            .iter()
            .filter(|trusted| !trusted.accept_open_relay_risk && danger(trusted.network).is_none())
            .map(|trusted| trusted.network)
            .collect();
        for sum in IpNet::aggregate(&harmless) {
            if let Some(danger) = danger(sum) {
                let message = format!("trusted networks make up {sum} together: {danger}");
                findings.error(&node.key("trusted_networks"), message, HELP);
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
        let gateway = surroundings.gateways.iter().find(|gateway| self.network.contains(*gateway));
        let danger = match (danger(self.network), gateway) {
            (Some(danger), _) => danger,
            (None, Some(gateway)) if surroundings.container => {
                format!(
                    "the default gateway {gateway}, as which the whole internet may appear inside a container"
                )
            }
            _ => return,
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
