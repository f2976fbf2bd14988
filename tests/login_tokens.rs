//! Tokens in the place of passwords: OAUTHBEARER and XOAUTH2, an identity provider of the tests' own, and tokens that are wrong.

mod clients;
mod over_tls;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine as _};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value as Json, json};

use crate::harness::client::{Reply, message};
use crate::harness::{Client, Daemon, Setup};
use crate::login_sources::example;

const ALICE: &str = "alice@proseware.test";
const BOB: &str = "bob@proseware.test";
const ISSUER: &str = "https://id.proseware.test/realms/mail";
const AUDIENCE: &str = "postern";
/// Nobody is banned, and answers come at once, so that many wrong tokens can be tried.
const PATIENT: &str = "[auth.guessing]\nmax_failures = 0\ndelay = \"0s\"\n";

/// An identity provider: what it answers to GET and POST, and what it was asked.
struct Provider {
    address: SocketAddr,
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    keys: String,
    /// Status and body for each token.
    tokens: Vec<(String, String)>,
    is_broken: bool,
    /// Questions come, and no answer goes.
    stalls: bool,
    asked: usize,
    connections: usize,
    authorization: String,
    /// Of the next connections; in clear without.
    tls: Option<Arc<ServerConfig>>,
}

impl Provider {
    fn start(keys: &[Json]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { keys: json!({ "keys": keys }).to_string(), ..State::default() };
        let shared = Arc::new((Mutex::new(state), Condvar::new()));
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut state = serving.0.lock().unwrap();
                state.connections += 1;
                let (tls, shared) = (state.tls.clone(), Arc::clone(&serving));
                thread::spawn(move || match tls {
                    None => serve(stream, &shared),
                    Some(tls) => {
                        serve(StreamOwned::new(ServerConnection::new(tls).unwrap(), stream), &shared);
                    }
                });
            }
        });
        Self { address, shared }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared.0.lock().unwrap()
    }

    fn resume(&self) {
        self.state().stalls = false;
        self.shared.1.notify_all();
    }

    fn publish(&self, keys: &[Json]) {
        self.state().keys = json!({ "keys": keys }).to_string();
    }

    /// The example of the documentation, for this provider.
    fn table(&self, heading: &str) -> String {
        let example = example(heading, "toml");
        let table = &example[example.find("[auth.oauth]").unwrap()..];
        table.replace("https://id.proseware.test/realms/mail/", &format!("http://{}/", self.address))
    }
}

fn serve(stream: impl Read + Write, shared: &(Mutex<State>, Condvar)) {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut length, mut start, mut authorization) = (0, String::new(), String::new());
        if reader.read_line(&mut start).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            match name.to_lowercase().as_str() {
                "content-length" => length = value.parse().unwrap(),
                "authorization" => authorization = value.to_owned(),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let body = String::from_utf8(body).unwrap();
        let (state, resumed) = shared;
        let mut state = state.lock().unwrap();
        state.asked += 1;
        state.authorization = authorization;
        let answer = match start.starts_with("POST") {
            true => {
                let known =
                    state.tokens.iter().find(|(token, _)| body.starts_with(&format!("token={token}&")));
                known.map_or_else(|| "{\"active\":false}".to_owned(), |(_, answer)| answer.clone())
            }
            false => state.keys.clone(),
        };
        let status = if state.is_broken { "503 Service Unavailable" } else { "200 OK" };
        while state.stalls {
            state = resumed.wait(state).unwrap();
        }
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        if reader.get_mut().write_all((head + &answer).as_bytes()).is_err() {
            return;
        }
    }
}

/// Something that signs.
enum Signer {
    Rs256(RsaKeyPair),
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
}

impl Signer {
    fn all() -> [(&'static str, Self); 3] {
        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        [
            ("rsa", Self::Rs256(rsa)),
            ("ec", Self::Es256(ec)),
            ("ed", Self::EdDsa(Ed25519KeyPair::generate().unwrap())),
        ]
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Rs256(_) => "RS256",
            Self::Es256(_) => "ES256",
            Self::EdDsa(_) => "EdDSA",
        }
    }

    /// The public key, as a provider publishes it.
    fn key(&self, id: &str) -> Json {
        let encode = |octets: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(octets);
        match self {
            Self::Rs256(pair) => {
                // SEQUENCE { INTEGER n, INTEGER e }, n with a leading zero.
                let der: &[u8] = pair.public_key().as_ref();
                let (n, e) = (&der[9..265], &der[267..270]);
                json!({ "kty": "RSA", "kid": id, "use": "sig", "alg": "RS256", "n": encode(n), "e": encode(e) })
            }
            Self::Es256(pair) => {
                let point = pair.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "kid": id, "x": encode(&point[1..33]), "y": encode(&point[33..]) })
            }
            Self::EdDsa(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": id, "x": encode(pair.public_key().as_ref()) })
            }
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
            Self::Es256(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::EdDsa(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    fn token(&self, id: &str, claims: &Json) -> String {
        let unsigned = unsigned(&json!({ "alg": self.algorithm(), "kid": id, "typ": "at+jwt" }), claims);
        format!("{unsigned}.{}", BASE64_URL_SAFE_NO_PAD.encode(self.sign(unsigned.as_bytes())))
    }
}

fn unsigned(header: &Json, claims: &Json) -> String {
    let encode = |part: &Json| BASE64_URL_SAFE_NO_PAD.encode(part.to_string());
    format!("{}.{}", encode(header), encode(claims))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Claims that are good, with these changes; null takes one away.
fn claims(changes: &Json) -> Json {
    let mut claims = json!({
        "iss": ISSUER, "aud": [AUDIENCE, "calendar"], "sub": "4711", "email": ALICE, "email_verified": true,
        "iat": now(), "nbf": now(), "exp": now() + 300, "scope": "openid mail",
    });
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Json::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

/// Under TLS, after EHLO.
fn client(daemon: &Daemon) -> Client {
    let mut client = Client::connect(daemon.submission());
    client.ehlo();
    client.start_tls();
    client.ehlo();
    client
}

fn bearer(mechanism: &str, name: &str, token: &str) -> String {
    let message = match (mechanism, name) {
        ("XOAUTH2", name) => format!("user={name}\u{1}auth=Bearer {token}\u{1}\u{1}"),
        (_, "") => format!("n,,\u{1}auth=Bearer {token}\u{1}\u{1}"),
        (_, name) => {
            format!("n,a={name},\u{1}host=mail.proseware.test\u{1}port=587\u{1}auth=Bearer {token}\u{1}\u{1}")
        }
    };
    BASE64_STANDARD.encode(message)
}

/// The first answer, in a session of its own.
fn present(daemon: &Daemon, token: &str) -> (Client, Reply) {
    let mut client = client(daemon);
    let reply = client.command(&format!("AUTH OAUTHBEARER {}", bearer("OAUTHBEARER", ALICE, token)));
    (client, reply)
}

/// Refused as RFC 7628 §3.2.2 has it; answers what the client was told.
#[track_caller]
fn assert_refused(daemon: &Daemon, what: &str, token: &str) -> Json {
    let (mut client, challenge) = present(daemon, token);
    assert_eq!(challenge.code, 334, "{what}: {}", challenge.text());
    let told = BASE64_STANDARD.decode(&challenge.lines[0]).unwrap();
    let refused = client.command("AQ==");
    assert!(refused.text().starts_with("535 5.7.8"), "{what}: {}", refused.text());
    assert_eq!(client.command("NOOP").code, 250, "{what}");
    serde_json::from_slice(&told).unwrap()
}

#[test]
fn tokens_of_the_provider_are_taken_by_both_mechanisms() {
    let signers = Signer::all();
    let keys: Vec<Json> = signers.iter().map(|(id, signer)| signer.key(id)).collect();
    let provider = Provider::start(&keys);
    let daemon = Setup::new().with(&provider.table("Tokens")).start();
    let mut clear = Client::connect(daemon.submission());
    assert!(!clear.ehlo().text().contains("AUTH"), "never without TLS");
    let mut open = Client::connect_tls(daemon.submissions());
    assert!(open.ehlo().text().contains("AUTH PLAIN LOGIN OAUTHBEARER XOAUTH2"));
    for (id, signer) in &signers {
        let token = signer.token(id, &claims(&json!({})));
        for (mechanism, name) in
            [("OAUTHBEARER", ALICE), ("OAUTHBEARER", ""), ("XOAUTH2", "Alice@Proseware.test")]
        {
            let mut client = client(&daemon);
            // The token in a line of its own, or with the command.
            let reply = match name {
                "" => {
                    client.expect(&format!("AUTH {mechanism}"), 334);
                    client.command(&bearer(mechanism, name, &token))
                }
                name => client.command(&format!("AUTH {mechanism} {}", bearer(mechanism, name, &token))),
            };
            assert_eq!(reply.code, 235, "{id} {mechanism} {name}: {}", reply.text());
            assert_eq!(client.deliver(ALICE, &[BOB], &message(ALICE, BOB, id, "x")).code, 250);
            daemon.wait_for("login", |line| line["mechanism"] == mechanism && line["login"] == ALICE);
        }
    }
    assert_eq!(provider.state().asked, 1, "the keys are fetched once");
    // Tokens with many claims are long.
    let (id, signer) = &signers[0];
    let long = signer.token(id, &claims(&json!({ "groups": "x".repeat(5000) })));
    assert_eq!(present(&daemon, &long).1.code, 235);
}

#[test]
fn tokens_that_are_wrong_are_refused_and_the_log_says_why() {
    let [(_, rsa), (_, ec), _] = Signer::all();
    let provider = Provider::start(&[rsa.key("rsa"), ec.key("ec")]);
    let daemon = Setup::new().with(PATIENT).with(&provider.table("Tokens")).start();
    let with = |changes: Json| rsa.token("rsa", &claims(&changes));
    let good = with(json!({}));
    let header = |algorithm: &str| json!({ "alg": algorithm, "kid": "rsa" });
    let none = unsigned(&header("none"), &claims(&json!({})));
    // The public key as a secret: whoever verifies by what the token says takes it.
    let confused = unsigned(&header("HS256"), &claims(&json!({})));
    let Signer::Rs256(pair) = &rsa else { unreachable!() };
    let secret = hmac::Key::new(hmac::HMAC_SHA256, pair.public_key().as_ref());
    let tag = hmac::sign(&secret, confused.as_bytes());
    let (signed, _) = good.rsplit_once('.').unwrap();
    let forged = BASE64_URL_SAFE_NO_PAD.encode(ec.sign(signed.as_bytes()));
    for (what, token, why) in [
        ("issuer", with(json!({ "iss": "https://id.adatum.test" })), "another issuer"),
        ("issuer with a slash", with(json!({ "iss": format!("{ISSUER}/") })), "another issuer"),
        ("no issuer", with(json!({ "iss": null })), "another issuer"),
        ("audience", with(json!({ "aud": "calendar" })), "another audience"),
        ("audiences", with(json!({ "aud": ["calendar", "postern2"] })), "another audience"),
        ("no audience", with(json!({ "aud": null })), "another audience"),
        ("expired", with(json!({ "exp": now() - 120 })), "expired"),
        ("no end", with(json!({ "exp": null })), "at which it ends"),
        ("not yet", with(json!({ "nbf": now() + 300 })), "not valid yet"),
        ("somebody else", with(json!({ "email": BOB })), "another login's"),
        ("no login", with(json!({ "email": null })), "no claim `email`"),
        ("not verified", with(json!({ "email_verified": false })), "not verified"),
        ("no algorithm", format!("{none}."), "signed by \"none\""),
        (
            "shared secret",
            format!("{confused}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag)),
            "signed by \"HS256\"",
        ),
        ("another's signature", format!("{signed}.{forged}"), "signature is wrong"),
        ("no signature", format!("{signed}."), "signature is wrong"),
        ("no token", "opaque".to_owned(), "three parts"),
    ] {
        let told = assert_refused(&daemon, what, &token);
        assert_eq!(told["status"], "invalid_token", "{what}");
        assert!(told["openid-configuration"].as_str().unwrap().starts_with("http"), "{told}");
        daemon.wait_for_line(|line| line.contains("\"why\":") && line.contains(&why.replace('"', "\\\"")));
    }
    // An address elsewhere is no login here, whoever vouches for it.
    let elsewhere = with(json!({ "email": "alice@adatum.test" }));
    let mut client = client(&daemon);
    let reply =
        client.command(&format!("AUTH XOAUTH2 {}", bearer("XOAUTH2", "alice@adatum.test", &elsewhere)));
    assert_eq!(reply.code, 334);
    assert_eq!(client.command("").code, 535);
    assert_eq!(present(&daemon, &good).1.code, 235);
}

#[test]
fn wrong_tokens_are_guesses_and_expired_ones_are_not() {
    let [(_, rsa), ..] = Signer::all();
    let provider = Provider::start(&[rsa.key("rsa")]);
    let daemon = Setup::new()
        .with("[auth.guessing]\nban_loopback = true\nmax_failures = 3\ndelay = \"1ms\"\n")
        .with(&provider.table("Tokens"))
        .start();
    let expired = rsa.token("rsa", &claims(&json!({ "exp": now() - 120 })));
    for _ in 0..4 {
        assert_refused(&daemon, "expired", &expired);
    }
    assert_eq!(daemon.logged("banned"), 0);
    // Who goes away instead of reading why has guessed all the same.
    for _ in 0..3 {
        assert_eq!(present(&daemon, "opaque").1.code, 334);
    }
    daemon.wait_for("banned", |_| true);
}

/// Three guesses are banned, and answers come at once.
const STRICT: &str = "[auth.guessing]\nban_loopback = true\nmax_failures = 3\ndelay = \"0s\"\n";

#[test]
fn a_key_that_may_be_new_is_no_guess() {
    let [(_, old), (_, new), _] = Signer::all();
    let provider = Provider::start(&[old.key("old")]);
    let daemon = Setup::new().with(STRICT).with(&provider.table("Tokens")).start();
    assert_eq!(present(&daemon, &old.token("old", &claims(&json!({})))).1.code, 235);
    provider.publish(&[new.key("new")]);
    let [unknown, another] = [new.token("new", &claims(&json!({}))), new.token("old", &claims(&json!({})))];
    for token in [&unknown, &another, &unknown, &unknown] {
        let reply = present(&daemon, token).1;
        assert!(reply.text().starts_with("454 4.7.0"), "{}", reply.text());
    }
    assert_eq!(provider.state().asked, 1, "not asked again so soon");
    // Where it can be looked for, it is told that there is none, and that is no guess either.
    let table = provider.table("Tokens").replace("[auth.oauth]", "[auth.oauth]\nrefresh = \"1ms\"");
    let daemon = Setup::new().with(STRICT).with(&table).start();
    let taken_back = old.token("old", &claims(&json!({})));
    for _ in 0..4 {
        assert_refused(&daemon, "a key that was taken back", &taken_back);
    }
    daemon.wait_for_line(|line| line.contains("no such key"));
    assert_eq!(daemon.logged("banned"), 0);
    assert_eq!(present(&daemon, &unknown).1.code, 235);
}

#[test]
fn tokens_with_a_known_key_do_not_wait_for_a_slow_provider() {
    let [(_, known), (_, unknown), _] = Signer::all();
    let provider = Provider::start(&[known.key("known")]);
    let table = provider
        .table("Tokens")
        .replace("[auth.oauth]", "[auth.oauth]\nrefresh = \"1ms\"\ntimeout = \"600s\"");
    let daemon = Setup::new().with(PATIENT).with(&table).start();
    let good = known.token("known", &claims(&json!({})));
    assert_eq!(present(&daemon, &good).1.code, 235);
    let asked = provider.state().asked;
    provider.state().stalls = true;
    thread::scope(|scope| {
        let made_up = scope.spawn(|| present(&daemon, &unknown.token("made-up", &claims(&json!({})))).1.code);
        crate::harness::eventually("the provider is asked", || {
            (provider.state().asked > asked).then_some(())
        });
        let code = present(&daemon, &good).1.code;
        let is_waiting = !made_up.is_finished();
        provider.resume();
        assert_eq!((code, is_waiting), (235, true));
        assert_eq!(made_up.join().unwrap(), 334, "refused");
    });
}

/// A server that asks this provider about each token.
fn asking(provider: &Provider) -> Setup {
    let setup = Setup::new();
    let secret = setup.folder().join("secret");
    fs::write(&secret, "s:cret\n").unwrap();
    let table = provider
        .table("Asking about each token")
        .replace("/etc/postern/oauth-secret", secret.to_str().unwrap());
    setup.with(&table)
}

#[test]
fn a_token_that_is_not_active_is_no_guess() {
    let provider = Provider::start(&[]);
    let daemon = asking(&provider).with(STRICT).start();
    for _ in 0..4 {
        assert_refused(&daemon, "expired", "expired");
    }
    daemon.wait_for_line(|line| line.contains("not active"));
    assert_eq!(daemon.logged("banned"), 0);
}

#[test]
fn keys_change_and_the_provider_may_be_gone() {
    let [(_, old), (_, new), _] = Signer::all();
    let provider = Provider::start(&[]);
    provider.state().is_broken = true;
    let table = provider.table("Tokens").replace("[auth.oauth]", "[auth.oauth]\nrefresh = \"1ms\"");
    let daemon = Setup::new().with(&table).start();
    let (mine, next) = (old.token("old", &claims(&json!({}))), new.token("new", &claims(&json!({}))));
    let down = present(&daemon, &mine).1;
    assert!(down.text().starts_with("454 4.7.0"), "{}", down.text());
    daemon.wait_for("login-not-checked", |line| line["why"].as_str().is_some_and(|why| why.contains("503")));
    assert_eq!(daemon.logged("login-failed"), 0);
    provider.state().is_broken = false;
    provider.publish(&[old.key("old")]);
    crate::harness::eventually("the keys are fetched", || {
        (present(&daemon, &mine).1.code == 235).then_some(())
    });
    provider.publish(&[new.key("new")]);
    assert_eq!(present(&daemon, &next).1.code, 235, "a new key is fetched");
    assert_refused(&daemon, "a key that was taken back", &mine);
    // What is known holds while the provider is gone.
    provider.state().is_broken = true;
    assert_eq!(present(&daemon, &next).1.code, 235);
    assert_eq!(present(&daemon, &mine).1.code, 454, "it might have a new key");
}

#[test]
fn keys_are_read_from_a_file_again_when_it_changes() {
    let [(_, old), (_, new), _] = Signer::all();
    let setup = Setup::new();
    let file = setup.folder().join("jwks.json");
    let publish = |keys: &[Json]| fs::write(&file, json!({ "keys": keys }).to_string()).unwrap();
    publish(&[old.key("a")]);
    let table =
        format!("[auth.oauth]\nissuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\njwks_file = {file:?}\n");
    let daemon = setup.with(&table).start();
    assert_eq!(present(&daemon, &old.token("a", &claims(&json!({})))).1.code, 235);
    publish(&[old.key("a"), new.key("b")]);
    assert_eq!(present(&daemon, &new.token("b", &claims(&json!({})))).1.code, 235);
}

#[test]
fn a_provider_that_is_asked_about_each_token() {
    let provider = Provider::start(&[]);
    let answer = |changes: Json| {
        let mut answer = claims(&changes);
        answer["active"] = true.into();
        answer.to_string()
    };
    provider.state().tokens = vec![
        ("good".to_owned(), answer(json!({}))),
        ("elsewhere".to_owned(), answer(json!({ "aud": "calendar" }))),
        ("old".to_owned(), answer(json!({ "exp": now() - 120 }))),
        ("strange".to_owned(), "[]".to_owned()),
    ];
    let daemon = asking(&provider).with(PATIENT).start();
    for _ in 0..3 {
        assert_eq!(present(&daemon, "good").1.code, 235);
    }
    {
        let state = provider.state();
        let expected = format!("Basic {}", BASE64_STANDARD.encode("postern:s%3Acret"));
        assert_eq!((state.asked, state.connections, &state.authorization), (3, 1, &expected));
    }
    for token in ["elsewhere", "old", "unknown"] {
        assert_refused(&daemon, token, token);
    }
    assert_eq!(present(&daemon, "strange").1.code, 454);
    provider.state().is_broken = true;
    assert_eq!(present(&daemon, "good").1.code, 454);
}
