//! Commands that are shown to be copied: with the options by which this run found its server.
//!
//! Advice comes from everywhere: from the rules, the queue, the daemon, this program. All of it names commands as they are on a
//! server at its usual place. Whoever named another configuration or socket needs them with these options, else they ask another
//! server or none. They are put in here and nowhere else, when text for people is written. What is printed with `--json` stays
//! as it is: a program knows how it asked.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use postern_policy::shell::word;

use crate::{DEFAULT_CONFIG, Global};

/// The name under which commands are advised.
const PROGRAM: &str = "posternctl ";
/// How the daemon is started by hand, with a word in the place of the file.
const START: &str = "posternd --config FILE";

/// The options by which this run found its server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Advice {
    /// As they are typed, with a space behind each.
    options: String,
    /// The configuration, if it was named.
    config: Option<String>,
    /// What may follow the name of the program in a command. Elsewhere it is prose about the program.
    nouns: Vec<String>,
}

impl Advice {
    /// Of a command line.
    pub fn of(global: &Global) -> Self {
        let config = (global.config != Path::new(DEFAULT_CONFIG)).then(|| typed(&global.config));
        let given = [("--config", config.clone()), ("--socket", global.socket.as_deref().map(typed))];
        let options: String =
            given.iter().filter_map(|(name, value)| Some(format!("{name} {} ", value.as_ref()?))).collect();
        let nouns = match options.is_empty() {
            true => Vec::new(),
            false => {
                crate::command().get_subcommands().map(|command| command.get_name().to_owned()).collect()
            }
        };
        Self { options, config, nouns }
    }

    /// The text with these options in every command of ours that stands in it.
    pub fn in_text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.options.is_empty() || !text.contains("postern") {
            return text.into();
        }
        let mut whole = String::with_capacity(text.len() + 4 * self.options.len());
        let mut rest = text;
        while let Some(at) = rest.find(PROGRAM) {
            let (before, after) = (&rest[..at], &rest[at + PROGRAM.len()..]);
            whole += before;
            whole += PROGRAM;
            if !ends_in_name(before) && self.is_command(after) {
                whole += &self.options;
            }
            rest = after;
        }
        whole += rest;
        match &self.config {
            Some(config) => whole.replace(START, &START.replace("FILE", config)).into(),
            None => whole.into(),
        }
    }

    fn is_command(&self, after: &str) -> bool {
        let end = after.find(|c: char| !c.is_alphanumeric() && c != '-').unwrap_or(after.len());
        self.nouns.iter().any(|noun| *noun == after[..end])
    }
}

/// Whether what follows is the end of a longer name, such as `/opt/bin/posternctl`: that is a command of somebody else's making.
fn ends_in_name(before: &str) -> bool {
    before.ends_with(|c: char| c.is_alphanumeric() || matches!(c, '/' | '-' | '_' | '.'))
}

/// A path as it is typed: pasted elsewhere, it leads to the same file.
fn typed(path: &Path) -> String {
    // Where there is no current folder, a name that was given is all that there is.
    let path: PathBuf = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    word(&path.display().to_string()).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn advice(config: &str, socket: Option<&str>) -> Advice {
        Advice::of(&Global {
            config: config.into(),
            socket: socket.map(PathBuf::from),
            json: false,
            no_color: false,
        })
    }

    #[test]
    fn at_the_usual_place_commands_stay_as_they_are() {
        let text = "end it: `posternctl ban remove 192.0.2.0/24`, or start it with `posternd --config FILE`";
        assert_eq!(advice(DEFAULT_CONFIG, None).in_text(text), text);
    }

    #[test]
    fn what_was_given_is_in_every_command() {
        let advice = advice("/srv/postern.toml", Some("/run/b.sock"));
        let text = "mend: posternctl domain records a.test; `posternctl reload`, then posternctl status\nposternctl doctor";
        let options = "--config /srv/postern.toml --socket /run/b.sock";
        let expected = format!(
            "mend: posternctl {options} domain records a.test; `posternctl {options} reload`, then posternctl {options} status\n\
             posternctl {options} doctor"
        );
        assert_eq!(advice.in_text(text), expected);
        assert_eq!(advice.in_text("`posternd --config FILE`"), "`posternd --config /srv/postern.toml`");
    }

    #[test]
    fn prose_and_other_programs_are_left_alone() {
        let advice = advice("/srv/postern.toml", None);
        for text in [
            "posternctl writes argon2id",
            "posternctl: no such file",
            "/opt/bin/posternctl status",
            "posternctl ",
            "posternctl statusé is posternctl",
        ] {
            assert_eq!(advice.in_text(text), text);
        }
    }

    #[test]
    fn a_command_may_be_pasted_in_another_folder_and_by_a_shell() {
        let here = std::env::current_dir().unwrap();
        let text = advice("my server.toml", None).in_text("posternctl status").into_owned();
        assert_eq!(text, format!("posternctl --config '{}' status", here.join("my server.toml").display()));
    }
}
