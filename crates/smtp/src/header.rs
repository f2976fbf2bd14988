//! Header fields and the addresses in them (RFC 5322 §2.2 and §3.4).

use crate::address::{Address, Host, LocalPart, is_atom_char};

/// One header field as it stands in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name before the colon, as written.
    pub name: &'a [u8],
    /// What follows the colon, still folded, without the final CRLF.
    pub value: &'a [u8],
    /// The whole field with its final CRLF.
    pub raw: &'a [u8],
}

/// Where the body begins: behind the empty line. The whole length if there is none.
pub fn body_offset(message: &[u8]) -> usize {
    let mut at = 0;
    while at < message.len() {
        let end = line_end(message, at);
        if is_empty_line(&message[at..end]) {
            return end;
        }
        at = end;
    }
    message.len()
}

/// The fields of a header in order; stops at the empty line. Lines that are no field are skipped.
pub fn fields(header: &[u8]) -> impl Iterator<Item = Field<'_>> {
    unfolded_lines(header).filter_map(Field::parse)
}

/// Whether a header is fields and nothing else, and has no NUL: all readers see the same fields then.
pub fn is_well_formed(header: &[u8]) -> bool {
    unfolded_lines(header).all(|raw| Field::parse(raw).is_some() && memchr::memchr(0, raw).is_none())
}

/// A value behind the white space and the comments at its beginning (RFC 5322 §3.2.2). A comment that does not end reaches to
/// the end of the value. Counted, not nested: a thousand "(" must not use a thousand stack frames.
pub fn skip_comments(value: &[u8]) -> &[u8] {
    let mut depth = 0_usize;
    let mut escaped = false;
    for (at, byte) in value.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if depth > 0 => escaped = true,
            b'(' => depth += 1,
            b')' if depth > 0 => depth -= 1,
            _ if depth > 0 || byte.is_ascii_whitespace() => {}
            _ => return &value[at..],
        }
    }
    &[]
}

/// What a quoted string holds (RFC 5322 §3.2.4), given from behind its first quote, and what stands behind it. One that does not
/// end reaches to the end of the value.
pub fn unquoted(rest: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut content = Vec::new();
    let mut bytes = rest.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => break,
            b'\\' => content.extend(bytes.next()),
            // Folding.
            b'\r' | b'\n' => {}
            byte => content.push(*byte),
        }
    }
    (content, bytes.as_slice())
}

/// The lines of a header up to the empty one, each with those that go on with it.
fn unfolded_lines(header: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at == header.len() || is_empty_line(&header[at..line_end(header, at)]) {
            return None;
        }
        let start = at;
        at = field_end(header, start);
        Some(&header[start..at])
    })
}

impl<'a> Field<'a> {
    fn parse(raw: &'a [u8]) -> Option<Self> {
        let colon = memchr::memchr(b':', raw)?;
        // RFC 5322 §4.5 allows white space between name and colon; who reads "From :" as From must be found by us too.
        let name = raw[..colon].trim_ascii_end();
        if name.is_empty() || !name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
            return None;
        }
        Some(Self { name, value: without_line_end(&raw[colon + 1..]), raw })
    }
}

/// The end of the field that begins at `start`: its first line and those that begin with white space (RFC 5322 §2.2.3).
fn field_end(header: &[u8], start: usize) -> usize {
    let mut end = line_end(header, start);
    while matches!(header.get(end), Some(b' ' | b'\t')) {
        end = line_end(header, end);
    }
    end
}

/// Behind the LF that ends the line.
fn line_end(text: &[u8], start: usize) -> usize {
    memchr::memchr(b'\n', &text[start..]).map_or(text.len(), |at| start + at + 1)
}

fn is_empty_line(line: &[u8]) -> bool {
    matches!(line, b"\r\n" | b"\n")
}

fn without_line_end(text: &[u8]) -> &[u8] {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    text.strip_suffix(b"\r").unwrap_or(text)
}

/// Why the value of an address field cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderAddressError {
    /// No address in it at all.
    #[error("no address")]
    Empty,
    /// Not an address list by RFC 5322 §3.4.
    #[error("malformed address list: {0}")]
    Malformed(String),
}

/// The addresses of From, Sender, Reply-To ...: display names and comments dropped, groups opened (RFC 5322 §3.4).
///
/// Strict where readers could disagree: text that the grammar does not have is an error, never skipped, and an encoded
/// word (RFC 2047) is never decoded into an address. Obsolete forms that can be read in one way only are taken: source
/// routes, empty list elements, comments and white space around dots, dots in display names.
///
/// # Errors
/// [`HeaderAddressError`]: whoever checks a right by this must refuse then.
pub fn addresses(value: &[u8]) -> Result<Vec<Address>, HeaderAddressError> {
    let text = std::str::from_utf8(value).map_err(|_| malformed("not UTF-8"))?;
    let tokens = tokens(text)?;
    let mut list = List { tokens: &tokens, at: 0, in_group: false, addresses: Vec::new() };
    list.read()?;
    match list.addresses.is_empty() {
        true => Err(HeaderAddressError::Empty),
        false => Ok(list.addresses),
    }
}

fn malformed(problem: impl Into<String>) -> HeaderAddressError {
    HeaderAddressError::Malformed(problem.into())
}

/// A word or a mark of an address list; comments and white space are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token<'a> {
    /// RFC 5322 §3.2.3 atom.
    Atom(&'a str),
    /// A quoted string with its quotes, unfolded.
    Quoted(String),
    /// A domain literal with its brackets.
    Literal(&'a str),
    /// One of `< > @ , ; : .`
    Mark(char),
}

fn tokens(text: &str) -> Result<Vec<Token<'_>>, HeaderAddressError> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let (token, length) = match c {
            ' ' | '\t' => (None, 1),
            '\r' | '\n' => (None, fold_length(rest)?),
            '(' => (None, comment_length(rest)?),
            '"' => quoted_string(rest)?,
            '[' => literal(rest)?,
            '<' | '>' | '@' | ',' | ';' | ':' | '.' => (Some(Token::Mark(c)), 1),
            c if is_atom_char(c) => {
                let length = rest.find(|c| !is_atom_char(c)).unwrap_or(rest.len());
                (Some(Token::Atom(&rest[..length])), length)
            }
            c => return Err(malformed(format!("character {c:?}"))),
        };
        tokens.extend(token);
        rest = &rest[length..];
    }
    Ok(tokens)
}

/// A line end is white space only where a line follows that goes on (RFC 5322 §3.2.2).
fn fold_length(rest: &str) -> Result<usize, HeaderAddressError> {
    let end = if rest.starts_with("\r\n") { 2 } else { 1 };
    match rest.as_bytes() {
        [b'\r', b'\n', b' ' | b'\t', ..] | [b'\n', b' ' | b'\t', ..] => Ok(end),
        _ => Err(malformed("a bare CR or a line that is not folded")),
    }
}

/// A comment with those inside it. Counted, not nested: a thousand "(" must not use a thousand stack frames.
fn comment_length(rest: &str) -> Result<usize, HeaderAddressError> {
    let mut depth = 0usize;
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate() {
        match byte {
            0 => return Err(malformed("NUL in a comment")),
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'(' => depth += 1,
            b')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Ok(at + 1);
        }
    }
    Err(malformed("a comment does not end"))
}

fn quoted_string(rest: &str) -> Result<(Option<Token<'_>>, usize), HeaderAddressError> {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            0 => return Err(malformed("NUL in a quoted string")),
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => {
                // Unfolding removes the line end and keeps the white space behind it (RFC 5322 §2.2.3).
                let unfolded = rest[..=at].replace("\r\n ", " ").replace("\r\n\t", "\t");
                return Ok((Some(Token::Quoted(unfolded)), at + 1));
            }
            _ => {}
        }
    }
    Err(malformed("a quoted string does not end"))
}

fn literal(rest: &str) -> Result<(Option<Token<'_>>, usize), HeaderAddressError> {
    let end = rest.find(']').ok_or_else(|| malformed("an address literal does not end"))? + 1;
    Ok((Some(Token::Literal(&rest[..end])), end))
}

/// Reads `address-list` from tokens (RFC 5322 §3.4, §4.4).
struct List<'t, 'a> {
    tokens: &'t [Token<'a>],
    at: usize,
    in_group: bool,
    addresses: Vec<Address>,
}

impl<'t, 'a> List<'t, 'a> {
    fn read(&mut self) -> Result<(), HeaderAddressError> {
        loop {
            match self.peek() {
                None if self.in_group => return Err(malformed("a group does not end")),
                None => return Ok(()),
                // obs-addr-list: empty elements.
                Some(Token::Mark(',')) => self.at += 1,
                Some(Token::Mark(';')) if self.in_group => {
                    self.at += 1;
                    self.in_group = false;
                    self.element_ends()?;
                }
                Some(_) => self.element()?,
            }
        }
    }

    /// A mailbox, or the name of a group with its colon.
    fn element(&mut self) -> Result<(), HeaderAddressError> {
        let phrase = self.phrase();
        match self.peek() {
            Some(Token::Mark('<')) => {
                let address = self.angle_address()?;
                self.addresses.push(address);
            }
            Some(Token::Mark('@')) => {
                let address = self.bare_address(phrase)?;
                self.addresses.push(address);
            }
            Some(Token::Mark(':')) if !self.in_group && !phrase.is_empty() => {
                self.at += 1;
                self.in_group = true;
                return Ok(());
            }
            Some(token) => return Err(unexpected(token)),
            None => return Err(malformed("a name without an address")),
        }
        self.element_ends()
    }

    /// Behind an element comes a comma, the end of the group, or nothing.
    fn element_ends(&self) -> Result<(), HeaderAddressError> {
        match self.peek() {
            None | Some(Token::Mark(',')) => Ok(()),
            Some(Token::Mark(';')) if self.in_group => Ok(()),
            Some(token) => Err(unexpected(token)),
        }
    }

    /// Words and dots: a display name, or the local part of a bare address.
    fn phrase(&mut self) -> &'t [Token<'a>] {
        let start = self.at;
        while let Some(Token::Atom(_) | Token::Quoted(_) | Token::Mark('.')) = self.peek() {
            self.at += 1;
        }
        &self.tokens[start..self.at]
    }

    /// `<local@host>`, also with a source route in front (RFC 5322 §4.4).
    fn angle_address(&mut self) -> Result<Address, HeaderAddressError> {
        self.at += 1;
        if matches!(self.peek(), Some(Token::Mark('@' | ','))) {
            self.route()?;
        }
        let local = self.phrase();
        let address = self.bare_address(local)?;
        match self.next() {
            Some(Token::Mark('>')) => Ok(address),
            Some(token) => Err(unexpected(token)),
            None => Err(malformed("\"<\" without \">\"")),
        }
    }

    /// `@one,@two:`; said nothing for long, dropped.
    fn route(&mut self) -> Result<(), HeaderAddressError> {
        loop {
            match self.next() {
                Some(Token::Mark('@')) => drop(self.host()?),
                Some(Token::Mark(',')) => {}
                Some(Token::Mark(':')) => return Ok(()),
                Some(token) => return Err(unexpected(token)),
                None => return Err(malformed("a source route does not end")),
            }
        }
    }

    /// `@host` behind a local part that was read already.
    fn bare_address(&mut self, local: &[Token<'_>]) -> Result<Address, HeaderAddressError> {
        let local = local_part(local)?;
        match self.next() {
            Some(Token::Mark('@')) => Ok(Address::new(local, self.host()?)),
            Some(token) => Err(unexpected(token)),
            None => Err(malformed("no domain")),
        }
    }

    fn host(&mut self) -> Result<Host, HeaderAddressError> {
        let mut text = String::new();
        if let Some(Token::Literal(literal)) = self.peek() {
            self.at += 1;
            text.push_str(literal);
        } else {
            while let Some(token) = self.peek() {
                match (token, text.is_empty() || text.ends_with('.')) {
                    (Token::Atom(atom), true) => text.push_str(atom),
                    (Token::Mark('.'), false) => text.push('.'),
                    _ => break,
                }
                self.at += 1;
            }
        }
        Host::parse(&text).map_err(|problem| malformed(problem.to_string()))
    }

    fn peek(&self) -> Option<&'t Token<'a>> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<&'t Token<'a>> {
        let token = self.peek();
        self.at += usize::from(token.is_some());
        token
    }
}

/// Words with single dots between them (RFC 5322 §4.4 obs-local-part); two words side by side are none.
fn local_part(tokens: &[Token<'_>]) -> Result<LocalPart, HeaderAddressError> {
    let local = plain_local_part(tokens)?;
    // RFC 2047 §5 (3). A reader that decodes it, in quotes too, shows another address than the one that we see.
    if local.as_str().contains("=?") && local.as_str().contains("?=") {
        return Err(malformed("an encoded word in an address"));
    }
    Ok(local)
}

fn plain_local_part(tokens: &[Token<'_>]) -> Result<LocalPart, HeaderAddressError> {
    if let [Token::Quoted(quoted)] = tokens {
        return LocalPart::parse(quoted).map_err(|problem| malformed(problem.to_string()));
    }
    let mut text = String::new();
    for token in tokens {
        match (token, text.is_empty() || text.ends_with('.')) {
            (Token::Atom(atom), true) => text.push_str(atom),
            (Token::Mark('.'), false) => text.push('.'),
            (token, _) => return Err(unexpected(token)),
        }
    }
    if text.ends_with('.') {
        return Err(malformed("a local part ends with a dot"));
    }
    LocalPart::parse(&text).map_err(|problem| malformed(problem.to_string()))
}

fn unexpected(token: &Token<'_>) -> HeaderAddressError {
    /// A word may be as long as a header; the text goes into a reply.
    const SHOWN: usize = 60;
    let shown: String = match token {
        Token::Atom(text) | Token::Literal(text) => text.chars().take(SHOWN).collect(),
        Token::Quoted(text) => text.chars().take(SHOWN).collect(),
        Token::Mark(mark) => mark.to_string(),
    };
    malformed(format!("{shown:?} is not expected there"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    fn read(value: &str) -> Vec<String> {
        addresses(value.as_bytes())
            .unwrap_or_else(|e| panic!("{value:?}: {e}"))
            .iter()
            .map(Address::to_string)
            .collect()
    }

    #[test]
    fn fields_are_split_and_folded_lines_kept_together() {
        let header = b"Subject: one\r\n two\r\nno field\r\n\tits second line\r\nFrom :a@b.test\r\n: x\r\nEmpty:\r\n\r\nBody: no\r\n";
        let found: Vec<(&[u8], &[u8])> = fields(header).map(|field| (field.name, field.value)).collect();
        assert_eq!(found, [(&b"Subject"[..], &b" one\r\n two"[..]), (b"From", b"a@b.test"), (b"Empty", b"")]);
        assert_eq!(fields(header).next().unwrap().raw, b"Subject: one\r\n two\r\n");
    }

    #[test]
    fn a_well_formed_header_has_fields_only() {
        for header in ["", "\r\nno field\r\n", "A: b\r\n c\r\nD :\r\n\r\n\0", "A: \u{e4}"] {
            assert!(is_well_formed(header.as_bytes()), "{header:?}");
        }
        for header in [
            &b"From\0: a\r\n"[..],
            b"A: b\0c\r\n",
            b"From\xa0: a\r\n",
            b"A: b\r\nno field\r\n",
            b" folded\r\nA: b\r\n",
            b"From x Sat Nov 21 18:05:25 2026\r\nA: b\r\n",
        ] {
            assert!(!is_well_formed(header), "{header:?}");
        }
    }

    #[test]
    fn the_body_begins_behind_the_first_empty_line() {
        assert_eq!(body_offset(b"A: b\r\n\r\nbody\r\n\r\n"), 8);
        assert_eq!(body_offset(b"\r\nbody"), 2);
        assert_eq!(body_offset(b"A: b\n\nbody"), 6);
        assert_eq!(body_offset(b"A: b\r\n"), 6);
        assert_eq!(body_offset(b""), 0);
    }

    #[test]
    fn comments_are_skipped_and_quoted_strings_read_also_where_they_do_not_end() {
        for (value, behind) in
            [(" (a (b\\) c)) \r\n x (d)", "x (d)"), (")x", ")x"), ("\\(x", "\\(x"), ("(a (b)", ""), ("", "")]
        {
            assert_eq!(skip_comments(value.as_bytes()), behind.as_bytes(), "{value:?}");
        }
        for (rest, content, behind) in
            [("a\\\"b\r\n c\" ; d", "a\"b c", " ; d"), ("\"", "", ""), ("a", "a", ""), ("a\\", "a", "")]
        {
            assert_eq!(
                unquoted(rest.as_bytes()),
                (content.as_bytes().to_vec(), behind.as_bytes()),
                "{rest:?}"
            );
        }
    }

    #[test]
    fn addresses_are_read_from_every_form() {
        for (value, expected) in [
            (" a@b.test", &["a@b.test"][..]),
            ("A B <a@b.test>", &["a@b.test"]),
            ("\"B, A <x@y.test>\" <a@b.test>", &["a@b.test"]),
            ("John Q. Public <a@b.test>", &["a@b.test"]),
            ("a@b.test (comment (nested \\) ) <x@y.test>)", &["a@b.test"]),
            ("(c)a(c)@(c)b(c).(c)test(c)", &["a@b.test"]),
            ("a@b.test, c@d.test,\r\n\te@f.test", &["a@b.test", "c@d.test", "e@f.test"]),
            (",a@b.test,, c@d.test,", &["a@b.test", "c@d.test"]),
            ("Team: a@b.test, C <c@d.test>; , e@f.test", &["a@b.test", "c@d.test", "e@f.test"]),
            ("None:;, a@b.test", &["a@b.test"]),
            ("<@x.test,@y.test:a@b.test>", &["a@b.test"]),
            ("=?utf-8?q?x=40y=2Etest?= <a@b.test>", &["a@b.test"]),
            ("=?utf-8?b?Ij4gPHhAeS50ZXN0Pg==?= <a@b.test>", &["a@b.test"]),
            ("\"a b\"@c.test", &["\"a b\"@c.test"]),
            ("\"a\r\n b\"@c.test", &["\"a b\"@c.test"]),
            ("\"a@x.test\"@c.test", &["\"a@x.test\"@c.test"]),
            ("a . b@c.test", &["a.b@c.test"]),
            ("a@[192.0.2.1]", &["a@[192.0.2.1]"]),
            ("Jörg <jörg@bücher.test>", &["jörg@xn--bcher-kva.test"]),
            ("<a@b.test>", &["a@b.test"]),
            ("a@b_c.test", &["a@b_c.test"]),
            ("srs0=x=?y@b.test", &["srs0=x=?y@b.test"]),
        ] {
            assert_eq!(read(value), expected, "{value:?}");
        }
    }

    #[test]
    fn fields_without_an_address_are_told_apart() {
        for value in ["", " ", "(comment)", "Nobody:;", ",,", "\r\n "] {
            assert_eq!(addresses(value.as_bytes()), Err(HeaderAddressError::Empty), "{value:?}");
        }
    }

    #[test]
    fn what_readers_could_understand_in_two_ways_is_refused() {
        for value in [
            "a",
            "<>",
            "A <a@b.test",
            "a@b.test>",
            "a@b.test <c@d.test>",
            "<a@b.test> <c@d.test>",
            "<a@b.test> c@d.test",
            "A <a@b.test> c@d.test, e@f.test",
            "a@b.test c@d.test",
            "a@b.test; c@d.test",
            "a@b@c.test",
            "<<a@b.test>>",
            "a b@c.test",
            "\"a\" b@c.test",
            "\"a\".b@c.test",
            "a@b.test (",
            "a@b.test )",
            "\"a@b.test",
            "A: B: a@b.test;;",
            "A: a@b.test",
            ": a@b.test;",
            "a@b.test\r\nc@d.test",
            "a@b.test\0",
            "a@b.test\r",
            "a@",
            "@b.test",
            "a@b..test",
            "a@b test",
            ".a@b.test",
            "a.@b.test",
            "a@[x",
            "A\\B <a@b.test>",
            "<@x.test a@b.test>",
            "=?utf-8?q?a?=@b.test",
            "A <=?utf-8?q?x=40y.test?=@b.test>",
            "=?utf-8?q?x=40y.test?=.a@b.test",
            "\"=?utf-8?q?x=40y.test?=\"@b.test",
        ] {
            assert!(
                matches!(addresses(value.as_bytes()), Err(HeaderAddressError::Malformed(_))),
                "{value:?}"
            );
        }
        assert!(addresses(b"J\xf6rg <a@b.test>").is_err());
    }

    #[test]
    fn deep_comments_do_not_deepen_the_stack() {
        let value = format!("{}{}a@b.test", "(".repeat(100_000), ")".repeat(100_000));
        assert_eq!(read(&value), ["a@b.test"]);
    }

    proptest! {
        #[test]
        fn no_value_panics(value in "[a-c<>@,;:.()\"\\\\\\[\\] \r\n\té=?]{0,60}") {
            let _ = addresses(value.as_bytes());
        }

        #[test]
        fn no_bytes_panic_and_fields_stay_inside_the_header(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = addresses(&bytes);
            let body = body_offset(&bytes);
            prop_assert!(body <= bytes.len());
            prop_assert!(fields(&bytes).map(|field| field.raw.len()).sum::<usize>() <= body);
        }

        /// What is read can be written, and is read again as the same.
        #[test]
        fn addresses_survive_being_written(value in "[ab\"\\\\ .(]{1,8}@[ab.]{1,6}") {
            if let Ok(list) = addresses(value.as_bytes()) {
                let written = list.iter().map(Address::to_string).collect::<Vec<_>>().join(", ");
                prop_assert_eq!(addresses(written.as_bytes()), Ok(list));
            }
        }
    }
}
