//! `[auth]` and `accounts.toml`: the logins.

use std::path::PathBuf;

use ipnet::IpNet;
use postern_smtp::{Address, AddressError, Domain};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::auth::{self, AppPassword, Guessing, Limits, LoginState, OwnLimits, Signs};
use crate::backend::{Backend, Unlisted};
use crate::check::no_duplicates;
use crate::oauth::OAuth;
use crate::password_hash;
use crate::relay::fingerprint;
use crate::scram::{self, Mechanism, ScramHash, Verifier};
use crate::source::{Findings, Node};

/// Where logins are kept.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// The file of `[[account]]` entries; `posternctl account` edits it. It may be missing: then nobody can log in.
    pub accounts: PathBuf,
    /// Password checks at once. Each takes 19 MiB and some 30 ms of one core (argon2id); more wait.
    pub max_password_checks: usize,
    /// The SASL mechanisms that logins are taken with, on submission ports and under TLS. Left out: `plain` and `login`;
    /// `scram-sha-256` as soon as it keeps nobody out, that is, when every login with a password has a SCRAM verifier and none
    /// has app passwords; and `external` for clients with a certificate that an account lists. With `[auth.oauth]` also
    /// `oauthbearer` and `xoauth2`; with `[auth.backend]`, which cannot prove a password, not `scram-sha-256`.
    pub mechanisms: Option<Vec<Mechanism>>,
    /// How much a login may send, where its own `limits` say nothing else.
    pub limits: Limits,
    /// What looks as if a login were in the wrong hands.
    pub signs: Signs,
    /// What becomes of clients that guess passwords.
    pub guessing: Guessing,
    /// What logins may do that `accounts.toml` does not name.
    pub unlisted: Unlisted,
    /// Another system that knows passwords.
    pub backend: Option<Box<Backend>>,
    /// Tokens in the place of passwords.
    pub oauth: Option<Box<OAuth>>,
}

impl Auth {
    /// Whether a login can be known that `accounts.toml` does not name.
    pub fn asks_others(&self) -> bool {
        self.backend.is_some() || self.oauth.is_some()
    }

    /// The hashes that verifiers are written for where a password is set.
    pub fn verifiers(&self) -> Vec<ScramHash> {
        let Some(listed) = &self.mechanisms else { return vec![ScramHash::Sha256] };
        let of_mechanism = |mechanism: &Mechanism| match mechanism {
            Mechanism::ScramSha256 => Some(ScramHash::Sha256),
            Mechanism::ScramSha1 => Some(ScramHash::Sha1),
            Mechanism::Plain
            | Mechanism::Login
            | Mechanism::External
            | Mechanism::OAuthBearer
            | Mechanism::XOAuth2 => None,
        };
        listed.iter().filter_map(of_mechanism).collect()
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            accounts: "accounts.toml".into(),
            max_password_checks: 4,
            mechanisms: None,
            limits: Limits::default(),
            signs: Signs::default(),
            guessing: Guessing::default(),
            unlisted: Unlisted::default(),
            backend: None,
            oauth: None,
        }
    }
}

/// The content of `accounts.toml`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountsFile {
    /// The logins.
    #[serde(default, rename = "account")]
    pub accounts: Vec<Account>,
}

/// One login.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// What the client logs in with; an address is usual, and is then one that the login may send as. Case is folded.
    pub name: String,
    /// The hash of the password: argon2id (`$argon2id$...`), as `posternctl` writes it, or one of another system: bcrypt
    /// (`$2b$...`), SHA-crypt (`$5$...`, `$6$...`), yescrypt (`$y$...`). Only who lists `certificates` may leave it out, or whom
    /// `[auth.backend]` or `[auth.oauth]` knows: then the entry says what the login may do.
    #[serde(default)]
    pub password: String,
    /// What SCRAM-SHA-256 proves the same password with, as PostgreSQL writes it: `SCRAM-SHA-256$...`. `posternctl account
    /// add` and `account password` write it; without it the login cannot use that mechanism.
    #[serde(default, deserialize_with = "scram::optional")]
    #[schemars(with = "Option<String>")]
    pub scram: Option<Verifier>,
    /// The same for SCRAM-SHA-1, where `auth.mechanisms` lists it.
    #[serde(default, deserialize_with = "scram::optional")]
    #[schemars(with = "Option<String>")]
    pub scram_sha1: Option<Verifier>,
    /// Certificates that a client may log in with (SASL EXTERNAL): SHA-256 fingerprints, and DNS names of certificates that
    /// `tls.client_ca` has signed.
    #[serde(default)]
    pub certificates: Vec<String>,
    /// Which senders the login may use.
    #[serde(default)]
    pub permission: Permission,
    /// Domains whose every address the login may send as.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub domains: Vec<DomainName>,
    /// Further addresses (`"shared@proseware.test"`) and domains (`"@adatum.test"`) the login may send as; `"*"` is
    /// every address.
    #[serde(default)]
    pub send_as: Vec<String>,
    /// With `permission = "any"`: only domains whose SPF record lets this server send for them, beside those that are
    /// granted by name. While DNS does not answer, the mail is deferred.
    #[serde(default)]
    pub any_if_spf: bool,
    /// Whether the login may be used. In any other state than `"active"` it is refused, after the right password at AUTH
    /// and in an open session at the next MAIL or RCPT and at the end of data; mail that waits already is sent.
    #[serde(default)]
    pub state: LoginState,
    /// Why it is in that state, for operators.
    #[serde(default)]
    pub state_reason: Option<String>,
    /// The only networks that the login may be used from: CIDR. Empty: from everywhere.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub networks: Vec<IpNet>,
    /// Further passwords, each for one program or device.
    #[serde(default)]
    pub app_passwords: Vec<AppPassword>,
    /// How much it may send, where that is not as `[auth.limits]` has it.
    #[serde(default)]
    pub limits: OwnLimits,
}

impl std::fmt::Debug for Account {
    /// Without the password hash: it must not reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account")
            .field("name", &self.name)
            .field("permission", &self.permission)
            .finish_non_exhaustive()
    }
}

/// One entry of `send_as`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendAs {
    /// One address.
    Address(Address),
    /// Every address of a domain.
    Domain(Domain),
    /// Every address at all.
    Anything,
}

impl SendAs {
    /// Reads `user@domain`, `@domain` or `*`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text == "*" {
            return Ok(Self::Anything);
        }
        match text.strip_prefix('@') {
            Some(domain) => Domain::parse(domain).map(Self::Domain),
            None => Address::parse(text).map(Self::Address),
        }
    }
}

/// One entry of `certificates`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListedCertificate {
    /// SHA-256 over the certificate, in hexadecimal, lower case, without colons.
    Fingerprint(String),
    /// A DNS name of it, in lower case.
    Name(String),
}

impl ListedCertificate {
    /// Reads a fingerprint, with colons or without, or a name. `None`: it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        let name = || Domain::parse(text).ok().map(|name| Self::Name(name.as_str().to_lowercase()));
        fingerprint(text).map(Self::Fingerprint).or_else(name)
    }

    /// As it is compared.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Fingerprint(text) | Self::Name(text) => text,
        }
    }
}

/// A domain in a list.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(transparent)]
pub struct DomainName(#[serde(with = "crate::units::domain")] pub Domain);

/// Which senders a login may use: its permission mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// Its own name, `domains` and `send_as`.
    #[default]
    Listed,
    /// Any address of a `[[domain]]` of this server; relay domains are not among them.
    Local,
    /// Any address at all.
    Any,
}

/// A wrong password is compared with each.
const MOST_APP_PASSWORDS: usize = 20;

/// What of the rest of the configuration a login hangs on; not known where that cannot be read.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Around {
    /// Whether names in certificates count.
    pub has_ca: Option<bool>,
    /// Whether another system may know the password.
    pub asks_others: Option<bool>,
}

impl Account {
    /// A login of this name, with nothing else in its entry.
    pub fn named(name: String) -> Self {
        Self {
            name,
            password: String::new(),
            scram: None,
            scram_sha1: None,
            certificates: Vec::new(),
            permission: Permission::default(),
            domains: Vec::new(),
            send_as: Vec::new(),
            any_if_spf: false,
            state: LoginState::default(),
            state_reason: None,
            networks: Vec::new(),
            app_passwords: Vec::new(),
            limits: OwnLimits::default(),
        }
    }

    pub(crate) fn check(&self, around: Around, node: &Node<'_>, findings: &mut Findings<'_>) {
        if self.name.trim().is_empty() {
            findings.error(
                &node.key("name"),
                "the name is empty",
                "an address such as \"alice@proseware.test\" is usual",
            );
        }
        let is_known_elsewhere = around.asks_others.unwrap_or(false) && self.app_passwords.is_empty();
        if self.password.is_empty() && self.certificates.is_empty() && !is_known_elsewhere {
            let message = format!("the login {:?} has no password", self.name);
            findings.error(
                &node.key("password"),
                message,
                "run posternctl account password, or list certificates",
            );
        } else if !self.password.is_empty()
            && let Err(problem) = password_hash::format(&self.password)
        {
            let message = format!("the password of {:?} {problem}", self.name);
            findings.error(&node.key("password"), message, password_hash::HELP);
        }
        let is_any = self.permission == Permission::Any || self.send_as.iter().any(|grant| grant == "*");
        if self.any_if_spf && !is_any {
            let message =
                format!("`any_if_spf` means nothing for {:?}: its permission is not \"any\"", self.name);
            findings.error(&node.key("any_if_spf"), message, "set permission = \"any\", or remove it");
        }
        if self.state == LoginState::Active && self.state_reason.is_some() {
            let message =
                format!("`state_reason` means nothing for {:?}: its state is \"active\"", self.name);
            findings.error(&node.key("state_reason"), message, "remove it, or set `state`");
        }
        auth::networks(node, &self.networks, findings);
        self.check_app_passwords(node, findings);
        self.check_verifiers(node, findings);
        for (node, text) in node.each("certificates", &self.certificates) {
            check_certificate(text, around.has_ca, &node, findings);
        }
        for (node, text) in node.each("send_as", &self.send_as) {
            if let Err(error) = SendAs::parse(text) {
                let help = "write an address, \"@domain\", or \"*\" for every address";
                findings.error(&node, format!("{text:?} cannot be granted: {error}"), help);
            }
        }
    }

    fn check_verifiers(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        for (key, verifier, hash) in
            [("scram", &self.scram, ScramHash::Sha256), ("scram_sha1", &self.scram_sha1, ScramHash::Sha1)]
        {
            if verifier.as_ref().is_some_and(|verifier| verifier.hash != hash) {
                let message = format!("`{key}` of {:?} is not for {}", self.name, hash.mechanism());
                findings.error(&node.key(key), message, "run posternctl account password, which writes it");
            }
        }
    }

    fn check_app_passwords(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        for (node, app) in node.each("app_passwords", &self.app_passwords) {
            app.check(&node, findings);
        }
        let labels: Vec<_> = self.app_passwords.iter().map(|app| Some(app.label.trim())).collect();
        no_duplicates(&node.key("app_passwords"), "label", "app password", &labels, findings);
        if self.app_passwords.len() > MOST_APP_PASSWORDS {
            let message = format!("{:?} has {} app passwords", self.name, self.app_passwords.len());
            findings.error(&node.key("app_passwords"), message, format!("{MOST_APP_PASSWORDS} are the most"));
        }
    }
}

fn check_certificate(text: &str, has_ca: Option<bool>, node: &Node<'_>, findings: &mut Findings<'_>) {
    match ListedCertificate::parse(text) {
        None => {
            let message = format!("{text:?} is no SHA-256 fingerprint and no DNS name");
            let help = "`openssl x509 -noout -fingerprint -sha256 -in FILE` prints the fingerprint";
            findings.error(node, message, help);
        }
        Some(ListedCertificate::Name(_)) if has_ca == Some(false) => {
            let help = "set tls.client_ca to the file of the authority, or list the fingerprint";
            findings.error(node, "a name counts only where an authority has signed it", help);
        }
        Some(_) => {}
    }
}
