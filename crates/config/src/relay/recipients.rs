//! Who exists in a relay domain.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Who exists in a relay domain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Recipients {
    /// Not known: everybody is taken.
    #[default]
    Any,
    /// These local parts.
    Listed(Vec<String>),
    /// The server that the domain's mail goes to is asked.
    CallForward,
}

impl Recipients {
    /// The local parts of a list; none where there is no list.
    pub fn listed(&self) -> &[String] {
        match self {
            Self::Listed(list) => list,
            Self::Any | Self::CallForward => &[],
        }
    }
}

impl<'de> Deserialize<'de> for Recipients {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WordOrList)
    }
}

struct WordOrList;

impl<'de> Visitor<'de> for WordOrList {
    type Value = Recipients;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"any\", \"call-forward\" or a list of local parts such as [\"carol\", \"dave\"]")
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<Recipients, E> {
        match word {
            "any" => Ok(Recipients::Any),
            "call-forward" => Ok(Recipients::CallForward),
            _ => Err(E::custom(format!(
                "`recipients` cannot be {word:?}: write \"any\", \"call-forward\" or a list of local parts such as [\"carol\"]"
            ))),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Recipients, A::Error> {
        Deserialize::deserialize(SeqAccessDeserializer::new(list)).map(Recipients::Listed)
    }
}

impl JsonSchema for Recipients {
    fn schema_name() -> Cow<'static, str> {
        "Recipients".into()
    }

    /// Without a type: it may be a word or a list, and reading it says which words there are.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "title": "`\"any\"`, `\"call-forward\"`, array of strings" })
    }

    fn inline_schema() -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Entry {
        #[serde(default)]
        recipients: Recipients,
    }

    fn read(text: &str) -> Result<Recipients, String> {
        toml::from_str::<Entry>(text).map(|entry| entry.recipients).map_err(|error| error.to_string())
    }

    #[test]
    fn recipients_are_a_word_or_a_list() {
        assert_eq!(read("").unwrap(), Recipients::Any);
        assert_eq!(read("recipients = \"any\"").unwrap(), Recipients::Any);
        assert_eq!(read("recipients = \"call-forward\"").unwrap(), Recipients::CallForward);
        let list = Recipients::Listed(vec!["carol".to_owned()]);
        assert_eq!(read("recipients = [\"carol\"]").unwrap(), list);
        assert_eq!(read("recipients = []").unwrap(), Recipients::Listed(Vec::new()));
        for wrong in ["\"callout\"", "true", "[1]", "{ any = true }"] {
            let error = read(&format!("recipients = {wrong}")).unwrap_err();
            assert!(error.contains("call-forward") || error.contains("string"), "{wrong}: {error}");
        }
    }
}
