//! What the live server notes about logins: what they use up, what looks like theft, who guesses passwords. Dry runs ask
//! for none of this.

use std::net::IpAddr;
use std::time::SystemTime;

use postern_config::Config;
use postern_config::auth::{Guessing, Signs};
use postern_smtp::ForwardPath;

use crate::Policy;
use crate::relay::{Decision, Question, Reason, Stage};
use crate::standing::alarms::{Alarm, Cause};
use crate::standing::bans::Ban;
use crate::standing::guesses::{Failed, source};
use crate::standing::signs::Sign;
use crate::standing::suspensions::Suspension;

/// What `[auth]` says of signs and guessing.
#[derive(Debug)]
pub struct Rules {
    /// What looks like theft.
    pub signs: Signs,
    /// What becomes of those who guess.
    pub guessing: Guessing,
}

impl Rules {
    /// As the configuration has them.
    pub fn new(config: &Config) -> Self {
        Self { signs: config.auth.signs, guessing: config.auth.guessing.clone() }
    }
}

/// What became of a wrong login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guess {
    /// The count, and how long the answer waits.
    pub failed: Failed,
    /// The ban that it led to.
    pub ban: Option<Ban>,
}

impl Policy {
    /// What follows from a decision in favour of a login.
    pub(crate) fn note_accepted(&self, question: &Question<'_>) {
        let Some(login) = question.login else { return };
        let (login, now, rules) = (login.name.as_str(), question.now, &self.logins.signs);
        let signs = &self.standing.signs;
        let sign = match &question.stage {
            Stage::Login => signs.address(login, question.client, rules),
            Stage::Mail => {
                question.reverse_path.address().and_then(|sender| signs.sender(login, sender, rules, now))
            }
            Stage::Rcpt(ForwardPath::Address(recipient)) => {
                let is_new = self.standing.usage.meet(login, recipient, now);
                signs.recipient(login, is_new, rules, now)
            }
            Stage::Rcpt(ForwardPath::Postmaster) | Stage::Message(_) => None,
        };
        self.note_sign(login, sign, now);
    }

    /// What follows from a decision against a client. The live server calls it; dry runs do not.
    pub fn note_refused(&self, question: &Question<'_>, decision: &Decision) {
        let Some(login) = question.login else { return };
        match &decision.reason {
            Reason::Quota { login, limit, used, .. } => {
                let text = format!("{login} has a limit of {limit}; a message would have made it {used}");
                let alarm = Alarm { login: login.clone(), cause: limit_cause(limit), text, suspended: false };
                self.standing.alarms.raise(alarm, question.now);
            }
            Reason::UnknownRecipient => {
                let sign = self.standing.signs.refused(&login.name, &self.logins.signs, question.now);
                self.note_sign(&login.name, sign, question.now);
            }
            _ => {}
        }
    }

    /// A recipient to whom a login has sent does not exist (5.1.1), as another server says.
    pub fn note_bounce(&self, login: &str, now: SystemTime) {
        let sign = self.standing.signs.bounced(login, &self.logins.signs, now);
        self.note_sign(login, sign, now);
    }

    fn note_sign(&self, login: &str, sign: Option<Sign>, now: SystemTime) {
        let Some((cause, text)) = sign else { return };
        let suspended =
            self.logins.signs.suspend && cause != Cause::NewNetwork && self.suspend(login, &text, now);
        self.standing.alarms.raise(Alarm { login: login.to_owned(), cause, text, suspended }, now);
    }

    /// Whether it was not suspended before.
    fn suspend(&self, login: &str, why: &str, now: SystemTime) -> bool {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.standing.suspensions.suspend(Suspension { login: login.to_owned(), since, why: why.to_owned() })
    }

    /// Whether an address is never banned, whatever it does. `own` is the address of ours that it came to.
    pub fn is_spared(&self, client: IpAddr, own: Option<IpAddr>) -> bool {
        self.logins.guessing.spares(client)
            || self.relay.trusted_network(client).is_some()
            || own.is_some_and(|own| own.to_canonical() == client.to_canonical() && !own.is_loopback())
    }

    /// The ban that an address is under, on a port of this kind.
    pub fn ban(&self, client: IpAddr, own: IpAddr, can_log_in: bool, now: SystemTime) -> Option<Ban> {
        let ban = self.standing.bans.find(client, now).filter(|ban| can_log_in || ban.by_hand)?;
        (!self.is_spared(client, Some(own))).then_some(ban)
    }

    /// Counts a wrong password, and bans whoever has sent too many.
    pub fn note_guess(&self, login: &str, client: IpAddr, own: IpAddr, now: SystemTime) -> Guess {
        let rules = &self.logins.guessing;
        let known = self.accounts.login(login);
        let addresses =
            known.as_ref().and_then(|login| self.standing.guesses.guessed(&login.name, client, rules, now));
        if let (Some(login), Some(addresses)) = (known, addresses) {
            let text = format!(
                "the password of {} was guessed wrongly from {addresses} addresses or more within an hour",
                login.name
            );
            let alarm = Alarm { login: login.name, cause: Cause::Guessed, text, suspended: false };
            self.standing.alarms.raise(alarm, now);
        }
        if self.is_spared(client, Some(own)) {
            // Proxies log in for many: the slips of one must not cost the others time.
            let failed = Failed { failures: 0, delay: std::time::Duration::ZERO, is_too_much: false };
            return Guess { failed, ban: None };
        }
        let failed = self.standing.guesses.failed(client, rules, now);
        let ban = failed.is_too_much.then(|| self.ban_guesser(client, failed.failures, now));
        Guess { failed, ban }
    }

    fn ban_guesser(&self, client: IpAddr, failures: usize, now: SystemTime) -> Ban {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let ban = Ban {
            network: source(client),
            since,
            until: since.saturating_add(self.logins.guessing.ban.as_secs().max(1)),
            why: format!("{failures} wrong logins"),
            by_hand: false,
        };
        self.standing.bans.add(ban.clone(), now);
        ban
    }

    /// Forgets logins that the configuration no longer has.
    pub fn forget_gone_logins(&self) {
        let is_kept = |login: &str| self.accounts.login(login).is_some();
        self.standing.usage.keep(is_kept);
        self.standing.signs.keep(is_kept);
        self.standing.guesses.keep(is_kept);
        for suspension in self.standing.suspensions.list() {
            if !is_kept(&suspension.login) {
                self.standing.suspensions.lift(&suspension.login);
            }
        }
    }
}

/// Which limit it is, by its words.
fn limit_cause(limit: &str) -> Cause {
    if limit.ends_with("new recipients a day") {
        Cause::LimitNewRecipients
    } else if limit.ends_with("a day") {
        Cause::LimitPerDay
    } else if limit.ends_with("an hour") {
        Cause::LimitPerHour
    } else {
        Cause::LimitPerMessage
    }
}
