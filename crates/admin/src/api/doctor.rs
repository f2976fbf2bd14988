//! Requests and answers of the checks of `posternctl doctor`.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/doctor/{names,senders,dns,blocklists}` | [`Findings`] |
//! | `GET /v1/doctor/reputation` | [`Tally`] of the last day, or since `?since=SECONDS` |
//! | `GET /v1/doctor/reports` | [`Reports`] of `[reputation]` |
//!
//! They change nothing: the operator right is enough.

use postern_policy::checkup::contacts::provider;
pub use postern_policy::checkup::reports::Reports;
pub use postern_policy::checkup::{Check, Finding, Weight};
pub use postern_queue::history::{DomainTally, Tally};
use serde::{Deserialize, Serialize};

/// Seconds that a [`Tally`] reaches back.
pub const TALLY_REACH: u64 = 86_400;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Concerns and notes, in the order of the configuration.
    pub findings: Vec<Finding>,
}

/// Says of each provider whose users complained how many recipients there were, as the journal has it for the same time. A
/// journal that is younger does not know.
pub fn note_delivered(reports: &mut Reports, tally: &Tally) {
    let is_known =
        tally.enabled != Some(false) && tally.reaches.is_some_and(|reaches| reaches / 1000 <= reports.since);
    for complaints in reports.complaints.iter_mut().filter(|_| is_known) {
        let is_theirs = |domain: &&DomainTally| {
            domain.domain == complaints.provider
                || provider(&domain.domain, domain.host.as_deref())
                    .is_some_and(|provider| provider.name == complaints.provider)
        };
        complaints.delivered =
            Some(tally.domains.iter().filter(is_theirs).map(|domain| domain.delivered).sum());
    }
}

#[cfg(test)]
mod tests {
    use postern_policy::checkup::reports::Complaints;

    use super::*;

    #[test]
    fn delivered_recipients_are_those_of_the_provider_and_only_where_the_journal_knows() {
        let domain = |name: &str, host: Option<&str>, delivered| DomainTally {
            domain: name.to_owned(),
            host: host.map(str::to_owned),
            delivered,
            ..DomainTally::default()
        };
        let domains = vec![
            domain("gmail.com", None, 10),
            domain("adatum.test", Some("aspmx.l.google.com"), 5),
            domain("thephone-company.test", None, 3),
        ];
        let tally = Tally { reaches: Some(900_000), enabled: Some(true), domains, ..Tally::default() };
        let delivered = |provider: &str, tally: &Tally| {
            let complaints = vec![Complaints { provider: provider.to_owned(), ..Complaints::default() }];
            let mut reports = Reports { since: 1000, complaints, ..Reports::default() };
            note_delivered(&mut reports, tally);
            reports.complaints[0].delivered
        };
        assert_eq!(delivered("Gmail", &tally), Some(15));
        assert_eq!(delivered("thephone-company.test", &tally), Some(3));
        assert_eq!(delivered("Yahoo", &tally), Some(0));
        assert_eq!(delivered("Gmail", &Tally { reaches: Some(1_001_000), ..tally.clone() }), None);
        assert_eq!(delivered("Gmail", &Tally { enabled: Some(false), ..tally }), None);
    }
}
