//! `account list`: the logins, with what the daemon knows of their state.

use postern_admin::api::accounts::{AccountState, AccountStates, Suspension};
use postern_config::{Account, LoginState};
use serde::Serialize;

use super::file::fold;
use crate::Session;
use crate::failure::{Exit, Failure};
use crate::output::{self, Look};

/// A login without its password.
#[derive(Debug, Serialize)]
pub(super) struct Listed<'a> {
    name: &'a str,
    permission: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    any_if_spf: bool,
    domains: Vec<&'a str>,
    send_as: &'a [String],
    /// As the daemon knows it; as the file has it, where the daemon was not asked or does not have the login.
    state: LoginState,
    /// Where the file says something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    state_in_file: Option<LoginState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_reason: Option<&'a str>,
    /// Where it is locked beside the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    suspension: Option<&'a Suspension>,
    /// The daemon has not read it from the file.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    not_loaded: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct Accounts<'a> {
    accounts: Vec<Listed<'a>>,
    /// Whether the states are those of the running daemon.
    daemon_asked: bool,
}

pub(super) async fn list(session: &mut Session, accounts: &[Account]) -> Result<Exit, Failure> {
    let states = match session.client() {
        Ok(client) => client.get::<AccountStates>("/v1/accounts").await.map_err(Failure::Client),
        Err(failure) => Err(failure),
    };
    if let Err(failure) = &states {
        let why = failure.text().unwrap_or_default();
        let why = why.lines().next().unwrap_or_default();
        session.note(&format!("the daemon cannot be asked, so the states are those of the file: {why}"));
    }
    session.out.answer(&listed(accounts, states.as_ref().ok()), list_text)?;
    Ok(Exit::Done)
}

/// What the daemon knows stands over what the file says.
pub(super) fn listed<'a>(accounts: &'a [Account], daemon: Option<&'a AccountStates>) -> Accounts<'a> {
    let known = |account: &Account| {
        let find = |states: &&'a AccountStates| {
            let name = fold(&account.name);
            let at = states.accounts.binary_search_by(|known| known.name.cmp(&name)).ok()?;
            states.accounts.get(at)
        };
        daemon.as_ref().and_then(find)
    };
    let listed = accounts.iter().map(|account| one_listed(account, known(account), daemon.is_some()));
    Accounts { accounts: listed.collect(), daemon_asked: daemon.is_some() }
}

fn one_listed<'a>(account: &'a Account, known: Option<&'a AccountState>, daemon_asked: bool) -> Listed<'a> {
    let suspension = known.and_then(|known| known.suspension.as_ref());
    let state = known.map_or(account.state, |known| match (known.state, suspension) {
        (LoginState::Active, Some(suspension)) => suspension.state,
        (state, _) => state,
    });
    Listed {
        name: &account.name,
        permission: match account.permission {
            postern_config::Permission::Listed => "listed",
            postern_config::Permission::Local => "local",
            postern_config::Permission::Any => "any",
        },
        any_if_spf: account.any_if_spf,
        domains: account.domains.iter().map(|domain| domain.0.as_str()).collect(),
        send_as: &account.send_as,
        state,
        state_in_file: (state != account.state).then_some(account.state),
        state_reason: account.state_reason.as_deref(),
        suspension,
        not_loaded: daemon_asked && known.is_none(),
    }
}

impl Listed<'_> {
    /// `active`, `suspended (by the server)`, `suspended (file: active)`.
    fn state_text(&self) -> String {
        let state = self.state.as_str();
        match (self.suspension, self.state_in_file) {
            _ if self.not_loaded => format!("{state} (not loaded)"),
            (Some(suspension), _) if !suspension.by_hand => format!("{state} (by the server)"),
            (_, Some(in_file)) => format!("{state} (file: {})", in_file.as_str()),
            (_, None) => state.to_owned(),
        }
    }
}

pub(super) fn list_text(accounts: &Accounts<'_>, look: Look) -> String {
    if accounts.accounts.is_empty() {
        return String::new();
    }
    let rows = accounts.accounts.iter().map(|account| {
        let domains = account.domains.iter().map(|domain| format!("@{domain}"));
        let senders: Vec<String> = domains.chain(account.send_as.iter().cloned()).collect();
        let senders = if senders.is_empty() { "-".to_owned() } else { senders.join(" ") };
        let permission = if account.any_if_spf { "any, if SPF allows" } else { account.permission };
        vec![account.name.to_owned(), account.state_text(), permission.to_owned(), senders]
    });
    output::table(&["NAME", "STATE", "PERMISSION", "SENDS ALSO AS"], rows, look)
}
