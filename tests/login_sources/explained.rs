//! `posternctl policy explain` about logins that only another system knows.

use super::{CARL, DovecotAuth, ELSEWHERE, QUICK, client, log_in};
use crate::harness::ctl::Output;
use crate::harness::{Daemon, Setup};

const CAROL: &str = "carol@adatum.test";

fn explain(daemon: &Daemon, user: &str, from: &str, more: &[&str]) -> Output {
    let client = daemon.submission().ip().to_string();
    let question = ["policy", "explain", "--client", &client, "--listener", "submission", "--tls"];
    daemon.ctl(&[&question[..], &["--user", user, "--from", from, "--to", CAROL], more].concat())
}

#[test]
fn they_are_treated_as_it_is_explained() {
    let Some(mut dovecot) = DovecotAuth::prepare("plain") else { return };
    dovecot.start();
    let daemon = Setup::new().with(QUICK).with(&dovecot.table()).start();
    let mut carl = client(&daemon);
    assert_eq!(carl.auth_plain(CARL, ELSEWHERE).code, 235);
    for from in [CARL, "bob@proseware.test"] {
        let reply = carl.command(&format!("MAIL FROM:<{from}>"));
        let is_taken = reply.code == 250 && carl.command(&format!("RCPT TO:<{CAROL}>")).code == 250;
        assert_eq!(is_taken, from == CARL, "{}", reply.text());
        carl.expect("RSET", 250);
        let explained = explain(&daemon, CARL, from, &[]);
        assert_eq!(explained.code, i32::from(!is_taken), "{explained:?}");
        assert!(explained.stdout.contains("known only to the back end"), "{explained:?}");
        // The file says the same, and neither asks the back end: a name that it does not know is no other.
        assert_eq!(explain(&daemon, CARL, from, &["--offline"]).code, explained.code);
    }
    let unknown = explain(&daemon, "nobody@proseware.test", "nobody@proseware.test", &[]);
    assert_eq!(unknown.code, 0, "{unknown:?}");

    // Dovecot knows alice without a domain, who has no address here.
    let live = log_in(&daemon, "alice", ELSEWHERE).without_reference();
    let explained = explain(&daemon, "alice", CARL, &[]);
    assert_eq!(explained.code, 1, "{explained:?}");
    for text in [live.as_str(), "no address in a [[domain]]", "[[account]] in accounts.toml"] {
        assert!(explained.stdout.contains(text), "{text:?} in {explained:?}");
    }
}
