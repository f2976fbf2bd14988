//! What the tests of this crate share: a scripted next hop on loopback, certificates, envelopes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub(crate) mod reports;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use postern_config::Config;
use postern_config::outbound::Timeouts;
use postern_policy::Policy;
use postern_queue::{Envelope, Origin, Progress, Recipient};
use postern_runtime::clock::Pending;
use postern_runtime::dns::{Answer, Dns, Mx, StaticDns};
use postern_smtp::{Address, Body, Domain, ReversePath};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::client::{Dial, Protocol};
use crate::route::{Endpoint, Router, Target};
use crate::settings::Settings;
use crate::sign::Keys;
use crate::tls::ClientTls;
use crate::tls_policy::TlsPolicy;

/// A self-signed certificate.
pub(crate) struct Certificate {
    pub(crate) pem: String,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

pub(crate) fn certificate(name: &str) -> Certificate {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    Certificate { pem: made.cert.pem(), certificate: made.cert.der().clone(), key }
}

impl Certificate {
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Without any authority.
pub(crate) fn tls() -> ClientTls {
    ClientTls::with_roots(RootCertStore::empty()).unwrap()
}

static HOSTNAME: LazyLock<Domain> = LazyLock::new(|| Domain::parse("mail.proseware.test").unwrap());
static TIMEOUTS: LazyLock<Timeouts> = LazyLock::new(Timeouts::default);
static NOBODY: LazyLock<Progress> = LazyLock::new(Progress::default);

/// The settings of a small configuration; nothing has a name in its DNS.
pub(crate) fn settings(text: &str) -> Settings {
    settings_with(text, StaticDns::new())
}

pub(crate) fn settings_with(text: &str, dns: StaticDns) -> Settings {
    let config: Config = toml::from_str(&format!("hostname = \"mail.proseware.test\"\n{text}")).unwrap();
    let (config, policy) = (Arc::new(config.clone()), Arc::new(Policy::new(&config)));
    Settings {
        router: Router::new(config.clone(), policy.clone(), &[]).unwrap(),
        keys: Keys::load(&config).unwrap(),
        tls: tls(),
        dns: Arc::new(dns),
        schedule: Arc::new(config.queue.clone()),
        sending: Arc::new(config.outbound.clone()),
        config,
        policy,
    }
}

pub(crate) fn dial(tls: &ClientTls) -> Dial<'_> {
    Dial {
        hostname: &HOSTNAME,
        source_addresses: &[],
        timeouts: &TIMEOUTS,
        protocol: Protocol::Smtp,
        tls,
        policy: TlsPolicy::May,
        credentials: None,
        progress: &NOBODY,
    }
}

pub(crate) fn envelope(sender: &str, to: &[&str]) -> Envelope {
    let recipient = |address: &&str| Recipient::new(Address::parse(address).unwrap());
    Envelope {
        reverse_path: ReversePath::parse(sender).unwrap(),
        origin: Origin::Outsider,
        client: None,
        forwarded: None,
        helo: None,
        received: SystemTime::UNIX_EPOCH,
        body: Body::SevenBit,
        smtputf8: false,
        ret: None,
        envelope_id: None,
        message_id: None,
        priority: 0,
        terms: Default::default(),
        size: 0,
        recipients: to.iter().map(recipient).collect(),
    }
}

/// A next hop that follows a script, one for each connection. A step is
///
/// - a text that ends in CRLF: it is sent; `slow TEXT` sends it octet by octet;
/// - `stop TEXT`: TEXT is sent, and nothing more is read;
/// - `close`: the connection is closed; `hang`: nothing is done for ever;
/// - `tls`: a handshake;
/// - anything else: lines are read until one begins with it (`.` must be the whole line).
///
/// Behind the last step everything is read and recorded until the client closes.
pub(crate) struct Server {
    address: SocketAddr,
    received: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
    /// Ends the steps that wait for ever.
    enough: CancellationToken,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Server {
    pub(crate) async fn start(script: &[&str]) -> Self {
        Self::start_several(&[script]).await
    }

    pub(crate) async fn start_at(address: &str, script: &[&str]) -> Self {
        Self::run(address, &[script], None).await
    }

    /// Serves its connections side by side, not one after the other.
    pub(crate) async fn start_at_once(scripts: &[&[&str]]) -> Self {
        Self::run_with("127.0.0.1:0", scripts, None, true).await
    }

    pub(crate) async fn start_several(scripts: &[&[&str]]) -> Self {
        Self::run("127.0.0.1:0", scripts, None).await
    }

    pub(crate) async fn start_tls(script: &[&str], certificate: &Certificate) -> Self {
        Self::run("127.0.0.1:0", &[script], Some(certificate.acceptor())).await
    }

    async fn run(address: &str, scripts: &[&[&str]], acceptor: Option<TlsAcceptor>) -> Self {
        Self::run_with(address, scripts, acceptor, false).await
    }

    async fn run_with(
        address: &str,
        scripts: &[&[&str]],
        acceptor: Option<TlsAcceptor>,
        at_once: bool,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let scripts: Vec<Vec<String>> =
            scripts.iter().map(|script| script.iter().map(|step| (*step).to_owned()).collect()).collect();
        let enough = CancellationToken::new();
        let (log, ended) = (received.clone(), enough.clone());
        let task = tokio::spawn(async move {
            let mut serving = JoinSet::new();
            for script in scripts {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                serving.spawn(serve(stream, script, log.clone(), acceptor.clone(), ended.clone()));
                if !at_once {
                    serving.join_next().await.unwrap().unwrap();
                }
            }
            serving.join_all().await;
        });
        Self { address, received, task, enough }
    }

    pub(crate) fn target(&self, host: &str) -> Target {
        Target { host: host.to_owned(), endpoint: Endpoint::Tcp(self.address) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The octets that were received so far.
    pub(crate) fn received(&self) -> Vec<u8> {
        self.received.lock().clone()
    }

    /// The same as lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        let received = self.received();
        String::from_utf8_lossy(&received).split_terminator("\r\n").map(str::to_owned).collect()
    }

    /// Waits until all scripts are done and the clients gone, and answers the lines.
    pub(crate) async fn finished(mut self) -> Vec<String> {
        self.enough.cancel();
        (&mut self.task).await.unwrap();
        self.lines()
    }
}

async fn serve(
    stream: TcpStream,
    script: Vec<String>,
    log: Arc<Mutex<Vec<u8>>>,
    acceptor: Option<TlsAcceptor>,
    enough: CancellationToken,
) {
    let mut tcp = Some(stream);
    let mut tls: Option<Box<dyn Stream>> = None;
    let mut pending = Vec::new();
    for step in &script {
        if step == "tls" {
            match acceptor.as_ref().unwrap().accept(tcp.take().unwrap()).await {
                Ok(stream) => tls = Some(Box::new(stream)),
                Err(_) => return,
            }
            continue;
        }
        let stream: &mut dyn Stream = match (&mut tls, &mut tcp) {
            (Some(tls), _) => tls,
            (None, Some(tcp)) => tcp,
            (None, None) => return,
        };
        if step == "close" {
            return;
        } else if step == "hang" {
            return enough.cancelled().await;
        } else if let Some(text) = step.strip_prefix("stop ") {
            stream.write_all(text.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            return enough.cancelled().await;
        } else if let Some(text) = step.strip_prefix("slow ") {
            for octet in text.bytes() {
                let _ = stream.write_all(&[octet]).await;
                let _ = stream.flush().await;
                tokio::task::yield_now().await;
            }
        } else if step.ends_with("\r\n") {
            let _ = stream.write_all(step.as_bytes()).await;
            let _ = stream.flush().await;
        } else if !read_until(stream, step, &mut pending, &log).await {
            return;
        }
    }
    let stream: &mut dyn Stream = match (&mut tls, &mut tcp) {
        (Some(tls), _) => tls,
        (None, Some(tcp)) => tcp,
        (None, None) => return,
    };
    read_until(stream, "\0", &mut pending, &log).await;
}

/// Reads lines until one begins with `start`; `false` at the end of the stream.
async fn read_until(
    stream: &mut dyn Stream,
    start: &str,
    pending: &mut Vec<u8>,
    log: &Mutex<Vec<u8>>,
) -> bool {
    loop {
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            log.lock().extend_from_slice(&line);
            let is_wanted = match start {
                "." => line == b".\r\n",
                _ => line.starts_with(start.as_bytes()),
            };
            if is_wanted {
                return true;
            }
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return false,
            Ok(count) => pending.extend_from_slice(&buffer[..count]),
        }
    }
}

/// A next hop that takes everything, over any number of connections, and counts them.
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    /// The RCPT commands, in order.
    pub(crate) recipients: Arc<Mutex<Vec<String>>>,
}

impl Sink {
    pub(crate) async fn start() -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn start_on(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let recipients = Arc::new(Mutex::new(Vec::new()));
        let (count, log) = (connections.clone(), recipients.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(take_everything(stream, log.clone()));
            }
        });
        Self { address, connections, recipients }
    }
}

async fn take_everything(stream: TcpStream, recipients: Arc<Mutex<Vec<String>>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 hi\r\n").await?;
    let mut line = String::new();
    let mut in_data = false;
    while stream.read_line(&mut line).await? > 0 {
        let reply = match line.trim_end() {
            "." => "250 queued\r\n",
            _ if in_data => "",
            "DATA" => "354 go\r\n",
            command if command.starts_with("EHLO") => "250-hi\r\n250 PIPELINING\r\n",
            _ => "250 ok\r\n",
        };
        if !in_data && line.starts_with("RCPT") {
            recipients.lock().push(line.trim_end().to_owned());
        }
        in_data = (in_data || reply.starts_with("354")) && line != ".\r\n";
        stream.write_all(reply.as_bytes()).await?;
        line.clear();
    }
    Ok(())
}

/// Name servers that never answer.
#[derive(Debug)]
pub(crate) struct Silent;

impl Dns for Silent {
    fn mx<'a>(&'a self, _: &'a Domain) -> Pending<'a, Answer<Mx>> {
        Box::pin(std::future::pending())
    }
    fn addresses<'a>(&'a self, _: &'a Domain) -> Pending<'a, Answer<IpAddr>> {
        Box::pin(std::future::pending())
    }
    fn ipv4<'a>(&'a self, _: &'a Domain) -> Pending<'a, (Answer<Ipv4Addr>, Duration)> {
        Box::pin(std::future::pending())
    }
    fn txt<'a>(&'a self, _: &'a Domain) -> Pending<'a, Answer<String>> {
        Box::pin(std::future::pending())
    }
    fn cname<'a>(&'a self, _: &'a Domain) -> Pending<'a, Answer<Domain>> {
        Box::pin(std::future::pending())
    }
    fn ptr(&self, _: IpAddr) -> Pending<'_, Answer<Domain>> {
        Box::pin(std::future::pending())
    }
}
