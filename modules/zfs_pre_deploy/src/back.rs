//! What to do after a failure: undo a swap as long as it can be undone, and say what the next run must
//! do.
//! Invariant: once a dataset is promoted, the swap can only go forward; the record of what cannot be
//! undone is kept, so that the same task finishes it.

use crate::apply::Apply;
use crate::exchange::{CANMOUNT, LIVE, Listed, PARKED, PARKED_AT, by_canmount, is_promoted};
use crate::names::below;
use crate::options::TASK;
use crate::unfinished::Tree;
use ansible_module::{Failure, reason};
use anyhow::{Error, Result};
use change::RunNotes;
use host::interrupt;

impl Apply<'_> {
    pub fn undo_after(&mut self, error: Error) -> Error {
        if !self.started {
            return error;
        }
        let _shield = interrupt::shield();
        let Some(goal) = &self.goal else {
            // Each step is complete in itself: the next run plans again from what it sees.
            return self.close(error, None);
        };
        if goal.trees.is_empty() {
            return match self.destroyed {
                false => self.close(error, Some("nothing was rolled back".into())),
                true => with_ending(
                    error,
                    format!(
                        "the rollback is not finished ({} of the datasets are rolled back, and snapshots may be destroyed); run the \
                     same task again to finish it",
                        self.rolled.len()
                    ),
                    false,
                ),
            };
        }
        const AGAIN: &str = "run the same task again to finish it";
        match self.listed() {
            Ok(listed) if goal.trees.iter().any(|tree| was_promoted(tree, &listed)) => {
                let ending = format!("the swap is not finished and can only go forward; {AGAIN}");
                with_ending(error, ending, false)
            }
            Ok(listed) => match self.put_all_back(&listed) {
                Ok(()) => self.close(error, Some("everything is as it was before".into())),
                Err(why) => {
                    let ending = "the swap is not finished, and undoing it failed";
                    with_ending(error, format!("{ending} ({why:#}); {AGAIN}"), false)
                }
            },
            Err(why) => {
                let ending = "the swap is not finished, and ZFS does not answer what is done of it";
                with_ending(error, format!("{ending} ({why:#}); {AGAIN}"), false)
            }
        }
    }

    fn put_all_back(&self, listed: &Listed) -> Result<()> {
        for tree in self.trees().iter().rev() {
            self.put_tree_back(tree, listed)?;
        }
        let mounted = self.trees().iter().flat_map(|tree| {
            let out = tree.outgoing.iter().filter(|one| one.mounted).map(|one| &one.below);
            let uncovered = tree.uncovered.iter().flat_map(|stay| &stay.mounted);
            out.chain(uncovered).map(|below| format!("{}{below}", tree.live)).collect::<Vec<_>>()
        });
        self.mount_all(&mounted.collect::<Vec<_>>())
    }

    fn put_tree_back(&self, tree: &Tree, listed: &Listed) -> Result<()> {
        if let Some(short) = &tree.snapshot {
            for one in tree.incoming.iter().rev() {
                let name = format!("{}{}", tree.live, one.below);
                let source = format!("{}{}@{short}", tree.parked, one.below);
                // We have just created it, and it holds nothing that is not in the snapshot.
                if listed.get(&name).is_some_and(|data| data.origin.as_ref() == Some(&source)) {
                    self.zfs.destroy(&name, false)?;
                }
            }
        }
        let guid = tree.outgoing.first().map(|root| root.guid);
        if listed.get(&tree.parked).is_some_and(|data| Some(data.guid) == guid) {
            self.zfs.rename(&tree.parked, &tree.live)?;
        }
        for (canmount, mut names) in by_canmount(tree, &tree.live) {
            let value = if canmount == "default" { "on" } else { canmount.as_str() };
            // ZFS cannot unset it, so it is set only where it was changed.
            names.retain(|live| {
                let now = below(live, &tree.live).map(|below| format!("{}{below}", tree.parked));
                let now = now.and_then(|parked| listed.get(&parked)).or_else(|| listed.get(live));
                now.is_none_or(|data| data.canmount != value)
            });
            self.set_canmount(&canmount, &names)?;
        }
        [PARKED, LIVE, PARKED_AT, CANMOUNT]
            .iter()
            .try_for_each(|property| self.zfs.unset(property, &tree.live))
    }

    /// Removes the record of the run, and says in the error what has become of it.
    fn close(&self, error: Error, ending: Option<String>) -> Error {
        let error = match ending {
            Some(ending) => with_ending(error, ending, true),
            None => error,
        };
        match RunNotes::close(&self.task.state_dir, TASK) {
            Ok(()) => error,
            Err(why) => why.context(error.to_string()),
        }
    }
}

fn was_promoted(tree: &Tree, listed: &Listed) -> bool {
    tree.incoming.iter().any(|one| {
        let live = format!("{}{}", tree.live, one.below);
        let from = tree.from.as_ref().map(|from| format!("{from}{}", one.below));
        let names: Vec<&str> = std::iter::once(live.as_str()).chain(from.as_deref()).collect();
        is_promoted(listed, &format!("{}{}", tree.parked, one.below), &names)
    })
}

fn with_ending(error: Error, ending: String, put_back: bool) -> Error {
    Failure::new(reason(&error), ending).with("put_back", put_back).caused_by(error).into()
}
