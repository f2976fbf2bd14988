//! A bundle for support: all that somebody else needs to see of one case, and nothing that is secret.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context;
use clap::Args;
use postern_admin::api::Refusal;
use postern_admin::api::accounts::{AccountView, ShowAccount};
use postern_admin::api::history::{EventKind, EventView, History, HistoryRequest, Story};
use postern_admin::history::offline;
use postern_policy::bounce::{self, Bounce, MAX_INPUT};
use postern_smtp::date::rfc3339;
use serde::Serialize;
use serde_json::json;

use super::redact::Redactor;
use super::sources::Sources;
use super::tar;
use crate::Session;
use crate::config;
use crate::failure::{Exit, Failure};
use crate::output;

pub(super) const EXAMPLES: &str = "\
Examples:
  posternctl doctor bundle --message 01N2K3P4Q5R6S --output case.tar
  posternctl doctor bundle --ref 4QX7-93KD --output case.tar
  posternctl doctor bundle --bounce returned.eml --output case

The output is a tar archive if its name ends in .tar, else a directory; it must not exist yet. Passwords, hashes, keys and \
tokens are removed, and the file of logins is left out. Read it all the same before you hand it on: a bounce may hold the message.";

/// Messages of a history that go along.
const MOST_STORIES: usize = 20;
/// The folder within an archive.
const FOLDER: &str = "postern-case";
/// Of the directory, and of the archive.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// What the case is about, and where the bundle goes.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// A message, by its queue id; a Message-ID or an address do too.
    #[arg(long, value_name = "ID")]
    message: Option<String>,
    /// A refusal of ours, by the reference in its reply.
    #[arg(long = "ref", value_name = "REF", id = "reference", value_parser = reference)]
    reference: Option<String>,
    /// A bounce as it came, with its header and all parts; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    bounce: Option<PathBuf>,
    /// The archive (NAME.tar), or else the directory.
    #[arg(long, value_name = "PATH")]
    output: PathBuf,
}

/// It becomes a part of a path.
fn reference(text: &str) -> Result<String, String> {
    let is_one = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    is_one.then(|| text.to_owned()).ok_or_else(|| format!("{text:?} is no reference: such as 4QX7-93KD"))
}

/// What happened to one recipient.
#[derive(Debug, Default, Serialize)]
struct Incident {
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    sender: String,
    recipient: String,
    /// Who answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    /// At which port.
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    /// Where the message was going.
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<String>,
    /// `message`, `refusal`, `bounce`: where this is from.
    source: &'static str,
}

/// The answer.
#[derive(Debug, Serialize)]
struct Made {
    output: String,
    files: Vec<MadeFile>,
    /// What is not in it, and why.
    notes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unreachable: Option<String>,
}

#[derive(Debug, Serialize)]
struct MadeFile {
    name: String,
    octets: usize,
}

/// A bundle in the making.
struct Bundle<'s> {
    sources: &'s Sources,
    redactor: Redactor,
    files: Vec<(String, Vec<u8>)>,
    incidents: Vec<Incident>,
    notes: Vec<String>,
    port: Option<u16>,
    now: SystemTime,
}

impl Options {
    /// Makes the bundle.
    ///
    /// # Errors
    /// [`Failure`]; nothing is left behind then.
    pub(super) async fn run(&self, session: &mut Session) -> Result<Exit, Failure> {
        if self.message.is_none() && self.reference.is_none() && self.bounce.is_none() {
            let text = "what is the case about? Name one of --message, --ref, --bounce";
            return Err(Failure::Usage(text.to_owned()));
        }
        if self.output.symlink_metadata().is_ok() {
            let path = self.output.display();
            return Err(Failure::Usage(format!("{path} exists already: name another --output")));
        }
        let sources = Sources::find(session).await?;
        let mut bundle = Bundle::new(&sources, session.now);
        if let Some(key) = &self.message {
            bundle.message(key).await?;
        }
        if let Some(reference) = &self.reference {
            bundle.refusal(reference).await?;
        }
        if let Some(file) = &self.bounce {
            bundle.bounce(&read(file)?).await;
        }
        bundle.surroundings().await;
        let made = bundle.write(&self.output)?;
        session.out.answer(&made, |made, _| made.text())?;
        Ok(if made.unreachable.is_some() { Exit::Unreachable } else { Exit::Done })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let limit = MAX_INPUT as u64;
    let mut octets = Vec::new();
    if path == Path::new("-") {
        io::stdin().lock().take(limit).read_to_end(&mut octets)?;
    } else {
        let file = fs::File::open(path).with_context(|| path.display().to_string())?;
        file.take(limit).read_to_end(&mut octets).with_context(|| path.display().to_string())?;
    }
    Ok(octets)
}

impl<'s> Bundle<'s> {
    fn new(sources: &'s Sources, now: SystemTime) -> Self {
        let mut notes = Vec::new();
        let (redactor, port) = match sources.config() {
            Ok(config) => (Redactor::of(&config), Some(config.outbound.port)),
            Err(failure) => {
                let why = failure.text().unwrap_or_default();
                let why = why.lines().next().unwrap_or_default();
                notes.push(format!(
                    "the configuration cannot be read whole, so its secrets are removed by what they look like only: {why}"
                ));
                (Redactor::default(), None)
            }
        };
        Self { sources, redactor, files: Vec::new(), incidents: Vec::new(), notes, port, now }
    }

    fn add(&mut self, name: &str, content: Vec<u8>) {
        self.files.push((name.to_owned(), content));
    }

    fn add_json(&mut self, name: &str, content: &impl Serialize) {
        // What is made of our own types can be written.
        let content = self.redactor.json(&serde_json::to_value(content).unwrap_or_default());
        self.add(name, content);
    }

    async fn history(&self, key: &str) -> Result<History, Failure> {
        let request =
            HistoryRequest { key: key.to_owned(), since: None, until: None, limit: Some(MOST_STORIES) };
        match self.sources.daemon() {
            Some(daemon) => Ok(daemon.post("/v1/message/history", &request).await?),
            None => {
                let folder = self.sources.config()?.queue.history_path();
                offline(&folder, request).map_err(|error| Failure::Finding(error.to_string()))
            }
        }
    }

    /// A message that is or was here, the report about it, and the rights of the login that sent it.
    async fn message(&mut self, key: &str) -> Result<(), Failure> {
        let history = self.history(key).await?;
        if history.messages.is_empty() {
            return Err(Failure::Finding(format!(
                "nothing is known of {}: see posternctl message history",
                output::clean(key)
            )));
        }
        self.take_history(&history).await;
        self.add_json("history.json", &history);
        Ok(())
    }

    async fn take_history(&mut self, history: &History) {
        for story in &history.messages {
            let mut events = story.events.iter().filter(|event| {
                matches!(event.event, EventKind::Failed | EventKind::Deferred | EventKind::Expired)
            });
            // The last word is what counts; what came before is in the history.
            if let Some(event) = events.next_back() {
                let incidents = event.recipients.iter().map(|to| self.incident(event, &to.address));
                let incidents: Vec<Incident> = incidents.collect();
                self.incidents.extend(incidents);
            }
        }
        let reports = history.messages.iter().filter(|story| story.about.is_some() && story.queued.is_some());
        let reports: Vec<String> = reports.map(|story| story.id.clone()).collect();
        for id in reports {
            self.report(&id).await;
        }
        let logins = history
            .messages
            .iter()
            .filter_map(|story: &Story| story.origin.as_deref()?.strip_prefix("login "));
        let mut logins: Vec<String> = logins.map(str::to_owned).collect();
        logins.sort();
        logins.dedup();
        for login in logins {
            self.login(&login).await;
        }
    }

    fn incident(&self, event: &EventView, recipient: &str) -> Incident {
        let is_remote = event.host.is_some();
        Incident {
            time: Some(rfc3339(output::instant(event.time / 1000))),
            sender: event.sender.clone(),
            recipient: recipient.to_owned(),
            host: event.host.clone(),
            // The destination of a smarthost names its own.
            port: self
                .port
                .filter(|_| is_remote && event.destination.as_deref().is_none_or(|to| to.starts_with("mx "))),
            destination: event.destination.clone(),
            status: event.status.clone(),
            reply: event.reply.clone(),
            source: "message",
        }
    }

    /// A bounce of ours, while it is in the queue: after that it is in somebody's mailbox.
    async fn report(&mut self, id: &str) {
        let Some(daemon) = self.sources.daemon() else { return };
        let mut content = Vec::new();
        let path = format!("/v1/queue/cat?id={id}&part=raw");
        let read = daemon.stream(&path, |piece| {
            let room = MAX_INPUT.saturating_sub(content.len()).min(piece.len());
            content.extend_from_slice(&piece[..room]);
            Ok(())
        });
        match read.await {
            Ok(()) => {
                let content = self.redactor.octets(&content);
                self.add(&format!("bounce-{id}.eml"), content);
            }
            Err(error) => self.notes.push(format!("the report {id} could not be read: {error}")),
        }
    }

    async fn login(&mut self, name: &str) {
        let Some(daemon) = self.sources.daemon() else { return };
        let request = ShowAccount { name: name.to_owned() };
        match daemon.post::<AccountView>("/v1/accounts/show", &request).await {
            Ok(account) => self.add_json(&format!("login-{}.json", file_name(name)), &account),
            Err(error) => self.notes.push(format!("the login {name}: {error}")),
        }
    }

    /// A refusal of ours.
    async fn refusal(&mut self, reference: &str) -> Result<(), Failure> {
        let Some(daemon) = self.sources.daemon() else {
            self.notes.push(format!("the record of {reference} is known to the daemon only"));
            return Ok(());
        };
        let refusal: Refusal = daemon.get(&format!("/v1/explain/{reference}")).await?;
        self.incidents.push(Incident {
            time: Some(rfc3339(output::instant(refusal.time))),
            sender: refusal.reverse_path.clone(),
            recipient: refusal.recipient.clone().unwrap_or_default(),
            host: refusal.local.clone(),
            reply: Some(refusal.reply.clone()),
            source: "refusal",
            ..Incident::default()
        });
        if let Some(login) = &refusal.login {
            self.login(login).await;
        }
        self.add_json("refusal.json", &refusal);
        Ok(())
    }

    /// A bounce of whatever system, what it means, and what is known here of its recipients.
    async fn bounce(&mut self, octets: &[u8]) {
        let bounce: Bounce = bounce::explain(octets);
        for told in bounce.recipients.iter().take(MOST_STORIES) {
            self.incidents.push(Incident {
                recipient: told.recipient.clone().unwrap_or_default(),
                host: told.said_by.clone().or_else(|| bounce.reported_by.clone()),
                status: told.status.map(|status| status.to_string()),
                reply: (!told.text.is_empty()).then(|| told.text.clone()),
                source: "bounce",
                ..Incident::default()
            });
        }
        let recipient = bounce.recipients.iter().find_map(|told| told.recipient.clone());
        if let Some(recipient) =
            recipient.filter(|_| self.files.iter().all(|(name, _)| name != "history.json"))
        {
            match self.history(&recipient).await {
                Ok(history) => self.add_json("history.json", &history),
                Err(failure) => {
                    let why = failure.text().unwrap_or_default();
                    self.notes.push(format!("the history of {}: {why}", output::clean(&recipient)));
                }
            }
        }
        let content = self.redactor.octets(octets);
        self.add("bounce.eml", content);
        self.add_json("explanation.json", &bounce);
        if octets.len() >= MAX_INPUT {
            self.notes.push(format!("only the first {} MiB of the bounce are here", MAX_INPUT / 1024 / 1024));
        }
    }

    /// The server: its state, and its configuration without secrets.
    async fn surroundings(&mut self) {
        let sources = self.sources;
        if let Ok(status) = &sources.status {
            self.add_json("status.json", status);
        }
        let main = sources.path().to_owned();
        for path in config::files(&main) {
            let name = match path == main {
                true => "configuration/postern.toml".to_owned(),
                false => {
                    let name =
                        path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                    format!("configuration/conf.d/{name}")
                }
            };
            let text = fs::read_to_string(&path).map_err(|error| error.to_string());
            match text.and_then(|text| self.redactor.toml(&text)) {
                Ok(content) => self.add(&name, content),
                Err(why) => self.notes.push(format!("{} is not here: {why}", path.display())),
            }
        }
    }

    fn write(mut self, output: &Path) -> Result<Made, Failure> {
        let incidents = json!({ "incidents": self.incidents });
        self.add_json("case.json", &incidents);
        let summary = self.redactor.octets(self.summary().as_bytes());
        self.files.insert(0, ("README.txt".to_owned(), summary));
        let is_archive = output.extension().is_some_and(|extension| extension == "tar");
        let written = if is_archive { self.write_archive(output) } else { self.write_directory(output) };
        written.with_context(|| format!("writing {}", output.display()))?;
        Ok(Made {
            output: output.display().to_string(),
            files: self
                .files
                .iter()
                .map(|(name, content)| MadeFile { name: name.clone(), octets: content.len() })
                .collect(),
            notes: self.notes,
            unreachable: self.sources.status.as_ref().err().cloned(),
        })
    }

    /// For whoever opens it.
    fn summary(&self) -> String {
        let mut text = String::from("A case of mail that went wrong, as Postern knows it.\n\n");
        for incident in &self.incidents {
            text += &output::pairs(
                "  ",
                [
                    ("time", incident.time.clone()),
                    ("sender", (incident.source != "bounce").then(|| format!("<{}>", incident.sender))),
                    ("recipient", Some(format!("<{}>", incident.recipient))),
                    ("host", incident.host.clone()),
                    ("port", incident.port.map(|port| port.to_string())),
                    ("destination", incident.destination.clone()),
                    ("status", incident.status.clone()),
                    ("reply", incident.reply.as_ref().map(|reply| reply.replace('\n', " "))),
                    ("from", Some(incident.source.to_owned())),
                ],
            );
            text.push('\n');
        }
        if self.incidents.is_empty() {
            text += "  Nobody deferred or refused anything, as far as is known here.\n\n";
        }
        let _ =
            writeln!(text, "Made at {}. Passwords, hashes, keys and tokens were removed.", rfc3339(self.now));
        for note in &self.notes {
            let _ = writeln!(text, "Not here: {}", output::clean(note));
        }
        text
    }

    /// A new file that nobody else reads; whole, or not there.
    fn write_archive(&self, output: &Path) -> io::Result<()> {
        let time = self.now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let names: Vec<String> = self.files.iter().map(|(name, _)| format!("{FOLDER}/{name}")).collect();
        let files =
            names.iter().zip(&self.files).map(|(name, (_, content))| (name.as_str(), content.as_slice()));
        let archive = tar::archive(files, time);
        let mut file = create(output)?;
        let result = file.write_all(&archive).and_then(|()| file.sync_all());
        if result.is_err() {
            // Half of it is worse than nothing; the error that matters is the other one.
            let _ = fs::remove_file(output);
        }
        result
    }

    fn write_directory(&self, output: &Path) -> io::Result<()> {
        DirBuilder::new().mode(DIRECTORY_MODE).create(output)?;
        let write = || {
            let folder = |path: &Path| DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path);
            for (name, content) in &self.files {
                let path = output.join(name);
                path.parent().map_or(Ok(()), folder)?;
                create(&path)?.write_all(content)?;
            }
            Ok(())
        };
        let result = write();
        if result.is_err() {
            // It was made here.
            let _ = fs::remove_dir_all(output);
        }
        result
    }
}

fn create(path: &Path) -> io::Result<fs::File> {
    OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)
}

/// A login's name as a part of a file's.
fn file_name(text: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '@' | '.' | '-' | '_' | '+');
    let name: String = text.chars().map(|c| if fits(c) { c } else { '_' }).take(60).collect();
    name.trim_start_matches('.').to_owned()
}

impl Made {
    fn text(&self) -> String {
        let mut text = String::new();
        if let Some(problem) = &self.unreachable {
            let _ = writeln!(text, "{}", output::clean(problem));
        }
        let _ = writeln!(text, "{}:", output::clean(&self.output));
        for file in &self.files {
            let _ =
                writeln!(text, "  {:10}  {}", output::size(file.octets as u64), output::clean(&file.name));
        }
        for note in &self.notes {
            let _ = writeln!(text, "note: {}", output::clean(note));
        }
        text += "secrets were removed; read it all the same before you hand it on\n";
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_logins_leave_no_folder() {
        assert_eq!(file_name("alice@proseware.test"), "alice@proseware.test");
        assert_eq!(file_name("../../etc/passwd"), "_.._etc_passwd");
        assert_eq!(file_name(".."), "");
    }

    #[test]
    fn a_reference_is_no_path() {
        assert_eq!(reference("4QX7-93KD").as_deref(), Ok("4QX7-93KD"));
        for wrong in ["", "../status", "a b"] {
            assert!(reference(wrong).is_err(), "{wrong}");
        }
    }
}
