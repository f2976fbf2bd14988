//! Power cuts: whatever is left of what was not synced, what was acknowledged is there, whole, with its newest state, and
//! nothing else is handed out. `POSTERN_POWER_IMAGES` says how many cuts, `POSTERN_SEED` which.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use parking_lot::Mutex;
use postern_queue::QueueId;
use postern_queue::store::{Change, NewBody, Store, StoreError, Tuning};
use postern_runtime::SystemClock;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::disk::{Call, Disk};
use crate::image::{Fault, Image, Recorder};
use crate::support::*;

/// Cuts in all, unless the environment says otherwise.
const IMAGES: usize = 500;
/// Cuts of one run of the store.
const CUTS: usize = 12;

/// A way to use the store, and how many of a hundred cuts are made in it.
struct Scenario {
    name: &'static str,
    percent: usize,
    steps: usize,
    segment: u64,
    lengths: Range<usize>,
    mix: Mix,
    /// How often everything that can be given back is, while it runs.
    collect: f64,
    /// How often the next step waits until the last is durable.
    wait: f64,
    /// Whether calls fail now and then.
    fails: bool,
    /// Whether the index is rewritten whenever its size is looked at.
    rewrites: bool,
    /// How often power is cut, the store going on with what the last cut has left.
    generations: usize,
}

/// What the steps are, in parts.
#[derive(Clone, Copy)]
struct Mix {
    enqueue: u32,
    large: u32,
    state: u32,
    delete: u32,
}

const USUAL: Scenario = Scenario {
    name: "small messages",
    percent: 12,
    steps: 100,
    segment: SEGMENT,
    lengths: 0..2500,
    mix: Mix { enqueue: 4, large: 0, state: 2, delete: 3 },
    collect: 0.05,
    wait: 0.3,
    fails: false,
    rewrites: false,
    generations: 1,
};

const SCENARIOS: [Scenario; 9] = [
    Scenario { name: "young store", percent: 12, steps: 4, wait: 0.8, ..USUAL },
    USUAL,
    Scenario { name: "mixed sizes", lengths: 500..40_000, segment: 64 * 1024, steps: 60, ..USUAL },
    Scenario {
        name: "large messages",
        lengths: 5_000..150_000,
        mix: Mix { enqueue: 1, large: 4, state: 1, delete: 3 },
        steps: 50,
        ..USUAL
    },
    Scenario {
        name: "state changes",
        mix: Mix { enqueue: 2, large: 0, state: 8, delete: 1 },
        steps: 150,
        ..USUAL
    },
    Scenario {
        name: "deletions, compaction",
        mix: Mix { enqueue: 5, large: 1, state: 1, delete: 5 },
        steps: 150,
        collect: 0.3,
        ..USUAL
    },
    Scenario { name: "index rewritten", percent: 6, steps: 260, wait: 1.0, rewrites: true, ..USUAL },
    Scenario { name: "failing disk", percent: 12, mix: MANY_KINDS, wait: 1.0, fails: true, ..USUAL },
    Scenario {
        name: "cut again and again",
        percent: 10,
        mix: MANY_KINDS,
        steps: 40,
        generations: 3,
        ..USUAL
    },
];

const MANY_KINDS: Mix = Mix { enqueue: 4, large: 1, state: 3, delete: 3 };

/// A change, and when it was asked for and answered: the number of events before that.
#[derive(Debug, Clone)]
struct Asked {
    what: What,
    at: usize,
    told: Arc<Mutex<Option<Answer>>>,
}

#[derive(Debug, Clone, Copy)]
enum Answer {
    Durable(usize),
    Refused(usize),
}

impl Asked {
    /// What was decided before anything happened, or never.
    fn before(what: What, is_durable: bool) -> Self {
        Self { what, at: 0, told: Arc::new(Mutex::new(is_durable.then_some(Answer::Durable(0)))) }
    }

    fn at(what: What, at: usize) -> Self {
        Self { what, at, told: Arc::new(Mutex::new(Some(Answer::Durable(at)))) }
    }

    fn answer(&self, cut: usize) -> Option<Answer> {
        let answer = *self.told.lock();
        answer.filter(|(Answer::Durable(at) | Answer::Refused(at))| *at <= cut)
    }
}

#[derive(Debug, Clone)]
enum What {
    Enqueue(QueueId, usize),
    State(QueueId, String),
    Delete(QueueId),
    /// A start found it, with this state.
    Found(QueueId, usize, Option<String>),
}

struct Load<'a> {
    scenario: &'a Scenario,
    store: Store,
    recorder: Arc<Recorder>,
    random: StdRng,
    asked: Vec<Asked>,
    live: Vec<QueueId>,
}

impl Load<'_> {
    fn run(&mut self) {
        for step in 0..self.scenario.steps {
            let rounds = self.recorder.index_rounds();
            let mut whats = Vec::new();
            let mut changes = Vec::new();
            for _ in 0..self.random.random_range(1..4) {
                let Some((what, change)) = self.change(step) else { continue };
                whats.push(what);
                changes.push(change);
            }
            let has_changes = !changes.is_empty();
            self.commit(whats, changes);
            if self.scenario.rewrites && has_changes && !self.recorder.has_rewritten_index() {
                // The size of the index is looked at after so many rounds.
                eventually("writing the index", || self.recorder.index_rounds() > rounds);
            }
            if self.random.random_bool(self.scenario.collect) {
                self.store.collect();
            }
        }
    }

    fn commit(&mut self, whats: Vec<What>, changes: Vec<Change>) {
        let told = Arc::new(Mutex::new(None));
        let at = self.recorder.now();
        self.asked.extend(whats.iter().map(|what| Asked { what: what.clone(), at, told: Arc::clone(&told) }));
        let recorder = Arc::clone(&self.recorder);
        let (sender, receiver) = channel();
        let fails = self.scenario.fails;
        self.store.commit(
            changes,
            Box::new(move |result| {
                let is_durable = result.is_ok();
                assert!(is_durable || fails, "{result:?}");
                let now = recorder.now();
                *told.lock() = Some(if is_durable { Answer::Durable(now) } else { Answer::Refused(now) });
                let _ = sender.send(is_durable);
            }),
        );
        let is_durable = !self.random.random_bool(self.scenario.wait)
            || receiver.recv_timeout(Duration::from_secs(60)).unwrap();
        if !is_durable {
            // Undone: what was to begin is not there, what was to end is.
            for what in whats.into_iter().rev() {
                match what {
                    What::Enqueue(id, _) => self.live.retain(|live| *live != id),
                    What::Delete(id) => self.live.push(id),
                    _ => {}
                }
            }
        }
    }

    /// A change of some kind. `None`: a disk that fails did not let it begin.
    fn change(&mut self, step: usize) -> Option<(What, Change)> {
        let Mix { enqueue, large, state: states, delete } = self.scenario.mix;
        let pick = self.random.random_range(0..enqueue + large + states + delete);
        let length = self.random.random_range(self.scenario.lengths.clone());
        if pick < large {
            let id = self.store.next_id();
            let file = self.store.begin_body(id).and_then(|mut file| {
                file.write(&content(id, length))?;
                file.finish()
            });
            let file = match file {
                Ok(file) => file,
                Err(_) if self.scenario.fails => return None,
                Err(error) => panic!("{error}"),
            };
            self.live.push(id);
            let body = NewBody::Large { header: Vec::new(), body: file };
            return Some((What::Enqueue(id, length), Change::Enqueue { id, meta: envelope(id), body }));
        }
        if self.live.is_empty() || pick < large + enqueue {
            let id = self.store.next_id();
            self.live.push(id);
            return Some((What::Enqueue(id, length), crate::support::enqueue(id, length)));
        }
        let at = self.random.random_range(0..self.live.len());
        if pick < large + enqueue + states {
            let text = format!("state {step}");
            return Some((What::State(self.live[at], text.clone()), state(self.live[at], &text)));
        }
        let id = self.live.swap_remove(at);
        Some((What::Delete(id), Change::Delete { id }))
    }
}

/// What must be there, and what may be, after a cut before event `cut`.
#[derive(Debug, Default)]
struct Expected {
    must: BTreeMap<QueueId, usize>,
    may: BTreeMap<QueueId, usize>,
    states: HashMap<QueueId, BTreeSet<Option<String>>>,
}

impl Expected {
    fn at(asked: &[Asked], cut: usize) -> Self {
        let mut expected = Self::default();
        let is_durable = |asked: &&Asked| matches!(asked.answer(cut), Some(Answer::Durable(_)));
        let last = asked.iter().filter(is_durable).map(|asked| asked.at).max().unwrap_or(0);
        for asked in asked.iter().filter(|asked| asked.at <= cut) {
            match asked.answer(cut) {
                // Nothing is acknowledged before what was refused is cut off.
                Some(Answer::Refused(at)) if at <= last => {}
                answer => expected.take(&asked.what, matches!(answer, Some(Answer::Durable(_)))),
            }
        }
        expected
    }

    fn take(&mut self, what: &What, is_durable: bool) {
        match what {
            What::Enqueue(id, length) => {
                self.may.insert(*id, *length);
                self.states.insert(*id, [None].into());
                if is_durable {
                    self.must.insert(*id, *length);
                }
            }
            What::State(id, text) => {
                let states = self.states.entry(*id).or_default();
                if is_durable {
                    states.clear();
                }
                states.insert(Some(text.clone()));
            }
            What::Delete(id) => {
                self.must.remove(id);
                if is_durable {
                    self.may.remove(id);
                }
            }
            What::Found(id, length, state) => {
                self.must.insert(*id, *length);
                self.may.insert(*id, *length);
                self.states.insert(*id, [state.clone()].into());
            }
        }
    }

    /// The same as what was asked for before anything happened: for a store that goes on with it.
    fn as_asked(&self) -> Vec<Asked> {
        let mut asked = Vec::new();
        for (id, length) in &self.may {
            asked.push(Asked::before(What::Enqueue(*id, *length), self.must.contains_key(id)));
            let states = &self.states[id];
            for (place, state) in states.iter().flatten().enumerate() {
                let replaces = place == 0 && !states.contains(&None);
                asked.push(Asked::before(What::State(*id, state.clone()), replaces));
            }
        }
        asked
    }
}

/// What came of the images of a scenario.
#[derive(Debug, Default)]
struct Tally {
    images: usize,
    acknowledged: usize,
    lost: usize,
    wrong: usize,
    set_aside: usize,
    rebuilt: usize,
    refused: usize,
    /// What should not have been.
    faults: Vec<String>,
}

impl Tally {
    fn check(&mut self, scenario: &Scenario, expected: &Expected, root: &Path, what: &str) {
        self.images += 1;
        self.acknowledged += expected.must.len();
        let (store, found) = match scenario.open(root, Arc::new(Disk(Arc::new(crate::disk::Nothing)))) {
            Ok(opened) => opened,
            Err(error) => {
                self.refused += 1;
                return self.faults.push(format!("{what}: {error}"));
            }
        };
        self.set_aside += found.damaged;
        self.rebuilt += usize::from(found.index_rebuilt.is_some());
        let there: BTreeSet<QueueId> = ids(&found).into_iter().collect();
        for id in expected.must.keys().filter(|id| !there.contains(id)) {
            self.lost += 1;
            self.faults.push(format!("{what}: acknowledged message {id} is lost"));
        }
        for message in &found.messages {
            if let Err(fault) = judge(&store, expected, message) {
                self.wrong += 1;
                self.faults.push(format!("{what}: message {}: {fault}", message.id));
            }
        }
        // On a disk without room for a note a segment goes without one; until there is room, it is missed.
        if !found.lost.is_empty() || (missing(root) > 0 && !scenario.fails) {
            self.wrong += 1;
            self.faults.push(format!("{what}: a false alarm about what is not lost: {:?}", found.lost));
        }
        let late = put(&store, 100);
        store.close();
        if self.images.is_multiple_of(2) {
            // The index knows what the first start made of it; the log must say the same.
            let _ = fs::remove_dir_all(root.join("index"));
        }
        let (store, again) = scenario.open(root, Arc::new(Disk(Arc::new(crate::disk::Nothing)))).unwrap();
        let mut messages = found.messages;
        messages.push(store.load(late).unwrap());
        if again.messages != messages {
            self.wrong += 1;
            self.faults.push(format!("{what}: a second start finds something else"));
        }
    }
}

/// What is wrong with a message that a start found.
fn judge(
    store: &Store,
    expected: &Expected,
    message: &postern_queue::store::Recovered,
) -> Result<(), String> {
    let id = message.id;
    let length = expected.may.get(&id).ok_or("it is back, or was refused")?;
    let octets = read(store, id).map_err(|error| error.to_string())?;
    if octets != content(id, *length) || message.meta != envelope(id) {
        return Err("wrong content".into());
    }
    let state = message.state.clone().map(|state| String::from_utf8(state).unwrap());
    if expected.states[&id].contains(&state) { Ok(()) } else { Err(format!("its state is {state:?}")) }
}

impl Scenario {
    fn open(
        &self,
        root: &Path,
        files: Arc<dyn postern_queue::store::files::Files>,
    ) -> Result<(Store, postern_queue::store::Found), StoreError> {
        let config = postern_config::Queue {
            segment_size: self.segment,
            index_interval: Duration::from_millis(1),
            ..config(root)
        };
        let index_octets = if self.rewrites { 0 } else { u64::MAX };
        let tuning = Tuning { index_octets, ..tuning() };
        open_patiently(|| Store::open_with(&config, files.clone(), Arc::new(SystemClock), tuning.clone()))
    }

    /// Uses a store and cuts its power, in many ways at many moments.
    fn run(&self, images: usize, seed: u64) -> Tally {
        let mut tally = Tally::default();
        for run in 0.. {
            let left = images - tally.images;
            if left == 0 {
                break;
            }
            let seed = seed.wrapping_mul(1_000_003).wrapping_add(run);
            self.run_once(left, seed, &mut tally);
        }
        tally
    }

    fn run_once(&self, most: usize, seed: u64, tally: &mut Tally) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut directory = tempfile::tempdir().unwrap();
        let mut asked = Vec::new();
        let mut left = most.min(CUTS);
        for generation in 1..=self.generations {
            let root = directory.path().join("spool");
            let recorder = Recorder::new(&root);
            let begun = recorder.now();
            asked = self.use_store(&root, &recorder, asked, &mut random);
            assert!(!self.rewrites || recorder.has_rewritten_index(), "the index was not rewritten");
            let events = recorder.events();
            let cuts = if generation == self.generations { left } else { left.min(2) };
            let mut next = None;
            for number in 0..cuts {
                let cut = random.random_range(begun..=events.len());
                let image = Image::cut(&events[..cut], random.random());
                let expected = Expected::at(&asked, cut);
                let copy = tempfile::tempdir().unwrap();
                let root = copy.path().join("spool");
                image.write(&root);
                let what = format!(
                    "{}, seed {seed}, generation {generation}, cut {number} at {cut} of {}",
                    self.name,
                    events.len()
                );
                if next.is_none() {
                    let base = tempfile::tempdir().unwrap();
                    image.write(&base.path().join("spool"));
                    next = Some((base, expected.as_asked()));
                }
                tally.check(self, &expected, &root, &what);
            }
            left -= cuts;
            let Some(going_on) = next.filter(|_| left > 0) else { return };
            (directory, asked) = going_on;
        }
    }

    /// Opens a store, uses it, closes it. Answers what was asked for, with what was there before.
    fn use_store(
        &self,
        root: &Path,
        recorder: &Arc<Recorder>,
        mut asked: Vec<Asked>,
        random: &mut StdRng,
    ) -> Vec<Asked> {
        let before = Expected::at(&asked, 0);
        let (store, found) = self.open(root, Arc::new(Disk(Arc::clone(recorder)))).unwrap();
        let opened = recorder.now();
        for message in &found.messages {
            // What should not be there was reported when the same image was checked.
            let Some(length) = before.may.get(&message.id) else { continue };
            let state = message.state.clone().map(|state| String::from_utf8(state).unwrap());
            let what = What::Found(message.id, *length, state);
            asked.push(Asked::at(what, opened));
        }
        let live = ids(&found);
        let gone = before.may.keys().filter(|id| !live.contains(id));
        asked.extend(gone.map(|id| Asked::at(What::Delete(*id), opened)));
        if self.fails {
            recorder.set_fault(Some(faults(random.random())));
        }
        let random = StdRng::seed_from_u64(random.random());
        let mut load = Load { scenario: self, store, recorder: Arc::clone(recorder), random, asked, live };
        load.run();
        recorder.set_fault(None);
        load.store.close();
        load.asked
    }
}

/// Now and then a call fails: the disk for a moment, or for want of room.
fn faults(seed: u64) -> Fault {
    let mut random = StdRng::seed_from_u64(seed);
    Box::new(move |_: &Path, _: &Call<'_>| {
        let error = if random.random_bool(0.5) { EIO } else { ENOSPC };
        random.random_bool(0.02).then_some(error)
    })
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

#[test]
fn whatever_a_power_cut_leaves_what_was_acknowledged_is_there() {
    let images = setting("POSTERN_POWER_IMAGES").unwrap_or(IMAGES as u64) as usize;
    let seed = setting("POSTERN_SEED").unwrap_or(1);
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let running: Vec<_> = SCENARIOS
            .iter()
            .map(|scenario| {
                scope.spawn(move || scenario.run((images * scenario.percent).div_ceil(100), seed))
            })
            .collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut table = format!(
        "power cuts, seed {seed}\n{:<24} {:>6} {:>12} {:>4} {:>5} {:>9} {:>13} {:>14}\n",
        "scenario", "images", "acknowledged", "lost", "wrong", "set aside", "index rebuilt", "starts refused"
    );
    for (scenario, tally) in SCENARIOS.iter().zip(&tallies) {
        table += &format!(
            "{:<24} {:>6} {:>12} {:>4} {:>5} {:>9} {:>13} {:>14}\n",
            scenario.name,
            tally.images,
            tally.acknowledged,
            tally.lost,
            tally.wrong,
            tally.set_aside,
            tally.rebuilt,
            tally.refused
        );
    }
    say(&table);
    let faults: Vec<&String> = tallies.iter().flat_map(|tally| &tally.faults).collect();
    assert!(faults.is_empty(), "{} faults: {:#?}", faults.len(), &faults[..faults.len().min(20)]);
    assert!(tallies.iter().map(|tally| tally.images).sum::<usize>() >= images);
    assert!(
        tallies.iter().all(|tally| tally.acknowledged > 0),
        "a scenario in which nothing was acknowledged"
    );
}
