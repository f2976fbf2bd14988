//! What would become of a message that does not exist, without asking DNS or any server.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use postern_config as config;
use postern_queue::{Origin, retry};
use postern_smtp::{Address, ReversePath};

use crate::Settings;
use crate::route::{Hop, RelayHost};
use crate::tls_policy::TlsPolicy;

/// So many retries are told; the later ones are as far apart as the schedule's cap.
const RETRIES: u32 = 6;

/// A message that does not exist, as far as deliveries look at it.
#[derive(Debug, Clone, Copy)]
pub struct Prospect<'a> {
    /// MAIL FROM.
    pub sender: &'a ReversePath,
    /// By which right it would come: decides whether it is signed.
    pub origin: &'a Origin,
    /// Its header, if there is one already.
    pub header: Option<&'a [u8]>,
}

/// Where one recipient's copy would go, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    /// The next hop, in the words of the configuration.
    pub route: String,
    /// Which address of ours it would come from; `None` without a network.
    pub source: Option<String>,
    /// How much TLS the next hop is asked for; `None` without a network.
    pub tls: Option<String>,
    /// `signed d=proseware.test s=2026a`, or `none reason=...`, as the log of a delivery says it; `None` where nothing is signed
    /// because nothing leaves.
    pub signature: Option<String>,
    /// The first retries, counted from the first attempt, if no attempt succeeds. Jitter comes on top. Empty: there is
    /// only one attempt.
    pub retries: Vec<Duration>,
    /// After which time the sender hears that it was given up.
    pub expires: Duration,
}

impl Settings {
    /// What would become of a message for this final recipient.
    pub fn forecast(&self, mail: &Prospect<'_>, recipient: &Address) -> Forecast {
        let hop = self.router.route(mail.sender, recipient, None);
        let policy = match &hop {
            Hop::Mx(_) => Some(TlsPolicy::May),
            Hop::Relay(relay) => Some(relay.tls),
            Hop::Local(_) | Hop::Gone | Hop::Maildir(_) | Hop::Discard | Hop::Reject(_) => None,
        };
        let header = mail.header.unwrap_or_default();
        let signature = || self.keys.outlook(mail.origin, mail.sender, header, &self.config.hostname);
        let (retries, expires) = match hop {
            Hop::Gone | Hop::Discard | Hop::Reject(_) => (Vec::new(), Duration::ZERO),
            _ => schedule(&self.config.queue, *mail.sender == ReversePath::Null),
        };
        Forecast {
            route: hop.to_string(),
            source: is_over_ip(&hop).then(|| source(&self.config.outbound.source_addresses)),
            tls: policy.map(|policy| tls_words(policy).to_owned()),
            signature: policy.map(|_| signature()),
            retries,
            expires,
        }
    }
}

fn is_over_ip(hop: &Hop<'_>) -> bool {
    match hop {
        Hop::Mx(_) => true,
        Hop::Relay(relay) => relay.hosts.iter().any(|host| !matches!(host, RelayHost::Socket(_))),
        _ => false,
    }
}

/// The first configured address of each family, as a connection takes it.
fn source(configured: &[IpAddr]) -> String {
    let first = |is_v4: bool| {
        let found = configured.iter().find(|ip| ip.is_ipv4() == is_v4 && !ip.is_loopback());
        found.map_or_else(|| "one that the system chooses".to_owned(), ToString::to_string)
    };
    match configured.is_empty() {
        true => "one that the system chooses".to_owned(),
        false => format!("{} (IPv4), {} (IPv6)", first(true), first(false)),
    }
}

fn tls_words(policy: TlsPolicy) -> &'static str {
    match policy {
        TlsPolicy::Never => "never: in clear",
        TlsPolicy::May => "may: STARTTLS where it is offered, any certificate, else in clear",
        TlsPolicy::Encrypt => "encrypt: STARTTLS with any certificate, else not at all",
        TlsPolicy::Verify => "verify: STARTTLS with a certificate for the name of the host, else not at all",
        TlsPolicy::Implicit => {
            "implicit: TLS from the first octet with a certificate for the name of the host, else not at all"
        }
    }
}

/// When it would be tried again, if every attempt failed at once.
fn schedule(config: &config::Queue, null_sender: bool) -> (Vec<Duration>, Duration) {
    const START: SystemTime = SystemTime::UNIX_EPOCH;
    let expires = retry::expires(config, START, null_sender);
    let mut now = START;
    let mut retries = Vec::new();
    for attempts in 1..=RETRIES {
        let next = retry::next_attempt(&config.retry, expires, attempts, None, 0.0, now);
        let Some(next) = next.filter(|next| *next < expires) else { break };
        retries.push(next.duration_since(START).unwrap_or_default());
        now = next;
    }
    (retries, expires.duration_since(START).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::testing;

    const ROUTES: &str = r#"
        [outbound]
        source_addresses = ["192.0.2.25"]
        [[domain]]
        name = "proseware.test"
        mailboxes = ["alice"]
        [[route]]
        domain = "smart.test"
        via = "smarthost"
        hosts = ["relay.test"]
        tls = "encrypt"
        [[route]]
        domain = "list.test"
        via = "lmtp"
        hosts = ["/run/lists.sock"]
        [[route]]
        domain = "closed.test"
        via = "reject"
    "#;

    fn forecast(recipient: &str, origin: Origin) -> Forecast {
        let settings = testing::settings(ROUTES);
        let mail = Prospect { sender: &ReversePath::Null, origin: &origin, header: None };
        settings.forecast(&mail, &Address::parse(recipient).unwrap())
    }

    #[test]
    fn each_kind_of_next_hop_is_told_with_its_tls() {
        for (recipient, route, tls, source) in [
            ("bob@adatum.test", "mx adatum.test", Some("may: "), true),
            ("bob@smart.test", "smarthost relay.test tls encrypt", Some("encrypt: "), true),
            ("bob@list.test", "lmtp /run/lists.sock", Some("never: "), false),
            ("alice@proseware.test", "local", None, false),
            ("bob@closed.test", "reject", None, false),
        ] {
            let forecast = forecast(recipient, Origin::Outsider);
            assert_eq!(forecast.route, route);
            assert_eq!(forecast.tls.is_some(), tls.is_some(), "{recipient}");
            assert!(forecast.tls.unwrap_or_default().starts_with(tls.unwrap_or_default()), "{recipient}");
            assert_eq!(forecast.source.is_some(), source, "{recipient}");
            assert_eq!(forecast.signature.is_some(), tls.is_some(), "{recipient}");
        }
    }

    #[test]
    fn the_schedule_is_that_of_the_queue() {
        let sent = forecast("bob@adatum.test", Origin::Outsider);
        let seconds: Vec<u64> = sent.retries.iter().map(Duration::as_secs).collect();
        assert_eq!(seconds[..3], [300, 750, 1425]);
        assert_eq!(seconds.len(), RETRIES as usize);
        assert!(sent.expires > *sent.retries.last().unwrap());
        assert!(forecast("bob@closed.test", Origin::Outsider).retries.is_empty());
    }

    #[test]
    fn the_source_is_told_for_each_family() {
        let sent = forecast("bob@adatum.test", Origin::Outsider).source.unwrap();
        assert_eq!(sent, "192.0.2.25 (IPv4), one that the system chooses (IPv6)");
        assert_eq!(source(&[]), "one that the system chooses");
    }

    #[test]
    fn why_nothing_is_signed_is_told() {
        let signature = |origin| forecast("bob@adatum.test", origin).signature.unwrap();
        assert_eq!(signature(Origin::Outsider), "none reason=outsider");
        assert_eq!(signature(Origin::Login("alice".to_owned())), "none reason=no-keys");
    }
}
