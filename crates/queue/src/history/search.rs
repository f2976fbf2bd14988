//! What the journal and the queue know of a message.
//!
//! The files are searched for the key from the newest back, as octets in lower case: only lines in which it stands are
//! read as JSON. That gives messages; then everything is collected that the journal has about them, so that a question
//! for one recipient shows the fate of the whole message, and of the report about it. Blocking, and bounded: one piece of
//! a file in memory at a time, so many messages, so many events.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::{Duration, SystemTime};

use memchr::memmem::Finder;
use memchr::{memchr, memrchr};
use postern_smtp::Domain;
use serde::{Deserialize, Serialize};

use super::files::{Kept, day_of, list};
use super::line::{self, LineId};
use crate::Queue;
use crate::events::{EventKind, EventView, Who};
use crate::filter::{BadFilter, Filter};
use crate::message::QueueId;
use crate::operate::MessageView;

/// Octets of a file that are looked at together. A line is shorter.
const BLOCK: usize = 1024 * 1024;
/// Events of one message in an answer, the newest.
const MAX_STORY: usize = 500;
/// Events in an answer.
const MAX_EVENTS: usize = 20_000;
/// Events stand in the file of the day when they were written, a moment after they happened.
const LATENESS: u64 = 3600;

/// A question.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// A queue id (of a message, or of a report about it), a Message-ID, an address or a domain.
    pub key: String,
    /// Messages with an event at this time or later, in seconds since 1970.
    pub since: Option<u64>,
    /// Messages with an event at this time or earlier.
    pub until: Option<u64>,
    /// So many messages, the newest. Reports about them come on top.
    pub limit: usize,
}

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The messages; the one that something happened to last stands last.
    pub messages: Vec<Story>,
    /// Whether there are more than were asked for.
    pub more: bool,
    /// How far back the journal reaches, in milliseconds since 1970; none if it is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reaches: Option<u64>,
    /// Whether the journal is kept at all. Left out where the daemon was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Events that the daemon could not keep since it started.
    #[serde(default)]
    pub dropped: u64,
}

/// What is known of one message. Times are milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Story {
    /// The queue id.
    pub id: String,
    /// When it was accepted, since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<u64>,
    /// MAIL FROM; empty is the null sender.
    pub sender: String,
    /// The Message-ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// Octets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The client's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Where the client had the message from, as it said by XFORWARD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarded: Option<String>,
    /// `login alice`, `trusted network office`, `outsider`, `own`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// The message that it reports about, if it is a report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// What happened, oldest first.
    pub events: Vec<EventView>,
    /// Events that were left out, all but the newest.
    #[serde(default)]
    pub omitted: usize,
    /// The message as it is in the queue now, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued: Option<MessageView>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The key makes no sense.
    #[error(transparent)]
    Key(#[from] BadFilter),
    /// The files cannot be read.
    #[error("the journal cannot be read: {0}")]
    Io(#[from] io::Error),
}

impl Queue {
    /// What the journal and the queue know. Blocking; one question at a time, others wait.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn history(&self, query: &Query) -> Result<History, HistoryError> {
        let key = Key::new(&query.key)?;
        // The queue first: what leaves it from here on is in the journal when that is read.
        let queued = self.queued(&key, query)?;
        let journal = self.inner.events.journal();
        let _turn = journal.map(|journal| journal.searching());
        if let Some(journal) = journal {
            journal.flush();
        }
        let mut history = search(&self.inner.events.folder, &key, query, queued, |id| self.show(id))?;
        history.enabled = Some(journal.is_some());
        history.dropped = journal.map_or(0, |journal| journal.dropped());
        Ok(history)
    }

    /// The newest messages in the queue that the key names, oldest first.
    fn queued(&self, key: &Key, query: &Query) -> Result<Vec<QueueId>, BadFilter> {
        let mut ids = Vec::new();
        for filter in key.filters() {
            ids.extend(self.select(&filter)?);
        }
        ids.sort_unstable();
        ids.dedup();
        let was_there = |id: &QueueId| {
            query.until.is_none_or(|until| self.show(*id).is_some_and(|message| message.received <= until))
        };
        let mut newest: Vec<QueueId> =
            ids.into_iter().rev().filter(was_there).take(query.limit.saturating_add(1)).collect();
        newest.reverse();
        Ok(newest)
    }
}

/// The same without a daemon: from a folder of journal files alone. Blocking.
///
/// # Errors
/// [`HistoryError`].
pub fn offline(folder: &Path, query: &Query) -> Result<History, HistoryError> {
    let key = Key::new(&query.key)?;
    Ok(search(folder, &key, query, Vec::new(), |_| None)?)
}

fn search(
    folder: &Path,
    key: &Key,
    query: &Query,
    queued: Vec<QueueId>,
    show: impl Fn(QueueId) -> Option<MessageView>,
) -> io::Result<History> {
    let files = list(folder)?;
    let Found { mut ids, mut more, mut accepted } = find(&files, key, query)?;
    for id in queued {
        ids.insert(line_id(&id));
        accepted = accepted.min(show(id).map_or(u64::MAX, |message| message.received));
    }
    let mut stories = Stories { wanted: ids, ..Stories::default() };
    collect(&files, accepted, &mut stories)?;
    let mut messages: Vec<Story> = stories.finish(show);
    messages.sort_by_key(|story| (story.queued.is_some(), last_time(story)));
    // Reports that only came along do not push out what was asked for.
    let is_asked = |story: &Story| story.about.is_none() || key.is_id(&story.id);
    let mut surplus = messages.iter().filter(|story| is_asked(story)).count().saturating_sub(query.limit);
    more |= surplus > 0;
    messages.retain(|story| {
        let goes = surplus > 0 && is_asked(story);
        surplus -= usize::from(goes);
        !goes
    });
    Ok(History { messages, more, reaches: reaches(&files)?, enabled: None, dropped: 0 })
}

fn line_id(id: &QueueId) -> LineId {
    let mut octets = LineId::default();
    let text = id.to_string();
    octets.iter_mut().zip(text.bytes()).for_each(|(octet, byte)| *octet = byte);
    octets
}

fn last_time(story: &Story) -> u64 {
    story.events.last().map(|event| event.time).or(story.accepted).unwrap_or(0)
}

/// What a question is about.
#[derive(Debug)]
struct Key {
    id: Option<QueueId>,
    /// The text as it may stand for a Message-ID.
    message_id: Option<String>,
    who: Option<Who>,
    finder: Finder<'static>,
}

impl Key {
    fn new(text: &str) -> Result<Self, BadFilter> {
        let text = text.trim();
        let inner = text.strip_prefix('<').and_then(|text| text.strip_suffix('>')).unwrap_or(text);
        if inner.is_empty() {
            let usage = "a queue id, a Message-ID, an address, or a domain such as @adatum.test";
            return Err(BadFilter(format!("{text:?} is nothing to look for: give {usage}")));
        }
        let new = |id, message_id, who, needle: &str| Self { id, message_id, who, finder: finder(needle) };
        if let Ok(id) = inner.parse::<QueueId>() {
            return Ok(new(Some(id), None, None, &id.to_string()));
        }
        let domain = match inner.strip_prefix('@') {
            Some(domain) => Some(Domain::parse(domain).map_err(|e| BadFilter(format!("{inner:?}: {e}")))?),
            None if inner.contains('.') => Domain::parse(inner).ok(),
            None => None,
        };
        if let Some(domain) = domain {
            let needle = format!("@{domain}");
            return Ok(new(None, None, Some(Who::Domain(domain)), &needle));
        }
        // An international domain is kept in ASCII, and is not found as it is written.
        let who = Who::new(inner).ok();
        let needle = match &who {
            Some(Who::Address(address)) => address.clone(),
            _ => inner.to_owned(),
        };
        Ok(new(None, Some(inner.to_owned()), who, &needle))
    }

    fn is_id(&self, id: &str) -> bool {
        self.id.is_some_and(|own| own.to_string() == id)
    }

    fn matches(&self, event: &EventView) -> bool {
        let names = |who: &Who| who.matches(&event.sender) || who.is_among(&event.recipients);
        self.is_id(&event.id)
            || event.report.as_deref().is_some_and(|report| self.is_id(report))
            || (self.message_id.is_some() && self.message_id == event.message_id)
            || self.who.as_ref().is_some_and(names)
    }

    /// The same question to the queue; each of these filters finds some of the messages.
    fn filters(&self) -> Vec<Filter> {
        let mut filters = Vec::new();
        if let Some(id) = self.id {
            filters.push(Filter { ids: vec![id.to_string()], ..Filter::default() });
        }
        if let Some(message_id) = &self.message_id {
            filters.push(Filter { message_id: Some(message_id.clone()), ..Filter::default() });
        }
        let who = match &self.who {
            Some(Who::Domain(domain)) => Some(format!("@{domain}")),
            Some(Who::Address(address)) => Some(address.clone()),
            Some(Who::Null) | None => None,
        };
        if let Some(who) = who {
            filters.push(Filter { sender: Some(who.clone()), ..Filter::default() });
            filters.push(Filter { rcpt: Some(who), ..Filter::default() });
        }
        filters
    }
}

/// Finds a text where it stands in JSON, in lower case as far as that is ASCII. Other characters have several spellings in
/// other cases: the longest piece without them decides which lines are read.
fn finder(text: &str) -> Finder<'static> {
    let quoted = serde_json::to_string(text).unwrap_or_default();
    let inner = quoted.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(&quoted);
    let pieces = inner.split(|c: char| !c.is_ascii());
    let longest = pieces.max_by_key(|piece| piece.len()).unwrap_or_default();
    Finder::new(&longest.to_ascii_lowercase()).into_owned()
}

/// What a search for the key gives.
struct Found {
    ids: HashSet<LineId>,
    more: bool,
    /// When the first of these messages was accepted, in seconds since 1970.
    accepted: u64,
}

/// The newest messages with an event that matches.
fn find(files: &[Kept], key: &Key, query: &Query) -> io::Result<Found> {
    let since = query.since.unwrap_or(0);
    let until = query.until.unwrap_or(u64::MAX);
    let days = days(since, until);
    let mut found = Found { ids: HashSet::new(), more: false, accepted: u64::MAX };
    for file in files.iter().rev().filter(|file| days.contains(&file.day)) {
        let mut here: Vec<LineId> = Vec::new();
        each_line_with(&file.path, &key.finder, |line| {
            let event = line::decode(line).filter(|event| (since..=until).contains(&(event.time / 1000)));
            if let Some(event) = event.filter(|event| key.matches(event)) {
                here.extend(line::id_of(line));
                found.accepted = found.accepted.min(event.time.saturating_sub(event.delay) / 1000);
            }
        })?;
        for id in here.into_iter().rev() {
            if found.ids.len() >= query.limit && !found.ids.contains(&id) {
                found.more = true;
                return Ok(found);
            }
            found.ids.insert(id);
        }
    }
    Ok(found)
}

/// The days in whose files events of a time between these may stand.
fn days(since: u64, until: u64) -> RangeInclusive<String> {
    let first = day(since).unwrap_or_default();
    first..=day(until.saturating_add(LATENESS)).unwrap_or_else(|| "9999-12-31".to_owned())
}

/// The day of a time in seconds since 1970; none beyond the calendar.
pub(super) fn day(seconds: u64) -> Option<String> {
    const LAST: u64 = 253_370_764_800;
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    time.filter(|_| seconds < LAST).map(day_of)
}

/// Stories while they are put together.
#[derive(Debug, Default)]
struct Stories {
    wanted: HashSet<LineId>,
    told: HashMap<LineId, Telling>,
    /// Reports that were written about these messages: the message of each.
    reports: HashMap<LineId, String>,
    events: usize,
}

#[derive(Debug, Default)]
struct Telling {
    events: VecDeque<EventView>,
    omitted: usize,
    /// Of all events, left out or not.
    facts: Facts,
}

#[derive(Debug, Default)]
struct Facts {
    accepted: Option<u64>,
    sender: String,
    message_id: Option<String>,
    size: Option<u64>,
    client: Option<String>,
    forwarded: Option<String>,
    origin: Option<String>,
}

impl Facts {
    fn learn(&mut self, event: &EventView) {
        let accepted = event.time.saturating_sub(event.delay);
        self.accepted = Some(self.accepted.map_or(accepted, |earlier| earlier.min(accepted)));
        self.sender.clone_from(&event.sender);
        let learn = |fact: &mut Option<String>, event: &Option<String>| {
            if fact.is_none() {
                fact.clone_from(event);
            }
        };
        learn(&mut self.message_id, &event.message_id);
        learn(&mut self.client, &event.client);
        learn(&mut self.forwarded, &event.forwarded);
        learn(&mut self.origin, &event.origin);
        self.size = self.size.or(event.size);
    }
}

impl Stories {
    fn take(&mut self, id: LineId, event: EventView) {
        if event.event == EventKind::Reported
            && let Some(report) = event.report.as_ref().and_then(|report| report.parse().ok())
        {
            let report = line_id(&report);
            self.wanted.insert(report);
            self.reports.insert(report, event.id.clone());
        }
        let telling = self.told.entry(id).or_default();
        telling.facts.learn(&event);
        telling.events.push_back(event);
        self.events += 1;
        if telling.events.len() > MAX_STORY || self.events > MAX_EVENTS {
            telling.events.pop_front();
            telling.omitted += 1;
            self.events -= 1;
        }
    }

    fn finish(mut self, show: impl Fn(QueueId) -> Option<MessageView>) -> Vec<Story> {
        let mut stories = BTreeMap::new();
        for id in std::mem::take(&mut self.wanted) {
            let Some(text) = std::str::from_utf8(&id).ok().map(str::to_owned) else {
                continue;
            };
            let queued = text.parse().ok().and_then(&show);
            let told = self.told.remove(&id);
            if told.is_none() && queued.is_none() {
                continue;
            }
            let Telling { events, omitted, facts } = told.unwrap_or_default();
            let mut story = Story {
                id: text,
                accepted: facts.accepted,
                sender: facts.sender,
                message_id: facts.message_id,
                size: facts.size,
                client: facts.client,
                forwarded: facts.forwarded,
                origin: facts.origin,
                about: self.reports.remove(&id),
                events: events.into(),
                omitted,
                queued,
            };
            if let Some(queued) = &story.queued {
                story.accepted = story.accepted.or(Some(queued.received * 1000));
                story.sender.clone_from(&queued.sender);
                story.message_id.clone_from(&queued.message_id);
                story.size = Some(queued.size);
                story.client.clone_from(&queued.client);
                story.forwarded.clone_from(&queued.forwarded);
                story.origin = Some(queued.origin.clone());
            }
            stories.insert(id, story);
        }
        stories.into_values().collect()
    }
}

/// Collects all that the journal has about the wanted messages since the first of them was accepted.
fn collect(files: &[Kept], accepted: u64, stories: &mut Stories) -> io::Result<()> {
    let Some(first) = day(accepted) else {
        return Ok(());
    };
    for file in files.iter().filter(|file| file.day >= first) {
        each_line(&file.path, |line| {
            let id = line::id_of(line).filter(|id| stories.wanted.contains(id));
            if let Some((id, event)) = id.and_then(|id| Some((id, line::decode(line)?))) {
                stories.take(id, event);
            }
        })?;
    }
    Ok(())
}

/// The time of the oldest line.
pub(super) fn reaches(files: &[Kept]) -> io::Result<Option<u64>> {
    for file in files {
        let mut first = None;
        each_block(&file.path, |block| {
            let lines = block.split(|byte| *byte == b'\n');
            first = lines.filter_map(line::decode).next().map(|event| event.time);
            first.is_none()
        })?;
        if first.is_some() {
            return Ok(first);
        }
    }
    Ok(None)
}

pub(super) fn each_line(path: &Path, mut visit: impl FnMut(&[u8])) -> io::Result<()> {
    each_block(path, |block| {
        let mut rest = block;
        while let Some(end) = memchr(b'\n', rest) {
            visit(&rest[..end]);
            rest = &rest[end + 1..];
        }
        true
    })
}

/// The lines in which something stands.
fn each_line_with(path: &Path, finder: &Finder<'_>, mut visit: impl FnMut(&[u8])) -> io::Result<()> {
    let mut folded: Vec<u8> = Vec::new();
    each_block(path, |block| {
        folded.clear();
        folded.extend_from_slice(block);
        folded.make_ascii_lowercase();
        let mut behind = 0;
        while let Some(at) = finder.find(&folded[behind..]).map(|at| behind + at) {
            let begin = memrchr(b'\n', &block[..at]).map_or(0, |end| end + 1);
            let end = memchr(b'\n', &block[at..]).map_or(block.len(), |end| at + end);
            visit(&block[begin..end]);
            behind = (end + 1).min(block.len());
            if behind == block.len() {
                break;
            }
        }
        true
    })
}

/// Pieces of a file, each of whole lines; until `visit` has seen enough. Half a line at the end is passed over, and so is
/// one that is longer than any that is written. A file that was removed meanwhile has none.
fn each_block(path: &Path, mut visit: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    let mut block = vec![0; BLOCK];
    let mut filled = 0;
    loop {
        let read = match file.read(&mut block[filled..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        filled += read;
        if read > 0 && filled < block.len() {
            continue;
        }
        let end = memrchr(b'\n', &block[..filled]).map_or(0, |end| end + 1);
        if (end > 0 && !visit(&block[..end])) || read == 0 {
            return Ok(());
        }
        // Without any end of line all of it is damaged.
        let kept = if end == 0 { filled..filled } else { end..filled };
        block.copy_within(kept.clone(), 0);
        filled = kept.len();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::events::EventRecipient;
    use crate::history::line::tests::delivered;
    use std::fs;

    const DAY: u64 = 86_400_000;

    fn recipient(address: &str, given: Option<&str>) -> EventRecipient {
        EventRecipient { address: address.to_owned(), given: given.map(str::to_owned) }
    }

    fn id(number: u64) -> String {
        QueueId(((1_795_284_325_000_000 + number) << 8) | 1).to_string()
    }

    fn event(number: u64, kind: EventKind, time: u64) -> EventView {
        let usual = delivered();
        EventView { id: id(number), event: kind, time: usual.time + time, delay: usual.delay + time, ..usual }
    }

    /// A journal of two days: message 1 deferred and delivered, 2 failed with report 3, 4 delivered to Zoë.
    fn journal() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let deferred =
            EventView { reply: Some("451 4.3.0 later".to_owned()), ..event(1, EventKind::Deferred, 0) };
        let failed = EventView {
            recipients: vec![recipient("Carol@adatum.test", Some("list@proseware.test"))],
            message_id: Some("two@proseware.test".to_owned()),
            status: Some("5.1.1".to_owned()),
            reply: Some("550 5.1.1 no such user".to_owned()),
            ..event(2, EventKind::Failed, 1000)
        };
        let reported = EventView {
            report: Some(id(3)),
            report_kind: Some("failed".to_owned()),
            recipients: Vec::new(),
            ..event(2, EventKind::Reported, 1001)
        };
        let report = EventView {
            sender: String::new(),
            recipients: vec![recipient("alice@proseware.test", None)],
            message_id: Some("three@mail.proseware.test".to_owned()),
            ..event(3, EventKind::Delivered, 1002)
        };
        let zoe = EventView {
            sender: "\"odd \\\"one\\\"\"@client.test".to_owned(),
            recipients: vec![recipient("Zoë@xn--mnchen-3ya.test", None)],
            message_id: None,
            ..event(4, EventKind::Delivered, DAY)
        };
        let done = event(1, EventKind::Delivered, DAY + 5);
        let write = |name: &str, events: &[&EventView], tail: &[u8]| {
            let mut lines: Vec<u8> = events.iter().flat_map(|event| line::encode(event)).collect();
            lines.extend_from_slice(tail);
            fs::write(folder.path().join(name), lines).unwrap();
        };
        write("00000001-2026-11-21.jsonl", &[&deferred, &failed, &reported, &report], b"\xff{\"id\":\nx\n");
        write(
            "00000002-2026-11-22.jsonl",
            &[&zoe, &done],
            &line::encode(&event(9, EventKind::Delivered, 0))[..50],
        );
        folder
    }

    fn ask(folder: &Path, query: Query) -> History {
        offline(folder, &Query { limit: if query.limit == 0 { 10 } else { query.limit }, ..query }).unwrap()
    }

    fn found(folder: &Path, key: &str) -> Vec<String> {
        let history = ask(folder, Query { key: key.to_owned(), ..Query::default() });
        history.messages.into_iter().map(|story| story.id).collect()
    }

    #[test]
    fn a_message_is_found_by_whatever_is_known_of_it() {
        let folder = journal();
        for (key, expected) in [
            (id(1), vec![id(1)]),
            (id(1).to_lowercase(), vec![id(1)]),
            (id(2), vec![id(2), id(3)]),
            (id(3), vec![id(2), id(3)]),
            ("two@proseware.test".to_owned(), vec![id(2), id(3)]),
            ("<two@proseware.test>".to_owned(), vec![id(2), id(3)]),
            ("Two@proseware.test".to_owned(), vec![]),
            ("carol@ADATUM.test".to_owned(), vec![id(2), id(3)]),
            ("list@proseware.test".to_owned(), vec![id(2), id(3)]),
            ("bob@adatum.test".to_owned(), vec![id(1)]),
            ("adatum.test".to_owned(), vec![id(2), id(3), id(1)]),
            ("@Adatum.Test".to_owned(), vec![id(2), id(3), id(1)]),
            ("zoË@münchen.test".to_owned(), vec![id(4)]),
            ("@münchen.test".to_owned(), vec![id(4)]),
            ("\"odd \\\"one\\\"\"@client.test".to_owned(), vec![id(4)]),
            ("dam.test".to_owned(), vec![]),
            ("ob@adatum.test".to_owned(), vec![]),
            (id(9), vec![]),
        ] {
            assert_eq!(found(folder.path(), &key), expected, "{key}");
        }
    }

    #[test]
    fn the_whole_story_is_told_and_how_far_back_the_journal_reaches() {
        let folder = journal();
        let query = Query { key: "bob@adatum.test".to_owned(), ..Query::default() };
        let history =
            ask(folder.path(), Query { since: Some(delivered().time / 1000 + 3600), ..query.clone() });
        let [story] = &history.messages[..] else { panic!("{history:?}") };
        let kinds: Vec<EventKind> = story.events.iter().map(|event| event.event).collect();
        assert_eq!(
            kinds,
            [EventKind::Deferred, EventKind::Delivered],
            "also what was before the time asked for"
        );
        assert_eq!(story.accepted, Some(delivered().time - delivered().delay));
        assert_eq!((story.size, story.origin.as_deref()), (Some(4096), Some("login alice@proseware.test")));
        assert_eq!((history.reaches, history.more), (Some(delivered().time), false));
        let before = Query { until: Some(delivered().time / 1000 - 1), ..query };
        assert_eq!(ask(folder.path(), before).messages, []);
        let report = ask(folder.path(), Query { key: id(3), ..Query::default() });
        assert_eq!(report.messages[1].about, Some(id(2)));
    }

    #[test]
    fn the_newest_messages_are_given_and_that_there_are_more() {
        let folder = journal();
        let query = |limit| Query { key: "@proseware.test".to_owned(), limit, ..Query::default() };
        let history = ask(folder.path(), query(1));
        assert_eq!(history.messages.iter().map(|story| &story.id).collect::<Vec<_>>(), [&id(1)]);
        assert!(history.more);
        assert!(!ask(folder.path(), query(3)).more);
        assert_eq!(ask(Path::new("/nonexistent"), query(1)), History::default());
    }

    #[test]
    fn what_is_nothing_to_look_for_is_refused() {
        for key in ["", " ", "<>", "@", "@-"] {
            assert!(matches!(Key::new(key), Err(BadFilter(_))), "{key}");
        }
    }

    #[test]
    fn long_stories_keep_their_newest_events_and_all_facts() {
        let folder = tempfile::tempdir().unwrap();
        let deferred =
            |n: u32| EventView { attempts: Some(n), ..event(1, EventKind::Deferred, u64::from(n)) };
        let lines: Vec<u8> = (1..=600).flat_map(|n| line::encode(&deferred(n))).collect();
        fs::write(folder.path().join("00000001-2026-11-21.jsonl"), lines).unwrap();
        let history = ask(folder.path(), Query { key: id(1), ..Query::default() });
        let story = &history.messages[0];
        assert_eq!((story.events.len(), story.omitted, story.size), (MAX_STORY, 100, Some(4096)));
        assert_eq!(story.events.last().unwrap().attempts, Some(600));
    }

    #[test]
    fn blocks_are_whole_lines_however_long_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long");
        let line = [vec![b'x'; 99], vec![b'\n']].concat();
        let damage = [vec![0; 3 * BLOCK], vec![b'\n']].concat();
        let before = line.repeat(2 * BLOCK / 100);
        fs::write(&path, [&before[..], &damage, &line, b"half"].concat()).unwrap();
        let mut whole = 0;
        each_line(&path, |found| whole += usize::from(found.len() == 99 && found[0] == b'x')).unwrap();
        assert_eq!(whole, 2 * BLOCK / 100 + 1);
    }
}
