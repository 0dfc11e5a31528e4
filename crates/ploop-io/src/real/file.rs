//! An open file on the real file system.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::retry_on_intr;

use super::{caps, lock};
use crate::aligned::AlignedBuf;
use crate::{Caps, FileId, Ident, LockRange, RawFile};

/// Bytes moved per step when direct I/O is bounced.
const STEP: u64 = 1 << 20;

/// A file, its path and what its file system can do.
#[derive(Debug)]
pub struct RealFile {
    file: File,
    path: PathBuf,
    /// As they were at open.
    caps: Caps,
    /// Alignment of direct I/O now: of the memory, and of offset and length; 1 when buffered.
    align: [AtomicU32; 2],
    writable: bool,
    /// On tmpfs.
    memory: bool,
}

impl RealFile {
    pub(super) fn new(file: File, path: &Path, writable: bool, direct: bool) -> Self {
        let caps = caps::discover(&file, path, writable, direct);
        tracing::debug!(path = %path.display(), ?caps, "opened");
        let memory = caps::in_memory(&file);
        let align = [AtomicU32::new(caps.mem_align), AtomicU32::new(caps.offset_align)];
        Self { file, path: path.to_owned(), caps, align, writable, memory }
    }

    /// Alignment of the memory, and of offset and length.
    fn align(&self) -> (u32, u32) {
        let [mem, offset] = &self.align;
        (mem.load(Ordering::Acquire), offset.load(Ordering::Acquire))
    }

    /// Whether a direct transfer that fitted was refused because the alignment is another one now.
    fn outgrown(&self, error: &io::Error) -> bool {
        let before = self.align();
        error.raw_os_error() == Some(libc::EINVAL)
            && before.1 > 1
            && self.realign().direct_align() != before
    }

    /// Whether the kernel takes this transfer as it is.
    fn fits(&self, buf: *const u8, at: u64, len: usize) -> bool {
        let (mem, offset) = self.align();
        let (mem, offset) = (mem as usize, u64::from(offset));
        buf.addr().is_multiple_of(mem)
            && at.is_multiple_of(offset)
            && (len as u64).is_multiple_of(offset)
    }

    /// The part of `at..end` that one bounce step takes, and the aligned range around it.
    fn window(align: u64, at: u64, end: u64) -> Window {
        let start = at - at % align;
        let stop = end.min(start.saturating_add(STEP.next_multiple_of(align)));
        Window { start, stop, padded: stop.div_ceil(align) * align }
    }

    fn bounce_buffer(align: u64, at: u64, end: u64) -> io::Result<AlignedBuf> {
        let window = Self::window(align, at, end);
        AlignedBuf::new(to_usize((window.padded - window.start).max(align))?)
    }

    /// Does a bounced transfer, again when the alignment was outgrown meanwhile.
    fn bounced<T>(&self, mut step: impl FnMut(u64) -> io::Result<T>) -> io::Result<T> {
        loop {
            match step(u64::from(self.align().1)) {
                Err(error) if self.outgrown(&error) => {}
                done => return done,
            }
        }
    }

    fn read_bounced(&self, align: u64, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let end = end_of(at, buf.len())?;
        let mut bounce = Self::bounce_buffer(align, at, end)?;
        let mut pos = at;
        while pos < end {
            let window = Self::window(align, pos, end);
            let size = to_usize(window.padded - window.start)?;
            let got = fill(&self.file, &mut bounce[..size], window.start)?;
            let skip = to_usize(pos - window.start)?;
            let got = got.min(to_usize(window.stop - window.start)?);
            let fresh = got.saturating_sub(skip);
            let done = to_usize(pos - at)?;
            buf[done..done + fresh].copy_from_slice(&bounce[skip..skip + fresh]);
            pos += fresh as u64;
            if pos < window.stop {
                break; // The end of the file.
            }
        }
        to_usize(pos - at)
    }

    /// Read-modify-write of the edges. Not atomic against another writer of the same blocks:
    /// only the single-threaded code of open and close comes here.
    fn write_bounced(&self, align: u64, buf: &[u8], at: u64) -> io::Result<()> {
        let end = end_of(at, buf.len())?;
        let mut bounce = Self::bounce_buffer(align, at, end)?;
        let mut pos = at;
        while pos < end {
            let window = Self::window(align, pos, end);
            let size = to_usize(window.padded - window.start)?;
            let whole = window.start == pos && window.padded == window.stop;
            let piece = &mut bounce[..size];
            if !whole {
                let got = fill(&self.file, piece, window.start)?;
                piece[got..].fill(0);
            }
            let (skip, done) = (to_usize(pos - window.start)?, to_usize(pos - at)?);
            let count = to_usize(window.stop - pos)?;
            piece[skip..skip + count].copy_from_slice(&buf[done..done + count]);
            let len = self.len()?;
            self.file.write_all_at(piece, window.start)?;
            let wanted = len.max(window.stop);
            if wanted < window.padded {
                self.file.set_len(wanted)?; // Cut the padding behind the end of the file.
            }
            pos = window.stop;
        }
        Ok(())
    }

    fn allocate(&self, flags: FallocateFlags, at: u64, len: u64) -> io::Result<()> {
        let flags = flags | FallocateFlags::KEEP_SIZE;
        Ok(retry_on_intr(|| fallocate(&self.file, flags, at, len))?)
    }
}

/// One step of a bounced transfer: `start..padded` is aligned, `stop` is where the data ends.
struct Window {
    start: u64,
    stop: u64,
    padded: u64,
}

fn end_of(at: u64, len: usize) -> io::Result<u64> {
    at.checked_add(len as u64)
        .filter(|&end| end <= i64::MAX as u64)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EFBIG))
}

fn to_usize(n: u64) -> io::Result<usize> {
    usize::try_from(n).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
}

/// Reads until `buf` is full or the file ends. A direct read that comes back short and not on a
/// block border met the end of the file; the next one would be `EINVAL`.
fn fill(file: &File, buf: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], at + done as u64) {
            Ok(0) => break,
            Ok(got) => done += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if done % 512 != 0 && error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

impl RawFile for RealFile {
    fn id(&self) -> FileId {
        let fd = self.file.as_raw_fd();
        if self.memory { FileId::in_memory(fd) } else { FileId(fd) }
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn caps(&self) -> Caps {
        let (mem_align, offset_align) = self.align();
        let direct = self.caps.direct && offset_align > 1;
        Caps { direct, mem_align, offset_align, ..self.caps }
    }

    fn realign(&self) -> Caps {
        if self.align().1 > 1 {
            match caps::realigned(&self.file) {
                Some((mem, offset)) => {
                    self.align[0].fetch_max(mem, Ordering::AcqRel);
                    self.align[1].fetch_max(offset, Ordering::AcqRel);
                }
                None => {
                    if let Err(error) = self.buffer() {
                        tracing::warn!(path = %self.path.display(), %error, "O_DIRECT stays on");
                    }
                }
            }
        }
        self.caps()
    }

    fn buffer(&self) -> io::Result<()> {
        if self.align().1 > 1 {
            caps::make_buffered(&self.file)?;
            self.align.iter().for_each(|align| align.store(1, Ordering::Release));
            tracing::info!(path = %self.path.display(), "no direct I/O any more");
        }
        Ok(())
    }

    fn writable(&self) -> bool {
        self.writable
    }

    fn ident(&self) -> io::Result<Ident> {
        let meta = self.file.metadata()?;
        Ok(Ident { dev: meta.dev(), ino: meta.ino() })
    }

    fn len(&self) -> io::Result<u64> {
        let meta = self.file.metadata()?;
        // A block device has no length in its inode.
        if meta.is_file() { Ok(meta.len()) } else { (&self.file).seek(SeekFrom::End(0)) }
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }

    fn free_space(&self) -> io::Result<u64> {
        let fs = rustix::fs::fstatvfs(&self.file)?;
        Ok(fs.f_bavail.saturating_mul(fs.f_frsize))
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        end_of(at, buf.len())?;
        if !self.fits(buf.as_ptr(), at, buf.len()) {
            return self.bounced(|align| self.read_bounced(align, buf, at));
        }
        match fill(&self.file, buf, at) {
            Err(error) if self.outgrown(&error) => {
                self.bounced(|align| self.read_bounced(align, buf, at))
            }
            done => done,
        }
    }

    fn next_data(&self, at: u64) -> io::Result<Option<u64>> {
        match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(at)) {
            Ok(next) => Ok(Some(next)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            // Not every file system knows its holes.
            Err(_) => Ok(Some(at)),
        }
    }

    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        end_of(at, buf.len())?;
        if !self.fits(buf.as_ptr(), at, buf.len()) {
            return self.bounced(|align| self.write_bounced(align, buf, at));
        }
        match self.file.write_all_at(buf, at) {
            Err(error) if self.outgrown(&error) => {
                self.bounced(|align| self.write_bounced(align, buf, at))
            }
            done => done,
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn reserve(&self, at: u64, len: u64) -> io::Result<()> {
        self.allocate(FallocateFlags::empty(), at, len)
    }

    fn punch(&self, at: u64, len: u64) -> io::Result<()> {
        self.allocate(FallocateFlags::PUNCH_HOLE, at, len)
    }

    fn sync(&self) -> io::Result<()> {
        // Not through std, which would try again after EINTR: a sync never is (F5).
        Ok(rustix::fs::fsync(&self.file)?)
    }

    fn datasync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.file)?)
    }

    fn try_lock(&self, range: LockRange, exclusive: bool) -> io::Result<bool> {
        let kind = if exclusive { lock::Kind::Exclusive } else { lock::Kind::Shared };
        lock::set(self.file.as_fd(), range, kind)
    }

    fn is_locked(&self, range: LockRange) -> io::Result<bool> {
        lock::test(self.file.as_fd(), range)
    }

    fn unlock(&self, range: LockRange) -> io::Result<()> {
        lock::set(self.file.as_fd(), range, lock::Kind::None).map(drop)
    }

    fn try_flock(&self) -> io::Result<bool> {
        lock::whole(self.file.as_fd())
    }
}
