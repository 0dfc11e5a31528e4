//! `mount.ploop` and `umount.ploop`: what mount(8) and umount(8) call for file systems of type
//! `ploop`, so that `mount -t ploop DISK DIR`, `umount DIR` and fstab work. The program's own name
//! tells; the words become those of `ploop mount` and `ploop umount`.

use ploop_daemon::{Failure, Result};
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// The words of `ploop` for those of a helper; `None` when this is none. The inner `None`: nothing
/// is to be done (`-f`).
pub fn words(all: &[OsString]) -> Option<Result<Option<Vec<OsString>>>> {
    let (program, words) = all.split_first()?;
    match Path::new(program).file_name()?.to_str()? {
        "mount.ploop" => Some(mount(words)),
        "umount.ploop" => Some(umount(words)),
        _ => None,
    }
}

/// `mount.ploop DISK DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`.
fn mount(words: &[OsString]) -> Result<Option<Vec<OsString>>> {
    let Parsed { places, options, fake } = parse(words, "sfnv", "Not")?;
    let [disk, dir] = places.as_slice() else {
        return Err(Failure::parameter("mount.ploop wants a disk and a directory"));
    };
    let mut out: Vec<OsString> = vec!["ploop".into(), "mount".into(), "-m".into(), dir.into()];
    // umount(8) then calls umount.ploop, which detaches.
    let mut passed = vec!["helper=ploop".to_owned()];
    for option in options.iter().flat_map(|all| all.split(',')).filter(|one| !one.is_empty()) {
        match option.split_once('=') {
            Some((long @ ("visible-to" | "partition"), value)) => {
                out.extend([format!("--{long}").into(), value.into()]);
            }
            Some(("fstype", fstype)) => out.extend(["-t".into(), fstype.into()]),
            None if option == "ro" => out.push("-r".into()),
            None if option == "fsck" => out.push("-F".into()),
            None if matches!(option, "allow-outside" | "change-shared") => {
                out.push(format!("--{option}").into());
            }
            // Of the kind of mount, not of the file system.
            None if matches!(option, "rw" | "defaults" | "auto" | "noauto" | "nofail") => {}
            _ => passed.push(option.to_owned()),
        }
    }
    out.extend(["-o".into(), passed.join(",").into(), disk.into()]);
    Ok((!fake).then_some(out))
}

/// `umount.ploop DIR [-nlfrv] [-N NAMESPACE] [-t TYPE]`.
fn umount(words: &[OsString]) -> Result<Option<Vec<OsString>>> {
    let Parsed { places, .. } = parse(words, "nlrfv", "Nt")?;
    let [dir] = places.as_slice() else {
        return Err(Failure::parameter("umount.ploop wants a directory"));
    };
    Ok(Some(vec!["ploop".into(), "umount".into(), "-m".into(), dir.into()]))
}

struct Parsed {
    places: Vec<OsString>,
    options: Vec<String>,
    /// Everything but the mount itself.
    fake: bool,
}

/// Words as getopt reads them, options anywhere: letters without a value, letters with one.
fn parse(words: &[OsString], plain: &str, valued: &str) -> Result<Parsed> {
    let mut parsed = Parsed { places: Vec::new(), options: Vec::new(), fake: false };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(letters) = word.to_str().and_then(|word| word.strip_prefix('-')) else {
            parsed.places.push(word.clone());
            continue;
        };
        for (at, letter) in letters.char_indices() {
            if plain.contains(letter) {
                parsed.fake |= letter == 'f' && plain.starts_with('s');
            } else if valued.contains(letter) {
                let rest = &letters[at + letter.len_utf8()..];
                let value = match rest {
                    "" => words.next().map(OsString::as_os_str),
                    rest => Some(OsStr::new(rest)),
                };
                let value = value
                    .and_then(OsStr::to_str)
                    .ok_or_else(|| Failure::parameter(format!("-{letter} wants a value")))?;
                match letter {
                    'o' => parsed.options.push(value.to_owned()),
                    'N' => {
                        let message = format!("-N {value}: mounting in another namespace");
                        return Err(Failure::parameter(format!("{message} is not possible")));
                    }
                    // The type is the one in the program's name.
                    _ => {}
                }
                break;
            } else {
                return Err(Failure::parameter(format!("unknown option -{letter}")));
            }
        }
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::words;
    use std::ffi::OsString;

    fn meant(line: &str) -> Option<String> {
        let all: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let words = words(&all)?.unwrap()?;
        Some(words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn what_mount_calls_is_what_ploop_does() {
        let plain = "ploop mount -m /mnt -o helper=ploop /vz/d";
        assert_eq!(meant("/sbin/mount.ploop /vz/d /mnt -o rw").as_deref(), Some(plain));
        let all = "mount.ploop /vz/d /mnt -sv -orw,noatime,x-systemd.after=a -o ro,fsck,fstype=xfs";
        assert_eq!(
            meant(all).as_deref(),
            Some(
                "ploop mount -m /mnt -r -F -t xfs -o helper=ploop,noatime,x-systemd.after=a /vz/d"
            )
        );
        assert_eq!(
            meant("mount.ploop /vz/d /mnt -o allow-outside,noatime,partition=2,visible-to=adm")
                .as_deref(),
            Some(
                "ploop mount -m /mnt --allow-outside --partition 2 --visible-to adm \
                 -o helper=ploop,noatime /vz/d"
            )
        );
        assert_eq!(meant("mount.ploop /vz/d /mnt -f"), None);
        assert_eq!(meant("umount.ploop /mnt -n").as_deref(), Some("ploop umount -m /mnt"));
        assert!(words(&["ploop".into(), "mount".into()]).is_none());
    }

    #[test]
    fn what_is_not_meant_is_refused() {
        for line in
            ["mount.ploop /d", "mount.ploop /d /m -x", "mount.ploop /d /m -N 5", "umount.ploop"]
        {
            let all: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            assert!(words(&all).unwrap().is_err(), "{line}");
        }
    }
}
