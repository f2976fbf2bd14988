//! Messages of which the spool has lost the content: held, named in the log with everybody who should be told, and in
//! `posternctl status` until an operator has ended them.

use tracing::error;

use crate::Queue;
use crate::envelope::Envelope;
use crate::message::QueueId;
use crate::operate::MessageView;
use crate::state::MessageState;

/// Why such a message is held.
const REASON: &str = "its content is gone from the spool: it cannot be delivered, only failed or dropped";

/// Says in the log what is left of a message, and answers its state, held. `state` is as the spool has it: empty when
/// nothing has happened to the message yet.
pub(crate) fn hold(id: QueueId, meta: &[u8], state: Vec<u8>) -> Vec<u8> {
    let Ok(envelope) = Envelope::decode(meta) else { return state };
    let recipients: Vec<String> = envelope.recipients.iter().map(|r| r.address.to_string()).collect();
    error!(
        event = "content-lost",
        %id,
        from = %envelope.reverse_path,
        to = recipients.join(" "),
        "the content of a message is gone: its sender and recipients should be told"
    );
    let decoded = match state.is_empty() {
        true => Ok(MessageState::of(&envelope)),
        false => MessageState::decode(&state, recipients.len()),
    };
    let Ok(mut decoded) = decoded else { return state };
    decoded.held = Some(match decoded.held {
        Some(former) if !former.starts_with(REASON) => format!("{REASON} (held before: {former})"),
        _ => REASON.to_owned(),
    });
    decoded.encode()
}

impl Queue {
    /// Messages whose content is gone and that nobody has ended yet: how many, and the first of them.
    pub fn lost(&self, most: usize) -> (usize, Vec<MessageView>) {
        let there: Vec<QueueId> = {
            let lost = self.inner.lost.lock();
            let messages = self.inner.messages.lock();
            lost.iter().copied().filter(|id| messages.entry(*id).is_some()).collect()
        };
        (there.len(), there.iter().take(most).filter_map(|id| self.show(*id)).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::messages::tests::envelope;
    use crate::state::tests::fresh;

    #[test]
    fn what_is_lost_is_held_whatever_it_was_before() {
        let envelope = envelope(2);
        let meta = envelope.encode();
        let held = |state: Vec<u8>| {
            let state = MessageState::decode(&hold(QueueId(7), &meta, state), 2).unwrap();
            state.held.unwrap()
        };
        assert_eq!(held(Vec::new()), REASON);
        let by_hand = MessageState { held: Some("spam?".to_owned()), ..fresh(2) };
        let text = held(by_hand.encode());
        assert!(text.starts_with(REASON) && text.ends_with("(held before: spam?)"), "{text}");
        let again = MessageState { held: Some(text.clone()), ..fresh(2) };
        assert!(held(again.encode()).len() <= text.len(), "it does not grow with every start");
        assert_eq!(hold(QueueId(7), b"what?", b"that".to_vec()), b"that");
    }
}
