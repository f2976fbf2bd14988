//! How many messages a second, at what cost: Postern and, in turn with it on the same machine, Postfix and the bare disk.
//!
//! ```text
//! cargo bench --bench throughput                        # everything, with Postfix if it is installed (needs root)
//! cargo bench --bench throughput -- --quick             # the same with small numbers, to see that it works
//! cargo bench --bench throughput -- accept spool --sizes 4096 --sessions 16,64 --seconds 10 --repetitions 5
//! ```
//!
//! | scenario | what |
//! |---|---|
//! | `accept` | mail over SMTP to a server that cannot get rid of it, beside appending and syncing the same octets |
//! | `relay` | mail over SMTP to a server that hands it to a sink in this process |
//! | `submit` | one session: how long a transaction takes while the mail is relayed |
//! | `idle` | memory of 500 sessions that say nothing |
//! | `amplification` | octets written to the disk for each octet of mail that comes and goes |
//! | `sync` | calls of fsync and fdatasync for each message that is relayed |
//! | `spool` | the spool alone, without SMTP, beside the bare disk |
//! | `churn` | what the spool takes up on the disk while messages come and go |
//!
//! Load, servers and sink share the machine and the disk. So contenders run in turn, again and again; what is printed is the
//! median, and ratios are medians of the ratios of each turn.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod accept;
mod amplification;
mod churn;
#[path = "../harness/mod.rs"]
#[allow(dead_code, reason = "each benchmark uses its part of it")]
mod harness;
mod relay;
mod spool;
mod sync;

use std::process::ExitCode;
use std::time::Duration;

use harness::figures::Until;
use harness::{Scenario, number, processors, scenario};

/// What is measured.
#[derive(Debug, Clone)]
pub struct Plan {
    scenarios: Vec<Scenario<Plan>>,
    repetitions: usize,
    /// How long each run takes.
    time: Duration,
    sizes: Vec<usize>,
    sessions: Vec<usize>,
    /// Where messages are counted and not seconds.
    messages: usize,
    /// `churn`: messages in all, and at once.
    churn: (usize, usize),
    /// `amplification`: how long what is written behind the mail takes (the index once a second, dirty directories).
    settled: Duration,
}

const SCENARIOS: [Scenario<Plan>; 8] = [
    ("accept", accept::measure),
    ("relay", relay::measure),
    ("submit", relay::submit),
    ("idle", relay::idle),
    ("amplification", amplification::measure),
    ("sync", sync::measure),
    ("spool", spool::measure),
    ("churn", churn::measure),
];

fn main() -> ExitCode {
    harness::run("throughput", Plan::read(std::env::args().skip(1)), |plan| {
        println!(
            "no TLS, log on; {} processors shared by load, servers and sink; median of {} runs of {} s in turn",
            processors(),
            plan.repetitions,
            plan.time.as_secs_f64(),
        );
        &plan.scenarios
    })
}

impl Plan {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut plan = Self {
            scenarios: Vec::new(),
            repetitions: 3,
            time: Duration::from_secs(5),
            sizes: vec![4096, 32 * 1024, 256 * 1024],
            sessions: vec![1, 16, 64],
            messages: 5000,
            churn: (200_000, 10_000),
            settled: Duration::from_millis(2500),
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                // Cargo adds it.
                "--bench" => {}
                "--quick" => plan.quick(),
                "--repetitions" => plan.repetitions = number(&value()?)?,
                "--seconds" => plan.time = Duration::from_secs_f64(number(&value()?)?),
                "--sizes" => plan.sizes = numbers(&value()?)?,
                "--sessions" => plan.sessions = numbers(&value()?)?,
                "--messages" => plan.messages = number(&value()?)?,
                "--churn" => plan.churn.0 = number(&value()?)?,
                "--live" => plan.churn.1 = number(&value()?)?,
                name => plan.scenarios.push(scenario(name, &SCENARIOS)?),
            }
        }
        if plan.scenarios.is_empty() {
            plan.scenarios = SCENARIOS.to_vec();
        }
        let is_empty = plan.repetitions == 0 || plan.time.is_zero() || plan.messages == 0;
        if is_empty || plan.sizes.contains(&0) || plan.sessions.contains(&0) || plan.churn.0 < 5 {
            return Err("there is nothing to measure with a 0".into());
        }
        Ok(plan)
    }

    /// As little as shows that everything works.
    fn quick(&mut self) {
        self.repetitions = 1;
        self.time = Duration::from_millis(300);
        self.sizes = vec![4096, 256 * 1024];
        self.sessions = vec![16];
        self.messages = 200;
        self.churn = (5000, 500);
        self.settled = Duration::from_millis(300);
    }

    /// The time of one run.
    fn until(&self) -> Until {
        Until::Time(self.time)
    }

    /// Messages of a size, where they are counted: not more than a disk takes in some seconds.
    fn messages(&self, size: usize) -> usize {
        /// Octets in all.
        const MOST: usize = 256 * 1024 * 1024;
        self.messages.min(MOST / size).max(1)
    }
}

fn numbers(text: &str) -> Result<Vec<usize>, String> {
    text.split(',').map(number).collect()
}
