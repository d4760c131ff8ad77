//! Files that nobody should write.

use std::{fs, path::Path, time::Duration};

use lb_userspace::config;

use super::lines;

/// What this thread has computed so far; unlike a clock it does not count what others do meanwhile.
fn cpu_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Refused within a second.
fn hostile(name: &str, bytes: &[u8]) -> Vec<String> {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hostile-{name}.yaml"));
    fs::write(&file, bytes).unwrap();
    let start = cpu_time();
    let errors = config::load(&file).expect_err(name);
    let took = cpu_time() - start;
    fs::remove_file(&file).unwrap();
    assert!(took < Duration::from_secs(1), "{name} took {took:?}");
    assert!(errors.errors.len() <= 1001, "{name}: {} errors", errors.errors.len());
    lines(&errors.errors)
}

#[test]
fn hostile_files_are_refused_within_a_second() {
    let only = |name, bytes: &[u8], expected: &str| {
        assert_eq!(hostile(name, bytes), [expected], "{name}");
    };
    only("empty", b"", "1:1: the file is empty; at least interfaces and services are needed");
    only(
        "blank",
        b"\n\n  \n",
        "1:1: the file is empty; at least interfaces and services are needed",
    );
    only(
        "markers",
        b"---
...
",
        "1:1: the file is empty; at least interfaces and services are needed",
    );
    only(
        "latin-1",
        b"interfaces: [eth0]\nhash_key: \"gr\xfc\xdfe\"\n",
        "2:14: found the byte 0xfc, allowed is UTF-8 text",
    );
    only(
        "elf",
        b"\x7fELF\x02\x01\x01\0\0\0",
        "1:1: found the control character U+007F, allowed is text; is this a configuration file?",
    );
    only(
        "nul",
        b"interfaces: [eth0]\nhash_key: a\0b\n",
        "2:12: found the control character U+0000, allowed is text; is this a configuration file?",
    );
    let ten_megabytes = vec![b'a'; 10 << 20];
    only(
        "10-mb",
        &ten_megabytes,
        "1:1: found more than 1048576 bytes, allowed are at most 1048576",
    );
    let deep = "found lists and mappings nested more than 32 deep; allowed are fewer";
    only("nested-lists", "[".repeat(10_000).as_bytes(), &format!("1:256: {deep}"));
    only("nested-dashes", "- ".repeat(10_000).as_bytes(), &format!("1:65: {deep}"));
    only(
        "nested-closed",
        format!("a: {}{}", "[".repeat(10_000), "]".repeat(10_000)).as_bytes(),
        &format!("1:259: {deep}"),
    );
}

#[test]
fn aliases_cannot_multiply_without_bound() {
    // Nine levels of nine: 387 million values from 400 bytes.
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        let inner = vec![format!("*a{}", level - 1); 9].join(", ");
        laughs.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
    }
    let errors = hostile("laughs", laughs.as_bytes());
    assert_eq!(
        errors,
        ["6:5: found more than 150000 values, counting what aliases stand for; allowed are fewer"]
    );

    // Each level one deeper than the one before.
    let mut deeper = String::from("a0: &a0 [x]\n");
    for level in 1..40 {
        deeper.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
    }
    let errors = hostile("deeper", deeper.as_bytes());
    assert_eq!(
        errors,
        ["32:12: found lists and mappings nested more than 32 deep; allowed are fewer"]
    );
}

#[test]
fn a_megabyte_of_anything_is_refused_within_a_second() {
    let patterns = [
        "[",
        "{",
        "- ",
        "? ",
        ": ",
        "a: ",
        "&a ",
        "!t ",
        "\"",
        "'",
        "|\n",
        "\n",
        "a:\n",
        "[a, ",
        "{a: ",
        "- a\n",
        "a",
        "%",
        ",",
        "---\n",
        "é",
        "\t",
        "\\",
        "\"\\x41",
        "? a\n: ",
        "a: &a\n",
        "- !!str a\n",
        "- &a a\n",
        "\r",
        "[]\n",
        "[],",
        "- *a\n",
        "a: b\n",
        "- {name: a, address: b}\n",
    ];
    for (i, pattern) in patterns.iter().enumerate() {
        let count = (1 << 20) / pattern.len();
        hostile(&format!("pattern-{i}"), pattern.repeat(count).as_bytes());
        hostile(
            &format!("in-services-{i}"),
            format!("services:\n{}", pattern.repeat(count - 8)).as_bytes(),
        );
    }
}

#[test]
fn a_thousand_errors_are_shown_and_the_rest_is_counted_out() {
    let text = format!("interfaces: [{}]", "1, ".repeat(5000));
    let errors = hostile("many", text.as_bytes());
    assert_eq!(errors.len(), 1001);
    assert_eq!(errors[0], "1:13: interfaces: found 5000 of them, allowed are at most 64");
    assert_eq!(errors[1000], "more than 1000 errors; the rest is not shown");
}
