//! `account app-password`: further passwords of a login, each for one program or device.

use std::time::SystemTime;

use clap::{Args, Subcommand};
use ipnet::IpNet;
use postern_admin::api::accounts::{AccountVerb, AppPasswordView};
use postern_config::auth::AppPassword;
use postern_config::scram::ScramHash;
use postern_config::{Config, Mechanism};
use postern_policy::accounts::Accounts;
use postern_smtp::date;
use serde::Serialize;
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, Value, value};

use super::secrets::hashed;
use super::state::app_passwords_text;
use super::{AccountsFile, entries, entry, fold, no_account, note_change, reload};
use crate::Session;
use crate::failure::{Exit, Failure};
use crate::{output, password};

/// What can be done with the further passwords of a login.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make one and print it, this once.
    Add(AddOptions),
    /// List them, without themselves.
    List {
        /// The login, in any case.
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Take one back.
    Remove {
        /// The login, in any case.
        #[arg(value_name = "NAME")]
        name: String,
        /// Which one.
        #[arg(value_name = "LABEL")]
        label: String,
    },
}

/// A new one.
#[derive(Debug, Args)]
pub struct AddOptions {
    /// The login, in any case.
    #[arg(value_name = "NAME")]
    name: String,
    /// What uses it, such as `phone`; the log names it.
    #[arg(value_name = "LABEL")]
    label: String,
    /// The only network that it may be used from: an address, or CIDR; may be given several times.
    #[arg(long = "network", value_name = "CIDR", value_parser = network)]
    networks: Vec<IpNet>,
    /// Until when it may be used: a day, that day included, or a time as RFC 3339 writes it.
    #[arg(long, value_name = "DATE", value_parser = expires)]
    expires: Option<String>,
}

/// An address, or a network. What could be meant in two ways is refused with both.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let network: Result<IpNet, _> =
        text.parse::<std::net::IpAddr>().map(IpNet::from).or_else(|_| text.parse());
    let network = network.map_err(|_| {
        format!("{text:?}: write an address such as 192.0.2.7, or a network such as 192.0.2.0/24")
    })?;
    let (whole, single) = (network.trunc(), network.addr());
    if whole != network {
        return Err(format!(
            "{network} has host bits set: write {whole} for the network or {single} for the one address"
        ));
    }
    Ok(network)
}

fn expires(text: &str) -> Result<String, String> {
    let usage =
        || format!("{text:?}: write a day such as 2026-12-31, or a time such as 2026-12-31T18:00:00Z");
    date::parse_end(text).map(|_| text.to_owned()).ok_or_else(usage)
}

/// An app password that is over when it is made is a slip of the pen: nobody could ever use it.
fn still_to_come(expires: Option<&str>, now: SystemTime) -> Result<(), Failure> {
    let Some(text) = expires else { return Ok(()) };
    if date::parse_end(text).is_none_or(|end| end > now) {
        return Ok(());
    }
    let now = date::rfc3339(now);
    Err(Failure::Usage(format!(
        "--expires {text} is over already (it is {now}): write a day or a time to come"
    )))
}

/// Whether clients are offered SCRAM although the configuration names no mechanisms.
fn offers_scram(config: &Config) -> bool {
    let accounts = Accounts::new(&config.accounts, config.auth.limits);
    config.auth.mechanisms.is_none() && accounts.scram_keeps_nobody_out(ScramHash::Sha256)
}

/// What follows for programs that log in with SCRAM, which proves the main password only.
fn scram_note(before: &Config, after: &Config, name: &str) -> Option<String> {
    let listed = before.auth.mechanisms.as_deref().unwrap_or_default();
    if listed.iter().any(|mechanism| matches!(mechanism, Mechanism::ScramSha256 | Mechanism::ScramSha1)) {
        return Some(format!(
            "auth.mechanisms offers SCRAM, which proves the main password only: the program must use PLAIN or LOGIN with an app \
             password of {name}"
        ));
    }
    (offers_scram(before) && !offers_scram(after)).then(|| {
        format!(
            "SCRAM-SHA-256 is no longer offered to anybody: it proves the main password only, programs that find it often try nothing \
             else, and so it is offered only while no login has app passwords. Programs log in with PLAIN or LOGIN under TLS; \
             `posternctl account app-password remove {name} LABEL` of the last one brings it back"
        )
    })
}

#[derive(Debug, Serialize)]
struct Made {
    account: String,
    label: String,
    password: String,
    reloaded: bool,
}

#[derive(Debug, Serialize)]
struct Removed {
    account: String,
    label: String,
    reloaded: bool,
}

#[derive(Debug, Serialize)]
struct Listed {
    account: String,
    app_passwords: Vec<AppPasswordView>,
}

impl Verb {
    pub(super) async fn run(self, session: &mut Session, config: &Config) -> Result<Exit, Failure> {
        match self {
            Self::Add(options) => add(session, config, &options).await,
            Self::List { name } => list(session, config, &name),
            Self::Remove { name, label } => remove(session, config, name, label).await,
        }
    }
}

async fn add(session: &mut Session, config: &Config, options: &AddOptions) -> Result<Exit, Failure> {
    still_to_come(options.expires.as_deref(), session.now)?;
    let password = password::generate();
    let hash = hashed(&password)?;
    let file = AccountsFile::open(config)?;
    file.edit(|document| insert(document, options, &hash))?;
    let after = postern_config::load(&config.path).map(|loaded| loaded.config);
    if let Some(note) = after.ok().and_then(|after| scram_note(config, &after, &options.name)) {
        session.note(&note);
    }
    let reloaded = reload(session).await?;
    if reloaded {
        let detail = Some(options.label.clone());
        note_change(session, &options.name, AccountVerb::AppPasswordAdd, detail).await?;
    }
    let (account, label) = (options.name.clone(), options.label.clone());
    let made = Made { account, label, password, reloaded };
    session.out.answer(&made, |made, _| {
        format!("added the app password {} of {}\npassword: {}\n", made.label, made.account, made.password)
    })?;
    Ok(Exit::Done)
}

fn list(session: &mut Session, config: &Config, name: &str) -> Result<Exit, Failure> {
    let found = config.accounts.iter().find(|account| fold(&account.name) == fold(name));
    let account = found.ok_or_else(|| no_account(name))?;
    let now = session.now;
    let view = |app: &AppPassword| AppPasswordView {
        label: app.label.clone(),
        networks: app.networks.clone(),
        expires: app.expires.clone(),
        expired: app.end().is_some_and(|end| end <= now),
    };
    let app_passwords = account.app_passwords.iter().map(view).collect();
    let listed = Listed { account: account.name.clone(), app_passwords };
    session.out.answer(&listed, |listed, look| match listed.app_passwords.is_empty() {
        true => format!("{} has no app passwords\n", output::clean(&listed.account)),
        false => app_passwords_text(&listed.app_passwords, look),
    })?;
    Ok(Exit::Done)
}

async fn remove(
    session: &mut Session,
    config: &Config,
    name: String,
    label: String,
) -> Result<Exit, Failure> {
    let file = AccountsFile::open(config)?;
    file.edit(|document| take_out(document, &name, &label))?;
    let reloaded = reload(session).await?;
    if reloaded {
        note_change(session, &name, AccountVerb::AppPasswordRemove, Some(label.clone())).await?;
    }
    let removed = Removed { account: name, label, reloaded };
    session.out.answer(&removed, |removed, _| {
        format!("removed the app password {} of {}\n", removed.label, removed.account)
    })?;
    Ok(Exit::Done)
}

fn insert(document: &mut DocumentMut, options: &AddOptions, hash: &str) -> Result<(), Failure> {
    let account = entry(entries(document)?, &options.name)?;
    if labels(account).iter().any(|label| label.trim() == options.label.trim()) {
        let problem = format!("{:?} has an app password {:?} already", options.name, options.label);
        return Err(Failure::Finding(problem));
    }
    let mut keys: Vec<(&str, Value)> =
        vec![("label", options.label.as_str().into()), ("password", hash.into())];
    if !options.networks.is_empty() {
        let networks: Array = options.networks.iter().map(ToString::to_string).collect();
        keys.push(("networks", networks.into()));
    }
    if let Some(expires) = &options.expires {
        keys.push(("expires", expires.as_str().into()));
    }
    let item = account.entry("app_passwords").or_insert_with(|| value(Array::new()));
    if let Some(tables) = item.as_array_of_tables_mut() {
        let mut table = Table::new();
        keys.into_iter().for_each(|(key, found)| drop(table.insert(key, value(found))));
        tables.push(table);
        return Ok(());
    }
    let Some(array) = item.as_array_mut() else { return Err(by_hand()) };
    let mut inline: Value = keys.into_iter().collect::<InlineTable>().into();
    inline.decor_mut().set_prefix("\n    ");
    array.push_formatted(inline);
    array.set_trailing_comma(true);
    array.set_trailing("\n");
    Ok(())
}

fn take_out(document: &mut DocumentMut, name: &str, label: &str) -> Result<(), Failure> {
    let account = entry(entries(document)?, name)?;
    let at = labels(account).iter().position(|known| known.trim() == label.trim());
    let at = at.ok_or_else(|| {
        Failure::Finding(format!(
            "{name:?} has no app password {label:?}: see `posternctl account app-password list`"
        ))
    })?;
    let left = match account.get_mut("app_passwords") {
        Some(Item::ArrayOfTables(tables)) => {
            tables.remove(at);
            tables.len()
        }
        Some(Item::Value(Value::Array(array))) => {
            array.remove(at);
            array.len()
        }
        _ => return Err(by_hand()),
    };
    if left == 0 {
        account.remove("app_passwords");
    }
    Ok(())
}

fn by_hand() -> Failure {
    Failure::Finding("app_passwords is no list of tables; edit the file by hand".to_owned())
}

/// The labels that are there.
fn labels(account: &Table) -> Vec<String> {
    let text = |found: Option<&str>| found.unwrap_or_default().to_owned();
    match account.get("app_passwords") {
        Some(Item::ArrayOfTables(tables)) => {
            tables.iter().map(|table| text(table.get("label").and_then(Item::as_str))).collect()
        }
        Some(Item::Value(Value::Array(array))) => {
            let label = |app: &Value| text(app.as_inline_table().and_then(|app| app.get("label")?.as_str()));
            array.iter().map(label).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn options(label: &str) -> AddOptions {
        AddOptions {
            name: "ALICE".to_owned(),
            label: label.to_owned(),
            networks: vec![network("192.0.2.7").unwrap()],
            expires: Some("2026-12-31".to_owned()),
        }
    }

    #[test]
    fn app_passwords_come_and_go_and_the_rest_stays() {
        const FILE: &str =
            "[[account]]\nname = \"alice\" # boss\npassword = \"x\"\n\n# Bob.\n[[account]]\nname = \"bob\"\n";
        let mut document: DocumentMut = FILE.parse().unwrap();
        insert(&mut document, &options("phone"), "$argon2id$1").unwrap();
        insert(&mut document, &options("scanner"), "$argon2id$2").unwrap();
        let text = document.to_string();
        let expected = "app_passwords = [\n    { label = \"phone\", password = \"$argon2id$1\", networks = [\"192.0.2.7/32\"], \
                        expires = \"2026-12-31\" },\n    { label = \"scanner\"";
        assert!(text.contains(expected) && text.contains("# Bob."), "{text}");
        assert!(
            insert(&mut document, &options("phone"), "x").unwrap_err().text().unwrap().contains("already")
        );
        take_out(&mut document, "alice", "phone").unwrap();
        assert!(take_out(&mut document, "alice", "phone").is_err());
        let read: DocumentMut = document.to_string().parse().unwrap();
        assert_eq!(read["account"][0]["app_passwords"][0]["label"].as_str(), Some("scanner"));
        take_out(&mut document, "alice", "scanner").unwrap();
        assert_eq!(document.to_string(), FILE);
    }

    #[test]
    fn tables_that_somebody_wrote_by_hand_are_kept_as_tables() {
        let file = "[[account]]\nname = \"alice\"\n[[account.app_passwords]]\nlabel = \"phone\"\n[[account]]\nname = \"bob\"\n";
        let mut document: DocumentMut = file.parse().unwrap();
        insert(&mut document, &options("scanner"), "$argon2id$2").unwrap();
        let read: DocumentMut = document.to_string().parse().unwrap();
        assert_eq!(read["account"][0]["app_passwords"][1]["label"].as_str(), Some("scanner"), "{document}");
        take_out(&mut document, "alice", "phone").unwrap();
        take_out(&mut document, "alice", "scanner").unwrap();
        assert!(!document.to_string().contains("app_passwords"), "{document}");
    }

    #[test]
    fn what_is_over_already_is_not_made() {
        let now = date::parse_end("2026-11-22T06:00:00Z").unwrap();
        let refused = still_to_come(Some("2001-01-01"), now).unwrap_err();
        assert!(matches!(&refused, Failure::Usage(text) if text.contains("over already")), "{refused:?}");
        for expires in [Some("2026-11-22"), Some("2026-11-22T06:00:01Z"), None] {
            assert!(still_to_come(expires, now).is_ok(), "{expires:?}");
        }
    }

    #[test]
    fn the_end_of_scram_is_said_once() {
        let verifier = postern_policy::scram::verifier("correct horse", ScramHash::Sha256).unwrap();
        let config = |keys: &str, auth: &str| {
            let mut config: Config = toml::from_str(&format!("hostname = \"x.test\"\n{auth}")).unwrap();
            let accounts =
                format!("[[account]]\nname = \"alice\"\npassword = \"x\"\nscram = \"{verifier}\"\n{keys}");
            config.accounts =
                toml::from_str::<postern_config::account::AccountsFile>(&accounts).unwrap().accounts;
            config
        };
        let app = "app_passwords = [{ label = \"phone\", password = \"x\" }]\n";
        let (before, after) = (config("", ""), config(app, ""));
        assert!(scram_note(&before, &after, "alice").unwrap().contains("no longer offered"));
        assert_eq!(scram_note(&after, &after, "alice"), None);
        let listed = "[auth]\nmechanisms = [\"scram-sha-256\", \"plain\"]";
        assert!(
            scram_note(&config("", listed), &config(app, listed), "alice")
                .unwrap()
                .contains("must use PLAIN")
        );
    }

    #[test]
    fn networks_and_dates_are_checked() {
        assert_eq!(network("2001:db8::1").unwrap().to_string(), "2001:db8::1/128");
        assert!(network("office").is_err() && expires("soon").is_err());
    }
}
