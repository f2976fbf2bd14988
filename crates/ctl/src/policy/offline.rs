//! `policy explain --offline`: the file says what the rules are, and not what the server knows beside it.

use postern_admin::api::{Explanation, Rule};

/// How such a fact begins.
pub(super) const UNKNOWN: &str = "unknown (the server was not asked)";

/// What is said at the end of all.
pub(super) const NOTE: &str = "the server was not asked: temporary grants, bans, suspensions, what rates and limits have used, and what \
                               DNS and other servers said are unknown here; without --offline they count";

/// Puts "unknown" where a rule looks at what only the server knows.
pub(super) fn mark_unknown(explanation: &mut Explanation) {
    for rule in explanation.stages.iter_mut().flat_map(|stage| &mut stage.decision.rules) {
        if let Some(what) = unknown(rule) {
            rule.fact = format!("{UNKNOWN}: {what}");
        }
    }
}

/// What is not known of it; `None`: the file alone decides.
fn unknown(rule: &Rule) -> Option<String> {
    let what = match (rule.rule.as_str(), rule.matched) {
        ("temporary grant", false) => "whether the client has one now".to_owned(),
        ("host name", false) => "which addresses the names lead to now".to_owned(),
        ("limits of login", true) => "how much of its limits the login has used".to_owned(),
        ("state of login", true) => format!("whether the server has suspended it; in the file {}", rule.fact),
        ("address grant", true) => format!("how much of its rate is used; {}", rule.fact),
        ("blocklist", false) if !rule.fact.starts_with("no list is asked") => {
            "whether it lists the client".to_owned()
        }
        ("relay domain, call forward", _) => "what the primary says of the recipient".to_owned(),
        ("verified domain", false) => format!("what the last look at its DNS found; {}", rule.fact),
        _ => return None,
    };
    Some(what)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_admin::api::ExplainRequest;
    use postern_admin::explain::{RulesOnly, explain};
    use postern_config::account::AccountsFile;
    use postern_policy::Policy;

    use super::*;

    #[test]
    fn what_only_the_server_knows_is_unknown() {
        let text = "hostname = \"mail.proseware.test\"\n[relay]\ntemporary = { enabled = true }\n\
                    [[relay.grants]]\nlabel = \"scanner\"\nnetwork = \"192.0.2.40/32\"\nsenders = [\"*\"]\nrecipients = [\"*\"]\n\
                    rate = \"1/h\"\n";
        let mut config: postern_config::Config = toml::from_str(text).unwrap();
        let accounts = "[[account]]\nname = \"alice@proseware.test\"\npassword = \"\"\n";
        config.accounts = toml::from_str::<AccountsFile>(accounts).unwrap().accounts;
        let facts = |request: &ExplainRequest| {
            let mut explanation = explain(request, &Policy::new(&config), &RulesOnly).unwrap();
            mark_unknown(&mut explanation);
            let rules = explanation.stages.into_iter().flat_map(|stage| stage.decision.rules);
            rules.map(|rule| format!("{}: {}", rule.rule, rule.fact)).collect::<Vec<_>>().join("\n")
        };
        let ask = |client: &str| {
            ExplainRequest::new(client.parse().unwrap(), "alice@proseware.test", "x@adatum.test")
        };
        let stranger = facts(&ask("198.51.100.9"));
        assert!(stranger.contains(&format!("temporary grant: {UNKNOWN}")), "{stranger}");
        assert!(!stranger.contains("none now"), "{stranger}");
        let scanner = facts(&ask("192.0.2.40"));
        assert!(
            scanner.contains(&format!(
                "address grant: {UNKNOWN}: how much of its rate is used; 192.0.2.40 is in"
            ))
        );
        let (listener, user) = (Some("submissions".to_owned()), Some("alice@proseware.test".to_owned()));
        let login = facts(&ExplainRequest { listener, user, ..ask("198.51.100.9") });
        assert!(login.contains(&format!("limits of login: {UNKNOWN}")), "{login}");
        assert!(
            login.contains(&format!("state of login: {UNKNOWN}: whether the server has suspended it")),
            "{login}"
        );
    }
}
