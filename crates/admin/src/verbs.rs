//! The verbs that change messages: what a request may ask, and what it did.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use postern_queue::operate::{Edit, OperateError, RecipientPick, Requeue, Retry};
use postern_queue::{Queue, QueueId};
use postern_smtp::date::rfc3339;
use postern_smtp::{Address, ReversePath};

use crate::api::edit::EditRequest;
use crate::api::{
    AuditEvent, Change, ChangeRequest, Changed, DEFAULT_MAX, Filter, MAX_WAIT, PRIORITIES, Problem,
    ProblemKind,
};
use crate::rights::Writer;
use crate::server::{
    Answer, App, Failure, Input, answer, bad_filter, blocking, failure, no_message, queue_id,
};

/// Characters of a reason: it is folded into one field of a delivery report.
pub(crate) const MAX_REASON: usize = 500;
/// How fast messages become due, up to a spread of so many seconds, unless something else is asked.
const RETRIES_PER_SECOND: u64 = 20;
const MAX_SPREAD: u64 = 600;
/// Fewer messages than this are no flood, however fast they come.
const FLOOD: usize = 100;
/// In place of a route: as the configuration says.
const NO_ROUTE: &str = "none";

/// The paths of this module.
pub(crate) fn routes() -> Router<App> {
    use Verb::{Drop, Fail, Hold, Prioritise, Release, Requeue, Reroute, Retry};
    let verbs = [Hold, Release, Retry, Fail, Drop, Prioritise, Reroute, Requeue];
    let mut router = Router::new().route("/v1/queue/edit", post(edit));
    for verb in verbs {
        let path = format!("/v1/queue/{}", verb.as_str());
        router = router.route(&path, post(move |app, peer, input| change(app, peer, verb, input)));
    }
    router
}

/// The verbs that take a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Hold,
    Release,
    Retry,
    Fail,
    Drop,
    Prioritise,
    Reroute,
    Requeue,
}

impl Verb {
    fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Retry => "retry",
            Self::Fail => "fail",
            Self::Drop => "drop",
            Self::Prioritise => "prioritise",
            Self::Reroute => "reroute",
            Self::Requeue => "requeue",
        }
    }

    /// What cannot be taken back is explained.
    fn needs_reason(self) -> bool {
        matches!(self, Self::Fail | Self::Drop)
    }

    /// Whether messages become due.
    fn makes_due(self) -> bool {
        matches!(self, Self::Retry | Self::Reroute | Self::Requeue)
    }
}

/// A request that was read.
struct Asked {
    verb: Verb,
    reason: String,
    wait: Duration,
    pick: RecipientPick,
    until: Option<SystemTime>,
    retry: Retry,
    /// `None`: as the configuration says.
    via: Option<String>,
    priority: i8,
}

impl Asked {
    fn new(verb: Verb, request: &ChangeRequest) -> Result<Self, Failure> {
        check_options(verb, request)?;
        if request.via.is_none() && verb == Verb::Reroute {
            return Err(bad("reroute needs `via`: a route, or `none`"));
        }
        if request.priority.is_none() && verb == Verb::Prioritise {
            return Err(bad(format!("prioritise needs `priority`: {}", priorities())));
        }
        let at = match (request.at, request.delay) {
            (Some(_), Some(_)) => return Err(bad("`at` and `delay`: one of them")),
            (Some(at), None) => Some(time(at)?),
            (None, Some(delay)) => Some(SystemTime::now() + Duration::from_secs(delay.min(MAX_AHEAD))),
            (None, None) => None,
        };
        if at.is_some() && request.ignore_breaker {
            return Err(bad("`ignore_breaker` tries destinations now: not with `at` or `delay`"));
        }
        let retry = Retry {
            at,
            spread: Duration::from_secs(request.spread.unwrap_or(0).min(MAX_AHEAD)),
            reset_backoff: request.reset_backoff,
            ignore_breaker: request.ignore_breaker,
            // Who names a message means it; a filter finds what nobody has thought of.
            before_release: !request.filter.ids.is_empty(),
        };
        Ok(Self {
            verb,
            reason: checked_reason(verb, request.reason.as_deref())?.to_owned(),
            wait: checked_wait(request.wait)?,
            pick: RecipientPick::new(&request.filter).map_err(bad_filter)?,
            until: request.until.map(time).transpose()?,
            retry,
            via: request.via.clone().filter(|via| *via != NO_ROUTE),
            priority: priority(request.priority.unwrap_or(0))?,
        })
    }

    /// What would be refused whatever the messages are.
    fn check(&self, queue: &Queue) -> Result<(), Failure> {
        queue.check_until(self.until)?;
        queue.check_retry(&self.retry)?;
        self.via.as_deref().map(|via| queue.checked_route(via)).transpose().map_err(bad)?;
        Ok(())
    }

    async fn run(&self, queue: &Queue, ids: &[QueueId]) -> Result<Change, OperateError> {
        let Self { reason, wait, pick, priority, .. } = self;
        let Retry { spread, reset_backoff, .. } = self.retry;
        match self.verb {
            Verb::Hold => queue.hold(ids, reason, self.until, *wait).await,
            Verb::Release => queue.release(ids).await,
            Verb::Retry => queue.retry(ids, self.retry).await,
            Verb::Fail => queue.fail(ids, pick, reason, *wait).await,
            Verb::Drop => queue.remove(ids, pick, reason, *wait).await,
            Verb::Prioritise => queue.prioritise(ids, *priority, *wait).await,
            Verb::Reroute => queue.reroute(ids, pick, self.via.as_deref(), spread).await,
            Verb::Requeue => queue.requeue(ids, pick, Requeue { spread, reset_backoff }).await,
        }
    }

    /// For the audit log.
    fn detail(&self) -> Option<String> {
        let Retry { at, reset_backoff, ignore_breaker, .. } = self.retry;
        let details = [
            self.until.map(|until| format!("until {}", rfc3339(until))),
            at.map(|at| format!("at {}", rfc3339(at))),
            reset_backoff.then(|| "back-off anew".to_owned()),
            ignore_breaker.then(|| "rests ended".to_owned()),
            (self.verb == Verb::Prioritise).then(|| format!("priority {}", self.priority)),
            (self.verb == Verb::Reroute).then(|| format!("via {}", self.via.as_deref().unwrap_or(NO_ROUTE))),
        ];
        let details: Vec<String> = details.into_iter().flatten().collect();
        (!details.is_empty()).then(|| details.join(", "))
    }
}

async fn change(
    State(app): State<App>,
    Writer(peer): Writer,
    verb: Verb,
    Input(request): Input<ChangeRequest>,
) -> Answer<Changed> {
    let mut asked = Asked::new(verb, &request)?;
    let queue = app.shared.queue()?;
    asked.check(&queue)?;
    let ids = selected(&queue, &request).await?;
    let matched = ids.len();
    let mut warnings = Vec::new();
    if verb.makes_due() {
        asked.retry.spread = spread(request.spread, matched);
        warnings.extend(flood(matched, asked.retry.spread));
    }
    if request.dry_run {
        let change = Change { matched, ..Change::default() };
        return answer(Changed { dry_run: true, change, warnings });
    }
    let event = AuditEvent {
        detail: asked.detail(),
        ..AuditEvent::new(verb.as_str(), peer.uid).with_filter(&request.filter)
    };
    let (changes, audit) = (app.changes.clone(), app.audit);
    let done = async move {
        let result = changes.until_stop(asked.run(&queue, &ids)).await;
        audit.note(with_result(event, &asked.reason, matched, &result)).await;
        result
    };
    let change = app.changes.make(done).await??;
    if change.resting > 0 {
        warnings.push(format!(
            "{} of them are due and wait until their destination has rested: ignoring the breaker tries it at once",
            change.resting
        ));
    }
    answer(Changed { dry_run: false, change, warnings })
}

fn with_result(
    event: AuditEvent,
    reason: &str,
    matched: usize,
    result: &Result<Change, Failure>,
) -> AuditEvent {
    AuditEvent {
        reason: Some(reason.to_owned()).filter(|reason| !reason.is_empty()),
        matched,
        changed: result.as_ref().map_or(0, |change| change.changed),
        skipped: result.as_ref().map_or(matched, |change| change.skipped.len()),
        error: match result {
            Ok(change) => not_durable(change),
            Err(failure) => Some(failure.1.error.clone()),
        },
        ..event
    }
}

/// What is changed and may be undone by a crash.
pub(crate) fn not_durable(change: &Change) -> Option<String> {
    let count = change.not_durable;
    (count > 0).then(|| format!("{count} changed, but not durable yet: written again until they are"))
}

/// An option that does nothing is more likely a mistake than meant.
fn check_options(verb: Verb, request: &ChangeRequest) -> Result<(), Failure> {
    use Verb::{Drop, Fail, Hold, Prioritise, Requeue, Reroute, Retry};
    let options: [(&str, bool, &[Verb]); 9] = [
        ("wait", request.wait.is_some(), &[Hold, Fail, Drop, Prioritise]),
        ("until", request.until.is_some(), &[Hold]),
        ("at", request.at.is_some(), &[Retry]),
        ("delay", request.delay.is_some(), &[Retry]),
        ("spread", request.spread.is_some(), &[Retry, Reroute, Requeue]),
        ("reset_backoff", request.reset_backoff, &[Retry, Requeue]),
        ("ignore_breaker", request.ignore_breaker, &[Retry]),
        ("via", request.via.is_some(), &[Reroute]),
        ("priority", request.priority.is_some(), &[Prioritise]),
    ];
    match options.into_iter().find(|(_, is_given, verbs)| *is_given && !verbs.contains(&verb)) {
        Some((name, ..)) => Err(bad(format!("`{name}` does not belong to {}", verb.as_str()))),
        None => Ok(()),
    }
}

fn priorities() -> String {
    format!("{} to {}", PRIORITIES.start(), PRIORITIES.end())
}

fn priority(number: i64) -> Result<i8, Failure> {
    let priority = i8::try_from(number).ok().filter(|priority| PRIORITIES.contains(priority));
    priority.ok_or_else(|| bad(format!("priority {number} is not {}", priorities())))
}

/// Seconds that a time may be ahead: what a clock can hold is not at stake.
const MAX_AHEAD: u64 = 100 * 365 * 24 * 3600;

fn time(seconds: u64) -> Result<SystemTime, Failure> {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or_else(|| bad(format!("{seconds} is no time")))
}

fn bad(text: impl Into<String>) -> Failure {
    failure(ProblemKind::BadRequest, text)
}

pub(crate) fn checked_wait(seconds: Option<u64>) -> Result<Duration, Failure> {
    match seconds.unwrap_or(0) {
        seconds @ 0..=MAX_WAIT => Ok(Duration::from_secs(seconds)),
        _ => Err(bad(format!("wait: at most {MAX_WAIT} seconds"))),
    }
}

/// A queue that was held back by one fault should not fall upon its destinations all at once.
fn spread(asked: Option<u64>, messages: usize) -> Duration {
    let usual = (messages as u64 / RETRIES_PER_SECOND).min(MAX_SPREAD);
    Duration::from_secs(asked.unwrap_or(usual).min(MAX_AHEAD))
}

/// The warning of many messages in a short time.
fn flood(messages: usize, spread: Duration) -> Option<String> {
    let seconds = spread.as_secs();
    let is_flood = messages >= FLOOD
        && messages as u64 > seconds.saturating_mul(RETRIES_PER_SECOND) + RETRIES_PER_SECOND;
    let gentle = messages as u64 / RETRIES_PER_SECOND;
    is_flood.then(|| {
        format!(
            "{messages} messages become due within {seconds} s: destinations may turn so many away. A spread of {gentle} s makes \
             it {RETRIES_PER_SECOND} a second"
        )
    })
}

fn checked_reason(verb: Verb, reason: Option<&str>) -> Result<&str, Failure> {
    let reason = one_line(reason)?;
    if reason.is_empty() && verb.needs_reason() {
        return Err(bad(format!("{} needs a reason", verb.as_str())));
    }
    Ok(reason)
}

fn one_line(reason: Option<&str>) -> Result<&str, Failure> {
    let reason = reason.unwrap_or_default().trim();
    if reason.chars().any(char::is_control) || reason.chars().count() > MAX_REASON {
        return Err(bad(format!("the reason must be one line of at most {MAX_REASON} characters")));
    }
    Ok(reason)
}

/// The messages that match, if the request may change so many. These are the ones that are changed: what arrives later
/// is not meant.
pub(crate) async fn selected(queue: &Queue, request: &ChangeRequest) -> Result<Vec<QueueId>, Failure> {
    if request.filter == Filter::default() && !request.all {
        return Err(failure(ProblemKind::TooMany, "which messages? Give a filter, or `all`"));
    }
    let (queue, filter) = (queue.clone(), request.filter.clone());
    let ids = blocking(move || queue.select(&filter)).await?.map_err(bad_filter)?;
    let matched = ids.len();
    let max = request.max.unwrap_or(DEFAULT_MAX);
    if matched > max && !request.all {
        let error =
            format!("{matched} messages match, more than the {max} allowed: raise `max`, or give `all`");
        let Failure(status, problem) = failure(ProblemKind::TooMany, error);
        return Err(Failure(status, Problem { matched: Some(matched), ..problem }));
    }
    Ok(ids)
}

async fn edit(
    State(app): State<App>,
    Writer(peer): Writer,
    Input(request): Input<EditRequest>,
) -> Answer<Changed> {
    let id = queue_id(&request.id)?;
    let reason = one_line(request.reason.as_deref())?.to_owned();
    let wait = checked_wait(request.wait)?;
    let edit = Edit {
        sender: request.sender.as_deref().map(sender).transpose()?,
        add: addresses(&request.add)?,
        remove: addresses(&request.remove)?,
        mark_delivered: addresses(&request.mark_delivered)?,
        priority: request.priority.map(priority).transpose()?,
    };
    let queue = app.shared.queue()?;
    let asked = queue.clone();
    blocking(move || asked.show(id)).await?.ok_or_else(|| no_message(id))?;
    if request.dry_run {
        let change = Change { matched: 1, ..Change::default() };
        return answer(Changed { dry_run: true, change, warnings: Vec::new() });
    }
    let event = AuditEvent {
        id: Some(id.to_string()),
        detail: Some(edit_in_words(&edit)),
        ..AuditEvent::new("edit", peer.uid)
    };
    let (changes, audit) = (app.changes.clone(), app.audit);
    let done = async move {
        let result = changes.until_stop(queue.edit(id, &edit, wait)).await;
        audit.note(with_result(event, &reason, 1, &result)).await;
        result
    };
    let change = app.changes.make(done).await??;
    answer(Changed { dry_run: false, change, warnings: Vec::new() })
}

fn sender(text: &str) -> Result<ReversePath, Failure> {
    match text {
        "" | "<>" => Ok(ReversePath::Null),
        text => address(text).map(ReversePath::Address),
    }
}

fn addresses(texts: &[String]) -> Result<Vec<Address>, Failure> {
    texts.iter().map(|text| address(text)).collect()
}

fn address(text: &str) -> Result<Address, Failure> {
    Address::parse(text).map_err(|error| bad(format!("{text:?} is no address: {error}")))
}

/// For the audit log.
fn edit_in_words(edit: &Edit) -> String {
    let list = |what: &str, addresses: &[Address]| -> Vec<String> {
        addresses.iter().map(|address| format!("{what} <{address}>")).collect()
    };
    let mut words: Vec<String> = edit.sender.iter().map(|sender| format!("sender <{sender}>")).collect();
    words.extend(list("add", &edit.add));
    words.extend(list("remove", &edit.remove));
    words.extend(list("mark delivered", &edit.mark_delivered));
    words.extend(edit.priority.map(|priority| format!("priority {priority}")));
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_verbs_need_a_reason_and_none_may_have_several_lines() {
        assert!(checked_reason(Verb::Hold, None).is_ok());
        assert!(checked_reason(Verb::Drop, None).is_err());
        assert!(checked_reason(Verb::Fail, Some(" ")).is_err());
        assert!(checked_reason(Verb::Fail, Some("a\r\nb")).is_err());
        assert!(checked_reason(Verb::Fail, Some(&"x".repeat(501))).is_err());
        assert_eq!(checked_reason(Verb::Fail, Some(" list was wrong ")).ok(), Some("list was wrong"));
    }

    #[test]
    fn the_audit_log_says_what_is_changed_and_not_durable() {
        let skipped = vec![("01N2K3P4Q5R6S".to_owned(), "not durable yet".to_owned())];
        let change = Change { matched: 1, not_durable: 1, skipped, ..Change::default() };
        let event = with_result(AuditEvent::new("drop", 7), "spam", 1, &Ok(change));
        assert_eq!((event.matched, event.changed, event.skipped), (1, 0, 1));
        assert!(event.error.is_some_and(|error| error.contains("1 changed, but not durable yet")));
        let whole = Ok(Change { matched: 1, changed: 1, ..Change::default() });
        assert_eq!(with_result(AuditEvent::new("drop", 7), "spam", 1, &whole).error, None);
    }

    #[test]
    fn options_of_other_verbs_are_refused() {
        let retry = ChangeRequest { at: Some(1), ..ChangeRequest::default() };
        assert!(Asked::new(Verb::Retry, &retry).is_ok());
        assert!(Asked::new(Verb::Hold, &retry).is_err());
        for request in [
            ChangeRequest { delay: Some(1), ..retry.clone() },
            ChangeRequest { ignore_breaker: true, ..retry.clone() },
            ChangeRequest { via: Some("mx".to_owned()), ..ChangeRequest::default() },
            ChangeRequest { until: Some(u64::MAX), ..ChangeRequest::default() },
            ChangeRequest { wait: Some(1), ..ChangeRequest::default() },
            ChangeRequest { priority: Some(1), ..ChangeRequest::default() },
        ] {
            assert!(Asked::new(Verb::Retry, &request).is_err(), "{request:?}");
        }
        assert!(Asked::new(Verb::Reroute, &ChangeRequest::default()).is_err());
        assert!(Asked::new(Verb::Prioritise, &ChangeRequest::default()).is_err());
        for (priority, is_right) in [(-9, true), (9, true), (-10, false), (10, false), (300, false)] {
            let request = ChangeRequest { priority: Some(priority), ..ChangeRequest::default() };
            let asked = Asked::new(Verb::Prioritise, &request);
            assert_eq!(asked.as_ref().is_ok_and(|asked| i64::from(asked.priority) == priority), is_right);
        }
        let far = ChangeRequest { until: Some(u64::MAX), ..ChangeRequest::default() };
        assert!(Asked::new(Verb::Hold, &far).is_err());
    }

    #[test]
    fn many_messages_in_a_short_time_are_warned_of() {
        assert_eq!(spread(None, 100), Duration::from_secs(5));
        assert_eq!(spread(None, 1_000_000), Duration::from_secs(600));
        assert_eq!(spread(Some(u64::MAX), 1), Duration::from_secs(MAX_AHEAD));
        for (messages, seconds, expected) in
            [(99, 0, false), (100, 0, true), (100, 5, false), (12_000, 600, false), (50_000, 600, true)]
        {
            let is_warned = flood(messages, Duration::from_secs(seconds)).is_some();
            assert_eq!(is_warned, expected, "{messages} in {seconds} s");
        }
    }
}
