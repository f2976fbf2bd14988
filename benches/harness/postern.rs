//! Postern as the server under test.

use std::fs::{self, File, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::measure::{Processes, TemporaryFolder};
use super::{Server, Setup, sink, wait_for_greeting};

/// Starts posternd with a spool in a new folder; 127.0.0.1 is a trusted network, all mail goes to the next hop.
pub fn start(setup: &Setup) -> Result<Box<dyn Server>, String> {
    start_with(setup, "")
}

/// The same with more of a configuration; its tables are merged with those that are there.
pub fn start_with(setup: &Setup, more: &str) -> Result<Box<dyn Server>, String> {
    let folder = TemporaryFolder::new()?;
    let route = format!("[[route]]\nvia = \"smarthost\"\nhosts = [\"{}\"]\n", setup.next_hop);
    let site = Site::new(folder.path(), &route)?;
    let parts = folder.path().join("conf.d");
    fs::create_dir(&parts)
        .and_then(|()| fs::write(parts.join("more.toml"), more))
        .map_err(|e| e.to_string())?;
    let daemon = site.start_counted(setup)?;
    let server = Postern { daemon, site, _folder: folder };
    wait_for_greeting(server.address())?;
    Ok(Box::new(server))
}

/// A folder with a configuration.
#[derive(Debug)]
pub struct Site {
    folder: PathBuf,
    address: SocketAddr,
}

impl Site {
    /// Writes the configuration: a server on a free port of loopback that relays for loopback, and `more`.
    pub fn new(folder: &Path, more: &str) -> Result<Self, String> {
        let address = sink::nobody()?;
        let site = Self { folder: folder.to_owned(), address };
        fs::write(site.config(), configuration(address, more)).map_err(|e| e.to_string())?;
        Ok(site)
    }

    /// Where it takes mail.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its spool.
    pub fn spool(&self) -> PathBuf {
        self.folder.join("spool")
    }

    fn config(&self) -> PathBuf {
        self.folder.join("postern.toml")
    }

    /// Starts the daemon and does not wait until it is ready.
    pub fn start(&self) -> Result<Daemon, String> {
        self.spawn(Command::new(env!("CARGO_BIN_EXE_posternd")))
    }

    fn start_counted(&self, setup: &Setup) -> Result<Daemon, String> {
        let program = Path::new(env!("CARGO_BIN_EXE_posternd"));
        match &setup.count {
            None => self.start(),
            Some((counter, into)) => self.spawn(counter.command(into, program)),
        }
    }

    fn spawn(&self, mut command: Command) -> Result<Daemon, String> {
        let log = OpenOptions::new().create(true).append(true).open(self.folder.join("log"));
        let log: File = log.map_err(|e| e.to_string())?;
        let command = command.args(["run", "--config"]).arg(self.config()).stdin(Stdio::null()).stderr(log);
        command.spawn().map(|child| Daemon { child }).map_err(|e| format!("starting posternd: {e}"))
    }

    /// What `posternctl` prints. That it found something wrong, or could not do all of it, is no error here.
    ///
    /// # Errors
    /// When it fails: what it says.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_posternctl"));
        let output = command.arg("--config").arg(self.config()).args(arguments).stdin(Stdio::null()).output();
        let output = output.map_err(|e| format!("starting posternctl: {e}"))?;
        if !matches!(output.status.code(), Some(0 | 1 | 3)) {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("posternctl {}: {}", arguments.join(" "), said.trim()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A counter or gauge without labels.
    pub fn metric(&self, name: &str) -> Option<u64> {
        let metrics = self.ctl(&["metrics"]).ok()?;
        metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }
}

fn configuration(address: SocketAddr, more: &str) -> String {
    format!(
        r#"hostname = "mail.proseware.test"
user = "root"

[[listener]]
kind = "mx"
address = "{address}"

[smtp]
max_messages = 1000000

[relay]
trusted_networks = [{{ network = "127.0.0.1/32", label = "load" }}]

[[domain]]
name = "proseware.test"

[outbound]
allow_private_targets = true

[queue]
path = "spool"
max_messages = 10000000
retry = {{ first = "4h", cap = "4h" }}

[admin]
socket = "control.sock"

{more}
"#
    )
}

/// A running daemon. It is killed when it is dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
}

impl Daemon {
    /// Its processes.
    pub fn processes(&self) -> Processes {
        Processes { root: self.child.id() }
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) {
        // What counts its calls hands SIGTERM to nobody, and ends when what runs below it does.
        if let Some(id) = self.processes().all_ids().last() {
            let _ = Command::new("kill").arg(id.to_string()).stderr(Stdio::null()).status();
        }
        let _ = self.child.wait();
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Postern {
    daemon: Daemon,
    site: Site,
    _folder: TemporaryFolder,
}

impl Server for Postern {
    fn address(&self) -> SocketAddr {
        self.site.address
    }

    fn processes(&self) -> Processes {
        self.daemon.processes()
    }

    fn syncs(&self) -> Option<u64> {
        self.counter("postern_spool_syncs_total")
    }

    fn counter(&self, name: &str) -> Option<u64> {
        self.site.metric(name)
    }

    fn stop(&mut self) {
        self.daemon.stop();
    }
}
