//! `policy explain`: what would happen to this mail, and why? `policy test`: the same for a table of questions.

mod offline;
mod test;

use std::fmt::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use postern_admin::api::{DecisionView, Delivery, ExplainRequest, Explanation, ReasonView, StageView};
use postern_admin::explain::{self, Beyond, Words, goes_on};
use postern_config::Config;
use postern_policy::Policy;
use postern_policy::relay::{Decision, Question};
use postern_smtp_inbound::replies::{self, Refused};

use crate::Session;
use crate::failure::{Exit, Failure};
use crate::output::{self, Look};

const EXAMPLES: &str = "\
Examples:
  posternctl policy explain --client 198.51.100.9 --from a@client.test --to bob@adatum.test
  posternctl policy explain --client 198.51.100.9 --listener submission --tls --user alice@proseware.test \\
      --from alice@proseware.test --to bob@adatum.test --message draft.eml
  posternctl policy explain --offline --config new.toml --client 192.0.2.7 --from '' --to postmaster

Ends with 0 if the mail would be accepted, with 1 if not.";

/// What can be asked of the rules.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Play a transaction through without sending anything: every rule looked at, the verdict, the reply, the route.
    #[command(after_help = EXAMPLES)]
    Explain(ExplainOptions),
    /// Ask the configuration a table of questions, and compare the answers with those that are expected.
    #[command(after_help = test::EXAMPLES)]
    Test(test::TestOptions),
}

/// A transaction that does not happen.
#[derive(Debug, Args)]
pub struct ExplainOptions {
    /// The client's address.
    #[arg(long, value_name = "IP")]
    client: IpAddr,
    /// Where it connects to.
    #[arg(long, default_value = "mx", value_parser = PossibleValuesParser::new(["mx", "submission", "submissions"]))]
    listener: String,
    /// The address of ours that it connects to: mail to postmaster@[that address] is ours.
    #[arg(long, value_name = "IP")]
    local: Option<IpAddr>,
    /// The name it says in EHLO.
    #[arg(long, value_name = "NAME")]
    helo: Option<String>,
    /// The session is under TLS.
    #[arg(long)]
    tls: bool,
    /// The login it has made; no password is needed here.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The certificate it shows: SHA-256 over it, in hexadecimal with or without colons.
    #[arg(long, value_name = "SHA256")]
    certificate: Option<String>,
    /// A DNS name of that certificate, signed by an authority that counts; may be repeated.
    #[arg(long, value_name = "NAME")]
    cert_name: Vec<String>,
    /// MAIL FROM; '' or '<>' is the null sender.
    #[arg(long, value_name = "ADDRESS")]
    from: String,
    /// RCPT TO.
    #[arg(long, value_name = "ADDRESS")]
    to: String,
    /// The client says SMTPUTF8 in MAIL (RFC 6531); without it, addresses beyond ASCII are refused.
    #[arg(long)]
    smtputf8: bool,
    /// A message: the senders in its header are asked about too, and the standing rules that look at its header.
    #[arg(long, value_name = "FILE")]
    message: Option<PathBuf>,
    /// Ask the rules of the configuration file, not the running daemon: routes and standing rules are not known then.
    #[arg(long)]
    offline: bool,
}

impl Verb {
    /// Runs the verb.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let options = match self {
            Self::Explain(options) => options,
            Self::Test(options) => return options.run(session),
        };
        let message = options.message.as_deref().map(read_header).transpose()?;
        let request = ExplainRequest {
            listener: Some(options.listener),
            helo: options.helo,
            tls: options.tls,
            user: options.user,
            smtputf8: options.smtputf8,
            message,
            local: options.local,
            certificate: options.certificate,
            certificate_names: options.cert_name,
            ..ExplainRequest::new(options.client, &options.from, &options.to)
        };
        let explanation = match options.offline {
            true => {
                session.note(offline::NOTE);
                ask_file(&session.global.config, &request)?
            }
            false => session.client()?.post("/v1/policy/explain", &request).await?,
        };
        session.out.answer(&explanation, |explanation, look| text(&request, explanation, look))?;
        Ok(exit(&explanation))
    }
}

fn ask_file(path: &Path, request: &ExplainRequest) -> Result<Explanation, Failure> {
    let loaded = crate::config::load(path)?;
    let policy = Policy::new(&loaded.config);
    let explained = explain::explain(request, &policy, &words(&loaded.config));
    let mut explanation = explained.map_err(|error| Failure::Usage(error.to_string()))?;
    offline::mark_unknown(&mut explanation);
    Ok(explanation)
}

/// The header of a message file.
pub(crate) fn read_header(path: &Path) -> Result<String, Failure> {
    let header = explain::read_header(path);
    Ok(header.with_context(|| format!("reading the message {}", path.display()))?)
}

/// The replies of this release, without a daemon.
pub(crate) fn words(config: &Config) -> impl Beyond {
    Words {
        refused: |question: &Question<'_>, decision: &Decision| {
            replies::refused(&Refused { question, decision, name: None, config }).0
        },
    }
}

fn exit(explanation: &Explanation) -> Exit {
    match explanation.stages.iter().all(goes_on) {
        true => Exit::Done,
        false => Exit::Finding,
    }
}

fn text(request: &ExplainRequest, explanation: &Explanation, look: Look) -> String {
    let mut text = String::new();
    for stage in &explanation.stages {
        let _ = writeln!(text, "{}", output::clean(&command(request, stage)));
        text += &decision_text(&stage.decision, look);
        if let Some(reply) = &stage.reply {
            let _ = writeln!(text, "  reply: {}", output::clean(reply));
        }
        text.push('\n');
    }
    if !explanation.stages.iter().all(goes_on) {
        text += "The mail would not be accepted.\n";
        if explanation.stages.last().is_some_and(|stage| stage.decision.reason.kind == "needs-smtputf8") {
            text += "It was asked about a client that does not say SMTPUTF8; --smtputf8 asks about one that does.\n";
        }
        return text;
    }
    text += &outcome(explanation);
    explanation.deliveries.iter().for_each(|delivery| text += &delivery_text(delivery));
    text
}

/// What becomes of a message that is accepted, up to the list of those who get it.
fn outcome(explanation: &Explanation) -> String {
    let Some(fate) = &explanation.fate else { return "The mail would be accepted, for\n".to_owned() };
    let does = match fate.action.as_str() {
        "hold" => "hold it in the queue until it is released",
        "fail" => "return it to its sender",
        _ => "throw it away",
    };
    let (rule, reason) = (fate.rule, output::clean(&fate.reason));
    let recipients = fate.recipients.join(", ");
    let mut text = format!("The mail would be accepted, and rule {rule} ({reason}) would {does}, for\n");
    let _ = writeln!(text, "  {}", output::clean(&recipients));
    text + match (explanation.deliveries.is_empty(), fate.action.as_str()) {
        (true, _) => "",
        (false, "hold") => "Released, it would go to\n",
        (false, _) => "The others would get it:\n",
    }
}

fn delivery_text(delivery: &Delivery) -> String {
    let retries = || {
        let waits = delivery.retries.iter().map(|seconds| output::duration(Duration::from_secs(*seconds)));
        let until = delivery
            .expires
            .map(|seconds| format!("; given up after {}", output::duration(Duration::from_secs(seconds))));
        format!("{}, without jitter{}", waits.collect::<Vec<_>>().join(", "), until.unwrap_or_default())
    };
    let route = delivery.route.clone().unwrap_or_else(|| "(ask the running daemon)".to_owned());
    let rows = [
        ("route", Some(route)),
        ("from address", delivery.source.clone()),
        ("TLS", delivery.tls.clone()),
        ("DKIM", delivery.signature.clone()),
        ("retries after", (!delivery.retries.is_empty()).then(retries)),
    ];
    format!("  {}\n{}", output::clean(&delivery.recipient), output::pairs("    ", rows))
}

/// The command of the client that a stage is about.
fn command(request: &ExplainRequest, stage: &StageView) -> String {
    let bare = |address: &str| address.trim().trim_start_matches('<').trim_end_matches('>').to_owned();
    match stage.stage.as_str() {
        "connect" => format!("(connection from {})", request.client),
        "login" => {
            format!("AUTH (as {}, with the right password)", request.user.as_deref().unwrap_or_default())
        }
        "mail" => {
            let utf8 = if request.smtputf8 { " SMTPUTF8" } else { "" };
            format!("MAIL FROM:<{}>{utf8}", bare(&request.from))
        }
        "rcpt" => format!("RCPT TO:<{}>", bare(&request.to)),
        "rules" => "DATA (the standing rules)".to_owned(),
        _ => "DATA (the senders in the header)".to_owned(),
    }
}

/// The rules looked at, the verdict and what would have allowed it.
pub(crate) fn decision_text(decision: &DecisionView, look: Look) -> String {
    let width = decision.rules.iter().map(|rule| rule.rule.len()).max().unwrap_or(0);
    let mut text = String::new();
    for rule in &decision.rules {
        let answer = match rule.matched {
            _ if rule.fact.starts_with(offline::UNKNOWN) => "?",
            true => "yes",
            false => "no",
        };
        // Padded by hand: a colour is not part of the width.
        let padding = " ".repeat(3 - answer.len());
        let _ = writeln!(
            text,
            "  {}{padding}  {:width$}  {}",
            look.paint(answer),
            rule.rule,
            output::clean(&rule.fact)
        );
    }
    let _ = writeln!(text, "  {}: {}", look.paint(&decision.verdict), reason_text(&decision.reason));
    if !decision.remedies.is_empty() {
        text += "  what would allow it:\n";
    }
    for remedy in &decision.remedies {
        text += &remedy_text(remedy);
    }
    text
}

/// One way out. Lines for a file stand by themselves, so that they can be copied.
fn remedy_text(remedy: &str) -> String {
    let mut lines = remedy.lines();
    let mut text = format!("    - {}\n", output::clean(lines.next().unwrap_or_default()));
    lines.for_each(|line| text += &format!("      {}\n", output::clean(line)));
    text
}

fn reason_text(reason: &ReasonView) -> String {
    let known = reason.facts.iter().filter(|(_, value)| !value.is_empty());
    let facts: Vec<String> = known.map(|(name, value)| format!("{name} {value}")).collect();
    match facts.is_empty() {
        true => reason.kind.clone(),
        false => output::clean(&format!("{} ({})", reason.kind, facts.join(", "))).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::collections::BTreeMap;

    use postern_admin::api::{Fate, Rule};

    use super::*;

    fn request() -> ExplainRequest {
        ExplainRequest::new("198.51.100.9".parse().unwrap(), "<a@client.test>", "bob@adatum.test")
    }

    fn stage(
        stage: &str,
        verdict: &str,
        kind: &str,
        facts: &[(&str, &str)],
        rules: &[(&str, bool, &str)],
    ) -> StageView {
        let own = |text: &str| text.to_owned();
        StageView {
            stage: own(stage),
            decision: DecisionView {
                verdict: own(verdict),
                reason: ReasonView {
                    kind: own(kind),
                    facts: facts.iter().map(|(k, v)| (own(k), own(v))).collect::<BTreeMap<_, _>>(),
                },
                rules: rules
                    .iter()
                    .map(|(rule, matched, fact)| Rule { rule: own(rule), matched: *matched, fact: own(fact) })
                    .collect(),
                remedies: Vec::new(),
            },
            reply: None,
        }
    }

    #[test]
    fn a_refusal_shows_the_rules_the_reply_and_the_remedies() {
        let mail = stage(
            "mail",
            "accept",
            "sender-allowed",
            &[],
            &[("sender of login", false, "nobody is logged in")],
        );
        let rules = [("local recipient", false, "not local"), ("login", false, "not logged in")];
        let mut rcpt = stage("rcpt", "reject", "not-trusted-not-local", &[], &rules);
        rcpt.reply = Some("550 5.7.1 <bob@adatum.test>: relay not permitted".to_owned());
        rcpt.decision.remedies =
            vec!["log in".to_owned(), "trust: at the end of x.toml:\n[[a]]\nb = 1\nthen reload".to_owned()];
        let explanation = Explanation { stages: vec![mail, rcpt], deliveries: Vec::new(), fate: None };
        let expected = "\
MAIL FROM:<a@client.test>
  no   sender of login  nobody is logged in
  accept: sender-allowed

RCPT TO:<bob@adatum.test>
  no   local recipient  not local
  no   login            not logged in
  reject: not-trusted-not-local
  what would allow it:
    - log in
    - trust: at the end of x.toml:
      [[a]]
      b = 1
      then reload
  reply: 550 5.7.1 <bob@adatum.test>: relay not permitted

The mail would not be accepted.
";
        assert_eq!(text(&request(), &explanation, Look::PLAIN), expected);
        assert_eq!(exit(&explanation), Exit::Finding);
    }

    #[test]
    fn an_acceptance_shows_the_reason_with_its_facts_and_the_routes() {
        // Of what is not known nothing is said.
        let facts = [("label", "office"), ("why", "")];
        let rules = [("trusted network", true, "198.51.100.9 is in 198.51.100.0/24 (office)")];
        let rcpt = stage("rcpt", "accept", "trusted-network", &facts, &rules);
        let deliveries = vec![
            Delivery {
                recipient: "bob@adatum.test".to_owned(),
                route: Some("mx adatum.test".to_owned()),
                source: Some("192.0.2.25 (IPv4)".to_owned()),
                tls: Some("may: STARTTLS where it is offered".to_owned()),
                signature: Some("none reason=no-keys".to_owned()),
                retries: vec![300, 750],
                expires: Some(432_000),
            },
            Delivery { recipient: "alice@proseware.test".to_owned(), ..Delivery::default() },
        ];
        let explanation = Explanation { stages: vec![rcpt], deliveries, fate: None };
        let expected = "\
RCPT TO:<bob@adatum.test>
  yes  trusted network  198.51.100.9 is in 198.51.100.0/24 (office)
  accept: trusted-network (label office)

The mail would be accepted, for
  bob@adatum.test
    route          mx adatum.test
    from address   192.0.2.25 (IPv4)
    TLS            may: STARTTLS where it is offered
    DKIM           none reason=no-keys
    retries after  5m, 12m30s, without jitter; given up after 5d
  alice@proseware.test
    route  (ask the running daemon)
";
        assert_eq!(text(&request(), &explanation, Look::PLAIN), expected);
        assert_eq!(exit(&explanation), Exit::Done);
    }

    #[test]
    fn every_stage_has_its_own_heading() {
        let heading = |name: &str| command(&request(), &stage(name, "reject", "x", &[], &[]));
        assert_eq!(heading("connect"), "(connection from 198.51.100.9)");
        assert_eq!(heading("rules"), "DATA (the standing rules)");
        assert_eq!(heading("message"), "DATA (the senders in the header)");
    }

    #[test]
    fn a_question_without_smtputf8_says_so() {
        let stages = vec![stage("mail", "reject", "needs-smtputf8", &[], &[])];
        let explanation = Explanation { stages, deliveries: Vec::new(), fate: None };
        assert!(text(&request(), &explanation, Look::PLAIN).contains("--smtputf8 asks about one that does"));
        let utf8 = ExplainRequest { smtputf8: true, ..request() };
        assert_eq!(
            command(&utf8, &stage("mail", "accept", "x", &[], &[])),
            "MAIL FROM:<a@client.test> SMTPUTF8"
        );
    }

    #[test]
    fn what_a_rule_does_to_accepted_mail_is_said() {
        let explanation = |action: &str, left: &[&str]| {
            let deliveries = left
                .iter()
                .map(|recipient| Delivery { recipient: (*recipient).to_owned(), ..Delivery::default() });
            let fate = Fate {
                action: action.to_owned(),
                rule: 7,
                reason: "an outbreak".to_owned(),
                recipients: vec!["bob@adatum.test".to_owned()],
            };
            let stages = vec![stage("rcpt", "accept", "local-recipient", &[], &[])];
            Explanation { stages, deliveries: deliveries.collect(), fate: Some(fate) }
        };
        let said = |explanation: &Explanation| {
            let text = text(&request(), explanation, Look::PLAIN);
            text.split_once("\n\n").unwrap().1.to_owned()
        };
        assert_eq!(
            said(&explanation("hold", &["bob@adatum.test"])),
            "The mail would be accepted, and rule 7 (an outbreak) would hold it in the queue until it is released, for\n  \
             bob@adatum.test\nReleased, it would go to\n  bob@adatum.test\n    route  (ask the running daemon)\n"
        );
        assert_eq!(
            said(&explanation("drop", &[])),
            "The mail would be accepted, and rule 7 (an outbreak) would throw it away, for\n  bob@adatum.test\n"
        );
        let others = said(&explanation("fail", &["carol@adatum.test"]));
        assert!(
            others.contains("return it to its sender") && others.contains("others would get it"),
            "{others}"
        );
    }

    #[test]
    fn explanation_for_programs() {
        let facts = [("label", "office")];
        let rcpt = stage("rcpt", "accept", "trusted-network", &facts, &[("trusted network", true, "x")]);
        let explanation = Explanation { stages: vec![rcpt], deliveries: Vec::new(), fate: None };
        let expected = concat!(
            r#"{"version":1,"stages":[{"stage":"rcpt","verdict":"accept","#,
            r#""reason":{"kind":"trusted-network","label":"office"},"#,
            r#""rules":[{"rule":"trusted network","matched":true,"fact":"x"}],"remedies":[]}],"deliveries":[]}"#
        );
        assert_eq!(output::json(&explanation).unwrap(), expected);
    }

    #[test]
    fn only_the_header_of_a_message_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.eml");
        std::fs::write(&file, b"From: \xff <a@b.test>\r\nSubject: x\r\n\r\nFrom: c@d.test\r\n").unwrap();
        assert_eq!(read_header(&file).unwrap(), "From: \u{fffd} <a@b.test>\nSubject: x\n\n");
    }
}
