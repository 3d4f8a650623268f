//! This machine: commands, safe files, locks, deadlines. Knows no Ansible.
//!
//! | to ...                                        | see          |
//! |-----------------------------------------------|--------------|
//! | find and run a program                        | [`program`], [`command`] |
//! | wait until a deadline or a signal             | [`deadline`], [`interrupt`] |
//! | keep others out                               | [`lock`] (one machine, one task), [`fence`] (older deploys) |
//! | know after kill -9 what was started           | [`record`]   |
//! | change a file and lose nothing                | [`atomic`]   |
//! | roll back on a full disk                      | [`reserve`]  |
//! | use a folder that nobody else can replace     | [`folder`]   |
//! | work in a folder of another user              | [`beneath`]  |
//! | rename, or exchange two names at once         | [`spot`]     |
//! | read a tree that someone else owns            | [`walk`], [`meta`] |
//! | read a file that someone else could have made | [`regular`]  |
//! | know what a path is mounted on, and who uses it | [`mounts`], [`space`] |
//! | read or remove what may be missing            | [`none_if_missing`] |
//! | know which values are secret                  | [`secret`]   |
//! | look up a user                                | [`account`]  |
//! | make ids and times                            | [`deploy_id`], [`clock`] |
//!
//! Deliberately absent: a shell, threads, name services (the programs are statically linked), an async
//! runtime.

pub mod account;
pub mod atomic;
mod base64;
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
mod joined;
pub mod kubectl;
pub mod lock;
pub mod meta;
mod missing;
pub mod mounts;
mod percent;
pub mod program;
pub mod reason;
pub mod record;
pub mod regular;
pub mod reserve;
pub mod secret;
pub mod space;
pub mod spot;
pub mod walk;

pub use base64::{base64, from_base64};
pub use hex::hex;
pub use joined::{joined, joined_or};
pub use missing::none_if_missing;
pub use percent::percent_encode;
pub use reason::reason;
