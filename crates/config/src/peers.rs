//! The settings of `[smtp]` that are about other mail systems: who is believed when it speaks for others, who may ask for its
//! mail.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::relay::check_network;
use crate::smtp::Smtp;
use crate::source::{Findings, Node};

impl Smtp {
    /// Whether this host may say by XCLIENT for whom it speaks.
    pub fn takes_xclient(&self, host: IpAddr) -> bool {
        lists(&self.xclient_from, host)
    }

    /// Whether this host may say by XCLIENT as whom its client has logged in.
    pub fn takes_xclient_login(&self, host: IpAddr) -> bool {
        self.takes_xclient(host) && lists(&self.xclient_login_from, host)
    }

    /// Whether this host may say by XFORWARD where a message came from.
    pub fn takes_xforward(&self, host: IpAddr) -> bool {
        lists(&self.xforward_from, host)
    }

    /// Whether this client may ask for waiting mail by ETRN.
    pub fn takes_etrn(&self, client: IpAddr, login: Option<&str>) -> bool {
        let is_listed =
            |login: &str| self.etrn_logins.iter().any(|listed| listed.eq_ignore_ascii_case(login));
        lists(&self.etrn_from, client) || login.is_some_and(is_listed)
    }

    /// What is wrong with the lists.
    pub(crate) fn check_peers(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        for (key, networks, danger) in [
            ("xclient_from", &self.xclient_from, "lets everybody claim any address, also a trusted one"),
            ("xclient_login_from", &self.xclient_login_from, "lets everybody send as any login"),
            ("xforward_from", &self.xforward_from, "lets everybody write what they like into the log"),
            ("etrn_from", &self.etrn_from, "lets everybody run the queue"),
        ] {
            for (node, network) in node.each(key, networks) {
                if check_network(&node, *network, findings) && network.prefix_len() == 0 {
                    let message = format!("{network} {danger}");
                    findings.error(&node, message, "name the addresses of the proxies");
                }
            }
        }
        for (node, network) in node.each("xclient_login_from", &self.xclient_login_from) {
            if !self.xclient_from.iter().any(|wide| wide.contains(network)) {
                let message = format!("{network} is not in `smtp.xclient_from`");
                findings.error(&node, message, "add it there too: LOGIN is an attribute of XCLIENT");
            }
        }
    }
}

fn lists(networks: &[IpNet], host: IpAddr) -> bool {
    let host = host.to_canonical();
    networks.iter().any(|network| network.contains(&host))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn smtp(text: &str) -> Smtp {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn nobody_speaks_for_others_by_default() {
        let host = "127.0.0.1".parse().unwrap();
        let smtp = Smtp::default();
        assert!(!smtp.takes_etrn(host, Some("alice@proseware.test")));
        assert!(!smtp.takes_xclient(host) && !smtp.takes_xclient_login(host) && !smtp.takes_xforward(host));
    }

    #[test]
    fn waiting_mail_is_asked_for_by_listed_networks_and_logins() {
        let smtp = smtp("etrn_from = [\"192.0.2.0/24\"]\netrn_logins = [\"Branch@proseware.test\"]");
        for (client, login, takes) in [
            ("192.0.2.1", None, true),
            ("198.51.100.1", None, false),
            ("198.51.100.1", Some("branch@proseware.test"), true),
            ("198.51.100.1", Some("alice@proseware.test"), false),
        ] {
            assert_eq!(smtp.takes_etrn(client.parse().unwrap(), login), takes, "{client} {login:?}");
        }
    }

    #[test]
    fn logins_are_believed_of_those_only_that_are_in_both_lists() {
        let smtp = smtp(
            "xclient_from = [\"192.0.2.0/24\"]\nxclient_login_from = [\"192.0.2.1/32\", \"198.51.100.1/32\"]\n\
             xforward_from = [\"2001:db8::/32\"]",
        );
        for (host, xclient, login, xforward) in [
            ("192.0.2.1", true, true, false),
            ("::ffff:192.0.2.1", true, true, false),
            ("192.0.2.2", true, false, false),
            ("198.51.100.1", false, false, false),
            ("2001:db8::1", false, false, true),
        ] {
            let host = host.parse().unwrap();
            let takes = (smtp.takes_xclient(host), smtp.takes_xclient_login(host), smtp.takes_xforward(host));
            assert_eq!(takes, (xclient, login, xforward), "{host}");
        }
    }
}
