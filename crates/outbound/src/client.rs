//! The client side of SMTP and LMTP up to the first transaction: connection, greeting, EHLO, STARTTLS, login; and QUIT.
//!
//! The only file that names mail-send. It is used for logins and farewells; what it has beyond those drops octets between
//! replies, knows too few keywords of EHLO and gives all recipients of a message one outcome. See `transaction`.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mail_send::SmtpClient;
use postern_config::outbound::Timeouts;
use postern_queue::{Handover, Progress};
use postern_runtime::dial;
use postern_smtp::ehlo::Capabilities;
use postern_smtp::{Domain, Reply};
use rustls_pki_types::ServerName;
use smtp_proto::{AUTH_LOGIN, AUTH_PLAIN, EhloResponse};
use tokio::net::TcpStream;

use crate::outcome::{Failure, Stage};
use crate::route::{Endpoint, Target};
use crate::tls::{ClientTls, Protection};
use crate::tls_policy::TlsPolicy;
use crate::wire::{Replies, Transport, Wire, WireError, Written};

/// Nobody waits long for the answer to QUIT: everything was said before.
const FAREWELL: Duration = Duration::from_secs(2);

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 5321.
    Smtp,
    /// RFC 2033: LHLO, and a reply for each recipient behind the final dot.
    Lmtp,
}

/// A login at a smarthost.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials(mail_send::Credentials<String>);

impl Credentials {
    /// Name and password.
    pub fn new(username: String, password: String) -> Self {
        Self(mail_send::Credentials::new(username, password))
    }
}

impl fmt::Debug for Credentials {
    /// Nothing of it: it must not reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

/// How a connection is to be made.
#[derive(Debug, Clone, Copy)]
pub struct Dial<'a> {
    /// What we call ourselves in EHLO.
    pub hostname: &'a Domain,
    /// Local addresses to connect from; the first of the right family is used.
    pub source_addresses: &'a [IpAddr],
    /// How long each stage may take.
    pub timeouts: &'a Timeouts,
    /// SMTP or LMTP.
    pub protocol: Protocol,
    /// Authorities.
    pub tls: &'a ClientTls,
    /// How much TLS.
    pub policy: TlsPolicy,
    /// The login, where there is one.
    pub credentials: Option<&'a Credentials>,
    /// Who is told of each step.
    pub progress: &'a Progress,
}

/// How long the parts of opening a connection took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Timings {
    /// TCP.
    pub(crate) connect: Duration,
    /// From the greeting to the login, TLS included.
    pub(crate) secure: Duration,
}

/// An open connection, ready for MAIL.
pub struct Connection {
    client: SmtpClient<Wire>,
    pub(crate) capabilities: Capabilities,
    pub(crate) protocol: Protocol,
    pub(crate) host: String,
    pub(crate) endpoint: Endpoint,
    pub(crate) protection: Protection,
    pub(crate) timings: Timings,
    pub(crate) timeouts: Timeouts,
    /// Transactions begun.
    pub(crate) transactions: usize,
    /// A transaction was begun and not brought to its end: RSET comes before the next one.
    pub(crate) needs_reset: bool,
    /// Who is told of each step: the attempt that has the connection.
    pub(crate) progress: Progress,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Connection");
        shown.field("host", &self.host).field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Connection {
    /// Opens a connection. Under [`TlsPolicy::May`] a failed handshake is followed by a second connection in clear.
    ///
    /// # Errors
    /// [`Failure`], with the stage that was reached.
    pub async fn open(target: &Target, dial: &Dial<'_>) -> Result<Self, Failure> {
        match Self::establish(target, dial).await {
            Err(failure) if dial.policy == TlsPolicy::May && failure.stage() == Stage::Tls => {
                tracing::warn!(host = %target.host, address = %target.endpoint, %failure, "TLS failed, going on in clear");
                Self::establish(target, &Dial { policy: TlsPolicy::Never, ..*dial }).await
            }
            other => other,
        }
    }

    async fn establish(target: &Target, dial: &Dial<'_>) -> Result<Self, Failure> {
        let started = Instant::now();
        let transport = connect(target, dial).await;
        let transport =
            transport.map_err(|source| Failure::Unreachable { target: target.to_string(), source })?;
        let connected = Instant::now();
        dial.progress.step(Stage::Connect.answered());
        let (transport, protection) = match dial.policy {
            TlsPolicy::Implicit => secure(transport, target, dial).await?,
            _ => (transport, Protection::Clear),
        };
        let mut connection = Self {
            client: SmtpClient { stream: Wire::new(transport), timeout: dial.timeouts.command },
            capabilities: Capabilities::default(),
            protocol: dial.protocol,
            host: target.host.clone(),
            endpoint: target.endpoint.clone(),
            protection,
            timings: Timings::default(),
            timeouts: dial.timeouts.clone(),
            transactions: 0,
            needs_reset: false,
            progress: dial.progress.clone(),
        };
        connection.greeting().await?;
        connection.hello(dial.hostname).await?;
        if dial.policy.wants_starttls() {
            connection = connection.start_tls(target, dial).await?;
        }
        if let Some(credentials) = dial.credentials {
            connection.log_in(credentials).await?;
        }
        connection.timings = Timings { connect: connected - started, secure: connected.elapsed() };
        Ok(connection)
    }

    async fn greeting(&mut self) -> Result<(), Failure> {
        let reply = self.reply(Stage::Greeting, self.timeouts.greeting).await?;
        match reply.is_success() {
            true => Ok(()),
            false => Err(Failure::Refused { stage: Stage::Greeting, reply }),
        }
    }

    /// EHLO, or HELO for a server that does not know it (RFC 5321 §3.2); LHLO in LMTP.
    async fn hello(&mut self, hostname: &Domain) -> Result<(), Failure> {
        // Behind STARTTLS nothing that was said in clear may count (RFC 3207 §4.2), even if EHLO is refused now.
        self.capabilities = Capabilities::default();
        let verb = match self.protocol {
            Protocol::Smtp => "EHLO",
            Protocol::Lmtp => "LHLO",
        };
        let reply = self.command(&format!("{verb} {hostname}\r\n"), Stage::Hello).await?;
        if reply.is_success() {
            self.capabilities = Capabilities::parse(&reply);
            return Ok(());
        }
        if self.protocol == Protocol::Lmtp || !reply.is_permanent() {
            return Err(Failure::Refused { stage: Stage::Hello, reply });
        }
        let reply = self.command(&format!("HELO {hostname}\r\n"), Stage::Hello).await?;
        match reply.is_success() {
            true => Ok(()),
            false => Err(Failure::Refused { stage: Stage::Hello, reply }),
        }
    }

    /// STARTTLS (RFC 3207), if it is offered; what was said before it is forgotten.
    async fn start_tls(mut self, target: &Target, dial: &Dial<'_>) -> Result<Self, Failure> {
        if !self.capabilities.has("STARTTLS") {
            return match dial.policy.requires_tls() {
                true => Err(Failure::TlsNotOffered),
                false => Ok(self),
            };
        }
        let reply = self.command("STARTTLS\r\n", Stage::Tls).await?;
        if reply.code != 220 {
            return match dial.policy.requires_tls() {
                true => Err(Failure::Refused { stage: Stage::Tls, reply }),
                false => Ok(self),
            };
        }
        let stream = self.client.stream.into_tcp().ok_or_else(|| {
            let problem = "data behind the answer to STARTTLS, or no TCP connection";
            Failure::Handshake(io::Error::new(io::ErrorKind::InvalidData, problem))
        })?;
        let (transport, protection) = secure(Transport::Tcp(stream), target, dial).await?;
        self.client.stream = Wire::new(transport);
        self.protection = protection;
        self.hello(dial.hostname).await?;
        Ok(self)
    }

    /// AUTH (RFC 4954) with PLAIN or LOGIN.
    async fn log_in(&mut self, credentials: &Credentials) -> Result<(), Failure> {
        let offered = self.capabilities.auth_mechanisms();
        let known = [("PLAIN", AUTH_PLAIN), ("LOGIN", AUTH_LOGIN)];
        let mut capabilities = EhloResponse::new(String::new());
        for (_, bit) in known.iter().filter(|(name, _)| offered.iter().any(|mechanism| mechanism == name)) {
            capabilities.auth_mechanisms |= bit;
        }
        if capabilities.auth_mechanisms == 0 {
            return Err(Failure::LoginRefused("the host offers neither AUTH PLAIN nor LOGIN".to_owned()));
        }
        match self.client.authenticate(&credentials.0, &capabilities).await {
            Ok(_) => {
                self.progress.step(Stage::Login.answered());
                Ok(())
            }
            Err(mail_send::Error::AuthenticationFailed(reply)) => {
                let [class, subject, detail] = reply.esc;
                let text = reply.message.trim_end();
                Err(Failure::LoginRefused(format!("{} {class}.{subject}.{detail} {text}", reply.code)))
            }
            Err(mail_send::Error::Io(source)) => Err(Failure::Lost { stage: Stage::Login, source }),
            Err(mail_send::Error::Timeout) => Err(Failure::Timeout(Stage::Login)),
            Err(error) => Err(Failure::LoginRefused(error.to_string())),
        }
    }

    /// Sends one command and waits for its reply.
    pub(crate) async fn command(&mut self, line: &str, stage: Stage) -> Result<Reply, Failure> {
        self.send(line.as_bytes(), Replies::Expected, stage, self.timeouts.command).await?;
        self.reply(stage, self.timeouts.command).await
    }

    /// Sends octets.
    pub(crate) async fn send(
        &mut self,
        data: &[u8],
        replies: Replies,
        stage: Stage,
        limit: Duration,
    ) -> Result<Written, Failure> {
        match tokio::time::timeout(limit, self.client.stream.write(data, replies)).await {
            Ok(Ok(written)) => {
                self.progress.step(stage.sent());
                Ok(written)
            }
            Ok(Err(source)) => Err(Failure::Lost { stage, source }),
            Err(_) => Err(Failure::Timeout(stage)),
        }
    }

    /// The next reply. A 421 is an error wherever it comes: the other side closes the connection (RFC 5321 §3.8).
    pub(crate) async fn reply(&mut self, stage: Stage, limit: Duration) -> Result<Reply, Failure> {
        match tokio::time::timeout(limit, self.client.stream.read_reply()).await {
            Ok(Ok(reply)) if reply.code == 421 => Err(Failure::Refused { stage, reply }),
            Ok(Ok(reply)) => {
                self.progress.step(stage.answered());
                Ok(reply)
            }
            Ok(Err(WireError::Io(source))) => Err(Failure::Lost { stage, source }),
            Ok(Err(WireError::NotSmtp(source))) => Err(Failure::NotSmtp { stage, source }),
            Err(_) => Err(Failure::Timeout(stage)),
        }
    }

    /// Who reports success of what is sent over it (RFC 3461 §5.2.2). LMTP ends at the mailbox.
    pub(crate) fn handover(&self) -> Handover {
        match self.protocol {
            _ if self.capabilities.has("DSN") => Handover::Reporting,
            Protocol::Smtp => Handover::Relayed,
            Protocol::Lmtp => Handover::Final,
        }
    }

    /// Whether the connection is open and nothing was said over it since the last reply.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.client.stream.is_quiet()
    }

    /// Says QUIT and waits a moment for the answer.
    pub(crate) async fn close(mut self) {
        self.client.timeout = FAREWELL;
        // Whatever the other side says to it, the connection ends here.
        let _ = self.client.quit().await;
    }
}

async fn connect(target: &Target, dial: &Dial<'_>) -> io::Result<Transport> {
    match &target.endpoint {
        Endpoint::Tcp(address) => {
            let source = source(dial.source_addresses, *address);
            Ok(Transport::Tcp(dial::tcp(*address, source, dial.timeouts.connect).await?))
        }
        Endpoint::Unix(path) => Ok(Transport::Unix(dial::unix(path, dial.timeouts.connect).await?)),
    }
}

/// The first configured address of the family. Loopback is reached from loopback only, so it is left to the system.
fn source(configured: &[IpAddr], remote: SocketAddr) -> Option<IpAddr> {
    let fits = |source: &&IpAddr| {
        source.is_ipv4() == remote.is_ipv4() && source.is_loopback() == remote.ip().is_loopback()
    };
    configured.iter().find(fits).copied()
}

async fn secure(
    transport: Transport,
    target: &Target,
    dial: &Dial<'_>,
) -> Result<(Transport, Protection), Failure> {
    let handshake = async {
        let stream = plain_tcp(transport)?;
        let name = ServerName::try_from(target.host.clone())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        dial.tls.handshake(stream, name, dial.policy.verifies()).await
    };
    match tokio::time::timeout(dial.timeouts.handshake, handshake).await {
        Ok(Ok((stream, protection))) => {
            dial.progress.step("TLS handshake done");
            Ok((Transport::Tls(Box::new(stream)), protection))
        }
        Ok(Err(error)) => Err(Failure::Handshake(error)),
        Err(_) => Err(Failure::Handshake(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))),
    }
}

fn plain_tcp(transport: Transport) -> io::Result<TcpStream> {
    match transport {
        Transport::Tcp(stream) => Ok(stream),
        Transport::Tls(_) | Transport::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::testing::{Server, certificate, dial, tls};

    async fn open(
        server: Server,
        change: impl FnOnce(&mut Dial<'_>),
    ) -> (Result<Connection, Failure>, Vec<String>) {
        let tls = tls();
        let mut dial = dial(&tls);
        change(&mut dial);
        let target = server.target("mx.adatum.test");
        let opened = Connection::open(&target, &dial).await;
        (opened, server.lines())
    }

    async fn log_in(server: Server, credentials: &Credentials) -> (Result<Connection, Failure>, Vec<String>) {
        let tls = tls();
        let dial = Dial { credentials: Some(credentials), ..dial(&tls) };
        let opened = Connection::open(&server.target("mx.adatum.test"), &dial).await;
        (opened, server.lines())
    }

    #[tokio::test]
    async fn capabilities_are_read_and_helo_is_the_second_try() {
        let server = Server::start(&["220 hi\r\n", "EHLO", "250-hi\r\n250 SIZE 1000\r\n"]).await;
        let (opened, lines) = open(server, |_| {}).await;
        assert_eq!(opened.unwrap().capabilities.size_limit(), Some(1000));
        assert_eq!(lines, ["EHLO mail.proseware.test"]);
        let server = Server::start(&["220 hi\r\n", "EHLO", "502 what?\r\n", "HELO", "250 hi\r\n"]).await;
        assert!(open(server, |_| {}).await.0.unwrap().capabilities.keywords.is_empty());
    }

    #[tokio::test]
    async fn each_stage_has_its_own_failure() {
        let refused = async |script: &[&str]| {
            let server = Server::start(script).await;
            open(server, |dial| dial.policy = TlsPolicy::Encrypt).await.0.unwrap_err()
        };
        assert_eq!(refused(&["554 go away\r\n"]).await.stage(), Stage::Greeting);
        assert_eq!(refused(&["220-\r\n", "close"]).await.stage(), Stage::Greeting);
        assert_eq!(refused(&["HTTP/1.1 400 Bad Request\r\n"]).await.stage(), Stage::Greeting);
        let hello = refused(&["220 hi\r\n", "EHLO", "550 no\r\n", "HELO", "550 5.7.1 never\r\n"]).await;
        assert!(matches!(hello, Failure::Refused { stage: Stage::Hello, reply } if reply.is_permanent()));
        let plain = refused(&["220 hi\r\n", "EHLO", "250 hi\r\n"]).await;
        assert!(matches!(plain, Failure::TlsNotOffered));
        let no_tls =
            refused(&["220 hi\r\n", "EHLO", "250-hi\r\n250 STARTTLS\r\n", "STARTTLS", "454 no\r\n"]).await;
        assert_eq!(no_tls.stage(), Stage::Tls);
    }

    #[tokio::test]
    async fn a_silent_server_is_left_after_the_configured_time() {
        let server = Server::start(&["hang"]).await;
        let timeouts = Timeouts { greeting: Duration::from_millis(20), ..Default::default() };
        let tls = tls();
        let dial = Dial { timeouts: &timeouts, ..dial(&tls) };
        let failure = Connection::open(&server.target("mx.adatum.test"), &dial).await.unwrap_err();
        assert!(matches!(failure, Failure::Timeout(Stage::Greeting)));
    }

    const STARTTLS: [&str; 5] =
        ["220 hi\r\n", "EHLO", "250-hi\r\n250 STARTTLS\r\n", "STARTTLS", "220 go\r\n"];

    #[tokio::test]
    async fn a_self_signed_certificate_is_good_enough_unless_it_must_be_verified() {
        let script = [&STARTTLS[..], &["tls", "EHLO", "250-hi\r\n250 PIPELINING\r\n"]].concat();
        let certificate = certificate("mx.adatum.test");
        let server = Server::start_tls(&script, &certificate).await;
        let (opened, _) = open(server, |_| {}).await;
        let connection = opened.unwrap();
        assert_eq!(connection.protection.to_string(), "TLSv1.3 untrusted");
        assert!(connection.capabilities.has("PIPELINING") && !connection.capabilities.has("STARTTLS"));
        let server = Server::start_tls(&script, &certificate).await;
        let (opened, _) = open(server, |dial| dial.policy = TlsPolicy::Verify).await;
        assert!(matches!(opened, Err(Failure::Handshake(_))));
    }

    #[tokio::test]
    async fn a_failed_handshake_is_followed_by_a_connection_in_clear() {
        let broken = [&STARTTLS[..], &["not TLS at all\r\n", "close"]].concat();
        let clear = ["220 hi\r\n", "EHLO", "250-hi\r\n250 STARTTLS\r\n"];
        let server = Server::start_several(&[&broken, &clear]).await;
        let (opened, lines) = open(server, |_| {}).await;
        assert_eq!(opened.unwrap().protection, Protection::Clear);
        assert_eq!(lines.iter().filter(|line| line.starts_with("EHLO")).count(), 2);
        let server = Server::start_several(&[&broken, &clear]).await;
        let (opened, _) = open(server, |dial| dial.policy = TlsPolicy::Encrypt).await;
        assert!(matches!(opened, Err(Failure::Handshake(_))));
    }

    #[tokio::test]
    async fn nothing_said_before_tls_counts_as_said_under_it() {
        let mut script = STARTTLS.to_vec();
        script[4] = "220 go\r\n250 injected\r\n";
        let server = Server::start(&script).await;
        let (opened, _) = open(server, |dial| dial.policy = TlsPolicy::Encrypt).await;
        assert!(matches!(opened, Err(Failure::Handshake(_))));
    }

    #[tokio::test]
    async fn what_was_offered_in_clear_is_forgotten_even_if_ehlo_is_refused_under_tls() {
        let script = [&STARTTLS[..], &["tls", "EHLO", "502 what?\r\n", "HELO", "250 hi\r\n"]].concat();
        let server = Server::start_tls(&script, &certificate("mx.adatum.test")).await;
        let connection = open(server, |_| {}).await.0.unwrap();
        assert!(connection.protection != Protection::Clear && connection.capabilities.keywords.is_empty());
    }

    #[tokio::test]
    async fn a_login_is_given_and_its_refusal_told() {
        let hello = ["220 hi\r\n", "EHLO", "250-hi\r\n250 AUTH CRAM-MD5 LOGIN PLAIN\r\n"];
        let credentials = Credentials::new("alice".to_owned(), "secret".to_owned());
        let script = [&hello[..], &["AUTH", "235 2.7.0 welcome\r\n"]].concat();
        let server = Server::start(&script).await;
        let (opened, lines) = log_in(server, &credentials).await;
        assert!(opened.is_ok());
        assert_eq!(lines[1], "AUTH PLAIN AGFsaWNlAHNlY3JldA==");
        let script = [&hello[..], &["AUTH", "535 5.7.8 no\r\n"]].concat();
        let server = Server::start(&script).await;
        let (opened, _) = log_in(server, &credentials).await;
        assert!(matches!(opened, Err(Failure::LoginRefused(text)) if text == "535 5.7.8 no"));
        let server = Server::start(&["220 hi\r\n", "EHLO", "250 hi\r\n"]).await;
        let (opened, _) = log_in(server, &credentials).await;
        assert_eq!(opened.unwrap_err().stage(), Stage::Login);
    }

    #[test]
    fn connections_leave_from_the_configured_address_of_their_family() {
        let configured: Vec<IpAddr> = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap()).into();
        assert_eq!(source(&configured, "[2a00::1]:25".parse().unwrap()), Some(configured[1]));
        assert_eq!(source(&configured, "127.0.0.1:25".parse().unwrap()), None);
        assert_eq!(source(&[], "8.8.8.8:25".parse().unwrap()), None);
    }
}
