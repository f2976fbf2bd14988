//! The relay decision: may this client send from here to there?
//!
//! One function, [`decide`], for live sessions, `posternctl policy explain` and every later dry run.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use postern_config::relay::TrustedNetwork;
use postern_config::{Config, ListenerKind, Route, Via};
use postern_smtp::{Address, Domain, ForwardPath, Host, LocalPart, ReversePath};
use serde::Serialize;

use crate::Policy;
use crate::accounts::Login;
use crate::directory::Resolution;
use crate::sender::owns;

/// Trusted networks, relay domains and refusing routes, compiled.
#[derive(Debug)]
pub struct Rules {
    trusted: Vec<TrustedNetwork>,
    /// With the folded local parts that exist there, where they are known.
    relay_domains: HashMap<Domain, Option<HashSet<String>>>,
    /// All of them: a route refuses only where no earlier one matches.
    routes: Vec<Route>,
}

impl Rules {
    /// Compiles the rules.
    pub fn new(config: &Config) -> Self {
        // As an address is read: without its quotes.
        let fold = |name: &String| LocalPart::parse(name).ok().map(|local| local.as_str().to_lowercase());
        let fold_all = |names: &Vec<String>| names.iter().filter_map(fold).collect();
        let relay_domains =
            config.relay.relay_domains.iter().map(|d| (d.name.clone(), d.recipients.as_ref().map(fold_all)));
        Self {
            trusted: config.relay.trusted_networks.clone(),
            relay_domains: relay_domains.collect(),
            routes: config.routes.clone(),
        }
    }

    /// The trusted network that the client is in. An IPv4 client on an IPv6 socket counts as IPv4.
    pub fn trusted_network(&self, client: IpAddr) -> Option<&TrustedNetwork> {
        let client = client.to_canonical();
        self.trusted.iter().find(|trusted| trusted.network.contains(&client))
    }

    /// Whether we take mail for the domain and pass it on.
    pub fn is_relay_domain(&self, domain: &Domain) -> bool {
        self.relay_domains.contains_key(domain)
    }
}

/// Every fact that a decision may look at.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// Where the client came in.
    pub listener: ListenerKind,
    /// The client's address.
    pub client: IpAddr,
    /// The address of ours that it connected to: mail to `postmaster@[that address]` is ours.
    pub local: Option<IpAddr>,
    /// Whether the session is under TLS.
    pub tls: bool,
    /// SHA-256 of the client's certificate, if it showed one.
    pub certificate: Option<&'a str>,
    /// Who logged in.
    pub login: Option<&'a Login>,
    /// The argument of EHLO or HELO.
    pub helo: Option<&'a str>,
    /// The sender.
    pub reverse_path: &'a ReversePath,
    /// What is asked.
    pub stage: Stage<'a>,
}

/// How far the transaction has come, with what is known only then.
#[derive(Debug, Clone)]
pub enum Stage<'a> {
    /// MAIL FROM: may this sender be used here?
    Mail,
    /// RCPT TO: may mail go there?
    Rcpt(&'a ForwardPath),
    /// The end of data: do the header's senders fit the login?
    Message(&'a HeaderSenders),
}

impl Stage<'_> {
    /// The word in logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Mail => "mail",
            Self::Rcpt(_) => "rcpt",
            Self::Message(_) => "message",
        }
    }
}

/// The senders that a message's header names. `Err` is a field that cannot be read as addresses.
#[derive(Debug, Clone, Default)]
pub struct HeaderSenders {
    /// Every From field (there should be one), each with all of its addresses.
    pub from: Vec<Result<Vec<Address>, String>>,
    /// Every Sender field.
    pub sender: Vec<Result<Vec<Address>, String>>,
}

/// The answer, with everything that led to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Yes, no, later, or aside.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// Every rule looked at, in order.
    pub trace: Trace,
}

impl Decision {
    /// The same after a standing rule of an operator has refused what was accepted so far: with this verdict, for the
    /// reason `why`, and with `text` for the client.
    pub fn refused_by_rule(mut self, rule: u64, why: &str, text: &str, verdict: Verdict) -> Self {
        self.trace.rule(&format!("rule {rule}"), true, why);
        let (why, text) = (why.to_owned(), text.to_owned());
        Self { verdict, reason: Reason::StandingRule { rule: rule.to_string(), why, text }, ..self }
    }
}

/// What a decision says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Go on.
    Accept,
    /// A 5yz.
    Reject,
    /// A 4yz.
    Defer,
    /// Accept, and keep it in the queue until an operator has looked.
    Hold,
}

impl Verdict {
    /// The word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Reject => "reject",
            Self::Defer => "defer",
            Self::Hold => "hold",
        }
    }
}

/// Why. One variant a cause, so that replies, metrics and explanations can tell them apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Reason {
    /// The recipient is ours: not relaying.
    LocalRecipient,
    /// The recipient's domain is one that we relay for.
    RelayDomain,
    /// The client is in a trusted network.
    TrustedNetwork {
        /// The label of the network in the configuration.
        label: String,
    },
    /// The client logged in.
    Authenticated {
        /// The login.
        login: String,
    },
    /// The sender may be used (at MAIL, and at the end of data).
    SenderAllowed,
    /// A submission port, and nobody logged in (530 5.7.0).
    AuthenticationRequired,
    /// Foreign client, foreign recipient (550 5.7.1).
    RelayNotPermitted,
    /// The login may not use this MAIL FROM (550 5.7.1).
    SenderNotOwned {
        /// The login.
        login: String,
        /// The sender.
        sender: String,
    },
    /// A header From or Sender address is not the login's (550 5.7.1).
    HeaderNotOwned {
        /// The login.
        login: String,
        /// `From` or `Sender`.
        field: String,
        /// The address, or what is wrong with the field.
        address: String,
    },
    /// A login's message without a usable From (550 5.6.0, RFC 5322 §3.6).
    HeaderFromUnusable {
        /// What is wrong.
        problem: String,
    },
    /// A domain of ours, no such mailbox (550 5.1.1).
    UnknownRecipient,
    /// An alias that leads back to itself (550 5.4.6).
    AliasLoop,
    /// An address literal that is not ours, or another address we cannot send to (550 5.1.2).
    BadDestination,
    /// A route refuses the recipient (550 5.7.1).
    RouteRejects {
        /// The text of the route.
        text: String,
    },
    /// A standing rule of an operator refuses the recipient or the message (550 5.7.1, or 450 4.7.1).
    StandingRule {
        /// Its number.
        rule: String,
        /// Why it is there, for operators.
        why: String,
        /// Its text for the client.
        text: String,
    },
}

impl Reason {
    /// The word in logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::LocalRecipient => "local-recipient",
            Self::RelayDomain => "relay-domain",
            Self::TrustedNetwork { .. } => "trusted-network",
            Self::Authenticated { .. } => "authenticated",
            Self::SenderAllowed => "sender-allowed",
            Self::AuthenticationRequired => "authentication-required",
            Self::RelayNotPermitted => "relay-not-permitted",
            Self::SenderNotOwned { .. } => "sender-not-owned",
            Self::HeaderNotOwned { .. } => "header-not-owned",
            Self::HeaderFromUnusable { .. } => "header-from-unusable",
            Self::UnknownRecipient => "unknown-recipient",
            Self::AliasLoop => "alias-loop",
            Self::BadDestination => "bad-destination",
            Self::RouteRejects { .. } => "route-rejects",
            Self::StandingRule { .. } => "standing-rule",
        }
    }
}

/// The rules looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Trace(pub Vec<Step>);

/// One rule and what it said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The rule, such as `trusted network`.
    pub rule: String,
    /// Whether it held.
    pub matched: bool,
    /// The fact it looked at, such as `198.51.100.9 is in none of 2 trusted networks`.
    pub fact: String,
}

impl Trace {
    /// Notes a rule and hands its answer on.
    fn rule(&mut self, rule: &str, matched: bool, fact: impl Into<String>) -> bool {
        self.0.push(Step { rule: rule.to_owned(), matched, fact: fact.into() });
        matched
    }
}

/// Decides. Pure: the same question and policy always give the same answer.
pub fn decide(question: &Question<'_>, policy: &Policy) -> Decision {
    let mut trace = Trace::default();
    let answer = match question.stage {
        Stage::Mail => mail(question, policy, &mut trace),
        Stage::Rcpt(path) => rcpt(question, path, policy, &mut trace),
        Stage::Message(senders) => message(question, senders, policy, &mut trace),
    };
    let (verdict, reason) = match answer {
        Ok(reason) => (Verdict::Accept, reason),
        Err(reason) => (Verdict::Reject, reason),
    };
    Decision { verdict, reason, trace }
}

/// The reason for accepting, or that for refusing.
type Answer = Result<Reason, Reason>;

fn mail(question: &Question<'_>, policy: &Policy, trace: &mut Trace) -> Answer {
    require_client(question, policy, trace)?;
    let ReversePath::Address(sender) = question.reverse_path else {
        trace.rule("null sender", true, "the null sender is everybody's (RFC 5321 §4.5.5)");
        return Ok(Reason::SenderAllowed);
    };
    let Some(login) = question.login else {
        trace.rule("sender of login", false, "nobody is logged in, so the sender is not bound to a login");
        return Ok(Reason::SenderAllowed);
    };
    let owned = owns(login, sender, &policy.directory);
    let fact = format!("{} may {}send as {sender}", login.name, if owned { "" } else { "not " });
    if !trace.rule("sender of login", owned, fact) {
        return Err(Reason::SenderNotOwned { login: login.name.clone(), sender: sender.to_string() });
    }
    Ok(Reason::SenderAllowed)
}

fn rcpt(question: &Question<'_>, path: &ForwardPath, policy: &Policy, trace: &mut Trace) -> Answer {
    require_client(question, policy, trace)?;
    let resolution = policy.directory.resolve(path, question.local);
    let (ForwardPath::Address(recipient), Resolution::NotLocal) = (path, &resolution) else {
        let reason = local_recipient(path, &resolution, trace)?;
        refusing_route_of_alias(question.reverse_path, &resolution, policy, trace)?;
        return Ok(reason);
    };
    trace.rule("local recipient", false, format!("the domain of {recipient} is not local"));
    let Host::Domain(domain) = &recipient.host else {
        return address_literal(question, recipient, policy, trace);
    };
    let right = match relay_domain(recipient, domain, policy, trace)? {
        Some(right) => Some(right),
        None => right_of_client(question, policy, trace),
    };
    let right = right.ok_or(Reason::RelayNotPermitted)?;
    refusing_route(question.reverse_path, recipient, policy, trace)?;
    Ok(right)
}

/// Who may do anything at all on a submission port: a login or a trusted network (RFC 6409 §4.3).
fn require_client(question: &Question<'_>, policy: &Policy, trace: &mut Trace) -> Result<(), Reason> {
    if !question.listener.is_submission() {
        return Ok(());
    }
    let trusted = policy.relay.trusted_network(question.client).is_some();
    let fact = match (question.login, trusted) {
        (Some(login), _) => format!("logged in as {}", login.name),
        (None, true) => {
            format!("not logged in, but {} is in a trusted network", question.client.to_canonical())
        }
        (None, false) => "not logged in and not in a trusted network".to_owned(),
    };
    let fact = format!("on the {} port: {fact}", question.listener.as_str());
    if !trace.rule("submission client", question.login.is_some() || trusted, fact) {
        return Err(Reason::AuthenticationRequired);
    }
    Ok(())
}

fn local_recipient(path: &ForwardPath, resolution: &Resolution, trace: &mut Trace) -> Answer {
    let (matched, fact, answer) = match resolution {
        Resolution::Recipients(list) => (true, delivers_to(path, list), Ok(Reason::LocalRecipient)),
        Resolution::AliasLoop => {
            (false, format!("the alias {path} leads back to itself"), Err(Reason::AliasLoop))
        }
        // `<Postmaster>` always leads somewhere, so only an address can be unknown.
        Resolution::Unknown | Resolution::NotLocal => (
            false,
            format!("{path} is in a domain of ours, but nobody has that name"),
            Err(Reason::UnknownRecipient),
        ),
    };
    trace.rule("local recipient", matched, fact);
    answer
}

fn delivers_to(path: &ForwardPath, list: &[Address]) -> String {
    match list {
        [one] => format!("{path} is {one}"),
        _ => format!("{path} is an alias of {} recipients", list.len()),
    }
}

/// A literal that is not ours has no MX and is nobody's domain: we send there for no one. Strangers hear what they would
/// hear about any foreign recipient.
fn address_literal(
    question: &Question<'_>,
    recipient: &Address,
    policy: &Policy,
    trace: &mut Trace,
) -> Answer {
    right_of_client(question, policy, trace).ok_or(Reason::RelayNotPermitted)?;
    trace.rule("destination", false, format!("{} is an address literal, and not ours", recipient.host));
    Err(Reason::BadDestination)
}

/// `None`: the domain gives no right; the client may still have one.
fn relay_domain(
    recipient: &Address,
    domain: &Domain,
    policy: &Policy,
    trace: &mut Trace,
) -> Result<Option<Reason>, Reason> {
    const RULE: &str = "relay domain";
    let rules = &policy.relay;
    let Some(recipients) = rules.relay_domains.get(domain) else {
        let count = counted(rules.relay_domains.len(), "relay domain");
        trace.rule(RULE, false, format!("{domain} is none of {count}"));
        return Ok(None);
    };
    let local = recipient.local.as_str().to_lowercase();
    match recipients {
        // RFC 5321 §4.5.1: postmaster exists wherever mail is relayed for.
        Some(list) if list.contains(&local) || local == "postmaster" => {
            trace.rule(RULE, true, format!("{recipient} is a recipient of the relay domain {domain}"));
        }
        Some(list) => {
            let count = counted(list.len(), "recipient");
            trace.rule(
                RULE,
                false,
                format!("{recipient} is none of the {count} of the relay domain {domain}"),
            );
            return Err(Reason::UnknownRecipient);
        }
        // The primary may read these as routes and pass the mail on to a third party, as if it came from us.
        None if local.contains(['%', '!', '@']) => {
            trace.rule(
                RULE,
                false,
                format!("{recipient} holds a route of the sender's choice (%, ! or a second @)"),
            );
            return Ok(None);
        }
        None => {
            trace.rule(RULE, true, format!("{domain} is a relay domain"));
        }
    }
    Ok(Some(Reason::RelayDomain))
}

/// Whether the client may send to anywhere, and why.
fn right_of_client(question: &Question<'_>, policy: &Policy, trace: &mut Trace) -> Option<Reason> {
    let client = question.client.to_canonical();
    if let Some(trusted) = policy.relay.trusted_network(client) {
        let fact = format!("{client} is in {} ({})", trusted.network, trusted.label);
        trace.rule("trusted network", true, fact);
        return Some(Reason::TrustedNetwork { label: trusted.label.clone() });
    }
    let count = counted(policy.relay.trusted.len(), "trusted network");
    trace.rule("trusted network", false, format!("{client} is in none of {count}"));
    let Some(login) = question.login else {
        trace.rule("login", false, "not logged in");
        return None;
    };
    trace.rule("login", true, format!("logged in as {}", login.name));
    Some(Reason::Authenticated { login: login.name.clone() })
}

/// The first route that matches decides; only then does it matter whether it refuses.
fn refusing_route(
    sender: &ReversePath,
    recipient: &Address,
    policy: &Policy,
    trace: &mut Trace,
) -> Result<(), Reason> {
    let routes = &policy.relay.routes;
    let Some(at) = routes.iter().position(|route| route.matches(sender, recipient)) else {
        trace.rule("route", false, format!("none of {} matches", counted(routes.len(), "route")));
        return Ok(());
    };
    let route = &routes[at];
    let fact = format!("route {} (domain {:?}, sender {:?}) matches", at + 1, route.domain, route.sender);
    let refuses = route.via == Via::Reject;
    trace.rule("route", true, format!("{fact} and {}", if refuses { "refuses" } else { "does not refuse" }));
    match refuses {
        true => Err(Reason::RouteRejects { text: route.text.clone().unwrap_or_default() }),
        false => Ok(()),
    }
}

/// What an alias leads to elsewhere goes by the routes too: refused later, it would come back to a sender who may be forged.
fn refusing_route_of_alias(
    sender: &ReversePath,
    resolution: &Resolution,
    policy: &Policy,
    trace: &mut Trace,
) -> Result<(), Reason> {
    let Resolution::Recipients(list) = resolution else { return Ok(()) };
    let is_ours =
        |address: &Address| address.domain().is_some_and(|domain| policy.directory.is_local(domain));
    list.iter()
        .filter(|address| !is_ours(address))
        .try_for_each(|address| refusing_route(sender, address, policy, trace))
}

fn message(question: &Question<'_>, senders: &HeaderSenders, policy: &Policy, trace: &mut Trace) -> Answer {
    let Some(login) = question.login else {
        trace.rule(
            "header senders of login",
            false,
            "nobody is logged in, so From and Sender are not bound to a login",
        );
        return Ok(Reason::SenderAllowed);
    };
    let from = single_from(senders, trace)?;
    header_field("From", from, login, policy, trace)?;
    for field in &senders.sender {
        let addresses = field.as_ref().map_err(|problem| {
            trace.rule("header Sender", false, format!("the Sender field cannot be read: {problem}"));
            header_not_owned(login, "Sender", problem.clone())
        })?;
        header_field("Sender", addresses, login, policy, trace)?;
    }
    Ok(Reason::SenderAllowed)
}

/// The addresses of the one From field that a message must have (RFC 5322 §3.6). With several, readers differ in which one
/// they show.
fn single_from<'a>(senders: &'a HeaderSenders, trace: &mut Trace) -> Result<&'a [Address], Reason> {
    let problem = match senders.from.as_slice() {
        [Ok(addresses)] if !addresses.is_empty() => return Ok(addresses),
        [] => "there is no From field".to_owned(),
        [Ok(_)] => "the From field has no address".to_owned(),
        [Err(problem)] => format!("the From field cannot be read: {problem}"),
        several => format!("there are {} From fields", several.len()),
    };
    trace.rule("header From", false, problem.clone());
    Err(Reason::HeaderFromUnusable { problem })
}

/// Every address of the field must be the login's.
fn header_field(
    field: &str,
    addresses: &[Address],
    login: &Login,
    policy: &Policy,
    trace: &mut Trace,
) -> Result<(), Reason> {
    let rule = format!("header {field}");
    let Some(foreign) = addresses.iter().find(|address| !owns(login, address, &policy.directory)) else {
        let count = counted(addresses.len(), "address");
        trace.rule(&rule, true, format!("{} may send as the {count} in {field}", login.name));
        return Ok(());
    };
    trace.rule(&rule, false, format!("{} may not send as {foreign}", login.name));
    Err(header_not_owned(login, field, foreign.to_string()))
}

fn header_not_owned(login: &Login, field: &str, address: String) -> Reason {
    Reason::HeaderNotOwned { login: login.name.clone(), field: field.to_owned(), address }
}

/// `2 routes`, `1 route`.
fn counted(count: usize, noun: &str) -> String {
    let plural = match noun {
        "address" => "es",
        _ => "s",
    };
    format!("{count} {noun}{}", if count == 1 { "" } else { plural })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;
    use crate::sender::header_senders;
    use postern_config::account::AccountsFile;

    const CONFIG: &str = r#"
        hostname = "mail.proseware.test"
        [relay]
        trusted_networks = [
            { network = "192.0.2.0/24", label = "office" },
            { network = "2001:db8:1::/48", label = "office" },
        ]
        relay_domains = [
            { name = "customer.test" },
            { name = "listed.test", recipients = ["Carol", "a%b", '"J Doe"'] },
        ]
        [[domain]]
        name = "proseware.test"
        mailboxes = ["alice", "bob"]
        aliases = { info = ["alice", "bob"], partner = ["p@adatum.test"], banned = ["alice", "x@y.banned.test"], one = ["two"], two = ["one"] }
        [[route]]
        domain = "friendly.banned.test"
        via = "mx"
        [[route]]
        domain = ".banned.test"
        via = "reject"
        text = "no mail there"
        [[route]]
        sender = "bob@proseware.test"
        domain = "thephone-company.test"
        via = "reject"
    "#;
    const ACCOUNTS: &str = r#"
        [[account]]
        name = "alice@proseware.test"
        password = ""
        send_as = ["shared@proseware.test"]
        [[account]]
        name = "any"
        password = ""
        permission = "any"
    "#;
    const OFFICE: &str = "192.0.2.7";
    const ELSEWHERE: &str = "198.51.100.9";
    const OURS: &str = "alice@proseware.test";
    const FOREIGN: &str = "bob@adatum.test";

    fn policy() -> Policy {
        let mut config: Config = toml::from_str(CONFIG).unwrap();
        config.accounts = toml::from_str::<AccountsFile>(ACCOUNTS).unwrap().accounts;
        Policy::new(&config)
    }

    /// A session, with the usual values filled in.
    struct Session {
        listener: ListenerKind,
        client: &'static str,
        login: Option<&'static str>,
        sender: &'static str,
    }

    const MX: Session =
        Session { listener: ListenerKind::Mx, client: ELSEWHERE, login: None, sender: "s@adatum.test" };
    const SUBMISSION: Session = Session {
        listener: ListenerKind::Submission,
        client: ELSEWHERE,
        login: Some("alice@proseware.test"),
        sender: "alice@proseware.test",
    };

    impl Session {
        fn ask(&self, stage: Stage<'_>) -> Decision {
            let policy = policy();
            let login = self.login.map(|name| policy.accounts.login(name).unwrap());
            let question = Question {
                listener: self.listener,
                client: self.client.parse().unwrap(),
                local: Some("192.0.2.25".parse().unwrap()),
                tls: false,
                certificate: None,
                login: login.as_ref(),
                helo: None,
                reverse_path: &ReversePath::parse(self.sender).unwrap(),
                stage,
            };
            decide(&question, &policy)
        }

        fn mail(&self) -> Reason {
            checked(self.ask(Stage::Mail))
        }

        fn rcpt(&self, to: &str) -> Reason {
            checked(self.ask(Stage::Rcpt(&ForwardPath::parse(to).unwrap())))
        }

        fn message(&self, header: &str) -> Reason {
            checked(self.ask(Stage::Message(&header_senders(header.as_bytes()))))
        }
    }

    /// The reason, after a look at whether the verdict fits it.
    fn checked(decision: Decision) -> Reason {
        let accepts = matches!(
            decision.reason,
            Reason::LocalRecipient
                | Reason::RelayDomain
                | Reason::TrustedNetwork { .. }
                | Reason::Authenticated { .. }
                | Reason::SenderAllowed
        );
        assert_eq!(decision.verdict == Verdict::Accept, accepts, "{decision:?}");
        assert!(!decision.trace.0.is_empty(), "{decision:?}");
        decision.reason
    }

    fn office() -> Reason {
        Reason::TrustedNetwork { label: "office".to_owned() }
    }

    fn logged_in() -> Reason {
        Reason::Authenticated { login: "alice@proseware.test".to_owned() }
    }

    #[test]
    fn own_network_to_our_recipient_is_not_relaying() {
        assert_eq!(Session { client: OFFICE, ..MX }.rcpt(OURS), Reason::LocalRecipient);
    }

    #[test]
    fn trusted_network_to_foreign_recipient_is_relayed() {
        assert_eq!(Session { client: OFFICE, ..MX }.rcpt(FOREIGN), office());
    }

    #[test]
    fn foreign_network_to_our_recipient_is_not_relaying() {
        assert_eq!(MX.rcpt(OURS), Reason::LocalRecipient);
    }

    #[test]
    fn foreign_network_to_foreign_recipient_is_refused() {
        assert_eq!(MX.rcpt(FOREIGN), Reason::RelayNotPermitted);
    }

    #[test]
    fn login_on_a_foreign_network_to_foreign_recipient_is_relayed() {
        assert_eq!(SUBMISSION.rcpt(FOREIGN), logged_in());
        assert_eq!(Session { listener: ListenerKind::Submissions, ..SUBMISSION }.rcpt(FOREIGN), logged_in());
    }

    #[test]
    fn hotel_network_on_port_25_to_foreign_recipient_is_refused() {
        // Its own sender address does not help a user who did not log in.
        let hotel = Session { client: "203.0.113.80", sender: OURS, ..MX };
        assert_eq!(hotel.mail(), Reason::SenderAllowed);
        assert_eq!(hotel.rcpt(FOREIGN), Reason::RelayNotPermitted);
    }

    #[test]
    fn relay_tricks_are_refused() {
        for to in [
            "user%adatum.test@proseware.test",
            "\"user@adatum.test\"@proseware.test",
            "adatum.test!user@proseware.test",
            "user%adatum.test@mail.proseware.test",
            "user%adatum.test@[192.0.2.25]",
        ] {
            assert_eq!(MX.rcpt(to), Reason::UnknownRecipient, "{to}");
        }
        for to in [
            "@proseware.test:user@adatum.test",
            "@proseware.test,@customer.test:user@adatum.test",
            "user%adatum.test@customer.test",
            "\"user@adatum.test\"@customer.test",
            "adatum.test!user@customer.test",
            "user@[203.0.113.5]",
            "user@[IPv6:2001:db8:9::1]",
            "user@xproseware.test",
            "user@proseware.test.adatum.test",
        ] {
            assert_eq!(MX.rcpt(to), Reason::RelayNotPermitted, "{to}");
        }
        for sender in ["", OURS, "postmaster@mail.proseware.test", "x@[192.0.2.25]"] {
            assert_eq!(Session { sender, ..MX }.rcpt(FOREIGN), Reason::RelayNotPermitted, "{sender}");
        }
    }

    #[test]
    fn loopback_and_own_addresses_are_not_trusted_by_themselves() {
        for client in ["127.0.0.1", "::1", "10.0.0.1", "::ffff:127.0.0.1"] {
            assert_eq!(Session { client, ..MX }.rcpt(FOREIGN), Reason::RelayNotPermitted, "{client}");
        }
    }

    #[test]
    fn an_ipv4_mapped_client_is_its_ipv4_address() {
        assert_eq!(Session { client: "::ffff:192.0.2.7", ..MX }.rcpt(FOREIGN), office());
        assert_eq!(Session { client: "2001:db8:1::7", ..MX }.rcpt(FOREIGN), office());
        assert_eq!(Session { client: "2001:db8:2::7", ..MX }.rcpt(FOREIGN), Reason::RelayNotPermitted);
    }

    #[test]
    fn address_literals_elsewhere_are_no_destination() {
        assert_eq!(Session { client: OFFICE, ..MX }.rcpt("a@[203.0.113.5]"), Reason::BadDestination);
        assert_eq!(SUBMISSION.rcpt("a@[203.0.113.5]"), Reason::BadDestination);
    }

    #[test]
    fn unknown_local_recipients_and_loops_are_refused_for_everybody() {
        for session in [MX, Session { client: OFFICE, ..MX }, SUBMISSION] {
            assert_eq!(session.rcpt("nobody@proseware.test"), Reason::UnknownRecipient);
            assert_eq!(session.rcpt("one@proseware.test"), Reason::AliasLoop);
        }
    }

    #[test]
    fn an_alias_to_elsewhere_is_a_local_recipient() {
        assert_eq!(MX.rcpt("partner@proseware.test"), Reason::LocalRecipient);
    }

    #[test]
    fn postmaster_is_accepted_from_anybody() {
        for to in ["Postmaster", "POSTMASTER", "postmaster@proseware.test", "postmaster@[192.0.2.25]"] {
            assert_eq!(MX.rcpt(to), Reason::LocalRecipient, "{to}");
        }
        assert_eq!(MX.rcpt("Postmaster@listed.test"), Reason::RelayDomain);
    }

    #[test]
    fn relay_domains_take_their_recipients_only() {
        assert_eq!(MX.rcpt("whoever@Customer.test"), Reason::RelayDomain);
        assert_eq!(MX.rcpt("whoever@sub.customer.test"), Reason::RelayNotPermitted);
        assert_eq!(MX.rcpt("carol@listed.test"), Reason::RelayDomain);
        assert_eq!(MX.rcpt("a%b@listed.test"), Reason::RelayDomain);
        assert_eq!(MX.rcpt("\"j doe\"@listed.test"), Reason::RelayDomain);
        assert_eq!(MX.rcpt("dave@listed.test"), Reason::UnknownRecipient);
        assert_eq!(SUBMISSION.rcpt("dave@listed.test"), Reason::UnknownRecipient);
    }

    #[test]
    fn submission_needs_a_login_even_for_our_recipients() {
        let session = Session { login: None, ..SUBMISSION };
        assert_eq!(session.mail(), Reason::AuthenticationRequired);
        assert_eq!(Session { sender: "", ..session }.mail(), Reason::AuthenticationRequired);
        for to in [OURS, FOREIGN, "postmaster"] {
            assert_eq!(Session { login: None, ..SUBMISSION }.rcpt(to), Reason::AuthenticationRequired);
        }
        let trusted = Session { login: None, client: OFFICE, ..SUBMISSION };
        assert_eq!(trusted.mail(), Reason::SenderAllowed);
        assert_eq!(trusted.rcpt(FOREIGN), office());
    }

    #[test]
    fn routes_refuse_whoever_may_relay() {
        let rejects = |text: &str| Reason::RouteRejects { text: text.to_owned() };
        assert_eq!(SUBMISSION.rcpt("a@x.banned.test"), rejects("no mail there"));
        assert_eq!(Session { client: OFFICE, ..MX }.rcpt("a@x.banned.test"), rejects("no mail there"));
        // Strangers do not learn about routes.
        assert_eq!(MX.rcpt("a@x.banned.test"), Reason::RelayNotPermitted);
        // An earlier route that matches wins.
        assert_eq!(SUBMISSION.rcpt("a@friendly.banned.test"), logged_in());
        assert_eq!(MX.rcpt("banned@proseware.test"), rejects("no mail there"));
        assert_eq!(MX.rcpt("partner@proseware.test"), Reason::LocalRecipient);
        assert_eq!(SUBMISSION.rcpt("a@thephone-company.test"), logged_in());
        let bob = Session { client: OFFICE, sender: "bob@proseware.test", ..MX };
        assert_eq!(bob.rcpt("a@thephone-company.test"), rejects(""));
        // Local domains come before all routes.
        assert_eq!(bob.rcpt(OURS), Reason::LocalRecipient);
    }

    #[test]
    fn a_login_is_bound_to_its_senders() {
        assert_eq!(SUBMISSION.mail(), Reason::SenderAllowed);
        assert_eq!(Session { sender: "", ..SUBMISSION }.mail(), Reason::SenderAllowed);
        assert_eq!(Session { sender: "shared@proseware.test", ..SUBMISSION }.mail(), Reason::SenderAllowed);
        let refused = Reason::SenderNotOwned {
            login: "alice@proseware.test".to_owned(),
            sender: "bob@proseware.test".to_owned(),
        };
        assert_eq!(Session { sender: "bob@proseware.test", ..SUBMISSION }.mail(), refused);
        // Also in a trusted network, where a client without a login is not bound.
        assert_eq!(Session { sender: "bob@proseware.test", client: OFFICE, ..SUBMISSION }.mail(), refused);
        let open = Session { sender: "bob@proseware.test", client: OFFICE, login: None, ..SUBMISSION };
        assert_eq!(open.mail(), Reason::SenderAllowed);
    }

    #[test]
    fn header_senders_must_be_the_logins() {
        for header in [
            "From: alice@proseware.test\r\n",
            "From: Alice <ALICE+x@proseware.test>\r\nSender: shared@proseware.test\r\n",
            "from : team: alice@proseware.test, shared@proseware.test;\r\n",
            "From: \"bob@proseware.test\" <alice@proseware.test>\r\n",
            "From: alice@proseware.test (bob@proseware.test)\r\n",
        ] {
            assert_eq!(SUBMISSION.message(header), Reason::SenderAllowed, "{header}");
        }
        for (field, header) in [
            ("From", "From: bob@proseware.test\r\n"),
            ("From", "From: alice@proseware.test, bob@proseware.test\r\n"),
            ("From", "From: team: alice@proseware.test, bob@proseware.test;\r\n"),
            ("From", "From: \"alice@proseware.test\" <bob@proseware.test>\r\n"),
            ("From", "From: alice@proseware.test\r\n , bob@proseware.test\r\n"),
            ("Sender", "From: alice@proseware.test\r\nSender: bob@proseware.test\r\n"),
            (
                "Sender",
                "Sender: shared@proseware.test\r\nFrom: alice@proseware.test\r\nSENDER: bob@proseware.test\r\n",
            ),
        ] {
            let expected = Reason::HeaderNotOwned {
                login: "alice@proseware.test".to_owned(),
                field: field.to_owned(),
                address: "bob@proseware.test".to_owned(),
            };
            assert_eq!(SUBMISSION.message(header), expected, "{header}");
        }
        let unreadable = SUBMISSION.message("From: alice@proseware.test\r\nSender: <bob\r\n");
        assert!(matches!(unreadable, Reason::HeaderNotOwned { field, .. } if field == "Sender"));
    }

    #[test]
    fn a_null_sender_does_not_free_the_header() {
        let session = Session { sender: "", ..SUBMISSION };
        assert!(matches!(session.message("From: bob@proseware.test\r\n"), Reason::HeaderNotOwned { .. }));
    }

    #[test]
    fn a_login_needs_one_usable_from() {
        for header in [
            "",
            "To: a@b.test\r\n",
            "From:\r\n",
            "From: nobody:;\r\n",
            "From: alice@proseware.test <bob@proseware.test>\r\n",
            "From: =?utf-8?q?alice=40proseware.test?=\r\n",
            "From: alice@proseware.test\r\nFrom: alice@proseware.test\r\n",
            "From: alice@proseware.test\r\nFrom : bob@proseware.test\r\n",
        ] {
            assert!(matches!(SUBMISSION.message(header), Reason::HeaderFromUnusable { .. }), "{header}");
        }
        let any = Session { login: Some("any"), ..SUBMISSION };
        assert_eq!(any.message("From: x@adatum.test\r\n"), Reason::SenderAllowed);
        assert!(matches!(any.message(""), Reason::HeaderFromUnusable { .. }));
    }

    #[test]
    fn mail_without_a_login_is_not_bound_by_its_header() {
        assert_eq!(MX.message("From: anybody@adatum.test\r\n"), Reason::SenderAllowed);
        assert_eq!(MX.message(""), Reason::SenderAllowed);
    }

    #[test]
    fn the_trace_names_every_rule_and_its_fact() {
        let to = ForwardPath::parse(FOREIGN).unwrap();
        let trace = MX.ask(Stage::Rcpt(&to)).trace;
        let steps: Vec<(&str, bool, &str)> =
            trace.0.iter().map(|step| (step.rule.as_str(), step.matched, step.fact.as_str())).collect();
        assert_eq!(
            steps,
            [
                ("local recipient", false, "the domain of bob@adatum.test is not local"),
                ("relay domain", false, "adatum.test is none of 2 relay domains"),
                ("trusted network", false, "198.51.100.9 is in none of 2 trusted networks"),
                ("login", false, "not logged in"),
            ]
        );
    }

    #[test]
    fn reasons_have_one_name_in_json_and_metrics() {
        for reason in [MX.rcpt(FOREIGN), MX.rcpt(OURS), SUBMISSION.rcpt(FOREIGN), SUBMISSION.message("")] {
            assert_eq!(serde_json::to_value(&reason).unwrap()["kind"], reason.as_str());
        }
    }

    proptest! {
        /// Whatever a stranger writes, it is relayed only if its domain is ours or a relay domain.
        #[test]
        fn strangers_never_reach_a_foreign_domain(text in "[a-zA-Z0-9@%!:,.\"\\[\\]\\\\-]{0,40}(@(adatum|proseware|customer)\\.test)?") {
            if let Ok(path) = ForwardPath::parse(&text) {
                let decision = MX.ask(Stage::Rcpt(&path));
                if decision.verdict == Verdict::Accept {
                    let ours = match &path {
                        ForwardPath::Postmaster => true,
                        ForwardPath::Address(address) => address.domain().is_some_and(|domain| {
                            ["proseware.test", "mail.proseware.test", "customer.test", "listed.test"].contains(&domain.as_str())
                        }),
                    };
                    prop_assert!(ours, "{text}");
                }
            }
        }
    }
}
