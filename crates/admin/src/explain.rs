//! Why would this mail be refused? The stages of a transaction that does not happen.
//!
//! The decisions are made by `postern_policy::relay::decide`, the function that live sessions ask, so that an
//! explanation cannot differ from what happens.

pub(crate) mod again;
mod asked;
mod unlisted;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use postern_policy::Policy;
use postern_policy::facts::{self, Wanted};
use postern_policy::relay::{Decision, HeaderSenders, Question, Reason, Stage, Trace, Verdict, decide};
use postern_policy::remedies::{self, remedies};
use postern_queue::rules::{Forecast, Refused, Rule as StandingRule, RuleAction};
use postern_queue::{Envelope, Origin, Recipient};
use postern_smtp::{Address, Reply, ReversePath};

use crate::api::{DecisionView, Delivery, ExplainRequest, Explanation, Fate, ReasonView, Rule, StageView};
use crate::rules;

use asked::Asked;

/// A question that cannot be asked; the text says which part of it is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadQuestion(pub String);

/// A message that does not exist, and would be accepted.
#[derive(Debug, Clone, Copy)]
pub struct Mail<'a> {
    /// MAIL FROM.
    pub sender: &'a ReversePath,
    /// By which right it would come.
    pub origin: &'a Origin,
    /// Its header, if the question has one.
    pub header: Option<&'a [u8]>,
}

/// What the rules alone do not know; the running daemon does.
pub trait Beyond {
    /// See [`crate::Daemon::delivery`].
    fn delivery(&self, mail: &Mail<'_>, recipient: &Address) -> Option<Delivery>;

    /// See [`crate::Daemon::reply`].
    fn reply(&self, question: &Question<'_>, decision: &Decision) -> Option<String>;

    /// See [`postern_queue::rules::Rules::would_refuse_recipient`].
    fn refused(&self, question: &Question<'_>, recipients: &[Recipient]) -> Option<Refused>;

    /// See [`postern_queue::rules::Rules::forecast`]. Where there is no queue, there are no rules.
    fn forecast(&self, _envelope: &Envelope, _header: Option<&[u8]>) -> Option<Forecast> {
        None
    }
}

/// Without a daemon: neither routes nor the words of replies nor standing rules are known.
#[derive(Debug, Clone, Copy)]
pub struct RulesOnly;

impl Beyond for RulesOnly {
    fn delivery(&self, _mail: &Mail<'_>, _recipient: &Address) -> Option<Delivery> {
        None
    }

    fn reply(&self, _question: &Question<'_>, _decision: &Decision) -> Option<String> {
        None
    }

    fn refused(&self, _question: &Question<'_>, _recipients: &[Recipient]) -> Option<Refused> {
        None
    }
}

/// The rules and the words of replies, where there is no daemon to ask.
#[derive(Debug, Clone, Copy)]
pub struct Words<D> {
    /// The reply to a decision that is no yes.
    pub refused: D,
}

impl<D> Beyond for Words<D>
where
    D: Fn(&Question<'_>, &Decision) -> Reply,
{
    fn delivery(&self, _mail: &Mail<'_>, _recipient: &Address) -> Option<Delivery> {
        None
    }

    fn reply(&self, question: &Question<'_>, decision: &Decision) -> Option<String> {
        let refused = matches!(decision.verdict, Verdict::Reject | Verdict::Defer);
        refused.then(|| (self.refused)(question, decision).to_string())
    }

    fn refused(&self, _question: &Question<'_>, _recipients: &[Recipient]) -> Option<Refused> {
        None
    }
}

impl Beyond for crate::Shared {
    fn delivery(&self, mail: &Mail<'_>, recipient: &Address) -> Option<Delivery> {
        Some(self.daemon.delivery(mail, recipient))
    }

    fn reply(&self, question: &Question<'_>, decision: &Decision) -> Option<String> {
        self.daemon.reply(question, decision)
    }

    fn refused(&self, question: &Question<'_>, recipients: &[Recipient]) -> Option<Refused> {
        let origin = rules::origin(question, &self.policy.load());
        let client = Some(question.client.to_canonical());
        // Nobody is asked before the queue is there: see `explain_policy`.
        let queue = self.door.now()?;
        queue.rules().would_refuse_recipient(question.reverse_path, &origin, client, recipients)
    }

    fn forecast(&self, envelope: &Envelope, header: Option<&[u8]>) -> Option<Forecast> {
        self.door.now()?.rules().forecast(envelope, header)
    }
}

/// Asks each stage in order until one does not accept, and then where the message would go.
///
/// # Errors
/// [`BadQuestion`]: an address or listener that cannot be read, a login that does not exist.
pub fn explain(
    request: &ExplainRequest,
    policy: &Policy,
    beyond: &(impl Beyond + ?Sized),
) -> Result<Explanation, BadQuestion> {
    let asked = Asked::read(request, policy)?;
    let mut stages: Vec<StageView> = Vec::new();
    for (name, stage) in asked.stages() {
        if !stages.last().is_none_or(goes_on) {
            break;
        }
        let (question, decision) = decided(&asked, stage, policy, beyond);
        // That a client may speak is worth no words.
        if decision.reason == Reason::ConnectionAllowed {
            continue;
        }
        let unlisted = asked.unlisted.as_ref().filter(|_| matches!(question.stage, Stage::Login));
        let decision = match unlisted {
            Some(unlisted) => unlisted.decision(decision),
            None => decision,
        };
        let remedies = ways_out(&question, &decision, policy);
        let reply = beyond.reply(&question, &decision);
        let mut view = view(&decision, remedies);
        if let Some(unlisted) = unlisted {
            unlisted.complete(&mut view);
        }
        stages.push(StageView { stage: name.to_owned(), reply, decision: view });
    }
    if !stages.last().is_none_or(goes_on) {
        return Ok(Explanation { stages, deliveries: Vec::new(), fate: None });
    }
    // Last of all, when the whole message is there.
    let mut deliveries = asked.deliveries(policy, beyond);
    match asked.forecast(policy, beyond) {
        Some(Forecast::Refused(refused)) => {
            stages.push(refused_message(&asked, &refused, policy, beyond));
            Ok(Explanation { stages, deliveries: Vec::new(), fate: None })
        }
        Some(Forecast::Accepted { rule, recipients }) => {
            let recipients: Vec<String> = recipients.iter().map(ToString::to_string).collect();
            // Whoever is held may still get it.
            deliveries.retain(|delivery| {
                rule.action == RuleAction::Hold || !recipients.contains(&delivery.recipient)
            });
            if rule.action == RuleAction::Hold {
                stages.push(held_message(&asked, &rule, policy));
            }
            let action = rule.action.as_str().to_owned();
            let fate = Some(Fate { action, rule: rule.id, reason: rule.reason, recipients });
            Ok(Explanation { stages, deliveries, fate })
        }
        None => Ok(Explanation { stages, deliveries, fate: None }),
    }
}

/// What a session would say at this stage.
fn decided<'a>(
    asked: &'a Asked,
    stage: Stage<'a>,
    policy: &Policy,
    beyond: &(impl Beyond + ?Sized),
) -> (Question<'a>, Decision) {
    let question = asked.question(stage, policy);
    let decision = match asked.needs_smtputf8(&question.stage) {
        true => Decision::needs_smtputf8(),
        false => after_rules(decide(&question, policy), &question, policy, beyond),
    };
    (question, decision)
}

/// A standing rule refuses the message, as a session says it.
fn refused_message(
    asked: &Asked,
    refused: &Refused,
    policy: &Policy,
    beyond: &(impl Beyond + ?Sized),
) -> StageView {
    let senders = HeaderSenders::default();
    let question = asked.question(Stage::Message(&senders), policy);
    let decision = by_rule(accepted(), refused);
    let reply = beyond.reply(&question, &decision);
    StageView {
        stage: "rules".to_owned(),
        reply,
        decision: view(&decision, ways_out(&question, &decision, policy)),
    }
}

/// A standing rule holds the message; the client hears nothing of it.
fn held_message(asked: &Asked, rule: &StandingRule, policy: &Policy) -> StageView {
    let senders = HeaderSenders::default();
    let question = asked.question(Stage::Message(&senders), policy);
    let decision = accepted().held_by_rule(rule.id, &rule.reason);
    StageView {
        stage: "rules".to_owned(),
        reply: None,
        decision: view(&decision, ways_out(&question, &decision, policy)),
    }
}

/// What was said of a message before the standing rules were asked.
fn accepted() -> Decision {
    Decision { verdict: Verdict::Accept, reason: Reason::SenderAllowed, trace: Trace::default() }
}

fn ways_out(question: &Question<'_>, decision: &Decision, policy: &Policy) -> Vec<String> {
    remedies(&remedies::Asked {
        reason: &decision.reason,
        client: &question.client.to_canonical().to_string(),
        sender: &question.reverse_path.to_string(),
        recipient: recipient(question).as_deref(),
        certificate: question.certificate.map(|certificate| certificate.sha256.as_str()),
        site: &policy.site,
    })
}

/// The decision after a rule has refused.
fn by_rule(decision: Decision, refused: &Refused) -> Decision {
    let verdict = if refused.is_temporary { Verdict::Defer } else { Verdict::Reject };
    let decision = decision.refused_by_rule(refused.rule, &refused.reason, &refused.text, verdict);
    if refused.is_about_header_sender { decision.as_header_blocked_sender() } else { decision }
}

/// Whether the client may go on after this stage.
pub fn goes_on(stage: &StageView) -> bool {
    matches!(stage.decision.verdict.as_str(), "accept" | "hold")
}

/// What must be found before [`explain`] can answer as a session would.
///
/// # Errors
/// As [`explain`].
pub fn wanted(request: &ExplainRequest, policy: &Policy) -> Result<Vec<Wanted>, BadQuestion> {
    let asked = Asked::read(request, policy)?;
    let stages = asked.stages().map(|(_, stage)| facts::wanted(&asked.question(stage, policy), policy));
    let mut wanted: Vec<Wanted> = Vec::new();
    for fact in stages.flatten() {
        if !wanted.contains(&fact) {
            wanted.push(fact);
        }
    }
    Ok(wanted)
}

/// The recipient that a question is about, as a record of it has it.
fn recipient(question: &Question<'_>) -> Option<String> {
    match question.stage {
        Stage::Rcpt(path) => Some(path.to_string()),
        _ => None,
    }
}

/// The decision after the standing rules were asked, as a session asks them.
fn after_rules(
    decision: Decision,
    question: &Question<'_>,
    policy: &Policy,
    beyond: &(impl Beyond + ?Sized),
) -> Decision {
    let Stage::Rcpt(path) = question.stage else {
        return decision;
    };
    if decision.verdict != Verdict::Accept {
        return decision;
    }
    match beyond.refused(question, &rules::final_recipients(path, question.local, policy)) {
        Some(refused) => by_rule(decision, &refused),
        None => decision,
    }
}

/// People copy addresses with their angle brackets.
pub(crate) fn without_brackets(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(text)
}

/// What a header may have; a longer one is refused by a session anyway.
const MAX_HEADER: u64 = 512 * 1024;

/// The header of a message file, with an empty line behind it. Octets that are no UTF-8 are replaced: no rule looks at them.
///
/// # Errors
/// Of the file.
pub fn read_header(path: &Path) -> io::Result<String> {
    let mut octets = Vec::new();
    File::open(path)?.take(MAX_HEADER).read_to_end(&mut octets)?;
    let text = String::from_utf8_lossy(&octets).replace("\r\n", "\n");
    let header = text.split_once("\n\n").map_or(text.as_str(), |(header, _)| header);
    Ok(format!("{header}\n\n"))
}

/// Files on disk mostly end lines with LF.
pub(crate) fn crlf(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\n', "\r\n")
}

pub(crate) fn view(decision: &Decision, remedies: Vec<String>) -> DecisionView {
    let rules = decision.trace.0.iter().map(|step| Rule {
        rule: step.rule.clone(),
        matched: step.matched,
        fact: step.fact.clone(),
    });
    DecisionView {
        verdict: decision.verdict.as_str().to_owned(),
        reason: ReasonView { kind: decision.reason.as_str().to_owned(), facts: facts(&decision.reason) },
        rules: rules.collect(),
        remedies,
    }
}

/// All that a reason says beside its name.
fn facts(reason: &Reason) -> BTreeMap<String, String> {
    let text = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Null => None,
        other => Some(other.to_string()),
    };
    let Ok(serde_json::Value::Object(all)) = serde_json::to_value(reason) else { return BTreeMap::new() };
    all.into_iter()
        .filter(|(name, _)| name != "kind")
        .filter_map(|(name, value)| Some((name, text(value)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_config::Config;
    use postern_config::account::AccountsFile;

    use super::*;

    fn policy() -> Policy {
        let mut config: Config = toml::from_str(
            r#"
            hostname = "mail.proseware.test"
            [relay]
            trusted_networks = [{ network = "192.0.2.0/24", label = "office" }]
            [[domain]]
            name = "proseware.test"
            mailboxes = ["alice", "bob"]
            aliases = { info = ["alice", "carol@adatum.test"] }
            "#,
        )
        .unwrap();
        let accounts = "[[account]]\nname = \"alice@proseware.test\"\npassword = \"\"\n";
        config.accounts = toml::from_str::<AccountsFile>(accounts).unwrap().accounts;
        Policy::new(&config)
    }

    fn question(client: &str, from: &str, to: &str) -> ExplainRequest {
        ExplainRequest::new(client.parse().unwrap(), from, to)
    }

    fn asked(request: &ExplainRequest) -> Explanation {
        explain(request, &policy(), &RulesOnly).unwrap()
    }

    #[test]
    fn a_foreign_client_is_told_every_way_to_be_allowed() {
        let answer = asked(&question("198.51.100.9", "<x@client.test>", "<bob@adatum.test>"));
        let stages: Vec<_> =
            answer.stages.iter().map(|s| (s.stage.as_str(), s.decision.verdict.as_str())).collect();
        assert_eq!(stages, [("mail", "accept"), ("rcpt", "reject")]);
        let decision = &answer.stages[1].decision;
        assert_eq!(decision.reason.kind, "not-trusted-not-local");
        let remedies = decision.remedies.join("\n");
        for way in [
            "587 or 465",
            "posternctl relay grant 198.51.100.9 --ttl 30m",
            "senders = [\"x@client.test\"]\nrecipients = [\"bob@adatum.test\"]",
            "[[relay.hosts]]\n",
            "[[relay.certificates]]\n",
            "[[relay.trusted_networks]]\nnetwork = \"198.51.100.9/32\"",
            "name = \"adatum.test\"",
        ] {
            assert!(remedies.contains(way), "{remedies}");
        }
        assert!(answer.deliveries.is_empty());
    }

    #[test]
    fn an_alias_is_followed_to_its_final_recipients() {
        let answer = asked(&question("198.51.100.9", "", "info@proseware.test"));
        let recipients: Vec<_> = answer.deliveries.iter().map(|d| d.recipient.as_str()).collect();
        assert_eq!(recipients, ["alice@proseware.test", "carol@adatum.test"]);
        assert!(answer.stages.iter().all(|s| s.decision.remedies.is_empty()));
    }

    #[test]
    fn the_label_of_a_trusted_network_is_a_fact_of_the_reason() {
        let answer = asked(&question("192.0.2.7", "x@client.test", "bob@adatum.test"));
        let reason = &answer.stages[1].decision.reason;
        assert_eq!((reason.kind.as_str(), reason.facts["label"].as_str()), ("trusted-network", "office"));
        assert_eq!(answer.deliveries[0].recipient, "bob@adatum.test");
    }

    #[test]
    fn a_sender_of_somebody_else_names_the_grant() {
        let mut request = question("198.51.100.9", "bob@proseware.test", "x@adatum.test");
        request.listener = Some("submissions".to_owned());
        request.user = Some("alice@proseware.test".to_owned());
        let answer = asked(&request);
        let stages: Vec<_> = answer.stages.iter().map(|stage| stage.stage.as_str()).collect();
        assert_eq!(stages, ["login", "mail"]);
        assert!(
            answer.stages[1].decision.remedies[0]
                .contains("account grant alice@proseware.test --send-as bob@proseware.test")
        );
    }

    #[test]
    fn the_header_is_asked_about_when_a_message_is_given() {
        let mut request = question("198.51.100.9", "alice@proseware.test", "x@adatum.test");
        request.listener = Some("submission".to_owned());
        request.tls = true;
        request.user = Some("alice@proseware.test".to_owned());
        request.message =
            Some("Subject: x\nFrom: Bob <bob@proseware.test>\n\nFrom: alice@proseware.test\n".to_owned());
        let answer = asked(&request);
        let last = answer.stages.last().unwrap();
        assert_eq!((last.stage.as_str(), last.decision.verdict.as_str()), ("message", "reject"));
        assert_eq!(last.decision.reason.facts["address"], "bob@proseware.test");
    }

    #[test]
    fn addresses_beyond_ascii_are_refused_as_a_session_without_smtputf8_does() {
        let last = |request: &ExplainRequest| {
            let stage = asked(request).stages.pop().unwrap();
            (stage.stage, stage.decision.reason.kind)
        };
        let refused = |stage: &str| (stage.to_owned(), "needs-smtputf8".to_owned());
        let mut request = question("192.0.2.7", "x@client.test", "bøb@adatum.test");
        assert_eq!(last(&request), refused("rcpt"));
        request.smtputf8 = true;
        assert_eq!(last(&request).1, "trusted-network");
        request.from = "<älice@client.test>".to_owned();
        assert_eq!(last(&request).1, "trusted-network");
        request.smtputf8 = false;
        assert_eq!(last(&request), refused("mail"));
    }

    #[test]
    fn what_cannot_be_asked_is_named() {
        let mut request = question("198.51.100.9", "x", "bob@adatum.test");
        assert!(explain(&request, &policy(), &RulesOnly).unwrap_err().0.contains("sender"));
        request.from = String::new();
        request.user = Some("nobody".to_owned());
        assert!(explain(&request, &policy(), &RulesOnly).unwrap_err().0.contains("nobody"));
        request.user = None;
        request.listener = Some("smtp".to_owned());
        assert!(explain(&request, &policy(), &RulesOnly).unwrap_err().0.contains("smtp"));
    }
}
