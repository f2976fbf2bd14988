//! Large messages in many sessions at once, and the memory that they take.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::Plan;
use crate::harness::figures::{Table, cell, mebibytes};
use crate::harness::load::{self, Session};
use crate::harness::{Server, Setup, Starter, postern, postfix};

/// How often the memory is looked at. Reading it of many processes takes some milliseconds too.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Prints the table.
pub fn measure(plan: &Plan) -> Result<(), String> {
    let title = format!(
        "bodies: {} sessions at once, each with a message of {} MB",
        plan.sessions,
        plan.octets / 1_000_000
    );
    let table = Table::begin(&title, &["", "idle MiB", "most MiB beyond", "s", "MB/s"]);
    let servers: [(&str, Starter); 2] = [("Postern", postern::start), ("Postfix", large)];
    for (name, start) in servers {
        match one(plan, start) {
            Ok(figures) => table.row(&[&[name.to_owned()], &figures[..]].concat()),
            Err(problem) => println!("| {name} | not measured: {problem} |"),
        }
    }
    Ok(())
}

/// Postfix takes 10 MB of a message unless told otherwise.
fn large(setup: &Setup) -> Result<Box<dyn Server>, String> {
    postfix::start_with(setup, "message_size_limit = 104857600\n")
}

fn one(plan: &Plan, start: Starter) -> Result<Vec<String>, String> {
    let mut server = start(&Setup::only_accepting()?)?;
    let message = load::message(plan.octets);
    let mut sessions: Vec<Session> =
        (0..plan.sessions).map(|_| Session::open(server.address())).collect::<Result<_, _>>()?;
    let processes = server.processes();
    let idle = processes.memory();
    let (most, ended) = (AtomicU64::new(0), AtomicBool::new(false));
    let begin = Instant::now();
    let sent = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                most.fetch_max(processes.memory(), Ordering::Relaxed);
                std::thread::sleep(BETWEEN_LOOKS);
            }
        });
        let threads: Vec<_> = sessions
            .iter_mut()
            .map(|session| scope.spawn(|| session.send("sink@adatum.test", &message)))
            .collect();
        let sent = threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or(Err("a thread panicked".into())));
        ended.store(true, Ordering::Relaxed);
        sent
    });
    let time = begin.elapsed().as_secs_f64();
    server.stop();
    sent?;
    let megabytes = (plan.sessions * message.len()) as f64 / 1e6;
    let beyond = most.into_inner().saturating_sub(idle);
    Ok(vec![mebibytes(idle), mebibytes(beyond), cell(time), cell(megabytes / time)])
}
