//! The load: SMTP sessions that send one message after the other, each command after the reply to the one before it.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Nothing on loopback takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a load gave.
#[derive(Debug)]
pub struct Load {
    /// From the first MAIL to the last 250.
    pub elapsed: Duration,
    latencies: Vec<Duration>,
}

impl Load {
    /// The latency (MAIL to 250 behind the data) that this share of the messages did not exceed.
    pub fn latency(&self, share: f64) -> Duration {
        let at = (self.latencies.len() as f64 * share) as usize;
        self.latencies.get(at.min(self.latencies.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

/// Sends `messages` over `sessions` connections that stay open.
pub fn run(server: SocketAddr, sessions: usize, messages: usize, size: usize) -> Result<Load, String> {
    let message = message(size);
    let mut connections = (0..sessions).map(|_| Session::open(server)).collect::<Result<Vec<_>, _>>()?;
    let left = AtomicUsize::new(messages);
    let begin = Instant::now();
    let results: Vec<Result<Vec<Duration>, String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = connections
            .iter_mut()
            .map(|session| {
                scope.spawn(|| {
                    let mut latencies = Vec::new();
                    while take(&left) {
                        let begin = Instant::now();
                        session.send(&message)?;
                        latencies.push(begin.elapsed());
                    }
                    Ok(latencies)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(Err("a session panicked".into()))).collect()
    });
    let elapsed = begin.elapsed();
    let mut latencies = Vec::with_capacity(messages);
    for result in results {
        latencies.extend(result?);
    }
    latencies.sort_unstable();
    Ok(Load { elapsed, latencies })
}

/// Sessions that have said EHLO and say no more, as long as the value lives.
pub fn idle_sessions(server: SocketAddr, sessions: usize) -> Result<Vec<Session>, String> {
    (0..sessions).map(|_| Session::open(server)).collect()
}

fn take(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
}

fn message(size: usize) -> Vec<u8> {
    let mut message = b"From: <load@proseware.test>\r\nTo: <sink@adatum.test>\r\nSubject: load\r\n\
        Message-ID: <load@proseware.test>\r\nDate: Sat, 21 Nov 2026 18:05:25 +0000\r\n\r\n"
        .to_vec();
    while message.len() + 78 <= size {
        message.extend_from_slice(&[b'x'; 76]);
        message.extend_from_slice(b"\r\n");
    }
    message.extend_from_slice(b".\r\n");
    message
}

/// One connection.
#[derive(Debug)]
pub struct Session {
    reader: BufReader<TcpStream>,
}

impl Session {
    fn open(server: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(server).map_err(|e| format!("connecting to {server}: {e}"))?;
        let set = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(PATIENCE)));
        set.map_err(|e| e.to_string())?;
        let mut session = Self { reader: BufReader::new(stream) };
        session.expect("220")?;
        session.say(b"EHLO load.proseware.test\r\n", "250")?;
        Ok(session)
    }

    fn send(&mut self, message: &[u8]) -> Result<(), String> {
        self.say(b"MAIL FROM:<load@proseware.test>\r\n", "250")?;
        self.say(b"RCPT TO:<sink@adatum.test>\r\n", "250")?;
        self.say(b"DATA\r\n", "354")?;
        self.say(message, "250")
    }

    fn say(&mut self, bytes: &[u8], expected: &str) -> Result<(), String> {
        self.reader.get_mut().write_all(bytes).map_err(|e| format!("writing: {e}"))?;
        self.expect(expected)
    }

    fn expect(&mut self, expected: &str) -> Result<(), String> {
        let mut line = String::new();
        loop {
            line.clear();
            self.reader.read_line(&mut line).map_err(|e| format!("reading: {e}"))?;
            if !line.starts_with(expected) {
                return Err(format!("expected {expected}, got {line:?}"));
            }
            if line.as_bytes().get(3) == Some(&b' ') {
                return Ok(());
            }
        }
    }
}
