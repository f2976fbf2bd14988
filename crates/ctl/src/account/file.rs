//! The file of logins: one edit at a time, its comments and its owner kept, and nothing put in place that would not load.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context;
use nix::unistd::{Uid, User};
use postern_admin::policy_test;
use postern_config::{Config, Diagnostic, render};
use rustix::fs::{FlockOperation, flock};
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table};

use crate::failure::Failure;
use crate::policy::words;

/// The mode of a new file: hashes are for root and the daemon's group.
pub(super) const MODE: u32 = 0o640;

/// What the tables of `policy.tests` have to say in an edit of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tables {
    /// Their questions must be answered as expected.
    Must,
    /// They are heard: what locks a login does not wait for them.
    May,
}

/// The file of logins, for one edit at a time.
pub(super) struct AccountsFile {
    pub path: PathBuf,
    /// The configuration that it is part of.
    configuration: PathBuf,
    /// Locked as long as this value lives, so that two edits cannot undo each other.
    folder: File,
    /// Who should own a new file.
    daemon: Option<User>,
}

impl AccountsFile {
    pub(super) fn open(config: &Config) -> Result<Self, Failure> {
        // Through links, so that renaming over it replaces the file and not the link.
        let path = fs::canonicalize(&config.auth.accounts).unwrap_or_else(|_| config.auth.accounts.clone());
        let parent = path.parent().unwrap_or(Path::new("/"));
        let folder = File::open(parent).with_context(|| format!("opening {}", parent.display()))?;
        flock(&folder, FlockOperation::LockExclusive).context("waiting for another edit to end")?;
        let daemon = User::from_name(config.user.as_deref().unwrap_or("postern")).unwrap_or_default();
        Ok(Self { path, configuration: config.path.clone(), folder, daemon })
    }

    /// Changes the file in one step: whoever reads it meanwhile, or after a crash, sees the old or the new one. What the
    /// daemon would not load is not put in place.
    pub(super) fn edit(
        &self,
        change: impl FnOnce(&mut DocumentMut) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.edit_against(Tables::Must, change).map(drop)
    }

    /// The same; what the tables of `policy.tests` have against it, where they are only heard.
    pub(super) fn edit_against(
        &self,
        tables: Tables,
        change: impl FnOnce(&mut DocumentMut) -> Result<(), Failure>,
    ) -> Result<Vec<Diagnostic>, Failure> {
        let before = match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            read => read.with_context(|| format!("reading {}", self.path.display()))?,
        };
        let mut document: DocumentMut =
            before.parse().with_context(|| format!("reading {}", self.path.display()))?;
        change(&mut document)?;
        let new = self.write_beside(&document.to_string())?;
        let replaced = self.replace_with(&new, tables);
        if replaced.is_err() {
            // What is left of a failed edit is of no use; the failure itself is what counts.
            let _ = fs::remove_file(&new);
        }
        replaced
    }

    pub(super) fn replace_with(&self, new: &Path, tables: Tables) -> Result<Vec<Diagnostic>, Failure> {
        let left = |problem: &dyn std::fmt::Display| {
            // The new file has a name of its own, which is gone when somebody looks for it.
            let new = new.display().to_string();
            let problem = problem.to_string().replace(&new, &self.path.display().to_string());
            Failure::Finding(format!(
                "the file would not load with this change, so it is left as it was; places are those of the changed file\n{problem}"
            ))
        };
        let loaded = postern_config::load_with_accounts(&self.configuration, new);
        let config = loaded.map_err(|error| left(&error))?.config;
        let problems = policy_test::problems(&config, &words(&config), SystemTime::now());
        let wrong = problems.errors();
        if tables == Tables::Must && !wrong.is_empty() {
            return Err(left(&render(&wrong)));
        }
        fs::rename(new, &self.path).with_context(|| format!("replacing {}", self.path.display()))?;
        self.folder.sync_all().context("syncing the directory")?;
        Ok([problems.locked, wrong].concat())
    }

    fn write_beside(&self, text: &str) -> anyhow::Result<PathBuf> {
        self.beside(|file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
    }

    /// A new file with what `fill` writes. When it fails nothing is left: there are hashes in it.
    pub(super) fn beside(
        &self,
        fill: impl FnOnce(&mut File) -> std::io::Result<()>,
    ) -> anyhow::Result<PathBuf> {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let new = self.path.with_file_name(name);
        let context = || format!("writing {}", new.display());
        let mut file =
            File::options().write(true).create_new(true).mode(0o600).open(&new).with_context(context)?;
        let filled = self.own_like_before(&file).and_then(|()| fill(&mut file));
        if filled.is_err() {
            // The failure itself is what counts.
            let _ = fs::remove_file(&new);
        }
        filled.with_context(context)?;
        Ok(new)
    }

    /// Mode and owner of the file it replaces; a new one is root's, and readable for the daemon's group.
    fn own_like_before(&self, file: &File) -> std::io::Result<()> {
        let root = Uid::effective().is_root();
        match fs::metadata(&self.path) {
            Ok(before) => {
                if root {
                    fchown(file, Some(before.uid()), Some(before.gid()))?;
                }
                file.set_permissions(fs::Permissions::from_mode(before.mode() & 0o7777))
            }
            Err(_) => {
                if let Some(daemon) = self.daemon.as_ref().filter(|_| root) {
                    fchown(file, None, Some(daemon.gid.as_raw()))?;
                }
                file.set_permissions(fs::Permissions::from_mode(MODE))
            }
        }
    }
}

pub(super) fn fold(name: &str) -> String {
    name.trim().to_lowercase()
}

pub(super) fn entries(document: &mut DocumentMut) -> Result<&mut ArrayOfTables, Failure> {
    let item = document.entry("account").or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
    item.as_array_of_tables_mut().ok_or_else(|| {
        Failure::Finding("the logins are not written as [[account]] tables; edit the file by hand".to_owned())
    })
}

pub(super) fn no_account(name: &str) -> Failure {
    Failure::Finding(format!("there is no account {name:?}: see `posternctl account list`"))
}

/// The table of a login.
pub(super) fn entry<'a>(entries: &'a mut ArrayOfTables, name: &str) -> Result<&'a mut Table, Failure> {
    position(entries, name).and_then(|at| entries.get_mut(at)).ok_or_else(|| no_account(name))
}

pub(super) fn position(entries: &ArrayOfTables, name: &str) -> Option<usize> {
    let is_it = |table: &Table| {
        table.get("name").and_then(Item::as_str).is_some_and(|known| fold(known) == fold(name))
    };
    entries.iter().position(is_it)
}
