//! Maildirs: one file a message, complete or not there at all.
//!
//! A message is written into `tmp`, made durable and then renamed into `new`, so that no reader meets half of it and no
//! lock is needed.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use postern_queue::Progress;
use postern_smtp::{Address, Domain, ReversePath};

use crate::content::Source;
use crate::outcome::{Failure, Verdict};

/// A Maildir.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maildir {
    /// The directory that has `tmp`, `new` and `cur`; made if it is missing.
    pub path: PathBuf,
    /// The directory above it that must be there.
    pub base: PathBuf,
}

/// Who a copy is for, and from whom it came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copy<'a> {
    pub(crate) sender: &'a ReversePath,
    pub(crate) recipient: &'a Address,
    /// What RCPT TO said.
    pub(crate) given: Option<&'a Address>,
    /// Our name, for the name of the file.
    pub(crate) hostname: &'a Domain,
    /// Who is told of each step.
    pub(crate) progress: &'a Progress,
}

/// Why a copy is not in the mailbox.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MaildirError {
    #[error("{what} {}: {source}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Content(#[from] Failure),
    #[error("the delivery was cut short: {0}")]
    Cut(#[source] tokio::task::JoinError),
}

impl MaildirError {
    /// Never permanent: a full or unmounted disk is the fault of nobody who wrote a mail.
    pub(crate) fn verdict(&self) -> Verdict {
        let (subject, detail) = match self {
            Self::Content(failure) => return failure.verdict(),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => (3, 1),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::QuotaExceeded => (2, 2),
            Self::Io { .. } | Self::Cut(_) => (2, 0),
        };
        Verdict::later(subject, detail, self.to_string())
    }
}

/// Delivers one copy and answers the name of its file. The disk is touched on threads for blocking work only.
pub(crate) async fn deliver(
    maildir: &Maildir,
    copy: &Copy<'_>,
    source: &Source<'_>,
    now: SystemTime,
) -> Result<PathBuf, MaildirError> {
    let name = file_name(copy.hostname, now);
    let trace = trace_fields(copy);
    let place = maildir.clone();
    if let Source::Whole(bytes) = source {
        let bytes = bytes.clone();
        return blocking(move || {
            let mut draft = Draft::create(&place, &name, &trace)?;
            draft.write(&bytes)?;
            draft.commit()
        })
        .await;
    }
    let mut draft = blocking(move || Draft::create(&place, &name, &trace)).await?;
    let mut pieces = source.pieces();
    while let Some(piece) = pieces.next().await.map_err(Failure::Content)? {
        draft = blocking(move || draft.write(&piece).map(|()| draft)).await?;
        copy.progress.step("content written");
    }
    blocking(move || draft.commit()).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MaildirError> + Send + 'static,
) -> Result<T, MaildirError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(MaildirError::Cut(error)))
}

/// RFC 5321 §4.4: the last server puts the reverse-path in front. The other two say for whom this copy is.
fn trace_fields(copy: &Copy<'_>) -> Vec<u8> {
    let mut fields = format!("Return-Path: <{}>\nDelivered-To: {}\n", copy.sender, copy.recipient);
    if let Some(given) = copy.given.filter(|given| given.folded() != copy.recipient.folded()) {
        fields.push_str(&format!("X-Original-To: {given}\n"));
    }
    fields.into_bytes()
}

/// A name that no other delivery on any host has.
fn file_name(hostname: &Domain, now: SystemTime) -> String {
    static DELIVERIES: AtomicU64 = AtomicU64::new(0);
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let counter = DELIVERIES.fetch_add(1, Ordering::Relaxed);
    format!("{seconds}.{}_{counter}_{:016x}.{hostname}", std::process::id(), rand::random::<u64>())
}

/// A file in `tmp`, removed again unless it is committed.
struct Draft {
    file: File,
    /// `None` once it is committed.
    tmp: Option<PathBuf>,
    new: PathBuf,
    /// A CR at the end of the last piece, which may be half of a line end.
    pending_cr: bool,
}

impl Draft {
    fn create(maildir: &Maildir, name: &str, trace: &[u8]) -> Result<Self, MaildirError> {
        make_directories(maildir)?;
        let tmp = maildir.path.join("tmp").join(name);
        let mut options = OpenOptions::new();
        let file =
            options.write(true).create_new(true).mode(0o600).open(&tmp).map_err(failed("create", &tmp))?;
        let new = maildir.path.join("new").join(name);
        let mut draft = Self { file, tmp: Some(tmp), new, pending_cr: false };
        draft.append(trace)?;
        Ok(draft)
    }

    /// Appends content; CRLF becomes LF, as every reader of Maildirs expects.
    fn write(&mut self, piece: &[u8]) -> Result<(), MaildirError> {
        let mut text = Vec::with_capacity(piece.len() + 1);
        let mut rest = piece;
        if std::mem::take(&mut self.pending_cr) && rest.first() != Some(&b'\n') {
            text.push(b'\r');
        }
        while let Some(at) = memchr::memchr(b'\r', rest) {
            text.extend_from_slice(&rest[..at]);
            match rest.get(at + 1) {
                Some(b'\n') => {}
                Some(_) => text.push(b'\r'),
                None => self.pending_cr = true,
            }
            rest = &rest[at + 1..];
        }
        text.extend_from_slice(rest);
        self.append(&text)
    }

    fn append(&mut self, text: &[u8]) -> Result<(), MaildirError> {
        self.file.write_all(text).map_err(failed("write", &self.new))
    }

    /// Makes the file durable and shows it to readers.
    fn commit(mut self) -> Result<PathBuf, MaildirError> {
        if self.pending_cr {
            self.append(b"\r")?;
        }
        self.file.sync_all().map_err(failed("sync", &self.new))?;
        // Opened before anybody can see the file: from then on a failure must not lead to another copy.
        let directory = self.new.parent().map(|new| File::open(new).map_err(failed("open", new)));
        let directory = directory.transpose()?;
        if let Some(tmp) = &self.tmp {
            std::fs::rename(tmp, &self.new).map_err(failed("rename to", &self.new))?;
        }
        self.tmp = None;
        match directory.map_or(Ok(()), |directory| directory.sync_all()) {
            Ok(()) => Ok(std::mem::take(&mut self.new)),
            Err(error) => self.take_back(error),
        }
    }

    /// The file is in sight, and nobody knows whether its name is durable. It is hidden again, so that the next attempt makes
    /// no second copy; a reader that was faster has it, and then it is delivered.
    fn take_back(mut self, error: io::Error) -> Result<PathBuf, MaildirError> {
        match std::fs::remove_file(&self.new) {
            Ok(()) => Err(failed("sync the directory of", &self.new)(error)),
            Err(_) => {
                tracing::warn!(path = %self.new.display(), %error, "delivered, but its directory cannot be synced");
                Ok(std::mem::take(&mut self.new))
            }
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(tmp) = &self.tmp {
            // What cannot be removed is swept by any reader after 36 hours, as Maildirs have it.
            let _ = std::fs::remove_file(tmp);
        }
    }
}

/// Makes the Maildir, and what is missing between it and its base, for its owner only.
fn make_directories(maildir: &Maildir) -> Result<(), MaildirError> {
    if maildir.path.join("new").is_dir() && maildir.path.join("tmp").is_dir() {
        return Ok(());
    }
    if !maildir.base.is_dir() {
        let missing = io::Error::new(io::ErrorKind::NotFound, "is no directory");
        return Err(failed("above the mailbox,", &maildir.base)(missing));
    }
    let mut missing: Vec<&Path> =
        maildir.path.ancestors().take_while(|path| *path != maildir.base && !path.is_dir()).collect();
    missing.reverse();
    let parts = ["tmp", "new", "cur"].map(|part| maildir.path.join(part));
    for path in missing.into_iter().chain(parts.iter().map(PathBuf::as_path)) {
        make_directory(path)?;
    }
    Ok(())
}

fn make_directory(path: &Path) -> Result<(), MaildirError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => path.parent().map_or(Ok(()), sync_directory),
        // Another delivery made it meanwhile.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed("create", path)(error)),
    }
}

/// A new name is durable when its directory is.
fn sync_directory(path: &Path) -> Result<(), MaildirError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(failed("sync", path))
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MaildirError + use<> {
    let path = path.to_owned();
    move |source| MaildirError::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::os::unix::fs::PermissionsExt;

    use bytes::Bytes;

    use super::*;

    async fn deliver_text(
        maildir: &Maildir,
        given: Option<&str>,
        text: &str,
    ) -> Result<PathBuf, MaildirError> {
        let given = given.map(|text| Address::parse(text).unwrap());
        let copy = Copy {
            sender: &ReversePath::parse("bob@adatum.test").unwrap(),
            recipient: &Address::parse("alice@proseware.test").unwrap(),
            given: given.as_ref(),
            hostname: &Domain::parse("mail.proseware.test").unwrap(),
            progress: &Progress::default(),
        };
        let source = Source::Whole(Bytes::copy_from_slice(text.as_bytes()));
        deliver(maildir, &copy, &source, UNIX_EPOCH).await
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn count(path: &Path) -> usize {
        std::fs::read_dir(path).unwrap().count()
    }

    #[tokio::test]
    async fn a_message_appears_whole_in_new_and_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().to_owned();
        let maildir = Maildir { path: base.join("mail/proseware.test/alice"), base: base.clone() };
        let file =
            deliver_text(&maildir, Some("info@proseware.test"), "A: b\r\n\r\nx\r\n.\r\n").await.unwrap();
        let expected = "Return-Path: <bob@adatum.test>\nDelivered-To: alice@proseware.test\n\
                        X-Original-To: info@proseware.test\nA: b\n\nx\n.\n";
        assert_eq!(std::fs::read_to_string(&file).unwrap(), expected);
        assert_eq!(file.parent().unwrap(), maildir.path.join("new"));
        assert!(file.file_name().unwrap().to_str().unwrap().ends_with(".mail.proseware.test"));
        assert_eq!(mode(&file), 0o600);
        assert_eq!(mode(&base.join("mail")), 0o700);
        assert_eq!(mode(&maildir.path.join("cur")), 0o700);
        assert_eq!(count(&maildir.path.join("tmp")), 0);
        let again = deliver_text(&maildir, Some("ALICE@proseware.test"), "x\r\n").await.unwrap();
        assert_ne!(again, file);
        assert!(!std::fs::read_to_string(again).unwrap().contains("X-Original-To"));
    }

    #[tokio::test]
    async fn what_is_in_the_way_is_tried_again_later() {
        let folder = tempfile::tempdir().unwrap();
        let unmounted = Maildir { path: folder.path().join("disk/alice"), base: folder.path().join("disk") };
        let error = deliver_text(&unmounted, None, "x").await.unwrap_err();
        assert!(error.to_string().contains("disk"), "{error}");
        assert!(matches!(error.verdict(), Verdict::Ours { status, .. } if status.to_string() == "4.2.0"));
        assert!(!folder.path().join("disk").exists());
        let base = folder.path().to_owned();
        std::fs::write(base.join("alice"), "a file").unwrap();
        let blocked = Maildir { path: base.join("alice"), base };
        assert!(deliver_text(&blocked, None, "x").await.is_err());
    }

    #[test]
    fn a_file_whose_name_may_not_be_durable_is_not_left_in_sight() {
        let folder = tempfile::tempdir().unwrap();
        let maildir = Maildir { path: folder.path().join("alice"), base: folder.path().to_owned() };
        let in_sight = |name| {
            let mut draft = Draft::create(&maildir, name, b"x").unwrap();
            std::fs::rename(draft.tmp.take().unwrap(), &draft.new).unwrap();
            draft
        };
        let error = in_sight("one").take_back(io::Error::other("EIO")).unwrap_err();
        assert!(matches!(error.verdict(), Verdict::Ours { .. }), "tried again");
        assert_eq!(count(&maildir.path.join("new")), 0, "the next attempt would make a second copy");
        let taken = in_sight("two");
        std::fs::rename(&taken.new, maildir.path.join("cur/two:2,S")).unwrap();
        assert!(taken.take_back(io::Error::other("EIO")).is_ok(), "a reader has it: it is delivered");
    }

    #[test]
    fn a_full_disk_and_a_full_quota_have_their_own_status() {
        let status = |kind: io::ErrorKind| match failed("write", Path::new("/x"))(kind.into()).verdict() {
            Verdict::Ours { status, .. } => status.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(status(io::ErrorKind::StorageFull), "4.3.1");
        assert_eq!(status(io::ErrorKind::QuotaExceeded), "4.2.2");
        assert_eq!(status(io::ErrorKind::PermissionDenied), "4.2.0");
    }

    #[test]
    fn line_ends_are_converted_however_the_content_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let maildir = Maildir { path: folder.path().join("alice"), base: folder.path().to_owned() };
        let text = b"a\r\nb\rc\r\r\n\r\n\nd\r";
        for size in 1..text.len() {
            let mut draft = Draft::create(&maildir, &format!("{size}"), b"").unwrap();
            for piece in text.chunks(size) {
                draft.write(piece).unwrap();
            }
            assert_eq!(std::fs::read(draft.commit().unwrap()).unwrap(), b"a\nb\rc\r\n\n\nd\r", "{size}");
        }
        let mut abandoned = Draft::create(&maildir, "abandoned", b"").unwrap();
        abandoned.write(b"x").unwrap();
        drop(abandoned);
        assert_eq!(count(&maildir.path.join("tmp")), 0);
    }
}
