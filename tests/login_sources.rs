//! Logins that other systems know: the real ones, set up as docs/logins.md says.

mod explained;
mod over_tcp;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::harness::client::{Reply, message};
use crate::harness::daemon::PASSWORD;
use crate::harness::mail_servers::peer;
use crate::harness::{Client, Daemon, Setup, eventually, installed, is_root, repository, say, skip};

pub const ALICE: &str = "alice@proseware.test";
const BOB: &str = "bob@proseware.test";
pub const CARL: &str = "carl@proseware.test";
/// What carl's password is where he is known.
pub const ELSEWHERE: &str = "open-sesame";
/// Wrong logins are answered at once, so that the tests are quick; loopback is banned like any other address.
pub const QUICK: &str = "[auth.backend]\nwrong_after = \"0s\"\n\
                     [auth.guessing]\nban_loopback = true\nmax_failures = 3\ndelay = \"1ms\"\n";

/// The first block of this kind below a heading of docs/logins.md.
pub fn example(heading: &str, kind: &str) -> String {
    let page = fs::read_to_string(repository().join("docs/logins.md")).unwrap();
    let (_, section) = page.split_once(&format!("# {heading}\n")).expect(heading);
    let (_, block) = section.split_once(&format!("\n```{kind}")).expect(kind);
    let (_, block) = block.split_once('\n').unwrap();
    block.split_once("\n```").unwrap().0.to_owned() + "\n"
}

/// The table `[auth...]` and what stands below it, of an example.
fn auth_of(example: &str) -> String {
    example[example.find("[auth").expect("the example has a table [auth")..].to_owned()
}

#[track_caller]
pub fn assert_says(reply: &Reply, code: u16, words: &[&str]) {
    let text = reply.text();
    assert_eq!(reply.code, code, "{text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text:?}");
    }
}

/// Under TLS, after EHLO.
fn client(daemon: &Daemon) -> Client {
    let mut client = Client::connect(daemon.submission());
    client.ehlo();
    client.start_tls();
    client.ehlo();
    client
}

pub fn log_in(daemon: &Daemon, name: &str, password: &str) -> Reply {
    client(daemon).auth_plain(name, password)
}

fn log_in_by_login(daemon: &Daemon, name: &str, password: &str) -> Reply {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    let mut client = client(daemon);
    client.expect("AUTH LOGIN", 334);
    client.expect(&BASE64_STANDARD.encode(name), 334);
    client.command(&BASE64_STANDARD.encode(password))
}

/// What every back end must do that knows carl, with [`ELSEWHERE`], and whom accounts.toml does not name.
pub fn acts_as_a_back_end(daemon: &Daemon) {
    assert_says(&log_in(daemon, " Carl@Proseware.TEST ", ELSEWHERE), 235, &["2.7.0"]);
    assert_says(&log_in_by_login(daemon, CARL, ELSEWHERE), 235, &["2.7.0"]);
    let mut carl = client(daemon);
    assert_eq!(carl.auth_plain(CARL, ELSEWHERE).code, 235);
    assert_eq!(carl.deliver(CARL, &[BOB], &message(CARL, BOB, "own", "x")).code, 250);
    assert_says(&carl.command("MAIL FROM:<bob@proseware.test>"), 550, &["5.7.1"]);
    // What accounts.toml has a password for is not asked elsewhere.
    assert_says(&log_in(daemon, ALICE, PASSWORD), 235, &[]);
    let wrong = log_in(daemon, CARL, "guess").without_reference();
    assert!(wrong.starts_with("535 5.7.8"), "{wrong}");
    assert_eq!(log_in(daemon, "nobody@proseware.test", ELSEWHERE).without_reference(), wrong);
}

/// Three guesses are banned, and a back end that is gone bans nobody and refuses nobody.
pub fn guesses_are_counted(daemon: &Daemon) {
    let mut guesser = client(daemon);
    assert_says(&guesser.auth_plain(CARL, "another guess"), 535, &["5.7.8"]);
    daemon.wait_for("banned", |line| {
        line["network"].as_str().is_some_and(|network| network.starts_with("127."))
    });
}

pub fn without_the_back_end(daemon: &Daemon) {
    for _ in 0..5 {
        assert_says(&log_in(daemon, CARL, "guess"), 454, &["4.7.0"]);
    }
    let told = daemon.wait_for("login-not-checked", |line| line["login"] == CARL);
    assert!(told["why"].as_str().is_some_and(|why| !why.is_empty()), "{told}");
    assert_says(&log_in(daemon, ALICE, PASSWORD), 235, &[]);
    assert_eq!(daemon.logged("banned"), 0);
}

/// A server that ends when it is asked to; its log is shown when a test fails.
pub struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let output = fs::File::create(log).unwrap();
        let child =
            command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output).spawn().unwrap();
        Self { child, log: log.to_owned() }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        // PostgreSQL would wait for its clients if it were asked by SIGTERM.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            say(&format!(
                "--- {} ---\n{}",
                self.log.display(),
                fs::read_to_string(&self.log).unwrap_or_default()
            ));
        }
        self.stop();
    }
}

/// A Dovecot that is only asked about passwords.
struct DovecotAuth {
    folder: TempDir,
    program: PathBuf,
    server: Option<Server>,
}

impl DovecotAuth {
    fn prepare(mechanisms: &str) -> Option<Self> {
        Self::with_service(mechanisms, |here| {
            example("Dovecot", "dovecot")
                .replace("/var/spool/postern/auth", &format!("{here}/auth"))
                .replace("user = postern", "user = root")
        })
    }

    /// The service is that of the documentation, for this folder.
    fn with_service(mechanisms: &str, service: impl Fn(&str) -> String) -> Option<Self> {
        let place = Some(PathBuf::from("/usr/sbin/dovecot")).filter(|program| program.is_file());
        let program = peer("dovecot", installed("dovecot").or(place))?;
        if !is_root() {
            skip("Dovecot can be started by root only");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("postern-dovecot-auth-").tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let here = folder.path().display();
        fs::write(
            folder.path().join("users"),
            format!(
                "{CARL}:{{PLAIN}}{ELSEWHERE}\nalice:{{PLAIN}}{ELSEWHERE}\n\
                 dora@proseware.test:{{PLAIN}}{ELSEWHERE}::::::nologin reason=moved\n\
                 anne@proseware.test:{{PLAIN}}{ELSEWHERE}::::::user={ALICE}\n"
            ),
        )
        .unwrap();
        let service = service(&here.to_string());
        let config = format!(
            "base_dir = {here}/run\nstate_dir = {here}/state\nlog_path = {here}/log\nprotocols =\nssl = no\n\
             auth_mechanisms = {mechanisms}\nauth_failure_delay = 0\n\
             passdb {{\n  driver = passwd-file\n  args = {here}/users\n}}\n{service}"
        );
        fs::write(folder.path().join("dovecot.conf"), config).unwrap();
        Some(Self { folder, program, server: None })
    }

    fn start(&mut self) {
        self.launch();
        let socket = self.folder.path().join("auth");
        eventually("Dovecot listens", || std::os::unix::net::UnixStream::connect(&socket).ok());
    }

    /// Starts it and does not wait.
    fn launch(&mut self) {
        let config = self.folder.path().join("dovecot.conf");
        let mut command = Command::new(&self.program);
        let server = Server::start(command.arg("-F").arg("-c").arg(config), &self.folder.path().join("log"));
        self.server = Some(server);
    }

    /// The table of the documentation, for this one.
    fn table(&self) -> String {
        let socket = self.folder.path().join("auth");
        auth_of(&example("Dovecot", "toml")).replace("/var/spool/postern/auth", socket.to_str().unwrap())
    }
}

#[test]
fn dovecot_is_asked_about_passwords() {
    let Some(mut dovecot) = DovecotAuth::prepare("plain login") else { return };
    dovecot.start();
    let daemon = Setup::new().with(QUICK).with(&dovecot.table()).start();
    acts_as_a_back_end(&daemon);
    guesses_are_counted(&daemon);
}

#[test]
fn dovecot_lets_nobody_in_who_may_not_log_in_or_whose_password_is_kept_here() {
    let Some(mut dovecot) = DovecotAuth::prepare("plain") else { return };
    dovecot.start();
    let daemon = Setup::new().with(QUICK).with(&dovecot.table()).start();
    for (name, why) in
        [("dora@proseware.test", "moved"), ("anne@proseware.test", "accounts.toml has the password")]
    {
        // More often than guesses are taken.
        for _ in 0..4 {
            assert_says(&log_in(&daemon, name, ELSEWHERE), 535, &["5.7.8"]);
        }
        daemon.wait_for("login-without-rights", |line| {
            line["why"].as_str().is_some_and(|told| told.contains(why))
        });
    }
    assert_eq!(daemon.logged("banned"), 0);
    assert_says(&log_in(&daemon, CARL, ELSEWHERE), 235, &[]);
}

#[test]
fn dovecot_without_plain_is_asked_by_login_and_may_be_gone_for_a_while() {
    let Some(mut dovecot) = DovecotAuth::prepare("login") else { return };
    let daemon = Setup::new().with(QUICK).with(&dovecot.table()).start();
    without_the_back_end(&daemon);
    dovecot.start();
    assert_says(&log_in(&daemon, CARL, ELSEWHERE), 235, &[]);
    // The connection that is kept leads to the old one.
    dovecot.server.as_mut().unwrap().stop();
    dovecot.start();
    assert_says(&log_in(&daemon, CARL, ELSEWHERE), 235, &[]);
}

#[test]
fn rights_stand_in_accounts_toml_and_the_password_elsewhere() {
    let Some(mut dovecot) = DovecotAuth::prepare("plain") else { return };
    dovecot.start();
    let mut daemon = Setup::new().with(QUICK).with(&dovecot.table()).prepare();
    let accounts = daemon.folder().join("accounts.toml");
    let kept = fs::read_to_string(&accounts).unwrap();
    let entry = |more: &str| format!("{kept}\n[[account]]\nname = \"{CARL}\"\n{more}\n");
    fs::write(&accounts, entry("send_as = [\"bob@proseware.test\"]")).unwrap();
    daemon.start();
    let mut carl = client(&daemon);
    assert_says(&carl.auth_plain(CARL, ELSEWHERE), 235, &[]);
    assert_eq!(carl.deliver(BOB, &[BOB], &message(BOB, BOB, "granted", "x")).code, 250);
    // Dovecot knows alice without a domain: she has no address here.
    assert_says(&log_in(&daemon, "alice", ELSEWHERE), 535, &["5.7.8"]);
    let told = daemon.wait_for("login-without-rights", |_| true);
    assert!(told["why"].as_str().unwrap().contains("[[domain]]"), "{told}");
    fs::write(&accounts, entry("state = \"suspended\"")).unwrap();
    daemon.hang_up();
    daemon.wait_for("reloaded", |_| true);
    assert_says(&carl.command("MAIL FROM:<carl@proseware.test>"), 550, &["5.7.13"]);
    assert_says(&log_in(&daemon, CARL, ELSEWHERE), 535, &["5.7.13", "suspended"]);
}

#[test]
fn a_back_end_that_was_not_built_in_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("postern.toml");
    for (name, is_built, table) in [
        (
            "ldap",
            cfg!(feature = "ldap"),
            "url = \"ldapi://%2Frun%2Fldapi\"\nbase = \"dc=proseware,dc=test\"\nname = \"uid\"",
        ),
        (
            "sqlite",
            cfg!(feature = "sqlite"),
            "path = \"postern.toml\"\nquery = \"SELECT hash FROM users WHERE name = ?1\"",
        ),
        (
            "postgres",
            cfg!(feature = "postgres"),
            "host = \"/run/postgresql\"\nuser = \"mail\"\ndatabase = \"mail\"\nquery = \"SELECT hash FROM users WHERE name = $1\"",
        ),
    ] {
        fs::write(&config, format!("hostname = \"mail.proseware.test\"\n[auth.backend.{name}]\n{table}\n"))
            .unwrap();
        let mut check = Command::new(env!("CARGO_BIN_EXE_posternd"));
        let output = check.args(["check", "--config"]).arg(&config).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), is_built, "{told}");
        assert!(
            is_built || (told.contains(&format!("no back end `{name}`")) && told.contains("--features")),
            "{told}"
        );
    }
}
