//! A refusal that happened, asked again: what would the rules of now say of the same facts?

use postern_policy::Policy;
use postern_policy::facts::{self, Wanted};
use postern_policy::record::Record;
use postern_policy::relay::{Decision, Reason, Stage, Verdict};

use super::asked::Asked;
use super::{BadQuestion, Beyond, decided, view};
use crate::api::ExplainRequest;
use crate::api::refusals::{Again, Outcome};

/// What a field of the header begins with that could not be read when it was recorded.
const UNREADABLE: &str = "(cannot be read";

/// The stage at the end of data.
const MESSAGE: &str = "message";

/// A recorded question, ready to be asked once more.
pub(crate) struct Recorded<'a> {
    record: &'a Record,
    asked: Asked,
    has_recipient: bool,
}

impl<'a> Recorded<'a> {
    /// The question of a record.
    ///
    /// # Errors
    /// Why it cannot be asked once more: not all of what decided is on record, or what it names is gone.
    pub fn read(record: &'a Record, policy: &Policy) -> Result<Self, BadQuestion> {
        let only_then = |what: &str| Err(BadQuestion(what.to_owned()));
        match &record.decision.reason {
            Reason::WrongPassword { .. } => return only_then("passwords are not kept"),
            Reason::TooManyRecipients { .. } => {
                return only_then("the session counted the recipients, no rule was asked");
            }
            Reason::MalformedHeader => return only_then("the header is not kept"),
            Reason::StandingRule { rule, .. } | Reason::HeaderBlockedSender { rule, .. }
                if record.stage == MESSAGE =>
            {
                let text = format!(
                    "the message is not kept; `posternctl rule list` says whether rule {rule} is still in force"
                );
                return Err(BadQuestion(text));
            }
            _ if record.header.iter().any(|field| field.contains(UNREADABLE)) => {
                return only_then("a field of the header could not be read, and is not kept");
            }
            _ => {}
        }
        let mut asked = Asked::read(&request(record)?, policy)?;
        asked.recipients = Some(record.recipients);
        Ok(Self { record, asked, has_recipient: record.recipient.is_some() })
    }

    /// The stages up to that of the record.
    fn stages(&self) -> impl Iterator<Item = (&'static str, Stage<'_>)> {
        let is_login = self.record.stage == Stage::Login.as_str();
        let known = move |stage: &Stage<'_>| match stage {
            Stage::Rcpt(_) => self.has_recipient,
            _ => true,
        };
        // Before the password is right there is no login, and AUTH is asked about all the same.
        let extra = (is_login && self.asked.login.is_none()).then_some(("login", Stage::Login));
        let (connect, others): (Vec<_>, Vec<_>) =
            self.asked.stages().partition(|(_, stage)| matches!(stage, Stage::Connect));
        let all = connect.into_iter().chain(extra).chain(others);
        let last = rank(&self.record.stage);
        all.filter(move |(name, stage)| known(stage) && rank(name) <= last)
    }

    /// What must be found before it is asked.
    pub fn wanted(&self, policy: &Policy) -> Vec<Wanted> {
        let mut wanted: Vec<Wanted> = Vec::new();
        for (_, stage) in self.stages() {
            for fact in facts::wanted(&self.asked.question(stage, policy), policy) {
                if !wanted.contains(&fact) {
                    wanted.push(fact);
                }
            }
        }
        wanted
    }

    /// Asks.
    pub fn ask(&self, policy: &Policy, beyond: &(impl Beyond + ?Sized)) -> Again {
        let mut last = None;
        for (name, stage) in self.stages() {
            let (_, decision) = decided(&self.asked, stage, policy, beyond);
            let goes_on = matches!(decision.verdict, Verdict::Accept | Verdict::Hold);
            last = Some((name, decision));
            if !goes_on {
                break;
            }
        }
        match last {
            Some((stage, decision)) => compared(self.record, stage, &decision),
            None => {
                unknown(&BadQuestion(format!("{:?} is no stage that rules are asked at", self.record.stage)))
            }
        }
    }
}

/// The order of the stages; `None`: there is no such stage.
fn rank(stage: &str) -> Option<usize> {
    const ORDER: [&str; 5] = ["connect", "login", "mail", "rcpt", "message"];
    ORDER.iter().position(|known| *known == stage)
}

fn request(record: &Record) -> Result<ExplainRequest, BadQuestion> {
    let not_kept =
        |what: &str, text: &str| BadQuestion(format!("{what} of the record cannot be read: {text:?}"));
    let client = record.client.parse().map_err(|_| not_kept("the client", &record.client))?;
    Ok(ExplainRequest {
        listener: Some(record.listener.clone()),
        helo: record.helo.clone(),
        tls: record.tls,
        user: record.login.clone(),
        // Without SMTPUTF8 such an address is refused for that, and nothing else.
        smtputf8: record.decision.reason != Reason::NeedsSmtputf8,
        message: (record.stage == MESSAGE).then(|| record.header.join("\r\n") + "\r\n\r\n"),
        local: record.local.as_deref().and_then(|local| local.parse().ok()),
        certificate: record.certificate.clone(),
        // Where no recipient is on record, no stage asks about one.
        ..ExplainRequest::new(
            client,
            &record.reverse_path,
            record.recipient.as_deref().unwrap_or("postmaster"),
        )
    })
}

fn compared(record: &Record, stage: &str, decision: &Decision) -> Again {
    let then = &record.decision;
    // What was looked at last may differ where rules were added; of standing rules each is a reason of its own.
    let is_by_number =
        matches!(then.reason, Reason::StandingRule { .. } | Reason::HeaderBlockedSender { .. });
    let is_same =
        then.reason.as_str() == decision.reason.as_str() && (!is_by_number || then.rule() == decision.rule());
    let outcome = match decision.verdict {
        Verdict::Accept | Verdict::Hold => Outcome::Accepted,
        Verdict::Reject | Verdict::Defer if is_same => Outcome::SameRule,
        Verdict::Reject | Verdict::Defer => Outcome::OtherReason,
    };
    let reason = decision.reason.as_str();
    let words = match outcome {
        Outcome::Accepted => format!("would be accepted now ({reason}{})", deciding(decision)),
        Outcome::SameRule => "would still be refused, by the same rule".to_owned(),
        _ => format!("would be refused for another reason: {reason}{}", deciding(decision)),
    };
    Again { outcome, words, stage: Some(stage.to_owned()), decision: Some(view(decision, Vec::new())) }
}

/// The rule that decided, and what it looked at.
fn deciding(decision: &Decision) -> String {
    let Some(rule) = decision.rule() else { return String::new() };
    let step = decision.trace.0.iter().rfind(|step| step.rule == rule);
    step.map(|step| format!(": {}", step.fact)).unwrap_or_default()
}

/// It cannot be asked again.
pub(crate) fn unknown(why: &BadQuestion) -> Again {
    Again {
        outcome: Outcome::Unknown,
        words: format!("cannot be asked again: {why}"),
        stage: None,
        decision: None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_config::replies::Class;
    use postern_policy::relay::Trace;

    use super::super::RulesOnly;
    use super::*;

    fn policy(text: &str) -> Policy {
        let text =
            format!("hostname = \"mail.proseware.test\"\n[[domain]]\nname = \"proseware.test\"\n{text}");
        Policy::new(&toml::from_str(&text).unwrap())
    }

    fn refused(stage: &str, reason: Reason) -> Record {
        Record {
            reference: "4QX7-93KD".to_owned(),
            time: 1_795_284_325,
            stage: stage.to_owned(),
            listener: "mx".to_owned(),
            client: "198.51.100.9".to_owned(),
            local: None,
            tls: false,
            certificate: None,
            login: None,
            helo: Some("client.test".to_owned()),
            reverse_path: "x@client.test".to_owned(),
            recipient: (stage == "rcpt").then(|| "bob@adatum.test".to_owned()),
            recipients: 0,
            header: Vec::new(),
            decision: Decision { verdict: Verdict::Reject, reason, trace: Trace::default() },
            class: Class::Relay,
            cause: String::new(),
            advice: String::new(),
            reply: String::new(),
            transcript: Vec::new(),
            token: None,
        }
    }

    fn asked(record: &Record, policy: &Policy) -> Again {
        match Recorded::read(record, policy) {
            Ok(recorded) => recorded.ask(policy, &RulesOnly),
            Err(why) => unknown(&why),
        }
    }

    #[test]
    fn the_answer_of_now_is_compared_with_that_of_then() {
        let record = refused("rcpt", Reason::NotTrustedNotLocal);
        assert_eq!(asked(&record, &policy("")).outcome, Outcome::SameRule);
        let trusted = policy(
            "[[relay.trusted_networks]]\nnetwork = \"198.51.100.0/24\"\nlabel = \"the branch\"\naccept_open_relay_risk = true",
        );
        let now = asked(&record, &trusted);
        assert_eq!((now.outcome, now.stage.as_deref()), (Outcome::Accepted, Some("rcpt")));
        let other = asked(&refused("rcpt", Reason::UnknownRecipient), &policy(""));
        assert_eq!(other.outcome, Outcome::OtherReason);
        let words = "would be refused for another reason: not-trusted-not-local: ";
        assert!(other.words.starts_with(words), "{}", other.words);
    }

    #[test]
    fn of_standing_rules_each_is_another_reason() {
        let by = |rule: &str| Reason::StandingRule {
            rule: rule.to_owned(),
            why: String::new(),
            text: String::new(),
        };
        let mut now = refused("rcpt", by("7")).decision;
        now = now.refused_by_rule(7, "", "", Verdict::Reject);
        let mut record = refused("rcpt", by("7"));
        record.decision = now.clone();
        assert_eq!(compared(&record, "rcpt", &now).outcome, Outcome::SameRule);
        record.decision = refused("rcpt", by("8")).decision.refused_by_rule(8, "", "", Verdict::Reject);
        assert_eq!(compared(&record, "rcpt", &now).outcome, Outcome::OtherReason);
    }

    #[test]
    fn a_stage_that_named_no_recipient_is_not_asked_about_one() {
        let record =
            refused("mail", Reason::SenderDomainNotListed { login: "alice".into(), sender: "x".into() });
        let now = asked(&record, &policy(""));
        assert_eq!((now.outcome, now.stage.as_deref()), (Outcome::Accepted, Some("mail")));
    }

    #[test]
    fn what_is_not_on_record_is_not_guessed() {
        let unreadable = Record {
            header: vec!["From: (cannot be read: no address)".to_owned()],
            ..refused("message", Reason::HeaderFromUnusable { problem: "no address".to_owned() })
        };
        let gone = Record { login: Some("nobody".to_owned()), ..refused("mail", Reason::NotAuthenticated) };
        let damaged = Record { client: "here".to_owned(), ..refused("rcpt", Reason::NotTrustedNotLocal) };
        let strange = refused("somewhere", Reason::NotTrustedNotLocal);
        let rule = Reason::StandingRule { rule: "7".to_owned(), why: String::new(), text: String::new() };
        let cases = [
            (refused("login", Reason::WrongPassword { login: "alice".into(), why: None }), "passwords"),
            (refused("rcpt", Reason::TooManyRecipients { limit: 2 }), "counted"),
            (refused("message", Reason::MalformedHeader), "header"),
            (refused("message", rule), "rule 7"),
            (unreadable, "could not be read"),
            (gone, "nobody"),
            (damaged, "here"),
            (strange, "somewhere"),
        ];
        for (record, why) in cases {
            let now = asked(&record, &policy(""));
            assert!(now.outcome == Outcome::Unknown && now.words.contains(why), "{why}: {now:?}");
        }
    }
}
