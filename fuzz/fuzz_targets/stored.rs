//! What the spool keeps of a message: the first two octets say how long its envelope is, then come the envelope and its state.
//! Whatever they say, the queue opens, shows the message, and closes; a message whose envelope cannot be read is not lost.
#![no_main]

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use postern_config::Queue as Settings;
use postern_fuzz::nowhere::Nowhere;
use postern_queue::memory::Memory;
use postern_queue::operate::Sort;
use postern_queue::spool::{Change, NewBody};
use postern_queue::{Filter, Queue, QueueId, Spool};
use postern_runtime::{Clock, ManualClock};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Sat, 21 Nov 2026 18:05:25 UTC.
const NOW: u64 = 1_795_284_325;
const MOST: usize = 10;

thread_local! {
    static PLACE: (Runtime, TempDir) = (
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"),
        TempDir::new().expect("a folder"),
    );
}

fuzz_target!(|octets: &[u8]| {
    let Some((length, rest)) = octets.split_first_chunk() else { return };
    let (meta, state) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
    let state = (!state.is_empty()).then(|| state.to_vec());
    PLACE.with(|(runtime, folder)| runtime.block_on(restart(folder, meta.to_vec(), state)));
});

async fn restart(folder: &TempDir, meta: Vec<u8>, state: Option<Vec<u8>>) {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(now()));
    let memory = Memory::default();
    let id = QueueId(NOW * 1_000_000 << 8);
    let may_be_over = state.is_some();
    let (spool, _) = memory.open(Arc::clone(&clock), &mut |_| {}).expect("a store");
    let content = NewBody::Inline(vec![b"Subject: x\r\n\r\nHello\r\n"[..].into()]);
    let mut changes = vec![Change::Enqueue { id, meta, body: content }];
    changes.extend(state.map(|state| Change::State { id, state }));
    spool.commit(changes, Box::new(|result| assert!(result.is_ok())));
    spool.close();
    drop(spool);
    let mut config = Settings { path: folder.path().to_owned(), ..Settings::default() };
    config.history.enabled = false;
    let metrics = postern_queue::metrics::Metrics::register(&prometheus::Registry::new()).expect("metrics");
    let opened = Queue::open_on(&config, Arc::new(Nowhere), Arc::clone(&clock), metrics, |tell| {
        let (spool, found) = memory.open(clock, tell)?;
        Ok((Arc::new(spool) as Arc<dyn Spool>, found))
    });
    let (queue, _) = opened.expect("damage to a message is no error");
    let shown = queue.show(id);
    assert!(shown.is_some() || may_be_over, "the message is lost");
    for sort in [Sort::Age, Sort::Next, Sort::Size] {
        queue.list(&Filter::default(), sort, None, MOST).expect("no filter is a good one");
    }
    // The tasks of the queue have their turn: reports are written, states that cannot be used are replaced.
    for _ in 0..4 {
        tokio::task::yield_now().await;
    }
    let _ = queue.release(&[id]).await;
    queue.close().await;
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}
