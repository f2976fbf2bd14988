//! Refusals that happened, by the reference in their reply.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use postern_config::LoginState;
use postern_config::units::{format_duration, format_size};
use postern_policy::Policy;
use postern_policy::record::{Record, Records, Reference};
use postern_policy::relay::Reason;
use postern_policy::remedies::{Asked, remedies};
use postern_policy::shell::word;
use postern_smtp::date::rfc3339;

use crate::Shared;
use crate::api::refusals::Again;
use crate::api::{ProblemKind, Refusal};
use crate::explain::again::{Recorded, unknown};
use crate::explain::{BadQuestion, view};
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
    let found =
        blocking(move || records.find(&reference).ok_or_else(|| records.find_near(known).map(Box::new)))
            .await?;
    match found {
        Ok(record) => {
            let now = ask_again(&record, &shared).await;
            answer(Refusal { now: Some(now), ..refusal(record, &shared.policy.load()) })
        }
        Err(near) => Err(no_record(known, near.as_deref(), &shared.records)),
    }
}

/// What the rules say now of the same facts, by the function that sessions ask.
async fn ask_again(record: &Record, shared: &Shared) -> Again {
    // The standing rules are part of it.
    if shared.door.now().is_none() {
        return unknown(&BadQuestion("the queue is being loaded, and its rules with it".to_owned()));
    }
    let policy = shared.policy.load_full();
    let recorded = match Recorded::read(record, &policy) {
        Ok(recorded) => recorded,
        Err(why) => return unknown(&why),
    };
    shared.facts.find(recorded.wanted(&policy)).await;
    recorded.ask(&policy, shared)
}

/// A refusal that happened, with what would have allowed it by the rules of now.
pub fn refusal(record: Record, policy: &Policy) -> Refusal {
    let remedies = remedies(&Asked {
        reason: &record.decision.reason,
        client: &record.client,
        sender: &record.reverse_path,
        recipient: record.recipient.as_deref(),
        certificate: record.certificate.as_deref(),
        site: &policy.site,
    });
    let about_login = about_login(&record.decision.reason, policy);
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
        about_login,
        now: None,
    }
}

/// What is known now of the login whose password was wrong. Operators alone are told: the client hears the same of every name.
fn about_login(reason: &Reason, policy: &Policy) -> Option<String> {
    let Reason::WrongPassword { login: name, why: unusable } = reason else { return None };
    let Some(login) = policy.accounts.login(name) else {
        let hint = "`posternctl account list` shows the logins, `posternctl account add NAME` makes one";
        return Some(format!("there is no login of this name ({name}): {hint}"));
    };
    let (name, access) = (&login.name, &login.access);
    let suspension = policy.standing.suspensions.find(name);
    let (state, why) = match suspension {
        Some(suspension) if access.state == LoginState::Active => (suspension.state, Some(suspension.why)),
        _ => (access.state, access.why.clone()),
    };
    let why = why.filter(|why| !why.is_empty()).map(|why| format!(" ({why})")).unwrap_or_default();
    let way_out = match state {
        LoginState::Active => {
            if let Some(why) = unusable {
                return Some(format!("{name} exists and is active, and the password was right: {why}"));
            }
            return Some(format!(
                "{name} exists and is active: the password was wrong, or one that cannot be used now; `posternctl account show {}` \
             shows its app passwords",
                word(name)
            ));
        }
        LoginState::Disabled => format!("posternctl account enable {}", word(name)),
        _ => format!("posternctl account unlock {}", word(name)),
    };
    Some(format!(
        "{name} exists and is {}{why}: the right password would be refused, too; `{way_out}`",
        state.as_str()
    ))
}

/// Why there may be no record: what is kept, since when, and what was not.
fn no_record(reference: Reference, near: Option<&Record>, records: &Records) -> Failure {
    let (settings, status) = (records.settings(), records.status());
    let mut text = format!("there is no record of {reference}. ");
    if let Some(Record { reference: near, time, .. }) = near {
        let time = rfc3339(UNIX_EPOCH + Duration::from_secs(*time));
        text += &format!("Mistyped? There is one of {near} ({time}): `posternctl explain {near}`. ");
    }
    if !settings.enabled {
        text += "policy.records.enabled is false: refusals are not kept";
        return failure(ProblemKind::NotFound, text);
    }
    if near.is_none() {
        text += "Either it is mistyped by more than one character (there is no check digit), or of another server, or its \
                 record has expired. ";
    }
    text += &format!("Records are kept for {} (policy.records); ", format_duration(settings.max_age));
    let now = SystemTime::now();
    let is_over = |oldest: &SystemTime| now.duration_since(*oldest).is_ok_and(|age| age > settings.max_age);
    text += &match status.oldest.map(|oldest| UNIX_EPOCH + Duration::from_secs(oldest)) {
        // What is over its age goes with its whole file.
        Some(oldest) if is_over(&oldest) => format!("the oldest are of {}", rfc3339(now - settings.max_age)),
        Some(oldest) => format!("the oldest is of {}", rfc3339(oldest)),
        None => "there are none at all".to_owned(),
    };
    let is_full = status.records >= settings.max_records || status.octets >= settings.max_size / 10 * 9;
    if is_full {
        text += &format!(
            ", for they fill the room that they have ({} records, {}): raise max_records and max_size to keep them for longer",
            settings.max_records,
            format_size(settings.max_size)
        );
    }
    let not_kept: u64 = status.not_kept.iter().map(|(_, count)| count).sum();
    if not_kept > 0 {
        let why = status.not_kept.iter().map(|(why, count)| format!("{why} {count}"));
        text += &format!(
            ". Since the start {not_kept} refusals were not kept: {}",
            why.collect::<Vec<_>>().join(", ")
        );
    }
    text += ". The log has every refusal, with its reference";
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
