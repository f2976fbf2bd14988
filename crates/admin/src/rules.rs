//! Standing rules: list, add, remove, test.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use postern_config::ListenerKind;
use postern_policy::Policy;
use postern_policy::accounts::Login;
use postern_policy::directory::Resolution;
use postern_policy::relay::{Question, Stage};
use postern_queue::rules::{NewRule, Rule, RuleError, Rules};
use postern_queue::{Envelope, Origin, Queue, Recipient};
use postern_smtp::header::fields;
use postern_smtp::{Address, Body, ForwardPath, ReversePath};

use crate::Shared;
use crate::api::rules::{
    AddRule, RemoveRules, RemovedRule, RuleAction, RuleAdded, RuleList, RuleTest, RulesRemoved, TestRules,
};
use crate::api::{AuditEvent, Change, ChangeRequest, Filter, ProblemKind};
use crate::audit::Audit;
use crate::changes::Changes;
use crate::rights::Writer;
use crate::server::{Answer, App, Failure, Input, answer, bad_filter, blocking, failure};
use crate::verbs::{checked_wait, not_durable, selected};

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/rules", get(list))
        .route("/v1/rules/add", post(add))
        .route("/v1/rules/remove", post(remove))
        .route("/v1/rules/test", post(test))
}

impl From<RuleError> for Failure {
    fn from(error: RuleError) -> Self {
        let kind = match error {
            RuleError::Filter(_) | RuleError::Bad(_) => ProblemKind::BadRequest,
            RuleError::TooMany(_) => ProblemKind::TooMany,
            RuleError::Unknown(_) => ProblemKind::NotFound,
            RuleError::Store(_) => ProblemKind::Store,
        };
        failure(kind, error.to_string())
    }
}

async fn list(State(shared): State<Shared>) -> Answer<RuleList> {
    let queue = shared.queue()?;
    let rules = queue.rules();
    answer(RuleList { rules: rules.list(), problem: rules.problem() })
}

async fn add(
    State(app): State<App>,
    Writer(peer): Writer,
    Input(request): Input<AddRule>,
) -> Answer<RuleAdded> {
    let new = new_rule(&request)?;
    let wait = checked_wait(request.wait)?;
    let queue = app.shared.queue()?;
    queue.rules().check(&new)?;
    let found = queued(&queue, &request, request.filter.clone(), request.max).await?;
    if request.dry_run {
        let existing = found.map(|ids| Change { matched: ids.len(), ..Change::default() });
        return answer(RuleAdded { dry_run: true, rule: None, existing });
    }
    let (changes, audit) = (app.changes.clone(), app.audit);
    let added = async move {
        let (event, added) = added(&queue, &request, new, wait, peer.uid, &changes).await;
        audit.note(event).await;
        added
    };
    answer(app.changes.make(added).await??)
}

/// Adds the rule, applies it to what is queued if that is asked for, and says what is to be noted of it.
async fn added(
    queue: &Queue,
    request: &AddRule,
    new: NewRule,
    wait: Duration,
    uid: u32,
    changes: &Changes,
) -> (AuditEvent, Result<RuleAdded, Failure>) {
    let rule = changing(queue, move |rules| rules.add(new, uid)).await;
    let id = rule.as_ref().ok().map(|rule| rule.id);
    let added = match rule {
        Ok(rule) => {
            let existing = apply_to_queued(queue, request, &rule, wait, changes).await;
            existing.map(|existing| RuleAdded { dry_run: false, rule: Some(rule), existing })
        }
        Err(error) => Err(error.into()),
    };
    let change = added.as_ref().ok().and_then(|added| added.existing.as_ref());
    let event = AuditEvent {
        rule: id,
        reason: Some(request.reason.clone()),
        matched: change.map_or(0, |change| change.matched),
        changed: change.map_or(0, |change| change.changed),
        skipped: change.map_or(0, |change| change.skipped.len()),
        error: added
            .as_ref()
            .map_or_else(|failure| Some(failure.1.error.clone()), |_| change.and_then(not_durable)),
        ..AuditEvent::new(&format!("rule-{}", request.action.as_str()), uid).with_filter(&request.filter)
    };
    (event, added)
}

/// The rule that is asked for.
fn new_rule(request: &AddRule) -> Result<NewRule, Failure> {
    let bad = |text: &str| Err(failure(ProblemKind::BadRequest, text));
    if request.filter == Filter::default() && !request.all {
        return bad("which messages? Give a filter, or `all`");
    }
    if request.existing && request.action == RuleAction::Reject {
        return bad(
            "what is queued was accepted and cannot be rejected: `fail` ends it with a report to the sender",
        );
    }
    let until = match (request.duration, request.until) {
        (Some(_), Some(_)) => return bad("`for` or `until`, not both"),
        (Some(seconds), None) => Some(now().saturating_add(seconds)),
        (None, until) => until,
    };
    Ok(NewRule {
        action: request.action,
        filter: request.filter.clone(),
        reason: request.reason.clone(),
        text: request.text.clone(),
        temporary: request.temporary,
        until,
    })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The queued messages that the rule is to be applied to, if it is.
async fn queued(
    queue: &Queue,
    request: &AddRule,
    filter: Filter,
    max: Option<usize>,
) -> Result<Option<Vec<postern_queue::QueueId>>, Failure> {
    if !request.existing {
        return Ok(None);
    }
    let request = ChangeRequest { filter, all: request.all, max, ..ChangeRequest::default() };
    selected(queue, &request).await.map(Some)
}

/// Does to queued messages what the rule does to new ones. What came since it is in force was seen by it,
/// and what was let through before is waited for.
async fn apply_to_queued(
    queue: &Queue,
    request: &AddRule,
    rule: &Rule,
    wait: Duration,
    changes: &Changes,
) -> Result<Option<Change>, Failure> {
    let mut filter = request.filter.clone();
    filter.not.push(Filter { held_by: Some(rule.id), ..Filter::default() });
    if request.existing {
        queue.rules_settled().await;
    }
    // How many may be changed was asked before the rule was added.
    let applied = match queued(queue, request, filter, Some(usize::MAX)).await {
        Ok(Some(ids)) => changes.until_stop(queue.apply_rule(rule.id, &ids, wait)).await,
        Ok(None) => return Ok(None),
        Err(failure) => Err(failure),
    };
    applied.map_err(|mut failure| {
        let error = &mut failure.1.error;
        *error = format!("rule {} is in force, but what is queued was not changed: {error}", rule.id);
        failure
    })
}

async fn remove(
    State(app): State<App>,
    Writer(peer): Writer,
    Input(request): Input<RemoveRules>,
) -> Answer<RulesRemoved> {
    let queue = app.shared.queue()?;
    let all = queue.rules().list();
    let ids = match (request.ids.is_empty(), request.all) {
        (true, true) => all.iter().map(|rule| rule.id).collect(),
        (false, false) => request.ids,
        _ => return Err(failure(ProblemKind::BadRequest, "which rules? Give their ids, or `all`")),
    };
    let removed = match request.dry_run {
        true => {
            if let Some(unknown) = ids.iter().find(|id| all.iter().all(|rule| rule.id != **id)) {
                return Err(RuleError::Unknown(*unknown).into());
            }
            all.into_iter().filter(|rule| ids.contains(&rule.id)).collect()
        }
        false => {
            let (queue, audit) = (queue.clone(), app.audit);
            app.changes.make(async move { removed(&queue, ids, peer.uid, &audit).await }).await??
        }
    };
    let held = blocking(move || queue.held_by_rules()).await?.map_err(bad_filter)?;
    let removed: Vec<RemovedRule> = removed
        .into_iter()
        .map(|rule| RemovedRule { still_held: held.get(&rule.id).copied().unwrap_or(0), rule })
        .collect();
    answer(RulesRemoved { dry_run: request.dry_run, rules: removed })
}

/// Removes rules and notes each.
async fn removed(queue: &Queue, ids: Vec<u64>, uid: u32, audit: &Arc<Audit>) -> Result<Vec<Rule>, RuleError> {
    let removed = changing(queue, move |rules| rules.remove(&ids)).await?;
    for rule in &removed {
        let event = AuditEvent {
            rule: Some(rule.id),
            reason: Some(format!("removed: {} ({} hits)", rule.reason, rule.hits)),
            ..AuditEvent::new("rule-remove", uid).with_filter(&rule.filter)
        };
        audit.note(event).await;
    }
    Ok(removed)
}

/// Changes the rules, which waits for the disk.
async fn changing<T: Send + 'static>(
    queue: &Queue,
    change: impl FnOnce(&Rules) -> Result<T, RuleError> + Send + 'static,
) -> Result<T, RuleError> {
    let queue = queue.clone();
    let done = tokio::task::spawn_blocking(move || change(queue.rules())).await;
    done.unwrap_or_else(|error| Err(RuleError::Store(error.to_string())))
}

async fn test(State(shared): State<Shared>, Input(request): Input<TestRules>) -> Answer<RuleTest> {
    let policy = shared.policy.load_full();
    let message = request.message.as_deref().map(crate::explain::crlf).unwrap_or_default();
    let envelope = imagined(&request, &message, &policy)?;
    let header = message.into_bytes();
    let queue = shared.queue()?;
    let found = blocking(move || queue.rules().test(&envelope, &header)).await?;
    answer(RuleTest { matching: found.matching, decides: found.decides, at_rcpt: found.at_rcpt })
}

/// The envelope that a message would have.
fn imagined(request: &TestRules, message: &str, policy: &Policy) -> Result<Envelope, Failure> {
    let bad = |text: String| failure(ProblemKind::BadRequest, text);
    let from = crate::explain::without_brackets(&request.from);
    let sender =
        ReversePath::parse(from).map_err(|e| bad(format!("the sender {from:?} is not an address: {e}")))?;
    let login = request.account.as_deref().map(|name| {
        let unknown = || bad(format!("there is no account {name:?}: see `posternctl account list`"));
        policy.accounts.login(name).ok_or_else(unknown)
    });
    let login = login.transpose()?;
    let mut recipients = Vec::new();
    for to in &request.to {
        let to = crate::explain::without_brackets(to);
        let path = ForwardPath::parse(to)
            .map_err(|e| bad(format!("the recipient {to:?} is not an address: {e}")))?;
        recipients.extend(final_recipients(&path, None, policy));
    }
    let origin = match (request.client, &login) {
        (None, Some(login)) => Origin::Login(login.name.clone()),
        (None, None) => Origin::Outsider,
        (Some(client), _) => origin(&asked(client, login.as_ref(), &sender), policy),
    };
    Ok(Envelope {
        reverse_path: sender,
        origin,
        client: request.client.map(|client| client.to_canonical()),
        forwarded: None,
        helo: None,
        received: SystemTime::now(),
        body: Body::SevenBit,
        smtputf8: false,
        ret: None,
        envelope_id: None,
        message_id: message_id(message.as_bytes()),
        priority: 0,
        terms: Default::default(),
        size: request.size.max(message.len() as u64),
        recipients,
    })
}

/// What the policy would be asked.
fn asked<'a>(client: IpAddr, login: Option<&'a Login>, sender: &'a ReversePath) -> Question<'a> {
    Question {
        listener: ListenerKind::Mx,
        client,
        local: None,
        tls: false,
        certificate: None,
        login,
        helo: None,
        now: SystemTime::now(),
        recipients: 0,
        reverse_path: sender,
        stage: Stage::Mail,
    }
}

/// Who would get the mail for a recipient, each with the name it was given. `local` is the address of ours that the client
/// connects to.
pub(crate) fn final_recipients(path: &ForwardPath, local: Option<IpAddr>, policy: &Policy) -> Vec<Recipient> {
    let given = match path {
        ForwardPath::Address(address) => Some(address),
        ForwardPath::Postmaster => None,
    };
    let addresses = match policy.directory.resolve(path, local) {
        Resolution::Recipients(addresses) => addresses,
        Resolution::NotLocal | Resolution::Unknown | Resolution::AliasLoop => {
            given.into_iter().cloned().collect()
        }
    };
    let recipient = |address: Address| {
        let given = given.filter(|given| **given != address).cloned();
        Recipient { given, ..Recipient::new(address) }
    };
    addresses.into_iter().map(recipient).collect()
}

/// By which right the message would come.
pub(crate) fn origin(question: &Question<'_>, policy: &Policy) -> Origin {
    if let Some(login) = question.login {
        return Origin::Login(login.name.clone());
    }
    if let Some(trusted) = policy.relay.trusted_network(question.client) {
        return Origin::TrustedNetwork(trusted.label.clone());
    }
    policy.granted(question).map_or(Origin::Outsider, Origin::Granted)
}

/// What stands in the Message-ID field, without its brackets.
pub(crate) fn message_id(message: &[u8]) -> Option<String> {
    let field = fields(message).find(|field| field.name.eq_ignore_ascii_case(b"Message-ID"))?;
    Some(String::from_utf8_lossy(field.value).trim().trim_matches(['<', '>']).to_owned())
}
