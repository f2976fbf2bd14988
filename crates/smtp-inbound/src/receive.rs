//! The content of a message on its way to the queue, and the fields that we put in front of it.
//!
//! The header is held back until it is complete, because parts of it may have to go (Bcc on submission) and because it
//! is looked at when the message has ended. The body is handed on as it comes, in the buffers it was read into.

use std::net::IpAddr;
use std::time::SystemTime;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem;
use postern_config::Config;
use postern_queue::{AcceptError, Incoming, QueueId};
use postern_smtp::binary::Unconvertible;
use postern_smtp::chunk::ChunkReader;
use postern_smtp::data::{BareLf, DataReader, Findings, Step};
use postern_smtp::header::{Field, fields, skip_comments, unquoted};
use postern_smtp::{Chunk, Domain, Host, date};

use crate::session::{Hello, Peer};
use crate::tls::Protection;

mod converted;

use converted::{ConvertedChunks, Piece};

/// Pieces of the body below this size are gathered, so that a message in drips costs no more memory than its octets.
const SMALL_PIECE: usize = 4 * 1024;
/// How much is gathered.
const GATHERED: usize = 16 * 1024;
/// What is kept of a Message-ID in the envelope.
const MAX_MESSAGE_ID: usize = 255;

/// Takes a message from the input and streams it into the queue. After a failure it reads on to the end of the message
/// and keeps nothing.
#[derive(Debug)]
pub struct Receiver {
    reader: Reader,
    normalise: bool,
    state: Result<Content, Failure>,
    part: Part,
    /// Octets of content taken from the client.
    taken: u64,
    /// What they became: more, where binary parts are converted.
    kept: u64,
    max_message: u64,
    max_header: u64,
    edits: Edits,
}

/// How the message comes.
#[derive(Debug)]
enum Reader {
    /// Behind DATA, up to its end.
    Data(DataReader),
    /// Behind BDAT, chunk by chunk.
    Chunks(ChunkReader),
    /// The same, converted into lines.
    Converted(Box<ConvertedChunks>),
}

/// By which command a message comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Data,
    Bdat,
    /// BDAT of a message with BODY=BINARYMIME.
    BinaryBdat,
}

#[derive(Debug)]
enum Part {
    /// The header as far as it has come.
    Header(BytesMut),
    /// Small pieces of the body that are not handed on yet.
    Body(BytesMut),
}

/// Why the content cannot be kept.
#[derive(Debug)]
pub(crate) enum Failure {
    TooLarge,
    /// It is small enough as it came, and was not with its binary parts in base 64.
    TooLargeConverted,
    HeaderTooLarge,
    /// Its binary parts cannot be made fit for the next hops.
    Unconvertible(Unconvertible),
    /// The buffers of all sessions are at their limit.
    NoMemory,
    Store(AcceptError),
}

/// The content as it is in the queue.
#[derive(Debug)]
pub(crate) struct Content {
    pub incoming: Incoming,
    /// The header, with its empty line if there is one.
    pub header: Bytes,
    pub octets: u64,
}

/// What the lines of a message are like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lines {
    pub findings: Findings,
    /// Bare LFs were allowed, and rewritten.
    pub normalised: bool,
    /// The binary parts were converted; what was found is in others.
    pub converted: bool,
}

/// A message that has come to its end.
#[derive(Debug)]
pub struct Received {
    pub(crate) content: Result<Content, Failure>,
    pub(crate) lines: Lines,
}

impl Receiver {
    pub(crate) fn new(incoming: Incoming, by: By, config: &Config, peer: Peer) -> Self {
        let limits = &config.smtp;
        let normalise = limits.normalise_line_ends_from.iter().any(|network| network.contains(&peer.client));
        let bare_lf = if normalise { BareLf::Normalise } else { BareLf::Report };
        let reader = match by {
            By::Data => Reader::Data(DataReader::new(limits.max_data_line, bare_lf)),
            By::Bdat => Reader::Chunks(ChunkReader::new(limits.max_data_line, bare_lf)),
            By::BinaryBdat => Reader::Converted(Box::new(ConvertedChunks::new(
                limits.max_data_line,
                limits.max_header_size,
            ))),
        };
        Self {
            reader,
            normalise,
            state: Ok(Content { incoming, header: Bytes::new(), octets: 0 }),
            part: Part::Header(BytesMut::new()),
            taken: 0,
            kept: 0,
            max_message: limits.max_message_size,
            max_header: limits.max_header_size,
            edits: Edits { hostname: config.hostname.clone(), remove_bcc: peer.listener.is_submission() },
        }
    }

    /// The next octets are a chunk of the message.
    pub(crate) fn begin_chunk(&mut self, chunk: Chunk) {
        match &mut self.reader {
            Reader::Data(_) => {}
            Reader::Chunks(reader) => reader.begin(chunk),
            Reader::Converted(reader) => reader.begin(chunk),
        }
    }

    /// The chunk that came in last, of a message that comes in chunks.
    pub(crate) fn chunk(&self) -> Option<Chunk> {
        match &self.reader {
            Reader::Data(_) => None,
            Reader::Chunks(reader) => Some(reader.chunk()),
            Reader::Converted(reader) => Some(reader.chunk()),
        }
    }

    /// What the lines of the message are like so far.
    pub(crate) fn lines(&self) -> Lines {
        let (findings, converted) = match &self.reader {
            Reader::Data(reader) => (reader.findings(), false),
            Reader::Chunks(reader) => (reader.findings(), false),
            Reader::Converted(reader) => (reader.findings(), true),
        };
        Lines { findings, normalised: self.normalise && !converted, converted }
    }

    /// Why what came in so far cannot be kept.
    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.state.as_ref().err()
    }

    /// Whether the message stays within its limit with so many octets more.
    pub(crate) fn has_room_for(&self, octets: u64) -> bool {
        self.taken.saturating_add(octets) <= self.max_message
    }

    /// Takes what belongs to the message, or to the chunk, away from `input`. Whether it has ended; what is left are
    /// commands then, and before that at most two octets.
    pub async fn take(&mut self, input: &mut BytesMut) -> bool {
        loop {
            let step = match &mut self.reader {
                Reader::Data(reader) => reader.next(input),
                Reader::Chunks(reader) => reader.next(input),
                Reader::Converted(reader) => {
                    let piece = reader.take(input);
                    return self.converted(piece).await;
                }
            };
            match step {
                Step::Content(octets) => {
                    let piece = input.split_to(octets);
                    self.content(piece).await;
                }
                Step::LineEnd => {
                    input.advance(1);
                    self.content(BytesMut::from(&b"\r\n"[..])).await;
                }
                Step::Skip(octets) => input.advance(octets),
                Step::More => return false,
                Step::End(octets) => {
                    input.advance(octets);
                    self.ended().await;
                    return true;
                }
            }
        }
    }

    /// Octets of content that have come.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Octets of it that are in memory.
    pub fn in_memory(&self) -> usize {
        let part = match &self.part {
            Part::Header(octets) | Part::Body(octets) => octets.capacity(),
        };
        let content = self.state.as_ref().map_or(0, |content| {
            // While the message is small the header is part of what waits to be written.
            content.header.len().max(content.incoming.in_memory())
        });
        let converter = match &self.reader {
            Reader::Data(_) | Reader::Chunks(_) => 0,
            Reader::Converted(reader) => reader.in_memory(),
        };
        part + content + converter
    }

    /// Gives the message up, because there is no memory for it.
    pub fn give_up(&mut self) {
        if self.state.is_ok() {
            self.fail(Failure::NoMemory);
        }
    }

    /// The result, when [`Receiver::take`] has said that the message has ended.
    pub fn finish(self) -> Received {
        let lines = self.lines();
        Received { content: self.state, lines }
    }

    /// What came of a piece of a message that is converted. Whether the chunk has ended.
    async fn converted(&mut self, piece: Piece) -> bool {
        self.taken += piece.taken;
        if !piece.content.is_empty() {
            self.keep(piece.content).await;
        }
        if let Some(error) = piece.error.filter(|_| self.state.is_ok()) {
            self.fail(Failure::Unconvertible(error));
        }
        if piece.is_end {
            self.ended().await;
        }
        piece.is_end
    }

    async fn content(&mut self, piece: BytesMut) {
        self.taken += piece.len() as u64;
        self.keep(piece).await;
    }

    async fn keep(&mut self, piece: BytesMut) {
        self.kept += piece.len() as u64;
        if self.state.is_err() {
            return;
        }
        if self.taken > self.max_message {
            return self.fail(Failure::TooLarge);
        }
        if self.kept > self.max_message {
            return self.fail(Failure::TooLargeConverted);
        }
        match &mut self.part {
            Part::Header(header) => {
                // The search goes back by what an end may have in the former piece.
                let from = header.len().saturating_sub(3);
                match header.is_empty() {
                    true => *header = piece,
                    false => header.extend_from_slice(&piece),
                }
                self.header(from).await;
            }
            Part::Body(_) => self.body(piece).await,
        }
    }

    /// Looks for the empty line, in the header from this place on.
    async fn header(&mut self, from: usize) {
        let Part::Header(header) = &mut self.part else { return };
        let end = match header.starts_with(b"\r\n") {
            true => Some(2),
            false => memmem::find(&header[from..], b"\r\n\r\n").map(|at| from + at + 4),
        };
        if end.unwrap_or(header.len()) as u64 > self.max_header {
            return self.fail(Failure::HeaderTooLarge);
        }
        let Some(end) = end else { return };
        let body = header.split_off(end);
        self.header_complete().await;
        if !body.is_empty() {
            self.body(body).await;
        }
    }

    async fn header_complete(&mut self) {
        let Part::Header(header) = std::mem::replace(&mut self.part, Part::Body(BytesMut::new())) else {
            return;
        };
        let header = self.edits.apply(header.freeze());
        if let Ok(content) = &mut self.state {
            content.header = header.clone();
        }
        self.write(header).await;
    }

    async fn body(&mut self, piece: BytesMut) {
        let Part::Body(gathered) = &mut self.part else { return };
        if piece.len() < SMALL_PIECE {
            gathered.extend_from_slice(&piece);
            if gathered.len() >= GATHERED {
                self.flush().await;
            }
            return;
        }
        self.flush().await;
        self.write(piece.freeze()).await;
    }

    async fn flush(&mut self) {
        let Part::Body(gathered) = &mut self.part else { return };
        if !gathered.is_empty() {
            let piece = gathered.split().freeze();
            self.write(piece).await;
        }
    }

    /// The input of DATA, or of a chunk, came to its end.
    async fn ended(&mut self) {
        let ends_a_line = match &self.reader {
            Reader::Data(_) => true,
            Reader::Chunks(reader) if !reader.chunk().is_last => return,
            Reader::Converted(reader) if !reader.chunk().is_last => return,
            Reader::Chunks(reader) => reader.ends_a_line(),
            Reader::Converted(reader) => reader.ends_a_line(),
        };
        // By DATA the last line has an end of its own; whatever stands behind a stored message relies on it.
        if !ends_a_line {
            self.content(BytesMut::from(&b"\r\n"[..])).await;
        }
        self.end().await;
    }

    async fn end(&mut self) {
        if matches!(self.part, Part::Header(_)) {
            self.header_complete().await;
        }
        self.flush().await;
    }

    async fn write(&mut self, piece: Bytes) {
        let Ok(content) = &mut self.state else { return };
        if piece.is_empty() {
            return;
        }
        content.octets += piece.len() as u64;
        if let Err(error) = content.incoming.write(piece).await {
            self.fail(Failure::Store(error));
        }
    }

    /// Gives back what is held; the rest of the message is read and thrown away.
    fn fail(&mut self, failure: Failure) {
        self.state = Err(failure);
        self.part = Part::Body(BytesMut::new());
    }
}

/// What is taken out of a header.
#[derive(Debug)]
struct Edits {
    hostname: Domain,
    remove_bcc: bool,
}

impl Edits {
    /// The header without the fields that must not go on; the same bytes where there are none.
    fn apply(&self, header: Bytes) -> Bytes {
        let mut kept = Vec::new();
        let mut from = leading_folds(&header);
        for field in fields(&header).filter(|field| self.removes(field)) {
            let at = field.raw.as_ptr() as usize - header.as_ptr() as usize;
            kept.extend_from_slice(&header[from..at]);
            from = at + field.raw.len();
        }
        if from == 0 {
            return header;
        }
        kept.extend_from_slice(&header[from..]);
        kept.into()
    }

    fn removes(&self, field: &Field<'_>) -> bool {
        let is = |name: &[u8]| field.name.eq_ignore_ascii_case(name);
        (self.remove_bcc && (is(b"Bcc") || is(b"Resent-Bcc")))
            || (is(b"Authentication-Results") && self.claims_to_be_ours(field.value))
    }

    /// RFC 8601 §5: results under our name that somebody else wrote would be believed by whoever reads the mail here.
    fn claims_to_be_ours(&self, value: &[u8]) -> bool {
        let value = skip_comments(value);
        let id = match value.strip_prefix(b"\"") {
            Some(rest) => unquoted(rest).0,
            None => {
                let end =
                    value.iter().position(|byte| matches!(byte, b';' | b'(') || byte.is_ascii_whitespace());
                value[..end.unwrap_or(value.len())].to_vec()
            }
        };
        id.trim_ascii().eq_ignore_ascii_case(self.hostname.as_str().as_bytes())
    }
}

/// The length of the lines in front of the first field that begin with white space. They belong to no field, but behind
/// our own fields they would go on with those (RFC 5322 §2.2.3). Without any field they are a body.
fn leading_folds(header: &[u8]) -> usize {
    if fields(header).next().is_none() {
        return 0;
    }
    let lines = header.split_inclusive(|byte| *byte == b'\n');
    lines.take_while(|line| matches!(line, [b' ' | b'\t', ..])).map(<[u8]>::len).sum()
}

/// What a header says to a server.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    /// Received fields: the hops so far.
    pub received: usize,
    /// Without angle brackets.
    pub message_id: Option<String>,
    pub has_message_id: bool,
    pub has_date: bool,
    /// It says itself that it went to many: `Precedence: bulk`, `list` or `junk`.
    pub is_bulk: bool,
    /// `TLS-Required: No` (RFC 8689 §3).
    pub tls_optional: bool,
    /// There is no field at all: what came is a body.
    pub is_missing: bool,
}

impl Header {
    pub fn read(header: &[u8]) -> Self {
        let mut read = Self { is_missing: !header.starts_with(b"\r\n"), ..Self::default() };
        for field in fields(header) {
            read.is_missing = false;
            let is = |name: &[u8]| field.name.eq_ignore_ascii_case(name);
            if is(b"Received") {
                read.received += 1;
            } else if is(b"Date") {
                read.has_date = true;
            } else if is(b"Precedence") {
                let value = field.value.trim_ascii();
                read.is_bulk |=
                    [&b"bulk"[..], b"list", b"junk"].iter().any(|b| value.eq_ignore_ascii_case(b));
            } else if is(b"TLS-Required") {
                read.tls_optional = field.value.trim_ascii().eq_ignore_ascii_case(b"no");
            } else if is(b"Message-ID") {
                read.has_message_id = true;
                read.message_id = read.message_id.or_else(|| message_id(field.value));
            }
        }
        read
    }
}

/// What stands between the angle brackets, as far as it can be shown.
fn message_id(value: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(value);
    let text = text.trim();
    let inner = text.strip_prefix('<').and_then(|text| text.split('>').next()).unwrap_or(text);
    let shown: String = inner.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE_ID).collect();
    (!shown.is_empty()).then_some(shown)
}

/// The fields that go in front of a message.
#[derive(Debug)]
pub(crate) struct OwnFields {
    pub text: Vec<u8>,
    pub message_id: Option<String>,
    /// The priority that the header asks for: see [`BULK_PRIORITY`].
    pub priority: i8,
}

/// Mail that says itself that it is bulk lets other mail go first; it is not kept waiting for ever.
const BULK_PRIORITY: i8 = -1;

/// What the fields say about the hop from the client to us.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hop<'a> {
    pub hostname: &'a Domain,
    /// None: it came over a UNIX socket.
    pub client: Option<IpAddr>,
    /// LMTP, not SMTP.
    pub lmtp: bool,
    pub hello: &'a Hello,
    pub tls: Option<Protection>,
    /// The fingerprint of the certificate that the client has shown.
    pub certificate: Option<&'a str>,
    /// Whether the client logged in.
    pub authenticated: bool,
    /// SMTPUTF8 was asked for.
    pub smtputf8: bool,
    /// The recipient, where it is the only one: others must not learn of each other.
    pub only_recipient: Option<&'a str>,
    /// Whether Date and Message-ID are added where they are missing (RFC 6409 §8.2, §8.3).
    pub completes: bool,
}

impl Hop<'_> {
    /// The fields, in front of a message with this header.
    pub fn own_fields(&self, header: &Header, id: QueueId, now: SystemTime) -> OwnFields {
        let date = date::rfc5322(now);
        let mut text = self.received(id, &date);
        let mut message_id = header.message_id.clone();
        if self.completes && !header.has_date {
            text.push_str(&format!("Date: {date}\r\n"));
        }
        if self.completes && !header.has_message_id {
            let own = format!("{id}@{}", self.hostname);
            text.push_str(&format!("Message-ID: <{own}>\r\n"));
            message_id = Some(own);
        }
        if header.is_missing {
            text.push_str("\r\n");
        }
        let priority = if header.is_bulk { BULK_PRIORITY } else { 0 };
        OwnFields { text: text.into_bytes(), message_id, priority }
    }

    /// RFC 5321 §4.4.
    fn received(&self, id: QueueId, date: &str) -> String {
        let hello = shown_name(&self.hello.name);
        let client =
            self.client.map_or_else(|| "local".to_owned(), |client| Host::Literal(client).to_string());
        let (hostname, protocol) = (self.hostname, self.protocol());
        let protection =
            self.tls.map(|tls| format!("\r\n\t(using {} with cipher {})", tls.version, tls.cipher));
        let protection = protection.unwrap_or_default();
        let certificate =
            self.certificate.map(|sha256| format!("\r\n\t(client certificate sha256 {sha256})"));
        let certificate = certificate.unwrap_or_default();
        // The field must not be what makes a message need SMTPUTF8.
        let recipient = self.only_recipient.filter(|only| only.is_ascii());
        let recipient = recipient.map(|only| format!("\r\n\tfor <{only}>")).unwrap_or_default();
        format!(
            "Received: from {hello} ({client}){protection}{certificate}\r\n\tby {hostname} (Postern) with {protocol} \
             id {id}{recipient};\r\n\t{date}\r\n"
        )
    }

    /// RFC 3848, and RFC 6531 §4.3 for mail that may have UTF-8 in its header.
    fn protocol(&self) -> String {
        if !self.hello.extended {
            return "SMTP".to_owned();
        }
        let base = match (self.smtputf8, self.lmtp) {
            (false, false) => "ESMTP",
            (true, false) => "UTF8SMTP",
            (false, true) => "LMTP",
            (true, true) => "UTF8LMTP",
        };
        let (tls, login) =
            (if self.tls.is_some() { "S" } else { "" }, if self.authenticated { "A" } else { "" });
        format!("{base}{tls}{login}")
    }
}

/// A client may call itself anything; what could be read as another part of the field is shown as "?".
fn shown_name(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    name.chars().map(|c| if plain(c) { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn hello(name: &str) -> Hello {
        Hello { name: name.to_owned(), extended: true }
    }

    fn hop<'a>(hostname: &'a Domain, hello: &'a Hello) -> Hop<'a> {
        Hop {
            hostname,
            client: "198.51.100.9".parse().ok(),
            lmtp: false,
            hello,
            tls: None,
            certificate: None,
            authenticated: false,
            smtputf8: false,
            only_recipient: None,
            completes: false,
        }
    }

    fn fields_of(hop: &Hop<'_>, header: &str) -> OwnFields {
        let now = UNIX_EPOCH + Duration::from_secs(1_795_284_325);
        hop.own_fields(&Header::read(header.as_bytes()), QueueId(7), now)
    }

    fn text_of(hop: &Hop<'_>, header: &str) -> String {
        String::from_utf8(fields_of(hop, header).text).unwrap()
    }

    #[test]
    fn tls_is_optional_only_where_the_field_says_no() {
        let optional = |header: &[u8]| Header::read(header).tls_optional;
        assert!(optional(b"Subject: x\r\ntls-required:  NO \r\n\r\n"));
        assert!(!optional(b"TLS-Required: yes\r\n\r\n") && !optional(b"TLS-Required:\r\n\r\n"));
        assert!(!optional(b"Subject: TLS-Required: No\r\n\r\n"));
    }

    #[test]
    fn received_tells_the_whole_hop() {
        let (hostname, hello) = (Domain::parse("mail.proseware.test").unwrap(), hello("client.test"));
        let hop = Hop {
            tls: Some(Protection { version: "TLSv1.3", cipher: "TLS_AES_256_GCM_SHA384" }),
            authenticated: true,
            only_recipient: Some("bob@adatum.test"),
            ..hop(&hostname, &hello)
        };
        assert_eq!(
            text_of(&hop, "Subject: x\r\n\r\n"),
            "Received: from client.test ([198.51.100.9])\r\n\
             \t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384)\r\n\
             \tby mail.proseware.test (Postern) with ESMTPSA id 0000000000007\r\n\
             \tfor <bob@adatum.test>;\r\n\
             \tSat, 21 Nov 2026 18:05:25 +0000\r\n"
        );
    }

    #[test]
    fn received_names_the_protocol_and_the_socket_of_lmtp() {
        let (hostname, hello) = (Domain::parse("mail.proseware.test").unwrap(), hello("client.test"));
        let local = Hop { client: None, lmtp: true, ..hop(&hostname, &hello) };
        assert!(text_of(&local, "\r\n").starts_with("Received: from client.test (local)\r\n"));
        assert!(text_of(&local, "\r\n").contains(" with LMTP id "));
        let tls = Some(Protection { version: "TLSv1.3", cipher: "TLS_AES_256_GCM_SHA384" });
        assert!(text_of(&Hop { tls, smtputf8: true, ..local }, "\r\n").contains(" with UTF8LMTPS id "));
    }

    #[test]
    fn a_client_name_cannot_forge_parts_of_received() {
        let hostname = Domain::parse("mail.proseware.test").unwrap();
        let hello = hello("x(by);\"<a@b>");
        assert!(
            text_of(&hop(&hostname, &hello), "\r\n")
                .starts_with("Received: from x?by????a?b? ([198.51.100.9])")
        );
    }

    #[test]
    fn received_is_always_ascii() {
        let (hostname, hello) = (Domain::parse("mail.proseware.test").unwrap(), hello("jörg.test"));
        let hop = Hop { only_recipient: Some("jörg@adatum.test"), smtputf8: true, ..hop(&hostname, &hello) };
        let text = text_of(&hop, "\r\n");
        assert!(text.is_ascii() && !text.contains("for"), "{text}");
    }

    #[test]
    fn mail_that_says_it_is_bulk_lets_other_mail_go_first() {
        for (header, is_bulk) in [
            (&b"Precedence: bulk\r\n\r\n"[..], true),
            (b"PRECEDENCE:  List \r\n\r\n", true),
            (b"Precedence: first-class\r\n\r\n", false),
            (b"Subject: bulk\r\n\r\n", false),
        ] {
            assert_eq!(Header::read(header).is_bulk, is_bulk, "{}", String::from_utf8_lossy(header));
        }
    }

    #[test]
    fn submissions_get_date_and_message_id_where_they_have_none() {
        let (hostname, hello) = (Domain::parse("mail.proseware.test").unwrap(), hello("client.test"));
        let relayed = hop(&hostname, &hello);
        let submitted = Hop { completes: true, ..relayed };
        let fields = fields_of(&submitted, "From: a@b.test\r\n\r\n");
        assert_eq!(fields.message_id.as_deref(), Some("0000000000007@mail.proseware.test"));
        let text = String::from_utf8(fields.text).unwrap();
        assert!(text.contains("\r\nDate: Sat, 21 Nov 2026 18:05:25 +0000\r\n"));
        assert!(text.contains("\r\nMessage-ID: <0000000000007@mail.proseware.test>\r\n"));

        let complete = "Date: yesterday\r\nMessage-Id:\r\n <1@b.test> \r\n\r\n";
        assert_eq!(fields_of(&submitted, complete).message_id.as_deref(), Some("1@b.test"));
        assert_eq!(text_of(&submitted, complete), text_of(&relayed, "From: a@b.test\r\n\r\n"));
    }

    #[test]
    fn a_message_that_is_only_a_body_stays_one() {
        let (hostname, hello) = (Domain::parse("mail.proseware.test").unwrap(), hello("client.test"));
        let hop = hop(&hostname, &hello);
        assert!(text_of(&hop, "just text\r\n").ends_with("\r\n\r\n"));
        assert!(!text_of(&hop, "\r\n").ends_with("\r\n\r\n"));
        assert!(!text_of(&hop, "Subject: x\r\n").ends_with("\r\n\r\n"));
    }

    fn edited(header: &str, remove_bcc: bool) -> String {
        let edits = Edits { hostname: Domain::parse("mail.proseware.test").unwrap(), remove_bcc };
        String::from_utf8(edits.apply(Bytes::copy_from_slice(header.as_bytes())).to_vec()).unwrap()
    }

    #[test]
    fn bcc_is_removed_from_submissions_with_its_folded_lines() {
        let header =
            "To: a@b.test\r\nBCC: c@d.test,\r\n e@f.test\r\nnot a field\r\nresent-bcc: x\r\nX: 1\r\n\r\n";
        assert_eq!(edited(header, true), "To: a@b.test\r\nnot a field\r\nX: 1\r\n\r\n");
        assert_eq!(edited(header, false), header);
    }

    #[test]
    fn lines_that_would_go_on_with_our_own_fields_are_removed() {
        let hidden = " (forged) by other.test;\r\n\t\r\nSubject: x\r\n folded\r\n\r\n";
        assert_eq!(edited(hidden, false), "Subject: x\r\n folded\r\n\r\n");
        assert_eq!(edited(" x\r\nBcc: y\r\nTo: z\r\n\r\n", true), "To: z\r\n\r\n");
        for body in [" indented text\r\nand more\r\n", "\r\n indented\r\n"] {
            assert_eq!(edited(body, false), body);
        }
    }

    #[test]
    fn results_under_our_name_are_removed_and_others_kept() {
        for (value, removed) in [
            (" mail.proseware.test; dkim=pass", true),
            ("\r\n (a (b) \\) c) MAIL.Proseware.Test 1; none", true),
            (" mail.proseware.test(x); none", true),
            (" \"mail.proseware.test\"; none", true),
            ("(x) \"mail\\.prose\r\n ware.test\" 1; none", false),
            (" \"mail\\.proseware.test\" 1; none", true),
            (" \"mail.adatum.test\"; none", false),
            (" mail.adatum.test; dkim=pass", false),
            (" notmail.proseware.test; dkim=pass", false),
            ("", false),
        ] {
            let header = format!("Authentication-Results:{value}\r\nSubject: x\r\n\r\n");
            let expected = if removed { "Subject: x\r\n\r\n" } else { header.as_str() };
            assert_eq!(edited(&header, false), expected);
        }
    }
}
