//! A directory (RFC 4511): the user's entry is searched and then bound as, or its DN is made of the name. Only the bind tells
//! whether the password is right; no password is ever read.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use ldap3::{
    LdapConnAsync, LdapConnSettings, LdapError, LdapResult, Scope, SearchEntry, SearchOptions, dn_escape,
    ldap_escape,
};
use postern_config::backend;

use super::{Answer, Idle, Question};
use crate::tls::trust;

/// Result codes (RFC 4511 appendix A) that say that this name and password are no login, beside `invalidCredentials`: there is no such
/// entry, the name makes no DN, the entry has no password, the password may not be used now.
const NO_LOGIN: [u32; 4] = [32, 34, 48, 53];
const SUCCESS: u32 = 0;
const SIZE_LIMIT: u32 = 4;
const INVALID_CREDENTIALS: u32 = 49;

/// The directory, and connections to it.
pub(super) struct Ldap {
    config: backend::Ldap,
    timeout: Duration,
    idle: Idle<ldap3::Ldap>,
}

impl fmt::Debug for Ldap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ldap").field("url", &self.config.url).finish_non_exhaustive()
    }
}

/// Who the user is there.
#[derive(Debug)]
struct Entry {
    dn: String,
    /// The login.
    name: String,
    addresses: Vec<String>,
}

/// What the search says.
enum Found {
    One(Entry),
    /// None, or several.
    Not(Option<String>),
}

impl Ldap {
    pub(super) fn new(config: &backend::Ldap, timeout: Duration, most: usize) -> Self {
        Self { config: config.clone(), timeout, idle: Idle::new(most) }
    }

    pub(super) async fn ask(&self, question: Question<'_>) -> Answer {
        while let Some(mut connection) = self.idle.take() {
            // An error may be that the server has closed it meanwhile: then a new connection is asked.
            if !connection.is_closed()
                && let Ok(answer) = self.ask_over(&mut connection, question).await
            {
                self.idle.give(connection);
                return answer;
            }
        }
        let asked = async {
            let mut connection = self.connect().await?;
            let answer = self.ask_over(&mut connection, question).await.map_err(|error| error.to_string())?;
            Ok::<_, String>((connection, answer))
        };
        match asked.await {
            Ok((connection, answer)) => {
                self.idle.give(connection);
                answer
            }
            Err(error) => Answer::unavailable(format!("{}: {error}", self.config.url)),
        }
    }

    async fn connect(&self) -> Result<ldap3::Ldap, String> {
        let mut settings = LdapConnSettings::new().set_conn_timeout(self.timeout);
        if self.config.starttls || self.config.url.starts_with("ldaps:") {
            let tls = trust::client_config(self.config.ca_file.as_deref()).await?;
            settings = settings.set_config(tls).set_starttls(self.config.starttls);
        }
        let connected = LdapConnAsync::with_settings(settings, &self.config.url).await;
        let (connection, ldap) = connected.map_err(|error| error.to_string())?;
        // Ends when the handle is dropped; what goes wrong in it shows there.
        tokio::spawn(async move { drop(connection.drive().await) });
        Ok(ldap)
    }

    async fn ask_over(&self, ldap: &mut ldap3::Ldap, question: Question<'_>) -> Result<Answer, LdapError> {
        let entry = match &self.config.dn {
            Some(template) => match dn(template, question.name) {
                Some(dn) => Entry { dn, name: question.name.to_owned(), addresses: Vec::new() },
                None => return Ok(Answer::Rejected { why: None }),
            },
            None => match self.search(ldap, question.name).await? {
                Found::One(entry) => entry,
                Found::Not(why) => return Ok(Answer::Rejected { why }),
            },
        };
        // A DN without a password would be anonymous, and succeed (RFC 4513 §5.1.2); nobody asks with an empty one.
        let password = String::from_utf8_lossy(question.password);
        let bound = ldap.simple_bind(&entry.dn, &password).await?;
        Ok(match bound.rc {
            SUCCESS => Answer::Accepted { name: entry.name, addresses: entry.addresses },
            INVALID_CREDENTIALS => Answer::Rejected { why: None },
            code if NO_LOGIN.contains(&code) => Answer::Rejected { why: Some(told(&bound)) },
            _ => Answer::unavailable(told(&bound)),
        })
    }

    /// The entry of the user, searched as who may search.
    async fn search(&self, ldap: &mut ldap3::Ldap, name: &str) -> Result<Found, LdapError> {
        let Some(filter) = filter(&self.config.filter, name) else {
            return Ok(Found::Not(None));
        };
        let password = self.password().await?;
        let dn = self.config.bind_dn.as_deref().unwrap_or_default();
        ldap.simple_bind(dn, &password).await?.success()?;
        let attributes: Vec<&str> =
            [&self.config.name, &self.config.addresses].into_iter().flatten().map(String::as_str).collect();
        let base = self.config.base.as_deref().unwrap_or_default();
        ldap.with_search_options(SearchOptions::new().sizelimit(2));
        let found = ldap.search(base, Scope::Subtree, &filter, attributes).await?;
        let (mut entries, result) = (found.0, found.1);
        let several = || Ok(Found::Not(Some("several entries of the directory fit the name".to_owned())));
        // However few it tells: the server may have a lower limit of its own.
        if result.rc == SIZE_LIMIT {
            return several();
        }
        result.success()?;
        entries.retain(|entry| !entry.is_ref());
        match (entries.pop(), entries.len()) {
            (None, _) => Ok(Found::Not(None)),
            (Some(_), 1..) => several(),
            (Some(entry), 0) => Ok(self.entry(SearchEntry::construct(entry))),
        }
    }

    /// Whose login an entry is: without one name of its own it would be everybody's who finds it.
    fn entry(&self, entry: SearchEntry) -> Found {
        let values = |wanted: &Option<String>| {
            let wanted = wanted.as_deref()?;
            let known = entry.attrs.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            known.map(|(_, values)| values.clone())
        };
        let names = values(&self.config.name).unwrap_or_default();
        let Ok([name]) = <[String; 1]>::try_from(names) else {
            let attribute = self.config.name.as_deref().unwrap_or_default();
            return Found::Not(Some(format!("{} has not exactly one value of {attribute}", entry.dn)));
        };
        let addresses = values(&self.config.addresses).unwrap_or_default();
        Found::One(Entry { name, addresses, dn: entry.dn })
    }

    async fn password(&self) -> Result<String, std::io::Error> {
        let Some(path) = &self.config.password_file else { return Ok(String::new()) };
        let text = tokio::fs::read_to_string(path).await?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }
}

fn told(result: &LdapResult) -> String {
    format!("the directory answers {} {}", result.rc, result.text).trim_end().to_owned()
}

/// The DN of a name. `None`: it would be that of another name, too. Directories compare without regard to some blanks, and take
/// many characters beyond ASCII for others (RFC 4518 §2).
pub(crate) fn dn(template: &str, name: &str) -> Option<String> {
    let is_one_of_a_kind = name.chars().all(|character| character.is_ascii_graphic());
    if is_one_of_a_kind { fill(template, name, dn_escape) } else { None }
}

/// The filter that finds a name.
pub(crate) fn filter(template: &str, name: &str) -> Option<String> {
    fill(template, name, ldap_escape)
}

/// The template with the parts of the name in it, escaped. `None`: it wants a domain, and the name has none.
fn fill<'n>(template: &str, name: &'n str, escape: impl Fn(&'n str) -> Cow<'n, str>) -> Option<String> {
    let (local, domain) = name.rsplit_once('@').unwrap_or((name, ""));
    if domain.is_empty() && template.contains("{domain}") {
        return None;
    }
    let mut filled = String::with_capacity(template.len() + name.len());
    let mut rest = template;
    // From left to right, so that what is put in is never taken for a placeholder.
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        filled.push_str(before);
        let placeholders = [("{login}", name), ("{local}", local), ("{domain}", domain)];
        let found = placeholders.into_iter().find(|(placeholder, _)| from.starts_with(placeholder));
        let (placeholder, text) = found?;
        filled.push_str(&escape(text));
        rest = &from[placeholder.len()..];
    }
    filled.push_str(rest);
    Some(filled)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::tests::question;
    use super::*;

    /// A BER element.
    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag, u8::try_from(content.len()).unwrap()], content].concat()
    }

    fn text(text: &str) -> Vec<u8> {
        element(4, text.as_bytes())
    }

    fn response(id: u8, tag: u8, content: &[u8]) -> Vec<u8> {
        element(0x30, &[element(2, &[id]), element(tag, content)].concat())
    }

    fn result(id: u8, tag: u8, code: u8) -> Vec<u8> {
        response(id, tag, &[element(10, &[code]), text(""), text("")].concat())
    }

    fn entry(uids: &[&str]) -> Vec<u8> {
        let attribute = |name: &str, values: &[&str]| {
            let values: Vec<u8> = values.iter().flat_map(|value| text(value)).collect();
            element(0x30, &[text(name), element(0x31, &values)].concat())
        };
        let attributes = [attribute("UID", uids), attribute("mail", &["alice@proseware.test"])].concat();
        response(2, 0x64, &[text("cn=alice"), element(0x30, &attributes)].concat())
    }

    /// What comes of a search that is answered so, and of a bind that succeeds.
    async fn answer_to(entries: &[Vec<u8>], code: u8) -> Answer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ldap://{}", listener.local_addr().unwrap());
        let found = [entries.concat(), result(2, 0x65, code)].concat();
        let serve = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 1024];
            for answer in [result(1, 0x61, 0), found, result(3, 0x61, 0)] {
                if stream.read(&mut asked).await.unwrap() == 0 {
                    return;
                }
                stream.write_all(&answer).await.unwrap();
            }
        });
        let table = format!("url = {url:?}\nbase = \"dc=test\"\nname = \"uid\"\naddresses = \"mail\"\n");
        let config: backend::Ldap = toml::from_str(&table).unwrap();
        let ldap = Ldap::new(&config, Duration::from_secs(5), 1);
        let answer = ldap.ask(question("a.smith@proseware.test", b"word")).await;
        drop(ldap);
        serve.abort();
        answer
    }

    #[tokio::test]
    async fn the_login_is_the_one_name_of_the_entry_whatever_was_typed() {
        let addresses = vec!["alice@proseware.test".to_owned()];
        let accepted = Answer::Accepted { name: "alice".to_owned(), addresses };
        assert_eq!(answer_to(&[entry(&["alice"])], 0).await, accepted);
        for uids in [&[][..], &["alice", "bob"]] {
            let Answer::Rejected { why: Some(why) } = answer_to(&[entry(uids)], 0).await else {
                panic!("{uids:?}");
            };
            assert!(why.contains("exactly one value of uid"), "{why}");
        }
    }

    #[tokio::test]
    async fn an_entry_is_not_the_only_one_where_the_server_stops_at_its_limit() {
        for entries in [vec![entry(&["alice"])], vec![], vec![entry(&["alice"]), entry(&["bob"])]] {
            let Answer::Rejected { why: Some(why) } = answer_to(&entries, 4).await else {
                panic!("{entries:?}")
            };
            assert!(why.contains("several entries"), "{why}");
        }
    }

    #[test]
    fn names_cannot_leave_their_place_in_a_filter_or_a_dn() {
        let filter = |name| filter("(&(mail={login})(uid={local}))", name);
        assert_eq!(filter("a@b.test").as_deref(), Some("(&(mail=a@b.test)(uid=a))"));
        assert_eq!(filter("*").as_deref(), Some("(&(mail=\\2a)(uid=\\2a))"));
        let filled = filter("x)(uid=*@b.test").unwrap_or_default();
        assert_eq!(filled.matches(['(', ')']).count(), 6, "{filled}");
        assert_eq!(filter("{local}@b.test").as_deref(), Some("(&(mail={local}@b.test)(uid={local}))"));
        let dn = |name| dn("uid={local},ou={domain},dc=test", name);
        assert_eq!(dn("a@b.test").as_deref(), Some("uid=a,ou=b.test,dc=test"));
        for name in ["a", "a @b.test", "a  c@b.test", "\u{ff41}@b.test", "a\u{ad}@b.test"] {
            assert_eq!(dn(name), None, "{name:?}");
        }
        let filled = dn("a,ou=admins@b.test").unwrap_or_default();
        assert!(filled.starts_with("uid=a\\"), "{filled}");
    }
}
