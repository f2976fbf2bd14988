//! Why would this mail be refused? The stages of a transaction that does not happen.
//!
//! The decisions are made by `postern_policy::relay::decide`, the function that live sessions ask, so that an
//! explanation cannot differ from what happens.

use std::collections::BTreeMap;
use std::time::SystemTime;

use postern_config::ListenerKind;
use postern_policy::Policy;
use postern_policy::accounts::Login;
use postern_policy::directory::Resolution;
use postern_policy::facts::{self, Wanted};
use postern_policy::relay::{Decision, HeaderSenders, Question, Reason, Stage, Verdict, decide};
use postern_policy::remedies::remedies;
use postern_policy::sender::header_senders;
use postern_queue::Recipient;
use postern_queue::rules::Refused;
use postern_smtp::{Address, ForwardPath, ReversePath};

use crate::api::{DecisionView, Delivery, ExplainRequest, Explanation, ReasonView, Rule, StageView};
use crate::rules;

/// A question that cannot be asked; the text says which part of it is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadQuestion(pub String);

/// What the rules alone do not know; the running daemon does.
pub trait Beyond {
    /// See [`crate::Daemon::route`].
    fn route(&self, sender: &ReversePath, recipient: &Address) -> Option<String>;

    /// See [`crate::Daemon::reply`].
    fn reply(&self, question: &Question<'_>, decision: &Decision) -> Option<String>;

    /// See [`postern_queue::rules::Rules::would_refuse_recipient`].
    fn refused(&self, question: &Question<'_>, recipients: &[Recipient]) -> Option<Refused>;
}

/// Without a daemon: neither routes nor the words of replies nor standing rules are known.
#[derive(Debug, Clone, Copy)]
pub struct RulesOnly;

impl Beyond for RulesOnly {
    fn route(&self, _sender: &ReversePath, _recipient: &Address) -> Option<String> {
        None
    }

    fn reply(&self, _question: &Question<'_>, _decision: &Decision) -> Option<String> {
        None
    }

    fn refused(&self, _question: &Question<'_>, _recipients: &[Recipient]) -> Option<Refused> {
        None
    }
}

impl Beyond for crate::Shared {
    fn route(&self, sender: &ReversePath, recipient: &Address) -> Option<String> {
        Some(self.daemon.route(sender, recipient))
    }

    fn reply(&self, question: &Question<'_>, decision: &Decision) -> Option<String> {
        self.daemon.reply(question, decision)
    }

    fn refused(&self, question: &Question<'_>, recipients: &[Recipient]) -> Option<Refused> {
        let account = question.login.map(|login| login.name.as_str());
        let origin = rules::origin(account, Some(question.client), &self.policy.load());
        let client = Some(question.client.to_canonical());
        // Nobody is asked before the queue is there: see `explain_policy`.
        let queue = self.door.now()?;
        queue.rules().would_refuse_recipient(question.reverse_path, &origin, client, recipients)
    }
}

/// A question, read.
struct Asked {
    listener: ListenerKind,
    login: Option<Login>,
    reverse_path: ReversePath,
    forward_path: ForwardPath,
    header: Option<HeaderSenders>,
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
    let mut stages = Vec::new();
    for (name, stage) in asked.stages() {
        let question = asked.question(request, stage);
        let decision = after_rules(decide(&question, policy), &question, policy, beyond);
        let goes_on = matches!(decision.verdict, Verdict::Accept | Verdict::Hold);
        let remedies =
            remedies(&decision.reason, &request.client.to_canonical().to_string(), Some(&request.to));
        stages.push(StageView {
            stage: name.to_owned(),
            reply: beyond.reply(&question, &decision),
            decision: view(&decision, remedies),
        });
        if !goes_on {
            return Ok(Explanation { stages, deliveries: Vec::new() });
        }
    }
    Ok(Explanation { stages, deliveries: asked.deliveries(policy, beyond) })
}

/// What must be found before [`explain`] can answer as a session would.
///
/// # Errors
/// As [`explain`].
pub fn wanted(request: &ExplainRequest, policy: &Policy) -> Result<Vec<Wanted>, BadQuestion> {
    let asked = Asked::read(request, policy)?;
    let stages = asked.stages().map(|(_, stage)| facts::wanted(&asked.question(request, stage), policy));
    let mut wanted: Vec<Wanted> = Vec::new();
    for fact in stages.flatten() {
        if !wanted.contains(&fact) {
            wanted.push(fact);
        }
    }
    Ok(wanted)
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
    match beyond.refused(question, &rules::final_recipients(path, policy)) {
        Some(refused) => {
            let verdict = if refused.is_temporary { Verdict::Defer } else { Verdict::Reject };
            let decision = decision.refused_by_rule(refused.rule, &refused.reason, &refused.text, verdict);
            if refused.is_about_header_sender { decision.as_header_blocked_sender() } else { decision }
        }
        None => decision,
    }
}

impl Asked {
    fn read(request: &ExplainRequest, policy: &Policy) -> Result<Self, BadQuestion> {
        let login = request.user.as_deref().map(|name| {
            let unknown =
                || BadQuestion(format!("there is no account {name:?}: see `posternctl account list`"));
            policy.accounts.login(name).ok_or_else(unknown)
        });
        let from = without_brackets(&request.from);
        let to = without_brackets(&request.to);
        Ok(Self {
            listener: listener(request.listener.as_deref())?,
            login: login.transpose()?,
            reverse_path: ReversePath::parse(from)
                .map_err(|e| BadQuestion(format!("the sender {from:?} is not an address: {e}")))?,
            forward_path: ForwardPath::parse(to)
                .map_err(|e| BadQuestion(format!("the recipient {to:?} is not an address: {e}")))?,
            header: request.message.as_deref().map(|message| header_senders(crlf(message).as_bytes())),
        })
    }

    fn stages(&self) -> impl Iterator<Item = (&'static str, Stage<'_>)> {
        let message = self.header.as_ref().map(|senders| ("message", Stage::Message(senders)));
        [("mail", Stage::Mail), ("rcpt", Stage::Rcpt(&self.forward_path))].into_iter().chain(message)
    }

    fn question<'a>(&'a self, request: &'a ExplainRequest, stage: Stage<'a>) -> Question<'a> {
        Question {
            listener: self.listener,
            client: request.client,
            local: None,
            // Implicit TLS comes before the first command (RFC 8314 §3.3).
            tls: request.tls || self.listener == ListenerKind::Submissions,
            certificate: None,
            login: self.login.as_ref(),
            helo: request.helo.as_deref(),
            now: SystemTime::now(),
            recipients: 0,
            reverse_path: &self.reverse_path,
            stage,
        }
    }

    fn deliveries(&self, policy: &Policy, beyond: &(impl Beyond + ?Sized)) -> Vec<Delivery> {
        let recipients = match (policy.directory.resolve(&self.forward_path, None), &self.forward_path) {
            (Resolution::Recipients(list), _) => list,
            (_, ForwardPath::Address(address)) => vec![address.clone()],
            (_, ForwardPath::Postmaster) => Vec::new(),
        };
        let delivery = |recipient: Address| Delivery {
            route: beyond.route(&self.reverse_path, &recipient),
            recipient: recipient.to_string(),
        };
        recipients.into_iter().map(delivery).collect()
    }
}

fn listener(name: Option<&str>) -> Result<ListenerKind, BadQuestion> {
    match name.unwrap_or("mx") {
        "mx" => Ok(ListenerKind::Mx),
        "submission" => Ok(ListenerKind::Submission),
        "submissions" => Ok(ListenerKind::Submissions),
        other => Err(BadQuestion(format!("there is no listener {other:?}: mx, submission or submissions"))),
    }
}

/// People copy addresses with their angle brackets.
pub(crate) fn without_brackets(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(text)
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
        ExplainRequest {
            client: client.parse().unwrap(),
            listener: None,
            helo: None,
            tls: false,
            user: None,
            from: from.to_owned(),
            to: to.to_owned(),
            message: None,
        }
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
        for way in ["587 or 465", "198.51.100.9/32", "name = \"adatum.test\""] {
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
        assert_eq!(answer.stages.len(), 1);
        assert!(answer.stages[0].decision.remedies[0].contains("send_as = [\"bob@proseware.test\"]"));
    }

    #[test]
    fn the_header_is_asked_about_when_a_message_is_given() {
        let mut request = question("198.51.100.9", "alice@proseware.test", "x@adatum.test");
        request.listener = Some("submission".to_owned());
        request.user = Some("alice@proseware.test".to_owned());
        request.message =
            Some("Subject: x\nFrom: Bob <bob@proseware.test>\n\nFrom: alice@proseware.test\n".to_owned());
        let answer = asked(&request);
        let last = answer.stages.last().unwrap();
        assert_eq!((last.stage.as_str(), last.decision.verdict.as_str()), ("message", "reject"));
        assert_eq!(last.decision.reason.facts["address"], "bob@proseware.test");
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
