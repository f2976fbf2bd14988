//! What others tell of our mail, added up: complaints of their users (ARF, RFC 5965), and what became of DMARC with it
//! (aggregate reports, RFC 7489 §7.2).
//!
//! Whoever reads the messages gives each to [`Summing`]. Everything in a report is what a stranger wrote: the tables are
//! bounded, and the texts are cut.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::contacts::provider;

/// Domains, and reporters of each, that are told apart. What is beyond is counted together, as `(others)`.
const MOST_NAMES: usize = 200;
/// Addresses of one domain that are told apart; the worst are shown.
const MOST_SOURCES: usize = 10_000;
/// Addresses and senders that are shown.
const MOST_SHOWN: usize = 10;
/// Reports that are told apart, so that none counts twice.
const MOST_KNOWN: usize = 100_000;
/// Files that are named because they cannot be read.
const MOST_PROBLEMS: usize = 50;
/// Characters of a name or a text out of a report.
const MOST_TEXT: usize = 255;
/// The name of what is beyond the limits.
const OTHERS: &str = "(others)";

/// What all reports say together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reports {
    /// Where they were looked for. Empty: nowhere, nothing is known.
    pub places: Vec<String>,
    /// What is older was not counted, in seconds since 1970.
    pub since: u64,
    /// Reports that were counted.
    pub read: u64,
    /// Files in which there is no report.
    pub others: u64,
    /// Reports that were there before.
    pub repeated: u64,
    /// Files that were not looked at, since there are too many.
    pub left_off: u64,
    /// Files and places that cannot be read, and why.
    pub problems: Vec<Problem>,
    /// More of them.
    pub more_problems: u64,
    /// The addresses that counted as ours.
    pub own: Vec<IpAddr>,
    /// Complaints, by provider; most of them first.
    pub complaints: Vec<Complaints>,
    /// Aggregate reports, by domain.
    pub dmarc: Vec<DomainReports>,
}

/// A file or a place that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Where it is.
    pub path: String,
    /// Why.
    pub why: String,
}

/// What the users of one provider complained of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complaints {
    /// The provider, or the domain.
    pub provider: String,
    /// Complaints.
    pub count: u64,
    /// Reports that mail was taken for spam by mistake.
    pub not_spam: u64,
    /// Complaints about mail that came from an address which is not ours.
    pub elsewhere: u64,
    /// Senders that were complained of, most first.
    pub senders: Vec<(String, u64)>,
    /// Recipients there to whom mail was delivered within the same time, where the journal knows.
    pub delivered: Option<u64>,
}

/// What was reported of one domain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainReports {
    /// The domain.
    pub domain: String,
    /// The policy that the last report saw: `none`, `quarantine`, `reject`.
    pub policy: String,
    /// By whom, most messages first.
    pub reporters: Vec<Reporter>,
    /// Addresses from which mail came that failed, the worst first: ours, then others.
    pub failing: Vec<FailingSource>,
    /// How many there are.
    pub failing_sources: u64,
}

/// What one organisation reported of one domain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reporter {
    /// Its name.
    pub name: String,
    /// Its reports.
    pub reports: u64,
    /// Messages from addresses of ours.
    pub ours: Counts,
    /// Messages from everywhere else.
    pub foreign: Counts,
}

/// Messages, by what was made of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All.
    pub messages: u64,
    /// DMARC passed: SPF or DKIM did, for the domain of From.
    pub passed: u64,
    /// SPF passed for the domain of From.
    pub spf: u64,
    /// DKIM passed for the domain of From.
    pub dkim: u64,
    /// Put with the spam.
    pub quarantined: u64,
    /// Refused.
    pub rejected: u64,
}

impl Counts {
    /// Messages that failed DMARC.
    pub fn failed(&self) -> u64 {
        self.messages.saturating_sub(self.passed)
    }

    /// All of these together.
    pub fn sum<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut sum = Self::default();
        all.into_iter().for_each(|counts| sum.add(counts));
        sum
    }

    fn add(&mut self, more: &Self) {
        let Self { messages, passed, spf, dkim, quarantined, rejected } = more;
        for (mine, theirs) in [
            (&mut self.messages, messages),
            (&mut self.passed, passed),
            (&mut self.spf, spf),
            (&mut self.dkim, dkim),
            (&mut self.quarantined, quarantined),
            (&mut self.rejected, rejected),
        ] {
            *mine = mine.saturating_add(*theirs);
        }
    }
}

/// An address from which mail came that failed DMARC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailingSource {
    /// The address.
    pub address: IpAddr,
    /// Whether it is ours.
    pub ours: bool,
    /// Messages that failed.
    pub messages: u64,
}

/// An aggregate report, read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aggregate {
    /// The organisation that reports.
    pub reporter: String,
    /// What it calls the report.
    pub id: String,
    /// The domain.
    pub domain: String,
    /// The policy that it saw.
    pub policy: &'static str,
    /// The end of the time that it is about, in seconds since 1970.
    pub end: u64,
    /// What came from where.
    pub rows: Vec<Row>,
}

/// Messages from one address that went alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Where they came from; none where the report does not say.
    pub source: Option<IpAddr>,
    /// How many.
    pub messages: u32,
    /// Whether SPF passed for the domain of From.
    pub spf: bool,
    /// Whether DKIM passed for the domain of From.
    pub dkim: bool,
    /// What was done with them.
    pub fate: Fate,
}

/// What a receiver did with mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Took it as if there were no policy.
    Taken,
    /// Put it with the spam.
    Quarantined,
    /// Refused it.
    Rejected,
}

/// A complaint, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// The domain of whoever complained, or of whoever reports it.
    pub domain: String,
    /// What it is.
    pub kind: Kind,
    /// Where the mail came from, if it says so.
    pub source: Option<IpAddr>,
    /// Whose mail it was: MAIL FROM.
    pub sender: Option<String>,
    /// For how many it stands.
    pub incidents: u32,
}

/// What a feedback report says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Somebody does not want it: abuse, fraud, virus, or something else.
    Complaint,
    /// It is not spam, though it was taken for it.
    NotSpam,
    /// It failed DMARC, SPF or DKIM (RFC 6591): aggregate reports count that.
    AuthFailure,
}

/// Adds reports up.
#[derive(Debug)]
pub struct Summing {
    found: Reports,
    own: HashSet<IpAddr>,
    complaints: HashMap<String, CountedComplaints>,
    domains: BTreeMap<String, CountedDomain>,
    known: HashSet<(String, String, String)>,
}

#[derive(Debug, Default)]
struct CountedComplaints {
    of: Complaints,
    senders: HashMap<String, u64>,
}

#[derive(Debug, Default)]
struct CountedDomain {
    policy: &'static str,
    latest: u64,
    reporters: HashMap<String, Reporter>,
    sources: HashMap<IpAddr, u64>,
}

impl Summing {
    /// Nothing yet. `own` are the addresses of this server, `since` is in seconds since 1970.
    pub fn new(own: &[IpAddr], since: u64) -> Self {
        let own: Vec<IpAddr> = own.iter().map(IpAddr::to_canonical).collect();
        Self {
            own: own.iter().copied().collect(),
            found: Reports { since, own, ..Reports::default() },
            complaints: HashMap::new(),
            domains: BTreeMap::new(),
            known: HashSet::new(),
        }
    }

    /// A place is looked at.
    pub fn place(&mut self, path: &str) {
        self.found.places.push(path.to_owned());
    }

    /// So many files are not looked at.
    pub fn left_off(&mut self, files: u64) {
        self.found.left_off += files;
    }

    /// A file has no report in it.
    pub fn other(&mut self) {
        self.found.others += 1;
    }

    /// Something cannot be read.
    pub fn problem(&mut self, path: &str, why: &str) {
        if self.found.problems.len() >= MOST_PROBLEMS {
            self.found.more_problems += 1;
            return;
        }
        self.found.problems.push(Problem { path: path.to_owned(), why: cut(why) });
    }

    /// Counts a complaint.
    pub fn complaint(&mut self, complaint: &Complaint) {
        self.found.read += 1;
        let Complaint { domain, kind, source, sender, incidents } = complaint;
        let domain = cut(&domain.to_ascii_lowercase());
        let name = provider(&domain, None).map_or(domain, |provider| provider.name.to_owned());
        let counted = bounded(&mut self.complaints, name, MOST_NAMES);
        let many = u64::from(*incidents).max(1);
        match kind {
            Kind::AuthFailure => return,
            Kind::NotSpam => return counted.of.not_spam = counted.of.not_spam.saturating_add(many),
            Kind::Complaint => counted.of.count = counted.of.count.saturating_add(many),
        }
        // Where our own addresses are not known, nobody's is strange.
        if !self.own.is_empty() && source.is_some_and(|source| !self.own.contains(&source.to_canonical())) {
            counted.of.elsewhere = counted.of.elsewhere.saturating_add(many);
        }
        if let Some(sender) = sender {
            let sender = bounded(&mut counted.senders, cut(&sender.to_ascii_lowercase()), MOST_NAMES);
            *sender = sender.saturating_add(many);
        }
    }

    /// Counts an aggregate report, unless it is older or was counted before.
    pub fn aggregate(&mut self, report: &Aggregate) {
        let (reporter, domain) = (cut(&report.reporter), cut(&report.domain.to_ascii_lowercase()));
        if report.end < self.found.since {
            return;
        }
        let key = (reporter.clone(), cut(&report.id), domain.clone());
        if self.known.len() < MOST_KNOWN && !self.known.insert(key) {
            self.found.repeated += 1;
            return;
        }
        self.found.read += 1;
        let domain = match self.domains.len() < MOST_NAMES || self.domains.contains_key(&domain) {
            true => self.domains.entry(domain).or_default(),
            false => self.domains.entry(OTHERS.to_owned()).or_default(),
        };
        if report.end >= domain.latest {
            (domain.latest, domain.policy) = (report.end, report.policy);
        }
        let reporter = bounded(&mut domain.reporters, reporter, MOST_NAMES);
        reporter.reports += 1;
        for row in &report.rows {
            let source = row.source.map(|source| source.to_canonical());
            let counts = counts(row);
            match source.is_some_and(|source| self.own.contains(&source)) {
                true => reporter.ours.add(&counts),
                false => reporter.foreign.add(&counts),
            }
            if let Some(source) = source.filter(|_| counts.failed() > 0)
                && (domain.sources.len() < MOST_SOURCES || domain.sources.contains_key(&source))
            {
                let failed = domain.sources.entry(source).or_default();
                *failed = failed.saturating_add(counts.failed());
            }
        }
    }

    /// What all of them say together.
    pub fn finish(self) -> Reports {
        let Self { found, own, complaints, domains, .. } = self;
        let mut complaints: Vec<Complaints> = complaints
            .into_iter()
            .map(|(provider, counted)| Complaints { provider, senders: most(counted.senders), ..counted.of })
            .filter(|complaints| complaints.count + complaints.not_spam > 0)
            .collect();
        complaints.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.provider.cmp(&b.provider)));
        let dmarc = domains.into_iter().map(|(domain, counted)| counted.finish(domain, &own)).collect();
        Reports { complaints, dmarc, ..found }
    }
}

impl CountedDomain {
    fn finish(self, domain: String, own: &HashSet<IpAddr>) -> DomainReports {
        let mut reporters: Vec<Reporter> =
            self.reporters.into_iter().map(|(name, reporter)| Reporter { name, ..reporter }).collect();
        let weight = |reporter: &Reporter| reporter.ours.messages.saturating_add(reporter.foreign.messages);
        reporters.sort_by(|a, b| weight(b).cmp(&weight(a)).then_with(|| a.name.cmp(&b.name)));
        let failing_sources = self.sources.len() as u64;
        let mut failing: Vec<FailingSource> = self
            .sources
            .into_iter()
            .map(|(address, messages)| FailingSource { address, ours: own.contains(&address), messages })
            .collect();
        failing.sort_by_key(|source| (!source.ours, std::cmp::Reverse(source.messages), source.address));
        failing.truncate(MOST_SHOWN);
        DomainReports { domain, policy: self.policy.to_owned(), reporters, failing, failing_sources }
    }
}

fn counts(row: &Row) -> Counts {
    let messages = u64::from(row.messages);
    let of = |is_so: bool| if is_so { messages } else { 0 };
    Counts {
        messages,
        passed: of(row.spf || row.dkim),
        spf: of(row.spf),
        dkim: of(row.dkim),
        quarantined: of(row.fate == Fate::Quarantined),
        rejected: of(row.fate == Fate::Rejected),
    }
}

/// The entry of a name; where there are too many, that of all others.
fn bounded<T: Default>(table: &mut HashMap<String, T>, name: String, most: usize) -> &mut T {
    let name = if table.len() < most || table.contains_key(&name) { name } else { OTHERS.to_owned() };
    table.entry(name).or_default()
}

fn most(counted: HashMap<String, u64>) -> Vec<(String, u64)> {
    let mut all: Vec<(String, u64)> = counted.into_iter().collect();
    all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    all.truncate(MOST_SHOWN);
    all
}

/// A text out of a report as it is kept: of bounded length, and without characters that would give orders to a terminal.
fn cut(text: &str) -> String {
    let shown = |character: char| if character.is_control() { '?' } else { character };
    text.trim().chars().take(MOST_TEXT).map(shown).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const OURS: &str = "192.0.2.25";

    fn row(source: &str, messages: u32, spf: bool, dkim: bool, fate: Fate) -> Row {
        Row { source: source.parse().ok(), messages, spf, dkim, fate }
    }

    fn report(id: &str, rows: Vec<Row>) -> Aggregate {
        Aggregate {
            reporter: "adatum.test".to_owned(),
            id: id.to_owned(),
            domain: "Proseware.test".to_owned(),
            policy: "none",
            end: 1000,
            rows,
        }
    }

    fn summing() -> Summing {
        Summing::new(&[OURS.parse().unwrap()], 500)
    }

    fn complaint(domain: &str, kind: Kind) -> Complaint {
        Complaint {
            domain: domain.to_owned(),
            kind,
            source: OURS.parse().ok(),
            sender: Some("News@proseware.test".to_owned()),
            incidents: 1,
        }
    }

    #[test]
    fn messages_are_counted_by_whose_address_they_came_from() {
        let mut summing = summing();
        summing.aggregate(&report(
            "1",
            vec![
                row("::ffff:192.0.2.25", 90, true, true, Fate::Taken),
                row(OURS, 6, false, true, Fate::Taken),
                row(OURS, 4, false, false, Fate::Rejected),
                row("203.0.113.9", 7, false, false, Fate::Quarantined),
                row("unknown", 1, false, false, Fate::Taken),
            ],
        ));
        let found = summing.finish();
        let [domain] = &found.dmarc[..] else { panic!("{found:?}") };
        assert_eq!((domain.domain.as_str(), domain.policy.as_str()), ("proseware.test", "none"));
        let reporter = &domain.reporters[0];
        let ours = Counts { messages: 100, passed: 96, spf: 90, dkim: 96, quarantined: 0, rejected: 4 };
        assert_eq!((reporter.ours, reporter.ours.failed()), (ours, 4));
        assert_eq!((reporter.foreign.messages, reporter.foreign.quarantined), (8, 7));
        let failing: Vec<_> = domain
            .failing
            .iter()
            .map(|source| (source.address.to_string(), source.ours, source.messages))
            .collect();
        assert_eq!(failing, [(OURS.to_owned(), true, 4), ("203.0.113.9".to_owned(), false, 7)]);
    }

    #[test]
    fn a_report_counts_once_and_an_old_one_not_at_all() {
        let mut summing = summing();
        for (id, end) in [("1", 1000), ("1", 1000), ("2", 1000), ("3", 499)] {
            let rows = vec![row(OURS, 1, true, true, Fate::Taken)];
            summing.aggregate(&Aggregate { end, ..report(id, rows) });
        }
        let found = summing.finish();
        assert_eq!((found.read, found.repeated), (2, 1));
        assert_eq!(found.dmarc[0].reporters[0].ours.messages, 2);
    }

    #[test]
    fn the_policy_is_that_of_the_latest_report() {
        let mut summing = summing();
        for (id, end, policy) in [("1", 2000, "reject"), ("2", 1000, "none")] {
            summing.aggregate(&Aggregate { end, policy, ..report(id, Vec::new()) });
        }
        assert_eq!(summing.finish().dmarc[0].policy, "reject");
    }

    #[test]
    fn complaints_are_counted_by_provider_and_sender() {
        let mut summing = summing();
        summing.complaint(&complaint("arf.mail.yahoo.com", Kind::Complaint));
        summing.complaint(&Complaint { incidents: 3, ..complaint("ymail.com", Kind::Complaint) });
        summing.complaint(&complaint("yahoo.com", Kind::NotSpam));
        let elsewhere = "203.0.113.9".parse().ok();
        summing.complaint(&Complaint {
            source: elsewhere,
            sender: None,
            ..complaint("Adatum.test", Kind::Complaint)
        });
        summing.complaint(&complaint("thephone-company.test", Kind::AuthFailure));
        let found = summing.finish();
        assert_eq!(found.read, 5);
        let [yahoo, adatum] = &found.complaints[..] else { panic!("{found:?}") };
        assert_eq!(
            (yahoo.provider.as_str(), yahoo.count, yahoo.not_spam, yahoo.elsewhere),
            ("Yahoo", 4, 1, 0)
        );
        assert_eq!(yahoo.senders, [("news@proseware.test".to_owned(), 4)]);
        assert_eq!((adatum.provider.as_str(), adatum.count, adatum.elsewhere), ("adatum.test", 1, 1));
    }

    #[test]
    fn nothing_in_a_report_gives_orders_to_a_terminal() {
        let mut summing = summing();
        let hostile = "\u{1b}]0;x\u{7}\0\u{9b}2J";
        summing.aggregate(&Aggregate { reporter: format!("a{hostile}"), ..report("1", Vec::new()) });
        summing.aggregate(&Aggregate { domain: format!("b{hostile}.test"), ..report("2", Vec::new()) });
        let sender = Some(format!("c{hostile}@proseware.test"));
        summing.complaint(&Complaint { sender, ..complaint(&format!("d{hostile}.test"), Kind::Complaint) });
        summing.problem("x", hostile);
        let found = summing.finish();
        let told = format!(
            "{}{}{}{}{}",
            found.dmarc[0].domain,
            found.dmarc[1].reporters[0].name,
            found.complaints[0].provider,
            found.complaints[0].senders[0].0,
            found.problems[0].why
        );
        assert!(told.contains("?]0;x??") && !told.contains(char::is_control), "{told:?}");
    }

    #[test]
    fn memory_is_bounded_whatever_strangers_write() {
        let mut summing = summing();
        for at in 0..MOST_NAMES as u64 + 50 {
            summing.complaint(&complaint(&format!("d{at}.test"), Kind::Complaint));
            summing.problem("x", &"y".repeat(1000));
            let report = report(&at.to_string(), Vec::new());
            summing.aggregate(&Aggregate { domain: format!("d{at}.test"), ..report.clone() });
            summing.aggregate(&Aggregate {
                domain: "one.test".to_owned(),
                reporter: "x".repeat(1000),
                ..report
            });
        }
        let found = summing.finish();
        assert_eq!(found.complaints.len(), MOST_NAMES + 1);
        assert_eq!((found.complaints[0].provider.as_str(), found.complaints[0].count), (OTHERS, 50));
        assert_eq!(found.dmarc.len(), MOST_NAMES + 1);
        assert_eq!((found.problems.len(), found.more_problems), (MOST_PROBLEMS, MOST_NAMES as u64));
        assert_eq!(found.problems[0].why.len(), MOST_TEXT);
    }
}
