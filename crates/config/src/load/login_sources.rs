//! Back ends and identity providers that must not be asked like this, and logins that they know.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use super::load;
use crate::render;

const HOST: &str = "hostname = \"mail.proseware.test\"\n";

/// What is wrong with a configuration, in words; empty: nothing is.
fn told(config: &str, accounts: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("secret"), "geheim\n").unwrap();
    fs::write(folder.path().join("accounts.toml"), accounts).unwrap();
    let path = folder.path().join("postern.toml");
    fs::write(&path, format!("{HOST}{config}")).unwrap();
    load(&path).err().map(|error| render(&error.diagnostics)).unwrap_or_default()
}

#[test]
fn what_would_show_passwords_or_let_strangers_in_does_not_load() {
    const DOVECOT: &str = "[auth.backend.dovecot]\naddress = \"/run/auth\"\n";
    const JWKS: &str = "[auth.oauth]\nissuer = \"https://id.test\"\njwks_url = \"https://id.test/keys\"\n";
    let ldap = |text: &str| format!("[auth.backend.ldap]\n{text}\n");
    let postgres = |text: &str| {
        format!(
            "[auth.backend.postgres]\nuser = \"u\"\ndatabase = \"d\"\nquery = \"SELECT a FROM b WHERE c = $1\"\n{text}\n"
        )
    };
    for (config, words) in [
        (DOVECOT.to_owned(), ""),
        ("[auth.backend]\ntimeout = \"1s\"".to_owned(), "names no back end"),
        (
            format!("{DOVECOT}{}", ldap("url = \"ldaps://d.test\"\nbase = \"dc=x\"\nname = \"uid\"")),
            "several back ends: dovecot, ldap",
        ),
        (DOVECOT.replace("/run/auth", "run/auth"), "no absolute path"),
        (DOVECOT.replace("/run/auth", "198.51.100.9:99"), "in clear"),
        (DOVECOT.replace("/run/auth", "10.0.0.9:99"), ""),
        (format!("{DOVECOT}[auth.backend]\nmax_requests = 0"), "`max_requests` is 0"),
        (format!("{DOVECOT}[auth.backend]\nwrong_after = \"1h\""), "longer than 30 s"),
        (ldap("url = \"ldap://d.test\"\nbase = \"dc=x\""), "in clear"),
        (ldap("url = \"ldaps://d.test\""), "neither `dn` nor `base`"),
        (ldap("url = \"ldaps://d.test\"\nbase = \"dc=x\"\nfilter = \"(mail=*)\""), "no placeholder"),
        (ldap("url = \"ldaps://d.test\"\ndn = \"uid={user}\""), "no placeholder"),
        (ldap("url = \"ldaps://d.test\"\nbase = \"dc=x\""), "whose login it has found"),
        (ldap("url = \"ldaps://d.test\"\ndn = \"uid={local},ou=people\""), "lead to the same entry"),
        (ldap("url = \"ldaps://d.test\"\ndn = \"cn=all,ou={domain}\""), "lead to the same entry"),
        (ldap("url = \"ldaps://d.test\"\ndn = \"uid={login}\"\nname = \"uid\""), "`name` needs a search"),
        (ldap("url = \"ldaps://d.test\"\nbase = \"dc=x\"\nbind_dn = \"cn=x\""), "go together"),
        (ldap("url = \"http://d.test\"\nbase = \"dc=x\""), "no URL of a directory"),
        (postgres("host = \"db.test\"\ntls = false"), "in clear"),
        (postgres("host = \"/run/postgresql\"\ntls = true"), "no TLS"),
        (postgres("host = \"db.test\"").replace("$1", "1"), "no `$1`"),
        (JWKS.to_owned(), "without `audience`"),
        (format!("{JWKS}audience = \"a\""), ""),
        (
            format!("{JWKS}audience = \"a\"").replace("https://id.test/keys", "http://id.test/keys"),
            "asked safely",
        ),
        (format!("{JWKS}audience = \"a\"").replace("https://id.test/keys", "http://127.0.0.1:8/keys"), ""),
        (format!("{JWKS}audience = \"a\"\njwks_file = \"secret\""), "not exactly one"),
        (format!("{JWKS}audience = \"a\"\nclient_id = \"a\""), "are for `introspection_url`"),
        ("auth.mechanisms = [\"xoauth2\"]".to_owned(), "whose tokens"),
    ] {
        let told = told(&config, "");
        match words {
            "" => assert_eq!(told, "", "{config}"),
            words => assert!(told.contains(words), "no {words:?} in {told}\n{config}"),
        }
    }
}

#[test]
fn a_login_needs_no_password_where_somebody_else_may_know_it() {
    let accounts = "[[account]]\nname = \"alice@proseware.test\"\n";
    assert!(told("", accounts).contains("has no password"));
    assert_eq!(told("[auth.backend.dovecot]\naddress = \"/run/auth\"\n", accounts), "");
}
