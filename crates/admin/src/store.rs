//! The spool: how it is, whether it is whole, its index, room, a backup, and what was set aside.
//!
//! Long work is done beside the connection that asked for it and told line by line; it ends when the peer goes away. One
//! such work at a time: two of them would only make each other slow.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use hyper::body::Frame;
use postern_queue::store::backup::Options as BackupOptions;
use postern_queue::store::check::Options as CheckOptions;
use postern_queue::store::job::{Listener, RATE, Tidings};
use postern_queue::store::{Store, StoreError};
use postern_queue::transfer::TransferError;
use postern_queue::upkeep::{GivenEnvelope, RestoreError};
use postern_smtp::{Address, ReversePath};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Interval, interval};

use crate::Shared;
use crate::api::store::{
    BackupRequest, CheckRequest, CompactRequest, Event, Fix, FixRequest, Fixed, MAX_FIXES, Progress,
    Quarantine, RebuildRequest, Rebuilt, RemoveRequest, Removed, RestoreRequest, Restored, Status,
};
use crate::api::{AuditEvent, Problem, ProblemKind, Versioned};
use crate::import;
use crate::rights::Writer;
use crate::server::{Answer, App, Failure, Input, answer, blocking, failure, queue_id};
use crate::verbs::MAX_REASON;

/// Lines that wait for a slow peer.
const LINES: usize = 64;
/// After so long without a line an empty one is sent: far below the time that a client waits for each.
const PULSE: Duration = Duration::from_secs(10);

/// The paths below `/v1/store`.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/store/status", get(status))
        .route("/v1/store/check", post(check))
        .route("/v1/store/fix", post(fix))
        .route("/v1/store/rebuild", post(rebuild))
        .route("/v1/store/compact", post(compact))
        .route("/v1/store/backup", post(backup))
        .route("/v1/store/quarantine", get(quarantine))
        .route("/v1/store/quarantine/restore", post(restore))
        .route("/v1/store/quarantine/remove", post(remove))
}

async fn status(State(shared): State<Shared>) -> Answer<Status> {
    let queue = shared.queue()?;
    answer(blocking(move || queue.disk().map(|store| store.status())).await??)
}

async fn check(State(app): State<App>, Input(request): Input<CheckRequest>) -> Result<Response, Failure> {
    let options = CheckOptions { full: request.full, rate: request.rate.unwrap_or(RATE) };
    work(&app, None, move |store, listener| store.check(options, listener))
}

async fn fix(
    State(app): State<App>,
    Writer(peer): Writer,
    Input(request): Input<FixRequest>,
) -> Result<Response, Failure> {
    let FixRequest { fixes, reason: why } = request;
    if fixes.is_empty() || fixes.len() > MAX_FIXES {
        let text = format!("`fixes`: what `store check` has found, one to {MAX_FIXES}");
        return Err(failure(ProblemKind::BadRequest, text));
    }
    let why = reason(why)?;
    let asked = fixes.clone();
    let note: Note<Fixed> = Box::new(move |result| fix_event(peer.uid, why, &asked, result));
    work(&app, Some(note), move |store, listener| store.fix(&fixes, listener))
}

/// What the audit log keeps of fixes.
pub fn fix_event(
    uid: u32,
    reason: Option<String>,
    fixes: &[Fix],
    result: &Result<Fixed, StoreError>,
) -> AuditEvent {
    let words: Vec<String> = fixes.iter().map(Fix::to_string).collect();
    let count = |of: fn(&Fixed) -> usize| result.as_ref().map_or(0, of);
    let changed = count(|fixed| fixed.fixed.len());
    AuditEvent {
        detail: Some(words.join("; ").chars().take(MAX_REASON).collect()),
        reason,
        matched: fixes.len(),
        changed,
        skipped: fixes.len() - changed.min(fixes.len()),
        error: result.as_ref().err().map(ToString::to_string),
        ..AuditEvent::new("store fix", uid)
    }
}

async fn rebuild(
    State(app): State<App>,
    Writer(peer): Writer,
    Input(request): Input<RebuildRequest>,
) -> Result<Response, Failure> {
    let event = AuditEvent { reason: reason(request.reason)?, ..AuditEvent::new("store rebuild", peer.uid) };
    work(&app, Some(one(event)), move |store, listener| match request.no_wait {
        true => store.begin_rebuild().map(|_| Rebuilt { rows: None }),
        false => store.rebuild_index(listener).map(|rows| Rebuilt { rows: Some(rows) }),
    })
}

async fn compact(
    State(app): State<App>,
    Writer(peer): Writer,
    Input(request): Input<CompactRequest>,
) -> Result<Response, Failure> {
    let event = AuditEvent { reason: reason(request.reason)?, ..AuditEvent::new("store compact", peer.uid) };
    work(&app, Some(one(event)), |store, listener| store.compact(listener))
}

async fn backup(
    State(app): State<App>,
    Writer(peer): Writer,
    Input(request): Input<BackupRequest>,
) -> Result<Response, Failure> {
    let event = AuditEvent {
        object: Some(request.directory.clone()),
        reason: reason(request.reason)?,
        ..AuditEvent::new("store backup", peer.uid)
    };
    let directory = PathBuf::from(request.directory);
    let options = BackupOptions { copies_all: request.copy };
    work(&app, Some(one(event)), move |store, listener| store.backup(&directory, options, listener))
}

/// What the audit log keeps of work, by what it ended with.
type Note<A> = Box<dyn FnOnce(&Result<A, StoreError>) -> AuditEvent + Send>;

/// Of work that is one change.
fn one<A>(event: AuditEvent) -> Note<A> {
    Box::new(move |result| {
        let error = result.as_ref().err().map(ToString::to_string);
        let changed = usize::from(error.is_none());
        AuditEvent { matched: 1, changed, skipped: 1 - changed, error, ..event }
    })
}

/// Does what takes long, tells it line by line, and notes it if it changes something.
fn work<A: Serialize + Send + 'static>(
    app: &App,
    note: Option<Note<A>>,
    work: impl FnOnce(&Store, &mut Listener<'_>) -> Result<A, StoreError> + Send + 'static,
) -> Result<Response, Failure> {
    let queue = app.shared.queue()?;
    let Ok(turn) = app.upkeep.clone().try_lock_owned() else {
        return Err(failure(
            ProblemKind::Conflict,
            "another store command is at work: wait for its end, or end it where it runs",
        ));
    };
    let (lines, receiver) = mpsc::channel(LINES);
    let (store, audit, told) = (queue.disk()?, app.audit.clone(), lines.clone());
    app.tasks.spawn(async move {
        let done = tokio::task::spawn_blocking(move || work(&store, &mut |news| tell(&told, news)));
        let result = done.await.unwrap_or(Err(StoreError::Interrupted));
        if let Some(note) = note {
            audit.note(note(&result)).await;
        }
        drop(turn);
        let last = match result {
            Ok(answer) => Event::Done(answer),
            Err(error) => Event::Failed(Failure::from(error).1),
        };
        // A peer that has gone does not need it.
        let _ = lines.send(line(&last)).await;
    });
    let body = Body::new(Lines { receiver, pulse: interval(PULSE) });
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// Hands news to the peer. Progress is only told if there is room for it.
fn tell(lines: &mpsc::Sender<Bytes>, news: Tidings) -> ControlFlow<()> {
    let is_told = match news {
        Tidings::Progress(progress) => {
            let stage = progress.stage.to_owned();
            let event = Event::<()>::Progress(Progress { stage, done: progress.done, of: progress.of });
            !matches!(lines.try_send(line(&event)), Err(mpsc::error::TrySendError::Closed(_)))
        }
        Tidings::Finding(finding) => lines.blocking_send(line(&Event::<()>::Finding(finding))).is_ok(),
    };
    if is_told { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

fn line<A: Serialize>(event: &Event<A>) -> Bytes {
    let written = serde_json::to_vec(&Versioned::new(event)).or_else(|error| {
        let problem = Problem { kind: ProblemKind::Store, error: error.to_string(), matched: None };
        serde_json::to_vec(&Versioned::new(Event::<()>::Failed(problem)))
    });
    let mut line = written.unwrap_or_default();
    line.push(b'\n');
    line.into()
}

/// Lines on their way to the peer.
struct Lines {
    receiver: mpsc::Receiver<Bytes>,
    pulse: Interval,
}

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Poll::Ready(line) = self.receiver.poll_recv(context) {
            return Poll::Ready(line.map(|line| Ok(Frame::data(line))));
        }
        self.pulse.poll_tick(context).map(|_| Some(Ok(Frame::data(Bytes::from_static(b"\n")))))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let kind = match error {
            StoreError::Refused(_) => ProblemKind::Conflict,
            StoreError::NoMessage(_) => ProblemKind::NotFound,
            _ => ProblemKind::Store,
        };
        failure(kind, error.to_string())
    }
}

/// A reason for the audit log.
fn reason(reason: Option<String>) -> Result<Option<String>, Failure> {
    let reason = reason.map(|reason| reason.trim().to_owned()).filter(|reason| !reason.is_empty());
    let is_line =
        |reason: &String| !reason.chars().any(char::is_control) && reason.chars().count() <= MAX_REASON;
    if reason.as_ref().is_none_or(is_line) {
        return Ok(reason);
    }
    let rule = format!("the reason must be one line of at most {MAX_REASON} characters");
    Err(failure(ProblemKind::BadRequest, rule))
}

async fn quarantine(State(shared): State<Shared>) -> Answer<Quarantine> {
    let queue = shared.queue()?;
    answer(Quarantine { pieces: blocking(move || queue.quarantine()).await?? })
}

async fn restore(
    State(app): State<App>,
    Writer(peer): Writer,
    Input(request): Input<RestoreRequest>,
) -> Answer<Restored> {
    let why = reason(request.reason.clone())?;
    let id = queue_id(&request.id)?;
    let given = given_envelope(&request)?;
    let queue = app.shared.queue()?;
    let was = id.to_string();
    // One at a time, as an import: an id must not come in by two of them.
    let mut importing = app.importing.clone().lock_owned().await;
    let asked = was.clone();
    let (is_known, mut importing) =
        import::blocking(move || importing.has(&asked).map(|is_known| (is_known, importing))).await?;
    if is_known && !request.again {
        let text = format!("message {was} was put back or imported before; --again does it once more");
        return Err(failure(ProblemKind::Conflict, text));
    }
    let result = queue.restore(id, given).await;
    let event = AuditEvent {
        id: Some(was.clone()),
        object: result.as_ref().ok().map(ToString::to_string),
        reason: why,
        matched: 1,
        changed: usize::from(result.is_ok()),
        skipped: usize::from(result.is_err()),
        error: result.as_ref().err().map(ToString::to_string),
        ..AuditEvent::new("store quarantine restore", peer.uid)
    };
    app.audit.note(event).await;
    let restored = result.map_err(|error| not_restored(&error))?;
    let noted = was.clone();
    import::blocking(move || importing.add(&noted)).await?;
    answer(Restored { id: restored.to_string(), was })
}

fn not_restored(error: &RestoreError) -> Failure {
    let kind = match error {
        RestoreError::InQueue(_) => ProblemKind::Conflict,
        RestoreError::NoContent(_) => ProblemKind::NotFound,
        RestoreError::NoEnvelope(_) | RestoreError::Transfer(TransferError::Bad(_)) => {
            ProblemKind::BadRequest
        }
        RestoreError::Transfer(_) | RestoreError::Store(_) => ProblemKind::Store,
    };
    failure(kind, error.to_string())
}

fn given_envelope(request: &RestoreRequest) -> Result<Option<GivenEnvelope>, Failure> {
    let bad = |error: String| failure(ProblemKind::BadRequest, error);
    if request.recipients.is_empty() {
        return match request.sender {
            Some(_) => Err(bad("a sender is given together with recipients only".to_owned())),
            None => Ok(None),
        };
    }
    let text = request.sender.as_deref().unwrap_or_default();
    let sender = ReversePath::parse(text).map_err(|error| bad(format!("{text:?}: {error}")))?;
    let address = |text: &String| Address::parse(text).map_err(|error| bad(format!("{text:?}: {error}")));
    let recipients = request.recipients.iter().map(address).collect::<Result<_, _>>()?;
    Ok(Some(GivenEnvelope { sender, recipients }))
}

async fn remove(
    State(app): State<App>,
    Writer(peer): Writer,
    Input(request): Input<RemoveRequest>,
) -> Answer<Removed> {
    if request.names.is_empty() && !request.all {
        return Err(failure(ProblemKind::BadRequest, "which pieces? Give their names, or `all`"));
    }
    let why = reason(request.reason.clone())?;
    let object = match request.all {
        true => "all".to_owned(),
        false => request.names.join(" "),
    };
    let dry_run = request.dry_run;
    let store = app.shared.queue()?.disk()?;
    let removed = blocking(move || remove_pieces(&store, request)).await??;
    if !dry_run {
        let event = AuditEvent {
            object: Some(object.chars().take(MAX_REASON).collect()),
            reason: why,
            matched: removed.matched,
            changed: removed.removed.len(),
            skipped: removed.skipped.len(),
            ..AuditEvent::new("store quarantine remove", peer.uid)
        };
        app.audit.note(event).await;
    }
    answer(removed)
}

/// Removes pieces and reads back which are gone. Blocking.
fn remove_pieces(store: &Store, request: RemoveRequest) -> Result<Removed, StoreError> {
    let mut kept = store.quarantine()?;
    // Marks first: releasing a segment makes copies of what cannot be read in it, unless they are there.
    kept.sort_by_key(|piece| !piece.kind.is_mark());
    let mut names: Vec<String> = kept.into_iter().map(|piece| piece.name).collect();
    if !request.all {
        names.retain(|name| request.names.contains(name));
    }
    let unknown = request.names.into_iter().filter(|name| !request.all && !names.contains(name));
    let mut skipped: Vec<(String, String)> =
        unknown.map(|name| (name, "nothing of this name was set aside".to_owned())).collect();
    let matched = names.len() + skipped.len();
    if request.dry_run {
        return Ok(Removed { dry_run: true, matched, removed: Vec::new(), skipped });
    }
    let mut removed = Vec::new();
    for name in names {
        match store.discard(&name) {
            Ok(()) => removed.push(name),
            Err(error) => skipped.push((name, error.to_string())),
        }
    }
    let left = store.quarantine()?;
    removed.retain(|name| {
        let is_gone = left.iter().all(|piece| piece.name != *name);
        if !is_gone {
            skipped.push((name.clone(), "it is still there".to_owned()));
        }
        is_gone
    });
    Ok(Removed { dry_run: false, matched, removed, skipped })
}
