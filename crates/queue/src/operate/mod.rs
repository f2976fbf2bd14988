//! The verbs of operators: see and change what waits. Which messages they take says the [`Filter`].
//!
//! | file | verbs |
//! |---|---|
//! | `list.rs` | list, select |
//! | `count.rs` | count, shape |
//! | `view.rs` | show, content, summary |
//! | `verbs.rs` | hold, release, retry, fail, remove |
//! | `edit.rs` | edit, prioritise, reroute, requeue |
//! | `turn.rs` | turn: what waits for some domains is tried, because a client asks for it |
//! | `change.rs` | how every verb that changes something does it: durable, waited for, read back |

mod change;
mod count;
mod edit;
mod list;
mod turn;
mod verbs;
mod view;

use std::time::SystemTime;

pub use crate::envelope::PRIORITIES;
pub use crate::filter::{BadFilter, Filter, HeaderPattern, RecipientPick};
pub use change::{Change, InFlight};
pub use count::{Group, GroupBy, Shape, ShapeBy, ShapeRow};
pub use edit::{Edit, Requeue};
pub(crate) use list::MAX_HEADER;
pub use list::{Cursor, Page, Sort};
pub use turn::Turned;
pub use verbs::Retry;
pub(crate) use view::origin;
pub use view::{MessageView, RecipientView, Summary};

/// Why a changing verb did nothing.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    /// It makes no sense as it was asked; the text says what would.
    #[error("{0}")]
    Bad(String),
}

/// Seconds since 1970, as views show times.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
