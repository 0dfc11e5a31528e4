//! Bugs planted on purpose: the proof that the simulator finds what it is there to find.
//!
//! The code asks [`on`] at a real decision. Without the feature `planted` the answer is a constant
//! `false` and nothing is left in the program. With it a thread chooses one bug at run time.

/// The list: group, name, what it does.
macro_rules! bugs {
    ($($group:ident $name:ident $text:literal,)*) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
        #[repr(u8)]
        pub enum Bug {
            $(#[doc = $text] $name,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// What it does.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Where it belongs.
            #[must_use]
            pub const fn group(self) -> Group {
                match self { $(Self::$name => Group::$group,)* }
            }

            /// Its name, as [`Bug::named`] takes it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }
    };
}

/// What kind of bug it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    /// A wrong decision of the engine or the image code.
    Decision,
    /// The same that operations that fail, or a kill, bring out: hunted with the profile
    /// `fault`.
    Fault,
    /// The same that writes to one hole at once bring out: hunted with the profile `race`.
    Race,
    /// The same of an operation on layers: hunted with the profile `operations`.
    Layer,
    /// The same of one in the middle of traffic that fails: hunted with the profile `exchange`.
    Exchange,
    /// A wrong decision that a merge beside traffic meets: hunted with the profile `merge`.
    Merge,
    /// The same of a merge that goes down into a raw base: hunted with the profile `down`.
    Down,
    /// A wrong decision about the pieces of a split disk: hunted with the profile `split`.
    Split,
    /// A sync that is not done.
    Drop,
    /// The same of an operation on layers: hunted with the profile `operations`.
    LayerDrop,
    /// Two steps in the wrong order.
    Swap,
    /// Breaks no rule, for another sync or another check covers it: never hunted.
    Equal,
}

bugs! {
    Decision CopyUpUnsynced "the entry of a copy-up is staged without a sync before it (F1)",
    Decision CopyUpEarly "the map is published before the data of a copy-up (F4)",
    Decision CopyUpAnswerEarly "a copy-up is answered when the guest's part is written (F4)",
    Decision CopyUpFailedMapped "a copy-up whose write failed is published (F13)",
    Decision CopyUpTailStale "a copy-up does not clear what lies behind the lower file's end (F18)",
    Race AllocateLostDone "a write whose cluster lost to another's is answered (F4)",
    Race AllocateLostClean "the cluster of such a write is used again at once (I18)",
    Race AllocateUnregistered "such a write is unregistered, its cluster cleaned at once (I11)",
    Decision ReuseNow "a freed cluster is cleaned at once: no grace, no durable page (I2, I11)",
    Decision ReuseNoGrace "a freed cluster waits for its page, not for I/O in flight (I11)",
    Decision ReuseUndurable "a freed cluster waits for I/O in flight, not for its page (I2)",
    Decision CleanUnsynced "a cleaned cluster is used before a sync (I18)",
    Decision CleanNot "a freed cluster is used again without being cleaned (I18)",
    Decision ExtendUnsynced "new clusters are used before the new length is synced (I7)",
    Decision DirtyForgotten "a page that changed during its write counts as written (I10)",
    Decision PageErrorIgnored "a failed page write counts as done (I10)",
    Decision SyncErrorIgnored "a failed sync counts as done (F5)",
    Fault DsyncErrorIgnored "a failed synchronous write does not fail the device (F5)",
    Decision FlushEarly "a flush is served by the sync that already runs (I3)",
    Decision FlushNoPages "a flush does not wait for pages (I3)",
    Decision FlushPastDirty "a queue syncs for a flush by itself while pages are dirty (I3)",
    Decision FlushJoinsLate "a flush is served by the sync that its queue has in flight (I3)",
    Decision FlushErrorIgnored "a failed sync of a queue counts as done (F5)",
    Decision PageSyncEarly "a page written during a sync counts as covered by it (F3)",
    Decision FuaEarly "FUA is answered without waiting for the page (I4)",
    Decision FuaZeroEarly "write-zeroes with FUA is answered without a sync (I4)",
    Decision PreflushIgnored "PREFLUSH is not done (I3)",
    Decision StaleHasLower "a copied-up cluster counts as one that nothing lies below (F11)",
    Decision UnmapAll "a discard unmaps what a lower level has (F11)",
    Decision PunchOutward "a discard is rounded outward to whole blocks (F24)",
    Fault BlockSizeFollows "requests smaller than the files' alignment are refused (T14)",
    Fault PatchNoGrace "a part of a block is rewritten while its cluster is written (F19)",
    Fault RewriteBeside "a queue rewrites a block while it writes to it otherwise (F19)",
    Fault RewriteJoinsLate "a part joins a rewrite of its block that is written already (F19)",
    Decision ShortDone "a short read or write counts as whole (F18)",
    Decision ZeroShort "a zeroing ends after its first step (F24)",
    Decision LoadOldest "the oldest level wins when the map is loaded",
    Decision Page0NoHeader "page 0 is written without the header (F10)",
    Merge ClaimIgnored "a write begins in a cluster that is being copied (F4)",
    Decision CloseCutsTooFar "a close cuts one cluster too much (T19)",
    Decision CloseUnsettled "a close does not wait for the pages (I13)",
    Decision MarkNot "the in-use mark is not set (I12)",
    Fault RecordEarly "a change is taken off the record when its write begins (F2)",
    Decision RecordNot "a change is not put on record (F2)",
    Layer SharedWritten "a file that others may have too is changed without being asked for",
    Layer BaseCutAtOpen "a mark below the top that nobody of ours left is cleared by an open (C6)",
    Exchange ExchangeUnsure "a descriptor that may go is taken for the one that stays (F12)",
    Exchange PauseAtAllCosts "a pause without space for the block table is not called off (F20)",
    Layer DescriptorInPause "a pause makes a new descriptor's file, and needs one to go on (F20)",
    Layer MergeDropsZeros "a merge leaves zeros out where a lower level has the cluster",
    Layer MergeLowest "a merge takes a cluster from the lowest level that has it",
    Layer GrowHeaderEarly "a grow writes the header before the clusters are out of the way (I8)",
    Layer TurnKeepsOld "an image that becomes the top keeps what the levels over it had (F21)",
    Merge BelowUnsynced "a flush forgets the level that was the top before a merge (I3)",
    Down DownUnsynced "a cluster leaves the top before a sync of the base it went to (I1)",
    Down BaseUnsynced "a base that a killed server wrote is not synced when it is read (F6)",
    Down DownNoGrace "a cluster goes down to the base while it is written in the top (I11)",
    Down DownDropsZeros "a cluster goes down to the base without its zeros",
    Merge BelowNoGrace "a cluster is copied while it is written where it is (I11)",
    Merge TurnUndoFirst "a failed turn takes old entries back under the new order (F21)",
    Layer DropUncovered "levels leave the chain before the top has what they have (F21)",
    Layer SwitchUnlinksFirst "a switch removes the old top before the descriptor is in force",
    Split BorderHalfDone "a request over the border of two pieces ends with its first half",
    Split SnapshotOnePiece "a snapshot makes its new image in the first piece alone",
    Split SyncFirstPiece "a sync of the keeper leaves out the pieces behind the first (I3)",
    Split MergeFirstPiece "a merge writes the entries of the first piece alone (I9)",
    Split JoinFirstPiece "a disk in one piece has what the first piece of the split one had",
    Drop NoSyncKeeper "the keeper's sync is not done",
    Drop NoSyncFlush "a queue's sync for a flush is not done",
    Drop NoDsyncQueue "a queue's FUA write is a plain write",
    Drop NoDsyncPage "a page's synchronous write is a plain write",
    Drop NoSyncOpen "the sync before the top is read is not done (F6)",
    Drop NoSyncStamp "the in-use mark is not synced",
    Equal NoSyncLength "the length set at open is not synced: the keeper syncs before it uses it",
    Equal NoSyncRaw "the length of a raw top is not synced: zeros lie behind its end (F18)",
    Equal NoSyncReplay "pages from the record are not synced: the sync of the mark covers them",
    Drop NoSyncClose "the data is not synced before the mark goes",
    Drop NoSyncCut "the cut is not synced before the mark goes (I7)",
    Drop NoSyncMark "the cleared mark is not synced",
    Drop NoSyncText "a descriptor is not synced before its rename (I9)",
    Drop NoSyncRename "the directory is not synced after a rename (I9)",
    Drop NoSyncDelta "a new delta is not synced",
    Drop NoSyncDeltaName "the directory is not synced after a new delta",
    Drop NoSyncImage "a new image is not synced",
    Drop NoSyncImageName "the directory is not synced after a new image",
    Equal NoSyncUndo "no directory sync after a failed create: a left-over file is no disk",
    Equal NoSyncMergeBegin "the target is not synced before its BAT is read: nobody else writes it",
    LayerDrop NoSyncInForce "an open trusts a descriptor that a killed process renamed (I9, F12)",
    LayerDrop NoSyncMergeMark "the target's in-use mark is not synced (I12)",
    LayerDrop NoSyncExchange "what a failed operation wrote is not synced before the open (I13)",
    LayerDrop NoSyncMergeData "copies are not synced before the entries that name them (I1)",
    LayerDrop NoSyncMergeBat "the target's BAT is not synced before its mark goes",
    LayerDrop NoSyncRelocated "relocated clusters are not synced before their entries (F20)",
    LayerDrop NoSyncMoved "entries of relocated clusters are not synced before the old place goes",
    LayerDrop NoSyncTable "the larger BAT is not synced before the header (F20)",
    Equal NoSyncGrown "the header of a grow is not synced: the next sync covers it",
    Equal NoSyncRawGrown "the length of a raw image is not synced: the size is in the descriptor",
    Equal NoSyncUnlink "the directory is not synced after an unlink: a file comes back, unnamed",
    Swap MarkBeforeData "the mark is cleared before the data is synced",
    Swap MarkBeforeCut "the mark is cleared before the cut",
    Swap RenameBeforeDelta "the descriptor names a delta that is made after it",
}

impl Bug {
    /// The bug of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|bug| bug.name() == name)
    }
}

#[cfg(feature = "planted")]
thread_local! {
    static CHOSEN: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
    static SEEN: std::cell::RefCell<Vec<u16>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Whether this thread has chosen the bug.
#[cfg(feature = "planted")]
#[must_use]
pub fn on(bug: Bug) -> bool {
    CHOSEN.get() == Some(bug)
}

/// Whether the bug was chosen: never, in a build without the feature `planted`.
#[cfg(not(feature = "planted"))]
#[inline(always)]
#[must_use]
pub const fn on(_bug: Bug) -> bool {
    false
}

/// Chooses the bug of this thread.
#[cfg(feature = "planted")]
pub fn choose(bug: Option<Bug>) {
    CHOSEN.set(bug);
}

/// Does a sync, unless the bug that drops it is chosen.
///
/// # Errors
/// Those of the sync.
#[inline(always)]
pub fn synced(bug: Bug, sync: impl FnOnce() -> std::io::Result<()>) -> std::io::Result<()> {
    if on(bug) { Ok(()) } else { sync() }
}

/// Notes that a decision was made: for the table of what a run has covered.
#[inline(always)]
pub fn visit(_what: impl FnOnce() -> u16) {
    #[cfg(feature = "planted")]
    SEEN.with_borrow_mut(|seen| seen.push(_what()));
}

/// Decisions noted on this thread since the last call.
#[cfg(feature = "planted")]
#[must_use]
pub fn visited() -> Vec<u16> {
    SEEN.with_borrow_mut(std::mem::take)
}

/// Decisions noted: none, in a build without the feature `planted`.
#[cfg(not(feature = "planted"))]
#[must_use]
pub const fn visited() -> Vec<u16> {
    Vec::new()
}
