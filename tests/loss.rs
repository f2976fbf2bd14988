//! What takes mail away from a server that runs: a file system that becomes read-only, a second daemon, a segment of the
//! spool that somebody removed, a spool of another format.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::client::message;
use crate::harness::daemon::PASSWORD;
use crate::harness::{Client, Daemon, NextHop, Script, Setup, eventually, is_root, say, skip};

const ALICE: &str = "alice@proseware.test";
const CAROL: &str = "carol@adatum.test";

/// Submits a message as alice: the last reply, and the queue id if it was taken.
fn try_submit(daemon: &Daemon, subject: &str) -> Result<String, String> {
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    for line in [format!("MAIL FROM:<{ALICE}>"), format!("RCPT TO:<{CAROL}>")] {
        let reply = client.command(&line);
        if reply.code != 250 {
            return Err(reply.text());
        }
    }
    let reply = client.content(&message(ALICE, CAROL, subject, "hello"));
    if reply.code == 250 { Ok(reply.queue_id()) } else { Err(reply.text()) }
}

fn submit(daemon: &Daemon, subject: &str) -> String {
    try_submit(daemon, subject).unwrap()
}

fn ids(daemon: &Daemon) -> Vec<String> {
    let mut ids: Vec<String> = daemon.queue().iter().map(|m| m["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

#[test]
fn a_file_system_that_becomes_read_only_costs_no_message() {
    let Some(disk) = LoopDisk::mount() else { return };
    let mut hop = NextHop::start(Script::default());
    let spool = disk.path.join("spool");
    let queue = format!("[queue]\npath = \"{}\"\nsegment_size = \"1MiB\"", spool.display());
    let mut daemon = Setup::new().next_hop("adatum.test", &hop).with(&queue).start();
    hop.go_down();
    let before: Vec<String> = (0..5).map(|n| submit(&daemon, &format!("before-{n}"))).collect();
    assert_eq!(daemon.ctl(&["status"]).code, 0);

    disk.break_it();
    for n in 0..3 {
        let refused = try_submit(&daemon, &format!("while-{n}")).unwrap_err();
        assert!(refused.starts_with('4'), "{refused}");
    }
    let status = daemon.ctl(&["status"]);
    assert_eq!(status.code, 1, "{status:?}");
    assert!(status.stdout.contains("cannot be written"), "{status:?}");
    assert!(daemon.is_running());
    assert_eq!(ids(&daemon), before, "what is there can be seen");
    assert!(daemon.ctl(&["queue", "cat", &before[0]]).stdout.contains("before-0"), "and read");

    // A file system that the system has made read-only cannot be made writable while it is in use.
    daemon.terminate();
    disk.repair();
    daemon.start();
    assert_eq!(ids(&daemon), before);
    assert_eq!(daemon.ctl(&["status"]).code, 0);
    hop.come_up();
    submit(&daemon, "after");
    let received = hop.wait_for_count(6);
    daemon.wait_for_empty_queue();
    let mut subjects: Vec<String> =
        received.iter().map(|message| message.mail.field("Subject").to_owned()).collect();
    subjects.sort();
    assert_eq!(subjects, ["after", "before-0", "before-1", "before-2", "before-3", "before-4"]);
}

#[test]
fn a_second_daemon_names_the_first_and_starts_when_that_was_killed() {
    let hop = NextHop::start(Script::default());
    let mut daemon = Setup::new().next_hop("adatum.test", &hop).start();
    for _ in 0..3 {
        let output = Command::new(env!("CARGO_BIN_EXE_posternd"))
            .args(["run", "--config"])
            .arg(daemon.config())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let spool = daemon.folder().join("spool");
        let expected = format!("{} is in use by process {}", spool.display(), daemon.pid());
        assert!(error.contains(&expected), "{error}");
        assert!(daemon.is_running());
        submit(&daemon, "undisturbed");
        daemon.kill();
        daemon.start();
    }
    hop.wait_for_count(3);
}

#[test]
fn two_copies_of_a_spool_have_nothing_to_do_with_each_other() {
    let mut hop = NextHop::start(Script::default());
    let first = Setup::new().next_hop("adatum.test", &hop).start();
    hop.go_down();
    let id = submit(&first, "cloned");
    // While it runs, as a snapshot of the disk would be taken.
    let mut second = Setup::new().next_hop("adatum.test", &hop).prepare();
    copy(&first.folder().join("spool"), &second.folder().join("spool"));
    second.start();
    assert_eq!((ids(&first), ids(&second)), (vec![id.clone()], vec![id]));
    hop.come_up();
    first.wait_for_empty_queue();
    second.wait_for_empty_queue();
    assert_eq!(hop.received().len(), 2);
}

#[test]
fn messages_of_a_segment_that_was_removed_are_shown_and_their_senders_can_be_told() {
    let mut hop = NextHop::start(Script::default());
    let mut daemon = Setup::new().next_hop("adatum.test", &hop).start();
    hop.go_down();
    let mut messages = Vec::new();
    let mut segments = Vec::new();
    for round in 0..3 {
        // Each start begins a segment.
        daemon.restart();
        messages.push(["a", "b"].map(|name| submit(&daemon, &format!("{round}-{name}"))));
        segments.push(newest_segment(&daemon));
    }
    daemon.terminate();
    fs::remove_file(&segments[1]).unwrap();
    daemon.start();

    let [failed, dropped] = messages[1].clone();
    for id in [&failed, &dropped] {
        let logged = daemon.wait_for("content-lost", |line| line["id"] == **id);
        assert_eq!((&logged["from"], &logged["to"]), (&ALICE.into(), &CAROL.into()), "{logged}");
    }
    let status = daemon.ctl(&["status"]);
    for text in [&failed, &dropped, ALICE, CAROL, "damaged"] {
        assert!(status.stdout.contains(text), "{text}: {status:?}");
    }
    assert_eq!(daemon.ask(&["status"])["queue"]["damaged"], 3, "the segment and two messages");
    let held = daemon.ask(&["queue", "list", "--state", "held"]);
    assert_eq!(held["messages"].as_array().unwrap().len(), 2, "{held}");
    assert!(held["messages"][0]["held"].as_str().unwrap().contains("content is gone"), "{held}");

    // The others go on, and so do these after a kill.
    hop.come_up();
    hop.wait_for_count(4);
    eventually("the others to be gone", || (daemon.queue().len() == 2).then_some(()));
    daemon.kill();
    daemon.start();
    assert_eq!(ids(&daemon), [failed.clone(), dropped.clone()]);
    assert!(daemon.ctl(&["status"]).stdout.contains(&failed));
    let cat = daemon.ctl(&["queue", "cat", &failed]);
    assert_ne!(cat.code, 0, "nothing is made up: {cat:?}");

    // Released, it is tried and not sent.
    daemon.change_queue(&["release", "--id", &dropped]);
    daemon.wait_in_queue("an attempt", |message| {
        message["id"] == *dropped && message["recipients"][0]["attempts"].as_u64() > Some(0)
    });
    assert_eq!(hop.received().len(), 4);
    assert_eq!(daemon.change_queue(&["fail", "--id", &failed, "--reason", "lost"]), 1);
    daemon.maildir(ALICE).wait_for(CAROL);
    eventually("dropping", || {
        (daemon.change_queue(&["drop", "--id", &dropped, "--reason", "lost"]) == 1).then_some(())
    });
    daemon.wait_for_empty_queue();
    daemon.restart();
    let status = daemon.ctl(&["status"]);
    assert!(!status.stdout.contains(&failed) && !status.stdout.contains(&dropped), "{status:?}");
    assert_eq!(hop.received().len(), 4);
}

#[test]
fn a_spool_of_another_format_is_refused_with_the_reason() {
    let mut daemon = Setup::new().start();
    daemon.terminate();
    fs::write(daemon.folder().join("spool/FORMAT"), "7\n").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_posternd"))
        .args(["run", "--config"])
        .arg(daemon.config())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("FORMAT") && error.contains('7'), "{error}");
}

/// The segment that is written to.
fn newest_segment(daemon: &Daemon) -> PathBuf {
    let entries = fs::read_dir(daemon.folder().join("spool/log")).unwrap();
    entries.map(|entry| entry.unwrap().path()).max().unwrap()
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

/// An ext4 in a file.
struct LoopDisk {
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl LoopDisk {
    /// `None` where mounting is not permitted, which is said.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        fs::create_dir(&path).unwrap();
        let disk = Self { folder, path };
        let image = fs::File::create(disk.image()).unwrap();
        image.set_len(64 << 20).unwrap();
        let ready = is_root()
            && run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(disk.image()))
            && disk.try_mount()
            && fs::OpenOptions::new().write(true).open(disk.trigger()).is_ok();
        if ready {
            return Some(disk);
        }
        let reason = "a read-only file system: an ext4 of the test's own cannot be mounted";
        if is_root() {
            skip(reason)
        } else {
            say(&format!("skipped: {reason}"))
        }
        None
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn try_mount(&self) -> bool {
        run(Command::new("mount").args(["-o", "loop,errors=remount-ro"]).arg(self.image()).arg(&self.path))
    }

    /// What the kernel offers to test its own handling of errors.
    fn trigger(&self) -> PathBuf {
        let output = Command::new("findmnt").args(["-no", "SOURCE"]).arg(&self.path).output();
        let device = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        let device = device.unwrap_or_default().replace("/dev/", "");
        Path::new("/sys/fs/ext4").join(device).join("trigger_fs_error")
    }

    /// As after an error of the disk: the kernel makes the file system read-only under whoever uses it.
    fn break_it(&self) {
        fs::write(self.trigger(), "1").unwrap();
        fs::write(self.path.join("probe"), "").unwrap_err();
    }

    fn repair(&self) {
        assert!(run(Command::new("umount").arg(&self.path)));
        // 1: errors were corrected.
        let checked = Command::new("fsck.ext4").args(["-p", "-f"]).arg(self.image()).output().unwrap();
        assert!(matches!(checked.status.code(), Some(0 | 1)), "{checked:?}");
        assert!(self.try_mount());
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // Lazily: the daemon of a test that failed may still have files open.
        let _ = Command::new("umount").arg("-l").arg(&self.path).output();
    }
}

fn run(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}
