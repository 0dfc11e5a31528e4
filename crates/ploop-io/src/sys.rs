//! One operation as blocking system calls: for worker threads, and for what a ring cannot do.

use std::io;

use crate::{Op, OpKind};

/// A write beyond the limit of this process for a file's length (`RLIMIT_FSIZE`) fails with `EFBIG`
/// and nothing else: by default it ends the process.
pub fn file_limit_is_an_error() {
    // SAFETY: the handler is the system's own; nothing of this process runs in it.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Tries of an operation that keeps ending with `EINTR` or `EAGAIN` before the errno is reported.
pub(crate) const MAX_RETRIES: u16 = 1000;

/// The errno of the last call, as a positive number.
pub(crate) fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Whether a failed operation may simply be tried again. A sync never (F5): whatever it failed
/// with, the kernel may have dropped the dirty state already.
pub(crate) fn may_retry(kind: OpKind, errno: i32) -> bool {
    let sync = matches!(kind, OpKind::Datasync | OpKind::Sync);
    !sync && (errno == libc::EINTR || errno == libc::EAGAIN)
}

/// The `fallocate` mode of an operation.
pub(crate) fn fallocate_mode(kind: OpKind) -> i32 {
    match kind {
        OpKind::Punch => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
        OpKind::ZeroRange => libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
        _ => libc::FALLOC_FL_KEEP_SIZE,
    }
}

/// Longest transfer that a thread makes itself when the file lives in memory: some microseconds.
/// Longer ones are copied by others meanwhile.
const INLINE_BYTES: u64 = 64 << 10;

/// Whether the operation is a short copy, done faster than it is handed over.
pub(crate) fn is_inline(op: &Op) -> bool {
    let transfer = matches!(op.kind, OpKind::Read | OpKind::Write | OpKind::WriteDsync);
    let nothing = matches!(op.kind, OpKind::Datasync | OpKind::Sync);
    op.file.is_memory() && op.lent.is_none() && ((transfer && op.len <= INLINE_BYTES) || nothing)
}

/// Performs the operation; returns what a ring would: bytes or 0, or a negative errno.
///
/// # Safety
/// `op.buf` must be valid for `op.len` bytes (writable for a read) during the call.
pub(crate) unsafe fn perform(op: &Op) -> i32 {
    for attempt in 0..=MAX_RETRIES {
        // SAFETY: the caller's promise about the buffer.
        let ret = unsafe { once(op) };
        if ret >= 0 {
            return i32::try_from(ret).unwrap_or(i32::MAX);
        }
        let errno = last_errno();
        if attempt == MAX_RETRIES || !may_retry(op.kind, errno) {
            return -errno;
        }
        if errno == libc::EAGAIN {
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
    }
    -libc::EAGAIN
}

/// # Safety
/// As [`perform`].
unsafe fn once(op: &Op) -> isize {
    let fd = op.file.fd();
    let (Ok(at), Ok(len)) = (libc::off_t::try_from(op.offset), libc::off_t::try_from(op.len))
    else {
        return einval();
    };
    let Ok(count) = usize::try_from(op.len) else { return einval() };
    match op.kind {
        // SAFETY: the buffer is valid for `len` bytes by the caller's promise; a bad descriptor
        // or offset is an errno.
        OpKind::Read => unsafe { libc::pread(fd, op.buf.cast(), count, at) },
        // SAFETY: as above, the buffer is only read.
        OpKind::Write => unsafe { libc::pwrite(fd, op.buf.cast_const().cast(), count, at) },
        OpKind::WriteDsync => {
            let iov = libc::iovec { iov_base: op.buf.cast(), iov_len: count };
            // SAFETY: one iovec that lives through the call, over the caller's buffer.
            unsafe { libc::pwritev2(fd, &raw const iov, 1, at, libc::RWF_DSYNC) }
        }
        // SAFETY: no memory is involved.
        OpKind::Datasync => unsafe { libc::fdatasync(fd) as isize },
        // SAFETY: no memory is involved.
        OpKind::Sync => unsafe { libc::fsync(fd) as isize },
        OpKind::Punch | OpKind::ZeroRange | OpKind::Reserve => {
            // SAFETY: no memory is involved.
            unsafe { libc::fallocate(fd, fallocate_mode(op.kind), at, len) as isize }
        }
        // SAFETY: no memory is involved.
        OpKind::Truncate => unsafe { libc::ftruncate(fd, at) as isize },
    }
}

fn einval() -> isize {
    // SAFETY: errno is this thread's own word.
    unsafe { *libc::__errno_location() = libc::EINVAL };
    -1
}
