//! Counts of what holds beside the configuration, taken when they are asked for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use postern_policy::standing::Standing;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge, Registry};

/// Registers the counts of one standing.
///
/// # Errors
/// When they are registered twice.
pub fn register(standing: Arc<Standing>, registry: &Registry) -> Result<(), prometheus::Error> {
    registry.register(Box::new(Metrics {
        standing,
        given: IntCounter::new(
            "postern_relay_grants_given_total",
            "Temporary grants given since the start, those given anew included",
        )?,
        in_force: IntGauge::new("postern_relay_grants", "Temporary grants in force")?,
        hosts: IntGauge::new("postern_relay_hosts", "Host names that may relay, with addresses known")?,
        host_problems: IntGauge::new(
            "postern_relay_host_problems",
            "Host names that may relay, for which DNS had no answer the last time",
        )?,
        one_at_a_time: Mutex::new(()),
    }))
}

struct Metrics {
    standing: Arc<Standing>,
    given: IntCounter,
    in_force: IntGauge,
    hosts: IntGauge,
    host_problems: IntGauge,
    /// Two who ask at once would count the same grants twice.
    one_at_a_time: Mutex<()>,
}

impl Collector for Metrics {
    fn desc(&self) -> Vec<&Desc> {
        [self.given.desc(), self.in_force.desc(), self.hosts.desc(), self.host_problems.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _one = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        self.given.inc_by(self.standing.grants.given().saturating_sub(self.given.get()));
        self.in_force.set(gauge(self.standing.grants.in_force(SystemTime::now())));
        let (known, problems) = self.standing.hosts.counts();
        self.hosts.set(gauge(known));
        self.host_problems.set(gauge(problems));
        [self.given.collect(), self.in_force.collect(), self.hosts.collect(), self.host_problems.collect()]
            .concat()
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
