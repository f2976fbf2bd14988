//! One flipped bit anywhere in a closed spool: no wrong octet is handed out, no start is refused but for FORMAT, which says
//! why, and every message is fine, or in sight and unreadable, or set aside and counted. `POSTERN_FLIPS` says how many.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use postern_queue::QueueId;
use postern_queue::store::{Change, Found, NewBody, Store, StoreError};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::support::*;

/// Flips in all, unless the environment says otherwise.
const FLIPS: usize = 300;

/// Kinds of files, how to know them by their path, and how many of a hundred flips they get.
const KINDS: [(&str, &str, usize); 7] = [
    ("segments", "log/", 45),
    ("large messages", "big/", 15),
    ("index", "index/", 15),
    ("FORMAT", "FORMAT", 6),
    ("LOCK", "LOCK", 3),
    ("set aside, marks", "damaged/", 10),
    ("reserve", "reserve", 6),
];

/// A closed spool.
struct Spool {
    directory: tempfile::TempDir,
    /// Length and newest state.
    messages: BTreeMap<QueueId, (usize, Option<String>)>,
    ended: Vec<QueueId>,
    /// What was damaged before any flip.
    damaged: usize,
}

impl Spool {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Self { directory, messages: BTreeMap::new(), ended: Vec::new(), damaged: 0 };
        let (store, _) = open(spool.path());
        let victim = put(&store, 50);
        store.close();
        // One that is damaged already, so that there are marks and something set aside.
        let first = segments(spool.path()).remove(0);
        let mut octets = fs::read(&first).unwrap();
        let at = octets.windows(8).position(|window| window == b"envelope").unwrap();
        octets[at] ^= 1;
        fs::write(&first, octets).unwrap();
        fs::remove_dir_all(spool.path().join("index")).unwrap();
        let (store, found) = open(spool.path());
        spool.damaged = found.damaged;
        assert!(spool.damaged > 0 && !ids(&found).contains(&victim));
        for number in 0..24 {
            let length = 40 * (number % 9) + 1;
            let id = if number % 6 == 5 { put_large(&store, 10 * length) } else { put(&store, length) };
            spool.messages.insert(id, (if number % 6 == 5 { 10 * length } else { length }, None));
            if number % 3 == 0 {
                commit(&store, vec![state(id, &format!("tried {number}"))]);
                spool.messages.get_mut(&id).unwrap().1 = Some(format!("tried {number}"));
            }
            if number % 5 == 0 {
                delete(&store, id);
                spool.messages.remove(&id);
                spool.ended.push(id);
            }
        }
        store.close();
        spool
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The files with anything in them, by kind.
    fn files(&self, prefix: &str) -> Vec<PathBuf> {
        let mut files = files_below(self.path());
        files.retain(|file| {
            let name = file.strip_prefix(self.path()).unwrap().to_string_lossy().into_owned();
            name.starts_with(prefix) && fs::metadata(file).unwrap().len() > 0
        });
        files
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect();
    files.sort();
    files
}

fn put_large(store: &Store, length: usize) -> QueueId {
    let id = store.next_id();
    let mut file = store.begin_body(id).unwrap();
    file.write(&content(id, length)).unwrap();
    let body = NewBody::Large { header: Vec::new(), body: file.finish().unwrap() };
    commit(store, vec![Change::Enqueue { id, meta: envelope(id), body }]);
    id
}

#[derive(Debug, Default)]
struct Tally {
    flips: usize,
    /// Flips after which all was as before.
    harmless: usize,
    /// Messages that are in sight and cannot be read.
    unreadable: usize,
    /// Messages that were set aside, and counted.
    set_aside: usize,
    /// States that were set aside, and counted.
    older_states: usize,
    unnoticed: usize,
    wrong: usize,
    refused: usize,
    faults: Vec<String>,
}

impl Tally {
    fn fault(&mut self, what: &str, text: impl std::fmt::Display) {
        self.faults.push(format!("{what}: {text}"));
    }

    /// Opens a spool in which one bit is flipped.
    fn check(&mut self, spool: &Spool, directory: &Path, what: &str) {
        self.flips += 1;
        let opened = open_on(
            directory,
            std::sync::Arc::new(crate::disk::Disk(std::sync::Arc::new(crate::disk::Nothing))),
        );
        let (store, found) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.refused += 1;
                let says_why =
                    matches!(error, StoreError::UnknownFormat(_)) && error.to_string().contains("FORMAT");
                if !says_why {
                    self.fault(what, error);
                }
                return;
            }
        };
        let before = (self.unreadable, self.set_aside, self.older_states, self.wrong);
        self.compare(spool, &store, &found, what);
        let after = (self.unreadable, self.set_aside, self.older_states, self.wrong);
        self.harmless += usize::from(before == after);
        let is_counted = found.damaged > 0;
        if (before.1, before.2) != (after.1, after.2) && !is_counted {
            self.unnoticed += 1;
            self.fault(what, "something is gone and nobody was told");
        }
        let late = put(&store, 100);
        store.close();
        let (_store, again) = open(directory);
        let expected: Vec<QueueId> = ids(&found).into_iter().chain([late]).collect();
        if ids(&again) != expected {
            self.fault(what, "a second start finds something else");
        }
    }

    fn compare(&mut self, spool: &Spool, store: &Store, found: &Found, what: &str) {
        for (id, (length, newest)) in &spool.messages {
            let Some(message) = found.messages.iter().find(|message| message.id == *id) else {
                self.set_aside += 1;
                continue;
            };
            match read(store, *id) {
                Ok(octets) if octets == content(*id, *length) && message.meta == envelope(*id) => {}
                Ok(_) => {
                    self.wrong += 1;
                    self.fault(what, "wrong content or envelope");
                }
                Err(StoreError::Damaged(_)) => self.unreadable += 1,
                Err(error) => self.fault(what, error),
            }
            let state = message.state.clone().map(|state| String::from_utf8_lossy(&state).into_owned());
            match state {
                state if state == *newest => {}
                None => self.older_states += 1,
                Some(state) => {
                    self.wrong += 1;
                    self.fault(what, format!("state {state}"));
                }
            }
        }
        for message in found.messages.iter().filter(|message| !spool.messages.contains_key(&message.id)) {
            let was = if spool.ended.contains(&message.id) { "ended" } else { "never there" };
            self.wrong += 1;
            self.fault(what, format!("{} was {was}", message.id));
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_hands_out_nothing_wrong_and_is_noticed_where_it_costs_something() {
    let flips = setting("POSTERN_FLIPS").unwrap_or(FLIPS as u64) as usize;
    let seed = setting("POSTERN_SEED").unwrap_or(1);
    let spool = Spool::new();
    let mut random = StdRng::seed_from_u64(seed);
    let mut table = format!(
        "flipped bits, seed {seed}\n{:<18} {:>5} {:>8} {:>10} {:>9} {:>12} {:>9} {:>5} {:>14}\n",
        "in",
        "flips",
        "harmless",
        "unreadable",
        "set aside",
        "older states",
        "unnoticed",
        "wrong",
        "starts refused"
    );
    let mut faults = Vec::new();
    for (kind, prefix, percent) in KINDS {
        let files = spool.files(prefix);
        assert!(!files.is_empty(), "no {kind}");
        let mut tally = Tally::default();
        for number in 0..(flips * percent).div_ceil(100) {
            let file = &files[number % files.len()];
            let copy = tempfile::tempdir().unwrap();
            crate::support::copy(spool.path(), copy.path());
            let name = file.strip_prefix(spool.path()).unwrap();
            let mut octets = fs::read(file).unwrap();
            let at = random.random_range(0..octets.len());
            octets[at] ^= 1 << random.random_range(0..8);
            fs::write(copy.path().join(name), &octets).unwrap();
            // The index would make up for much of the damage elsewhere.
            let without_index = prefix != "index/" && random.random_bool(0.5);
            if without_index {
                fs::remove_dir_all(copy.path().join("index")).unwrap();
            }
            let what = format!("flip at {at} of {}, without index: {without_index}", name.display());
            tally.check(&spool, copy.path(), &what);
        }
        table += &format!(
            "{kind:<18} {:>5} {:>8} {:>10} {:>9} {:>12} {:>9} {:>5} {:>14}\n",
            tally.flips,
            tally.harmless,
            tally.unreadable,
            tally.set_aside,
            tally.older_states,
            tally.unnoticed,
            tally.wrong,
            tally.refused
        );
        if prefix == "FORMAT" {
            assert_eq!(tally.refused, tally.flips, "another format is not touched");
        } else {
            assert_eq!(tally.refused, 0, "{kind}");
        }
        faults.extend(tally.faults);
    }
    say(&table);
    assert!(faults.is_empty(), "{} faults: {:#?}", faults.len(), &faults[..faults.len().min(20)]);
}
