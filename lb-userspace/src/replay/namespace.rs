//! A network namespace for this thread alone, with one interface in it.

use anyhow::{Context as _, Result, anyhow};
use nix::{
    sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, unshare},
    unistd::Pid,
};
use rtnetlink::{LinkUnspec, LinkVeth, packet_route::link::LinkAttribute};

/// Name of the interface; the other end of the pair has the second.
const NAMES: [&str; 2] = ["replay0", "replay1"];

/// Moves the calling thread into a network namespace of its own, which ends with the thread, and to
/// one CPU. Returns the index of the one interface there, one end of a veth pair.
///
/// # Errors
///
/// Without the privileges for it, or if the kernel knows no veth.
pub(super) fn enter() -> Result<u32> {
    unshare(CloneFlags::CLONE_NEWNET)
        .context("cannot make a private network namespace: run as root, or with CAP_SYS_ADMIN")?;
    stay_on_one_cpu().context("cannot keep the replay on one CPU")?;
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("cannot start the runtime")?
        .block_on(veth())
        .context("cannot make a veth pair in the private network namespace")
}

/// Per-CPU state of the program must not depend on where the scheduler puts the thread.
fn stay_on_one_cpu() -> nix::Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    let mut one = CpuSet::new();
    for cpu in 0..CpuSet::count() {
        if allowed.is_set(cpu)? {
            one.set(cpu)?;
            return sched_setaffinity(this, &one);
        }
    }
    Ok(())
}

async fn veth() -> Result<u32> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let links = handle.link();
    let [name, peer] = NAMES;
    links.add(LinkVeth::new(name, peer).build()).execute().await?;
    let mut ifindex = None;
    for end in NAMES {
        links.set(LinkUnspec::new_with_name(end).up().build()).execute().await?;
        let mut found = links.get().match_name(end.to_owned()).execute();
        let link = futures_util::TryStreamExt::try_next(&mut found).await?;
        let link = link.ok_or_else(|| anyhow!("{end} is gone"))?;
        let is_ours = link.attributes.contains(&LinkAttribute::IfName(name.to_owned()));
        if is_ours {
            ifindex = Some(link.header.index);
        }
    }
    connection.abort();
    ifindex.ok_or_else(|| anyhow!("{name} has no index"))
}
