//! `[tls]`: the certificate of this server.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::check::{private_key, readable};
use crate::source::{Findings, Node};

/// Certificate and key, in PEM. Read again at reload: files that certbot renews work.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The private key. Others than its owner and group should not be able to read it.
    pub key: PathBuf,
    /// Authorities that sign the certificates of clients: names in such certificates count in `relay.certificates` and in
    /// the `certificates` of a login. Left out: only fingerprints do.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
}

impl Tls {
    pub(crate) fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        certificates(&node.key("certificate"), &self.certificate, findings);
        if let Some(authorities) = &self.client_ca {
            certificates(&node.key("client_ca"), authorities, findings);
        }
        private_key(&node.key("key"), "key", &self.key, findings);
    }
}

fn certificates(at: &Node<'_>, path: &Path, findings: &mut Findings<'_>) {
    let content = readable(at, "certificate", path, findings);
    if content.is_some_and(|content| !content.contains("-----BEGIN CERTIFICATE-----")) {
        let message = format!("the file {} holds no certificate in PEM", path.display());
        findings.error(at, message, "it should have a line -----BEGIN CERTIFICATE----- for each certificate");
    }
}
