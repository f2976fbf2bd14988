//! A disk that remembers what was done to it, and what of that is left after a power cut.
//!
//! Certain is what was synced. Of the rest any part may be there: the first writes to a file with the last of them torn,
//! or any pages of all; the first names that were made, renamed or removed, or any of them. The index is written by sled
//! behind our back: what is left of it is a copy from any moment before the cut, whole, torn, or nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::disk::{Call, Say};

const PAGE: usize = 4096;
/// The index is copied when it is synced, if so much has happened since the last time.
const INDEX_AGE: usize = 20;

/// Something that happened to the disk. Files are known by their number, like inodes.
#[derive(Debug, Clone)]
pub enum Event {
    Create(PathBuf, usize),
    CreateDirectory(PathBuf),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf, usize),
    SyncDirectory(PathBuf),
    Data(usize, Data),
    Sync(usize),
    /// A sync that failed: what it was for is there or not, and no later one changes that.
    FailedSync(usize),
    Index(Arc<Tree>),
}

#[derive(Debug, Clone)]
pub enum Data {
    Write(u64, Arc<[u8]>),
    Length(u64),
    Room(u64),
}

/// Files by their path.
pub type Tree = BTreeMap<PathBuf, Vec<u8>>;

/// Decides whether a call fails, and with which error of the system.
pub type Fault = Box<dyn FnMut(&Path, &Call<'_>) -> Option<i32> + Send>;

/// Remembers every call on the files below `root`.
pub struct Recorder {
    root: PathBuf,
    state: Mutex<Recorded>,
    /// When the index was copied last.
    index_copied: AtomicUsize,
    index_rewritten: AtomicBool,
    index_rounds: AtomicUsize,
    fault: Mutex<Option<Fault>>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("root", &self.root).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Recorded {
    events: Vec<Event>,
    names: HashMap<PathBuf, usize>,
    files: usize,
}

impl Recorder {
    /// A disk whose present content is durable: what a former power cut has left.
    pub fn new(root: &Path) -> Arc<Self> {
        let mut state = Recorded::default();
        for directory in ["log", "big", "damaged"].map(|name| root.join(name)) {
            if directory.is_dir() {
                let path = directory.strip_prefix(root).unwrap().to_owned();
                state.events.extend([Event::CreateDirectory(path), Event::SyncDirectory(PathBuf::new())]);
            }
        }
        let (index, files): (Tree, Tree) = tree(root, root).into_iter().partition(|(path, _)| is_index(path));
        for (path, octets) in files {
            state.files += 1;
            let number = state.files;
            let parent = path.parent().unwrap().to_owned();
            state.names.insert(path.clone(), number);
            state.events.extend([
                Event::Create(path, number),
                Event::Data(number, Data::Write(0, octets.into())),
                Event::Sync(number),
                Event::SyncDirectory(parent),
            ]);
        }
        state.events.push(Event::Index(Arc::new(index)));
        Arc::new(Self {
            root: root.to_owned(),
            state: Mutex::new(state),
            index_copied: AtomicUsize::new(0),
            index_rewritten: AtomicBool::new(false),
            index_rounds: AtomicUsize::new(0),
            fault: Mutex::new(None),
        })
    }

    /// From now on this decides what fails.
    pub fn set_fault(&self, fault: Option<Fault>) {
        *self.fault.lock() = fault;
    }

    /// How much has happened so far.
    pub fn now(&self) -> usize {
        self.state.lock().events.len()
    }

    /// How often the index was synced.
    pub fn index_rounds(&self) -> usize {
        self.index_rounds.load(Ordering::Relaxed)
    }

    /// Whether a new index has taken the place of the former one.
    pub fn has_rewritten_index(&self) -> bool {
        self.index_rewritten.load(Ordering::Relaxed)
    }

    pub fn events(&self) -> Vec<Event> {
        self.state.lock().events.clone()
    }

    fn copy_index(&self) {
        let mut copy = tree(&self.root, &self.root);
        copy.retain(|path, _| is_index(path));
        if copy.keys().any(|path| path.starts_with("index.old")) {
            self.index_rewritten.store(true, Ordering::Relaxed);
        }
        let mut state = self.state.lock();
        state.events.push(Event::Index(Arc::new(copy)));
        self.index_copied.store(state.events.len(), Ordering::Relaxed);
    }
}

/// Whether a path below the root is part of an index.
fn is_index(path: &Path) -> bool {
    path.to_string_lossy().starts_with("index")
}

/// All files below a directory. Those that go away meanwhile are left out.
fn tree(directory: &Path, root: &Path) -> Tree {
    let mut files = Tree::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.append(&mut tree(&path, root));
        } else if let Ok(octets) = fs::read(&path) {
            files.insert(path.strip_prefix(root).unwrap().to_owned(), octets);
        }
    }
    files
}

impl Say for Recorder {
    fn before(&self, path: &Path, call: Call<'_>) -> io::Result<()> {
        let failure = self.fault.lock().as_mut().and_then(|fault| fault(path, &call));
        let existed = path.is_dir();
        let path = path.strip_prefix(&self.root).unwrap().to_owned();
        let mut state = self.state.lock();
        let file = state.names.get(&path).copied();
        if let Some(error) = failure {
            match call {
                // As the disk of the tests does it.
                Call::Write(offset, octets) => {
                    let half = Data::Write(offset, octets[..octets.len() / 2].into());
                    state.events.push(Event::Data(file.unwrap(), half));
                }
                Call::Sync => state.events.push(Event::FailedSync(file.unwrap())),
                _ => {}
            }
            return Err(io::Error::from_raw_os_error(error));
        }
        match call {
            Call::CreateDirectory if existed || path.as_os_str().is_empty() => {}
            Call::CreateDirectory => {
                let parent = path.parent().unwrap().to_owned();
                // Durable when the call returns.
                state.events.extend([Event::CreateDirectory(path), Event::SyncDirectory(parent)]);
            }
            Call::Create => match file {
                Some(file) => state.events.push(Event::Data(file, Data::Length(0))),
                None => {
                    state.files += 1;
                    let file = state.files;
                    state.names.insert(path.clone(), file);
                    state.events.push(Event::Create(path, file));
                }
            },
            Call::Remove => {
                if state.names.remove(&path).is_some() {
                    state.events.push(Event::Remove(path));
                }
            }
            Call::Rename(to) => {
                let to = to.strip_prefix(&self.root).unwrap().to_owned();
                if let Some(file) = state.names.remove(&path) {
                    state.names.insert(to.clone(), file);
                    state.events.push(Event::Rename(path, to, file));
                }
            }
            Call::SyncDirectory => state.events.push(Event::SyncDirectory(path)),
            Call::Write(offset, octets) => {
                state.events.push(Event::Data(file.unwrap(), Data::Write(offset, octets.into())));
            }
            Call::Truncate(length) => state.events.push(Event::Data(file.unwrap(), Data::Length(length))),
            Call::Allocate(length) => state.events.push(Event::Data(file.unwrap(), Data::Room(length))),
            Call::Sync => state.events.push(Event::Sync(file.unwrap())),
        }
        Ok(())
    }

    fn index_call(&self, call: &Call<'_>) {
        if matches!(call, Call::Sync) {
            self.index_rounds.fetch_add(1, Ordering::Relaxed);
        }
        let is_old = self.now() - self.index_copied.load(Ordering::Relaxed) >= INDEX_AGE;
        match call {
            Call::Sync if is_old => self.copy_index(),
            Call::Rename(_) | Call::Remove => self.copy_index(),
            _ => {}
        }
    }
}

/// What is on the disk for certain, and what may be.
#[derive(Debug)]
pub struct Image {
    directories: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, usize>,
    unsynced_names: Vec<Event>,
    files: HashMap<usize, Vec<u8>>,
    unsynced: HashMap<usize, Vec<Data>>,
    /// Copies of the index, the newest at the end.
    indexes: Vec<Arc<Tree>>,
    index: Tree,
    random: StdRng,
}

impl Image {
    /// What a power cut leaves after these events; `seed` decides about all that is not certain.
    pub fn cut(events: &[Event], seed: u64) -> Self {
        let mut image = Self {
            directories: BTreeSet::new(),
            names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            files: HashMap::new(),
            unsynced: HashMap::new(),
            indexes: Vec::new(),
            index: Tree::new(),
            random: StdRng::seed_from_u64(seed),
        };
        events.iter().for_each(|event| image.take(event));
        image.lose_power();
        image
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Data(file, data) => self.unsynced.entry(*file).or_default().push(data.clone()),
            Event::Sync(file) => {
                let content = self.files.entry(*file).or_default();
                self.unsynced.remove(file).iter().flatten().for_each(|data| apply(content, data));
            }
            Event::FailedSync(file) => {
                let lost = self.unsynced.remove(file).unwrap_or_default();
                self.keep_some(*file, &lost);
            }
            Event::SyncDirectory(directory) => {
                let concerns = |path: &PathBuf| path.parent() == Some(directory);
                let (synced, left) =
                    std::mem::take(&mut self.unsynced_names).into_iter().partition(|event| match event {
                        Event::Create(path, _) | Event::Remove(path) | Event::CreateDirectory(path) => {
                            concerns(path)
                        }
                        Event::Rename(from, to, _) => concerns(from) || concerns(to),
                        _ => false,
                    });
                self.unsynced_names = left;
                let synced: Vec<Event> = synced;
                synced.into_iter().for_each(|event| self.name(event));
            }
            Event::Index(copy) => self.indexes.push(Arc::clone(copy)),
            name => self.unsynced_names.push(name.clone()),
        }
    }

    fn name(&mut self, event: Event) {
        match event {
            Event::CreateDirectory(path) => drop(self.directories.insert(path)),
            Event::Create(path, file) => drop(self.names.insert(path, file)),
            Event::Remove(path) => drop(self.names.remove(&path)),
            Event::Rename(from, to, file) => {
                self.names.remove(&from);
                self.names.insert(to, file);
            }
            _ => {}
        }
    }

    /// Decides what of the rest is on the disk too.
    fn lose_power(&mut self) {
        let mut names = std::mem::take(&mut self.unsynced_names);
        if self.random.random_bool(0.5) {
            names.truncate(self.random.random_range(0..=names.len()));
        } else {
            names.retain(|_| self.random.random_bool(0.5));
        }
        names.into_iter().for_each(|event| self.name(event));
        // In the order of the files, so that the seed says it all.
        let unsynced: BTreeMap<usize, Vec<Data>> = std::mem::take(&mut self.unsynced).into_iter().collect();
        unsynced.into_iter().for_each(|(file, data)| self.keep_some(file, &data));
        self.keep_index();
    }

    fn keep_some(&mut self, file: usize, unsynced: &[Data]) {
        let content = self.files.entry(file).or_default();
        if self.random.random_bool(0.5) {
            apply_some(content, unsynced, &mut self.random);
        } else {
            unsynced.iter().for_each(|data| apply_pages(content, data, &mut self.random));
        }
    }

    fn keep_index(&mut self) {
        let random = &mut self.random;
        let copy = match random.random_range(0..10) {
            0 | 1 => None,
            2 | 3 if !self.indexes.is_empty() => self.indexes.get(random.random_range(0..self.indexes.len())),
            _ => self.indexes.last(),
        };
        self.index = copy.map_or_else(Tree::new, |copy| (**copy).clone());
        if random.random_bool(0.3) {
            self.index.values_mut().for_each(|octets| tear(octets, random));
        }
    }

    /// Makes a directory of it.
    pub fn write(&self, root: &Path) {
        fs::create_dir_all(root).unwrap();
        self.directories.iter().for_each(|path| fs::create_dir_all(root.join(path)).unwrap());
        for (path, file) in &self.names {
            // Without the directory there is no name in it.
            if root.join(path).parent().is_some_and(Path::is_dir) {
                fs::write(root.join(path), self.files.get(file).map_or(&[][..], Vec::as_slice)).unwrap();
            }
        }
        for (path, octets) in &self.index {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, octets).unwrap();
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
        let torn = octets[..random.random_range(0..=octets.len())].into();
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
            apply(content, &Data::Write(offset + at as u64, octets[at..end].into()));
        }
        at = end;
    }
}

/// Some pages never arrived, or the end did not.
fn tear(octets: &mut Vec<u8>, random: &mut StdRng) {
    if random.random_bool(0.3) {
        octets.truncate(random.random_range(0..=octets.len()));
    }
    for page in octets.chunks_mut(PAGE) {
        if random.random_bool(0.2) {
            page.fill(0);
        }
    }
}
