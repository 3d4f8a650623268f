//! Putting a project back, and taking that back when it fails.
//!
//! | to ...                                            | see        |
//! |---------------------------------------------------|------------|
//! | know what is to be put back, and where             | [`goal`]   |
//! | refuse what would fail half way                    | [`refuse`] |
//! | measure what is lost by it                          | [`loss`]   |
//! | say it as steps                                    | [`plan`]   |
//! | do the steps                                       | [`run`]    |
//! | make the folders that it is put into at first     | [`fresh`]  |
//! | exchange folders and files in one call             | [`swap`]   |
//! | start services and see that they are the right ones | [`up`]     |
//! | make and start containers as they were recorded   | [`containers`] |
//! | put the parked state back                          | [`back`]   |
//! | know what a restore was about, also after a kill   | [`work`]   |

pub mod back;
pub mod containers;
pub mod fresh;
pub mod goal;
pub mod loss;
pub mod part;
pub mod plan;
pub mod refuse;
pub mod run;
pub mod swap;
pub mod up;
pub mod work;
