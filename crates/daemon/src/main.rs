//! `posternd`, the mail server. Everything is in the library beside this file.

use std::process::ExitCode;

fn main() -> ExitCode {
    postern_daemon::run(std::env::args_os())
}
