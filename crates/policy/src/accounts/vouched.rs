//! Logins that another system has vouched for: `[auth.backend]` or the provider of `[auth.oauth]`. What they may do is said by
//! `accounts.toml` where it names them, and by `auth.unlisted` where it does not.

use std::collections::HashSet;
use std::sync::Arc;

use postern_config::backend::Unlisted;
use postern_config::{Account, Config, Limits, Permission};
use postern_smtp::{Address, Domain};

use super::{Accounts, Login, StoredHash, fold};

/// Who vouches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voucher {
    /// The system of `[auth.backend]`.
    Backend,
    /// The identity provider of `[auth.oauth]`.
    OAuth,
}

/// What the other system has said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vouched {
    /// Who has logged in, as that system writes the name.
    pub name: String,
    /// The addresses that it knows of them, beside the name.
    pub addresses: Vec<String>,
    /// Which system it is.
    pub by: Voucher,
}

/// Which logins beside those of `accounts.toml` are taken.
#[derive(Debug, Default)]
pub(super) struct Rules {
    unlisted: Unlisted,
    /// The `[[domain]]`s: an address elsewhere is no reason to let anybody in, whoever vouches for it.
    domains: HashSet<Domain>,
    limits: Limits,
    vouchers: Vec<Voucher>,
}

impl Rules {
    fn new(config: &Config) -> Self {
        let backend = config.auth.backend.as_ref().map(|_| Voucher::Backend);
        let oauth = config.auth.oauth.as_ref().map(|_| Voucher::OAuth);
        Self {
            unlisted: config.auth.unlisted,
            domains: config.domains.iter().map(|domain| domain.name.clone()).collect(),
            limits: config.auth.limits,
            vouchers: backend.into_iter().chain(oauth).collect(),
        }
    }

    fn is_ours(&self, address: &str) -> bool {
        let address = Address::parse(address).ok();
        address
            .and_then(|address| address.domain().cloned())
            .is_some_and(|domain| self.domains.contains(&domain))
    }

    /// The login as if it stood in the file of logins, with what it is given without.
    fn account(&self, name: String, addresses: &[String]) -> Result<Account, String> {
        let permission = match self.unlisted {
            Unlisted::Refuse => {
                return Err("accounts.toml does not name it, and auth.unlisted is \"refuse\"".to_owned());
            }
            Unlisted::OwnAddress => Permission::Listed,
            Unlisted::Local => Permission::Local,
        };
        // Only whole addresses: what another system says is never read as "@domain" or "*".
        let send_as: Vec<String> =
            addresses.iter().filter(|address| self.is_ours(address)).cloned().collect();
        if !self.is_ours(&name) && send_as.is_empty() {
            return Err("it has no address in a [[domain]], and accounts.toml does not name it".to_owned());
        }
        Ok(Account { permission, send_as, ..Account::named(name) })
    }
}

impl Accounts {
    /// The logins of a configuration, and which others are taken.
    pub fn of(config: &Config) -> Self {
        Self { vouched: Rules::new(config), ..Self::new(&config.accounts, config.auth.limits) }
    }

    /// The login that another system has vouched for, with its rights here.
    ///
    /// # Errors
    /// Why it is none here, for the log.
    pub fn vouched(&self, vouched: Vouched) -> Result<Login, String> {
        let name = fold(&vouched.name);
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err("the other system names nobody".to_owned());
        }
        if !folds_to_itself_alone(&vouched.name) {
            return Err(format!(
                "the other system tells {:?} and {name:?} apart, and here they are one",
                vouched.name
            ));
        }
        if vouched.by == Voucher::Backend && self.keeps_password(&name) {
            return Err("accounts.toml has the password of this login, whatever the back end says".to_owned());
        }
        let login = match self.login(&name) {
            Some(login) => login,
            None => Login::new(&self.vouched.account(name, &vouched.addresses)?, self.vouched.limits),
        };
        Ok(Login { vouched: Some(Arc::new(vouched)), ..login })
    }

    /// What a login of this name would be here if another system vouched for it, and told nothing beside the name; for an
    /// explanation. `None`: no other system is asked.
    pub fn if_vouched(&self, name: &str) -> Option<(Voucher, Result<Login, String>)> {
        let by = *self.vouched.vouchers.first()?;
        let vouched = Vouched { name: fold(name), addresses: Vec::new(), by };
        Some((by, self.vouched(vouched)))
    }

    /// The login of an open session as it is now; `None` where nobody vouches any more, or it has no rights.
    pub(super) fn vouched_again(&self, vouched: &Arc<Vouched>) -> Option<Login> {
        let is_asked = self.vouched.vouchers.contains(&vouched.by);
        is_asked.then(|| self.vouched(Vouched::clone(vouched)).ok()).flatten()
    }

    /// Whether the file of logins has a password of this name: then no other system is asked.
    pub fn keeps_password(&self, name: &str) -> bool {
        self.entries.get(&fold(name)).is_some_and(|entry| entry.secret.is_some())
    }

    /// Whether logins are taken that the file does not name.
    pub fn takes_unlisted(&self) -> bool {
        self.vouched.unlisted != Unlisted::Refuse && !self.vouched.vouchers.is_empty()
    }

    /// Compares a password with a hash that another system keeps; `None`, or one that cannot be read, is no login, and takes the
    /// time of one. Takes as long as [`Accounts::verify`].
    pub fn fits_hash(&self, hash: Option<&str>, password: &[u8]) -> bool {
        let known = hash.and_then(StoredHash::parse);
        let fits =
            known.as_ref().or(self.decoy.as_ref()).is_some_and(|hash| hash.fits(password, &self.scratch));
        fits && known.is_some()
    }
}

/// Whether a name of another system is the same here but for the case of its letters. Blanks around it, and characters such as the Kelvin
/// sign, which is a `k` in lower case, would make one login of what are two there.
fn folds_to_itself_alone(name: &str) -> bool {
    let becomes_ascii =
        |character: char| !character.is_ascii() && character.to_lowercase().any(|folded| folded.is_ascii());
    name.trim() == name && !name.chars().any(becomes_ascii)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::SystemTime;

    use postern_config::account::AccountsFile;
    use postern_smtp::Address;

    use super::*;
    use crate::Policy;
    use crate::sender::{Right, right};

    fn policy(auth: &str) -> Policy {
        let text =
            format!("hostname = \"mail.proseware.test\"\n[[domain]]\nname = \"proseware.test\"\n{auth}");
        let mut config: Config = toml::from_str(&text).unwrap();
        let accounts = "[[account]]\nname = \"alice\"\npassword = \"\"\nsend_as = [\"sales@adatum.test\"]\n\
                        state = \"suspended\"\n";
        config.accounts = toml::from_str::<AccountsFile>(accounts).unwrap().accounts;
        Policy::new(&config)
    }

    const DOVECOT: &str = "[auth.backend.dovecot]\naddress = \"/run/auth\"\n";

    fn vouched(name: &str, addresses: &[&str]) -> Vouched {
        let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
        Vouched { name: name.to_owned(), addresses, by: Voucher::Backend }
    }

    #[test]
    fn the_file_says_what_a_login_may_do_that_it_names() {
        let policy = policy(DOVECOT);
        let login = policy.accounts.vouched(vouched("Alice", &["root@proseware.test"])).unwrap();
        assert_eq!(
            (login.name.as_str(), login.access.state),
            ("alice", postern_config::LoginState::Suspended)
        );
        let may =
            |address: &str| right(&login, &Address::parse(address).unwrap(), &policy.directory).is_held();
        assert!(may("sales@adatum.test") && !may("root@proseware.test"));
    }

    #[test]
    fn a_login_that_it_does_not_name_sends_as_itself() {
        let policy = policy(DOVECOT);
        let asked =
            vouched("Bob@Proseware.test", &["b@proseware.test", "bob@adatum.test", "*", "@proseware.test"]);
        let login = policy.accounts.vouched(asked).unwrap();
        for (address, held) in [
            ("bob@proseware.test", true),
            ("b@proseware.test", true),
            ("carl@proseware.test", false),
            ("bob@adatum.test", false),
        ] {
            let right = right(&login, &Address::parse(address).unwrap(), &policy.directory);
            assert_eq!(right.is_held(), held, "{address}");
            assert_ne!(right, Right::Any);
        }
        for (name, addresses) in [
            ("bob@adatum.test", &[][..]),
            ("bob", &[]),
            ("bob", &["bob@adatum.test"]),
            ("", &["b@proseware.test"]),
        ] {
            assert!(policy.accounts.vouched(vouched(name, addresses)).is_err(), "{name} {addresses:?}");
        }
    }

    #[test]
    fn unlisted_logins_are_refused_or_given_more_where_that_is_said() {
        let bob = || vouched("bob@proseware.test", &[]);
        let strict = policy(&format!("[auth]\nunlisted = \"refuse\"\n{DOVECOT}"));
        assert!(strict.accounts.vouched(bob()).unwrap_err().contains("auth.unlisted"));
        assert!(strict.accounts.vouched(vouched("alice", &[])).is_ok());
        let wide = policy(&format!("[auth]\nunlisted = \"local\"\n{DOVECOT}"));
        let carl = Address::parse("carl@proseware.test").unwrap();
        let login = wide.accounts.vouched(bob()).unwrap();
        assert_eq!(right(&login, &carl, &wide.directory), Right::Local);
    }

    #[test]
    fn a_session_ends_with_the_system_that_vouched() {
        let (with, without) = (policy(DOVECOT), policy(""));
        let login = with.accounts.vouched(vouched("bob@proseware.test", &[])).unwrap();
        let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let renewed = with.accounts.renew(&login, client, SystemTime::UNIX_EPOCH);
        assert_eq!(renewed, Some(login.clone()));
        assert_eq!(without.accounts.renew(&login, client, SystemTime::UNIX_EPOCH), None);
    }

    #[test]
    fn a_back_end_opens_no_login_whose_password_the_file_keeps() {
        let mut config: Config = toml::from_str(&format!(
            "hostname = \"mail.proseware.test\"\n[[domain]]\nname = \"proseware.test\"\n{DOVECOT}"
        ))
        .unwrap();
        let before = Policy::new(&config);
        let session = before.accounts.vouched(vouched("alice@proseware.test", &[])).unwrap();
        let password = super::super::hash_password(b"right").unwrap();
        config.accounts = vec![Account { password, ..Account::named("alice@proseware.test".to_owned()) }];
        let accounts = &Policy::new(&config).accounts;
        // Another name was typed, and the back end answers with hers.
        let refused = accounts.vouched(vouched("Alice@proseware.test", &["a.smith@proseware.test"]));
        assert!(refused.unwrap_err().contains("accounts.toml has the password"));
        let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(accounts.renew(&session, client, SystemTime::UNIX_EPOCH), None, "an open session ends");
        // A token is another way in beside the password.
        let token = Vouched { by: Voucher::OAuth, ..vouched("alice@proseware.test", &[]) };
        assert!(accounts.vouched(token).is_ok());
    }

    #[test]
    fn names_that_other_systems_tell_apart_are_not_made_one() {
        let policy = policy(DOVECOT);
        for name in [" carl@proseware.test", "carl@proseware.test\u{a0}", "\u{212a}arl@proseware.test"] {
            let refused = policy.accounts.vouched(vouched(name, &[])).unwrap_err();
            assert!(refused.contains("here they are one"), "{name:?}: {refused}");
        }
        for name in ["CARL@proseware.test", "J\u{d6}RG@proseware.test"] {
            let taken = policy.accounts.vouched(vouched(name, &["carl@proseware.test"])).unwrap();
            assert_eq!(taken.name, name.to_lowercase());
        }
    }

    #[test]
    fn a_hash_that_is_not_there_fits_nothing() {
        let policy = policy(DOVECOT);
        let hash = super::super::hash_password(b"right").unwrap();
        assert!(policy.accounts.fits_hash(Some(&hash), b"right"));
        assert!(!policy.accounts.fits_hash(Some(&hash), b"wrong"));
        assert!(!policy.accounts.fits_hash(Some("plain"), b"plain"));
        assert!(!policy.accounts.fits_hash(None, b""));
    }
}
