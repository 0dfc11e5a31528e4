//! What holds for every text file: ASCII, no blank at the end of a line, nothing of this machine.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::function::{FILE_LINES, too_long};
use super::{Finding, TextFile};
use crate::sh;

/// Facts written down by other programs: kept byte for byte.
const VERBATIM: &[&str] = &["tests/samples/", "fuzz/seeds/", "fuzz/corpus/"];
/// Licences are quoted texts; the lock file is cargo's.
const QUOTED: &[&str] = &["LICENSE-APACHE", "LICENSE-MIT", "Cargo.lock", "fuzz/Cargo.lock"];

/// Text that would tell where and how this copy was built.
pub struct Here {
    paths: Vec<String>,
    hosts: Vec<String>,
}

impl Here {
    pub fn of_this_machine() -> Result<Self> {
        let mut paths = vec![format!("/{}/", "root"), format!("/{}/", "home")];
        let long = |path: &Path| path.components().count() > 1 && path != Path::new("/tmp");
        let root = sh::root()?;
        let parent = root.parent().filter(|path| long(path)).map(Path::to_path_buf);
        let home = env::var_os("HOME").map(PathBuf::from).filter(|path| long(path));
        paths.extend(parent.iter().chain(&home).map(|path| format!("{}/", path.display())));
        let hosts = [["crates", "io"], ["pypi", "org"], ["deb.debian", "org"], ["npmjs", "org"]];
        Ok(Self { paths, hosts: hosts.map(|parts| parts.join(".")).to_vec() })
    }
}

pub fn check(file: &TextFile, here: &Here) -> Vec<Finding> {
    if VERBATIM.iter().any(|dir| file.path.starts_with(dir))
        || QUOTED.iter().any(|name| file.path == Path::new(name))
    {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut say = |at: usize, what: String| found.push(Finding::new(&file.path, at + 1, what));
    for (at, line) in file.text.lines().enumerate() {
        if let Some(c) = line.chars().find(|c| !c.is_ascii()) {
            say(at, format!("U+{:04X} is not ASCII", u32::from(c)));
        }
        if line.ends_with([' ', '\t', '\r']) {
            say(at, "blank at the end of the line".into());
        }
        for path in here.paths.iter().filter(|path| line.contains(path.as_str())) {
            say(at, format!("{path} is a path of one machine"));
        }
        for host in here.hosts.iter().filter(|host| line.contains(host.as_str())) {
            say(at, format!("{host} is the host of a package registry"));
        }
    }
    let lines = file.text.lines().count();
    if file.path.extension().is_some_and(|ext| ext == "sh") && lines > FILE_LINES {
        found.push(Finding::new(&file.path, 0, too_long(lines)));
    }
    let mut say = |at: usize, what: String| found.push(Finding::new(&file.path, at + 1, what));
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        say(file.text.lines().count().saturating_sub(1), "no newline at the end".into());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str, text: &str) -> Vec<usize> {
        let here = Here { paths: vec!["/build/".into()], hosts: vec!["registry.example".into()] };
        let file = TextFile { path: path.into(), text: text.into() };
        check(&file, &here).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn clean_text_passes() {
        assert!(at("a.md", "one\n\ntwo\n").is_empty() && at("a.md", "").is_empty());
    }

    #[test]
    fn each_fault_is_found_at_its_line() {
        let text = "caf\u{e9}\nblank \n/build/x\nat registry.example\nend";
        assert_eq!(at("a.md", text), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_script_is_no_longer_than_a_source() {
        assert!(at("a.sh", &"true\n".repeat(800)).is_empty());
        assert_eq!(at("a.sh", &"true\n".repeat(801)), [0]);
        assert!(at("a.md", &"true\n".repeat(801)).is_empty());
    }

    #[test]
    fn facts_of_others_are_kept_as_they_are() {
        assert!(at("tests/samples/x.txt", "blank \n").is_empty());
        assert!(at("LICENSE-MIT", "blank \n").is_empty());
    }
}
