//! How the spool is: what it holds, what it could give back, how far its index is.

use serde::{Deserialize, Serialize};

use super::catalogue::{Position, number};
use super::files::Access;
use super::recovery::Mark;
use super::{Spool, Store, format};

/// What is known without asking the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Segments of the log.
    pub segments: u64,
    /// Octets in them.
    pub octets: u64,
    /// Octets of messages and states that count.
    pub live_octets: u64,
    /// Segments that are kept because a part of them cannot be read.
    pub damaged_segments: u64,
    /// Rows of the index.
    pub index_rows: u64,
    /// Octets that its files take.
    pub index_octets: u64,
    /// Whether it is in use.
    pub index_in_use: bool,
}

/// `store status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The format of the spool.
    pub format: u32,
    /// Where it is.
    pub path: String,
    /// Messages in it.
    pub messages: u64,
    /// The log.
    pub log: LogStatus,
    /// Messages with a file of their own.
    pub large: LargeStatus,
    /// The index.
    pub index: IndexStatus,
    /// Octets that are kept back for a full disk; 0 while it is full.
    pub reserve: u64,
    /// What is damaged.
    pub damage: DamageStatus,
    /// What was written since the daemon started.
    pub written: WrittenStatus,
    /// Octets free on the file system.
    pub free: u64,
}

/// The log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStatus {
    /// Its segments.
    pub segments: u64,
    /// Octets in them.
    pub octets: u64,
    /// Octets of messages and states that count.
    pub live_octets: u64,
    /// All others: what can be given back, now or later.
    pub dead_octets: u64,
}

/// The files of large messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LargeStatus {
    /// How many.
    pub files: u64,
    /// Octets in them.
    pub octets: u64,
}

/// The index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexStatus {
    /// Whether it is in use.
    pub in_use: bool,
    /// Why not.
    pub lost: Option<String>,
    /// Whether a start can use it: it was complete once, and what came later is in the log.
    pub complete: bool,
    /// Its rows.
    pub rows: u64,
    /// Octets that its files take.
    pub octets: u64,
    /// Messages whose row is missing or old.
    pub behind: u64,
    /// Octets of the log that it does not know yet.
    pub behind_octets: u64,
}

/// What is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamageStatus {
    /// Segments that are kept because a part of them cannot be read.
    pub segments: u64,
    /// Pieces that were set aside.
    pub set_aside: u64,
    /// Octets of them.
    pub octets: u64,
}

/// What was written since the daemon started.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WrittenStatus {
    /// Batches.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Records in a batch on average.
    pub mean_batch: f64,
    /// Octets.
    pub octets: u64,
    /// Calls of `fdatasync` and `fsync` for the log and large messages.
    pub syncs: u64,
    /// How long one took on average, in milliseconds.
    pub mean_sync_ms: f64,
    /// Times that the index was brought up to date.
    pub index_rounds: u64,
}

impl Store {
    /// What is known without asking the disk: for metrics.
    pub fn figures(&self) -> Figures {
        let index = self.inner.index.figures();
        let index_in_use = self.inner.index.lost().is_none();
        let catalogue = self.inner.catalogue.lock();
        let segments = || catalogue.segments.values();
        Figures {
            segments: catalogue.segments.len() as u64,
            octets: segments().map(|segment| segment.length).sum(),
            live_octets: segments().map(|segment| segment.live_octets()).sum(),
            damaged_segments: segments().filter(|segment| segment.damaged).count() as u64,
            index_rows: index.rows,
            index_octets: index.octets,
            index_in_use,
        }
    }

    /// How the spool is. Blocking.
    pub fn status(&self) -> Status {
        let figures = self.figures();
        let inner = &self.inner;
        let written = inner.meter.written();
        let mean_sync = if written.syncs == 0 { 0.0 } else { written.sync_seconds / written.syncs as f64 };
        Status {
            format: format::current().number,
            path: inner.layout.root.display().to_string(),
            messages: self.len() as u64,
            log: LogStatus {
                segments: figures.segments,
                octets: figures.octets,
                live_octets: figures.live_octets,
                dead_octets: figures.octets.saturating_sub(figures.live_octets),
            },
            large: self.large_status(),
            index: self.index_status(),
            reserve: self.reserve_octets(),
            damage: self.damage_status(figures.damaged_segments),
            written: WrittenStatus {
                batches: written.batches,
                records: written.records,
                mean_batch: written.mean_batch(),
                octets: written.octets,
                syncs: written.syncs,
                mean_sync_ms: mean_sync * 1000.0,
                index_rounds: written.index_rounds,
            },
            free: self.space().free,
        }
    }

    fn index_status(&self) -> IndexStatus {
        let lost = self.inner.index.lost();
        let index = self.inner.index.figures();
        let catalogue = self.inner.catalogue.lock();
        let unknown = |to: Position| {
            let from = number(to.segment);
            let octets: u64 = catalogue.segments.range(from..).map(|(_, segment)| segment.length).sum();
            octets.saturating_sub(to.offset)
        };
        let all = || catalogue.segments.values().map(|segment| segment.length).sum();
        let complete_to = index.complete_to.filter(|_| lost.is_none());
        IndexStatus {
            in_use: lost.is_none(),
            complete: complete_to.is_some(),
            rows: index.rows,
            octets: index.octets,
            behind: catalogue.behind() as u64 + index.left,
            behind_octets: complete_to.map_or_else(all, unknown),
            lost,
        }
    }

    /// The room is there as soon as the file has its length.
    fn reserve_octets(&self) -> u64 {
        let file = self.inner.files.open(&self.inner.reserve_path(), Access::Read);
        file.and_then(|file| file.length()).unwrap_or(0)
    }

    fn large_status(&self) -> LargeStatus {
        let entries = self.inner.files.list(&self.inner.layout.big).unwrap_or_default();
        LargeStatus { files: entries.len() as u64, octets: entries.iter().map(|entry| entry.length).sum() }
    }

    fn damage_status(&self, segments: u64) -> DamageStatus {
        let mut entries = self.inner.files.list(&self.inner.layout.damaged).unwrap_or_default();
        entries.retain(|entry| Mark::segment(&entry.name).is_none());
        let octets = entries.iter().map(|entry| entry.length).sum();
        DamageStatus { segments, set_aside: entries.len() as u64, octets }
    }
}
