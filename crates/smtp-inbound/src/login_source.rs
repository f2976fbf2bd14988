//! Systems that know the passwords that `accounts.toml` does not have (`[auth.backend]`). What a login may do is not theirs to
//! say: see `postern_policy::accounts`.

mod dovecot;
#[cfg(feature = "ldap")]
mod ldap;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postern_config::backend::Backend;
use tokio::time::{Instant, timeout};

use crate::password_checks::{PasswordChecks, Turn};
use dovecot::Dovecot;
#[cfg(fuzzing)]
pub(crate) use dovecot::ask_over as ask_dovecot_over;
#[cfg(all(fuzzing, feature = "ldap"))]
pub(crate) use ldap::{dn as ldap_dn, filter as ldap_filter};

/// How long a connection is kept without a question: less than what servers and firewalls usually allow.
const LONGEST_IDLE: Duration = Duration::from_secs(60);

/// A login that is to be proved.
#[derive(Clone, Copy)]
pub(crate) struct Question<'a> {
    /// Folded, as names of logins are compared.
    pub name: &'a str,
    pub password: &'a [u8],
    pub client: IpAddr,
    pub local: IpAddr,
}

/// What the other system says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is the right password of this login.
    Accepted { name: String, addresses: Vec<String> },
    /// The hash of a password, to be compared here; `None` where there is no such login.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    Hash(Option<Hashed>),
    /// It is not, or there is no such login: on purpose not told apart. `why` is for the log, where more is known.
    Rejected { why: Option<String> },
    /// It is, and the login may not be used all the same: no guess.
    Refused { why: String },
    /// Nobody knows: never counted as a guess.
    Unavailable { why: String },
}

/// A login whose password the other system keeps as a hash.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hashed {
    /// The login's one name, whatever name has found it.
    pub name: String,
    pub hash: String,
    pub addresses: Vec<String>,
}

impl Answer {
    fn unavailable(why: impl ToString) -> Self {
        Self::Unavailable { why: why.to_string() }
    }
}

/// One such system.
#[derive(Debug)]
enum LoginSource {
    Dovecot(Dovecot),
    #[cfg(feature = "ldap")]
    Ldap(Box<ldap::Ldap>),
    #[cfg(feature = "sqlite")]
    Sqlite(sqlite::Sqlite),
    #[cfg(feature = "postgres")]
    Postgres(Box<postgres::Postgres>),
}

/// A source, and whose turn it is to ask it.
#[derive(Debug)]
pub(crate) struct Asked {
    source: LoginSource,
    /// As for passwords that are checked here: an address that floods has one question at a time.
    turns: PasswordChecks,
    timeout: Duration,
}

/// The source of the configuration in force. It lives until its table changes, and with it its connections.
#[derive(Debug, Default)]
pub(crate) struct LoginSources {
    current: Mutex<Option<(Backend, Arc<Asked>)>>,
}

impl LoginSources {
    /// The source of this table.
    pub fn of(&self, backend: &Backend) -> Option<Arc<Asked>> {
        let mut current = self.current.lock();
        if let Some((_, asked)) = current.as_ref().filter(|(known, _)| known == backend) {
            return Some(Arc::clone(asked));
        }
        let asked = Arc::new(Asked {
            source: LoginSource::new(backend)?,
            turns: PasswordChecks::new(backend.max_requests.max(1)),
            timeout: backend.timeout,
        });
        *current = Some((backend.clone(), Arc::clone(&asked)));
        Some(asked)
    }
}

impl Asked {
    /// Asks when it is this client's turn. `is_crowd`: many people log in from its address.
    pub async fn ask(&self, question: Question<'_>, is_crowd: bool) -> Answer {
        // Nobody has such a password, and some systems take an empty one for no password at all (RFC 4513 §5.1.2).
        if question.password.is_empty() || question.password.contains(&0) {
            return Answer::Rejected { why: None };
        }
        if question.name.is_empty() || question.name.chars().any(char::is_control) {
            return Answer::Rejected { why: None };
        }
        let Some(turn) = self.turns.turn(question.client, is_crowd).await else {
            return Answer::unavailable("too many logins wait for the back end");
        };
        match timeout(self.timeout, self.source.ask(question, turn)).await {
            Ok(answer) => answer,
            Err(_) => Answer::unavailable(format!("no answer within {} s", self.timeout.as_secs_f64())),
        }
    }
}

impl LoginSource {
    /// `None`: the table names none that this build has; it was refused when it was loaded.
    fn new(backend: &Backend) -> Option<Self> {
        let most = backend.max_requests;
        if let Some(dovecot) = &backend.dovecot {
            return Some(Self::Dovecot(Dovecot::new(dovecot, most)));
        }
        #[cfg(feature = "ldap")]
        if let Some(config) = &backend.ldap {
            return Some(Self::Ldap(Box::new(ldap::Ldap::new(config, backend.timeout, most))));
        }
        #[cfg(feature = "sqlite")]
        if let Some(config) = &backend.sqlite {
            return Some(Self::Sqlite(sqlite::Sqlite::new(config, backend.timeout)));
        }
        #[cfg(feature = "postgres")]
        if let Some(config) = &backend.postgres {
            return Some(Self::Postgres(Box::new(postgres::Postgres::new(config, backend.timeout, most))));
        }
        None
    }

    /// The turn is over when nothing works for the question any more, which may be after nobody waits for the answer.
    #[cfg_attr(not(feature = "sqlite"), expect(unused_variables, reason = "what waits ends with the turn"))]
    async fn ask(&self, question: Question<'_>, turn: Turn) -> Answer {
        match self {
            Self::Dovecot(dovecot) => dovecot.ask(question).await,
            #[cfg(feature = "ldap")]
            Self::Ldap(ldap) => ldap.ask(question).await,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(sqlite) => sqlite.ask(question, turn).await,
            #[cfg(feature = "postgres")]
            Self::Postgres(postgres) => postgres.ask(question).await,
        }
    }
}

/// Which columns of a row are what.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
#[derive(Debug, PartialEq, Eq)]
struct Columns {
    name: usize,
    hash: usize,
    addresses: Option<usize>,
}

#[cfg(any(feature = "sqlite", feature = "postgres"))]
impl Columns {
    /// Of columns that are called so.
    ///
    /// # Errors
    /// What the query lacks.
    fn of<'c>(names: impl Iterator<Item = &'c str>) -> Result<Self, String> {
        let (called_name, mut others): (Vec<_>, Vec<_>) =
            names.enumerate().partition(|(_, name)| name.eq_ignore_ascii_case("name"));
        let lacks = |what: &str| format!("the query gives no column {what}; see docs/logins.md");
        let [(name, _)] = called_name[..] else { return Err(lacks("`name`, or several")) };
        others.truncate(2);
        let mut others = others.into_iter().map(|(at, _)| at);
        let hash = others.next().ok_or_else(|| lacks("with the hash"))?;
        Ok(Self { name, hash, addresses: others.next() })
    }
}

/// Addresses with blanks or commas between them.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
fn words(text: &str) -> Vec<String> {
    let words = text.split([' ', ',', '\t', '\n']).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

/// Connections that wait for the next question.
#[derive(Debug)]
pub(crate) struct Idle<C> {
    kept: Mutex<Vec<(C, Instant)>>,
    most: usize,
}

impl<C> Idle<C> {
    /// Keeps so many.
    pub fn new(most: usize) -> Self {
        Self { kept: Mutex::default(), most }
    }

    /// The one that was used last.
    pub fn take(&self) -> Option<C> {
        let mut kept = self.kept.lock();
        kept.retain(|(_, since)| since.elapsed() < LONGEST_IDLE);
        kept.pop().map(|(connection, _)| connection)
    }

    pub fn give(&self, connection: C) {
        let mut kept = self.kept.lock();
        if kept.len() < self.most {
            kept.push((connection, Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::net::Ipv4Addr;

    use super::*;

    pub(super) fn question<'a>(name: &'a str, password: &'a [u8]) -> Question<'a> {
        let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Question { name, password, client, local: client }
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_kept_for_a_while_and_not_more_than_needed() {
        let idle = Idle::new(2);
        for connection in [1, 2, 3] {
            idle.give(connection);
        }
        assert_eq!((idle.take(), idle.take(), idle.take()), (Some(2), Some(1), None));
        idle.give(4);
        tokio::time::advance(LONGEST_IDLE).await;
        assert_eq!(idle.take(), None);
    }

    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    #[test]
    fn columns_are_the_name_and_the_others_in_their_order() {
        let of = |names: &str| Columns::of(names.split(' '));
        let columns = |name, hash, addresses| Ok(Columns { name, hash, addresses });
        assert_eq!(of("password addresses name"), columns(2, 0, Some(1)));
        assert_eq!(of("password NAME addresses"), columns(1, 0, Some(2)));
        assert_eq!(of("name password"), columns(0, 1, None));
        for names in ["password addresses", "name", "name name password"] {
            assert!(of(names).is_err(), "{names}");
        }
    }

    #[tokio::test]
    async fn what_no_system_may_be_asked_is_wrong_and_who_does_not_answer_is_unavailable() {
        let table = "timeout = \"50ms\"\n[dovecot]\naddress = \"/nonexistent/auth\"\n";
        let backend: Backend = toml::from_str(table).unwrap();
        let sources = LoginSources::default();
        let source = sources.of(&backend).unwrap();
        assert!(Arc::ptr_eq(&source, &sources.of(&backend).unwrap()));
        for (name, password) in [("alice", &b""[..]), ("alice", b"a\0b"), ("", b"x"), ("a\nb", b"x")] {
            let answer = source.ask(question(name, password), false).await;
            assert_eq!(answer, Answer::Rejected { why: None }, "{name:?}");
        }
        let answer = source.ask(question("alice", b"x"), false).await;
        assert!(matches!(answer, Answer::Unavailable { .. }), "{answer:?}");
        let other = Backend { max_requests: 1, ..backend };
        assert!(!Arc::ptr_eq(&source, &sources.of(&other).unwrap()), "a changed table is another source");
    }
}
