//! The order of commands: lines in, [`Action`]s out, no I/O.
//!
//! A session is in one state; [`Session::handle`] has one `match` over state and command that is both the rule of
//! sequence (RFC 5321 §4.1.4) and the table of contents. The connection does what the actions say.
//!
//! | what comes of a command | module |
//! |---|---|
//! | what every command looks at, and the policy that it asks | `context` |
//! | a login | `logins` |
//! | a message, from DATA to its reply | `message` |
//! | a message in chunks | `chunks` |
//! | clients that others speak for, and who asks for mail | `peers` |

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use postern_config::{Config, ListenerKind};
use postern_policy::facts::{Wanted, wanted};
use postern_policy::record::Transcript;
use postern_policy::relay::{Certificate, Decision, Reason, Stage};
use postern_policy::scram::ChannelBindings;
use postern_policy::standing::rates::Use;
use postern_policy::standing::usage::FirstMet;
use postern_queue::{Envelope, Incoming, Queue, Recipient, Terms};
use postern_smtp::attributes::XForward;
use postern_smtp::command::{Command, CommandError, Mail, Rcpt};
use postern_smtp::{Address, Body, EnvelopeId, ForwardPath, Reply, Ret, ReversePath};

use crate::clients::Offences;
use crate::commands::auth::{self, Exchange, Mechanism};
pub use crate::commands::etrn::{Outcome, Run};
use crate::commands::{data, ehlo, mail, parameters, rcpt};
use crate::receive::{By, Received, Receiver};
use crate::tls::Protection;
use crate::tokens::Bearer;
use crate::{Shared, replies};

mod chunks;
mod context;
mod logins;
mod message;
mod peers;

pub(crate) use context::{Context, Matter, Refusal};
pub use logins::{Credentials, PasswordCheck};

/// The one code that says that the connection ends (RFC 5321 §3.8).
const CLOSING: u16 = 421;

/// Who is at the other end, and where they came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The kind of the listener.
    pub listener: ListenerKind,
    /// The client's address; never IPv4 mapped into IPv6.
    pub client: IpAddr,
    /// Our address that it connected to, likewise.
    pub local: IpAddr,
    /// It came over a UNIX socket: there is no address, and for the rules it is a client at the loopback address.
    pub is_local: bool,
}

impl Peer {
    /// The client's address, if it has one.
    pub fn address(&self) -> Option<IpAddr> {
        (!self.is_local).then_some(self.client)
    }
}

/// As the log names the client.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address() {
            Some(client) => write!(f, "{client}"),
            None => f.write_str("local"),
        }
    }
}

/// What the connection is to do.
#[derive(Debug)]
pub enum Action {
    /// Answer, and go on with the next command.
    Reply(Reply),
    /// Say this reply so many times, then do that: in LMTP each recipient has its reply to the message (RFC 2033 §4.2).
    Repeat(Reply, usize, Box<Action>),
    /// Answer after a while: the client makes too many errors.
    Delayed(Reply, Duration),
    /// Answer and close.
    Close(Reply),
    /// Answer, shake hands, and go on with a new [`Session`]. What the client sent ahead is thrown away (RFC 3207 §4).
    StartTls(Reply),
    /// Go on with this session, which is that of another client, and answer; unless the limits of that client are reached.
    HandOver(Box<Session>, Reply),
    /// Run the queue for a client, then call [`Session::ran`].
    RunQueue(Box<Run>),
    /// Check a password, then call [`Session::password_checked`].
    CheckPassword(Credentials),
    /// Check a token, then call [`Session::token_checked`].
    CheckToken(Bearer),
    /// Find these facts, then call [`Session::informed`] with the rest.
    Find(Vec<Wanted>, Postponed),
    /// Wait for the queue, which is being loaded, then call [`Session::queue_opened`].
    AwaitQueue,
    /// Answer, give the message to the receiver, then call [`Session::data_received`].
    ReceiveData(Reply, Box<Receiver>),
    /// Give a chunk of a message to the receiver, then call [`Session::chunk_received`].
    ReceiveChunk(Box<Receiver>),
    /// Throw so many octets away, which are a chunk that is refused, then do this.
    SkipChunk(u64, Box<Action>),
    /// Make the message durable, then call [`Session::committed`].
    Commit(Box<Commit>),
}

/// What goes on when some facts are known.
#[derive(Debug)]
pub enum Postponed {
    /// A command, and whether more input waits behind it.
    Command(Box<Command>, Ahead),
    /// A message that came in.
    Message(Box<Received>),
}

/// A message that may be accepted.
#[derive(Debug)]
pub struct Commit {
    /// Its content.
    pub incoming: Incoming,
    /// Its envelope.
    pub envelope: Envelope,
    /// The fields that go in front of it.
    pub header: Vec<u8>,
}

/// Whether more input waits behind a command. Behind some it must not (RFC 2920 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ahead {
    /// The client waits for the reply.
    Nothing,
    /// The client sent more.
    Input,
}

/// One SMTP session.
#[derive(Debug)]
pub struct Session {
    context: Context,
    state: State,
    /// Since the session began or the last message was accepted.
    errors: u32,
    messages: u32,
    /// Those that led nowhere, since the session began or the last message was accepted.
    commands: u32,
    /// The last command was DATA and was refused.
    data_refused: bool,
    /// The client reads UTF-8: it has used SMTPUTF8.
    utf8: bool,
    /// What counts against the client, and was not told yet.
    offences: Offences,
    /// There is no memory for new mail.
    is_short_of_memory: bool,
    /// Where the next message came from before, as XFORWARD says.
    forwarded: Option<Box<XForward>>,
}

#[derive(Debug)]
enum State {
    /// Nothing said yet.
    Connected,
    /// EHLO or HELO was taken.
    Greeted(Arc<Hello>),
    /// In the middle of AUTH: the next line is no command.
    Authenticating(Arc<Hello>, Exchange),
    /// The password of this name is being checked.
    CheckingPassword(Arc<Hello>, String, Mechanism),
    /// MAIL waits for the queue.
    AwaitingQueue(Arc<Hello>, Box<Mail>),
    /// MAIL was taken.
    Transaction(Box<Transaction>),
    /// The message, or a chunk of it, is on its way.
    Receiving(Box<Transaction>),
    /// Some chunks of the message came, and more are to come.
    Chunks(Box<Transaction>, Box<Receiver>),
    /// A chunk was refused with this reply: the transaction has failed, and is not over yet. So many replies its end will get.
    ChunkRefused(Arc<Hello>, Reply, usize),
}

/// What the client calls itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    pub name: String,
    /// EHLO, not HELO.
    pub extended: bool,
}

/// From MAIL to the end of the message.
#[derive(Debug)]
pub(crate) struct Transaction {
    /// Where the message will go.
    pub queue: Queue,
    pub hello: Arc<Hello>,
    pub reverse_path: ReversePath,
    pub body: Body,
    pub smtputf8: bool,
    pub ret: Option<Ret>,
    pub envelope_id: Option<EnvelopeId>,
    pub terms: Terms,
    /// Final recipients, aliases expanded, without duplicates.
    pub recipients: Vec<Recipient>,
    /// Whether somebody was logged in at MAIL: a login that is taken back ends the transaction.
    pub of_login: bool,
    /// Whom the login writes to for the first time.
    pub met: Option<FirstMet>,
    /// What it uses of the rates of grants.
    pub used: Use,
    /// Their addresses, to find duplicates.
    pub distinct: HashSet<Address>,
    /// RCPT commands that were accepted; their limit counts also duplicates.
    pub accepted: usize,
    /// What the first recipient beyond the limit was told.
    pub too_many: Option<Refusal>,
    /// That a standing rule holds the message.
    pub held: Option<Decision>,
    /// The only accepted RCPT as it was written, for the Received field.
    pub only: Option<String>,
    /// Whether a RCPT was tried at all.
    pub tried: bool,
    /// Whether one was refused that may be accepted later.
    pub deferred: bool,
    pub began: SystemTime,
    /// Where the message came from before, as XFORWARD says.
    pub forwarded: Option<Box<XForward>>,
    /// Octets of the message, once they are known.
    pub size: u64,
}

impl Transaction {
    /// As the policy is asked about it.
    pub fn matter(&self) -> Matter<'_> {
        Matter { hello: &self.hello, reverse_path: &self.reverse_path, recipients: self.distinct.len() }
    }
}

impl Session {
    /// A session at its beginning: of a new connection, or after STARTTLS (then nothing said in clear is known to it).
    pub fn new(shared: Arc<Shared>, peer: Peer, tls: Option<Protection>) -> Self {
        let (config, policy) = (shared.config.load_full(), shared.policy.load_full());
        let transcript = Transcript::default();
        let context = Context {
            shared,
            config,
            policy,
            host: peer.client,
            peer,
            tls,
            certificate: None,
            bindings: ChannelBindings::default(),
            login: None,
            transcript,
        };
        Self {
            context,
            state: State::Connected,
            errors: 0,
            messages: 0,
            commands: 0,
            data_refused: false,
            utf8: false,
            offences: Offences::default(),
            is_short_of_memory: false,
            forwarded: None,
        }
    }

    /// The same with what the client has shown in the handshake.
    #[must_use]
    pub fn with_certificate(mut self, certificate: Option<Certificate>) -> Self {
        self.context.certificate = certificate;
        self
    }

    /// The same with what a login can be bound to of the TLS session.
    #[must_use]
    pub fn with_channel_bindings(mut self, bindings: ChannelBindings) -> Self {
        self.context.bindings = bindings;
        self
    }

    /// The first words, before the client says anything. Not sent again after STARTTLS.
    pub fn greeting(&self) -> Reply {
        replies::greeting(&self.context.config.hostname, self.context.speaks_lmtp())
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        self.context.peer
    }

    /// The configuration that this session goes by now.
    pub fn config(&self) -> &Config {
        &self.context.config
    }

    /// How long to wait for the next line.
    pub fn patience(&self) -> Duration {
        let timeouts = &self.context.config.smtp.timeouts;
        match self.state {
            State::Connected => timeouts.greeting,
            _ => timeouts.command,
        }
    }

    /// The same while nearly all places are taken.
    pub fn patience_under_stress(&self) -> Duration {
        let stress = &self.context.config.smtp.stress;
        let patience = self.patience();
        match self.state {
            _ if self.context.login.is_some() => patience,
            State::Connected | State::Greeted(_) if self.messages == 0 => patience.min(stress.idle),
            _ => patience.min(stress.command),
        }
    }

    /// Whether the client has logged in.
    pub fn is_logged_in(&self) -> bool {
        self.context.login.is_some()
    }

    /// Notes whether there is memory for new mail.
    pub(crate) fn note_memory(&mut self, is_short: bool) {
        self.is_short_of_memory = is_short;
    }

    /// What counts against the client since this was last asked.
    pub(crate) fn take_offences(&mut self) -> Offences {
        std::mem::take(&mut self.offences)
    }

    /// Takes one line without its CRLF.
    pub fn line(&mut self, line: &[u8], ahead: Ahead) -> Action {
        if let State::Authenticating(hello, exchange) = &mut self.state {
            self.context.transcript.auth_response();
            let (hello, exchange) = (Arc::clone(hello), std::mem::take(exchange));
            let step = auth::answer(&self.context, exchange, line);
            return self.auth_step(hello, step);
        }
        self.context.transcript.command(line);
        match Command::parse(line) {
            Ok(command) => {
                let is_data = command == Command::Data;
                let action = self.handle(command, ahead);
                self.data_refused = is_data && !matches!(action, Action::ReceiveData(..));
                action
            }
            // Nobody knows how many octets follow, and they must not be read as commands.
            Err(error @ CommandError::BadChunk) => Action::Close(replies::bad_command(&error)),
            Err(_) if is_http(line) => Action::Close(replies::not_http()),
            Err(error) if self.context.is_unknown(error.listed_verb()) => {
                self.unknown_command(error.listed_verb())
            }
            Err(error) => {
                let not_offered =
                    error.parameter().filter(|keyword| !parameters::is_offered(&self.context, keyword));
                self.no_command(match not_offered {
                    Some(keyword) => replies::unsupported_parameter(keyword),
                    None => replies::bad_command(&error),
                })
            }
        }
    }

    /// Notes what the client was told.
    pub fn told(&mut self, reply: &Reply) {
        self.context.transcript.reply(reply);
    }

    /// Takes one command.
    pub fn handle(&mut self, command: Command, ahead: Ahead) -> Action {
        if self.context.is_unknown(command.listed_verb()) {
            return self.unknown_command(command.listed_verb());
        }
        // Before anything is found for it: what is found and what is decided must go by the same rules.
        match (&self.state, &command) {
            (State::Greeted(_), Command::Mail(_)) => self.context.refresh(),
            (State::Transaction(_), Command::Rcpt(_)) => self.context.refresh_login(),
            _ => {}
        }
        let wanted = self.wanted(&command);
        match wanted.is_empty() {
            true => self.obey(command, ahead),
            false => Action::Find(wanted, Postponed::Command(Box::new(command), ahead)),
        }
    }

    /// Has facts found, wherever they are.
    pub fn find(&self, wanted: Vec<Wanted>) -> impl Future<Output = ()> + Send + use<> {
        let facts = Arc::clone(&self.context.shared.facts);
        async move { facts.find(wanted).await }
    }

    /// Goes on with what had to wait for facts.
    pub fn informed(&mut self, postponed: Postponed) -> Action {
        match postponed {
            Postponed::Command(command, ahead) => self.obey(*command, ahead),
            Postponed::Message(received) => self.finish_message(*received),
        }
    }

    /// What must be known before a command can be decided about.
    fn wanted(&self, command: &Command) -> Vec<Wanted> {
        let question = match (&self.state, command) {
            (State::Greeted(hello), Command::Mail(Mail { path, .. })) => {
                let matter = Matter { hello, reverse_path: path, recipients: 0 };
                self.context.question(matter, Stage::Mail)
            }
            (State::Transaction(transaction), Command::Rcpt(Rcpt { path, .. })) => {
                self.context.question(transaction.matter(), Stage::Rcpt(path))
            }
            _ => return Vec::new(),
        };
        wanted(&question, &self.context.policy)
    }

    /// Does what a command says, everything that it needs being known.
    fn obey(&mut self, command: Command, ahead: Ahead) -> Action {
        self.commands += 1;
        if self.commands > self.context.config.smtp.max_commands {
            return Action::Close(replies::too_many_commands());
        }
        match (&mut self.state, command) {
            (_, Command::Quit) => Action::Close(replies::bye()),
            (_, Command::Noop) => Action::Reply(replies::ok()),
            (_, Command::Help) => Action::Reply(self.help()),
            (_, Command::Vrfy) => Action::Reply(replies::cannot_verify()),
            (_, Command::Expn) => self.error(replies::not_implemented()),
            (_, Command::Rset) => self.rset(),
            (_, Command::Ehlo(_) | Command::Helo(_)) if self.context.speaks_lmtp() => {
                self.error(replies::lmtp_is_spoken())
            }
            (_, Command::Ehlo(name) | Command::Lhlo(name)) => self.ehlo(Hello { name, extended: true }),
            (_, Command::Helo(name)) => self.ehlo(Hello { name, extended: false }),
            (_, Command::Data) if ahead == Ahead::Input => Action::Close(replies::spoke_too_early()),
            (_, Command::Bdat(chunk)) => self.bdat(chunk),
            // Without EHLO too, as Postfix does: some clients know what a server offers, and all is forgotten anyway.
            (State::Connected | State::Greeted(_), Command::StartTls) => self.start_tls(),
            (State::Connected, _) => self.error(self.context.hello_first()),
            (State::Greeted(hello), Command::XClient(said)) => {
                let hello = Arc::clone(hello);
                self.xclient(&hello, *said)
            }
            (State::Greeted(_), Command::XForward(said)) => self.xforward(*said),
            (State::Greeted(_), Command::Etrn(node)) => self.etrn(node),
            (State::Greeted(hello), Command::Auth(command)) => {
                let hello = Arc::clone(hello);
                self.auth(hello, &command)
            }
            (State::Greeted(hello), Command::Mail(command)) => {
                let hello = Arc::clone(hello);
                match self.context.shared.door.now() {
                    Some(queue) => self.mail(hello, command, queue),
                    None => self.await_queue(hello, command),
                }
            }
            (State::Greeted(_), Command::Rcpt(_) | Command::Data) => {
                self.error(replies::bad_sequence("MAIL first"))
            }
            (State::Transaction(transaction), Command::Rcpt(command)) => {
                let recipient = command.path.to_string();
                let answer = rcpt::add(&self.context, transaction, command);
                self.rcpt(&recipient, answer)
            }
            (State::Transaction(transaction), Command::Data) => {
                let answer = match self.is_short_of_memory {
                    true => Err(no_memory()),
                    false => data::begin(&self.context, transaction, By::Data),
                };
                self.data(answer)
            }
            (State::Transaction(_), Command::Mail(_)) => {
                self.error(replies::bad_sequence("one MAIL a transaction"))
            }
            (
                State::Transaction(_),
                Command::Auth(_)
                | Command::StartTls
                | Command::XClient(_)
                | Command::XForward(_)
                | Command::Etrn(_),
            ) => self.error(replies::bad_sequence("not inside a transaction")),
            (State::Chunks(..), _) => self.error(replies::bad_sequence("BDAT or RSET")),
            (State::ChunkRefused(..), _) => {
                self.error(replies::bad_sequence("a chunk was refused: RSET first"))
            }
            // The connection gives no lines in these states.
            (
                State::Authenticating(..)
                | State::CheckingPassword(..)
                | State::AwaitingQueue(..)
                | State::Receiving(_),
                _,
            ) => self.error(replies::bad_sequence("wait for the reply")),
        }
    }

    /// A line that ended with a bare LF.
    pub fn bare_line_end(&mut self) -> Action {
        self.forget_exchange();
        self.no_command(replies::bare_line_end())
    }

    /// How long a line may be, its end included. Tokens are longer than anything else in a line (RFC 4954 §4 has this limit).
    pub fn line_limit(&self) -> usize {
        const LONGEST_TOKEN_LINE: usize = 12_288;
        let limit = self.context.config.smtp.max_command_line;
        let takes_tokens = self.context.config.auth.oauth.is_some()
            && self.context.tls.is_some()
            && self.context.login.is_none()
            && self.context.peer.listener != ListenerKind::Mx;
        if takes_tokens { limit.max(LONGEST_TOKEN_LINE) } else { limit }
    }

    /// A line over the limit, read to its end and thrown away.
    pub fn line_too_long(&mut self) -> Action {
        let limit = self.line_limit();
        match self.forget_exchange() {
            true => self.error(replies::auth_line_too_long(limit)),
            false => self.no_command(replies::line_too_long(limit)),
        }
    }

    /// The commands that this client can use now.
    fn help(&self) -> Reply {
        let context = &self.context;
        let can_start_tls = context.can_start_tls();
        replies::help(context.speaks_lmtp(), can_start_tls, !auth::offered(context).is_empty())
    }

    /// The queue that MAIL waits for; `None`: it is still being loaded, and the client has waited for long enough.
    pub fn queue_opened(&mut self, queue: Option<Queue>) -> Action {
        let State::AwaitingQueue(hello, command) = std::mem::replace(&mut self.state, State::Connected)
        else {
            return self.error(replies::bad_sequence("no queue was waited for"));
        };
        self.state = State::Greeted(Arc::clone(&hello));
        self.context.refresh_login();
        if let Some(queue) = queue {
            return self.mail(hello, *command, queue);
        }
        let refusal = Refusal::new("queue-loading", replies::queue_is_loading());
        self.log_refusal("mail", &refusal, &command.path.to_string(), None);
        self.error(refusal.reply)
    }

    fn rset(&mut self) -> Action {
        self.forwarded = None;
        let hello = match &self.state {
            State::Transaction(transaction) | State::Chunks(transaction, _) => &transaction.hello,
            State::ChunkRefused(hello, ..) => hello,
            _ => return Action::Reply(replies::ok()),
        };
        self.state = State::Greeted(Arc::clone(hello));
        Action::Reply(replies::ok())
    }

    /// EHLO in the middle of a transaction ends it (RFC 5321 §4.1.4).
    fn ehlo(&mut self, hello: Hello) -> Action {
        self.forwarded = None;
        let reply = ehlo::greet(&self.context, &hello);
        self.state = State::Greeted(Arc::new(hello));
        Action::Reply(reply)
    }

    fn start_tls(&mut self) -> Action {
        if self.context.tls.is_some() {
            return self.error(replies::already_secured());
        }
        if !self.context.can_start_tls() {
            return Action::Reply(replies::tls_not_available());
        }
        Action::StartTls(replies::ready_for_tls())
    }

    fn await_queue(&mut self, hello: Arc<Hello>, command: Mail) -> Action {
        self.state = State::AwaitingQueue(hello, Box::new(command));
        Action::AwaitQueue
    }

    fn mail(&mut self, hello: Arc<Hello>, command: Mail, queue: Queue) -> Action {
        if self.messages >= self.context.config.smtp.max_messages {
            return Action::Close(replies::too_many_messages());
        }
        self.utf8 |= command.parameters.smtputf8;
        let sender = command.path.to_string();
        let priority = command.parameters.priority;
        let answer = match self.is_short_of_memory {
            true => Err(no_memory()),
            false => mail::begin(&self.context, hello, command, queue),
        };
        match answer {
            Ok(mut transaction) => {
                transaction.forwarded = self.forwarded.take();
                let granted = transaction.terms.priority;
                self.state = State::Transaction(Box::new(transaction));
                self.progress();
                Action::Reply(match granted.filter(|_| granted != priority) {
                    Some(lower) => replies::priority_lowered(lower),
                    None => replies::sender_ok(),
                })
            }
            Err(refusal) => {
                self.log_refusal("mail", &refusal, &sender, None);
                self.error(refusal.reply)
            }
        }
    }

    fn rcpt(&mut self, recipient: &str, answer: Result<(), Refusal>) -> Action {
        let refusal = match answer {
            Ok(()) => {
                self.progress();
                return Action::Reply(replies::recipient_ok());
            }
            Err(refusal) => refusal,
        };
        let sender = self.sender();
        self.log_refusal("rcpt", &refusal, &sender, Some(recipient));
        if let State::Transaction(transaction) = &mut self.state {
            transaction.deferred |= !refusal.reply.is_permanent();
        }
        if self.context.login.is_none() && refusal.reason == Reason::UnknownRecipient.as_str() {
            self.offences.unknown_recipients += 1;
        }
        // A list of ours may hold many who are gone: that is no attack, and the rest must get their mail.
        let ends = refusal.reply.code == CLOSING;
        if !ends && (self.context.is_trusted() || self.context.login.is_some()) {
            return Action::Reply(self.legible(refusal.reply));
        }
        self.error(refusal.reply)
    }

    /// The command that was just counted led somewhere.
    fn progress(&mut self) {
        self.commands = self.commands.saturating_sub(1);
    }

    /// A line that is no command. Behind a refused DATA it is the message of a client that did not wait for the reply, and
    /// its other lines must not be read as commands either.
    fn no_command(&mut self, reply: Reply) -> Action {
        match self.data_refused {
            true => Action::Close(replies::spoke_too_early()),
            false => self.error(reply),
        }
    }

    /// Answers with a refusal. Permanent ones count: after too many the session ends, and before that they take longer
    /// and longer. Transient ones are our trouble, not the client's.
    fn error(&mut self, reply: Reply) -> Action {
        let reply = self.legible(reply);
        if reply.code == CLOSING {
            return Action::Close(reply);
        }
        if !reply.is_permanent() {
            return Action::Reply(reply);
        }
        if self.context.login.is_none() {
            self.offences.errors += 1;
        }
        let limits = &self.context.config.smtp;
        self.errors += 1;
        if self.errors >= limits.max_errors {
            let client = self.context.peer;
            tracing::info!(event = "too-many-errors", %client, errors = self.errors, "session ended");
            return Action::Close(replies::too_many_errors());
        }
        match (self.errors + 1).saturating_sub(limits.error_delay_from) {
            0 => Action::Reply(reply),
            beyond => {
                let delay = limits.error_delay.saturating_mul(beyond).min(limits.max_error_delay);
                Action::Delayed(reply, delay)
            }
        }
    }

    /// A reply may repeat what the client or the configuration says; UTF-8 in it is for those who use SMTPUTF8
    /// (RFC 6531 §3.7.4.1).
    fn legible(&self, reply: Reply) -> Reply {
        if self.utf8 { reply } else { reply.into_ascii() }
    }

    fn sender(&self) -> String {
        match &self.state {
            State::Transaction(transaction) | State::Receiving(transaction) => {
                transaction.reverse_path.to_string()
            }
            _ => String::new(),
        }
    }

    /// Whose the domain of a recipient is.
    fn recipient_class(&self, to: &str) -> Option<&'static str> {
        let path = ForwardPath::parse(to).ok()?;
        Some(self.context.policy.recipient_class(&path, Some(self.context.peer.local)))
    }

    fn log_refusal(&self, stage: &'static str, refusal: &Refusal, from: &str, to: Option<&str>) {
        let Context { peer, shared, certificate, login, .. } = &self.context;
        shared.metrics.refused(&refusal.reply, refusal.reason);
        tracing::info!(
            event = "refused",
            stage,
            code = refusal.reply.code,
            reason = refusal.reason,
            rule = refusal.rule,
            client = %peer,
            listener = peer.listener.as_str(),
            login = login.as_ref().map(|login| login.name.as_str()),
            certificate = certificate.as_ref().map(|certificate| certificate.sha256.as_str()),
            from,
            to,
            recipient = to.and_then(|to| self.recipient_class(to)),
            reference = refusal.reference.map(|reference| reference.to_string()),
            "{}", refusal.reply
        );
    }
}

/// The buffers of all sessions are nearly at their limit.
fn no_memory() -> Refusal {
    Refusal::new("no-memory", replies::no_room_for_mail())
}

/// Whether the line begins an HTTP request. A browser can be led here, and to send lines that are commands behind it.
fn is_http(line: &[u8]) -> bool {
    const METHODS: [&[u8]; 6] = [b"GET", b"HEAD", b"POST", b"PUT", b"CONNECT", b"OPTIONS"];
    line.split(|byte| *byte == b' ').next().is_some_and(|word| METHODS.contains(&word))
}
