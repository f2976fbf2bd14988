//! Tables as they are written: what can stand in a question, and what makes no sense.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use postern_policy::relay::{Reason, Verdict};
use postern_smtp::Domain;
use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::value::Datetime;

use super::Expected;
use crate::api::ExplainRequest;
use crate::explain::read_header;

/// A table of ten thousand questions has about half of it.
const MAX_TABLE: u64 = 4 * 1024 * 1024;
/// A table, read.
#[derive(Debug)]
pub struct Table {
    pub(super) path: PathBuf,
    /// With the line that each begins at.
    pub(super) questions: Vec<(usize, Row)>,
}

/// Why a table cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The file, or a message that it names.
    #[error("{path}: cannot be read: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A file that is no table.
    #[error("{path}: has more than {MAX_TABLE} octets, or is not in UTF-8: this is no table of questions")]
    NoTable {
        /// Which.
        path: PathBuf,
    },
    /// TOML, or what stands in it.
    #[error("{path}: {problem}")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong and where, with the line.
        problem: String,
    },
    /// A question that makes no sense.
    #[error("{path}:{line}: {problem}")]
    BadQuestion {
        /// Which.
        path: PathBuf,
        /// Where the question begins.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tables {
    #[serde(default)]
    question: Vec<Spanned<Row>>,
}

/// One question, and the answer that is expected.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    pub(super) name: Option<String>,
    pub(super) client: IpAddr,
    pub(super) listener: Option<String>,
    pub(super) local: Option<IpAddr>,
    #[serde(default)]
    pub(super) tls: bool,
    pub(super) user: Option<String>,
    pub(super) helo: Option<String>,
    #[serde(default)]
    pub(super) from: String,
    pub(super) to: String,
    /// The client says SMTPUTF8 in MAIL.
    #[serde(default)]
    pub(super) smtputf8: bool,
    /// Lines of a header.
    pub(super) header: Option<String>,
    /// A file with a message; relative paths count from the table.
    pub(super) message: Option<PathBuf>,
    pub(super) certificate: Option<String>,
    #[serde(default)]
    pub(super) certificate_names: Vec<String>,
    pub(super) at: Option<Datetime>,
    /// Somebody gave the client a temporary grant.
    #[serde(default)]
    pub(super) temporary_grant: bool,
    /// The client's address is that of this name.
    pub(super) host_name: Option<String>,
    #[serde(default)]
    pub(super) dns: Outside,
    /// What the server says that a relay domain's recipients are asked of.
    #[serde(default)]
    pub(super) primary: Outside,
    /// Zones of lists in DNS that the client is on, with what they answer.
    #[serde(default)]
    pub(super) listed: BTreeMap<String, Vec<Ipv4Addr>>,
    pub(super) expect: Expect,
    pub(super) reason: Option<String>,
    pub(super) code: Option<u16>,
}

/// What others say: DNS about the domains of senders (SPF, the owner's lock, whether a `[[domain]]` is verified), another server about
/// a recipient of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outside {
    /// Yes.
    #[default]
    Permits,
    /// No.
    Refuses,
    /// Nothing.
    Silent,
}

/// What the answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// 2yz to everything.
    Accept,
    /// A 5yz somewhere on the way.
    Reject,
    /// A 4yz somewhere on the way.
    Defer,
}

impl Expect {
    /// The word in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accept => Verdict::Accept.as_str(),
            Self::Reject => Verdict::Reject.as_str(),
            Self::Defer => Verdict::Defer.as_str(),
        }
    }
}

impl Table {
    /// Reads a table, and what its questions name.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn read(path: &Path) -> Result<Self, TableError> {
        let unreadable = |source| TableError::Unreadable { path: path.to_owned(), source };
        let mut octets = Vec::new();
        let file = File::open(path).map_err(unreadable)?;
        file.take(MAX_TABLE + 1).read_to_end(&mut octets).map_err(unreadable)?;
        let text = String::from_utf8(octets).ok().filter(|text| text.len() as u64 <= MAX_TABLE);
        let text = text.ok_or_else(|| TableError::NoTable { path: path.to_owned() })?;
        Self::parse(path, &text)
    }

    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, TableError> {
        let malformed = |problem: String| TableError::Malformed { path: path.to_owned(), problem };
        let tables: Tables = toml::from_str(text).map_err(|error| malformed(error.to_string()))?;
        if tables.question.is_empty() {
            return Err(malformed("there is no [[question]] in it: this proves nothing".to_owned()));
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let questions = tables.question.into_iter().map(|row| {
            let line = 1 + text.as_bytes()[..row.span().start].iter().filter(|byte| **byte == b'\n').count();
            let mut row = row.into_inner();
            row.read_message(folder)?;
            let bad = |problem| TableError::BadQuestion { path: path.to_owned(), line, problem };
            row.check().map_err(bad)?;
            Ok((line, row))
        });
        Ok(Self { path: path.to_owned(), questions: questions.collect::<Result<_, _>>()? })
    }
}

impl Row {
    /// Puts the header of the message in the place of its file.
    pub(super) fn read_message(&mut self, folder: &Path) -> Result<(), TableError> {
        if let (Some(message), None) = (&self.message, &self.header) {
            let path = folder.join(message);
            self.header = Some(read_header(&path).map_err(|source| TableError::Unreadable { path, source })?);
            self.message = None;
        }
        Ok(())
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.message.is_some() {
            return Err("`header` or `message`, not both".to_owned());
        }
        if let Some(name) = &self.host_name {
            Domain::parse(name).map_err(|error| format!("host_name {name:?} is no domain name: {error}"))?;
        }
        if let Some(reason) = self.reason.as_deref() {
            known_reason(reason)?;
        }
        let is_success = self.code.map(|code| (200..300).contains(&code));
        match (self.expect, is_success) {
            (Expect::Accept, Some(false)) => Err("what is accepted has the code 250".to_owned()),
            (Expect::Reject | Expect::Defer, Some(true)) => {
                Err("a refusal has a code from 400 on".to_owned())
            }
            _ => self.seconds().map(drop),
        }
    }

    /// When it is asked, in seconds since 1970.
    pub(super) fn seconds(&self) -> Result<Option<u64>, String> {
        let Some(at) = &self.at else { return Ok(None) };
        let wrong =
            || format!("at = {at} is no moment: write a time with its zone, such as 2026-11-21T18:05:25Z");
        let time: jiff::Timestamp = at.to_string().parse().map_err(|_| wrong())?;
        time.as_second().try_into().map(Some).map_err(|_| wrong())
    }

    pub(super) fn request(&self, now: u64) -> ExplainRequest {
        ExplainRequest {
            listener: self.listener.clone(),
            local: self.local,
            helo: self.helo.clone(),
            tls: self.tls,
            user: self.user.clone(),
            smtputf8: self.smtputf8,
            message: self.header.as_ref().map(|header| format!("{}\n\n", header.trim_end())),
            certificate: self.certificate.clone(),
            certificate_names: self.certificate_names.clone(),
            // It was checked when the table was read.
            at: Some(self.seconds().ok().flatten().unwrap_or(now)),
            ..ExplainRequest::new(self.client, &self.from, &self.to)
        }
    }

    pub(super) fn name(&self) -> String {
        let login = self.user.as_ref().map_or_else(String::new, |user| format!(" as {user}"));
        let described = || format!("{}{login}: <{}> to <{}>", self.client, self.from, self.to);
        self.name.clone().unwrap_or_else(described)
    }

    pub(super) fn expected(&self) -> Expected {
        Expected { verdict: self.expect, reason: self.reason.clone(), code: self.code }
    }
}

/// Whether an answer can have this reason: with a slip of the pen in it a question would fail for ever, and not say why.
fn known_reason(reason: &str) -> Result<(), String> {
    if Reason::WORDS.contains(&reason) {
        return Ok(());
    }
    Err(format!("there is no reason {reason:?}: reasons are {}", Reason::WORDS.join(", ")))
}
