//! How many messages a second the spool takes, next to what the disk does: the same number of writers, octets and
//! seconds with one write and one `fdatasync` for all who wait, and nothing else.
//!
//! ```text
//! cargo run --release -p postern-queue --example spool_rate -- [writers] [octets] [seconds] [directory]
//! ```
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for developers")]

use std::fs::File;
use std::io::{IoSlice, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use postern_queue::store::{Change, NewBody, Store};

const ROUNDS: usize = 2;
const ENVELOPE: usize = 190;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: usize| arguments.get(at).map_or(default, |text| text.parse().unwrap());
    let (writers, octets, seconds) = (number(0, 64), number(1, 4096), number(2, 3));
    let directory = arguments.get(3).map_or_else(std::env::temp_dir, Into::into);
    let directory = directory.join(format!("spool-rate-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let time = Duration::from_secs(seconds as u64);
    println!("{writers} writers, {octets} octets, {seconds} s");
    for _ in 0..ROUNDS {
        let raw = raw(&directory, writers, octets, time);
        println!("raw    {raw}");
        let spool = spool(&directory, writers, octets, time);
        println!("spool  {spool}   {:.2} of raw", spool.rate() / raw.rate());
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

/// How long each message took.
struct Figures {
    time: Duration,
    latencies: Vec<Duration>,
}

impl Figures {
    fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.time.as_secs_f64()
    }

    fn percentile(&self, percent: usize) -> f64 {
        let at = self.latencies.len() * percent / 100;
        self.latencies.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (median, tail) = (self.percentile(50), self.percentile(99));
        write!(f, "{:>8.0} messages/s   p50 {median:>6.2} ms   p99 {tail:>6.2} ms", self.rate())
    }
}

/// Runs `work` in as many threads as there are writers until the time is over.
fn measure(writers: usize, time: Duration, work: impl Fn() + Sync) -> Figures {
    let over = AtomicBool::new(false);
    let begin = Instant::now();
    let mut latencies: Vec<Duration> = std::thread::scope(|scope| {
        let writer = || {
            let mut latencies = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let begin = Instant::now();
                work();
                latencies.push(begin.elapsed());
            }
            latencies
        };
        let threads: Vec<_> = (0..writers).map(|_| scope.spawn(writer)).collect();
        std::thread::sleep(time);
        over.store(true, Ordering::Relaxed);
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    latencies.sort();
    Figures { time: begin.elapsed(), latencies }
}

fn body(octets: usize) -> Bytes {
    (0..octets).map(|at| (at * 31 % 251) as u8).collect::<Vec<u8>>().into()
}

/// Appends what waits and syncs, for ever.
fn raw(directory: &Path, writers: usize, octets: usize, time: Duration) -> Figures {
    let path = directory.join("raw");
    let file = File::create(&path).unwrap();
    let (sender, waiting) = channel();
    let thread = std::thread::spawn(move || raw_committer(file, &waiting));
    let body = body(octets + ENVELOPE);
    let figures = {
        let sender = sender;
        measure(writers, time, || {
            let (done, told) = sync_channel(1);
            let done = Box::new(move || done.send(()).unwrap());
            sender.send(Waiting { body: body.clone(), done }).unwrap();
            told.recv().unwrap();
        })
    };
    thread.join().unwrap();
    std::fs::remove_file(path).unwrap();
    figures
}

struct Waiting {
    body: Bytes,
    done: Box<dyn FnOnce() + Send>,
}

fn raw_committer(mut file: File, waiting: &Receiver<Waiting>) {
    while let Ok(first) = waiting.recv() {
        let batch: Vec<Waiting> = std::iter::once(first).chain(waiting.try_iter()).collect();
        let mut slices: Vec<IoSlice<'_>> = batch.iter().map(|one| IoSlice::new(&one.body)).collect();
        let mut slices = slices.as_mut_slice();
        while !slices.is_empty() {
            let written = file.write_vectored(slices).unwrap();
            IoSlice::advance_slices(&mut slices, written);
        }
        file.sync_data().unwrap();
        batch.into_iter().for_each(|one| (one.done)());
    }
}

/// Enqueues a message and waits, and has it end without waiting, as a delivery would.
fn spool(directory: &Path, writers: usize, octets: usize, time: Duration) -> Figures {
    let path = directory.join("spool");
    let config = postern_config::Queue { path: path.clone(), ..postern_config::Queue::default() };
    let (store, _) = Store::open(&config, std::sync::Arc::new(postern_runtime::SystemClock)).unwrap();
    let body = body(octets);
    let figures = measure(writers, time, || {
        let id = store.next_id();
        let (done, told): (Sender<()>, _) = channel();
        let enqueue =
            Change::Enqueue { id, meta: vec![b'e'; ENVELOPE], body: NewBody::Inline(vec![body.clone()]) };
        let done = move |result: Result<(), _>| {
            result.unwrap();
            done.send(()).unwrap();
        };
        store.commit(vec![enqueue], Box::new(done));
        told.recv().unwrap();
        store.commit(vec![Change::Delete { id }], Box::new(|result| result.unwrap()));
    });
    store.close();
    std::fs::remove_dir_all(path).unwrap();
    figures
}
