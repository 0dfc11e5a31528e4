//! Who may use whom: format <- io <- engine <- image <- front ends <- daemon <- bench <- cli, left
//! never right, front ends never each other; and every crate takes the workspace's lints.

use std::path::Path;

use super::{Finding, TextFile};

const ORDER: &[&[&str]] = &[
    &["ploop-format"],
    &["ploop-io"],
    &["ploop-engine"],
    &["ploop-image"],
    &["ploop-nbd", "ploop-fuse", "ploop-ublk", "ploop-vhost-user"],
    &["ploop-daemon"],
    &["ploop-bench"],
    &["ploop-cli"],
];

/// Beside the row: they may use all of it, and only tests may use them.
const BESIDE: &[&str] = &["ploop-sim", "ploop-e2e"];

pub fn check(files: &[TextFile]) -> Vec<Finding> {
    let manifest = |file: &&TextFile| file.path.file_name().is_some_and(|n| n == "Cargo.toml");
    files.iter().filter(manifest).flat_map(|file| one(&file.path, &file.text)).collect()
}

fn rank(name: &str) -> Option<usize> {
    ORDER.iter().position(|names| names.contains(&name))
}

fn one(path: &Path, text: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut section = "";
    let mut name = "";
    let mut lints = path == Path::new("Cargo.toml") || path.starts_with("fuzz");
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            section = line;
        } else if section == "[package]" && line.starts_with("name = ") {
            name = line.trim_start_matches("name = ").trim_matches('"');
        } else if section == "[lints]" && line == "workspace = true" {
            lints = true;
        } else if section == "[dependencies]" {
            let used = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if let Some(why) = forbidden(name, used) {
                found.push(Finding::new(path, at + 1, why));
            }
        }
    }
    if !lints {
        found.push(Finding::new(path, 0, "does not take the workspace's lints"));
    }
    found
}

fn forbidden(name: &str, used: &str) -> Option<String> {
    let mine = rank(name)?;
    if BESIDE.contains(&used) {
        return Some(format!("{used} is for tests, {name} is not one"));
    }
    let other = rank(used)?;
    (other >= mine).then(|| format!("{name} may not use {used}: it lies further right"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(name: &str, section: &str, used: &str) -> Vec<String> {
        let head = format!("[package]\nname = \"{name}\"\n[lints]\nworkspace = true\n");
        let text = format!("{head}[{section}]\n{used}.workspace = true\n");
        one(Path::new("crates/x/Cargo.toml"), &text).into_iter().map(|f| f.what).collect()
    }

    #[test]
    fn left_is_free_right_is_not() {
        assert!(whats("ploop-image", "dependencies", "ploop-format").is_empty());
        assert!(whats("ploop-cli", "dependencies", "ploop-nbd").is_empty());
        assert_eq!(whats("ploop-io", "dependencies", "ploop-engine").len(), 1);
        assert_eq!(whats("ploop-nbd", "dependencies", "ploop-fuse").len(), 1);
        assert_eq!(whats("ploop-image", "dependencies", "ploop-sim").len(), 1);
        assert!(whats("ploop-sim", "dependencies", "ploop-image").is_empty());
    }

    #[test]
    fn tests_may_use_anything() {
        assert!(whats("ploop-format", "dev-dependencies", "ploop-e2e").is_empty());
    }

    #[test]
    fn lints_are_taken() {
        let found = one(Path::new("crates/x/Cargo.toml"), "[package]\nname = \"x\"\n");
        assert_eq!(found.len(), 1);
    }
}
