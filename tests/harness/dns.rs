//! A name server on loopback whose zones a test can change while it runs.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use hickory_proto::op::{Metadata, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, MX, PTR, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::runtime::Runtime;

use super::PATIENCE;

/// Answers are not to be cached: tests change them.
const TTL: u32 = 0;

/// The name server. It knows the names it was told; all others do not exist.
pub struct Dns {
    address: SocketAddr,
    zones: Arc<Mutex<Zones>>,
    server: Server<Handler>,
}

#[derive(Default)]
struct Zones {
    records: HashMap<Name, Vec<RData>>,
    failing: HashSet<Name>,
    silent: HashSet<Name>,
    asked: HashMap<(Name, RecordType), usize>,
}

impl Dns {
    /// Starts it on a free port.
    pub fn start() -> Self {
        let zones = Arc::new(Mutex::new(Zones::default()));
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = udp.local_addr().unwrap();
        udp.set_nonblocking(true).unwrap();
        let _inside = runtime().enter();
        let mut server = Server::new(Handler(Arc::clone(&zones)));
        server.register_socket(tokio::net::UdpSocket::from_std(udp).unwrap());
        // Answers here are small, but a resolver may ask over TCP. Another process may have that port: then it cannot.
        if let Ok(tcp) = std::net::TcpListener::bind(address) {
            tcp.set_nonblocking(true).unwrap();
            let tcp = tokio::net::TcpListener::from_std(tcp).unwrap();
            server.register_listener(tcp, Duration::from_secs(5), 16 * 1024);
        }
        Self { address, zones, server }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the MX records of a domain.
    pub fn mx(&self, domain: &str, hosts: &[(u16, &str)]) {
        let records = hosts.iter().map(|(preference, host)| RData::MX(MX::new(*preference, name(host))));
        self.replace(domain, RecordType::MX, records.collect());
    }

    /// A domain that takes no mail (RFC 7505).
    pub fn null_mx(&self, domain: &str) {
        self.replace(domain, RecordType::MX, vec![RData::MX(MX::new(0, Name::root()))]);
    }

    /// Sets the address of a host.
    pub fn a(&self, host: &str, address: Ipv4Addr) {
        self.replace(host, RecordType::A, vec![RData::A(A(address))]);
    }

    /// Sets the name of an address.
    pub fn ptr(&self, address: Ipv4Addr, host: &str) {
        let owner = format!("{}.in-addr.arpa", reversed(address));
        self.replace(&owner, RecordType::PTR, vec![RData::PTR(PTR(name(host)))]);
    }

    /// Has a list of addresses (DNSBL) answer so for one.
    pub fn listed(&self, list: &str, address: Ipv4Addr, answer: Ipv4Addr) {
        self.a(&format!("{}.{list}", reversed(address)), answer);
    }

    /// Sets the only TXT record of a name, cut into strings of 255 octets.
    pub fn txt(&self, owner: &str, text: &str) {
        self.txts(owner, &[text]);
    }

    /// Sets all TXT records of a name.
    pub fn txts(&self, owner: &str, texts: &[&str]) {
        let strings = |text: &str| -> Vec<String> {
            text.as_bytes().chunks(255).map(|chunk| String::from_utf8_lossy(chunk).into_owned()).collect()
        };
        let records = texts.iter().map(|text| RData::TXT(TXT::new(strings(text))));
        self.replace(owner, RecordType::TXT, records.collect());
    }

    /// Makes a name an alias; every question about it is answered with that of the other name behind it.
    pub fn cname(&self, owner: &str, target: &str) {
        self.replace(owner, RecordType::CNAME, vec![RData::CNAME(CNAME(name(target)))]);
    }

    /// From now on questions about this name get SERVFAIL, or an answer again.
    pub fn fail(&self, owner: &str, fails: bool) {
        let mut zones = self.zones.lock().unwrap();
        match fails {
            true => zones.failing.insert(name(owner)),
            false => zones.failing.remove(&name(owner)),
        };
    }

    /// From now on questions about this name are not answered.
    pub fn silence(&self, owner: &str) {
        self.zones.lock().unwrap().silent.insert(name(owner));
    }

    /// How often a question was asked.
    pub fn asked(&self, owner: &str, kind: RecordType) -> usize {
        self.zones.lock().unwrap().asked.get(&(name(owner), kind)).copied().unwrap_or_default()
    }

    fn replace(&self, owner: &str, kind: RecordType, records: Vec<RData>) {
        let mut zones = self.zones.lock().unwrap();
        let list = zones.records.entry(name(owner)).or_default();
        list.retain(|record| record.record_type() != kind);
        list.extend(records);
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.server.shutdown_token().cancel();
    }
}

struct Handler(Arc<Mutex<Zones>>);

impl Handler {
    fn is_silent(&self, owner: &Name) -> bool {
        self.0.lock().unwrap().silent.contains(owner)
    }

    fn answer(&self, owner: &Name, kind: RecordType) -> (ResponseCode, Vec<Record>) {
        let mut zones = self.0.lock().unwrap();
        *zones.asked.entry((owner.clone(), kind)).or_default() += 1;
        if zones.failing.contains(owner) {
            return (ResponseCode::ServFail, Vec::new());
        }
        let Some(records) = zones.records.get(owner) else {
            return (ResponseCode::NXDomain, Vec::new());
        };
        let mut answers = of_kind(owner, records, kind);
        let alias = records.iter().find_map(|record| match record {
            RData::CNAME(target) if kind != RecordType::CNAME => Some(&target.0),
            _ => None,
        });
        if let Some(target) = alias {
            answers = of_kind(owner, records, RecordType::CNAME);
            answers.extend(of_kind(target, zones.records.get(target).map_or(&[], Vec::as_slice), kind));
        }
        (ResponseCode::NoError, answers)
    }
}

fn of_kind(owner: &Name, records: &[RData], kind: RecordType) -> Vec<Record> {
    let of_kind = records.iter().filter(|record| record.record_type() == kind);
    of_kind.map(|data| Record::from_rdata(owner.clone(), TTL, data.clone())).collect()
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut reply: R,
    ) -> ResponseInfo {
        let query = request.request_info().unwrap().query;
        let owner: Name = query.name().into();
        let owner = owner.to_lowercase();
        let (code, answers) = self.answer(&owner, query.query_type());
        if self.is_silent(&owner) {
            // Longer than any resolver waits.
            tokio::time::sleep(PATIENCE).await;
        }
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = code;
        metadata.authoritative = true;
        metadata.recursion_available = true;
        let soa = match answers.is_empty() && code != ResponseCode::ServFail {
            true => vec![start_of_authority()],
            false => Vec::new(),
        };
        let response = MessageResponseBuilder::from_message_request(request);
        let response = response.build(metadata, &answers, &[], &soa, &[]);
        reply.send_response(response).await.unwrap()
    }
}

/// `4.3.2.1` of 1.2.3.4.
fn reversed(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("{d}.{c}.{b}.{a}")
}

fn start_of_authority() -> Record {
    let data = SOA::new(name("ns.test"), name("hostmaster.test"), 1, 60, 60, 60, TTL);
    Record::from_rdata(name("test"), TTL, RData::SOA(data))
}

fn name(text: &str) -> Name {
    let mut name = Name::from_utf8(text).unwrap().to_lowercase();
    name.set_fqdn(true);
    name
}

/// All name servers of a test process share it.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    })
}
