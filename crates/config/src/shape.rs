//! Reads a tree into a typed table and finds everything that does not fit it, not just the first thing.
//!
//! Serde stops at the first error. So the tree is compared with the schema of the table first (unknown keys, missing
//! keys, wrong types, unknown words), and then read again and again, each time without the value that was refused.

use std::net::IpAddr;
use std::ops::Range;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;
use toml::Spanned;
use toml::de::{DeArray, DeString, DeTable, DeValue};

use crate::diagnostic::Severity;
use crate::source::{Findings, join};

/// Values refused one by one; a file with more is wrong as a whole.
const MAX_REFUSED_VALUES: usize = 100;

/// Keys that people look for here and that stand elsewhere.
const ELSEWHERE: [(&str, &str); 1] =
    [("account", "logins stand in the file that `auth.accounts` names, `accounts.toml` by default")];

/// Reads the tree. `None`: something is wrong, and all of it is in the findings.
pub(crate) fn read<T: DeserializeOwned + JsonSchema>(
    tree: &Spanned<DeTable<'_>>,
    findings: &mut Findings<'_>,
) -> Option<T> {
    let schema = Schema { root: schemars::schema_for!(T).to_value() };
    let mut tree = Spanned::new(tree.span(), DeValue::Table(tree.get_ref().clone()));
    let mut comparison = Comparison { schema: &schema, findings, path: Vec::new(), refused: Vec::new() };
    comparison.value(&tree, &schema.root);
    let refused = comparison.refused;
    let mut gone: Vec<Vec<Step>> = Vec::new();
    // Later ones first: an index behind a removed element would point at its neighbour.
    for path in refused.iter().rev() {
        if !gone.iter().any(|gone| path.starts_with(gone)) {
            gone.push(schema.prune(&mut tree, path)?.to_vec());
        }
    }
    let value = schema.read_values(tree, findings);
    value.filter(|_| findings.is_empty())
}

/// The way to a value in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

struct Schema {
    root: Value,
}

impl Schema {
    fn read_values<T: DeserializeOwned>(
        &self,
        mut tree: Spanned<DeValue<'_>>,
        findings: &mut Findings<'_>,
    ) -> Option<T> {
        for _ in 0..MAX_REFUSED_VALUES {
            let DeValue::Table(table) = tree.get_ref() else { return None };
            let root = Spanned::new(tree.span(), table.clone());
            let error = match T::deserialize(toml::Deserializer::from(root)) {
                Ok(value) => return Some(value),
                Err(error) => error,
            };
            let span = error.span().unwrap_or(0..0);
            let path = path_to(&tree, &span);
            let address = path.as_ref().and_then(|path| address_at(&tree, path));
            match address.filter(|_| error.message().contains("IP address")) {
                Some(address) => {
                    let message = format!("{:?} is an address, not a network", address.to_string());
                    let help = format!("write {:?}", IpNet::from(address).to_string());
                    findings.at(span, Severity::Error, message, help);
                }
                None => findings.at(span, Severity::Error, error.message(), ""),
            }
            let path = path?;
            self.prune(&mut tree, &path)?;
        }
        None
    }

    /// Follows `$ref`, and `anyOf` of something and null, to the schema of the thing itself.
    fn resolve<'v>(&'v self, schema: &'v Value) -> &'v Value {
        if let Some(reference) = schema["$ref"].as_str() {
            let target = self.root.pointer(reference.trim_start_matches('#'));
            return target.map_or(schema, |target| self.resolve(target));
        }
        let alternatives = schema["anyOf"].as_array();
        let some = alternatives.and_then(|list| list.iter().find(|one| one["type"] != "null"));
        some.map_or(schema, |some| self.resolve(some))
    }

    /// Takes a refused value out, and with it the table that cannot be without it; answers what went. `None`: nothing
    /// would remain.
    fn prune<'p>(&self, tree: &mut Spanned<DeValue<'_>>, path: &'p [Step]) -> Option<&'p [Step]> {
        let (last, parent) = path.split_last()?;
        if let Step::Key(key) = last
            && required(self.schema_at(parent)).any(|required| required == key)
        {
            return self.prune(tree, parent);
        }
        remove(tree, path);
        Some(path)
    }

    fn schema_at(&self, path: &[Step]) -> &Value {
        path.iter().fold(self.resolve(&self.root), |schema, step| {
            self.resolve(match step {
                Step::Index(_) => &schema["items"],
                Step::Key(_) if schema["additionalProperties"].is_object() => &schema["additionalProperties"],
                Step::Key(key) => &schema["properties"][key],
            })
        })
    }
}

/// A walk through tree and schema side by side.
struct Comparison<'c, 's> {
    schema: &'c Schema,
    findings: &'c mut Findings<'s>,
    path: Vec<Step>,
    /// What must go before the rest can be read.
    refused: Vec<Vec<Step>>,
}

impl Comparison<'_, '_> {
    fn value(&mut self, node: &Spanned<DeValue<'_>>, schema: &Value) {
        let schema = self.schema.resolve(schema);
        if let Some((message, help)) = mismatch(node.get_ref(), schema, &self.name()) {
            self.findings.at(node.span(), Severity::Error, message, help);
            self.refused.push(self.path.clone());
            return;
        }
        match node.get_ref() {
            DeValue::Table(table) => self.table(node.span(), table, schema),
            DeValue::Array(array) => {
                for (index, item) in array.iter().enumerate() {
                    self.path.push(Step::Index(index));
                    self.value(item, &schema["items"]);
                    self.path.pop();
                }
            }
            _ => {}
        }
    }

    fn table(&mut self, span: Range<usize>, table: &DeTable<'_>, schema: &Value) {
        for (key, value) in table {
            let text = key.get_ref().as_ref();
            let known = match &schema["additionalProperties"] {
                any @ Value::Object(_) => Some(any),
                _ => schema["properties"].get(text),
            };
            self.path.push(Step::Key(text.to_owned()));
            match known {
                Some(known) => self.value(value, known),
                None => self.unknown(key, schema),
            }
            self.path.pop();
        }
        let missing: Vec<&str> = required(schema).filter(|key| !table.contains_key(*key)).collect();
        for key in &missing {
            let message = format!("missing key `{}`", join(&self.name(), key));
            self.findings.at(span.clone(), Severity::Error, message, description(schema, key));
        }
        if !missing.is_empty() {
            self.refused.push(self.path.clone());
        }
    }

    fn unknown(&mut self, key: &Spanned<DeString<'_>>, schema: &Value) {
        let help = help_for_unknown(key.get_ref(), schema);
        self.findings.at(key.span(), Severity::Error, format!("unknown key `{}`", self.name()), help);
        self.refused.push(self.path.clone());
    }

    /// The keys of the path with dots between them, as TOML writes it.
    fn name(&self) -> String {
        self.path.iter().fold(String::new(), |name, step| match step {
            Step::Key(key) => join(&name, key),
            Step::Index(_) => name,
        })
    }
}

fn required(schema: &Value) -> impl Iterator<Item = &str> {
    schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn description(schema: &Value, key: &str) -> String {
    let text = schema["properties"][key]["description"].as_str().unwrap_or_default();
    text.replace('\n', " ")
}

/// What is wrong with the type or the word, and what would be right.
fn mismatch(value: &DeValue<'_>, schema: &Value, name: &str) -> Option<(String, String)> {
    let words = words(schema);
    if let (Some(text), false) = (value.as_str(), words.is_empty()) {
        let help = || closest(text, &words).map_or_else(|| one_of(&words), did_you_mean);
        return (!words.contains(&text)).then(|| (format!("`{name}` cannot be {text:?}"), help()));
    }
    let expected = if words.is_empty() { kind(schema)? } else { "string" };
    let found = value.type_str();
    let fits = found == expected || (expected == "number" && matches!(found, "integer" | "float"));
    if fits {
        return None;
    }
    let help = match (expected, value.as_str()) {
        ("table", Some(text)) => table_for(text, schema),
        _ => schema["default"]
            .as_str()
            .map_or_else(String::new, |default| format!("the default is {default:?}")),
    };
    Some((format!("`{name}` must be {}, not {}", with_article(expected), with_article(found)), help))
}

/// The table that somebody may have meant who wrote a string: the keys that it must have, and the network, if it is one.
fn table_for(text: &str, schema: &Value) -> String {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let keys = required(schema).map(|key| match (&network, key) {
        (Ok(network), "network") => format!("network = \"{network}\""),
        _ => format!("{key} = \"...\""),
    });
    let keys: Vec<String> = keys.collect();
    if keys.is_empty() { String::new() } else { format!("write {{ {} }}", keys.join(", ")) }
}

/// The address that stands at a place of the tree.
fn address_at(tree: &Spanned<DeValue<'_>>, path: &[Step]) -> Option<IpAddr> {
    let value = path.iter().try_fold(tree.get_ref(), |value, step| match (value, step) {
        (DeValue::Table(table), Step::Key(key)) => table.get(key.as_str()).map(Spanned::get_ref),
        (DeValue::Array(array), Step::Index(index)) => array.get(*index).map(Spanned::get_ref),
        _ => None,
    });
    value?.as_str()?.parse().ok()
}

/// The values of an enumeration.
fn words(schema: &Value) -> Vec<&str> {
    let variants = schema["oneOf"].as_array().into_iter().flatten().filter_map(|one| one["const"].as_str());
    variants.chain(schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str)).collect()
}

/// The type as TOML calls it; of `["string", "null"]` the first.
fn kind(schema: &Value) -> Option<&'static str> {
    let kind = &schema["type"];
    let kind = kind.as_str().or_else(|| kind.as_array()?.iter().find_map(Value::as_str))?;
    ["string", "integer", "number", "boolean", "array", "table"]
        .into_iter()
        .find(|known| *known == if kind == "object" { "table" } else { kind })
}

fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" };
    format!("{article} {noun}")
}

fn help_for_unknown(key: &str, schema: &Value) -> String {
    let known: Vec<&str> =
        schema["properties"].as_object().into_iter().flatten().map(|(known, _)| known.as_str()).collect();
    if let Some((_, help)) = ELSEWHERE.iter().find(|(elsewhere, _)| *elsewhere == key) {
        return (*help).to_owned();
    }
    closest(key, &known).map_or_else(|| one_of(&known), did_you_mean)
}

fn did_you_mean(word: &str) -> String {
    format!("did you mean `{word}`?")
}

fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    format!("one of {}", quoted.join(", "))
}

/// The word that the text was most likely meant to be.
fn closest<'w>(text: &str, words: &[&'w str]) -> Option<&'w str> {
    let most = text.chars().count().div_ceil(3).min(4);
    let measured = words.iter().map(|word| (distance(&text.to_lowercase(), word), *word));
    measured.filter(|(distance, _)| *distance <= most).min().map(|(_, word)| word)
}

/// Letters to add, drop, replace or swap with their neighbour (optimal string alignment). A long text is far from anything.
fn distance(one: &str, other: &str) -> usize {
    const LONGEST: usize = 64;
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    if one.len() > LONGEST || other.len() > LONGEST {
        return usize::MAX;
    }
    let mut before = vec![0; other.len() + 1];
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for i in 1..=one.len() {
        let mut row = vec![i; other.len() + 1];
        for j in 1..=other.len() {
            let replaced = last[j - 1] + usize::from(one[i - 1] != other[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            let swapped = i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1];
            if swapped {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[other.len()]
}

/// The value that has exactly this span.
fn path_to(tree: &Spanned<DeValue<'_>>, span: &Range<usize>) -> Option<Vec<Step>> {
    let mut open: Vec<(Vec<Step>, &Spanned<DeValue<'_>>)> = vec![(Vec::new(), tree)];
    while let Some((path, node)) = open.pop() {
        if node.span() == *span && !path.is_empty() {
            return Some(path);
        }
        let extended = |step: Step| path.iter().cloned().chain([step]).collect();
        match node.get_ref() {
            DeValue::Table(table) => {
                open.extend(
                    table.iter().map(|(key, value)| (extended(Step::Key(key.get_ref().to_string())), value)),
                );
            }
            DeValue::Array(array) => {
                open.extend(
                    array.iter().enumerate().map(|(index, value)| (extended(Step::Index(index)), value)),
                );
            }
            _ => {}
        }
    }
    None
}

fn remove(tree: &mut Spanned<DeValue<'_>>, path: &[Step]) {
    match (tree.get_mut(), path) {
        (DeValue::Table(table), [Step::Key(key)]) => drop(table.remove(key.as_str())),
        (DeValue::Table(table), [Step::Key(key), rest @ ..]) => {
            if let Some(value) = table.get_mut(key.as_str()) {
                remove(value, rest);
            }
        }
        (DeValue::Array(array), [Step::Index(index)]) => {
            let items = std::mem::replace(array, DeArray::new()).into_iter().enumerate();
            items.filter(|(at, _)| at != index).for_each(|(_, item)| array.push(item));
        }
        (DeValue::Array(array), [Step::Index(index), rest @ ..]) => {
            if let Some(value) = array.get_mut(*index) {
                remove(value, rest);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_pen_are_near_and_other_words_far() {
        let known = ["hostname", "listener", "relay", "smtp"];
        for (typed, meant) in
            [("hostnam", "hostname"), ("hotsname", "hostname"), ("Listeners", "listener"), ("rely", "relay")]
        {
            assert_eq!(closest(typed, &known), Some(meant), "{typed}");
        }
        for typed in ["colour", "x", "", &"hostname".repeat(20)] {
            assert_eq!(closest(typed, &known), None, "{typed}");
        }
    }
}
