//! Every text that a client may hear, read out of the sources: what a new reply says is found without being listed anywhere.

use std::path::Path;

/// Where replies are written. What a session adds to `bad sequence of commands` stands where it is decided.
const SOURCES: [&str; 3] = [
    "crates/smtp-inbound/src/replies.rs",
    "crates/smtp-inbound/src/replies/families.rs",
    "crates/smtp-inbound/src/replies/refusal.rs",
];
const ERRORS: [(&str, &str); 2] = [
    ("crates/smtp/src/command.rs", "5"),
    // They are said of addresses in MAIL and RCPT.
    ("crates/smtp/src/address.rs", "501 5.1.* bad * address: "),
];
const SEQUENCE: [&str; 7] = [
    "crates/smtp-inbound/src/session.rs",
    "crates/smtp-inbound/src/session/chunks.rs",
    "crates/smtp-inbound/src/session/context.rs",
    "crates/smtp-inbound/src/session/logins.rs",
    "crates/smtp-inbound/src/session/message.rs",
    "crates/smtp-inbound/src/commands/bdat.rs",
    "crates/smtp-inbound/src/commands/data.rs",
];

/// A text, and where it stands.
#[derive(Debug)]
pub struct Text {
    /// `replies.rs:17`
    pub place: String,
    /// What fits it, `*` being anything.
    pub pattern: String,
}

/// How what makes a reply is called, and how its text is heard.
struct Constructor {
    call: &'static str,
    /// Behind the code come subject and detail of the enhanced code.
    is_enhanced: bool,
    /// Other words may stand around the text: an address, what to do, a reference.
    is_part: bool,
}

const CONSTRUCTORS: [Constructor; 6] = [
    Constructor { call: "reply(", is_enhanced: true, is_part: false },
    Constructor { call: "Reply::plain(", is_enhanced: false, is_part: false },
    Constructor { call: "Words::new(", is_enhanced: true, is_part: true },
    Constructor { call: "Words::of_address(", is_enhanced: true, is_part: true },
    Constructor { call: "Phrase::new(", is_enhanced: true, is_part: true },
    Constructor { call: "Phrase::plain(", is_enhanced: false, is_part: true },
];

/// All of them.
pub fn all(repository: &Path) -> Vec<Text> {
    let read = |path: &str| {
        let text =
            std::fs::read_to_string(repository.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        Source::new(path, &text)
    };
    let mut texts: Vec<Text> = SOURCES.iter().flat_map(|path| read(path).replies()).collect();
    texts.extend(ERRORS.iter().flat_map(|(path, before)| {
        read(path)
            .behind("#[error(")
            .map(|text| Text { pattern: format!("{before}*{}", text.pattern), ..text })
            .collect::<Vec<_>>()
    }));
    texts.extend(SEQUENCE.iter().flat_map(|path| {
        let begin = "503 5.5.1 bad sequence of commands: ";
        read(path)
            .behind("bad_sequence(")
            .map(|text| Text { pattern: format!("{begin}{}", text.pattern), ..text })
            .collect::<Vec<_>>()
    }));
    // What the scanner must find, or it is no use.
    for (call, least) in [
        ("replies.rs", 50),
        ("families.rs", 15),
        ("refusal.rs", 50),
        ("command.rs", 12),
        ("address.rs", 7),
        ("session.rs", 7),
    ] {
        let found = texts.iter().filter(|text| text.place.starts_with(call)).count();
        assert!(found >= least, "only {found} texts found in {call}");
    }
    texts
}

/// A string literal.
struct Literal {
    /// Of its first quote.
    at: usize,
    /// Behind its last quote.
    end: usize,
    text: String,
}

/// The product code of a file.
struct Source {
    name: String,
    /// Comments are blank.
    code: String,
    literals: Vec<Literal>,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let code = text.split("#[cfg(test)]").next().unwrap();
        let (code, literals) = scan(code);
        Self { name: path.rsplit('/').next().unwrap().to_owned(), code, literals }
    }

    fn place(&self, at: usize) -> String {
        format!("{}:{}", self.name, self.code[..at].lines().count().max(1))
    }

    /// Replies with their codes, and every other literal by itself: it is part of some reply.
    fn replies(&self) -> Vec<Text> {
        let mut texts = Vec::new();
        let mut used = Vec::new();
        for Constructor { call, is_enhanced, is_part } in CONSTRUCTORS {
            for at in self.calls(call) {
                let Some((codes, rest)) = self.codes(at + call.len(), is_enhanced) else { continue };
                let literal = self.literals.iter().find(|literal| literal.at == rest);
                used.extend(literal.map(|literal| literal.at));
                let said = literal.map_or_else(|| "*".to_owned(), |literal| literal.text.clone());
                let pattern = if is_part { format!("{codes} *{said}*") } else { format!("{codes} {said}") };
                texts.push(Text { place: self.place(at), pattern });
            }
        }
        let others = self.literals.iter().filter(|literal| !used.contains(&literal.at));
        for literal in others.filter(|literal| !self.is_compared(literal)) {
            texts.push(Text { place: self.place(literal.at), pattern: format!("*{}*", literal.text) });
        }
        texts
    }

    /// Whether a literal stands in an arm of a `match`: it is no text, but the name of something.
    fn is_compared(&self, literal: &Literal) -> bool {
        let behind = self.code[literal.end..].trim_start();
        behind.starts_with("=>") || behind.starts_with("if ")
    }

    /// The literals right behind a call or an attribute.
    fn behind(&self, call: &str) -> impl Iterator<Item = Text> {
        let behind = self.calls(call).into_iter().map(|at| at + call.len());
        behind.filter_map(|at| {
            let literal = self.literals.iter().find(|literal| literal.at == self.past(at, &[]))?;
            Some(Text { place: self.place(at), pattern: literal.text.clone() })
        })
    }

    /// Where something is called: not in the middle of a longer name.
    fn calls(&self, call: &str) -> Vec<usize> {
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let found = self.code.match_indices(call).map(|(at, _)| at);
        found.filter(|at| !self.code[..*at].ends_with(is_name)).collect()
    }

    /// Reads `250, 1, 5, format!("`: `250 2.1.5`, and where the text begins. `None`: the code is not written there.
    fn codes(&self, from: usize, is_enhanced: bool) -> Option<(String, usize)> {
        let (code, mut at) = self.number(from)?;
        if !is_enhanced {
            return Some((code.to_string(), self.past(at, &["&", "format!("])));
        }
        let (subject, behind) = self.number(at)?;
        let (detail, behind) = self.number(behind)?;
        at = self.past(behind, &["&", "format!("]);
        let class = if code < 300 {
            2
        } else if code < 500 {
            4
        } else {
            5
        };
        Some((format!("{code} {class}.{subject}.{detail}"), at))
    }

    /// A number and its comma.
    fn number(&self, from: usize) -> Option<(u16, usize)> {
        let at = self.past(from, &[]);
        let digits = self.code[at..].split(|c: char| !c.is_ascii_digit()).next()?;
        let comma = at + digits.len();
        self.code[comma..].starts_with(',').then_some((digits.parse().ok()?, comma + 1))
    }

    /// Behind white space, and behind these words in their order.
    fn past(&self, from: usize, words: &[&str]) -> usize {
        let blank = |at: usize| at + self.code[at..].len() - self.code[at..].trim_start().len();
        words.iter().fold(blank(from), |at, word| {
            if self.code[at..].starts_with(word) { blank(at + word.len()) } else { at }
        })
    }
}

/// Blanks comments, and reads the string literals as patterns. Enough of Rust for files of replies.
fn scan(code: &str) -> (String, Vec<Literal>) {
    let mut blanked = String::with_capacity(code.len());
    let mut literals = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let octets = match first {
            '/' if rest.starts_with("//") => {
                let octets = rest.find('\n').unwrap_or(rest.len());
                blanked.push_str(&" ".repeat(octets));
                rest = &rest[octets..];
                continue;
            }
            '"' => {
                let (text, octets) = string(rest);
                literals.push(Literal { at: blanked.len(), end: blanked.len() + octets, text });
                octets
            }
            '\'' => character(rest),
            other => other.len_utf8(),
        };
        let (taken, behind) = rest.split_at(octets);
        blanked.push_str(taken);
        rest = behind;
    }
    (blanked, literals)
}

/// The octets of a character literal, or of the mark of a lifetime.
fn character(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some(_)) => chars.find(|(_, c)| *c == '\'').map_or(1, |(at, _)| at + 1),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

/// A string literal that begins here, `*` for what stands in braces, and its octets.
fn string(rest: &str) -> (String, usize) {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (text, at + 1),
            '\\' => match chars.next().expect("an escape").1 {
                'n' => text.push('\n'),
                '\n' => while chars.next_if(|(_, c)| c.is_whitespace()).is_some() {},
                other => text.push(other),
            },
            '{' if chars.next_if(|(_, c)| *c == '{').is_some() => text.push('{'),
            '{' if is_placeholder(&rest[at..]) => {
                chars.by_ref().find(|(_, c)| *c == '}').expect("the end of a placeholder");
                text.push('*');
            }
            '}' if chars.next_if(|(_, c)| *c == '}').is_some() => text.push('}'),
            other => text.push(other),
        }
    }
    panic!("a string without an end: {rest:.40}")
}

/// Whether a brace is closed before the literal ends.
fn is_placeholder(rest: &str) -> bool {
    rest.find('}').is_some_and(|end| !rest[..end].contains('"'))
}
