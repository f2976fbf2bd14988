//! `account grant` and `account revoke`: the addresses and domains that a login may send as.

use clap::Args;
use postern_admin::api::accounts::AccountVerb;
use postern_config::Config;
use postern_smtp::Domain;
use toml_edit::{Array, DocumentMut, Item, Table, value};

use super::{AccountsFile, Edited, edited_text, entries, entry, fold, note_change, reload, send_as, state};
use crate::Session;
use crate::failure::{Exit, Failure};
use crate::output;

/// Whose senders, and which.
#[derive(Debug, Args)]
pub struct Options {
    /// The login, in any case.
    #[arg(value_name = "NAME")]
    name: String,
    /// An address, `@domain` for all of a domain, or `*`; may be given several times.
    #[arg(long = "send-as", value_name = "ADDRESS", value_parser = send_as)]
    send_as: Vec<String>,
    /// A domain for `--permission local`, and all of its addresses for `listed`; may be given several times.
    #[arg(long = "domain", value_name = "DOMAIN")]
    domains: Vec<Domain>,
}

impl Options {
    /// The keys of the file, and what is put into or taken out of each.
    fn lists(&self) -> [(&'static str, Vec<&str>); 2] {
        let senders = self.send_as.iter().map(String::as_str).collect();
        let domains = self.domains.iter().map(Domain::as_str).collect();
        [("send_as", senders), ("domains", domains)]
    }

    /// `send_as shared@proseware.test, domains adatum.test`
    fn words(&self) -> String {
        let named = self.lists().into_iter().flat_map(|(key, texts)| {
            texts.into_iter().map(move |text| format!("{key} {text}")).collect::<Vec<_>>()
        });
        named.collect::<Vec<_>>().join(", ")
    }
}

/// Whether senders are given or taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Grant,
    Revoke,
}

pub(super) async fn change(
    session: &mut Session,
    config: &Config,
    options: &Options,
    way: Way,
) -> Result<Exit, Failure> {
    if options.send_as.is_empty() && options.domains.is_empty() {
        return Err(Failure::Usage("which senders? Name them with --send-as or --domain".to_owned()));
    }
    let account = state::existing(config, &options.name)?;
    let file = AccountsFile::open(config)?;
    file.edit(|document| edit(document, &account, options, way))?;
    let reloaded = reload(session).await?;
    let (verb, done) = match way {
        Way::Grant => (AccountVerb::Grant, "may now send as more:"),
        Way::Revoke => (AccountVerb::Revoke, "may now send as less:"),
    };
    if reloaded {
        note_change(session, &account, verb, Some(options.words())).await?;
    }
    let edited = Edited { account, password: None, file: file.path, reloaded, missing: None };
    session.out.answer(&edited, |edited, _| edited_text(done, edited))?;
    Ok(Exit::Done)
}

fn edit(document: &mut DocumentMut, name: &str, options: &Options, way: Way) -> Result<(), Failure> {
    let table = entry(entries(document)?, name)?;
    let mut changed = false;
    for (key, texts) in options.lists() {
        for text in texts {
            changed |= match way {
                Way::Grant => add(table, key, text)?,
                Way::Revoke => take(table, key, text)?,
            };
        }
    }
    if changed {
        return Ok(());
    }
    let (name, words) = (output::clean(name), options.words());
    Err(Failure::Finding(match way {
        Way::Grant => format!("{name} has it already: {words}"),
        Way::Revoke => {
            format!("{name} was never granted it: {words}; `posternctl account list` shows what was")
        }
    }))
}

/// Whether the list has it only now.
fn add(table: &mut Table, key: &str, text: &str) -> Result<bool, Failure> {
    let list = table.entry(key).or_insert_with(|| value(Array::new())).as_array_mut();
    let list = list.ok_or_else(|| no_list(key))?;
    if position(list, text).is_some() {
        return Ok(false);
    }
    list.push(text);
    Ok(true)
}

/// Whether the list had it.
fn take(table: &mut Table, key: &str, text: &str) -> Result<bool, Failure> {
    let Some(item) = table.get_mut(key) else { return Ok(false) };
    let list = Item::as_array_mut(item).ok_or_else(|| no_list(key))?;
    let Some(at) = position(list, text) else { return Ok(false) };
    list.remove(at);
    if list.is_empty() {
        table.remove(key);
    }
    Ok(true)
}

fn position(list: &Array, text: &str) -> Option<usize> {
    list.iter().position(|item| item.as_str().is_some_and(|item| fold(item) == fold(text)))
}

fn no_list(key: &str) -> Failure {
    Failure::Finding(format!("`{key}` of the login is no list: mend the file by hand"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const FILE: &str = "\
# The boss.
[[account]]
name = \"Alice\"
password = \"x\"
send_as = [\"shared@proseware.test\"] # since May

[[account]]
name = \"bob\"
password = \"x\"
";

    fn options(send_as: &[&str], domains: &[&str]) -> Options {
        Options {
            name: "ALICE".to_owned(),
            send_as: send_as.iter().map(|text| (*text).to_owned()).collect(),
            domains: domains.iter().map(|text| Domain::parse(text).unwrap()).collect(),
        }
    }

    #[test]
    fn what_is_granted_and_revoked_is_all_that_changes() {
        let mut document: DocumentMut = FILE.parse().unwrap();
        let more = options(&["desk@proseware.test", "Shared@proseware.test"], &["adatum.test"]);
        edit(&mut document, "alice", &more, Way::Grant).unwrap();
        let expected = FILE.replace(
            "[\"shared@proseware.test\"] # since May\n",
            "[\"shared@proseware.test\", \"desk@proseware.test\"] # since May\ndomains = [\"adatum.test\"]\n",
        );
        assert_eq!(document.to_string(), expected);
        let again = edit(&mut document, "alice", &more, Way::Grant).unwrap_err();
        assert!(again.text().unwrap().contains("has it already"));
        let less = options(&["DESK@proseware.test"], &["adatum.test"]);
        edit(&mut document, "alice", &less, Way::Revoke).unwrap();
        assert_eq!(document.to_string(), FILE);
        let never = edit(&mut document, "alice", &less, Way::Revoke).unwrap_err();
        assert!(never.text().unwrap().contains("was never granted it: send_as DESK@proseware.test"));
    }

    #[test]
    fn a_login_that_is_not_there_and_a_list_that_is_none_are_said() {
        let more = options(&["desk@proseware.test"], &[]);
        let mut document: DocumentMut = FILE.parse().unwrap();
        assert!(edit(&mut document, "carol", &more, Way::Grant).is_err());
        let mut document: DocumentMut = FILE.replace("[\"shared@proseware.test\"]", "7").parse().unwrap();
        assert!(
            edit(&mut document, "alice", &more, Way::Grant).unwrap_err().text().unwrap().contains("no list")
        );
    }
}
