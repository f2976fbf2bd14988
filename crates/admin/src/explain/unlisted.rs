//! Logins that `accounts.toml` does not name: another system may know them, and only that system does.

use postern_policy::Policy;
use postern_policy::accounts::{Login, Voucher};
use postern_policy::relay::{Decision, Reason};

use crate::api::{DecisionView, Rule};

/// A login without an entry, as the server would take it if the other system says that the password is right.
pub(super) struct Unlisted {
    name: String,
    by: Voucher,
    /// Why it is refused all the same, if so.
    refused: Option<String>,
}

impl Unlisted {
    /// What a session would make of this name, with the login that it then has. `None`: no other system is asked.
    pub fn of(name: &str, policy: &Policy) -> Option<(Self, Option<Login>)> {
        let (by, login) = policy.accounts.if_vouched(name)?;
        let (login, refused) = match login {
            Ok(login) => (Some(login), None),
            Err(why) => (None, Some(why)),
        };
        Some((Self { name: name.to_owned(), by, refused }, login))
    }

    /// What a session decides about AUTH, where it has this login. One without rights is refused like a wrong password; what
    /// comes before the name is said first.
    pub fn decision(&self, at_auth: Decision) -> Decision {
        match self.refused.is_some() && at_auth.reason == Reason::NotAuthenticated {
            true => Decision::wrong_password(&self.name, None),
            false => at_auth,
        }
    }

    /// Says of it what only the other system knows. Where the login has no rights another password would not let it in.
    pub fn complete(&self, view: &mut DecisionView) {
        if view.reason.kind == "wrong-password" {
            let name = &self.name;
            view.remedies =
                vec![format!("an [[account]] in accounts.toml with name = {name:?} and without a password")];
        }
        view.rules.push(self.rule());
    }

    fn rule(&self) -> Rule {
        let known = self.refused.as_deref().unwrap_or("accounts.toml does not name it");
        let system = match self.by {
            Voucher::Backend => "the back end (auth.backend)",
            Voucher::OAuth => "the identity provider (auth.oauth)",
        };
        let fact = format!(
            "{known}; whether it exists, and which further addresses it has, is known only to {system}"
        );
        Rule { rule: "login of another system".to_owned(), matched: self.refused.is_none(), fact }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_config::Config;

    use crate::api::{ExplainRequest, Explanation};
    use crate::explain::{BadQuestion, RulesOnly, explain};
    use postern_policy::Policy;

    const DOVECOT: &str = "[auth.backend.dovecot]\naddress = \"/run/auth\"\n";
    const OAUTH: &str = "[auth.oauth]\nissuer = \"x\"\naudience = \"x\"\njwks_file = \"/keys\"\n";

    /// Asks about mail from this login by its own name.
    fn ask(auth: &str, user: &str, request: ExplainRequest) -> Result<Explanation, BadQuestion> {
        let text =
            format!("hostname = \"mail.proseware.test\"\n[[domain]]\nname = \"proseware.test\"\n{auth}");
        let config: Config = toml::from_str(&text).unwrap();
        explain(&ExplainRequest { user: Some(user.to_owned()), ..request }, &Policy::new(&config), &RulesOnly)
    }

    fn from(sender: &str) -> ExplainRequest {
        ExplainRequest {
            listener: Some("submissions".to_owned()),
            ..ExplainRequest::new("198.51.100.9".parse().unwrap(), sender, "x@adatum.test")
        }
    }

    fn reasons(explanation: &Explanation) -> Vec<(&str, &str)> {
        let stages = explanation.stages.iter();
        stages.map(|stage| (stage.stage.as_str(), stage.decision.reason.kind.as_str())).collect()
    }

    #[test]
    fn it_may_what_logins_without_an_entry_may_and_who_knows_it_is_said() {
        for (auth, system) in [(DOVECOT, "the back end"), (OAUTH, "the identity provider")] {
            let answer = ask(auth, " Carl@Proseware.test", from("carl@proseware.test")).unwrap();
            let expected =
                [("login", "login-allowed"), ("mail", "sender-allowed"), ("rcpt", "authenticated")];
            assert_eq!(reasons(&answer), expected);
            let said = answer.stages[0].decision.rules.last().unwrap();
            assert!(said.matched && said.fact.contains("known only to"), "{said:?}");
            assert!(said.fact.contains(system), "{said:?}");
        }
        let answer = ask(DOVECOT, "carl@proseware.test", from("bob@proseware.test")).unwrap();
        assert_eq!(reasons(&answer).last().unwrap().0, "mail", "only as itself");
        let wide = format!("[auth]\nunlisted = \"local\"\n{DOVECOT}");
        let answer = ask(&wide, "carl@proseware.test", from("bob@proseware.test")).unwrap();
        assert_eq!(reasons(&answer).last().unwrap(), &("rcpt", "authenticated"));
    }

    #[test]
    fn one_without_rights_is_refused_like_a_wrong_password() {
        let strict = format!("[auth]\nunlisted = \"refuse\"\n{DOVECOT}");
        for (auth, user, why) in [
            (DOVECOT, "carl@adatum.test", "no address in a [[domain]]"),
            (&strict, "carl@proseware.test", "auth.unlisted"),
        ] {
            let answer = ask(auth, user, from("carl@proseware.test")).unwrap();
            assert_eq!(reasons(&answer), [("login", "wrong-password")]);
            let decision = &answer.stages[0].decision;
            let said = decision.rules.last().unwrap();
            assert!(said.fact.contains(why) && said.fact.contains("known only to the back end"), "{said:?}");
            assert!(!said.matched);
            assert!(decision.remedies.iter().any(|way| way.contains("[[account]]")), "{decision:?}");
        }
        // What comes before the name is said first.
        let clear = ExplainRequest { listener: Some("submission".to_owned()), ..from("carl@adatum.test") };
        let answer = ask(DOVECOT, "carl@adatum.test", clear).unwrap();
        assert_eq!(reasons(&answer), [("login", "login-not-offered")]);
    }

    #[test]
    fn without_another_system_there_is_no_such_login() {
        let error = ask("", "carl@proseware.test", from("carl@proseware.test")).unwrap_err();
        assert!(error.0.contains("there is no account \"carl@proseware.test\""), "{error}");
    }
}
