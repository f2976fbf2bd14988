//! Logins of directories and databases: the real ones, set up as docs/logins.md says. Each needs the feature of its back end.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::harness::mail_servers::peer;
use crate::harness::tls::{Identity, authority_pem};
use crate::harness::{Setup, eventually, installed, is_root, skip};
use crate::login_sources::{
    ALICE, CARL, ELSEWHERE, QUICK, Server, acts_as_a_back_end, assert_says, example, guesses_are_counted,
    log_in, without_the_back_end,
};

/// Of a user that owns nothing else: databases do not start as root.
const NOBODY: u32 = 65_534;
/// [`ELSEWHERE`] by `openssl passwd -6`; nothing in it is special to a shell or to SQL.
fn hash() -> String {
    let output =
        Command::new("openssl").args(["passwd", "-6", "-salt", "saltsalt", ELSEWHERE]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn folder(prefix: &str) -> TempDir {
    let folder = tempfile::Builder::new().prefix(prefix).tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// A file that only its owner reads.
fn secret(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// A port of loopback that nobody listens on.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The table of an example, with these texts in the place of others.
fn table(heading: &str, changes: &[(&str, &str)]) -> String {
    let example = example(heading, "toml");
    changes.iter().fold(example, |table, (from, to)| {
        assert!(table.contains(from), "the example has no {from:?}");
        table.replace(from, to)
    })
}

#[cfg(feature = "sqlite")]
#[test]
fn sqlite_is_asked_for_hashes() {
    let Some(python) = peer("python3", installed("python3")) else { return };
    let folder = folder("postern-sqlite-");
    let path = folder.path().join("mail.db");
    let run = |statements: &str| {
        let program = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.executescript(sys.argv[2])";
        assert!(
            Command::new(&python)
                .args(["-c", program])
                .arg(&path)
                .arg(statements)
                .status()
                .unwrap()
                .success()
        );
    };
    run(&example("SQLite", "sql"));
    let hash = hash();
    run(&format!(
        "INSERT INTO users VALUES ('{CARL}', '{hash}', NULL), ('dora', '{hash}', 'dora@proseware.test x@adatum.test'), \
         ('empty@proseware.test', NULL, NULL), ('{ALICE}', '{hash}', NULL);"
    ));
    let table = table("SQLite", &[("/var/lib/mail/users.db", path.to_str().unwrap())]);
    let daemon = Setup::new().with(QUICK).with(&table).start();
    acts_as_a_back_end(&daemon);
    assert_says(&log_in(&daemon, "dora", ELSEWHERE), 235, &[]);
    guesses_are_counted(&daemon);

    // Found by another name, she is alice all the same, whose password is kept here.
    let by_local = table.replace("WHERE name = ?1", "WHERE ?1 IN (name, 'a.smith@proseware.test')");
    let by_local = by_local.replace("WHERE", &format!("WHERE name = '{ALICE}' AND"));
    let daemon = Setup::new().with(QUICK).with(&by_local).start();
    assert_says(&log_in(&daemon, "a.smith@proseware.test", ELSEWHERE), 535, &["5.7.8"]);
    daemon.wait_for("login-without-rights", |line| {
        line["why"].as_str().is_some_and(|why| why.contains("accounts.toml has the password"))
    });

    for wrong in [
        table.replace("SELECT password", "SELECT nothing"),
        table.replace("addresses, name FROM", "addresses FROM"),
    ] {
        without_the_back_end(&Setup::new().with(QUICK).with(&wrong).start());
    }
}

#[cfg(feature = "sqlite")]
#[test]
fn names_are_no_sql() {
    let Some(python) = peer("python3", installed("python3")) else { return };
    let folder = folder("postern-sqlite-");
    let path = folder.path().join("mail.db");
    let program = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.executescript(sys.argv[2])";
    let statements =
        format!("{}INSERT INTO users VALUES ('{CARL}', '{}', NULL);", example("SQLite", "sql"), hash());
    assert!(
        Command::new(python).args(["-c", program]).arg(&path).arg(statements).status().unwrap().success()
    );
    let table = table("SQLite", &[("/var/lib/mail/users.db", path.to_str().unwrap())]);
    let daemon = Setup::new().with(QUICK).with("[auth.guessing]\nmax_failures = 0").with(&table).start();
    for name in ["' OR '1'='1", "x'; DROP TABLE users; --", "%"] {
        assert_says(&log_in(&daemon, name, ELSEWHERE), 535, &["5.7.8"]);
    }
    assert_says(&log_in(&daemon, CARL, ELSEWHERE), 235, &[]);
}

/// A PostgreSQL of its own, with TLS and the table of the documentation.
#[cfg(feature = "postgres")]
struct Postgres {
    folder: TempDir,
    programs: PathBuf,
    port: u16,
    server: Option<Server>,
}

#[cfg(feature = "postgres")]
impl Postgres {
    fn prepare() -> Option<Self> {
        let versions = fs::read_dir("/usr/lib/postgresql").ok().into_iter().flatten().map_while(Result::ok);
        let programs =
            versions.map(|version| version.path().join("bin")).find(|bin| bin.join("initdb").is_file());
        let programs = peer("postgresql", programs)?;
        if !is_root() {
            skip("PostgreSQL is started by root as another user");
            return None;
        }
        let folder = folder("postern-postgres-");
        let identity = Identity::new(&["localhost"]);
        fs::write(folder.path().join("cert.pem"), identity.certificate_pem).unwrap();
        secret(folder.path(), "key.pem", &identity.key_pem);
        for name in ["", "cert.pem", "key.pem"] {
            chown(folder.path().join(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let postgres = Self { folder, programs, port: free_port(), server: None };
        let data = postgres.folder.path().join("data");
        let made = postgres
            .program("initdb")
            .args(["--no-sync", "--auth=trust", "-U", "admin", "-D"])
            .arg(&data)
            .output();
        let made = made.unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        fs::write(data.join("pg_hba.conf"), "local all all trust\nhostssl all all all scram-sha-256\n")
            .unwrap();
        Some(postgres)
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.uid(NOBODY).gid(NOBODY).current_dir(self.folder.path());
        command
    }

    fn start(&mut self) {
        let here = self.folder.path().display();
        let mut command = self.program("postgres");
        command.arg("-D").arg(self.folder.path().join("data")).args(["-p", &self.port.to_string(), "-F"]);
        for setting in [
            format!("unix_socket_directories={here}"),
            "listen_addresses=127.0.0.1".to_owned(),
            "ssl=on".to_owned(),
            format!("ssl_cert_file={here}/cert.pem"),
            format!("ssl_key_file={here}/key.pem"),
        ] {
            command.arg("-c").arg(setting);
        }
        self.server = Some(Server::start(&mut command, &self.folder.path().join("log")));
        eventually("PostgreSQL answers", || self.psql("postgres", "SELECT 1").then_some(()));
    }

    fn psql(&self, database: &str, statements: &str) -> bool {
        let port = self.port.to_string();
        let mut psql = self.program("psql");
        psql.args([
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "admin",
            "-p",
            &port,
            "-d",
            database,
            "-c",
            statements,
        ]);
        psql.arg("-h").arg(self.folder.path()).output().unwrap().status.success()
    }

    fn fill(&self) {
        assert!(self.psql("postgres", "CREATE DATABASE mail"));
        assert!(self.psql("mail", "CREATE ROLE postern LOGIN PASSWORD 'geheim'"));
        assert!(self.psql("mail", &example("PostgreSQL", "sql")));
        let hash = hash();
        let rows = format!(
            "INSERT INTO users VALUES ('{CARL}', '{hash}', NULL), ('dora', '{hash}', '{{dora@proseware.test,x@adatum.test}}')"
        );
        assert!(self.psql("mail", &rows));
    }
}

#[cfg(feature = "postgres")]
#[test]
fn postgresql_is_asked_for_hashes() {
    let Some(mut postgres) = Postgres::prepare() else { return };
    let port = format!("port = {}", postgres.port);
    let setup = Setup::new();
    let password = secret(setup.folder(), "database-password", "geheim\n");
    let authority = setup.folder().join("database-ca.pem");
    fs::write(&authority, authority_pem()).unwrap();
    let by_tls = table(
        "PostgreSQL",
        &[
            ("db.proseware.test", "localhost"),
            ("port = 5432", &port),
            ("/etc/postern/database-password", password.to_str().unwrap()),
            ("/etc/postern/database-ca.pem", authority.to_str().unwrap()),
        ],
    );
    let by_tls = by_tls.replace("host =", "tls = true\nhost =");
    let daemon = setup.with(QUICK).with(&by_tls).start();
    without_the_back_end(&daemon);
    postgres.start();
    postgres.fill();
    acts_as_a_back_end(&daemon);
    assert_says(&log_in(&daemon, "dora", ELSEWHERE), 235, &[]);
    // The connection that is kept is gone.
    postgres.server.as_mut().unwrap().stop();
    postgres.start();
    assert_says(&log_in(&daemon, CARL, ELSEWHERE), 235, &[]);
    guesses_are_counted(&daemon);

    // Over its socket, without TLS and password.
    let socket = format!(
        "[auth.backend.postgres]\nhost = {:?}\n{port}\nuser = \"postern\"\ndatabase = \"mail\"\n\
         query = \"SELECT password, name FROM users WHERE name = $1\"",
        postgres.folder.path()
    );
    let daemon = Setup::new().with(QUICK).with(&socket).start();
    acts_as_a_back_end(&daemon);
}

/// An OpenLDAP of its own, with the entries of the tests.
#[cfg(feature = "ldap")]
struct Slapd {
    folder: TempDir,
    program: PathBuf,
    clear: u16,
    tls: u16,
    server: Option<Server>,
}

#[cfg(feature = "ldap")]
impl Slapd {
    fn prepare() -> Option<Self> {
        let place = Some(PathBuf::from("/usr/sbin/slapd")).filter(|program| program.is_file());
        let program = peer("slapd", installed("slapd").or(place))?;
        let folder = folder("postern-slapd-");
        let here = folder.path().display();
        let identity = Identity::new(&["localhost"]);
        fs::write(folder.path().join("cert.pem"), identity.certificate_pem).unwrap();
        secret(folder.path(), "key.pem", &identity.key_pem);
        fs::write(folder.path().join("ca.pem"), authority_pem()).unwrap();
        fs::create_dir(folder.path().join("db")).unwrap();
        let config = format!(
            "include /etc/ldap/schema/core.schema\ninclude /etc/ldap/schema/cosine.schema\n\
             include /etc/ldap/schema/inetorgperson.schema\n\
             modulepath /usr/lib/ldap\nmoduleload back_mdb\npidfile {here}/pid\n\
             TLSCertificateFile {here}/cert.pem\nTLSCertificateKeyFile {here}/key.pem\nTLSCACertificateFile {here}/ca.pem\n\
             database mdb\nsuffix \"dc=proseware,dc=test\"\ndirectory {here}/db\nmaxsize 10485760\n\
             access to attrs=userPassword by anonymous auth by * none\n\
             access to * by dn.exact=\"cn=postern,dc=proseware,dc=test\" read by * none\n"
        );
        fs::write(folder.path().join("slapd.conf"), config).unwrap();
        let person = |uid: &str, unit: &str, mail: &str| {
            format!(
                "dn: uid={uid},ou={unit},dc=proseware,dc=test\nobjectClass: inetOrgPerson\nuid: {uid}\ncn: {uid}\n\
                 sn: {uid}\nuserPassword: {ELSEWHERE}\n{mail}\n"
            )
        };
        let unit = |unit: &str| {
            format!("dn: ou={unit},dc=proseware,dc=test\nobjectClass: organizationalUnit\nou: {unit}\n")
        };
        let entries = [
            "dn: dc=proseware,dc=test\nobjectClass: dcObject\nobjectClass: organization\no: Proseware\ndc: proseware\n".to_owned(),
            unit("people"),
            unit("proseware.test"),
            "dn: cn=postern,dc=proseware,dc=test\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\n\
             cn: postern\nuserPassword: geheim\n"
                .to_owned(),
            person("carl", "people", &format!("mail: {CARL}\nmail: sales@proseware.test\n")),
            person("twin1", "people", "mail: twin@proseware.test\n"),
            person("twin2", "people", "mail: twin@proseware.test\n"),
            // Bound as without a search.
            person("carl", "proseware.test", ""),
        ];
        fs::write(folder.path().join("entries.ldif"), entries.join("\n")).unwrap();
        let added = Command::new("/usr/sbin/slapadd")
            .arg("-f")
            .arg(folder.path().join("slapd.conf"))
            .arg("-l")
            .arg(folder.path().join("entries.ldif"))
            .output()
            .unwrap();
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        Some(Self { folder, program, clear: free_port(), tls: free_port(), server: None })
    }

    fn start(&mut self) {
        let socket = self.folder.path().join("ldapi");
        let urls = format!(
            "ldap://127.0.0.1:{} ldaps://127.0.0.1:{} ldapi://{}",
            self.clear,
            self.tls,
            socket.to_str().unwrap().replace('/', "%2F")
        );
        let mut command = Command::new(&self.program);
        command.arg("-f").arg(self.folder.path().join("slapd.conf")).args(["-d", "0", "-h", &urls]);
        self.server = Some(Server::start(&mut command, &self.folder.path().join("log")));
        eventually("slapd listens", || UnixStream::connect(&socket).ok());
    }
}

#[cfg(feature = "ldap")]
#[test]
fn a_directory_is_searched_and_bound_as_the_user() {
    let Some(mut slapd) = Slapd::prepare() else { return };
    let setup = Setup::new();
    let password = secret(setup.folder(), "ldap-password", "geheim\n");
    let url = format!("ldap://localhost:{}", slapd.clear);
    let authority = slapd.folder.path().join("ca.pem");
    let table = table(
        "A directory",
        &[
            ("ldap://directory.proseware.test", &url),
            ("/etc/postern/directory-ca.pem", authority.to_str().unwrap()),
            ("/etc/postern/ldap-password", password.to_str().unwrap()),
        ],
    );
    let daemon = setup.with(QUICK).with("[auth.guessing]\nmax_failures = 9").with(&table).start();
    without_the_back_end(&daemon);
    slapd.start();
    // Whichever of his addresses he types, he is one login.
    assert_says(&log_in(&daemon, "sales@proseware.test", ELSEWHERE), 235, &[]);
    daemon.wait_for("login", |line| line["login"] == "carl");
    acts_as_a_back_end(&daemon);
    // The directory tells a second address.
    let mut carl = crate::harness::Client::log_in(daemon.submission(), CARL, ELSEWHERE);
    carl.expect("MAIL FROM:<sales@proseware.test>", 250);
    for name in ["*", "c*@proseware.test", "x)(mail=*", "twin@proseware.test"] {
        assert_says(&log_in(&daemon, name, ELSEWHERE), 535, &["5.7.8"]);
    }
    let told = daemon.wait_for("login-failed", |line| line["login"] == "twin@proseware.test");
    assert!(told["why"].as_str().unwrap().contains("several entries"), "{told}");
    // The connection that is kept is gone.
    slapd.server.as_mut().unwrap().stop();
    slapd.start();
    assert_says(&log_in(&daemon, CARL, ELSEWHERE), 235, &[]);
}

#[cfg(feature = "ldap")]
#[test]
fn a_directory_is_bound_as_a_name_without_a_search() {
    let Some(mut slapd) = Slapd::prepare() else { return };
    slapd.start();
    let authority = slapd.folder.path().join("ca.pem");
    let dn = "dn = \"uid={local},ou={domain},dc=proseware,dc=test\"";
    let page = fs::read_to_string(crate::harness::repository().join("docs/logins.md")).unwrap();
    assert!(page.contains(dn), "the documentation has another example");
    let ldaps = format!(
        "[auth.backend.ldap]\nurl = \"ldaps://localhost:{}\"\nca_file = {authority:?}\n{dn}\n",
        slapd.tls
    );
    let daemon = Setup::new().with(QUICK).with(&ldaps).start();
    acts_as_a_back_end(&daemon);
    assert_says(&log_in(&daemon, ALICE, ""), 535, &["5.7.8"]);
    let socket = slapd.folder.path().join("ldapi").to_str().unwrap().replace('/', "%2F");
    let daemon = Setup::new()
        .with(QUICK)
        .with(&format!("[auth.backend.ldap]\nurl = \"ldapi://{socket}\"\n{dn}\n"))
        .start();
    acts_as_a_back_end(&daemon);
    assert_says(&log_in(&daemon, "carl,ou=people@proseware.test", ELSEWHERE), 535, &["5.7.8"]);
    // Somebody else's certificate: whoever is there gets no password.
    let other = ldaps.replace(&format!("{authority:?}"), "\"/etc/ssl/certs/ca-certificates.crt\"");
    let daemon = Setup::new().with(QUICK).with(&other).start();
    without_the_back_end(&daemon);
}
