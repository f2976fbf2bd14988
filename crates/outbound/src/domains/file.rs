//! The reports of domains on disk: `policy/domains.json` in the spool directory.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use postern_policy::verification::DomainReport;
use postern_runtime::StateFile;
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
pub(super) struct ReportFile(StateFile);

impl ReportFile {
    /// In the spool directory.
    pub(super) fn new(spool: &Path) -> Self {
        Self(StateFile::new(spool, "domains.json"))
    }

    /// The reports. A file that cannot be understood is set aside: the domains are looked up again.
    pub(super) fn read(&self) -> Vec<(Domain, DomainReport)> {
        let problem = match fs::read(self.0.path()) {
            Ok(text) => match serde_json::from_slice::<Content>(&text) {
                Ok(content) if content.version == VERSION => {
                    let domains = content.domains.into_iter();
                    return domains
                        .filter_map(|(name, report)| Some((Domain::parse(&name).ok()?, report)))
                        .collect();
                }
                Ok(content) => format!("it is of version {}, not {VERSION}", content.version),
                Err(error) => error.to_string(),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
            Err(error) => error.to_string(),
        };
        self.set_aside(&problem);
        Vec::new()
    }

    /// Replaces the file, in one step.
    pub(super) fn write(&self, reports: Vec<(Domain, DomainReport)>) -> io::Result<()> {
        let domains = reports.into_iter().map(|(name, report)| (name.to_string(), report)).collect();
        self.0.replace(&serde_json::to_vec(&Content { version: VERSION, domains })?)
    }

    fn set_aside(&self, problem: &str) {
        let aside = self.0.set_aside();
        tracing::warn!(
            event = "domain-reports-damaged",
            path = %self.0.path().display(),
            set_aside = aside.ok().map(|aside| aside.display().to_string()),
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
            fs::write(file.0.path(), damage).unwrap();
            assert!(file.read().is_empty(), "{damage}");
            assert!(!file.0.path().exists(), "{damage}");
        }
        let kept = fs::read_dir(folder.path().join("policy")).unwrap().count();
        assert!(kept >= 1);
    }
}
