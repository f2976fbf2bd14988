//! Examples that do not load and commands that do not exist cost people hours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use toml::{Table, Value};

use crate::harness::tls::{self, Identity};
use crate::harness::{Setup, repository};

/// A fenced block of a Markdown file.
struct Block {
    /// `docs/operations.md:17`
    place: String,
    /// What stands behind the opening fence.
    info: String,
    text: String,
}

fn pages() -> Vec<PathBuf> {
    let mut pages = files(&repository().join("docs"), "md");
    pages.push(repository().join("README.md"));
    pages
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

fn blocks(page: &Path) -> Vec<Block> {
    let text = fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in text.lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(info), None) => {
                let page = page.strip_prefix(repository()).unwrap_or(page);
                let place = format!("{}:{}", page.display(), number + 1);
                open = Some(Block { place, info: info.trim().to_owned(), text: String::new() });
            }
            (None, Some(block)) => block.text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{}: a block is not closed", page.display());
    blocks
}

/// Runs `posternd check` on a configuration whose files are put into a folder of the test.
fn assert_loads(place: &str, text: &str) {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().to_str().unwrap();
    let mut config: Table = text.parse().unwrap_or_else(|error| panic!("{place}: {error}"));
    move_paths(&mut config, here);
    let path = folder.path().join("postern.toml");
    fs::write(&path, config.to_string()).unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_posternd")).args(["check", "--config"]).arg(&path).output().unwrap();
    assert!(output.status.success(), "{place}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Writes the files that a configuration names into the folder and lets it name them there.
fn move_paths(table: &mut Table, folder: &str) {
    for (key, value) in table.iter_mut() {
        match value {
            Value::Table(inner) => move_paths(inner, folder),
            Value::Array(list) => {
                list.iter_mut().filter_map(Value::as_table_mut).for_each(|inner| move_paths(inner, folder));
            }
            Value::String(path) => {
                let file = Path::new(folder).join(path.trim_start_matches('/'));
                let Some(content) = content_for(key) else { continue };
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(&file, content).unwrap();
                *path = file.to_str().unwrap().to_owned();
            }
            _ => {}
        }
    }
}

/// What the file behind a key of the configuration may contain; `None` for keys that name no file to be read.
fn content_for(key: &str) -> Option<String> {
    // One pair for all: a certificate must fit its key.
    static IDENTITY: std::sync::OnceLock<Identity> = std::sync::OnceLock::new();
    let identity = || IDENTITY.get_or_init(|| Identity::new(&["mail.proseware.test"]));
    match key {
        "certificate" => Some(identity().certificate_pem.clone()),
        "key" => Some(identity().key_pem.clone()),
        "ca_file" | "client_ca" => Some(tls::authority_pem()),
        "password_file" => Some("secret\n".to_owned()),
        "accounts" => Some(String::new()),
        _ => None,
    }
}

#[test]
fn configurations_in_the_documentation_load() {
    let blocks: Vec<Block> = pages().iter().flat_map(|page| blocks(page)).collect();
    let whole: Vec<&Block> = blocks.iter().filter(|block| block.info == "toml").collect();
    assert!(!whole.is_empty(), "no configuration in the documentation");
    for block in whole {
        assert_loads(&block.place, &block.text);
    }
}

#[test]
fn partial_configurations_are_at_least_toml() {
    for block in pages().iter().flat_map(|page| blocks(page)).filter(|block| block.info.starts_with("toml")) {
        let parsed: Result<Table, _> = block.text.parse();
        assert!(parsed.is_ok(), "{}: {}", block.place, parsed.unwrap_err());
    }
}

#[test]
fn logins_in_the_documentation_load() {
    let blocks: Vec<Block> = pages().iter().flat_map(|page| blocks(page)).collect();
    let logins: Vec<&Block> =
        blocks.iter().filter(|block| block.text.starts_with("# accounts.toml\n")).collect();
    assert!(logins.len() > 3, "no logins in the documentation");
    for block in logins {
        let setup = Setup::new();
        let ca = setup.folder().join("ca.pem");
        let daemon = setup.with(&format!("[tls]\nclient_ca = \"{}\"", ca.display())).prepare();
        fs::write(daemon.folder().join("accounts.toml"), &block.text).unwrap();
        let output = daemon.ctl(&["config", "check"]);
        assert_eq!(output.code, 0, "{}: {output:?}", block.place);
    }
}

#[test]
fn the_table_of_answers_fits_its_configuration() {
    let page = blocks(&repository().join("docs/relay-proofs.md"));
    let text = |info: &str| &page.iter().find(|block| block.info == info).unwrap().text;
    let setup = Setup::new();
    fs::write(setup.folder().join("relay-tests.toml"), text("toml,questions")).unwrap();
    let daemon = setup.prepare();
    // The logins are those of the harness.
    fs::write(daemon.config(), text("toml,tested")).unwrap();
    let output = daemon.ctl(&["policy", "test"]);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(output.stdout.contains("8 questions, each answered as expected"), "{}", output.stdout);
}

#[test]
fn the_questions_about_blocklists_fit_their_configuration() {
    let page = blocks(&repository().join("docs/relay-blocklists.md"));
    let text = |info: &str| &page.iter().find(|block| block.info == info).unwrap().text;
    let daemon = Setup::new().prepare();
    let table = daemon.folder().join("lists.toml");
    fs::write(&table, text("toml,questions")).unwrap();
    fs::write(daemon.config(), text("toml,lists")).unwrap();
    let output = daemon.ctl(&["policy", "test", table.to_str().unwrap()]);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(output.stdout.contains("4 questions, each answered as expected"), "{}", output.stdout);
}

#[test]
fn example_configurations_load() {
    let examples = files(&repository().join("config"), "toml");
    assert!(!examples.is_empty(), "no examples in config/");
    for example in examples {
        let text = fs::read_to_string(&example).unwrap();
        // Logins have a file of their own.
        if !text.contains("[[account]]") {
            assert_loads(&example.display().to_string(), &text);
        }
    }
}

#[test]
fn commands_in_the_documentation_exist() {
    let mut seen = 0;
    for block in pages().iter().flat_map(|page| blocks(page)) {
        if !["sh", "console", "shell", "bash"].contains(&block.info.as_str()) {
            continue;
        }
        for line in block.text.replace("\\\n", " ").lines() {
            let words: Vec<&str> = line.trim_start_matches(['$', '#', ' ']).split_whitespace().collect();
            let words = words.strip_prefix(&["sudo"]).unwrap_or(&words);
            let program = match words.first() {
                Some(&"posternctl") => env!("CARGO_BIN_EXE_posternctl"),
                Some(&"posternd") => env!("CARGO_BIN_EXE_posternd"),
                _ => continue,
            };
            assert_command(&block.place, program, &words[1..]);
            seen += 1;
        }
    }
    assert!(seen > 0, "no commands in the documentation");
}

/// The subcommands must exist and know the options.
fn assert_command(place: &str, program: &str, words: &[&str]) {
    let mut help = help(program, &[]).unwrap();
    let mut subcommands: Vec<&str> = Vec::new();
    for word in words.iter().take_while(|word| !["|", ">", "&&", "<", "#"].contains(word)) {
        if let Some(option) = word.strip_prefix("--") {
            let name = option.split('=').next().unwrap();
            assert!(help.contains(&format!("--{name}")), "{place}: {subcommands:?} has no --{name}");
        } else if help.contains("\nCommands:")
            && help.lines().any(|line| line.trim_start().starts_with(&format!("{word} ")))
        {
            subcommands.push(word);
            help = self::help(program, &subcommands)
                .unwrap_or_else(|| panic!("{place}: no command {subcommands:?}"));
        }
    }
    // Where it does something without a subcommand, that way stands first.
    let usage = help.lines().find(|line| line.starts_with("Usage:"));
    let needs_more = usage.is_some_and(|usage| usage.contains("<COMMAND>"));
    assert!(!needs_more, "{place}: {words:?} names no command");
}

fn help(program: &str, subcommands: &[&str]) -> Option<String> {
    let output = Command::new(program).args(subcommands).arg("--help").output().unwrap();
    output.status.success().then(|| format!("\n{}", String::from_utf8_lossy(&output.stdout)))
}
