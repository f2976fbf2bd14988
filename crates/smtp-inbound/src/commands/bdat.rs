//! BDAT: the message in chunks (RFC 3030 §2).
//!
//! The octets of a chunk follow their command at once, whatever the reply will be. One that is refused is therefore read and
//! thrown away by the connection; here is only said whether it is.

use postern_smtp::{Body, Chunk};

use super::data;
use crate::receive::{By, Receiver};
use crate::replies;
use crate::session::{Context, Refusal, Transaction};

/// Begins to receive the message.
pub(crate) fn begin(context: &Context, transaction: &Transaction) -> Result<Receiver, Refusal> {
    // CHUNKING is offered in the answer to EHLO only.
    if !transaction.hello.extended {
        return Err(Refusal::new("bad-sequence", replies::bad_sequence("EHLO first")));
    }
    let by = if transaction.body == Body::BinaryMime { By::BinaryBdat } else { By::Bdat };
    data::begin(context, transaction, by)
}

/// Makes ready for a chunk, unless the message would be too large with it: then nothing of it goes to the spool.
pub(crate) fn expect(context: &Context, receiver: &mut Receiver, chunk: Chunk) -> Result<(), Refusal> {
    if !receiver.has_room_for(chunk.octets) {
        let limit = context.config.smtp.max_message_size;
        return Err(Refusal::new("message-too-large", replies::message_too_large(limit)));
    }
    receiver.begin_chunk(chunk);
    Ok(())
}

/// Whether the message is still one that can be accepted, behind a chunk that is not the last. The client need not send the
/// rest to learn that it is not.
pub(crate) fn check(context: &Context, receiver: &Receiver) -> Result<(), Refusal> {
    data::check(context, receiver.lines(), receiver.failure())
}
