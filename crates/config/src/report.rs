//! `[report]`: the page on which a sender reads why a message of his was refused.

use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::source::{Findings, Node};

/// The public page of refusals: off unless `listen` and `url` are set. It shows one refusal to whoever has its address, which
/// holds 128 random bits and stands in the reply; it never shows settings, other users or other mail.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Report {
    /// Where it listens. Left out: nowhere.
    #[schemars(with = "Option<String>")]
    pub listen: Option<SocketAddr>,
    /// What stands before the token in replies, such as `https://mail.proseware.test/r/`: the address under which the
    /// world reaches `listen`, directly or through a proxy.
    pub url: Option<String>,
    /// Whether `listen` speaks TLS with the certificate of `[tls]`. Else it is for a proxy that does.
    pub tls: bool,
    /// Addresses of proxies in front of it: from them, and from nobody else, the last address of X-Forwarded-For counts.
    #[schemars(with = "Vec<String>")]
    pub proxies: Vec<IpAddr>,
    /// Requests a minute from one address (IPv6: from its /64); what is beyond gets 429.
    pub max_requests: u32,
}

impl Default for Report {
    fn default() -> Self {
        Self { listen: None, url: None, tls: false, proxies: Vec::new(), max_requests: 30 }
    }
}

impl Report {
    /// What stands before the token, where the page is switched on.
    pub fn base(&self) -> Option<&str> {
        self.listen.and(self.url.as_deref())
    }

    pub(crate) fn check(&self, has_tls: bool, node: &Node<'_>, findings: &mut Findings<'_>) {
        match (&self.listen, &self.url) {
            (Some(_), None) => {
                let help = "such as url = \"https://mail.proseware.test/r/\": replies name it";
                findings.error(&node.key("listen"), "`listen` needs `url`", help);
            }
            (None, Some(_)) => {
                let help = "such as listen = \"127.0.0.1:8081\", with a proxy in front of it";
                findings.error(&node.key("url"), "`url` needs `listen`: nobody would answer there", help);
            }
            _ => {}
        }
        if let Some(url) = &self.url {
            check_url(&node.key("url"), url, findings);
            if !url.ends_with('/') {
                let help = format!("write {:?}", format!("{url}/"));
                findings.error(&node.key("url"), "`url` does not end with \"/\": the token follows it", help);
            }
        }
        if self.tls && !has_tls {
            let help = "configure certificate and key in [tls], or put a proxy in front";
            findings.error(&node.key("tls"), "`tls` needs a certificate", help);
        }
        if !self.tls
            && let Some(listen) = self.listen.filter(|listen| !listen.ip().is_loopback())
        {
            let message = format!("{listen} speaks plain HTTP to the network: tokens can be read on the way");
            findings.warning(
                &node.key("listen"),
                message,
                "set `tls = true`, or listen on a loopback address",
            );
        }
        if self.max_requests == 0 {
            let help = "write 1 or more; to switch the page off, leave `listen` and `url` out";
            findings.error(
                &node.key("max_requests"),
                "`max_requests` is 0, so nobody would get an answer",
                help,
            );
        }
    }
}

/// Longer ones would not leave room for the rest of a reply line.
const LONGEST_URL: usize = 200;

/// An address that stands in replies.
pub(crate) fn check_url(node: &Node<'_>, url: &str, findings: &mut Findings<'_>) {
    let has_host = ["https://", "http://"].iter().any(|scheme| {
        url.strip_prefix(scheme).is_some_and(|rest| !rest.starts_with('/') && !rest.is_empty())
    });
    let is_plain = url.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\"'()\\{}`|^".contains(&byte));
    if !has_host || !is_plain {
        let help = "write https://, a host name and a path, in ASCII without spaces, quotes and brackets";
        findings.error(node, format!("{url:?} is no address of a page"), help);
    } else if url.len() > LONGEST_URL {
        findings.error(node, format!("the address is longer than {LONGEST_URL} octets"), "shorten it");
    }
}
