//! The keys that the provider signs with: from a file, or fetched and kept for a while.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use postern_config::oauth::OAuth;
use tokio::sync::Mutex;
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
    /// Locked while they are fetched: many logins at once fetch them once.
    known: Mutex<Known>,
}

#[derive(Debug)]
enum Place {
    File(PathBuf),
    Url(Provider),
}

#[derive(Debug, Default)]
struct Known {
    keys: Vec<Key>,
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
        Self { place, refresh, keep, timeout, known: Mutex::default() }
    }

    /// What a token says, if the provider has signed it.
    pub async fn verified(&self, text: &str) -> Result<Claims, Answer> {
        let token = Token::read(text).map_err(Answer::Refused)?;
        let mut known = self.known.lock().await;
        match &self.place {
            Place::File(path) => known.read(path),
            Place::Url(provider) => {
                if known.is_worth_a_try(self.refresh, token.has_key_in(&known.keys)) {
                    let fetched = timeout(self.timeout, provider.keys()).await;
                    known.note(fetched.unwrap_or_else(|_| Err("no answer in time".to_owned())));
                }
                known.forget_after(self.keep.max(self.refresh));
            }
        }
        // A key that is not among old ones may be a new one.
        if let Some(problem) = known.problem.as_ref().filter(|_| !token.has_key_in(&known.keys)) {
            return Err(Answer::Unavailable { why: format!("the keys of the identity provider: {problem}") });
        }
        token.verified(&known.keys).map_err(Answer::Refused)
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

    fn note(&mut self, fetched: Result<Vec<Key>, String>) {
        self.tried = Some(Instant::now());
        match fetched {
            Ok(keys) => {
                (self.keys, self.since, self.problem) = (keys, self.tried, None);
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
            self.keys.clear();
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
            Ok(keys) => (self.keys, self.problem, self.modified) = (keys, None, modified),
            Err(problem) => self.problem = Some(format!("{}: {problem}", path.display())),
        }
    }
}
