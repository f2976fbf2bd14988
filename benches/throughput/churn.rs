//! What the spool takes up on the disk while messages come and go: it must not grow.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use postern_config::Queue;
use postern_queue::store::{Change, Store};
use postern_queue::{QueueId, Spool};

use crate::Plan;
use crate::harness::figures::{Run, Table, Until, cell, mebibytes};
use crate::harness::measure::{TemporaryFolder, on_disk};
use crate::harness::raw;
use crate::spool::{enqueue, ignore};

const OCTETS: usize = 8 * 1024;
const WRITERS: usize = 64;
/// How often it is looked at.
const LOOKS: usize = 5;
/// Of so many messages one is deferred once.
const DEFERRED: usize = 5;

/// Prints the table: first as it is, then with an index that is written so often that every message reaches it.
pub fn measure(plan: &Plan) -> Result<(), String> {
    let (messages, live) = plan.churn;
    let title = format!(
        "churn: {messages} messages of {OCTETS} octets with {live} live ({} MiB); MiB on the disk",
        mebibytes((live * OCTETS) as u64)
    );
    let table = Table::begin(&title, &["index every", "messages", "log", "index", "other", "messages/s"]);
    for interval in [Queue::default().index_interval, Duration::from_millis(50)] {
        churn(&table, messages, live, interval)?;
    }
    Ok(())
}

/// What the writers share.
struct Churn<'a> {
    store: &'a Store,
    config: &'a Queue,
    live: Mutex<VecDeque<QueueId>>,
    begun: AtomicUsize,
}

fn churn(table: &Table, messages: usize, live: usize, interval: Duration) -> Result<(), String> {
    let folder = TemporaryFolder::new()?;
    let path = folder.path().join("spool");
    let config = Queue { path: path.clone(), index_interval: interval, ..Queue::default() };
    let (store, _) =
        Store::open(&config, Arc::new(postern_runtime::SystemClock)).map_err(|e| e.to_string())?;
    let churn = Churn { store: &store, config: &config, live: Mutex::default(), begun: AtomicUsize::new(0) };
    let body = raw::body(OCTETS);
    let begin = Instant::now();
    let step = messages / LOOKS;
    Run::drive(&mut [(); WRITERS], Until::Count(messages), |()| {
        let id = enqueue(churn.store, churn.config, &body)?;
        churn.end_oldest(id, live)?;
        let done = churn.begun.fetch_add(1, Ordering::Relaxed) + 1;
        if done.is_multiple_of(step) {
            look(table, interval, &path, done, begin);
        }
        Ok(())
    })?;
    store.close();
    Ok(())
}

impl Churn<'_> {
    /// Takes a message in; where there are more than so many now, the oldest is read, as a delivery reads it, and ends. One of
    /// some is deferred in between.
    fn end_oldest(&self, id: QueueId, most: usize) -> Result<(), String> {
        let (oldest, middle) = {
            let mut live = self.live.lock().map_err(|e| e.to_string())?;
            live.push_back(id);
            if live.len() <= most {
                return Ok(());
            }
            (live.pop_front(), live.get(live.len() / 2).copied())
        };
        if let Some(middle) = middle.filter(|middle| (middle.0 >> 8).is_multiple_of(DEFERRED as u64)) {
            let state = vec![b's'; raw::ENVELOPE];
            self.store.commit(vec![Change::State { id: middle, state }], Box::new(ignore));
        }
        let Some(oldest) = oldest else { return Ok(()) };
        let mut body = self.store.read(oldest).map_err(|e| e.to_string())?;
        while body.next().map_err(|e| e.to_string())?.is_some() {}
        self.store.commit(vec![Change::Delete { id: oldest }], Box::new(ignore));
        Ok(())
    }
}

/// Prints a row. The others go on meanwhile.
fn look(table: &Table, interval: Duration, spool: &Path, done: usize, begin: Instant) {
    let of = |name: &str| on_disk(&spool.join(name));
    let (log, index) = (of("log"), of("index"));
    let other = on_disk(spool).saturating_sub(log + index);
    table.row(&[
        format!("{} s", interval.as_secs_f64()),
        done.to_string(),
        mebibytes(log),
        mebibytes(index),
        mebibytes(other),
        cell(done as f64 / begin.elapsed().as_secs_f64()),
    ]);
}
