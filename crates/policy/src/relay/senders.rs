//! May this sender be used, in the envelope and in the header?
//!
//! First the rights of the login, from the configuration alone. Then, for each domain it sends from, whether it is verified,
//! and what others say: SPF, where the right hangs on it, and the owner's lock.

use postern_config::RequireVerified;
use postern_smtp::{Address, Domain, ReversePath};

use super::client::{binding_grants, require_client};
use super::rules::GrantRule;
use super::{Answer, HeaderSenders, Question, Reason, SenderField, Trace, counted};
use crate::Policy;
use crate::accounts::Login;
use crate::owners_lock::{OwnersLock, lock_name};
use crate::sender::{Domains, MOST_DOMAINS, Right, note_domain, right};
use crate::sender_domains::{Known, SenderPolicy};
use crate::verification::State;

/// The rule about the DNS of a domain of ours.
pub(super) const VERIFIED: &str = "verified domain";

/// MAIL FROM.
pub(super) fn mail(question: &Question<'_>, policy: &Policy, trace: &mut Trace) -> Answer {
    require_client(question, policy, trace)?;
    let ReversePath::Address(sender) = question.reverse_path else {
        trace.rule("null sender", true, "the null sender is everybody's (RFC 5321 §4.5.5)");
        return Ok(Reason::SenderAllowed);
    };
    let Some(login) = question.login else {
        trace.rule("sender of login", false, "nobody is logged in, so the sender is not bound to a login");
        return Ok(Reason::SenderAllowed);
    };
    let right = right(login, sender, &policy.directory);
    trace.rule("sender of login", right.is_held(), fact(login, sender, right));
    let (login_name, sender_text) = (login.name.clone(), sender.to_string());
    match right {
        Right::Neighbour => {
            return Err(Reason::LoginLacksPermission { login: login_name, sender: sender_text });
        }
        Right::Stranger => {
            return Err(Reason::SenderDomainNotListed { login: login_name, sender: sender_text });
        }
        Right::Granted | Right::Local | Right::Any | Right::IfSpf => {}
    }
    let mut domains = Domains::new();
    note_domain(&mut domains, sender, right);
    domains_permit(question, login, domains, policy, trace)?;
    Ok(Reason::SenderAllowed)
}

fn fact(login: &Login, sender: &Address, right: Right) -> String {
    let how = match right {
        Right::Granted => "may send as {}: it was granted by name",
        Right::Local => "may send as {}: it may send from every [[domain]]",
        Right::Any => "may send as {}: it may send as anybody",
        Right::IfSpf => "may send as {} if SPF covers this server",
        Right::Neighbour | Right::Stranger => "may not send as {}",
    };
    format!("{} {}", login.name, how.replace("{}", &sender.to_string()))
}

/// The end of data.
pub(super) fn message(
    question: &Question<'_>,
    senders: &HeaderSenders,
    policy: &Policy,
    trace: &mut Trace,
) -> Answer {
    let Some(login) = question.login else {
        return match &binding_grants(question, policy)[..] {
            [first, others @ ..] => message_by_grant(first, others, senders, policy, trace),
            [] => {
                trace.rule(
                    "header senders of login",
                    false,
                    "nobody is logged in, so From and Sender are not bound to a login",
                );
                Ok(Reason::SenderAllowed)
            }
        };
    };
    let mut domains = Domains::new();
    let from = single_from(senders, trace)?;
    header_field("From", from, login, policy, trace, &mut domains)?;
    for (name, fields) in senders.others(policy.senders.check_reply_to) {
        for field in fields {
            let addresses =
                readable(name, field, trace).map_err(|problem| header_from_mismatch(login, name, problem))?;
            header_field(name, addresses, login, policy, trace, &mut domains)?;
        }
    }
    if domains.len() > MOST_DOMAINS {
        let problem = format!("the header names senders of more than {MOST_DOMAINS} domains");
        trace.rule("header senders", false, problem.clone());
        return Err(Reason::HeaderFromUnusable { problem });
    }
    domains_permit(question, login, domains, policy, trace)?;
    Ok(Reason::SenderAllowed)
}

/// A header whose senders are bound to somebody can be read in one way only.
pub(super) fn well_formed(
    question: &Question<'_>,
    senders: &HeaderSenders,
    policy: &Policy,
    trace: &mut Trace,
) -> Result<(), Reason> {
    if !senders.is_malformed || (question.login.is_none() && binding_grants(question, policy).is_empty()) {
        return Ok(());
    }
    trace.rule("header", false, "there is a NUL in it, or a line that is no header field");
    Err(Reason::MalformedHeader)
}

/// The addresses of the one From field that a message must have (RFC 5322 §3.6). With several, readers differ in which one
/// they show.
fn single_from<'a>(senders: &'a HeaderSenders, trace: &mut Trace) -> Result<&'a [Address], Reason> {
    let problem = match senders.from.as_slice() {
        [Ok(addresses)] if !addresses.is_empty() => return Ok(addresses),
        [] => "there is no From field".to_owned(),
        [Ok(_)] => "the From field has no address".to_owned(),
        [Err(problem)] => format!("the From field cannot be read: {problem}"),
        several => format!("there are {} From fields", several.len()),
    };
    trace.rule("header From", false, problem.clone());
    Err(Reason::HeaderFromUnusable { problem })
}

/// The addresses of another field. Only Reply-To may be empty: nobody reads a sender out of that.
fn readable<'a>(name: &str, field: &'a SenderField, trace: &mut Trace) -> Result<&'a [Address], String> {
    let problem = match field {
        Ok(addresses) if !addresses.is_empty() || name == "Reply-To" => return Ok(addresses),
        Ok(_) => "no address",
        Err(problem) => problem,
    };
    trace.rule(&format!("header {name}"), false, format!("the {name} field cannot be read: {problem}"));
    Err(problem.to_owned())
}

/// The end of data, from a client with grants for some senders: the header names no others.
fn message_by_grant(
    first: &GrantRule,
    others: &[&GrantRule],
    senders: &HeaderSenders,
    policy: &Policy,
    trace: &mut Trace,
) -> Answer {
    let label = &first.label;
    let scopes: Vec<_> = first.senders.iter().chain(others.iter().flat_map(|grant| &grant.senders)).collect();
    let mismatch = |field: &str, address: String| Reason::HeaderFromMismatch {
        login: String::new(),
        grant: Some(label.clone()),
        field: field.to_owned(),
        address,
    };
    let from = ("From", single_from(senders, trace)?);
    let mut fields = vec![from];
    for (name, list) in senders.others(policy.senders.check_reply_to) {
        for field in list {
            let addresses = readable(name, field, trace).map_err(|problem| mismatch(name, problem))?;
            fields.push((name, addresses));
        }
    }
    for (name, addresses) in fields {
        let rule = format!("header {name}");
        let covered = |address: &&Address| scopes.iter().any(|scope| scope.holds(address));
        if let Some(address) = addresses.iter().find(|address| !covered(address)) {
            trace.rule(&rule, false, format!("the grant {label} does not cover {address}"));
            return Err(mismatch(name, address.to_string()));
        }
        let count = counted(addresses.len(), "address");
        trace.rule(&rule, true, format!("the grant {label} covers the {count} in {name}"));
    }
    Ok(Reason::SenderAllowed)
}

/// Every address of the field must be the login's.
fn header_field<'a>(
    field: &str,
    addresses: &'a [Address],
    login: &Login,
    policy: &Policy,
    trace: &mut Trace,
    domains: &mut Domains<'a>,
) -> Result<(), Reason> {
    let rule = format!("header {field}");
    for address in addresses {
        let right = right(login, address, &policy.directory);
        if !right.is_held() {
            trace.rule(&rule, false, fact(login, address, right));
            return Err(header_from_mismatch(login, field, address.to_string()));
        }
        note_domain(domains, address, right);
    }
    let count = counted(addresses.len(), "address");
    trace.rule(&rule, true, format!("{} may send as the {count} in {field}", login.name));
    Ok(())
}

fn header_from_mismatch(login: &Login, field: &str, address: String) -> Reason {
    let (login, field) = (login.name.clone(), field.to_owned());
    Reason::HeaderFromMismatch { login, grant: None, field, address }
}

/// What others say about the domains that the login sends from.
fn domains_permit(
    question: &Question<'_>,
    login: &Login,
    domains: Domains<'_>,
    policy: &Policy,
    trace: &mut Trace,
) -> Result<(), Reason> {
    for (domain, hangs_on_spf) in domains {
        verified(domain, policy, trace)?;
        if hangs_on_spf {
            sender_policy(question, login, domain, policy, trace)?;
        }
        if policy.senders.owners_lock {
            owners_lock(question, login, domain, policy, trace)?;
        }
    }
    Ok(())
}

/// Whether a `[[domain]]` is verified, where that is asked for.
fn verified(domain: &Domain, policy: &Policy, trace: &mut Trace) -> Result<(), Reason> {
    let required = policy.senders.require_verified;
    if required == RequireVerified::Off || !policy.directory.is_configured(domain) {
        return Ok(());
    }
    let report = policy.standing.sender_domains.report(domain);
    let (state, missing) = (report.state.as_str(), report.missing());
    if report.state == State::Verified {
        trace.rule(VERIFIED, true, format!("{domain} is verified"));
        return Ok(());
    }
    let fact = format!("{domain} is {state}, {missing} is missing");
    if required == RequireVerified::Warn {
        trace.rule(VERIFIED, false, format!("{fact}; let through, as require_verified is \"warn\""));
        return Ok(());
    }
    if report.is_open() {
        let what = format!("whether its records are in order: {missing} is missing");
        return Err(dns_trouble(VERIFIED, domain, &what, trace));
    }
    trace.rule(VERIFIED, false, fact);
    Err(Reason::DomainNotVerified { domain: domain.to_string(), state: state.to_owned(), missing })
}

fn sender_policy(
    question: &Question<'_>,
    login: &Login,
    domain: &Domain,
    policy: &Policy,
    trace: &mut Trace,
) -> Result<(), Reason> {
    const RULE: &str = "SPF of the sender's domain";
    match policy.standing.sender_domains.policy(domain, question.now, policy.senders.refresh) {
        Known::Answer(answer) => match &*answer {
            SenderPolicy::Covers => {
                trace.rule(RULE, true, format!("{domain} lets this server send for it"));
                Ok(())
            }
            SenderPolicy::DoesNot(result) => {
                trace.rule(RULE, false, format!("{domain} does not let this server send for it: {result}"));
                let (login, domain) = (login.name.clone(), domain.to_string());
                Err(Reason::SpfDoesNotCover { login, domain, result: result.clone() })
            }
        },
        Known::Trouble(why) => Err(dns_trouble(RULE, domain, &format!("its SPF record: {why}"), trace)),
        Known::Nothing => Err(dns_trouble(RULE, domain, "its SPF record was not looked up", trace)),
    }
}

fn owners_lock(
    question: &Question<'_>,
    login: &Login,
    domain: &Domain,
    policy: &Policy,
    trace: &mut Trace,
) -> Result<(), Reason> {
    const RULE: &str = "owner's lock";
    let lock = match policy.standing.sender_domains.lock(domain, question.now, policy.senders.refresh) {
        Known::Answer(lock) => lock,
        Known::Trouble(why) => {
            return Err(dns_trouble(
                RULE,
                domain,
                &format!("the TXT record at _postern.{domain}: {why}"),
                trace,
            ));
        }
        Known::Nothing => {
            let what = format!("the TXT record at _postern.{domain} was not looked up");
            return Err(dns_trouble(RULE, domain, &what, trace));
        }
    };
    let name = lock_name(&login.name, &policy.senders.hostname);
    let problem = match &*lock {
        OwnersLock::Open => {
            trace.rule(RULE, true, format!("there is none at _postern.{domain}"));
            return Ok(());
        }
        OwnersLock::Logins(logins) if logins.contains(&name) => {
            trace.rule(RULE, true, format!("the TXT record at _postern.{domain} names {name}"));
            return Ok(());
        }
        OwnersLock::Logins(logins) => {
            let others = counted(logins.len(), "other login");
            trace.rule(
                RULE,
                false,
                format!("the TXT record at _postern.{domain} names {others}, not {name}"),
            );
            None
        }
        OwnersLock::Broken(problem) => {
            trace.rule(
                RULE,
                false,
                format!("the TXT record at _postern.{domain} cannot be understood: {problem}"),
            );
            Some(problem.clone())
        }
    };
    Err(Reason::OwnersLock { login: name, domain: domain.to_string(), problem })
}

/// Never a pass, and never a lasting no.
fn dns_trouble(rule: &str, domain: &Domain, what: &str, trace: &mut Trace) -> Reason {
    trace.rule(rule, false, format!("DNS does not say: {what}"));
    Reason::DnsTrouble { domain: domain.to_string(), what: what.to_owned() }
}
