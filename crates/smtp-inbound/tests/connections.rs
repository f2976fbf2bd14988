//! Real sockets on loopback: what only shows between bytes and a session.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine;
use postern_config::{Listener, ListenerKind};
use postern_queue::{Door, Envelope, Opener, Origin, Queue};
use postern_smtp_inbound::{Inbound, bind};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use support::{PASSWORD, Server};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const CONFIG: &str = r#"
    hostname = "mail.proseware.test"
    [smtp]
    max_message_size = "3MiB"
    max_connections_per_address = 2
    error_delay = "0s"
    [smtp.timeouts]
    write = "500ms"
    [[domain]]
    name = "proseware.test"
    mailboxes = ["alice"]
"#;

/// A service with one listener.
struct Service {
    address: SocketAddr,
    queue: Queue,
    registry: prometheus::Registry,
    directory: tempfile::TempDir,
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Service {
    fn start(kind: ListenerKind, config: &str) -> Self {
        let (service, opener) = Self::start_loading(kind, config);
        opener.open(service.queue.clone());
        service
    }

    /// The same while the queue is still being loaded: until the test opens it.
    fn start_loading(kind: ListenerKind, config: &str) -> (Self, Opener) {
        let Server { mut shared, registry, directory } = Server::new(config);
        let (door, opener) = Door::closed();
        let queue = std::mem::replace(&mut shared.door, door).now().unwrap();
        let address = "127.0.0.1:0".parse().unwrap();
        let bound = bind(&Listener::tcp(kind, address)).unwrap();
        let address = bound.local_addr().unwrap().tcp().unwrap();
        let (inbound, stop, tracker) = (Inbound::new(shared), CancellationToken::new(), TaskTracker::new());
        let (token, tasks) = (stop.clone(), tracker.clone());
        tracker.spawn(async move { inbound.run(bound, token, tasks).await.unwrap() });
        (Self { address, queue, registry, directory, stop, tracker }, opener)
    }

    async fn connect(&self) -> Client<TcpStream> {
        Client { stream: TcpStream::connect(self.address).await.unwrap(), buffer: Vec::new() }
    }

    /// Connects and says EHLO.
    async fn greeted(&self) -> Client<TcpStream> {
        let mut client = self.connect().await;
        assert!(client.reply().await.starts_with("220 "));
        assert!(client.ask("EHLO client.test").await.starts_with("250-"));
        client
    }

    fn connector(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.directory.path().join("cert.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
    }

    async fn shake_hands(&self, stream: TcpStream) -> Client<tokio_rustls::client::TlsStream<TcpStream>> {
        let name = ServerName::try_from("mail.proseware.test").unwrap();
        let stream = self.connector().connect(name, stream).await.unwrap();
        Client { stream, buffer: Vec::new() }
    }

    /// The next message in the queue.
    async fn message(&self) -> (Envelope, String) {
        let lease = self.queue.lease().await;
        let mut content = lease.content();
        let mut text = Vec::new();
        while let Some(piece) = content.next().await.unwrap() {
            text.extend_from_slice(&piece);
        }
        (Envelope::clone(&lease.envelope), String::from_utf8(text).unwrap())
    }

    fn counter(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        family.map_or(0.0, |family| {
            family.get_metric().iter().map(|metric| metric.get_counter().get_value()).sum()
        })
    }
}

struct Client<S> {
    stream: S,
    buffer: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    async fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n")).await;
        self.reply().await
    }

    /// One reply with all its lines; empty at the end of the connection.
    async fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            while let Some(at) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8(self.buffer.drain(..=at).collect()).unwrap();
                reply.push_str(&line);
                if line.as_bytes().get(3) == Some(&b' ') {
                    return reply.trim_end().to_owned();
                }
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece).await {
                Ok(0) | Err(_) => return reply,
                Ok(octets) => self.buffer.extend_from_slice(&piece[..octets]),
            }
        }
    }

    async fn is_closed(&mut self) -> bool {
        self.reply().await.is_empty()
    }
}

#[tokio::test]
async fn a_message_arrives_in_the_queue_as_it_was_sent() {
    let service = Service::start(ListenerKind::Mx, CONFIG);
    let mut client = service.greeted().await;
    client.send("MAIL FROM:<a@adatum.test>\r\nRCPT TO:<ALICE+x@proseware.test>\r\nDATA\r\n").await;
    for code in ["250 2.1.0", "250 2.1.5", "354"] {
        assert!(client.reply().await.starts_with(code));
    }
    client.send("Subject: x\r\nMessage-ID: <1@adatum.test>\r\n\r\n..dot\r\nbody\r\n.\r\n").await;
    let reply = client.reply().await;
    let id = reply.strip_prefix("250 2.0.0 Ok: queued as ").unwrap().to_owned();

    let (envelope, text) = service.message().await;
    assert_eq!(
        text,
        format!(
            "Received: from client.test ([127.0.0.1])\r\n\tby mail.proseware.test (Postern) with ESMTP id {id}\r\n\t\
             for <ALICE+x@proseware.test>;\r\n\tSat, 21 Nov 2026 18:05:25 +0000\r\n\
             Subject: x\r\nMessage-ID: <1@adatum.test>\r\n\r\n.dot\r\nbody\r\n"
        )
    );
    assert_eq!(envelope.size, text.len() as u64);
    assert_eq!(envelope.origin, Origin::Outsider);
    assert_eq!(envelope.message_id.as_deref(), Some("1@adatum.test"));
    let [recipient] = &envelope.recipients[..] else { panic!("{envelope:?}") };
    assert_eq!(recipient.address.to_string(), "alice@proseware.test");
    assert_eq!(recipient.given.as_ref().unwrap().to_string(), "ALICE+x@proseware.test");
    assert_eq!(service.counter("postern_smtp_accepted_messages_total"), 1.0);
}

#[tokio::test]
async fn case_makes_recipients_distinct_only_where_they_are_not_ours() {
    let trusted = "[relay]\ntrusted_networks = [{ network = \"127.0.0.0/8\", label = \"here\" }]\n[[domain]]";
    let service = Service::start(ListenerKind::Mx, &CONFIG.replace("[[domain]]", trusted));
    let mut client = service.greeted().await;
    client.send("MAIL FROM:<>\r\n").await;
    assert!(client.reply().await.starts_with("250"));
    for recipient in ["Bob@adatum.test", "bob@ADATUM.test", "alice@proseware.test", "ALICE@proseware.test"] {
        assert!(client.ask(&format!("RCPT TO:<{recipient}>")).await.starts_with("250"));
    }
    assert!(client.ask("DATA").await.starts_with("354"));
    assert!(client.ask("Subject: x\r\n\r\n.").await.starts_with("250"));
    let (envelope, _) = service.message().await;
    let recipients: Vec<String> = envelope.recipients.iter().map(|to| to.address.to_string()).collect();
    assert_eq!(recipients, ["Bob@adatum.test", "bob@adatum.test", "alice@proseware.test"]);
}

#[tokio::test]
async fn a_login_over_starttls_submits_mail() {
    let service = Service::start(ListenerKind::Submission, CONFIG);
    let mut client = service.greeted().await;
    // What is sent behind STARTTLS in clear must not be answered under TLS.
    client.send("STARTTLS\r\nNOOP\r\nMAIL FROM:<injected@adatum.test>\r\n").await;
    assert!(client.reply().await.starts_with("220 2.0.0"));
    let mut client = service.shake_hands(client.stream).await;
    assert!(client.ask("EHLO client.test").await.contains("250 AUTH PLAIN LOGIN"));
    let response = base64(&format!("\0alice@proseware.test\0{PASSWORD}"));
    assert_eq!(client.ask(&format!("AUTH PLAIN {response}")).await, "235 2.7.0 Authentication successful");
    assert!(client.ask("MAIL FROM:<alice@proseware.test>").await.starts_with("250"));
    assert!(client.ask("RCPT TO:<b@adatum.test>").await.starts_with("250"));
    assert!(client.ask("DATA").await.starts_with("354"));
    let reply = client.ask("From: alice@proseware.test\r\nBcc: c@adatum.test\r\n\r\nHello\r\n.").await;
    let id = reply.strip_prefix("250 2.0.0 Ok: queued as ").unwrap().to_owned();

    let (envelope, text) = service.message().await;
    assert!(text.contains("\tby mail.proseware.test (Postern) with ESMTPSA id "), "{text}");
    assert!(text.contains("\t(using TLSv1.3 with cipher TLS"), "{text}");
    assert!(text.contains(&format!("Message-ID: <{id}@mail.proseware.test>\r\n")), "{text}");
    assert!(text.contains("\r\nDate: ") && !text.contains("Bcc"), "{text}");
    assert_eq!(envelope.origin, Origin::Login("alice@proseware.test".to_owned()));
    assert_eq!(service.counter("postern_smtp_tls_handshakes_total"), 1.0);
}

#[tokio::test]
async fn while_the_queue_is_loaded_a_client_may_greet_secure_and_log_in_and_mail_waits() {
    let (service, opener) = Service::start_loading(ListenerKind::Submission, CONFIG);
    let mut client = service.greeted().await;
    assert_eq!(client.ask("STARTTLS").await, "220 2.0.0 Ready to start TLS");
    let mut client = service.shake_hands(client.stream).await;
    assert!(client.ask("EHLO client.test").await.contains("250 AUTH PLAIN LOGIN"));
    let response = base64(&format!("\0alice@proseware.test\0{PASSWORD}"));
    assert_eq!(client.ask(&format!("AUTH PLAIN {response}")).await, "235 2.7.0 Authentication successful");
    // What was answered before goes out when the wait begins: more cannot come until the door is open.
    client.send("NOOP\r\nMAIL FROM:<alice@proseware.test>\r\nRCPT TO:<b@adatum.test>\r\nDATA\r\n").await;
    assert_eq!(client.reply().await, "250 2.0.0 Ok");
    assert!(client.buffer.is_empty());
    let mut other = service.greeted().await;
    assert!(other.ask("NOOP").await.starts_with("250"), "one that waits keeps nobody else waiting");
    assert!(other.ask("QUIT").await.starts_with("221"));

    opener.open(service.queue.clone());
    for code in ["250 2.1.0", "250 2.1.5", "354"] {
        assert!(client.reply().await.starts_with(code));
    }
    assert!(
        client.ask("From: alice@proseware.test\r\n\r\nHello\r\n.").await.starts_with("250 2.0.0 Ok: queued")
    );
    let (envelope, _) = service.message().await;
    assert_eq!(envelope.origin, Origin::Login("alice@proseware.test".to_owned()));
}

#[tokio::test]
async fn a_server_that_stops_while_its_queue_is_loaded_defers_the_mail_that_waits() {
    let (service, _opener) = Service::start_loading(ListenerKind::Mx, CONFIG);
    let (mut waiting, mut idle) = (service.greeted().await, service.greeted().await);
    waiting.send("NOOP\r\nMAIL FROM:<>\r\nRCPT TO:<alice@proseware.test>\r\n").await;
    assert_eq!(waiting.reply().await, "250 2.0.0 Ok");
    service.stop.cancel();
    assert_eq!(waiting.reply().await, "451 4.3.2 the queue is being loaded, try again later");
    assert_eq!(waiting.reply().await, "503 5.5.1 bad sequence of commands: MAIL first");
    for client in [&mut waiting, &mut idle] {
        assert_eq!(client.reply().await, "421 4.3.2 service is shutting down, try again later");
        assert!(client.is_closed().await);
    }
    service.tracker.close();
    service.tracker.wait().await;
    assert_eq!(service.counter("postern_smtp_refusals_total"), 1.0);
}

#[tokio::test]
async fn implicit_tls_greets_behind_the_handshake() {
    let service = Service::start(ListenerKind::Submissions, CONFIG);
    let stream = TcpStream::connect(service.address).await.unwrap();
    let mut client = service.shake_hands(stream).await;
    assert!(client.reply().await.starts_with("220 mail.proseware.test"));
    assert!(client.ask("QUIT").await.starts_with("221"));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn clear_text_to_implicit_tls_ends_the_connection() {
    let service = Service::start(ListenerKind::Submissions, CONFIG);
    let mut client = service.connect().await;
    client.send("EHLO client.test\r\n").await;
    let mut rest = Vec::new();
    // An alert may come, and then the end.
    let _ = client.stream.read_to_end(&mut rest).await;
    assert!(rest.len() < 100);
    service.stop.cancel();
    service.tracker.close();
    service.tracker.wait().await;
    assert_eq!(service.counter("postern_smtp_tls_handshakes_total"), 1.0);
}

#[tokio::test]
async fn a_large_message_comes_through_in_pieces_of_any_size() {
    let service = Service::start(ListenerKind::Mx, CONFIG);
    let mut client = service.greeted().await;
    client.send("MAIL FROM:<>\r\nRCPT TO:<alice@proseware.test>\r\nDATA\r\n").await;
    for _ in 0..3 {
        client.reply().await;
    }
    let body: String = (0..30_000).map(|n| format!(".line {n}\r\n")).collect();
    let wire = format!("Subject: large\r\n\r\n{}", body.replace(".line", "..line"));
    for (n, piece) in wire.as_bytes().chunks(7001).enumerate() {
        client.send(&piece[..n % 5]).await;
        client.send(&piece[n % 5..]).await;
    }
    assert!(client.ask(".").await.starts_with("250 2.0.0"));
    let (envelope, text) = service.message().await;
    assert!(text.ends_with(&format!("Subject: large\r\n\r\n{body}")));
    assert_eq!(envelope.size, text.len() as u64);
}

/// MAIL, RCPT and these chunks, all in one.
fn in_chunks(chunks: &[&[u8]]) -> Vec<u8> {
    in_chunks_of("MAIL FROM:<>", chunks)
}

/// The same with this MAIL.
fn in_chunks_of(mail: &str, chunks: &[&[u8]]) -> Vec<u8> {
    let mut wire = format!("{mail}\r\nRCPT TO:<alice@proseware.test>\r\n").into_bytes();
    for (at, chunk) in chunks.iter().enumerate() {
        let last = if at + 1 == chunks.len() { " LAST" } else { "" };
        wire.extend_from_slice(format!("BDAT {}{last}\r\n", chunk.len()).as_bytes());
        wire.extend_from_slice(chunk);
    }
    wire
}

#[tokio::test]
async fn chunks_come_through_in_pieces_of_any_size() {
    let service = Service::start(ListenerKind::Mx, CONFIG);
    let mut client = service.greeted().await;
    let body: String = (0..30_000).map(|n| format!(".line {n} \u{e9}\r\n.\r\n")).collect();
    let message = format!("Subject: chunks\r\n\r\n{body}");
    let mut rest = message.as_bytes();
    let mut chunks = Vec::new();
    for size in [1, 16, 2, 0, 3, 70_000, 5, 150_001].into_iter().cycle() {
        let (chunk, behind) = rest.split_at(rest.len().min(size));
        chunks.push(chunk);
        rest = behind;
        if rest.is_empty() {
            break;
        }
    }
    // Nothing is waited for: a command may begin and end anywhere in what is read at once.
    let wire = [&in_chunks(&chunks)[..], b"NOOP\r\n"].concat();
    for (n, piece) in wire.chunks(7001).enumerate() {
        client.send(&piece[..n % 5]).await;
        client.send(&piece[n % 5..]).await;
    }
    for code in ["250 2.1.0", "250 2.1.5"] {
        assert!(client.reply().await.starts_with(code));
    }
    for chunk in &chunks[..chunks.len() - 1] {
        assert_eq!(client.reply().await, format!("250 2.0.0 Ok: {} octets received", chunk.len()));
    }
    assert!(client.reply().await.starts_with("250 2.0.0 Ok: queued as "));
    assert_eq!(client.reply().await, "250 2.0.0 Ok");
    let (envelope, text) = service.message().await;
    assert!(text.ends_with(&message), "the content is another");
    assert_eq!(envelope.size, text.len() as u64);
    assert_eq!(envelope.body, postern_smtp::Body::EightBitMime);
}

/// A message with a part of all octets, and what the part becomes; twice as long as what a connection reads at once.
fn with_binary_part() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let octets: Vec<u8> = (0..150_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let header =
        "Subject: binary\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n";
    let message =
        [header.as_bytes(), b"Content-Transfer-Encoding: binary\r\n\r\n", &octets, b"\r\n--b--\r\n"];
    let text = base64::engine::general_purpose::STANDARD.encode(&octets);
    let lines: Vec<&[u8]> = text.as_bytes().chunks(76).collect();
    let stored = [
        header.as_bytes(),
        b"Content-Transfer-Encoding: base64\r\n\r\n",
        &lines.join(&b"\r\n"[..]),
        b"\r\n--b--\r\n",
    ];
    (message.concat(), stored.concat(), octets)
}

#[tokio::test]
async fn binary_parts_are_stored_in_base_64_whatever_pieces_they_come_in() {
    let service = Service::start(ListenerKind::Mx, CONFIG);
    let mut client = service.greeted().await;
    let (message, stored, octets) = with_binary_part();
    assert!(octets.contains(&b'\n') && octets.contains(&0), "the octets are harmless");
    let (first, last) = message.split_at(70_001);
    let wire = in_chunks_of("MAIL FROM:<> BODY=BINARYMIME", &[first, last]);
    for (n, piece) in wire.chunks(7001).enumerate() {
        client.send(&piece[..n % 5]).await;
        client.send(&piece[n % 5..]).await;
    }
    for code in ["250 2.1.0", "250 2.1.5", "250 2.0.0 Ok: 70001 octets received", "250 2.0.0 Ok: queued"] {
        assert!(client.reply().await.starts_with(code));
    }
    let (envelope, text) = service.message().await;
    assert!(text.as_bytes().ends_with(&stored), "the content is another");
    assert_eq!((envelope.size, envelope.body), (text.len() as u64, postern_smtp::Body::SevenBit));
}

#[tokio::test]
async fn what_has_8_bits_outside_binary_parts_is_8bitmime() {
    let service = Service::start(ListenerKind::Mx, CONFIG);
    let mut client = service.greeted().await;
    let message = "Subject: x\r\n\r\ncaf\u{e9}";
    client.send(in_chunks_of("MAIL FROM:<> BODY=BINARYMIME", &[message.as_bytes()])).await;
    for code in ["250 2.1.0", "250 2.1.5", "250 2.0.0 Ok: queued"] {
        assert!(client.reply().await.starts_with(code));
    }
    let (envelope, text) = service.message().await;
    assert!(text.ends_with("\r\n\r\ncaf\u{e9}\r\n"), "{text}");
    assert_eq!(envelope.body, postern_smtp::Body::EightBitMime);
}

#[tokio::test]
async fn a_last_line_without_an_end_gets_one() {
    let service = Service::start(ListenerKind::Mx, CONFIG);
    let mut client = service.greeted().await;
    client.send(in_chunks(&[b"Subject: x\r\n\r\nfirst\r\n.", b"last"])).await;
    for code in ["250 2.1.0", "250 2.1.5", "250 2.0.0 Ok: 22", "250 2.0.0 Ok: queued"] {
        assert!(client.reply().await.starts_with(code));
    }
    let (envelope, text) = service.message().await;
    assert!(text.ends_with("\r\n\r\nfirst\r\n.last\r\n"), "{text}");
    assert_eq!(envelope.size, text.len() as u64);
}

#[tokio::test]
async fn a_chunk_over_the_limit_is_thrown_away_and_the_session_goes_on() {
    let service = Service::start(ListenerKind::Mx, CONFIG);
    let mut client = service.greeted().await;
    let large = "QUIT\r\n".repeat(700_000);
    client.send(in_chunks(&[b"Subject: x\r\n\r\n", large.as_bytes(), b"QUIT\r\n"])).await;
    client.send(in_chunks(&[b"Subject: next\r\n\r\n"])).await;
    for reply in [
        "250 2.1.0 Ok",
        "250 2.1.5 Ok",
        "250 2.0.0 Ok: 14 octets received",
        "552 5.3.4 message larger than 3145728 octets",
        "552 5.3.4 message larger than 3145728 octets",
        "250 2.1.0 Ok",
        "250 2.1.5 Ok",
    ] {
        assert_eq!(client.reply().await, reply);
    }
    assert!(client.reply().await.starts_with("250 2.0.0 Ok: queued as "));
    assert_eq!(service.counter("postern_smtp_accepted_messages_total"), 1.0);
}

#[tokio::test]
async fn a_connection_lost_between_chunks_leaves_nothing() {
    let service = Service::start(ListenerKind::Mx, CONFIG);
    let mut client = service.greeted().await;
    client.send("MAIL FROM:<>\r\nRCPT TO:<alice@proseware.test>\r\nBDAT 14\r\nSubject: x\r\n\r\n").await;
    for code in ["250 2.1.0", "250 2.1.5", "250 2.0.0 Ok: 14"] {
        assert!(client.reply().await.starts_with(code));
    }
    drop(client);
    service.stop.cancel();
    service.tracker.close();
    service.tracker.wait().await;
    assert_eq!(service.counter("postern_smtp_accepted_messages_total"), 0.0);
}

#[tokio::test]
async fn stopping_lets_a_message_in_chunks_finish() {
    let service = Service::start(ListenerKind::Mx, CONFIG);
    let mut client = service.greeted().await;
    client.send("MAIL FROM:<>\r\nRCPT TO:<alice@proseware.test>\r\nBDAT 14\r\nSubject: x\r\n\r\n").await;
    for code in ["250 2.1.0", "250 2.1.5", "250 2.0.0 Ok: 14"] {
        assert!(client.reply().await.starts_with(code));
    }
    service.stop.cancel();
    client.send("BDAT 4 LAST\r\nlast").await;
    assert!(client.reply().await.starts_with("250 2.0.0 Ok: queued as "));
    assert_eq!(client.reply().await, "421 4.3.2 service is shutting down, try again later");
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn silence_in_and_between_chunks_is_answered_with_421() {
    let begin = "EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<alice@proseware.test>\r\nBDAT 10\r\n";
    // Inside a chunk, inside one that is thrown away, between two, and for all of a message however long each may be.
    for (timeouts, said, replies) in [
        ("data_block = \"20ms\"", format!("{begin}Subject"), 4),
        ("data_block = \"20ms\"", "BDAT 10\r\nSubject".to_owned(), 1),
        ("command = \"20ms\"", format!("{begin}Subject: x"), 5),
        ("data_total = \"50ms\"", format!("{begin}Subject: x"), 5),
        ("data_total = \"50ms\"", format!("{begin}Subject: xBDAT 10\r\n"), 5),
    ] {
        let service = Service::start(ListenerKind::Mx, &CONFIG.replace("write = \"500ms\"", timeouts));
        let mut client = service.connect().await;
        client.send(&said).await;
        for _ in 0..replies {
            assert!(client.reply().await.starts_with('2'), "{timeouts} {said:?}");
        }
        assert_eq!(client.reply().await, "421 4.4.2 timeout, closing connection", "{timeouts} {said:?}");
        assert!(client.is_closed().await);
    }
}

#[tokio::test]
async fn a_client_that_stops_sending_still_gets_its_replies() {
    let service = Service::start(ListenerKind::Mx, CONFIG);
    let mut client = service.greeted().await;
    client.send("NOOP\r\nMAIL FROM:<>\r\nQUIT\r\n").await;
    client.stream.shutdown().await.unwrap();
    for code in ["250 2.0.0", "250 2.1.0", "221 2.0.0"] {
        assert!(client.reply().await.starts_with(code));
    }
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_connection_lost_inside_a_message_leaves_nothing() {
    let service = Service::start(ListenerKind::Mx, CONFIG);
    let mut client = service.greeted().await;
    client.send("MAIL FROM:<>\r\nRCPT TO:<alice@proseware.test>\r\nDATA\r\n").await;
    for _ in 0..3 {
        client.reply().await;
    }
    client.send("Subject: half\r\n\r\nbody\r\n.\r").await;
    drop(client);
    service.stop.cancel();
    service.tracker.close();
    service.tracker.wait().await;
    assert_eq!(service.counter("postern_smtp_accepted_messages_total"), 0.0);
}

#[tokio::test]
async fn an_endless_line_ends_the_session() {
    let service = Service::start(ListenerKind::Mx, CONFIG);
    let mut client = service.greeted().await;
    client.send(vec![b'x'; 200_000]).await;
    assert_eq!(client.reply().await, "500 5.5.2 line longer than 4096 octets");
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_long_line_in_pieces_is_one_error() {
    let service = Service::start(ListenerKind::Mx, CONFIG);
    let mut client = service.greeted().await;
    for _ in 0..10 {
        client.send([b'x'; 1000]).await;
    }
    client.send("\r\nNOOP\r\n").await;
    assert_eq!(client.reply().await, "500 5.5.2 line longer than 4096 octets");
    assert_eq!(client.reply().await, "250 2.0.0 Ok");
}

#[tokio::test]
async fn garbage_ends_in_a_clear_reply() {
    let service = Service::start(ListenerKind::Mx, CONFIG);
    let mut client = service.greeted().await;
    let garbage: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    // The server may be gone before all of it is written.
    let _ = client.stream.write_all(&garbage).await;
    let mut last = String::new();
    loop {
        let reply = client.reply().await;
        if reply.is_empty() {
            break;
        }
        last = reply;
    }
    assert_eq!(last, "421 4.7.0 too many errors");
}

#[tokio::test]
async fn a_body_sent_too_early_is_answered_before_the_connection_closes() {
    let service = Service::start(ListenerKind::Mx, CONFIG);
    let mut client = service.greeted().await;
    let body = "x\r\n".repeat(10_000);
    client.send(format!("MAIL FROM:<>\r\nRCPT TO:<alice@proseware.test>\r\nDATA\r\n{body}.\r\n")).await;
    assert!(client.reply().await.starts_with("250 2.1.0"));
    assert!(client.reply().await.starts_with("250 2.1.5"));
    assert_eq!(client.reply().await, "503 5.5.1 data sent before the reply to DATA");
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_body_sent_too_early_is_seen_however_the_input_is_cut() {
    let config = CONFIG.replace("max_connections_per_address = 2", "max_connections_per_address = 100");
    let service = Service::start(ListenerKind::Mx, &config);
    // Somewhere in here a read of the server ends just behind DATA.
    for length in 2000..2060 {
        let mut client = service.greeted().await;
        let begin = "MAIL FROM:<>\r\nRCPT TO:<alice@proseware.test>\r\nNOOP ";
        let end = "\r\nDATA\r\n";
        let padding = "x".repeat(length - begin.len() - end.len());
        client.send(format!("{begin}{padding}{end}MAIL FROM:<x@adatum.test>\r\n.\r\n")).await;
        for code in ["250 2.1.0", "250 2.1.5", "250 2.0.0"] {
            assert!(client.reply().await.starts_with(code));
        }
        let reply = client.reply().await;
        assert_eq!(reply, "503 5.5.1 data sent before the reply to DATA", "{length}");
        assert!(client.is_closed().await);
    }
}

#[tokio::test]
async fn silence_is_answered_with_421() {
    let config =
        CONFIG.replace("write = \"500ms\"", "greeting = \"20ms\"\ncommand = \"20ms\"\ndata_block = \"20ms\"");
    let service = Service::start(ListenerKind::Mx, &config);
    let mut silent = service.connect().await;
    assert!(silent.reply().await.starts_with("220"));
    assert_eq!(silent.reply().await, "421 4.4.2 timeout, closing connection");
    assert!(silent.is_closed().await);

    let mut client = service.connect().await;
    client.send("EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<alice@proseware.test>\r\nDATA\r\n").await;
    for _ in 0..5 {
        client.reply().await;
    }
    client.send("Subject: unfinished\r\n").await;
    assert_eq!(client.reply().await, "421 4.4.2 timeout, closing connection");
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut_off() {
    let service = Service::start(ListenerKind::Mx, CONFIG);
    let mut client = service.connect().await;
    let batch = "HELP\r\n".repeat(10_000);
    // Neither side reads: the server must not gather replies without end, and must not wait without end.
    while client.stream.write_all(batch.as_bytes()).await.is_ok() {}
}

#[tokio::test]
async fn connections_of_one_address_are_limited_and_counted_down() {
    let service = Service::start(ListenerKind::Mx, CONFIG);
    let first = service.greeted().await;
    let _second = service.greeted().await;
    let mut third = service.connect().await;
    assert_eq!(third.reply().await, "421 4.7.0 too many connections from your address");
    assert!(third.is_closed().await);
    drop(first);
    // The place is free when the server has seen the end.
    loop {
        let mut next = service.connect().await;
        if next.reply().await.starts_with("220 ") {
            break;
        }
    }
}

#[tokio::test]
async fn trusted_clients_have_no_limit_of_connections() {
    let trusted = "[relay]\ntrusted_networks = [{ network = \"127.0.0.0/8\", label = \"here\" }]\n[[domain]]";
    let service = Service::start(ListenerKind::Mx, &CONFIG.replace("[[domain]]", trusted));
    let clients = [service.greeted().await, service.greeted().await, service.greeted().await];
    assert_eq!(clients.len(), 3);
}

#[tokio::test]
async fn the_limit_of_all_connections_holds_for_everybody_trusted_clients_have_twice_as_many() {
    let config = CONFIG.replace("[smtp]", "[smtp]\nmax_connections = 1");
    let trusted = "[relay]\ntrusted_networks = [{ network = \"127.0.0.0/8\", label = \"here\" }]\n[[domain]]";
    for (config, places) in [(config.clone(), 1), (config.replace("[[domain]]", trusted), 2)] {
        let service = Service::start(ListenerKind::Mx, &config);
        let mut clients = Vec::new();
        for _ in 0..places {
            clients.push(service.greeted().await);
        }
        let mut last = service.connect().await;
        assert_eq!(last.reply().await, "421 4.3.2 too many connections, try again later");
        assert_eq!(service.counter("postern_smtp_connections_refused_total"), 1.0);
    }
}

#[tokio::test]
async fn stopping_ends_sessions_that_wait_and_lets_messages_finish() {
    let config = CONFIG.replace("max_connections_per_address = 2", "max_connections_per_address = 3");
    let service = Service::start(ListenerKind::Mx, &config);
    let mut idle = service.greeted().await;
    let mut begun = service.greeted().await;
    assert!(begun.ask("MAIL FROM:<>").await.starts_with("250"));
    let mut busy = service.greeted().await;
    busy.send("MAIL FROM:<>\r\nRCPT TO:<alice@proseware.test>\r\nDATA\r\n").await;
    for _ in 0..3 {
        busy.reply().await;
    }
    service.stop.cancel();
    for client in [&mut idle, &mut begun] {
        assert_eq!(client.reply().await, "421 4.3.2 service is shutting down, try again later");
        assert!(client.is_closed().await);
    }
    assert!(busy.ask("Subject: last\r\n\r\nbody\r\n.").await.starts_with("250 2.0.0"));
    assert_eq!(busy.reply().await, "421 4.3.2 service is shutting down, try again later");
    assert!(busy.is_closed().await);
    drop((idle, begun, busy));
    service.tracker.close();
    service.tracker.wait().await;
    assert!(TcpStream::connect(service.address).await.is_err());
}

#[tokio::test]
async fn stopping_does_not_wait_for_handshakes() {
    let service = Service::start(ListenerKind::Submission, CONFIG);
    let mut client = service.greeted().await;
    assert!(client.ask("STARTTLS").await.starts_with("220"));
    service.stop.cancel();
    assert!(client.is_closed().await);
}

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// What a client sends before it waits for replies (RFC 2920 §3.1).
#[derive(Debug, Clone)]
struct Group {
    /// Commands, with chunks behind those that announce them.
    wire: Vec<u8>,
    /// So many commands.
    replies: usize,
    /// What it sends where the last of them is answered with 354.
    content: Option<Vec<u8>>,
}

impl Group {
    fn of(lines: &[&[u8]]) -> Self {
        let wire: Vec<u8> = lines.iter().flat_map(|line| [line, &b"\r\n"[..]].concat()).collect();
        // An LF without CR ends a command too, though a wrong one.
        let replies = wire.iter().filter(|octet| **octet == b'\n').count();
        Self { wire, replies, content: None }
    }

    /// A transaction, by DATA.
    fn with_message(recipients: &[&[u8]], lines: &[&[u8]]) -> Self {
        let commands = [&[&b"MAIL FROM:<a@adatum.test>"[..]], recipients, &[&b"DATA"[..]]].concat();
        let stuffed = lines.iter().flat_map(|line| {
            let dot = if line.starts_with(b".") { &b"."[..] } else { b"" };
            [dot, line, b"\r\n"].concat()
        });
        let content = stuffed.chain(*b".\r\n").collect();
        Self { content: Some(content), ..Self::of(&commands) }
    }

    /// The same by BDAT, all sent ahead.
    fn with_chunks(chunks: &[&[u8]]) -> Self {
        Self { wire: in_chunks(chunks), replies: 2 + chunks.len(), content: None }
    }
}

/// What a client hears that writes so many octets at once.
async fn heard(service: &Service, groups: &[Group], octets: usize) -> Vec<String> {
    let mut client = service.connect().await;
    client.stream.set_nodelay(true).unwrap();
    let mut heard = vec![client.reply().await];
    for Group { wire, replies, content } in groups {
        client.send_in_pieces(wire, octets).await;
        for _ in 0..*replies {
            heard.push(client.reply().await);
        }
        let goes_on = heard.last().is_some_and(|reply| reply.starts_with("354"));
        if let Some(content) = content.as_ref().filter(|_| goes_on) {
            client.send_in_pieces(content, octets).await;
            heard.push(client.reply().await);
        }
    }
    client.send_in_pieces(b"QUIT\r\n", octets).await;
    heard.push(client.reply().await);
    // What is different each time.
    let before = |text: &str, end: &str| text.split(end).next().unwrap_or_default().to_owned();
    let same = |reply: &String| before(&before(reply, " queued as "), " (ref ");
    heard.iter().map(same).collect()
}

impl Client<TcpStream> {
    /// Lets the server read between two pieces. It may have closed the connection.
    async fn send_in_pieces(&mut self, wire: &[u8], octets: usize) {
        for piece in wire.chunks(octets) {
            if self.stream.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Sessions of clients that wait where they must, right and wrong ones.
fn sessions() -> impl Strategy<Value = Vec<Group>> {
    let long = || &[b'x'; 5000][..];
    let commands: [&[u8]; 14] = [
        b"EHLO client.test",
        b"HELO client.test",
        b"RSET",
        b"NOOP",
        b"noop  with words ",
        b"VRFY alice",
        b"MAIL FROM:<a@adatum.test> SIZE=100",
        b"MAIL FROM:<a@adatum.test",
        b"RCPT TO:<alice@proseware.test>",
        b"RCPT TO:<nobody@proseware.test>",
        b"XYZZY \0",
        b"NOOP\nNOOP",
        b"\xff\r",
        long(),
    ];
    let lines: [&[u8]; 11] = [
        b"Subject: x",
        b"",
        b".",
        b"..",
        b"QUIT",
        b"a\r",
        b"a\nb",
        b"\n.",
        b"\r.\r",
        b"MAIL FROM:<hidden@adatum.test>",
        long(),
    ];
    let recipients: [&[u8]; 3] = [
        b"RCPT TO:<alice@proseware.test>",
        b"RCPT TO:<nobody@proseware.test>",
        b"RCPT TO:<bob@elsewhere.test>",
    ];
    let some = |of: &[&'static [u8]], most: usize| {
        proptest::collection::vec(proptest::sample::select(of.to_vec()), 0..most)
    };
    let transaction = (some(&recipients, 4), some(&lines, 8));
    let group = prop_oneof![
        3 => some(&commands, 5).prop_map(|lines| Group::of(&lines)),
        3 => transaction.prop_map(|(recipients, lines)| Group::with_message(&recipients, &lines)),
        1 => some(&lines, 4).prop_map(|chunks| Group::with_chunks(&chunks)),
    ];
    proptest::collection::vec(group, 1..5)
        .prop_map(|groups| [vec![Group::of(&[b"EHLO client.test"])], groups].concat())
}

#[test]
fn however_sessions_are_cut_into_reads_the_replies_are_the_same() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = CONFIG
        .replace("max_connections_per_address = 2", "max_connections_per_address = 1000\nmax_errors = 1000")
        .replace("max_message_size", "max_data_line = \"4096B\"\nmax_message_size");
    let service = runtime.block_on(async { Service::start(ListenerKind::Mx, &config) });
    let pieces = prop_oneof![2 => Just(1_usize), 1 => 2..40_usize, 1 => 1000..5000_usize];
    let settings = ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() };
    let played = TestRunner::new(settings).run(&(sessions(), pieces), |(groups, octets)| {
        let whole = runtime.block_on(heard(&service, &groups, usize::MAX));
        prop_assert_eq!(runtime.block_on(heard(&service, &groups, octets)), whole);
        Ok(())
    });
    played.unwrap();
    assert!(service.counter("postern_smtp_accepted_messages_total") > 0.0, "no session had a good message");
}

#[tokio::test]
async fn a_session_may_come_octet_by_octet() {
    let service = Service::start(ListenerKind::Mx, CONFIG);
    let rcpt = &b"RCPT TO:<alice@proseware.test>"[..];
    let groups = [
        Group::of(&[b"EHLO client.test"]),
        Group::with_message(
            &[rcpt, b"RCPT TO:<nobody@proseware.test>"],
            &[b"Subject: x", b"", b".", b"..", b"QUIT"],
        ),
        Group::with_message(&[rcpt], &[b"Subject: x", b"", b"a\nb"]),
        Group::with_chunks(&[b"Subject: x\r", b"\n\r\n.\r\n", b""]),
    ];
    let mut said = heard(&service, &groups, 1).await;
    said.remove(1);
    assert_eq!(
        said,
        [
            "220 mail.proseware.test ESMTP Postern",
            "250 2.1.0 Ok",
            "250 2.1.5 Ok",
            "550 5.1.1 <nobody@proseware.test>: no such user here",
            "354 End data with <CR><LF>.<CR><LF>",
            "250 2.0.0 Ok:",
            "250 2.1.0 Ok",
            "250 2.1.5 Ok",
            "354 End data with <CR><LF>.<CR><LF>",
            "550 5.6.0 message has bare CR or LF characters: lines must end with CR LF (RFC 5321 section 2.3.8)",
            "250 2.1.0 Ok",
            "250 2.1.5 Ok",
            "250 2.0.0 Ok: 11 octets received",
            "250 2.0.0 Ok: 6 octets received",
            "250 2.0.0 Ok:",
            "221 2.0.0 Bye",
        ]
    );
}
