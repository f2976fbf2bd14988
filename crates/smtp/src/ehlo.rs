//! What a server says it can do (RFC 5321 §4.1.1.1), as a client reads it.

use crate::reply::Reply;

/// The extensions in the reply to EHLO or LHLO.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Every line behind the first: keyword in upper case, parameters as they came.
    pub keywords: Vec<(String, Vec<String>)>,
}

impl Capabilities {
    /// Reads the lines of a 250 reply to EHLO; the first line, which is the greeting, is left out.
    pub fn parse(reply: &Reply) -> Self {
        let keywords = reply.lines.iter().skip(1).filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let keyword = words.next()?.to_ascii_uppercase();
            Some((keyword, words.map(str::to_owned).collect()))
        });
        Self { keywords: keywords.collect() }
    }

    /// Whether the keyword was announced; give it in upper case.
    pub fn has(&self, keyword: &str) -> bool {
        self.keywords.iter().any(|(known, _)| known == keyword)
    }

    /// The SIZE limit in octets; `None` when SIZE was not announced, or without a number, or as 0: no fixed limit (RFC 1870 §4).
    pub fn size_limit(&self) -> Option<u64> {
        let (_, parameters) = self.keywords.iter().find(|(known, _)| known == "SIZE")?;
        parameters.first()?.parse().ok().filter(|limit| *limit > 0)
    }

    /// The shortest time that DELIVERBY takes for what is to return, in seconds; 0 if none was said. `None`: not announced.
    pub fn shortest_deliver_by(&self) -> Option<u64> {
        let (_, parameters) = self.keywords.iter().find(|(known, _)| known == "DELIVERBY")?;
        Some(parameters.first().and_then(|shortest| shortest.parse().ok()).unwrap_or(0))
    }

    /// The SASL mechanisms, in upper case; also those of the old `AUTH=` form.
    pub fn auth_mechanisms(&self) -> Vec<String> {
        let mut mechanisms = Vec::new();
        for (keyword, parameters) in &self.keywords {
            if keyword == "AUTH" {
                mechanisms.extend(parameters.iter().map(|m| m.to_ascii_uppercase()));
            } else if let Some(first) = keyword.strip_prefix("AUTH=") {
                mechanisms.push(first.to_owned());
                mechanisms.extend(parameters.iter().map(|m| m.to_ascii_uppercase()));
            }
        }
        mechanisms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_in_any_case() {
        let reply = Reply::plain(
            250,
            "mx.test Hello\nPIPELINING\nsize 1000\nAUTH plain LOGIN\ndeliverby 60\n8bitmime",
        );
        let capabilities = Capabilities::parse(&reply);
        assert!(capabilities.has("8BITMIME") && !capabilities.has("MX.TEST"));
        assert_eq!(capabilities.size_limit(), Some(1000));
        assert_eq!(capabilities.shortest_deliver_by(), Some(60));
        assert_eq!(capabilities.auth_mechanisms(), ["PLAIN", "LOGIN"]);
    }
}
