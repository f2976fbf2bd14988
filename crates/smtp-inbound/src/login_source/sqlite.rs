//! A SQLite database with the hashes of passwords. The file is opened for each question, which is cheap, so that one that was
//! replaced counts at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postern_config::backend;
use rusqlite::{Connection, OpenFlags};

use super::{Answer, Columns, Hashed, Question, words};
use crate::password_checks::Turn;

/// Steps of SQLite's machine after which it is asked whether anybody waits still: well below a millisecond.
const STEPS: i32 = 1000;

/// The database.
#[derive(Debug)]
pub(super) struct Sqlite {
    config: backend::Sqlite,
    timeout: Duration,
}

/// Tells the thread of a question when nobody waits for the answer any more.
#[derive(Default)]
struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Sqlite {
    pub(super) fn new(config: &backend::Sqlite, timeout: Duration) -> Self {
        Self { config: config.clone(), timeout }
    }

    pub(super) async fn ask(&self, question: Question<'_>, turn: Turn) -> Answer {
        let (config, timeout, name) = (self.config.clone(), self.timeout, question.name.to_owned());
        let waiting = Waiting::default();
        let is_over = Arc::clone(&waiting.0);
        let asked = tokio::task::spawn_blocking(move || {
            let answer = look_up(&config, timeout, &name, is_over);
            // The thread works until here, whether or not anybody waits for it.
            drop(turn);
            answer
        });
        let asked = asked.await;
        let failed = |error: &dyn std::fmt::Display| {
            Answer::unavailable(format!("{}: {error}", self.config.path.display()))
        };
        match asked {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => failed(&error),
            Err(error) => failed(&error),
        }
    }
}

fn look_up(
    config: &backend::Sqlite,
    timeout: Duration,
    name: &str,
    is_over: Arc<AtomicBool>,
) -> rusqlite::Result<Answer> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(&config.path, flags)?;
    connection.busy_timeout(timeout)?;
    connection.progress_handler(STEPS, Some(move || is_over.load(Ordering::Relaxed)))?;
    let mut statement = connection.prepare(&config.query)?;
    let columns = match Columns::of(statement.column_names()) {
        Ok(columns) => columns,
        Err(lacking) => return Ok(Answer::unavailable(lacking)),
    };
    let mut rows = statement.query([name])?;
    let Some(row) = rows.next()? else { return Ok(Answer::Hash(None)) };
    let (Some(hash), Some(name)) = (row.get(columns.hash)?, row.get(columns.name)?) else {
        return Ok(Answer::Hash(None));
    };
    let addresses: Option<String> = columns.addresses.map_or(Ok(None), |at| row.get(at))?;
    let addresses = addresses.as_deref().map(words).unwrap_or_default();
    // Whose row would it be?
    let is_only = rows.next()?.is_none();
    Ok(Answer::Hash(is_only.then_some(Hashed { name, hash, addresses })))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::super::tests::question;
    use super::*;
    use crate::password_checks::PasswordChecks;

    /// A database with alice and an alias of hers, and what a query for a name answers.
    async fn ask(query: &str, name: &str) -> Answer {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.db");
        let made = Connection::open(&path).unwrap();
        made.execute_batch(
            "CREATE TABLE users (name TEXT, alias TEXT, password TEXT);
             INSERT INTO users VALUES ('alice', 'a.smith', '$6$x'), ('bob', 'b', NULL), (NULL, 'nobody', '$6$y');",
        )
        .unwrap();
        let sqlite = Sqlite::new(&backend::Sqlite { path, query: query.to_owned() }, Duration::from_secs(5));
        let question = question(name, b"word");
        let turn = PasswordChecks::new(1).turn(question.client, false).await.unwrap();
        sqlite.ask(question, turn).await
    }

    #[tokio::test]
    async fn the_login_is_the_column_name_whatever_was_typed() {
        const QUERY: &str = "SELECT password, name FROM users WHERE ?1 IN (name, alias)";
        let alice = Hashed { name: "alice".to_owned(), hash: "$6$x".to_owned(), addresses: Vec::new() };
        for name in ["alice", "a.smith"] {
            assert_eq!(ask(QUERY, name).await, Answer::Hash(Some(alice.clone())), "{name}");
        }
        for name in ["b", "nobody", "carl"] {
            assert_eq!(ask(QUERY, name).await, Answer::Hash(None), "{name}");
        }
        let Answer::Unavailable { why } = ask(&QUERY.replace(", name FROM", " FROM"), "alice").await else {
            panic!("a login without a name of its own")
        };
        assert!(why.contains("no column `name`"), "{why}");
    }

    #[tokio::test]
    async fn a_question_that_nobody_waits_for_ends_and_has_its_turn_until_then() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.db");
        drop(Connection::open(&path).unwrap());
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                       SELECT max(i) AS password, ?1 AS name FROM n";
        let config = backend::Sqlite { path, query: endless.to_owned() };
        let sqlite = Sqlite::new(&config, Duration::from_secs(5));
        let (question, turns) = (question("alice", b"word"), PasswordChecks::new(1));
        let turn = turns.turn(question.client, false).await.unwrap();
        let asked = tokio::time::timeout(Duration::from_millis(50), sqlite.ask(question, turn)).await;
        assert!(asked.is_err(), "{asked:?}");
        // It comes when the thread has ended, and without an interruption that is never.
        assert!(turns.turn(question.client, false).await.is_some());
    }
}
