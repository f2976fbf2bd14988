//! Replies of the mail systems in use, by their words: what each means and who must change what.
//!
//! Servers say "550 5.7.1" for forty different things; their words tell them apart. A pattern is a piece of the reply in
//! lower case with every white space as one blank; `*` stands for anything, `#` for one digit. The entry whose pattern has
//! the most letters in the reply wins, so a reply of Gmail is never taken for the general case, wherever either stands in
//! the tables. A vendor's own codes (`5.7.606` to `5.7.649`) count less than any words.

use postern_smtp::EnhancedStatus;

use super::{Again, Side, reply};

mod gateways;
mod general;
mod microsoft;
mod providers;
mod servers;

/// What is known of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Its stable name.
    pub id: &'static str,
    /// Whose words they are.
    pub system: &'static str,
    /// The words: any of these patterns.
    pub patterns: &'static [&'static str],
    /// A vendor's own codes, from and to: without the words they are enough.
    pub codes: &'static [(EnhancedStatus, EnhancedStatus)],
    /// Registered codes that the vendor uses for this; others use them for other things, so the words must be there.
    pub shared_codes: &'static [EnhancedStatus],
    /// What it means.
    pub meaning: &'static str,
    /// Whose move it is.
    pub side: Side,
    /// What they must change. In this and in the checks stand `{sender}` and `{recipient}` for the domains, `{client}` for
    /// the refused address, `{reversed}` for it as DNS lists are asked, `{host}` for the server that refused.
    pub change: &'static str,
    /// Commands that show whether it is so.
    pub checks: &'static [&'static str],
    /// Whether sending it again helps.
    pub again: Again,
}

impl Known {
    /// [`Known::checks`], and where DNS of the sender's domain is in question the one that looks at all of it.
    pub fn all_checks(&self) -> impl Iterator<Item = &'static str> {
        let is_about_domain = self.checks.iter().any(|check| [SPF, DKIM, DMARC].contains(check));
        self.checks.iter().copied().chain(is_about_domain.then_some(OWN_DOMAIN))
    }

    const fn with_codes(mut self, codes: &'static [(EnhancedStatus, EnhancedStatus)]) -> Self {
        self.codes = codes;
        self
    }

    const fn with_shared_codes(mut self, codes: &'static [EnhancedStatus]) -> Self {
        self.shared_codes = codes;
        self
    }
}

/// Who answers for it, and what they do.
struct Remedy(Side, &'static str, &'static [&'static str], Again);

const fn known(
    id: &'static str,
    system: &'static str,
    patterns: &'static [&'static str],
    meaning: &'static str,
    remedy: Remedy,
) -> Known {
    let Remedy(side, change, checks, again) = remedy;
    Known { id, system, patterns, codes: &[], shared_codes: &[], meaning, side, change, checks, again }
}

/// One vendor code.
const fn one(class: u8, subject: u16, detail: u16) -> (EnhancedStatus, EnhancedStatus) {
    span(class, subject, detail, detail)
}

/// A registered code that a vendor uses in its own way.
const fn shared(class: u8, subject: u16, detail: u16) -> EnhancedStatus {
    EnhancedStatus::new(class, subject, detail)
}

/// Vendor codes in a row.
const fn span(class: u8, subject: u16, first: u16, last: u16) -> (EnhancedStatus, EnhancedStatus) {
    (EnhancedStatus::new(class, subject, first), EnhancedStatus::new(class, subject, last))
}

/// All of what a domain of ours publishes about its mail, in one.
const OWN_DOMAIN: &str = "posternctl domain verify {sender}";
const SPF: &str = "dig +short TXT {sender}";
const DKIM: &str = "dig +short TXT SELECTOR._domainkey.{sender}";
const DMARC: &str = "dig +short TXT _dmarc.{sender}";
const SENDER_MX: &str = "dig +short MX {sender}";
const PTR: &str = "dig +short -x {client}";
const RECIPIENT_MX: &str = "dig +short MX {recipient}";
const STARTTLS: &str = "openssl s_client -starttls smtp -brief -connect {host}:25 </dev/null";
const WHO_SENDS: &str = "posternctl queue count --all --group-by sender";

/// What a vendor code counts: less than the shortest pattern.
const CODE_WEIGHT: usize = 5;

/// Every entry.
pub fn all() -> impl Iterator<Item = &'static Known> {
    [providers::KNOWN, microsoft::KNOWN, servers::KNOWN, gateways::KNOWN, general::KNOWN]
        .into_iter()
        .flatten()
}

/// The most specific entry for a reply in lower case, with its codes in front and its white space folded.
pub fn find(text: &str) -> Option<&'static Known> {
    let mut best: Option<(usize, &Known)> = None;
    for (weight, known) in matches(text) {
        if best.is_none_or(|(highest, _)| weight > highest) {
            best = Some((weight, known));
        }
    }
    best.map(|(_, known)| known)
}

/// The entries whose vendor uses this code for something of its own.
pub fn with_code(status: EnhancedStatus) -> impl Iterator<Item = &'static Known> {
    all().filter(move |known| has_code(known, status) || known.shared_codes.contains(&status))
}

/// Every entry that matches, with its weight.
fn matches(text: &str) -> impl Iterator<Item = (usize, &'static Known)> {
    let statuses: Vec<EnhancedStatus> = reply::statuses(text).take(8).collect();
    all().filter_map(move |known| {
        let by_words = known.patterns.iter().filter_map(|pattern| weight(pattern, text)).max();
        let by_code = statuses.iter().any(|status| has_code(known, *status)).then_some(CODE_WEIGHT);
        Some((by_words.max(by_code)?, known))
    })
}

fn has_code(known: &Known, status: EnhancedStatus) -> bool {
    known.codes.iter().any(|(first, last)| (*first..=*last).contains(&status))
}

/// How many letters of the text a pattern names; `None` if it does not match.
fn weight(pattern: &str, text: &str) -> Option<usize> {
    let mut rest = text;
    for piece in pattern.split('*') {
        rest = &rest[end_of_piece(piece, rest)?..];
    }
    Some(pattern.bytes().filter(|octet| *octet != b'*').count())
}

/// Where the first occurrence of a piece ends.
fn end_of_piece(piece: &str, text: &str) -> Option<usize> {
    if !piece.contains('#') {
        return text.find(piece).map(|at| at + piece.len());
    }
    let fits = |window: &[u8]| {
        let mut pairs = window.iter().zip(piece.bytes());
        pairs.all(|(octet, wanted)| if wanted == b'#' { octet.is_ascii_digit() } else { *octet == wanted })
    };
    // Only ASCII fits a piece with digits in it, so the end is between characters.
    text.as_bytes().windows(piece.len()).position(fits).map(|at| at + piece.len())
}

#[cfg(test)]
mod tests;
