//! A client of a session that is there for the target alone: the server and the connection are those of the tests of
//! `postern-smtp-inbound`.

use std::sync::Arc;

use postern_config::Config;
use postern_policy::Policy;
use postern_smtp_inbound::Shared;
use postern_smtp_inbound::session::Peer;
use tokio::runtime::Runtime;

#[path = "../../crates/smtp-inbound/tests/support/player.rs"]
mod player;
#[path = "../../crates/smtp-inbound/tests/support/mod.rs"]
mod support;

pub use player::{Player, TLS};

/// Messages that are accepted stay: after so many clients there is a new server.
const CLIENTS_OF_A_SERVER: u32 = 2000;
/// `correct horse` at the lowest cost that the format has, so that passwords cost no time here.
const CHEAP_HASH: &str =
    "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$t5QLzMlfSPLMezb1X/hRw1bKTTpryM1JhqBpLyqseOw";

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

    /// Plays what the client does and gives the lines that it heard.
    ///
    /// # Panics
    /// When a reply is none, or the session is confused.
    pub fn play(&mut self, peer: Peer, tls: bool, sent: &[Vec<u8>]) -> Vec<String> {
        self.clients += 1;
        if self.clients > CLIENTS_OF_A_SERVER {
            (self.kept, self.shared) = start(&self.runtime, &self.configuration);
            self.clients = 0;
        }
        let mut player = Player::new(Arc::clone(&self.shared), peer, tls.then_some(TLS));
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
