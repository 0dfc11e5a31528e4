//! The plain counters and gauges: names, meaning and where they are, in one place.

use ploop_engine::stats::{KeeperStats, QueueStats};

/// How a number moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Up only: differences are of interest.
    Counter,
    /// As it is now.
    Gauge,
}

/// A number of `S`.
pub struct Line<S> {
    /// Key in JSON.
    pub name: &'static str,
    /// Name for Prometheus, without `ploop_` and `_total`.
    pub metric: &'static str,
    /// How it moves.
    pub kind: Kind,
    /// What it is.
    pub help: &'static str,
    /// Where it is.
    pub get: fn(&S) -> u64,
}

const fn line<S>(
    name: &'static str,
    metric: &'static str,
    kind: Kind,
    help: &'static str,
    get: fn(&S) -> u64,
) -> Line<S> {
    Line { name, metric, kind, help, get }
}

use Kind::{Counter, Gauge};

/// Of each queue.
#[rustfmt::skip]
pub const QUEUE: &[Line<QueueStats>] = &[
    line("in_flight", "requests_in_flight", Gauge,
        "Requests in flight.", |s| s.in_flight.get()),
    line("parked", "pieces_parked", Gauge,
        "Pieces of requests held because the host has no space.", |s| s.parked.get()),
    line("held", "requests_held", Counter,
        "Requests that were held because the host had no space.", |s| s.held.get()),
    line("full_episodes", "full_episodes", Counter,
        "Times a queue began to hold requests.", |s| s.full_episodes.get()),
    line("abandoned", "pieces_abandoned", Counter,
        "Held pieces that failed because the disk was closed.", |s| s.abandoned.get()),
    line("rewritten", "requests_rewritten", Counter,
        "Requests for a part of a block, which was read and written whole.", |s| s.rewritten.get()),
    line("own_syncs", "queue_syncs", Counter,
        "Syncs of the top image that the queue began by itself.", |s| s.syncs.get()),
];

/// Of the keeper.
#[rustfmt::skip]
pub const KEEPER: &[Line<KeeperStats>] = &[
    line("clusters_allocated", "clusters_allocated", Counter,
        "Clusters allocated for holes and zeroed clusters.", |s| s.allocated.get()),
    line("clusters_copied_up", "clusters_copied_up", Counter,
        "Clusters brought up from a lower image.", |s| s.copied_up.get()),
    line("clusters_copying_up", "clusters_copying_up", Gauge,
        "Clusters being brought up.", |s| s.copying.get()),
    line("clusters_unmapped", "clusters_unmapped", Counter,
        "Clusters whose mapping was taken away.", |s| s.unmapped.get()),
    line("clusters_in_quarantine", "clusters_in_quarantine", Gauge,
        "Freed clusters that are not clean yet.", |s| s.quarantine.get()),
    line("clusters_clean", "clusters_clean", Gauge,
        "Clean clusters ready for allocation.", |s| s.clean.get()),
    line("extensions", "extensions", Counter,
        "Times the top image was made longer.", |s| s.extensions.get()),
    line("clusters_added", "clusters_added", Counter,
        "Clusters by which the top image was made longer.", |s| s.extended.get()),
    line("clusters_given_back", "clusters_given_back", Counter,
        "Clusters cut off the top image again, because nobody took them.", |s| s.given_back.get()),
    line("extensions_refused", "extensions_refused", Counter,
        "Times the host had no space for a longer top image.", |s| s.extensions_refused.get()),
    line("pages_loaded", "pages_loaded", Counter,
        "BAT pages read, ahead or on first touch.", |s| s.pages_loaded.get()),
    line("pages_written", "pages_written", Counter,
        "Writes of BAT pages.", |s| s.pages_written.get()),
    line("page_changes_joined", "page_changes_joined", Counter,
        "Changes of BAT entries that went out with the page write of an earlier change.",
        |s| s.changes_joined.get()),
    line("pages_dirty", "pages_dirty", Gauge,
        "BAT pages whose changes are not durable.", |s| s.dirty_pages.get()),
    line("pages_dirty_max", "pages_dirty_max", Gauge,
        "The most dirty BAT pages there were.", |s| s.dirty_pages_max.get()),
    line("syncs", "syncs", Counter,
        "Syncs of the top image begun, by the keeper or a queue.", |s| s.syncs.get()),
    line("flushes", "flushes_answered", Counter,
        "FLUSHes answered after a sync.", |s| s.flushes.get()),
];

/// Pages of the map with cells of their own, a number of the device.
pub const PAGES_IN_MEMORY: &str = "pages_in_memory";
/// 1 when a sync failed or metadata cannot be written, a number of the device.
pub const FAILED: &str = "failed";

/// How the number of this name in [`super::StatReply::counters`] moves.
#[must_use]
pub fn kind(name: &str) -> Kind {
    let queue = QUEUE.iter().find(|line| line.name == name).map(|line| line.kind);
    let keeper = || KEEPER.iter().find(|line| line.name == name).map(|line| line.kind);
    let device = matches!(name, PAGES_IN_MEMORY | FAILED).then_some(Gauge);
    queue.or_else(keeper).or(device).unwrap_or(Counter)
}
