//! `account`: edits the file of logins, keeping its comments and its owner.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use postern_admin::ClientError;
use postern_admin::api::Reloaded;
use postern_admin::api::accounts::{AccountChange, AccountChanged, AccountVerb};
use postern_config::Config;
use postern_config::account::SendAs;
use postern_smtp::{Address, Domain};
use serde::Serialize;
use toml_edit::{Array, DocumentMut, Table, value};

use crate::Session;
use crate::failure::{Exit, Failure};
use crate::output;

pub(crate) mod app_password;
mod file;
mod from_file;
mod grants;
mod list;
mod secrets;
mod state;

use file::{AccountsFile, Tables, entries, entry, fold, no_account, position};
use grants::Way;
use list::list;
use secrets::{NewPassword, PasswordOptions, Secrets};

const EXAMPLES: &str = "\
Examples:
  posternctl account add alice@proseware.test
  posternctl account add printer --send-as scan@proseware.test --generate
  echo \"$PASSWORD\" | posternctl account add bob@proseware.test --domain proseware.test --password-stdin
  posternctl account password alice@proseware.test --generate";

/// What can be done with logins.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Add a login.
    #[command(after_help = EXAMPLES)]
    Add(AddOptions),
    /// Give a login another password. Sessions that were opened with the old one end; app passwords stay.
    #[command(after_help = PASSWORD_EXAMPLES)]
    Password(PasswordOptions),
    /// Let a login send as further addresses or domains.
    #[command(after_help = GRANT_EXAMPLES)]
    Grant(grants::Options),
    /// Take such a right back; what follows from the login's name and permission stays.
    #[command(after_help = GRANT_EXAMPLES)]
    Revoke(grants::Options),
    /// List the logins, without their passwords: whether they may be used, and which senders they may use.
    List,
    /// Remove a login.
    Remove {
        /// Its name, in any case.
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Show a login: its state, its limits, what it has used of them.
    Show {
        /// Its name, in any case.
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Lock a login that somebody else may be using: at once, whatever is wrong with the configuration, and then in the file. It
    /// cannot log in, and its open sessions can send no more.
    #[command(after_help = LOCK_EXAMPLES)]
    Lock(state::LockOptions),
    /// Let a login be used again, whoever suspended it. Messages that are held stay held.
    #[command(after_help = LOCK_EXAMPLES)]
    Unlock(state::StateOptions),
    /// Disable a login that nobody uses for now.
    Disable(state::StateOptions),
    /// Enable a login that was disabled.
    Enable(state::StateOptions),
    /// Further passwords, each for one program or device.
    #[command(subcommand)]
    AppPassword(app_password::Verb),
}

const LOCK_EXAMPLES: &str = "\
Examples:
  posternctl account lock bob@proseware.test --hold-queue --reason 'stolen password?'
  posternctl account lock bob@proseware.test --purge-queue --yes --reason 'sends spam'
  posternctl account lock news@proseware.test --state quota-locked --reason 'ten times the usual'
  posternctl account unlock bob@proseware.test
  posternctl queue release --account bob@proseware.test";

const GRANT_EXAMPLES: &str = "\
Examples:
  posternctl account grant alice@proseware.test --send-as shared@proseware.test
  posternctl account grant printer --domain adatum.test
  posternctl account revoke alice@proseware.test --send-as shared@proseware.test";

const PASSWORD_EXAMPLES: &str = "\
Examples:
  posternctl account password alice@proseware.test
  posternctl account password alice@proseware.test --generate
  echo \"$PASSWORD\" | posternctl account password bob@proseware.test --password-stdin";

/// A new login.
#[derive(Debug, Args)]
pub struct AddOptions {
    /// What the client logs in with. An address is usual; it is then one that the login may send as.
    #[arg(value_name = "NAME", value_parser = account_name)]
    name: String,
    /// Which senders the login may use.
    #[arg(long, value_enum, default_value_t)]
    permission: Permission,
    /// With --permission any: only domains whose SPF record lets this server send for them.
    #[arg(long)]
    any_if_spf: bool,
    /// A domain whose every address the login may send as; may be given several times.
    #[arg(long = "domain", value_name = "DOMAIN")]
    domains: Vec<Domain>,
    /// A further address, or `@domain`, that the login may send as; may be given several times.
    #[arg(long = "send-as", value_name = "ADDRESS", value_parser = send_as)]
    send_as: Vec<String>,
    #[command(flatten)]
    password: NewPassword,
}

/// Which senders a login may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Permission {
    /// Its own name, and what --domain and --send-as say.
    #[default]
    Listed,
    /// Any address of a [[domain]] of this server.
    Local,
    /// Any address at all.
    Any,
}

impl Permission {
    fn as_str(self) -> &'static str {
        match self {
            Self::Listed => "listed",
            Self::Local => "local",
            Self::Any => "any",
        }
    }
}

fn account_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("a name without blanks, such as alice@proseware.test".to_owned());
    }
    Ok(text.to_owned())
}

fn send_as(text: &str) -> Result<String, String> {
    SendAs::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

impl Verb {
    /// Runs the verb.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let config = crate::config::load(&session.global.config).map(|loaded| loaded.config);
        // These work with a configuration that does not load, as far as they can.
        let (this, config) = match (self, config) {
            (Self::Lock(options), config) => return state::lock(session, config, options).await,
            (Self::Unlock(options), Err(failure)) => {
                return state::unlock_beside_file(session, &failure, options).await;
            }
            (Self::List, Err(failure)) => return from_file::list(session, &failure).await,
            (Self::Show { name }, Err(failure)) => return from_file::show(session, &failure, name).await,
            (this, config) => (this, config?),
        };
        match this {
            Self::Add(options) => add(session, &config, &options).await,
            Self::Password(options) => secrets::change(session, &config, &options).await,
            Self::Grant(options) => grants::change(session, &config, &options, Way::Grant).await,
            Self::Revoke(options) => grants::change(session, &config, &options, Way::Revoke).await,
            Self::List => list(session, &config.accounts).await,
            Self::Remove { name } => remove(session, &config, &name).await,
            Self::Show { name } => state::show(session, name).await,
            Self::Lock(options) => state::lock(session, Ok(config), options).await,
            Self::Unlock(options) => state::unlock(session, &config, options, AccountVerb::Unlock).await,
            Self::Enable(options) => state::unlock(session, &config, options, AccountVerb::Enable).await,
            Self::Disable(options) => state::disable(session, &config, options).await,
            Self::AppPassword(verb) => verb.run(session, &config).await,
        }
    }
}

/// What `add` and `remove` did.
#[derive(Debug, Serialize)]
struct Edited {
    /// The login.
    account: String,
    /// The password that was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
    /// The file.
    file: PathBuf,
    /// Whether the running daemon knows of it now.
    reloaded: bool,
    /// What it still cannot do, and the next command.
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<String>,
}

/// What a new login cannot do yet: one whose name is no address, and that was granted none, has no sender.
fn missing(options: &AddOptions, config: &Config) -> Option<String> {
    let has_sender = options.permission != Permission::Listed
        || !options.domains.is_empty()
        || !options.send_as.is_empty()
        || Address::parse(&options.name).is_ok();
    if has_sender {
        return None;
    }
    let name = &options.name;
    let example = match config.domains.first().map(|domain| format!("{name}@{}", domain.name)) {
        Some(address) if Address::parse(&address).is_ok() => address,
        _ => "NAME@DOMAIN".to_owned(),
    };
    Some(format!(
        "{name} can log in, and send as nobody yet: its name is no address, and none was granted. Next: \
         posternctl account grant {name} --send-as {example}"
    ))
}

async fn add(session: &mut Session, config: &Config, options: &AddOptions) -> Result<Exit, Failure> {
    let (password, made) = options.password.take(&options.name)?;
    let secrets = Secrets::of(&password, config)?;
    let file = AccountsFile::open(config)?;
    file.edit(|document| insert(document, options, &secrets))?;
    secrets.warn(session);
    let reloaded = reload(session).await?;
    if reloaded {
        note_change(session, &options.name, AccountVerb::Add, None).await?;
    }
    let (account, password) = (options.name.clone(), made.then_some(password));
    let edited = Edited { account, password, file: file.path, reloaded, missing: missing(options, config) };
    session.out.answer(&edited, |edited, _| edited_text("added", edited))?;
    Ok(Exit::Done)
}

async fn remove(session: &mut Session, config: &Config, name: &str) -> Result<Exit, Failure> {
    let file = AccountsFile::open(config)?;
    file.edit(|document| take_out(document, name))?;
    let reloaded = reload(session).await?;
    if reloaded {
        note_change(session, name, AccountVerb::Remove, None).await?;
    }
    let edited =
        Edited { account: name.to_owned(), password: None, file: file.path, reloaded, missing: None };
    session.out.answer(&edited, |edited, _| edited_text("removed", edited))?;
    Ok(Exit::Done)
}

fn edited_text(verb: &str, edited: &Edited) -> String {
    let mut text = format!("{verb} {} in {}\n", output::clean(&edited.account), edited.file.display());
    if let Some(password) = &edited.password {
        let _ = writeln!(text, "password: {password}");
    }
    if let Some(missing) = &edited.missing {
        let _ = writeln!(text, "{}", output::clean(missing));
    }
    text
}

/// Tells a running daemon. That none runs is no failure: it will read the file when it starts.
async fn reload(session: &Session) -> Result<bool, Failure> {
    let reloaded = session.client()?.post::<Reloaded>("/v1/reload", &serde_json::json!({})).await;
    match reloaded {
        Ok(_) => {
            session.note("the daemon has reloaded");
            Ok(true)
        }
        Err(ClientError::Unreachable { socket, .. }) => {
            session
                .note(&format!("no daemon at {}: the change counts from its next start", socket.display()));
            Ok(false)
        }
        Err(error) => {
            let context = "the file is changed, but the daemon has not taken it over";
            Err(Failure::Other(anyhow::Error::from(error).context(context)))
        }
    }
}

/// Has the daemon see that a change of the file is in force, and note it in the audit log.
async fn note_change(
    session: &Session,
    name: &str,
    verb: AccountVerb,
    detail: Option<String>,
) -> Result<AccountChanged, Failure> {
    let change = AccountChange { name: name.to_owned(), verb, detail, reason: None };
    Ok(session.client()?.post("/v1/accounts/changed", &change).await?)
}

fn insert(document: &mut DocumentMut, options: &AddOptions, secrets: &Secrets) -> Result<(), Failure> {
    // A file of comments only has them at its end; they are a heading, so the entry goes below them.
    let heading = match document.contains_key("account") {
        true => String::new(),
        false => document.trailing().as_str().unwrap_or_default().to_owned(),
    };
    if !heading.is_empty() {
        document.set_trailing("");
    }
    let entries = entries(document)?;
    if position(entries, &options.name).is_some() {
        return Err(Failure::Finding(format!("there is an account {:?} already", options.name)));
    }
    let mut table = Table::new();
    let gap = if entries.is_empty() && heading.is_empty() { "" } else { "\n" };
    table.decor_mut().set_prefix(format!("{heading}{gap}"));
    table.insert("name", value(&options.name));
    secrets.write(&mut table);
    if options.permission != Permission::Listed {
        table.insert("permission", value(options.permission.as_str()));
    }
    if options.any_if_spf {
        table.insert("any_if_spf", value(true));
    }
    if !options.domains.is_empty() {
        table.insert("domains", value(options.domains.iter().map(Domain::as_str).collect::<Array>()));
    }
    if !options.send_as.is_empty() {
        table.insert("send_as", value(options.send_as.iter().map(String::as_str).collect::<Array>()));
    }
    entries.push(table);
    Ok(())
}

fn take_out(document: &mut DocumentMut, name: &str) -> Result<(), Failure> {
    let entries = entries(document)?;
    let at = position(entries, name).ok_or_else(|| no_account(name))?;
    let comments = above(&entries.remove(at));
    // A comment right above an entry is about it and goes with it; what an empty line sets apart stays.
    let kept =
        comments.rfind("\n\n").map(|end| comments[..=end].to_owned()).filter(|text| !text.trim().is_empty());
    let Some(kept) = kept else { return Ok(()) };
    if let Some(next) = entries.get_mut(at) {
        let prefix = format!("{kept}{}", above(next));
        next.decor_mut().set_prefix(prefix);
        return Ok(());
    }
    let rest = document.trailing().as_str().unwrap_or_default().to_owned();
    document.set_trailing(format!("{kept}{rest}"));
    Ok(())
}

/// The comments and empty lines above an entry.
fn above(table: &Table) -> String {
    table.decor().prefix().and_then(|prefix| prefix.as_str()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::Path;

    use postern_admin::api::accounts::{AccountState, AccountStates, Suspension};
    use postern_config::LoginState;

    use super::file::MODE;
    use super::list::{list_text, listed};
    use super::*;
    use crate::output::Look;

    const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA";
    const FILE: &str = "\
# Logins of proseware.test. Keep this line.

# The boss.
[[account]]
name = \"Alice@proseware.test\"   # first login
password = \"$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA\"

[[account]]
name = \"bob@proseware.test\"
password = \"$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA\"
permission = \"local\"
domains = [\"adatum.test\"]
send_as = [\"shared@proseware.test\"]
";

    fn options(name: &str) -> AddOptions {
        AddOptions {
            name: name.to_owned(),
            permission: Permission::Local,
            any_if_spf: false,
            domains: vec![Domain::parse("adatum.test").unwrap()],
            send_as: vec!["shared@proseware.test".to_owned()],
            password: NewPassword { password_stdin: false, generate: true, allow_weak: false },
        }
    }

    fn config(folder: &Path) -> Config {
        fs::write(folder.join("postern.toml"), "hostname = \"mail.proseware.test\"\n").unwrap();
        crate::config::load(&folder.join("postern.toml")).unwrap().config
    }

    fn secrets() -> Secrets {
        Secrets { hash: HASH.to_owned(), verifiers: Vec::new() }
    }

    #[test]
    fn adding_keeps_comments_mode_and_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accounts.toml");
        fs::write(&path, FILE).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let file = AccountsFile::open(&config(folder.path())).unwrap();
        file.edit(|document| insert(document, &options("carol"), &secrets())).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(FILE), "{text}");
        let added = &text[FILE.len()..];
        assert!(added.starts_with("\n[[account]]\nname = \"carol\"\npassword = \"$argon2id$"), "{added}");
        let rest =
            "permission = \"local\"\ndomains = [\"adatum.test\"]\nsend_as = [\"shared@proseware.test\"]\n";
        assert!(added.ends_with(rest), "{added}");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
        // Only the configuration and the logins: nothing is left of the edit.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_new_file_is_not_for_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let file = AccountsFile::open(&config(folder.path())).unwrap();
        file.edit(|document| insert(document, &options("carol"), &secrets())).unwrap();
        assert_eq!(fs::metadata(&file.path).unwrap().mode() & 0o777, MODE);
        assert!(fs::read_to_string(&file.path).unwrap().starts_with("[[account]]\n"));
    }

    #[test]
    fn a_heading_stays_in_front_of_the_first_entry() {
        let mut document: DocumentMut = "# The logins.\n".parse().unwrap();
        insert(&mut document, &options("carol"), &secrets()).unwrap();
        assert!(document.to_string().starts_with("# The logins.\n\n[[account]]\nname"), "{document}");
    }

    #[test]
    fn a_duplicate_in_any_case_is_refused() {
        let mut document: DocumentMut = FILE.parse().unwrap();
        let failure = insert(&mut document, &options("ALICE@proseware.test"), &secrets()).unwrap_err();
        assert!(failure.text().unwrap().contains("already"));
        assert_eq!(document.to_string(), FILE);
    }

    #[test]
    fn what_would_not_load_is_not_put_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accounts.toml");
        let config = config(folder.path());
        fs::write(&path, FILE).unwrap();
        let file = AccountsFile::open(&config).unwrap();
        let broken = file.edit(|document| {
            document.insert("no_such_key", value(1));
            Ok(())
        });
        let Err(Failure::Finding(problem)) = broken else { panic!("{broken:?}") };
        let place = format!("{}:", file.path.display());
        assert!(problem.contains(&place) && !problem.contains(".new"), "{problem}");
        assert_eq!(fs::read_to_string(&path).unwrap(), FILE);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_failed_write_leaves_no_hashes_behind() {
        let folder = tempfile::tempdir().unwrap();
        let file = AccountsFile::open(&config(folder.path())).unwrap();
        let full = file.beside(|file| {
            file.write_all(b"password = \"$argon2id$")?;
            Err(std::io::ErrorKind::StorageFull.into())
        });
        assert!(full.unwrap_err().to_string().contains("writing "));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "only the configuration");
    }

    #[test]
    fn what_the_daemon_knows_stands_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("accounts.toml"), FILE).unwrap();
        let config = config(folder.path());
        let alice = "alice@proseware.test".to_owned();
        let suspension = Some(Suspension::by_server(&alice, 7, "many senders"));
        let known = AccountState { name: alice, state: LoginState::Active, suspension };
        let states = AccountStates { accounts: vec![known] };
        let text = list_text(&listed(&config.accounts, Some(&states)), Look::PLAIN);
        assert!(text.contains("suspended (by the server)") && text.contains("active (not loaded)"), "{text}");
        let json = output::json(&listed(&config.accounts, Some(&states))).unwrap();
        assert!(json.contains(r#""state":"suspended","state_in_file":"active""#), "{json}");
    }

    #[test]
    fn removing_takes_the_comment_of_the_entry_and_keeps_the_heading() {
        let mut document: DocumentMut = FILE.parse().unwrap();
        take_out(&mut document, "alice@PROSEWARE.test").unwrap();
        let text = document.to_string();
        assert!(
            text.starts_with("# Logins of proseware.test. Keep this line.\n\n[[account]]\nname = \"bob"),
            "{text}"
        );
        take_out(&mut document, "bob@proseware.test").unwrap();
        assert_eq!(document.to_string().trim(), "# Logins of proseware.test. Keep this line.");
        assert!(take_out(&mut document, "bob@proseware.test").is_err());
    }

    #[test]
    fn accounts_are_listed_without_their_hashes() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("accounts.toml"), FILE).unwrap();
        let config = config(folder.path());
        let expected = "\
NAME                  STATE   PERMISSION  SENDS ALSO AS
Alice@proseware.test  active  listed      -
bob@proseware.test    active  local       @adatum.test shared@proseware.test
";
        assert_eq!(list_text(&listed(&config.accounts, None), Look::PLAIN), expected);
        let json = output::json(&listed(&config.accounts, None)).unwrap();
        let first = r#"{"version":1,"accounts":[{"name":"Alice@proseware.test","permission":"listed","domains":[],"send_as":[],"state":"active"},"#;
        assert!(json.starts_with(first) && !json.contains("argon2"), "{json}");
    }
}
