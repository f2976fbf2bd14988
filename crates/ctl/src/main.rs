//! posternctl, the operator's command.

use std::process::ExitCode;

fn main() -> ExitCode {
    postern_ctl::run(std::env::args_os())
}
