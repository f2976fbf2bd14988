//! The folder of one server of the demonstration: configuration, certificate, keys, login.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{CertificateParams, KeyPair};

/// One server: who it is and where it listens.
#[derive(Debug, Clone)]
pub struct Site {
    /// Its mail domain.
    pub domain: &'static str,
    /// Its one mailbox, and the login of the same address.
    pub user: &'static str,
    /// The password of the login, made for this run.
    pub password: String,
    /// The folder.
    pub folder: PathBuf,
    /// The MX listener.
    pub mx: SocketAddr,
    /// Submission with STARTTLS.
    pub submission: SocketAddr,
    /// Submission over TLS.
    pub submissions: SocketAddr,
    /// Metrics.
    pub metrics: SocketAddr,
}

impl Site {
    /// Chooses ports (the well-known ones behind `thousand`: 2000 gives 2025, 2587 ...) and a password; writes nothing yet.
    ///
    /// # Errors
    /// When no ports are free.
    pub fn plan(
        parent: &Path,
        domain: &'static str,
        user: &'static str,
        thousand: u16,
    ) -> anyhow::Result<Self> {
        let folder = parent.join(domain.split('.').next().unwrap_or(domain));
        let port = |service: u16| free_port(thousand + service);
        Ok(Self {
            domain,
            user,
            password: format!("{:016x}", rand::random::<u64>()),
            folder,
            mx: port(25)?,
            submission: port(587)?,
            submissions: port(465)?,
            metrics: port(90)?,
        })
    }

    /// Its host name.
    pub fn hostname(&self) -> String {
        format!("mail.{}", self.domain)
    }

    /// The address of its user.
    pub fn address(&self) -> String {
        format!("{}@{}", self.user, self.domain)
    }

    /// The certificate, which is its own authority.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("tls.pem")
    }

    /// The main configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("postern.toml")
    }

    /// Where mail for its user arrives.
    pub fn inbox(&self) -> PathBuf {
        self.folder.join("spool/mail").join(self.domain).join(self.user).join("new")
    }

    /// Writes everything the server needs. `peer_port` is the other server's MX port.
    ///
    /// # Errors
    /// When a file cannot be written or a key not be made.
    pub fn write(&self, peer_port: u16, name_server: SocketAddr) -> anyhow::Result<()> {
        fs::create_dir_all(&self.folder).with_context(|| format!("making {}", self.folder.display()))?;
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![self.hostname()])?.self_signed(&key)?;
        self.put("tls.pem", 0o644, &certificate.pem())?;
        self.put("tls.key", 0o600, &key.serialize_pem())?;
        let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)?;
        self.put("dkim-rsa.key", 0o600, &rsa.serialize_pem())?;
        let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
        self.put("dkim-ed25519.key", 0o600, &ed25519.serialize_pem())?;
        let hash =
            postern_policy::accounts::hash_password(self.password.as_bytes()).map_err(anyhow::Error::msg)?;
        let account = format!("[[account]]\nname = \"{}\"\npassword = \"{hash}\"\n", self.address());
        self.put("accounts.toml", 0o600, &account)?;
        self.put("postern.toml", 0o644, &self.configuration(peer_port, name_server))
    }

    fn configuration(&self, peer_port: u16, name_server: SocketAddr) -> String {
        let user = if nix::unistd::Uid::effective().is_root() { "user = \"root\"\n" } else { "" };
        format!(
            r#"hostname = "{hostname}"
{user}
[[listener]]
kind = "mx"
address = "{mx}"

[[listener]]
kind = "submission"
address = "{submission}"

[[listener]]
kind = "submissions"
address = "{submissions}"

[tls]
certificate = "tls.pem"
key = "tls.key"

[[domain]]
name = "{domain}"
mailboxes = ["{mailbox}"]
aliases = {{ sales = ["{mailbox}"] }}

[[domain.dkim]]
selector = "rsa"
key = "dkim-rsa.key"

[[domain.dkim]]
selector = "ed25519"
key = "dkim-ed25519.key"

[queue]
path = "spool"
min_free_space = "16MiB"
# Real servers wait minutes; nobody wants to watch that.
retry = {{ first = "1s", growth = 1.2, cap = "5s" }}

[outbound]
# The other server of the demonstration, which is on this machine and not on port 25.
port = {peer_port}
allow_private_targets = true
destination_back_off = "1s"
destination_back_off_cap = "2s"

[resolver]
nameservers = ["{name_server}"]

[log]
format = "json"

[metrics]
listen = "{metrics}"

[admin]
socket = "control.sock"
"#,
            hostname = self.hostname(),
            mx = self.mx,
            submission = self.submission,
            submissions = self.submissions,
            domain = self.domain,
            mailbox = self.user,
            metrics = self.metrics,
        )
    }

    fn put(&self, name: &str, mode: u32, content: &str) -> anyhow::Result<()> {
        let path = self.folder.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        let mut file = file.with_context(|| format!("creating {}", path.display()))?;
        file.write_all(content.as_bytes()).with_context(|| format!("writing {}", path.display()))
    }
}

/// The wanted port of loopback, or any free one if somebody has it.
fn free_port(wanted: u16) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .context("no free port on 127.0.0.1")?;
    Ok(listener.local_addr()?)
}
