//! Refusals that happened, by the reference in their reply.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use postern_config::units::{format_duration, format_size};
use postern_policy::record::{Record, Records, Reference};
use postern_policy::remedies::{Asked, remedies};
use postern_smtp::date::rfc3339;

use crate::Shared;
use crate::api::{ProblemKind, Refusal};
use crate::explain::view;
use crate::server::{Answer, App, Failure, answer, blocking, failure};

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/v1/explain/{reference}", get(explain))
}

async fn explain(State(shared): State<Shared>, Path(reference): Path<String>) -> Answer<Refusal> {
    let Ok(known) = reference.parse::<Reference>() else {
        let text = format!("{reference:?} is no reference: eight letters and digits such as 4QX7-93KD are");
        return Err(failure(ProblemKind::BadRequest, text));
    };
    let records = Arc::clone(&shared.records);
    // Files are read.
    let found = blocking(move || records.find(&reference)).await?;
    answer(refusal(found.ok_or_else(|| unknown(known, &shared.records))?))
}

/// A refusal that happened, with what would have allowed it.
pub fn refusal(record: Record) -> Refusal {
    let remedies = remedies(&Asked {
        reason: &record.decision.reason,
        client: &record.client,
        sender: &record.reverse_path,
        recipient: record.recipient.as_deref(),
    });
    Refusal {
        decision: view(&record.decision, remedies),
        reference: record.reference,
        time: record.time,
        stage: record.stage,
        listener: record.listener,
        client: record.client,
        local: record.local,
        tls: record.tls,
        certificate: record.certificate,
        login: record.login,
        helo: record.helo,
        reverse_path: record.reverse_path,
        recipient: record.recipient,
        recipients: record.recipients,
        header: record.header,
        class: record.class.key().to_owned(),
        cause: record.cause,
        advice: record.advice,
        reply: record.reply,
        transcript: record.transcript,
    }
}

/// Why there may be no record: what is kept, since when, and what was not.
fn unknown(reference: Reference, records: &Records) -> Failure {
    let (settings, status) = (records.settings(), records.status());
    let mut text = format!("there is no record of {reference}. ");
    if !settings.enabled {
        text += "policy.records.enabled is false: refusals are not kept";
        return failure(ProblemKind::NotFound, text);
    }
    text += &format!(
        "Kept are at most {} of {} records, {} of {}, for {} (policy.records); ",
        status.records,
        settings.max_records,
        format_size(status.octets >> 20 << 20),
        format_size(settings.max_size),
        format_duration(settings.max_age),
    );
    text += &match status.oldest {
        Some(oldest) => format!("the oldest is of {}", rfc3339(UNIX_EPOCH + Duration::from_secs(oldest))),
        None => "there are none".to_owned(),
    };
    let not_kept: u64 = status.not_kept.iter().map(|(_, count)| count).sum();
    if not_kept > 0 {
        let why = status.not_kept.iter().map(|(why, count)| format!("{why} {count}"));
        text += &format!(
            ". Since the start {not_kept} refusals were not kept: {}",
            why.collect::<Vec<_>>().join(", ")
        );
    }
    text += ". To keep more for longer, raise policy.records.max_age, max_records or max_size, and max_per_client for clients \
             that are refused often; the log has every refusal, with its reference";
    if let Some(trouble) = &status.trouble {
        text += &format!(". Nothing can be written at this moment: {trouble}");
    }
    failure(ProblemKind::NotFound, text)
}

/// What an operator should know of.
pub(crate) fn warnings(records: &Records) -> Vec<String> {
    let trouble = records.status().trouble;
    trouble
        .map(|trouble| format!("refusals are not kept, and have no reference: {trouble}"))
        .into_iter()
        .collect()
}
