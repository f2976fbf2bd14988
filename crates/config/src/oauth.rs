//! `[auth.oauth]`: tokens of an identity provider in the place of passwords (OAUTHBEARER, XOAUTH2).

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::backend::{host_of, is_loopback_name};
use crate::check::{at_least_one, not_zero, readable, secret};
use crate::source::{Findings, Node};
use crate::units;

/// Whose tokens are taken, and how they are checked. Exactly one of `jwks_url`, `jwks_file` and `introspection_url` is set.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OAuth {
    /// The identity provider, as it writes itself into `iss`; compared octet by octet.
    pub issuer: String,
    /// What must stand in `aud`: a token for another service is none for this one. May be left out with introspection if
    /// `scope` is set.
    #[serde(default)]
    pub audience: Option<String>,
    /// A scope that a token must have.
    #[serde(default)]
    pub scope: Option<String>,
    /// The claim that names the login. Where it is `email`, a token with `email_verified` false is refused.
    #[serde(default = "default_claim")]
    pub claim: String,
    /// Where the keys of the provider are (RFC 7517): `https://`, or `http://` on loopback.
    #[serde(default)]
    pub jwks_url: Option<String>,
    /// A file with these keys; it is read again when it has changed.
    #[serde(default)]
    pub jwks_file: Option<PathBuf>,
    /// Where the provider says whether a token is good (RFC 7662); needs `client_id` and `client_secret_file`.
    #[serde(default)]
    pub introspection_url: Option<String>,
    /// By which name the provider knows this server.
    #[serde(default)]
    pub client_id: Option<String>,
    /// A file whose first line is the secret that goes with it.
    #[serde(default)]
    pub client_secret_file: Option<PathBuf>,
    /// The authorities that the provider's certificate is checked against. Left out: those of the system.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// What clients are told on a refused token so that they can get another one: the address of
    /// `.well-known/openid-configuration` (RFC 7628 §3.2.2).
    #[serde(default)]
    pub openid_configuration: Option<String>,
    /// How old the keys may be before they are fetched again. A token whose key is not known makes them be fetched, too,
    /// twice a minute at most.
    #[serde(default = "default_refresh", deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub refresh: Duration,
    /// How old they may be while the provider cannot be reached. After that tokens are answered `454 4.7.0`.
    #[serde(default = "default_keep", deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub keep: Duration,
    /// By how much the clocks of the provider and of this server may differ.
    #[serde(default = "default_leeway", deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub leeway: Duration,
    /// How long one question to the provider may take.
    #[serde(default = "default_timeout", deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// Questions to the provider at once; more wait.
    #[serde(default = "default_requests")]
    pub max_requests: usize,
}

fn default_claim() -> String {
    "email".to_owned()
}

fn default_refresh() -> Duration {
    Duration::from_secs(3600)
}

fn default_keep() -> Duration {
    Duration::from_secs(86_400)
}

fn default_leeway() -> Duration {
    Duration::from_secs(60)
}

fn default_timeout() -> Duration {
    Duration::from_secs(5)
}

fn default_requests() -> usize {
    8
}

/// More would make tokens good that ended long ago.
const MOST_LEEWAY: Duration = Duration::from_secs(600);

impl OAuth {
    pub(crate) fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        for (key, value) in [("refresh", self.refresh), ("timeout", self.timeout)] {
            not_zero(node, key, value, findings);
        }
        at_least_one(node, "max_requests", self.max_requests as u64, findings);
        for (key, value) in [
            ("issuer", Some(&self.issuer)),
            ("claim", Some(&self.claim)),
            ("audience", self.audience.as_ref()),
        ] {
            if value.is_some_and(String::is_empty) {
                findings.error(
                    &node.key(key),
                    format!("`{key}` is empty"),
                    "the provider's documentation says it",
                );
            }
        }
        if self.leeway > MOST_LEEWAY {
            let message = format!("`leeway` is longer than {} s", MOST_LEEWAY.as_secs());
            findings.error(&node.key("leeway"), message, "60s is usual");
        }
        self.check_ways(node, findings);
        if let Some(path) = &self.ca_file {
            readable(&node.key("ca_file"), "CA file", path, findings);
        }
        if let Some(path) = &self.jwks_file {
            readable(&node.key("jwks_file"), "key file", path, findings);
        }
    }

    fn check_ways(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        let ways = [self.jwks_url.is_some(), self.jwks_file.is_some(), self.introspection_url.is_some()];
        if ways.into_iter().filter(|is_set| *is_set).count() != 1 {
            let message = "not exactly one of `jwks_url`, `jwks_file` and `introspection_url` is set";
            findings.error(node, message, "most providers have a jwks_url: see their openid-configuration");
        }
        for (key, url) in [("jwks_url", &self.jwks_url), ("introspection_url", &self.introspection_url)] {
            let Some(url) = url else { continue };
            let (scheme, rest) = url.split_once("://").unwrap_or_default();
            let host = host_of(rest);
            let is_fine = !host.is_empty()
                && !rest.contains('@')
                && (scheme == "https" || (scheme == "http" && is_loopback_name(host)));
            if !is_fine {
                let help = "write https://..., or http:// on loopback";
                findings.error(&node.key(key), format!("{url:?} cannot be asked safely"), help);
            }
        }
        let is_introspection = self.introspection_url.is_some();
        match (is_introspection, &self.client_id, &self.client_secret_file) {
            (true, Some(_), Some(path)) => {
                secret(&node.key("client_secret_file"), "secret file", path, findings);
            }
            (false, None, None) => {}
            (true, ..) => {
                let help = "the provider gives them to a client that may ask about tokens";
                findings.error(node, "introspection needs `client_id` and `client_secret_file`", help);
            }
            (false, ..) => {
                let message = "`client_id` and `client_secret_file` are for `introspection_url`";
                findings.error(node, message, "remove them");
            }
        }
        if self.audience.is_none() && !(is_introspection && self.scope.is_some()) {
            let message =
                "without `audience`, tokens that the provider gave out for any other service would be taken";
            findings.error(node, message, "set it to what the provider writes into `aud` for this server");
        }
    }
}
