//! What `check` found, ready for JSON (T4).

use serde::Serialize;

/// More findings of one image than this are only counted.
pub const MAX_FINDINGS: usize = 1000;

/// What is wrong, or worth knowing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FindingKind {
    /// The header is not that of a usable ploop image.
    Header,
    /// The in-use mark is set.
    InUse,
    /// A conversion of the format version was interrupted.
    Conversion,
    /// The file does not end at a cluster boundary.
    Ragged,
    /// An entry points behind the end of the file.
    PastEnd,
    /// A v1 entry is not at a cluster boundary.
    Misaligned,
    /// Two entries point to one cluster.
    Duplicate,
    /// An entry points into header or BAT.
    InsideBat,
    /// Something behind the last BAT entry is not zero.
    Garbage,
    /// The dirty bitmap extension is damaged.
    Extension,
    /// The header's device size does not match its BAT.
    Size,
    /// Two images of a chain do not fit together.
    Chain,
    /// The descriptor tells something else than the images.
    Descriptor,
    /// A file beside the disk that no descriptor names.
    Orphan,
    /// The content is encrypted.
    Encrypted,
}

/// One finding.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// What.
    pub kind: FindingKind,
    /// Which BAT entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<u64>,
    /// Which cluster of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<u64>,
    /// A sentence with the numbers.
    pub detail: String,
    /// The image cannot be used as it is: exit code 11.
    pub fatal: bool,
}

impl Finding {
    /// A finding about an image as a whole.
    pub(crate) fn new(kind: FindingKind, fatal: bool, detail: impl Into<String>) -> Self {
        Self { kind, slot: None, cluster: None, detail: detail.into(), fatal }
    }
}

/// The result for one image.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct ImageReport {
    /// Path of the file.
    pub image: String,
    /// Version of the format, 1 or 2; 0 for raw or unreadable.
    pub version: u32,
    /// It is a raw image: there is nothing to check.
    pub raw: bool,
    /// Bytes of a cluster.
    pub cluster_bytes: u64,
    /// Clusters of the device (BAT entries).
    pub clusters: u64,
    /// Clusters that the device uses.
    #[serde(skip)]
    pub live: u64,
    /// Clusters with a place in the file.
    pub allocated: u64,
    /// Not closed, or open right now.
    pub in_use: bool,
    /// The image was clean and the check not forced: of its entries only those past the end of the
    /// file were looked for.
    pub skipped: bool,
    /// The block table was read: the numbers of clusters and leaks mean something.
    pub counted: bool,
    /// What was found, at most [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// Findings beyond that.
    pub findings_omitted: u64,
    /// Clusters of the file that nothing names.
    pub leaks: u64,
}

impl ImageReport {
    /// Adds a finding.
    pub(crate) fn add(&mut self, finding: Finding) {
        let same = self.findings.len() >= MAX_FINDINGS;
        // A fatal one must not hide among the omitted.
        if same && !(finding.fatal && self.findings.iter().all(|f| !f.fatal)) {
            self.findings_omitted += 1;
        } else {
            self.findings.push(finding);
        }
    }

    /// 17 conversion in progress, 11 fatal, 37 in use and else fine, 0 fine.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if self.findings.iter().any(|f| f.kind == FindingKind::Conversion && f.fatal) {
            17
        } else if self.findings.iter().any(|f| f.fatal) {
            11
        } else if self.in_use {
            37
        } else {
            0
        }
    }
}

/// The result for a disk, or for one file.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct CheckReport {
    /// The descriptor; none when one file was checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptor: Option<String>,
    /// Base first.
    pub images: Vec<ImageReport>,
    /// What concerns the disk as a whole.
    pub findings: Vec<Finding>,
    /// Images of different cluster sizes: exit code 38 as the original.
    pub mixed_clusters: bool,
}

impl CheckReport {
    /// The worst of the images, base first; 38 for cluster sizes that differ.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let codes = || self.images.iter().map(ImageReport::exit_code);
        if let Some(code) = codes().find(|code| *code != 0 && *code != 37) {
            return code;
        }
        if self.mixed_clusters {
            return 38;
        }
        if self.findings.iter().any(|f| f.fatal) {
            return 11;
        }
        codes().find(|code| *code != 0).unwrap_or(0)
    }

    /// Nothing at all to say, leaks and in-use included.
    #[must_use]
    pub fn spotless(&self) -> bool {
        self.exit_code() == 0
            && self.findings.is_empty()
            && self.images.iter().all(|i| i.findings.is_empty() && i.leaks == 0)
    }
}
