//! `sip-lb`: see `README.md`.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = lb_userspace::cli::Cli::parse();
    match cli.execute() {
        Ok(code) => ExitCode::from(code),
        Err(cause) => {
            eprintln!("sip-lb: {cause:#}");
            ExitCode::FAILURE
        }
    }
}
