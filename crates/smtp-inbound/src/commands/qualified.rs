//! Whether a domain is written to its end, as submission asks for (RFC 6409 §4.2): what `sales` stands for, only its writer knows,
//! and another server may know something else by it.

use postern_smtp::Domain;

use crate::session::Context;

/// Whether a domain can be used here: anywhere but at a submission listener each can; there one of several labels, or one that
/// the configuration names.
pub(crate) fn is_qualified(context: &Context, domain: Option<&Domain>) -> bool {
    let Some(domain) = domain.filter(|domain| !domain.as_str().contains('.')) else { return true };
    !context.peer.listener.is_submission() || is_named(context, domain)
}

fn is_named(context: &Context, domain: &Domain) -> bool {
    let mut routes = context.config.routes.iter();
    context.policy.directory.is_configured(domain)
        || context.config.relay.relay_domains.iter().any(|relayed| relayed.name == *domain)
        || routes.any(|route| route.domain.eq_ignore_ascii_case(domain.as_str()))
}
