//! `cargo xtask check`: everything that can be said about the code without running it.

use std::{fs::File, io::Read as _, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use cargo_metadata::MetadataCommand;

use crate::{apt::Apt, deps, exec, toolchain};

/// Options of `check`: none yet.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// One of the checks.
type Check = fn() -> Result<()>;

/// Every check, with its headline.
const CHECKS: [(&str, Check); 7] = [
    ("lints inherited", lints_inherited),
    ("no object committed", no_object_committed),
    ("formatting", || exec::run(exec::cargo().args(["fmt", "--all", "--check"]))),
    ("lints, host", clippy_host),
    ("lints, BPF target", clippy_bpf),
    ("documentation", documentation),
    ("licences and sources of dependencies", dependencies),
];

/// Runs all checks; an error that names those that failed.
pub(crate) fn run(_args: &Args) -> Result<()> {
    deps::ensure_build()?;
    let mut failed = Vec::new();
    for (title, check) in CHECKS {
        exec::headline(title);
        if let Err(why) = check() {
            println!("FAILED: {why:#}");
            failed.push(title);
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join("; "));
    }
    println!("\nall checks passed");
    Ok(())
}

/// Lints of everything that runs on the host, tests included.
fn clippy_host() -> Result<()> {
    let members = ["clippy", "--workspace", "--exclude=lb-ebpf", "--all-targets"];
    exec::run(exec::cargo().args(members).args(["--", "-Dwarnings"]))
}

/// Documentation builds without a warning, that of private items as well.
fn documentation() -> Result<()> {
    let members = ["doc", "--workspace", "--exclude=lb-ebpf", "--no-deps"];
    exec::run(
        exec::cargo()
            .env("RUSTDOCFLAGS", "-Dwarnings")
            .args(members)
            .arg("--document-private-items"),
    )
}

/// By cargo-deny, which is too large to install for this alone.
fn dependencies() -> Result<()> {
    if !exec::have("cargo-deny") {
        println!("NOT CHECKED: cargo-deny is not installed (`cargo install --locked cargo-deny`)");
        return Ok(());
    }
    exec::run(exec::cargo().args(["deny", "check", "bans", "licenses", "sources"]))
}

/// Lints of the XDP program, by the compiler that builds it.
fn clippy_bpf() -> Result<()> {
    let compiler = deps::ensure_compiler()?;
    if compiler.name == toolchain::SYSTEM_NAME && !exec::have_at("/usr/bin/cargo-clippy") {
        let packages = ["rust-web-clippy"];
        Apt::open(&packages)?.install(&packages)?;
    }
    let mut cargo = match &compiler.bin {
        Some(bin) => {
            let mut cargo = Command::new(bin.join("cargo"));
            let path = std::env::var_os("PATH").unwrap_or_default();
            let dirs = std::iter::once(bin.clone()).chain(std::env::split_paths(&path));
            cargo.env("PATH", std::env::join_paths(dirs)?);
            cargo
        }
        None => {
            let mut rustup = Command::new("rustup");
            rustup.args(["run", &compiler.name, "cargo"]);
            rustup
        }
    };
    if compiler.bootstrap {
        cargo.env("RUSTC_BOOTSTRAP", "1");
    }
    // As aya-build sets them when it compiles the program.
    let flags = format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH);
    exec::run(
        cargo
            .current_dir(exec::workspace())
            .env("CARGO_ENCODED_RUSTFLAGS", flags)
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("RUSTC")
            .env_remove("CARGO")
            .args(["clippy", "--package=lb-ebpf", "--bins", "--release"])
            .args(["--target=bpfel-unknown-none", "-Zbuild-std=core"])
            .args(["--target-dir=target/bpf-check", "--", "-Dwarnings"]),
    )
}

/// Every member takes its lints from the workspace.
fn lints_inherited() -> Result<()> {
    let metadata = MetadataCommand::new()
        .current_dir(exec::workspace())
        .no_deps()
        .exec()
        .context("`cargo metadata` failed")?;
    let mut seen = 0;
    for package in &metadata.packages {
        let manifest = std::fs::read_to_string(&package.manifest_path)?;
        if !inherits_lints(&manifest).with_context(|| package.manifest_path.to_string())? {
            bail!("{}: add `[lints]` with `workspace = true`", package.manifest_path);
        }
        seen += 1;
    }
    println!("{seen} members inherit the lints of the workspace");
    Ok(())
}

fn inherits_lints(manifest: &str) -> Result<bool> {
    let manifest: toml::Table = manifest.parse().context("not TOML")?;
    let lints = manifest.get("lints").and_then(toml::Value::as_table);
    Ok(lints.and_then(|lints| lints.get("workspace")) == Some(&toml::Value::Boolean(true)))
}

/// The object is built from source wherever it is used.
fn no_object_committed() -> Result<()> {
    let root = exec::workspace();
    let files = exec::output(Command::new("git").current_dir(&root).args(["ls-files", "-z"]))?;
    let mut seen = 0;
    for name in files.split_terminator('\0') {
        let path = root.join(name);
        if path.is_file() && is_elf(&path).with_context(|| name.to_owned())? {
            bail!("{name} is a compiled object: remove it, the build makes it");
        }
        seen += 1;
    }
    if seen == 0 {
        bail!("git lists no files in {}", root.display());
    }
    println!("{seen} committed files, none a compiled object");
    Ok(())
}

fn is_elf(path: &Path) -> Result<bool> {
    let mut start = Vec::new();
    File::open(path)?.take(4).read_to_end(&mut start)?;
    Ok(start == *b"\x7fELF")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lints_count_as_inherited_only_when_the_manifest_says_so() {
        assert!(inherits_lints("[lints]\nworkspace = true").unwrap());
        assert!(!inherits_lints("[lints]\nworkspace = false").unwrap());
        assert!(!inherits_lints("[lints.rust]\nunsafe_code = 'deny'").unwrap());
        assert!(!inherits_lints("[package]\nname = 'x'").unwrap());
        assert!(inherits_lints("[lints").is_err());
    }

    #[test]
    fn an_object_is_known_by_its_first_bytes() {
        assert!(is_elf(&std::env::current_exe().unwrap()).unwrap());
        assert!(!is_elf(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))).unwrap());
    }
}
