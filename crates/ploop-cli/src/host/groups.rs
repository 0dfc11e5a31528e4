//! Groups of users, by name.

use ploop_daemon::{Code, Failure, Result};
use std::ffi::CString;
use std::ptr;

/// More than any entry takes.
const LONGEST: usize = 1 << 20;

/// The number of a group: by its name, else it is one already.
///
/// # Errors
/// There is no such group.
pub fn number(group: &str) -> Result<u32> {
    let unknown = || Failure::parameter(format!("there is no group `{group}`"));
    let name = CString::new(group).map_err(|_| unknown())?;
    let mut space: Vec<libc::c_char> = vec![0; 4096];
    loop {
        let mut entry = std::mem::MaybeUninit::<libc::group>::uninit();
        let mut found = ptr::null_mut();
        // SAFETY: the name ends with a zero; entry and space are ours, the latter as long as said;
        // `found` is set to the entry or to nothing.
        let error = unsafe {
            libc::getgrnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                space.as_mut_ptr(),
                space.len(),
                &raw mut found,
            )
        };
        match error {
            libc::ERANGE if space.len() < LONGEST => space.resize(space.len() * 4, 0),
            0 if !found.is_null() => {
                // SAFETY: it points to `entry`, which was filled.
                return Ok(unsafe { (*found).gr_gid });
            }
            0 | libc::ENOENT | libc::ESRCH => return group.parse().map_err(|_| unknown()),
            _ => {
                let error = std::io::Error::from_raw_os_error(error);
                return Err(Failure::io(Code::System, format!("group `{group}`"), &error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn by_name_or_number() {
        assert_eq!(number("root").unwrap(), 0);
        assert_eq!(number("4711").unwrap(), 4711);
        assert!(number("no such group").unwrap_err().message.contains("`no such group`"));
        assert!(number("a\0b").is_err());
    }
}
