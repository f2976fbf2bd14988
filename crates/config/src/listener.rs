//! `[[listener]]`: where mail is accepted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::relay::check_network;
use crate::source::{Findings, Node};

/// One listening socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// `mx`: mail from other servers, port 25, no AUTH. `submission`: from people, 587, AUTH after STARTTLS.
    /// `submissions`: the same with TLS from the first byte, 465.
    pub kind: ListenerKind,
    /// Address and port, such as `"0.0.0.0:25"` or `"[::]:25"`. Port 0 takes a free one (it is logged).
    #[schemars(with = "String")]
    pub address: SocketAddr,
    /// Proxies in front of this listener: CIDR. Whoever connects from here must begin with a header of the PROXY protocol
    /// (version 1 or 2), and the client that it names counts as the client everywhere; without the header the connection
    /// is refused. From others the header is an unknown command.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub proxy: Vec<IpNet>,
}

impl Listener {
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
            .flat_map(|(kind, port)| {
                any.map(|ip| Self { kind: *kind, address: SocketAddr::new(ip, *port), proxy: Vec::new() })
            })
            .collect()
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
}

impl ListenerKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Mx, Self::Submission, Self::Submissions];

    /// The word in the configuration, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mx => "mx",
            Self::Submission => "submission",
            Self::Submissions => "submissions",
        }
    }

    /// Whether logins are taken and mail is completed here (RFC 6409).
    pub fn is_submission(self) -> bool {
        self != Self::Mx
    }
}
