//! What can be mended is mended without losing anything, and what cannot is left as it is.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use postern_queue::QueueId;
use postern_queue::store::check::{AtRest, Options, Subject};
use postern_queue::store::files::{Files, SystemFiles};
use postern_queue::store::fix::{Fix, Plan};
use postern_queue::store::quarantine::KeptKind;
use postern_queue::store::{Store, StoreError};

use crate::support::*;

const LIVE: Options = Options { full: false, rate: u64::MAX };

/// The file of a large message that nobody has.
const ORPHAN: &str = "big/0000000000000007";

fn system() -> Arc<dyn Files> {
    Arc::new(SystemFiles)
}

fn fixes(findings: &Findings) -> Vec<Fix> {
    let mut plan = Plan::default();
    findings.0.iter().for_each(|finding| plan.take(finding));
    plan.fixes()
}

fn live(store: &Store) -> Findings {
    let mut findings = Findings::default();
    store.check(LIVE, &mut findings.listener()).unwrap();
    findings
}

fn check_at_rest(spool: &mut AtRest<'_>) -> Findings {
    let mut findings = Findings::default();
    spool.check(LIVE, &mut findings.listener()).unwrap();
    findings
}

/// Checks a spool at rest, does what can be done, and checks again.
fn fix_at_rest(directory: &Path) -> (Findings, Vec<Fix>, Findings) {
    let files = system();
    let mut spool = open_patiently(|| AtRest::claim(directory, &files)).unwrap();
    let before = check_at_rest(&mut spool);
    let fixed = spool.fix(&fixes(&before)).unwrap();
    assert_eq!(fixed.skipped, []);
    let after = check_at_rest(&mut spool);
    (before, fixed.fixed, after)
}

fn set_aside(file: &str) -> Fix {
    Fix::SetAside { file: file.to_owned() }
}

fn kept(store: &Store) -> Vec<(String, KeptKind)> {
    store.quarantine().unwrap().into_iter().map(|kept| (kept.name, kept.kind)).collect()
}

/// Where the record of a message begins: the segment and the offset.
fn record(directory: &Path, id: QueueId) -> (std::path::PathBuf, usize) {
    let wanted = envelope(id);
    let found = segments(directory).into_iter().find_map(|path| {
        let octets = fs::read(&path).unwrap();
        let at = octets.windows(wanted.len()).position(|window| window == wanted)?;
        let begin = octets[..at].windows(4).rposition(|window| window == b"pRc1")?;
        Some((path, begin))
    });
    found.unwrap_or_else(|| panic!("message {id} is nowhere"))
}

#[test]
fn files_of_nobody_go_into_the_quarantine_while_mail_flows() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let large = put_large(&store, 5000);
    for file in [ORPHAN, "big/notes.txt", "log/notes.txt"] {
        fs::write(directory.path().join(file), file).unwrap();
    }
    let found = fixes(&live(&store));
    assert_eq!(found, [ORPHAN, "big/notes.txt", "log/notes.txt"].map(set_aside));
    let fixed = store.fix(&found, &mut listen).unwrap();
    assert_eq!((fixed.fixed, fixed.skipped), (found.clone(), Vec::new()));
    assert_eq!(live(&store).0, []);
    let expected = [
        ("big-0000000000000007", KeptKind::LargeFile),
        ("big.notes.txt", KeptKind::Foreign),
        ("log.notes.txt", KeptKind::Foreign),
    ];
    assert_eq!(kept(&store), expected.map(|(name, kind)| (name.to_owned(), kind)));
    // What belongs to somebody by now, or is not there any more, is left alone.
    let own = set_aside(&format!("big/{:016x}", large.0));
    let segment = segments(directory.path()).remove(0);
    let segment = set_aside(&format!("log/{}", segment.file_name().unwrap().to_str().unwrap()));
    let copy = Fix::Copy { file: "log/x".to_owned(), from: 0, to: 64, keeps: true };
    let again = store.fix(&[own, segment, copy, set_aside(ORPHAN)], &mut listen).unwrap();
    assert_eq!((again.fixed.len(), again.skipped.len()), (0, 4), "{:?}", again.skipped);
    assert_eq!(read(&store, large).unwrap().len(), HEADER.len() + 5000);
    for name in ["big.notes.txt", "log.notes.txt", "big-0000000000000007"] {
        store.discard(name).unwrap();
    }
    assert_eq!(kept(&store), []);
}

#[test]
fn a_file_that_is_left_over_at_rest_goes_as_it_would_at_a_start() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let id = put(&store, 900);
    store.close();
    fs::write(directory.path().join(ORPHAN), "of nobody").unwrap();
    let (before, fixed, after) = fix_at_rest(directory.path());
    assert_eq!((before.about(), before.0.len()), (vec![], 1), "a note");
    assert_eq!(fixed, [Fix::Remove { file: ORPHAN.to_owned() }]);
    assert_eq!(after.0, []);
    assert!(!directory.path().join(ORPHAN).exists());

    // What mentions it might be what cannot be read.
    fs::write(directory.path().join(ORPHAN), "of whom?").unwrap();
    let (segment, begin) = record(directory.path(), id);
    flip(&segment, begin + 9);
    let (_, fixed, _) = fix_at_rest(directory.path());
    assert!(fixed.contains(&set_aside(ORPHAN)), "{fixed:?}");
    let aside = directory.path().join("damaged/big-0000000000000007");
    assert_eq!(fs::read_to_string(aside).unwrap(), "of whom?");
}

#[test]
fn damage_in_a_sealed_segment_is_copied_and_the_segment_kept_and_no_message_lost() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let messages: Vec<_> = (0..20).map(|_| put(&store, 900)).collect();
    store.close();
    let (segment, begin) = record(directory.path(), messages[1]);
    assert_eq!(segment, segments(directory.path())[0], "a sealed one");
    flip(&segment, begin + 9);

    let (before, fixed, after) = fix_at_rest(directory.path());
    let Some(Fix::Copy { file, from, keeps: true, .. }) = fixed.first() else { panic!("{fixed:?}") };
    assert!(file.starts_with("log/seg-") && *from == begin as u64 && fixed.len() == 1, "{fixed:?}");
    // The index still knows the message: it must not be written anew from a log that does not.
    let index = |findings: &Findings| {
        let about_index = findings.0.iter().filter(|finding| finding.about == Subject::Index);
        about_index.map(|finding| finding.advice.clone()).collect::<Vec<_>>()
    };
    assert_eq!(index(&before).len(), 1, "{:?}", before.0);
    assert!(index(&before)[0].contains("see to the damaged messages first"), "{:?}", before.0);
    assert_eq!(after.about(), before.about(), "it is still wrong");
    assert_eq!(fixes(&after), [], "and there is nothing more to do about it");

    let (store, found) = open(directory.path());
    assert_eq!(ids(&found), messages);
    messages.iter().skip(2).for_each(|id| assert_eq!(read(&store, *id).unwrap(), content(*id, 900)));
    let kinds: Vec<KeptKind> = kept(&store).into_iter().map(|(_, kind)| kind).collect();
    assert_eq!(kinds, [KeptKind::Octets, KeptKind::DamagedSegment]);
    let salvaged = store.salvage(messages[1]).unwrap();
    assert_eq!(salvaged.envelope, Some(envelope(messages[1])));
}

#[test]
fn a_damaged_content_is_copied_and_its_message_stays_in_the_queue() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let messages: Vec<_> = (0..20).map(|_| put(&store, 900)).collect();
    store.close();
    let (segment, begin) = record(directory.path(), messages[1]);
    flip(&segment, begin + 500);
    let (before, fixed, after) = fix_at_rest(directory.path());
    assert_eq!((before.about(), after.about()), (vec![Subject::Content], vec![Subject::Content]));
    assert!(matches!(&fixed[..], [Fix::Copy { keeps: false, .. }]), "{fixed:?}");
    assert_eq!(fixes(&after), []);
    let (store, found) = open(directory.path());
    assert_eq!(ids(&found), messages);
    assert!(matches!(read(&store, messages[1]), Err(StoreError::Damaged(_))));
    assert_eq!(kept(&store).len(), 1, "no mark: nothing but its content is damaged");
}

#[test]
fn a_bad_index_is_written_anew_at_rest() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let messages: Vec<_> = (0..20).map(|_| put(&store, 700)).collect();
    store.close();
    let index = directory.path().join("index");
    for entry in fs::read_dir(&index).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::write(path, b"garbage ".repeat(1000)).unwrap();
        }
    }
    let files = system();
    let mut spool = open_patiently(|| AtRest::claim(directory.path(), &files)).unwrap();
    let found = check_at_rest(&mut spool);
    assert_eq!(found.about(), [Subject::Index], "{:?}", found.0);
    assert_eq!(fixes(&found), [Fix::RebuildIndex]);
    assert_eq!(spool.fix(&fixes(&found)).unwrap().fixed, [], "it needs the spool for itself");
    drop(spool);
    let clock = Arc::new(postern_runtime::SystemClock);
    let rows = Store::rebuild_at_rest(&config(directory.path()), clock, &mut listen).unwrap();
    assert_eq!(rows, 20);
    let (before, fixed, _) = fix_at_rest(directory.path());
    assert_eq!((before.0, fixed), (vec![], vec![]));
    let (_, found) = open(directory.path());
    assert_eq!((found.index_rebuilt.as_deref(), ids(&found)), (None, messages));
}

#[test]
fn a_segment_that_is_missing_is_only_named() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    (0..40).for_each(|_| _ = put(&store, 900));
    store.close();
    let gone = segments(directory.path()).remove(1);
    fs::remove_file(&gone).unwrap();
    let (before, fixed, after) = fix_at_rest(directory.path());
    assert!(before.about().contains(&Subject::File), "{:?}", before.0);
    assert_eq!((fixed, after.about()), (vec![], before.about()));
}

#[test]
fn a_spool_in_use_is_not_mended_from_outside() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let files = system();
    assert!(matches!(AtRest::claim(directory.path(), &files), Err(StoreError::InUse(_))));
    store.close();
    let mut spool = open_patiently(|| AtRest::claim(directory.path(), &files)).unwrap();
    assert!(Store::open(&config(directory.path()), Arc::new(postern_runtime::SystemClock)).is_err());
    // Nothing that no check has found.
    fs::write(directory.path().join(ORPHAN), "of nobody").unwrap();
    for fix in [Fix::Remove { file: ORPHAN.to_owned() }, set_aside(ORPHAN)] {
        assert_eq!(spool.fix(&[fix]).unwrap().skipped.len(), 1);
    }
    assert!(directory.path().join(ORPHAN).exists());
}
