//! Mail that comes and goes, and sessions that say nothing.

use std::time::Instant;

use crate::Plan;
use crate::harness::figures::{Contender, Sample, Table, Until, cell, in_turn, mebibytes, median, ratio};
use crate::harness::{SERVERS, Setup, Starter, load, sink::Sink};

/// Messages of one session that go before what is counted: connections, caches and the first growth of files.
const WARM_UP: usize = 10;

/// Prints the table: messages of the first size, each number of sessions.
pub fn measure(plan: &Plan) -> Result<(), String> {
    let size = plan.sizes.first().copied().unwrap_or(4096);
    let title = format!("relay: mail of {size} octets over SMTP, handed to a sink in this process");
    let head = [
        "sessions",
        "",
        "relayed/s",
        "p50 ms",
        "p99 ms",
        "CPU s/1000",
        "syncs/msg",
        "x Postfix",
        "CPU: x less",
    ];
    let table = Table::begin(&title, &head);
    for sessions in &plan.sessions {
        compare(plan, &table, *sessions, |start| relay(plan, start, *sessions, size))?;
    }
    Ok(())
}

/// Prints the table of one session.
pub fn submit(plan: &Plan) -> Result<(), String> {
    let size = plan.sizes.first().copied().unwrap_or(4096);
    let title = format!(
        "submit: one session, {size} octets; from MAIL to the 250 behind the data, while mail is relayed"
    );
    let head = [
        "sessions",
        "",
        "accepted/s",
        "p50 ms",
        "p99 ms",
        "CPU s/1000",
        "syncs/msg",
        "x Postfix",
        "CPU: x less",
    ];
    let table = Table::begin(&title, &head);
    compare(plan, &table, 1, |start| {
        let sink = Sink::start()?;
        let mut server = start(&Setup::relaying_to(sink.address()))?;
        let run = load::send(server.address(), 1, plan.until(), size)?;
        sink.wait_for(run.count())?;
        server.stop();
        Ok(run.sample(None, None))
    })
}

/// Prints what idle sessions cost.
pub fn idle(plan: &Plan) -> Result<(), String> {
    const SESSIONS: usize = 500;
    let table = Table::begin("idle: memory of 500 sessions that say nothing", &["", "MiB"]);
    for (name, start) in SERVERS {
        let memory = || -> Result<f64, String> {
            let mut server = start(&Setup::only_accepting()?)?;
            let before = server.processes().memory();
            let sessions = load::idle_sessions(server.address(), SESSIONS)?;
            let after = server.processes().memory();
            drop(sessions);
            server.stop();
            Ok(after.saturating_sub(before) as f64)
        };
        match (0..plan.repetitions).map(|_| memory()).collect::<Result<Vec<f64>, _>>() {
            Ok(octets) => table.row(&[name.to_owned(), mebibytes(median(octets) as u64)]),
            Err(problem) => println!("| {name} | not measured: {problem} |"),
        }
    }
    Ok(())
}

fn relay(plan: &Plan, start: Starter, sessions: usize, size: usize) -> Result<Sample, String> {
    let sink = Sink::start()?;
    let mut server = start(&Setup::relaying_to(sink.address()))?;
    let warm_up = sessions * WARM_UP;
    load::send(server.address(), sessions, Until::Count(warm_up), size)?;
    sink.wait_for(warm_up)?;
    let (cpu, syncs) = (server.processes().cpu(), server.syncs());
    let begin = Instant::now();
    let mut run = load::send(server.address(), sessions, plan.until(), size)?;
    sink.wait_for(warm_up + run.count())?;
    run.elapsed = begin.elapsed();
    let cpu = server.processes().cpu().saturating_sub(cpu);
    let syncs = server.syncs().zip(syncs).map(|(after, before)| after - before);
    server.stop();
    Ok(run.sample(Some(cpu), syncs))
}

/// A row for each server.
fn compare(
    plan: &Plan,
    table: &Table,
    sessions: usize,
    run: impl Fn(Starter) -> Result<Sample, String>,
) -> Result<(), String> {
    let run = &run;
    let contenders = SERVERS
        .map(|(name, start)| Contender { name, run: Box::new(move || run(start)) })
        .into_iter()
        .collect();
    let outcomes = in_turn(plan.repetitions, contenders);
    let theirs = outcomes.last().and_then(|outcome| outcome.samples.as_deref().ok());
    for outcome in &outcomes {
        let name = outcome.name;
        match &outcome.samples {
            Ok(ours) => {
                let Sample { rate, p50, p99, cpu, syncs } = Sample::median(ours);
                let theirs = theirs.filter(|_| name == "Postern");
                let faster = theirs.map(|theirs| ratio(ours, theirs, |sample| sample.rate));
                let cheaper =
                    theirs.map(|theirs| ratio(theirs, ours, |sample| sample.cpu.unwrap_or(f64::NAN)));
                let figures = [Some(rate), Some(p50), Some(p99), cpu, syncs, faster, cheaper];
                let cells: Vec<String> =
                    [sessions.to_string(), name.to_owned()].into_iter().chain(figures.map(cell)).collect();
                table.row(&cells);
            }
            Err(problem) => println!("| {sessions} | {name} | not measured: {problem} |"),
        }
    }
    Ok(())
}
