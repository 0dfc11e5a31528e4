//! `ploop snapshot-list`: the images of a disk and what lies on what.

use crate::show::{self, Output, json};
use crate::{args, plan};
use ploop_daemon::{Code, Failure, Result};
use ploop_format::Guid;
use ploop_image::SnapshotEntry;
use ploop_io::RealDir;
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
struct Shown {
    snapshots: Vec<SnapshotEntry>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Field {
    Uuid,
    ParentUuid,
    Current,
    Fname,
}

/// Exit code 1 on its own errors, as the original.
pub fn run(args: &args::SnapshotList, output: Output) -> Result<()> {
    let fields = fields(args.output.as_deref())?;
    let of = args.uuid.as_deref().map(plan::guid).transpose()?;
    let rows = rows(&args.disk, of, args.snapshots)
        .map_err(|failure| Failure { code: Code::Create, ..failure })?;
    if output.json {
        json::print(&Shown { snapshots: rows });
        return Ok(());
    }
    if !args.no_header {
        show::line(line(&fields, |field| field.title().to_owned()));
    }
    for row in &rows {
        show::line(line(&fields, |field| field.of(row)));
    }
    Ok(())
}

/// With `-s` the top is left out, and its parent is the current one.
fn rows(disk: &Path, of: Option<Guid>, snapshots: bool) -> Result<Vec<SnapshotEntry>> {
    let mut rows = ploop_image::snapshots(&RealDir, disk, of)?;
    if snapshots {
        let parent = rows.iter().find(|row| row.current).map(|row| row.parent_uuid.clone());
        rows.retain(|row| !row.current);
        for row in &mut rows {
            row.current = parent.as_ref() == Some(&row.uuid);
        }
    }
    Ok(rows)
}

impl Field {
    const fn title(self) -> &'static str {
        match self {
            Self::Uuid => "UUID",
            Self::ParentUuid => "PARENT_UUID",
            Self::Current => "C",
            Self::Fname => "FNAME",
        }
    }

    const fn width(self) -> usize {
        match self {
            Self::Uuid | Self::ParentUuid => 38,
            Self::Current => 1,
            Self::Fname => 32,
        }
    }

    fn of(self, row: &SnapshotEntry) -> String {
        match self {
            Self::Uuid => row.uuid.clone(),
            Self::ParentUuid => row.parent_uuid.clone(),
            Self::Current => if row.current { "*" } else { " " }.to_owned(),
            Self::Fname => row.fname.display().to_string(),
        }
    }
}

fn fields(text: Option<&str>) -> Result<Vec<Field>> {
    let Some(text) = text else {
        return Ok(vec![Field::ParentUuid, Field::Current, Field::Uuid, Field::Fname]);
    };
    let field = |name: &str| match name {
        "uuid" => Ok(Field::Uuid),
        "parent_uuid" => Ok(Field::ParentUuid),
        "current" => Ok(Field::Current),
        "fname" => Ok(Field::Fname),
        other => Err(Failure::parameter(format!("unknown field `{other}`"))
            .hint("parent_uuid, current, uuid, fname")),
    };
    text.split(',').map(field).collect()
}

/// Columns separated by a blank, the last one not padded.
fn line(fields: &[Field], text: impl Fn(Field) -> String) -> String {
    let mut out = String::new();
    for (n, &field) in fields.iter().enumerate() {
        let text = text(field);
        if n + 1 == fields.len() {
            out.push_str(&text);
        } else {
            out.push_str(&format!("{text:<width$} ", width = field.width()));
        }
    }
    out
}
