//! Messages that arrived, and Maildirs.

use std::fs;
use std::path::{Path, PathBuf};

use super::eventually;

/// A message as it arrived.
#[derive(Debug, Clone)]
pub struct Mail(pub Vec<u8>);

impl Mail {
    /// The header, without the empty line.
    pub fn header(&self) -> String {
        let bytes = &self.0[..self.end_of_header()];
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// What stands behind the empty line.
    pub fn body(&self) -> &[u8] {
        self.0.get(self.end_of_header() + 4..).unwrap_or_default()
    }

    /// The values of all fields of a name, unfolded.
    pub fn fields(&self, name: &str) -> Vec<String> {
        let unfolded = self.header().replace("\r\n\t", " ").replace("\r\n ", " ");
        let fields = unfolded.lines().filter_map(|line| line.split_once(':'));
        fields
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().to_owned())
            .collect()
    }

    /// The value of a field that must be there once.
    pub fn field(&self, name: &str) -> String {
        let fields = self.fields(name);
        assert_eq!(fields.len(), 1, "{name} should be there once:\n{}", self.header());
        fields[0].clone()
    }

    fn end_of_header(&self) -> usize {
        self.0.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(self.0.len())
    }
}

/// A delivery status notification, taken apart (RFC 3464).
#[derive(Debug)]
pub struct Dsn {
    /// The part for people.
    pub text: String,
    /// The fields about the message.
    pub message: Mail,
    /// The fields about each recipient.
    pub recipients: Vec<Mail>,
    /// The returned message or its header.
    pub returned: Vec<u8>,
}

impl Dsn {
    /// Reads a message that must be a multipart/report of three parts (RFC 6522).
    pub fn parse(mail: &Mail) -> Self {
        let content_type = mail.field("Content-Type");
        assert!(content_type.to_lowercase().starts_with("multipart/report"), "{content_type}");
        assert!(content_type.to_lowercase().contains("report-type=delivery-status"), "{content_type}");
        let boundary = content_type.split("boundary=").nth(1).unwrap().trim_matches('"');
        let boundary = boundary.split([';', '"']).next().unwrap();
        let body = String::from_utf8(mail.body().to_vec()).unwrap();
        let (parts, _) = body.split_once(&format!("\r\n--{boundary}--")).expect("the closing boundary");
        let separator = format!("--{boundary}\r\n");
        let parts: Vec<Mail> = parts.split(&separator).skip(1).map(|part| Mail(part.into())).collect();
        let [text, status, returned] = parts.as_slice() else {
            panic!("a report has three parts, this has {}", parts.len());
        };
        assert!(status.field("Content-Type").starts_with("message/delivery-status"));
        let status = String::from_utf8(status.body().to_vec()).unwrap();
        let groups = status.split("\r\n\r\n").map(str::trim).filter(|group| !group.is_empty());
        let mut groups = groups.map(|group| Mail(format!("{group}\r\n\r\n").into()));
        Self {
            text: String::from_utf8(text.body().to_vec()).unwrap(),
            message: groups.next().unwrap(),
            recipients: groups.collect(),
            returned: returned.body().to_vec(),
        }
    }
}

/// A Maildir, whether it exists yet or not.
#[derive(Debug, Clone)]
pub struct Maildir(pub PathBuf);

impl Maildir {
    /// What is in it, in the order of arrival by file name.
    pub fn messages(&self) -> Vec<Mail> {
        let mut files: Vec<PathBuf> =
            ["new", "cur"].iter().flat_map(|folder| files(&self.0.join(folder))).collect();
        files.sort();
        files.iter().filter_map(|file| fs::read(file).ok()).map(|content| Mail(crlf(&content))).collect()
    }

    /// Waits for a message with this text in it.
    pub fn wait_for(&self, text: &str) -> Mail {
        eventually(&format!("{text:?} in {}", self.0.display()), || {
            self.messages().into_iter().find(|mail| contains(&mail.0, text))
        })
    }

    /// Waits until at least `count` messages are there.
    pub fn wait_for_count(&self, count: usize) -> Vec<Mail> {
        eventually(&format!("{count} messages in {}", self.0.display()), || {
            Some(self.messages()).filter(|messages| messages.len() >= count)
        })
    }
}

/// Whether the bytes contain the text.
pub fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// A Maildir may keep messages with LF, as local programs expect; comparisons are made with CRLF.
fn crlf(content: &[u8]) -> Vec<u8> {
    if content.windows(2).any(|pair| pair == b"\r\n") {
        return content.to_vec();
    }
    content
        .iter()
        .flat_map(|byte| if *byte == b'\n' { &b"\r\n"[..] } else { std::slice::from_ref(byte) })
        .copied()
        .collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect()
}
