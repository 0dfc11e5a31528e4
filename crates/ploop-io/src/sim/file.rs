//! An open file of the simulated host: the blocking calls.

use super::fault::{Attempt, Verdict};
use super::world::{Description, SimWorld, World};
use super::{dead, errno};
use crate::{Caps, FileId, Ident, LockRange, OpKind, RawFile};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicU32, Ordering};

/// The device number of every simulated file.
pub(super) const DEVICE: u64 = 0x51;

/// An open file description in a [`SimWorld`]; closed when the last reference goes.
#[derive(Debug)]
pub struct SimFile {
    world: SimWorld,
    life: u64,
    id: i32,
    ino: u64,
    path: PathBuf,
    write: bool,
    caps: Caps,
    /// Alignment of offset and length, as far as it is known; 1 when buffered.
    align: AtomicU32,
}

impl SimFile {
    /// Opens an inode. The lock on the world is the caller's.
    pub(super) fn open(
        handle: &SimWorld,
        world: &mut World,
        ino: u64,
        path: PathBuf,
        (write, direct): (bool, bool),
    ) -> Self {
        let id = world.next_file;
        world.next_file += 1;
        let direct = direct && world.options.caps.direct;
        let mut caps = world.options.caps;
        if !direct {
            caps = Caps { direct: false, mem_align: 1, offset_align: 1, ..caps };
        }
        let (align, told) = (AtomicU32::new(caps.offset_align), caps.offset_align);
        let open = Description { ino, path: path.clone(), write, direct, told, closed: false };
        world.open.insert(id, open);
        Self { world: handle.clone(), life: world.life, id, ino, path, write, caps, align }
    }

    fn alive(&self) -> io::Result<MutexGuard<'_, World>> {
        let world = self.world.lock();
        if world.dead || world.life != self.life { Err(dead()) } else { Ok(world) }
    }

    fn start(
        &self,
        kind: OpKind,
        offset: u64,
        len: u64,
    ) -> io::Result<(MutexGuard<'_, World>, Verdict)> {
        let mut world = self.alive()?;
        let changes = !matches!(kind, OpKind::Read | OpKind::Sync | OpKind::Datasync);
        if changes && !self.write {
            return Err(errno(libc::EBADF));
        }
        let attempt = Attempt { kind, path: self.path.clone(), offset, len, blocking: true };
        let verdict = world.start_blocking(self.life, &attempt)?;
        world.tick += 1;
        Ok((world, verdict))
    }

    /// A change without data.
    fn act(&self, kind: OpKind, at: u64, len: u64) -> io::Result<()> {
        let (mut world, verdict) = self.start(kind, at, len)?;
        let done = Some(world.tick);
        let result = match verdict {
            Verdict::Fail(code) | Verdict::FailTorn(code) => Err(code),
            _ => world.act(self.ino, kind, at, len, done).map(|_| ()),
        };
        world.boundary();
        result.map_err(errno)
    }

    fn sync_now(&self, kind: OpKind) -> io::Result<()> {
        let (mut world, verdict) = self.start(kind, 0, 0)?;
        let start = world.tick;
        let inode = world.inodes.get_mut(&self.ino).ok_or_else(|| errno(libc::EBADF))?;
        let result = match verdict {
            Verdict::Fail(code) | Verdict::FailTorn(code) => {
                inode.doubt_all(0);
                Err(code)
            }
            _ => {
                inode.cover_before(start);
                Ok(())
            }
        };
        world.boundary();
        result.map_err(errno)
    }
}

impl RawFile for SimFile {
    fn id(&self) -> FileId {
        FileId(self.id)
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn caps(&self) -> Caps {
        Caps { offset_align: self.align.load(Ordering::Acquire), ..self.caps }
    }

    fn realign(&self) -> Caps {
        let now = self.world.lock().options.caps.offset_align;
        if self.caps.direct && self.align.load(Ordering::Acquire) > 1 {
            self.align.fetch_max(now, Ordering::AcqRel);
        }
        self.caps()
    }

    fn buffer(&self) -> io::Result<()> {
        self.align.store(1, Ordering::Release);
        if let Some(open) = self.world.lock().open.get_mut(&self.id) {
            open.direct = false;
        }
        Ok(())
    }

    fn writable(&self) -> bool {
        self.write
    }

    fn ident(&self) -> io::Result<Ident> {
        Ok(Ident { dev: DEVICE, ino: self.ino })
    }

    fn len(&self) -> io::Result<u64> {
        let world = self.alive()?;
        Ok(world.inodes.get(&self.ino).map_or(0, |inode| inode.live.len))
    }

    fn allocated(&self) -> io::Result<u64> {
        let world = self.alive()?;
        Ok(world.inodes.get(&self.ino).map_or(0, |inode| inode.live.allocated()))
    }

    fn free_space(&self) -> io::Result<u64> {
        let world = self.alive()?;
        let capacity = world.options.capacity.unwrap_or(u64::MAX);
        Ok(capacity.saturating_sub(world.allocated()))
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let (world, verdict) = self.start(OpKind::Read, at, buf.len() as u64)?;
        if let Verdict::Fail(code) | Verdict::FailTorn(code) = verdict {
            return Err(errno(code));
        }
        let inode = world.inodes.get(&self.ino).ok_or_else(|| errno(libc::EBADF))?;
        let there = inode.live.len.saturating_sub(at).min(buf.len() as u64) as usize;
        inode.live.read(at, &mut buf[..there]);
        Ok(there)
    }

    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        let (mut world, verdict) = self.start(OpKind::Write, at, buf.len() as u64)?;
        let done = Some(world.tick);
        let result = match verdict {
            Verdict::Fail(code) => Err(code),
            Verdict::FailTorn(code) => {
                world.write_torn(self.ino, at, buf, done);
                Err(code)
            }
            _ => world.write(self.ino, at, buf, done).map(|_| ()),
        };
        world.boundary();
        result.map_err(errno)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.act(OpKind::Truncate, len, 0)
    }

    fn reserve(&self, at: u64, len: u64) -> io::Result<()> {
        if !self.caps.reserve {
            return Err(errno(libc::EOPNOTSUPP));
        }
        self.act(OpKind::Reserve, at, len)
    }

    fn punch(&self, at: u64, len: u64) -> io::Result<()> {
        if !self.caps.punch {
            return Err(errno(libc::EOPNOTSUPP));
        }
        self.act(OpKind::Punch, at, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_now(OpKind::Sync)
    }

    fn datasync(&self) -> io::Result<()> {
        self.sync_now(OpKind::Datasync)
    }

    fn try_lock(&self, range: LockRange, exclusive: bool) -> io::Result<bool> {
        let mut world = self.alive()?;
        if exclusive && !self.write {
            return Err(errno(libc::EBADF));
        }
        if world.locks.conflict(self.ino, self.id, range, exclusive) {
            return Ok(false);
        }
        world.locks.take(self.ino, self.id, range, exclusive);
        Ok(true)
    }

    fn is_locked(&self, range: LockRange) -> io::Result<bool> {
        Ok(self.alive()?.locks.conflict(self.ino, self.id, range, true))
    }

    fn unlock(&self, range: LockRange) -> io::Result<()> {
        self.alive()?.locks.release(self.ino, self.id, range);
        Ok(())
    }

    fn try_flock(&self) -> io::Result<bool> {
        Ok(self.alive()?.locks.flock(self.ino, self.id))
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut world = self.world.lock();
        if world.life != self.life {
            return;
        }
        if !world.flights.values().any(|f| f.file == self.id) {
            return world.close(self.id);
        }
        if !world.dead {
            let line = format!("{} was closed with operations in flight", self.path.display());
            world.violations.push(line);
        }
        if let Some(open) = world.open.get_mut(&self.id) {
            open.closed = true;
        }
    }
}
