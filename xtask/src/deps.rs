//! Makes sure that the tools are there; on Debian, as root, installs those that are missing.

use std::{path::Path, process::Command};

use anyhow::{Result, anyhow, bail};

use crate::{
    apt::Apt,
    exec,
    toolchain::{self, LINKER_VERSION, LLVM, SYSTEM_NAME, SYSTEM_PREFIX},
    unpack,
};

/// Debian's compiler with its own source.
const COMPILER_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// Commands that the tests and the demonstration call, and the Debian package of each.
const PEERS: [(&str, &str); 13] = [
    ("sipp", "sip-tester"),
    ("sipsak", "sipsak"),
    ("kamailio", "kamailio"),
    ("turnutils_stunclient", "coturn"),
    ("tshark", "tshark"),
    ("sngrep", "sngrep"),
    ("promtool", "prometheus"),
    ("bpftool", "bpftool"),
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("nsenter", "util-linux"),
    ("ping", "iputils-ping"),
    ("busybox", "busybox-static"),
];

/// The command that runs the old kernel, and its package.
const QEMU: (&str, &str) = ("qemu-system-x86_64", "qemu-system-x86");

/// Compiler and linker of the BPF target; afterwards a plain `cargo build` works as well.
pub(crate) fn ensure_build() -> Result<()> {
    exec::headline("tools of the build");
    ensure_compiler()?;
    ensure_linker()
}

/// Everything that tests and demonstration talk to, without leaving a daemon running.
pub(crate) fn ensure_peers() -> Result<()> {
    exec::headline("SIP peers and other tools of the tests");
    let missing: Vec<_> = PEERS.iter().filter(|(command, _)| !exec::have(command)).collect();
    if missing.is_empty() {
        println!("all {} are there", PEERS.len());
    } else {
        let packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
        Apt::open(&packages)?.install(&packages)?;
        if let Some((command, package)) = missing.iter().find(|(command, _)| !exec::have(command)) {
            bail!("{package} is installed, yet there is no `{command}`");
        }
    }
    ensure_qemu()
}

/// QEMU, installed; where that would remove another package, unpacked below `target/`.
fn ensure_qemu() -> Result<()> {
    let (command, package) = QEMU;
    if exec::have(command) || unpack::path_of(command).exists() {
        println!("{command} is there");
        return Ok(());
    }
    let apt = Apt::open(&[package])?;
    apt.update();
    if unpack::removes_nothing(package) {
        apt.install(&[package])
    } else {
        unpack::qemu(command, package)
    }
}

/// The compiler that will be used, installed if need be.
pub(crate) fn ensure_compiler() -> Result<toolchain::Compiler> {
    let why = match toolchain::find_compiler() {
        Ok(compiler) => return Ok(announce(compiler)),
        Err(why) => why,
    };
    println!("no compiler for the BPF target yet: {why}");
    let both_ways = || {
        format!(
            "the XDP program takes a Rust compiler with its own source. Either\n  \
             rustup toolchain install nightly --component rust-src\n\
             or, on Debian,\n  \
             apt-get install {}\n  \
             rustup toolchain link {SYSTEM_NAME} {SYSTEM_PREFIX}",
            COMPILER_PACKAGES.join(" ")
        )
    };
    if !Path::new(SYSTEM_PREFIX).join("lib/rustlib/src/rust/library/core").exists()
        || !Path::new(SYSTEM_PREFIX).join("bin/cargo").exists()
    {
        Apt::open(&COMPILER_PACKAGES)
            .and_then(|apt| apt.install(&COMPILER_PACKAGES))
            .map_err(|why| why.context(both_ways()))?;
    }
    if toolchain::have_rustup() && !rustup_knows(SYSTEM_NAME)? {
        println!("making {SYSTEM_PREFIX} known to rustup as `{SYSTEM_NAME}`");
        exec::run(Command::new("rustup").args(["toolchain", "link", SYSTEM_NAME, SYSTEM_PREFIX]))?;
    }
    toolchain::find_compiler().map(announce).map_err(|why| anyhow!("{why}").context(both_ways()))
}

fn announce(compiler: toolchain::Compiler) -> toolchain::Compiler {
    println!("compiler for the BPF target: `{}`, {}", compiler.name, compiler.about);
    compiler
}

fn rustup_knows(name: &str) -> Result<bool> {
    let list = exec::output(Command::new("rustup").args(["toolchain", "list"]))?;
    Ok(list.lines().any(|line| line.split_whitespace().next() == Some(name)))
}

fn ensure_linker() -> Result<()> {
    let workspace = exec::workspace();
    let own = toolchain::tools_dir(&workspace);
    let why = match toolchain::find_linker(&workspace) {
        Ok(path) => {
            println!("linker for the BPF target: {} {LINKER_VERSION}", path.display());
            return Ok(());
        }
        Err(why) => why,
    };
    println!("no bpf-linker yet: {why}");
    let prefix = format!("/usr/lib/llvm-{LLVM}");
    if !Path::new(&prefix).join("bin/llvm-config").exists() {
        let packages = [format!("llvm-{LLVM}-dev"), format!("libpolly-{LLVM}-dev")];
        let packages = packages.each_ref().map(String::as_str);
        Apt::open(&packages).and_then(|apt| apt.install(&packages)).map_err(|why| {
            why.context(format!(
                "bpf-linker takes LLVM {LLVM}. Install it, then\n  LLVM_PREFIX=<where> cargo install \
                 bpf-linker --version {LINKER_VERSION} --no-default-features --features llvm-{LLVM}"
            ))
        })?;
    }
    println!("installing bpf-linker {LINKER_VERSION} into {} (about a minute)", own.display());
    let root = own.parent().unwrap_or(&own);
    let feature = format!("llvm-{LLVM}");
    exec::run(
        exec::cargo()
            .env("LLVM_PREFIX", prefix)
            .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"])
            .args(["--no-default-features", "--features", &feature, "--root"])
            .arg(root),
    )?;
    toolchain::find_linker(&workspace).map(|_path| ()).map_err(|why| anyhow!(why))
}
