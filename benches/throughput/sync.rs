//! Calls of fsync and fdatasync for each message that is relayed. Postern counts its own; Postfix, and Postern once more, are
//! counted from outside.

use crate::Plan;
use crate::harness::figures::{Table, Until, cell};
use crate::harness::measure::{Counter, TemporaryFolder};
use crate::harness::{SERVERS, Setup, Starter, load, sink::Sink};

/// Prints the table.
pub fn measure(plan: &Plan) -> Result<(), String> {
    let size = plan.sizes.first().copied().unwrap_or(4096);
    let title = format!("sync: fsync and fdatasync for each message of {size} octets that is relayed");
    let table = Table::begin(&title, &["sessions", "", "counted by", "calls/msg"]);
    let outside = Counter::best();
    if outside.is_none() {
        println!("neither perf nor strace works here: only what the server counts itself");
    }
    for sessions in &plan.sessions {
        for (name, start) in SERVERS {
            for counter in std::iter::once(None).chain(outside.map(Some)) {
                let by = counter.map_or("itself", Counter::name);
                match calls(plan, start, counter, *sessions, size) {
                    Ok(Some(calls)) => {
                        table.row(&[sessions.to_string(), name.to_owned(), by.to_owned(), cell(calls)]);
                    }
                    // It does not count them.
                    Ok(None) => {}
                    Err(problem) => println!("| {sessions} | {name} | {by} | not measured: {problem} |"),
                }
            }
        }
    }
    Ok(())
}

fn calls(
    plan: &Plan,
    start: Starter,
    counter: Option<Counter>,
    sessions: usize,
    size: usize,
) -> Result<Option<f64>, String> {
    let messages = plan.messages(size);
    let folder = TemporaryFolder::new()?;
    let file = folder.path().join("calls");
    let sink = Sink::start()?;
    let count = counter.map(|counter| (counter, file.clone()));
    let mut server = start(&Setup { count, ..Setup::relaying_to(sink.address()) })?;
    let before = server.syncs();
    if counter.is_none() && before.is_none() {
        server.stop();
        return Ok(None);
    }
    load::send(server.address(), sessions, Until::Count(messages), size)?;
    sink.wait_for(messages)?;
    let own = server.syncs().zip(before).map(|(after, before)| after - before);
    server.stop();
    let calls = match counter {
        Some(counter) => Some(counter.calls(&file)?),
        None => own,
    };
    Ok(calls.map(|calls| calls as f64 / messages as f64))
}
