//! `account password`, and what is kept of a password in the file of logins.

use anyhow::anyhow;
use clap::Args;
use postern_admin::api::accounts::AccountVerb;
use postern_config::Config;
use postern_config::scram::{ScramHash, Verifier};
use postern_policy::accounts::hash_password;
use postern_policy::scram;
use toml_edit::{DocumentMut, Item, Table, value};

use super::{AccountsFile, Edited, edited_text, entries, entry, note_change, reload, state};
use crate::Session;
use crate::failure::{Exit, Failure};
use crate::password;

/// Where a new password comes from.
#[derive(Debug, Args)]
pub(super) struct NewPassword {
    /// Read the password from the first line of standard input.
    #[arg(long, conflicts_with = "generate")]
    pub password_stdin: bool,
    /// Make a password and print it, this once. The same without any of these options where there is no terminal to ask on.
    #[arg(long)]
    pub generate: bool,
    /// Take a password that is guessed easily.
    #[arg(long)]
    pub allow_weak: bool,
}

impl NewPassword {
    /// The password for this login, and whether it was made here.
    pub(super) fn take(&self, name: &str) -> Result<(String, bool), Failure> {
        let (password, made) = self.read()?;
        password::check_usable(&password).map_err(Failure::Usage)?;
        if !self.allow_weak {
            password::check(&password, name)
                .map_err(|why| Failure::Usage(format!("{why}; --allow-weak takes it all the same")))?;
        }
        Ok((password, made))
    }

    fn read(&self) -> Result<(String, bool), Failure> {
        if self.generate {
            return Ok((password::generate(), true));
        }
        if self.password_stdin {
            return Ok((password::from_stdin()?, false));
        }
        // A script that gives no password gets one.
        let Some(mut terminal) = password::Terminal::open() else {
            return Ok((password::generate(), true));
        };
        Ok(terminal.ask_new()?.map_or_else(|| (password::generate(), true), |password| (password, false)))
    }
}

/// Whose password.
#[derive(Debug, Args)]
pub struct PasswordOptions {
    /// The login, in any case.
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    password: NewPassword,
}

/// What is kept of a password.
pub(super) struct Secrets {
    pub hash: String,
    /// One for each mechanism that the configuration has verifiers for; none where the password can have none.
    pub verifiers: Vec<(ScramHash, Option<Verifier>)>,
}

/// What the file of logins has of a password.
pub(super) fn hashed(password: &str) -> Result<String, Failure> {
    Ok(hash_password(password.as_bytes()).map_err(|error| anyhow!("hashing the password: {error}"))?)
}

impl Secrets {
    pub(super) fn of(password: &str, config: &Config) -> Result<Self, Failure> {
        let hash = hashed(password)?;
        let verifiers = config.auth.verifiers().into_iter();
        let verifiers = verifiers.map(|hash| (hash, scram::verifier(password, hash))).collect();
        Ok(Self { hash, verifiers })
    }

    /// Says what programs will not be able to do with the password.
    pub(super) fn warn(&self, session: &Session) {
        for (hash, _) in self.verifiers.iter().filter(|(_, verifier)| verifier.is_none()) {
            let mechanism = hash.mechanism();
            session.note(&format!(
                "the password has characters beyond ASCII, which programs write differently for {mechanism}: the login \
                 cannot use that, and logs in with PLAIN or LOGIN"
            ));
        }
    }

    /// Puts it into the table of a login, in the place of what was there of another password.
    pub(super) fn write(&self, table: &mut Table) {
        put(table, "password", Some(&self.hash));
        for (key, hash) in [("scram", ScramHash::Sha256), ("scram_sha1", ScramHash::Sha1)] {
            let verifier = self.verifiers.iter().find(|(of, _)| *of == hash);
            let verifier = verifier.and_then(|(_, verifier)| verifier.as_ref()).map(ToString::to_string);
            put(table, key, verifier.as_deref());
        }
    }
}

/// Sets a key, or removes it; what the operator wrote behind its value stays.
fn put(table: &mut Table, key: &str, text: Option<&str>) {
    match (text, table.get_mut(key).and_then(Item::as_value_mut)) {
        (None, _) => drop(table.remove(key)),
        (Some(text), None) => drop(table.insert(key, value(text))),
        (Some(text), Some(old)) => {
            let decor = old.decor().clone();
            *old = text.into();
            *old.decor_mut() = decor;
        }
    }
}

pub(super) async fn change(
    session: &mut Session,
    config: &Config,
    options: &PasswordOptions,
) -> Result<Exit, Failure> {
    // Nobody should think of a password for nothing.
    let account = state::existing(config, &options.name)?;
    let (password, made) = options.password.take(&account)?;
    let secrets = Secrets::of(&password, config)?;
    let file = AccountsFile::open(config)?;
    file.edit(|document| replace(document, &account, &secrets))?;
    secrets.warn(session);
    let reloaded = reload(session).await?;
    if reloaded {
        note_change(session, &account, AccountVerb::Password, None).await?;
    }
    let password = made.then_some(password);
    let edited = Edited { account, password, file: file.path, reloaded, missing: None };
    session.out.answer(&edited, |edited, _| edited_text("changed the password of", edited))?;
    Ok(Exit::Done)
}

fn replace(document: &mut DocumentMut, name: &str, secrets: &Secrets) -> Result<(), Failure> {
    secrets.write(entry(entries(document)?, name)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const FILE: &str = "\
# The boss.
[[account]]
name = \"Alice\" # first login
password = \"old\" # from the old server
scram_sha1 = \"old\"
permission = \"local\"

[[account]]
name = \"bob\"
password = \"x\"
";

    #[test]
    fn a_new_password_leaves_nothing_of_the_old_one() {
        let mut document: DocumentMut = FILE.parse().unwrap();
        let verifier = scram::verifier("correct horse", ScramHash::Sha256).unwrap();
        let text = verifier.to_string();
        let secrets =
            Secrets { hash: "new".to_owned(), verifiers: vec![(ScramHash::Sha256, Some(verifier))] };
        replace(&mut document, "ALICE", &secrets).unwrap();
        let expected = FILE
            .replace("password = \"old\"", "password = \"new\"")
            .replace("scram_sha1 = \"old\"\npermission = \"local\"", "permission = \"local\"\nSCRAM")
            .replace("SCRAM", &format!("scram = \"{text}\""));
        assert_eq!(document.to_string(), expected);
        // The next one has characters that SCRAM cannot do with.
        let secrets = Secrets { hash: "newer".to_owned(), verifiers: vec![(ScramHash::Sha256, None)] };
        replace(&mut document, "alice", &secrets).unwrap();
        let expected =
            FILE.replace("scram_sha1 = \"old\"\n", "").replace("password = \"old\"", "password = \"newer\"");
        assert_eq!(document.to_string(), expected);
        let unknown = replace(&mut document, "carol", &secrets).unwrap_err();
        assert!(unknown.text().unwrap().contains("account list"));
    }
}
