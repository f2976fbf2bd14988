//! The next hop: a local mailbox, the first `[[route]]` that matches, or the MX hosts of the domain.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use postern_config::surroundings::interface_addresses;
use postern_config::{Config, Route, Via};
use postern_policy::Policy;
use postern_policy::directory::expand_maildir;
use postern_queue::Destination;
use postern_runtime::clock::Pending;
use postern_runtime::dns::{Answer, Dns, Mx};
use postern_smtp::{Address, Domain, Host, ReversePath};

use crate::by_hand::{self, BadRoute, ByHand};
use crate::client::{Credentials, Protocol};
use crate::maildir::Maildir;
use crate::outcome::Verdict;
use crate::tls_policy::TlsPolicy;

/// So many MX hosts are looked up for one attempt, the best ones: hardly a domain has more, and one that has thousands must
/// not make us ask for them all.
const MAX_LOOKUPS: usize = 20;
/// Of one MX host, so many addresses are tried in one attempt: a host with many dead ones must not use up the attempt.
const MAX_ADDRESSES_PER_HOST: usize = 4;
const LMTP_PORT: u16 = 24;
const SUBMISSION_PORT: u16 = 587;
const SUBMISSIONS_PORT: u16 = 465;

/// The routes of one configuration.
#[derive(Debug)]
pub struct Router {
    config: Arc<Config>,
    policy: Arc<Policy>,
    /// Beside `config.routes`: the compiled smarthost or LMTP server.
    relays: Vec<Option<Relay>>,
    own: OwnAddresses,
}

/// Where a recipient's mail goes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hop<'a> {
    /// A mailbox of ours.
    Local(Maildir),
    /// A domain of ours that has no such mailbox any more.
    Gone,
    /// The MX hosts of a domain, or the host of an address literal.
    Mx(Cow<'a, Host>),
    /// A smarthost or LMTP server.
    Relay(Cow<'a, Relay>),
    /// The Maildir of a route.
    Maildir(Maildir),
    /// Nowhere.
    Discard,
    /// Back to the sender, with this text.
    Reject(&'a str),
}

impl fmt::Display for Hop<'_> {
    /// The name of the destination: recipients with the same one wait and travel together.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(_) | Self::Gone => f.write_str("local"),
            Self::Mx(host) => write!(f, "mx {host}"),
            Self::Relay(relay) => f.write_str(&relay.name),
            Self::Maildir(_) => f.write_str("maildir"),
            Self::Discard => f.write_str("discard"),
            Self::Reject(_) => f.write_str("reject"),
        }
    }
}

/// The destinations that are reached without a network, as [`Hop`] names them.
pub(crate) const NEARBY: [&str; 4] = ["local", "maildir", "discard", "reject"];

/// A smarthost or LMTP server of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// `smarthost relay.test:587 tls encrypt login alice`, `lmtp /run/lmtp.sock`: with the login, and with how much TLS
    /// where the route says so, as a connection made for one route must not carry mail of another that asks for more.
    pub name: String,
    /// Tried in order.
    pub hosts: Vec<RelayHost>,
    /// SMTP or LMTP.
    pub protocol: Protocol,
    /// How much TLS.
    pub tls: TlsPolicy,
    /// The login.
    pub credentials: Option<Credentials>,
}

/// A host of a smarthost or LMTP route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayHost {
    /// A name and a port.
    Name(Domain, u16),
    /// An address.
    Address(SocketAddr),
    /// A UNIX socket.
    Socket(PathBuf),
}

/// Why the routes of a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// A smarthost or LMTP route that names no host.
    #[error("a {0} route needs `hosts`")]
    NoHost(&'static str),
    /// Not `host`, `host:port`, `[address]:port` or the path of a socket.
    #[error("{0:?} is not a host of a route")]
    BadHost(String),
    /// The password of a smarthost cannot be read.
    #[error("{path}: {source}")]
    Password {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}

/// A host to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// As reports name it, and as its certificate should: a host name or an address.
    pub host: String,
    /// Where it listens.
    pub endpoint: Endpoint,
}

impl fmt::Display for Target {
    /// `mx.adatum.test (192.0.2.7:25)`; what has no name, by its address or path alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_named = match &self.endpoint {
            Endpoint::Tcp(address) => self.host != address.ip().to_string(),
            Endpoint::Unix(_) => false,
        };
        match is_named {
            true => write!(f, "{} ({})", self.host, self.endpoint),
            false => self.endpoint.fmt(f),
        }
    }
}

/// Where a connection goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// Over TCP.
    Tcp(SocketAddr),
    /// Over a UNIX socket.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Why there is no host to connect to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteFailure {
    /// RFC 7505.
    #[error("{0} does not take mail (null MX)")]
    NullMx(Domain),
    /// NXDOMAIN, or neither MX nor address records.
    #[error("{0} does not exist, or has neither MX nor address records")]
    NoSuchDomain(Domain),
    /// MX records whose hosts have no address.
    #[error("no MX host of {0} has an address")]
    NoAddress(Domain),
    /// We are the best MX host that is left (RFC 5321 §5.1).
    #[error("mail for {0} loops back to this server")]
    Loop(String),
    /// `outbound.allow_private_targets` is not set.
    #[error("mail hosts of {0} are only in private networks (see outbound.allow_private_targets)")]
    PrivateTargets(String),
    /// The hosts of a smarthost have no address.
    #[error("{0} has no address")]
    SmarthostUnknown(String),
    /// DNS could not say.
    #[error("DNS cannot say where mail for {name} goes: {problem}")]
    Dns {
        /// What was asked.
        name: String,
        /// What came back.
        problem: String,
    },
}

impl RouteFailure {
    /// What it means for the recipients.
    pub fn verdict(&self) -> Verdict {
        let text = self.to_string();
        match self {
            Self::NullMx(_) => Verdict::never(1, 10, text), // RFC 7505 §4.1
            Self::NoSuchDomain(_) => Verdict::never(1, 2, text),
            Self::NoAddress(_) | Self::PrivateTargets(_) => Verdict::never(4, 4, text),
            Self::Loop(_) => Verdict::never(4, 6, text),
            // Our configuration, or the DNS of somebody we rely on: the sender can do nothing about it.
            Self::SmarthostUnknown(_) => Verdict::later(4, 4, text),
            Self::Dns { .. } => Verdict::later(4, 3, text),
        }
    }
}

impl Router {
    /// Compiles the routes. `own` are the addresses this server listens at, as they were bound: an MX record that leads
    /// there leads to us. Reads the passwords of smarthosts. Blocking.
    ///
    /// # Errors
    /// [`RouterError`].
    pub fn new(config: Arc<Config>, policy: Arc<Policy>, own: &[SocketAddr]) -> Result<Self, RouterError> {
        let relays = config.routes.iter().map(|route| Relay::of_route(route, config.outbound.port));
        let relays = relays.collect::<Result<_, _>>()?;
        Ok(Self { config, policy, relays, own: OwnAddresses::new(own) })
    }

    /// The next hop of a recipient. A local domain always comes first: no route can take mail away from it. Then comes the
    /// route that an operator has chosen (`via`), if it can still be taken.
    pub fn route<'a>(&'a self, sender: &ReversePath, recipient: &'a Address, via: Option<&str>) -> Hop<'a> {
        if let Some(domain) = recipient.domain().filter(|domain| self.policy.directory.is_local(domain)) {
            return self.local(domain, recipient);
        }
        if let Some(by_hand) = via.and_then(|via| self.by_hand(via).ok()) {
            return by_hand.hop(recipient);
        }
        let matching =
            self.config.routes.iter().zip(&self.relays).find(|(route, _)| route.matches(sender, recipient));
        match matching {
            None => Hop::Mx(Cow::Borrowed(&recipient.host)),
            Some((_, Some(relay))) => Hop::Relay(Cow::Borrowed(relay)),
            Some((route, None)) => of_route(route, recipient),
        }
    }

    /// The name of the next hop: what the queue groups by.
    pub fn destination(&self, sender: &ReversePath, recipient: &Address, via: Option<&str>) -> Destination {
        Destination(self.route(sender, recipient, via).to_string().into())
    }

    /// A route that an operator writes by hand, see [`ByHand`].
    ///
    /// # Errors
    /// [`BadRoute`] says which routes there are.
    pub fn by_hand(&self, via: &str) -> Result<ByHand<'_>, BadRoute> {
        by_hand::read(via, self.relays.iter().flatten(), self.config.outbound.port)
    }

    fn local(&self, domain: &Domain, recipient: &Address) -> Hop<'_> {
        let Some(path) = self.policy.directory.maildir(recipient) else { return Hop::Gone };
        let template = self.config.domains.iter().find(|known| known.name == *domain);
        let base = match template.and_then(|known| known.maildir.as_deref()) {
            Some(template) => fixed_part(template),
            None => self.config.queue.path.clone(),
        };
        Hop::Local(Maildir { path, base })
    }

    /// The hosts of a hop that is reached over a network, best first. Hops without a network have none.
    ///
    /// # Errors
    /// [`RouteFailure`].
    pub async fn resolve(&self, hop: &Hop<'_>, dns: &dyn Dns) -> Result<Vec<Target>, RouteFailure> {
        let resolving = async {
            match hop {
                Hop::Mx(host) => match &**host {
                    Host::Domain(domain) => self.mx_targets(domain, dns).await,
                    Host::Literal(ip) => self.literal_target(*ip),
                },
                Hop::Relay(relay) => relay.targets(dns).await,
                _ => Ok(Vec::new()),
            }
        };
        match tokio::time::timeout(self.config.outbound.timeouts.dns, resolving).await {
            Ok(resolved) => resolved,
            Err(_) => {
                Err(RouteFailure::Dns { name: hop.to_string(), problem: "no answer in time".to_owned() })
            }
        }
    }

    /// Whether this server listens there itself.
    pub(crate) fn is_this_server(&self, endpoint: &Endpoint) -> bool {
        matches!(endpoint, Endpoint::Tcp(address) if self.own.contains(*address))
    }

    async fn mx_targets(&self, domain: &Domain, dns: &dyn Dns) -> Result<Vec<Target>, RouteFailure> {
        let (hosts, implicit) = match dns.mx(domain).await {
            Answer::Records(records) => (usable_hosts(domain, records)?, false),
            // RFC 5321 §5.1: without MX records the domain is its own mail host.
            Answer::NoRecords => (vec![(0, domain.clone())], true),
            Answer::NoSuchName => return Err(RouteFailure::NoSuchDomain(domain.clone())),
            Answer::TryLater(problem) => return Err(RouteFailure::Dns { name: domain.to_string(), problem }),
        };
        let hosts = self.without_own_name(domain, hosts)?;
        let all = hosts.len();
        let hosts = by_preference(hosts, MAX_LOOKUPS.max(self.config.outbound.max_hosts));
        let lookups = hosts.iter().map(|(_, host)| dns.addresses(host)).collect();
        let answers = join_all(lookups).await;
        let mut found = Found::default();
        for ((preference, host), answer) in hosts.iter().zip(answers) {
            found.add(*preference, host, answer, self);
        }
        if hosts.len() < all {
            found.note_problem(u16::MAX, format!("only {} of {all} MX hosts were asked for", hosts.len()));
        }
        let none = match implicit {
            true => RouteFailure::NoSuchDomain(domain.clone()),
            false => RouteFailure::NoAddress(domain.clone()),
        };
        let targets = found.into_targets(&domain.to_string(), none)?;
        Ok(of_first_hosts(targets, self.config.outbound.max_hosts))
    }

    /// RFC 5321 §5.1: where we are among the MX hosts, neither we nor hosts of the same or worse preference are asked.
    fn without_own_name(
        &self,
        domain: &Domain,
        mut hosts: Vec<(u16, Domain)>,
    ) -> Result<Vec<(u16, Domain)>, RouteFailure> {
        let ours = hosts.iter().filter(|(_, host)| *host == self.config.hostname).map(|(p, _)| *p).min();
        if let Some(ours) = ours {
            hosts.retain(|(preference, _)| *preference < ours);
        }
        match hosts.is_empty() {
            true => Err(RouteFailure::Loop(domain.to_string())),
            false => Ok(hosts),
        }
    }

    fn literal_target(&self, ip: IpAddr) -> Result<Vec<Target>, RouteFailure> {
        let name = Host::Literal(ip).to_string();
        let mut found = Found::default();
        found.add_address(0, ip.to_string(), ip, self);
        let none = RouteFailure::PrivateTargets(name.clone());
        found.into_targets(&name, none)
    }
}

/// How long the addresses of this machine are believed to be the same.
const INTERFACES_BELIEVED: Duration = Duration::from_secs(60);

/// Where this server listens itself.
#[derive(Debug)]
struct OwnAddresses {
    listening: Vec<SocketAddr>,
    /// The addresses of this machine, and when they were asked for.
    interfaces: Mutex<Option<(Instant, Vec<IpAddr>)>>,
}

impl OwnAddresses {
    fn new(listening: &[SocketAddr]) -> Self {
        Self { listening: listening.to_vec(), interfaces: Mutex::new(None) }
    }

    /// Whether we listen there. A listener on all addresses counts only for addresses that this machine has.
    fn contains(&self, address: SocketAddr) -> bool {
        self.listening.iter().filter(|own| own.port() == address.port()).any(|own| {
            let same = own.ip().to_canonical() == address.ip().to_canonical();
            same || (own.ip().is_unspecified() && self.is_on_an_interface(address.ip()))
        })
    }

    fn is_on_an_interface(&self, ip: IpAddr) -> bool {
        // Linux takes all of 127/8 for itself, whatever the interface says.
        if ip.is_loopback() {
            return true;
        }
        let mut interfaces = self.interfaces.lock();
        let fresh = interfaces.take().filter(|(asked, _)| asked.elapsed() < INTERFACES_BELIEVED);
        let (_, addresses) = interfaces.insert(fresh.unwrap_or_else(|| (Instant::now(), own_addresses())));
        addresses.contains(&ip.to_canonical())
    }
}

fn own_addresses() -> Vec<IpAddr> {
    interface_addresses().unwrap_or_else(|error| {
        tracing::warn!(event = "no-interfaces", %error, "mail loops to this server may go unnoticed");
        Vec::new()
    })
}

fn of_route<'a>(route: &'a Route, recipient: &'a Address) -> Hop<'a> {
    match route.via {
        Via::Maildir => match &route.maildir {
            Some(template) => Hop::Maildir(Maildir {
                path: expand_maildir(
                    template,
                    &recipient.host.to_string(),
                    &recipient.local.as_str().to_lowercase(),
                ),
                base: fixed_part(template),
            }),
            None => Hop::Reject("the route of this domain names no Maildir"),
        },
        Via::Discard => Hop::Discard,
        Via::Reject => {
            Hop::Reject(route.text.as_deref().unwrap_or("mail for this recipient is not accepted"))
        }
        Via::Mx | Via::Smarthost | Via::Lmtp => Hop::Mx(Cow::Borrowed(&recipient.host)),
    }
}

/// The directory that must be there before a Maildir of the template is made: what stands before the first placeholder,
/// or the parent of a template without one. A filesystem that is not mounted must not be mistaken for an empty one.
fn fixed_part(template: &Path) -> PathBuf {
    let fixed = template.components().take_while(|part| !part.as_os_str().to_string_lossy().contains('{'));
    let fixed: PathBuf = fixed.collect();
    match fixed == template {
        true => template.parent().map(Path::to_owned).unwrap_or_default(),
        false => fixed,
    }
}

/// The hosts of MX records. A null MX counts only where it stands alone (RFC 7505 §3).
fn usable_hosts(domain: &Domain, records: Vec<Mx>) -> Result<Vec<(u16, Domain)>, RouteFailure> {
    let hosts: Vec<(u16, Domain)> =
        records.into_iter().filter_map(|record| Some((record.preference, record.host?))).collect();
    match hosts.is_empty() {
        true => Err(RouteFailure::NullMx(domain.clone())),
        false => Ok(hosts),
    }
}

/// The best hosts in order, equal ones shuffled anew for every attempt (RFC 5321 §5.1).
fn by_preference(mut hosts: Vec<(u16, Domain)>, limit: usize) -> Vec<(u16, Domain)> {
    hosts.sort_by_cached_key(|(preference, _)| (*preference, rand::random::<u64>()));
    hosts.truncate(limit.max(1));
    hosts
}

/// The addresses of the first `limit` hosts.
fn of_first_hosts(mut targets: Vec<Target>, limit: usize) -> Vec<Target> {
    let mut hosts: Vec<String> = targets.iter().map(|target| target.host.clone()).collect();
    // The addresses of a host stand together.
    hosts.dedup();
    if let Some(behind) = hosts.get(limit.max(1)) {
        let end = targets.iter().position(|target| target.host == *behind);
        targets.truncate(end.unwrap_or(targets.len()));
    }
    targets
}

/// The addresses of MX hosts, while they are gathered.
#[derive(Default)]
struct Found {
    targets: Vec<(u16, Target)>,
    /// The best preference at which we ourselves were met.
    ourselves: Option<u16>,
    private: bool,
    /// The best preference at which DNS could not say an address, and why.
    dns_problem: Option<(u16, String)>,
}

impl Found {
    fn add(&mut self, preference: u16, host: &Domain, answer: Answer<IpAddr>, router: &Router) {
        match answer {
            Answer::Records(addresses) => {
                for ip in ipv4_first(addresses) {
                    self.add_address(preference, host.to_string(), ip, router);
                }
            }
            Answer::TryLater(problem) => self.note_problem(preference, format!("{host}: {problem}")),
            Answer::NoRecords | Answer::NoSuchName => {}
        }
    }

    fn note_problem(&mut self, preference: u16, problem: String) {
        if self.dns_problem.as_ref().is_none_or(|(known, _)| preference < *known) {
            self.dns_problem = Some((preference, problem));
        }
    }

    fn add_address(&mut self, preference: u16, host: String, ip: IpAddr, router: &Router) {
        let address = SocketAddr::new(ip.to_canonical(), router.config.outbound.port);
        if router.own.contains(address) {
            self.ourselves = Some(self.ourselves.map_or(preference, |met| met.min(preference)));
        } else if is_private(address.ip()) && !router.config.outbound.allow_private_targets {
            self.private = true;
        } else {
            self.targets.push((preference, Target { host, endpoint: Endpoint::Tcp(address) }));
        }
    }

    fn into_targets(mut self, name: &str, none: RouteFailure) -> Result<Vec<Target>, RouteFailure> {
        if let Some(ourselves) = self.ourselves {
            self.targets.retain(|(preference, _)| *preference < ourselves);
        }
        if !self.targets.is_empty() {
            return Ok(self.targets.into_iter().map(|(_, target)| target).collect());
        }
        // A host that is no better than ourselves would not be asked, whatever its address.
        let problem =
            self.dns_problem.filter(|(preference, _)| self.ourselves.is_none_or(|us| *preference < us));
        Err(match problem {
            Some((_, problem)) => RouteFailure::Dns { name: name.to_owned(), problem },
            None if self.ourselves.is_some() => RouteFailure::Loop(name.to_owned()),
            None if self.private => RouteFailure::PrivateTargets(name.to_owned()),
            None => none,
        })
    }
}

/// IPv4 first: mail over IPv6 is refused by more hosts, for want of a PTR record or a reputation.
fn ipv4_first(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses.truncate(MAX_ADDRESSES_PER_HOST);
    addresses
}

/// Networks that no foreign domain may send our mail to: private, loopback, link-local, shared, benchmark, documentation,
/// multicast and reserved ones (RFC 6890), and IPv6 addresses that lead into them.
fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => is_private_v4(ip),
        IpAddr::V6(ip) => is_private_v6(ip),
    }
}

fn is_private_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_documentation()
        || ip.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && b & 0xc0 == 64)
        || (a == 198 && b & 0xfe == 18)
        || (a, b, c) == (192, 0, 0)
}

fn is_private_v6(ip: Ipv6Addr) -> bool {
    let [a, b, c, ..] = ip.segments();
    ip.is_loopback()
        || ip.is_unspecified()
        || ip.is_multicast()
        || a & 0xfe00 == 0xfc00
        || a & 0xffc0 == 0xfe80
        // Site-local ones, which RFC 3879 has given up and old networks have not.
        || a & 0xffc0 == 0xfec0
        // The local translation prefix (RFC 8215): where the IPv4 address stands in it is the network's own affair.
        || (a, b, c) == (0x0064, 0xff9b, 1)
        || (a == 0x2001 && b == 0x0db8)
        || (a == 0x0100 && b == 0)
        || embedded_v4(ip).into_iter().flatten().any(is_private_v4)
}

/// The IPv4 addresses to which a gateway or tunnel carries what is sent to this one.
fn embedded_v4(ip: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let at = |high: u16, low: u16| Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match ip.segments() {
        // Compatible addresses (RFC 4291 §2.5.5.1), and the translation prefix (RFC 6052 §2.1).
        [0, 0, 0, 0, 0, 0, high, low] | [0x0064, 0xff9b, 0, 0, 0, 0, high, low] => [at(high, low), None],
        // 6to4 (RFC 3056 §2).
        [0x2002, high, low, ..] => [at(high, low), None],
        // Teredo (RFC 4380 §4): the server, and the client with its bits inverted.
        [0x2001, 0, high, low, _, _, client_high, client_low] => {
            [at(high, low), at(!client_high, !client_low)]
        }
        _ => [None, None],
    }
}

impl Relay {
    /// The smarthost or LMTP server of a route, if it is one.
    pub(crate) fn of_route(route: &Route, mx_port: u16) -> Result<Option<Self>, RouterError> {
        let (kind, protocol, tls) = match route.via {
            Via::Smarthost => ("smarthost", Protocol::Smtp, TlsPolicy::of_smarthost(route)),
            Via::Lmtp => ("lmtp", Protocol::Lmtp, TlsPolicy::of_lmtp(route)),
            Via::Mx | Via::Maildir | Via::Discard | Via::Reject => return Ok(None),
        };
        let port = match (protocol, tls, &route.username) {
            (Protocol::Lmtp, ..) => LMTP_PORT,
            (_, TlsPolicy::Implicit, _) => SUBMISSIONS_PORT,
            (_, _, Some(_)) => SUBMISSION_PORT,
            (_, _, None) => mx_port,
        };
        let hosts =
            route.hosts.iter().map(|text| RelayHost::parse(text, port)).collect::<Result<Vec<_>, _>>()?;
        if hosts.is_empty() {
            return Err(RouterError::NoHost(kind));
        }
        let credentials = credentials(route)?;
        let asked = route.tls.map(|_| format!(" tls {}", tls.as_str())).unwrap_or_default();
        let login = route.username.as_ref().map(|name| format!(" login {name}")).unwrap_or_default();
        let name = format!("{kind} {}{asked}{login}", route.hosts.join(","));
        Ok(Some(Self { name, hosts, protocol, tls, credentials }))
    }

    async fn targets(&self, dns: &dyn Dns) -> Result<Vec<Target>, RouteFailure> {
        let names = self.hosts.iter().enumerate().filter_map(|(at, host)| match host {
            RelayHost::Name(name, _) => Some((at, name)),
            _ => None,
        });
        let (places, lookups): (Vec<usize>, Vec<_>) =
            names.map(|(at, name)| (at, dns.addresses(name))).unzip();
        let mut answers: BTreeMap<usize, _> = places.into_iter().zip(join_all(lookups).await).collect();
        let mut targets = Vec::new();
        let mut problem = None;
        for (at, host) in self.hosts.iter().enumerate() {
            match (host, answers.remove(&at)) {
                (RelayHost::Name(name, port), Some(Answer::Records(addresses))) => {
                    targets.extend(ipv4_first(addresses).into_iter().map(|ip| Target {
                        host: name.to_string(),
                        endpoint: Endpoint::Tcp(SocketAddr::new(ip, *port)),
                    }));
                }
                (RelayHost::Name(name, _), Some(Answer::TryLater(why))) => {
                    problem = Some(format!("{name}: {why}"))
                }
                (RelayHost::Name(..), _) => {}
                (RelayHost::Address(address), _) => {
                    targets.push(Target { host: address.ip().to_string(), endpoint: Endpoint::Tcp(*address) })
                }
                (RelayHost::Socket(path), _) => targets.push(Target {
                    host: path.display().to_string(),
                    endpoint: Endpoint::Unix(path.clone()),
                }),
            }
        }
        match (targets.is_empty(), problem) {
            (false, _) => Ok(targets),
            (true, Some(problem)) => Err(RouteFailure::Dns { name: self.name.clone(), problem }),
            (true, None) => Err(RouteFailure::SmarthostUnknown(self.name.clone())),
        }
    }
}

fn credentials(route: &Route) -> Result<Option<Credentials>, RouterError> {
    let Some(username) = &route.username else { return Ok(None) };
    let password = match &route.password_file {
        None => String::new(),
        Some(path) => std::fs::read_to_string(path)
            .map_err(|source| RouterError::Password { path: path.clone(), source })?
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned(),
    };
    Ok(Some(Credentials::new(username.clone(), password)))
}

impl RelayHost {
    /// `host`, `host:port`, `[address]`, `[address]:port`, `address:port` (IPv4), or the absolute path of a socket.
    fn parse(text: &str, default_port: u16) -> Result<Self, RouterError> {
        let bad = || RouterError::BadHost(text.to_owned());
        if text.starts_with('/') {
            return Ok(Self::Socket(text.into()));
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::Address(SocketAddr::new(ip, default_port)));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().map_err(|_| bad())?),
            _ => (text, default_port),
        };
        if let Some(literal) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let literal = literal.strip_prefix("IPv6:").unwrap_or(literal);
            return Ok(Self::Address(SocketAddr::new(literal.parse().map_err(|_| bad())?, port)));
        }
        if let Ok(ip) = host.parse::<Ipv4Addr>() {
            return Ok(Self::Address(SocketAddr::new(ip.into(), port)));
        }
        Ok(Self::Name(Domain::parse(host).map_err(|_| bad())?, port))
    }
}

/// Waits for all of them at once, on this task.
pub(crate) async fn join_all<T>(mut waiting: Vec<Pending<'_, T>>) -> Vec<T> {
    let mut done: Vec<Option<T>> = waiting.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, slot) in waiting.iter_mut().zip(&mut done) {
            if slot.is_none()
                && let Poll::Ready(value) = future.as_mut().poll(cx)
            {
                *slot = Some(value);
            }
        }
        match done.iter().all(Option::is_some) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::collections::HashSet;

    use postern_runtime::dns::StaticDns;

    use super::*;
    use crate::testing::Silent;

    const CONFIG: &str = r#"
        hostname = "mail.proseware.test"
        [queue]
        path = "/spool"
        [outbound]
        port = 2525
        [[domain]]
        name = "proseware.test"
        mailboxes = ["alice"]
        [[domain]]
        name = "branch.test"
        mailboxes = ["desk"]
        maildir = "/srv/mail/{domain}/{local}/Maildir"
    "#;

    #[test]
    fn a_target_is_shown_with_address_and_port() {
        let tcp = |host: &str, address: &str| {
            let endpoint = Endpoint::Tcp(address.parse().unwrap());
            Target { host: host.to_owned(), endpoint }.to_string()
        };
        assert_eq!(tcp("mx.adatum.test", "192.0.2.7:25"), "mx.adatum.test (192.0.2.7:25)");
        assert_eq!(tcp("mx.adatum.test", "[2001:db8::7]:25"), "mx.adatum.test ([2001:db8::7]:25)");
        assert_eq!(tcp("2001:db8::7", "[2001:db8::7]:25"), "[2001:db8::7]:25");
        let endpoint = Endpoint::Unix("/run/lmtp.sock".into());
        assert_eq!(Target { host: "/run/lmtp.sock".to_owned(), endpoint }.to_string(), "/run/lmtp.sock");
    }

    fn router(routes: &str) -> Router {
        let config: Config = toml::from_str(&format!("{CONFIG}\n{routes}")).unwrap();
        let policy = Policy::new(&config);
        let own = ["192.0.2.25:2525".parse().unwrap()];
        Router::new(Arc::new(config), Arc::new(policy), &own).unwrap()
    }

    fn destination(routes: &str, sender: &str, recipient: &str) -> String {
        let sender = ReversePath::parse(sender).unwrap();
        router(routes).destination(&sender, &Address::parse(recipient).unwrap(), None).to_string()
    }

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    async fn hosts(routes: &str, dns: &StaticDns, recipient: &str) -> Result<Vec<String>, RouteFailure> {
        let recipient = Address::parse(recipient).unwrap();
        let router = router(routes);
        let hop = router.route(&ReversePath::Null, &recipient, None);
        let targets = router.resolve(&hop, dns).await?;
        Ok(targets.iter().map(|target| format!("{} {}", target.host, target.endpoint)).collect())
    }

    /// Public addresses: those for documentation are refused as private.
    fn dns() -> StaticDns {
        StaticDns::new()
            .mx_record(domain("adatum.test"), 20, domain("backup.adatum.test"))
            .mx_record(domain("adatum.test"), 10, domain("mx.adatum.test"))
            .address_record(domain("mx.adatum.test"), ip("2a00::1"))
            .address_record(domain("mx.adatum.test"), ip("8.0.0.1"))
            .address_record(domain("backup.adatum.test"), ip("8.0.0.2"))
    }

    #[test]
    fn local_domains_beat_every_route() {
        let smarthost = "[[route]]\nvia = \"smarthost\"\nhosts = [\"relay.test\"]";
        assert_eq!(destination(smarthost, "", "alice@proseware.test"), "local");
        assert_eq!(destination(smarthost, "", "gone@proseware.test"), "local");
        assert_eq!(destination(smarthost, "", "root@mail.proseware.test"), "local");
        assert_eq!(destination(smarthost, "", "bob@adatum.test"), "smarthost relay.test");
        assert_eq!(destination("", "", "bob@adatum.test"), "mx adatum.test");
        assert_eq!(destination("", "", "bob@[8.0.0.1]"), "mx [8.0.0.1]");
    }

    #[test]
    fn the_first_route_that_matches_decides() {
        let folder = tempfile::tempdir().unwrap();
        let password = folder.path().join("password");
        std::fs::write(&password, "secret\nnot this\n").unwrap();
        let routes = format!(
            r#"
            [[route]]
            domain = "adatum.test"
            via = "reject"
            text = "no"
            [[route]]
            sender = "@proseware.test"
            via = "smarthost"
            hosts = ["relay.test:2587", "[192.0.2.9]"]
            username = "alice"
            password_file = {password:?}
            [[route]]
            domain = ".lists.test"
            via = "lmtp"
            hosts = ["/run/lmtp.sock"]
            [[route]]
            domain = "archive.test"
            via = "maildir"
            maildir = "/srv/archive/{{local}}"
            [[route]]
            domain = "void.test"
            via = "discard"
            "#
        );
        assert_eq!(destination(&routes, "alice@proseware.test", "bob@adatum.test"), "reject");
        let name = "smarthost relay.test:2587,[192.0.2.9] login alice";
        assert_eq!(destination(&routes, "alice@proseware.test", "bob@other.test"), name);
        assert_eq!(destination(&routes, "", "bob@a.lists.test"), "lmtp /run/lmtp.sock");
        assert_eq!(destination(&routes, "", "bob@archive.test"), "maildir");
        assert_eq!(destination(&routes, "", "bob@void.test"), "discard");
        assert_eq!(destination(&routes, "", "bob@other.test"), "mx other.test");
        let router = router(&routes);
        let relay = router.relays[1].as_ref().unwrap();
        assert_eq!(relay.tls, TlsPolicy::Verify);
        assert_eq!(relay.credentials, Some(Credentials::new("alice".to_owned(), "secret".to_owned())));
        assert_eq!(relay.hosts[1], RelayHost::Address("192.0.2.9:587".parse().unwrap()));
    }

    #[test]
    fn routes_to_one_host_under_different_tls_are_different_destinations() {
        let name = |extra: &str| {
            let routes = format!("[[route]]\nvia = \"smarthost\"\nhosts = [\"relay.test\"]\n{extra}");
            destination(&routes, "", "bob@adatum.test")
        };
        assert_eq!(name(""), "smarthost relay.test");
        assert_eq!(name("tls = \"may\""), "smarthost relay.test tls may");
        assert_eq!(name("tls = \"verify\""), "smarthost relay.test tls verify");
    }

    #[test]
    fn hosts_of_routes_are_read_in_all_their_forms() {
        let parse = |text: &str| RelayHost::parse(text, 25).ok();
        assert_eq!(parse("relay.test:26"), Some(RelayHost::Name(domain("relay.test"), 26)));
        assert_eq!(parse("[2a00::1]:26"), Some(RelayHost::Address("[2a00::1]:26".parse().unwrap())));
        assert_eq!(parse("[IPv6:2a00::1]"), Some(RelayHost::Address("[2a00::1]:25".parse().unwrap())));
        assert_eq!(parse("2a00::1"), Some(RelayHost::Address("[2a00::1]:25".parse().unwrap())));
        assert_eq!(parse("192.0.2.1:26"), Some(RelayHost::Address("192.0.2.1:26".parse().unwrap())));
        for text in ["", "relay.test:", "relay.test:99999", "[x]", "a b", "relay:test:1"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn mailboxes_are_made_only_below_a_directory_that_is_there() {
        let router = router("");
        let base = |recipient: &str| match router.route(
            &ReversePath::Null,
            &Address::parse(recipient).unwrap(),
            None,
        ) {
            Hop::Local(maildir) => (maildir.base.display().to_string(), maildir.path.display().to_string()),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            base("alice@proseware.test"),
            ("/spool".into(), "/spool/mail/proseware.test/alice".into())
        );
        assert_eq!(
            base("desk@branch.test"),
            ("/srv/mail".into(), "/srv/mail/branch.test/desk/Maildir".into())
        );
        assert_eq!(fixed_part(Path::new("/srv/archive")), Path::new("/srv"));
    }

    #[tokio::test]
    async fn mx_hosts_come_by_preference_with_ipv4_first() {
        let found = hosts("", &dns(), "bob@adatum.test").await.unwrap();
        let expected = [
            "mx.adatum.test 8.0.0.1:2525",
            "mx.adatum.test [2a00::1]:2525",
            "backup.adatum.test 8.0.0.2:2525",
        ];
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn equal_preferences_are_shuffled_and_no_more_than_the_limit_are_tried() {
        let mut dns = StaticDns::new();
        for number in 0..8 {
            let host = domain(&format!("mx{number}.adatum.test"));
            dns = dns.mx_record(domain("adatum.test"), 10, host.clone());
            dns = dns.address_record(host, ip(&format!("8.0.0.{number}")));
        }
        let mut first = HashSet::new();
        for _ in 0..200 {
            let found = hosts("", &dns, "bob@adatum.test").await.unwrap();
            assert_eq!(found.len(), 5);
            first.insert(found[0].clone());
        }
        assert_eq!(first.len(), 8);
    }

    #[tokio::test]
    async fn hosts_without_an_address_do_not_count_against_the_limit() {
        let with_hosts = |name: &str, missing: u16| {
            let dns = StaticDns::new().address_record(domain("last.test"), ip("8.0.0.1"));
            let dns = (0..missing).fold(dns, |dns, number| {
                dns.mx_record(domain(name), number, domain(&format!("missing{number}.test")))
            });
            dns.mx_record(domain(name), 99, domain("last.test"))
        };
        let dns = with_hosts("many.test", 10);
        assert_eq!(hosts("", &dns, "bob@many.test").await.unwrap(), ["last.test 8.0.0.1:2525"]);
        let dns = with_hosts("thousands.test", 2000);
        let failure = hosts("", &dns, "bob@thousands.test").await.unwrap_err();
        assert!(matches!(&failure, RouteFailure::Dns { problem, .. } if problem.contains("20 of 2001")));
    }

    #[tokio::test]
    async fn a_domain_without_mx_is_its_own_host() {
        let dns = StaticDns::new().address_record(domain("small.test"), ip("8.0.0.9"));
        assert_eq!(hosts("", &dns, "bob@small.test").await.unwrap(), ["small.test 8.0.0.9:2525"]);
    }

    #[tokio::test]
    async fn what_can_never_be_delivered_is_told_from_what_dns_cannot_say() {
        let dns = dns()
            .null_mx(domain("null.test"))
            .failing(domain("broken.test"))
            .mx_record(domain("nohost.test"), 1, domain("missing.test"))
            .mx_record(domain("half.test"), 1, domain("broken.test"))
            .mx_record(domain("half.test"), 2, domain("mx.adatum.test"))
            .mx_record(domain("unsure.test"), 1, domain("broken.test"))
            .mx_record(domain("unsure.test"), 2, domain("missing.test"));
        let status = async |recipient: &str| match hosts("", &dns, recipient).await.unwrap_err().verdict() {
            Verdict::Ours { status, .. } => status.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(status("a@null.test").await, "5.1.10");
        assert_eq!(status("a@nowhere.test").await, "5.1.2");
        assert_eq!(status("a@nohost.test").await, "5.4.4");
        assert_eq!(status("a@broken.test").await, "4.4.3");
        assert_eq!(status("a@unsure.test").await, "4.4.3");
        assert_eq!(hosts("", &dns, "a@half.test").await.unwrap().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn all_dns_of_an_attempt_has_one_deadline() {
        let router = router("");
        let recipient = Address::parse("a@adatum.test").unwrap();
        let hop = router.route(&ReversePath::Null, &recipient, None);
        assert!(matches!(router.resolve(&hop, &Silent).await, Err(RouteFailure::Dns { .. })));
    }

    #[tokio::test]
    async fn hosts_behind_ourselves_are_not_asked() {
        let dns = dns()
            .mx_record(domain("byname.test"), 5, domain("mx.adatum.test"))
            .mx_record(domain("byname.test"), 10, domain("mail.proseware.test"))
            .mx_record(domain("byname.test"), 10, domain("backup.adatum.test"))
            .mx_record(domain("byaddress.test"), 1, domain("us.test"))
            .mx_record(domain("byaddress.test"), 2, domain("mx.adatum.test"))
            .mx_record(domain("loop.test"), 1, domain("mail.proseware.test"))
            .address_record(domain("us.test"), ip("192.0.2.25"));
        let found = hosts("", &dns, "a@byname.test").await.unwrap();
        assert!(found.iter().all(|host| host.starts_with("mx.adatum.test")), "{found:?}");
        for name in ["byaddress.test", "loop.test"] {
            let failure = hosts("", &dns, &format!("a@{name}")).await.unwrap_err();
            assert_eq!(failure, RouteFailure::Loop(name.to_owned()));
        }
        let failure = hosts("", &dns, "a@[192.0.2.25]").await.unwrap_err();
        assert!(matches!(failure, RouteFailure::Loop(_)));
    }

    #[tokio::test]
    async fn a_better_host_that_dns_cannot_say_is_waited_for_and_one_behind_us_is_not() {
        let dns = StaticDns::new()
            .address_record(domain("us.test"), ip("192.0.2.25"))
            .failing(domain("broken.test"))
            .mx_record(domain("better.test"), 1, domain("broken.test"))
            .mx_record(domain("better.test"), 2, domain("us.test"))
            .mx_record(domain("equal.test"), 2, domain("broken.test"))
            .mx_record(domain("equal.test"), 2, domain("us.test"));
        let failure = hosts("", &dns, "a@better.test").await.unwrap_err();
        assert!(matches!(failure, RouteFailure::Dns { .. }), "{failure}");
        let failure = hosts("", &dns, "a@equal.test").await.unwrap_err();
        assert!(matches!(failure, RouteFailure::Loop(_)), "{failure}");
    }

    #[test]
    fn a_listener_on_all_addresses_is_ourselves_only_at_addresses_we_have() {
        let mut router = router("");
        router.own = OwnAddresses::new(&["[::]:2525".parse().unwrap()]);
        assert!(router.own.contains("127.0.0.1:2525".parse().unwrap()));
        assert!(!router.own.contains("127.0.0.1:26".parse().unwrap()));
        assert!(!router.own.contains("8.8.8.8:2525".parse().unwrap()));
    }

    #[tokio::test]
    async fn private_networks_are_not_sent_to_unless_allowed() {
        let dns = StaticDns::new()
            .mx_record(domain("trap.test"), 1, domain("inside.test"))
            .address_record(domain("inside.test"), ip("10.0.0.1"))
            .address_record(domain("inside.test"), ip("::ffff:127.0.0.1"));
        let failure = hosts("", &dns, "a@trap.test").await.unwrap_err();
        assert_eq!(failure, RouteFailure::PrivateTargets("trap.test".to_owned()));
        assert!(hosts("", &dns, "a@[10.0.0.1]").await.is_err());
        for private in [
            "100.64.0.1",
            "198.19.0.1",
            "169.254.1.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "0.0.0.0",
            "255.255.255.255",
            "192.0.0.8",
            "fec0::1",
            "::10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::8.8.8.8",
            "2002:7f00:1::1",
            "2001:0:a00:1::f7f7:f7f7",
            "2001:0:808:808::80ff:fffe",
        ] {
            assert!(is_private(ip(private)), "{private}");
        }
        for public in [
            "8.8.8.8",
            "100.128.0.1",
            "198.20.0.1",
            "2a00::1",
            "172.32.0.1",
            "192.0.1.1",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "2001:0:808:808::f7f7:f7f7",
            "2001:200::1",
        ] {
            assert!(!is_private(ip(public)), "{public}");
        }
    }

    #[tokio::test]
    async fn smarthosts_fail_over_in_order_and_may_be_private() {
        let routes =
            "[[route]]\nvia = \"smarthost\"\nhosts = [\"one.test\", \"[10.0.0.2]:26\", \"two.test:27\"]";
        let dns = StaticDns::new()
            .address_record(domain("two.test"), ip("10.0.0.3"))
            .mx_record(domain("two.test"), 1, domain("elsewhere.test"))
            .failing(domain("one.test"));
        assert_eq!(
            hosts(routes, &dns, "a@b.test").await.unwrap(),
            ["10.0.0.2 10.0.0.2:26", "two.test 10.0.0.3:27"]
        );
        let routes = "[[route]]\nvia = \"smarthost\"\nhosts = [\"three.test\"]";
        let failure = hosts(routes, &dns, "a@b.test").await.unwrap_err();
        assert!(matches!(failure.verdict(), Verdict::Ours { status, .. } if status.class == 4));
    }
}
