//! A message that comes in chunks: what BDAT does in each state (RFC 3030 §2).
//!
//! `LAST` ends the transaction, whatever it is answered. Any other chunk that is refused leaves the transaction failed until
//! RSET, EHLO or `LAST`; what the client sent ahead meanwhile gets the same reply, so that whichever reply it goes by is right.

use std::sync::Arc;

use postern_smtp::{Chunk, Reply};

use super::{Action, Hello, Refusal, Session, State, Transaction};
use crate::commands::bdat;
use crate::receive::Receiver;
use crate::replies;

impl Session {
    /// A chunk of a message came in; the receiver is given back.
    pub fn chunk_received(&mut self, receiver: Box<Receiver>) -> Action {
        let Some(chunk) = receiver.chunk().filter(|chunk| !chunk.is_last) else {
            return self.data_received(receiver.finish());
        };
        let State::Receiving(transaction) = std::mem::replace(&mut self.state, State::Connected) else {
            return self.error(replies::bad_sequence("no message was asked for"));
        };
        if let Err(refusal) = bdat::check(&self.context, &receiver) {
            return self.chunk_refused(chunk, *transaction, refusal);
        }
        // An empty chunk leads nowhere.
        if chunk.octets > 0 {
            self.progress();
        }
        self.state = State::Chunks(transaction, receiver);
        Action::Reply(replies::chunk_received(chunk.octets))
    }

    /// Whether more chunks of a message are to come.
    pub fn is_receiving(&self) -> bool {
        matches!(self.state, State::Chunks(..) | State::ChunkRefused(..))
    }

    /// Octets in memory of the message whose next chunk is waited for.
    pub fn in_memory(&self) -> usize {
        match &self.state {
            State::Chunks(_, receiver) => receiver.in_memory(),
            _ => 0,
        }
    }

    /// BDAT in any state.
    pub(super) fn bdat(&mut self, chunk: Chunk) -> Action {
        let answer = match std::mem::replace(&mut self.state, State::Connected) {
            State::Transaction(transaction) if self.is_short_of_memory => {
                self.chunk_refused(chunk, *transaction, super::no_memory())
            }
            State::Transaction(transaction) => match bdat::begin(&self.context, &transaction) {
                Ok(receiver) => return self.chunk(chunk, transaction, Box::new(receiver)),
                Err(refusal) => self.chunk_refused(chunk, *transaction, refusal),
            },
            State::Chunks(transaction, receiver) => return self.chunk(chunk, transaction, receiver),
            State::ChunkRefused(hello, reply, recipients) => {
                self.refused_with(chunk, hello, reply.clone(), recipients);
                self.end_of_chunk(chunk, recipients, Action::Reply(reply))
            }
            state => {
                let first = match state {
                    State::Connected => self.context.hello_first(),
                    _ => replies::bad_sequence("MAIL first"),
                };
                self.state = state;
                self.error(first)
            }
        };
        skip(chunk, answer)
    }

    /// Receives a chunk, if there is room for it.
    fn chunk(&mut self, chunk: Chunk, transaction: Box<Transaction>, mut receiver: Box<Receiver>) -> Action {
        match bdat::expect(&self.context, &mut receiver, chunk) {
            Ok(()) => {
                self.state = State::Receiving(transaction);
                Action::ReceiveChunk(receiver)
            }
            Err(refusal) => {
                let answer = self.chunk_refused(chunk, *transaction, refusal);
                skip(chunk, answer)
            }
        }
    }

    /// The reply to a chunk after which the message cannot be accepted.
    fn chunk_refused(&mut self, chunk: Chunk, transaction: Transaction, refusal: Refusal) -> Action {
        self.log_refusal("message", &refusal, &transaction.reverse_path.to_string(), None);
        let reply = self.legible(refusal.reply);
        self.refused_with(chunk, transaction.hello, reply.clone(), transaction.accepted);
        let action = match self.error(reply.clone()) {
            // "Too many errors" would have the client send the message again.
            Action::Close(_) => Action::Close(reply),
            action => action,
        };
        self.end_of_chunk(chunk, transaction.accepted, action)
    }

    /// Only the last chunk has a reply for each recipient.
    fn end_of_chunk(&self, chunk: Chunk, recipients: usize, action: Action) -> Action {
        if chunk.is_last { self.for_each_recipient(recipients, action) } else { action }
    }

    /// The state behind a chunk that was refused.
    fn refused_with(&mut self, chunk: Chunk, hello: Arc<Hello>, reply: Reply, recipients: usize) {
        self.state = match chunk.is_last {
            true => State::Greeted(hello),
            false => State::ChunkRefused(hello, reply, recipients),
        };
    }
}

/// Throws the octets of a chunk away before it is answered; not where the connection ends.
fn skip(chunk: Chunk, answer: Action) -> Action {
    match answer {
        Action::Close(_) => answer,
        answer => Action::SkipChunk(chunk.octets, Box::new(answer)),
    }
}
