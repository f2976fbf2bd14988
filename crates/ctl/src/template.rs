//! `--format`: lines as somebody wants them, from the fields that `--json` has.

use serde::Serialize;
use serde_json::Value;

use crate::output;

/// The fields of a message, as `--json` names them. `recipients` are their addresses.
pub const OF_MESSAGE: [&str; 14] = [
    "id",
    "state",
    "held",
    "held_until",
    "received",
    "expires",
    "size",
    "priority",
    "terms",
    "sender",
    "origin",
    "client",
    "message_id",
    "recipients",
];

/// The fields of a recipient and of its message.
pub const OF_RECIPIENT: [&str; 17] = [
    "id",
    "received",
    "size",
    "sender",
    "address",
    "given",
    "state",
    "destination",
    "attempts",
    "last_attempt",
    "next_attempt",
    "status",
    "text",
    "host",
    "tls",
    "via",
    "ending",
];

/// A line with places for fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(String),
}

impl Template {
    /// Reads `{id} <{sender}>\t{size}`: fields in braces, braces themselves doubled, `\t`, `\n` and `\\`.
    ///
    /// # Errors
    /// The text says what is wrong and which fields there are.
    pub fn new(text: &str, fields: &[&str]) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '\\' => plain.push(escaped(rest.next())?),
                '{' | '}' if rest.next_if_eq(&c).is_some() => plain.push(c),
                '{' => {
                    let name: String = std::iter::from_fn(|| rest.next_if(|c| *c != '}')).collect();
                    if rest.next().is_none() {
                        return Err("--format: a brace is not closed".to_owned());
                    }
                    if !fields.contains(&name.as_str()) {
                        return Err(format!("--format: no field {name:?}, only {}", fields.join(", ")));
                    }
                    parts.push(Part::Text(std::mem::take(&mut plain)));
                    parts.push(Part::Field(name));
                }
                '}' => return Err("--format: a brace that was not opened; }} is one as text".to_owned()),
                c => plain.push(c),
            }
        }
        parts.push(Part::Text(plain));
        Ok(Self(parts))
    }

    /// The line of an object, with its end.
    ///
    /// # Errors
    /// When the object cannot be written as JSON.
    pub fn line(&self, object: &impl Serialize) -> serde_json::Result<String> {
        let object = serde_json::to_value(object)?;
        let mut line = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => line.push_str(text),
                Part::Field(name) => line.push_str(&output::clean(&shown(&object[name.as_str()]))),
            }
        }
        line.push('\n');
        Ok(line)
    }
}

fn escaped(c: Option<char>) -> Result<char, String> {
    match c {
        Some('t') => Ok('\t'),
        Some('n') => Ok('\n'),
        Some('\\') => Ok('\\'),
        _ => Err("--format: \\t, \\n or \\\\".to_owned()),
    }
}

/// A value without quotes; of recipients their addresses. What is not known is empty.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            let words = list.iter().filter_map(|item| item.as_str().or(item["address"].as_str()));
            words.collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::queue::tests::{deferred, message, recipient};

    #[test]
    fn a_line_is_what_the_template_says() {
        let message = message("deferred", vec![deferred(), recipient("carol@adatum.test")]);
        let line = |text| Template::new(text, &OF_MESSAGE).unwrap().line(&message).unwrap();
        assert_eq!(
            line(r"{id}\t<{sender}> {size} {{{recipients}}} {held}\\"),
            "01N2K3P4Q5R6S\t<alice@proseware.test> 12595 {bob@adatum.test,carol@adatum.test} \\\n"
        );
    }

    #[test]
    fn what_commands_a_terminal_is_not_passed_on() {
        let line = Template::new("{text}", &OF_RECIPIENT).unwrap().line(&deferred()).unwrap();
        assert_eq!(line, "451-4.7.1 slow??451 4.7.1 down?\n");
    }

    #[test]
    fn what_is_no_template_is_refused_with_the_fields_there_are() {
        for (text, says) in [
            ("{subject}", "no field \"subject\", only id, state"),
            ("{id", "not closed"),
            ("id}", "not opened"),
            (r"\x", "\\t"),
            ("\\", "\\t"),
        ] {
            let error = Template::new(text, &OF_MESSAGE).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
