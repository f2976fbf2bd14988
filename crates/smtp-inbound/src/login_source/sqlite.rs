//! A SQLite database with the hashes of passwords. The file is opened for each question, which is cheap, so that one that was
//! replaced counts at once.

use std::time::Duration;

use postern_config::backend;
use rusqlite::{Connection, OpenFlags};

use super::{Answer, Question, words};

/// The database.
#[derive(Debug)]
pub(super) struct Sqlite {
    config: backend::Sqlite,
    timeout: Duration,
}

impl Sqlite {
    pub(super) fn new(config: &backend::Sqlite, timeout: Duration) -> Self {
        Self { config: config.clone(), timeout }
    }

    pub(super) async fn ask(&self, question: Question<'_>) -> Answer {
        let (config, timeout, name) = (self.config.clone(), self.timeout, question.name.to_owned());
        let asked = tokio::task::spawn_blocking(move || look_up(&config, timeout, &name)).await;
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

fn look_up(config: &backend::Sqlite, timeout: Duration, name: &str) -> rusqlite::Result<Answer> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&config.path, flags)?;
    connection.busy_timeout(timeout)?;
    let mut statement = connection.prepare(&config.query)?;
    let columns = statement.column_count();
    let mut rows = statement.query([name])?;
    let Some(row) = rows.next()? else { return Ok(Answer::Hash { hash: None, addresses: Vec::new() }) };
    let hash: Option<String> = row.get(0)?;
    let addresses: Option<String> = if columns > 1 { row.get(1)? } else { None };
    let addresses = addresses.as_deref().map(words).unwrap_or_default();
    // Whose row would it be?
    let hash = if rows.next()?.is_some() { None } else { hash };
    Ok(Answer::Hash { hash, addresses })
}
