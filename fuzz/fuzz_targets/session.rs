//! A whole session: the first octet says on which listener, then what the client sends, cut where the first octets say.
#![no_main]

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};

use libfuzzer_sys::fuzz_target;
use postern_config::ListenerKind;
use postern_fuzz::client::Servers;
use postern_fuzz::cut;
use postern_smtp_inbound::session::Peer;

thread_local! {
    static SERVERS: RefCell<Servers> = RefCell::new(Servers::new(
        include_str!("../../crates/smtp-inbound/tests/dialogues/default.toml").to_owned(),
    ));
}

fuzz_target!(|octets: &[u8]| {
    let Some((kind, rest)) = octets.split_first() else { return };
    let kinds = [ListenerKind::Mx, ListenerKind::Submission, ListenerKind::Submissions];
    let listener = kinds[usize::from(kind % 3)];
    let client =
        Ipv4Addr::new(if kind & 4 == 0 { 198 } else { 192 }, if kind & 4 == 0 { 51 } else { 0 }, 2, 9);
    let peer = Peer {
        listener,
        client: IpAddr::V4(client),
        local: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 25)),
        is_local: false,
    };
    let tls = listener == ListenerKind::Submissions || kind & 8 != 0;
    let (pieces, _) = cut(rest);
    let sent: Vec<Vec<u8>> = pieces.into_iter().map(<[u8]>::to_vec).collect();
    SERVERS.with_borrow_mut(|servers| servers.play(peer, tls, &sent));
});
