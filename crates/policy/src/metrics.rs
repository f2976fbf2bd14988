//! Counters of decisions.

use prometheus::{IntCounterVec, Opts, Registry};

use crate::relay::Decision;

/// Decisions by stage, verdict and reason.
#[derive(Debug, Clone)]
pub struct Metrics {
    decisions: IntCounterVec,
}

impl Metrics {
    /// Registers the counters.
    ///
    /// # Errors
    /// When they are registered twice.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let options =
            Opts::new("postern_policy_decisions_total", "Policy decisions by stage, verdict and reason");
        let decisions = IntCounterVec::new(options, &["stage", "verdict", "reason"])?;
        registry.register(Box::new(decisions.clone()))?;
        Ok(Self { decisions })
    }

    /// Counts a decision.
    pub fn decided(&self, stage: &'static str, decision: &Decision) {
        let labels = [stage, decision.verdict.as_str(), decision.reason.as_str()];
        self.decisions.with_label_values(&labels).inc();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::relay::{Reason, Trace, Verdict};

    #[test]
    fn decisions_are_counted_by_stage_verdict_and_reason() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let decision = Decision {
            verdict: Verdict::Reject,
            reason: Reason::NotTrustedNotLocal,
            trace: Trace::default(),
        };
        metrics.decided("rcpt", &decision);
        metrics.decided("rcpt", &decision);
        let counter = metrics.decisions.with_label_values(&["rcpt", "reject", "not-trusted-not-local"]);
        assert_eq!(counter.get(), 2);
        assert!(Metrics::register(&registry).is_err());
    }
}
