//! Where mail for a domain of ours goes. It says nothing about mail from it, but answers and bounces come there.

use postern_config::Config;
use postern_config::domain::Domain as LocalDomain;
use postern_policy::verification::{DnsRecord, Finding, MX, Weight};
use postern_runtime::Dns;
use postern_runtime::dns::Answer;
use postern_smtp::Domain;

/// What DNS says of it, and what would put it in order.
pub async fn mx(config: &Config, domain: &LocalDomain, dns: &dyn Dns) -> Finding {
    let hostname = &config.hostname;
    let (weight, text) = match dns.mx(&domain.name).await {
        Answer::Records(records) => {
            let hosts: Vec<&Domain> = records.iter().filter_map(|record| record.host.as_ref()).collect();
            of_hosts(&hosts, hostname, domain)
        }
        Answer::NoRecords | Answer::NoSuchName => {
            (Weight::Warning, "there is no MX record: answers and bounces may not arrive".to_owned())
        }
        Answer::TryLater(why) => (Weight::Trouble, format!("DNS did not say where mail for it goes: {why}")),
    };
    let publish = (weight == Weight::Warning).then(|| DnsRecord {
        name: format!("{}.", domain.name),
        kind: MX.to_owned(),
        value: format!("10 {hostname}."),
    });
    Finding { weight, subject: MX.to_owned(), text, publish }
}

fn of_hosts(hosts: &[&Domain], hostname: &Domain, domain: &LocalDomain) -> (Weight, String) {
    if hosts.is_empty() {
        return match domain.mailboxes.is_empty() {
            true => (Weight::Note, "it takes no mail (a null MX)".to_owned()),
            false => (Weight::Warning, "it takes no mail (a null MX), and has mailboxes here".to_owned()),
        };
    }
    if hosts.contains(&hostname) {
        return (Weight::Note, format!("mail for it comes to {hostname}"));
    }
    let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    (Weight::Note, format!("mail for it goes to {}, not to {hostname}", hosts.join(", ")))
}
