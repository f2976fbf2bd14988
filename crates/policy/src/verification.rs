//! Is the DNS of a `[[domain]]` in order? What a look-up found, and the state that follows from it.
//!
//! A domain is pending until a look-up finds everything in order, and verified then. It has failed after several look-ups in
//! a row with a definite answer that something is wrong: a record that somebody mends within the hour changes nothing, and
//! trouble with DNS never changes a state.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postern_config::{Config, RequireVerified, policy};
use serde::{Deserialize, Serialize};

use crate::Policy;

/// A string of a TXT record has at most so many octets (RFC 1035 §3.3.14).
const MAX_STRING: usize = 255;

/// What is believed of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It has never been in order.
    #[default]
    Pending,
    /// It was in order when it was looked at last, or is not known to have changed for long.
    Verified,
    /// Several look-ups in a row found something wrong.
    Failed,
}

impl State {
    /// All of them, for metrics.
    pub const ALL: [Self; 3] = [Self::Pending, Self::Verified, Self::Failed];

    /// The word in logs, metrics and replies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Verified => "verified",
            Self::Failed => "failed",
        }
    }
}

/// A record to be published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsRecord {
    /// The absolute name, with its final dot.
    pub name: String,
    /// `TXT`, `CNAME`, `MX`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text of a TXT record as it is, without quotes; of others what a zone file has.
    pub value: String,
}

impl DnsRecord {
    /// The line of a zone file: texts are quoted, and cut into strings of 255 octets.
    pub fn zone_line(&self) -> String {
        let Self { name, kind, value } = self;
        if kind != "TXT" {
            return format!("{name} IN {kind} {value}");
        }
        let strings: Vec<String> = value.as_bytes().chunks(MAX_STRING).map(quoted).collect();
        match strings.len() {
            0 => format!("{name} IN TXT \"\""),
            1 => format!("{name} IN TXT {}", strings[0]),
            _ => format!("{name} IN TXT ( {} )", strings.join(" ")),
        }
    }
}

/// RFC 1035 §5.1: a character that would mean something else stands behind a backslash, an octet beyond ASCII as its number.
fn quoted(octets: &[u8]) -> String {
    let mut text = String::from("\"");
    for octet in octets {
        match octet {
            b'"' | b'\\' => text.extend(['\\', char::from(*octet)]),
            b' '..=b'~' => text.push(char::from(*octet)),
            // Writing to a string cannot fail.
            _ => drop(write!(text, "\\{octet:03}")),
        }
    }
    text.push('"');
    text
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// The domain is not in order with it.
    Error,
    /// DNS did not say: nothing follows from it.
    Trouble,
    /// Somebody should look.
    Warning,
    /// Good to know.
    Note,
}

impl Weight {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Trouble => "trouble",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// One thing that a look-up found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How much it matters.
    pub weight: Weight,
    /// What it is about: `SPF`, `return path`, `DKIM 2026a`, `DMARC`, `MX`.
    pub subject: String,
    /// In words.
    pub text: String,
    /// What would put it in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish: Option<DnsRecord>,
}

/// The subject of a finding about where mail for the domain goes. Nothing about mail from it follows from that.
pub const MX: &str = "MX";
/// The subject of the finding that no DKIM key is configured.
pub const NO_KEY: &str = "DKIM";

/// What follows from a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Everything is there.
    InOrder,
    /// Something is wrong, and DNS said so.
    Lacking,
    /// Nothing is known to be wrong, but DNS did not say all.
    Undecided,
}

/// All that one look-up found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LookUp {
    /// In the order of the records: SPF, DKIM, DMARC, MX.
    pub findings: Vec<Finding>,
}

impl LookUp {
    /// Notes a finding.
    pub fn add(
        &mut self,
        weight: Weight,
        subject: &str,
        text: impl Into<String>,
        publish: Option<DnsRecord>,
    ) {
        self.findings.push(Finding { weight, subject: subject.to_owned(), text: text.into(), publish });
    }

    /// What follows.
    pub fn outcome(&self) -> Outcome {
        let of_sending = || self.findings.iter().filter(|finding| finding.subject != MX);
        let has = |weight| of_sending().any(|finding| finding.weight == weight);
        match (has(Weight::Error), has(Weight::Trouble)) {
            (true, _) => Outcome::Lacking,
            (false, true) => Outcome::Undecided,
            (false, false) => Outcome::InOrder,
        }
    }
}

/// Who had a domain looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its time had come.
    Timer,
    /// An operator. However often one asks within a minute, the domain does not fail for that.
    Operator,
}

/// What is known of a domain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DomainReport {
    /// What is believed.
    pub state: State,
    /// Since when, in seconds since 1970; 0 where it never was anything else.
    pub since: u64,
    /// When it was looked up last, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checked: Option<u64>,
    /// What that gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Look-ups in a row that found something wrong.
    pub failures: u32,
    /// What the last look-up found.
    pub findings: Vec<Finding>,
}

impl DomainReport {
    /// The report after another look-up. `tolerated` is how many failures in a row make a domain fail.
    #[must_use]
    pub fn after(&self, found: LookUp, cause: Cause, tolerated: u32, now: SystemTime) -> Self {
        let outcome = found.outcome();
        let failures = match (outcome, cause) {
            (Outcome::InOrder, _) => 0,
            (Outcome::Lacking, Cause::Timer) => self.failures.saturating_add(1),
            (Outcome::Lacking, Cause::Operator) | (Outcome::Undecided, _) => self.failures,
        };
        let state = match outcome {
            Outcome::InOrder => State::Verified,
            Outcome::Lacking if failures >= tolerated => State::Failed,
            Outcome::Lacking | Outcome::Undecided => self.state,
        };
        Self {
            state,
            since: if state == self.state { self.since } else { seconds(now) },
            checked: Some(seconds(now)),
            outcome: Some(outcome),
            failures,
            findings: found.findings,
        }
    }

    /// When it is to be looked up again. What is not in order, or not known to be, is looked at often.
    pub fn due(&self, config: &policy::Policy) -> SystemTime {
        let Some(checked) = self.checked else { return UNIX_EPOCH };
        let is_settled = self.state == State::Verified && self.outcome == Some(Outcome::InOrder);
        let pause = if is_settled { config.verify_every } else { config.verify_pending_every };
        UNIX_EPOCH.checked_add(Duration::from_secs(checked).saturating_add(pause)).unwrap_or(UNIX_EPOCH)
    }

    /// What is wrong, in a few words: `SPF, DKIM 2026a`.
    pub fn missing(&self) -> String {
        let of = |weight| {
            let wrong = self.findings.iter().filter(move |finding| finding.weight == weight);
            let mut subjects: Vec<&str> = wrong.map(|finding| finding.subject.as_str()).collect();
            subjects.dedup();
            subjects.join(", ")
        };
        match (of(Weight::Error), of(Weight::Trouble)) {
            (errors, _) if !errors.is_empty() => errors,
            (_, trouble) if !trouble.is_empty() => format!("{trouble} (DNS did not answer)"),
            _ => "a look-up".to_owned(),
        }
    }

    /// Whether it is not known whether the domain is in order: nothing lasting may follow from its state.
    pub fn is_open(&self) -> bool {
        self.state == State::Pending && matches!(self.outcome, None | Some(Outcome::Undecided))
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A line for each `[[domain]]` that should be verified and is not. Empty where nobody asks for that.
pub fn warnings(config: &Config, policy: &Policy) -> Vec<String> {
    let what = match policy.senders.require_verified {
        RequireVerified::Off => return Vec::new(),
        RequireVerified::Warn => "its mail is taken all the same",
        RequireVerified::Enforce => "mail from it is refused",
    };
    let names = config.domains.iter().map(|domain| &domain.name);
    let reports = names.map(|name| (name, policy.standing.sender_domains.report(name)));
    reports
        .filter(|(_, report)| report.state != State::Verified)
        .map(|(name, report)| {
            let (state, missing) = (report.state.as_str(), report.missing());
            format!(
                "the domain {name} is {state}, {missing} is missing ({what}): posternctl domain show {name}"
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn found(weights: &[Weight]) -> LookUp {
        let mut found = LookUp::default();
        weights.iter().for_each(|weight| found.add(*weight, "SPF", "x", None));
        found
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_domain_is_verified_at_once_and_fails_only_after_several_times() {
        let mut report = DomainReport::default();
        let mut states = Vec::new();
        let looked = [
            found(&[Weight::Error]),
            found(&[Weight::Note, Weight::Warning]),
            found(&[Weight::Error]),
            found(&[Weight::Error, Weight::Trouble]),
            found(&[Weight::Trouble]),
            found(&[Weight::Error]),
            found(&[Weight::Trouble]),
            found(&[]),
        ];
        for (at_second, found) in looked.into_iter().enumerate() {
            report = report.after(found, Cause::Timer, 3, at(at_second as u64));
            states.push((report.state.as_str(), report.failures, report.since));
        }
        assert_eq!(
            states,
            [
                ("pending", 1, 0),
                ("verified", 0, 1),
                ("verified", 1, 1),
                ("verified", 2, 1),
                ("verified", 2, 1),
                ("failed", 3, 5),
                ("failed", 3, 5),
                ("verified", 0, 7),
            ]
        );
    }

    #[test]
    fn an_operator_who_asks_often_makes_no_domain_fail() {
        let mut report = DomainReport { state: State::Verified, ..DomainReport::default() };
        for _ in 0..10 {
            report = report.after(found(&[Weight::Error]), Cause::Operator, 3, at(5));
        }
        assert_eq!((report.state, report.failures), (State::Verified, 0));
        assert_eq!(report.outcome, Some(Outcome::Lacking));
    }

    #[test]
    fn what_is_not_in_order_is_looked_at_often() {
        let config = policy::Policy::default();
        let report = DomainReport::default();
        assert_eq!(report.due(&config), UNIX_EPOCH);
        let pause = |report: &DomainReport| report.due(&config).duration_since(at(1000)).unwrap();
        let lacking = report.after(found(&[Weight::Error]), Cause::Timer, 3, at(1000));
        assert_eq!(pause(&lacking), config.verify_pending_every);
        let verified = report.after(found(&[]), Cause::Timer, 3, at(1000));
        assert_eq!(pause(&verified), config.verify_every);
        let unsure = verified.after(found(&[Weight::Trouble]), Cause::Timer, 3, at(1000));
        assert_eq!(pause(&unsure), config.verify_pending_every);
    }

    #[test]
    fn what_is_missing_is_named_once() {
        let mut found = LookUp::default();
        found.add(Weight::Error, "SPF", "one", None);
        found.add(Weight::Error, "SPF", "two", None);
        found.add(Weight::Warning, "MX", "three", None);
        found.add(Weight::Error, "DKIM 2026a", "four", None);
        let report = DomainReport::default().after(found, Cause::Timer, 3, at(1));
        assert_eq!(report.missing(), "SPF, DKIM 2026a");
        assert!(!report.is_open() && DomainReport::default().is_open());
    }

    #[test]
    fn texts_of_a_zone_file_are_quoted_and_cut() {
        let txt = |value: &str| {
            DnsRecord { name: "x.test.".into(), kind: "TXT".into(), value: value.into() }.zone_line()
        };
        assert_eq!(txt("v=spf1 -all"), "x.test. IN TXT \"v=spf1 -all\"");
        assert_eq!(txt("a\"b\\c"), "x.test. IN TXT \"a\\\"b\\\\c\"");
        assert_eq!(txt("é"), "x.test. IN TXT \"\\195\\169\"");
        let long = txt(&"k".repeat(300));
        assert_eq!(long, format!("x.test. IN TXT ( \"{}\" \"{}\" )", "k".repeat(255), "k".repeat(45)));
        let mx = DnsRecord { name: "x.test.".into(), kind: "MX".into(), value: "10 y.test.".into() };
        assert_eq!(mx.zone_line(), "x.test. IN MX 10 y.test.");
    }

    #[test]
    fn a_report_survives_being_written() {
        let report = DomainReport::default().after(found(&[Weight::Error]), Cause::Timer, 3, at(9));
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<DomainReport>(&text).unwrap(), report);
        assert_eq!(serde_json::from_str::<DomainReport>("{}").unwrap(), DomainReport::default());
    }
}
