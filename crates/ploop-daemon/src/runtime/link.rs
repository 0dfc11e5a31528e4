//! `/dev/ploop/NAME`: names that stay the same, whatever number a device gets.
//!
//! The server makes the links itself, so they are there without udev; with udev the rule makes the
//! same ones. A link outlives a killed server, as its device does.

use crate::failure::OrFail;
use crate::registry::{Registry, of_device};
use crate::{Code, Failure, Result};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Where the links are.
const DIR: &str = "/dev/ploop";
/// Longest name.
const LONGEST: usize = 64;

/// Links of a device and its partition; removed when dropped.
#[derive(Debug)]
pub struct Links {
    made: Vec<(PathBuf, PathBuf)>,
}

/// Checks a name.
///
/// # Errors
/// It is not one that a link, a unit and a rule can carry.
pub fn check(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    if name.is_empty() || name.len() > LONGEST || name.starts_with('.') || !name.chars().all(plain)
    {
        let message = format!("`{name}` cannot be the name of a device");
        return Err(Failure::parameter(message)
            .hint("1 to 64 letters, digits and -_.+, not beginning with a dot"));
    }
    Ok(())
}

impl Links {
    /// Links for a device and its partition.
    ///
    /// # Errors
    /// Another disk has the name, or the directory cannot be written.
    pub fn make(name: &str, device: &Path, partition: Option<&Path>) -> Result<Self> {
        Self::make_in(Path::new(DIR), name, device, partition)
    }

    fn make_in(dir: &Path, name: &str, device: &Path, partition: Option<&Path>) -> Result<Self> {
        check(name)?;
        fs::create_dir_all(dir).or_fail(Code::Mkdir, dir.display().to_string())?;
        let mut links = Self { made: Vec::new() };
        links.one(dir.join(name), device)?;
        if let Some(partition) = partition {
            links.one(dir.join(format!("{name}-part1")), partition)?;
        }
        Ok(links)
    }

    /// They stay when this goes.
    pub fn keep(mut self) {
        self.made.clear();
    }

    fn one(&mut self, link: PathBuf, device: &Path) -> Result<()> {
        if let Some(disk) = owner(&link, device)? {
            let message = format!("{} is the device of {}", link.display(), disk.display());
            return Err(Failure::new(Code::DeviceBusy, message).hint("another --name"));
        }
        // Over whatever is left of a former life, at once.
        let fresh = link.with_extension(format!("{}.new", std::process::id()));
        let made = symlink(device, &fresh).and_then(|()| fs::rename(&fresh, &link));
        made.or_fail(Code::Write, format!("cannot make {}", link.display()))?;
        self.made.push((link, device.to_owned()));
        Ok(())
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        for (link, device) in &self.made {
            if fs::read_link(link).is_ok_and(|now| now == *device) {
                let _ = fs::remove_file(link);
            }
        }
        if let Some((link, _)) = self.made.first() {
            // The last one takes the directory along.
            let _ = link.parent().map(fs::remove_dir);
        }
    }
}

/// The disk whose device a link names, when that is another one that is open.
fn owner(link: &Path, device: &Path) -> Result<Option<PathBuf>> {
    let now = match fs::canonicalize(link) {
        Ok(now) => now,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::io(Code::Read, link.display().to_string(), &error)),
    };
    if now == device {
        return Ok(None);
    }
    let entries = Registry::of_user().entries()?;
    Ok(now.to_str().and_then(|now| of_device(entries, now)).map(|entry| entry.disk))
}

/// Tells udev that a device is ready now; where there is none nobody hears it.
pub fn tell_udev(device: &Path) {
    if let Some(name) = device.file_name() {
        let _ = fs::write(Path::new("/sys/class/block").join(name).join("uevent"), "change");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(["disk", "a.b-c_d+1"].iter().all(|name| check(name).is_ok()));
        let long = "x".repeat(65);
        for bad in ["", ".x", "a/b", "a b", "a\u{e4}", long.as_str()] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn links_come_and_go_and_leave_others_alone() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("ploop");
        fs::create_dir(&dir).unwrap();
        symlink("/gone", dir.join("disk")).unwrap();
        let [device, part] = ["/dev/null", "/dev/zero"].map(Path::new);
        let links = Links::make_in(&dir, "disk", device, Some(part)).unwrap();
        assert_eq!(fs::read_link(dir.join("disk")).unwrap(), device);
        assert_eq!(fs::read_link(dir.join("disk-part1")).unwrap(), part);
        // Somebody else's by now.
        fs::remove_file(dir.join("disk-part1")).unwrap();
        symlink("/dev/full", dir.join("disk-part1")).unwrap();
        drop(links);
        assert!(fs::read_link(dir.join("disk")).is_err());
        assert_eq!(fs::read_link(dir.join("disk-part1")).unwrap(), Path::new("/dev/full"));
    }
}
