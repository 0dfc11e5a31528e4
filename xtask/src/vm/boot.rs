//! One boot in software emulation: console into a log, an end in any case.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::fetch::Store;
use super::report;
use super::served::Served;
use crate::sh;

/// A machine that says nothing more after this is ended.
const LIMIT: Duration = Duration::from_secs(900);
/// The guest's disk, sparse; each log too.
const DISK: u64 = 4 << 30;
/// File systems below our images that are recorded, each in a disk of the guest's.
pub const LOGS: [&str; 2] = ["ext4", "xfs"];

/// How a boot ended.
pub struct Booted {
    pub log: PathBuf,
    pub took: Duration,
    /// `None`: it was ended by the time limit.
    pub end: Option<ExitStatus>,
}

/// Boots a kernel with a root; `name` is that of the log, `steps` of what the suite is to do. When
/// QEMU itself dies before the suite has begun (it may abort while the firmware runs), once more.
pub fn boot(
    store: &Store,
    kernel: &Path,
    root: &[u8],
    (name, steps): (&str, &str),
    served: &mut Served,
) -> Result<Booted> {
    let first = once(store, kernel, root, (name, steps), served)?;
    let console = String::from_utf8_lossy(&fs::read(&first.log)?).into_owned();
    let Some(signal) = first.end.and_then(|end| died_early(end, &console)) else {
        return Ok(first);
    };
    let kept = store.path(&format!("log-{name}-died.txt"));
    fs::rename(&first.log, &kept)?;
    sh::complain(&format!(
        "vm: QEMU died of signal {signal} before any step of the suite, see {}; once more",
        kept.display()
    ));
    once(store, kernel, root, (name, steps), served)
}

/// The signal that ended QEMU before the machine had said anything of the suite.
fn died_early(end: ExitStatus, console: &str) -> Option<i32> {
    end.signal().filter(|_| !report::has_begun(console))
}

fn once(
    store: &Store,
    kernel: &Path,
    root: &[u8],
    (name, steps): (&str, &str),
    served: &mut Served,
) -> Result<Booted> {
    let (initrd, disk) = (store.path("initrd"), store.path("disk"));
    fs::write(&initrd, root)?;
    let _ = fs::remove_file(&disk);
    File::create(&disk)?.set_len(DISK)?;
    let log = store.path(&format!("log-{name}.txt"));
    let start = Instant::now();
    let mut command = qemu(store, &image(kernel)?, &initrd, &disk, steps)?;
    second_disk(&mut command, served);
    for name in LOGS {
        let path = store.path(&format!("log-{name}"));
        let _ = fs::remove_file(&path);
        File::create(&path)?.set_len(DISK)?;
        drive(&mut command, name, &path);
    }
    let child = start_qemu(command, &log)?;
    let end = wait(child, start, &mut || served.look_at(&log))?;
    let _ = fs::remove_file(&disk);
    let _ = fs::remove_file(&initrd);
    Ok(Booted { log, took: start.elapsed(), end })
}

/// The kernel's image: in `boot`, or beside the modules in packages that come in parts.
fn image(kernel: &Path) -> Result<PathBuf> {
    let mut dirs = vec![kernel.join("boot")];
    for modules in ["lib/modules", "usr/lib/modules"] {
        let Ok(entries) = fs::read_dir(kernel.join(modules)) else { continue };
        dirs.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    }
    let files = dirs.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten();
    let mut paths = files.filter_map(|entry| Some(entry.ok()?.path()));
    let is_image = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
    };
    paths.find(is_image).with_context(|| format!("no vmlinuz in {}", kernel.display()))
}

fn qemu(store: &Store, kernel: &Path, initrd: &Path, disk: &Path, steps: &str) -> Result<Command> {
    let qemu = store.path("qemu");
    let share = qemu.join("usr/share");
    let mut command = Command::new(qemu.join("usr/bin/qemu-system-x86_64"));
    for dir in ["qemu", "seabios"] {
        command.arg("-L").arg(share.join(dir));
    }
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none"]);
    command.args(["-serial", "stdio", "-no-reboot", "-M", "q35", "-cpu", "max", "-smp", "2"]);
    command.args(["-accel", "tcg,thread=multi,tb-size=512", "-m", "2G"]);
    // The server of the second disk reads and writes the machine's memory.
    command.args(["-object", "memory-backend-memfd,id=memory,size=2G,share=on"]);
    command.args(["-machine", "memory-backend=memory"]);
    drive(&mut command, "first", disk);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
    let line = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=on \
                tsc=reliable no_timer_check";
    let steps = if steps.is_empty() { String::new() } else { format!(" steps={steps}") };
    command.arg("-append").arg(format!("{line}{steps}"));
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|d| qemu.join(d));
    command.env("LD_LIBRARY_PATH", std::env::join_paths(libraries)?);
    Ok(command)
}

fn drive(command: &mut Command, name: &str, path: &Path) {
    command.arg("-drive");
    command.arg(format!("if=none,id={name},format=raw,cache=unsafe,file={}", path.display()));
    command.arg("-device").arg(format!("virtio-blk-pci,drive={name}"));
}

/// Ours, over vhost-user-blk. A server that dies is waited for.
fn second_disk(command: &mut Command, served: &Served) {
    let socket = served.socket();
    command.arg("-chardev");
    command.arg(format!("socket,id=second,path={},reconnect-ms=100", socket.display()));
    command.args(["-device", "vhost-user-blk-pci,chardev=second,num-queues=2"]);
}

fn start_qemu(mut command: Command, log: &Path) -> Result<Child> {
    let out = File::create(log)?;
    let errors = out.try_clone()?;
    command.stdin(Stdio::null()).stdout(out).stderr(errors);
    command.spawn().with_context(|| format!("cannot start `{}`", sh::words(&command)))
}

/// How it ended, if it ended by itself.
fn wait(
    mut child: Child,
    start: Instant,
    look: &mut dyn FnMut() -> Result<()>,
) -> Result<Option<ExitStatus>> {
    loop {
        look()?;
        if let Some(end) = child.try_wait()? {
            return Ok(Some(end));
        }
        if start.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_qemu_that_dies_before_the_suite_gets_another_try() {
        let aborted = ExitStatus::from_raw(6);
        assert_eq!(died_early(aborted, "SeaBIOS\r\nqemu: assertion failed\n"), Some(6));
        assert_eq!(died_early(aborted, "ok boot 3.1 6.12\r\n"), None);
        assert_eq!(died_early(aborted, "not ok boot 3.1 why\r\n"), None);
        assert_eq!(died_early(ExitStatus::from_raw(1 << 8), "no such machine\n"), None);
        assert_eq!(died_early(ExitStatus::from_raw(0), ""), None);
    }
}
