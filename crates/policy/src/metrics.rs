//! Counters of decisions.

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

use crate::relay::Decision;
use crate::standing::alarms::Cause;

/// Decisions by stage, verdict and reason; what became of logins and guessers.
#[derive(Debug, Clone)]
pub struct Metrics {
    decisions: IntCounterVec,
    alarms: IntCounterVec,
    bans: IntGauge,
    suspensions: IntGauge,
    failed_tests: IntGauge,
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
        let alarms = Opts::new("postern_policy_login_alarms_total", "Alarms about logins by cause");
        let alarms = IntCounterVec::new(alarms, &["cause"])?;
        registry.register(Box::new(alarms.clone()))?;
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let bans = gauge("postern_policy_bans", "Addresses that are banned now")?;
        let suspensions =
            gauge("postern_policy_suspended_logins", "Logins that the server has suspended by itself")?;
        let failed_tests = gauge(
            "postern_policy_failed_tests",
            "Questions of policy.tests that the rules in force answer otherwise than expected",
        )?;
        Ok(Self { decisions, alarms, bans, suspensions, failed_tests })
    }

    /// Counts an alarm.
    pub fn alarmed(&self, cause: Cause) {
        self.alarms.with_label_values(&[cause.as_str()]).inc();
    }

    /// How many bans and suspensions there are.
    pub fn set_standing(&self, bans: usize, suspensions: usize) {
        self.bans.set(i64::try_from(bans).unwrap_or(i64::MAX));
        self.suspensions.set(i64::try_from(suspensions).unwrap_or(i64::MAX));
    }

    /// How many questions of `policy.tests` the rules in force answer otherwise than expected.
    pub fn set_failed_tests(&self, failed: usize) {
        self.failed_tests.set(i64::try_from(failed).unwrap_or(i64::MAX));
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
