//! AUTH (RFC 4954), on submission listeners and under TLS only: which mechanisms, and their exchanges. PLAIN (RFC 4616) and
//! LOGIN are here, EXTERNAL (RFC 4422 appendix A) too, SCRAM in `scram`, tokens in `bearer`.

pub(crate) mod bearer;
mod scram;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use postern_config::Mechanism as Configured;
use postern_config::scram::ScramHash;
use postern_policy::accounts::Login;
use postern_policy::relay::login_offered;
use postern_smtp::Reply;
use postern_smtp::command::Auth;

use crate::replies;
use crate::session::{Context, Credentials};
use crate::tokens::Bearer;

/// What of a name stands in the log.
const MAX_LOGGED_NAME: usize = 100;

/// A mechanism, as it is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mechanism {
    Plain,
    Login,
    /// `plus`: with channel binding.
    Scram {
        hash: ScramHash,
        plus: bool,
    },
    /// By client certificate.
    External,
    /// By token.
    OAuthBearer,
    /// The same, as it was before it was standardised.
    XOAuth2,
}

impl Mechanism {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::Scram { hash, plus: false } => hash.mechanism(),
            Self::Scram { hash, plus: true } => hash.mechanism_plus(),
            Self::External => "EXTERNAL",
            Self::OAuthBearer => "OAUTHBEARER",
            Self::XOAuth2 => "XOAUTH2",
        }
    }
}

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
    /// The first message of SCRAM.
    ScramFirst { hash: ScramHash, plus: bool },
    /// The proof of SCRAM.
    ScramProof(Box<scram::Asked>),
    /// As whom the client wants to log in by EXTERNAL; empty leaves it to its certificate.
    External,
    /// A token.
    Bearer(Mechanism),
    /// Whatever it is, it says that the client has read why its token was not taken; this is the answer, after a while.
    Refused(Box<(Reply, Duration)>),
    /// Nothing: the client has our own proof, and says that it will go on (RFC 4954 §4).
    Done(Box<Proved>),
}

/// Who has logged in, and how.
#[derive(Debug)]
pub(crate) struct Proved {
    pub login: Login,
    pub mechanism: Mechanism,
}

/// How the exchange goes on.
pub(crate) enum Step {
    Challenge(Reply, Exchange),
    /// A password that is to be checked.
    Check(Credentials, Mechanism),
    /// A token that is to be checked.
    CheckToken(Bearer, Mechanism),
    /// What the token before was worth.
    Refused(Reply, Duration),
    Proved(Box<Proved>),
    /// As after a wrong password; `why` is for the log.
    Wrong {
        name: String,
        mechanism: Mechanism,
        why: Option<String>,
    },
    Refuse(Reply),
    /// The client was told another offer than ours.
    Downgraded(Mechanism),
    /// Logins are not taken here.
    NotOffered,
}

/// The mechanisms that this client may use now, best first. A password that is not asked for is not sent, so never in clear
/// text and never on port 25.
pub(crate) fn offered(context: &Context) -> Vec<Mechanism> {
    if login_offered(context.peer.listener, context.tls.is_some()).is_err() {
        return Vec::new();
    }
    let (listed, accounts) = (context.config.auth.mechanisms.as_ref(), &context.policy.accounts);
    let auth = &context.config.auth;
    let is_on = |mechanism: Configured| match (listed, mechanism) {
        (Some(listed), _) => listed.contains(&mechanism),
        // Programs that find SCRAM often try nothing else, and what other systems know cannot be proved by it.
        (None, Configured::ScramSha256) => {
            auth.backend.is_none() && accounts.scram_keeps_nobody_out(ScramHash::Sha256)
        }
        (None, Configured::ScramSha1) => false,
        (None, Configured::OAuthBearer | Configured::XOAuth2) => auth.oauth.is_some(),
        (None, Configured::Plain | Configured::Login | Configured::External) => true,
    };
    let mut offered = Vec::new();
    for (configured, hash) in
        [(Configured::ScramSha256, ScramHash::Sha256), (Configured::ScramSha1, ScramHash::Sha1)]
    {
        let variants = [(context.bindings.is_offered(), true), (true, false)];
        let offer = variants.into_iter().filter(|(is_there, _)| *is_there && is_on(configured));
        offered.extend(offer.map(|(_, plus)| Mechanism::Scram { hash, plus }));
    }
    offered.extend(is_on(Configured::Plain).then_some(Mechanism::Plain));
    offered.extend(is_on(Configured::Login).then_some(Mechanism::Login));
    let is_listed = context.certificate.as_ref().is_some_and(|shown| accounts.lists_certificate(shown));
    offered.extend((is_listed && is_on(Configured::External)).then_some(Mechanism::External));
    offered.extend(is_on(Configured::OAuthBearer).then_some(Mechanism::OAuthBearer));
    offered.extend(is_on(Configured::XOAuth2).then_some(Mechanism::XOAuth2));
    offered
}

/// Takes the command.
pub(crate) fn begin(context: &Context, command: &Auth) -> Step {
    if context.login.is_some() {
        return Step::Refuse(replies::already_logged_in());
    }
    if login_offered(context.peer.listener, context.tls.is_some()).is_err() {
        return Step::NotOffered;
    }
    let offered = offered(context);
    let Some(mechanism) = offered.iter().find(|offered| offered.as_str() == command.mechanism) else {
        let names: Vec<&str> = offered.iter().map(|offered| offered.as_str()).collect();
        return Step::Refuse(replies::unknown_mechanism(&names));
    };
    let exchange = match *mechanism {
        Mechanism::Plain => Exchange::Plain,
        Mechanism::Login => Exchange::LoginName,
        Mechanism::Scram { hash, plus } => Exchange::ScramFirst { hash, plus },
        Mechanism::External => Exchange::External,
        Mechanism::OAuthBearer | Mechanism::XOAuth2 => Exchange::Bearer(*mechanism),
    };
    match &command.initial {
        None => challenge(exchange),
        Some(initial) if initial.0 == "=" => respond(context, exchange, Vec::new()),
        Some(initial) => answer(context, exchange, initial.0.as_bytes()),
    }
}

/// Takes a line of the exchange.
pub(crate) fn answer(context: &Context, exchange: Exchange, line: &[u8]) -> Step {
    if let Exchange::Refused(told) = exchange {
        return Step::Refused(told.0, told.1);
    }
    if line == b"*" {
        return Step::Refuse(replies::auth_cancelled());
    }
    match STANDARD.decode(line) {
        Ok(response) => respond(context, exchange, response),
        Err(_) => Step::Refuse(replies::bad_auth_response()),
    }
}

/// A name as it may stand in a log: a client can send anything.
pub(crate) fn printable(name: &str) -> String {
    name.chars().take(MAX_LOGGED_NAME).map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn challenge(exchange: Exchange) -> Step {
    let text = match &exchange {
        Exchange::LoginName => "Username:",
        Exchange::LoginPassword(_) => "Password:",
        Exchange::ScramProof(asked) => asked.challenge.text(),
        Exchange::Plain
        | Exchange::ScramFirst { .. }
        | Exchange::External
        | Exchange::Bearer(_)
        | Exchange::Refused(_)
        | Exchange::Done(_) => "",
    };
    Step::Challenge(replies::auth_challenge(&STANDARD.encode(text)), exchange)
}

fn respond(context: &Context, exchange: Exchange, response: Vec<u8>) -> Step {
    match exchange {
        Exchange::Plain => match plain(&response) {
            Some(credentials) => Step::Check(credentials, Mechanism::Plain),
            None => Step::Refuse(replies::bad_auth_response()),
        },
        Exchange::LoginName => match String::from_utf8(response) {
            Ok(name) => challenge(Exchange::LoginPassword(name)),
            Err(_) => Step::Refuse(replies::bad_auth_response()),
        },
        Exchange::LoginPassword(name) => {
            Step::Check(Credentials { name, password: response }, Mechanism::Login)
        }
        Exchange::ScramFirst { hash, plus } => scram::first(context, hash, plus, &response),
        Exchange::ScramProof(asked) => scram::proof(*asked, &response),
        Exchange::External => external(context, response),
        Exchange::Bearer(mechanism) => match bearer::first(mechanism, &response) {
            Some(bearer) => Step::CheckToken(bearer, mechanism),
            None => Step::Refuse(replies::bad_auth_response()),
        },
        Exchange::Refused(told) => Step::Refused(told.0, told.1),
        Exchange::Done(proved) if response.is_empty() => Step::Proved(proved),
        Exchange::Done(_) => Step::Refuse(replies::bad_auth_response()),
    }
}

/// The certificate says who it is; where several logins list it, or to be sure, the client names one.
fn external(context: &Context, response: Vec<u8>) -> Step {
    let mechanism = Mechanism::External;
    let name = String::from_utf8(response).ok().filter(|name| !name.contains('\0'));
    let (Some(name), Some(shown)) = (name, &context.certificate) else {
        return Step::Refuse(replies::bad_auth_response());
    };
    match context.policy.accounts.by_certificate(shown, &name) {
        Ok(login) => Step::Proved(Box::new(Proved { login, mechanism })),
        Err(why) => Step::Wrong { name, mechanism, why: Some(why) },
    }
}

/// `authorisation NUL name NUL password` (RFC 4616 §2), with no other NUL. To act as another user is not offered: an
/// authorisation identity other than the name makes the name unknown.
fn plain(response: &[u8]) -> Option<Credentials> {
    let mut parts = response.split(|byte| *byte == 0);
    let (authorisation, name, password) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty())?;
    let authorisation = (!authorisation.is_empty()).then_some(authorisation);
    Some(Credentials { name: as_oneself(name, authorisation).to_owned(), password: password.to_vec() })
}

/// The name, or one that nobody has where the client wants to act as somebody else.
fn as_oneself<'n>(name: &'n str, authorisation: Option<&[u8]>) -> &'n str {
    let is_other =
        authorisation.is_some_and(|authorisation| !authorisation.eq_ignore_ascii_case(name.as_bytes()));
    if is_other { "" } else { name }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn plain_takes_no_authority_over_others() {
        assert_eq!(plain(b"\0alice\0secret").unwrap().name, "alice");
        assert_eq!(plain(b"Alice\0alice\0secret").unwrap().password, b"secret");
        assert_eq!(plain(b"bob\0alice\0secret").unwrap().name, "");
        for malformed in
            [&b""[..], b"alice", b"\0alice", b"\0\0secret", b"\0\xff\0secret", b"\0alice\0se\0cret"]
        {
            assert!(plain(malformed).is_none(), "{malformed:?}");
        }
    }

    #[test]
    fn passwords_do_not_reach_a_log() {
        let credentials = plain(b"\0alice\0secret").unwrap();
        assert_eq!((credentials.name.as_str(), credentials.password.as_slice()), ("alice", &b"secret"[..]));
        assert!(!format!("{credentials:?}").contains("secret"));
    }
}
