//! Where lines that an operator is told to add can be put, so that the configuration still loads with them.
//!
//! TOML lets a table be added at the end of a file unless the file has its key in another form already: behind
//! `relay.grants = [...]` no `[[relay.grants]]` may follow. Then a file of its own in `conf.d` takes the lines, and what may be
//! set in one place only is changed where it is.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use crate::load::PARTS;

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
    /// A new file in this folder.
    NewFileIn(PathBuf),
    /// Nowhere: the key has a value, which must be changed. This is the main file.
    Change(PathBuf),
}

/// Where each block goes in one configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    main: PathBuf,
    /// In the order of [`Block::ALL`].
    fits: [Fit; 7],
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
        Self { main: PathBuf::from("postern.toml"), fits: [Fit::End; 7] }
    }
}

impl Places {
    /// Looks at the text of the main file, and at what all files say together.
    pub(crate) fn look(main: &Path, text: &str, whole: &DeTable<'_>) -> Self {
        let fit = |block: Block| {
            if block.single().is_some_and(|path| is_set(whole, &path)) {
                return Fit::No;
            }
            let appended = format!("{text}\n{}\n", block.header());
            if DeTable::parse(&appended).is_ok() { Fit::End } else { Fit::Part }
        };
        Self { main: main.to_owned(), fits: Block::ALL.map(fit) }
    }

    /// Where a block goes.
    pub fn of(&self, block: Block) -> Place {
        let fit = Block::ALL.iter().zip(self.fits).find(|(known, _)| **known == block).map(|(_, fit)| fit);
        match fit {
            Some(Fit::Part) => Place::NewFileIn(self.main.with_file_name(PARTS)),
            Some(Fit::No) => Place::Change(self.main.clone()),
            Some(Fit::End) | None => Place::EndOf(self.main.clone()),
        }
    }

    /// The main file.
    pub fn main(&self) -> &Path {
        &self.main
    }
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
        Places::look(Path::new("/etc/postern/postern.toml"), main, DeTable::parse(&whole).unwrap().get_ref())
    }

    #[test]
    fn what_has_another_form_already_goes_to_a_file_of_its_own() {
        let end = Place::EndOf("/etc/postern/postern.toml".into());
        let part = Place::NewFileIn("/etc/postern/conf.d".into());
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
    fn what_is_set_once_is_changed_where_it_is() {
        let change = Place::Change("/etc/postern/postern.toml".into());
        let temporary = "[relay.temporary]\nenabled = false";
        assert_eq!(places(temporary, "").of(Block::Temporary), change);
        assert_eq!(places("", temporary).of(Block::Temporary), change);
        assert_eq!(places("[policy]\ndnsbl_exempt = []", "").of(Block::BlocklistExempt), change);
    }
}
