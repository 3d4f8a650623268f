//! Trees of files kept as tar segments and an index, and put back. Knows no Ansible.
//!
//! | to ...                                              | see          |
//! |-----------------------------------------------------|--------------|
//! | see what of a tree must be copied                   | [`scan`]     |
//! | copy it into a segment and write the index          | [`capture`], [`segment`] |
//! | make the tree again from index and segments         | [`restore`] |
//! | say how a tree differs from its index               | [`compare`]  |
//! | begin a chain of segments again                      | [`chain`]    |
//! | compress and hash a file on two processors          | [`encode`]   |
//! | decompress what is zstd or gzip by its first bytes  | [`decode`], [`pipe`] |
//! | read names and sparse files of foreign archives     | [`names`], [`sparse`] |
//!
//! A segment is a standard tar archive (PAX), in zstd or gzip: GNU tar unpacks it. The index has a line
//! for each entry of the tree as it was, with the number of the segment that holds its content, so
//! that what did not change since an earlier capture is not copied again. With GNU tar: the segments in
//! order, later over earlier, then what the index does not name is removed; only the times of folders
//! that are older than what was last put into them are lost. Everything streams: neither
//! the number of entries nor the size of a file is bounded by memory.
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
pub use line::{Line, What};
pub use restore::{Counts, Stored, restore};
pub use scan::{Scan, Source, Writers};
pub use segment::Segment;
