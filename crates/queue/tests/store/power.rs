//! Power cuts: of what was written since the last sync any part may be on the disk, and of the names that were not
//! synced any of the first ones. Whatever it is, what was acknowledged is there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use postern_queue::QueueId;
use postern_queue::store::{Change, NewBody, Store};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::disk::{Call, Disk, Say};
use crate::support::*;

const PAGE: usize = 4096;

/// Something that happened to the disk. Files are known by their number, like inodes.
#[derive(Debug, Clone)]
enum Event {
    Create(PathBuf, usize),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
    SyncDirectory(PathBuf),
    Data(usize, Data),
    Sync(usize),
}

#[derive(Debug, Clone)]
enum Data {
    Write(u64, Vec<u8>),
    Length(u64),
    Room(u64),
}

#[derive(Debug, Default)]
struct Recorder {
    root: PathBuf,
    state: Mutex<Recorded>,
}

#[derive(Debug, Default)]
struct Recorded {
    events: Vec<Event>,
    names: HashMap<PathBuf, usize>,
    files: usize,
}

impl Recorder {
    fn now(&self) -> usize {
        self.state.lock().events.len()
    }
}

impl Say for Recorder {
    fn before(&self, path: &Path, call: Call<'_>) -> io::Result<()> {
        let path = path.strip_prefix(&self.root).unwrap().to_owned();
        let mut state = self.state.lock();
        let event = match call {
            Call::CreateDirectory => return Ok(()),
            Call::Create => match state.names.get(&path) {
                Some(file) => Event::Data(*file, Data::Length(0)),
                None => {
                    state.files += 1;
                    let file = state.files;
                    state.names.insert(path.clone(), file);
                    Event::Create(path, file)
                }
            },
            Call::Remove => {
                if state.names.remove(&path).is_none() {
                    return Ok(());
                }
                Event::Remove(path)
            }
            Call::Rename(to) => {
                let to = to.strip_prefix(&self.root).unwrap().to_owned();
                let Some(file) = state.names.remove(&path) else { return Ok(()) };
                state.names.insert(to.clone(), file);
                Event::Rename(path, to)
            }
            Call::SyncDirectory => Event::SyncDirectory(path),
            Call::Write(offset, octets) => {
                Event::Data(state.names[&path], Data::Write(offset, octets.to_vec()))
            }
            Call::Truncate(length) => Event::Data(state.names[&path], Data::Length(length)),
            Call::Allocate(length) => Event::Data(state.names[&path], Data::Room(length)),
            Call::Sync => Event::Sync(state.names[&path]),
        };
        state.events.push(event);
        Ok(())
    }
}

/// What is on the disk for certain, and what may be.
#[derive(Debug, Default)]
struct Image {
    names: BTreeMap<PathBuf, usize>,
    unsynced_names: Vec<Event>,
    files: HashMap<usize, Vec<u8>>,
    unsynced: HashMap<usize, Vec<Data>>,
}

impl Image {
    fn at(events: &[Event]) -> Self {
        let mut image = Self::default();
        for event in events {
            match event {
                Event::Data(file, data) => image.unsynced.entry(*file).or_default().push(data.clone()),
                Event::Sync(file) => {
                    let content = image.files.entry(*file).or_default();
                    let unsynced = image.unsynced.remove(file).unwrap_or_default();
                    unsynced.iter().for_each(|data| apply(content, data));
                }
                Event::SyncDirectory(directory) => {
                    let (synced, left) = std::mem::take(&mut image.unsynced_names).into_iter().partition(
                        |event| matches!(event, Event::Create(path, _) | Event::Remove(path) | Event::Rename(path, _)
                            if path.parent() == Some(directory)),
                    );
                    image.unsynced_names = left;
                    let synced: Vec<Event> = synced;
                    synced.iter().for_each(|event| image.name(event));
                }
                name => image.unsynced_names.push(name.clone()),
            }
        }
        image
    }

    fn name(&mut self, event: &Event) {
        match event {
            Event::Create(path, file) => drop(self.names.insert(path.clone(), *file)),
            Event::Remove(path) => drop(self.names.remove(path)),
            Event::Rename(from, to) => {
                if let Some(file) = self.names.remove(from) {
                    self.names.insert(to.clone(), file);
                }
            }
            _ => {}
        }
    }

    /// Decides what of the rest is on the disk too.
    fn cut(mut self, random: &mut StdRng) -> Self {
        let names = std::mem::take(&mut self.unsynced_names);
        let count = random.random_range(0..=names.len());
        names[..count].iter().for_each(|event| self.name(event));
        let in_order = random.random_bool(0.5);
        for (file, unsynced) in std::mem::take(&mut self.unsynced) {
            let content = self.files.entry(file).or_default();
            if in_order {
                apply_some(content, &unsynced, random);
            } else {
                unsynced.iter().for_each(|data| apply_pages(content, data, random));
            }
        }
        self
    }

    fn write(&self, directory: &Path) {
        ["log", "big"].iter().for_each(|name| std::fs::create_dir_all(directory.join(name)).unwrap());
        for (path, file) in &self.names {
            let path = directory.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, self.files.get(file).map_or(&[][..], Vec::as_slice)).unwrap();
        }
    }
}

fn apply(content: &mut Vec<u8>, data: &Data) {
    match data {
        Data::Write(offset, octets) => {
            let end = *offset as usize + octets.len();
            content.resize(content.len().max(end), 0);
            content[*offset as usize..end].copy_from_slice(octets);
        }
        Data::Length(length) => content.resize(*length as usize, 0),
        Data::Room(length) => content.resize(content.len().max(*length as usize), 0),
    }
}

/// The first changes, the last of them torn.
fn apply_some(content: &mut Vec<u8>, unsynced: &[Data], random: &mut StdRng) {
    let count = random.random_range(0..=unsynced.len());
    unsynced[..count].iter().for_each(|data| apply(content, data));
    if let Some(Data::Write(offset, octets)) = unsynced.get(count) {
        let torn = octets[..random.random_range(0..=octets.len())].to_vec();
        apply(content, &Data::Write(*offset, torn));
    }
}

/// Any pages of a change.
fn apply_pages(content: &mut Vec<u8>, data: &Data, random: &mut StdRng) {
    let Data::Write(offset, octets) = data else {
        if random.random_bool(0.5) {
            apply(content, data);
        }
        return;
    };
    let mut at = 0;
    while at < octets.len() {
        let page = PAGE - (*offset as usize + at) % PAGE;
        let end = octets.len().min(at + page);
        if random.random_bool(0.5) {
            apply(content, &Data::Write(offset + at as u64, octets[at..end].to_vec()));
        }
        at = end;
    }
}

/// A change, and when it was asked for and acknowledged: the number of events before that.
#[derive(Debug, Clone)]
struct Asked {
    what: What,
    at: usize,
    told: Arc<Mutex<Option<usize>>>,
}

#[derive(Debug, Clone)]
enum What {
    Enqueue(QueueId, usize),
    State(QueueId, String),
    Delete(QueueId),
}

struct Load {
    store: Store,
    recorder: Arc<Recorder>,
    random: StdRng,
    asked: Vec<Asked>,
    live: Vec<QueueId>,
}

impl Load {
    fn run(&mut self, steps: usize) {
        for step in 0..steps {
            let mut whats = Vec::new();
            let mut changes = Vec::new();
            for _ in 0..self.random.random_range(1..4) {
                let (what, change) = self.change(step);
                whats.push(what);
                changes.push(change);
            }
            let told = Arc::new(Mutex::new(None));
            let at = self.recorder.now();
            self.asked.extend(whats.into_iter().map(|what| Asked { what, at, told: Arc::clone(&told) }));
            let recorder = Arc::clone(&self.recorder);
            let wait = self.random.random_bool(0.3);
            let (sender, receiver) = std::sync::mpsc::channel();
            self.store.commit(
                changes,
                Box::new(move |result| {
                    result.unwrap();
                    *told.lock() = Some(recorder.now());
                    let _ = sender.send(());
                }),
            );
            if wait {
                receiver.recv().unwrap();
            }
            if self.random.random_bool(0.1) {
                self.store.collect();
            }
        }
    }

    fn change(&mut self, step: usize) -> (What, Change) {
        let pick = self.random.random_range(0..10);
        if self.live.is_empty() || pick < 4 {
            let id = self.store.next_id();
            self.live.push(id);
            let length = self.random.random_range(0..6000);
            if pick == 0 {
                let mut file = self.store.large_file(id).unwrap();
                file.write(&content(id, length)).unwrap();
                let body = NewBody::File { header: Vec::new(), file: file.finish().unwrap() };
                return (What::Enqueue(id, length), Change::Enqueue { id, meta: envelope(id), body });
            }
            return (What::Enqueue(id, length), enqueue(id, length));
        }
        let at = self.random.random_range(0..self.live.len());
        if pick < 6 {
            let text = format!("state {step}");
            return (What::State(self.live[at], text.clone()), state(self.live[at], &text));
        }
        let id = self.live.swap_remove(at);
        (What::Delete(id), Change::Delete { id })
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
        for asked in asked.iter().filter(|asked| asked.at <= cut) {
            let told = asked.told.lock().is_some_and(|told| told <= cut);
            match &asked.what {
                What::Enqueue(id, length) => {
                    expected.may.insert(*id, *length);
                    expected.states.insert(*id, [None].into());
                    if told {
                        expected.must.insert(*id, *length);
                    }
                }
                What::State(id, text) => {
                    let states = expected.states.entry(*id).or_default();
                    if told {
                        states.clear();
                    }
                    states.insert(Some(text.clone()));
                }
                What::Delete(id) => {
                    expected.must.remove(id);
                    if told {
                        expected.may.remove(id);
                    }
                }
            }
        }
        expected
    }

    fn check(&self, directory: &Path, what: &str) {
        let (store, found) = open(directory);
        let there: BTreeSet<QueueId> = ids(&found).into_iter().collect();
        for id in self.must.keys() {
            assert!(there.contains(id), "{what}: acknowledged message {id} is lost");
        }
        for id in &there {
            let length = self.may.get(id).unwrap_or_else(|| panic!("{what}: {id} is back"));
            assert_eq!(read(&store, *id).unwrap(), content(*id, *length), "{what}");
            let state = state_of(&found, *id);
            assert!(self.states[id].contains(&state), "{what}: state of {id} is {state:?}");
        }
        let late = put(&store, 100);
        store.close();
        let (_store, again) = open(directory);
        let expected: Vec<QueueId> = there.into_iter().chain([late]).collect();
        assert_eq!(ids(&again), expected, "{what}: a second start finds something else");
    }
}

#[test]
fn whatever_a_power_cut_leaves_what_was_acknowledged_is_there() {
    for seed in 0..4 {
        let directory = tempfile::tempdir().unwrap();
        let recorder = Arc::new(Recorder { root: directory.path().to_owned(), ..Recorder::default() });
        let (store, _) = open_on(directory.path(), Arc::new(Disk(Arc::clone(&recorder)))).unwrap();
        let random = StdRng::seed_from_u64(seed);
        let mut load =
            Load { store, recorder: Arc::clone(&recorder), random, asked: Vec::new(), live: Vec::new() };
        load.run(120);
        load.store.close();
        let events = recorder.state.lock().events.clone();
        for number in 0..30 {
            let cut = load.random.random_range(0..=events.len());
            let image = Image::at(&events[..cut]).cut(&mut load.random);
            let copy = tempfile::tempdir().unwrap();
            image.write(copy.path());
            let what = format!("seed {seed}, cut {number} at {cut} of {}", events.len());
            Expected::at(&load.asked, cut).check(copy.path(), &what);
        }
    }
}
