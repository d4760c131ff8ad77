//! The smallest XDP program: `return XDP_PASS`, as an ELF file that `ip link` loads.
//!
//! A veth takes in what its peer sends by `XDP_TX` only if it runs an XDP program itself. (GRO on
//! the receiving end is enough for `XDP_REDIRECT`, but frames of `XDP_TX` then wait in its ring
//! until something else wakes it.)

use anyhow::Result;
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
    write::{Object, Symbol, SymbolSection},
};

/// Section of the program, for `ip link set … xdpdrv obj … section …`.
pub(super) const SECTION: &str = "xdp";

/// `r0 = XDP_PASS; exit`.
const PROGRAM: [u8; 16] = [0xb7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

/// The object file.
pub(super) fn object_file() -> Result<Vec<u8>> {
    let mut file = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let text = file.add_section(Vec::new(), SECTION.into(), SectionKind::Text);
    file.append_section_data(text, &PROGRAM, 8);
    file.add_symbol(Symbol {
        name: b"pass".to_vec(),
        value: 0,
        size: PROGRAM.len() as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(text),
        flags: SymbolFlags::None,
    });
    let license = file.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    file.append_section_data(license, b"GPL\0", 1);
    Ok(file.write()?)
}
