//! Octets written to the disk for each octet of mail, from its arrival to its end.

use std::collections::BTreeMap;

use crate::Plan;
use crate::harness::figures::{Table, Until, cell};
use crate::harness::{SERVERS, Server, Setup, Starter, load, sink::Sink};

const SESSIONS: usize = 16;

/// The threads of Postern, as its account names what they write.
const WRITERS: [(&str, &[&str]); 3] = [
    ("log", &["spool-commit"]),
    ("index", &["spool-index", "sled-io", "log flusher"]),
    ("journal", &["history"]),
];

/// What Postern counts of its log.
const COUNTERS: [&str; 3] =
    ["postern_spool_written_octets_total", "postern_spool_batches_total", "postern_spool_records_total"];

/// Prints the tables. Mail that is delivered later, some seconds after it came, was in the index.
pub fn measure(plan: &Plan) -> Result<(), String> {
    let title =
        "amplification: octets written (write_bytes of /proc/PID/io, all processes) for each octet of mail";
    let table = Table::begin(title, &["octets", "delivered", "Postern", "Postfix", "x less"]);
    let mut accounts = Vec::new();
    for size in &plan.sizes {
        for (when, waits) in [("at once", false), ("later", true)] {
            let [ours, theirs] = SERVERS.map(|(name, start)| {
                amplification(plan, start, *size, waits)
                    .inspect_err(|problem| println!("{name}: not measured: {problem}"))
                    .ok()
            });
            let less = ours.as_ref().zip(theirs.as_ref()).map(|(ours, theirs)| theirs.all / ours.all);
            let all = |written: Option<&Written>| cell(written.map(|written| written.all));
            table.row(&[
                size.to_string(),
                when.to_owned(),
                all(ours.as_ref()),
                all(theirs.as_ref()),
                cell(less),
            ]);
            accounts.extend(ours.map(|ours| (*size, when, ours)));
        }
    }
    account(&accounts);
    Ok(())
}

/// Prints where the octets of Postern go.
fn account(accounts: &[(usize, &str, Written)]) {
    let title =
        "amplification: where those of Postern go; records: what the log has without the rest of its pages";
    let head =
        ["octets", "delivered", "log", "records", "index", "journal", "rest", "batches/msg", "records/batch"];
    let table = Table::begin(title, &head);
    for (size, when, written) in accounts {
        let figures = [
            Some(written.by[0]),
            written.records,
            Some(written.by[1]),
            Some(written.by[2]),
            Some(written.all - written.by.iter().sum::<f64>()),
            written.batches,
            written.mean_batch,
        ];
        let cells: Vec<String> =
            [size.to_string(), (*when).to_owned()].into_iter().chain(figures.map(cell)).collect();
        table.row(&cells);
    }
}

/// What a server has written, for each octet of mail.
struct Written {
    all: f64,
    /// As [`WRITERS`] names it.
    by: [f64; WRITERS.len()],
    /// What it counts itself: octets of records for each octet of mail, batches for each message, records in a batch.
    records: Option<f64>,
    batches: Option<f64>,
    mean_batch: Option<f64>,
}

/// What a server had written at a moment.
struct Look {
    all: u64,
    threads: BTreeMap<String, u64>,
    counters: [Option<u64>; COUNTERS.len()],
}

impl Look {
    fn at(server: &dyn Server) -> Result<Self, String> {
        let processes = server.processes();
        Ok(Self {
            all: processes.written()?,
            threads: processes.written_by_threads(),
            counters: COUNTERS.map(|name| server.counter(name)),
        })
    }

    fn of(&self, threads: &[&str]) -> u64 {
        threads.iter().filter_map(|name| self.threads.get(*name)).sum()
    }

    fn until(&self, after: &Self, messages: usize, size: usize) -> Written {
        let octets = (messages * load::message(size).len()) as f64;
        let count = |which: usize| {
            let (before, after) = self.counters[which].zip(after.counters[which])?;
            Some((after - before) as f64)
        };
        let [written, batches, records] = [0, 1, 2].map(count);
        Written {
            all: (after.all - self.all) as f64 / octets,
            by: WRITERS
                .map(|(_, threads)| after.of(threads).saturating_sub(self.of(threads)) as f64 / octets),
            records: written.map(|written| written / octets),
            batches: batches.map(|batches| batches / messages as f64),
            mean_batch: records.zip(batches).map(|(records, batches)| records / batches),
        }
    }
}

fn amplification(plan: &Plan, start: Starter, size: usize, waits: bool) -> Result<Written, String> {
    let messages = plan.messages(size);
    let sink = Sink::start()?;
    if waits {
        sink.close_gate()?;
    }
    let mut server = start(&Setup::relaying_to(sink.address()))?;
    std::thread::sleep(plan.settled);
    let before = Look::at(&*server)?;
    load::send(server.address(), SESSIONS, Until::Count(messages), size)?;
    if waits {
        std::thread::sleep(plan.settled);
        sink.open_gate()?;
    }
    sink.wait_for(messages)?;
    std::thread::sleep(plan.settled);
    let after = Look::at(&*server)?;
    server.stop();
    Ok(before.until(&after, messages, size))
}
