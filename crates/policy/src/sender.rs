//! May this login use this sender?

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use postern_config::account::SendAs;
use postern_config::{Account, Config, Permission, RequireVerified};
use postern_smtp::header::{HeaderAddressError, addresses, fields, is_well_formed};
use postern_smtp::{Address, Domain, ReversePath};

use crate::Policy;
use crate::accounts::Login;
use crate::directory::Directory;
use crate::facts::Wanted;
use crate::relay::{HeaderSenders, Question, Stage};

/// What `[policy]` asks of senders.
#[derive(Debug)]
pub struct Rules {
    /// Whether Reply-To must be the login's, too.
    pub check_reply_to: bool,
    /// Whether the owner of a domain may name its logins.
    pub owners_lock: bool,
    /// Whether a `[[domain]]` must be verified.
    pub require_verified: RequireVerified,
    /// How long what DNS said is taken as it is.
    pub refresh: Duration,
    /// By which an owner's lock knows logins without a domain.
    pub hostname: Domain,
}

impl Rules {
    /// Compiles the rules.
    pub fn new(config: &Config) -> Self {
        Self {
            check_reply_to: config.policy.check_reply_to,
            owners_lock: config.policy.owners_lock,
            require_verified: config.policy.require_verified,
            refresh: config.policy.sender_dns_refresh,
            hostname: config.hostname.clone(),
        }
    }
}

/// What a login was granted by name: its own address, `domains` and `send_as`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// Folded.
    addresses: HashSet<String>,
    /// The domains of those.
    near: HashSet<Domain>,
    /// Granted whole.
    domains: HashSet<Domain>,
}

impl Grants {
    /// The grants of an account.
    pub fn new(account: &Account) -> Self {
        let mut grants = Self::default();
        if let Ok(own) = Address::parse(&account.name) {
            grants.add(&own);
        }
        grants.domains.extend(account.domains.iter().map(|domain| domain.0.clone()));
        for grant in account.send_as.iter().filter_map(|text| SendAs::parse(text).ok()) {
            match grant {
                SendAs::Address(address) => grants.add(&address),
                SendAs::Domain(domain) => drop(grants.domains.insert(domain)),
                // Not a name: it changes the permission.
                SendAs::Anything => {}
            }
        }
        grants
    }

    fn add(&mut self, address: &Address) {
        self.near.extend(address.domain().cloned());
        self.addresses.insert(address.folded());
    }

    fn cover(&self, address: &Address, directory: &Directory) -> bool {
        let names = |address: &Address| self.addresses.contains(&address.folded());
        address.domain().is_some_and(|domain| self.domains.contains(domain))
            || names(address)
            || directory.without_detail(address).as_ref().is_some_and(names)
    }
}

/// By which right a login sends as an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// It was granted by name, or is a subaddress of such a one.
    Granted,
    /// The domain is a `[[domain]]`, and the login may send from all of them.
    Local,
    /// The login may send as anybody.
    Any,
    /// The login may send from every domain whose SPF record covers this server: that is to be asked.
    IfSpf,
    /// None, but it may send as others in the domain.
    Neighbour,
    /// None in the whole domain.
    Stranger,
}

impl Right {
    /// Whether it is one, as far as the configuration knows.
    pub fn is_held(self) -> bool {
        !matches!(self, Self::Neighbour | Self::Stranger)
    }
}

/// By which right the login sends as `address`: its permission mode, its own name, its domains, its `send_as`.
/// Spellings of one address are one; a subaddress of an owned address is owned.
///
/// An alias that leads to the login's mailbox is not owned by that: the alias may be a group of many. `send_as` grants it.
pub fn right(login: &Login, address: &Address, directory: &Directory) -> Right {
    if login.permission == Permission::Any && !login.any_if_spf {
        return Right::Any;
    }
    if login.grants.cover(address, directory) {
        return Right::Granted;
    }
    let Some(domain) = address.domain() else { return Right::Stranger };
    match login.permission {
        Permission::Any => Right::IfSpf,
        Permission::Local if directory.is_configured(domain) => Right::Local,
        Permission::Local | Permission::Listed if login.grants.near.contains(domain) => Right::Neighbour,
        Permission::Local | Permission::Listed => Right::Stranger,
    }
}

/// The domains of senders of a login, and whether the right to each hangs on SPF alone.
pub(crate) type Domains<'a> = BTreeMap<&'a Domain, bool>;

/// Adds the domain of an address that the login has a right to.
pub(crate) fn note_domain<'a>(domains: &mut Domains<'a>, address: &'a Address, right: Right) {
    if let Some(domain) = address.domain() {
        *domains.entry(domain).or_default() |= right == Right::IfSpf;
    }
}

/// Domains that one message may name as senders: each may cost several questions to DNS.
pub(crate) const MOST_DOMAINS: usize = 20;

/// What DNS is to be asked before the question can be decided.
pub(crate) fn wanted(question: &Question<'_>, policy: &Policy) -> Vec<Wanted> {
    let Some(login) = question.login else { return Vec::new() };
    if !policy.senders.owners_lock && !login.any_if_spf {
        return Vec::new();
    }
    let mut domains = Domains::new();
    for address in senders_of(question, policy) {
        let right = right(login, address, &policy.directory);
        if right.is_held() {
            note_domain(&mut domains, address, right);
        }
        if domains.len() > MOST_DOMAINS {
            // Refused for that.
            return Vec::new();
        }
    }
    let (known, now, refresh) = (&policy.standing.sender_domains, question.now, policy.senders.refresh);
    let mut wanted = Vec::new();
    for (domain, hangs_on_spf) in domains {
        if hangs_on_spf && !known.is_policy_fresh(domain, now, refresh) {
            wanted.push(Wanted::SenderPolicy(domain.clone()));
        }
        if policy.senders.owners_lock && !known.is_lock_fresh(domain, now, refresh) {
            wanted.push(Wanted::OwnersLock(domain.clone()));
        }
    }
    wanted
}

fn senders_of<'a>(question: &'a Question<'a>, policy: &Policy) -> Vec<&'a Address> {
    match (&question.stage, question.reverse_path) {
        (Stage::Mail, ReversePath::Address(sender)) => vec![sender],
        (Stage::Mail, ReversePath::Null) | (Stage::Connect | Stage::Login | Stage::Rcpt(_), _) => Vec::new(),
        (Stage::Message(senders), _) => {
            let others = senders.others(policy.senders.check_reply_to).flat_map(|(_, fields)| fields);
            senders.from.iter().chain(others).flatten().flatten().collect()
        }
    }
}

/// The senders that a header names: every From, Sender, Resent-From, Resent-Sender and Reply-To field (RFC 5322 §3.6.2 and
/// §3.6.6).
pub fn header_senders(header: &[u8]) -> HeaderSenders {
    let mut senders = HeaderSenders { is_malformed: !is_well_formed(header), ..HeaderSenders::default() };
    for field in fields(header) {
        if let Some(list) = senders.list(field.name) {
            list.push(match addresses(field.value) {
                Err(HeaderAddressError::Empty) => Ok(Vec::new()),
                read => read.map_err(|problem| problem.to_string()),
            });
        }
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
        [[account]]
        name = "agency"
        password = ""
        permission = "any"
        any_if_spf = true
        send_as = ["@proseware.test"]
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
        right(&policy.accounts.login(login).unwrap(), &Address::parse(address).unwrap(), &policy.directory)
            .is_held()
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

    #[test]
    fn a_right_that_hangs_on_spf_does_not_where_a_grant_covers_the_sender() {
        let policy = policy();
        let agency = policy.accounts.login("agency").unwrap();
        let right = |address| right(&agency, &Address::parse(address).unwrap(), &policy.directory);
        assert_eq!(right("bob@proseware.test"), Right::Granted);
        assert_eq!(right("x@adatum.test"), Right::IfSpf);
        assert_eq!(right("x@[192.0.2.1]"), Right::Stranger);
    }
}
