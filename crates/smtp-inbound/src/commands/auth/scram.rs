//! SCRAM (RFC 5802, RFC 7677) as AUTH carries it: three lines of the client, the last one empty.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use postern_config::scram::ScramHash;
use postern_policy::accounts::{Login, ScramLogin};
use postern_policy::scram::{self, Challenge, Refused, Unproved};

use super::{Exchange, Mechanism, Proved, Step, as_oneself, challenge};
use crate::replies;
use crate::session::Context;

/// For the log, where the proof belongs to another TLS session.
const WRONG_BINDING: &str =
    "the proof is bound to another TLS session: somebody may sit between the client and this server";

/// A client that was asked for a proof.
#[derive(Debug)]
pub(crate) struct Asked {
    pub challenge: Challenge,
    mechanism: Mechanism,
    /// As the client wrote it.
    name: String,
    /// Who logs in with the proof; nobody for a name that cannot.
    login: Option<Login>,
    /// Why it cannot, for the log.
    why: Option<String>,
}

/// Takes the first message.
pub(super) fn first(context: &Context, hash: ScramHash, plus: bool, message: &[u8]) -> Step {
    let mechanism = Mechanism::Scram { hash, plus };
    let first = match scram::client_first(message, plus, &context.bindings) {
        Ok(first) => first,
        Err(Refused::Malformed) => return Step::Refuse(replies::bad_auth_response()),
        Err(Refused::UnknownBinding) => return Step::Refuse(replies::unknown_channel_binding()),
        Err(Refused::Downgraded) => return Step::Downgraded(mechanism),
    };
    let name = as_oneself(&first.name, first.authorisation.as_deref().map(str::as_bytes)).to_owned();
    let policy = &context.policy;
    let ScramLogin { verifier, login, why } = policy.accounts.scram(&name, hash, &policy.standing.secret);
    let asked = first.challenge(verifier, &scram::nonce());
    challenge(Exchange::ScramProof(Box::new(Asked { challenge: asked, mechanism, name, login, why })))
}

/// Takes the proof. The client is not told whether it was the name or the password that was wrong.
pub(super) fn proof(asked: Asked, message: &[u8]) -> Step {
    let Asked { challenge, mechanism, name, login, why } = asked;
    match (challenge.answer(message), login) {
        (Ok(signature), Some(login)) => {
            let reply = replies::auth_challenge(&STANDARD.encode(signature));
            Step::Challenge(reply, Exchange::Done(Box::new(Proved { login, mechanism })))
        }
        (Err(Unproved::Malformed), _) => Step::Refuse(replies::bad_auth_response()),
        (Err(Unproved::WrongBinding), _) => {
            Step::Wrong { name, mechanism, why: Some(WRONG_BINDING.to_owned()) }
        }
        (Err(Unproved::WrongProof), _) | (Ok(_), None) => Step::Wrong { name, mechanism, why },
    }
}
