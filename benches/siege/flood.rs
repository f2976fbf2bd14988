//! New connections from many addresses, as fast as they come, beside one honest client.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::Plan;
use crate::harness::figures::{Run, Table, Until, cell};
use crate::harness::load::{self, Session};
use crate::harness::{SERVERS, Server, Setup};

/// Connections of the flood that are open at once.
const AT_ONCE: usize = 256;
/// What the honest client sends.
const OCTETS: usize = 4096;
/// How long a connection of the flood waits for a greeting: a server that does not answer at all gets the next one.
const PATIENCE: Duration = Duration::from_secs(2);

/// Prints the table: each server, in peace and under the flood.
pub fn measure(plan: &Plan) -> Result<(), String> {
    let title = format!(
        "flood: an honest client connects, sends {OCTETS} octets and leaves, again and again for {} s, alone and beside {AT_ONCE} \
         connections at once from addresses in 127.0.0.0/8 that say EHLO and leave",
        plan.time.as_secs_f64(),
    );
    let columns = [
        "",
        "flood",
        "connections/s",
        "answered/s",
        "messages/s",
        "p50 ms",
        "p99 ms",
        "longest ms",
        "failed",
    ];
    let table = Table::begin(&title, &columns);
    for (name, start) in SERVERS {
        for flooded in [false, true] {
            let row = || -> Result<Vec<String>, String> {
                let mut server = start(&Setup::only_accepting()?)?;
                let row = one(plan, server.as_ref(), flooded);
                server.stop();
                row
            };
            match row() {
                Ok(figures) => table.row(&[vec![name.to_owned()], figures].concat()),
                Err(problem) => println!("| {name} | not measured: {problem} |"),
            }
        }
    }
    Ok(())
}

fn one(plan: &Plan, server: &dyn Server, flooded: bool) -> Result<Vec<String>, String> {
    let address = server.address();
    let flood = Flood::default();
    let message = load::message(OCTETS);
    let failed = AtomicUsize::new(0);
    let run = std::thread::scope(|scope| {
        if flooded {
            scope.spawn(|| flood.run(address));
            // The measured time begins when it has come up.
            std::thread::sleep(Duration::from_millis(500));
        }
        let (connections, answered) = flood.counts();
        let run = Run::drive(&mut [()], Until::Time(plan.time), |()| {
            let sent =
                Session::open(address).and_then(|mut session| session.send("sink@adatum.test", &message));
            if sent.is_err() {
                failed.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let (connections_after, answered_after) = flood.counts();
        flood.ended.store(true, Ordering::Relaxed);
        run.map(|run| (run, connections_after - connections, answered_after - answered))
    });
    let (run, connections, answered) = run?;
    let a_second = |count: usize| cell(count as f64 / run.elapsed.as_secs_f64());
    Ok(vec![
        if flooded { "yes" } else { "no" }.to_owned(),
        a_second(connections),
        a_second(answered),
        a_second(run.count()),
        cell(run.percentile(0.5)),
        cell(run.percentile(0.99)),
        cell(run.percentile(1.0)),
        failed.into_inner().to_string(),
    ])
}

/// Connections that are of no use to anybody.
#[derive(Debug, Default)]
struct Flood {
    ended: AtomicBool,
    connections: AtomicUsize,
    answered: AtomicUsize,
}

impl Flood {
    fn counts(&self) -> (usize, usize) {
        (self.connections.load(Ordering::Relaxed), self.answered.load(Ordering::Relaxed))
    }

    /// Connects until told to end.
    fn run(&self, server: SocketAddr) {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            let one_after_the_other = || async {
                while !self.ended.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    let connection = tokio::time::timeout(PATIENCE, self.connect(server)).await;
                    // A refused connection costs nobody anything: without a pause it would be this loop that is measured.
                    if !matches!(connection, Ok(Some(()))) && begin.elapsed() < Duration::from_millis(1) {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            };
            let all: Vec<_> = (0..AT_ONCE).map(|_| Box::pin(one_after_the_other())).collect();
            futures_of(all).await;
        });
    }

    /// One connection, from any address of loopback but the first, which is the honest client's.
    async fn connect(&self, server: SocketAddr) -> Option<()> {
        let host = rand::random_range(0x7F00_0002..0x7FFF_FFFE_u32);
        let socket = TcpSocket::new_v4().ok()?;
        socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(host)), 0)).ok()?;
        let mut stream = socket.connect(server).await.ok()?;
        self.connections.fetch_add(1, Ordering::Relaxed);
        let mut greeting = [0; 128];
        let octets = stream.read(&mut greeting).await.ok()?;
        if octets > 3 && greeting.starts_with(b"220") {
            self.answered.fetch_add(1, Ordering::Relaxed);
            stream.write_all(b"EHLO flood.test\r\n").await.ok()?;
        }
        Some(())
    }
}

/// Lets all of them go on until the last has ended.
async fn futures_of<F: Future<Output = ()> + Unpin>(mut all: Vec<F>) {
    std::future::poll_fn(|cx| {
        all.retain_mut(|one| std::pin::Pin::new(one).poll(cx).is_pending());
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
