//! An identity provider whose certificate is of an authority of one's own.

use std::fs;

use serde_json::json;

use super::{Provider, STRICT, Signer, claims, present};
use crate::harness::tls::Identity;
use crate::harness::{Daemon, Setup, eventually};

/// What the example of the documentation is called.
const HEADING: &str = "A provider with a certificate of your own authority";

/// Certificates that prove nothing, and what the log says of each.
fn bad_identities() -> [(Identity, &'static str); 3] {
    [
        (Identity::expired(&["127.0.0.1"]), "certificate expired"),
        (Identity::new(&["id.adatum.test"]), "not valid for name"),
        (Identity::self_signed(&["127.0.0.1"]), "UnknownIssuer"),
    ]
}

fn good_identity() -> Identity {
    Identity::new(&["127.0.0.1"])
}

impl Provider {
    /// Further connections are made under TLS, with this certificate.
    fn show(&self, identity: &Identity) {
        self.state().tls = Some(identity.server_config());
    }

    /// The example of the documentation, for this provider and the authority in this folder.
    fn table_over_tls(&self, heading: &str, setup: &Setup) -> String {
        let ca_file = setup.folder().join("ca.pem");
        let table = self.table(heading).replace("http://", "https://");
        table.replace("/etc/postern/provider-ca.pem", ca_file.to_str().unwrap())
    }
}

/// More often than guesses are taken: nobody knows whether the token is good.
fn assert_not_checked(daemon: &Daemon, token: &str, why: &str) {
    for _ in 0..4 {
        let reply = present(daemon, token).1;
        assert!(reply.text().starts_with("454 4.7.0"), "{why}: {}", reply.text());
    }
    let told = daemon
        .wait_for("login-not-checked", |line| line["why"].as_str().is_some_and(|told| told.contains(why)));
    let told = told["why"].as_str().unwrap();
    assert!(
        told.contains("https://127.0.0.1:") && told.contains("ca.pem"),
        "where, and what is believed: {told}"
    );
    assert_eq!((daemon.logged("login-failed"), daemon.logged("banned")), (0, 0), "{why}");
}

#[test]
fn keys_come_only_from_a_provider_that_proves_its_name() {
    let [(_, rsa), ..] = Signer::all();
    let provider = Provider::start(&[rsa.key("rsa")]);
    let token = rsa.token("rsa", &claims(&json!({})));
    for (identity, why) in bad_identities() {
        provider.show(&identity);
        let setup = Setup::new().with(STRICT);
        let table = provider.table_over_tls(HEADING, &setup);
        let daemon = setup.with(&table).start();
        assert_not_checked(&daemon, &token, why);
        daemon.wait_for("oauth-keys-not-fetched", |line| line["why"].as_str().unwrap().contains(why));
        assert_eq!(provider.state().asked, 0, "{why}: nothing is said to it");

        provider.show(&good_identity());
        eventually("the keys are fetched", || (present(&daemon, &token).1.code == 235).then_some(()));
        assert_eq!(std::mem::take(&mut provider.state().asked), 1);
    }
}

#[test]
fn a_provider_is_asked_about_tokens_only_when_it_proves_its_name() {
    let provider = Provider::start(&[]);
    let setup = Setup::new().with(STRICT);
    let secret = setup.folder().join("secret");
    fs::write(&secret, "s:cret\n").unwrap();
    let ca_file = format!("[auth.oauth]\nca_file = {:?}\n", setup.folder().join("ca.pem"));
    let table = provider
        .table_over_tls("Asking about each token", &setup)
        .replace("/etc/postern/oauth-secret", secret.to_str().unwrap());
    let mut answer = claims(&json!({}));
    answer["active"] = true.into();
    provider.state().tokens = vec![("good".to_owned(), answer.to_string())];
    let daemon = setup.with(&table).with(&ca_file).start();
    for (identity, why) in bad_identities() {
        provider.show(&identity);
        assert_not_checked(&daemon, "good", why);
    }
    assert_eq!(provider.state().asked, 0, "no token and no secret went out");
    provider.show(&good_identity());
    assert_eq!(present(&daemon, "good").1.code, 235);
}

#[test]
fn a_file_of_authorities_without_one_is_named() {
    let [(_, rsa), ..] = Signer::all();
    let provider = Provider::start(&[rsa.key("rsa")]);
    provider.show(&good_identity());
    let setup = Setup::new().with(STRICT);
    let table = provider.table_over_tls(HEADING, &setup);
    let daemon = setup.with(&table).start();
    // Emptied behind the server's back: it is read with each connection.
    fs::write(daemon.folder().join("ca.pem"), "").unwrap();
    assert_not_checked(&daemon, &rsa.token("rsa", &claims(&json!({}))), "there is no certificate in it");
}
