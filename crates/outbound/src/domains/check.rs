//! What DNS has of the records that a domain needs.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use postern_config::Config;
use postern_config::domain::Domain as LocalDomain;
use postern_policy::verification::{DnsRecord, LookUp, NO_KEY, Weight};
use postern_runtime::Dns;
use postern_runtime::dns::Answer;
use postern_smtp::Domain;

use super::keys::PublicKey;
use super::{mx, records};
use crate::facts::own_addresses;
use crate::facts::spf::{self, MOST_LOOKUPS, MOST_VOID_LOOKUPS, Published, Verdict};

/// All questions about one domain. A record may lead to some fifty, each of which may be asked twice.
const LIMIT: Duration = Duration::from_secs(120);
/// Names above a domain at which its DMARC policy may stand (RFC 9989 §4.10).
const MOST_DMARC_QUERIES: usize = 8;

const SPF: &str = "SPF";
const RETURN_PATH: &str = "return path";
const DMARC: &str = "DMARC";

/// Looks up everything that the domain needs. `keys` are those of the configuration.
pub async fn look_up(config: &Config, domain: &LocalDomain, keys: &[PublicKey], dns: &dyn Dns) -> LookUp {
    let mut check = Check { config, local: domain, domain: &domain.name, dns, found: LookUp::default() };
    if tokio::time::timeout(LIMIT, check.all(keys)).await.is_err() {
        let text = format!("DNS did not answer all questions within {} s", LIMIT.as_secs());
        check.found.add(Weight::Trouble, SPF, text, None);
    }
    check.found
}

struct Check<'c> {
    config: &'c Config,
    local: &'c LocalDomain,
    domain: &'c Domain,
    dns: &'c dyn Dns,
    found: LookUp,
}

impl Check<'_> {
    async fn all(&mut self, keys: &[PublicKey]) {
        match own_addresses(self.config, self.dns).await {
            Ok(addresses) => {
                let returns_here = self.return_path(&addresses).await;
                self.spf(&addresses, returns_here).await;
            }
            Err(why) => {
                self.found.add(Weight::Trouble, SPF, format!("what it says of us is not known: {why}"), None)
            }
        }
        if keys.is_empty() {
            let text = "no key is configured, so that mail is not signed: see `posternctl dkim generate`";
            self.found.add(Weight::Warning, NO_KEY, text, None);
        }
        for key in keys {
            self.dkim(key).await;
        }
        self.dmarc().await;
        let mx = mx::mx(self.config, self.local, self.dns).await;
        self.found.findings.push(mx);
    }

    /// Whether the return path of the domain is an alias of ours, and covers us.
    async fn return_path(&mut self, addresses: &[IpAddr]) -> bool {
        let names =
            records::return_path_name(self.domain).zip(records::return_path_target(&self.config.hostname));
        let Some((name, target)) = names else { return false };
        match self.dns.cname(&name).await {
            Answer::Records(found) if found == [target.clone()] => {}
            Answer::Records(found) => {
                let found: Vec<String> = found.iter().map(Domain::to_string).collect();
                let text = format!("{name} is an alias of {}, not of {target}", found.join(" and "));
                self.found.add(Weight::Warning, RETURN_PATH, text, None);
                return false;
            }
            // The usual case: the domain has an SPF record instead. Trouble with that is seen there.
            Answer::NoRecords | Answer::NoSuchName | Answer::TryLater(_) => return false,
        }
        for ip in addresses {
            match spf::check_host(self.dns, *ip, &name, &self.config.hostname).await {
                Verdict::Pass => {}
                Verdict::TempError(why) => {
                    self.found.add(Weight::Trouble, RETURN_PATH, why, None);
                    return true;
                }
                other => {
                    let text = format!("our own record behind {name} says of {ip}: {other}");
                    let publish = records::our_return_path_spf(self.config);
                    self.found.add(Weight::Error, RETURN_PATH, text, publish);
                    return true;
                }
            }
        }
        self.found.add(Weight::Note, RETURN_PATH, format!("{name} is an alias of {target}"), None);
        true
    }

    /// Where the return path is an alias of ours, the record of the domain itself need not name us.
    async fn spf(&mut self, addresses: &[IpAddr], returns_here: bool) {
        let (domain, config) = (self.domain, self.config);
        let weight = if returns_here { Weight::Warning } else { Weight::Error };
        let record = match spf::published(self.dns, domain).await {
            Published::Record(record) => record,
            Published::Nothing if returns_here => return,
            Published::Nothing => {
                let publish = records::spf(config, domain, None);
                self.found.add(Weight::Error, SPF, "there is no SPF record", Some(publish));
                return;
            }
            Published::Several(count) => {
                let text =
                    format!("there are {count} SPF records, so that none of them counts: make one of them");
                self.found.add(Weight::Error, SPF, text, None);
                return;
            }
            Published::Trouble(why) => {
                self.found.add(Weight::Trouble, SPF, why, None);
                return;
            }
        };
        for ip in addresses {
            match spf::check_host(self.dns, *ip, domain, &config.hostname).await {
                Verdict::Pass => self.found.add(Weight::Note, SPF, format!("covers {ip}"), None),
                Verdict::TempError(why) => self.found.add(Weight::Trouble, SPF, why, None),
                // To name us too would not help.
                other @ Verdict::PermError(_) => {
                    self.found.add(weight, SPF, format!("{other}: {record}"), None)
                }
                other => {
                    let publish = records::spf(config, domain, Some(&record));
                    let text = format!("the record says of {ip}: {other}");
                    self.found.add(weight, SPF, text, Some(publish));
                }
            }
        }
        self.spf_cost(&record).await;
    }

    async fn spf_cost(&mut self, record: &str) {
        let cost = spf::cost(self.dns, record, self.domain).await;
        if cost.lookups > MOST_LOOKUPS {
            let text = format!(
                "it takes {} look-ups; at more than {MOST_LOOKUPS} receivers give up (RFC 7208 section 4.6.4)",
                cost.lookups
            );
            self.found.add(Weight::Warning, SPF, text, None);
        }
        if !cost.void.is_empty() {
            let text = format!(
                "look-ups that find nothing: {}; at more than {MOST_VOID_LOOKUPS} receivers give up",
                cost.void.join(", ")
            );
            self.found.add(Weight::Warning, SPF, text, None);
        }
        if cost.ptr {
            let text = "it uses ptr, which is slow and which receivers may ignore (RFC 7208 section 5.5)";
            self.found.add(Weight::Warning, SPF, text, None);
        }
        if spf::lets_everybody(record) {
            self.found.add(Weight::Warning, SPF, "+all lets everybody send for the domain", None);
        }
    }

    async fn dkim(&mut self, key: &PublicKey) {
        let subject = format!("DKIM {}", key.selector);
        let publish = match records::dkim(self.domain, key) {
            Ok(record) => record,
            Err(error) => return self.found.add(Weight::Error, &subject, error.to_string(), None),
        };
        let Ok(name) = Domain::parse_tolerant(&publish.name) else { return };
        let texts = match self.dns.txt(&name).await {
            Answer::Records(texts) => texts,
            Answer::NoRecords | Answer::NoSuchName => {
                let text = format!("there is no key at {name}");
                return self.found.add(Weight::Error, &subject, text, Some(publish));
            }
            Answer::TryLater(why) => {
                return self.found.add(Weight::Trouble, &subject, format!("TXT of {name}: {why}"), None);
            }
        };
        match published_key(&texts, key) {
            Ok(remarks) => {
                self.found.add(Weight::Note, &subject, format!("the key at {name} is ours"), None);
                for remark in remarks {
                    self.found.add(Weight::Warning, &subject, remark, Some(publish.clone()));
                }
            }
            Err(problem) => {
                self.found.add(Weight::Error, &subject, format!("{name}: {problem}"), Some(publish))
            }
        }
    }

    /// The policy stands at the domain or above it (RFC 9989 §4.10).
    async fn dmarc(&mut self) {
        let mut above = Some(self.domain.clone());
        for _ in 0..MOST_DMARC_QUERIES {
            let Some(at) = above.filter(|name| name.as_str().contains('.')) else { break };
            let Ok(name) = Domain::parse_tolerant(&format!("_dmarc.{at}")) else { break };
            match self.dns.txt(&name).await {
                Answer::Records(texts) if texts.iter().any(|text| is_dmarc(text)) => {
                    return self.dmarc_record(&name, &texts);
                }
                Answer::TryLater(why) => {
                    return self.found.add(Weight::Trouble, DMARC, format!("TXT of {name}: {why}"), None);
                }
                Answer::Records(_) | Answer::NoRecords | Answer::NoSuchName => {}
            }
            above = at.as_str().split_once('.').and_then(|(_, parent)| Domain::parse_tolerant(parent).ok());
        }
        self.found.add(Weight::Error, DMARC, "there is no DMARC record", self.dmarc_to_publish());
    }

    fn dmarc_record(&mut self, name: &Domain, texts: &[String]) {
        let mut policies = texts.iter().filter(|text| is_dmarc(text));
        let (Some(record), None) = (policies.next(), policies.next()) else {
            let text = format!("{name} has several DMARC records, so that none of them counts");
            return self.found.add(Weight::Error, DMARC, text, None);
        };
        match dmarc_policy(record) {
            Ok(policy) => self.found.add(Weight::Note, DMARC, format!("{name} has p={policy}"), None),
            Err(problem) => {
                self.found.add(
                    Weight::Error,
                    DMARC,
                    format!("{name}: {problem}: {record}"),
                    self.dmarc_to_publish(),
                );
            }
        }
    }

    fn dmarc_to_publish(&self) -> Option<DnsRecord> {
        records::dmarc(self.domain).ok()
    }
}

/// The tags of a record (RFC 6376 §3.2), names in lower case. `Err` is what is no tag.
fn tags(record: &str) -> Result<Vec<(String, &str)>, String> {
    let mut tags = Vec::new();
    for part in record.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        let Some((name, value)) = part.split_once('=') else {
            let shown: String = part.chars().take(40).collect();
            return Err(format!("{shown:?} is no tag with a value"));
        };
        tags.push((name.trim().to_ascii_lowercase(), value.trim()));
    }
    Ok(tags)
}

fn value<'t>(tags: &[(String, &'t str)], name: &str) -> Option<&'t str> {
    tags.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
}

/// Whether the key at a name is this one (RFC 6376 §3.6.1): remarks where it is, the problem where not.
fn published_key(texts: &[String], key: &PublicKey) -> Result<Vec<String>, String> {
    let [record] = texts else {
        return Err(format!("there are {} TXT records; verifiers take any of them", texts.len()));
    };
    let tags = tags(record)?;
    if let Some(version) = value(&tags, "v").filter(|version| *version != "DKIM1") {
        return Err(format!("its version is {version:?}, not DKIM1"));
    }
    let algorithm = value(&tags, "k").unwrap_or("rsa");
    if !algorithm.eq_ignore_ascii_case(key.algorithm) {
        return Err(format!("its kind is k={algorithm}, ours is k={}", key.algorithm));
    }
    let list = |name| value(&tags, name).map(|list| list.split(':').map(str::trim).collect::<Vec<_>>());
    if list("h").is_some_and(|hashes| !hashes.iter().any(|hash| hash.eq_ignore_ascii_case("sha256"))) {
        return Err("its h= does not allow sha256, which we sign with".to_owned());
    }
    if list("s")
        .is_some_and(|services| !services.iter().any(|s| *s == "*" || s.eq_ignore_ascii_case("email")))
    {
        return Err("its s= does not allow email".to_owned());
    }
    let octets: String =
        value(&tags, "p").ok_or("it has no p=, the key itself")?.split_whitespace().collect();
    if octets.is_empty() {
        return Err("the key is revoked: p= is empty".to_owned());
    }
    let octets = STANDARD.decode(octets).map_err(|error| format!("its p= is no base64: {error}"))?;
    if !key.is(&octets) {
        return Err("another key is published there".to_owned());
    }
    let is_test = list("t").is_some_and(|flags| flags.iter().any(|flag| flag.eq_ignore_ascii_case("y")));
    Ok(is_test
        .then(|| "t=y says that it is a test: verifiers may take mail as unsigned".to_owned())
        .into_iter()
        .collect())
}

fn is_dmarc(text: &str) -> bool {
    let Some((tag, version)) = text.split(';').next().and_then(|first| first.split_once('=')) else {
        return false;
    };
    tag.trim() == "v" && version.trim() == "DMARC1"
}

fn dmarc_policy(record: &str) -> Result<String, String> {
    const POLICIES: [&str; 3] = ["none", "quarantine", "reject"];
    let tags = tags(record)?;
    let policy = value(&tags, "p").ok_or("it has no p=")?.to_ascii_lowercase();
    match POLICIES.contains(&policy.as_str()) {
        true => Ok(policy),
        false => Err(format!("p={policy} is none of none, quarantine and reject")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_policy::verification::{Finding, Outcome};
    use postern_runtime::dns::StaticDns;

    use super::*;

    fn domain(text: &str) -> Domain {
        Domain::parse_tolerant(text).unwrap()
    }

    fn key() -> PublicKey {
        PublicKey { selector: "2026a".to_owned(), algorithm: "ed25519", octets: vec![7; 32] }
    }

    const SPF_RECORD: &str = "v=spf1 ip4:192.0.2.25 -all";

    /// Everything but what the test adds under these names.
    struct Zone {
        spf: Vec<&'static str>,
        dkim: Vec<String>,
        dmarc: Vec<&'static str>,
    }

    impl Default for Zone {
        fn default() -> Self {
            Self { spf: vec![SPF_RECORD], dkim: vec![key().record()], dmarc: vec!["v=DMARC1; p=reject"] }
        }
    }

    impl Zone {
        fn dns(&self) -> StaticDns {
            let mut dns =
                StaticDns::new().mx_record(domain("adatum.test"), 10, domain("mail.proseware.test"));
            for record in &self.spf {
                dns = dns.txt_record(domain("adatum.test"), record);
            }
            for record in &self.dkim {
                dns = dns.txt_record(domain("2026a._domainkey.adatum.test"), record);
            }
            for record in &self.dmarc {
                dns = dns.txt_record(domain("_dmarc.adatum.test"), record);
            }
            dns
        }
    }

    async fn looked(dns: StaticDns) -> LookUp {
        let config: Config = toml::from_str(
            "hostname = \"mail.proseware.test\"\npolicy.public_addresses = [\"192.0.2.25\"]\n[[domain]]\nname = \"adatum.test\"",
        )
        .unwrap();
        look_up(&config, &config.domains[0], &[key()], &dns).await
    }

    /// The errors and troubles, as `DKIM 2026a: ...`.
    fn wrong(found: &LookUp) -> Vec<String> {
        let wrong = found.findings.iter().filter(|f| matches!(f.weight, Weight::Error | Weight::Trouble));
        wrong.map(|finding| format!("{}: {}", finding.subject, finding.text)).collect()
    }

    #[track_caller]
    fn assert_one(found: &LookUp, subject: &str, text: &str) {
        let wrong = wrong(found);
        assert!(
            matches!(&wrong[..], [only] if only.starts_with(subject) && only.contains(text)),
            "expected {subject} ... {text}, found {wrong:#?}"
        );
    }

    #[tokio::test]
    async fn a_missing_mx_is_warned_of_and_says_nothing_about_sending() {
        let found = looked(StaticDns::new()).await;
        let mx = found.findings.iter().find(|finding| finding.subject == "MX").unwrap();
        assert_eq!(mx.weight, Weight::Warning);
        assert_eq!(mx.publish.as_ref().unwrap().zone_line(), "adatum.test. IN MX 10 mail.proseware.test.");
        let only_mx =
            LookUp { findings: vec![mx.clone(), Finding { weight: Weight::Trouble, ..mx.clone() }] };
        assert_eq!(only_mx.outcome(), Outcome::InOrder);
    }

    #[tokio::test]
    async fn a_domain_in_order_is_in_order() {
        let found = looked(Zone::default().dns()).await;
        assert_eq!(found.outcome(), Outcome::InOrder, "{found:?}");
        assert!(found.findings.iter().all(|finding| finding.weight == Weight::Note), "{found:?}");
        assert!(found.findings.iter().any(|finding| finding.text.contains("comes to mail.proseware.test")));
    }

    #[tokio::test]
    async fn what_is_wrong_with_spf_is_said_with_what_to_publish() {
        for (records, text, publish) in [
            (&[][..], "no SPF record", Some("v=spf1 ip4:192.0.2.25 ~all")),
            (&["v=spf1 mx -all"], "says of 192.0.2.25: fail", Some("v=spf1 mx ip4:192.0.2.25 -all")),
            (&["v=spf1 ?all"], "neutral", Some("v=spf1 ip4:192.0.2.25 ?all")),
            (&[SPF_RECORD, "v=spf1 -all"], "2 SPF records", None),
            (&["v=spf1 ip:192.0.2.25 -all"], "no mechanism", None),
            (&["v=spf1 include:broken.test -all"], "server failure", None),
        ] {
            let dns = Zone { spf: records.to_vec(), ..Zone::default() }.dns().failing(domain("broken.test"));
            let found = looked(dns).await;
            assert_one(&found, SPF, text);
            let shown =
                found.findings.iter().find(|f| matches!(f.weight, Weight::Error | Weight::Trouble)).unwrap();
            assert_eq!(shown.publish.as_ref().map(|record| record.value.as_str()), publish, "{records:?}");
        }
    }

    #[tokio::test]
    async fn a_costly_or_careless_spf_record_is_a_warning() {
        let record = "v=spf1 ip4:192.0.2.25 a a a a a a a a a a a:gone.test ptr +all";
        let found = looked(Zone { spf: vec![record], ..Zone::default() }.dns()).await;
        assert_eq!(found.outcome(), Outcome::InOrder);
        let warnings: Vec<&str> =
            found.findings.iter().filter(|f| f.weight == Weight::Warning).map(|f| f.text.as_str()).collect();
        for (warning, text) in warnings.iter().zip(["12 look-ups", "gone.test", "ptr", "+all"]) {
            assert!(warning.contains(text), "{warnings:?}");
        }
        assert_eq!(warnings.len(), 4, "{warnings:?}");
    }

    #[tokio::test]
    async fn the_alias_of_a_return_path_stands_for_spf() {
        let zone = |spf: &str| {
            Zone { spf: Vec::new(), ..Zone::default() }
                .dns()
                .cname_record(domain("postern-return.adatum.test"), domain("return.mail.proseware.test"))
                .txt_record(domain("return.mail.proseware.test"), spf)
        };
        assert_eq!(looked(zone(SPF_RECORD)).await.outcome(), Outcome::InOrder);
        assert_one(&looked(zone("v=spf1 -all")).await, RETURN_PATH, "our own record");
        let elsewhere = Zone { spf: Vec::new(), ..Zone::default() }
            .dns()
            .cname_record(domain("postern-return.adatum.test"), domain("return.other.test"));
        assert_one(&looked(elsewhere).await, SPF, "no SPF record");
        // Two records harm mail all the same.
        let two = zone(SPF_RECORD)
            .txt_record(domain("adatum.test"), "v=spf1 -all")
            .txt_record(domain("adatum.test"), SPF_RECORD);
        assert_one(&looked(two).await, SPF, "2 SPF records");
    }

    #[tokio::test]
    async fn a_published_key_must_be_ours() {
        let right = key().record();
        let p = right.rsplit_once("p=").unwrap().1;
        for (record, text) in [
            ("v=DKIM1; k=ed25519; p=".to_owned(), "revoked"),
            (format!("v=DKIM1; p={p}"), "k=rsa"),
            (format!("v=DKIM1; k=ed25519; p={}", STANDARD.encode([8; 32])), "another key"),
            ("v=DKIM1; k=ed25519".to_owned(), "no p="),
            ("v=DKIM1; k=ed25519; p=%%".to_owned(), "no base64"),
            (format!("v=DKIM2; k=ed25519; p={p}"), "DKIM2"),
            (format!("v=DKIM1; k=ed25519; h=sha1; p={p}"), "sha256"),
            (format!("v=DKIM1; k=ed25519; s=tlsrpt; p={p}"), "email"),
            ("rubbish".to_owned(), "no tag"),
        ] {
            let found = looked(Zone { dkim: vec![record.clone()], ..Zone::default() }.dns()).await;
            assert_one(&found, "DKIM 2026a", text);
            let publish = found.findings.iter().find_map(|finding| finding.publish.as_ref()).unwrap();
            assert_eq!(
                (publish.name.as_str(), publish.value.as_str()),
                ("2026a._domainkey.adatum.test.", right.as_str())
            );
        }
        assert_one(&looked(Zone { dkim: Vec::new(), ..Zone::default() }.dns()).await, "DKIM 2026a", "no key");
        let two = Zone { dkim: vec![right.clone(), right.clone()], ..Zone::default() };
        assert_one(&looked(two.dns()).await, "DKIM 2026a", "2 TXT records");
    }

    #[tokio::test]
    async fn a_key_in_another_spelling_or_under_test_is_ours() {
        let record = key().record();
        let (head, p) = record.rsplit_once("p=").unwrap();
        let spaced = format!(" K=ED25519 ; s=email:x;p={} {} ;", &p[..9], &p[9..]);
        assert_eq!(
            wrong(&looked(Zone { dkim: vec![spaced], ..Zone::default() }.dns()).await),
            Vec::<String>::new()
        );
        let test = looked(Zone { dkim: vec![format!("{head}t=s:y; p={p}")], ..Zone::default() }.dns()).await;
        assert_eq!(test.outcome(), Outcome::InOrder);
        assert!(
            test.findings.iter().any(|f| f.weight == Weight::Warning && f.text.contains("t=y")),
            "{test:?}"
        );
    }

    #[tokio::test]
    async fn a_dmarc_record_must_be_one_and_have_a_policy() {
        for (records, text) in [
            (&[][..], "no DMARC record"),
            (&["v=spf1 -all"], "no DMARC record"),
            (&["v=DMARC1; rua=mailto:x@y.test"], "no p="),
            (&["v=DMARC1; p=maybe"], "p=maybe"),
            (&["v=DMARC1; p=none", "v=DMARC1; p=reject"], "several"),
        ] {
            assert_one(&looked(Zone { dmarc: records.to_vec(), ..Zone::default() }.dns()).await, DMARC, text);
        }
        let above = Zone { dmarc: Vec::new(), ..Zone::default() }.dns();
        let config: Config =
            toml::from_str("hostname = \"mail.proseware.test\"\npolicy.public_addresses = [\"192.0.2.25\"]\n[[domain]]\nname = \"news.adatum.test\"").unwrap();
        let above = above
            .txt_record(domain("_dmarc.adatum.test"), "v=DMARC1; p=none")
            .txt_record(domain("news.adatum.test"), SPF_RECORD);
        let found = look_up(&config, &config.domains[0], &[], &above).await;
        assert_eq!(found.outcome(), Outcome::InOrder, "{found:?}");
    }

    #[tokio::test]
    async fn trouble_with_dns_decides_nothing() {
        for name in ["adatum.test", "2026a._domainkey.adatum.test", "_dmarc.adatum.test"] {
            let found = looked(Zone::default().dns().failing(domain(name))).await;
            assert_eq!(found.outcome(), Outcome::Undecided, "{name}: {found:?}");
        }
    }
}
