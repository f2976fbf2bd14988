//! Step 7: whom to ask when everything here is in order, and what to show them.

use postern_admin::api::doctor::{DomainTally, Finding, TALLY_REACH};
use postern_policy::checkup::contacts::provider;

use super::reputation::is_troubled;
use super::sources::Sources;
use crate::config;
use crate::failure::Failure;

/// Domains with trouble that are told.
const MOST_TOLD: usize = 20;

/// Whom to ask about mail of the last day that did not arrive.
pub(super) async fn notes(sources: &Sources) -> Result<Vec<Finding>, Failure> {
    let tally = sources.tally(TALLY_REACH).await?;
    let troubled: Vec<&DomainTally> = tally.domains.iter().filter(|domain| is_troubled(domain)).collect();
    let mut found: Vec<Finding> = troubled.iter().take(MOST_TOLD).map(|domain| about(domain)).collect();
    if let Some(more) = troubled.len().checked_sub(MOST_TOLD).filter(|more| *more > 0) {
        found.push(Finding::note(
            "others",
            format!("{more} more domains refused mail: posternctl doctor reputation"),
        ));
    }
    if troubled.is_empty() {
        found.push(Finding::note(
            "others",
            "nobody refused mail within the last day, as far as the journal tells",
        ));
    }
    found.push(
        Finding::note("what to show", "the bounce or the reply as it came, host, time, sender and recipient")
            .mend("posternctl doctor bundle --message ID --output case.tar (or --ref, or --bounce)"),
    );
    let hostname = match &sources.status {
        Ok(status) => Some(status.hostname.clone()),
        Err(_) => config::hostname(sources.path()),
    };
    let us = hostname
        .map_or_else(|| "your domain".to_owned(), |hostname| format!("{hostname} and of each [[domain]]"));
    found.push(Finding::note(
        "you",
        format!("others write to the postmaster of {us} (RFC 5321 section 4.5.1); somebody should read that mailbox"),
    ));
    Ok(found)
}

fn about(domain: &DomainTally) -> Finding {
    let name = &domain.domain;
    let Some(provider) = provider(name, domain.host.as_deref()) else {
        return Finding::note(
            name,
            format!(
                "write to postmaster@{name} from another mail system, if this one is refused; abuse@{name} and the telephone come next"
            ),
        );
    };
    let statistics = match provider.statistics {
        "" => String::new(),
        page => format!("; what it makes of your mail: {page}"),
    };
    Finding::note(
        format!("{name} ({})", provider.name),
        format!("the form for senders: {}{statistics}", provider.page),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(name: &str) -> DomainTally {
        DomainTally { domain: name.to_owned(), bounced: 1, ..DomainTally::default() }
    }

    #[test]
    fn large_providers_have_a_form_and_others_a_postmaster() {
        let gmail = about(&domain("gmail.com"));
        assert!(
            gmail.place.contains("Gmail") && gmail.text.contains("https://support.google.com/"),
            "{gmail:?}"
        );
        let other = about(&domain("adatum.test"));
        assert!(other.text.contains("postmaster@adatum.test"), "{other:?}");
    }
}
