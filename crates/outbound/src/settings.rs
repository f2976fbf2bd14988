//! What delivery needs of one configuration, compiled. A reload makes it anew and swaps it whole.

use std::net::SocketAddr;
use std::sync::Arc;

use postern_config::{self as config, Config};
use postern_policy::Policy;
use postern_runtime::Dns;

use crate::route::{Router, RouterError};
use crate::sign::{KeyError, Keys};
use crate::tls::{ClientTls, TlsSetupError};

/// Why a configuration cannot be used for deliveries.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A route.
    #[error(transparent)]
    Route(#[from] RouterError),
    /// A DKIM key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The authorities.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
}

/// A configuration with everything that was made of it.
#[derive(Debug)]
pub struct Settings {
    /// The configuration.
    pub config: Arc<Config>,
    /// Its rules: who is local.
    pub policy: Arc<Policy>,
    /// Its routes.
    pub router: Router,
    /// Its DKIM keys.
    pub keys: Keys,
    /// Its authorities.
    pub tls: ClientTls,
    /// Its name servers.
    pub dns: Arc<dyn Dns>,
    /// `config.queue`, as the queue asks for it.
    pub(crate) schedule: Arc<config::Queue>,
    /// `config.outbound`, likewise.
    pub(crate) sending: Arc<config::Outbound>,
}

impl Settings {
    /// Reads keys, passwords and authorities, and compiles the routes. `own` are the addresses this server listens at, as
    /// they were bound. Blocking.
    ///
    /// # Errors
    /// [`SettingsError`]; the configuration in force stays what it was.
    pub fn new(
        config: Arc<Config>,
        policy: Arc<Policy>,
        dns: Arc<dyn Dns>,
        own: &[SocketAddr],
    ) -> Result<Self, SettingsError> {
        Ok(Self {
            router: Router::new(config.clone(), policy.clone(), own)?,
            keys: Keys::load(&config)?,
            tls: ClientTls::new(config.outbound.ca_file.as_deref())?,
            dns,
            schedule: Arc::new(config.queue.clone()),
            sending: Arc::new(config.outbound.clone()),
            config,
            policy,
        })
    }
}
