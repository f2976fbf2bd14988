//! What a client says (`C:`) and what it hears (`S:`), as `tests/dialogues/*.smtp` have it.
//!
//! A dialogue begins with directives: `listener` (mx, submission, submissions), `client` (an address), `tls` (on, off, or bound:
//! a login can be bound to it), `hello` (a name: EHLO is already over), `config` (a file of this directory), `certificate` (none),
//! `passwords` (unavailable), and as often as wanted `known`: see [`know`]. `#` begins a comment. Lines of `C:` that follow each
//! other are sent in one piece; `\r`, `\n`, `\0`, `\xNN` and `\\` are escapes, `\*70a` is seventy times "a", and a line ends with
//! CRLF unless `\` ends it. `S:` lines must be the whole reply; `*` stands for anything. `S: -` ends the connection.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use postern_config::ListenerKind;
use postern_policy::owners_lock::OwnersLock;
use postern_policy::scram::ChannelBindings;
use postern_policy::sender_domains::SenderPolicy;
use postern_policy::standing::bans::Ban;
use postern_policy::standing::blocklists::Answered;
use postern_policy::verification::{DomainReport, Finding, Outcome, State, Weight};
use postern_queue::Filter;
use postern_queue::rules::{NewRule, RuleAction};
use postern_smtp::Domain;
use postern_smtp_inbound::Shared;
use postern_smtp_inbound::session::Peer;
use tokio::task::JoinSet;

use crate::player::{Player, TLS};
use crate::support::{NOW, Server, now};

/// Where the dialogues are.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues")
}

/// All dialogues, by the names of their files.
fn all() -> BTreeMap<String, Dialogue> {
    let files = std::fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path());
    let named = files.filter_map(|file| {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        name.ends_with(".smtp").then(|| (name, Dialogue::parse(&std::fs::read_to_string(&file).unwrap())))
    });
    let all: BTreeMap<_, _> = named.collect();
    assert!(all.len() >= 25, "only {} dialogues found", all.len());
    all
}

/// Plays all of them: what each client heard, or how it went otherwise than it is written. Most of the time goes to the disk, so
/// they are played at once.
pub async fn play_all() -> BTreeMap<String, Result<Vec<String>, String>> {
    let mut playing = JoinSet::new();
    for (name, dialogue) in all() {
        playing.spawn(async move { (name, dialogue.play().await) });
    }
    playing.join_all().await.into_iter().collect()
}

/// One of them.
pub struct Dialogue {
    listener: ListenerKind,
    client: IpAddr,
    tls: bool,
    is_bound: bool,
    hello: Option<String>,
    config: String,
    certificate: bool,
    passwords: bool,
    known: Vec<String>,
    turns: Vec<Turn>,
}

/// What is said at once, and the reply lines to it.
#[derive(Default)]
struct Turn {
    line: usize,
    said: Vec<u8>,
    heard: Vec<String>,
}

impl Dialogue {
    fn parse(text: &str) -> Self {
        let mut dialogue = Self {
            listener: ListenerKind::Mx,
            client: "198.51.100.9".parse().unwrap(),
            tls: false,
            is_bound: false,
            hello: None,
            config: "default.toml".to_owned(),
            certificate: true,
            passwords: true,
            known: Vec::new(),
            turns: vec![Turn::default()],
        };
        for (at, line) in text.lines().enumerate() {
            let turn = dialogue.turns.last_mut().unwrap();
            if let Some(said) = line.strip_prefix("C:") {
                if !turn.heard.is_empty() {
                    dialogue.turns.push(Turn { line: at + 1, said: unescape(said), heard: Vec::new() });
                } else {
                    turn.line = at + 1;
                    turn.said.extend(unescape(said));
                }
            } else if let Some(heard) = line.strip_prefix("S: ") {
                turn.heard.push(heard.to_owned());
            } else if !line.is_empty() && !line.starts_with('#') {
                dialogue.direct(line);
            }
        }
        dialogue
    }

    fn direct(&mut self, line: &str) {
        let (name, value) =
            line.split_once(": ").unwrap_or_else(|| panic!("not a line of a dialogue: {line}"));
        match name {
            "listener" => {
                self.listener = ListenerKind::ALL
                    .into_iter()
                    .find(|kind| kind.as_str() == value)
                    .expect("kind of a listener");
            }
            "client" => self.client = value.parse().unwrap(),
            "tls" => (self.tls, self.is_bound) = (value != "off", value == "bound"),
            "hello" => self.hello = Some(value.to_owned()),
            "config" => self.config = value.to_owned(),
            "certificate" => self.certificate = value != "none",
            "passwords" => self.passwords = value != "unavailable",
            "known" => self.known.push(value.to_owned()),
            _ => panic!("unknown directive: {line}"),
        }
    }

    /// Plays it: all lines that the client heard.
    ///
    /// # Errors
    /// How it went otherwise than it is written.
    async fn play(self) -> Result<Vec<String>, String> {
        let config = std::fs::read_to_string(directory().join(&self.config)).unwrap();
        // The spool is needed as long as the session.
        let Server { shared, registry: _registry, directory: _directory } = Server::new(&config);
        if !self.certificate {
            shared.tls.store(None);
        }
        for fact in &self.known {
            know(&shared, self.client, fact).await;
        }
        let local = if self.client.is_ipv4() { "192.0.2.25" } else { "2001:db8::25" };
        let local = local.parse().unwrap();
        let peer = Peer { listener: self.listener, client: self.client, local, is_local: false };
        let mut player = Player::new(Arc::new(shared), peer, self.tls.then_some(TLS));
        player.checks_passwords = self.passwords;
        if self.is_bound {
            let bindings = ChannelBindings { exporter: Some(vec![7; 32]), server_end_point: None };
            player.session = player.session.with_channel_bindings(bindings);
        }
        if let Some(hello) = &self.hello {
            player.hear(format!("EHLO {hello}\r\n").as_bytes()).await;
            player.said.clear();
        } else {
            let greeting = player.session.greeting();
            player.say(&greeting);
        }
        let mut heard = Vec::new();
        for turn in self.turns {
            player.hear(&turn.said).await;
            let said = std::mem::take(&mut player.said);
            let same =
                said.len() == turn.heard.len() && turn.heard.iter().zip(&said).all(|(p, text)| fits(p, text));
            if !same {
                let (expected, said) = (turn.heard.join("\n  "), said.join("\n  "));
                return Err(format!("line {}: expected\n  {expected}\nheard\n  {said}", turn.line));
            }
            heard.extend(said);
        }
        Ok(heard)
    }
}

/// What the server knows beside its configuration, from DNS or from operators:
///
/// - `spf adatum.test fail for 192.0.2.25`: what the SPF record of a domain says of this server
/// - `covers adatum.test`: the same, that it lets this server send
/// - `lock adatum.test v=postern1; logins=bob@adatum.test`: the owner's lock of a domain
/// - `failed proseware.test SPF`: a domain of ours is not verified, and what is missing
/// - `listed 127.0.0.2`: what the first of the lists in DNS says of the client
/// - `banned`: an operator has banned the client
/// - `rule reject bob@proseware.test moved`, `defer`: a standing rule about a recipient, or about all mail (`*`)
/// - `store broken`: the spool takes nothing
async fn know(shared: &Shared, client: IpAddr, fact: &str) {
    let (policy, queue) = (shared.policy.load(), shared.door.now().unwrap());
    let standing = &policy.standing;
    let (what, rest) = fact.split_once(' ').unwrap_or((fact, ""));
    let (of, words) = rest.split_once(' ').unwrap_or((rest, ""));
    let domain = || Domain::parse(of).unwrap();
    match what {
        "covers" => standing.sender_domains.learn_policy(&domain(), Ok(SenderPolicy::Covers), now()),
        "spf" => {
            let says = SenderPolicy::DoesNot(words.to_owned());
            standing.sender_domains.learn_policy(&domain(), Ok(says), now());
        }
        "lock" => {
            let lock = OwnersLock::read(&[words.to_owned()]);
            standing.sender_domains.learn_lock(&domain(), Ok(lock), now());
        }
        "failed" => {
            let (subject, text) = (words.to_owned(), format!("{words} is not there"));
            let finding = Finding { weight: Weight::Error, subject, text, publish: None };
            let (state, outcome) = (State::Failed, Some(Outcome::Lacking));
            let report = DomainReport { state, outcome, findings: vec![finding], ..DomainReport::default() };
            standing.sender_domains.set_report(&domain(), report);
        }
        "listed" => {
            let list = &shared.config.load().policy.dnsbl[0];
            let answered = Answered::Addresses(vec![of.parse().unwrap()]);
            let _ = standing.blocklists.learn(
                &list.zone,
                list.label(),
                client,
                answered,
                Duration::from_secs(600),
                now(),
            );
        }
        "banned" => {
            let (since, until, why) = (NOW, NOW + 3600, "guesses".to_owned());
            standing.bans.add(Ban { network: client.into(), since, until, why, by_hand: true }, now());
        }
        "rule" => {
            let (rcpt, text) = words.split_once(' ').unwrap();
            let rule = NewRule {
                action: RuleAction::Reject,
                filter: Filter { rcpt: (rcpt != "*").then(|| rcpt.to_owned()), ..Filter::default() },
                reason: "a test".to_owned(),
                text: Some(text.to_owned()),
                temporary: of == "defer",
                until: None,
            };
            queue.rules().add(rule, 0).unwrap();
        }
        "store" => queue.close().await,
        _ => panic!("nothing that can be known: {fact}"),
    }
}

fn unescape(said: &str) -> Vec<u8> {
    let said = said.strip_prefix(' ').unwrap_or(said);
    let mut bytes = Vec::new();
    let mut rest = said.as_bytes();
    let mut crlf = true;
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        if *byte != b'\\' {
            bytes.push(*byte);
            continue;
        }
        let Some((escape, tail)) = rest.split_first() else {
            crlf = false;
            break;
        };
        rest = tail;
        match escape {
            b'r' => bytes.push(b'\r'),
            b'n' => bytes.push(b'\n'),
            b'0' => bytes.push(0),
            b'x' => {
                bytes.push(u8::from_str_radix(std::str::from_utf8(&rest[..2]).unwrap(), 16).unwrap());
                rest.advance(2);
            }
            // A number: the next character so many times.
            b'*' => {
                let end = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap();
                let count: usize = std::str::from_utf8(&rest[..end]).unwrap().parse().unwrap();
                bytes.extend(std::iter::repeat_n(rest[end], count));
                rest.advance(end + 1);
            }
            other => bytes.push(*other),
        }
    }
    if crlf {
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Whether the text is what the pattern says, `*` being anything.
pub fn fits(pattern: &str, text: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == text };
    let Some(rest) = text.strip_prefix(head) else { return false };
    (0..=rest.len()).filter(|at| rest.is_char_boundary(*at)).any(|at| fits(tail, &rest[at..]))
}
