//! What bounces of other mail systems and codes mean, as `posternctl explain` tells it without a daemon.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value as Json;

use crate::harness::client::message;
use crate::harness::ctl::Output;
use crate::harness::daemon::PASSWORD;
use crate::harness::{Client, NextHop, Script, Setup, repository};

fn bounces() -> PathBuf {
    repository().join("tests/bounces")
}

/// Runs `posternctl explain` where there is no daemon and no configuration.
fn explain(arguments: &[&str]) -> Output {
    explain_with_input(arguments, b"")
}

fn explain_with_input(arguments: &[&str], input: &[u8]) -> Output {
    explain_configured(Path::new("/nonexistent/postern.toml"), arguments, input)
}

fn explain_configured(config: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_posternctl"))
        .arg("--config")
        .arg(config)
        .arg("explain")
        .args(arguments)
        .current_dir(bounces())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads nothing may have ended already.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A bounce that must be recognised, as JSON.
fn recognised(file: &str) -> Json {
    let output = explain(&["--json", "--bounce", file]);
    assert_eq!(output.code, 0, "{file}: {output:?}");
    let answer = output.json();
    assert_eq!(answer["recognised"], true, "{file}");
    answer
}

/// Address, host that spoke, code, enhanced code, finding, side of each recipient; `-` where there is none.
const BOUNCES: &[(&str, &str, &[&str])] = &[
    (
        "postfix-gmail-dmarc.eml",
        "report",
        &["bob@adatum.test gmail-smtp-in.l.google.com 550 5.7.26 gmail-dmarc sender-dns"],
    ),
    ("gmail-no-such-user.eml", "report", &["bob@adatum.test - 550 5.1.1 gmail-no-such-user sending-user"]),
    (
        "microsoft-365.eml",
        "report",
        &[
            "bob@adatum.test adatum-test.mail.protection.outlook.com 550 5.4.1 microsoft-recipient-access-denied \
             recipient",
        ],
    ),
    (
        "exchange-html.eml",
        "exchange",
        &["bob@adatum.test - 550 5.1.1 exchange-old-address-book sending-user"],
    ),
    (
        "qmail.eml",
        "qmail",
        &[
            "bob@adatum.test 192.0.2.7 553 5.7.1 qmail-rcpthosts sender-server",
            "carol@adatum.test 192.0.2.27 550 5.7.25 gmail-ptr sender-dns",
            "dave@thephone-company.test - - 5.1.1 qmail-no-mailbox sending-user",
        ],
    ),
    (
        "exim.eml",
        "exim",
        &[
            "bob@adatum.test mx.adatum.test 550 - exim-sender-verify sender-server",
            "carol@adatum.test - - - exim-retry-timeout recipient",
            "dave@thephone-company.test - - - exim-mx-nowhere recipient",
        ],
    ),
    (
        "sendmail.eml",
        "sendmail",
        &["bob@adatum.test mx.adatum.test 550 5.7.1 sendmail-relay-name sender-dns"],
    ),
    ("yahoo.eml", "yahoo", &["bob@adatum.test - 553 5.7.2 yahoo-permanently-deferred sender-server"]),
    (
        "refused-by-us.eml",
        "report",
        &["dave@thephone-company.test mail.proseware.test 550 5.7.1 postern-relay sender-server"],
    ),
    ("delayed.eml", "report", &["bob@adatum.test mx.adatum.test 450 4.2.0 greylisted nobody"]),
    (
        "mimecast-forwarded.eml",
        "report",
        &["bob@adatum.test eu-smtp-inbound-1.mimecast.com 550 5.0.0 mimecast-anti-spoofing recipient"],
    ),
    (
        "postfix.log",
        "reply",
        &[
            "bob@adatum.test adatum-test.mail.protection.outlook.com 550 5.7.606 microsoft-banned-ip sender-server",
            "carol@adatum.test mx.adatum.test - 4.4.1 no-connection recipient",
        ],
    ),
];

#[test]
fn bounces_of_every_system_are_read() {
    for (file, form, expected) in BOUNCES {
        let answer = recognised(file);
        assert_eq!(answer["form"], *form, "{file}");
        let told: Vec<String> = answer["recipients"].as_array().unwrap().iter().map(summary).collect();
        assert_eq!(told, *expected, "{file}");
    }
}

fn summary(told: &Json) -> String {
    let finding = &told["finding"];
    let facts = [
        &told["recipient"],
        &told["said_by"],
        &told["code"],
        &told["status"],
        &finding["id"],
        &finding["side"],
    ];
    facts
        .map(|fact| if fact.is_null() { "-".to_owned() } else { fact.to_string().replace('"', "") })
        .join(" ")
}

#[test]
fn standard_input_is_read_like_a_file() {
    for (file, ..) in BOUNCES {
        let octets = fs::read(bounces().join(file)).unwrap();
        assert_eq!(
            explain_with_input(&["--bounce", "-"], &octets).stdout,
            explain(&["--bounce", file]).stdout
        );
    }
}

#[test]
fn checks_are_ready_to_be_copied() {
    let finding = &recognised("postfix-gmail-dmarc.eml")["recipients"][0]["finding"];
    assert_eq!(finding["checks"][0], "dig +short TXT _dmarc.proseware.test", "{finding}");
    assert_eq!(finding["again"], "after-change");
    let log = recognised("postfix.log");
    let banned = &log["recipients"][0]["finding"];
    assert!(banned["change"].as_str().unwrap().contains("203.0.113.25"), "{banned}");
}

#[test]
fn what_became_of_a_recipient_is_told() {
    let action = |file: &str, at: usize| recognised(file)["recipients"][at]["action"].clone();
    assert_eq!((action("postfix.log", 0), action("postfix.log", 1)), ("failed".into(), "delayed".into()));
    assert_eq!((action("exim.eml", 1), action("delayed.eml", 0)), ("failed".into(), "delayed".into()));
    assert_eq!(recognised("delayed.eml")["recipients"][0]["finding"]["again"], "by-itself");
}

#[test]
fn the_returned_message_is_no_part_of_the_bounce() {
    for file in ["qmail.eml", "gmail-no-such-user.eml"] {
        let text = explain(&["--bounce", file]).stdout;
        assert!(!text.contains("erin@") && !text.contains("Relaying denied"), "{text}");
    }
}

#[test]
fn a_bounce_of_our_own_is_explained() {
    let hop =
        NextHop::start(Script::default().reply("RCPT", "552 5.2.2 <carol@adatum.test>: user is over quota"));
    let daemon = Setup::new().next_hop("adatum.test", &hop).start();
    let alice = "alice@proseware.test";
    let mut client = Client::log_in(daemon.submission(), alice, PASSWORD);
    client.deliver(alice, &["carol@adatum.test"], &message(alice, "carol@adatum.test", "too much", "hello"));
    let report = daemon.maildir(alice).wait_for("too much");
    let output = explain_configured(&daemon.config(), &["--json", "--bounce", "-"], &report.0);
    assert_eq!(output.code, 0, "{output:?}");
    let answer = output.json();
    assert_eq!(answer["reported_by_us"], true, "{answer}");
    assert_eq!(
        summary(&answer["recipients"][0]),
        "carol@adatum.test mx.adatum.test 552 5.2.2 mailbox-full recipient"
    );
    let text = explain_configured(&daemon.config(), &["--bounce", "-"], &report.0).stdout;
    assert!(text.contains("written by mail.proseware.test, this server"), "{text}");
}

#[test]
fn a_refusal_of_ours_in_anothers_bounce_leads_to_its_record() {
    let daemon = Setup::new().start();
    let mut stranger = Client::connect(daemon.mx());
    stranger.ehlo();
    stranger.command("MAIL FROM:<carol@adatum.test>");
    let reply = stranger.command("RCPT TO:<dave@thephone-company.test>");
    let bounce = fs::read_to_string(bounces().join("refused-by-us.eml")).unwrap();
    let reference = reply.text().split("(ref ").nth(1).unwrap()[..9].to_owned();
    let bounce = bounce.replace("4QX7-93KD", &reference);
    let text = explain_configured(&daemon.config(), &["--bounce", "-"], bounce.as_bytes()).stdout;
    let here =
        format!("record   here: posternctl --config {} explain {reference}\n", daemon.config().display());
    assert!(text.contains(&here), "{text}");
    let record = daemon.ctl(&["explain", &reference]);
    assert!(record.code == 0 && record.stdout.contains("not-trusted-not-local"), "{record:?}");
}

#[test]
fn what_is_not_recognised_ends_with_one_and_says_what_was_read() {
    let output = explain(&["--bounce", "no-bounce.eml"]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stdout.contains("one o'clock") && output.stdout.contains("Not recognised"), "{output:?}");
    let output = explain_with_input(&["--json", "--bounce", "-"], b"");
    assert_eq!((output.code, &output.json()["recognised"]), (1, &Json::Bool(false)));
    let output = explain(&["--json", "550 5.0.0 xyzzy"]);
    let answer = output.json();
    assert_eq!((output.code, &answer["recipients"][0]["text"]), (1, &Json::from("xyzzy")));
}

#[test]
fn any_octets_are_borne() {
    let binary: Vec<u8> =
        (0..100_000u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let output = explain_with_input(&["--bounce", "-"], &binary);
    assert!(matches!(output.code, 0 | 1), "{output:?}");
    assert!(!output.stdout.contains('\u{1b}') && !output.stderr.contains("panicked"), "{output:?}");
}

#[test]
fn a_file_over_the_limit_is_read_to_the_limit_and_that_is_said() {
    let mut octets = b"550 5.1.1 no such user\n".to_vec();
    octets.resize(11 * 1024 * 1024, b'x');
    let output = explain_with_input(&["--bounce", "-"], &octets);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(output.stdout.contains("Only the first 10 MiB were read."), "{output:?}");
}

#[test]
fn codes_are_told_as_far_as_they_are_known() {
    for (code, expected) in [
        (&["550-5.7.1"][..], "A rule of the refusing server forbids it"),
        (&["550 5.7.1"], "refused for good"),
        (&["550", "5.7.1"], "refused for good"),
        (&["5.1.1"], "no such mailbox"),
        (&["421"], "ends the connection"),
        (&["4.7.28"], "Too much mail came"),
        (&["4.7.28"], "Gmail"),
        (&["5.7.606"], "banned the address"),
        (&["5.7.999"], "a vendor's own"),
        (&["2.1.5"], "this is no error"),
    ] {
        let output = explain(code);
        let text = output.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(output.code == 0 && text.contains(expected), "{code:?}: {output:?}");
    }
    let answer = explain(&["--json", "550-5.7.1"]).json();
    assert_eq!((&answer["reply_code"], &answer["status"]), (&Json::from(550), &Json::from("5.7.1")));
    assert_eq!(answer["registered"], true);
    // Nothing but the class is known of these.
    for code in ["5.99.1", "577"] {
        let output = explain(&[code]);
        assert!(output.code == 1 && output.stdout.contains("refused for good"), "{code}: {output:?}");
    }
}

#[test]
fn a_pasted_reply_needs_no_quotes() {
    let output = explain(&["550", "5.7.1", "Unable", "to", "relay"]);
    assert!(output.code == 0 && output.stdout.contains("(Exchange)"), "{output:?}");
}

#[test]
fn wrong_usage_ends_with_two() {
    for arguments in [
        &[][..],
        &["--bounce"],
        &["--bounce", "qmail.eml", "5.7.1"],
        &["--bounce", "no-such-file.eml"],
        &["--bounce", "."],
        &["what?"],
    ] {
        let output = explain(arguments);
        assert_eq!(output.code, 2, "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}: {output:?}");
    }
    // A reference is asked of the daemon, and there is none.
    let output = explain(&["4QX7-93KD"]);
    assert!(matches!(output.code, 2 | 4), "{output:?}");
}

/// Every example in docs/bounces.md, with its output.
#[test]
fn the_examples_of_the_documentation_are_what_is_printed() {
    let page = fs::read_to_string(repository().join("docs/bounces.md")).unwrap();
    let mut seen = 0;
    for block in page.split("```console\n").skip(1) {
        let block = block.split("```").next().unwrap();
        let (command, expected) = block.split_once('\n').unwrap();
        let command = command.strip_prefix("$ posternctl explain ").unwrap_or_else(|| panic!("{command}"));
        let arguments: Vec<&str> = match command.strip_prefix('\'') {
            Some(quoted) => vec![quoted.trim_end_matches('\'')],
            None => command.split(' ').collect(),
        };
        // The pages show what is printed where the configuration is at the usual place.
        let printed = explain(&arguments).stdout.replace(" --config /nonexistent/postern.toml", "");
        assert_eq!(printed, expected, "docs/bounces.md: {command}");
        seen += 1;
    }
    assert!(seen >= 3, "{seen} examples");
}
