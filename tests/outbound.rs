//! Delivery: which host is tried, what TLS it must have, what is made of its answers, what is sent.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use hickory_proto::rr::RecordType;
use mail_auth::hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator};
use rcgen::{KeyPair, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};

use crate::harness::client::message;
use crate::harness::daemon::PASSWORD;
use crate::harness::mail::{Dsn, contains};
use crate::harness::tls::Identity;
use crate::harness::{
    Action, Client, Daemon, Dns, Mail, NextHop, Script, Setup, eventually, installed, skip,
};

const ALICE: &str = "alice@proseware.test";
const CAROL: &str = "carol@adatum.test";

fn submit(daemon: &Daemon, to: &[&str], subject: &str) {
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    let reply = client.deliver(ALICE, to, &message(ALICE, to[0], subject, "hello"));
    assert_eq!(reply.code, 250, "{}", reply.text());
}

/// The status of the one recipient in the report that alice gets.
fn reported_status(daemon: &Daemon, about: &str) -> String {
    let dsn = Dsn::parse(&daemon.maildir(ALICE).wait_for(about));
    assert_eq!(dsn.recipients.len(), 1, "{dsn:?}");
    dsn.recipients[0].field("Status")
}

/// Waits until the only recipient in the queue was tried; answers what is known of it.
fn deferral(daemon: &Daemon) -> serde_json::Value {
    let tried = |message: &serde_json::Value| message["recipients"][0]["attempts"].as_u64() > Some(0);
    daemon.wait_in_queue("a message that was tried", tried)["recipients"][0].clone()
}

// Which host.

#[test]
fn mx_hosts_are_tried_in_the_order_of_preference() {
    let mut first = NextHop::start(Script::default());
    let second = NextHop::beside(&first, Script::default());
    let setup = Setup::new().next_hop("adatum.test", &first);
    setup.dns().mx("adatum.test", &[(20, "second.adatum.test"), (10, "first.adatum.test")]);
    setup.dns().a("first.adatum.test", first.ip());
    setup.dns().a("second.adatum.test", second.ip());
    let daemon = setup.start();
    submit(&daemon, &[CAROL], "to-the-first");
    first.wait_for_message();
    first.go_down();
    submit(&daemon, &[CAROL], "to-the-second");
    assert!(contains(&second.wait_for_message().mail.0, "to-the-second"));
    daemon.wait_for_empty_queue();
    assert_eq!(first.received().len(), 1);
}

#[test]
fn the_next_mx_is_asked_after_a_greeting_that_refuses() {
    let first = NextHop::start(Script::default().reply("CONNECT", "554 5.3.2 no mail today"));
    let second = NextHop::beside(&first, Script::default());
    let setup = Setup::new().next_hop("adatum.test", &first);
    setup.dns().mx("adatum.test", &[(10, "first.adatum.test"), (20, "second.adatum.test")]);
    setup.dns().a("first.adatum.test", first.ip());
    setup.dns().a("second.adatum.test", second.ip());
    let daemon = setup.start();
    submit(&daemon, &[CAROL], "around");
    second.wait_for_message();
    daemon.wait_for_empty_queue();
}

#[test]
fn a_554_greeting_of_the_only_mx_defers() {
    let hop = NextHop::start(Script::default().reply("CONNECT", "554 5.3.2 no mail today"));
    let daemon = Setup::new().next_hop("adatum.test", &hop).start();
    submit(&daemon, &[CAROL], "closed");
    let recipient = deferral(&daemon);
    assert!(recipient["text"].as_str().unwrap().contains("no mail today"), "{recipient}");
    hop.set_script(Script::default());
    hop.wait_for_message();
}

#[test]
fn a_domain_without_mx_is_reached_by_its_address() {
    let hop = NextHop::start(Script::default());
    let setup = Setup::new().with(&format!("[outbound]\nport = {}", hop.port()));
    setup.dns().a("adatum.test", hop.ip());
    let daemon = setup.start();
    submit(&daemon, &[CAROL], "implicit-mx");
    hop.wait_for_message();
}

#[test]
fn a_null_mx_and_a_name_that_does_not_exist_are_final() {
    let setup = Setup::new();
    setup.dns().null_mx("nomail.test");
    let daemon = setup.start();
    submit(&daemon, &["carol@nomail.test"], "null-mx");
    assert_eq!(reported_status(&daemon, "null-mx"), "5.1.10");
    submit(&daemon, &["carol@nowhere.test"], "nxdomain");
    assert_eq!(reported_status(&daemon, "nxdomain"), "5.1.2");
    daemon.wait_for_empty_queue();
}

#[test]
fn a_name_server_that_fails_defers() {
    let hop = NextHop::start(Script::default());
    let setup = Setup::new().next_hop("adatum.test", &hop);
    setup.dns().fail("adatum.test", true);
    let daemon = setup.start();
    submit(&daemon, &[CAROL], "servfail");
    let recipient = deferral(&daemon);
    assert!(recipient["status"].as_str().unwrap().starts_with("4."), "{recipient}");
    assert!(daemon.dns().asked("adatum.test", RecordType::MX) > 0);
    daemon.dns().fail("adatum.test", false);
    hop.wait_for_message();
    daemon.wait_for_empty_queue();
}

#[test]
fn an_mx_that_is_ourselves_ends_the_loop() {
    let setup = Setup::new();
    setup.dns().mx("adatum.test", &[(10, "mail.proseware.test")]);
    setup.dns().a("mail.proseware.test", std::net::Ipv4Addr::LOCALHOST);
    let daemon = setup.start();
    submit(&daemon, &[CAROL], "to-ourselves");
    assert_eq!(reported_status(&daemon, "to-ourselves"), "5.4.6");
}

#[test]
fn private_targets_of_foreign_domains_are_left_alone_by_default() {
    let hop = NextHop::start(Script::default());
    let private = "[outbound]\nallow_private_targets = false\n[queue]\nlifetime = \"1s\"";
    let daemon = Setup::new().next_hop("adatum.test", &hop).with(private).start();
    submit(&daemon, &[CAROL], "private");
    daemon.maildir(ALICE).wait_for("private");
    assert!(hop.sessions().is_empty());
}

// What is made of the answers.

#[test]
fn each_recipient_has_its_own_outcome() {
    let script = Script::default().reply("RCPT TO:<gone@", "550 5.1.1 no such user").times(
        1,
        "RCPT TO:<busy@",
        Action::Reply("450 4.2.1 mailbox busy".into()),
    );
    let hop = NextHop::start(script);
    let daemon = Setup::new().next_hop("adatum.test", &hop).start();
    submit(&daemon, &[CAROL, "gone@adatum.test", "busy@adatum.test"], "mixed");
    let received = hop.wait_for_count(2);
    assert_eq!(received[0].recipients, ["<carol@adatum.test>"]);
    assert_eq!(received[1].recipients, ["<busy@adatum.test>"]);
    assert_eq!(reported_status(&daemon, "mixed"), "5.1.1");
    daemon.wait_for_empty_queue();
    assert_eq!(hop.received().len(), 2);
}

#[test]
fn a_refusal_after_the_message_counts_for_all_recipients() {
    let hop = NextHop::start(Script::default().reply(".", "554 5.7.1 looks like spam"));
    let daemon = Setup::new().next_hop("adatum.test", &hop).start();
    submit(&daemon, &[CAROL, "dave@adatum.test"], "refused-late");
    let dsn = Dsn::parse(&daemon.maildir(ALICE).wait_for("refused-late"));
    assert_eq!(dsn.recipients.len(), 2);
    assert!(dsn.recipients.iter().all(|recipient| recipient.field("Status") == "5.7.1"), "{dsn:?}");
    daemon.wait_for_empty_queue();
}

#[test]
fn next_hops_that_hang_or_break_off_at_any_stage_are_tried_again() {
    let timeouts =
        r#"timeouts = { greeting = "300ms", command = "300ms", data_block = "300ms", data_end = "300ms" }"#;
    for stage in ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "."] {
        for action in [Action::Hang, Action::Drop, Action::Close("421 4.3.2 shutting down".into())] {
            let hop = NextHop::start(Script::default().times(1, stage, action));
            let daemon =
                Setup::new().next_hop("adatum.test", &hop).with(&format!("[outbound]\n{timeouts}")).start();
            submit(&daemon, &[CAROL], "again");
            hop.wait_for_message();
            daemon.wait_for_empty_queue();
            assert_eq!(hop.received().len(), 1, "{stage}");
            assert!(hop.sessions().len() >= 2, "{stage}");
        }
    }
}

#[test]
fn a_next_hop_without_pipelining_is_asked_one_command_at_a_time() {
    let script = Script { extensions: vec!["8BITMIME".into()], ..Script::default() };
    let hop = NextHop::start(script);
    let daemon = Setup::new().next_hop("adatum.test", &hop).start();
    submit(&daemon, &[CAROL, "dave@adatum.test"], "one-by-one");
    let received = hop.wait_for_message();
    assert_eq!(received.recipients.len(), 2);
    assert!(!received.pipelined, "commands came before their turn");
    // Nothing that was not offered is used (RFC 5321 §4.1.1.11).
    assert_eq!(received.from, "<alice@proseware.test>");
}

#[test]
fn an_old_server_is_greeted_with_helo() {
    let hop = NextHop::start(Script::default().reply("EHLO", "502 5.5.1 what?"));
    let daemon = Setup::new().next_hop("adatum.test", &hop).start();
    submit(&daemon, &[CAROL], "helo");
    hop.wait_for_message();
}

#[test]
fn a_message_over_the_announced_size_is_returned_unsent() {
    let script = Script { extensions: vec!["PIPELINING".into(), "SIZE 1000".into()], ..Script::default() };
    let hop = NextHop::start(script);
    let daemon = Setup::new().next_hop("adatum.test", &hop).start();
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    let content = message(ALICE, CAROL, "too-big", &"0123456789\r\n".repeat(500));
    assert_eq!(client.deliver(ALICE, &[CAROL], &content).code, 250);
    assert_eq!(reported_status(&daemon, "too-big"), "5.3.4");
    assert!(hop.sessions().iter().flatten().all(|command| !command.starts_with("MAIL")));
}

#[test]
fn connections_are_used_for_several_messages() {
    let hop = NextHop::start(Script::default());
    let one = "[outbound]\nmax_per_destination = 1\ninitial_per_destination = 1\nidle_connection = \"10s\"";
    let daemon = Setup::new().next_hop("adatum.test", &hop).with(one).start();
    for n in 0..10 {
        submit(&daemon, &[CAROL], &format!("reuse-{n}"));
    }
    let received = hop.wait_for_count(10);
    let connections = hop.sessions().len();
    assert!(connections <= 2, "{connections} connections for 10 messages");
    assert!(received.iter().all(|message| message.connection <= connections));
}

#[test]
fn a_connection_ends_after_its_messages() {
    let hop = NextHop::start(Script::default());
    let limits = "max_messages_per_connection = 2\nmax_per_destination = 1\ninitial_per_destination = 1";
    let daemon = Setup::new().next_hop("adatum.test", &hop).with(&format!("[outbound]\n{limits}")).start();
    for n in 0..6 {
        submit(&daemon, &[CAROL], &format!("limited-{n}"));
    }
    let received = hop.wait_for_count(6);
    for connection in 1..=hop.sessions().len() {
        assert!(received.iter().filter(|message| message.connection == connection).count() <= 2);
    }
}

#[test]
fn dots_and_long_lines_arrive_as_they_were_sent() {
    let hop = NextHop::start(Script::default());
    let daemon = Setup::new().next_hop("adatum.test", &hop).start();
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    let body = format!(".\r\n..\r\n.hidden\r\n{}\r\n\r\n", "x".repeat(20_000));
    let content = message(ALICE, CAROL, "dots", &body);
    assert_eq!(client.deliver(ALICE, &[CAROL], &content).code, 250);
    let mail = hop.wait_for_message().mail;
    assert_eq!(mail.body(), format!("{body}\r\n").as_bytes());
}

// TLS.

#[test]
fn starttls_is_used_where_it_is_offered() {
    // A name that is not the host's, from an authority nobody knows: better than nothing (RFC 7435).
    let hop = NextHop::start(Script { tls: Some(Identity::new(&["wrong.test"])), ..Script::default() });
    let daemon = Setup::new().next_hop("adatum.test", &hop).start();
    submit(&daemon, &[CAROL], "opportunistic");
    assert!(hop.wait_for_message().tls);
}

#[test]
fn broken_starttls_falls_back_to_clear() {
    for script in [
        Script { broken_tls: true, ..Script::default() },
        Script { tls: Some(Identity::new(&["mx.adatum.test"])), ..Script::default() }
            .reply("STARTTLS", "454 4.7.0 TLS not available"),
    ] {
        let hop = NextHop::start(script);
        let daemon = Setup::new().next_hop("adatum.test", &hop).start();
        submit(&daemon, &[CAROL], "fallback");
        assert!(!hop.wait_for_message().tls);
        daemon.wait_for_empty_queue();
    }
}

fn smarthost(hop: &NextHop, tls: &str) -> Setup {
    let setup = Setup::new();
    std::fs::write(setup.folder().join("smarthost.password"), "open sesame\n").unwrap();
    setup.dns().a("relay.thephone-company.test", hop.ip());
    let route = format!(
        "[[route]]\nvia = \"smarthost\"\nhosts = [\"relay.thephone-company.test:{}\"]\nusername = \"proseware\"\n\
         password_file = \"smarthost.password\"\n{tls}",
        hop.port()
    );
    setup.with(&route)
}

#[test]
fn a_smarthost_is_logged_in_to_under_verified_tls() {
    let identity = Identity::new(&["relay.thephone-company.test"]);
    let login = Some(("proseware".to_owned(), "open sesame".to_owned()));
    for (implicit_tls, tls) in [(false, ""), (true, "tls = \"implicit\"")] {
        let script =
            Script { tls: Some(identity.clone()), login: login.clone(), implicit_tls, ..Script::default() };
        let hop = NextHop::start(script);
        let daemon = smarthost(&hop, tls).start();
        submit(&daemon, &[CAROL, "dave@elsewhere.test"], "via-smarthost");
        let received = hop.wait_for_message();
        assert!(received.tls);
        assert_eq!(received.login.as_deref(), Some("proseware"));
        // One smarthost, one transaction, whatever the domains.
        assert_eq!(received.recipients.len(), 2);
        // Local domains always come before routes.
        submit(&daemon, &["bob@proseware.test"], "stays-here");
        daemon.maildir("bob@proseware.test").wait_for("stays-here");
        assert_eq!(hop.received().len(), 1);
    }
}

#[test]
fn no_password_goes_to_a_smarthost_that_cannot_prove_its_name() {
    let login = Some(("proseware".to_owned(), "open sesame".to_owned()));
    for tls in [Some(Identity::new(&["wrong.test"])), None] {
        let hop = NextHop::start(Script { tls, login: login.clone(), ..Script::default() });
        let daemon = smarthost(&hop, "").start();
        submit(&daemon, &[CAROL], "kept");
        let recipient = deferral(&daemon);
        assert!(recipient["status"].as_str().unwrap().starts_with("4."), "{recipient}");
        assert!(hop.sessions().iter().flatten().all(|command| !command.starts_with("AUTH")));
        assert!(hop.received().is_empty());
    }
}

#[test]
fn a_refused_smarthost_login_defers() {
    let identity = Identity::new(&["relay.thephone-company.test"]);
    let login = Some(("proseware".to_owned(), "another password".to_owned()));
    let hop = NextHop::start(Script { tls: Some(identity), login, ..Script::default() });
    let daemon = smarthost(&hop, "").start();
    submit(&daemon, &[CAROL], "kept");
    let recipient = deferral(&daemon);
    assert!(recipient["text"].as_str().unwrap().contains("535"), "{recipient}");
    assert!(daemon.maildir(ALICE).messages().is_empty());
}

#[test]
fn smarthosts_are_tried_in_their_order() {
    let mut first = NextHop::start(Script::default());
    let second = NextHop::start(Script::default());
    first.go_down();
    let hosts =
        format!("hosts = [\"[{}]:{}\", \"[{}]:{}\"]", first.ip(), first.port(), second.ip(), second.port());
    let daemon = Setup::new().with(&format!("[[route]]\nvia = \"smarthost\"\n{hosts}")).start();
    submit(&daemon, &[CAROL], "failover");
    second.wait_for_message();
}

// Other ways than SMTP.

#[test]
fn lmtp_reports_each_recipient_by_itself() {
    let script = Script { lmtp: true, ..Script::default() }
        .reply(". <full@adatum.test>", "552 5.2.2 mailbox full")
        .times(1, ". <busy@adatum.test>", Action::Reply("450 4.2.1 mailbox busy".into()));
    let hop = NextHop::start(script);
    let route =
        format!("[[route]]\ndomain = \"adatum.test\"\nvia = \"lmtp\"\nhosts = [\"{}\"]", hop.address());
    let daemon = Setup::new().with(&route).start();
    submit(&daemon, &[CAROL, "full@adatum.test", "busy@adatum.test"], "by-lmtp");
    let received = hop.wait_for_count(2);
    assert_eq!(received[0].recipients, ["<carol@adatum.test>"]);
    assert_eq!(received[1].recipients, ["<busy@adatum.test>"]);
    assert_eq!(reported_status(&daemon, "by-lmtp"), "5.2.2");
    daemon.wait_for_empty_queue();
}

#[test]
fn routes_choose_by_domain_and_sender() {
    let hop = NextHop::start(Script::default());
    let routes = r#"
        [[route]]
        domain = "archive.test"
        via = "maildir"
        maildir = "archive/{domain}/{local}"
        [[route]]
        domain = ".sink.test"
        via = "discard"
        [[route]]
        sender = "bob@proseware.test"
        via = "discard"
    "#;
    let setup = Setup::new().next_hop("adatum.test", &hop).with(routes);
    // What stands above the mailboxes must be there: else a disk that is not mounted would be written beside.
    std::fs::create_dir(setup.folder().join("archive")).unwrap();
    let daemon = setup.start();
    submit(&daemon, &["x@archive.test", "y@a.sink.test", CAROL], "routed");
    assert_eq!(hop.wait_for_message().recipients, ["<carol@adatum.test>"]);
    let archive = crate::harness::mail::Maildir(daemon.folder().join("archive/archive.test/x"));
    archive.wait_for("routed");
    let mut client = Client::log_in(daemon.submission(), "bob@proseware.test", PASSWORD);
    let content = message("bob@proseware.test", CAROL, "discarded", "hello");
    assert_eq!(client.deliver("bob@proseware.test", &[CAROL], &content).code, 250);
    daemon.wait_for_empty_queue();
    assert_eq!(hop.received().len(), 1);
}

#[test]
fn a_mailbox_that_cannot_be_written_defers() {
    let daemon = Setup::new().start();
    let maildir = daemon.maildir("bob@proseware.test").0;
    std::fs::create_dir_all(maildir.parent().unwrap()).unwrap();
    // A file where the Maildir should be stops root too.
    std::fs::write(&maildir, "not a directory").unwrap();
    submit(&daemon, &["bob@proseware.test", ALICE], "blocked");
    daemon.maildir(ALICE).wait_for("blocked");
    let recipient = deferral(&daemon);
    assert!(recipient["status"].as_str().unwrap().starts_with("4."), "{recipient}");
    std::fs::remove_file(&maildir).unwrap();
    daemon.maildir("bob@proseware.test").wait_for("blocked");
    daemon.wait_for_empty_queue();
    assert_eq!(daemon.maildir(ALICE).messages().len(), 1);
    use std::os::unix::fs::PermissionsExt;
    let file =
        eventually("the file of the message", || std::fs::read_dir(maildir.join("new")).ok()?.next()?.ok());
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

// Signatures.

struct Signer {
    selector: &'static str,
    key_file: PathBuf,
    record: String,
}

fn signers(folder: &Path) -> [Signer; 2] {
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let spki = rcgen::PublicKeyData::subject_public_key_info(&rsa);
    let rsa_record = format!("v=DKIM1; k=rsa; p={}", BASE64_STANDARD.encode(spki));
    let ed25519_record =
        format!("v=DKIM1; k=ed25519; p={}", BASE64_STANDARD.encode(ed25519.public_key_raw()));
    [("rsa", rsa, rsa_record), ("ed", ed25519, ed25519_record)].map(|(selector, key, record)| {
        let key_file = folder.join(format!("{selector}.pem"));
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        Signer { selector, key_file, record }
    })
}

fn signing(hop: &NextHop) -> (Daemon, [Signer; 2]) {
    let setup = Setup::new().next_hop("adatum.test", hop);
    let signers = signers(setup.folder());
    let mut keys = String::from("[[domain]]\nname = \"branch.test\"\nmailboxes = [\"dora\"]\n");
    for signer in &signers {
        setup.dns().txt(&format!("{}._domainkey.branch.test", signer.selector), &signer.record);
        let file = signer.key_file.display();
        keys += &format!("[[domain.dkim]]\nselector = \"{}\"\nkey = \"{file}\"\n", signer.selector);
    }
    (setup.with(&keys).account("dora@branch.test", "").start(), signers)
}

#[test]
fn signatures_of_every_key_verify_elsewhere() {
    let hop = NextHop::start(Script::default());
    let (daemon, signers) = signing(&hop);
    let bodies = [
        "",
        "\r\n",
        "hello\r\n",
        "trailing   \r\n\r\n\r\n",
        "  \t\r\n",
        ".dots\r\n..\r\n",
        "caf\u{e9}\r\n",
        "no end",
    ];
    let long = format!("{}\r\n", "x".repeat(3000));
    let bodies: Vec<&str> = bodies.into_iter().chain([long.as_str()]).collect();
    let mut client = Client::log_in(daemon.submission(), "dora@branch.test", PASSWORD);
    for (n, body) in bodies.iter().enumerate() {
        let content = message("dora@branch.test", CAROL, &format!("signed-{n}"), body);
        assert_eq!(client.deliver("dora@branch.test", &[CAROL], &content).code, 250);
    }
    for received in hop.wait_for_count(bodies.len()) {
        assert_eq!(received.mail.fields("DKIM-Signature").len(), 2, "{}", received.mail.header());
        assert_eq!(verify_with_mail_auth(daemon.dns(), &received.mail), 2);
        verify_with_dkimpy(&signers, &received.mail);
    }
}

#[test]
fn mail_of_outsiders_and_of_domains_without_keys_is_not_signed() {
    let hop = NextHop::start(Script::default());
    let forward = "[[domain]]\nname = \"forward.test\"\naliases = { away = [\"carol@adatum.test\"] }";
    let setup = Setup::new().next_hop("adatum.test", &hop).with(forward);
    let [rsa, _] = signers(setup.folder());
    let key = format!(
        "[[domain]]\nname = \"branch.test\"\n[[domain.dkim]]\nselector = \"rsa\"\nkey = \"{}\"",
        rsa.key_file.display()
    );
    let daemon = setup.with(&key).start();
    submit(&daemon, &[CAROL], "without-key");
    let mut outsider = Client::connect(daemon.mx());
    outsider.ehlo();
    // An outsider who claims an address of ours must not get our signature.
    let content = message("dora@branch.test", "away@forward.test", "forged", "hello");
    assert_eq!(outsider.deliver("x@client.test", &["away@forward.test"], &content).code, 250);
    for received in hop.wait_for_count(2) {
        assert!(received.mail.fields("DKIM-Signature").is_empty(), "{}", received.mail.header());
    }
}

/// How many signatures pass.
fn verify_with_mail_auth(dns: &Dns, mail: &Mail) -> usize {
    let mut server = NameServerConfig::udp(dns.address().ip());
    server.connections[0].port = dns.address().port();
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let authenticator = MessageAuthenticator::new(config, ResolverOpts::default()).unwrap();
        let message = AuthenticatedMessage::parse(&mail.0).unwrap();
        let results = authenticator.verify_dkim(&message).await;
        for result in &results {
            assert_eq!(*result.result(), DkimResult::Pass, "{}", mail.header());
        }
        results.len()
    })
}

/// A second opinion from another implementation, where it is installed.
fn verify_with_dkimpy(signers: &[Signer], mail: &Mail) {
    const PROGRAM: &str = "import dkim, json, sys\n\
        records = json.loads(sys.argv[1])\n\
        dnsfunc = lambda name, timeout=5: records[name.decode().rstrip('.')].encode()\n\
        message = dkim.DKIM(sys.stdin.buffer.read())\n\
        sys.exit(0 if all(message.verify(idx=n, dnsfunc=dnsfunc) for n in range(2)) else 1)";
    let Some(python) = python_with("dkim") else {
        skip("dkimpy is not installed");
        return;
    };
    let records: serde_json::Map<_, _> = signers
        .iter()
        .map(|signer| (format!("{}._domainkey.branch.test", signer.selector), signer.record.as_str().into()))
        .collect();
    let mut child = Command::new(python)
        .args(["-c", PROGRAM, &serde_json::Value::Object(records).to_string()])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&mail.0).unwrap();
    assert!(child.wait().unwrap().success(), "dkimpy does not verify\n{}", mail.0.escape_ascii());
}

/// A Python that has a module: that of the system may have another set than the first one in the path.
fn python_with(module: &str) -> Option<PathBuf> {
    let pythons = installed("python3").into_iter().chain([PathBuf::from("/usr/bin/python3")]);
    let has = |python: &PathBuf| {
        let import =
            Command::new(python).args(["-c", &format!("import {module}")]).stderr(Stdio::null()).status();
        import.is_ok_and(|status| status.success())
    };
    pythons.filter(|python| python.is_file()).find(has)
}
