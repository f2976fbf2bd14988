//! Whether a recipient of a relay domain exists: the server that its mail goes to is asked, up to RCPT and no further.
//!
//! Who refuses what the server would refuse anyway writes no reports to forged senders. A clear no is one (5yz to RCPT);
//! everything else takes the recipient: mail for a server that is down is what a backup MX is for.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use postern_policy::standing::recipients::Said;
use postern_queue::Progress;
use postern_runtime::Clock;
use postern_smtp::{Address, Reply, ReversePath};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::client::{Connection, Dial, Protocol};
use crate::outcome::{Failure, Stage};
use crate::route::{Hop, NEARBY, Target};
use crate::settings::Settings;
use crate::tls_policy::TlsPolicy;

/// Questions that are under way at once: whoever guesses addresses must not make us flood the server that we guard.
const AT_ONCE: usize = 20;

/// Asks, one question at a time for each recipient.
#[derive(Debug)]
pub(super) struct CallForward {
    /// Recipients that are being asked for, folded.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    room: Semaphore,
}

impl Default for CallForward {
    fn default() -> Self {
        Self { turns: Mutex::default(), room: Semaphore::new(AT_ONCE) }
    }
}

/// What came of a question.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// The best host was reached and said so.
    Best(Said),
    /// Another one, such as a second backup, which may take everything.
    Other(Said),
    /// None was reached.
    Down(String),
}

impl CallForward {
    /// Asks for a recipient and keeps the answer. Ends in `relay.call_forward.timeout` at the latest.
    pub(super) async fn ask(&self, recipient: &Address, settings: &Settings, clock: &dyn Clock) {
        let deadline = Instant::now() + settings.config.relay.call_forward.timeout;
        let turn = Turn::new(self, recipient);
        let Ok(_turn) = timeout_at(deadline, turn.lock.lock()).await else {
            return;
        };
        if settings.policy.standing.recipients.find(recipient, clock.now()).is_some() {
            return;
        }
        let asked = match timeout_at(deadline, self.room.acquire()).await {
            Ok(_room) => ask_host(recipient, settings, deadline).await,
            Err(_) => Asked::Other(Said::Nothing("too many questions are under way".to_owned())),
        };
        keep(recipient, asked, settings, clock);
    }
}

/// The turn of one recipient; the last who waits for it removes it.
struct Turn<'a> {
    of: &'a CallForward,
    key: String,
    lock: Arc<tokio::sync::Mutex<()>>,
}

impl<'a> Turn<'a> {
    fn new(of: &'a CallForward, recipient: &Address) -> Self {
        let key = recipient.folded();
        let lock = of.turns.lock().entry(key.clone()).or_default().clone();
        Self { of, key, lock }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        /// That of the table and our own.
        const LAST: usize = 2;
        let mut turns = self.of.turns.lock();
        if Arc::strong_count(&self.lock) <= LAST {
            turns.remove(&self.key);
        }
    }
}

fn keep(recipient: &Address, asked: Asked, settings: &Settings, clock: &dyn Clock) {
    let (times, now) = (&settings.config.relay.call_forward, clock.now());
    let known = &settings.policy.standing.recipients;
    let Some(domain) = recipient.domain() else { return };
    let (said, ttl) = match asked {
        Asked::Down(why) => {
            tracing::info!(event = "call-forward-down", %domain, why, "recipients are taken unasked");
            return known.is_down(domain, why, times.down_ttl, now);
        }
        Asked::Best(said @ Said::Exists { .. }) => (said, times.positive_ttl),
        Asked::Best(said @ Said::Unknown { .. }) | Asked::Other(said @ Said::Unknown { .. }) => {
            (said, times.negative_ttl)
        }
        Asked::Best(said) | Asked::Other(said) => (said, times.down_ttl),
    };
    tracing::debug!(event = "call-forward", %recipient, ?said);
    known.is_up(domain);
    known.learn(recipient, said, ttl, times.cache_size, now);
}

/// Asks the hosts that mail for the recipient would go to, until one is reached.
async fn ask_host(recipient: &Address, settings: &Settings, deadline: Instant) -> Asked {
    let hop = settings.router.route(&ReversePath::Null, recipient, None);
    if NEARBY.contains(&hop.to_string().as_str()) {
        return Asked::Other(Said::Nothing(format!("its mail goes to {hop}, where nobody can be asked")));
    }
    let targets = match timeout_at(deadline, settings.router.resolve(&hop, settings.dns.as_ref())).await {
        Ok(Ok(targets)) => targets,
        Ok(Err(failure)) => return Asked::Down(failure.to_string()),
        Err(_) => return Asked::Down("DNS does not answer".to_owned()),
    };
    let mut last = "it has no host but this one".to_owned();
    for target in targets.iter().filter(|target| !settings.router.is_this_server(&target.endpoint)) {
        let connection = match timeout_at(deadline, connect(&hop, target, settings)).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(failure)) => {
                last = format!("{}: {failure}", target.host);
                continue;
            }
            Err(_) => return Asked::Down(format!("{}: no answer in time", target.host)),
        };
        let said = dialogue(connection, recipient, &target.host, deadline).await;
        return match target.host == targets[0].host {
            true => Asked::Best(said),
            false => Asked::Other(said),
        };
    }
    Asked::Down(last)
}

async fn connect(hop: &Hop<'_>, target: &Target, settings: &Settings) -> Result<Connection, Failure> {
    let outbound = &settings.config.outbound;
    let (protocol, policy, credentials) = match hop {
        Hop::Relay(relay) => (relay.protocol, relay.tls, relay.credentials.as_ref()),
        _ => (Protocol::Smtp, TlsPolicy::May, None),
    };
    let dial = Dial {
        hostname: &settings.config.hostname,
        source_addresses: &outbound.source_addresses,
        timeouts: &outbound.timeouts,
        protocol,
        tls: &settings.tls,
        policy,
        credentials,
        progress: &Progress::default(),
    };
    Connection::open(target, &dial).await
}

/// MAIL with the null sender, as a report would come, and RCPT. QUIT ends the transaction (RFC 5321 §4.1.1.10); an answer that
/// is known does not depend on what is said to that.
async fn dialogue(mut connection: Connection, recipient: &Address, host: &str, deadline: Instant) -> Said {
    let said = match timeout_at(deadline, question(&mut connection, recipient, host)).await {
        Ok(Ok(said)) => said,
        Ok(Err(failure)) => return Said::Nothing(format!("{host}: {failure}")),
        Err(_) => return Said::Nothing(format!("{host}: no answer in time")),
    };
    let _ = timeout_at(deadline, connection.close()).await;
    said
}

async fn question(connection: &mut Connection, recipient: &Address, host: &str) -> Result<Said, Failure> {
    let host = host.to_owned();
    let utf8 = match (recipient.needs_utf8(), connection.capabilities.has("SMTPUTF8")) {
        (true, false) => return Ok(Said::Nothing(format!("{host} does not offer SMTPUTF8"))),
        (true, true) => " SMTPUTF8",
        (false, _) => "",
    };
    let reply = connection.command(&format!("MAIL FROM:<>{utf8}\r\n"), Stage::Mail).await?;
    if !reply.is_success() {
        return Ok(Said::Nothing(format!("{host} refuses the null sender: {}", shown(&reply))));
    }
    let reply = connection.command(&format!("RCPT TO:<{recipient}>\r\n"), Stage::Rcpt).await?;
    Ok(match (reply.is_success(), reply.is_permanent()) {
        (true, _) => Said::Exists { host },
        (false, true) => Said::Unknown { host, reply: shown(&reply) },
        (false, false) => Said::Nothing(format!("{host} says {}", shown(&reply))),
    })
}

/// A reply may be long; this much of it is kept.
fn shown(reply: &Reply) -> String {
    const MOST: usize = 200;
    reply.to_string().chars().take(MOST).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::net::SocketAddr;
    use std::time::{Duration, SystemTime};

    use postern_runtime::ManualClock;

    use super::*;
    use crate::testing::{Server, settings};

    /// The hosts of a route stand for those of MX records.
    fn site(hosts: &[SocketAddr], call_forward: &str) -> Settings {
        let hosts: Vec<String> = hosts.iter().map(|host| format!("{:?}", host.to_string())).collect();
        settings(&format!(
            "[relay]\nrelay_domains = [{{ name = \"customer.test\", recipients = \"call-forward\" }}]\n\
             [relay.call_forward]\n{call_forward}\n\
             [[route]]\ndomain = \"customer.test\"\nvia = \"smarthost\"\nhosts = [{}]\n",
            hosts.join(", ")
        ))
    }

    fn carol() -> Address {
        Address::parse("Carol@customer.test").unwrap()
    }

    fn clock() -> ManualClock {
        ManualClock::new(SystemTime::UNIX_EPOCH)
    }

    async fn ask(settings: &Settings, recipient: &Address) -> Option<Said> {
        let clock = clock();
        CallForward::default().ask(recipient, settings, &clock).await;
        settings.policy.standing.recipients.find(recipient, clock.now())
    }

    /// What is known after a dialogue, and what was said in it.
    async fn after(script: &[&str]) -> (Option<Said>, Vec<String>) {
        let server = Server::start(&[&["220 hi\r\n", "EHLO", "250 hi\r\n"], script].concat()).await;
        let settings = site(&[server.address()], "timeout = \"500ms\"");
        (ask(&settings, &carol()).await, server.lines())
    }

    fn nothing(said: Option<Said>) -> String {
        match said {
            Some(Said::Nothing(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn the_question_ends_before_any_message() {
        let (said, lines) = after(&["MAIL", "250 ok\r\n", "RCPT", "250 ok\r\n", "QUIT", "221 bye\r\n"]).await;
        assert_eq!(said, Some(Said::Exists { host: "127.0.0.1".to_owned() }));
        assert_eq!(
            lines,
            ["EHLO mail.proseware.test", "MAIL FROM:<>", "RCPT TO:<Carol@customer.test>", "QUIT"]
        );
    }

    #[tokio::test]
    async fn only_a_5yz_to_rcpt_is_a_no() {
        let (said, _) = after(&["MAIL", "250 ok\r\n", "RCPT", "550 5.1.1 who?\r\n"]).await;
        let reply = "550 5.1.1 who?".to_owned();
        assert_eq!(said, Some(Said::Unknown { host: "127.0.0.1".to_owned(), reply }));
        let (said, _) = after(&["MAIL", "250 ok\r\n", "RCPT", "451 4.7.1 greylisted\r\n"]).await;
        assert!(nothing(said).contains("greylisted"));
        let (said, _) = after(&["MAIL", "550 5.7.1 no null sender\r\n"]).await;
        assert!(nothing(said).contains("refuses the null sender: 550"));
        let (said, _) = after(&["MAIL", "421 4.3.2 closing\r\n"]).await;
        assert!(nothing(said).contains("421"));
        let (said, _) = after(&["MAIL", "close"]).await;
        assert!(nothing(said).contains("lost"));
        let (said, _) = after(&["MAIL", "250 ok\r\n", "hang"]).await;
        assert!(nothing(said).contains("in time"));
    }

    #[tokio::test]
    async fn a_server_that_is_down_is_left_alone_for_a_while() {
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = site(&[gone.local_addr().unwrap()], "down_ttl = \"60s\"");
        drop(gone);
        assert!(nothing(ask(&settings, &carol()).await).contains("connection failed"));
        let (recipients, later) =
            (&settings.policy.standing.recipients, SystemTime::UNIX_EPOCH + Duration::from_secs(59));
        let dave = Address::parse("dave@customer.test").unwrap();
        assert!(matches!(recipients.find(&dave, later), Some(Said::Nothing(_))));
        assert_eq!(recipients.find(&dave, later + Duration::from_secs(1)), None);
    }

    #[tokio::test]
    async fn another_host_than_the_best_is_believed_for_a_short_time_only() {
        let gone = tokio::net::TcpListener::bind("127.0.0.9:0").await.unwrap();
        let script =
            ["220 hi\r\n", "EHLO", "250 hi\r\n", "MAIL", "250 ok\r\n", "RCPT", "250 ok\r\n", "QUIT", "close"];
        let server = Server::start(&script).await;
        let hosts = [gone.local_addr().unwrap(), server.address()];
        let settings = site(&hosts, "down_ttl = \"60s\"");
        drop(gone);
        assert!(matches!(ask(&settings, &carol()).await, Some(Said::Exists { .. })));
        let later = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
        assert_eq!(settings.policy.standing.recipients.find(&carol(), later), None);
    }

    #[tokio::test]
    async fn many_who_want_to_know_the_same_ask_once() {
        let script =
            ["220 hi\r\n", "EHLO", "250 hi\r\n", "MAIL", "250 ok\r\n", "RCPT", "250 ok\r\n", "QUIT", "close"];
        // A second connection would find nobody.
        let server = Server::start(&script).await;
        let settings = site(&[server.address()], "");
        let (asking, clock) = (CallForward::default(), clock());
        let recipient = carol();
        let ask = || asking.ask(&recipient, &settings, &clock);
        tokio::join!(ask(), ask(), ask());
        let said = settings.policy.standing.recipients.find(&carol(), clock.now());
        assert!(matches!(said, Some(Said::Exists { .. })), "{said:?}");
        assert_eq!(server.lines().iter().filter(|line| line.starts_with("RCPT")).count(), 1);
        assert!(asking.turns.lock().is_empty());
    }

    #[tokio::test]
    async fn where_nobody_can_be_asked_recipients_are_taken() {
        let route = "[relay]\nrelay_domains = [{ name = \"customer.test\", recipients = \"call-forward\" }]\n\
                     [[route]]\ndomain = \"customer.test\"\nvia = \"discard\"\n";
        assert!(nothing(ask(&settings(route), &carol()).await).contains("discard"));
        let nowhere =
            "[relay]\nrelay_domains = [{ name = \"customer.test\", recipients = \"call-forward\" }]\n";
        assert!(nothing(ask(&settings(nowhere), &carol()).await).contains("does not exist"));
    }
}
