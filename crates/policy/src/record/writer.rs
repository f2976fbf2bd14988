//! The one thread that writes records.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use super::files::{self, Batch, Files};
use super::{Fate, Record, Reference, Settings, Shared, seconds};

/// Octets that are written together, if so many wait.
const BATCH: u64 = 16 * 1024;
/// How often files that are too old are looked for, and a disk that was full is tried again.
const LOOK_AROUND: Duration = Duration::from_secs(30);

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Order {
    /// Write this.
    Keep(Reference, Box<Record>),
    /// Say when everything before is written.
    Flush(SyncSender<()>),
    /// The limits have changed.
    Tidy,
    /// Write what waits, and end.
    Stop,
}

/// The thread.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    orders: Receiver<Order>,
    batch: Batch,
    /// What is written out before the thread sleeps.
    answers: Vec<SyncSender<()>>,
}

impl Writer {
    pub fn new(shared: Arc<Shared>, orders: Receiver<Order>) -> Self {
        Self { shared, orders, batch: Batch::default(), answers: Vec::new() }
    }

    /// Works until it is told to stop, or nobody is left who could tell it anything.
    pub fn run(mut self) {
        self.load();
        loop {
            let goes_on = match self.orders.recv_timeout(LOOK_AROUND) {
                Ok(order) => self.obey(order) && self.obey_those_that_wait(),
                Err(RecvTimeoutError::Timeout) => {
                    self.tidy();
                    true
                }
                Err(RecvTimeoutError::Disconnected) => false,
            };
            self.write();
            self.answers.drain(..).for_each(|answer| {
                // Whoever asked may have stopped waiting.
                let _ = answer.send(());
            });
            if !goes_on {
                return;
            }
        }
    }

    fn obey_those_that_wait(&mut self) -> bool {
        while let Ok(order) = self.orders.try_recv() {
            if !self.obey(order) {
                return false;
            }
        }
        true
    }

    fn obey(&mut self, order: Order) -> bool {
        match order {
            Order::Keep(reference, record) => {
                self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
                self.keep(reference, &record);
            }
            Order::Flush(done) => {
                self.write();
                self.answers.push(done);
            }
            Order::Tidy => self.tidy(),
            Order::Stop => return false,
        }
        true
    }

    fn keep(&mut self, reference: Reference, record: &Record) {
        if !self.batch.push(reference, record) {
            self.shared.count(Fate::Failed, 1);
        }
        let (_, most_records) = files::share(&self.settings());
        if self.batch.octets() >= BATCH || self.batch.records() >= most_records {
            self.write();
        }
    }

    fn settings(&self) -> Settings {
        *self.shared.settings.read()
    }

    fn write(&mut self) {
        let records = self.batch.records();
        if records == 0 {
            return;
        }
        let (settings, now) = (self.settings(), seconds((self.shared.now)()));
        let mut files = self.shared.files.lock();
        files.make_room(&self.batch, &settings, now);
        let written = free(files.folder(), &settings)
            .and_then(|()| files.append(&self.batch, &settings, now).map_err(|error| error.to_string()));
        drop(files);
        self.batch.clear();
        match written {
            Ok(()) => self.shared.count(Fate::Kept, records),
            Err(_) => self.shared.count(Fate::Failed, records),
        }
        self.shared.note(written.err());
    }

    /// Removes what is too much or too old, and looks whether the disk can be written to again.
    fn tidy(&mut self) {
        self.write();
        let (settings, now) = (self.settings(), seconds((self.shared.now)()));
        let mut files = self.shared.files.lock();
        files.make_room(&Batch::default(), &settings, now);
        let folder = files.folder().to_owned();
        drop(files);
        if !self.shared.is_usable.load(Ordering::Relaxed) {
            let made = Files::make_folder(&folder).map_err(|error| error.to_string());
            self.shared.note(made.and_then(|()| free(&folder, &settings)).err());
        }
    }

    /// Indexes what former runs have left. Meanwhile records wait.
    fn load(&mut self) {
        let folder = self.shared.files.lock().folder().to_owned();
        let found = Files::make_folder(&folder).and_then(|()| Files::numbers(&folder));
        let numbers = match found {
            Ok(numbers) => numbers,
            Err(error) => return self.shared.note(Some(format!("{}: {error}", folder.display()))),
        };
        for number in numbers {
            let scanned = files::scan(&folder, number).ok();
            self.shared.files.lock().add(number, scanned);
        }
        self.tidy();
    }
}

/// Whether the disk has room beside what must stay free. Octets that are not told count as there.
fn free(folder: &Path, settings: &Settings) -> Result<(), String> {
    let Ok(found) = rustix::fs::statvfs(folder) else { return Ok(()) };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    match free < settings.min_free_space {
        true => Err(format!("{}: only {} MiB are free", folder.display(), free >> 20)),
        false => Ok(()),
    }
}
