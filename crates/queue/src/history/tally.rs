//! What became of the mail to each domain: how a receiver sees us shows in what it defers and refuses.
//!
//! Blocking: reads the files of the days in question, a piece at a time. Memory is bounded by the domains that are kept.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::files::list;
use super::line;
use super::search::{day, each_line, reaches};
use crate::Queue;
use crate::events::{EventKind, EventView};

/// Domains that are counted apart; all beyond are left out, and counted as such.
const MOST_DOMAINS: usize = 10_000;

/// The ways of mail that end here: they say nothing of how others see us.
const OURS: [&str; 5] = ["local", "maildir", "lmtp", "discard", "reject"];

/// What became of recipients since a time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Since then, in seconds since 1970.
    pub since: u64,
    /// How far back the journal reaches, in milliseconds since 1970; none if it is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reaches: Option<u64>,
    /// Whether the journal is kept at all. Left out where the daemon was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// The domains with the most recipients first.
    pub domains: Vec<DomainTally>,
    /// Whether there were more domains than are counted apart.
    #[serde(default)]
    pub more: bool,
}

/// What became of the recipients of one domain. Recipients that an operator ended are not counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainTally {
    /// The domain, in lower case.
    pub domain: String,
    /// Recipients whose first attempt has ended, in whatever way.
    pub tried: u64,
    /// Those of them that were deferred then.
    pub deferred: u64,
    /// Recipients that were delivered.
    pub delivered: u64,
    /// Recipients that were given up: refused for good, or for too long.
    pub bounced: u64,
    /// Deferrals and refusals for a reason of policy or security (X.7.X, RFC 3463 §3.8): what senders get who are not trusted.
    pub policy: u64,
    /// A host that answered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The newest reply that was no consent; one for a reason of policy goes before others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
}

impl Queue {
    /// What became of recipients since a time, in seconds since 1970. Blocking; one question at a time, others wait.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn tally(&self, since: u64) -> io::Result<Tally> {
        let journal = self.inner.events.journal();
        let _turn = journal.map(|journal| journal.searching());
        if let Some(journal) = journal {
            journal.flush();
        }
        Ok(Tally { enabled: Some(journal.is_some()), ..offline(&self.inner.events.folder, since)? })
    }
}

/// The same from a folder of journal files alone. Blocking.
///
/// # Errors
/// When it cannot be read.
pub fn offline(folder: &Path, since: u64) -> io::Result<Tally> {
    let files = list(folder)?;
    let first = day(since).unwrap_or_default();
    let mut counting = Counting::default();
    for file in files.iter().filter(|file| file.day >= first) {
        each_line(&file.path, |line| {
            if let Some(event) = line::decode(line).filter(|event| event.time / 1000 >= since) {
                counting.take(&event);
            }
        })?;
    }
    let mut domains: Vec<DomainTally> = counting.domains.into_values().map(|counted| counted.tally).collect();
    let weight = |tally: &DomainTally| tally.tried.max(tally.delivered + tally.bounced);
    domains.sort_by(|a, b| weight(b).cmp(&weight(a)).then_with(|| a.domain.cmp(&b.domain)));
    Ok(Tally { since, reaches: reaches(&files)?, enabled: None, domains, more: counting.more })
}

#[derive(Debug, Default)]
struct Counting {
    domains: HashMap<String, Counted>,
    more: bool,
}

#[derive(Debug, Default)]
struct Counted {
    tally: DomainTally,
    is_policy: bool,
}

impl Counting {
    fn take(&mut self, event: &EventView) {
        let is_outcome = matches!(
            event.event,
            EventKind::Delivered | EventKind::Deferred | EventKind::Failed | EventKind::Expired
        );
        let way = event.destination.as_deref().and_then(|to| to.split(' ').next());
        let is_ours = way.is_some_and(|way| OURS.contains(&way));
        if !is_outcome || event.operator || is_ours {
            return;
        }
        for recipient in &event.recipients {
            let Some((_, domain)) = recipient.address.rsplit_once('@') else { continue };
            if let Some(counted) = self.domain(domain) {
                counted.take(event);
            }
        }
    }

    fn domain(&mut self, domain: &str) -> Option<&mut Counted> {
        let domain = domain.to_ascii_lowercase();
        if !self.domains.contains_key(&domain) && self.domains.len() >= MOST_DOMAINS {
            self.more = true;
            return None;
        }
        let new = || Counted {
            tally: DomainTally { domain: domain.clone(), ..DomainTally::default() },
            is_policy: false,
        };
        Some(self.domains.entry(domain.clone()).or_insert_with(new))
    }
}

impl Counted {
    fn take(&mut self, event: &EventView) {
        let tally = &mut self.tally;
        let is_first = event.attempts == Some(1) && event.event != EventKind::Expired;
        tally.tried += u64::from(is_first);
        match event.event {
            EventKind::Delivered => tally.delivered += 1,
            EventKind::Deferred => tally.deferred += u64::from(is_first),
            _ => tally.bounced += 1,
        }
        if event.host.is_some() {
            tally.host.clone_from(&event.host);
        }
        // What expired was said before, when it was deferred.
        if matches!(event.event, EventKind::Delivered | EventKind::Expired) {
            return;
        }
        let is_policy = event.status.as_deref().is_some_and(|status| status.split('.').nth(1) == Some("7"));
        tally.policy += u64::from(is_policy);
        if event.reply.is_some() && (is_policy || !self.is_policy) {
            tally.reply.clone_from(&event.reply);
            self.is_policy = is_policy;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::fs;

    use super::*;
    use crate::events::EventRecipient;

    /// 2026-11-21T18:05:25Z.
    const NOW: u64 = 1_795_284_325;

    fn event(kind: EventKind, attempts: u32, to: &str, reply: &str) -> EventView {
        let recipient = EventRecipient { address: to.to_owned(), given: None };
        EventView {
            time: NOW * 1000,
            id: "01N2K3P4Q5R6S".to_owned(),
            event: kind,
            sender: "alice@proseware.test".to_owned(),
            recipients: vec![recipient],
            message_id: None,
            size: Some(1),
            client: None,
            forwarded: None,
            origin: None,
            destination: None,
            host: Some("mx.adatum.test [192.0.2.9]".to_owned()),
            tls: None,
            status: None,
            reply: Some(reply.to_owned()),
            attempts: Some(attempts),
            delay: 0,
            report: None,
            report_kind: None,
            operator: false,
        }
    }

    fn tally(events: &[EventView], since: u64) -> Tally {
        let folder = tempfile::tempdir().unwrap();
        let lines: Vec<u8> = events.iter().flat_map(line::encode).collect();
        fs::write(folder.path().join("00000001-2026-11-21.jsonl"), lines).unwrap();
        offline(folder.path(), since).unwrap()
    }

    #[test]
    fn recipients_are_counted_by_domain_and_by_how_they_ended() {
        use EventKind::{Deferred, Delivered, Expired, Failed};
        let events = [
            event(Deferred, 1, "a@adatum.test", "451 4.7.1 greylisted"),
            event(Deferred, 2, "a@adatum.test", "451 4.2.1 busy"),
            event(Delivered, 3, "a@adatum.test", "250 2.0.0 ok"),
            event(Delivered, 1, "b@Adatum.test", "250 2.0.0 ok"),
            event(Failed, 1, "c@adatum.test", "550 5.1.1 no such user"),
            event(Expired, 9, "d@adatum.test", "too old"),
            event(Delivered, 1, "x@thephone-company.test", "250 2.0.0 ok"),
        ];
        let found = tally(&events, NOW - 10);
        assert_eq!(found.reaches, Some(NOW * 1000));
        let [adatum, other] = &found.domains[..] else { panic!("{found:?}") };
        assert_eq!((adatum.domain.as_str(), other.domain.as_str()), ("adatum.test", "thephone-company.test"));
        assert_eq!((adatum.tried, adatum.deferred, adatum.delivered, adatum.bounced), (3, 1, 2, 2));
        assert_eq!((adatum.policy, adatum.reply.as_deref()), (1, Some("451 4.7.1 greylisted")));
        assert_eq!((other.tried, other.delivered, other.policy, &other.reply), (1, 1, 0, &None));
    }

    #[test]
    fn what_is_older_our_own_or_an_operators_is_not_counted() {
        let old =
            EventView { time: (NOW - 100) * 1000, ..event(EventKind::Failed, 1, "a@adatum.test", "550 no") };
        let ours = EventView {
            destination: Some("local".to_owned()),
            ..event(EventKind::Delivered, 1, "bob@proseware.test", "250 ok")
        };
        let dropped = EventView { operator: true, ..event(EventKind::Failed, 1, "a@adatum.test", "spam") };
        assert_eq!(tally(&[old, ours, dropped], NOW - 10).domains, []);
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(offline(&folder.path().join("none"), 0).unwrap(), Tally::default());
    }

    #[test]
    fn memory_is_bounded() {
        let mut counting = Counting::default();
        for at in 0..MOST_DOMAINS + 5 {
            counting.take(&event(EventKind::Delivered, 1, &format!("a@d{at}.test"), "250 ok"));
        }
        assert_eq!((counting.domains.len(), counting.more), (MOST_DOMAINS, true));
    }
}
