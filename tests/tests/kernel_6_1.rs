//! The oldest kernel that is tried: Debian 12's 6.1, in QEMU.

use std::path::PathBuf;

use lb_tests::qemu::run_in_kernel;

#[test]
fn the_guest_runs_kernel_6_1_with_bpffs_and_jit() {
    let command = "uname -r; grep -c ' /sys/fs/bpf bpf ' /proc/mounts
        cat /proc/sys/net/core/bpf_jit_enable";
    let output = run_in_kernel(&[], command).unwrap();
    assert_eq!(output.status, 0, "{output:?}");
    let lines: Vec<_> = output.stdout.lines().collect();
    assert!(lines[0].starts_with("6.1."), "{output:?}");
    assert_eq!(lines[1..], ["1", "1"], "{output:?}");
}

#[test]
fn status_output_and_errors_of_the_command_come_back() {
    let file = (PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")), "/data/in.toml");
    let output =
        run_in_kernel(&[file], "grep ^name /data/in.toml; echo to-stderr >&2; exit 3").unwrap();
    assert_eq!(output.status, 3, "{output:?}");
    assert_eq!(output.stdout, "name = \"lb-tests\"\n");
    assert!(output.console.contains("to-stderr"), "{output:?}");
}

#[test]
fn a_program_finds_its_shared_libraries_in_the_guest() {
    let program = std::env::current_exe().unwrap();
    let output = run_in_kernel(&[(program, "/bin/this-test")], "this-test --list").unwrap();
    assert_eq!(output.status, 0, "{output:?}");
    assert!(output.stdout.contains("a_program_finds_its_shared_libraries_in_the_guest: test"));
}
