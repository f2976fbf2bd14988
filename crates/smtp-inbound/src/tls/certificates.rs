//! Our certificates: which one a client gets (RFC 6066 §3), until when each is good, and whether its files have changed.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use postern_config::Tls;
use postern_config::tls::Pair;
use postern_smtp::date::rfc3339;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, SignatureAlgorithm};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::check::{is_for, is_for_others};
use super::{TlsError, binding};

/// SHA-256 over a certificate.
pub(super) type Fingerprint = [u8; 32];

/// After the end of every certificate: 9999-12-31 is how one says "never" (RFC 5280 §4.1.2.5).
const NEVER: Duration = Duration::from_secs(253_402_300_800);

const DAY: Duration = Duration::from_secs(86_400);

/// A certificate that is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The file.
    pub certificate: PathBuf,
    /// The names that it is shown for, in lower case.
    pub names: Vec<String>,
    /// When it ends; `None`: never.
    pub not_after: Option<SystemTime>,
}

/// How much time is left to a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Enough.
    Good,
    /// Less than is warned of.
    EndsSoon(SystemTime),
    /// None.
    Expired(SystemTime),
}

impl Shown {
    /// The first of its names, for people.
    pub fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// How much time is left, if less than `warning` is too little.
    pub fn standing(&self, warning: Duration, now: SystemTime) -> Standing {
        match self.not_after {
            Some(end) if end <= now => Standing::Expired(end),
            Some(end) if end <= now + warning => Standing::EndsSoon(end),
            _ => Standing::Good,
        }
    }

    /// How it stands, in words for people.
    pub fn told(&self, standing: Standing, now: SystemTime) -> String {
        let (path, name) = (self.certificate.display(), self.name());
        match standing {
            Standing::Expired(end) => {
                format!(
                    "the certificate {path} ({name}) expired at {}: renew it, mail programs refuse it",
                    rfc3339(end)
                )
            }
            Standing::EndsSoon(end) => {
                let days = end.duration_since(now).unwrap_or_default().as_secs() / DAY.as_secs();
                let days = match days {
                    0 => "within a day".to_owned(),
                    1 => "in a day".to_owned(),
                    days => format!("in {days} days"),
                };
                format!("the certificate {path} ({name}) ends {days}, at {}: renew it", rfc3339(end))
            }
            Standing::Good => format!("the certificate {path} ({name}) is good"),
        }
    }
}

/// When a certificate ends; `None`: never, or it cannot be read.
pub fn not_after(leaf: &CertificateDer<'_>) -> Option<SystemTime> {
    end(&EndEntityCert::try_from(leaf).ok()?)
}

/// The library tells it of certificates that have ended: so it is asked about a day after all of them, before it comes to look
/// for an authority.
fn end(certificate: &EndEntityCert<'_>) -> Option<SystemTime> {
    let never = UnixTime::since_unix_epoch(NEVER);
    let result = certificate.verify_for_usage(&[], &[], &[], never, KeyUsage::server_auth(), None, None);
    match result {
        Err(webpki::Error::CertExpired { not_after, .. }) => {
            UNIX_EPOCH.checked_add(Duration::from_secs(not_after.as_secs()))
        }
        _ => None,
    }
}

/// A pair of files, read.
#[derive(Debug, Clone)]
struct Entry {
    key_file: PathBuf,
    key: Arc<CertifiedKey>,
    shown: Shown,
    fingerprint: Fingerprint,
    /// As a kind of channel binding.
    end_point: Option<Vec<u8>>,
}

impl Entry {
    fn load(pair: Pair<'_>) -> Result<Self, TlsError> {
        let chain = certificates(pair.certificate)?;
        let key = PrivateKeyDer::from_pem_file(pair.key).map_err(|error| TlsError::pem(pair.key, error))?;
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
            .map_err(|source| TlsError::Key { path: pair.key.to_owned(), source })?;
        let unreadable = |source| TlsError::Certificate { path: pair.certificate.to_owned(), source };
        let leaf = chain.first().ok_or_else(|| TlsError::NoCertificate(pair.certificate.to_owned()))?;
        let parsed = EndEntityCert::try_from(leaf).map_err(unreadable)?;
        let names = match pair.names {
            [] => parsed.valid_dns_names().map(str::to_ascii_lowercase).collect(),
            names => names.iter().map(|name| name.to_ascii_lowercase()).collect(),
        };
        let shown = Shown { certificate: pair.certificate.to_owned(), names, not_after: end(&parsed) };
        let (fingerprint, end_point) = (fingerprint(leaf), binding::server_end_point(leaf));
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            // What does not tell its public key is believed.
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(_) => {
                let (certificate, key) = (pair.certificate.to_owned(), pair.key.to_owned());
                return Err(TlsError::KeyMismatch { certificate, key });
            }
        }
        Ok(Self { key_file: pair.key.to_owned(), key: Arc::new(key), shown, fingerprint, end_point })
    }

    fn is_rsa(&self) -> bool {
        self.key.key.algorithm() == SignatureAlgorithm::RSA
    }

    fn is_of(&self, pair: Pair<'_>) -> bool {
        self.shown.certificate == pair.certificate && self.key_file == pair.key
    }
}

fn fingerprint(leaf: &CertificateDer<'_>) -> Fingerprint {
    let mut fingerprint = Fingerprint::default();
    fingerprint.copy_from_slice(digest(&SHA256, leaf).as_ref());
    fingerprint
}

/// The certificates of a file, in their order.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(|certificates| certificates.collect());
    match chain {
        Ok(chain) if chain.is_empty() => Err(TlsError::NoCertificate(path.to_owned())),
        Ok(chain) => Ok(chain),
        Err(error) => Err(TlsError::pem(path, error)),
    }
}

/// All of them, and who gets which.
#[derive(Debug)]
pub(super) struct Certificates {
    /// As the configuration has them, the default first.
    entries: Vec<Entry>,
    /// By host name, and by what follows the star of a wildcard: in the order in which they are offered.
    by_name: HashMap<String, Vec<usize>>,
    by_parent: HashMap<String, Vec<usize>>,
    /// For clients that ask for no name, or for none of ours.
    default: Vec<usize>,
}

impl Certificates {
    /// Blocking.
    pub(super) fn load(config: &Tls) -> Result<Self, TlsError> {
        Ok(Self::new(config.pairs().map(Entry::load).collect::<Result<_, _>>()?))
    }

    /// What the files hold now; what cannot be used stays as it was. Blocking.
    pub(super) fn renew(&self, config: &Tls) -> (Self, Vec<TlsError>) {
        let (mut entries, mut failures) = (Vec::new(), Vec::new());
        for pair in config.pairs() {
            match Entry::load(pair) {
                Ok(entry) => entries.push(entry),
                Err(error) => {
                    failures.push(error);
                    entries.extend(self.entries.iter().find(|entry| entry.is_of(pair)).cloned());
                }
            }
        }
        (Self::new(entries), failures)
    }

    fn new(entries: Vec<Entry>) -> Self {
        // Whoever can use both gets the cheaper one: every client could use RSA, and then the other would never be shown.
        let mut order: Vec<usize> = (0..entries.len()).collect();
        order.sort_by_key(|at| entries[*at].is_rsa());
        let (mut by_name, mut by_parent) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for at in &order {
            for name in &entries[*at].shown.names {
                match name.strip_prefix("*.") {
                    Some(parent) => by_parent.entry(parent.to_owned()).or_default().push(*at),
                    None => by_name.entry(name.clone()).or_default().push(*at),
                }
            }
        }
        // The default, and those that stand beside it with a key of another kind.
        let shares_a_name = |at: &usize| {
            let default = entries.first().map(|entry| &entry.shown.names);
            *at == 0
                || default
                    .is_some_and(|names| entries[*at].shown.names.iter().any(|name| names.contains(name)))
        };
        let default = order.iter().copied().filter(shares_a_name).collect();
        Self { entries, by_name, by_parent, default }
    }

    /// The first that the client can use: of those for the name it asks for, otherwise the default.
    pub(super) fn choose(&self, hello: &ClientHello<'_>) -> Option<usize> {
        let is_usable =
            |at: &usize| self.entries[*at].key.key.choose_scheme(hello.signature_schemes()).is_some();
        let chosen = self.candidates(hello.server_name()).find(is_usable);
        // With none of them the handshake fails, and the library says why.
        chosen.or_else(|| self.default.first().copied())
    }

    fn candidates(&self, name: Option<&str>) -> impl Iterator<Item = usize> {
        let name = name.unwrap_or_default().to_ascii_lowercase();
        let parent = name.split_once('.').map(|(_, parent)| parent);
        let by_name = self.by_name.get(&name);
        let by_parent = parent.and_then(|parent| self.by_parent.get(parent));
        by_name.into_iter().chain(by_parent).chain([&self.default]).flatten().copied()
    }

    pub(super) fn key(&self, at: usize) -> Option<Arc<CertifiedKey>> {
        self.entries.get(at).map(|entry| Arc::clone(&entry.key))
    }

    pub(super) fn end_point(&self, at: usize) -> Option<&Vec<u8>> {
        self.entries.get(at)?.end_point.as_ref()
    }

    pub(super) fn shown(&self) -> impl Iterator<Item = &Shown> {
        self.entries.iter().map(|entry| &entry.shown)
    }

    pub(super) fn fingerprints(&self) -> Vec<Fingerprint> {
        self.entries.iter().map(|entry| entry.fingerprint).collect()
    }

    /// That a client which asks for this name gets a certificate for others.
    pub(super) fn not_for(&self, hostname: &str) -> Option<String> {
        let entry = self.entries.get(self.candidates(Some(hostname)).next()?)?;
        let leaf = entry.key.cert.first()?;
        let path = entry.shown.certificate.display();
        (!is_for(leaf, hostname)).then(|| format!("the certificate {path} {}", is_for_others(leaf, hostname)))
    }

    /// Certificates that no client gets.
    pub(super) fn warnings(&self) -> Vec<String> {
        let beaten = |at: usize, name: &String| {
            let is_same_kind = |other: &&Entry| other.is_rsa() == self.entries[at].is_rsa();
            self.entries[..at].iter().filter(is_same_kind).any(|other| other.shown.names.contains(name))
        };
        let is_never_shown =
            |(at, entry): &(usize, &Entry)| *at > 0 && entry.shown.names.iter().all(|name| beaten(*at, name));
        let never = self.entries.iter().enumerate().filter(is_never_shown);
        never
            .map(|(_, entry)| {
                let path = entry.shown.certificate.display();
                match entry.shown.names.is_empty() {
                    true => format!("{path}: no name in the certificate: no client gets it; set `names`"),
                    false => format!("{path}: an earlier certificate has the same names and a key of the same kind: no client gets this one"),
                }
            })
            .collect()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key(self.choose(&hello)?)
    }
}

/// How the files of a configuration look from outside. By default unlike any.
#[derive(Debug, Clone, Default)]
pub(super) struct Stamps(Option<Vec<Option<Stamp>>>);

/// Device, number, size, and the times of the last change in content and attributes, with nanoseconds: of the file that a link
/// leads to.
type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

impl Stamps {
    /// Blocking.
    pub(super) fn take(config: &Tls) -> Self {
        let files = config.pairs().flat_map(|pair| [pair.certificate, pair.key]);
        Self(Some(files.chain(config.client_ca.as_deref()).map(stamp).collect()))
    }
}

impl PartialEq for Stamps {
    fn eq(&self, other: &Self) -> bool {
        self.0.is_some() && self.0 == other.0
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    let (modified, changed) =
        ((metadata.mtime(), metadata.mtime_nsec()), (metadata.ctime(), metadata.ctime_nsec()));
    Some((metadata.dev(), metadata.ino(), metadata.len(), modified, changed))
}
