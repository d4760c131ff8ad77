//! Link arguments of the XDP program.

fn main() {
    // Plain unaligned loads instead of byte by byte: what the hosts' JITs (x86-64, arm64) do anyway.
    println!("cargo:rustc-link-arg-bins=--cpu-features=+allows-misaligned-mem-access");
    println!("cargo:rerun-if-changed=build.rs");
}
