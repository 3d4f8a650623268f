//! Whether what a template names is there. Reads only.

use crate::kubectl::{Kubectl, encoded};
use crate::subject::Subject;
use crate::template::{self, Needed};
use anyhow::Result;
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Presence {
    /// And when it was last written, as far as the server notes it.
    There(Option<String>),
    Missing,
    Forbidden,
}

/// What is known of the objects of one namespace; each is asked for once.
#[derive(Default)]
pub struct Objects(BTreeMap<Needed, Presence>);

/// What stands in the way of a template, and what should be known before it runs again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    pub missing: Vec<String>,
    pub warnings: Vec<String>,
}

impl Objects {
    /// Looks for all that a template names; `since` is when it last ran, or was made.
    pub fn look(
        &mut self,
        kubectl: &Kubectl,
        subject: &Subject,
        template: &Value,
        since: &str,
    ) -> Result<Findings> {
        let mut found = Findings::default();
        for needed in template::needs(template) {
            let shown = needed.shown();
            match self.ask(kubectl, subject, needed)? {
                Presence::Missing => found.missing.push(format!("{shown} is not there")),
                Presence::Forbidden => found.warnings.push(format!("whether {shown} is there cannot be told: the account may not read it")),
                Presence::There(Some(written)) if written.as_str() > since => found.warnings.push(format!(
                    "{shown} was written at {written}, after that revision was made: its content does not go back"
                )),
                Presence::There(_) => {}
            }
        }
        Ok(found)
    }

    fn ask(&mut self, kubectl: &Kubectl, subject: &Subject, needed: Needed) -> Result<&Presence> {
        if !self.0.contains_key(&needed) {
            let (kind, name) = needed.at();
            let path = format!("{}/{}", subject.path("/api/v1", kind), encoded(name));
            let presence = match kubectl.find_object(&path) {
                Ok(Some(object)) => Presence::There(written(&object)),
                Ok(None) => Presence::Missing,
                Err(error) if ansible_module::reason(&error) == "forbidden" => Presence::Forbidden,
                Err(error) => return Err(error),
            };
            self.0.insert(needed.clone(), presence);
        }
        Ok(&self.0[&needed])
    }
}

/// When an object was last written by anybody.
fn written(object: &Value) -> Option<String> {
    let fields = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let times = fields.filter_map(|one| one["time"].as_str());
    times.chain(object["metadata"]["creationTimestamp"].as_str()).max().map(str::to_owned)
}
