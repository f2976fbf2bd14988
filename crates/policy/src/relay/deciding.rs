//! Which of the rules that were looked at made the decision.

use super::client::ADDRESS_GRANT;

/// The place of the rule that decided, among those that were looked at, each by its name and whether it held. `kind` is the word
/// of the reason.
///
/// What refuses is the last one, unless a right did not reach so far: the others were tried after it. What admits is the one that
/// gave the right: afterwards routes and limits are looked at, which only could have refused.
pub fn deciding_rule(kind: &str, rules: &[(&str, bool)]) -> Option<usize> {
    let last = rules.len().checked_sub(1);
    let last_that =
        |is_it: &dyn Fn(&str, bool) -> bool| rules.iter().rposition(|(name, held)| is_it(name, *held));
    if matches!(kind, "grant-too-narrow" | "rate") {
        let narrow = rules.iter().position(|(name, held)| *name == ADDRESS_GRANT && !held);
        return narrow.or(last);
    }
    match admitting_rule(kind) {
        Some(right) => last_that(&|name, held| held && name.starts_with(right)).or(last),
        None if kind == "sender-allowed" => last_that(&|_, held| held).or(last),
        None => last,
    }
}

/// How the rule begins that gives a right; `None`: the reason is no right.
fn admitting_rule(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "local-recipient" => "local recipient",
        // Also where the primary is called.
        "relay-domain" => "relay domain",
        "trusted-network" => "trusted network",
        "address-grant" => ADDRESS_GRANT,
        "temporary-grant" => "temporary grant",
        "host-name" => "host name",
        "client-certificate" => "client certificate",
        "authenticated" => "login",
        "login-allowed" => "state of login",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_after_the_right_did_not_give_it() {
        let after = [("trusted network", false), ("login", true), ("route", true), ("limits of login", true)];
        assert_eq!(deciding_rule("authenticated", &after), Some(1));
        let trusted = [("local recipient", false), ("trusted network", true), ("route", false)];
        assert_eq!(deciding_rule("trusted-network", &trusted), Some(1));
        let called = [("relay domain, call forward", true), ("blocklist", false)];
        assert_eq!(deciding_rule("relay-domain", &called), Some(0));
    }

    #[test]
    fn what_refuses_is_the_last_unless_a_grant_is_too_narrow() {
        let rules = [("address grant", false), ("client certificate", false), ("login", false)];
        assert_eq!(deciding_rule("not-trusted-not-local", &rules), Some(2));
        assert_eq!(deciding_rule("grant-too-narrow", &rules), Some(0));
        assert_eq!(deciding_rule("recipient-policy", &[("login", true), ("route", true)]), Some(1));
        assert_eq!(deciding_rule("banned", &[]), None);
    }
}
