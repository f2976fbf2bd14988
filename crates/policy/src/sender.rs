//! May this login use this sender?

use postern_config::Permission;
use postern_smtp::Address;
use postern_smtp::header::{addresses, fields};

use crate::accounts::Login;
use crate::directory::Directory;
use crate::relay::HeaderSenders;

/// Whether the login may send as `address`: its permission mode, its own name, its domains, its `send_as`.
/// Case is folded; a subaddress of an owned address is owned.
///
/// An alias that leads to the login's mailbox is not owned by that: the alias may be a group of many. `send_as` grants it.
pub fn owns(login: &Login, address: &Address, directory: &Directory) -> bool {
    match login.permission {
        Permission::Any => true,
        Permission::Local if address.domain().is_some_and(|domain| directory.is_configured(domain)) => true,
        Permission::Local | Permission::Listed => is_listed(login, address, directory),
    }
}

/// Whether some address in the domain of `address` is the login's.
pub fn owns_in_domain(login: &Login, address: &Address, directory: &Directory) -> bool {
    let Some(domain) = address.domain() else { return false };
    login.domains.contains(domain)
        || login.addresses.iter().any(|owned| owned.domain() == Some(domain))
        || (login.permission == Permission::Local && directory.is_configured(domain))
}

fn is_listed(login: &Login, address: &Address, directory: &Directory) -> bool {
    if address.domain().is_some_and(|domain| login.domains.contains(domain)) {
        return true;
    }
    let names = |address: &Address| {
        let folded = address.folded();
        login.addresses.iter().any(|owned| owned.folded() == folded)
    };
    names(address) || directory.without_detail(address).as_ref().is_some_and(names)
}

/// The senders that a header names: every From and every Sender field (RFC 5322 §3.6.2).
pub fn header_senders(header: &[u8]) -> HeaderSenders {
    let mut senders = HeaderSenders::default();
    for field in fields(header) {
        let list = if field.name.eq_ignore_ascii_case(b"From") {
            &mut senders.from
        } else if field.name.eq_ignore_ascii_case(b"Sender") {
            &mut senders.sender
        } else {
            continue;
        };
        list.push(addresses(field.value).map_err(|problem| problem.to_string()));
    }
    senders
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_config::Config;
    use postern_config::account::AccountsFile;

    use super::*;
    use crate::Policy;

    const ACCOUNTS: &str = r#"
        [[account]]
        name = "Alice@proseware.test"
        password = ""
        send_as = ["shared@proseware.test", "@branch.test", "list@adatum.test"]
        [[account]]
        name = "office"
        password = ""
        permission = "local"
        domains = ["thephone-company.test"]
        [[account]]
        name = "newsletter"
        password = ""
        send_as = ["*"]
    "#;

    fn policy() -> Policy {
        let mut config: Config = toml::from_str(
            r#"
            hostname = "mail.proseware.test"
            [relay]
            relay_domains = [{ name = "customer.test" }]
            [[domain]]
            name = "proseware.test"
            mailboxes = ["alice", "bob", "alice+boss"]
            aliases = { info = ["alice"], shared = ["alice", "bob"] }
            "#,
        )
        .unwrap();
        config.accounts = toml::from_str::<AccountsFile>(ACCOUNTS).unwrap().accounts;
        Policy::new(&config)
    }

    fn may(login: &str, address: &str) -> bool {
        let policy = policy();
        owns(&policy.accounts.login(login).unwrap(), &Address::parse(address).unwrap(), &policy.directory)
    }

    #[test]
    fn a_login_owns_its_name_and_subaddresses_in_any_case() {
        assert!(may("alice@proseware.test", "ALICE@Proseware.Test"));
        assert!(may("alice@proseware.test", "alice+news@proseware.test"));
        assert!(!may("alice@proseware.test", "bob@proseware.test"));
        assert!(!may("alice@proseware.test", "alice@adatum.test"));
        assert!(!may("alice@proseware.test", "alice@sub.proseware.test"));
    }

    #[test]
    fn a_mailbox_that_looks_like_a_subaddress_is_somebody_else() {
        assert!(!may("alice@proseware.test", "alice+boss@proseware.test"));
    }

    #[test]
    fn aliases_and_groups_need_a_grant() {
        assert!(may("alice@proseware.test", "shared@proseware.test"));
        assert!(!may("alice@proseware.test", "info@proseware.test"));
    }

    #[test]
    fn granted_domains_and_addresses_elsewhere_are_owned() {
        assert!(may("alice@proseware.test", "whoever@branch.test"));
        assert!(may("alice@proseware.test", "list@adatum.test"));
        // Nobody here knows whether adatum.test has subaddresses.
        assert!(!may("alice@proseware.test", "list+x@adatum.test"));
        assert!(may("office", "x@thephone-company.test"));
    }

    #[test]
    fn local_permission_covers_our_domains_but_not_relay_domains() {
        assert!(may("office", "anybody@proseware.test"));
        assert!(!may("office", "anybody@customer.test"));
        assert!(!may("office", "root@mail.proseware.test"));
        assert!(!may("office", "office@[192.0.2.1]"));
    }

    #[test]
    fn a_star_in_send_as_is_any() {
        assert!(may("newsletter", "x@adatum.test"));
    }
}
