//! The control socket: who may ask, and who answers.
//!
//! Root, the daemon's own user and the groups that `[admin]` names may use it, known by the credentials of the peer;
//! everybody else gets 403, whatever the mode of the file says. Nothing a peer sends reaches further than its own connection: bodies, headers,
//! connections and the time for a request are bounded, and a request that cannot be read is answered with a 400.

use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{FromRef, FromRequest, Query, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::StatusCode;
use hyper::body::Frame;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use postern_queue::operate::{BadFilter, Cursor, OperateError};
use postern_queue::{Content, Queue, QueueId, StoreError};
use postern_runtime::dns::Trouble;
use postern_runtime::unix_socket::{self, BindError};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::dns::DnsTrouble;
use crate::api::{
    self, AuditEvent, AuditRequest, CountRequest, Counts, DEFAULT_LIMIT, ExplainRequest, Explanation, List,
    ListRequest, ListenerView, MAX_EVENTS, MAX_LIMIT, Part, Problem, ProblemKind, Reloaded, Shape,
    ShapeRequest, ShowRequest, Shown, Status, Versioned,
};
use crate::audit::Audit;
use crate::changes::Changes;
use crate::import::{self, Imported, Importing};
use crate::relay::{self, GrantsFile};
use crate::rights::{self, Peer, Right, Writer};
use crate::{
    Shared, accounts, doctor, domains, explain, health, history, metrics, refusals, rules, store, verbs,
};

/// Octets of a request body. The largest is a list of ids from standard input.
const MAX_BODY: usize = 1024 * 1024;
pub(crate) const MAX_CONNECTIONS: usize = 64;
/// More of them for root and the daemon's own user: others, whom the mode of the socket may let in, cannot shut them out.
const OWNERS_CONNECTIONS: usize = 8;
/// For the head of a request and, again, for its body.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// For whoever is refused, from the first octet to the last.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// For the answers in progress when the daemon stops.
pub(crate) const GRACE: Duration = Duration::from_secs(3);
/// After an accept that failed: the usual cause is a lack of file descriptors, which needs time to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a socket is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A daemon answers there already.
    #[error("{0} is in use by another daemon that answers")]
    InUse(PathBuf),
    /// Something else than a socket is in the way; it is not touched.
    #[error("{0} exists and is not a socket")]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The path, or address and port.
        address: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Opens the control socket and answers until `stop`; the tasks are in `tasks`. A stale socket is replaced.
///
/// # Errors
/// [`ServeError`]; the place is as it was then.
pub fn serve(
    socket: &Path,
    shared: Shared,
    stop: CancellationToken,
    tasks: &TaskTracker,
) -> Result<(), ServeError> {
    let config = shared.config.load_full();
    rights::warn_of_unknown_groups(&config.admin, socket);
    let listener = bind(socket, rights::mode(&config.admin))?;
    let app = App {
        audit: Arc::new(Audit::new(&config.queue.path)),
        grants: Arc::new(GrantsFile::new(&config.queue.path)),
        importing: Arc::new(tokio::sync::Mutex::new(Imported::new(&config.queue.path))),
        turns: store::Turns::default(),
        tasks: tasks.clone(),
        changes: Changes::new(tasks.clone(), stop.clone()),
        shared,
        stop: stop.clone(),
    };
    tasks.spawn(accept_unix(listener, socket.to_owned(), app, stop, tasks.clone()));
    Ok(())
}

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) shared: Shared,
    pub(crate) audit: Arc<Audit>,
    pub(crate) grants: Arc<GrantsFile>,
    pub(crate) importing: Importing,
    stop: CancellationToken,
    /// Of long work on the spool.
    pub(crate) turns: store::Turns,
    /// Work that goes on beside a connection.
    pub(crate) tasks: TaskTracker,
    pub(crate) changes: Changes,
}

impl FromRef<App> for Shared {
    fn from_ref(app: &App) -> Self {
        app.shared.clone()
    }
}

fn bind(path: &Path, mode: u32) -> Result<UnixListener, ServeError> {
    let failed = |source| ServeError::Listen { address: path.display().to_string(), source };
    let listener = unix_socket::bind(path, mode).map_err(|error| match error {
        BindError::InUse => ServeError::InUse(path.to_owned()),
        BindError::NotASocket => ServeError::NotASocket(path.to_owned()),
        BindError::Io(source) => failed(source),
    })?;
    UnixListener::from_std(listener).map_err(failed)
}

async fn accept_unix(
    listener: UnixListener,
    path: PathBuf,
    app: App,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let places = Places::default();
    let router = router(app.clone());
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                pause_after(&error, &stop).await;
                continue;
            }
        };
        let owner = stream.peer_cred().ok().and_then(|credentials| Peer::owner(credentials.uid()));
        let Some(place) = stop.run_until_cancelled(places.take(owner.is_some())).await else { break };
        let Some(place) = place else {
            turn_away(stream);
            continue;
        };
        let (router, shared, stop) = (router.clone(), app.shared.clone(), stop.clone());
        tasks.spawn(async move {
            match identified(&stream, owner, &shared).await {
                Ok(peer) => connection(stream, router.layer(Extension(peer)), stop, place).await,
                Err(refusal) => refuse(stream, refusal, place).await,
            }
        });
    }
    // While the listener is open no other daemon takes the place, so this is still our own socket.
    let _ = std::fs::remove_file(path);
}

/// Listens on TCP; answers the address with its real port.
pub(crate) fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Listen { address: address.to_string(), source };
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = TcpListener::from_std(listener).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// Accepts on TCP, for pages that anybody may read.
pub(crate) async fn accept_tcp(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Some((accepted, permit)) = next(listener.accept(), &room, &stop).await {
        match accepted {
            Ok((stream, _)) => {
                tasks.spawn(connection(stream, router.clone(), stop.clone(), permit));
            }
            Err(error) => pause_after(&error, &stop).await,
        }
    }
}

/// The next connection, when there is room for one; `None` when it is time to stop.
pub(crate) async fn next<T>(
    accept: impl Future<Output = T>,
    room: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<(T, OwnedSemaphorePermit)> {
    let next = async {
        let permit = Arc::clone(room).acquire_owned().await.ok()?;
        Some((accept.await, permit))
    };
    stop.run_until_cancelled(next).await.flatten()
}

pub(crate) async fn pause_after(error: &io::Error, stop: &CancellationToken) {
    tracing::warn!(event = "admin accept failed", %error);
    stop.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await;
}

/// The places for connections to the control socket.
struct Places {
    all: Arc<Semaphore>,
    owners: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self { all: places(MAX_CONNECTIONS), owners: places(OWNERS_CONNECTIONS) }
    }
}

impl Places {
    /// A place for whoever connects. Root and the daemon's own user wait for one; `None`: there is none for others.
    async fn take(&self, is_owner: bool) -> Option<OwnedSemaphorePermit> {
        if !is_owner {
            return Arc::clone(&self.all).try_acquire_owned().ok();
        }
        let place = tokio::select! {
            biased;
            place = Arc::clone(&self.all).acquire_owned() => place,
            place = Arc::clone(&self.owners).acquire_owned() => place,
        };
        place.ok()
    }
}

/// Tells a peer for whom there is no place, and closes the connection: it must not keep others from being accepted.
fn turn_away(stream: UnixStream) {
    let Failure(status, problem) =
        failure(ProblemKind::Busy, "too many connections to the control socket: try again in a moment");
    let body = serde_json::to_string(&Versioned::new(problem)).unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    // It does not block, and there is room for so few octets.
    let told = stream.into_std().and_then(|mut stream| stream.write_all(answer.as_bytes()));
    tracing::debug!(event = "control socket full", ?told);
}

/// Who is on the other side, or the refusal. The groups are those of the configuration in force.
async fn identified(stream: &UnixStream, owner: Option<Peer>, shared: &Shared) -> Result<Peer, Failure> {
    if let Some(owner) = owner {
        return Ok(owner);
    }
    let unknown = |_| failure(ProblemKind::Denied, "who asks is not known");
    let credentials = stream.peer_cred().map_err(unknown)?;
    let (uid, gid) = (credentials.uid(), credentials.gid());
    let config = shared.config.load_full();
    // The name service may ask the network.
    let asked = config.clone();
    let peer = blocking(move || Peer::other(uid, gid, &asked.admin)).await?;
    if peer.right > Right::None {
        return Ok(peer);
    }
    tracing::warn!(event = "control socket denied", uid);
    Err(peer.denied(&config.admin))
}

/// Answers one request with a refusal. Whoever has no right keeps no connection, and not for long.
async fn refuse(stream: UnixStream, refusal: Failure, _place: OwnedSemaphorePermit) {
    let router = Router::new().fallback(move || async move { refusal });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).keep_alive(false);
    let served = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Ok(Err(error)) = timeout(REFUSAL_TIMEOUT, served).await {
        tracing::debug!(event = "admin connection ended", %error);
    }
}

pub(crate) async fn connection<S>(
    stream: S,
    router: Router,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(READ_TIMEOUT);
    let served = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut served = std::pin::pin!(served);
    let result = match stop.run_until_cancelled(served.as_mut()).await {
        Some(result) => result,
        None => {
            served.as_mut().graceful_shutdown();
            timeout(GRACE, served).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(event = "admin connection ended", %error);
    }
}

fn router(app: App) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/reload", post(reload))
        .route("/v1/queue/list", post(list))
        .route("/v1/queue/count", post(count))
        .route("/v1/queue/shape", post(shape))
        .route("/v1/queue/show", post(show))
        .route("/v1/queue/export", get(export))
        .route("/v1/queue/import", post(import))
        .route("/v1/audit", post(audit))
        .route("/v1/queue/cat", get(cat))
        .merge(verbs::routes())
        .merge(store::routes())
        .merge(history::routes(app.stop.clone()).with_state(app.shared.clone()))
        .route("/v1/policy/explain", post(explain_policy))
        .merge(refusals::routes())
        .merge(rules::routes())
        .merge(domains::routes())
        .merge(doctor::routes())
        .merge(relay::routes())
        .merge(accounts::routes())
        .route("/metrics", get(|State(shared): State<Shared>| async move { metrics::current(&shared) }))
        .route("/healthz", get(|State(shared): State<Shared>| async move { health_answer(&shared) }))
        .fallback(no_such_path)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app)
}

/// An answer, or why there is none.
pub(crate) type Answer<A> = Result<Json<Versioned<A>>, Failure>;

pub(crate) fn answer<A>(answer: A) -> Answer<A> {
    Ok(Json(Versioned::new(answer)))
}

/// A [`Problem`] on its way out.
#[derive(Debug, Clone)]
pub(crate) struct Failure(pub(crate) StatusCode, pub(crate) Problem);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(Versioned::new(self.1))).into_response()
    }
}

pub(crate) fn failure(kind: ProblemKind, error: impl Into<String>) -> Failure {
    let status = match kind {
        ProblemKind::BadRequest => StatusCode::BAD_REQUEST,
        ProblemKind::Denied => StatusCode::FORBIDDEN,
        ProblemKind::NotFound => StatusCode::NOT_FOUND,
        ProblemKind::TooMany | ProblemKind::Conflict => StatusCode::CONFLICT,
        ProblemKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ProblemKind::ReloadFailed => StatusCode::UNPROCESSABLE_ENTITY,
        ProblemKind::Store => StatusCode::INTERNAL_SERVER_ERROR,
        ProblemKind::Busy | ProblemKind::Loading => StatusCode::SERVICE_UNAVAILABLE,
    };
    Failure(status, Problem { kind, error: error.into(), matched: None })
}

impl From<OperateError> for Failure {
    fn from(error: OperateError) -> Self {
        let OperateError::Bad(text) = error;
        failure(ProblemKind::BadRequest, text)
    }
}

pub(crate) async fn no_such_path() -> impl IntoResponse {
    failure(ProblemKind::NotFound, "no such path")
}

pub(crate) async fn method_not_allowed() -> impl IntoResponse {
    let Failure(_, problem) = failure(ProblemKind::BadRequest, "not with this method");
    Failure(StatusCode::METHOD_NOT_ALLOWED, problem)
}

pub(crate) fn health_answer(shared: &Shared) -> Response {
    let health = health::check(shared);
    let status = if health.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Versioned::new(health))).into_response()
}

/// A JSON body. The Content-Type is not asked: `curl --data` names another one.
pub(crate) struct Input<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Input<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Failure> {
        let body = Limited::new(request.into_body(), MAX_BODY).collect();
        let Ok(body) = timeout(READ_TIMEOUT, body).await else {
            return Err(failure(ProblemKind::BadRequest, "the body did not arrive in time"));
        };
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => failure(ProblemKind::TooLarge, format!("the body is longer than {MAX_BODY} octets")),
            false => failure(ProblemKind::BadRequest, format!("the body cannot be read: {error}")),
        })?;
        let bytes = body.to_bytes();
        let json = if bytes.is_empty() { b"{}" } else { &bytes[..] };
        let value = serde_json::from_slice(json)
            .map_err(|e| failure(ProblemKind::BadRequest, format!("the body: {e}")))?;
        Ok(Self(value))
    }
}

async fn status(State(shared): State<Shared>) -> Answer<Status> {
    let dns = shared.daemon.dns_trouble().await.map(dns_trouble);
    let config = shared.config.load();
    let queue = shared.door.now();
    let listener =
        |open: crate::Listening| ListenerView { kind: open.kind, address: open.address.to_string() };
    answer(Status {
        release: shared.release.to_owned(),
        pid: std::process::id(),
        hostname: config.hostname.to_string(),
        configuration: config.path.display().to_string(),
        started: shared.started.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        listeners: shared.daemon.listening().into_iter().map(listener).collect(),
        loading: queue.is_none().then(|| shared.door.messages_read()),
        queue: queue.as_ref().map(Queue::summary).unwrap_or_default(),
        health: health::check(&shared),
        warnings: [
            shared.daemon.warnings(),
            refusals::warnings(&shared.records),
            queue.as_ref().map(lost).unwrap_or_default(),
        ]
        .concat(),
        rules: queue.as_ref().map(|queue| queue.rules().totals()).unwrap_or_default(),
        smtp: shared.daemon.load(),
        dns,
    })
}

fn dns_trouble(trouble: Trouble) -> DnsTrouble {
    let first = SystemTime::now().checked_sub(trouble.since).unwrap_or(UNIX_EPOCH);
    DnsTrouble {
        servers: trouble.servers.iter().map(ToString::to_string).collect(),
        failed: trouble.failed,
        since: first.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        problem: trouble.problem,
    }
}

/// What the spool has lost, so that somebody tells the people concerned.
fn lost(queue: &Queue) -> Vec<String> {
    /// More are in the log, and in the list of held messages.
    const NAMED: usize = 10;
    let (count, named) = queue.lost(NAMED);
    let warning = |message: &postern_queue::MessageView| {
        let recipients: Vec<&str> = message.recipients.iter().map(|r| r.address.as_str()).collect();
        format!("the content of {} from <{}> to {} is gone", message.id, message.sender, recipients.join(" "))
    };
    let more = (count > named.len()).then(|| {
        format!(
            "the content of {} more messages is gone: posternctl queue list --state held",
            count - named.len()
        )
    });
    named.iter().map(warning).chain(more).collect()
}

async fn reload(State(app): State<App>, Writer(peer): Writer) -> Answer<Reloaded> {
    let (shared, audit) = (app.shared, app.audit);
    let change = async move {
        let result = shared.daemon.reload().await;
        let error = result.as_ref().err().cloned();
        audit.note(AuditEvent { error, ..AuditEvent::new("reload", peer.uid) }).await;
        result
    };
    let report =
        app.changes.make(change).await?.map_err(|error| failure(ProblemKind::ReloadFailed, error))?;
    answer(Reloaded {
        configuration: report.path.display().to_string(),
        warnings: report.warnings,
        needs_restart: report.needs_restart,
    })
}

async fn list(State(shared): State<Shared>, Input(request): Input<ListRequest>) -> Answer<List> {
    let queue = shared.queue()?;
    let limit = request.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT);
    let after: Option<Cursor> = request.cursor.map(|text| text.parse()).transpose().map_err(bad_filter)?;
    let found = blocking(move || queue.list(&request.filter, request.sort, after, limit)).await?;
    let page = found.map_err(bad_filter)?;
    tracing::debug!(event = "listed", examined = page.examined, listed = page.messages.len());
    let cursor = page.next.map(|next| next.to_string());
    answer(List { messages: page.messages, more: cursor.is_some(), cursor })
}

async fn count(State(shared): State<Shared>, Input(request): Input<CountRequest>) -> Answer<Counts> {
    let queue = shared.queue()?;
    let found = blocking(move || queue.count(&request.filter, request.by)).await?;
    answer(Counts { groups: found.map_err(bad_filter)? })
}

async fn shape(State(shared): State<Shared>, Input(request): Input<ShapeRequest>) -> Answer<Shape> {
    let queue = shared.queue()?;
    let limit = request.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT);
    let ShapeRequest { filter, by, buckets, .. } = request;
    let found = blocking(move || queue.shape(&filter, by, &buckets, limit)).await?;
    answer(found.map_err(bad_filter)?)
}

pub(crate) fn bad_filter(error: BadFilter) -> Failure {
    failure(ProblemKind::BadRequest, error.to_string())
}

/// The queue answers from memory, but a walk over a million messages takes too long for the event loop.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| failure(ProblemKind::Store, format!("the queue did not answer: {error}")))
}

async fn show(State(shared): State<Shared>, Input(request): Input<ShowRequest>) -> Answer<Shown> {
    let id = queue_id(&request.id)?;
    let queue = shared.queue()?;
    let message = blocking(move || queue.show(id)).await?.ok_or_else(|| no_message(id))?;
    answer(Shown { message })
}

pub(crate) fn queue_id(text: &str) -> Result<QueueId, Failure> {
    text.parse().map_err(|error| failure(ProblemKind::BadRequest, format!("{text:?}: {error}")))
}

pub(crate) fn no_message(id: QueueId) -> Failure {
    let text = format!(
        "no message {id} in the queue: it has left it, or never was there; `posternctl message history {id}` says what became of it"
    );
    failure(ProblemKind::NotFound, text)
}

/// The query of `/v1/queue/cat`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct CatQuery {
    id: String,
    #[serde(default = "whole")]
    part: Part,
}

fn whole() -> Part {
    Part::Raw
}

async fn cat(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    query: Result<Query<CatQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Failure> {
    let Query(query) = query.map_err(|error| failure(ProblemKind::BadRequest, error.body_text()))?;
    let id = queue_id(&query.id)?;
    let content = app.shared.queue()?.content(id).ok_or_else(|| no_message(id))?;
    app.audit.note(AuditEvent { id: Some(id.to_string()), ..AuditEvent::new("cat", peer.uid) }).await;
    let mut stream = ContentStream::new(content, query.part);
    stream.first = stream.read_first().await.map_err(|error| unreadable(id, &error))?;
    Ok(([(CONTENT_TYPE, "message/rfc822")], Body::new(stream)).into_response())
}

/// A message that cannot be read at all is a 500, not a connection that breaks.
fn unreadable(id: QueueId, error: &StoreError) -> Failure {
    failure(ProblemKind::Store, format!("message {id} cannot be read: {error}"))
}

/// The query of `/v1/queue/export`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportQuery {
    id: String,
}

/// A queue may export a hundred thousand messages: each is in the log, and not in the audit file.
async fn export(
    State(shared): State<Shared>,
    Extension(peer): Extension<Peer>,
    query: Result<Query<ExportQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Failure> {
    let Query(query) = query.map_err(|error| failure(ProblemKind::BadRequest, error.body_text()))?;
    let id = queue_id(&query.id)?;
    let queue = shared.queue()?;
    let content = queue.content(id).ok_or_else(|| no_message(id))?;
    let in_flight = || failure(ProblemKind::NotFound, format!("message {id} is being delivered"));
    let transfer = blocking(move || queue.transfer(id)).await?.ok_or_else(in_flight)?;
    tracing::info!(event = "operator", verb = "export", uid = peer.uid, id = %id);
    let mut stream = ContentStream::new(content, Part::Raw);
    let first = stream.read_first().await.map_err(|error| unreadable(id, &error))?;
    let line = serde_json::to_vec(&transfer).map_err(|e| failure(ProblemKind::Store, e.to_string()))?;
    stream.first = Some([&line, &b"\n"[..], first.as_deref().unwrap_or_default()].concat().into());
    Ok(Body::new(stream).into_response())
}

async fn import(State(app): State<App>, Writer(peer): Writer, request: Request) -> Answer<api::Imported> {
    let max_size = app.shared.config.load().smtp.max_message_size;
    let queue = app.shared.queue()?;
    let received = import::receive(&queue, &app.importing, max_size, request.into_body()).await?;
    let audit = app.audit;
    let change = async move {
        let asked = received.id().to_owned();
        let result = received.take().await;
        let was_taken = matches!(&result, Ok((_, None)));
        let event = AuditEvent {
            id: Some(result.as_ref().map_or(asked, |(id, _)| id.clone())),
            matched: 1,
            changed: usize::from(was_taken),
            skipped: usize::from(!was_taken),
            error: result.as_ref().err().map(|failure| failure.1.error.clone()),
            ..AuditEvent::new("import", peer.uid)
        };
        audit.note(event).await;
        result
    };
    let (id, skipped) = app.changes.make(change).await??;
    answer(api::Imported { id, skipped })
}

async fn audit(State(app): State<App>, Input(request): Input<AuditRequest>) -> Answer<api::Audit> {
    let limit = request.limit.unwrap_or(MAX_EVENTS).min(MAX_EVENTS);
    let read = blocking(move || app.audit.read(request.since, limit)).await?;
    let (events, more) =
        read.map_err(|error| failure(ProblemKind::Store, format!("the audit log cannot be read: {error}")))?;
    answer(api::Audit { events, more })
}

/// A message on its way to an operator, piece by piece.
struct ContentStream {
    first: Option<Bytes>,
    cut: Cut,
    source: Source,
}

type Read = (Content, Result<Option<Bytes>, StoreError>);

enum Source {
    Ready(Content),
    Reading(Pin<Box<dyn Future<Output = Read> + Send>>),
    Ended,
}

impl ContentStream {
    fn new(content: Content, part: Part) -> Self {
        Self { first: None, cut: Cut::new(part), source: Source::Ready(content) }
    }

    async fn read_first(&mut self) -> Result<Option<Bytes>, StoreError> {
        std::future::poll_fn(|context| self.poll_piece(context)).await
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StoreError>> {
        loop {
            let mut reading = match std::mem::replace(&mut self.source, Source::Ended) {
                Source::Ended => return Poll::Ready(Ok(None)),
                Source::Ready(_) if self.cut.ended() => return Poll::Ready(Ok(None)),
                Source::Ready(content) => Box::pin(read_next(content)),
                Source::Reading(reading) => reading,
            };
            let Poll::Ready((content, piece)) = reading.as_mut().poll(context) else {
                self.source = Source::Reading(reading);
                return Poll::Pending;
            };
            let Some(piece) = piece? else { return Poll::Ready(Ok(None)) };
            self.source = Source::Ready(content);
            let kept = self.cut.keep(piece);
            if !kept.is_empty() {
                return Poll::Ready(Ok(Some(kept)));
            }
        }
    }
}

fn read_next(mut content: Content) -> Pin<Box<dyn Future<Output = Read> + Send>> {
    Box::pin(async move {
        let piece = content.next().await;
        (content, piece)
    })
}

impl hyper::body::Body for ContentStream {
    type Data = Bytes;
    type Error = StoreError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StoreError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        self.poll_piece(context).map(|piece| piece.transpose().map(|piece| piece.map(Frame::data)))
    }
}

/// Cuts the header or the body out of a message that comes in pieces.
#[derive(Debug)]
struct Cut {
    part: Part,
    /// How much of the end of the header, `CRLF CRLF`, was just seen.
    seen: usize,
}

const HEADER_END: &[u8] = b"\r\n\r\n";

impl Cut {
    fn new(part: Part) -> Self {
        // As if a line had just ended: a message without any field begins with the empty line.
        Self { part, seen: 2 }
    }

    fn in_body(&self) -> bool {
        self.seen == HEADER_END.len()
    }

    /// Nothing of what follows is wanted.
    fn ended(&self) -> bool {
        self.part == Part::Headers && self.in_body()
    }

    fn keep(&mut self, piece: Bytes) -> Bytes {
        let body = self.body_offset(&piece);
        match self.part {
            Part::Raw => piece,
            Part::Headers => piece.slice(..body),
            Part::Body => piece.slice(body..),
        }
    }

    /// Where the body begins in this piece.
    fn body_offset(&mut self, piece: &[u8]) -> usize {
        for (at, byte) in piece.iter().enumerate() {
            if self.in_body() {
                return at;
            }
            self.seen = match *byte {
                byte if byte == HEADER_END[self.seen] => self.seen + 1,
                b'\r' => 1,
                _ => 0,
            };
        }
        piece.len()
    }
}

async fn explain_policy(
    State(shared): State<Shared>,
    Input(request): Input<ExplainRequest>,
) -> Answer<Explanation> {
    // The standing rules are part of it.
    shared.queue()?;
    let policy = shared.policy.load_full();
    let bad = |error: explain::BadQuestion| failure(ProblemKind::BadRequest, error.to_string());
    shared.facts.find(explain::wanted(&request, &policy).map_err(bad)?).await;
    let explanation = explain::explain(&request, &policy, &shared);
    answer(explanation.map_err(bad)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_ends_at_the_empty_line_however_the_message_is_cut() {
        for (message, header) in [
            ("Subject: x\r\n\r\nbody\r\n\r\nmore", "Subject: x\r\n\r\n"),
            ("\r\nbody", "\r\n"),
            ("Subject: x\r\n", "Subject: x\r\n"),
            ("a: \r\r\n\r\r\n\r\nbody", "a: \r\r\n\r\r\n\r\n"),
            ("a: \n\nb: \r\n\r\nbody", "a: \n\nb: \r\n\r\n"),
        ] {
            for at in 0..=message.len() {
                let (first, rest) = message.as_bytes().split_at(at);
                let read = |part| {
                    let mut cut = Cut::new(part);
                    let kept = [first, rest].map(|piece| cut.keep(Bytes::copy_from_slice(piece)));
                    String::from_utf8_lossy(&kept.concat()).into_owned()
                };
                assert_eq!(read(Part::Headers), header, "cut at {at}");
                assert_eq!(read(Part::Body), message[header.len()..], "cut at {at}");
                assert_eq!(read(Part::Raw), message, "cut at {at}");
            }
        }
    }
}
