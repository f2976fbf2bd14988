//! Signed tokens (RFC 7515, 7519), and what claims say, of a token or of an answer about one.

use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_config::oauth::OAuth;
use serde_json::{Map, Value};

use super::Refused;

/// Keys of one provider: more than any has at once.
const MOST_KEYS: usize = 100;

/// How a token is signed. There is no way to write "not at all", nor a signature that whoever has the public key could make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Es256,
    EdDsa,
}

impl Algorithm {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            // As RFC 8037 has it, and as RFC 9864 does.
            "EdDSA" | "Ed25519" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

/// A public key of the provider. Its kind alone decides how it verifies, whatever the token says (RFC 8725 §3.1).
#[derive(Debug, Clone)]
pub(super) struct Key {
    id: Option<String>,
    material: Material,
}

#[derive(Debug, Clone)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// Uncompressed.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Key {
    /// All keys of a set (RFC 7517 §5) that this program can verify with.
    ///
    /// # Errors
    /// When it is no such set.
    pub fn set(text: &[u8]) -> Result<Vec<Self>, String> {
        let set: Value = serde_json::from_slice(text).map_err(|error| format!("no set of keys: {error}"))?;
        let keys = set["keys"].as_array().ok_or("no set of keys: there is no `keys`")?;
        Ok(keys.iter().take(MOST_KEYS).filter_map(Self::read).collect())
    }

    fn read(key: &Value) -> Option<Self> {
        let octets = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str()?).ok();
        if key["use"].as_str().is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let (material, algorithm) = match (key["kty"].as_str()?, key["crv"].as_str()) {
            ("RSA", _) => (Material::Rsa { n: octets("n")?, e: octets("e")? }, Algorithm::Rs256),
            ("EC", Some("P-256")) => {
                let (x, y) = (octets("x")?, octets("y")?);
                (Material::P256([&[4][..], &x, &y].concat()), Algorithm::Es256)
            }
            ("OKP", Some("Ed25519")) => (Material::Ed25519(octets("x")?), Algorithm::EdDsa),
            _ => return None,
        };
        let is_for_another =
            key["alg"].as_str().is_some_and(|name| Algorithm::parse(name) != Some(algorithm));
        (!is_for_another).then(|| Self { id: key["kid"].as_str().map(str::to_owned), material })
    }

    fn algorithm(&self) -> Algorithm {
        match self.material {
            Material::Rsa { .. } => Algorithm::Rs256,
            Material::P256(_) => Algorithm::Es256,
            Material::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    fn verifies(&self, token: &Token) -> bool {
        let (message, signature) = (token.signed.as_bytes(), token.signature.as_slice());
        match &self.material {
            Material::Rsa { n, e } => RsaPublicKeyComponents { n, e }
                .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
                .is_ok(),
            Material::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
            Material::Ed25519(point) => {
                UnparsedPublicKey::new(&ED25519, point).verify(message, signature).is_ok()
            }
        }
    }
}

/// A token that was read and not yet believed.
#[derive(Debug)]
pub(super) struct Token {
    algorithm: Algorithm,
    key: Option<String>,
    /// What the signature is over.
    signed: String,
    signature: Vec<u8>,
    claims: Claims,
}

impl Token {
    /// Reads `header.claims.signature`.
    pub fn read(text: &str) -> Result<Self, Refused> {
        let refused = |why: &str| Refused::guess(format!("the token is no signed JWT: {why}"));
        let mut parts = text.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(refused("it has not three parts"));
        };
        let signed = format!("{header}.{claims}");
        let object = |part: &str| {
            let octets = URL_SAFE_NO_PAD.decode(part).ok()?;
            serde_json::from_slice::<Map<String, Value>>(&octets).ok()
        };
        let (Some(header), Some(claims)) = (object(header), object(claims)) else {
            return Err(refused("a part is no JSON object"));
        };
        // Extensions that must be understood (RFC 7515 §4.1.11): none is.
        if header.contains_key("crit") {
            return Err(refused("it has extensions"));
        }
        let name = header.get("alg").and_then(Value::as_str).unwrap_or_default();
        let Some(algorithm) = Algorithm::parse(name) else {
            let shown: String = name.chars().filter(char::is_ascii_alphanumeric).take(20).collect();
            return Err(refused(&format!("it is signed by {shown:?}; RS256, ES256 and EdDSA are taken")));
        };
        let signature =
            URL_SAFE_NO_PAD.decode(signature).map_err(|_| refused("the signature is not base64url"))?;
        let key = header.get("kid").and_then(Value::as_str).map(str::to_owned);
        Ok(Self { algorithm, key, signed, signature, claims: Claims(claims) })
    }

    /// Whether one of the keys may have signed it. False where the provider has a new one, or never had it.
    pub fn has_key_in(&self, keys: &[Key]) -> bool {
        self.candidates(keys).next().is_some()
    }

    /// What it says, if one of the keys has signed it.
    pub fn verified(self, keys: &[Key]) -> Result<Claims, Refused> {
        if !self.has_key_in(keys) {
            // It had it when the token was signed: the key was taken back.
            return Err(Refused::mistake("the provider has no such key"));
        }
        let is_signed = self.candidates(keys).any(|key| key.verifies(&self));
        if is_signed { Ok(self.claims) } else { Err(Refused::guess("the signature is wrong")) }
    }

    fn candidates<'k>(&self, keys: &'k [Key]) -> impl Iterator<Item = &'k Key> {
        let is_it =
            |key: &&Key| key.algorithm() == self.algorithm && (self.key.is_none() || key.id == self.key);
        keys.iter().filter(is_it)
    }
}

/// What the provider says about a login.
#[derive(Debug, Clone)]
pub(super) struct Claims(pub Map<String, Value>);

impl Claims {
    /// The login, if the claims are for this server and hold now.
    pub fn login(&self, config: &OAuth, now: SystemTime) -> Result<String, Refused> {
        let is_asked = config.introspection_url.is_some();
        let issuer = self.text("iss");
        // An answer about a token comes from the provider itself, and may leave its name out (RFC 7662 §2.2).
        if issuer != Some(config.issuer.as_str()) && !(is_asked && issuer.is_none()) {
            return Err(Refused::guess("the token is of another issuer"));
        }
        if let Some(audience) = &config.audience
            && !self.is_for(audience)
        {
            return Err(Refused::guess("the token is for another audience"));
        }
        self.check_time(config, now, is_asked)?;
        if let Some(scope) = &config.scope
            && !self.scopes().any(|held| held == scope)
        {
            return Err(Refused::mistake(format!("the token has not the scope {scope}")));
        }
        if config.claim == "email" && self.0.get("email_verified").is_some_and(|verified| !is_true(verified))
        {
            return Err(Refused::mistake("the provider has not verified the address"));
        }
        let name = self.text(&config.claim).filter(|name| !name.trim().is_empty());
        name.map(str::to_owned)
            .ok_or_else(|| Refused::mistake(format!("the token has no claim `{}`", config.claim)))
    }

    fn check_time(&self, config: &OAuth, now: SystemTime, is_asked: bool) -> Result<(), Refused> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64();
        let leeway = config.leeway.as_secs_f64();
        match self.0.get("exp").map(Value::as_f64) {
            Some(Some(end)) if now < end + leeway => {}
            Some(Some(_)) => return Err(Refused::mistake("the token has expired")),
            None if is_asked => {}
            _ => return Err(Refused::guess("the token says no time at which it ends")),
        }
        match self.0.get("nbf").map(Value::as_f64) {
            None => Ok(()),
            Some(Some(begin)) if begin <= now + leeway => Ok(()),
            Some(Some(_)) => Err(Refused::mistake("the token is not valid yet")),
            Some(None) => Err(Refused::guess("the token says no time at which it begins")),
        }
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// `aud` is a text or a list (RFC 7519 §4.1.3).
    fn is_for(&self, audience: &str) -> bool {
        match self.0.get("aud") {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(list)) => list.iter().any(|one| one.as_str() == Some(audience)),
            _ => false,
        }
    }

    /// Words between blanks (RFC 8693 §4.2), or a list, as some providers write `scp`.
    fn scopes(&self) -> impl Iterator<Item = &str> {
        let words =
            ["scope", "scp"].into_iter().filter_map(|name| self.text(name)).flat_map(str::split_whitespace);
        let lists = ["scope", "scp"].into_iter().filter_map(|name| self.0.get(name)?.as_array());
        words.chain(lists.flatten().filter_map(Value::as_str))
    }
}

fn is_true(value: &Value) -> bool {
    value == &Value::Bool(true) || value.as_str() == Some("true")
}
