//! Is the server well? Asked by load balancers, container runtimes and `posternctl status`.

use postern_queue::{Door, Queue};

use crate::Shared;
use crate::api::Health;

/// Well means: a message that came now would be taken, and held against every rule that operators have made. Every reason
/// against it is named.
pub fn check(shared: &Shared) -> Health {
    let mut reasons = match shared.door.now() {
        Some(queue) => against(&queue),
        None => vec![loading(&shared.door)],
    };
    if shared.daemon.listening().is_empty() {
        reasons.push("no listener is open".to_owned());
    }
    Health { ok: reasons.is_empty(), reasons }
}

/// What a closed door means.
pub(crate) fn loading(door: &Door) -> String {
    format!("the queue is being loaded: {} messages so far", door.messages_read())
}

fn against(queue: &Queue) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(error) = queue.summary().store_error {
        reasons.push(format!("the spool cannot be written: {error}"));
    } else if let Err(error) = queue.admits(0) {
        reasons.push(error.to_string());
    }
    reasons.extend(queue.rules().problem());
    reasons
}
