//! The flat model: for each sector the values it may hold, now and after a crash.
//!
//! Every request gets two moments: when the engine received it and when it answered. A change is
//! *certain* when it was acknowledged and must have happened (a write, a zeroing), else it is only
//! possible: a failed write, a discard, a request still in flight. A certain change rules out
//! everything that had ended before it began. The same rule with durable changes says what a crash
//! may leave (I3, I4, I5).

use crate::stamp::Value;
use std::collections::BTreeMap;

/// A moment: a count of events.
pub type Moment = u64;

/// One change of a sector.
#[derive(Clone, Copy, Debug)]
struct Change {
    value: Value,
    issued: Moment,
    /// When it was answered; `None` in flight.
    ended: Option<Moment>,
    /// Acknowledged, and it must have happened.
    certain: bool,
    /// Durable by itself (FUA).
    durable: bool,
    tag: u64,
}

/// What a request does to its sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Every sector gets this value.
    Set(Value),
    /// Every sector keeps its value or becomes zero (discard).
    MayZero,
    /// Nothing.
    None,
}

/// A request the model knows as in flight.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    /// First sector.
    pub first: u64,
    /// Sectors.
    pub count: u64,
    /// What it does.
    pub effect: Effect,
    /// Durable with its answer.
    pub fua: bool,
    /// It flushes what was answered before it (FLUSH, PREFLUSH).
    pub flushes: bool,
    /// When it was received.
    pub issued: Moment,
}

/// A read, or the state after a crash, that no history explains.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wrong {
    /// The sector.
    pub sector: u64,
    /// What was there.
    pub found: Value,
    /// What could have been there.
    pub allowed: Vec<Value>,
}

/// All sectors that were ever touched; the others are zero.
#[derive(Clone, Debug, Default)]
pub struct Model {
    now: Moment,
    sectors: BTreeMap<u64, Vec<Change>>,
    open: BTreeMap<u64, Open>,
    /// Everything that ended before this is durable.
    flushed: Moment,
    /// Takes whatever is read.
    anything: bool,
}

const START: Change =
    Change { value: 0, issued: 0, ended: Some(0), certain: true, durable: true, tag: 0 };

impl Model {
    /// A device of zeros.
    #[must_use]
    pub fn new() -> Self {
        Self { now: 1, ..Self::default() }
    }

    /// A model that takes whatever is read.
    #[must_use]
    pub fn anything() -> Self {
        Self { anything: true, ..Self::new() }
    }

    fn tick(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    /// The engine received a request.
    pub fn issue(&mut self, tag: u64, mut open: Open) {
        open.issued = self.tick();
        let value = match open.effect {
            Effect::Set(value) => Some(value),
            Effect::MayZero => Some(0),
            Effect::None => None,
        };
        if let Some(value) = value {
            let change = Change {
                value,
                issued: open.issued,
                ended: None,
                certain: false,
                durable: false,
                tag,
            };
            for sector in open.first..open.first + open.count {
                self.sectors.entry(sector).or_insert_with(|| vec![START]).push(change);
            }
        }
        self.open.insert(tag, open);
    }

    /// The engine answered. Returns the request and the moment.
    pub fn end(&mut self, tag: u64, good: bool) -> Option<(Open, Moment)> {
        let open = self.open.remove(&tag)?;
        let now = self.tick();
        if good && open.flushes {
            self.flushed = self.flushed.max(open.issued);
        }
        if open.effect != Effect::None {
            let certain = good && matches!(open.effect, Effect::Set(_));
            for sector in open.first..open.first + open.count {
                let Some(changes) = self.sectors.get_mut(&sector) else { continue };
                for change in changes.iter_mut().filter(|c| c.tag == tag && c.ended.is_none()) {
                    change.ended = Some(now);
                    change.certain = certain;
                    change.durable = certain && open.fua;
                }
            }
            self.prune(open.first, open.count);
        }
        Some((open, now))
    }

    /// Forgets changes that neither a read in flight nor a crash can show any more.
    fn prune(&mut self, first: u64, count: u64) {
        let oldest = self.open.values().map(|o| o.issued).min().unwrap_or(self.now);
        let flushed = self.flushed;
        for (_, changes) in self.sectors.range_mut(first..first + count) {
            let newest = changes
                .iter()
                .filter(|c| c.certain && is_durable(c, flushed))
                .filter(|c| c.ended.is_some_and(|ended| ended < oldest))
                .map(|c| c.issued)
                .max()
                .unwrap_or(0);
            changes.retain(|c| c.ended.is_none_or(|ended| ended >= newest));
        }
    }

    fn changes(&self, sector: u64) -> &[Change] {
        self.sectors.get(&sector).map_or(std::slice::from_ref(&START), Vec::as_slice)
    }

    /// The values a read may return that was received at `from` and answered now.
    fn readable(&self, sector: u64, from: Moment) -> Vec<Value> {
        let changes = self.changes(sector);
        let ruled_out = |c: &Change| {
            changes.iter().any(|other| {
                other.certain
                    && other.ended.is_some_and(|ended| ended < from)
                    && c.ended.is_some_and(|ended| ended < other.issued)
            })
        };
        values(changes.iter().filter(|c| !ruled_out(c)))
    }

    /// The values a sector may hold after a host crash now (or a kill that loses the cache).
    #[must_use]
    pub fn after_crash(&self, sector: u64) -> Vec<Value> {
        let changes = self.changes(sector);
        values(changes.iter().filter(|c| !self.ruled_out(changes, c)))
    }

    /// A read has ended (its request was `end`ed with this `open`): is the value allowed? When
    /// nothing else touched the sector meanwhile, it now stays at what was seen.
    ///
    /// # Errors
    /// The value is not allowed.
    pub fn saw(&mut self, sector: u64, open: &Open, value: Value) -> Result<(), Wrong> {
        if self.anything {
            return Ok(());
        }
        let allowed = self.readable(sector, open.issued);
        if !allowed.contains(&value) {
            return Err(Wrong { sector, found: value, allowed });
        }
        if allowed.len() > 1 {
            let quiet = |c: &Change| c.ended.is_some_and(|ended| ended < open.issued);
            if self.changes(sector).iter().all(quiet) {
                let now = self.tick();
                let seen = Change {
                    value,
                    issued: now,
                    ended: Some(now),
                    certain: true,
                    durable: false,
                    tag: 0,
                };
                self.sectors.entry(sector).or_insert_with(|| vec![START]).push(seen);
            }
        }
        Ok(())
    }

    /// The device came back after a crash; this is what it holds now, and it is durable.
    ///
    /// # Errors
    /// The value is not allowed.
    pub fn came_back(&self, sector: u64, value: Value) -> Result<(), Wrong> {
        if let [only] = self.changes(sector)
            && only.value == value
        {
            return Ok(());
        }
        let changes = self.changes(sector);
        let same = |c: &&Change| c.value == value;
        if changes.iter().filter(same).any(|c| !self.ruled_out(changes, c)) {
            return Ok(());
        }
        Err(Wrong { sector, found: value, allowed: self.after_crash(sector) })
    }

    /// Whether a durable change has ruled out this one.
    fn ruled_out(&self, changes: &[Change], c: &Change) -> bool {
        changes.iter().any(|other| {
            other.certain
                && is_durable(other, self.flushed)
                && c.ended.is_some_and(|ended| ended < other.issued)
        })
    }

    /// Starts again from what was found: nothing is in flight, everything is durable.
    pub fn restart(&mut self, found: &[(u64, Value)]) {
        self.open.clear();
        let now = self.tick();
        self.flushed = now;
        self.sectors = found
            .iter()
            .filter(|(_, value)| *value != 0)
            .map(|(sector, value)| {
                let change = Change { value: *value, issued: now, ended: Some(now), ..START };
                (*sector, vec![change])
            })
            .collect();
    }

    /// Nothing of what was in flight will be answered; what may have happened stays possible.
    pub fn abandon(&mut self) {
        let now = self.tick();
        self.open.clear();
        for change in self.sectors.values_mut().flatten().filter(|c| c.ended.is_none()) {
            change.ended = Some(now);
        }
    }

    /// The device was closed cleanly: everything answered so far is durable.
    pub fn closed(&mut self) {
        self.flushed = self.tick();
    }

    /// Sectors that were ever written or discarded.
    pub fn touched(&self) -> impl Iterator<Item = u64> + '_ {
        self.sectors.keys().copied()
    }

    /// Requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.open.len()
    }
}

fn is_durable(change: &Change, flushed: Moment) -> bool {
    change.durable || change.ended.is_some_and(|ended| ended < flushed)
}

fn values<'a>(changes: impl Iterator<Item = &'a Change>) -> Vec<Value> {
    let mut values: Vec<Value> = changes.map(|c| c.value).collect();
    values.sort_unstable();
    values.dedup();
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(value: Value, fua: bool) -> Open {
        let effect = Effect::Set(value);
        Open { first: 0, count: 1, effect, fua, flushes: false, issued: 0 }
    }

    fn other(effect: Effect, flushes: bool) -> Open {
        Open { first: 0, count: 1, effect, fua: false, flushes, issued: 0 }
    }

    fn read(model: &mut Model, value: Value) -> Result<(), Wrong> {
        model.issue(1000, other(Effect::None, false));
        let (open, _) = model.end(1000, true).unwrap();
        model.saw(0, &open, value)
    }

    #[test]
    fn an_acknowledged_write_is_seen_and_may_be_lost_until_a_flush() {
        let mut model = Model::new();
        model.issue(1, write(5, false));
        assert_eq!(model.after_crash(0), [0, 5]);
        read(&mut model, 0).unwrap();
        model.end(1, true);
        assert!(read(&mut model, 0).is_err());
        read(&mut model, 5).unwrap();
        assert_eq!(model.after_crash(0), [0, 5]);
        model.issue(2, other(Effect::None, true));
        assert_eq!(model.after_crash(0), [0, 5]);
        model.end(2, true);
        assert_eq!(model.after_crash(0), [5]);
    }

    #[test]
    fn a_flush_covers_what_was_acknowledged_before_it_came() {
        let mut model = Model::new();
        model.issue(1, write(5, false));
        model.issue(2, other(Effect::None, true));
        model.end(1, true);
        model.end(2, true);
        assert_eq!(model.after_crash(0), [0, 5]);
        model.issue(3, other(Effect::None, true));
        model.end(3, false);
        assert_eq!(model.after_crash(0), [0, 5], "a failed flush says nothing");
    }

    #[test]
    fn fua_is_durable_and_rules_out_the_past() {
        let mut model = Model::new();
        model.issue(1, write(5, false));
        model.end(1, true);
        model.issue(2, write(6, true));
        model.end(2, true);
        assert_eq!(model.after_crash(0), [6]);
    }

    #[test]
    fn a_failed_write_and_a_discard_are_fixed_by_the_first_read() {
        let mut model = Model::new();
        model.issue(1, write(5, true));
        model.end(1, true);
        model.issue(2, other(Effect::MayZero, false));
        model.end(2, true);
        model.issue(3, write(6, false));
        model.end(3, false);
        read(&mut model, 6).unwrap();
        assert!(read(&mut model, 5).is_err());
        assert_eq!(model.after_crash(0), [0, 5, 6]);
        model.issue(4, other(Effect::None, true));
        model.end(4, true);
        assert_eq!(model.after_crash(0), [6]);
    }

    #[test]
    fn overlapping_writes_end_in_either() {
        let mut model = Model::new();
        model.issue(1, write(5, false));
        model.issue(2, write(6, false));
        model.end(1, true);
        model.end(2, true);
        read(&mut model, 5).unwrap();
        assert!(read(&mut model, 6).is_err());
    }

    #[test]
    fn a_restart_begins_anew() {
        let mut model = Model::new();
        model.issue(1, write(5, false));
        model.came_back(0, 5).unwrap();
        model.came_back(0, 0).unwrap();
        assert_eq!(model.came_back(0, 7).unwrap_err().allowed, [0, 5]);
        model.restart(&[(0, 5)]);
        assert_eq!(model.after_crash(0), [5]);
    }
}
