//! Tags of images in the engine: reads what they point to, moves them, and moves them back.
//!
//! Invariants: only tags that services use are changed; what a tag pointed to is noted before it is moved; a
//! tag that did not exist before is removed again, but not its image.

use crate::docker::Docker;
use crate::images::inspect::inspect;
use crate::images::record::Loaded;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The repository of the temporary tags under which images are loaded.
const TEMPORARY: &str = "reversible-restore";

/// A tag and what it points to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagTarget {
    pub reference: String,
    /// The id of the image; `None` if the tag does not exist.
    pub id: Option<String>,
}

/// Reads what the tags point to now, to be noted before [`retag`].
pub fn tags_now(docker: &Docker, references: &[String]) -> Result<Vec<TagTarget>> {
    let now = |reference: &String| -> Result<TagTarget> {
        let id = inspect(docker, reference)?.map(|seen| seen.id);
        Ok(TagTarget { reference: reference.clone(), id })
    };
    references.iter().filter(|reference| is_tag(reference)).map(now).collect()
}

/// Returns what the tags of loaded images must point to.
pub fn targets(loaded: &[Loaded]) -> Vec<TagTarget> {
    let of_one = |image: &Loaded| {
        let names: Vec<&String> = image.references.iter().filter(|name| is_tag(name)).collect();
        let target =
            |name: &String| TagTarget { reference: name.clone(), id: Some(image.id_now.clone()) };
        names.into_iter().map(target).collect::<Vec<_>>()
    };
    loaded.iter().flat_map(of_one).collect()
}

/// Points each tag to its image, or removes it. It may be repeated.
pub fn retag(docker: &Docker, tags: &[TagTarget]) -> Result<()> {
    for tag in tags {
        let now = inspect(docker, &tag.reference)?.map(|seen| seen.id);
        if now == tag.id {
            continue;
        }
        let command = match &tag.id {
            Some(id) => docker.command().args(["image", "tag", "--", id, &tag.reference]),
            // Forced, since it may be the last tag of an image that a container still uses; only the tag
            // is removed.
            None => docker.command().args([
                "image",
                "rm",
                "--force",
                "--no-prune",
                "--",
                &tag.reference,
            ]),
        };
        docker.run(command).with_context(|| match &tag.id {
            Some(id) => format!("cannot point {} to the image {id}", tag.reference),
            None => format!("cannot remove the tag {}", tag.reference),
        })?;
    }
    Ok(())
}

/// Removes the temporary tags of images that have another tag. Without any tag an image could be pruned.
pub fn release(docker: &Docker, loaded: &[Loaded]) -> Result<()> {
    for image in loaded {
        let temporary = temporary(&image.config_digest);
        let Some(seen) = inspect(docker, &temporary)? else { continue };
        if seen.tags().iter().any(|tag| !is_temporary(tag)) {
            let remove = docker.command().args(["image", "rm", "--no-prune", "--", &temporary]);
            docker.run(remove).with_context(|| format!("cannot remove the tag {temporary}"))?;
        }
    }
    Ok(())
}

/// Returns the temporary tag of an image, by which the next run finds it after a kill.
pub fn temporary(config_digest: &str) -> String {
    format!("{TEMPORARY}:{}", crate::images::record::hex_of(config_digest))
}

pub fn is_temporary(tag: &str) -> bool {
    tag.strip_prefix(TEMPORARY).is_some_and(|rest| rest.starts_with(':'))
}

/// Whether it is a tag, and not an id or a name with a digest.
pub fn is_tag(reference: &str) -> bool {
    let is_id = reference.len() >= 12 && reference.bytes().all(|byte| byte.is_ascii_hexdigit());
    !reference.contains('@') && !reference.starts_with("sha256:") && !is_id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_recognised() {
        for tag in ["app", "app:1", "localhost:5000/a/b:latest", "cafe", "cafe:0123456789ab"] {
            assert!(is_tag(tag), "{tag}");
        }
        let hex = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
        let digest = format!("sha256:{hex}");
        for no in [hex, &hex[..12], &digest, &format!("app@{digest}"), &format!("app:1@{digest}")] {
            assert!(!is_tag(no), "{no}");
        }
        assert!(is_temporary(&temporary(&digest)) && !is_temporary("reversible-restored:1"));
    }
}
