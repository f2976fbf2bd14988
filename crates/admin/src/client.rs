//! How `posternctl` asks: HTTP over the control socket.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::api::{Problem, ProblemKind, VERSION, Versioned};

/// For the head of an answer, and for each piece of its body. Changing a full queue takes seconds, never so long.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Octets of one line of an answer that comes line by line: each is about one thing.
const MAX_LINE: usize = 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens at the socket.
    #[error("no daemon answers at {}: {source}", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The socket may not be used by this user.
    #[error("not allowed to use {}: {reason}", socket.display())]
    Denied {
        /// The socket.
        socket: PathBuf,
        /// Who may.
        reason: String,
    },
    /// The daemon said no.
    #[error("{}", .0.error)]
    Refused(Problem),
    /// What came back is no answer of a daemon that this client knows.
    #[error("unexpected answer from the daemon: {0}")]
    Protocol(String),
    /// What was received could not be passed on.
    #[error("cannot write: {0}")]
    Output(#[source] io::Error),
}

/// Speaks to one daemon. Every call makes a connection of its own: they are cheap, and nothing can be left over.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the daemon behind `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// GET with a JSON answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, ClientError> {
        let response = self.send(Method::GET, path, Bytes::new()).await?;
        parse(&self.collect(response).await?)
    }

    /// POST of a JSON request with a JSON answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn post<A: DeserializeOwned>(
        &self,
        path: &str,
        request: &impl Serialize,
    ) -> Result<A, ClientError> {
        let body = serde_json::to_vec(request).map_err(|e| ClientError::Protocol(e.to_string()))?;
        let response = self.send(Method::POST, path, body.into()).await?;
        parse(&self.collect(response).await?)
    }

    /// POST of what is long, with a JSON answer: `next` gives piece after piece, `None` at the end.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn upload<A: DeserializeOwned>(
        &self,
        path: &str,
        next: impl FnMut() -> io::Result<Option<Bytes>> + Send + Unpin + 'static,
    ) -> Result<A, ClientError> {
        let response = self.accepted(self.request(Method::POST, path, Pieces(next)).await?).await?;
        parse(&self.collect(response).await?)
    }

    /// POST of a JSON request whose answer comes line by line, over a long time: each is handed to `line`. Empty lines only
    /// say that the daemon is still at work.
    ///
    /// # Errors
    /// [`ClientError`], also that of `line`.
    pub async fn lines(
        &self,
        path: &str,
        request: &impl Serialize,
        mut line: impl FnMut(&[u8]) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let mut lines = self.follow(path, request).await?;
        while let Some(text) = lines.next().await? {
            if !text.is_empty() {
                line(text.as_bytes())?;
            }
        }
        Ok(())
    }

    /// GET of what is long: each piece is handed to `sink` as it comes.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Output`] holds the error of `sink`.
    pub async fn stream(
        &self,
        path: &str,
        mut sink: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ClientError> {
        let response = self.send(Method::GET, path, Bytes::new()).await?;
        let mut body = response.into_body();
        while let Some(frame) = timed(body.frame()).await? {
            let frame = frame.map_err(|e| ClientError::Protocol(format!("the content broke off: {e}")))?;
            if let Some(piece) = frame.data_ref() {
                sink(piece).map_err(ClientError::Output)?;
            }
        }
        Ok(())
    }

    /// POST of a JSON request that is answered line by line, for as long as both sides like.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn follow(&self, path: &str, request: &impl Serialize) -> Result<Lines, ClientError> {
        let body = serde_json::to_vec(request).map_err(|e| ClientError::Protocol(e.to_string()))?;
        let response = self.send(Method::POST, path, body.into()).await?;
        Ok(Lines { body: response.into_body(), unread: VecDeque::new() })
    }

    /// GET of a page as it is: status, content type and body.
    pub(crate) async fn page(&self, path: &str) -> Result<(StatusCode, HeaderValue, Bytes), ClientError> {
        let response = self.request(Method::GET, path, Full::<Bytes>::default()).await?;
        let status = response.status();
        let plain = HeaderValue::from_static("text/plain");
        let kind = response.headers().get(CONTENT_TYPE).cloned().unwrap_or(plain);
        Ok((status, kind, self.collect(response).await?))
    }

    /// Sends a request and turns answers other than 200 into errors.
    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, ClientError> {
        self.accepted(self.request(method, path, Full::new(body)).await?).await
    }

    async fn accepted(&self, response: Response<Incoming>) -> Result<Response<Incoming>, ClientError> {
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let status = response.status();
        let body = self.collect(response).await?;
        let Ok(Versioned { answer: problem, .. }) = serde_json::from_slice::<Versioned<Problem>>(&body)
        else {
            return Err(ClientError::Protocol(format!("{status}")));
        };
        Err(match problem.kind {
            ProblemKind::Denied => ClientError::Denied { socket: self.socket.clone(), reason: problem.error },
            _ => ClientError::Refused(problem),
        })
    }

    async fn request<B>(&self, method: Method, path: &str, body: B) -> Result<Response<Incoming>, ClientError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| self.not_connected(source))?;
        let broken = |error: hyper::Error| ClientError::Protocol(error.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // It ends with the answer: `sender` is dropped at the end of this function.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "postern")
            .header(CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|e| ClientError::Protocol(e.to_string()))?;
        timed(sender.send_request(request)).await?.map_err(broken)
    }

    fn not_connected(&self, source: io::Error) -> ClientError {
        let socket = self.socket.clone();
        match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Denied { socket, reason: source.to_string() },
            _ => ClientError::Unreachable { socket, source },
        }
    }

    async fn collect(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let body = timed(response.into_body().collect()).await?;
        Ok(body.map_err(|e| ClientError::Protocol(format!("the answer broke off: {e}")))?.to_bytes())
    }
}

/// The lines of an answer, as they come.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    unread: VecDeque<u8>,
}

impl Lines {
    /// The next line without its end; `None` when the daemon has ended the answer. May be dropped before it ends.
    ///
    /// # Errors
    /// [`ClientError::Protocol`] when the connection breaks, or is silent for longer than a daemon ever is.
    pub async fn next(&mut self) -> Result<Option<String>, ClientError> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).take(end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            if self.unread.len() > MAX_LINE {
                return Err(ClientError::Protocol("a line without an end".to_owned()));
            }
            let Some(frame) = timed(self.body.frame()).await? else {
                return Ok(None);
            };
            let frame = frame.map_err(|e| ClientError::Protocol(format!("the answer broke off: {e}")))?;
            self.unread.extend(frame.data_ref().into_iter().flatten());
        }
    }
}

/// A request body that is read while it is sent.
struct Pieces<N>(N);

impl<N: FnMut() -> io::Result<Option<Bytes>> + Unpin> Body for Pieces<N> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready((self.0)().transpose().map(|piece| piece.map(Frame::data)))
    }
}

async fn timed<T>(work: impl Future<Output = T>) -> Result<T, ClientError> {
    let late = |_| ClientError::Protocol(format!("no answer within {} s", TIMEOUT.as_secs()));
    timeout(TIMEOUT, work).await.map_err(late)
}

fn parse<A: DeserializeOwned>(body: &[u8]) -> Result<A, ClientError> {
    let unknown = |error: serde_json::Error| ClientError::Protocol(error.to_string());
    let answer: Versioned<serde_json::Value> = serde_json::from_slice(body).map_err(unknown)?;
    if answer.version != VERSION {
        let error = format!("it speaks version {} and this program version {VERSION}", answer.version);
        return Err(ClientError::Protocol(error));
    }
    serde_json::from_value(answer.answer).map_err(unknown)
}
