//! QEMU's parallels driver as a witness: its checker, its reader, its writer.
//!
//! Its own faults with damaged images are known; it only gets clean ones here.

use crate::World;
use crate::flat::{Kind, Op};
use crate::world::Said;
use std::fs;
use std::path::Path;

/// `qemu-img check` of a single image.
pub fn check(world: &World, image: &str) -> Said {
    world.run("qemu-img", &["check", "-f", "parallels", image])
}

/// The device as QEMU reads it.
#[allow(clippy::panic, reason = "a helper of tests")]
pub fn read(world: &World, image: &str) -> Vec<u8> {
    let raw = world.text("read-by-qemu.raw");
    let said = world.run("qemu-img", &["convert", "-f", "parallels", "-O", "raw", image, &raw]);
    assert_eq!(said.code, 0, "{said:?}");
    let bytes = fs::read(&raw).unwrap_or_else(|error| panic!("{raw}: {error}"));
    let _ = fs::remove_file(&raw);
    bytes
}

/// Runs commands of `qemu-io` on a parallels image, in one open; each must succeed.
pub fn io(world: &World, image: &str, commands: &[String]) -> String {
    let mut args = vec!["-f", "parallels", "-d", "unmap"];
    for command in commands {
        args.extend(["-c", command]);
    }
    args.push(image);
    world.ok("qemu-io", &args)
}

/// An operation as a command of `qemu-io`; the content of a write goes through a file.
#[allow(clippy::panic, reason = "a helper of tests")]
#[must_use]
pub fn command(op: &Op, file: &Path) -> String {
    let (offset, len) = (op.offset, op.len);
    match op.kind {
        Kind::Write => {
            fs::write(file, op.data()).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            format!("write -q -s {} {offset} {len}", file.display())
        }
        Kind::Zeroes => format!("write -q -z -u {offset} {len}"),
        Kind::Discard => format!("discard -q {offset} {len}"),
        Kind::Flush | Kind::Reopen => "flush".to_owned(),
    }
}
