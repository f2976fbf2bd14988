//! A name server of a few fixed records, for the demonstration on one machine: it answers MX and A questions over UDP.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};

use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, MX};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use postern_smtp::Domain;
use tokio::net::UdpSocket;

/// Short, so that a change is seen soon.
const TIME_TO_LIVE: u32 = 5;
/// A question without EDNS fits in 512 octets (RFC 1035 §4.2.1); larger datagrams are cut by `recv_from` and do not parse.
const MAX_QUESTION: usize = 4096;

/// The records: for each domain its mail host, for each host its address.
#[derive(Debug, Clone, Default)]
pub struct Records {
    mail_hosts: HashMap<Domain, Domain>,
    addresses: HashMap<Domain, Ipv4Addr>,
}

impl Records {
    /// Adds a domain whose mail goes to `host` at `address`.
    pub fn add(&mut self, domain: Domain, host: Domain, address: Ipv4Addr) {
        self.addresses.insert(host.clone(), address);
        self.mail_hosts.insert(domain, host);
    }

    /// The answer to one question; `None` if it cannot be read.
    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        let question = Message::from_vec(question).ok()?;
        let query = question.queries.first()?.clone();
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        answer.metadata.authoritative = true;
        answer.metadata.recursion_desired = question.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        let name = Domain::parse(query.name().to_ascii().trim_end_matches('.')).ok();
        let mail_host = name.as_ref().and_then(|name| self.mail_hosts.get(name));
        let address = name.as_ref().and_then(|name| self.addresses.get(name));
        let data = match query.query_type() {
            RecordType::MX => mail_host
                .and_then(|host| Name::from_ascii(format!("{host}.")).ok())
                .map(|host| RData::MX(MX::new(10, host))),
            RecordType::A => address.map(|address| RData::A(A(*address))),
            _ => None,
        };
        if mail_host.is_none() && address.is_none() {
            answer.metadata.response_code = ResponseCode::NXDomain;
        }
        if let Some(data) = data {
            answer.add_answer(Record::from_rdata(query.name().clone(), TIME_TO_LIVE, data));
        }
        answer.add_query(query);
        answer.to_vec().ok()
    }
}

/// Binds a free UDP port of loopback, and answers there for as long as the runtime lives.
///
/// # Errors
/// When no port can be bound.
pub async fn serve(records: Records) -> std::io::Result<SocketAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = socket.local_addr()?;
    tokio::spawn(async move {
        let mut buffer = vec![0; MAX_QUESTION];
        loop {
            // Errors here are of single datagrams (a client that closed its socket): the next one may be well.
            let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
            if let Some(answer) = records.answer(&buffer[..length]) {
                let _ = socket.send_to(&answer, client).await;
            }
        }
    });
    Ok(address)
}
