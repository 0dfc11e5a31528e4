//! Standard output: what cannot be written there is an error of the verb, told at its end.

use ploop_daemon::{Code, Failure};
use std::io::{self, ErrorKind, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// The first error.
static LOST: Mutex<Option<io::Error>> = Mutex::new(None);

/// Standard output was closed when the program began. The runtime puts `/dev/null` there before
/// `main`, so `main` cannot know.
static CLOSED: AtomicBool = AtomicBool::new(false);

extern "C" fn look() {
    // SAFETY: asks for the flags of a descriptor number, whatever it is.
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    CLOSED.store(flags < 0, Ordering::Relaxed);
}

// SAFETY: the loader calls what stands in this section before `main`, as C does for constructors;
// `look` makes one system call and sets a word.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

/// Writes to standard output; whether somebody may have read it. A reader that went away
/// (`| head`) is no error.
pub fn put(text: &str) -> bool {
    if text.is_empty() {
        return true;
    }
    let mut out = io::stdout().lock();
    let done = if CLOSED.load(Ordering::Relaxed) {
        Err(io::Error::from_raw_os_error(libc::EBADF))
    } else {
        out.write_all(text.as_bytes()).and_then(|()| out.flush())
    };
    match done {
        Ok(()) => true,
        Err(error) => {
            if error.kind() != ErrorKind::BrokenPipe
                && let Ok(mut lost) = LOST.lock()
            {
                lost.get_or_insert(error);
            }
            false
        }
    }
}

/// The verb did its work, but not all it said could be written (exit code 1).
pub fn lost() -> Option<Failure> {
    let error = LOST.lock().ok()?.take()?;
    let message = format!("standard output cannot be written: {error}");
    Some(Failure::new(Code::Create, message).kind("output").hint("the work itself was done"))
}
