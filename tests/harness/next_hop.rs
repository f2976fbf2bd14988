//! A next hop that does what a script says: takes mail, refuses it, hangs, breaks off.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rustls::{ServerConnection, StreamOwned};

use super::mail::Mail;
use super::tls::Identity;
use super::{PATIENCE, loopback};

/// A server on an address of its own. It goes when it is dropped.
pub struct NextHop {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

/// What the next hop offers and how it answers.
#[derive(Clone)]
pub struct Script {
    /// LHLO instead of EHLO, and a reply for each recipient behind the message (RFC 2033).
    pub lmtp: bool,
    /// What the answer to EHLO lists, beside STARTTLS and AUTH.
    pub extensions: Vec<String>,
    /// Offer STARTTLS with this certificate.
    pub tls: Option<Identity>,
    /// TLS from the first byte.
    pub implicit_tls: bool,
    /// Say 220 to STARTTLS and then something that is no TLS.
    pub broken_tls: bool,
    /// Ask for this name and password, and take no mail without.
    pub login: Option<(String, String)>,
    /// Made by [`Script::on`] and its like; the first that matches decides.
    pub rules: Vec<Rule>,
}

/// An answer other than the usual one.
#[derive(Clone)]
pub struct Rule {
    /// The beginning of the command, upper or lower case. `CONNECT`: before the greeting. `.`: the end of data; for LMTP
    /// `. <address>` for each recipient.
    on: String,
    action: Action,
    remaining: usize,
}

/// What the next hop does instead of its usual answer.
#[derive(Clone)]
pub enum Action {
    /// Answers with this line.
    Reply(String),
    /// Answers with this line and closes.
    Close(String),
    /// Closes without a word.
    Drop,
    /// Says nothing until the other side gives up.
    Hang,
}

impl Default for Script {
    fn default() -> Self {
        let extensions = ["PIPELINING", "8BITMIME", "SIZE 52428800", "ENHANCEDSTATUSCODES", "SMTPUTF8"];
        Self {
            lmtp: false,
            extensions: extensions.map(str::to_owned).to_vec(),
            tls: None,
            implicit_tls: false,
            broken_tls: false,
            login: None,
            rules: Vec::new(),
        }
    }
}

impl Script {
    /// Whenever a command begins so.
    pub fn on(self, command: &str, action: Action) -> Self {
        self.times(usize::MAX, command, action)
    }

    /// The first `count` times that a command begins so.
    pub fn times(mut self, count: usize, command: &str, action: Action) -> Self {
        self.rules.push(Rule { on: command.to_lowercase(), action, remaining: count });
        self
    }

    /// Answers commands that begin so with a line.
    pub fn reply(self, command: &str, line: &str) -> Self {
        self.on(command, Action::Reply(line.to_owned()))
    }

    fn action(&mut self, command: &str) -> Option<Action> {
        let command = command.to_lowercase();
        let rule = self.rules.iter_mut().find(|rule| rule.remaining > 0 && command.starts_with(&rule.on))?;
        rule.remaining -= 1;
        Some(rule.action.clone())
    }
}

/// A message that the next hop took.
#[derive(Debug, Clone)]
pub struct Received {
    /// The argument of MAIL, from the angle bracket on: `<alice@proseware.test> SIZE=100`.
    pub from: String,
    /// The arguments of the RCPTs that were accepted.
    pub recipients: Vec<String>,
    /// The message, dots unstuffed.
    pub mail: Mail,
    /// Whether it came over TLS.
    pub tls: bool,
    /// Who logged in.
    pub login: Option<String>,
    /// Which connection, counted from one.
    pub connection: usize,
    /// Whether a command of the transaction came before the one in front of it was answered.
    pub pipelined: bool,
}

impl Received {
    /// The first word of `from`: the path.
    pub fn sender(&self) -> &str {
        self.from.split(' ').next().unwrap_or_default()
    }
}

struct Shared {
    script: Mutex<Script>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    received: Vec<Received>,
    /// The commands of each connection.
    sessions: Vec<Vec<String>>,
    /// To break them off when the next hop goes down.
    streams: Vec<TcpStream>,
    down: bool,
}

impl NextHop {
    /// On a free port; `outbound.port` is then this one.
    pub fn start(script: Script) -> Self {
        Self::bind((loopback(), 0).into(), script)
    }

    /// On another address with the same port, as a second MX host is.
    pub fn beside(other: &Self, script: Script) -> Self {
        Self::bind((loopback(), other.address.port()).into(), script)
    }

    fn bind(address: SocketAddr, script: Script) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared { script: Mutex::new(script), state: Mutex::default(), changed: Condvar::new() };
        let mut hop = Self { address, shared: Arc::new(shared), listener: None };
        hop.listen(listener);
        hop
    }

    fn listen(&mut self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        self.listener = Some(thread::spawn(move || accept(&listener, &shared)));
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn ip(&self) -> Ipv4Addr {
        match self.address {
            SocketAddr::V4(address) => *address.ip(),
            SocketAddr::V6(_) => panic!("next hops are on 127/8"),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on another script; connections that are open follow it too.
    pub fn set_script(&self, script: Script) {
        *self.shared.script.lock().unwrap() = script;
    }

    /// Stops listening and breaks off what is open: connections are refused.
    pub fn go_down(&mut self) {
        let Some(listener) = self.listener.take() else { return };
        let mut state = self.state();
        state.down = true;
        for stream in state.streams.drain(..) {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(state);
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect(self.address);
        listener.join().unwrap();
    }

    /// Listens again, on the same address.
    pub fn come_up(&mut self) {
        self.state().down = false;
        self.listen(TcpListener::bind(self.address).unwrap());
    }

    /// What it took so far.
    pub fn received(&self) -> Vec<Received> {
        self.state().received.clone()
    }

    /// The commands of each connection so far.
    pub fn sessions(&self) -> Vec<Vec<String>> {
        self.state().sessions.clone()
    }

    /// Waits until it has taken `count` messages.
    pub fn wait_for_count(&self, count: usize) -> Vec<Received> {
        self.wait(&format!("{count} messages"), |state| {
            Some(state.received.clone()).filter(|received| received.len() >= count)
        })
    }

    /// Waits for the first message.
    pub fn wait_for_message(&self) -> Received {
        self.wait_for_count(1).remove(0)
    }

    /// Waits until a command was heard `count` times in all.
    pub fn wait_for_command(&self, command: &str, count: usize) {
        self.wait(&format!("{command} {count} times"), |state| {
            let heard = state.sessions.iter().flatten().filter(|line| line.starts_with(command)).count();
            (heard >= count).then_some(())
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    fn wait<T>(&self, what: &str, look: impl Fn(&State) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state();
        loop {
            if let Some(fact) = look(&state) {
                return fact;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} did not see {what}; it heard {:#?}", self.address, state.sessions);
            state = self.shared.changed.wait_timeout(state, left).unwrap().0;
        }
    }
}

impl Drop for NextHop {
    fn drop(&mut self) {
        self.go_down();
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let mut state = shared.state.lock().unwrap();
        if state.down {
            return;
        }
        state.sessions.push(Vec::new());
        state.streams.extend(stream.try_clone());
        let connection = state.sessions.len();
        drop(state);
        shared.changed.notify_all();
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            let session = Session::new(stream, shared, connection);
            // Ends with an error when the other side goes, which is what some tests are about.
            let _ = session.run();
        });
    }
}

trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

struct Session {
    tcp: TcpStream,
    wire: Box<dyn Wire>,
    unread: Vec<u8>,
    shared: Arc<Shared>,
    connection: usize,
    tls: bool,
    login: Option<String>,
    from: Option<String>,
    recipients: Vec<String>,
    pipelined: bool,
}

impl Session {
    fn new(tcp: TcpStream, shared: Arc<Shared>, connection: usize) -> Self {
        Self {
            wire: Box::new(tcp.try_clone().unwrap()),
            tcp,
            unread: Vec::new(),
            shared,
            connection,
            tls: false,
            login: None,
            from: None,
            recipients: Vec::new(),
            pipelined: false,
        }
    }

    fn run(mut self) -> io::Result<()> {
        if self.script().implicit_tls {
            self.handshake()?;
        }
        self.answer("CONNECT", "220 next-hop.test ESMTP")?;
        loop {
            let line = self.read_line()?;
            self.pipelined |= !self.unread.is_empty();
            self.shared.state.lock().unwrap().sessions[self.connection - 1].push(line.clone());
            self.shared.changed.notify_all();
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" | "LHLO" => self.hello(&line)?,
                "HELO" => drop(self.answer(&line, "250 next-hop.test")?),
                "STARTTLS" => self.start_tls(&line)?,
                "AUTH" => self.authenticate(&line)?,
                "MAIL" => self.mail(&line)?,
                "RCPT" => self.recipient(&line)?,
                "DATA" => self.data(&line)?,
                "RSET" => {
                    self.forget();
                    self.answer(&line, "250 2.0.0 Ok")?;
                }
                "QUIT" => {
                    self.answer(&line, "221 2.0.0 Bye")?;
                    return Ok(());
                }
                _ => drop(self.answer(&line, "500 5.5.2 Unknown command")?),
            }
        }
    }

    fn script(&self) -> Script {
        self.shared.script.lock().unwrap().clone()
    }

    /// Answers as the script says, or as usual. `true`: with a positive reply.
    fn answer(&mut self, command: &str, usual: &str) -> io::Result<bool> {
        let action = self.shared.script.lock().unwrap().action(command);
        match action.unwrap_or_else(|| Action::Reply(usual.to_owned())) {
            Action::Reply(line) => {
                self.say(&line)?;
                Ok(line.starts_with(['2', '3']))
            }
            Action::Close(line) => {
                self.say(&line)?;
                self.tcp.shutdown(Shutdown::Both)?;
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Action::Drop => {
                self.tcp.shutdown(Shutdown::Both)?;
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Action::Hang => {
                while self.wire.read(&mut [0; 4096])? > 0 {}
                Err(io::ErrorKind::UnexpectedEof.into())
            }
        }
    }

    fn say(&mut self, line: &str) -> io::Result<()> {
        self.wire.write_all(format!("{line}\r\n").as_bytes())?;
        self.wire.flush()
    }

    fn hello(&mut self, line: &str) -> io::Result<()> {
        let script = self.script();
        let is_lhlo = line.to_ascii_uppercase().starts_with("LHLO");
        if is_lhlo != script.lmtp {
            return self.answer(line, "500 5.5.1 Wrong protocol").map(drop);
        }
        let mut offers = vec!["next-hop.test".to_owned()];
        offers.extend(script.extensions.iter().cloned());
        if (script.tls.is_some() || script.broken_tls) && !self.tls {
            offers.push("STARTTLS".to_owned());
        }
        if script.login.is_some() {
            offers.push("AUTH PLAIN LOGIN".to_owned());
        }
        let last = offers.len() - 1;
        let lines: Vec<String> = offers
            .iter()
            .enumerate()
            .map(|(at, offer)| format!("250{}{offer}", if at == last { ' ' } else { '-' }))
            .collect();
        self.answer(line, &lines.join("\r\n")).map(drop)
    }

    fn start_tls(&mut self, line: &str) -> io::Result<()> {
        if !self.answer(line, "220 2.0.0 Go ahead")? {
            return Ok(());
        }
        if self.script().broken_tls {
            self.say("this is no TLS")?;
            self.tcp.shutdown(Shutdown::Both)?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        assert!(self.unread.is_empty(), "commands behind STARTTLS in one segment");
        self.forget();
        self.handshake()
    }

    fn handshake(&mut self) -> io::Result<()> {
        let config = self.script().tls.expect("a certificate for TLS").server_config();
        let session = ServerConnection::new(config).unwrap();
        let mut stream = StreamOwned::new(session, self.tcp.try_clone()?);
        stream.conn.complete_io(&mut stream.sock)?;
        self.tls = true;
        self.wire = Box::new(stream);
        Ok(())
    }

    fn authenticate(&mut self, line: &str) -> io::Result<()> {
        let mut words = line.split(' ').skip(1);
        let mechanism = words.next().unwrap_or_default().to_ascii_uppercase();
        let (name, password) = match (mechanism.as_str(), words.next()) {
            ("PLAIN", Some(secret)) => plain(secret),
            ("PLAIN", None) => plain(&self.challenge("")?),
            _ => (decode(&self.challenge("VXNlcm5hbWU6")?), decode(&self.challenge("UGFzc3dvcmQ6")?)),
        };
        if self.script().login != Some((name.clone(), password)) {
            return self.answer(line, "535 5.7.8 Authentication failed").map(drop);
        }
        if self.answer(line, "235 2.7.0 Welcome")? {
            self.login = Some(name);
        }
        Ok(())
    }

    fn challenge(&mut self, text: &str) -> io::Result<String> {
        self.say(&format!("334 {text}"))?;
        self.read_line()
    }

    fn mail(&mut self, line: &str) -> io::Result<()> {
        let usual = match (self.script().login.is_some() && self.login.is_none(), &self.from) {
            (true, _) => "530 5.7.0 Authentication required",
            (false, Some(_)) => "503 5.5.1 Nested MAIL",
            (false, None) => "250 2.1.0 Ok",
        };
        if self.answer(line, usual)? {
            self.from = Some(argument(line));
        }
        Ok(())
    }

    fn recipient(&mut self, line: &str) -> io::Result<()> {
        let usual = if self.from.is_some() { "250 2.1.5 Ok" } else { "503 5.5.1 MAIL first" };
        if self.answer(line, usual)? {
            self.recipients.push(argument(line));
        }
        Ok(())
    }

    fn data(&mut self, line: &str) -> io::Result<()> {
        let usual = if self.recipients.is_empty() { "503 5.5.1 RCPT first" } else { "354 Go on" };
        if !self.answer(line, usual)? {
            return Ok(());
        }
        let content = self.read_content()?;
        let from = self.from.take().unwrap_or_default();
        let all = std::mem::take(&mut self.recipients);
        let mut taken = Vec::new();
        if self.script().lmtp {
            for recipient in all {
                let address = recipient.split(' ').next().unwrap_or_default().to_owned();
                if self.answer(&format!(". {address}"), "250 2.1.5 Delivered")? {
                    taken.push(recipient);
                }
            }
        } else if self.answer(".", "250 2.0.0 Taken")? {
            taken = all;
        }
        if !taken.is_empty() {
            self.keep(from, taken, content);
        }
        Ok(())
    }

    fn keep(&self, from: String, recipients: Vec<String>, content: Vec<u8>) {
        let (tls, login, connection) = (self.tls, self.login.clone(), self.connection);
        let (mail, pipelined) = (Mail(content), self.pipelined);
        let received = Received { from, recipients, mail, tls, login, connection, pipelined };
        self.shared.state.lock().unwrap().received.push(received);
        self.shared.changed.notify_all();
    }

    fn forget(&mut self) {
        self.from = None;
        self.recipients.clear();
    }

    fn read_content(&mut self) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        loop {
            let line = self.read_raw_line()?;
            if line == b".\r\n" {
                return Ok(content);
            }
            content.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
    }

    fn read_line(&mut self) -> io::Result<String> {
        let line = self.read_raw_line()?;
        Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
    }

    /// Up to and with CRLF: a bare LF ends nothing here.
    fn read_raw_line(&mut self) -> io::Result<Vec<u8>> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.unread[searched..].windows(2).position(|pair| pair == b"\r\n") {
                return Ok(self.unread.drain(..searched + at + 2).collect());
            }
            searched = self.unread.len().saturating_sub(1);
            let mut buffer = [0; 16 * 1024];
            let length = self.wire.read(&mut buffer)?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.unread.extend_from_slice(&buffer[..length]);
        }
    }
}

fn argument(line: &str) -> String {
    line.split_once(':').map_or("", |(_, argument)| argument.trim()).to_owned()
}

fn decode(secret: &str) -> String {
    String::from_utf8_lossy(&BASE64_STANDARD.decode(secret).unwrap_or_default()).into_owned()
}

fn plain(secret: &str) -> (String, String) {
    let secret = decode(secret);
    let mut parts = secret.split('\0').skip(1).map(str::to_owned);
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}
