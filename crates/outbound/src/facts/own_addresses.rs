//! By which addresses does the world know us?

use std::net::IpAddr;

use postern_config::Config;
use postern_runtime::Dns;
use postern_runtime::dns::Answer;

/// The addresses that the configuration knows the world to see our mail come from: `policy.public_addresses`, or the public
/// ones of `outbound.source_addresses`. Empty: only DNS knows.
pub(crate) fn configured_addresses(config: &Config) -> Vec<IpAddr> {
    if !config.policy.public_addresses.is_empty() {
        return config.policy.public_addresses.clone();
    }
    let source = config.outbound.source_addresses.iter();
    source.copied().filter(|address| !is_behind_translation(*address)).collect()
}

/// The same, or those that the host name has.
///
/// # Errors
/// DNS did not say, or knows none: what SPF says of us cannot be known then.
pub(crate) async fn own_addresses(config: &Config, dns: &dyn Dns) -> Result<Vec<IpAddr>, String> {
    let configured = configured_addresses(config);
    if !configured.is_empty() {
        return Ok(configured);
    }
    let hostname = &config.hostname;
    match dns.addresses(hostname).await {
        Answer::Records(addresses) => Ok(addresses),
        Answer::NoRecords | Answer::NoSuchName => Err(format!(
            "our own host name {hostname} has no address in DNS, and policy.public_addresses names none"
        )),
        Answer::TryLater(why) => Err(format!("addresses of {hostname}: {why}")),
    }
}

/// An address that the world never sees: whoever sends from one is translated into another on the way.
fn is_behind_translation(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => {
            // RFC 6598 §7: the addresses of carriers' own networks.
            let is_carrier_grade = ip.octets()[0] == 100 && (64..128).contains(&ip.octets()[1]);
            ip.is_private() || ip.is_loopback() || ip.is_link_local() || is_carrier_grade
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_runtime::dns::StaticDns;
    use postern_smtp::Domain;

    use super::*;

    async fn addresses(text: &str) -> Result<Vec<String>, String> {
        let config: Config = toml::from_str(&format!("hostname = \"mail.proseware.test\"\n{text}")).unwrap();
        let hostname = Domain::parse("mail.proseware.test").unwrap();
        let dns = StaticDns::new().address_record(hostname, "192.0.2.1".parse().unwrap());
        own_addresses(&config, &dns).await.map(|list| list.iter().map(IpAddr::to_string).collect())
    }

    #[tokio::test]
    async fn what_is_configured_counts_before_what_dns_says() {
        assert_eq!(addresses("").await.unwrap(), ["192.0.2.1"]);
        let translated =
            "outbound.source_addresses = [\"10.0.0.5\", \"100.64.1.1\", \"fd00::5\", \"127.0.0.1\"]\n";
        assert_eq!(addresses(translated).await.unwrap(), ["192.0.2.1"]);
        let source = "outbound.source_addresses = [\"10.0.0.5\", \"203.0.113.5\"]\n";
        assert_eq!(addresses(source).await.unwrap(), ["203.0.113.5"]);
        let public = "policy.public_addresses = [\"198.51.100.7\"]\n";
        assert_eq!(addresses(&format!("{public}{source}")).await.unwrap(), ["198.51.100.7"]);
    }

    #[tokio::test]
    async fn a_host_without_addresses_is_no_answer() {
        let config: Config = toml::from_str("hostname = \"mail.proseware.test\"").unwrap();
        let error = own_addresses(&config, &StaticDns::new()).await.unwrap_err();
        assert!(error.contains("policy.public_addresses"), "{error}");
    }
}
