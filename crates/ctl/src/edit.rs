//! `queue edit`: change the envelope of a message, or the priority of messages.

use clap::Args;
use postern_admin::api::edit::EditRequest;
use postern_admin::api::{ChangeRequest, Changed, Filter};

use crate::Session;
use crate::change::{ChangeOptions, WaitOption, change, told};
use crate::failure::{Exit, Failure};
use crate::filter::priority;

/// Options of `edit`. All changes of one call to an envelope are made, or none.
#[derive(Debug, Args)]
#[command(mut_arg("sender", |arg| arg.help(
    "With an ID: another envelope sender, `<>` is the null sender; reports go there from now on. Without one a condition: the \
     envelope sender, an address, `@domain`, or `<>`"
)))]
pub struct EditOptions {
    /// Bring messages forward in the lines of their destinations, or let others pass: -9 to 9, most have 0. Takes a filter.
    #[arg(long, value_name = "NUMBER", value_parser = priority, allow_hyphen_values = true)]
    priority: Option<i8>,
    /// Add a recipient; local aliases are followed. Can be given several times, as the two below; each takes the ID of one
    /// message.
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
    #[command(flatten)]
    wait: WaitOption,
    #[command(flatten)]
    change: ChangeOptions,
}

/// What is asked.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// Changes of one envelope.
    Envelope(EditRequest),
    /// Another priority.
    Priority(Box<ChangeRequest>),
}

impl EditOptions {
    /// Runs it.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        match self.asked()? {
            Asked::Priority(request) => change(session, "prioritise", &self.change, *request).await,
            Asked::Envelope(request) => {
                let changed: Changed = session.client()?.post("/v1/queue/edit", &request).await?;
                told(session, "edit", &changed)
            }
        }
    }

    /// Reads the options. With an id, a sender is the new one: of what has an id nobody needs to find it.
    fn asked(&self) -> Result<Asked, Failure> {
        let filter = self.change.filter.filter()?;
        let sender = filter.sender.clone().filter(|_| !filter.ids.is_empty());
        let lists = [&self.add_rcpt, &self.remove_rcpt, &self.mark_delivered];
        let changes_envelope = sender.is_some() || lists.iter().any(|list| !list.is_empty());
        if !changes_envelope {
            let Some(priority) = self.priority else {
                let text = "queue edit: what? --priority, or of one message --sender, --add-rcpt, --remove-rcpt or --mark-delivered";
                return Err(Failure::Usage(text.to_owned()));
            };
            let request = self.change.request("edit")?;
            let (priority, reason, wait) = (Some(priority.into()), self.reason.clone(), self.wait.wait);
            let request = ChangeRequest { priority, reason, wait, ..request };
            return Ok(Asked::Priority(Box::new(request)));
        }
        let only_id = Filter { ids: filter.ids.clone(), sender: sender.clone(), ..Filter::default() };
        let [id] = filter.ids.as_slice() else {
            return Err(one_message());
        };
        if filter != only_id || self.change.filter.all {
            return Err(one_message());
        }
        Ok(Asked::Envelope(EditRequest {
            id: id.clone(),
            sender,
            add: self.add_rcpt.clone(),
            remove: self.remove_rcpt.clone(),
            mark_delivered: self.mark_delivered.clone(),
            priority: self.priority.map(Into::into),
            dry_run: self.change.dry_run,
            reason: self.reason.clone(),
            wait: self.wait.wait,
        }))
    }
}

fn one_message() -> Failure {
    let text = "queue edit: --sender, --add-rcpt, --remove-rcpt and --mark-delivered change one message: give its ID, and no \
                other condition; only --priority takes a filter";
    Failure::Usage(text.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        edit: EditOptions,
    }

    fn asked(arguments: &[&str]) -> Result<Asked, Failure> {
        Line::try_parse_from(["x"].iter().chain(arguments)).unwrap().edit.asked()
    }

    fn usage(arguments: &[&str]) -> String {
        match asked(arguments) {
            Err(Failure::Usage(text)) => text,
            other => panic!("{arguments:?}: {other:?}"),
        }
    }

    #[test]
    fn with_an_id_a_sender_is_the_new_one_and_without_one_a_condition() {
        let sender = Some("alice@proseware.test".to_owned());
        let edit = EditRequest { id: "0AB".to_owned(), sender: sender.clone(), ..EditRequest::default() };
        assert_eq!(
            asked(&["0AB", "--sender", "alice@proseware.test"]).unwrap(),
            Asked::Envelope(edit.clone())
        );
        let both = EditRequest { priority: Some(5), ..edit };
        let given = ["--id", "0AB", "--sender", "alice@proseware.test", "--priority", "5"];
        assert_eq!(asked(&given).unwrap(), Asked::Envelope(both));
        let filter = Filter { sender, ..Filter::default() };
        let request = ChangeRequest { filter, priority: Some(-9), ..ChangeRequest::default() };
        let given = ["--sender", "alice@proseware.test", "--priority", "-9"];
        assert_eq!(asked(&given).unwrap(), Asked::Priority(Box::new(request)));
    }

    #[test]
    fn a_priority_takes_ids_and_filters() {
        let Asked::Priority(request) = asked(&["0AB", "0CD", "--priority", "0"]).unwrap() else {
            panic!("an envelope")
        };
        assert_eq!((request.filter.ids.len(), request.priority), (2, Some(0)));
        assert!(asked(&["--all", "--priority", "1"]).is_ok());
        assert!(usage(&["--priority", "1"]).contains("which messages?"));
    }

    #[test]
    fn an_envelope_is_changed_by_the_id_of_its_message_alone() {
        for wrong in [
            &["--add-rcpt", "bob@adatum.test"][..],
            &["0AB", "0CD", "--add-rcpt", "bob@adatum.test"],
            &["0AB", "--older", "1h", "--add-rcpt", "bob@adatum.test"],
            &["0AB", "--not", "--dsn", "--sender", "bob@adatum.test"],
            &["0AB", "--sender", "a@adatum.test", "--sender", "b@adatum.test"],
            &["0AB", "--all", "--sender", "a@adatum.test"],
        ] {
            assert!(usage(wrong).contains("give its ID"), "{wrong:?}");
        }
        for nothing in
            [&["0AB"][..], &["--sender", "bob@adatum.test"], &["0AB", "--not", "--sender", "x@y.test"]]
        {
            assert!(usage(nothing).contains("what?"), "{nothing:?}");
        }
    }

    #[test]
    fn a_priority_out_of_range_is_refused_with_the_range() {
        for wrong in ["10", "-10", "300", "high", ""] {
            let refused = Line::try_parse_from(["x", "0AB", "--priority", wrong]).unwrap_err().to_string();
            assert!(refused.contains("from -9 to 9"), "{refused}");
        }
    }
}
