//! What the own server says about itself: its listeners, its domains, and what its rules make of an address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use postern_admin::api::{ExplainRequest, Explanation, ListenerView, Status};
use postern_admin::explain::{RulesOnly, explain};
use postern_admin::{Client, ClientError};
use postern_policy::Policy;
use postern_smtp::{Address, Domain};
use toml_edit::{DocumentMut, Item};

use crate::Session;
use crate::config;
use crate::failure::Failure;

/// The own server.
pub(super) struct Site {
    pub(super) hostname: String,
    /// The configured domains.
    pub(super) domains: Vec<Domain>,
    pub(super) listeners: Vec<Listener>,
    rules: Rules,
    /// Why mail would not be accepted now, as the daemon says it.
    pub(super) unwell: Vec<String>,
    /// What should be known about all this.
    pub(super) notes: Vec<String>,
}

/// An open listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listener {
    pub(super) kind: String,
    pub(super) address: SocketAddr,
}

/// Who knows the rules.
enum Rules {
    Daemon(Client),
    File(Box<Policy>),
}

impl Site {
    /// Asks the daemon; where it does not answer, the configuration.
    pub(super) async fn find(session: &Session) -> Result<Self, Failure> {
        let client = session.client()?;
        match client.get::<Status>("/v1/status").await {
            Ok(status) => Self::running(client, status),
            Err(error @ ClientError::Unreachable { .. }) => {
                Self::configured(&session.global.config, &error.to_string())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn running(client: Client, status: Status) -> Result<Self, Failure> {
        let mut notes = Vec::new();
        let path = PathBuf::from(&status.configuration);
        let domains = configured_domains(&path).unwrap_or_else(|problem| {
            notes.push(format!(
                "{problem}: only the domain of the host name is named as local; name others with --domain"
            ));
            Vec::new()
        });
        let listener = |view: &ListenerView| {
            Some(Listener { kind: view.kind.clone(), address: view.address.parse().ok()? })
        };
        let mut listeners: Vec<Listener> = status.listeners.iter().filter_map(listener).collect();
        // It speaks another protocol.
        listeners.retain(|listener| listener.kind != postern_config::ListenerKind::Lmtp.as_str());
        // The daemon keeps no order; port 25 is what people look for first.
        listeners.sort_by(|a, b| (&a.kind, a.address).cmp(&(&b.kind, b.address)));
        let rules = Rules::Daemon(client);
        Ok(Self {
            listeners,
            hostname: status.hostname,
            domains,
            rules,
            unwell: status.health.reasons,
            notes,
        })
    }

    fn configured(path: &Path, problem: &str) -> Result<Self, Failure> {
        let config = config::load(path)?.config;
        let note = format!("{problem}: the listeners are those of {}", path.display());
        let listener = |listener: &postern_config::Listener| {
            Some(Listener { kind: listener.kind.as_str().to_owned(), address: listener.address.tcp()? })
        };
        // Nobody knows which free port a daemon would take.
        let speaks_smtp =
            |listener: &&postern_config::Listener| listener.kind != postern_config::ListenerKind::Lmtp;
        let fixed =
            config.listeners.iter().filter(speaks_smtp).filter(|listener| listener.address.is_fixed());
        Ok(Self {
            listeners: fixed.filter_map(listener).collect(),
            hostname: config.hostname.to_string(),
            domains: config.domains.iter().map(|domain| domain.name.clone()).collect(),
            rules: Rules::File(Box::new(Policy::new(&config))),
            unwell: Vec::new(),
            notes: vec![note],
        })
    }

    /// What the rules say to a transaction.
    pub(super) async fn explain(
        &self,
        client: IpAddr,
        listener: &str,
        from: &str,
        to: &str,
    ) -> Result<Explanation, Failure> {
        let request =
            ExplainRequest { listener: Some(listener.to_owned()), ..ExplainRequest::new(client, from, to) };
        match &self.rules {
            Rules::Daemon(client) => Ok(client.post("/v1/policy/explain", &request).await?),
            Rules::File(policy) => {
                explain(&request, policy, &RulesOnly).map_err(|error| Failure::Usage(error.to_string()))
            }
        }
    }

    /// By which right a client may relay without a login, if it has one, with the fact: it is no stranger then.
    pub(super) async fn right(
        &self,
        client: IpAddr,
        listener: &str,
        from: &Address,
        to: &Address,
    ) -> Result<Option<(String, String)>, Failure> {
        let explanation = self.explain(client, listener, &from.to_string(), &to.to_string()).await?;
        Ok(right(&explanation))
    }

    /// Whose mailboxes an address leads to, if the rules say that it is one of their own.
    pub(super) async fn local_mailboxes(
        &self,
        client: IpAddr,
        listener: &str,
        to: &str,
    ) -> Option<Vec<String>> {
        let explanation = self.explain(client, listener, "<>", to).await.ok()?;
        let is_local = explanation.stages.last()?.decision.reason.kind == "local-recipient";
        is_local.then(|| explanation.deliveries.into_iter().map(|delivery| delivery.recipient).collect())
    }
}

/// The rules that let a client relay by what it is, not by who logs in.
const RIGHTS: [&str; 4] = ["trusted network", "temporary grant", "address grant", "host name"];

fn right(explanation: &Explanation) -> Option<(String, String)> {
    let mut rules = explanation.stages.iter().flat_map(|stage| &stage.decision.rules);
    let rule = rules.find(|rule| rule.matched && RIGHTS.contains(&rule.rule.as_str()))?;
    Some((rule.rule.clone(), rule.fact.clone()))
}

impl Listener {
    /// The addresses of this machine that it can be asked at as a stranger would: whoever connects to one comes from it. Only
    /// one for all addresses is at other ones than loopback.
    pub(super) fn other_addresses(&self, own: &[IpAddr]) -> Vec<SocketAddr> {
        if !self.address.ip().is_unspecified() {
            return Vec::new();
        }
        let is_link_local = |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            // It needs the name of an interface.
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        let same_family = |ip: &&IpAddr| ip.is_ipv4() == self.address.is_ipv4();
        let fits = |ip: &&IpAddr| !ip.is_loopback() && !ip.is_unspecified() && !is_link_local(ip);
        let fitting = own.iter().filter(same_family).filter(fits);
        fitting.map(|ip| SocketAddr::new(*ip, self.address.port())).collect()
    }

    /// Where it is reached from this machine: one for all addresses is asked at loopback, or at the address that we ask from,
    /// which is one of this machine too. `None`: not from there.
    pub(super) fn reached_from(&self, source: Option<IpAddr>) -> Option<SocketAddr> {
        let same_family = |source: &IpAddr| source.is_ipv4() == self.address.is_ipv4();
        let ip = match (self.address.ip(), source) {
            (_, Some(source)) if !same_family(&source) => return None,
            (ip, Some(source)) if ip.is_unspecified() && !source.is_loopback() => source,
            (ip, _) if !ip.is_unspecified() => ip,
            (IpAddr::V4(_), _) => Ipv4Addr::LOCALHOST.into(),
            (IpAddr::V6(_), _) => Ipv6Addr::LOCALHOST.into(),
        };
        Some(SocketAddr::new(ip, self.address.port()))
    }
}

/// The names of `[[domain]]`. Nothing else of the files is read: who may ask the daemon need not be allowed to read its
/// secrets.
fn configured_domains(path: &Path) -> Result<Vec<Domain>, String> {
    let mut domains = Vec::new();
    for file in config::files(path) {
        let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let document: DocumentMut = text.parse().map_err(|_| format!("{} is no TOML", file.display()))?;
        domains.extend(domain_names(document.get("domain")));
    }
    Ok(domains)
}

/// Of `[[domain]]`, or of `domain = [{ ... }]`.
fn domain_names(item: Option<&Item>) -> Vec<Domain> {
    let mut names: Vec<&str> = Vec::new();
    if let Some(tables) = item.and_then(Item::as_array_of_tables) {
        names.extend(tables.iter().filter_map(|table| table.get("name")?.as_str()));
    }
    if let Some(array) = item.and_then(Item::as_array) {
        names.extend(array.iter().filter_map(|value| value.as_inline_table()?.get("name")?.as_str()));
    }
    names.into_iter().filter_map(|name| Domain::parse(name).ok()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_policy::standing::grants::TemporaryGrant;

    use super::*;

    #[test]
    fn domains_are_found_in_all_files_and_both_spellings() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("postern.toml");
        std::fs::write(&config, "[[domain]]\nname = \"proseware.test\"\n[[domain]]\nname = \"_\"\n").unwrap();
        std::fs::create_dir(folder.path().join("conf.d")).unwrap();
        std::fs::write(folder.path().join("conf.d/x.toml"), "domain = [{ name = \"Adatum.test\" }]\n")
            .unwrap();
        let names: Vec<String> =
            configured_domains(&config).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["proseware.test", "adatum.test"]);
        std::fs::write(&config, "[[domain]").unwrap();
        assert!(configured_domains(&config).unwrap_err().contains("no TOML"));
    }

    #[test]
    fn a_listener_for_all_addresses_can_be_asked_as_a_stranger_would() {
        let own: Vec<IpAddr> = ["127.0.0.1", "192.0.2.5", "169.254.1.1", "::1", "fe80::1", "2001:db8::5"]
            .map(|ip| ip.parse().unwrap())
            .into();
        let asked = |address: &str| {
            let listener = Listener { kind: "mx".to_owned(), address: address.parse().unwrap() };
            let found: Vec<String> = listener.other_addresses(&own).iter().map(ToString::to_string).collect();
            found
        };
        assert_eq!(asked("0.0.0.0:25"), ["192.0.2.5:25"]);
        assert_eq!(asked("[::]:25"), ["[2001:db8::5]:25"]);
        assert_eq!(asked("127.0.0.1:25"), Vec::<String>::new());
    }

    #[test]
    fn every_right_of_an_address_makes_it_no_stranger() {
        let text = r#"
            hostname = "mail.proseware.test"
            [relay]
            trusted_networks = [{ network = "192.0.2.64/26", label = "office" }]
            hosts = [{ name = "branch.proseware.test", label = "branch" }]
            temporary = { enabled = true }
            grants = [{ label = "open", network = "198.51.100.7/32", senders = ["*"], recipients = ["*"], rate = "9/h" }]
        "#;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("postern.toml");
        std::fs::write(&path, text).unwrap();
        let policy = Policy::new(&config::load(&path).unwrap().config);
        let (now, address) = (std::time::SystemTime::now(), |text: &str| text.parse::<IpAddr>().unwrap());
        let branch = Domain::parse("branch.proseware.test").unwrap();
        policy.standing.hosts.learn(&branch, vec![address("203.0.113.9")], now);
        let until = now + std::time::Duration::from_secs(60);
        let until = until.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
        let grant = TemporaryGrant { network: "203.0.113.7/32".parse().unwrap(), until, why: "x".to_owned() };
        policy.standing.grants.give(grant, 10, now).unwrap();
        let right_of = |client: &str| {
            let request = ExplainRequest::new(address(client), "x@example.org", "y@example.com");
            right(&explain(&request, &policy, &RulesOnly).unwrap()).map(|(rule, _)| rule)
        };
        for (client, rule) in [
            ("192.0.2.77", Some("trusted network")),
            ("203.0.113.7", Some("temporary grant")),
            ("198.51.100.7", Some("address grant")),
            ("203.0.113.9", Some("host name")),
            ("203.0.113.8", None),
        ] {
            assert_eq!(right_of(client).as_deref(), rule, "{client}");
        }
    }

    #[test]
    fn a_listener_for_all_addresses_is_asked_at_one_of_this_machine() {
        let reached = |address: &str, source: Option<&str>| {
            let listener = Listener { kind: "mx".to_owned(), address: address.parse().unwrap() };
            let reached = listener.reached_from(source.map(|source| source.parse().unwrap()));
            reached.map(|address| address.to_string())
        };
        assert_eq!(reached("0.0.0.0:25", None).as_deref(), Some("127.0.0.1:25"));
        assert_eq!(reached("[::]:25", None).as_deref(), Some("[::1]:25"));
        assert_eq!(reached("0.0.0.0:25", Some("127.0.0.9")).as_deref(), Some("127.0.0.1:25"));
        assert_eq!(reached("0.0.0.0:25", Some("192.0.2.1")).as_deref(), Some("192.0.2.1:25"));
        assert_eq!(reached("192.0.2.7:25", Some("192.0.2.1")).as_deref(), Some("192.0.2.7:25"));
        assert_eq!(reached("[::]:25", Some("192.0.2.1")), None);
    }
}
