//! Finding the reply of a server in what others wrote around it.

use std::net::IpAddr;

use postern_smtp::{Domain, EnhancedStatus};

use crate::record::Reference;

/// What is kept of a reply's text. Servers write a few hundred octets; Gmail's longest has about six hundred.
const MAX_TEXT: usize = 2048;

/// A name in the DNS (RFC 1035 §2.3.4).
const MAX_HOST: usize = 255;

/// A reply as far as it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reply {
    /// `550`.
    pub(super) code: Option<u16>,
    /// `5.7.1`.
    pub(super) status: Option<EnhancedStatus>,
    /// The words behind the codes, on one line.
    pub(super) text: String,
}

/// White space of any kind becomes one space, none at the ends.
pub(super) fn folded(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Reply {
    /// Looks for a reply in a text. If there is none, the whole of it is what was said.
    pub(super) fn find(text: &str) -> Self {
        let text = folded(text);
        let Some(start) = start_of_reply(&text) else {
            let words = cut(words_of_log(&text), MAX_TEXT).to_owned();
            return Self { code: None, status: marked_status(&text), text: words };
        };
        let mut reply = Self::default();
        let mut rest = text[start..].trim_start_matches(['#', '<', '(', '\'', '"']);
        if let Some(code) = leading_code(rest) {
            reply.code = Some(code);
            rest = rest[3..].trim_start_matches(['-', ' ', ':', ';', '#']);
        }
        if let Some((status, length)) = leading_status(rest) {
            reply.status = Some(status);
            rest = rest[length..].trim_start_matches([' ', ':', ';', '-', ')']);
        }
        let rest = &rest[..end_of_reply(rest)];
        reply.text = cut(&without_continuations(rest, reply.code, reply.status), MAX_TEXT).to_owned();
        reply.status = reply.status.or_else(|| marked_status(rest));
        reply
    }

    /// What patterns are compared with: the codes and the words in lower case.
    pub(super) fn subject(&self) -> String {
        let code = self.code.map(|code| format!("{code} ")).unwrap_or_default();
        let status = self.status.map(|status| format!("{status} ")).unwrap_or_default();
        format!("{code}{status}{}", self.text).to_lowercase()
    }
}

/// The text up to a limit, between characters.
pub(super) fn cut(text: &str, limit: usize) -> &str {
    match text.char_indices().map(|(at, _)| at).take_while(|at| *at <= limit).last() {
        Some(end) if text.len() > limit => &text[..end],
        _ => text,
    }
}

/// What a line of Postfix's log has in its brackets: `dsn=4.4.1, status=deferred (connect to ...)`.
fn words_of_log(text: &str) -> &str {
    let behind = text.split_once("status=").and_then(|(_, rest)| rest.split_once(" ("));
    behind.map_or(text, |(_, words)| words.strip_suffix(')').unwrap_or(words))
}

/// A code that stands apart: qmail's `(#5.1.1)` behind its words, Postfix's `dsn=5.1.1` in the log.
fn marked_status(text: &str) -> Option<EnhancedStatus> {
    let behind = ["(#", "dsn="].iter().find_map(|mark| text.split_once(mark));
    behind.and_then(|(_, rest)| leading_status(rest)).map(|(status, _)| status)
}

/// Where the codes begin. A reply code with an enhanced code or a hyphen behind it is surest; then a reply code behind
/// words that introduce one or at the very beginning; then an enhanced code alone.
fn start_of_reply(text: &str) -> Option<usize> {
    const INTRODUCTIONS: [&str; 9] =
        ["said:", "reason:", "returned", "<<<", "was:", "status:", "error:", "response:", ">:"];
    let mut introduced = None;
    let mut alone = None;
    let mut before = "";
    for (at, word) in words(text) {
        let bare = word.trim_start_matches(['#', '<', '(', '\'', '"']);
        let at = at + word.len() - bare.len();
        if leading_code(bare).is_some() {
            let behind = text[at + 3..].trim_start_matches(['-', ' ', ':', ';', '#']);
            // "550-Verification failed": the first of several lines.
            if leading_status(behind).is_some() || bare[3..].starts_with('-') {
                return Some(at);
            }
            if introduced.is_none() && (at == 0 || INTRODUCTIONS.iter().any(|words| before.ends_with(words)))
            {
                introduced = Some(at);
            }
        } else if alone.is_none() && !word.starts_with("(#") && leading_status(bare).is_some() {
            // qmail has it behind its words: "no mailbox here by that name. (#5.1.1)".
            alone = Some(at);
        }
        before = word;
    }
    introduced.or(alone)
}

/// The words of a folded text with their places.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    text.split(' ').map(move |word| {
        let start = at;
        at += word.len() + 1;
        (start, word)
    })
}

/// A reply code for trouble at the beginning (RFC 5321 §4.2.1), not a number that goes on.
fn leading_code(text: &str) -> Option<u16> {
    let digits = text.get(..3)?;
    let is_code = matches!(digits.as_bytes(), [b'4' | b'5', b'0'..=b'7', b'0'..=b'9']);
    let ends =
        text[3..].chars().next().is_none_or(|next| matches!(next, ' ' | '-' | ':' | ';' | '.' | '\'' | ')'));
    let is_number =
        text[3..].strip_prefix('.').is_some_and(|rest| rest.starts_with(|next: char| next.is_ascii_digit()));
    if is_code && ends && !is_number { digits.parse().ok() } else { None }
}

/// An enhanced status code at the beginning, with its length.
fn leading_status(text: &str) -> Option<(EnhancedStatus, usize)> {
    let length = text.bytes().take_while(|octet| octet.is_ascii_digit() || *octet == b'.').count();
    let found = text[..length].trim_end_matches('.');
    Some((found.parse().ok()?, found.len()))
}

/// All enhanced status codes in a text.
pub(super) fn statuses(text: &str) -> impl Iterator<Item = EnhancedStatus> {
    text.split(|c: char| !(c.is_ascii_digit() || c == '.'))
        .filter_map(|number| number.trim_end_matches('.').parse().ok())
}

/// The end of the reply: what the server that writes the bounce says about it again is not the reply.
fn end_of_reply(text: &str) -> usize {
    const MARKS: [&str; 5] = [" (in reply to ", " Giving up on ", "##", " --- ", " _____"];
    let end = MARKS.iter().filter_map(|mark| text.find(mark)).min().unwrap_or(text.len());
    let text = text[..end].trim_end_matches(['\'', ' ', '"']);
    // Sendmail's (reason: ...): the bracket was opened before the codes.
    let is_open = text.ends_with(')') && !text.contains('(');
    text.len() - usize::from(is_open)
}

/// A reply of several lines repeats its codes on each (RFC 5321 §4.2.1); folded, they stand between the words.
fn without_continuations(text: &str, code: Option<u16>, status: Option<EnhancedStatus>) -> String {
    let Some(code) = code else { return text.to_owned() };
    let mut text = text.to_owned();
    if let Some(status) = status {
        text = text.replace(&format!(" {code}-{status} "), " ").replace(&format!(" {code} {status} "), " ");
        text = text.replace(&format!(" {code}-{status}"), "");
    }
    let several = text.replace(&format!(" {code}-"), " ");
    let is_last = |at: &usize| several.len() != text.len() || several[..*at].is_empty();
    let last = several.rfind(&format!(" {code} ")).filter(is_last);
    match last {
        Some(at) => format!("{}{}", &several[..at], &several[at + 4..]),
        None => several,
    }
}

/// The first address of a host in a reply: servers name the client that they refuse.
pub(super) fn client(text: &str) -> Option<IpAddr> {
    text.split(|c: char| !(c.is_ascii_hexdigit() || matches!(c, '.' | ':')))
        .map(|word| word.trim_matches(['.', ':']))
        .filter(|word| word.len() >= 7 || word.contains("::"))
        .find_map(|word| word.parse().ok())
}

/// The reference of a refusal of ours: `(ref 4QX7-93KD`.
pub(super) fn reference(text: &str) -> Option<Reference> {
    text.split("(ref ").skip(1).find_map(|rest| rest.get(..9)?.parse().ok())
}

/// The server that spoke, by the words with which mail servers introduce a reply.
pub(super) fn host(text: &str) -> Option<String> {
    const BEFORE: [&str; 8] = [
        "while talking to ",
        " relay=",
        " H=",
        "host ",
        "Connected to ",
        "connect to ",
        "The mail server ",
        "the mail server ",
    ];
    let text = folded(text);
    let named = BEFORE.iter().find_map(|words| {
        text.match_indices(words)
            .find_map(|(at, words)| host_name(text[at + words.len()..].split([' ', '[']).next()?))
    });
    // Gmail: "... rejected by the server for the recipient domain adatum.test by mx.adatum.test. [192.0.2.1]".
    let named = named.or_else(|| {
        text.match_indices(" by ").find_map(|(at, by)| {
            let (name, address) = text[at + by.len()..].split_once(' ')?;
            if address.starts_with('[') { host_name(name) } else { None }
        })
    });
    named.or_else(|| {
        let first = text.split(' ').next()?;
        let speaks = [" does not like recipient", " failed after i sent", " does not like sender"];
        let rest = text[first.len()..].to_lowercase();
        speaks.iter().any(|words| rest.starts_with(words)).then(|| host_name(first)).flatten()
    })
}

/// A host as it may be shown and be put into a command: a domain with a dot, or an address.
pub(super) fn host_name(text: &str) -> Option<String> {
    let text = text.trim_matches(|c: char| !(c.is_ascii_alphanumeric()));
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_string());
    }
    let is_name = text.len() <= MAX_HOST && text.contains('.');
    is_name.then(|| Domain::parse_tolerant(text).ok()).flatten().map(|domain| domain.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> (Option<u16>, String, String) {
        let reply = Reply::find(text);
        (reply.code, reply.status.map(|status| status.to_string()).unwrap_or_default(), reply.text)
    }

    fn is(code: u16, status: &str, text: &str) -> (Option<u16>, String, String) {
        (Some(code), status.to_owned(), text.to_owned())
    }

    #[test]
    fn a_reply_is_found_in_the_words_of_each_system() {
        let cases = [
            ("550 5.1.1 No such user", is(550, "5.1.1", "No such user")),
            (
                "550-5.7.26 This\n550-5.7.26 mail is\n550 5.7.26 blocked",
                is(550, "5.7.26", "This mail is blocked"),
            ),
            (
                "550-Verification failed\n550-Called: 192.0.2.1\n550 Sender verify failed",
                is(550, "", "Verification failed Called: 192.0.2.1 Sender verify failed"),
            ),
            (
                "host mx.adatum.test[192.0.2.1] said: 550 5.1.1 <b@adatum.test>: no (in reply to RCPT TO command)",
                is(550, "5.1.1", "<b@adatum.test>: no"),
            ),
            (
                "Remote Server returned '550 5.1.10 RESOLVER.ADR.RecipientNotFound; not found'",
                is(550, "5.1.10", "RESOLVER.ADR.RecipientNotFound; not found"),
            ),
            (
                "#550 5.1.1 RESOLVER.ADR.ExRecipNotFound; not found ##",
                is(550, "5.1.1", "RESOLVER.ADR.ExRecipNotFound; not found"),
            ),
            ("Remote host said: 550 mailbox busy", is(550, "", "mailbox busy")),
            ("(reason: 550 5.1.1 User unknown)", is(550, "5.1.1", "User unknown")),
            ("554: 5.7.1 no", is(554, "5.7.1", "no")),
            (
                "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)",
                is(553, "5.7.1", "sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"),
            ),
            (
                "Sorry, no mailbox here by that name. (#5.1.1)",
                (None, "5.1.1".to_owned(), "Sorry, no mailbox here by that name. (#5.1.1)".to_owned()),
            ),
            ("It took 450 seconds. The response was: 452 4.2.2 full", is(452, "4.2.2", "full")),
        ];
        for (text, expected) in cases {
            assert_eq!(found(text), expected, "{text}");
        }
    }

    #[test]
    fn numbers_that_are_no_codes_are_left_alone() {
        for text in
            ["mail from 203.0.113.550 was slow", "wait 450ms", "port 587", "port 5.7", "5.7.1.2 is odd"]
        {
            let reply = Reply::find(text);
            assert_eq!((reply.code, reply.status), (None, None), "{text}");
        }
    }

    #[test]
    fn the_host_that_spoke_is_named() {
        for (text, host_name) in [
            ("host mx.adatum.test [192.0.2.1]\n SMTP error from remote mail server", "mx.adatum.test"),
            ("<b@c.test>: host mx.adatum.test[192.0.2.1] said: 550", "mx.adatum.test"),
            ("... while talking to mx.adatum.test.:\n>>> DATA", "mx.adatum.test"),
            ("192.0.2.1 does not like recipient.\nRemote host said: 550", "192.0.2.1"),
            ("Connected to 192.0.2.1 but sender was rejected.", "192.0.2.1"),
            ("x: to=<b@c.test>, relay=mx.adatum.test[192.0.2.1]:25, delay=1", "mx.adatum.test"),
        ] {
            assert_eq!(host(text).as_deref(), Some(host_name), "{text}");
        }
        for text in ["the host is down", "host $(rm -rf)", "host -x", ""] {
            assert_eq!(host(text), None, "{text}");
        }
    }

    #[test]
    fn the_refused_address_is_the_first_one_in_the_reply() {
        assert_eq!(
            client("Our system [192.0.2.7 12] at 10:20:30").map(|ip| ip.to_string()).as_deref(),
            Some("192.0.2.7")
        );
        assert_eq!(client("from 2001:db8::25.").map(|ip| ip.to_string()).as_deref(), Some("2001:db8::25"));
        assert_eq!(client("5.7.1 at 10:20:30 abc dead:beef"), None);
    }

    #[test]
    fn a_reference_of_ours_is_recognised() {
        let found = reference("relay not permitted; log in (ref 4QX7-93KD https://mail.proseware.test/r/1)");
        assert_eq!(found.map(|found| found.to_string()).as_deref(), Some("4QX7-93KD"));
        assert_eq!(reference("(ref ä)(ref 4QX7)"), None);
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(cut("aäb", 2), "a");
        assert_eq!(cut("aäb", 4), "aäb");
    }
}
