//! The rules of the code base that a compiler does not hold (DESIGN section 5): sizes, purity, the top level, licences.

#![allow(clippy::unwrap_used)] // A helper of tests may panic as they do.

use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 700;
const FUNCTION_LINES_MAX: usize = 70;

const TOP_LEVEL: [&str; 11] = [
    "Cargo.toml",
    "Cargo.lock",
    "rust-toolchain.toml",
    "README.md",
    "LICENSE",
    "agent",
    "coordinator",
    "proto",
    "packaging",
    "systemd",
    "tests",
];

/// Crates that decide: no clock, no async, no IO.
const PURE: [&str; 3] = ["proto/types", "agent/core", "coordinator/core"];

/// What a pure crate may not name, and why it would.
const IMPURE: [&str; 12] = [
    "Instant::now",
    "SystemTime",
    "std::fs",
    "std::net",
    "std::process",
    "std::env",
    "std::thread",
    "std::os",
    "tokio",
    "async fn",
    "async move",
    "fastrand",
];

/// What a pure crate may depend on.
const PURE_DEPENDENCIES: [&str; 5] = ["holdfast-types", "serde", "serde_json", "thiserror", "proptest"];

/// Licences that may be shipped beside Apache-2.0.
const LICENCES: [&str; 11] = [
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Unicode-3.0",
    "Zlib",
    "0BSD",
    "Unlicense",
    "CDLA-Permissive-2.0",
];

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the lab's crate lies in the workspace").to_owned()
}

fn sources_below(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() && entry.file_name() != "target" {
            sources_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources(folders: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in folders {
        sources_below(&root().join(folder), &mut found);
    }
    found
}

fn all_sources() -> Vec<PathBuf> {
    let found = sources(&["agent", "coordinator", "proto", "tests"]);
    assert!(found.len() > 20, "only {} sources found: the walk is broken", found.len());
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Functions of a formatted source that are longer than the limit: `fn` lines up to the closing brace in their column.
fn long_functions(source: &str) -> Vec<(usize, usize)> {
    let lines: Vec<&str> = source.lines().collect();
    let is_function = |line: &str| {
        let code = line.trim_start();
        let words: Vec<&str> = code.split_whitespace().take(5).collect();
        words.contains(&"fn")
            && !code.starts_with("//")
            && !code.starts_with('"')
            && !line.trim_end().ends_with(';')
    };
    let mut long = Vec::new();
    for (start, line) in lines.iter().enumerate().filter(|(_, line)| is_function(line)) {
        let closing = format!("{}}}", &line[..line.len() - line.trim_start().len()]);
        let length = lines[start..].iter().position(|end| *end == closing).map_or(0, |end| end + 1);
        if length > FUNCTION_LINES_MAX {
            long.push((start + 1, length));
        }
    }
    long
}

#[test]
fn files_and_functions_are_short() {
    let mut problems = Vec::new();
    for path in all_sources() {
        let source = read(&path);
        let lines = source.lines().count();
        if lines > FILE_LINES_MAX {
            problems.push(format!("{}: {lines} lines, at most {FILE_LINES_MAX}", path.display()));
        }
        for (line, length) in long_functions(&source) {
            problems.push(format!(
                "{}:{line}: a function of {length} lines, at most {FUNCTION_LINES_MAX}",
                path.display()
            ));
        }
    }
    assert!(problems.is_empty(), "split these:\n{}", problems.join("\n"));
}

#[test]
fn a_long_function_is_seen() {
    let body = "    work();\n".repeat(FUNCTION_LINES_MAX);
    let source = format!("fn short() {{\n}}\n\npub async fn long() {{\n{body}}}\n");
    assert_eq!(long_functions(&source), [(4, FUNCTION_LINES_MAX + 2)]);
}

#[test]
fn core_and_types_crates_are_pure() {
    let mut problems = Vec::new();
    for path in sources(&PURE) {
        for (number, line) in read(&path).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in IMPURE.iter().filter(|word| code.contains(**word)) {
                problems.push(format!("{}:{}: names {word}", path.display(), number + 1));
            }
        }
    }
    for folder in PURE {
        let Ok(manifest) = fs::read_to_string(root().join(folder).join("Cargo.toml")) else { continue };
        let manifest: toml::Table = manifest.parse().unwrap();
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(dependencies) = manifest.get(table).and_then(toml::Value::as_table) else { continue };
            for name in dependencies.keys().filter(|name| !PURE_DEPENDENCIES.contains(&name.as_str())) {
                problems.push(format!("{folder}/Cargo.toml: {table} has {name}"));
            }
        }
    }
    assert!(problems.is_empty(), "move these to a shell crate:\n{}", problems.join("\n"));
}

/// Rules are left out, and the next build is played, in test builds only: no manifest turns such a feature on by itself, and
/// nothing that builds what is shipped names it.
#[test]
fn no_ordinary_build_is_a_test_build() {
    const FEATURES: [&str; 2] = ["mutants", "as-newer-build"];
    let mut problems = Vec::new();
    for path in run("git", &["ls-files", "*Cargo.toml"]).lines() {
        for line in read(&root().join(path)).lines().filter(|line| !line.starts_with('#')) {
            let turns_on = |name: &&str| line.contains(name) && !line.starts_with(&format!("{name} = ["));
            if FEATURES.iter().any(turns_on) {
                problems.push(format!("{path}: {line}"));
            }
        }
    }
    let builders = run(
        "git",
        &[
            "ls-files",
            "packaging",
            "systemd",
            ".ci",
            ".config",
            "tests/all",
            "tests/bench",
            "tests/lab",
            "tests/demo",
        ],
    );
    for path in builders.lines() {
        let text = fs::read(root().join(path)).unwrap();
        let text = String::from_utf8_lossy(&text);
        let named = FEATURES.iter().filter(|name| text.contains(**name));
        problems.extend(named.map(|name| format!("{path} names {name}")));
    }
    assert!(
        problems.is_empty(),
        "only tests/mutants and tests/newer build such agents:\n{}",
        problems.join("\n")
    );
}

#[test]
fn the_top_level_is_what_the_design_names() {
    let listing = run("git", &["ls-files"]);
    let top: std::collections::BTreeSet<&str> = listing
        .lines()
        .map(|path| path.split('/').next().unwrap_or(path))
        .filter(|name| !name.starts_with('.'))
        .collect();
    let extra: Vec<&&str> = top.iter().filter(|name| !TOP_LEVEL.contains(name)).collect();
    assert!(extra.is_empty(), "not in DESIGN section 5: {extra:?}");
}

#[test]
fn every_dependency_has_a_licence_that_we_may_ship() {
    let metadata = run(
        env!("CARGO"),
        &["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"],
    );
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 50, "only {} packages: the list is broken", packages.len());
    let banned = ["openssl-sys", "aws-lc-sys", "native-tls"];
    let mut problems = Vec::new();
    for package in packages {
        let (name, licence) = (package["name"].as_str().unwrap(), package["license"].as_str().unwrap_or(""));
        if banned.contains(&name) {
            problems.push(format!("{name}: a second TLS library"));
        }
        if !may_ship(licence) {
            problems.push(format!("{name}: licence {licence:?}"));
        }
    }
    assert!(problems.is_empty(), "replace these, or argue for the licence:\n{}", problems.join("\n"));
}

/// `A OR B` needs one, `A AND B` needs all; a slash is the old way of writing OR. Parentheses bind as they read.
fn may_ship(expression: &str) -> bool {
    let expression = expression.trim();
    if let Some(parts) = split_outside(expression, " OR ").or_else(|| split_outside(expression, "/")) {
        return parts.iter().any(|part| may_ship(part));
    }
    if let Some(parts) = split_outside(expression, " AND ") {
        return parts.iter().all(|part| may_ship(part));
    }
    match expression.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
        Some(inner) => may_ship(inner),
        None => LICENCES.contains(&expression),
    }
}

fn split_outside<'e>(expression: &'e str, separator: &str) -> Option<Vec<&'e str>> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (at, letter) in expression.char_indices() {
        depth += i32::from(letter == '(') - i32::from(letter == ')');
        if depth == 0 && at >= start && expression[at..].starts_with(separator) {
            parts.push(&expression[start..at]);
            start = at + separator.len();
        }
    }
    (!parts.is_empty()).then(|| {
        parts.push(&expression[start..]);
        parts
    })
}

#[test]
fn licence_expressions_are_read_as_they_are_meant() {
    assert!(may_ship("MIT OR GPL-3.0") && may_ship("MIT/Apache-2.0") && may_ship("(MIT OR GPL-2.0) AND ISC"));
    assert!(
        !may_ship("")
            && !may_ship("GPL-3.0")
            && !may_ship("MIT AND GPL-3.0")
            && !may_ship("(MIT AND GPL-3.0) OR GPL-2.0")
    );
}

#[allow(clippy::disallowed_methods)] // The runner of child processes serves the product; this is a test of the tree.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
