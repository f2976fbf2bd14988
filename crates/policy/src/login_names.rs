//! What may be kept of a name that somebody has logged in with.

use postern_smtp::Address;

use crate::Policy;

impl Policy {
    /// The name for logs and records. Sooner or later somebody types the password into the field of the name: what is neither a
    /// login here nor an address of ours is not kept, only how long it was.
    pub fn login_to_note(&self, name: &str) -> String {
        let is_ours = || {
            let address = Address::parse(name).ok();
            address
                .and_then(|address| address.domain().cloned())
                .is_some_and(|domain| self.directory.is_local(&domain) || self.relay.is_relay_domain(&domain))
        };
        match self.accounts.login(name).is_some() || is_ours() {
            true => name.to_owned(),
            false => format!("unknown, {} characters", name.chars().count()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_config::Config;
    use postern_config::account::AccountsFile;

    use super::*;

    #[test]
    fn a_password_in_the_field_of_the_name_is_not_kept() {
        let text = "hostname = \"mail.proseware.test\"\n[[domain]]\nname = \"proseware.test\"\n";
        let mut config: Config = toml::from_str(text).unwrap();
        let accounts = "[[account]]\nname = \"office\"\npassword = \"\"\n";
        config.accounts = toml::from_str::<AccountsFile>(accounts).unwrap().accounts;
        let policy = Policy::new(&config);
        for name in ["office", "Office", "nobody@proseware.test"] {
            assert_eq!(policy.login_to_note(name), name);
        }
        for name in ["correct horse", "p@ssw0rd", "admin", "x@adatum.test", "", "@proseware.test"] {
            let expected = format!("unknown, {} characters", name.len());
            assert_eq!(policy.login_to_note(name), expected);
        }
    }
}
