//! `[[policy.dnsbl]]`: lists of clients in DNS (RFC 5782).

use std::collections::HashMap;
use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use postern_smtp::Domain;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Policy;
use crate::check::{at_least_one, no_duplicates, not_zero};
use crate::relay::check_network;
use crate::source::{Findings, Node};
use crate::units;

/// Each list is a question for every stranger who comes.
const MOST_LISTS: usize = 20;
/// An IPv6 address takes 64 octets in front of the zone (RFC 5782 §2.4), and a name has at most 253.
const LONGEST_ZONE: usize = 253 - 64;
/// In a reply, it stands beside the names of other lists.
const LONGEST_LABEL: usize = 64;
/// It is one part of a reply of some lines.
const LONGEST_TEXT: usize = 400;

/// A list in DNS of clients: of those whose mail nobody should take, or, with a negative weight, of good ones.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsList {
    /// The zone: `zen.example.test` is asked for `9.100.51.198.zen.example.test`. Read the terms of the list before you use it.
    #[serde(with = "units::domain")]
    #[schemars(with = "String")]
    pub zone: Domain,
    /// How replies, logs and metrics call the list. Default: its zone. Set it where the zone holds a key that nobody should see.
    #[serde(default)]
    pub label: Option<String>,
    /// The answers that count: addresses or networks in 127.0.0.0/8. Empty: all of it but 127.255.255.0/24, where lists say that
    /// they do not answer this server.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub answers: Vec<AnswerRange>,
    /// What a listed client weighs: it is refused when all lists together come to `policy.dnsbl_threshold`. Negative for lists of
    /// good clients.
    #[serde(default = "one")]
    pub weight: i32,
    /// What follows where the client is on the list.
    #[serde(default)]
    pub action: ListAction,
    /// What a client that is refused is told to do, in ASCII, such as `see https://check.example.test/{client}`; `{client}` is its
    /// address.
    #[serde(default)]
    pub text: Option<String>,
}

/// What follows from a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ListAction {
    /// Its weight counts.
    #[default]
    Reject,
    /// Nothing: log, metrics and explanations say what it would have said. For trying a list out.
    Log,
}

/// Answers of a list: one address, or a network of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct AnswerRange(pub Ipv4Net);

impl TryFrom<String> for AnswerRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let network = text.parse().or_else(|_| text.parse::<Ipv4Addr>().map(Ipv4Net::from));
        let wrong = |_| format!("{text:?} is no answer of a list: write \"127.0.0.2\" or \"127.0.0.4/30\"");
        network.map(Self).map_err(wrong)
    }
}

impl fmt::Display for AnswerRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.prefix_len() {
            32 => self.0.addr().fmt(f),
            _ => self.0.fmt(f),
        }
    }
}

fn one() -> i32 {
    1
}

/// Whether an answer says anything of the client. Lists answer within 127.0.0.0/8 (RFC 5782 §2.1), and use 127.255.255.0/24 for
/// "you may not ask" and the like. Other addresses come from zones that were sold or given up.
pub fn is_listing(answer: Ipv4Addr) -> bool {
    answer.is_loopback() && answer.octets()[1..3] != [255, 255]
}

impl DnsList {
    /// How the list is called.
    pub fn label(&self) -> &str {
        self.label.as_deref().unwrap_or(self.zone.as_str())
    }

    /// Whether an answer of the list counts.
    pub fn counts(&self, answer: Ipv4Addr) -> bool {
        let is_named = || self.answers.iter().any(|range| range.0.contains(&answer));
        is_listing(answer) && (self.answers.is_empty() || is_named())
    }

    fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        if self.zone.as_str().len() > LONGEST_ZONE {
            let message = format!("the zone is longer than {LONGEST_ZONE} octets");
            findings.error(&node.key("zone"), message, "there is no room for an IPv6 address in front of it");
        }
        if let Some(label) = &self.label
            && (label.trim().is_empty() || label.len() > LONGEST_LABEL || !is_printable(label))
        {
            let help = format!("write up to {LONGEST_LABEL} characters of ASCII: it stands in replies");
            findings.error(&node.key("label"), format!("{label:?} is no label of a list"), help);
        }
        for (node, range) in node.each("answers", &self.answers) {
            range.check(&node, findings);
        }
        if self.weight == 0 {
            let help =
                "write 1 or more, less than 0 for a list of good clients, or action = \"log\" to try it out";
            findings.error(&node.key("weight"), "`weight` is 0: the list would never count", help);
        }
        if let Some(text) = &self.text {
            check_text(text, &node.key("text"), findings);
        }
    }

    /// The list and what counts of it: what two entries must not share.
    fn identity(&self) -> String {
        let mut answers: Vec<String> = self.answers.iter().map(ToString::to_string).collect();
        answers.sort();
        match answers.is_empty() {
            true => self.zone.to_string(),
            false => format!("{} with {}", self.zone, answers.join(", ")),
        }
    }
}

impl AnswerRange {
    fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        check_network(node, self.0.into(), findings);
        if !is_listing(self.0.network()) || !is_listing(self.0.broadcast()) {
            let message = format!("{self} is no answer that a list gives of a client");
            let help = "lists answer within 127.0.0.0/8; what is outside it and 127.255.255.x say that the list is broken";
            findings.error(node, message, help);
        }
    }
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

fn check_text(text: &str, at: &Node<'_>, findings: &mut Findings<'_>) {
    if text.trim().is_empty() || text.len() > LONGEST_TEXT || !is_printable(text) {
        let help = format!("write one line of up to {LONGEST_TEXT} characters of ASCII, or leave it out");
        findings.error(at, "this is no text for a reply", help);
    }
    if text.replace("{client}", "").contains(['{', '}']) {
        findings.error(at, "the text has a placeholder that does not exist", "there is {client}");
    }
}

/// The lists, and what belongs to all of them.
pub(super) fn check(policy: &Policy, node: &Node<'_>, findings: &mut Findings<'_>) {
    let lists = &policy.dnsbl;
    for (node, list) in node.each("dnsbl", lists) {
        list.check(&node, findings);
    }
    let array = node.key("dnsbl");
    if lists.len() > MOST_LISTS {
        let help = format!("keep {MOST_LISTS} at most: each is a question for every stranger who comes");
        findings.error(&array.item(MOST_LISTS), "too many lists", help);
    }
    let identities: Vec<_> = lists.iter().map(|list| Some(list.identity())).collect();
    no_duplicates(&array, "zone", "list", &identities, findings);
    labels_tell_zones_apart(lists, &array, findings);
    for (node, network) in node.each("dnsbl_exempt", &policy.dnsbl_exempt) {
        check_network(&node, *network, findings);
    }
    not_zero(node, "dnsbl_timeout", policy.dnsbl_timeout, findings);
    at_least_one(node, "dnsbl_threshold", u64::from(policy.dnsbl_threshold), findings);
    threshold_can_be_reached(policy, node, findings);
}

fn labels_tell_zones_apart(lists: &[DnsList], array: &Node<'_>, findings: &mut Findings<'_>) {
    let mut zones: HashMap<&str, &Domain> = HashMap::new();
    for (at, list) in lists.iter().enumerate() {
        let first = zones.entry(list.label()).or_insert(&list.zone);
        if *first != &list.zone {
            let message = format!("the label {:?} is that of another zone, too", list.label());
            findings.error(&array.item(at).key("label"), message, "metrics could not tell them apart");
        }
    }
}

fn threshold_can_be_reached(policy: &Policy, node: &Node<'_>, findings: &mut Findings<'_>) {
    let refusing = policy.dnsbl.iter().filter(|list| list.action == ListAction::Reject && list.weight > 0);
    let weights: Vec<i64> = refusing.map(|list| i64::from(list.weight)).collect();
    let most: i64 = weights.iter().sum();
    if !weights.is_empty() && most < i64::from(policy.dnsbl_threshold) {
        let message = format!("all lists together weigh {most}: they never come to `dnsbl_threshold`");
        findings.warning(&node.key("dnsbl_threshold"), message, "nobody is ever refused by them");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn list(text: &str) -> DnsList {
        toml::from_str(&format!("zone = \"zen.example.test\"\n{text}")).unwrap()
    }

    fn counts(list: &DnsList, answer: &str) -> bool {
        list.counts(answer.parse().unwrap())
    }

    #[test]
    fn without_answers_of_ones_own_all_count_that_mean_listed() {
        let list = list("");
        assert!(["127.0.0.2", "127.0.0.1", "127.1.2.3", "127.255.254.1"].iter().all(|a| counts(&list, a)));
        assert!(!["127.255.255.254", "127.255.255.0", "203.0.113.7"].iter().any(|a| counts(&list, a)));
    }

    #[test]
    fn answers_are_addresses_or_networks() {
        let list = list("answers = [\"127.0.0.2\", \"127.0.0.4/30\"]");
        assert!(["127.0.0.2", "127.0.0.4", "127.0.0.7"].iter().all(|answer| counts(&list, answer)));
        assert!(!["127.0.0.3", "127.0.0.8", "127.255.255.254"].iter().any(|answer| counts(&list, answer)));
        assert_eq!(list.identity(), "zen.example.test with 127.0.0.2, 127.0.0.4/30");
    }

    #[test]
    fn the_zone_is_the_label_unless_it_has_one() {
        assert_eq!(list("").label(), "zen.example.test");
        assert_eq!(list("label = \"Zen\"").label(), "Zen");
        assert_eq!(list("action = \"log\"\nweight = -2").weight, -2);
        assert!(toml::from_str::<DnsList>("zone = \"a.test\"\naction = \"defer\"").is_err());
    }
}
