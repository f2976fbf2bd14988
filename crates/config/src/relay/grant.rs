//! Rights to relay that are narrower than a trusted network, or hang on something else than an address.

use std::time::Duration;

use ipnet::IpNet;
use postern_smtp::{Address, Domain, ReversePath};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::source::{Findings, Node};
use crate::surroundings::Surroundings;
use crate::units;

/// A right of some hosts to send as some senders to some recipients, at some rate: for printers, monitoring, services that
/// cannot log in. Every field must be there: one that is left out would have to mean "nobody".
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// A name for logs and explanations, no two alike: what is it for? The rate is counted by it.
    pub label: String,
    /// The hosts: CIDR, such as `"192.0.2.40/32"`; host bits must be zero.
    #[schemars(with = "String")]
    pub network: IpNet,
    /// Senders: `"scanner@proseware.test"`, `"@proseware.test"`, `"<>"` for the null sender, `"*"` for all.
    pub senders: Vec<String>,
    /// Recipients: `"bob@adatum.test"`, `"@adatum.test"`, `"*"` for all.
    pub recipients: Vec<String>,
    /// Recipients in a time, such as `"100/h"`: in a second, minute, hour or day (s, m, h, d).
    #[schemars(with = "String")]
    pub rate: Rate,
    /// As for a trusted network: whole families, whole private ranges and large parts of the internet are refused unless this
    /// says so.
    #[serde(default)]
    pub accept_open_relay_risk: bool,
}

/// So many in so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u32,
    /// In which time.
    pub per: Duration,
}

impl Rate {
    /// Reads `100/h`.
    ///
    /// # Errors
    /// The text says what is accepted.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not a rate: write a number, a slash and s, m, h or d, such as \"100/h\"");
        let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
        let count = count.trim().parse().ok().filter(|count| *count > 0).ok_or_else(wrong)?;
        let seconds = match unit.trim() {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return Err(wrong()),
        };
        Ok(Self { count, per: Duration::from_secs(seconds) })
    }
}

impl std::fmt::Display for Rate {
    /// `100 recipients an hour`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unit = match self.per.as_secs() {
            1 => "a second",
            60 => "a minute",
            3600 => "an hour",
            _ => "a day",
        };
        write!(f, "{} recipient{} {unit}", self.count, if self.count == 1 { "" } else { "s" })
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// One entry of `senders` or `recipients`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// One address.
    Address(Address),
    /// Every address of a domain.
    Domain(Domain),
    /// The null sender.
    Null,
    /// Everything.
    All,
}

impl Scope {
    /// Reads `user@domain`, `@domain`, `<>` or `*`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "*" => Ok(Self::All),
            "<>" => Ok(Self::Null),
            _ => match text.strip_prefix('@') {
                Some(domain) => Domain::parse(domain).map(Self::Domain).map_err(|error| error.to_string()),
                None => Address::parse(text).map(Self::Address).map_err(|error| error.to_string()),
            },
        }
    }

    /// Whether an address is in it. Case is folded.
    pub fn holds(&self, address: &Address) -> bool {
        match self {
            Self::Address(own) => own.folded() == address.folded(),
            Self::Domain(domain) => address.domain() == Some(domain),
            Self::Null => false,
            Self::All => true,
        }
    }

    /// Whether a sender is in it.
    pub fn holds_sender(&self, sender: &ReversePath) -> bool {
        match sender {
            ReversePath::Null => matches!(self, Self::Null | Self::All),
            ReversePath::Address(address) => self.holds(address),
        }
    }
}

/// A host with an address that changes: whoever has an address of the name may relay. The name is looked up again and again.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HostName {
    /// The name, which must lead to the client's address.
    #[serde(with = "units::domain")]
    #[schemars(with = "String")]
    pub name: Domain,
    /// A name for logs and explanations: who is it?
    pub label: String,
}

/// A client certificate that may relay: by its fingerprint, or by a name in it where `tls.client_ca` has signed it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificate {
    /// SHA-256 over the certificate, in hexadecimal with or without colons, as `openssl x509 -fingerprint -sha256` prints it, with
    /// or without its `sha256 Fingerprint=`.
    #[serde(default)]
    pub sha256: Option<String>,
    /// A DNS name of the certificate, which must be signed by `tls.client_ca`.
    #[serde(default)]
    pub name: Option<String>,
    /// A name for logs and explanations: who is it?
    pub label: String,
}

impl ClientCertificate {
    /// The fingerprint as it is compared: lower case, no colons. `None`: there is none, or it is not one.
    pub fn fingerprint(&self) -> Option<String> {
        fingerprint(self.sha256.as_deref()?)
    }

    /// What it is found by: its fingerprint, or its name in lower case.
    pub fn key(&self) -> Option<String> {
        self.fingerprint().or_else(|| self.name.as_ref().map(|name| name.to_lowercase()))
    }
}

/// A SHA-256 fingerprint as it is compared: lower case, no colons. openssl names the hash before it.
pub(crate) fn fingerprint(text: &str) -> Option<String> {
    let text = match text.split_once('=') {
        Some((name, rest)) if name.trim().eq_ignore_ascii_case("sha256 fingerprint") => rest,
        _ => text,
    };
    let folded: String = text.trim().chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).collect();
    let is_one = folded.len() == 64 && folded.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_one.then_some(folded)
}

/// Rights for a while, given with `posternctl relay grant`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Temporary {
    /// Whether such rights can be given and count.
    pub enabled: bool,
    /// The longest time that one may be given for.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub max_ttl: Duration,
    /// Rights at once; some 200 octets each.
    pub max_grants: usize,
}

impl Default for Temporary {
    fn default() -> Self {
        Self { enabled: false, max_ttl: Duration::from_secs(86_400), max_grants: 10_000 }
    }
}

impl Grant {
    /// Whether it is for any sender and any recipient: then it is as good as trust.
    pub(crate) fn is_open(&self) -> bool {
        let is_all = |list: &[String]| list.iter().any(|text| text == "*");
        is_all(&self.senders) && is_all(&self.recipients)
    }

    pub(crate) fn check(&self, node: &Node<'_>, surroundings: &Surroundings, findings: &mut Findings<'_>) {
        if self.label.trim().is_empty() {
            let help = "say what the grant is for: logs, explanations and its rate go by the label";
            findings.error(&node.key("label"), "a grant without a label", help);
        }
        if !super::check_network(&node.key("network"), self.network, findings) {
            return;
        }
        let behind_gateway = || super::gateway_in(self.network, surroundings).filter(|_| self.is_open());
        if let Some(danger) = super::danger(self.network).or_else(behind_gateway) {
            super::risk(
                &node.key("network"),
                format!("the grant {:?} would relay for {danger}", self.label),
                self.accept_open_relay_risk,
                findings,
            );
        }
        for (key, list) in [("senders", &self.senders), ("recipients", &self.recipients)] {
            if list.is_empty() {
                let message = format!("the grant {:?} names no {key}: it allows nothing", self.label);
                findings.error(&node.key(key), message, "name them, or write [\"*\"] for all");
            }
            for (node, text) in node.each(key, list) {
                if let Err(error) = Scope::parse(text) {
                    let help = "write an address, \"@domain\", \"<>\" for the null sender, or \"*\" for all";
                    findings.error(&node, format!("{text:?} cannot be granted: {error}"), help);
                }
            }
        }
        if self.recipients.iter().any(|text| text == "<>") {
            let help = "the null address is a sender only";
            findings.error(&node.key("recipients"), "nothing can be sent to the null address", help);
        }
    }
}

impl ClientCertificate {
    pub(crate) fn check(&self, has_ca: bool, node: &Node<'_>, findings: &mut Findings<'_>) {
        if self.sha256.is_some() == self.name.is_some() {
            let help = "write sha256 = \"...\" for one certificate, or name = \"...\" for those that tls.client_ca has signed";
            let message = format!("the certificate {:?} needs either sha256 or name", self.label);
            findings.error(node, message, help);
        }
        if let Some(text) = &self.sha256
            && self.fingerprint().is_none()
        {
            let help = "`openssl x509 -noout -fingerprint -sha256 -in FILE` prints it";
            findings.error(&node.key("sha256"), format!("{text:?} is not a SHA-256 fingerprint"), help);
        }
        if self.fingerprint().is_some_and(|found| found.bytes().all(|byte| byte == b'0')) {
            let help = "`openssl x509 -noout -fingerprint -sha256 -in FILE` prints that of a certificate";
            findings.warning(&node.key("sha256"), "only zeros: no certificate has this fingerprint", help);
        }
        if self.name.is_some() && !has_ca {
            let help = "set tls.client_ca to the file of the authority, or use sha256";
            findings.error(&node.key("name"), "a name counts only where an authority has signed it", help);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn rates_are_read_and_said() {
        assert_eq!(Rate::parse("100/h").unwrap().to_string(), "100 recipients an hour");
        assert_eq!(Rate::parse(" 1 / m ").unwrap().to_string(), "1 recipient a minute");
        for text in ["", "100", "100/w", "0/h", "-1/h", "h/100", "1.5/h"] {
            assert!(Rate::parse(text).unwrap_err().contains("100/h"), "{text}");
        }
    }

    #[test]
    fn a_scope_holds_what_it_names() {
        let address = |text: &str| Address::parse(text).unwrap();
        let scope = |text: &str| Scope::parse(text).unwrap();
        assert!(scope("Scanner@proseware.test").holds(&address("scanner@PROSEWARE.test")));
        assert!(!scope("scanner@proseware.test").holds(&address("scanner+x@proseware.test")));
        assert!(scope("@proseware.test").holds(&address("x@proseware.test")));
        assert!(!scope("@proseware.test").holds(&address("x@sub.proseware.test")));
        assert!(scope("*").holds_sender(&ReversePath::Null) && scope("<>").holds_sender(&ReversePath::Null));
        assert!(!scope("@proseware.test").holds_sender(&ReversePath::Null));
        assert!(Scope::parse("proseware.test").is_err());
    }

    #[test]
    fn a_fingerprint_is_read_with_or_without_colons() {
        let certificate = |text: &str| ClientCertificate {
            sha256: Some(text.to_owned()),
            name: None,
            label: "gateway".to_owned(),
        };
        let colons = ["AB"; 32].join(":");
        assert_eq!(certificate(&colons).fingerprint(), Some("ab".repeat(32)));
        for printed in ["sha256 Fingerprint=", "SHA256 Fingerprint="] {
            let printed = format!("{printed}{colons}\n");
            assert_eq!(certificate(&printed).fingerprint(), Some("ab".repeat(32)), "{printed}");
        }
        assert_eq!(certificate(&format!("sha1 Fingerprint={colons}")).fingerprint(), None);
        assert_eq!(certificate("abcd").fingerprint(), None);
        assert_eq!(certificate(&"zz".repeat(32)).fingerprint(), None);
    }
}
