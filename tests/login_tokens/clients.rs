//! Other people's mail programs, with tokens.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::{ALICE, PATIENT, Provider, Signer, claims};
use crate::harness::client::message;
use crate::harness::mail_servers::peer;
use crate::harness::{Daemon, NextHop, Script, Setup, installed};
use serde_json::json;

const CAROL: &str = "carol@adatum.test";
const MECHANISMS: [&str; 2] = ["OAUTHBEARER", "XOAUTH2"];

/// A server, its next hop, a message in a file, and tokens in files.
struct Site {
    daemon: Daemon,
    hop: NextHop,
    signer: Signer,
    _provider: Provider,
}

impl Site {
    /// That offers both.
    fn new() -> Self {
        Self::offering(&MECHANISMS)
    }

    fn offering(mechanisms: &[&str]) -> Self {
        let [(_, signer), ..] = Signer::all();
        let provider = Provider::start(&[signer.key("rsa")]);
        let hop = NextHop::start(Script::default());
        let setup = Setup::new().next_hop("adatum.test", &hop).with(PATIENT).with(&provider.table("Tokens"));
        let mechanisms: Vec<String> = mechanisms.iter().map(|name| name.to_lowercase()).collect();
        let daemon = setup.with(&format!("[auth]\nmechanisms = {mechanisms:?}")).start();
        fs::write(daemon.folder().join("message.eml"), message(ALICE, CAROL, "by-token", "x")).unwrap();
        Self { daemon, hop, signer, _provider: provider }
    }

    /// A token for this service, in a file.
    fn good(&self) -> PathBuf {
        self.token("good", &json!({}))
    }

    /// A token for another service.
    fn bad(&self) -> PathBuf {
        self.token("bad", &json!({ "aud": "calendar" }))
    }

    fn token(&self, name: &str, changes: &serde_json::Value) -> PathBuf {
        let file = self.daemon.folder().join(name);
        fs::write(&file, self.signer.token("rsa", &claims(changes))).unwrap();
        file
    }

    fn file(&self, name: &str) -> String {
        self.daemon.folder().join(name).display().to_string()
    }

    /// Sends with a token that is taken, and one that is not, by this mechanism.
    fn sends(&self, mechanism: &str, send: impl Fn(PathBuf) -> Output) {
        let arrived = self.hop.received().len();
        let sent = send(self.good());
        assert!(sent.status.success(), "{mechanism}: {}", String::from_utf8_lossy(&sent.stderr));
        let received = self.hop.wait_for_count(arrived + 1);
        assert_eq!(received[arrived].mail.field("Subject"), "by-token");
        self.daemon.wait_for("login", |line| line["mechanism"] == mechanism && line["login"] == ALICE);

        let refused = send(self.bad());
        assert!(!refused.status.success(), "{mechanism}: {refused:?}");
        self.daemon.wait_for("login-failed", |line| {
            line["mechanism"] == mechanism
                && line["why"].as_str().is_some_and(|why| why.contains("another audience"))
        });
        assert_eq!(self.hop.received().len(), arrived + 1);
    }
}

/// What curl does with this token.
fn curl(curl: &Path, site: &Site, scheme: &str, token: PathBuf) -> Output {
    let address = if scheme == "smtps" { site.daemon.submissions() } else { site.daemon.submission() };
    Command::new(curl)
        .args(["--silent", "--show-error", "--max-time", "30", "--ssl-reqd", "--user", ALICE])
        .args(["--cacert", &site.file("ca.pem"), "--url", &format!("{scheme}://{address}/client.test")])
        .args(["--oauth2-bearer", &fs::read_to_string(token).unwrap()])
        .args(["--mail-from", ALICE, "--mail-rcpt", CAROL, "--upload-file", &site.file("message.eml")])
        .output()
        .unwrap()
}

#[test]
fn curl_logs_in_with_a_token() {
    let Some(program) = peer("curl", installed("curl")) else { return };
    for scheme in ["smtp", "smtps"] {
        // It takes OAUTHBEARER where it can, whatever its options say.
        for (offered, chosen) in [
            (&MECHANISMS[..], "OAUTHBEARER"),
            (&["PLAIN", "OAUTHBEARER"], "OAUTHBEARER"),
            (&["PLAIN", "XOAUTH2"], "XOAUTH2"),
        ] {
            let site = Site::offering(offered);
            site.sends(chosen, |token| curl(&program, &site, scheme, token));
        }
    }
}

#[test]
fn msmtp_logs_in_with_a_token() {
    let Some(msmtp) = peer("msmtp", installed("msmtp")) else { return };
    for (implicit_tls, starttls) in [(false, "on"), (true, "off")] {
        let site = Site::new();
        let address = if implicit_tls { site.daemon.submissions() } else { site.daemon.submission() };
        for mechanism in MECHANISMS {
            site.sends(mechanism, |token| {
                Command::new(&msmtp)
                    .args([
                        "--file=/dev/null",
                        "--tls=on",
                        "--timeout=30",
                        &format!("--tls-starttls={starttls}"),
                    ])
                    .args([format!("--host={}", address.ip()), format!("--port={}", address.port())])
                    .args([format!("--tls-trust-file={}", site.file("ca.pem")), format!("--user={ALICE}")])
                    .arg(format!("--auth={}", mechanism.to_lowercase()))
                    .args([format!("--passwordeval=cat {}", token.display()), format!("--from={ALICE}")])
                    .arg(CAROL)
                    .stdin(fs::File::open(site.file("message.eml")).unwrap())
                    .output()
                    .unwrap()
            });
        }
    }
}
