//! Connections that wait for the next message of their destination, and hosts that did not answer lately.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use postern_queue::Destination;

use crate::client::Connection;
use crate::route::{Endpoint, Target};

/// A host that could not be reached is asked last for so long: the next message need not wait for it again.
const UNREACHABLE: Duration = Duration::from_secs(60);
/// So many of them are remembered.
const MAX_UNREACHABLE: usize = 1000;

/// Idle connections. A connection belongs to its destination: it may be logged in, or verified, for that one only.
#[derive(Debug, Default)]
pub struct Pool {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    idle: HashMap<(Destination, Endpoint), Vec<Idle>>,
    count: usize,
    /// By the time it was found out.
    unreachable: HashMap<Endpoint, Instant>,
    closed: bool,
    /// Counts the configurations: a connection made under an older one is not kept.
    generation: u64,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

impl Pool {
    /// A connection that is open and was idle for less than `longest`; the one used last, so that the others can end.
    pub(crate) fn take(
        &self,
        destination: &Destination,
        endpoint: &Endpoint,
        longest: Duration,
    ) -> Option<Connection> {
        // To look at a connection is a call of the system, and so is the end of a dead one: neither under the lock.
        loop {
            let mut idle = self.last_used(destination, endpoint)?;
            if idle.since.elapsed() < longest && idle.connection.is_quiet() {
                return Some(idle.connection);
            }
        }
    }

    fn last_used(&self, destination: &Destination, endpoint: &Endpoint) -> Option<Idle> {
        let mut state = self.state.lock();
        if state.count == 0 {
            return None;
        }
        let key = (destination.clone(), endpoint.clone());
        let waiting = state.idle.get_mut(&key)?;
        let idle = waiting.pop();
        if waiting.is_empty() {
            state.idle.remove(&key);
        }
        state.count -= usize::from(idle.is_some());
        idle
    }

    /// The number of the configuration in force, for [`Pool::put`].
    pub(crate) fn generation(&self) -> u64 {
        self.state.lock().generation
    }

    /// Keeps a connection for the next message. Answers it back if there are `limit` already, if it was made in another
    /// generation, or if the pool is closed.
    pub(crate) fn put(
        &self,
        destination: &Destination,
        connection: Connection,
        limit: usize,
        generation: u64,
    ) -> Option<Connection> {
        let mut state = self.state.lock();
        if state.closed || state.count >= limit || state.generation != generation {
            return Some(connection);
        }
        let key = (destination.clone(), connection.endpoint.clone());
        state.count += 1;
        state.idle.entry(key).or_default().push(Idle { connection, since: Instant::now() });
        None
    }

    /// Takes out what was idle for `longest` or more.
    pub(crate) fn expired(&self, longest: Duration) -> Vec<Connection> {
        let mut state = self.state.lock();
        let mut expired = Vec::new();
        state.idle.retain(|_, waiting| {
            // The oldest stand in front.
            let old = waiting.iter().take_while(|idle| idle.since.elapsed() >= longest).count();
            expired.extend(waiting.drain(..old).map(|idle| idle.connection));
            !waiting.is_empty()
        });
        state.count -= expired.len();
        state.unreachable.retain(|_, since| since.elapsed() < UNREACHABLE);
        expired
    }

    /// Takes out everything: the configuration has changed.
    pub(crate) fn empty(&self) -> Vec<Connection> {
        let mut state = self.state.lock();
        state.count = 0;
        state.generation += 1;
        state.unreachable.clear();
        state.idle.drain().flat_map(|(_, waiting)| waiting).map(|idle| idle.connection).collect()
    }

    /// Takes out everything and keeps nothing more.
    pub(crate) fn close(&self) -> Vec<Connection> {
        self.state.lock().closed = true;
        self.empty()
    }

    /// Remembers whether a host could be reached.
    pub(crate) fn note(&self, endpoint: &Endpoint, reached: bool) {
        let mut state = self.state.lock();
        if reached {
            state.unreachable.remove(endpoint);
        } else if state.unreachable.len() < MAX_UNREACHABLE {
            state.unreachable.insert(endpoint.clone(), Instant::now());
        }
    }

    /// Puts hosts that could not be reached lately behind the others. None is left out.
    pub(crate) fn reachable_first(&self, targets: &mut [Target]) {
        let state = self.state.lock();
        if state.unreachable.is_empty() {
            return;
        }
        targets.sort_by_key(|target| {
            state.unreachable.get(&target.endpoint).is_some_and(|since| since.elapsed() < UNREACHABLE)
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::testing::{Server, dial, tls};

    const LONG: Duration = Duration::from_secs(3600);

    fn destination() -> Destination {
        Destination("mx adatum.test".into())
    }

    async fn connect(server: &Server) -> Connection {
        Connection::open(&server.target("mx.adatum.test"), &dial(&tls())).await.unwrap()
    }

    #[tokio::test]
    async fn a_connection_serves_its_own_destination_and_host_only() {
        let greeting = ["220 hi\r\n", "EHLO", "250 hi\r\n"];
        let server = Server::start_at_once(&[&greeting, &greeting]).await;
        let connection = connect(&server).await;
        let endpoint = connection.endpoint.clone();
        let pool = Pool::default();
        assert!(pool.put(&destination(), connection, 2, 0).is_none());
        assert!(pool.put(&destination(), connect(&server).await, 2, 0).is_none());
        assert!(pool.take(&Destination("smarthost x login a".into()), &endpoint, LONG).is_none());
        assert!(pool.take(&destination(), &Endpoint::Tcp("192.0.2.1:25".parse().unwrap()), LONG).is_none());
        let taken = [(); 2].map(|()| pool.take(&destination(), &endpoint, LONG));
        assert!(taken.iter().all(Option::is_some));
        assert!(pool.take(&destination(), &endpoint, LONG).is_none());
    }

    #[tokio::test]
    async fn old_and_dead_connections_are_not_handed_out() {
        let greeting = ["220 hi\r\n", "EHLO", "250 hi\r\n"];
        let closing = ["220 hi\r\n", "EHLO", "250 hi\r\n", "close"];
        let server = Server::start_several(&[&closing, &greeting, &greeting]).await;
        let pool = Pool::default();
        let mut dead = connect(&server).await;
        while dead.is_quiet() {
            tokio::task::yield_now().await;
        }
        let endpoint = dead.endpoint.clone();
        pool.put(&destination(), dead, 5, 0);
        assert!(pool.take(&destination(), &endpoint, LONG).is_none());
        pool.put(&destination(), connect(&server).await, 5, 0);
        assert!(pool.take(&destination(), &endpoint, Duration::ZERO).is_none());
        assert!(pool.expired(LONG).is_empty());
    }

    #[tokio::test]
    async fn the_pool_is_bounded_and_gives_back_what_it_does_not_keep() {
        let server = Server::start(&["220 hi\r\n", "EHLO", "250 hi\r\n"]).await;
        let pool = Pool::default();
        let connection = pool.put(&destination(), connect(&server).await, 0, 0).unwrap();
        assert!(pool.put(&destination(), connection, 1, 0).is_none());
        let connection = pool.expired(Duration::ZERO).remove(0);
        assert!(pool.put(&destination(), connection, 1, 0).is_none());
        let connection = pool.empty().remove(0);
        let connection = pool.put(&destination(), connection, 1, 0).unwrap();
        assert!(pool.put(&destination(), connection, 1, pool.generation()).is_none());
        let connection = pool.close().remove(0);
        assert!(pool.put(&destination(), connection, 1, pool.generation()).is_some());
    }

    #[test]
    fn hosts_that_did_not_answer_are_asked_last() {
        let target = |host: &str| Target {
            host: host.to_owned(),
            endpoint: Endpoint::Tcp(format!("{host}:25").parse().unwrap()),
        };
        let order = |targets: &[Target]| targets.iter().map(|target| target.host.clone()).collect::<Vec<_>>();
        let mut targets = [target("192.0.2.1"), target("192.0.2.2"), target("192.0.2.3")];
        let pool = Pool::default();
        pool.note(&targets[0].endpoint, false);
        pool.reachable_first(&mut targets);
        assert_eq!(order(&targets), ["192.0.2.2", "192.0.2.3", "192.0.2.1"]);
        pool.note(&targets[2].endpoint, true);
        pool.note(&targets[0].endpoint, false);
        pool.reachable_first(&mut targets);
        assert_eq!(order(&targets), ["192.0.2.3", "192.0.2.1", "192.0.2.2"]);
    }
}
