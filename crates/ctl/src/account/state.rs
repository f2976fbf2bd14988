//! `account lock`, `unlock`, `disable`, `enable`, `show`: whether a login may be used, and what it has sent.

use clap::{Args, ValueEnum};
use postern_admin::ClientError;
use postern_admin::api::accounts::{
    AccountChange, AccountChanged, AccountVerb, AccountView, AppPasswordView, LockAccount, ShowAccount,
};
use postern_admin::api::{ChangeRequest, Changed, Filter, ProblemKind};
use postern_config::{Config, LoginState, render};
use serde::Serialize;
use toml_edit::{DocumentMut, value};

use super::{AccountsFile, Tables, entries, entry, reload};
use crate::Session;
use crate::change::{agreed, change_text};
use crate::failure::{Exit, Failure};
use crate::output::{self, Look};

/// A login that nobody shall use for now.
#[derive(Debug, Args)]
pub struct LockOptions {
    /// Its name, in any case.
    #[arg(value_name = "NAME")]
    name: String,
    /// Why, for operators: in the file and in the log.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// In which state it is afterwards: it is refused alike, and told which.
    #[arg(long, value_enum, default_value_t)]
    state: LockState,
    /// Hold the messages of the login that wait.
    #[arg(long, conflicts_with = "purge_queue")]
    hold_queue: bool,
    /// Throw the messages of the login that wait away, without telling anybody.
    #[arg(long)]
    purge_queue: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Throw away without asking.
    #[arg(long)]
    yes: bool,
}

/// Why a login is locked, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum LockState {
    /// It was misused, or somebody looks into it.
    #[default]
    Suspended,
    /// It has sent more than it should.
    QuotaLocked,
}

impl From<LockState> for LoginState {
    fn from(state: LockState) -> Self {
        match state {
            LockState::Suspended => Self::Suspended,
            LockState::QuotaLocked => Self::QuotaLocked,
        }
    }
}

/// A login by its name, and why something is done with it.
#[derive(Debug, Args)]
pub struct StateOptions {
    /// Its name, in any case.
    #[arg(value_name = "NAME")]
    name: String,
    /// Why, for operators: in the log, and where the login is disabled in the file.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// A state that was written into the file.
struct Set {
    /// The login, as the daemon has it now.
    account: Option<AccountView>,
    /// No daemon runs: it counts from the next start.
    only_file: bool,
    /// Something that held beside the file is lifted.
    lifted: bool,
}

/// What was done.
#[derive(Debug, Default, Serialize)]
struct StateSet {
    /// The login, as the daemon has it now; none where no daemon runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<AccountView>,
    /// Whether only the file is changed: it counts from the next start.
    only_file: bool,
    /// The file is not changed, or not taken over, for this reason: what was done holds beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    beside_file: Option<String>,
    /// The login was not locked to begin with.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unneeded: bool,
    /// Nothing was done.
    dry_run: bool,
    /// What became of its messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<Changed>,
}

/// First what holds at once, beside the file: no error in the configuration, and no table of `policy.tests`, keeps a stolen login
/// in use. Then the queue, and then the file.
pub(super) async fn lock(
    session: &mut Session,
    config: Result<Config, Failure>,
    options: LockOptions,
) -> Result<Exit, Failure> {
    let name = match &config {
        Ok(config) => existing(config, &options.name)?,
        Err(_) => options.name.clone(),
    };
    let change = queue_change(&name, &options);
    if options.dry_run {
        let queue = change_queue(session, change.as_ref()).await?;
        let set = StateSet { dry_run: true, queue, ..StateSet::default() };
        return say(session, "lock", &name, &set);
    }
    // The lock does not wait for an answer about the queue; that is asked about also where the file cannot be written.
    let suspended = suspend(session, &name, &options).await?;
    let file = match &config {
        Ok(config) => set_locked(session, config, &name, &options).await,
        Err(failure) => Err(Failure::Finding(failure.text().unwrap_or_default())),
    };
    let (account, only_file, beside_file) = match (file, suspended) {
        (Ok(set), _) => (set.account, set.only_file, None),
        (Err(failure), Some(view)) => (Some(view), false, failure.text()),
        (Err(failure), None) => return Err(failure),
    };
    let queue = change_if_agreed(session, change.as_ref(), options.yes).await.inspect_err(|_| {
        session.note(&format!("{} is locked, but nothing was done about its messages", output::clean(&name)));
    })?;
    let set = StateSet { account, only_file, beside_file, queue, ..StateSet::default() };
    say(session, "locked", &name, &set)
}

/// Locks the login at once. `None`: there is no daemon, or it does not know the login yet.
async fn suspend(
    session: &Session,
    name: &str,
    options: &LockOptions,
) -> Result<Option<AccountView>, Failure> {
    let request =
        LockAccount { name: name.to_owned(), state: options.state.into(), reason: options.reason.clone() };
    match session.client()?.post("/v1/accounts/lock", &request).await {
        Ok(view) => Ok(Some(view)),
        Err(ClientError::Unreachable { .. }) => Ok(None),
        Err(ClientError::Refused(problem)) if problem.kind == ProblemKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn set_locked(
    session: &Session,
    config: &Config,
    name: &str,
    options: &LockOptions,
) -> Result<Set, Failure> {
    let state = LoginState::from(options.state).as_str();
    set(session, config, name, state, options.reason.clone(), AccountVerb::Lock).await
}

async fn change_queue(
    session: &Session,
    change: Option<&(&str, ChangeRequest)>,
) -> Result<Option<Changed>, Failure> {
    let Some((verb, request)) = change else { return Ok(None) };
    Ok(Some(session.client()?.post(&format!("/v1/queue/{verb}"), request).await?))
}

async fn change_if_agreed(
    session: &Session,
    change: Option<&(&str, ChangeRequest)>,
    agreed: bool,
) -> Result<Option<Changed>, Failure> {
    if !agreed && !agreed_to_purge(session, change).await? {
        session.note("its messages stay in the queue");
        return Ok(None);
    }
    change_queue(session, change).await
}

/// Whether what is thrown away may be.
async fn agreed_to_purge(session: &Session, change: Option<&(&str, ChangeRequest)>) -> Result<bool, Failure> {
    let Some(("drop", request)) = change else { return Ok(true) };
    let dry = ChangeRequest { dry_run: true, ..request.clone() };
    let found: Changed = session.client()?.post("/v1/queue/drop", &dry).await?;
    agreed(session, "drop", found.change.matched, &request.filter).await
}

/// What becomes of the messages of the login: the verb of the queue, and which messages.
fn queue_change(name: &str, options: &LockOptions) -> Option<(&'static str, ChangeRequest)> {
    let verb = match (options.hold_queue, options.purge_queue) {
        (true, _) => "hold",
        (_, true) => "drop",
        _ => return None,
    };
    let reason = options.reason.clone().unwrap_or_else(|| "account locked".to_owned());
    let request = ChangeRequest {
        filter: Filter { account: Some(name.to_lowercase()), ..Filter::default() },
        all: true,
        dry_run: options.dry_run,
        reason: Some(reason),
        ..ChangeRequest::default()
    };
    Some((verb, request))
}

pub(super) async fn unlock(
    session: &mut Session,
    config: &Config,
    options: StateOptions,
    verb: AccountVerb,
) -> Result<Exit, Failure> {
    let name = existing(config, &options.name)?;
    let in_file = state_in_file(config, &name);
    if let Some(problem) = other_verb(&name, in_file, verb) {
        return Err(Failure::Finding(problem));
    }
    let Set { account, only_file, lifted } =
        set(session, config, &name, "active", options.reason, verb).await?;
    if only_file {
        session.note("if the daemon has suspended it by itself, unlock it again when the daemon runs");
    }
    let said = if verb == AccountVerb::Enable { "enabled" } else { "unlocked" };
    let unneeded = in_file == LoginState::Active && !lifted;
    let set = StateSet { account, only_file, unneeded, ..StateSet::default() };
    say(session, said, &name, &set)
}

fn state_in_file(config: &Config, name: &str) -> LoginState {
    let found = config.accounts.iter().find(|account| account.name == name);
    found.map_or(LoginState::Active, |account| account.state)
}

/// Who lifts a lock must not bring a login back that somebody took out of use, and the other way about.
fn other_verb(name: &str, state: LoginState, verb: AccountVerb) -> Option<String> {
    let right = match state {
        LoginState::Active => return None,
        LoginState::Disabled => AccountVerb::Enable,
        LoginState::Suspended | LoginState::QuotaLocked => AccountVerb::Unlock,
    };
    if right == verb {
        return None;
    }
    let word = if right == AccountVerb::Enable { "enable" } else { "unlock" };
    let state = state.as_str();
    Some(format!(
        "{name} is {state} in the file; nothing was changed: `posternctl account {word} {name}` changes that"
    ))
}

/// Unlocks what is locked beside the file only, where the configuration does not load.
pub(super) async fn unlock_beside_file(
    session: &mut Session,
    failure: &Failure,
    options: StateOptions,
) -> Result<Exit, Failure> {
    let StateOptions { name, reason } = options;
    let change = AccountChange { name: name.clone(), verb: AccountVerb::Unlock, detail: None, reason };
    let changed: AccountChanged = session.client()?.post("/v1/accounts/changed", &change).await?;
    let (account, beside_file) = (changed.account, failure.text());
    let unneeded = changed.lifted.is_none();
    let set = StateSet { account, beside_file, unneeded, ..StateSet::default() };
    say(session, "unlocked", &name, &set)
}

pub(super) async fn disable(
    session: &mut Session,
    config: &Config,
    options: StateOptions,
) -> Result<Exit, Failure> {
    let name = existing(config, &options.name)?;
    let Set { account, only_file, .. } =
        set(session, config, &name, "disabled", options.reason, AccountVerb::Disable).await?;
    let set = StateSet { account, only_file, ..StateSet::default() };
    say(session, "disabled", &name, &set)
}

/// The name as the file has it.
pub(super) fn existing(config: &Config, name: &str) -> Result<String, Failure> {
    let found = config.accounts.iter().find(|account| super::fold(&account.name) == super::fold(name));
    found.map(|account| account.name.clone()).ok_or_else(|| super::no_account(name))
}

/// Writes the state into the file, has the daemon read it, and reads back what it knows then. Without a daemon only the file
/// is changed.
async fn set(
    session: &Session,
    config: &Config,
    name: &str,
    state: &str,
    reason: Option<String>,
    verb: AccountVerb,
) -> Result<Set, Failure> {
    let file = AccountsFile::open(config)?;
    let tables = if state == "active" { Tables::Must } else { Tables::May };
    let heard =
        file.edit_against(tables, |document| write_state(document, name, state, reason.as_deref()))?;
    if !heard.is_empty() {
        session.note(&format!("what policy.tests has to say of it\n{}", render(&heard).trim_end()));
    }
    // Others wait for it, and the reload reads it.
    drop(file);
    if !reload(session).await? {
        return Ok(Set { account: None, only_file: true, lifted: false });
    }
    let change = AccountChange { name: name.to_owned(), verb, detail: None, reason };
    let changed: AccountChanged = session.client()?.post("/v1/accounts/changed", &change).await?;
    if let Some(lifted) = &changed.lifted {
        session.note(&format!("it was suspended by the server: {}", output::clean(&lifted.why)));
    }
    Ok(Set { account: changed.account, only_file: false, lifted: changed.lifted.is_some() })
}

fn write_state(
    document: &mut DocumentMut,
    name: &str,
    state: &str,
    reason: Option<&str>,
) -> Result<(), Failure> {
    let table = entry(entries(document)?, name)?;
    if state == "active" {
        table.remove("state");
        table.remove("state_reason");
        return Ok(());
    }
    table["state"] = value(state);
    match reason {
        Some(reason) => table["state_reason"] = value(reason),
        None => drop(table.remove("state_reason")),
    }
    Ok(())
}

const LOCKED_BESIDE_FILE: &str = "  the file does not say so: it holds beside the file, also after a restart, until \
     `posternctl account unlock`\n";
const UNLOCKED_BESIDE_FILE: &str = "  only what held beside the file was looked at, as the configuration does not load; what the file \
     of logins says of it counts, also after a restart. Mend this, then run the command again:\n";

fn say(session: &mut Session, done: &str, name: &str, set: &StateSet) -> Result<Exit, Failure> {
    session.out.answer(set, |set, _| {
        let name = output::clean(name);
        let mut text = match (set.dry_run, set.only_file) {
            _ if set.unneeded && set.only_file => {
                format!("{name} is not locked in the file; nothing was changed\n")
            }
            _ if set.unneeded => format!("{name} was not locked; nothing was changed\n"),
            (true, _) => format!("{done}: {name} would be locked, nothing was changed (dry run)\n"),
            (_, true) => format!("{done} {name} in the file; it counts from the next start of the daemon\n"),
            _ => format!("{done} {name}\n"),
        };
        if let Some(why) = &set.beside_file {
            text += match done {
                "unlocked" => UNLOCKED_BESIDE_FILE,
                _ => LOCKED_BESIDE_FILE,
            };
            why.lines().for_each(|line| text += &format!("  {}\n", output::clean(line)));
        }
        if let Some(queue) = &set.queue {
            text += &change_text("queue", queue);
        }
        text
    })?;
    let skipped = set.queue.as_ref().is_some_and(|queue| !queue.change.skipped.is_empty());
    Ok(match () {
        () if skipped || set.beside_file.is_some() => Exit::Partial,
        () if set.unneeded => Exit::Finding,
        () => Exit::Done,
    })
}

pub(super) async fn show(session: &mut Session, name: String) -> Result<Exit, Failure> {
    let view: AccountView = session.client()?.post("/v1/accounts/show", &ShowAccount { name }).await?;
    session.out.answer(&view, view_text)?;
    Ok(Exit::Done)
}

pub(super) fn view_text(view: &AccountView, look: Look) -> String {
    let with_reason = |state: &str, why: Option<&str>| match why {
        Some(why) => format!("{state}: {}", output::clean(why)),
        None => state.to_owned(),
    };
    let state = match &view.suspension {
        Some(suspension) if suspension.by_hand => {
            let state = format!("{} by an operator, beside the file", suspension.state.as_str());
            with_reason(&state, Some(&suspension.why))
        }
        Some(suspension) => with_reason("suspended by the server", Some(&suspension.why)),
        None => with_reason(view.state.as_str(), view.state_reason.as_deref()),
    };
    let limits = view.limits;
    let of = |used: u64, limit: u32| match limit {
        0 => format!("{used} recipients, no limit"),
        limit => format!("{used} of {limit} recipients"),
    };
    let networks: Vec<String> = view.networks.iter().map(ToString::to_string).collect();
    let mut text = format!("{}\n", output::clean(&view.name));
    text += &output::pairs(
        "  ",
        [
            ("state", Some(state)),
            (
                "networks",
                Some(if networks.is_empty() { "everywhere".to_owned() } else { networks.join(" ") }),
            ),
            (
                "a message",
                Some(match limits.per_message {
                    0 => "no limit".to_owned(),
                    limit => format!("{limit} recipients"),
                }),
            ),
            ("last hour", Some(of(view.used.hour, limits.per_hour))),
            ("last day", Some(of(view.used.day, limits.per_day))),
            ("new, last day", Some(of(view.used.new_recipients, limits.new_recipients_per_day))),
        ],
    );
    if !view.app_passwords.is_empty() {
        text += &app_passwords_text(&view.app_passwords, look);
    }
    text
}

/// A table of further passwords.
pub(super) fn app_passwords_text(apps: &[AppPasswordView], look: Look) -> String {
    let row = |app: &AppPasswordView| {
        let networks: Vec<String> = app.networks.iter().map(ToString::to_string).collect();
        let expires = app.expires.clone().unwrap_or_else(|| "never".to_owned());
        vec![
            output::clean(&app.label).into_owned(),
            if networks.is_empty() { "-".to_owned() } else { networks.join(" ") },
            if app.expired { format!("{expires} (over)") } else { expires },
        ]
    };
    output::table(&["APP PASSWORD", "NETWORKS", "EXPIRES"], apps.iter().map(row), look)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const FILE: &str = "\
# The boss.
[[account]]
name = \"Alice@proseware.test\"   # first login
password = \"x\"

[[account]]
name = \"bob@proseware.test\"
password = \"x\"
";

    #[test]
    fn locking_and_unlocking_leaves_the_file_as_it_was() {
        let mut document: DocumentMut = FILE.parse().unwrap();
        write_state(&mut document, "alice@PROSEWARE.test", "suspended", Some("stolen \"password\"")).unwrap();
        let locked = document.to_string();
        let expected = "password = \"x\"\nstate = \"suspended\"\nstate_reason = 'stolen \"password\"'\n";
        assert!(locked.contains(expected) && locked.contains("# first login"), "{locked}");
        write_state(&mut document, "alice@proseware.test", "disabled", None).unwrap();
        assert!(document.to_string().contains("state = \"disabled\"\n\n"), "{document}");
        write_state(&mut document, "alice@proseware.test", "active", Some("well again")).unwrap();
        assert_eq!(document.to_string(), FILE);
        let failure = write_state(&mut document, "carol", "suspended", None).unwrap_err();
        assert!(failure.text().unwrap().contains("account list"), "{failure:?}");
    }
}
