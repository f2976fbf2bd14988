//! One session, driven as a connection drives it.

use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::BytesMut;
use postern_admin::api::ExplainRequest;
use postern_config::ListenerKind;
use postern_policy::accounts::Verified;
use postern_policy::relay::Certificate;
use postern_queue::QueueId;
use postern_smtp::Reply;
use postern_smtp_inbound::Shared;
use postern_smtp_inbound::banned::BannedClients;
use postern_smtp_inbound::session::{Action, Ahead, Commit, PasswordCheck, Peer, Session};
use postern_smtp_inbound::tls::Protection;

use super::server::Server;

const TLS: Protection = Protection { version: "TLSv1.3", cipher: "TLS_AES_256_GCM_SHA384" };

/// What came of a session.
#[derive(Debug)]
pub struct Live {
    /// Decisions of the rules: `rcpt reject not-trusted-not-local`, sorted.
    pub decided: Vec<String>,
    /// The final recipients of the message that would have been stored.
    pub recipients: Vec<String>,
    /// The rule that holds it.
    pub held_by: Option<u64>,
    answers: Vec<Answer>,
}

/// A reply to a command.
#[derive(Debug, Clone)]
pub struct Answer {
    pub code: u16,
    text: String,
}

impl Answer {
    fn new(reply: &Reply) -> Self {
        Self { code: reply.code, text: reply.to_string() }
    }

    pub fn is_refusal(&self) -> bool {
        self.code >= 400
    }

    /// What stands between `(ref ` and `)`.
    pub fn reference(&self) -> Option<&str> {
        self.text.rsplit_once(" (ref ")?.1.strip_suffix(')')
    }

    pub fn without_reference(&self) -> String {
        match self.text.rsplit_once(" (ref ") {
            Some((text, _)) => text.to_owned(),
            None => self.text.clone(),
        }
    }
}

impl Live {
    /// Puts the question to a session: login, sender, recipient, and the message if the rest was accepted.
    pub async fn play(server: &Server, request: &ExplainRequest) -> Self {
        let (shared, registry) = server.counted_anew();
        let listener = match request.listener.as_deref() {
            Some("submission") => ListenerKind::Submission,
            Some("submissions") => ListenerKind::Submissions,
            _ => ListenerKind::Mx,
        };
        let is_secure = request.tls || listener == ListenerKind::Submissions;
        let peer = Peer {
            listener,
            // As the listener does with a client over IPv4 on an IPv6 socket.
            client: request.client.to_canonical(),
            local: request.local.unwrap(),
            is_local: false,
        };
        let session = Session::new(shared.clone(), peer, is_secure.then_some(TLS));
        let session = session.with_certificate(certificate(request));
        let mut player = Player {
            session,
            shared,
            message: None,
            recipients: Vec::new(),
            held_by: None,
            answers: Vec::new(),
        };
        if player.is_let_in(peer) {
            player.transaction(request).await;
        }
        let Player { recipients, held_by, answers, .. } = player;
        Self { decided: decided(&registry), recipients, held_by, answers }
    }

    /// The answer to the last command.
    pub fn last(&self) -> &Answer {
        self.answers.last().unwrap()
    }
}

/// The decisions that were counted.
fn decided(registry: &prometheus::Registry) -> Vec<String> {
    let mut decided = Vec::new();
    for family in registry.gather().iter().filter(|family| family.name() == "postern_policy_decisions_total")
    {
        for metric in family.get_metric() {
            let label = |name: &str| {
                let found = metric.get_label().iter().find(|label| label.name() == name);
                found.map_or("", |label| label.value())
            };
            decided.push(format!("{} {} {}", label("stage"), label("verdict"), label("reason")));
        }
    }
    decided.sort();
    decided
}

struct Player {
    session: Session,
    shared: Arc<Shared>,
    /// What is said after 354.
    message: Option<Vec<u8>>,
    recipients: Vec<String>,
    held_by: Option<u64>,
    answers: Vec<Answer>,
}

impl Player {
    /// As a listener does it.
    fn is_let_in(&mut self, peer: Peer) -> bool {
        let turned_away = BannedClients::default().turn_away(&self.shared, peer);
        self.answers.extend(turned_away.as_ref().map(|away| Answer::new(&away.reply)));
        turned_away.is_none()
    }

    /// Ends with the first command that is refused.
    async fn transaction(&mut self, request: &ExplainRequest) {
        let mut commands = vec!["EHLO client.test".to_owned()];
        if let Some(user) = &request.user {
            commands
                .push(format!("AUTH PLAIN {}", BASE64_STANDARD.encode(format!("\0{user}\0right password"))));
        }
        commands.push(format!("MAIL FROM:{}{}", bracketed(&request.from), utf8(request)));
        commands.push(format!("RCPT TO:{}", bracketed(&request.to)));
        if let Some(message) = &request.message {
            self.message = Some(format!("{message}.\r\n").into_bytes());
        }
        commands.extend(self.message.as_ref().map(|_| "DATA".to_owned()));
        for command in commands {
            self.say(&command).await;
            if self.answers.last().unwrap().is_refusal() {
                return;
            }
        }
    }

    async fn say(&mut self, line: &str) {
        let mut action = self.session.line(line.as_bytes(), Ahead::Nothing);
        loop {
            action = match action {
                Action::Reply(reply) | Action::Delayed(reply, _) | Action::Close(reply) => {
                    return self.answers.push(Answer::new(&reply));
                }
                Action::StartTls(_) => panic!("nobody asked for TLS"),
                Action::CheckToken(_) => panic!("there is no identity provider"),
                Action::Repeat(..) => panic!("nobody speaks LMTP"),
                Action::HandOver(..) | Action::RunQueue(_) => panic!("nobody said XCLIENT or ETRN"),
                Action::CheckPassword(credentials) => {
                    // Hashing is not what this is about: every password is right.
                    let login = self.shared.policy.load().accounts.login(&credentials.name).unwrap();
                    self.session.password_checked(PasswordCheck::Done(Verified::Right { login, app: None }))
                }
                Action::Find(wanted, postponed) => {
                    self.session.find(wanted).await;
                    self.session.informed(postponed)
                }
                Action::AwaitQueue => panic!("the queue is there"),
                Action::ReceiveChunk(_) | Action::SkipChunk(..) => panic!("nobody sent BDAT"),
                Action::ReceiveData(_, mut receiver) => {
                    let mut input = BytesMut::from(self.message.as_deref().unwrap());
                    assert!(receiver.take(&mut input).await, "the message has no end");
                    self.session.data_received(receiver.finish())
                }
                Action::Commit(commit) => {
                    let Commit { incoming, envelope, header } = *commit;
                    let recipients = envelope.recipients.iter();
                    self.recipients = recipients.map(|recipient| recipient.address.to_string()).collect();
                    let result = incoming.commit(envelope, header).await;
                    self.held_by = result.as_ref().ok().and_then(|id| self.held_by(*id));
                    self.session.committed(result)
                }
            };
        }
    }
}

impl Player {
    /// The rule that holds a message.
    fn held_by(&self, id: QueueId) -> Option<u64> {
        let message = self.shared.door.now()?.show(id)?;
        message.held?.strip_prefix("rule ")?.split_once(": ")?.0.parse().ok()
    }
}

/// What counts of the certificate that the client shows.
fn certificate(request: &ExplainRequest) -> Option<Certificate> {
    let names = request.certificate_names.clone();
    request.certificate.clone().map(|sha256| Certificate { sha256, names })
}

/// As a client writes it, unless the question has brackets of its own.
fn bracketed(address: &str) -> String {
    match address.starts_with('<') {
        true => address.to_owned(),
        false => format!("<{address}>"),
    }
}

/// The parameter that addresses beyond ASCII need (RFC 6531 §3.4).
fn utf8(request: &ExplainRequest) -> &'static str {
    if request.smtputf8 { " SMTPUTF8" } else { "" }
}
