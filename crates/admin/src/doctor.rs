//! The checks of `posternctl doctor` that only the daemon can make as it sees things: with its rules, its resolver, its journal.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::routing::get;
use serde::Deserialize;

use crate::Shared;
use crate::api::ProblemKind;
use crate::api::doctor::{Check, Findings, Reports, TALLY_REACH, Tally, note_delivered};
use crate::server::{Answer, App, Failure, answer, blocking, failure};

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/doctor/reputation", get(reputation))
        .route("/v1/doctor/reports", get(reports))
        .route("/v1/doctor/{check}", get(check))
}

async fn check(State(shared): State<Shared>, Path(asked): Path<String>) -> Answer<Findings> {
    let unknown = || {
        let known: Vec<&str> = Check::ALL.iter().map(|check| check.as_str()).collect();
        let text =
            format!("there is no check {asked:?}: there are {}, reputation and reports", known.join(", "));
        failure(ProblemKind::NotFound, text)
    };
    let check = Check::parse(&asked).ok_or_else(unknown)?;
    answer(Findings { findings: shared.daemon.check(check).await })
}

async fn reputation(State(shared): State<Shared>, Query(asked): Query<Since>) -> Answer<Tally> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    answer(tally(&shared, asked.since.unwrap_or(now.saturating_sub(TALLY_REACH))).await?)
}

/// How far back to count.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Since {
    /// Seconds since 1970; a day ago where it is left out.
    since: Option<u64>,
}

async fn reports(State(shared): State<Shared>) -> Answer<Reports> {
    let mut reports = shared.daemon.reports().await;
    // A week of the journal takes its time: only where there is something to hold against it.
    if !reports.complaints.is_empty() {
        let tally = tally(&shared, reports.since).await?;
        note_delivered(&mut reports, &tally);
    }
    answer(reports)
}

/// What became of mail since then.
async fn tally(shared: &Shared, since: u64) -> Result<Tally, Failure> {
    let queue = shared.queue()?;
    let found = blocking(move || queue.tally(since)).await?;
    found.map_err(|error| failure(ProblemKind::Store, format!("the journal cannot be read: {error}")))
}
