//! The reports of domains on disk: `policy/domains.json` in the spool directory.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use postern_policy::verification::DomainReport;
use postern_smtp::Domain;
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    domains: BTreeMap<String, DomainReport>,
}

/// The file. Its methods wait for the disk.
#[derive(Debug, Clone)]
pub(super) struct ReportFile {
    path: PathBuf,
}

impl ReportFile {
    /// In the spool directory.
    pub(super) fn new(spool: &Path) -> Self {
        Self { path: spool.join("policy").join("domains.json") }
    }

    /// The reports. A file that cannot be understood is set aside: the domains are looked up again.
    pub(super) fn read(&self) -> Vec<(Domain, DomainReport)> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                self.set_aside(&error.to_string());
                return Vec::new();
            }
        };
        match serde_json::from_str::<Content>(&text) {
            Ok(content) if content.version == VERSION => {
                let domains = content.domains.into_iter();
                domains.filter_map(|(name, report)| Some((Domain::parse(&name).ok()?, report))).collect()
            }
            Ok(content) => {
                self.set_aside(&format!("it is of version {}, not {VERSION}", content.version));
                Vec::new()
            }
            Err(error) => {
                self.set_aside(&error.to_string());
                Vec::new()
            }
        }
    }

    /// Replaces the file, in one step.
    pub(super) fn write(&self, reports: Vec<(Domain, DomainReport)>) -> io::Result<()> {
        let domains = reports.into_iter().map(|(name, report)| (name.to_string(), report)).collect();
        let text = serde_json::to_vec(&Content { version: VERSION, domains })?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let new = self.path.with_extension("json.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(folder)?.sync_all()
    }

    fn set_aside(&self, problem: &str) {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let aside = self.path.with_extension(format!("json.damaged-{seconds}"));
        let moved = fs::rename(&self.path, &aside);
        tracing::warn!(
            event = "domain-reports-damaged",
            path = %self.path.display(),
            set_aside = moved.is_ok().then(|| aside.display().to_string()),
            "the reports of domains cannot be read, all domains are pending: {problem}"
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_policy::verification::State;

    use super::*;

    #[test]
    fn reports_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = ReportFile::new(folder.path());
        assert!(file.read().is_empty());
        let report = DomainReport { state: State::Verified, checked: Some(7), ..DomainReport::default() };
        let reports = vec![(Domain::parse("adatum.test").unwrap(), report)];
        file.write(reports.clone()).unwrap();
        file.write(reports.clone()).unwrap();
        assert_eq!(file.read(), reports);
    }

    #[test]
    fn a_damaged_file_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let file = ReportFile::new(folder.path());
        for damage in [
            "{",
            "",
            "[]",
            "{\"version\":99,\"domains\":{}}",
            "{\"version\":1,\"domains\":{\"a\":{\"state\":\"x\"}}}",
        ] {
            file.write(Vec::new()).unwrap();
            fs::write(&file.path, damage).unwrap();
            assert!(file.read().is_empty(), "{damage}");
            assert!(!file.path.exists(), "{damage}");
        }
        let kept = fs::read_dir(folder.path().join("policy")).unwrap().count();
        assert!(kept >= 1);
    }
}
