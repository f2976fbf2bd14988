//! How much TLS a delivery needs, and what follows when it cannot be had.

use postern_config::Route;
use postern_config::route::RouteTls;

/// What is asked of the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsPolicy {
    /// No TLS: LMTP over a local socket, and the second try after a failed handshake under [`TlsPolicy::May`].
    Never,
    /// STARTTLS where it is offered; the certificate is looked at and recorded, not required. A handshake that fails is
    /// followed by a connection in clear (RFC 7435): whoever could break it could also have hidden STARTTLS.
    May,
    /// STARTTLS, any certificate.
    Encrypt,
    /// STARTTLS, certificate valid for the host name.
    Verify,
    /// TLS from the first octet, certificate valid for the host name (RFC 8314 §3.3).
    Implicit,
}

impl TlsPolicy {
    /// As destinations name it: the words of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::May => "may",
            Self::Encrypt => "encrypt",
            Self::Verify => "verify",
            Self::Implicit => "implicit",
        }
    }

    /// The policy of a smarthost or LMTP route. A login is shown only to a host that has proved its name, unless the route
    /// says otherwise.
    pub fn of_smarthost(route: &Route) -> Self {
        match (route.tls, &route.username) {
            (Some(RouteTls::Verify), _) | (None, Some(_)) => Self::Verify,
            (Some(RouteTls::Encrypt), _) => Self::Encrypt,
            (Some(RouteTls::May), _) | (None, None) => Self::May,
            (Some(RouteTls::Implicit), _) => Self::Implicit,
        }
    }

    /// The policy of an LMTP route: no TLS unless the route asks for it, as the server is ours.
    pub fn of_lmtp(route: &Route) -> Self {
        match route.tls {
            None => Self::Never,
            Some(_) => Self::of_smarthost(route),
        }
    }

    /// The policy for a message that demands REQUIRETLS: the host must prove its name (RFC 8689 §4.2.1). A local LMTP server
    /// without TLS is where the way ends, and stays what it is.
    #[must_use]
    pub fn for_require_tls(self) -> Self {
        match self {
            Self::May | Self::Encrypt => Self::Verify,
            Self::Never | Self::Verify | Self::Implicit => self,
        }
    }

    /// Whether STARTTLS is to be used if it is offered.
    pub fn wants_starttls(self) -> bool {
        matches!(self, Self::May | Self::Encrypt | Self::Verify)
    }

    /// Whether nothing may be sent in clear.
    pub fn requires_tls(self) -> bool {
        matches!(self, Self::Encrypt | Self::Verify | Self::Implicit)
    }

    /// Whether the certificate must be valid for the host name.
    pub fn verifies(self) -> bool {
        matches!(self, Self::Verify | Self::Implicit)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn policy(extra: &str) -> TlsPolicy {
        let route: Route = toml::from_str(&format!("via = \"smarthost\"\n{extra}")).unwrap();
        TlsPolicy::of_smarthost(&route)
    }

    #[test]
    fn a_login_is_not_shown_to_an_unproved_host_by_default() {
        assert_eq!(policy("username = \"alice\""), TlsPolicy::Verify);
        assert_eq!(policy(""), TlsPolicy::May);
        assert_eq!(policy("username = \"alice\"\ntls = \"may\""), TlsPolicy::May);
        assert_eq!(policy("tls = \"implicit\""), TlsPolicy::Implicit);
    }

    #[test]
    fn only_opportunistic_tls_goes_on_in_clear() {
        assert!(!TlsPolicy::May.requires_tls());
        for strict in [TlsPolicy::Encrypt, TlsPolicy::Verify, TlsPolicy::Implicit] {
            assert!(strict.requires_tls());
        }
        assert!(!TlsPolicy::Encrypt.verifies());
    }

    #[test]
    fn a_message_that_demands_it_goes_to_proved_hosts_only() {
        for policy in [TlsPolicy::May, TlsPolicy::Encrypt, TlsPolicy::Verify, TlsPolicy::Implicit] {
            assert!(policy.for_require_tls().verifies());
        }
        assert_eq!(TlsPolicy::Never.for_require_tls(), TlsPolicy::Never);
    }
}
