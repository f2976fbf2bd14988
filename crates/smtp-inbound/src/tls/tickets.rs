//! Who may resume a session: the keys of session tickets, and the sessions of clients that have no tickets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{
    NoServerSessionStorage, ProducesTickets, ServerSessionMemoryCache, StoresServerSessions,
};

use super::TlsError;
use super::certificates::{Certificates, Fingerprint};

/// Sessions of clients without tickets that are kept; TLS 1.2 only, and few clients are that old.
const MOST_SESSIONS: usize = 256;

/// The keys of session tickets, for the life of the process: new every six hours, and good for as long again. Sessions are
/// resumed at any listener, and after a certificate was renewed.
pub struct Tickets {
    unasked: Resumption,
    /// Apart: who was not asked for a certificate in the first handshake must be asked in a full one. Otherwise a client whose
    /// certificate was made known meanwhile would not be recognised until its ticket ends.
    asking: Resumption,
    /// The certificates of the start.
    first: Mutex<Option<Vec<Fingerprint>>>,
    changed: AtomicBool,
}

struct Resumption {
    tickets: Arc<dyn ProducesTickets>,
    sessions: Arc<dyn StoresServerSessions>,
}

impl Tickets {
    /// Makes the first keys.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn new() -> Result<Self, TlsError> {
        let resumption = || {
            let sessions = ServerSessionMemoryCache::new(MOST_SESSIONS);
            Ok::<_, TlsError>(Resumption { tickets: Ticketer::new()?, sessions })
        };
        let (unasked, asking) = (resumption()?, resumption()?);
        Ok(Self { unasked, asking, first: Mutex::default(), changed: AtomicBool::new(false) })
    }

    pub(super) fn give(&self, server: &mut ServerConfig, is_on: bool, asks: bool) {
        if !is_on {
            server.session_storage = Arc::new(NoServerSessionStorage {});
            server.send_tls13_tickets = 0;
            return;
        }
        let resumption = if asks { &self.asking } else { &self.unasked };
        server.ticketer = Arc::clone(&resumption.tickets);
        server.session_storage = Arc::clone(&resumption.sessions);
    }

    /// These certificates come into use.
    pub(super) fn note(&self, certificates: &Certificates) {
        let now = certificates.fingerprints();
        let mut first = self.first.lock();
        if *first.get_or_insert_with(|| now.clone()) != now {
            self.changed.store(true, Ordering::Relaxed);
        }
    }

    /// Whether other certificates have been in use than at the start.
    pub(super) fn certificates_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tickets").field("changed", &self.changed).finish_non_exhaustive()
    }
}
