//! What follows from the reports of others: complaints of their users, and DMARC.

use std::fmt::Write as _;

use postern_admin::api::doctor::{Finding, Reports, Weight};
use postern_policy::checkup::reports::{Complaints, Counts, DomainReports, Problem};

use crate::output::counted;

/// Fewer complaints say nothing of a rate: somebody presses the wrong button.
const LEAST_COMPLAINTS: u64 = 3;
/// Complaints for each 10,000 recipients. Gmail and Yahoo ask senders to stay below 0.1 %, and never to reach 0.3 %.
const MANY_COMPLAINTS: u64 = 10;
const TOO_MANY_COMPLAINTS: u64 = 30;
/// Of fewer messages a share says nothing.
const LEAST_MESSAGES: u64 = 10;
/// In percent of our own messages. Fewer are name servers that did not answer in time.
const MOST_FAILED: u64 = 2;
/// From here on it is no accident, but a record or a key.
const FAR_TOO_MANY_FAILED: u64 = 20;
/// SPF and DKIM each, in percent of our own messages: whichever is left alone is all that forwarded mail has.
const LEAST_PASSED: u64 = 90;
/// What strangers send in our name and fails, in percent of all. Fewer are forwarders and mailing lists.
const MANY_FOREIGN: u64 = 10;
/// Reporters, addresses and files that are told.
const MOST_TOLD: usize = 3;
const MOST_NOTES: usize = 20;

/// Draws conclusions.
pub(super) fn findings(reports: &Reports) -> Vec<Finding> {
    if reports.places.is_empty() {
        return vec![
            Finding::note(
                "complaints",
                "not known: reputation.reports names no folder with complaints (RFC 5965); large providers send them, or show them \
                 on their pages, to those who register a domain (posternctl doctor contact names the pages)",
            ),
            Finding::note(
                "DMARC",
                "not known: reputation.reports names no folder with the aggregate reports that others send to the rua= address of a \
                 domain",
            ),
        ];
    }
    let mut found = of_files(reports);
    found.extend(reports.complaints.iter().take(MOST_NOTES).map(of_provider));
    if reports.complaints.is_empty() {
        found.push(Finding::note("complaints", "nobody complained"));
    }
    let is_known = !reports.own.is_empty();
    for domain in &reports.dmarc {
        found.extend(of_domain(domain, is_known));
    }
    if reports.dmarc.is_empty() {
        found.push(Finding::note("DMARC", "no aggregate report came"));
    } else if !is_known {
        let text = "which addresses are ours is not known, so all mail counts as that of strangers";
        found.push(
            Finding::warning("DMARC", text)
                .mend("set policy.public_addresses to the addresses that other servers see"),
        );
    }
    found
}

fn of_files(reports: &Reports) -> Vec<Finding> {
    let Reports { places, problems, more_problems, read, others, left_off, .. } = reports;
    let mut found = Vec::new();
    let text = format!("{} read, {others} files without a report", counted(*read as usize, "report"));
    found.push(Finding::note("reports", text));
    let (of_places, of_files): (Vec<&Problem>, Vec<&Problem>) =
        problems.iter().partition(|problem| places.contains(&problem.path));
    for Problem { path, why } in of_places {
        let mend = "correct reputation.reports, or let who reads it (the daemon, or you with --reports) do so; a Maildir is made with its first \
                    message";
        found.push(Finding::warning(path, format!("it cannot be looked into: {why}")).mend(mend));
    }
    let unreadable = of_files.len() as u64 + more_problems;
    for Problem { path, why } in of_files.into_iter().take(MOST_NOTES) {
        found.push(Finding::note(path, format!("left out: {why}")));
    }
    if unreadable > *read {
        let text = format!("{unreadable} files cannot be read, more than can: most reports are left out");
        found.push(
            Finding::warning("reports", text).mend("posternctl doctor reputation names them and says why"),
        );
    }
    if *left_off > 0 {
        let text = format!("{left_off} older files were not looked at: reputation.max_reports is the limit");
        found.push(Finding::note("reports", text));
    }
    found
}

fn of_provider(complaints: &Complaints) -> Finding {
    let Complaints { provider, count, not_spam, elsewhere, senders, delivered } = complaints;
    let place = format!("complaints {provider}");
    let rate = delivered.filter(|delivered| *delivered > 0);
    let mut text = match rate {
        Some(delivered) => {
            let rate = share(*count, delivered, 10_000);
            format!("{count} of {delivered} recipients complained ({}.{:02} %)", rate / 100, rate % 100)
        }
        None => format!("{count} complaints; of how many recipients is not known"),
    };
    if !senders.is_empty() {
        let named: Vec<String> =
            senders.iter().take(MOST_TOLD).map(|(sender, count)| format!("{sender} ({count})")).collect();
        let _ = write!(text, "; about mail of {}", named.join(", "));
    }
    if *elsewhere > 0 {
        let _ = write!(text, "; {elsewhere} about mail from addresses that are not ours");
    }
    if *not_spam > 0 {
        let _ = write!(text, "; {not_spam} times mail was said to be no spam");
    }
    let weight = match rate.map(|delivered| share(*count, delivered, 10_000)) {
        _ if *count < LEAST_COMPLAINTS => Weight::Note,
        Some(rate) if rate >= TOO_MANY_COMPLAINTS => Weight::Error,
        Some(rate) if rate < MANY_COMPLAINTS => Weight::Note,
        Some(_) | None => Weight::Warning,
    };
    let finding = Finding::new(weight, place, text);
    if !finding.is_concern() {
        return finding;
    }
    let first = senders.iter().map(|(sender, _)| sender.as_str()).find(|sender| is_plain(sender));
    let history = first.map_or_else(String::new, |sender| {
        format!("posternctl message history {sender} shows what it was; ")
    });
    finding.mend(format!(
        "{history}take whoever complains off the list; where a password was stolen: posternctl account lock LOGIN --hold-queue"
    ))
}

/// `is_known`: it is known which addresses are ours.
fn of_domain(domain: &DomainReports, is_known: bool) -> Vec<Finding> {
    let place = format!("DMARC {}", domain.domain);
    let ours = Counts::sum(domain.reporters.iter().map(|reporter| &reporter.ours));
    let foreign = Counts::sum(domain.reporters.iter().map(|reporter| &reporter.foreign));
    let mut found = Vec::new();
    if is_known {
        found.extend(of_own_mail(domain, &place, &ours));
    }
    found.extend(of_foreign_mail(domain, &place, &ours, &foreign));
    for reporter in domain.reporters.iter().take(MOST_NOTES) {
        let text = format!(
            "{}: ours {}; others {}",
            reporter.name,
            in_words(&reporter.ours),
            in_words(&reporter.foreign)
        );
        found.push(Finding::note(&place, text));
    }
    found
}

fn of_own_mail(domain: &DomainReports, place: &str, ours: &Counts) -> Vec<Finding> {
    let failing = |counts: &Counts| percent_failed(counts).filter(|percent| *percent >= MOST_FAILED);
    let mut worst: Vec<_> =
        domain.reporters.iter().filter(|reporter| failing(&reporter.ours).is_some()).collect();
    worst.sort_by_key(|reporter| std::cmp::Reverse(reporter.ours.failed()));
    let mend = mend_records(&domain.domain);
    let shares = worst.iter().map(|reporter| &reporter.ours).chain([ours]).filter_map(failing);
    if let Some(most) = shares.max() {
        let named: Vec<String> = worst
            .iter()
            .take(MOST_TOLD)
            .map(|reporter| format!("{} at {}", failed(&reporter.ours), reporter.name))
            .collect();
        let at = if named.is_empty() { String::new() } else { format!(": {}", named.join(", ")) };
        let sources = addresses(domain, true);
        let text = format!("mail of ours fails, {} in all{at}{sources}", failed(ours));
        let weight = if most >= FAR_TOO_MANY_FAILED { Weight::Error } else { Weight::Warning };
        return vec![Finding::new(weight, place, text).mend(mend)];
    }
    if ours.messages < LEAST_MESSAGES {
        return Vec::new();
    }
    let leg = |name: &str, passed: u64, other: &str| {
        let percent = share(passed, ours.messages, 100);
        (percent < LEAST_PASSED).then(|| {
            let text = format!(
                "{name} passes for {percent} % of our {} messages only: the rest has {other} alone",
                ours.messages
            );
            Finding::warning(place, text).mend(mend.clone())
        })
    };
    [leg("SPF", ours.spf, "DKIM"), leg("DKIM", ours.dkim, "SPF")].into_iter().flatten().collect()
}

fn of_foreign_mail(domain: &DomainReports, place: &str, ours: &Counts, foreign: &Counts) -> Option<Finding> {
    let failed = foreign.failed();
    let all = ours.messages.saturating_add(foreign.messages);
    if failed < LEAST_MESSAGES || share(failed, all, 100) < MANY_FOREIGN {
        return None;
    }
    let (name, sources) = (&domain.domain, addresses(domain, false));
    let text = format!("{failed} messages of strangers claim to be from {name} and fail{sources}");
    if domain.policy != "none" {
        return Some(Finding::note(place, format!("{text}; the policy is {}", domain.policy)));
    }
    let mend = format!(
        "where one of them sends for you: posternctl domain records {} prints what it needs; else publish p=quarantine at _dmarc.{}",
        argument(name),
        argument(name)
    );
    Some(Finding::warning(place, format!("{text}; the policy is none, so they are delivered")).mend(mend))
}

/// From where it came that failed.
fn addresses(domain: &DomainReports, ours: bool) -> String {
    let failing = domain.failing.iter().filter(|source| source.ours == ours);
    let named: Vec<String> =
        failing.take(MOST_TOLD).map(|source| format!("{} ({})", source.address, source.messages)).collect();
    if named.is_empty() { String::new() } else { format!("; from {}", named.join(", ")) }
}

fn failed(counts: &Counts) -> String {
    let mut text = format!("{} of {}", counts.failed(), counts.messages);
    if counts.rejected > 0 {
        let _ = write!(text, " ({} refused)", counts.rejected);
    }
    if counts.quarantined > 0 {
        let _ = write!(text, " ({} put with the spam)", counts.quarantined);
    }
    text
}

fn in_words(counts: &Counts) -> String {
    let Counts { messages, passed, spf, dkim, quarantined, rejected } = *counts;
    if messages == 0 {
        return "none".to_owned();
    }
    let percent = |part| share(part, messages, 100);
    format!(
        "{messages}, {} % pass (SPF {} %, DKIM {} %), {quarantined} put with the spam, {rejected} refused",
        percent(passed),
        percent(spf),
        percent(dkim)
    )
}

fn percent_failed(counts: &Counts) -> Option<u64> {
    (counts.messages >= LEAST_MESSAGES).then(|| share(counts.failed(), counts.messages, 100))
}

fn mend_records(domain: &str) -> String {
    let domain = argument(domain);
    format!(
        "posternctl domain verify {domain} says which record is missing, posternctl doctor dns what else is wrong"
    )
}

/// A name out of a report, in a command.
fn argument(name: &str) -> &str {
    if is_plain(name) { name } else { "DOMAIN" }
}

/// Whether a shell takes it for one word, and no program for an option.
fn is_plain(word: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '@' | '.' | '_' | '+' | '-' | '=');
    word.chars().all(is_plain) && word.starts_with(|c: char| c.is_ascii_alphanumeric())
}

fn share(part: u64, of: u64, whole: u64) -> u64 {
    let share = u128::from(part) * u128::from(whole) / u128::from(of.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_policy::checkup::reports::{FailingSource, Reporter};

    use super::*;

    fn complaints(count: u64, delivered: Option<u64>) -> Reports {
        let senders = vec![("news@proseware.test".to_owned(), count)];
        let complaints = vec![Complaints {
            provider: "Yahoo".to_owned(),
            count,
            delivered,
            senders,
            ..Complaints::default()
        }];
        Reports { complaints, ..reports() }
    }

    fn reports() -> Reports {
        Reports {
            places: vec!["/r".to_owned()],
            own: vec!["192.0.2.25".parse().unwrap()],
            ..Reports::default()
        }
    }

    fn counts(messages: u64, passed: u64, spf: u64, dkim: u64) -> Counts {
        Counts { messages, passed, spf, dkim, ..Counts::default() }
    }

    fn dmarc(policy: &str, ours: Counts, foreign: Counts) -> Reports {
        let reporter = Reporter { name: "adatum.test".to_owned(), reports: 1, ours, foreign };
        let failing =
            |address: &str, ours| FailingSource { address: address.parse().unwrap(), ours, messages: 7 };
        let domain = DomainReports {
            domain: "proseware.test".to_owned(),
            policy: policy.to_owned(),
            reporters: vec![reporter],
            failing: vec![failing("192.0.2.25", true), failing("203.0.113.9", false)],
            failing_sources: 2,
        };
        Reports { dmarc: vec![domain], ..reports() }
    }

    fn concerns(reports: &Reports) -> Vec<(Weight, String)> {
        let found = findings(reports);
        assert!(found.iter().filter(|f| f.is_concern()).all(|f| f.remedy.is_some()), "{found:?}");
        found.into_iter().filter(Finding::is_concern).map(|finding| (finding.weight, finding.text)).collect()
    }

    #[test]
    fn the_rate_of_complaints_decides_where_it_is_known() {
        for (count, delivered, expected) in [
            (2, Some(2), None),
            (3, Some(10_000), None),
            (10, Some(10_000), Some(Weight::Warning)),
            (30, Some(10_000), Some(Weight::Error)),
            (3, None, Some(Weight::Warning)),
            (3, Some(0), Some(Weight::Warning)),
            (u64::MAX, Some(1), Some(Weight::Error)),
        ] {
            let found = concerns(&complaints(count, delivered));
            assert_eq!(
                found.first().map(|(weight, _)| *weight),
                expected,
                "{count} of {delivered:?}: {found:?}"
            );
        }
        let text = &concerns(&complaints(42, Some(10_000)))[0].1;
        assert_eq!(
            text,
            "42 of 10000 recipients complained (0.42 %); about mail of news@proseware.test (42)"
        );
    }

    #[test]
    fn mail_of_ours_that_fails_is_a_concern() {
        let none = Counts::default();
        for (ours, expected) in [
            (counts(9, 0, 0, 0), None),
            (counts(100, 99, 99, 99), None),
            (counts(100, 98, 98, 98), Some(Weight::Warning)),
            (counts(100, 80, 80, 80), Some(Weight::Error)),
            (counts(100, 100, 100, 89), Some(Weight::Warning)),
            (counts(100, 100, 89, 100), Some(Weight::Warning)),
        ] {
            let found = concerns(&dmarc("reject", ours, none));
            assert_eq!(found.first().map(|(weight, _)| *weight), expected, "{ours:?}: {found:?}");
        }
        let ours = Counts { rejected: 4, ..counts(100, 90, 95, 90) };
        assert_eq!(
            concerns(&dmarc("reject", ours, none))[0].1,
            "mail of ours fails, 10 of 100 (4 refused) in all: 10 of 100 (4 refused) at adatum.test; from 192.0.2.25 (7)"
        );
        assert_eq!(
            concerns(&dmarc("none", counts(100, 100, 100, 0), none))[0].1.split(':').next(),
            Some("DKIM passes for 0 % of our 100 messages only")
        );
    }

    #[test]
    fn strangers_in_our_name_are_a_concern_while_the_policy_lets_them() {
        let (ours, foreign) = (counts(50, 50, 50, 50), counts(40, 0, 0, 0));
        let found = concerns(&dmarc("none", ours, foreign));
        assert_eq!(found[0].0, Weight::Warning);
        assert!(
            found[0].1.contains("40 messages of strangers") && found[0].1.contains("203.0.113.9 (7)"),
            "{found:?}"
        );
        assert_eq!(concerns(&dmarc("reject", ours, foreign)), []);
        assert_eq!(concerns(&dmarc("none", counts(500, 500, 500, 500), foreign)), []);
        let unknown = Reports { own: Vec::new(), ..dmarc("reject", Counts::default(), foreign) };
        assert!(concerns(&unknown)[0].1.contains("is not known"));
    }

    #[test]
    fn places_that_cannot_be_read_are_a_concern_and_one_bad_report_is_not() {
        let problem = |path: &str| Problem { path: path.to_owned(), why: "damaged".to_owned() };
        let bad = |read, problems| Reports { read, problems, ..reports() };
        assert_eq!(concerns(&bad(5, vec![problem("/r/1")])), []);
        let named = findings(&bad(5, vec![problem("/r/1")]));
        assert!(named.iter().any(|finding| finding.place == "/r/1" && finding.text == "left out: damaged"));
        assert_eq!(concerns(&bad(0, vec![problem("/r/1")])).len(), 1);
        assert_eq!(concerns(&bad(5, vec![problem("/r")])).len(), 1);
    }

    #[test]
    fn what_is_not_read_is_said_not_to_be() {
        let found = findings(&Reports::default());
        for place in ["complaints", "DMARC"] {
            let note = found.iter().find(|finding| finding.place == place).unwrap();
            assert!(!note.is_concern() && note.text.starts_with("not known"), "{note:?}");
        }
    }

    #[test]
    fn names_out_of_reports_end_no_command() {
        assert_eq!(argument("proseware.test"), "proseware.test");
        for name in ["x; rm -rf /", "-x", "", "a'b", "$(x)"] {
            assert_eq!(argument(name), "DOMAIN", "{name}");
        }
    }
}
