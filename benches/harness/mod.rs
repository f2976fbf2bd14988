//! What the benchmarks share: the servers under test, the load, the next hop, the bare disk, and figures.

pub mod figures;
pub mod load;
pub mod measure;
pub mod postern;
pub mod postfix;
pub mod raw;
pub mod sink;

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(600);

/// A server under test: started for one measurement, stopped when dropped.
pub trait Server {
    /// The address that takes mail.
    fn address(&self) -> SocketAddr;
    /// Its processes.
    fn processes(&self) -> measure::Processes;
    /// How often it has had something made durable, if it counts that itself.
    fn syncs(&self) -> Option<u64>;
    /// One of the counters that it keeps itself, by its name.
    fn counter(&self, _name: &str) -> Option<u64> {
        None
    }
    /// Ends it in an orderly way, so that what counts its calls can write its result.
    fn stop(&mut self);
}

/// How a server is started for a measurement.
pub struct Setup {
    /// Where it relays to; nobody listens there when only accepting is measured.
    pub next_hop: SocketAddr,
    /// Who counts its system calls, and the file with the result.
    pub count: Option<(measure::Counter, PathBuf)>,
}

impl Setup {
    /// Relays to this address.
    pub fn relaying_to(next_hop: SocketAddr) -> Self {
        Self { next_hop, count: None }
    }

    /// Takes mail and gets rid of none.
    pub fn only_accepting() -> Result<Self, String> {
        Ok(Self::relaying_to(sink::nobody()?))
    }
}

/// Starts a server.
pub type Starter = fn(&Setup) -> Result<Box<dyn Server>, String>;

/// The servers, ours first.
pub const SERVERS: [(&str, Starter); 2] = [("Postern", postern::start), ("Postfix", postfix::start)];

/// Waits until a server greets on an address. Answers how long that took.
pub fn wait_for_greeting(address: SocketAddr) -> Result<Duration, String> {
    let begin = Instant::now();
    while !greets(address) {
        if begin.elapsed() > PATIENCE {
            return Err(format!("nobody answers on {address}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(begin.elapsed())
}

/// A port can be open long before its server is ready.
fn greets(address: SocketAddr) -> bool {
    use std::io::Read;
    let greeting = TcpStream::connect(address).and_then(|mut stream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut code = [0; 3];
        stream.read_exact(&mut code).map(|()| code)
    });
    greeting.is_ok_and(|code| &code == b"220")
}

/// What a benchmark measures, by its name.
pub type Scenario<P> = (&'static str, fn(&P) -> Result<(), String>);

/// Measures what a benchmark is told to, one scenario after the other; `begin` says how the figures are to be read, and what there is to
/// measure. The exit code is 2 for arguments that mean nothing, 1 where something could not be measured.
pub fn run<P>(
    benchmark: &str,
    plan: Result<P, String>,
    begin: impl FnOnce(&P) -> &[Scenario<P>],
) -> ExitCode {
    let plan = match plan {
        Ok(plan) => plan,
        Err(problem) => {
            eprintln!("{benchmark}: {problem}");
            return ExitCode::from(2);
        }
    };
    let mut failed = false;
    for (name, measure) in begin(&plan) {
        if let Err(problem) = measure(&plan) {
            eprintln!("{name}: not measured: {problem}");
            failed = true;
        }
    }
    ExitCode::from(u8::from(failed))
}

/// Processors, which the load and the servers share.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

/// The scenario of this name.
///
/// # Errors
/// With the names that there are.
pub fn scenario<P>(name: &str, known: &[Scenario<P>]) -> Result<Scenario<P>, String> {
    let names = || known.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let found = known.iter().find(|(known, _)| *known == name).copied();
    found.ok_or_else(|| format!("unknown argument {name:?}; scenarios: {}", names()))
}

/// The number in an argument.
///
/// # Errors
/// When it is none.
pub fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}
