//! What the tests stand on: the daemon, its DNS, next hops, a client, mailboxes.

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub mod client;
pub mod ctl;
pub mod daemon;
pub mod dns;
pub mod mail;
pub mod mail_servers;
pub mod next_hop;
#[path = "../../crates/outbound/src/testing/reports.rs"]
pub mod reports;
pub mod tls;

pub use client::Client;
pub use daemon::{Daemon, Setup};
pub use dns::Dns;
pub use mail::Mail;
pub use next_hop::{Action, NextHop, Script};

/// How long anything is waited for before a test fails. Generous: it is reached only when something is wrong.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How often a fact without an event of its own (a file in a Maildir) is looked at.
const GLANCE: Duration = Duration::from_millis(10);

/// Looks at a fact again and again until it holds.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(fact) = look() {
            return fact;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(GLANCE);
    }
}

/// A loopback address that nobody else in this process has: several next hops can then share one port, as MX hosts do,
/// and clients can come from different networks.
pub fn loopback() -> Ipv4Addr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    // The second octet keeps test processes that run side by side apart. 127.0 to 127.99 are left to others.
    Ipv4Addr::new(127, 100 + (std::process::id() % 100) as u8, high, low)
}

/// Tells the person who runs the tests something even when they pass: what was skipped, the table of a long test.
pub fn say(text: &str) {
    // A closed standard error is no reason to fail.
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// Tells that a comparison with somebody else's program does not take place; where all of them are required it fails.
pub fn skip(reason: &str) {
    assert!(std::env::var("POSTERN_REQUIRE_PEERS").as_deref() != Ok("1"), "{reason}");
    say(&format!("skipped: {reason}"));
}

/// The path of an installed program.
pub fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// Whether the tests may mount, chown and run Postfix.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The top of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Random numbers that a printed seed repeats (SplitMix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.below(256) as u8).collect()
    }
}
