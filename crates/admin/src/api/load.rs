//! How busy the service for SMTP clients is: part of [`Status`](super::Status).

use serde::{Deserialize, Serialize};

/// Sessions of clients, and what they take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Open now.
    pub sessions: usize,
    /// How many there may be: `smtp.max_connections`.
    pub max_sessions: usize,
    /// Nearly all places are taken, and clients have less time: `smtp.stress`.
    pub stressed: bool,
    /// Octets that the buffers of all sessions take.
    pub buffers: u64,
    /// How many they may take: `smtp.max_buffers`.
    pub max_buffers: u64,
}

impl Load {
    /// Whether nothing is known: the answer of an older release.
    pub fn is_unknown(&self) -> bool {
        self.max_sessions == 0
    }
}
