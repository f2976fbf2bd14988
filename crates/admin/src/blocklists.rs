//! Counts of lists in DNS, taken when they are asked for.

use std::sync::Arc;

use postern_policy::standing::Standing;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

/// Registers the counts of one standing. Lists have the labels of the configuration: their number is bounded there.
///
/// # Errors
/// When they are registered twice.
pub fn register(standing: Arc<Standing>, registry: &Registry) -> Result<(), prometheus::Error> {
    let (answers, trouble) = families()?;
    registry.register(Box::new(Metrics { standing, answers, trouble }))
}

fn families() -> Result<(IntCounterVec, IntGaugeVec), prometheus::Error> {
    let answers = Opts::new(
        "postern_dnsbl_answers_total",
        "Clients looked up in a list in DNS by result: listed, not-listed, broken (an answer that means nothing), silent",
    );
    let trouble = Opts::new(
        "postern_dnsbl_trouble",
        "1 while the last answer of a list in DNS was none, or a broken one",
    );
    Ok((IntCounterVec::new(answers, &["list", "result"])?, IntGaugeVec::new(trouble, &["list"])?))
}

struct Metrics {
    standing: Arc<Standing>,
    /// These two only say what there is: each collection has its own.
    answers: IntCounterVec,
    trouble: IntGaugeVec,
}

impl Collector for Metrics {
    fn desc(&self) -> Vec<&Desc> {
        [self.answers.desc(), self.trouble.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok((answers, trouble)) = families() else { return Vec::new() };
        for health in self.standing.blocklists.all() {
            let (list, counts) = (health.label.as_str(), health.counts);
            for (result, count) in [
                ("listed", counts.listed),
                ("not-listed", counts.not_listed),
                ("broken", counts.broken),
                ("silent", counts.silent),
            ] {
                answers.with_label_values(&[list, result]).inc_by(count);
            }
            trouble.with_label_values(&[list]).set(health.trouble.is_some().into());
        }
        [answers.collect(), trouble.collect()].concat()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::time::{Duration, SystemTime};

    use postern_policy::standing::blocklists::Answered;
    use postern_smtp::Domain;

    use super::*;

    #[test]
    fn every_list_is_counted_by_its_label() {
        let (standing, registry) = (Arc::new(Standing::default()), Registry::new());
        register(standing.clone(), &registry).unwrap();
        assert!(register(standing.clone(), &registry).is_err());
        let zone = Domain::parse("key.zen.example.test").unwrap();
        let client = "198.51.100.9".parse().unwrap();
        let silent = Answered::Nothing("no answer".to_owned());
        standing.blocklists.learn(&zone, "Zen", client, silent, Duration::ZERO, SystemTime::UNIX_EPOCH);
        for _ in 0..2 {
            let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
            assert!(text.contains("postern_dnsbl_answers_total{list=\"Zen\",result=\"silent\"} 1"), "{text}");
            assert!(
                text.contains("postern_dnsbl_trouble{list=\"Zen\"} 1") && !text.contains("key."),
                "{text}"
            );
        }
    }
}
