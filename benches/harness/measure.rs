//! What processes cost, read from /proc.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A process and everything below it.
#[derive(Debug, Clone, Copy)]
pub struct Processes {
    /// The process that is the parent, or grandparent, of all others.
    pub root: u32,
}

/// The kernel counts processor time in these (USER_HZ is 100 on all Linux systems).
const TICKS_PER_SECOND: f64 = 100.0;

impl Processes {
    /// The root first, then its children, then theirs.
    pub fn all_ids(self) -> Vec<u32> {
        let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(|id| Some((id, stat(id)?.get(1)?.parse().ok()?)))
            .collect();
        let mut found = vec![self.root];
        let mut at = 0;
        while let Some(parent) = found.get(at).copied() {
            found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(id, _)| *id));
            at += 1;
        }
        found
    }

    /// Processor time of all, of their ended children too.
    pub fn cpu(self) -> Duration {
        let ticks: f64 = self
            .all_ids()
            .into_iter()
            .filter_map(stat)
            // utime, stime, cutime, cstime: fields 14 to 17 of proc(5), here without the first two.
            .flat_map(|fields| {
                fields[11..15].iter().filter_map(|f| f.parse::<f64>().ok()).collect::<Vec<_>>()
            })
            .sum();
        Duration::from_secs_f64(ticks / TICKS_PER_SECOND)
    }

    /// Resident memory of all in octets, pages that several share counted in proportion (PSS).
    pub fn memory(self) -> u64 {
        let of = |id: u32| -> Option<u64> {
            let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok()?;
            let line = text.lines().find(|line| line.starts_with("Pss:"))?;
            line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
        };
        self.all_ids().into_iter().filter_map(of).sum::<u64>() * 1024
    }
}

impl Processes {
    /// Octets that all, and their ended children, have handed to the disk: `write_bytes` of proc(5). It counts pages made
    /// dirty, so it has what is written twice, and not the journal of the file system.
    ///
    /// # Errors
    /// Without the right to read it of another user's process.
    pub fn written(self) -> Result<u64, String> {
        let of = |id: u32| -> Result<u64, String> {
            let path = format!("/proc/{id}/io");
            let text = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
            let count = text.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok());
            count.ok_or_else(|| format!("{path} has no write_bytes"))
        };
        // One that has ended meanwhile is counted with its parent.
        let all = self.all_ids().into_iter().filter(|id| *id == self.root || stat(*id).is_some());
        all.map(of).sum()
    }

    /// The same by the names of the root's threads, numbers behind them left out. Threads that have ended are not among them.
    pub fn written_by_threads(self) -> BTreeMap<String, u64> {
        let mut written = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{}/task", self.root)).into_iter().flatten().flatten() {
            let read = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
            let io = read("io");
            let octets = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse::<u64>().ok());
            let name =
                read("comm").trim_end().trim_end_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned();
            *written.entry(name).or_default() += octets.unwrap_or(0);
        }
        written
    }
}

/// Resident memory of a process in octets: now, and the most there ever was.
pub fn resident(id: u32) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok().map(|kilo| kilo * 1024)
    };
    of("VmRSS:").zip(of("VmHWM:"))
}

/// Octets on the disk of a file, or of all files below a folder; what is not there has none.
pub fn on_disk(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    if !meta.is_dir() {
        return meta.blocks() * 512;
    }
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| on_disk(&entry.path())).sum()
}

/// Who counts the calls of fsync and fdatasync of a server from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// In the kernel, at no cost worth mentioning; not every machine has it, and it needs root.
    Perf,
    /// Stops the server at each call: that takes longer than the call, and fewer messages share one.
    Strace,
}

impl Counter {
    /// The one that does it best on this machine.
    pub fn best() -> Option<Self> {
        [Self::Perf, Self::Strace].into_iter().find(|counter| counter.works())
    }

    /// As the tables name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Perf => "perf",
            Self::Strace => "strace (slows it down)",
        }
    }

    /// A command that runs another under it.
    pub fn command(self, into: &Path, program: &Path) -> Command {
        let mut command = match self {
            Self::Perf => Command::new("perf"),
            Self::Strace => Command::new("strace"),
        };
        match self {
            Self::Perf => command
                .args(["stat", "-x,", "-e", "syscalls:sys_enter_fsync,syscalls:sys_enter_fdatasync", "-o"])
                .arg(into)
                .arg("--"),
            Self::Strace => command.args(["-f", "-c", "-e", "trace=fsync,fdatasync", "-o"]).arg(into),
        };
        command.arg(program);
        command
    }

    fn works(self) -> bool {
        let Ok(folder) = TemporaryFolder::new() else { return false };
        let file = folder.path().join("count");
        // With a call to count: without any, strace writes no summary.
        let status = self
            .command(&file, Path::new("sync"))
            .arg("-d")
            .arg(folder.path())
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success()) && self.calls(&file).is_ok_and(|calls| calls > 0)
    }

    /// The calls in what it has written.
    ///
    /// # Errors
    /// When it has written nothing.
    pub fn calls(self, file: &Path) -> Result<u64, String> {
        let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        Ok(text.lines().filter_map(|line| self.calls_in(line)).sum())
    }

    fn calls_in(self, line: &str) -> Option<u64> {
        match self {
            // value,unit,event,...
            Self::Perf => line.contains("syscalls:").then(|| line.split(',').next()?.parse().ok())?,
            // % time, seconds, usecs/call, calls, [errors,] syscall
            Self::Strace => {
                let words: Vec<&str> = line.split_ascii_whitespace().collect();
                matches!(words.last(), Some(&("fsync" | "fdatasync"))).then(|| words.get(3)?.parse().ok())?
            }
        }
    }
}

/// The fields of /proc/ID/stat behind the name.
fn stat(id: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}

/// A folder on the disk that is measured, removed at the end.
#[derive(Debug)]
pub struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    /// Below the folder of build results: /tmp may be memory, and memory has nothing to sync.
    pub fn new() -> Result<Self, String> {
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let unique = format!("bench-{}-{:x}", std::process::id(), rand::random::<u32>());
        let path = parent.join(unique);
        fs::create_dir_all(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // What is left behind is in the build folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}
