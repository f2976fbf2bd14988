//! A small blocking SMTP client that says exactly what a test wants said.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};
use rustls_pki_types::ServerName;

use super::{PATIENCE, tls};

/// A connection to the daemon.
pub struct Client {
    stream: Stream,
    unread: Vec<u8>,
    transcript: String,
}

enum Stream {
    Clear(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    /// Between STARTTLS and the handshake.
    Gone,
}

/// A reply of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    /// The text of each line, without code and separator.
    pub lines: Vec<String>,
}

impl Reply {
    /// [`Reply::text`] up to the reference, which is another each time.
    pub fn without_reference(&self) -> String {
        let text = self.text();
        text.split(" (ref ").next().unwrap_or_default().to_owned()
    }

    /// Code and text in one line, folded lines joined: `550 5.7.1 <bob@adatum.test>: relay ...`. The enhanced code, which
    /// each line repeats, stands there once.
    pub fn text(&self) -> String {
        let enhanced = self.lines[0].split(' ').next().filter(|word| word.split('.').count() == 3);
        let strip = |line: &str| match enhanced.and_then(|code| line.strip_prefix(code)) {
            Some(rest) => rest.trim_start().to_owned(),
            None => line.to_owned(),
        };
        let mut text = format!("{} {}", self.code, self.lines[0]);
        for line in &self.lines[1..] {
            let _ = write!(text, " {}", strip(line).trim_start());
        }
        text
    }

    /// Whether an EHLO answer offers the extension.
    pub fn offers(&self, keyword: &str) -> bool {
        self.lines.iter().any(|line| line.split(' ').next() == Some(keyword))
    }

    /// The queue id in the answer to a message: its last word that looks like one.
    pub fn queue_id(&self) -> String {
        let text = self.text();
        let mut words = text.split(|c: char| !c.is_ascii_alphanumeric()).rev();
        words.find(|word| word.len() == 13).unwrap_or_else(|| panic!("no queue id in {text:?}")).to_owned()
    }
}

impl Client {
    /// Connects and reads the greeting, which must be 220.
    pub fn connect(address: SocketAddr) -> Self {
        let mut client = Self::open(address);
        client.expect_reply(220);
        client
    }

    /// Connects and leaves the greeting unread.
    pub fn open(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }

    /// Connects from an address of another network and reads the greeting.
    pub fn connect_from(source: Ipv4Addr, address: SocketAddr) -> Self {
        let mut client = Self::open_from(source, address);
        client.expect_reply(220);
        client
    }

    /// Connects from an address of another network and leaves the greeting unread.
    pub fn open_from(source: Ipv4Addr, address: SocketAddr) -> Self {
        let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&fd, &SocketAddr::from((source, 0))).unwrap();
        connect(&fd, &address).unwrap();
        Self::over(TcpStream::from(fd))
    }

    /// Connects with TLS from the first byte and reads the greeting.
    pub fn connect_tls(address: SocketAddr) -> Self {
        let mut client = Self::open(address);
        client.handshake();
        client.expect_reply(220);
        client
    }

    /// Connects with TLS from the first byte, asks for this name, and reads the greeting.
    pub fn connect_tls_with(address: SocketAddr, config: Arc<ClientConfig>, name: &str) -> Self {
        let mut client = Self::open(address);
        client.handshake_for(config, name);
        client.expect_reply(220);
        client
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: Stream::Clear(stream), unread: Vec::new(), transcript: String::new() }
    }

    /// How long a reply is waited for.
    pub fn set_patience(&mut self, patience: Duration) {
        self.tcp().set_read_timeout(Some(patience)).unwrap();
    }

    /// Says EHLO, which must be answered with 250.
    pub fn ehlo(&mut self) -> Reply {
        self.expect("EHLO client.test", 250)
    }

    /// STARTTLS and the handshake; EHLO is not said again.
    pub fn start_tls(&mut self) {
        self.expect("STARTTLS", 220);
        assert!(self.unread.is_empty(), "the server spoke before the handshake");
        self.handshake();
    }

    /// STARTTLS and the handshake, in which the client shows this certificate when it is asked; EHLO is not said again.
    pub fn start_tls_showing(&mut self, identity: &tls::Identity) {
        self.expect("STARTTLS", 220);
        self.handshake_with(tls::client_config_showing(identity));
    }

    /// The handshake alone.
    pub fn handshake(&mut self) {
        self.handshake_with(tls::client_config());
    }

    /// The handshake alone, as this client.
    pub fn handshake_with(&mut self, config: Arc<ClientConfig>) {
        self.handshake_for(config, "mail.proseware.test");
    }

    fn handshake_for(&mut self, config: Arc<ClientConfig>, name: &str) {
        let Stream::Clear(tcp) = std::mem::replace(&mut self.stream, Stream::Gone) else {
            panic!("TLS in TLS")
        };
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let session = ClientConnection::new(config, name).unwrap();
        let mut stream = Box::new(StreamOwned::new(session, tcp));
        stream.conn.complete_io(&mut stream.sock).unwrap();
        self.transcript.push_str("(TLS)\n");
        self.stream = Stream::Tls(stream);
    }

    /// AUTH PLAIN with an initial response.
    pub fn auth_plain(&mut self, name: &str, password: &str) -> Reply {
        let secret = BASE64_STANDARD.encode(format!("\0{name}\0{password}"));
        self.command(&format!("AUTH PLAIN {secret}"))
    }

    /// A submission client that has logged in.
    pub fn log_in(submission: SocketAddr, name: &str, password: &str) -> Self {
        let mut client = Self::connect(submission);
        client.ehlo();
        client.start_tls();
        client.ehlo();
        assert_eq!(client.auth_plain(name, password).code, 235);
        client
    }

    /// Sends a line and reads the reply.
    pub fn command(&mut self, line: &str) -> Reply {
        self.send_line(line);
        self.reply()
    }

    /// Sends a line; the reply must have this code.
    pub fn expect(&mut self, line: &str, code: u16) -> Reply {
        self.send_line(line);
        self.expect_reply(code)
    }

    /// Reads a reply that must have this code.
    pub fn expect_reply(&mut self, code: u16) -> Reply {
        let reply = self.reply();
        assert_eq!(reply.code, code, "\n{}", self.transcript);
        reply
    }

    /// Plays a dialogue: `C:` lines are said, an `S:` line is the beginning of what [`Reply::text`] must be.
    pub fn play(&mut self, dialogue: &str) {
        for line in dialogue.lines().map(str::trim).filter(|line| !line.is_empty()) {
            match line.split_at_checked(2) {
                Some(("C:", said)) => self.send_line(said.trim_start()),
                Some(("S:", expected)) => {
                    let text = self.reply().text();
                    assert!(text.starts_with(expected.trim_start()), "expected {line}\n{}", self.transcript);
                }
                _ => panic!("neither C: nor S:, but {line:?}"),
            }
        }
    }

    /// One transaction up to the answer to the message; every recipient must be accepted. The content has CRLF line ends;
    /// dots are stuffed here.
    pub fn deliver(&mut self, from: &str, to: &[&str], content: &str) -> Reply {
        self.expect(&format!("MAIL FROM:<{from}>"), 250);
        for recipient in to {
            self.expect(&format!("RCPT TO:<{recipient}>"), 250);
        }
        self.content(content)
    }

    /// DATA, the content, and the answer to it; or that to DATA, where it is refused.
    pub fn content(&mut self, content: &str) -> Reply {
        let answer = self.command("DATA");
        if answer.code != 354 {
            return answer;
        }
        let mut stuffed = content.replace("\r\n.", "\r\n..");
        if stuffed.starts_with('.') {
            stuffed.insert(0, '.');
        }
        self.send(format!("{stuffed}.\r\n").as_bytes());
        self.reply()
    }

    /// Sends a line.
    pub fn send_line(&mut self, line: &str) {
        let _ = writeln!(self.transcript, "C: {line}");
        self.send(format!("{line}\r\n").as_bytes());
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap_or_else(|error| panic!("sending: {error}\n{}", self.transcript));
    }

    /// Sends bytes as they are, to a server that may have closed.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Clear(stream) => stream.write_all(bytes),
            Stream::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
            Stream::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Reads a reply.
    pub fn reply(&mut self) -> Reply {
        self.try_reply().unwrap_or_else(|error| panic!("no reply: {error}\n{}", self.transcript))
    }

    /// Reads a reply from a server that may be gone.
    pub fn try_reply(&mut self) -> io::Result<Reply> {
        let mut lines = Vec::new();
        loop {
            let line = self.read_line()?;
            let _ = writeln!(self.transcript, "S: {line}");
            let code = line.get(..3).and_then(|code| code.parse().ok());
            let code = code.ok_or_else(|| io::Error::other(format!("not a reply: {line:?}")))?;
            lines.push(line.get(4..).unwrap_or_default().to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(Reply { code, lines });
            }
        }
    }

    /// Whether the server closes the connection now, whatever it says before.
    pub fn is_closed(&mut self) -> bool {
        loop {
            match self.read_line() {
                Ok(line) => self.transcript.push_str(&format!("S: {line}\n")),
                Err(error) => {
                    return !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
                }
            }
        }
    }

    /// Says that nothing more will be sent, and goes on reading.
    pub fn shut_down_writing(&mut self) {
        self.tcp().shutdown(Shutdown::Write).unwrap();
    }

    /// Keying material of the TLS session, without a context: 32 octets for this label.
    pub fn exported(&self, label: &[u8]) -> Vec<u8> {
        self.tls().export_keying_material(vec![0; 32], label, Some(b"")).unwrap()
    }

    /// The certificate of the server.
    pub fn server_certificate(&self) -> Vec<u8> {
        self.tls().peer_certificates().unwrap()[0].to_vec()
    }

    /// Whether the TLS session is one of before.
    pub fn is_resumed(&self) -> bool {
        self.tls().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    fn tls(&self) -> &ClientConnection {
        match &self.stream {
            Stream::Tls(stream) => &stream.conn,
            Stream::Clear(_) | Stream::Gone => panic!("no TLS"),
        }
    }

    /// Everything said so far.
    pub fn transcript(&self) -> &str {
        &self.transcript
    }

    fn tcp(&self) -> &TcpStream {
        match &self.stream {
            Stream::Clear(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
            Stream::Gone => panic!("no connection"),
        }
    }

    fn read_line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                let line =
                    line.strip_suffix(b"\r\n").ok_or_else(|| io::Error::other("a bare LF in a reply"))?;
                return Ok(String::from_utf8_lossy(line).into_owned());
            }
            let mut buffer = [0; 4096];
            let length = match &mut self.stream {
                Stream::Clear(stream) => stream.read(&mut buffer)?,
                Stream::Tls(stream) => stream.read(&mut buffer)?,
                Stream::Gone => 0,
            };
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.unread.extend_from_slice(&buffer[..length]);
        }
    }
}

/// A message with the fields a message must have.
pub fn message(from: &str, to: &str, subject: &str, body: &str) -> String {
    format!(
        "From: <{from}>\r\nTo: <{to}>\r\nSubject: {subject}\r\nDate: Sat, 21 Nov 2026 18:00:00 +0000\r\n\
         Message-ID: <{subject}@client.test>\r\n\r\n{body}\r\n"
    )
}
