//! After a crash or a kill: check, open, read everything, compare with the model.

use crate::life::{Life, OpenError, Opening, Turn, open_options};
use crate::model::{Model, Wrong};
use crate::scene;
use crate::stamp::Value;
use crate::traffic::{Traffic, Wish};
use ploop_engine::Operation;
use ploop_format::Header;
use ploop_image::check::FindingKind;
use ploop_image::{CheckOptions, CheckReport, ErrorKind, check};
use ploop_io::sim::{Rng, SimWorld, SurvivorPlan};
use std::path::Path;

/// Turns after which something that should end has not.
pub const MANY_TURNS: u64 = 400_000;

/// What a recovery needs to know about its disk.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The descriptor.
    pub target: &'a Path,
    /// How it is opened.
    pub opening: Opening,
    /// Clusters to compare.
    pub scope: &'a [u64],
    /// Sectors of a cluster.
    pub cluster: u64,
}

/// A check that says what it found.
///
/// # Errors
/// The check itself failed.
pub fn look(world: &SimWorld, target: &Path) -> Result<CheckReport, String> {
    let options = CheckOptions { force: true, duplicates: true, ..CheckOptions::default() };
    let mut report = check(&world.dir(), target, &options, &open_options(false))
        .map_err(|e| format!("check failed: {}", OpenError::Image(e)))?;
    // What another disk's base is like is not this disk's doing.
    report.images.retain(|image| Path::new(&image.image) != Path::new(scene::OTHER));
    Ok(report)
}

/// What the in-use mark may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// Set or not.
    May,
    /// Set: the device is open and may have changed (I12).
    Must,
}

/// I13: nothing but the in-use mark and unreferenced clusters.
///
/// # Errors
/// Something else was found.
pub fn only_the_mark(world: &SimWorld, target: &Path) -> Result<(), String> {
    marked(world, target, Mark::May)
}

/// As [`only_the_mark`], and the mark is as it must be.
///
/// # Errors
/// Something else was found, or the mark is not there.
pub fn marked(world: &SimWorld, target: &Path, mark: Mark) -> Result<(), String> {
    let report = look(world, target)?;
    let of_images = report.images.iter().flat_map(|image| &image.findings);
    // F20: a grow may end between the header and the size in the descriptor.
    let may = [FindingKind::InUse, FindingKind::Orphan, FindingKind::Descriptor];
    let bad = of_images.chain(&report.findings).find(|f| f.fatal || !may.contains(&f.kind));
    match bad {
        Some(finding) => Err(format!("I13: check found {:?}: {}", finding.kind, finding.detail)),
        None => {
            no_tail(world, &report)?;
            // Of each piece; its images stand together, the base first.
            let levels = report.images.len() / scene::pieces(world)?;
            let mut tops = report.images.chunks(levels.max(1)).filter_map(<[_]>::last);
            let set = tops.all(|image| {
                image.version == 0 || image.findings.iter().any(|f| f.kind == FindingKind::InUse)
            });
            match mark == Mark::May || set {
                true => Ok(()),
                false => Err("I12: an open top is not marked as in use".into()),
            }
        }
    }
}

/// I13: nothing at all after a clean close; leaks are counted, not found.
///
/// # Errors
/// Something was found.
pub fn nothing(world: &SimWorld, target: &Path) -> Result<(), String> {
    nothing_but(world, target, Left::default())
}

/// T19, I7, I12: an image without the mark ends where its last cluster ends. A mark that went too
/// early leaves a tail for ever, and so does one that comes too late.
fn no_tail(world: &SimWorld, report: &CheckReport) -> Result<(), String> {
    for image in report.images.iter().filter(|image| image.version != 0 && !image.in_use) {
        let bytes = world.read_file(Path::new(&image.image)).map_err(|e| e.to_string())?;
        let header = Header::parse(&bytes).map_err(|e| e.to_string())?;
        let size = image.cluster_bytes;
        let unit = if image.version == 1 { 512 } else { size };
        let table = bytes.get(64..64 + image.clusters as usize * 4).unwrap_or_default();
        let last = table
            .chunks_exact(4)
            .map(|word| u64::from(u32::from_le_bytes([word[0], word[1], word[2], word[3]])))
            .max()
            .unwrap_or(0);
        let end = if last == 0 { 0 } else { last * unit + size }.max(header.data_start());
        let len = bytes.len() as u64;
        if len != end {
            let name = &image.image;
            let text = format!("{name} is not in use and ends at {len}, its last cluster at {end}");
            return Err(format!("I7: {text}"));
        }
    }
    Ok(())
}

/// What an operation that a failure or a crash has ended may have left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Left {
    /// Files beside the disk: they stay.
    pub files: bool,
    /// A grow whose descriptor could not be renamed leaves the larger image; the next open of a
    /// directory that takes names puts its size into the descriptor (F20).
    pub size: bool,
}

/// As [`nothing`], but for what may be left.
///
/// # Errors
/// Something else was found.
pub fn nothing_but(world: &SimWorld, target: &Path, left: Left) -> Result<(), String> {
    let report = look(world, target)?;
    let all = report.images.iter().flat_map(|image| &image.findings).chain(&report.findings);
    let may = |kind| match kind {
        FindingKind::Orphan => left.files,
        FindingKind::Descriptor => left.size,
        _ => false,
    };
    let (mut found, mut left) = (None, false);
    for finding in all {
        match may(finding.kind) && !finding.fatal {
            true => left = true,
            false => found = found.or(Some(finding)),
        }
    }
    match (found, report.exit_code()) {
        (None, 0) => Ok(()),
        (None, _) if left => Ok(()),
        (Some(f), _) => {
            Err(format!("I13: after a clean close check found {:?}: {}", f.kind, f.detail))
        }
        (None, code) => Err(format!("I13: after a clean close check gives {code}")),
    }
}

/// Turns a device until nothing is in flight.
///
/// # Errors
/// It never ends, or a read saw what it must not see.
pub fn drain(
    life: &mut Life,
    traffic: &mut Traffic,
    model: &mut Model,
    rng: &mut Rng,
) -> Result<(), String> {
    for _ in 0..MANY_TURNS {
        if traffic.is_empty() {
            return Ok(());
        }
        let turn = life.turn(rng);
        for lane in 0..life.queues() {
            traffic.settle(life, lane, model)?;
        }
        match turn {
            Turn::Idle if !traffic.is_empty() => break,
            Turn::Dead => return Err("the process died while it was drained".into()),
            _ => {}
        }
    }
    let wishes: Vec<_> = traffic.wishes().take(4).collect();
    Err(format!("I16: {} requests never end, among them {wishes:?}", traffic.len()))
}

/// Reads all clusters of the scope through the device. Every read must succeed.
///
/// # Errors
/// A read failed, hung, or saw what it must not see.
pub fn read_all(
    life: &mut Life,
    subject: &Subject<'_>,
    model: &mut Model,
    rng: &mut Rng,
) -> Result<Vec<(u64, Value)>, String> {
    let mut traffic = Traffic::default();
    traffic.keep_seen = true;
    for cluster in subject.scope {
        let lane = rng.below(life.queues() as u64) as usize;
        let wish = Wish::plain(Operation::Read, cluster * subject.cluster, subject.cluster);
        traffic.give(life, lane, wish, 0);
    }
    drain(life, &mut traffic, model, rng)?;
    if traffic.failed > 0 {
        return Err(format!("{} reads failed after an open without faults", traffic.failed));
    }
    Ok(std::mem::take(&mut traffic.seen))
}

/// A disk that was opened again.
pub struct Again {
    /// The host.
    pub world: SimWorld,
    /// The device.
    pub life: Life,
    /// The host crashed on the way.
    pub crashed: bool,
}

/// Opens the disk of a host that came back, letting it crash again on the way now and then.
/// Returns the world it ended in: another one when it did crash.
///
/// # Errors
/// It does not open.
pub fn open_again(
    mut world: SimWorld,
    subject: &Subject<'_>,
    rng: &mut Rng,
) -> Result<Again, String> {
    let mut crashed = false;
    let mut crashes = if rng.chance(1, 6) { rng.between(1, 2) } else { 0 };
    loop {
        if crashes > 0 {
            world.crash_after(Some(world.operations() + rng.between(1, 12)));
        }
        let opened = Life::open(&world, subject.target, subject.opening);
        if crashes > 0 && world.is_dead() {
            crashes -= 1;
            crashed = true;
            drop(opened);
            let plan = SurvivorPlan::Random(rng.next_u64());
            world = world.crash(&plan).world;
            only_the_mark(&world, subject.target)?;
            continue;
        }
        world.crash_after(None);
        return match opened {
            Ok(life) => Ok(Again { world, life, crashed }),
            Err(error) => Err(format!("does not open: {error}")),
        };
    }
}

/// After a host crash: check, open, read all, compare. `world` is the one that came back.
///
/// # Errors
/// A rule is broken.
pub fn after_crash(
    world: SimWorld,
    subject: &Subject<'_>,
    model: &Model,
    mark: Mark,
    rng: &mut Rng,
) -> Result<(), String> {
    marked(&world, subject.target, mark)?;
    let Again { world, mut life, .. } = open_again(world, subject, rng)?;
    // The engine's reads know nothing of the history: an empty model takes any value.
    let found = read_raw(&mut life, subject, rng)?;
    compare(model, &found)?;
    if rng.chance(1, 8) {
        close(life, rng)?;
        nothing_but(&world, subject.target, Left { files: true, size: false })?;
    }
    no_misuse(&world)
}

/// Reads all clusters of the scope, whatever they hold.
///
/// # Errors
/// A read failed or hung, or a sector holds what no write ever put there.
pub fn read_raw(
    life: &mut Life,
    subject: &Subject<'_>,
    rng: &mut Rng,
) -> Result<Vec<(u64, Value)>, String> {
    read_all(life, subject, &mut Model::anything(), rng)
}

/// What was found against what a crash may leave.
///
/// # Errors
/// A sector holds something else.
pub fn compare(model: &Model, found: &[(u64, Value)]) -> Result<(), String> {
    for (sector, value) in found {
        model.came_back(*sector, *value).map_err(|Wrong { sector, found, allowed }| {
            format!("after the crash sector {sector} holds {found}, allowed {allowed:?}")
        })?;
    }
    Ok(())
}

/// Stops and closes a device without faults.
///
/// # Errors
/// It does not end, or not cleanly.
pub fn close(mut life: Life, rng: &mut Rng) -> Result<(), String> {
    life.stop();
    turn_until(&mut life, rng, Life::stopped, "the queues never finish")?;
    life.begin_close();
    turn_until(&mut life, rng, Life::closed, "the keeper never closes")?;
    let (report, closed) = life.close();
    match closed {
        Ok(()) => Ok(()),
        Err(error) => Err(format!("close: {} ({report:?})", OpenError::Image(error))),
    }
}

fn turn_until(
    life: &mut Life,
    rng: &mut Rng,
    done: fn(&Life) -> bool,
    what: &str,
) -> Result<(), String> {
    for _ in 0..MANY_TURNS {
        if done(life) {
            return Ok(());
        }
        if matches!(life.turn(rng), Turn::Idle | Turn::Dead) && !done(life) {
            break;
        }
    }
    Err(format!("I16: {what}"))
}

/// The engine broke no rule of the rings and files.
///
/// # Errors
/// It did.
pub fn no_misuse(world: &SimWorld) -> Result<(), String> {
    match world.violations().first() {
        None => Ok(()),
        Some(line) => Err(format!("misuse of the disk: {line}")),
    }
}

/// Whether an open failed because somebody holds a lock.
#[must_use]
pub fn in_use(error: &OpenError) -> bool {
    matches!(error, OpenError::Image(error) if error.kind() == ErrorKind::InUse)
}
