//! A large configuration: many domains, logins and networks, each with a number.

use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use postern_config::Config;
use postern_config::account::AccountsFile;

/// An argon2id hash of nothing that anybody knows; nobody logs in here.
const HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$c29tZXRoaW5nc2FsdA$OcJJVDLuGWtGxcGPqUVpNFVHMIm+zzwqmmHkc/VeEZo";

/// How much of each.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub accounts: usize,
    pub domains: usize,
    /// Half of them trusted, half with a grant.
    pub networks: usize,
}

impl Size {
    /// Everything in one, without the parts that every server has.
    pub fn config(&self) -> Result<Config, String> {
        let text = format!("hostname = \"mail.proseware.test\"\n[relay]\n{}{}", self.trust(), self.parts());
        let mut config: Config = toml::from_str(&text).map_err(|e| e.to_string())?;
        let accounts: AccountsFile = toml::from_str(&self.accounts()).map_err(|e| e.to_string())?;
        config.accounts = accounts.accounts;
        Ok(config)
    }

    /// For a file that has a `[relay]` of its own: domains and grants.
    pub fn parts(&self) -> String {
        let mut text = String::new();
        for at in 0..self.networks / 2 {
            let _ = write!(
                text,
                "[[relay.grants]]\nlabel = \"device {at}\"\nnetwork = \"{}/32\"\nsenders = [\"*\"]\nrecipients = [\"*\"]\n\
                 rate = \"100/h\"\n",
                self.granted(at)
            );
        }
        for at in 0..self.domains {
            let _ = write!(
                text,
                "[[domain]]\nname = \"d{at}.test\"\nmailboxes = [\"alice\", \"bob\", \"carol\", \"dave\"]\n\
                 aliases = {{ info = [\"alice\"], sales = [\"bob\", \"carol\"] }}\n"
            );
        }
        text
    }

    /// The trusted networks.
    pub fn trust(&self) -> String {
        let mut text = String::from("trusted_networks = [\n");
        for at in 0..self.networks - self.networks / 2 {
            let IpAddr::V6(first) = self.trusted(at) else { continue };
            let network = Ipv6Addr::from(u128::from(first) & !0xffff);
            let _ = writeln!(text, "  {{ network = \"{network}/112\", label = \"branch {at}\" }},");
        }
        text + "]\n"
    }

    /// The file of the logins.
    pub fn accounts(&self) -> String {
        let mut text = String::new();
        for at in 0..self.accounts {
            let _ = write!(
                text,
                "[[account]]\nname = \"{}\"\npassword = \"{HASH}\"\nsend_as = [\"sales{at}@d{}.test\"]\n",
                self.account(at),
                at % self.domains
            );
        }
        text
    }

    /// A login; its name is its address.
    pub fn account(&self, at: usize) -> String {
        let at = at % self.accounts;
        format!("user{at}@d{}.test", at % self.domains)
    }

    /// A mailbox of ours.
    pub fn mailbox(&self, at: usize) -> String {
        format!("carol@d{}.test", at % self.domains)
    }

    /// A client in a trusted network.
    pub fn trusted(&self, at: usize) -> IpAddr {
        let at = (at % (self.networks - self.networks / 2)) as u128;
        IpAddr::from(Ipv6Addr::from((0x2001_0db8_u128 << 96) | (at << 16) | 7))
    }

    /// A client with a grant.
    pub fn granted(&self, at: usize) -> IpAddr {
        let at = (at % (self.networks / 2)) as u32;
        IpAddr::from(Ipv4Addr::from((10 << 24) | (at * 3)))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accounts, domains, networks } = self;
        write!(f, "{accounts} accounts, {domains} domains, {networks} networks")
    }
}
