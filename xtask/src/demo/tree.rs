//! A real tree of files: where it comes from, its hashes, and the changes made to it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fmt};

use anyhow::{Context, Result, ensure};

use crate::sh;

/// Enough to fill some hundred clusters, little enough for three minutes.
const BYTES: u64 = 160 << 20;

/// sha256 by path. Two trees are equal when their manifests are.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Manifest(BTreeMap<String, String>);

/// How one manifest differs from another.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Difference {
    pub changed: Vec<String>,
    pub missing: Vec<String>,
    pub added: Vec<String>,
}

impl Manifest {
    /// Reads and hashes every file below `dir`, with the system's own sha256sum.
    pub fn of(dir: &Path, scratch: &Path) -> Result<Self> {
        let mut names = Vec::new();
        walk(dir, dir, &mut names)?;
        names.sort();
        let list = scratch.join("names");
        File::create(&list)?.write_all(names.join("\0").as_bytes())?;
        let mut command = sh::program("xargs");
        command.args(["--null", "sha256sum", "--"]).current_dir(dir).stdin(File::open(&list)?);
        let output = command.output().context("cannot start sha256sum")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "hashing {}: {}", dir.display(), said.trim());
        let text = String::from_utf8_lossy(&output.stdout);
        let pairs = text.lines().filter_map(|line| line.split_once("  "));
        let map: BTreeMap<_, _> = pairs.map(|(hash, name)| (name.into(), hash.into())).collect();
        ensure!(map.len() == names.len(), "{} files, {} hashes", names.len(), map.len());
        Ok(Self(map))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// What is different in `now`.
    pub fn difference(&self, now: &Self) -> Difference {
        let mut found = Difference::default();
        for (name, hash) in &self.0 {
            match now.0.get(name) {
                None => found.missing.push(name.clone()),
                Some(other) if other != hash => found.changed.push(name.clone()),
                Some(_) => {}
            }
        }
        found.added = now.0.keys().filter(|name| !self.0.contains_key(*name)).cloned().collect();
        found
    }

    /// An error when `now` differs.
    pub fn must_equal(&self, now: &Self, what: &str) -> Result<()> {
        let difference = self.difference(now);
        ensure!(difference == Difference::default(), "{what}: {difference}");
        Ok(())
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (changed, missing) = (self.changed.len(), self.missing.len());
        write!(f, "{changed} changed, {missing} missing, {} added", self.added.len())?;
        let first = [&self.changed, &self.missing, &self.added].into_iter().flatten().next();
        first.map_or(Ok(()), |name| write!(f, " (first: {name})"))
    }
}

fn walk(top: &Path, dir: &Path, names: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let kind = fs::symlink_metadata(&path)?.file_type();
        if kind.is_dir() {
            walk(top, &path, names)?;
        } else if kind.is_file() {
            names.push(path.strip_prefix(top)?.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

/// Directories with real files on this machine: the sources of our dependencies, else what Debian
/// always has.
pub fn source() -> Result<Vec<PathBuf>> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let mut bases: Vec<PathBuf> =
        home.iter().flat_map(|home| children(&home.join("registry/src"))).collect();
    bases.extend(["/usr/include", "/usr/share/doc", "/usr/share"].map(PathBuf::from));
    let mut chosen = Vec::new();
    let mut total = 0;
    for dir in bases.iter().flat_map(|base| children(base)) {
        if total >= BYTES {
            break;
        }
        let size = size(&dir)?;
        if size > 0 && total + size <= BYTES + BYTES / 4 {
            total += size;
            chosen.push(dir);
        }
    }
    ensure!(total > 0, "no directory with files to copy was found");
    Ok(chosen)
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut dirs: Vec<PathBuf> =
        entries.filter(|path| path.is_dir() && !path.is_symlink()).collect();
    dirs.sort();
    dirs
}

fn size(dir: &Path) -> Result<u64> {
    let mut names = Vec::new();
    walk(dir, dir, &mut names)?;
    Ok(names.iter().filter_map(|name| fs::metadata(dir.join(name)).ok()).map(|m| m.len()).sum())
}

/// `cp` of the directories into `to`.
pub fn copy(dirs: &[PathBuf], to: &Path) -> Command {
    let mut command = sh::program("cp");
    command.args(["--recursive", "--no-dereference", "--target-directory"]).arg(to).args(dirs);
    command.stdin(Stdio::null());
    command
}

/// Changes one file in ten, deletes one in seven, adds as many as it deleted. What was done, in
/// words.
pub fn change(dir: &Path) -> Result<String> {
    let mut names = Vec::new();
    walk(dir, dir, &mut names)?;
    names.sort();
    let (mut changed, mut deleted) = (0, 0);
    let extra = dir.join("added");
    fs::create_dir(&extra)?;
    for (nth, name) in names.iter().enumerate() {
        let path = dir.join(name);
        if nth % 7 == 3 {
            fs::remove_file(&path)?;
            fs::write(extra.join(format!("{nth:06}")), format!("{name}\n").repeat(200))?;
            deleted += 1;
        } else if nth % 10 == 5 {
            let mut bytes = fs::read(&path)?;
            bytes.reverse();
            bytes.extend_from_slice(name.as_bytes());
            fs::write(&path, bytes)?;
            changed += 1;
        }
    }
    Ok(format!("{changed} files changed, {deleted} deleted, {deleted} added"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_every_kind() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("sub")).unwrap();
        for name in ["a", "b b", "sub/c"] {
            fs::write(tree.join(name), name).unwrap();
        }
        let before = Manifest::of(&tree, dir.path()).unwrap();
        assert_eq!(before.len(), 3);
        before.must_equal(&Manifest::of(&tree, dir.path()).unwrap(), "same").unwrap();

        fs::write(tree.join("a"), "A").unwrap();
        fs::remove_file(tree.join("sub/c")).unwrap();
        fs::write(tree.join("d"), "d").unwrap();
        let after = Manifest::of(&tree, dir.path()).unwrap();
        let difference = before.difference(&after);
        assert_eq!(difference.to_string(), "1 changed, 1 missing, 1 added (first: a)");
        assert!(before.must_equal(&after, "x").is_err());
    }

    #[test]
    fn a_change_changes_deletes_and_adds() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        for nth in 0..40 {
            fs::write(tree.join(format!("{nth:02}")), format!("file {nth}")).unwrap();
        }
        let before = Manifest::of(&tree, dir.path()).unwrap();
        change(&tree).unwrap();
        let difference = before.difference(&Manifest::of(&tree, dir.path()).unwrap());
        assert_eq!((difference.missing.len(), difference.added.len()), (6, 6));
        assert!(!difference.changed.is_empty());
    }
}
