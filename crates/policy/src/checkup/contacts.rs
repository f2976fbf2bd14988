//! Who receives the mail of a domain, and where do they hear those who send to them?
//!
//! Large providers answer nobody at postmaster, and have a page for it. Everybody else has a postmaster (RFC 5321 §4.5.1),
//! and mostly an abuse (RFC 2142).

/// A provider of many mailboxes.
#[derive(Debug, PartialEq, Eq)]
pub struct Provider {
    /// Its name.
    pub name: &'static str,
    /// Its own domains; also those below them.
    domains: &'static [&'static str],
    /// What the names of its MX hosts end with.
    hosts: &'static [&'static str],
    /// Where a sender can ask.
    pub page: &'static str,
    /// Where a sender sees what it makes of his mail; empty: nowhere.
    pub statistics: &'static str,
}

const PROVIDERS: [Provider; 5] = [
    Provider {
        name: "Gmail",
        domains: &["gmail.com", "googlemail.com"],
        hosts: &["google.com", "googlemail.com"],
        page: "https://support.google.com/mail/contact/gmail_bulk_sender_escalation",
        statistics: "https://postmaster.google.com/",
    },
    Provider {
        name: "Outlook.com",
        domains: &["outlook.com", "hotmail.com", "live.com", "msn.com"],
        hosts: &["olc.protection.outlook.com"],
        page: "https://olcsupport.office.com/",
        statistics: "https://sendersupport.olc.protection.outlook.com/snds/",
    },
    Provider {
        name: "Microsoft 365",
        domains: &[],
        hosts: &["mail.protection.outlook.com", "mx.microsoft"],
        page: "https://sender.office.com/",
        statistics: "",
    },
    Provider {
        name: "Yahoo",
        domains: &["yahoo.com", "ymail.com", "aol.com", "rocketmail.com"],
        hosts: &["yahoodns.net"],
        page: "https://senders.yahooinc.com/contact/",
        statistics: "https://senders.yahooinc.com/",
    },
    Provider {
        name: "iCloud",
        domains: &["icloud.com", "me.com", "mac.com"],
        hosts: &["mail.icloud.com"],
        page: "https://support.apple.com/102322",
        statistics: "",
    },
];

/// Where to ask about a listing, for lists that have a page for it.
const LISTS: [(&str, &str); 3] = [
    ("spamhaus.org", "https://check.spamhaus.org/"),
    ("spamcop.net", "https://www.spamcop.net/bl.shtml"),
    ("psbl.surriel.com", "https://psbl.org/remove"),
];

/// The provider that receives the mail of a domain, known by the domain itself or by a host that answered for it.
pub fn provider(domain: &str, host: Option<&str>) -> Option<&'static Provider> {
    let of_domain = |provider: &&Provider| provider.domains.iter().any(|own| is_within(domain, own));
    let of_host =
        |provider: &&Provider| host.is_some_and(|host| provider.hosts.iter().any(|own| is_within(host, own)));
    PROVIDERS.iter().find(of_domain).or_else(|| PROVIDERS.iter().find(of_host))
}

/// The page of a list about its listings; where none is known, its own site.
pub fn list_page(list: &str) -> String {
    let known = LISTS.iter().find(|(domain, _)| is_within(list, domain));
    known.map_or_else(|| format!("the site of {list}"), |(_, page)| (*page).to_owned())
}

fn is_within(name: &str, domain: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.strip_suffix(domain).is_some_and(|above| above.is_empty() || above.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_are_known_by_domain_and_by_host() {
        let name = |domain, host| provider(domain, host).map(|provider| provider.name);
        assert_eq!(name("GMail.com", None), Some("Gmail"));
        assert_eq!(name("adatum.test", Some("aspmx.l.google.com")), Some("Gmail"));
        assert_eq!(
            name("adatum.test", Some("adatum-test.mail.protection.outlook.com")),
            Some("Microsoft 365")
        );
        assert_eq!(name("hotmail.com", Some("hotmail-com.olc.protection.outlook.com")), Some("Outlook.com"));
        assert_eq!(name("notgmail.com", Some("mx.notgoogle.com")), None);
        assert_eq!(name("adatum.test", None), None);
    }

    #[test]
    fn lists_say_where_to_ask() {
        assert_eq!(list_page("zen.spamhaus.org"), "https://check.spamhaus.org/");
        assert_eq!(list_page("dnsbl.test"), "the site of dnsbl.test");
    }
}
