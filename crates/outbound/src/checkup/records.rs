//! The records of our domains: what [`crate::domains`] knows of them, and what else an operator should see.

use std::collections::HashSet;
use std::sync::Arc;

use postern_config::Config;
use postern_policy::checkup::Finding;
use postern_policy::verification::{self, Weight};
use postern_runtime::Dns;
use postern_smtp::Domain;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::domains::{keys, look_up};
use crate::facts::spf::{self, MOST_LOOKUPS, Published};

/// Domains that are looked up at once: resolvers have mail to care for.
const AT_ONCE: usize = 8;
/// Domains that are looked up; `posternctl domain verify --all` takes its time for all.
const MOST_DOMAINS: usize = 50;

/// Looks at every `[[domain]]`, in the order of the configuration. What is believed of them stays what it was.
pub(super) async fn of_domains(config: &Arc<Config>, dns: &Arc<dyn Dns>) -> Vec<Finding> {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut looking = JoinSet::new();
    for at in 0..config.domains.len().min(MOST_DOMAINS) {
        let (config, dns, room) = (config.clone(), dns.clone(), room.clone());
        looking.spawn(async move {
            // The semaphore is never closed.
            let _room = room.acquire().await;
            (at, of_domain(&config, at, &*dns).await)
        });
    }
    let mut found = looking.join_all().await;
    found.sort_by_key(|(at, _)| *at);
    let mut found: Vec<Finding> = found.into_iter().flat_map(|(_, found)| found).collect();
    if let Some(more) = config.domains.len().checked_sub(MOST_DOMAINS).filter(|more| *more > 0) {
        let text = format!("{more} more domains were not looked at");
        found.push(Finding::note("domains", text).mend("posternctl domain verify --all"));
    }
    found
}

async fn of_domain(config: &Arc<Config>, at: usize, dns: &dyn Dns) -> Vec<Finding> {
    let domain = &config.domains[at];
    let place = format!("domain {}", domain.name);
    let reading = config.clone();
    let read = tokio::task::spawn_blocking(move || keys::public_keys(&reading.domains[at])).await;
    let (keys, mut found) = match read {
        Ok(Ok(keys)) => (keys, Vec::new()),
        Ok(Err(error)) => (Vec::new(), vec![unread(&place, &error.to_string())]),
        Err(panic) => (Vec::new(), vec![unread(&place, &panic.to_string())]),
    };
    let looked = look_up(config, domain, &keys, dns).await;
    let is_read = found.is_empty();
    // A key that could not be read is not the same as none.
    let known =
        looked.findings.into_iter().filter(|finding| is_read || finding.subject != verification::NO_KEY);
    found.extend(known.map(|finding| told(&place, &domain.name, finding)));
    found.extend(spf_record(&place, &domain.name, dns).await);
    found
}

fn unread(place: &str, problem: &str) -> Finding {
    Finding::trouble(place, format!("a DKIM key cannot be read: {problem}"))
        .mend("let the daemon's user read the key, or run this as root")
}

fn told(place: &str, domain: &Domain, finding: verification::Finding) -> Finding {
    let text = format!("{}: {}", finding.subject, finding.text);
    let remedy = match (finding.publish, finding.weight) {
        (Some(record), _) => Some(format!("publish: {}", record.zone_line())),
        // There is no record to publish before there is a key.
        (None, _) if finding.subject == verification::NO_KEY => {
            Some(format!("posternctl dkim generate --domain {domain} --selector NAME"))
        }
        (None, Weight::Error | Weight::Warning) => Some(format!("posternctl domain records {domain}")),
        (None, Weight::Trouble | Weight::Note) => None,
    };
    Finding { weight: finding.weight, place: place.to_owned(), text, remedy }
}

/// What the record costs, and what stands in it twice.
async fn spf_record(place: &str, domain: &Domain, dns: &dyn Dns) -> Vec<Finding> {
    let Published::Record(record) = spf::published(dns, domain).await else { return Vec::new() };
    let cost = spf::cost(dns, &record, domain).await;
    let text = format!("SPF: it takes {} of {MOST_LOOKUPS} look-ups", cost.lookups);
    let mut found = vec![Finding::note(place, text)];
    let twice = duplicates(&record);
    if !twice.is_empty() {
        let text = format!("SPF: {} stands in it more than once: {record}", twice.join(" and "));
        found.push(Finding::warning(place, text).mend("publish the record with each of its terms once"));
    }
    found
}

fn duplicates(record: &str) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut twice: Vec<String> = Vec::new();
    for term in record.split_ascii_whitespace().map(str::to_ascii_lowercase) {
        // `+a` is what `a` means.
        let term = term.strip_prefix('+').unwrap_or(&term).to_owned();
        if !seen.insert(term.clone()) && !twice.contains(&term) {
            twice.push(term);
        }
    }
    twice
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_runtime::dns::StaticDns;

    use super::*;

    fn domain(text: &str) -> Domain {
        Domain::parse_tolerant(text).unwrap()
    }

    async fn of(keys: &str, dns: StaticDns) -> Vec<Finding> {
        let config: Config = toml::from_str(&format!(
            "hostname = \"mail.proseware.test\"\npolicy.public_addresses = [\"192.0.2.25\"]\n\
             [[domain]]\nname = \"adatum.test\"\nmailboxes = [\"carol\"]\n{keys}"
        ))
        .unwrap();
        let dns: Arc<dyn Dns> = Arc::new(dns);
        of_domains(&Arc::new(config), &dns).await
    }

    fn zone(spf: &str) -> StaticDns {
        StaticDns::new()
            .txt_record(domain("adatum.test"), spf)
            .txt_record(domain("_dmarc.adatum.test"), "v=DMARC1; p=none")
            .mx_record(domain("adatum.test"), 10, domain("mail.proseware.test"))
    }

    fn has(found: &[Finding], weight: Weight, text: &str) -> bool {
        found.iter().any(|finding| finding.weight == weight && finding.text.contains(text))
    }

    #[tokio::test]
    async fn the_cost_of_a_record_and_what_stands_twice_in_it_are_told() {
        let dns = zone("v=spf1 a mx include:spf.adatum.test +A ip4:192.0.2.25 -all")
            .txt_record(domain("spf.adatum.test"), "v=spf1 ip4:198.51.100.1 -all");
        let found = of("", dns).await;
        assert!(has(&found, Weight::Note, "SPF: it takes 4 of 10 look-ups"), "{found:#?}");
        assert!(has(&found, Weight::Warning, "SPF: a stands in it more than once"), "{found:#?}");
        assert!(has(&found, Weight::Note, "MX: mail for it comes to mail.proseware.test"), "{found:#?}");
        let key =
            found.iter().find(|finding| finding.text.starts_with("DKIM: no key is configured")).unwrap();
        let generate = "posternctl dkim generate --domain adatum.test --selector NAME";
        assert_eq!((key.weight, key.remedy.as_deref()), (Weight::Warning, Some(generate)));
        assert!(found.iter().all(|finding| finding.place == "domain adatum.test"));
    }

    #[tokio::test]
    async fn what_is_missing_has_the_record_to_publish() {
        let found = of("", StaticDns::new()).await;
        for (subject, record) in [
            ("SPF: ", "publish: adatum.test. IN TXT \"v=spf1 ip4:192.0.2.25 ~all\""),
            ("DMARC: ", "publish: _dmarc.adatum.test. IN TXT"),
            ("MX: ", "publish: adatum.test. IN MX 10 mail.proseware.test."),
        ] {
            let finding = found.iter().find(|finding| finding.text.starts_with(subject)).unwrap();
            let remedy = finding.remedy.clone().unwrap();
            assert!(finding.is_concern() && remedy.starts_with(record), "{finding:?}");
        }
        let twice =
            of("", zone("v=spf1 ip4:192.0.2.25 -all").txt_record(domain("adatum.test"), "v=spf1 -all")).await;
        assert!(has(&twice, Weight::Error, "there are 2 SPF records"), "{twice:#?}");
    }

    #[tokio::test]
    async fn a_key_that_cannot_be_read_is_not_called_missing() {
        let keys = "dkim = [{ selector = \"2026a\", key = \"/nonexistent/key.pem\" }]\n";
        let found = of(keys, zone("v=spf1 ip4:192.0.2.25 -all")).await;
        assert!(has(&found, Weight::Trouble, "/nonexistent/key.pem"), "{found:#?}");
        assert!(!has(&found, Weight::Warning, "no key is configured"), "{found:#?}");
    }

    #[tokio::test]
    async fn only_so_many_domains_are_looked_up() {
        let more: String = (0..60).map(|at| format!("[[domain]]\nname = \"d{at}.test\"\n")).collect();
        let found = of(&more, StaticDns::new()).await;
        assert!(has(&found, Weight::Note, "11 more domains"), "{:?}", found.last());
    }
}
