//! Names of images in the engine: what each points to, pointing it elsewhere, and back.
//!
//! Invariants: only names that services use are touched; what a name pointed to is known before it
//! is moved; a name that never was is taken away again, and the image under it stays.

use crate::docker::Docker;
use crate::images::inspect::inspect;
use crate::images::record::Loaded;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The repository of the names under which images are loaded.
const TEMPORARY: &str = "reversible-restore";

/// What a name pointed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagWas {
    pub reference: String,
    /// `None`: there was no such name.
    pub id: Option<String>,
}

/// What the names point to now: to be written down before [`retag`].
pub fn tags_now(docker: &Docker, references: &[String]) -> Result<Vec<TagWas>> {
    let now = |reference: &String| -> Result<TagWas> {
        let id = inspect(docker, reference)?.map(|seen| seen.id);
        Ok(TagWas { reference: reference.clone(), id })
    };
    references.iter().filter(|reference| is_tag(reference)).map(now).collect()
}

/// What the names of loaded images are to point to.
pub fn targets(loaded: &[Loaded]) -> Vec<TagWas> {
    let of_one = |image: &Loaded| {
        let names: Vec<&String> = image.references.iter().filter(|name| is_tag(name)).collect();
        let target =
            |name: &String| TagWas { reference: name.clone(), id: Some(image.id_now.clone()) };
        names.into_iter().map(target).collect::<Vec<_>>()
    };
    loaded.iter().flat_map(of_one).collect()
}

/// Points each name to its image, or takes it away. Repeated, it does nothing.
pub fn retag(docker: &Docker, tags: &[TagWas]) -> Result<()> {
    for tag in tags {
        let now = inspect(docker, &tag.reference)?.map(|seen| seen.id);
        if now == tag.id {
            continue;
        }
        let command = match &tag.id {
            Some(id) => docker.command().args(["image", "tag", "--", id, &tag.reference]),
            // Forced: it may be the last name of an image that a container still runs, and just the
            // name is to go.
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
            None => format!("cannot take the name {} away", tag.reference),
        })?;
    }
    Ok(())
}

/// Takes away the names under which images were loaded, where an image has another one. One without
/// keeps it: the engine would count it among what may be pruned.
pub fn release(docker: &Docker, loaded: &[Loaded]) -> Result<()> {
    for image in loaded {
        let temporary = temporary(&image.config_digest);
        let Some(seen) = inspect(docker, &temporary)? else { continue };
        if seen.tags().iter().any(|tag| !is_temporary(tag)) {
            let gone = docker.command().args(["image", "rm", "--no-prune", "--", &temporary]);
            docker.run(gone).with_context(|| format!("cannot take the name {temporary} away"))?;
        }
    }
    Ok(())
}

/// The name under which an image is loaded: found again by a run that follows one that was killed.
pub fn temporary(config_digest: &str) -> String {
    format!("{TEMPORARY}:{}", crate::images::record::hex_of(config_digest))
}

pub fn is_temporary(tag: &str) -> bool {
    tag.strip_prefix(TEMPORARY).is_some_and(|rest| rest.starts_with(':'))
}

/// Whether an image can be given this name: not an id, and not a name with a digest.
pub fn is_tag(reference: &str) -> bool {
    let is_id = reference.len() >= 12 && reference.bytes().all(|byte| byte.is_ascii_hexdigit());
    !reference.contains('@') && !reference.starts_with("sha256:") && !is_id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_a_tag() {
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
