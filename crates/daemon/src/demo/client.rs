//! A small SMTP client for the demonstration: it says what a mail program would say, and keeps what it was told.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine;
use postern_smtp::Reply;
use postern_smtp::reply::ReplyReader;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Longer than anything on loopback takes, shorter than anybody would watch.
const PATIENCE: Duration = Duration::from_secs(20);
/// A reply of our own servers is far smaller.
const REPLY_LIMIT: usize = 64 * 1024;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A connection to a server.
pub struct Client {
    stream: BufReader<Box<dyn Stream>>,
}

/// A login.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'a> {
    /// Name.
    pub name: &'a str,
    /// Password.
    pub password: &'a str,
}

impl Client {
    /// Connects without TLS, as another mail server would, and says EHLO.
    ///
    /// # Errors
    /// When the server does not answer, or not well.
    pub async fn connect(address: SocketAddr, name: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        Self::greeted(Box::new(stream), name).await
    }

    /// Connects with TLS from the first byte, trusting only the demonstration's own certificate, and logs in.
    ///
    /// # Errors
    /// When the certificate, the login or an answer is not well.
    pub async fn log_in(
        address: SocketAddr,
        host: &str,
        authority: &Path,
        who: Credentials<'_>,
    ) -> anyhow::Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(authority).context("reading the certificate")? {
            roots.add(certificate?)?;
        }
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        let name = ServerName::try_from(host.to_owned())?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.context("TLS")?;
        let mut client = Self::greeted(Box::new(stream), "laptop.proseware.test").await?;
        let response = format!("\0{}\0{}", who.name, who.password);
        let response = base64::engine::general_purpose::STANDARD.encode(response);
        client.expect(&format!("AUTH PLAIN {response}"), 235).await?;
        Ok(client)
    }

    async fn greeted(stream: Box<dyn Stream>, name: &str) -> anyhow::Result<Self> {
        let mut client = Self { stream: BufReader::new(stream) };
        let greeting = client.reply().await?;
        anyhow::ensure!(greeting.code == 220, "greeting: {greeting}");
        client.expect(&format!("EHLO {name}"), 250).await?;
        Ok(client)
    }

    /// Says one line and gives the answer, whatever it is.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn say(&mut self, line: &str) -> anyhow::Result<Reply> {
        self.stream.write_all(format!("{line}\r\n").as_bytes()).await?;
        self.stream.flush().await?;
        self.reply().await
    }

    /// Sends a message and gives the answer to its end, which names the queue id.
    ///
    /// # Errors
    /// When the server refuses any step.
    pub async fn send(&mut self, from: &str, to: &str, message: &str) -> anyhow::Result<Reply> {
        self.expect(&format!("MAIL FROM:<{from}>"), 250).await?;
        self.expect(&format!("RCPT TO:<{to}>"), 250).await?;
        self.expect("DATA", 354).await?;
        self.expect(&format!("{}\r\n.", message.replace('\n', "\r\n")), 250).await
    }

    async fn expect(&mut self, line: &str, code: u16) -> anyhow::Result<Reply> {
        let reply = self.say(line).await?;
        if reply.code != code {
            bail!("{}: {reply}", line.lines().next().unwrap_or_default());
        }
        Ok(reply)
    }

    async fn reply(&mut self) -> anyhow::Result<Reply> {
        let mut reader = ReplyReader::new(REPLY_LIMIT);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = self.stream.read_until(b'\n', &mut line);
            let read = tokio::time::timeout(PATIENCE, read).await.context("no answer")??;
            anyhow::ensure!(read > 0, "the server closed the connection");
            if let Some(reply) = reader.line(line.trim_ascii_end())? {
                return Ok(reply);
            }
        }
    }
}
