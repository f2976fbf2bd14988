//! The load: SMTP sessions that send one message after the other, each command after the reply to the one before it.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::figures::{Run, Until};

/// Nothing on loopback takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Sends messages of a size over connections that stay open.
pub fn send(server: SocketAddr, sessions: usize, until: Until, size: usize) -> Result<Run, String> {
    let message = message(size);
    let mut connections = idle_sessions(server, sessions)?;
    Run::drive(&mut connections, until, |session| session.send("sink@adatum.test", &message))
}

/// Sessions that have said EHLO and say no more, as long as the value lives.
pub fn idle_sessions(server: SocketAddr, sessions: usize) -> Result<Vec<Session>, String> {
    (0..sessions).map(|_| Session::open(server)).collect()
}

/// A message, with the dot behind it.
pub fn message(size: usize) -> Vec<u8> {
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
    /// Connects and says EHLO.
    pub fn open(server: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(server).map_err(|e| format!("connecting to {server}: {e}"))?;
        let set = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(PATIENCE)));
        set.map_err(|e| e.to_string())?;
        let mut session = Self { reader: BufReader::new(stream) };
        session.expect("220")?;
        session.say(b"EHLO load.proseware.test\r\n", "250")?;
        Ok(session)
    }

    /// Sends a message and waits until it is accepted.
    pub fn send(&mut self, to: &str, message: &[u8]) -> Result<(), String> {
        self.say(b"MAIL FROM:<load@proseware.test>\r\n", "250")?;
        self.say(format!("RCPT TO:<{to}>\r\n").as_bytes(), "250")?;
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
