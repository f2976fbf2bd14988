//! Tables of questions with the answers that the rules must give: the operator's own proof that a server is closed.
//!
//! A table is asked of a configuration alone, so that it answers the same in `posternctl policy test`, `posternd check`, at a start
//! and at a reload: nobody has a temporary grant, no rate is used up, and DNS permits every sender, unless the question
//! says otherwise. The answers are those of [`explain`](crate::explain).
//!
//! A table proves rules, and that a login is locked is none: a question that is answered otherwise only because its login may
//! not be used now is asked again as if it might. So a table can expect that a login is refused, and still never keeps one
//! from being locked.

mod report;
mod table;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postern_config::diagnostic::Severity;
use postern_config::{Config, Diagnostic, LoginState, RequireVerified};
use postern_policy::Policy;
use postern_policy::facts::Wanted;
use postern_policy::owners_lock::OwnersLock;
use postern_policy::sender_domains::SenderPolicy;
use postern_policy::standing::Standing;
use postern_policy::standing::blocklists::Answered;
use postern_policy::standing::grants::TemporaryGrant;
use postern_policy::standing::recipients::Said;
use postern_policy::verification::{DomainReport, Outcome, State};
use postern_smtp::Domain;

use crate::api::{ExplainRequest, Explanation};
use crate::explain::{BadQuestion, Beyond, explain, wanted};

use report::differences;
pub use report::{Answer, Expected, Problems, RowReport, TableReport};
pub use table::{Expect, Table, TableError};
use table::{Outside, Row};

/// Recipients of relay domains that are remembered; a question is about one.
const MOST_RECIPIENTS: usize = 10;
/// Until when an assumed temporary grant holds: any time is long enough for one question.
const GRANTED: Duration = Duration::from_secs(3600);

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
        let decided = answer.as_ref().zip(explanation.as_ref());
        let decided_by = decided.filter(|_| !passed).and_then(|(answer, all)| answer.decided_by(all));
        RowReport {
            line,
            name: row.name(),
            passed,
            expected: row.expected(),
            answer,
            problems,
            locked,
            request: (!passed).then_some(request),
            decided_by,
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
    use postern_policy::relay::{Decision, Question, Verdict};
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
    fn the_rule_that_gave_the_answer_is_named() {
        let row = ask(
            "listener = \"submissions\"\nuser = \"alice@proseware.test\"\nfrom = \"alice@proseware.test\"\nto = \"x@adatum.test\"\n\
             expect = \"reject\"",
        );
        // Routes and limits are looked at afterwards.
        assert!(row.problem().ends_with("(login: logged in as alice@proseware.test)"), "{}", row.problem());
        let rules = &row
            .explanation
            .as_ref()
            .unwrap()
            .stages
            .iter()
            .find(|stage| stage.stage == "rcpt")
            .unwrap()
            .decision
            .rules;
        assert_ne!(rules.last().unwrap().rule, "login");
        assert_eq!(row.decided_by.unwrap().rule, "login");
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
            (
                format!("{question}expect = \"reject\"\nreason = \"not-trusted\"\n"),
                "no reason \"not-trusted\": reasons are",
            ),
            (format!("{question}expect = \"reject\"\nreason = \"\"\n"), "not-trusted-not-local, "),
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
