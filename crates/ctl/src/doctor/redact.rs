//! Takes secrets out of what leaves this server.
//!
//! Two nets: what is known to be secret here (passwords of smarthosts, private keys) is removed wherever it stands, also in
//! base64; and what looks like a secret is removed whoever's it is: hashes, private keys, what follows AUTH, a password's name
//! or an Authorization field, logins in URLs, tokens of the page of refusals.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem;
use postern_config::Config;
use postern_policy::record::Token;
use toml::{Table, Value};

/// What stands where a secret was.
pub(super) const REMOVED: &str = "(removed)";
/// Shorter secrets stand in other words too, and would take those along.
const SHORTEST: usize = 4;
/// Octets of a line of a key in base64: what is shorter is the rest of one.
const KEY_LINE: usize = 32;
/// Names of keys and fields whose values are secret, in lower case; also as a part of a name.
const NAMES: [&str; 8] =
    ["password", "passwd", "passphrase", "secret", "token", "credential", "apikey", "api_key"];
/// How hashes of passwords begin (crypt(3), RFC 2307).
const HASHES: [&str; 14] = [
    "$argon2", "$2a$", "$2b$", "$2y$", "$1$", "$5$", "$6$", "$7$", "$y$", "$pbkdf2", "{ssha", "{sha",
    "{smd5", "{crypt}",
];
/// Fields and words behind which the rest of the line is secret, in lower case.
const INTRODUCTIONS: [&str; 8] = [
    "authorization:",
    "cookie:",
    "bearer ",
    "auth plain ",
    "auth login ",
    "auth cram-md5 ",
    "auth xoauth2 ",
    "auth oauthbearer ",
];

/// Knows what is secret here.
#[derive(Debug, Default)]
pub(super) struct Redactor {
    known: Vec<Vec<u8>>,
}

impl Redactor {
    /// With the secrets that the configuration names, as far as this user may read them: what it may not read, it cannot
    /// give away.
    pub(super) fn of(config: &Config) -> Self {
        let mut redactor = Self::default();
        for route in &config.routes {
            let Some(password) = route.password_file.as_deref().and_then(first_line) else { continue };
            if let Some(user) = &route.username {
                redactor.know(&STANDARD.encode(format!("\0{user}\0{password}")));
            }
            redactor.know(&STANDARD.encode(&password));
            redactor.know(&password);
        }
        let backends = config.auth.backend.iter().flat_map(|backend| backend.password_files());
        let oauth = config.auth.oauth.iter().filter_map(|oauth| oauth.client_secret_file.as_deref());
        for secret in backends.chain(oauth).filter_map(first_line) {
            redactor.know(&STANDARD.encode(&secret));
            redactor.know(&secret);
        }
        let tls = config.tls.iter().map(|tls| tls.key.as_path());
        let dkim = config.domains.iter().flat_map(|domain| &domain.dkim).map(|key| key.key.as_path());
        for key in tls.chain(dkim).filter_map(|path| fs::read_to_string(path).ok()) {
            let lines = key.lines().filter(|line| line.len() >= KEY_LINE && !line.starts_with("--"));
            lines.for_each(|line| redactor.know(line));
        }
        for account in &config.accounts {
            redactor.know(&account.password);
            account.app_passwords.iter().for_each(|app| redactor.know(&app.password));
        }
        // A secret that stands within another must not tear it apart.
        redactor.known.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        redactor
    }

    fn know(&mut self, secret: &str) {
        if secret.len() >= SHORTEST {
            self.known.push(secret.as_bytes().to_vec());
        }
    }

    /// A text of whatever kind: a bounce, a log, a configuration. What is no secret stays as it is, to the octet.
    pub(super) fn octets(&self, text: &[u8]) -> Vec<u8> {
        let mut text = text.to_vec();
        for secret in &self.known {
            text = replaced(&text, secret);
        }
        let mut clean = Vec::with_capacity(text.len());
        let mut in_key = false;
        for line in text.split_inclusive(|octet| *octet == b'\n') {
            let begins = contains(line, b"-----BEGIN ") && contains(line, b"PRIVATE KEY-----");
            if in_key || begins {
                in_key = !contains(line, b"-----END ");
                if begins {
                    clean.extend_from_slice(b"(removed: a private key)\n");
                }
                continue;
            }
            clean.extend_from_slice(&of_line(line));
        }
        clean
    }

    /// The same for a file of the configuration: values are removed by the names of their keys, and comments altogether, where
    /// old secrets often stand.
    ///
    /// # Errors
    /// What is no TOML: it is left out rather than guessed at.
    pub(super) fn toml(&self, text: &str) -> Result<Vec<u8>, String> {
        let mut table: Table = text.parse().map_err(|_| "it is no TOML".to_owned())?;
        clean_table(&mut table);
        Ok(self.octets(table.to_string().as_bytes()))
    }

    /// The same for JSON of our own.
    pub(super) fn json(&self, value: &serde_json::Value) -> Vec<u8> {
        let mut value = value.clone();
        self.clean_json(&mut value);
        let mut text = serde_json::to_vec_pretty(&value).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// Text within JSON is cleaned by itself: what follows a secret on the same line is another value.
    fn clean_json(&self, value: &mut serde_json::Value) {
        match value {
            serde_json::Value::String(text) => {
                *text = String::from_utf8_lossy(&self.octets(text.as_bytes())).into_owned();
            }
            serde_json::Value::Array(list) => list.iter_mut().for_each(|item| self.clean_json(item)),
            serde_json::Value::Object(map) => {
                for (name, item) in map.iter_mut() {
                    match item {
                        serde_json::Value::String(text) if is_secret(name) => REMOVED.clone_into(text),
                        item => self.clean_json(item),
                    }
                }
            }
            _ => {}
        }
    }
}

fn first_line(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()?.lines().next().map(|line| line.trim().to_owned())
}

fn contains(text: &[u8], what: &[u8]) -> bool {
    memmem::find(text, what).is_some()
}

fn replaced(text: &[u8], secret: &[u8]) -> Vec<u8> {
    let mut clean = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memmem::find(rest, secret) {
        clean.extend_from_slice(&rest[..at]);
        clean.extend_from_slice(REMOVED.as_bytes());
        rest = &rest[at + secret.len()..];
    }
    clean.extend_from_slice(rest);
    clean
}

/// Whether the value of a key or field of this name is secret. What ends in `_file` is a path.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    !name.ends_with("_file") && NAMES.iter().any(|secret| name.contains(secret))
}

fn clean_table(table: &mut Table) {
    for (name, value) in table.iter_mut() {
        // Numbers and switches are settings: max_password_checks, with_tokens.
        let holds_text = matches!(value, Value::String(_) | Value::Array(_));
        if holds_text && is_secret(name) {
            *value = Value::String(REMOVED.to_owned());
        } else {
            clean_value(value);
        }
    }
}

fn clean_value(value: &mut Value) {
    match value {
        Value::Table(table) => clean_table(table),
        Value::Array(list) => list.iter_mut().for_each(clean_value),
        _ => {}
    }
}

/// A line whose end stays.
fn of_line(line: &[u8]) -> Vec<u8> {
    let end = line.iter().rposition(|octet| !matches!(octet, b'\r' | b'\n')).map_or(0, |at| at + 1);
    let (line, end) = line.split_at(end);
    let mut clean = without_words(&without_hashes(&without_rest(line)));
    clean.extend_from_slice(end);
    clean
}

/// Without what follows an introduction, or the name of a secret and `:` or `=`.
fn without_rest(line: &[u8]) -> Vec<u8> {
    let folded = line.to_ascii_lowercase();
    let behind_introduction =
        INTRODUCTIONS.iter().filter_map(|words| Some(memmem::find(&folded, words.as_bytes())? + words.len()));
    let behind_name = NAMES.iter().filter_map(|name| {
        let behind = memmem::find(&folded, name.as_bytes())? + name.len();
        let rest = &folded[behind..];
        let blanks = rest.iter().take_while(|octet| matches!(octet, b' ' | b'\t' | b'"' | b'\'')).count();
        matches!(rest.get(blanks), Some(b':' | b'=')).then_some(behind + blanks + 1)
    });
    let Some(behind) = behind_introduction.chain(behind_name).min() else { return line.to_vec() };
    if line[behind..].trim_ascii().is_empty() {
        return line.to_vec();
    }
    let blank: &[u8] = if line[..behind].ends_with(b" ") { b"" } else { b" " };
    [&line[..behind], blank, REMOVED.as_bytes()].concat()
}

/// Without hashes of passwords: they have no blanks, quotes or colons, and mostly commas.
fn without_hashes(line: &[u8]) -> Vec<u8> {
    let mut clean = Vec::with_capacity(line.len());
    let mut rest = line;
    loop {
        let folded = rest.to_ascii_lowercase();
        let Some(at) = HASHES.iter().filter_map(|hash| memmem::find(&folded, hash.as_bytes())).min() else {
            break;
        };
        let ends_hash = |octet: &u8| {
            octet.is_ascii_whitespace() || matches!(octet, b'"' | b'\'' | b':' | b';' | b'<' | b'>')
        };
        let length = rest[at..].iter().position(ends_hash).unwrap_or(rest.len() - at);
        clean.extend_from_slice(&rest[..at]);
        clean.extend_from_slice(REMOVED.as_bytes());
        rest = &rest[at + length..];
    }
    clean.extend_from_slice(rest);
    clean
}

/// Without logins in URLs and tokens.
fn without_words(line: &[u8]) -> Vec<u8> {
    let ends_word = |octet: &u8| {
        octet.is_ascii_whitespace() || matches!(octet, b'"' | b'\'' | b',' | b'<' | b'>' | b'(' | b')')
    };
    let mut clean = Vec::with_capacity(line.len());
    for part in line.split_inclusive(ends_word) {
        let length = part.len() - usize::from(part.last().is_some_and(ends_word));
        let (word, end) = part.split_at(length);
        clean.extend_from_slice(&without_secret(word));
        clean.extend_from_slice(end);
    }
    clean
}

fn without_secret(word: &[u8]) -> Vec<u8> {
    if let Some(behind) = memmem::find(word, b"://").map(|at| at + 3)
        && let Some(at) = word[behind..].iter().position(|octet| *octet == b'@')
        && word[behind..behind + at].contains(&b':')
    {
        return [&word[..behind], REMOVED.as_bytes(), &word[behind + at..]].concat();
    }
    let is_token = |piece: &[u8]| std::str::from_utf8(piece).is_ok_and(|text| text.parse::<Token>().is_ok());
    let mut clean = Vec::with_capacity(word.len());
    for part in word.split_inclusive(|octet| !octet.is_ascii_alphanumeric()) {
        let length =
            part.len() - usize::from(part.last().is_some_and(|octet| !octet.is_ascii_alphanumeric()));
        let (piece, end) = part.split_at(length);
        clean.extend_from_slice(if is_token(piece) { REMOVED.as_bytes() } else { piece });
        clean.extend_from_slice(end);
    }
    clean
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn clean(text: &str) -> String {
        String::from_utf8(Redactor::default().octets(text.as_bytes())).unwrap()
    }

    #[test]
    fn what_is_no_secret_stays_to_the_octet() {
        let text = "Subject: your password\r\n\r\nbob@adatum.test: 550 5.7.1 no\n\tno end";
        assert_eq!(clean(text), text);
        let octets = b"caf\xe9 \x00 \xff\r\n";
        assert_eq!(Redactor::default().octets(octets), octets);
    }

    #[test]
    fn what_looks_like_a_secret_is_removed() {
        for (text, expected) in [
            ("C: AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n", "C: AUTH PLAIN (removed)\r\n"),
            ("Authorization: Basic eA==", "Authorization: (removed)"),
            ("my Password = hunter2", "my Password = (removed)"),
            ("password: \"hunter2\" and more", "password: (removed)"),
            ("see smtp://user:hunter2@relay.test:587 now", "see smtp://(removed)@relay.test:587 now"),
            ("alice:$argon2id$v=19$m=64,t=1,p=1$abc$def:x", "alice:(removed):x"),
            ("{SSHA}abcdef", "(removed)"),
        ] {
            let found = clean(text);
            assert_eq!(found, expected);
            for secret in ["hunter2", "AGFsaWNl", "eA==", "argon2id", "abcdef"] {
                assert!(!found.contains(secret), "{found}");
            }
        }
    }

    #[test]
    fn a_private_key_is_removed_from_its_first_line_to_its_last() {
        let text = "before\n-----BEGIN PRIVATE KEY-----\nMC4CAQ\nabc\n-----END PRIVATE KEY-----\nafter\n";
        assert_eq!(clean(text), "before\n(removed: a private key)\nafter\n");
        let cut = "x\n-----BEGIN RSA PRIVATE KEY-----\nMC4CAQ\n";
        assert_eq!(clean(cut), "x\n(removed: a private key)\n");
        let line =
            "key = \"-----BEGIN PRIVATE KEY-----\\nMC4CAQ\\n-----END PRIVATE KEY-----\"\nhostname = 1\n";
        assert_eq!(clean(line), "(removed: a private key)\nhostname = 1\n");
    }

    #[test]
    fn a_configuration_loses_values_by_name_and_all_comments() {
        let text = "hostname = \"mail.proseware.test\" # old password hunter2\n[auth]\nmax_password_checks = 4\n\
                    [[route]]\npassword_file = \"keys/smarthost\"\nhosts = [\"smtp://u:hunter2@x.test\"]\n\
                    api_key = \"hunter2\"\n[[account]]\nname = \"alice\"\npassword = \"$argon2id$v=19$x\"\n\
                    app_passwords = [{ label = \"phone\", password = \"hunter2\" }]\n";
        let clean = String::from_utf8(Redactor::default().toml(text).unwrap()).unwrap();
        for kept in ["mail.proseware.test", "max_password_checks = 4", "keys/smarthost", "alice", "x.test"] {
            assert!(clean.contains(kept), "{kept}: {clean}");
        }
        for secret in ["hunter2", "argon2"] {
            assert!(!clean.contains(secret), "{secret}: {clean}");
        }
        assert!(Redactor::default().toml("password = hunter2").unwrap_err().contains("no TOML"));
    }

    #[test]
    fn known_secrets_are_removed_wherever_they_stand_and_in_base64() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        fs::write(&file, "correct horse\n").unwrap();
        let config: Config = toml::from_str(&format!(
            "hostname = \"mail.proseware.test\"\n[[route]]\nvia = \"smarthost\"\nhosts = [\"x.test\"]\n\
             username = \"postern\"\npassword_file = {:?}",
            file.display().to_string()
        ))
        .unwrap();
        let redactor = Redactor::of(&config);
        let plain = STANDARD.encode("\0postern\0correct horse");
        let text = format!("said correct horse, {plain}, {}", STANDARD.encode("correct horse"));
        let clean = String::from_utf8(redactor.octets(text.as_bytes())).unwrap();
        assert_eq!(clean, "said (removed), (removed), (removed)");
    }

    #[test]
    fn secrets_within_json_leave_it_whole() {
        let value = serde_json::json!({"reply": "password: hunter2", "password": "x", "token": "y", "attempts": 3, "other": "z"});
        let clean: serde_json::Value = serde_json::from_slice(&Redactor::default().json(&value)).unwrap();
        let expected = serde_json::json!({"reply": "password: (removed)", "password": REMOVED, "token": REMOVED, "attempts": 3, "other": "z"});
        assert_eq!(clean, expected);
    }
}
