//! One login, proved by whoever knows it: `accounts.toml`, or another system.

use std::sync::Arc;
use std::time::Duration;

use postern_config::backend::Backend;
use postern_policy::Policy;
use postern_policy::accounts::{Verified, Vouched, Voucher, fold};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::listener::House;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use crate::login_source::Hashed;
use crate::login_source::{Answer, Question};
use crate::session::{Credentials, PasswordCheck, Peer};
use crate::tokens::{self, Bearer};

/// A connection whose client wants to log in.
pub(crate) struct Check<'h> {
    pub house: &'h House,
    pub peer: Peer,
    pub stop: &'h CancellationToken,
}

impl Check<'_> {
    /// Checks a password where it is kept.
    pub async fn password(&self, credentials: Credentials) -> PasswordCheck {
        let began = Instant::now();
        let config = self.house.shared.config.load_full();
        let policy = self.house.shared.policy.load_full();
        let Some(backend) = &config.auth.backend else { return self.kept_here(policy, credentials).await };
        let check = match policy.accounts.keeps_password(&credentials.name) {
            true => self.kept_here(policy, credentials).await,
            false => self.kept_elsewhere(policy, backend, credentials).await,
        };
        let is_wrong = match &check {
            PasswordCheck::Done(Verified::Right { .. }) | PasswordCheck::Vouched(_) => false,
            PasswordCheck::Done(_) | PasswordCheck::Refused { .. } => true,
            PasswordCheck::Unavailable { .. } => false,
        };
        if is_wrong {
            self.wait(began, backend.wrong_after).await;
        }
        check
    }

    async fn kept_here(&self, policy: Arc<Policy>, credentials: Credentials) -> PasswordCheck {
        let Peer { client, local, .. } = self.peer;
        let is_crowd = policy.is_spared(client, Some(local));
        let Some(_turn) = self.house.password_checks.turn(client, is_crowd).await else {
            return unavailable("too many passwords wait to be checked");
        };
        let now = self.house.shared.clock.now();
        let Credentials { name, password } = credentials;
        let check =
            tokio::task::spawn_blocking(move || policy.accounts.verify(&name, &password, client, now));
        check.await.map_or_else(unavailable, PasswordCheck::Done)
    }

    async fn kept_elsewhere(
        &self,
        policy: Arc<Policy>,
        backend: &Backend,
        credentials: Credentials,
    ) -> PasswordCheck {
        let Peer { client, local, .. } = self.peer;
        let is_crowd = policy.is_spared(client, Some(local));
        let Some(source) = self.house.login_sources.of(backend) else {
            return unavailable("no back end is configured");
        };
        let Credentials { name, password } = credentials;
        let name = fold(&name);
        let question = Question { name: &name, password: &password, client, local };
        let answer = source.ask(question, is_crowd).await;
        match answer {
            Answer::Accepted { name, addresses } => {
                vouched(&policy, Vouched { name, addresses, by: Voucher::Backend })
            }
            #[cfg(any(feature = "sqlite", feature = "postgres"))]
            Answer::Hash(known) => self.compared(policy, known, password).await,
            Answer::Rejected { why } => PasswordCheck::Refused { why, is_guess: true },
            Answer::Refused { why } => PasswordCheck::Refused { why: Some(why), is_guess: false },
            Answer::Unavailable { why } => PasswordCheck::Unavailable { why },
        }
    }

    /// A password against a hash that another system keeps. It takes a turn of those that are checked here, and the same time
    /// where there is no hash.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    async fn compared(&self, policy: Arc<Policy>, known: Option<Hashed>, password: Vec<u8>) -> PasswordCheck {
        let Peer { client, local, .. } = self.peer;
        let is_crowd = policy.is_spared(client, Some(local));
        let Some(_turn) = self.house.password_checks.turn(client, is_crowd).await else {
            return unavailable("too many passwords wait to be checked");
        };
        let compare = tokio::task::spawn_blocking({
            let policy = Arc::clone(&policy);
            move || {
                let hash = known.as_ref().map(|known| known.hash.as_str());
                let fits = policy.accounts.fits_hash(hash, &password);
                known.filter(|_| fits)
            }
        });
        match compare.await {
            Ok(Some(Hashed { name, addresses, .. })) => {
                vouched(&policy, Vouched { name, addresses, by: Voucher::Backend })
            }
            Ok(None) => PasswordCheck::Refused { why: None, is_guess: true },
            Err(error) => unavailable(error),
        }
    }

    /// Checks a token of an identity provider.
    pub async fn token(&self, bearer: Bearer) -> PasswordCheck {
        let config = self.house.shared.config.load_full();
        let policy = self.house.shared.policy.load_full();
        let Some(oauth) = &config.auth.oauth else {
            return unavailable("no identity provider is configured");
        };
        let Peer { client, local, .. } = self.peer;
        let is_crowd = policy.is_spared(client, Some(local));
        let verifier = self.house.tokens.of(oauth);
        match verifier.check(&bearer, client, is_crowd, self.house.shared.clock.now()).await {
            tokens::Answer::Accepted { name } => {
                vouched(&policy, Vouched { name, addresses: Vec::new(), by: Voucher::OAuth })
            }
            tokens::Answer::Refused(tokens::Refused { why, is_guess }) => {
                PasswordCheck::Refused { why: Some(why), is_guess }
            }
            tokens::Answer::Unavailable { why } => PasswordCheck::Unavailable { why },
        }
    }

    /// Until so long after the beginning; not when the server stops.
    async fn wait(&self, began: Instant, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep_until(began + time) => {}
            () = self.stop.cancelled() => {}
        }
    }
}

/// The login that another system has vouched for, if it is one here.
pub(crate) fn vouched(policy: &Policy, vouched: Vouched) -> PasswordCheck {
    match policy.accounts.vouched(vouched) {
        Ok(login) => PasswordCheck::Vouched(login),
        Err(why) => PasswordCheck::Refused { why: Some(why), is_guess: false },
    }
}

fn unavailable(why: impl ToString) -> PasswordCheck {
    PasswordCheck::Unavailable { why: why.to_string() }
}
