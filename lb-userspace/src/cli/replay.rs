//! `sip-lb replay`: what would happen to the packets of a capture?

use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal as _, Read, Write},
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;

use super::choice::{self, USAGE};
use crate::{
    config::Config,
    replay::{
        Assumptions, Replay,
        capture::{Capture, Packet},
        line::Line,
        pcap::PcapWriter,
        text::{self, Summary},
    },
};

/// Between two looks at the clock, in packets, and between two signs of progress.
const PROGRESS_PACKETS: u64 = 1024;
const PROGRESS: Duration = Duration::from_millis(500);

/// Say what the XDP program would do with the packets of a capture
///
/// Every packet runs through the real program in the kernel, attached to nothing and with maps of
/// its own: neither the configured interfaces nor a running instance is touched. All backends count
/// as healthy but those of --down. VLAN tags are taken off and each Ethernet header is replaced by
/// that of the neighbour which would send the packet; time is that of the capture. Needs root.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The capture, pcap or pcapng; - reads standard input
    #[arg(value_name = "IN.pcap")]
    pub input: PathBuf,
    /// Print one JSON object a line for each packet
    #[arg(long)]
    pub json: bool,
    /// Write the packets that are sent on, as they would leave, with their time stamps
    #[arg(long, value_name = "OUT.pcap")]
    pub write: Option<PathBuf>,
    /// A backend that is down; may be repeated
    #[arg(long, value_name = "SERVICE/BACKEND")]
    pub down: Vec<String>,
    /// An address of the edge host itself, such as the one that probes come from: what backends
    /// send there passes; may be repeated
    #[arg(long, value_name = "IP")]
    pub local: Vec<IpAddr>,
    /// Backends are on one link with the edge host, so that a call from one to another is sent on
    /// from the VIP; without this each is behind a router and keeps its address
    #[arg(long)]
    pub on_link: bool,
}

/// Replays, and prints what came of it. Returns the exit code.
///
/// # Errors
///
/// If the capture cannot be read to its end, a result not be written, or the kernel refuses.
pub fn run(args: &ReplayArgs) -> Result<u8> {
    run_to(args, &mut io::stdout())
}

/// [`run`] with another place for the results.
///
/// # Errors
///
/// As [`run`].
pub fn run_to(args: &ReplayArgs, out: &mut (dyn Write + Send)) -> Result<u8> {
    let config = match choice::config(&args.config) {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    let down = match choice::down(&config, &args.down) {
        Ok(down) => down,
        Err(message) => {
            eprintln!("sip-lb: {message}");
            return Ok(USAGE);
        }
    };
    let assumptions = Assumptions {
        key: choice::hash_key(&config),
        down,
        local: args.local.clone(),
        on_link: args.on_link,
    };
    // A thread of its own, because it leaves the network namespace of the others.
    thread::scope(|scope| {
        let work = thread::Builder::new()
            .name("replay".to_owned())
            .spawn_scoped(scope, || replay(args, &config, &assumptions, out))
            .context("cannot start a thread")?;
        work.join().map_err(|_panic| anyhow!("the replay ended by a defect of this program"))?
    })?;
    Ok(0)
}

fn replay(
    args: &ReplayArgs,
    config: &Config,
    assumptions: &Assumptions,
    out: &mut (dyn Write + Send),
) -> Result<()> {
    let (input, size) = open(&args.input)?;
    let named = || match is_standard_input(&args.input) {
        true => "standard input".to_owned(),
        false => args.input.display().to_string(),
    };
    let mut capture = Capture::open(input).with_context(named)?;
    let mut replay = Replay::start(config, assumptions)?;
    let mut written = args.write.as_deref().map(|path| create(path, &args.input)).transpose()?;
    let mut out = Output::new(out, args.json, replay.width());
    let mut progress = Progress::new(size);
    let mut packet = Packet::default();
    // What was found out before the file breaks off is still worth showing.
    let ended = loop {
        match capture.read(&mut packet) {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(cause) => break Err(cause),
        }
        let replayed = replay.packet(&packet)?;
        if let Some(written) = &mut written {
            for frame in replayed.leaves {
                written.write(packet.time, frame).context("cannot write the packets")?;
            }
        }
        match out.line(&replayed.line) {
            // Whoever read along has seen enough.
            Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe && written.is_none() => {
                return Ok(());
            }
            result => result.context("cannot write the results")?,
        }
        progress.note(replayed.line.packet, capture.consumed());
    };
    progress.clear();
    if let Some(written) = written {
        written.finish().context("cannot write the packets")?;
    }
    match out.finish() {
        Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe => {}
        result => result.context("cannot write the results")?,
    }
    ended.with_context(named)
}

fn is_standard_input(path: &Path) -> bool {
    path == Path::new("-")
}

/// The capture, and its size in bytes if known.
fn open(path: &Path) -> Result<(Box<dyn Read + Send>, Option<u64>)> {
    if is_standard_input(path) {
        return Ok((Box::new(io::stdin()), None));
    }
    let named = || format!("cannot open {}", path.display());
    let file = File::open(path).with_context(named)?;
    let size = file.metadata().with_context(named)?.len();
    Ok((Box::new(file), Some(size)))
}

/// The file that packets are written to.
fn create(path: &Path, input: &Path) -> Result<PcapWriter<BufWriter<File>>> {
    let same = |a: &Path, b: &Path| {
        let (a, b) = (a.metadata().ok()?, b.metadata().ok()?);
        Some((a.dev(), a.ino()) == (b.dev(), b.ino()))
    };
    if same(path, input) == Some(true) {
        bail!("--write {}: this is the capture that is read; name another file", path.display());
    }
    let named = || format!("cannot write {}", path.display());
    let file = File::create(path).with_context(named)?;
    PcapWriter::new(BufWriter::new(file)).with_context(named)
}

/// The results: lines, and a summary if a person reads.
struct Output<'a> {
    out: BufWriter<&'a mut (dyn Write + Send)>,
    json: bool,
    width: usize,
    has_head: bool,
    summary: Summary,
}

impl<'a> Output<'a> {
    fn new(out: &'a mut (dyn Write + Send), json: bool, width: usize) -> Self {
        let out = BufWriter::with_capacity(1 << 16, out);
        Self { out, json, width, has_head: false, summary: Summary::default() }
    }

    fn line(&mut self, line: &Line<'_>) -> io::Result<()> {
        if self.json {
            serde_json::to_writer(&mut self.out, line)?;
            return self.out.write_all(b"\n");
        }
        if !self.has_head {
            self.has_head = true;
            writeln!(self.out, "{}", text::head(self.width))?;
        }
        self.summary.add(line);
        writeln!(self.out, "{}", text::row(line, self.width))
    }

    fn finish(mut self) -> io::Result<()> {
        if !self.json {
            if self.summary.packets() > 0 {
                writeln!(self.out)?;
            }
            write!(self.out, "{}", self.summary.text())?;
        }
        self.out.flush()
    }
}

/// Signs of life on a terminal while the results go elsewhere.
struct Progress {
    is_wanted: bool,
    is_shown: bool,
    size: Option<u64>,
    started: Instant,
    shown_at: Instant,
}

impl Progress {
    fn new(size: Option<u64>) -> Self {
        let is_wanted = io::stderr().is_terminal() && !io::stdout().is_terminal();
        let now = Instant::now();
        Self { is_wanted, is_shown: false, size, started: now, shown_at: now }
    }

    fn note(&mut self, packets: u64, bytes: u64) {
        if !self.is_wanted
            || !packets.is_multiple_of(PROGRESS_PACKETS)
            || self.shown_at.elapsed() < PROGRESS
        {
            return;
        }
        self.shown_at = Instant::now();
        self.is_shown = true;
        let rate = packets as f64 / self.started.elapsed().as_secs_f64();
        let part = match self.size {
            Some(size) if size > 0 => format!(", {} %", bytes * 100 / size),
            Some(_) | None => String::new(),
        };
        eprint!("\r{packets} packets, {rate:.0}/s{part} ");
    }

    fn clear(&self) {
        if self.is_shown {
            eprintln!();
        }
    }
}
