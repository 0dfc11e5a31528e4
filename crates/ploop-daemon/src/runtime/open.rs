//! The disk, opened as the server wants it.

use super::holder::{holder, stays};
use super::spec::ServeSpec;
use crate::registry::Registry;
use crate::{Code, Failure, Result};
use ploop_image::{Disk, ErrorKind, ImageError, OpenOptions};
use ploop_io::{RealDir, RealRecords, Records};
use std::sync::Arc;

/// How the spec wants its disk opened.
#[must_use]
pub fn options(spec: &ServeSpec) -> OpenOptions {
    let mut options = OpenOptions {
        read_only: spec.read_only,
        drop_cbt: spec.drop_cbt,
        who: Some(Arc::new(holder)),
        stays: Some(stays),
        records: records(spec),
        ..OpenOptions::default()
    };
    options.change_shared = spec.change_shared;
    options.snapshot = spec.snapshot;
    if spec.allow_outside || spec.change_shared {
        options.gate = Arc::new(ploop_image::AnyFile);
    }
    options
}

/// Beside the registry; none in a directory that others can reach.
fn records(spec: &ServeSpec) -> Option<Arc<dyn Records>> {
    let registry = Registry::of_user();
    if !spec.read_only {
        // What cannot be made is told by whoever needs it.
        let _ = registry.prepare();
    }
    registry.is_there().is_ok().then(|| Arc::new(RealRecords::at(registry.dir())) as _)
}

/// Opens the disk; what it has to say goes to the log.
///
/// # Errors
/// With the exit code of the image's error.
pub fn open(spec: &ServeSpec) -> Result<Disk> {
    let disk = Disk::open(Arc::new(RealDir), &spec.disk, &options(spec))?;
    for note in disk.notes() {
        tracing::warn!("{note}");
    }
    Ok(disk)
}

/// How to change a file that is not the disk's alone.
const CHANGE_SHARED: &str = "--change-shared lets it be changed, for everybody who has it";

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        let code = Code::from_number(u64::from(error.exit_code())).unwrap_or(Code::Internal);
        let hint = error.hint_text().map(str::to_owned);
        let failure = Self::new(code, error.to_string()).kind(error.kind().name());
        // The gate has no words about our option.
        let outside = "--allow-outside lets the descriptor name it, if that is what you want";
        match hint {
            Some(hint) => failure.hint(hint),
            None if error.kind() == ErrorKind::Gate => failure.hint(outside),
            None if error.kind() == ErrorKind::Shared => failure.hint(CHANGE_SHARED),
            None => failure,
        }
    }
}
