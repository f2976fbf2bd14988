//! Configuration files: they load, or there is a list of what is wrong with them. `#### conf.d` and `#### accounts` on a line of their
//! own begin other files. What loads can be put into force, and does not relay for the world unless it says so.
#![no_main]

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use postern_config::{Config, ListenerKind};
use postern_policy::Policy;
use postern_policy::relay::{Question, Stage, Verdict, decide};
use postern_smtp::{ForwardPath, ReversePath};
use postern_smtp_inbound::tls;
use tempfile::TempDir;

struct Place {
    folder: TempDir,
    main: PathBuf,
    part: PathBuf,
    accounts: PathBuf,
}

/// Anywhere: a network that somebody owns alone has one of them at most.
const ANYWHERE: [&str; 8] = [
    "24.1.2.3",
    "45.67.89.10",
    "81.2.3.4",
    "133.5.6.7",
    "193.6.7.8",
    "210.9.8.7",
    "2a01:4f8::9",
    "2600:1f00::8",
];
/// One of each address family.
const MOST: usize = 2;

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let folder = TempDir::new().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("conf.d")).expect("a folder in it");
    for name in ["mail.proseware.test", "mail.adatum.test"] {
        let issued = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        std::fs::write(at(&format!("{name}.pem")), issued.cert.pem()).expect("a file in it");
        std::fs::write(at(&format!("{name}.key")), issued.signing_key.serialize_pem()).expect("a file in it");
    }
    Place { main: at("postern.toml"), part: at("conf.d/10-part.toml"), accounts: at("accounts.toml"), folder }
});

fuzz_target!(|text: &[u8]| {
    let text = String::from_utf8_lossy(text);
    let (text, accounts) = text.split_once("\n#### accounts\n").unwrap_or((&text, ""));
    let (main, part) = text.split_once("\n#### conf.d\n").unwrap_or((text, ""));
    for (path, text) in [(&PLACE.main, main), (&PLACE.part, part), (&PLACE.accounts, accounts)] {
        std::fs::write(path, text).expect("the file is written");
    }
    match postern_config::load(&PLACE.main) {
        Ok(loaded) => {
            assert!(!loaded.config.listeners.is_empty());
            let is_meant = text.contains("accept_open_relay_risk");
            in_force(&loaded.config, is_meant);
        }
        Err(error) => {
            let told = error.to_string();
            assert!(!told.is_empty());
            let place = PLACE.folder.path().to_string_lossy();
            assert!(told.contains(&*place) || told.contains("postern.toml"), "it does not say where: {told}");
        }
    }
});

fn in_force(config: &Config, is_open: bool) {
    let policy = Policy::new(config);
    if let Some(config) = &config.tls {
        let tickets = Arc::new(tls::Tickets::new().expect("random numbers"));
        let _ = tls::load(config, Vec::new(), &tickets);
    }
    let sender = ReversePath::parse("a@stranger-7f3a.example").expect("an address");
    let recipient = ForwardPath::parse("b@elsewhere-7f3a.example").expect("an address");
    let relays = |listener: ListenerKind, client: &str| {
        let question = Question {
            listener,
            client: client.parse::<IpAddr>().expect("an address"),
            local: None,
            tls: true,
            certificate: None,
            login: None,
            helo: Some("stranger-7f3a.example"),
            now: UNIX_EPOCH + Duration::from_secs(1_795_284_325),
            recipients: 0,
            reverse_path: &sender,
            stage: Stage::Rcpt(&recipient),
        };
        decide(&question, &policy).verdict == Verdict::Accept
    };
    for listener in [ListenerKind::Mx, ListenerKind::Submission, ListenerKind::Lmtp] {
        let open = ANYWHERE.iter().filter(|client| relays(listener, client)).count();
        assert!(is_open || open <= MOST, "an open relay: {open} of {} strangers", ANYWHERE.len());
    }
}
