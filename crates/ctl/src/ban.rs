//! `ban`: addresses that guess passwords, or that an operator does not want.

use std::time::SystemTime;

use clap::{Args, Subcommand};
use ipnet::IpNet;
use postern_admin::api::accounts::{AddBan, Ban, BanList, RemoveBan};

use crate::Session;
use crate::account::app_password::network;
use crate::failure::{Exit, Failure};
use crate::filter;
use crate::output::{self, Look};

const EXAMPLES: &str = "\
Examples:
  posternctl ban list
  posternctl ban add 198.51.100.9 --ttl 2h --reason 'guesses passwords'
  posternctl ban add 2001:db8:1:2::/64
  posternctl ban remove 198.51.100.9

Who guesses passwords is banned from the submission ports by itself: see [auth.guessing]. A ban by hand holds on every \
port. Bans end by themselves.";

/// What can be done with bans.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Verb {
    /// List the bans in force.
    List,
    /// Ban an address or a network, on every port.
    #[command(after_help = EXAMPLES)]
    Add(AddOptions),
    /// Lift a ban, and forget what led to it.
    Remove {
        /// The address or network, as `ban list` shows it.
        #[arg(value_name = "IP", value_parser = banned)]
        network: IpNet,
    },
}

/// A new ban.
#[derive(Debug, Args)]
pub struct AddOptions {
    /// An address (of IPv6, its /64 is banned), or a network such as `198.51.100.0/24`.
    #[arg(value_name = "IP", value_parser = banned)]
    network: IpNet,
    /// For how long.
    #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = filter::seconds)]
    ttl: u64,
    /// Why, for operators.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl Verb {
    /// Runs the verb.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let now = session.now;
        match self {
            Self::List => {
                let list: BanList = session.client()?.get("/v1/bans").await?;
                session.out.answer(&list, |list, look| list_text(list, now, look))?;
            }
            Self::Add(AddOptions { network, ttl, reason }) => {
                let request = AddBan { network, seconds: ttl, reason };
                let list: BanList = session.client()?.post("/v1/bans/add", &request).await?;
                session.out.answer(&list, |list, look| list_text(list, now, look))?;
            }
            Self::Remove { network } => {
                let list: BanList = session.client()?.post("/v1/bans/remove", &RemoveBan { network }).await?;
                session.out.answer(&list, |list, _| {
                    list.bans.iter().map(|ban| format!("{} is banned no more\n", ban.network)).collect()
                })?;
            }
        }
        Ok(Exit::Done)
    }
}

/// An address stands for itself, one of IPv6 for its /64: whoever has one of its addresses has them all.
fn banned(text: &str) -> Result<IpNet, String> {
    let found = network(text)?;
    match found {
        IpNet::V6(v6)
            if v6.prefix_len() == 128 && !text.contains('/') && v6.addr().to_ipv4_mapped().is_none() =>
        {
            Ok(IpNet::new(found.addr(), 64).map_or(found, |network| network.trunc()))
        }
        _ => Ok(found),
    }
}

fn list_text(list: &BanList, now: SystemTime, look: Look) -> String {
    if list.bans.is_empty() {
        return "nobody is banned\n".to_owned();
    }
    let row = |ban: &Ban| {
        let left = output::instant(ban.until).duration_since(now).unwrap_or_default();
        let ports = if ban.by_hand { "all" } else { "submission" };
        let network = match ban.network.prefix_len() == ban.network.max_prefix_len() {
            true => ban.network.addr().to_string(),
            false => ban.network.to_string(),
        };
        vec![
            network,
            output::age(ban.since, now),
            output::duration(left),
            ports.to_owned(),
            output::clean(&ban.why).into_owned(),
        ]
    };
    output::table(&["NETWORK", "SINCE", "ENDS IN", "PORTS", "WHY"], list.bans.iter().map(row), look)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn an_ipv6_address_stands_for_its_network() {
        let read = |text: &str| banned(text).unwrap().to_string();
        assert_eq!(read("2001:db8:1:2::7"), "2001:db8:1:2::/64");
        assert_eq!(read("2001:db8:1:2::7/128"), "2001:db8:1:2::7/128");
        assert_eq!(read("198.51.100.9"), "198.51.100.9/32");
        assert!(banned("everybody").is_err());
    }

    #[test]
    fn an_address_with_the_length_of_a_large_network_bans_nobody() {
        let refused = banned("203.0.113.7/8").unwrap_err();
        assert_eq!(
            refused,
            "203.0.113.7/8 has host bits set: write 203.0.0.0/8 for the network or 203.0.113.7 for the one address"
        );
        assert!(banned("2001:db8:1:2::7/64").unwrap_err().contains("2001:db8:1:2::/64"));
        assert_eq!(banned("203.0.113.0/24").unwrap().to_string(), "203.0.113.0/24");
    }

    #[test]
    fn bans_are_listed_with_their_end() {
        let ban = |network: &str, by_hand| Ban {
            network: network.parse().unwrap(),
            since: 1000,
            until: 8200,
            why: "10 wrong logins".to_owned(),
            by_hand,
        };
        let list = BanList { bans: vec![ban("198.51.100.9/32", false), ban("2001:db8:1:2::/64", true)] };
        let expected = "\
NETWORK            SINCE  ENDS IN  PORTS       WHY
198.51.100.9       1m     1h59m    submission  10 wrong logins
2001:db8:1:2::/64  1m     1h59m    all         10 wrong logins
";
        assert_eq!(list_text(&list, output::instant(1060), Look::PLAIN), expected);
        assert_eq!(
            list_text(&BanList { bans: Vec::new() }, output::instant(0), Look::PLAIN),
            "nobody is banned\n"
        );
    }
}
