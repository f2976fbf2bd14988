//! Whose password is checked next. A check takes a core and megabytes, so few run at once; who waits is let in by turns, one
//! of each address, so that a flood of wrong logins from some addresses makes the others wait for no more than one check of
//! each of them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use parking_lot::Mutex;
use postern_policy::standing::guesses::source;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How long a client waits for its turn. Mail programs wait for longer than this; one that is told to come again does so.
const PATIENCE: Duration = Duration::from_secs(30);

/// All checks, under way and waiting. Bounded by the connections that there may be.
#[derive(Debug)]
pub(crate) struct PasswordChecks {
    /// In the order in which they came.
    slots: Arc<Semaphore>,
    most: usize,
    lanes: Arc<Lanes>,
}

/// Those of each address, while there are any.
#[derive(Debug, Default)]
struct Lanes(Mutex<HashMap<IpNet, Arc<Semaphore>>>);

/// The right to check one password now.
#[derive(Debug)]
pub(crate) struct Turn {
    // In this order: the lane looks whether it is the last to use it.
    _slot: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
    _lane: Lane,
}

#[derive(Debug)]
struct Lane {
    source: IpNet,
    semaphore: Arc<Semaphore>,
    lanes: Arc<Lanes>,
}

impl Drop for Lane {
    fn drop(&mut self) {
        let mut lanes = self.lanes.0.lock();
        // The table's and this one: new ones are made under the lock only.
        if Arc::strong_count(&self.semaphore) == 2 {
            lanes.remove(&self.source);
        }
    }
}

impl PasswordChecks {
    /// So many at once.
    pub fn new(most: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(most)), most, lanes: Arc::default() }
    }

    /// Waits for a turn; `None`: it did not come in time. `is_crowd`: many people log in from this address, so it may use
    /// all slots.
    pub async fn turn(&self, client: IpAddr, is_crowd: bool) -> Option<Turn> {
        timeout(PATIENCE, self.wait(client, is_crowd)).await.ok().flatten()
    }

    async fn wait(&self, client: IpAddr, is_crowd: bool) -> Option<Turn> {
        let lane = self.lane(source(client), if is_crowd { self.most } else { 1 });
        // The semaphores are never closed.
        let own = Arc::clone(&lane.semaphore).acquire_owned().await.ok()?;
        let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
        Some(Turn { _slot: slot, _own: own, _lane: lane })
    }

    fn lane(&self, source: IpNet, width: usize) -> Lane {
        let mut lanes = self.lanes.0.lock();
        let semaphore = lanes.entry(source).or_insert_with(|| Arc::new(Semaphore::new(width))).clone();
        Lane { source, semaphore, lanes: Arc::clone(&self.lanes) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::time::Instant;

    use postern_config::account::AccountsFile;
    use postern_policy::accounts::{Accounts, Verified, hash_password};

    use super::*;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([198, 51, 100, n])
    }

    fn is_waiting<T>(task: &tokio::task::JoinHandle<T>) -> bool {
        !task.is_finished()
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_has_one_turn_at_a_time_and_a_crowd_has_all() {
        let checks = Arc::new(PasswordChecks::new(2));
        let first = checks.turn(address(1), false).await.unwrap();
        let again = tokio::spawn({
            let checks = checks.clone();
            async move { checks.turn(address(1), false).await }
        });
        tokio::task::yield_now().await;
        assert!(is_waiting(&again));
        // The flood of one address does not keep another one out.
        let other = checks.turn(address(2), false).await.unwrap();
        drop((first, other));
        drop(again.await.unwrap().unwrap());
        let crowd = [checks.turn(address(3), true).await, checks.turn(address(3), true).await];
        assert!(crowd.iter().all(Option::is_some));
        drop(crowd);
        assert!(checks.lanes.0.lock().is_empty(), "nobody waits, nothing is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let checks = PasswordChecks::new(1);
        let _held = checks.turn(address(1), false).await.unwrap();
        assert!(checks.turn(address(2), false).await.is_none());
        assert!(checks.turn(address(1), false).await.is_none());
        assert_eq!(checks.lanes.0.lock().len(), 1);
    }

    /// How long a right login waits while 200 wrong ones a second come from four addresses. Prints the times:
    /// `cargo test -p postern-smtp-inbound flood -- --ignored --nocapture`.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "takes seconds of all cores; run it by hand"]
    #[allow(clippy::print_stdout, reason = "it is run for what it prints")]
    async fn a_good_login_does_not_wait_for_a_flood_of_wrong_ones() {
        let hash = hash_password(b"right").unwrap();
        let file = format!("[[account]]\nname = \"alice\"\npassword = \"{hash}\"\n");
        let file: AccountsFile = toml::from_str(&file).unwrap();
        let accounts = Arc::new(Accounts::new(&file.accounts, Default::default()));
        let checks = Arc::new(PasswordChecks::new(4));
        let check = move |client: IpAddr, password: &'static [u8]| {
            let (checks, accounts) = (checks.clone(), accounts.clone());
            async move {
                let _turn = checks.turn(client, false).await?;
                let now = std::time::SystemTime::now();
                let verify = move || accounts.verify("alice", password, client, now);
                tokio::task::spawn_blocking(verify).await.ok()
            }
        };
        let flood = tokio::spawn({
            let check = check.clone();
            async move {
                let mut every = tokio::time::interval(Duration::from_millis(5));
                for n in (0..4).cycle() {
                    every.tick().await;
                    tokio::spawn(check(address(n), b"wrong"));
                }
            }
        });
        let mut waits = Vec::new();
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let began = Instant::now();
            let found = check(address(9), b"right").await;
            assert!(matches!(found, Some(Verified::Right { .. })));
            waits.push(began.elapsed());
        }
        flood.abort();
        waits.sort_unstable();
        println!(
            "a good login took {:?} in the middle, {:?} at most",
            waits[waits.len() / 2],
            waits[waits.len() - 1]
        );
    }
}
