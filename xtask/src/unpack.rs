//! Unpacks a Debian package and what it depends on below `target/`, for hosts on which installing
//! it would remove something else (as Debian's QEMU would the QEMU tools of its backports).

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{exec, toolchain};

/// Whether `package` can be installed without removing another one.
pub(crate) fn removes_nothing(package: &str) -> bool {
    let mut install = simulate(package);
    exec::output(install.arg("--no-remove")).is_ok()
}

/// Where the command of an unpacked package is, whether it is there or not.
pub(crate) fn path_of(command: &str) -> PathBuf {
    toolchain::tools_dir(&exec::workspace()).join(command)
}

/// Unpacks QEMU below `target/tools` and leaves a script, `command`, that starts it from there.
pub(crate) fn qemu(command: &str, package: &str) -> Result<()> {
    let script = path_of(command);
    let bin = script.parent().context("the directory of tools has no parent")?;
    let root = bin.with_file_name("qemu");
    println!(
        "{package} cannot be installed beside other packages here; unpacking it into {}",
        root.display()
    );
    // Whatever an interrupted run left.
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    fs::create_dir_all(&root)?;
    fs::create_dir_all(bin)?;
    let packages = missing(package)?;
    exec::run(Command::new("apt-get").args(["download", "-q"]).args(&packages).current_dir(&root))?;
    for entry in fs::read_dir(&root)? {
        let archive = entry?.path();
        if archive.extension().is_some_and(|extension| extension == "deb") {
            exec::output(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&root))?;
            fs::remove_file(archive)?;
        }
    }
    fs::write(&script, start_script(&root, command)?)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    exec::run(Command::new(&script).arg("--version"))
}

/// `package` and those that it depends on which are not installed.
fn missing(package: &str) -> Result<Vec<String>> {
    let plan = exec::output(&mut simulate(package))?;
    let missing: Vec<_> = plan.lines().filter_map(installed_by).map(str::to_owned).collect();
    if missing.is_empty() {
        bail!("apt-get would install nothing for {package}");
    }
    Ok(missing)
}

/// The package that a line of `apt-get install --simulate` installs: `Inst NAME (VERSION …)`.
fn installed_by(line: &str) -> Option<&str> {
    line.strip_prefix("Inst ")?.split(' ').next()
}

fn simulate(package: &str) -> Command {
    let mut command = Command::new("apt-get");
    command.args(["install", "--simulate", "-q", "--no-install-recommends", package]);
    command
}

/// Starts the unpacked program with its own libraries, modules and firmware.
fn start_script(root: &Path, command: &str) -> Result<String> {
    let root = root.to_str().context("the path of the tools is not UTF-8")?;
    if root.contains('\'') {
        bail!("{root}: a path with an apostrophe cannot be written into a script");
    }
    let triple = "x86_64-linux-gnu";
    Ok(format!(
        "#!/bin/sh\n\
         root='{root}'\n\
         export LD_LIBRARY_PATH=\"$root/usr/lib/{triple}:$root/lib/{triple}\"\n\
         export QEMU_MODULE_DIR=\"$root/usr/lib/{triple}/qemu\"\n\
         exec \"$root/usr/bin/{command}\" -L \"$root/usr/share/qemu\" -L \"$root/usr/share/seabios\" \"$@\"\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_of_apt_names_what_it_installs() {
        let plan = "Remv qemu-utils [1:10.0.2]\nInst seabios (1.16.2-1 Debian:12 [all])\nConf seabios (1.16)";
        let names: Vec<_> = plan.lines().filter_map(installed_by).collect();
        assert_eq!(names, ["seabios"]);
    }
}
