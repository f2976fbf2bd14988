//! kill -9 at random moments, round after round on one spool: a process of its own writes with many threads and tells what
//! became durable, and the next one must find it. `POSTERN_KILL_ROUNDS` says how many rounds, `POSTERN_SEED` which moments.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_queue::QueueId;
use postern_queue::store::files::SystemFiles;
use postern_queue::store::{Change, NewBody, Store, Tuning};
use postern_runtime::SystemClock;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::support::*;

/// Rounds, unless the environment says otherwise.
const ROUNDS: u64 = 100;
const WRITERS: usize = 16;
/// What the process that writes is told: the directory, and a seed.
const SPOOL: &str = "POSTERN_KILL_SPOOL";
const SEED: &str = "POSTERN_KILL_SEED";
/// Messages of one writer that wait at most, so that the spool stays small enough to be read in each round.
const WAITING: usize = 12;

fn config_of(directory: &Path) -> postern_config::Queue {
    postern_config::Queue {
        segment_size: 1024 * 1024,
        index_interval: Duration::from_millis(20),
        ..config(directory)
    }
}

/// The process that is killed: not a test by itself.
#[test]
fn writer() {
    let Some(directory) = std::env::var_os(SPOOL) else { return };
    let begun = Instant::now();
    // As in use, and everything is given back as soon as it can be.
    let tuning = Tuning { probe_interval: Duration::from_secs(1), copy_rate: 64 << 20, ..tuning() };
    let config = config_of(&PathBuf::from(directory));
    let (store, found) =
        Store::open_with(&config, Arc::new(SystemFiles), Arc::new(SystemClock), tuning).unwrap();
    // libtest has begun a line.
    tell(&format!("\nopened {} {}", begun.elapsed().as_micros(), found.damaged));
    for message in &found.messages {
        let state = message.state.clone().map_or_else(|| "-".to_owned(), |s| String::from_utf8(s).unwrap());
        let content = match read(&store, message.id) {
            Ok(octets) if octets == content(message.id, octets.len()) => octets.len().to_string(),
            Ok(_) => "wrong".to_owned(),
            Err(error) => format!("unreadable: {error}"),
        };
        tell(&format!("found {} {state} {content}", message.id.0));
    }
    tell("ready");
    let seed = setting(SEED).unwrap();
    let mut found = ids(&found);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let share = found.split_off(found.len() - found.len() / (WRITERS - writer));
            let random = StdRng::seed_from_u64(seed + writer as u64);
            let store = &store;
            scope.spawn(move || write(store, share, random));
        }
    });
}

/// Says what is going to be done, does it, says that it is durable; until the process is killed.
fn write(store: &Store, mut live: Vec<QueueId>, mut random: StdRng) {
    loop {
        let pick = random.random_range(0..10);
        if live.is_empty() || (pick < 5 && live.len() < WAITING) {
            let id = store.next_id();
            let length = if random.random_range(0..20) == 0 {
                300 * 1024
            } else {
                random.random_range(512..40 * 1024)
            };
            tell(&format!("asked enqueue {} {length}", id.0));
            let change = if length > 32 * 1024 { large(store, id, length) } else { enqueue(id, length) };
            commit(store, vec![change]);
            tell(&format!("durable enqueue {}", id.0));
            live.push(id);
            continue;
        }
        let at = random.random_range(0..live.len());
        let id = live[at];
        if pick < 7 {
            let text = format!("tried-{}", random.random::<u32>());
            tell(&format!("asked state {} {text}", id.0));
            settle(store, state(id, &text), &mut random);
            tell(&format!("durable state {}", id.0));
        } else {
            live.swap_remove(at);
            tell(&format!("asked delete {}", id.0));
            settle(store, Change::Delete { id }, &mut random);
            tell(&format!("durable delete {}", id.0));
        }
    }
}

/// Commits and waits, like an operator or like a delivery.
fn settle(store: &Store, change: Change, random: &mut StdRng) {
    let told = hand_over(store, vec![change]);
    if random.random_bool(0.5) {
        store.hurry();
    }
    told.recv_timeout(Duration::from_secs(30)).unwrap().unwrap();
}

fn large(store: &Store, id: QueueId, length: usize) -> Change {
    let mut file = store.begin_body(id).unwrap();
    content(id, length).chunks(64 * 1024).for_each(|piece| file.write(piece).unwrap());
    let body = NewBody::Large { header: Vec::new(), body: file.finish().unwrap() };
    Change::Enqueue { id, meta: envelope(id), body }
}

/// One line with one call: it is in the pipe whole or not at all.
fn tell(line: &str) {
    let line = format!("{line}\n");
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

/// What the test knows of a message.
#[derive(Debug, Default)]
struct Known {
    length: usize,
    is_durable: bool,
    /// The states it may be in.
    states: BTreeSet<String>,
    is_ending: bool,
}

#[derive(Debug, Default)]
struct Tally {
    messages: usize,
    states: usize,
    deletions: usize,
    checked: usize,
    lost: usize,
    wrong: usize,
    damaged: usize,
    slowest: Duration,
    faults: Vec<String>,
}

#[derive(Debug, Default)]
struct Model {
    messages: BTreeMap<u64, Known>,
    asked: BTreeMap<u64, String>,
    ended: BTreeSet<u64>,
    tally: Tally,
}

impl Model {
    /// Takes what a process says until it is ready, or is killed before. Whether it is ready.
    fn take_start(&mut self, lines: &mut impl Iterator<Item = String>, round: u64) -> bool {
        let mut found = BTreeMap::new();
        for line in lines {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            match words[..] {
                ["opened", micros, damaged] => {
                    self.tally.slowest =
                        self.tally.slowest.max(Duration::from_micros(micros.parse().unwrap()));
                    self.tally.damaged += damaged.parse::<usize>().unwrap();
                }
                ["found", id, state, content] => {
                    let id: u64 = id.parse().unwrap();
                    found.insert(id, (state.to_owned(), content.to_owned()));
                }
                ["ready"] => {
                    self.judge(&found, round);
                    return true;
                }
                // What libtest says.
                _ => {}
            }
        }
        false
    }

    /// Compares what a start found with what is known, and goes on with what it found.
    fn judge(&mut self, found: &BTreeMap<u64, (String, String)>, round: u64) {
        let Self { messages, asked, ended, tally } = self;
        for (id, known) in messages.iter().filter(|(id, _)| !found.contains_key(id)) {
            if known.is_durable && !known.is_ending {
                tally.lost += 1;
                tally.faults.push(format!("round {round}: message {id} is lost"));
            }
        }
        for (id, (state, content)) in found {
            tally.checked += 1;
            let fault = match messages.get(id) {
                None => Some(format!("it is back, or never was; ended: {}", ended.contains(id))),
                Some(known) if *content != known.length.to_string() => Some(format!("content {content}")),
                Some(known) if !known.states.contains(state) => Some(format!("state {state}")),
                Some(_) => None,
            };
            if let Some(fault) = fault {
                tally.wrong += 1;
                tally.faults.push(format!("round {round}: message {id}: {fault}"));
            }
        }
        let gone = messages.keys().filter(|id| !found.contains_key(id));
        ended.extend(gone);
        messages.retain(|id, _| found.contains_key(id));
        for (id, known) in messages {
            known.is_durable = true;
            known.is_ending = false;
            known.states = [found[id].0.clone()].into();
        }
        asked.clear();
    }

    fn take(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let id = |text: &str| text.parse::<u64>().unwrap();
        match words[..] {
            ["asked", "enqueue", message, length] => {
                let known = Known {
                    length: length.parse().unwrap(),
                    states: ["-".to_owned()].into(),
                    ..Known::default()
                };
                self.messages.insert(id(message), known);
            }
            ["asked", "state", message, text] => {
                self.messages.get_mut(&id(message)).unwrap().states.insert(text.to_owned());
                self.asked.insert(id(message), text.to_owned());
            }
            ["asked", "delete", message] => self.messages.get_mut(&id(message)).unwrap().is_ending = true,
            ["durable", "enqueue", message] => {
                self.messages.get_mut(&id(message)).unwrap().is_durable = true;
                self.tally.messages += 1;
            }
            ["durable", "state", message] => {
                let text = self.asked.remove(&id(message)).unwrap();
                self.messages.get_mut(&id(message)).unwrap().states = [text].into();
                self.tally.states += 1;
            }
            ["durable", "delete", message] => {
                self.messages.remove(&id(message));
                self.ended.insert(id(message));
                self.tally.deletions += 1;
            }
            _ => panic!("{line}"),
        }
    }
}

fn start(directory: &Path, seed: u64) -> (Child, impl Iterator<Item = String> + Send + use<>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["kill::writer", "--exact", "--nocapture", "--test-threads=1"])
        .env(SPOOL, directory)
        .env(SEED, seed.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = child.stdout.take().unwrap();
    (child, lines(output))
}

/// Whole lines: what was being said at the kill is not said.
fn lines(output: ChildStdout) -> impl Iterator<Item = String> + Send {
    let mut reader = BufReader::with_capacity(1 << 20, output);
    std::iter::from_fn(move || {
        let mut line = String::new();
        let read = reader.read_line(&mut line).unwrap();
        (read > 0 && line.ends_with('\n')).then(|| line.trim_end().to_owned())
    })
}

/// One process, killed `alive` after it was ready, or so long after it was begun.
fn round(directory: &Path, model: &mut Model, number: u64, random: &mut StdRng) {
    let (mut child, mut lines) = start(directory, random.random());
    // Now and then while it starts.
    if random.random_range(0..8) == 0 {
        std::thread::sleep(Duration::from_millis(random.random_range(1..60)));
        child.kill().unwrap();
    }
    if model.take_start(&mut lines, number) {
        let alive = Duration::from_millis(random.random_range(5..=300));
        std::thread::scope(|scope| {
            // The moment is the random part of the test; what is said meanwhile must be read, or the pipe fills up.
            scope.spawn(|| lines.for_each(|line| model.take(&line)));
            std::thread::sleep(alive);
            child.kill().unwrap();
        });
    }
    let status = child.wait().unwrap();
    assert!(!status.success() && status.code().is_none(), "round {number}: it ended by itself with {status}");
}

#[test]
fn nothing_acknowledged_is_lost_by_kills() {
    let rounds = setting("POSTERN_KILL_ROUNDS").unwrap_or(ROUNDS);
    let seed = setting("POSTERN_SEED").unwrap_or(1);
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("spool");
    let mut model = Model::default();
    let mut random = StdRng::seed_from_u64(seed);
    for number in 0..rounds {
        round(&root, &mut model, number, &mut random);
    }
    let (mut last, mut lines) = start(&root, 0);
    assert!(model.take_start(&mut lines, rounds), "the last start");
    last.kill().unwrap();
    last.wait().unwrap();
    let tally = &model.tally;
    say(&format!(
        "kill -9 of the store, seed {seed}: {rounds} rounds, {WRITERS} writers\n\
         acknowledged: {} messages, {} states, {} deletions; checked after starts: {}\n\
         lost {}, wrong {}, damaged records {}, slowest open {} ms",
        tally.messages,
        tally.states,
        tally.deletions,
        tally.checked,
        tally.lost,
        tally.wrong,
        tally.damaged,
        tally.slowest.as_millis()
    ));
    assert!(tally.faults.is_empty(), "{:#?}", &tally.faults[..tally.faults.len().min(20)]);
    assert_eq!(tally.damaged, 0, "a kill damages nothing");
    assert!(tally.messages > 0 && tally.states > 0 && tally.deletions > 0 && tally.checked > 0);
}
