//! TLS of the server.
//!
//! | question | module |
//! |---|---|
//! | which certificate does a client get, and until when is it good? | `certificates` |
//! | what is spoken: versions, cipher suites, groups? | `algorithms` |
//! | who may resume a session? | `tickets` |
//! | what do certificates of clients say? | `clients` |
//! | what can logins be bound to? | `binding` |
//! | whom does it trust as a client, of other systems that know logins? | `trust` |
//! | what is wrong with the files? | `error`, `check` |
//! | what is counted? | `metrics` |

mod algorithms;
mod binding;
mod certificates;
mod check;
mod clients;
mod error;
mod metrics;
mod tickets;
pub(crate) mod trust;

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use postern_config::{ListenerKind, Tls};
use postern_policy::relay::Certificate;
use postern_policy::scram::ChannelBindings;
use rustls::crypto::aws_lc_rs;
use rustls::server::ClientHello;
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use rustls::{HandshakeKind, ServerConfig, ServerConnection};

pub use certificates::{Shown, Standing, not_after};
pub use check::{how_to_renew, is_for, is_for_others, problems};
pub use error::TlsError;
pub use metrics::Metrics;
pub use tickets::Tickets;

use certificates::{Certificates, Stamps};
use clients::{AnyCertificate, Judge};

/// What handshakes need: one for every configuration, and a new one where files have been renewed.
#[derive(Debug)]
pub struct ServerTls {
    /// What it was made from.
    settings: Settings,
    /// For listeners whose clients are not asked for a certificate, and for everything that is not SMTP.
    unasked: Arc<ServerConfig>,
    /// For the others, where there are any.
    asking: Option<Asking>,
    certificates: Arc<Certificates>,
    /// How the files looked before they were read.
    stamps: Stamps,
}

#[derive(Debug, Clone)]
struct Settings {
    config: Tls,
    asked: Vec<ListenerKind>,
    tickets: Arc<Tickets>,
}

#[derive(Debug)]
struct Asking {
    config: Arc<ServerConfig>,
    judge: Arc<Judge>,
}

/// What came of reading the files of a [`ServerTls`] once more.
#[derive(Debug)]
pub struct Renewal {
    /// What takes its place; `None` if nothing that is used has changed.
    pub server: Option<ServerTls>,
    /// What could not be used: for each of these the old one stays in use.
    pub failures: Vec<TlsError>,
}

/// Reads certificates and keys, and the authorities that sign the certificates of clients, where those are asked for one: on
/// listeners of the kinds `asked`. Blocking: they are files.
///
/// # Errors
/// See [`TlsError`]. At a reload the old ones stay in force then.
pub fn load(config: &Tls, asked: Vec<ListenerKind>, tickets: &Arc<Tickets>) -> Result<ServerTls, TlsError> {
    let settings = Settings { config: config.clone(), asked, tickets: Arc::clone(tickets) };
    let stamps = Stamps::take(config);
    let certificates = Certificates::load(config)?;
    let judge = match settings.asked.is_empty() {
        true => None,
        false => Some(Arc::new(Judge::load(config.client_ca.as_deref())?)),
    };
    settings.serve(certificates, judge, stamps)
}

impl Settings {
    fn serve(
        self,
        certificates: Certificates,
        judge: Option<Arc<Judge>>,
        stamps: Stamps,
    ) -> Result<ServerTls, TlsError> {
        self.tickets.note(&certificates);
        let certificates = Arc::new(certificates);
        let unasked = Arc::new(self.server_config(&certificates, None)?);
        let asking = match judge {
            None => None,
            Some(judge) => {
                let verifier = AnyCertificate::new(&aws_lc_rs::default_provider());
                Some(Asking { config: Arc::new(self.server_config(&certificates, Some(verifier))?), judge })
            }
        };
        Ok(ServerTls { settings: self, unasked, asking, certificates, stamps })
    }

    fn server_config(
        &self,
        certificates: &Arc<Certificates>,
        verifier: Option<AnyCertificate>,
    ) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(algorithms::provider(&self.config)?);
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(algorithms::versions(self.config.min_version))?;
        let asks = verifier.is_some();
        let builder = match verifier {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(Arc::new(verifier)),
        };
        let mut server = builder.with_cert_resolver(Arc::clone(certificates) as Arc<dyn ResolvesServerCert>);
        server.ignore_client_order = self.config.orders_ciphers();
        self.tickets.give(&mut server, self.config.session_tickets, asks);
        Ok(server)
    }
}

impl ServerTls {
    /// For one handshake with a client of such a listener.
    pub fn handshake(&self, listener: ListenerKind) -> Handshake {
        let asking = self.asking.as_ref().filter(|_| self.settings.asked.contains(&listener));
        let config = asking.map_or(&self.unasked, |asking| &asking.config);
        let chosen = Arc::new(OnceLock::new());
        let certificates = Arc::clone(&self.certificates);
        let resolver = Arc::new(Choice { certificates, chosen: Arc::clone(&chosen) });
        // All that is in it is shared: this costs some counters.
        let mut config = ServerConfig::clone(config);
        config.cert_resolver = resolver;
        Handshake { config: Arc::new(config), chosen }
    }

    /// For handshakes in which no certificate is asked for: with browsers, and with clients that are only told to leave.
    pub fn unasked_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.unasked)
    }

    /// What counts of the certificate that the client has shown in a handshake. A session that is resumed has that of its
    /// first handshake.
    pub fn client_certificate(&self, connection: &ServerConnection, now: SystemTime) -> Option<Certificate> {
        self.asking.as_ref()?.judge.certificate(connection.peer_certificates()?, now)
    }

    /// What a login can be bound to of a session after this handshake.
    pub fn channel_bindings(&self, connection: &ServerConnection, handshake: &Handshake) -> ChannelBindings {
        // Resumed, it is bound to the certificate of its first handshake: nobody knows which that was if there have been
        // several.
        let is_resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let is_certain = !is_resumed || !self.settings.tickets.certificates_changed();
        let shown = handshake.chosen.get().filter(|_| is_certain);
        binding::bindings(connection, shown.and_then(|at| self.certificates.end_point(*at)))
    }

    /// The certificates, the default first.
    pub fn certificates(&self) -> impl Iterator<Item = &Shown> {
        self.certificates.shown()
    }

    /// What its reader should know of these certificates, though they can be used.
    pub fn warnings(&self) -> Vec<String> {
        self.certificates.warnings()
    }

    /// That clients which ask for this name get a certificate for others.
    pub fn not_for(&self, hostname: &str) -> Option<String> {
        self.certificates.not_for(hostname)
    }

    /// Whether a file is another than the one that was read, as far as its size, its times and its place on the disk say.
    /// Blocking.
    pub fn files_changed(&self) -> bool {
        self.stamps != Stamps::take(&self.settings.config)
    }

    /// Reads all files once more. Blocking.
    pub fn renew(&self) -> Renewal {
        let config = &self.settings.config;
        let stamps = Stamps::take(config);
        let (certificates, mut failures) = self.certificates.renew(config);
        let judge = self.asking.as_ref().map(|asking| {
            let judge = Judge::load(config.client_ca.as_deref()).map(Arc::new);
            judge.unwrap_or_else(|error| {
                failures.push(error);
                Arc::clone(&asking.judge)
            })
        });
        // What could not be read is looked at again, whether or not it changes.
        let stamps = if failures.is_empty() { stamps } else { Stamps::default() };
        let server = self.settings.clone().serve(certificates, judge, stamps);
        match server {
            Ok(server) => Renewal { server: Some(server), failures },
            Err(error) => {
                failures.push(error);
                Renewal { server: None, failures }
            }
        }
    }

    /// Whether the other one shows the same certificates.
    pub fn shows_the_same(&self, other: &Self) -> bool {
        self.certificates.fingerprints() == other.certificates.fingerprints()
    }
}

/// One handshake: afterwards it tells which certificate was shown.
#[derive(Debug)]
pub struct Handshake {
    config: Arc<ServerConfig>,
    chosen: Arc<OnceLock<usize>>,
}

impl Handshake {
    /// For the handshake.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}

/// Remembers what was chosen: the library does not tell.
#[derive(Debug)]
struct Choice {
    certificates: Arc<Certificates>,
    chosen: Arc<OnceLock<usize>>,
}

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let at = self.certificates.choose(&hello)?;
        // Asked a second time, after HelloRetryRequest, the answer is the same.
        let _ = self.chosen.set(at);
        self.certificates.key(at)
    }
}

/// How a session is protected, as Received fields and logs name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protection {
    /// `TLSv1.3`.
    pub version: &'static str,
    /// `TLS_AES_256_GCM_SHA384`.
    pub cipher: &'static str,
}

impl Protection {
    pub(crate) fn of(connection: &ServerConnection) -> Self {
        let version = match connection.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLS",
        };
        let cipher = connection.negotiated_cipher_suite().and_then(algorithms::name);
        Self { version, cipher: cipher.unwrap_or("unknown") }
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
