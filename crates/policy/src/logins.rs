//! What the live server notes about logins: what they use up, what looks like theft, who guesses passwords. Dry runs ask
//! for none of this.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use postern_config::Config;
use postern_config::auth::{Guessing, Signs};
use postern_smtp::ForwardPath;

use crate::Policy;
use crate::accounts::fold;
use crate::relay::{Decision, Question, Reason, Stage};
use crate::standing::alarms::{Alarm, Cause};
use crate::standing::bans::Ban;
use crate::standing::guesses::{Failed, source};
use crate::standing::signs::Sign;
use crate::standing::suspensions::Suspension;

/// How long a login that only another system knows is remembered without being used: its networks, its recipients, and what it
/// has used up, which counts for a day at most.
const UNLISTED_MEMORY: Duration = Duration::from_secs(30 * 86_400);
/// So many of them, those that were used last: whoever can make up logins in the other system takes no more memory than that.
/// Mostly some 1 KiB each, and 10 KiB at most.
const MOST_UNLISTED: usize = 50_000;

/// What `[auth]` says of signs and guessing.
#[derive(Debug)]
pub struct Rules {
    /// What looks like theft.
    pub signs: Signs,
    /// What becomes of those who guess.
    pub guessing: Guessing,
    /// Addresses that the configuration says are ours.
    own: HashSet<IpAddr>,
}

impl Rules {
    /// As the configuration has them.
    pub fn new(config: &Config) -> Self {
        let own = config.outbound.source_addresses.iter().chain(&config.policy.public_addresses);
        let own = own.map(|address| address.to_canonical()).filter(|address| !address.is_loopback());
        Self { signs: config.auth.signs, guessing: config.auth.guessing.clone(), own: own.collect() }
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
            Stage::Login => signs.address(login, question.client, rules, now),
            Stage::Mail => {
                question.reverse_path.address().and_then(|sender| signs.sender(login, sender, rules, now))
            }
            Stage::Rcpt(ForwardPath::Address(recipient)) => {
                let is_new = self.standing.usage.is_new(login, recipient);
                signs.recipient(login, is_new, rules, now)
            }
            Stage::Connect | Stage::Rcpt(ForwardPath::Postmaster) | Stage::Message(_) => None,
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
        self.standing.suspensions.suspend(Suspension::by_server(login, since, why))
    }

    /// Whether an address is never banned, whatever it does. `own` is the address of ours that it came to.
    pub fn is_spared(&self, client: IpAddr, own: Option<IpAddr>) -> bool {
        self.is_one_of_ours(client, own) || self.relay.trusted_network(client).is_some()
    }

    /// Why an address is never banned, for whoever wants to ban it. `None`: it can be.
    pub fn why_spared(&self, client: IpAddr) -> Option<String> {
        let client = client.to_canonical();
        let guessing = &self.logins.guessing;
        if let Some(trusted) = self.relay.trusted_network(client) {
            let (network, label) = (trusted.network, &trusted.label);
            return Some(format!(
                "{client} is in the trusted network {network} ({label}), see relay.trusted_networks"
            ));
        }
        if let Some(network) = guessing.never.iter().find(|network| network.contains(&client)) {
            return Some(format!("{client} is in {network} of auth.guessing.never"));
        }
        if client.is_loopback() && guessing.spares(client) {
            return Some(format!(
                "{client} is loopback; auth.guessing.ban_loopback = true lets it be banned"
            ));
        }
        self.is_spared(client, None).then(|| format!("{client} is an address of this server"))
    }

    /// Whether the address is this server itself, or stands for many (`auth.guessing.never`).
    fn is_one_of_ours(&self, client: IpAddr, own: Option<IpAddr>) -> bool {
        let client = client.to_canonical();
        self.logins.guessing.spares(client)
            || self.logins.own.contains(&client)
            || self.standing.own.contains(client)
            || own.is_some_and(|own| own.to_canonical() == client && !own.is_loopback())
    }

    /// An address of this server that is in the network.
    pub fn own_address_in(&self, network: IpNet) -> Option<IpAddr> {
        let configured = self.logins.own.iter().copied().find(|address| network.contains(address));
        configured.or_else(|| self.standing.own.within(network))
    }

    /// The ban that an address is under, on a port of this kind.
    pub fn ban(&self, client: IpAddr, own: IpAddr, can_log_in: bool, now: SystemTime) -> Option<Ban> {
        let ban = self.standing.bans.find(client, |ban| can_log_in || ban.by_hand, now)?;
        (!self.is_spared(client, Some(own))).then_some(ban)
    }

    /// Counts a wrong password, and bans whoever has sent too many.
    pub fn note_guess(&self, login: &str, client: IpAddr, own: IpAddr, now: SystemTime) -> Guess {
        let rules = &self.logins.guessing;
        let login = fold(login);
        let addresses = self
            .is_known(&login)
            .then(|| self.standing.guesses.guessed(&login, client, rules, now))
            .flatten();
        if let Some(addresses) = addresses {
            let text = format!(
                "the password of {login} was guessed wrongly from {addresses} addresses or more within an hour"
            );
            let alarm = Alarm { login, cause: Cause::Guessed, text, suspended: false };
            self.standing.alarms.raise(alarm, now);
        }
        if self.is_spared(client, Some(own)) {
            return self.note_mistake(client, own, now);
        }
        let failed = self.standing.guesses.failed(client, rules, now);
        let ban = failed.is_too_much.then(|| self.ban_guesser(client, failed.failures, now));
        Guess { failed, ban }
    }

    /// Whether there is such a login: one of the file, or one that only another system knows and that has logged in before.
    fn is_known(&self, login: &str) -> bool {
        self.accounts.login(login).is_some()
            || (self.accounts.takes_unlisted() && self.standing.signs.knows(login))
    }

    /// Counts a wrong login that is no guess, or that comes from where nobody is banned: the answer waits, and that is all.
    pub fn note_mistake(&self, client: IpAddr, own: IpAddr, now: SystemTime) -> Guess {
        // Proxies log in for many: the slips of one must not cost the others time.
        let failed = match self.is_one_of_ours(client, Some(own)) {
            true => Failed { failures: 0, delay: Duration::ZERO, is_too_much: false },
            false => self.standing.guesses.mistaken(client, &self.logins.guessing, now),
        };
        Guess { failed, ban: None }
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

    /// Forgets what grants have used that the configuration no longer has.
    pub fn forget_gone_grants(&self) {
        self.standing.rates.keep(|label| self.relay.has_grant(label));
    }

    /// Forgets logins that the configuration no longer has, and of those that only other systems know the ones that were not used
    /// for long.
    pub fn forget_gone_logins(&self, now: SystemTime) {
        let unlisted = self.unlisted_in_use(now);
        let is_kept = |login: &str| self.accounts.login(login).is_some() || unlisted.contains(login);
        self.standing.usage.keep(is_kept);
        self.standing.signs.keep(is_kept);
        self.standing.guesses.keep(is_kept);
        // Who is suspended does not log in, and must not get out of it by waiting.
        let takes_unlisted = self.accounts.takes_unlisted();
        for suspension in self.standing.suspensions.list() {
            if !takes_unlisted && !is_kept(&suspension.login) {
                self.standing.suspensions.lift(&suspension.login);
            }
        }
    }

    /// The logins that only other systems know, and that are remembered: they cannot be listed, so use decides.
    fn unlisted_in_use(&self, now: SystemTime) -> HashSet<String> {
        if !self.accounts.takes_unlisted() {
            return HashSet::new();
        }
        let mut used = self.standing.signs.used_within(UNLISTED_MEMORY, now);
        used.retain(|(login, _)| self.accounts.login(login).is_none());
        used.sort_unstable_by_key(|(_, at)| std::cmp::Reverse(*at));
        used.truncate(MOST_UNLISTED);
        used.into_iter().map(|(login, _)| login).collect()
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_config::account::AccountsFile;
    use postern_config::{Limits, ListenerKind};
    use postern_smtp::ReversePath;

    use super::*;
    use crate::relay::{Verdict, decide};

    const ACCOUNTS: &str = r#"
        [[account]]
        name = "alice@proseware.test"
        password = ""
        limits = { per_hour = 2 }
        [[account]]
        name = "carl"
        password = ""
        state = "quota-locked"
        [[account]]
        name = "home"
        password = ""
        networks = ["192.0.2.0/24"]
        permission = "any"
    "#;

    fn policy(auth: &str) -> Policy {
        let text = format!(
            "hostname = \"mail.proseware.test\"\n[relay]\ntrusted_networks = [{{ network = \"203.0.113.0/24\", label = \"office\" }}]\n\
             [[domain]]\nname = \"proseware.test\"\nmailboxes = [\"alice\", \"bob\"]\n{auth}"
        );
        let mut config: Config = toml::from_str(&text).unwrap();
        config.accounts = toml::from_str::<AccountsFile>(ACCOUNTS).unwrap().accounts;
        Policy::new(&config)
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The decision, with what a live server notes of it.
    fn live(policy: &Policy, login: &str, sender: &str, recipients: usize, stage: Stage<'_>) -> Decision {
        let login = policy.accounts.login(login).unwrap();
        let reverse_path = ReversePath::parse(sender).unwrap();
        let question = Question {
            listener: ListenerKind::Submission,
            client: address("198.51.100.9"),
            local: None,
            tls: true,
            certificate: None,
            login: Some(&login),
            helo: None,
            now: now(),
            recipients,
            reverse_path: &reverse_path,
            stage,
        };
        let decision = decide(&question, policy);
        match decision.verdict {
            Verdict::Accept => policy.count(&question),
            _ => policy.note_refused(&question, &decision),
        }
        decision
    }

    #[test]
    fn a_login_is_asked_about_its_state_and_then_its_networks() {
        let policy = policy("");
        let ask = |login: &str| {
            let decision = live(&policy, login, "", 0, Stage::Login);
            let rules: Vec<&str> = decision.trace.0.iter().map(|step| step.rule.as_str()).collect();
            (decision.reason.as_str(), rules.join(", "))
        };
        assert_eq!(
            ask("alice@proseware.test"),
            ("login-allowed", "login offered, state of login".to_owned())
        );
        assert_eq!(ask("carl"), ("login-suspended", "login offered, state of login".to_owned()));
        let rules = "login offered, state of login, networks of login".to_owned();
        assert_eq!(ask("home"), ("client-address-not-allowed", rules));
        // An open session is no way around it.
        assert_eq!(live(&policy, "carl", "", 0, Stage::Mail).reason.as_str(), "login-suspended");
    }

    #[test]
    fn a_limit_is_a_deferral_that_postmaster_hears_of_once() {
        let policy = policy("");
        let alice = "alice@proseware.test";
        let bob = ForwardPath::parse("bob@proseware.test").unwrap();
        policy.standing.usage.reserve(alice, &Limits::NONE, 1, now()).unwrap();
        let ask = |recipients| live(&policy, alice, alice, recipients, Stage::Rcpt(&bob));
        assert_eq!(ask(0).verdict, Verdict::Accept);
        for _ in 0..2 {
            let refused = ask(1);
            let Reason::Quota { used: 3, resets_in: Some(3600..=3660), limit, .. } = &refused.reason else {
                panic!("{refused:?}");
            };
            assert_eq!((refused.verdict, limit.as_str()), (Verdict::Defer, "2 recipients an hour"));
        }
        let alarm = policy.standing.alarms.next().unwrap();
        assert_eq!((alarm.cause, alarm.suspended), (Cause::LimitPerHour, false));
        assert_eq!(policy.standing.alarms.next(), None);
    }

    #[test]
    fn a_sign_suspends_its_login_only_where_that_is_on() {
        for (suspend, expected) in [(false, "sender-allowed"), (true, "login-suspended")] {
            let policy = policy(&format!("[auth.signs]\nsenders_per_hour = 2\nsuspend = {suspend}\n"));
            let trusted = |sender| {
                let login = policy.accounts.login("home").unwrap();
                let sign = policy.standing.signs.sender(&login.name, &sender, &policy.logins.signs, now());
                policy.note_sign(&login.name, sign, now());
            };
            for sender in ["a@one.test", "b@two.test"] {
                trusted(postern_smtp::Address::parse(sender).unwrap());
            }
            assert_eq!(policy.standing.alarms.next().unwrap().suspended, suspend);
            let alice = "alice@proseware.test";
            assert_eq!(live(&policy, alice, alice, 0, Stage::Mail).reason.as_str(), "sender-allowed");
            assert_eq!(policy.standing.suspensions.find("home").is_some(), expected == "login-suspended");
        }
    }

    #[test]
    fn guessers_are_banned_but_never_our_own_and_logins_are_never_locked() {
        let policy =
            policy("[auth.guessing]\nmax_failures = 2\nalarm_addresses = 2\nnever = [\"192.0.2.80/32\"]\n");
        let own = address("198.51.100.25");
        let guess =
            |client: &str, login: &str| policy.note_guess(login, address(client), own, now()).ban.is_some();
        for client in ["127.0.0.1", "::1", "198.51.100.25", "203.0.113.7", "::ffff:192.0.2.80"] {
            assert!((0..5).all(|_| !guess(client, "nobody")), "{client}");
        }
        let waits = |client: &str| policy.note_guess("nobody", address(client), own, now()).failed.delay;
        assert!(!waits("203.0.113.7").is_zero(), "whoever is trusted to relay may still guess");
        assert!(waits("127.0.0.1").is_zero() && waits("192.0.2.80").is_zero());
        assert_eq!([guess("198.51.100.9", "nobody"), guess("198.51.100.9", "nobody")], [false, true]);
        let banned = |client: &str, can_log_in| policy.ban(address(client), own, can_log_in, now()).is_some();
        assert!(
            banned("198.51.100.9", true) && !banned("198.51.100.9", false) && !banned("198.51.100.8", true)
        );
        assert_eq!(policy.standing.alarms.next(), None, "nobody has that name");
        guess("2001:db8:1::1", "ALICE@proseware.test");
        guess("2001:db8:2::1", "alice@proseware.test");
        assert_eq!(policy.standing.alarms.next().unwrap().cause, Cause::Guessed);
        let alice = "alice@proseware.test";
        assert_eq!(live(&policy, alice, alice, 0, Stage::Mail).verdict, Verdict::Accept);
        // Its owner logs in from anywhere else.
        assert_eq!(live(&policy, alice, "", 0, Stage::Login).reason.as_str(), "banned");
        policy.standing.bans.remove("198.51.100.9/32".parse().unwrap());
        assert_eq!(live(&policy, alice, "", 0, Stage::Login).verdict, Verdict::Accept);
    }

    #[test]
    fn none_of_our_own_addresses_is_ever_banned() {
        let policy = policy(
            "[outbound]\nsource_addresses = [\"198.51.100.26\"]\n[policy]\npublic_addresses = [\"2001:db8::25\"]\n\
             [auth.guessing]\nmax_failures = 1\n",
        );
        policy.standing.own.set([address("198.51.100.27")]);
        let connected_to = address("198.51.100.25");
        let is_banned = |client: &str| {
            let ban = Ban {
                network: source(address(client)),
                since: 0,
                until: u64::MAX,
                why: String::new(),
                by_hand: true,
            };
            policy.standing.bans.add(ban, now());
            let guess = policy.note_guess("nobody", address(client), connected_to, now());
            guess.ban.is_some() || policy.ban(address(client), connected_to, true, now()).is_some()
        };
        for own in ["198.51.100.25", "198.51.100.26", "2001:db8::25", "198.51.100.27"] {
            assert!(!is_banned(own), "{own}");
        }
        assert!(is_banned("198.51.100.28"));
        let own_in = |network: &str| policy.own_address_in(network.parse().unwrap()).is_some();
        assert!(own_in("198.51.100.26/31") && own_in("2001:db8::/64") && !own_in("198.51.100.28/30"));
    }

    #[test]
    fn a_ban_by_hand_holds_on_every_port_whatever_else_is_banned() {
        let policy = policy("[auth.guessing]\nmax_failures = 1\n");
        let (client, own) = (address("198.51.100.9"), address("192.0.2.25"));
        assert!(policy.note_guess("nobody", client, own, now()).ban.is_some());
        assert!(policy.ban(client, own, false, now()).is_none());
        let network = "198.51.100.0/24".parse().unwrap();
        let ban = Ban { network, since: 0, until: u64::MAX, why: String::new(), by_hand: true };
        policy.standing.bans.add(ban, now());
        assert!(policy.ban(client, own, false, now()).unwrap().by_hand);
    }

    #[test]
    fn what_is_no_guess_waits_and_bans_nobody() {
        let policy = policy("[auth.guessing]\nmax_failures = 2\nalarm_addresses = 1\n");
        let (client, own) = (address("198.51.100.9"), address("192.0.2.25"));
        let mistakes: Vec<Guess> = (0..20).map(|_| policy.note_mistake(client, own, now())).collect();
        assert!(mistakes.iter().all(|mistake| mistake.ban.is_none()));
        assert!(!mistakes[19].failed.delay.is_zero());
        assert!(policy.note_guess("nobody", client, own, now()).ban.is_none(), "they count for no ban");
        assert_eq!(policy.standing.alarms.next(), None);
    }

    #[test]
    fn logins_that_are_gone_are_forgotten() {
        let policy = policy("");
        for login in ["alice@proseware.test", "gone"] {
            policy.standing.usage.reserve(login, &Limits::NONE, 1, now()).unwrap();
            policy.suspend(login, "x", now());
        }
        policy.forget_gone_logins(now());
        assert_eq!(policy.standing.usage.snapshot().len(), 1);
        assert_eq!(policy.standing.suspensions.list().len(), 1);
    }

    const BACK_END: &str = "[auth.backend.dovecot]\naddress = \"/run/auth\"\n";

    #[test]
    fn logins_that_nobody_uses_any_more_are_forgotten_where_they_cannot_be_listed() {
        let policy = policy(BACK_END);
        let day = |n: u64| now() + Duration::from_secs(n * 86_400);
        let logged_in = |login: &str, at| {
            policy.standing.signs.address(login, address("192.0.2.7"), &policy.logins.signs, at);
            policy.standing.usage.reserve(login, &Limits::NONE, 1, at).unwrap();
        };
        for login in ["alice@proseware.test", "dora@proseware.test", "emil@proseware.test"] {
            logged_in(login, now());
        }
        logged_in("dora@proseware.test", day(20));
        policy.suspend("emil@proseware.test", "x", now());
        policy.forget_gone_logins(day(29));
        assert_eq!(policy.standing.usage.snapshot().len(), 3);
        policy.forget_gone_logins(day(31));
        let knows = |login: &str| policy.standing.signs.knows(login);
        assert_eq!((policy.standing.usage.snapshot().len(), knows("emil@proseware.test")), (2, false));
        assert!(knows("alice@proseware.test") && knows("dora@proseware.test"));
        assert!(policy.standing.suspensions.find("emil@proseware.test").is_some());
    }

    #[test]
    fn of_logins_that_cannot_be_listed_only_the_latest_are_remembered() {
        let policy = policy(BACK_END);
        for n in 0..=MOST_UNLISTED as u64 {
            let (login, at) = (format!("user{n}@proseware.test"), now() + Duration::from_secs(n));
            policy.standing.signs.address(&login, address("192.0.2.7"), &policy.logins.signs, at);
        }
        policy.forget_gone_logins(now() + Duration::from_secs(86_400));
        assert!(!policy.standing.signs.knows("user0@proseware.test"));
        assert!(policy.standing.signs.knows("user1@proseware.test"));
    }

    #[test]
    fn guesses_for_logins_that_only_a_back_end_knows_raise_an_alarm() {
        let guess = |policy: &Policy, client: &str| {
            policy.note_guess("Dora@proseware.test", address(client), address("192.0.2.25"), now());
        };
        for auth in [BACK_END, ""] {
            let policy = policy(&format!("[auth.guessing]\nalarm_addresses = 2\n{auth}"));
            ["198.51.100.1", "198.51.100.2"].iter().for_each(|client| guess(&policy, client));
            assert_eq!(policy.standing.alarms.next(), None, "nobody has logged in by that name");
            let dora = "dora@proseware.test";
            policy.standing.signs.address(dora, address("192.0.2.7"), &policy.logins.signs, now());
            ["198.51.100.1", "198.51.100.2"].iter().for_each(|client| guess(&policy, client));
            let alarm = policy.standing.alarms.next();
            let told = alarm.map(|alarm| (alarm.login, alarm.cause));
            let expected = (!auth.is_empty()).then(|| (dora.to_owned(), Cause::Guessed));
            assert_eq!(told, expected, "{auth}");
        }
    }
}
