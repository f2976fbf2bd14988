//! A whole session: the first octet says who connects and where, then comes what the client sends, cut where the next octets say.
//!
//! It is played twice, to two servers of the same past. The one reads in all of these pieces; the other only in those that begin
//! with a line, for what waits behind a line is seen by the session (RFC 2920 §3.1). Both must say the same.
#![no_main]

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};

use libfuzzer_sys::fuzz_target;
use postern_config::ListenerKind;
use postern_fuzz::client::{Client, Servers, without_names};
use postern_fuzz::cut;
use postern_smtp_inbound::session::Peer;

const CONFIGURATION: &str = r#"
    hostname = "mail.proseware.test"
    [smtp]
    max_message_size = "10000B"
    max_header_size = "2000B"
    max_data_line = "1500B"
    max_received = 5
    xclient_from = ["203.0.113.0/29"]
    xclient_login_from = ["203.0.113.6/32"]
    xforward_from = ["203.0.113.0/29"]
    etrn_from = ["203.0.113.64/32"]
    normalise_line_ends_from = ["203.0.113.65/32"]
    [auth]
    mechanisms = ["plain", "login", "scram-sha-256"]
    [auth.guessing]
    max_failures = 0
    delay = "0s"
    [relay]
    trusted_networks = [{ network = "192.0.2.0/24", label = "office" }]
    relay_domains = [{ name = "customer.test", recipients = ["info"] }, { name = "branch.test" }]
    [[relay.grants]]
    label = "scanner"
    network = "198.51.100.40/32"
    senders = ["scanner@proseware.test"]
    recipients = ["@adatum.test"]
    rate = "1000/h"
    [[domain]]
    name = "proseware.test"
    mailboxes = ["alice", "bob", "carol"]
    [domain.aliases]
    sales = ["alice", "bob"]
    round = ["about"]
    about = ["round"]
    [[route]]
    domain = "closed.test"
    via = "reject"
    text = "no mail to this domain from here"
    [[route]]
    domain = "*"
    via = "smarthost"
    hosts = ["relay.test"]
"#;
const LISTENERS: [ListenerKind; 4] =
    [ListenerKind::Mx, ListenerKind::Submission, ListenerKind::Submissions, ListenerKind::Lmtp];
/// Two strangers, somebody in a trusted network, one with a grant, and those who may use XCLIENT and XFORWARD, XCLIENT with LOGIN,
/// ETRN, and bare line feeds.
const CLIENTS: [[u8; 4]; 8] = [
    [198, 51, 100, 9],
    [192, 0, 2, 9],
    [198, 51, 100, 40],
    [203, 0, 113, 5],
    [203, 0, 113, 6],
    [203, 0, 113, 64],
    [203, 0, 113, 65],
    [198, 51, 100, 10],
];
const STRANGERS: [usize; 2] = [0, 7];
/// All whose mail a stranger may send here, and the server itself.
const OURS: [&str; 5] =
    ["proseware.test", "mail.proseware.test", "customer.test", "branch.test", "[192.0.2.25]"];

thread_local! {
    static SERVERS: RefCell<[Servers; 2]> = RefCell::new([(); 2].map(|()| Servers::new(CONFIGURATION.to_owned())));
}

fuzz_target!(|octets: &[u8]| {
    let Some((kind, rest)) = octets.split_first() else { return };
    let listener = LISTENERS[usize::from(kind & 3)];
    let who = usize::from(kind >> 2 & 7);
    let peer = Peer {
        listener,
        client: IpAddr::V4(Ipv4Addr::from(CLIENTS[who])),
        local: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 25)),
        is_local: false,
    };
    let tls = listener == ListenerKind::Submissions || kind & 0x20 != 0;
    let client = Client { peer, tls, is_bound: false };
    let waits = kind & 0x40 != 0;
    let (few, many) = reads(rest, waits);
    SERVERS.with_borrow_mut(|[one, two]| {
        let said = one.play(client, &few);
        let again = two.play(client, &many);
        let (said_once, said_twice) = (without_names(&said), without_names(&again));
        let handshake = said_once.iter().position(|line| line.starts_with("220 2.0.0"));
        // What follows STARTTLS in the same read is thrown away.
        let compared = handshake.filter(|_| !waits).map_or(usize::MAX, |at| at + 1);
        assert!(
            said_once.iter().take(compared).eq(said_twice.iter().take(compared)),
            "{said_once:#?} is not {said_twice:#?}"
        );
        if STRANGERS.contains(&who) && !listener.is_submission() {
            for recipient in one.recipients(&said) {
                let (_, domain) = recipient.rsplit_once('@').expect("a domain");
                assert!(OURS.contains(&domain), "a stranger may send to {recipient}");
            }
        }
    });
});

/// The reads that begin with a line, and all of them. A client that waits sends one line at a time.
fn reads(octets: &[u8], waits: bool) -> (Vec<&[u8]>, Vec<&[u8]>) {
    let (pieces, input) = cut(octets);
    let begins_line = |at: &usize| input[..*at].last().is_none_or(|octet| *octet == b'\n');
    let lines = (0..=input.len()).filter(|at| waits && begins_line(at));
    let cuts = pieces.iter().scan(0, |at, piece| {
        *at += piece.len();
        Some(*at)
    });
    let mut many: Vec<usize> = cuts.chain(lines).chain([input.len()]).collect();
    many.sort_unstable();
    many.dedup();
    let few = many.iter().copied().filter(|at| begins_line(at) || *at == input.len());
    let pieces = |ends: &[usize]| {
        let begins = [0].into_iter().chain(ends.iter().copied());
        begins.zip(ends).map(|(begin, end)| &input[begin..*end]).collect()
    };
    (pieces(&few.collect::<Vec<_>>()), pieces(&many))
}
