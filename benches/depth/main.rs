//! A deep queue: how long its daemon takes to start on it, what it costs while nothing happens, and how operators' verbs and
//! the mail of others fare beside it.
//!
//! ```text
//! cargo bench --bench depth                              # 1,000,000 deferred messages for 1,000 domains
//! cargo bench --bench depth -- --state held --messages 200000
//! cargo bench --bench depth -- --quick                   # a few thousand, to see that it works
//! ```
//!
//! The spool is filled through the queue's own crate, in this process. Then the real posternd is started on it and asked with
//! the real posternctl. Mail for one healthy destination goes through it all the time, four messages a second.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod fill;
#[path = "../harness/mod.rs"]
#[allow(dead_code, reason = "each benchmark uses its part of it")]
mod harness;
mod pulse;

use std::path::Path;
use std::time::{Duration, Instant};

use fill::{Fill, State};
use harness::figures::{Table, mebibytes};
use harness::measure::{TemporaryFolder, on_disk, resident};
use harness::postern::{Daemon, Site};
use harness::sink::{self, Sink};
use harness::wait_for_greeting;
use pulse::Pulse;

/// What is measured.
#[derive(Debug, Clone, Copy)]
struct Plan {
    fill: Fill,
    /// How long the processor time of doing nothing is watched.
    idle: Duration,
}

/// How long the daemon may know of no more messages than before, while it loads its queue.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often the daemon is asked how far it is: each time costs it, and so the loading, a few milliseconds.
const LOOK: Duration = Duration::from_millis(50);

/// An index that has not grown for so long is complete: it is written once a second.
const STEADY: Duration = Duration::from_secs(3);

fn main() {
    let result = Plan::read(std::env::args().skip(1)).and_then(|plan| measure(&plan));
    if let Err(problem) = result {
        eprintln!("depth: {problem}");
        std::process::exit(1);
    }
}

impl Plan {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let fill = Fill { messages: 1_000_000, state: State::Deferred, domains: 1000, octets: 1024 };
        let mut plan = Self { fill, idle: Duration::from_secs(10) };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            let number = |text: String| text.parse::<usize>().map_err(|_| format!("{text:?} is no number"));
            match argument.as_str() {
                // Cargo adds it.
                "--bench" => {}
                "--quick" => {
                    (plan.fill.messages, plan.fill.domains, plan.idle) = (3000, 30, Duration::from_secs(1))
                }
                "--messages" => plan.fill.messages = number(value()?)?,
                "--domains" => plan.fill.domains = number(value()?)?,
                "--octets" => plan.fill.octets = number(value()?)?,
                "--state" => plan.fill.state = value()?.parse()?,
                _ => return Err(format!("unknown argument {argument:?}")),
            }
        }
        match plan.fill.messages >= 10 && plan.fill.domains > 0 {
            true => Ok(plan),
            false => Err("at least 10 messages and 1 domain".to_owned()),
        }
    }
}

fn measure(plan: &Plan) -> Result<(), String> {
    let folder = TemporaryFolder::new()?;
    let sink = Sink::start()?;
    let site = Site::new(folder.path(), &routes(&sink)?)?;
    let begin = Instant::now();
    fill::fill(&site.spool(), &plan.fill)?;
    let title = format!("depth: {}, filled in {:.0} s", plan.fill, begin.elapsed().as_secs_f64());

    let table = Table::begin_with(&title, &[("", 52), ("", 50)]);
    let bench = Bench { plan, site, sink, table };
    bench.disk();
    let messages = plan.fill.messages;
    let mut daemon = bench.start("after the fill", messages)?;
    bench.memory(&daemon);
    bench.idle(&daemon);
    bench.asked()?;
    let left = bench.changed()?;
    bench.memory(&daemon);
    daemon.kill();
    let mut daemon = bench.start("after kill -9", left)?;
    daemon.stop();
    let index = bench.site.spool().join("index");
    std::fs::remove_dir_all(&index).map_err(|e| format!("{}: {e}", index.display()))?;
    let mut daemon = bench.start("without its index", left)?;
    bench.rebuilt(&index);
    bench.memory(&daemon);
    daemon.stop();
    let daemon = bench.start("after a clean stop", left)?;
    drop(daemon);
    Ok(())
}

/// One destination that answers. All others cannot be looked up, so what is ready among them waits for its destination.
fn routes(sink: &Sink) -> Result<String, String> {
    Ok(format!(
        "[[route]]\ndomain = \"adatum.test\"\nvia = \"smarthost\"\nhosts = [\"{}\"]\n\n\
         [resolver]\nnameservers = [\"{}\"]\ntimeout = \"200ms\"\nattempts = 1\n",
        sink.address(),
        sink::nobody()?,
    ))
}

/// What the daemon says of its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    messages: usize,
    is_loading: bool,
}

struct Bench<'a> {
    plan: &'a Plan,
    site: Site,
    sink: Sink,
    table: Table,
}

impl Bench<'_> {
    fn row(&self, what: &str, figure: String) {
        self.table.row(&[what.to_owned(), figure]);
    }

    fn seconds(&self, what: &str, time: Duration) {
        self.row(what, format!("{:.2} s", time.as_secs_f64()));
    }

    fn disk(&self) {
        let spool = self.site.spool();
        let (log, index) = (on_disk(&spool.join("log")), on_disk(&spool.join("index")));
        self.row("log, index on disk", format!("{}, {} MiB", mebibytes(log), mebibytes(index)));
    }

    /// Starts the daemon, waits until it greets, and then until it has loaded so many messages.
    fn start(&self, when: &str, messages: usize) -> Result<Daemon, String> {
        let begin = Instant::now();
        let daemon = self.site.start()?;
        wait_for_greeting(self.site.address())?;
        self.seconds(&format!("start {when}: greets after"), begin.elapsed());
        let (mut known, mut since) = (self.known()?, Instant::now());
        while known.is_loading || known.messages < messages {
            if since.elapsed() > PATIENCE {
                return Err(format!("it knows {} of {messages} messages {when}", known.messages));
            }
            std::thread::sleep(LOOK);
            let now = self.known()?;
            if now != known {
                (known, since) = (now, Instant::now());
            }
        }
        self.seconds(&format!("start {when}: queue loaded after"), begin.elapsed());
        Ok(daemon)
    }

    /// Waits until the index is there again: its files have not grown for a while.
    fn rebuilt(&self, index: &Path) {
        let begin = Instant::now();
        let (mut size, mut grown) = (0, Duration::ZERO);
        while begin.elapsed() - grown < STEADY {
            std::thread::sleep(Duration::from_millis(100));
            let now = on_disk(index);
            if now != size {
                (size, grown) = (now, begin.elapsed());
            }
        }
        self.seconds("  index rebuilt, beside its work, after", grown);
    }

    /// Messages that the daemon says it has, or has read so far.
    fn known(&self) -> Result<Known, String> {
        let status = self.site.ctl(&["status", "--json"])?;
        let status: serde_json::Value = serde_json::from_str(&status).map_err(|e| format!("status: {e}"))?;
        let read = status["loading"].as_u64();
        let messages = read.or(status["queue"]["messages"].as_u64()).ok_or("status has no queue.messages")?;
        let messages = usize::try_from(messages).map_err(|e| e.to_string())?;
        Ok(Known { messages, is_loading: read.is_some() })
    }

    fn memory(&self, daemon: &Daemon) {
        let figure = match resident(daemon.processes().root) {
            Some((now, most)) => format!("{}, {} MiB", mebibytes(now), mebibytes(most)),
            None => "-".to_owned(),
        };
        self.row("resident memory, the most so far", figure);
    }

    fn idle(&self, daemon: &Daemon) {
        let before = daemon.processes().cpu();
        std::thread::sleep(self.plan.idle);
        let used = daemon.processes().cpu().saturating_sub(before).as_secs_f64();
        self.row("processor while idle", format!("{:.2} %", used / self.plan.idle.as_secs_f64() * 100.0));
    }

    /// What operators ask.
    fn asked(&self) -> Result<(), String> {
        let list = &["queue", "list", "--limit", "1000", "--json"][..];
        let count = &["queue", "count", "--group-by", "domain"][..];
        for (what, arguments) in [("queue list, first page", list), ("queue count by domain", count)] {
            let begin = Instant::now();
            self.site.ctl(arguments)?;
            self.seconds(what, begin.elapsed());
        }
        Ok(())
    }

    /// What operators change, with mail for a healthy destination going through meanwhile. Answers how many messages are left.
    fn changed(&self) -> Result<usize, String> {
        let pulse = Pulse::begin(self.site.address(), &self.sink)?;
        pulse.rest()?;
        self.pulse("nothing else happens", &pulse);
        let keep_back = match self.plan.fill.state {
            // They are held already.
            State::Held => "release",
            State::Deferred | State::Ready => "hold",
        };
        let share = self.plan.fill.share();
        for (number, verb) in [keep_back, "drop"].into_iter().enumerate() {
            let sender = fill::sender(number);
            let mut arguments = vec!["queue", verb, "--sender", &sender, "--max", "10000000", "--yes"];
            if verb != "release" {
                arguments.extend(["--reason", "measured"]);
            }
            let begin = Instant::now();
            let said = self.site.ctl(&arguments)?;
            self.seconds(&format!("queue {verb} of {share}"), begin.elapsed());
            self.row("  it said", said.lines().next().unwrap_or_default().to_owned());
            pulse.once_more()?;
            self.pulse(&format!("queue {verb}"), &pulse);
        }
        pulse.end()?;
        let left = self.plan.fill.messages - share;
        match self.known()?.messages {
            known if known >= left => Ok(left),
            known => Err(format!("{known} messages are left, not {left}")),
        }
    }

    fn pulse(&self, during: &str, pulse: &Pulse) {
        let beats = pulse.since_last();
        let of = |time: fn(&pulse::Beat) -> Duration| {
            beats.iter().map(time).max().unwrap_or_default().as_secs_f64()
        };
        let (accepted, arrived) = (of(|beat| beat.accepted) * 1e3, of(|beat| beat.arrived) * 1e3);
        self.row(
            &format!("  new mail while {during}, longest"),
            format!("{accepted:.0} ms to 250, {arrived:.0} ms more to its host ({} messages)", beats.len()),
        );
    }
}
