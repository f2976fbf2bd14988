//! Other people's mail servers for adatum.test, each in a folder of its own. Where one is missing, its tests are skipped.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::tls::Identity;
use super::{eventually, installed, is_root, loopback, say, skip};

/// A program that somebody may not have.
pub fn peer(name: &str, found: Option<PathBuf>) -> Option<PathBuf> {
    if found.is_none() {
        skip(&format!("{name} is not installed"));
    }
    found
}

fn if_root(name: &str) -> Option<()> {
    if !is_root() {
        skip(&format!("{name} can be started by root only"));
        return None;
    }
    Some(())
}

/// The program of Postfix, where it is installed and may be started.
pub fn postfix() -> Option<PathBuf> {
    let program =
        installed("postfix").or_else(|| Some(PathBuf::from("/usr/sbin/postfix")).filter(|p| p.is_file()));
    let program = peer("postfix", program)?;
    if_root("Postfix").map(|()| program)
}

/// The services of a Postfix that listens at one address.
pub fn postfix_services(address: SocketAddr) -> String {
    let mut lines = format!("{address} inet n - n - - smtpd\n");
    lines += "pickup unix n - n 60 1 pickup\ncleanup unix n - n - 0 cleanup\nqmgr unix n - n 300 1 qmgr\n\
              tlsmgr unix - - n 1000? 1 tlsmgr\nrewrite unix - - n - - trivial-rewrite\nbounce unix - - n - 0 bounce\n\
              defer unix - - n - 0 bounce\ntrace unix - - n - 0 bounce\nverify unix - - n - 1 verify\n\
              flush unix n - n 1000? 0 flush\nproxymap unix - - n - - proxymap\nsmtp unix - - n - - smtp\n\
              lmtp unix - - n - - lmtp\n\
              showq unix n - n - - showq\nerror unix - - n - - error\nretry unix - - n - - error\n\
              virtual unix - n n - - virtual\nanvil unix - - n - 1 anvil\nscache unix - - n - 1 scache\n\
              postlog unix-dgram n - n - 1 postlogd\n";
    lines
}

/// User and group of a name in /etc/passwd.
pub fn owner_of(name: &str) -> (u32, u32) {
    let users = fs::read_to_string(Path::new("/etc/passwd")).unwrap();
    let line = users.lines().find(|line| line.split(':').next() == Some(name)).expect("a user of that name");
    let numbers: Vec<u32> = line.split(':').skip(2).take(2).map(|number| number.parse().unwrap()).collect();
    (numbers[0], numbers[1])
}

/// A folder that the server's own user may enter.
fn folder(prefix: &str) -> TempDir {
    let folder = tempfile::Builder::new().prefix(prefix).tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let identity = Identity::new(&["mx.adatum.test"]);
    fs::write(folder.path().join("cert.pem"), identity.certificate_pem).unwrap();
    fs::write(folder.path().join("key.pem"), identity.key_pem).unwrap();
    folder
}

/// A Postfix that receives for carol@adatum.test and trusts nobody, unless its test says so.
pub struct Postfix {
    program: PathBuf,
    folder: TempDir,
    pub address: SocketAddr,
}

impl Postfix {
    /// With these further lines of main.cf, which replace those of the same name. `None` where it cannot be started.
    pub fn start(settings: &str) -> Option<Self> {
        let program = postfix()?;
        let postfix = Self {
            program,
            folder: folder("postern-postfix-"),
            address: SocketAddr::from((loopback(), 2525)),
        };
        let folder = postfix.folder.path();
        for name in ["etc", "queue", "data", "mail"] {
            fs::create_dir(folder.join(name)).unwrap();
        }
        let (user, group) = owner_of("postfix");
        for name in ["data", "mail"] {
            chown(folder.join(name), Some(user), Some(group)).unwrap();
        }
        fs::write(folder.join("etc/mailboxes"), "carol@adatum.test carol/\npostmaster@adatum.test carol/\n")
            .unwrap();
        fs::write(folder.join("etc/main.cf"), with_settings(&postfix.main_cf(user, group), settings))
            .unwrap();
        fs::write(folder.join("etc/master.cf"), postfix_services(postfix.address)).unwrap();
        postfix.run("start");
        Some(postfix)
    }

    fn main_cf(&self, user: u32, group: u32) -> String {
        let folder = self.folder.path().display();
        format!(
            "compatibility_level = 3.6\n\
             queue_directory = {folder}/queue\n\
             data_directory = {folder}/data\n\
             maillog_file = {folder}/log\n\
             maillog_file_prefixes = /tmp, {folder}\n\
             myhostname = mx.adatum.test\n\
             mydestination =\n\
             inet_interfaces = all\n\
             inet_protocols = ipv4\n\
             mynetworks = 192.0.2.0/24\n\
             alias_maps =\n\
             smtpd_peername_lookup = no\n\
             smtpd_tls_cert_file = {folder}/cert.pem\n\
             smtpd_tls_key_file = {folder}/key.pem\n\
             smtpd_tls_security_level = may\n\
             virtual_mailbox_domains = adatum.test\n\
             virtual_mailbox_base = {folder}/mail\n\
             virtual_mailbox_maps = texthash:{folder}/etc/mailboxes\n\
             virtual_minimum_uid = 1\n\
             virtual_uid_maps = static:{user}\n\
             virtual_gid_maps = static:{group}\n\
             relayhost = [127.0.0.1]:9\n"
        )
    }

    fn run(&self, verb: &str) {
        let config = self.folder.path().join("etc");
        let output = Command::new(&self.program).arg("-c").arg(config).arg(verb).output().unwrap();
        assert!(output.status.success(), "postfix {verb}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Tries everything in its queue now.
    pub fn flush(&self) {
        self.run("flush");
    }

    /// What is in its queue: a line of JSON for each message.
    pub fn queue(&self) -> Vec<serde_json::Value> {
        let config = self.folder.path().join("etc");
        let mut postqueue = Command::new(self.program.with_file_name("postqueue"));
        let output = postqueue.arg("-c").arg(config).arg("-j").output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// `Postfix 3.7.11`
    pub fn version(&self) -> String {
        let output =
            Command::new(self.program.with_file_name("postconf")).args(["-d", "mail_version"]).output();
        let said = String::from_utf8(output.unwrap().stdout).unwrap();
        format!("Postfix {}", said.rsplit(' ').next().unwrap().trim())
    }
}

/// The lines of main.cf, none of them twice: every program of Postfix warns of such a line, and its logger, which would write the warning
/// to itself, can stand still over it.
fn with_settings(main_cf: &str, settings: &str) -> String {
    let name = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
    let given: Vec<String> = settings.lines().map(name).collect();
    let kept = main_cf.lines().filter(|line| !given.contains(&name(line)));
    kept.map(|line| format!("{line}\n")).collect::<String>() + settings
}

impl Drop for Postfix {
    fn drop(&mut self) {
        if std::thread::panicking() {
            say(&format!("--- log of Postfix ---\n{}", self.log()));
        }
        self.run("stop");
    }
}

/// An Exim that receives for carol@adatum.test, and for everybody else where it has a smarthost.
pub struct Exim {
    folder: TempDir,
    child: Child,
    pub address: SocketAddr,
}

/// The user that Debian's Exim insists on. It need not exist: the server gets a view of the system in which it does.
const EXIM_USER: &str = "Debian-exim";
const EXIM_ID: u32 = 64_999;

impl Exim {
    /// Relays for nobody. `None` where it cannot be started. Debian installs one mail server only, so it may also be
    /// unpacked in `$POSTERN_PEERS_DIR/exim`.
    pub fn start() -> Option<Self> {
        Self::start_with("", "", "")
    }

    /// Sends what is not for adatum.test to this server, whoever it comes from, and talks no TLS with it.
    pub fn with_smarthost(smarthost: SocketAddr) -> Option<Self> {
        let (ip, port) = (smarthost.ip(), smarthost.port());
        let router = format!(
            "smarthost:\n\
             \x20 driver = manualroute\n\
             \x20 domains = ! +local_domains\n\
             \x20 route_list = * {ip}\n\
             \x20 self = send\n\
             \x20 transport = smarthost\n"
        );
        let transport = format!(
            "smarthost:\n\
             \x20 driver = smtp\n\
             \x20 port = {port}\n\
             \x20 hosts_avoid_tls = *\n"
        );
        Self::start_with("\x20 accept domains = ! +local_domains\n", &router, &transport)
    }

    /// With these lines in front of those for recipients, routers and transports.
    fn start_with(recipients: &str, routers: &str, transports: &str) -> Option<Self> {
        let unpacked = std::env::var_os("POSTERN_PEERS_DIR").map(|peers| PathBuf::from(peers).join("exim"));
        let places = [unpacked.unwrap_or_default(), PathBuf::from("/")].map(|top| top.join("usr/sbin/exim4"));
        let program = installed("exim4").or_else(|| places.into_iter().find(|program| program.is_file()));
        let program = fs::canonicalize(peer("exim4", program)?).unwrap();
        if_root("Exim")?;
        let folder = folder("postern-exim-");
        let address = SocketAddr::from((loopback(), 2525));
        fs::create_dir(folder.path().join("spool")).unwrap();
        for name in [".", "spool", "cert.pem", "key.pem"] {
            chown(folder.path().join(name), Some(EXIM_ID), Some(EXIM_ID)).unwrap();
        }
        let config = exim_conf(&program, folder.path(), address)
            .replace("recipients:\n", &format!("recipients:\n{recipients}"))
            .replace("begin routers\n", &format!("begin routers\n{routers}"))
            .replace("begin transports\n", &format!("begin transports\n{transports}"));
        fs::write(folder.path().join("exim.conf"), config).unwrap();
        for (name, line) in [
            ("passwd", format!("{EXIM_USER}:x:{EXIM_ID}:{EXIM_ID}::/:/usr/sbin/nologin\n")),
            ("group", format!("{EXIM_USER}:x:{EXIM_ID}:\n")),
        ] {
            let known = fs::read_to_string(format!("/etc/{name}")).unwrap();
            let others: String =
                known.lines().filter(|l| !l.starts_with(EXIM_USER)).map(|l| format!("{l}\n")).collect();
            fs::write(folder.path().join(name), others + &line).unwrap();
        }
        let script = "mount --bind passwd /etc/passwd && mount --bind group /etc/group && exec \"$0\" -C \"$PWD/exim.conf\" -bdf";
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .arg(&program)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let exim = Self { folder, child, address };
        eventually("Exim listens", || TcpStream::connect(address).ok());
        Some(exim)
    }

    /// What it has logged about deliveries so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log-main")).unwrap_or_default()
    }

    /// `Exim 4.96`
    pub fn version(&self) -> String {
        // The greeting says it: asked on the command line it would want its user first.
        let mut client = super::Client::open(self.address);
        let greeting = client.expect_reply(220).text();
        let version = greeting.split("Exim ").nth(1).unwrap().split(' ').next().unwrap();
        format!("Exim {version}")
    }
}

fn exim_conf(program: &Path, folder: &Path, address: SocketAddr) -> String {
    let (folder, program) = (folder.display(), program.display());
    format!(
        "exim_path = {program}\n\
         primary_hostname = mx.adatum.test\n\
         spool_directory = {folder}/spool\n\
         log_file_path = {folder}/log-%s\n\
         pid_file_path = {folder}/pid\n\
         domainlist local_domains = adatum.test\n\
         local_interfaces = {}\n\
         daemon_smtp_ports = {}\n\
         tls_certificate = {folder}/cert.pem\n\
         tls_privatekey = {folder}/key.pem\n\
         tls_advertise_hosts = *\n\
         host_lookup =\n\
         rfc1413_query_timeout = 0s\n\
         keep_environment =\n\
         deliver_drop_privilege = true\n\
         acl_smtp_rcpt = recipients\n\
         acl_smtp_data = content\n\
         begin acl\n\
         recipients:\n\
         \x20 accept domains = +local_domains\n\
         \x20        local_parts = carol : postmaster\n\
         \x20 deny   domains = +local_domains\n\
         \x20        message = unknown user\n\
         \x20 deny   message = relay not permitted\n\
         content:\n\
         \x20 accept\n\
         begin routers\n\
         local:\n\
         \x20 driver = accept\n\
         \x20 domains = +local_domains\n\
         \x20 transport = file\n\
         begin transports\n\
         file:\n\
         \x20 driver = appendfile\n\
         \x20 file = {folder}/mail\n\
         \x20 user = {EXIM_USER}\n",
        address.ip(),
        address.port()
    )
}

impl Drop for Exim {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Dovecot whose POP3 takes one password for every user, and runs a script behind each login.
pub struct Dovecot {
    folder: TempDir,
    child: Child,
    pub address: SocketAddr,
}

impl Dovecot {
    /// Of every user.
    pub const PASSWORD: &'static str = "open-sesame";

    /// With this post-login script. `None` where it cannot be started.
    pub fn start(script: &str) -> Option<Self> {
        let place = Some(PathBuf::from("/usr/sbin/dovecot")).filter(|program| program.is_file());
        let program = peer("dovecot", installed("dovecot").or(place))?;
        peer("dovecot-pop3d", Some(PathBuf::from("/usr/lib/dovecot/pop3")).filter(|pop3| pop3.is_file()))?;
        if_root("Dovecot")?;
        let folder = folder("postern-dovecot-");
        let address = SocketAddr::from((loopback(), 1110));
        for name in ["run", "state", "mail"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        // Mail of users must not be opened as root.
        chown(folder.path().join("mail"), Some(EXIM_ID), Some(EXIM_ID)).unwrap();
        let login = folder.path().join("post-login");
        fs::write(&login, script).unwrap();
        fs::set_permissions(&login, fs::Permissions::from_mode(0o755)).unwrap();
        let config = folder.path().join("dovecot.conf");
        fs::write(&config, dovecot_conf(folder.path(), address)).unwrap();
        let child = Command::new(program)
            .arg("-F")
            .arg("-c")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let dovecot = Self { folder, child, address };
        eventually("Dovecot listens", || TcpStream::connect(address).ok());
        Some(dovecot)
    }
}

/// The service of the script is that of docs/relay-grants.md, but for the user: the daemon of the tests is root's.
fn dovecot_conf(folder: &Path, address: SocketAddr) -> String {
    let (ip, port, folder) = (address.ip(), address.port(), folder.display());
    let password = Dovecot::PASSWORD;
    format!(
        "base_dir = {folder}/run\n\
         state_dir = {folder}/state\n\
         log_path = {folder}/log\n\
         protocols = pop3\n\
         listen = {ip}\n\
         ssl = no\n\
         disable_plaintext_auth = no\n\
         mail_location = maildir:{folder}/mail\n\
         passdb {{\n\
         \x20 driver = static\n\
         \x20 args = password={{PLAIN}}{password}\n\
         }}\n\
         userdb {{\n\
         \x20 driver = static\n\
         \x20 args = uid={EXIM_ID} gid={EXIM_ID} home={folder}/mail\n\
         }}\n\
         service pop3-login {{\n\
         \x20 inet_listener pop3 {{\n\
         \x20   port = {port}\n\
         \x20 }}\n\
         \x20 inet_listener pop3s {{\n\
         \x20   port = 0\n\
         \x20 }}\n\
         }}\n\
         service pop3 {{\n\
         \x20 executable = pop3 postern-pop-login\n\
         }}\n\
         service postern-pop-login {{\n\
         \x20 executable = script-login {folder}/post-login\n\
         \x20 user = root\n\
         \x20 unix_listener postern-pop-login {{\n\
         \x20 }}\n\
         }}\n"
    )
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            say(&format!("--- log of Dovecot ---\n{log}"));
        }
        // Its other processes end with it when it is asked, not when it is killed.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}
