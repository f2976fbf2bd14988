//! `store rebuild`: the index, written anew from the log.

use std::sync::Arc;

use clap::Args;
use postern_admin::api::store::{RebuildRequest, Rebuilt};
use postern_queue::store::Store;
use postern_runtime::SystemClock;

use super::Reason;
use super::place::Place;
use super::work::{ask, work};
use crate::Session;
use crate::failure::{Exit, Failure};

/// Options of `rebuild`.
#[derive(Debug, Args)]
pub struct RebuildOptions {
    /// Do not wait until the index is complete.
    #[arg(long, conflicts_with = "offline")]
    no_wait: bool,
    #[command(flatten)]
    reason: Reason,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn rebuild(session: &mut Session, options: RebuildOptions) -> Result<Exit, Failure> {
    let rebuilt = match options.place.offline(session)? {
        Some(queue) => {
            let ended =
                work(session, |listener| Store::rebuild_at_rest(&queue, Arc::new(SystemClock), listener))?;
            Rebuilt { rows: Some(ended.answer) }
        }
        None => {
            let request = RebuildRequest { no_wait: options.no_wait, reason: options.reason.reason };
            ask::<Rebuilt>(session, "/v1/store/rebuild", &request).await?.answer
        }
    };
    session.out.answer(&rebuilt, |rebuilt, _| match rebuilt.rows {
        Some(rows) => format!("rebuilt: the index is complete, with {rows} rows\n"),
        None => "begun: `posternctl store status` says how far the index is\n".to_owned(),
    })?;
    Ok(Exit::Done)
}
