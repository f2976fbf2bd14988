//! What many connections cost, and what honest clients notice of them: Postern and, in turn with it on the same machine, Postfix.
//!
//! ```text
//! cargo bench --bench siege                      # everything, with Postfix if it is installed (needs root)
//! cargo bench --bench siege -- --quick           # the same with small numbers, to see that it works
//! cargo bench --bench siege -- flood --seconds 20
//! cargo bench --bench siege -- bodies --sessions 200 --megabytes 25
//! ```
//!
//! | scenario | what |
//! |---|---|
//! | `flood` | new connections from many addresses of loopback, as fast as they come, beside one honest client |
//! | `idle` | sessions that say nothing, as many as the limit of open files allows |
//! | `bodies` | large messages in many sessions at once, and the memory that they take |

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod bodies;
mod flood;
#[path = "../harness/mod.rs"]
#[allow(dead_code, reason = "each benchmark uses its part of it")]
mod harness;
mod idle;

use std::process::ExitCode;
use std::time::Duration;

use harness::{Scenario, number, processors, scenario};

/// What is measured.
#[derive(Debug, Clone)]
pub struct Plan {
    scenarios: Vec<Scenario<Plan>>,
    /// `flood`: how long it is.
    time: Duration,
    /// `bodies`: how many at once.
    sessions: usize,
    /// `bodies`: octets of each.
    octets: usize,
    /// `idle`: as many as there may be, or these.
    idle: Option<usize>,
}

const SCENARIOS: [Scenario<Plan>; 3] =
    [("flood", flood::measure), ("idle", idle::measure), ("bodies", bodies::measure)];

fn main() -> ExitCode {
    harness::run("siege", Plan::read(std::env::args().skip(1)), |plan| {
        println!("no TLS, log on; {} processors shared by load and servers", processors());
        &plan.scenarios
    })
}

impl Plan {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut plan = Self {
            scenarios: Vec::new(),
            time: Duration::from_secs(20),
            sessions: 200,
            octets: 25_000_000,
            idle: None,
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                // Cargo adds it.
                "--bench" => {}
                "--quick" => {
                    plan.time = Duration::from_secs(1);
                    (plan.sessions, plan.octets, plan.idle) = (10, 1_000_000, Some(200));
                }
                "--seconds" => plan.time = Duration::from_secs_f64(number(&value()?)?),
                "--sessions" => plan.sessions = number(&value()?)?,
                "--megabytes" => plan.octets = number::<usize>(&value()?)? * 1_000_000,
                "--idle" => plan.idle = Some(number(&value()?)?),
                name => plan.scenarios.push(scenario(name, &SCENARIOS)?),
            }
        }
        if plan.scenarios.is_empty() {
            plan.scenarios = SCENARIOS.to_vec();
        }
        if plan.time.is_zero() || plan.sessions == 0 || plan.octets == 0 || plan.idle == Some(0) {
            return Err("there is nothing to measure with a 0".into());
        }
        Ok(plan)
    }
}
