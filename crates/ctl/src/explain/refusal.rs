//! A refusal of ours that happened, by the reference in its reply.

use std::fmt::Write;
use std::time::SystemTime;

use postern_admin::api::Refusal;
use postern_admin::api::refusals::Outcome;
use postern_policy::record::Reference;

use crate::Session;
use crate::advice::Advice;
use crate::failure::{Exit, Failure};
use crate::output::{self, Look};
use crate::policy::decision_text;

/// A reference as people paste it: `6N8C-2MRF.`, `(ref 6N8C-2MRF)`, `6N8C 2MRF`. `None` where more than a reference stands there.
pub(super) fn pasted(text: &str) -> Option<Reference> {
    let bare = text.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<&str> = bare.split([' ', '\t', ':']).filter(|word| !word.is_empty()).collect();
    let words = match words.as_slice() {
        [first, rest @ ..] if first.eq_ignore_ascii_case("ref") && !rest.is_empty() => rest,
        all => all,
    };
    match words {
        [one] => one.parse().ok(),
        // Two words of a language may have the form of a reference in two parts.
        [one, two] if one.len() == 4 && two.len() == 4 && !is_prose(one, two) => {
            format!("{one}{two}").parse().ok()
        }
        _ => None,
    }
}

fn is_prose(one: &str, two: &str) -> bool {
    let mut letters = one.bytes().chain(two.bytes());
    !letters.clone().any(|byte| byte.is_ascii_digit()) && letters.any(|byte| byte.is_ascii_lowercase())
}

/// Shows the record of a reply that was pasted, if this server has it.
///
/// # Errors
/// [`Failure`] of the answer; that there is no record, or no daemon to ask, is none.
pub(super) async fn run_if_known(
    reference: Reference,
    session: &mut Session,
) -> Result<Option<Exit>, Failure> {
    let Ok(client) = session.client() else { return Ok(None) };
    let Ok(refusal) = client.get::<Refusal>(&format!("/v1/explain/{reference}")).await else {
        return Ok(None);
    };
    let now = session.now;
    session.out.answer_quoting(&refusal, |refusal, look, advice| text(refusal, now, look, advice))?;
    Ok(Some(Exit::Done))
}

/// Asks the daemon.
///
/// # Errors
/// [`Failure`]; also when the reference is not known (any more), and when it is none.
pub async fn run(reference: &str, session: &mut Session) -> Result<Exit, Failure> {
    if !reference.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err(Failure::Usage(format!(
            "{reference:?} is neither a reference such as 4QX7-93KD nor a code such as 550-5.7.1; \
             to explain a file, use --bounce FILE"
        )));
    }
    let refusal: Refusal = session.client()?.get(&format!("/v1/explain/{reference}")).await?;
    let now = session.now;
    session.out.answer_quoting(&refusal, |refusal, look, advice| text(refusal, now, look, advice))?;
    Ok(Exit::Done)
}

fn text(refusal: &Refusal, now: SystemTime, look: Look, advice: &Advice) -> String {
    let tls = if refusal.tls { "under TLS" } else { "in clear" };
    let local = refusal.local.as_ref().map(|local| format!(" at {local}")).unwrap_or_default();
    // Before MAIL there is no sender, and `<>` would be one.
    let has_sender = !matches!(refusal.stage.as_str(), "connect" | "login");
    let pasteable = |text: &str| advice.in_text(text).into_owned();
    let facts = output::pairs(
        "  ",
        [
            ("time", Some(output::past(refusal.time, now))),
            ("stage", Some(refusal.stage.clone())),
            ("listener", Some(format!("{}{local}, {tls}", refusal.listener))),
            ("client", Some(refusal.client.clone())),
            ("certificate", refusal.certificate.clone()),
            ("helo", refusal.helo.clone()),
            ("login", Some(refusal.login.clone().unwrap_or_else(|| "none".to_owned()))),
            ("that login", refusal.about_login.as_deref().map(pasteable)),
            ("sender", has_sender.then(|| format!("<{}>", refusal.reverse_path))),
            ("recipient", refusal.recipient.as_ref().map(|recipient| format!("<{recipient}>"))),
            ("recipients so far", (refusal.recipients > 0).then(|| refusal.recipients.to_string())),
            ("header", (!refusal.header.is_empty()).then(|| refusal.header.join("; "))),
            ("worded as", Some(refusal.class.clone())),
            ("now", refusal.now.as_ref().map(|now| pasteable(&now.words))),
        ],
    );
    let mut decision = refusal.decision.clone();
    // What is allowed meanwhile needs no way out.
    if refusal.now.as_ref().is_some_and(|now| now.outcome == Outcome::Accepted) {
        decision.remedies.clear();
    }
    let decided = decision_text(&decision, look);
    let mut text = format!("{}\n{facts}\n{}", refusal.reference, advice.in_text(&decided));
    // The words of the client stay as they were.
    text += "\n  what was said:\n";
    for line in refusal.transcript.iter().chain(&[format!("S: {}", refusal.reply)]) {
        let _ = writeln!(text, "    {}", output::clean(line));
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::collections::BTreeMap;
    use std::time::{Duration, UNIX_EPOCH};

    use postern_admin::api::refusals::Again;
    use postern_admin::api::{DecisionView, ReasonView, Rule};

    use super::*;

    fn refused() -> Refusal {
        Refusal {
            about_login: None,
            now: None,
            reference: "4QX7-93KD".to_owned(),
            time: 1_795_284_325,
            stage: "rcpt".to_owned(),
            listener: "mx".to_owned(),
            local: Some("192.0.2.25".to_owned()),
            certificate: None,
            recipients: 0,
            header: Vec::new(),
            class: "relay".to_owned(),
            cause: "relay not permitted".to_owned(),
            advice: String::new(),
            reply: "550 5.7.1 relay not permitted".to_owned(),
            transcript: vec![
                "C: EHLO client.test\u{7}".to_owned(),
                "C: RCPT TO:<bob@adatum.test>".to_owned(),
            ],
            client: "198.51.100.9".to_owned(),
            tls: true,
            login: None,
            helo: Some("client.test\u{7}".to_owned()),
            reverse_path: String::new(),
            recipient: Some("bob@adatum.test".to_owned()),
            decision: DecisionView {
                verdict: "reject".to_owned(),
                reason: ReasonView { kind: "not-trusted-not-local".to_owned(), facts: BTreeMap::new() },
                rules: vec![Rule {
                    rule: "login".to_owned(),
                    matched: false,
                    fact: "not logged in".to_owned(),
                }],
                remedies: vec!["log in".to_owned()],
            },
        }
    }

    #[test]
    fn a_reference_is_read_however_it_was_pasted() {
        for text in
            ["(ref 6N8C-2MRF)", "ref 6N8C-2MRF", "6N8C-2MRF.", "6N8C 2MRF", "Ref: 6n8c2mrf", " 6N8C-2MRF\n"]
        {
            assert_eq!(pasted(text), Some("6N8C-2MRF".parse().unwrap()), "{text}");
        }
        for text in ["", "550 5.7.1", "mail lost", "ref", "550 5.7.1 no (ref 6N8C-2MRF)", "6N8C-2MR", "a b c"]
        {
            assert_eq!(pasted(text), None, "{text}");
        }
    }

    #[test]
    fn of_a_login_there_is_no_sender_but_what_is_known_of_it() {
        let about_login = Some("alice exists and is disabled".to_owned());
        let refusal = Refusal { stage: "login".to_owned(), about_login, ..refused() };
        let text = text(&refusal, UNIX_EPOCH, Look::PLAIN, &Advice::default());
        assert!(
            !text.contains("sender") && text.contains("that login  alice exists and is disabled"),
            "{text}"
        );
    }

    #[test]
    fn every_fact_of_the_question_is_shown() {
        let refusal = refused();
        let expected = "\
4QX7-93KD
  time       2026-11-21T18:05:25Z (1m ago)
  stage      rcpt
  listener   mx at 192.0.2.25, under TLS
  client     198.51.100.9
  helo       client.test?
  login      none
  sender     <>
  recipient  <bob@adatum.test>
  worded as  relay

  no   login  not logged in
  reject: not-trusted-not-local
  what would allow it:
    - log in

  what was said:
    C: EHLO client.test?
    C: RCPT TO:<bob@adatum.test>
    S: 550 5.7.1 relay not permitted
";
        let now = UNIX_EPOCH + Duration::from_secs(1_795_284_385);
        assert_eq!(text(&refusal, now, Look::PLAIN, &Advice::default()), expected);
    }

    #[test]
    fn what_is_accepted_meanwhile_needs_no_way_out() {
        let asked =
            |outcome, words: &str| Again { outcome, words: words.to_owned(), stage: None, decision: None };
        let shown = |now: Again| {
            text(&Refusal { now: Some(now), ..refused() }, UNIX_EPOCH, Look::PLAIN, &Advice::default())
        };
        let accepted = shown(asked(Outcome::Accepted, "would be accepted now"));
        assert!(accepted.contains("  now        would be accepted now\n"), "{accepted}");
        assert!(!accepted.contains("what would allow it"), "{accepted}");
        let refused = shown(asked(Outcome::SameRule, "would still be refused, by the same rule"));
        assert!(refused.contains("what would allow it") && refused.contains("by the same rule"), "{refused}");
    }

    #[test]
    fn commands_can_be_pasted_and_what_the_client_said_stays_as_it_was() {
        let mut refusal = refused();
        refusal.decision.remedies = vec!["end the ban: `posternctl ban remove 192.0.2.0/24`".to_owned()];
        refusal.transcript = vec!["C: posternctl ban list".to_owned()];
        let global =
            crate::Global { config: "/srv/postern.toml".into(), socket: None, json: false, no_color: false };
        let text = text(&refusal, UNIX_EPOCH, Look::PLAIN, &Advice::of(&global));
        assert!(text.contains("`posternctl --config /srv/postern.toml ban remove 192.0.2.0/24`"), "{text}");
        assert!(text.contains("    C: posternctl ban list\n"), "{text}");
    }
}
