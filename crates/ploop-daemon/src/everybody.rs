//! The open disks of other users: of all of them for root to list, those of root that were made
//! visible to a group for its members. What users wrote is not trusted: nothing of it is opened,
//! asked or removed.

use crate::registry::{Entry, Registry};
use rustix::fs::OFlags;
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// An entry longer than this is none.
const MAX_ENTRY: u64 = 64 << 10;
/// So many files of one user are looked at.
const MAX_FILES: usize = 4096;

impl Registry {
    /// Disks of other users whose servers run, with the users' numbers: for root all, for others
    /// those of root that a group of theirs may see. Only beside the usual registry.
    #[must_use]
    pub fn of_others(&self) -> Vec<(u32, Entry)> {
        let usual = std::env::var_os("PLOOP_RUN_DIR").is_none_or(|dir| dir.is_empty());
        match rustix::process::geteuid().is_root() {
            _ if !usual => Vec::new(),
            true => all(Path::new("/run/user"), &std::env::temp_dir()),
            false => entries(0, Path::new("/run/ploop")).into_iter().map(|e| (0, e)).collect(),
        }
    }
}

fn all(runtime: &Path, temporary: &Path) -> Vec<(u32, Entry)> {
    let mut found = Vec::new();
    for (name, dir) in names(runtime) {
        found.extend(name.parse().ok().map(|uid| (uid, dir.join("ploop"))));
    }
    for (name, dir) in names(temporary) {
        let uid = name.strip_prefix("ploop-").and_then(|uid| uid.parse().ok());
        found.extend(uid.map(|uid| (uid, dir)));
    }
    found.sort();
    let of = |(uid, dir): (u32, PathBuf)| entries(uid, &dir).into_iter().map(move |e| (uid, e));
    found.into_iter().filter(|(uid, _)| *uid != 0).flat_map(of).collect()
}

fn names(dir: &Path) -> impl Iterator<Item = (String, PathBuf)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
}

/// Entries of a directory that is the user's own.
fn entries(uid: u32, dir: &Path) -> Vec<Entry> {
    let own = |meta: fs::Metadata| meta.is_dir() && meta.uid() == uid && meta.mode() & 0o022 == 0;
    let own = fs::symlink_metadata(dir).is_ok_and(own);
    let files = own.then(|| names(dir)).into_iter().flatten().take(MAX_FILES);
    let files = files.filter(|(name, _)| name.ends_with(".json"));
    files.filter_map(|(_, path)| entry(uid, &path)).collect()
}

fn entry(uid: u32, path: &Path) -> Option<Entry> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).ok()?;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let meta = file.metadata().ok()?;
    if !meta.is_file() || meta.uid() != uid || meta.len() > MAX_ENTRY {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MAX_ENTRY).read_to_end(&mut bytes).ok()?;
    let mut value: Value = serde_json::from_slice(&bytes).ok()?;
    harmless(&mut value);
    let mut entry: Entry = serde_json::from_value(value).ok()?;
    // They are looked up: no other place than that of devices.
    entry.device = entry.device.filter(|device| is_device(device));
    entry.partition = entry.partition.filter(|device| is_device(device));
    // A server is its user's process.
    let runs = fs::metadata(format!("/proc/{}", entry.pid)).is_ok_and(|meta| meta.uid() == uid);
    (runs && entry.alive()).then_some(entry)
}

/// `/dev/loop3`, `/dev/ublkb0p1`: a name, with nothing a user could have put there.
fn is_device(path: &str) -> bool {
    let name = path.strip_prefix("/dev/").unwrap_or_default();
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// Names go to root's terminal.
fn harmless(value: &mut Value) {
    match value {
        Value::String(text) => *text = text.replace(char::is_control, "?"),
        Value::Array(values) => values.iter_mut().for_each(harmless),
        Value::Object(map) => map.values_mut().for_each(harmless),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::all;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::process::{Child, Command};

    const USER: u32 = 4242;

    struct Ended(Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn process(uid: u32) -> Ended {
        use std::os::unix::process::CommandExt;
        Ended(Command::new("sleep").arg("60").uid(uid).spawn().unwrap())
    }

    fn text(pid: u32, disk: &str) -> String {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let start = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap();
        format!(
            r#"{{"id":"1:2","pid":{pid},"pid_start":{start},"disk":"{disk}","images":[],
            "read_only":false,"device":null,"partition":null,"transport":null,"mountpoint":null,
            "exports":[],"started":1}}"#
        )
    }

    #[test]
    fn what_users_wrote_is_believed_of_their_own_processes_only() {
        const NAME: &str = "what_users_wrote_is_believed_of_their_own_processes_only";
        if !rustix::process::geteuid().is_root() {
            ploop_e2e::skip(NAME, "needs root, to have processes of another user");
            return;
        }
        let (run, tmp) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (his, mine) = (process(USER), process(0));
        let own = tmp.path().join(format!("ploop-{USER}"));
        let session = run.path().join(USER.to_string()).join("ploop");
        for dir in [&own, &session] {
            fs::create_dir_all(dir).unwrap();
            chown(dir, Some(USER), None).unwrap();
        }
        let put = |dir: &std::path::Path, name: &str, text: String, owner| {
            fs::write(dir.join(name), text).unwrap();
            chown(dir.join(name), Some(owner), None).unwrap();
        };
        let with = |device: &str, text: String| {
            text.replace(r#""device":null"#, &format!(r#""device":"{device}""#))
        };
        put(&own, "1:2.json", with("/dev/loop3", text(his.0.id(), r"/a\u001b[2J")), USER);
        put(&session, "1:3.json", with("/dev/shm/x", text(his.0.id(), "/b")), USER);
        put(&own, "1:4.json", text(mine.0.id(), "/root-process"), USER);
        put(&own, "1:5.json", text(his.0.id(), "/another-users-file"), 0);
        put(tmp.path(), "aim", text(his.0.id(), "/link"), USER);
        symlink(tmp.path().join("aim"), own.join("1:6.json")).unwrap();
        symlink(&own, tmp.path().join("ploop-4243")).unwrap();
        let found = all(run.path(), tmp.path());
        let mut disks: Vec<_> =
            found.iter().map(|(uid, e)| (*uid, e.disk.display().to_string())).collect();
        disks.sort();
        assert_eq!(disks, [(USER, "/a?[2J".to_owned()), (USER, "/b".to_owned())]);
        // A place of a device that is none is not looked at; a directory that others can write is
        // nobody's own.
        let devices: Vec<_> = found.iter().filter_map(|(_, e)| e.device.as_deref()).collect();
        assert_eq!(devices, ["/dev/loop3"]);
        fs::set_permissions(&session, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(all(run.path(), tmp.path()).len(), 1);
    }
}
