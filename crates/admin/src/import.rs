//! Messages on their way between two machines: one line of JSON, then the content as it is.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use postern_queue::transfer::{Transfer, TransferError};
use postern_queue::{AcceptError, Envelope, Incoming, Queue};
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use crate::api::ProblemKind;
use crate::server::{Failure, READ_TIMEOUT, failure};

/// Octets of the line.
const MAX_LINE: usize = 8 * 1024 * 1024;

/// The ids that were taken from other queues. A message is not taken twice, even when it has left the queue since.
#[derive(Debug)]
pub(crate) struct Imported {
    path: PathBuf,
    /// `None`: not read yet.
    ids: Option<BTreeSet<String>>,
}

impl Imported {
    /// In this directory: `imported`.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { path: folder.join("imported"), ids: None }
    }

    /// Blocking.
    fn ids(&mut self) -> io::Result<&mut BTreeSet<String>> {
        if self.ids.is_none() {
            let text = match fs::read_to_string(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
                text => text?,
            };
            self.ids = Some(text.lines().map(str::to_owned).collect());
        }
        Ok(self.ids.get_or_insert_default())
    }

    /// Whether a message with this id came in before. Blocking.
    pub(crate) fn has(&mut self, id: &str) -> io::Result<bool> {
        Ok(self.ids()?.contains(&id.to_ascii_uppercase()))
    }

    /// Notes that it came in. Blocking.
    pub(crate) fn add(&mut self, id: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        writeln!(file, "{id}")?;
        file.sync_data()?;
        self.ids()?.insert(id.to_owned());
        Ok(())
    }
}

/// One import at a time, so that an id cannot come in by two of them.
pub(crate) type Importing = Arc<tokio::sync::Mutex<Imported>>;

/// What became of a message: its id, and why it was skipped.
pub(crate) type Taken = (String, Option<String>);

/// A message that has come whole, or is not wanted.
pub(crate) struct Received {
    id: String,
    what: What,
}

enum What {
    /// Why it is not taken.
    Skipped(String),
    /// On its way in, while no other one may come in.
    Whole { incoming: Box<Incoming>, envelope: Box<Envelope>, imported: OwnedMutexGuard<Imported> },
}

impl Received {
    /// Its id in the other queue.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Takes it into the queue and notes its id.
    pub(crate) async fn take(self) -> Result<Taken, Failure> {
        match self.what {
            What::Skipped(reason) => Ok((self.id, Some(reason))),
            What::Whole { incoming, envelope, imported } => {
                let id =
                    incoming.commit(*envelope, Vec::new()).await.map_err(|error| not_accepted(&error))?;
                note(imported, id.to_string()).await?;
                Ok((id.to_string(), None))
            }
        }
    }
}

/// Receives a message by the queue's normal way in, up to its last octet.
pub(crate) async fn receive(
    queue: &Queue,
    importing: &Importing,
    max_size: u64,
    body: Body,
) -> Result<Received, Failure> {
    let mut reader = Reader { body, left: Bytes::new() };
    let transfer: Transfer = serde_json::from_slice(&reader.line().await?)
        .map_err(|error| bad(format!("the first line: {error}")))?;
    if transfer.size > max_size {
        let text = format!("message {}: {} octets, more than {max_size}", transfer.id, transfer.size);
        return Err(failure(ProblemKind::TooLarge, text));
    }
    let mut imported = importing.clone().lock_owned().await;
    let id = transfer.id.clone();
    let (known, imported) = blocking(move || {
        let known = imported.has(&id);
        known.map(|known| (known, imported))
    })
    .await?;
    let skipped = |reason: &str| Received { id: transfer.id.clone(), what: What::Skipped(reason.to_owned()) };
    if known {
        reader.drain(max_size).await?;
        return Ok(skipped("already imported"));
    }
    let (mut incoming, envelope) = match queue.incoming_transfer(&transfer) {
        Ok(begun) => begun,
        Err(error @ (TransferError::Present | TransferError::Over)) => {
            reader.drain(max_size).await?;
            return Ok(skipped(&error.to_string()));
        }
        Err(TransferError::Bad(text)) => return Err(bad(format!("message {}: {text}", transfer.id))),
        Err(TransferError::Accept(error)) => return Err(not_accepted(&error)),
    };
    let mut octets: u64 = 0;
    while let Some(piece) = reader.piece().await? {
        octets += piece.len() as u64;
        if octets > transfer.size {
            break;
        }
        incoming.write(piece).await.map_err(|error| not_accepted(&error))?;
    }
    if octets != transfer.size {
        let text = format!(
            "message {}: the content does not have the {} octets that are announced",
            transfer.id, transfer.size
        );
        return Err(bad(text));
    }
    let what = What::Whole { incoming: Box::new(incoming), envelope: Box::new(envelope), imported };
    Ok(Received { id: transfer.id, what })
}

/// Notes the id of a message that is in the queue.
pub(crate) async fn note(mut imported: OwnedMutexGuard<Imported>, id: String) -> Result<(), Failure> {
    let noted = id.clone();
    blocking(move || imported.add(&noted)).await.map_err(|Failure(status, mut problem)| {
        problem.error = format!("message {id} was taken, and is not noted as taken: {}", problem.error);
        Failure(status, problem)
    })
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|error| failure(ProblemKind::Store, format!("the list of imported messages: {error}")))
}

fn bad(text: String) -> Failure {
    failure(ProblemKind::BadRequest, text)
}

fn not_accepted(error: &AcceptError) -> Failure {
    failure(ProblemKind::Store, format!("the queue did not take the message: {error}"))
}

/// A request body, piece by piece.
struct Reader {
    body: Body,
    left: Bytes,
}

impl Reader {
    async fn piece(&mut self) -> Result<Option<Bytes>, Failure> {
        if !self.left.is_empty() {
            return Ok(Some(std::mem::take(&mut self.left)));
        }
        loop {
            let frame = timeout(READ_TIMEOUT, self.body.frame()).await;
            match frame.map_err(|_| bad("the body did not arrive in time".to_owned()))? {
                None => return Ok(None),
                Some(Err(error)) => return Err(bad(format!("the body cannot be read: {error}"))),
                Some(Ok(frame)) => {
                    if let Ok(piece) = frame.into_data() {
                        return Ok(Some(piece));
                    }
                }
            }
        }
    }

    /// The first line, without its end.
    async fn line(&mut self) -> Result<Bytes, Failure> {
        let mut line = BytesMut::new();
        while let Some(mut piece) = self.piece().await? {
            if let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
                line.extend_from_slice(&piece.split_to(end));
                self.left = piece.slice(1..);
                return Ok(line.freeze());
            }
            line.extend_from_slice(&piece);
            if line.len() > MAX_LINE {
                return Err(failure(
                    ProblemKind::TooLarge,
                    format!("the first line has more than {MAX_LINE} octets"),
                ));
            }
        }
        Err(bad("a line of JSON is expected, and then the content".to_owned()))
    }

    /// Reads what is not wanted, so that the answer reaches a peer that is still writing.
    async fn drain(&mut self, max_size: u64) -> Result<(), Failure> {
        let mut octets: u64 = 0;
        while let Some(piece) = self.piece().await? {
            octets += piece.len() as u64;
            if octets > max_size {
                return Err(failure(ProblemKind::TooLarge, format!("more than {max_size} octets")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn imported_ids_are_remembered_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut imported = Imported::new(folder.path());
        assert!(!imported.has("0BZ3K7QW2M4XA").unwrap());
        imported.add("0BZ3K7QW2M4XA").unwrap();
        assert!(imported.has("0BZ3K7QW2M4XA").unwrap());
        let mut again = Imported::new(folder.path());
        assert!(again.has("0bz3k7qw2m4xa").unwrap());
        assert!(!again.has("0BZ3K7QW2M4XB").unwrap());
    }
}
