//! Who the client is, and what that gives it.

use super::{Question, Reason, Trace, counted};
use crate::Policy;

/// Who may do anything at all on a submission port: a login or a trusted network (RFC 6409 §4.3).
pub(super) fn require_client(
    question: &Question<'_>,
    policy: &Policy,
    trace: &mut Trace,
) -> Result<(), Reason> {
    if !question.listener.is_submission() {
        return Ok(());
    }
    let trusted = policy.relay.trusted_network(question.client).is_some();
    let fact = match (question.login, trusted) {
        (Some(login), _) => format!("logged in as {}", login.name),
        (None, true) => {
            format!("not logged in, but {} is in a trusted network", question.client.to_canonical())
        }
        (None, false) => "not logged in and not in a trusted network".to_owned(),
    };
    let fact = format!("on the {} port: {fact}", question.listener.as_str());
    if !trace.rule("submission client", question.login.is_some() || trusted, fact) {
        return Err(Reason::NotAuthenticated);
    }
    Ok(())
}

/// Whether the client may send to anywhere, and why.
pub(super) fn right_of_client(question: &Question<'_>, policy: &Policy, trace: &mut Trace) -> Option<Reason> {
    let client = question.client.to_canonical();
    if let Some(trusted) = policy.relay.trusted_network(client) {
        let fact = format!("{client} is in {} ({})", trusted.network, trusted.label);
        trace.rule("trusted network", true, fact);
        return Some(Reason::TrustedNetwork { label: trusted.label.clone() });
    }
    let count = counted(policy.relay.trusted.len(), "trusted network");
    trace.rule("trusted network", false, format!("{client} is in none of {count}"));
    let Some(login) = question.login else {
        trace.rule("login", false, "not logged in");
        return None;
    };
    trace.rule("login", true, format!("logged in as {}", login.name));
    Some(Reason::Authenticated { login: login.name.clone() })
}
