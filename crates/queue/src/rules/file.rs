//! The file of the rules: `rules.json` in the spool directory, replaced as a whole.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::error;

use super::{Rule, RuleError};

/// The version that this release writes and reads.
const VERSION: u32 = 1;
/// A longer file is not one of ours.
const MAX_OCTETS: u64 = 64 * 1024 * 1024;

/// The file.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
}

/// What it holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<R> {
    version: u32,
    next_id: u64,
    rules: Vec<R>,
}

/// What was read.
#[derive(Debug)]
pub(super) struct Kept<S> {
    pub(super) next_id: u64,
    pub(super) rules: Vec<S>,
    /// Why the file must not be written over: it cannot be read, and not be set aside either.
    pub(super) locked: Option<String>,
}

impl File {
    pub(super) fn new(directory: &Path) -> Self {
        Self { path: directory.join("rules.json") }
    }

    /// Reads the rules. A file that cannot be read is set aside, and so is a copy of one with rules that cannot: then the
    /// others count. Blocking.
    pub(super) fn read<S>(&self, now: u64, compile: impl Fn(Rule) -> Result<S, RuleError>) -> Kept<S> {
        // Ids that were used may be unknown now; a count of seconds is beyond all that were counted one by one.
        let nothing = |locked| Kept { next_id: now.max(1), rules: Vec::new(), locked };
        let document = match self.document() {
            Ok(document) => document,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Kept { next_id: 1, ..nothing(None) };
            }
            Err(error) => {
                let path = self.path.display();
                error!(event = "rules-damaged", %path, %error, "the standing rules cannot be read: none is in force");
                let aside = fs::rename(&self.path, self.aside(now)).err();
                return nothing(aside.map(|moving| {
                    format!("{path} cannot be read ({error}) and not be set aside ({moving})")
                }));
            }
        };
        let (mut rules, mut highest, mut is_whole) = (Vec::new(), 0, true);
        for value in document.rules {
            highest = highest.max(value["id"].as_u64().unwrap_or(0));
            let text = value.to_string();
            let rule = serde_json::from_value::<Rule>(value).map_err(|error| error.to_string());
            match rule.and_then(|rule| compile(rule).map_err(|error| error.to_string())) {
                Ok(rule) => rules.push(rule),
                Err(error) => {
                    is_whole = false;
                    error!(event = "rules-damaged", rule = text, %error, "a standing rule cannot be read: it is not in force");
                }
            }
        }
        let aside = if is_whole { None } else { fs::copy(&self.path, self.aside(now)).err() };
        let locked = aside.map(|error| {
            format!("{} has rules that cannot be read, and cannot be copied: {error}", self.path.display())
        });
        Kept { next_id: document.next_id.max(highest.saturating_add(1)), rules, locked }
    }

    fn document(&self) -> io::Result<Document<serde_json::Value>> {
        let mut text = Vec::new();
        fs::File::open(&self.path)?.take(MAX_OCTETS).read_to_end(&mut text)?;
        let document: Document<serde_json::Value> = serde_json::from_slice(&text)?;
        if document.version != VERSION {
            let error = format!("version {} is not known here, only {VERSION}", document.version);
            return Err(io::Error::new(ErrorKind::InvalidData, error));
        }
        Ok(document)
    }

    /// Replaces the file: after a crash it is the old one or the new one. Blocking.
    pub(super) fn write(&self, next_id: u64, rules: Vec<Rule>) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(&Document { version: VERSION, next_id, rules })?;
        let new = self.path.with_extension("json.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        fs::File::open(self.directory())?.sync_all()
    }

    /// What was set aside and not looked at yet.
    pub(super) fn problem(&self) -> Option<String> {
        let entries = fs::read_dir(self.directory()).ok()?;
        let is_aside = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(ASIDE))
        };
        let aside = entries.flatten().map(|entry| entry.path()).find(is_aside)?;
        let aside = aside.display();
        Some(format!(
            "standing rules could not be read and are not in force: look at {aside}, add them again, then remove that file"
        ))
    }

    fn aside(&self, now: u64) -> PathBuf {
        self.directory().join(format!("{ASIDE}{now}"))
    }

    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }
}

/// How the names of files begin that were set aside; the time follows.
const ASIDE: &str = "rules.json.damaged-";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::operate::Filter;
    use crate::rules::RuleAction;

    const NOW: u64 = 1_795_284_325;

    fn rule(id: u64) -> Rule {
        Rule {
            id,
            action: RuleAction::Reject,
            filter: Filter { sender: Some("@client.test".to_owned()), ..Filter::default() },
            reason: "why".to_owned(),
            text: Some("no".to_owned()),
            temporary: true,
            until: Some(NOW + 1),
            added: NOW,
            by: 7,
            hits: 12,
            last_hit: Some(NOW),
        }
    }

    fn read(file: &File) -> Kept<Rule> {
        file.read(NOW, |rule| match rule.id {
            4 => Err(RuleError::Bad("as the test wants it".to_owned())),
            _ => Ok(rule),
        })
    }

    #[test]
    fn rules_are_read_back_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::new(folder.path());
        let kept = read(&file);
        assert!((kept.next_id, kept.rules.len(), kept.locked) == (1, 0, None));
        file.write(9, vec![rule(1), rule(2)]).unwrap();
        // What a crash in the middle of the next write leaves.
        fs::write(folder.path().join("rules.json.new"), b"{\"version\": 1, \"rul").unwrap();
        let kept = read(&file);
        assert_eq!((kept.next_id, kept.rules, kept.locked), (9, vec![rule(1), rule(2)], None));
        assert_eq!(file.problem(), None);
        file.write(9, Vec::new()).unwrap();
        assert!(read(&file).rules.is_empty());
    }

    #[test]
    fn a_file_that_cannot_be_read_is_set_aside_and_told_of_until_it_is_removed() {
        for damage in [
            "",
            "\0\0\0",
            "{\"version\":1,\"next_id\":3,\"rules\":[",
            "{\"version\":2,\"next_id\":3,\"rules\":[]}",
        ] {
            let folder = tempfile::tempdir().unwrap();
            let file = File::new(folder.path());
            fs::write(&file.path, damage).unwrap();
            let kept = read(&file);
            // Nobody knows which numbers were used.
            assert!((kept.next_id, kept.rules.len(), kept.locked) == (NOW, 0, None), "{damage:?}");
            file.write(NOW + 1, vec![rule(NOW)]).unwrap();
            assert_eq!(read(&file).next_id, NOW + 1);
            let aside = folder.path().join(format!("rules.json.damaged-{NOW}"));
            assert_eq!(fs::read_to_string(&aside).unwrap(), damage);
            assert!(file.problem().unwrap().contains(aside.to_str().unwrap()));
            fs::remove_file(aside).unwrap();
            assert_eq!(file.problem(), None);
        }
    }

    #[test]
    fn one_rule_that_cannot_be_read_does_not_end_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::new(folder.path());
        file.write(3, vec![rule(1), rule(2), rule(4)]).unwrap();
        let text = fs::read_to_string(&file.path).unwrap();
        fs::write(&file.path, text.replacen("\"reject\"", "\"launch\"", 1)).unwrap();
        let kept = read(&file);
        assert_eq!((kept.next_id, kept.rules, kept.locked), (5, vec![rule(2)], None));
        let aside = fs::read_to_string(folder.path().join(format!("rules.json.damaged-{NOW}"))).unwrap();
        assert!(aside.contains("launch"));
        assert!(file.problem().is_some());
    }

    #[test]
    fn what_cannot_be_set_aside_is_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::new(folder.path());
        fs::write(&file.path, "damage").unwrap();
        // A directory with something in it cannot be replaced.
        let aside = folder.path().join(format!("rules.json.damaged-{NOW}"));
        fs::create_dir_all(aside.join("x")).unwrap();
        let locked = read(&file).locked.unwrap();
        assert!(locked.contains("cannot be read") && locked.contains("not be set aside"), "{locked}");
    }
}
