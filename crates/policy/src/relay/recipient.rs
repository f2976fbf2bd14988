//! May mail go there?

use std::time::SystemTime;

use postern_config::Via;
use postern_smtp::{Address, Domain, ForwardPath, Host, ReversePath};

use super::client::{require_client, right_of_client};
use super::rules::WhoExists;
use super::{Answer, Question, Reason, Stage, Trace, not_among};
use crate::Policy;
use crate::directory::Resolution;
use crate::facts::Wanted;
use crate::standing::recipients::Said;

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
    let right = match relay_domain(recipient, domain, question.now, policy, trace)? {
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
    now: SystemTime,
    policy: &Policy,
    trace: &mut Trace,
) -> Result<Option<Reason>, Reason> {
    const RULE: &str = "relay domain";
    let rules = &policy.relay;
    let Some(recipients) = rules.relay_domains.get(domain) else {
        let fact = not_among(domain.as_str(), "", rules.relay_domains.len(), "relay domain");
        trace.rule(RULE, false, fact);
        return Ok(None);
    };
    let local = recipient.local.as_str().to_lowercase();
    match recipients {
        // RFC 5321 §4.5.1: postmaster exists wherever mail is relayed for.
        WhoExists::Listed(list) if list.contains(&local) || local == POSTMASTER => {
            trace.rule(RULE, true, format!("{recipient} is a recipient of the relay domain {domain}"));
        }
        WhoExists::Listed(list) => {
            let fact = not_among(&recipient.to_string(), "", list.len(), "recipient");
            trace.rule(RULE, false, format!("{fact} of the relay domain {domain}"));
            return Err(Reason::UnknownRecipient);
        }
        // The primary may read these as routes and pass the mail on to a third party, as if it came from us.
        WhoExists::Anybody | WhoExists::Asked if holds_route(&local) => {
            trace.rule(
                RULE,
                false,
                format!("{recipient} holds a route of the sender's choice (%, ! or a second @)"),
            );
            return Ok(None);
        }
        WhoExists::Asked if local != POSTMASTER => {
            let said = policy.standing.recipients.find(recipient, now);
            called_forward(recipient, domain, said, trace)?;
        }
        WhoExists::Anybody | WhoExists::Asked => {
            trace.rule(RULE, true, format!("{domain} is a relay domain"));
        }
    }
    Ok(Some(Reason::RelayDomain))
}

const POSTMASTER: &str = "postmaster";

fn holds_route(local: &str) -> bool {
    local.contains(['%', '!', '@'])
}

/// What follows from what the server of the relay domain said. Only a clear no is one: mail for a server that is down waits
/// here, which is what we are for.
fn called_forward(
    recipient: &Address,
    domain: &Domain,
    said: Option<Said>,
    trace: &mut Trace,
) -> Result<(), Reason> {
    const RULE: &str = "relay domain, call forward";
    match said {
        Some(Said::Exists { host }) => {
            trace.rule(RULE, true, format!("{host}, the primary of {domain}, takes mail for {recipient}"));
            Ok(())
        }
        Some(Said::Unknown { host, reply }) => {
            trace.rule(RULE, false, format!("{host}, the primary of {domain}, refuses {recipient}: {reply}"));
            Err(Reason::UnknownRecipient)
        }
        Some(Said::Nothing(why)) => {
            let fact = format!(
                "the primary of {domain} does not say whether {recipient} exists, so it is taken: {why}"
            );
            trace.rule(RULE, true, fact);
            Ok(())
        }
        None => {
            let fact = format!(
                "the primary of {domain} has not been asked for {recipient} yet; a client waits for its answer"
            );
            trace.rule(RULE, true, fact);
            Ok(())
        }
    }
}

/// The recipient whose server must be asked first.
pub(super) fn wanted(question: &Question<'_>, policy: &Policy) -> Option<Wanted> {
    let Stage::Rcpt(ForwardPath::Address(recipient)) = question.stage else { return None };
    if !matches!(policy.relay.relay_domains.get(recipient.domain()?), Some(WhoExists::Asked)) {
        return None;
    }
    let local = recipient.local.as_str().to_lowercase();
    let is_decided = local == POSTMASTER
        || holds_route(&local)
        || policy.standing.recipients.find(recipient, question.now).is_some();
    (!is_decided).then(|| Wanted::Recipient(recipient.clone()))
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
        let fact = match routes.len() {
            0 => "no route is configured".to_owned(),
            1 => "the one route does not match".to_owned(),
            count => format!("none of the {count} routes matches"),
        };
        trace.rule("route", false, fact);
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
