//! Logins that prove their password without sending it: whose verifier it is, or one made up for a name that has none.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use postern_config::Account;
use postern_config::scram::{ScramHash, Verifier};

use super::{Accounts, Login, Proof, fold};
use crate::scram;
use crate::standing::secret::Secret;

/// The verifiers of all logins for one hash.
#[derive(Debug, Default)]
pub(super) struct Verifiers {
    by_name: HashMap<String, Verifier>,
    /// In order: a name without a verifier is asked as one of them would be.
    names: Vec<String>,
    /// Some login cannot use the mechanism although it has a password.
    keeps_out: bool,
}

/// What a name is to prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScramLogin {
    /// What the client is asked by. Nobody can prove the one of a name that has none.
    pub verifier: Verifier,
    /// Who has logged in then.
    pub login: Option<Login>,
    /// Why nobody can, for the log, where the name is one of ours.
    pub why: Option<String>,
}

impl Verifiers {
    pub(super) fn new(accounts: &[Account], hash: ScramHash) -> Self {
        let verifier = |account: &Account| match hash {
            ScramHash::Sha1 => account.scram_sha1.clone(),
            ScramHash::Sha256 => account.scram.clone(),
        };
        let by_name: HashMap<String, Verifier> =
            accounts.iter().filter_map(|account| Some((fold(&account.name), verifier(account)?))).collect();
        let mut names: Vec<String> = by_name.keys().cloned().collect();
        names.sort_unstable();
        let is_kept_out = |account: &Account| {
            let has_password = !account.password.is_empty() || !account.app_passwords.is_empty();
            has_password && (verifier(account).is_none() || !account.app_passwords.is_empty())
        };
        let keeps_out = accounts.iter().any(is_kept_out);
        Self { by_name, names, keeps_out }
    }

    /// Whether the mechanism can be offered to everybody: programs that find it often try no other one.
    fn keeps_nobody_out(&self) -> bool {
        !self.by_name.is_empty() && !self.keeps_out
    }

    /// Like which verifier a name without one looks: always the same.
    fn example(&self, secret: &[u8], name: &str) -> Option<&Verifier> {
        let mut hasher = DefaultHasher::new();
        (secret, name).hash(&mut hasher);
        let at = hasher.finish().checked_rem(self.names.len() as u64)?;
        self.by_name.get(self.names.get(at as usize)?)
    }
}

impl Accounts {
    /// What SCRAM asks who gives this name. A login without a verifier and a name that nobody has look alike: they are asked by
    /// a verifier made up with `secret`.
    pub fn scram(&self, name: &str, hash: ScramHash, secret: &Secret) -> ScramLogin {
        let (name, secret, verifiers) = (fold(name), secret.octets(), self.verifiers(hash));
        // Made also for who does not need it, so that it takes the same time.
        let decoy = scram::decoy(&secret, &name, hash, verifiers.example(&secret, &name));
        let login = self.login(&name);
        match verifiers.by_name.get(&name) {
            Some(verifier) => {
                let proof = Some(Proof::of(&verifier.to_string()));
                let login = login.map(|login| Login { proof, ..login });
                ScramLogin { verifier: verifier.clone(), login, why: None }
            }
            None => {
                let why = login.map(|login| {
                    let (name, mechanism) = (login.name, hash.mechanism());
                    format!(
                        "{name} has no verifier for {mechanism}: `posternctl account password` writes one"
                    )
                });
                ScramLogin { verifier: decoy, login: None, why }
            }
        }
    }

    /// Whether SCRAM with this hash can be offered without keeping anybody out: some login can use it, and every login with a
    /// password can, none of them with app passwords. (SCRAM proves the main password.)
    pub fn scram_keeps_nobody_out(&self, hash: ScramHash) -> bool {
        self.verifiers(hash).keeps_nobody_out()
    }

    fn verifiers(&self, hash: ScramHash) -> &Verifiers {
        match hash {
            ScramHash::Sha1 => &self.scram_sha1,
            ScramHash::Sha256 => &self.scram_sha256,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_config::account::AccountsFile;

    use super::*;

    fn accounts(text: &str) -> Accounts {
        let verifier = scram::verifier("correct horse", ScramHash::Sha256).unwrap();
        let text = text.replace("VERIFIER", &format!("scram = \"{verifier}\""));
        let file: AccountsFile = toml::from_str(&text).unwrap();
        Accounts::new(&file.accounts, Default::default())
    }

    const ALICE: &str = "[[account]]\nname = \"Alice\"\npassword = \"x\"\nVERIFIER\n";
    const BOB: &str = "[[account]]\nname = \"bob\"\npassword = \"x\"\n";

    #[test]
    fn a_login_without_a_verifier_looks_like_a_name_that_nobody_has() {
        let (accounts, secret) = (accounts(&format!("{ALICE}{BOB}")), Secret::default());
        let ask = |name: &str| accounts.scram(name, ScramHash::Sha256, &secret);
        assert_eq!(ask("ALICE").login.unwrap().name, "alice");
        let (bob, nobody) = (ask("Bob"), ask("nobody"));
        assert!(bob.login.is_none() && nobody.login.is_none());
        assert!(bob.why.clone().unwrap().contains("account password") && nobody.why.is_none());
        for made_up in [&bob, &nobody] {
            assert_eq!(made_up.verifier.iterations, ask("alice").verifier.iterations);
            assert_eq!(made_up.verifier.salt.len(), ask("alice").verifier.salt.len());
        }
        assert_ne!(bob.verifier, nobody.verifier);
        assert_eq!((ask("bob"), ask("nobody")), (bob, nobody));
        assert!(accounts.scram("alice", ScramHash::Sha1, &secret).login.is_none());
    }

    #[test]
    fn it_is_offered_when_it_keeps_nobody_out() {
        let app = "app_passwords = [{ label = \"phone\", password = \"x\" }]\n";
        let certificates_only = "[[account]]\nname = \"printer\"\npassword = \"\"\n";
        for (text, offered) in [
            (String::new(), false),
            (ALICE.to_owned(), true),
            (format!("{ALICE}{BOB}"), false),
            (format!("{ALICE}{app}"), false),
            (format!("{ALICE}{certificates_only}"), true),
            (certificates_only.to_owned(), false),
        ] {
            assert_eq!(accounts(&text).scram_keeps_nobody_out(ScramHash::Sha256), offered, "{text}");
        }
        assert!(!accounts(ALICE).scram_keeps_nobody_out(ScramHash::Sha1));
    }
}
