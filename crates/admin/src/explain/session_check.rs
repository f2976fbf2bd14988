//! The stages that a session decides by itself.

use std::collections::BTreeMap;

use postern_policy::Policy;
use postern_policy::relay::{Stage, Verdict};
use postern_policy::session_check::SessionCheck;
use postern_policy::standing::bans::Ban;
use postern_smtp::header::is_well_formed;

use super::Beyond;
use super::asked::Asked;
use crate::api::{DecisionView, ReasonView, Rule, StageView};

/// What ends a session before the rules are asked.
pub(super) fn first(asked: &Asked, policy: &Policy, beyond: &(impl Beyond + ?Sized)) -> Option<StageView> {
    if let Some(ban) = asked.ban(asked.listener.is_submission(), policy) {
        return Some(banned("connect", &ban, beyond));
    }
    asked.login.as_ref()?;
    let ban = asked.ban(true, policy)?;
    Some(banned("login", &ban, beyond))
}

/// What the session says of the header of a message whose senders are bound, after the rules have said yes to its senders.
pub(super) fn header(asked: &Asked, policy: &Policy, beyond: &(impl Beyond + ?Sized)) -> Option<StageView> {
    let (header, _) = asked.header.as_ref()?;
    if !policy.binds_header(&asked.question(Stage::Mail, policy)) || is_well_formed(header) {
        return None;
    }
    let fact = "there is a NUL in it, or a line that is no header field".to_owned();
    let rule = Rule { rule: "header".to_owned(), matched: false, fact };
    let remedy = "the header of the message has fields only (RFC 5322 §2.2)".to_owned();
    Some(refused(SessionCheck::MalformedHeader, "message", rule, remedy, beyond))
}

fn banned(stage: &str, ban: &Ban, beyond: &(impl Beyond + ?Sized)) -> StageView {
    let fact = format!("{} is banned: {}", ban.network, ban.why);
    let rule = Rule { rule: "ban".to_owned(), matched: true, fact };
    let remedy = format!("end the ban: `posternctl ban remove {}`", ban.network);
    refused(SessionCheck::of(ban), stage, rule, remedy, beyond)
}

fn refused(
    check: SessionCheck,
    stage: &str,
    rule: Rule,
    remedy: String,
    beyond: &(impl Beyond + ?Sized),
) -> StageView {
    let verdict = match check {
        SessionCheck::Banned | SessionCheck::BannedByHand => Verdict::Defer,
        SessionCheck::MalformedHeader => Verdict::Reject,
    };
    StageView {
        stage: stage.to_owned(),
        decision: DecisionView {
            verdict: verdict.as_str().to_owned(),
            reason: ReasonView { kind: check.as_str().to_owned(), facts: BTreeMap::new() },
            rules: vec![rule],
            remedies: vec![remedy],
        },
        reply: beyond.session_reply(check),
    }
}
