//! The manual pages in packaging/man are those of the programs' own `--help`.
//!
//! `POSTERN_UPDATE_DOCS=1 cargo test --test main manual` writes them anew.

use std::fs;
use std::path::Path;

fn page(command: clap_mangen::Man) -> String {
    let mut page = Vec::new();
    command.render(&mut page).expect("writing to memory");
    String::from_utf8(page).expect("a manual page is UTF-8")
}

fn is_up_to_date(name: &str, page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/man").join(name);
    if std::env::var_os("POSTERN_UPDATE_DOCS").is_some() {
        fs::write(&path, page).expect("writing the manual page");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "packaging/man/{name} is not what --help says: run with POSTERN_UPDATE_DOCS=1");
}

#[test]
fn the_manual_page_of_posternd_is_up_to_date() {
    is_up_to_date("posternd.8", &page(clap_mangen::Man::new(postern_daemon::command()).section("8")));
}

#[test]
fn the_manual_page_of_posternctl_is_up_to_date() {
    is_up_to_date("posternctl.1", &page(clap_mangen::Man::new(postern_ctl::command()).section("1")));
}
