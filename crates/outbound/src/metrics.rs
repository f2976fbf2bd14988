//! Counters of deliveries.

use std::time::Duration;

use postern_policy::verification::State;
use postern_queue::Outcome;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::tls::Protection;

/// From a reply on the same machine to a timeout of RFC 5321.
const SECONDS: [f64; 12] = [0.0005, 0.002, 0.01, 0.05, 0.2, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0];

/// What an operator watches of deliveries. Labels have few values: never a domain or a host.
#[derive(Debug, Clone)]
pub struct Metrics {
    outcomes: IntCounterVec,
    connections: IntCounterVec,
    phases: HistogramVec,
    panics: IntCounter,
    port_blocked: IntGauge,
    domains: IntGaugeVec,
}

/// A part of a delivery attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Route,
    Connect,
    Secure,
    Sign,
    Send,
}

impl Phase {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Connect => "connect",
            Self::Secure => "secure",
            Self::Sign => "sign",
            Self::Send => "send",
        }
    }
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When they are registered twice.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let outcomes = Opts::new(
            "postern_outbound_outcomes_total",
            "Outcomes of recipients by kind of destination and result (delivered, deferred, failed)",
        );
        let connections = Opts::new(
            "postern_outbound_connections_total",
            "Connections by result: clear, untrusted, verified (opened, by protection), reused, failed",
        );
        let phases = HistogramOpts::new(
            "postern_outbound_phase_seconds",
            "Time of the parts of an attempt: route, connect, secure (greeting to login), sign, send",
        );
        let domains = Opts::new(
            "postern_domains",
            "Domains of ours by the state of their DNS: pending, verified, failed",
        );
        let metrics = Self {
            outcomes: IntCounterVec::new(outcomes, &["kind", "result"])?,
            connections: IntCounterVec::new(connections, &["result"])?,
            phases: HistogramVec::new(phases.buckets(SECONDS.to_vec()), &["phase"])?,
            panics: IntCounter::new("postern_outbound_panics_total", "Attempts that panicked")?,
            port_blocked: IntGauge::new(
                "postern_outbound_port_blocked",
                "1 while no MX host of many can be connected to: the network seems to block the port",
            )?,
            domains: IntGaugeVec::new(domains, &["state"])?,
        };
        registry.register(Box::new(metrics.outcomes.clone()))?;
        registry.register(Box::new(metrics.connections.clone()))?;
        registry.register(Box::new(metrics.phases.clone()))?;
        registry.register(Box::new(metrics.panics.clone()))?;
        registry.register(Box::new(metrics.port_blocked.clone()))?;
        registry.register(Box::new(metrics.domains.clone()))?;
        Ok(metrics)
    }

    /// How many domains are in a state.
    pub(crate) fn domains(&self, state: State, count: i64) {
        self.domains.with_label_values(&[state.as_str()]).set(count);
    }

    /// `kind` is the first word of the destination.
    pub(crate) fn outcome(&self, kind: &str, outcome: &Outcome) {
        let result = match outcome {
            Outcome::Delivered(..) => "delivered",
            Outcome::Deferred(..) => "deferred",
            Outcome::Failed(_) => "failed",
        };
        self.outcomes.with_label_values(&[kind, result]).inc();
    }

    pub(crate) fn opened(&self, protection: Protection) {
        self.connections.with_label_values(&[protection.kind()]).inc();
    }

    pub(crate) fn reused(&self) {
        self.connections.with_label_values(&["reused"]).inc();
    }

    pub(crate) fn connection_failed(&self) {
        self.connections.with_label_values(&["failed"]).inc();
    }

    pub(crate) fn took(&self, phase: Phase, time: Duration) {
        self.phases.with_label_values(&[phase.as_str()]).observe(time.as_secs_f64());
    }

    pub(crate) fn port_blocked(&self, blocked: bool) {
        self.port_blocked.set(i64::from(blocked));
    }

    pub(crate) fn panicked(&self) {
        self.panics.inc();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn what_happens_is_counted_by_result() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        metrics.opened(Protection::Clear);
        metrics.reused();
        metrics.connection_failed();
        metrics.took(Phase::Send, Duration::from_millis(3));
        for result in ["clear", "reused", "failed"] {
            assert_eq!(metrics.connections.with_label_values(&[result]).get(), 1);
        }
        assert_eq!(metrics.phases.with_label_values(&["send"]).get_sample_count(), 1);
        assert!(Metrics::register(&registry).is_err());
    }
}
