//! The sample images of `tests/samples`: unpacked once, read by all, changed by none.
//!
//! Std only, so that a crate whose tests cannot depend on this one includes the file:
//! `#[path = "../../../tests/e2e/src/samples.rs"] mod samples;`

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::UNIX_EPOCH;
use std::{env, fs};

const ARCHIVE: &str = "tests/samples/samples.tar.zst";
/// What lay there right after unpacking: path, length and time of change of every file.
const MANIFEST: &str = ".unpacked";

/// The directory of the unpacked samples (`chain-64k/`, `corrupt/`, `FLAT-SHA256`, ...).
///
/// Read only: a test that changes an image works on [`copy_sample`]. Panics when the archive
/// cannot be unpacked, or when a test has changed a sample: what would run next proves nothing.
#[must_use]
#[allow(clippy::panic, reason = "a helper of tests")]
pub fn samples_dir() -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| match unpacked() {
        Ok(dir) => dir,
        Err(error) => panic!("the samples cannot be used: {error}"),
    })
    .clone()
}

/// Copies a sample, a file or a whole disk directory, to `to` (which must not exist) for a test
/// to change. Holes stay holes.
pub fn copy_sample(name: &str, to: &Path) -> io::Result<PathBuf> {
    let from = samples_dir().join(name);
    run(Command::new("cp")
        .args(["--recursive", "--sparse=always", "--no-target-directory"])
        .args([from.as_path(), to]))?;
    Ok(to.to_path_buf())
}

/// The repository's root: the first directory above the crate under test that has the archive.
fn root() -> io::Result<PathBuf> {
    let start = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    start
        .ancestors()
        .find(|dir| dir.join(ARCHIVE).is_file())
        .map(Path::to_path_buf)
        .ok_or_else(|| io::Error::other(format!("no {ARCHIVE} above {}", start.display())))
}

/// Unpacks beside the test binaries, under a name made from the archive's content. Test processes
/// that start together all unpack, the first rename wins.
fn unpacked() -> io::Result<PathBuf> {
    let archive = root()?.join(ARCHIVE);
    let name = format!("ploop-samples-{:016x}", fnv(&fs::read(&archive)?));
    let exe = env::current_exe()?;
    let base = exe.parent().unwrap_or(Path::new("."));
    let dir = base.join(&name);
    if !dir.exists() {
        let tmp = base.join(format!("{name}.tmp{}", std::process::id()));
        fs::create_dir_all(&tmp)?;
        run(Command::new("tar").arg("--zstd").arg("-xSf").arg(&archive).arg("-C").arg(&tmp))?;
        let inner = tmp.join("samples");
        fs::write(inner.join(MANIFEST), listing(&inner)?)?;
        let renamed = fs::rename(&inner, &dir);
        fs::remove_dir_all(&tmp)?;
        if !dir.exists() {
            renamed?;
        }
    }
    if fs::read_to_string(dir.join(MANIFEST))? != listing(&dir)? {
        let text =
            format!("a test changed a file below {}: find it, then remove it", dir.display());
        return Err(io::Error::other(text));
    }
    Ok(dir)
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command
        .output()
        .map_err(|error| io::Error::other(format!("{:?}: {error}", command.get_program())))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{command:?}: {}: {}", output.status, said.trim())))
}

fn listing(dir: &Path) -> io::Result<String> {
    let mut lines = Vec::new();
    list(dir, dir, &mut lines)?;
    lines.sort();
    Ok(lines.join("\n"))
}

fn list(top: &Path, dir: &Path, lines: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let meta = fs::symlink_metadata(&path)?;
        let name = path.strip_prefix(top).unwrap_or(&path).display().to_string();
        if meta.is_dir() {
            list(top, &path, lines)?;
            continue;
        }
        if name != MANIFEST {
            let changed = meta.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            lines.push(format!("{name} {} {}", meta.len(), changed.as_nanos()));
        }
    }
    Ok(())
}

/// FNV-1a: a name for the archive's content, nothing more.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_sample_is_there() {
        let dir = samples_dir();
        for name in ["FLAT-SHA256", "chain-64k/DiskDescriptor.xml", "corrupt/dup", "grow-after"] {
            assert!(dir.join(name).is_file(), "{name}");
        }
        assert_eq!(fs::metadata(dir.join("corrupt/short_last")).unwrap().len(), 163_328);
    }

    #[test]
    fn a_copy_is_equal_and_may_change() {
        let to = env::temp_dir().join(format!("ploop-copy-{}", std::process::id()));
        let copy = copy_sample("chain-1m", &to).unwrap();
        let name = "DiskDescriptor.xml";
        let original = fs::read(samples_dir().join("chain-1m").join(name)).unwrap();
        assert_eq!(fs::read(copy.join(name)).unwrap(), original);
        fs::write(copy.join(name), "changed").unwrap();
        assert_eq!(fs::read(samples_dir().join("chain-1m").join(name)).unwrap(), original);
        fs::remove_dir_all(&to).unwrap();
    }
}
