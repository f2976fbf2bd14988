//! `[[listener]]`: where mail is accepted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::listen_address::ListenAddress;
use crate::relay::check_network;
use crate::source::{Findings, Node};
use crate::surroundings::{group_exists, user_exists};

/// One listening socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// `mx`: mail from other servers, port 25, no AUTH. `submission`: from people, 587, AUTH after STARTTLS.
    /// `submissions`: the same with TLS from the first byte, 465. `lmtp`: from other mail systems on this host or network that hand
    /// mail over by LMTP (RFC 2033), no AUTH; who is no trusted client reaches local and relay domains only.
    pub kind: ListenerKind,
    /// Address and port, such as `"0.0.0.0:25"` or `"[::]:25"`. Port 0 takes a free one (it is logged). `lmtp` also takes
    /// `"unix:"` and the path of a socket, such as `"unix:/run/postern/lmtp.sock"`.
    #[schemars(with = "String")]
    pub address: ListenAddress,
    /// The mode of the UNIX socket, octal: who may hand mail over. `"0660"` where it is left out: its owner and its group.
    #[serde(default)]
    pub mode: Option<String>,
    /// The owner of the UNIX socket, by name; the daemon's user where it is left out. Only a server that is started as root can give
    /// it to somebody else.
    #[serde(default)]
    pub user: Option<String>,
    /// The group of the UNIX socket, by name; the daemon's own where it is left out.
    #[serde(default)]
    pub group: Option<String>,
    /// Proxies in front of this listener: CIDR. Whoever connects from here must begin with a header of the PROXY protocol
    /// (version 1 or 2), and the client that it names counts as the client everywhere; without the header the connection
    /// is refused. From others the header is an unknown command.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub proxy: Vec<IpNet>,
}

/// The mode of a UNIX socket where none is given.
const SOCKET_MODE: u32 = 0o660;

impl Listener {
    /// A listener on an address and port.
    pub fn tcp(kind: ListenerKind, address: SocketAddr) -> Self {
        Self { kind, address: address.into(), mode: None, user: None, group: None, proxy: Vec::new() }
    }

    /// The mode of its UNIX socket.
    pub fn socket_mode(&self) -> u32 {
        self.mode.as_deref().and_then(parse_mode).unwrap_or(SOCKET_MODE)
    }

    fn check_socket(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        let is_socket = self.address.path().is_some();
        if is_socket && self.kind != ListenerKind::Lmtp {
            let message = format!("a {} listener cannot be a UNIX socket", self.kind.as_str());
            findings.error(
                &node.key("address"),
                message,
                "give address and port; a socket is for kind = \"lmtp\"",
            );
        }
        let Self { mode, user, group, .. } = self;
        for (key, value) in [("mode", mode), ("user", user), ("group", group)] {
            if value.is_some() && !is_socket {
                let message = format!("`{key}` is for UNIX sockets");
                findings.error(
                    &node.key(key),
                    message,
                    "remove it, or give \"unix:\" and a path as the address",
                );
            }
        }
        if is_socket && !self.proxy.is_empty() {
            let message = "who connects to a UNIX socket has no address";
            findings.error(&node.key("proxy"), message, "remove it");
        }
        if self.mode.as_deref().is_some_and(|mode| parse_mode(mode).is_none()) {
            findings.error(&node.key("mode"), "the mode is no octal number up to 0777", "write \"0660\"");
        }
        for (key, name, exists) in
            [("user", user, user_exists as fn(&str) -> bool), ("group", group, group_exists)]
        {
            if let Some(name) = name.as_deref().filter(|name| !exists(name)) {
                let help = format!("create it, or leave the key out for the daemon's own {key}");
                findings.error(&node.key(key), format!("there is no {key} {name:?}"), help);
            }
        }
    }

    pub(crate) fn check(&self, tls: bool, node: &Node<'_>, findings: &mut Findings<'_>) {
        if self.kind.is_submission() && !tls {
            let message =
                format!("a {} listener needs `[tls]`: logins are never taken in clear", self.kind.as_str());
            findings.error(
                &node.key("kind"),
                message,
                "add [tls] with certificate and key, or remove the listener",
            );
        }
        self.check_socket(node, findings);
        for (node, network) in node.each("proxy", &self.proxy) {
            check_network(&node, *network, findings);
            if network.prefix_len() == 0 {
                let message = format!("{network} lets everybody claim any address, also a trusted one");
                findings.error(&node, message, "name the addresses of the proxies");
            }
        }
    }

    /// The listeners of a configuration that names none: all addresses, and the submission ports where there is TLS.
    pub(crate) fn defaults(tls: bool) -> Vec<Self> {
        let ports: &[_] = match tls {
            true => {
                &[(ListenerKind::Mx, 25), (ListenerKind::Submission, 587), (ListenerKind::Submissions, 465)]
            }
            false => &[(ListenerKind::Mx, 25)],
        };
        let any = [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)];
        ports
            .iter()
            .flat_map(|(kind, port)| any.map(|ip| Self::tcp(*kind, SocketAddr::new(ip, *port))))
            .collect()
    }
}

/// Permission bits, in octal.
fn parse_mode(text: &str) -> Option<u32> {
    let is_octal = !text.is_empty() && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777)
}

/// The ports where people log in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoginPorts {
    /// With STARTTLS, in order.
    pub starttls: Vec<u16>,
    /// With TLS from the first byte, in order.
    pub tls: Vec<u16>,
}

impl LoginPorts {
    /// Those of the listeners of a configuration. Port 0, which takes a free one, counts as the well-known port of its kind, and
    /// so do all where no listener is named: a configuration that was loaded names some.
    pub fn of(listeners: &[Listener]) -> Self {
        if listeners.is_empty() {
            return Self { starttls: vec![587], tls: vec![465] };
        }
        let ports = |kind: ListenerKind, usual: u16| {
            let of_kind = listeners.iter().filter(|listener| listener.kind == kind);
            let port = |listener: &Listener| listener.address.port().filter(|port| *port != 0);
            let mut ports: Vec<u16> = of_kind.map(|listener| port(listener).unwrap_or(usual)).collect();
            ports.sort_unstable();
            ports.dedup();
            ports
        };
        Self { starttls: ports(ListenerKind::Submission, 587), tls: ports(ListenerKind::Submissions, 465) }
    }

    /// All of them, in words: `587 or 465`. `None`: nobody can log in.
    pub fn words(&self) -> Option<String> {
        let all: Vec<u16> = self.starttls.iter().chain(&self.tls).copied().collect();
        Self::alternatives(&all)
    }

    /// Those with TLS from the first byte, in words: `465`. `None`: there is none.
    pub fn tls_words(&self) -> Option<String> {
        Self::alternatives(&self.tls)
    }

    fn alternatives(ports: &[u16]) -> Option<String> {
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        match &ports[..] {
            [] => None,
            [only] => Some(only.clone()),
            [rest @ .., last] => Some(format!("{} or {last}", rest.join(", "))),
        }
    }
}

/// What a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ListenerKind {
    /// Mail from other servers.
    Mx,
    /// Submission with STARTTLS (RFC 6409).
    Submission,
    /// Submission over implicit TLS (RFC 8314 §3.3).
    Submissions,
    /// Mail from other mail systems by LMTP (RFC 2033).
    Lmtp,
}

impl ListenerKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Mx, Self::Submission, Self::Submissions, Self::Lmtp];

    /// The word in the configuration, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mx => "mx",
            Self::Submission => "submission",
            Self::Submissions => "submissions",
            Self::Lmtp => "lmtp",
        }
    }

    /// Whether logins are taken and mail is completed here (RFC 6409).
    pub fn is_submission(self) -> bool {
        matches!(self, Self::Submission | Self::Submissions)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn people_log_in_where_the_listeners_are() {
        let listener = |kind: ListenerKind, port: u16| {
            Listener::tcp(kind, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))
        };
        use ListenerKind::{Mx, Submission, Submissions};
        let words = |listeners: &[(ListenerKind, u16)]| {
            let listeners: Vec<Listener> = listeners.iter().map(|(k, p)| listener(*k, *p)).collect();
            LoginPorts::of(&listeners).words()
        };
        assert_eq!(LoginPorts::of(&Listener::defaults(true)).words().unwrap(), "587 or 465");
        assert_eq!(LoginPorts::of(&Listener::defaults(false)).words(), None);
        assert_eq!(words(&[(Mx, 25), (Submission, 2587), (Submission, 587)]).unwrap(), "587 or 2587");
        assert_eq!(
            words(&[(Submissions, 465), (Submission, 587), (Submission, 10)]).unwrap(),
            "10, 587 or 465"
        );
        assert_eq!(words(&[(Mx, 0), (Submissions, 0)]).unwrap(), "465");
    }
}
