//! Bounces that speak to people only: qmail, Exim, Sendmail, Exchange, Yahoo; lines of a log; replies somebody pasted.
//!
//! They all do the same: an address on a line, what was said about it below, and at the end the message. So one reader
//! goes through all of them, and the signatures of the systems only give the form its name.

use super::{MAX_RECIPIENTS, reply};

/// What is kept of the words about one recipient, and around them.
pub(super) const MAX_BLOCK: usize = 8 * 1024;

/// What the text says of one recipient.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Block {
    /// The address on the line.
    pub(super) address: Option<String>,
    /// The lines about it.
    pub(super) text: String,
}

/// A text, taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Prose {
    /// The recipients in order, each address once.
    pub(super) blocks: Vec<Block>,
    /// What stands before, after and between.
    pub(super) around: String,
    /// The server that wrote it, if it says so.
    pub(super) reporter: Option<String>,
    /// What is returned of the message: its header, and more.
    pub(super) returned: String,
}

/// Where the bounce ends and the message begins. Compared with the line in lower case, without its rules of hyphens.
const END_MARKS: [&str; 10] = [
    "below this line is a copy of the message",
    "this is a copy of the message",
    "this is a copy of your message",
    "included is a copy of the message",
    "enclosed is a copy of the message",
    "the header of the original message",
    "original message headers",
    "original message",
    "message header follows",
    "unsent message below",
];

/// Lines that belong to no single recipient, and what follows them.
const COMMON_MARKS: [&str; 2] =
    ["transcript of session follows", "diagnostic information for administrators"];

/// Takes a text apart.
pub(super) fn read(text: &str) -> Prose {
    let mut prose = Prose::default();
    let mut current: Option<usize> = None;
    let mut lines = text.lines();
    for line in lines.by_ref() {
        let line = unquoted(line);
        let lower = line.trim_matches(['-', ' ', '\t', '*', '_']).to_lowercase();
        if END_MARKS.iter().any(|mark| lower.starts_with(mark)) {
            break;
        }
        prose.note_reporter(line, &lower);
        if COMMON_MARKS.iter().any(|mark| lower.starts_with(mark)) {
            current = None;
        } else if let Some((address, rest)) = address_line(line) {
            current = prose.open(&address);
            prose.append(current, rest);
            continue;
        }
        prose.append(current, line);
    }
    prose.returned = lines.collect::<Vec<_>>().join("\n");
    prose
}

impl Prose {
    /// The block of an address, a new one if it has none. An address that comes again goes on where it was.
    fn open(&mut self, address: &str) -> Option<usize> {
        let same =
            |block: &Block| block.address.as_deref().is_some_and(|known| known.eq_ignore_ascii_case(address));
        if let Some(at) = self.blocks.iter().position(same) {
            return Some(at);
        }
        if self.blocks.len() >= MAX_RECIPIENTS {
            return None;
        }
        self.blocks.push(Block { address: Some(address.to_owned()), text: String::new() });
        Some(self.blocks.len() - 1)
    }

    fn append(&mut self, current: Option<usize>, line: &str) {
        let text = match current.and_then(|at| self.blocks.get_mut(at)) {
            Some(block) => &mut block.text,
            None => &mut self.around,
        };
        if text.len() < MAX_BLOCK {
            text.push_str(reply::cut(line, MAX_BLOCK));
            text.push('\n');
        }
    }

    fn note_reporter(&mut self, line: &str, lower: &str) {
        const INTRODUCTIONS: [&str; 4] = [
            "generating server: ",
            "hi. this is the qmail-send program at ",
            "this is the mail system at host ",
            "this is the mail server ",
        ];
        if self.reporter.is_none()
            && let Some(words) = INTRODUCTIONS.iter().find(|words| lower.starts_with(*words))
        {
            self.reporter = line.trim().get(words.len()..).and_then(reply::host_name);
        }
    }
}

/// A line without the marks of somebody who forwards it. In Sendmail's transcript `>>> DATA` is no quote.
fn unquoted(line: &str) -> &str {
    let line = line.trim();
    if line.starts_with(">>>") { line } else { line.trim_start_matches(['>', ' ', '\t']) }
}

/// An address that introduces what was said about it, with the rest of its line.
fn address_line(line: &str) -> Option<(String, &str)> {
    if let Some(found) = log_line(line) {
        return Some(found);
    }
    let (word, rest) = line.split_at(line.find([' ', '\t']).unwrap_or(line.len()));
    let address = address(word.trim_end_matches(':'))?;
    let rest = rest.trim();
    // "bob@adatum.test (bob@adatum.test)<mailto:bob@adatum.test>", "<bob@adatum.test> (expanded from: bob)".
    let is_alone = rest.is_empty() || rest.starts_with(['(', '<']);
    (is_alone || word.ends_with(':')).then_some((address, rest))
}

/// `to=<bob@adatum.test>, relay=...` in the logs of Postfix, Sendmail and others, `** bob@adatum.test R=...` in Exim's.
fn log_line(line: &str) -> Option<(String, &str)> {
    if let Some((_, failed)) = line.split_once("** ").or_else(|| line.split_once("== ")) {
        let (word, rest) = failed.split_once(' ')?;
        return Some((address(word.trim_end_matches(':'))?, rest));
    }
    let at = line.find("to=<").filter(|at| *at == 0 || line[..*at].ends_with([' ', ',']))?;
    let (inner, rest) = line[at + "to=<".len()..].split_once('>')?;
    Some((address(inner)?, rest))
}

/// A word as an address, without its brackets. Not parsed strictly: it is shown, never sent to.
fn address(word: &str) -> Option<String> {
    let word = word.strip_prefix('<').map_or(word, |inner| inner.split('>').next().unwrap_or(inner));
    let (local, domain) = word.rsplit_once('@')?;
    let is_plain = |c: char| !c.is_control() && !c.is_whitespace() && !"<>()[],;:\"'".contains(c);
    let is_address = !local.is_empty()
        && domain.contains('.')
        && word.len() <= 320
        && local.chars().all(|c| is_plain(c) && c != '=' || "=+".contains(c))
        && domain.chars().all(|c| c.is_alphanumeric() || c == '.' || c == '-');
    is_address.then(|| word.to_owned())
}

/// The address behind "to" in a sentence: "Your message wasn't delivered to bob@adatum.test because ...".
pub(super) fn address_in_sentence(text: &str) -> Option<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.windows(2).find_map(|pair| {
        let is_to = matches!(pair[0], "to" | "to:" | "TO" | "for" | "address" | "recipient");
        is_to.then(|| address(pair[1].trim_end_matches(['.', ',', ':', ';', ')']))).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Vec<String> {
        read(text).blocks.into_iter().filter_map(|block| block.address).collect()
    }

    #[test]
    fn addresses_on_a_line_of_their_own_begin_a_block() {
        for text in [
            "<bob@adatum.test>:\n192.0.2.1 does not like recipient.",
            "  bob@adatum.test\n    host mx.adatum.test [192.0.2.1]",
            "bob@adatum.test (bob@adatum.test)<mailto:bob@adatum.test>\nIt was not found.",
            "<bob@adatum.test>: host mx.adatum.test[192.0.2.1] said: 550 no",
            "> <bob@adatum.test>:\n> forwarded by somebody",
            "x postfix/smtp[7]: 4Z: to=<bob@adatum.test>, relay=none, status=bounced (no)",
            "2026-11-21 18:05:25 1tmjJf-0000 ** bob@adatum.test R=dnslookup T=remote_smtp: 550 no",
        ] {
            assert_eq!(addresses(text), ["bob@adatum.test"], "{text}");
        }
    }

    #[test]
    fn sentences_and_replies_are_no_recipients() {
        for text in [
            "write to bob@adatum.test if you can",
            "550 5.1.1 <bob@adatum.test>: no",
            "a@b",
            "@adatum.test:",
            "<>:",
        ] {
            assert!(addresses(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn an_address_that_comes_again_goes_on() {
        let prose = read(
            "bob@adatum.test\nwas not found\n\nDiagnostic information for administrators:\n\n\
            Generating server: mail.proseware.test\n\nBOB@adatum.test\n550 5.1.1 no\n\nOriginal message headers:\n\nFrom: a@b.test",
        );
        assert_eq!(prose.blocks.len(), 1);
        assert!(prose.blocks[0].text.contains("not found") && prose.blocks[0].text.contains("550 5.1.1 no"));
        assert_eq!(prose.reporter.as_deref(), Some("mail.proseware.test"));
        assert!(prose.returned.contains("From: a@b.test"));
    }

    #[test]
    fn the_transcript_of_sendmail_belongs_to_nobody_alone() {
        let prose = read(
            "<bob@adatum.test>\n    (reason: 550 no)\n\n   ----- Transcript of session follows -----\n\
            ... while talking to mx.adatum.test.:\n>>> DATA\n<<< 550 no\n",
        );
        assert!(!prose.blocks[0].text.contains("DATA"));
        assert!(prose.around.contains(">>> DATA"));
    }

    #[test]
    fn the_sentence_names_the_recipient() {
        let text = "Your message wasn't delivered to bob@adatum.test because the address couldn't be found.";
        assert_eq!(address_in_sentence(text).as_deref(), Some("bob@adatum.test"));
        assert_eq!(address_in_sentence("write to us"), None);
    }
}
