//! The spool alone, without SMTP: enqueue and wait, and end without waiting as a delivery does.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

use bytes::Bytes;
use postern_config::Queue;
use postern_queue::store::{Change, NewBody, Store, StoreError};
use postern_queue::{QueueId, Spool};

use crate::Plan;
use crate::harness::figures::{Contender, Outcome, Run, Sample, Table, cell, in_turn, ratio};
use crate::harness::measure::TemporaryFolder;
use crate::harness::raw;

/// Prints the table: each size and number of writers.
pub fn measure(plan: &Plan) -> Result<(), String> {
    let head =
        ["octets", "writers", "", "messages/s", "p50 ms", "p99 ms", "syncs/msg", "of raw", "p99 x raw"];
    let table = Table::begin("spool: the spool alone; raw: the same octets appended and synced", &head);
    for size in &plan.sizes {
        for writers in &plan.sessions {
            let folder = TemporaryFolder::new()?;
            let spool = || run(folder.path(), plan, *writers, *size);
            let raw = || raw::run(folder.path(), *writers, *size, plan.until());
            let contenders = vec![
                Contender { name: "spool", run: Box::new(spool) },
                Contender { name: "raw", run: Box::new(raw) },
            ];
            rows(&table, *size, *writers, &in_turn(plan.repetitions, contenders));
        }
    }
    Ok(())
}

fn rows(table: &Table, size: usize, writers: usize, outcomes: &[Outcome]) {
    let theirs = outcomes.last().and_then(|outcome| outcome.samples.as_deref().ok());
    for Outcome { name, samples } in outcomes {
        match samples {
            Ok(ours) => {
                let Sample { rate, p50, p99, syncs, .. } = Sample::median(ours);
                let theirs = theirs.filter(|_| *name == "spool");
                let of_raw = theirs.map(|theirs| ratio(ours, theirs, |sample| sample.rate));
                let tail = theirs.map(|theirs| ratio(ours, theirs, |sample| sample.p99));
                let figures = [Some(rate), Some(p50), Some(p99), syncs, of_raw, tail].map(cell);
                let cells =
                    [size.to_string(), writers.to_string(), (*name).to_owned()].into_iter().chain(figures);
                table.row(&cells.collect::<Vec<_>>());
            }
            Err(problem) => println!("| {size} | {writers} | {name} | not measured: {problem} |"),
        }
    }
}

fn run(folder: &Path, plan: &Plan, writers: usize, octets: usize) -> Result<Sample, String> {
    let path = folder.join("spool");
    let config = Queue { path: path.clone(), ..Queue::default() };
    let (store, _) =
        Store::open(&config, Arc::new(postern_runtime::SystemClock)).map_err(|e| e.to_string())?;
    let body = raw::body(octets);
    let before = store.status().written.syncs;
    let run = Run::drive(&mut vec![(); writers], plan.until(), |()| {
        let id = enqueue(&store, &config, &body)?;
        store.commit(vec![Change::Delete { id }], Box::new(ignore));
        Ok(())
    });
    let syncs = store.status().written.syncs - before;
    store.close();
    std::fs::remove_dir_all(path).map_err(|e| e.to_string())?;
    Ok(run?.sample(None, Some(syncs)))
}

/// Puts a message into the spool and waits until it is durable: as the queue does, in a file of its own if it is large.
pub fn enqueue(store: &Store, config: &Queue, body: &Bytes) -> Result<QueueId, String> {
    let id = store.next_id();
    let is_large = body.len() as u64 > config.inline_limit;
    let body = match is_large {
        false => NewBody::Inline(vec![body.clone()]),
        true => {
            let finish = || -> Result<_, StoreError> {
                let mut file = store.begin_body(id)?;
                file.write(body)?;
                file.finish()
            };
            NewBody::Large { header: Vec::new(), body: finish().map_err(|e| e.to_string())? }
        }
    };
    let (done, told) = channel();
    let meta = vec![b'e'; raw::ENVELOPE];
    // Whoever waits is there until it is told.
    let tell = move |result: Result<(), _>| drop(done.send(result));
    store.commit(vec![Change::Enqueue { id, meta, body }], Box::new(tell));
    told.recv().map_err(|_| "the spool has ended")?.map_err(|error| error.to_string())?;
    Ok(id)
}

/// Nobody waits for it; the next enqueue fails too if the disk does.
pub fn ignore(_: Result<(), std::sync::Arc<StoreError>>) {}
