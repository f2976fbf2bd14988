//! Is the client on lists in DNS of those whose mail nobody should take?
//!
//! Asked about strangers only, and only about what would be accepted otherwise.

use std::net::IpAddr;

use postern_config::Config;
use postern_config::policy::{DnsList, ListAction};
use postern_smtp::{Domain, ForwardPath};

use super::client::known_client;
use super::{Question, Reason, Stage, Trace};
use crate::Policy;
use crate::directory::Resolution;
use crate::facts::Wanted;
use crate::networks::Networks;
use crate::standing::blocklists::Said;

/// `[[policy.dnsbl]]` and what belongs to it, compiled.
#[derive(Debug)]
pub struct Lists {
    lists: Vec<DnsList>,
    /// Each once, with the label of its first list.
    zones: Vec<(Domain, String)>,
    threshold: i64,
    exempt: Networks<()>,
    ask_private: bool,
}

impl Lists {
    pub(super) fn new(config: &Config) -> Self {
        let policy = &config.policy;
        let mut zones: Vec<(Domain, String)> = Vec::new();
        for list in &policy.dnsbl {
            if !zones.iter().any(|(zone, _)| *zone == list.zone) {
                zones.push((list.zone.clone(), list.label().to_owned()));
            }
        }
        Self {
            lists: policy.dnsbl.clone(),
            zones,
            threshold: policy.dnsbl_threshold.into(),
            exempt: policy.dnsbl_exempt.iter().map(|network| (*network, ())).collect(),
            ask_private: policy.dnsbl_private,
        }
    }

    /// The zones that are asked, each with what it is called.
    pub fn zones(&self) -> impl Iterator<Item = (&Domain, &str)> {
        self.zones.iter().map(|(zone, label)| (zone, label.as_str()))
    }

    /// What the list in a zone is called; `None`: it is not asked.
    pub fn label(&self, zone: &Domain) -> Option<&str> {
        self.zones().find(|(asked, _)| *asked == zone).map(|(_, label)| label)
    }
}

/// What a list makes of a client.
struct Finding<'l> {
    list: &'l DnsList,
    /// The answers that count; none: it does not list the client.
    answers: Vec<String>,
    /// In words.
    fact: String,
}

/// Looks at every list, where the client is a stranger.
///
/// # Errors
/// The lists together refuse the client.
pub(super) fn check(
    question: &Question<'_>,
    path: &ForwardPath,
    policy: &Policy,
    trace: &mut Trace,
) -> Result<(), Reason> {
    const RULE: &str = "blocklist";
    let rules = &policy.relay.blocklists;
    if rules.lists.is_empty() {
        return Ok(());
    }
    if let Some(why) = spared(question, path, policy) {
        trace.rule(RULE, false, format!("no list is asked: {why}"));
        return Ok(());
    }
    let findings: Vec<Finding<'_>> = rules.lists.iter().map(|list| look(list, question, policy)).collect();
    for finding in &findings {
        trace.rule(RULE, !finding.answers.is_empty(), &finding.fact);
    }
    let counting =
        |finding: &&Finding<'_>| !finding.answers.is_empty() && finding.list.action == ListAction::Reject;
    let counting: Vec<&Finding<'_>> = findings.iter().filter(counting).collect();
    let weight: i64 = counting.iter().map(|finding| i64::from(finding.list.weight)).sum();
    let fact =
        format!("the lists that have {} weigh {weight}, and {} refuses", client(question), rules.threshold);
    match trace.rule("weight of blocklists", weight >= rules.threshold, fact) {
        true => Err(reason(question, &counting, weight)),
        false => Ok(()),
    }
}

fn client(question: &Question<'_>) -> IpAddr {
    question.client.to_canonical()
}

/// Why the client is not looked up, if so.
fn spared(question: &Question<'_>, path: &ForwardPath, policy: &Policy) -> Option<String> {
    let (client, rules) = (client(question), &policy.relay.blocklists);
    if question.listener.is_submission() {
        return Some(format!("this is the {} port", question.listener.as_str()));
    }
    if let Some(login) = question.login {
        return Some(format!("logged in as {}", login.name));
    }
    if let Some(known) = known_client(question, policy) {
        return Some(format!("{client} {known}"));
    }
    if !rules.ask_private && is_private(client) {
        return Some(format!("{client} is a loopback or private address"));
    }
    if rules.exempt.matching(client).next().is_some() {
        return Some(format!("{client} is exempt by policy.dnsbl_exempt"));
    }
    is_contact(path).then(|| format!("everybody may write to {path} (RFC 5321 section 4.5.1, RFC 2142)"))
}

/// Addresses that no list in the world knows anything of.
fn is_private(client: IpAddr) -> bool {
    match client {
        IpAddr::V4(ip) => {
            // RFC 6598 §7: the addresses of carriers' own networks.
            let is_carrier_grade = ip.octets()[0] == 100 && (64..128).contains(&ip.octets()[1]);
            ip.is_loopback()
                || ip.is_private()
                || ip.is_link_local()
                || ip.is_unspecified()
                || is_carrier_grade
        }
        IpAddr::V6(ip) => {
            ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_unspecified()
        }
    }
}

/// Whom somebody who is refused must be able to ask (RFC 5321 §4.5.1, RFC 2142 §4).
fn is_contact(path: &ForwardPath) -> bool {
    match path {
        ForwardPath::Postmaster => true,
        ForwardPath::Address(address) => {
            let local = address.local.as_str();
            local.eq_ignore_ascii_case("postmaster") || local.eq_ignore_ascii_case("abuse")
        }
    }
}

fn look<'l>(list: &'l DnsList, question: &Question<'_>, policy: &Policy) -> Finding<'l> {
    let (client, label) = (client(question), list.label());
    let said = policy.standing.blocklists.find(&list.zone, client, question.now);
    let mut answers = Vec::new();
    let fact = match said {
        Some(Said::Listed(all)) => {
            let counting = all.iter().filter(|answer| list.counts(**answer));
            answers = counting.map(ToString::to_string).collect();
            let all: Vec<String> = all.iter().map(ToString::to_string).collect();
            match (answers.is_empty(), list.action) {
                (true, _) => format!("{label} answers {} of {client}, which does not count", all.join(", ")),
                (false, ListAction::Reject) => {
                    format!("{label} lists {client} ({}), which weighs {}", answers.join(", "), list.weight)
                }
                (false, ListAction::Log) => {
                    format!("{label} lists {client} ({}), which is only logged", answers.join(", "))
                }
            }
        }
        Some(Said::NotListed) => format!("{label} does not list {client}"),
        Some(Said::Broken(answer)) => {
            format!(
                "{label} answers {answer} of {client}, which no list says of a client: it is not believed"
            )
        }
        Some(Said::Nothing(why)) => {
            format!("{label} does not say whether it lists {client}, so it counts as not listed: {why}")
        }
        None => format!("{label} has not been asked about {client} yet; a client waits for its answer"),
    };
    Finding { list, answers, fact }
}

/// Lists of good clients are no reason.
fn reason(question: &Question<'_>, counting: &[&Finding<'_>], weight: i64) -> Reason {
    let client = client(question).to_string();
    let against = || counting.iter().filter(|finding| finding.list.weight > 0);
    let mut lists: Vec<&str> = Vec::new();
    against().map(|finding| finding.list.label()).for_each(|label| {
        if !lists.contains(&label) {
            lists.push(label);
        }
    });
    let answers: Vec<&str> = against().flat_map(|finding| &finding.answers).map(String::as_str).collect();
    let text = against().find_map(|finding| finding.list.text.as_ref());
    Reason::Blocklisted {
        lists: lists.join(" and "),
        answers: answers.join(", "),
        weight,
        text: text.map(|text| text.replace("{client}", &client)),
        client,
    }
}

/// The lists that must be asked first: those that say nothing yet of a stranger whose mail would be accepted.
pub(super) fn wanted(question: &Question<'_>, policy: &Policy) -> Vec<Wanted> {
    let rules = &policy.relay.blocklists;
    let Stage::Rcpt(path) = question.stage else { return Vec::new() };
    if rules.lists.is_empty() || spared(question, path, policy).is_some() {
        return Vec::new();
    }
    let client = client(question);
    let is_known = |zone| policy.standing.blocklists.find(zone, client, question.now).is_some();
    let unknown = rules.zones().filter(|(zone, _)| !is_known(zone));
    let mut wanted: Vec<_> =
        unknown.map(|(zone, _)| Wanted::Blocklist { zone: zone.clone(), client }).collect();
    if wanted.is_empty() || !is_ours(question, path, policy) {
        return Vec::new();
    }
    // Just after a start: the client may be a host that may relay, which is no stranger.
    let never_asked = policy.standing.hosts.never_asked(&policy.relay.hosts);
    wanted.extend(never_asked.into_iter().cloned().map(Wanted::HostName));
    wanted
}

/// Whether mail for the recipient is ours to take at all.
fn is_ours(question: &Question<'_>, path: &ForwardPath, policy: &Policy) -> bool {
    let is_relayed = || match path {
        ForwardPath::Postmaster => true,
        ForwardPath::Address(address) => {
            address.domain().is_some_and(|domain| policy.relay.is_relay_domain(domain))
        }
    };
    match policy.directory.resolve(path, question.local) {
        Resolution::Recipients(_) => true,
        Resolution::NotLocal => is_relayed(),
        Resolution::Unknown | Resolution::AliasLoop => false,
    }
}

/// What operators should know of the lists that are asked.
pub fn warnings(policy: &Policy) -> Vec<String> {
    let health = |(zone, label): (&Domain, &str)| {
        let trouble = policy.standing.blocklists.health(zone)?.trouble?;
        Some(format!("the list {label} of [[policy.dnsbl]] {trouble}"))
    };
    policy.relay.blocklists.zones().filter_map(health).collect()
}
