//! A request's memory that stays with a driver: the ring reaches it by its place in the table, and
//! the processor through the driver's file, which copies.

use std::io;

/// The memory of one request at a driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lent {
    /// Place in the ring's table ([`crate::Io::lend`]).
    pub place: u16,
    /// The driver's file.
    pub fd: i32,
    /// Where the memory begins in that file.
    pub at: u64,
}

impl Lent {
    /// Copies from byte `from` on; never waits.
    ///
    /// # Errors
    /// The driver refuses: the request is gone, or is not a write.
    pub fn read(&self, from: u64, into: &mut [u8]) -> io::Result<()> {
        self.copy(from, into.len(), |fd, done, at| {
            let rest = &mut into[done..];
            // SAFETY: the call writes at most `rest.len()` bytes to `rest`.
            unsafe { libc::pread(fd, rest.as_mut_ptr().cast(), rest.len(), at) }
        })
    }

    /// Copies to byte `from` on; never waits.
    ///
    /// # Errors
    /// The driver refuses: the request is gone, or is not a read.
    pub fn write(&self, from: u64, bytes: &[u8]) -> io::Result<()> {
        self.copy(from, bytes.len(), |fd, done, at| {
            let rest = &bytes[done..];
            // SAFETY: the call reads at most `rest.len()` bytes of `rest`.
            unsafe { libc::pwrite(fd, rest.as_ptr().cast(), rest.len(), at) }
        })
    }

    fn copy(
        &self,
        from: u64,
        len: usize,
        mut step: impl FnMut(i32, usize, libc::off_t) -> isize,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let at = libc::off_t::try_from(self.at + from + done as u64)
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            match step(self.fd, done, at) {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n if n > 0 => done += n.unsigned_abs(),
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn copies_go_where_they_should_and_never_short() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(100).unwrap();
        let lent = Lent { place: 0, fd: file.as_raw_fd(), at: 50 };
        lent.write(10, b"there").unwrap();
        let mut read = [0; 7];
        lent.read(9, &mut read).unwrap();
        assert_eq!(&read, b"\0there\0");
        let mut beyond = [0; 60];
        assert_eq!(lent.read(0, &mut beyond).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
