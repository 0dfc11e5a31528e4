//! A new disk that is not finished leaves nothing: neither after an error nor after Ctrl-C.

use crate::host::server;
use crate::show::{self, Output};
use ploop_daemon::failure::OrFail;
use ploop_daemon::runtime::signals::on_stop_signal;
use ploop_daemon::{Code, Failure, Result};
use ploop_image::locate::DESCRIPTOR;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Files that are being made. Where one of them was there before, none is made, and none removed.
#[derive(Clone)]
pub struct Undo(Arc<Mutex<State>>);

struct State {
    image: PathBuf,
    descriptor: PathBuf,
    /// They are ours, and not finished.
    ours: bool,
    /// A signal ends the process.
    ending: bool,
}

impl Undo {
    /// Of an image that is to be made, and the descriptor beside it.
    pub fn of(image: &Path) -> Self {
        let descriptor = image.with_file_name(DESCRIPTOR);
        let there = [image, &descriptor].iter().any(|file| fs::symlink_metadata(file).is_ok());
        let image = image.to_owned();
        Self(Arc::new(Mutex::new(State { image, descriptor, ours: !there, ending: false })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk is finished.
    pub fn done(&self) {
        let mut state = self.state();
        state.ours = false;
        let ending = state.ending;
        drop(state);
        if ending {
            // It was taken back a moment ago; the other thread ends the process.
            loop {
                std::thread::park();
            }
        }
    }

    /// Removes what was made.
    pub fn take_back(&self) {
        self.state().take_back();
    }

    /// A signal ends the command, and what was made goes with it.
    ///
    /// # Errors
    /// Signals cannot be watched for.
    pub fn on_signals(&self, output: Output) -> Result<()> {
        let undo = self.clone();
        let end = move |_| {
            let mut state = undo.state();
            if !state.ours {
                return;
            }
            state.ending = true;
            state.take_back();
            let text = "interrupted: what was made is removed again";
            let failure = Failure::new(Code::Internal, text).kind("cancelled");
            let code = show::failure(&failure, output);
            // The other thread may have made a last file meanwhile.
            state.remove();
            std::process::exit(code.into());
        };
        on_stop_signal(end).or_fail(Code::System, "cannot watch for signals")
    }
}

impl State {
    fn take_back(&mut self) {
        if !std::mem::take(&mut self.ours) {
            return;
        }
        // The server that the file system is made through, if it runs.
        if let Ok(Some(entry)) = server::of_disk(&self.descriptor) {
            let _ = server::stop(&entry, true);
        }
        self.remove();
    }

    fn remove(&self) {
        let lock = self.descriptor.with_extension("xml.lck");
        let made = [self.image.clone(), self.descriptor.clone(), lock];
        for file in made.into_iter().chain(staged(&self.descriptor)) {
            let _ = fs::remove_file(file);
        }
    }
}

/// Descriptors that were being written.
fn staged(descriptor: &Path) -> Vec<PathBuf> {
    let prefix = format!("{DESCRIPTOR}.tmp.");
    let Some(names) = descriptor.parent().map(|home| match home.as_os_str().is_empty() {
        true => fs::read_dir("."),
        false => fs::read_dir(home),
    }) else {
        return Vec::new();
    };
    let entries = names.into_iter().flatten().flatten();
    let ours = |entry: &fs::DirEntry| {
        entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix))
    };
    entries.filter(ours).map(|entry| entry.path()).collect()
}
