//! `dkim generate`: keys that sign mail, with the DNS record and the lines of configuration they need.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand, ValueEnum};
use nix::unistd::{Uid, User};
use postern_smtp::Domain;
use serde::Serialize;

use crate::Session;
use crate::failure::{Exit, Failure};
use crate::output::Look;

/// A string of a TXT record has at most so many octets (RFC 1035 §3.3.14).
const MAX_STRING: usize = 255;
/// Characters of a line of PEM (RFC 7468 §2).
const PEM_LINE: usize = 64;

const EXAMPLES: &str = "\
Examples:
  posternctl dkim generate --domain proseware.test --selector 2026a
  posternctl dkim generate --domain proseware.test --selector 2026a --algorithm both

Then publish the record, add the lines to the configuration, and run `posternctl reload`.";

/// What can be done with DKIM keys.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a key, and print its DNS record and what to put into the configuration.
    #[command(after_help = EXAMPLES)]
    Generate(GenerateOptions),
}

/// A new key.
#[derive(Debug, Args)]
pub struct GenerateOptions {
    /// The domain whose mail it signs.
    #[arg(long, value_name = "DOMAIN")]
    domain: Domain,
    /// The name of the key below _domainkey of the domain; a new one for each new key, such as 2026a.
    #[arg(long, value_name = "NAME", value_parser = selector)]
    selector: String,
    /// The kind of key. Everybody verifies RSA; Ed25519 is small and not yet verified everywhere, so use it beside RSA.
    #[arg(long, value_enum, default_value_t)]
    algorithm: Choice,
    /// Where the key file goes; by default the directory `keys` beside the configuration file.
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
}

/// Which keys are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Choice {
    /// RSA with 2048 bits.
    #[default]
    Rsa2048,
    /// Ed25519 (RFC 8463).
    Ed25519,
    /// One of each: the selector of the second ends in `-ed25519`.
    Both,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Rsa2048,
    Ed25519,
}

/// A selector is one or more labels of a domain name (RFC 6376 §3.1).
fn selector(text: &str) -> Result<String, String> {
    Domain::parse(text).map(|name| name.to_string()).map_err(|error| error.to_string())
}

/// A key pair.
struct Generated {
    /// PKCS#8.
    private: Vec<u8>,
    /// The `p=` of the record: SubjectPublicKeyInfo for RSA (RFC 6376 §3.6.1), the bare key for Ed25519 (RFC 8463 §4.2).
    public: Vec<u8>,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct NewKey {
    domain: String,
    selector: String,
    algorithm: &'static str,
    file: PathBuf,
    /// The absolute name of the TXT record.
    record_name: String,
    /// Its value.
    record_value: String,
}

#[derive(Debug, Serialize)]
struct NewKeys {
    keys: Vec<NewKey>,
}

impl Verb {
    /// Runs the verb.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let Self::Generate(options) = self;
        let folder = match &options.out {
            Some(folder) => folder.clone(),
            None => session.global.config.with_file_name("keys"),
        };
        let folder = std::path::absolute(folder)?;
        let owner = owner(&session.global.config);
        let keys = generate(&options, &folder, owner.as_ref())?;
        session.out.answer(&NewKeys { keys }, text)?;
        Ok(Exit::Done)
    }
}

fn generate(options: &GenerateOptions, folder: &Path, owner: Option<&User>) -> Result<Vec<NewKey>, Failure> {
    let wanted: &[(Algorithm, &str)] = match options.algorithm {
        Choice::Rsa2048 => &[(Algorithm::Rsa2048, "")],
        Choice::Ed25519 => &[(Algorithm::Ed25519, "")],
        Choice::Both => &[(Algorithm::Rsa2048, ""), (Algorithm::Ed25519, "-ed25519")],
    };
    let planned: Vec<(Algorithm, String, PathBuf)> = wanted
        .iter()
        .map(|(algorithm, suffix)| {
            let selector = format!("{}{suffix}", options.selector);
            let file = folder.join(format!("{}.{selector}.pem", options.domain));
            (*algorithm, selector, file)
        })
        .collect();
    // Before the first key is made: half of what was asked helps nobody.
    if let Some((_, selector, file)) = planned.iter().find(|(_, _, file)| file.exists()) {
        return Err(exists(selector, file));
    }
    make_folder(folder, owner)?;
    let make = |(algorithm, selector, file): (Algorithm, String, PathBuf)| {
        let key = algorithm.generate().map_err(|_| anyhow!("the system has no random numbers"))?;
        write_key(&file, &pem(&key.private), owner).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => exists(&selector, &file),
            _ => anyhow::Error::from(error).context(format!("writing {}", file.display())).into(),
        })?;
        Ok(NewKey {
            record_name: format!("{selector}._domainkey.{}.", options.domain),
            record_value: format!("v=DKIM1; k={}; p={}", algorithm.tag(), STANDARD.encode(&key.public)),
            domain: options.domain.to_string(),
            algorithm: algorithm.as_str(),
            selector,
            file,
        })
    };
    planned.into_iter().map(make).collect()
}

fn exists(selector: &str, file: &Path) -> Failure {
    Failure::Finding(format!(
        "{} exists; keys are never overwritten, because mail under way is verified with them. Take another selector than {selector:?}",
        file.display()
    ))
}

impl Algorithm {
    fn as_str(self) -> &'static str {
        match self {
            Self::Rsa2048 => "rsa2048",
            Self::Ed25519 => "ed25519",
        }
    }

    /// The `k=` of the record.
    fn tag(self) -> &'static str {
        match self {
            Self::Rsa2048 => "rsa",
            Self::Ed25519 => "ed25519",
        }
    }

    fn generate(self) -> Result<Generated, aws_lc_rs::error::Unspecified> {
        match self {
            Self::Rsa2048 => {
                let pair = rsa::KeyPair::generate(KeySize::Rsa2048)?;
                let private: Pkcs8V1Der<'_> = pair.as_der()?;
                let public: PublicKeyX509Der<'_> = pair.public_key().as_der()?;
                Ok(Generated { private: private.as_ref().to_vec(), public: public.as_ref().to_vec() })
            }
            Self::Ed25519 => {
                let pair = Ed25519KeyPair::generate()?;
                // Version 1, as OpenSSL writes and reads it.
                let private = pair.to_pkcs8v1()?;
                Ok(Generated {
                    private: private.as_ref().to_vec(),
                    public: pair.public_key().as_ref().to_vec(),
                })
            }
        }
    }
}

fn pem(der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut text = String::from("-----BEGIN PRIVATE KEY-----\n");
    for line in base64.as_bytes().chunks(PEM_LINE) {
        text.extend(line.iter().copied().map(char::from));
        text.push('\n');
    }
    text + "-----END PRIVATE KEY-----\n"
}

/// Who must be able to read the key: the user the daemon becomes, when root makes it.
fn owner(config: &Path) -> Option<User> {
    if !Uid::effective().is_root() {
        return None;
    }
    let configured = postern_config::load(config).ok().and_then(|loaded| loaded.config.user);
    User::from_name(configured.as_deref().unwrap_or("postern")).unwrap_or_default()
}

fn make_folder(folder: &Path, owner: Option<&User>) -> anyhow::Result<()> {
    let context = || format!("making the directory {}", folder.display());
    if folder.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o750).create(folder).with_context(context)?;
    if let Some(owner) = owner {
        nix::unistd::chown(folder, None, Some(owner.gid)).with_context(context)?;
    }
    Ok(())
}

fn write_key(path: &Path, pem: &str, owner: Option<&User>) -> std::io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    if let Some(owner) = owner {
        fchown(&file, Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))?;
    }
    file.write_all(pem.as_bytes())?;
    file.sync_all()
}

fn text(keys: &NewKeys, _look: Look) -> String {
    let mut text = String::new();
    for key in &keys.keys {
        let _ = writeln!(text, "; {} key in {}", key.algorithm, key.file.display());
        let _ = writeln!(text, "{} IN TXT ( {} )\n", key.record_name, strings(&key.record_value).join(" "));
    }
    text += "# When DNS shows it, in the configuration:\n[[domain]]\n";
    let domain = keys.keys.first().map(|key| key.domain.as_str()).unwrap_or_default();
    let _ = writeln!(text, "name = {domain:?}\ndkim = [");
    for key in &keys.keys {
        let file = toml_edit::Value::from(key.file.display().to_string());
        let _ = writeln!(text, "  {{ selector = {:?}, key = {} }},", key.selector, file.to_string().trim());
    }
    text + "]\n"
}

/// The value in quoted strings that a TXT record can hold.
fn strings(value: &str) -> Vec<String> {
    // ASCII by construction, so every octet is a character.
    value.as_bytes().chunks(MAX_STRING).map(|part| format!("\"{}\"", String::from_utf8_lossy(part))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::os::unix::fs::MetadataExt;

    use aws_lc_rs::signature::{ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, UnparsedPublicKey};

    use super::*;

    fn options(algorithm: Choice) -> GenerateOptions {
        GenerateOptions {
            domain: Domain::parse("proseware.test").unwrap(),
            selector: "2026a".to_owned(),
            algorithm,
            out: None,
        }
    }

    fn der(file: &Path) -> Vec<u8> {
        let text = fs::read_to_string(file).unwrap();
        let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
        STANDARD.decode(body).unwrap()
    }

    fn published(key: &NewKey) -> Vec<u8> {
        STANDARD.decode(key.record_value.rsplit_once("p=").unwrap().1).unwrap()
    }

    #[test]
    fn the_published_rsa_key_verifies_what_the_file_signs() {
        let folder = tempfile::tempdir().unwrap();
        let keys = generate(&options(Choice::Rsa2048), folder.path(), None).unwrap();
        assert_eq!(keys.len(), 1);
        assert!(keys[0].record_value.starts_with("v=DKIM1; k=rsa; p="));
        let pair = rsa::KeyPair::from_pkcs8(&der(&keys[0].file)).unwrap();
        let mut signature = vec![0; pair.public_modulus_len()];
        let random = aws_lc_rs::rand::SystemRandom::new();
        pair.sign(&RSA_PKCS1_SHA256, &random, b"mail", &mut signature).unwrap();
        let public = published(&keys[0]);
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &public).verify(b"mail", &signature).unwrap();
    }

    #[test]
    fn the_published_ed25519_key_verifies_what_the_file_signs() {
        let folder = tempfile::tempdir().unwrap();
        let keys = generate(&options(Choice::Ed25519), folder.path(), None).unwrap();
        let public = published(&keys[0]);
        assert_eq!(public.len(), 32);
        let pair = Ed25519KeyPair::from_pkcs8(&der(&keys[0].file)).unwrap();
        UnparsedPublicKey::new(&ED25519, &public).verify(b"mail", pair.sign(b"mail").as_ref()).unwrap();
    }

    #[test]
    fn keys_are_for_their_owner_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let keys = generate(&options(Choice::Both), folder.path(), None).unwrap();
        let selectors: Vec<_> = keys.iter().map(|key| key.selector.as_str()).collect();
        assert_eq!(selectors, ["2026a", "2026a-ed25519"]);
        let before: Vec<_> = keys.iter().map(|key| der(&key.file)).collect();
        assert!(keys.iter().all(|key| fs::metadata(&key.file).unwrap().mode() & 0o777 == 0o600));
        for algorithm in [Choice::Both, Choice::Rsa2048, Choice::Ed25519] {
            assert!(generate(&options(algorithm), folder.path(), None).is_err());
        }
        assert_eq!(before, keys.iter().map(|key| der(&key.file)).collect::<Vec<_>>());
    }

    #[test]
    fn records_have_absolute_names_and_short_strings() {
        let key = NewKey {
            domain: "proseware.test".to_owned(),
            selector: "2026a".to_owned(),
            algorithm: "rsa2048",
            file: "/etc/postern/keys/proseware.test.2026a.pem".into(),
            record_name: "2026a._domainkey.proseware.test.".to_owned(),
            record_value: format!("v=DKIM1; k=rsa; p={}", "A".repeat(260)),
        };
        let text = text(&NewKeys { keys: vec![key] }, Look::PLAIN);
        let expected = format!(
            "; rsa2048 key in /etc/postern/keys/proseware.test.2026a.pem\n\
             2026a._domainkey.proseware.test. IN TXT ( \"v=DKIM1; k=rsa; p={}\" \"{}\" )\n\n\
             # When DNS shows it, in the configuration:\n[[domain]]\nname = \"proseware.test\"\ndkim = [\n  \
             {{ selector = \"2026a\", key = \"/etc/postern/keys/proseware.test.2026a.pem\" }},\n]\n",
            "A".repeat(255 - 18),
            "A".repeat(260 - 255 + 18),
        );
        assert_eq!(text, expected);
    }
}
