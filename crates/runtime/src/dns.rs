//! DNS as delivery and the checks of senders need it. An answer keeps records, "no record", "no such name" and "try later" apart.
//!
//! [`HickoryDns`] asks name servers; [`StaticDns`] knows its answers, for tests and dry runs.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use postern_smtp::Domain;

use crate::clock::Pending;

mod trouble;

pub use trouble::Trouble;

use trouble::{Failures, is_answer};

/// What DNS said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    /// At least one record, in the order of the answer.
    Records(Vec<T>),
    /// The name exists and has no record of the type.
    NoRecords,
    /// NXDOMAIN.
    NoSuchName,
    /// SERVFAIL, no answer, bogus: nothing may be concluded. The text says why.
    TryLater(String),
}

/// An MX record (RFC 5321 §5.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mx {
    /// Lower is tried first.
    pub preference: u16,
    /// The host; `None` is the root name of a null MX (RFC 7505).
    pub host: Option<Domain>,
}

/// The questions of a mail server.
pub trait Dns: Send + Sync + std::fmt::Debug {
    /// MX records.
    fn mx<'a>(&'a self, name: &'a Domain) -> Pending<'a, Answer<Mx>>;
    /// A and AAAA records together; `TryLater` only if both types failed or one failed and the other had none.
    fn addresses<'a>(&'a self, name: &'a Domain) -> Pending<'a, Answer<IpAddr>>;
    /// A records alone, as lists in DNS have them (RFC 5782), with how long the answer may be kept; zero for `TryLater`.
    fn ipv4<'a>(&'a self, name: &'a Domain) -> Pending<'a, (Answer<Ipv4Addr>, Duration)>;
    /// TXT records, the strings of each joined (RFC 7208 §3.3). Octets that are no UTF-8 are replaced.
    fn txt<'a>(&'a self, name: &'a Domain) -> Pending<'a, Answer<String>>;
    /// The name that this one is an alias of; not where that one leads in turn.
    fn cname<'a>(&'a self, name: &'a Domain) -> Pending<'a, Answer<Domain>>;
    /// The names that an address has (PTR). That a name has the address in turn is another question.
    fn ptr(&self, address: IpAddr) -> Pending<'_, Answer<Domain>>;
    /// Whether lookups fail and DNS seems to be dead: where some have failed, it asks for a name below `domain` that nobody has asked
    /// for before. Takes some seconds then at most. What looks nothing up is never in trouble.
    fn trouble<'a>(&'a self, _domain: &'a Domain) -> Pending<'a, Option<Trouble>> {
        Box::pin(std::future::ready(None))
    }
}

/// Answers are kept at most this long, whatever their TTL says: a mistake in a zone must not outlive its correction.
const LONGEST_TTL: Duration = Duration::from_secs(86_400);
/// The same for "no record" and "no such name" (RFC 2308 §5 advises one to three hours).
const LONGEST_NEGATIVE_TTL: Duration = Duration::from_secs(3600);

/// Whoever asks whether DNS works waits no longer than this for the answer.
const CHECK_LIMIT: Duration = Duration::from_secs(5);

/// Why there is no resolver.
#[derive(Debug, thiserror::Error)]
pub enum DnsSetupError {
    /// No name servers are configured, and those of the system cannot be read.
    #[error("the name servers of /etc/resolv.conf cannot be read: {0}")]
    SystemConfiguration(#[source] NetError),
    /// Neither the configuration nor the system names a name server.
    #[error("no name server is configured, and /etc/resolv.conf has none")]
    NoNameServer,
    /// The resolver could not be made.
    #[error("the resolver cannot be set up: {0}")]
    Resolver(String),
}

/// Whom to ask, and how patiently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameServers {
    /// Name servers with port. Empty: those of `/etc/resolv.conf`.
    pub addresses: Vec<SocketAddr>,
    /// How long one server may take to answer one question.
    pub timeout: Duration,
    /// How often a question is asked.
    pub attempts: usize,
    /// Answers kept at most.
    pub cache_size: u64,
}

/// Asks the given name servers, or those of the system, and keeps their answers for their TTL.
#[derive(Debug, Clone)]
pub struct HickoryDns {
    resolver: TokioResolver,
    servers: Vec<SocketAddr>,
    failures: Arc<Failures>,
}

impl HickoryDns {
    /// A resolver with an empty cache. Needs a tokio runtime when it is asked, not when it is made.
    ///
    /// # Errors
    /// [`DnsSetupError`].
    pub fn new(servers: &NameServers) -> Result<Self, DnsSetupError> {
        let asked = match servers.addresses.is_empty() {
            true => system_servers()?,
            false => servers.addresses.iter().map(name_server).collect(),
        };
        if asked.is_empty() {
            return Err(DnsSetupError::NoNameServer);
        }
        let addresses = asked.iter().flat_map(addresses_of).collect();
        let asked = ResolverConfig::from_name_servers(asked);
        let resolver = TokioResolver::builder_with_config(asked, TokioRuntimeProvider::default())
            .with_options(options(servers))
            .with_tls_config(no_tls()?)
            .build()
            .map_err(|error| DnsSetupError::Resolver(error.to_string()))?;
        Ok(Self { resolver, servers: addresses, failures: Arc::default() })
    }

    /// Notes what came of a lookup.
    fn noted(&self, result: Result<Lookup, NetError>) -> Result<Lookup, NetError> {
        self.failures.note(&result, Instant::now());
        result
    }

    /// Whether a question that is not in the cache is answered in time, be it with "no such name".
    async fn answers(&self, domain: &Domain) -> bool {
        let name = format!("dns-check-{:08x}.{domain}", rand::random::<u32>());
        // Below a domain that is almost too long: then the domain itself, though the cache may know it.
        let Ok(mut name) = Name::from_ascii(name).or_else(|_| Name::from_ascii(domain.as_str())) else {
            return false;
        };
        name.set_fqdn(true);
        match tokio::time::timeout(CHECK_LIMIT, self.resolver.ipv4_lookup(name)).await {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => is_answer(&error),
            Err(_) => false,
        }
    }
}

impl Dns for HickoryDns {
    fn mx<'a>(&'a self, name: &'a Domain) -> Pending<'a, Answer<Mx>> {
        Box::pin(async move {
            match absolute(name) {
                Ok(name) => mx_answer(self.noted(self.resolver.mx_lookup(name).await)),
                Err(problem) => Answer::TryLater(problem),
            }
        })
    }

    fn addresses<'a>(&'a self, name: &'a Domain) -> Pending<'a, Answer<IpAddr>> {
        Box::pin(async move {
            let name = match absolute(name) {
                Ok(name) => name,
                Err(problem) => return Answer::TryLater(problem),
            };
            let (v4, v6) =
                tokio::join!(self.resolver.ipv4_lookup(name.clone()), self.resolver.ipv6_lookup(name));
            both(address_answer(self.noted(v4)), address_answer(self.noted(v6)))
        })
    }

    fn ipv4<'a>(&'a self, name: &'a Domain) -> Pending<'a, (Answer<Ipv4Addr>, Duration)> {
        Box::pin(async move {
            let name = match absolute(name) {
                Ok(name) => name,
                Err(problem) => return (Answer::TryLater(problem), Duration::ZERO),
            };
            let result = self.noted(self.resolver.ipv4_lookup(name).await);
            let ttl = time_to_live(&result);
            (ipv4_only(address_answer(result)), ttl)
        })
    }

    fn txt<'a>(&'a self, name: &'a Domain) -> Pending<'a, Answer<String>> {
        Box::pin(async move {
            match absolute(name) {
                Ok(name) => txt_answer(self.noted(self.resolver.txt_lookup(name).await)),
                Err(problem) => Answer::TryLater(problem),
            }
        })
    }

    fn cname<'a>(&'a self, name: &'a Domain) -> Pending<'a, Answer<Domain>> {
        Box::pin(async move {
            match absolute(name) {
                Ok(name) => {
                    let result = self.resolver.lookup(name.clone(), RecordType::CNAME).await;
                    cname_answer(&name, self.noted(result))
                }
                Err(problem) => Answer::TryLater(problem),
            }
        })
    }

    fn ptr(&self, address: IpAddr) -> Pending<'_, Answer<Domain>> {
        Box::pin(async move {
            let name = Name::from(address.to_canonical());
            ptr_answer(self.noted(self.resolver.lookup(name, RecordType::PTR).await))
        })
    }

    fn trouble<'a>(&'a self, domain: &'a Domain) -> Pending<'a, Option<Trouble>> {
        Box::pin(async move {
            if self.failures.are_doubtful(Instant::now()) {
                match self.answers(domain).await {
                    true => self.failures.forgive(),
                    false => self.failures.confirm(Instant::now()),
                }
            }
            self.failures.trouble(&self.servers, Instant::now())
        })
    }
}

/// With its final dot: a search list must never turn `adatum.test` into `adatum.test.proseware.test`.
fn absolute(name: &Domain) -> Result<Name, String> {
    let mut absolute = Name::from_ascii(name.as_str()).map_err(|error| format!("{name}: {error}"))?;
    absolute.set_fqdn(true);
    Ok(absolute)
}

fn system_servers() -> Result<Vec<NameServerConfig>, DnsSetupError> {
    let (config, _) =
        hickory_resolver::system_conf::read_system_conf().map_err(DnsSetupError::SystemConfiguration)?;
    Ok(config.name_servers().to_vec())
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

/// Each address once: one connection is over UDP, one over TCP.
fn addresses_of(server: &NameServerConfig) -> Vec<SocketAddr> {
    let mut addresses: Vec<SocketAddr> =
        server.connections.iter().map(|connection| SocketAddr::new(server.ip, connection.port)).collect();
    addresses.dedup();
    addresses
}

fn options(servers: &NameServers) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = servers.timeout;
    // hickory counts the retries behind the first question.
    options.attempts = servers.attempts.saturating_sub(1);
    options.cache_size = servers.cache_size;
    // /etc/hosts says where this machine finds a host, not where the world's mail for it goes.
    options.use_hosts_file = ResolveHosts::Never;
    options.positive_max_ttl = Some(LONGEST_TTL);
    options.negative_max_ttl = Some(LONGEST_NEGATIVE_TTL);
    options
}

/// We ask over UDP and TCP only. Without this, hickory would read the system's certificates, and fail where there are none.
fn no_tls() -> Result<rustls::ClientConfig, DnsSetupError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| DnsSetupError::Resolver(error.to_string()))?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    Ok(config)
}

fn mx_answer(result: Result<Lookup, NetError>) -> Answer<Mx> {
    let lookup = match result {
        Ok(lookup) => lookup,
        Err(error) => return failure(error),
    };
    let mut unusable = None;
    let mut records = Vec::new();
    for record in lookup.answers() {
        // CNAMEs on the way are among the answers: only MX records count.
        let RData::MX(mx) = &record.data else { continue };
        match mx_host(&mx.exchange) {
            Ok(host) => records.push(Mx { preference: mx.preference, host }),
            Err(problem) => unusable = Some(problem),
        }
    }
    match (records.is_empty(), unusable) {
        (false, _) => Answer::Records(records),
        (true, Some(problem)) => Answer::TryLater(problem),
        (true, None) => Answer::NoRecords,
    }
}

/// The host of an MX record; `None` for the root name.
fn mx_host(exchange: &Name) -> Result<Option<Domain>, String> {
    if exchange.is_root() {
        return Ok(None);
    }
    let text = exchange.to_ascii();
    // Underscores are no host name, but such MX hosts exist and work.
    match Domain::parse_tolerant(&text) {
        Ok(host) => Ok(Some(host)),
        Err(error) => Err(format!("MX host {text:?}: {error}")),
    }
}

fn address_answer(result: Result<Lookup, NetError>) -> Answer<IpAddr> {
    let lookup = match result {
        Ok(lookup) => lookup,
        Err(error) => return failure(error),
    };
    let addresses: Vec<IpAddr> = lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
    match addresses.is_empty() {
        true => Answer::NoRecords,
        false => Answer::Records(addresses),
    }
}

fn ipv4_only(answer: Answer<IpAddr>) -> Answer<Ipv4Addr> {
    let is_v4 = |address: IpAddr| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    };
    match answer {
        Answer::Records(all) => {
            let v4: Vec<Ipv4Addr> = all.into_iter().filter_map(is_v4).collect();
            if v4.is_empty() { Answer::NoRecords } else { Answer::Records(v4) }
        }
        Answer::NoRecords => Answer::NoRecords,
        Answer::NoSuchName => Answer::NoSuchName,
        Answer::TryLater(why) => Answer::TryLater(why),
    }
}

/// How long an answer may be kept: that nothing is there, for as long as the zone says (RFC 2308 §5).
fn time_to_live(result: &Result<Lookup, NetError>) -> Duration {
    match result {
        Ok(lookup) => lookup.valid_until().saturating_duration_since(Instant::now()),
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
            Duration::from_secs(none.negative_ttl.unwrap_or_default().into())
        }
        Err(_) => Duration::ZERO,
    }
}

fn txt_answer(result: Result<Lookup, NetError>) -> Answer<String> {
    let lookup = match result {
        Ok(lookup) => lookup,
        Err(error) => return failure(error),
    };
    let mut texts = Vec::new();
    for record in lookup.answers() {
        let RData::TXT(txt) = &record.data else { continue };
        let octets: Vec<u8> = txt.txt_data.iter().flat_map(|part| part.iter().copied()).collect();
        texts.push(String::from_utf8_lossy(&octets).into_owned());
    }
    match texts.is_empty() {
        true => Answer::NoRecords,
        false => Answer::Records(texts),
    }
}

fn cname_answer(name: &Name, result: Result<Lookup, NetError>) -> Answer<Domain> {
    let lookup = match result {
        Ok(lookup) => lookup,
        Err(error) => return failure(error),
    };
    let mut targets = Vec::new();
    for record in lookup.answers().iter().filter(|record| record.name == *name) {
        let RData::CNAME(target) = &record.data else { continue };
        match Domain::parse_tolerant(&target.0.to_ascii()) {
            Ok(target) => targets.push(target),
            Err(error) => return Answer::TryLater(format!("target of the CNAME {name}: {error}")),
        }
    }
    match targets.is_empty() {
        true => Answer::NoRecords,
        false => Answer::Records(targets),
    }
}

/// Aliases on the way (RFC 2317) have names of their own, so every PTR record counts.
fn ptr_answer(result: Result<Lookup, NetError>) -> Answer<Domain> {
    let lookup = match result {
        Ok(lookup) => lookup,
        Err(error) => return failure(error),
    };
    let mut names = Vec::new();
    for record in lookup.answers() {
        let RData::PTR(name) = &record.data else { continue };
        // One that is no domain names nobody.
        names.extend(Domain::parse_tolerant(&name.0.to_ascii()).ok());
    }
    match names.is_empty() {
        true => Answer::NoRecords,
        false => Answer::Records(names),
    }
}

fn failure<T>(error: NetError) -> Answer<T> {
    if let NetError::Dns(DnsError::NoRecordsFound(none)) = &error {
        match none.response_code {
            ResponseCode::NXDomain => return Answer::NoSuchName,
            ResponseCode::NoError => return Answer::NoRecords,
            _ => {}
        }
    }
    Answer::TryLater(error.to_string())
}

/// Joins the answers for A and AAAA.
fn both(v4: Answer<IpAddr>, v6: Answer<IpAddr>) -> Answer<IpAddr> {
    match (v4, v6) {
        (Answer::Records(mut v4), Answer::Records(v6)) => {
            v4.extend(v6);
            Answer::Records(v4)
        }
        (Answer::Records(records), _) | (_, Answer::Records(records)) => Answer::Records(records),
        (Answer::TryLater(why), _) | (_, Answer::TryLater(why)) => Answer::TryLater(why),
        (Answer::NoSuchName, _) | (_, Answer::NoSuchName) => Answer::NoSuchName,
        (Answer::NoRecords, Answer::NoRecords) => Answer::NoRecords,
    }
}

/// How long answers of a [`StaticDns`] may be kept.
const STATIC_TTL: Duration = Duration::from_secs(600);

/// A DNS that knows its answers: for tests and dry runs. A name it was told nothing about does not exist.
#[derive(Debug, Clone, Default)]
pub struct StaticDns {
    names: HashMap<Domain, StaticName>,
    /// Of addresses; an empty list is one whose servers fail.
    pointers: HashMap<IpAddr, Vec<Domain>>,
}

#[derive(Debug, Clone, Default)]
struct StaticName {
    mx: Vec<Mx>,
    addresses: Vec<IpAddr>,
    txt: Vec<String>,
    cname: Vec<Domain>,
    fails: bool,
}

impl StaticDns {
    /// A DNS without any name.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an MX record.
    #[must_use]
    pub fn mx_record(mut self, name: Domain, preference: u16, host: Domain) -> Self {
        self.names.entry(name).or_default().mx.push(Mx { preference, host: Some(host) });
        self
    }

    /// Adds a null MX record (RFC 7505).
    #[must_use]
    pub fn null_mx(mut self, name: Domain) -> Self {
        self.names.entry(name).or_default().mx.push(Mx { preference: 0, host: None });
        self
    }

    /// Adds an A or AAAA record.
    #[must_use]
    pub fn address_record(mut self, name: Domain, address: IpAddr) -> Self {
        self.names.entry(name).or_default().addresses.push(address);
        self
    }

    /// Adds a TXT record.
    #[must_use]
    pub fn txt_record(mut self, name: Domain, text: &str) -> Self {
        self.names.entry(name).or_default().txt.push(text.to_owned());
        self
    }

    /// Makes a name an alias of another. Questions about it are answered by that one, as a resolver does.
    #[must_use]
    pub fn cname_record(mut self, name: Domain, target: Domain) -> Self {
        self.names.entry(name).or_default().cname = vec![target];
        self
    }

    /// Adds a PTR record.
    #[must_use]
    pub fn ptr_record(mut self, address: IpAddr, name: Domain) -> Self {
        self.pointers.entry(address).or_default().push(name);
        self
    }

    /// An address the servers of whose name fail.
    #[must_use]
    pub fn failing_ptr(mut self, address: IpAddr) -> Self {
        self.pointers.insert(address, Vec::new());
        self
    }

    /// A name whose servers fail: every question about it is answered with [`Answer::TryLater`].
    #[must_use]
    pub fn failing(mut self, name: Domain) -> Self {
        self.names.entry(name).or_default().fails = true;
        self
    }

    /// Follows one alias: longer chains are a matter of resolvers.
    fn answer<T: Clone>(&self, name: &Domain, records: impl Fn(&StaticName) -> &Vec<T>) -> Answer<T> {
        let alias = self.names.get(name).and_then(|known| known.cname.first());
        self.answer_of(alias.unwrap_or(name), records)
    }

    fn answer_of<T: Clone>(&self, name: &Domain, records: impl Fn(&StaticName) -> &Vec<T>) -> Answer<T> {
        match self.names.get(name) {
            None => Answer::NoSuchName,
            Some(known) if known.fails => Answer::TryLater("server failure".to_owned()),
            Some(known) if records(known).is_empty() => Answer::NoRecords,
            Some(known) => Answer::Records(records(known).clone()),
        }
    }
}

impl Dns for StaticDns {
    fn mx<'a>(&'a self, name: &'a Domain) -> Pending<'a, Answer<Mx>> {
        Box::pin(std::future::ready(self.answer(name, |known| &known.mx)))
    }

    fn addresses<'a>(&'a self, name: &'a Domain) -> Pending<'a, Answer<IpAddr>> {
        Box::pin(std::future::ready(self.answer(name, |known| &known.addresses)))
    }

    fn ipv4<'a>(&'a self, name: &'a Domain) -> Pending<'a, (Answer<Ipv4Addr>, Duration)> {
        let answer = ipv4_only(self.answer(name, |known| &known.addresses));
        Box::pin(std::future::ready((answer, STATIC_TTL)))
    }

    fn txt<'a>(&'a self, name: &'a Domain) -> Pending<'a, Answer<String>> {
        Box::pin(std::future::ready(self.answer(name, |known| &known.txt)))
    }

    fn cname<'a>(&'a self, name: &'a Domain) -> Pending<'a, Answer<Domain>> {
        Box::pin(std::future::ready(self.answer_of(name, |known| &known.cname)))
    }

    fn ptr(&self, address: IpAddr) -> Pending<'_, Answer<Domain>> {
        let answer = match self.pointers.get(&address.to_canonical()) {
            None => Answer::NoSuchName,
            Some(names) if names.is_empty() => Answer::TryLater("server failure".to_owned()),
            Some(names) => Answer::Records(names.clone()),
        };
        Box::pin(std::future::ready(answer))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::str::FromStr;

    use hickory_resolver::net::NoRecords;
    use hickory_resolver::proto::op::Query;
    use hickory_resolver::proto::rr::rdata::{A, CNAME, MX, PTR, TXT};
    use hickory_resolver::proto::rr::{Record, RecordType};
    use tokio::net::UdpSocket;

    use super::*;

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    fn name(text: &str) -> Name {
        Name::from_str(text).unwrap()
    }

    fn lookup(records: Vec<RData>) -> Result<Lookup, NetError> {
        let query = Query::query(name("adatum.test."), RecordType::MX);
        let records = records.into_iter().map(|data| Record::from_rdata(name("adatum.test."), 60, data));
        Ok(Lookup::new_with_max_ttl(query, records))
    }

    fn no_records(code: ResponseCode) -> NetError {
        NetError::Dns(DnsError::NoRecordsFound(NoRecords::new(Query::default(), code)))
    }

    #[test]
    fn names_of_an_address_are_read_through_aliases() {
        let alias = RData::CNAME(CNAME(name("25.sub.2.0.192.in-addr.arpa.")));
        let pointer = RData::PTR(PTR(name("mail.proseware.test.")));
        let answer = ptr_answer(lookup(vec![alias.clone(), pointer]));
        assert_eq!(answer, Answer::Records(vec![domain("mail.proseware.test")]));
        assert_eq!(ptr_answer(lookup(vec![alias])), Answer::NoRecords);
        assert_eq!(ptr_answer(Err(no_records(ResponseCode::NXDomain))), Answer::NoSuchName);
    }

    #[test]
    fn mx_records_are_read_and_aliases_on_the_way_skipped() {
        let cname = RData::CNAME(CNAME(name("elsewhere.test.")));
        let mx = RData::MX(MX::new(10, name("MX.adatum.test.")));
        let expected = Mx { preference: 10, host: Some(domain("mx.adatum.test")) };
        assert_eq!(mx_answer(lookup(vec![cname.clone(), mx])), Answer::Records(vec![expected]));
        assert_eq!(mx_answer(lookup(vec![cname])), Answer::NoRecords);
    }

    #[test]
    fn a_null_mx_is_told_from_a_host_that_is_no_host_name() {
        let null = RData::MX(MX::new(0, Name::root()));
        assert_eq!(mx_answer(lookup(vec![null])), Answer::Records(vec![Mx { preference: 0, host: None }]));
        let odd = RData::MX(MX::new(0, Name::from_labels([b"no host".as_slice(), b"test"]).unwrap()));
        assert!(matches!(mx_answer(lookup(vec![odd])), Answer::TryLater(why) if why.contains("host")));
    }

    #[test]
    fn an_mx_host_may_have_underscores() {
        let host = RData::MX(MX::new(0, name("mx_1.adatum.test.")));
        let Answer::Records(records) = mx_answer(lookup(vec![host])) else { panic!("no records") };
        assert_eq!(records[0].host.as_ref().map(Domain::as_str), Some("mx_1.adatum.test"));
    }

    #[test]
    fn the_strings_of_a_txt_record_are_one_text() {
        let txt = RData::TXT(TXT::new(vec!["v=spf1 ip4:192.0.2.".to_owned(), "25 -all".to_owned()]));
        let alias = RData::CNAME(CNAME(name("elsewhere.test.")));
        let expected = Answer::Records(vec!["v=spf1 ip4:192.0.2.25 -all".to_owned()]);
        assert_eq!(txt_answer(lookup(vec![alias.clone(), txt])), expected);
        assert_eq!(txt_answer(lookup(vec![alias])), Answer::NoRecords);
    }

    #[test]
    fn an_alias_is_told_with_its_first_target_only() {
        let alias = lookup(vec![RData::CNAME(CNAME(name("Elsewhere.test.")))]);
        let expected = Answer::Records(vec![domain("elsewhere.test")]);
        assert_eq!(cname_answer(&name("adatum.test."), alias), expected);
        let next = lookup(vec![RData::CNAME(CNAME(name("elsewhere.test.")))]);
        assert_eq!(cname_answer(&name("other.test."), next), Answer::NoRecords);
    }

    #[test]
    fn negative_answers_and_failures_are_kept_apart() {
        assert_eq!(failure::<Mx>(no_records(ResponseCode::NXDomain)), Answer::NoSuchName);
        assert_eq!(failure::<Mx>(no_records(ResponseCode::NoError)), Answer::NoRecords);
        for error in [
            no_records(ResponseCode::ServFail),
            NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)),
            NetError::Busy,
            NetError::Timeout,
        ] {
            assert!(matches!(failure::<Mx>(error), Answer::TryLater(_)));
        }
    }

    #[test]
    fn one_failed_address_type_does_not_hide_the_other() {
        let found = || address_answer(lookup(vec![RData::A(A::new(192, 0, 2, 1))]));
        let later = || Answer::TryLater("timeout".to_owned());
        let records = Answer::Records(vec!["192.0.2.1".parse().unwrap()]);
        assert_eq!(both(found(), later()), records);
        assert_eq!(both(later(), found()), records);
        assert_eq!(both(Answer::NoRecords, later()), later());
        assert_eq!(both(Answer::NoRecords, Answer::NoRecords), Answer::NoRecords);
        assert_eq!(both(Answer::NoSuchName, Answer::NoSuchName), Answer::NoSuchName);
    }

    #[test]
    fn an_answer_may_be_kept_as_long_as_its_zone_says() {
        let (query, minute) = (Query::query(name("x.test."), RecordType::A), Duration::from_secs(60));
        let found = Lookup::new_with_deadline(query, [], Instant::now() + minute);
        let left = time_to_live(&Ok(found));
        assert!(left <= minute && left > minute / 2, "{left:?}");
        assert_eq!(time_to_live(&Err(no_records(ResponseCode::NXDomain))), Duration::ZERO);
        assert_eq!(time_to_live(&Err(NetError::Timeout)), Duration::ZERO);
        let mut none = NoRecords::new(Query::default(), ResponseCode::NXDomain);
        none.negative_ttl = Some(120);
        let none = NetError::Dns(DnsError::NoRecordsFound(none));
        assert_eq!(time_to_live(&Err(none)), Duration::from_secs(120));
    }

    fn servers(address: SocketAddr) -> NameServers {
        NameServers {
            addresses: vec![address],
            timeout: Duration::from_millis(50),
            attempts: 1,
            cache_size: 10,
        }
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_costs_the_configured_time_and_means_try_later() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let dns = HickoryDns::new(&servers(silent.local_addr().unwrap())).unwrap();
        let asked = tokio::time::timeout(Duration::from_secs(5), dns.mx(&domain("adatum.test"))).await;
        assert!(matches!(asked.unwrap(), Answer::TryLater(_)));
        let mut question = [0; 512];
        let length = silent.try_recv(&mut question).unwrap();
        let spelled = b"\x06adatum\x04test\x00";
        assert!(
            question[..length].windows(spelled.len()).any(|bytes| bytes == spelled),
            "asked as an absolute name"
        );
    }

    #[tokio::test]
    async fn dns_is_in_trouble_only_while_nothing_is_answered() {
        let own = domain("mail.proseware.test");
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap();
        let dead = HickoryDns::new(&servers(address)).unwrap();
        assert_eq!(dead.trouble(&own).await, None, "nobody has asked anything yet");
        assert!(matches!(dead.mx(&domain("adatum.test")).await, Answer::TryLater(_)));
        let trouble = dead.trouble(&own).await.unwrap();
        assert_eq!((trouble.servers, trouble.failed), (vec![address], 1));
        assert!(!trouble.problem.is_empty());

        let address = crate::name_server::serve(crate::name_server::Records::default()).await.unwrap();
        let alive = HickoryDns::new(&servers(address)).unwrap();
        alive.failures.note(&Err(NetError::Timeout), Instant::now());
        assert_eq!(alive.trouble(&own).await, None, "that name does not exist, which is an answer");
    }

    #[test]
    fn a_resolver_can_be_made_before_there_is_a_runtime() {
        assert!(HickoryDns::new(&servers("127.0.0.1:53".parse().unwrap())).is_ok());
    }

    #[tokio::test]
    async fn static_names_answer_what_they_were_told() {
        let dns = StaticDns::new()
            .mx_record(domain("adatum.test"), 5, domain("mx.adatum.test"))
            .address_record(domain("mx.adatum.test"), "192.0.2.1".parse().unwrap())
            .null_mx(domain("null.test"))
            .txt_record(domain("adatum.test"), "v=spf1 -all")
            .cname_record(domain("alias.test"), domain("adatum.test"))
            .failing(domain("broken.test"));
        assert_eq!(dns.txt(&domain("alias.test")).await, Answer::Records(vec!["v=spf1 -all".to_owned()]));
        assert_eq!(dns.cname(&domain("alias.test")).await, Answer::Records(vec![domain("adatum.test")]));
        assert_eq!(dns.cname(&domain("adatum.test")).await, Answer::NoRecords);
        assert!(matches!(dns.txt(&domain("broken.test")).await, Answer::TryLater(_)));
        assert!(matches!(dns.mx(&domain("adatum.test")).await, Answer::Records(list) if list.len() == 1));
        assert_eq!(dns.addresses(&domain("adatum.test")).await, Answer::NoRecords);
        assert_eq!(dns.mx(&domain("mx.adatum.test")).await, Answer::NoRecords);
        assert_eq!(dns.mx(&domain("nowhere.test")).await, Answer::NoSuchName);
        assert!(
            matches!(dns.mx(&domain("null.test")).await, Answer::Records(list) if list[0].host.is_none())
        );
        assert!(matches!(dns.addresses(&domain("broken.test")).await, Answer::TryLater(_)));
        let v4 = Answer::Records(vec!["192.0.2.1".parse().unwrap()]);
        assert_eq!(dns.ipv4(&domain("mx.adatum.test")).await, (v4, STATIC_TTL));
        let v6 = StaticDns::new().address_record(domain("six.test"), "2001:db8::1".parse().unwrap());
        assert_eq!(v6.ipv4(&domain("six.test")).await.0, Answer::NoRecords);
    }
}
