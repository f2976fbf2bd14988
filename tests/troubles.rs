//! What an operator reads while something is wrong: it must be true now, and lead on.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;

use serde_json::Value as Json;

use crate::harness::client::{Reply, message};
use crate::harness::ctl::Output;
use crate::harness::daemon::PASSWORD;
use crate::harness::{Client, Daemon, Setup};

const ALICE: &str = "alice@proseware.test";
const BOB: &str = "bob@adatum.test";
/// Has no right to relay, unless a test gives it one.
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 88, 1, 1);

fn reference(reply: &Reply) -> String {
    let text = reply.text();
    text.split("(ref ").nth(1).unwrap_or_else(|| panic!("no reference in {text:?}"))[..9].to_owned()
}

/// Somebody without a right asks to relay.
fn relay(daemon: &Daemon) -> Reply {
    let mut client = Client::connect_from(STRANGER, daemon.mx());
    client.ehlo();
    client.expect("MAIL FROM:<x@client.test>", 250);
    client.expect(&format!("RCPT TO:<{BOB}>"), 550)
}

/// What the rules say now of a refusal: the outcome for programs, and the line for people.
fn now(daemon: &Daemon, reference: &str) -> (String, String) {
    let answer = daemon.ask(&["explain", reference])["now"].clone();
    let shown = daemon.ctl(&["explain", reference]);
    assert_eq!(shown.code, 0, "{shown:?}");
    let lines: Vec<&str> = shown.stdout.lines().filter(|line| line.starts_with("  now ")).collect();
    let [line] = lines.as_slice() else { panic!("{shown:?}") };
    (answer["outcome"].as_str().unwrap().to_owned(), line["  now ".len()..].trim().to_owned())
}

#[test]
fn a_refusal_is_asked_again_by_the_rules_of_now() {
    let daemon = Setup::new().start();
    let reference = reference(&relay(&daemon));
    let (outcome, line) = now(&daemon, &reference);
    assert_eq!((outcome.as_str(), line.as_str()), ("same-rule", "would still be refused, by the same rule"));

    daemon.change_config(&format!(
        "[[relay.trusted_networks]]\nnetwork = \"{STRANGER}/32\"\nlabel = \"the new office\""
    ));
    daemon.ask(&["reload"]);
    let (outcome, line) = now(&daemon, &reference);
    assert_eq!(outcome, "accepted");
    assert!(line.starts_with("would be accepted now (trusted-network: "), "{line}");
    // What was decided then stays what it was, and needs no way out any more.
    let text = daemon.ctl(&["explain", &reference]).stdout;
    assert!(text.contains("reject: not-trusted-not-local"), "{text}");
    assert!(!text.contains("what would allow it"), "{text}");
    let answer = daemon.ask(&["explain", &reference]);
    assert_eq!(answer["reason"]["kind"], "not-trusted-not-local", "{answer}");
    assert_eq!(answer["now"]["decision"]["reason"]["kind"], "trusted-network", "{answer}");
    assert_eq!(answer["now"]["stage"], "rcpt", "{answer}");

    // A rule comes first that was not there.
    daemon.change_config(
        "[[route]]\ndomain = \"adatum.test\"\nvia = \"reject\"\ntext = \"we do not write to them\"",
    );
    daemon.ask(&["reload"]);
    let (outcome, line) = now(&daemon, &reference);
    assert_eq!(outcome, "other-reason", "{line}");
    assert!(line.starts_with("would be refused for another reason: recipient-policy: "), "{line}");
}

#[test]
fn what_no_rule_can_be_asked_about_again_says_why() {
    let daemon = Setup::new().start();
    let mut client = Client::connect_tls(daemon.submissions());
    client.ehlo();
    let wrong = client.auth_plain(ALICE, "no, this is not it");
    assert_eq!(wrong.code, 535);
    let (outcome, line) = now(&daemon, &reference(&wrong));
    assert_eq!(
        (outcome.as_str(), line.as_str()),
        ("unknown", "cannot be asked again: passwords are not kept")
    );

    let mut client = Client::connect(daemon.submission());
    client.ehlo();
    let in_clear = client.command("AUTH PLAIN");
    assert_eq!(now(&daemon, &reference(&in_clear)).0, "same-rule", "{}", in_clear.text());
}

#[test]
fn a_refused_sender_is_asked_again_with_its_login_and_its_header() {
    let daemon = Setup::new().start();
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    let refused = client.command("MAIL FROM:<sales@proseware.test>");
    let reference_of_mail = reference(&refused);
    let content = "From: sales@proseware.test\r\nSubject: x\r\n\r\nx\r\n";
    let reference_of_header = reference(&client.deliver(ALICE, &[BOB], content));
    for reference in [&reference_of_mail, &reference_of_header] {
        assert_eq!(now(&daemon, reference).0, "same-rule");
    }
    daemon.ask(&["account", "grant", ALICE, "--send-as", "sales@proseware.test"]);
    for reference in [&reference_of_mail, &reference_of_header] {
        assert_eq!(now(&daemon, reference).0, "accepted");
    }
    daemon.ask(&["account", "disable", ALICE]);
    let (outcome, line) = now(&daemon, &reference_of_mail);
    assert_eq!(outcome, "other-reason", "{line}");
    assert!(line.contains("login-suspended") && line.contains("disabled"), "{line}");
}

/// The commands of ours in a text, as people copy them: from `posternctl` to the end of the quotation.
fn commands(text: &str) -> Vec<String> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter(|quoted| quoted.starts_with("posternctl ")).map(str::to_owned).collect()
}

/// Runs a command as it was printed, in a shell that stands elsewhere.
fn paste(command: &str) -> Output {
    let programs = Path::new(env!("CARGO_BIN_EXE_posternctl")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let output =
        Command::new("sh").args(["-c", command]).env("PATH", path).current_dir("/").output().unwrap();
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn commands_that_are_printed_work_when_they_are_pasted() {
    let daemon = Setup::new().start();
    let mut client = Client::connect_tls(daemon.submissions());
    client.ehlo();
    let wrong = reference(&client.auth_plain(ALICE, "no, this is not it"));
    let socket = daemon.folder().join("control.sock");
    let shown = daemon.ctl(&["--socket", socket.to_str().unwrap(), "explain", &wrong]).stdout;
    let list = commands(&shown).into_iter().find(|command| command.ends_with(" account list")).unwrap();
    for option in
        [format!("--config {}", daemon.config().display()), format!("--socket {}", socket.display())]
    {
        assert!(list.contains(&option), "{list}");
    }
    let listed = paste(&list);
    assert!(listed.code == 0 && listed.stdout.contains(ALICE), "{list}: {listed:?}");

    // What fails leads on in the same way.
    let denied = daemon.ctl(&["account", "unlock", "nobody"]);
    let [list] = &commands(&denied.stderr)[..] else { panic!("{denied:?}") };
    assert_eq!(paste(list).code, 0, "{list}");
    // A name that is given from here is pasted elsewhere.
    let output = Command::new(env!("CARGO_BIN_EXE_posternctl"))
        .args(["--config", "postern.toml", "account", "unlock", "nobody"])
        .current_dir(daemon.folder())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let [list] = &commands(&said)[..] else { panic!("{said}") };
    assert_eq!(paste(list).code, 0, "{list}");
    // Programs know how they asked.
    let answer = daemon.ask(&["explain", &wrong]);
    assert!(!answer.to_string().contains("--config"), "{answer}");
}

#[test]
fn status_and_reload_work_while_the_configuration_is_no_toml() {
    let daemon = Setup::new().start();
    let good = fs::read_to_string(daemon.config()).unwrap();
    let line = good.lines().count() + 2;
    fs::write(daemon.config(), format!("{good}\n[policy\n")).unwrap();
    let place = format!("{}:{line}:8: error: ", daemon.config().display());

    let status = daemon.ctl(&["status"]);
    assert!(status.code == 0 && status.stdout.contains("mail.proseware.test"), "{status:?}");
    assert!(status.stderr.starts_with(&format!("posternctl: warning: {place}")), "{place}: {status:?}");

    let refused = daemon.ctl(&["reload"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    // Once from here, and once from the daemon, which keeps what it has.
    assert_eq!(refused.stderr.matches(&place).count(), 2, "{place}: {refused:?}");
    assert!(refused.stderr.contains("the old configuration stays in force"), "{refused:?}");
    let status = daemon.ctl(&["status"]).stdout;
    assert!(status.contains("the last reload failed") && status.contains(&place), "{status}");

    // Others are not led to a place that is a guess, and are told what to do.
    let list = daemon.ctl(&["queue", "list"]);
    assert!(list.code == 1 && list.stderr.contains(&place), "{list:?}");
    assert!(list.stderr.contains("--socket") && list.stderr.contains("reload"), "{list:?}");

    fs::write(daemon.config(), good).unwrap();
    let mended = daemon.ctl(&["reload"]);
    assert!(mended.code == 0 && mended.stderr.is_empty(), "{mended:?}");
}

#[test]
fn a_reload_never_reaches_a_daemon_of_another_configuration_by_a_guess() {
    let daemon = Setup::new().start();
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("postern.toml");
    let socket = daemon.folder().join("control.sock");
    let reload = |text: &str| {
        fs::write(&broken, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_posternctl"))
            .arg("--config")
            .arg(&broken)
            .arg("reload")
            .output()
            .unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    // Whoever names the socket means it.
    let (code, said) = reload(&format!("[tls\n[admin]\nsocket = \"{}\"\n", socket.display()));
    assert_eq!(code, 0, "{said}");
    // At the usual place nobody is in a test, or a server that is none of ours.
    let (code, said) = reload("[tls\n");
    assert!(matches!(code, 1 | 4) && said.contains(":1:5: error: "), "{code}: {said}");
}

/// A report of a message to many, of whom the last two did not get it (yet).
const MIXED: &str = "Reporting-MTA: dns; mx.adatum.test\n\n\
    Final-Recipient: rfc822; ann@adatum.test\nAction: delivered\nStatus: 2.0.0\nDiagnostic-Code: smtp; 250 2.0.0 Ok\n\n\
    Final-Recipient: rfc822; ben@adatum.test\nAction: relayed\nStatus: 2.1.9\n\n\
    Final-Recipient: rfc822; cy@adatum.test\nAction: failed\nStatus: 5.1.1\n\
    Diagnostic-Code: smtp; 550 5.1.1 <cy@adatum.test>: Recipient address rejected: User unknown\n\n\
    Final-Recipient: rfc822; dan@adatum.test\nAction: delayed\nStatus: 4.2.0\n\
    Diagnostic-Code: smtp; 450 4.2.0 Greylisted, try again later\n";

#[test]
fn of_a_bounce_only_those_who_did_not_get_the_message_are_explained() {
    let daemon = Setup::new().prepare();
    let output = daemon.ctl_with_input(&["explain", "--bounce", "-"], MIXED);
    assert_eq!(output.code, 0, "{output:?}");
    let text = &output.stdout;
    assert_eq!(text.matches("meaning").count(), 2, "{text}");
    assert!(text.contains("cy@adatum.test: failed\n"), "{text}");
    assert!(text.contains("dan@adatum.test: delayed\n"), "{text}");
    assert!(
        text.contains("ann@adatum.test, ben@adatum.test: delivered or relayed, nothing to do\n"),
        "{text}"
    );
    // Programs are told of all.
    let answer: Json = daemon.ctl_with_input(&["explain", "--json", "--bounce", "-"], MIXED).json();
    assert_eq!(answer["recipients"].as_array().unwrap().len(), 4, "{answer}");
}

#[test]
fn a_disk_without_room_is_told_of_with_its_place_and_the_next_step() {
    // More than any disk has.
    let daemon = Setup::new().with("queue.min_free_space = \"900000GiB\"").start();
    let status = daemon.ctl(&["status"]);
    assert_eq!(status.code, 1, "{status:?}");
    let spool = daemon.folder().join("spool");
    for part in
        ["no space left for new mail: ", "GiB free, 900000.0 GiB wanted", spool.to_str().unwrap(), "452"]
    {
        assert!(status.stdout.contains(part), "{part}: {status:?}");
    }
    let doctor = daemon.ctl(&["doctor", "settings"]).stdout;
    assert!(doctor.contains("error    server: no space left for new mail"), "{doctor}");
    // More room, or less wanted, needs no restart.
    daemon.change_config("queue.min_free_space = \"1MiB\"");
    daemon.ask(&["reload"]);
    assert_eq!(daemon.ctl(&["status"]).code, 0);
}

#[test]
fn a_disk_without_room_for_a_segment_is_told_of_at_the_start() {
    // More than any disk has; what must stay free there is.
    let daemon = Setup::new().with("queue.segment_size = \"900000GiB\"").start();
    let event = daemon.wait_for("no-new-mail", |_| true).to_string();
    let spool = daemon.folder().join("spool");
    for part in
        ["the next segment and the reserve want 900000.1 GiB free", spool.to_str().unwrap(), "segment_size"]
    {
        assert!(event.contains(part), "{part}: {event}");
    }
    let ready = daemon.wait_for("ready", |_| true).to_string();
    assert!(ready.contains("new mail is refused") && !ready.contains("accepting mail"), "{ready}");
    let status = daemon.ctl(&["status"]);
    assert!(
        status.code == 1 && status.stdout.contains("the next segment and the reserve want"),
        "{status:?}"
    );
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    assert_eq!(client.deliver(ALICE, &[ALICE], &message(ALICE, ALICE, "no room", "hello")).code, 452);
}

#[test]
fn name_servers_that_do_not_answer_are_named_by_doctor() {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    let settings =
        format!("[resolver]\nnameservers = [\"127.0.0.1:{port}\"]\ntimeout = \"50ms\"\nattempts = 1");
    let daemon = Setup::new().with(&settings).start();
    let doctor = daemon.ctl(&["doctor", "settings"]).stdout;
    assert!(doctor.contains(&format!("dig @127.0.0.1 -p {port} mail.proseware.test")), "{doctor}");
}

#[test]
fn status_is_not_well_while_dns_is_dead() {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    let settings =
        format!("[resolver]\nnameservers = [\"127.0.0.1:{port}\"]\ntimeout = \"50ms\"\nattempts = 1");
    let daemon = Setup::new().with(&settings).start();
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    let carol = "carol@adatum.test";
    assert_eq!(client.deliver(ALICE, &[carol], &message(ALICE, carol, "waits", "hello")).code, 250);
    daemon.wait_in_queue("a deferred message", |m| m["state"] == "deferred");

    let status = daemon.ctl(&["status"]);
    assert!(status.code == 1 && status.stdout.starts_with("not ok"), "{status:?}");
    assert!(status.stdout.contains("problem: DNS does not answer: "), "{status:?}");
    assert!(status.stdout.contains(&format!("dig @127.0.0.1 -p {port} mail.proseware.test")), "{status:?}");
    let answer = daemon.ctl(&["status", "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_eq!(answer["dns"]["servers"][0], format!("127.0.0.1:{port}"));
    // Mail is accepted: a load balancer must not turn it away.
    assert_eq!(answer["health"]["ok"], true);
}

#[test]
fn one_domain_whose_servers_fail_is_no_trouble_of_dns() {
    let setup = Setup::new();
    setup.dns().fail("adatum.test", true);
    let daemon = setup.start();
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    let carol = "carol@adatum.test";
    assert_eq!(client.deliver(ALICE, &[carol], &message(ALICE, carol, "waits", "hello")).code, 250);
    daemon.wait_in_queue("a deferred message", |m| m["state"] == "deferred");
    let status = daemon.ctl(&["status"]);
    assert!(status.code == 0 && !status.stdout.contains("DNS"), "{status:?}");
}

#[test]
fn a_port_that_another_program_has_says_how_to_find_it() {
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = other.local_addr().unwrap();
    let daemon = Setup::new().prepare();
    daemon.change_config(&format!("[[listener]]\nkind = \"mx\"\naddress = \"{address}\""));
    let output =
        Command::new(env!("CARGO_BIN_EXE_posternd")).arg("--config").arg(daemon.config()).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success(), "{said}");
    assert!(said.contains(&format!("ss -ltnp 'sport = :{}'", address.port())), "{said}");
    assert!(!said.contains("another mail server"), "{said}");
}
