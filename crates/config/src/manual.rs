//! The reference manual, `docs/config.md`, from the types and comments of this crate.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use crate::Config;
use crate::account::AccountsFile;
use crate::units::{format_duration, format_size};

const INTRODUCTION: &str = "\
# Configuration

<!-- Generated from crates/config. Do not edit: change the comments there and run
     POSTERN_UPDATE_DOCS=1 cargo test -p postern-config -->

The configuration is `/etc/postern/postern.toml` and, beside it, `conf.d/*.toml` in the order of their names. Tables of
several files are merged, arrays of tables such as `[[domain]]` appended; any other key may be set in one place only.
Relative paths count from the directory of `postern.toml`. A key that is not in this manual is an error. `posternd check`
reads everything and reports what is wrong with file, line and column.

- A *duration* is a string of a number and `ms`, `s`, `m`, `h` or `d`: `\"30s\"`, `\"1.5h\"`.
- A *size* is a string of a number and `B`, `KiB`, `MiB` or `GiB`: `\"25MiB\"`.
";

/// The manual in Markdown.
pub fn markdown() -> String {
    let mut manual = Manual { text: INTRODUCTION.to_owned(), root: schemars::schema_for!(Config).to_value() };
    let root = manual.root.clone();
    manual.table("postern.toml", "The keys in front of all tables.", &root, "");
    manual.root = schemars::schema_for!(AccountsFile).to_value();
    let root = manual.root.clone();
    manual.tables(&root, "", " in accounts.toml");
    manual.text
}

struct Manual {
    text: String,
    /// The schema that is being written, for its `$ref`s.
    root: Value,
}

impl Manual {
    /// A heading, the keys of the table, and then the tables below it.
    fn table(&mut self, title: &str, description: &str, schema: &Value, name: &str) {
        // Writing to a string cannot fail.
        let _ = write!(self.text, "\n## {title}\n\n{}\n", one_line(description));
        let mut keys: Vec<_> = properties(schema).filter(|(_, key)| self.nested(key).is_none()).collect();
        keys.sort_by_key(|(key, _)| !is_required(key, schema));
        let rows: Vec<String> =
            keys.into_iter().map(|(key, property)| self.row(key, property, schema)).collect();
        if !rows.is_empty() {
            let _ = write!(self.text, "\n| key | type | default | |\n|---|---|---|---|\n{}", rows.concat());
        }
        self.tables(schema, name, "");
    }

    fn tables(&mut self, schema: &Value, name: &str, suffix: &str) {
        let nested: Vec<_> = properties(schema)
            .filter_map(|(key, property)| Some((key, property, self.nested(property)?)))
            .collect();
        for (key, property, (target, is_array)) in nested {
            let name = if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
            let title = if is_array { format!("[[{name}]]") } else { format!("[{name}]") };
            let about = joined(text(property, "description"), text(&target, "description"));
            self.table(&format!("`{title}`{suffix}"), &about, &target, &name);
        }
    }

    fn row(&self, key: &str, property: &Value, table: &Value) -> String {
        let resolved = self.resolve(property);
        let mut about = one_line(text(property, "description"));
        for word in resolved["oneOf"].as_array().into_iter().flatten() {
            // Words that the comment of the key explains already are not explained again.
            let quoted = format!("`{}`", text(word, "const"));
            if !about.contains(&quoted) {
                let _ = write!(about, " {quoted}: {}", one_line(text(word, "description")));
            }
        }
        let default = if is_required(key, table) { "required".to_owned() } else { default(property) };
        format!("| `{key}` | {} | {default} | {} |\n", self.kind(property), about.replace('|', "\\|"))
    }

    /// The type in words.
    fn kind(&self, property: &Value) -> String {
        let schema = self.resolve(property);
        let default = &property["default"];
        if let Some(words) = schema["oneOf"].as_array() {
            let words: Vec<String> =
                words.iter().map(|word| format!("`{:?}`", text(word, "const"))).collect();
            return words.join(", ");
        }
        let kind = &schema["type"];
        let kind = kind.as_str().or_else(|| kind[0].as_str()).unwrap_or_default();
        match kind {
            "string" if default.is_object() => "duration".to_owned(),
            "string" if default.is_number() => "size".to_owned(),
            "array" => format!("array of {}", plural(&self.kind(&schema["items"]))),
            "object" => format!("table of {}", plural(&self.kind(&schema["additionalProperties"]))),
            // Neither one type nor a choice of words: its title says what it may be.
            "" => text(schema, "title").to_owned(),
            kind => kind.to_owned(),
        }
    }

    /// The schema of a table below this one, and whether it is an array of tables.
    fn nested(&self, property: &Value) -> Option<(Value, bool)> {
        let schema = self.resolve(property);
        if schema["type"] == "array" {
            let item = self.resolve(&schema["items"]);
            return item["properties"].is_object().then(|| (item.clone(), true));
        }
        schema["properties"].is_object().then(|| (schema.clone(), false))
    }

    fn resolve<'v>(&'v self, schema: &'v Value) -> &'v Value {
        if let Some(reference) = schema["$ref"].as_str() {
            return self.root.pointer(reference.trim_start_matches('#')).unwrap_or(schema);
        }
        let alternatives = schema["anyOf"].as_array();
        let some = alternatives.and_then(|list| list.iter().find(|one| one["type"] != "null"));
        some.map_or(schema, |some| self.resolve(some))
    }
}

fn properties(schema: &Value) -> impl Iterator<Item = (&str, &Value)> {
    schema["properties"].as_object().into_iter().flatten().map(|(key, property)| (key.as_str(), property))
}

fn text<'v>(schema: &'v Value, key: &str) -> &'v str {
    schema[key].as_str().unwrap_or_default()
}

/// What the key is for, and what its type adds to that. A type with a comment of a few words adds only its name.
fn joined(key: &str, table: &str) -> String {
    match table.starts_with(key.trim_end_matches('.')) {
        true => table.to_owned(),
        false if table.split_whitespace().count() <= 6 => key.to_owned(),
        false => format!("{key} {table}"),
    }
}

fn is_required(key: &str, table: &Value) -> bool {
    table["required"].as_array().is_some_and(|keys| keys.iter().any(|one| one == key))
}

fn plural(kind: &str) -> String {
    match kind.strip_prefix("array") {
        Some(rest) => format!("arrays{rest}"),
        None => format!("{kind}s"),
    }
}

fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

/// The default as it would stand in the file.
fn default(property: &Value) -> String {
    let shown = match &property["default"] {
        Value::Null => return String::new(),
        Value::Object(fields) if fields.contains_key("secs") => {
            let number = |key: &str| fields.get(key).and_then(Value::as_u64).unwrap_or_default();
            let nanoseconds = u32::try_from(number("nanos")).unwrap_or_default();
            format!("{:?}", format_duration(Duration::new(number("secs"), nanoseconds)))
        }
        Value::Object(_) => "{}".to_owned(),
        Value::Number(size) if property["type"] == "string" => {
            format!("{:?}", format_size(size.as_u64().unwrap_or_default()))
        }
        value => value.to_string(),
    };
    format!("`{shown}`")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::path::Path;

    use super::*;

    #[test]
    fn the_manual_in_docs_is_the_one_of_the_code() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/config.md");
        if std::env::var_os("POSTERN_UPDATE_DOCS").is_some() {
            std::fs::write(&path, markdown()).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == markdown(),
            "docs/config.md is stale: POSTERN_UPDATE_DOCS=1 cargo test -p postern-config"
        );
    }

    #[test]
    fn defaults_are_shown_as_they_would_be_written() {
        let manual = markdown();
        for row in [
            "| `hostname` | string | required |",
            "| `max_message_size` | size | `\"50MiB\"` |",
            "| `lifetime` | duration | `\"5d\"` |",
            "| `max_errors` | integer | `20` |",
            "| `kind` | `\"mx\"`, `\"submission\"`, `\"submissions\"`, `\"lmtp\"` | required |",
            "| `mailboxes` | array of strings | `[]` |",
            "| `aliases` | table of arrays of strings | `{}` |",
            "| `format` | `\"text\"`, `\"json\"` | `\"text\"` |",
            "| `permission` | `\"listed\"`, `\"local\"`, `\"any\"` | `\"listed\"` |",
        ] {
            assert!(manual.contains(row), "{row}");
        }
    }
}
