//! `audit`: who changed what.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use postern_admin::api::{Audit, AuditEvent, AuditRequest, Filter};
use postern_config::units::parse_duration;
use postern_smtp::date::rfc3339;

use crate::Session;
use crate::failure::{Exit, Failure};
use crate::output::{self, Look};

/// Options of `audit`.
#[derive(Debug, Args)]
pub struct Options {
    /// Events since then: an age such as `2h`, or a time such as `2026-11-21T18:05:25Z`.
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Since>,
    /// How many events at most, the newest.
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    limit: usize,
}

/// A time, or how long ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// So long before now.
    Ago(Duration),
    /// Seconds since 1970.
    Time(u64),
}

impl Since {
    /// In seconds since 1970.
    pub fn seconds(self, now: SystemTime) -> u64 {
        match self {
            Self::Time(time) => time,
            Self::Ago(age) => {
                now.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(age).as_secs()
            }
        }
    }
}

impl Options {
    /// Shows the events.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let since = self.since.map_or(0, |since| since.seconds(session.now));
        let request = AuditRequest { since, limit: Some(self.limit) };
        let audit: Audit = session.client()?.post("/v1/audit", &request).await?;
        session.out.answer(&audit, audit_text)?;
        if audit.more && !session.out.json {
            session.note("older events are not shown: see --limit and --since");
        }
        Ok(Exit::Done)
    }
}

/// Reads an age or a time.
///
/// # Errors
/// The text says what is accepted.
pub fn since(text: &str) -> Result<Since, String> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return u64::try_from(time.as_second())
            .map(Since::Time)
            .map_err(|_| format!("{text:?} is before 1970"));
    }
    let usage = |_| format!("{text:?}: write an age such as 2h, or a time such as 2026-11-21T18:05:25Z");
    parse_duration(text).map(Since::Ago).map_err(usage)
}

fn audit_text(audit: &Audit, look: Look) -> String {
    if audit.events.is_empty() {
        return String::new();
    }
    let header = ["TIME", "UID", "VERB", "MATCHED", "CHANGED", "SKIPPED", "WHICH", "REASON"];
    output::table(&header, audit.events.iter().map(event_row), look)
}

fn event_row(event: &AuditEvent) -> Vec<String> {
    let filter = || match event.filter.as_ref()? {
        filter if *filter == Filter::default() => Some("all".to_owned()),
        filter => serde_json::to_string(filter).ok(),
    };
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(event.time)).unwrap_or(SystemTime::UNIX_EPOCH);
    let error = event.error.as_ref().map(|error| format!("failed: {error}"));
    vec![
        rfc3339(time),
        event.uid.to_string(),
        event.verb.clone(),
        event.matched.to_string(),
        event.changed.to_string(),
        event.skipped.to_string(),
        event
            .rule
            .map(|rule| format!("rule {rule}"))
            .or(event.id.clone())
            .or(event.object.clone())
            .or_else(filter)
            .unwrap_or_else(|| "-".to_owned()),
        error.or_else(|| why(event)).unwrap_or_else(|| "-".to_owned()),
    ]
}

/// What exactly, and why.
fn why(event: &AuditEvent) -> Option<String> {
    let parts: Vec<&str> = [event.detail.as_deref(), event.reason.as_deref()].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_one_line_each() {
        let filter = Filter { sender: Some("a@client.test".to_owned()), ..Filter::default() };
        let drop = AuditEvent {
            time: 1_795_284_325,
            uid: 1000,
            verb: "drop".to_owned(),
            filter: Some(filter),
            reason: Some("spam".to_owned()),
            matched: 3,
            changed: 2,
            skipped: 1,
            ..AuditEvent::default()
        };
        let cat = AuditEvent {
            verb: "cat".to_owned(),
            id: Some("01N2K3P4Q5R6S".to_owned()),
            ..AuditEvent::default()
        };
        let reroute = AuditEvent {
            verb: "reroute".to_owned(),
            detail: Some("via mx".to_owned()),
            reason: Some("relay is down".to_owned()),
            ..cat.clone()
        };
        assert_eq!(event_row(&reroute).last().map(String::as_str), Some("via mx: relay is down"));
        let expected = "\
TIME                  UID   VERB  MATCHED  CHANGED  SKIPPED  WHICH                       REASON
2026-11-21T18:05:25Z  1000  drop  3        2        1        {\"sender\":\"a@client.test\"}  spam
1970-01-01T00:00:00Z  0     cat   0        0        0        01N2K3P4Q5R6S               -
";
        let audit = Audit { events: vec![drop, cat], more: false };
        assert_eq!(audit_text(&audit, Look::PLAIN), expected);
    }

    #[test]
    fn times_are_ages_or_rfc_3339() {
        assert_eq!(since("2h"), Ok(Since::Ago(Duration::from_secs(7200))));
        assert_eq!(since("2026-11-21T18:05:25Z"), Ok(Since::Time(1_795_284_325)));
        assert!(since("yesterday").is_err());
    }
}
