//! `posternctl doctor`: the checklist of seven steps, and the bundle for support.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::Value as Json;
use toml::Table;

use crate::harness::client::message;
use crate::harness::ctl::Output;
use crate::harness::daemon::PASSWORD;
use crate::harness::reports;
use crate::harness::{Action, Client, Daemon, NextHop, Script, Setup, eventually, loopback, repository};

const ALICE: &str = "alice@proseware.test";
const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 25);
const LIST: &str = "dnsbl.test";
const STEPS: [&str; 7] = ["settings", "senders", "dns", "blocklists", "relay", "reputation", "contact"];

/// Known to the world by one address, which one list is asked about.
fn known() -> Setup {
    Setup::new()
        .with(&format!("policy.public_addresses = [\"{OURS}\"]\n[outbound]\nblocklists = [\"{LIST}\"]\n"))
}

/// A list that works: it has its test entry.
fn working_list(daemon: &Daemon) {
    daemon.dns().listed(LIST, Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 2));
}

/// Everything is as it should be.
fn well() -> Daemon {
    let mut daemon = known().prepare();
    sign(&daemon);
    daemon.start();
    let dns = daemon.dns();
    dns.a("mail.proseware.test", OURS);
    dns.ptr(OURS, "mail.proseware.test");
    dns.mx("proseware.test", &[(10, "mail.proseware.test")]);
    let needed = daemon.ask(&["domain", "records", "proseware.test"]);
    for record in needed["records"].as_array().unwrap().iter().filter(|record| record["type"] == "TXT") {
        dns.txt(record["name"].as_str().unwrap(), record["value"].as_str().unwrap());
    }
    working_list(&daemon);
    daemon
}

/// Gives proseware.test a DKIM key.
fn sign(daemon: &Daemon) {
    let keys = daemon.folder().join("keys");
    let arguments = ["dkim", "generate", "--domain", "proseware.test", "--selector", "2026a", "--out"];
    let generated = daemon.ctl(&[&arguments[..], &[keys.to_str().unwrap()]].concat());
    assert_eq!(generated.code, 0, "{generated:?}");
    let key = keys.join("proseware.test.2026a.pem");
    edit(daemon, |config| {
        let dkim = format!("dkim = [{{ selector = \"2026a\", key = {:?} }}]", key.display().to_string());
        let domain = config["domain"].as_array_mut().unwrap()[0].as_table_mut().unwrap();
        domain.extend(dkim.parse::<Table>().unwrap());
    });
}

fn edit(daemon: &Daemon, change: impl FnOnce(&mut Table)) {
    let mut config: Table = fs::read_to_string(daemon.config()).unwrap().parse().unwrap();
    change(&mut config);
    fs::write(daemon.config(), config.to_string()).unwrap();
}

fn doctor(daemon: &Daemon, arguments: &[&str]) -> Output {
    daemon.ctl(&[&["doctor"], arguments, &["--json"]].concat())
}

/// The findings of one step that are no notes, as `weight place: text -> remedy`.
fn concerns(output: &Output, step: &str) -> Vec<String> {
    findings(output, step).into_iter().filter(|line| !line.starts_with("note ")).collect()
}

fn findings(output: &Output, step: &str) -> Vec<String> {
    let answer = output.json();
    let taken = answer["steps"].as_array().unwrap().iter().find(|taken| taken["step"] == step);
    let taken = taken.unwrap_or_else(|| panic!("no step {step}: {answer}"));
    let text = |finding: &Json| {
        let word = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        format!("{} {}: {} -> {}", word("weight"), word("place"), word("text"), word("remedy"))
    };
    taken["findings"].as_array().unwrap().iter().map(text).collect()
}

#[track_caller]
fn assert_says(lines: &[String], words: &[&str]) {
    let says = |line: &&String| words.iter().all(|word| line.contains(word));
    assert!(lines.iter().any(|line| says(&line)), "nobody says {words:?} in {lines:#?}");
}

// All steps.

#[test]
fn a_server_in_order_passes_all_seven_steps_in_their_order() {
    let daemon = well();
    let output = doctor(&daemon, &[]);
    let answer = output.json();
    let steps = answer["steps"].as_array().unwrap();
    let names: Vec<&str> = steps.iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(names, STEPS);
    for step in STEPS {
        assert_eq!(concerns(&output, step), [] as [String; 0], "{step}");
    }
    assert_eq!((output.code, &answer["outcome"]), (0, &"well".into()), "{output:?}");
    assert_says(&findings(&output, "settings"), &["note mx ", "answers as it should"]);
    assert_says(&findings(&output, "settings"), &["note tls.certificate", "good until"]);
    assert_says(
        &findings(&output, "senders"),
        &["login alice@proseware.test", "may send as alice@proseware.test"],
    );
    assert_says(&findings(&output, "dns"), &["SPF: it takes 0 of 10 look-ups"]);
    assert_says(&findings(&output, "dns"), &["note address 192.0.2.25", "as in EHLO"]);
    assert_says(&findings(&output, "blocklists"), &["192.0.2.25 at dnsbl.test: not listed"]);
    assert_says(&findings(&output, "reputation"), &["DMARC: not known"]);
    let relay = &steps[4]["details"];
    assert!(
        relay["servers"].as_array().unwrap().iter().all(|server| server["outcome"] == "closed"),
        "{relay}"
    );

    let text = daemon.ctl(&["doctor"]).stdout;
    let page = fs::read_to_string(repository().join("docs/doctor.md")).unwrap();
    assert!(page.contains(&format!("```text,doctor\n{text}```")), "not as docs/doctor.md has it:\n{text}");
    // It looked, and no more.
    assert_eq!(daemon.ask(&["audit"])["events"], Json::Array(Vec::new()));
    assert_eq!(daemon.ask(&["domain", "list"])["domains"][0]["checked"], Json::Null);
    assert_eq!(daemon.queue(), [] as [Json; 0]);
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_what_mends_it() {
    let daemon = known()
        .account("agency@proseware.test", "permission = \"any\"")
        .account(
            "printer",
            "state = \"suspended\"\nstate_reason = \"sent spam\"\nsend_as = [\"alice@proseware.test\"]",
        )
        .start();
    daemon.dns().a("mail.proseware.test", Ipv4Addr::new(192, 0, 2, 26));
    daemon.dns().ptr(OURS, "host25.provider.test");
    let twice = ["v=spf1 ip4:192.0.2.25 -all", "v=spf1 -all"];
    daemon.dns().txts("proseware.test", &twice);
    let output = doctor(&daemon, &[]);
    assert_eq!((output.code, &output.json()["outcome"]), (1, &"findings".into()), "{output:?}");
    assert_says(
        &concerns(&output, "settings"),
        &["hostname mail.proseware.test", "192.0.2.26 has no name", "PTR"],
    );
    let senders = concerns(&output, "senders");
    assert_says(&senders, &["warning login agency@proseware.test: it may send as anybody", "any_if_spf"]);
    assert_says(&senders, &["login agency@proseware.test: there is no mailbox", "aliases"]);
    assert_says(
        &senders,
        &["login printer: it is suspended: sent spam", "posternctl account unlock printer"],
    );
    let dns = concerns(&output, "dns");
    assert_says(
        &dns,
        &["error domain proseware.test: SPF: there are 2 SPF records", "posternctl domain records"],
    );
    assert_says(&dns, &["DMARC: there is no DMARC record", "publish: _dmarc.proseware.test. IN TXT"]);
    assert_says(
        &dns,
        &["MX: there is no MX record", "publish: proseware.test. IN MX 10 mail.proseware.test."],
    );
    assert_says(&dns, &["DKIM: no key is configured"]);
    assert_says(
        &dns,
        &["address 192.0.2.25", "host25.provider.test, not mail.proseware.test", "have your provider"],
    );
    assert_says(&concerns(&output, "blocklists"), &["trouble list dnsbl.test", "test entry 127.0.0.2"]);
    // Notes are shown when they are asked for, findings always.
    let text = daemon.as_usual(&daemon.ctl(&["doctor"]).stdout);
    assert!(
        text.contains("mend: posternctl account unlock printer") && !text.contains("not known: "),
        "{text}"
    );
    assert!(daemon.ctl(&["doctor", "--verbose"]).stdout.contains("not known: "));
    assert!(!text.contains(PASSWORD) && !text.contains("argon2"), "{text}");
}

#[test]
fn without_the_daemon_the_rest_is_looked_at_and_it_ends_with_four() {
    let mut daemon = well();
    daemon.dns().listed(LIST, OURS, Ipv4Addr::new(127, 0, 0, 4));
    assert!(daemon.terminate().success());
    let output = doctor(&daemon, &[]);
    let answer = output.json();
    assert_eq!(output.code, 4, "{output:?}");
    assert!(answer["unreachable"].as_str().unwrap().contains("no daemon answers"), "{answer}");
    assert_eq!(answer["steps"].as_array().unwrap().len(), STEPS.len());
    for step in ["senders", "dns", "reputation", "contact"] {
        assert_eq!(concerns(&output, step), [] as [String; 0], "{step}");
    }
    assert_says(&concerns(&output, "blocklists"), &["192.0.2.25 at dnsbl.test: listed (127.0.0.4)"]);
    let text = daemon.ctl(&["doctor", "senders"]);
    assert_eq!(text.code, 4, "{text:?}");
    assert!(
        text.stdout.contains("without the daemon") && text.stdout.contains("2 senders     ok"),
        "{text:?}"
    );
}

// Single steps.

#[test]
fn each_step_is_a_verb_of_its_own_and_shows_what_is_in_order_too() {
    let daemon = well();
    for step in STEPS.iter().filter(|step| **step != "relay") {
        let output = daemon.ctl(&["doctor", step]);
        assert_eq!(output.code, 0, "{step}: {output:?}");
        assert!(output.stdout.contains("\n  note "), "{step}: {output:?}");
        let json = doctor(&daemon, &[step]).json();
        assert_eq!(json["steps"].as_array().unwrap().len(), 1, "{step}: {json}");
    }
}

#[test]
fn a_listing_is_told_apart_from_a_list_that_is_broken_and_from_a_resolver_that_is_blocked() {
    let daemon = known().start();
    let ask = || {
        let output = doctor(&daemon, &["blocklists"]);
        assert_eq!(output.code, 1, "{output:?}");
        concerns(&output, "blocklists").join("\n")
    };
    let answers = |address: &str| daemon.dns().listed(LIST, OURS, address.parse().unwrap());
    working_list(&daemon);
    answers("127.0.0.4");
    daemon.dns().txt("25.2.0.192.dnsbl.test", "see https://dnsbl.test/192.0.2.25");
    assert!(
        ask().contains(
            "error 192.0.2.25 at dnsbl.test: listed (127.0.0.4): see https://dnsbl.test/192.0.2.25"
        )
    );
    for (answer, words) in [("127.255.255.254", "resolver is blocked"), ("203.0.113.80", "broken list")] {
        answers(answer);
        let found = ask();
        assert!(
            found.starts_with("trouble ") && found.contains(words) && !found.contains("listed ("),
            "{found}"
        );
    }
    // One that lists everybody, and one that does not answer.
    daemon.dns().listed(LIST, Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2));
    assert!(ask().contains("it lists everything"));
    daemon.dns().fail("2.0.0.127.dnsbl.test", true);
    assert!(ask().starts_with("trouble list dnsbl.test: no answer"));
}

/// A server that is wrong on purpose: it offers AUTH without TLS, and calls itself something else.
fn careless_server() -> SocketAddr {
    let listener = TcpListener::bind((loopback(), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the process: the tests have no other way to stop an accept.
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let mut answer = "220 other.test ESMTP\r\n";
                while stream.write_all(answer.as_bytes()).is_ok() && answer != "221 bye\r\n" {
                    answer = match lines.next() {
                        Some(Ok(line)) if line.starts_with("EHLO") => {
                            "250-other.test\r\n250 AUTH PLAIN LOGIN\r\n"
                        }
                        Some(Ok(line)) if line.starts_with("QUIT") => "221 bye\r\n",
                        Some(Ok(_)) => "502 no\r\n",
                        _ => return,
                    };
                }
            });
        }
    });
    address
}

#[test]
fn a_listener_is_judged_by_what_it_says_to_clients() {
    let daemon = known().prepare();
    edit(&daemon, |config| {
        let listener = format!("listener = [{{ kind = \"mx\", address = \"{}\" }}]", careless_server());
        config.extend(listener.parse::<Table>().unwrap());
    });
    let output = doctor(&daemon, &["settings"]);
    assert_eq!(output.code, 4, "{output:?}");
    let found = concerns(&output, "settings");
    assert_says(&found, &["AUTH is offered where other servers come"]);
    assert_says(&found, &["it calls itself \"other.test\", not mail.proseware.test"]);
    assert_says(&found, &["STARTTLS is not offered", "[tls]"]);
    assert_says(&found, &["there is no submission listener (port 587)", "0.0.0.0:587"]);
    // And where nobody listens at all.
    let free = TcpListener::bind((loopback(), 0)).unwrap().local_addr().unwrap();
    edit(&daemon, |config| {
        let listener = format!("listener = [{{ kind = \"mx\", address = \"{free}\" }}]");
        config.extend(listener.parse::<Table>().unwrap());
    });
    let found = concerns(&doctor(&daemon, &["settings"]), "settings");
    assert_says(&found, &[&format!("error mx {free}: nobody answers"), "firewall"]);
}

#[test]
fn a_certificate_for_another_name_and_one_that_was_not_reloaded_are_found() {
    let daemon = well();
    let other = crate::harness::tls::Identity::new(&["www.proseware.test"]);
    let write = |name: &str, text: &str| fs::write(daemon.folder().join(name), text).unwrap();
    write("cert.pem", &other.certificate_pem);
    write("key.pem", &other.key_pem);
    let found = concerns(&doctor(&daemon, &["settings"]), "settings");
    assert_says(&found, &["tls.certificate: the file holds another certificate", "posternctl reload"]);
    assert_eq!(daemon.ctl(&["reload"]).code, 0);
    let found = concerns(&doctor(&daemon, &["settings"]), "settings");
    assert_says(
        &found,
        &["error tls.certificate", "it is for www.proseware.test, not for mail.proseware.test"],
    );
    assert_eq!(found.len(), 1, "{found:?}");
}

/// Submits a message to somebody at adatum.test; answers its queue id.
fn submit(daemon: &Daemon, to: &str) -> String {
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    let reply = client.deliver(ALICE, &[to], &message(ALICE, to, "hello", "confidential"));
    assert_eq!(reply.code, 250, "{}", reply.text());
    reply.queue_id()
}

fn wait_for_event(daemon: &Daemon, id: &str, kind: &str) {
    eventually(&format!("{kind} in the history of {id}"), || {
        let history = daemon.ctl(&["message", "history", id, "--json"]);
        let history: Json = serde_json::from_str(&history.stdout).ok()?;
        let events =
            history["messages"].as_array()?.iter().flat_map(|story| story["events"].as_array().unwrap());
        events.clone().any(|event| event["event"] == kind && event["id"] == id).then_some(())
    });
}

#[test]
fn what_others_refuse_is_counted_by_domain_with_whom_to_ask() {
    let refused = "550 5.7.1 Message refused, your address has a poor reputation";
    let hop = NextHop::start(Script::default().on("RCPT", Action::Reply(refused.into())));
    let daemon = known().next_hop("adatum.test", &hop).start();
    let ids: Vec<String> = (0..5).map(|at| submit(&daemon, &format!("carol{at}@adatum.test"))).collect();
    ids.iter().for_each(|id| wait_for_event(&daemon, id, "failed"));
    let output = doctor(&daemon, &["reputation"]);
    assert_eq!(output.code, 1, "{output:?}");
    let found = concerns(&output, "reputation");
    assert_says(&found, &["adatum.test: 100 % bounced (5 of 5)", "poor reputation"]);
    assert_says(
        &found,
        &["adatum.test: 5 times it deferred or refused us for policy", "posternctl explain '550 5.7.1"],
    );
    assert!(
        found.iter().all(|line| !line.contains("proseware.test")),
        "local mail is no reputation: {found:?}"
    );
    let domains = &output.json()["steps"][0]["details"]["domains"];
    assert_eq!(
        (domains[0]["tried"].as_u64(), domains[0]["bounced"].as_u64()),
        (Some(5), Some(5)),
        "{domains}"
    );
    let contact = doctor(&daemon, &["contact"]);
    assert_eq!(contact.code, 0, "{contact:?}");
    assert_says(&findings(&contact, "contact"), &["adatum.test: write to postmaster@adatum.test"]);
    assert_says(&findings(&contact, "contact"), &["posternctl doctor bundle"]);
}

/// Reports that end now.
fn aggregate_now(reporter: &str, rows: &[(&str, u32, &str, &str, &str)]) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    reports::aggregate(reporter, "proseware.test", now, rows)
}

#[test]
fn reports_that_came_by_mail_and_as_files_are_added_up_and_what_follows_is_said() {
    let setup = known();
    let (folder, bob) =
        (setup.folder().join("reports"), setup.folder().join("spool/mail/proseware.test/bob"));
    fs::create_dir(&folder).unwrap();
    let daemon = setup.with(&format!("[reputation]\nreports = [{folder:?}, {bob:?}]\n")).start();
    // Large receivers send zip and gzip, some plain XML; this one comes by mail, as all of them do.
    let rows =
        [(&*OURS.to_string(), 90, "pass", "pass", "none"), ("203.0.113.9", 40, "fail", "fail", "none")];
    let gzip = reports::gzip(aggregate_now("adatum.test", &rows).as_bytes());
    let mut client = Client::connect(daemon.mx());
    client.ehlo();
    let mail = String::from_utf8(reports::message("application/gzip", &gzip)).unwrap();
    assert_eq!(client.deliver("noreply-dmarc@adatum.test", &["bob@proseware.test"], &mail).code, 250);
    let failing = [(&*OURS.to_string(), 10, "fail", "fail", "reject")];
    let zip = reports::zip(&[("r.xml", aggregate_now("thephone-company.test", &failing).as_bytes())]);
    fs::write(folder.join("r.zip"), zip).unwrap();
    let row = [(&*OURS.to_string(), 1, "pass", "fail", "none")];
    fs::write(folder.join("r.xml"), aggregate_now("small.test", &row)).unwrap();
    for at in 0..4 {
        let complaint = reports::complaint(&OURS.to_string(), "abuse", &format!("carol{at}@adatum.test"));
        fs::write(folder.join(format!("{at}.eml")), complaint).unwrap();
    }
    fs::write(folder.join("damaged.xml.gz"), &gzip[..gzip.len() / 2]).unwrap();
    let before = listing(&folder);
    let output = eventually("the report that came by mail", || {
        let output = doctor(&daemon, &["reputation"]);
        (output.json()["steps"][0]["details"]["reports"]["read"] == 7).then_some(output)
    });
    assert_eq!(output.code, 1, "{output:?}");
    let found = concerns(&output, "reputation");
    assert_says(
        &found,
        &[
            "warning complaints adatum.test: 4 complaints",
            "news@proseware.test (4)",
            "message history news@proseware.test",
        ],
    );
    assert_says(
        &found,
        &[
            "error DMARC proseware.test: mail of ours fails, 10 of 101 (10 refused)",
            "10 of 10 (10 refused) at thephone-company.test",
            "from 192.0.2.25 (10)",
            "posternctl domain verify proseware.test",
        ],
    );
    assert_says(
        &found,
        &[
            "40 messages of strangers",
            "203.0.113.9 (40)",
            "the policy is none",
            "publish p=quarantine at _dmarc.proseware.test",
        ],
    );
    let all = findings(&output, "reputation");
    assert_says(
        &all,
        &["note DMARC proseware.test: adatum.test: ours 90, 100 % pass (SPF 100 %, DKIM 100 %)"],
    );
    assert_says(&all, &["damaged.xml.gz: left out: it cannot be unpacked"]);
    assert_eq!(listing(&folder), before, "they are only read");
    assert_eq!(daemon.ask(&["audit"])["events"], Json::Array(Vec::new()));
    // Without the daemon, the same; and from elsewhere.
    let mut daemon = daemon;
    assert!(daemon.terminate().success());
    let offline = doctor(&daemon, &["reputation"]);
    assert_eq!((offline.code, concerns(&offline, "reputation")), (4, found));
    let elsewhere = doctor(&daemon, &["reputation", "--reports", folder.join("r.xml").to_str().unwrap()]);
    assert_eq!(elsewhere.json()["steps"][0]["details"]["reports"]["read"], 1, "{elsewhere:?}");
    let nowhere = doctor(&daemon, &["reputation", "--reports", "/nonexistent"]);
    assert_says(&concerns(&nowhere, "reputation"), &["warning /nonexistent: it cannot be looked into"]);
}

/// What is in a folder, and since when.
fn listing(folder: &Path) -> Vec<(PathBuf, u64, SystemTime)> {
    let entry = |entry: fs::DirEntry| {
        let metadata = entry.metadata().unwrap();
        (entry.path(), metadata.len(), metadata.modified().unwrap())
    };
    let mut all: Vec<_> = fs::read_dir(folder).unwrap().map(|found| entry(found.unwrap())).collect();
    all.sort();
    all
}

// The bundle.

/// Planted where bundles take their content from.
const SMARTHOST_PASSWORD: &str = "tRo1ka-of-the-smarthost";
const COMMENTED: &str = "formerly-h0rse";
const PASTED: &str = "hunter2-of-somebody";

/// A server with secrets in every place, and a message that was refused.
struct Case {
    daemon: Daemon,
    hop: NextHop,
    id: String,
}

impl Case {
    fn new() -> Self {
        let refused = Action::Reply("550 5.7.1 <carol@adatum.test>: refused".into());
        let hop = NextHop::start(Script::default().on("RCPT", refused));
        let setup = known().next_hop("adatum.test", &hop);
        let file = setup.folder().join("smarthost.password");
        fs::write(&file, format!("{SMARTHOST_PASSWORD}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let route = format!(
            "[[route]]\ndomain = \"thephone-company.test\"\nvia = \"smarthost\"\nhosts = [\"relay.test:587\"]\n\
             username = \"postern\"\npassword_file = {:?}\n\
             [report]\nlisten = \"127.0.0.1:0\"\nurl = \"https://mail.proseware.test/r/\"\n",
            file.display().to_string()
        );
        let mut daemon = setup.with(&route).prepare();
        let config = fs::read_to_string(daemon.config()).unwrap();
        fs::write(daemon.config(), format!("# the password was {COMMENTED}\n{config}")).unwrap();
        daemon.start();
        let id = submit(&daemon, "carol@adatum.test");
        wait_for_event(&daemon, &id, "reported");
        Self { daemon, hop, id }
    }

    /// Nothing of what was planted, in any form.
    fn assert_no_secret(&self, name: &str, content: &[u8], further: &[&str]) {
        let text = String::from_utf8_lossy(content);
        let key = fs::read_to_string(self.daemon.folder().join("key.pem")).unwrap();
        let key_line = key.lines().nth(1).unwrap();
        let plain = BASE64_STANDARD.encode(format!("\0postern\0{SMARTHOST_PASSWORD}"));
        let secrets =
            [SMARTHOST_PASSWORD, COMMENTED, PASTED, PASSWORD, key_line, &plain, "argon2", "PRIVATE KEY--"];
        for secret in secrets.iter().chain(further) {
            assert!(!text.contains(secret), "{secret:?} is in {name}: {text}");
        }
    }
}

fn bundle(daemon: &Daemon, about: &[&str], output: &Path) -> Output {
    let output = output.to_str().unwrap();
    daemon.ctl(&[&["doctor", "bundle", "--output", output, "--json"], about].concat())
}

/// All files below a folder with their content, by their path in it.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for path in fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                    found.push((name, fs::read(path).unwrap()));
                }
            }
        }
    }
    found
}

fn text_of(files: &[(String, Vec<u8>)], name: &str) -> String {
    let names: Vec<&String> = files.iter().map(|(name, _)| name).collect();
    let file =
        files.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no {name} in {names:?}"));
    String::from_utf8(file.1.clone()).unwrap()
}

#[test]
fn a_bundle_about_a_message_has_what_support_asks_for_and_no_secret() {
    let case = Case::new();
    let folder = case.daemon.folder().join("case");
    let output = bundle(&case.daemon, &["--message", &case.id], &folder);
    assert_eq!(output.code, 0, "{output:?}");
    let files = contents(&folder);
    for (name, content) in &files {
        case.assert_no_secret(name, content, &[]);
    }
    let incident: Json = serde_json::from_str(&text_of(&files, "case.json")).unwrap();
    let incident = &incident["incidents"][0];
    assert_eq!((&incident["sender"], &incident["recipient"]), (&ALICE.into(), &"carol@adatum.test".into()));
    assert!(incident["host"].as_str().unwrap().contains("mx.adatum.test"), "{incident}");
    assert_eq!(
        (incident["port"].as_u64(), &incident["status"]),
        (Some(case.hop.port().into()), &"5.7.1".into())
    );
    assert!(text_of(&files, "README.txt").contains("550 5.7.1 <carol@adatum.test>: refused"));
    assert!(text_of(&files, "history.json").contains(&case.id));
    assert!(text_of(&files, "login-alice@proseware.test.json").contains("\"state\": \"active\""));
    assert!(text_of(&files, "status.json").contains("mail.proseware.test"));
    let config = text_of(&files, "configuration/postern.toml");
    assert!(config.contains("smarthost.password") && config.contains("username = \"postern\""), "{config}");
    assert!(files.iter().all(|(name, _)| !name.contains("accounts")), "the logins do not belong into it");
    for (path, mode) in [(folder.clone(), 0o700), (folder.join("README.txt"), 0o600)] {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode, "{path:?}");
    }
    // What is there is left alone.
    assert_eq!(bundle(&case.daemon, &["--message", &case.id], &folder).code, 2);
    let nowhere = case.daemon.folder().join("unknown.tar");
    assert_eq!(bundle(&case.daemon, &["--message", "01N2K3P4Q5R6S"], &nowhere).code, 1);
    assert!(!nowhere.exists());
    let named = case.daemon.ctl(&["doctor", "bundle", "--output", "x.tar"]);
    assert_eq!(named.code, 2, "a bundle about nothing: {named:?}");
}

#[test]
fn a_bundle_about_a_bounce_is_an_archive_without_the_secrets_that_people_paste() {
    let case = Case::new();
    // The page of a refusal is opened by a token, which the reply has.
    let mut client = Client::connect(case.daemon.mx());
    client.ehlo();
    client.expect("MAIL FROM:<x@client.test>", 250);
    let reply = client.command("RCPT TO:<carol@adatum.test>").text();
    let token =
        reply.split("https://mail.proseware.test/r/").nth(1).unwrap_or_else(|| panic!("no token: {reply}"));
    let token = token.trim_end_matches(')').to_owned();
    let reference = reply.split("(ref ").nth(1).unwrap()[..9].to_owned();
    let accounts = fs::read_to_string(case.daemon.folder().join("accounts.toml")).unwrap();
    let hash = accounts.split('"').find(|word| word.starts_with("$argon2")).unwrap();
    let key = fs::read_to_string(case.daemon.folder().join("key.pem")).unwrap();
    let plain = BASE64_STANDARD.encode(format!("\0postern\0{SMARTHOST_PASSWORD}"));
    let bounce = format!(
        "From: postmaster@mail.proseware.test\r\nSubject: returned\r\n\r\n<carol@adatum.test>: host mx.adatum.test said: {reply}\r\n\
         C: AUTH PLAIN {plain}\r\nalice:{hash}\r\nmy password: {PASTED}\r\nsmtp://u:{PASTED}@relay.test\r\n{key}\r\n\
         and that was {SMARTHOST_PASSWORD}, {token}\r\nthe end\r\n"
    );
    let returned = case.daemon.folder().join("returned.eml");
    fs::write(&returned, bounce).unwrap();
    let archive = case.daemon.folder().join("case.tar");
    let about = ["--bounce", returned.to_str().unwrap(), "--ref", &reference];
    let output = bundle(&case.daemon, &about, &archive);
    assert_eq!(output.code, 0, "{output:?}");
    case.assert_no_secret("the archive", &fs::read(&archive).unwrap(), &[&token]);

    let unpacked = case.daemon.folder().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    let tar = Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&unpacked).status().unwrap();
    assert!(tar.success());
    let files = contents(&unpacked.join("postern-case"));
    let listed = output.json();
    assert_eq!(files.len(), listed["files"].as_array().unwrap().len(), "{listed}");
    let bounce = text_of(&files, "bounce.eml");
    assert!(
        bounce.contains("host mx.adatum.test said: 550 5.7.1") && bounce.ends_with("the end\r\n"),
        "{bounce}"
    );
    assert!(text_of(&files, "explanation.json").contains("carol@adatum.test"));
    assert!(text_of(&files, "refusal.json").contains(&reference));
    assert!(text_of(&files, "history.json").contains(&case.id), "what is known of the recipient goes along");
}

#[test]
fn every_example_of_the_page_runs() {
    let case = Case::new();
    let mut client = Client::connect(case.daemon.mx());
    client.ehlo();
    client.expect("MAIL FROM:<x@client.test>", 250);
    let reply = client.command("RCPT TO:<carol@adatum.test>").text();
    let reference = &reply.split("(ref ").nth(1).unwrap()[..9];
    let returned = case.daemon.folder().join("returned.eml");
    fs::write(&returned, "550 5.7.1 <carol@adatum.test>: refused\r\n").unwrap();
    let page = fs::read_to_string(repository().join("docs/doctor.md")).unwrap();
    let mut seen = 0;
    for line in page.lines().filter(|line| line.starts_with("posternctl doctor")) {
        let output = case.daemon.folder().join(format!("{seen}"));
        let own = |word: &str| match word {
            "01N2K3P4Q5R6S" => case.id.clone(),
            "4QX7-93KD" => reference.to_owned(),
            "returned.eml" => returned.display().to_string(),
            "case.tar" | "case" => format!("{}-{word}", output.display()),
            _ => word.to_owned(),
        };
        let words: Vec<String> = line.split_whitespace().skip(1).map(own).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = case.daemon.ctl(&words);
        let ends = if words[1..].first() == Some(&"bundle") { 0..=0 } else { 0..=1 };
        assert!(ends.contains(&output.code) && !output.stdout.is_empty(), "{line}: {output:?}");
        seen += 1;
    }
    assert!(seen > 10, "the examples are gone");
    let both = case.daemon.ctl(&["doctor", "--verbose", "senders"]);
    assert_eq!(both.code, 2, "an option of all steps is not quietly left out: {both:?}");
}

#[test]
fn a_bundle_can_be_made_without_the_daemon() {
    let mut case = Case::new();
    case.daemon.kill();
    let archive = case.daemon.folder().join("case.tar");
    let output = bundle(&case.daemon, &["--message", &case.id], &archive);
    assert_eq!(output.code, 4, "{output:?}");
    assert!(output.json()["unreachable"].as_str().unwrap().contains("no daemon answers"), "{output:?}");
    let content = fs::read(&archive).unwrap();
    case.assert_no_secret("the archive", &content, &[]);
    assert!(String::from_utf8_lossy(&content).contains("<carol@adatum.test>: refused"));
}
