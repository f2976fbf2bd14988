//! Clients that are on lists in DNS.

use std::net::IpAddr;
use std::time::Duration;

use postern_smtp::Domain;

use super::*;
use crate::facts::{Wanted, wanted};
use crate::standing::blocklists::Answered;
use crate::standing::grants::TemporaryGrant;

const ZEN: &str = "zen.example.test";
const GOOD: &str = "good.example.test";
const TRIAL: &str = "trial.example.test";

const LISTS: &str = r#"
    hostname = "mail.proseware.test"
    [[domain]]
    name = "proseware.test"
    mailboxes = ["alice", "abuse"]
    [relay]
    trusted_networks = [{ network = "192.0.2.0/24", label = "office" }]
    relay_domains = [{ name = "customer.test" }]
    temporary = { enabled = true }
    [policy]
    dnsbl_threshold = 3
    dnsbl_exempt = ["203.0.113.64/26"]
    [[policy.dnsbl]]
    zone = "zen.example.test"
    label = "Zen"
    answers = ["127.0.0.2", "127.0.0.4/30"]
    weight = 3
    text = "see https://check.example.test/{client}"
    [[policy.dnsbl]]
    zone = "zen.example.test"
    answers = ["127.0.0.10"]
    weight = 1
    [[policy.dnsbl]]
    zone = "good.example.test"
    weight = -2
    [[policy.dnsbl]]
    zone = "trial.example.test"
    weight = 100
    action = "log"
"#;

struct World {
    policy: Policy,
    listener: ListenerKind,
}

impl World {
    fn new() -> Self {
        Self::with("")
    }

    fn with(more: &str) -> Self {
        let policy = Policy::new(&toml::from_str(&format!("{LISTS}{more}")).unwrap());
        Self { policy, listener: ListenerKind::Mx }
    }

    /// All lists say nothing of this client but these.
    fn said(self, answers: &[(&str, &[&str])]) -> Self {
        for zone in [ZEN, GOOD, TRIAL] {
            let of_zone = answers.iter().find(|(name, _)| *name == zone);
            self.answer(
                zone,
                of_zone.map_or(Answered::NotListed, |(_, list)| {
                    Answered::Addresses(list.iter().map(|text| text.parse().unwrap()).collect())
                }),
            );
        }
        self
    }

    fn answer(&self, zone: &str, answered: Answered) {
        let (zone, ttl) = (Domain::parse(zone).unwrap(), Duration::from_secs(600));
        for client in [ELSEWHERE, "127.0.0.9", "203.0.113.65", "192.0.2.7"] {
            let client = client.parse().unwrap();
            self.policy.standing.blocklists.learn(&zone, "", client, answered.clone(), ttl, UNIX_EPOCH);
        }
    }

    fn asked<T>(&self, client: &str, to: &str, ask: impl Fn(&Question<'_>) -> T) -> T {
        ask(&Question {
            listener: self.listener,
            client: client.parse().unwrap(),
            local: Some("192.0.2.25".parse().unwrap()),
            tls: false,
            certificate: None,
            login: None,
            helo: None,
            now: UNIX_EPOCH,
            recipients: 0,
            reverse_path: &ReversePath::parse("s@adatum.test").unwrap(),
            stage: Stage::Rcpt(&ForwardPath::parse(to).unwrap()),
        })
    }

    fn decision(&self, client: &str, to: &str) -> Decision {
        self.asked(client, to, |question| decide(question, &self.policy))
    }

    fn reason(&self, client: &str, to: &str) -> Reason {
        checked(self.decision(client, to))
    }

    fn wanted(&self, client: &str, to: &str) -> Vec<String> {
        let wanted = self.asked(client, to, |question| wanted(question, &self.policy));
        let zone = |wanted: &Wanted| match wanted {
            Wanted::Blocklist { zone, client } => format!("{zone} {client}"),
            other => panic!("{other:?}"),
        };
        wanted.iter().map(zone).collect()
    }
}

fn facts(decision: &Decision) -> Vec<(bool, &str)> {
    let steps = decision.trace.0.iter().filter(|step| step.rule.contains("blocklist"));
    steps.map(|step| (step.matched, step.fact.as_str())).collect()
}

#[test]
fn a_listed_stranger_is_refused_and_every_list_is_in_the_trace() {
    let world = World::new().said(&[(ZEN, &["127.0.0.4", "127.0.0.9"]), (TRIAL, &["127.0.0.2"])]);
    let decision = world.decision(ELSEWHERE, OURS);
    assert_eq!(
        facts(&decision),
        [
            (true, "Zen lists 198.51.100.9 (127.0.0.4), which weighs 3"),
            (false, "zen.example.test answers 127.0.0.4, 127.0.0.9 of 198.51.100.9, which does not count"),
            (false, "good.example.test does not list 198.51.100.9"),
            (true, "trial.example.test lists 198.51.100.9 (127.0.0.2), which is only logged"),
            (true, "the lists that have 198.51.100.9 weigh 3, and 3 refuses"),
        ]
    );
    let expected = Reason::Blocklisted {
        client: ELSEWHERE.to_owned(),
        lists: "Zen".to_owned(),
        answers: "127.0.0.4".to_owned(),
        weight: 3,
        text: Some("see https://check.example.test/198.51.100.9".to_owned()),
    };
    assert_eq!(checked(decision), expected);
    // An IPv4 client on an IPv6 socket is the same one; a relay domain is guarded, too.
    assert_eq!(world.reason("::ffff:198.51.100.9", "x@customer.test"), expected);
}

#[test]
fn weights_add_up_and_good_lists_take_away() {
    let (bad, little, good): (&[&str], &[&str], &[&str]) = (&["127.0.0.2"], &["127.0.0.10"], &["127.0.5.1"]);
    let both: &[&str] = &["127.0.0.2", "127.0.0.10"];
    let is_refused = |answers: &[(&str, &[&str])], more: &str| {
        let reason = World::with(more).said(answers).reason(ELSEWHERE, OURS);
        assert!(matches!(reason, Reason::LocalRecipient | Reason::Blocklisted { .. }), "{reason:?}");
        reason != Reason::LocalRecipient
    };
    assert!(!is_refused(&[], "") && !is_refused(&[(ZEN, little)], "") && !is_refused(&[(TRIAL, bad)], ""));
    assert!(is_refused(&[(ZEN, bad)], "") && !is_refused(&[(ZEN, bad), (GOOD, good)], ""));
    let second = "[[policy.dnsbl]]\nzone = \"trial.example.test\"\n";
    assert!(is_refused(&[(ZEN, both), (GOOD, good), (TRIAL, bad)], second));
    assert!(!is_refused(&[(ZEN, both), (GOOD, good)], second));
}

#[test]
fn what_lists_do_not_say_refuses_nobody() {
    let world = World::new();
    assert_eq!(world.reason(ELSEWHERE, OURS), Reason::LocalRecipient);
    assert!(facts(&world.decision(ELSEWHERE, OURS))[0].1.contains("has not been asked"));
    for (answered, said) in [
        (Answered::Nothing("no answer in time".to_owned()), "so it counts as not listed: no answer in time"),
        (Answered::Addresses(vec!["203.0.113.7".parse().unwrap()]), "answers 203.0.113.7"),
        (Answered::Addresses(vec!["127.255.255.254".parse().unwrap()]), "answers 127.255.255.254"),
    ] {
        let world = World::new();
        world.answer(ZEN, answered);
        let decision = world.decision(ELSEWHERE, OURS);
        assert!(facts(&decision)[0].1.contains(said), "{decision:#?}");
        assert_eq!(checked(decision), Reason::LocalRecipient);
        let warnings = blocklist_warnings(&world.policy);
        assert!(
            warnings.len() == 1 && warnings[0].starts_with("the list Zen of [[policy.dnsbl]]"),
            "{warnings:?}"
        );
    }
}

#[test]
fn only_strangers_are_looked_up() {
    let world = World::new().said(&[(ZEN, &["127.0.0.2"])]);
    let spared = |world: &World, client: &str, to: &str, why: &str| {
        let decision = world.decision(client, to);
        assert_eq!(facts(&decision).len(), 1, "{decision:#?}");
        assert!(facts(&decision)[0].1.contains(why), "{decision:#?}");
        assert_eq!(decision.verdict, Verdict::Accept, "{decision:#?}");
    };
    spared(&world, "192.0.2.7", OURS, "is in a trusted network");
    spared(&world, "127.0.0.9", OURS, "loopback or private");
    spared(&world, "203.0.113.65", OURS, "policy.dnsbl_exempt");
    for contact in ["postmaster", "Postmaster@proseware.test", "ABUSE@proseware.test", "abuse@customer.test"]
    {
        spared(&world, ELSEWHERE, contact, "RFC 5321 section 4.5.1");
    }
    let grant =
        TemporaryGrant { network: "198.51.100.9/32".parse().unwrap(), until: 60_000, why: "x".into() };
    world.policy.standing.grants.give(grant, 10, UNIX_EPOCH).unwrap();
    spared(&world, ELSEWHERE, OURS, "temporary grant");
    let submission = World { listener: ListenerKind::Submission, ..world };
    spared(&submission, ELSEWHERE, OURS, "submission port");
    // Their own lists may know private addresses.
    let own = World::new().said(&[(ZEN, &["127.0.0.2"])]);
    assert_eq!(own.reason("127.0.0.9", OURS), Reason::LocalRecipient);
    let own =
        Policy::new(&toml::from_str(&LISTS.replace("[policy]", "[policy]\ndnsbl_private = true")).unwrap());
    let own = World { policy: own, listener: ListenerKind::Mx }.said(&[(ZEN, &["127.0.0.2"])]);
    assert!(matches!(own.reason("127.0.0.9", OURS), Reason::Blocklisted { .. }));
}

#[test]
fn what_is_refused_anyway_has_its_own_reason() {
    let world = World::new().said(&[(ZEN, &["127.0.0.2"])]);
    assert_eq!(world.reason(ELSEWHERE, "nobody@proseware.test"), Reason::UnknownRecipient);
    assert_eq!(world.reason(ELSEWHERE, FOREIGN), Reason::NotTrustedNotLocal);
}

#[test]
fn each_zone_is_asked_once_and_only_where_it_matters() {
    let world = World::new();
    let all = [ZEN, GOOD, TRIAL].map(|zone| format!("{zone} 198.51.100.9"));
    assert_eq!(world.wanted("::ffff:198.51.100.9", OURS), all);
    assert_eq!(world.wanted(ELSEWHERE, "x@customer.test"), all);
    for (client, to) in [
        (ELSEWHERE, FOREIGN),
        (ELSEWHERE, "nobody@proseware.test"),
        (ELSEWHERE, "postmaster@proseware.test"),
        (ELSEWHERE, "postmaster"),
        ("192.0.2.7", OURS),
        ("127.0.0.1", OURS),
        ("10.1.2.3", OURS),
        ("100.64.1.1", OURS),
        ("fd00::1", OURS),
        ("::1", OURS),
        ("203.0.113.127", OURS),
    ] {
        assert_eq!(world.wanted(client, to), [""; 0], "{client} {to}");
    }
    assert_eq!(world.wanted("2001:db8::1", OURS).len(), 3);
    world.answer(GOOD, Answered::NotListed);
    assert_eq!(world.wanted(ELSEWHERE, OURS), [all[0].clone(), all[2].clone()]);
    // A host that may relay is no stranger, as soon as DNS says where it is.
    let hosts = "[relay]\n    hosts = [{ name = \"branch.proseware.test\", label = \"branch\" }]";
    let mut world = World::new();
    world.policy = Policy::new(&toml::from_str(&LISTS.replace("[relay]", hosts)).unwrap());
    let branch = Domain::parse("branch.proseware.test").unwrap();
    let missing = world.asked(ELSEWHERE, OURS, |question| wanted(question, &world.policy));
    assert!(missing.contains(&Wanted::HostName(branch.clone())), "{missing:?}");
    world.policy.standing.hosts.learn(&branch, vec![ELSEWHERE.parse().unwrap()], UNIX_EPOCH);
    assert_eq!(world.said(&[(ZEN, &["127.0.0.2"])]).reason(ELSEWHERE, OURS), Reason::LocalRecipient);
    let nothing = Policy::new(&toml::from_str(CONFIG).unwrap());
    assert!(World { policy: nothing, listener: ListenerKind::Mx }.wanted(ELSEWHERE, OURS).is_empty());
}

#[test]
fn without_lists_the_trace_has_nothing_about_them() {
    let decision = MX.ask(Stage::Rcpt(&ForwardPath::parse(OURS).unwrap()));
    assert!(facts(&decision).is_empty());
    let client: IpAddr = ELSEWHERE.parse().unwrap();
    assert!(policy().standing.blocklists.find(&Domain::parse(ZEN).unwrap(), client, UNIX_EPOCH).is_none());
}
