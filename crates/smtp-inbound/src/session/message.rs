//! A message: from DATA, over its last octet and what is decided about it, to the reply that says what became of it.

use std::sync::Arc;

use postern_policy::relay::Decision;
use postern_queue::{AcceptError, Origin, QueueId};

use super::{Action, Context, Postponed, Refusal, Session, State};
use crate::commands::data;
use crate::receive::{Received, Receiver};
use crate::replies;

impl Session {
    pub(super) fn data(&mut self, answer: Result<Receiver, Refusal>) -> Action {
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
    pub(super) fn finish_message(&mut self, received: Received) -> Action {
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

    pub(super) fn message_refused(&mut self, refusal: Refusal) -> Action {
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
    pub(super) fn for_each_recipient(&self, recipients: usize, last: Action) -> Action {
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
}
