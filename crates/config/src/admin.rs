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
    /// Its path. Only root and the daemon's own user may use it.
    pub socket: PathBuf,
}

impl Default for Admin {
    fn default() -> Self {
        Self { socket: "/run/postern/control.sock".into() }
    }
}
