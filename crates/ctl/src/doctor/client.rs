//! A small SMTP client that says what a trick wants said: one line, octets that are no line, something before the greeting.
//!
//! Deliveries have a client of their own (`postern-outbound`), which is right to refuse saying most of what is tried here.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use postern_outbound::tls::{ClientTls, Protection};
use postern_runtime::dial;
use postern_smtp::ehlo::Capabilities;
use postern_smtp::{Host, Reply, reply::ReplyReader};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Octets of one reply: EHLO of the most talkative servers has 2 KiB.
const MAX_REPLY: usize = 64 * 1024;
/// Octets of one line of a reply; RFC 5321 §4.5.3.1.5 allows 512.
const MAX_LINE: usize = 8 * 1024;
/// Lines of a dialogue that are kept, and characters of each: a server may talk without end.
const MAX_DIALOGUE: usize = 200;
const MAX_SHOWN: usize = 600;
/// Nobody waits long for the answer to QUIT: everything was said before.
const FAREWELL: Duration = Duration::from_secs(2);

/// Whom to ask, and how.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// The name for TLS.
    pub(super) host: String,
    /// The local address to ask from.
    pub(super) source: Option<IpAddr>,
    /// TLS from the first octet.
    pub(super) implicit_tls: bool,
    /// STARTTLS where it is offered.
    pub(super) starttls: bool,
    /// What we call ourselves; our address by default.
    pub(super) helo: Option<String>,
    /// How long each answer may take.
    pub(super) patience: Duration,
}

/// Why a connection is of no more use.
#[derive(Debug)]
pub(super) enum Lost {
    /// The server closed it.
    Closed,
    /// The server said nothing for so long.
    Silent(Duration),
    /// The server said something that is no reply.
    Garbled(String),
    /// The server said 421, or refused to talk in its greeting.
    Dismissed(Reply),
    /// There was no connection, or it broke.
    Io(io::Error),
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the server closed the connection"),
            Self::Silent(patience) => write!(f, "the server said nothing for {} s", patience.as_secs_f32()),
            Self::Garbled(what) => write!(f, "the server does not speak SMTP: {what}"),
            Self::Dismissed(reply) => write!(f, "the server ended the session: {reply}"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
                Self::Closed
            }
            _ => Self::Io(error),
        }
    }
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<W: AsyncRead + AsyncWrite + Unpin + Send> Wire for W {}

enum Stream {
    Clear(TcpStream),
    Tls(Box<dyn Wire>),
    /// During the handshake, and after one that failed.
    Gone,
}

/// One connection.
pub(super) struct Client {
    stream: Stream,
    unread: Vec<u8>,
    patience: Duration,
    /// The name for TLS.
    host: String,
    /// Our end.
    pub(super) local: IpAddr,
    /// What the server has shown in the handshake, leaf first.
    pub(super) certificates: Vec<CertificateDer<'static>>,
    /// Whether those are good for its name.
    pub(super) is_verified: bool,
    dialogue: Vec<String>,
}

/// A connection after EHLO.
pub(super) struct Opened {
    pub(super) client: Client,
    pub(super) capabilities: Capabilities,
    /// What the server calls itself: the first word of its answer to EHLO.
    pub(super) name: String,
}

impl Target {
    /// TCP, and TLS where it comes first. The greeting is not read.
    async fn connect(&self, tls: &ClientTls) -> Result<Client, Lost> {
        let mut client = self.connect_in_clear().await?;
        if self.implicit_tls {
            client.handshake(tls).await?;
        }
        Ok(client)
    }

    /// TCP alone.
    pub(super) async fn connect_in_clear(&self) -> Result<Client, Lost> {
        let stream = dial::tcp(self.address, self.source, self.patience).await.map_err(Lost::Io)?;
        Ok(Client {
            local: stream.local_addr()?.ip().to_canonical(),
            certificates: Vec::new(),
            is_verified: false,
            stream: Stream::Clear(stream),
            unread: Vec::new(),
            patience: self.patience,
            host: self.host.clone(),
            dialogue: Vec::new(),
        })
    }

    /// A connection that is ready for MAIL.
    pub(super) async fn open(&self, tls: &ClientTls) -> Result<Opened, Lost> {
        let mut client = self.connect(tls).await?;
        client.greeting().await?;
        let helo = self.helo_name(client.local);
        let mut opened = Opened { client, capabilities: Capabilities::default(), name: String::new() };
        opened.hello(&helo).await?;
        if self.starttls && !self.implicit_tls && opened.capabilities.has("STARTTLS") {
            let reply = opened.client.command("STARTTLS").await?;
            if !reply.is_success() {
                return Err(Lost::Garbled(format!("STARTTLS was offered and refused: {reply}")));
            }
            opened.client.handshake(tls).await?;
            opened.hello(&helo).await?;
        }
        Ok(opened)
    }

    /// A client without a name of its own gives its address (RFC 5321 §4.1.4).
    pub(super) fn helo_name(&self, local: IpAddr) -> String {
        self.helo.clone().unwrap_or_else(|| Host::Literal(local).to_string())
    }
}

impl Opened {
    /// EHLO, or HELO where that is all the server knows.
    pub(super) async fn hello(&mut self, name: &str) -> Result<(), Lost> {
        let mut reply = self.client.command(&format!("EHLO {name}")).await?;
        if reply.is_permanent() {
            reply = self.client.command(&format!("HELO {name}")).await?;
        }
        if !reply.is_success() {
            return Err(Lost::Dismissed(reply));
        }
        self.capabilities = Capabilities::parse(&reply);
        self.name = reply.lines[0].split_ascii_whitespace().next().unwrap_or_default().to_owned();
        Ok(())
    }
}

impl Client {
    /// Reads the greeting; anything but 220 is a [`Lost::Dismissed`].
    pub(super) async fn greeting(&mut self) -> Result<(), Lost> {
        let greeting = self.reply().await?;
        if greeting.is_success() { Ok(()) } else { Err(Lost::Dismissed(greeting)) }
    }

    /// Says a line and reads the reply.
    pub(super) async fn command(&mut self, line: &str) -> Result<Reply, Lost> {
        self.say(format!("{line}\r\n").as_bytes()).await?;
        self.reply().await
    }

    /// Sends octets as they are.
    pub(super) async fn say(&mut self, octets: &[u8]) -> Result<(), Lost> {
        for line in octets.split_inclusive(|octet| *octet == b'\n') {
            self.note("C:", line.strip_suffix(b"\r\n").unwrap_or(line));
        }
        let write = async {
            match &mut self.stream {
                Stream::Clear(stream) => stream.write_all(octets).await,
                Stream::Tls(stream) => {
                    stream.write_all(octets).await?;
                    stream.flush().await
                }
                Stream::Gone => Err(io::ErrorKind::NotConnected.into()),
            }
        };
        timeout(self.patience, write).await.map_err(|_| Lost::Silent(self.patience))??;
        Ok(())
    }

    /// Reads a reply. 421 ends the session, so it is a [`Lost::Dismissed`] (RFC 5321 §3.8).
    pub(super) async fn reply(&mut self) -> Result<Reply, Lost> {
        let patience = self.patience;
        let reply = timeout(patience, self.whole_reply()).await.map_err(|_| Lost::Silent(patience))??;
        if reply.code == 421 { Err(Lost::Dismissed(reply)) } else { Ok(reply) }
    }

    async fn whole_reply(&mut self) -> Result<Reply, Lost> {
        let mut reader = ReplyReader::new(MAX_REPLY);
        loop {
            let line = self.read_line().await?;
            self.note("S:", &line);
            let read = reader.line(&line).map_err(|error| Lost::Garbled(error.to_string()))?;
            if let Some(reply) = read {
                return Ok(reply);
            }
        }
    }

    /// A line without its end, which may be a bare LF: the server is judged by what it takes, not by how it writes.
    async fn read_line(&mut self) -> Result<Vec<u8>, Lost> {
        loop {
            if let Some(at) = self.unread.iter().position(|octet| *octet == b'\n') {
                let mut line: Vec<u8> = self.unread.drain(..=at).collect();
                line.truncate(line.strip_suffix(b"\r\n").map_or(at, <[u8]>::len));
                return Ok(line);
            }
            if self.unread.len() > MAX_LINE {
                return Err(Lost::Garbled(format!("a line of more than {MAX_LINE} octets")));
            }
            let mut buffer = [0; 2048];
            let length = match &mut self.stream {
                Stream::Clear(stream) => stream.read(&mut buffer).await?,
                Stream::Tls(stream) => stream.read(&mut buffer).await?,
                Stream::Gone => 0,
            };
            if length == 0 {
                return Err(Lost::Closed);
            }
            self.unread.extend_from_slice(&buffer[..length]);
        }
    }

    /// The handshake. Whose certificate it is does not matter here: nothing secret is said.
    pub(super) async fn handshake(&mut self, tls: &ClientTls) -> Result<(), Lost> {
        if !self.unread.is_empty() {
            return Err(Lost::Garbled("the server spoke between STARTTLS and the handshake".to_owned()));
        }
        let Stream::Clear(stream) = std::mem::replace(&mut self.stream, Stream::Gone) else {
            return Err(Lost::Garbled("TLS inside TLS".to_owned()));
        };
        let name = ServerName::try_from(self.host.clone())
            .map_err(|_| Lost::Garbled(format!("{:?} is no name for TLS", self.host)))?;
        let shaking = timeout(self.patience, tls.handshake(stream, name, false));
        let shaken = shaking.await.map_err(|_| Lost::Silent(self.patience))?;
        let (stream, protection) = shaken.map_err(|error| Lost::Garbled(format!("TLS: {error}")))?;
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        self.certificates = shown.iter().map(|certificate| certificate.clone().into_owned()).collect();
        self.is_verified = matches!(protection, Protection::Tls { verified: true, .. });
        self.note("--", protection.to_string().as_bytes());
        self.stream = Stream::Tls(Box::new(stream));
        Ok(())
    }

    /// Whether what is said now is under TLS.
    pub(super) fn is_secured(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    /// Takes leave. Whether the server answers does not matter any more.
    pub(super) async fn quit(mut self) {
        let farewell = async {
            if self.say(b"QUIT\r\n").await.is_ok() {
                let _ = self.reply().await;
            }
        };
        let _ = timeout(FAREWELL, farewell).await;
    }

    /// What was said since this was asked last.
    pub(super) fn take_dialogue(&mut self) -> Vec<String> {
        std::mem::take(&mut self.dialogue)
    }

    fn note(&mut self, who: &str, octets: &[u8]) {
        if self.dialogue.len() < MAX_DIALOGUE {
            let shown: String = String::from_utf8_lossy(octets).chars().map(visible).collect();
            self.dialogue.push(format!("{who} {}", shown.chars().take(MAX_SHOWN).collect::<String>()));
        }
    }
}

/// Line ends and NUL are what some tricks are about: they are shown.
fn visible(c: char) -> String {
    if c.is_control() { c.escape_default().to_string() } else { c.to_string() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use tokio::net::TcpListener;

    use super::*;

    /// A client whose server says this and closes.
    async fn client(said: &'static [u8]) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target {
            address: listener.local_addr().unwrap(),
            host: "mx.adatum.test".to_owned(),
            source: None,
            implicit_tls: false,
            starttls: false,
            helo: None,
            patience: Duration::from_secs(10),
        };
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(said).await.unwrap();
        });
        target.connect_in_clear().await.unwrap()
    }

    #[tokio::test]
    async fn a_greeting_that_is_no_welcome_ends_the_session() {
        let mut client = client(b"554-no\r\n554 service\r\n").await;
        assert!(
            matches!(client.greeting().await, Err(Lost::Dismissed(reply)) if reply.text() == "no service")
        );
    }

    #[tokio::test]
    async fn what_is_no_reply_is_said_so() {
        assert!(matches!(client(b"hello\r\n").await.greeting().await, Err(Lost::Garbled(_))));
        assert!(matches!(client(b"220 hal").await.greeting().await, Err(Lost::Closed)));
        assert!(matches!(client(&[b'2'; 3 * MAX_LINE]).await.greeting().await, Err(Lost::Garbled(_))));
    }

    #[tokio::test]
    async fn endless_talk_is_cut() {
        let mut client = client(b"220 x\r\n").await;
        (0..2 * MAX_DIALOGUE).for_each(|_| client.note("S:", &[b'x'; 2 * MAX_SHOWN]));
        let dialogue = client.take_dialogue();
        assert_eq!((dialogue.len(), dialogue[0].len()), (MAX_DIALOGUE, MAX_SHOWN + 3));
    }

    #[tokio::test]
    async fn what_cannot_be_seen_is_shown() {
        let mut client = client(b"220 x\n").await;
        client.greeting().await.unwrap();
        client.note("C:", b"a\n.\r\x00");
        assert_eq!(client.take_dialogue(), ["S: 220 x", "C: a\\n.\\r\\u{0}"]);
    }
}
