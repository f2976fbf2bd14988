#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use postern_config::ListenerKind;
use postern_smtp::{ForwardPath, ReversePath};
use tempfile::TempDir;

use super::*;
use crate::relay::{Reason, Trace, Verdict};

const SETTINGS: Settings = Settings {
    enabled: true,
    max_records: 1_000_000,
    max_size: 256 << 20,
    max_age: Duration::from_secs(30 * 86_400),
    max_per_client: 1_000_000_000,
    min_free_space: 0,
    with_tokens: false,
};

/// Records in a folder, and the time that they go by, in seconds.
struct Kept {
    folder: TempDir,
    time: Arc<AtomicU64>,
    records: Records,
}

impl Kept {
    fn new(settings: Settings) -> Self {
        let (folder, time) = (tempfile::tempdir().unwrap(), Arc::new(AtomicU64::new(1000)));
        let records = open(&folder, &time, settings);
        Self { folder, time, records }
    }

    fn restart(&mut self, settings: Settings) {
        self.records.close();
        self.records = open(&self.folder, &self.time, settings);
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = fs::read_dir(self.folder.path().join("records"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        files
    }

    fn pass(&self, time: u64) {
        self.time.store(time, Ordering::Relaxed);
    }

    fn keep(&self, recipient: &str) -> Name {
        keep_from(&self.records, "198.51.100.9", recipient, self.time.load(Ordering::Relaxed)).unwrap()
    }
}

fn open(folder: &TempDir, time: &Arc<AtomicU64>, settings: Settings) -> Records {
    let time = time.clone();
    let now = move || UNIX_EPOCH + Duration::from_secs(time.load(Ordering::Relaxed));
    Records::open(&folder.path().join("records"), settings, now).unwrap()
}

fn keep_from(records: &Records, client: &str, recipient: &str, time: u64) -> Option<Name> {
    let client = client.parse().unwrap();
    let name = records.name(client)?;
    let path = ForwardPath::parse(recipient).unwrap();
    let question = Question {
        listener: ListenerKind::Mx,
        client,
        local: None,
        tls: false,
        certificate: None,
        login: None,
        helo: Some("client.test"),
        now: UNIX_EPOCH + Duration::from_secs(time),
        recipients: 0,
        reverse_path: &ReversePath::Null,
        stage: Stage::Rcpt(&path),
    };
    let trace = Trace(
        ["local recipient", "relay domain", "trusted network", "login"]
            .map(|rule| crate::relay::Step {
                rule: rule.to_owned(),
                matched: false,
                fact: format!("{recipient} is none of 2 of them"),
            })
            .into(),
    );
    let decision = Decision { verdict: Verdict::Reject, reason: Reason::NotTrustedNotLocal, trace };
    let told = Told {
        class: Class::Relay,
        cause: "relay not permitted".to_owned(),
        advice: "log in".to_owned(),
        reply: format!("550 5.7.1 <{recipient}>: relay not permitted"),
    };
    let mut transcript = Transcript::default();
    transcript.command(b"EHLO client.test");
    transcript.command(b"MAIL FROM:<>");
    transcript.command(format!("RCPT TO:<{recipient}>").as_bytes());
    records.keep(&name, Record::new(&name, &question, &decision, told, &transcript));
    Some(name)
}

#[test]
fn a_record_is_found_however_its_reference_is_typed() {
    let kept = Kept::new(SETTINGS);
    let reference = kept.keep("bob@adatum.test").reference.to_string();
    for typed in
        [reference.clone(), reference.to_lowercase(), reference.replace('-', ""), format!(" {reference}")]
    {
        let record = kept.records.find(&typed).unwrap();
        assert_eq!(record.recipient.as_deref(), Some("bob@adatum.test"));
        assert_eq!((record.client.as_str(), record.time), ("198.51.100.9", 1000));
        assert_eq!(record.transcript.last().unwrap(), "C: RCPT TO:<bob@adatum.test>");
        assert_eq!(record.decision.trace.0.len(), 4);
    }
    assert!(kept.records.find("not one").is_none());
    assert!(kept.records.find("0000-0000").is_none());
}

#[test]
fn records_survive_a_restart_and_damage_costs_only_the_damaged_line() {
    let mut kept = Kept::new(SETTINGS);
    let names: Vec<Name> = (0..3).map(|at| kept.keep(&format!("r{at}@adatum.test"))).collect();
    kept.records.close();
    let file = &kept.files()[0];
    let text = fs::read_to_string(file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3);
    let damaged = lines[1].replace("\"stage\"", "\u{0}\"sta");
    fs::write(file, format!("{}\n{damaged}\ngarbage\n{}\n{}", lines[0], lines[2], &lines[0][..100])).unwrap();
    fs::write(kept.folder.path().join("records/note.txt"), "not ours").unwrap();
    kept.restart(SETTINGS);
    let found: Vec<bool> =
        names.iter().map(|name| kept.records.find(&name.reference.to_string()).is_some()).collect();
    assert_eq!(found, [true, false, true]);
    assert_eq!(kept.records.status().unreadable, 2);
    // A former file is never appended to.
    let name = kept.keep("new@adatum.test");
    assert!(kept.records.find(&name.reference.to_string()).is_some());
    assert_eq!(kept.files().len(), 3);
}

#[test]
fn the_oldest_go_first_when_there_are_too_many() {
    let mut kept = Kept::new(Settings { max_records: 100, ..SETTINGS });
    let names: Vec<Name> = (0..300).map(|at| kept.keep(&format!("r{at}@adatum.test"))).collect();
    let is_there = |kept: &Kept, at: usize| kept.records.find(&names[at].reference.to_string()).is_some();
    assert!(is_there(&kept, 299) && is_there(&kept, 210) && !is_there(&kept, 199) && !is_there(&kept, 0));
    let records = kept.records.status().records;
    assert!((95..=100).contains(&records), "{records}");
    kept.restart(Settings { max_records: 10, ..SETTINGS });
    assert!(is_there(&kept, 299) && !is_there(&kept, 280));
    kept.records.set(Settings { max_records: 1, ..SETTINGS });
    assert!(!is_there(&kept, 296));
}

#[test]
fn octets_of_the_files_stay_within_the_cap() {
    let kept = Kept::new(Settings { max_size: 1 << 20, ..SETTINGS });
    let first = kept.keep("first@adatum.test");
    let mut last = first;
    for at in 0..3000 {
        last = kept.keep(&format!("r{at}@adatum.test"));
        if at % 1000 == 0 {
            // More than can wait at once.
            kept.records.flush();
        }
    }
    assert!(kept.records.find(&last.reference.to_string()).is_some());
    assert!(kept.records.find(&first.reference.to_string()).is_none());
    let octets: u64 = kept.files().iter().map(|file| file.metadata().unwrap().len()).sum();
    assert_eq!(octets, kept.records.status().octets);
    assert!(octets <= 1 << 20 && octets > 900 << 10, "{octets}");
}

#[test]
fn what_is_too_old_is_not_shown_and_removed() {
    let kept = Kept::new(Settings { max_age: Duration::from_secs(100), ..SETTINGS });
    let name = kept.keep("old@adatum.test");
    let reference = name.reference.to_string();
    assert!(kept.records.find(&reference).is_some());
    assert_eq!(kept.records.status().oldest, Some(1000));
    kept.pass(1100);
    assert!(kept.records.find(&reference).is_some());
    kept.pass(1101);
    assert!(kept.records.find(&reference).is_none());
    let newer = kept.keep("new@adatum.test");
    assert!(kept.records.find(&newer.reference.to_string()).is_some());
    assert_eq!((kept.files().len(), kept.records.status().oldest), (1, Some(1101)));
}

#[test]
fn a_token_opens_its_record_and_the_reference_does_not() {
    let kept = Kept::new(Settings { with_tokens: true, ..SETTINGS });
    let name = kept.keep("bob@adatum.test");
    let token = name.token.unwrap();
    let record = kept.records.find_by_token(&token).unwrap();
    assert_eq!(record.reference, name.reference.to_string());
    assert_eq!(kept.records.find(&record.reference).unwrap(), record);
    let text = fs::read_to_string(&kept.files()[0]).unwrap();
    assert!(!text.contains(&token.to_string()));
    // A record without a token is opened by none, whatever its reference is.
    kept.records.set(SETTINGS);
    assert_eq!(kept.keep("carol@adatum.test").token, None);
    let other: Token = "0".repeat(26).parse().unwrap();
    assert!(kept.records.find_by_token(&other).is_none());
}

#[test]
fn a_client_that_knocks_too_often_gets_no_more_references() {
    let kept = Kept::new(Settings { max_per_client: 2, ..SETTINGS });
    let is_named = |client: &str| keep_from(&kept.records, client, "a@adatum.test", 1000).is_some();
    assert_eq!(["198.51.100.9"; 3].map(is_named), [true, true, false]);
    assert!(is_named("198.51.100.10"));
    assert_eq!(["2001:db8::1", "2001:db8::2", "2001:db8::3"].map(is_named), [true, true, false]);
    assert!(is_named("2001:db8:0:1::1"));
    assert_eq!(kept.records.status().not_kept, [("crowded", 0), ("client", 2), ("failed", 0)]);
    kept.pass(1000 + 3600);
    assert!(is_named("198.51.100.9"));
    kept.records.set(Settings { enabled: false, ..SETTINGS });
    assert!(!is_named("198.51.100.11"));
}

#[test]
fn a_folder_that_cannot_be_written_to_is_told_and_costs_only_references() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("records"), "in the way").unwrap();
    let records = open(&folder, &Arc::default(), SETTINGS);
    records.flush();
    assert!(records.name("198.51.100.9".parse().unwrap()).is_none());
    assert!(records.status().trouble.unwrap().contains("records"));
    fs::remove_file(folder.path().join("records")).unwrap();
    records.set(SETTINGS);
    records.flush();
    assert_eq!(records.status().trouble, None);
    let name = keep_from(&records, "198.51.100.9", "a@adatum.test", 0).unwrap();
    assert!(records.find(&name.reference.to_string()).is_some());
    records.set(Settings { min_free_space: u64::MAX, ..SETTINGS });
    let name = keep_from(&records, "198.51.100.9", "a@adatum.test", 0).unwrap();
    assert!(records.find(&name.reference.to_string()).is_none());
    assert!(records.status().trouble.unwrap().contains("free"));
    records.close();
}

#[test]
fn a_flood_is_bounded_and_what_does_not_fit_is_counted() {
    let kept = Kept::new(SETTINGS);
    // The thread cannot write while somebody holds the files.
    let files = kept.records.shared.files.lock();
    let named = (0..10 * MOST_WAITING)
        .filter(|_| keep_from(&kept.records, "198.51.100.9", "a@adatum.test", 1000).is_some());
    let named = named.count();
    assert!((MOST_WAITING..2 * MOST_WAITING).contains(&named), "{named}");
    drop(files);
    kept.records.flush();
    assert_eq!(kept.records.status().records, named as u64);
    assert_eq!(kept.records.status().not_kept[0], ("crowded", (10 * MOST_WAITING - named) as u64));
}

#[test]
#[allow(clippy::print_stdout, reason = "the figures are in the docs")]
fn one_million_records_stay_within_the_caps_and_cost_eight_octets_of_memory_each() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Files::new(folder.path());
    // Small records, so that a million of them fit the size: it is the number that is looked at.
    let kept = Kept::new(SETTINGS);
    let mut record = kept.records.find(&kept.keep("a@b.test").reference.to_string()).unwrap();
    record.decision.trace.0.clear();
    record.transcript.clear();
    (record.cause, record.advice, record.reply) = Default::default();
    let settings = Settings { max_size: 1 << 30, ..SETTINGS };
    let began = Instant::now();
    let mut batch = files::Batch::default();
    for at in 0..1_100_000u64 {
        assert!(batch.push(Reference(at), &record));
        if batch.records() == 100 {
            files.make_room(&batch, &settings, 1000);
            files.append(&batch, &settings, 1000).unwrap();
            batch.clear();
        }
    }
    let (octets, memory) = (files.octets() / files.records(), files.memory() as u64 / files.records());
    println!(
        "{} records in {:?}: {octets} octets of disk and {memory} of memory each",
        files.records(),
        began.elapsed()
    );
    assert!((980_000..=1_000_000).contains(&files.records()), "{}", files.records());
    assert!(memory <= 10, "{memory}");
    assert_eq!(files.places(Reference(0)), []);
    let last = files.places(Reference(1_099_999));
    assert!(files::read(&last[0]).is_some());
}

#[test]
fn files_are_for_nobody_else_and_hold_a_line_a_record() {
    use std::os::unix::fs::PermissionsExt;
    let kept = Kept::new(SETTINGS);
    kept.keep("bob@adatum.test");
    kept.records.flush();
    let file = &kept.files()[0];
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(file), mode(file.parent().unwrap())), (0o600, 0o700));
    let mut strange = fs::OpenOptions::new().append(true).open(file).unwrap();
    strange.write_all(b"{\"reference\":\"0000-0001\",\"time\":5,\"x\":1}\n").unwrap();
    let text = fs::read_to_string(file).unwrap();
    assert!(text.starts_with("{\"reference\":\"") && text.lines().count() == 2);
}
