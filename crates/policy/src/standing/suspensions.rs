//! Logins that may not be used although the file of logins does not say so: the daemon has suspended them by itself, as it does
//! not edit the file, or an operator has locked them and the file has not been taken over yet.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use postern_config::LoginState;
use serde::{Deserialize, Serialize};

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// The login, in lower case.
    pub login: String,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// Why.
    pub why: String,
    /// In which state it is.
    #[serde(default = "suspended")]
    pub state: LoginState,
    /// Whether an operator has locked it; else the server has suspended it by itself.
    #[serde(default)]
    pub by_hand: bool,
}

fn suspended() -> LoginState {
    LoginState::Suspended
}

impl Suspension {
    /// By the server itself, since so many seconds after 1970.
    pub fn by_server(login: &str, since: u64, why: &str) -> Self {
        let (login, why) = (login.to_owned(), why.to_owned());
        Self { login, since, why, state: LoginState::Suspended, by_hand: false }
    }
}

/// All of them, until an operator lifts them. Bounded by the logins of the configuration.
#[derive(Debug, Default)]
pub struct Suspensions {
    table: RwLock<BTreeMap<String, Suspension>>,
    changes: AtomicU64,
}

impl Suspensions {
    /// That of a login.
    pub fn find(&self, login: &str) -> Option<Suspension> {
        let table = self.table.read();
        // Mostly there is none.
        if table.is_empty() { None } else { table.get(login).cloned() }
    }

    /// Suspends a login; whether it was not before.
    pub fn suspend(&self, suspension: Suspension) -> bool {
        let mut table = self.table.write();
        if table.contains_key(&suspension.login) {
            return false;
        }
        table.insert(suspension.login.clone(), suspension);
        self.changes.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Locks a login for an operator, who has the last word about why.
    pub fn lock(&self, suspension: Suspension) {
        self.table.write().insert(suspension.login.clone(), suspension);
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Lifts what an operator has locked: the file of logins says it now.
    pub fn settle(&self, login: &str) {
        let by_hand = self.table.read().get(login).is_some_and(|suspension| suspension.by_hand);
        if by_hand {
            self.lift(login);
        }
    }

    /// Lifts it.
    pub fn lift(&self, login: &str) -> Option<Suspension> {
        let former = self.table.write().remove(login);
        if former.is_some() {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        former
    }

    /// All, by name.
    pub fn list(&self) -> Vec<Suspension> {
        self.table.read().values().cloned().collect()
    }

    /// Grows with every change.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Takes up those from before a restart.
    pub fn restore(&self, suspensions: impl IntoIterator<Item = Suspension>) {
        let mut table = self.table.write();
        table.extend(suspensions.into_iter().map(|suspension| (suspension.login.clone(), suspension)));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn an_operator_has_the_last_word_and_the_file_takes_it_over() {
        let all = Suspensions::default();
        all.suspend(Suspension::by_server("alice", 7, "many senders"));
        all.settle("alice");
        assert!(all.find("alice").is_some(), "the file does not say what the server has found");
        let lock = Suspension { by_hand: true, ..Suspension::by_server("alice", 8, "stolen") };
        all.lock(lock);
        assert_eq!(all.find("alice").unwrap().why, "stolen");
        all.settle("alice");
        assert_eq!(all.find("alice"), None);
    }

    #[test]
    fn a_suspension_of_an_older_release_is_read() {
        let old: Suspension = serde_json::from_str(r#"{"login":"alice","since":7,"why":"x"}"#).unwrap();
        assert_eq!(old, Suspension::by_server("alice", 7, "x"));
    }

    #[test]
    fn a_suspension_holds_until_it_is_lifted() {
        let all = Suspensions::default();
        let suspension = Suspension::by_server("alice", 7, "many senders");
        assert!(all.suspend(suspension.clone()));
        assert!(!all.suspend(Suspension { why: "other".to_owned(), ..suspension.clone() }));
        assert_eq!(all.find("alice").unwrap().why, "many senders");
        let changes = all.changes();
        let again = Suspensions::default();
        again.restore(all.list());
        assert_eq!(again.lift("alice"), Some(suspension));
        assert_eq!((again.find("alice"), again.lift("alice")), (None, None));
        assert_eq!((changes, again.changes()), (1, 1));
    }
}
