//! Logins and their passwords.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use argon2::password_hash::phc::{Output, PasswordHash};
use argon2::{Algorithm, Argon2, Block, Params, PasswordHasher, Version};
use parking_lot::Mutex;
use postern_config::{Account, Permission};

use crate::sender::Grants;

/// KiB of memory for one hash; with the two below what OWASP gives for argon2id.
const MEMORY: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// The logins, ready to be asked.
#[derive(Debug)]
pub struct Accounts {
    /// By the name in lower case.
    entries: HashMap<String, Entry>,
    /// What a password is hashed against when nobody of that name may log in.
    decoy: Option<PasswordHash>,
    scratch: Scratch,
}

/// The memory of password checks, kept from one to the next: as many pieces as there were checks at once. Handed back to
/// the allocator after each check it would stay behind with every thread that ever made one.
#[derive(Default)]
struct Scratch(Mutex<Vec<Vec<Block>>>);

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Entry {
    login: Login,
    /// `None` is a hash that cannot be read: nobody can log in.
    hash: Option<PasswordHash>,
    enabled: bool,
}

/// Somebody who has proved who they are, and what they may send as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The name, in lower case.
    pub name: String,
    /// Which senders.
    pub permission: Permission,
    /// Of any domain, only those whose SPF record covers this server.
    pub any_if_spf: bool,
    /// What it was granted by name.
    pub grants: Arc<Grants>,
}

impl Accounts {
    /// Compiles the list.
    pub fn new(accounts: &[Account]) -> Self {
        let entries: HashMap<String, Entry> = accounts
            .iter()
            .map(|account| {
                let hash = PasswordHash::new(&account.password).ok();
                (fold(&account.name), Entry { login: Login::new(account), hash, enabled: account.enabled })
            })
            .collect();
        let decoy = decoy(entries.values().filter_map(|entry| entry.hash.as_ref()));
        Self { entries, decoy, scratch: Scratch::default() }
    }

    /// Checks a password. Takes some 30 ms of processor time, so call it off the event loop. An unknown or disabled
    /// login costs the same time as a wrong password and is answered the same way.
    pub fn verify(&self, name: &str, password: &[u8]) -> Option<Login> {
        let entry = self.entries.get(&fold(name)).filter(|entry| entry.enabled);
        let known = entry.and_then(|entry| entry.hash.as_ref());
        let hash = known.or(self.decoy.as_ref())?;
        // Looked at only after the work: whether the login exists must not show in the time.
        let right = self.scratch.fits(password, hash).unwrap_or(false);
        (right && known.is_some()).then(|| entry.map(|entry| entry.login.clone()))?
    }

    /// What the login of this name may do now, where it has shown its password before. `None`: it is disabled or gone.
    pub fn enabled(&self, name: &str) -> Option<Login> {
        let entry = self.entries.get(&fold(name)).filter(|entry| entry.enabled);
        entry.map(|entry| entry.login.clone())
    }

    /// What the login of this name may do, enabled or not, without a password: for explanations.
    pub fn login(&self, name: &str) -> Option<Login> {
        self.entries.get(&fold(name)).map(|entry| entry.login.clone())
    }
}

impl Scratch {
    /// Whether the password has this hash. `None`: a hash that this program cannot compute.
    fn fits(&self, password: &[u8], hash: &PasswordHash) -> Option<bool> {
        let algorithm = Algorithm::try_from(hash.algorithm.as_str()).ok()?;
        let version = hash.version.map_or(Ok(Version::default()), Version::try_from).ok()?;
        let params = Params::try_from(hash).ok()?;
        let (salt, expected) = (hash.salt.as_ref()?, hash.hash.as_ref()?);
        let blocks = params.block_count();
        let mut memory = self.0.lock().pop().unwrap_or_default();
        memory.try_reserve(blocks.saturating_sub(memory.len())).ok()?;
        memory.resize(blocks.max(memory.len()), Block::new());
        let mut found = vec![0; expected.len()];
        let argon2 = Argon2::new(algorithm, version, params);
        let computed =
            argon2.hash_password_into_with_memory(password, salt, &mut found, &mut memory[..blocks]);
        self.0.lock().push(memory);
        // Outputs are compared in constant time.
        computed.ok().and_then(|()| Output::new(&found).ok()).map(|found| found == *expected)
    }
}

impl Login {
    fn new(account: &Account) -> Self {
        let is_any = account.send_as.iter().any(|grant| grant == "*");
        Self {
            name: fold(&account.name),
            permission: if is_any { Permission::Any } else { account.permission },
            any_if_spf: account.any_if_spf,
            grants: Arc::new(Grants::new(account)),
        }
    }
}

/// The argon2id hash of a password in PHC form, for `accounts.toml`.
///
/// # Errors
/// When the system has no random numbers.
pub fn hash_password(password: &[u8]) -> Result<String, String> {
    let params = Params::new(MEMORY, PASSES, LANES, None).map_err(|e| e.to_string())?;
    let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    hasher.hash_password(password).map(|hash: PasswordHash| hash.to_string()).map_err(|e| e.to_string())
}

fn fold(name: &str) -> String {
    name.trim().to_lowercase()
}

/// A hash of no password, with the parameters that most logins have: so unknown names take as long as known ones.
fn decoy<'a>(hashes: impl Iterator<Item = &'a PasswordHash>) -> Option<PasswordHash> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    for hash in hashes {
        *counts.entry(hash.params.to_string()).or_default() += 1;
    }
    let usual = counts.into_iter().max_by_key(|(_, count)| *count).map(|(params, _)| params);
    let params = usual.unwrap_or_else(|| format!("m={MEMORY},t={PASSES},p={LANES}"));
    let zeros = "A".repeat(43); // 32 octets in base 64
    PasswordHash::new(&format!("$argon2id$v=19${params}$AAAAAAAAAAAAAAAAAAAAAA${zeros}")).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::time::Instant;

    use super::*;

    fn account(name: &str, password: &str, enabled: bool) -> Account {
        Account {
            name: name.to_owned(),
            password: password.to_owned(),
            permission: Permission::Listed,
            domains: Vec::new(),
            send_as: Vec::new(),
            any_if_spf: false,
            enabled,
        }
    }

    #[test]
    fn only_the_right_password_of_an_enabled_login_is_taken() {
        let hash = hash_password(b"right").unwrap();
        let accounts = Accounts::new(&[
            account("Alice@proseware.test", &hash, true),
            account("bob@proseware.test", &hash, false),
            account("broken@proseware.test", "x", true),
        ]);
        assert_eq!(accounts.verify("alice@PROSEWARE.test", b"right").unwrap().name, "alice@proseware.test");
        assert!(accounts.enabled("alice@proseware.test").is_some());
        assert!(accounts.enabled("bob@proseware.test").is_none());
        for (name, password) in [
            ("alice@proseware.test", "wrong"),
            ("alice@proseware.test", ""),
            ("bob@proseware.test", "right"),
            ("broken@proseware.test", "right"),
            ("nobody@proseware.test", "right"),
            ("", ""),
        ] {
            assert_eq!(accounts.verify(name, password.as_bytes()), None, "{name} {password}");
        }
    }

    #[test]
    fn checks_use_the_memory_of_those_before_them() {
        let accounts =
            Accounts::new(&[account("alice@proseware.test", &hash_password(b"right").unwrap(), true)]);
        for password in ["right", "wrong", "right"] {
            accounts.verify("alice@proseware.test", password.as_bytes());
            assert_eq!(accounts.scratch.0.lock().len(), 1);
        }
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| assert!(accounts.verify("alice@proseware.test", b"right").is_some()));
            }
        });
        assert!(accounts.scratch.0.lock().len() <= 3);
    }

    #[test]
    fn hashes_carry_the_parameters_we_promise() {
        let hash = hash_password(b"secret").unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_ne!(hash, hash_password(b"secret").unwrap());
    }

    #[test]
    fn unknown_logins_cost_the_time_of_known_ones() {
        // Three times the usual memory, so that a decoy with other parameters would show.
        let costly =
            Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(3 * MEMORY, 2, 1, None).unwrap());
        let hash: PasswordHash = costly.hash_password(b"right").unwrap();
        let accounts = Accounts::new(&[account("alice", &hash.to_string(), true)]);
        let time = |name: &str| {
            let samples = (0..5).map(|_| {
                let start = Instant::now();
                assert_eq!(accounts.verify(name, b"wrong"), None);
                start.elapsed()
            });
            samples.min().unwrap().as_secs_f64()
        };
        assert_eq!(accounts.decoy.as_ref().unwrap().params, hash.params);
        // Generous: other programs run meanwhile. A look-up without hashing would be thousands of times faster.
        let ratio = time("nobody") / time("alice");
        assert!(ratio > 0.5, "{ratio}");
    }

    #[test]
    fn nobody_can_log_in_without_accounts() {
        assert_eq!(Accounts::new(&[]).verify("alice", b""), None);
    }
}
