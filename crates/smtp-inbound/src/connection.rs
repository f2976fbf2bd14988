//! Bytes, timeouts, TLS: does what the actions of a [`Session`] say.
//!
//! Replies gather while whole commands wait in the input and go out in one write (RFC 2920 §3.2). A session that waits
//! holds a small buffer and no more; memory is bounded whatever the client sends.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use memchr::memchr;
use postern_config::protection::PregreetAction;
use postern_config::{ListenerKind, Smtp};
use postern_queue::{Door, Queue};
use postern_smtp::Reply;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use crate::clients::Limit;
use crate::listener::{House, Place};
use crate::login_check::Check;
use crate::pressure::{Held, Room};
use crate::receive::Receiver;
use crate::replies;
use crate::session::{Action, Ahead, Commit, Peer, Session};
use crate::stream::{self, Stream};
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
/// The same while nearly all places for sessions are taken.
const LINGER_UNDER_STRESS: Duration = Duration::from_millis(200);
/// What a session takes beside its buffers, and what TLS takes (records of 16 KiB in both directions, and its state).
const SESSION_OCTETS: usize = 4 * 1024;
const TLS_OCTETS: usize = 40 * 1024;
/// Under stress the wait before the greeting is divided by this: it holds a place.
const PREGREET_STRESS: u32 = 3;
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

/// What a conversation goes over: the stream itself, or TLS on it.
type Wire = Either<Stream, Box<TlsStream<Stream>>>;

/// How a conversation ended.
enum End {
    /// The last reply was given.
    Said,
    /// Goes on under TLS, on this stream.
    StartTls(Stream, Place),
}

/// Serves one client until it is gone.
pub(crate) async fn serve(
    stream: Stream,
    peer: Peer,
    place: Place,
    house: Arc<House>,
    stop: CancellationToken,
) {
    let (client, listener) = (peer, peer.listener.as_str());
    tracing::debug!(event = "connected", %client, listener);
    stream::send_at_once(&stream);
    let result = converse(stream, peer, place, house, stop).await;
    match result {
        Ok(()) => tracing::debug!(event = "disconnected", %client, listener),
        Err(error) => tracing::debug!(event = "disconnected", %client, listener, %error),
    }
}

async fn converse(
    stream: Stream,
    peer: Peer,
    place: Place,
    house: Arc<House>,
    stop: CancellationToken,
) -> Result<(), Broken> {
    if peer.listener == ListenerKind::Submissions {
        return Box::pin(under_tls(stream, peer, place, house, stop, Greeting::Send)).await;
    }
    let session = Session::new(Arc::clone(&house.shared), peer, None);
    let connection = Connection::new(Either::Left(stream), session, place, Arc::clone(&house), stop.clone());
    match connection.run(Greeting::Send).await? {
        End::Said => Ok(()),
        // After STARTTLS everything is new: nothing that was said or sent in clear survives (RFC 3207 §4.2).
        End::StartTls(stream, place) => {
            Box::pin(under_tls(stream, peer, place, house, stop, Greeting::Omit)).await
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Greeting {
    Send,
    Omit,
}

async fn under_tls(
    stream: Stream,
    peer: Peer,
    place: Place,
    house: Arc<House>,
    stop: CancellationToken,
    greeting: Greeting,
) -> Result<(), Broken> {
    let metrics = &house.shared.metrics;
    let Some(tls) = house.shared.tls.load_full() else {
        metrics.handshake("no-certificate");
        return Ok(());
    };
    let patience = handshake_patience(&house, peer);
    let handshake = tls.handshake(peer.listener);
    let accepting = timeout(patience, TlsAcceptor::from(handshake.config()).accept(stream));
    let accepted = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        accepted = accepting => accepted,
    };
    let stream = match accepted {
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
    let bindings = tls.channel_bindings(stream.get_ref().1, &handshake);
    let session = Session::new(Arc::clone(&house.shared), peer, Some(protection))
        .with_certificate(certificate)
        .with_channel_bindings(bindings);
    let connection = Connection::new(Either::Right(Box::new(stream)), session, place, house, stop);
    connection.run(greeting).await.map(|_| ())
}

/// How long a handshake may take: less while nearly all places are taken.
fn handshake_patience(house: &House, peer: Peer) -> Duration {
    let limits = &house.shared.config.load().smtp;
    match house.stress.is_on() && !house.is_exempt(peer.client) {
        true => limits.timeouts.handshake.min(limits.stress.command),
        false => limits.timeouts.handshake,
    }
}

/// One conversation: in clear, or under TLS.
struct Connection {
    wire: Wire,
    input: BytesMut,
    /// Octets of a line over the limit that were thrown away already.
    discarded: usize,
    output: Vec<u8>,
    session: Session,
    /// In the count of connections: of the host, or of the client that it speaks for.
    place: Place,
    house: Arc<House>,
    stop: CancellationToken,
    /// Since when the next line is waited for.
    waiting_since: Instant,
    /// Since when a part of it is there.
    line_since: Option<Instant>,
    /// Until when the message that is on its way must have come.
    message_end: Option<Instant>,
    /// Whether nearly all places for sessions are taken; never for clients that stress does not concern.
    stress: watch::Receiver<bool>,
    is_exempt: bool,
    /// What the buffers here take of the budget for all.
    held: Held,
}

/// Until when something must have come.
#[derive(Clone, Copy)]
struct Deadlines {
    calm: Instant,
    /// While nearly all places are taken.
    stressed: Instant,
}

impl Deadlines {
    /// None of them later than this.
    fn before(self, end: Instant) -> Self {
        Self { calm: self.calm.min(end), stressed: self.stressed.min(end) }
    }
}

/// What a wait for input brought.
enum Input {
    Arrived,
    Timeout {
        /// The time was shortened.
        stressed: bool,
    },
    Stopping,
}

impl Connection {
    fn new(wire: Wire, session: Session, place: Place, house: Arc<House>, stop: CancellationToken) -> Self {
        let mut connection = Self {
            wire,
            input: BytesMut::new(),
            discarded: 0,
            output: Vec::new(),
            waiting_since: Instant::now(),
            line_since: None,
            message_end: None,
            stress: house.stress.watch(),
            is_exempt: session.peer().is_local || house.is_exempt(session.peer().client),
            held: house.buffers.share(),
            session,
            place,
            house,
            stop,
        };
        connection.weigh(0);
        connection
    }

    async fn run(mut self, greeting: Greeting) -> Result<End, Broken> {
        if greeting == Greeting::Send {
            if let Some(farewell) = self.listen_before_greeting().await? {
                self.say(&farewell);
                self.close().await;
                return Ok(End::Said);
            }
            let reply = self.session.greeting();
            self.say(&reply);
        }
        loop {
            // Chunks and the commands between them are one message.
            self.message_end = self.message_end.filter(|_| self.session.is_receiving());
            self.waiting_since = Instant::now();
            let Some(action) = self.next_line().await? else {
                self.close().await;
                return Ok(End::Said);
            };
            let next = self.perform(action).await?;
            let limit = self.report();
            match next {
                Next::Line => {
                    let Some(limit) = limit else { continue };
                    self.say(&limit.reply());
                    self.close().await;
                    return Ok(End::Said);
                }
                Next::Close => {
                    self.close().await;
                    return Ok(End::Said);
                }
                Next::StartTls => return self.start_tls().await,
            }
        }
    }

    /// Holds the greeting back for a while where that is configured: whoever talks now does not listen. What is said instead of
    /// the greeting, if anything.
    async fn listen_before_greeting(&mut self) -> Result<Option<Reply>, Broken> {
        let config = self.house.shared.config.load_full();
        let pregreet = &config.smtp.pregreet;
        let is_concerned = pregreet.submission || !self.session.peer().listener.is_submission();
        if pregreet.action == PregreetAction::Off || pregreet.wait.is_zero() {
            return Ok(None);
        }
        if self.is_exempt || !is_concerned {
            return Ok(None);
        }
        let now = Instant::now();
        let times = Deadlines { calm: now + pregreet.wait, stressed: now + pregreet.wait / PREGREET_STRESS };
        match self.wait_for_input(times).await? {
            Input::Timeout { .. } => return Ok(None),
            Input::Stopping => return Ok(Some(replies::shutting_down())),
            Input::Arrived => {}
        }
        self.house.talked_early(self.session.peer(), pregreet.action);
        let refuses = pregreet.action == PregreetAction::Reject;
        Ok(refuses.then(replies::talked_before_greeting))
    }

    /// Has it remembered what the session did; the limit of this client that is reached now, if any.
    fn report(&mut self) -> Option<Limit> {
        let offences = self.session.take_offences();
        self.house.offended(self.session.peer(), offences)
    }

    /// What the session says to the next line. `None`: the last reply was given instead.
    async fn next_line(&mut self) -> Result<Option<Action>, Broken> {
        loop {
            self.look_behind_data().await;
            if let Some(action) = self.take_line() {
                return Ok(Some(action));
            }
            if self.discarded > ENDLESS_LINE {
                let limit = self.session.line_limit();
                self.say(&replies::line_too_long(limit));
                return Ok(None);
            }
            self.flush().await?;
            if !self.input.is_empty() || self.discarded > 0 {
                self.line_since.get_or_insert_with(Instant::now);
            }
            let farewell = match self.wait_for_input(self.line_deadlines()).await? {
                Input::Arrived => continue,
                Input::Timeout { stressed } => {
                    let what = if self.line_since.is_some() { "slow-line" } else { "silence" };
                    self.house.shared.metrics.timed_out(if stressed { "stress" } else { what });
                    replies::timed_out()
                }
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
        let limit = self.session.line_limit();
        let Some(at) = memchr(b'\n', &self.input) else {
            if self.input.len() > limit {
                self.discarded += self.input.len();
                self.input.clear();
            }
            return None;
        };
        let octets = at + 1;
        let ahead = if self.input.len() > octets { Ahead::Input } else { Ahead::Nothing };
        let is_short = self.house.buffers.room(self.session.config().smtp.max_buffers) >= Room::NoMail;
        self.session.note_memory(is_short);
        let too_long = std::mem::take(&mut self.discarded) + octets > limit;
        let action = match self.input[..octets].strip_suffix(b"\r\n") {
            _ if too_long => self.session.line_too_long(),
            Some(line) => self.session.line(line, ahead),
            None => self.session.bare_line_end(),
        };
        self.input.advance(octets);
        self.line_since = None;
        Some(action)
    }

    /// Until when the next line must have come. They hold for the whole line, however it drips in.
    fn line_deadlines(&self) -> Deadlines {
        let timeouts = &self.session.config().smtp.timeouts;
        let until = |patience: Duration| {
            let by_silence = self.waiting_since + patience;
            self.line_since.map_or(by_silence, |since| by_silence.min(since + timeouts.command_line))
        };
        let times = Deadlines {
            calm: until(self.session.patience()),
            stressed: until(self.session.patience_under_stress()),
        };
        self.message_end.map_or(times, |end| times.before(end))
    }

    /// Reads until something has come, or it is time to stop.
    async fn wait_for_input(&mut self, times: Deadlines) -> Result<Input, Broken> {
        if self.input.is_empty() && self.input.capacity() > 2 * COMMAND_READ {
            // A message came in with large buffers; a session that waits must not keep them.
            self.input = BytesMut::new();
        }
        make_room(&mut self.input, COMMAND_READ);
        self.weigh(self.session.in_memory());
        let stop = self.stop.clone();
        let is_receiving = self.session.is_receiving();
        // Also inside a transaction: only a message that is on its way is worth waiting for.
        tokio::select! {
            biased;
            () = stop.cancelled(), if !is_receiving => Ok(Input::Stopping),
            input = self.read(times) => input,
        }
    }

    /// Reads what comes, until the time is over; stress shortens it meanwhile.
    async fn read(&mut self, times: Deadlines) -> Result<Input, Broken> {
        loop {
            let stressed = *self.stress.borrow_and_update() && !self.is_exempt;
            let until = if stressed { times.stressed } else { times.calm };
            tokio::select! {
                biased;
                read = timeout_at(until, self.wire.read_buf(&mut self.input)) => {
                    return arrived(read, stressed);
                }
                // The sender lives in the house.
                _ = self.stress.changed() => {}
            }
        }
    }

    /// Counts what the buffers take, with those of a message that is received.
    fn weigh(&mut self, message: usize) {
        let wire = match self.wire {
            Either::Left(_) => 0,
            Either::Right(_) => TLS_OCTETS,
        };
        let buffers = self.input.capacity() + self.output.capacity();
        self.held.set(SESSION_OCTETS + wire + buffers + message);
    }

    /// Does what the session says, and what it says then, until the next line is wanted.
    async fn perform(&mut self, first: Action) -> Result<Next, Broken> {
        let mut action = first;
        loop {
            action = match action {
                Action::Reply(reply) => {
                    self.say_in_turn(&reply).await?;
                    return Ok(Next::Line);
                }
                Action::Repeat(reply, times, then) => {
                    for _ in 0..times {
                        self.say_in_turn(&reply).await?;
                    }
                    *then
                }
                Action::Delayed(reply, delay) => return self.say_after(delay, &reply).await,
                Action::Close(reply) => {
                    self.say(&reply);
                    return Ok(Next::Close);
                }
                Action::StartTls(reply) => {
                    self.say(&reply);
                    return Ok(Next::StartTls);
                }
                Action::HandOver(session, greeting) => return Ok(self.hand_over(*session, &greeting)),
                Action::RunQueue(run) => {
                    self.flush().await?;
                    let node = run.node().clone();
                    let outcome = Box::pin(self.house.run_queue(*run)).await;
                    self.session.ran(&node, outcome)
                }
                Action::CheckPassword(credentials) => {
                    self.flush().await?;
                    let check = Box::pin(self.login_check().password(credentials)).await;
                    let action = self.session.password_checked(check);
                    self.note_login();
                    action
                }
                Action::CheckToken(bearer) => {
                    self.flush().await?;
                    let check = Box::pin(self.login_check().token(bearer)).await;
                    let action = self.session.token_checked(check);
                    self.note_login();
                    action
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
                Action::ReceiveData(reply, mut receiver) => {
                    self.say(&reply);
                    self.flush().await?;
                    if !self.receive(&mut receiver).await? {
                        return Ok(Next::Close);
                    }
                    self.session.data_received(receiver.finish())
                }
                Action::ReceiveChunk(mut receiver) => {
                    if !self.receive(&mut receiver).await? {
                        return Ok(Next::Close);
                    }
                    self.session.chunk_received(receiver)
                }
                Action::SkipChunk(octets, then) => {
                    if !self.skip(octets).await? {
                        return Ok(Next::Close);
                    }
                    *then
                }
                Action::Commit(commit) => {
                    let Commit { incoming, envelope, header } = *commit;
                    let result = Box::pin(incoming.commit(envelope, header)).await;
                    self.session.committed(result)
                }
            };
        }
    }

    /// Adds a reply to those that wait, which go out when there are too many of them.
    async fn say_in_turn(&mut self, reply: &Reply) -> Result<(), Broken> {
        self.say(reply);
        if self.output.len() >= MAX_WAITING_REPLIES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Answers after a while, unless too many clients wait for such answers: then the session ends.
    async fn say_after(&mut self, delay: Duration, reply: &Reply) -> Result<Next, Broken> {
        let Some(_delay) = self.house.delays.begin(self.session.config().smtp.max_delayed) else {
            self.say(&replies::too_many_errors());
            return Ok(Next::Close);
        };
        self.flush().await?;
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = self.stop.cancelled() => {}
        }
        self.say(reply);
        Ok(Next::Line)
    }

    /// Goes on with another client, as far as its limits allow.
    fn hand_over(&mut self, session: Session, greeting: &Reply) -> Next {
        let client = session.peer();
        if let Err(reply) = self.place.hand_over(client) {
            self.say(&reply);
            return Next::Close;
        }
        self.is_exempt = self.house.is_exempt(client.client);
        self.session = session;
        self.say(greeting);
        Next::Line
    }

    /// Takes the message, or a chunk of it, in. `false`: the client was silent for too long, and was told.
    async fn receive(&mut self, receiver: &mut Receiver) -> Result<bool, Broken> {
        let max_buffers = self.session.config().smtp.max_buffers;
        // Its time runs also where all of a chunk is here already.
        self.message_end();
        let (began, before) = (Instant::now(), receiver.taken());
        while !receiver.take(&mut self.input).await {
            self.weigh(receiver.in_memory());
            if self.house.buffers.room(max_buffers) == Room::Spent {
                receiver.give_up();
            }
            let come = receiver.taken().saturating_sub(before);
            if !self.read_content(began, come, receiver.in_memory()).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Throws octets away that are a chunk; the result is that of [`Self::receive`].
    async fn skip(&mut self, octets: u64) -> Result<bool, Broken> {
        let began = Instant::now();
        let mut left = octets;
        loop {
            let here = usize::try_from(left).map_or(self.input.len(), |left| left.min(self.input.len()));
            self.input.advance(here);
            left -= here as u64;
            if left == 0 {
                return Ok(true);
            }
            if !self.read_content(began, octets - left, 0).await? {
                return Ok(false);
            }
        }
    }

    /// Reads more of a message, or of a chunk, that began to come at `began` and of which so many octets have come; of the message
    /// so many are in memory. `false`: not enough came in time, and the client was told.
    async fn read_content(&mut self, began: Instant, come: u64, in_memory: usize) -> Result<bool, Broken> {
        // Behind BDAT the client may wait for the replies to what it sent before.
        self.flush().await?;
        make_room(&mut self.input, DATA_READ);
        self.weigh(in_memory);
        let end = self.message_end();
        let times = data_deadlines(&self.session.config().smtp, began, Instant::now(), come).before(end);
        if let Input::Timeout { stressed } = self.read(times).await? {
            self.house.shared.metrics.timed_out(if stressed { "stress" } else { "slow-data" });
            self.say(&replies::timed_out());
            return Ok(false);
        }
        Ok(true)
    }

    /// Until when the message must have come; it begins now, if it has not begun.
    fn message_end(&mut self) -> Instant {
        let longest = self.session.config().smtp.timeouts.data_total;
        *self.message_end.get_or_insert_with(|| Instant::now() + longest)
    }

    fn note_login(&self) {
        if self.session.is_logged_in() {
            self.house.logged_in(self.session.peer());
        }
    }

    fn login_check(&self) -> Check<'_> {
        Check { house: &self.house, peer: self.session.peer(), stop: &self.stop }
    }

    async fn start_tls(mut self) -> Result<End, Broken> {
        self.flush().await?;
        match self.wire {
            Either::Left(stream) => Ok(End::StartTls(stream, self.place)),
            // The session offers STARTTLS in clear only.
            Either::Right(_) => Ok(End::Said),
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
        let linger = if self.house.stress.is_on() { LINGER_UNDER_STRESS } else { LINGER };
        let end = Instant::now() + linger;
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

/// Until when the next piece of a message must have come, of which so many octets came since it began: there is a limit for
/// each pause, for the mean rate, and for the whole.
fn data_deadlines(limits: &Smtp, began: Instant, now: Instant, octets: u64) -> Deadlines {
    let until = |block: Duration, rate: u64| {
        let timeouts = &limits.timeouts;
        let whole = began + timeouts.data_total;
        let paced = octets.checked_div(rate).map_or(whole, |seconds| {
            began + timeouts.data_grace + Duration::from_secs(seconds).min(timeouts.data_total)
        });
        whole.min(paced).min(now + block)
    };
    let stress = &limits.stress;
    let block = limits.timeouts.data_block;
    Deadlines {
        calm: until(block, limits.min_data_rate),
        stressed: until(block.min(stress.data_block), stress.min_data_rate.max(limits.min_data_rate)),
    }
}

fn arrived(
    read: Result<io::Result<usize>, tokio::time::error::Elapsed>,
    stressed: bool,
) -> Result<Input, Broken> {
    match read {
        Ok(Ok(0)) => Err(Broken::Closed),
        Ok(Ok(_)) => Ok(Input::Arrived),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Ok(Input::Timeout { stressed }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_must_keep_its_rate_after_the_grace_and_more_of_it_under_stress() {
        let limits = Smtp::default();
        let began = Instant::now();
        let after = |seconds: u64| began + Duration::from_secs(seconds);
        // 100 octets a second after 60 seconds, 1000 under stress, where pauses are shorter too.
        for (now, octets, calm, stressed) in [
            (0, 0, 60, 20),
            (50, 0, 60, 60),
            (50, 1000, 70, 61),
            (60, 10_000, 160, 70),
            (60, 100_000, 240, 80),
            (3500, 1_000_000, 3600, 1060),
            (3590, u64::MAX, 3600, 3600),
        ] {
            let times = data_deadlines(&limits, began, after(now), octets);
            assert_eq!(times.calm, after(calm), "{octets} after {now} s");
            assert_eq!(times.stressed, after(stressed), "{octets} after {now} s under stress");
        }
        let stress = postern_config::protection::Stress { min_data_rate: 0, ..Default::default() };
        let free = Smtp { min_data_rate: 0, stress, ..Smtp::default() };
        let times = data_deadlines(&free, began, after(3500), 1);
        assert_eq!((times.calm, times.stressed), (after(3600), after(3520)));
    }

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
