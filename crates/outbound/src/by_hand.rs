//! Routes that an operator writes by hand, to send what waits another way (`posternctl queue reroute`).
//!
//! | written | means |
//! |---|---|
//! | `mx` | the MX hosts of the recipient's domain, whatever the configuration says |
//! | `mx DOMAIN` | the MX hosts of another domain |
//! | `smarthost HOST[:PORT][,HOST...] [tls may\|encrypt\|verify\|implicit]` | these hosts |
//! | `lmtp HOST:PORT`, `lmtp /PATH` | this LMTP server |
//!
//! A smarthost or LMTP server of the configuration is written as `posternctl queue show` names it; its hosts are enough where
//! no other route has the same. Only so does a message take a route with a login: passwords are in the configuration alone.

use std::borrow::Cow;
use std::fmt;

use postern_config::route::RouteTls;
use postern_config::{Route, Via};
use postern_smtp::{Address, Domain, Host};

use crate::route::{Hop, Relay};

/// A route that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ByHand<'a> {
    /// The MX hosts of the recipient's domain.
    OwnMx,
    /// The MX hosts of another domain.
    Mx(Domain),
    /// A smarthost or LMTP server, one of the configuration or another.
    Relay(Cow<'a, Relay>),
}

impl<'a> ByHand<'a> {
    /// The next hop of a recipient.
    pub(crate) fn hop(self, recipient: &'a Address) -> Hop<'a> {
        match self {
            Self::OwnMx => Hop::Mx(Cow::Borrowed(&recipient.host)),
            Self::Mx(domain) => Hop::Mx(Cow::Owned(Host::Domain(domain))),
            Self::Relay(relay) => Hop::Relay(relay),
        }
    }
}

impl fmt::Display for ByHand<'_> {
    /// The one way to write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnMx => f.write_str("mx"),
            Self::Mx(domain) => write!(f, "mx {domain}"),
            Self::Relay(relay) => f.write_str(&relay.name),
        }
    }
}

/// What is no route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{via:?} is no route: {problem}. Write `mx`, `mx DOMAIN`, `smarthost HOST[:PORT] [tls may|encrypt|verify|implicit]`, \
     `lmtp HOST:PORT` or `lmtp /PATH`{configured}"
)]
pub struct BadRoute {
    /// What was written.
    via: String,
    /// What is wrong with it.
    problem: String,
    /// The routes of the configuration, in words.
    configured: String,
}

/// Reads a route. `relays` are those of the configuration, `mx_port` is `outbound.port`.
///
/// # Errors
/// [`BadRoute`].
pub(crate) fn read<'a>(
    via: &str,
    relays: impl Iterator<Item = &'a Relay> + Clone,
    mx_port: u16,
) -> Result<ByHand<'a>, BadRoute> {
    let words: Vec<&str> = via.split_whitespace().collect();
    parse(&words, relays.clone(), mx_port).map_err(|problem| {
        let mut names: Vec<String> = relays.map(|relay| format!("`{}`", relay.name)).collect();
        names.dedup();
        let configured = match names.is_empty() {
            true => String::new(),
            false => format!("; the configuration has {}", names.join(", ")),
        };
        BadRoute { via: via.to_owned(), problem, configured }
    })
}

fn parse<'a>(
    words: &[&str],
    relays: impl Iterator<Item = &'a Relay> + Clone,
    mx_port: u16,
) -> Result<ByHand<'a>, String> {
    match words {
        [] => return Err("it is empty".to_owned()),
        ["mx"] => return Ok(ByHand::OwnMx),
        ["mx", domain] => {
            let domain = Domain::parse(domain).map_err(|error| format!("{domain:?}: {error}"))?;
            return Ok(ByHand::Mx(domain));
        }
        ["mx", ..] => return Err("one domain follows mx".to_owned()),
        ["discard", ..] => return Err("`queue drop` throws messages away".to_owned()),
        ["reject", ..] => return Err("`queue fail` returns messages to their senders".to_owned()),
        ["maildir", ..] => return Err("mail goes into a mailbox by the configuration alone".to_owned()),
        _ => {}
    }
    if let [_, _, ..] = words
        && let Some(relay) = configured(&words.join(" "), relays)?
    {
        return Ok(ByHand::Relay(Cow::Borrowed(relay)));
    }
    let route = written(words)?;
    match Relay::of_route(&route, mx_port) {
        Ok(Some(relay)) => Ok(ByHand::Relay(Cow::Owned(relay))),
        Ok(None) => Err("it names no server".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// The smarthost or LMTP server of the configuration that is meant: by its whole name, or by its hosts.
fn configured<'a>(
    name: &str,
    relays: impl Iterator<Item = &'a Relay> + Clone,
) -> Result<Option<&'a Relay>, String> {
    if let Some(relay) = relays.clone().find(|relay| relay.name == name) {
        return Ok(Some(relay));
    }
    let mut alike: Vec<&Relay> = relays.filter(|relay| relay.name.starts_with(&format!("{name} "))).collect();
    alike.dedup_by(|one, other| one.name == other.name);
    match alike.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        _ => Err("several routes of the configuration begin so: write one of them whole".to_owned()),
    }
}

/// A route that is not in the configuration, as it would stand there.
fn written(words: &[&str]) -> Result<Route, String> {
    let (via, hosts, tls) = match words {
        ["smarthost", hosts] => (Via::Smarthost, hosts, None),
        ["smarthost", hosts, "tls", word] => (Via::Smarthost, hosts, Some(tls(word)?)),
        ["lmtp", host] => (Via::Lmtp, host, None),
        ["smarthost" | "lmtp"] => return Err("a host must follow".to_owned()),
        [.., "login", _] => return Err("the configuration has no such route with a login".to_owned()),
        ["smarthost" | "lmtp", ..] => return Err(format!("{:?} is not understood", words[2..].join(" "))),
        [word, ..] => return Err(format!("{word:?} is no way of delivery")),
        [] => return Err("it is empty".to_owned()),
    };
    let hosts: Vec<String> = hosts.split(',').map(str::to_owned).collect();
    let is_socket = hosts.iter().any(|host| host.starts_with('/'));
    if via == Via::Smarthost && is_socket {
        return Err("a smarthost has a name or an address".to_owned());
    }
    let has_port = |host: &String| host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if via == Via::Lmtp && !is_socket && !hosts.iter().all(has_port) {
        return Err("an LMTP server needs a port".to_owned());
    }
    Ok(Route {
        domain: "*".to_owned(),
        sender: "*".to_owned(),
        via,
        hosts,
        username: None,
        password_file: None,
        tls,
        text: None,
        maildir: None,
    })
}

fn tls(word: &str) -> Result<RouteTls, String> {
    match word {
        "may" => Ok(RouteTls::May),
        "encrypt" => Ok(RouteTls::Encrypt),
        "verify" => Ok(RouteTls::Verify),
        "implicit" => Ok(RouteTls::Implicit),
        _ => Err(format!("tls {word:?} is none of may, encrypt, verify and implicit")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::sync::Arc;

    use postern_config::Config;
    use postern_policy::Policy;
    use postern_smtp::ReversePath;

    use super::*;
    use crate::route::Router;
    use crate::tls_policy::TlsPolicy;

    fn router(routes: &str) -> Router {
        let text = format!(
            "hostname = \"mail.proseware.test\"\n[[domain]]\nname = \"proseware.test\"\nmailboxes = [\"alice\"]\n{routes}"
        );
        let config: Config = toml::from_str(&text).unwrap();
        let policy = Policy::new(&config);
        Router::new(Arc::new(config), Arc::new(policy), &[]).unwrap()
    }

    fn smarthost(keys: &str) -> String {
        format!("[[route]]\nvia = \"smarthost\"\nhosts = [\"relay.test:587\"]\n{keys}\n")
    }

    fn destination(router: &Router, recipient: &str, via: &str) -> String {
        let recipient = Address::parse(recipient).unwrap();
        router.destination(&ReversePath::Null, &recipient, Some(via)).to_string()
    }

    #[test]
    fn a_route_by_hand_goes_before_the_configuration_and_behind_local_domains() {
        let router = router(&smarthost(""));
        for (via, expected) in [
            ("mx", "mx adatum.test"),
            ("mx Backup.Test", "mx backup.test"),
            ("smarthost  other.test", "smarthost other.test"),
            ("smarthost one.test,[192.0.2.9]:26 tls verify", "smarthost one.test,[192.0.2.9]:26 tls verify"),
            ("lmtp /run/lmtp.sock", "lmtp /run/lmtp.sock"),
            ("lmtp 192.0.2.9:24", "lmtp 192.0.2.9:24"),
        ] {
            assert_eq!(destination(&router, "bob@adatum.test", via), expected);
            // What is kept is read again as the same.
            let kept = router.by_hand(via).unwrap().to_string();
            assert_eq!(router.by_hand(&kept).unwrap().to_string(), kept);
            assert_eq!(destination(&router, "alice@proseware.test", via), "local");
        }
        // One that has gone from the configuration counts as none.
        assert_eq!(
            destination(&router, "bob@adatum.test", "smarthost x login y"),
            "smarthost relay.test:587"
        );
    }

    #[test]
    fn a_route_of_the_configuration_is_taken_with_its_login_and_its_tls() {
        let folder = tempfile::tempdir().unwrap();
        let password = folder.path().join("password");
        std::fs::write(&password, "secret\n").unwrap();
        let login = smarthost(&format!("username = \"alice\"\npassword_file = {password:?}"));
        let router_with_login = router(&login);
        let name = "smarthost relay.test:587 login alice";
        for via in [name, "smarthost relay.test:587"] {
            let ByHand::Relay(relay) = router_with_login.by_hand(via).unwrap() else { panic!() };
            assert_eq!((relay.name.as_str(), relay.tls), (name, TlsPolicy::Verify));
            assert!(relay.credentials.is_some());
        }
        let ByHand::Relay(relay) = router_with_login.by_hand("smarthost other.test").unwrap() else {
            panic!()
        };
        assert_eq!((relay.tls, relay.credentials.is_none()), (TlsPolicy::May, true));
        let two = router(&format!("{login}{}", smarthost("tls = \"encrypt\"\ndomain = \"x.test\"")));
        let error = two.by_hand("smarthost relay.test:587").unwrap_err().to_string();
        assert!(error.contains("write one of them whole") && error.contains(name), "{error}");
    }

    #[test]
    fn what_is_no_route_is_refused_with_those_that_are() {
        let router = router(&smarthost(""));
        for (via, says) in [
            ("", "empty"),
            ("relay.test", "no way of delivery"),
            ("smarthost", "a host must follow"),
            ("smarthost a b", "\"b\" is not understood"),
            ("smarthost a..b", "is not a host"),
            ("smarthost relay.test:0x", "is not a host"),
            ("smarthost /run/x", "a name or an address"),
            ("smarthost relay.test tls maybe", "none of may"),
            ("smarthost relay.test login bob", "no such route with a login"),
            ("lmtp relay.test", "needs a port"),
            ("mx a b", "one domain"),
            ("mx -", "\"-\""),
            ("discard", "queue drop"),
            ("reject", "queue fail"),
            ("maildir /srv/x", "by the configuration alone"),
        ] {
            let error = router.by_hand(via).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert!(error.contains("`mx DOMAIN`") && error.contains("`smarthost relay.test:587`"), "{error}");
        }
    }
}
