//! Passwords: read without echo, checked, or made.

use std::fs::File;
use std::io::{self, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::failure::Failure;

/// Shorter ones can be guessed.
const MIN_LENGTH: usize = 10;
/// As much as SASL PLAIN carries with room to spare.
const MAX_LENGTH: usize = 512;
/// Without characters that look alike; 32, so that five random bits choose one.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
const GROUPS: usize = 4;
const GROUP_LENGTH: usize = 5;

/// A random password of 100 bits that can be read out: `h3kqz-8fwmd-...`.
pub fn generate() -> String {
    let character = || char::from(ALPHABET[usize::from(rand::random::<u8>() & 31)]);
    let group = || (0..GROUP_LENGTH).map(|_| character()).collect::<String>();
    (0..GROUPS).map(|_| group()).collect::<Vec<_>>().join("-")
}

/// Words that passwords begin or end with which are guessed first; digits and signs around them do not help.
const COMMON: [&str; 48] = [
    "1q2w3e4r",
    "1qaz2wsx",
    "abc",
    "abcdef",
    "abcdefghij",
    "admin",
    "administrator",
    "asdfghjkl",
    "autumn",
    "baseball",
    "changeit",
    "changeme",
    "computer",
    "default",
    "dragon",
    "email",
    "football",
    "hello",
    "iloveyou",
    "internet",
    "letmein",
    "login",
    "mail",
    "mailserver",
    "master",
    "monkey",
    "p@ssw0rd",
    "passw0rd",
    "password",
    "password1",
    "postmaster",
    "princess",
    "q1w2e3r4",
    "qwerty",
    "qwertyuiop",
    "root",
    "secret",
    "server",
    "spring",
    "summer",
    "sunshine",
    "superman",
    "test",
    "testing",
    "trustno",
    "welcome",
    "winter",
    "zxcvbnm",
];
/// A shorter name is in many a good password.
const MIN_NAME: usize = 4;

/// Refuses passwords that no mail program could send.
///
/// # Errors
/// The text says why.
pub fn check_usable(password: &str) -> Result<(), String> {
    if password.is_empty() {
        return Err("the password is empty".to_owned());
    }
    if password.len() > MAX_LENGTH {
        return Err(format!("the password is longer than {MAX_LENGTH} octets"));
    }
    if password.chars().any(char::is_control) {
        return Err("the password holds control characters, which mail programs cannot send".to_owned());
    }
    Ok(())
}

/// Refuses passwords that are guessed first.
///
/// # Errors
/// The text says why.
pub fn check(password: &str, name: &str) -> Result<(), String> {
    check_usable(password)?;
    let folded = password.to_lowercase();
    let name = name.to_lowercase();
    let local = name.split('@').next().unwrap_or_default();
    if folded == name || folded == local {
        return Err("the password is the name of the account".to_owned());
    }
    let length = password.chars().count();
    if length < MIN_LENGTH {
        return Err(format!("the password has {length} characters; at least {MIN_LENGTH} are needed"));
    }
    if local.chars().count() >= MIN_NAME && folded.contains(local) {
        return Err("the password contains the name of the account".to_owned());
    }
    let word = folded.trim_matches(|c: char| !c.is_alphabetic());
    if COMMON.contains(&folded.as_str())
        || COMMON.contains(&word)
        || word.is_empty() && length < 2 * MIN_LENGTH
    {
        return Err("the password is a common word or number, and guessed first".to_owned());
    }
    let distinct: std::collections::HashSet<char> = folded.chars().collect();
    if distinct.len() < MIN_LENGTH / 2 {
        return Err("the password repeats a few characters".to_owned());
    }
    Ok(())
}

/// The first line of standard input.
///
/// # Errors
/// [`Failure::Usage`] if there is none.
pub fn from_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    // One octet too many is enough for `check` to refuse it.
    io::stdin().lock().take(MAX_LENGTH as u64 + 2).read_to_string(&mut text)?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        Some(_) | None => Err(Failure::Usage("no password on standard input".to_owned())),
    }
}

/// The terminal of this process, if it has one.
pub struct Terminal {
    device: File,
}

impl Terminal {
    /// Opens it; `None` in scripts.
    pub fn open() -> Option<Self> {
        let device = File::options().read(true).write(true).open("/dev/tty").ok()?;
        Some(Self { device })
    }

    /// Asks for a new password twice. An empty answer is `None`: the person wants one made.
    ///
    /// # Errors
    /// [`Failure::Usage`] when the two differ.
    pub fn ask_new(&mut self) -> Result<Option<String>, Failure> {
        let first = self.ask("Password (empty: one is made): ")?;
        if first.is_empty() {
            return Ok(None);
        }
        if self.ask("The same again: ")? != first {
            return Err(Failure::Usage("the two passwords differ; nothing was changed".to_owned()));
        }
        Ok(Some(first))
    }

    fn ask(&mut self, prompt: &str) -> io::Result<String> {
        self.device.write_all(prompt.as_bytes())?;
        let silent = Silent::begin(self.device.try_clone()?)?;
        let line = read_line(&mut &self.device);
        drop(silent);
        self.device.write_all(b"\n")?;
        line
    }
}

/// A terminal that shows nothing and hands over every key, also Ctrl-C: a process that died here would leave the
/// terminal mute.
struct Silent {
    device: File,
    before: Termios,
}

impl Silent {
    fn begin(device: File) -> io::Result<Self> {
        let before = tcgetattr(&device)?;
        let mut silent = before.clone();
        silent.local_modes &= !(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        tcsetattr(&device, OptionalActions::Flush, &silent)?;
        Ok(Self { device, before })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // If the terminal is gone, nobody misses its echo.
        let _ = tcsetattr(&self.device, OptionalActions::Flush, &self.before);
    }
}

/// A line typed key by key.
fn read_line(keys: &mut impl Read) -> io::Result<String> {
    const INTERRUPT: u8 = 3;
    const END: u8 = 4;
    const KILL_LINE: u8 = 21;
    let mut line = Vec::new();
    let mut key = [0];
    loop {
        let read = keys.read(&mut key)?;
        match key[0] {
            _ if read == 0 => break,
            INTERRUPT => {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted; nothing was changed"));
            }
            b'\r' | b'\n' | END => break,
            8 | 127 => remove_last_character(&mut line),
            KILL_LINE => line.clear(),
            key if line.len() <= MAX_LENGTH => line.push(key),
            _ => {}
        }
    }
    String::from_utf8(line)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the password is no UTF-8"))
}

fn remove_last_character(line: &mut Vec<u8>) {
    let is_continuation = |byte: u8| byte & 0b1100_0000 == 0b1000_0000;
    while line.pop().is_some_and(is_continuation) {}
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn weak_passwords_are_refused_with_the_reason() {
        let reason = |password: &str| check(password, "Alice.Smith@proseware.test").unwrap_err();
        assert!(reason("short").contains("5 characters"));
        assert!(reason("alice.SMITH").contains("name"));
        assert!(reason("alice.smith@proseware.test").contains("name"));
        assert!(reason("long enough\u{0}but").contains("control"));
        assert!(reason(&"x".repeat(600)).contains("longer"));
        assert!(reason("xx-alice.smith-xx").contains("contains the name"));
        for common in ["Password123!", "!!summer2026", "1234567890", "qwertyuiop", "2026-11-21"] {
            assert!(reason(common).contains("common"), "{common}");
        }
        assert!(reason("abababababab").contains("repeats"));
        assert!(check_usable("").is_err() && check_usable("short").is_ok());
        assert_eq!(check("long enough", "alice"), Ok(()));
        // Ten characters, not ten octets.
        assert!(check("äöüäöü", "alice").is_err());
    }

    #[test]
    fn made_passwords_are_strong_and_differ() {
        let password = generate();
        assert_eq!(password.len(), GROUPS * GROUP_LENGTH + GROUPS - 1);
        assert_eq!(check(&password, "alice"), Ok(()));
        assert_ne!(password, generate());
    }

    #[test]
    fn typed_lines_know_backspace_and_ctrl_c() {
        let typed = |keys: &[u8]| read_line(&mut &keys[..]);
        assert_eq!(typed("pass\u{7f}\u{7f}sä\u{7f}ss\rmore".as_bytes()).unwrap(), "passs");
        assert_eq!(typed(b"wrong\x15right\n").unwrap(), "right");
        assert_eq!(typed(b"abc").unwrap(), "abc");
        assert_eq!(typed(b"abc\x03").unwrap_err().kind(), io::ErrorKind::Interrupted);
    }
}
