//! Logins as the daemon knows them, and the bans of those who guess at them.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use ipnet::IpNet;
use postern_config::{Account, LoginState};

use crate::Shared;
use crate::api::accounts::{
    AccountChange, AccountChanged, AccountState, AccountStates, AccountVerb, AccountView, AddBan,
    AppPasswordView, Ban, BanList, LimitsView, LockAccount, RemoveBan, ShowAccount, Suspension,
};
use crate::api::{AuditEvent, ProblemKind};
use crate::relay::without_host_bits;
use crate::rights::Writer;
use crate::server::{Answer, App, Failure, Input, answer, failure};
use crate::verbs::MAX_REASON;

/// The largest networks that may be banned: those of a large provider.
const SHORTEST_V4: u8 = 8;
const SHORTEST_V6: u8 = 24;
/// What `account lock` can make of a login.
const LOCKS: [LoginState; 2] = [LoginState::Suspended, LoginState::QuotaLocked];
/// The longest ban.
const LONGEST_BAN: u64 = 10 * 366 * 86_400;

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/accounts", get(states))
        .route("/v1/accounts/show", post(show))
        .route("/v1/accounts/lock", post(lock))
        .route("/v1/accounts/changed", post(changed))
        .route("/v1/bans", get(bans))
        .route("/v1/bans/add", post(ban))
        .route("/v1/bans/remove", post(lift))
}

async fn states(State(shared): State<Shared>) -> Answer<AccountStates> {
    let (config, policy) = (shared.config.load(), shared.policy.load());
    let state = |account: &Account| {
        let name = account.name.trim().to_lowercase();
        let suspension = policy.standing.suspensions.find(&name);
        AccountState { name, state: account.state, suspension }
    };
    let mut accounts: Vec<AccountState> = config.accounts.iter().map(state).collect();
    accounts.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    answer(AccountStates { accounts })
}

/// In force when the answer is given: it hangs on no file and no reload.
async fn lock(
    State(app): State<App>,
    Writer(peer): Writer,
    Input(request): Input<LockAccount>,
) -> Answer<AccountView> {
    let LockAccount { name, state, reason } = request;
    checked_reason(reason.as_deref())?;
    if !LOCKS.contains(&state) {
        let problem = format!("{} locks nothing: suspended, or quota-locked", state.as_str());
        return Err(failure(ProblemKind::BadRequest, problem));
    }
    let unknown = || failure(ProblemKind::NotFound, format!("there is no account {name:?}"));
    let policy = app.shared.policy.load_full();
    let login = policy.accounts.login(&name).ok_or_else(unknown)?.name;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let why = reason.clone().unwrap_or_else(|| "locked by an operator".to_owned());
    policy.standing.suspensions.lock(Suspension { login, since, why, state, by_hand: true });
    let detail = Some(state.as_str().to_owned());
    let object = Some(name.clone());
    let event = AuditEvent {
        object,
        detail,
        reason,
        matched: 1,
        changed: 1,
        ..AuditEvent::new("account-suspend", peer.uid)
    };
    app.audit.note(event).await;
    answer(view(&app.shared, &name).ok_or_else(unknown)?)
}

async fn show(State(shared): State<Shared>, Input(request): Input<ShowAccount>) -> Answer<AccountView> {
    let unknown = || failure(ProblemKind::NotFound, format!("there is no account {:?}", request.name));
    answer(view(&shared, &request.name).ok_or_else(unknown)?)
}

fn view(shared: &Shared, name: &str) -> Option<AccountView> {
    let (config, policy) = (shared.config.load(), shared.policy.load());
    let login = policy.accounts.login(name)?;
    let is_it = |account: &&Account| account.name.trim().to_lowercase() == login.name;
    let account = config.accounts.iter().find(is_it)?;
    let now = SystemTime::now();
    let limits = login.access.limits;
    let app_passwords = account.app_passwords.iter().map(|app| AppPasswordView {
        label: app.label.clone(),
        networks: app.networks.clone(),
        expires: app.expires.clone(),
        expired: app.end().is_some_and(|end| end <= now),
    });
    Some(AccountView {
        name: account.name.clone(),
        state: account.state,
        state_reason: account.state_reason.clone(),
        suspension: policy.standing.suspensions.find(&login.name),
        permission: login.permission,
        networks: account.networks.clone(),
        limits: LimitsView {
            per_message: limits.per_message,
            per_hour: limits.per_hour,
            per_day: limits.per_day,
            new_recipients_per_day: limits.new_recipients_per_day,
        },
        used: policy.standing.usage.totals(&login.name, now),
        app_passwords: app_passwords.collect(),
    })
}

/// The file was edited by whoever asks; here it is seen that it is in force.
async fn changed(
    State(app): State<App>,
    Writer(peer): Writer,
    Input(request): Input<AccountChange>,
) -> Answer<AccountChanged> {
    let AccountChange { name, verb, detail, reason } = request;
    checked_reason(reason.as_deref())?;
    let lifted = match verb {
        AccountVerb::Unlock | AccountVerb::Enable => {
            app.shared.policy.load().standing.suspensions.lift(&name.trim().to_lowercase())
        }
        _ => None,
    };
    let mut account = view(&app.shared, &name);
    let problem = not_in_force(verb, account.as_ref());
    if problem.is_none() && matches!(verb, AccountVerb::Lock | AccountVerb::Disable) {
        app.shared.policy.load().standing.suspensions.settle(&name.trim().to_lowercase());
        account = view(&app.shared, &name);
    }
    let event = AuditEvent {
        object: Some(name.clone()),
        detail,
        reason,
        matched: 1,
        changed: usize::from(problem.is_none()),
        error: problem.clone(),
        ..AuditEvent::new(verb.as_str(), peer.uid)
    };
    app.audit.note(event).await;
    match problem {
        None => answer(AccountChanged { account, lifted }),
        Some(problem) => Err(failure(ProblemKind::Conflict, problem)),
    }
}

/// What the daemon knows differs from what was done.
fn not_in_force(verb: AccountVerb, account: Option<&AccountView>) -> Option<String> {
    let state = account.map(|account| account.state);
    let wanted = match verb {
        AccountVerb::Remove => None,
        AccountVerb::Lock => state.filter(|state| LOCKS.contains(state)).or(Some(LoginState::Suspended)),
        AccountVerb::Disable => Some(LoginState::Disabled),
        AccountVerb::Unlock | AccountVerb::Enable => Some(LoginState::Active),
        AccountVerb::Add
        | AccountVerb::Grant
        | AccountVerb::Revoke
        | AccountVerb::Password
        | AccountVerb::AppPasswordAdd
        | AccountVerb::AppPasswordRemove => state,
    };
    let is_there = verb != AccountVerb::Remove;
    if state == wanted && state.is_some() == is_there {
        return None;
    }
    let word = |state: Option<LoginState>| state.map_or("gone", LoginState::as_str);
    let problem = format!(
        "the daemon does not have the change: for it the account is {}, not {}; see its log and `posternctl reload`",
        word(state),
        word(wanted)
    );
    Some(problem)
}

fn checked_reason(reason: Option<&str>) -> Result<(), Failure> {
    match reason.filter(|reason| reason.chars().count() > MAX_REASON || reason.contains(char::is_control)) {
        Some(_) => {
            let problem = format!("a reason is one line of at most {MAX_REASON} characters");
            Err(failure(ProblemKind::BadRequest, problem))
        }
        None => Ok(()),
    }
}

async fn bans(State(shared): State<Shared>) -> Answer<BanList> {
    answer(BanList { bans: shared.policy.load().standing.bans.list(SystemTime::now()) })
}

async fn ban(State(app): State<App>, Writer(peer): Writer, Input(request): Input<AddBan>) -> Answer<BanList> {
    let AddBan { network, seconds, reason } = request;
    let network = without_host_bits(canonical(network))?;
    checked_reason(reason.as_deref())?;
    check_ban(&app.shared, network, seconds)?;
    let now = SystemTime::now();
    let since = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let why = reason.clone().unwrap_or_else(|| "by hand".to_owned());
    let ban = Ban { network, since, until: since + seconds, why, by_hand: true };
    let policy = app.shared.policy.load_full();
    policy.standing.bans.add(ban, now);
    let bans: Vec<Ban> =
        policy.standing.bans.list(now).into_iter().filter(|known| known.network == network).collect();
    note(&app, "ban-add", network, Some(format!("{seconds} s")), reason, peer.uid, bans.len()).await;
    answer(BanList { bans })
}

async fn lift(
    State(app): State<App>,
    Writer(peer): Writer,
    Input(request): Input<RemoveBan>,
) -> Answer<BanList> {
    let network = without_host_bits(canonical(request.network))?;
    let policy = app.shared.policy.load_full();
    let former = policy.standing.bans.remove(network);
    policy.standing.guesses.forgive(network);
    note(&app, "ban-remove", network, None, None, peer.uid, usize::from(former.is_some())).await;
    match former {
        Some(ban) => answer(BanList { bans: vec![ban] }),
        None => Err(failure(ProblemKind::NotFound, format!("there is no ban of {network}"))),
    }
}

async fn note(
    app: &App,
    verb: &str,
    network: IpNet,
    detail: Option<String>,
    reason: Option<String>,
    uid: u32,
    changed: usize,
) {
    let object = Some(network.to_string());
    let event = AuditEvent { object, detail, reason, matched: 1, changed, ..AuditEvent::new(verb, uid) };
    app.audit.note(event).await;
}

/// An IPv4 address in IPv6 form is IPv4.
fn canonical(network: IpNet) -> IpNet {
    match network.addr().to_canonical() {
        v4 @ IpAddr::V4(_) if network.addr().is_ipv6() && network.prefix_len() >= 96 => {
            IpNet::new(v4, network.prefix_len() - 96).unwrap_or(network)
        }
        _ => network,
    }
}

fn check_ban(shared: &Shared, network: IpNet, seconds: u64) -> Result<(), Failure> {
    let bad = |problem: String| Err(failure(ProblemKind::BadRequest, problem));
    let shortest = if network.addr().is_ipv4() { SHORTEST_V4 } else { SHORTEST_V6 };
    if network.prefix_len() < shortest {
        return bad(format!("{network} is too large to be banned: a /{shortest} at most"));
    }
    if !(1..=LONGEST_BAN).contains(&seconds) {
        return bad(format!("a ban holds for 1 to {LONGEST_BAN} seconds"));
    }
    let policy = shared.policy.load();
    if let Some(own) = policy.own_address_in(network) {
        return bad(format!("{network} is never banned: {own} is an address of this server"));
    }
    let listening = shared.daemon.listening().into_iter();
    let mut listening = listening.filter_map(|listening| listening.address.tcp()).map(|address| address.ip());
    if let Some(own) = listening.find(|own| network.contains(own)) {
        return bad(format!("{network} is never banned: this server listens at {own}"));
    }
    if let Some(why) = policy.why_spared(network.addr()) {
        return bad(format!("{network} is never banned: {why}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn networks_are_compared_as_what_they_are() {
        let same = |text: &str| canonical(text.parse().unwrap()).to_string();
        assert_eq!(same("::ffff:192.0.2.7/128"), "192.0.2.7/32");
        assert_eq!(same("::ffff:192.0.2.0/120"), "192.0.2.0/24");
        assert_eq!(same("2001:db8::/64"), "2001:db8::/64");
        assert_eq!(same("192.0.2.7/32"), "192.0.2.7/32");
    }

    #[test]
    fn a_change_that_is_not_in_force_is_no_success() {
        assert_eq!(not_in_force(AccountVerb::Remove, None), None);
        for verb in [AccountVerb::Lock, AccountVerb::Unlock, AccountVerb::Add, AccountVerb::AppPasswordAdd] {
            assert!(not_in_force(verb, None).unwrap().contains("gone"), "{verb:?}");
        }
    }
}
