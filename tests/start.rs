//! What works while the queue is still being loaded. A test holds the loading up for as long as it likes: a named pipe in the
//! place of a file lets whoever reads it wait until somebody has written.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use rustix::fs::{CWD, Mode, OFlags, mkfifoat};

use crate::harness::client::message;
use crate::harness::daemon::PASSWORD;
use crate::harness::{Client, Daemon, NextHop, Script, Setup, eventually};

const ALICE: &str = "alice@proseware.test";
const CAROL: &str = "carol@adatum.test";

/// A file whose reader waits until the test lets it go on.
struct Held {
    path: PathBuf,
    content: Vec<u8>,
}

impl Held {
    fn new(path: PathBuf, content: Vec<u8>) -> Self {
        let _ = fs::remove_file(&path);
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        Self { path, content }
    }

    /// Standing rules are read last, when all messages are known.
    fn rules(spool: &Path) -> Self {
        Self::new(spool.join("rules.json"), br#"{"version":1,"next_id":1,"rules":[]}"#.to_vec())
    }

    /// The index is asked first.
    fn index(spool: &Path) -> Self {
        let path = spool.join("index/conf");
        let content = fs::read(&path).unwrap();
        Self::new(path, content)
    }

    /// Waits until it is being read, and lets its reader go on. From now on it is a file like any other.
    fn release(&self) {
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(OFlags::NONBLOCK.bits() as i32);
        // Without a reader there is nobody to write to (ENXIO).
        let mut pipe = eventually("somebody to read", || options.open(&self.path).ok());
        let file = self.path.with_extension("new");
        fs::write(&file, &self.content).unwrap();
        fs::rename(file, &self.path).unwrap();
        // Who asks for the length first has seen none, and may be gone.
        let _ = pipe.write_all(&self.content);
    }
}

fn submit(daemon: &Daemon, subject: &str) -> String {
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    client.deliver(ALICE, &[CAROL], &message(ALICE, CAROL, subject, "hello")).queue_id()
}

/// A daemon that does not run, with one message in its queue for a host that is down.
fn with_a_message(hop: &mut NextHop) -> (Daemon, String) {
    let mut daemon = Setup::new().next_hop("adatum.test", hop).start();
    hop.go_down();
    let id = submit(&daemon, "before");
    daemon.wait_in_queue("a deferred message", |m| m["state"] == "deferred");
    assert!(daemon.terminate().success());
    (daemon, id)
}

#[test]
fn clients_and_operators_are_answered_while_the_queue_is_loaded() {
    let mut hop = NextHop::start(Script::default());
    let (mut daemon, id) = with_a_message(&mut hop);
    hop.come_up();
    let rules = Held::rules(&daemon.folder().join("spool"));
    daemon.launch();

    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    client.expect("NOOP", 250);
    let loading = "the queue is being loaded: 1 messages so far";
    eventually("the message to be read", || {
        let status = daemon.ctl(&["status", "--json"]);
        assert_eq!(status.code, 1, "{status:?}");
        (status.json()["loading"] == 1).then_some(())
    });
    let status = daemon.ctl(&["status"]);
    assert!(status.stdout.starts_with("loading  mail.proseware.test"), "{status:?}");
    assert!(status.stdout.contains(&format!("problem: {loading}\n")), "{status:?}");
    for arguments in [
        &["queue", "list"][..],
        &["queue", "show", &id],
        &["queue", "hold", "--all", "--yes"],
        &["rule", "list"],
    ] {
        let refused = daemon.ctl(arguments);
        assert!(refused.code == 4 && refused.stderr.contains(loading), "{refused:?}");
    }
    let metrics = daemon.ctl(&["metrics"]);
    assert!(metrics.code == 0 && metrics.stdout.contains("postern_smtp_connections_total"), "{metrics:?}");
    // A reload counts for what is loaded.
    daemon.hang_up();
    daemon.wait_for("reloaded", |_| true);

    // The reply to NOOP comes when MAIL begins to wait.
    client.send(format!("NOOP\r\nMAIL FROM:<{ALICE}>\r\n").as_bytes());
    client.expect_reply(250);
    assert!(hop.received().is_empty(), "nothing is delivered before the queue is loaded");
    rules.release();
    client.expect_reply(250);
    client.expect(&format!("RCPT TO:<{CAROL}>"), 250);
    assert_eq!(client.content(&message(ALICE, CAROL, "after", "hello")).code, 250);
    let recovered = daemon.wait_for("recovered", |_| true);
    assert_eq!(recovered["messages"], 1);
    let ready = daemon.wait_for("ready", |_| true);
    let at = |event: &serde_json::Value| event["timestamp"].as_str().unwrap().to_owned();
    let listening = daemon.wait_for("listening", |line| line["listener"] == "submissions");
    assert!(at(&listening) <= at(&recovered) && at(&recovered) <= at(&ready));
    daemon.wait_for_empty_queue();
    let mut subjects: Vec<String> =
        hop.received().iter().map(|m| m.mail.field("Subject").to_owned()).collect();
    subjects.sort();
    assert_eq!(subjects, ["after", "before"]);
    assert_eq!(daemon.ctl(&["status"]).code, 0);
}

#[test]
fn a_server_that_is_told_to_stop_does_not_wait_for_its_queue() {
    let mut hop = NextHop::start(Script::default());
    let (mut daemon, id) = with_a_message(&mut hop);
    let rules = Held::rules(&daemon.folder().join("spool"));
    daemon.launch();
    let mut idle = Client::connect(daemon.mx());
    let mut waiting = Client::connect(daemon.mx());
    waiting.ehlo();
    waiting.send(b"NOOP\r\nMAIL FROM:<>\r\n");
    waiting.expect_reply(250);
    let ends = thread::spawn(move || {
        let deferred = waiting.reply().text();
        (deferred, [waiting.reply().text(), idle.reply().text()], waiting.is_closed() && idle.is_closed())
    });
    assert!(daemon.terminate().success());
    let (deferred, farewells, are_closed) = ends.join().unwrap();
    assert_eq!(deferred, "451 4.3.2 the queue is being loaded, try again later");
    assert_eq!(farewells, ["421 4.3.2 service is shutting down, try again later"; 2].map(str::to_owned));
    assert!(are_closed);
    fs::remove_file(rules.path).unwrap();
    daemon.start();
    assert_eq!(daemon.queue()[0]["id"], id.as_str());
}

#[test]
fn a_spool_that_cannot_be_read_ends_the_start_with_the_reason() {
    let mut hop = NextHop::start(Script::default());
    let (mut daemon, id) = with_a_message(&mut hop);
    let spool = daemon.folder().join("spool");
    // The newest segment is opened for writing, which the system refuses for a program that runs.
    let segment = spool.join("log/seg-000fffff00000001.log");
    fs::copy("/bin/cat", &segment).unwrap();
    // It ends with its input, and so at the latest with this process.
    let mut running = Command::new(&segment)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let index = Held::index(&spool);
    daemon.launch();
    let mut client = Client::connect(daemon.mx());
    client.ehlo();
    index.release();
    assert!(client.reply().text().starts_with("421 4.3.2 "));
    let failed = daemon.wait_for("failed", |_| true);
    let text = failed["message"].as_str().unwrap();
    let expected = format!("opening the spool {}: opening {}: ", spool.display(), segment.display());
    assert!(text.starts_with(&expected), "{text}");
    assert_eq!(daemon.finish().code(), Some(1));

    drop(running.stdin.take());
    running.wait().unwrap();
    fs::remove_file(segment).unwrap();
    daemon.start();
    assert_eq!(daemon.queue()[0]["id"], id.as_str());
}
