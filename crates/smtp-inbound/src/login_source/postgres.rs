//! A PostgreSQL database with the hashes of passwords: over the network by TLS.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use postern_config::backend;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Answer, Columns, Hashed, Idle, Question, words};
use crate::tls::trust;

/// The database, and connections to it.
pub(super) struct Postgres {
    config: backend::Postgres,
    timeout: Duration,
    idle: Idle<Client>,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("host", &self.config.host).finish_non_exhaustive()
    }
}

impl Postgres {
    pub(super) fn new(config: &backend::Postgres, timeout: Duration, most: usize) -> Self {
        Self { config: config.clone(), timeout, idle: Idle::new(most) }
    }

    pub(super) async fn ask(&self, question: Question<'_>) -> Answer {
        while let Some(client) = self.idle.take() {
            // An error may be that the server was restarted meanwhile: then a new connection is asked.
            if !client.is_closed()
                && let Ok(answer) = self.look_up(&client, question.name).await
            {
                self.idle.give(client);
                return answer;
            }
        }
        let asked = async {
            let client = self.connect().await?;
            let answer = self.look_up(&client, question.name).await.map_err(|error| in_full(&error))?;
            Ok::<_, String>((client, answer))
        };
        match asked.await {
            Ok((client, answer)) => {
                self.idle.give(client);
                answer
            }
            Err(error) => Answer::unavailable(format!("the database at {}: {error}", self.config.host)),
        }
    }

    async fn connect(&self) -> Result<Client, String> {
        let backend::Postgres { host, port, user, database, password_file, ca_file, .. } = &self.config;
        let mut config = Config::new();
        config.host(host).port(*port).user(user).dbname(database).application_name("postern");
        config.connect_timeout(self.timeout);
        // So that the server does not go on with what nobody waits for any more.
        config.options(format!("-c statement_timeout={}", self.timeout.as_millis()));
        if let Some(path) = password_file {
            let text = tokio::fs::read_to_string(path).await;
            let text = text.map_err(|error| format!("{}: {error}", path.display()))?;
            config.password(text.lines().next().unwrap_or_default());
        }
        // The connections end when their clients are dropped; what goes wrong in them shows there.
        if !self.config.speaks_tls() {
            let connected = config.ssl_mode(SslMode::Disable).connect(NoTls).await;
            let (client, connection) = connected.map_err(|error| in_full(&error))?;
            tokio::spawn(connection);
            return Ok(client);
        }
        let tls = trust::client_config(ca_file.as_deref()).await?;
        let tls = MakeRustlsConnect::new((*tls).clone());
        let connected = config.ssl_mode(SslMode::Require).connect(tls).await;
        let (client, connection) = connected.map_err(|error| in_full(&error))?;
        tokio::spawn(connection);
        Ok(client)
    }

    async fn look_up(&self, client: &Client, name: &str) -> Result<Answer, tokio_postgres::Error> {
        let statement = client.prepare(&self.config.query).await?;
        let columns = match Columns::of(statement.columns().iter().map(|column| column.name())) {
            Ok(columns) => columns,
            Err(lacking) => return Ok(Answer::unavailable(lacking)),
        };
        let rows = client.query(&statement, &[&name]).await?;
        let [row] = rows.as_slice() else {
            // Nobody, or nobody knows who.
            return Ok(Answer::Hash(None));
        };
        let (Some(hash), Some(name)) = (row.try_get(columns.hash)?, row.try_get(columns.name)?) else {
            return Ok(Answer::Hash(None));
        };
        let addresses = columns.addresses.map_or(Ok(Vec::new()), |at| addresses(row, at))?;
        Ok(Answer::Hash(Some(Hashed { name, hash, addresses })))
    }
}

/// The column of addresses: an array, or words.
fn addresses(row: &Row, at: usize) -> Result<Vec<String>, tokio_postgres::Error> {
    if let Ok(list) = row.try_get::<_, Option<Vec<String>>>(at) {
        return Ok(list.unwrap_or_default());
    }
    Ok(row.try_get::<_, Option<String>>(at)?.as_deref().map(words).unwrap_or_default())
}

/// The library says what failed, and why only in its source.
fn in_full(error: &tokio_postgres::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}
