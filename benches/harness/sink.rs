//! The next hop: takes every message and forgets it, with PIPELINING, a thread a connection. It can keep everybody waiting.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// How long no message may arrive before the wait is given up.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Counter {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    messages: usize,
    /// Nobody is greeted.
    closed: bool,
}

/// A running sink.
#[derive(Debug, Clone)]
pub struct Sink {
    address: SocketAddr,
    counter: Arc<Counter>,
}

/// An address of loopback where nobody listens.
pub fn nobody() -> Result<SocketAddr, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    listener.local_addr().map_err(|e| e.to_string())
}

impl Sink {
    /// Listens on a free port of loopback.
    pub fn start() -> Result<Self, String> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
        let address = listener.local_addr().map_err(|e| e.to_string())?;
        let counter = Arc::new(Counter::default());
        let for_connections = Arc::clone(&counter);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counter = Arc::clone(&for_connections);
                // A connection that breaks ends its thread; what it has not counted is missed by `wait_for`.
                std::thread::spawn(move || serve(stream, &counter));
            }
        });
        Ok(Self { address, counter })
    }

    /// Lets everybody who connects from now on wait for the greeting.
    pub fn close_gate(&self) -> Result<(), String> {
        self.counter.state.lock().map_err(|e| e.to_string())?.closed = true;
        Ok(())
    }

    /// Greets those who wait, and everybody after them.
    pub fn open_gate(&self) -> Result<(), String> {
        self.counter.state.lock().map_err(|e| e.to_string())?.closed = false;
        self.counter.changed.notify_all();
        Ok(())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many messages have arrived.
    pub fn count(&self) -> usize {
        self.counter.state.lock().map_or(0, |state| state.messages)
    }

    /// Waits until so many messages have arrived in all.
    pub fn wait_for(&self, messages: usize) -> Result<(), String> {
        let mut state = self.counter.state.lock().map_err(|e| e.to_string())?;
        while state.messages < messages {
            let before = state.messages;
            let wait = self.counter.changed.wait_timeout(state, PATIENCE).map_err(|e| e.to_string())?;
            state = wait.0;
            if wait.1.timed_out() && state.messages == before {
                return Err(format!("only {before} of {messages} messages arrived"));
            }
        }
        Ok(())
    }
}

fn serve(mut stream: TcpStream, counter: &Counter) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    if let Ok(state) = counter.state.lock() {
        // Poisoned only when another connection panicked: then nobody waits.
        drop(counter.changed.wait_while(state, |state| state.closed));
    }
    stream.write_all(b"220 sink.adatum.test ESMTP\r\n")?;
    let mut input = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut in_data = false;
    let mut searched: usize = 0;
    loop {
        let mut replies = Vec::new();
        let mut closing = false;
        loop {
            if in_data {
                // The end may be cut in two.
                let from = searched.saturating_sub(4);
                searched = input.len();
                let Some(end) = memmem(&input[from..], b"\r\n.\r\n") else { break };
                input.drain(..from + end + 5);
                in_data = false;
                if let Ok(mut state) = counter.state.lock() {
                    state.messages += 1;
                    counter.changed.notify_all();
                }
                replies.extend_from_slice(b"250 2.0.0 Ok\r\n");
                continue;
            }
            let Some(end) = memmem(&input, b"\r\n") else { break };
            let line: Vec<u8> = input.drain(..end + 2).collect();
            match line.get(..4).map(<[u8]>::to_ascii_uppercase).as_deref() {
                Some(b"EHLO") => replies.extend_from_slice(b"250-sink\r\n250-PIPELINING\r\n250 8BITMIME\r\n"),
                Some(b"DATA") => {
                    (in_data, searched) = (true, 0);
                    replies.extend_from_slice(b"354 go\r\n");
                }
                Some(b"QUIT") => {
                    closing = true;
                    replies.extend_from_slice(b"221 bye\r\n");
                }
                _ => replies.extend_from_slice(b"250 2.0.0 Ok\r\n"),
            }
        }
        stream.write_all(&replies)?;
        let read = if closing { 0 } else { stream.read(&mut buffer)? };
        if read == 0 {
            return Ok(());
        }
        input.extend_from_slice(&buffer[..read]);
    }
}

fn memmem(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
