//! Where a listener listens: an address and a port, or a UNIX socket.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// In front of the path of a UNIX socket.
const UNIX: &str = "unix:";
/// A path that is longer cannot be bound (unix(7)): 108 octets with the end, and a suffix while it is made.
const LONGEST_PATH: usize = 100;

/// `192.0.2.25:25`, `[::]:25` or `unix:/run/postern/lmtp.sock`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ListenAddress {
    /// Address and port. Port 0 takes a free one.
    Tcp(SocketAddr),
    /// The absolute path of a socket.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Address and port, if it has them.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The port; 0 for a free one. `None`: it is a socket.
    pub fn port(&self) -> Option<u16> {
        self.tcp().map(|address| address.port())
    }

    /// Whether two listeners cannot have it: not where the system chooses the port.
    pub fn is_fixed(&self) -> bool {
        self.port() != Some(0)
    }

    /// The path of the socket, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(path) => Some(path),
        }
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(path) = text.strip_prefix(UNIX) else {
            let what =
                "write address and port, such as \"0.0.0.0:25\", or \"unix:\" and the path of a socket";
            return text.parse().map(Self::Tcp).map_err(|_| format!("{text:?} is no address: {what}"));
        };
        if !path.starts_with('/') || path.ends_with('/') {
            return Err(format!("{text:?}: the path of a socket begins with \"/\" and names a file"));
        }
        if path.len() > LONGEST_PATH {
            return Err(format!("{text:?}: the path of a socket has {LONGEST_PATH} octets at most"));
        }
        Ok(Self::Unix(path.into()))
    }
}

impl<'de> Deserialize<'de> for ListenAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_written_alike() {
        for text in ["0.0.0.0:25", "[::]:25", "unix:/run/postern/lmtp.sock"] {
            assert_eq!(text.parse::<ListenAddress>().map(|address| address.to_string()).as_deref(), Ok(text));
        }
        let long = format!("unix:/{}", "a".repeat(LONGEST_PATH));
        for text in ["", "25", "localhost:25", "unix:", "unix:lmtp.sock", "unix:/run/", &long] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_a_port_can_be_left_to_the_system() {
        let is_fixed = |text: &str| text.parse::<ListenAddress>().is_ok_and(|address| address.is_fixed());
        assert!(is_fixed("127.0.0.1:24") && is_fixed("unix:/run/x"));
        assert!(!is_fixed("127.0.0.1:0"));
    }
}
