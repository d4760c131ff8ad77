//! A host in a namespace whose network is mirrored, and how to look at the snapshots.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(unreachable_pub, reason = "a module of test programs has no outside")]

use std::{
    fs::File,
    net::IpAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use lb_userspace::netlink::{
    self, Incomplete, LinkKind, NetlinkHandle, Network, NextHop, Options, Resolved, Unusable,
};
use nix::sched::{CloneFlags, setns};
use tokio::sync::watch;

pub type Snapshots = watch::Receiver<Arc<Network>>;

pub const PATIENCE: Duration = Duration::from_secs(10);

/// Two namespaces joined by a veth: `v0` (10.77.0.1, fd77::1) in the host under test, `p0`
/// (10.77.0.2, fd77::2, MAC 02:…:02) in its peer.
pub struct Lab {
    pub host: String,
    pub peer: String,
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

impl Lab {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("nlm-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let lab = Self { host: format!("{id}-host"), peer: format!("{id}-peer") };
        run("ip", &["netns", "add", &lab.host]);
        run("ip", &["netns", "add", &lab.peer]);
        // No automatic addresses and no address checks: nothing but what a test does changes.
        for name in [&lab.host, &lab.peer] {
            let quiet =
                "cd /proc/sys/net/ipv6/conf/default; echo 0 >accept_dad; echo 1 >addr_gen_mode";
            run("ip", &["netns", "exec", name, "sh", "-ec", quiet]);
        }
        lab.ip("link add v0 address 02:00:00:00:00:01 type veth peer name p0");
        lab.ip(&format!("link set p0 address 02:00:00:00:00:02 netns {}", lab.peer));
        lab.ip("addr add 10.77.0.1/24 dev v0");
        lab.ip("addr add fd77::1/64 dev v0 nodad");
        // The kernel solicits IPv6 neighbours from the link-local address.
        lab.ip("addr add fe80::1/64 dev v0 nodad");
        lab.ip("link set v0 up");
        lab.peer("addr add 10.77.0.2/24 dev p0");
        lab.peer("addr add fd77::2/64 dev p0 nodad");
        lab.peer("link set p0 up");
        lab
    }

    /// `ip` in the host's namespace.
    pub fn ip(&self, command: &str) -> String {
        run("ip", &[&["-n", &self.host], &command.split(' ').collect::<Vec<_>>()[..]].concat())
    }

    pub fn peer(&self, command: &str) -> String {
        run("ip", &[&["-n", &self.peer], &command.split(' ').collect::<Vec<_>>()[..]].concat())
    }

    pub fn index(&self, link: &str) -> u32 {
        let shown = self.ip(&format!("-o link show dev {link}"));
        shown.split(':').next().unwrap().parse().unwrap()
    }

    /// Runs `test` on a thread of its own inside the host's namespace, with a mirror started.
    pub fn mirror<F>(&self, options: Options, test: F)
    where
        F: AsyncFnOnce(Snapshots, NetlinkHandle) + Send,
    {
        let namespace = File::open(format!("/run/netns/{}", self.host)).unwrap();
        let body = move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (snapshots, handle) = netlink::spawn(options).await.unwrap();
                test(snapshots, handle).await;
            });
        };
        let result = thread::scope(|scope| scope.spawn(body).join());
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in [&self.host, &self.peer] {
            // A namespace that was never made cannot be deleted; the test has failed then anyway.
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

pub fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Waits for a snapshot that fulfils `condition`.
pub async fn until(
    snapshots: &mut Snapshots,
    what: &str,
    condition: impl Fn(&Network) -> bool,
) -> Arc<Network> {
    let waiting = tokio::time::timeout(PATIENCE, snapshots.wait_for(|network| condition(network)));
    let found = waiting.await.map(|snapshot| snapshot.unwrap().clone());
    found.unwrap_or_else(|_| panic!("never saw: {what}; last {:#?}", snapshots.borrow()))
}

pub fn named(network: &Network, name: &str) -> Option<LinkKind> {
    network.link_by_name(name).map(|link| link.kind.clone())
}

pub fn resolved(network: &Network, to: &str) -> Option<Resolved> {
    match network.next_hop(addr(to)) {
        NextHop::Resolved(hop) => Some(hop),
        NextHop::Incomplete(_) | NextHop::Unusable(_) => None,
    }
}

pub fn incomplete(network: &Network, to: &str) -> Option<Incomplete> {
    match network.next_hop(addr(to)) {
        NextHop::Incomplete(hop) => Some(hop),
        NextHop::Resolved(_) | NextHop::Unusable(_) => None,
    }
}

pub fn is_unusable(network: &Network, to: &str, reason: Unusable) -> bool {
    network.next_hop(addr(to)) == NextHop::Unusable(reason)
}
