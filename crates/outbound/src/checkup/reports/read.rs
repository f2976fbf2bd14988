//! What a file says: mail-auth reads the XML of aggregate reports and the fields of feedback reports.
//!
//! Only these two. Its functions for whole messages unpack every file of an archive as far as each of them goes, and its reader of
//! messages finds boundaries in the middle of lines; what reports are wrapped in is taken apart here. Its reader of XML ends,
//! without a word, behind an element that it does not know: so the records are counted.

use std::panic::{AssertUnwindSafe, catch_unwind};

use mail_auth::report::{
    ActionDisposition, Disposition, DmarcResult, Feedback, FeedbackType, Record, Report,
};
use memchr::memmem;
use postern_policy::bounce::mime::{attachments, field};
use postern_policy::checkup::reports::{Aggregate, Complaint, Fate, Kind, Row};

use super::unpack::{is_packed, unpack};
use super::{MAX_FILE, MAX_UNPACKED};

/// Records of one report: addresses of large senders. Each takes some 300 octets of memory.
const MAX_RECORDS: usize = 20_000;

/// What a file turned out to be.
#[derive(Debug)]
pub(super) enum Document {
    Aggregate(Aggregate),
    Complaint(Complaint),
    /// There is no report in it.
    Other,
}

/// Why a report cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("unpacked it is larger than {} MiB, as no report is", MAX_UNPACKED / 1024 / 1024)]
    Large,
    #[error("it has more than {0} files in it")]
    ManyFiles(u16),
    #[error("it cannot be unpacked: {0}")]
    Packed(String),
    #[error("no aggregate report as RFC 7489 appendix C has it: {0}")]
    Xml(String),
    #[error("it has more than {MAX_RECORDS} records")]
    ManyRecords,
    #[error("it has {there} records, of which {read} can be read")]
    Records { there: usize, read: usize },
    #[error("no feedback report as RFC 5965 has it: it has no Feedback-Type that is known")]
    Feedback,
    #[error("its reader failed on it")]
    Panicked,
}

/// Reads a file: a message, an aggregate report, or one that is packed. `work` grows by the octets that were unpacked.
///
/// # Errors
/// [`Unreadable`].
pub(super) fn document(octets: &[u8], work: &mut u64) -> Result<Document, Unreadable> {
    if is_packed(octets) || is_xml(octets) {
        return Ok(aggregate_in(octets, work)?.map_or(Document::Other, Document::Aggregate));
    }
    message(octets, work)
}

fn message(octets: &[u8], work: &mut u64) -> Result<Document, Unreadable> {
    let parts = attachments(octets, MAX_FILE as usize);
    if let Some(part) = parts.iter().find(|part| part.kind == "message/feedback-report") {
        return complaint(octets, &part.content).map(Document::Complaint);
    }
    // One that can be read is enough, wherever it stands: the text in front of it may look like one.
    let mut trouble = None;
    for part in parts.iter().filter(|part| is_packed(&part.content) || is_xml(&part.content)) {
        match aggregate_in(&part.content, work) {
            Ok(Some(report)) => return Ok(Document::Aggregate(report)),
            Ok(None) => {}
            Err(error) => trouble = Some(error),
        }
    }
    trouble.map_or(Ok(Document::Other), Err)
}

/// The first report in this, packed or not; `None`: there is none.
fn aggregate_in(octets: &[u8], work: &mut u64) -> Result<Option<Aggregate>, Unreadable> {
    if !is_packed(octets) {
        return aggregate(octets).map(Some);
    }
    let files = unpack(octets, work)?;
    files.iter().find(|file| is_xml(file)).map(|file| aggregate(file)).transpose()
}

/// Whether it looks like an aggregate report: its root is somewhere at the beginning.
fn is_xml(octets: &[u8]) -> bool {
    const BEGINNING: usize = 4096;
    let text = octets.strip_prefix(b"\xef\xbb\xbf").unwrap_or(octets).trim_ascii_start();
    text.starts_with(b"<") && memmem::find(&text[..text.len().min(BEGINNING)], b"<feedback").is_some()
}

fn aggregate(xml: &[u8]) -> Result<Aggregate, Unreadable> {
    if xml.len() > MAX_UNPACKED {
        return Err(Unreadable::Large);
    }
    let there = records(xml);
    if there > MAX_RECORDS {
        return Err(Unreadable::ManyRecords);
    }
    let text = xml.strip_prefix(b"\xef\xbb\xbf").unwrap_or(xml);
    let report = guarded(|| Report::parse_xml(text))?.map_err(Unreadable::Xml)?;
    if report.record.len() < there {
        return Err(Unreadable::Records { there, read: report.record.len() });
    }
    Ok(Aggregate {
        reporter: report.report_metadata.org_name,
        id: report.report_metadata.report_id,
        domain: report.policy_published.domain,
        policy: policy(report.policy_published.p),
        end: report.report_metadata.date_range.end,
        rows: report.record.iter().map(row).collect(),
    })
}

/// Opening tags of records.
fn records(xml: &[u8]) -> usize {
    const TAG: &[u8] = b"<record";
    let is_whole = |at: &usize| xml.get(at + TAG.len()).is_some_and(|next| b"> \t\r\n".contains(next));
    memmem::find_iter(xml, TAG).filter(is_whole).count()
}

fn policy(policy: Disposition) -> &'static str {
    match policy {
        Disposition::Quarantine => "quarantine",
        Disposition::Reject => "reject",
        Disposition::None | Disposition::Unspecified => "none",
    }
}

fn row(record: &Record) -> Row {
    let evaluated = &record.row.policy_evaluated;
    Row {
        source: record.row.source_ip,
        messages: record.row.count,
        spf: evaluated.spf == DmarcResult::Pass,
        dkim: evaluated.dkim == DmarcResult::Pass,
        fate: match evaluated.disposition {
            ActionDisposition::Quarantine => Fate::Quarantined,
            ActionDisposition::Reject => Fate::Rejected,
            ActionDisposition::None | ActionDisposition::Pass | ActionDisposition::Unspecified => Fate::Taken,
        },
    }
}

/// `message` is the one in which the feedback report stands.
fn complaint(message: &[u8], feedback: &[u8]) -> Result<Complaint, Unreadable> {
    let read = || Feedback::parse_arf(feedback).map(Feedback::into_owned);
    let feedback = guarded(read)?.ok_or(Unreadable::Feedback)?;
    let recipient = feedback.original_rcpt_to.as_deref().and_then(domain_of);
    let reporter = || field(message, "from").as_deref().and_then(domain_of);
    let mta = || feedback.reporting_mta.as_deref().map(str::to_owned);
    Ok(Complaint {
        domain: recipient.or_else(reporter).or_else(mta).unwrap_or_else(|| "(unknown)".to_owned()),
        kind: match feedback.feedback_type {
            FeedbackType::NotSpam => Kind::NotSpam,
            FeedbackType::AuthFailure => Kind::AuthFailure,
            FeedbackType::Abuse | FeedbackType::Fraud | FeedbackType::Other | FeedbackType::Virus => {
                Kind::Complaint
            }
        },
        source: feedback.source_ip,
        sender: feedback
            .original_mail_from
            .as_deref()
            .map(without_brackets)
            .filter(|sender| !sender.is_empty()),
        incidents: feedback.incidents,
    })
}

fn without_brackets(address: &str) -> String {
    address.trim().trim_start_matches('<').trim_end_matches('>').to_owned()
}

/// What follows the last at sign, as far as it is a domain.
fn domain_of(address: &str) -> Option<String> {
    let (_, rest) = address.rsplit_once('@')?;
    let is_domain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-');
    let domain: String = rest.chars().take_while(|c| is_domain(*c)).collect();
    (!domain.is_empty()).then_some(domain)
}

/// A library reads what strangers wrote: a fault of it must cost this report, and no more.
fn guarded<T>(read: impl FnOnce() -> T) -> Result<T, Unreadable> {
    catch_unwind(AssertUnwindSafe(read)).map_err(|_| Unreadable::Panicked)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::testing::reports;

    fn read(octets: &[u8]) -> Result<Document, Unreadable> {
        document(octets, &mut 0)
    }

    #[test]
    fn every_field_of_an_aggregate_report_that_counts_is_read() {
        let rows = [("192.0.2.25", 12, "pass", "fail", "none"), ("2001:db8::9", 3, "fail", "fail", "reject")];
        let xml = reports::aggregate("Adatum Corp", "proseware.test", 1_795_000_000, &rows);
        let Document::Aggregate(report) = read(xml.as_bytes()).unwrap() else { panic!("no report") };
        assert_eq!((report.reporter.as_str(), report.domain.as_str()), ("Adatum Corp", "proseware.test"));
        assert_eq!((report.end, report.policy), (1_795_000_000, "none"));
        let first = Row {
            source: "192.0.2.25".parse().ok(),
            messages: 12,
            spf: true,
            dkim: false,
            fate: Fate::Taken,
        };
        let second = Row {
            source: "2001:db8::9".parse().ok(),
            messages: 3,
            spf: false,
            dkim: false,
            fate: Fate::Rejected,
        };
        assert_eq!(report.rows, [first, second]);
    }

    #[test]
    fn a_complaint_tells_who_complains_of_whom() {
        let Document::Complaint(complaint) =
            read(&reports::complaint("192.0.2.25", "abuse", "carol@adatum.test")).unwrap()
        else {
            panic!("no complaint")
        };
        let expected = Complaint {
            domain: "adatum.test".to_owned(),
            kind: Kind::Complaint,
            source: "192.0.2.25".parse().ok(),
            sender: Some("news@proseware.test".to_owned()),
            incidents: 1,
        };
        assert_eq!(complaint, expected);
        // Those who hide their users are known by their own name.
        let hidden = reports::complaint("192.0.2.25", "not-spam", "");
        let Document::Complaint(complaint) = read(&hidden).unwrap() else { panic!("no complaint") };
        assert_eq!((complaint.domain.as_str(), complaint.kind), ("fbl.adatum.test", Kind::NotSpam));
    }

    #[test]
    fn mail_that_only_mentions_a_report_is_none() {
        for text in [
            "Subject: x\r\n\r\n<feedback> was my idea\r\n",
            "Content-Type: text/html\r\n\r\n<html>hello</html>",
            "",
            "\0\0\0",
        ] {
            let found = read(text.as_bytes());
            assert!(matches!(found, Ok(Document::Other) | Err(Unreadable::Xml(_))), "{text}: {found:?}");
        }
        let tls = reports::gzip(b"{\"organization-name\": \"adatum.test\"}");
        let found = read(&reports::message("application/tlsrpt+gzip", &tls));
        assert!(matches!(found, Ok(Document::Other)), "{found:?}");
    }

    proptest::proptest! {
        #[test]
        fn nothing_stops_the_reader(octets in proptest::collection::vec(proptest::num::u8::ANY, 0..400), at in 0usize..2000) {
            let xml = reports::aggregate("a", "b.test", 1, &[("192.0.2.25", 1, "pass", "pass", "none")]).into_bytes();
            for mut base in [xml.clone(), reports::gzip(&xml), reports::zip(&[("a.xml", &xml)]), reports::complaint("192.0.2.25", "abuse", "x@y.test")] {
                let at = at % base.len();
                let end = (at + octets.len() % 20).min(base.len());
                base.splice(at..end, octets.iter().take(8).copied());
                let found = read(&base);
                proptest::prop_assert!(!matches!(found, Err(Unreadable::Panicked)));
            }
            let _ = read(&octets);
        }
    }
}
