//! Logins and their passwords.

mod certificates;
mod hash;
mod scram;
mod vouched;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, Version};
use ipnet::IpNet;
use postern_config::account::ListedCertificate;
use postern_config::auth::AppPassword;
use postern_config::scram::ScramHash;
use postern_config::{Account, Limits, LoginState, Permission};
use postern_smtp::date::rfc3339;

use crate::sender::Grants;

use hash::{Scratch, StoredHash};

pub use scram::ScramLogin;
pub use vouched::{Vouched, Voucher};

/// KiB of memory for one hash; with the two below what OWASP gives for argon2id.
const MEMORY: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// The logins, ready to be asked.
#[derive(Debug)]
pub struct Accounts {
    /// By the name in lower case.
    entries: HashMap<String, Entry>,
    /// Those that have a password, in order: who stands in for a name that nobody has is one of them.
    stand_ins: Vec<String>,
    /// Makes it unforeseeable who stands in for whom, and the same after a restart.
    pepper: String,
    /// What a password is hashed against when nobody at all may log in.
    decoy: Option<StoredHash>,
    certificates: certificates::Listed,
    scram_sha1: scram::Verifiers,
    scram_sha256: scram::Verifiers,
    vouched: vouched::Rules,
    scratch: Scratch,
}

#[derive(Debug)]
struct Entry {
    login: Login,
    /// `None` is a hash that cannot be read: nobody can log in with it.
    secret: Option<Secret>,
    /// SCRAM verifiers and listed certificates.
    others: Vec<Proof>,
    apps: Vec<App>,
}

/// The hash of a password.
#[derive(Debug)]
struct Secret {
    hash: StoredHash,
    proof: Proof,
}

/// By what a login was proved (a password, a SCRAM verifier, a certificate), without it: a session that is open ends with what
/// opened it. Hashes have a salt, so that two passwords that are the same are told apart, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof(u64);

impl Proof {
    /// That of a text in the file of logins.
    fn of(text: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// An app password.
#[derive(Debug)]
struct App {
    label: String,
    secret: Option<Secret>,
    networks: Vec<IpNet>,
    end: Option<SystemTime>,
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
    /// Whether, from where, and for how much it may be used.
    pub access: Arc<Access>,
    /// By what it was proved; none where nobody has proved it: in a question that is not of a session.
    pub proof: Option<Proof>,
    /// What another system has said, where that has proved it.
    pub vouched: Option<Arc<Vouched>>,
}

/// Whether, from where, and for how much a login may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// As the configuration has it; the daemon may have suspended it beside that.
    pub state: LoginState,
    /// Why it is in that state.
    pub why: Option<String>,
    /// The only networks; empty: everywhere.
    pub networks: Vec<IpNet>,
    /// How much it may send; 0 is no limit.
    pub limits: Limits,
}

/// What a password is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verified {
    /// It is the login's.
    Right {
        /// Whose.
        login: Login,
        /// The label of the app password, where it is one.
        app: Option<String>,
    },
    /// It is an app password of the login that cannot be used now, or not from here. The client is told what it would be
    /// told of a wrong one.
    Unusable {
        /// Whose.
        login: Login,
        /// The label of the app password.
        app: String,
        /// Why, for the log.
        why: String,
    },
    /// It is not, or nobody has that name.
    Wrong,
}

impl Accounts {
    /// Compiles the list. `limits` hold for logins that have none of their own.
    pub fn new(accounts: &[Account], limits: Limits) -> Self {
        let entries: HashMap<String, Entry> =
            accounts.iter().map(|account| (fold(&account.name), Entry::new(account, limits))).collect();
        let mut stand_ins: Vec<String> = entries
            .iter()
            .filter(|(_, entry)| entry.secret.is_some())
            .map(|(name, _)| name.clone())
            .collect();
        stand_ins.sort_unstable();
        let first = accounts.iter().filter(|account| stand_ins.first() == Some(&fold(&account.name)));
        let pepper = first.map(|account| account.password.clone()).collect();
        Self {
            stand_ins,
            pepper,
            decoy: decoy(),
            certificates: certificates::Listed::new(accounts),
            scram_sha1: scram::Verifiers::new(accounts, ScramHash::Sha1),
            scram_sha256: scram::Verifiers::new(accounts, ScramHash::Sha256),
            entries,
            vouched: vouched::Rules::default(),
            scratch: Scratch::default(),
        }
    }

    /// Checks a password. Takes some 30 ms of processor time for each password of the login, hashes of other systems up to
    /// seconds, so call it off the event loop.
    /// An unknown login costs the time of one that exists, and its app passwords, and is answered the same way.
    pub fn verify(&self, name: &str, password: &[u8], client: IpAddr, now: SystemTime) -> Verified {
        let known = self.entries.get(&fold(name)).filter(|entry| entry.secret.is_some());
        let Some(entry) = known.or_else(|| self.stand_in(&fold(name))) else {
            // Nobody can log in, and that must not show in the time.
            let _ = self.decoy.as_ref().map(|hash| hash.fits(password, &self.scratch));
            return Verified::Wrong;
        };
        let fits = |secret: &Option<Secret>| {
            let secret = secret.as_ref()?;
            secret.hash.fits(password, &self.scratch).then_some(secret.proof)
        };
        // Looked at only after the work: whether the login exists must not show in the time.
        let found = match fits(&entry.secret) {
            Some(proof) => Some((None, proof)),
            None => entry.apps.iter().find_map(|app| Some((Some(app), fits(&app.secret)?))),
        };
        let (Some((found, proof)), Some(_)) = (found, known) else { return Verified::Wrong };
        let login = Login { proof: Some(proof), ..entry.login.clone() };
        match found.map(|app| (app.label.clone(), app.problem(client, now))) {
            None => Verified::Right { login, app: None },
            Some((label, None)) => Verified::Right { login, app: Some(label) },
            Some((label, Some(why))) => Verified::Unusable { login, app: label, why },
        }
    }

    /// Whose passwords are tried for a name that nobody has: always the same ones, so that the time a name takes does not tell
    /// whether it exists.
    fn stand_in(&self, name: &str) -> Option<&Entry> {
        let mut hasher = DefaultHasher::new();
        (&self.pepper, name).hash(&mut hasher);
        let count = self.stand_ins.len() as u64;
        let at = hasher.finish().checked_rem(count)?;
        self.stand_ins.get(at as usize).and_then(|name| self.entries.get(name))
    }

    /// What the login of this name may do, without a password: it was shown before, or it is about an explanation. `None`: there
    /// is no such login.
    pub fn login(&self, name: &str) -> Option<Login> {
        self.entries.get(&fold(name)).map(|entry| entry.login.clone())
    }

    /// The login of an open session as it is now. `None`: it is gone, or the password that was shown for it counts no more: it
    /// was changed or taken back, its time is over, or it may no longer be used from here.
    pub fn renew(&self, login: &Login, client: IpAddr, now: SystemTime) -> Option<Login> {
        if let Some(vouched) = &login.vouched {
            return self.vouched_again(vouched);
        }
        let entry = self.entries.get(&login.name)?;
        let holds = login.proof.is_none_or(|proof| entry.takes(proof, client, now));
        holds.then(|| Login { proof: login.proof, ..entry.login.clone() })
    }

    /// How many logins there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl Entry {
    fn new(account: &Account, limits: Limits) -> Self {
        let app = |app: &AppPassword| App {
            label: app.label.clone(),
            secret: Secret::new(&app.password),
            networks: app.networks.clone(),
            end: app.end(),
        };
        Self {
            login: Login::new(account, limits),
            secret: Secret::new(&account.password),
            others: others(account),
            apps: account.app_passwords.iter().map(app).collect(),
        }
    }

    /// Whether the password that was shown is one of the login still, and may be used now and from here.
    fn takes(&self, proof: Proof, client: IpAddr, now: SystemTime) -> bool {
        let is_it = |secret: &Option<Secret>| secret.as_ref().is_some_and(|secret| secret.proof == proof);
        is_it(&self.secret)
            || self.others.contains(&proof)
            || self.apps.iter().any(|app| is_it(&app.secret) && app.problem(client, now).is_none())
    }
}

impl Secret {
    fn new(text: &str) -> Option<Self> {
        Some(Self { hash: StoredHash::parse(text)?, proof: Proof::of(text) })
    }
}

/// What proves a login beside its passwords.
fn others(account: &Account) -> Vec<Proof> {
    let verifiers = [&account.scram, &account.scram_sha1].into_iter().flatten();
    let verifiers = verifiers.map(|verifier| Proof::of(&verifier.to_string()));
    let certificates = account.certificates.iter().filter_map(|text| ListedCertificate::parse(text));
    verifiers.chain(certificates.map(|listed| Proof::of(listed.as_str()))).collect()
}

impl App {
    /// Why it cannot be used now and from here, if so.
    fn problem(&self, client: IpAddr, now: SystemTime) -> Option<String> {
        if let Some(end) = self.end.filter(|end| *end <= now) {
            return Some(format!("the app password {:?} expired at {}", self.label, rfc3339(end)));
        }
        let outside = !holds(&self.networks, client);
        outside.then(|| {
            format!("the app password {:?} may not be used from {}", self.label, client.to_canonical())
        })
    }
}

/// Whether an address is in one of the networks, or there are none.
pub(crate) fn holds(networks: &[IpNet], client: IpAddr) -> bool {
    let client = client.to_canonical();
    networks.is_empty() || networks.iter().any(|network| network.contains(&client))
}

impl Login {
    fn new(account: &Account, limits: Limits) -> Self {
        let is_any = account.send_as.iter().any(|grant| grant == "*");
        Self {
            name: fold(&account.name),
            permission: if is_any { Permission::Any } else { account.permission },
            any_if_spf: account.any_if_spf,
            grants: Arc::new(Grants::new(account)),
            access: Arc::new(Access {
                state: account.state,
                why: account.state_reason.clone(),
                networks: account.networks.clone(),
                limits: account.limits.over(limits),
            }),
            proof: None,
            vouched: None,
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

/// A name as names of logins are compared: without blanks around it, and in lower case.
pub fn fold(name: &str) -> String {
    name.trim().to_lowercase()
}

/// A hash of no password, with the parameters that are usual here.
fn decoy() -> Option<StoredHash> {
    let zeros = "A".repeat(43); // 32 octets in base 64
    let params = format!("m={MEMORY},t={PASSES},p={LANES}");
    StoredHash::parse(&format!("$argon2id$v=19${params}$AAAAAAAAAAAAAAAAAAAAAA${zeros}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn account(name: &str, password: &str) -> Account {
        Account { password: password.to_owned(), ..Account::named(name.to_owned()) }
    }

    fn accounts(list: &[Account]) -> Accounts {
        Accounts::new(list, Limits::default())
    }

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn client() -> IpAddr {
        IpAddr::from([198, 51, 100, 9])
    }

    impl Accounts {
        fn takes(&self, name: &str, password: &str) -> Option<Login> {
            match self.verify(name, password.as_bytes(), client(), NOW) {
                Verified::Right { login, .. } => Some(login),
                _ => None,
            }
        }
    }

    #[test]
    fn only_the_right_password_of_a_login_is_taken() {
        let hash = hash_password(b"right").unwrap();
        let accounts =
            accounts(&[account("Alice@proseware.test", &hash), account("broken@proseware.test", "x")]);
        assert_eq!(accounts.takes("alice@PROSEWARE.test", "right").unwrap().name, "alice@proseware.test");
        for (name, password) in [
            ("alice@proseware.test", "wrong"),
            ("alice@proseware.test", ""),
            ("broken@proseware.test", "right"),
            ("nobody@proseware.test", "right"),
            ("", ""),
        ] {
            assert_eq!(accounts.takes(name, password), None, "{name} {password}");
        }
    }

    #[test]
    fn an_app_password_is_taken_from_its_networks_and_until_its_end() {
        let mut alice = account("alice", &hash_password(b"right").unwrap());
        let app = |label: &str, networks: &[&str], expires: Option<&str>| AppPassword {
            label: label.to_owned(),
            password: hash_password(label.as_bytes()).unwrap(),
            networks: networks.iter().map(|network| network.parse().unwrap()).collect(),
            expires: expires.map(str::to_owned),
        };
        alice.app_passwords = vec![
            app("phone", &[], None),
            app("scanner", &["192.0.2.0/24"], None),
            app("guest", &[], Some("1970-01-02")),
        ];
        let accounts = accounts(&[alice]);
        let verify = |password: &str, client: &str, now| match accounts.verify(
            "alice",
            password.as_bytes(),
            client.parse().unwrap(),
            now,
        ) {
            Verified::Right { app, .. } => format!("right {}", app.unwrap_or_default()),
            Verified::Unusable { why, .. } => why,
            Verified::Wrong => "wrong".to_owned(),
        };
        assert_eq!(verify("right", "198.51.100.9", NOW), "right ");
        assert_eq!(verify("phone", "198.51.100.9", NOW), "right phone");
        assert_eq!(verify("scanner", "::ffff:192.0.2.7", NOW), "right scanner");
        assert!(verify("scanner", "198.51.100.9", NOW).contains("not be used from 198.51.100.9"));
        assert_eq!(verify("guest", "198.51.100.9", NOW), "right guest");
        let later = NOW + std::time::Duration::from_secs(2 * 86_400);
        assert!(verify("guest", "198.51.100.9", later).contains("expired at 1970-01-03"));
        assert_eq!(verify("other", "198.51.100.9", NOW), "wrong");
    }

    #[test]
    fn a_session_ends_with_the_password_that_opened_it() {
        let mut before = account("alice", &hash_password(b"right").unwrap());
        let phone = AppPassword {
            label: "phone".to_owned(),
            password: hash_password(b"phone").unwrap(),
            networks: Vec::new(),
            expires: Some("1970-01-02".to_owned()),
        };
        before.app_passwords = vec![phone.clone()];
        let now = accounts(std::slice::from_ref(&before));
        let [main, app] = ["right", "phone"].map(|password| now.takes("alice", password).unwrap());
        let stays = |accounts: &Accounts, login: &Login| accounts.renew(login, client(), NOW).is_some();
        assert!(stays(&now, &main) && stays(&now, &app));
        assert_eq!(now.renew(&app, client(), NOW).unwrap().proof, app.proof);
        let later = NOW + std::time::Duration::from_secs(2 * 86_400);
        assert!(now.renew(&app, client(), later).is_none() && now.renew(&main, client(), later).is_some());

        let misplaced = AppPassword { networks: vec!["192.0.2.0/24".parse().unwrap()], ..phone };
        let misplaced = Account { app_passwords: vec![misplaced], ..before.clone() };
        let taken_back = Account { app_passwords: Vec::new(), ..before.clone() };
        for after in [misplaced, taken_back] {
            let after = accounts(&[after]);
            assert!(stays(&after, &main) && !stays(&after, &app));
        }
        // The same password hashed anew is another one: that is how it is changed.
        let changed = accounts(&[Account { password: hash_password(b"right").unwrap(), ..before }]);
        assert!(!stays(&changed, &main) && stays(&changed, &app));
        assert!(!stays(&accounts(&[]), &main));
    }

    #[test]
    fn checks_use_the_memory_of_those_before_them() {
        let accounts = accounts(&[account("alice@proseware.test", &hash_password(b"right").unwrap())]);
        for password in ["right", "wrong", "right"] {
            accounts.takes("alice@proseware.test", password);
            assert_eq!(accounts.scratch.0.lock().len(), 1);
        }
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| assert!(accounts.takes("alice@proseware.test", "right").is_some()));
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
    fn unknown_logins_cost_the_work_of_known_ones() {
        // The password takes more memory than the app password, whose check comes after it: both leave their traces.
        let hash = |memory| {
            let params = Params::new(memory, 1, 1, None).unwrap();
            let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
            let hash: PasswordHash = argon2.hash_password(b"right").unwrap();
            hash.to_string()
        };
        let mut alice = account("alice", &hash(64));
        alice.app_passwords = vec![AppPassword {
            label: "phone".to_owned(),
            password: hash(32),
            networks: Vec::new(),
            expires: None,
        }];
        let traces = |name: &str| {
            let accounts = accounts(std::slice::from_ref(&alice));
            assert_eq!(accounts.takes(name, "wrong"), None);
            let memory = accounts.scratch.0.lock().pop().unwrap();
            memory.iter().flat_map(|block| block.as_ref().to_vec()).collect::<Vec<u64>>()
        };
        let (unknown, known) = (traces("nobody"), traces("alice"));
        assert_eq!(unknown.len(), 64 * 128, "64 KiB in words");
        assert!(unknown == known, "other work was done");
        let is_used = |memory: &[u64]| memory.iter().any(|word| *word != 0);
        assert!(is_used(&unknown[..32 * 128]) && is_used(&unknown[32 * 128..]));
    }

    #[test]
    fn a_name_that_nobody_has_always_has_the_same_stand_in() {
        let list: Vec<Account> =
            (0..8).map(|n| account(&format!("user{n}"), &hash_password(b"right").unwrap())).collect();
        let (before, after) = (accounts(&list), accounts(&list));
        let stand_in = |accounts: &Accounts, n: usize| {
            accounts.stand_in(&format!("nobody{n}")).unwrap().login.name.clone()
        };
        let names: Vec<String> = (0..40).map(|n| stand_in(&before, n)).collect();
        assert_eq!(names, (0..40).map(|n| stand_in(&after, n)).collect::<Vec<_>>());
        assert!(names.iter().any(|name| *name != names[0]));
    }

    #[test]
    fn nobody_can_log_in_without_accounts() {
        assert_eq!(accounts(&[]).takes("alice", ""), None);
    }
}
