//! What processes cost, read from /proc.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Processor time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu(pub Duration);

impl Cpu {
    /// What was used since an earlier reading.
    pub fn since(self, before: Self) -> Self {
        Self(self.0.saturating_sub(before.0))
    }
}

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
    pub fn cpu(self) -> Cpu {
        let ticks: f64 = self
            .all_ids()
            .into_iter()
            .filter_map(stat)
            // utime, stime, cutime, cstime: fields 14 to 17 of proc(5), here without the first two.
            .flat_map(|fields| {
                fields[11..15].iter().filter_map(|f| f.parse::<f64>().ok()).collect::<Vec<_>>()
            })
            .sum();
        Cpu(Duration::from_secs_f64(ticks / TICKS_PER_SECOND))
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

/// The fields of /proc/ID/stat behind the name.
fn stat(id: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}

/// The calls in a summary that `strace -c` has written.
pub fn counted_calls(file: &Path) -> Result<u64, String> {
    let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let calls = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        matches!(words.last(), Some(&("fsync" | "fdatasync"))).then(|| words.get(3)?.parse::<u64>().ok())?
    });
    Ok(calls.sum())
}

/// A folder on the disk that is measured, removed at the end.
#[derive(Debug)]
pub struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    /// Below the folder of build results: /tmp may be memory, and memory has nothing to sync.
    pub fn new() -> Result<Self, String> {
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let unique = format!("throughput-{}-{:x}", std::process::id(), rand::random::<u32>());
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
