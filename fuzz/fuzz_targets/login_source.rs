//! What other systems say of a login, and what they are asked. Dovecot's service says the input, in whatever pieces: the same comes
//! of it, and nobody is let in whom it has not named by an OK. A name of the input never leaves its place in a question to a directory.
#![no_main]

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use libfuzzer_sys::fuzz_target;
use postern_fuzz::cut;
use postern_smtp_inbound::fuzzing::{ldap_dn, ldap_filter, login_of_dovecot};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Runtime;

const FILTER: &str = "(&(mail={login})(uid={local}))";
const DN: &str = "uid={local},ou={domain},dc=test";

thread_local! {
    static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
}

fuzz_target!(|octets: &[u8]| {
    let (pieces, said) = cut(octets);
    let login = asked(&[said]);
    assert_eq!(asked(&pieces), login, "in pieces the answer is another one");
    if login.is_some() {
        assert!(String::from_utf8_lossy(said).split('\n').any(is_ok), "in without an OK: {login:?}");
    }
    if let Ok(name) = std::str::from_utf8(said) {
        directory(name);
    }
});

/// Whether a line says that the first request was right, and nothing else against the login.
fn is_ok(line: &str) -> bool {
    let mut fields = line.split('\t');
    fields.next() == Some("OK")
        && fields.next().is_some_and(|id| id.parse() == Ok(1_u32))
        && !fields.any(|field| matches!(field.split('=').next(), Some("temp" | "nologin")))
}

fn asked(pieces: &[&[u8]]) -> Option<String> {
    let service = Service(pieces.iter().map(|piece| piece.to_vec()).collect());
    RUNTIME.with(|runtime| runtime.block_on(login_of_dovecot(service, "alice", b"word"))).ok().flatten()
}

fn directory(name: &str) {
    if let Some(filter) = ldap_filter(FILTER, name) {
        let special = |c: char| matches!(c, '(' | ')' | '*' | '\0');
        let (own, all) = (FILTER.chars().filter(|c| special(*c)), filter.chars().filter(|c| special(*c)));
        assert!(all.eq(own), "{name:?} makes another filter: {filter:?}");
        let mail =
            filter.strip_prefix("(&(mail=").and_then(|rest| rest.split_once(')')).expect("its beginning").0;
        assert_eq!(unescaped(mail, false), name.as_bytes());
    }
    if let Some(dn) = ldap_dn(DN, name) {
        let mut rest = dn.strip_prefix("uid=").expect("its beginning");
        let mut parts = Vec::new();
        while let Some(end) = end_of_value(rest) {
            parts.push(&rest[..end]);
            rest = &rest[end + 1..];
        }
        let [local, domain] = parts[..] else { panic!("{name:?} makes another DN: {dn:?}") };
        let domain = domain.strip_prefix("ou=").expect("the second attribute");
        assert_eq!(rest, "dc=test");
        assert_eq!([&unescaped(local, true)[..], b"@", &unescaped(domain, true)].concat(), name.as_bytes());
    }
}

/// Where the next part of a DN begins: at a comma or a plus sign that is not escaped.
fn end_of_value(dn: &str) -> Option<usize> {
    let mut is_escaped = false;
    dn.bytes().position(|octet| {
        let ends = !is_escaped && matches!(octet, b',' | b'+' | b';');
        is_escaped = !is_escaped && octet == b'\\';
        ends
    })
}

/// RFC 4515 §3, and for DNs RFC 4514 §2.4: two hexadecimal digits, or there the character itself, behind a backslash.
fn unescaped(text: &str, in_dn: bool) -> Vec<u8> {
    let (mut octets, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((octet, behind)) = rest.split_first() {
        rest = behind;
        if *octet != b'\\' {
            octets.push(*octet);
            continue;
        }
        let hex =
            rest.get(..2).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match hex {
            Some(octet) => {
                octets.push(octet);
                rest = &rest[2..];
            }
            None => {
                assert!(in_dn, "no escape: {text:?}");
                octets.push(rest[0]);
                rest = &rest[1..];
            }
        }
    }
    octets
}

/// Says its pieces, one with each read, whatever it is asked.
struct Service(VecDeque<Vec<u8>>);

impl AsyncRead for Service {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // An empty read would be the end.
        while self.0.front().is_some_and(Vec::is_empty) {
            self.0.pop_front();
        }
        if let Some(mut piece) = self.0.pop_front() {
            let later = piece.split_off(piece.len().min(buffer.remaining()));
            buffer.put_slice(&piece);
            self.0.push_front(later);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Service {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(octets.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
