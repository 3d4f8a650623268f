//! Exchanges the current data for the staged data, and back.
//!
//! Invariants: a path that a service uses is never missing; data that was in place is never removed here;
//! the progress of a part is determined by the identities of what has its names, and not by which names
//! exist, since an engine or a person may make a folder under any of them meanwhile: that one is set aside
//! under a name that is noted before. Each step may be repeated.

use crate::restore::part::{Part, sibling};
use anyhow::{Context, Result, ensure};
use host::beneath::Identity;
use host::spot::Spot;
use std::path::{Path, PathBuf};

pub fn identity(path: &Path) -> Result<Option<Identity>> {
    Spot::find(path)?.map_or(Ok(None), |spot| spot.identity())
}

/// Sets aside what is neither the previous nor the staged data.
pub struct Aside<'a> {
    pub id: &'a str,
    /// Notes durably to where it is renamed.
    pub note: &'a mut dyn FnMut(PathBuf) -> Result<()>,
}

impl Aside<'_> {
    fn set(&mut self, spot: &Spot, part: &Part) -> Result<()> {
        for n in 1.. {
            let id = if n == 1 { self.id.to_owned() } else { format!("{}-{n}", self.id) };
            let to = Spot::of(&sibling(&part.source, "found", &id))?;
            if to.identity()?.is_none() {
                (self.note)(to.path().to_owned())?;
                return spot.rename(&to);
            }
        }
        Ok(())
    }
}

/// Records the identities of the previous and of the staged data.
pub fn identify(part: &mut Part) -> Result<()> {
    part.old = identity(&part.source)?;
    part.new = part.staged.as_deref().map_or(Ok(None), identity)?;
    ensure!(
        part.staged.is_some() == part.new.is_some(),
        "the data that was staged for {} is not there any more",
        part.source.display()
    );
    Ok(())
}

/// Whether the staged data has been in place, even if somebody has replaced it since.
pub fn is_exchanged(part: &Part) -> Result<bool> {
    Ok(part.was_in_place
        || match (&part.staged, part.new) {
            (Some(staged), Some(new)) => identity(staged)? != Some(new),
            _ => part.old.is_some() && identity(&part.source)? != part.old,
        })
}

/// What to do if somebody has replaced the restored data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    Refuse,
    /// Keep what is there: services have run on it.
    Keep,
}

/// Puts the staged data in place, and parks the previous data.
pub fn forward(part: &Part, foreign: Foreign, aside: &mut Aside<'_>) -> Result<()> {
    let source = Spot::of(&part.source)?;
    let here = source.identity()?;
    let Some(staged) = part.staged.as_deref() else {
        // What somebody has put there since is live, and is not touched.
        return if here.is_some() && here == part.old {
            park(&source, part, aside)
        } else {
            Ok(())
        };
    };
    if !is_exchanged(part)? {
        let staged = Spot::of(staged)?;
        match here {
            Some(_) => source.exchange(&staged)?,
            None => staged.rename(&source)?,
        }
    }
    ensure!(
        match foreign {
            Foreign::Refuse => source.identity()? == part.new,
            Foreign::Keep => part.old.is_none() || source.identity()? != part.old,
        },
        "the data that was staged for {} is not there any more",
        part.source.display()
    );
    match Spot::find(staged)? {
        Some(spot) if spot.identity()?.is_some() => park(&spot, part, aside),
        _ => Ok(()),
    }
}

/// Parks the previous data under its name; anything else is set aside.
fn park(spot: &Spot, part: &Part, aside: &mut Aside<'_>) -> Result<()> {
    if spot.identity()? != part.old {
        return aside.set(spot, part);
    }
    let parked = Spot::of(&part.parked)?;
    if parked.identity()?.is_some() {
        aside.set(&parked, part)?;
    }
    spot.rename(&parked)
}

/// Puts the previous data back in place; the restored data is kept as `kept`.
pub fn backward(part: &Part, kept: &Path, aside: &mut Aside<'_>) -> Result<()> {
    let source = Spot::of(&part.source)?;
    let here = source.identity()?;
    let names = part.staged.as_deref().into_iter().chain([part.parked.as_path()]);
    let spots: Vec<Spot> =
        names.filter_map(|path| Spot::find(path).transpose()).collect::<Result<_>>()?;
    if part.old.is_some() && here != part.old {
        let mut from = None;
        for spot in &spots {
            if spot.identity()? == part.old {
                from = Some(spot);
            }
        }
        let from = from.with_context(|| {
            let at = (&part.source, part.parked.display());
            format!("the previous data of {} is not at {} any more", at.0.display(), at.1)
        })?;
        match here {
            Some(_) => source.exchange(from)?,
            None => from.rename(&source)?,
        }
    }
    let was_missing = part.old.is_none().then_some(&source);
    for spot in spots.iter().chain(was_missing) {
        let there = spot.identity()?;
        if there.is_none() || there == part.old || spot.path() == kept {
            continue;
        }
        if there == part.new {
            spot.rename(&Spot::of(kept)?)?;
        } else if spot.path() != part.source {
            aside.set(spot, part)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Scene {
        _temp: tempfile::TempDir,
        part: Part,
        kept: PathBuf,
        noted: Vec<PathBuf>,
    }

    fn scene(absent: bool) -> Scene {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        let source = root.join("data");
        let staged = sibling(&source, "restoring", "x");
        folder(&staged, "staged");
        if !absent {
            folder(&source, "old");
        }
        let mut part = Part::new("data".into(), source.clone(), Some(staged), false, "x");
        identify(&mut part).unwrap();
        let kept = sibling(&source, "parked", "kept");
        Scene { _temp: temp, part, kept, noted: Vec::new() }
    }

    impl Scene {
        fn forward(&mut self) {
            let note = &mut |path| {
                self.noted.push(path);
                Ok(())
            };
            forward(&self.part, Foreign::Refuse, &mut Aside { id: "x", note }).unwrap();
        }

        fn backward(&mut self) {
            let note = &mut |path| {
                self.noted.push(path);
                Ok(())
            };
            backward(&self.part, &self.kept, &mut Aside { id: "x", note }).unwrap();
        }
    }

    fn folder(path: &Path, is: &str) {
        fs::create_dir(path).unwrap();
        fs::write(path.join("is"), is).unwrap();
    }

    fn is(path: &Path) -> String {
        fs::read_to_string(path.join("is")).unwrap_or_else(|_| "nothing".into())
    }

    #[test]
    fn forward_and_backward_may_be_repeated() {
        for absent in [false, true] {
            let mut scene = scene(absent);
            let before = if absent { "nothing" } else { "old" };
            assert!(!is_exchanged(&scene.part).unwrap());
            for _ in 0..2 {
                scene.forward();
                assert_eq!(is(&scene.part.source), "staged");
                assert_eq!(is(&scene.part.parked), before);
            }
            for _ in 0..2 {
                scene.backward();
                assert_eq!(is(&scene.part.source), before);
                assert_eq!(is(&scene.kept), "staged");
            }
            assert!(scene.noted.is_empty());
        }
    }

    #[test]
    fn a_killed_exchange_is_finished_or_reverted() {
        for goes_on in [false, true] {
            let mut scene = scene(false);
            let staged = Spot::of(scene.part.staged.as_ref().unwrap()).unwrap();
            Spot::of(&scene.part.source).unwrap().exchange(&staged).unwrap();
            assert!(is_exchanged(&scene.part).unwrap());
            match goes_on {
                true => scene.forward(),
                false => scene.backward(),
            }
            let (part, other) =
                (&scene.part, if goes_on { &scene.part.parked } else { &scene.kept });
            let expected = if goes_on { ("staged", "old") } else { ("old", "staged") };
            assert_eq!((is(&part.source).as_str(), is(other).as_str()), expected);
        }
    }

    /// Docker makes such a folder if a bind mount is missing, or a person does.
    #[test]
    fn a_foreign_folder_is_set_aside_wherever_it_is() {
        for (place, goes_on) in [(0, true), (0, false), (1, true), (1, false)] {
            let mut scene = scene(false);
            if place == 0 {
                fs::rename(&scene.part.source, &scene.part.parked).unwrap();
                folder(&scene.part.source, "foreign");
            } else if goes_on {
                folder(&scene.part.parked, "foreign");
            } else {
                scene.forward();
                folder(scene.part.staged.as_ref().unwrap(), "foreign");
            }
            for _ in 0..2 {
                match goes_on {
                    true => scene.forward(),
                    false => scene.backward(),
                }
            }
            let part = &scene.part;
            assert_eq!(is(&part.source), if goes_on { "staged" } else { "old" });
            assert_eq!(scene.noted, [sibling(&part.source, "found", "x")]);
            assert_eq!(is(&scene.noted[0]), "foreign");
            let old = if goes_on { is(&part.parked) } else { is(&part.source) };
            assert_eq!(old, "old");
        }
    }
}
