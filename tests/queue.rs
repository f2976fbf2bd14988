//! What waits and what becomes of it: retries, reports, expiry, the operator's verbs, a full disk.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::client::message;
use crate::harness::daemon::PASSWORD;
use crate::harness::mail::{Dsn, contains};
use crate::harness::{Action, Client, Daemon, NextHop, Script, Setup, eventually, is_root, say};

const ALICE: &str = "alice@proseware.test";
const CAROL: &str = "carol@adatum.test";

/// A server whose mail for adatum.test goes to the next hop.
fn sending_to(hop: &NextHop) -> Daemon {
    Setup::new().next_hop("adatum.test", hop).start()
}

/// Submits a message as alice; answers its queue id.
fn submit(daemon: &Daemon, to: &[&str], subject: &str) -> String {
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    let reply = client.deliver(ALICE, to, &message(ALICE, to[0], subject, "hello"));
    assert_eq!(reply.code, 250, "{}", reply.text());
    reply.queue_id()
}

/// The report about a message that alice sent.
fn report(daemon: &Daemon, about: &str) -> Dsn {
    let mail = daemon.maildir(ALICE).wait_for(about);
    assert_eq!(mail.field("Return-Path"), "<>");
    assert_eq!(mail.field("To").trim_matches(['<', '>']), ALICE);
    assert!(mail.field("From").to_lowercase().contains("mailer-daemon"), "{}", mail.header());
    Dsn::parse(&mail)
}

#[test]
fn deferred_mail_is_shown_in_the_queue_and_delivered_by_a_retry() {
    let hop =
        NextHop::start(Script::default().reply("RCPT", "451 4.3.0 <carol@adatum.test> come back later"));
    let daemon = sending_to(&hop);
    let id = submit(&daemon, &[CAROL], "patience");
    let waiting = daemon.wait_in_queue("a deferred message", |m| m["state"] == "deferred");
    assert_eq!(waiting["id"], id.as_str());
    assert_eq!(waiting["sender"], ALICE);
    let recipient = &waiting["recipients"][0];
    assert_eq!(recipient["address"], CAROL);
    assert_eq!(recipient["state"], "deferred");
    assert_eq!(recipient["status"], "4.3.0");
    assert!(recipient["text"].as_str().unwrap().contains("come back later"), "{recipient}");
    assert!(recipient["attempts"].as_u64().unwrap() >= 1);
    assert!(recipient["next_attempt"].as_u64() >= recipient["last_attempt"].as_u64());
    assert!(recipient["host"].as_str().unwrap().contains("mx.adatum.test"), "{recipient}");

    hop.set_script(Script::default());
    assert!(contains(&hop.wait_for_message().mail.0, "patience"));
    daemon.wait_for_empty_queue();
    assert_eq!(hop.received().len(), 1);
    assert!(daemon.maildir(ALICE).messages().is_empty());
}

#[test]
fn a_delivery_that_makes_no_progress_gives_its_slot_to_the_next() {
    let hop = NextHop::start(Script::default().times(1, ".", Action::Hang));
    // Far below the ten minutes that the reply to the final dot may take.
    let limits =
        "[queue]\nstall_limit = \"2s\"\n[outbound]\nmax_per_destination = 1\ninitial_per_destination = 1";
    let daemon = Setup::new().next_hop("adatum.test", &hop).with(limits).start();
    let wedged = submit(&daemon, &[CAROL], "wedged");
    let active = daemon.wait_in_queue("an attempt that waits", |m| m["attempt"]["step"] == "content sent");
    assert_eq!(
        (&active["id"], &active["attempt"]["destination"]),
        (&wedged.clone().into(), &"mx adatum.test".into())
    );
    let shown = daemon.ctl(&["queue", "show", &wedged]).stdout;
    assert!(shown.contains("mx adatum.test, for ") && shown.contains("; content sent "), "{shown}");
    submit(&daemon, &[CAROL], "next in line");

    let stalled = daemon.wait_for("stalled", |line| line["id"] == wedged.as_str());
    assert_eq!(
        (&stalled["destination"], &stalled["step"]),
        (&"mx adatum.test".into(), &"content sent".into())
    );
    assert!(contains(&hop.wait_for_message().mail.0, "next in line"));
    daemon.wait_in_queue("a strike", |m| m["id"] == wedged.as_str() && m["state"] == "deferred");
    let metrics = daemon.ctl(&["metrics"]).stdout;
    assert!(metrics.contains("postern_queue_stalls_total 1\n"), "{metrics}");
    assert!(metrics.contains("postern_queue_forced_ends_total 0\n"), "{metrics}");
    assert_eq!(daemon.change_queue(&["retry", "--id", &wedged]), 1);
    hop.wait_for_count(2);
    daemon.wait_for_empty_queue();
}

#[test]
fn a_refused_recipient_is_reported_to_the_sender() {
    let hop = NextHop::start(
        Script::default().reply("RCPT", "550-5.1.1 no such user here\r\n550 5.1.1 see the list"),
    );
    let daemon = sending_to(&hop);
    submit(&daemon, &[CAROL], "undeliverable");
    let dsn = report(&daemon, "undeliverable");
    assert!(dsn.text.contains(CAROL) && dsn.text.contains("no such user here"), "{}", dsn.text);
    assert_eq!(dsn.message.field("Reporting-MTA"), "dns; mail.proseware.test");
    let [recipient] = dsn.recipients.as_slice() else { panic!("{dsn:?}") };
    assert_eq!(recipient.field("Final-Recipient"), format!("rfc822; {CAROL}"));
    assert_eq!(recipient.field("Action"), "failed");
    assert_eq!(recipient.field("Status"), "5.1.1");
    assert!(recipient.field("Diagnostic-Code").starts_with("smtp; 550"), "{dsn:?}");
    assert!(recipient.field("Remote-MTA").contains("mx.adatum.test"), "{dsn:?}");
    assert!(contains(&dsn.returned, "Subject: undeliverable"));
    daemon.wait_for_empty_queue();
    assert_eq!(daemon.maildir(ALICE).messages().len(), 1);
}

#[test]
fn null_sender_gets_no_dsn() {
    let hop = NextHop::start(Script::default().reply("RCPT", "550 5.1.1 no such user here"));
    let daemon = sending_to(&hop);
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    assert_eq!(client.deliver("", &[CAROL], &message(ALICE, CAROL, "receipt", "hello")).code, 250);
    hop.wait_for_command("RCPT", 1);
    daemon.wait_for_empty_queue();
    // Reports about two messages are written in order: were there one about the first, it would be here by now.
    submit(&daemon, &[CAROL], "with-a-sender");
    report(&daemon, "with-a-sender");
    daemon.wait_for_empty_queue();
    assert_eq!(daemon.maildir(ALICE).messages().len(), 1);
    assert!(daemon.maildir("postmaster@proseware.test").messages().is_empty());
}

#[test]
fn what_cannot_be_delivered_in_its_lifetime_is_returned() {
    let hop = NextHop::start(Script::default().reply("RCPT", "451 4.2.1 mailbox busy"));
    let daemon = Setup::new().next_hop("adatum.test", &hop).with("[queue]\nlifetime = \"1500ms\"").start();
    submit(&daemon, &[CAROL], "expired");
    let dsn = report(&daemon, "expired");
    assert_eq!(dsn.recipients[0].field("Action"), "failed");
    assert_eq!(dsn.recipients[0].field("Status"), "4.4.7");
    assert!(dsn.recipients[0].field("Diagnostic-Code").contains("mailbox busy"), "{dsn:?}");
    daemon.wait_for_empty_queue();
}

#[test]
fn a_delay_is_reported_once() {
    let hop = NextHop::start(Script::default().reply("RCPT", "451 4.2.1 mailbox busy"));
    let daemon = Setup::new().next_hop("adatum.test", &hop).with("[queue]\ndelay_notice = \"300ms\"").start();
    submit(&daemon, &[CAROL], "delayed");
    let dsn = report(&daemon, "delayed");
    assert_eq!(dsn.recipients[0].field("Action"), "delayed");
    assert!(!dsn.recipients[0].fields("Will-Retry-Until").is_empty(), "{dsn:?}");
    // Several more attempts, and still one notice.
    hop.wait_for_command("RCPT", 6);
    assert_eq!(daemon.maildir(ALICE).messages().len(), 1);
}

#[test]
fn a_host_that_cannot_be_reached_is_named_with_address_port_and_reason() {
    let hop = NextHop::start(Script::default());
    let daemon = sending_to(&hop);
    let address = hop.address();
    drop(hop);
    let id = submit(&daemon, &[CAROL], "nobody listens");
    let waiting = daemon.wait_in_queue("a deferred message", |m| m["state"] == "deferred");
    let expected = format!("connection failed: mx.adatum.test ({address}): connection refused");
    assert_eq!(waiting["recipients"][0]["text"], expected);
    let deferred = daemon.wait_for("deferred", |line| line["id"] == id.as_str());
    assert!(deferred.to_string().contains(&expected), "{deferred}");
    for command in [&["queue", "list"][..], &["queue", "show", &id]] {
        let shown = daemon.ctl(command).stdout;
        assert!(shown.contains(&expected), "{shown}");
    }
}

#[test]
fn held_messages_wait_over_a_restart_until_they_are_released() {
    let hop = NextHop::start(Script::default().reply("RCPT", "451 4.2.1 mailbox busy"));
    let mut daemon = sending_to(&hop);
    let id = submit(&daemon, &[CAROL], "held");
    daemon.wait_in_queue("a deferred message", |m| m["state"] == "deferred");
    // Also while it is being tried.
    assert_eq!(daemon.change_queue(&["hold", "--id", &id, "--reason", "looks odd", "--wait", "30"]), 1);
    hop.set_script(Script::default());
    daemon.restart();
    let held = daemon.wait_in_queue("the held message", |m| m["state"] == "held");
    assert_eq!(held["held"], "looks odd");
    // Another message passes it by.
    submit(&daemon, &[CAROL], "free");
    assert!(contains(&hop.wait_for_message().mail.0, "free"));
    eventually("only the held message", || (daemon.queue().len() == 1).then_some(()));
    assert_eq!(daemon.change_queue(&["release", "--id", &id]), 1);
    assert!(contains(&hop.wait_for_count(2)[1].mail.0, "held"));
    daemon.wait_for_empty_queue();
}

#[test]
fn retry_makes_waiting_messages_due_now() {
    let hop =
        NextHop::start(Script::default().times(1, "RCPT", Action::Reply("451 4.2.1 mailbox busy".into())));
    let slow = "[queue.retry]\nfirst = \"1h\"\ncap = \"4h\"";
    let daemon = Setup::new().next_hop("adatum.test", &hop).with(slow).start();
    let id = submit(&daemon, &[CAROL], "impatient");
    daemon.wait_in_queue("a deferred message", |m| m["state"] == "deferred");
    eventually("a retry", || (daemon.change_queue(&["retry", "--id", &id]) == 1).then_some(()));
    hop.wait_for_message();
    daemon.wait_for_empty_queue();
}

#[test]
fn fail_returns_messages_with_the_reason_of_the_operator() {
    let hop = NextHop::start(Script::default().reply("RCPT", "451 4.2.1 mailbox busy"));
    let daemon = sending_to(&hop);
    submit(&daemon, &[CAROL], "given-up");
    daemon.wait_in_queue("a deferred message", |m| m["state"] == "deferred");
    let arguments = ["fail", "--rcpt-domain", "adatum.test", "--reason", "the customer has left", "--yes"];
    assert_eq!(daemon.change_queue(&arguments), 1);
    let dsn = report(&daemon, "given-up");
    assert!(dsn.text.contains("the customer has left"), "{}", dsn.text);
    assert_eq!(dsn.recipients[0].field("Action"), "failed");
    daemon.wait_for_empty_queue();
}

#[test]
fn drop_removes_messages_without_a_report_and_filters_choose() {
    let hop = NextHop::start(Script::default().reply("RCPT", "451 4.2.1 mailbox busy"));
    let daemon = sending_to(&hop);
    submit(&daemon, &[CAROL], "first");
    submit(&daemon, &["dave@adatum.test"], "second");
    eventually("two deferred messages", || {
        let queue = daemon.queue();
        (queue.len() == 2 && queue.iter().all(|m| m["state"] == "deferred")).then_some(())
    });
    let matched = |filter: &[&str]| {
        let list = daemon.ask(&[&["queue", "list"], filter].concat());
        list["messages"].as_array().unwrap().len()
    };
    assert_eq!(matched(&["--rcpt", CAROL]), 1);
    assert_eq!(matched(&["--rcpt-domain", "adatum.test"]), 2);
    assert_eq!(matched(&["--sender", "@proseware.test"]), 2);
    assert_eq!(matched(&["--sender", "bob@proseware.test"]), 0);
    assert_eq!(matched(&["--account", ALICE]), 2);
    assert_eq!(matched(&["--code", "4.2."]), 2);
    assert_eq!(matched(&["--older", "1h"]), 0);
    assert_eq!(matched(&["--dsn"]), 0);

    // Without a filter nothing is changed.
    let output = daemon.ctl(&["queue", "drop", "--reason", "oops", "--yes"]);
    assert_eq!(output.code, 2, "{output:?}");
    assert_eq!(daemon.queue().len(), 2);
    let dry = daemon.ask(&["queue", "drop", "--rcpt", CAROL, "--reason", "spam", "--dry-run"]);
    assert_eq!((&dry["matched"], &dry["dry_run"]), (&1.into(), &true.into()));
    assert_eq!(daemon.queue().len(), 2);

    let arguments = ["drop", "--rcpt", CAROL, "--reason", "spam", "--yes", "--wait", "30"];
    assert_eq!(daemon.change_queue(&arguments), 1);
    let left = daemon.queue();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["recipients"][0]["address"], "dave@adatum.test");
    let arguments = ["drop", "--all", "--reason", "spam", "--yes"];
    assert_eq!(daemon.change_queue(&arguments), 1);
    daemon.wait_for_empty_queue();
    assert!(daemon.maildir(ALICE).messages().is_empty());
    assert!(hop.received().is_empty());
}

#[test]
fn count_show_and_cat_tell_what_list_does_not() {
    let hop = NextHop::start(Script::default().reply("RCPT", "451 4.2.1 mailbox busy"));
    let daemon = sending_to(&hop);
    let id = submit(&daemon, &[CAROL, "dave@adatum.test"], "shown");
    daemon.wait_in_queue("a deferred message", |m| m["state"] == "deferred");
    let counts = daemon.ask(&["queue", "count", "--group-by", "domain"]);
    let group = &counts["groups"][0];
    assert_eq!((&group["key"], &group["messages"]), (&"adatum.test".into(), &1.into()));
    assert_eq!(group["recipients"], 2);
    let shown = daemon.ask(&["queue", "show", &id]);
    assert_eq!(shown["message"]["recipients"].as_array().unwrap().len(), 2);
    let output = daemon.ctl(&["queue", "cat", &id, "--headers"]);
    assert!(output.stdout.contains("Subject: shown") && !output.stdout.contains("hello"), "{output:?}");
    let output = daemon.ctl(&["queue", "cat", &id]);
    assert!(output.stdout.contains("hello"), "{output:?}");
    assert_ne!(daemon.ctl(&["queue", "show", "0000000000000"]).code, 0);
    // What people read, not promised in form: the address and what the other side said.
    let output = daemon.ctl(&["queue", "list"]);
    assert!(output.stdout.contains(&id) && output.stdout.contains(CAROL), "{output:?}");
}

#[test]
fn waiting_messages_survive_restarts_and_kills() {
    let mut hop = NextHop::start(Script::default());
    let mut daemon = sending_to(&hop);
    hop.go_down();
    let ids: Vec<String> = (0..5).map(|n| submit(&daemon, &[CAROL], &format!("kept-{n}"))).collect();
    daemon.restart();
    daemon.kill();
    daemon.start();
    let mut found: Vec<String> =
        daemon.queue().iter().map(|m| m["id"].as_str().unwrap().to_owned()).collect();
    found.sort();
    assert_eq!(found, ids);
    hop.come_up();
    hop.wait_for_count(5);
    daemon.wait_for_empty_queue();
    assert_eq!(hop.received().len(), 5);
}

#[test]
fn an_index_that_is_garbage_gone_or_empty_costs_nothing() {
    let mut hop = NextHop::start(Script::default());
    let mut daemon = sending_to(&hop);
    hop.go_down();
    let ids: Vec<String> = (0..5).map(|n| submit(&daemon, &[CAROL], &format!("indexed-{n}"))).collect();
    let index = daemon.folder().join("spool/index");
    for damage in ["garbage", "gone", "empty"] {
        assert!(daemon.terminate().success());
        for file in files_below(&index) {
            match damage {
                "garbage" => std::fs::write(&file, vec![0xa5; 70_000]).unwrap(),
                _ => std::fs::remove_file(&file).unwrap(),
            }
        }
        if damage == "gone" {
            std::fs::remove_dir_all(&index).unwrap();
        }
        daemon.start();
        let mut found: Vec<String> =
            daemon.queue().iter().map(|m| m["id"].as_str().unwrap().to_owned()).collect();
        found.sort();
        assert_eq!(found, ids, "{damage}");
    }
    hop.come_up();
    assert_eq!(hop.wait_for_count(5).len(), 5);
    daemon.wait_for_empty_queue();
}

#[test]
fn a_damaged_message_stops_neither_the_start_nor_the_others() {
    let mut hop = NextHop::start(Script::default());
    let mut daemon = sending_to(&hop);
    hop.go_down();
    for n in 0..5 {
        submit(&daemon, &[CAROL], &format!("damaged-{n}"));
    }
    daemon.kill();
    let needle = b"Subject: damaged-2\r\n";
    let segment = files_below(&daemon.folder().join("spool/log")).into_iter().find_map(|file| {
        let content = std::fs::read(&file).unwrap();
        let at = content.windows(needle.len()).position(|window| window == needle)?;
        Some((file, content, at))
    });
    let (file, mut content, at) = segment.expect("the message in the log");
    content[at] ^= 0x20;
    std::fs::write(&file, content).unwrap();

    daemon.start();
    hop.come_up();
    let received = hop.wait_for_count(4);
    assert!(
        received.iter().all(|message| !contains(&message.mail.0, "amaged-2")),
        "a changed message was sent"
    );
    // It is not silently gone: it was set aside and counted, or still stands in the queue with what is wrong with it.
    let status = daemon.ask(&["status"]);
    let seen = status["queue"]["damaged"].as_u64().unwrap() + status["queue"]["messages"].as_u64().unwrap();
    assert!(seen >= 1, "{status}");
    submit(&daemon, &[CAROL], "after-the-damage");
    hop.wait_for_count(5);
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn a_second_daemon_cannot_take_the_same_spool() {
    let mut daemon = Setup::new().start();
    let output = Command::new(env!("CARGO_BIN_EXE_posternd"))
        .args(["run", "--config"])
        .arg(daemon.config())
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("spool"), "{output:?}");
    assert!(daemon.is_running());
    submit(&daemon, &[ALICE], "undisturbed");
    daemon.maildir(ALICE).wait_for("undisturbed");
}

#[test]
fn a_full_queue_refuses_new_mail_until_there_is_room() {
    let mut hop = NextHop::start(Script::default());
    let daemon = Setup::new().next_hop("adatum.test", &hop).with("[queue]\nmax_messages = 2").start();
    hop.go_down();
    submit(&daemon, &[CAROL], "one");
    submit(&daemon, &[CAROL], "two");
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    let reply = client.expect(&format!("MAIL FROM:<{ALICE}>"), 452);
    assert!(reply.text().starts_with("452 4.3.1"), "{}", reply.text());
    hop.come_up();
    hop.wait_for_count(2);
    eventually("room", || (client.command(&format!("MAIL FROM:<{ALICE}>")).code == 250).then_some(()));
}

#[test]
fn a_full_disk_costs_no_message() {
    let Some(disk) = SmallDisk::mount(24) else { return };
    let mut hop = NextHop::start(Script::default());
    let limits = "min_free_space = \"6MiB\"\nsegment_size = \"1MiB\"\ninline_limit = \"64KiB\"";
    let queue = format!("[queue]\npath = \"{}\"\n{limits}", disk.path.join("spool").display());
    let mut daemon = Setup::new()
        .next_hop("adatum.test", &hop)
        .with(&queue)
        .with("[smtp]\nmax_message_size = \"1MiB\"")
        .start();
    hop.go_down();

    let mut accepted = fill(&daemon);
    assert!(accepted > 10, "only {accepted} messages before the disk was full");
    assert!(daemon.is_running());
    assert_eq!(daemon.queue().len(), accepted);

    // Even when somebody else takes the rest, what was accepted stays, over a restart too.
    let ballast = disk.path.join("ballast");
    let _ = std::fs::write(&ballast, vec![0; 24 << 20]);
    assert!(matches!(try_submit(&daemon, accepted).code(), 400..500));
    std::fs::remove_file(&ballast).unwrap();
    daemon.kill();
    daemon.start();
    assert_eq!(daemon.queue().len(), accepted);

    hop.come_up();
    hop.wait_for_count(accepted);
    daemon.wait_for_empty_queue();
    // Space comes back without a restart.
    eventually("space for new mail", || (try_submit(&daemon, accepted).code() == 250).then_some(()));
    accepted += 1;
    let received = hop.wait_for_count(accepted);
    for n in 0..accepted {
        let subject = format!("ballast-{n:04}");
        let copies = received.iter().filter(|message| message.mail.field("Subject") == subject).count();
        assert_eq!(copies, 1, "{subject}");
    }
}

/// Submits messages of various sizes until one is refused, which must be for want of space; answers how many there were.
fn fill(daemon: &Daemon) -> usize {
    for n in 0..10_000 {
        let answer = try_submit(daemon, n);
        if answer.code() != 250 {
            assert!(answer.0.starts_with("452 4.3.1"), "{}", answer.0);
            return n;
        }
    }
    panic!("the disk never became full")
}

/// The last reply to a message.
struct Answer(String);

impl Answer {
    fn code(&self) -> u16 {
        self.0[..3].parse().unwrap()
    }
}

fn try_submit(daemon: &Daemon, n: usize) -> Answer {
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    let reply = client.command(&format!("MAIL FROM:<{ALICE}>"));
    if reply.code != 250 {
        return Answer(reply.text());
    }
    client.expect(&format!("RCPT TO:<{CAROL}>"), 250);
    // Small ones go into the log, every fourth into a file of its own.
    let length = if n % 4 == 3 { 3000 } else { 300 };
    let body = "0123456789012345678901234567890123456789012345678901234567890123456789\r\n".repeat(length);
    Answer(client.content(&message(ALICE, CAROL, &format!("ballast-{n:04}"), &body)).text())
}

/// A filesystem of a few MiB.
pub struct SmallDisk {
    pub path: PathBuf,
    _folder: tempfile::TempDir,
}

impl SmallDisk {
    /// `None` where mounting is not permitted, which is said.
    pub fn mount(mib: usize) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let options = format!("size={mib}m");
        let mount = |path: &Path| {
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).output()
        };
        if is_root() && mount(&path).is_ok_and(|output| output.status.success()) {
            return Some(Self { path, _folder: folder });
        }
        say("skipped: a full disk: mounting a tmpfs is not permitted");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the daemon of a test that failed may still have files open.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
