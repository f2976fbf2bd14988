//! Dovecot's authentication service, by version 1 of its client protocol: lines of fields with tabs between them, over a
//! UNIX socket or TCP. <https://doc.dovecot.org/2.3/developer_manual/design/auth_protocol/>

use std::fmt;
use std::io;
use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use postern_config::backend;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use super::{Answer, Idle, Question};

/// Octets of one line. Dovecot itself takes 8192 from clients; what it answers has a user's fields in it.
const LONGEST_LINE: u64 = 16 * 1024;
/// Lines before `DONE`: one for each mechanism and a few more.
const MOST_GREETING: usize = 100;

/// How long a connection is used, however busy it is. The old process of a Dovecot that was restarted or reloaded goes on answering
/// those that it has, with its old settings.
const LONGEST_LIFE: Duration = Duration::from_secs(60);

/// The service, and connections to it.
pub(super) struct Dovecot {
    place: backend::Dovecot,
    idle: Idle<Connection>,
}

impl fmt::Debug for Dovecot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dovecot").field("address", &self.place.address).finish_non_exhaustive()
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection whose handshake is over.
struct Connection {
    stream: BufReader<Box<dyn Stream>>,
    mechanism: Mechanism,
    /// That of the last request.
    id: u32,
    opened: Instant,
}

/// How the password is handed over. Both are of the same worth; a service may have only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mechanism {
    Plain,
    Login,
}

/// What the service says to a request.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Ok {
        user: Option<String>,
    },
    Fail {
        is_temporary: bool,
        why: Option<String>,
    },
    /// The password is right, and the user may not log in.
    NoLogin {
        why: String,
    },
    Continue,
}

impl Dovecot {
    pub(super) fn new(place: &backend::Dovecot, most: usize) -> Self {
        Self { place: place.clone(), idle: Idle::new(most) }
    }

    pub(super) async fn ask(&self, question: Question<'_>) -> Answer {
        while let Some(mut connection) = self.idle.take() {
            if connection.opened.elapsed() >= LONGEST_LIFE {
                continue;
            }
            // An error may be that the service was restarted meanwhile: then a new connection is asked.
            if let Ok(answer) = connection.ask(question).await {
                self.idle.give(connection);
                return answer;
            }
        }
        let asked = async {
            let mut connection = Connection::open(&self.place).await?;
            let answer = connection.ask(question).await?;
            io::Result::Ok((connection, answer))
        };
        match asked.await {
            Ok((connection, answer)) => {
                self.idle.give(connection);
                answer
            }
            Err(error) => Answer::unavailable(format!("Dovecot at {}: {error}", self.place.address)),
        }
    }
}

impl Connection {
    async fn open(place: &backend::Dovecot) -> io::Result<Self> {
        let stream: Box<dyn Stream> = match place.socket_address() {
            Some(address) => Box::new(TcpStream::connect(address).await?),
            None => Box::new(UnixStream::connect(&place.address).await?),
        };
        Self::greet(stream).await
    }

    async fn greet(stream: Box<dyn Stream>) -> io::Result<Self> {
        let mut stream = BufReader::new(stream);
        let hello = format!("VERSION\t1\t1\nCPID\t{}\n", client_id()?);
        stream.write_all(hello.as_bytes()).await?;
        stream.flush().await?;
        let (mut is_known, mut offered) = (false, Vec::new());
        for _ in 0..MOST_GREETING {
            let line = read_line(&mut stream).await?;
            let mut fields = line.split('\t');
            match fields.next().unwrap_or_default() {
                "VERSION" => is_known = fields.next() == Some("1"),
                "MECH" => offered.extend(fields.next().map(str::to_uppercase)),
                "DONE" if !is_known => return Err(broken("it speaks another version of the protocol")),
                "DONE" => {
                    let has = |name: &str| offered.iter().any(|offered| offered == name);
                    let mechanism = match (has("PLAIN"), has("LOGIN")) {
                        (true, _) => Mechanism::Plain,
                        (false, true) => Mechanism::Login,
                        (false, false) => return Err(broken("it takes neither PLAIN nor LOGIN")),
                    };
                    return Ok(Self { stream, mechanism, id: 0, opened: Instant::now() });
                }
                // SPID, CUID and COOKIE are for masters.
                _ => {}
            }
        }
        Err(broken("its greeting has no end"))
    }

    async fn ask(&mut self, question: Question<'_>) -> io::Result<Answer> {
        self.id = self.id.checked_add(1).ok_or_else(|| broken("no number is left for a request"))?;
        let Question { name, password, client, local } = question;
        // Guesses are counted here; Dovecot's own penalty would make the answer to the third come after the time-out.
        let start = match self.mechanism {
            Mechanism::Plain => {
                let message = [b"\0", name.as_bytes(), b"\0", password].concat();
                format!(
                    "PLAIN\tservice=smtp\tnologin\tno-penalty\tlip={local}\trip={client}\tsecured\tresp={}",
                    STANDARD.encode(message)
                )
            }
            Mechanism::Login => {
                format!("LOGIN\tservice=smtp\tnologin\tno-penalty\tlip={local}\trip={client}\tsecured")
            }
        };
        self.send(format!("AUTH\t{}\t{start}\n", self.id)).await?;
        let mut answers = [name.as_bytes(), password].into_iter();
        loop {
            match self.reply().await? {
                Line::Ok { user } => {
                    return Ok(Answer::Accepted {
                        name: user.unwrap_or_else(|| name.to_owned()),
                        addresses: Vec::new(),
                    });
                }
                Line::Fail { is_temporary: true, why } => {
                    return Ok(Answer::unavailable(
                        why.as_deref().unwrap_or("Dovecot has a temporary problem"),
                    ));
                }
                Line::Fail { is_temporary: false, why } => return Ok(Answer::Rejected { why }),
                Line::NoLogin { why } => return Ok(Answer::Refused { why }),
                Line::Continue => {
                    let next = answers.next().filter(|_| self.mechanism == Mechanism::Login);
                    let next = next.ok_or_else(|| broken("it asks for more than a name and a password"))?;
                    self.send(format!("CONT\t{}\t{}\n", self.id, STANDARD.encode(next))).await?;
                }
            }
        }
    }

    async fn send(&mut self, line: String) -> io::Result<()> {
        self.stream.write_all(line.as_bytes()).await?;
        self.stream.flush().await
    }

    /// The next line about this request; the handshake may be repeated between them, when the service has changed.
    async fn reply(&mut self) -> io::Result<Line> {
        for _ in 0..MOST_GREETING {
            let line = read_line(&mut self.stream).await?;
            if let Some((id, line)) = parse(&line)
                && id == self.id
            {
                return Ok(line);
            }
        }
        Err(broken("it does not answer the request"))
    }
}

/// What a service at the other end of this stream says.
///
/// # Errors
/// When it is none.
#[cfg(fuzzing)]
pub(crate) async fn ask_over(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    question: Question<'_>,
) -> io::Result<Answer> {
    Connection::greet(Box::new(stream)).await?.ask(question).await
}

/// A number that no other client has: the service takes it for that of a process, and refuses a second one. Above those that
/// Linux gives to processes.
fn client_id() -> io::Result<u32> {
    const MOST_PROCESSES: u32 = 1 << 22;
    let mut octets = [0; 4];
    rand::fill(&mut octets).map_err(|_| broken("no random numbers"))?;
    Ok((u32::from_be_bytes(octets) >> 1) | MOST_PROCESSES)
}

async fn read_line(stream: &mut BufReader<Box<dyn Stream>>) -> io::Result<String> {
    let mut line = Vec::new();
    stream.take(LONGEST_LINE).read_until(b'\n', &mut line).await?;
    match line.pop() {
        Some(b'\n') => String::from_utf8(line).map_err(|_| broken("a line is not UTF-8")),
        Some(_) => Err(broken("a line is too long, or broken off")),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn parse(line: &str) -> Option<(u32, Line)> {
    let mut fields = line.split('\t');
    let (verb, id) = (fields.next()?, fields.next()?.parse().ok()?);
    let fields: Vec<(&str, &str)> =
        fields.map(|field| field.split_once('=').unwrap_or((field, ""))).collect();
    let field = |key: &str| fields.iter().find(|(name, _)| *name == key).map(|(_, value)| unescape(value));
    let has = |key: &str| fields.iter().any(|(name, _)| *name == key);
    let line = match verb {
        "OK" if has("temp") => Line::Fail { is_temporary: true, why: field("reason") },
        // The request says `nologin` as well, of another thing, and that is not repeated here.
        "OK" if has("nologin") => Line::NoLogin {
            why: field("reason").unwrap_or_else(|| "Dovecot lets this user not log in (nologin)".to_owned()),
        },
        "OK" => Line::Ok { user: field("user") },
        "CONT" => Line::Continue,
        "FAIL" => {
            let code = field("code").unwrap_or_default();
            let why = field("reason").or_else(|| (!code.is_empty()).then(|| code.clone()));
            let flag = ["user_disabled", "pass_expired", "authz"].into_iter().find(|flag| has(flag));
            Line::Fail {
                is_temporary: has("temp") || code == "temp_fail",
                why: why.or_else(|| flag.map(str::to_owned)),
            }
        }
        _ => return None,
    };
    Some((id, line))
}

/// Tabs, line ends, NUL and the escape itself stand behind \001.
fn unescape(text: &str) -> String {
    let mut unescaped = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, character == '\u{1}') {
            (plain, false) => unescaped.push(plain),
            (_, true) => unescaped.extend(characters.next().map(|escaped| match escaped {
                '0' => '\0',
                '1' => '\u{1}',
                't' => '\t',
                'n' => '\n',
                'r' => '\r',
                other => other,
            })),
        }
    }
    unescaped
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::path::Path;

    use tokio::net::UnixListener;
    use tokio::net::unix::OwnedWriteHalf;

    use super::super::tests::question;
    use super::*;

    const GREETING: &str = "VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\t0a\nDONE\n";

    /// One client, who is greeted: what it says from now on, and where to answer.
    async fn greet(
        listener: &UnixListener,
        greeting: &str,
    ) -> (tokio::io::Lines<BufReader<tokio::net::unix::OwnedReadHalf>>, OwnedWriteHalf) {
        let (stream, _) = listener.accept().await.unwrap();
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        assert_eq!(lines.next_line().await.unwrap().unwrap(), "VERSION\t1\t1");
        let id = lines.next_line().await.unwrap().unwrap();
        assert!(id.strip_prefix("CPID\t").unwrap().parse::<u32>().unwrap() >= 1 << 22);
        write.write_all(greeting.as_bytes()).await.unwrap();
        (lines, write)
    }

    fn service(path: &Path) -> (UnixListener, Dovecot) {
        let place = backend::Dovecot { address: path.to_str().unwrap().to_owned() };
        (UnixListener::bind(path).unwrap(), Dovecot::new(&place, 2))
    }

    #[tokio::test]
    async fn several_requests_go_over_one_connection_and_a_new_one_when_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let (listener, dovecot) = service(&folder.path().join("auth"));
        let serve = tokio::spawn(async move {
            let (mut lines, mut write) = greet(&listener, GREETING).await;
            for (id, answer) in [
                (1, "OK\t1\tuser=alice@proseware.test\n"),
                (2, "FAIL\t2\tuser=alice\n"),
                (3, "FAIL\t3\ttemp\n"),
                (4, "OK\t4\tuser=alice\tnologin\treason=moved\n"),
            ] {
                let line = lines.next_line().await.unwrap().unwrap();
                let start = format!(
                    "AUTH\t{id}\tPLAIN\tservice=smtp\tnologin\tno-penalty\tlip=127.0.0.1\trip=127.0.0.1\tsecured\tresp="
                );
                assert_eq!(STANDARD.decode(line.strip_prefix(&start).unwrap()).unwrap(), b"\0alice\0word");
                write.write_all(answer.as_bytes()).await.unwrap();
            }
            drop((lines, write));
            let (mut lines, mut write) = greet(&listener, GREETING).await;
            assert!(lines.next_line().await.unwrap().unwrap().starts_with("AUTH\t1\t"));
            write.write_all(b"OK\t1\tuser=again\n").await.unwrap();
        });
        let ask = || dovecot.ask(question("alice", b"word"));
        let accepted = |name: &str| Answer::Accepted { name: name.to_owned(), addresses: Vec::new() };
        assert_eq!(ask().await, accepted("alice@proseware.test"));
        assert_eq!(ask().await, Answer::Rejected { why: None });
        assert!(matches!(ask().await, Answer::Unavailable { .. }));
        assert_eq!(ask().await, Answer::Refused { why: "moved".to_owned() });
        assert_eq!(ask().await, accepted("again"));
        serve.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_connection_is_left_after_a_while_for_one_to_the_service_as_it_is_now() {
        let folder = tempfile::tempdir().unwrap();
        let (listener, dovecot) = service(&folder.path().join("auth"));
        let serve = tokio::spawn(async move {
            for (name, requests) in [("old", 2), ("new", 1)] {
                let (mut lines, mut write) = greet(&listener, GREETING).await;
                for id in 1..=requests {
                    assert!(lines.next_line().await.unwrap().unwrap().starts_with(&format!("AUTH\t{id}\t")));
                    write.write_all(format!("OK\t{id}\tuser={name}\n").as_bytes()).await.unwrap();
                }
            }
        });
        for expected in ["old", "old", "new"] {
            let answer = dovecot.ask(question("alice", b"word")).await;
            assert_eq!(answer, Answer::Accepted { name: expected.to_owned(), addresses: Vec::new() });
            tokio::time::advance(LONGEST_LIFE / 2).await;
        }
        serve.await.unwrap();
    }

    #[tokio::test]
    async fn login_is_spoken_where_there_is_no_plain() {
        let folder = tempfile::tempdir().unwrap();
        let (listener, dovecot) = service(&folder.path().join("auth"));
        let serve = tokio::spawn(async move {
            let (mut lines, mut write) =
                greet(&listener, "VERSION\t1\t1\nMECH\tLOGIN\tplaintext\nDONE\n").await;
            assert!(lines.next_line().await.unwrap().unwrap().starts_with("AUTH\t1\tLOGIN\tservice=smtp"));
            for expected in ["alice", "word"] {
                write.write_all(b"CONT\t1\tVXNlcm5hbWU6\n").await.unwrap();
                let line = lines.next_line().await.unwrap().unwrap();
                assert_eq!(line, format!("CONT\t1\t{}", STANDARD.encode(expected)));
            }
            write.write_all(b"OK\t1\tuser=alice\n").await.unwrap();
        });
        assert!(matches!(dovecot.ask(question("alice", b"word")).await, Answer::Accepted { .. }));
        serve.await.unwrap();
    }

    #[tokio::test]
    async fn a_service_that_is_none_is_unavailable() {
        for greeting in
            ["VERSION\t2\t0\nDONE\n", "VERSION\t1\t0\nMECH\tSCRAM-SHA-1\nDONE\n", "HTTP/1.1 400\n", "\n"]
        {
            let folder = tempfile::tempdir().unwrap();
            let (listener, dovecot) = service(&folder.path().join("auth"));
            let serve = tokio::spawn(async move { drop(greet(&listener, greeting).await) });
            let answer = dovecot.ask(question("alice", b"word")).await;
            assert!(matches!(answer, Answer::Unavailable { .. }), "{greeting:?}: {answer:?}");
            serve.await.unwrap();
        }
    }

    #[test]
    fn lines_are_read() {
        let fail = |is_temporary, why: Option<&str>| Line::Fail { is_temporary, why: why.map(str::to_owned) };
        for (line, expected) in [
            ("OK\t7\tuser=a\u{1}tb", Some((7, Line::Ok { user: Some("a\tb".to_owned()) }))),
            (
                "OK\t7\tuser=a\tnologin\treason=gone fishing",
                Some((7, Line::NoLogin { why: "gone fishing".to_owned() })),
            ),
            ("OK\t7\tuser=a\tnologin\ttemp\treason=moving", Some((7, fail(true, Some("moving"))))),
            ("FAIL\t7\tuser=a\tcode=temp_fail", Some((7, fail(true, Some("temp_fail"))))),
            ("FAIL\t7\tuser=a\tuser_disabled", Some((7, fail(false, Some("user_disabled"))))),
            ("FAIL\t7\treason=gone fishing", Some((7, fail(false, Some("gone fishing"))))),
            ("CONT\t7\t", Some((7, Line::Continue))),
            ("OK\tx", None),
            ("", None),
        ] {
            assert_eq!(parse(line), expected, "{line:?}");
        }
    }
}
