//! Opening and locking every file of a disk, before a byte of them is read.

use super::plan::{Claim, Plan, Reach};
use super::{Note, OpenOptions};
use crate::error::{ErrorKind, ImageError, IoContext, Result};
use crate::head::{Head, Start};
use crate::held::Held;
use crate::lock::{self, LckFile, Mode};
use ploop_io::{Dir, File, Ident, OpenHow};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An open and locked file of the chain.
#[derive(Debug)]
pub(crate) struct Opened {
    pub path: PathBuf,
    pub claim: Claim,
    pub file: File,
    pub ident: Ident,
    /// How it begins, once it was looked at.
    pub start: Option<Start>,
}

/// A disk whose files are open and locked.
#[derive(Debug)]
pub(crate) struct Locked {
    pub plan: Plan,
    /// Base first.
    pub files: Vec<Opened>,
    pub writable: bool,
    /// Keeps the `.lck` file.
    pub lck: Option<File>,
    pub notes: Vec<Note>,
}

impl Opened {
    /// Its header, read once; the file is locked.
    pub fn head(&mut self, held: &Held) -> Result<Option<Head>> {
        if self.start.is_none() {
            self.start = held.start(&self.path);
        }
        if let Some(Start(head)) = &self.start {
            return Ok(head.clone());
        }
        let start = Start(match self.claim {
            Claim::Raw => None,
            Claim::Ploop => Some(Head::read(&*self.file, &self.path)?),
            Claim::Either => Head::read_if_ploop(&*self.file, &self.path)?,
        });
        held.learn(&self.path, &start);
        self.start = Some(start.clone());
        Ok(start.0)
    }
}

enum Attempt {
    Done(Box<Locked>),
    Busy(ImageError),
}

/// Opens and locks all files; tries again for a while when somebody has one of them (F7).
pub(crate) fn lock_all(
    dir: &dyn Dir,
    target: &Path,
    options: &OpenOptions,
    reach: Option<&Reach>,
) -> Result<Locked> {
    let mut spent = Duration::ZERO;
    loop {
        match attempt(dir, target, options, reach)? {
            Attempt::Done(locked) => return Ok(*locked),
            Attempt::Busy(error) => {
                let stays = || stays(dir, target, options, reach);
                if spent.is_zero() && stays() || !options.wait.again(&mut spent) {
                    return Err(error);
                }
            }
        }
    }
}

/// Whether a server that goes on has one of the files. A killed one does not, and what it left
/// under way ends soon (F7).
fn stays(dir: &dyn Dir, target: &Path, options: &OpenOptions, reach: Option<&Reach>) -> bool {
    let Some(stays) = options.stays else { return false };
    let plan = Plan::make(dir, target, options, reach);
    let idents = plan.into_iter().flat_map(|plan| plan.members);
    idents.filter_map(|member| dir.stat(&member.path).ok()).any(|stat| stays(stat.ident))
}

fn attempt(
    dir: &dyn Dir,
    target: &Path,
    options: &OpenOptions,
    reach: Option<&Reach>,
) -> Result<Attempt> {
    let mut plan = Plan::make(dir, target, options, reach)?;
    if !options.structure_only {
        plan.check_plain()?;
    }
    for member in &mut plan.members {
        member.write |= options.also_write.contains(&member.guid);
    }
    let mut notes = first_notes(&plan, options);
    // T5: nobody said what else belongs to a lone image, so it is only read.
    let whole = reach.is_some() || (plan.document.is_some() && plan.frozen.is_none());
    let writable = !options.read_only && whole;
    plan.keep_to_own(writable, reach, options)?;
    let mut lck = None;
    let mut beside = false;
    // An operation that only reads a part of the tree has the file already.
    let look = !(options.read_only && reach.is_some());
    if let Some(file) = &options.held.lck {
        lck = writable.then(|| file.clone());
    } else if let Some(document) = plan.document.as_ref().filter(|_| look) {
        match lock::try_lck(dir, &document.path, writable)? {
            LckFile::Held(file) => lck = writable.then_some(file),
            LckFile::Absent if writable => notes.push(Note::NoLockFile(document.path.clone())),
            LckFile::Absent => {}
            // A snapshot beside the disk in use: its server keeps the locks of the images too.
            LckFile::Busy if plan.frozen.is_some() => beside = true,
            LckFile::Busy => {
                return Ok(Attempt::Busy(lck_busy(&document.path, &plan, dir, options)));
            }
        }
    }
    let files = open_files(dir, &plan, writable, options)?;
    if beside
        && !lock::is_used(&*files[0].file).at(
            ErrorKind::System,
            "cannot look at the locks of",
            &files[0].path,
        )?
    {
        // A tool that knows the lock file only.
        let path = plan.document.as_ref().map_or(plan.top(), |document| &document.path);
        return Ok(Attempt::Busy(lck_busy(path, &plan, dir, options)));
    }
    for (level, opened) in files.iter().enumerate() {
        let write = writable && plan.members[level].write;
        let mode = if write { Mode::Exclusive } else { Mode::Shared };
        let got = options.held.try_level(&opened.path, &opened.file, mode, level == 0);
        if !got.at(ErrorKind::System, "cannot lock", &opened.path)? {
            let who = options.who.as_deref();
            return Ok(Attempt::Busy(lock::refused(&opened.path, Some(opened.ident), who)));
        }
    }
    // Whoever had the locks before us may have taken a snapshot.
    if plan.document.as_ref().is_some_and(|document| !document.unchanged(dir)) {
        let text = format!("the descriptor of {} keeps changing", plan.top().display());
        return Ok(Attempt::Busy(ImageError::new(ErrorKind::InUse, text)));
    }
    // Of a disk of which only a lower image is written the top is read.
    let writable = writable && plan.members.last().is_some_and(|top| top.write);
    Ok(Attempt::Done(Box::new(Locked { plan, files, writable, lck, notes })))
}

/// What there is to say of the choice of files.
fn first_notes(plan: &Plan, options: &OpenOptions) -> Vec<Note> {
    let mut notes = Vec::new();
    for (named, used) in plan.document.iter().flat_map(|document| &document.moved) {
        notes.push(Note::Moved { named: named.into(), used: used.clone() });
    }
    if let Some(image) = &plan.frozen {
        notes.push(Note::Frozen(image.clone()));
    }
    if plan.document.is_none() && !options.read_only {
        notes.push(Note::LoneImage(plan.top().to_owned()));
    }
    notes
}

/// Locks one file against writers, for a look at it (`check` of a file).
pub(crate) fn share(file: &File, path: &Path, options: &OpenOptions) -> Result<()> {
    let mut spent = Duration::ZERO;
    loop {
        let got = lock::try_level(&**file, Mode::Shared, true);
        if got.at(ErrorKind::System, "cannot lock", path)? {
            return Ok(());
        }
        if !options.wait.again(&mut spent) {
            return Err(lock::refused(path, file.ident().ok(), options.who.as_deref()));
        }
    }
}

/// The `.lck` file is taken: by a server of ours when the registry knows the top, which no other
/// disk has, else by a tool.
fn lck_busy(descriptor: &Path, plan: &Plan, dir: &dyn Dir, options: &OpenOptions) -> ImageError {
    let ident = plan.disk_top().and_then(|top| dir.stat(&top).ok()).map(|stat| stat.ident);
    let holder = options.who.as_deref().zip(ident).and_then(|(who, ident)| who(ident));
    match holder {
        Some(holder) => ImageError::new(
            ErrorKind::InUse,
            format!("{} is in use by {holder}", descriptor.display()),
        ),
        None => ImageError::new(
            ErrorKind::InUse,
            format!("{} is locked by another process", lock::lck_path(descriptor).display()),
        )
        .hint("a server or an operation on this disk is running"),
    }
}

fn open_files(
    dir: &dyn Dir,
    plan: &Plan,
    writable: bool,
    options: &OpenOptions,
) -> Result<Vec<Opened>> {
    let mut files: Vec<Opened> = Vec::with_capacity(plan.members.len());
    for member in &plan.members {
        let path = &member.path;
        // A FIFO would block the open, a device has other rules.
        if !dir.stat(path).at(ErrorKind::Open, "cannot find", path)?.is_file {
            let text = format!("{} is not a regular file", path.display());
            return Err(ImageError::new(ErrorKind::Open, text));
        }
        let write = writable && member.write;
        let how = OpenHow { write, direct: options.direct, ..OpenHow::default() };
        let opened = match options.held.file(path, write) {
            Some(file) => Ok(file),
            None => dir.open(path, how),
        };
        let read_only = |e: &std::io::Error| e.kind() == std::io::ErrorKind::ReadOnlyFilesystem;
        let hint = opened.as_ref().is_err_and(read_only);
        let file = opened.at(ErrorKind::Open, "cannot open", path).map_err(|error| match hint {
            true => error.hint("open it with --ro"),
            false => error,
        })?;
        let ident = file.ident().at(ErrorKind::Stat, "cannot stat", path)?;
        if let Some(same) = files.iter().find(|f| f.ident == ident) {
            let text = format!("{} and {} are one file", same.path.display(), path.display());
            return Err(ImageError::new(ErrorKind::Descriptor, text));
        }
        files.push(Opened { path: path.clone(), claim: member.claim, file, ident, start: None });
    }
    Ok(files)
}
