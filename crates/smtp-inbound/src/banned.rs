//! Clients that are banned, when they connect: what they are told, and what is kept of it.
//!
//! Whoever is banned comes back again and again. A record of each time would push out those of others; so of each client one is
//! kept an hour, which all replies of that hour name, and no more than some of all clients together.

use std::collections::HashMap;
use std::time::UNIX_EPOCH;

use ipnet::IpNet;
use parking_lot::Mutex;
use postern_policy::record::{Name, Record, Reference, Transcript};
use postern_policy::relay::{Decision, Question, Reason, Stage, decide};
use postern_smtp::{Reply, ReversePath};

use crate::Shared;
use crate::clients::Keys;
use crate::replies::{self, Refused};
use crate::session::Peer;

/// Clients whose record is kept in one hour. The default of `policy.records` has room for the thirty days of a flood that
/// never ends, and for as much of everybody else.
const MOST_AN_HOUR: usize = 100;

/// What banned clients were told in the present hour.
#[derive(Debug, Default)]
pub struct BannedClients {
    hour: Mutex<Hour>,
}

#[derive(Debug, Default)]
struct Hour {
    number: u64,
    /// By the client's address, or its /64, with why.
    told: HashMap<IpNet, (Reason, Name)>,
}

/// A client that is banned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnedAway {
    /// What it is told.
    pub reply: Reply,
    /// What is banned: it, or a network that it is in.
    pub network: IpNet,
    /// Where it is kept.
    pub reference: Option<Reference>,
}

/// What to do about the record of one refusal.
enum Kept {
    /// It is to be kept under this name.
    Now(Name),
    /// There is one.
    Before(Name),
    /// There is none.
    Not,
}

impl BannedClients {
    /// What a client that connects is told, where it is banned.
    pub fn turn_away(&self, shared: &Shared, peer: Peer) -> Option<TurnedAway> {
        let (config, policy) = (shared.config.load(), shared.policy.load());
        let now = shared.clock.now();
        // Nearly everybody is not: nothing is put into words for them.
        let ban = policy.ban(peer.client, peer.local, peer.listener.is_submission(), now)?;
        let question = Question {
            listener: peer.listener,
            client: peer.client,
            local: Some(peer.local),
            tls: false,
            certificate: None,
            login: None,
            helo: None,
            now,
            recipients: 0,
            reverse_path: &ReversePath::Null,
            stage: Stage::Connect,
        };
        let decision = decide(&question, &policy);
        if !matches!(decision.reason, Reason::Banned { .. }) {
            // The ban has ended between the two questions.
            return None;
        }
        shared.decisions.decided(question.stage.as_str(), &decision);
        let kept = self.kept(shared, &question, &decision);
        let name = match &kept {
            Kept::Now(name) | Kept::Before(name) => Some(name),
            Kept::Not => None,
        };
        let (reply, told) =
            replies::refused(&Refused { question: &question, decision: &decision, name, config: &config });
        if let Kept::Now(name) = &kept {
            let record = Record::new(name, &question, &decision, told, &Transcript::default());
            shared.records.keep(name, record);
        }
        Some(TurnedAway { reply, network: ban.network, reference: name.map(|name| name.reference) })
    }

    fn kept(&self, shared: &Shared, question: &Question<'_>, decision: &Decision) -> Kept {
        let seconds = question.now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut hour = self.hour.lock();
        if hour.number != seconds / 3600 {
            *hour = Hour { number: seconds / 3600, told: HashMap::new() };
        }
        let client = Keys::of(question.client, &shared.config.load().smtp.clients).address();
        match hour.told.get(&client) {
            Some((reason, name)) if *reason == decision.reason => return Kept::Before(*name),
            None if hour.told.len() >= MOST_AN_HOUR => return Kept::Not,
            Some(_) | None => {}
        }
        let Some(name) = shared.records.name(question.client) else { return Kept::Not };
        hour.told.insert(client, (decision.reason.clone(), name));
        Kept::Now(name)
    }
}
