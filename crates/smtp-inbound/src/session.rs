//! The order of commands: lines in, [`Action`]s out, no I/O.
//!
//! A session is in one state; [`Session::handle`] has one `match` over state and command that is both the rule of
//! sequence (RFC 5321 §4.1.4) and the table of contents. The connection does what the actions say.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use postern_config::replies::Class;
use postern_config::{Config, ListenerKind};
use postern_policy::Policy;
use postern_policy::accounts::{Login, Verified};
use postern_policy::facts::{Wanted, wanted};
use postern_policy::record::{Record, Reference, Told, Transcript};
use postern_policy::relay::{
    Certificate, Decision, HeaderSenders, Question, Reason, Stage, Trace, Verdict, decide, over_limit,
};
use postern_policy::scram::ChannelBindings;
use postern_policy::standing::rates::Use;
use postern_policy::standing::usage::{Exceeded, FirstMet};
use postern_queue::rules::Refused as RefusedByRule;
use postern_queue::{AcceptError, Envelope, Incoming, Origin, Queue, QueueId, Recipient, Terms};
use postern_smtp::attributes::XForward;
use postern_smtp::command::{Auth, Command, CommandError, Mail, Rcpt};
use postern_smtp::date::rfc3339;
use postern_smtp::{Address, Body, EnvelopeId, ForwardPath, Reply, Ret, ReversePath};

use crate::clients::Offences;
use crate::commands::auth::{self, Exchange, Mechanism, Proved};
pub use crate::commands::etrn::{Outcome, Run};
use crate::commands::{data, ehlo, mail, parameters, rcpt};
use crate::receive::{By, Received, Receiver};
use crate::replies::Refused;
use crate::tls::Protection;
use crate::tokens::Bearer;
use crate::{Shared, replies};

mod chunks;
mod peers;

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

/// A name and a password. Nothing prints them.
pub struct Credentials {
    /// As the client wrote it.
    pub name: String,
    /// As the client wrote it.
    pub password: Vec<u8>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// Somebody who has not shown to be who they say.
#[derive(Debug)]
struct Unproved {
    /// Fit for a log.
    name: String,
    mechanism: Mechanism,
    /// Why, for the log.
    why: Option<String>,
}

/// An app password that cannot be used.
#[derive(Debug)]
struct AppPassword {
    label: String,
    /// For the log.
    why: String,
}

/// What came of a password check.
#[derive(Debug)]
pub enum PasswordCheck {
    /// It was checked here.
    Done(Verified),
    /// Another system has vouched for the login.
    Vouched(Login),
    /// Another system has not.
    Refused {
        /// Why, for the log, where that is known.
        why: Option<String>,
        /// Whether somebody may be guessing. Nobody is whose login is right, and has no rights here.
        is_guess: bool,
    },
    /// It could not be checked, or not soon enough.
    Unavailable {
        /// Why, for the log.
        why: String,
    },
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

/// What commands look at and do not change.
#[derive(Debug)]
pub(crate) struct Context {
    pub shared: Arc<Shared>,
    pub config: Arc<Config>,
    pub policy: Arc<Policy>,
    pub peer: Peer,
    /// Who sends what we read: the client, unless it speaks for another one by XCLIENT.
    pub host: IpAddr,
    pub tls: Option<Protection>,
    /// What the client has shown in the handshake.
    pub certificate: Option<Certificate>,
    /// What a login can be bound to of the TLS session.
    pub bindings: ChannelBindings,
    pub login: Option<Login>,
    /// What was said, for the record of a refusal.
    pub transcript: Transcript,
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

/// What the policy is asked about, beside the session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matter<'a> {
    pub hello: &'a Hello,
    pub reverse_path: &'a ReversePath,
    /// Final recipients so far.
    pub recipients: usize,
}

impl Transaction {
    /// As the policy is asked about it.
    pub fn matter(&self) -> Matter<'_> {
        Matter { hello: &self.hello, reverse_path: &self.reverse_path, recipients: self.distinct.len() }
    }
}

/// Why a sender, a recipient or a message is not taken.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub reply: Reply,
    /// For logs and metrics.
    pub reason: &'static str,
    pub reference: Option<Reference>,
    /// The rule that decided.
    pub rule: Option<String>,
}

impl Refusal {
    pub fn new(reason: &'static str, reply: Reply) -> Self {
        Self { reply, reason, reference: None, rule: None }
    }
}

impl Context {
    /// Takes the rules in force now.
    fn refresh(&mut self) {
        self.config = self.shared.config.load_full();
        self.policy = self.shared.policy.load_full();
        self.refresh_login();
    }

    /// Takes the login as it is now, also in the middle of a transaction, whose other rules stay those of its MAIL: a login that
    /// is gone or narrowed, or whose password counts no more, does not live on in a session, and one that is locked sends no more.
    fn refresh_login(&mut self) {
        let Some(login) = self.login.take() else { return };
        let policy = self.shared.policy.load();
        self.login = policy.accounts.renew(&login, self.peer.client, self.shared.clock.now());
    }

    /// Whether LMTP is spoken, not SMTP.
    pub fn speaks_lmtp(&self) -> bool {
        self.peer.listener == ListenerKind::Lmtp
    }

    /// Whether TLS can begin: there is a certificate, and nobody listens on a UNIX socket.
    pub fn can_start_tls(&self) -> bool {
        !self.peer.is_local && self.tls.is_none() && self.shared.tls.load().is_some()
    }

    /// The client must say who it is.
    pub fn hello_first(&self) -> Reply {
        replies::bad_sequence(if self.speaks_lmtp() { "LHLO first" } else { "EHLO first" })
    }

    /// Whether the client is in a trusted network: such clients have no limit of recipients.
    pub fn is_trusted(&self) -> bool {
        self.policy.relay.trusted_network(self.peer.client).is_some()
    }

    /// Asks the policy. A refusal is kept, so that its reference can be explained.
    pub fn ask(&self, matter: Matter<'_>, stage: Stage<'_>) -> Result<Decision, Refusal> {
        self.ask_with_rules(matter, stage, || None)
    }

    /// The same, and, where the policy says yes, what the operators' standing rules say.
    pub fn ask_with_rules(
        &self,
        matter: Matter<'_>,
        stage: Stage<'_>,
        rules: impl FnOnce() -> Option<RefusedByRule>,
    ) -> Result<Decision, Refusal> {
        let question = self.question(matter, stage);
        let mut decision = decide(&question, &self.policy);
        if decision.verdict == Verdict::Accept
            && let Some(refused) = rules()
        {
            decision = by_rule(decision, &refused);
        }
        match decision.verdict {
            Verdict::Accept => {
                self.shared.decisions.decided(question.stage.as_str(), &decision);
                self.policy.count(&question);
                for fact in decision.warnings() {
                    let login = self.login.as_ref().map(|login| login.name.as_str());
                    tracing::warn!(
                        event = "domain-not-verified",
                        stage = question.stage.as_str(),
                        login,
                        "{fact}"
                    );
                }
                Ok(decision)
            }
            _ => Err(self.refusal(&question, &decision)),
        }
    }

    /// A limit of the login turns out to be passed when it is charged.
    pub fn over_limit(
        &self,
        login: &Login,
        matter: Matter<'_>,
        stage: Stage<'_>,
        exceeded: Exceeded,
    ) -> Refusal {
        self.refusal(&self.question(matter, stage), &over_limit(login, exceeded))
    }

    /// What only the session knows enough for.
    pub fn refused_by_session(&self, matter: Matter<'_>, stage: Stage<'_>, decision: &Decision) -> Refusal {
        self.refusal(&self.question(matter, stage), decision)
    }

    /// A standing rule refuses the whole message.
    pub fn refused_by_rule(&self, matter: Matter<'_>, refused: &RefusedByRule) -> Refusal {
        let senders = HeaderSenders::default();
        let question = self.question(matter, Stage::Message(&senders));
        self.refusal(&question, &by_rule(accepted(), refused))
    }

    /// A standing rule holds the whole message.
    pub fn held_by_rule(&self, rule: u64, why: &str) -> Decision {
        let senders = HeaderSenders::default();
        let decision = accepted().held_by_rule(rule, why);
        self.shared.decisions.decided(Stage::Message(&senders).as_str(), &decision);
        decision
    }

    /// Keeps what was decided about a message that is held. Its client hears nothing of it: the log has the reference.
    fn keep_held(&self, matter: Matter<'_>, decision: &Decision, reply: &Reply) -> Option<Reference> {
        let senders = HeaderSenders::default();
        let question = self.question(matter, Stage::Message(&senders));
        let name = self.shared.records.name(question.client)?;
        let cause = decision.rule().map_or_else(|| "held".to_owned(), |rule| format!("held by {rule}"));
        let told = Told { class: Class::Rule, cause, advice: String::new(), reply: reply.to_string() };
        self.shared.records.keep(&name, Record::new(&name, &question, decision, told, &self.transcript));
        Some(name.reference)
    }

    pub fn question<'a>(&'a self, matter: Matter<'a>, stage: Stage<'a>) -> Question<'a> {
        Question {
            listener: self.peer.listener,
            client: self.peer.client,
            local: Some(self.peer.local),
            tls: self.tls.is_some(),
            certificate: self.certificate.as_ref(),
            login: self.login.as_ref(),
            helo: Some(&matter.hello.name),
            now: self.shared.clock.now(),
            recipients: matter.recipients,
            reverse_path: matter.reverse_path,
            stage,
        }
    }

    /// Asks about AUTH: of whoever has the right password, or whether it is offered at all.
    fn ask_login(&self, hello: &Hello) -> Result<Decision, Refusal> {
        self.ask(Matter { hello, reverse_path: &ReversePath::Null, recipients: 0 }, Stage::Login)
    }

    /// A name that is none, or not its password.
    fn refuse_password(&self, hello: &Hello, name: &str, why: Option<&str>) -> Refusal {
        let matter = Matter { hello, reverse_path: &ReversePath::Null, recipients: 0 };
        self.refusal(&self.question(matter, Stage::Login), &Decision::wrong_password(name, why))
    }

    /// Keeps a decision that is no yes, and puts it into words.
    fn refusal(&self, question: &Question<'_>, decision: &Decision) -> Refusal {
        self.shared.decisions.decided(question.stage.as_str(), decision);
        self.policy.note_refused(question, decision);
        let name = self.shared.records.name(question.client);
        let refused = Refused { question, decision, name: name.as_ref(), config: &self.config };
        let (reply, told) = replies::refused(&refused);
        if let Some(name) = &name {
            let record = Record::new(name, question, decision, told, &self.transcript);
            self.shared.records.keep(name, record);
        }
        Refusal {
            reply,
            reason: decision.reason.as_str(),
            reference: name.map(|name| name.reference),
            rule: decision.rule().map(str::to_owned),
        }
    }
}

/// What was said of a message before the standing rules were asked.
fn accepted() -> Decision {
    Decision { verdict: Verdict::Accept, reason: Reason::SenderAllowed, trace: Trace::default() }
}

/// The decision after a rule has refused.
fn by_rule(decision: Decision, refused: &RefusedByRule) -> Decision {
    let verdict = if refused.is_temporary { Verdict::Defer } else { Verdict::Reject };
    let decision = decision.refused_by_rule(refused.rule, &refused.reason, &refused.text, verdict);
    if refused.is_about_header_sender { decision.as_header_blocked_sender() } else { decision }
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

    /// What a password check said.
    pub fn password_checked(&mut self, check: PasswordCheck) -> Action {
        let State::CheckingPassword(hello, name, mechanism) =
            std::mem::replace(&mut self.state, State::Connected)
        else {
            return self.error(replies::bad_sequence("no password was asked for"));
        };
        self.state = State::Greeted(Arc::clone(&hello));
        match check {
            PasswordCheck::Done(Verified::Right { login, app }) => {
                self.password_right(&hello, Proved { login, mechanism }, app.as_deref())
            }
            PasswordCheck::Done(Verified::Wrong) => {
                self.password_wrong(&hello, Unproved { name, mechanism, why: None })
            }
            PasswordCheck::Done(Verified::Unusable { app, why, .. }) => {
                self.password_unusable(&hello, &name, mechanism, &AppPassword { label: app, why })
            }
            PasswordCheck::Vouched(login) => self.password_right(&hello, Proved { login, mechanism }, None),
            PasswordCheck::Refused { why, is_guess: true } => {
                self.password_wrong(&hello, Unproved { name, mechanism, why })
            }
            PasswordCheck::Refused { why, is_guess: false } => {
                self.login_without_rights(&hello, Unproved { name, mechanism, why })
            }
            PasswordCheck::Unavailable { why } => {
                let Peer { client, listener, .. } = self.context.peer;
                let (listener, shown) = (listener.as_str(), self.context.policy.login_to_note(&name));
                tracing::error!(event = "login-not-checked", %client, listener, login = shown, why, "no password check");
                self.context.shared.metrics.login("unavailable");
                Action::Reply(replies::login_not_available())
            }
        }
    }

    /// What a token check said. A token that is not taken is answered with a challenge that says why, and only behind the client's
    /// next line with 535 (RFC 7628 §3.2.3); it is counted at once, for a client can go away between the two.
    pub fn token_checked(&mut self, check: PasswordCheck) -> Action {
        let (why, is_guess) = match check {
            PasswordCheck::Refused { why, is_guess } => (why, is_guess),
            other => return self.password_checked(other),
        };
        let State::CheckingPassword(hello, name, mechanism) =
            std::mem::replace(&mut self.state, State::Connected)
        else {
            return self.error(replies::bad_sequence("no token was asked for"));
        };
        let unproved = Unproved { name, mechanism, why };
        let (reply, delay) = match is_guess {
            true => self.note_wrong(&hello, unproved),
            false => self.note_without_rights(&hello, unproved),
        };
        let Some(oauth) = &self.context.config.auth.oauth else {
            self.state = State::Greeted(hello);
            return self.delayed_error(reply, delay);
        };
        let challenge = STANDARD.encode(auth::bearer::refusal(mechanism, oauth));
        self.state = State::Authenticating(hello, Exchange::Refused(Box::new((reply, delay))));
        Action::Reply(replies::auth_challenge(&challenge))
    }

    /// Who has the right password may still not use the login now, or from here. `app` is the label of an app password.
    fn password_right(&mut self, hello: &Hello, proved: Proved, app: Option<&str>) -> Action {
        let Peer { client, listener, .. } = self.context.peer;
        let Proved { login, mechanism } = proved;
        let (name, listener, mechanism) = (login.name.clone(), listener.as_str(), mechanism.as_str());
        self.context.login = Some(login);
        match self.context.ask_login(hello) {
            Ok(_) => {
                tracing::info!(
                    event = "login",
                    %client,
                    listener,
                    login = name,
                    mechanism,
                    app_password = app,
                    "logged in"
                );
                self.context.shared.metrics.login("ok");
                Action::Reply(replies::logged_in())
            }
            Err(refusal) => {
                self.context.shared.metrics.login("refused");
                self.log_refusal("login", &refusal, "", None);
                self.context.login = None;
                self.error(refusal.reply)
            }
        }
    }

    /// The commands that this client can use now.
    fn help(&self) -> Reply {
        let context = &self.context;
        let can_start_tls = context.can_start_tls();
        replies::help(context.speaks_lmtp(), can_start_tls, !auth::offered(context).is_empty())
    }

    /// A wrong password or proof. The guess is counted, and whoever guesses too much is banned.
    fn password_wrong(&mut self, hello: &Hello, unproved: Unproved) -> Action {
        let (reply, delay) = self.note_wrong(hello, unproved);
        self.delayed_error(reply, delay)
    }

    /// The same without the answer: what that is, and how long it waits.
    fn note_wrong(&mut self, hello: &Hello, unproved: Unproved) -> (Reply, Duration) {
        let Peer { client, local, listener, .. } = self.context.peer;
        let Unproved { name, mechanism, why } = unproved;
        let guess = self.context.policy.note_guess(&name, client, local, self.context.shared.clock.now());
        let failures = guess.failed.failures;
        let shown = self.context.policy.login_to_note(&name);
        let refusal = self.context.refuse_password(hello, &shown, None);
        tracing::warn!(
            event = "login-failed",
            %client,
            listener = listener.as_str(),
            login = shown,
            mechanism = mechanism.as_str(),
            why,
            failures,
            reference = refusal.reference.map(|reference| reference.to_string()),
            "wrong password or user name"
        );
        if let Some(ban) = guess.ban {
            let until = rfc3339(UNIX_EPOCH + Duration::from_secs(ban.until));
            tracing::warn!(event = "banned", network = %ban.network, until, failures, "{}", ban.why);
        }
        self.context.shared.metrics.login("wrong");
        (refusal.reply, guess.failed.delay)
    }

    /// An app password that is right and cannot be used now, or not from here: nobody guesses. The client is told what it would
    /// be told of a wrong one; the log has another event, so that nothing that reads it bans whole offices for an old telephone.
    fn password_unusable(
        &mut self,
        hello: &Hello,
        name: &str,
        mechanism: Mechanism,
        app: &AppPassword,
    ) -> Action {
        let Peer { client, local, listener, .. } = self.context.peer;
        let mistake = self.context.policy.note_mistake(client, local, self.context.shared.clock.now());
        let refusal = self.context.refuse_password(hello, name, Some(&app.why));
        tracing::warn!(
            event = "app-password-refused",
            %client,
            listener = listener.as_str(),
            login = name,
            mechanism = mechanism.as_str(),
            app_password = app.label,
            why = app.why,
            reference = refusal.reference.map(|reference| reference.to_string()),
            "an app password that cannot be used"
        );
        self.context.shared.metrics.login("refused");
        self.delayed_error(refusal.reply, mistake.failed.delay)
    }

    /// A login that another system has vouched for and that may do nothing here: nobody guesses. The client is told what it would
    /// be told of a wrong password.
    fn login_without_rights(&mut self, hello: &Hello, unproved: Unproved) -> Action {
        let (reply, delay) = self.note_without_rights(hello, unproved);
        self.delayed_error(reply, delay)
    }

    /// The same without the answer.
    fn note_without_rights(&mut self, hello: &Hello, unproved: Unproved) -> (Reply, Duration) {
        let Peer { client, local, listener, .. } = self.context.peer;
        let Unproved { name, mechanism, why } = unproved;
        let mistake = self.context.policy.note_mistake(client, local, self.context.shared.clock.now());
        let shown = self.context.policy.login_to_note(&name);
        let refusal = self.context.refuse_password(hello, &shown, None);
        tracing::warn!(
            event = "login-without-rights",
            %client,
            listener = listener.as_str(),
            login = shown,
            mechanism = mechanism.as_str(),
            why,
            reference = refusal.reference.map(|reference| reference.to_string()),
            "a login that may do nothing here now"
        );
        self.context.shared.metrics.login("refused");
        (refusal.reply, mistake.failed.delay)
    }

    /// Refuses a wrong login, after a while.
    fn delayed_error(&mut self, reply: Reply, delay: Duration) -> Action {
        match self.error(reply) {
            Action::Reply(reply) if !delay.is_zero() => Action::Delayed(reply, delay),
            Action::Delayed(reply, other) => Action::Delayed(reply, other.max(delay)),
            action => action,
        }
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

    /// The whole message came in.
    pub fn data_received(&mut self, received: Received) -> Action {
        self.context.transcript.message();
        self.context.refresh_login();
        let State::Receiving(transaction) = &self.state else {
            return self.error(replies::bad_sequence("no message was asked for"));
        };
        let wanted = data::wanted(&self.context, transaction, &received);
        match wanted.is_empty() {
            true => self.finish_message(received),
            false => Action::Find(wanted, Postponed::Message(Box::new(received))),
        }
    }

    /// Decides about a message, everything being known.
    fn finish_message(&mut self, received: Received) -> Action {
        let State::Receiving(transaction) = &mut self.state else {
            return self.error(replies::bad_sequence("no message was asked for"));
        };
        match data::finish(&self.context, transaction, received) {
            Ok(commit) => Action::Commit(commit),
            Err(refusal) => self.message_refused(refusal),
        }
    }

    /// The message is durable, or could not be made so.
    pub fn committed(&mut self, result: Result<QueueId, AcceptError>) -> Action {
        match result {
            Ok(id) => self.message_accepted(id),
            Err(error) => self.message_not_stored(error),
        }
    }

    fn message_not_stored(&mut self, error: AcceptError) -> Action {
        if let (State::Receiving(transaction), Some(login)) = (&self.state, &self.context.login) {
            let now = self.context.shared.clock.now();
            self.context.policy.standing.usage.give_back(&login.name, transaction.distinct.len(), now);
        }
        match error {
            AcceptError::Rule(refused) => {
                let refusal = match &self.state {
                    State::Receiving(transaction) => {
                        self.context.refused_by_rule(transaction.matter(), &refused)
                    }
                    _ => data::not_stored(&AcceptError::Rule(refused)),
                };
                self.message_refused(refusal)
            }
            error => self.message_refused(data::not_stored(&error)),
        }
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

    fn auth(&mut self, hello: Arc<Hello>, command: &Auth) -> Action {
        // A password changed by a reload counts from the next login on.
        self.context.refresh();
        let Context { peer, policy, shared, .. } = &self.context;
        // Asked twice: only of those who are banned is anything kept.
        if let Some(ban) = policy.ban(peer.client, peer.local, true, shared.clock.now())
            && let Err(refusal) = self.context.ask_login(&hello)
        {
            let (client, listener) = (peer.client, peer.listener.as_str());
            let (network, until) = (ban.network, rfc3339(UNIX_EPOCH + Duration::from_secs(ban.until)));
            let reference = refusal.reference.map(|reference| reference.to_string());
            let limit = refusal.reason;
            tracing::info!(event = "turned-away", listener, %client, limit, %network, until, reference);
            return Action::Close(refusal.reply);
        }
        let step = auth::begin(&self.context, command);
        self.auth_step(hello, step)
    }

    fn auth_step(&mut self, hello: Arc<Hello>, step: auth::Step) -> Action {
        match step {
            auth::Step::Challenge(reply, exchange) => {
                self.state = State::Authenticating(hello, exchange);
                Action::Reply(reply)
            }
            auth::Step::Check(credentials, mechanism) => {
                self.state = State::CheckingPassword(hello, auth::printable(&credentials.name), mechanism);
                Action::CheckPassword(credentials)
            }
            auth::Step::CheckToken(bearer, mechanism) => {
                self.state = State::CheckingPassword(hello, auth::printable(&bearer.name), mechanism);
                Action::CheckToken(bearer)
            }
            auth::Step::Refused(reply, delay) => {
                self.state = State::Greeted(hello);
                self.delayed_error(reply, delay)
            }
            auth::Step::Proved(proved) => {
                self.state = State::Greeted(Arc::clone(&hello));
                self.password_right(&hello, *proved, None)
            }
            auth::Step::Wrong { name, mechanism, why } => {
                self.state = State::Greeted(Arc::clone(&hello));
                let name = auth::printable(&name);
                self.password_wrong(&hello, Unproved { name, mechanism, why })
            }
            auth::Step::Downgraded(mechanism) => {
                self.state = State::Greeted(hello);
                let (Peer { client, listener, .. }, mechanism) = (self.context.peer, mechanism.as_str());
                let listener = listener.as_str();
                tracing::warn!(event = "login-downgraded", %client, listener, mechanism, "{}", replies::downgraded());
                self.context.shared.metrics.login("downgraded");
                self.error(replies::downgraded())
            }
            auth::Step::Refuse(reply) => {
                self.state = State::Greeted(hello);
                self.error(reply)
            }
            auth::Step::NotOffered => {
                let asked = self.context.ask_login(&hello);
                self.state = State::Greeted(hello);
                match asked {
                    // The rules say it of the same listener and the same TLS.
                    Ok(_) => self.error(replies::login_not_available()),
                    Err(refusal) => {
                        self.log_refusal("login", &refusal, "", None);
                        self.error(refusal.reply)
                    }
                }
            }
        }
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

    fn data(&mut self, answer: Result<Receiver, Refusal>) -> Action {
        let receiver = match answer {
            Ok(receiver) => receiver,
            Err(refusal) => {
                let sender = self.sender();
                self.log_refusal("data", &refusal, &sender, None);
                return self.error(refusal.reply);
            }
        };
        self.state = match std::mem::replace(&mut self.state, State::Connected) {
            State::Transaction(transaction) => State::Receiving(transaction),
            other => other,
        };
        Action::ReceiveData(replies::send_message(), Box::new(receiver))
    }

    fn message_accepted(&mut self, id: QueueId) -> Action {
        let State::Receiving(mut transaction) = std::mem::replace(&mut self.state, State::Connected) else {
            return self.error(replies::bad_sequence("no message was asked for"));
        };
        if let Some(met) = transaction.met.take() {
            met.keep();
        }
        transaction.used.keep();
        self.messages += 1;
        self.commands = 0;
        self.errors = 0;
        let reply = replies::queued(id);
        let held = transaction.held.take();
        let reference = held
            .as_ref()
            .and_then(|decision| self.context.keep_held(transaction.matter(), decision, &reply))
            .map(|reference| reference.to_string());
        let Context { peer, shared, tls, certificate, login, .. } = &self.context;
        let recipients = transaction.distinct.len();
        shared.metrics.accepted(peer.listener, transaction.size, recipients);
        let right = match data::origin(&self.context, transaction.matter()) {
            Origin::TrustedNetwork(label) => Some(format!("trusted network {label}")),
            Origin::Granted(right) => Some(right),
            Origin::Login(_) | Origin::Outsider | Origin::Own => None,
        };
        let duration = shared.clock.now().duration_since(transaction.began).unwrap_or_default();
        tracing::info!(
            event = "accepted",
            %id,
            from = %transaction.reverse_path,
            to = recipients,
            size = transaction.size,
            client = %peer,
            listener = peer.listener.as_str(),
            login = login.as_ref().map(|login| login.name.as_str()),
            right,
            helo = transaction.hello.name,
            forwarded = transaction.forwarded.as_ref().map(|said| said.to_string()),
            tls = tls.map(|tls| tls.version),
            certificate = certificate.as_ref().map(|certificate| certificate.sha256.as_str()),
            milliseconds = duration.as_millis() as u64,
            held_by = held.as_ref().and_then(Decision::rule),
            reference,
            "message accepted"
        );
        self.state = State::Greeted(transaction.hello);
        self.for_each_recipient(transaction.accepted, Action::Reply(reply))
    }

    fn message_refused(&mut self, refusal: Refusal) -> Action {
        let sender = self.sender();
        self.log_refusal("message", &refusal, &sender, None);
        let mut recipients = 0;
        if let State::Receiving(transaction) = &self.state {
            recipients = transaction.accepted;
            self.state = State::Greeted(Arc::clone(&transaction.hello));
        }
        let reply = self.legible(refusal.reply);
        let action = match self.error(reply.clone()) {
            // "Too many errors" would have the client send the message again.
            Action::Close(_) => Action::Close(reply),
            action => action,
        };
        self.for_each_recipient(recipients, action)
    }

    /// The reply to a whole message: in LMTP one for each RCPT that was accepted, all of them alike, as a message is kept for all its
    /// recipients or for none.
    fn for_each_recipient(&self, recipients: usize, last: Action) -> Action {
        let more = recipients.saturating_sub(1);
        let reply = match &last {
            Action::Reply(reply) | Action::Delayed(reply, _) | Action::Close(reply) => reply.clone(),
            _ => return last,
        };
        match self.context.speaks_lmtp() && more > 0 {
            true => Action::Repeat(reply, more, Box::new(last)),
            false => last,
        }
    }

    /// A line that is no command. Behind a refused DATA it is the message of a client that did not wait for the reply, and
    /// its other lines must not be read as commands either.
    fn no_command(&mut self, reply: Reply) -> Action {
        match self.data_refused {
            true => Action::Close(replies::spoke_too_early()),
            false => self.error(reply),
        }
    }

    /// Ends an AUTH exchange whose line was unusable; says whether there was one.
    fn forget_exchange(&mut self) -> bool {
        let State::Authenticating(hello, _) = &self.state else { return false };
        self.state = State::Greeted(Arc::clone(hello));
        true
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
