//! The journal: what became of messages after they left.
//!
//! One line of JSON for each event that ends or defers recipients, some 350 octets; recipients that share an outcome share
//! a line. No content and no subject. The lines go into a buffer, and a thread of its own writes it to the current file at
//! least every second, without waiting for the disk to be durable: a crash of the machine costs the last seconds, kill -9
//! at most one. Mail never waits for it: when the buffer is full, because the disk is slow or refuses, events are dropped,
//! counted, and mentioned in the log once.
//!
//! | module | what |
//! |---|---|
//! | `line` | the form of a line |
//! | `files` | the files: their names, their turn, their end |
//! | `search` | what the journal and the queue know of a message |
//! | `tally` | what became of the mail to each domain |

mod files;
mod line;
mod search;
mod tally;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use postern_config as config;
use postern_runtime::Clock;
use tracing::{error, info, warn};

pub use search::{History, HistoryError, Query, Story, offline};
pub use tally::{DomainTally, Tally, offline as offline_tally};

use crate::events::EventView;
use crate::metrics::Metrics;
use files::{Files, Limits};

/// Octets that wait for the disk at most: some 12,000 events.
const MAX_PENDING: usize = 4 * 1024 * 1024;
/// With so many octets the thread does not wait for more.
const ENOUGH: usize = 256 * 1024;
/// An event is written after this time at the latest.
const GATHER: Duration = Duration::from_secs(1);
/// How often files that are too old are looked for.
const TIDY: Duration = Duration::from_secs(3600);
/// How often the log is told that events are dropped, where that comes and goes.
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// How long a question waits for what happened just before it, and the end of the server for the last lines.
const PATIENCE: Duration = Duration::from_secs(2);

/// The journal that a queue writes.
#[derive(Debug)]
pub(crate) struct Journal {
    shared: Arc<Shared>,
    /// One at a time: each reads up to the whole journal.
    searching: Mutex<()>,
}

#[derive(Debug)]
struct Shared {
    pending: Mutex<Pending>,
    /// The thread has something to do.
    work: Condvar,
    /// What was pending is written or dropped.
    done: Condvar,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
}

/// What is to be written.
#[derive(Debug, Default)]
struct Pending {
    lines: Vec<u8>,
    /// Events ever put into `lines`, and those of them that were taken care of.
    taken: u64,
    settled: u64,
    /// Events that were dropped since the start.
    dropped: u64,
    /// Whether somebody waits.
    is_urgent: bool,
    /// Whether the last events were dropped, whether the log has been told, and when it was told last.
    is_losing: bool,
    is_told: bool,
    told: Option<Instant>,
    is_closing: bool,
    has_ended: bool,
}

/// Why an event is not in the journal, as the metric names it.
#[derive(Debug, Clone, Copy)]
enum Dropped {
    /// The disk does not keep up.
    Slow,
    /// The disk refused, or has too little room.
    Refused,
}

impl Journal {
    /// Starts the thread; the files are opened with the first event. `None`: the configuration wants no journal.
    pub(crate) fn start(
        config: &config::Queue,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
    ) -> std::io::Result<Option<Self>> {
        if !config.history.enabled {
            return Ok(None);
        }
        let limits = Limits {
            max_size: config.history.max_size,
            max_age: config.history.max_age,
            min_free: config.min_free_space,
        };
        let files = Files::new(config.history_path(), config.path.clone(), limits);
        let shared = Arc::new(Shared {
            pending: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
            clock,
            metrics: metrics.clone(),
        });
        let writer = shared.clone();
        std::thread::Builder::new().name("history".to_owned()).spawn(move || writer.run(files))?;
        Ok(Some(Self { shared, searching: Mutex::default() }))
    }

    /// Keeps an event. Does not wait for the disk.
    pub(crate) fn append(&self, event: &EventView) {
        let line = line::encode(event);
        let mut pending = self.shared.pending.lock();
        if pending.lines.len() + line.len() > MAX_PENDING {
            self.shared.lose(&mut pending, 1, Dropped::Slow, &"the disk does not keep up");
            return;
        }
        let before = pending.lines.len();
        pending.lines.extend_from_slice(&line);
        pending.taken += 1;
        let now = pending.lines.len();
        drop(pending);
        if before == 0 || (before < ENOUGH && now >= ENOUGH) {
            self.shared.work.notify_one();
        }
    }

    /// Waits until what has happened so far is in the files, but not for long. Blocking.
    fn flush(&self) {
        let deadline = Instant::now() + PATIENCE;
        let mut pending = self.shared.pending.lock();
        let target = pending.taken;
        while pending.settled < target && !pending.has_ended {
            pending.is_urgent = true;
            self.shared.work.notify_one();
            if self.shared.done.wait_until(&mut pending, deadline).timed_out() {
                return;
            }
        }
    }

    /// The right to read the files.
    fn searching(&self) -> MutexGuard<'_, ()> {
        self.searching.lock()
    }

    /// Events that were dropped since the start.
    fn dropped(&self) -> u64 {
        self.shared.pending.lock().dropped
    }

    /// Has the rest written and ends the thread; waits for that, but not for long. Blocking.
    pub(crate) fn close(&self) {
        let deadline = Instant::now() + PATIENCE;
        self.shared.end();
        let mut pending = self.shared.pending.lock();
        while !pending.has_ended {
            if self.shared.done.wait_until(&mut pending, deadline).timed_out() {
                warn!(
                    event = "history-unfinished",
                    "the disk does not answer: the last events are not in the journal"
                );
                return;
            }
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl Shared {
    fn end(&self) {
        self.pending.lock().is_closing = true;
        self.work.notify_one();
    }

    /// Writes until the journal is closed.
    fn run(&self, mut files: Files) {
        let mut lines = Vec::new();
        self.tidy(&mut files);
        while let Some(events) = self.gather(&mut lines, &mut files) {
            let result = files.write(&lines, self.clock.now());
            lines.clear();
            self.metrics.history_octets(files.octets());
            let mut pending = self.pending.lock();
            pending.settled += events;
            match result {
                Ok(()) => {
                    self.metrics.history_events.inc_by(events);
                    let was_losing = std::mem::take(&mut pending.is_losing);
                    if was_losing && std::mem::take(&mut pending.is_told) {
                        info!(
                            event = "history-resumed",
                            dropped = pending.dropped,
                            "the journal takes events again"
                        );
                    }
                }
                Err(failed) => {
                    self.metrics.history_events.inc_by(events.saturating_sub(failed.lost));
                    self.lose(&mut pending, failed.lost.min(events), Dropped::Refused, &failed.source);
                }
            }
            drop(pending);
            self.done.notify_all();
        }
        self.pending.lock().has_ended = true;
        self.done.notify_all();
    }

    /// Waits for lines, and for some more to go with them. Answers how many events they are; `None` when it is time to end.
    fn gather(&self, lines: &mut Vec<u8>, files: &mut Files) -> Option<u64> {
        let mut pending = self.pending.lock();
        while pending.lines.is_empty() {
            if pending.is_closing {
                return None;
            }
            if self.work.wait_for(&mut pending, TIDY).timed_out() {
                drop(pending);
                self.tidy(files);
                pending = self.pending.lock();
            }
        }
        let deadline = Instant::now() + GATHER;
        while pending.lines.len() < ENOUGH && !pending.is_urgent && !pending.is_closing {
            if self.work.wait_until(&mut pending, deadline).timed_out() {
                break;
            }
        }
        pending.is_urgent = false;
        std::mem::swap(lines, &mut pending.lines);
        Some(pending.taken - pending.settled)
    }

    fn tidy(&self, files: &mut Files) {
        files.tidy(self.clock.now());
        self.metrics.history_octets(files.octets());
    }

    /// Counts events that are not in the journal, and says so once until it takes events again, and not every second if it
    /// takes some of them.
    fn lose(&self, pending: &mut Pending, events: u64, why: Dropped, reason: &dyn std::fmt::Display) {
        if events == 0 {
            return;
        }
        pending.dropped += events;
        let label = match why {
            Dropped::Slow => "slow",
            Dropped::Refused => "refused",
        };
        self.metrics.history_dropped.with_label_values(&[label]).inc_by(events);
        let is_new = !std::mem::replace(&mut pending.is_losing, true);
        if is_new && pending.told.is_none_or(|told| told.elapsed() >= SAY_AGAIN) {
            pending.told = Some(Instant::now());
            pending.is_told = true;
            error!(event = "history-dropped", %reason, "events are not in the journal; mail goes on");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use postern_runtime::SystemClock;

    /// A journal whose thread is not there: as if the disk did not answer.
    fn stuck() -> Journal {
        let shared = Shared {
            pending: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
            clock: Arc::new(SystemClock),
            metrics: Metrics::register(&prometheus::Registry::new()).unwrap(),
        };
        Journal { shared: Arc::new(shared), searching: Mutex::default() }
    }

    #[test]
    fn a_disk_that_does_not_answer_costs_events_and_a_bounded_buffer() {
        let journal = stuck();
        let event = line::tests::delivered();
        let length = line::encode(&event).len();
        let fitting = MAX_PENDING / length;
        for _ in 0..fitting + 5 {
            journal.append(&event);
        }
        assert_eq!(journal.dropped(), 5);
        assert_eq!(journal.shared.pending.lock().lines.len(), fitting * length);
        let counted = &journal.shared.metrics.history_dropped;
        assert_eq!(counted.with_label_values(&["slow"]).get(), 5);
    }

    #[test]
    fn losses_are_mentioned_once_and_not_again_when_they_come_and_go() {
        let journal = stuck();
        let mut pending = journal.shared.pending.lock();
        let lose = |pending: &mut Pending| journal.shared.lose(pending, 1, Dropped::Refused, &"full");
        lose(&mut pending);
        assert!(pending.is_losing && pending.is_told);
        // It took some, and the log was told that too; now it loses others within the minute.
        (pending.is_losing, pending.is_told) = (false, false);
        lose(&mut pending);
        assert!(pending.is_losing && !pending.is_told);
        assert_eq!(pending.dropped, 2);
    }
}
