//! May mail go there?

use postern_config::Via;
use postern_smtp::{Address, Domain, ForwardPath, Host, ReversePath};

use super::client::{require_client, right_of_client};
use super::{Answer, Question, Reason, Trace, counted};
use crate::Policy;
use crate::directory::Resolution;

/// RCPT TO.
pub(super) fn rcpt(
    question: &Question<'_>,
    path: &ForwardPath,
    policy: &Policy,
    trace: &mut Trace,
) -> Answer {
    require_client(question, policy, trace)?;
    let resolution = policy.directory.resolve(path, question.local);
    let (ForwardPath::Address(recipient), Resolution::NotLocal) = (path, &resolution) else {
        let reason = local_recipient(path, &resolution, trace)?;
        refusing_route_of_alias(question.reverse_path, &resolution, policy, trace)?;
        return Ok(reason);
    };
    trace.rule("local recipient", false, format!("the domain of {recipient} is not local"));
    let Host::Domain(domain) = &recipient.host else {
        return address_literal(question, recipient, policy, trace);
    };
    let right = match relay_domain(recipient, domain, policy, trace)? {
        Some(right) => Some(right),
        None => right_of_client(question, recipient, policy, trace)?,
    };
    let right = right.ok_or(Reason::NotTrustedNotLocal)?;
    refusing_route(question.reverse_path, recipient, policy, trace)?;
    Ok(right)
}

fn local_recipient(path: &ForwardPath, resolution: &Resolution, trace: &mut Trace) -> Answer {
    let (matched, fact, answer) = match resolution {
        Resolution::Recipients(list) => (true, delivers_to(path, list), Ok(Reason::LocalRecipient)),
        Resolution::AliasLoop => {
            (false, format!("the alias {path} leads back to itself"), Err(Reason::AliasLoop))
        }
        // `<Postmaster>` always leads somewhere, so only an address can be unknown.
        Resolution::Unknown | Resolution::NotLocal => (
            false,
            format!("{path} is in a domain of ours, but nobody has that name"),
            Err(Reason::UnknownRecipient),
        ),
    };
    trace.rule("local recipient", matched, fact);
    answer
}

fn delivers_to(path: &ForwardPath, list: &[Address]) -> String {
    match list {
        [one] => format!("{path} is {one}"),
        _ => format!("{path} is an alias of {} recipients", list.len()),
    }
}

/// A literal that is not ours has no MX and is nobody's domain: we send there for no one. Strangers hear what they would
/// hear about any foreign recipient.
fn address_literal(
    question: &Question<'_>,
    recipient: &Address,
    policy: &Policy,
    trace: &mut Trace,
) -> Answer {
    right_of_client(question, recipient, policy, trace)?.ok_or(Reason::NotTrustedNotLocal)?;
    trace.rule("destination", false, format!("{} is an address literal, and not ours", recipient.host));
    Err(Reason::BadDestination)
}

/// `None`: the domain gives no right; the client may still have one.
fn relay_domain(
    recipient: &Address,
    domain: &Domain,
    policy: &Policy,
    trace: &mut Trace,
) -> Result<Option<Reason>, Reason> {
    const RULE: &str = "relay domain";
    let rules = &policy.relay;
    let Some(recipients) = rules.relay_domains.get(domain) else {
        let count = counted(rules.relay_domains.len(), "relay domain");
        trace.rule(RULE, false, format!("{domain} is none of {count}"));
        return Ok(None);
    };
    let local = recipient.local.as_str().to_lowercase();
    match recipients {
        // RFC 5321 §4.5.1: postmaster exists wherever mail is relayed for.
        Some(list) if list.contains(&local) || local == "postmaster" => {
            trace.rule(RULE, true, format!("{recipient} is a recipient of the relay domain {domain}"));
        }
        Some(list) => {
            let count = counted(list.len(), "recipient");
            trace.rule(
                RULE,
                false,
                format!("{recipient} is none of the {count} of the relay domain {domain}"),
            );
            return Err(Reason::UnknownRecipient);
        }
        // The primary may read these as routes and pass the mail on to a third party, as if it came from us.
        None if local.contains(['%', '!', '@']) => {
            trace.rule(
                RULE,
                false,
                format!("{recipient} holds a route of the sender's choice (%, ! or a second @)"),
            );
            return Ok(None);
        }
        None => {
            trace.rule(RULE, true, format!("{domain} is a relay domain"));
        }
    }
    Ok(Some(Reason::RelayDomain))
}

/// The first route that matches decides; only then does it matter whether it refuses.
fn refusing_route(
    sender: &ReversePath,
    recipient: &Address,
    policy: &Policy,
    trace: &mut Trace,
) -> Result<(), Reason> {
    let routes = &policy.relay.routes;
    let Some(at) = routes.iter().position(|route| route.matches(sender, recipient)) else {
        trace.rule("route", false, format!("none of {} matches", counted(routes.len(), "route")));
        return Ok(());
    };
    let route = &routes[at];
    let fact = format!("route {} (domain {:?}, sender {:?}) matches", at + 1, route.domain, route.sender);
    let refuses = route.via == Via::Reject;
    trace.rule("route", true, format!("{fact} and {}", if refuses { "refuses" } else { "does not refuse" }));
    match refuses {
        true => Err(Reason::RecipientPolicy { text: route.text.clone().unwrap_or_default() }),
        false => Ok(()),
    }
}

/// What an alias leads to elsewhere goes by the routes too: refused later, it would come back to a sender who may be forged.
fn refusing_route_of_alias(
    sender: &ReversePath,
    resolution: &Resolution,
    policy: &Policy,
    trace: &mut Trace,
) -> Result<(), Reason> {
    let Resolution::Recipients(list) = resolution else { return Ok(()) };
    let is_ours =
        |address: &Address| address.domain().is_some_and(|domain| policy.directory.is_local(domain));
    list.iter()
        .filter(|address| !is_ours(address))
        .try_for_each(|address| refusing_route(sender, address, policy, trace))
}
