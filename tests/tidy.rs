//! Is the code where docs/architecture.md says it is?

use std::fs;
use std::path::{Path, PathBuf};

use toml::Table;

use crate::harness::repository;

/// The lines of the architecture, lowest first. A crate uses crates of lower lines only.
const LINES: [&[&str]; 5] = [
    &["smtp"],
    &["config", "runtime"],
    &["policy", "queue"],
    &["smtp-inbound", "outbound", "admin"],
    &["ctl", "daemon"],
];

/// Each of these libraries is named by one file, so that replacing it costs one file.
const SEAMS: [(&str, &str); 3] =
    [("sled", "queue"), ("mail_send", "outbound"), ("hickory_resolver", "runtime")];

/// The store on the disk is one of several that the queue can stand on. Of the engine these files know it: `lib.rs` opens it,
/// `upkeep.rs` and `metrics.rs` are about it, `spool.rs` has the words of its errors.
const KNOW_THE_DISK: [&str; 5] = ["door.rs", "lib.rs", "upkeep.rs", "metrics.rs", "spool.rs"];
/// And of the others those that operators look after it with.
const LOOK_AFTER_IT: [&str; 2] = ["admin", "ctl"];

fn crates() -> Vec<(String, PathBuf)> {
    let folders = fs::read_dir(repository().join("crates")).unwrap();
    folders
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
        .collect()
}

fn line_of(name: &str) -> usize {
    let found = LINES.iter().position(|line| line.contains(&name));
    found.unwrap_or_else(|| {
        panic!("the crate {name} stands on no line: see docs/architecture.md and LINES here")
    })
}

/// All Rust files below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path if path.extension().is_some_and(|extension| extension == "rs") => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

#[test]
fn crates_use_lower_lines_only() {
    for (name, path) in crates() {
        let manifest: Table = fs::read_to_string(path.join("Cargo.toml")).unwrap().parse().unwrap();
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(dependencies) = manifest.get(kind).and_then(toml::Value::as_table) else { continue };
            for used in dependencies.keys().filter_map(|key| key.strip_prefix("postern-")) {
                assert!(line_of(used) < line_of(&name), "{name} uses {used}, which is not on a lower line");
            }
        }
    }
}

#[test]
fn every_line_names_crates_that_exist() {
    let existing: Vec<String> = crates().into_iter().map(|(name, _)| name).collect();
    for name in LINES.concat() {
        assert!(existing.iter().any(|crate_name| crate_name == name), "there is no crate {name}");
    }
    assert_eq!(existing.len(), LINES.concat().len());
}

#[test]
fn big_libraries_are_named_in_one_place() {
    for (library, place) in SEAMS {
        let place = repository().join("crates").join(place);
        let files = crates().into_iter().flat_map(|(_, path)| sources(&path.join("src")));
        let naming: Vec<PathBuf> = files.filter(|file| file_names(file, library)).collect();
        assert!(!naming.is_empty(), "{library} is named nowhere: is it still used?");
        assert!(naming.iter().all(|file| file.starts_with(&place)), "{library} is named in {naming:?}");
    }
}

fn file_names(file: &Path, library: &str) -> bool {
    let text = fs::read_to_string(file).unwrap();
    text.lines().map(str::trim_start).any(|line| !line.starts_with("//") && names(line, library))
}

/// Whether a line of code has the library as a path: `sled::`, `use sled;`.
fn names(line: &str, library: &str) -> bool {
    line.match_indices(library).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        // Behind a colon it is another library's name for it.
        let is_whole = before.is_none_or(|c| !c.is_alphanumeric() && !"_:".contains(c));
        let after = &line[at + library.len()..];
        is_whole && (after.starts_with("::") || (line.starts_with("use ") && after.starts_with(';')))
    })
}

#[test]
fn few_know_that_the_queue_is_on_a_disk() {
    let engine = repository().join("crates/queue/src");
    let is_store =
        |file: &Path| file.starts_with(engine.join("store")) || file == engine.join("store.rs").as_path();
    let knows = |file: &Path, path: &str| {
        let text = fs::read_to_string(file).unwrap();
        text.lines().map(str::trim_start).any(|line| !line.starts_with("//") && line.contains(path))
    };
    for file in sources(&engine).into_iter().filter(|file| !is_store(file)) {
        let may = KNOW_THE_DISK.iter().any(|name| file == engine.join(name));
        assert!(may || !knows(&file, "crate::store"), "{} should speak to a Spool", file.display());
    }
    for (name, path) in crates().into_iter().filter(|(name, _)| !LOOK_AFTER_IT.contains(&name.as_str())) {
        let naming: Vec<PathBuf> = sources(&path.join("src"))
            .into_iter()
            .filter(|file| knows(file, "postern_queue::store"))
            .collect();
        assert!(naming.is_empty(), "{name} should speak to the Queue: {naming:?}");
    }
}

#[test]
fn no_module_is_a_drawer() {
    for (_, path) in crates() {
        for source in sources(&path) {
            let name = source.file_stem().unwrap().to_str().unwrap();
            assert!(!["util", "utils", "common", "helpers", "misc"].contains(&name), "{}", source.display());
        }
    }
}

#[test]
fn every_crate_begins_with_a_map() {
    for (_, path) in crates() {
        let library = path.join("src/lib.rs");
        let text = fs::read_to_string(&library).unwrap();
        assert!(text.starts_with("//! "), "{} should say what it is for", library.display());
        let modules = text.lines().filter(|line| line.starts_with("pub mod ")).count();
        let lines = text.lines().take_while(|line| line.starts_with("//!")).count();
        assert!(modules < 2 || lines > 3, "{} should say what its modules are for", library.display());
    }
}

#[test]
fn unsafe_code_is_denied_everywhere() {
    for (name, path) in crates() {
        let manifest: Table = fs::read_to_string(path.join("Cargo.toml")).unwrap().parse().unwrap();
        let inherits =
            manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
        assert_eq!(inherits, Some(true), "{name} should take the lints of the workspace");
    }
}
