//! Where lines that an operator is told to add can be put, so that the configuration still loads with them.
//!
//! TOML lets a table be added at the end of a file unless the file has its key in another form already: behind
//! `relay.grants = [...]` no `[[relay.grants]]` may follow. Then a file of its own in `conf.d` takes the lines, and what may be
//! set in one place only is changed where it is.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use crate::load::PARTS;
use crate::source::Sources;

/// What operators are told to add.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// `[[relay.grants]]`
    Grant,
    /// `[[relay.hosts]]`
    Host,
    /// `[[relay.certificates]]`
    Certificate,
    /// `[[relay.trusted_networks]]`
    TrustedNetwork,
    /// `[[relay.relay_domains]]`
    RelayDomain,
    /// `[relay.temporary]`
    Temporary,
    /// `dnsbl_exempt` in `[policy]`
    BlocklistExempt,
}

impl Block {
    const ALL: [Self; 7] = [
        Self::Grant,
        Self::Host,
        Self::Certificate,
        Self::TrustedNetwork,
        Self::RelayDomain,
        Self::Temporary,
        Self::BlocklistExempt,
    ];

    /// Its first line.
    pub fn header(self) -> &'static str {
        match self {
            Self::Grant => "[[relay.grants]]",
            Self::Host => "[[relay.hosts]]",
            Self::Certificate => "[[relay.certificates]]",
            Self::TrustedNetwork => "[[relay.trusted_networks]]",
            Self::RelayDomain => "[[relay.relay_domains]]",
            Self::Temporary => "[relay.temporary]",
            Self::BlocklistExempt => "[policy]",
        }
    }

    /// The key that may be set in one place only; none where entries are appended.
    fn single(self) -> Option<[&'static str; 3]> {
        match self {
            Self::Temporary => Some(["relay", "temporary", "enabled"]),
            Self::BlocklistExempt => Some(["policy", "dnsbl_exempt", ""]),
            _ => None,
        }
    }
}

/// Where a block goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The end of this file.
    EndOf(PathBuf),
    /// This file, which is not there yet.
    NewFile(PathBuf),
    /// Nowhere: the key has a value, which must be changed. This is the main file.
    Change(PathBuf),
}

/// Where each block goes in one configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    main: PathBuf,
    /// In the order of [`Block::ALL`].
    fits: [Fit; 7],
    /// A file of `conf.d` that is not there.
    free: PathBuf,
    /// Where each entry of a list stands, in the order of [`List::ALL`].
    entries: [Vec<PathBuf>; 3],
}

/// A list of which operators are told to change an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// `[[relay.grants]]`
    Grants,
    /// `[[relay.relay_domains]]`
    RelayDomains,
    /// `[[domain]]`
    Domains,
}

impl List {
    const ALL: [Self; 3] = [Self::Grants, Self::RelayDomains, Self::Domains];

    fn path(self) -> &'static [&'static str] {
        match self {
            Self::Grants => &["relay", "grants"],
            Self::RelayDomains => &["relay", "relay_domains"],
            Self::Domains => &["domain"],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    End,
    Part,
    No,
}

impl Default for Places {
    /// Of a configuration that came from no file.
    fn default() -> Self {
        let main = PathBuf::from("postern.toml");
        Self {
            free: main.with_file_name(PARTS).join("relay.toml"),
            main,
            fits: [Fit::End; 7],
            entries: Default::default(),
        }
    }
}

impl Places {
    /// Looks at the text of the main file, and at what all files say together.
    pub(crate) fn look(main: &Path, sources: &Sources, whole: &DeTable<'_>) -> Self {
        let text = sources.first();
        let fit = |block: Block| {
            if block.single().is_some_and(|path| is_set(whole, &path)) {
                return Fit::No;
            }
            let appended = format!("{text}\n{}\n", block.header());
            if DeTable::parse(&appended).is_ok() { Fit::End } else { Fit::Part }
        };
        let entries = List::ALL.map(|list| files_of(list, sources, whole));
        Self { main: main.to_owned(), fits: Block::ALL.map(fit), free: free_part(main, sources), entries }
    }

    /// The file in which the entry of a list stands that has this place in the configuration.
    pub fn file_of(&self, list: List, at: usize) -> &Path {
        let files = List::ALL.iter().zip(&self.entries).find(|(known, _)| **known == list);
        files.and_then(|(_, files)| files.get(at)).unwrap_or(&self.main)
    }

    /// Where a block goes.
    pub fn of(&self, block: Block) -> Place {
        let fit = Block::ALL.iter().zip(self.fits).find(|(known, _)| **known == block).map(|(_, fit)| fit);
        match fit {
            Some(Fit::Part) => Place::NewFile(self.free.clone()),
            Some(Fit::No) => Place::Change(self.main.clone()),
            Some(Fit::End) | None => Place::EndOf(self.main.clone()),
        }
    }

    /// The main file.
    pub fn main(&self) -> &Path {
        &self.main
    }
}

/// `conf.d/relay.toml`, or the first numbered one that no file of the configuration has.
fn free_part(main: &Path, sources: &Sources) -> PathBuf {
    let folder = main.with_file_name(PARTS);
    let taken: Vec<_> = sources.paths().filter_map(Path::file_name).collect();
    let numbered = (2..).map(|number| format!("relay-{number}.toml"));
    let mut names = std::iter::once("relay.toml".to_owned()).chain(numbered);
    let free = names.find(|name| !taken.contains(&name.as_ref()));
    folder.join(free.unwrap_or_default())
}

fn files_of(list: List, sources: &Sources, whole: &DeTable<'_>) -> Vec<PathBuf> {
    let mut table = Some(whole);
    let mut found = None;
    for key in list.path() {
        found = table.and_then(|table| table.get(*key)).map(|value| value.get_ref());
        table = found.and_then(DeValue::as_table);
    }
    let entries = found.and_then(DeValue::as_array).into_iter().flat_map(|array| array.iter());
    entries.map(|entry| sources.file_of(&entry.span()).map_or_else(PathBuf::new, Path::to_owned)).collect()
}

fn is_set(table: &DeTable<'_>, path: &[&str]) -> bool {
    let [first, rest @ ..] = path else { return true };
    if first.is_empty() {
        return true;
    }
    match table.get(*first).map(|value| value.get_ref()) {
        Some(DeValue::Table(inner)) => is_set(inner, rest),
        Some(_) => true,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn places(main: &str, parts: &str) -> Places {
        let whole = format!("{main}\n{parts}");
        let path = Path::new("/etc/postern/postern.toml");
        let mut sources = Sources::default();
        sources.add(path, main.to_owned());
        Places::look(path, &sources, DeTable::parse(&whole).unwrap().get_ref())
    }

    #[test]
    fn what_has_another_form_already_goes_to_a_file_of_its_own() {
        let end = Place::EndOf("/etc/postern/postern.toml".into());
        let part = Place::NewFile("/etc/postern/conf.d/relay.toml".into());
        for (text, block, place) in [
            ("hostname = \"x.test\"", Block::Grant, &end),
            ("[relay]\nhost_refresh = \"1m\"", Block::Grant, &end),
            ("[[relay.grants]]\nlabel = \"a\"", Block::Grant, &end),
            ("[relay]\ngrants = [{ label = \"a\" }]", Block::Grant, &part),
            ("[relay]\ngrants = []", Block::Host, &end),
            ("[relay]\ntemporary = { max_ttl = \"1h\" }", Block::Temporary, &part),
            ("[[policy.dnsbl]]\nzone = \"x\"", Block::BlocklistExempt, &end),
            ("[policy]\ndmarc = 1", Block::BlocklistExempt, &part),
        ] {
            assert_eq!(places(text, "").of(block), *place, "{text}");
        }
    }

    #[test]
    fn entries_are_changed_in_their_files_and_new_files_are_free() {
        let folder = tempfile::tempdir().unwrap();
        let grant = |label: &str| {
            format!(
                "[[relay.grants]]\nlabel = \"{label}\"\nnetwork = \"192.0.2.40/32\"\nsenders = [\"*\"]\nrecipients = [\"*\"]\nrate = \"1/h\"\n"
            )
        };
        let (main, parts) = (folder.path().join("postern.toml"), folder.path().join(PARTS));
        std::fs::create_dir(&parts).unwrap();
        std::fs::write(&main, format!("hostname = \"mail.proseware.test\"\n{}", grant("a"))).unwrap();
        for name in ["relay.toml", "relay-2.toml"] {
            std::fs::write(parts.join(name), grant(name)).unwrap();
        }
        let config = crate::load(&main).unwrap().config;
        for (at, grant) in config.relay.grants.iter().enumerate() {
            let file = config.places.file_of(List::Grants, at);
            assert_eq!(file, if grant.label == "a" { main.clone() } else { parts.join(&grant.label) });
        }
        assert_eq!(config.relay.grants.len(), 3);
        assert_eq!(config.places.file_of(List::Domains, 0), main);
        assert_eq!(config.places.free, parts.join("relay-3.toml"));
    }

    #[test]
    fn what_is_set_once_is_changed_where_it_is() {
        let change = Place::Change("/etc/postern/postern.toml".into());
        let temporary = "[relay.temporary]\nenabled = false";
        assert_eq!(places(temporary, "").of(Block::Temporary), change);
        assert_eq!(places("", temporary).of(Block::Temporary), change);
        assert_eq!(places("[policy]\ndnsbl_exempt = []", "").of(Block::BlocklistExempt), change);
    }
}
