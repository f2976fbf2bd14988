//! The owner's lock: the TXT record by which the owner of a domain names the only logins that may send for it.
//!
//! It stands at `_postern.<domain>`, and is off until `policy.owners_lock` is set:
//!
//! ```text
//! _postern.adatum.test. IN TXT "v=postern1; logins=alice@proseware.test,office@mail.proseware.test"
//! ```
//!
//! Tags stand between semicolons, `v=postern1` first; unknown ones are ignored, so that later versions can add some. A login
//! without a domain in its name is written with the host name of its server, so that nobody else's login of that name is
//! meant. An empty list locks the domain for every login. Other TXT records at the name are ignored. A lock that cannot be
//! understood lets nobody in: its owner wanted to keep somebody out.

use std::collections::HashSet;

use postern_smtp::{Address, Domain};

/// What begins the record.
const VERSION: &str = "postern1";
/// Logins of one lock; more are no lock but a mistake, and every decision would carry them along.
const MAX_LOGINS: usize = 1000;

/// What the owner of a domain says about logins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnersLock {
    /// Nothing: there is no lock.
    Open,
    /// Only these may send for the domain; folded, see [`Address::folded`].
    Logins(HashSet<String>),
    /// There is a lock, and it cannot be understood: what is wrong.
    Broken(String),
}

impl OwnersLock {
    /// Reads the TXT records at the name of the lock, the strings of each joined.
    pub fn read(records: &[String]) -> Self {
        let mut locks = records.iter().map(|record| record.trim()).filter(|record| is_lock(record));
        let Some(lock) = locks.next() else { return Self::Open };
        if locks.next().is_some() {
            return Self::Broken("there are several records with v=postern".to_owned());
        }
        logins(lock).map_or_else(Self::Broken, Self::Logins)
    }

    /// The name at which the lock of a domain stands. `None`: the domain is too long to have one.
    pub fn name_for(domain: &Domain) -> Option<Domain> {
        Domain::parse_tolerant(&format!("_postern.{domain}")).ok()
    }
}

/// The name by which a lock knows a login of this server.
pub fn lock_name(login: &str, hostname: &Domain) -> String {
    match Address::parse(login) {
        Ok(address) => address.folded(),
        Err(_) => format!("{login}@{hostname}"),
    }
}

/// Of whatever version: a later one keeps somebody out, too.
fn is_lock(record: &str) -> bool {
    let Some((tag, value)) = record.split_once('=') else { return false };
    let begins = value.trim_start().get(.."postern".len());
    tag.trim().eq_ignore_ascii_case("v") && begins.is_some_and(|word| word.eq_ignore_ascii_case("postern"))
}

fn logins(record: &str) -> Result<HashSet<String>, String> {
    let mut found = None;
    for (at, tag) in record.split(';').map(str::trim).enumerate() {
        if tag.is_empty() {
            continue;
        }
        let Some((name, value)) = tag.split_once('=') else {
            return Err(format!("{:?} is no tag with a value", shown(tag)));
        };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        match (at, name.as_str()) {
            (0, _) if value.eq_ignore_ascii_case(VERSION) => {}
            (0, _) => return Err(format!("its version is {:?}, not {VERSION:?}", shown(value))),
            (_, "v") => return Err("v= is there twice".to_owned()),
            (_, "logins") if found.is_some() => return Err("logins= is there twice".to_owned()),
            (_, "logins") => found = Some(list(value)?),
            _ => {}
        }
    }
    found.ok_or_else(|| "it has no logins=".to_owned())
}

fn list(value: &str) -> Result<HashSet<String>, String> {
    let names = value.split(',').map(str::trim).filter(|name| !name.is_empty());
    let login = |name: &str| match Address::parse(name) {
        Ok(address) => Ok(address.folded()),
        Err(error) => Err(format!("{:?} is no login with a domain: {error}", shown(name))),
    };
    let logins: HashSet<String> = names.take(MAX_LOGINS + 1).map(login).collect::<Result<_, _>>()?;
    match logins.len() > MAX_LOGINS {
        true => Err(format!("it names more than {MAX_LOGINS} logins")),
        false => Ok(logins),
    }
}

/// The beginning of a text that others wrote, for a reply.
fn shown(text: &str) -> String {
    const SHOWN: usize = 40;
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    fn read(records: &[&str]) -> OwnersLock {
        OwnersLock::read(&records.iter().map(|record| (*record).to_owned()).collect::<Vec<_>>())
    }

    fn names(names: &[&str]) -> OwnersLock {
        OwnersLock::Logins(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn a_lock_names_the_logins() {
        let two = names(&["alice@proseware.test", "office@mail.proseware.test"]);
        for record in [
            "v=postern1; logins=alice@proseware.test,office@mail.proseware.test",
            "v=postern1;logins=alice@proseware.test,office@mail.proseware.test;",
            " V = Postern1 ; LOGINS = ALICE@Proseware.test , office@mail.proseware.test ; ttl=9; x=y",
        ] {
            assert_eq!(read(&["v=spf1 -all", record, "v=DMARC1; p=none"]), two, "{record}");
        }
        assert_eq!(read(&["v=postern1; logins="]), names(&[]));
    }

    #[test]
    fn other_records_are_no_lock() {
        for records in
            [&[][..], &["v=spf1 -all"], &["hello"], &["postern1"], &["logins=alice@proseware.test"], &[""]]
        {
            assert_eq!(read(records), OwnersLock::Open, "{records:?}");
        }
    }

    #[test]
    fn a_lock_that_cannot_be_understood_is_broken_and_says_why() {
        for (records, problem) in [
            (&["v=postern1"][..], "no logins="),
            (&["v=postern2; logins=alice@proseware.test"], "postern2"),
            (&["v=postern1; logins=alice"], "\"alice\""),
            (&["v=postern1; logins=alice@proseware.test bob@proseware.test"], "no login"),
            (&["v=postern1; logins=a@b.test; logins=c@d.test"], "twice"),
            (&["v=postern1; v=postern1; logins=a@b.test"], "v= is there twice"),
            (&["v=postern1; logins=a@b.test; rubbish"], "rubbish"),
            (&["v=postern1; logins=a@b.test", "v=postern1; logins="], "several"),
        ] {
            assert!(matches!(read(records), OwnersLock::Broken(why) if why.contains(problem)), "{records:?}");
        }
        let many: Vec<String> = (0..2000).map(|n| format!("u{n}@proseware.test")).collect();
        let record = format!("v=postern1; logins={}", many.join(","));
        assert!(matches!(read(&[&record]), OwnersLock::Broken(_)));
    }

    #[test]
    fn a_login_without_a_domain_is_known_by_its_server() {
        let hostname = Domain::parse("mail.proseware.test").unwrap();
        assert_eq!(lock_name("office", &hostname), "office@mail.proseware.test");
        assert_eq!(lock_name("alice@proseware.test", &hostname), "alice@proseware.test");
    }

    proptest! {
        #[test]
        fn no_record_panics(records in proptest::collection::vec("(v=postern1)?[a-z@.,;= é]{0,40}", 0..3)) {
            OwnersLock::read(&records);
        }
    }
}
