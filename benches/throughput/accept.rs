//! Taking mail over SMTP, while the next hop is down.

use crate::Plan;
use crate::harness::figures::{Contender, Outcome, Sample, Table, Until, cell, in_turn, ratio};
use crate::harness::{SERVERS, Setup, Starter, load, measure::TemporaryFolder, raw};

/// Prints the table: each size and number of sessions, each server and the bare disk.
pub fn measure(plan: &Plan) -> Result<(), String> {
    let head = [
        "octets",
        "sessions",
        "",
        "accepted/s",
        "p50 ms",
        "p99 ms",
        "CPU s/1000",
        "syncs/msg",
        "of raw",
        "x Postfix",
    ];
    let table = Table::begin(
        "accept: mail over SMTP, next hop down; raw: the same octets appended and synced",
        &head,
    );
    for size in &plan.sizes {
        for sessions in &plan.sessions {
            let folder = TemporaryFolder::new()?;
            let mut contenders = Vec::new();
            for (name, start) in SERVERS {
                let run = Box::new(move || accept(plan, start, *sessions, *size));
                contenders.push(Contender { name, run });
            }
            let run = Box::new(|| raw::run(folder.path(), *sessions, *size, plan.until()));
            contenders.push(Contender { name: "raw", run });
            rows(&table, *size, *sessions, &in_turn(plan.repetitions, contenders));
        }
    }
    Ok(())
}

fn accept(plan: &Plan, start: Starter, sessions: usize, size: usize) -> Result<Sample, String> {
    let mut server = start(&Setup::only_accepting()?)?;
    // Not counted: processes that start, caches, the first growth of files.
    load::send(server.address(), sessions, Until::Time(plan.time / 5), size)?;
    let (cpu, syncs) = (server.processes().cpu(), server.syncs());
    let run = load::send(server.address(), sessions, plan.until(), size)?;
    let cpu = server.processes().cpu().saturating_sub(cpu);
    let syncs = server.syncs().zip(syncs).map(|(after, before)| after - before);
    server.stop();
    Ok(run.sample(Some(cpu), syncs))
}

fn rows(table: &Table, size: usize, sessions: usize, outcomes: &[Outcome]) {
    let samples = |name: &str| {
        let outcome = outcomes.iter().find(|outcome| outcome.name == name);
        outcome.and_then(|outcome| outcome.samples.as_deref().ok())
    };
    for Outcome { name, samples: ours } in outcomes {
        let ours = match ours {
            Ok(ours) => ours,
            Err(problem) => {
                println!("| {size} | {sessions} | {name} | not measured: {problem} |");
                continue;
            }
        };
        let against = |other: &str| {
            let theirs = samples(other).filter(|_| *name != other);
            theirs.map(|theirs| ratio(ours, theirs, |sample| sample.rate))
        };
        let Sample { rate, p50, p99, cpu, syncs } = Sample::median(ours);
        table.row(&[
            size.to_string(),
            sessions.to_string(),
            (*name).to_owned(),
            cell(rate),
            cell(p50),
            cell(p99),
            cell(cpu),
            cell(syncs),
            cell(against("raw")),
            cell(against("Postfix").filter(|_| *name == "Postern")),
        ]);
    }
}
