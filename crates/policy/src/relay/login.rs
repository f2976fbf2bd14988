//! May this login be used, from here, and for so much?

use postern_config::{ListenerKind, LoginState};
use postern_smtp::ForwardPath;

use super::{Answer, Decision, Question, Reason, Trace, client, not_among};
use crate::Policy;
use crate::accounts::{Login, holds};
use crate::standing::usage::{Exceeded, Load};

/// Whether AUTH is taken at all: never on port 25, never in clear text (RFC 4954 §4, RFC 8314 §3.3).
///
/// # Errors
/// Why it is not.
pub fn login_offered(listener: ListenerKind, tls: bool) -> Result<(), Reason> {
    match (listener.is_submission(), tls) {
        (false, _) => Err(Reason::LoginNotOffered { missing: "a submission port".to_owned() }),
        (true, false) => Err(Reason::LoginNotOffered { missing: "TLS".to_owned() }),
        (true, true) => Ok(()),
    }
}

fn offered(question: &Question<'_>, trace: &mut Trace) -> Result<(), Reason> {
    const OFFERED: &str = "login offered";
    let listener = question.listener.as_str();
    let answer = login_offered(question.listener, question.tls);
    let fact = match answer {
        Ok(()) => format!("the {listener} port takes passwords under TLS"),
        Err(_) if question.listener.is_submission() => {
            format!("the {listener} port takes no passwords without TLS")
        }
        Err(_) => format!("the {listener} port takes no passwords"),
    };
    trace.rule(OFFERED, answer.is_ok(), fact);
    answer
}

/// AUTH: before it begins, and after the right password.
pub(super) fn login(question: &Question<'_>, policy: &Policy, trace: &mut Trace) -> Answer {
    client::not_banned(question, true, policy, trace)?;
    offered(question, trace)?;
    let Some(login) = question.login else {
        trace.rule("login", false, "not logged in");
        return Err(Reason::NotAuthenticated);
    };
    usable(question, login, policy, trace)?;
    Ok(Reason::LoginAllowed { login: login.name.clone() })
}

/// State and networks of the login, if there is one: also in an open session, as both can change meanwhile.
pub(super) fn still_usable(
    question: &Question<'_>,
    policy: &Policy,
    trace: &mut Trace,
) -> Result<(), Reason> {
    question.login.map_or(Ok(()), |login| usable(question, login, policy, trace))
}

fn usable(question: &Question<'_>, login: &Login, policy: &Policy, trace: &mut Trace) -> Result<(), Reason> {
    const STATE: &str = "state of login";
    let (name, access) = (&login.name, &login.access);
    let suspended = |state: LoginState, why: &str, trace: &mut Trace| {
        let colon = if why.is_empty() { "" } else { ": " };
        trace.rule(STATE, false, format!("{name} is {}{colon}{why}", state.as_str()));
        let (state, why) = (state.as_str().to_owned(), why.to_owned());
        Err(Reason::LoginSuspended { login: name.clone(), state, why })
    };
    if access.state != LoginState::Active {
        return suspended(access.state, access.why.as_deref().unwrap_or_default(), trace);
    }
    if let Some(suspension) = policy.standing.suspensions.find(name) {
        return suspended(suspension.state, &suspension.why, trace);
    }
    trace.rule(STATE, true, format!("{name} is active"));
    if access.networks.is_empty() {
        return Ok(());
    }
    let client = question.client.to_canonical();
    let count = access.networks.len();
    if !holds(&access.networks, client) {
        trace.rule(
            "networks of login",
            false,
            format!(
                "{} that {name} may be used from",
                not_among(&client.to_string(), "in ", count, "network")
            ),
        );
        return Err(Reason::ClientAddressNotAllowed { login: name.clone(), client: client.to_string() });
    }
    let which =
        if count == 1 { "the one network".to_owned() } else { format!("one of the {count} networks") };
    trace.rule("networks of login", true, format!("{client} is in {which} that {name} may be used from"));
    Ok(())
}

/// Whether the login has room for one more recipient.
pub(super) fn room_for(
    question: &Question<'_>,
    path: &ForwardPath,
    policy: &Policy,
    trace: &mut Trace,
) -> Result<(), Reason> {
    let Some(login) = question.login else { return Ok(()) };
    let is_new = match path {
        ForwardPath::Address(address) => policy.standing.usage.is_new(&login.name, address),
        ForwardPath::Postmaster => false,
    };
    room(question, login, Load { recipients: question.recipients + 1, is_new }, policy, trace)
}

/// Whether the login has room for the whole message: other sessions may have used it up meanwhile.
pub(super) fn room_for_message(
    question: &Question<'_>,
    policy: &Policy,
    trace: &mut Trace,
) -> Result<(), Reason> {
    let Some(login) = question.login else { return Ok(()) };
    room(question, login, Load { recipients: question.recipients, is_new: false }, policy, trace)
}

fn room(
    question: &Question<'_>,
    login: &Login,
    load: Load,
    policy: &Policy,
    trace: &mut Trace,
) -> Result<(), Reason> {
    match policy.standing.usage.room(&login.name, &login.access.limits, load, question.now) {
        Ok(used) => {
            trace.rule(LIMITS, true, format!("{} has room: {used}", login.name));
            Ok(())
        }
        Err(exceeded) => Err(quota(login, exceeded, trace)),
    }
}

const LIMITS: &str = "limits of login";

fn quota(login: &Login, exceeded: Exceeded, trace: &mut Trace) -> Reason {
    let Exceeded { limit, used, resets_in } = exceeded;
    let fact = format!("{} has a limit of {limit}, and this would make {used}", login.name);
    trace.rule(LIMITS, false, fact);
    let resets_in = resets_in.map(|wait| wait.as_secs().max(1));
    Reason::Quota { login: login.name.clone(), limit, used, resets_in }
}

/// The decision where a limit turns out to be passed when it is charged: another session of the login was faster.
pub fn over_limit(login: &Login, exceeded: Exceeded) -> Decision {
    let mut trace = Trace::default();
    let reason = quota(login, exceeded, &mut trace);
    Decision { verdict: reason.verdict(), reason, trace }
}
