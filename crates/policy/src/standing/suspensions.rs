//! Logins that the daemon has suspended by itself: it does not edit the file of logins.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
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
    fn a_suspension_holds_until_it_is_lifted() {
        let all = Suspensions::default();
        let suspension = Suspension { login: "alice".to_owned(), since: 7, why: "many senders".to_owned() };
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
