//! Putting a project back, and taking that back when it fails.
//!
//! | to ...                                            | see        |
//! |---------------------------------------------------|------------|
//! | know what is to be put back, and where             | [`goal`]   |
//! | refuse what would fail half way                    | [`refuse`] |
//! | say it as steps                                    | [`plan`]   |
//! | do the steps                                       | [`run`]    |
//! | exchange folders and files by renaming             | [`swap`]   |
//! | start services and see that they are the right ones | [`up`]     |
//! | put the parked state back                          | [`back`]   |
//! | know what a restore was about, also after a kill   | [`work`]   |

pub mod back;
pub mod goal;
pub mod plan;
pub mod refuse;
pub mod run;
pub mod swap;
pub mod up;
pub mod work;
