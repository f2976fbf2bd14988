//! `[tls]`: the certificates of this server, and what is spoken under them.

pub mod algorithms;

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::check::{private_key, readable};
use crate::source::{Findings, Node};
use crate::units;

use algorithms::{Algorithm, CIPHERS, GROUPS, Unknown};

/// Certificate and key, in PEM. Files that certbot renews work: they are read again at a reload, and when they have changed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The chain, leaf first. It is what clients get that ask for no name, or for one that no certificate is for.
    pub certificate: PathBuf,
    /// The private key. Others than its owner and group should not be able to read it.
    pub key: PathBuf,
    /// Authorities that sign the certificates of clients: names in such certificates count in `relay.certificates` and in
    /// the `certificates` of a login. Left out: only fingerprints do.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
    /// The oldest version that is spoken: `"1.2"`, or `"1.3"`, which shuts out mail servers that have only 1.2; many of them then
    /// send in clear.
    #[serde(default)]
    pub min_version: TlsVersion,
    /// Cipher suites, as IANA or OpenSSL names them, and presets: `"default"` is all that there are, `"strong"` those with keys of
    /// 256 bits. A list of names is in the order of the server's preference; otherwise the client's counts.
    #[serde(default = "default_algorithms")]
    pub ciphers: Vec<String>,
    /// Groups for the key exchange, and presets: `"default"` is a post-quantum hybrid, then elliptic curves; `"classic"` the
    /// curves alone; `"post-quantum"` hybrids alone, under TLS 1.3 only.
    #[serde(default = "default_algorithms")]
    pub groups: Vec<String>,
    /// Whether clients may resume a session, which saves most of the cost of a handshake. The keys are in memory only, change
    /// every six hours, and are the same on all listeners.
    #[serde(default = "yes")]
    pub session_tickets: bool,
    /// How often it is looked whether certificates, keys or `client_ca` have changed; `"0s"`: they are read at a reload only.
    #[serde(default = "default_reload_interval", deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub reload_interval: Duration,
    /// A certificate that ends within this time is warned of: in the log once a day, in `posternctl status` and `doctor`. Those
    /// of 90 days are renewed a month before; with three weeks left that has failed more than once, and there is time to mend it.
    #[serde(default = "Tls::default_expiry_warning", deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub expiry_warning: Duration,
    /// Further certificates.
    #[serde(default)]
    pub certificates: Vec<Certificate>,
}

/// For clients that ask for one of its names. Several for the same names stand side by side where their keys are of different
/// kinds: a client that can use both gets ECDSA, others RSA.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The names that it is shown for, instead of those in it: `"mail.proseware.test"`, or `"*.proseware.test"` for all names
    /// with one more label.
    #[serde(default)]
    pub names: Vec<String>,
}

/// A version of TLS. Older ones are broken (RFC 8996), and never spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    V1_3,
}

fn default_algorithms() -> Vec<String> {
    vec![algorithms::DEFAULT.to_owned()]
}

fn yes() -> bool {
    true
}

fn default_reload_interval() -> Duration {
    Duration::from_secs(60)
}

impl Tls {
    /// One certificate, and the defaults.
    pub fn new(certificate: PathBuf, key: PathBuf) -> Self {
        Self {
            certificate,
            key,
            client_ca: None,
            min_version: TlsVersion::default(),
            ciphers: default_algorithms(),
            groups: default_algorithms(),
            session_tickets: true,
            reload_interval: default_reload_interval(),
            expiry_warning: Self::default_expiry_warning(),
            certificates: Vec::new(),
        }
    }

    /// `expiry_warning` where nothing is said.
    pub fn default_expiry_warning() -> Duration {
        Duration::from_secs(21 * 86_400)
    }

    /// The cipher suites that may be used, in the order of the configuration.
    ///
    /// # Errors
    /// A name that nobody knows; loading refuses it.
    pub fn cipher_suites(&self) -> Result<Vec<&'static Algorithm>, Unknown> {
        algorithms::select(&self.ciphers, &CIPHERS)
    }

    /// The groups of the key exchange that may be used, in the order of preference.
    ///
    /// # Errors
    /// A name that nobody knows; loading refuses it.
    pub fn key_exchange_groups(&self) -> Result<Vec<&'static Algorithm>, Unknown> {
        algorithms::select(&self.groups, &GROUPS)
    }

    /// Whether the configuration gives an order of its own to cipher suites.
    pub fn orders_ciphers(&self) -> bool {
        self.ciphers.iter().any(|name| !algorithms::is_preset(name, &CIPHERS))
    }

    /// Every pair of certificate and key, the default first.
    pub fn pairs(&self) -> impl Iterator<Item = Pair<'_>> {
        let default = Pair { certificate: &self.certificate, key: &self.key, names: &[] };
        let further = self.certificates.iter().map(|Certificate { certificate, key, names }| Pair {
            certificate,
            key,
            names,
        });
        std::iter::once(default).chain(further)
    }

    /// Every file that is named, for resolving.
    pub(crate) fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let pairs = self.certificates.iter_mut().flat_map(|pair| [&mut pair.certificate, &mut pair.key]);
        [&mut self.certificate, &mut self.key].into_iter().chain(&mut self.client_ca).chain(pairs)
    }

    pub(crate) fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        certificates(&node.key("certificate"), &self.certificate, findings);
        if let Some(authorities) = &self.client_ca {
            certificates(&node.key("client_ca"), authorities, findings);
        }
        private_key(&node.key("key"), "key", &self.key, findings);
        for (node, pair) in node.each("certificates", &self.certificates) {
            pair.check(&node, findings);
        }
        self.check_algorithms(node, findings);
    }

    fn check_algorithms(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        let needs_1_3 = self.min_version == TlsVersion::V1_3;
        let ciphers = selected(&node.key("ciphers"), self.cipher_suites(), findings);
        let groups = selected(&node.key("groups"), self.key_exchange_groups(), findings);
        let (Some(ciphers), Some(groups)) = (ciphers, groups) else { return };
        if needs_1_3 && !ciphers.iter().any(|suite| suite.tls13) {
            let message = "`min_version` is \"1.3\", and none of these cipher suites is for TLS 1.3";
            findings.error(&node.key("ciphers"), message, "add such as \"TLS_AES_256_GCM_SHA384\"");
        }
        let speaks_1_2 = !needs_1_3 && ciphers.iter().any(|suite| suite.tls12);
        if speaks_1_2 && !groups.iter().any(|group| group.tls12) {
            let message = "TLS 1.2 has none of these groups, so every handshake with it would fail";
            findings.error(
                &node.key("groups"),
                message,
                "add such as \"X25519\", or set min_version = \"1.3\"",
            );
        }
    }
}

impl Certificate {
    fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        certificates(&node.key("certificate"), &self.certificate, findings);
        private_key(&node.key("key"), "key", &self.key, findings);
        for (node, name) in node.each("names", &self.names) {
            if !is_server_name(name) {
                let help =
                    "write \"mail.proseware.test\" or \"*.proseware.test\", in ASCII (xn-- where it must be)";
                findings.error(&node, format!("{name:?} is not a name that clients ask for"), help);
            }
        }
    }
}

/// A certificate and its key, as the configuration names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair<'a> {
    /// The chain, leaf first.
    pub certificate: &'a Path,
    /// The private key.
    pub key: &'a Path,
    /// The names that it is shown for; none: those in the certificate.
    pub names: &'a [String],
}

/// A host name as clients ask for it (RFC 6066 §3: ASCII, no final dot), or one with `*` for its first label.
fn is_server_name(name: &str) -> bool {
    let host = name.strip_prefix("*.").unwrap_or(name);
    let is_label = |label: &str| {
        let octets = label.as_bytes();
        let inside = octets.iter().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'));
        (1..=63).contains(&octets.len()) && inside && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253 && host.split('.').all(is_label)
}

fn selected(
    at: &Node<'_>,
    selected: Result<Vec<&'static Algorithm>, Unknown>,
    findings: &mut Findings<'_>,
) -> Option<Vec<&'static Algorithm>> {
    match selected {
        Ok(selected) if selected.is_empty() => {
            findings.error(
                at,
                "the list is empty, so nobody could speak TLS",
                "write [\"default\"], or leave it out",
            );
            None
        }
        Ok(selected) => Some(selected),
        Err(Unknown { name, known }) => {
            findings.error(at, format!("{name:?} is not known"), format!("there are {}", known.join(", ")));
            None
        }
    }
}

fn certificates(at: &Node<'_>, path: &Path, findings: &mut Findings<'_>) {
    let content = readable(at, "certificate", path, findings);
    if content.is_some_and(|content| !content.contains("-----BEGIN CERTIFICATE-----")) {
        let message = format!("the file {} holds no certificate in PEM", path.display());
        findings.error(at, message, "it should have a line -----BEGIN CERTIFICATE----- for each certificate");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hosts_or_wildcards() {
        for name in ["mail.proseware.test", "*.proseware.test", "xn--e1afmkfd.test", "a_b.test"] {
            assert!(is_server_name(name), "{name}");
        }
        for name in ["", "*", "*.", "mail.*.test", "-a.test", "a..b", "a.test.", "bücher.test", "a b.test"] {
            assert!(!is_server_name(name), "{name}");
        }
        assert!(!is_server_name(&"a".repeat(64)));
    }
}
