//! What others report of our mail: aggregate reports of DMARC, and complaints. The first octet says how the rest is wrapped. Whatever
//! a file holds, it is counted once: as a report, as none, or as one that cannot be read; soon, and in texts of bounded length.
#![no_main]

use std::io::{Cursor, Write};
use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use libfuzzer_sys::fuzz_target;
use postern_outbound::checkup::reports::{Reach, read_all};
use tempfile::TempDir;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// Sat, 21 Nov 2026 18:05:25 UTC.
const NOW: Duration = Duration::from_secs(1_795_284_325);
const OURS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 25));
/// For 4 KiB, which unpack to 4 MiB at most.
const PATIENCE: Duration = Duration::from_secs(5);
/// Characters of any text.
const MOST_TEXT: usize = 300;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a folder"));

fuzz_target!(|octets: &[u8]| {
    let Some((choice, rest)) = octets.split_first() else { return };
    let packed = match choice & 3 {
        0 => rest.to_vec(),
        1 => gzip(rest),
        2 => zip(rest),
        _ => gzip(&rest.repeat(1000)),
    };
    let file = FOLDER.path().join("report");
    let content = if choice & 4 == 0 { packed } else { message(&packed, choice & 8 != 0) };
    std::fs::write(&file, content).expect("the file is written");
    let began = Instant::now();
    let reach = Reach { max_age: Duration::MAX, max_files: 10 };
    let found = read_all(&[file], reach, &[OURS], UNIX_EPOCH + NOW);
    assert!(began.elapsed() < PATIENCE, "it took {:?}", began.elapsed());
    let counted = found.read + found.others + found.repeated + found.problems.len() as u64;
    assert_eq!(counted, 1, "{found:?}");
    let names = found.dmarc.iter().flat_map(|domain| {
        let reporters = domain.reporters.iter().map(|reporter| &reporter.name);
        reporters.chain([&domain.domain, &domain.policy])
    });
    let senders = found
        .complaints
        .iter()
        .flat_map(|from| from.senders.iter().map(|(sender, _)| sender).chain([&from.provider]));
    let problems = found.problems.iter().map(|problem| &problem.why);
    for text in names.chain(senders).chain(problems) {
        assert!(text.chars().count() <= MOST_TEXT && !text.contains(char::is_control), "{text:?}");
        assert!(!text.contains("its reader failed"), "a library failed");
    }
});

fn gzip(octets: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(octets).and_then(|()| packer.finish()).expect("memory takes everything")
}

fn zip(octets: &[u8]) -> Vec<u8> {
    let mut packer = ZipWriter::new(Cursor::new(Vec::new()));
    packer.start_file("report.xml", SimpleFileOptions::default()).expect("a file");
    packer.write_all(octets).expect("memory takes everything");
    packer.finish().expect("an archive").into_inner()
}

fn message(content: &[u8], is_complaint: bool) -> Vec<u8> {
    let kind = if is_complaint { "message/feedback-report" } else { "application/octet-stream" };
    let head = format!(
        "From: reports@adatum.test\r\nMIME-Version: 1.0\r\nContent-Type: multipart/report; boundary=b\r\n\r\n--b\r\n\
         Content-Type: {kind}\r\nContent-Transfer-Encoding: base64\r\n\r\n{}\r\n--b--\r\n",
        STANDARD.encode(content)
    );
    head.into_bytes()
}
