//! The keys that the provider signs with: from a file, or fetched and kept for a while.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use postern_config::oauth::OAuth;
use tokio::time::{Instant, timeout};

use super::Answer;
use super::jwt::{Claims, Key, Token};
use super::provider::Provider;

/// After keys came: how long a token with an unknown key does not make them be fetched again. Anybody can make up such a token.
const PAUSE: Duration = Duration::from_secs(30);
/// After the provider did not answer, and no keys are there to go on with.
const SHORT_PAUSE: Duration = Duration::from_secs(2);

/// The keys of one provider.
#[derive(Debug)]
pub(super) struct Keys {
    place: Place,
    refresh: Duration,
    keep: Duration,
    timeout: Duration,
    /// Never locked for longer than it takes to look.
    known: Mutex<Known>,
    /// Whose turn it is to fetch them: many logins at once fetch them once.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
enum Place {
    File(PathBuf),
    Url(Provider),
}

#[derive(Debug, Default)]
struct Known {
    keys: Arc<[Key]>,
    /// When they came.
    since: Option<Instant>,
    /// When they were asked for, and what was wrong then.
    tried: Option<Instant>,
    problem: Option<String>,
    /// Of a file.
    modified: Option<SystemTime>,
}

impl Keys {
    pub fn new(config: &OAuth) -> Self {
        let place = match &config.jwks_file {
            Some(path) => Place::File(path.clone()),
            None => Place::Url(Provider::new(config.jwks_url.as_deref().unwrap_or_default(), config)),
        };
        let OAuth { refresh, keep, timeout, .. } = *config;
        Self {
            place,
            refresh,
            keep,
            timeout,
            known: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
        }
    }

    /// What a token says, if the provider has signed it.
    pub async fn verified(&self, text: &str) -> Result<Claims, Answer> {
        let began = Instant::now();
        let token = Token::read(text).map_err(Answer::Refused)?;
        match &self.place {
            Place::File(path) => self.known.lock().read(path),
            Place::Url(provider) => {
                self.fetch(provider, &token).await;
                self.known.lock().forget_after(self.keep.max(self.refresh));
            }
        }
        let (keys, doubt) = {
            let known = self.known.lock();
            (Arc::clone(&known.keys), known.doubt(began))
        };
        // A key that is not among old ones may be a new one.
        if let Some(doubt) = doubt.filter(|_| !token.has_key_in(&keys)) {
            return Err(Answer::Unavailable { why: format!("the keys of the identity provider: {doubt}") });
        }
        token.verified(&keys).map_err(Answer::Refused)
    }

    /// Fetches the keys if it is time to. Whoever has a token with a key that is known goes on with that while somebody else
    /// fetches them: a provider that is slow, and tokens that somebody made up, keep nobody else waiting.
    async fn fetch(&self, provider: &Provider, token: &Token) {
        let has_key = token.has_key_in(&self.known.lock().keys);
        if !self.known.lock().is_worth_a_try(self.refresh, has_key) {
            return;
        }
        let turn = match has_key {
            true => self.fetching.try_lock().ok(),
            false => Some(self.fetching.lock().await),
        };
        let Some(_turn) = turn else { return };
        // Somebody else may have fetched them since.
        let has_key = token.has_key_in(&self.known.lock().keys);
        if self.known.lock().is_worth_a_try(self.refresh, has_key) {
            let fetched = timeout(self.timeout, provider.keys()).await;
            self.known.lock().note(fetched.unwrap_or_else(|_| Err("no answer in time".to_owned())));
        }
    }
}

impl Known {
    fn is_worth_a_try(&self, refresh: Duration, has_key: bool) -> bool {
        let is_stale = self.since.is_none_or(|since| since.elapsed() >= refresh);
        let pause = match self.problem.is_some() && !has_key {
            true => SHORT_PAUSE,
            false => PAUSE,
        };
        let is_soon = self.tried.is_some_and(|tried| tried.elapsed() < pause);
        // A `refresh` shorter than the pause is meant so.
        let is_due = is_stale && self.problem.is_none();
        (is_stale || !has_key) && (is_due || !is_soon)
    }

    /// Why a key that is not among these may be one of the provider's all the same, for a token that came then.
    fn doubt(&self, came: Instant) -> Option<String> {
        let is_older = self.since.is_some_and(|since| since < came);
        let soon =
            || format!("none is the token's, and they were fetched less than {} s ago", PAUSE.as_secs());
        self.problem.clone().or_else(|| is_older.then(soon))
    }

    fn note(&mut self, fetched: Result<Vec<Key>, String>) {
        self.tried = Some(Instant::now());
        match fetched {
            Ok(keys) => {
                (self.keys, self.since, self.problem) = (keys.into(), self.tried, None);
            }
            Err(problem) => {
                tracing::warn!(
                    event = "oauth-keys-not-fetched",
                    why = problem,
                    "the keys of the identity provider"
                );
                self.problem = Some(problem);
            }
        }
    }

    fn forget_after(&mut self, keep: Duration) {
        if self.since.is_some_and(|since| since.elapsed() >= keep) {
            self.keys = Arc::default();
        }
    }

    /// A small file of this machine, and read only when it has changed: not worth a thread.
    fn read(&mut self, path: &Path) {
        let modified = fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        if modified.is_some() && modified == self.modified {
            return;
        }
        let read = fs::read(path).map_err(|error| error.to_string()).and_then(|text| Key::set(&text));
        match read {
            Ok(keys) => (self.keys, self.problem, self.modified) = (keys.into(), None, modified),
            Err(problem) => self.problem = Some(format!("{}: {problem}", path.display())),
        }
    }
}
