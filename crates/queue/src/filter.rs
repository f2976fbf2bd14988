//! Which messages: the filter grammar of operators, and what it means for one message.

pub(crate) mod arriving;

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use postern_smtp::{Address, Domain, Host, ReversePath};
use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use crate::domains::Domains;
use crate::entry::{Entry, Status};
use crate::envelope::{Envelope, Origin, Recipient};
use crate::message::QueueId;
use crate::messages::Context;
use crate::rules::rule_of;
use crate::scheduler::Scheduler;
use crate::state::{MessageState, Phase, RecipientState};

/// Filters inside one request at most, itself included.
const MAX_FILTERS: usize = 100;
/// Characters of a regular expression at most.
const MAX_PATTERN: usize = 1000;
/// Octets that a compiled regular expression may take, and as many again for its cache.
const PATTERN_SIZE: usize = 256 * 1024;

/// Which messages: all conditions that are given must hold. The default matches everything.
///
/// A condition on recipients holds for a message when it holds for one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// One of these ids (as text); empty: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<String>,
    /// Envelope sender: an address, `@domain`, or `<>`. Case is folded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    /// A recipient: an address or `@domain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rcpt: Option<String>,
    /// The domain of a recipient.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rcpt_domain: Option<String>,
    /// The destination a recipient waits for, whole (`mx adatum.test`) or without its first word (`adatum.test`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The login it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The address it came from, or the network of that: `192.0.2.7`, `192.0.2.0/24`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<String>,
    /// `ready`, `active`, `deferred`, `held`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Beginning of the last enhanced code or reply code of a recipient, such as `4.7.`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// A regular expression that is found in the last reply to a recipient.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// A field of the message's header. It is read from the spool, for messages that pass all other conditions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderPattern>,
    /// Older than so many seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older: Option<u64>,
    /// Younger than so many seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newer: Option<u64>,
    /// The next attempt is within so many seconds; a message that is due or being delivered counts, one that is held
    /// has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_within: Option<u64>,
    /// The next attempt is later than in so many seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_beyond: Option<u64>,
    /// Octets at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_size: Option<u64>,
    /// Octets at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u64>,
    /// A recipient was tried more than so many times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_attempts: Option<u32>,
    /// Every recipient was tried fewer than so many times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// Brought forward by more than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_priority: Option<i8>,
    /// Brought forward by less than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_priority: Option<i8>,
    /// Held by the standing rule with this id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_by: Option<u64>,
    /// Only messages with a null sender.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dsn: bool,
    /// The Message-ID field, without angle brackets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// Each of these must match as well: for a condition that is given twice.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<Filter>,
    /// None of these may match. One with `header` has no other condition.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not: Vec<Filter>,
}

/// A condition on a field of the header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderPattern {
    /// The name of the field, in any case.
    pub name: String,
    /// A regular expression that is found in its value, unfolded; encoded words stay encoded.
    pub pattern: String,
}

/// Which recipients of a message a verb is about: those that the filter names, by address, domain or destination, or all
/// where it names none.
#[derive(Debug, Default)]
pub struct RecipientPick {
    named: Vec<Pattern>,
    destinations: Vec<String>,
}

impl RecipientPick {
    /// The recipients that `rcpt`, `rcpt_domain` and `destination` name, also in further conditions.
    ///
    /// # Errors
    /// [`BadFilter`].
    pub fn new(filter: &Filter) -> Result<Self, BadFilter> {
        let (mut named, mut destinations) = (Vec::new(), Vec::new());
        for filter in std::iter::once(filter).chain(&filter.also) {
            named.extend(filter.rcpt.as_deref().map(Pattern::new).transpose()?);
            named.extend(filter.rcpt_domain.as_deref().map(Pattern::domain).transpose()?);
            destinations.extend(filter.destination.clone());
        }
        Ok(Self { named, destinations })
    }

    /// Whether a recipient is meant.
    pub(crate) fn takes(&self, envelope: &Envelope, index: usize, cx: &Context<'_>) -> bool {
        let goes_there = || {
            let destination = cx.destination(envelope, index);
            self.destinations.iter().any(|wanted| is_destination(&destination.0, wanted))
        };
        self.is_named(&envelope.recipients[index]) && (self.destinations.is_empty() || goes_there())
    }

    /// Whether every recipient is meant, done or not.
    pub(crate) fn takes_all(&self, envelope: &Envelope) -> bool {
        self.destinations.is_empty() && envelope.recipients.iter().all(|recipient| self.is_named(recipient))
    }

    /// Whether an address is meant, wherever it goes.
    pub(crate) fn is_named(&self, recipient: &Recipient) -> bool {
        self.named.is_empty() || self.named.iter().any(|pattern| pattern.matches_recipient(recipient))
    }
}

/// A filter with a value that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadFilter(pub String);

/// What the conditions on an envelope are asked about: a message of the queue, or one that arrives.
pub(crate) trait EnvelopeFacts {
    /// Whether MAIL FROM is so.
    fn is_sender(&self, pattern: &Pattern) -> bool;

    /// Whether a recipient is so.
    fn has_recipient(&self, pattern: &Pattern) -> bool;

    /// The login it came from.
    fn account(&self) -> Option<&str>;

    /// The address it came from.
    fn client(&self) -> Option<IpAddr>;

    /// Whether MAIL FROM is `<>`.
    fn has_null_sender(&self) -> bool;

    /// The Message-ID field.
    fn message_id(&self) -> Option<&str>;
}

/// A message that is looked at.
pub(crate) struct Found<'a> {
    pub(crate) id: QueueId,
    pub(crate) status: Status,
    pub(crate) envelope: &'a Envelope,
    pub(crate) state: &'a MessageState,
    pub(crate) scheduler: &'a Scheduler,
    pub(crate) cx: &'a Context<'a>,
}

impl Found<'_> {
    /// When a recipient is tried next, the rest of its destination included. None for one that is held, in hand or done.
    pub(crate) fn next_attempt(&self, index: usize) -> Option<SystemTime> {
        let state = self.state.recipients.get(index)?;
        let Phase::Waiting { next } = state.phase else {
            return None;
        };
        if state.leased || self.state.held.is_some() {
            return None;
        }
        let next = next.unwrap_or(self.cx.now);
        Some(self.rest(index).map_or(next, |rest| rest.max(next)))
    }

    /// Until when the destination of a recipient rests.
    pub(crate) fn rest(&self, index: usize) -> Option<SystemTime> {
        let destination = self.destination(index)?;
        self.scheduler.rest_of(&destination).map(|(until, _)| until)
    }

    /// Where a recipient waits.
    pub(crate) fn destination(&self, index: usize) -> Option<crate::Destination> {
        self.envelope.recipients.get(index)?;
        Some(self.cx.destination(self.envelope, index))
    }

    /// The login it came from.
    pub(crate) fn account(&self) -> Option<&str> {
        account(&self.envelope.origin)
    }
}

impl EnvelopeFacts for Found<'_> {
    fn is_sender(&self, pattern: &Pattern) -> bool {
        pattern.matches_sender(&self.envelope.reverse_path)
    }

    fn has_recipient(&self, pattern: &Pattern) -> bool {
        self.envelope.recipients.iter().any(|recipient| pattern.matches_recipient(recipient))
    }

    fn account(&self) -> Option<&str> {
        account(&self.envelope.origin)
    }

    fn client(&self) -> Option<IpAddr> {
        self.envelope.client
    }

    fn has_null_sender(&self) -> bool {
        self.envelope.has_null_sender()
    }

    fn message_id(&self) -> Option<&str> {
        self.envelope.message_id.as_deref()
    }
}

fn account(origin: &Origin) -> Option<&str> {
    match origin {
        Origin::Login(login) => Some(login),
        Origin::TrustedNetwork(_) | Origin::Outsider | Origin::Own => None,
    }
}

/// A filter, read once.
#[derive(Debug)]
pub(crate) struct Matcher {
    conditions: Conditions,
    headers: Vec<HeaderTest>,
}

/// A condition on the header; all must hold.
#[derive(Debug)]
struct HeaderTest {
    name: String,
    pattern: Regex,
    is_negated: bool,
}

impl Matcher {
    /// Reads a filter.
    ///
    /// # Errors
    /// [`BadFilter`]: the text names the value and what is accepted.
    pub(crate) fn new(filter: &Filter, now: SystemTime) -> Result<Self, BadFilter> {
        let mut reading = Reading { now, filters: 0, headers: Vec::new() };
        let conditions = reading.conditions(filter, false)?;
        Ok(Self { conditions, headers: reading.headers })
    }

    /// The only messages that can match, by age; `None`: all of them.
    pub(crate) fn ids(&self) -> Option<&[QueueId]> {
        self.conditions.ids.as_deref()
    }

    /// What can be said without decoding the message: `false` is certain.
    pub(crate) fn may_match(&self, entry: &Entry, domains: &Domains) -> bool {
        self.conditions.may_match(entry, domains)
    }

    /// Whether [`Matcher::may_match`] says all there is to say.
    pub(crate) fn is_decided_by_facts(&self) -> bool {
        self.headers.is_empty() && self.conditions.are_facts
    }

    /// The same for these messages only.
    pub(crate) fn only(mut self, ids: Vec<QueueId>) -> Self {
        self.conditions.ids = Some(ids);
        self
    }

    /// Everything but the header.
    pub(crate) fn matches(&self, found: &Found<'_>) -> bool {
        self.conditions.matches(found)
    }

    /// Whether the header must be read as well.
    pub(crate) fn wants_header(&self) -> bool {
        !self.headers.is_empty()
    }

    /// Whether a header does what is wanted of it. What follows the empty line is not looked at.
    pub(crate) fn matches_header(&self, header: &[u8]) -> bool {
        let header = String::from_utf8_lossy(header);
        self.matches_fields(&unfolded(&header))
    }

    fn matches_fields<N: AsRef<str>>(&self, fields: &[(N, String)]) -> bool {
        self.headers.iter().all(|test| {
            let holds = |(name, value): &(N, String)| {
                name.as_ref().eq_ignore_ascii_case(&test.name) && test.pattern.is_match(value)
            };
            fields.iter().any(holds) != test.is_negated
        })
    }
}

/// The fields of a header with their values on one line.
fn unfolded(header: &str) -> Vec<(&str, String)> {
    let mut fields: Vec<(&str, String)> = Vec::new();
    for line in header.lines() {
        if line.is_empty() {
            break;
        }
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim_end(), value.trim_start().to_owned()));
        }
    }
    fields
}

/// A filter while it is read.
struct Reading {
    now: SystemTime,
    filters: usize,
    headers: Vec<HeaderTest>,
}

impl Reading {
    fn conditions(&mut self, filter: &Filter, is_negated: bool) -> Result<Conditions, BadFilter> {
        self.filters += 1;
        if self.filters > MAX_FILTERS {
            return Err(BadFilter(format!("more than {MAX_FILTERS} conditions in one filter")));
        }
        if let Some(header) = &filter.header {
            if is_negated {
                return Err(BadFilter("a negated filter with `header` has no other condition".to_owned()));
            }
            self.header(header, false)?;
        }
        let mut not = Vec::new();
        for negated in &filter.not {
            match only_header(negated) {
                Some(header) if !is_negated => self.header(header, true)?,
                _ => not.push(self.conditions(negated, true)?),
            }
        }
        let also = filter.also.iter().map(|filter| self.conditions(filter, is_negated));
        let also = also.collect::<Result<_, _>>()?;
        Ok(Conditions { also, not, ..Conditions::single(filter, self.now)? })
    }

    fn header(&mut self, header: &HeaderPattern, is_negated: bool) -> Result<(), BadFilter> {
        // RFC 5322 §2.2.
        let is_name = |byte: u8| (33..=126).contains(&byte) && byte != b':';
        if header.name.is_empty() || !header.name.bytes().all(is_name) {
            return Err(BadFilter(format!("{:?} is no name of a header field", header.name)));
        }
        self.filters += 1;
        let pattern = pattern(&header.pattern)?;
        self.headers.push(HeaderTest { name: header.name.clone(), pattern, is_negated });
        Ok(())
    }
}

fn only_header(filter: &Filter) -> Option<&HeaderPattern> {
    let rest = Filter { header: None, ..filter.clone() };
    filter.header.as_ref().filter(|_| rest == Filter::default())
}

/// The conditions of one filter.
#[derive(Debug)]
struct Conditions {
    ids: Option<Vec<QueueId>>,
    sender: Option<Pattern>,
    rcpt: Option<Pattern>,
    rcpt_domain: Option<Pattern>,
    destination: Option<String>,
    account: Option<String>,
    client_ip: Option<IpNet>,
    state: Option<Status>,
    code: Option<String>,
    error: Option<Regex>,
    received_before: Option<SystemTime>,
    received_after: Option<SystemTime>,
    next_until: Option<SystemTime>,
    next_after: Option<SystemTime>,
    min_size: u64,
    max_size: u64,
    min_attempts: Option<u32>,
    max_attempts: Option<u32>,
    min_priority: Option<i8>,
    max_priority: Option<i8>,
    held_by: Option<u64>,
    dsn: bool,
    message_id: Option<String>,
    also: Vec<Conditions>,
    not: Vec<Conditions>,
    /// Whether there is no condition but on age, size and state.
    are_facts: bool,
}

impl Conditions {
    /// Those of the filter itself.
    fn single(filter: &Filter, now: SystemTime) -> Result<Self, BadFilter> {
        let mut ids: Vec<QueueId> =
            filter.ids.iter().map(|id| parsed("queue id", id)).collect::<Result<_, _>>()?;
        ids.sort_unstable();
        ids.dedup();
        let ago =
            |seconds: u64| now.checked_sub(Duration::from_secs(seconds)).unwrap_or(SystemTime::UNIX_EPOCH);
        // A time beyond what the clock can hold is no bound for "until", and never reached for "after".
        let facts = Filter {
            state: filter.state.clone(),
            older: filter.older,
            newer: filter.newer,
            min_size: filter.min_size,
            max_size: filter.max_size,
            ..Filter::default()
        };
        let ahead = |seconds: u64| now.checked_add(Duration::from_secs(seconds)).unwrap_or(far_off(now));
        Ok(Self {
            ids: (!filter.ids.is_empty()).then_some(ids),
            sender: filter.sender.as_deref().map(Pattern::new).transpose()?,
            rcpt: filter.rcpt.as_deref().map(Pattern::new).transpose()?,
            rcpt_domain: filter.rcpt_domain.as_deref().map(Pattern::domain).transpose()?,
            destination: filter.destination.clone(),
            account: filter.account.clone(),
            client_ip: filter.client_ip.as_deref().map(network).transpose()?,
            state: filter.state.as_deref().map(status).transpose()?,
            code: filter.code.clone(),
            error: filter.error.as_deref().map(pattern).transpose()?,
            received_before: filter.older.map(ago),
            received_after: filter.newer.map(ago),
            next_until: filter.next_within.map(ahead),
            next_after: filter.next_beyond.map(ahead),
            min_size: filter.min_size.unwrap_or(0),
            max_size: filter.max_size.unwrap_or(u64::MAX),
            min_attempts: filter.min_attempts,
            max_attempts: filter.max_attempts,
            min_priority: filter.min_priority,
            max_priority: filter.max_priority,
            held_by: filter.held_by,
            dsn: filter.dsn,
            message_id: filter.message_id.clone(),
            also: Vec::new(),
            not: Vec::new(),
            are_facts: *filter == facts,
        })
    }

    fn may_match(&self, entry: &Entry, domains: &Domains) -> bool {
        let facts = entry.facts();
        let goes_to = |pattern: &Option<Pattern>| match (pattern, domains.name(entry.domain)) {
            (Some(pattern), Some(domain)) => pattern.may_be_in(domain),
            _ => true,
        };
        self.allows(entry.status, facts.received, facts.size)
            && goes_to(&self.rcpt)
            && goes_to(&self.rcpt_domain)
            && self.also.iter().all(|also| also.may_match(entry, domains))
    }

    /// The conditions that can be told without decoding the message.
    fn allows(&self, status: Status, received: SystemTime, size: u64) -> bool {
        self.state.is_none_or(|state| state == status)
            && self.received_before.is_none_or(|before| received < before)
            && self.received_after.is_none_or(|after| received > after)
            && (self.min_size..=self.max_size).contains(&size)
    }

    fn matches(&self, found: &Found<'_>) -> bool {
        self.allows(found.status, found.envelope.received, found.envelope.size)
            && self.ids.as_ref().is_none_or(|ids| ids.binary_search(&found.id).is_ok())
            && self.matches_envelope(found)
            && self.matches_state(found)
            && self.also.iter().all(|also| also.matches(found))
            && !self.not.iter().any(|not| not.matches(found))
    }

    fn matches_envelope(&self, facts: &impl EnvelopeFacts) -> bool {
        self.sender.as_ref().is_none_or(|pattern| facts.is_sender(pattern))
            && self.rcpt.as_ref().is_none_or(|pattern| facts.has_recipient(pattern))
            && self.rcpt_domain.as_ref().is_none_or(|pattern| facts.has_recipient(pattern))
            && self.account.as_deref().is_none_or(|wanted| facts.account() == Some(wanted))
            && self.client_ip.is_none_or(|network| facts.client().is_some_and(|ip| network.contains(&ip)))
            && (!self.dsn || facts.has_null_sender())
            && self.message_id.as_deref().is_none_or(|id| facts.message_id() == Some(id))
    }

    fn matches_state(&self, found: &Found<'_>) -> bool {
        let recipients = &found.state.recipients;
        let attempts = || recipients.iter().map(|r| r.attempts).max().unwrap_or(0);
        self.min_attempts.is_none_or(|least| attempts() > least)
            && self.max_attempts.is_none_or(|most| attempts() < most)
            && self.min_priority.is_none_or(|least| found.envelope.priority > least)
            && self.max_priority.is_none_or(|most| found.envelope.priority < most)
            && self.code.as_deref().is_none_or(|code| recipients.iter().any(|r| has_code(r, code)))
            && self.error.as_ref().is_none_or(|error| recipients.iter().any(|r| has_error(r, error)))
            && self.destination.as_deref().is_none_or(|wanted| has_destination(found, wanted))
            && self.held_by.is_none_or(|rule| found.state.held.as_deref().and_then(rule_of) == Some(rule))
            && (self.next_until.is_none() && self.next_after.is_none() || self.allows_next(next(found)))
    }

    fn allows_next(&self, next: Option<SystemTime>) -> bool {
        next.is_some_and(|next| {
            self.next_until.is_none_or(|until| next < until)
                && self.next_after.is_none_or(|after| next > after)
        })
    }
}

/// Times further off than anything that is scheduled.
fn far_off(now: SystemTime) -> SystemTime {
    now.checked_add(Duration::from_secs(100 * 365 * 24 * 3600)).unwrap_or(now)
}

/// The next attempt of a message: now, while one is under way.
fn next(found: &Found<'_>) -> Option<SystemTime> {
    if found.status == Status::Active {
        return Some(found.cx.now);
    }
    (0..found.state.recipients.len()).filter_map(|index| found.next_attempt(index)).min()
}

fn has_code(recipient: &RecipientState, code: &str) -> bool {
    recipient.last.as_ref().is_some_and(|report| {
        report.status.to_string().starts_with(code) || (report.is_reply && report.text.starts_with(code))
    })
}

fn has_error(recipient: &RecipientState, error: &Regex) -> bool {
    recipient.last.as_ref().is_some_and(|report| error.is_match(&report.text))
}

/// Whether a recipient that waits goes there.
fn has_destination(found: &Found<'_>, wanted: &str) -> bool {
    (0..found.state.recipients.len()).any(|index| {
        found.state.recipients[index].phase.is_waiting()
            && found.destination(index).is_some_and(|to| is_destination(&to.0, wanted))
    })
}

/// The whole name, or what follows its first word.
fn is_destination(destination: &str, wanted: &str) -> bool {
    let is = |name: &str| name.eq_ignore_ascii_case(wanted);
    is(destination) || destination.split_once(' ').is_some_and(|(_, name)| is(name))
}

fn parsed<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, BadFilter>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error| BadFilter(format!("{text:?} is no {what}: {error}")))
}

/// An address, or a network in CIDR notation.
fn network(text: &str) -> Result<IpNet, BadFilter> {
    let address = |_| text.parse().map(|ip: IpAddr| IpNet::from(ip.to_canonical()));
    let network = text.parse::<IpNet>().map(|network| network.trunc()).or_else(address);
    network.map_err(|_| BadFilter(format!("{text:?} is no address and no network such as 192.0.2.0/24")))
}

fn status(text: &str) -> Result<Status, BadFilter> {
    let found = Status::ALL.into_iter().find(|status| status.as_str() == text);
    found.ok_or_else(|| BadFilter(format!("{text:?} is no state: ready, active, deferred or held")))
}

fn pattern(text: &str) -> Result<Regex, BadFilter> {
    if text.chars().count() > MAX_PATTERN {
        return Err(BadFilter(format!("a regular expression has at most {MAX_PATTERN} characters")));
    }
    let built = RegexBuilder::new(text).size_limit(PATTERN_SIZE).dfa_size_limit(PATTERN_SIZE).build();
    built.map_err(|error| BadFilter(format!("{text:?} is no regular expression: {}", last_line(&error))))
}

/// The message without the drawing above it.
fn last_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let line = text.lines().last().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}

/// Which addresses.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    Null,
    Domain(Domain),
    Address(String),
}

impl Pattern {
    /// `<>`, `@domain` or an address.
    fn new(text: &str) -> Result<Self, BadFilter> {
        match text.strip_prefix('@') {
            _ if text == "<>" => Ok(Self::Null),
            Some(domain) => Self::domain(domain),
            None => parsed::<Address>("address", text).map(|address| Self::Address(address.folded())),
        }
    }

    fn domain(text: &str) -> Result<Self, BadFilter> {
        parsed("domain", text).map(Self::Domain)
    }

    fn matches_sender(&self, sender: &ReversePath) -> bool {
        sender.address().map_or(*self == Self::Null, |address| self.matches(address))
    }

    fn matches_recipient(&self, recipient: &Recipient) -> bool {
        self.matches(&recipient.address) || recipient.given.as_ref().is_some_and(|given| self.matches(given))
    }

    /// Whether a recipient in a domain may match.
    fn may_be_in(&self, domain: &str) -> bool {
        match self {
            Self::Null => false,
            Self::Domain(wanted) => wanted.as_str() == domain,
            Self::Address(wanted) => wanted.rsplit_once('@').is_none_or(|(_, wanted)| wanted == domain),
        }
    }

    fn matches(&self, address: &Address) -> bool {
        match self {
            Self::Null => false,
            Self::Domain(domain) => address.host == Host::Domain(domain.clone()),
            Self::Address(folded) => address.folded() == *folded,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn header(name: &str, pattern: &str) -> Filter {
        let header = HeaderPattern { name: name.to_owned(), pattern: pattern.to_owned() };
        Filter { header: Some(header), ..Filter::default() }
    }

    fn read(filter: &Filter) -> Result<Matcher, String> {
        Matcher::new(filter, SystemTime::UNIX_EPOCH + Duration::from_secs(1000)).map_err(|error| error.0)
    }

    #[test]
    fn header_fields_are_unfolded_and_found_in_any_case() {
        let message = b"Received: a\r\n\tb\r\nSUBJECT : Win\r\n  a prize\r\n\r\nX-Body: yes\r\n";
        for (name, pattern, expected) in [
            ("subject", "Win  ?a prize", true),
            ("Subject", "^Win", true),
            ("Subject", "^win", false),
            ("Subject", "(?i)^win", true),
            ("Received", "a\\s+b$", true),
            ("X-Body", "yes", false),
            ("To", "", false),
        ] {
            let filter = header(name, pattern);
            assert_eq!(read(&filter).unwrap().matches_header(message), expected, "{name}={pattern}");
            let negated = Filter { not: vec![filter], ..Filter::default() };
            assert_eq!(read(&negated).unwrap().matches_header(message), !expected, "not {name}={pattern}");
        }
        assert!(read(&header("Subject", "x")).unwrap().wants_header());
        assert!(!read(&Filter::default()).unwrap().wants_header());
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let some = |text: &str| Some(text.to_owned());
        let not = |filter| Filter { not: vec![filter], ..Filter::default() };
        for (filter, says) in [
            (Filter { error: some("("), ..Filter::default() }, "no regular expression: unclosed group"),
            (Filter { error: some("a{1000}{1000}"), ..Filter::default() }, "size limit"),
            (Filter { error: Some("x".repeat(1001)), ..Filter::default() }, "at most 1000 characters"),
            (header("Sub ject", "x"), "no name of a header field"),
            (header("", "x"), "no name of a header field"),
            (not(Filter { dsn: true, ..header("Subject", "x") }), "no other condition"),
            (not(not(header("Subject", "x"))), "no other condition"),
            (not(Filter { state: some("lost"), ..Filter::default() }), "no state"),
            (Filter { also: vec![Filter::default(); 100], ..Filter::default() }, "more than 100"),
        ] {
            let error = read(&filter).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn times_beyond_the_clock_are_no_error() {
        let filter = Filter { next_within: Some(u64::MAX), older: Some(u64::MAX), ..Filter::default() };
        assert!(read(&filter).is_ok());
    }

    #[test]
    fn a_destination_is_named_whole_or_by_what_follows_its_kind() {
        for (destination, wanted, expected) in [
            ("mx adatum.test", "mx adatum.test", true),
            ("mx adatum.test", "Adatum.Test", true),
            ("mx adatum.test", "mx", false),
            ("local", "local", true),
        ] {
            assert_eq!(is_destination(destination, wanted), expected, "{destination} {wanted}");
        }
    }
}
