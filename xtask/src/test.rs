//! `cargo xtask test`: all layers of tests in order, nothing skipped in silence.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use cargo_metadata::{MetadataCommand, TargetKind};

use crate::{build, deps, exec};

/// Options of `test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only this layer
    #[arg(long, value_enum)]
    only: Option<Layer>,
}

/// Where tests run, from the quickest to the slowest.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Layer {
    /// Pure code, on the host
    Host,
    /// The XDP program under `BPF_PROG_TEST_RUN`
    Program,
    /// Network namespaces with real SIP peers
    Netns,
    /// The same program on the oldest kernel that is tried, in QEMU
    Kernel,
}

const LAYERS: [Layer; 4] = [Layer::Host, Layer::Program, Layer::Netns, Layer::Kernel];

impl Layer {
    const fn title(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Program => "program under test-run",
            Self::Netns => "namespaces and SIP peers",
            Self::Kernel => "old kernel",
        }
    }

    /// What the names of its test targets in lb-tests start with.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Host => "host_",
            Self::Program => "program_",
            Self::Netns => "netns_",
            Self::Kernel => "kernel_",
        }
    }
}

/// Installs what is missing, then runs the layers; an error if any test failed or could not run.
pub(crate) fn run(args: &Args) -> Result<()> {
    deps::ensure_build()?;
    deps::ensure_peers()?;
    exec::headline("what the tests take");
    ensure_host()?;

    let targets = Targets::read()?;
    exec::headline("build");
    let sip_lb = build::controller(false)?;
    exec::run(cargo_test().arg("--no-run"))?;

    let mut reports = Vec::new();
    for layer in LAYERS {
        if args.only.is_none_or(|only| only == layer) {
            exec::headline(&format!("tests: {}", layer.title()));
            reports.push((layer, run_layer(layer, targets.of(layer), &sip_lb)?));
        }
    }
    conclude(&reports)
}

fn run_layer(layer: Layer, targets: &[String], sip_lb: &Path) -> Result<Report> {
    let start = Instant::now();
    let mut commands = Vec::new();
    if layer == Layer::Host {
        let mut unit_tests = cargo_test();
        unit_tests.args(["--lib", "--bins"]);
        unit_tests.args(targets.iter().flat_map(|name| ["--test", name]));
        let mut examples = cargo_test();
        examples.arg("--doc");
        commands.extend([unit_tests, examples]);
    } else if targets.is_empty() {
        println!("no test target of lb-tests is called `{}…`", layer.prefix());
    } else {
        let mut tests = cargo_test();
        tests.args(targets.iter().flat_map(|name| ["--test", name]));
        // Calls are timed, and the guest takes both cores: side by side they would disturb each other.
        if matches!(layer, Layer::Netns | Layer::Kernel) {
            tests.args(["--", "--test-threads=1"]);
        }
        commands.push(tests);
    }

    let mut report = Report::default();
    for command in &mut commands {
        command.env("PATH", exec::path_with_sbin()).env("SIP_LB_BIN", sip_lb);
        let (text, success) = exec::tee(command)?;
        report.add(&text, success);
    }
    Ok(report.close(start.elapsed()))
}

/// The same members each time: another choice would compile the dependencies again, with other
/// features.
fn cargo_test() -> Command {
    let mut cargo = exec::cargo();
    cargo.args(["test", "--workspace", "--exclude=lb-ebpf", "--no-fail-fast"]);
    cargo
}

/// The end of it all: a line for each layer.
fn conclude(reports: &[(Layer, Report)]) -> Result<()> {
    exec::headline("summary");
    let mut total = Report::default();
    for (layer, report) in reports {
        println!("{}", report.line(layer.title()));
        total.passed += report.passed;
        total.failed += report.failed;
        total.ignored += report.ignored;
        total.broken |= report.broken;
        total.took += report.took;
    }
    println!("{}", total.line("all"));
    if total.broken {
        bail!("not all tests passed");
    }
    Ok(())
}

/// What came of a layer.
#[derive(Default, Debug, PartialEq, Eq)]
struct Report {
    passed: u64,
    failed: u64,
    ignored: u64,
    /// Something failed: a test, or what was to run it.
    broken: bool,
    took: Duration,
}

impl Report {
    /// Adds up the `test result:` lines of one `cargo test`.
    fn add(&mut self, text: &str, success: bool) {
        for line in text.lines().filter(|line| line.starts_with("test result:")) {
            let count = |what: &str| {
                line.split([';', '.'])
                    .find_map(|part| part.trim().strip_suffix(what))
                    .and_then(|number| number.trim().parse::<u64>().ok())
                    .unwrap_or(0)
            };
            self.passed += count(" passed");
            self.failed += count(" failed");
            self.ignored += count(" ignored");
        }
        self.broken |= !success;
    }

    /// A layer without a single test that ran proves nothing.
    fn close(mut self, took: Duration) -> Self {
        self.broken |= self.passed + self.failed == 0;
        self.took = took;
        self
    }

    fn line(&self, title: &str) -> String {
        let Self { passed, failed, ignored, broken, took } = self;
        let verdict = if *broken { "FAILED" } else { "ok" };
        format!(
            "{title:<26} {verdict:<6} {passed:>5} passed {failed:>3} failed {ignored:>3} ignored \
             {:>7.1} s",
            took.as_secs_f64()
        )
    }
}

/// Test targets of lb-tests, by layer.
struct Targets(Vec<(Layer, Vec<String>)>);

impl Targets {
    fn read() -> Result<Self> {
        let metadata = MetadataCommand::new()
            .current_dir(exec::workspace())
            .no_deps()
            .exec()
            .context("`cargo metadata` failed")?;
        let names = metadata
            .packages
            .iter()
            .flat_map(|package| package.targets.iter().map(move |target| (package, target)))
            .filter(|(_, target)| target.kind.contains(&TargetKind::Test))
            .map(|(package, target)| (package.name.to_string(), target.name.clone()));
        Self::sort(names)
    }

    /// Sorts targets (package, name) into layers; an error for one that no layer would run.
    /// Only lb-tests has tests that want more than the host.
    fn sort(targets: impl Iterator<Item = (String, String)>) -> Result<Self> {
        let mut layers: Vec<_> = LAYERS.map(|layer| (layer, Vec::new())).into();
        for (package, name) in targets {
            let found = layers.iter_mut().find(|(layer, _)| {
                if package == "lb-tests" {
                    name.starts_with(layer.prefix())
                } else {
                    *layer == Layer::Host
                }
            });
            match found {
                Some((_, targets)) => targets.push(name),
                None => {
                    let prefixes = LAYERS.map(Layer::prefix).join(", ");
                    bail!(
                        "test target `{name}` of lb-tests is in no layer: begin it with {prefixes}"
                    )
                }
            }
        }
        Ok(Self(layers))
    }

    fn of(&self, layer: Layer) -> &[String] {
        self.0.iter().find(|(l, _)| *l == layer).map_or(&[], |(_, targets)| targets)
    }
}

/// Root, namespaces and a BPF file system, or what to do about it.
pub(crate) fn ensure_host() -> Result<()> {
    if !exec::is_root() {
        bail!(
            "the tests load BPF programs and make network namespaces: run them as root (sudo -E)"
        );
    }
    let name = format!("sip-lb-test-{}", std::process::id());
    let ip = |verb: &str| {
        let mut ip = Command::new("ip");
        ip.env("PATH", exec::path_with_sbin()).args(["netns", verb, &name]);
        ip
    };
    exec::output(&mut ip("add")).and_then(|_text| exec::output(&mut ip("del"))).context(
        "no network namespaces here: the tests take CAP_SYS_ADMIN and CONFIG_NET_NS \
                  (in a container: --privileged)",
    )?;
    println!("root and network namespaces: yes");

    const BPFFS: &str = "/sys/fs/bpf";
    if !is_mounted(BPFFS, "bpf")? {
        if !Path::new(BPFFS).exists() {
            bail!("{BPFFS} does not exist: the kernel lacks CONFIG_BPF_SYSCALL");
        }
        println!("mounting the BPF file system at {BPFFS}");
        exec::run(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS])).with_context(|| {
            format!(
                "the tests pin maps: run `mount -t bpf bpf {BPFFS}` (in a container: --privileged)"
            )
        })?;
    }
    println!("BPF file system at {BPFFS}: yes");
    Ok(())
}

fn is_mounted(path: &str, kind: &str) -> Result<bool> {
    let mounts = fs::read_to_string("/proc/mounts").context("/proc/mounts is not readable")?;
    Ok(mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(path) && fields.next() == Some(kind)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "running 3 tests\n\
        test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s\n\
        test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0s\n";

    #[test]
    fn the_closing_lines_of_all_test_binaries_are_added_up() {
        let mut report = Report::default();
        report.add(TEXT, true);
        assert_eq!((report.passed, report.failed, report.ignored, report.broken), (7, 2, 1, false));
        report.add(TEXT, false);
        assert_eq!((report.passed, report.failed, report.ignored, report.broken), (14, 4, 2, true));
    }

    #[test]
    fn a_layer_in_which_no_test_ran_is_a_failure() {
        let mut report = Report::default();
        report.add(
            "test result: ok. 0 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out",
            true,
        );
        assert!(!report.broken);
        assert!(report.close(Duration::ZERO).broken);
    }

    #[test]
    fn a_test_target_outside_of_all_layers_is_an_error() {
        let names = [
            ("lb-tests", "netns_calls"),
            ("lb-tests", "program_table"),
            ("lb-common", "corpus"),
            ("lb-tests", "netns_reload"),
        ];
        let sort = |names: &[(&str, &str)]| {
            let owned = names.iter().map(|(p, n)| ((*p).to_owned(), (*n).to_owned()));
            Targets::sort(owned.collect::<Vec<_>>().into_iter())
        };
        let targets = sort(&names).unwrap();
        assert_eq!(targets.of(Layer::Host), ["corpus"]);
        assert_eq!(targets.of(Layer::Netns), ["netns_calls", "netns_reload"]);
        assert_eq!(targets.of(Layer::Program), ["program_table"]);
        assert!(targets.of(Layer::Kernel).is_empty());
        assert!(sort(&[("lb-tests", "lost")]).is_err());
    }

    #[test]
    fn proc_is_seen_as_mounted_and_nothing_else_in_its_place() {
        assert!(is_mounted("/proc", "proc").unwrap());
        assert!(!is_mounted("/proc", "bpf").unwrap());
        assert!(!is_mounted("/nowhere", "proc").unwrap());
    }
}
