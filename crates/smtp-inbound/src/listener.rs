//! Sockets that are listened on, and who is let in.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postern_config::{Listener, ListenerKind};
use postern_policy::session_check::SessionCheck;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind as bind_socket, listen, socket_with, sockopt,
};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::password_checks::PasswordChecks;
use crate::session::Peer;
use crate::{Shared, connection, replies};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// After an error of `accept` that will not go away by itself (no file descriptors left), so that it does not spin.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(200);

/// A socket that listens, but is not served yet: it can be made before privileges are dropped.
#[derive(Debug)]
pub struct BoundListener {
    kind: ListenerKind,
    socket: TcpListener,
}

impl BoundListener {
    /// What it is for.
    pub fn kind(&self) -> ListenerKind {
        self.kind
    }

    /// Where it listens: the real port where port 0 was configured.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// Binds and listens. `[::]` takes IPv4 clients too, unless `0.0.0.0` with the same port was bound before it.
///
/// # Errors
/// Those of the system: no right to the port, the address is in use or not ours.
pub fn bind(listener: &Listener) -> io::Result<BoundListener> {
    let address = listener.address;
    let socket = match listen_on(address, false) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_any_v6(address) => {
            listen_on(address, true)?
        }
        other => other?,
    };
    Ok(BoundListener { kind: listener.kind, socket })
}

fn is_any_v6(address: SocketAddr) -> bool {
    address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

fn listen_on(address: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, only_v6)?;
    }
    bind_socket(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// The service: what all listeners and their sessions have in common. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Inbound {
    house: Arc<House>,
}

/// Shared by all sessions, beside what the daemon gave.
#[derive(Debug)]
pub(crate) struct House {
    pub shared: Arc<Shared>,
    pub password_checks: PasswordChecks,
    connections: Mutex<Connections>,
}

impl Inbound {
    /// A service without listeners. How many passwords are checked at once is taken from the configuration here, once.
    pub fn new(shared: Shared) -> Self {
        let checks = shared.config.load().auth.max_password_checks.max(1);
        Self {
            house: Arc::new(House {
                shared: Arc::new(shared),
                password_checks: PasswordChecks::new(checks),
                connections: Mutex::new(Connections::default()),
            }),
        }
    }

    /// Accepts connections until `stop` is cancelled; the sessions live in `tracker` and end then: at once, or after
    /// the message they receive.
    ///
    /// # Errors
    /// When the socket cannot be used by the runtime at all.
    pub async fn run(
        &self,
        bound: BoundListener,
        stop: CancellationToken,
        tracker: TaskTracker,
    ) -> io::Result<()> {
        let kind = bound.kind;
        let socket = tokio::net::TcpListener::from_std(bound.socket)?;
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, client)) => self.admit(stream, client, kind, &stop, &tracker),
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!(event = "accept-failed", listener = kind.as_str(), %error);
                    tokio::select! {
                        () = stop.cancelled() => return Ok(()),
                        () = tokio::time::sleep(PAUSE_AFTER_ERROR) => {}
                    }
                }
            }
        }
    }

    fn admit(
        &self,
        stream: TcpStream,
        client: SocketAddr,
        kind: ListenerKind,
        stop: &CancellationToken,
        tracker: &TaskTracker,
    ) {
        let Ok(local) = stream.local_addr() else { return };
        let (client, local) = (client.ip().to_canonical(), local.ip().to_canonical());
        let metrics = &self.house.shared.metrics;
        let place = match self.house.let_in(client, local, kind) {
            Ok(place) => place,
            Err(limit) => {
                metrics.turned_away(kind, limit.as_str());
                tracing::info!(event = "turned-away", listener = kind.as_str(), %client, limit = limit.as_str());
                return turn_away(stream, kind, limit);
            }
        };
        let open = metrics.connected(kind);
        let peer = Peer { listener: kind, client, local };
        let house = Arc::clone(&self.house);
        let stop = stop.clone();
        tracker.spawn(async move {
            // What counts the session lives as long as it does.
            let _counted = (place, open);
            connection::serve(stream, peer, house, stop).await;
        });
    }
}

/// The client went away before it was accepted.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Which limit of connections was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    All,
    Address,
    Banned(SessionCheck),
}

impl Limit {
    fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Address => "address",
            Self::Banned(check) => check.as_str(),
        }
    }
}

/// Says 421 without ever waiting for the client; with TLS there is nothing that could be said.
fn turn_away(stream: TcpStream, kind: ListenerKind, limit: Limit) {
    if kind == ListenerKind::Submissions {
        return;
    }
    let reply = match limit {
        Limit::All => replies::too_many_connections(),
        Limit::Address => replies::too_many_connections_from_address(),
        Limit::Banned(check) => replies::session_check(check),
    };
    let mut text = Vec::new();
    reply.write_to(&mut text);
    if let Ok(mut stream) = stream.into_std() {
        // The socket is empty and does not block; a client that is gone needs no reply.
        let _ = stream.write(&text);
    }
}

/// Who is connected, counted.
#[derive(Debug, Default)]
struct Connections {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl House {
    /// Counts a connection in, unless its address is banned or a limit is reached.
    fn let_in(self: &Arc<Self>, client: IpAddr, own: IpAddr, kind: ListenerKind) -> Result<Place, Limit> {
        let now = self.shared.clock.now();
        match self.shared.policy.load().ban(client, own, kind.is_submission(), now) {
            Some(ban) => Err(Limit::Banned(SessionCheck::of(&ban))),
            None => self.take_place(client, kind),
        }
    }

    /// Counts a connection in, unless a limit is reached.
    fn take_place(self: &Arc<Self>, client: IpAddr, kind: ListenerKind) -> Result<Place, Limit> {
        let config = self.shared.config.load();
        let trusted = self.shared.policy.load().relay.trusted_network(client).is_some();
        let network = counted_network(client);
        let mut connections = self.connections.lock();
        if connections.all >= places(config.smtp.max_connections, kind, trusted) {
            return Err(Limit::All);
        }
        let here = connections.by_address.entry(network).or_default();
        if *here >= config.smtp.max_connections_per_address && !trusted {
            return Err(Limit::Address);
        }
        *here += 1;
        connections.all += 1;
        Ok(Place { house: Arc::clone(self), network })
    }
}

/// How many connections there may be, of all kinds, for one more of this kind. Strangers can fill port 25, but must not
/// lock out the people whose server this is.
fn places(limit: usize, kind: ListenerKind, trusted: bool) -> usize {
    match (trusted, kind.is_submission()) {
        (true, _) => limit.saturating_mul(2),
        (false, true) => limit,
        (false, false) => limit - limit / 10,
    }
}

/// One IPv6 customer has a whole /64; counting single addresses would count nothing.
fn counted_network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// One connection in the count.
#[derive(Debug)]
struct Place {
    house: Arc<House>,
    network: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connections = self.house.connections.lock();
        connections.all -= 1;
        if let Some(here) = connections.by_address.get_mut(&self.network) {
            *here -= 1;
            if *here == 0 {
                connections.by_address.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn listener(address: &str) -> Listener {
        Listener { kind: ListenerKind::Mx, address: address.parse().unwrap() }
    }

    #[test]
    fn port_0_is_told_and_a_port_is_bound_once() {
        let bound = bind(&listener("127.0.0.1:0")).unwrap();
        let address = bound.local_addr().unwrap();
        assert_ne!(address.port(), 0);
        let again = bind(&listener(&address.to_string()));
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn strangers_on_port_25_leave_places_for_submission_and_trusted_networks() {
        assert_eq!(places(1000, ListenerKind::Mx, false), 900);
        assert_eq!(places(1000, ListenerKind::Submission, false), 1000);
        assert_eq!(places(1000, ListenerKind::Submissions, false), 1000);
        assert_eq!(places(1000, ListenerKind::Mx, true), 2000);
        assert_eq!(places(1, ListenerKind::Mx, false), 1);
    }

    #[test]
    fn ipv6_clients_are_counted_by_network() {
        let network = |text: &str| counted_network(text.parse().unwrap());
        assert_eq!(network("2001:db8:1:2:3::4"), network("2001:db8:1:2::5"));
        assert_ne!(network("2001:db8:1:2::5"), network("2001:db8:1:3::5"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
    }
}
