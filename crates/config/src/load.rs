//! From files to a [`Config`], or to everything that is wrong with them.
//!
//! Three rounds, each on top of a sound one before it: syntax and merging, shape and values ([`crate::shape`]), sense
//! ([`crate::check`]). All that a round finds is reported together.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::account::{AccountsFile, Around};
use crate::check::{check, no_duplicates};
use crate::diagnostic::{ConfigError, Diagnostic, Severity};
use crate::paste::Places;
use crate::source::{Findings, Node, Sources};
use crate::surroundings::Surroundings;
use crate::{Account, Auth, Config, Listener, Via, senders, shape};

/// The directory beside the main file whose `*.toml` files are part of the configuration.
pub(crate) const PARTS: &str = "conf.d";

/// A configuration that can run.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What somebody should look at; none of it keeps the server from running.
    pub warnings: Vec<Diagnostic>,
}

/// Reads the main file, `conf.d/*.toml` beside it in the order of their names, and the logins.
///
/// Arrays of tables of several files are appended, tables merged; any other key may be set in one place only. Relative
/// paths count from the directory of the main file and are absolute afterwards.
///
/// # Errors
/// Everything that is wrong, with file, line and column.
pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
    load_in(path, None, &Surroundings::look())
}

/// The same with the logins of another file: what would be if it stood in the place of theirs.
///
/// # Errors
/// As [`load`].
pub fn load_with_accounts(path: &Path, accounts: &Path) -> Result<Loaded, ConfigError> {
    load_in(path, Some(accounts), &Surroundings::look())
}

/// The logins alone, with whatever is wrong with the other files: where nothing else can be read, they are in `accounts.toml`.
///
/// # Errors
/// What is wrong with the file of logins.
pub fn load_logins(path: &Path) -> Result<Vec<Account>, ConfigError> {
    let (mut elsewhere, mut diagnostics) = (Vec::new(), Vec::new());
    let sources = read_sources(path, &mut elsewhere);
    let tree = sources.parse(&mut Findings::new(&sources));
    let accounts =
        read_accounts(&accounts_path(&tree, &directory_of(path)), Around::default(), None, &mut diagnostics);
    match diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
        true => Err(ConfigError { diagnostics }),
        false => Ok(accounts),
    }
}

fn load_in(path: &Path, accounts: Option<&Path>, surroundings: &Surroundings) -> Result<Loaded, ConfigError> {
    let directory = directory_of(path);
    let mut diagnostics = Vec::new();
    let sources = read_sources(path, &mut diagnostics);
    let mut findings = Findings::new(&sources);
    let tree = sources.parse(&mut findings);
    let syntax_ok = diagnostics.is_empty() && findings.is_empty();
    let mut config: Option<Config> = if syntax_ok { shape::read(&tree, &mut findings) } else { None };
    if let Some(config) = &mut config {
        config.path = directory.join(path.file_name().unwrap_or_default());
        resolve_paths(config, &directory);
        config.places = Places::look(&config.path, &sources, tree.get_ref());
        config.surroundings = surroundings.clone();
        let root = Spanned::new(tree.span(), DeValue::Table(tree.get_ref().clone()));
        check(config, &Node::root(&root), surroundings, &mut findings);
    }
    diagnostics.extend(findings.into_diagnostics());
    let around = config.as_ref().map_or_else(Around::default, |config| Around {
        has_ca: Some(config.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some())),
        asks_others: Some(config.auth.asks_others()),
    });
    let path = accounts.map_or_else(|| accounts_path(&tree, &directory), Path::to_owned);
    let accounts = read_accounts(&path, around, config.as_ref(), &mut diagnostics);
    finish(config, accounts, diagnostics)
}

fn finish(
    config: Option<Config>,
    accounts: Vec<Account>,
    diagnostics: Vec<Diagnostic>,
) -> Result<Loaded, ConfigError> {
    let failed = diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
    let Some(mut config) = config.filter(|_| !failed) else {
        return Err(ConfigError { diagnostics });
    };
    config.accounts = accounts;
    if config.listeners.is_empty() {
        config.listeners = Listener::defaults(config.tls.is_some());
    }
    Ok(Loaded { config, warnings: diagnostics })
}

fn directory_of(path: &Path) -> PathBuf {
    let directory = path.parent().unwrap_or(Path::new(""));
    // Fails only where the current directory is gone; then relative paths stay what they are.
    std::path::absolute(directory.join("."))
        .map_or_else(|_| directory.to_owned(), |absolute| absolute.components().collect())
}

fn read_sources(path: &Path, diagnostics: &mut Vec<Diagnostic>) -> Sources {
    let mut sources = Sources::default();
    let mut paths = vec![path.to_owned()];
    match parts(&path.with_file_name(PARTS)) {
        Ok(parts) => paths.extend(parts),
        Err(error) => diagnostics.push(unreadable(&path.with_file_name(PARTS), &error)),
    }
    for path in paths {
        match fs::read_to_string(&path) {
            Ok(text) => sources.add(&path, text),
            Err(error) => diagnostics.push(unreadable(&path, &error)),
        }
    }
    sources
}

/// The files of `conf.d` in the order of their names; hidden ones are what editors leave behind.
fn parts(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let paths: Vec<PathBuf> =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    let is_part = |path: &PathBuf| {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        !hidden && path.extension().is_some_and(|extension| extension == "toml")
    };
    let mut parts: Vec<PathBuf> = paths.into_iter().filter(is_part).collect();
    parts.sort();
    Ok(parts)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        file: path.to_owned(),
        place: None,
        message: format!("cannot be read: {error}"),
        help: None,
    }
}

/// Where the logins stand, also when the rest of the configuration cannot be understood: then both are reported together.
fn accounts_path(tree: &Spanned<DeTable<'_>>, directory: &Path) -> PathBuf {
    let auth = tree.get_ref().get("auth").and_then(|auth| auth.get_ref().as_table());
    let path = auth.and_then(|auth| auth.get("accounts")?.get_ref().as_str());
    directory.join(path.map_or(Auth::default().accounts, PathBuf::from))
}

fn read_accounts(
    path: &Path,
    around: Around,
    config: Option<&Config>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Account> {
    let mut sources = Sources::default();
    match fs::read_to_string(path) {
        Ok(text) => sources.add(path, text),
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            diagnostics.push(unreadable(path, &error));
            return Vec::new();
        }
    }
    let mut findings = Findings::new(&sources);
    let tree = sources.parse(&mut findings);
    let file: Option<AccountsFile> =
        if findings.is_empty() { shape::read(&tree, &mut findings) } else { None };
    let accounts = file.unwrap_or_default().accounts;
    let root = Spanned::new(tree.span(), DeValue::Table(tree.get_ref().clone()));
    let root = Node::root(&root);
    for (node, account) in root.each("account", &accounts) {
        account.check(around, &node, &mut findings);
    }
    if let Some(config) = config {
        senders::check_logins(config, &accounts, &root, &mut findings);
    }
    let names: Vec<_> = accounts.iter().map(|account| Some(account.name.trim().to_lowercase())).collect();
    no_duplicates(&root.key("account"), "name", "login", &names, &mut findings);
    diagnostics.extend(findings.into_diagnostics());
    accounts
}

fn resolve_paths(config: &mut Config, directory: &Path) {
    let resolve = |path: &mut PathBuf| *path = directory.join(&*path);
    resolve(&mut config.auth.accounts);
    config.auth.backend.iter_mut().flat_map(|backend| backend.paths()).for_each(resolve);
    if let Some(oauth) = &mut config.auth.oauth {
        let paths = [&mut oauth.jwks_file, &mut oauth.client_secret_file, &mut oauth.ca_file];
        paths.into_iter().filter_map(Option::as_mut).for_each(resolve);
    }
    resolve(&mut config.queue.path);
    config.queue.history.path.as_mut().into_iter().for_each(resolve);
    resolve(&mut config.admin.socket);
    config.policy.tests.iter_mut().for_each(resolve);
    config.reputation.reports.iter_mut().for_each(resolve);
    config.outbound.ca_file.as_mut().into_iter().for_each(resolve);
    if let Some(tls) = &mut config.tls {
        tls.files_mut().for_each(resolve);
    }
    for domain in &mut config.domains {
        domain.maildir.as_mut().into_iter().for_each(resolve);
        domain.dkim.iter_mut().for_each(|key| resolve(&mut key.key));
    }
    for route in &mut config.routes {
        route.maildir.as_mut().into_iter().for_each(resolve);
        route.password_file.as_mut().into_iter().for_each(resolve);
        // An LMTP server with a slash in it is a socket.
        let sockets = route.hosts.iter_mut().filter(|host| route.via == Via::Lmtp && host.contains('/'));
        sockets.for_each(|host| *host = directory.join(&*host).to_string_lossy().into_owned());
    }
}

#[cfg(test)]
mod login_sources;
#[cfg(test)]
mod open_relay;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;
    use crate::render;

    const HOST: &str = "hostname = \"mail.proseware.test\"\n";
    const HASH: &str =
        "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    struct Folder(TempDir);

    impl Folder {
        fn new(files: &[(&str, &str)]) -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            for (name, text) in files {
                folder.write(name, text, 0o600);
            }
            folder
        }

        fn write(&self, name: &str, text: &str, mode: u32) {
            let path = self.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }

        fn load(&self) -> Result<Loaded, ConfigError> {
            load_in(&self.0.path().join("postern.toml"), None, &Surroundings::default())
        }

        /// `file:line:column: severity: message`, with file names below the folder.
        fn problems(&self) -> Vec<String> {
            let diagnostics = match self.load() {
                Ok(loaded) => loaded.warnings,
                Err(error) => error.diagnostics,
            };
            let folder = format!("{}/", self.0.path().display());
            diagnostics.iter().map(|diagnostic| diagnostic.to_string().replace(&folder, "")).collect()
        }
    }

    /// The problems of a main file with a host name in line 1; `text` begins in line 2.
    fn problems(text: &str) -> Vec<String> {
        let text = format!("{HOST}{text}");
        let folder = Folder::new(&[
            ("postern.toml", &text),
            ("cert.pem", "-----BEGIN CERTIFICATE-----\n"),
            ("key.pem", "-----BEGIN PRIVATE KEY-----\n"),
            ("junk.pem", "nothing\n"),
            ("password", "secret\n"),
        ]);
        folder.write("open.pem", "-----BEGIN PRIVATE KEY-----\n", 0o644);
        folder.problems().iter().map(|problem| problem.replace("postern.toml:", "")).collect()
    }

    /// One problem: its place, and a piece of its message.
    #[track_caller]
    fn one(text: &str, place: &str, message: &str) {
        let found = problems(text);
        assert!(
            matches!(&found[..], [only] if only.starts_with(&format!("{place}: ")) && only.contains(message)),
            "expected {place} ... {message}, found {found:#?}"
        );
    }

    #[track_caller]
    fn fine(text: &str) {
        assert_eq!(problems(text), Vec::<String>::new());
    }

    #[test]
    fn the_smallest_configuration_listens_on_port_25_only() {
        let folder = Folder::new(&[("postern.toml", HOST)]);
        let Loaded { config, warnings } = folder.load().unwrap();
        let listeners: Vec<String> = config.listeners.iter().map(|l| l.address.to_string()).collect();
        assert_eq!(listeners, ["0.0.0.0:25", "[::]:25"]);
        assert!(warnings.is_empty() && config.accounts.is_empty());
        assert_eq!(config.path, folder.0.path().join("postern.toml"));
    }

    #[test]
    fn with_tls_the_submission_ports_are_added() {
        let text = format!("{HOST}[tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n");
        let folder = Folder::new(&[
            ("postern.toml", &text),
            ("cert.pem", "-----BEGIN CERTIFICATE-----\n"),
            ("key.pem", "-----BEGIN EC PRIVATE KEY-----\n"),
        ]);
        let config = folder.load().unwrap().config;
        let ports: Vec<u16> =
            config.listeners.iter().filter_map(|listener| listener.address.port()).collect();
        assert_eq!(ports, [25, 25, 587, 587, 465, 465]);
        assert_eq!(config.tls.unwrap().key, folder.0.path().join("key.pem"));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_place_and_what_was_meant() {
        let folder = Folder::new(&[("postern.toml", &format!("{HOST}\n[smtp]\n  max_eror = 5\n"))]);
        let error = folder.load().unwrap_err();
        let shown = error.to_string().replace(&format!("{}/", folder.0.path().display()), "");
        assert_eq!(
            shown,
            "postern.toml:4:3: error: unknown key `smtp.max_eror`\n   \
             4 |   max_eror = 5\n     \
             |   ^^^^^^^^\n     \
             = help: did you mean `max_errors`?\n"
        );
    }

    #[test]
    fn all_problems_are_reported_together() {
        let text = "hostnam = \"x\"\n[smtp]\nmax_errors = \"5\"\nerror_delay = \"5\"\nmax_data_line = \"1MB\"\n\
                    [queue]\nlifetime = \"long\"\n[[listener]]\nkind = \"mxx\"\naddress = \"x\"\n[[listener]]\nkind = \"mx\"\n\
                    [[domain]]\nname = \"a..b\"\ncolour = 1\n";
        let found = problems(text);
        let expected = [
            "2:1: error: unknown key `hostnam`",
            "4:14: error: `smtp.max_errors` must be an integer, not a string",
            "5:15: error: \"5\" is not a duration: write a number and ms, s, m, h or d, such as \"5m\"",
            "8:12: error: \"long\" does not begin with a number",
            "10:8: error: `listener.kind` cannot be \"mxx\"",
            "12:1: error: missing key `listener.address`",
            "15:8: error: \"a..b\" is not a domain name: malformed domain label",
            "16:1: error: unknown key `domain.colour`",
        ];
        assert_eq!(found, expected, "{found:#?}");
    }

    #[test]
    fn what_senders_are_asked_is_checked() {
        fine(
            "[policy]\nrequire_verified = \"enforce\"\npublic_addresses = [\"192.0.2.25\", \"2001:db8::25\"]\n",
        );
        one("[policy]\nrequire_verified = \"yes\"\n", "3:20", "cannot be \"yes\"");
        one("[policy]\nverify_every = \"0s\"\n", "3:16", "is 0");
        one("[policy]\nverify_failures = 0\n", "3:19", "is 0");
        one("[policy]\npublic_addresses = [\"127.0.0.1\"]\n", "3:21", "127.0.0.1");
    }

    #[test]
    fn what_is_asked_of_logins_is_checked() {
        fine(
            "[auth]\nlimits = { per_hour = 200 }\nsigns = { suspend = true }\nguessing = { never = [\"192.0.2.0/24\"] }\n",
        );
        one("[auth.guessing]\nnever = [\"192.0.2.1/24\"]\n", "3:10", "host bits");
        one("[auth.guessing]\nwindow = \"0s\"\n", "3:10", "is 0");
        one("[auth.guessing]\nmax_delay = \"1h\"\n", "3:13", "longer than 60 s");
        one("[auth.guessing]\nalarm_addresses = 1000\n", "3:19", "100 is the most");
        one("[auth.signs]\nunknown_ratio = 1.5\n", "3:17", "1.5");
        one("[auth.limits]\nper_week = 1\n", "3:1", "unknown key");
    }

    #[test]
    fn what_an_account_says_of_its_state_and_app_passwords_is_checked() {
        let problems = |keys: &str| {
            let logins = format!("[[account]]\nname = \"alice\"\npassword = \"{HASH}\"\n{keys}\n");
            Folder::new(&[("postern.toml", HOST), ("accounts.toml", &logins)]).problems()
        };
        let app =
            |keys: &str| format!("app_passwords = [{{ label = \"phone\", password = \"{HASH}\"{keys} }}]");
        assert_eq!(problems("state = \"quota-locked\"\nstate_reason = \"x\""), Vec::<String>::new());
        assert_eq!(
            problems(&app(", expires = \"2026-12-31\", networks = [\"192.0.2.0/24\"]")),
            Vec::<String>::new()
        );
        let twice =
            format!("[[account.app_passwords]]\nlabel = \"phone\"\npassword = \"{HASH}\"\n").repeat(2);
        for (keys, message) in [
            ("state = \"locked\"".to_owned(), "cannot be \"locked\""),
            ("state_reason = \"x\"".to_owned(), "state_reason"),
            ("networks = [\"192.0.2.1/24\"]".to_owned(), "host bits"),
            ("enabled = false".to_owned(), "unknown key"),
            (app(", expires = \"soon\""), "no day and no time"),
            (app(", networks = [\"192.0.2.1/24\"]"), "host bits"),
            ("app_passwords = [{ label = \" \", password = \"secret\" }]".to_owned(), "label is empty"),
            (twice, "there twice"),
        ] {
            let found = problems(&keys).join("\n");
            assert!(found.starts_with("accounts.toml:") && found.contains(message), "{keys}: {found}");
            assert!(!found.contains("secret"), "{found}");
        }
    }

    #[test]
    fn placeholders_that_were_not_replaced_are_pointed_out() {
        let zeros = "0".repeat(64);
        let host = |name: &str| format!("[[relay.hosts]]\nname = \"{name}\"\nlabel = \"branch\"\n");
        fine(&host("branch.proseware.test"));
        one(&host("client.invalid"), "3:8", "warning: client.invalid is nobody's name");
        let certificate = format!("[[relay.certificates]]\nsha256 = \"{zeros}\"\nlabel = \"gateway\"\n");
        one(&certificate, "3:10", "warning: only zeros");
    }

    #[test]
    fn senders_of_ours_that_nobody_reads_are_pointed_out() {
        const DOMAINS: &str = "[[domain]]\nname = \"proseware.test\"\nmailboxes = [\"alice\"]\n\
                               aliases = { office = [\"alice\"] }\n[[domain]]\nname = \"elsewhere.test\"\n";
        let problems = |senders: &str, send_as: &str, state: &str| {
            let main = format!(
                "{HOST}[[relay.grants]]\nlabel = \"printer\"\nnetwork = \"192.0.2.40/32\"\nsenders = [{senders}]\n\
                 recipients = [\"*\"]\nrate = \"100/h\"\n{DOMAINS}"
            );
            let logins = format!(
                "[[account]]\nname = \"scanner\"\npassword = \"{HASH}\"\nstate = \"{state}\"\nsend_as = [{send_as}]\n"
            );
            Folder::new(&[("postern.toml", &main), ("accounts.toml", &logins)]).problems()
        };
        let fine = "\"office@proseware.test\", \"alice+x@proseware.test\", \"@proseware.test\", \"x@elsewhere.test\", \
                    \"x@adatum.test\", \"postmaster@proseware.test\"";
        assert_eq!(problems(&format!("{fine}, \"*\", \"<>\""), fine, "active"), Vec::<String>::new());
        let scan = "\"scan@proseware.test\"";
        let found = problems(scan, scan, "active");
        let text = "warning: nobody reads scan@proseware.test";
        assert!(
            matches!(&found[..], [grant, login] if grant.starts_with("postern.toml:5:12: ") && grant.contains(text)
                && login.starts_with("accounts.toml:5:12: ") && login.contains(text)),
            "{found:#?}"
        );
        assert_eq!(problems(fine, scan, "disabled"), Vec::<String>::new());
    }

    #[test]
    fn any_if_spf_needs_the_permission_it_narrows() {
        let login = |keys: &str| {
            let logins =
                format!("[[account]]\nname = \"agency\"\npassword = \"{HASH}\"\nany_if_spf = true\n{keys}");
            Folder::new(&[("postern.toml", HOST), ("accounts.toml", &logins)]).problems()
        };
        assert_eq!(login("permission = \"any\"\n"), Vec::<String>::new());
        assert_eq!(login("send_as = [\"*\"]\n"), Vec::<String>::new());
        let refused = login("");
        assert!(
            refused[0].starts_with("accounts.toml:4:") && refused[0].contains("any_if_spf"),
            "{refused:?}"
        );
    }

    #[test]
    fn a_missing_host_name_is_said_at_the_top() {
        let folder = Folder::new(&[("postern.toml", "[smtp]\n")]);
        assert_eq!(folder.problems(), ["postern.toml:1:1: error: missing key `hostname`"]);
    }

    #[test]
    fn syntax_errors_have_a_place_in_their_own_file() {
        let folder = Folder::new(&[
            ("postern.toml", HOST),
            ("conf.d/10-a.toml", "# fine\n[smtp]\nmax_errors = 7\n"),
            ("conf.d/20-b.toml", "# \u{e4}\n[log]\nlevel = \"info\n"),
        ]);
        let found = folder.problems();
        assert!(found.iter().all(|problem| problem.starts_with("conf.d/20-b.toml:3:")), "{found:?}");
        assert!(!found.is_empty());
    }

    #[test]
    fn parts_are_merged_in_the_order_of_their_names() {
        let folder = Folder::new(&[
            ("postern.toml", &format!("{HOST}[smtp]\nmax_errors = 7\n[[domain]]\nname = \"one.test\"\n")),
            ("conf.d/20.toml", "[[domain]]\nname = \"three.test\"\n[smtp.timeouts]\ngreeting = \"5s\"\n"),
            ("conf.d/10.toml", "[[domain]]\nname = \"two.test\"\n[smtp]\nmax_received = 9\n"),
            ("conf.d/.30.toml", "nonsense"),
            ("conf.d/40.toml~", "nonsense"),
        ]);
        let config = folder.load().unwrap().config;
        let names: Vec<&str> = config.domains.iter().map(|domain| domain.name.as_str()).collect();
        assert_eq!(names, ["one.test", "two.test", "three.test"]);
        assert_eq!((config.smtp.max_errors, config.smtp.max_received), (7, 9));
        assert_eq!(config.smtp.timeouts.greeting.as_secs(), 5);
    }

    #[test]
    fn inline_arrays_of_tables_are_appended_too() {
        let network = |n: u8| {
            format!("[relay]\ntrusted_networks = [{{ network = \"192.0.{n}.0/24\", label = \"n\" }}]\n")
        };
        let folder = Folder::new(&[
            ("postern.toml", &format!("{HOST}{}", network(1))),
            ("conf.d/a.toml", &network(2)),
        ]);
        assert_eq!(folder.load().unwrap().config.relay.trusted_networks.len(), 2);
    }

    #[test]
    fn a_key_set_twice_names_both_places() {
        let folder = Folder::new(&[
            ("postern.toml", &format!("{HOST}[smtp]\nmax_errors = 7\n")),
            ("conf.d/a.toml", "[smtp]\n max_errors = 8\n"),
        ]);
        let error = folder.load().unwrap_err();
        assert_eq!(folder.problems(), ["conf.d/a.toml:2:2: error: `smtp.max_errors` is set twice"]);
        assert!(error.diagnostics[0].help.as_ref().unwrap().contains("postern.toml:3:1"), "{error}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let folder = Folder::new(&[]);
        let found = folder.problems();
        assert!(found[0].starts_with("postern.toml: error: cannot be read: "), "{found:?}");
    }

    #[test]
    fn relative_paths_count_from_the_main_file() {
        let text = format!(
            "{HOST}[reputation]\nreports = [\"reports\"]\n[queue]\npath = \"spool\"\nhistory.path = \"journal\"\n[admin]\nsocket = \"run/control.sock\"\n[auth]\naccounts = \"logins.toml\"\n\
             [[domain]]\nname = \"proseware.test\"\nmaildir = \"mail/{{local}}\"\n\
             [[route]]\nvia = \"lmtp\"\nhosts = [\"./lmtp.sock\"]\n"
        );
        let logins = format!("[[account]]\nname = \"alice@proseware.test\"\npassword = \"{HASH}\"\n");
        let folder = Folder::new(&[("postern.toml", &text), ("logins.toml", &logins)]);
        let config = folder.load().unwrap().config;
        let below = |path: &str| folder.0.path().join(path);
        assert_eq!(config.queue.path, below("spool"));
        assert_eq!(config.queue.history_path(), below("journal"));
        assert_eq!(config.reputation.reports, [below("reports")]);
        assert_eq!(config.admin.socket, below("run/control.sock"));
        assert_eq!(config.domains[0].maildir.as_deref(), Some(below("mail/{local}").as_path()));
        assert!(Path::new(&config.routes[0].hosts[0]).is_absolute());
        assert_eq!(config.accounts.len(), 1);
    }

    #[test]
    fn logins_are_checked_and_their_hashes_never_shown() {
        let accounts = format!(
            "[[account]]\nname = \"Alice\"\npassword = \"hunter2\"\nsend_as = [\"a@b.test\", \"nobody\", \"@x y\"]\n\
             [[account]]\nname = \"alice\"\npassword = \"{HASH}\"\n[[account]]\nname = \"bob\"\npassword = 12345\nemail = 1\n"
        );
        let folder = Folder::new(&[("postern.toml", HOST), ("accounts.toml", &accounts)]);
        assert_eq!(
            folder.problems(),
            [
                "accounts.toml:10:12: error: `account.password` must be a string, not an integer",
                "accounts.toml:11:1: error: unknown key `account.email`",
            ]
        );
        let accounts = accounts.split("[[account]]\nname = \"bob\"").next().unwrap();
        folder.write("accounts.toml", accounts, 0o600);
        assert_eq!(
            folder.problems(),
            [
                "accounts.toml:3:12: error: the password of \"Alice\" is no password hash that is known here",
                "accounts.toml:4:24: error: \"nobody\" cannot be granted: no domain in address",
                "accounts.toml:4:34: error: \"@x y\" cannot be granted: character ' ' is not allowed in a domain",
                "accounts.toml:6:8: error: login alice is there twice",
            ]
        );
        let text = render(&folder.load().unwrap_err().diagnostics);
        assert!(text.contains("posternctl writes argon2id") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn only_workable_hashes_are_passwords() {
        for (password, good) in [
            (HASH.to_owned(), true),
            (HASH.replace("argon2id", "argon2i"), false),
            (HASH.replace("m=19456", "m=4194304000"), false),
            (HASH.replace("m=19456", "m=0"), false),
            (HASH.replace("t=2", "t=0"), false),
            (HASH.replace("$c2FsdHNhbHRzYWx0", "$"), false),
            ("$6$salt$hash".to_owned(), false),
            (format!("$6$salt${}", "a".repeat(86)), true),
            ("{PLAIN}x".to_owned(), false),
        ] {
            let accounts = format!("[[account]]\nname = \"a@b.test\"\npassword = '{password}'\n");
            let folder = Folder::new(&[("postern.toml", HOST), ("accounts.toml", &accounts)]);
            assert_eq!(folder.load().is_ok(), good, "{password}");
        }
    }

    #[test]
    fn an_account_in_the_main_file_is_sent_to_its_own() {
        let folder = Folder::new(&[("postern.toml", &format!("{HOST}[[account]]\nname = \"a\"\n"))]);
        let error = folder.load().unwrap_err();
        assert!(error.to_string().contains("accounts.toml"), "{error}");
    }

    fn trusted(network: &str) -> String {
        format!("[relay]\ntrusted_networks = [{{ network = \"{network}\", label = \"l\" }}]\n")
    }

    #[test]
    fn networks_that_make_an_open_relay_do_not_load() {
        for network in [
            "0.0.0.0/0",
            "::/0",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "fc00::/7",
            "0.0.0.0/1",
            "128.0.0.0/1",
            "172.0.0.0/8",
            "2000::/3",
            "2000::/8",
            "2a00::/19",
            "fc00::/6",
            "96.0.0.0/6",
        ] {
            one(&trusted(network), "3:33", &format!("error: trusting {network} (l) would relay for "));
            let accepted = trusted(network).replace(" }", ", accept_open_relay_risk = true }");
            one(&accepted, "3:33", &format!("warning: trusting {network}"));
        }
        for network in [
            "127.0.0.0/8",
            "::1/128",
            "192.168.1.0/24",
            "10.0.0.0/9",
            "fd00:1::/32",
            "fd00::/8",
            "fe80::/10",
            "2001:4000::/20",
            "198.51.100.0/24",
        ] {
            fine(&trusted(network));
        }
    }

    #[test]
    fn halves_of_a_range_are_seen_as_the_whole() {
        let text = "[relay]\ntrusted_networks = [{ network = \"10.0.0.0/9\", label = \"a\" }, \
                    { network = \"10.128.0.0/9\", label = \"b\" }]\n";
        one(text, "3:20", "make up 10.0.0.0/8 together");
        let text = "[relay]\ntrusted_networks = [{ network = \"2a00::/20\", label = \"a\" }, \
                    { network = \"2a00:1000::/20\", label = \"b\" }]\n";
        one(
            text,
            "3:20",
            "hold 536870912 public networks of the size /48 together: a large part of the internet",
        );
    }

    /// A grant from some senders to some recipients.
    fn granted(network: &str, senders: &str, recipients: &str) -> String {
        format!(
            "{{ network = \"{network}\", label = \"{network}\", senders = [\"{senders}\"], recipients = [\"{recipients}\"], rate = \"1/h\" }}"
        )
    }

    #[test]
    fn grants_from_anybody_to_anybody_count_as_trust() {
        let grants = |list: &[String]| format!("[relay]\ngrants = [{}]\n", list.join(", "));
        let half = |network| granted(network, "*", "*");
        let text = grants(&[half("10.0.0.0/9"), half("10.128.0.0/9")]);
        one(&text, "3:10", "make up 10.0.0.0/8 together");
        let narrow = granted("10.128.0.0/9", "*", "@adatum.test");
        fine(&grants(&[half("10.0.0.0/9"), narrow.clone()]));
        fine(&grants(&[granted("10.0.0.0/9", "@proseware.test", "*"), narrow]));
        let accepted = half("10.128.0.0/9").replace(" }", ", accept_open_relay_risk = true }");
        fine(&grants(&[half("10.0.0.0/9"), accepted]));
        // Together with what is trusted.
        let both = format!("{}grants = [{}]\n", trusted("10.0.0.0/9"), half("10.128.0.0/9"));
        one(&both, "4:10", "make up 10.0.0.0/8 together");
        // What is reported of the trusted networks is not reported once more.
        let text = "[relay]\ntrusted_networks = [{ network = \"10.0.0.0/9\", label = \"a\" }, \
                    { network = \"10.128.0.0/9\", label = \"b\" }]\n";
        one(&format!("{text}grants = [{}]\n", half("192.0.2.0/24")), "3:20", "trusted networks make up");
    }

    #[test]
    fn recipients_of_a_relay_domain_are_a_word_or_a_list() {
        let domain = |recipients: &str| {
            format!("[relay]\nrelay_domains = [{{ name = \"customer.test\", recipients = {recipients} }}]\n")
        };
        for recipients in ["\"any\"", "\"call-forward\"", "[\"carol\"]", "[]"] {
            fine(&domain(recipients));
        }
        one(&domain("\"callout\""), "3:57", "cannot be \"callout\"");
        one(&domain("[\"carol@x\"]"), "3:58", "not a local part");
        one(&domain("7"), "3:57", "call-forward");
        one("[relay.call_forward]\ntimeout = \"0s\"\n", "3:11", "`timeout` is 0");
        one("[relay.call_forward]\ncache_size = 0\n", "3:14", "`cache_size` is 0");
        one("[relay]\nhost_refresh = \"0s\"\n", "3:16", "`host_refresh` is 0");
    }

    #[test]
    fn an_address_in_the_place_of_a_network_is_told_how_to_be_one() {
        let told = |text: &str| {
            let text = format!("{HOST}{text}");
            Folder::new(&[("postern.toml", text.as_str())]).load().unwrap_err().to_string()
        };
        let address = told(&trusted("192.0.2.1"));
        assert!(address.contains("\"192.0.2.1\" is an address, not a network"), "{address}");
        assert!(address.contains("help: write \"192.0.2.1/32\""), "{address}");
        let six = told("[auth.guessing]\nnever = [\"2001:db8::1\"]\n");
        assert!(six.contains("help: write \"2001:db8::1/128\""), "{six}");
        let list = told("[relay]\ntrusted_networks = [\"192.0.2.5\"]\n");
        assert!(list.contains("help: write { network = \"192.0.2.5/32\", label = \"...\" }"), "{list}");
    }

    #[test]
    fn networks_with_host_bits_or_in_ipv6_disguise_are_refused() {
        one(&trusted("192.0.2.1/24"), "3:33", "192.0.2.1/24 has host bits set");
        one(&trusted("::ffff:0:0/96"), "3:33", "an IPv4 network in IPv6 form");
        one(&trusted("192.0.2.0/33"), "3:33", "");
        one("[smtp]\nnormalise_line_ends_from = [\"192.0.2.1/24\"]\n", "3:29", "has host bits set");
        let mapped = "an IPv4 network in IPv6 form";
        let grant = granted("::ffff:192.0.2.0/120", "*", "@adatum.test");
        one(&format!("[relay]\ngrants = [{grant}]\n"), "3:23", mapped);
        one("[auth.guessing]\nnever = [\"::ffff:192.0.2.0/120\"]\n", "3:10", mapped);
        one("[smtp]\nnormalise_line_ends_from = [\"::ffff:192.0.2.1/128\"]\n", "3:29", mapped);
        let said = problems("[auth.guessing]\nnever = [\"::ffff:192.0.2.0/120\"]\n");
        assert_eq!(said.len(), 1, "{said:?}");
        let accounts = |rest: &str| {
            let text = format!("[[account]]\nname = \"a@proseware.test\"\npassword = \"{HASH}\"\n{rest}");
            Folder::new(&[("postern.toml", HOST), ("accounts.toml", &text)]).problems().join("\n")
        };
        let of_login = accounts("networks = [\"::ffff:192.0.2.0/120\"]\n");
        assert!(of_login.contains(mapped), "{of_login}");
        let app = format!(
            "app_passwords = [{{ label = \"x\", password = \"{HASH}\", networks = [\"::ffff:192.0.2.7/128\"] }}]"
        );
        let of_app = accounts(&app);
        assert!(of_app.contains(mapped), "{of_app}");
    }

    #[test]
    fn what_is_told_apart_by_a_key_does_not_have_it_twice() {
        let grants = |labels: [&str; 2]| {
            labels.map(|label| {
                format!(
                    "[[relay.grants]]\nlabel = \"{label}\"\nnetwork = \"192.0.2.7/32\"\nsenders = [\"*\"]\n\
                     recipients = [\"@adatum.test\"]\nrate = \"1/h\"\n"
                )
            })
        };
        fine(&grants(["a", "b"]).concat());
        one(&grants(["a", "a"]).concat(), "9:9", "two grants have the label \"a\"");
        one(&grants(["a", " a"]).concat(), "9:9", "two grants have the label");
        one(&grants(["a", " "]).concat(), "9:9", "a grant without a label");
        let certificate = |key: &str| format!("[[relay.certificates]]\n{key}\nlabel = \"x\"\n");
        let (sha256, colons) = ("ab".repeat(32), ["AB"; 32].join(":"));
        let [plain, colons] = [sha256, colons].map(|text| certificate(&format!("sha256 = \"{text}\"")));
        one(&format!("{plain}{colons}"), "6:10", "is there twice");
        let tls = "[tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\nclient_ca = \"cert.pem\"\n";
        let named = |name: &str| certificate(&format!("name = \"{name}\""));
        fine(&format!("{tls}{}{}", named("a.test"), named("b.test")));
        one(
            &format!("{tls}{}{}", named("a.test"), named("A.test")),
            "10:8",
            "the name a.test is there twice",
        );
    }

    #[test]
    fn every_path_counts_from_the_directory_of_the_main_file() {
        const CERT: &str = "-----BEGIN CERTIFICATE-----\n";
        const KEY: &str = "-----BEGIN PRIVATE KEY-----\n";
        let text = format!(
            "{HOST}[auth]\naccounts = \"logins.toml\"\n[queue]\npath = \"spool\"\n[queue.history]\npath = \"history\"\n\
             [admin]\nsocket = \"control.sock\"\n[policy]\ntests = [\"table.toml\"]\n[outbound]\nca_file = \"sub/ca.pem\"\n\
             [tls]\ncertificate = \"sub/cert.pem\"\nkey = \"sub/key.pem\"\nclient_ca = \"sub/clients.pem\"\n\
             [[tls.certificates]]\ncertificate = \"sub/cert.pem\"\nkey = \"sub/key.pem\"\n\
             [[domain]]\nname = \"proseware.test\"\nmailboxes = [\"a\"]\nmaildir = \"mail/{{local}}\"\n\
             dkim = [{{ selector = \"a\", key = \"sub/key.pem\" }}]\n\
             [[route]]\ndomain = \"a.test\"\nvia = \"maildir\"\nmaildir = \"mail/{{domain}}\"\n\
             [[route]]\ndomain = \"b.test\"\nvia = \"smarthost\"\nhosts = [\"relay.test\"]\nusername = \"x\"\n\
             password_file = \"sub/password\"\n\
             [[route]]\ndomain = \"c.test\"\nvia = \"lmtp\"\nhosts = [\"run/lmtp.sock\"]\n"
        );
        let folder = Folder::new(&[
            ("postern.toml", &text),
            ("sub/ca.pem", CERT),
            ("sub/cert.pem", CERT),
            ("sub/clients.pem", CERT),
            ("sub/key.pem", KEY),
            ("sub/password", "secret\n"),
        ]);
        let config = folder.load().unwrap_or_else(|error| panic!("{error}")).config;
        let tls = config.tls.unwrap();
        let paths = [
            config.path,
            config.auth.accounts,
            config.queue.path,
            config.queue.history.path.unwrap(),
            config.admin.socket,
            config.policy.tests[0].clone(),
            config.outbound.ca_file.unwrap(),
            tls.certificate,
            tls.key,
            tls.client_ca.unwrap(),
            tls.certificates[0].certificate.clone(),
            tls.certificates[0].key.clone(),
            config.domains[0].maildir.clone().unwrap(),
            config.domains[0].dkim[0].key.clone(),
            config.routes[0].maildir.clone().unwrap(),
            config.routes[1].password_file.clone().unwrap(),
            PathBuf::from(&config.routes[2].hosts[0]),
        ];
        for path in paths {
            assert!(path.starts_with(folder.0.path()), "{}", path.display());
        }
    }

    #[test]
    fn inside_a_container_the_network_of_the_gateway_is_not_trusted() {
        let folder = Folder::new(&[("postern.toml", &format!("{HOST}{}", trusted("172.17.0.0/16")))]);
        let path = folder.0.path().join("postern.toml");
        let gateways = vec!["172.17.0.1".parse().unwrap()];
        let container = Surroundings { container: true, gateways: gateways.clone(), own: Vec::new() };
        let error = load_in(&path, None, &container).unwrap_err();
        assert!(error.to_string().contains("the default gateway 172.17.0.1"), "{error}");
        assert!(load_in(&path, None, &Surroundings { container: false, ..container.clone() }).is_ok());
        let accepted =
            format!("{HOST}{}", trusted("172.17.0.0/16")).replace(" }", ", accept_open_relay_risk = true }");
        folder.write("postern.toml", &accepted, 0o600);
        assert_eq!(load_in(&path, None, &container).unwrap().warnings.len(), 1);
        for (recipients, loads) in [("*", false), ("@adatum.test", true)] {
            let text = format!("{HOST}[relay]\ngrants = [{}]\n", granted("172.17.0.0/16", "*", recipients));
            folder.write("postern.toml", &text, 0o600);
            assert_eq!(load_in(&path, None, &container).is_ok(), loads, "{recipients}");
        }
    }

    #[test]
    fn submission_needs_tls() {
        for kind in ["submission", "submissions"] {
            let text = format!("[[listener]]\nkind = \"{kind}\"\naddress = \"127.0.0.1:0\"\n");
            one(&text, "3:8", "needs `[tls]`");
            fine(&format!("{text}[tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n"));
        }
    }

    #[test]
    fn tls_files_are_looked_at() {
        let tls = |certificate: &str, key: &str| {
            format!("[tls]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n")
        };
        one(&tls("none.pem", "key.pem"), "3:15", "none.pem cannot be read: No such file");
        one(&tls("cert.pem", "none.pem"), "4:7", "none.pem cannot be read: No such file");
        one(&tls("junk.pem", "key.pem"), "3:15", "holds no certificate");
        one(&tls("cert.pem", "junk.pem"), "4:7", "holds no private key");
        one(&tls("cert.pem", "open.pem"), "4:7", "warning: the key");
        let further = |certificate: &str, key: &str| {
            let pair = format!("[[tls.certificates]]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n");
            tls("cert.pem", "key.pem") + &pair
        };
        fine(&(further("cert.pem", "key.pem") + "names = [\"mail.a.test\", \"*.b.test\"]\n"));
        one(&further("none.pem", "key.pem"), "6:15", "none.pem cannot be read: No such file");
        one(&further("cert.pem", "junk.pem"), "7:7", "holds no private key");
        let named = further("cert.pem", "key.pem") + "names = [\"mail.a.test\", \"a.*.test\"]\n";
        one(&named, "8:25", "is not a name that clients ask for");
    }

    #[test]
    fn versions_ciphers_and_groups_of_tls_go_together() {
        let tls = |keys: &str| format!("[tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n{keys}\n");
        fine(&tls("min_version = \"1.3\"\nciphers = [\"strong\"]\ngroups = [\"post-quantum\"]"));
        fine(&tls("ciphers = [\"TLS_AES_128_GCM_SHA256\"]\ngroups = [\"X25519MLKEM768\"]"));
        fine(&tls(
            "ciphers = [\"ECDHE-RSA-AES128-GCM-SHA256\"]\ngroups = [\"P-256\"]\nsession_tickets = false",
        ));
        one(&tls("min_version = \"1.1\""), "5:15", "cannot be \"1.1\"");
        one(&tls("ciphers = [\"RC4-SHA\"]"), "5:11", "\"RC4-SHA\" is not known");
        one(&tls("groups = []"), "5:10", "the list is empty");
        let old = "min_version = \"1.3\"\nciphers = [\"ECDHE-RSA-AES128-GCM-SHA256\"]";
        one(&tls(old), "6:11", "none of these cipher suites is for TLS 1.3");
        one(&tls("groups = [\"post-quantum\"]"), "5:10", "TLS 1.2 has none of these groups");
    }

    #[test]
    fn things_there_twice_are_refused() {
        let listener = "[[listener]]\nkind = \"mx\"\naddress = \"127.0.0.1:25\"\n";
        one(&format!("{listener}{listener}"), "7:11", "listener 127.0.0.1:25 is there twice");
        fine(&format!("{listener}{listener}").replace(":25", ":0"));
        let domain = "[[domain]]\nname = \"proseware.test\"\n";
        one(
            &format!("{domain}{}", domain.to_uppercase().replace("DOMAIN", "domain").replace("NAME", "name")),
            "5:8",
            "twice",
        );
        let relay = |domain: &str| format!("[[relay.relay_domains]]\nname = \"{domain}\"\n");
        one(&format!("{}{}", relay("a.test"), relay("A.test")), "5:8", "relay domain a.test is there twice");
        one(&format!("{domain}{}", relay("proseware.test")), "5:8", "is a local domain and a relay domain");
        one(&relay("mail.proseware.test"), "3:8", "is the host name");
    }

    fn domain(rest: &str) -> String {
        format!("[[domain]]\nname = \"proseware.test\"\n{rest}\n")
    }

    #[test]
    fn names_in_a_domain_must_be_local_parts() {
        one(&domain("mailboxes = [\"alice\", \"bob@x.test\"]"), "4:23", "is not a local part");
        one(&domain("mailboxes = [\"alice\", \"Alice\"]"), "4:23", "is there twice");
        one(&domain("aliases = { \"a b\" = [\"x@adatum.test\"] }"), "4:13", "is not a local part");
        one(&domain("aliases = { a = [] }"), "4:17", "leads to nobody");
        one(&domain("subaddress_delimiter = \"@\""), "4:24", "no local part can hold that");
        one(&domain("maildir = \"/mail/{user}\""), "4:11", "placeholder");
        one(
            "[[relay.relay_domains]]\nname = \"a.test\"\nrecipients = [\"b@a.test\"]\n",
            "4:15",
            "is not a local part",
        );
    }

    #[test]
    fn alias_targets_must_exist() {
        one(&domain("aliases = { a = [\"b c\"] }"), "4:18", "is not a target of mail");
        one(&domain("aliases = { a = [\"b\"] }"), "4:18", "b@proseware.test is in a domain of ours");
        one(&domain("aliases = { a = [\"x@mail.proseware.test\"] }"), "4:18", "nobody has that name");
        one(&domain("mailboxes = [\"b\"]\ncatch_all = \"c@\""), "5:13", "is not a target of mail");
        fine(&domain(
            "aliases = { a = [\"b\", \"b+x\", \"postmaster\", \"root@mail.proseware.test\", \"c@adatum.test\"] }\nmailboxes = [\"B\"]",
        ));
        fine(&domain("aliases = { a = [\"whoever\"] }\nmailboxes = [\"b\"]\ncatch_all = \"b\""));
    }

    #[test]
    fn alias_loops_name_their_chain() {
        one(
            &domain("aliases = { a = [\"b\"], b = [\"x@adatum.test\", \"c\"], c = [\"B@proseware.test\"] }"),
            "4:17",
            "alias loop: b@proseware.test -> c@proseware.test -> b@proseware.test",
        );
        one(&domain("aliases = { a = [\"a\"] }"), "4:17", "alias loop: a@proseware.test -> a@proseware.test");
        one(&domain("aliases = { a = [\"a+x\"] }"), "4:17", "alias loop");
        one(&domain("catch_all = \"nobody\""), "4:13", "alias loop: catch-all of proseware.test ->");
        fine(&domain("mailboxes = [\"a\"]\naliases = { a = [\"a\", \"b@adatum.test\"] }"));
        let other = "[[domain]]\nname = \"branch.test\"\naliases = { b = [\"a@proseware.test\"] }\n";
        one(
            &format!("{}{other}", domain("aliases = { a = [\"b@branch.test\"] }")),
            "4:17",
            "alias loop: a@proseware.test -> b@branch.test -> a@proseware.test",
        );
    }

    #[test]
    fn dkim_keys_are_looked_at() {
        let key = |selector: &str, file: &str| {
            domain(&format!("dkim = [{{ selector = \"{selector}\", key = \"{file}\" }}]"))
        };
        fine(&key("2026a", "key.pem"));
        one(&key("2026_a", "key.pem"), "4:22", "is not a selector");
        one(&key("2026a", "none.pem"), "4:37", "the DKIM key");
        one(&key("2026a", "junk.pem"), "4:37", "holds no private key");
        one(&key("2026a", "open.pem"), "4:37", "warning: the DKIM key");
        one(
            &domain(
                "dkim = [{ selector = \"a\", key = \"key.pem\" }, { selector = \"A\", key = \"key.pem\" }]",
            ),
            "4:59",
            "twice",
        );
    }

    #[test]
    fn routes_have_what_their_way_needs_and_nothing_else() {
        let route = |rest: &str| format!("[[route]]\n{rest}\n");
        one(&route("via = \"smarthost\""), "3:7", "needs `hosts`");
        one(&route("via = \"lmtp\""), "3:7", "needs `hosts`");
        one(&route("via = \"maildir\""), "3:7", "needs `maildir`");
        one(&route("via = \"mx\"\nhosts = [\"a.test\"]"), "4:9", "`hosts` does not belong");
        one(&route("via = \"discard\"\ntext = \"no\""), "4:8", "`text` does not belong");
        one(&route("via = \"reject\"\ntls = \"may\""), "4:7", "`tls` does not belong");
        one(&route("via = \"smarthost\"\nhosts = [\"a.test\", \"b:x\"]"), "4:20", "is not a host");
        one(
            &route("via = \"smarthost\"\nhosts = [\"a.test\"]\nusername = \"u\""),
            "5:12",
            "needs `password_file`",
        );
        one(
            &route("via = \"smarthost\"\nhosts = [\"a.test\"]\npassword_file = \"password\""),
            "5:17",
            "needs `username`",
        );
        let login =
            "via = \"smarthost\"\nhosts = [\"a.test:587\"]\nusername = \"u\"\npassword_file = \"password\"";
        fine(&route(login));
        one(&route(&login.replace("\"password\"", "\"none\"")), "6:17", "cannot be read");
        one(&route(&format!("{login}\ntls = \"encrypt\"")), "7:7", "warning: the password is sent");
        one(&route("via = \"lmtp\"\nhosts = [\"a.test\"]"), "4:10", "has no port");
        one(&route("via = \"lmtp\"\nhosts = [\"a.test:24\", \"b.test:24\"]"), "4:23", "one server");
        fine(&route("via = \"lmtp\"\nhosts = [\"/run/lmtp.sock\"]"));
        one(&route("domain = \"a b\"\nvia = \"mx\""), "3:10", "is not a domain");
        one(&route("sender = \"a\"\nvia = \"mx\""), "3:10", "is not a sender");
        fine(&route("domain = \".adatum.test\"\nsender = \"<>\"\nvia = \"reject\"\ntext = \"no\""));
        one(&route("via = \"maildir\"\nmaildir = \"/x/{y}\""), "4:11", "placeholder");
        one(
            &format!("{}{}", route("via = \"mx\""), route("domain = \"a.test\"\nvia = \"reject\"")),
            "4:1",
            "warning: this route is never reached",
        );
        one(
            &format!("{}{}", domain(""), route("domain = \"proseware.test\"\nvia = \"mx\"")),
            "6:10",
            "warning: this route is never used",
        );
    }

    #[test]
    fn a_reply_of_ones_own_must_be_a_refusal_that_makes_sense() {
        let relay = |keys: &str| format!("[replies.relay]\n{keys}\n");
        fine(&relay("code = 554\nstatus = \"5.7.1\"\ntext = \"<{address}>: no, {cause}; {advice} ({ref})\""));
        fine(&relay("code = 451\nstatus = \"\""));
        one(&relay("code = 250"), "3:8", "250 is no code of a refusal");
        one(&relay("code = 354"), "3:8", "354 is no code of a refusal");
        one(&relay("code = 600"), "3:8", "600 is no code of a refusal");
        one(&relay("code = 550\nstatus = \"4.7.1\""), "4:10", "4.7.1 does not fit the code 550");
        one(&relay("status = \"5.7.1\""), "3:10", "`status` needs `code`");
        one(&relay("code = 550\nstatus = \"5.7\""), "4:10", "not an enhanced status code");
        one(&relay("text = \"{recipient}\""), "3:8", "there is no {recipient}");
        one(&relay("text = \"a\\n250 ok\""), "3:8", "line ends");
        one(&relay("text = \"see {url}\""), "3:8", "none is configured");
        one(&relay("family = \"tagged\""), "3:10", "`tagged` replies point to a page");
        one(&relay("family = \"courier\""), "3:10", "");
        one("[replies.rate]\ncode = 550\n", "3:8", "550 would refuse for good");
        one("[replies.banned]\ncode = 550\n", "3:8", "550 would refuse for good");
        one("[replies.banned]\ncode = 450\n", "3:8", "450 would not say that the connection ends");
        one("[replies]\nreport_url = \"reports.example\"\n", "3:14", "no address of a page");
        fine("[replies]\nfamily = \"tagged\"\nreport_url = \"https://reports.example/\"\n");
    }

    #[test]
    fn the_report_page_needs_an_address_for_itself_and_for_the_world() {
        let url = "url = \"https://mail.proseware.test/r/\"";
        fine(&format!("[report]\nlisten = \"127.0.0.1:8081\"\n{url}\n[replies]\nfamily = \"tagged\"\n"));
        one("[report]\nlisten = \"127.0.0.1:8081\"\n", "3:10", "`listen` needs `url`");
        one(&format!("[report]\n{url}\n"), "3:7", "`url` needs `listen`");
        one(
            &format!("[report]\nlisten = \"127.0.0.1:8081\"\n{}\n", url.replace("/r/", "/r")),
            "4:7",
            "end with",
        );
        one(&format!("[report]\nlisten = \"0.0.0.0:80\"\n{url}\n"), "3:10", "plain HTTP to the network");
        one(
            &format!("[report]\nlisten = \"127.0.0.1:443\"\n{url}\ntls = true\n"),
            "5:7",
            "needs a certificate",
        );
    }

    #[test]
    fn unix_sockets_are_for_lmtp_and_their_keys_for_them() {
        let listener = |keys: &str| format!("[[listener]]\n{keys}\n");
        fine(&listener(
            "kind = \"lmtp\"\naddress = \"unix:/run/postern/lmtp.sock\"\nmode = \"0666\"\ngroup = \"mail\"\nuser = \"root\"",
        ));
        fine(&listener("kind = \"lmtp\"\naddress = \"127.0.0.1:24\""));
        for (keys, place, message) in [
            ("kind = \"mx\"\naddress = \"unix:/run/x\"", "4:11", "a mx listener cannot be a UNIX socket"),
            ("kind = \"lmtp\"\naddress = \"unix:x\"", "4:11", "begins with \"/\""),
            (
                "kind = \"lmtp\"\naddress = \"127.0.0.1:24\"\nmode = \"0660\"",
                "5:8",
                "`mode` is for UNIX sockets",
            ),
            (
                "kind = \"lmtp\"\naddress = \"127.0.0.1:24\"\nuser = \"root\"",
                "5:8",
                "`user` is for UNIX sockets",
            ),
            ("kind = \"lmtp\"\naddress = \"unix:/run/x\"\nmode = \"0888\"", "5:8", "no octal number"),
            (
                "kind = \"lmtp\"\naddress = \"unix:/run/x\"\nuser = \"nobody-has-it\"",
                "5:8",
                "there is no user",
            ),
            (
                "kind = \"lmtp\"\naddress = \"unix:/run/x\"\ngroup = \"nobody-has-it\"",
                "5:9",
                "there is no group",
            ),
            (
                "kind = \"lmtp\"\naddress = \"unix:/run/x\"\nproxy = [\"192.0.2.1/32\"]",
                "5:9",
                "has no address",
            ),
        ] {
            one(&listener(keys), place, message);
        }
    }

    #[test]
    fn numbers_that_cannot_work_are_refused() {
        for (table, line, message) in [
            ("queue.retry", "growth = 0.9", "`growth` is 0.9"),
            ("queue.retry", "growth = inf", "`growth` is inf"),
            ("queue.retry", "jitter = 1.5", "`jitter` is 1.5"),
            ("queue.retry", "jitter = nan", "`jitter` is NaN"),
            ("queue.retry", "first = \"5h\"", "`first` is longer than `cap`"),
            ("queue.retry", "first = \"0s\"", "`first` is 0"),
            ("queue", "lifetime = \"0s\"", "`lifetime` is 0"),
            (
                "queue",
                "lifetime = \"43d\"",
                "`lifetime` and the 7 days of `smtp.max_hold` are more than 49 days",
            ),
            ("queue", "bounce_lifetime = \"60d\"", "`bounce_lifetime` and the 7 days of `smtp.max_hold`"),
            ("queue", "max_messages = 0", "`max_messages` is 0"),
            ("queue", "stall_limit = \"10m\"", "warning: `stall_limit` is not above the longest"),
            ("queue", "inline_limit = \"64MiB\"", "is not below `segment_size`"),
            ("queue.history", "max_size = \"1000KiB\"", "`max_size` is below 1 MiB"),
            ("policy.records", "max_size = \"1000KiB\"", "`max_size` is below 1 MiB"),
            ("policy.records", "max_age = \"0s\"", "`max_age` is zero"),
            ("policy.records", "max_records = 0", "`max_records` is 0"),
            ("report", "max_requests = 0", "`max_requests` is 0"),
            ("reputation", "max_age = \"0s\"", "`max_age` is zero"),
            ("reputation", "max_reports = 0", "`max_reports` is 0"),
            ("queue.history", "max_age = \"0s\"", "`max_age` is zero"),
            ("smtp", "max_recipients = 0", "`max_recipients` is 0"),
            ("smtp", "max_message_size = \"0B\"", "`max_message_size` is 0"),
            ("smtp", "max_errors = -1", ""),
            ("smtp", "max_command_line = 100", "too short"),
            ("smtp", "max_data_line = \"100B\"", "too short"),
            ("smtp.timeouts", "command = \"0ms\"", "`command` is 0"),
            ("smtp.timeouts", "command_line = \"0s\"", "`command_line` is 0"),
            ("smtp.timeouts", "data_grace = \"0s\"", "`data_grace` is 0"),
            ("smtp", "max_connections_per_network = 0", "`max_connections_per_network` is 0"),
            ("smtp", "max_delayed = 0", "`max_delayed` is 0"),
            ("smtp", "max_hold = \"31d\"", "mail cannot be held for so long"),
            ("smtp", "max_priority = 10", "10 is no priority that could be the highest"),
            ("smtp", "max_priority = -1", "-1 is no priority that could be the highest"),
            ("smtp", "max_error_delay = \"1h\"", "`max_error_delay` is longer than 60 s"),
            ("smtp", "max_buffers = \"1000KiB\"", "do not hold the message of one session"),
            ("smtp", "xclient_from = [\"0.0.0.0/0\"]", "lets everybody claim any address"),
            ("smtp", "xclient_from = [\"192.0.2.1/24\"]", "has host bits set"),
            ("smtp", "xclient_login_from = [\"192.0.2.0/24\"]", "is not in `smtp.xclient_from`"),
            ("smtp", "xforward_from = [\"::/0\"]", "what they like into the log"),
            ("smtp", "etrn_from = [\"0.0.0.0/0\"]", "lets everybody run the queue"),
            ("smtp.clients", "ipv4_prefix = 7", "`ipv4_prefix` is 7, which makes no network"),
            ("smtp.clients", "ipv6_prefix = 65", "`ipv6_prefix` is 65, which makes no network"),
            ("smtp.clients", "exempt = [\"192.0.2.1/24\"]", "has host bits set"),
            ("smtp.pregreet", "wait = \"1m\"", "`wait` is longer than 30 s"),
            ("smtp.pregreet", "action = \"maybe\"", ""),
            ("smtp.stress", "from_percent = 101", "which is never reached"),
            ("smtp.stress", "idle = \"0s\"", "`idle` is 0"),
            ("outbound", "port = 0", "`port` is 0"),
            ("outbound", "port = 65536", ""),
            ("outbound", "initial_per_destination = 21", "is above"),
            ("outbound", "destination_back_off = \"1h\"", "is longer"),
            ("outbound", "source_addresses = [\"0.0.0.0\"]", "no address to send from"),
            ("outbound", "ca_file = \"none.pem\"", "cannot be read"),
            ("outbound.timeouts", "dns = \"0s\"", "`dns` is 0"),
            ("resolver", "timeout = \"0s\"", "`timeout` is 0"),
            ("resolver", "attempts = 0", "`attempts` is 0"),
            ("resolver", "nameservers = [\"127.0.0.1:0\"]", "has no port"),
            ("auth", "max_password_checks = 0", "`max_password_checks` is 0"),
            ("log", "level = \"inof\"", "does not name a level"),
            ("log", "level = \"info,postern_outbound=dbug\"", "does not name a level"),
        ] {
            let value = line.find("= ").unwrap() + 3 + usize::from(line.contains("[\""));
            one(&format!("[{table}]\n{line}\n"), &format!("3:{value}"), message);
        }
        fine("[log]\nlevel = \"warn,postern_outbound=debug,postern_queue\"\n");
        fine(
            "[queue]\nstall_limit = \"3s\"\n[outbound.timeouts]\ngreeting = \"2s\"\ncommand = \"2s\"\ndata_block = \"2s\"\ndata_end = \"2s\"\ndns = \"2s\"\nconnect = \"2s\"\nhandshake = \"2s\"\n",
        );
        fine("[queue]\ndelay_notice = \"0s\"\n[queue.retry]\ngrowth = 1\njitter = 0\n");
    }

    #[test]
    fn lists_of_clients_in_dns_must_be_able_to_say_something() {
        let list = |keys: &str| format!("[[policy.dnsbl]]\nzone = \"zen.example.test\"\n{keys}\n");
        fine(&list(
            "answers = [\"127.0.0.2\", \"127.0.0.4/30\"]\nweight = -3\ntext = \"see https://x.test/{client}\"",
        ));
        fine(&format!("{}{}", list("answers = [\"127.0.0.2\"]"), list("answers = [\"127.0.0.3\"]")));
        one(&list("answers = [\"127.0.0.2\", \"listed\"]"), "4:11", "\"listed\" is no answer of a list");
        one(&list("answers = [\"203.0.113.7\"]"), "4:12", "203.0.113.7 is no answer that a list gives");
        one(&list("answers = [\"127.255.255.254\"]"), "4:12", "is no answer that a list gives");
        one(&list("answers = [\"127.0.0.5/30\"]"), "4:12", "host bits");
        one(&list("answers = [\"127.0.0.0/8\"]"), "4:12", "127.0.0.0/8 is no answer that a list gives");
        one(&list("weight = 0"), "4:10", "`weight` is 0");
        one(&list("label = \"\""), "4:9", "is no label of a list");
        one(&list("text = \"a\\nb\""), "4:8", "no text for a reply");
        one(&list("text = \"{list}\""), "4:8", "a placeholder that does not exist");
        one(&list("action = \"defer\""), "4:10", "");
        one(&format!("{0}{0}", list("")), "6:8", "list zen.example.test is there twice");
        let other = list("label = \"zen.example.test\"").replacen("zen", "other", 1);
        one(&format!("{}{other}", list("")), "7:9", "is that of another zone");
        one(&list("").replace("zen", &["x"; 95].join(".")), "3:8", "longer than 189 octets");
        let many: String = (0..21).map(|n| list("").replace("zen", &format!("zen{n}"))).collect();
        one(&many, "62:1", "too many lists");
        one("[policy]\ndnsbl_threshold = 0\n", "3:19", "`dnsbl_threshold` is 0");
        one(&format!("[policy]\ndnsbl_threshold = 2\n{}", list("")), "3:19", "all lists together weigh 1");
        one("[policy]\ndnsbl_timeout = \"0s\"\n", "3:17", "`dnsbl_timeout` is 0");
        one("[policy]\ndnsbl_exempt = [\"192.0.2.1/24\"]\n", "3:17", "host bits");
    }

    #[test]
    fn proxies_are_named_one_by_one() {
        let listener = |proxy: &str| {
            format!("[[listener]]\nkind = \"mx\"\naddress = \"0.0.0.0:25\"\nproxy = [\"{proxy}\"]\n")
        };
        fine(&listener("192.0.2.1/32"));
        one(&listener("0.0.0.0/0"), "5:10", "lets everybody claim any address");
        one(&listener("192.0.2.1/24"), "5:10", "has host bits set");
    }

    #[test]
    fn the_user_and_the_host_name_are_looked_at() {
        one("user = \"nobody-has-this-name\"\n", "2:8", "there is no user");
        fine("user = \"root\"\n");
        let folder = Folder::new(&[("postern.toml", "hostname = \"localhost\"\n")]);
        assert_eq!(folder.problems(), ["postern.toml:1:12: warning: the host name localhost has no dot"]);
    }

    #[test]
    fn every_example_loads() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config");
        let names = ["postern.toml", "one-domain.toml", "smarthost.toml", "backup-mx.toml"];
        for name in names {
            let text = fs::read_to_string(examples.join(name)).unwrap();
            let folder = Folder::new(&[
                ("tls/fullchain.pem", "-----BEGIN CERTIFICATE-----\n"),
                ("tls/key.pem", "-----BEGIN PRIVATE KEY-----\n"),
                ("keys/proseware.test.2026a.pem", "-----BEGIN PRIVATE KEY-----\n"),
                ("keys/smarthost.password", "secret\n"),
            ]);
            // The examples name files below /etc/postern; here that is the folder.
            let text = text.replace("/etc/postern/", "");
            // What is commented out must load too, once somebody removes the marks.
            let uncommented = |line: &str| match line.strip_prefix("# ") {
                Some(setting) if setting.starts_with('[') || setting.contains(" = ") => {
                    format!("{setting}\n")
                }
                _ => format!("{line}\n"),
            };
            for text in [text.clone(), text.lines().map(uncommented).collect()] {
                folder.write("postern.toml", &text, 0o644);
                assert_eq!(folder.problems(), Vec::<String>::new(), "{name}");
            }
        }
        let found = fs::read_dir(&examples).unwrap().filter(|entry| {
            entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "toml")
        });
        assert_eq!(found.count(), names.len(), "an example that no test loads");
    }
}
