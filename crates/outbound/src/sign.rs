//! DKIM signatures (RFC 6376, RFC 8463): who signs what, with which keys.
//!
//! Canonicalisation is relaxed/simple: header fields survive refolding, and the body is what is sent, octet for octet.
//! The only file that names mail-auth, beside `facts/spf.rs`, which reads SPF records with it, and `checkup/reports/read.rs`, which
//! reads reports.

use std::collections::HashMap;
use std::path::PathBuf;

use aws_lc_rs::rsa;
use mail_auth::common::crypto::{Algorithm, DkimKey, Ed25519Key, RsaKey, Sha256, SigningKey};
use mail_auth::common::headers::{HeaderWriter, Writable};
use mail_auth::dkim::{Canonicalization, DkimSigner};
use postern_config::Config;
use postern_queue::{Envelope, Origin, StoreError};
use postern_smtp::header::{addresses, fields};
use postern_smtp::{Address, Domain, ReversePath};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::content::Source;

/// Fields that nobody may add, remove or change: signed once more often than they are there (RFC 6376 §5.4.2).
const SEALED: [&str; 10] = [
    "From",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Message-ID",
    "Reply-To",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
];

/// Fields that are signed where they are there, and that a mailing list may add where they are not.
const SIGNED: [&str; 12] = [
    "Sender",
    "In-Reply-To",
    "References",
    "List-Id",
    "List-Help",
    "List-Owner",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "List-Subscribe",
    "List-Post",
    "List-Archive",
    "Auto-Submitted",
];

/// RFC 8301 §3.2: signers should use at least 2048 bits.
const MIN_RSA_BITS: usize = 2048;

/// Why a key of the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("DKIM key {path}: {problem}")]
pub struct KeyError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

/// The keys of one configuration.
#[derive(Debug, Default)]
pub struct Keys {
    domains: HashMap<Domain, Vec<Key>>,
}

struct Key {
    selector: String,
    key: DkimKey,
}

impl std::fmt::Debug for Key {
    /// Without the key: it must not reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("selector", &self.selector).finish_non_exhaustive()
    }
}

/// What signing gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signatures {
    /// DKIM-Signature fields to be put in front; empty if the message is not signed.
    pub(crate) fields: Vec<u8>,
    /// `signed d=proseware.test s=a,b`, or `none reason=...`: for the log.
    pub(crate) summary: String,
}

impl Signatures {
    fn none(reason: &str) -> Self {
        Self { fields: Vec::new(), summary: format!("none reason={reason}") }
    }
}

impl Keys {
    /// Reads the keys of all domains. Blocking.
    ///
    /// # Errors
    /// [`KeyError`] for the first key that cannot be used.
    pub fn load(config: &Config) -> Result<Self, KeyError> {
        let mut domains: HashMap<Domain, Vec<Key>> = HashMap::new();
        for domain in &config.domains {
            for configured in &domain.dkim {
                let key = load_key(&configured.key)
                    .map_err(|problem| KeyError { path: configured.key.clone(), problem })?;
                let key = Key { selector: configured.selector.clone(), key };
                domains.entry(domain.name.clone()).or_default().push(key);
            }
        }
        Ok(Self { domains })
    }

    /// Signs a message with all keys of the domain that is responsible for it.
    pub(crate) async fn sign(
        &self,
        envelope: &Envelope,
        hostname: &Domain,
        source: &Source<'_>,
    ) -> Result<Signatures, StoreError> {
        if !envelope.origin.is_signed() {
            return Ok(Signatures::none("outsider"));
        }
        if self.domains.is_empty() {
            return Ok(Signatures::none("no-keys"));
        }
        let mut pieces = source.pieces();
        let Some((header, mut body)) = pieces.header().await? else {
            return Ok(Signatures::none("header-too-long"));
        };
        let (origin, sender) = (&envelope.origin, &envelope.reverse_path);
        let Some((domain, keys)) = self.responsible(origin, sender, &header, hostname) else {
            return Ok(Signatures::none("no-key-for-domain"));
        };
        let (names, signed_fields) = to_be_signed(&header);
        let signers: Vec<_> = keys
            .iter()
            .map(|key| {
                DkimSigner::from_key(KeyRef(&key.key))
                    .domain(domain.as_str())
                    .selector(&key.selector)
                    .headers(names.iter().copied())
                    .header_canonicalization(Canonicalization::Relaxed)
                    .body_canonicalization(Canonicalization::Simple)
            })
            .collect();
        let mut streams: Vec<_> = signers.iter().map(DkimSigner::sign_streaming).collect();
        streams.iter_mut().for_each(|stream| stream.write(&signed_fields));
        loop {
            streams.iter_mut().for_each(|stream| stream.write(&body));
            match pieces.next().await? {
                Some(piece) => body = piece,
                None => break,
            }
        }
        let mut fields = Vec::new();
        for stream in streams {
            match stream.finish() {
                Ok(signature) => signature.write_header(&mut fields),
                Err(problem) => return Ok(Signatures::none(&problem.to_string())),
            }
        }
        Ok(Signatures { fields, summary: summary(domain, keys) })
    }

    /// The summary that signing such a message would give.
    pub(crate) fn outlook(
        &self,
        origin: &Origin,
        sender: &ReversePath,
        header: &[u8],
        hostname: &Domain,
    ) -> String {
        let none = |reason: &str| Signatures::none(reason).summary;
        if !origin.is_signed() {
            return none("outsider");
        }
        if self.domains.is_empty() {
            return none("no-keys");
        }
        let responsible = self.responsible(origin, sender, header, hostname);
        responsible.map_or_else(|| none("no-key-for-domain"), |(domain, keys)| summary(domain, keys))
    }

    /// The domain that signs: that of the header From, else that of the envelope sender. Reports of ours come from the
    /// host name and may be signed by a domain above it.
    fn responsible(
        &self,
        origin: &Origin,
        sender: &ReversePath,
        header: &[u8],
        hostname: &Domain,
    ) -> Option<(&Domain, &[Key])> {
        let from = header_from(header);
        let candidates = [from.as_ref(), sender.address()];
        let exact = candidates
            .into_iter()
            .flatten()
            .find_map(|address| self.domains.get_key_value(address.domain()?));
        let above = || {
            let covering = self.domains.iter().filter(|(domain, _)| hostname.is_within(domain));
            covering.max_by_key(|(domain, _)| domain.as_str().len())
        };
        let found = exact.or_else(|| (*origin == Origin::Own).then(above)?);
        found.map(|(domain, keys)| (domain, keys.as_slice()))
    }
}

/// For the log: who signed, with which keys.
fn summary(domain: &Domain, keys: &[Key]) -> String {
    let selectors: Vec<&str> = keys.iter().map(|key| key.selector.as_str()).collect();
    format!("signed d={domain} s={}", selectors.join(","))
}

/// The first address of the From field.
fn header_from(header: &[u8]) -> Option<Address> {
    let from = fields(header).find(|field| field.name.eq_ignore_ascii_case(b"From"))?;
    addresses(from.value).ok()?.into_iter().next()
}

/// The names to be signed, those to be sealed once more often than they are there; and the fields themselves as a header
/// of its own. Lines that are no field are left out: verifiers differ about where a header with such a line ends.
fn to_be_signed(header: &[u8]) -> (Vec<&'static str>, Vec<u8>) {
    let mut present = [false; SEALED.len() + SIGNED.len()];
    let mut text = Vec::new();
    let names = || SEALED.iter().chain(&SIGNED).copied();
    for field in fields(header) {
        let Some(at) = names().position(|name| field.name.eq_ignore_ascii_case(name.as_bytes())) else {
            continue;
        };
        present[at] = true;
        text.extend_from_slice(field.raw);
        if !text.ends_with(b"\r\n") {
            text.extend_from_slice(b"\r\n");
        }
    }
    text.extend_from_slice(b"\r\n");
    let mut list = Vec::with_capacity(2 * present.len());
    for (at, name) in names().enumerate() {
        let times = usize::from(present[at]) + usize::from(at < SEALED.len());
        list.extend(std::iter::repeat_n(name, times));
    }
    (list, text)
}

fn load_key(path: &PathBuf) -> Result<DkimKey, String> {
    let der = PrivatePkcs8KeyDer::from_pem_file(path).map_err(|error| error.to_string())?;
    if let Ok(key) = Ed25519Key::from_pkcs8_maybe_unchecked_der(der.secret_pkcs8_der()) {
        return Ok(key.into());
    }
    let rsa = rsa::KeyPair::from_pkcs8(der.secret_pkcs8_der())
        .map_err(|error| format!("neither an Ed25519 nor a usable RSA key in PKCS#8: {error}"))?;
    let bits = rsa.public_modulus_len() * 8;
    if bits < MIN_RSA_BITS {
        return Err(format!("an RSA key of {bits} bits; at least {MIN_RSA_BITS} are needed"));
    }
    RsaKey::<Sha256>::from_key_der(PrivateKeyDer::Pkcs8(der))
        .map(DkimKey::from)
        .map_err(|error| error.to_string())
}

/// A key that several signers use.
struct KeyRef<'k>(&'k DkimKey);

impl SigningKey for KeyRef<'_> {
    type Hasher = Sha256;

    fn sign(&self, input: impl Writable) -> mail_auth::Result<Vec<u8>> {
        self.0.sign(input)
    }

    fn algorithm(&self) -> Algorithm {
        self.0.algorithm()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::borrow::Borrow;
    use std::hash::Hash;
    use std::path::Path;
    use std::sync::{Arc, LazyLock};
    use std::time::Instant;

    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use bytes::Bytes;
    use mail_auth::common::parse::TxtRecordParser;
    use mail_auth::common::verify::DomainKey;
    use mail_auth::hickory_resolver::config::{ResolverConfig, ResolverOpts};
    use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator, Parameters, ResolverCache, Txt};
    use postern_smtp::ReversePath;

    use super::*;
    use crate::client::Connection;
    use crate::content::Outgoing;
    use crate::outcome::Verdict;
    use crate::testing::{Server, dial, envelope, tls};
    use crate::transaction::{Mail, To};

    /// The published keys.
    #[derive(Default)]
    struct Published(HashMap<Box<str>, Txt>);

    impl ResolverCache<Box<str>, Txt> for Published {
        fn get<Q: Hash + Eq + ?Sized>(&self, name: &Q) -> Option<Txt>
        where
            Box<str>: Borrow<Q>,
        {
            self.0.get(name).cloned()
        }

        fn remove<Q: Hash + Eq + ?Sized>(&self, _: &Q) -> Option<Txt>
        where
            Box<str>: Borrow<Q>,
        {
            None
        }

        fn insert(&self, _: Box<str>, _: Txt, _: Instant) {}
    }

    /// One RSA and one Ed25519 key in PEM, with their records. RSA keys are slow to make.
    static PAIR: LazyLock<[(String, String); 2]> = LazyLock::new(|| {
        let rsa = rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
        let rsa_der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = rsa.as_der().unwrap();
        let spki: PublicKeyX509Der<'_> = rsa.public_key().as_der().unwrap();
        let rsa_record = format!("v=DKIM1; k=rsa; p={}", BASE64.encode(spki.as_ref()));
        let document = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new()).unwrap();
        let ed25519 = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        let ed25519_record =
            format!("v=DKIM1; k=ed25519; p={}", BASE64.encode(ed25519.public_key().as_ref()));
        [(pem(rsa_der.as_ref()), rsa_record), (pem(document.as_ref()), ed25519_record)]
    });

    fn pem(der: &[u8]) -> String {
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", BASE64.encode(der))
    }

    /// Keys of proseware.test with the selectors `r` and `e`, and what is published of them.
    fn keys(folder: &Path) -> (Keys, Published) {
        let mut text =
            "hostname = \"mail.proseware.test\"\n[[domain]]\nname = \"proseware.test\"\n".to_owned();
        let mut published = Published::default();
        for (selector, (pem, record)) in ["r", "e"].into_iter().zip(&*PAIR) {
            let path = folder.join(selector);
            std::fs::write(&path, pem).unwrap();
            text.push_str(&format!("[[domain.dkim]]\nselector = {selector:?}\nkey = {path:?}\n"));
            let key = DomainKey::parse(record.as_bytes()).unwrap();
            let name = format!("{selector}._domainkey.proseware.test.");
            published.0.insert(name.into(), Txt::DomainKey(Arc::new(key)));
        }
        (Keys::load(&toml::from_str(&text).unwrap()).unwrap(), published)
    }

    fn ours(sender: &str) -> Envelope {
        Envelope { origin: Origin::Login("alice".to_owned()), ..envelope(sender, &["bob@adatum.test"]) }
    }

    fn hostname() -> Domain {
        Domain::parse("mail.proseware.test").unwrap()
    }

    /// Sends the message over a real connection and answers what came out at the other end, dots unstuffed.
    async fn over_the_wire(keys: &Keys, text: &[u8]) -> Vec<u8> {
        let script = [
            "220 hi\r\n",
            "EHLO",
            "250 hi\r\n",
            "MAIL",
            "250 ok\r\n",
            "RCPT",
            "250 ok\r\n",
            "DATA",
            "354 go\r\n",
        ];
        let server = Server::start(&[&script[..], &[".", "250 ok\r\n"]].concat()).await;
        let envelope = ours("alice@proseware.test");
        let source = Source::Whole(Bytes::copy_from_slice(text));
        let signed = keys.sign(&envelope, &hostname(), &source).await.unwrap();
        assert_eq!(signed.summary, "signed d=proseware.test s=r,e");
        let outgoing = Outgoing::new(source, signed.fields, false).await.unwrap();
        let tls = tls();
        let mut connection = Connection::open(&server.target("mx.adatum.test"), &dial(&tls)).await.unwrap();
        let to = vec![To { address: &envelope.recipients[0].address, details: None }];
        let sent = connection
            .transact(&Mail {
                envelope: &envelope,
                to,
                outgoing: &outgoing,
                now: std::time::SystemTime::UNIX_EPOCH,
            })
            .await;
        assert!(matches!(&sent.verdicts[0], Some(Verdict::Reply(reply)) if reply.is_success()));
        let wire = server.received();
        let marker = b"\r\nDATA\r\n";
        let start = wire.windows(marker.len()).position(|bytes| bytes == marker).unwrap() + marker.len();
        let content = wire[start..].strip_suffix(b".\r\n").unwrap();
        let mut plain = Vec::new();
        for line in content.split_inclusive(|byte| *byte == b'\n') {
            plain.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        }
        plain
    }

    async fn verify(message: &[u8], published: &Published) -> Vec<DkimResult> {
        let parsed = AuthenticatedMessage::parse(message).unwrap();
        let resolver = MessageAuthenticator::new(ResolverConfig::default(), ResolverOpts::default()).unwrap();
        let results = resolver.verify_dkim(Parameters::new(&parsed).with_txt_cache(published)).await;
        results.into_iter().map(|output| output.result().clone()).collect()
    }

    const HEADER: &str = "Received: from x\r\n by y\r\nFrom: Alice <alice@proseware.test>\r\nTo: bob@adatum.test\r\n\
                          Subject:  a   folded\r\n\tone\r\n\r\n";

    #[tokio::test]
    async fn what_is_sent_verifies_whatever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let (keys, published) = keys(folder.path());
        let long = format!("{}\r\nend\r\n", "x".repeat(5000));
        let large = "0123456789 line of a larger message\r\n".repeat(20_000);
        for body in [
            "",
            "\r\n\r\n\r\n",
            "text\r\n\r\n \r\n\t\r\n\r\n",
            "no line end",
            "trailing blanks  \r\n and   more \r\n",
            &long,
            &large,
            "acht bit: äöü \u{1F4E7}\r\n",
            ".\r\n..\r\n.hidden\r\n.\r\n",
            "nul \0 inside\r\n",
        ] {
            let message = over_the_wire(&keys, format!("{HEADER}{body}").as_bytes()).await;
            let results = verify(&message, &published).await;
            assert_eq!(results, [DkimResult::Pass, DkimResult::Pass], "{:?}", &body[..body.len().min(40)]);
        }
    }

    #[tokio::test]
    async fn a_message_without_an_empty_line_verifies_too() {
        let folder = tempfile::tempdir().unwrap();
        let (keys, published) = keys(folder.path());
        let message = over_the_wire(&keys, HEADER.trim_end().as_bytes()).await;
        assert_eq!(verify(&message, &published).await, [DkimResult::Pass, DkimResult::Pass]);
    }

    #[tokio::test]
    async fn nobody_can_add_or_change_what_is_sealed() {
        let folder = tempfile::tempdir().unwrap();
        let (keys, published) = keys(folder.path());
        let message = over_the_wire(&keys, format!("{HEADER}text\r\n").as_bytes()).await;
        let message = String::from_utf8(message).unwrap();
        for tampered in [
            message.replace("Received:", "From: eve@evil.test\r\nReceived:"),
            message.replace("Received:", "Reply-To: eve@evil.test\r\nReceived:"),
            message.replace("folded", "changed"),
            message.replace("text", "other"),
        ] {
            assert_ne!(tampered, message);
            let results = verify(tampered.as_bytes(), &published).await;
            assert!(results.iter().all(|result| *result != DkimResult::Pass), "{tampered}");
        }
        let listed = message.replace("Received:", "List-Id: <list.adatum.test>\r\nReceived:");
        assert_eq!(verify(listed.as_bytes(), &published).await, [DkimResult::Pass, DkimResult::Pass]);
    }

    #[tokio::test]
    async fn only_our_own_mail_is_signed_and_only_by_a_domain_that_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let (keys, _) = keys(folder.path());
        let summary = async |envelope: Envelope, from: &str| {
            let text = Bytes::from(format!("From: {from}\r\n\r\nx\r\n"));
            let outlook = keys.outlook(&envelope.origin, &envelope.reverse_path, &text, &hostname());
            let signed = keys.sign(&envelope, &hostname(), &Source::Whole(text)).await.unwrap().summary;
            assert_eq!(outlook, signed);
            signed
        };
        let outsider = envelope("alice@proseware.test", &[]);
        assert_eq!(summary(outsider, "alice@proseware.test").await, "none reason=outsider");
        let foreign = "bob@adatum.test";
        assert!(summary(ours(foreign), "Alice <alice@Proseware.Test>").await.starts_with("signed"));
        assert!(summary(ours("alice@proseware.test"), foreign).await.starts_with("signed"));
        assert_eq!(summary(ours(foreign), foreign).await, "none reason=no-key-for-domain");
        let report = Envelope { origin: Origin::Own, reverse_path: ReversePath::Null, ..ours("") };
        assert!(
            summary(report, "MAILER-DAEMON@mail.proseware.test").await.starts_with("signed d=proseware.test")
        );
        let nobodys = Envelope { reverse_path: ReversePath::Null, ..ours("") };
        assert_eq!(summary(nobodys, "x@mail.proseware.test").await, "none reason=no-key-for-domain");
        let without =
            Keys::default().sign(&ours(foreign), &hostname(), &Source::Whole(Bytes::new())).await.unwrap();
        assert_eq!(without.summary, "none reason=no-keys");
    }

    #[test]
    fn keys_that_cannot_be_used_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let text = format!(
            "hostname = \"a.test\"\n[[domain]]\nname = \"a.test\"\n[[domain.dkim]]\nselector = \"s\"\nkey = {path:?}\n"
        );
        let config: Config = toml::from_str(&text).unwrap();
        assert!(Keys::load(&config).unwrap_err().to_string().contains("key"));
        std::fs::write(&path, pem(b"no key")).unwrap();
        assert!(Keys::load(&config).unwrap_err().to_string().contains("neither"));
    }
}
