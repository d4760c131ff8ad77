//! `cargo xtask <command>`: builds, checks and tests sip-lb, and installs what that needs.
#![deny(unsafe_code)]

mod apt;
mod bench;
mod build;
mod check;
mod demo;
mod deps;
mod exec;
mod test;
mod toolchain;
mod unpack;

use std::process::ExitCode;

use clap::Parser;

/// What to do.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, about)]
enum Task {
    /// Build the controller with the XDP program inside; install the compiler and linker it takes
    Build(build::Args),
    /// Real SIP calls through sip-lb in network namespaces, with backends that die
    Demo(demo::Args),
    /// Nanoseconds a packet under test-run, beside an empty program and a floor
    Bench(bench::Args),
    /// Formatting, lints of host and BPF code, documentation, rules of the repository
    Check(check::Args),
    /// All tests: host, program under test-run, namespaces with SIP peers, an old kernel
    Test(test::Args),
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Build(args) => build::run(&args),
        Task::Demo(args) => demo::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Check(args) => check::run(&args),
        Task::Test(args) => test::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("\nerror: {why:#}");
            ExitCode::FAILURE
        }
    }
}
