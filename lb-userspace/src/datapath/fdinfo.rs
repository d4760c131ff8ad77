//! Which interface a link is attached to.
//!
//! aya does not hand out that field of `bpf_link_info`; the kernel also writes it to
//! `/proc/self/fdinfo/<fd>` of any open descriptor of the link (`bpf_xdp_link_show_fdinfo`).

use std::fs;

use aya::programs::links::FdLink;

use super::error::{Error, Result};

/// The interface of an open link; 0 once the interface has vanished.
pub(crate) fn ifindex(link: &FdLink) -> Result<u32> {
    let info = link.info().map_err(|cause| Error::aya("query a BPF link", cause))?;
    let directory = "/proc/self/fdinfo";
    let read = |cause| Error::kernel(format!("read {directory}"), cause);
    for entry in fs::read_dir(directory).map_err(read)? {
        // A descriptor that another thread closed meanwhile is not the link, which stays open.
        let Ok(text) = fs::read_to_string(entry.map_err(read)?.path()) else { continue };
        if field(&text, "link_id") == Some(info.id()) {
            return field(&text, "ifindex").ok_or_else(|| Error::Kernel {
                what: format!("learn the interface of BPF link {}", info.id()),
                cause: std::io::Error::other("it is no XDP link"),
            });
        }
    }
    Err(Error::Kernel {
        what: format!("learn the interface of BPF link {}", info.id()),
        cause: std::io::Error::other("it is not in /proc/self/fdinfo (is /proc mounted?)"),
    })
}

/// A number from a line `name:<white space>number`.
fn field(text: &str, name: &str) -> Option<u32> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "pos:\t0\nlink_type:\txdp\nlink_id:\t7\nprog_id:\t42\nifindex:\t3\n";
        assert_eq!(field(text, "link_id"), Some(7));
        assert_eq!(field(text, "ifindex"), Some(3));
        assert_eq!(field(text, "index"), None);
        assert_eq!(field(text, "link_type"), None);
    }
}
