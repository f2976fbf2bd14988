//! Other mail systems: hosts that speak for their clients, servers that come for their mail, hand-over by LMTP.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;

use crate::harness::client::message;
use crate::harness::mail::contains;
use crate::harness::mail_servers::peer;
use crate::harness::{Client, NextHop, Script, Setup, eventually, installed};

const ALICE: &str = "alice@proseware.test";
/// A proxy or filter in front of the server.
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 88, 0, 1);
const LISTS: &str = "[smtp]\nxclient_from = [\"127.88.0.1/32\"]\nxforward_from = [\"127.88.0.1/32\"]";

/// A session of the proxy.
fn proxy(address: SocketAddr) -> Client {
    let mut client = Client::connect_from(PROXY, address);
    client.ehlo();
    client
}

// XCLIENT.

#[test]
fn the_client_that_xclient_names_is_the_client() {
    let daemon = Setup::new().with(LISTS).with("[smtp]\nmax_connections_per_address = 1").start();
    let mut client = proxy(daemon.mx());
    client.expect("XCLIENT NAME=client.test ADDR=192.0.2.77 PORT=4711", 220);
    client.ehlo();
    client.expect("MAIL FROM:<a@client.test>", 250);
    let refused = client.expect("RCPT TO:<nobody@proseware.test>", 550).text();
    let reference = refused.split("(ref ").nth(1).unwrap().trim_end_matches(')').to_owned();
    let explained = daemon.ctl(&["explain", &reference]).stdout;
    assert!(explained.contains("192.0.2.77"));
    client.expect("RSET", 250);
    let content = message("a@client.test", ALICE, "handed-over", "hello");
    assert_eq!(client.deliver("a@client.test", &[ALICE], &content).code, 250);
    let mail = daemon.maildir(ALICE).wait_for("handed-over");
    assert!(contains(&mail.0, "([192.0.2.77])"), "{}", String::from_utf8_lossy(&mail.0));
    let line = daemon.wait_for("xclient", |line| line["client"] == "192.0.2.77");
    assert_eq!((line["host"].as_str(), line["name"].as_str()), (Some("127.88.0.1"), Some("client.test")));
    daemon.wait_for("accepted", |line| line["client"] == "192.0.2.77");

    // Its limits are its own, and those of the proxy are none.
    let mut again = proxy(daemon.mx());
    let said = again.command("XCLIENT ADDR=192.0.2.77").text();
    assert_eq!(said, "421 4.7.0 too many connections from your address");
    assert!(again.is_closed());
    let mut other = proxy(daemon.mx());
    other.expect("XCLIENT ADDR=192.0.2.78", 220);
    // The place of the first client is free when its session has gone on with another one.
    client.expect("XCLIENT ADDR=192.0.2.79", 220);
    other.expect("EHLO other.test", 250);
    other.expect("XCLIENT ADDR=192.0.2.77", 220);
}

#[test]
fn a_banned_client_is_kept_out_behind_a_proxy_too() {
    let daemon = Setup::new().with(LISTS).start();
    let ban = daemon.ctl(&["ban", "add", "203.0.113.0/24", "--ttl", "1h", "--reason", "flood"]);
    assert_eq!(ban.code, 0, "{}", ban.stderr);
    let mut client = proxy(daemon.mx());
    let said = client.command("XCLIENT ADDR=203.0.113.77").text();
    assert!(said.starts_with("421 4.7.0 "), "{said}");
    assert!(client.is_closed());
    proxy(daemon.mx()).expect("XCLIENT ADDR=198.51.100.7", 220);
}

#[test]
fn strangers_cannot_hand_over() {
    let daemon = Setup::new().with(LISTS).start();
    let mut client = Client::connect_from(Ipv4Addr::new(127, 88, 0, 2), daemon.mx());
    let greeting = client.ehlo();
    assert!(!greeting.offers("XCLIENT") && !greeting.offers("XFORWARD"));
    let said = client.expect("XCLIENT ADDR=192.0.2.77", 500).text();
    assert_eq!(said, client.expect("NONSENSE", 500).text());
    assert_eq!(daemon.logged("xclient"), 0);
}

// XFORWARD.

#[test]
fn the_log_and_the_history_say_where_a_forwarded_message_came_from() {
    let daemon = Setup::new().with(LISTS).start();
    let mut filter = proxy(daemon.mx());
    filter.expect("XFORWARD NAME=spike.client.test ADDR=192.0.2.77 PROTO=ESMTP", 250);
    filter.expect("XFORWARD HELO=spike IDENT=4F2A1 SOURCE=REMOTE", 250);
    let content = message("a@client.test", ALICE, "filtered", "hello");
    let id = filter.deliver("a@client.test", &[ALICE], &content).queue_id();
    let line = daemon.wait_for("accepted", |line| line["id"] == id.as_str());
    assert_eq!(line["client"], "127.88.0.1");
    let said = "NAME=spike.client.test ADDR=192.0.2.77 PROTO=ESMTP HELO=spike IDENT=4F2A1 SOURCE=REMOTE";
    assert_eq!(line["forwarded"], said);
    let mail = daemon.maildir(ALICE).wait_for("filtered");
    assert!(
        contains(&mail.0, "([127.88.0.1])") && !contains(&mail.0, "192.0.2.77"),
        "decides and claims nothing"
    );
    let history = eventually("the end of the message in the history", || {
        let history = daemon.ask(&["message", "history", &id]);
        history["messages"][0]["events"]
            .as_array()
            .is_some_and(|events| !events.is_empty())
            .then_some(history)
    });
    let story = &history["messages"][0];
    assert_eq!(
        (story["client"].as_str(), story["forwarded"].as_str()),
        (Some("127.88.0.1"), Some("spike.client.test [192.0.2.77]"))
    );

    // It was about that message alone.
    let second = filter.deliver("a@client.test", &[ALICE], &content).queue_id();
    let line = daemon.wait_for("accepted", |line| line["id"] == second.as_str());
    assert_eq!(line.get("forwarded"), None);
}

// ETRN.

#[test]
fn a_server_that_is_back_asks_for_its_mail() {
    let mut hop = NextHop::start(Script::default());
    hop.go_down();
    // Without ETRN the next attempt is hours away.
    let settings = "[smtp]\netrn_from = [\"127.88.0.0/16\"]\n\
                    [queue]\nretry = { first = \"3h\", cap = \"4h\" }\n\
                    [outbound]\ndestination_back_off = \"1h\"\ndestination_back_off_cap = \"2h\"\n\
                    [relay]\nrelay_domains = [{ name = \"adatum.test\" }]";
    let daemon = Setup::new().next_hop("adatum.test", &hop).with(settings).start();
    let mut sender = Client::connect(daemon.mx());
    sender.ehlo();
    let content = message("a@client.test", "carol@adatum.test", "waits", "hello");
    assert_eq!(sender.deliver("a@client.test", &["carol@adatum.test"], &content).code, 250);
    daemon.wait_in_queue("a message that was tried", |message| {
        message["recipients"][0]["attempts"].as_u64() > Some(0)
            && message["recipients"][0]["state"] == "deferred"
    });
    sender.expect("ETRN adatum.test", 502);

    hop.come_up();
    let mut client = proxy(daemon.mx());
    let said = client.expect("ETRN adatum.test", 253).text();
    assert_eq!(said, "253 2.0.0 Ok: 1 messages for adatum.test started");
    assert!(contains(&hop.wait_for_message().mail.0, "waits"));
    daemon.wait_for_empty_queue();
    assert_eq!(
        client.expect("ETRN adatum.test", 458).text(),
        "458 4.7.0 the queue for adatum.test is run once in 60 s: try again later"
    );
    client.expect("ETRN proseware.test", 459);
    let line = daemon.wait_for("etrn", |line| line["node"] == "adatum.test");
    assert_eq!((line["client"].as_str(), line["started"].as_u64()), (Some("127.88.0.1"), Some(1)));
}

// LMTP.

/// Hands a message over to three recipients, the second of which is refused; prints the replies to the message.
const LMTP_CLIENT: &str = "import smtplib, sys\n\
    client = smtplib.LMTP(sys.argv[1], local_hostname='filter.client.test')\n\
    client.ehlo_or_helo_if_needed()\n\
    client.mail('a@client.test')\n\
    codes = [client.rcpt(to)[0] for to in sys.argv[2:]]\n\
    client.putcmd('data'); client.getreply()\n\
    client.send(b'Subject: by-lmtp\\r\\n\\r\\nhello\\r\\n.\\r\\n')\n\
    codes += [client.getreply()[0] for code in codes if code == 250]\n\
    client.quit()\n\
    print(*codes)";

#[test]
fn a_client_hands_mail_over_on_a_unix_socket() {
    let Some(python) = peer("python3", installed("python3")) else { return };
    let setup = Setup::new();
    let socket = setup.folder().join("run/lmtp.sock");
    let listener =
        format!("[[listener]]\nkind = \"lmtp\"\naddress = \"unix:{}\"\nmode = \"0606\"", socket.display());
    let mut daemon = setup.with(&listener).start();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o606);
    let recipients = [ALICE, "carol@adatum.test", "bob@proseware.test"];
    let output =
        Command::new(python).args(["-c", LMTP_CLIENT]).arg(&socket).args(recipients).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "250 550 250 250 250", "{output:?}");
    for mailbox in [ALICE, "bob@proseware.test"] {
        let mail = daemon.maildir(mailbox).wait_for("by-lmtp");
        assert!(mail.field("Received").contains("from filter.client.test (local)"), "{}", mail.header());
        assert!(mail.field("Received").contains("with LMTP id"), "{}", mail.header());
    }
    let line = daemon.wait_for("accepted", |line| line["listener"] == "lmtp");
    assert_eq!((line["client"].as_str(), line["to"].as_u64()), (Some("local"), Some(2)));
    daemon.wait_for("refused", |line| line["client"] == "local" && line["to"] == "carol@adatum.test");

    // One that a crash leaves is replaced, and none is left in the end.
    daemon.kill();
    assert!(socket.exists() && UnixStream::connect(&socket).is_err());
    daemon.start();
    assert!(UnixStream::connect(&socket).is_ok());
    assert!(daemon.terminate().success());
    assert!(!socket.exists());
}

#[test]
fn whoever_may_use_the_socket_relays_only_where_loopback_is_trusted() {
    let Some(python) = peer("python3", installed("python3")) else { return };
    let setup = Setup::new().trust("127.0.0.1/32");
    let socket = setup.folder().join("lmtp.sock");
    let listener = format!("[[listener]]\nkind = \"lmtp\"\naddress = \"unix:{}\"", socket.display());
    let hop = NextHop::start(Script::default());
    let _daemon = setup.next_hop("adatum.test", &hop).with(&listener).start();
    let output = Command::new(python)
        .args(["-c", LMTP_CLIENT])
        .arg(&socket)
        .arg("carol@adatum.test")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "250 250", "{output:?}");
    assert!(contains(&hop.wait_for_message().mail.0, "by-lmtp"));
}
