//! Kernel modules and what they need, in the order they must be loaded.
//!
//! A module says itself what it needs, so no index of another tool is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::sh;

/// What the suite uses; what the kernel has built in or does not have is left out.
const WANTED: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "crc32c_generic",
    "crc32c_intel",
    "ext4",
    "xfs",
    "loop",
    "fuse",
    "nbd",
    "dm_mod",
    "dm_flakey",
    "dm_snapshot",
    "dm_log_writes",
    "dm_crypt",
    "aes_generic",
    "xts",
    "algif_skcipher",
    "ublk_drv",
];

/// A module's name and its bytes, not compressed.
pub struct Module {
    pub name: String,
    pub bytes: Vec<u8>,
}

/// The wanted modules of a kernel unpacked in `kernel`, in loading order.
pub fn wanted(kernel: &Path) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    for dir in ["lib/modules", "usr/lib/modules"] {
        walk(&kernel.join(dir), &mut files)?;
    }
    ensure!(!files.is_empty(), "no modules in {}", kernel.display());
    let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
    for name in WANTED {
        add(name, &files, &mut seen, &mut order)?;
    }
    Ok(order)
}

fn walk(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            walk(&path, files)?;
        } else if let Some(name) = path.file_name().and_then(|n| n.to_str())
            && let Some((stem, _)) = name.split_once(".ko")
        {
            files.insert(stem.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn add(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    seen: &mut BTreeSet<String>,
    order: &mut Vec<Module>,
) -> Result<()> {
    let Some(path) = files.get(name) else { return Ok(()) };
    if !seen.insert(name.to_owned()) {
        return Ok(());
    }
    let bytes = read(path)?;
    for need in needs(&bytes) {
        add(&need, files, seen, order)?;
    }
    order.push(Module { name: name.to_owned(), bytes });
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let unpack = match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(path).with_context(|| path.display().to_string()),
    };
    let output = sh::output(sh::program(unpack).arg("-dc").arg(path))?;
    ensure!(output.status.success(), "{unpack} cannot read {}", path.display());
    Ok(output.stdout)
}

/// The names in a module's `depends=` note.
fn needs(bytes: &[u8]) -> Vec<String> {
    const NOTE: &[u8] = b"\0depends=";
    let Some(at) = bytes.windows(NOTE.len()).position(|window| window == NOTE) else {
        return Vec::new();
    };
    let rest = &bytes[at + NOTE.len()..];
    let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    let names = String::from_utf8_lossy(&rest[..end]);
    names.split(',').filter(|n| !n.is_empty()).map(|n| n.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_names_what_it_needs() {
        assert_eq!(needs(b"x\0depends=dm-mod,crc16\0name=y\0"), ["dm_mod", "crc16"]);
        assert!(needs(b"x\0depends=\0name=y\0").is_empty());
        assert!(needs(b"nothing").is_empty());
    }

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let drivers = dir.path().join("lib/modules/6.0/drivers");
        fs::create_dir_all(&drivers).unwrap();
        let module = |name: &str, text: &str| fs::write(drivers.join(name), text).unwrap();
        module("dm-flakey.ko", "\0depends=dm-mod\0");
        module("dm-mod.ko", "\0depends=dax\0");
        module("dax.ko", "\0depends=\0");
        module("unrelated.ko", "\0depends=\0");
        let names: Vec<_> = wanted(dir.path()).unwrap().into_iter().map(|m| m.name).collect();
        assert_eq!(names, ["dax", "dm_mod", "dm_flakey"]);
        assert!(wanted(&dir.path().join("lib/none")).is_err());
    }
}
