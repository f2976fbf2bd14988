//! The decision who may relay, with a large configuration: what one costs, what the rules take up in memory, and what keeping a
//! record of each refusal costs.
//!
//! ```text
//! cargo bench --bench decision
//! cargo bench --bench decision -- --accounts 10000 --domains 1000 --networks 10000
//! cargo bench --bench decision -- --quick                  # small, to see that it works
//! ```
//!
//! The rules are asked in this process, each time about another client, login and address, so that no answer lies in the cache of the
//! processor. For the memory the real posternd is started with the same configuration, and with an empty one.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

#[path = "../harness/mod.rs"]
#[allow(dead_code, reason = "each benchmark uses its part of it")]
mod harness;
mod site;

use std::hint::black_box;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use harness::figures::{Table, cell, mebibytes, median};
use harness::measure::{TemporaryFolder, resident};
use harness::postern::Site;
use harness::wait_for_greeting;
use postern_config::ListenerKind;
use postern_config::replies::Class;
use postern_policy::Policy;
use postern_policy::accounts::Login;
use postern_policy::record::{Record, Records, Settings, Told, Transcript};
use postern_policy::relay::{HeaderSenders, Question, Stage, decide};
use postern_policy::sender::header_senders;
use postern_smtp::{ForwardPath, ReversePath};
use site::Size;

/// A figure is the median of so many rounds.
const ROUNDS: usize = 5;

#[derive(Debug, Clone, Copy)]
struct Plan {
    size: Size,
    /// Questions of a round.
    questions: usize,
    /// Refusals that are kept.
    records: usize,
}

fn main() {
    let result = Plan::read(std::env::args().skip(1)).and_then(measure);
    if let Err(problem) = result {
        eprintln!("decision: {problem}");
        std::process::exit(1);
    }
}

impl Plan {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let size = Size { accounts: 10_000, domains: 1000, networks: 10_000 };
        let mut plan = Self { size, questions: 200_000, records: 100_000 };
        while let Some(argument) = arguments.next() {
            let mut number = || {
                let value = arguments.next().ok_or(format!("{argument} needs a value"))?;
                value.parse::<usize>().map_err(|_| format!("{value:?} is no number"))
            };
            match argument.as_str() {
                // Cargo adds it.
                "--bench" => {}
                "--quick" => {
                    plan.size = Size { accounts: 20, domains: 10, networks: 20 };
                    (plan.questions, plan.records) = (1000, 100);
                }
                "--accounts" => plan.size.accounts = number()?,
                "--domains" => plan.size.domains = number()?,
                "--networks" => plan.size.networks = number()?,
                "--questions" => plan.questions = number()?,
                "--records" => plan.records = number()?,
                _ => return Err(format!("unknown argument {argument:?}")),
            }
        }
        let Size { accounts, domains, networks } = plan.size;
        let fits = (1..=50_000).contains(&accounts) && (1..=50_000).contains(&domains);
        match fits && (2..=50_000).contains(&networks) && plan.questions > 0 && plan.records > 0 {
            true => Ok(plan),
            false => {
                Err("1 to 50,000 accounts and domains, 2 to 50,000 networks, 1 question, 1 record".to_owned())
            }
        }
    }
}

fn measure(plan: Plan) -> Result<(), String> {
    let config = plan.size.config()?;
    let before = own_memory();
    let begin = Instant::now();
    let policy = Policy::new(&config);
    let compiled = begin.elapsed();
    let rules = own_memory().saturating_sub(before);
    println!("decision: {}, {} questions of each kind", plan.size, plan.questions);
    decisions(&plan, &policy)?;
    kept(&plan, &policy, &Settings::of(&config))?;
    memory(&plan, compiled, rules)
}

fn own_memory() -> u64 {
    resident(std::process::id()).map_or(0, |(now, _)| now)
}

/// Everything that a question borrows.
struct Case {
    listener: ListenerKind,
    client: IpAddr,
    login: Option<Login>,
    sender: ReversePath,
    recipient: ForwardPath,
    header: Option<HeaderSenders>,
}

impl Case {
    fn question<'a>(&'a self, stage: Stage<'a>, now: SystemTime) -> Question<'a> {
        Question {
            listener: self.listener,
            client: self.client,
            local: None,
            tls: self.login.is_some(),
            certificate: None,
            login: self.login.as_ref(),
            helo: Some("client.test"),
            now,
            recipients: 0,
            reverse_path: &self.sender,
            stage,
        }
    }

    fn stage(&self, name: &str) -> Stage<'_> {
        match (name, &self.header) {
            ("mail", _) => Stage::Mail,
            ("message", Some(header)) => Stage::Message(header),
            _ => Stage::Rcpt(&self.recipient),
        }
    }
}

/// A kind of question: what it is about, at which stage, and who asks.
type Kind = (&'static str, &'static str, fn(&Size, &Policy, usize) -> Result<Case, String>);

const KINDS: [Kind; 7] = [
    ("a stranger to one of our mailboxes", "rcpt", |size, _, at| {
        Ok(Case { recipient: path(&size.mailbox(at))?, ..stranger(at)? })
    }),
    ("a stranger to somebody else: refused", "rcpt", |_, _, at| stranger(at)),
    ("a client of a trusted network", "rcpt", |size, _, at| {
        Ok(Case { client: size.trusted(at), ..stranger(at)? })
    }),
    ("a client with a grant", "rcpt", |size, _, at| Ok(Case { client: size.granted(at), ..stranger(at)? })),
    ("a login: its sender", "mail", login),
    ("a login: its recipient", "rcpt", login),
    ("a login: the senders in the header", "message", login),
];

fn stranger(at: usize) -> Result<Case, String> {
    Ok(Case {
        listener: ListenerKind::Mx,
        client: IpAddr::from([198, 51, (at >> 8) as u8, at as u8]),
        login: None,
        sender: sender(&format!("x{at}@client.test"))?,
        recipient: path(&format!("bob{at}@adatum.test"))?,
        header: None,
    })
}

fn login(size: &Size, policy: &Policy, at: usize) -> Result<Case, String> {
    let name = size.account(at);
    let header = format!("From: \"Somebody\" <{name}>\r\nSender: {name}\r\nTo: bob@adatum.test\r\n");
    Ok(Case {
        listener: ListenerKind::Submission,
        login: Some(policy.accounts.login(&name).ok_or("an account that was configured is not there")?),
        sender: sender(&name)?,
        header: Some(header_senders(header.as_bytes())),
        ..stranger(at)?
    })
}

fn sender(text: &str) -> Result<ReversePath, String> {
    ReversePath::parse(text).map_err(|e| format!("{text}: {e}"))
}

fn path(text: &str) -> Result<ForwardPath, String> {
    ForwardPath::parse(text).map_err(|e| format!("{text}: {e}"))
}

fn decisions(plan: &Plan, policy: &Policy) -> Result<(), String> {
    let columns = [("a question about", 38), ("answer", 22), ("rules looked at", 15), ("µs", 8)];
    let table = Table::begin_with("one decision", &columns);
    for (what, stage, make) in KINDS {
        let cases = cases(plan, policy, make)?;
        let first = &cases[0];
        let decision = decide(&first.question(first.stage(stage), SystemTime::now()), policy);
        let rounds = (0..ROUNDS).map(|_| {
            each(&cases, |case, now| {
                black_box(decide(&case.question(case.stage(stage), now), policy));
            })
        });
        let rules = decision.trace.0.len().to_string();
        table.row(&[
            what.to_owned(),
            decision.reason.as_str().to_owned(),
            rules,
            cell(median(rounds.collect())),
        ]);
    }
    Ok(())
}

/// So many that each table is gone through, in an order that no cache foresees.
fn cases(
    plan: &Plan,
    policy: &Policy,
    make: fn(&Size, &Policy, usize) -> Result<Case, String>,
) -> Result<Vec<Case>, String> {
    const STEP: usize = 7919;
    (0..plan.questions.min(20_000)).map(|at| make(&plan.size, policy, at * STEP)).collect()
}

/// Microseconds for each.
fn each(cases: &[Case], mut work: impl FnMut(&Case, SystemTime)) -> f64 {
    let now = SystemTime::now();
    let begin = Instant::now();
    cases.iter().for_each(|case| work(case, now));
    begin.elapsed().as_secs_f64() * 1e6 / cases.len() as f64
}

/// What a session waits for the record of a refusal: it is written later.
fn kept(plan: &Plan, policy: &Policy, settings: &Settings) -> Result<(), String> {
    let folder = TemporaryFolder::new()?;
    let settings = Settings { max_per_client: u32::MAX, min_free_space: 0, ..*settings };
    let records = Records::open(&folder.path().join("records"), settings, SystemTime::now);
    let records = records.map_err(|e| format!("records: {e}"))?;
    let case = stranger(0)?;
    let now = SystemTime::now();
    let question = case.question(Stage::Rcpt(&case.recipient), now);
    let decision = decide(&question, policy);
    let mut waits = Vec::with_capacity(plan.records);
    let begin = Instant::now();
    for _ in 0..plan.records {
        let told = Told {
            class: Class::Relay,
            cause: "relay not permitted: 198.51.100.9 is not logged in and not a trusted network".to_owned(),
            advice: "log in on port 587 or 465".to_owned(),
            reply: "550 5.7.1 <bob@adatum.test>: relay not permitted".to_owned(),
        };
        let began = Instant::now();
        if let Some(name) = records.name(case.client) {
            records.keep(&name, Record::new(&name, &question, &decision, told, &Transcript::default()));
            waits.push(began.elapsed().as_secs_f64() * 1e6);
        }
    }
    let named = waits.len();
    records.close();
    let elapsed = begin.elapsed();
    let status = records.status();
    let table = Table::begin_with("records of refusals, as fast as they come", &[("", 46), ("", 24)]);
    let row = |name: &str, value: String| table.row(&[name.to_owned(), value]);
    row("the session waits for one that is kept, median", format!("{} µs", cell(median(waits))));
    row("kept, the rest has no reference", format!("{named} of {}", plan.records));
    row("kept a second", cell(named as f64 / elapsed.as_secs_f64()));
    row("octets on the disk for each", cell(status.octets as f64 / status.records.max(1) as f64));
    Ok(())
}

fn memory(plan: &Plan, compiled: Duration, rules: u64) -> Result<(), String> {
    let table = Table::begin_with("memory and time", &[("", 46), ("", 24)]);
    let row = |name: &str, value: String| table.row(&[name.to_owned(), value]);
    row("the rules are made of the configuration in", format!("{} ms", cell(compiled.as_secs_f64() * 1e3)));
    row("the rules in this process", mebibytes(rules));
    let (small, _) = daemon(&Size { accounts: 1, domains: 1, networks: 2 })?;
    let (large, ready) = daemon(&plan.size)?;
    row("posternd with an empty configuration", mebibytes(small));
    row("posternd with this one", mebibytes(large));
    row("posternd greets after", format!("{} ms", cell(ready.as_secs_f64() * 1e3)));
    Ok(())
}

/// Resident memory of a daemon that has just started, and how long until it greeted.
fn daemon(size: &Size) -> Result<(u64, Duration), String> {
    let folder = TemporaryFolder::new()?;
    let site = Site::new(folder.path(), &size.parts())?;
    write(&folder.path().join("accounts.toml"), &size.accounts())?;
    trust(&folder.path().join("postern.toml"), size)?;
    let daemon = site.start()?;
    let ready = wait_for_greeting(site.address())?;
    let (now, _) = resident(daemon.processes().root).ok_or("posternd is not there any more")?;
    Ok((now, ready))
}

/// Puts the trusted networks beside loopback.
fn trust(path: &Path, size: &Size) -> Result<(), String> {
    const LOOPBACK: &str = "trusted_networks = [";
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let more = size.trust();
    let more = more.trim_end().strip_suffix(']').unwrap_or_default();
    write(path, &text.replacen(LOOPBACK, more, 1))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}
