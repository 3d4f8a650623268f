//! Exchanging what is there for what was staged, and back.
//!
//! Invariants: a path that a service uses is never missing; nothing that has stood in its place is ever
//! removed here; where a part stands is told by what is at its names and not by which names there are,
//! since an engine or a person may make a folder at any of them meanwhile: that one is set aside under a
//! name that is noted before. Each step may be repeated.

use crate::restore::part::{Part, sibling};
use anyhow::{Context, Result, ensure};
use host::beneath::Identity;
use host::spot::Spot;
use std::path::{Path, PathBuf};

pub fn identity(path: &Path) -> Result<Option<Identity>> {
    Spot::find(path)?.map_or(Ok(None), |spot| spot.identity())
}

/// What is neither what was there before nor what was staged.
pub struct Aside<'a> {
    pub id: &'a str,
    /// Notes durably where it goes.
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

/// Notes which is which, for as long as the exchange lasts.
pub fn identify(part: &mut Part) -> Result<()> {
    part.old = identity(&part.source)?;
    part.new = part.fresh.as_deref().map_or(Ok(None), identity)?;
    ensure!(
        part.fresh.is_some() == part.new.is_some(),
        "what was staged for {} is gone",
        part.source.display()
    );
    Ok(())
}

/// What is fresh has been in its place, whatever somebody has made of it there.
pub fn is_exchanged(part: &Part) -> Result<bool> {
    Ok(part.stood
        || match (&part.fresh, part.new) {
            (Some(fresh), Some(new)) => identity(fresh)? != Some(new),
            _ => part.old.is_some() && identity(&part.source)? != part.old,
        })
}

/// When what was put in place is not there any more: somebody has put something else there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    Refuse,
    /// Services have run on it: it is what is live.
    Leave,
}

/// Puts what is fresh in its place, and parks what was there.
pub fn forward(part: &Part, foreign: Foreign, aside: &mut Aside<'_>) -> Result<()> {
    let source = Spot::of(&part.source)?;
    let here = source.identity()?;
    let Some(fresh) = part.fresh.as_deref() else {
        // What somebody has put there since is live, and stays.
        return if here.is_some() && here == part.old {
            park(&source, part, aside)
        } else {
            Ok(())
        };
    };
    if !is_exchanged(part)? {
        let fresh = Spot::of(fresh)?;
        match here {
            Some(_) => source.exchange(&fresh)?,
            None => fresh.rename(&source)?,
        }
    }
    ensure!(
        match foreign {
            Foreign::Refuse => source.identity()? == part.new,
            Foreign::Leave => part.old.is_none() || source.identity()? != part.old,
        },
        "what was staged for {} is gone",
        part.source.display()
    );
    match Spot::find(fresh)? {
        Some(spot) if spot.identity()?.is_some() => park(&spot, part, aside),
        _ => Ok(()),
    }
}

/// Under its name if it is what was there before; else aside.
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

/// Puts what was there before in its place again; what had taken it is kept as `kept`.
pub fn backward(part: &Part, kept: &Path, aside: &mut Aside<'_>) -> Result<()> {
    let source = Spot::of(&part.source)?;
    let here = source.identity()?;
    let names = part.fresh.as_deref().into_iter().chain([part.parked.as_path()]);
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
            format!("what was at {} before is not at {} any more", at.0.display(), at.1)
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
        let fresh = sibling(&source, "restoring", "x");
        folder(&fresh, "fresh");
        if !absent {
            folder(&source, "old");
        }
        let mut part = Part::new("data".into(), source.clone(), Some(fresh), false, "x");
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
                assert_eq!(is(&scene.part.source), "fresh");
                assert_eq!(is(&scene.part.parked), before);
            }
            for _ in 0..2 {
                scene.backward();
                assert_eq!(is(&scene.part.source), before);
                assert_eq!(is(&scene.kept), "fresh");
            }
            assert!(scene.noted.is_empty());
        }
    }

    #[test]
    fn killed_after_the_exchange() {
        for goes_on in [false, true] {
            let mut scene = scene(false);
            let fresh = Spot::of(scene.part.fresh.as_ref().unwrap()).unwrap();
            Spot::of(&scene.part.source).unwrap().exchange(&fresh).unwrap();
            assert!(is_exchanged(&scene.part).unwrap());
            match goes_on {
                true => scene.forward(),
                false => scene.backward(),
            }
            let (part, other) =
                (&scene.part, if goes_on { &scene.part.parked } else { &scene.kept });
            let expected = if goes_on { ("fresh", "old") } else { ("old", "fresh") };
            assert_eq!((is(&part.source).as_str(), is(other).as_str()), expected);
        }
    }

    /// As Docker makes one where a bind mount is missing, or as a person does.
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
                folder(scene.part.fresh.as_ref().unwrap(), "foreign");
            }
            for _ in 0..2 {
                match goes_on {
                    true => scene.forward(),
                    false => scene.backward(),
                }
            }
            let part = &scene.part;
            assert_eq!(is(&part.source), if goes_on { "fresh" } else { "old" });
            assert_eq!(scene.noted, [sibling(&part.source, "found", "x")]);
            assert_eq!(is(&scene.noted[0]), "foreign");
            let old = if goes_on { is(&part.parked) } else { is(&part.source) };
            assert_eq!(old, "old");
        }
    }
}
