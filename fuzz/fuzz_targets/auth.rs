//! The exchange behind AUTH. The first octet chooses the mechanism, and 0xFF stands between the answers of the client, which are
//! encoded here, so that every input reaches the mechanism; or they are sent as they are. Tokens have 0xFE between their parts.
//! Nobody gets in who does not say the password or the one token that is good.
#![no_main]

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use libfuzzer_sys::fuzz_target;
use postern_config::ListenerKind;
use postern_fuzz::client::{Client, Servers};
use postern_fuzz::provider;
use postern_smtp_inbound::session::Peer;

const MECHANISMS: [&str; 8] = [
    "PLAIN",
    "LOGIN",
    "SCRAM-SHA-256",
    "SCRAM-SHA-1",
    "SCRAM-SHA-256-PLUS",
    "OAUTHBEARER",
    "XOAUTH2",
    "EXTERNAL",
];
const PASSWORD: &str = "correct horse";

/// What the first octet says beside the mechanism.
const AS_IT_IS: u8 = 0x10;
const UNBOUND: u8 = 0x20;
const PARTS: u8 = 0x40;
const INITIAL: u8 = 0x80;

thread_local! {
    static SERVERS: RefCell<Servers> = RefCell::new(Servers::new(configuration()));
    /// Every client is another one, so that none has a past.
    static CLIENT: Cell<u32> = const { Cell::new(0xC633_6400) };
}

fuzz_target!(|octets: &[u8]| {
    let Some((choice, rest)) = octets.split_first() else { return };
    let number = CLIENT.replace(CLIENT.get().wrapping_add(1));
    let peer = Peer {
        listener: ListenerKind::Submissions,
        client: IpAddr::V4(Ipv4Addr::from(number)),
        local: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 25)),
        is_local: false,
    };
    let client = Client { peer, tls: true, is_bound: choice & UNBOUND == 0 };
    let mechanism = MECHANISMS[usize::from(*choice) % MECHANISMS.len()];
    let answers: Vec<Vec<u8>> =
        rest.split(|octet| *octet == 0xFF).take(7).map(|answer| said(*choice, answer)).collect();
    let mut lines = answers.iter().map(|answer| line(*choice, answer));
    let mut sent = vec![b"EHLO client.test\r\n".to_vec()];
    let mut auth = format!("AUTH {mechanism}").into_bytes();
    if choice & INITIAL != 0 {
        let first = lines.next().filter(|line| !line.is_empty()).unwrap_or_else(|| b"=".to_vec());
        auth = [&auth[..], b" ", &first].concat();
    }
    sent.push([&auth[..], b"\r\n"].concat());
    sent.extend(lines.map(|line| [&line[..], b"\r\n"].concat()));
    sent.push(b"*\r\nNOOP\r\n".to_vec());
    let reads: Vec<&[u8]> = sent.iter().map(Vec::as_slice).collect();
    let heard = SERVERS.with_borrow_mut(|servers| servers.play(client, &reads));
    let secret = if mechanism.contains("OAUTH") { provider::VALID } else { PASSWORD };
    let proved = heard.iter().any(|line| line.starts_with("235 "));
    // Lines that are sent as they are may begin another AUTH.
    let secrets = if choice & AS_IT_IS != 0 { vec![PASSWORD, provider::VALID] } else { vec![secret] };
    let knows = secrets.iter().any(|secret| answers.iter().any(|answer| has(answer, secret.as_bytes())));
    assert!(!proved || knows, "in without the secret: {heard:?}");
});

fn configuration() -> String {
    let mechanisms = MECHANISMS.map(str::to_lowercase);
    let offered: Vec<&String> = mechanisms.iter().filter(|name| !name.ends_with("-plus")).collect();
    format!(
        "hostname = \"mail.proseware.test\"\n[smtp]\nmax_command_line = 512\n[auth]\nmechanisms = {offered:?}\n\
         [auth.guessing]\nmax_failures = 0\n{}[[domain]]\nname = \"proseware.test\"\nmailboxes = [\"alice\"]\n",
        provider::table()
    )
}

/// What an answer says, decoded.
fn said(choice: u8, answer: &[u8]) -> Vec<u8> {
    if choice & PARTS == 0 {
        return answer.to_vec();
    }
    let mut parts = answer.split(|octet| *octet == 0xFE);
    let name = parts.next().unwrap_or_default();
    let parts: Vec<String> = parts.map(|part| URL_SAFE_NO_PAD.encode(part)).collect();
    [name, b"\x01auth=Bearer ", parts.join(".").as_bytes(), b"\x01\x01"].concat()
}

/// As the client sends it, without the end.
fn line(choice: u8, answer: &[u8]) -> Vec<u8> {
    match choice & AS_IT_IS != 0 {
        true => answer.to_vec(),
        false => STANDARD.encode(answer).into_bytes(),
    }
}

/// Whether a secret stands in what was said: in clear, or in words that are encoded.
fn has(answer: &[u8], secret: &[u8]) -> bool {
    let contains = |octets: &[u8]| octets.windows(secret.len()).any(|window| window == secret);
    contains(answer)
        || answer
            .split(|octet| matches!(octet, b' ' | b'\r' | b'\n'))
            .any(|word| STANDARD.decode(word).is_ok_and(|decoded| contains(&decoded)))
}
