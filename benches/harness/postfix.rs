//! Postfix as the server beside us: a private instance in a folder of its own, with the settings that Debian ships, but
//! for room for 600 sessions (default: 100), which idle sessions need.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::measure::{Processes, TemporaryFolder};
use super::{Server, Setup, sink, wait_for_greeting};

const DAEMONS: &str = "/usr/lib/postfix/sbin";

struct Postfix {
    master: Child,
    address: SocketAddr,
    folder: TemporaryFolder,
}

/// Starts a Postfix whose only job is to relay from loopback to the next hop.
pub fn start(setup: &Setup) -> Result<Box<dyn Server>, String> {
    start_with(setup, "")
}

/// The same with more lines in its `main.cf`.
pub fn start_with(setup: &Setup, more: &str) -> Result<Box<dyn Server>, String> {
    let master = Path::new(DAEMONS).join("master");
    if !master.exists() {
        return Err("Postfix is not installed".into());
    }
    let folder = TemporaryFolder::new()?;
    let address = sink::nobody()?;
    prepare(folder.path(), address, setup.next_hop, more)?;
    let config = folder.path().join("etc");
    let mut command = match &setup.count {
        None => Command::new(&master),
        Some((counter, into)) => counter.command(into, &master),
    };
    let child = command.arg("-c").arg(&config).arg("-d").stdin(Stdio::null()).stderr(Stdio::null()).spawn();
    let child = child.map_err(|e| format!("starting Postfix: {e}"))?;
    let mut server = Postfix { master: child, address, folder };
    let result = wait_for_greeting(address);
    if result.is_err() {
        server.stop();
    }
    result.map(|_| Box::new(server) as Box<dyn Server>)
}

/// Configuration, and the folders that `postfix check` makes.
fn prepare(folder: &Path, address: SocketAddr, next_hop: SocketAddr, more: &str) -> Result<(), String> {
    let write =
        |name: &str, text: String| fs::write(folder.join(name), text).map_err(|e| format!("{name}: {e}"));
    for name in ["etc", "queue", "data"] {
        fs::create_dir(folder.join(name)).map_err(|e| format!("{name}: {e}"))?;
    }
    // Postfix's own processes are not root: they must be able to pass.
    for above in folder.ancestors().take(6) {
        if let Ok(meta) = fs::metadata(above) {
            let mut mode = meta.permissions();
            mode.set_mode(mode.mode() | 0o111);
            let _ = fs::set_permissions(above, mode);
        }
    }
    write("etc/main.cf", main_cf(folder, next_hop) + more)?;
    write("etc/master.cf", master_cf(address))?;
    let own = Command::new("chown").arg("postfix").arg(folder.join("data")).status();
    own.map_err(|e| format!("chown: {e}"))?;
    let check =
        Command::new("postfix").arg("-c").arg(folder.join("etc")).arg("check").stderr(Stdio::null()).status();
    let check = check.map_err(|e| format!("postfix check: {e}"))?;
    if check.success() { Ok(()) } else { Err("postfix check failed (it needs root)".into()) }
}

fn main_cf(folder: &Path, next_hop: SocketAddr) -> String {
    let folder = folder.display();
    format!(
        "compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = {DAEMONS}
mail_owner = postfix
setgid_group = postdrop
myhostname = mail.proseware.test
mydestination =
mynetworks = 127.0.0.1/32
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
relayhost = [{}]:{}
maillog_file = {folder}/queue/maillog
maillog_file_prefixes = /
alias_maps =
alias_database =
smtputf8_enable = no
",
        next_hop.ip(),
        next_hop.port(),
    )
}

fn master_cf(address: SocketAddr) -> String {
    format!(
        "{address} inet n - n - 600 smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"
    )
}

impl Server for Postfix {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn processes(&self) -> Processes {
        Processes { root: self.master.id() }
    }

    fn syncs(&self) -> Option<u64> {
        None
    }

    fn stop(&mut self) {
        let config = self.folder.path().join("etc");
        let _ = Command::new("postfix").arg("-c").arg(config).arg("stop").stderr(Stdio::null()).status();
        let _ = self.master.wait();
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let _ = self.master.kill();
        let _ = self.master.wait();
    }
}
