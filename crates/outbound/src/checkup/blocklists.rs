//! Are our addresses on lists of addresses that send spam?
//!
//! A list is asked for its test entries first (RFC 5782 §5): one that does not know 127.0.0.2 says nothing when it says that
//! an address is not listed, and one that knows 127.0.0.1 lists everything.

use std::net::IpAddr;
use std::sync::Arc;

use postern_policy::checkup::blocklist::{self, Meaning, NO_ENTRY, TEST_ENTRY};
use postern_policy::checkup::{Finding, contacts};
use postern_runtime::Dns;
use postern_runtime::dns::Answer;
use postern_smtp::Domain;
use tokio::task::JoinSet;

/// Characters of what a list says about a listing.
const MAX_TEXT: usize = 300;
/// Of large resolvers few answers of lists are true.
const OWN_RESOLVER: &str =
    "set resolver.nameservers to a resolver of your own, or remove the list from outbound.blocklists";

/// Asks every list about every address.
pub(super) async fn look_up(lists: Vec<Domain>, addresses: &[IpAddr], dns: &Arc<dyn Dns>) -> Vec<Finding> {
    if lists.is_empty() {
        return vec![Finding::note("outbound.blocklists", "no list is configured, so none was asked")];
    }
    let mut asking = JoinSet::new();
    for (at, list) in lists.into_iter().enumerate() {
        let (addresses, dns) = (addresses.to_vec(), dns.clone());
        asking.spawn(async move { (at, of_list(&list, &addresses, &*dns).await) });
    }
    let mut found = asking.join_all().await;
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().flat_map(|(_, found)| found).collect()
}

async fn of_list(list: &Domain, addresses: &[IpAddr], dns: &dyn Dns) -> Vec<Finding> {
    if let Some(finding) = unusable(list, dns).await {
        return vec![finding];
    }
    let mut found = Vec::new();
    for address in addresses {
        found.push(of_address(list, *address, dns).await);
    }
    found
}

/// Why the answers of a list prove nothing, if so.
async fn unusable(list: &Domain, dns: &dyn Dns) -> Option<Finding> {
    let place = format!("list {list}");
    match ask(list, TEST_ENTRY, dns).await {
        Ok(Some(Meaning::Listed(_))) => {}
        Ok(None) => {
            let text = format!(
                "it does not have its test entry {TEST_ENTRY} (RFC 5782): it is gone, or does not answer this resolver; \
                 nothing is known from it"
            );
            return Some(Finding::trouble(place, text).mend(OWN_RESOLVER));
        }
        Ok(Some(meaning)) => return Some(no_listing(&place, meaning)),
        Err(why) => return Some(Finding::trouble(place, format!("no answer: {why}")).mend(OWN_RESOLVER)),
    }
    match ask(list, NO_ENTRY, dns).await {
        Ok(None) | Err(_) => None,
        Ok(Some(_)) => {
            let text = format!("it lists everything, also {NO_ENTRY} (RFC 5782): it is gone");
            Some(Finding::trouble(place, text).mend("remove the list from outbound.blocklists"))
        }
    }
}

async fn of_address(list: &Domain, address: IpAddr, dns: &dyn Dns) -> Finding {
    let place = format!("{address} at {list}");
    match ask(list, address, dns).await {
        Ok(None) => Finding::note(place, "not listed"),
        Ok(Some(Meaning::Listed(codes))) => {
            let codes: Vec<String> = codes.iter().map(ToString::to_string).collect();
            let words = words(list, address, dns).await.map(|words| format!(": {words}")).unwrap_or_default();
            Finding::error(place, format!("listed ({}){words}", codes.join(", "))).mend(format!(
                "find out what was sent (posternctl account list, posternctl queue list), stop it, and then ask for removal: {}",
                contacts::list_page(list.as_str())
            ))
        }
        Ok(Some(meaning)) => no_listing(&place, meaning),
        Err(why) => Finding::trouble(place, format!("no answer: {why}")),
    }
}

fn no_listing(place: &str, meaning: Meaning) -> Finding {
    match meaning {
        Meaning::Refused(why) => {
            Finding::trouble(place, format!("the resolver is blocked, which is no listing: {why}"))
                .mend(OWN_RESOLVER)
        }
        Meaning::Broken(why) => {
            Finding::trouble(place, format!("a broken list, which is no listing: {why}")).mend(OWN_RESOLVER)
        }
        Meaning::Listed(_) => Finding::note(place, "listed"),
    }
}

async fn ask(list: &Domain, address: IpAddr, dns: &dyn Dns) -> Result<Option<Meaning>, String> {
    let Some(name) = blocklist::name(address, list) else {
        return Err("its name is too long to ask for an address".to_owned());
    };
    match dns.addresses(&name).await {
        Answer::Records(addresses) => Ok(blocklist::read(&addresses)),
        Answer::NoRecords | Answer::NoSuchName => Ok(None),
        Answer::TryLater(why) => Err(why),
    }
}

/// What the list says about a listing: mostly the address of a page.
async fn words(list: &Domain, address: IpAddr, dns: &dyn Dns) -> Option<String> {
    let Answer::Records(texts) = dns.txt(&blocklist::name(address, list)?).await else { return None };
    Some(texts.join("; ").chars().take(MAX_TEXT).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_policy::checkup::Weight;
    use postern_runtime::dns::StaticDns;

    use super::*;

    fn domain(text: &str) -> Domain {
        Domain::parse_tolerant(text).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A list that works.
    fn list(dns: StaticDns, name: &str) -> StaticDns {
        dns.address_record(domain(&format!("2.0.0.127.{name}")), ip("127.0.0.2"))
    }

    async fn asked(dns: StaticDns) -> Vec<Finding> {
        let dns: Arc<dyn Dns> = Arc::new(dns);
        look_up(vec![domain("dnsbl.test")], &[ip("192.0.2.25")], &dns).await
    }

    fn ours(dns: StaticDns, answer: &str) -> StaticDns {
        list(dns, "dnsbl.test").address_record(domain("25.2.0.192.dnsbl.test"), ip(answer))
    }

    #[tokio::test]
    async fn a_listing_is_found_with_its_words_and_where_to_ask() {
        let dns = ours(StaticDns::new(), "127.0.0.4")
            .txt_record(domain("25.2.0.192.dnsbl.test"), "see https://x.test");
        let found = asked(dns).await;
        let [only] = &found[..] else { panic!("{found:?}") };
        assert_eq!((only.weight, only.place.as_str()), (Weight::Error, "192.0.2.25 at dnsbl.test"));
        assert_eq!(only.text, "listed (127.0.0.4): see https://x.test");
        assert!(only.remedy.as_ref().unwrap().contains("the site of dnsbl.test"), "{only:?}");
    }

    #[tokio::test]
    async fn what_is_no_listing_is_not_called_one() {
        let nothing = StaticDns::new();
        let everything = list(nothing.clone(), "dnsbl.test")
            .address_record(domain("1.0.0.127.dnsbl.test"), ip("127.0.0.2"));
        let blocked = nothing.clone().address_record(domain("2.0.0.127.dnsbl.test"), ip("127.255.255.254"));
        let parked = nothing.clone().address_record(domain("2.0.0.127.dnsbl.test"), ip("203.0.113.80"));
        for (dns, words) in [
            (nothing.clone(), "test entry 127.0.0.2"),
            (everything, "lists everything"),
            (blocked, "resolver is blocked, which is no listing"),
            (parked, "broken list, which is no listing"),
            (ours(nothing.clone(), "127.255.255.255"), "too often"),
            (ours(nothing.clone(), "203.0.113.80"), "broken list"),
            (nothing.clone().failing(domain("2.0.0.127.dnsbl.test")), "server failure"),
            (list(nothing, "dnsbl.test").failing(domain("25.2.0.192.dnsbl.test")), "server failure"),
        ] {
            let found = asked(dns).await;
            let [only] = &found[..] else { panic!("{found:?}") };
            assert_eq!(only.weight, Weight::Trouble, "{only:?}");
            assert!(only.text.contains(words), "{only:?}");
        }
    }

    #[tokio::test]
    async fn each_list_is_asked_about_each_address_in_order() {
        let names = ["a.test", "b.test"];
        let dns = names.iter().fold(StaticDns::new(), |dns, name| list(dns, name));
        let dns: Arc<dyn Dns> = Arc::new(dns);
        let addresses = [ip("192.0.2.25"), ip("2001:db8::25")];
        let found = look_up(names.map(domain).into(), &addresses, &dns).await;
        let places: Vec<&str> = found.iter().map(|finding| finding.place.as_str()).collect();
        let expected = [
            "192.0.2.25 at a.test",
            "2001:db8::25 at a.test",
            "192.0.2.25 at b.test",
            "2001:db8::25 at b.test",
        ];
        assert_eq!(places, expected);
        assert!(found.iter().all(|finding| finding.text == "not listed"));
        assert!(!look_up(Vec::new(), &addresses, &dns).await[0].is_concern());
    }
}
