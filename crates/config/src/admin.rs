//! `[metrics]` and `[admin]`.

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

/// The Prometheus endpoint, `GET /metrics`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Where it listens. Left out: nowhere; `posternctl metrics` prints them all the same.
    #[schemars(with = "Option<String>")]
    pub listen: Option<SocketAddr>,
}

/// The control socket that `posternctl` speaks to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Its path. Root and the daemon's own user may use it, and the groups below. Its directory must let them through.
    pub socket: PathBuf,
    /// A group of the system whose members may ask: list and read messages, status, metrics, the audit log. Whether there is
    /// such a group at all is settled at the start: it decides the mode of the socket.
    pub operators: Option<String>,
    /// A group whose members may ask, and change: hold, drop, import messages, reload.
    pub admins: Option<String>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { socket: "/run/postern/control.sock".into(), operators: None, admins: None }
    }
}
