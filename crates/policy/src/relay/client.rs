//! Who the client is, and what that gives it.

use std::net::{IpAddr, Ipv6Addr};

use postern_config::relay::Scope;
use postern_smtp::{Address, ForwardPath};

use super::rules::GrantRule;
use super::{Answer, Question, Reason, Stage, Trace, not_among};
use crate::Policy;
use crate::facts::Wanted;

/// The rule about bans.
const BAN: &str = "ban";
/// The rule about the grants of the configuration.
pub(super) const ADDRESS_GRANT: &str = "address grant";

/// Who may do anything at all on a submission port: a login, or a client that may relay without one (RFC 6409 §4.3).
pub(super) fn require_client(
    question: &Question<'_>,
    policy: &Policy,
    trace: &mut Trace,
) -> Result<(), Reason> {
    if !question.listener.is_submission() {
        return Ok(());
    }
    let client = question.client.to_canonical();
    let known = match question.login {
        Some(_) => None,
        None => known_client(question, policy),
    };
    let fact = match (question.login, known) {
        (Some(login), _) => format!("logged in as {}", login.name),
        (None, Some(known)) => format!("not logged in, but {client} {known}"),
        (None, None) => "not logged in and not in a trusted network".to_owned(),
    };
    let fact = format!("on the {} port: {fact}", question.listener.as_str());
    // Whoever comes to a submission port can log in, wherever a host name leads: it hears so at once.
    match trace.rule("submission client", question.login.is_some() || known.is_some(), fact) {
        true => Ok(()),
        false => Err(Reason::NotAuthenticated),
    }
}

/// Hosts that must be looked up first: those that never were, where it matters. Afterwards they are looked up on a timer.
pub(super) fn wanted(question: &Question<'_>, policy: &Policy) -> Vec<Wanted> {
    let rules = &policy.relay;
    if rules.hosts.is_empty() || question.login.is_some() {
        return Vec::new();
    }
    let never_asked = policy.standing.hosts.never_asked(&rules.hosts);
    let relays = match question.stage {
        Stage::Mail => question.listener.is_submission(),
        Stage::Rcpt(ForwardPath::Postmaster) => false,
        Stage::Rcpt(ForwardPath::Address(recipient)) => !recipient
            .domain()
            .is_some_and(|domain| policy.directory.is_local(domain) || rules.is_relay_domain(domain)),
        Stage::Connect | Stage::Login | Stage::Message(_) => false,
    };
    if never_asked.is_empty() || !relays || rules.trusted_network(question.client).is_some() {
        return Vec::new();
    }
    never_asked.into_iter().cloned().map(Wanted::HostName).collect()
}

/// Whether the client may speak on a port of this kind.
pub(super) fn connect(question: &Question<'_>, policy: &Policy, trace: &mut Trace) -> Answer {
    not_banned(question, question.listener.is_submission(), policy, trace)?;
    trace.rule(BAN, false, format!("{} is not banned here", question.client.to_canonical()));
    Ok(Reason::ConnectionAllowed)
}

/// `can_log_in`: bans for guessing count, too, not only those by hand.
pub(super) fn not_banned(
    question: &Question<'_>,
    can_log_in: bool,
    policy: &Policy,
    trace: &mut Trace,
) -> Result<(), Reason> {
    // Where our own address is not known it spares nobody: no client has this one.
    let own = question.local.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    let Some(ban) = policy.ban(question.client, own, can_log_in, question.now) else { return Ok(()) };
    trace.rule(BAN, true, format!("{} is banned: {}", ban.network, ban.why));
    Err(Reason::Banned { network: ban.network.to_string(), why: ban.why, by_hand: ban.by_hand })
}

/// By what the client may do something without a login, in words.
pub(super) fn known_client(question: &Question<'_>, policy: &Policy) -> Option<&'static str> {
    let rules = &policy.relay;
    if rules.trusted_network(question.client).is_some() {
        return Some("is in a trusted network");
    }
    if rules.temporary && policy.standing.grants.find(question.client, question.now).is_some() {
        return Some("has a temporary grant");
    }
    if rules.grants.matching(question.client).next().is_some() {
        return Some("has a grant");
    }
    if host_name(question, policy).is_some() {
        return Some("is the address of a host that may relay");
    }
    certificate(question, policy).map(|_| "showed a certificate that may relay")
}

/// By which right other than a trusted network the client may send this sender's mail elsewhere without a login, in words.
/// `None`: by none.
pub(super) fn granted(question: &Question<'_>, policy: &Policy) -> Option<String> {
    let rules = &policy.relay;
    if rules.temporary
        && let Some(grant) = policy.standing.grants.find(question.client, question.now)
    {
        return Some(format!("temporary grant {}", grant.network));
    }
    let holds =
        |grant: &&GrantRule| grant.senders.iter().any(|scope| scope.holds_sender(question.reverse_path));
    if let Some(grant) = rules.grants.matching(question.client).find(holds) {
        return Some(format!("grant {}", grant.label));
    }
    let by_name = host_name(question, policy).map(|name| format!("host {name}"));
    by_name.or_else(|| certificate(question, policy).map(|label| format!("certificate {label}")))
}

/// The grants by which mail of this client comes, where they are for some senders only: those are the senders that the header
/// may name, too, since such mail is signed like that of our own people. None where the client may relay in another way as
/// well, or for all senders; a grant for the null sender alone names nobody whom the header could be held to.
pub(super) fn binding_grants<'p>(question: &Question<'_>, policy: &'p Policy) -> Vec<&'p GrantRule> {
    let rules = &policy.relay;
    let is_free = || {
        rules.trusted_network(question.client).is_some()
            || (rules.temporary && policy.standing.grants.find(question.client, question.now).is_some())
            || host_name(question, policy).is_some()
            || certificate(question, policy).is_some()
    };
    if question.login.is_some() || rules.grants.is_empty() {
        return Vec::new();
    }
    let holds =
        |grant: &&GrantRule| grant.senders.iter().any(|scope| scope.holds_sender(question.reverse_path));
    let grants: Vec<&GrantRule> = rules.grants.matching(question.client).filter(holds).collect();
    let mut scopes = grants.iter().flat_map(|grant| &grant.senders);
    let is_named = |scope: &Scope| matches!(scope, Scope::Address(_) | Scope::Domain(_));
    let binds = !scopes.clone().any(|scope| *scope == Scope::All) && scopes.any(is_named);
    if binds && !is_free() { grants } else { Vec::new() }
}

/// Whether the client may send to this recipient elsewhere, and why. `Ok(None)`: nothing gives it the right.
///
/// # Errors
/// The reason for refusing, where the client has a right that does not reach so far, or not now.
pub(super) fn right_of_client(
    question: &Question<'_>,
    recipient: &Address,
    policy: &Policy,
    trace: &mut Trace,
) -> Result<Option<Reason>, Reason> {
    if let Some(right) = by_network(question, policy, trace) {
        return Ok(Some(right));
    }
    let granted = by_grant(question, recipient, policy, trace);
    if let Some(Ok(right)) = granted {
        return Ok(Some(right));
    }
    let other = by_host_name(question, policy, trace)
        .or_else(|| by_certificate(question, policy, trace))
        .or_else(|| by_login(question, trace));
    if other.is_some() {
        return Ok(other);
    }
    host_name_unknown(question, policy, trace)?;
    granted.transpose()
}

/// A host may be who asks, and DNS has not said where it is: nothing may be concluded for a while, so it is asked to come
/// again.
fn host_name_unknown(question: &Question<'_>, policy: &Policy, trace: &mut Trace) -> Result<(), Reason> {
    if question.login.is_some() {
        return Ok(());
    }
    let Some(name) = policy.standing.hosts.first_unknown(&policy.relay.hosts, question.now) else {
        return Ok(());
    };
    trace.rule("host name", false, format!("DNS has not said where {name} is now: it may be this client"));
    Err(Reason::HostNameUnknown { name: name.to_string() })
}

fn by_network(question: &Question<'_>, policy: &Policy, trace: &mut Trace) -> Option<Reason> {
    let (client, rules) = (question.client.to_canonical(), &policy.relay);
    if let Some(trusted) = rules.trusted_network(client) {
        let fact = format!("{client} is in {} ({})", trusted.network, trusted.label);
        trace.rule("trusted network", true, fact);
        return Some(Reason::TrustedNetwork { label: trusted.label.clone() });
    }
    let fact = not_among(&client.to_string(), "in ", rules.trusted.len(), "trusted network");
    trace.rule("trusted network", false, fact);
    if !rules.temporary {
        return None;
    }
    let Some(grant) = policy.standing.grants.find(client, question.now) else {
        trace.rule("temporary grant", false, format!("{client} has none now"));
        return None;
    };
    let left = grant.left(question.now).unwrap_or_default().as_secs();
    let fact = format!("{client} is in {}, for {left} seconds more ({})", grant.network, grant.why);
    trace.rule("temporary grant", true, fact);
    Some(Reason::TemporaryGrant { network: grant.network.to_string(), why: grant.why })
}

/// The first grant of the client that covers sender and recipient and has room; else why the nearest one does not.
/// `None`: the client has no grant.
fn by_grant(
    question: &Question<'_>,
    recipient: &Address,
    policy: &Policy,
    trace: &mut Trace,
) -> Option<Result<Reason, Reason>> {
    const RULE: &str = ADDRESS_GRANT;
    let (client, rules) = (question.client.to_canonical(), &policy.relay);
    if rules.grants.is_empty() {
        return None;
    }
    let mut refused = None;
    for grant in rules.grants.matching(client) {
        let label = grant.label.clone();
        match covers(grant, question, recipient, policy) {
            Ok(()) => {
                let fact =
                    format!("{client} is in {} ({label}), sender and recipient are covered", grant.network);
                trace.rule(RULE, true, fact);
                return Some(Ok(Reason::AddressGrant { label }));
            }
            Err(reason) => {
                let fact = match &reason {
                    Reason::GrantTooNarrow { what, .. } => format!("which does not cover the {what}"),
                    _ => format!("whose rate of {} is used up", grant.rate),
                };
                trace.rule(RULE, false, format!("{client} is in {} ({label}), {fact}", grant.network));
                // What would pass in a while is the better answer.
                if refused.is_none() || matches!(reason, Reason::Rate { .. }) {
                    refused = Some(Err(reason));
                }
            }
        }
    }
    if refused.is_none() {
        let fact = not_among(&client.to_string(), "in the network of ", rules.grants.len(), "grant");
        trace.rule(RULE, false, fact);
    }
    refused
}

fn covers(
    grant: &GrantRule,
    question: &Question<'_>,
    recipient: &Address,
    policy: &Policy,
) -> Result<(), Reason> {
    let narrow = |what: String| Reason::GrantTooNarrow { label: grant.label.clone(), what };
    if !grant.senders.iter().any(|scope| scope.holds_sender(question.reverse_path)) {
        return Err(narrow(format!("sender <{}>", question.reverse_path)));
    }
    if !grant.recipients.iter().any(|scope| scope.holds(recipient)) {
        return Err(narrow(format!("recipient <{recipient}>")));
    }
    policy.standing.rates.room(&grant.label, grant.rate, question.now).map_err(|wait| Reason::Rate {
        who: format!("the grant {}", grant.label),
        limit: grant.rate.to_string(),
        resets_in: wait.as_secs().max(1),
    })
}

fn by_host_name(question: &Question<'_>, policy: &Policy, trace: &mut Trace) -> Option<Reason> {
    let (client, hosts) = (question.client.to_canonical(), &policy.relay.hosts);
    if hosts.is_empty() {
        return None;
    }
    let Some(name) = host_name(question, policy) else {
        let fact = not_among(&client.to_string(), "the address of ", hosts.len(), "host name");
        trace.rule("host name", false, format!("{fact} now"));
        return None;
    };
    trace.rule("host name", true, format!("{client} is an address of {name} now"));
    Some(Reason::HostName { name })
}

fn host_name(question: &Question<'_>, policy: &Policy) -> Option<String> {
    let has = |name: &&postern_smtp::Domain| policy.standing.hosts.has(name, question.client, question.now);
    policy.relay.hosts.iter().find(has).map(ToString::to_string)
}

fn by_certificate(question: &Question<'_>, policy: &Policy, trace: &mut Trace) -> Option<Reason> {
    const RULE: &str = "client certificate";
    if policy.relay.certificates.is_empty() {
        return None;
    }
    let Some(shown) = question.certificate else {
        trace.rule(RULE, false, "the client showed none");
        return None;
    };
    let Some(label) = certificate(question, policy) else {
        let names = match shown.names.is_empty() {
            true => "no name that counts".to_owned(),
            false => format!("the names {}", shown.names.join(", ")),
        };
        trace.rule(
            RULE,
            false,
            format!("the one with the fingerprint {} and {names} is not listed", shown.sha256),
        );
        return None;
    };
    trace.rule(RULE, true, format!("the one with the fingerprint {} is {label}", shown.sha256));
    Some(Reason::ClientCertificate { label })
}

fn certificate(question: &Question<'_>, policy: &Policy) -> Option<String> {
    let (shown, listed) = (question.certificate?, &policy.relay.certificates);
    let label = listed.get(&shown.sha256).or_else(|| shown.names.iter().find_map(|name| listed.get(name)));
    label.cloned()
}

fn by_login(question: &Question<'_>, trace: &mut Trace) -> Option<Reason> {
    let Some(login) = question.login else {
        trace.rule("login", false, "not logged in");
        return None;
    };
    trace.rule("login", true, format!("logged in as {}", login.name));
    Some(Reason::Authenticated { login: login.name.clone() })
}
