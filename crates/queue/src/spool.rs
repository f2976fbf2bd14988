//! The line between the queue and whatever keeps it: what the engine asks of a store, and nothing else.
//!
//! The engine, all of this crate but [`store`](crate::store) and [`memory`](crate::memory), holds in memory what waits, until
//! when, and who works on it. A [`Spool`] keeps what must outlive the process: of each message its envelope, its state (both
//! opaque octets to the store) and its content. Every verb of the queue that changes something ends in [`Spool::commit`],
//! and a start in the [`News`] of what was committed before.
//!
//! | implementation | for |
//! |---|---|
//! | [`store::Store`](crate::store::Store) | mail: a log on a local disk |
//! | [`memory::MemorySpool`](crate::memory::MemorySpool) | tests, and trying things |
//!
//! What both promise is written down as tests in `tests/spool.rs`; another implementation is one more line there.

use std::fmt::{self, Debug};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::message::QueueId;

/// Pieces in which contents are read are never larger.
pub const PIECE: usize = 256 * 1024;

/// A store of messages that one process uses at a time. Its verbs block or call back, and any thread may call them.
pub trait Spool: Debug + Send + Sync {
    /// A new id, greater than all that this store gave before, and than all that were ever committed: those of earlier starts
    /// and those from elsewhere included. See [`QueueId::after`].
    fn next_id(&self) -> QueueId;

    /// Takes the changes as one group: either all of them count or none, now and after a crash at any moment. `done(Ok)` is
    /// called when they are durable, `done(Err)` when they do not count; what a failed write has left of them is taken back
    /// before anything else is acknowledged. (A crash just then may bring the group back, whole: a message twice, none lost.)
    /// Groups take effect, and are told, in the order in which they were handed in; one that is refused at once may be told
    /// before others.
    ///
    /// Never waits. `done` may be called on a thread of the store's or in this one, also before this returns: hold no lock
    /// that it takes. One that panics harms no other.
    ///
    /// A state or an end of a message that is not there changes nothing.
    fn commit(&self, changes: Vec<Change>, done: Done);

    /// Somebody waits for what was handed to [`Spool::commit`]: a store that lets changes wait for each other, to make them
    /// durable together, ends that now.
    fn hurry(&self) {}

    /// Begins the content of a large message, so that it need not be in memory whole. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Io`]; also when this id has a content already.
    fn begin_body(&self, id: QueueId) -> Result<Box<dyn LargeBody>, StoreError>;

    /// Opens the content of a message. Reading does not wait for commits, and goes on when the message ends meanwhile. Blocking.
    ///
    /// # Errors
    /// [`StoreError::NoMessage`], [`StoreError::Io`], [`StoreError::Damaged`].
    fn read(&self, id: QueueId) -> Result<StoredBody, StoreError>;

    /// The envelope and the newest state of a message, both of one moment. Blocking.
    ///
    /// # Errors
    /// [`StoreError::NoMessage`], [`StoreError::Io`], [`StoreError::Damaged`].
    fn load(&self, id: QueueId) -> Result<Recovered, StoreError>;

    /// Free room, as it was a moment ago. Never waits: it is asked before every message.
    fn space(&self) -> Space;

    /// Why nothing, or no new mail, can be written, if so: cleared by the next write that succeeds. Never waits.
    fn health(&self) -> Option<String>;

    /// Makes durable what waits, refuses what comes later with [`StoreError::Closed`], and lets go of the store, so that
    /// another process may take it. Blocking. Dropping does the same.
    fn close(&self);
}

/// A change to the spool.
#[derive(Debug)]
pub enum Change {
    /// A new message: its encoded envelope and its content.
    Enqueue {
        /// Its id, from [`Spool::next_id`] or from another queue.
        id: QueueId,
        /// The envelope, opaque to the store.
        meta: Vec<u8>,
        /// The content.
        body: NewBody,
    },
    /// The state of a message, replacing the former one: opaque to the store.
    State {
        /// The message.
        id: QueueId,
        /// The encoded state.
        state: Vec<u8>,
    },
    /// The message has ended.
    Delete {
        /// The message.
        id: QueueId,
    },
}

/// The content of a new message.
#[derive(Debug)]
pub enum NewBody {
    /// Comes with the change: written one after the other.
    Inline(Vec<Bytes>),
    /// Is in the store already; `header` goes in front of it.
    Large {
        /// Our header fields.
        header: Vec<u8>,
        /// From [`Spool::begin_body`] of the same store, with the same id.
        body: FinishedBody,
    },
}

/// Called once: keep it short. See [`Spool::commit`].
pub type Done = Box<dyn FnOnce(Result<(), Arc<StoreError>>) + Send>;

/// The content of a large message while it arrives. Dropped before [`LargeBody::finish`], it leaves nothing behind.
pub trait LargeBody: Debug + Send {
    /// Appends. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn write(&mut self, piece: &[u8]) -> Result<(), StoreError>;

    /// Makes it durable, as far as that is possible without its message. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn finish(self: Box<Self>) -> Result<FinishedBody, StoreError>;
}

/// The content of a large message, complete, and not yet committed. Dropped without a commit, it leaves nothing behind.
#[derive(Debug)]
pub struct FinishedBody {
    length: u64,
    crc: u32,
    claim: Box<dyn Unclaimed>,
}

impl FinishedBody {
    /// For implementations of [`LargeBody`]: the length of what was written, the CRC32C over it, and what removes it.
    pub fn new(length: u64, crc: u32, claim: Box<dyn Unclaimed>) -> Self {
        Self { length, crc, claim }
    }

    /// Octets.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// CRC32C over them.
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// For implementations of [`Spool::commit`]: a message has it now.
    pub fn keep(self) {
        self.claim.keep();
    }
}

/// What a store has written of a content that belongs to no message yet. Dropped, it removes that.
pub trait Unclaimed: Debug + Send {
    /// It belongs to a message now, and stays.
    fn keep(self: Box<Self>);
}

/// The content of a stored message, open for reading.
#[derive(Debug)]
pub struct StoredBody {
    length: u64,
    is_warm: bool,
    reader: Box<dyn ReadBody>,
}

/// Where the content of a stored message comes from.
pub trait ReadBody: Debug + Send {
    /// The next piece: never empty, of at most [`PIECE`] octets; `None` at the end. Blocking. The last piece is given only if
    /// all is as it was written.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Damaged`].
    fn next(&mut self) -> Result<Option<Bytes>, StoreError>;
}

impl StoredBody {
    /// For implementations of [`Spool::read`]: `length` octets, and whether reading them is likely to come from memory.
    pub fn new(length: u64, is_warm: bool, reader: Box<dyn ReadBody>) -> Self {
        Self { length, is_warm, reader }
    }

    /// Octets.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether it has no octets.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether reading it is likely to come from memory: then it may be read on an async thread.
    pub fn is_warm(&self) -> bool {
        self.is_warm
    }

    /// The next piece: see [`ReadBody::next`].
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Damaged`].
    #[allow(
        clippy::should_implement_trait,
        reason = "it may fail, and has an end: a reader, not an iterator"
    )]
    pub fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        self.reader.next()
    }
}

/// A message in the spool, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Its id.
    pub id: QueueId,
    /// The encoded envelope.
    pub meta: Vec<u8>,
    /// The newest state, if there was one.
    pub state: Option<Vec<u8>>,
}

/// What is told of the messages while a spool is opened, in no particular order: later news of a message count in the
/// place of earlier ones.
#[derive(Debug)]
pub enum News {
    /// A message is in the queue.
    Message(Recovered),
    /// A message is in the queue, but its content is gone.
    Lost(Recovered),
    /// It is not, as it turns out.
    Gone(QueueId),
    /// Nothing that was said so far holds.
    Nothing,
}

/// What a start found.
#[derive(Debug, Default)]
pub struct Found {
    /// All messages, by id; none where they were told one by one.
    pub messages: Vec<Recovered>,
    /// What was set aside as damaged, is missing, or has lost its content.
    pub damaged: usize,
    /// Messages, among all, of which only the envelope is left.
    pub lost: Vec<QueueId>,
    /// Why the index was not used, if the store has one and did not use it.
    pub index_rebuilt: Option<String>,
}

/// Free room of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Octets.
    pub free: u64,
    /// Inodes: how many more files there may be.
    pub inodes: u64,
}

/// What can go wrong with the spool.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the file.
        what: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// Another process uses the spool: where it is, and which process it is as far as is known.
    #[error("the spool {0}")]
    InUse(InUse),
    /// The spool was written by a version that this one does not know.
    #[error(
        "unknown spool format {0:?} in the file FORMAT (this release knows {known}): a later release wrote the spool, or \
         the file is damaged. Use that release, or look at the file; nothing was changed",
        known = crate::store::format::known()
    )]
    UnknownFormat(String),
    /// A record whose checksum does not fit.
    #[error("damaged record of message {0}")]
    Damaged(QueueId),
    /// The message is not in the spool.
    #[error("no message {0}")]
    NoMessage(QueueId),
    /// The store is closed, or has stopped after an error.
    #[error("the spool is closed")]
    Closed,
    /// What was asked cannot be done as things are: says why, and what to do.
    #[error("{0}")]
    Refused(String),
    /// A long job was given up because nobody waits for it any more, or the server stops.
    #[error("given up before the end: nobody waits for it any more, or the server stops")]
    Interrupted,
}

impl StoreError {
    pub(crate) fn io(what: &str, path: &Path, source: io::Error) -> Self {
        Self::Io { what: format!("{what} {}", path.display()), source }
    }
}

/// A spool that another process uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InUse {
    /// The directory.
    pub path: PathBuf,
    /// The number of the process, if it has written it down.
    pub process: Option<u32>,
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is in use by ", self.path.display())?;
        match self.process {
            Some(process) => {
                write!(f, "process {process}: stop it first, or give this one a spool of its own")
            }
            None => write!(f, "another process: stop it first, or give this one a spool of its own"),
        }
    }
}
