//! Which password hashes can be checked, and with how much work. Ours are argon2id; the others come along from older servers.

/// KiB of memory that checking one password may take; a larger number is a slip, and would let logins exhaust the machine.
const MOST_MEMORY: u32 = 1024 * 1024;
const MOST_PASSES: u32 = 100;
/// Each step doubles the work: 12 is usual and takes a quarter of a second, this some two seconds.
const MOST_BCRYPT_COST: u32 = 15;
/// 5000 where nothing is said; these take about a second.
const MOST_SHA_CRYPT_ROUNDS: u32 = 1_000_000;
/// Octets of memory for yescrypt; 16 MiB are usual.
const MOST_YESCRYPT_MEMORY: u64 = 256 * 1024 * 1024;
const LONGEST_YESCRYPT_SALT: usize = 86;

/// What a hash was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `$argon2id$v=19$m=...,t=...,p=...$salt$hash` (RFC 9106).
    Argon2id,
    /// `$2a$`, `$2b$` and `$2y$`, as `htpasswd -B` and many web applications write it.
    Bcrypt,
    /// `$5$` and `$6$`, as `openssl passwd -6`, Dovecot and older systems write it.
    ShaCrypt,
    /// `$y$`, as Debian and Fedora write it into `/etc/shadow`.
    Yescrypt,
}

/// Why a hash cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// It is none, or of a kind that is not known.
    #[error("is no password hash that is known here")]
    Unknown,
    /// Checking a password would keep the machine busy for too long, or there is too little work in it to be a hash.
    #[error("is a hash with parameters that cannot be worked with")]
    Work,
}

/// What is taken, for whoever wrote something else.
pub(crate) const HELP: &str = "posternctl writes argon2id; bcrypt ($2b$), SHA-crypt ($5$, $6$) and yescrypt ($y$) are taken from other systems";

/// Reads as much of a hash as says how it is to be checked.
///
/// # Errors
/// See [`HashError`].
pub fn format(text: &str) -> Result<Format, HashError> {
    let parts: Vec<&str> = text.split('$').collect();
    match parts[..] {
        ["", "argon2id", "v=19", work, salt, hash] => argon2id(work, salt, hash),
        ["", "2a" | "2b" | "2y", cost, rest] => bcrypt(cost, rest),
        ["", kind @ ("5" | "6"), salt, hash] => sha_crypt(kind, "5000", salt, hash),
        ["", kind @ ("5" | "6"), rounds, salt, hash] => {
            sha_crypt(kind, rounds.strip_prefix("rounds=").ok_or(HashError::Unknown)?, salt, hash)
        }
        ["", "y", work, salt, hash] => yescrypt(work, salt, hash),
        _ => Err(HashError::Unknown),
    }
}

fn argon2id(work: &str, salt: &str, hash: &str) -> Result<Format, HashError> {
    let base64 =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'));
    let params: Vec<&str> = work.split(',').collect();
    let [memory, passes, lanes] = params[..] else { return Err(HashError::Unknown) };
    let number = |text: &str, key: &str| text.strip_prefix(key).and_then(|digits| digits.parse::<u32>().ok());
    let (Some(memory), Some(passes), Some(lanes)) =
        (number(memory, "m="), number(passes, "t="), number(lanes, "p="))
    else {
        return Err(HashError::Unknown);
    };
    if !base64(salt) || salt.len() < 11 || !base64(hash) || hash.len() < 16 {
        return Err(HashError::Unknown);
    }
    // RFC 9106 §3.1: at least 8 KiB for each lane.
    let workable =
        lanes >= 1 && memory / 8 >= lanes && memory <= MOST_MEMORY && (1..=MOST_PASSES).contains(&passes);
    workable.then_some(Format::Argon2id).ok_or(HashError::Work)
}

fn bcrypt(cost: &str, rest: &str) -> Result<Format, HashError> {
    // 22 characters of salt and 31 of hash.
    let cost = cost.parse::<u32>().ok().filter(|_| cost.len() == 2).ok_or(HashError::Unknown)?;
    if rest.len() != 53 || !rest.bytes().all(is_crypt64) {
        return Err(HashError::Unknown);
    }
    (4..=MOST_BCRYPT_COST).contains(&cost).then_some(Format::Bcrypt).ok_or(HashError::Work)
}

fn sha_crypt(kind: &str, rounds: &str, salt: &str, hash: &str) -> Result<Format, HashError> {
    let length = if kind == "5" { 43 } else { 86 };
    let is_sound =
        salt.len() <= 16 && hash.len() == length && salt.bytes().chain(hash.bytes()).all(is_crypt64);
    let rounds = rounds.parse::<u32>().ok().filter(|_| is_sound).ok_or(HashError::Unknown)?;
    (1000..=MOST_SHA_CRYPT_ROUNDS).contains(&rounds).then_some(Format::ShaCrypt).ok_or(HashError::Work)
}

/// The parameters are three characters, as `crypt_gensalt` writes them: `j` for the usual mode, the logarithm of the number of
/// blocks, the size of a block.
fn yescrypt(work: &str, salt: &str, hash: &str) -> Result<Format, HashError> {
    let is_sound = salt.len() <= LONGEST_YESCRYPT_SALT
        && hash.len() == 43
        && salt.bytes().chain(hash.bytes()).all(is_crypt64);
    let [b'j', blocks, size] = work.as_bytes() else { return Err(HashError::Unknown) };
    let (Some(blocks), Some(size), true) = (small_number(*blocks), small_number(*size), is_sound) else {
        return Err(HashError::Unknown);
    };
    let memory = 1_u64.checked_shl(blocks).map(|blocks| blocks.saturating_mul(128 * u64::from(size)));
    // Smaller ones are not defined for this mode.
    let workable = blocks >= 2 && size >= 1 && memory.is_some_and(|memory| memory <= MOST_YESCRYPT_MEMORY);
    workable.then_some(Format::Yescrypt).ok_or(HashError::Work)
}

/// The alphabet of crypt(3): `./0-9A-Za-z`.
fn is_crypt64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/')
}

/// A number from 1 in one character; larger ones would have more.
fn small_number(byte: u8) -> Option<u32> {
    const ALPHABET: &[u8; 48] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghij";
    let at = ALPHABET.iter().position(|known| *known == byte)?;
    Some(u32::try_from(at).ok()? + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BCRYPT: &str = "$2y$05$c2FsdHNhbHRzYWx0c2FsdO7DAWqlFvGwqBzz4bm8dSqKpyNtCxd4W";

    #[test]
    fn hashes_of_other_systems_are_known() {
        let sha =
            |kind: &str, work: &str, length: usize| format!("${kind}${work}salt${}", "a".repeat(length));
        let yes = |work: &str| format!("$y${work}$F5Jx5fExrKuPp53xLKQ..1${}", "a".repeat(43));
        for (text, expected) in [
            (BCRYPT.to_owned(), Ok(Format::Bcrypt)),
            (BCRYPT.replace("2y", "2a"), Ok(Format::Bcrypt)),
            (BCRYPT.replace("2y", "2x"), Err(HashError::Unknown)),
            (BCRYPT.replace("$05$", "$16$"), Err(HashError::Work)),
            (BCRYPT.replace("$05$", "$03$"), Err(HashError::Work)),
            (BCRYPT.replace("$05$", "$5$"), Err(HashError::Unknown)),
            (BCRYPT[..59].to_owned(), Err(HashError::Unknown)),
            (sha("5", "", 43), Ok(Format::ShaCrypt)),
            (sha("6", "", 86), Ok(Format::ShaCrypt)),
            (sha("6", "rounds=656000$", 86), Ok(Format::ShaCrypt)),
            (sha("6", "rounds=1000001$", 86), Err(HashError::Work)),
            (sha("6", "rounds=999$", 86), Err(HashError::Work)),
            (sha("6", "round=5000$", 86), Err(HashError::Unknown)),
            (sha("6", "", 43), Err(HashError::Unknown)),
            (sha("1", "", 43), Err(HashError::Unknown)),
            (yes("j9T"), Ok(Format::Yescrypt)),
            (yes("jDT"), Ok(Format::Yescrypt)),
            (yes("jET"), Err(HashError::Work)),
            (yes("jjj"), Err(HashError::Work)),
            (yes("j.5"), Err(HashError::Work)),
            (yes("j9T.."), Err(HashError::Unknown)),
            (yes("j9\u{e4}"), Err(HashError::Unknown)),
            ("{PLAIN}x".to_owned(), Err(HashError::Unknown)),
            (String::new(), Err(HashError::Unknown)),
        ] {
            assert_eq!(format(&text), expected, "{text}");
        }
    }
}
