//! Tokens of an identity provider (`[auth.oauth]`): is this one good, and whose is it?
//!
//! `jwt` reads a token and its claims, `keys` knows what the provider signs with, `provider` speaks to it.

mod jwt;
mod keys;
mod provider;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use postern_config::oauth::OAuth;
use tokio::time::timeout;

use crate::password_checks::PasswordChecks;
use keys::Keys;
use provider::Provider;

/// A token, and who its bearer says to be.
pub struct Bearer {
    /// As the client wrote it; empty where it leaves that to the token.
    pub name: String,
    /// The token, as it is.
    pub token: String,
}

impl fmt::Debug for Bearer {
    /// Without the token: it must not reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bearer").finish_non_exhaustive()
    }
}

/// What a token is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is good, and this login's.
    Accepted { name: String },
    /// It is not.
    Refused(Refused),
    /// Nobody knows.
    Unavailable { why: String },
}

/// Why a token is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// For the log.
    pub why: String,
    /// Whether somebody may be trying things out. Whose token has run out is not: programs notice by being refused.
    pub is_guess: bool,
}

impl Refused {
    fn guess(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_guess: true }
    }

    fn mistake(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_guess: false }
    }
}

/// Whose login a token is for the provider with this set of keys; `None`: nobody's, or there is no such set.
#[cfg(fuzzing)]
pub(crate) fn login_of(config: &OAuth, keys: &[u8], token: &str, now: SystemTime) -> Option<String> {
    let keys = jwt::Key::set(keys).ok()?;
    jwt::Token::read(token).ok()?.verified(&keys).ok()?.login(config, now).ok()
}

/// Who checks the tokens of one table.
#[derive(Debug)]
pub(crate) struct Verifier {
    config: OAuth,
    way: Way,
    turns: PasswordChecks,
}

#[derive(Debug)]
enum Way {
    /// By the keys of the provider.
    Keys(Keys),
    /// By asking it about each (RFC 7662).
    Introspection(Provider),
}

/// The verifier of the configuration in force.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    current: Mutex<Option<Arc<Verifier>>>,
}

impl Tokens {
    /// The verifier of this table.
    pub fn of(&self, config: &OAuth) -> Arc<Verifier> {
        let mut current = self.current.lock();
        match current.as_ref().filter(|verifier| verifier.config == *config) {
            Some(verifier) => Arc::clone(verifier),
            None => {
                let verifier = Arc::new(Verifier::new(config));
                *current = Some(Arc::clone(&verifier));
                verifier
            }
        }
    }
}

impl Verifier {
    pub(crate) fn new(config: &OAuth) -> Self {
        let way = match &config.introspection_url {
            Some(url) => Way::Introspection(Provider::new(url, config)),
            None => Way::Keys(Keys::new(config)),
        };
        Self { way, turns: PasswordChecks::new(config.max_requests.max(1)), config: config.clone() }
    }

    /// Whose the token is. `is_crowd`: many people log in from the client's address.
    pub async fn check(&self, bearer: &Bearer, client: IpAddr, is_crowd: bool, now: SystemTime) -> Answer {
        let claims = match &self.way {
            Way::Keys(keys) => keys.verified(&bearer.token).await,
            Way::Introspection(provider) => {
                let Some(_turn) = self.turns.turn(client, is_crowd).await else {
                    return Answer::Unavailable { why: "too many tokens wait to be asked about".to_owned() };
                };
                let asked = timeout(self.config.timeout, provider.introspect(&bearer.token, &self.config));
                asked.await.unwrap_or_else(|_| {
                    Err(Answer::Unavailable {
                        why: "the identity provider does not answer in time".to_owned(),
                    })
                })
            }
        };
        let claims = match claims {
            Ok(claims) => claims,
            Err(answer) => return answer,
        };
        let name = match claims.login(&self.config, now) {
            Ok(name) => name,
            Err(refused) => return Answer::Refused(refused),
        };
        let claimed = bearer.name.trim();
        match claimed.is_empty() || claimed.to_lowercase() == name.to_lowercase() {
            true => Answer::Accepted { name },
            false => Answer::Refused(Refused::guess("the token is another login's")),
        }
    }
}
