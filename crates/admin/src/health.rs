//! Is the server well? Asked by load balancers, container runtimes and `posternctl status`.

use std::path::Path;

use postern_queue::{AcceptError, Door, Queue};

use crate::Shared;
use crate::api::Health;

/// Well means: a message that came now would be taken, and held against every rule that operators have made. Every reason
/// against it is named.
pub fn check(shared: &Shared) -> Health {
    let mut reasons = match shared.door.now() {
        Some(queue) => against(&queue, &shared.config.load().queue.path),
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

fn against(queue: &Queue, spool: &Path) -> Vec<String> {
    let mut reasons = Vec::new();
    match (queue.admits(0), queue.summary().store_error) {
        // A disk that is full cannot be written either; how full it is says more.
        (Err(error @ AcceptError::NoSpace(_)), _) => reasons.push(format!(
            "{error} on the disk of the spool {}: new mail gets 452, mail in the queue is delivered. Make room there, or ask for \
             less (queue.min_free_space, queue.min_free_inodes): no restart is needed, and nothing that was accepted is lost",
            spool.display()
        )),
        (_, Some(error)) => reasons.push(format!("the spool cannot be written: {error}")),
        (Err(error), None) => reasons.push(error.to_string()),
        (Ok(()), None) => {}
    }
    reasons.extend(queue.rules().problem());
    reasons
}
