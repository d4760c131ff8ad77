//! `sip-lb trace`: each message of a dialog, with backend and reason.

use std::io::{self, Write as _};

use anyhow::Result;
use clap::Args;

use super::{Sink, capture::ToLines, follow, text};
use crate::{
    cli::Instance,
    watch::{Sight, Wanted},
};

/// Show each message of a dialog live, with backend and reason
///
/// Ends by Ctrl-C. While somebody watches, a program that shows packets takes the place of the other
/// on the interfaces.
#[derive(Debug, Args)]
pub(in crate::cli) struct TraceArgs {
    /// The dialog
    #[arg(long, value_name = "CALL-ID")]
    call_id: String,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    /// End after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    instance: Instance,
}

/// Traces until it is told to end.
pub(in crate::cli) fn run(args: &TraceArgs) -> Result<u8> {
    let wanted = Wanted { call_id: Some(args.call_id.clone()), service: None, packets: false };
    let socket = args.instance.socket()?;
    if args.json {
        follow(&socket, wanted, args.count, &mut ToJson)
    } else {
        follow(&socket, wanted, args.count, &mut ToLines(io::stdout()))
    }
}

struct ToJson;

impl Sink for ToJson {
    fn begin(&mut self) -> Result<()> {
        Ok(())
    }

    fn see(&mut self, sight: &Sight) -> io::Result<()> {
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, &text::json(sight))?;
        out.write_all(b"\n")?;
        out.flush()
    }
}
