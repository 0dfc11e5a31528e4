//! Every limit of the engine, stated once (D3, D4, D9, P4).

/// Piece slots of a queue beyond the one embedded in each request (D3).
pub const EXTRA_PIECES: usize = 64;
/// Clusters one request may step over in one turn of its queue without I/O.
pub const CLUSTERS_PER_TURN: u64 = 1024;
/// A client that was given way is done after less than this; else something hogs the processor.
pub const GIVE_WAY_NS: u64 = 500_000;
/// Giving way to what hogs the processor may cost a queue at most this share of its time.
pub const GIVE_WAY_SHARE: u64 = 64;
/// Clusters one `Extents` request looks at; a page of holes counts as one.
pub const EXTENT_CLUSTERS: u64 = 65_536;
/// Copy-ups that may hold a buffer at once.
pub const COPY_BUFFERS: usize = 8;
/// Bytes of a copy buffer; larger clusters are copied in steps of it.
pub const COPY_BUFFER: u64 = 1 << 20;
/// Buffers of a queue for reads that direct I/O cannot take as they are.
pub const BOUNCES: usize = 8;
/// Bytes of each.
pub const BOUNCE_BYTES: u64 = 32 << 10;
/// Buffers for rewriting single blocks (F19).
pub const PATCHES_SMALL: usize = 32;
/// Bytes of each.
pub const PATCH_SMALL: u64 = 4 << 10;
/// Buffers for rewriting several blocks at once.
pub const PATCHES_LARGE: usize = 2;
/// Bytes of each; more goes in steps of it.
pub const PATCH_LARGE: u64 = 64 << 10;
/// Times that I/O of one piece may not fit the alignment its files have told.
pub const MISFITS: u8 = 3;
/// BAT pages that may be loading at once.
pub const LOADS: usize = 32;
/// Pages of holes, known without a read, that one touch fills in.
pub const BARE_PAGES: u64 = 16_384;
/// BAT pages of a window that is read ahead of the first touch (P5).
pub const AHEAD_WINDOW: u64 = 64;
/// Pages of the map that reading ahead fills at most: 32 MiB of cells.
pub const AHEAD_PAGES: usize = 4096;
/// Pages waiting to be written at which all of them are, before their deadlines (P4).
pub const DIRTY_PAGES: usize = 1024;
/// So few changes between two flushes: the next one comes soon, and pages are written before it.
pub const EAGER_CHANGES: u64 = 2;
/// Clean clusters handed to a queue ahead, so that it allocates without waiting.
pub const STOCK: usize = 64;
/// At most this share of the clean clusters at hand goes to a queue's stock.
pub const STOCK_SHARE: u64 = 8;
/// A queue whose allocation lost to another's uses no stock for so many.
pub const LOST_PAUSE: u32 = 16;
/// Neighbouring pages that one write takes at most.
pub const JOINED_PAGES: usize = 64;
/// Largest step by which the file is extended ahead of the frontier, unless the opener says else.
pub const EXTEND_BYTES: u64 = 128 << 20;
/// Smallest step, in clusters.
pub const EXTEND_CLUSTERS: u64 = 4;
/// Space kept ahead is given back when nothing was taken for this long (P10).
pub const GIVE_BACK_NS: u64 = 60_000_000_000;
/// At most this share of the host's free space is kept ahead (P10).
pub const AHEAD_SHARE: u64 = 100;
/// Bytes one cleaning operation covers at most (P1).
pub const CLEAN_BYTES: u64 = 64 << 20;
/// Cleaning operations in flight (D10).
pub const CLEANERS: usize = 2;
/// Quarantined or cleaned clusters wait this long for somebody else's sync (F16).
pub const QUARANTINE_NS: u64 = 1_000_000_000;
/// A failed page write is tried again after this long.
pub const PAGE_RETRY_NS: u64 = 100_000_000;
/// Page writes of one page that may fail in a row before the device turns read-only.
pub const PAGE_TRIES: u32 = 5;
/// A page write that finds no space is tried so often before those who wait for it hear of that,
/// where such requests are not held (F17).
pub const FULL_TRIES: u32 = 2;
/// Bytes of zeros a write of zeros takes at a time.
pub const ZERO_BUFFER: u64 = 64 << 10;
/// Longest read or write request.
pub const MAX_TRANSFER: u32 = 32 << 20;
/// Longest discard or write-zeroes request.
pub const MAX_ZERO: u64 = 4 << 30;
