//! Counts what the spool writes. The counters are those that Prometheus reads, so that nothing is counted twice.

use std::io;
use std::time::Instant;

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, Registry};

/// From a disk with a battery behind its cache to one that is about to fail.
const SYNC_BUCKETS: [f64; 12] =
    [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0];

/// The counters of one store, from its start on. Clones count together.
#[derive(Debug, Clone)]
pub struct Meter {
    batches: IntCounter,
    records: IntCounter,
    octets: IntCounter,
    syncs: IntCounter,
    sync_seconds: Histogram,
    pub(super) index_rounds: IntCounter,
}

/// What a [`Meter`] shows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Written {
    /// Batches that became durable, each with one `fdatasync`.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Octets in them.
    pub octets: u64,
    /// Calls of `fdatasync` and `fsync` for the log and for large messages, failed ones included.
    pub syncs: u64,
    /// How long these took together, in seconds.
    pub sync_seconds: f64,
    /// Times that the index was brought up to date.
    pub index_rounds: u64,
}

impl Meter {
    /// Counters that nobody but the store knows.
    ///
    /// # Errors
    /// When Prometheus does not like a name: a fault of this program.
    pub fn new() -> Result<Self, prometheus::Error> {
        let sync = HistogramOpts::new(
            "postern_spool_sync_seconds",
            "How long one call took that made the log or a large message durable",
        );
        Ok(Self {
            batches: IntCounter::new(
                "postern_spool_batches_total",
                "Batches of records that became durable",
            )?,
            records: IntCounter::new("postern_spool_records_total", "Records that became durable")?,
            octets: IntCounter::new("postern_spool_written_octets_total", "Octets of records written")?,
            syncs: IntCounter::new(
                "postern_spool_syncs_total",
                "Calls of fdatasync and fsync for the log and for large messages",
            )?,
            sync_seconds: Histogram::with_opts(sync.buckets(SYNC_BUCKETS.to_vec()))?,
            index_rounds: IntCounter::new(
                "postern_spool_index_rounds_total",
                "Times that the index was brought up to date with the log",
            )?,
        })
    }

    /// Counters that Prometheus reads.
    ///
    /// # Errors
    /// When they are registered twice.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let meter = Self::new()?;
        let all: [Box<dyn Collector>; 6] = [
            Box::new(meter.batches.clone()),
            Box::new(meter.records.clone()),
            Box::new(meter.octets.clone()),
            Box::new(meter.syncs.clone()),
            Box::new(meter.sync_seconds.clone()),
            Box::new(meter.index_rounds.clone()),
        ];
        for counter in all {
            registry.register(counter)?;
        }
        Ok(meter)
    }

    /// What was counted so far.
    pub fn written(&self) -> Written {
        Written {
            batches: self.batches.get(),
            records: self.records.get(),
            octets: self.octets.get(),
            syncs: self.syncs.get(),
            sync_seconds: self.sync_seconds.get_sample_sum(),
            index_rounds: self.index_rounds.get(),
        }
    }

    /// A batch became durable.
    pub(super) fn batch(&self, records: usize, octets: u64) {
        self.batches.inc();
        self.records.inc_by(records as u64);
        self.octets.inc_by(octets);
    }

    /// Asks the disk to make something durable, and counts that.
    pub(super) fn sync(&self, call: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let began = Instant::now();
        let synced = call();
        self.syncs.inc();
        self.sync_seconds.observe(began.elapsed().as_secs_f64());
        synced
    }
}

impl Written {
    /// Records in a batch on average: how many shared one `fdatasync`.
    pub fn mean_batch(&self) -> f64 {
        if self.batches == 0 { 0.0 } else { self.records as f64 / self.batches as f64 }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_counted_is_shown_and_read_by_prometheus() {
        let registry = Registry::new();
        let meter = Meter::register(&registry).unwrap();
        assert_eq!(meter.written().mean_batch(), 0.0);
        meter.clone().batch(3, 300);
        meter.batch(2, 200);
        let slow = || {
            std::thread::sleep(Duration::from_millis(2));
            Ok(())
        };
        meter.sync(slow).unwrap();
        assert!(meter.sync(|| Err(io::ErrorKind::StorageFull.into())).is_err());
        let written = meter.written();
        assert_eq!((written.batches, written.records, written.octets, written.syncs), (2, 5, 500, 2));
        assert_eq!(written.mean_batch(), 2.5);
        assert!(written.sync_seconds >= 0.002);
        let names: Vec<String> = registry.gather().iter().map(|family| family.name().to_owned()).collect();
        assert_eq!(names.len(), 6);
        assert!(names.iter().all(|name| name.starts_with("postern_spool_")), "{names:?}");
        assert!(Meter::register(&registry).is_err());
    }
}
