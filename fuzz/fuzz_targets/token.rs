//! Tokens of an identity provider, and its sets of keys. The first octet says what the parts are that 0xFE stands between: a token
//! as it is, or its header, claims and signature, which are encoded here; with the provider's keys, or a set in front of them.
//! By the keys of the provider nothing is good but the two tokens that it has signed and that hold.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use postern_config::Config;
use postern_config::oauth::OAuth;
use postern_fuzz::provider;
use postern_smtp_inbound::fuzzing::login_of_token;

const ENCODED: u8 = 1;
const OTHER_KEYS: u8 = 2;
/// The parts stand in the place of those of the good token, as far as they are there and not empty.
const CHANGED: u8 = 4;

static PROVIDER: LazyLock<OAuth> = LazyLock::new(|| {
    let text = format!("hostname = \"mail.proseware.test\"\n{}", provider::table());
    let config: Config = toml::from_str(&text).expect("a configuration");
    *config.auth.oauth.expect("a provider")
});

fuzz_target!(|octets: &[u8]| {
    let Some((choice, rest)) = octets.split_first() else { return };
    let mut parts: Vec<&[u8]> = rest.split(|octet| *octet == 0xFE).collect();
    let keys = if choice & OTHER_KEYS != 0 { parts.remove(0) } else { provider::KEYS.as_bytes() };
    let mut texts: Vec<String> = match choice & ENCODED != 0 {
        true => parts.iter().map(|part| URL_SAFE_NO_PAD.encode(part)).collect(),
        false => parts.iter().map(|part| String::from_utf8_lossy(part).into_owned()).collect(),
    };
    if choice & CHANGED != 0 {
        for (at, valid) in provider::VALID.split('.').enumerate() {
            match texts.get_mut(at) {
                Some(text) if text.is_empty() => valid.clone_into(text),
                Some(_) => {}
                None => texts.push(valid.to_owned()),
            }
        }
    }
    let token = texts.join(".");
    let login = login_of_token(&PROVIDER, keys, &token, now());
    if choice & OTHER_KEYS == 0 {
        let holds = [(provider::VALID, "alice@proseware.test"), (provider::LOCKED, "bob@proseware.test")];
        let expected = holds.iter().find(|(good, _)| token == *good).map(|(_, login)| *login);
        assert_eq!(login.as_deref(), expected, "{token}");
    }
});

/// Sat, 21 Nov 2026 18:05:25 UTC.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_284_325)
}
