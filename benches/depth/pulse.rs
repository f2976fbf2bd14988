//! New mail for a destination that answers, steadily: how long it takes shows what the rest of the queue does to it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::harness::load::{Session, message};
use crate::harness::sink::Sink;

/// From one message to the next.
const INTERVAL: Duration = Duration::from_millis(250);
/// How many show what is usual.
const USUAL: usize = 8;

/// How long one message took.
#[derive(Debug, Clone, Copy)]
pub struct Beat {
    /// From MAIL to the 250 behind the data.
    pub accepted: Duration,
    /// From there to its arrival at the next host.
    pub arrived: Duration,
}

/// Mail on its way.
#[derive(Debug)]
pub struct Pulse {
    thread: JoinHandle<Result<(), String>>,
    shared: Arc<Shared>,
    /// Beats that were told.
    told: AtomicUsize,
}

#[derive(Debug, Default)]
struct Shared {
    beats: Mutex<Vec<Beat>>,
    another: Condvar,
    is_over: AtomicBool,
}

impl Shared {
    /// Sends one message after the other until it is over.
    fn beat(&self, mut session: Session, sink: &Sink) -> Result<(), String> {
        let message = message(1024);
        let before = sink.count();
        for sent in 1.. {
            let begin = Instant::now();
            session.send("sink@adatum.test", &message)?;
            let accepted = begin.elapsed();
            sink.wait_for(before + sent)?;
            let beat = Beat { accepted, arrived: begin.elapsed() - accepted };
            self.beats.lock().map_err(|e| e.to_string())?.push(beat);
            self.another.notify_all();
            if self.is_over.load(Ordering::Relaxed) {
                break;
            }
            std::thread::sleep(INTERVAL.saturating_sub(begin.elapsed()));
        }
        Ok(())
    }
}

impl Pulse {
    /// Begins to send.
    pub fn begin(server: SocketAddr, sink: &Sink) -> Result<Self, String> {
        let session = Session::open(server)?;
        let (shared, sink) = (Arc::new(Shared::default()), sink.clone());
        let beating = shared.clone();
        let thread = std::thread::spawn(move || beating.beat(session, &sink));
        Ok(Self { thread, shared, told: AtomicUsize::new(0) })
    }

    /// Waits for some messages while nothing else happens.
    pub fn rest(&self) -> Result<(), String> {
        self.wait(USUAL)
    }

    /// Waits for one that was sent after now.
    pub fn once_more(&self) -> Result<(), String> {
        // The one under way was sent before.
        self.wait(2)
    }

    fn wait(&self, more: usize) -> Result<(), String> {
        let mut beats = self.shared.beats.lock().map_err(|e| e.to_string())?;
        let wanted = beats.len() + more;
        while beats.len() < wanted {
            if self.thread.is_finished() {
                return Err("the mail beside it came to a halt".to_owned());
            }
            beats = self.shared.another.wait_timeout(beats, INTERVAL).map_err(|e| e.to_string())?.0;
        }
        Ok(())
    }

    /// Those that were not told yet.
    pub fn since_last(&self) -> Vec<Beat> {
        let Ok(beats) = self.shared.beats.lock() else { return Vec::new() };
        let told = self.told.swap(beats.len(), Ordering::Relaxed);
        beats[told..].to_vec()
    }

    /// Ends it.
    pub fn end(self) -> Result<(), String> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the pulse panicked")?
    }
}
