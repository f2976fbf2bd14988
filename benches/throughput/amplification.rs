//! Octets written to the disk for each octet of mail, from its arrival to its end.

use crate::harness::figures::{Table, Until, cell};
use crate::harness::{Setup, Starter, load, sink::Sink};
use crate::{Plan, SERVERS};

const SESSIONS: usize = 16;

/// Prints the table. Mail that is delivered later, some seconds after it came, was in the index.
pub fn measure(plan: &Plan) -> Result<(), String> {
    let title =
        "amplification: octets written (write_bytes of /proc/PID/io, all processes) for each octet of mail";
    let table = Table::begin(title, &["octets", "delivered", "Postern", "Postfix", "x less"]);
    for size in &plan.sizes {
        for (when, waits) in [("at once", false), ("later", true)] {
            let figures = SERVERS.map(|(name, start)| {
                amplification(plan, start, *size, waits)
                    .inspect_err(|problem| println!("{name}: not measured: {problem}"))
                    .ok()
            });
            let [ours, theirs] = figures;
            let less = ours.zip(theirs).map(|(ours, theirs)| theirs / ours);
            table.row(&[size.to_string(), when.to_owned(), cell(ours), cell(theirs), cell(less)]);
        }
    }
    Ok(())
}

fn amplification(plan: &Plan, start: Starter, size: usize, waits: bool) -> Result<f64, String> {
    let messages = plan.messages(size);
    let sink = Sink::start()?;
    if waits {
        sink.close_gate()?;
    }
    let mut server = start(&Setup::relaying_to(sink.address()))?;
    std::thread::sleep(plan.settled);
    let before = server.processes().written()?;
    load::send(server.address(), SESSIONS, Until::Count(messages), size)?;
    if waits {
        std::thread::sleep(plan.settled);
        sink.open_gate()?;
    }
    sink.wait_for(messages)?;
    std::thread::sleep(plan.settled);
    let written = server.processes().written()? - before;
    server.stop();
    Ok(written as f64 / (messages * load::message(size).len()) as f64)
}
