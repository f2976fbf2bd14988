//! Sockets that are listened on, and who is let in.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use parking_lot::Mutex;
use postern_config::protection::PregreetAction;
use postern_config::{ListenAddress, Listener, ListenerKind};
use postern_policy::record::Reference;
use postern_runtime::unix_socket;
use postern_smtp::Reply;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind as bind_socket, listen, socket_with, sockopt,
};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::banned::{BannedClients, TurnedAway};
use crate::clients::{Connections, Histories, Keys, Limit, Note, Notes, Offences, Places, Scope};
use crate::commands::etrn::{Outcome, Run, Runs};
use crate::farewell::Farewells;
use crate::login_source::LoginSources;
use crate::password_checks::PasswordChecks;
use crate::pressure::{Buffers, Delays, Room, Stress};
use crate::session::Peer;
use crate::stream::{self, Stream};
use crate::tokens::Tokens;
use crate::{Shared, connection, farewell, proxied, replies};

/// How bans are called in the log, among the limits.
const BANNED: &str = "banned";
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// After an error of `accept` that will not go away by itself (no file descriptors left), so that it does not spin.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(200);

/// A socket that listens, but is not served yet: it can be made before privileges are dropped.
#[derive(Debug)]
pub struct BoundListener {
    kind: ListenerKind,
    /// Whoever connects from here says first whose connection it is.
    proxies: Vec<IpNet>,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
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
    pub fn local_addr(&self) -> io::Result<ListenAddress> {
        match &self.socket {
            Socket::Tcp(socket) => socket.local_addr().map(ListenAddress::from),
            Socket::Unix(_, path) => Ok(ListenAddress::Unix(path.clone())),
        }
    }
}

/// Binds and listens. `[::]` takes IPv4 clients too, unless `0.0.0.0` with the same port was bound before it.
///
/// # Errors
/// Those of the system: no right to the port, the address is in use or not ours.
pub fn bind(listener: &Listener) -> io::Result<BoundListener> {
    let socket = match &listener.address {
        ListenAddress::Tcp(address) => Socket::Tcp(bind_tcp(*address)?),
        ListenAddress::Unix(path) => {
            Socket::Unix(unix_socket::bind(path, listener.socket_mode())?, path.clone())
        }
    };
    Ok(BoundListener { kind: listener.kind, proxies: listener.proxy.clone(), socket })
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    match listen_on(address, false) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_any_v6(address) => {
            listen_on(address, true)
        }
        other => other,
    }
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
    pub login_sources: LoginSources,
    pub tokens: Tokens,
    pub stress: Stress,
    pub buffers: Buffers,
    pub delays: Delays,
    banned: BannedClients,
    connections: Mutex<Connections>,
    histories: Mutex<Histories>,
    notes: Mutex<Notes>,
    farewells: Farewells,
    runs: Runs,
}

/// Why a connection is not let in.
struct KeptOut {
    /// What it is told.
    reply: Reply,
    /// Whether its address is banned.
    is_banned: bool,
}

/// How busy the service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Sessions open now.
    pub sessions: usize,
    /// How many there may be: `smtp.max_connections`.
    pub max_sessions: usize,
    /// Whether nearly all places are taken, and clients have less time: `smtp.stress`.
    pub is_stressed: bool,
    /// Octets that the buffers of all sessions take.
    pub buffers: u64,
    /// How many there may be: `smtp.max_buffers`.
    pub max_buffers: u64,
}

impl Inbound {
    /// A service without listeners. How many passwords are checked at once is taken from the configuration here, once.
    pub fn new(shared: Shared) -> Self {
        let checks = shared.config.load().auth.max_password_checks.max(1);
        Self {
            house: Arc::new(House {
                password_checks: PasswordChecks::new(checks),
                login_sources: LoginSources::default(),
                tokens: Tokens::default(),
                stress: Stress::new(),
                buffers: Buffers::new(shared.metrics.buffers.clone()),
                delays: Delays::new(shared.metrics.delayed.clone()),
                banned: BannedClients::default(),
                connections: Mutex::default(),
                histories: Mutex::default(),
                notes: Mutex::default(),
                farewells: Farewells::default(),
                runs: Runs::default(),
                shared: Arc::new(shared),
            }),
        }
    }

    /// How busy it is now.
    pub fn load(&self) -> Load {
        let limits = &self.house.shared.config.load().smtp;
        Load {
            sessions: self.house.connections.lock().all,
            max_sessions: limits.max_connections,
            is_stressed: self.house.stress.is_on(),
            buffers: self.house.buffers.octets(),
            max_buffers: limits.max_buffers,
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
        let BoundListener { kind, proxies, socket } = bound;
        let socket = match socket {
            Socket::Tcp(socket) => Accepting::Tcp(tokio::net::TcpListener::from_std(socket)?),
            Socket::Unix(socket, path) => Accepting::Unix(tokio::net::UnixListener::from_std(socket)?, path),
        };
        while let Some(accepted) = stop.run_until_cancelled(socket.accept(kind)).await {
            match accepted {
                Ok((stream, peer)) => {
                    let is_proxy = proxies.iter().any(|network| network.contains(&peer.client));
                    match is_proxy && !peer.is_local {
                        true => self.admit_proxied(stream, peer, &stop, &tracker),
                        false => self.admit(stream, peer, &stop, &tracker),
                    }
                }
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!(event = "accept-failed", listener = kind.as_str(), %error);
                    let _ = stop.run_until_cancelled(tokio::time::sleep(PAUSE_AFTER_ERROR)).await;
                }
            }
        }
        if let Accepting::Unix(_, path) = &socket {
            // While it is open no other daemon takes the place, so this is still our own socket.
            let _ = std::fs::remove_file(path);
        }
        Ok(())
    }

    fn admit(&self, stream: Stream, peer: Peer, stop: &CancellationToken, tracker: &TaskTracker) {
        let house = Arc::clone(&self.house);
        match house.let_in(peer) {
            Ok(place) => {
                tracker.spawn(house.serve(stream, peer, place, stop.clone()));
            }
            Err(kept_out) => {
                if let Some(farewell) = house.turn_away(stream, peer, kept_out) {
                    tracker.spawn(farewell);
                }
            }
        }
    }

    /// The limits are those of the client that the proxy names; until then it takes a place and no more.
    fn admit_proxied(
        &self,
        mut stream: Stream,
        proxy: Peer,
        stop: &CancellationToken,
        tracker: &TaskTracker,
    ) {
        let house = Arc::clone(&self.house);
        let place = match house.let_in_proxy(proxy) {
            Ok(place) => place,
            Err(reply) => return turn_away(stream, proxy.listener, &reply),
        };
        let stop = stop.clone();
        tracker.spawn(async move {
            let Some(named) = stop.run_until_cancelled(proxied::peer(&mut stream, proxy)).await else {
                return;
            };
            drop(place);
            let peer = match named {
                Ok(peer) => peer,
                Err(error) => {
                    house.proxy_refused(proxy, &error);
                    return turn_away(stream, proxy.listener, &replies::no_proxy_header());
                }
            };
            match house.let_in(peer) {
                Ok(place) => house.serve(stream, peer, place, stop).await,
                Err(kept_out) => {
                    if let Some(farewell) = house.turn_away(stream, peer, kept_out) {
                        farewell.await;
                    }
                }
            }
        });
    }
}

/// A socket that is served.
enum Accepting {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener, PathBuf),
}

impl Accepting {
    async fn accept(&self, listener: ListenerKind) -> io::Result<(Stream, Peer)> {
        match self {
            Self::Tcp(socket) => {
                let (stream, client) = socket.accept().await?;
                let local = stream.local_addr().map_err(|_| io::ErrorKind::ConnectionAborted)?;
                let (client, local) = (client.ip().to_canonical(), local.ip().to_canonical());
                Ok((Either::Left(stream), Peer { listener, client, local, is_local: false }))
            }
            Self::Unix(socket, _) => {
                let (stream, _) = socket.accept().await?;
                let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
                Ok((Either::Right(stream), Peer { listener, client: here, local: here, is_local: true }))
            }
        }
    }
}

/// The client went away before it was accepted.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Says 421 without ever waiting for the client; with TLS nothing can be said without waiting.
fn turn_away(stream: Stream, kind: ListenerKind, reply: &Reply) {
    if kind == ListenerKind::Submissions {
        return;
    }
    let mut text = Vec::new();
    reply.write_to(&mut text);
    // Nothing was written before, so there is room; a client that is gone needs no reply.
    let _ = stream::try_write(&stream, &text);
}

impl House {
    /// Says 421 at once. Where that takes TLS, whoever is banned hears it all the same, within the bounds of [`farewell`]: what is
    /// to be done for that.
    fn turn_away(
        self: &Arc<Self>,
        stream: Stream,
        peer: Peer,
        KeptOut { reply, is_banned }: KeptOut,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let is_worth_it = peer.listener == ListenerKind::Submissions && is_banned && !self.stress.is_on();
        let permit = if is_worth_it { self.farewells.place(self.shared.clock.running()) } else { None };
        match permit {
            Some(permit) => Some(farewell::say(stream, Arc::clone(self), reply, permit)),
            None => {
                turn_away(stream, peer.listener, &reply);
                None
            }
        }
    }

    /// Counts a connection in, unless its address is banned or a limit is reached; that is noted.
    fn let_in(self: &Arc<Self>, peer: Peer) -> Result<Place, KeptOut> {
        let keys = Keys::of(peer.client, &self.shared.config.load().smtp.clients);
        if let Some(TurnedAway { reply, network, reference }) = self.banned.turn_away(&self.shared, peer) {
            self.turned_away(peer, BANNED, Some(keys.address()), Some((network, reference)));
            return Err(KeptOut { reply, is_banned: true });
        }
        let kept_out = |limit| KeptOut { reply: self.kept_out(peer, keys, limit), is_banned: false };
        self.find_place(peer, keys).map_err(kept_out)
    }

    fn find_place(self: &Arc<Self>, peer: Peer, keys: Keys) -> Result<Place, Limit> {
        let Peer { listener, client, is_local, .. } = peer;
        let (config, policy) = (self.shared.config.load(), self.shared.policy.load());
        let limits = &config.smtp;
        let trusted = policy.relay.trusted_network(client).is_some();
        let room = self.buffers.room(limits.max_buffers);
        if room == Room::Spent || (room == Room::NoSessions && !trusted) {
            return Err(Limit::Buffers);
        }
        let each = (limits.max_connections_per_address, limits.max_connections_per_network);
        let places = Places {
            all: places(limits.max_connections, listener, trusted),
            // Who may use a socket of ours says its mode.
            each: (!is_local && !self.is_exempt(client)).then_some(each),
        };
        let mut connections = self.connections.lock();
        connections.has_place(keys, places)?;
        if self.is_watched(peer) {
            self.histories.lock().connect(keys, &limits.clients, self.shared.clock.running())?;
        }
        connections.add(keys);
        self.weigh(&connections);
        Ok(Place { house: Arc::clone(self), keys })
    }

    /// A place for a connection of a proxy, which has not said yet whose it is.
    fn let_in_proxy(self: &Arc<Self>, proxy: Peer) -> Result<Place, Reply> {
        let limits = &self.shared.config.load().smtp;
        let keys = Keys::of(proxy.client, &limits.clients);
        let places = Places { all: places(limits.max_connections, proxy.listener, false), each: None };
        let mut connections = self.connections.lock();
        if let Err(limit) = connections.has_place(keys, places) {
            drop(connections);
            return Err(self.kept_out(proxy, keys, limit));
        }
        connections.add(keys);
        self.weigh(&connections);
        Ok(Place { house: Arc::clone(self), keys })
    }

    /// Runs the queue for a client, unless that was done a short while ago.
    pub async fn run_queue(&self, run: Run) -> Outcome {
        let interval = self.shared.config.load().smtp.etrn_interval;
        match self.runs.begin(run.node(), self.shared.clock.running(), interval) {
            true => run.run().await,
            false => Outcome::TooSoon,
        }
    }

    /// Serves a client that has a place.
    async fn serve(self: Arc<Self>, stream: Stream, peer: Peer, place: Place, stop: CancellationToken) {
        // What counts the session lives as long as it does.
        let _counted = self.shared.metrics.connected(peer.listener);
        connection::serve(stream, peer, place, self, stop).await;
    }

    /// A proxy did not say whose connection it hands on.
    fn proxy_refused(&self, proxy: Peer, error: &proxied::Refused) {
        let Peer { listener, client, .. } = proxy;
        self.shared.metrics.turned_away(listener, "proxy-header");
        let keys = Keys::of(client, &self.shared.config.load().smtp.clients);
        if let Some(note) = self.note("proxy-refused", keys.named(Limit::Open(Scope::Address))) {
            let listener = listener.as_str();
            tracing::warn!(event = "proxy-refused", listener, proxy = %client, silent = note.silent, %error);
        }
    }

    /// Whether this client has no limits of its own. Behind a host that speaks for others by XCLIENT there are many clients: each
    /// has its limits as soon as it is named.
    pub fn is_exempt(&self, client: IpAddr) -> bool {
        let config = self.shared.config.load();
        self.shared.policy.load().relay.trusted_network(client).is_some()
            || config.smtp.clients.exempts(client)
            || config.smtp.takes_xclient(client)
    }

    /// Whether it is remembered what this client does. Many may be behind loopback, our own addresses and proxies: the deeds
    /// of one must not shut out the others.
    fn is_watched(&self, peer: Peer) -> bool {
        !peer.is_local
            && !self.is_exempt(peer.client)
            && !self.shared.policy.load().is_spared(peer.client, Some(peer.local))
    }

    /// Remembers what a session did; the limit that its client is over now, if any.
    pub fn offended(&self, peer: Peer, offences: Offences) -> Option<Limit> {
        if offences.is_empty() || !self.is_watched(peer) {
            return None;
        }
        let clients = &self.shared.config.load().smtp.clients;
        let (keys, now) = (Keys::of(peer.client, clients), self.shared.clock.running());
        let limit = self.histories.lock().offended(keys, offences, clients, now)?;
        self.kept_out(peer, keys, limit);
        Some(limit)
    }

    /// A client talked before the greeting, which is an error where it is refused.
    pub fn talked_early(&self, peer: Peer, action: PregreetAction) {
        self.shared.metrics.talked_early(action.as_str());
        let Peer { listener, client, .. } = peer;
        let keys = Keys::of(client, &self.shared.config.load().smtp.clients);
        if let Some(note) = self.note("early-talker", keys.named(Limit::Open(Scope::Address))) {
            let (listener, action) = (listener.as_str(), action.as_str());
            tracing::info!(event = "early-talker", listener, %client, action, silent = note.silent);
        }
        if action == PregreetAction::Reject {
            self.offended(peer, Offences { errors: 1, unknown_recipients: 0 });
        }
    }

    /// What a line of the log is to say, if there is to be one.
    fn note(&self, what: &'static str, network: Option<IpNet>) -> Option<Note> {
        self.notes.lock().note(what, network, self.shared.clock.running())
    }

    /// The connection is that of somebody who has logged in: it does not count among the new ones of its address.
    pub fn logged_in(&self, peer: Peer) {
        let keys = Keys::of(peer.client, &self.shared.config.load().smtp.clients);
        self.histories.lock().forgive(keys, self.shared.clock.running());
    }

    /// A client met a limit; what it is told.
    fn kept_out(&self, peer: Peer, keys: Keys, limit: Limit) -> Reply {
        self.turned_away(peer, limit.as_str(), keys.named(limit), None);
        limit.reply()
    }

    /// There is one line in the log for each limit and network and minute. Of who is banned it names what the ban is of.
    fn turned_away(
        &self,
        peer: Peer,
        limit: &'static str,
        network: Option<IpNet>,
        ban: Option<(IpNet, Option<Reference>)>,
    ) {
        let Peer { listener, client, .. } = peer;
        self.shared.metrics.turned_away(listener, limit);
        let Some(note) = self.note(limit, network) else { return };
        let banned = ban.map(|(network, _)| network);
        let reference = ban.and_then(|(_, reference)| reference);
        tracing::info!(
            event = "turned-away",
            listener = listener.as_str(),
            %client,
            limit,
            network = banned.or(note.network).map(|network| network.to_string()),
            silent = note.silent,
            reference = reference.map(|reference| reference.to_string()),
        );
    }

    /// Looks whether nearly all places are taken.
    fn weigh(&self, connections: &Connections) {
        let limits = &self.shared.config.load().smtp;
        let (open, places) = (connections.all, limits.max_connections);
        let Some(is_on) = self.stress.weigh(open, places, limits.stress.from_percent) else { return };
        self.shared.metrics.stressed(is_on);
        let event = if is_on { "stress" } else { "stress-over" };
        if self.note(event, None).is_some() {
            tracing::warn!(event, sessions = open, places);
        }
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

/// One connection in the count.
#[derive(Debug)]
pub(crate) struct Place {
    house: Arc<House>,
    keys: Keys,
}

impl Place {
    /// The connection is that of another client now, unless that one is banned or has reached a limit: then the error is what
    /// it is told.
    pub fn hand_over(&mut self, client: Peer) -> Result<(), Reply> {
        // The new place is taken before the old one is given up: one more for an instant, and never one too few.
        *self = self.house.let_in(client).map_err(|kept_out| kept_out.reply)?;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connections = self.house.connections.lock();
        connections.remove(self.keys);
        self.house.weigh(&connections);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn listener(address: &str) -> Listener {
        Listener::tcp(ListenerKind::Mx, address.parse().unwrap())
    }

    #[test]
    fn port_0_is_told_and_a_port_is_bound_once() {
        let bound = bind(&listener("127.0.0.1:0")).unwrap();
        let address = bound.local_addr().unwrap().tcp().unwrap();
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
}
