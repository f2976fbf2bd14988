//! How many messages a second, at what cost: Postern and, in the same run on the same machine, Postfix.
//!
//! ```text
//! cargo bench --bench throughput                        # everything, with Postfix if it is installed (needs root)
//! cargo bench --bench throughput -- relay --messages 50000 --sessions 64 --size 32768
//! ```
//!
//! Scenarios: `accept` (the next hop is down, so that only taking mail is measured), `relay` (to a sink in this
//! process), `submit` (one session, latency of a whole transaction), `idle` (memory of 500 idle sessions), `sync`
//! (fsync and fdatasync calls a message while relaying, counted by strace in a run of its own).
//! Load, servers and sink share the machine; figures of one run compare, those of two runs do not.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod load;
mod measure;
mod postern;
mod postfix;
mod sink;

use std::time::Duration;

use measure::Cpu;

/// What is measured.
#[derive(Debug, Clone)]
struct Plan {
    messages: usize,
    sessions: usize,
    size: usize,
    scenarios: Vec<String>,
}

/// A server under test: started for one scenario, stopped when dropped.
trait Server {
    /// The address that takes mail.
    fn address(&self) -> std::net::SocketAddr;
    /// Its processes.
    fn processes(&self) -> measure::Processes;
    /// Ends it in an orderly way, so that what counts it (strace) can write its result.
    fn stop(&mut self);
}

/// How a server is started for a scenario.
struct Setup {
    /// Where it relays to; nobody listens there when only accepting is measured.
    next_hop: std::net::SocketAddr,
    /// A file for strace to count system calls into.
    count_into: Option<std::path::PathBuf>,
}

type Starter = fn(&Setup) -> Result<Box<dyn Server>, String>;

fn main() {
    let plan = match plan(std::env::args().skip(1)) {
        Ok(plan) => plan,
        Err(problem) => {
            eprintln!("throughput: {problem}");
            std::process::exit(2);
        }
    };
    println!(
        "{} messages of {} octets, {} sessions, no TLS, log on; {} processors shared by load, server and sink",
        plan.messages,
        plan.size,
        plan.sessions,
        std::thread::available_parallelism().map_or(0, usize::from),
    );
    let servers: [(&str, Starter); 2] = [("Postern", postern::start), ("Postfix", postfix::start)];
    for scenario in &plan.scenarios {
        println!("\n{scenario}");
        let mut first = None;
        for (name, start) in servers {
            match run(scenario, &plan, start) {
                Ok(result) => {
                    println!("  {name:<8} {result}");
                    match &first {
                        None => first = Some(result),
                        Some(ours) => println!("  {:<8} {}", "ratio", ours.against(&result)),
                    }
                }
                Err(problem) => println!("  {name:<8} not measured: {problem}"),
            }
        }
    }
}

fn plan(mut arguments: impl Iterator<Item = String>) -> Result<Plan, String> {
    let mut plan = Plan { messages: 20_000, sessions: 16, size: 4096, scenarios: Vec::new() };
    while let Some(argument) = arguments.next() {
        let mut number =
            || arguments.next().and_then(|n| n.parse().ok()).ok_or(format!("{argument} needs a number"));
        match argument.as_str() {
            // Cargo adds it.
            "--bench" => {}
            "--messages" => plan.messages = number()?,
            "--sessions" => plan.sessions = number()?,
            "--size" => plan.size = number()?,
            "accept" | "relay" | "submit" | "idle" | "sync" => plan.scenarios.push(argument),
            _ => return Err(format!("unknown argument {argument:?}")),
        }
    }
    if plan.scenarios.is_empty() {
        plan.scenarios = ["accept", "relay", "submit", "idle", "sync"].map(String::from).into();
    }
    Ok(plan)
}

/// One figure with its unit; whether more is better.
#[derive(Debug, Clone)]
struct Figure {
    what: &'static str,
    value: f64,
    more_is_better: bool,
}

/// What one scenario gave for one server.
#[derive(Debug, Clone)]
struct Outcome(Vec<Figure>);

impl Outcome {
    /// How many times better than `other`, figure by figure.
    fn against(&self, other: &Self) -> String {
        let ratios = self.0.iter().zip(&other.0).map(|(ours, theirs)| {
            let ratio =
                if ours.more_is_better { ours.value / theirs.value } else { theirs.value / ours.value };
            format!("{}: {ratio:.1} x better", ours.what)
        });
        ratios.collect::<Vec<_>>().join("   ")
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let figures: Vec<_> =
            self.0.iter().map(|figure| format!("{}: {:.3}", figure.what, figure.value)).collect();
        f.write_str(&figures.join("   "))
    }
}

fn run(scenario: &str, plan: &Plan, start: Starter) -> Result<Outcome, String> {
    match scenario {
        "accept" => accept(plan, start),
        "relay" => relay(plan, start),
        "submit" => submit(plan, start),
        "idle" => idle(start),
        _ => sync_calls(plan, start),
    }
}

fn accept(plan: &Plan, start: Starter) -> Result<Outcome, String> {
    let mut server = start(&Setup { next_hop: sink::nobody()?, count_into: None })?;
    let before = server.processes().cpu();
    let load = load::run(server.address(), plan.sessions, plan.messages, plan.size)?;
    let cpu = server.processes().cpu().since(before);
    server.stop();
    Ok(rate_and_cost("accepted per second", plan.messages, load.elapsed, cpu, &load))
}

fn relay(plan: &Plan, start: Starter) -> Result<Outcome, String> {
    let sink = sink::Sink::start()?;
    let mut server = start(&Setup { next_hop: sink.address(), count_into: None })?;
    // Not counted: connections, caches and the first growth of files.
    load::run(server.address(), plan.sessions, plan.sessions * 10, plan.size)?;
    sink.wait_for(plan.sessions * 10)?;
    let before = server.processes().cpu();
    let begin = std::time::Instant::now();
    let load = load::run(server.address(), plan.sessions, plan.messages, plan.size)?;
    sink.wait_for(plan.sessions * 10 + plan.messages)?;
    let elapsed = begin.elapsed();
    let cpu = server.processes().cpu().since(before);
    server.stop();
    Ok(rate_and_cost("relayed per second", plan.messages, elapsed, cpu, &load))
}

fn submit(plan: &Plan, start: Starter) -> Result<Outcome, String> {
    const TRANSACTIONS: usize = 500;
    let sink = sink::Sink::start()?;
    let mut server = start(&Setup { next_hop: sink.address(), count_into: None })?;
    let load = load::run(server.address(), 1, TRANSACTIONS, plan.size)?;
    sink.wait_for(TRANSACTIONS)?;
    server.stop();
    let figure =
        |what, share| Figure { what, value: load.latency(share).as_secs_f64() * 1e3, more_is_better: false };
    Ok(Outcome(vec![figure("submit p50 ms", 0.5), figure("submit p99 ms", 0.99)]))
}

fn idle(start: Starter) -> Result<Outcome, String> {
    const SESSIONS: usize = 500;
    let mut server = start(&Setup { next_hop: sink::nobody()?, count_into: None })?;
    let before = server.processes().memory();
    let sessions = load::idle_sessions(server.address(), SESSIONS)?;
    let after = server.processes().memory();
    drop(sessions);
    server.stop();
    let mebibytes = after.saturating_sub(before) as f64 / (1024.0 * 1024.0);
    Ok(Outcome(vec![Figure { what: "MiB for 500 idle sessions", value: mebibytes, more_is_better: false }]))
}

fn sync_calls(plan: &Plan, start: Starter) -> Result<Outcome, String> {
    let messages = plan.messages.min(2000);
    let folder = measure::TemporaryFolder::new()?;
    let count = folder.path().join("strace");
    let sink = sink::Sink::start()?;
    let mut server = start(&Setup { next_hop: sink.address(), count_into: Some(count.clone()) })?;
    load::run(server.address(), plan.sessions, messages, plan.size)?;
    sink.wait_for(messages)?;
    server.stop();
    let calls = measure::counted_calls(&count)?;
    let value = calls as f64 / messages as f64;
    Ok(Outcome(vec![Figure { what: "fsync and fdatasync per message", value, more_is_better: false }]))
}

fn rate_and_cost(
    what: &'static str,
    messages: usize,
    elapsed: Duration,
    cpu: Cpu,
    load: &load::Load,
) -> Outcome {
    let latency = |what, share| {
        let value = load.latency(share).as_secs_f64() * 1e3;
        Figure { what, value, more_is_better: false }
    };
    Outcome(vec![
        Figure { what, value: messages as f64 / elapsed.as_secs_f64(), more_is_better: true },
        Figure {
            what: "CPU s per 1000",
            value: cpu.0.as_secs_f64() * 1000.0 / messages as f64,
            more_is_better: false,
        },
        latency("p50 ms", 0.5),
        latency("p99 ms", 0.99),
    ])
}
