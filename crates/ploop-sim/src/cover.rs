//! What was covered: every decision of the engine, and those with a crash right behind them.
//!
//! Only in a build with the feature `planted`; else nothing is seen.

use ploop_engine::route::{PieceKind, Route, route_possible};
use std::collections::BTreeMap;
use std::fmt::Write;

/// A decision: what a piece does, its route, the state of its cluster and page.
pub type Key = u16;

/// How often a decision was made, and was followed by a crash point before anything else ended.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cover {
    seen: BTreeMap<Key, (u64, u64)>,
}

const KINDS: [&str; 5] = ["read", "write", "discard", "zero", "merge"];
const STATES: [&str; 4] = ["dirty", "lower", "whole", "fua"];

impl Cover {
    /// Counts decisions; `crashes` crash points were looked at right behind them.
    pub fn count(&mut self, keys: &[Key], crashes: u64) {
        for key in keys {
            let entry = self.seen.entry(*key).or_default();
            entry.0 += 1;
            entry.1 += crashes;
        }
    }

    /// Adds what another run has covered.
    pub fn add(&mut self, other: &Self) {
        for (key, (seen, crashed)) in &other.seen {
            let entry = self.seen.entry(*key).or_default();
            entry.0 += seen;
            entry.1 += crashed;
        }
    }

    /// Nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// A table of operations and routes, then the holes.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = String::from("route x operation: decisions / crash points right behind\n");
        let kinds = [
            PieceKind::Read,
            PieceKind::Write,
            PieceKind::Discard,
            PieceKind::Zero,
            PieceKind::Merge,
        ];
        let mut holes = Vec::new();
        let (mut pairs, mut crashed_pairs) = (0, 0);
        for (kind, of_kind) in kinds.into_iter().enumerate() {
            for (route, name) in Route::NAMES.iter().enumerate() {
                if !route_possible(of_kind, route as u16) {
                    continue;
                }
                let base = (kind as u16) << 8 | (route as u16) << 4;
                let states = (0..16).filter_map(|state| self.seen.get(&(base | state)));
                let (seen, crashed) = states.clone().fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
                pairs += states.clone().count();
                crashed_pairs += states.filter(|s| s.1 > 0).count();
                let _ = writeln!(out, "{:8} {name:12} {seen:10} {crashed:12}", KINDS[kind]);
                if crashed == 0 {
                    holes.push(format!("{} {name}", KINDS[kind]));
                }
            }
        }
        let _ = writeln!(out, "{pairs} pairs of decision and state, {crashed_pairs} with a crash");
        for (key, _) in self.seen.iter().filter(|(_, (_, crashed))| *crashed == 0) {
            holes.push(Self::name(*key));
        }
        let _ = writeln!(out, "holes (seen or possible, no crash behind): {}", holes.join(", "));
        out
    }

    fn name(key: Key) -> String {
        let kind = KINDS.get(usize::from(key >> 8)).copied().unwrap_or("?");
        let route = Route::NAMES.get(usize::from(key >> 4) & 15).copied().unwrap_or("?");
        let states: Vec<_> =
            (0..4).filter(|bit| key >> bit & 1 == 1).map(|bit| STATES[bit]).collect();
        format!("{kind} {route} [{}]", states.join(" "))
    }
}
