//! Lists: which messages match, in which order, page by page.

use std::collections::{BinaryHeap, HashMap};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::view::MessageView;
use crate::codec::milliseconds;
use crate::entry::{Entry, Loaded};
use crate::filter::{BadFilter, Filter, Found, Matcher};
use crate::message::QueueId;
use crate::messages::{Context, Messages};
use crate::spool::StoreError;
use crate::state::Phase;
use crate::{Inner, Queue};

/// How a list is ordered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sort {
    /// Oldest first.
    #[default]
    Age,
    /// Next attempt first.
    Next,
    /// Largest first.
    Size,
    /// Most attempts first.
    Attempts,
}

/// Some messages of a list, and where it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The messages, in order.
    pub messages: Vec<MessageView>,
    /// Behind the last of them, if more match.
    pub next: Option<Cursor>,
    /// How many messages were looked at to find these.
    pub examined: usize,
}

/// A place in a list: behind the message that stood last on a page. It holds for the order it was made in. A list by age
/// misses and repeats nothing; in another order a message can move while the list is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    key: u64,
    id: QueueId,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", QueueId(self.key), self.id)
    }
}

impl FromStr for Cursor {
    type Err = BadFilter;

    fn from_str(text: &str) -> Result<Self, BadFilter> {
        let parts = text.split_once('-').and_then(|(key, id)| Some((key.parse().ok()?, id.parse().ok()?)));
        let (QueueId(key), id) = parts.ok_or_else(|| {
            BadFilter(format!("{text:?} is no cursor: take the one that the page before gave"))
        })?;
        Ok(Self { key, id })
    }
}

impl Queue {
    /// Messages that match, in order, at most `limit`, from `after` on. Blocking if the filter asks for a header, and long
    /// in a large queue unless the order is by age.
    ///
    /// # Errors
    /// [`BadFilter`].
    pub fn list(
        &self,
        filter: &Filter,
        sort: Sort,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Page, BadFilter> {
        let matcher = Matcher::new(filter, self.inner.clock.now())?;
        // One more than asked for says whether there are more.
        let wanted = limit.saturating_add(1);
        let (mut places, examined) = match sort {
            Sort::Age => self.inner.first_by_age(&matcher, after, wanted)?,
            _ => self.inner.first_by_key(&matcher, sort, after, wanted)?,
        };
        let has_more = places.len() > limit;
        places.truncate(limit);
        let next = places.last().copied().filter(|_| has_more);
        let messages = places.iter().filter_map(|place| self.show(place.id)).collect();
        Ok(Page { messages, next, examined })
    }

    /// The ids of all messages that match, by age: for the verbs that change them. Blocking, as [`Queue::list`].
    ///
    /// # Errors
    /// [`BadFilter`].
    pub fn select(&self, filter: &Filter) -> Result<Vec<QueueId>, BadFilter> {
        let matcher = Matcher::new(filter, self.inner.clock.now())?;
        let mut ids = Vec::new();
        self.inner.scan(&matcher, QueueId(0), |found| {
            ids.push(found.id);
            true
        })?;
        Ok(ids)
    }
}

impl Inner {
    /// The first messages by age, and how many were looked at.
    fn first_by_age(
        &self,
        matcher: &Matcher,
        after: Option<Cursor>,
        wanted: usize,
    ) -> Result<(Vec<Cursor>, usize), BadFilter> {
        let mut places = Vec::new();
        let from = QueueId(after.map_or(0, |after| after.id.0.saturating_add(1)));
        let examined = self.scan(matcher, from, |found| {
            places.push(Cursor { key: found.id.0, id: found.id });
            places.len() < wanted
        })?;
        Ok((places, examined))
    }

    /// The first messages in another order: all are looked at, and no more than are wanted are kept.
    fn first_by_key(
        &self,
        matcher: &Matcher,
        sort: Sort,
        after: Option<Cursor>,
        wanted: usize,
    ) -> Result<(Vec<Cursor>, usize), BadFilter> {
        // The last of those kept is on top, and gives way to what comes before it.
        let mut first: BinaryHeap<Cursor> = BinaryHeap::new();
        let examined = self.scan(matcher, QueueId(0), |found| {
            let place = Cursor { key: sort_key(found, sort), id: found.id };
            if after.is_none_or(|after| place > after) {
                first.push(place);
                if first.len() > wanted {
                    first.pop();
                }
            }
            true
        })?;
        Ok((first.into_sorted_vec(), examined))
    }

    /// Shows what matches, by age, from an id on, until `visit` has seen enough. Others get at the queue in between, and
    /// headers are read while they do. Returns how many messages were looked at.
    pub(crate) fn scan(
        &self,
        matcher: &Matcher,
        from: QueueId,
        mut visit: impl FnMut(&Found<'_>) -> bool,
    ) -> Result<usize, BadFilter> {
        let (mut examined, mut headers) = (0, 0);
        let mut next = Some(from);
        while let Some(from) = next {
            let cx = self.context();
            let (messages, loaded) = self.lock_loaded(|messages| {
                let (entries, _) = step(messages, matcher.ids(), from);
                entries
                    .filter(|(_, entry)| matcher.may_match(entry, &messages.domains))
                    .map(|(id, _)| id)
                    .collect()
            });
            let (entries, behind) = step(&messages, matcher.ids(), from);
            next = behind;
            let sight = Sight { messages: &messages, loaded: &loaded, cx: &cx, matcher };
            if !matcher.wants_header() {
                if !sight.visit(entries, &mut examined, &mut visit) {
                    break;
                }
                continue;
            }
            let mut passing = Vec::new();
            sight.visit(entries, &mut examined, |found| {
                passing.push(found.id);
                true
            });
            drop(messages);
            headers += passing.len();
            if headers > MAX_HEADERS {
                let error =
                    format!("the header of more than {MAX_HEADERS} messages would be read: add conditions");
                return Err(BadFilter(error));
            }
            passing.retain(|id| self.matches_header(*id, matcher));
            let (messages, loaded) = self.lock_loaded(|_| passing.clone());
            let entries = passing.iter().filter_map(|id| Some((*id, messages.entry(*id)?)));
            let sight = Sight { messages: &messages, loaded: &loaded, cx: &cx, matcher };
            // They were counted already.
            if !sight.visit(entries, &mut 0, &mut visit) {
                break;
            }
        }
        Ok(examined)
    }

    /// Reads the header of a message from the spool. One that cannot be read matches nothing, not even a negation.
    fn matches_header(&self, id: QueueId, matcher: &Matcher) -> bool {
        match self.header(id) {
            Ok(header) => matcher.matches_header(&header),
            // It has ended meanwhile.
            Err(StoreError::NoMessage(_)) => false,
            Err(error) => {
                tracing::warn!(id = %id, %error, "a header could not be read for a filter");
                false
            }
        }
    }

    /// The beginning of a message: its header, at most [`MAX_HEADER`] octets of it and something of what follows.
    fn header(&self, id: QueueId) -> Result<Vec<u8>, StoreError> {
        let mut body = self.spool.read(id)?;
        let mut header = Vec::new();
        while header.len() < MAX_HEADER && !header.windows(4).any(|window| window == b"\r\n\r\n") {
            let Some(piece) = body.next()? else {
                break;
            };
            header.extend_from_slice(&piece);
        }
        Ok(header)
    }
}

type Entries<'a> = Box<dyn Iterator<Item = (QueueId, &'a Entry)> + 'a>;

/// The next messages to look at, and with which id the ones after them begin.
pub(super) fn step<'a>(
    messages: &'a Messages,
    ids: Option<&'a [QueueId]>,
    from: QueueId,
) -> (Entries<'a>, Option<QueueId>) {
    let Some(ids) = ids else {
        let next = messages.from(from).nth(STEP).map(|(id, _)| id);
        return (Box::new(messages.from(from).take(STEP)), next);
    };
    let ids = &ids[ids.partition_point(|id| *id < from)..];
    let (now, later) = ids.split_at(ids.len().min(STEP));
    (Box::new(now.iter().filter_map(|id| Some((*id, messages.entry(*id)?)))), later.first().copied())
}

/// What a filter looks at.
struct Sight<'a> {
    messages: &'a Messages,
    /// Messages whose texts are not in memory.
    loaded: &'a HashMap<QueueId, Loaded>,
    cx: &'a Context<'a>,
    matcher: &'a Matcher,
}

impl<'a> Sight<'a> {
    /// Shows what matches until `visit` has seen enough. Whether it has not.
    fn visit(
        &self,
        entries: impl Iterator<Item = (QueueId, &'a Entry)>,
        examined: &mut usize,
        mut visit: impl FnMut(&Found<'_>) -> bool,
    ) -> bool {
        let Self { messages, loaded, cx, matcher } = self;
        for (id, entry) in entries {
            *examined += 1;
            if !matcher.may_match(entry, &messages.domains) {
                continue;
            }
            let seen = entry.read(loaded.get(&id), |envelope, state| {
                let scheduler = &messages.scheduler;
                let found = Found { id, status: entry.status, envelope, state, scheduler, cx };
                !matcher.matches(&found) || visit(&found)
            });
            if seen == Ok(false) {
                return false;
            }
        }
        true
    }
}

/// Messages that are looked at before others get at the queue.
const STEP: usize = 500;

/// Headers that one request reads at most.
const MAX_HEADERS: usize = 100_000;

/// Octets of a header that are read.
pub(crate) const MAX_HEADER: usize = 256 * 1024;

/// Smaller comes first.
fn sort_key(found: &Found<'_>, sort: Sort) -> u64 {
    let recipients = &found.state.recipients;
    match sort {
        Sort::Age => found.id.0,
        Sort::Next => (0..recipients.len()).map(|index| next_key(found, index)).min().unwrap_or(u64::MAX),
        Sort::Size => u64::MAX - found.envelope.size,
        Sort::Attempts => u64::MAX - u64::from(recipients.iter().map(|r| r.attempts).max().unwrap_or(0)),
    }
}

/// When a recipient is tried next, the rest of its destination included; what is due now comes first, and what is held
/// last.
fn next_key(found: &Found<'_>, index: usize) -> u64 {
    let recipient = &found.state.recipients[index];
    let Phase::Waiting { next } = recipient.phase else {
        return u64::MAX;
    };
    if recipient.leased {
        return 0;
    }
    if found.state.held.is_some() {
        return u64::MAX;
    }
    // Not the time of now for what is due: a page must not move it behind the one before.
    let rest = found.rest(index).map_or(0, milliseconds);
    next.filter(|_| !recipient.is_due()).map_or(0, milliseconds).max(rest)
}
