//! The words for a banned client at a port with TLS from the first byte, where nothing can be said before the handshake.
//!
//! Elsewhere a client that is turned away costs one write. A handshake costs more, so there are few at once, few in a second, and
//! none takes long: beyond that the connection is closed without words, as a client cannot ask for reasons faster than this.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use postern_smtp::Reply;
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::listener::House;
use crate::stream::Stream;

/// Handshakes for a few words at once; each takes some 40 KiB.
const MOST_AT_ONCE: usize = 16;
/// And in a second: a key operation takes a millisecond or so, and guessers that are banned come again and again.
const MOST_IN_A_SECOND: u32 = 10;
/// For the handshake and the reply together.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who may be told.
#[derive(Debug)]
pub(crate) struct Farewells {
    places: Arc<Semaphore>,
    second: AtomicU64,
    in_second: AtomicU32,
}

/// The right to one farewell.
pub(crate) type Permit = OwnedSemaphorePermit;

impl Default for Farewells {
    fn default() -> Self {
        let places = Arc::new(Semaphore::new(MOST_AT_ONCE));
        Self { places, second: AtomicU64::new(0), in_second: AtomicU32::new(0) }
    }
}

impl Farewells {
    /// A place for one, at so long after the start. `None`: there were too many, and nothing is said.
    pub fn place(&self, running: Duration) -> Option<Permit> {
        let now = running.as_secs();
        // Two that come at the turn of a second may both count from naught: that is one more, and no more.
        if self.second.swap(now, Ordering::Relaxed) != now {
            self.in_second.store(0, Ordering::Relaxed);
        }
        if self.in_second.fetch_add(1, Ordering::Relaxed) >= MOST_IN_A_SECOND {
            return None;
        }
        Arc::clone(&self.places).try_acquire_owned().ok()
    }
}

/// Completes the handshake, says the reply and closes.
pub(crate) async fn say(stream: Stream, house: Arc<House>, reply: Reply, permit: Permit) {
    let Some(tls) = house.shared.tls.load_full() else { return };
    let mut text = Vec::new();
    reply.write_to(&mut text);
    let told = async {
        let mut stream = TlsAcceptor::from(tls.unasked_config()).accept(stream).await?;
        stream.write_all(&text).await?;
        stream.shutdown().await
    };
    // A client that does not take the words has none; there is nothing else to do for it.
    let _ = timeout(PATIENCE, told).await;
    drop(permit);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn few_are_told_in_a_second_and_at_once() {
        let farewells = Farewells::default();
        let told = |second: u64, times: u32| -> Vec<Permit> {
            (0..times).filter_map(|_| farewells.place(Duration::from_secs(second))).collect()
        };
        assert_eq!(told(1, 100).len(), MOST_IN_A_SECOND as usize);
        let first = told(2, MOST_IN_A_SECOND);
        let second = told(3, MOST_IN_A_SECOND);
        assert_eq!(first.len() + second.len(), MOST_AT_ONCE);
        drop(first);
        assert!(farewells.place(Duration::from_secs(4)).is_some());
    }
}
