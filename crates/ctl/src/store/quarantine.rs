//! `store quarantine`: what was set aside because it could not be read, and how it comes back or goes.

use std::fmt::Write as _;
use std::io::{BufRead, IsTerminal};
use std::time::SystemTime;

use clap::{Args, Subcommand};
use postern_admin::Client;
use postern_admin::api::store::{
    KeptMessage, KeptView, Quarantine, RemoveRequest, Removed, RestoreRequest, Restored,
};
use serde::Serialize;

use super::Reason;
use crate::Session;
use crate::failure::{Exit, Failure};
use crate::output::{self, Look};

const RESTORE_EXAMPLES: &str = "\
Examples:
  posternctl store quarantine restore 0BZ3K7QW2M4XA
  posternctl store quarantine restore 0BZ3K7QW2M4XA --rcpt bob@adatum.test --sender alice@proseware.test";

/// What can be done with what was set aside.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List what was set aside, and the segments that are kept because of it. Ends with 1 if there is anything.
    List,
    /// Show one piece with all that can be read in it.
    Show(Name),
    /// Put a message back into the queue, held and with a new id.
    #[command(after_help = RESTORE_EXAMPLES)]
    Restore(RestoreOptions),
    /// Remove pieces for good. A damaged segment is emptied and goes with its mark.
    Remove(RemoveOptions),
}

/// One piece.
#[derive(Debug, Args)]
pub struct Name {
    /// Its name in the list.
    #[arg(value_name = "NAME")]
    name: String,
}

/// Options of `restore`.
#[derive(Debug, Args)]
pub struct RestoreOptions {
    /// The queue id that the message had.
    #[arg(value_name = "ID")]
    id: String,
    /// Whom it is for, if its envelope cannot be read or is wrong. Can be given several times.
    #[arg(long = "rcpt", value_name = "ADDRESS")]
    recipients: Vec<String>,
    /// Whom it is from, together with --rcpt; empty or left out is the null sender.
    #[arg(long, value_name = "ADDRESS", requires = "recipients")]
    sender: Option<String>,
    /// Also if it was put back before.
    #[arg(long)]
    again: bool,
    #[command(flatten)]
    reason: Reason,
}

/// Options of `remove`.
#[derive(Debug, Args)]
pub struct RemoveOptions {
    /// Their names in the list.
    #[arg(value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    names: Vec<String>,
    /// Everything.
    #[arg(long)]
    all: bool,
    /// Do not ask; needed by scripts.
    #[arg(long, short)]
    yes: bool,
    /// Only say what would be removed.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    reason: Reason,
}

impl Verb {
    /// Runs the verb.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        match self {
            Self::List => list(session).await,
            Self::Show(name) => show(session, &name.name).await,
            Self::Restore(options) => restore(session, options).await,
            Self::Remove(options) => remove(session, options).await,
        }
    }
}

async fn pieces(client: &Client) -> Result<Quarantine, Failure> {
    Ok(client.get("/v1/store/quarantine").await?)
}

async fn list(session: &mut Session) -> Result<Exit, Failure> {
    let quarantine = pieces(&session.client()?).await?;
    let now = session.now;
    session.out.answer(&quarantine, |quarantine, look| list_text(&quarantine.pieces, now, look))?;
    Ok(if quarantine.pieces.is_empty() { Exit::Done } else { Exit::Finding })
}

fn list_text(pieces: &[KeptView], now: SystemTime, look: Look) -> String {
    if pieces.is_empty() {
        return "nothing was set aside\n".to_owned();
    }
    let rows = pieces.iter().map(|piece| {
        vec![
            piece.name.clone(),
            output::size(piece.octets),
            piece.since.map_or_else(|| "-".to_owned(), |since| output::age(since, now)),
            piece.segment.map_or_else(|| "-".to_owned(), |segment| segment.to_string()),
            contents(piece),
        ]
    });
    output::table(&["NAME", "SIZE", "AGE", "SEGMENT", "WHAT"], rows, look)
}

/// What a piece is, in a few words.
fn contents(piece: &KeptView) -> String {
    match piece.kind.as_str() {
        "damaged-segment" => "segment that is kept: a part of it is no record".to_owned(),
        "unreadable-segment" => "segment that is kept: the disk cannot read a part of it".to_owned(),
        "missing-segment" => "segment that is missing".to_owned(),
        "foreign" => "none of ours".to_owned(),
        _ => match piece.messages.as_slice() {
            [] => "no message that could be read".to_owned(),
            [message] => message_line(message),
            [first, rest @ ..] => format!("{} and {} more", message_line(first), rest.len()),
        },
    }
}

fn message_line(message: &KeptMessage) -> String {
    let mut text = format!("message {}: ", message.id);
    text += match message.readable.as_str() {
        "all" => "all of it can be read",
        "content" => "its content can be read, its envelope cannot",
        "envelope" => "its envelope can be read, its content cannot",
        _ => "it cannot be read",
    };
    if message.in_queue {
        text += " (and is in the queue)";
    }
    text
}

async fn show(session: &mut Session, name: &str) -> Result<Exit, Failure> {
    let found = pieces(&session.client()?).await?.pieces.into_iter().find(|piece| piece.name == name);
    let piece = found.ok_or_else(|| {
        Failure::Finding(format!(
            "{name:?}: nothing of this name was set aside (see `posternctl store quarantine list`)"
        ))
    })?;
    let now = session.now;
    session.out.answer(&piece, |piece, _| show_text(piece, now))?;
    Ok(Exit::Done)
}

fn show_text(piece: &KeptView, now: SystemTime) -> String {
    let mut text = output::pairs(
        "",
        [
            ("name", Some(piece.name.clone())),
            ("what", Some(contents(piece))),
            ("size", Some(output::size(piece.octets))),
            ("set aside", piece.since.map(|since| output::past(since, now))),
            ("segment", piece.segment.map(|segment| segment.to_string())),
            ("offset", piece.offset.map(|offset| offset.to_string())),
        ],
    );
    for message in &piece.messages {
        let _ = writeln!(text, "\n{}", output::clean(&message_line(message)));
        let more = (message.more_recipients > 0).then(|| format!(" and {} more", message.more_recipients));
        let recipients = message.recipients.join(", ") + more.as_deref().unwrap_or_default();
        text += &output::pairs(
            "  ",
            [
                ("size", Some(output::size(message.size))),
                ("sender", message.sender.as_ref().map(|sender| format!("<{sender}>"))),
                ("recipients", Some(recipients).filter(|recipients| !recipients.is_empty())),
            ],
        );
    }
    text
}

/// A restored message as it was read back.
#[derive(Debug, Serialize)]
struct PutBack {
    id: String,
    was: String,
    state: String,
}

async fn restore(session: &mut Session, options: RestoreOptions) -> Result<Exit, Failure> {
    let request = RestoreRequest {
        id: options.id,
        sender: options.sender,
        recipients: options.recipients,
        again: options.again,
        reason: options.reason.reason,
    };
    let client = session.client()?;
    let Restored { id, was } = client.post("/v1/store/quarantine/restore", &request).await?;
    let show = postern_admin::api::ShowRequest { id: id.clone() };
    let shown: postern_admin::api::Shown = client.post("/v1/queue/show", &show).await?;
    let answer = PutBack { id, was, state: shown.message.state };
    session.out.answer(&answer, |answer, _| put_back_text(answer))?;
    Ok(Exit::Done)
}

fn put_back_text(answer: &PutBack) -> String {
    let PutBack { id, was, state } = answer;
    format!(
        "put back: {was} is {id} now, {state}\n  `posternctl queue show {id}` and `posternctl queue cat {id}` show it, \
         `posternctl queue release {id}` delivers it\n"
    )
}

async fn remove(session: &mut Session, options: RemoveOptions) -> Result<Exit, Failure> {
    let client = session.client()?;
    if !options.yes && !options.dry_run && !confirmed(session, &client, &options).await? {
        return Err(Failure::Finding("nothing was removed".to_owned()));
    }
    let request = RemoveRequest {
        names: options.names,
        all: options.all,
        dry_run: options.dry_run,
        reason: options.reason.reason,
    };
    let removed: Removed = client.post("/v1/store/quarantine/remove", &request).await?;
    session.out.answer(&removed, |removed, _| removed_text(removed))?;
    Ok(removed_exit(&removed))
}

/// Shows what is to go for good, and asks.
async fn confirmed(session: &Session, client: &Client, options: &RemoveOptions) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Failure::Usage("without a terminal to ask on, say --yes".to_owned()));
    }
    let mut meant = pieces(client).await?.pieces;
    meant.retain(|piece| options.all || options.names.contains(&piece.name));
    session.note(&format!("these go for good:\n{}", list_text(&meant, session.now, Look::PLAIN)));
    session.note(&format!("remove {}? [y/N]", output::counted(meant.len(), "piece")));
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn removed_text(removed: &Removed) -> String {
    let matched = output::counted(removed.matched, "piece");
    if removed.dry_run {
        return format!("remove: {matched} matched, nothing was removed (dry run)\n");
    }
    let gone = removed.removed.len();
    let mut text = format!("remove: {matched} matched, {gone} removed, {} skipped\n", removed.skipped.len());
    for (name, reason) in &removed.skipped {
        let _ = writeln!(text, "  skipped {}: {}", output::clean(name), output::clean(reason));
    }
    text
}

fn removed_exit(removed: &Removed) -> Exit {
    if removed.matched == 0 {
        return Exit::Finding;
    }
    if removed.skipped.is_empty() { Exit::Done } else { Exit::Partial }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const SINCE: u64 = 1_795_284_325;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(SINCE + 7500)
    }

    fn message(readable: &str) -> KeptMessage {
        KeptMessage {
            id: "0BZ3K7QW2M4XA".to_owned(),
            readable: readable.to_owned(),
            in_queue: false,
            size: 900,
            sender: Some("alice@proseware.test".to_owned()),
            recipients: vec!["bob@adatum.test".to_owned()],
            more_recipients: 2,
        }
    }

    fn piece(kind: &str, messages: Vec<KeptMessage>) -> KeptView {
        KeptView {
            name: "seg-0000000300000000-40".to_owned(),
            kind: kind.to_owned(),
            octets: 2048,
            since: Some(SINCE),
            segment: Some(3),
            offset: Some(64),
            messages,
        }
    }

    #[test]
    fn a_list_says_what_each_piece_probably_is() {
        assert_eq!(list_text(&[], now(), Look::PLAIN), "nothing was set aside\n");
        let pieces = [
            piece("octets", vec![message("all")]),
            piece("octets", vec![message("content"), message("nothing")]),
            KeptView {
                name: "seg-0000000300000000.damaged".to_owned(),
                ..piece("damaged-segment", Vec::new())
            },
        ];
        let expected = "\
NAME                          SIZE     AGE   SEGMENT  WHAT
seg-0000000300000000-40       2.0 KiB  2h5m  3        message 0BZ3K7QW2M4XA: all of it can be read
seg-0000000300000000-40       2.0 KiB  2h5m  3        message 0BZ3K7QW2M4XA: its content can be read, its envelope cannot and 1 more
seg-0000000300000000.damaged  2.0 KiB  2h5m  3        segment that is kept: a part of it is no record
";
        assert_eq!(list_text(&pieces, now(), Look::PLAIN), expected);
    }

    #[test]
    fn a_piece_is_shown_with_its_messages() {
        let expected = "\
name       seg-0000000300000000-40
what       message 0BZ3K7QW2M4XA: its envelope can be read, its content cannot
size       2.0 KiB
set aside  2026-11-21T18:05:25Z (2h5m ago)
segment    3
offset     64

message 0BZ3K7QW2M4XA: its envelope can be read, its content cannot
  size        900 B
  sender      <alice@proseware.test>
  recipients  bob@adatum.test and 2 more
";
        assert_eq!(show_text(&piece("octets", vec![message("envelope")]), now()), expected);
    }

    #[test]
    fn a_removal_says_what_was_skipped_and_ends_with_three() {
        let removed = |matched, gone: usize, skipped: usize| Removed {
            dry_run: false,
            matched,
            removed: vec!["a".to_owned(); gone],
            skipped: vec![("b".to_owned(), "still needed".to_owned()); skipped],
        };
        let text = "remove: 2 pieces matched, 1 removed, 1 skipped\n  skipped b: still needed\n";
        assert_eq!(removed_text(&removed(2, 1, 1)), text);
        assert_eq!(removed_exit(&removed(2, 1, 1)), Exit::Partial);
        assert_eq!(removed_exit(&removed(2, 2, 0)), Exit::Done);
        assert_eq!(removed_exit(&removed(0, 0, 0)), Exit::Finding);
        let dry = Removed { dry_run: true, ..removed(2, 0, 0) };
        assert!(removed_text(&dry).contains("dry run"));
    }
}
