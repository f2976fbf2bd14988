//! Counts: by group, and by domain and age.

use std::collections::BTreeMap;

use postern_smtp::Address;
use serde::{Deserialize, Serialize};

use super::list::step;
use super::seconds;
use crate::filter::{BadFilter, Filter, Found, Matcher};
use crate::message::{Destination, QueueId};
use crate::{Inner, Queue};

/// How many messages a group has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The value they share.
    pub key: String,
    /// Messages.
    pub messages: usize,
    /// Recipients.
    pub recipients: usize,
    /// Octets.
    pub octets: u64,
    /// Until when the destination rests, in seconds since 1970: only where destinations are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rests_until: Option<u64>,
}

impl Group {
    /// Of one message.
    fn new(key: &str, recipients: usize, octets: u64) -> Self {
        Self { key: key.to_owned(), messages: 1, recipients, octets, rests_until: None }
    }

    /// One message more.
    fn add(&mut self, recipients: usize, octets: u64) {
        self.messages += 1;
        self.recipients += recipients;
        self.octets += octets;
    }
}

/// What messages are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupBy {
    /// Recipient domain.
    Domain,
    /// The destination that recipients wait for: MX group, smarthost, mailbox.
    #[serde(alias = "mx")]
    Destination,
    /// Envelope sender.
    Sender,
    /// Domain of the envelope sender.
    SenderDomain,
    /// Login.
    Account,
    /// The client's address.
    Client,
    /// Last enhanced code.
    Code,
    /// State.
    State,
}

/// How old the messages of each domain are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// The upper ends of the columns, in seconds. A last column without an end follows.
    pub buckets: Vec<u64>,
    /// All messages, each counted once, by column.
    pub total: Vec<usize>,
    /// The domains with the most messages first.
    pub rows: Vec<ShapeRow>,
    /// Domains that were left out.
    pub omitted: usize,
}

/// The messages of one domain by age.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShapeRow {
    /// The domain.
    pub key: String,
    /// Messages by column.
    pub messages: Vec<usize>,
}

/// Which domains a [`Shape`] has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShapeBy {
    /// Those of the recipients.
    #[default]
    Recipient,
    /// Those of the senders.
    Sender,
}

impl Queue {
    /// Counts the messages that match, by group. Blocking, as [`Queue::list`].
    ///
    /// # Errors
    /// [`BadFilter`].
    pub fn count(&self, filter: &Filter, by: GroupBy) -> Result<Vec<Group>, BadFilter> {
        let matcher = Matcher::new(filter, self.inner.clock.now())?;
        let mut groups: BTreeMap<String, Group> = BTreeMap::new();
        let matcher =
            if by == GroupBy::Domain { self.inner.count_domains(matcher, &mut groups) } else { matcher };
        self.inner.scan(&matcher, QueueId(0), |found| {
            for (key, recipients) in keys(found, by) {
                let size = found.envelope.size;
                match groups.get_mut(&key) {
                    Some(group) => group.add(recipients, size),
                    None => drop(groups.insert(key.clone(), Group::new(&key, recipients, size))),
                }
            }
            true
        })?;
        let mut groups: Vec<Group> = groups.into_values().collect();
        groups.sort_by(|a, b| b.messages.cmp(&a.messages).then_with(|| a.key.cmp(&b.key)));
        if by == GroupBy::Destination {
            let messages = self.inner.messages.lock();
            for group in &mut groups {
                let rest = messages.scheduler.rest_of(&Destination(group.key.as_str().into()));
                group.rests_until = rest.map(|(until, _)| seconds(until));
            }
        }
        Ok(groups)
    }

    /// Counts the messages that match by domain and age, the `limit` largest domains. A message with recipients in several
    /// domains counts in each. `buckets` are the upper ends of the columns in seconds. Blocking, as [`Queue::list`].
    ///
    /// # Errors
    /// [`BadFilter`], also for buckets that do not grow.
    pub fn shape(
        &self,
        filter: &Filter,
        by: ShapeBy,
        buckets: &[u64],
        limit: usize,
    ) -> Result<Shape, BadFilter> {
        if buckets.is_empty() || buckets.len() > MAX_BUCKETS || !buckets.is_sorted_by(|a, b| a < b) {
            return Err(BadFilter(format!("buckets: 1 to {MAX_BUCKETS} ages, each above the one before")));
        }
        let now = self.inner.clock.now();
        let matcher = Matcher::new(filter, now)?;
        let by = if by == ShapeBy::Sender { GroupBy::SenderDomain } else { GroupBy::Domain };
        let mut total = vec![0; buckets.len() + 1];
        let mut rows: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        self.inner.scan(&matcher, QueueId(0), |found| {
            let age = now.duration_since(found.envelope.received).unwrap_or_default().as_secs();
            let column = buckets.partition_point(|end| *end <= age);
            total[column] += 1;
            for (key, _) in keys(found, by) {
                rows.entry(key).or_insert_with(|| vec![0; buckets.len() + 1])[column] += 1;
            }
            true
        })?;
        let mut rows: Vec<ShapeRow> =
            rows.into_iter().map(|(key, messages)| ShapeRow { key, messages }).collect();
        // Stable: equal ones stay in the order of their names.
        rows.sort_by_key(|row| std::cmp::Reverse(row.messages.iter().sum::<usize>()));
        let omitted = rows.len().saturating_sub(limit);
        rows.truncate(limit);
        Ok(Shape { buckets: buckets.to_vec(), total, rows, omitted })
    }
}

/// Columns of a [`Shape`].
const MAX_BUCKETS: usize = 32;

impl Inner {
    /// Counts the messages by the domain of their only recipient, where that is all that must be known of them. What remains
    /// to be counted says the answer.
    fn count_domains(&self, matcher: Matcher, groups: &mut BTreeMap<String, Group>) -> Matcher {
        if !matcher.is_decided_by_facts() {
            return matcher;
        }
        let mut others = Vec::new();
        let mut next = Some(QueueId(0));
        while let Some(from) = next {
            let messages = self.messages.lock();
            let (entries, behind) = step(&messages, None, from);
            next = behind;
            for (id, entry) in entries.filter(|(_, entry)| matcher.may_match(entry, &messages.domains)) {
                let Some(domain) = messages.domains.name(entry.domain) else {
                    others.push(id);
                    continue;
                };
                match groups.get_mut(domain) {
                    Some(group) => group.add(1, entry.facts().size),
                    None => drop(groups.insert(domain.to_owned(), Group::new(domain, 1, entry.facts().size))),
                }
            }
        }
        matcher.only(others)
    }
}

/// What a message is counted under, and how many of its recipients each time.
fn keys(found: &Found<'_>, by: GroupBy) -> BTreeMap<String, usize> {
    let envelope = found.envelope;
    let all = |key: String| BTreeMap::from([(key, envelope.recipients.len())]);
    let each = |keys: &mut dyn Iterator<Item = String>| {
        let mut counted = BTreeMap::new();
        for key in keys {
            *counted.entry(key).or_insert(0) += 1;
        }
        counted
    };
    match by {
        GroupBy::Domain => each(&mut envelope.recipients.iter().map(|r| r.address.host.to_string())),
        GroupBy::Destination => {
            let waiting = (0..envelope.recipients.len())
                .filter(|index| found.state.recipients[*index].phase.is_waiting());
            each(&mut waiting.filter_map(|index| found.destination(index)).map(|to| to.to_string()))
        }
        GroupBy::Code => {
            each(&mut found.state.recipients.iter().map(|r| {
                r.last.as_ref().map_or_else(|| "none".to_owned(), |report| report.status.to_string())
            }))
        }
        GroupBy::Sender => {
            all(envelope.reverse_path.address().map_or_else(|| "<>".to_owned(), Address::folded))
        }
        GroupBy::SenderDomain => {
            let domain = envelope.reverse_path.address().map(|address| address.host.to_string());
            all(domain.unwrap_or_else(|| "<>".to_owned()))
        }
        GroupBy::Account => all(found.account().unwrap_or("none").to_owned()),
        GroupBy::Client => all(envelope.client.map_or_else(|| "none".to_owned(), |ip| ip.to_string())),
        GroupBy::State => all(found.status.as_str().to_owned()),
    }
}
