//! `queue edit`: change the envelope of a message.

use clap::Args;
use postern_admin::api::Changed;
use postern_admin::api::edit::EditRequest;

use crate::Session;
use crate::change::{WaitOption, told};
use crate::failure::{Exit, Failure};

/// Options of `edit`. All changes of one call are made, or none.
#[derive(Debug, Args)]
pub struct EditOptions {
    /// Its queue id.
    #[arg(value_name = "ID")]
    id: String,
    /// Another envelope sender; `<>` is the null sender. Reports go there from now on.
    #[arg(long, value_name = "ADDRESS")]
    sender: Option<String>,
    /// Add a recipient; local aliases are followed. Can be given several times, as the two below.
    #[arg(long, value_name = "ADDRESS")]
    add_rcpt: Vec<String>,
    /// Take a recipient out; nobody is told.
    #[arg(long, value_name = "ADDRESS")]
    remove_rcpt: Vec<String>,
    /// Count a recipient as delivered: it has the message by another way. Nobody is told.
    #[arg(long, value_name = "ADDRESS")]
    mark_delivered: Vec<String>,
    /// Why; it stands in the log.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only say whether the request can be read and the message is there.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitOption,
}

impl EditOptions {
    /// Runs it.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let request = EditRequest {
            id: self.id,
            sender: self.sender,
            add: self.add_rcpt,
            remove: self.remove_rcpt,
            mark_delivered: self.mark_delivered,
            dry_run: self.dry_run,
            reason: self.reason,
            wait: self.wait.wait,
        };
        let is_empty = request.sender.is_none()
            && [&request.add, &request.remove, &request.mark_delivered].iter().all(|list| list.is_empty());
        if is_empty {
            let text = "queue edit: what? --sender, --add-rcpt, --remove-rcpt or --mark-delivered";
            return Err(Failure::Usage(text.to_owned()));
        }
        let changed: Changed = session.client()?.post("/v1/queue/edit", &request).await?;
        told(session, "edit", &changed)
    }
}
