//! Step 6: what the servers of others made of our mail.
//!
//! What is counted here stands in the journal. What others report, complaints and DMARC, is in `reports`.

use postern_admin::api::doctor::{DomainTally, Finding, Tally};
use postern_policy::checkup::contacts::provider;

/// Of fewer recipients a share says nothing.
const LEAST_ENDED: u64 = 5;
/// Of fewer first attempts, likewise.
const LEAST_TRIED: u64 = 10;
/// In percent of recipients that have ended. Providers ask for less than two.
const MOST_BOUNCED: u64 = 5;
/// In percent of first attempts.
const MOST_DEFERRED: u64 = 30;
/// One refusal for a reason of policy may be about the message; several are about us.
const MOST_POLICY: u64 = 2;
/// Domains that are told when nothing is wrong with them.
const MOST_TOLD: usize = 20;
/// Characters of a reply.
const MAX_REPLY: usize = 200;

/// Draws conclusions.
pub(super) fn findings(tally: &Tally) -> Vec<Finding> {
    let mut found: Vec<Finding> = reach(tally).into_iter().collect();
    for (at, domain) in tally.domains.iter().enumerate() {
        let concerns = concerns(domain);
        if concerns.is_empty() && at < MOST_TOLD {
            found.push(Finding::note(place(domain), counts(domain)));
        }
        found.extend(concerns);
    }
    if tally.domains.is_empty() {
        found.push(Finding::note("journal", "no mail went to other servers within the last day"));
    }
    found
}

/// Whether mail of this domain is worth asking about.
pub(super) fn is_troubled(domain: &DomainTally) -> bool {
    domain.policy > 0 || domain.bounced > 0 || !concerns(domain).is_empty()
}

fn reach(tally: &Tally) -> Option<Finding> {
    if tally.enabled == Some(false) {
        let text = "no journal is kept, so nothing is known of what others answered";
        return Some(
            Finding::warning("queue.history", text).mend("queue.history.enabled = true, then restart"),
        );
    }
    let is_short = tally.reaches.is_some_and(|reaches| reaches / 1000 > tally.since);
    is_short.then(|| Finding::note("journal", "it is younger than a day: only what it has is counted"))
}

fn place(domain: &DomainTally) -> String {
    match provider(&domain.domain, domain.host.as_deref()) {
        Some(provider) => format!("{} ({})", domain.domain, provider.name),
        None => domain.domain.clone(),
    }
}

fn counts(domain: &DomainTally) -> String {
    let DomainTally { tried, deferred, delivered, bounced, policy, .. } = domain;
    format!(
        "{delivered} delivered, {bounced} bounced; {deferred} of {tried} deferred at the first attempt; {policy} refused for policy \
         (X.7.X)"
    )
}

fn percent(part: u64, of: u64) -> u64 {
    part.saturating_mul(100).checked_div(of).unwrap_or(0)
}

fn concerns(domain: &DomainTally) -> Vec<Finding> {
    let ended = domain.delivered + domain.bounced;
    let reply = domain.reply.iter().map(|reply| {
        let line = reply.lines().collect::<Vec<_>>().join(" ");
        format!("; the last: {}", line.chars().take(MAX_REPLY).collect::<String>())
    });
    let reply: String = reply.collect();
    let name = &domain.domain;
    let mut found = Vec::new();
    if domain.policy >= MOST_POLICY {
        let text = format!("{} times it deferred or refused us for policy (X.7.X){reply}", domain.policy);
        found.push(Finding::warning(place(domain), text).mend(format!(
            "posternctl explain '{}' says who must change what; posternctl message history @{name}",
            quotable(domain.reply.as_deref().unwrap_or("5.7.1"))
        )));
    }
    let bounced = percent(domain.bounced, ended);
    if ended >= LEAST_ENDED && bounced >= MOST_BOUNCED {
        let text = format!("{bounced} % bounced ({} of {ended}){reply}", domain.bounced);
        found.push(
            Finding::warning(place(domain), text).mend(format!(
                "posternctl message history @{name}; take addresses that do not exist off lists"
            )),
        );
    }
    let deferred = percent(domain.deferred, domain.tried);
    if domain.tried >= LEAST_TRIED && deferred >= MOST_DEFERRED {
        let text = format!(
            "{deferred} % were deferred at the first attempt ({} of {}), which greylisting does too{reply}",
            domain.deferred, domain.tried
        );
        found.push(Finding::warning(place(domain), text).mend(format!("posternctl message history @{name}")));
    }
    found
}

/// The first line of a reply, within single quotes of a shell.
fn quotable(reply: &str) -> String {
    let line = reply.lines().next().unwrap_or_default();
    line.chars().filter(|c| *c != '\'' && !c.is_control()).take(MAX_REPLY).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn domain(delivered: u64, bounced: u64, deferred: u64, policy: u64) -> DomainTally {
        DomainTally {
            domain: "adatum.test".to_owned(),
            tried: delivered + bounced + deferred,
            deferred,
            delivered,
            bounced,
            policy,
            host: Some("mx.adatum.test".to_owned()),
            reply: Some("550 5.7.1 it's you\nnot me".to_owned()),
        }
    }

    fn concerns_of(domain: DomainTally) -> Vec<String> {
        let tally = Tally { domains: vec![domain], enabled: Some(true), ..Tally::default() };
        let found = findings(&tally);
        assert!(found.iter().filter(|f| f.is_concern()).all(|f| f.remedy.is_some()), "{found:?}");
        found.into_iter().filter(Finding::is_concern).map(|finding| finding.text).collect()
    }

    #[test]
    fn shares_of_few_recipients_say_nothing() {
        assert_eq!(concerns_of(domain(100, 1, 5, 1)), [] as [String; 0]);
        assert_eq!(concerns_of(domain(2, 2, 0, 0)), [] as [String; 0]);
        assert_eq!(concerns_of(domain(0, 0, 9, 0)), [] as [String; 0]);
    }

    #[test]
    fn many_bounces_deferrals_and_refusals_for_policy_are_found() {
        assert!(concerns_of(domain(90, 10, 0, 0))[0].starts_with("10 % bounced (10 of 100)"));
        assert!(
            concerns_of(domain(7, 0, 5, 0))[0]
                .starts_with("41 % were deferred at the first attempt (5 of 12)")
        );
        let policy = concerns_of(domain(100, 0, 0, 3));
        assert_eq!(
            policy,
            ["3 times it deferred or refused us for policy (X.7.X); the last: 550 5.7.1 it's you not me"]
        );
    }

    #[test]
    fn a_journal_that_is_not_kept_is_a_concern() {
        let found = findings(&Tally { enabled: Some(false), ..Tally::default() });
        assert!(found[0].is_concern() && found[0].remedy.as_ref().unwrap().contains("queue.history.enabled"));
    }

    #[test]
    fn a_reply_in_a_command_ends_no_quotes() {
        assert_eq!(quotable("550 5.7.1 it's 'you'\r\nand more"), "550 5.7.1 its you");
    }
}
