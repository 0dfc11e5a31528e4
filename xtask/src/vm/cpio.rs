//! The archive a kernel unpacks into its first root: cpio, "newc".

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};

const DIR: u32 = 0o040_755;
const FILE: u32 = 0o100_755;

/// An archive in memory.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    dirs: BTreeSet<String>,
}

impl Archive {
    pub fn dir(&mut self, name: &str) {
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.dir(parent);
        }
        if !name.is_empty() && self.dirs.insert(name.to_owned()) {
            self.entry(name, DIR, &[]);
        }
    }

    pub fn file(&mut self, name: &str, content: &[u8]) {
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.dir(parent);
        }
        self.entry(name, FILE, content);
    }

    /// A file of this machine under another name.
    pub fn copy(&mut self, name: &str, from: &Path) -> Result<()> {
        let content = std::fs::read(from).with_context(|| from.display().to_string())?;
        self.file(name, &content);
        Ok(())
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        // inode, mode, owner, group, links, time, size, device, device of a node, name, sum
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_first_and_all_is_aligned() {
        let mut archive = Archive::default();
        archive.file("a/b/c", b"12345");
        archive.file("a/b/d", b"");
        let bytes = archive.finish();
        assert!(bytes.len().is_multiple_of(4));
        let heads: Vec<_> =
            (0..bytes.len()).filter(|&n| bytes[n..].starts_with(b"070701")).collect();
        let names: Vec<_> = heads
            .iter()
            .map(|n| {
                assert!(n.is_multiple_of(4));
                let name = &bytes[n + 110..];
                String::from_utf8_lossy(&name[..name.iter().position(|b| *b == 0).unwrap()])
                    .into_owned()
            })
            .collect();
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/b/d", "TRAILER!!!"]);
    }
}
