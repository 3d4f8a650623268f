//! Images, kept outside of the engine: layers by the digest of what they hold, once in the backup
//! folder, and hard links to them wherever an earlier backup has them.
//!
//! | to ...                                                | see       |
//! |-------------------------------------------------------|-----------|
//! | keep images (nothing new: the engine is not asked for content) | [`save`]  |
//! | give them back to an engine, and re-tag them          | [`load`], [`tags`] |
//! | know whether an image is the recorded one             | [`same`]  |
//!
//! Invariants: an image is told by the digest of its configuration and of its layers, never by its
//! id alone (on a containerd store that is the digest of something else); what the engine streams is
//! believed by its digest and not by its name in the stream; no file counts that was not hashed in
//! this run.

mod docs;
mod files;
mod inspect;
mod layer;
mod load;
mod outgoing;
mod pipe;
mod record;
mod same;
mod save;
mod stream;
mod tags;

pub use inspect::inspect;
pub use load::load;
pub use record::Loaded;
pub use record::{Earlier, FileRecord, ImageRecord, Wanted};
pub use same::agrees;
pub use save::{estimate, save};
pub use tags::{TagWas, is_tag, release, retag, tags_now, targets};

/// Called now and then with the bytes that have gone through so far.
pub type Progress<'a> = &'a mut (dyn FnMut(u64) + Send);
