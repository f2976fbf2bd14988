//! What commands look at, and the policy that they ask. A refusal is put into words here, and kept so that its reference can be
//! explained.

use std::net::IpAddr;
use std::sync::Arc;

use postern_config::replies::Class;
use postern_config::{Config, ListenerKind};
use postern_policy::Policy;
use postern_policy::accounts::Login;
use postern_policy::record::{Record, Reference, Told, Transcript};
use postern_policy::relay::{
    Certificate, Decision, HeaderSenders, Question, Reason, Stage, Trace, Verdict, decide, over_limit,
};
use postern_policy::scram::ChannelBindings;
use postern_policy::standing::usage::Exceeded;
use postern_queue::rules::Refused as RefusedByRule;
use postern_smtp::{Reply, ReversePath};

use super::{Hello, Peer};
use crate::replies::Refused;
use crate::tls::Protection;
use crate::{Shared, replies};

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

/// What the policy is asked about, beside the session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matter<'a> {
    pub hello: &'a Hello,
    pub reverse_path: &'a ReversePath,
    /// Final recipients so far.
    pub recipients: usize,
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
    pub(super) fn refresh(&mut self) {
        self.config = self.shared.config.load_full();
        self.policy = self.shared.policy.load_full();
        self.refresh_login();
    }

    /// Takes the login as it is now, also in the middle of a transaction, whose other rules stay those of its MAIL: a login that
    /// is gone or narrowed, or whose password counts no more, does not live on in a session, and one that is locked sends no more.
    pub(super) fn refresh_login(&mut self) {
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
    pub(super) fn keep_held(
        &self,
        matter: Matter<'_>,
        decision: &Decision,
        reply: &Reply,
    ) -> Option<Reference> {
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

    /// Keeps a decision that is no yes, and puts it into words.
    pub(super) fn refusal(&self, question: &Question<'_>, decision: &Decision) -> Refusal {
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
