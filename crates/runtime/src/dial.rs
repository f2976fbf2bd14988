//! TCP and UNIX connections with a deadline.
//!
//! Plain functions and no trait: tests connect to listeners on loopback, which is quicker and truer than a fake.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream, UnixStream};

/// Connects within `limit`, from `source` if one is given. Small writes leave at once (TCP_NODELAY): a mail dialogue
/// waits for every answer.
///
/// # Errors
/// The system's; [`io::ErrorKind::TimedOut`] after `limit`.
pub async fn tcp(remote: SocketAddr, source: Option<IpAddr>, limit: Duration) -> io::Result<TcpStream> {
    let socket = match remote {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.set_nodelay(true)?;
    within(limit, socket.connect(remote)).await
}

/// Connects to a UNIX stream socket within `limit`.
///
/// # Errors
/// As [`tcp`].
pub async fn unix(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    within(limit, UnixStream::connect(path)).await
}

async fn within<T>(limit: Duration, connecting: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(limit, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "connection timed out")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_connection_comes_from_the_source_address_without_delay() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let source = "127.0.0.9".parse().unwrap();
        let stream = tcp(listener.local_addr().unwrap(), Some(source), LIMIT).await.unwrap();
        assert!(stream.nodelay().unwrap());
        assert_eq!(listener.accept().await.unwrap().1.ip(), source);
    }

    #[tokio::test]
    async fn a_closed_port_is_an_error_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = tcp(address, None, LIMIT).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_waited_for_beyond_the_limit() {
        let error = within(LIMIT, std::future::pending::<io::Result<()>>()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
