//! Something of each login, under a lock of its own.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

/// Bounded by the logins that there are: nobody else gets in, and those that are gone are forgotten, as are those that only
/// other systems know when they are not used (see `Policy::forget_gone_logins`).
#[derive(Debug)]
pub(crate) struct ByLogin<T> {
    entries: RwLock<HashMap<String, Arc<Mutex<T>>>>,
}

impl<T> Default for ByLogin<T> {
    fn default() -> Self {
        Self { entries: RwLock::default() }
    }
}

impl<T: Default> ByLogin<T> {
    /// Looks at what a login has, if it has any.
    pub fn look<R>(&self, login: &str, look: impl FnOnce(&mut T) -> R) -> Option<R> {
        let entry = self.entries.read().get(login).cloned();
        entry.map(|entry| look(&mut entry.lock()))
    }

    /// Changes what a login has.
    pub fn change<R>(&self, login: &str, change: impl FnOnce(&mut T) -> R) -> R {
        let known = self.entries.read().get(login).cloned();
        let entry =
            known.unwrap_or_else(|| self.entries.write().entry(login.to_owned()).or_default().clone());
        let mut entry = entry.lock();
        change(&mut entry)
    }

    /// Puts something in, after a restart.
    pub fn insert(&self, login: String, value: T) {
        self.entries.write().insert(login, Arc::new(Mutex::new(value)));
    }

    /// Forgets all logins that are not so.
    pub fn keep(&self, is_kept: impl Fn(&str) -> bool) {
        self.entries.write().retain(|login, _| is_kept(login));
    }

    /// Of every login, by name; each is locked for a moment.
    pub fn all<R>(&self, look: impl Fn(&str, &T) -> Option<R>) -> Vec<R> {
        let entries: Vec<(String, Arc<Mutex<T>>)> =
            self.entries.read().iter().map(|(login, entry)| (login.clone(), entry.clone())).collect();
        let mut entries = entries;
        entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        entries.iter().filter_map(|(login, entry)| look(login, &entry.lock())).collect()
    }
}
