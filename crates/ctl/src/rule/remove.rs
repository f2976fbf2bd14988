//! `rule remove`: rules that are over.

use std::fmt::Write;
use std::io::{BufRead, IsTerminal};

use clap::Args;
use postern_admin::api::DEFAULT_MAX;
use postern_admin::api::rules::{RemoveRules, RemovedRule, RulesRemoved};

use crate::failure::{Exit, Failure};
use crate::{Session, output};

/// Options of `remove`.
#[derive(Debug, Args)]
pub struct RemoveOptions {
    /// The numbers of the rules.
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<u64>,
    /// All rules.
    #[arg(long)]
    all: bool,
    /// With --all: do not ask; needed by scripts when there is more than one.
    #[arg(long, short)]
    yes: bool,
    /// Only say which.
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn remove(session: &mut Session, options: &RemoveOptions) -> Result<Exit, Failure> {
    let client = session.client()?;
    let request = RemoveRules { ids: options.ids.clone(), all: options.all, dry_run: options.dry_run };
    if options.all && !options.yes && !options.dry_run {
        let dry = RemoveRules { dry_run: true, ..request.clone() };
        let found: RulesRemoved = client.post("/v1/rules/remove", &dry).await?;
        if !all_agreed(session, found.rules.len())? {
            return Err(Failure::Finding("nothing was changed".to_owned()));
        }
    }
    let removed: RulesRemoved = client.post("/v1/rules/remove", &request).await?;
    session.out.answer(&removed, |removed, _| removed_text(removed))?;
    Ok(if removed.rules.is_empty() { Exit::Finding } else { Exit::Done })
}

/// Asks about more than one rule.
fn all_agreed(session: &Session, rules: usize) -> Result<bool, Failure> {
    if rules <= 1 {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Failure::Usage(format!(
            "there are {rules} rules: without a terminal to ask on, say --yes"
        )));
    }
    session.note(&format!("remove all {rules}? [y/N]"));
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn removed_text(removed: &RulesRemoved) -> String {
    let done = if removed.dry_run { "would be removed" } else { "removed" };
    let mut text = String::new();
    for RemovedRule { rule, still_held } in &removed.rules {
        let hits = output::counted(usize::try_from(rule.hits).unwrap_or(usize::MAX), "hit");
        let reason = output::clean(&rule.reason);
        let _ = writeln!(text, "rule {} {done}: {}, {hits}: {reason}", rule.id, rule.action.as_str());
        if *still_held > 0 {
            let stay = if *still_held == 1 { "stays" } else { "stay" };
            let held = output::counted(*still_held, "message");
            let all = if *still_held > DEFAULT_MAX { " --all" } else { "" };
            let _ = writeln!(
                text,
                "  {held} {stay} held; `posternctl queue release --held-by {}{all}` releases them",
                rule.id
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::rule::list::tests::rule;

    #[test]
    fn a_removed_rule_names_what_stays_held() {
        let removed = |still_held| RulesRemoved {
            dry_run: false,
            rules: vec![RemovedRule { rule: rule(), still_held }],
        };
        assert_eq!(removed_text(&removed(0)), "rule 7 removed: reject, 12 hits: mail bomb?\n");
        let text = removed_text(&removed(2));
        assert!(
            text.contains("2 messages stay held; `posternctl queue release --held-by 7` releases"),
            "{text}"
        );
        assert!(removed_text(&removed(1001)).contains("--held-by 7 --all`"));
    }
}
