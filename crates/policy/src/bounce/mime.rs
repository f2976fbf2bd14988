//! As much of MIME as bounces and reports need: their parts in order, decoded (RFC 2045, RFC 2046).
//!
//! Not a library's parser: what comes here was often pasted, cut or mangled by a mail client, and must neither stop the
//! program nor take more than one pass per level.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use postern_smtp::header::{body_offset, fields};

/// Real bounces nest three levels deep; one that somebody forwards, some more.
const MAX_DEPTH: usize = 10;
/// A report has three parts.
const MAX_PARTS: usize = 200;
/// What is read of one part. The reasons stand at the beginning; what is returned of the message may be large.
const MAX_TEXT: usize = 1024 * 1024;

/// One part that has no parts of its own, or a message inside the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// `type/subtype` in lower case.
    pub(super) kind: String,
    /// Its content. Of HTML what a reader would see; of a message its header.
    pub(super) text: String,
}

/// Whether octets look like a message with a header, not like pasted text.
pub(super) fn has_header(octets: &[u8]) -> bool {
    const TELLING: [&[u8]; 7] =
        [b"received", b"from", b"to", b"subject", b"mime-version", b"content-type", b"return-path"];
    let header = &octets[..body_offset(octets)];
    // What follows the empty line is the message: a header alone is somebody's excerpt, and read as text.
    let known =
        fields(header).filter(|field| TELLING.iter().any(|name| field.name.eq_ignore_ascii_case(name)));
    header.len() < octets.len() && known.take(2).count() == 2
}

/// The value of the first field of this name, unfolded.
pub fn field(message: &[u8], name: &str) -> Option<String> {
    let found = fields(message).find(|field| field.name.eq_ignore_ascii_case(name.as_bytes()))?;
    Some(super::reply::folded(&decoded(found.value)))
}

/// The parts of a message in the order in which they stand.
pub(super) fn parts(message: &[u8]) -> Vec<Part> {
    let mut parts = Vec::new();
    collect(message, MAX_DEPTH, &mut parts);
    parts
}

/// A part as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// `type/subtype` in lower case.
    pub kind: String,
    /// Its content, decoded.
    pub content: Vec<u8>,
}

/// The parts of a message that have no parts of their own, with at most so many octets of each. What is inside of a message
/// inside of the message is not looked for.
pub fn attachments(message: &[u8], most: usize) -> Vec<Attachment> {
    let mut found = Vec::new();
    leaves(message, MAX_DEPTH, &mut found);
    let attachment = |leaf: Leaf<'_>| {
        let mut content = decode_transfer(leaf.body, &leaf.encoding, most).into_owned();
        content.truncate(most);
        Attachment { kind: leaf.kind, content }
    };
    found.into_iter().map(attachment).collect()
}

/// An entity that has no parts of its own.
struct Leaf<'a> {
    kind: String,
    encoding: String,
    body: &'a [u8],
    /// How deep a message in it may nest.
    depth: usize,
}

fn leaves<'a>(entity: &'a [u8], depth: usize, found: &mut Vec<Leaf<'a>>) {
    if depth == 0 || found.len() >= MAX_PARTS {
        return;
    }
    let (header, body) = entity.split_at(body_offset(entity));
    let declared = field(header, "content-type").unwrap_or_else(|| "text/plain".to_owned());
    let kind = declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if !kind.starts_with("multipart/") {
        let encoding = field(header, "content-transfer-encoding").unwrap_or_default();
        return found.push(Leaf { kind, encoding, body, depth });
    }
    let Some(boundary) = parameter(&declared, "boundary").or_else(|| first_boundary(body)) else { return };
    for inner in split(body, boundary.as_bytes()) {
        leaves(inner, depth - 1, found);
    }
}

fn collect(entity: &[u8], depth: usize, parts: &mut Vec<Part>) {
    let mut found = Vec::new();
    leaves(entity, depth, &mut found);
    for Leaf { kind, encoding, body, depth } in found {
        if parts.len() >= MAX_PARTS {
            return;
        }
        let body = decode_transfer(body, &encoding, MAX_TEXT);
        if matches!(kind.as_str(), "message/rfc822" | "message/global") {
            parts.push(Part { kind, text: text_of(&body[..body_offset(&body)]) });
            collect(&body, depth - 1, parts);
            continue;
        }
        let text = text_of(&body);
        let text = if kind == "text/html" { super::html::text(&text) } else { text };
        parts.push(Part { kind, text });
    }
}

/// A parameter of a Content-Type field that is unfolded already.
fn parameter(value: &str, name: &str) -> Option<String> {
    let lower = value.to_ascii_lowercase();
    let at = lower.find(&format!("{name}="))? + name.len() + 1;
    // Lower case of ASCII changes no length.
    let rest = &value[at..];
    let found = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => rest.split([';', ' ']).next(),
    };
    found.filter(|found| !found.is_empty()).map(str::to_owned)
}

/// The boundary as it stands in the body: a pasted header may have lost it with its folded lines.
fn first_boundary(body: &[u8]) -> Option<String> {
    let line =
        lines(body).map(<[u8]>::trim_ascii_end).find(|line| line.len() > 6 && line.starts_with(b"--"))?;
    Some(decoded(&line[2..]).into_owned())
}

/// The entities between the delimiter lines (RFC 2046 §5.1.1). One that is not closed ends with the body.
fn split<'a>(body: &'a [u8], boundary: &[u8]) -> Vec<&'a [u8]> {
    let mut entities = Vec::new();
    let mut start = None;
    let mut at = 0;
    for line in lines(body) {
        let end = at + line.len();
        if let Some(rest) = line.strip_prefix(b"--").and_then(|line| line.strip_prefix(boundary)) {
            let rest = rest.trim_ascii_end();
            if rest.is_empty() || rest == b"--" {
                entities.extend(start.map(|start| &body[start..at]));
                start = rest.is_empty().then_some(end);
            }
        }
        at = end;
        if entities.len() >= MAX_PARTS {
            return entities;
        }
    }
    entities.extend(start.map(|start| &body[start..]));
    entities
}

/// Lines with their ends.
fn lines(octets: &[u8]) -> impl Iterator<Item = &[u8]> {
    octets.split_inclusive(|octet| *octet == b'\n')
}

/// Of base 64 no more than `most` octets.
fn decode_transfer<'a>(body: &'a [u8], encoding: &str, most: usize) -> Cow<'a, [u8]> {
    match encoding.trim().to_ascii_lowercase().as_str() {
        "base64" => base64(body, most).map_or(Cow::Borrowed(body), Cow::Owned),
        "quoted-printable" => quoted_printable(body).into(),
        _ => body.into(),
    }
}

/// Base 64 with anything between its characters, and with its end missing; `None` if it is something else.
fn base64(body: &[u8], most: usize) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let is_digit = |octet: &u8| octet.is_ascii_alphanumeric() || matches!(octet, b'+' | b'/');
    // Four characters make three octets.
    let mut digits: Vec<u8> = body.iter().copied().filter(is_digit).take(most.div_ceil(3) * 4).collect();
    if digits.len() % 4 == 1 {
        digits.pop();
    }
    GeneralPurpose::new(&alphabet::STANDARD, LENIENT).decode(digits).ok()
}

/// RFC 2045 §6.7; an escape that is none stays as it is.
fn quoted_printable(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some((octet, after)) = rest.split_first() {
        rest = after;
        if *octet != b'=' {
            out.push(*octet);
            continue;
        }
        let hex = |octet: u8| char::from(octet).to_digit(16);
        match after {
            [b'\r', b'\n', after @ ..] | [b'\n', after @ ..] => rest = after,
            [high, low, after @ ..] => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    out.push((high * 16 + low) as u8);
                    rest = after;
                }
                _ => out.push(b'='),
            },
            _ => out.push(b'='),
        }
    }
    out
}

fn text_of(octets: &[u8]) -> String {
    decoded(&octets[..octets.len().min(MAX_TEXT)]).into_owned()
}

/// Octets as text: UTF-8, or else Latin-1. What matters in a bounce is ASCII in every character set that is used.
pub(super) fn decoded(octets: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(octets) {
        Ok(text) => text.into(),
        // Cut in the middle of a character.
        Err(error) if error.error_len().is_none() => String::from_utf8_lossy(&octets[..error.valid_up_to()]),
        Err(_) => octets.iter().map(|octet| char::from(*octet)).collect::<String>().into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn kinds(message: &str) -> Vec<String> {
        parts(message.as_bytes()).into_iter().map(|part| part.kind).collect()
    }

    #[test]
    fn the_parts_of_a_report_come_in_order_and_decoded() {
        let message = "Content-Type: multipart/report;\r\n\tboundary=\"b=1\"\r\n\r\npreamble\r\n--b=1\r\n\
            Content-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\na=20long =\r\nline=zz\r\n\
            --b=1\r\nContent-Type: message/delivery-status\r\nContent-Transfer-Encoding: base64\r\n\r\nQWN0aW\r\n9uOiB4\r\n\
            --b=1\r\nContent-Type: message/rfc822\r\n\r\nFrom: a@b.test\r\n\r\nhello\r\n--b=1--\r\nepilogue";
        let parts = parts(message.as_bytes());
        let texts: Vec<(&str, &str)> =
            parts.iter().map(|part| (part.kind.as_str(), part.text.trim_end())).collect();
        let expected = [
            ("text/plain", "a long line=zz"),
            ("message/delivery-status", "Action: x"),
            ("message/rfc822", "From: a@b.test"),
            ("text/plain", "hello"),
        ];
        assert_eq!(texts, expected);
    }

    #[test]
    fn attachments_are_octets_and_no_more_than_asked_for() {
        let message = "Content-Type: multipart/mixed; boundary=b\n\n--b\n\ntext\n--b\n\
            Content-Type: Application/GZIP; name=x.gz\nContent-Transfer-Encoding: base64\n\nH4sIAP//\n--b--\n";
        let found = attachments(message.as_bytes(), 1000);
        assert_eq!((found[0].kind.as_str(), &found[0].content[..]), ("text/plain", &b"text\n"[..]));
        let packed = &[0x1f, 0x8b, 8, 0, 0xff, 0xff][..];
        assert_eq!((found[1].kind.as_str(), &found[1].content[..]), ("application/gzip", packed));
        let lengths: Vec<usize> =
            attachments(message.as_bytes(), 4).iter().map(|part| part.content.len()).collect();
        assert_eq!(lengths, [4, 4]);
    }

    #[test]
    fn a_boundary_counts_at_the_beginning_of_a_line_only() {
        let message = "Content-Type: multipart/mixed; boundary=b\n\n--b\n\nsays --b\n--bx\n--b--\n";
        let parts = parts(message.as_bytes());
        assert_eq!(parts.len(), 1);
        assert_eq!(parts[0].text, "says --b\n--bx\n");
    }

    #[test]
    fn a_boundary_that_the_header_lost_is_found_in_the_body() {
        let message = "Content-Type: multipart/report; report-type=delivery-status;\nMIME-Version: 1.0\n\n\
            --abcdef\nContent-Type: text/html\n\n<b>x</b>\n--abcdef--\n";
        assert_eq!(kinds(message), ["text/html"]);
    }

    #[test]
    fn nests_end_somewhere() {
        let nest = "Content-Type: multipart/mixed; boundary=b\n\n--b\n".repeat(5000);
        assert!(parts(nest.as_bytes()).is_empty());
        let many = format!("Content-Type: multipart/mixed; boundary=b\n\n{}", "--b\n\nx\n".repeat(5000));
        assert!(parts(many.as_bytes()).len() <= MAX_PARTS);
    }

    #[test]
    fn text_in_no_known_character_set_is_still_text() {
        assert_eq!(decoded(b"gr\xfc\xdfe"), "grüße");
        assert_eq!(decoded("grü".as_bytes().split_last().unwrap().1), "gr");
    }

    #[test]
    fn pasted_replies_have_no_header() {
        assert!(!has_header(b"550 5.1.1 no\n"));
        assert!(!has_header(b"Action: failed\nStatus: 5.1.1\n\n"));
        assert!(has_header(b"From: a@b.test\nSubject: x\n\nbody\n"));
    }
}
