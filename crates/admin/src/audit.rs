//! Who changed what: every change by an operator goes to the log and to a file in the spool directory that only the
//! daemon's user reads.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::api::{AuditEvent, Filter};

/// Octets of the file before it is moved aside; one older file is kept.
const MAX_OCTETS: u64 = 32 * 1024 * 1024;
/// Ids of a filter that are kept.
const MAX_IDS: usize = 10;

/// The file and its predecessor.
#[derive(Debug)]
pub(crate) struct Audit {
    path: PathBuf,
    older: PathBuf,
    max_octets: u64,
    /// One line at a time.
    writing: Mutex<()>,
}

impl Audit {
    /// In this directory: `audit.jsonl`, and `audit.jsonl.1` before it.
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            path: folder.join("audit.jsonl"),
            older: folder.join("audit.jsonl.1"),
            max_octets: MAX_OCTETS,
            writing: Mutex::new(()),
        }
    }

    /// Keeps an event, in the log and in the file. What was done is done: a full disk must not keep an operator from
    /// emptying it, so a failure is only logged.
    pub(crate) async fn note(self: &Arc<Self>, event: AuditEvent) {
        tracing::info!(
            event = "operator",
            verb = event.verb,
            uid = event.uid,
            id = event.id,
            rule = event.rule,
            object = event.object,
            filter = event.filter.as_ref().map(text),
            detail = event.detail,
            reason = event.reason,
            matched = event.matched,
            changed = event.changed,
            skipped = event.skipped,
            error = event.error,
        );
        let audit = self.clone();
        let written = tokio::task::spawn_blocking(move || audit.append(&event)).await;
        if let Err(error) = written.unwrap_or_else(|error| Err(io::Error::other(error))) {
            tracing::error!(event = "audit-failed", path = %self.path.display(), %error);
        }
    }

    fn append(&self, event: &AuditEvent) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let length = fs::metadata(&self.path).map_or(0, |found| found.len());
        if length > 0 && length + line.len() as u64 > self.max_octets {
            fs::rename(&self.path, &self.older)?;
        }
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        file.write_all(&line)?;
        file.sync_data()
    }

    /// The newest events since a time, oldest first, at most `limit`, and whether there were more. Blocking.
    pub(crate) fn read(&self, since: u64, limit: usize) -> io::Result<(Vec<AuditEvent>, bool)> {
        let mut newest = VecDeque::new();
        let mut more = false;
        for path in [&self.older, &self.path] {
            let file = match File::open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file?,
            };
            for line in BufReader::new(file).split(b'\n') {
                // A crash may have left half a line.
                let Ok(event) = serde_json::from_slice::<AuditEvent>(&line?) else {
                    continue;
                };
                if event.time < since {
                    continue;
                }
                newest.push_back(event);
                if newest.len() > limit {
                    newest.pop_front();
                    more = true;
                }
            }
        }
        Ok((newest.into(), more))
    }
}

/// Keeps an event of work on a spool that no daemon uses: in the file only. Blocking.
///
/// # Errors
/// The system's.
pub fn note_at_rest(spool: &Path, event: &AuditEvent) -> io::Result<()> {
    Audit::new(spool).append(event)
}

impl AuditEvent {
    /// An event of now.
    pub(crate) fn new(verb: &str, uid: u32) -> Self {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { time, verb: verb.to_owned(), uid, ..Self::default() }
    }

    /// The same about the messages of a filter; of many ids only the first are kept.
    pub(crate) fn with_filter(self, filter: &Filter) -> Self {
        let mut kept = filter.clone();
        kept.ids.truncate(MAX_IDS);
        Self { filter: Some(kept), ..self }
    }
}

fn text(filter: &Filter) -> String {
    serde_json::to_string(filter).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn event(time: u64) -> AuditEvent {
        AuditEvent { time, reason: Some("x".repeat(100)), ..AuditEvent::new("drop", 7) }
    }

    #[test]
    fn events_are_kept_in_one_file_and_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit { max_octets: 1000, ..Audit::new(folder.path()) };
        assert_eq!(audit.read(0, 10).unwrap(), (Vec::new(), false));
        for time in 0..30 {
            audit.append(&event(time)).unwrap();
            assert!(fs::metadata(&audit.path).unwrap().len() <= 1000);
        }
        assert_eq!(fs::metadata(&audit.path).unwrap().permissions().mode() & 0o777, 0o600);
        let (events, more) = audit.read(0, 1000).unwrap();
        assert!(events.len() > 5 && events.len() < 30 && !more, "{}", events.len());
        assert!(events.is_sorted_by_key(|event| event.time));
        assert_eq!(events.last(), Some(&event(29)));
        let (events, more) = audit.read(28, 1).unwrap();
        assert_eq!((events, more), (vec![event(29)], true));
    }

    #[test]
    fn half_a_line_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::new(folder.path());
        fs::write(&audit.path, b"{\"time\": 5\n\xff\n").unwrap();
        audit.append(&event(1)).unwrap();
        assert_eq!(audit.read(0, 10).unwrap(), (vec![event(1)], false));
    }

    #[test]
    fn a_filter_is_kept_with_its_first_ids_and_what_was_given_only() {
        let ids = (0..50).map(|id| id.to_string()).collect();
        let filter = Filter { ids, state: Some("held".to_owned()), ..Filter::default() };
        let event = AuditEvent::new("hold", 0).with_filter(&filter);
        let expected = r#"{"ids":["0","1","2","3","4","5","6","7","8","9"],"state":"held"}"#;
        assert_eq!(event.filter.as_ref().map(text).as_deref(), Some(expected));
        assert_eq!(text(&Filter::default()), "{}");
    }
}
