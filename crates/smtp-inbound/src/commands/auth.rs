//! AUTH: SASL PLAIN (RFC 4616) and LOGIN, on submission listeners and under TLS only (RFC 4954).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use postern_policy::relay::login_offered;
use postern_smtp::Reply;
use postern_smtp::command::Auth;

use crate::replies;
use crate::session::{Context, Credentials};

/// What of a name stands in the log.
const MAX_LOGGED_NAME: usize = 100;

/// What the next line of the client is.
#[derive(Debug, Default)]
pub(crate) enum Exchange {
    /// The whole of PLAIN.
    #[default]
    Plain,
    /// The user name of LOGIN.
    LoginName,
    /// The password of LOGIN, for this user.
    LoginPassword(String),
}

/// How the exchange goes on.
#[derive(Debug)]
pub(crate) enum Step {
    Challenge(Reply, Exchange),
    Check(Credentials),
    Refuse(Reply),
    /// Logins are not taken here.
    NotOffered,
}

/// Takes the command.
pub(crate) fn begin(context: &Context, command: &Auth) -> Step {
    if context.login.is_some() {
        return Step::Refuse(replies::already_logged_in());
    }
    if login_offered(context.peer.listener, context.tls.is_some()).is_err() {
        return Step::NotOffered;
    }
    let exchange = match command.mechanism.as_str() {
        "PLAIN" => Exchange::Plain,
        "LOGIN" => Exchange::LoginName,
        _ => return Step::Refuse(replies::unknown_mechanism()),
    };
    match &command.initial {
        None => challenge(exchange),
        Some(initial) if initial.0 == "=" => respond(exchange, Vec::new()),
        Some(initial) => answer(exchange, initial.0.as_bytes()),
    }
}

/// Takes a line of the exchange.
pub(crate) fn answer(exchange: Exchange, line: &[u8]) -> Step {
    if line == b"*" {
        return Step::Refuse(replies::auth_cancelled());
    }
    match STANDARD.decode(line) {
        Ok(response) => respond(exchange, response),
        Err(_) => Step::Refuse(replies::bad_auth_response()),
    }
}

/// A name as it may stand in a log: a client can send anything.
pub(crate) fn printable(name: &str) -> String {
    name.chars().take(MAX_LOGGED_NAME).map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn challenge(exchange: Exchange) -> Step {
    let text = match &exchange {
        Exchange::Plain => String::new(),
        Exchange::LoginName => STANDARD.encode("Username:"),
        Exchange::LoginPassword(_) => STANDARD.encode("Password:"),
    };
    Step::Challenge(replies::auth_challenge(&text), exchange)
}

fn respond(exchange: Exchange, response: Vec<u8>) -> Step {
    match exchange {
        Exchange::Plain => match plain(&response) {
            Some(credentials) => Step::Check(credentials),
            None => Step::Refuse(replies::bad_auth_response()),
        },
        Exchange::LoginName => match String::from_utf8(response) {
            Ok(name) => challenge(Exchange::LoginPassword(name)),
            Err(_) => Step::Refuse(replies::bad_auth_response()),
        },
        Exchange::LoginPassword(name) => Step::Check(Credentials { name, password: response }),
    }
}

/// `authorisation NUL name NUL password` (RFC 4616 §2). To act as another user is not offered: an authorisation identity
/// other than the name makes the name unknown.
fn plain(response: &[u8]) -> Option<Credentials> {
    let mut parts = response.splitn(3, |byte| *byte == 0);
    let (authorisation, name, password) = (parts.next()?, parts.next()?, parts.next()?);
    let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty())?;
    let own = authorisation.is_empty() || authorisation.eq_ignore_ascii_case(name.as_bytes());
    let name = if own { name.to_owned() } else { String::new() };
    Some(Credentials { name, password: password.to_vec() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn plain_takes_no_authority_over_others() {
        assert_eq!(plain(b"\0alice\0secret").unwrap().name, "alice");
        assert_eq!(plain(b"Alice\0alice\0se\0cret").unwrap().password, b"se\0cret");
        assert_eq!(plain(b"bob\0alice\0secret").unwrap().name, "");
        for malformed in [&b""[..], b"alice", b"\0alice", b"\0\0secret", b"\0\xff\0secret"] {
            assert!(plain(malformed).is_none(), "{malformed:?}");
        }
    }

    #[test]
    fn passwords_do_not_reach_a_log() {
        let Step::Check(credentials) = answer(Exchange::Plain, b"AGFsaWNlAHNlY3JldA==") else {
            panic!("no check")
        };
        assert_eq!((credentials.name.as_str(), credentials.password.as_slice()), ("alice", &b"secret"[..]));
        assert!(!format!("{credentials:?}").contains("secret"));
    }
}
