//! What was found, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write;

use postern_smtp::Reply;
use serde::Serialize;

use crate::failure::Exit;
use crate::output::{self, Look};

/// What a server did with a trick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    /// It did not take the recipient.
    Refused,
    /// It took something that is no way through, and that careful servers refuse.
    Tolerated,
    /// It took an address that is a mailbox of its own: its rules say so.
    Local,
    /// It took an address that looks like one of its own, and may mean another host.
    AcceptedAsLocal,
    /// It answered, and the answer proves nothing.
    Doubtful,
    /// The way is open.
    Accepted,
    /// The trick does not apply here, or needs the consent of whoever asks.
    NotTried,
}

impl Verdict {
    /// For people: what needs a look stands out.
    fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Tolerated => "tolerated",
            Self::Local => "local",
            Self::AcceptedAsLocal => "ACCEPTED AS LOCAL",
            Self::Doubtful => "DOUBTFUL",
            Self::Accepted => "OPEN",
            Self::NotTried => "not tried",
        }
    }
}

/// How far a trick came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stage {
    /// A command of the session: AUTH, XCLIENT, STARTTLS.
    Session,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA and the message.
    Data,
}

/// A trick and what came of it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Finding {
    /// Its name.
    pub(super) trick: &'static str,
    /// The local domain that it names, where it names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) domain: Option<String>,
    /// What it tries.
    pub(super) explanation: &'static str,
    #[serde(flatten)]
    pub(super) answer: Answer,
    /// All that was said, where that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) dialogue: Vec<String>,
}

/// What a server said to a trick.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Answer {
    pub(super) verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stage: Option<Stage>,
    /// The reply that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reply: Option<String>,
    /// What the verdict means, and how to make sure, where it does not speak for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) meaning: Option<String>,
}

impl Answer {
    /// A verdict by a reply.
    pub(super) fn new(verdict: Verdict, stage: Stage, reply: &Reply) -> Self {
        Self { verdict, stage: Some(stage), reply: Some(reply.to_string()), meaning: None }
    }

    /// A verdict without a reply.
    pub(super) fn without_reply(verdict: Verdict, stage: Option<Stage>, meaning: impl Into<String>) -> Self {
        Self { verdict, stage, reply: None, meaning: Some(meaning.into()) }
    }

    /// Why it was not tried.
    pub(super) fn not_tried(why: impl Into<String>) -> Self {
        Self::without_reply(Verdict::NotTried, None, why)
    }

    /// The same with what it means.
    pub(super) fn meaning(self, meaning: impl Into<String>) -> Self {
        Self { meaning: Some(meaning.into()), ..self }
    }
}

/// What all tricks together say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// All were refused.
    Closed,
    /// None came through, and some answers prove nothing.
    Doubtful,
    /// One came through.
    Open,
    /// Nobody answered.
    Unreachable,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Doubtful => "doubtful",
            Self::Open => "OPEN",
            Self::Unreachable => "not reachable",
        }
    }

    /// The outcome of several servers.
    pub(super) fn of_all(outcomes: &[Self]) -> Self {
        let is = |wanted: Self| outcomes.contains(&wanted);
        match () {
            () if is(Self::Open) => Self::Open,
            () if outcomes.iter().all(|outcome| *outcome == Self::Unreachable) => Self::Unreachable,
            () if is(Self::Doubtful) || is(Self::Unreachable) => Self::Doubtful,
            () => Self::Closed,
        }
    }

    /// How the command ends.
    pub(super) fn exit(self) -> Exit {
        match self {
            Self::Closed => Exit::Done,
            Self::Doubtful | Self::Open => Exit::Finding,
            Self::Unreachable => Exit::Unreachable,
        }
    }
}

/// A server and what was found.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Server {
    /// `mx`, `submission`, `submissions`, where it is a listener of our own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kind: Option<String>,
    /// Address and port.
    pub(super) address: String,
    /// What it calls itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    /// The address that it was asked from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<String>,
    /// Whether it was asked under TLS.
    pub(super) tls: bool,
    /// The domains that were named as its own.
    pub(super) domains: Vec<String>,
    pub(super) outcome: Outcome,
    /// Why the tricks that were refused do not prove that it is closed.
    pub(super) doubts: Vec<String>,
    /// What should be known beside that.
    pub(super) notes: Vec<String>,
    pub(super) tricks: Vec<Finding>,
}

impl Server {
    /// One of which nothing is known yet.
    pub(super) fn new(kind: Option<String>, address: String) -> Self {
        Self {
            kind,
            address,
            name: None,
            source: None,
            tls: false,
            domains: Vec::new(),
            outcome: Outcome::Unreachable,
            doubts: Vec::new(),
            notes: Vec::new(),
            tricks: Vec::new(),
        }
    }

    /// Sums up.
    pub(super) fn conclude(&mut self) {
        let any = |wanted: &[Verdict]| self.tricks.iter().any(|f| wanted.contains(&f.answer.verdict));
        self.outcome = match () {
            () if any(&[Verdict::Accepted]) => Outcome::Open,
            () if any(&[Verdict::AcceptedAsLocal, Verdict::Doubtful]) => Outcome::Doubtful,
            () if !self.doubts.is_empty() => Outcome::Doubtful,
            () => Outcome::Closed,
        };
    }
}

/// The whole answer.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    pub(super) outcome: Outcome,
    /// The sender that the tricks use.
    pub(super) sender: String,
    /// The recipient at another host.
    pub(super) recipient: String,
    pub(super) notes: Vec<String>,
    pub(super) servers: Vec<Server>,
}

impl Report {
    /// For people.
    pub(super) fn text(&self, look: Look, verbose: bool) -> String {
        let mut text = String::new();
        for note in &self.notes {
            let _ = writeln!(text, "note: {}", output::clean(note));
        }
        for server in &self.servers {
            text += &server.text(look, verbose);
            text.push('\n');
        }
        let _ = writeln!(text, "{}", look.paint(self.outcome.word()));
        text
    }
}

impl Server {
    fn text(&self, look: Look, verbose: bool) -> String {
        let mut text = format!("{}\n", output::clean(&self.heading()));
        if verbose {
            self.tricks.iter().for_each(|finding| finding.at_length(&mut text, look));
        } else {
            text += &self.table(look);
        }
        for finding in self.tricks.iter().filter(|_| !verbose) {
            finding.explain(&mut text);
        }
        let lines =
            self.doubts.iter().map(|doubt| ("doubt", doubt)).chain(self.notes.iter().map(|n| ("note", n)));
        for (kind, line) in lines {
            let _ = writeln!(text, "  {kind}: {}", output::clean(line));
        }
        let _ = writeln!(text, "  {}: {}", look.paint(self.outcome.word()), self.counts());
        text
    }

    fn heading(&self) -> String {
        let kind = self.kind.iter().map(|kind| format!("{kind} ")).collect::<String>();
        let name = self.name.iter().map(|name| format!(" ({name})")).collect::<String>();
        let source = self.source.iter().map(|source| format!(", asked from {source}")).collect::<String>();
        let tls = if self.tls { " under TLS" } else { "" };
        format!("{kind}{}{name}{source}{tls}", self.address)
    }

    fn table(&self, look: Look) -> String {
        let row = |finding: &Finding| {
            let reply = finding.answer.reply.clone().or_else(|| finding.answer.meaning.clone());
            vec![
                format!("  {}", finding.answer.verdict.word()),
                finding.title(self.domains.len() > 1),
                reply.unwrap_or_default(),
            ]
        };
        // Two hundred rows that say "refused" hide the one that does not; they are counted at the end.
        let is_folded =
            |finding: &&Finding| matches!(finding.answer.verdict, Verdict::Refused | Verdict::NotTried);
        let shown: Vec<&Finding> = self.tricks.iter().filter(|finding| !is_folded(finding)).collect();
        let table = match shown.is_empty() {
            true => String::new(),
            false => output::table(&["  ANSWER", "TRICK", "REPLY"], shown.into_iter().map(row), look),
        };
        table + &self.not_tried()
    }

    /// Why tricks were not tried, each reason once.
    fn not_tried(&self) -> String {
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for finding in self.tricks.iter().filter(|finding| finding.answer.verdict == Verdict::NotTried) {
            *reasons.entry(finding.answer.meaning.as_deref().unwrap_or_default()).or_default() += 1;
        }
        let line = |(why, count): (&str, usize)| format!("  {count} not tried: {}\n", output::clean(why));
        reasons.into_iter().map(line).collect()
    }

    fn counts(&self) -> String {
        let all = [
            Verdict::Accepted,
            Verdict::AcceptedAsLocal,
            Verdict::Doubtful,
            Verdict::Local,
            Verdict::Tolerated,
            Verdict::Refused,
            Verdict::NotTried,
        ];
        let counted = all.into_iter().filter_map(|verdict| {
            let number = self.tricks.iter().filter(|finding| finding.answer.verdict == verdict).count();
            (number > 0).then(|| format!("{number} {}", verdict.word()))
        });
        let counted: Vec<String> = counted.collect();
        if counted.is_empty() { "nothing was tried".to_owned() } else { counted.join(", ") }
    }
}

impl Finding {
    /// The name, with the domain where there are several.
    fn title(&self, with_domain: bool) -> String {
        match self.domain.as_ref().filter(|_| with_domain) {
            Some(domain) => format!("{} ({domain})", self.trick),
            None => self.trick.to_owned(),
        }
    }

    /// What must not be missed: everything that is neither refused nor left out.
    fn explain(&self, text: &mut String) {
        let silent = [Verdict::Refused, Verdict::NotTried].contains(&self.answer.verdict);
        if let (false, Some(meaning)) = (silent, &self.answer.meaning) {
            let (verdict, title) = (self.answer.verdict.word(), self.title(true));
            let _ = writeln!(text, "  {verdict}: {title}: {}", output::clean(meaning));
            let _ = writeln!(text, "    the trick: {}", self.explanation);
        }
    }

    fn at_length(&self, text: &mut String, look: Look) {
        let verdict = look.paint(self.answer.verdict.word());
        let _ = writeln!(text, "  {verdict}  {}", self.title(true));
        let _ = writeln!(text, "    {}", self.explanation);
        for line in &self.dialogue {
            let _ = writeln!(text, "    | {}", output::clean(line));
        }
        if let Some(meaning) = &self.answer.meaning {
            let _ = writeln!(text, "    {}", output::clean(meaning));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(verdict: Verdict, meaning: Option<&str>) -> Finding {
        Finding {
            trick: "percent",
            domain: Some("proseware.test".to_owned()),
            explanation: "user%domain at a local domain",
            answer: Answer {
                verdict,
                stage: Some(Stage::Rcpt),
                reply: Some("250 2.1.5 Ok\u{1b}".to_owned()),
                meaning: meaning.map(str::to_owned),
            },
            dialogue: vec!["C: QUIT".to_owned()],
        }
    }

    fn server(findings: Vec<Finding>, doubts: &[&str]) -> Server {
        let mut server = Server::new(Some("mx".to_owned()), "192.0.2.1:25".to_owned());
        server.doubts = doubts.iter().map(|doubt| (*doubt).to_owned()).collect();
        server.tricks = findings;
        server.conclude();
        server
    }

    #[test]
    fn one_way_through_is_enough_and_a_doubt_is_no_proof() {
        let outcome = |verdict: &[Verdict], doubts: &[&str]| {
            server(verdict.iter().map(|verdict| finding(*verdict, None)).collect(), doubts).outcome
        };
        assert_eq!(outcome(&[Verdict::Refused, Verdict::Local, Verdict::NotTried], &[]), Outcome::Closed);
        assert_eq!(outcome(&[Verdict::Refused, Verdict::Tolerated], &[]), Outcome::Closed);
        assert_eq!(outcome(&[Verdict::Refused], &["trusted"]), Outcome::Doubtful);
        assert_eq!(outcome(&[Verdict::AcceptedAsLocal], &[]), Outcome::Doubtful);
        assert_eq!(outcome(&[Verdict::Doubtful, Verdict::Accepted], &["x"]), Outcome::Open);
    }

    #[test]
    fn servers_that_do_not_answer_prove_nothing() {
        use Outcome::{Closed, Doubtful, Open, Unreachable};
        for (outcomes, sum, exit) in [
            (vec![Closed, Closed], Closed, Exit::Done),
            (vec![Closed, Unreachable], Doubtful, Exit::Finding),
            (vec![Unreachable, Open], Open, Exit::Finding),
            (vec![Unreachable, Unreachable], Unreachable, Exit::Unreachable),
            (vec![], Unreachable, Exit::Unreachable),
        ] {
            assert_eq!(Outcome::of_all(&outcomes), sum, "{outcomes:?}");
            assert_eq!(sum.exit(), exit);
        }
    }

    #[test]
    fn what_is_open_is_explained_and_nothing_commands_the_terminal() {
        let server =
            server(vec![finding(Verdict::AcceptedAsLocal, Some("perhaps a catch-all"))], &["a doubt"]);
        let text = server.text(Look::PLAIN, false);
        let expected = "\
mx 192.0.2.1:25
  ANSWER             TRICK    REPLY
  ACCEPTED AS LOCAL  percent  250 2.1.5 Ok?
  ACCEPTED AS LOCAL: percent (proseware.test): perhaps a catch-all
    the trick: user%domain at a local domain
  doubt: a doubt
  doubtful: 1 ACCEPTED AS LOCAL
";
        assert_eq!(text, expected);
        assert!(server.text(Look::PLAIN, true).contains("    | C: QUIT\n"));
    }

    #[test]
    fn what_is_fine_is_counted_and_not_listed() {
        let why = Some("the sender is not taken: 530 5.7.0 log in");
        let all = || {
            vec![
                finding(Verdict::Refused, None),
                finding(Verdict::Refused, None),
                finding(Verdict::NotTried, why),
                finding(Verdict::NotTried, why),
            ]
        };
        let expected = "\
mx 192.0.2.1:25
  2 not tried: the sender is not taken: 530 5.7.0 log in
  closed: 2 refused, 2 not tried
";
        let server = server(all(), &[]);
        assert_eq!(server.text(Look::PLAIN, false), expected);
        assert_eq!(server.text(Look::PLAIN, true).matches("refused  percent").count(), 2);
    }

    #[test]
    fn findings_for_programs() {
        let json = serde_json::to_string(&finding(Verdict::AcceptedAsLocal, None)).unwrap_or_default();
        let expected = concat!(
            r#"{"trick":"percent","domain":"proseware.test","explanation":"user%domain at a local domain","#,
            r#""verdict":"accepted-as-local","stage":"rcpt","reply":"250 2.1.5 Ok\u001b","dialogue":["C: QUIT"]}"#
        );
        assert_eq!(json, expected);
    }
}
