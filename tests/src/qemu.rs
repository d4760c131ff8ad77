//! Runs a command on another kernel, in QEMU without hardware acceleration.
//!
//! The kernel is Debian 12's own 6.1 (the package of its cloud images), downloaded once below
//! `target/kernels`. Its root is a small archive: busybox, the files that the caller names, and
//! the libraries that they are linked with. proc, sysfs, devtmpfs, bpffs and a tmpfs on `/tmp` are
//! mounted, `lo` is up, and the command runs as root in `sh`.

use std::{
    env, fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

/// Names a kernel image (`vmlinuz`) to use instead of Debian's.
pub const KERNEL_VARIABLE: &str = "SIP_LB_TEST_KERNEL";

/// The versions of Debian's kernel that will do.
const VERSION: &str = "6.1.";

/// How long boot and command may take together. A boot takes about 3 s.
const TIMEOUT: Duration = Duration::from_secs(300);

const QEMU: &str = "qemu-system-x86_64";

/// What stands between the command's output and its exit status on the second serial line.
const END: &str = "\n--- sip-lb guest ended with ";

/// The guest's first process.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs tmpfs /tmp
ip link set lo up
stty -F /dev/ttyS1 raw -echo
sh /command >/dev/ttyS1 2>/dev/console </dev/null
status=$?
printf '\\n--- sip-lb guest ended with %s\\n' $status >/dev/ttyS1
poweroff -f
";

/// What a command in the guest left behind.
#[derive(Debug)]
pub struct Output {
    /// Its exit status; 0 is success.
    pub status: i32,
    /// Its standard output.
    pub stdout: String,
    /// The guest's console: the kernel's messages and the command's standard error.
    pub console: String,
}

/// Boots the old kernel with `files` (on the host, in the guest) and runs `command` there.
///
/// # Errors
///
/// A missing tool or kernel, with the remedy; a guest that does not end within two minutes or dies
/// before the command has, with its console. A command that fails is not an error: see
/// [`Output::status`].
pub fn run_in_kernel(files: &[(PathBuf, &str)], command: &str) -> Result<Output> {
    ensure!(env::consts::ARCH == "x86_64", "the old kernel is tried on x86-64 hosts only");
    let kernel = kernel()?;
    let dir = Scratch::new()?;
    let archive = dir.0.join("root.cpio");
    pack_root(&dir.0.join("root"), files, command, &archive)?;

    let size = fs::metadata(&archive)?.len() >> 20;
    let serial = |name: &str| format!("file:{}", dir.0.join(name).display());
    let mut qemu = Guest(
        Command::new(qemu_program())
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"])
            .args(["-display", "none", "-nodefaults", "-no-reboot"])
            // The archive, what it unpacks to, and room to work.
            .args(["-m", &(512 + 3 * size).to_string()])
            .args(["-serial", &serial("console"), "-serial", &serial("output")])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(&archive)
            .args(["-append", "console=ttyS0 rdinit=/init panic=-1 loglevel=5"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.0.join("qemu"))?)
            .spawn()
            .context("qemu-system-x86_64 does not start: `cargo xtask test` installs it")?,
    );
    let ended = qemu.wait(TIMEOUT)?;

    let read = |name: &str| -> Result<String> {
        match fs::read(dir.0.join(name)) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(why) => Err(why.into()),
        }
    };
    let (output, console, complaint) = (read("output")?, read("console")?, read("qemu")?);
    let Some((stdout, status)) = output.rsplit_once(END) else {
        let what = if ended { "died before the command ended" } else { "did not end in time" };
        bail!("the guest {what}\noutput: {output}\nconsole: {console}\nqemu: {complaint}");
    };
    let status = status.trim().parse().with_context(|| format!("exit status `{status}`"))?;
    Ok(Output { status, stdout: stdout.to_owned(), console })
}

/// The system's QEMU; where there is none, the one that `cargo xtask test` has unpacked.
fn qemu_program() -> PathBuf {
    let unpacked = target_dir().join("tools/bin").join(QEMU);
    if unpacked.exists() { unpacked } else { PathBuf::from(QEMU) }
}

/// The archive that the guest's kernel unpacks as its root.
fn pack_root(root: &Path, files: &[(PathBuf, &str)], command: &str, archive: &Path) -> Result<()> {
    let busybox = find_program("busybox")?;
    install(&busybox, root, "/bin/busybox")?;
    for (from, to) in files {
        install(from, root, to)?;
    }
    fs::write(root.join("command"), command)?;
    fs::write(root.join("init"), INIT)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;

    let mut names = String::new();
    list(root, "", &mut names)?;
    let mut cpio = Command::new(&busybox)
        .args(["cpio", "-o", "-H", "newc"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(archive)?)
        .stderr(Stdio::null())
        .spawn()?;
    cpio.stdin.take().context("cpio has no input")?.write_all(names.as_bytes())?;
    ensure!(cpio.wait()?.success(), "busybox cpio cannot pack {}", root.display());
    Ok(())
}

/// All that lies below `root`, directories before what is in them, a name a line.
fn list(root: &Path, below: &str, names: &mut String) -> Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let name = entry.file_name().into_string().map_err(|name| anyhow!("{name:?}"))?;
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        names.push_str(&path);
        names.push('\n');
        if entry.file_type()?.is_dir() {
            list(root, &path, names)?;
        }
    }
    Ok(())
}

/// Copies a file into the guest's root, and the libraries that it is linked with.
fn install(from: &Path, root: &Path, to: &str) -> Result<()> {
    copy(from, root, to)?;
    if fs::metadata(from)?.permissions().mode() & 0o111 == 0 {
        return Ok(());
    }
    // A static program, or none at all, makes ldd fail: then there is nothing to copy.
    let ldd = Command::new("ldd").arg(from).output().context("ldd does not start")?;
    if !ldd.status.success() {
        return Ok(());
    }
    for line in String::from_utf8_lossy(&ldd.stdout).lines() {
        // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, or a path alone.
        let Some(library) = line.split_whitespace().find(|word| word.starts_with('/')) else {
            ensure!(!line.contains("not found"), "{}: {}", from.display(), line.trim());
            continue;
        };
        copy(Path::new(library), root, library)?;
    }
    Ok(())
}

fn copy(from: &Path, root: &Path, to: &str) -> Result<()> {
    let target = root.join(to.trim_start_matches('/'));
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::copy(from, &target)
        .with_context(|| format!("{} cannot be copied for the guest", from.display()))?;
    Ok(())
}

/// The kernel's network modules of these names (`8021q`, `veth`), to be packed as files; the guest
/// loads them by `insmod`, in the order of their dependencies.
///
/// # Errors
///
/// The kernel cannot be downloaded, is one that the caller brought, or has no such module.
pub fn network_modules(names: &[&str]) -> Result<Vec<PathBuf>> {
    ensure!(
        env::var_os(KERNEL_VARIABLE).is_none(),
        "the modules of the kernel in {KERNEL_VARIABLE} are not known: unset it"
    );
    let modules = modules_of(&kernel()?);
    let find = |name: &&str| find_below(&modules, &format!("{name}.ko"));
    names
        .iter()
        .map(|name| find(name)?.with_context(|| format!("no {name}.ko in {}", modules.display())))
        .collect()
}

/// The kernel's image; downloads and unpacks Debian's package the first time.
fn kernel() -> Result<PathBuf> {
    if let Some(path) = env::var_os(KERNEL_VARIABLE) {
        return Ok(path.into());
    }
    let store = target_dir().join("kernels");
    fs::create_dir_all(&store)?;
    // Two test programs may ask at once.
    let lock = fs::File::create(store.join("lock"))?;
    lock.lock()?;
    if let Some(image) = stored(&store)? {
        return Ok(image);
    }
    download(&store).with_context(|| {
        format!("no kernel {VERSION}x: set {KERNEL_VARIABLE} to the vmlinuz of one")
    })?;
    stored(&store)?.context("the kernel's package holds no vmlinuz")
}

fn stored(store: &Path) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(store)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(&format!("vmlinuz-{VERSION}")) && modules_of(&path).exists() {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn download(store: &Path) -> Result<()> {
    let mut package = newest_package()?;
    if package.is_none() {
        run(Command::new("apt-get").args(["update", "-q"]))?;
        package = newest_package()?;
    }
    let package = package.context("apt offers no linux-image-6.1.*-cloud-amd64")?;
    println!("downloading {package} into {}", store.display());
    let unpacked = store.join("unpacked");
    fs::create_dir_all(&unpacked)?;
    run(Command::new("apt-get").args(["download", "-q", &package]).current_dir(&unpacked))?;
    let deb = fs::read_dir(&unpacked)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download left no .deb")?;
    run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&unpacked))?;
    for image in fs::read_dir(unpacked.join("boot"))?.flatten() {
        if image.file_name().to_string_lossy().starts_with("vmlinuz-") {
            let kept = store.join(image.file_name());
            let modules = modules_of(&kept);
            if !modules.exists() {
                keep_modules(&unpacked, &modules)?;
            }
            fs::rename(image.path(), kept)?;
        }
    }
    fs::remove_dir_all(&unpacked)?;
    Ok(())
}

/// Where the modules of a stored image are.
fn modules_of(image: &Path) -> PathBuf {
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    image.with_file_name(name.replace("vmlinuz-", "modules-"))
}

/// Keeps the network modules of the unpacked package, a tenth of all.
fn keep_modules(unpacked: &Path, kept: &Path) -> Result<()> {
    let versions = unpacked.join("lib/modules");
    let version = fs::read_dir(&versions)?.next().context("the package holds no modules")??;
    let kernel = version.path().join("kernel");
    let partial = kept.with_extension("partial");
    fs::create_dir_all(&partial)?;
    fs::rename(kernel.join("net"), partial.join("net"))?;
    fs::rename(kernel.join("drivers/net"), partial.join("drivers"))?;
    fs::rename(partial, kept)?;
    Ok(())
}

/// The file of this name, wherever it is below `dir`.
fn find_below(dir: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            if let Some(found) = find_below(&entry.path(), name)? {
                return Ok(Some(found));
            }
        } else if entry.file_name() == name {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

/// The package with the highest number, among those that apt knows.
fn newest_package() -> Result<Option<String>> {
    let prefix = format!("linux-image-{VERSION}");
    let names = run(Command::new("apt-cache").args(["pkgnames", &prefix]))?;
    let number = |name: &str| -> Vec<u64> {
        name.split(|c: char| !c.is_ascii_digit()).flat_map(str::parse).collect()
    };
    Ok(names
        .lines()
        .filter(|name| name.ends_with("-cloud-amd64"))
        .max_by_key(|name| number(name))
        .map(str::to_owned))
}

fn run(command: &mut Command) -> Result<String> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{:?} does not start", command.get_program()))?;
    let text = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{command:?} failed ({}): {}", done.status, text.trim());
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

fn find_program(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("no `{name}`: run `cargo xtask test`, which installs it"))
}

fn target_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")
}

/// QEMU, killed when it is no longer waited for.
struct Guest(Child);

impl Guest {
    /// Whether it ended by itself within `limit`.
    fn wait(&mut self, limit: Duration) -> Result<bool> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if self.0.try_wait()?.is_some() {
                return Ok(true);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(false)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory of one run, removed with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = target_dir().join("kernels").join(format!("run-{}-{count}", std::process::id()));
        fs::create_dir_all(dir.join("root"))?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(why) = fs::remove_dir_all(&self.0) {
            eprintln!("{} stays behind: {why}", self.0.display());
        }
    }
}
