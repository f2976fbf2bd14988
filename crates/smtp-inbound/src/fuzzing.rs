//! What the fuzz targets (`fuzz/`) reach and nobody else. Built with `--cfg fuzzing` alone.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

use postern_config::oauth::OAuth;
use postern_policy::Policy;
use postern_policy::accounts::{Vouched, Voucher};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::login_check::vouched;
use crate::login_source::{self, Answer, Question};
use crate::session::PasswordCheck;
use crate::tokens::{self, Bearer, Verifier};

/// Checks tokens as a connection has it done.
pub struct Tokens(Verifier);

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl Tokens {
    /// For the provider of this table.
    pub fn new(config: &OAuth) -> Self {
        Self(Verifier::new(config))
    }

    /// What a token is worth for these rules.
    pub async fn check(
        &self,
        policy: &Policy,
        bearer: &Bearer,
        client: IpAddr,
        now: SystemTime,
    ) -> PasswordCheck {
        match self.0.check(bearer, client, false, now).await {
            tokens::Answer::Accepted { name } => {
                vouched(policy, Vouched { name, addresses: Vec::new(), by: Voucher::OAuth })
            }
            tokens::Answer::Refused(refused) => {
                PasswordCheck::Refused { why: Some(refused.why), is_guess: refused.is_guess }
            }
            tokens::Answer::Unavailable { why } => PasswordCheck::Unavailable { why },
        }
    }
}

/// Whose login a token is for the provider with this set of keys; `None`: nobody's, or there is no such set.
pub fn login_of_token(config: &OAuth, keys: &[u8], token: &str, now: SystemTime) -> Option<String> {
    tokens::login_of(config, keys, token, now)
}

/// Whom Dovecot's service at the other end of a stream lets in; `None`: nobody.
///
/// # Errors
/// When there is no such service there.
pub async fn login_of_dovecot(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    name: &str,
    password: &[u8],
) -> io::Result<Option<String>> {
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let question = Question { name, password, client: here, local: here };
    Ok(match login_source::ask_dovecot_over(stream, question).await? {
        Answer::Accepted { name, .. } => Some(name),
        _ => None,
    })
}

/// The filter that finds a name in a directory.
#[cfg(feature = "ldap")]
pub fn ldap_filter(template: &str, name: &str) -> Option<String> {
    login_source::ldap_filter(template, name)
}

/// The DN of a name in a directory.
#[cfg(feature = "ldap")]
pub fn ldap_dn(template: &str, name: &str) -> Option<String> {
    login_source::ldap_dn(template, name)
}
