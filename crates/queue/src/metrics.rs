//! Counters and gauges of the queue.

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::message::Outcome;
use crate::operate::Summary;
use crate::store::meter::Meter;
use crate::store::status::Figures;

/// What an operator alerts on: messages by state, oldest age, accepted, outcomes, store errors, free space.
#[derive(Debug, Clone)]
pub struct Metrics {
    messages: IntGaugeVec,
    octets: IntGauge,
    oldest: IntGauge,
    damaged: IntGauge,
    free: IntGauge,
    rules: IntGaugeVec,
    rule_hits: IntCounterVec,
    pub(crate) accepted: IntCounter,
    pub(crate) leases: IntCounter,
    outcomes: IntCounterVec,
    reports: IntCounterVec,
    pub(crate) expired: IntCounter,
    pub(crate) undeliverable_reports: IntCounter,
    pub(crate) strikes: IntCounter,
    pub(crate) stalls: IntCounter,
    pub(crate) forced_ends: IntCounter,
    pub(crate) store_errors: IntCounter,
    commit_seconds: Histogram,
    watchers: IntGauge,
    pub(crate) history_events: IntCounter,
    pub(crate) history_dropped: IntCounterVec,
    history_octets: IntGauge,
    pub(crate) spool: Meter,
    segments: IntGauge,
    dead_octets: IntGauge,
    index_rows: IntGauge,
    index_octets: IntGauge,
    index_in_use: IntGauge,
}

/// From a fast disk's fdatasync to a disk that is about to fail.
const COMMIT_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When they are registered twice.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let counters = |name: &str, help: &str, label: &str| -> Result<IntCounterVec, prometheus::Error> {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let messages =
            IntGaugeVec::new(Opts::new("postern_queue_messages", "Messages by state"), &["state"])?;
        registry.register(Box::new(messages.clone()))?;
        let rules =
            IntGaugeVec::new(Opts::new("postern_queue_rules", "Standing rules in force"), &["action"])?;
        registry.register(Box::new(rules.clone()))?;
        let commit = HistogramOpts::new(
            "postern_queue_commit_seconds",
            "From handing a new message to the spool to its being durable",
        );
        let commit_seconds = Histogram::with_opts(commit.buckets(COMMIT_BUCKETS.to_vec()))?;
        registry.register(Box::new(commit_seconds.clone()))?;
        Ok(Self {
            messages,
            octets: gauge("postern_queue_octets", "Octets of all messages")?,
            oldest: gauge("postern_queue_oldest_seconds", "Age of the oldest message")?,
            damaged: gauge("postern_queue_damaged_records", "Records set aside as damaged")?,
            free: gauge("postern_queue_free_octets", "Free space on the filesystem of the spool")?,
            rules,
            rule_hits: counters(
                "postern_queue_rule_hits_total",
                "Recipients and messages that standing rules decided about",
                "action",
            )?,
            accepted: counter("postern_queue_accepted_total", "Messages accepted")?,
            leases: counter("postern_queue_leases_total", "Delivery attempts begun")?,
            outcomes: counters(
                "postern_queue_outcomes_total",
                "Outcomes of attempts, by recipient",
                "outcome",
            )?,
            reports: counters(
                "postern_queue_reports_total",
                "Delivery status notifications written",
                "kind",
            )?,
            expired: counter(
                "postern_queue_expired_total",
                "Recipients given up because their time was over",
            )?,
            undeliverable_reports: counter(
                "postern_queue_undeliverable_reports_total",
                "Failed recipients of messages with a null sender, of which nobody is told",
            )?,
            strikes: counter("postern_queue_strikes_total", "Attempts that ended without an outcome")?,
            stalls: counter(
                "postern_queue_stalls_total",
                "Attempts that made no progress for queue.stall_limit and were told to end",
            )?,
            forced_ends: counter(
                "postern_queue_forced_ends_total",
                "Attempts that did not end when they were told, and lost their lease",
            )?,
            store_errors: counter("postern_queue_store_errors_total", "Changes that the spool refused")?,
            commit_seconds,
            watchers: gauge("postern_queue_watchers", "Operators who watch events")?,
            history_events: counter("postern_history_events_total", "Events written to the journal")?,
            history_dropped: counters(
                "postern_history_dropped_total",
                "Events that are not in the journal because the disk was slow or refused them",
                "reason",
            )?,
            history_octets: gauge("postern_history_octets", "Octets of the journal")?,
            spool: Meter::register(registry)?,
            segments: gauge("postern_spool_segments", "Segments of the log")?,
            dead_octets: gauge(
                "postern_spool_dead_octets",
                "Octets of the log that count for nothing any more",
            )?,
            index_rows: gauge("postern_spool_index_rows", "Rows of the index")?,
            index_octets: gauge("postern_spool_index_octets", "Octets that the files of the index take")?,
            index_in_use: gauge("postern_spool_index_in_use", "1, or 0 when the index was given up")?,
        })
    }

    /// Brings the gauges up to date: called when they are read.
    pub fn update(&self, summary: &Summary) {
        let states = [
            ("ready", summary.ready),
            ("active", summary.active),
            ("deferred", summary.deferred),
            ("held", summary.held),
        ];
        for (state, messages) in states {
            self.messages.with_label_values(&[state]).set(signed(messages as u64));
        }
        self.octets.set(signed(summary.octets));
        self.oldest.set(signed(summary.oldest.unwrap_or(0)));
        self.damaged.set(signed(summary.damaged as u64));
    }

    /// Brings the gauges of the spool up to date.
    pub(crate) fn update_spool(&self, figures: &Figures) {
        self.segments.set(signed(figures.segments));
        self.dead_octets.set(signed(figures.octets.saturating_sub(figures.live_octets)));
        self.index_rows.set(signed(figures.index_rows));
        self.index_octets.set(signed(figures.index_octets));
        self.index_in_use.set(i64::from(figures.index_in_use));
    }

    pub(crate) fn watchers(&self, watchers: usize) {
        self.watchers.set(signed(watchers as u64));
    }

    pub(crate) fn history_octets(&self, octets: u64) {
        self.history_octets.set(signed(octets));
    }

    pub(crate) fn free_space(&self, octets: u64) {
        self.free.set(signed(octets));
    }

    pub(crate) fn rules(&self, action: &str, in_force: usize) {
        self.rules.with_label_values(&[action]).set(signed(in_force as u64));
    }

    pub(crate) fn rule_hits(&self, action: &str, hits: u64) {
        self.rule_hits.with_label_values(&[action]).inc_by(hits);
    }

    pub(crate) fn outcome(&self, outcome: &Outcome) {
        let label = match outcome {
            Outcome::Delivered(..) => "delivered",
            Outcome::Deferred(..) => "deferred",
            Outcome::Failed(_) => "failed",
        };
        self.outcomes.with_label_values(&[label]).inc();
    }

    pub(crate) fn report(&self, kind: &'static str) {
        self.reports.with_label_values(&[kind]).inc();
    }

    pub(crate) fn commit(&self, took: Duration) {
        self.commit_seconds.observe(took.as_secs_f64());
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn metrics_have_the_prefix_and_register_once() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        metrics.report("failed");
        assert!(Metrics::register(&registry).is_err());
        let prefixes = ["postern_queue_", "postern_history_", "postern_spool_"];
        let has_prefix = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
        assert!(registry.gather().iter().all(|family| has_prefix(family.name())));
    }
}
