//! Whose report is being made, and who waits for that. A report is made of a whole message in memory and stays there until it
//! is durable, so only some are made at a time, however many are owed.

use std::collections::BTreeSet;

use crate::message::QueueId;

/// Reports that are made at a time: so many that one write of the disk takes a good number of them, and so few that with all
/// that they return of their messages ([`crate::dsn::FULL_RETURN_LIMIT`]) they take up some megabytes.
pub(crate) const AT_A_TIME: usize = 64;

/// Messages that owe a report.
#[derive(Debug, Default)]
pub(crate) struct Owing {
    /// Those whose turn it is.
    in_turn: BTreeSet<QueueId>,
    /// The others. There are none while fewer than [`AT_A_TIME`] are in turn.
    waiting: BTreeSet<QueueId>,
}

impl Owing {
    /// Whether the report of a message may be made now. Else [`Owing::next`] will name it.
    pub(crate) fn has_turn(&mut self, id: QueueId) -> bool {
        if self.in_turn.len() < AT_A_TIME || self.in_turn.contains(&id) {
            self.in_turn.insert(id);
            return true;
        }
        self.waiting.insert(id);
        false
    }

    /// A message owes nothing any more, or must ask again. Returns whether others may have their turn now.
    pub(crate) fn leave(&mut self, id: QueueId) -> bool {
        self.waiting.remove(&id);
        self.in_turn.remove(&id)
    }

    /// The next message whose turn it is, if there is one more.
    pub(crate) fn next(&mut self) -> Option<QueueId> {
        if self.in_turn.len() >= AT_A_TIME {
            return None;
        }
        let id = self.waiting.pop_first()?;
        self.in_turn.insert(id);
        Some(id)
    }
}
