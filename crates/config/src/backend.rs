//! `[auth.backend]`: another system that knows the passwords: Dovecot, a directory, a database.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::check::{at_least_one, not_zero, readable, secret};
use crate::source::{Findings, Node};
use crate::units;

/// What logins may do that `accounts.toml` does not name, because only `[auth.backend]` or `[auth.oauth]` knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Unlisted {
    /// Nothing: they are refused.
    Refuse,
    /// Send as themselves: the name must be an address of a `[[domain]]`, or the back end must tell one.
    #[default]
    OwnAddress,
    /// Send as any address of a `[[domain]]`.
    Local,
}

/// A system that is asked about the passwords that `accounts.toml` does not have. Exactly one of `dovecot`, `ldap`, `sqlite`
/// and `postgres` is set.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Backend {
    /// How long one question may take, the connection included. Then the client is told `454 4.7.0`: mail programs wait
    /// for longer than this, and try again.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// Questions at once, and connections that are kept for them; more wait. Logins are rare beside mail, and back ends limit
    /// their clients.
    pub max_requests: usize,
    /// A wrong login is answered no sooner than so long after it came, whoever found it wrong: so the time does not tell which
    /// names exist, or where they are kept. The default is above the two seconds that Dovecot takes for it.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub wrong_after: Duration,
    /// Dovecot's authentication service.
    pub dovecot: Option<Dovecot>,
    /// A directory. Needs a build with the feature `ldap`.
    pub ldap: Option<Ldap>,
    /// A SQLite database. Needs a build with the feature `sqlite`.
    pub sqlite: Option<Sqlite>,
    /// A PostgreSQL database. Needs a build with the feature `postgres`.
    pub postgres: Option<Postgres>,
}

impl Default for Backend {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            max_requests: 8,
            wrong_after: Duration::from_millis(2500),
            dovecot: None,
            ldap: None,
            sqlite: None,
            postgres: None,
        }
    }
}

/// Dovecot's authentication service, asked by its client protocol.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dovecot {
    /// The path of its socket (`unix_listener` in `service auth`), or `address:port` (`inet_listener`). Passwords cross it
    /// in clear, so an address must be this machine's loopback or in a private network.
    pub address: String,
}

/// A directory: the user's entry is searched and then bound as, or its DN is made of the name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ldap {
    /// `ldap://host`, `ldaps://host` or `ldapi://%2Frun%2Fslapd%2Fldapi`. Over the network `ldap://` needs `starttls`.
    pub url: String,
    /// Whether TLS is begun before anything else is said (RFC 4511 §4.14).
    #[serde(default)]
    pub starttls: bool,
    /// The authorities that the server's certificate is checked against. Left out: those of the system.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The DN of a user, with `{login}` in it, or `{local}` and `{domain}`: nothing is searched then, and the login is the name
    /// as it was given.
    #[serde(default)]
    pub dn: Option<String>,
    /// Where users are searched; below it the whole tree.
    #[serde(default)]
    pub base: Option<String>,
    /// Which entry is the user's (RFC 4515), with `{login}`, `{local}` or `{domain}` in it. Exactly one must be found.
    #[serde(default = "default_filter")]
    pub filter: String,
    /// As whom the search is made; left out: as nobody.
    #[serde(default)]
    pub bind_dn: Option<String>,
    /// A file whose first line is the password of `bind_dn`.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// The attribute whose only value is the login, such as `uid`; with the search it must be set. Whatever name has found the
    /// entry, rights, state and limits are those of this login.
    #[serde(default)]
    pub name: Option<String>,
    /// The attribute with the addresses of the user, such as `mail`: with the search only.
    #[serde(default)]
    pub addresses: Option<String>,
}

/// A SQLite database.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sqlite {
    /// The file. It is opened for reading only.
    pub path: PathBuf,
    /// The query. `?1` is the name that was given, in lower case. Of its only row the column `name` is the login; the first of the
    /// others is the hash of the password, as `accounts.toml` could have it, and a second one may hold addresses, with blanks
    /// or commas between them.
    pub query: String,
}

/// A PostgreSQL database.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Postgres {
    /// A host name or address, or the absolute path of the directory of its socket.
    pub host: String,
    /// The port.
    #[serde(default = "default_port")]
    pub port: u16,
    /// As whom the database is asked.
    pub user: String,
    /// A file whose first line is that user's password. Left out: none is needed.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// The database.
    pub database: String,
    /// The query. `$1` is the name that was given, in lower case; columns as for `sqlite`.
    pub query: String,
    /// Whether TLS is spoken. Left out: over the network it is, where it must be, and on this machine it is not.
    #[serde(default)]
    pub tls: Option<bool>,
    /// The authorities that the server's certificate is checked against. Left out: those of the system.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

fn default_filter() -> String {
    "(mail={login})".to_owned()
}

fn default_port() -> u16 {
    5432
}

/// The back ends that only some builds have, and whether this one does.
const FEATURES: [(&str, bool); 3] = [
    ("ldap", cfg!(feature = "ldap")),
    ("sqlite", cfg!(feature = "sqlite")),
    ("postgres", cfg!(feature = "postgres")),
];

impl Backend {
    pub(crate) fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        not_zero(node, "timeout", self.timeout, findings);
        at_least_one(node, "max_requests", self.max_requests as u64, findings);
        if self.wrong_after > LONGEST_REFUSAL {
            let message = format!("`wrong_after` is longer than {} s", LONGEST_REFUSAL.as_secs());
            let help = "each wait keeps a connection open; 2500ms is usual";
            findings.error(&node.key("wrong_after"), message, help);
        }
        let set = [
            ("dovecot", self.dovecot.is_some()),
            ("ldap", self.ldap.is_some()),
            ("sqlite", self.sqlite.is_some()),
            ("postgres", self.postgres.is_some()),
        ];
        let set: Vec<&str> = set.into_iter().filter_map(|(name, is_set)| is_set.then_some(name)).collect();
        if set.len() != 1 {
            let message = match set.as_slice() {
                [] => "`[auth.backend]` names no back end".to_owned(),
                several => format!("`[auth.backend]` names several back ends: {}", several.join(", ")),
            };
            let help = "set one of [auth.backend.dovecot], ldap, sqlite and postgres";
            findings.error(node, message, help);
        }
        for (feature, _) in FEATURES.iter().filter(|(name, is_built)| set.contains(name) && !is_built) {
            let message = format!("this build of Postern has no back end `{feature}`");
            let help = format!("build it with the feature: cargo build --release --features {feature}");
            findings.error(&node.key(feature), message, help);
        }
        if let Some(dovecot) = &self.dovecot {
            dovecot.check(&node.key("dovecot"), findings);
        }
        if let Some(ldap) = &self.ldap {
            ldap.check(&node.key("ldap"), findings);
        }
        if let Some(sqlite) = &self.sqlite {
            let node = node.key("sqlite");
            readable(&node.key("path"), "database", &sqlite.path, findings);
            check_query(&node, &sqlite.query, "?1", findings);
        }
        if let Some(postgres) = &self.postgres {
            postgres.check(&node.key("postgres"), findings);
        }
    }

    /// The paths that the table names, to be made absolute.
    pub(crate) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let ldap = self.ldap.iter_mut().flat_map(|ldap| [&mut ldap.ca_file, &mut ldap.password_file]);
        let postgres = self.postgres.iter_mut().flat_map(|sql| [&mut sql.ca_file, &mut sql.password_file]);
        let optional = ldap.chain(postgres).filter_map(Option::as_mut);
        self.sqlite.iter_mut().map(|sqlite| &mut sqlite.path).chain(optional)
    }

    /// The files whose first lines are passwords.
    pub fn password_files(&self) -> impl Iterator<Item = &Path> {
        let ldap = self.ldap.iter().filter_map(|ldap| ldap.password_file.as_deref());
        ldap.chain(self.postgres.iter().filter_map(|postgres| postgres.password_file.as_deref()))
    }
}

/// A client that waits longer has given up.
const LONGEST_REFUSAL: Duration = Duration::from_secs(30);

impl Dovecot {
    /// Where it listens, if that is an address and not the path of a socket.
    pub fn socket_address(&self) -> Option<SocketAddr> {
        self.address.parse().ok()
    }

    fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        let node = node.key("address");
        match self.socket_address() {
            Some(address) if is_near(address.ip()) => {}
            Some(address) => {
                let message = format!("passwords would cross the network to {address} in clear");
                findings.error(&node, message, "use a UNIX socket, loopback, or a private network");
            }
            None if self.address.starts_with('/') => {}
            None => {
                let message = format!("{:?} is no absolute path and no address with a port", self.address);
                let help = "such as \"/var/spool/postern/dovecot-auth\" or \"127.0.0.1:12345\"";
                findings.error(&node, message, help);
            }
        }
    }
}

impl Ldap {
    fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        let (scheme, rest) = self.url.split_once("://").unwrap_or_default();
        let host = host_of(rest);
        match scheme {
            "ldap" if self.starttls || is_loopback_name(host) => {}
            "ldap" => {
                let message = "passwords would cross the network in clear";
                findings.error(&node.key("url"), message, "set starttls = true, or use ldaps://");
            }
            "ldaps" if self.starttls => {
                let message = "`starttls` and ldaps:// exclude each other";
                findings.error(&node.key("starttls"), message, "remove one of them");
            }
            "ldaps" | "ldapi" if !rest.is_empty() => {}
            _ => {
                let message = format!("{:?} is no URL of a directory", self.url);
                findings.error(&node.key("url"), message, "such as \"ldaps://directory.proseware.test\"");
            }
        }
        match (&self.dn, &self.base) {
            (None, None) => {
                findings.error(node, "neither `dn` nor `base` is set", "say where users are searched: base")
            }
            (Some(_), Some(_)) => {
                findings.error(&node.key("dn"), "`dn` and `base` exclude each other", "remove one of them");
            }
            (Some(dn), None) => {
                check_template(&node.key("dn"), dn, findings);
                check_whole_name(&node.key("dn"), dn, findings);
                for (key, value) in [("addresses", &self.addresses), ("name", &self.name)] {
                    if value.is_some() {
                        let message = format!("`{key}` needs a search, and with `dn` there is none");
                        findings.error(&node.key(key), message, "set `base` instead of `dn`");
                    }
                }
            }
            (None, Some(_)) => {
                check_template(&node.key("filter"), &self.filter, findings);
                if self.name.as_deref().is_none_or(str::is_empty) {
                    let message = "the search does not say whose login it has found";
                    let help = "name the attribute with the one name of each user: name = \"uid\"";
                    findings.error(&node.key("name"), message, help);
                }
            }
        }
        match (&self.bind_dn, &self.password_file) {
            (Some(_), Some(path)) => {
                drop(secret(&node.key("password_file"), "password file", path, findings))
            }
            (None, None) => {}
            _ => findings.error(node, "`bind_dn` and `password_file` go together", "set both, or none"),
        }
        if let Some(path) = &self.ca_file {
            readable(&node.key("ca_file"), "CA file", path, findings);
        }
    }
}

impl Postgres {
    /// Whether TLS is spoken.
    pub fn speaks_tls(&self) -> bool {
        self.tls.unwrap_or(!self.is_local())
    }

    fn is_local(&self) -> bool {
        self.host.starts_with('/') || is_loopback_name(&self.host)
    }

    fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        for (key, value) in [("host", &self.host), ("user", &self.user), ("database", &self.database)] {
            if value.is_empty() {
                findings.error(&node.key(key), format!("`{key}` is empty"), "");
            }
        }
        if !self.speaks_tls() && !self.is_local() {
            let message = "hashes of passwords would cross the network in clear";
            findings.error(
                &node.key("tls"),
                message,
                "leave `tls` out, or use the socket of a database here",
            );
        }
        if self.speaks_tls() && self.host.starts_with('/') {
            findings.error(&node.key("tls"), "a socket has no TLS", "leave `tls` out");
        }
        if let Some(path) = &self.password_file {
            secret(&node.key("password_file"), "password file", path, findings);
        }
        if let Some(path) = &self.ca_file {
            readable(&node.key("ca_file"), "CA file", path, findings);
        }
        check_query(node, &self.query, "$1", findings);
    }
}

/// The host of what stands behind `://`.
pub(crate) fn host_of(rest: &str) -> &str {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match authority.strip_prefix('[') {
        Some(literal) => literal.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    }
}

/// Whether a host can only be this machine.
pub(crate) fn is_loopback_name(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn is_near(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_loopback() || address.is_private() || address.is_link_local(),
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
        }
    }
}

fn check_query(node: &Node<'_>, query: &str, parameter: &str, findings: &mut Findings<'_>) {
    if !query.contains(parameter) {
        let message = format!("the query has no `{parameter}`, so it would be the same for every login");
        let help = format!("such as \"SELECT password, name FROM users WHERE name = {parameter}\"");
        findings.error(&node.key("query"), message, help);
    }
}

fn check_template(node: &Node<'_>, template: &str, findings: &mut Findings<'_>) {
    let rest = ["{login}", "{local}", "{domain}"]
        .iter()
        .fold(template.to_owned(), |rest, placeholder| rest.replace(placeholder, ""));
    if rest.contains(['{', '}']) || rest.len() == template.len() {
        let message = format!("{template:?} has no placeholder, or one that does not exist");
        findings.error(node, message, "there are {login}, {local} and {domain}");
    }
}

/// The DN must follow from the whole name. If it left the domain out, whoever has an entry could log in with any domain, and
/// be taken for somebody else there.
fn check_whole_name(node: &Node<'_>, template: &str, findings: &mut Findings<'_>) {
    let has = |placeholder: &str| template.contains(placeholder);
    if !has("{login}") && (!has("{local}") || !has("{domain}")) {
        let message = format!("with {template:?} different names lead to the same entry");
        let help = "use {login}, or both {local} and {domain}; or search with `base` and `name`";
        findings.error(node, message, help);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found_in_urls() {
        for (rest, host) in [
            ("directory.test:389/dc=x", "directory.test"),
            ("[::1]:389", "::1"),
            ("user:word@127.0.0.1/", "127.0.0.1"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(host_of(rest), host);
        }
        assert!(!is_loopback_name("localhost.client.test") && !is_loopback_name("user"));
    }
}
