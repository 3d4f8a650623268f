//! Images, saved outside of the engine: layers are named by the digest of their content, and are hard links
//! if an earlier backup already has them.
//!
//! | to ...                                                | see       |
//! |-------------------------------------------------------|-----------|
//! | save images (only new content is read from the engine) | [`save`]  |
//! | load them into an engine, and retag them              | [`load`], [`tags`] |
//! | know whether an image is the recorded one             | [`same`]  |
//!
//! Invariants: an image is identified by the digests of its configuration and of its layers, never by its id
//! alone (with the containerd image store that is the digest of something else); what the engine streams is
//! identified by its digest and not by its name in the stream; a file counts only if it was hashed in this
//! run.

mod documents;
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
pub use same::difference_to;
pub use save::{estimate, save};
pub use tags::{TagTarget, is_tag, release, retag, tags_now, targets};

/// A callback that gets the number of bytes processed so far.
pub type Progress<'a> = &'a mut (dyn FnMut(u64) + Send);
