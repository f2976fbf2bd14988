//! What `posternctl policy explain` says is what a session answers: the same questions, many thousands of them, put to both.
//!
//! Questions are drawn from pools that hold every kind of client, login, sender, recipient and header that the configuration
//! beside this file tells apart. `POSTERN_SEED` repeats or varies a run; `POSTERN_QUESTIONS` makes it longer.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use postern_admin::api::{DecisionView, ExplainRequest, Explanation, StageView};
use postern_admin::explain::{explain, goes_on, wanted};
use postern_admin::refusals::refusal;
use postern_policy::relay::Reason;
use support::live::{Answer, Live};
use support::questions::Questions;
use support::server::{Extra, Server};

/// For each of the variants below.
const QUESTIONS: u64 = 6_000;
const SEED: u64 = 0x9057_e121;

/// What `[policy]` asks of senders, and a name that DNS does not tell; the rest of the configuration stays the same.
const VARIANTS: [&str; 4] = [
    "",
    "[policy]\nowners_lock = true\ncheck_reply_to = true\ndnsbl_exempt = [\"198.51.100.47/32\"]\n",
    "[policy]\nrequire_verified = \"enforce\"\n",
    // DNS has not said where it is.
    "[[relay.hosts]]\nname = \"silent.proseware.test\"\nlabel = \"behind a broken name server\"\n",
];

/// What the questions do not lead to: none has a password to check, an address beyond ASCII or more recipients than a session
/// takes, and that a client may connect is not shown. Every other reason must have come up, or the pools have stopped to reach
/// what they are there for.
const NOT_ASKED: [&str; 4] =
    ["connection-allowed", "wrong-password", "needs-smtputf8", "too-many-recipients"];

#[test]
fn an_explanation_is_what_a_session_answers() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let seed = from_environment("POSTERN_SEED", SEED);
    let mut seen = BTreeMap::new();
    for (at, variant) in VARIANTS.into_iter().enumerate() {
        let server = runtime.block_on(async { Server::new(variant) });
        let mut questions = Questions::new(seed.wrapping_add(at as u64));
        for number in 0..from_environment("POSTERN_QUESTIONS", QUESTIONS) {
            let request = questions.next();
            if let Err(difference) = runtime.block_on(compare(&server, &request, &mut seen)) {
                panic!("seed {seed}, variant {at}, question {number}: {request:#?}\n{difference}");
            }
        }
    }
    let asked = Reason::WORDS.into_iter().filter(|kind| !NOT_ASKED.contains(kind));
    let missing: Vec<_> = asked.filter(|kind| !seen.contains_key(*kind)).collect();
    assert!(missing.is_empty(), "never came up: {missing:?}, only {seen:?}");
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// Puts one question to both.
async fn compare(
    server: &Server,
    request: &ExplainRequest,
    seen: &mut BTreeMap<String, usize>,
) -> Result<(), String> {
    let policy = server.shared.policy.load_full();
    let explained = match wanted(request, &policy) {
        Ok(facts) => {
            server.shared.facts.find(facts).await;
            explain(request, &policy, &Extra(server))
        }
        Err(error) => Err(error),
    };
    // Explained first: what a live decision uses up of a rate must not be missing from its own explanation.
    let live = Live::play(server, request).await;
    match explained {
        Ok(explanation) => {
            explanation.stages.iter().for_each(|stage| {
                *seen.entry(stage.decision.reason.kind.clone()).or_default() += 1;
            });
            same(server, request, &explanation, &live)
        }
        // What cannot be asked must not be accepted.
        Err(_) if live.last().is_refusal() => {
            *seen.entry(format!("{} and no question", live.last().code)).or_default() += 1;
            Ok(())
        }
        Err(error) => Err(format!("explain: {error}\nlive: {live:#?}")),
    }
}

/// Whether all that both say is the same.
fn same(
    server: &Server,
    request: &ExplainRequest,
    explanation: &Explanation,
    live: &Live,
) -> Result<(), String> {
    let mut problems = String::new();
    let mut check = |what: &str, explained: String, live: String| {
        if explained != live {
            let _ = writeln!(problems, "{what}:\n  explained  {explained}\n  live       {live}");
        }
    };
    check("decisions", decisions(explanation), live.decided.join(", "));
    let last = explanation.stages.last().ok_or("no stage")?;
    check("whether it is accepted", goes_on(last).to_string(), (!live.last().is_refusal()).to_string());
    if live.last().is_refusal() {
        check("reply", last.reply.clone().unwrap_or_default(), live.last().without_reference());
        check(
            "record",
            format!("{:#?}", Some(&last.decision)),
            format!("{:#?}", record(server, live.last())),
        );
    } else if request.message.is_some() {
        check(
            "held",
            format!("{:?}", explanation.fate.as_ref().map(|fate| fate.rule)),
            format!("{:?}", live.held_by),
        );
        let recipients: Vec<_> = explanation.deliveries.iter().map(|d| d.recipient.as_str()).collect();
        check("final recipients", recipients.join(", "), live.recipients.join(", "));
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(format!("{problems}live: {live:#?}")),
    }
}

/// The rule that says that the senders in the header are bound to nobody: then a session does not ask.
const NOBODY: &str = "header senders of login";

/// The decisions of the rules, as the metrics of a session name them.
fn decisions(explanation: &Explanation) -> String {
    let by_rules = |stage: &&StageView| {
        stage.stage != "message" || stage.decision.rules.iter().all(|rule| rule.rule != NOBODY)
    };
    let named = explanation.stages.iter().filter(by_rules).map(|stage| {
        // The whole message is what standing rules refuse last.
        let name = if stage.stage == "rules" { "message" } else { &stage.stage };
        format!("{name} {} {}", stage.decision.verdict, stage.decision.reason.kind)
    });
    let mut named: Vec<_> = named.collect();
    named.sort();
    named.join(", ")
}

/// What is kept of the refusal behind a reply: every rule that was looked at, and what would have allowed it.
fn record(server: &Server, answer: &Answer) -> Option<DecisionView> {
    let record = server.shared.records.find(answer.reference()?)?;
    Some(refusal(record, &server.shared.policy.load()).decision)
}
