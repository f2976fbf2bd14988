//! Tables of questions with the answers that the rules must give: the operator's own proof that a server is closed.
//!
//! A table is asked of a configuration alone, so that it answers the same in `posternctl policy test`, `posternd check`, at a start
//! and at a reload: nobody has a temporary grant, no rate is used up, and DNS permits every sender, unless the question
//! says otherwise. The answers are those of [`explain`](crate::explain).
//!
//! A table proves rules, and that a login is locked is none: a question that is answered otherwise only because its login may
//! not be used now is asked again as if it might. So a table can expect that a login is refused, and still never keeps one
//! from being locked.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postern_config::diagnostic::{Place, Severity};
use postern_config::{Config, Diagnostic, LoginState, RequireVerified};
use postern_policy::Policy;
use postern_policy::facts::Wanted;
use postern_policy::owners_lock::OwnersLock;
use postern_policy::relay::Verdict;
use postern_policy::sender_domains::SenderPolicy;
use postern_policy::standing::Standing;
use postern_policy::standing::blocklists::Answered;
use postern_policy::standing::grants::TemporaryGrant;
use postern_policy::standing::recipients::Said;
use postern_policy::verification::{DomainReport, Outcome, State};
use postern_smtp::Domain;
use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::value::Datetime;

use crate::api::{ExplainRequest, Explanation, Rule, StageView};
use crate::explain::{BadQuestion, Beyond, explain, goes_on, read_header, wanted};

/// A table of ten thousand questions has about half of it.
const MAX_TABLE: u64 = 4 * 1024 * 1024;
/// Recipients of relay domains that are remembered; a question is about one.
const MOST_RECIPIENTS: usize = 10;
/// Until when an assumed temporary grant holds: any time is long enough for one question.
const GRANTED: Duration = Duration::from_secs(3600);

/// A table, read.
#[derive(Debug)]
pub struct Table {
    path: PathBuf,
    /// With the line that each begins at.
    questions: Vec<(usize, Row)>,
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
struct Row {
    name: Option<String>,
    client: IpAddr,
    listener: Option<String>,
    local: Option<IpAddr>,
    #[serde(default)]
    tls: bool,
    user: Option<String>,
    helo: Option<String>,
    #[serde(default)]
    from: String,
    to: String,
    /// Lines of a header.
    header: Option<String>,
    /// A file with a message; relative paths count from the table.
    message: Option<PathBuf>,
    certificate: Option<String>,
    #[serde(default)]
    certificate_names: Vec<String>,
    at: Option<Datetime>,
    /// Somebody gave the client a temporary grant.
    #[serde(default)]
    temporary_grant: bool,
    /// The client's address is that of this name.
    host_name: Option<String>,
    #[serde(default)]
    dns: Outside,
    /// What the server says that a relay domain's recipients are asked of.
    #[serde(default)]
    primary: Outside,
    /// Zones of lists in DNS that the client is on, with what they answer.
    #[serde(default)]
    listed: BTreeMap<String, Vec<Ipv4Addr>>,
    expect: Expect,
    reason: Option<String>,
    code: Option<u16>,
}

/// What others say: DNS about the domains of senders (SPF, the owner's lock, whether a `[[domain]]` is verified), another server about
/// a recipient of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Outside {
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

/// What came of one table.
#[derive(Debug, Clone, Serialize)]
pub struct TableReport {
    /// The file.
    pub file: PathBuf,
    /// One for each question, in order.
    pub rows: Vec<RowReport>,
}

/// What came of one question.
#[derive(Debug, Clone, Serialize)]
pub struct RowReport {
    /// Where the question begins in the file.
    pub line: usize,
    /// Its name, or what it asks.
    pub name: String,
    /// Whether the answer is the one that was expected.
    pub passed: bool,
    /// What was expected.
    pub expected: Expected,
    /// What the rules say; left out where the question cannot be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    /// What of it is not as expected.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// The answer is only as expected if the login could be used: why it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locked: Option<String>,
    /// The question as `posternctl policy explain` asks it, where the answer is not as expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<ExplainRequest>,
    /// And every rule that was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Explanation>,
}

/// What was expected of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expected {
    /// `accept`, `reject` or `defer`.
    pub verdict: Expect,
    /// `not-trusted-not-local` ...; any, where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The code of the reply; any, where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
}

/// What the rules say: the answer of the last stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// `connect`, `login`, `mail`, `rcpt` or `message`.
    pub stage: String,
    /// `accept`, `reject` or `defer`.
    pub verdict: String,
    /// Why: of a mail that is accepted, why its recipient is.
    pub reason: String,
    /// The code of the reply, where the words of replies are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// The reply of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
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

    fn parse(path: &Path, text: &str) -> Result<Self, TableError> {
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
    fn read_message(&mut self, folder: &Path) -> Result<(), TableError> {
        if let (Some(message), None) = (&self.message, &self.header) {
            let path = folder.join(message);
            self.header = Some(read_header(&path).map_err(|source| TableError::Unreadable { path, source })?);
            self.message = None;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        if self.message.is_some() {
            return Err("`header` or `message`, not both".to_owned());
        }
        if let Some(name) = &self.host_name {
            Domain::parse(name).map_err(|error| format!("host_name {name:?} is no domain name: {error}"))?;
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
    fn seconds(&self) -> Result<Option<u64>, String> {
        let Some(at) = &self.at else { return Ok(None) };
        let wrong =
            || format!("at = {at} is no moment: write a time with its zone, such as 2026-11-21T18:05:25Z");
        let time: jiff::Timestamp = at.to_string().parse().map_err(|_| wrong())?;
        time.as_second().try_into().map(Some).map_err(|_| wrong())
    }

    fn request(&self, now: u64) -> ExplainRequest {
        ExplainRequest {
            listener: self.listener.clone(),
            local: self.local,
            helo: self.helo.clone(),
            tls: self.tls,
            user: self.user.clone(),
            message: self.header.as_ref().map(|header| format!("{}\n\n", header.trim_end())),
            certificate: self.certificate.clone(),
            certificate_names: self.certificate_names.clone(),
            // It was checked when the table was read.
            at: Some(self.seconds().ok().flatten().unwrap_or(now)),
            ..ExplainRequest::new(self.client, &self.from, &self.to)
        }
    }

    fn name(&self) -> String {
        let login = self.user.as_ref().map_or_else(String::new, |user| format!(" as {user}"));
        let described = || format!("{}{login}: <{}> to <{}>", self.client, self.from, self.to);
        self.name.clone().unwrap_or_else(described)
    }

    fn expected(&self) -> Expected {
        Expected { verdict: self.expect, reason: self.reason.clone(), code: self.code }
    }
}

/// Asks tables of the rules of one configuration.
pub struct Runner<'a> {
    config: &'a Config,
    policy: Policy,
    /// The same with every login active; made when it is needed.
    unlocked: Option<Policy>,
    beyond: &'a dyn Beyond,
    /// What holds beside the rules, by what DNS and other servers say.
    standing: HashMap<(Outside, Outside), Arc<Standing>>,
    now: SystemTime,
}

impl<'a> Runner<'a> {
    /// Compiles the rules. `beyond` knows the words of replies.
    pub fn new(config: &'a Config, beyond: &'a dyn Beyond, now: SystemTime) -> Self {
        Self { config, policy: Policy::new(config), unlocked: None, beyond, standing: HashMap::new(), now }
    }

    /// Asks every question of a table.
    pub fn run(&mut self, table: &Table) -> TableReport {
        let rows = table.questions.iter().map(|(line, row)| self.ask(*line, row));
        TableReport { file: table.path.clone(), rows: rows.collect() }
    }

    fn ask(&mut self, line: usize, row: &Row) -> RowReport {
        let request = row.request(seconds(self.now));
        self.assume(row, &request);
        let mut explained = explain(&request, &self.policy, self.beyond);
        let locked = self.as_if_unlocked(row, &request, &mut explained);
        self.forget(row);
        let (answer, problems, explanation) = match explained {
            Ok(explanation) => {
                let answer = Answer::of(&explanation);
                (Some(answer.clone()), differences(&row.expected(), &answer), Some(explanation))
            }
            Err(error) => (None, vec![format!("the question cannot be asked: {error}")], None),
        };
        let passed = problems.is_empty();
        RowReport {
            line,
            name: row.name(),
            passed,
            expected: row.expected(),
            answer,
            problems,
            locked,
            request: (!passed).then_some(request),
            explanation: explanation.filter(|_| !passed),
        }
    }

    /// Asks again where only the state of the login stands in the way, and puts the answer in the place of the first; says so.
    fn as_if_unlocked(
        &mut self,
        row: &Row,
        request: &ExplainRequest,
        explained: &mut Result<Explanation, BadQuestion>,
    ) -> Option<String> {
        let answer = Answer::of(explained.as_ref().ok()?);
        if answer.reason != LOCKED || differences(&row.expected(), &answer).is_empty() {
            return None;
        }
        let login = self.policy.accounts.login(request.user.as_deref()?)?;
        let unlocked = self.unlocked.get_or_insert_with(|| Policy::new(&with_active_logins(self.config)));
        unlocked.standing = self.policy.standing.clone();
        *explained = explain(request, unlocked, self.beyond);
        let state = login.access.state.as_str();
        Some(format!("{} is {state}; the question was asked as if it were not", login.name))
    }

    /// Sets up what the question takes for granted.
    fn assume(&mut self, row: &Row, request: &ExplainRequest) {
        let now = UNIX_EPOCH + Duration::from_secs(request.at.unwrap_or_default());
        let config = self.config;
        let standing = self.standing.entry((row.dns, row.primary));
        let standing = standing.or_insert_with(|| Arc::new(verified(config, row.dns)));
        self.policy.standing = standing.clone();
        if row.temporary_grant {
            let grant = TemporaryGrant {
                network: row.client.to_canonical().into(),
                until: (seconds(now + GRANTED)).saturating_mul(1000),
                why: "assumed by the table".to_owned(),
            };
            // There is no other, so there is room.
            let _ = standing.grants.give(grant, 1, now);
        }
        if let Some(name) = row.host_name.as_deref().and_then(|name| Domain::parse(name).ok()) {
            standing.hosts.learn(&name, vec![row.client], now);
        }
        // A question that cannot be read wants nothing; the answer will say so.
        for wanted in wanted(request, &self.policy).unwrap_or_default() {
            learn(&self.policy.standing, wanted, row, now);
        }
    }

    fn forget(&self, row: &Row) {
        if row.temporary_grant {
            self.policy.standing.grants.revoke(row.client.to_canonical().into());
        }
        self.policy.standing.hosts.keep(|_| false);
        self.policy.standing.blocklists.keep(|_| false);
    }
}

/// The reason for refusing a login that is not active.
const LOCKED: &str = "login-suspended";

fn with_active_logins(config: &Config) -> Config {
    let mut config = config.clone();
    config.accounts.iter_mut().for_each(|account| account.state = LoginState::Active);
    config
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What is known of every `[[domain]]`, where it matters.
fn verified(config: &Config, dns: Outside) -> Standing {
    let standing = Standing::default();
    let report = match dns {
        _ if config.policy.require_verified == RequireVerified::Off => return standing,
        Outside::Silent => return standing,
        Outside::Permits => (State::Verified, Outcome::InOrder),
        Outside::Refuses => (State::Failed, Outcome::Lacking),
    };
    for domain in &config.domains {
        let report = DomainReport { state: report.0, outcome: Some(report.1), ..DomainReport::default() };
        standing.sender_domains.set_report(&domain.name, report);
    }
    standing
}

fn learn(standing: &Standing, wanted: Wanted, row: &Row, now: SystemTime) {
    const ASSUMED: &str = "assumed by the table";
    let senders = &standing.sender_domains;
    match wanted {
        Wanted::OwnersLock(domain) => {
            let lock = match row.dns {
                Outside::Permits => Ok(OwnersLock::Open),
                Outside::Refuses => Ok(OwnersLock::Logins(Default::default())),
                Outside::Silent => Err(ASSUMED.to_owned()),
            };
            senders.learn_lock(&domain, lock, now);
        }
        Wanted::SenderPolicy(domain) => {
            let policy = match row.dns {
                Outside::Permits => Ok(SenderPolicy::Covers),
                Outside::Refuses => Ok(SenderPolicy::DoesNot(format!("fail ({ASSUMED})"))),
                Outside::Silent => Err(ASSUMED.to_owned()),
            };
            senders.learn_policy(&domain, policy, now);
        }
        Wanted::Recipient(recipient) => {
            let host = ASSUMED.to_owned();
            let said = match row.primary {
                Outside::Permits => Said::Exists { host },
                Outside::Refuses => Said::Unknown { host, reply: "550 no such user".to_owned() },
                Outside::Silent => Said::Nothing(host),
            };
            standing.recipients.learn(&recipient, said, GRANTED, MOST_RECIPIENTS, now);
        }
        // The name of this question's client is known; the others are somewhere else.
        Wanted::HostName(name) => drop(standing.hosts.learn(&name, Vec::new(), now)),
        Wanted::Blocklist { zone, client } => {
            let answers = row.listed.get(zone.as_str()).map(|list| Answered::Addresses(list.clone()));
            let answered = answers.unwrap_or(Answered::NotListed);
            standing.blocklists.learn(&zone, ASSUMED, client, answered, GRANTED, now);
        }
    }
}

impl Answer {
    fn of(explanation: &Explanation) -> Self {
        let refused = explanation.stages.iter().find(|stage| !goes_on(stage));
        let Some(stage) = refused else { return Self::accepted(explanation) };
        let code = stage.reply.as_deref().and_then(|reply| reply.get(..3)?.parse().ok());
        Self { code, reply: stage.reply.clone(), ..Self::at(stage) }
    }

    /// Of a mail that is accepted it is the recipient that people ask about.
    fn accepted(explanation: &Explanation) -> Self {
        let rcpt = explanation.stages.iter().find(|stage| stage.stage == "rcpt");
        let at = rcpt.or(explanation.stages.last()).map(Self::at);
        let none = || Self {
            stage: "rcpt".to_owned(),
            verdict: Verdict::Accept.as_str().to_owned(),
            reason: String::new(),
            code: None,
            reply: None,
        };
        Self { code: Some(250), ..at.unwrap_or_else(none) }
    }

    fn at(stage: &StageView) -> Self {
        Self {
            stage: stage.stage.clone(),
            verdict: stage.decision.verdict.clone(),
            reason: stage.decision.reason.kind.clone(),
            code: None,
            reply: None,
        }
    }

    /// `reject: not-trusted-not-local (550)`.
    pub fn words(&self) -> String {
        let code = self.code.map_or_else(String::new, |code| format!(" ({code})"));
        format!("{}: {}{code}", self.verdict, self.reason)
    }
}

fn differences(expected: &Expected, answer: &Answer) -> Vec<String> {
    let verdict = expected.verdict.as_str();
    let mut differences = Vec::new();
    if answer.verdict != verdict {
        differences.push(format!("it is answered with {}, not {verdict}", answer.verdict));
    }
    if let Some(reason) = expected.reason.as_ref().filter(|reason| **reason != answer.reason) {
        differences.push(format!("the reason is {}, not {reason}", answer.reason));
    }
    if let Some(code) = expected.code.filter(|code| Some(*code) != answer.code) {
        let given = answer.code.map_or_else(|| "not known here".to_owned(), |code| code.to_string());
        differences.push(format!("the code is {given}, not {code}"));
    }
    differences
}

impl TableReport {
    /// The questions with another answer than expected.
    pub fn failed(&self) -> impl Iterator<Item = &RowReport> {
        self.rows.iter().filter(|row| !row.passed)
    }

    /// What is wrong with the answers, as problems of a configuration.
    pub fn problems(&self) -> Problems {
        let help = format!(
            "`posternctl policy test {}` shows every rule that was looked at: change the rules, or what is expected",
            self.file.display()
        );
        let diagnostic = |row: &RowReport, severity, message| Diagnostic {
            severity,
            file: self.file.clone(),
            place: Some(Place { line: row.line, column: 1, width: 1, source: None }),
            message,
            help: (severity == Severity::Error).then(|| help.clone()),
        };
        let mut problems = Problems::default();
        for row in &self.rows {
            let list = match row.lets_in() {
                _ if row.passed => {
                    let locked = row.locked.iter().map(|why| format!("{:?}: {why}", row.name));
                    let locked = locked.map(|message| diagnostic(row, Severity::Warning, message));
                    problems.locked.extend(locked);
                    continue;
                }
                true => &mut problems.open,
                false => &mut problems.strict,
            };
            list.push(diagnostic(row, Severity::Error, row.problem()));
        }
        problems
    }
}

impl RowReport {
    /// Whether the rules take what the table says they do not.
    fn lets_in(&self) -> bool {
        let accepted = |answer: &Answer| answer.verdict == Expect::Accept.as_str();
        self.expected.verdict != Expect::Accept && self.answer.as_ref().is_some_and(accepted)
    }

    /// What is wrong, and the rule that decided, in one line.
    pub fn problem(&self) -> String {
        let mut text = format!("{:?}: {}", self.name, self.problems.join("; "));
        let last = self.explanation.as_ref().and_then(|explanation| {
            let stage = self.answer.as_ref().map(|answer| answer.stage.as_str())?;
            let decision = &explanation.stages.iter().find(|view| view.stage == stage)?.decision;
            // What refuses is the last that was looked at; what accepts is the last that held.
            let decides = |rule: &&Rule| rule.matched || decision.verdict != Verdict::Accept.as_str();
            decision.rules.iter().rev().find(decides)
        });
        if let Some(rule) = last {
            // Writing to a string cannot fail.
            let _ = write!(text, " ({}: {})", rule.rule, rule.fact);
        }
        text
    }
}

/// What is wrong with the answers to the tables that a configuration names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    /// Errors: the rules take what a table says they do not, or there is no telling, as a table cannot be asked.
    pub open: Vec<Diagnostic>,
    /// Errors, too: any other answer than the one expected. Nobody gets in by them who should not.
    pub strict: Vec<Diagnostic>,
    /// Warnings: answers that are as expected but for a login that may not be used now.
    pub locked: Vec<Diagnostic>,
}

impl Problems {
    /// All errors.
    pub fn errors(&self) -> Vec<Diagnostic> {
        [self.open.clone(), self.strict.clone()].concat()
    }

    fn add(&mut self, other: Self) {
        self.open.extend(other.open);
        self.strict.extend(other.strict);
        self.locked.extend(other.locked);
    }
}

/// Asks the tables that a configuration names, and gives what is wrong as problems of the configuration.
pub fn problems(config: &Config, beyond: &dyn Beyond, now: SystemTime) -> Problems {
    let mut runner = Runner::new(config, beyond, now);
    let mut problems = Problems::default();
    for path in &config.policy.tests {
        match Table::read(path) {
            Ok(table) => problems.add(runner.run(&table).problems()),
            Err(error) => problems.open.push(unusable(path, &error)),
        }
    }
    problems
}

fn unusable(path: &Path, error: &TableError) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        file: path.to_owned(),
        place: None,
        message: format!("a table of `policy.tests` cannot be asked: {error}"),
        help: Some("mend it, or take it out of `policy.tests`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_config::account::AccountsFile;
    use postern_policy::relay::{Decision, Question};
    use postern_queue::Recipient;
    use postern_queue::rules::Refused;
    use postern_smtp::Address;

    use super::*;
    use crate::api::Delivery;
    use crate::explain::Mail;

    const CONFIG: &str = r#"
        hostname = "mail.proseware.test"
        [relay]
        trusted_networks = [{ network = "192.0.2.0/24", label = "office" }]
        hosts = [{ name = "dynamic.proseware.test", label = "branch" }]
        temporary = { enabled = true }
        [policy]
        owners_lock = true
        require_verified = "enforce"
        [[domain]]
        name = "proseware.test"
        mailboxes = ["alice"]
    "#;
    const ACCOUNTS: &str = r#"
        [[account]]
        name = "alice@proseware.test"
        password = ""
        [[account]]
        name = "agency"
        password = ""
        permission = "any"
        any_if_spf = true
    "#;

    /// Every refusal is a 550.
    struct Words;

    impl Beyond for Words {
        fn delivery(&self, _: &Mail<'_>, _: &Address) -> Option<Delivery> {
            None
        }

        fn reply(&self, _: &Question<'_>, decision: &Decision) -> Option<String> {
            (decision.verdict == Verdict::Reject).then(|| "550 5.7.1 no".to_owned())
        }

        fn refused(&self, _: &Question<'_>, _: &[Recipient]) -> Option<Refused> {
            None
        }
    }

    fn config() -> Config {
        let mut config: Config = toml::from_str(CONFIG).unwrap();
        config.accounts = toml::from_str::<AccountsFile>(ACCOUNTS).unwrap().accounts;
        config
    }

    fn parse(text: &str) -> Result<Table, TableError> {
        Table::parse(Path::new("relay-tests.toml"), text)
    }

    fn run(text: &str) -> TableReport {
        let config = config();
        Runner::new(&config, &Words, UNIX_EPOCH).run(&parse(text).unwrap())
    }

    /// One question about mail from a stranger, with these keys.
    fn ask(keys: &str) -> RowReport {
        let text = format!("[[question]]\nclient = \"198.51.100.9\"\n{keys}");
        run(&text).rows.remove(0)
    }

    #[test]
    fn what_is_expected_passes_and_what_is_not_names_its_line() {
        let report = run(r#"
            # The first line is empty.
            [[question]]
            name = "no open relay"
            client = "198.51.100.9"
            from = "x@client.test"
            to = "bob@adatum.test"
            expect = "reject"
            reason = "not-trusted-not-local"
            code = 550

            [[question]]
            client = "192.0.2.7"
            to = "bob@adatum.test"
            expect = "reject"
            "#);
        assert!(report.rows[0].passed, "{report:#?}");
        assert_eq!((report.rows[0].line, report.rows[1].line), (3, 12));
        let problems = report.problems();
        assert_eq!(problems.open, problems.errors(), "what is let in is the worst");
        let diagnostics = problems.errors();
        assert_eq!(
            diagnostics[0].to_string(),
            "relay-tests.toml:12:1: error: \"192.0.2.7: <> to <bob@adatum.test>\": it is answered with accept, not reject (trusted \
             network: 192.0.2.7 is in 192.0.2.0/24 (office))"
        );
        assert_eq!(diagnostics.len(), 1);
        assert!(report.rows[1].explanation.is_some() && report.rows[0].explanation.is_none());
    }

    #[test]
    fn a_locked_login_is_a_warning_and_what_is_more_closed_is_told_from_what_is_more_open() {
        let question = |keys: &str| {
            format!(
                "[[question]]\nclient = \"198.51.100.9\"\nlistener = \"submissions\"\nuser = \"alice@proseware.test\"\n\
                 to = \"bob@adatum.test\"\n{keys}\n"
            )
        };
        let own = "from = \"alice@proseware.test\"\n";
        let text = [
            question(&format!("{own}expect = \"accept\"")),
            question("from = \"x@adatum.test\"\nexpect = \"reject\"\nreason = \"sender-domain-not-listed\""),
            question(&format!("{own}expect = \"reject\"\nreason = \"login-suspended\"")),
            question("from = \"x@adatum.test\"\nexpect = \"accept\""),
        ]
        .concat();
        let mut config = config();
        config.accounts[0].state = LoginState::QuotaLocked;
        let report = Runner::new(&config, &Words, UNIX_EPOCH).run(&parse(&text).unwrap());
        let passed: Vec<bool> = report.rows.iter().map(|row| row.passed).collect();
        assert_eq!(passed, [true, true, true, false], "{report:#?}");
        let problems = report.problems();
        assert_eq!((problems.open.len(), problems.strict.len(), problems.locked.len()), (0, 1, 2));
        assert!(problems.locked.iter().all(|warning| warning.severity == Severity::Warning));
        assert!(problems.locked[0].message.contains("alice@proseware.test is quota-locked"), "{problems:?}");
        assert!(problems.strict[0].message.contains("sender of login"), "{problems:?}");

        let report = Runner::new(&self::config(), &Words, UNIX_EPOCH).run(&parse(&text).unwrap());
        assert_eq!(report.problems().open.len(), 1, "that the login is refused can be expected, too");
    }

    #[test]
    fn verdict_reason_and_code_are_each_compared() {
        let to = "to = \"bob@adatum.test\"\n";
        for (keys, problem) in [
            ("expect = \"accept\"", "answered with reject, not accept"),
            ("expect = \"reject\"\nreason = \"rate\"", "the reason is not-trusted-not-local, not rate"),
            ("expect = \"reject\"\ncode = 454", "the code is 550, not 454"),
            ("expect = \"defer\"", "answered with reject, not defer"),
        ] {
            let row = ask(&format!("{to}{keys}"));
            assert!(!row.passed && row.problem().contains(problem), "{keys}: {}", row.problem());
        }
        let accepted = ask(
            "to = \"alice@proseware.test\"\nexpect = \"accept\"\nreason = \"local-recipient\"\ncode = 250",
        );
        assert!(accepted.passed, "{accepted:#?}");
    }

    #[test]
    fn a_question_says_what_dns_and_operators_say() {
        let from = "to = \"bob@adatum.test\"\n";
        let agency = "listener = \"submissions\"\nuser = \"agency\"\nfrom = \"x@adatum.test\"\n";
        let alice =
            "listener = \"submissions\"\nuser = \"alice@proseware.test\"\nfrom = \"alice@proseware.test\"\n";
        for (keys, reason) in [
            ("temporary_grant = true\nexpect = \"accept\"".to_owned(), "temporary-grant"),
            ("host_name = \"dynamic.proseware.test\"\nexpect = \"accept\"".to_owned(), "host-name"),
            ("host_name = \"other.proseware.test\"\nexpect = \"reject\"".to_owned(), "not-trusted-not-local"),
            (format!("{agency}expect = \"accept\""), "authenticated"),
            (format!("{agency}dns = \"refuses\"\nexpect = \"reject\""), "spf-does-not-cover"),
            (format!("{agency}dns = \"silent\"\nexpect = \"defer\""), "dns-trouble"),
            (format!("{alice}expect = \"accept\""), "authenticated"),
            (format!("{alice}dns = \"refuses\"\nexpect = \"reject\""), "domain-not-verified"),
            (format!("{alice}dns = \"silent\"\nexpect = \"defer\""), "dns-trouble"),
        ] {
            let row = ask(&format!("{from}{keys}\nreason = {reason:?}"));
            assert!(row.passed, "{keys}: {}", row.problem());
        }
        // And the next question begins anew.
        let both = format!(
            "[[question]]\nclient = \"198.51.100.9\"\ntemporary_grant = true\n{from}expect = \"accept\"\n"
        );
        let report = run(&format!("{both}{}", both.replace("temporary_grant = true\n", "")));
        assert!(report.rows[0].passed && !report.rows[1].passed, "{report:#?}");
    }

    #[test]
    fn senders_in_the_header_are_asked_about() {
        let alice = "listener = \"submissions\"\nuser = \"alice@proseware.test\"\nfrom = \"alice@proseware.test\"\nto = \"x@adatum.test\"\n";
        let row = ask(&format!(
            "{alice}header = \"\"\"\nFrom: Bob <bob@proseware.test>\nSubject: x\n\"\"\"\nexpect = \"reject\"\nreason = \"header-from-mismatch\""
        ));
        assert!(row.passed, "{}", row.problem());
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("m.eml"), "From: bob@proseware.test\r\n\r\nhello\r\n").unwrap();
        let table = folder.path().join("t.toml");
        let text = format!(
            "[[question]]\nclient = \"192.0.2.1\"\n{alice}message = \"m.eml\"\nexpect = \"reject\"\n"
        );
        std::fs::write(&table, text).unwrap();
        let config = config();
        let report = Runner::new(&config, &Words, UNIX_EPOCH).run(&Table::read(&table).unwrap());
        assert_eq!(report.rows[0].answer.as_ref().unwrap().reason, "header-from-mismatch");
    }

    #[test]
    fn what_cannot_be_asked_fails() {
        let row = ask("user = \"nobody\"\nto = \"x@adatum.test\"\nexpect = \"reject\"");
        assert!(!row.passed && row.answer.is_none() && row.problem().contains("nobody"), "{row:#?}");
        let row = ask(
            "user = \"alice@proseware.test\"\nto = \"x@adatum.test\"\nexpect = \"reject\"\nreason = \"login-not-offered\"\ncode = 550",
        );
        assert!(row.passed, "{}", row.problem());
    }

    #[test]
    fn a_table_that_is_none_says_where_and_what() {
        let question = "[[question]]\nclient = \"192.0.2.1\"\nto = \"x@adatum.test\"\n";
        for (text, problem) in [
            (String::new(), "no [[question]]"),
            ("[[questions]]\n".to_owned(), "unknown field `questions`"),
            (format!("{question}expect = \"yes\"\n"), "line 4"),
            (format!("{question}expect = \"accept\"\nclnt = 1\n"), "clnt"),
            (question.to_owned(), "expect"),
            (format!("{question}expect = \"accept\"\ncode = 550\n"), "relay-tests.toml:1: "),
            (format!("{question}expect = \"reject\"\ncode = 250\n"), "from 400 on"),
            (format!("{question}expect = \"accept\"\nat = 2026-11-21\n"), "with its zone"),
            (format!("{question}expect = \"accept\"\nhost_name = \"a..b\"\n"), "host_name"),
            (format!("{question}expect = \"accept\"\nmessage = \"missing.eml\"\n"), "missing.eml"),
            (format!("{question}expect = \"accept\"\nheader = \"x\"\nmessage = \"y\"\n"), "not both"),
        ] {
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
        assert!(matches!(Table::read(Path::new("/nowhere.toml")), Err(TableError::Unreadable { .. })));
    }

    #[test]
    fn time_is_asked_about_with_its_zone() {
        let table = parse(
            "[[question]]\nclient = \"192.0.2.1\"\nto = \"x@adatum.test\"\nexpect = \"accept\"\nat = 1970-01-02T01:00:00+01:00\n",
        );
        assert_eq!(table.unwrap().questions[0].1.request(7).at, Some(86_400));
    }

    #[test]
    fn tables_that_a_configuration_names_are_part_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let table = folder.path().join("relay-tests.toml");
        let text = "[[question]]\nclient = \"192.0.2.1\"\nto = \"x@adatum.test\"\nexpect = \"reject\"\n";
        std::fs::write(&table, text).unwrap();
        let mut config = config();
        config.policy.tests = vec![table, folder.path().join("missing.toml")];
        let problems = problems(&config, &Words, UNIX_EPOCH).errors();
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(
            problems[0].contains("relay-tests.toml:1:1: error: ") && problems[1].contains("missing.toml")
        );
    }
}
