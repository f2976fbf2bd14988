#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, SystemTime};

use postern_config::ListenerKind;
use postern_policy::Policy;
use postern_policy::accounts::Login;
use postern_policy::record::{Records, Settings};
use postern_policy::relay::{HeaderSenders, Trace};
use postern_smtp::ReversePath;

use super::*;

fn config(text: &str) -> Config {
    toml::from_str(&format!("hostname = \"mail.proseware.test\"\n{text}")).unwrap()
}

fn login() -> Login {
    let account = "[[account]]\nname = \"alice@proseware.test\"\npassword = \"\"\n";
    let mut config = config("");
    config.accounts = toml::from_str::<postern_config::account::AccountsFile>(account).unwrap().accounts;
    Policy::new(&config).accounts.login("alice@proseware.test").unwrap()
}

/// What a client hears; the reference is REF, where there is one.
fn told(config: &Config, reason: Reason, login: Option<&Login>, name: Option<&Name>) -> (String, Told) {
    let recipient = ForwardPath::parse("bob@adatum.test").unwrap();
    let reverse_path = ReversePath::parse("alice@proseware.test").unwrap();
    let stage = match reason.class() {
        Some(Class::Sender) => Stage::Mail,
        _ => Stage::Rcpt(&recipient),
    };
    let question = Question {
        listener: ListenerKind::Mx,
        client: "::ffff:198.51.100.9".parse().unwrap(),
        local: None,
        tls: false,
        certificate: None,
        login,
        helo: None,
        now: SystemTime::UNIX_EPOCH,
        recipients: 0,
        reverse_path: &reverse_path,
        stage,
    };
    let decision = Decision { verdict: reason.verdict(), reason, trace: Trace::default() };
    let (reply, told) = refused(&Refused { question: &question, decision: &decision, name, config });
    let reference = name.map_or("REF".to_owned(), |name| name.reference.to_string());
    (reply.to_string().replace(&reference, "REF"), told)
}

fn name(config: &Config) -> Name {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { min_free_space: 0, ..Settings::of(config) };
    let records = Records::open(folder.path(), settings, || SystemTime::UNIX_EPOCH).unwrap();
    records.name("198.51.100.9".parse().unwrap()).unwrap()
}

fn reply(text: &str, reason: Reason) -> String {
    let config = config(text);
    told(&config, reason, None, Some(&name(&config))).0
}

fn rate() -> Reason {
    Reason::Rate {
        who: "the grant printer".to_owned(),
        limit: "100 recipients an hour".to_owned(),
        resets_in: 300,
    }
}

#[test]
fn a_relay_refusal_names_address_cause_and_way_out() {
    assert_eq!(
        reply("", Reason::NotTrustedNotLocal),
        "550 5.7.1 <bob@adatum.test>: relay not permitted: 198.51.100.9 is not logged in and not a trusted \
         network; log in on port 587 or 465 (ref REF)"
    );
    let (without, told) = told(&config(""), Reason::NotTrustedNotLocal, None, None);
    assert!(without.ends_with("587 or 465"), "{without}");
    assert_eq!(told.cause, "relay not permitted: 198.51.100.9 is not logged in and not a trusted network");
    assert_eq!(told.advice, "log in on port 587 or 465");
}

#[test]
fn ports_are_those_of_the_listeners() {
    let listener =
        |kind: &str, port: u16| format!("[[listener]]\nkind = \"{kind}\"\naddress = \"0.0.0.0:{port}\"\n");
    let own = listener("submission", 2587) + &listener("submissions", 2465);
    assert!(reply(&own, Reason::NotTrustedNotLocal).contains("; log in on port 2587 or 2465 (ref"));
    let only_tls = listener("mx", 25) + &listener("submissions", 465);
    assert!(reply(&only_tls, Reason::NotTrustedNotLocal).contains("; log in on port 465 (ref"));
    let only_starttls = listener("submission", 587);
    let clear = reply(&only_starttls, Reason::NotAuthenticated);
    assert!(clear.contains("log in here on port 587 (ref"), "{clear}");
    let none = listener("mx", 25);
    assert!(reply(&none, Reason::NotTrustedNotLocal).contains("; this server takes no logins (ref"));
    let auth = reply(&none, Reason::LoginNotOffered { missing: "a submission port".to_owned() });
    assert!(auth.contains("503 5.5.1 no authentication on this port: this server takes no logins"), "{auth}");
}

#[test]
fn with_a_page_the_reply_names_its_address() {
    let config = config("[report]\nlisten = \"127.0.0.1:0\"\nurl = \"https://mail.proseware.test/r/\"");
    let name = name(&config);
    let (reply, told) = told(&config, Reason::UnknownRecipient, None, Some(&name));
    let token = name.token.unwrap();
    assert_eq!(
        reply,
        format!(
            "550 5.1.1 <bob@adatum.test>: no such user here (ref REF https://mail.proseware.test/r/{token})"
        )
    );
    assert_eq!((told.class, told.cause.as_str()), (Class::RecipientUnknown, "no such user here"));
}

#[test]
fn families_say_what_they_are_known_for() {
    for (family, expected) in [
        ("postfix", "554 5.7.1 <bob@adatum.test>: Relay access denied (ref REF)"),
        ("sendmail", "550 5.7.1 <bob@adatum.test>... Relaying denied (ref REF)"),
        ("exim", "550 relay not permitted (ref REF)"),
        ("qmail", "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1) (ref REF)"),
        ("authenticate", "550 Authentication is required for relay (ref REF)"),
        ("tagged", "550 [ACL] Blocked. See https://reports.example/?id=REF&auth="),
    ] {
        let text = format!("[replies]\nfamily = {family:?}\nreport_url = \"https://reports.example/\"");
        assert_eq!(reply(&text, Reason::NotTrustedNotLocal), expected);
        // One class by itself; the others stay as they are.
        let text = format!("[replies]\nrelay.family = {family:?}\nreport_url = \"https://reports.example/\"");
        assert_eq!(reply(&text, Reason::NotTrustedNotLocal), expected);
        assert!(reply(&text, Reason::UnknownRecipient).contains("no such user here"));
    }
    let postfix = "[replies]\nfamily = \"postfix\"";
    assert!(reply(postfix, Reason::AliasLoop).starts_with("554 5.7.1 <bob@adatum.test>: Recipient address"));
    assert!(reply(postfix, rate()).starts_with("450 4.7.1 Error: too much mail from 198.51.100.9"));
    assert!(reply("[replies]\nfamily = \"qmail\"", Reason::NotAuthenticated).starts_with("530 5.7.0 "));
}

/// What a client hears at AUTH.
fn told_at_auth(text: &str, reason: Reason) -> String {
    let config = config(&format!("[replies]\nreport_url = \"https://reports.example/\"\n{text}"));
    let question = Question {
        listener: ListenerKind::Submission,
        client: "198.51.100.9".parse().unwrap(),
        local: None,
        tls: true,
        certificate: None,
        login: None,
        helo: None,
        now: SystemTime::UNIX_EPOCH,
        recipients: 0,
        reverse_path: &ReversePath::Null,
        stage: Stage::Login,
    };
    let decision = Decision { verdict: reason.verdict(), reason, trace: Trace::default() };
    refused(&Refused { question: &question, decision: &decision, name: None, config: &config }).0.to_string()
}

#[test]
fn auth_fails_with_535_in_the_words_of_every_family_and_later_commands_with_550() {
    for family in ["default", "postfix", "sendmail", "exim", "qmail", "authenticate", "tagged"] {
        let text = format!("family = {family:?}");
        let login = || "alice@proseware.test".to_owned();
        let client = "198.51.100.9".to_owned();
        for reason in [
            Reason::WrongPassword { login: login(), why: Some(login()) },
            Reason::ClientAddressNotAllowed { login: login(), client: client.clone() },
            Reason::LoginSuspended { login: login(), state: "suspended".to_owned(), why: String::new() },
        ] {
            let at_auth = told_at_auth(&text, reason.clone());
            assert!(at_auth.starts_with("535 "), "{family}: {at_auth}");
            if matches!(reason, Reason::WrongPassword { .. }) {
                continue;
            }
            let text = format!("[replies]\nfamily = {family:?}\nreport_url = \"https://reports.example/\"");
            let later = reply(&text, reason);
            assert!(later.starts_with("550 ") && !later.contains("authentication"), "{family}: {later}");
        }
    }
}

#[test]
fn the_words_of_a_family_for_rates_keep_the_limit_and_when_it_ends() {
    for family in ["default", "postfix", "sendmail"] {
        let said = reply(&format!("[replies]\nfamily = {family:?}"), rate());
        assert!(said.contains("100 recipients an hour; try again in 5 minutes"), "{said}");
    }
}

#[test]
fn the_labels_of_the_configuration_are_not_told() {
    let label = || "warehouse printer".to_owned();
    for reason in [
        Reason::GrantTooNarrow { label: label(), what: "sender <a@client.test>".to_owned() },
        Reason::Rate {
            who: format!("the grant {}", label()),
            limit: "1 recipient a day".to_owned(),
            resets_in: 9,
        },
        Reason::HeaderFromMismatch {
            login: String::new(),
            grant: Some(label()),
            field: "From".to_owned(),
            address: "boss@proseware.test".to_owned(),
        },
    ] {
        let (reply, told) = told(&config(""), reason, None, None);
        assert!(reply.contains("the grant for 198.51.100.9"), "{reply}");
        for text in [reply, told.cause, told.advice, told.reply] {
            assert!(!text.contains("warehouse"), "{text}");
        }
    }
}

#[test]
fn tags_tell_what_it_is_about() {
    let text = "[replies]\nfamily = \"tagged\"\nreport_url = \"https://reports.example/?lang=en\"";
    let (config, alice) = (config(text), login());
    let own = str::to_owned;
    let (from, domain) = (own("bob@proseware.test"), own("proseware.test"));
    for (reason, expected) in [
        (Reason::LoginLacksPermission { login: own("a"), sender: from }, "550 [ACL] Blocked."),
        (
            Reason::SpfDoesNotCover { login: own("a"), domain, result: own("fail") },
            "550 [SPF_INVALID] Blocked.",
        ),
        (Reason::StandingRule { rule: own("1"), why: own(""), text: own("no") }, "550 [SPAM] Blocked."),
        (
            Reason::LoginSuspended { login: own("a"), state: own("suspended"), why: own("") },
            "550 [ABUSE] Blocked.",
        ),
        (rate(), "421 4.7.1 [ABUSE] Blocked."),
    ] {
        let name = name(&config);
        let (reply, _) = told(&config, reason, Some(&alice), Some(&name));
        let page = "See https://reports.example/?lang=en&id=REF&auth=alice%40proseware.test";
        assert_eq!(reply, format!("{expected} {page}"));
    }
}

#[test]
fn a_text_of_ones_own_is_filled_in_and_keeps_its_codes() {
    let text = r#"
        [replies.relay]
        code = 554
        status = "5.7.0"
        text = "{client} to <{address}>: {cause} - {advice} - {login} {ref}"
    "#;
    assert_eq!(
        reply(text, Reason::NotTrustedNotLocal),
        "554 5.7.0 198.51.100.9 to <bob@adatum.test>: relay not permitted: 198.51.100.9 is not logged in and not a \
         trusted network - log in on port 587 or 465 -  REF"
    );
    let (reply, _) = told(&config(text), Reason::NotTrustedNotLocal, None, None);
    assert!(reply.ends_with(" not kept"), "{reply}");
    let text = "[replies.relay]\ncode = 454";
    assert!(self::reply(text, Reason::NotTrustedNotLocal).starts_with("454 4.7.1 <bob@"));
    let text = "[replies.relay]\ncode = 550\nstatus = \"\"";
    assert!(self::reply(text, Reason::NotTrustedNotLocal).starts_with("550 <bob@"));
}

#[test]
fn while_migrating_relaying_is_refused_for_now_and_nothing_else_is() {
    for family in ["default", "postfix", "exim", "qmail"] {
        let text = format!("[replies]\nmigrating = true\nfamily = {family:?}");
        let reply = reply(&text, Reason::NotTrustedNotLocal);
        assert!(reply.starts_with("454 4.7.1 "), "{reply}");
        assert!(self::reply(&text, Reason::UnknownRecipient).starts_with("550 "));
    }
}

#[test]
fn a_deferral_is_4xx_whatever_the_wording_says() {
    let recipient = ForwardPath::parse("bob@adatum.test").unwrap();
    for text in ["", "[replies]\nfamily = \"exim\"", "[replies.rule]\ncode = 554\nstatus = \"5.7.1\""] {
        let question = Question {
            listener: ListenerKind::Mx,
            client: "198.51.100.9".parse().unwrap(),
            local: None,
            tls: false,
            certificate: None,
            login: None,
            helo: None,
            now: SystemTime::UNIX_EPOCH,
            recipients: 0,
            reverse_path: &ReversePath::Null,
            stage: Stage::Rcpt(&recipient),
        };
        let reason = Reason::StandingRule { rule: "1".to_owned(), why: String::new(), text: "no".to_owned() };
        let decision = Decision { verdict: Verdict::Defer, reason, trace: Trace::default() };
        let config = config(text);
        let (reply, _) =
            refused(&Refused { question: &question, decision: &decision, name: None, config: &config });
        assert_eq!(reply.to_string(), "450 4.7.1 <bob@adatum.test>: no");
    }
}

#[test]
fn what_a_client_gave_is_printable_and_bounded_and_lines_fold() {
    assert_eq!(printable("a\r\n250 ok\u{7}"), "a??250 ok?");
    assert_eq!(printable(&"ä".repeat(1000)).len(), MOST_OF_NAME);
    assert_eq!(percent_encoded("a b&c=ä\r"), "a%20b%26c%3D%C3%A4%0D");
    let recipient = format!("\"{}\"@adatum.test", "a".repeat(60));
    let path = ForwardPath::parse(&recipient).unwrap();
    let question = Question {
        listener: ListenerKind::Mx,
        client: "198.51.100.9".parse().unwrap(),
        local: None,
        tls: false,
        certificate: None,
        login: None,
        helo: None,
        now: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
        recipients: 0,
        reverse_path: &ReversePath::Null,
        stage: Stage::Rcpt(&path),
    };
    let config =
        config(&format!("[replies.relay]\ntext = \"{} {{cause}}\"", "<{address}> ".repeat(40).trim()));
    let decision =
        Decision { verdict: Verdict::Reject, reason: Reason::NotTrustedNotLocal, trace: Trace::default() };
    let (reply, _) =
        refused(&Refused { question: &question, decision: &decision, name: None, config: &config });
    let mut wire = Vec::new();
    reply.write_to(&mut wire);
    let wire = String::from_utf8(wire).unwrap();
    let lines: Vec<&str> = wire.split_terminator("\r\n").collect();
    assert!(lines.len() > 5 && lines.iter().all(|line| line.len() <= 510), "{wire}");
    assert!(
        lines.iter().all(|line| line.starts_with("550-5.7.1 ") || line.starts_with("550 5.7.1 ")),
        "{wire}"
    );
}

#[test]
fn senders_of_the_header_are_told_without_an_address_in_front() {
    let senders = HeaderSenders::default();
    let question = Question {
        listener: ListenerKind::Submission,
        client: "198.51.100.9".parse().unwrap(),
        local: None,
        tls: true,
        certificate: None,
        login: None,
        helo: None,
        now: SystemTime::UNIX_EPOCH,
        recipients: 1,
        reverse_path: &ReversePath::Null,
        stage: Stage::Message(&senders),
    };
    let reason = Reason::HeaderFromUnusable { problem: "there is none".to_owned() };
    let decision = Decision { verdict: Verdict::Reject, reason, trace: Trace::default() };
    let config = config("");
    let (reply, _) =
        refused(&Refused { question: &question, decision: &decision, name: None, config: &config });
    assert_eq!(reply.to_string(), "550 5.6.0 unusable From header: there is none");
}

#[test]
fn a_listed_client_hears_of_the_list_and_of_the_way_out() {
    let listed = |text: Option<&str>| Reason::Blocklisted {
        client: "198.51.100.9".to_owned(),
        lists: "zen.example.test".to_owned(),
        answers: "127.0.0.2".to_owned(),
        weight: 1,
        text: text.map(str::to_owned),
    };
    let cause =
        "550 5.7.1 <bob@adatum.test>: mail from 198.51.100.9 is refused: it is listed by zen.example.test";
    assert_eq!(
        reply("", listed(None)),
        format!("{cause}; have it removed there, or write to postmaster@adatum.test (ref REF)")
    );
    let own = "see https://check.example.test/198.51.100.9";
    assert_eq!(reply("", listed(Some(own))), format!("{cause}; {own} (ref REF)"));
    for (family, expected) in [
        (
            "postfix",
            "554 5.7.1 Service unavailable; Client host [198.51.100.9] blocked using zen.example.test (ref REF)",
        ),
        ("sendmail", "550 5.7.1 Rejected: 198.51.100.9 listed at zen.example.test (ref REF)"),
        ("tagged", "550 [SPAM] Blocked. See https://reports.example/?id=REF&auth="),
    ] {
        let text = format!("[replies]\nfamily = {family:?}\nreport_url = \"https://reports.example/\"");
        assert_eq!(reply(&text, listed(None)), expected);
    }
    assert!(reply("[replies]\nfamily = \"exim\"", listed(None)).starts_with(cause));
    let text = "[replies.blocklisted]\ncode = 450\nstatus = \"4.7.1\"\ntext = \"{client}: {cause} ({ref})\"";
    assert!(
        reply(text, listed(None)).starts_with("450 4.7.1 198.51.100.9: mail from 198.51.100.9 is refused")
    );
}

#[test]
fn the_manual_shows_the_words_for_a_client_that_guessed() {
    let why = "3 wrong logins".to_owned();
    let said = reply("", Reason::Banned { network: "198.51.100.9/32".to_owned(), why, by_hand: false });
    let manual = include_str!("../../../../../docs/submission.md");
    assert!(manual.contains(&format!("`{}`", said.replace("REF", "4QX7-93KD"))), "{said}");
}

#[test]
fn codes_that_tell_a_client_what_to_do_next_stay_whatever_the_words_are() {
    let banned =
        |by_hand| Reason::Banned { network: "198.51.100.0/24".to_owned(), why: "spam".to_owned(), by_hand };
    let many = || Reason::TooManyRecipients { limit: 7 };
    for (reason, expected) in [
        (banned(false), "421 4.7.0 too many failed logins from your address; try again later (ref REF)"),
        (
            banned(true),
            "421 4.7.0 connections from your address are not accepted now; ask postmaster (ref REF)",
        ),
        (
            many(),
            "452 4.5.3 too many recipients, 7 is the limit; send the rest in another transaction (ref REF)",
        ),
        (Reason::NeedsSmtputf8, "553 5.6.7 address needs the SMTPUTF8 parameter of MAIL (ref REF)"),
        (
            Reason::MalformedHeader,
            "550 5.6.0 message header has a NUL or a line that is no header field (ref REF)",
        ),
    ] {
        assert_eq!(reply("", reason.clone()), expected);
        for family in ["postfix", "sendmail", "exim", "qmail", "authenticate"] {
            assert_eq!(
                reply(&format!("[replies]\nfamily = {family:?}"), reason.clone()),
                expected,
                "{family}"
            );
        }
    }
    let own = "[replies]\nrate = { code = 421, text = \"slow down\" }\nrecipient = { code = 550, status = \"5.7.1\", text = \"no\" }";
    assert_eq!(reply(own, many()), "452 4.5.3 slow down");
    assert_eq!(reply(own, Reason::NeedsSmtputf8), "553 5.6.7 no");
    let tagged = "[replies]\nfamily = \"tagged\"\nreport_url = \"https://reports.example/\"";
    assert_eq!(
        reply(tagged, banned(true)),
        "421 4.7.1 [ABUSE] Blocked. See https://reports.example/?id=REF&auth="
    );
    assert!(reply(tagged, many()).starts_with("452 4.5.3 too many recipients"));
}
