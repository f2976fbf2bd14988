//! What the words of SMTP cost: command lines, addresses, the content behind DATA and BDAT, binary parts, header fields.
//!
//! ```text
//! cargo bench -p postern-smtp
//! ```
//!
//! `copy` beside the readers of content is what the machine needs to copy the same octets: what memory gives at best.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use postern_smtp::binary::Converter;
use postern_smtp::chunk::ChunkReader;
use postern_smtp::command::Command;
use postern_smtp::data::{BareLf, DataReader, DotStuffer, Step};
use postern_smtp::{Address, Chunk, header};

fn main() {
    divan::main();
}

/// Commands as clients send them.
const COMMANDS: [&str; 6] = [
    "EHLO mail.thephone-company.test",
    "MAIL FROM:<newsletter+bounce-4711=bob=adatum.test@thephone-company.test> SIZE=48213 BODY=8BITMIME",
    "RCPT TO:<alice@proseware.test>",
    "DATA",
    "BDAT 48213 LAST",
    "QUIT",
];

#[divan::bench(args = COMMANDS)]
fn command(line: &str) -> bool {
    Command::parse(black_box(line.as_bytes())).is_ok()
}

#[divan::bench(args = ["alice@proseware.test", "\"a b\"@[IPv6:2001:db8::1]", "user@xn--bcher-kva.test", "üser@bücher.test"])]
fn address(text: &str) -> bool {
    Address::parse(black_box(text)).is_ok()
}

/// Octets of the content that is read.
const CONTENT: usize = 1024 * 1024;
/// How much a read from a connection gives.
const READ: usize = 64 * 1024;

/// Content of lines so long, each with its CRLF.
fn content(line: usize) -> Vec<u8> {
    let mut content = Vec::with_capacity(CONTENT);
    while content.len() + line + 2 <= CONTENT {
        content.extend(std::iter::repeat_n(b'x', line));
        content.extend_from_slice(b"\r\n");
    }
    content
}

/// Gives the content in reads, and sums what the reader takes of it.
fn take(content: &[u8], mut next: impl FnMut(&[u8]) -> Step) -> usize {
    let mut taken = 0;
    for read in content.chunks(READ) {
        let mut at = 0;
        loop {
            match next(&read[at..]) {
                Step::Content(octets) => {
                    taken += octets;
                    at += octets;
                }
                Step::Skip(octets) => at += octets,
                Step::LineEnd => at += 1,
                Step::More | Step::End(_) => break,
            }
        }
    }
    taken
}

/// Lines of text, of base 64, and the longest that the standard has.
const LINES: [usize; 3] = [40, 76, 998];

#[divan::bench(args = LINES)]
fn data(bencher: Bencher<'_, '_>, line: usize) {
    let content = content(line);
    bencher.counter(BytesCount::new(content.len())).bench_local(|| {
        let mut reader = DataReader::new(10_000, BareLf::Report);
        take(black_box(&content), |input| reader.next(input))
    });
}

#[divan::bench(args = LINES)]
fn chunks(bencher: Bencher<'_, '_>, line: usize) {
    let content = content(line);
    bencher.counter(BytesCount::new(content.len())).bench_local(|| {
        let mut reader = ChunkReader::new(10_000, BareLf::Report);
        reader.begin(Chunk { octets: content.len() as u64, is_last: true });
        take(black_box(&content), |input| reader.next(input))
    });
}

#[divan::bench(args = LINES)]
fn dots(bencher: Bencher<'_, '_>, line: usize) {
    let content = content(line);
    let mut wire = Vec::with_capacity(content.len() * 2);
    bencher.counter(BytesCount::new(content.len())).bench_local(|| {
        wire.clear();
        let mut stuffer = DotStuffer::new();
        for read in content.chunks(READ) {
            stuffer.push(black_box(read), &mut wire);
        }
        wire.len()
    });
}

/// A message with one attachment that is labelled so. As `binary` it becomes base 64, as `8bit` it is only looked through.
#[divan::bench(args = ["binary", "8bit"])]
fn binary_parts(bencher: Bencher<'_, '_>, label: &str) {
    let header = format!(
        "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Transfer-Encoding: {label}\r\n\r\n"
    );
    let message = [header.as_bytes(), &content(76), b"\r\n--b--\r\n"].concat();
    let mut out = Vec::with_capacity(message.len() * 2);
    bencher.counter(BytesCount::new(message.len())).bench_local(|| {
        out.clear();
        let mut converter = Converter::new(10_000);
        for read in message.chunks(READ) {
            // A message of ours is converted.
            let _ = converter.push(black_box(read), &mut out);
        }
        let _ = converter.finish(&mut out);
        out.len()
    });
}

#[divan::bench]
fn copy(bencher: Bencher<'_, '_>) {
    let content = content(76);
    let mut copied = Vec::with_capacity(content.len());
    bencher.counter(BytesCount::new(content.len())).bench_local(|| {
        copied.clear();
        copied.extend_from_slice(black_box(&content));
        copied.len()
    });
}

#[divan::bench]
fn header_fields(bencher: Bencher<'_, '_>) {
    const HEADER: &[u8] =
        b"Received: from mx.thephone-company.test (mx.thephone-company.test [192.0.2.9])\r\n\
        \tby mail.proseware.test with ESMTPS id 4QX793KD;\r\n\tSat, 21 Nov 2026 18:05:25 +0000\r\n\
        From: \"The Phone Company\" <newsletter@thephone-company.test>\r\n\
        To: Alice <alice@proseware.test>, bob@proseware.test\r\n\
        Subject: =?utf-8?q?Your_bill?=\r\nMessage-ID: <1@thephone-company.test>\r\n\
        Date: Sat, 21 Nov 2026 18:05:25 +0000\r\nMIME-Version: 1.0\r\n\r\n";
    bencher
        .counter(ItemsCount::new(header::fields(HEADER).count()))
        .bench_local(|| header::fields(black_box(HEADER)).map(|field| field.value.len()).sum::<usize>());
}

#[divan::bench]
fn header_addresses() -> usize {
    let value = b" \"The Phone Company\" <newsletter@thephone-company.test>, bob@proseware.test";
    header::addresses(black_box(value)).map_or(0, |addresses| addresses.len())
}
