//! A connection without a socket: it gives a session what a client sends, and does what the session asks for.

use std::pin::Pin;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use postern_smtp::Reply;
use postern_smtp_inbound::Shared;
use postern_smtp_inbound::receive::Receiver;
use postern_smtp_inbound::session::{Action, Ahead, Commit, Credentials, PasswordCheck, Peer, Session};
use postern_smtp_inbound::tls::Protection;
use postern_smtp_inbound::tokens::Bearer;

/// What the session is told of TLS, where there is some.
pub const TLS: Protection = Protection { version: "TLSv1.3", cipher: "TLS_AES_256_GCM_SHA384" };

/// What comes next in the input, if it is no line.
enum Content {
    Message(Box<Receiver>),
    Chunk(Box<Receiver>),
    /// Octets to throw away, and what to do then.
    Skipped(u64, Box<Action>),
}

/// Checks a token.
pub type TokenCheck =
    Box<dyn Fn(Bearer) -> Pin<Box<dyn Future<Output = PasswordCheck> + Send>> + Send + Sync>;

/// Does what a connection does, with a buffer in place of a socket.
pub struct Player {
    /// The session itself.
    pub session: Session,
    shared: Arc<Shared>,
    peer: Peer,
    input: BytesMut,
    /// Content of which more must come.
    content: Option<Content>,
    /// Whether what checks passwords can be asked.
    pub checks_passwords: bool,
    /// What checks tokens, if there is an identity provider.
    pub token_check: Option<TokenCheck>,
    /// The lines of its replies; `-` where it ended the connection, `(5 ms later)` where it let the client wait.
    pub said: Vec<String>,
    closed: bool,
}

impl Player {
    /// A client that has connected; `tls` says that it has done so under TLS.
    pub fn new(shared: Arc<Shared>, peer: Peer, tls: Option<Protection>) -> Self {
        let session = Session::new(Arc::clone(&shared), peer, tls);
        Self {
            session,
            shared,
            peer,
            input: BytesMut::new(),
            content: None,
            checks_passwords: true,
            token_check: None,
            said: Vec::new(),
            closed: false,
        }
    }

    /// The client sends this, all at once.
    pub async fn hear(&mut self, said: &[u8]) {
        self.input.extend_from_slice(said);
        if let Some(content) = self.content.take() {
            self.receive(content).await;
        }
        while let Some(at) = self.input.iter().position(|byte| *byte == b'\n').filter(|_| self.listens()) {
            let line = self.input.split_to(at + 1);
            let ahead = if self.input.is_empty() { Ahead::Nothing } else { Ahead::Input };
            let action = match line.strip_suffix(b"\r\n") {
                Some(line) if line.len() + 2 > self.session.line_limit() => self.session.line_too_long(),
                Some(line) => self.session.line(line, ahead),
                None => self.session.bare_line_end(),
            };
            self.act(action).await;
        }
    }

    /// Whether lines are commands now.
    fn listens(&self) -> bool {
        !self.closed && self.content.is_none()
    }

    /// Takes content in; what is not there yet is waited for.
    async fn receive(&mut self, mut content: Content) {
        let is_whole = match &mut content {
            Content::Message(receiver) | Content::Chunk(receiver) => receiver.take(&mut self.input).await,
            Content::Skipped(octets, _) => {
                let here = (*octets).min(self.input.len() as u64);
                self.input.advance(here as usize);
                *octets -= here;
                *octets == 0
            }
        };
        if !is_whole {
            self.content = Some(content);
            return;
        }
        let action = match content {
            Content::Message(receiver) => self.session.data_received(receiver.finish()),
            Content::Chunk(receiver) => self.session.chunk_received(receiver),
            Content::Skipped(_, then) => *then,
        };
        Box::pin(self.act(action)).await;
    }

    async fn act(&mut self, first: Action) {
        let mut action = first;
        loop {
            action = match action {
                Action::Reply(reply) => return self.say(&reply),
                Action::Repeat(reply, times, then) => {
                    (0..times).for_each(|_| self.say(&reply));
                    *then
                }
                Action::Delayed(reply, delay) => {
                    self.say(&reply);
                    return self.said.push(format!("({} ms later)", delay.as_millis()));
                }
                Action::Close(reply) => {
                    self.say(&reply);
                    self.said.push("-".to_owned());
                    self.closed = true;
                    return;
                }
                Action::StartTls(reply) => {
                    self.say(&reply);
                    self.input.clear();
                    self.session = Session::new(Arc::clone(&self.shared), self.peer, Some(TLS));
                    return;
                }
                Action::CheckToken(bearer) => {
                    let check = self.token_check.as_ref().expect("an identity provider");
                    let checked = check(bearer).await;
                    self.session.token_checked(checked)
                }
                Action::HandOver(session, greeting) => {
                    self.session = *session;
                    return self.say(&greeting);
                }
                Action::RunQueue(run) => {
                    let node = run.node().clone();
                    let outcome = run.run().await;
                    self.session.ran(&node, outcome)
                }
                Action::CheckPassword(_) if !self.checks_passwords => {
                    let why = "nobody to ask".to_owned();
                    self.session.password_checked(PasswordCheck::Unavailable { why })
                }
                Action::CheckPassword(credentials) => {
                    let policy = self.shared.policy.load_full();
                    let now = self.shared.clock.now();
                    let Credentials { name, password } = credentials;
                    let verified = policy.accounts.verify(&name, &password, self.peer.client, now);
                    self.session.password_checked(PasswordCheck::Done(verified))
                }
                Action::Find(wanted, postponed) => {
                    self.session.find(wanted).await;
                    self.session.informed(postponed)
                }
                Action::AwaitQueue => {
                    let queue = self.shared.door.queue().await;
                    self.session.queue_opened(Some(queue))
                }
                Action::ReceiveData(reply, receiver) => {
                    self.say(&reply);
                    self.content = Some(Content::Message(receiver));
                    return;
                }
                Action::ReceiveChunk(receiver) => return self.receive(Content::Chunk(receiver)).await,
                Action::SkipChunk(octets, then) => return self.receive(Content::Skipped(octets, then)).await,
                Action::Commit(commit) => {
                    let Commit { incoming, envelope, header } = *commit;
                    self.session.committed(incoming.commit(envelope, header).await)
                }
            };
        }
    }

    /// Notes a reply.
    pub fn say(&mut self, reply: &Reply) {
        let mut wire = Vec::new();
        reply.write_to(&mut wire);
        self.said.extend(String::from_utf8(wire).unwrap().lines().map(str::to_owned));
    }
}
