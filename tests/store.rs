//! The spool itself: is it whole, room that comes back, a backup that a server starts from, what was set aside.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value as Json;

use crate::harness::client::message;
use crate::harness::daemon::PASSWORD;
use crate::harness::mail::contains;
use crate::harness::{Client, Daemon, NextHop, Script, Setup, eventually};

const ALICE: &str = "alice@proseware.test";
const CAROL: &str = "carol@adatum.test";

/// A server with a small spool whose mail waits: the next hop is busy.
fn waiting(hop: &NextHop) -> Daemon {
    let small = "[queue]\nsegment_size = \"64KiB\"\ninline_limit = \"16KiB\"\nindex_interval = \"20ms\"\n\
                 retry = { first = \"1h\", cap = \"4h\" }";
    Setup::new().next_hop("adatum.test", hop).with(small).start()
}

fn busy() -> NextHop {
    NextHop::start(Script::default().reply("RCPT", "451 4.2.1 mailbox busy"))
}

fn submit(client: &mut Client, subject: &str, length: usize) -> String {
    let body = format!("{subject} ").repeat(length / (subject.len() + 1));
    let lines: Vec<&str> =
        body.as_bytes().chunks(70).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let reply = client.deliver(ALICE, &[CAROL], &message(ALICE, CAROL, subject, &lines.join("\r\n")));
    assert_eq!(reply.code, 250, "{}", reply.text());
    reply.queue_id()
}

fn log_in(daemon: &Daemon) -> Client {
    Client::log_in(daemon.submission(), ALICE, PASSWORD)
}

/// Every message has had its attempt, so that nothing is being delivered.
fn wait_until_deferred(daemon: &Daemon, messages: usize) {
    eventually("all messages deferred", || {
        let queue = daemon.queue();
        (queue.len() == messages && queue.iter().all(|m| m["state"] == "deferred")).then_some(())
    });
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The segment with a text in it, and where.
fn find_in_log(daemon: &Daemon, text: &str) -> (PathBuf, usize) {
    let found = files(&daemon.folder().join("spool/log")).into_iter().find_map(|path| {
        let octets = fs::read(&path).unwrap();
        let at = octets.windows(text.len()).position(|window| window == text.as_bytes())?;
        Some((path, at))
    });
    found.unwrap_or_else(|| panic!("{text:?} is not in the log"))
}

/// Inverts a bit of a file that may be in use.
fn flip(path: &Path, at: usize) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut octet = [0];
    file.read_exact_at(&mut octet, at as u64).unwrap();
    file.write_all_at(&[octet[0] ^ 4], at as u64).unwrap();
}

/// The findings of a check that must find something.
fn findings(daemon: &Daemon, arguments: &[&str]) -> Vec<Json> {
    let output = daemon.ctl(&[&["store", "check"], arguments, &["--json"]].concat());
    assert_eq!(output.code, 1, "{output:?}");
    output.json()["findings"].as_array().unwrap().clone()
}

#[test]
fn status_and_metrics_tell_how_the_spool_is() {
    let hop = busy();
    let daemon = waiting(&hop);
    let mut client = log_in(&daemon);
    submit(&mut client, "small", 1000);
    submit(&mut client, "large", 40_000);
    wait_until_deferred(&daemon, 2);
    eventually("an index that is up to date", || {
        let status = daemon.ask(&["store", "status"]);
        (status["index"]["behind"] == 0 && status["index"]["rows"] == 2).then_some(())
    });
    let status = daemon.ask(&["store", "status"]);
    assert_eq!((&status["messages"], &status["format"]), (&2.into(), &1.into()));
    assert_eq!((&status["large"]["files"], &status["index"]["in_use"]), (&1.into(), &true.into()));
    assert!(status["log"]["live_octets"].as_u64().unwrap() > 1000, "{status}");
    assert!(status["written"]["batches"].as_u64() >= Some(2), "{status}");
    assert!(status["written"]["syncs"].as_u64() > status["written"]["batches"].as_u64(), "{status}");
    assert!(status["written"]["mean_batch"].as_f64() >= Some(1.0), "{status}");
    assert!(daemon.ctl(&["store", "status"]).stdout.contains("on average"));
    let metrics = daemon.ctl(&["metrics"]).stdout;
    for name in
        ["batches_total", "records_total", "written_octets_total", "syncs_total", "index_rounds_total"]
    {
        let line = metrics.lines().find(|line| line.starts_with(&format!("postern_spool_{name} ")));
        let value: f64 = line.and_then(|line| line.rsplit(' ').next()).unwrap().parse().unwrap();
        assert!(value > 0.0, "{name}");
    }
    for name in
        ["sync_seconds_bucket", "segments ", "dead_octets ", "index_rows ", "index_octets ", "index_in_use 1"]
    {
        assert!(metrics.contains(&format!("postern_spool_{name}")), "{name}");
    }
}

#[test]
fn a_check_finds_a_flipped_bit_a_missing_file_and_an_orphan() {
    let hop = busy();
    let mut daemon = waiting(&hop);
    let mut client = log_in(&daemon);
    let damaged = submit(&mut client, "damaged", 3000);
    let lost = submit(&mut client, "lost", 40_000);
    submit(&mut client, "sound", 3000);
    wait_until_deferred(&daemon, 3);
    let checked = daemon.ask(&["store", "check", "--full"]);
    assert_eq!(
        (&checked["messages"], &checked["wrong"], &checked["large_files"]),
        (&3.into(), &0.into(), &1.into())
    );

    let (segment, at) = find_in_log(&daemon, "damaged damaged");
    flip(&segment, at + 200);
    let big = daemon.folder().join("spool/big");
    fs::remove_file(&files(&big)[0]).unwrap();
    fs::write(big.join("0000000000000007"), "of nobody").unwrap();
    let found = findings(&daemon, &[]);
    let about = |kind: &str| found.iter().filter(|finding| finding["about"] == kind).collect::<Vec<_>>();
    let contents: Vec<&Json> = about("content").into_iter().map(|finding| &finding["id"]).collect();
    assert_eq!(contents, [damaged.as_str(), lost.as_str()]);
    assert_eq!((about("orphan").len(), found.len()), (1, 3), "{found:?}");
    let people = daemon.ctl(&["store", "check"]);
    assert!(people.code == 1 && people.stdout.contains("3 things wrong"), "{people:?}");
    assert!(people.stdout.contains("  to do  ") && people.stdout.contains(&damaged), "{people:?}");

    let in_use = daemon.ctl(&["store", "check", "--offline"]);
    assert_eq!(in_use.code, 1);
    assert!(in_use.stderr.contains("in use") && in_use.stderr.contains("stop postern"), "{in_use:?}");
    assert!(daemon.terminate().success());
    let found = findings(&daemon, &["--offline"]);
    let wrong = found.iter().filter(|finding| finding["is_note"] == false);
    assert_eq!(wrong.count(), 2, "the orphan goes by itself: {found:?}");
    daemon.start();
    assert_eq!(daemon.queue().len(), 3, "looking changes nothing");
}

/// `store check --fix --yes --json`: its exit code and its answer.
fn mend(daemon: &Daemon, arguments: &[&str]) -> (i32, Json) {
    let output = daemon.ctl(&[&["store", "check", "--fix", "--yes"], arguments, &["--json"]].concat());
    (output.code, output.json())
}

/// What was done, without where.
fn done(answer: &Json) -> Vec<&str> {
    answer["fixed"].as_array().unwrap().iter().map(|fix| fix["do"].as_str().unwrap()).collect()
}

#[test]
fn a_check_mends_an_index_and_sets_aside_what_belongs_to_nobody_while_mail_flows() {
    let hop = busy();
    let daemon = waiting(&hop);
    let mut client = log_in(&daemon);
    submit(&mut client, "first", 500);
    fs::remove_dir_all(daemon.folder().join("spool/index")).unwrap();
    submit(&mut client, "second", 40_000);
    wait_until_deferred(&daemon, 2);
    eventually("the loss of the index", || (daemon.ctl(&["store", "status"]).code == 1).then_some(()));
    let big = daemon.folder().join("spool/big");
    fs::write(big.join("0000000000000007"), "of nobody").unwrap();
    fs::write(big.join("notes.txt"), "of somebody else").unwrap();

    assert_eq!(daemon.ctl(&["store", "check", "--yes"]).code, 2, "that is for --fix");
    let unasked = daemon.ctl(&["store", "check", "--fix"]);
    assert!(unasked.code == 2 && unasked.stderr.contains("--yes"), "{unasked:?}");
    let dry = daemon.ctl(&["store", "check", "--fix", "--dry-run"]);
    assert_eq!(dry.code, 1, "{dry:?}");
    assert!(dry.stdout.contains("  --fix  write the index anew"), "{dry:?}");
    assert!(dry.stdout.ends_with(
        "--fix would\n  move big/0000000000000007 into the quarantine\n  \
         move big/notes.txt into the quarantine\n  write the index anew\n"
    ));
    assert_eq!(files(&big).len(), 3, "nothing was done");

    let (code, answer) = mend(&daemon, &["--reason", "after the move"]);
    assert_eq!((code, done(&answer)), (0, vec!["set-aside", "set-aside", "rebuild-index"]), "{answer}");
    assert_eq!((&answer["before"]["wrong"], &answer["wrong"]), (&3.into(), &0.into()), "{answer}");
    assert_eq!((&answer["rows"], &answer["findings"]), (&2.into(), &Json::Array(Vec::new())), "{answer}");
    assert_eq!(daemon.ctl(&["store", "status"]).code, 0);
    assert_eq!(files(&big).len(), 1);
    let quarantine = daemon.ctl(&["store", "quarantine", "list", "--json"]).json();
    let pieces = quarantine["pieces"].as_array().unwrap();
    let names: Vec<&str> = pieces.iter().map(|piece| piece["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["big-0000000000000007", "big.notes.txt"]);
    let kept = daemon.folder().join("spool/damaged/big.notes.txt");
    assert_eq!(fs::read_to_string(kept).unwrap(), "of somebody else");
    let audit = daemon.ask(&["audit"]);
    let event = &audit["events"][0];
    assert_eq!((&event["verb"], &event["reason"]), (&"store fix".into(), &"after the move".into()));
    assert_eq!((&event["matched"], &event["changed"]), (&3.into(), &3.into()));
    assert!(event["detail"].as_str().unwrap().contains("big/notes.txt"), "{event}");

    let again = daemon.ctl(&["store", "check", "--fix"]);
    assert!(again.code == 0 && again.stdout.contains("nothing is wrong"), "{again:?}");
}

#[test]
fn a_check_at_rest_mends_a_garbage_index_and_is_in_the_audit_log() {
    let hop = busy();
    let mut daemon = waiting(&hop);
    let mut client = log_in(&daemon);
    submit(&mut client, "first", 500);
    submit(&mut client, "second", 500);
    wait_until_deferred(&daemon, 2);
    drop(client);
    assert!(daemon.terminate().success());
    let spool = daemon.folder().join("spool");
    for path in files(&spool.join("index")).into_iter().filter(|path| path.is_file()) {
        fs::write(path, b"garbage ".repeat(1000)).unwrap();
    }
    fs::write(spool.join("big/0000000000000007"), "of nobody").unwrap();
    let (code, answer) = mend(&daemon, &["--offline", "--reason", "garbage"]);
    assert_eq!((code, done(&answer)), (0, vec!["set-aside", "rebuild-index"]), "{answer}");
    assert_eq!((&answer["wrong"], &answer["rows"]), (&0.into(), &2.into()), "{answer}");
    // With nothing wrong, what the start would remove is removed.
    fs::write(spool.join("big/0000000000000007"), "of nobody").unwrap();
    let (code, answer) = mend(&daemon, &["--offline"]);
    assert_eq!((code, done(&answer)), (0, vec!["remove"]), "{answer}");
    // Without an index there is nothing to mend: the start writes one.
    fs::remove_dir_all(spool.join("index")).unwrap();
    let (code, answer) = mend(&daemon, &["--offline"]);
    assert_eq!((code, done(&answer).len()), (0, 0), "{answer}");

    daemon.start();
    assert_eq!(daemon.queue().len(), 2);
    let audit = daemon.ask(&["audit"]);
    let verbs: Vec<(&Json, &Json)> =
        audit["events"].as_array().unwrap().iter().map(|event| (&event["verb"], &event["changed"])).collect();
    assert_eq!(verbs, [(&"store fix".into(), &2.into()), (&"store fix".into(), &1.into())]);
}

#[test]
fn damage_in_a_sealed_segment_is_set_aside_and_counted_and_never_mended_away() {
    let hop = busy();
    let mut daemon = waiting(&hop);
    let mut client = log_in(&daemon);
    let damaged = submit(&mut client, "damaged", 3000);
    (0..30).for_each(|_| _ = submit(&mut client, "sound", 5000));
    wait_until_deferred(&daemon, 31);
    drop(client);
    assert!(daemon.terminate().success());
    let (segment, at) = find_in_log(&daemon, "damaged damaged");
    assert_eq!(segment, files(&daemon.folder().join("spool/log"))[0], "a sealed one");
    let octets = fs::read(&segment).unwrap();
    let begin = octets[..at].windows(4).rposition(|window| window == b"pRc1").unwrap();
    flip(&segment, begin + 9);

    let (code, answer) = mend(&daemon, &["--offline"]);
    assert_eq!((code, done(&answer)), (1, vec!["copy"]), "{answer}");
    assert_eq!(answer["before"]["wrong"], answer["wrong"], "{answer}");
    let left = answer["findings"].as_array().unwrap();
    assert!(left.iter().any(|finding| finding["about"] == "segment"), "{answer}");
    assert!(left.iter().all(|finding| finding["fix"].is_null()), "{answer}");
    let again = daemon.ctl(&["store", "check", "--offline", "--fix", "--yes"]);
    assert!(again.code == 1 && again.stdout.contains("without losing something"), "{again:?}");

    daemon.start();
    let queue = daemon.queue();
    assert_eq!(queue.len(), 31, "what the index knows is still there");
    assert!(queue.iter().any(|message| message["id"] == damaged.as_str()));
    let quarantine = daemon.ctl(&["store", "quarantine", "list", "--json"]).json();
    let pieces = quarantine["pieces"].as_array().unwrap();
    let piece = pieces.iter().find(|piece| piece["kind"] == "octets").unwrap();
    assert_eq!(piece["messages"][0]["id"], damaged.as_str());
    assert!(pieces.iter().any(|piece| piece["kind"] == "damaged-segment"), "{quarantine}");
}

#[test]
fn an_index_that_was_lost_comes_back_without_a_restart() {
    let hop = busy();
    let mut daemon = waiting(&hop);
    let mut client = log_in(&daemon);
    submit(&mut client, "first", 500);
    fs::remove_dir_all(daemon.folder().join("spool/index")).unwrap();
    submit(&mut client, "second", 500);
    let lost = || {
        (daemon.ctl(&["store", "status"]).code == 1)
            .then(|| daemon.ctl(&["store", "status", "--json"]).json())
    };
    assert_eq!(eventually("the loss of the index", lost)["index"]["in_use"], false);
    assert_eq!(findings(&daemon, &[])[0]["about"], "index");

    wait_until_deferred(&daemon, 2);
    assert_eq!(daemon.ask(&["store", "rebuild", "--reason", "lost"])["rows"], 2);
    let status = daemon.ask(&["store", "status"]);
    assert_eq!((&status["index"]["in_use"], &status["index"]["complete"]), (&true.into(), &true.into()));
    // One that is in order is written anew as well, and nobody has to wait for it.
    assert_eq!(daemon.ask(&["store", "rebuild"])["rows"], 2);
    assert_eq!(daemon.ask(&["store", "rebuild", "--no-wait"])["rows"], Json::Null);
    let audit = daemon.ask(&["audit"]);
    let rebuilds =
        audit["events"].as_array().unwrap().iter().filter(|event| event["verb"] == "store rebuild");
    assert_eq!(rebuilds.count(), 3);

    assert!(daemon.terminate().success());
    assert_eq!(daemon.ask(&["store", "rebuild", "--offline"])["rows"], 2);
    daemon.start();
    assert_eq!(daemon.queue().len(), 2);
}

#[test]
fn a_compaction_gives_room_back() {
    let hop = busy();
    let daemon = waiting(&hop);
    let mut client = log_in(&daemon);
    for number in 0..40 {
        submit(&mut client, if number % 4 == 0 { "kept" } else { "dropped" }, 10_000);
    }
    wait_until_deferred(&daemon, 40);
    assert_eq!(
        daemon.change_queue(&["drop", "--header", "Subject=dropped", "--reason", "test", "--yes"]),
        30
    );
    let compacted = daemon.ask(&["store", "compact"]);
    assert!(compacted["given_back"].as_u64() > Some(150_000), "{compacted}");
    let log: u64 =
        files(&daemon.folder().join("spool/log")).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert_eq!(compacted["after"]["log"], log);
    assert!(daemon.ctl(&["store", "compact"]).stdout.starts_with("given back: "));
    assert_eq!(daemon.ask(&["store", "check", "--full"])["messages"], 10);
}

#[test]
fn a_server_starts_from_a_backup_made_under_load_with_all_that_was_acknowledged() {
    let hop = busy();
    let mut daemon = waiting(&hop);
    let acknowledged = Mutex::new(Vec::new());
    let stop = AtomicBool::new(false);
    let backup = daemon.folder().join("spool/backup/monday");
    let path = backup.to_str().unwrap();
    let mut before = Vec::new();
    std::thread::scope(|scope| {
        for sender in 0..2 {
            let (daemon, stop, acknowledged) = (&daemon, &stop, &acknowledged);
            scope.spawn(move || {
                let mut client = log_in(daemon);
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let length = if (number + sender) % 5 == 0 { 40_000 } else { 3000 };
                    let id = submit(&mut client, "load", length);
                    acknowledged.lock().unwrap().push(id);
                }
            });
        }
        eventually("some mail", || (acknowledged.lock().unwrap().len() > 40).then_some(()));
        before.clone_from(&acknowledged.lock().unwrap());
        let made = daemon.ctl(&["store", "backup", path, "--reason", "before the upgrade", "--json"]);
        stop.store(true, Ordering::Relaxed);
        assert_eq!(made.code, 0, "{made:?}");
        let made = made.json();
        assert!(made["checked"]["messages"].as_u64() >= Some(before.len() as u64), "{made}");
        assert!(made["linked"].as_u64() > Some(0), "{made}");
    });
    let again = daemon.ctl(&["store", "backup", path]);
    assert!(again.code == 1 && again.stderr.contains("not empty"), "{again:?}");
    let audit = daemon.ask(&["audit"]);
    let event =
        audit["events"].as_array().unwrap().iter().find(|event| event["verb"] == "store backup").unwrap();
    assert_eq!((&event["object"], &event["changed"]), (&path.into(), &1.into()));

    // Another server, at another place: the old one is gone.
    assert!(daemon.terminate().success());
    assert_eq!(daemon.ask(&["store", "backup", "--verify", path])["wrong"], 0);
    let spool = daemon.folder().join("spool");
    fs::rename(&backup, daemon.folder().join("restored")).unwrap();
    fs::remove_dir_all(&spool).unwrap();
    fs::rename(daemon.folder().join("restored"), &spool).unwrap();
    daemon.start();
    let there: Vec<Json> = daemon.queue();
    for id in &before {
        assert!(there.iter().any(|message| message["id"] == id.as_str()), "message {id} is missing");
    }
    assert_eq!(daemon.ask(&["store", "check", "--full"])["messages"], there.len());
    assert_eq!(daemon.ask(&["status"])["queue"]["damaged"], 0);
}

#[test]
fn a_message_that_was_set_aside_is_put_back_and_delivered() {
    let hop = busy();
    let mut daemon = waiting(&hop);
    let mut client = log_in(&daemon);
    let lost = submit(&mut client, "lost-and-found", 2000);
    submit(&mut client, "other", 2000);
    wait_until_deferred(&daemon, 2);
    assert_eq!(daemon.ask(&["store", "quarantine", "list"])["pieces"], Json::Array(Vec::new()));
    drop(client);
    assert!(daemon.terminate().success());
    // A bit of the record's header, with an index that does not make up for it.
    let (segment, at) = find_in_log(&daemon, "lost-and-found lost");
    let octets = fs::read(&segment).unwrap();
    let begin = octets[..at].windows(4).rposition(|window| window == b"pRc1").unwrap();
    flip(&segment, begin + 9);
    fs::remove_dir_all(daemon.folder().join("spool/index")).unwrap();
    daemon.start();
    assert_eq!(daemon.queue().len(), 1);

    let list = daemon.ctl(&["store", "quarantine", "list"]);
    assert!(list.code == 1 && list.stdout.contains("all of it can be read"), "{list:?}");
    let pieces = daemon.ctl(&["store", "quarantine", "list", "--json"]).json()["pieces"].clone();
    let piece = pieces.as_array().unwrap().iter().find(|piece| piece["kind"] == "octets").unwrap().clone();
    let found = &piece["messages"][0];
    assert_eq!(
        (&found["id"], &found["sender"], &found["recipients"][0]),
        (&lost.as_str().into(), &ALICE.into(), &CAROL.into())
    );
    let name = piece["name"].as_str().unwrap();
    assert!(daemon.ctl(&["store", "quarantine", "show", name]).stdout.contains(CAROL));
    assert_eq!(daemon.ctl(&["store", "quarantine", "show", "nothing"]).code, 1);

    let put_back = daemon.ask(&["store", "quarantine", "restore", &lost, "--reason", "found"]);
    assert_eq!((&put_back["was"], &put_back["state"]), (&lost.as_str().into(), &"held".into()));
    let id = put_back["id"].as_str().unwrap();
    let again = daemon.ctl(&["store", "quarantine", "restore", &lost]);
    assert!(again.code == 1 && again.stderr.contains("--again"), "{again:?}");
    let unknown = daemon.ctl(&["store", "quarantine", "restore", "0000000000007"]);
    assert_eq!(unknown.code, 1, "{unknown:?}");
    let show = daemon.ask(&["queue", "show", id]);
    assert!(show["message"]["held"].as_str().unwrap().contains(&lost), "{show}");
    hop.set_script(Script::default());
    assert_eq!(daemon.change_queue(&["release", "--id", id]), 1);
    assert!(contains(&hop.wait_for_message().mail.0, "lost-and-found lost-and-found"));

    // What was seen can go: the piece, and with its mark the segment.
    assert_eq!(
        daemon.ctl(&["store", "quarantine", "remove", name]).code,
        2,
        "it asks, and here is nobody to ask"
    );
    assert_eq!(daemon.ctl(&["store", "quarantine", "remove"]).code, 2);
    let dry = daemon.ask(&["store", "quarantine", "remove", "--all", "--dry-run"]);
    assert_eq!((&dry["matched"], &dry["removed"]), (&2.into(), &Json::Array(Vec::new())));
    eventually("an empty quarantine", || {
        (daemon.ctl(&["store", "quarantine", "remove", "--all", "--yes"]).code == 0).then_some(())
    });
    assert_eq!(daemon.ctl(&["store", "quarantine", "list"]).code, 0);
    assert!(!segment.exists(), "the damaged segment is gone");
    assert_eq!(daemon.ask(&["store", "check", "--full"])["wrong"], 0);
    let audit = daemon.ask(&["audit"]);
    let verbs: Vec<&Json> = audit["events"].as_array().unwrap().iter().map(|event| &event["verb"]).collect();
    assert!(
        verbs.contains(&&"store quarantine restore".into())
            && verbs.contains(&&"store quarantine remove".into())
    );
}

#[test]
fn a_spool_says_its_format_and_one_of_a_later_release_is_left_alone() {
    let mut daemon = Setup::new().start();
    let migration = daemon.ask(&["store", "migrate", "--check"]);
    assert_eq!((&migration["format"], &migration["steps"]), (&1.into(), &Json::Array(Vec::new())));
    assert!(daemon.ctl(&["store", "migrate"]).stdout.contains("nothing has to be done"));
    assert!(daemon.terminate().success());
    assert_eq!(daemon.ask(&["store", "migrate", "--offline"])["format"], 1);
    fs::write(daemon.folder().join("spool/FORMAT"), "7\n").unwrap();
    for verb in [&["store", "migrate", "--offline"][..], &["store", "check", "--offline"]] {
        let refused = daemon.ctl(verb);
        assert!(refused.code == 1 && refused.stderr.contains("later release"), "{refused:?}");
    }
    let elsewhere = daemon.folder().to_str().unwrap();
    let none = daemon.ctl(&["store", "check", "--offline", "--spool", elsewhere]);
    assert!(none.code == 1 && none.stderr.contains("no spool"), "{none:?}");
}
