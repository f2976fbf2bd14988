//! A segment of the spool, as a start and a check find it. The checksums of whatever looks like a record are put right, but for
//! those with the highest bit of their kind set, so that every input reaches what stands behind them. It opens, and what is found in
//! it is found again at the next start, with or without an index.
#![no_main]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use postern_config::Queue as Settings;
use postern_queue::QueueId;
use postern_queue::store::check::{Options, check_directory};
use postern_queue::store::files::{Files, SystemFiles};
use postern_queue::store::{Store, Tuning};
use postern_runtime::SystemClock;
use tempfile::TempDir;

/// The form of a record: `crates/queue/src/store/record.rs`.
const MAGIC: &[u8] = b"pRc1";
const HEADER: usize = 64;
const ALIGNMENT: usize = 16;
const KIND: usize = 4;
const NAME: usize = 8;
const META_LENGTH: usize = 44;
const BODY_LENGTH: usize = 48;
const META_CRC: usize = 52;
const BODY_CRC: usize = 56;
const HEADER_CRC: usize = 60;
const DAMAGED: u8 = 0x80;

/// The first of a spool.
const SEGMENT: u64 = 1 << 32 | 77;

type Messages = BTreeMap<QueueId, (Vec<u8>, Option<Vec<u8>>)>;

fuzz_target!(|octets: &[u8]| {
    let folder = TempDir::new().expect("a folder");
    let root = folder.path().join("spool");
    std::fs::create_dir_all(root.join("log")).expect("a folder in it");
    std::fs::create_dir(root.join("big")).expect("another");
    std::fs::write(root.join("FORMAT"), "1\n").expect("a file in it");
    let segment = root.join(format!("log/seg-{SEGMENT:016x}.log"));
    std::fs::write(segment, sealed(octets)).expect("another");

    let mut findings = 0;
    let mut note = |_| {
        findings += 1;
        ControlFlow::Continue(())
    };
    let files: Arc<dyn Files> = Arc::new(SystemFiles);
    let options = Options { full: true, rate: u64::MAX };
    check_directory(&root, &files, options, &mut note).expect("damage is no error");
    let found = started(&root);
    assert_eq!(started(&root), found, "another start finds other messages");
    std::fs::remove_dir_all(root.join("index")).expect("there was an index");
    assert_eq!(started(&root), found, "without an index there are other messages");
});

/// What a start finds.
fn started(root: &Path) -> Messages {
    let settings = Settings { path: root.to_owned(), segment_size: 64 * 1024, ..Settings::default() };
    let opened = Store::open_with(&settings, Arc::new(SystemFiles), Arc::new(SystemClock), Tuning::default());
    let (store, found) = opened.expect("damage is no error");
    assert_eq!(store.len(), found.messages.len());
    let found =
        found.messages.into_iter().map(|message| (message.id, (message.meta, message.state))).collect();
    postern_queue::Spool::close(&store);
    found
}

fn sealed(octets: &[u8]) -> Vec<u8> {
    let mut octets = octets.to_vec();
    let mut at = 0;
    while at + HEADER <= octets.len() {
        if !octets[at..].starts_with(MAGIC) {
            at += ALIGNMENT;
            continue;
        }
        let record = &mut octets[at..];
        let number = |record: &[u8], at: usize| {
            record[at..].first_chunk().map_or(0, |octets| u32::from_le_bytes(*octets) as usize)
        };
        let (meta, body) = (number(record, META_LENGTH), number(record, BODY_LENGTH));
        if record[KIND] & DAMAGED == 0 {
            record[NAME..NAME + 8].copy_from_slice(&SEGMENT.to_le_bytes());
            for (from, length, crc) in [(HEADER, meta, META_CRC), (HEADER + meta, body, BODY_CRC)] {
                if let Some(part) = record.get(from..from + length) {
                    let sum = crc32c::crc32c(part);
                    record[crc..crc + 4].copy_from_slice(&sum.to_le_bytes());
                }
            }
            let sum = crc32c::crc32c(&record[..HEADER_CRC]);
            record[HEADER_CRC..HEADER].copy_from_slice(&sum.to_le_bytes());
        }
        at += (HEADER + meta + body).next_multiple_of(ALIGNMENT);
    }
    octets
}
