//! `account show` where the configuration does not load: what the daemon and the file of logins know all the same.

use postern_admin::api::accounts::{AccountView, AppPasswordView, ShowAccount};
use postern_config::auth::AppPassword;
use postern_config::{Account, LoginState, Permission, load_logins};
use serde::Serialize;

use super::state::{app_passwords_text, view_text};
use super::{fold, no_account};
use crate::Session;
use crate::failure::{Exit, Failure};
use crate::output::{self, Look};

/// A login as the file has it.
#[derive(Debug, Serialize)]
struct InFile {
    name: String,
    state: LoginState,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_reason: Option<String>,
    permission: Permission,
    send_as: Vec<String>,
    networks: Vec<String>,
    app_passwords: Vec<AppPasswordView>,
    /// What is wrong with the configuration.
    broken: String,
}

/// Says what is broken, and shows the login as the daemon has it, else as the file does. Ends with 1: something is wrong.
pub(super) async fn show(session: &mut Session, broken: &Failure, name: String) -> Result<Exit, Failure> {
    let broken = broken.text().unwrap_or_default();
    session.note(&format!("the configuration does not load:\n{}", broken.trim_end()));
    if let Ok(client) = session.client() {
        let request = ShowAccount { name: name.clone() };
        if let Ok(view) = client.post::<AccountView>("/v1/accounts/show", &request).await {
            session.note("the daemon, which runs with the old configuration, knows the login as follows");
            session.out.answer(&view, view_text)?;
            return Ok(Exit::Finding);
        }
    }
    let accounts =
        load_logins(&session.global.config).map_err(|error| Failure::Finding(error.to_string()))?;
    let found = accounts.iter().find(|account| fold(&account.name) == fold(&name));
    let account = found.ok_or_else(|| no_account(&name))?;
    session.note("the daemon does not answer; what follows is from the file of logins");
    let in_file = in_file(account, broken, session.now);
    session.out.answer(&in_file, text)?;
    Ok(Exit::Finding)
}

/// Says what is broken, and lists the logins of the file as the daemon has them. Ends with 1: something is wrong.
pub(super) async fn list(session: &mut Session, broken: &Failure) -> Result<Exit, Failure> {
    let broken = broken.text().unwrap_or_default();
    session.note(&format!("the configuration does not load:\n{}", broken.trim_end()));
    let accounts =
        load_logins(&session.global.config).map_err(|error| Failure::Finding(error.to_string()))?;
    super::list(session, &accounts).await?;
    Ok(Exit::Finding)
}

fn in_file(account: &Account, broken: String, now: std::time::SystemTime) -> InFile {
    let app = |app: &AppPassword| AppPasswordView {
        label: app.label.clone(),
        networks: app.networks.clone(),
        expires: app.expires.clone(),
        expired: app.end().is_some_and(|end| end <= now),
    };
    let domains = account.domains.iter().map(|domain| format!("@{}", domain.0));
    InFile {
        name: account.name.clone(),
        state: account.state,
        state_reason: account.state_reason.clone(),
        permission: account.permission,
        send_as: domains.chain(account.send_as.iter().cloned()).collect(),
        networks: account.networks.iter().map(ToString::to_string).collect(),
        app_passwords: account.app_passwords.iter().map(app).collect(),
        broken,
    }
}

fn text(login: &InFile, look: Look) -> String {
    let state = match &login.state_reason {
        Some(why) => format!("{}: {why}", login.state.as_str()),
        None => login.state.as_str().to_owned(),
    };
    let rows = [
        ("state in the file", Some(state)),
        ("sends also as", (!login.send_as.is_empty()).then(|| login.send_as.join(" "))),
        (
            "networks",
            Some(if login.networks.is_empty() { "everywhere".to_owned() } else { login.networks.join(" ") }),
        ),
    ];
    let mut text = format!("{}\n{}", output::clean(&login.name), output::pairs("  ", rows));
    if !login.app_passwords.is_empty() {
        text += &app_passwords_text(&login.app_passwords, look);
    }
    text
}
