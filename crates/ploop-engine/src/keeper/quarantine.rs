//! Freed clusters: not used again before no I/O can reach them (I11), and before the page without
//! their entry is durable (I2). Then they are cleaned (I18) and go back to the space.

use super::Keeper;
use super::space::Space;
use crate::grace::Period;
use crate::limits::QUARANTINE_NS;
use ploop_format::{BatPage, FileCluster, GuestCluster, Sector};
use ploop_io::Io;
use ploop_io::planted::{Bug, on};

/// What becomes free.
enum What {
    /// A cluster of the top.
    Cluster(FileCluster),
    /// A place of the level under the top, whose cluster went up.
    Below(Sector),
}

struct Freed {
    what: What,
    page: BatPage,
    seq: u64,
    since: u64,
}

/// What goes on when a grace period is over.
struct Waiting {
    period: Period,
    freed: Vec<Freed>,
    claims: Vec<GuestCluster>,
}

/// Clusters on their way from unmapped to dirty-but-free.
#[derive(Default)]
pub(super) struct Quarantine {
    fresh: Vec<Freed>,
    /// Clusters that are to be copied, and may be written where they are.
    pub claims: Vec<GuestCluster>,
    in_grace: Option<Waiting>,
    undurable: Vec<Freed>,
    /// Their pages are wanted durable up to this change.
    wants: u64,
    /// Something happened that may let clusters go on.
    pub touched: bool,
}

impl Quarantine {
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn len(&self) -> usize {
        let in_grace = self.in_grace.as_ref().map_or(0, |waiting| waiting.freed.len());
        self.fresh.len() + in_grace + self.undurable.len()
    }

    /// Pages must become durable up to this change for the quarantine to drain.
    pub fn wants_upto(&self) -> u64 {
        self.wants
    }
}

impl<I: Io> Keeper<I> {
    /// Takes in the cluster that change `self.seq` has just unmapped.
    pub(super) fn quarantine_add(&mut self, cluster: FileCluster, guest: GuestCluster) {
        self.leaves(What::Cluster(cluster), guest);
    }

    /// Takes in the place that change `self.seq` has just left for the top.
    pub(super) fn quarantine_below(&mut self, at: Sector, guest: GuestCluster) {
        self.leaves(What::Below(at), guest);
    }

    fn leaves(&mut self, what: What, guest: GuestCluster) {
        self.quarantine.fresh.push(Freed {
            what,
            page: guest.slot().page,
            seq: self.seq,
            since: self.now,
        });
    }

    pub(super) fn pump_quarantine(&mut self) {
        self.pump_grace();
        // F16: without a guest's flush the keeper makes them durable itself.
        let hurry = self.closing || self.spaces.iter().any(Space::is_starved);
        let old = self.now.saturating_sub(QUARANTINE_NS);
        let first = self.quarantine.undurable.first().map(|f| f.since);
        if !self.quarantine.touched && !hurry && first.is_none_or(|since| since > old) {
            return;
        }
        self.quarantine.touched = false;
        let pages = &self.pages;
        let (free, wait): (Vec<_>, Vec<_>) = std::mem::take(&mut self.quarantine.undurable)
            .into_iter()
            .partition(|f| pages.is_durable(f.page, f.seq) || on(Bug::ReuseUndurable));
        for freed in &free {
            let p = self.shared.pieces.of_page(freed.page);
            match freed.what {
                What::Cluster(cluster) => self.spaces[p].free_dirty(cluster),
                What::Below(at) => self.below[p].free(at),
            }
        }
        let wants = wait.iter().filter(|f| hurry || f.since <= old).map(|f| f.seq).max();
        let wants = wants.unwrap_or(0);
        self.pages.touched |= wants > self.quarantine.wants;
        self.quarantine.wants = wants;
        self.quarantine.undurable = wait;
    }

    /// D9: one grace period for everything that waits for one. Returns whether one is over.
    pub(super) fn pump_grace(&mut self) -> bool {
        let mut over = false;
        if let Some(waiting) = &mut self.quarantine.in_grace {
            if !self.shared.grace.poll(&mut waiting.period) {
                return false;
            }
            over = true;
            if let Some(waiting) = self.quarantine.in_grace.take() {
                self.grace_is_over(waiting.freed, waiting.claims);
            }
        }
        let freed = std::mem::take(&mut self.quarantine.fresh);
        let claims = std::mem::take(&mut self.quarantine.claims);
        if freed.is_empty() && claims.is_empty() {
            return over;
        }
        let mut period = self.shared.grace.begin();
        if self.shared.grace.poll(&mut period) || on(Bug::ReuseNoGrace) {
            self.grace_is_over(freed, claims);
            return true;
        }
        self.quarantine.in_grace = Some(Waiting { period, freed, claims });
        over
    }

    fn grace_is_over(&mut self, mut freed: Vec<Freed>, claims: Vec<GuestCluster>) {
        self.quarantine.touched |= !freed.is_empty();
        self.quarantine.undurable.append(&mut freed);
        for cluster in claims {
            // Nobody writes to it where it is any more.
            self.copy_from(cluster, 0);
            self.open_site(cluster);
        }
    }

    pub(super) fn quarantine_deadline(&self) -> Option<u64> {
        if self.quarantine.wants > 0 {
            return None;
        }
        // They came in the order of time.
        self.quarantine.undurable.first().map(|f| f.since + QUARANTINE_NS)
    }
}
