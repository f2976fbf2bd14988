//! The checks of `posternctl doctor` that only the daemon can make as it sees things: with its rules, its resolver, its journal.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;

use crate::Shared;
use crate::api::ProblemKind;
use crate::api::doctor::{Check, Findings, TALLY_REACH, Tally};
use crate::server::{Answer, App, answer, blocking, failure};

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/v1/doctor/reputation", get(reputation)).route("/v1/doctor/{check}", get(check))
}

async fn check(State(shared): State<Shared>, Path(asked): Path<String>) -> Answer<Findings> {
    let unknown = || {
        let known: Vec<&str> = Check::ALL.iter().map(|check| check.as_str()).collect();
        let text = format!("there is no check {asked:?}: there are {} and reputation", known.join(", "));
        failure(ProblemKind::NotFound, text)
    };
    let check = Check::parse(&asked).ok_or_else(unknown)?;
    answer(Findings { findings: shared.daemon.check(check).await })
}

async fn reputation(State(shared): State<Shared>) -> Answer<Tally> {
    let queue = shared.queue()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let found = blocking(move || queue.tally(now.saturating_sub(TALLY_REACH))).await?;
    answer(
        found.map_err(|error| failure(ProblemKind::Store, format!("the journal cannot be read: {error}")))?,
    )
}
