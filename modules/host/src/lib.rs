//! This machine: commands, safe files, locks, deadlines. Knows no Ansible.
//!
//! | to ...                                        | see          |
//! |-----------------------------------------------|--------------|
//! | find and run a program                        | [`program`], [`command`] |
//! | wait: with an end, and ended by a signal      | [`deadline`], [`interrupt`] |
//! | keep others out                               | [`lock`] (one machine, one task), [`fence`] (older deploys) |
//! | know after kill -9 what had been begun        | [`record`]   |
//! | change a file and lose nothing                | [`atomic`]   |
//! | go back on a full disk                        | [`reserve`]  |
//! | have a folder that no one else can swap       | [`folder`]   |
//! | use what someone else owns                    | [`beneath`]: a folder, held |
//! | rename, or exchange two names at once         | [`spot`]     |
//! | read a tree that someone else owns            | [`walk`], [`meta`] |
//! | read a file that someone else could have made | [`regular`]  |
//! | know what a path is mounted on, and who uses it | [`mounts`], [`space`] |
//! | read or remove what may be missing           | [`none_if_missing`] |
//! | know what must not be shown                  | [`secret`]   |
//! | know who a user is                           | [`account`] |
//! | name a run and a second                       | [`deploy_id`], [`clock`] |
//!
//! Deliberately absent: a shell, threads, name services (we are linked statically), an async
//! runtime.

pub mod account;
pub mod atomic;
pub mod beneath;
pub mod clock;
pub mod command;
pub mod deadline;
pub mod deploy_id;
mod descent;
pub mod fence;
pub mod folder;
mod hex;
pub mod interrupt;
pub mod lock;
pub mod meta;
mod missing;
pub mod mounts;
pub mod program;
pub mod reason;
pub mod record;
pub mod regular;
pub mod reserve;
pub mod secret;
pub mod space;
pub mod spot;
pub mod walk;

pub use hex::hex;
pub use missing::none_if_missing;
pub use reason::reason;
