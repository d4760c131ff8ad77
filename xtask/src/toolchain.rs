//! Finds what compiles the XDP program: a Rust compiler with its own source, and `bpf-linker`.
//!
//! `lb-userspace/build.rs` includes this file too, so that a plain `cargo build` and
//! `cargo xtask build` decide alike. It therefore only looks: `deps.rs` installs. It needs
//! nothing beyond std, and never downloads.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The `bpf-linker` that the build is known to work with.
pub(crate) const LINKER_VERSION: &str = "0.13.0";

/// The LLVM that `bpf-linker` is built on. It reads bitcode of this LLVM and of older ones.
pub(crate) const LLVM: u32 = 22;

/// What the compiler must at least be (`rust-version` of the workspace), as major, minor.
const OLDEST_RUST: (u32, u32) = (1, 95);

/// Overrides the search: the name of a rustup toolchain.
pub(crate) const CHOICE: &str = "SIP_LB_BPF_TOOLCHAIN";

/// The name under which a distribution's compiler is made known to rustup.
pub(crate) const SYSTEM_NAME: &str = "bpf";

/// Where a distribution's compiler lives.
pub(crate) const SYSTEM_PREFIX: &str = "/usr";

/// A compiler that can build `core` for the BPF target.
#[derive(Debug)]
pub(crate) struct Compiler {
    /// rustup's name for it.
    pub(crate) name: String,
    /// Not a nightly: unstable features have to be unlocked with `RUSTC_BOOTSTRAP=1`.
    pub(crate) bootstrap: bool,
    /// Where its programs are, if `PATH` has to lead to them because there is no rustup.
    pub(crate) bin: Option<PathBuf>,
    /// For people: version and LLVM.
    pub(crate) about: String,
}

/// Looks for a compiler: the one named in the environment, else rustup's nightly, else the
/// distribution's. The error says for each candidate why it will not do.
pub(crate) fn find_compiler() -> Result<Compiler, String> {
    if let Some(name) = env::var(CHOICE).ok().filter(|name| !name.is_empty()) {
        return rustup_compiler(&name).map_err(|why| format!("{CHOICE}={name}: {why}"));
    }
    let nightly = match rustup_compiler("nightly") {
        Ok(compiler) => return Ok(compiler),
        Err(why) => why,
    };
    system_compiler()
        .map_err(|system| format!("rustup's nightly: {nightly}; the system's compiler: {system}"))
}

/// `bpf-linker` of the right version: the workspace's own, else one in `PATH`.
pub(crate) fn find_linker(workspace: &Path) -> Result<PathBuf, String> {
    let own = tools_dir(workspace).join("bpf-linker");
    if own.exists() {
        return linker_version(&own).map(|()| own);
    }
    let name = PathBuf::from("bpf-linker");
    linker_version(&name)
        .map(|()| name)
        .map_err(|why| format!("not in {}, and in PATH: {why}", tools_dir(workspace).display()))
}

/// Where the build keeps the tools that it installs for itself.
pub(crate) fn tools_dir(workspace: &Path) -> PathBuf {
    workspace.join("target/tools/bin")
}

/// The system's compiler, if it is there, new enough, with its source, and known to rustup.
fn system_compiler() -> Result<Compiler, String> {
    let rustc = Path::new(SYSTEM_PREFIX).join("bin/rustc");
    let about = inspect(Command::new(&rustc), Path::new(SYSTEM_PREFIX))?;
    if !Path::new(SYSTEM_PREFIX).join("bin/cargo").exists() {
        return Err(format!("no cargo beside {}", rustc.display()));
    }
    let rustup = have_rustup();
    if rustup {
        let sysroot = output(rustup_run(SYSTEM_NAME).args(["--print", "sysroot"]))
            .map_err(|_why| format!("rustup does not know it as `{SYSTEM_NAME}`"))?;
        if sysroot.trim() != SYSTEM_PREFIX {
            return Err(format!("rustup's `{SYSTEM_NAME}` is {}", sysroot.trim()));
        }
    }
    let bin = (!rustup).then(|| Path::new(SYSTEM_PREFIX).join("bin"));
    Ok(Compiler { name: SYSTEM_NAME.into(), bootstrap: true, bin, about })
}

/// A rustup toolchain by name.
fn rustup_compiler(name: &str) -> Result<Compiler, String> {
    let sysroot = output(rustup_run(name).args(["--print", "sysroot"]))
        .map_err(|_why| "not installed".to_owned())?;
    let about = inspect(rustup_run(name), Path::new(sysroot.trim()))?;
    let bootstrap = !about.contains("-nightly");
    Ok(Compiler { name: name.into(), bootstrap, bin: None, about })
}

/// Checks version, LLVM and source of the compiler that `rustc` runs; says what it is.
fn inspect(mut rustc: Command, sysroot: &Path) -> Result<String, String> {
    let verbose = output(rustc.arg("-vV"))?;
    let field = |key: &str| {
        verbose.lines().find_map(|line| line.strip_prefix(key)).map(str::trim).unwrap_or_default()
    };
    let (release, llvm) = (field("release:"), field("LLVM version:"));
    let mut numbers = release.split(['.', '-']).map(|n| n.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OLDEST_RUST {
        let (major, minor) = OLDEST_RUST;
        return Err(format!("Rust {release} is older than {major}.{minor}"));
    }
    let llvm_major = llvm.split('.').next().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
    if llvm_major > LLVM {
        return Err(format!("its LLVM {llvm} is newer than bpf-linker's LLVM {LLVM}"));
    }
    let source = sysroot.join("lib/rustlib/src/rust/library/core");
    if !source.exists() {
        return Err(format!("Rust {release} is there, but not its source (rust-src)"));
    }
    Ok(format!("Rust {release}, LLVM {llvm}"))
}

fn linker_version(linker: &Path) -> Result<(), String> {
    let version = output(Command::new(linker).arg("--version"))?;
    let version = version.trim().trim_start_matches("bpf-linker ");
    if version == LINKER_VERSION {
        return Ok(());
    }
    Err(format!("{} is version {version}, not {LINKER_VERSION}", linker.display()))
}

/// Whether rustup manages compilers here.
pub(crate) fn have_rustup() -> bool {
    output(Command::new("rustup").arg("--version")).is_ok()
}

fn rustup_run(toolchain: &str) -> Command {
    let mut command = Command::new("rustup");
    // Looking must not start a download.
    command.env("RUSTUP_AUTO_INSTALL", "0").args(["run", toolchain, "rustc"]);
    command
}

fn output(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    // A wrapper such as clippy's must not answer in the compiler's place.
    let done = command
        .env_remove("RUSTC")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .stdin(Stdio::null())
        .output()
        .map_err(|why| format!("{program} does not run: {why}"))?;
    if !done.status.success() {
        let text = String::from_utf8_lossy(&done.stderr);
        let line = text.lines().next().unwrap_or_default();
        return Err(format!("{program} failed ({}): {line}", done.status));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
