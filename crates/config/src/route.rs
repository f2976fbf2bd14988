//! `[[route]]`: where mail goes that is not delivered by MX.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use postern_smtp::{Address, Domain, Host, ReversePath};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::check::{secret, template};
use crate::source::{Findings, Node};

/// A rule for recipients outside our local domains (those always come first). The first rule that matches decides;
/// without one, mail goes by MX.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Recipient domains: a name, `".name"` for all names below it, or `"*"`.
    #[serde(default = "any")]
    pub domain: String,
    /// Senders: an address, `"@domain"`, `"<>"` for the null sender, or `"*"`.
    #[serde(default = "any")]
    pub sender: String,
    /// How these recipients are delivered.
    pub via: Via,
    /// `smarthost`: host names, tried in order; `host`, `host:port` or `[address]:port`. A name's MX records are not asked.
    /// `lmtp`: one `host:port` or the path of a socket.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// `smarthost`: the login, if it wants one.
    #[serde(default)]
    pub username: Option<String>,
    /// `smarthost`: a file whose first line is the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// `smarthost`: `verify` (the certificate must be valid for the host; default with a login), `encrypt`, `may`
    /// (default without), `implicit` (TLS from the first byte, verified).
    #[serde(default)]
    pub tls: Option<RouteTls>,
    /// `reject`: the text of the refusal. `maildir`: nothing.
    #[serde(default)]
    pub text: Option<String>,
    /// `maildir`: the Maildir for all of it; `{domain}` and `{local}` are replaced.
    #[serde(default)]
    pub maildir: Option<PathBuf>,
}

fn any() -> String {
    "*".to_owned()
}

impl Route {
    /// Whether this rule is for mail from `sender` to `recipient`. An address literal is matched by `"*"` only.
    pub fn matches(&self, sender: &ReversePath, recipient: &Address) -> bool {
        self.matches_domain(recipient.domain()) && self.matches_sender(sender)
    }

    fn matches_domain(&self, domain: Option<&Domain>) -> bool {
        if self.domain == "*" {
            return true;
        }
        let Some(domain) = domain else { return false };
        match self.domain.strip_prefix('.') {
            Some(parent) => {
                Domain::parse(parent).is_ok_and(|parent| domain.is_within(&parent) && *domain != parent)
            }
            None => Domain::parse(&self.domain).is_ok_and(|name| name == *domain),
        }
    }

    fn matches_sender(&self, sender: &ReversePath) -> bool {
        let address = match (self.sender.as_str(), sender) {
            ("*", _) | ("<>", ReversePath::Null) => return true,
            (_, ReversePath::Null) => return false,
            (_, ReversePath::Address(address)) => address,
        };
        match self.sender.strip_prefix('@') {
            Some(domain) => Domain::parse(domain).is_ok_and(|domain| address.domain() == Some(&domain)),
            None => Address::parse(&self.sender).is_ok_and(|listed| listed.folded() == address.folded()),
        }
    }
}

/// Reads an entry of `hosts`: `host`, `host:port`, `[address]` or `[address]:port`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_host(text: &str) -> Result<(Host, Option<u16>), String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or("\"[\" without \"]\"")?;
            let ip: IpAddr = address.parse().map_err(|_| format!("{address:?} is not an IP address"))?;
            let port = match port {
                "" => None,
                port => Some(port.strip_prefix(':').ok_or("only a port may follow \"]\"")?),
            };
            (Host::Literal(ip), port)
        }
        None => {
            let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
            let ip = name.parse::<Ipv4Addr>().map(|ip| Host::Literal(ip.into()));
            let host = ip.or_else(|_| Domain::parse(name).map(Host::Domain)).map_err(|e| e.to_string())?;
            (host, port)
        }
    };
    let number =
        |port: &str| port.parse().ok().filter(|port| *port != 0).ok_or(format!("{port:?} is not a port"));
    Ok((host, port.map(number).transpose()?))
}

impl Route {
    pub(crate) fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        self.check_patterns(node, findings);
        self.check_fields(node, findings);
        match self.via {
            Via::Smarthost => self.check_smarthost(node, findings),
            Via::Lmtp => self.check_lmtp(node, findings),
            Via::Mx | Via::Maildir | Via::Discard | Via::Reject => {}
        }
        if let Some(maildir) = &self.maildir {
            template(&node.key("maildir"), maildir, findings);
        }
    }

    /// A route that can never decide is most likely in the wrong place.
    pub(crate) fn check_reached(
        &self,
        earlier: &[Route],
        local: &[crate::domain::Domain],
        node: &Node<'_>,
        findings: &mut Findings<'_>,
    ) {
        if earlier.iter().any(|route| route.domain == "*" && route.sender == "*") {
            let help = "the first route that matches decides: move it in front of the one for everything";
            findings.warning(node, "this route is never reached", help);
        } else if Domain::parse(&self.domain)
            .is_ok_and(|domain| local.iter().any(|local| local.name == domain))
        {
            let message = format!("this route is never used: {} is a local domain", self.domain);
            findings.warning(&node.key("domain"), message, "local domains always come first");
        }
    }

    fn check_patterns(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        let name = self.domain.strip_prefix('.').unwrap_or(&self.domain);
        if let (true, Err(error)) = (self.domain != "*", Domain::parse(name)) {
            let message = format!("{:?} is not a domain: {error}", self.domain);
            findings.error(
                &node.key("domain"),
                message,
                "write a name, \".name\" for all names below it, or \"*\"",
            );
        }
        let sender = match self.sender.strip_prefix('@') {
            _ if matches!(self.sender.as_str(), "*" | "<>") => return,
            Some(domain) => Domain::parse(domain).err(),
            None => Address::parse(&self.sender).err(),
        };
        if let Some(error) = sender {
            let help = "write an address, \"@domain\", \"<>\" for the null sender, or \"*\"";
            findings.error(&node.key("sender"), format!("{:?} is not a sender: {error}", self.sender), help);
        }
    }

    /// Keys that the way of delivery needs, and keys that it would ignore.
    fn check_fields(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        let via = self.via.as_str();
        let smarthost = self.via == Via::Smarthost;
        for (key, set, belongs, needed) in [
            ("hosts", !self.hosts.is_empty(), smarthost || self.via == Via::Lmtp, true),
            ("username", self.username.is_some(), smarthost, false),
            ("password_file", self.password_file.is_some(), smarthost, false),
            ("tls", self.tls.is_some(), smarthost, false),
            ("text", self.text.is_some(), self.via == Via::Reject, false),
            ("maildir", self.maildir.is_some(), self.via == Via::Maildir, true),
        ] {
            if set && !belongs {
                let message = format!("`{key}` does not belong to a route with via = \"{via}\"");
                findings.error(&node.key(key), message, "remove it, or change `via`");
            } else if belongs && needed && !set {
                let message = format!("a route with via = \"{via}\" needs `{key}`");
                findings.error(&node.key("via"), message, "");
            }
        }
    }

    fn check_smarthost(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        for (node, host) in node.each("hosts", &self.hosts) {
            if let Err(error) = parse_host(host) {
                let help = "write host, host:port or [address]:port";
                findings.error(&node, format!("{host:?} is not a host: {error}"), help);
            }
        }
        match (&self.username, &self.password_file) {
            (Some(_), None) => findings.error(&node.key("username"), "`username` needs `password_file`", ""),
            (None, Some(_)) => {
                findings.error(&node.key("password_file"), "`password_file` needs `username`", "")
            }
            (Some(_), Some(path)) => {
                secret(&node.key("password_file"), "password file", path, findings);
                if matches!(self.tls, Some(RouteTls::May | RouteTls::Encrypt)) {
                    let message = "the password is sent to whoever answers: the certificate is not checked";
                    findings.warning(&node.key("tls"), message, "leave `tls` out, or set it to \"verify\"");
                }
            }
            (None, None) => {}
        }
    }

    fn check_lmtp(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        const HELP: &str = "write host:port, [address]:port or the path of a socket";
        if self.hosts.len() > 1 {
            findings.error(&node.key("hosts").item(1), "an LMTP route has one server", "keep one of them");
        }
        let Some(server) = self.hosts.first().filter(|server| !server.contains('/')) else { return };
        match parse_host(server) {
            Ok((_, Some(_))) => {}
            Ok((_, None)) => {
                findings.error(&node.key("hosts").item(0), format!("{server:?} has no port"), HELP)
            }
            Err(error) => {
                findings.error(
                    &node.key("hosts").item(0),
                    format!("{server:?} is not a server: {error}"),
                    HELP,
                );
            }
        }
    }
}

/// A way of delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// By the MX records of the domain.
    Mx,
    /// To the hosts given.
    Smarthost,
    /// To an LMTP server (RFC 2033).
    Lmtp,
    /// Into one Maildir.
    Maildir,
    /// Accepted and thrown away; logged.
    Discard,
    /// Refused at RCPT with 550 5.7.1; what is queued already is returned.
    Reject,
}

impl Via {
    /// The word in the configuration and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mx => "mx",
            Self::Smarthost => "smarthost",
            Self::Lmtp => "lmtp",
            Self::Maildir => "maildir",
            Self::Discard => "discard",
            Self::Reject => "reject",
        }
    }
}

/// How much TLS a smarthost must offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RouteTls {
    /// STARTTLS, certificate valid for the host name.
    Verify,
    /// STARTTLS, any certificate.
    Encrypt,
    /// STARTTLS if it is offered and works.
    May,
    /// TLS from the first byte, certificate valid for the host name.
    Implicit,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn matches(domain: &str, sender: &str, from: &str, to: &str) -> bool {
        let text = format!("domain = {domain:?}\nsender = {sender:?}\nvia = \"mx\"");
        let route: Route = toml::from_str(&text).unwrap();
        route.matches(&ReversePath::parse(from).unwrap(), &Address::parse(to).unwrap())
    }

    #[test]
    fn hosts_are_read_with_and_without_port() {
        for (text, shown, port) in [
            ("smtp.adatum.test", "smtp.adatum.test", None),
            ("smtp.adatum.test:587", "smtp.adatum.test", Some(587)),
            ("192.0.2.1:25", "[192.0.2.1]", Some(25)),
            ("[192.0.2.1]", "[192.0.2.1]", None),
            ("[2001:db8::1]:465", "[IPv6:2001:db8::1]", Some(465)),
        ] {
            let (host, read) = parse_host(text).unwrap();
            assert_eq!((host.to_string().as_str(), read), (shown, port), "{text}");
        }
        for text in
            ["", "a:b", "a:0", "a:65536", "[a]:25", "[192.0.2.1", "[192.0.2.1]25x", "2001:db8::1", "a b"]
        {
            assert!(parse_host(text).is_err(), "{text}");
        }
    }

    #[test]
    fn recipient_domains_match_by_name_or_below_it() {
        assert!(matches("Adatum.TEST", "*", "", "a@adatum.test"));
        assert!(!matches("adatum.test", "*", "", "a@sub.adatum.test"));
        assert!(matches(".adatum.test", "*", "", "a@sub.adatum.test"));
        assert!(!matches(".adatum.test", "*", "", "a@adatum.test"));
        assert!(!matches("adatum.test", "*", "", "a@[192.0.2.1]"));
        assert!(matches("*", "*", "", "a@[192.0.2.1]"));
    }

    #[test]
    fn senders_match_by_address_domain_or_null() {
        assert!(matches("*", "Alice@proseware.test", "alice@PROSEWARE.test", "a@adatum.test"));
        assert!(matches("*", "@proseware.test", "alice@proseware.test", "a@adatum.test"));
        assert!(!matches("*", "@proseware.test", "alice@sub.proseware.test", "a@adatum.test"));
        assert!(matches("*", "<>", "", "a@adatum.test"));
        assert!(!matches("*", "<>", "alice@proseware.test", "a@adatum.test"));
        assert!(!matches("*", "@proseware.test", "", "a@adatum.test"));
    }
}
