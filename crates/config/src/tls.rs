//! `[tls]`: the certificate of this server.

use std::path::PathBuf;

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
}

impl Tls {
    pub(crate) fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        let at = node.key("certificate");
        let chain = readable(&at, "certificate", &self.certificate, findings);
        if chain.is_some_and(|chain| !chain.contains("-----BEGIN CERTIFICATE-----")) {
            let message = format!("the file {} holds no certificate in PEM", self.certificate.display());
            findings.error(
                &at,
                message,
                "it should have a line -----BEGIN CERTIFICATE----- for each of the chain",
            );
        }
        private_key(&node.key("key"), "key", &self.key, findings);
    }
}
