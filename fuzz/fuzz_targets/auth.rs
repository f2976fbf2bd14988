//! The exchange behind AUTH: the first octet chooses the mechanism, 0xFF stands between the answers of the client, which are
//! encoded here, so that every input reaches the mechanism.
#![no_main]

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use postern_config::ListenerKind;
use postern_fuzz::client::Servers;
use postern_smtp_inbound::session::Peer;

const MECHANISMS: [&str; 5] = ["PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-1", "EXTERNAL"];

thread_local! {
    static SERVERS: RefCell<Servers> = RefCell::new(Servers::new(
        include_str!("../../crates/smtp-inbound/tests/dialogues/scram.toml")
            .replace(r#"["scram-sha-256", "#, r#"["plain", "scram-sha-256", "#),
    ));
    /// Every client is another one, so that no wrong password bans the next input.
    static CLIENT: Cell<u32> = const { Cell::new(0xC633_6400) };
}

fuzz_target!(|octets: &[u8]| {
    let Some((choice, rest)) = octets.split_first() else { return };
    let client = CLIENT.replace(CLIENT.get().wrapping_add(1));
    let peer = Peer {
        listener: ListenerKind::Submissions,
        client: IpAddr::V4(Ipv4Addr::from(client)),
        local: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 25)),
        is_local: false,
    };
    let mechanism = MECHANISMS[usize::from(*choice) % MECHANISMS.len()];
    let mut answers = rest.split(|octet| *octet == 0xFF).map(|answer| STANDARD.encode(answer));
    let mut sent = vec![b"EHLO client.test\r\n".to_vec()];
    if choice & 0x80 == 0 {
        sent.push(format!("AUTH {mechanism}\r\n").into_bytes());
    } else {
        let first = answers.next().unwrap_or_default();
        sent.push(
            format!("AUTH {mechanism} {}\r\n", if first.is_empty() { "=" } else { &first }).into_bytes(),
        );
    }
    sent.extend(answers.take(6).map(|answer| format!("{answer}\r\n").into_bytes()));
    sent.push(b"*\r\nNOOP\r\n".to_vec());
    let said = SERVERS.with_borrow_mut(|servers| servers.play(peer, true, &sent));
    let proved = said.iter().any(|line| line.starts_with("235 "));
    let knows = String::from_utf8_lossy(octets).contains("correct horse");
    assert!(!proved || knows, "in without the password: {said:?}");
});
