//! Is the server well? Asked by load balancers, container runtimes and `posternctl status`.

use crate::Shared;
use crate::api::Health;

/// Well means: a message that came now would be taken, and held against every rule that operators have made. Every reason
/// against it is named.
pub fn check(shared: &Shared) -> Health {
    let summary = shared.queue.summary();
    let mut reasons = Vec::new();
    if let Some(error) = summary.store_error {
        reasons.push(format!("the spool cannot be written: {error}"));
    } else if let Err(error) = shared.queue.admits(0) {
        reasons.push(error.to_string());
    }
    reasons.extend(shared.queue.rules().problem());
    if shared.daemon.listening().is_empty() {
        reasons.push("no listener is open".to_owned());
    }
    Health { ok: reasons.is_empty(), reasons }
}
