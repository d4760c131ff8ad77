//! The configuration: every fixture, every mutation of one, and what nobody should write.
#![cfg(test)]

mod hostile;
mod model;
mod mutants;
mod schema;

use std::{
    fs,
    path::{Path, PathBuf},
};

use lb_userspace::config::{self, ConfigErrors};

fn fixtures(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/config").join(kind)
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/sip-lb.example.yaml")
}

/// Files of one kind with one ending, sorted.
fn files(kind: &str, ending: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(fixtures(kind))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == ending))
        .collect();
    files.sort();
    files
}

/// Valid files that mutations start from.
fn valid_texts() -> Vec<(PathBuf, String)> {
    let mut files = files("valid", "yaml");
    files.push(example());
    assert!(files.len() >= 9, "only {} valid files", files.len());
    files
        .into_iter()
        .map(|f| {
            (f.clone(), fs::read_to_string(&f).unwrap().trim_start_matches('\u{feff}').to_owned())
        })
        .collect()
}

fn parse(text: &str) -> Result<config::Loaded, ConfigErrors> {
    config::parse(text, &fixtures("valid"))
}

fn lines<T: ToString>(findings: &[T]) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}

fn sidecar(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file.with_extension("txt")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn valid_files_load_with_exactly_the_expected_warnings() {
    let files = files("valid", "yaml");
    assert_eq!(files.len(), 9);
    for file in files {
        let loaded = config::load(&file).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(lines(&loaded.warnings), sidecar(&file), "{}", file.display());
        assert_eq!(loaded.digest.len(), 16);
    }
}

#[test]
fn invalid_files_give_exactly_the_expected_errors() {
    let files = files("invalid", "yaml");
    assert_eq!(files.len(), 32);
    for file in &files {
        let errors = config::load(file).expect_err(&file.display().to_string());
        // Paths in messages depend on where the tests run.
        let directory = format!("{}/", fixtures("invalid").display());
        let found: Vec<_> =
            lines(&errors.errors).iter().map(|l| l.replace(&directory, "")).collect();
        assert_eq!(found, sidecar(file), "{}", file.display());
        assert!(errors.errors.iter().all(|e| e.line > 0 && e.column > 0));
    }
    let sidecars = self::files("invalid", "txt");
    assert_eq!(sidecars.len(), files.len(), "a sidecar without its file");
}

#[test]
fn errors_name_file_line_column_path_found_and_allowed() {
    let file = fixtures("invalid").join("health-interval-below-defaults.yaml");
    let shown = config::load(&file).unwrap_err().to_string();
    let start =
        format!("{}:6:70: services[0].backends[0].health.interval: found 200ms, ", file.display());
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line.starts_with(&start)), "{shown}");
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_without_a_line() {
    let errors = config::load(Path::new("/nonexistent/config.yaml")).unwrap_err();
    assert!(
        errors.to_string().starts_with("/nonexistent/config.yaml: cannot read the file: "),
        "{errors}"
    );
    let errors = config::load(Path::new("/")).unwrap_err();
    assert!(errors.to_string().starts_with("/: cannot read the file: "), "{errors}");
}

#[test]
fn all_255_backends_fit_and_256_do_not() {
    let file = |count: u32| {
        let backend = |i| {
            format!(
                "      - {{ name: gw{i}, address: \"10.0.{}.{}:5060\" }}\n",
                i / 200,
                i % 200 + 1
            )
        };
        let backends: String = (0..count).map(backend).collect();
        format!(
            "interfaces: [eth0]\nservices:\n  - name: a\n    listen: \"203.0.113.10:5060\"\n    backends:\n{backends}"
        )
    };
    assert_eq!(parse(&file(255)).unwrap().config.services[0].backends.len(), 255);
    let errors = parse(&file(256)).unwrap_err().errors;
    assert_eq!(
        lines(&errors),
        ["6:7: services[0].backends: found 256 of them, allowed are at most 255"]
    );
}
