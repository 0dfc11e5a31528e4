//! I14: what a killed server left on record comes into the image at the next writable open, and
//! only there (F2). A record that does not fit is refused.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

mod common;
use common::*;
use ploop_engine::record::{Owner, RECORD_CHANGES, Record, record_words};
use ploop_format::{GuestCluster, Sector};
use ploop_image::{Disk, ErrorKind, Exchange, Note, OpenOptions, Spares, layers, snapshot};
use ploop_io::{Ident, RealDir, RealEntropy, RealRecords, Records};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

const MARK: u32 = 0x746F_6E59;

/// A disk of 160 clusters whose server was killed: the file has 9 clusters, none is mapped.
struct Killed {
    disk: TestDisk,
    run: TempDir,
}

impl Killed {
    fn new() -> Self {
        let killed = Self { disk: TestDisk::new(), run: tempfile::tempdir().unwrap() };
        let open = killed.open().unwrap();
        set_len(killed.disk.image(), 9 * 65_536);
        // Without a close, as a kill does.
        drop(open);
        killed
    }

    fn records(&self) -> RealRecords {
        RealRecords::at(self.run.path())
    }

    fn options(&self) -> OpenOptions {
        OpenOptions { records: Some(Arc::new(self.records())), ..quick() }
    }

    fn open(&self) -> Result<Disk, ploop_image::ImageError> {
        open(self.disk.home.path(), &self.options())
    }

    fn owner(&self) -> Owner {
        let meta = fs::metadata(self.disk.image()).unwrap();
        let top = Ident { dev: meta.dev(), ino: meta.ino() };
        Owner { boot: self.records().boot().unwrap(), top, session: 1, entries: 160 }
    }

    fn leave(&self, owner: &Owner, changes: &[(u64, u32)]) -> Record {
        let name = format!("{:x}:{:x}", self.owner().top.dev, self.owner().top.ino);
        let words = self.records().create(&name, record_words(RECORD_CHANGES)).unwrap();
        let record = Record::new(words, owner);
        for (slot, (cluster, entry)) in changes.iter().enumerate() {
            record.put(slot as u32, GuestCluster(*cluster), *entry);
        }
        record
    }

    fn entry(&self, cluster: u64) -> u32 {
        peek32(self.disk.image(), 64 + cluster * 4)
    }

    fn left_files(&self) -> Vec<PathBuf> {
        fs::read_dir(self.run.path()).unwrap().map(|e| e.unwrap().path()).collect()
    }
}

#[test]
fn a_writable_open_brings_the_changes_in() {
    let killed = Killed::new();
    killed.leave(&killed.owner(), &[(3, 1), (159, 8), (7, 0)]);
    let reading = OpenOptions { read_only: true, ..killed.options() };
    let looked = open(killed.disk.home.path(), &reading).unwrap();
    let unwritten = |n: &Note| matches!(n, Note::LeftOver { changes: 3, written: false, .. });
    assert!(looked.notes().iter().any(unwritten), "{:?}", looked.notes());
    drop(looked);
    assert_eq!(killed.entry(3), 0, "a read-only open writes nothing");
    let disk = killed.open().unwrap();
    let written = |n: &Note| matches!(n, Note::LeftOver { changes: 3, written: true, .. });
    assert!(disk.notes().iter().any(written), "{:?}", disk.notes());
    assert!(!disk.notes().iter().any(|n| matches!(n, Note::Crashed(_))), "one line (T5)");
    assert_eq!([killed.entry(3), killed.entry(159), killed.entry(7)], [1, 8, 0]);
    let spec = disk.spec();
    assert_eq!(spec.used.ones().collect::<Vec<_>>(), [0, 1, 8]);
    assert!(spec.record.is_some(), "a fresh record for this life");
    disk.close(clean(9 * 65_536, true)).unwrap();
    assert!(killed.left_files().is_empty(), "{:?}", killed.left_files());
    assert_qemu_clean(killed.disk.image());
}

#[test]
fn a_snapshot_of_a_killed_disk_freezes_what_was_acknowledged() {
    let killed = Killed::new();
    killed.leave(&killed.owner(), &[(5, 2)]);
    let home = killed.disk.home.path();
    snapshot(&RealDir, &RealEntropy, home, None, &killed.options()).unwrap();
    assert_eq!((killed.entry(5), in_use(killed.disk.image())), (2, 0));
    assert!(killed.left_files().is_empty());
    assert_qemu_clean(killed.disk.image());
}

#[test]
fn a_record_that_does_not_fit_is_refused_and_nothing_is_written() {
    // It stays: a file system may give the number of a removed file to the next one.
    let first = Killed::new();
    let cases: [(&[(u64, u32)], &str); 4] = [
        (
            &[(3, 9)],
            "BAT entry 3 (0x9) points to sector 1152, the cluster ends at byte 655360, \
             the file has 589824 bytes",
        ),
        (&[(3, 2), (4, 2)], "BAT entry 4 (0x2) points to sector 256, another entry does too"),
        (&[(0, u32::MAX)], "BAT entry 0 (0xffffffff) points to the reserved value 0xffffffff"),
        (&[(160, 1)], "slot 0 changes BAT entry 160, there are 160"),
    ];
    for (changes, words) in cases {
        let killed = Killed::new();
        killed.leave(&killed.owner(), changes);
        let before = fs::read(killed.disk.image()).unwrap();
        let error = killed.open().unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), (ErrorKind::BadImage, 11));
        let text = format!("{error} {}", error.hint_text().unwrap_or_default());
        let record = killed.left_files()[0].file_name().unwrap().to_owned();
        assert!(text.contains(words) && text.contains(record.to_str().unwrap()), "{text}");
        assert!(fs::read(killed.disk.image()).unwrap() == before);
        // The way out that the hint names.
        fs::remove_file(&killed.left_files()[0]).unwrap();
        drop(killed.open().unwrap());
    }
    let killed = Killed::new();
    let other = Owner { entries: 80, ..killed.owner() };
    killed.leave(&other, &[]);
    assert!(killed.open().unwrap_err().to_string().contains("made for 80 BAT entries"));
    assert_ne!(first.owner().top, killed.owner().top);
}

#[test]
fn a_record_of_another_boot_or_of_an_image_closed_since_does_not_count() {
    let killed = Killed::new();
    killed.leave(&Owner { boot: 1, ..killed.owner() }, &[(3, 1)]);
    drop(killed.open().unwrap());
    assert_eq!(killed.entry(3), 0, "the host has started again since");
    killed.leave(&killed.owner(), &[(3, 1)]);
    let mut bytes = fs::read(killed.disk.image()).unwrap();
    assert_eq!(in_use(killed.disk.image()), MARK);
    bytes[44..48].fill(0);
    fs::write(killed.disk.image(), bytes).unwrap();
    let disk = killed.open().unwrap();
    assert_eq!(killed.entry(3), 0, "somebody closed it since");
    disk.close(clean(65_536, false)).unwrap();
}

#[test]
fn a_failed_sync_of_the_killed_life_is_told() {
    let killed = Killed::new();
    killed.leave(&killed.owner(), &[]).fail();
    let disk = killed.open().unwrap();
    assert!(disk.notes().iter().any(|n| matches!(n, Note::SyncFailedBefore(_))));
    assert_eq!(disk.size(), Sector(20_480));
}

#[test]
fn without_a_place_for_the_record_the_disk_opens_and_says_so() {
    let killed = Killed::new();
    let file = killed.run.path().join("file");
    fs::write(&file, "").unwrap();
    let records = Some(Arc::new(RealRecords::at(file.join("x"))) as Arc<dyn Records>);
    let disk = open(killed.disk.home.path(), &OpenOptions { records, ..quick() }).unwrap();
    assert!(disk.notes().iter().any(|n| matches!(n, Note::NoRecord { .. })), "{:?}", disk.notes());
    assert!(disk.spec().record.is_none());
}

#[test]
fn an_image_that_a_merge_makes_the_top_has_no_record_of_an_older_life() {
    let killed = Killed::new();
    killed.leave(&killed.owner(), &[(3, 1), (7, 0)]);
    // Somebody who knows nothing of records has closed the image and taken a snapshot of it.
    let home = killed.disk.home.path();
    open(home, &quick()).unwrap().close(clean(65_536, false)).unwrap();
    snapshot(&RealDir, &RealEntropy, home, None, &quick()).unwrap();
    let options = killed.options();
    let disk = open(home, &options).unwrap();
    let how = Exchange {
        target: home,
        entropy: &RealEntropy,
        options: &options,
        also_write: vec![],
        spares: Spares::default(),
    };
    let turned = disk.exchange(clean(65_536, false), Arc::new(RealDir), how, |options| {
        layers::turn(&RealDir, &RealEntropy, home, layers::Which::Top, options)
    });
    let (turned, disk) = turned.unwrap();
    turned.unwrap();
    let left = |n: &Note| matches!(n, Note::LeftOver { .. });
    assert!(!disk.notes().iter().any(left), "{:?}", disk.notes());
    assert_eq!([killed.entry(3), killed.entry(7)], [0, 0]);
    drop(disk);
}
