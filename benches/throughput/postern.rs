//! Postern as the server under test.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::measure::{Processes, TemporaryFolder};
use crate::{Server, Setup};

const PATIENCE: Duration = Duration::from_secs(30);

struct Postern {
    child: Child,
    address: SocketAddr,
    _folder: TemporaryFolder,
}

/// Starts posternd with a spool in a new folder; loopback is a trusted network, all mail goes to the next hop.
pub fn start(setup: &Setup) -> Result<Box<dyn Server>, String> {
    let folder = TemporaryFolder::new()?;
    let address = crate::sink::nobody()?;
    let config = folder.path().join("postern.toml");
    fs::write(&config, configuration(address, setup.next_hop)).map_err(|e| e.to_string())?;
    let log = File::create(folder.path().join("log")).map_err(|e| e.to_string())?;
    let mut command = match &setup.count_into {
        None => Command::new(env!("CARGO_BIN_EXE_posternd")),
        Some(file) => {
            let mut strace = Command::new("strace");
            strace.args(["-f", "-c", "-e", "trace=fsync,fdatasync", "-o"]).arg(file);
            strace.arg(env!("CARGO_BIN_EXE_posternd"));
            strace
        }
    };
    let child = command.args(["run", "--config"]).arg(&config).stdin(Stdio::null()).stderr(log).spawn();
    let child = child.map_err(|e| format!("starting posternd: {e}"))?;
    let mut server = Postern { child, address, _folder: folder };
    let result = wait_for(address);
    if result.is_err() {
        server.stop();
    }
    result.map(|()| Box::new(server) as Box<dyn Server>)
}

fn configuration(address: SocketAddr, next_hop: SocketAddr) -> String {
    format!(
        r#"hostname = "mail.proseware.test"
user = "root"

[[listener]]
kind = "mx"
address = "{address}"

[smtp]
max_messages = 1000000

[relay]
trusted_networks = [{{ network = "127.0.0.0/8", label = "loopback" }}]

[[domain]]
name = "proseware.test"

[[route]]
via = "smarthost"
hosts = ["{next_hop}"]

[outbound]
allow_private_targets = true

[queue]
path = "spool"

[admin]
socket = "control.sock"
"#
    )
}

/// Waits until a server answers on an address.
pub fn wait_for(address: SocketAddr) -> Result<(), String> {
    let begin = Instant::now();
    while TcpStream::connect(address).is_err() {
        if begin.elapsed() > PATIENCE {
            return Err(format!("nobody answers on {address}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

impl Server for Postern {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn processes(&self) -> Processes {
        Processes { root: self.child.id() }
    }

    fn stop(&mut self) {
        // strace hands SIGTERM to nobody: tell what runs below it.
        let ids = self.processes().all_ids();
        for id in ids.into_iter().rev() {
            let _ = Command::new("kill").arg(id.to_string()).stderr(Stdio::null()).status();
        }
        let _ = self.child.wait();
    }
}

impl Drop for Postern {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
