//! Connections that a proxy hands on: whose they are stands in front of them (`postern_smtp::proxy`).

use std::io;
use std::time::Duration;

use postern_smtp::proxy::{self, Header, ProxyError, Step};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use crate::session::Peer;

/// Proxies send the header at once; this is for slow networks.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a proxy is not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error(transparent)]
    Header(#[from] ProxyError),
    #[error("no PROXY protocol header within {} s", PATIENCE.as_secs())]
    Timeout,
    #[error("closed before the PROXY protocol header was complete")]
    Closed,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads the header, and nothing behind it; the peer with the addresses that it names.
pub(crate) async fn peer(stream: &mut (impl AsyncRead + Unpin), proxy: Peer) -> Result<Peer, Refused> {
    match timeout(PATIENCE, read(stream)).await.map_err(|_| Refused::Timeout)?? {
        Header::Own => Ok(proxy),
        Header::Proxied { client, local } => {
            Ok(Peer { client: client.ip().to_canonical(), local: local.ip().to_canonical(), ..proxy })
        }
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Header, Refused> {
    let mut input = Vec::new();
    loop {
        match proxy::parse(&input)? {
            Step::Done(header, _) => return Ok(header),
            Step::More(more) => {
                // Bounded: a header that is too long is refused before it is read.
                let missing = u64::try_from(more).unwrap_or(1);
                let mut part = (&mut *stream).take(missing);
                if part.read_buf(&mut input).await? == 0 {
                    return Err(Refused::Closed);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_config::ListenerKind;
    use tokio::io::AsyncWriteExt;

    use super::*;

    const LINE: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.25 4000 25\r\n";

    fn proxy() -> Peer {
        Peer {
            listener: ListenerKind::Mx,
            client: "203.0.113.1".parse().unwrap(),
            local: "203.0.113.2".parse().unwrap(),
            is_local: false,
        }
    }

    #[tokio::test]
    async fn the_peer_is_the_one_that_the_header_names_and_what_follows_is_left() {
        let (mut near, mut far) = tokio::io::duplex(1024);
        // In pieces, as networks may cut it.
        for piece in [&LINE[..5], &LINE[5..20], &LINE[20..], b"EHLO client.test\r\n"] {
            near.write_all(piece).await.unwrap();
        }
        let peer = peer(&mut far, proxy()).await.unwrap();
        assert_eq!(peer.client.to_string(), "192.0.2.1");
        assert_eq!(peer.local.to_string(), "198.51.100.25");
        drop(near);
        let mut rest = String::new();
        far.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "EHLO client.test\r\n");
    }

    #[tokio::test]
    async fn a_check_of_the_proxy_is_its_own_connection() {
        let (mut near, mut far) = tokio::io::duplex(1024);
        near.write_all(b"PROXY UNKNOWN\r\n").await.unwrap();
        assert_eq!(peer(&mut far, proxy()).await.unwrap(), proxy());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_and_other_words_are_refused_at_once() {
        let (near, mut far) = tokio::io::duplex(1024);
        assert!(matches!(peer(&mut far, proxy()).await, Err(Refused::Timeout)));
        drop(near);
        assert!(matches!(peer(&mut far, proxy()).await, Err(Refused::Closed)));
        let (mut near, mut far) = tokio::io::duplex(1024);
        near.write_all(b"EHLO client.test\r\n").await.unwrap();
        let refused = peer(&mut far, proxy()).await;
        assert!(matches!(refused, Err(Refused::Header(ProxyError::Missing))), "{refused:?}");
    }
}
