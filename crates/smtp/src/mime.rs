//! What the header of a MIME entity says about its body (RFC 2045 §5, §6): of what kind it is, where its parts end, how it is
//! encoded.
//!
//! Only what one can follow parts by. Values are read as leniently as readers of mail read them; but a boundary about which readers
//! may differ is none.

use crate::header::{fields, skip_comments, unquoted};

/// The longest boundary that is followed. RFC 2046 §5.1.1 has 70 octets; some software writes longer ones.
pub const MAX_BOUNDARY: usize = 256;

/// How a body is encoded (RFC 2045 §6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `7bit` or `8bit`, or nothing said: lines, as they are.
    Lines,
    /// `binary`: octets, as they are.
    Binary,
    /// Anything else: the body is a text that stands for another.
    Encoded,
    /// Several fields say different things, one of them `binary`.
    Unclear,
}

impl Encoding {
    fn may_be_binary(self) -> bool {
        matches!(self, Self::Binary | Self::Unclear)
    }
}

/// What a body is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Media {
    /// Parts (RFC 2046 §5.1).
    Multipart(Multipart),
    /// Parts, but nobody knows where they end: no boundary, or one that readers may understand differently.
    BrokenMultipart,
    /// A message, with a header of its own (RFC 2046 §5.2.1, RFC 6532 §3.7).
    Message,
    /// Another kind of `message`, which must not be encoded either (RFC 2045 §6.4).
    OtherMessage,
    /// Anything else.
    Leaf,
}

/// A body of several parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Multipart {
    /// What separates them; 1 to [`MAX_BOUNDARY`] octets.
    pub boundary: Vec<u8>,
    /// `multipart/digest`: parts that do not say otherwise are messages (RFC 2046 §5.1.5).
    pub is_digest: bool,
    /// `multipart/signed`: the first part must stay as it is (RFC 1847 §2.1).
    pub is_signed: bool,
}

/// What a header says about the body behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entity {
    /// `None` where there is no Content-Type.
    pub media: Option<Media>,
    /// Content-Transfer-Encoding.
    pub encoding: Encoding,
}

impl Entity {
    /// Reads a header.
    pub fn read(header: &[u8]) -> Self {
        let mut entity = Self { media: None, encoding: Encoding::Lines };
        let mut encoding: Option<Encoding> = None;
        for field in fields(header) {
            if field.name.eq_ignore_ascii_case(b"Content-Type") {
                let media = media(field.value);
                entity.media = Some(match entity.media.take() {
                    Some(before) => common(before, media),
                    None => media,
                });
            } else if is_transfer_encoding(field.name) {
                let this = transfer_encoding(field.value);
                encoding = Some(match encoding {
                    Some(before) if before == this => this,
                    Some(before) if before.may_be_binary() || this.may_be_binary() => Encoding::Unclear,
                    Some(_) => Encoding::Encoded,
                    None => this,
                });
            }
        }
        entity.encoding = encoding.unwrap_or(Encoding::Lines);
        entity
    }
}

/// Whether a field of this name is Content-Transfer-Encoding.
pub fn is_transfer_encoding(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"Content-Transfer-Encoding")
}

/// What two fields say that both say what the body is.
fn common(one: Media, other: Media) -> Media {
    if one == other {
        return one;
    }
    let has_parts = |media: &Media| matches!(media, Media::Multipart(_) | Media::BrokenMultipart);
    match has_parts(&one) || has_parts(&other) {
        true => Media::BrokenMultipart,
        false => Media::OtherMessage,
    }
}

/// Reads the value of Content-Transfer-Encoding.
fn transfer_encoding(value: &[u8]) -> Encoding {
    let mut words = Words { rest: value };
    let Some(word) = words.value() else { return Encoding::Lines };
    let is = |name: &[u8]| word.trim_ascii().eq_ignore_ascii_case(name);
    if is(b"binary") {
        Encoding::Binary
    } else if is(b"7bit") || is(b"8bit") {
        Encoding::Lines
    } else {
        Encoding::Encoded
    }
}

/// Reads the value of Content-Type.
fn media(value: &[u8]) -> Media {
    let mut words = Words { rest: value };
    let kind = words.token().to_ascii_lowercase();
    let subtype = if words.mark(b'/') { words.token().to_ascii_lowercase() } else { Vec::new() };
    match (kind.as_slice(), subtype.as_slice()) {
        (b"multipart", _) => match boundary(words) {
            Some(boundary) => Media::Multipart(Multipart {
                boundary,
                is_digest: subtype == b"digest",
                is_signed: subtype == b"signed",
            }),
            None => Media::BrokenMultipart,
        },
        (b"message", b"rfc822" | b"global") => Media::Message,
        (b"message", _) => Media::OtherMessage,
        _ => Media::Leaf,
    }
}

/// The boundary parameter: in one piece, or in several (RFC 2231 §3, §4). `None` where they are not all the same.
fn boundary(mut words: Words<'_>) -> Option<Vec<u8>> {
    let mut plain: Vec<Vec<u8>> = Vec::new();
    let mut pieces: Vec<Piece> = Vec::new();
    while words.next_parameter() {
        let name = words.token();
        if name.len() < 8 || !name[..8].eq_ignore_ascii_case(b"boundary") || !words.mark(b'=') {
            continue;
        }
        let value = words.value().unwrap_or_default();
        match &name[8..] {
            b"" => plain.push(value),
            suffix => pieces.extend(Piece::new(suffix, value)),
        }
    }
    let joined = if pieces.is_empty() { None } else { Some(join(pieces)?) };
    let mut found = plain.into_iter().chain(joined).map(|value| value.trim_ascii_end().to_vec());
    let first = found.next()?;
    let is_fit = !first.is_empty() && first.len() <= MAX_BOUNDARY && !first.contains(&b'\r');
    (is_fit && !first.contains(&b'\n') && found.all(|other| other == first)).then_some(first)
}

/// A piece of a parameter value.
struct Piece {
    number: u16,
    value: Vec<u8>,
}

impl Piece {
    /// From what follows the name of the parameter: `*`, `*0` or `*0*`. `None` where it is another parameter.
    fn new(suffix: &[u8], value: Vec<u8>) -> Option<Self> {
        let suffix = suffix.strip_prefix(b"*")?;
        let (number, is_extended) = match suffix.strip_suffix(b"*") {
            Some(number) => (number, true),
            None => (suffix, suffix.is_empty()),
        };
        let number = match number {
            b"" => 0,
            digits if digits.iter().all(u8::is_ascii_digit) => {
                std::str::from_utf8(digits).ok()?.parse().ok()?
            }
            _ => return None,
        };
        let value = if is_extended { decoded(&value, number == 0) } else { value };
        Some(Self { number, value })
    }
}

/// The value of which these are the pieces, if they are all there, once each.
fn join(mut pieces: Vec<Piece>) -> Option<Vec<u8>> {
    pieces.sort_by_key(|piece| piece.number);
    let are_all = pieces.iter().enumerate().all(|(at, piece)| usize::from(piece.number) == at);
    are_all.then(|| pieces.into_iter().flat_map(|piece| piece.value).collect())
}

/// A value with `%XX`, and where it is the first piece with character set and language in front (RFC 2231 §4).
fn decoded(value: &[u8], is_first: bool) -> Vec<u8> {
    let text = match value.iter().enumerate().filter(|(_, byte)| **byte == b'\'').nth(1) {
        Some((at, _)) if is_first => &value[at + 1..],
        _ => value,
    };
    let mut octets = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let pair = text
            .get(at + 1..at + 3)
            .filter(|pair| text[at] == b'%' && pair.iter().all(u8::is_ascii_hexdigit));
        let octet = pair.and_then(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        at += if octet.is_some() { 3 } else { 1 };
        octets.push(octet.unwrap_or(text[at - 1]));
    }
    octets
}

/// The words of a structured field (RFC 2045 §5.1).
struct Words<'a> {
    rest: &'a [u8],
}

impl<'a> Words<'a> {
    /// White space, line ends of folded lines, and comments.
    fn skip_space(&mut self) {
        self.rest = skip_comments(self.rest);
    }

    /// Takes this mark, if it is the next.
    fn mark(&mut self, mark: u8) -> bool {
        self.skip_space();
        match self.rest.strip_prefix(&[mark]) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// The next word; empty where there is none.
    fn token(&mut self) -> &'a [u8] {
        self.skip_space();
        self.until(|byte| byte.is_ascii_whitespace() || b"()<>@,;:\\\"/[]?=".contains(&byte))
    }

    /// A value: a quoted string, or a word, in which all marks are allowed that end none: many boundaries have a `=` without quotes.
    fn value(&mut self) -> Option<Vec<u8>> {
        self.skip_space();
        if let Some(rest) = self.rest.strip_prefix(b"\"") {
            return Some(self.quoted(rest));
        }
        let word = self.until(|byte| byte.is_ascii_whitespace() || matches!(byte, b';' | b'(' | b'"'));
        (!word.is_empty()).then(|| word.to_vec())
    }

    /// What a quoted string holds, from behind its first quote.
    fn quoted(&mut self, rest: &'a [u8]) -> Vec<u8> {
        let (content, rest) = unquoted(rest);
        self.rest = rest;
        content
    }

    /// Goes on behind the next `;`, over what is no parameter. Whether there is one.
    fn next_parameter(&mut self) -> bool {
        loop {
            self.skip_space();
            match self.rest {
                [] => return false,
                [b';', rest @ ..] => {
                    self.rest = rest;
                    return true;
                }
                [b'"', rest @ ..] => drop(self.quoted(rest)),
                [_, rest @ ..] => self.rest = rest,
            }
        }
    }

    fn until(&mut self, ends: impl Fn(u8) -> bool) -> &'a [u8] {
        let length = self.rest.iter().position(|byte| ends(*byte)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(length);
        self.rest = rest;
        word
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn boundary_of(parameters: &str) -> Option<String> {
        match media(format!(" multipart/mixed{parameters}").as_bytes()) {
            Media::Multipart(multipart) => Some(String::from_utf8_lossy(&multipart.boundary).into_owned()),
            Media::BrokenMultipart => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_boundary_is_found_in_every_form() {
        for (parameters, expected) in [
            ("; boundary=abc", "abc"),
            (";BOUNDARY = \"a b\"; charset=x", "a b"),
            ("; charset=\"x; boundary=no\";\r\n\tboundary=\"ab\\\"c\"", "ab\"c"),
            ("; boundary=----=_Part_1.2@x:y/z?", "----=_Part_1.2@x:y/z?"),
            ("; boundary=abc (a comment; boundary=no)", "abc"),
            (" (c); (c) boundary (c) = (c) abc(c);", "abc"),
            ("; boundary=\"trailing  \"", "trailing"),
            ("; boundary=\"fol\r\n ded\"", "fol ded"),
            ("; boundary*=us-ascii'en'a%20b%2", "a b%2"),
            ("; boundary*1=def; boundary*0=\"abc \"", "abc def"),
            ("; boundary*0*=''a%62; boundary*1=%62; boundary*2*=%62", "ab%62b"),
            ("; boundary=abc; boundary=\"abc\"", "abc"),
            ("; boundary=abc; boundary*=''abc", "abc"),
            (" junk \"; boundary=no\" = ; boundary=abc", "abc"),
            ("; boundary; boundary=abc; boundaryx=no; boundary-x=no", "abc"),
        ] {
            assert_eq!(boundary_of(parameters).as_deref(), Some(expected), "{parameters:?}");
        }
    }

    #[test]
    fn what_readers_may_understand_differently_is_no_boundary() {
        let long = format!("; boundary={}", "x".repeat(MAX_BOUNDARY + 1));
        for parameters in [
            "",
            "; boundary",
            "; boundary=",
            "; boundary=\"\"",
            "; boundary=\" \"",
            "; boundary=abc; boundary=abd",
            "; boundary=abc; boundary*=''abd",
            "; boundary*0=a; boundary*2=b",
            "; boundary*0=a; boundary*0=b",
            "; boundary*=a%0D%0Ab",
            "; boundary*=''a%0Ab",
            long.as_str(),
        ] {
            assert_eq!(boundary_of(parameters), None, "{parameters:?}");
        }
        assert!(boundary_of(&long[..long.len() - 1]).is_some());
    }

    #[test]
    fn kinds_are_told_apart() {
        for (value, expected) in [
            ("text/plain; boundary=x", Media::Leaf),
            ("", Media::Leaf),
            ("multipart", Media::BrokenMultipart),
            ("MESSAGE/RFC822", Media::Message),
            ("message / (c) global", Media::Message),
            ("message/delivery-status", Media::OtherMessage),
            ("message", Media::OtherMessage),
        ] {
            assert_eq!(media(value.as_bytes()), expected, "{value:?}");
        }
        let Media::Multipart(signed) = media(b"multipart/Signed; boundary=x") else { panic!("no parts") };
        assert!(signed.is_signed && !signed.is_digest);
        let Media::Multipart(digest) = media(b"multipart/digest; boundary=x") else { panic!("no parts") };
        assert!(digest.is_digest && !digest.is_signed);
    }

    #[test]
    fn encodings_are_told_apart() {
        for (fields, expected) in [
            ("", Encoding::Lines),
            ("Content-Transfer-Encoding:\r\n", Encoding::Lines),
            ("Content-Transfer-Encoding: 8BIT\r\n", Encoding::Lines),
            ("content-transfer-encoding:\r\n (c) Binary (c)\r\n", Encoding::Binary),
            ("Content-Transfer-Encoding : \"binary\"\r\n", Encoding::Binary),
            ("Content-Transfer-Encoding: binary;\r\n", Encoding::Binary),
            ("Content-Transfer-Encoding: base64\r\n", Encoding::Encoded),
            ("Content-Transfer-Encoding: x-binary\r\n", Encoding::Encoded),
            ("Content-Transfer-Encoding: binary\r\nContent-Transfer-Encoding: BINARY\r\n", Encoding::Binary),
            ("Content-Transfer-Encoding: binary\r\nContent-Transfer-Encoding: 8bit\r\n", Encoding::Unclear),
            ("Content-Transfer-Encoding: 7bit\r\nContent-Transfer-Encoding: base64\r\n", Encoding::Encoded),
        ] {
            assert_eq!(Entity::read(fields.as_bytes()).encoding, expected, "{fields:?}");
        }
    }

    #[test]
    fn two_types_are_one_only_where_they_are_the_same() {
        let media = |one: &str, other: &str| {
            Entity::read(format!("Content-Type: {one}\r\nContent-Type: {other}\r\n\r\n").as_bytes()).media
        };
        assert_eq!(media("text/plain", "image/png"), Some(Media::Leaf));
        assert_eq!(media("text/plain", "multipart/mixed; boundary=x"), Some(Media::BrokenMultipart));
        assert_eq!(
            media("multipart/mixed; boundary=y", "multipart/mixed; boundary=x"),
            Some(Media::BrokenMultipart)
        );
        assert_eq!(media("text/plain", "message/rfc822"), Some(Media::OtherMessage));
        assert_eq!(media("message/rfc822", "message/rfc822"), Some(Media::Message));
    }

    proptest! {
        #[test]
        fn no_value_panics(value in "(multipart/a)?[; ]{0,2}([a-c;=\"\\\\()*'%0-2\r\n ]|boundary){0,30}") {
            if let Media::Multipart(multipart) = media(value.as_bytes()) {
                prop_assert!(!multipart.boundary.is_empty() && multipart.boundary.len() <= MAX_BOUNDARY);
            }
            transfer_encoding(value.as_bytes());
        }
    }
}
