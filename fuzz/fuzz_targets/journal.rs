//! Files of lines that a start finds and a question reads: the journal of deliveries and the records of refusals. Damaged lines are
//! passed over, what is found is what was asked for, and new records are kept beside them.
#![no_main]

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use postern_policy::record::{Record, Records, Reference, Settings};
use postern_queue::history::{Query, offline, offline_tally};
use tempfile::TempDir;

/// Sat, 21 Nov 2026 18:05:25 UTC.
const NOW: u64 = 1_795_284_325;
/// A record as it stands in a file, with a reference of its own.
const RECORD: &str = include_str!("../src/record.json");
const SETTINGS: Settings = Settings {
    enabled: true,
    max_records: 1000,
    max_size: 1 << 20,
    max_age: Duration::from_secs(30 * 86_400),
    max_per_client: 1000,
    min_free_space: 0,
    with_tokens: false,
};

fuzz_target!(|octets: &[u8]| {
    let folder = TempDir::new().expect("a folder");
    history(folder.path(), octets);
    records(&folder.path().join("records"), octets);
});

fn history(folder: &Path, octets: &[u8]) {
    std::fs::write(folder.join("00000001-2026-11-21.jsonl"), octets).expect("a file");
    let text = String::from_utf8_lossy(octets);
    // Whoever stands in a line can be asked for.
    let id = text.split_once("\"id\":\"").and_then(|(_, rest)| rest.get(..13)).unwrap_or("01N2K3P4Q5R6S");
    for key in [id, "@adatum.test", "bob@adatum.test", "<1@proseware.test>"] {
        let query = Query { key: key.to_owned(), since: None, until: Some(NOW + 86_400), limit: 3 };
        let Ok(found) = offline(folder, &query) else { continue };
        let asked = found.messages.iter().filter(|story| story.about.is_none()).count();
        assert!(asked <= 3, "{asked} messages");
    }
    let _ = offline_tally(folder, NOW - 86_400);
}

fn records(folder: &Path, octets: &[u8]) {
    std::fs::create_dir(folder).expect("a folder");
    std::fs::write(folder.join("000000000001.jsonl"), octets).expect("a file");
    let records =
        Records::open(folder, SETTINGS, || UNIX_EPOCH + Duration::from_secs(NOW)).expect("a thread");
    let name = records.name([198, 51, 100, 9].into()).expect("room for a record");
    let record: Record = serde_json::from_str(RECORD).expect("a record");
    let record = Record { reference: name.reference.to_string(), time: NOW, ..record };
    records.keep(&name, record.clone());
    assert_eq!(records.find(&name.reference.to_string()), Some(record), "what was kept is not found");
    let lines = octets.split(|octet| *octet == b'\n').count() as u64;
    let status = records.status();
    assert!(status.records + status.unreadable <= lines + 2, "{status:?}");
    for line in octets.split(|octet| *octet == b'\n').take(8) {
        let reference = line.get(14..23).and_then(|text| std::str::from_utf8(text).ok());
        let Some(reference) = reference.and_then(|text| text.parse::<Reference>().ok()) else { continue };
        if let Some(found) = records.find(&reference.to_string()) {
            assert_eq!(found.reference, reference.to_string());
        }
    }
    let _ = records.find_near(name.reference);
    records.close();
}
