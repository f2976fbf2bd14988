//! Requests and answers about logins and those who guess at them.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /v1/accounts/show` | [`ShowAccount`] | [`AccountView`] |
//! | `GET /v1/accounts` | | [`AccountStates`] |
//! | `POST /v1/accounts/lock` | [`LockAccount`]: at once, beside the file | [`AccountView`] |
//! | `POST /v1/accounts/changed` | [`AccountChange`], after the file was edited and read again | [`AccountChanged`] |
//! | `GET /v1/bans` | | [`BanList`] |
//! | `POST /v1/bans/add` | [`AddBan`] | [`BanList`] of that one |
//! | `POST /v1/bans/remove` | [`RemoveBan`] | [`BanList`] of that one, as it was |

use ipnet::IpNet;
use postern_config::{LoginState, Permission};
pub use postern_policy::standing::bans::Ban;
pub use postern_policy::standing::suspensions::Suspension;
pub use postern_policy::standing::usage::Totals;
use serde::{Deserialize, Serialize};

/// Which login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShowAccount {
    /// Its name, in any case.
    pub name: String,
}

/// A login without its passwords, as the daemon knows it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountView {
    /// Its name, as the file has it.
    pub name: String,
    /// The state that the file gives it.
    pub state: LoginState,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_reason: Option<String>,
    /// Where it is locked beside the file: by the server itself, or by an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspension: Option<Suspension>,
    /// Which senders it may use.
    pub permission: Permission,
    /// The only networks that it may be used from; empty: everywhere.
    pub networks: Vec<IpNet>,
    /// Its limits; 0 is none.
    pub limits: LimitsView,
    /// What it has used of them.
    pub used: Totals,
    /// Its further passwords.
    pub app_passwords: Vec<AppPasswordView>,
}

/// Whether logins may be used, as the daemon knows it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountStates {
    /// Each, by name.
    pub accounts: Vec<AccountState>,
}

/// Whether a login may be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountState {
    /// Its name, in lower case.
    pub name: String,
    /// The state that the file gave it when it was read last.
    pub state: LoginState,
    /// Where it is locked beside the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspension: Option<Suspension>,
}

/// Locks a login at once. It holds until the file says so, or until it is unlocked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockAccount {
    /// Its name, in any case.
    pub name: String,
    /// `suspended` or `quota-locked`.
    pub state: LoginState,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
}

/// How much a login may send, by recipients; 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsView {
    /// Of one message.
    pub per_message: u32,
    /// In any hour.
    pub per_hour: u32,
    /// In any 24 hours.
    pub per_day: u32,
    /// In any 24 hours, to whom it has not written before.
    pub new_recipients_per_day: u32,
}

/// A further password, without itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppPasswordView {
    /// What uses it.
    pub label: String,
    /// The only networks that it may be used from; empty: those of the login.
    pub networks: Vec<IpNet>,
    /// Until when, as the file has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Whether its time is over.
    pub expired: bool,
}

/// What an operator did to the file of logins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccountVerb {
    /// A login is new.
    Add,
    /// A login is gone.
    Remove,
    /// It was locked.
    Lock,
    /// It is active again; what locked it beside the file ends, too.
    Unlock,
    /// It was disabled.
    Disable,
    /// It is active again, as after `unlock`.
    Enable,
    /// It may send as more.
    Grant,
    /// It may send as less.
    Revoke,
    /// It has another password.
    Password,
    /// It has a further password.
    AppPasswordAdd,
    /// It has one less.
    AppPasswordRemove,
}

impl AccountVerb {
    /// The verb of the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "account-add",
            Self::Remove => "account-remove",
            Self::Lock => "account-lock",
            Self::Unlock => "account-unlock",
            Self::Disable => "account-disable",
            Self::Enable => "account-enable",
            Self::Grant => "account-grant",
            Self::Revoke => "account-revoke",
            Self::Password => "account-password",
            Self::AppPasswordAdd => "account-app-password-add",
            Self::AppPasswordRemove => "account-app-password-remove",
        }
    }
}

/// Notes what was done to the file, and does what the file cannot say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountChange {
    /// The login.
    pub name: String,
    /// What.
    pub verb: AccountVerb,
    /// Which app password.
    #[serde(default)]
    pub detail: Option<String>,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
}

/// The answer to [`AccountChange`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountChanged {
    /// The login as it is now; none where it is gone.
    pub account: Option<AccountView>,
    /// The suspension that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifted: Option<Suspension>,
}

/// Bans in force, by network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanList {
    /// Each.
    pub bans: Vec<Ban>,
}

/// Bans an address or a network from every port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddBan {
    /// Who.
    pub network: IpNet,
    /// For so many seconds.
    pub seconds: u64,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Lifts the ban of exactly this network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveBan {
    /// Who.
    pub network: IpNet,
}
