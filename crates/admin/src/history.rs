//! What happens to messages, line by line as it happens, and what became of them.

use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Router};
use bytes::Bytes;
use hyper::body::Frame;
use postern_queue::events::{WatchError, Watched, Watcher};
pub use postern_queue::history::HistoryError;
use postern_queue::history::{self, Query};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::Shared;
use crate::api::history::{DEFAULT_STORIES, History, HistoryRequest, MAX_STORIES, Missed, WatchRequest};
use crate::api::{ProblemKind, Versioned};
use crate::server::{Answer, Failure, Input, answer, blocking, failure};

/// How often an empty line says that the connection is there; a watcher that has gone is noticed by it.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The requests of this file. Lines end with `stop`.
pub(crate) fn routes(stop: CancellationToken) -> Router<Shared> {
    Router::new()
        .route("/v1/queue/watch", post(watch))
        .route("/v1/message/history", post(message_history))
        .layer(Extension(stop))
}

async fn watch(
    State(shared): State<Shared>,
    Extension(stop): Extension<CancellationToken>,
    Input(request): Input<WatchRequest>,
) -> Result<Response, Failure> {
    let watcher = shared.queue()?.watch(&request.filter).map_err(|error| match error {
        WatchError::Filter(_) => failure(ProblemKind::BadRequest, error.to_string()),
        WatchError::TooMany => failure(ProblemKind::Busy, error.to_string()),
    })?;
    let lines = Lines(Source::Ready(Box::new(Feed::new(watcher, stop))));
    Ok(([(CONTENT_TYPE, "application/jsonl")], Body::new(lines)).into_response())
}

async fn message_history(
    State(shared): State<Shared>,
    Input(request): Input<HistoryRequest>,
) -> Answer<History> {
    let query = query(request);
    let queue = shared.queue()?;
    let found = blocking(move || queue.history(&query)).await?;
    answer(found.map_err(|error| match error {
        HistoryError::Key(_) => failure(ProblemKind::BadRequest, error.to_string()),
        HistoryError::Io(_) => failure(ProblemKind::Store, error.to_string()),
    })?)
}

/// Answers from the files of a journal, without a daemon. Blocking.
///
/// # Errors
/// [`HistoryError`].
pub fn offline(folder: &Path, request: HistoryRequest) -> Result<History, HistoryError> {
    history::offline(folder, &query(request))
}

fn query(request: HistoryRequest) -> Query {
    let HistoryRequest { key, since, until, limit } = request;
    Query { key, since, until, limit: limit.unwrap_or(DEFAULT_STORIES).min(MAX_STORIES) }
}

/// Where the lines come from.
struct Feed {
    watcher: Watcher,
    heartbeat: Interval,
    stop: CancellationToken,
}

impl Feed {
    fn new(watcher: Watcher, stop: CancellationToken) -> Self {
        // The first tick is at once.
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { watcher, heartbeat, stop }
    }

    /// The next line; `None` when the daemon stops.
    async fn next(&mut self) -> Option<Bytes> {
        let watched = tokio::select! {
            biased;
            () = self.stop.cancelled() => return None,
            _ = self.heartbeat.tick() => return Some(Bytes::from_static(b"\n")),
            watched = self.watcher.next() => watched?,
        };
        let line = match watched {
            Watched::Event(event) => serde_json::to_vec(&Versioned::new(&*event)),
            Watched::Missed(missed) => serde_json::to_vec(&Versioned::new(Missed { missed })),
        };
        let mut line = line.ok()?;
        line.push(b'\n');
        Some(line.into())
    }
}

type Reading = Pin<Box<dyn Future<Output = (Box<Feed>, Option<Bytes>)> + Send>>;

/// Lines on their way to an operator. While they are not taken, the watcher falls behind, and is told so.
struct Lines(Source);

enum Source {
    Ready(Box<Feed>),
    Reading(Reading),
    Ended,
}

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut reading: Reading = match std::mem::replace(&mut self.0, Source::Ended) {
            Source::Ended => return Poll::Ready(None),
            Source::Reading(reading) => reading,
            Source::Ready(mut feed) => Box::pin(async move {
                let line = feed.next().await;
                (feed, line)
            }),
        };
        let Poll::Ready((feed, line)) = reading.as_mut().poll(context) else {
            self.0 = Source::Reading(reading);
            return Poll::Pending;
        };
        let Some(line) = line else { return Poll::Ready(None) };
        self.0 = Source::Ready(feed);
        Poll::Ready(Some(Ok(Frame::data(line))))
    }
}
