//! Restores a project, and reverts that if it fails.
//!
//! | to ...                                            | see        |
//! |---------------------------------------------------|------------|
//! | know what is restored, and where                  | [`goal`]   |
//! | refuse what would fail half way                   | [`refuse`] |
//! | measure the losses                                | [`loss`]   |
//! | plan the steps                                    | [`plan`]   |
//! | do the steps                                      | [`run`]    |
//! | make and remove staging folders                   | [`staging`] |
//! | exchange folders and files in one system call     | [`swap`]   |
//! | start services and verify them                    | [`up`]     |
//! | make and start containers as they were recorded   | [`containers`] |
//! | put the parked data back                          | [`revert`] |
//! | know the progress of a restore, also after a kill | [`work`]   |

pub mod containers;
pub mod goal;
pub mod loss;
pub mod part;
pub mod plan;
pub mod refuse;
pub mod revert;
pub mod run;
pub mod staging;
pub mod swap;
pub mod up;
pub mod work;
