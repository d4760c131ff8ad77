//! Attaching the program to interfaces: adopting links, leaving foreign programs alone, interfaces
//! that vanish and return.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod pins;

use std::{
    env,
    ffi::OsString,
    fs::File,
    io::{BufRead as _, BufReader},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use lb_common::{
    maps::{Capacities, program},
    service::Listener,
};
use lb_userspace::{
    config::model::XdpMode,
    datapath::{
        Error,
        attach::{Change, attached},
        detach::{Force, detach},
        interfaces::{self, Mode},
        live::{self, Opened, Origin},
        load::Record,
        private::Private,
        testrun::Action,
    },
    maps::LbMaps as _,
};
use nix::sched::{CloneFlags, setns};
use pins::Pins;

const LIMITS: Capacities = Capacities::new(16, 64, 64, 8, 1024);

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A namespace with the veth pair `v0`, `v1`, removed at the end.
struct Lab(String);

impl Lab {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let lab = Self(format!("nll-{}-{number}", process::id()));
        run("ip", &["netns", "add", &lab.0]);
        lab.add_veth();
        lab
    }

    fn add_veth(&self) {
        self.ip("link add v0 type veth peer name v1");
        self.ip("link set v0 up");
        self.ip("link set v1 up");
    }

    /// `ip` in the namespace.
    fn ip(&self, command: &str) -> String {
        run("ip", &[&["-n", &self.0], &command.split(' ').collect::<Vec<_>>()[..]].concat())
    }

    /// Runs `test` in a thread that lives in the namespace; a fresh pin directory with it.
    fn enter(&self, test: impl FnOnce(&Pins) + Send) {
        let namespace = File::open(Path::new("/run/netns").join(&self.0)).unwrap();
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                    test(&Pins::new());
                })
                .join()
                .unwrap();
        });
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        run("ip", &["netns", "del", &self.0]);
    }
}

fn open(pins: &Pins) -> Opened {
    live::open(pins.path(), &LIMITS).unwrap()
}

/// The programs on an interface, as the kernel tells.
fn programs(interface: &str) -> Vec<(Mode, u32)> {
    interfaces::find(interface).unwrap().programs
}

/// The programs that are pinned in all generations.
fn pinned_programs(pin_dir: &Path) -> Vec<PathBuf> {
    let is_program = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        [program::SIP_LB, program::HEARTBEAT].iter().any(|program| name.starts_with(program))
    };
    std::fs::read_dir(pin_dir)
        .unwrap()
        .flat_map(|entry| std::fs::read_dir(entry.unwrap().path()).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(is_program)
        .collect()
}

#[test]
fn each_mode_is_what_the_kernel_then_tells() {
    Lab::new().enter(|pins| {
        let mut live = open(pins).live;
        let id = live.program_id();
        assert_eq!(live.attach("v0", XdpMode::Native).unwrap(), Change::Attached(Mode::Native));
        assert_eq!(programs("v0"), [(Mode::Native, id)]);
        assert_eq!(live.attach("v0", XdpMode::Auto).unwrap(), Change::Kept(Mode::Native));
        assert_eq!(live.attach("v0", XdpMode::Generic).unwrap(), Change::Attached(Mode::Generic));
        assert_eq!(programs("v0"), [(Mode::Generic, id)]);
        assert_eq!(live.attach("v0", XdpMode::Auto).unwrap(), Change::Kept(Mode::Generic));
        assert_eq!(live.attach("v0", XdpMode::Native).unwrap(), Change::Attached(Mode::Native));
        live.attach("v1", XdpMode::Auto).unwrap();
        let links = attached(pins.path()).unwrap();
        let names: Vec<_> = links.iter().map(|link| (link.interface.as_str(), link.mode)).collect();
        assert!(names.contains(&("v0", Some(Mode::Native))), "{names:?}");
        assert!(names.contains(&("v1", Some(Mode::Native))), "{names:?}");
        let index = interfaces::find("v1").unwrap().ifindex;
        let gone = live.detach_others(&[index]).unwrap();
        assert_eq!(gone, [interfaces::find("v0").unwrap().ifindex]);
        assert_eq!(attached(pins.path()).unwrap().len(), 1);
    });
}

#[test]
fn a_driver_without_native_mode_gets_generic_only_if_that_is_allowed() {
    let lab = Lab::new();
    lab.ip("link add br.7 type bridge");
    lab.enter(|pins| {
        let mut live = open(pins).live;
        let error = live.attach("br.7", XdpMode::Native).unwrap_err();
        assert!(matches!(&error, Error::Attach { mode: "native", .. }), "{error}");
        assert!(error.to_string().contains("xdp_mode: generic"), "{error}");
        assert_eq!(live.attach("br.7", XdpMode::Auto).unwrap(), Change::Attached(Mode::Generic));
    });
}

#[test]
fn a_frame_may_come_in_by_any_interface_of_the_namespace() {
    Lab::new().enter(|_| {
        let mut private = Private::load(&LIMITS, Record::On).unwrap();
        let v1 = interfaces::find("v1").unwrap().ifindex;
        assert_eq!(private.run(&[0; 64], Some(v1)).unwrap().action, Action::Pass);
        let error = private.run(&[0; 64], Some(v1 + 100)).unwrap_err();
        assert!(matches!(&error, Error::Kernel { .. }), "{error}");
    });
}

#[test]
fn an_mtu_too_large_for_xdp_is_told_as_the_reason() {
    let lab = Lab::new();
    lab.ip("link set v0 mtu 9000");
    lab.ip("link set v1 mtu 9000");
    lab.enter(|pins| {
        let error = open(pins).live.attach("v0", XdpMode::Native).unwrap_err().to_string();
        assert!(error.contains("interface v0") && error.contains("MTU"), "{error}");
    });
}

#[test]
fn a_missing_interface_is_told_with_those_that_exist() {
    Lab::new().enter(|pins| {
        let error = open(pins).live.attach("eth9", XdpMode::Auto).unwrap_err().to_string();
        assert!(error.contains("eth9 does not exist"), "{error}");
        assert!(error.contains("v0") && error.contains("v1"), "{error}");
    });
}

#[test]
fn a_foreign_program_is_named_by_id_and_left_alone() {
    Lab::new().enter(|pins| {
        // One that a link holds, and one that `ip link` has set.
        let others = Pins::new();
        let mut other = open(&others);
        other.live.attach("v0", XdpMode::Native).unwrap();
        let foreign = other.live.program_id();
        let pinned = pinned_programs(others.path());
        let pinned = pinned.iter().map(|path| path.to_str().unwrap());
        let pinned = pinned.into_iter().find(|path| path.contains(program::SIP_LB)).unwrap();
        let set = ["link", "set", "dev", "v1", "xdp", "pinned", pinned];
        run("ip", &set);

        let mut ours = open(pins);
        for (interface, mode) in
            [("v0", XdpMode::Auto), ("v0", XdpMode::Generic), ("v1", XdpMode::Native)]
        {
            let error = ours.live.attach(interface, mode).unwrap_err();
            assert!(
                matches!(&error, Error::ForeignProgram { program, .. } if *program == foreign),
                "{error}"
            );
            let text = error.to_string();
            assert!(text.contains(&format!("program {foreign} (`sip_lb`)")), "{text}");
        }
        assert_eq!(programs("v0"), [(Mode::Native, foreign)]);
        assert_eq!(programs("v1"), [(Mode::Native, foreign)]);
        assert_eq!(attached(pins.path()).unwrap(), []);

        // Removed as the message says.
        run("ip", &["link", "set", "dev", "v1", "xdp", "off"]);
        ours.live.attach("v1", XdpMode::Native).unwrap();
        // Neither does detaching ours touch the other's.
        drop(ours);
        detach(pins.path(), Force::No).unwrap();
        assert_eq!(programs("v0"), [(Mode::Native, foreign)]);
        assert_eq!(programs("v1"), []);
    });
}

#[test]
fn an_interface_may_vanish_and_return() {
    let lab = Lab::new();
    lab.enter(|pins| {
        let mut live = open(pins).live;
        live.attach("v0", XdpMode::Native).unwrap();
        lab.ip("link del v0");
        let links = attached(pins.path()).unwrap();
        assert_eq!((links.len(), links[0].ifindex, links[0].mode), (1, 0, None));
        assert_eq!(live.remove_vanished().unwrap(), 1);
        assert_eq!(attached(pins.path()).unwrap(), []);
        assert!(matches!(live.attach("v0", XdpMode::Native), Err(Error::NoInterface { .. })));

        lab.add_veth();
        assert_eq!(live.attach("v0", XdpMode::Native).unwrap(), Change::Attached(Mode::Native));
        // Gone again, and back before anybody looked.
        lab.ip("link del v0");
        lab.add_veth();
        assert_eq!(live.attach("v0", XdpMode::Native).unwrap(), Change::Attached(Mode::Native));
        assert_eq!(attached(pins.path()).unwrap().len(), 1);
    });
}

#[test]
fn a_new_program_takes_over_the_links_of_the_old_one() {
    Lab::new().enter(|pins| {
        let mut old = open(pins);
        old.live.attach("v0", XdpMode::Native).unwrap();
        let old_id = old.live.program_id();
        drop(old);

        let larger = Capacities::new(16, 64, 64, 8, 4096);
        let mut new = live::open(pins.path(), &larger).unwrap();
        assert!(matches!(new.origin, Origin::Migrated(_)), "{:?}", new.origin);
        let new_id = new.live.program_id();
        assert_eq!(programs("v0"), [(Mode::Native, old_id)], "until the maps are filled");
        let error = new.live.finish().unwrap_err().to_string();
        assert!(error.contains(&format!("former program {old_id}")), "{error}");
        assert_eq!(new.live.attach("v0", XdpMode::Native).unwrap(), Change::Replaced(Mode::Native));
        assert_eq!(programs("v0"), [(Mode::Native, new_id)]);
        new.live.finish().unwrap();
        drop(new);
        let links = attached(pins.path()).unwrap();
        assert_eq!((links.len(), links[0].program), (1, new_id));
    });
}

#[test]
fn another_build_of_the_program_replaces_the_one_on_a_link() {
    Lab::new().enter(|pins| {
        let mut old = open(pins);
        old.live.attach("v0", XdpMode::Native).unwrap();
        let old_id = old.live.program_id();
        drop(old);
        // As if an older binary had pinned it.
        let pinned = pinned_programs(pins.path());
        assert_eq!(pinned.len(), 2);
        for path in pinned {
            let name = path.file_name().unwrap().to_str().unwrap();
            let (program, _) = name.rsplit_once('_').unwrap();
            std::fs::rename(&path, path.with_file_name(format!("{program}_{:016x}", 1))).unwrap();
        }

        let mut new = open(pins);
        assert_eq!(new.origin, Origin::Adopted);
        assert!(new.stats.is_some(), "it was loaded");
        let new_id = new.live.program_id();
        assert_ne!(new_id, old_id);
        assert_eq!(pinned_programs(pins.path()).len(), 4);
        assert!(new.live.finish().is_err());
        assert_eq!(new.live.attach("v0", XdpMode::Native).unwrap(), Change::Replaced(Mode::Native));
        new.live.finish().unwrap();
        assert_eq!(programs("v0"), [(Mode::Native, new_id)]);
        assert_eq!(pinned_programs(pins.path()).len(), 2);
    });
}

#[test]
fn an_interface_that_is_no_longer_configured_lets_the_former_program_go() {
    Lab::new().enter(|pins| {
        let mut old = open(pins);
        for interface in ["v0", "v1"] {
            old.live.attach(interface, XdpMode::Native).unwrap();
        }
        drop(old);
        // Another program, as of another build or one that watched.
        for path in pinned_programs(pins.path()) {
            let name = path.file_name().unwrap().to_str().unwrap();
            let (program, _) = name.rsplit_once('_').unwrap();
            std::fs::rename(&path, path.with_file_name(format!("{program}_{:016x}", 1))).unwrap();
        }
        let mut new = open(pins).live;
        new.attach("v0", XdpMode::Native).unwrap();
        let error = new.finish().unwrap_err().to_string();
        let [v0, v1] = ["v0", "v1"].map(|name| interfaces::find(name).unwrap().ifindex);
        assert!(error.contains(&format!("interface {v1} still runs it")), "{error}");
        assert_eq!(new.detach_others(&[v0]).unwrap(), [v1]);
        new.finish().unwrap();
        assert_eq!(programs("v0"), [(Mode::Native, new.program_id())]);
        assert_eq!((programs("v1"), pinned_programs(pins.path()).len()), (vec![], 2));
    });
}

#[test]
fn a_migration_that_was_interrupted_begins_again_from_the_maps_in_use() {
    Lab::new().enter(|pins| {
        let mut old = open(pins);
        old.live.attach("v0", XdpMode::Native).unwrap();
        drop(old);
        let larger = Capacities::new(16, 64, 64, 8, 4096);
        let mut new = live::open(pins.path(), &larger).unwrap();
        // Written to the new maps, which no link runs on: must not survive.
        new.maps.put_listener(1, &Listener { service: 1, ..Listener::default() }).unwrap();
        drop(new);

        let mut again = live::open(pins.path(), &larger).unwrap();
        assert!(matches!(again.origin, Origin::Migrated(_)), "{:?}", again.origin);
        assert_eq!(again.maps.listener(1).unwrap(), Listener::default());
        again.live.attach("v0", XdpMode::Native).unwrap();
        drop(again);
        // Interrupted after the links were moved: the new maps are in use.
        let mut last = live::open(pins.path(), &larger).unwrap();
        assert_eq!(last.origin, Origin::Adopted);
        last.live.finish().unwrap();
    });
}

/// Set in a child process, which is a second run of the test that started it: its pin directory.
const CHILD: &str = "SIPLAB_ATTACH_PINS";

/// The command that runs `test` of this file as a child, after the words `prefix`.
fn child(prefix: &[&str], test: &str, pins: &Pins) -> Command {
    let tests = env::current_exe().unwrap();
    let mut words = prefix.iter().map(|word| OsString::from(*word)).chain([tests.into()]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).args(["--exact", test, "--nocapture"]).env(CHILD, pins.path());
    command
}

/// A child that does not outlive its test.
struct Killed(process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Attaches, says so, and waits to be killed.
fn attach_and_wait(pin_dir: &Path) -> ! {
    let mut opened = live::open(pin_dir, &LIMITS).unwrap();
    opened.maps.put_choice(3, 99).unwrap();
    opened.live.attach("v0", XdpMode::Native).unwrap();
    println!("\nattached {}", opened.live.program_id());
    loop {
        thread::park();
    }
}

#[test]
fn a_killed_controller_leaves_the_program_running_and_is_adopted() {
    if let Some(pin_dir) = env::var_os(CHILD) {
        attach_and_wait(Path::new(&pin_dir));
    }
    Lab::new().enter(|pins| {
        let test = "a_killed_controller_leaves_the_program_running_and_is_adopted";
        let mut child = Killed(child(&[], test, pins).stdout(Stdio::piped()).spawn().unwrap());
        let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        let id = lines
            .map(Result::unwrap)
            .find_map(|line| line.strip_prefix("attached ")?.parse::<u32>().ok())
            .unwrap();
        let error = live::open(pins.path(), &LIMITS).unwrap_err();
        assert!(matches!(error, Error::Locked { pid: Some(pid), .. } if pid == child.0.id()));
        child.0.kill().unwrap();
        assert_eq!(child.0.wait().unwrap().signal(), Some(9));

        assert_eq!(programs("v0"), [(Mode::Native, id)]);
        let mut opened = open(pins);
        assert_eq!(opened.origin, Origin::Adopted);
        assert_eq!(opened.maps.choice(3).unwrap(), 99);
        assert_eq!(opened.live.attach("v0", XdpMode::Native).unwrap(), Change::Kept(Mode::Native));
        assert_eq!(opened.live.program_id(), id);
        assert_eq!(programs("v0"), [(Mode::Native, id)]);
    });
}

#[test]
fn detach_frees_every_interface_at_once() {
    let lab = Lab::new();
    lab.ip("link add br.7 type bridge");
    lab.enter(|pins| {
        let mut live = open(pins).live;
        for interface in ["v0", "v1", "br.7"] {
            live.attach(interface, XdpMode::Auto).unwrap();
        }
        drop(live);
        assert_eq!(detach(pins.path(), Force::No).unwrap().len(), 3);
        for interface in ["v0", "v1", "br.7"] {
            assert_eq!(programs(interface), [], "{interface}");
        }
        assert!(!pins.path().exists());
    });
}

#[test]
fn missing_rights_are_told_with_the_remedy() {
    if let Some(pin_dir) = env::var_os(CHILD) {
        println!("\nsaid {}", live::open(Path::new(&pin_dir), &LIMITS).unwrap_err());
        return;
    }
    // As another user, and as root without any capability.
    for limits in [
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"],
    ] {
        let pins = Pins::new();
        let test = "missing_rights_are_told_with_the_remedy";
        let output = child(&limits, test, &pins).output().unwrap();
        let output = String::from_utf8_lossy(&output.stdout);
        let said = output.lines().find(|line| line.starts_with("said")).expect(&output);
        assert!(said.contains("not permitted"), "{said}");
        assert!(said.contains("CAP_BPF") && said.contains("CAP_NET_ADMIN"), "{said}");
    }
}
