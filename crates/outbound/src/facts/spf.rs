//! Does the SPF record of a domain cover an address of ours (RFC 7208)?
//!
//! mail-auth reads the records; the walk over them is ours, because it must tell more than a verdict: how many look-ups a
//! record costs, which of them lead nowhere, and which trouble is DNS's. It also counts what mail-auth does not: two records
//! at one name, mechanisms that do not exist, void look-ups.

use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;

use mail_auth::common::parse::TxtRecordParser;
use mail_auth::spf::{Directive, Macro, Mechanism, Qualifier, Spf, Variables};
use postern_runtime::Dns;
use postern_runtime::dns::Answer;
use postern_smtp::Domain;

/// Mechanisms and modifiers that ask DNS (RFC 7208 §4.6.4).
pub(crate) const MOST_LOOKUPS: usize = 10;
/// Of those, the ones that may find nothing.
pub(crate) const MOST_VOID_LOOKUPS: usize = 2;
/// Addresses of one `mx` that are looked at.
const MOST_MX: usize = 10;
/// Where counting ends: a record may include itself.
const MOST_COUNTED: usize = 40;

/// What a record says of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    Fail,
    SoftFail,
    Neutral,
    /// There is no record.
    None,
    /// A record that cannot be evaluated; why.
    PermError(String),
    /// DNS did not answer; to which question, and what instead.
    TempError(String),
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pass => f.write_str("pass"),
            Self::Fail => f.write_str("fail"),
            Self::SoftFail => f.write_str("softfail"),
            Self::Neutral => f.write_str("neutral"),
            Self::None => f.write_str("none: there is no SPF record"),
            Self::PermError(why) => write!(f, "permerror: {why}"),
            Self::TempError(why) => write!(f, "temperror: {why}"),
        }
    }
}

/// What a record costs whoever evaluates it to the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Look-ups that count; at most [`MOST_COUNTED`].
    pub(crate) lookups: usize,
    /// Names that were looked up and are not there.
    pub(crate) void: Vec<String>,
    /// Whether `ptr` is used, which RFC 7208 §5.5 asks not to be.
    pub(crate) ptr: bool,
}

/// The SPF record of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Published {
    /// This one.
    Record(String),
    /// None.
    Nothing,
    /// So many: none of them counts (RFC 7208 §4.5).
    Several(usize),
    /// DNS did not say.
    Trouble(String),
}

/// Asks for the SPF record of a domain.
pub(crate) async fn published(dns: &dyn Dns, domain: &Domain) -> Published {
    let texts = match dns.txt(domain).await {
        Answer::Records(texts) => texts,
        Answer::NoRecords | Answer::NoSuchName => return Published::Nothing,
        Answer::TryLater(why) => return Published::Trouble(format!("TXT of {domain}: {why}")),
    };
    let mut records = texts.into_iter().filter(|text| is_spf(text));
    match (records.next(), records.count()) {
        (None, _) => Published::Nothing,
        (Some(record), 0) => Published::Record(record),
        (Some(_), more) => Published::Several(more + 1),
    }
}

fn is_spf(text: &str) -> bool {
    const VERSION: &str = "v=spf1";
    text.get(..VERSION.len()).is_some_and(|version| version.eq_ignore_ascii_case(VERSION))
        && text[VERSION.len()..].chars().next().is_none_or(|next| next == ' ')
}

/// What the SPF record of the domain says of mail that comes from `ip` and calls itself `helo` (RFC 7208 §4 `check_host`),
/// with the postmaster of the domain as sender.
pub(crate) async fn check_host(dns: &dyn Dns, ip: IpAddr, domain: &Domain, helo: &Domain) -> Verdict {
    let mut walk = Walk { dns, ip, helo, sender: format!("postmaster@{domain}"), lookups: 0, void: 0 };
    walk.check(domain.clone()).await.unwrap_or_else(|verdict| verdict)
}

/// What the record costs: every mechanism is counted, whether an earlier one matches or not.
pub(crate) async fn cost(dns: &dyn Dns, record: &str, domain: &Domain) -> Cost {
    let mut cost = Cost::default();
    let mut records = vec![(record.to_owned(), domain.clone())];
    while let Some((record, domain)) = records.pop() {
        let Ok(spf) = parse(&record) else { continue };
        for (mechanism, target) in asking(&spf) {
            if cost.lookups == MOST_COUNTED {
                return cost;
            }
            cost.lookups += 1;
            // A target with macros differs from mail to mail.
            let Some(target) = fixed_target(target, &domain) else { continue };
            let found = match mechanism {
                Asking::Record => match published(dns, &target).await {
                    Published::Record(record) => {
                        records.push((record, target.clone()));
                        true
                    }
                    other => other != Published::Nothing,
                },
                Asking::Addresses => exists(&dns.addresses(&target).await),
                Asking::Mx => exists(&dns.mx(&target).await),
                Asking::Ptr => {
                    cost.ptr = true;
                    true
                }
            };
            let target = target.to_string();
            if !found && !cost.void.contains(&target) {
                cost.void.push(target);
            }
        }
    }
    cost
}

fn exists<T>(answer: &Answer<T>) -> bool {
    !matches!(answer, Answer::NoRecords | Answer::NoSuchName)
}

/// Whether the record lets every address in the world send for the domain.
pub(crate) fn lets_everybody(record: &str) -> bool {
    let everybody = Directive::new(Qualifier::Pass, Mechanism::All);
    parse(record).is_ok_and(|spf| spf.directives.contains(&everybody))
}

/// What a mechanism asks for.
#[derive(Debug, Clone, Copy)]
enum Asking {
    Record,
    Addresses,
    Mx,
    Ptr,
}

fn asking(spf: &Spf) -> impl Iterator<Item = (Asking, &Macro)> {
    let mechanisms = spf.directives.iter().filter_map(|directive| match &directive.mechanism {
        Mechanism::Include { macro_string } => Some((Asking::Record, macro_string)),
        Mechanism::A { macro_string, .. } | Mechanism::Exists { macro_string } => {
            Some((Asking::Addresses, macro_string))
        }
        Mechanism::Mx { macro_string, .. } => Some((Asking::Mx, macro_string)),
        Mechanism::Ptr { macro_string } => Some((Asking::Ptr, macro_string)),
        Mechanism::All | Mechanism::Ip4 { .. } | Mechanism::Ip6 { .. } => None,
    });
    // RFC 7208 §6.1: ignored where there is an "all".
    let has_all = spf.directives.iter().any(|directive| directive.mechanism == Mechanism::All);
    let redirect = spf.redirect.as_ref().filter(|_| !has_all);
    mechanisms.chain(redirect.map(|target| (Asking::Record, target)))
}

fn fixed_target(target: &Macro, domain: &Domain) -> Option<Domain> {
    match target {
        Macro::None => Some(domain.clone()),
        Macro::Literal(text) => Domain::parse_tolerant(std::str::from_utf8(text).ok()?).ok(),
        Macro::Variable { .. } | Macro::List(_) => None,
    }
}

/// Reads a record, and refuses what mail-auth lets through: a mechanism that does not exist is an error, a modifier that does
/// not is not (RFC 7208 §4.6.1 and §6); so is a prefix longer than an address.
fn parse(record: &str) -> Result<Spf, String> {
    const MECHANISMS: [&str; 8] = ["all", "include", "a", "mx", "ptr", "ip4", "ip6", "exists"];
    if !record.is_ascii() {
        return Err("it has characters beyond ASCII".to_owned());
    }
    for term in record.split_ascii_whitespace().skip(1) {
        let name = term.trim_start_matches(['+', '-', '~', '?']);
        let end = name.find([':', '/', '=']).unwrap_or(name.len());
        let is_modifier = name[end..].starts_with('=');
        if !is_modifier && !MECHANISMS.iter().any(|known| known.eq_ignore_ascii_case(&name[..end])) {
            return Err(format!("there is no mechanism {term:?}"));
        }
        if !has_sound_prefix(&name[..end], name) {
            return Err(format!("the prefix of {term:?} is none"));
        }
    }
    Spf::parse(record.as_bytes()).map_err(|_| "it cannot be read as a record of RFC 7208".to_owned())
}

/// `/24`, `//64`, `/24//64`, or none (RFC 7208 §5.3). In a name with macros a slash may mean something else.
fn has_sound_prefix(mechanism: &str, term: &str) -> bool {
    let lengths = match term.split_once('/') {
        Some((_, lengths)) if !term.contains('%') => lengths,
        _ => return true,
    };
    let is_length = |text: &str, most: u8| text.parse::<u8>().is_ok_and(|length| length <= most);
    match (mechanism.to_ascii_lowercase().as_str(), lengths.split_once('/')) {
        ("ip6", None) => is_length(lengths, 128),
        ("a" | "mx" | "ip4", None) => is_length(lengths, 32),
        ("a" | "mx", Some(("", ip6))) => is_length(ip6, 128),
        ("a" | "mx", Some((ip4, ip6))) => {
            is_length(ip4, 32) && ip6.strip_prefix('/').is_some_and(|ip6| is_length(ip6, 128))
        }
        ("ip4" | "ip6", Some(_)) => false,
        _ => true,
    }
}

/// One evaluation. `Err` ends all of it, from whatever depth.
struct Walk<'w> {
    dns: &'w dyn Dns,
    ip: IpAddr,
    helo: &'w Domain,
    sender: String,
    lookups: usize,
    void: usize,
}

type Step<'a, T> = Pin<Box<dyn Future<Output = Result<T, Verdict>> + Send + 'a>>;

impl Walk<'_> {
    /// The verdict of one record and those it leads to. Never deeper than [`MOST_LOOKUPS`].
    fn check(&mut self, domain: Domain) -> Step<'_, Verdict> {
        Box::pin(async move {
            let record = match published(self.dns, &domain).await {
                Published::Record(record) => record,
                Published::Nothing => return Ok(Verdict::None),
                Published::Several(count) => {
                    return Err(Verdict::PermError(format!("{domain} has {count} SPF records")));
                }
                Published::Trouble(why) => return Err(Verdict::TempError(why)),
            };
            let spf = parse(&record)
                .map_err(|problem| Verdict::PermError(format!("the SPF record of {domain}: {problem}")))?;
            for directive in &spf.directives {
                if self.matches(&directive.mechanism, &domain).await? {
                    return Ok(match directive.qualifier {
                        Qualifier::Pass => Verdict::Pass,
                        Qualifier::Fail => Verdict::Fail,
                        Qualifier::SoftFail => Verdict::SoftFail,
                        Qualifier::Neutral => Verdict::Neutral,
                    });
                }
            }
            let Some(redirect) = &spf.redirect else { return Ok(Verdict::Neutral) };
            self.count(&domain)?;
            let target = self.target(redirect, &domain)?;
            match self.check(target.clone()).await? {
                Verdict::None => Err(Verdict::PermError(format!("redirect={target} leads to no SPF record"))),
                verdict => Ok(verdict),
            }
        })
    }

    async fn matches(&mut self, mechanism: &Mechanism, domain: &Domain) -> Result<bool, Verdict> {
        match mechanism {
            Mechanism::All => Ok(true),
            Mechanism::Ip4 { addr, mask } => Ok(self.in_ip4(u32::from(*addr), *mask)),
            Mechanism::Ip6 { addr, mask } => Ok(self.in_ip6(*addr, *mask)),
            Mechanism::Include { macro_string } => {
                self.count(domain)?;
                let target = self.target(macro_string, domain)?;
                match self.check(target.clone()).await? {
                    Verdict::None => Err(Verdict::PermError(format!("include:{target} has no SPF record"))),
                    verdict => Ok(verdict == Verdict::Pass),
                }
            }
            Mechanism::A { macro_string, ip4_mask, ip6_mask } => {
                self.count(domain)?;
                let target = self.target(macro_string, domain)?;
                let addresses = self.addresses(&target).await?;
                Ok(self.is_among(&addresses, *ip4_mask, *ip6_mask))
            }
            Mechanism::Mx { macro_string, ip4_mask, ip6_mask } => {
                self.count(domain)?;
                let target = self.target(macro_string, domain)?;
                self.is_mx(&target, *ip4_mask, *ip6_mask).await
            }
            Mechanism::Exists { macro_string } => {
                self.count(domain)?;
                let target = self.target(macro_string, domain)?;
                // RFC 7208 §5.7: A records, whatever the family of the client.
                Ok(self.addresses(&target).await?.iter().any(IpAddr::is_ipv4))
            }
            // Nobody should rely on it (RFC 7208 §5.5), so we do not either: it costs, and matches nothing.
            Mechanism::Ptr { .. } => self.count(domain).map(|()| false),
        }
    }

    async fn is_mx(&mut self, target: &Domain, ip4_mask: u32, ip6_mask: u128) -> Result<bool, Verdict> {
        let records = match self.dns.mx(target).await {
            Answer::Records(records) => records,
            Answer::NoRecords | Answer::NoSuchName => return self.void(target).map(|()| false),
            Answer::TryLater(why) => return Err(Verdict::TempError(format!("MX of {target}: {why}"))),
        };
        if records.len() > MOST_MX {
            return Err(Verdict::PermError(format!("{target} has more than {MOST_MX} MX records")));
        }
        for host in records.into_iter().filter_map(|record| record.host) {
            let addresses = self.addresses(&host).await?;
            if self.is_among(&addresses, ip4_mask, ip6_mask) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn addresses(&mut self, name: &Domain) -> Result<Vec<IpAddr>, Verdict> {
        match self.dns.addresses(name).await {
            Answer::Records(addresses) => Ok(addresses),
            Answer::NoRecords | Answer::NoSuchName => self.void(name).map(|()| Vec::new()),
            Answer::TryLater(why) => Err(Verdict::TempError(format!("addresses of {name}: {why}"))),
        }
    }

    fn is_among(&self, addresses: &[IpAddr], ip4_mask: u32, ip6_mask: u128) -> bool {
        addresses.iter().any(|address| match address {
            IpAddr::V4(address) => self.in_ip4(u32::from(*address), ip4_mask),
            IpAddr::V6(address) => self.in_ip6(*address, ip6_mask),
        })
    }

    fn in_ip4(&self, network: u32, mask: u32) -> bool {
        matches!(self.ip, IpAddr::V4(ip) if u32::from(ip) & mask == network & mask)
    }

    fn in_ip6(&self, network: Ipv6Addr, mask: u128) -> bool {
        matches!(self.ip, IpAddr::V6(ip) if u128::from(ip) & mask == u128::from(network) & mask)
    }

    fn count(&mut self, domain: &Domain) -> Result<(), Verdict> {
        self.lookups += 1;
        match self.lookups > MOST_LOOKUPS {
            true => Err(Verdict::PermError(format!(
                "more than {MOST_LOOKUPS} look-ups; the last are those of {domain} (RFC 7208 section 4.6.4)"
            ))),
            false => Ok(()),
        }
    }

    fn void(&mut self, name: &Domain) -> Result<(), Verdict> {
        self.void += 1;
        match self.void > MOST_VOID_LOOKUPS {
            true => Err(Verdict::PermError(format!(
                "more than {MOST_VOID_LOOKUPS} look-ups find nothing; the last is {name} (RFC 7208 section 4.6.4)"
            ))),
            false => Ok(()),
        }
    }

    /// The domain that a mechanism is about (RFC 7208 §7).
    fn target(&self, target: &Macro, domain: &Domain) -> Result<Domain, Verdict> {
        let mut variables = Variables::new();
        variables.set_ip(&self.ip);
        variables.set_sender(self.sender.as_bytes());
        variables.set_helo_domain(self.helo.as_str().as_bytes());
        variables.set_host_domain(self.helo.as_str().as_bytes());
        variables.set_domain(domain.as_str().as_bytes());
        variables.set_validated_domain("unknown".as_bytes());
        let name = target.eval(&variables, domain.as_str(), false).into_owned();
        Domain::parse_tolerant(&name)
            .map_err(|error| Verdict::PermError(format!("in the SPF record of {domain}: {name:?}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_runtime::dns::StaticDns;
    use proptest::prelude::*;

    use super::*;

    fn domain(text: &str) -> Domain {
        Domain::parse_tolerant(text).unwrap()
    }

    fn zone() -> StaticDns {
        StaticDns::new()
            .address_record(domain("mail.proseware.test"), "192.0.2.25".parse().unwrap())
            .address_record(domain("mail.proseware.test"), "2001:db8::25".parse().unwrap())
            .mx_record(domain("mx.test"), 10, domain("mail.proseware.test"))
            .txt_record(domain("_spf.proseware.test"), "v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 -all")
            .txt_record(domain("two.test"), "v=spf1 -all")
            .txt_record(domain("two.test"), "v=spf1 +all")
            .txt_record(domain("other.test"), "google-site-verification=x")
            .txt_record(domain("other.test"), "v=spf10 +all")
            .txt_record(domain("loop.test"), "v=spf1 include:loop.test -all")
            .address_record(domain("25.2.0.192.ok.test"), "127.0.0.2".parse().unwrap())
            .failing(domain("broken.test"))
    }

    async fn verdict(record: &str) -> Verdict {
        verdict_of(&zone().txt_record(domain("adatum.test"), record), "adatum.test").await
    }

    async fn verdict_of(dns: &StaticDns, name: &str) -> Verdict {
        check_host(dns, "192.0.2.25".parse().unwrap(), &domain(name), &domain("mail.proseware.test")).await
    }

    #[tokio::test]
    async fn records_are_evaluated_as_rfc_7208_says() {
        for (record, expected) in [
            ("v=spf1 ip4:192.0.2.25 -all", Verdict::Pass),
            ("V=SPF1 IP4:192.0.2.0/24 -ALL", Verdict::Pass),
            ("v=spf1 ip4:192.0.2.24/31 -all", Verdict::Pass),
            ("v=spf1 ip4:192.0.2.26 -all", Verdict::Fail),
            ("v=spf1 ip6:::/0 ~all", Verdict::SoftFail),
            ("v=spf1 ip4:0.0.0.0/0 -all", Verdict::Pass),
            ("v=spf1 -ip4:192.0.2.25 +all", Verdict::Fail),
            ("v=spf1", Verdict::Neutral),
            ("v=spf1 ?all", Verdict::Neutral),
            ("v=spf1 a:mail.proseware.test -all", Verdict::Pass),
            ("v=spf1 a:mail.proseware.test. -all", Verdict::Pass),
            ("v=spf1 mx:mx.test -all", Verdict::Pass),
            ("v=spf1 a:mail.proseware.test/24//64 -all", Verdict::Pass),
            ("v=spf1 mx:mx.test//64 -all", Verdict::Pass),
            ("v=spf1 a mx -all", Verdict::Fail),
            ("v=spf1 include:_spf.proseware.test -all", Verdict::Pass),
            ("v=spf1 ?include:_spf.proseware.test -all", Verdict::Neutral),
            ("v=spf1 redirect=_spf.proseware.test", Verdict::Pass),
            ("v=spf1 redirect=_spf.proseware.test -all", Verdict::Fail),
            ("v=spf1 exists:%{ir}.ok.test -all", Verdict::Pass),
            ("v=spf1 ptr -all", Verdict::Fail),
            ("v=spf1 unknown=modifier ip4:192.0.2.25 -all", Verdict::Pass),
        ] {
            assert_eq!(verdict(record).await, expected, "{record}");
        }
    }

    #[tokio::test]
    async fn a_record_that_cannot_be_evaluated_says_why() {
        for (record, why) in [
            ("v=spf1 ip:192.0.2.25 -all", "no mechanism \"ip:192.0.2.25\""),
            ("v=spf1 ipv4:192.0.2.25 -all", "no mechanism"),
            ("v=spf1 ip4:192.0.2.25.1 -all", "cannot be read"),
            ("v=spf1 a/64 -all", "prefix"),
            ("v=spf1 a//200 -all", "prefix"),
            ("v=spf1 mx/24//129 -all", "prefix"),
            ("v=spf1 mx/24/64 -all", "prefix"),
            ("v=spf1 ip4:192.0.2.0/99 -all", "prefix"),
            ("v=spf1 ip6:2001:db8::/129 -all", "prefix"),
            ("v=spf1 include:nowhere.test -all", "include:nowhere.test"),
            ("v=spf1 include:other.test -all", "include:other.test"),
            ("v=spf1 include:two.test -all", "2 SPF records"),
            ("v=spf1 redirect=nowhere.test", "redirect=nowhere.test"),
            ("v=spf1 include:loop.test -all", "more than 10 look-ups"),
            ("v=spf1 a:x1.test a:x2.test a:x3.test -all", "find nothing"),
            ("v=spf1 include:a..b -all", "a..b"),
            ("v=spf1 \u{fc} -all", "ASCII"),
        ] {
            let found = verdict(record).await;
            assert!(matches!(&found, Verdict::PermError(text) if text.contains(why)), "{record}: {found}");
        }
        let two = Verdict::PermError("two.test has 2 SPF records".to_owned());
        assert_eq!(verdict_of(&zone(), "two.test").await, two);
        assert_eq!(verdict_of(&zone(), "other.test").await, Verdict::None);
    }

    #[tokio::test]
    async fn trouble_is_never_a_verdict_about_the_address() {
        for record in [
            "v=spf1 a:broken.test ip4:192.0.2.25 -all",
            "v=spf1 mx:broken.test -all",
            "v=spf1 include:broken.test ip4:192.0.2.25 -all",
            "v=spf1 redirect=broken.test",
        ] {
            assert!(matches!(verdict(record).await, Verdict::TempError(_)), "{record}");
        }
        assert!(matches!(verdict_of(&zone(), "broken.test").await, Verdict::TempError(_)));
        // What matched before is not in doubt.
        assert_eq!(verdict("v=spf1 ip4:192.0.2.25 a:broken.test -all").await, Verdict::Pass);
    }

    #[test]
    fn whoever_lets_everybody_send_is_found() {
        assert!(lets_everybody("v=spf1 ip4:192.0.2.25 +all") && lets_everybody("v=spf1 all"));
        assert!(!lets_everybody("v=spf1 ~all") && !lets_everybody("v=spf1 ip:1 +all"));
    }

    #[tokio::test]
    async fn the_cost_of_a_record_counts_what_is_behind_a_match_too() {
        let record =
            "v=spf1 +all a mx:mx.test include:_spf.proseware.test exists:%{i}.x.test ptr a:gone.test";
        let cost = cost(&zone(), record, &domain("adatum.test")).await;
        assert_eq!(
            cost,
            Cost { lookups: 6, void: vec!["adatum.test".into(), "gone.test".into()], ptr: true }
        );
        let endless = super::cost(&zone(), "v=spf1 include:loop.test -all", &domain("loop.test")).await;
        assert_eq!(endless.lookups, MOST_COUNTED);
    }

    proptest! {
        #[test]
        fn no_record_panics(terms in "( ?[-+~?]?(a|mx|ip4|ip6|include|exists|redirect|exp|ptr|all|x)?[:=/.%{}a-z0-9_]{0,12}){0,8}") {
            let record = format!("v=spf1 {terms}");
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                verdict(&record).await;
                cost(&zone(), &record, &domain("adatum.test")).await;
            });
        }
    }
}
