//! Directories: which name is which file, now and after a crash.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Node {
    File(u64),
    Dir,
}

/// One change of a directory.
#[derive(Clone, Debug)]
pub(super) enum NameEffect {
    Create { path: PathBuf, ino: u64 },
    Rename { from: PathBuf, to: PathBuf, ino: u64 },
    Unlink { path: PathBuf, ino: u64 },
}

/// A change of a directory that no directory sync covered yet.
#[derive(Clone, Debug)]
pub(super) struct NameEntry {
    pub(super) seq: u64,
    pub(super) effect: NameEffect,
    pub(super) covered: bool,
}

/// All names of a world, by absolute path.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) live: BTreeMap<PathBuf, Node>,
    pub(super) base: BTreeMap<PathBuf, Node>,
    pub(super) log: Vec<NameEntry>,
}

/// An absolute path without `.` and `..`; relative ones start at the root.
pub(super) fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

impl NameEffect {
    pub(super) fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Create { path, ino } => {
                names.insert(path.clone(), Node::File(*ino));
            }
            Self::Rename { from, to, ino } => {
                if names.get(from) == Some(&Node::File(*ino)) {
                    names.remove(from);
                }
                names.insert(to.clone(), Node::File(*ino));
            }
            Self::Unlink { path, ino } => {
                if names.get(path) == Some(&Node::File(*ino)) {
                    names.remove(path);
                }
            }
        }
    }

    /// The path a report shows.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Create { path, .. } | Self::Unlink { path, .. } => path,
            Self::Rename { to, .. } => to,
        }
    }

    fn touches(&self, dir: &Path) -> bool {
        match self {
            Self::Create { path, .. } | Self::Unlink { path, .. } => path.parent() == Some(dir),
            // Across directories the sync of the new place is the one that counts.
            Self::Rename { to, .. } => to.parent() == Some(dir),
        }
    }
}

impl Names {
    pub(super) fn new() -> Self {
        let root = BTreeMap::from([(PathBuf::from("/"), Node::Dir)]);
        Self { live: root.clone(), base: root, log: Vec::new() }
    }

    pub(super) fn change(&mut self, seq: u64, effect: NameEffect) {
        effect.apply(&mut self.live);
        self.log.push(NameEntry { seq, effect, covered: false });
    }

    /// The directory was synced: its changes are durable.
    pub(super) fn cover(&mut self, dir: &Path) {
        for entry in self.log.iter_mut().filter(|e| e.effect.touches(dir)) {
            entry.covered = true;
        }
        let head = self.log.iter().take_while(|e| e.covered).count();
        for entry in self.log.drain(..head) {
            entry.effect.apply(&mut self.base);
        }
    }
}
