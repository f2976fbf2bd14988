//! A client of a session that is there for the target alone: the server and the connection are those of the tests of
//! `postern-smtp-inbound`.

use std::sync::Arc;

use postern_config::Config;
use postern_policy::Policy;
use postern_policy::scram::ChannelBindings;
use postern_queue::QueueId;
use postern_smtp_inbound::Shared;
use postern_smtp_inbound::fuzzing::Tokens;
use postern_smtp_inbound::session::Peer;
use tokio::runtime::Runtime;

#[path = "../../crates/smtp-inbound/tests/support/player.rs"]
mod player;
#[path = "../../crates/smtp-inbound/tests/support/mod.rs"]
mod support;

use player::{Player, TLS, TokenCheck};

/// Messages that are accepted stay: after so many clients there is a new server.
const CLIENTS_OF_A_SERVER: u32 = 2000;
/// `correct horse` at the lowest cost that the format has, so that passwords cost no time here.
const CHEAP_HASH: &str =
    "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$t5QLzMlfSPLMezb1X/hRw1bKTTpryM1JhqBpLyqseOw";
/// What stands in front of the id of a message that was accepted.
const QUEUED: &str = " queued as ";

/// Who connects, and how.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    /// From where, and to which listener.
    pub peer: Peer,
    /// Under TLS.
    pub tls: bool,
    /// Whether logins can be bound to that TLS.
    pub is_bound: bool,
}

/// What goes when the server does.
struct Kept {
    _registry: prometheus::Registry,
    _directory: tempfile::TempDir,
}

/// Servers, one after the other.
pub struct Servers {
    runtime: Runtime,
    configuration: String,
    kept: Kept,
    shared: Arc<Shared>,
    clients: u32,
}

impl Servers {
    /// Servers with this configuration.
    ///
    /// # Panics
    /// When there can be none.
    pub fn new(configuration: String) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (kept, shared) = start(&runtime, &configuration);
        Self { runtime, configuration, kept, shared, clients: 0 }
    }

    /// Plays what the client does, each of these in one read, and gives the lines that it heard.
    ///
    /// # Panics
    /// When a reply is none, or the session is confused.
    pub fn play(&mut self, client: Client, sent: &[&[u8]]) -> Vec<String> {
        self.clients += 1;
        if self.clients > CLIENTS_OF_A_SERVER {
            let queue = self.shared.door.now().expect("an open queue");
            self.runtime.block_on(queue.close());
            (self.kept, self.shared) = start(&self.runtime, &self.configuration);
            self.clients = 0;
        }
        let mut player = Player::new(Arc::clone(&self.shared), client.peer, client.tls.then_some(TLS));
        player.token_check = token_check(&self.shared, client.peer);
        if client.is_bound {
            let bindings =
                ChannelBindings { exporter: Some(vec![7; 32]), server_end_point: Some(vec![8; 32]) };
            player.session = player.session.with_channel_bindings(bindings);
        }
        self.runtime.block_on(async {
            for octets in sent {
                player.hear(octets).await;
            }
        });
        for line in player.said.iter().filter(|line| !line.starts_with(['-', '('])) {
            let known = line.len() >= 4 && line.as_bytes()[..3].iter().all(u8::is_ascii_digit);
            assert!(known && line.len() <= 510, "no line of a reply: {line:?}");
            let confused = line.starts_with("503 ")
                && (line.ends_with("wait for the reply") || line.ends_with("was asked for"));
            assert!(!confused, "{line}");
        }
        player.said
    }

    /// Where the messages go that were accepted with these replies.
    ///
    /// # Panics
    /// When one of them is not in the queue.
    pub fn recipients(&self, said: &[String]) -> Vec<String> {
        let queue = self.shared.door.now().expect("an open queue");
        let ids = said.iter().filter_map(|line| line.split_once(QUEUED)?.1.parse::<QueueId>().ok());
        let messages = ids.map(|id| queue.show(id).expect("what was accepted is in the queue"));
        messages.flat_map(|message| message.recipients).map(|recipient| recipient.address).collect()
    }
}

/// Replies as they are whoever asks: without what is random.
pub fn without_names(said: &[String]) -> Vec<&str> {
    let before = |text: &'_ str, end: &str| text.find(end).unwrap_or(text.len());
    let shown = |line: &'_ String| before(line, QUEUED).min(before(line, " (ref "));
    said.iter().map(|line| if line.starts_with("334 ") { "334" } else { &line[..shown(line)] }).collect()
}

fn token_check(shared: &Arc<Shared>, peer: Peer) -> Option<TokenCheck> {
    let tokens = Arc::new(Tokens::new(shared.config.load().auth.oauth.as_ref()?));
    let shared = Arc::clone(shared);
    Some(Box::new(move |bearer| {
        let (tokens, policy, now) = (Arc::clone(&tokens), shared.policy.load_full(), shared.clock.now());
        Box::pin(async move { tokens.check(&policy, &bearer, peer.client, now).await })
    }))
}

/// A server, and what it needs as long as it lives.
fn start(runtime: &Runtime, configuration: &str) -> (Kept, Arc<Shared>) {
    let support::Server { shared, registry, directory } =
        runtime.block_on(async { support::Server::new(configuration) });
    let mut config = Config::clone(&shared.config.load());
    for account in &mut config.accounts {
        CHEAP_HASH.clone_into(&mut account.password);
    }
    shared.policy.store(Arc::new(Policy::new(&config)));
    shared.config.store(Arc::new(config));
    (Kept { _registry: registry, _directory: directory }, Arc::new(shared))
}
