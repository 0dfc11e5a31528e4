//! Layer operations in the middle of traffic: pause, exchange, go on.

use super::{Sim, Step, no_faults};
use crate::layers::{self, LayerOp, Scene};
use crate::life::{Life, OpenError, Turn};
use crate::recover::{self, Mark};
use crate::scenario::is_page;
use crate::scene;
use crate::traffic::Traffic;
use ploop_engine::Errno;
use ploop_image::Ready;
use ploop_io::OpKind;
use ploop_io::sim::Verdict;
use std::path::PathBuf;

impl Sim<'_> {
    /// A layer operation while requests wait. `false`: the device was lost, as it may be when a
    /// call fails; nothing but a crash ends this life.
    pub(super) fn exchange(&mut self, life: &mut Life, traffic: &mut Traffic) -> Step<bool> {
        let Some(op) = self.pick_live() else { return Ok(true) };
        self.story.say(|| format!("layer operation {} while requests wait", op.name));
        let ready = self.make_ready(life, op);
        let made = ready.is_some();
        let Ok(spares) = life.spares(self.world.operations() + 1) else {
            self.story.say(|| "no space for its descriptors: nothing is done".into());
            self.littered = true;
            return Ok(true);
        };
        if !self.come_to_rest(life, traffic)? {
            spares.discard(&self.world.dir());
            self.world.set_rates(self.profile.rates);
            self.littered |= made;
            return Ok(true);
        }
        let was_failed = life.device().is_failed();
        let stuck = self.profile.stuck > 0 && self.rng.chance(1, self.profile.stuck);
        let (failing, number) = (!stuck && self.fails(4), self.rng.next_u64());
        let calls = *self.rng.pick(&[12, 30, 80]).unwrap_or(&30);
        let which = self.rng.below(calls);
        if failing {
            self.fail_one(which);
        }
        if stuck {
            self.no_new_names();
        }
        self.watch();
        let (world, target) = (self.world.clone(), self.target.clone());
        let done = life.exchange(&target, number, spares.clone(), |options| {
            (op.run)(&Scene::with(&world, options.clone(), ready), number)
        });
        self.world.set_hook(None);
        spares.discard(&self.world.dir());
        self.look_at_watched(op.name, Mark::May, false)?;
        self.world.set_rates(self.profile.rates);
        // A server takes the files of a snapshot that came to nothing away; nobody does here.
        self.littered |= failing || stuck || made && !matches!(done, Ok(Ok(())));
        self.missized = failing || stuck;
        match done {
            Ok(Ok(())) if was_failed => return Err("I10: a failed device went on".into()),
            Ok(Ok(())) => {}
            Ok(Err(error)) if failing || stuck => {
                self.story.say(|| format!("it failed as it was made to: {error}"));
                self.unsettled = true;
            }
            Ok(Err(error)) => {
                let error = OpenError::Image(error);
                return Err(format!("{} while requests wait: {error}", op.name));
            }
            Err(error) if failing || was_failed => {
                self.story.say(|| format!("the device is lost: {error}"));
                return Ok(false);
            }
            Err(error) if stuck => {
                return Err(format!("F20: {} without new names lost the device: {error}", op.name));
            }
            Err(error) => return Err(format!("{} while requests wait: {error}", op.name)),
        }
        let before = std::mem::take(&mut self.lower);
        self.look_at_levels()?;
        let same =
            |(path, hash): (&PathBuf, &u64)| *hash == 0 || self.lower.get(path) == Some(hash);
        if !op.changes_lower && !failing && !stuck && !before.iter().all(same) {
            return Err(format!("I6: {} changed a lower image", op.name));
        }
        Ok(true)
    }

    /// A pause, on a host that may have no space for the block table any more. `false`: it was
    /// called off, and the device goes on.
    fn come_to_rest(&mut self, life: &mut Life, traffic: &mut Traffic) -> Step<bool> {
        let full = self.profile.stuck > 0 && self.rng.chance(1, 2 * self.profile.stuck);
        let closed = self.pause_and_close(life, traffic, full)?;
        no_faults(&self.world);
        self.world.set_hook(None);
        if !closed {
            self.story.say(|| "the pause is called off".into());
        }
        Ok(closed)
    }

    /// Pages of the block table find no space, as where nothing is written in place.
    fn no_space_for_pages(&mut self) {
        self.world.set_hook(Some(Box::new(|attempt| match is_page(attempt) {
            true => Verdict::Fail(Errno::NOSPC.raw_os_error()),
            false => Verdict::Normal,
        })));
    }

    /// Lets the device come to rest and write everything back, on a host that may be `full` once
    /// the queues rest. `false`: that cannot be, and it goes on.
    fn pause_and_close(
        &mut self,
        life: &mut Life,
        traffic: &mut Traffic,
        full: bool,
    ) -> Step<bool> {
        life.pause();
        let (mut closing, mut failed) = (false, false);
        for turns in 0.. {
            let turn = life.turn(&mut self.rng);
            self.settle(life, traffic)?;
            self.space(life, traffic)?;
            if !closing && life.paused() {
                closing = true;
                failed = life.device().is_failed();
                if full {
                    // Another fault may lose a device, and would hide what this one does.
                    no_faults(&self.world);
                    self.no_space_for_pages();
                }
                life.begin_close();
            } else if closing && life.closed() {
                break;
            } else if closing && life.cannot_close() {
                life.go_on();
                return Ok(false);
            } else if turn == Turn::Idle || turns > recover::MANY_TURNS {
                let wishes: Vec<_> = traffic.wishes().take(4).collect();
                return Err(format!("I16: a pause hangs (keeper {closing}), left {wishes:?}"));
            }
        }
        if full && !failed && life.device().is_failed() {
            return Err("F20: a pause without space for the block table lost the device".into());
        }
        Ok(true)
    }

    /// From now on the directory takes no new file: it has no inodes left, or a quota is used up.
    /// Or it is immutable, and no name in it changes at all.
    fn no_new_names(&mut self) {
        let errnos = [Errno::NOSPC, Errno::DQUOT, Errno::PERM];
        let errno = *self.rng.pick(&errnos).unwrap_or(&Errno::PERM);
        self.world.set_hook(Some(Box::new(move |attempt| {
            // Changes of names have no length.
            let name = attempt.blocking && attempt.len == 0;
            let new = name && attempt.kind == OpKind::Reserve;
            let change = name && matches!(attempt.kind, OpKind::Write | OpKind::Punch);
            match new || change && errno == Errno::PERM {
                true => Verdict::Fail(errno.raw_os_error()),
                false => Verdict::Normal,
            }
        })));
    }

    /// An operation that fits the disk now.
    fn pick_live(&mut self) -> Option<&'static LayerOp> {
        let merges = self.profile.merges > 0;
        let raw = scene::raw_base(&self.world.dir(), &self.target).is_some();
        // A raw base and a top: most of the time the one goes into the other.
        let down = merges && raw && self.levels == 2 && !self.rng.chance(1, 8);
        let fits = |op: &&LayerOp| {
            let here = (op.levels.0..=op.levels.1).contains(&self.levels);
            op.live() && here && (op.merges() || !merges) && (op.goes_down() || !down)
        };
        let fitting: Vec<&LayerOp> = layers::OPS.iter().filter(fits).collect();
        self.rng.pick(&fitting).copied()
    }

    /// The files of every second snapshot are made while requests are served.
    fn make_ready(&mut self, life: &Life, op: &LayerOp) -> Option<Ready> {
        if op.name != "snapshot" || self.world.operations().is_multiple_of(2) {
            return None;
        }
        let ready = life.prepare_snapshot(self.world.operations());
        self.littered |= ready.is_none();
        ready
    }
}
