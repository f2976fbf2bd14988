//! `[[domain]]`: a domain whose mailboxes are here.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use postern_smtp::{Address, AddressError, LocalPart};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::check::{private_key, template};
use crate::source::{Findings, Node};
use crate::units;

/// A local domain. Its `postmaster` always exists.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Domain {
    /// The domain; names below it are not included.
    #[serde(with = "units::domain")]
    #[schemars(with = "String")]
    pub name: postern_smtp::Domain,
    /// Local parts that have a mailbox. Case is folded.
    #[serde(default)]
    pub mailboxes: Vec<String>,
    /// Local part to addresses, local ones with or without "@domain", others anywhere. Chains are followed.
    #[serde(default)]
    pub aliases: BTreeMap<String, Vec<String>>,
    /// Where mail for unknown local parts goes. Left out: refused with 550 5.1.1.
    #[serde(default)]
    pub catch_all: Option<String>,
    /// What separates a mailbox from a detail, as in `alice+news`. Empty: no subaddresses.
    #[serde(default = "default_delimiter")]
    pub subaddress_delimiter: String,
    /// The Maildir of a mailbox; `{domain}` and `{local}` are replaced. Default: `<queue.path>/mail/{domain}/{local}`.
    #[serde(default)]
    pub maildir: Option<PathBuf>,
    /// Keys that sign mail from this domain; several sign side by side.
    #[serde(default)]
    pub dkim: Vec<DkimKey>,
}

impl Domain {
    /// Reads a target of an alias or a catch-all: an address, or a local part of this domain.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn target(&self, text: &str) -> Result<Address, AddressError> {
        match Address::parse(text) {
            Err(AddressError::NoDomain) => Ok(Address::new(LocalPart::parse(text)?, self.name.clone())),
            result => result,
        }
    }
}

fn default_delimiter() -> String {
    "+".to_owned()
}

/// A DKIM key (RFC 6376, RFC 8463).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DkimKey {
    /// The selector: the key is published at `<selector>._domainkey.<domain>`.
    pub selector: String,
    /// The private key in PEM (PKCS#8): RSA of at least 2048 bits, or Ed25519.
    pub key: PathBuf,
}

impl Domain {
    pub(crate) fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        let mut mailboxes = HashSet::new();
        for (node, name) in node.each("mailboxes", &self.mailboxes) {
            local_part(&node, name, &mut mailboxes, findings);
        }
        let mut aliases = HashSet::new();
        for (name, targets) in &self.aliases {
            let node = node.key("aliases");
            local_part(&node.name(name), name, &mut aliases, findings);
            if targets.is_empty() {
                let help = "name somebody, or remove the alias";
                findings.error(&node.key(name), format!("the alias {name:?} leads to nobody"), help);
            }
        }
        if self.subaddress_delimiter.contains(['@', ' ']) {
            findings.error(
                &node.key("subaddress_delimiter"),
                "no local part can hold that",
                "\"+\" is usual",
            );
        }
        if let Some(maildir) = &self.maildir {
            template(&node.key("maildir"), maildir, findings);
        }
        let mut selectors = HashSet::new();
        for (node, key) in node.each("dkim", &self.dkim) {
            key.check(&node, findings);
            if !selectors.insert(key.selector.to_lowercase()) {
                let message = format!("the selector {:?} is there twice", key.selector);
                findings.error(
                    &node.key("selector"),
                    message,
                    "each key is published under a selector of its own",
                );
            }
        }
    }
}

/// A local part of ours, without case, that must be unlike those before it.
fn local_part(node: &Node<'_>, name: &str, seen: &mut HashSet<String>, findings: &mut Findings<'_>) {
    match LocalPart::parse(name) {
        Err(error) => {
            let help = "write the part in front of the \"@\" only";
            findings.error(node, format!("{name:?} is not a local part: {error}"), help);
        }
        Ok(local) if !seen.insert(local.folded()) => {
            findings.error(
                node,
                format!("{name:?} is there twice"),
                "upper and lower case are the same name here",
            );
        }
        Ok(_) => {}
    }
}

impl DkimKey {
    fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        if let Err(error) = postern_smtp::Domain::parse(&self.selector) {
            let message = format!("{:?} is not a selector: {error}", self.selector);
            findings.error(&node.key("selector"), message, "letters, digits and hyphens, such as \"2026a\"");
        }
        private_key(&node.key("key"), "DKIM key", &self.key, findings);
    }
}
