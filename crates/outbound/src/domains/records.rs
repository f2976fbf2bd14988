//! The records that a domain needs before mail from it is believed, and those that we publish ourselves for it.
//!
//! Either the domain publishes all of them (SPF, DKIM keys, DMARC), or whoever runs its DNS makes three kinds of aliases once
//! and never hears of us again: everything that changes is then published below our host name.
//!
//! | in the domain | an alias of | for |
//! |---|---|---|
//! | `postern-return.<domain>` | `return.<hostname>` | the return path: bounces, and SPF of what is sent with it |
//! | `<selector>._domainkey.<domain>` | `<selector>.<domain>._domainkey.<hostname>` | a DKIM key |
//! | `postern-link.<domain>` | `link.<hostname>` | links in mail |

use postern_config::Config;
use postern_config::domain::Domain as LocalDomain;
use postern_policy::verification::DnsRecord;
use postern_smtp::Domain;
use serde::{Deserialize, Serialize};

use super::keys::PublicKey;
use crate::facts::configured_addresses;

/// What a record is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// Who may send for the domain (RFC 7208).
    Spf,
    /// A key that signs (RFC 6376).
    Dkim,
    /// What others do with mail that is neither (RFC 9989).
    Dmarc,
    /// Where bounces go.
    ReturnPath,
    /// Where links in mail lead.
    Link,
}

impl Purpose {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Spf => "SPF",
            Self::Dkim => "DKIM",
            Self::Dmarc => "DMARC",
            Self::ReturnPath => "return path",
            Self::Link => "links",
        }
    }
}

/// A record, and who publishes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needed {
    /// What it is for.
    pub purpose: Purpose,
    /// Whether it stands below our host name; else in the domain.
    pub ours: bool,
    /// The record.
    #[serde(flatten)]
    pub record: DnsRecord,
}

/// A name too long for DNS; the text says which.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameTooLong(pub String);

/// What to tell the domain to publish for itself.
///
/// # Errors
/// [`NameTooLong`].
pub fn records(
    config: &Config,
    domain: &LocalDomain,
    keys: &[PublicKey],
) -> Result<Vec<Needed>, NameTooLong> {
    let theirs = |purpose, record| Needed { purpose, ours: false, record };
    let mut list = vec![theirs(Purpose::Spf, spf(config, &domain.name, None))];
    for key in keys {
        list.push(theirs(Purpose::Dkim, dkim(&domain.name, key)?));
    }
    list.push(theirs(Purpose::Dmarc, dmarc(&domain.name)?));
    list.push(theirs(Purpose::ReturnPath, return_path(config, &domain.name)?));
    list.extend(our_return_path(config)?);
    Ok(list)
}

/// What to tell whoever runs the domain's DNS to make aliases of, and what we publish behind them.
///
/// # Errors
/// [`NameTooLong`].
pub fn cnames(config: &Config, domain: &LocalDomain, keys: &[PublicKey]) -> Result<Vec<Needed>, NameTooLong> {
    let hostname = &config.hostname;
    let theirs = |purpose, record| Needed { purpose, ours: false, record };
    let ours = |purpose, record| Needed { purpose, ours: true, record };
    let mut list = vec![theirs(Purpose::ReturnPath, return_path(config, &domain.name)?)];
    let mut behind = our_return_path(config)?;
    for key in keys {
        let DnsRecord { name, value, .. } = dkim(&domain.name, key)?;
        let target = absolute(&format!("{}.{}._domainkey.{hostname}", key.selector, domain.name))?;
        list.push(theirs(Purpose::Dkim, DnsRecord { name, kind: "CNAME".into(), value: target.clone() }));
        behind.push(ours(Purpose::Dkim, DnsRecord { name: target, kind: "TXT".into(), value }));
    }
    let link = absolute(&format!("link.{hostname}"))?;
    let name = absolute(&format!("postern-link.{}", domain.name))?;
    list.push(theirs(Purpose::Link, DnsRecord { name, kind: "CNAME".into(), value: link.clone() }));
    behind.push(ours(
        Purpose::Link,
        DnsRecord { name: link, kind: "CNAME".into(), value: format!("{hostname}.") },
    ));
    list.append(&mut behind);
    Ok(list)
}

/// The name in the domain that is an alias of ours for its return path.
pub(crate) fn return_path_name(domain: &Domain) -> Option<Domain> {
    Domain::parse_tolerant(&format!("postern-return.{domain}")).ok()
}

/// What it is an alias of.
pub(crate) fn return_path_target(hostname: &Domain) -> Option<Domain> {
    Domain::parse_tolerant(&format!("return.{hostname}")).ok()
}

fn return_path(config: &Config, domain: &Domain) -> Result<DnsRecord, NameTooLong> {
    let name = absolute(&format!("postern-return.{domain}"))?;
    let value = absolute(&format!("return.{}", config.hostname))?;
    Ok(DnsRecord { name, kind: "CNAME".into(), value })
}

/// Behind the alias of a return path: bounces come to us, and nobody else sends with it.
fn our_return_path(config: &Config) -> Result<Vec<Needed>, NameTooLong> {
    let name = absolute(&format!("return.{}", config.hostname))?;
    let mx = DnsRecord { name: name.clone(), kind: "MX".into(), value: format!("10 {}.", config.hostname) };
    let spf =
        DnsRecord { name, kind: "TXT".into(), value: format!("v=spf1 {} -all", spf_terms(config).join(" ")) };
    Ok([mx, spf].map(|record| Needed { purpose: Purpose::ReturnPath, ours: true, record }).into())
}

/// The SPF record of our own return path, for who finds it wanting.
pub(crate) fn our_return_path_spf(config: &Config) -> Option<DnsRecord> {
    let records = our_return_path(config).ok()?;
    records.into_iter().map(|needed| needed.record).find(|record| record.kind == "TXT")
}

/// The SPF record of a domain with us in it: a new one, or the one it has with our terms in front of its end.
pub(crate) fn spf(config: &Config, domain: &Domain, existing: Option<&str>) -> DnsRecord {
    let ours = spf_terms(config);
    let value = match existing {
        None => format!("v=spf1 {} ~all", ours.join(" ")),
        Some(record) => {
            let mut terms: Vec<&str> = record.split_ascii_whitespace().collect();
            let is_end = |term: &&str| {
                let word = term.trim_start_matches(['+', '-', '~', '?']).to_ascii_lowercase();
                word == "all" || word.starts_with("redirect=")
            };
            let at = terms.iter().position(is_end).unwrap_or(terms.len());
            let new: Vec<&str> =
                ours.iter().map(String::as_str).filter(|term| !terms[..at].contains(term)).collect();
            terms.splice(at..at, new);
            terms.join(" ")
        }
    };
    DnsRecord { name: format!("{domain}."), kind: "TXT".into(), value }
}

fn spf_terms(config: &Config) -> Vec<String> {
    let addresses = configured_addresses(config);
    if addresses.is_empty() {
        return vec![format!("a:{}", config.hostname)];
    }
    let term = |address: &std::net::IpAddr| match address {
        std::net::IpAddr::V4(ip) => format!("ip4:{ip}"),
        std::net::IpAddr::V6(ip) => format!("ip6:{ip}"),
    };
    addresses.iter().map(term).collect()
}

/// The TXT record of a key.
pub(crate) fn dkim(domain: &Domain, key: &PublicKey) -> Result<DnsRecord, NameTooLong> {
    let name = absolute(&format!("{}._domainkey.{domain}", key.selector))?;
    Ok(DnsRecord { name, kind: "TXT".into(), value: key.record() })
}

/// The mildest policy: reports come, and nothing is refused because of it.
pub(crate) fn dmarc(domain: &Domain) -> Result<DnsRecord, NameTooLong> {
    let name = absolute(&format!("_dmarc.{domain}"))?;
    let value = format!("v=DMARC1; p=none; rua=mailto:postmaster@{domain}");
    Ok(DnsRecord { name, kind: "TXT".into(), value })
}

fn absolute(name: &str) -> Result<String, NameTooLong> {
    match Domain::parse_tolerant(name) {
        Ok(name) => Ok(format!("{name}.")),
        Err(error) => Err(NameTooLong(format!("{name} cannot be a name in DNS: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn config(text: &str) -> Config {
        let text = format!("hostname = \"mail.proseware.test\"\n{text}\n[[domain]]\nname = \"adatum.test\"");
        toml::from_str(&text).unwrap()
    }

    fn key() -> PublicKey {
        PublicKey { selector: "2026a".to_owned(), algorithm: "ed25519", octets: vec![7; 32] }
    }

    fn lines(list: &[Needed]) -> Vec<String> {
        let whose = |needed: &Needed| if needed.ours { "ours" } else { "theirs" };
        list.iter().map(|needed| format!("{} {}", whose(needed), needed.record.zone_line())).collect()
    }

    #[test]
    fn a_domain_publishes_spf_keys_and_dmarc() {
        let config = config("policy.public_addresses = [\"192.0.2.25\", \"2001:db8::25\"]");
        assert_eq!(
            lines(&records(&config, &config.domains[0], &[key()]).unwrap()),
            [
                "theirs adatum.test. IN TXT \"v=spf1 ip4:192.0.2.25 ip6:2001:db8::25 ~all\"",
                "theirs 2026a._domainkey.adatum.test. IN TXT \"v=DKIM1; k=ed25519; p=BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\"",
                "theirs _dmarc.adatum.test. IN TXT \"v=DMARC1; p=none; rua=mailto:postmaster@adatum.test\"",
                "theirs postern-return.adatum.test. IN CNAME return.mail.proseware.test.",
                "ours return.mail.proseware.test. IN MX 10 mail.proseware.test.",
                "ours return.mail.proseware.test. IN TXT \"v=spf1 ip4:192.0.2.25 ip6:2001:db8::25 -all\"",
            ]
        );
    }

    #[test]
    fn three_aliases_are_enough_and_lead_to_what_we_publish() {
        let config = config("");
        assert_eq!(
            lines(&cnames(&config, &config.domains[0], &[key()]).unwrap()),
            [
                "theirs postern-return.adatum.test. IN CNAME return.mail.proseware.test.",
                "theirs 2026a._domainkey.adatum.test. IN CNAME 2026a.adatum.test._domainkey.mail.proseware.test.",
                "theirs postern-link.adatum.test. IN CNAME link.mail.proseware.test.",
                "ours return.mail.proseware.test. IN MX 10 mail.proseware.test.",
                "ours return.mail.proseware.test. IN TXT \"v=spf1 a:mail.proseware.test -all\"",
                "ours 2026a.adatum.test._domainkey.mail.proseware.test. IN TXT \"v=DKIM1; k=ed25519; p=BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\"",
                "ours link.mail.proseware.test. IN CNAME mail.proseware.test.",
            ]
        );
    }

    #[test]
    fn an_existing_spf_record_keeps_what_it_has() {
        let one = config("policy.public_addresses = [\"192.0.2.25\"]");
        let name = &one.domains[0].name;
        for (existing, expected) in [
            ("v=spf1 mx -all", "v=spf1 mx ip4:192.0.2.25 -all"),
            ("v=spf1 include:x.test", "v=spf1 include:x.test ip4:192.0.2.25"),
            ("v=spf1 redirect=x.test", "v=spf1 ip4:192.0.2.25 redirect=x.test"),
            ("v=spf1 -all ip4:192.0.2.25", "v=spf1 ip4:192.0.2.25 -all ip4:192.0.2.25"),
        ] {
            assert_eq!(spf(&one, name, Some(existing)).value, expected);
        }
        let two = config("policy.public_addresses = [\"192.0.2.25\", \"192.0.2.26\"]");
        let half = spf(&two, name, Some("v=spf1 ip4:192.0.2.25 -all")).value;
        assert_eq!(half, "v=spf1 ip4:192.0.2.25 ip4:192.0.2.26 -all");
    }

    #[test]
    fn a_name_that_dns_cannot_hold_is_said() {
        let long = ["a".repeat(60), "b".repeat(60), "c".repeat(60), "d".repeat(60), "test".into()].join(".");
        let text = format!("hostname = \"mail.proseware.test\"\n[[domain]]\nname = {long:?}");
        let config: Config = toml::from_str(&text).unwrap();
        for needed in [records, cnames] {
            assert!(
                needed(&config, &config.domains[0], &[key()])
                    .unwrap_err()
                    .0
                    .contains("cannot be a name in DNS")
            );
        }
    }
}
