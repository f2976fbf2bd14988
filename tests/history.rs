//! What became of a message after it left, and what happens at this moment.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;

use crate::harness::client::message;
use crate::harness::daemon::PASSWORD;
use crate::harness::{Action, Client, Daemon, NextHop, Script, Setup, eventually};
use crate::queue::SmallDisk;

const ALICE: &str = "alice@proseware.test";
const CAROL: &str = "carol@adatum.test";

fn sending_to(hop: &NextHop) -> Daemon {
    Setup::new().next_hop("adatum.test", hop).start()
}

/// Submits a message as alice, with this name in its Message-ID; answers its queue id.
fn submit(daemon: &Daemon, to: &[&str], name: &str) -> String {
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    let reply = client.deliver(ALICE, to, &message(ALICE, to[0], name, "confidential"));
    assert_eq!(reply.code, 250, "{}", reply.text());
    reply.queue_id()
}

/// What is known, as JSON.
fn history(daemon: &Daemon, key: &str) -> Json {
    let output = daemon.ctl(&["message", "history", key, "--json"]);
    assert!(matches!(output.code, 0 | 1), "{output:?}");
    let answer = output.json();
    assert_eq!(answer["messages"] == Json::Array(Vec::new()), output.code == 1, "{output:?}");
    answer
}

/// The kinds of the events of a message.
fn kinds(story: &Json) -> Vec<&str> {
    story["events"].as_array().unwrap().iter().map(|event| event["event"].as_str().unwrap()).collect()
}

fn ids(history: &Json) -> Vec<&str> {
    history["messages"].as_array().unwrap().iter().map(|story| story["id"].as_str().unwrap()).collect()
}

/// Waits until the journal has an event of this kind about a message.
fn wait_for(daemon: &Daemon, id: &str, kind: &str) -> Json {
    eventually(&format!("{kind} in the history of {id}"), || {
        let history = history(daemon, id);
        let story = history["messages"].as_array().unwrap().iter().find(|story| story["id"] == id)?.clone();
        kinds(&story).contains(&kind).then_some(story)
    })
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn journal(daemon: &Daemon) -> PathBuf {
    daemon.folder().join("spool/history")
}

fn metric(daemon: &Daemon, name: &str) -> f64 {
    let text = daemon.ctl(&["metrics"]).stdout;
    let lines = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

#[test]
fn a_delivered_message_is_found_by_everything_that_is_known_of_it() {
    let hop = NextHop::start(Script::default());
    let daemon = sending_to(&hop);
    let id = submit(&daemon, &[CAROL], "first");
    wait_for(&daemon, &id, "delivered");
    daemon.wait_for_empty_queue();
    for key in [&id, "first@client.test", "<first@client.test>", "Carol@Adatum.test", ALICE, "@adatum.test"] {
        let history = history(&daemon, key);
        assert_eq!(ids(&history), [id.as_str()], "{key}");
        let story = &history["messages"][0];
        assert_eq!(kinds(story), ["delivered"]);
        assert_eq!((&story["sender"], &story["queued"]), (&ALICE.into(), &Json::Null));
        let event = &story["events"][0];
        assert_eq!(event["recipients"][0]["address"], CAROL);
        assert!(event["host"].as_str().unwrap().contains("mx.adatum.test"), "{event}");
        assert!(event["reply"].as_str().unwrap().starts_with("250"), "{event}");
        assert!(story["accepted"].as_u64() <= event["time"].as_u64());
    }
    let output = daemon.ctl(&["message", "history", CAROL]);
    for text in ["accepted", "has left the queue", "delivered  carol@adatum.test to mx.adatum.test", ": 250"]
    {
        assert!(output.stdout.contains(text), "{output:?}");
    }
    let lines = daemon.ctl(&["message", "history", &id, "--jsonl", "--since", "1h"]);
    assert_eq!(serde_json::from_str::<Json>(&lines.stdout).unwrap()["id"], id.as_str());
    assert_eq!(metric(&daemon, "postern_history_events_total"), 1.0);

    // A line of the journal is small, and tells nothing of the content.
    let [file] = &files(&journal(&daemon))[..] else { panic!("one file") };
    let text = fs::read_to_string(file).unwrap();
    assert!(text.lines().count() == 1 && text.len() < 420, "{}: {text}", text.len());
    assert!(!text.contains("confidential"), "{text}");
}

#[test]
fn what_is_not_known_ends_with_one_and_says_how_far_back_the_journal_reaches() {
    let hop = NextHop::start(Script::default());
    let daemon = sending_to(&hop);
    let output = daemon.ctl(&["message", "history", "nobody@adatum.test"]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("the journal is empty"), "{output:?}");
    let id = submit(&daemon, &[CAROL], "known");
    wait_for(&daemon, &id, "delivered");
    let output = daemon.ctl(&["message", "history", "nobody@adatum.test"]);
    assert_eq!((output.code, output.stdout.as_str()), (1, ""));
    assert!(output.stderr.contains("the journal reaches back to 2"), "{output:?}");
    // It is known, and nothing happened to it then.
    let output = daemon.ctl(&["message", "history", &id, "--until", "1h"]);
    assert_eq!(output.code, 1, "{output:?}");
    assert_eq!(daemon.ctl(&["message", "history", "<>"]).code, 2);
    assert_eq!(daemon.ctl(&["message", "history", &id, "--limit", "0"]).code, 2);
}

#[test]
fn a_message_that_still_waits_says_so_and_its_attempts_are_told_after_it_left() {
    let busy = Action::Reply("451 4.2.1 mailbox busy".into());
    let hop = NextHop::start(Script::default().on("RCPT", busy));
    let daemon = sending_to(&hop);
    let id = submit(&daemon, &[CAROL], "patience");
    let story = wait_for(&daemon, &id, "deferred");
    assert_eq!(story["queued"]["id"], id.as_str(), "{story}");
    assert!(story["events"][0]["reply"].as_str().unwrap().contains("mailbox busy"), "{story}");
    let output = daemon.ctl(&["message", "history", &id]);
    assert!(output.stdout.contains("in the queue, "), "{output:?}");
    hop.set_script(Script::default());
    let story = wait_for(&daemon, &id, "delivered");
    let events = story["events"].as_array().unwrap();
    assert_eq!((kinds(&story)[0], events.last().unwrap()["event"].as_str()), ("deferred", Some("delivered")));
    assert_eq!(events.last().unwrap()["attempts"], events.len());
    daemon.wait_for_empty_queue();
    assert_eq!(history(&daemon, &id)["messages"][0]["queued"], Json::Null);
}

#[test]
fn a_bounce_is_found_by_its_own_id_and_by_that_of_the_report() {
    let hop = NextHop::start(Script::default().reply("RCPT", "550 5.1.1 no such user here"));
    let daemon = sending_to(&hop);
    let id = submit(&daemon, &[CAROL], "undeliverable");
    let story = wait_for(&daemon, &id, "reported");
    assert_eq!(kinds(&story), ["failed", "reported"]);
    assert_eq!(
        (&story["events"][0]["status"], &story["events"][1]["report_kind"]),
        (&"5.1.1".into(), &"failed".into())
    );
    let report = story["events"][1]["report"].as_str().unwrap();
    wait_for(&daemon, report, "delivered");
    daemon.wait_for_empty_queue();
    for key in [&id, report, CAROL] {
        let history = history(&daemon, key);
        assert_eq!(ids(&history), [id.as_str(), report], "{key}");
        let last = &history["messages"][1];
        assert_eq!((&last["about"], &last["sender"]), (&id.as_str().into(), &"".into()));
        assert_eq!(last["events"][0]["recipients"][0]["address"], ALICE);
    }
}

#[test]
fn what_an_operator_dropped_is_told_with_his_reason() {
    let mut hop = NextHop::start(Script::default());
    let daemon = sending_to(&hop);
    hop.go_down();
    let id = submit(&daemon, &[CAROL], "unwanted");
    eventually("a hold", || {
        (daemon.change_queue(&["hold", &id, "--reason", "looks odd"]) == 1).then_some(())
    });
    assert_eq!(daemon.change_queue(&["drop", &id, "--reason", "spam wave"]), 1);
    let story = wait_for(&daemon, &id, "dropped");
    let last = story["events"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["operator"], &last["reply"]), (&true.into(), &"spam wave".into()));
    assert!(kinds(&story).contains(&"held"), "{story}");
    let output = daemon.ctl(&["message", "history", "unwanted@client.test"]);
    assert!(output.stdout.contains("dropped    carol@adatum.test by an operator: spam wave"), "{output:?}");
}

#[test]
fn the_journal_goes_on_after_restarts_and_kills_and_passes_over_damage() {
    let hop = NextHop::start(Script::default());
    let mut daemon = sending_to(&hop);
    let first = submit(&daemon, &[CAROL], "one");
    wait_for(&daemon, &first, "delivered");
    daemon.restart();
    let second = submit(&daemon, &[CAROL], "two");
    // The question has the journal written: kill -9 takes nothing of it.
    wait_for(&daemon, &second, "delivered");
    daemon.kill();
    let [file] = &files(&journal(&daemon))[..] else { panic!("one file") };
    let text = fs::read_to_string(file).unwrap();
    let damage = "\u{0}\u{0}not json\n{\"id\":\"\n";
    fs::write(file, format!("{damage}{text}{{\"id\":\"01N2K3P4Q5R6S\",\"t\":17")).unwrap();
    daemon.start();
    let third = submit(&daemon, &[CAROL], "three");
    wait_for(&daemon, &third, "delivered");
    assert_eq!(ids(&history(&daemon, CAROL)), [&first, &second, &third]);
    assert_eq!(files(&journal(&daemon)).len(), 1);

    // Without the daemon as well.
    assert!(daemon.terminate().success());
    let folder = journal(&daemon);
    for arguments in [&["--offline"][..], &["--offline", "--directory", folder.to_str().unwrap()]] {
        let output = daemon.ctl(&[&["message", "history", CAROL, "--json"], arguments].concat());
        assert_eq!((output.code, ids(&output.json()).len()), (0, 3), "{output:?}");
    }
    let output = daemon.ctl(&["message", "history", CAROL, "--offline", "--directory", "/nonexistent"]);
    assert!(output.code == 1 && output.stderr.contains("/nonexistent"), "{output:?}");
    assert_eq!(daemon.ctl(&["message", "history", CAROL]).code, 4);
}

#[test]
fn old_files_and_those_beyond_the_limit_are_removed_whole() {
    let hop = NextHop::start(Script::default());
    let setup = Setup::new().next_hop("adatum.test", &hop).with("[queue.history]\nmax_size = \"1MiB\"");
    let folder = setup.folder().join("spool/history");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("00000001-2020-01-01.jsonl"), "{}\n").unwrap();
    let line = format!("{{\"id\":\"{}\"}}\n", "x".repeat(90));
    for number in 2..22 {
        fs::write(folder.join(format!("{number:08}-{}.jsonl", today())), line.repeat(655)).unwrap();
    }
    fs::write(folder.join("README"), "not ours").unwrap();
    let daemon = setup.start();
    let id = submit(&daemon, &[CAROL], "newest");
    wait_for(&daemon, &id, "delivered");
    let left = files(&folder);
    let octets: u64 = left.iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!(octets <= 1024 * 1024 && octets > 800 * 1024, "{octets}");
    let names: Vec<&str> = left.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
    assert!(names.contains(&"README") && !names.contains(&"00000001-2020-01-01.jsonl"), "{names:?}");
    assert!(names.iter().any(|name| name.starts_with("00000021-")), "{names:?}");
    assert_eq!(metric(&daemon, "postern_history_octets"), (octets - 8) as f64);
}

/// The day of now in UTC, as files are named by it.
fn today() -> String {
    let output = Command::new("date").args(["-u", "+%Y-%m-%d"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_full_disk_costs_history_and_no_mail() {
    let Some(disk) = SmallDisk::mount(4) else { return };
    let hop = NextHop::start(Script::default());
    let path = disk.path.join("journal");
    let history = format!("[queue.history]\npath = \"{}\"\nmax_size = \"1MiB\"", path.display());
    let daemon = Setup::new().next_hop("adatum.test", &hop).with(&history).start();
    let ballast = disk.path.join("ballast");
    let _ = fs::write(&ballast, vec![0; 4 << 20]);
    let lost = submit(&daemon, &[CAROL], "lost");
    hop.wait_for_count(1);
    daemon.wait_for_empty_queue();
    daemon.wait_for("history-dropped", |_| true);
    assert_eq!(metric(&daemon, "postern_history_dropped_total"), 1.0);
    let output = daemon.ctl(&["message", "history", &lost]);
    assert!(output.code == 1 && output.stderr.contains("1 events could not be kept"), "{output:?}");
    fs::remove_file(&ballast).unwrap();
    let kept = submit(&daemon, &[CAROL], "kept");
    wait_for(&daemon, &kept, "delivered");
    daemon.wait_for("history-resumed", |_| true);
    assert_eq!(files(&path).len(), 1);
}

#[test]
fn without_a_journal_the_queue_alone_is_searched() {
    let mut hop = NextHop::start(Script::default());
    let daemon = Setup::new().next_hop("adatum.test", &hop).with("[queue.history]\nenabled = false").start();
    hop.go_down();
    let id = submit(&daemon, &[CAROL], "waits");
    assert_eq!(ids(&history(&daemon, CAROL)), [id.as_str()]);
    hop.come_up();
    hop.wait_for_count(1);
    daemon.wait_for_empty_queue();
    let output = daemon.ctl(&["message", "history", CAROL]);
    assert!(output.code == 1 && output.stderr.contains("queue.history.enabled"), "{output:?}");
    assert!(!journal(&daemon).exists());
}

/// `posternctl queue watch` with these arguments; without `--jsonl` it watches already.
struct Watch {
    child: Child,
    notes: BufReader<std::process::ChildStderr>,
}

impl Watch {
    fn start(daemon: &Daemon, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_posternctl"))
            .arg("--config")
            .arg(daemon.config())
            .args(["queue", "watch"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut notes = BufReader::new(child.stderr.take().unwrap());
        let mut note = String::new();
        if !arguments.contains(&"--jsonl") {
            notes.read_line(&mut note).unwrap();
            assert!(note.contains("watching"), "{note}");
        }
        Self { child, notes }
    }

    /// What it wrote and ended with.
    fn end(mut self) -> (String, i32) {
        let mut text = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        (text, self.child.wait().unwrap().code().unwrap_or(-1))
    }
}

#[test]
fn a_watcher_sees_what_happens() {
    let hop = NextHop::start(Script::default().reply("RCPT TO:<busy", "451 4.2.1 mailbox busy"));
    let mut daemon = sending_to(&hop);
    let all = Watch::start(&daemon, &["--rcpt-domain", "adatum.test", "--count", "2"]);
    let busy =
        Watch::start(&daemon, &["--kind", "deferred,failed", "--code", "4.2", "--count", "1", "--jsonl"]);
    let nothing = Watch::start(&daemon, &["--sender", "bob@proseware.test", "--timeout", "60s"]);
    eventually("three watchers", || (metric(&daemon, "postern_queue_watchers") == 3.0).then_some(()));
    let id = submit(&daemon, &[CAROL], "seen");
    let (text, code) = all.end();
    assert_eq!(code, 0, "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].contains(&format!("{id}  accepted   from <{ALICE}> for {CAROL}")), "{text}");
    assert!(lines[1].contains(&format!("{id}  delivered  {CAROL} to mx.adatum.test")), "{text}");
    let waits = submit(&daemon, &["busy@adatum.test"], "busy");
    let (text, code) = busy.end();
    let event: Json = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &event["version"], &event["id"]), (0, &1.into(), &waits.as_str().into()), "{text}");
    assert_eq!((&event["event"], &event["status"]), (&"deferred".into(), &"4.2.1".into()));

    // A daemon that stops does not wait for those who watch, and they are told.
    assert!(daemon.terminate().success());
    let (text, code) = nothing.end();
    assert_eq!((text.as_str(), code), ("", 4));
}

#[test]
fn a_watcher_ends_when_its_time_is_over_when_it_is_interrupted_and_when_nobody_reads() {
    let daemon = Setup::new().start();
    assert_eq!(Watch::start(&daemon, &["--timeout", "10ms"]).end(), (String::new(), 1));
    let interrupted = Watch::start(&daemon, &[]);
    kill_process(Pid::from_child(&interrupted.child), Signal::INT).unwrap();
    assert_eq!(interrupted.end(), (String::new(), 0));
    let mut unread = Watch::start(&daemon, &[]);
    drop(unread.child.stdout.take());
    assert_eq!(unread.child.wait().unwrap().code(), Some(0));
    let mut rest = String::new();
    unread.notes.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    assert_eq!(daemon.ctl(&["queue", "watch", "--rcpt", "nobody"]).code, 2);
    assert_eq!(daemon.ctl(&["queue", "watch", "--kind", "lost"]).code, 2);
}
