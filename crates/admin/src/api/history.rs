//! What happens to messages, and what became of them.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /v1/queue/watch` | [`WatchRequest`] | lines until either side ends it |
//! | `POST /v1/message/history` | [`HistoryRequest`] | [`History`] |
//!
//! A line of `watch` is a [`Versioned`](super::Versioned) [`EventView`] or [`Missed`], or it is empty: the connection is
//! there. The first line is empty and says that nothing is missed from now on.

use serde::{Deserialize, Serialize};

pub use postern_queue::events::{EventFilter, EventKind, EventRecipient, EventView};
pub use postern_queue::history::{History, Story};

/// Messages that a history has when nothing else is asked.
pub const DEFAULT_STORIES: usize = 100;
/// Messages that a history can have at most.
pub const MAX_STORIES: usize = 1000;

/// `POST /v1/queue/watch`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WatchRequest {
    /// Which events.
    pub filter: EventFilter,
}

/// A line of `watch`: the reader was too slow for what happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// So many events, whether they match or not.
    pub missed: u64,
}

/// `POST /v1/message/history`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryRequest {
    /// A queue id (of a message, or of a report about it), a Message-ID, an address or a domain.
    pub key: String,
    /// Only messages with an event at this time or later, in seconds since 1970. All that is known of them is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Only messages with an event at this time or earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// How many messages, the newest; [`DEFAULT_STORIES`] when left out, [`MAX_STORIES`] at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}
