//! `rule list`: the rules, what they do and how often they did.

use std::time::SystemTime;

use clap::Args;
use postern_admin::api::rules::{Rule, RuleList};

use crate::Session;
use crate::failure::{Exit, Failure};
use crate::filter;
use crate::output::{self, Look};

/// Options of `list`.
#[derive(Debug, Args)]
pub struct ListOptions {
    /// Print one JSON object a line.
    #[arg(long)]
    jsonl: bool,
}

pub(super) async fn list(session: &mut Session, options: &ListOptions) -> Result<Exit, Failure> {
    let list: RuleList = session.client()?.get("/v1/rules").await?;
    let now = session.now;
    if options.jsonl {
        for rule in &list.rules {
            session.out.text(format_args!("{}\n", output::json(rule)?))?;
        }
    } else {
        session.out.answer(&list, |list, look| list_text(&list.rules, now, look))?;
    }
    let Some(problem) = &list.problem else { return Ok(Exit::Done) };
    session.note(&output::clean(problem));
    Ok(Exit::Finding)
}

pub(super) fn list_text(rules: &[Rule], now: SystemTime, look: Look) -> String {
    if rules.is_empty() {
        return String::new();
    }
    let header = ["ID", "ACTION", "ENDS", "HITS", "LAST HIT", "AGE", "UID", "WHICH", "REASON", "TEXT"];
    output::table(&header, rules.iter().map(|rule| row(rule, now)), look)
}

fn row(rule: &Rule, now: SystemTime) -> Vec<String> {
    let none = || "-".to_owned();
    let action = if rule.temporary { "reject (450)" } else { rule.action.as_str() };
    vec![
        rule.id.to_string(),
        action.to_owned(),
        rule.until.map_or_else(|| "never".to_owned(), |until| ends(until, now)),
        rule.hits.to_string(),
        rule.last_hit.map_or_else(none, |time| format!("{} ago", output::age(time, now))),
        output::age(rule.added, now),
        rule.by.to_string(),
        filter::words(&rule.filter),
        rule.reason.clone(),
        rule.text.clone().unwrap_or_else(none),
    ]
}

fn ends(until: u64, now: SystemTime) -> String {
    match output::until(until, now) {
        text if text == "now" => "expired".to_owned(),
        text => text,
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::time::{Duration, UNIX_EPOCH};

    use postern_admin::api::Filter;
    use postern_admin::api::rules::RuleAction;

    use super::*;

    pub(in super::super) const ADDED: u64 = 1_795_284_325;

    pub(in super::super) fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(ADDED + 3600)
    }

    pub(in super::super) fn rule() -> Rule {
        Rule {
            id: 7,
            action: RuleAction::Reject,
            filter: Filter {
                sender: Some("@client.test".to_owned()),
                not: vec![Filter { dsn: true, ..Filter::default() }],
                ..Filter::default()
            },
            reason: "mail bomb\u{7}".to_owned(),
            text: Some("Write to us".to_owned()),
            temporary: true,
            until: Some(ADDED + 7200),
            added: ADDED,
            by: 1000,
            hits: 12,
            last_hit: Some(ADDED + 3540),
        }
    }

    #[test]
    fn list_for_people() {
        let endless = Rule {
            id: 8,
            action: RuleAction::Hold,
            filter: Filter::default(),
            reason: "all".to_owned(),
            text: None,
            temporary: false,
            until: None,
            hits: 0,
            last_hit: None,
            ..rule()
        };
        let over = Rule { id: 9, until: Some(ADDED), ..endless.clone() };
        let expected = "\
ID  ACTION        ENDS     HITS  LAST HIT  AGE  UID   WHICH                           REASON      TEXT
7   reject (450)  in 1h    12    1m ago    1h   1000  not (dsn), sender=@client.test  mail bomb?  Write to us
8   hold          never    0     -         1h   1000  all                             all         -
9   hold          expired  0     -         1h   1000  all                             all         -
";
        assert_eq!(list_text(&[rule(), endless, over], now(), Look::PLAIN), expected);
        assert_eq!(list_text(&[], now(), Look::PLAIN), "");
    }

    #[test]
    fn list_for_programs() {
        let expected = concat!(
            r#"{"version":1,"rules":[{"id":7,"action":"reject","filter":{"sender":"@client.test","#,
            r#""not":[{"dsn":true}]},"reason":"mail bomb\u0007","text":"Write to us","temporary":true,"#,
            r#""until":1795291525,"added":1795284325,"by":1000,"hits":12,"last_hit":1795287865}]}"#
        );
        assert_eq!(output::json(&RuleList { rules: vec![rule()], problem: None }).unwrap(), expected);
    }
}
