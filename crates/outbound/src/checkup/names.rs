//! Names and addresses of this host, as others see them.
//!
//! Receivers compare three things: the name in EHLO, the name that the address has (PTR), and the addresses that this name
//! has in turn. Large ones refuse mail where the second is missing or the third does not fit.

use std::net::IpAddr;

use postern_config::Config;
use postern_policy::checkup::Finding;
use postern_runtime::Dns;
use postern_runtime::dns::Answer;
use postern_smtp::Domain;

/// The host name leads to addresses, and those lead back to it.
pub(super) async fn of_host(config: &Config, dns: &dyn Dns) -> Vec<Finding> {
    let hostname = &config.hostname;
    let place = format!("hostname {hostname}");
    let addresses = match dns.addresses(hostname).await {
        Answer::Records(addresses) => addresses,
        Answer::NoRecords | Answer::NoSuchName => {
            return vec![
                Finding::error(place, "it has no address in DNS: many servers refuse a host of that name")
                    .mend(format!(
                        "publish: {hostname}. IN A ADDRESS; or set hostname to the name of this host"
                    )),
            ];
        }
        Answer::TryLater(why) => {
            let finding = Finding::trouble(place, format!("its addresses: {why}"));
            return vec![finding.mend(see_name_servers(config, hostname))];
        }
    };
    let mut found = Vec::new();
    let mut leads_back = false;
    for address in &addresses {
        match dns.ptr(*address).await {
            Answer::Records(names) if names.contains(hostname) => {
                leads_back = true;
                found.push(Finding::note(&place, format!("{address} leads back to it")));
            }
            Answer::Records(names) => found.push(foreign_names(&place, *address, &names, hostname)),
            Answer::NoRecords | Answer::NoSuchName => {
                let text = format!("{address} has no name (PTR record)");
                found.push(Finding::warning(&place, text).mend(publish(*address, hostname)));
            }
            Answer::TryLater(why) => {
                found.push(Finding::trouble(&place, format!("the name of {address}: {why}")));
            }
        }
    }
    // One address among several may be for other services.
    if leads_back {
        found.retain(|finding| !finding.is_concern());
    }
    found
}

/// Without DNS nothing is delivered that goes by MX: the first question that has no answer says whom we ask.
fn see_name_servers(config: &Config, hostname: &Domain) -> String {
    match config.resolver.nameservers.as_slice() {
        [] => format!("see whether the name servers of /etc/resolv.conf answer: dig {hostname}"),
        [first, ..] => format!(
            "see whether the name servers of [resolver] answer (as long as they do not, nothing is delivered by MX): dig @{} -p {} \
             {hostname}",
            first.ip(),
            first.port()
        ),
    }
}

/// An address that mail is sent from has the name that we say in EHLO, and the name has the address.
pub(super) async fn of_address(address: IpAddr, hostname: &Domain, dns: &dyn Dns) -> Vec<Finding> {
    let place = format!("address {address}");
    let names = match dns.ptr(address).await {
        Answer::Records(names) => names,
        Answer::NoRecords | Answer::NoSuchName => {
            let text = "it has no name (PTR record): large providers refuse mail from it";
            return vec![Finding::error(place, text).mend(publish(address, hostname))];
        }
        Answer::TryLater(why) => return vec![Finding::trouble(place, format!("its name: {why}"))],
    };
    if !names.contains(hostname) {
        return vec![foreign_names(&place, address, &names, hostname)];
    }
    match dns.addresses(hostname).await {
        Answer::Records(addresses) if addresses.contains(&address) => {
            vec![Finding::note(place, format!("its name is {hostname}, as in EHLO, and {hostname} has it"))]
        }
        Answer::TryLater(why) => vec![Finding::trouble(place, format!("addresses of {hostname}: {why}"))],
        Answer::Records(_) | Answer::NoRecords | Answer::NoSuchName => {
            let kind = if address.is_ipv4() { "A" } else { "AAAA" };
            let text =
                format!("its name is {hostname}, which has other addresses: receivers do not believe it");
            vec![Finding::error(place, text).mend(format!("publish: {hostname}. IN {kind} {address}"))]
        }
    }
}

fn foreign_names(place: &str, address: IpAddr, names: &[Domain], hostname: &Domain) -> Finding {
    let names: Vec<String> = names.iter().map(Domain::to_string).collect();
    let text =
        format!("the name of {address} is {}, not {hostname}, which we say in EHLO", names.join(" and "));
    Finding::warning(place, text).mend(format!(
        "{}; or set hostname to {}",
        publish(address, hostname),
        names.join(" or ")
    ))
}

/// The owner of the network publishes it, not that of the domain.
fn publish(address: IpAddr, hostname: &Domain) -> String {
    format!("have your provider set the PTR record of {address} to {hostname}.")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_policy::checkup::Weight;
    use postern_runtime::dns::StaticDns;

    use super::*;

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn us() -> Domain {
        domain("mail.proseware.test")
    }

    async fn of_host(dns: &StaticDns) -> Vec<Finding> {
        let config: Config = toml::from_str("hostname = \"mail.proseware.test\"").unwrap();
        super::of_host(&config, dns).await
    }

    #[tokio::test]
    async fn forward_and_reverse_names_that_fit_are_no_concern() {
        let dns = StaticDns::new()
            .address_record(us(), ip("192.0.2.25"))
            .address_record(us(), ip("2001:db8::25"))
            .ptr_record(ip("192.0.2.25"), us());
        assert!(of_host(&dns).await.iter().all(|finding| !finding.is_concern()));
        let found = of_address(ip("192.0.2.25"), &us(), &dns).await;
        assert!(matches!(&found[..], [only] if !only.is_concern()), "{found:?}");
    }

    #[tokio::test]
    async fn what_does_not_fit_is_said_with_what_to_publish() {
        let other = domain("host7.provider.test");
        let base = || StaticDns::new().address_record(us(), ip("192.0.2.25"));
        for (dns, weight, text, remedy) in [
            (base(), Weight::Error, "no name (PTR", "PTR record of 192.0.2.25 to mail.proseware.test."),
            (
                base().ptr_record(ip("192.0.2.25"), other.clone()),
                Weight::Warning,
                "is host7.provider.test",
                "PTR",
            ),
            (base().failing_ptr(ip("192.0.2.25")), Weight::Trouble, "server failure", ""),
            (
                StaticDns::new().address_record(us(), ip("192.0.2.26")).ptr_record(ip("192.0.2.25"), us()),
                Weight::Error,
                "other addresses",
                "mail.proseware.test. IN A 192.0.2.25",
            ),
        ] {
            let found = of_address(ip("192.0.2.25"), &us(), &dns).await;
            let [only] = &found[..] else { panic!("{found:?}") };
            assert_eq!(only.weight, weight, "{only:?}");
            assert!(only.text.contains(text), "{only:?}");
            assert!(only.remedy.clone().unwrap_or_default().contains(remedy), "{only:?}");
        }
    }

    #[tokio::test]
    async fn a_host_name_without_address_or_way_back_is_found() {
        let found = of_host(&StaticDns::new()).await;
        assert!(found[0].weight == Weight::Error && found[0].text.contains("no address"), "{found:?}");
        let found = of_host(&StaticDns::new().failing(us())).await;
        assert_eq!(found[0].weight, Weight::Trouble);
        let found = of_host(&StaticDns::new().address_record(us(), ip("192.0.2.25"))).await;
        assert!(matches!(&found[..], [only] if only.weight == Weight::Warning), "{found:?}");
    }
}
