//! Work over the whole spool that somebody waits for: it says how far it is, keeps to a rate, and ends when nobody
//! waits any more.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::StoreError;
use super::check::Finding;

/// How often progress is told.
const NEWS: Duration = Duration::from_millis(200);

/// Octets a second that are read unless something else is asked: about half of what one spinning disk gives.
pub const RATE: u64 = 64 * 1024 * 1024;

/// What a job tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tidings {
    /// How far it is.
    Progress(Progress),
    /// Something that is wrong.
    Finding(Finding),
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What it is doing: `messages`, `log`, `large files`, `index`, `copying` ...
    pub stage: &'static str,
    /// Pieces done in this stage.
    pub done: u64,
    /// Pieces there are, as far as is known. 0: nobody knows.
    pub of: u64,
}

/// Whoever waits for a job: told its news, and answers whether to go on.
pub type Listener<'a> = dyn FnMut(Tidings) -> ControlFlow<()> + 'a;

/// A job at work.
pub(super) struct Job<'a> {
    listener: &'a mut Listener<'a>,
    rate: u64,
    /// When the next octets may be read.
    due: Instant,
    told: Instant,
    progress: Progress,
    /// What was found wrong. Notes are not counted.
    pub findings: u64,
}

impl<'a> Job<'a> {
    /// A job that reads at most `rate` octets a second.
    pub fn new(rate: u64, listener: &'a mut Listener<'a>) -> Self {
        let now = Instant::now();
        let progress = Progress { stage: "beginning", done: 0, of: 0 };
        Self { listener, rate: rate.max(1), due: now, told: now, progress, findings: 0 }
    }

    /// The next part begins.
    pub fn stage(&mut self, stage: &'static str, of: u64) -> Result<(), StoreError> {
        self.progress = Progress { stage, done: 0, of };
        self.tell()
    }

    /// Some pieces of this part are done.
    pub fn advance(&mut self, pieces: u64) -> Result<(), StoreError> {
        self.progress.done += pieces;
        self.tell_sometimes()
    }

    /// How far this part is, where somebody else does it.
    pub fn is_at(&mut self, done: u64, of: u64) -> Result<(), StoreError> {
        self.progress = Progress { done, of, ..self.progress };
        self.tell_sometimes()
    }

    /// Octets were read or written: waits as long as the rate asks for.
    pub fn moved(&mut self, octets: u64) -> Result<(), StoreError> {
        // Whoever was slower than the rate for long must not make up for all of it at once.
        let from = Instant::now().checked_sub(NEWS).map_or(self.due, |least| self.due.max(least));
        self.due = from + Duration::from_secs_f64(octets as f64 / self.rate as f64);
        loop {
            self.tell_sometimes()?;
            let left = self.due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(NEWS));
        }
    }

    /// Something is wrong.
    pub fn found(&mut self, finding: Finding) -> Result<(), StoreError> {
        self.findings += u64::from(!finding.is_note);
        answered((self.listener)(Tidings::Finding(finding)))
    }

    /// Waits for what another thread does. `None`: it has ended without doing it.
    pub fn wait_for<T>(&mut self, done: &Receiver<T>) -> Result<Option<T>, StoreError> {
        self.wait_while(done, || None)
    }

    /// The same, telling how far that thread is.
    pub fn wait_while<T>(
        &mut self,
        done: &Receiver<T>,
        how_far: impl Fn() -> Option<(u64, u64)>,
    ) -> Result<Option<T>, StoreError> {
        loop {
            match done.recv_timeout(NEWS) {
                Ok(answer) => return Ok(Some(answer)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => match how_far() {
                    Some((done, of)) => self.is_at(done, of)?,
                    None => self.tell()?,
                },
            }
        }
    }

    fn tell_sometimes(&mut self) -> Result<(), StoreError> {
        if self.told.elapsed() < NEWS { Ok(()) } else { self.tell() }
    }

    fn tell(&mut self) -> Result<(), StoreError> {
        self.told = Instant::now();
        answered((self.listener)(Tidings::Progress(self.progress)))
    }
}

fn answered(answer: ControlFlow<()>) -> Result<(), StoreError> {
    match answer {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(StoreError::Interrupted),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_job_ends_when_nobody_waits_for_it() {
        let mut listener = |_| ControlFlow::Break(());
        let mut job = Job::new(1, &mut listener);
        assert!(matches!(job.stage("log", 1), Err(StoreError::Interrupted)));
        // At one octet a second this would take for ever.
        assert!(matches!(job.moved(1 << 30), Err(StoreError::Interrupted)));
    }

    #[test]
    fn a_job_keeps_to_its_rate() {
        let mut listener = |_| ControlFlow::Continue(());
        let mut job = Job::new(1000, &mut listener);
        let began = Instant::now();
        (0..10).for_each(|_| job.moved(50).unwrap());
        assert!(began.elapsed() >= Duration::from_millis(450) - NEWS);
    }

    #[test]
    fn a_thread_that_ends_without_an_answer_is_not_waited_for() {
        let mut listener = |_| ControlFlow::Continue(());
        let mut job = Job::new(1, &mut listener);
        let (sender, receiver) = std::sync::mpsc::sync_channel::<()>(1);
        drop(sender);
        assert_eq!(job.wait_for(&receiver).unwrap(), None);
    }
}
