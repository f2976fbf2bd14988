//! Changes go to their end and into the audit log, whatever becomes of the connection that asked for them: whoever hangs
//! up while messages are changed must not leave some of them unchanged, and nothing of it in the log.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::ProblemKind;
use crate::server::{Failure, GRACE, failure};

/// Changes at a time. A connection that has gone does not count any more, and what it has begun goes on.
const MAX_CHANGES: usize = 64;

/// The changes that are being made.
#[derive(Debug, Clone)]
pub(crate) struct Changes {
    tasks: TaskTracker,
    room: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Changes {
    /// They run in `tasks`, and `stop` says when the server stops.
    pub(crate) fn new(tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { tasks, room: Arc::new(Semaphore::new(MAX_CHANGES)), stop }
    }

    /// Makes a change beside the connection, with what notes it.
    pub(crate) async fn make<T: Send + 'static>(
        &self,
        change: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Failure> {
        let broke_off = |error: &dyn std::error::Error| {
            failure(ProblemKind::Store, format!("the change did not come to its end: {error}"))
        };
        let room = Arc::clone(&self.room).acquire_owned().await.map_err(|error| broke_off(&error))?;
        let made = self.tasks.spawn(async move {
            let made = change.await;
            drop(room);
            made
        });
        made.await.map_err(|error| broke_off(&error))
    }

    /// For the part of a change that may take long (many messages, attempts that are waited for): when the server stops it
    /// is broken off in time to be noted.
    pub(crate) async fn until_stop<T, E>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure>
    where
        Failure: From<E>,
    {
        let end = async {
            self.stop.cancelled().await;
            sleep(GRACE).await;
        };
        tokio::select! {
            biased;
            result = work => Ok(result?),
            () = end => {
                let text = "the server stopped before all was done: look at the messages to see what was";
                Err(failure(ProblemKind::Store, text))
            }
        }
    }
}
