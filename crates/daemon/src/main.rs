//! `posternd`, the mail server. Everything is in the library beside this file.

use std::process::ExitCode;

/// Gives back what a password check used (19 MiB each, on whatever thread had time): the allocator of glibc keeps it in an
/// arena for every thread, hundreds of MiB after some hundred logins. It also costs less processor time for a message.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    postern_daemon::run(std::env::args_os())
}
