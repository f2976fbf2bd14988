//! Bytes, timeouts, TLS: does what the actions of a [`Session`] say.
//!
//! Replies gather while whole commands wait in the input and go out in one write (RFC 2920 §3.2). A session that waits
//! holds a small buffer and no more; memory is bounded whatever the client sends.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use memchr::memchr;
use postern_config::ListenerKind;
use postern_queue::{Door, Queue};
use postern_smtp::Reply;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::listener::House;
use crate::receive::Receiver;
use crate::replies;
use crate::session::{Action, Ahead, Commit, Credentials, PasswordCheck, Peer, Session};
use crate::tls::Protection;

/// Read at once while commands are expected: most commands are far shorter.
const COMMAND_READ: usize = 2 * 1024;
/// Read at once inside a message.
const DATA_READ: usize = 64 * 1024;
/// With less room than this a new buffer is taken.
const MIN_READ: usize = 1024;
/// Replies that wait for the end of a batch.
const MAX_WAITING_REPLIES: usize = 16 * 1024;
/// A line that is longer has no end: the session has.
const ENDLESS_LINE: usize = 64 * 1024;
/// After the last reply: how long, and how much, is read and thrown away so that the client can read the reply. Closing
/// a socket with unread input would reset the connection, and the reply with it.
const LINGER: Duration = Duration::from_secs(2);
const MAX_LINGER_OCTETS: usize = 1024 * 1024;
/// How long MAIL waits for a queue that is being loaded. Servers wait five minutes for the reply (RFC 5321 §4.5.3.2.2), but
/// mail programs and scripts often not much longer than this; a queue of millions of messages is loaded by then.
const QUEUE_PATIENCE: Duration = Duration::from_secs(60);

/// Why a connection ended, where nothing more can be said.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("closed by the client")]
    Closed,
    #[error("the client does not take our replies")]
    WriteTimeout,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// How a conversation ended.
enum End {
    /// The last reply was given.
    Said,
    /// Goes on under TLS, on this stream.
    StartTls(TcpStream),
}

/// Serves one client until it is gone.
pub(crate) async fn serve(stream: TcpStream, peer: Peer, house: Arc<House>, stop: CancellationToken) {
    let (client, listener) = (peer.client, peer.listener.as_str());
    tracing::debug!(event = "connected", %client, listener);
    // Replies are small and awaited: Nagle's algorithm would hold them back.
    let _ = stream.set_nodelay(true);
    let result = converse(stream, peer, house, stop).await;
    match result {
        Ok(()) => tracing::debug!(event = "disconnected", %client, listener),
        Err(error) => tracing::debug!(event = "disconnected", %client, listener, %error),
    }
}

async fn converse(
    stream: TcpStream,
    peer: Peer,
    house: Arc<House>,
    stop: CancellationToken,
) -> Result<(), Broken> {
    if peer.listener == ListenerKind::Submissions {
        return Box::pin(under_tls(stream, peer, house, stop, Greeting::Send)).await;
    }
    let session = Session::new(Arc::clone(&house.shared), peer, None);
    let connection = Connection::new(Wire::Plain(stream), session, Arc::clone(&house), stop.clone());
    match connection.run(Greeting::Send).await? {
        End::Said => Ok(()),
        // After STARTTLS everything is new: nothing that was said or sent in clear survives (RFC 3207 §4.2).
        End::StartTls(stream) => Box::pin(under_tls(stream, peer, house, stop, Greeting::Omit)).await,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Greeting {
    Send,
    Omit,
}

async fn under_tls(
    stream: TcpStream,
    peer: Peer,
    house: Arc<House>,
    stop: CancellationToken,
    greeting: Greeting,
) -> Result<(), Broken> {
    let metrics = &house.shared.metrics;
    let Some(tls) = house.shared.tls.load_full() else {
        metrics.handshake("no-certificate");
        return Ok(());
    };
    let patience = house.shared.config.load().smtp.timeouts.handshake;
    let handshake = timeout(patience, TlsAcceptor::from(tls.config()).accept(stream));
    let handshake = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        handshake = handshake => handshake,
    };
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            metrics.handshake("failed");
            tracing::info!(event = "tls-failed", client = %peer.client, listener = peer.listener.as_str(), %error);
            return Ok(());
        }
        Err(_) => {
            metrics.handshake("timeout");
            return Ok(());
        }
    };
    metrics.handshake("ok");
    let protection = Protection::of(stream.get_ref().1);
    let certificate = tls.client_certificate(stream.get_ref().1, house.shared.clock.now());
    let bindings = tls.channel_bindings(stream.get_ref().1);
    let session = Session::new(Arc::clone(&house.shared), peer, Some(protection))
        .with_certificate(certificate)
        .with_channel_bindings(bindings);
    let connection = Connection::new(Wire::Tls(Box::new(stream)), session, house, stop);
    connection.run(greeting).await.map(|_| ())
}

/// One conversation: in clear, or under TLS.
struct Connection {
    wire: Wire,
    input: BytesMut,
    /// Octets of a line over the limit that were thrown away already.
    discarded: usize,
    output: Vec<u8>,
    session: Session,
    house: Arc<House>,
    stop: CancellationToken,
    /// Until when the next line must have come.
    deadline: Instant,
}

/// What a wait for input brought.
enum Input {
    Arrived,
    Timeout,
    Stopping,
}

impl Connection {
    fn new(wire: Wire, session: Session, house: Arc<House>, stop: CancellationToken) -> Self {
        Self {
            wire,
            input: BytesMut::new(),
            discarded: 0,
            output: Vec::new(),
            session,
            house,
            stop,
            deadline: Instant::now(),
        }
    }

    async fn run(mut self, greeting: Greeting) -> Result<End, Broken> {
        if greeting == Greeting::Send {
            let reply = self.session.greeting();
            self.say(&reply);
        }
        loop {
            self.deadline = Instant::now() + self.session.patience();
            let Some(action) = self.next_line().await? else {
                self.close().await;
                return Ok(End::Said);
            };
            match self.perform(action).await? {
                Next::Line => {}
                Next::Close => {
                    self.close().await;
                    return Ok(End::Said);
                }
                Next::StartTls => return self.start_tls().await,
            }
        }
    }

    /// What the session says to the next line. `None`: the last reply was given instead.
    async fn next_line(&mut self) -> Result<Option<Action>, Broken> {
        loop {
            self.look_behind_data().await;
            if let Some(action) = self.take_line() {
                return Ok(Some(action));
            }
            if self.discarded > ENDLESS_LINE {
                let limit = self.session.config().smtp.max_command_line;
                self.say(&replies::line_too_long(limit));
                return Ok(None);
            }
            self.flush().await?;
            let farewell = match self.wait_for_input().await? {
                Input::Arrived => continue,
                Input::Timeout => replies::timed_out(),
                Input::Stopping => replies::shutting_down(),
            };
            self.say(&farewell);
            return Ok(None);
        }
    }

    /// Where DATA is all that was read, more may have come already; what was sent too early must not become commands.
    async fn look_behind_data(&mut self) {
        let is_all = memchr(b'\n', &self.input).is_some_and(|at| at + 1 == self.input.len());
        if !is_all || !self.input.get(..4).is_some_and(|verb| verb.eq_ignore_ascii_case(b"DATA")) {
            return;
        }
        make_room(&mut self.input, COMMAND_READ);
        tokio::select! {
            biased;
            // An end or an error will show again.
            _ = self.wire.read_buf(&mut self.input) => {}
            () = std::future::ready(()) => {}
        }
    }

    /// Gives one whole line of the input to the session, if there is one.
    fn take_line(&mut self) -> Option<Action> {
        let limit = self.session.config().smtp.max_command_line;
        let Some(at) = memchr(b'\n', &self.input) else {
            if self.input.len() > limit {
                self.discarded += self.input.len();
                self.input.clear();
            }
            return None;
        };
        let octets = at + 1;
        let ahead = if self.input.len() > octets { Ahead::Input } else { Ahead::Nothing };
        let too_long = std::mem::take(&mut self.discarded) + octets > limit;
        let action = match self.input[..octets].strip_suffix(b"\r\n") {
            _ if too_long => self.session.line_too_long(),
            Some(line) => self.session.line(line, ahead),
            None => self.session.bare_line_end(),
        };
        self.input.advance(octets);
        Some(action)
    }

    /// Reads until something has come. A deadline holds for the whole line, however it drips in.
    async fn wait_for_input(&mut self) -> Result<Input, Broken> {
        if self.input.is_empty() && self.input.capacity() > 2 * COMMAND_READ {
            // A message came in with large buffers; a session that waits must not keep them.
            self.input = BytesMut::new();
        }
        make_room(&mut self.input, COMMAND_READ);
        let read = timeout_at(self.deadline, self.wire.read_buf(&mut self.input));
        // Also inside a transaction: only a message that is on its way is worth waiting for.
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Ok(Input::Stopping),
            result = read => arrived(result),
        }
    }

    /// Does what the session says, and what it says then, until the next line is wanted.
    async fn perform(&mut self, first: Action) -> Result<Next, Broken> {
        let mut action = first;
        loop {
            action = match action {
                Action::Reply(reply) => {
                    self.say(&reply);
                    if self.output.len() >= MAX_WAITING_REPLIES {
                        self.flush().await?;
                    }
                    return Ok(Next::Line);
                }
                Action::Delayed(reply, delay) => {
                    self.flush().await?;
                    tokio::select! {
                        () = tokio::time::sleep(delay) => {}
                        () = self.stop.cancelled() => {}
                    }
                    self.say(&reply);
                    return Ok(Next::Line);
                }
                Action::Close(reply) => {
                    self.say(&reply);
                    return Ok(Next::Close);
                }
                Action::StartTls(reply) => {
                    self.say(&reply);
                    return Ok(Next::StartTls);
                }
                Action::CheckPassword(credentials) => {
                    self.flush().await?;
                    let check = Box::pin(self.check_password(credentials)).await;
                    self.session.password_checked(check)
                }
                Action::Find(wanted, postponed) => {
                    self.flush().await?;
                    self.session.find(wanted).await;
                    self.session.informed(postponed)
                }
                Action::AwaitQueue => {
                    self.flush().await?;
                    let queue = Box::pin(queue_in_time(&self.house.shared.door, &self.stop)).await;
                    self.session.queue_opened(queue)
                }
                Action::ReceiveData(reply, receiver) => {
                    self.say(&reply);
                    self.flush().await?;
                    match self.receive(receiver).await? {
                        Some(action) => action,
                        None => return Ok(Next::Close),
                    }
                }
                Action::Commit(commit) => {
                    let Commit { incoming, envelope, header } = *commit;
                    let result = Box::pin(incoming.commit(envelope, header)).await;
                    self.session.committed(result)
                }
            };
        }
    }

    /// Takes the message in. `None`: the client was silent for too long, and was told.
    async fn receive(&mut self, mut receiver: Box<Receiver>) -> Result<Option<Action>, Broken> {
        let timeouts = self.session.config().smtp.timeouts.clone();
        let end = Instant::now() + timeouts.data_total;
        while !receiver.take(&mut self.input).await {
            make_room(&mut self.input, DATA_READ);
            let deadline = end.min(Instant::now() + timeouts.data_block);
            let read = timeout_at(deadline, self.wire.read_buf(&mut self.input)).await;
            if let Input::Timeout = arrived(read)? {
                self.say(&replies::timed_out());
                return Ok(None);
            }
        }
        Ok(Some(self.session.data_received(receiver.finish())))
    }

    async fn check_password(&self, credentials: Credentials) -> PasswordCheck {
        let policy = self.house.shared.policy.load_full();
        let Peer { client, local, .. } = self.session.peer();
        let is_crowd = policy.is_spared(client, Some(local));
        let Some(_turn) = self.house.password_checks.turn(client, is_crowd).await else {
            return PasswordCheck::Unavailable;
        };
        let now = self.house.shared.clock.now();
        let Credentials { name, password } = credentials;
        let check =
            tokio::task::spawn_blocking(move || policy.accounts.verify(&name, &password, client, now));
        check.await.map_or(PasswordCheck::Unavailable, PasswordCheck::Done)
    }

    async fn start_tls(mut self) -> Result<End, Broken> {
        self.flush().await?;
        match self.wire {
            Wire::Plain(stream) => Ok(End::StartTls(stream)),
            // The session offers STARTTLS in clear only.
            Wire::Tls(_) => Ok(End::Said),
        }
    }

    fn say(&mut self, reply: &Reply) {
        self.house.shared.metrics.replied(reply);
        self.session.told(reply);
        reply.write_to(&mut self.output);
    }

    async fn flush(&mut self) -> Result<(), Broken> {
        if self.output.is_empty() {
            return Ok(());
        }
        let patience = self.session.config().smtp.timeouts.write;
        let written = timeout(patience, async {
            self.wire.write_all(&self.output).await?;
            self.wire.flush().await
        });
        written.await.map_err(|_| Broken::WriteTimeout)??;
        self.output.clear();
        self.output.shrink_to(COMMAND_READ);
        Ok(())
    }

    /// Sends the last reply and waits a little for the client to have read it.
    async fn close(mut self) {
        if self.flush().await.is_err() {
            return;
        }
        let end = Instant::now() + LINGER;
        if !matches!(timeout_at(end, self.wire.shutdown()).await, Ok(Ok(()))) {
            return;
        }
        let mut thrown_away = 0;
        while thrown_away < MAX_LINGER_OCTETS {
            self.input.clear();
            make_room(&mut self.input, COMMAND_READ);
            match timeout_at(end, self.wire.read_buf(&mut self.input)).await {
                Ok(Ok(octets)) if octets > 0 => thrown_away += octets,
                _ => return,
            }
        }
    }
}

/// The queue, when it is loaded; `None` when that takes too long, or the server stops.
async fn queue_in_time(door: &Door, stop: &CancellationToken) -> Option<Queue> {
    stop.run_until_cancelled(timeout(QUEUE_PATIENCE, door.queue())).await?.ok()
}

/// What comes after an action.
enum Next {
    Line,
    Close,
    StartTls,
}

/// Room to read into. Asked for only when little is left: what was handed on keeps its buffer alive.
fn make_room(input: &mut BytesMut, octets: usize) {
    if input.capacity() - input.len() < MIN_READ {
        input.reserve(octets);
    }
}

fn arrived(read: Result<io::Result<usize>, tokio::time::error::Elapsed>) -> Result<Input, Broken> {
    match read {
        Ok(Ok(0)) => Err(Broken::Closed),
        Ok(Ok(_)) => Ok(Input::Arrived),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Ok(Input::Timeout),
    }
}

/// The stream of a client.
enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_waits_a_minute_for_the_queue_and_no_longer_than_the_server_runs() {
        let (door, _opener) = Door::closed();
        let (began, stop) = (Instant::now(), CancellationToken::new());
        assert!(queue_in_time(&door, &stop).await.is_none());
        assert_eq!(began.elapsed(), QUEUE_PATIENCE);
        let stopped = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            stop.cancel();
        };
        let (queue, ()) = tokio::join!(queue_in_time(&door, &stop), stopped);
        assert!(queue.is_none());
        assert_eq!(began.elapsed(), QUEUE_PATIENCE + Duration::from_secs(1));
    }
}
