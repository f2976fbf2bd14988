//! May this sender be used, in the envelope and in the header?

use postern_smtp::{Address, ReversePath};

use super::client::require_client;
use super::{Answer, HeaderSenders, Question, Reason, Trace, counted};
use crate::Policy;
use crate::accounts::Login;
use crate::sender::{owns, owns_in_domain};

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
    let owned = owns(login, sender, &policy.directory);
    let fact = format!("{} may {}send as {sender}", login.name, if owned { "" } else { "not " });
    if !trace.rule("sender of login", owned, fact) {
        let (login_name, sender_text) = (login.name.clone(), sender.to_string());
        return Err(match owns_in_domain(login, sender, &policy.directory) {
            true => Reason::LoginLacksPermission { login: login_name, sender: sender_text },
            false => Reason::SenderDomainNotListed { login: login_name, sender: sender_text },
        });
    }
    Ok(Reason::SenderAllowed)
}

/// The end of data.
pub(super) fn message(
    question: &Question<'_>,
    senders: &HeaderSenders,
    policy: &Policy,
    trace: &mut Trace,
) -> Answer {
    let Some(login) = question.login else {
        trace.rule(
            "header senders of login",
            false,
            "nobody is logged in, so From and Sender are not bound to a login",
        );
        return Ok(Reason::SenderAllowed);
    };
    let from = single_from(senders, trace)?;
    header_field("From", from, login, policy, trace)?;
    for field in &senders.sender {
        let addresses = field.as_ref().map_err(|problem| {
            trace.rule("header Sender", false, format!("the Sender field cannot be read: {problem}"));
            header_from_mismatch(login, "Sender", problem.clone())
        })?;
        header_field("Sender", addresses, login, policy, trace)?;
    }
    Ok(Reason::SenderAllowed)
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

/// Every address of the field must be the login's.
fn header_field(
    field: &str,
    addresses: &[Address],
    login: &Login,
    policy: &Policy,
    trace: &mut Trace,
) -> Result<(), Reason> {
    let rule = format!("header {field}");
    let Some(foreign) = addresses.iter().find(|address| !owns(login, address, &policy.directory)) else {
        let count = counted(addresses.len(), "address");
        trace.rule(&rule, true, format!("{} may send as the {count} in {field}", login.name));
        return Ok(());
    };
    trace.rule(&rule, false, format!("{} may not send as {foreign}", login.name));
    Err(header_from_mismatch(login, field, foreign.to_string()))
}

fn header_from_mismatch(login: &Login, field: &str, address: String) -> Reason {
    Reason::HeaderFromMismatch { login: login.name.clone(), field: field.to_owned(), address }
}
