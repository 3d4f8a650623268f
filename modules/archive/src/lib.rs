//! Backs up trees of files as tar segments with an index, and restores them. Knows no Ansible.
//!
//! | to ...                                              | see          |
//! |-----------------------------------------------------|--------------|
//! | see what of a tree must be copied                   | [`scan`]     |
//! | copy it into a segment and write the index          | [`capture`], [`segment`] |
//! | restore the tree from index and segments         | [`restore`] |
//! | compare a tree with its index                       | [`compare`]  |
//! | decide when to start a new chain of segments         | [`chain`]    |
//! | compress and hash a file on two processors          | [`encode`]   |
//! | recognise zstd or gzip, and decompress it           | [`decode`], [`pipe`] |
//! | read names and sparse files of foreign archives     | [`names`], [`sparse`] |
//!
//! A segment is a standard tar archive (PAX), in zstd or gzip: GNU tar unpacks it. The index has a line
//! for each entry of the tree as it was, with the number of the segment that holds its content, so
//! that what did not change since an earlier capture is not copied again. With GNU tar: the segments in
//! order, later over earlier, then remove what the index does not name; only the times of folders that
//! are older than their newest entry are lost. Everything is streamed: neither the number of entries nor
//! the size of a file is limited by memory.
//!
//! Deliberately absent: where backups lie and what they are called, what they hold beside files, and
//! who may write meanwhile: that is the module's business.

pub mod capture;
pub mod chain;
pub mod compare;
pub mod decode;
pub mod encode;
pub mod fault;
pub mod index;
pub mod line;
pub mod names;
pub mod pipe;
pub mod restore;
pub mod scan;
pub mod segment;
pub mod sparse;

mod attributes;
mod extents;
mod head;

pub use capture::{Captured, Pass, Progress};
pub use compare::{Differences, compare};
pub use decode::Form;
pub use encode::{Encoder, Written};
pub use fault::{Damaged, reason};
pub use index::{IndexReader, IndexWriter};
pub use line::{EntryKind, Line};
pub use restore::{Counts, Stored, restore};
pub use scan::{Scan, Source, Writers};
pub use segment::Segment;
