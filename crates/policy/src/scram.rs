//! SCRAM on the side of the server (RFC 5802, RFC 7677): messages in, messages out; no I/O, no clock, no accounts.
//!
//! The client proves that it knows a password without sending it, and the server proves that it has the verifier. With
//! channel binding (the mechanisms whose names end in `-PLUS`) both also prove that they are at the two ends of one TLS
//! session: who sits between them cannot pass the proofs on.
//!
//! ```text
//! client: n,,n=alice,r=NONCE                      -> client_first -> challenge
//! server: r=NONCE+OURS,s=SALT,i=ITERATIONS
//! client: c=biws,r=NONCE+OURS,p=PROOF             -> Challenge::answer
//! server: v=SIGNATURE
//! ```

use std::num::NonZeroU32;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use aws_lc_rs::{hmac, pbkdf2};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use postern_config::scram::{ScramHash, Verifier};

/// What our passwords are hashed with. The client pays for it at every login: some 50 ms of a core, on a telephone more. A
/// stolen verifier is guessed at with as much for each guess.
const ITERATIONS: u32 = 100_000;
const SALT_OCTETS: usize = 16;
/// 144 random bits, as 24 characters.
const NONCE_OCTETS: usize = 18;

/// What of the TLS session a client can bind its login to. Empty where the session has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChannelBindings {
    /// `tls-exporter` (RFC 9266): keying material of this very session.
    pub exporter: Option<Vec<u8>>,
    /// `tls-server-end-point` (RFC 5929 §4): the hash of our certificate.
    pub server_end_point: Option<Vec<u8>>,
}

impl ChannelBindings {
    /// Whether there is any: then the mechanisms with channel binding are offered.
    pub fn is_offered(&self) -> bool {
        self.exporter.is_some() || self.server_end_point.is_some()
    }

    fn of_kind(&self, kind: &str) -> Option<&[u8]> {
        match kind {
            "tls-exporter" => self.exporter.as_deref(),
            "tls-server-end-point" => self.server_end_point.as_deref(),
            _ => None,
        }
    }
}

/// Why an exchange ends before there is a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It is no SCRAM message, or asks for what is not there.
    Malformed,
    /// The client can do channel binding and has heard that we cannot, which is not so: somebody has changed our offer on
    /// its way (RFC 5802 §6).
    Downgraded,
    /// A kind of channel binding that this TLS session does not have.
    UnknownBinding,
}

/// Why a proof is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unproved {
    /// It is no SCRAM message, or belongs to another exchange.
    Malformed,
    /// It is bound to another TLS session: somebody sits between the client and us.
    WrongBinding,
    /// The password is another one.
    WrongProof,
}

/// The first message of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFirst {
    /// Who wants to log in.
    pub name: String,
    /// As whom they want to act, where they say so.
    pub authorisation: Option<String>,
    /// What the proof must be bound to: the header in front of the message, and data of the TLS session.
    binding: Vec<u8>,
    nonce: String,
    /// The message without its header.
    bare: String,
}

/// Reads the first message of a client. `plus` is whether the mechanism is the one with channel binding.
///
/// # Errors
/// See [`Refused`].
pub fn client_first(message: &[u8], plus: bool, bindings: &ChannelBindings) -> Result<ClientFirst, Refused> {
    let message = std::str::from_utf8(message).map_err(|_| Refused::Malformed)?;
    let (flag, rest) = message.split_once(',').ok_or(Refused::Malformed)?;
    let (authorisation, bare) = rest.split_once(',').ok_or(Refused::Malformed)?;
    let data = bound_data(flag, plus, bindings)?;
    let authorisation = match authorisation {
        "" => None,
        text => Some(text.strip_prefix("a=").and_then(unescape).ok_or(Refused::Malformed)?),
    };
    // A mandatory extension (m=) would come first, and we know none (RFC 5802 §5.1).
    let mut attributes = bare.split(',');
    let name = attributes.next().and_then(|text| text.strip_prefix("n=")).and_then(unescape);
    let nonce = attributes.next().and_then(|text| text.strip_prefix("r=")).filter(|nonce| is_nonce(nonce));
    let (Some(name), Some(nonce)) = (name, nonce) else { return Err(Refused::Malformed) };
    if !attributes.all(is_extension) {
        return Err(Refused::Malformed);
    }
    let header = &message[..message.len() - bare.len()];
    let binding = [header.as_bytes(), data].concat();
    Ok(ClientFirst { name, authorisation, binding, nonce: nonce.to_owned(), bare: bare.to_owned() })
}

/// The data of the TLS session that a client means with the flag of its header (RFC 5802 §6).
fn bound_data<'b>(flag: &str, plus: bool, bindings: &'b ChannelBindings) -> Result<&'b [u8], Refused> {
    match (flag, flag.strip_prefix("p=")) {
        ("n", _) if !plus => Ok(&[]),
        ("y", _) if !plus && bindings.is_offered() => Err(Refused::Downgraded),
        ("y", _) if !plus => Ok(&[]),
        (_, Some(kind)) if plus => bindings.of_kind(kind).ok_or(Refused::UnknownBinding),
        _ => Err(Refused::Malformed),
    }
}

/// A name with `,` as `=2C` and `=` as `=3D`, and no other `=` (RFC 5802 §5.1).
fn unescape(text: &str) -> Option<String> {
    let mut parts = text.split('=');
    let mut name = parts.next()?.to_owned();
    for part in parts {
        let (character, rest) = match part.get(..2)? {
            "2C" => (',', &part[2..]),
            "3D" => ('=', &part[2..]),
            _ => return None,
        };
        name.push(character);
        name.push_str(rest);
    }
    (!name.is_empty() && !name.contains('\0')).then_some(name)
}

/// Printable ASCII without a comma.
fn is_nonce(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}

fn is_extension(text: &str) -> bool {
    matches!(text.as_bytes(), [name, b'=', _, ..] if name.is_ascii_alphabetic())
}

impl ClientFirst {
    /// What the client is asked for, by this verifier. `ours` is a nonce that was never used before: [`nonce`].
    pub fn challenge(self, verifier: Verifier, ours: &str) -> Challenge {
        let nonce = format!("{}{ours}", self.nonce);
        let text = format!("r={nonce},s={},i={}", STANDARD.encode(&verifier.salt), verifier.iterations);
        Challenge { verifier, binding: self.binding, nonce, client_first: self.bare, text }
    }
}

/// A question that only who knows the password can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    verifier: Verifier,
    binding: Vec<u8>,
    nonce: String,
    client_first: String,
    text: String,
}

impl Challenge {
    /// The message for the client.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Takes the answer: what we prove ourselves with, for the client.
    ///
    /// # Errors
    /// See [`Unproved`].
    pub fn answer(&self, message: &[u8]) -> Result<String, Unproved> {
        let message = std::str::from_utf8(message).map_err(|_| Unproved::Malformed)?;
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(Unproved::Malformed)?;
        let mut attributes = without_proof.split(',');
        let binding = attributes.next().and_then(|text| STANDARD.decode(text.strip_prefix("c=")?).ok());
        let nonce = attributes.next().and_then(|text| text.strip_prefix("r="));
        let proof = STANDARD.decode(proof).ok().filter(|proof| proof.len() == self.verifier.hash.octets());
        let (Some(binding), Some(nonce), Some(proof)) = (binding, nonce, proof) else {
            return Err(Unproved::Malformed);
        };
        if nonce != self.nonce || !attributes.all(is_extension) {
            return Err(Unproved::Malformed);
        }
        if verify_slices_are_equal(&binding, &self.binding).is_err() {
            return Err(Unproved::WrongBinding);
        }
        let signed = format!("{},{},{without_proof}", self.client_first, self.text);
        self.verify(&proof, signed.as_bytes())
    }

    /// RFC 5802 §3: the proof is the client's key, hidden by a signature that only the stored key makes.
    fn verify(&self, proof: &[u8], signed: &[u8]) -> Result<String, Unproved> {
        let Verifier { hash, stored_key, server_key, .. } = &self.verifier;
        let signature = hmac(*hash, stored_key, signed);
        let client_key: Vec<u8> = proof.iter().zip(&signature).map(|(one, other)| one ^ other).collect();
        if verify_slices_are_equal(&hashed(*hash, &client_key), stored_key).is_err() {
            return Err(Unproved::WrongProof);
        }
        Ok(format!("v={}", STANDARD.encode(hmac(*hash, server_key, signed))))
    }
}

/// A nonce for [`ClientFirst::challenge`].
pub fn nonce() -> String {
    STANDARD.encode(rand::random::<[u8; NONCE_OCTETS]>())
}

/// The verifier of a password, for `accounts.toml`. `None`: the password has characters that RFC 4013 (SASLprep) would have
/// written in one of several ways, and programs differ in which; only ASCII without control characters is the same for all.
pub fn verifier(password: &str, hash: ScramHash) -> Option<Verifier> {
    let is_plain = !password.is_empty() && password.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    is_plain.then(|| derive(password.as_bytes(), hash, &rand::random::<[u8; SALT_OCTETS]>(), ITERATIONS))
}

fn derive(password: &[u8], hash: ScramHash, salt: &[u8], iterations: u32) -> Verifier {
    let algorithm = match hash {
        ScramHash::Sha1 => pbkdf2::PBKDF2_HMAC_SHA1,
        ScramHash::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
    };
    let mut salted = vec![0; hash.octets()];
    pbkdf2::derive(
        algorithm,
        NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN),
        salt,
        password,
        &mut salted,
    );
    let stored_key = hashed(hash, &hmac(hash, &salted, b"Client Key"));
    let server_key = hmac(hash, &salted, b"Server Key");
    Verifier { hash, iterations, salt: salt.to_vec(), stored_key, server_key }
}

/// A verifier that no password fits, for a name that has none: like `example` in all that a client sees of it. The same name
/// has the same salt as long as the secret stays.
pub(crate) fn decoy(secret: &[u8], name: &str, hash: ScramHash, example: Option<&Verifier>) -> Verifier {
    let key = hmac::Key::new(hmac::HMAC_SHA512, secret);
    let derive = |what: &str| {
        let text = format!("{what}\0{}\0{name}", hash.mechanism());
        hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
    };
    let cut = |mut octets: Vec<u8>, length: usize| {
        octets.truncate(length);
        octets
    };
    Verifier {
        hash,
        iterations: example.map_or(ITERATIONS, |example| example.iterations),
        // A verifier's salt has at most as many octets as this makes.
        salt: cut(derive("salt"), example.map_or(SALT_OCTETS, |example| example.salt.len())),
        stored_key: cut(derive("stored"), hash.octets()),
        server_key: cut(derive("server"), hash.octets()),
    }
}

fn hmac(hash: ScramHash, key: &[u8], text: &[u8]) -> Vec<u8> {
    let algorithm = match hash {
        ScramHash::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        ScramHash::Sha256 => hmac::HMAC_SHA256,
    };
    hmac::sign(&hmac::Key::new(algorithm, key), text).as_ref().to_vec()
}

fn hashed(hash: ScramHash, text: &[u8]) -> Vec<u8> {
    let algorithm = match hash {
        ScramHash::Sha1 => &SHA1_FOR_LEGACY_USE_ONLY,
        ScramHash::Sha256 => &SHA256,
    };
    digest(algorithm, text).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    /// The example of RFC 7677 §3.
    const FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    fn user() -> Verifier {
        derive(b"pencil", ScramHash::Sha256, &STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(), 4096)
    }

    fn none() -> ChannelBindings {
        ChannelBindings::default()
    }

    fn bindings() -> ChannelBindings {
        ChannelBindings { exporter: Some(vec![1; 32]), server_end_point: Some(vec![2; 32]) }
    }

    fn challenge() -> Challenge {
        client_first(FIRST.as_bytes(), false, &none()).unwrap().challenge(user(), NONCE)
    }

    /// What a client answers that knows the password.
    fn prove(challenge: &Challenge, password: &[u8], binding: &[u8]) -> String {
        let Verifier { hash, iterations, salt, .. } = &challenge.verifier;
        let key = derive(password, *hash, salt, *iterations);
        let mut salted = vec![0; hash.octets()];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            NonZeroU32::new(*iterations).unwrap(),
            salt,
            password,
            &mut salted,
        );
        let client_key = hmac(*hash, &salted, b"Client Key");
        let without_proof = format!("c={},r={}", STANDARD.encode(binding), challenge.nonce);
        let signed = format!("{},{},{without_proof}", challenge.client_first, challenge.text);
        let signature = hmac(*hash, &key.stored_key, signed.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(one, other)| one ^ other).collect();
        format!("{without_proof},p={}", STANDARD.encode(proof))
    }

    #[test]
    fn the_example_of_rfc_7677_goes_as_written() {
        let challenge = challenge();
        assert_eq!(
            challenge.text(),
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let signature = challenge.answer(FINAL.as_bytes()).unwrap();
        assert_eq!(signature, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn the_example_of_rfc_5802_goes_as_written() {
        let salt = STANDARD.decode("QSXCR+Q6sek8bf92").unwrap();
        let verifier = derive(b"pencil", ScramHash::Sha1, &salt, 4096);
        let first = client_first(b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL", false, &none()).unwrap();
        let challenge = first.challenge(verifier, "3rfcNHYJY1ZVvWVs7j");
        assert_eq!(
            challenge.text(),
            "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096"
        );
        let proof = b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=";
        assert_eq!(challenge.answer(proof).unwrap(), "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=");
    }

    #[test]
    fn a_verifier_of_postgresql_is_the_same() {
        let text = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
                    WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
        assert_eq!(user().to_string(), text);
    }

    #[test]
    fn a_wrong_password_proves_nothing() {
        let challenge = challenge();
        assert!(challenge.answer(prove(&challenge, b"pencil", b"n,,").as_bytes()).is_ok());
        let wrong = prove(&challenge, b"Pencil", b"n,,");
        assert_eq!(challenge.answer(wrong.as_bytes()), Err(Unproved::WrongProof));
        // The proof of an earlier exchange is worth nothing in the next.
        let next = client_first(FIRST.as_bytes(), false, &none()).unwrap().challenge(user(), &nonce());
        assert_eq!(next.answer(FINAL.as_bytes()), Err(Unproved::Malformed));
    }

    #[test]
    fn a_proof_is_bound_to_its_session() {
        for (kind, data) in [("tls-exporter", [1; 32]), ("tls-server-end-point", [2; 32])] {
            let header = format!("p={kind},,");
            let message = format!("{header}n=user,r=rOprNGfwEbeRWgbNEkqO");
            let first = client_first(message.as_bytes(), true, &bindings()).unwrap();
            let challenge = first.challenge(user(), &nonce());
            let own = [header.as_bytes(), &data].concat();
            assert!(challenge.answer(prove(&challenge, b"pencil", &own).as_bytes()).is_ok());
            let foreign = [header.as_bytes(), &[3; 32]].concat();
            for binding in [&foreign[..], header.as_bytes(), b"n,,"] {
                let answer = challenge.answer(prove(&challenge, b"pencil", binding).as_bytes());
                assert_eq!(answer, Err(Unproved::WrongBinding));
            }
        }
    }

    #[test]
    fn a_changed_offer_is_noticed() {
        let first = |flag: &str, plus, bindings: &ChannelBindings| {
            let message = format!("{flag},,n=user,r=abc");
            client_first(message.as_bytes(), plus, bindings).map(|first| first.binding)
        };
        assert_eq!(first("y", false, &none()), Ok(b"y,,".to_vec()));
        assert_eq!(first("y", false, &bindings()), Err(Refused::Downgraded));
        assert_eq!(first("n", false, &bindings()), Ok(b"n,,".to_vec()));
        // Binding belongs to the mechanism with binding, and to that alone.
        assert_eq!(first("n", true, &bindings()), Err(Refused::Malformed));
        assert_eq!(first("y", true, &bindings()), Err(Refused::Malformed));
        assert_eq!(first("p=tls-exporter", false, &bindings()), Err(Refused::Malformed));
        assert_eq!(first("p=tls-unique", true, &bindings()), Err(Refused::UnknownBinding));
        assert_eq!(first("p=tls-exporter", true, &none()), Err(Refused::UnknownBinding));
    }

    #[test]
    fn names_are_unescaped_and_nothing_else_is_a_name() {
        let name = |text: &str| {
            let message = format!("n,,n={text},r=abc");
            client_first(message.as_bytes(), false, &none()).map(|first| first.name)
        };
        assert_eq!(name("a=2Cb=3Dc"), Ok("a,b=c".to_owned()));
        assert_eq!(name("j\u{f6}rg"), Ok("j\u{f6}rg".to_owned()));
        for malformed in ["", "a=", "a=2", "a=2c", "a=41", "=", "a\0"] {
            assert_eq!(name(malformed), Err(Refused::Malformed), "{malformed}");
        }
        let other = client_first(b"n,a=bob,n=alice,r=abc", false, &none()).unwrap();
        assert_eq!(other.authorisation.as_deref(), Some("bob"));
        assert_eq!(other.binding, b"n,a=bob,");
    }

    #[test]
    fn messages_that_are_none_are_refused() {
        for malformed in [
            &b""[..],
            b"n",
            b"n,,",
            b"n,,n=user",
            b"n,,r=abc,n=user",
            b"n,,n=user,r=",
            b"n,,n=user,r=a b",
            b"n,,n=user,r=abc,",
            b"n,,n=user,r=abc,x",
            b"n,,m=ext,n=user,r=abc",
            b"n,b=bob,n=user,r=abc",
            b"n,a=,n=user,r=abc",
            b"x,,n=user,r=abc",
            b"N,,n=user,r=abc",
            b"n,,n=\xff,r=abc",
        ] {
            assert_eq!(client_first(malformed, false, &none()), Err(Refused::Malformed), "{malformed:?}");
        }
        assert!(client_first(b"n,,n=user,r=abc,x=extension", false, &none()).is_ok());
        let challenge = challenge();
        let good = FINAL;
        for (from, to) in [
            ("c=biws", "c=*"),
            ("c=biws,", ""),
            ("r=rOpr", "r=rOpx"),
            (",p=", ",q="),
            (",p=dHzb", ",p="),
            ("ndVQ=", "ndVQ"),
            (",p=", ",x,p="),
        ] {
            let answer = challenge.answer(good.replacen(from, to, 1).as_bytes());
            assert_eq!(answer, Err(Unproved::Malformed), "{from} {to}");
        }
        assert_eq!(challenge.answer(b"\xff"), Err(Unproved::Malformed));
        // Extensions are ignored, but signed.
        assert_eq!(
            challenge.answer(good.replacen(",p=", ",x=y,p=", 1).as_bytes()),
            Err(Unproved::WrongProof)
        );
    }

    #[test]
    fn only_passwords_that_all_programs_prepare_alike_get_a_verifier() {
        let verifier_of = |password| verifier(password, ScramHash::Sha256);
        let (one, other) = (verifier_of("correct horse").unwrap(), verifier_of("correct horse").unwrap());
        assert!(one.salt != other.salt && one.iterations == ITERATIONS);
        assert_eq!(one.to_string().parse::<Verifier>().unwrap(), one);
        for password in ["", "caf\u{e9}", "tab\there", "no\u{ad}break"] {
            assert_eq!(verifier_of(password), None, "{password:?}");
        }
    }

    #[test]
    fn a_decoy_looks_like_the_others_and_stays_the_same() {
        let made = |secret: &[u8], name| decoy(secret, name, ScramHash::Sha256, Some(&user()));
        let nobody = made(b"secret", "nobody");
        assert_eq!(nobody, made(b"secret", "nobody"));
        assert_eq!((nobody.iterations, nobody.salt.len()), (4096, 16));
        assert_ne!(nobody.salt, made(b"secret", "somebody").salt);
        assert_ne!(nobody.salt, made(b"other", "nobody").salt);
        assert_eq!(nobody.to_string().parse::<Verifier>().unwrap(), nobody);
        let challenge = client_first(FIRST.as_bytes(), false, &none()).unwrap().challenge(nobody, NONCE);
        assert_eq!(
            challenge.answer(prove(&challenge, b"pencil", b"n,,").as_bytes()),
            Err(Unproved::WrongProof)
        );
    }
}
