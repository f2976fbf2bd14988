//! The texts of a configuration and the tree that they make together, with the place of every value.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use crate::diagnostic::{Diagnostic, Place, Severity};

/// A line of a file with one of these in it is not shown: it may hold a password, or what is as good as one.
const SECRETS: [&str; 3] = ["password", "$argon2", "scram"];

/// Files behind one another: a position counts through all of them, so that a value of the merged tree knows its file.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    files: Vec<Source>,
}

#[derive(Debug)]
struct Source {
    path: PathBuf,
    text: String,
    base: usize,
}

impl Sources {
    pub fn add(&mut self, path: &Path, text: String) {
        // One more than its length, so that the end of a file is not the beginning of the next.
        let base = self.files.last().map_or(0, |last| last.base + last.text.len() + 1);
        self.files.push(Source { path: path.to_owned(), text, base });
    }

    /// The text of the first file: the main one.
    pub fn first(&self) -> &str {
        self.files.first().map_or("", |file| &file.text)
    }

    /// The files, the main one first.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// The file in which a value of the merged tree stands.
    pub fn file_of(&self, span: &Range<usize>) -> Option<&Path> {
        self.files.iter().rfind(|file| file.base <= span.start).map(|file| file.path.as_path())
    }

    /// Parses all files and merges them in order.
    pub fn parse<'s>(&'s self, findings: &mut Findings<'s>) -> Spanned<DeTable<'s>> {
        let mut whole = DeTable::new();
        for file in &self.files {
            let (table, errors) = DeTable::parse_recoverable(&file.text);
            for error in errors {
                let span = error.span().unwrap_or(0..0);
                findings.at(shifted(span, file.base), Severity::Error, error.message(), "");
            }
            let mut table = table.into_inner();
            shift_table(&mut table, file.base);
            merge(&mut whole, table, "", findings);
        }
        Spanned::new(0..0, whole)
    }

    fn locate(&self, span: &Range<usize>) -> Option<(&Path, Place)> {
        let file = self.files.iter().rfind(|file| file.base <= span.start)?;
        let start = floor_boundary(&file.text, span.start - file.base);
        let end = floor_boundary(&file.text, span.end.saturating_sub(file.base)).max(start);
        let line_start = file.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line = file.text[line_start..].lines().next().unwrap_or_default();
        let covered = &file.text[start..end.min(line_start + line.len()).max(start)];
        let place = Place {
            line: file.text[..line_start].matches('\n').count() + 1,
            column: file.text[line_start..start].chars().count() + 1,
            width: covered.chars().count().max(1),
            source: (!SECRETS.iter().any(|secret| line.contains(secret))).then(|| line.to_owned()),
        };
        Some((&file.path, place))
    }
}

fn floor_boundary(text: &str, at: usize) -> usize {
    text.floor_char_boundary(at.min(text.len()))
}

fn shifted(span: Range<usize>, base: usize) -> Range<usize> {
    span.start + base..span.end + base
}

fn shift_table(table: &mut DeTable<'_>, base: usize) {
    let entries = std::mem::take(table).into_iter();
    table.extend(entries.map(|(key, value)| {
        let span = shifted(key.span(), base);
        (Spanned::new(span, key.into_inner()), shift_value(value, base))
    }));
}

fn shift_value<'s>(value: Spanned<DeValue<'s>>, base: usize) -> Spanned<DeValue<'s>> {
    let span = shifted(value.span(), base);
    let mut value = value.into_inner();
    match &mut value {
        DeValue::Table(table) => shift_table(table, base),
        DeValue::Array(array) => {
            let items = std::mem::replace(array, DeArray::new());
            items.into_iter().for_each(|item| array.push(shift_value(item, base)));
        }
        _ => {}
    }
    Spanned::new(span, value)
}

/// Tables are merged key by key, arrays of tables appended; any other key may be set once.
fn merge<'s>(into: &mut DeTable<'s>, from: DeTable<'s>, path: &str, findings: &mut Findings<'s>) {
    for (key, value) in from {
        let path = join(path, key.get_ref());
        let Some((first, _)) = into.get_key_value(key.get_ref().as_ref()) else {
            into.insert(key, value);
            continue;
        };
        let first = first.span();
        let Some(existing) = into.get_mut(key.get_ref().as_ref()) else { continue };
        match (existing.get_mut(), value.into_inner()) {
            (DeValue::Table(existing), DeValue::Table(value)) => merge(existing, value, &path, findings),
            (DeValue::Array(existing), DeValue::Array(value))
                if holds_tables(existing) && holds_tables(&value) =>
            {
                value.into_iter().for_each(|item| existing.push(item));
            }
            _ => {
                let other = findings.describe(&first);
                findings.at(
                    key.span(),
                    Severity::Error,
                    format!("`{path}` is set twice"),
                    format!("it is also set at {other}; remove one of them"),
                );
            }
        }
    }
}

fn holds_tables(array: &DeArray<'_>) -> bool {
    array.iter().all(|item| item.get_ref().is_table())
}

pub(crate) fn join(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    }
}

/// A value in the merged tree, or where it would be: checks walk along and always have a place to point at.
#[derive(Debug, Clone)]
pub(crate) struct Node<'t> {
    value: Option<&'t DeValue<'t>>,
    span: Range<usize>,
}

impl<'t> Node<'t> {
    pub fn root(tree: &'t Spanned<DeValue<'t>>) -> Self {
        Self { value: Some(tree.get_ref()), span: tree.span() }
    }

    /// The value of a key; where the key is not set, the table.
    pub fn key(&self, key: &str) -> Node<'t> {
        self.step(self.value.and_then(|value| value.as_table()?.get(key)))
    }

    /// The key itself, for problems with its name.
    pub fn name(&self, key: &str) -> Node<'t> {
        let found = self.value.and_then(|value| value.as_table()?.get_key_value(key));
        Node { value: None, span: found.map_or(self.span.clone(), |(key, _)| key.span()) }
    }

    /// An element of an array.
    pub fn item(&self, index: usize) -> Node<'t> {
        self.step(self.value.and_then(|value| value.as_array()?.get(index)))
    }

    /// The elements of the array at `key`, together with the values that were read from them.
    pub fn each<'v, T>(&self, key: &str, values: &'v [T]) -> impl Iterator<Item = (Node<'t>, &'v T)> {
        let array = self.key(key);
        values.iter().enumerate().map(move |(index, value)| (array.item(index), value))
    }

    fn step(&self, found: Option<&'t Spanned<DeValue<'t>>>) -> Node<'t> {
        match found {
            Some(value) => Node { value: Some(value.get_ref()), span: value.span() },
            None => Node { value: None, span: self.span.clone() },
        }
    }
}

/// Collects problems.
#[derive(Debug)]
pub(crate) struct Findings<'s> {
    sources: &'s Sources,
    found: Vec<(usize, Diagnostic)>,
}

impl<'s> Findings<'s> {
    pub fn new(sources: &'s Sources) -> Self {
        Self { sources, found: Vec::new() }
    }

    /// Notes what keeps the configuration from loading. An empty help is none.
    pub fn error(&mut self, node: &Node<'_>, message: impl Into<String>, help: impl Into<String>) {
        self.at(node.span.clone(), Severity::Error, message, help);
    }

    /// Notes what somebody should look at.
    pub fn warning(&mut self, node: &Node<'_>, message: impl Into<String>, help: impl Into<String>) {
        self.at(node.span.clone(), Severity::Warning, message, help);
    }

    pub fn at(
        &mut self,
        span: Range<usize>,
        severity: Severity,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let located = self.sources.locate(&span);
        let (file, place) = located.map_or((Path::new(""), None), |(file, place)| (file, Some(place)));
        let help = Some(help.into()).filter(|help| !help.is_empty());
        let diagnostic = Diagnostic { severity, file: file.to_owned(), place, message: message.into(), help };
        self.found.push((span.start, diagnostic));
    }

    /// `file:line:column` of a node, for a message about another.
    pub fn place(&self, node: &Node<'_>) -> String {
        self.describe(&node.span)
    }

    fn describe(&self, span: &Range<usize>) -> String {
        self.sources.locate(span).map_or_else(String::new, |(file, place)| {
            format!("{}:{}:{}", file.display(), place.line, place.column)
        })
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// In the order of the files.
    pub fn into_diagnostics(mut self) -> Vec<Diagnostic> {
        self.found.sort_by_key(|(position, _)| *position);
        self.found.into_iter().map(|(_, diagnostic)| diagnostic).collect()
    }
}
