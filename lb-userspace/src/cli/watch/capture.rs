//! `sip-lb capture`: what the XDP program sees and forwards.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::Args;

use super::{Sink, follow, pcapng::Writer, text};
use crate::{
    cli::Instance,
    watch::{Sight, Wanted},
};

/// Show or write the packets that the XDP program sees and forwards
///
/// tcpdump on this host does not see them. Each is there as it came in and as it left, with the
/// decision about it. Ends by Ctrl-C, and says what was lost. While somebody watches, a program that
/// shows packets takes the place of the other on the interfaces.
#[derive(Debug, Args)]
pub(in crate::cli) struct CaptureArgs {
    /// Write the packets to this file (pcapng), readable by its owner alone; - is standard output.
    /// Without this, one line a packet is printed
    #[arg(short = 'w', long = "write", value_name = "OUT.pcap")]
    write: Option<PathBuf>,
    /// Only the dialog with this Call-ID
    #[arg(long, value_name = "CALL-ID")]
    call_id: Option<String>,
    /// Only packets for or from this service
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// End after so many packets
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    instance: Instance,
}

/// Captures until it is told to end.
pub(in crate::cli) fn run(args: &CaptureArgs) -> Result<u8> {
    let wanted = Wanted {
        call_id: args.call_id.clone(),
        service: args.service.clone(),
        packets: args.write.is_some(),
    };
    let socket = args.instance.socket()?;
    match &args.write {
        Some(path) => follow(&socket, wanted, args.count, &mut ToFile { path, writer: None }),
        None => follow(&socket, wanted, args.count, &mut ToLines(io::stdout())),
    }
}

/// A file, made when the running instance has agreed.
struct ToFile<'a> {
    path: &'a Path,
    writer: Option<Writer<Box<dyn Write>>>,
}

impl Sink for ToFile<'_> {
    fn begin(&mut self) -> Result<()> {
        let named = || format!("cannot write {}", self.path.display());
        let out: Box<dyn Write> = if self.path == Path::new("-") {
            Box::new(io::stdout())
        } else {
            Box::new(create(self.path).with_context(named)?)
        };
        self.writer = Some(Writer::new(out).with_context(named)?);
        let to = match self.path == Path::new("-") {
            true => "standard output".to_owned(),
            false => self.path.display().to_string(),
        };
        eprintln!("sip-lb: writing packets to {to}; Ctrl-C ends");
        Ok(())
    }

    fn see(&mut self, sight: &Sight) -> io::Result<()> {
        match &mut self.writer {
            Some(writer) => writer.write(sight),
            None => Ok(()),
        }
    }
}

/// Calls and their credentials are in there: for its owner alone.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// One line a packet.
pub(super) struct ToLines<W>(pub(super) W);

impl<W: Write> Sink for ToLines<W> {
    fn begin(&mut self) -> Result<()> {
        writeln!(self.0, "{}", text::head())?;
        self.0.flush().context("cannot write to standard output")
    }

    fn see(&mut self, sight: &Sight) -> io::Result<()> {
        writeln!(self.0, "{}", text::row(sight))?;
        self.0.flush()
    }
}
