//! What a client may have done to the queue: that the mail which waits for its domains is tried now (RFC 1985).

use std::time::Duration;

use postern_smtp::Domain;

use super::verbs::{IN_FLIGHT, Retry, TryAgain};
use super::{Group, GroupBy};
use crate::Queue;
use crate::filter::{BadFilter, Filter, RecipientPick};

/// Why, in the journal.
const WHY: &str = "asked for by ETRN";

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Turned {
    /// Messages that are tried now because of it.
    pub started: usize,
    /// Messages that were being tried already.
    pub under_way: usize,
}

impl Queue {
    /// The domains of recipients of waiting messages. Blocking.
    pub fn waiting_domains(&self) -> Vec<Domain> {
        // The default filter is well formed.
        let groups: Vec<Group> = self.count(&Filter::default(), GroupBy::Domain).unwrap_or_default();
        groups.iter().filter_map(|group| Domain::parse(&group.key).ok()).collect()
    }

    /// Makes due what waits for recipients in these domains; destinations that rest are tried at once, as who asks is there
    /// again. Recipients elsewhere, messages that are held, and the schedule stay as they are. Mail with recipients in several of the
    /// domains counts once.
    ///
    /// # Errors
    /// [`BadFilter`]: never for domains.
    pub async fn turn(&self, domains: Vec<Domain>) -> Result<Turned, BadFilter> {
        if domains.is_empty() {
            return Ok(Turned::default());
        }
        let in_domain =
            |domain: &Domain| Filter { rcpt_domain: Some(domain.to_string()), ..Filter::default() };
        let pick = RecipientPick::new(&Filter {
            also: domains.iter().map(in_domain).collect(),
            ..Filter::default()
        })?;
        let queue = self.clone();
        let select = move || {
            let mut ids = Vec::new();
            for domain in &domains {
                ids.extend(queue.select(&in_domain(domain))?);
            }
            ids.sort_unstable_by_key(|id| id.0);
            ids.dedup();
            Ok(ids)
        };
        // In a large queue it takes long. A thread that cannot be had finds nothing.
        let ids = tokio::task::spawn_blocking(select).await.unwrap_or_else(|_| Ok(Vec::new()))?;
        let how = Retry { ignore_breaker: true, ..Retry::default() };
        let change = self.change(&ids, Duration::ZERO, &TryAgain { how, pick, why: WHY }).await;
        let under_way = change.skipped.iter().filter(|(_, reason)| reason == IN_FLIGHT).count();
        Ok(Turned { started: change.changed, under_way })
    }
}
