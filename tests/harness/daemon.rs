//! The daemon in a folder of its own, with ports that are free.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, Params, PasswordHasher};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;
use tempfile::TempDir;
use toml::{Table, Value};

use super::mail::Maildir;
use super::tls::{self, Identity};
use super::{Dns, NextHop, PATIENCE, is_root, loopback};

/// The password of every account that [`Setup`] makes.
pub const PASSWORD: &str = "correct horse battery staple";

/// A configuration before its daemon runs. It starts from a small server for proseware.test with the mailboxes alice and
/// bob, a login for each, TLS, and short waits.
pub struct Setup {
    folder: TempDir,
    dns: Dns,
    config: Table,
    accounts: Vec<Value>,
}

impl Setup {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("postern-test-").tempdir().unwrap();
        let dns = Dns::start();
        let path = folder.path();
        let address = loopback();
        // With the address in it too: other people's clients connect by address and check the name.
        let identity = Identity::new(&["mail.proseware.test", &address.to_string()]);
        write_secret(&path.join("cert.pem"), &identity.certificate_pem);
        write_secret(&path.join("key.pem"), &identity.key_pem);
        fs::write(path.join("ca.pem"), tls::authority_pem()).unwrap();
        let text = basic_config(path, address, dns.address());
        let setup = Self { folder, dns, config: text.parse().unwrap(), accounts: Vec::new() };
        // Started as root it would look for a user to become, who could not enter the temporary directory.
        let setup = if is_root() { setup.with("user = \"root\"") } else { setup };
        setup.account("alice@proseware.test", "").account("bob@proseware.test", "")
    }

    /// Adds TOML: tables are merged, arrays of tables grow, other values are replaced.
    pub fn with(mut self, text: &str) -> Self {
        merge(&mut self.config, text.parse().unwrap_or_else(|error| panic!("{error}\n{text}")));
        self
    }

    /// Adds a login with [`PASSWORD`], and further keys of it in TOML.
    pub fn account(mut self, name: &str, keys: &str) -> Self {
        let mut account: Table = keys.parse().unwrap();
        account.insert("name".into(), name.into());
        account.insert("password".into(), password_hash().into());
        self.accounts.push(account.into());
        self
    }

    /// Clients from here may relay.
    pub fn trust(self, network: &str) -> Self {
        self.with(&format!("[[relay.trusted_networks]]\nnetwork = \"{network}\"\nlabel = \"office\""))
    }

    /// The MX of a domain is this next hop. All next hops of one test share its port.
    pub fn next_hop(self, domain: &str, hop: &NextHop) -> Self {
        let host = format!("mx.{domain}");
        self.dns.mx(domain, &[(10, &host)]);
        self.dns.a(&host, hop.ip());
        self.with(&format!("[outbound]\nport = {}", hop.port()))
    }

    pub fn dns(&self) -> &Dns {
        &self.dns
    }

    /// The folder with everything of this server in it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes the files and waits until the daemon is ready.
    pub fn start(self) -> Daemon {
        let mut daemon = self.prepare();
        daemon.start();
        daemon
    }

    /// Writes the files and starts nothing.
    pub fn prepare(self) -> Daemon {
        let Self { folder, dns, config, accounts } = self;
        let mut file = Table::new();
        if !accounts.is_empty() {
            file.insert("account".into(), accounts.into());
        }
        write_secret(&folder.path().join("accounts.toml"), &file.to_string());
        let daemon = Daemon { folder, dns, run: None, past: Vec::new() };
        fs::write(daemon.config(), config.to_string()).unwrap();
        daemon
    }
}

/// Everything but what a test adds.
fn basic_config(folder: &Path, address: Ipv4Addr, nameserver: SocketAddr) -> String {
    let folder = folder.display();
    format!(
        r#"
        hostname = "mail.proseware.test"
        listener = [
            {{ kind = "mx", address = "{address}:0" }},
            {{ kind = "submission", address = "{address}:0" }},
            {{ kind = "submissions", address = "{address}:0" }},
        ]
        [[domain]]
        name = "proseware.test"
        mailboxes = ["alice", "bob"]
        [tls]
        certificate = "{folder}/cert.pem"
        key = "{folder}/key.pem"
        [smtp]
        error_delay = "1ms"
        # One login sends more in a test than a person in a day.
        [auth]
        limits = {{ per_message = 0, per_hour = 0, per_day = 0 }}
        [queue]
        path = "{folder}/spool"
        min_free_space = "1MiB"
        min_free_inodes = 10
        delay_notice = "0s"
        retry = {{ first = "200ms", growth = 1.2, cap = "500ms", jitter = 0.0 }}
        [outbound]
        allow_private_targets = true
        ca_file = "{folder}/ca.pem"
        destination_back_off = "200ms"
        destination_back_off_cap = "500ms"
        idle_connection = "500ms"
        [resolver]
        nameservers = ["{nameserver}"]
        timeout = "2s"
        attempts = 1
        [metrics]
        listen = "{address}:0"
        [log]
        level = "info"
        format = "json"
        [admin]
        socket = "{folder}/control.sock"
        "#
    )
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (Some(Value::Array(old)), Value::Array(new)) if new.iter().all(Value::is_table) => {
                old.extend(new)
            }
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

/// A hash that is cheap to check: the tests log in often, and guessing it is no concern.
fn password_hash() -> String {
    static HASH: OnceLock<String> = OnceLock::new();
    let make = || {
        let cheap = Params::new(64, 1, 1, None).unwrap();
        let hasher = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, cheap);
        let hash: PasswordHash = hasher.hash_password(PASSWORD.as_bytes()).unwrap();
        hash.to_string()
    };
    HASH.get_or_init(make).clone()
}

fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A daemon and its folder. It is killed when it is dropped; its log is printed when the test fails.
pub struct Daemon {
    folder: TempDir,
    dns: Dns,
    run: Option<Run>,
    /// The logs of earlier runs on the same folder.
    past: Vec<Vec<String>>,
}

/// One process.
struct Run {
    child: Child,
    log: Arc<Log>,
    reader: JoinHandle<()>,
}

impl Daemon {
    /// Starts it on its folder and waits until it is ready.
    pub fn start(&mut self) {
        self.launch();
        self.wait_for("ready", |_| true);
    }

    /// Starts it on its folder and does not wait.
    pub fn launch(&mut self) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_posternd"))
            .args(["run", "--config"])
            .arg(self.config())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let log = Arc::new(Log::default());
        let writer = Arc::clone(&log);
        let reader = thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).for_each(|line| writer.push(line));
            writer.end();
        });
        self.run = Some(Run { child, log, reader });
    }

    /// Waits for an event of the log of this run; those that were logged before count too.
    pub fn wait_for(&self, event: &str, matches: impl Fn(&Json) -> bool) -> Json {
        let log = &self.run().log;
        log.wait(|line| is_event(line, event) && matches(line))
            .unwrap_or_else(|| panic!("no event {event:?} in the log"))
    }

    /// How many lines of the log of this run are about this event, so far.
    pub fn logged(&self, event: &str) -> usize {
        let lines = self.run().log.lines.lock().unwrap();
        lines
            .iter()
            .filter(|line| serde_json::from_str(line).is_ok_and(|line| is_event(&line, event)))
            .count()
    }

    /// Waits for a line of the log of this run that is so, in whatever format.
    pub fn wait_for_line(&self, is_so: impl Fn(&str) -> bool) -> String {
        let log = &self.run().log;
        super::eventually("the line in the log", || {
            log.lines.lock().unwrap().iter().find(|line| is_so(line)).cloned()
        })
    }

    pub fn mx(&self) -> SocketAddr {
        self.listening("mx")
    }

    pub fn submission(&self) -> SocketAddr {
        self.listening("submission")
    }

    pub fn submissions(&self) -> SocketAddr {
        self.listening("submissions")
    }

    /// Where the metrics are.
    pub fn metrics(&self) -> SocketAddr {
        self.listening("metrics")
    }

    /// Where the page of refusals is.
    pub fn report(&self) -> SocketAddr {
        self.listening("report")
    }

    fn listening(&self, listener: &str) -> SocketAddr {
        let event = self.wait_for("listening", |line| line["listener"] == listener);
        event["address"].as_str().unwrap().parse().unwrap()
    }

    pub fn dns(&self) -> &Dns {
        &self.dns
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder().join("postern.toml")
    }

    /// Changes the configuration file; nothing is reloaded.
    pub fn change_config(&self, text: &str) {
        let mut config: Table = fs::read_to_string(self.config()).unwrap().parse().unwrap();
        merge(&mut config, text.parse().unwrap());
        fs::write(self.config(), config.to_string()).unwrap();
    }

    /// The Maildir of a local address.
    pub fn maildir(&self, address: &str) -> Maildir {
        let (local, domain) = address.split_once('@').unwrap();
        Maildir(self.folder().join("spool/mail").join(domain).join(local))
    }

    pub fn pid(&self) -> u32 {
        self.run().child.id()
    }

    /// Whether the process is still there.
    pub fn is_running(&mut self) -> bool {
        self.run.as_mut().is_some_and(|run| run.child.try_wait().unwrap().is_none())
    }

    /// SIGHUP: read the configuration again.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// SIGTERM, and what it ended with.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.finish()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.finish();
    }

    /// SIGTERM and start.
    pub fn restart(&mut self) {
        assert!(self.terminate().success(), "SIGTERM should end the daemon with 0");
        self.start();
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits until it ends by itself, and tells what it ended with.
    pub fn finish(&mut self) -> ExitStatus {
        let mut run = self.run.take().expect("a daemon that runs");
        // The log ends when the process does, so this has a deadline and the wait below takes no time.
        let ended = run.log.wait_for_end();
        if !ended {
            run.child.kill().unwrap();
        }
        let status = run.child.wait().unwrap();
        run.reader.join().unwrap();
        self.past.push(std::mem::take(&mut *run.log.lines.lock().unwrap()));
        assert!(ended, "the daemon did not end within {PATIENCE:?}");
        status
    }

    fn run(&self) -> &Run {
        self.run.as_ref().expect("a daemon that runs")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(run) = &mut self.run {
            // It may have ended by itself.
            let _ = run.child.kill();
            let _ = run.child.wait();
            run.log.wait_for_end();
            self.past.push(std::mem::take(&mut *run.log.lines.lock().unwrap()));
        }
        if thread::panicking() {
            for (number, lines) in self.past.iter().enumerate() {
                eprintln!(
                    "--- log of run {} in {} ---\n{}",
                    number + 1,
                    self.folder().display(),
                    lines.join("\n")
                );
            }
        }
    }
}

fn is_event(line: &Json, event: &str) -> bool {
    line["event"] == event
}

/// What the daemon wrote to standard error.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    ended: Mutex<bool>,
    changed: Condvar,
}

impl Log {
    fn push(&self, line: String) {
        self.lines.lock().unwrap().push(line);
        self.changed.notify_all();
    }

    fn end(&self) {
        // Under the lock that waiters hold while they look, so that none misses it.
        let _lines = self.lines.lock().unwrap();
        *self.ended.lock().unwrap() = true;
        self.changed.notify_all();
    }

    /// The first line that matches; `None` when the log ended or the time is over.
    fn wait(&self, matches: impl Fn(&Json) -> bool) -> Option<Json> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.lines.lock().unwrap();
        let mut looked_at = 0;
        loop {
            let new = lines[looked_at..].iter().filter_map(|line| serde_json::from_str(line).ok());
            if let Some(found) = new.into_iter().find(&matches) {
                return Some(found);
            }
            looked_at = lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || *self.ended.lock().unwrap() {
                return None;
            }
            lines = self.changed.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// Whether it ended in time.
    fn wait_for_end(&self) -> bool {
        let lines = self.lines.lock().unwrap();
        let goes_on = |_: &mut Vec<String>| !*self.ended.lock().unwrap();
        let (_lines, result) = self.changed.wait_timeout_while(lines, PATIENCE, goes_on).unwrap();
        !result.timed_out()
    }
}
