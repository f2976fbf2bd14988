//! Dovecot by `inet_listener`: its failures look different from those of a socket.

use std::fs;
use std::net::{SocketAddr, TcpStream};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    ALICE, CARL, DovecotAuth, ELSEWHERE, PASSWORD, QUICK, acts_as_a_back_end, assert_says, auth_of, example,
    guesses_are_counted, log_in, without_the_back_end,
};
use crate::harness::{Setup, eventually, loopback};

/// What the example of the documentation is called.
const HEADING: &str = "Dovecot over TCP";

/// A Dovecot that listens at an address.
struct OverTcp {
    dovecot: DovecotAuth,
    address: SocketAddr,
}

impl OverTcp {
    fn prepare() -> Option<Self> {
        let address = SocketAddr::from((loopback(), 12345));
        let service = example(HEADING, "dovecot").replace("127.0.0.1", &address.ip().to_string());
        let dovecot = DovecotAuth::with_service("plain login", |_| service.clone())?;
        Some(Self { dovecot, address })
    }

    fn start(&mut self) {
        self.dovecot.launch();
        eventually("Dovecot listens", || TcpStream::connect(self.address).ok());
    }

    fn stop(&mut self) {
        self.dovecot.server.as_mut().unwrap().stop();
    }

    /// The server of the documentation, and answers that come soon.
    fn setup(&self) -> Setup {
        let table = auth_of(&example(HEADING, "toml")).replace("127.0.0.1:12345", &self.address.to_string());
        Setup::new().with(QUICK).with("[auth.backend]\ntimeout = \"1s\"").with(&table)
    }

    /// Its processes that answer.
    fn processes(&self) -> Vec<Pid> {
        let master = self.dovecot.server.as_ref().unwrap().id();
        let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap();
        let is_auth = |pid: &&str| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "auth")
        };
        let pids = children.split_ascii_whitespace().filter(is_auth);
        let pids: Vec<Pid> = pids.map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).collect();
        assert!(!pids.is_empty(), "no process `auth` among {children:?}");
        pids
    }

    /// Lets them stand still until the value is dropped: connections are taken by the kernel.
    fn hang(&self) -> Hung {
        let hung = Hung(self.processes());
        hung.signal(Signal::STOP);
        hung
    }
}

/// Processes that stand still.
struct Hung(Vec<Pid>);

impl Hung {
    fn signal(&self, signal: Signal) {
        self.0.iter().for_each(|pid| kill_process(*pid, signal).unwrap());
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
    }
}

#[test]
fn dovecot_is_asked_over_tcp() {
    let Some(mut dovecot) = OverTcp::prepare() else { return };
    dovecot.start();
    let daemon = dovecot.setup().start();
    acts_as_a_back_end(&daemon);
    guesses_are_counted(&daemon);
}

#[test]
fn dovecot_over_tcp_may_be_gone_restarted_and_hung() {
    let Some(mut dovecot) = OverTcp::prepare() else { return };
    let daemon = dovecot.setup().start();
    without_the_back_end(&daemon);
    let told = daemon.wait_for("login-not-checked", |_| true);
    assert!(told["why"].as_str().unwrap().contains(&dovecot.address.to_string()), "{told}");

    dovecot.start();
    assert_says(&log_in(&daemon, CARL, ELSEWHERE), 235, &[]);
    assert_says(&log_in(&daemon, CARL, "guess"), 535, &["5.7.8"]);

    let hung = dovecot.hang();
    // The first one over the connection that is kept, the others over new ones: more than guesses are taken.
    for _ in 0..3 {
        assert_says(&log_in(&daemon, CARL, "guess"), 454, &["4.7.0"]);
    }
    daemon.wait_for("login-not-checked", |line| line["why"] == "no answer within 1 s");
    assert_says(&log_in(&daemon, ALICE, PASSWORD), 235, &[]);
    drop(hung);
    assert_says(&log_in(&daemon, CARL, ELSEWHERE), 235, &[]);

    // The connection that is kept leads to one that is dead, and then to one that is stopped.
    dovecot.processes().into_iter().for_each(|pid| kill_process(pid, Signal::KILL).unwrap());
    assert_says(&log_in(&daemon, CARL, ELSEWHERE), 235, &[]);
    dovecot.stop();
    dovecot.start();
    assert_says(&log_in(&daemon, CARL, ELSEWHERE), 235, &[]);
    assert_eq!((daemon.logged("login-failed"), daemon.logged("banned")), (1, 0));
}
