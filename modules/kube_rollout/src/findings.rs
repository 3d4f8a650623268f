//! Checks that the objects that a pod template needs exist. Reads only.

use crate::kubectl::{Kubectl, encoded};
use crate::subject::Subject;
use crate::template::{self, Needed};
use anyhow::Result;
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Presence {
    /// With the time of its last change, if the server records one.
    Exists(Option<String>),
    Missing,
    Forbidden,
}

/// A cache of the objects of one namespace, so that each is requested once.
#[derive(Default)]
pub struct Objects(BTreeMap<Needed, Presence>);

/// What prevents a template from running again, and what the operator should know before it does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    pub missing: Vec<String>,
    pub warnings: Vec<String>,
}

impl Objects {
    /// Checks the objects that a template needs. One that was changed after `since`, when the revision was made, gets a warning.
    pub fn check(
        &mut self,
        kubectl: &Kubectl,
        subject: &Subject,
        template: &Value,
        since: &str,
    ) -> Result<Findings> {
        let mut found = Findings::default();
        for needed in template::needs(template) {
            let shown = needed.shown();
            match self.find(kubectl, subject, needed)? {
                Presence::Missing => found.missing.push(format!("{shown} does not exist")),
                Presence::Forbidden => found.warnings.push(format!("whether {shown} exists is unknown: the account may not read it")),
                Presence::Exists(Some(written)) if written.as_str() > since => found.warnings.push(format!(
                    "{shown} was changed at {written}, after that revision was made: a rollback does not restore its content"
                )),
                Presence::Exists(_) => {}
            }
        }
        Ok(found)
    }

    fn find(&mut self, kubectl: &Kubectl, subject: &Subject, needed: Needed) -> Result<&Presence> {
        if !self.0.contains_key(&needed) {
            let (kind, name) = needed.kind_and_name();
            let path = format!("{}/{}", subject.path("/api/v1", kind), encoded(name));
            let presence = match kubectl.find_object(&path) {
                Ok(Some(object)) => Presence::Exists(last_change(&object)),
                Ok(None) => Presence::Missing,
                Err(error) if ansible_module::reason(&error) == "forbidden" => Presence::Forbidden,
                Err(error) => return Err(error),
            };
            self.0.insert(needed.clone(), presence);
        }
        Ok(&self.0[&needed])
    }
}

/// Returns the time of an object's last change by anybody.
fn last_change(object: &Value) -> Option<String> {
    let fields = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let times = fields.filter_map(|one| one["time"].as_str());
    times.chain(object["metadata"]["creationTimestamp"].as_str()).max().map(str::to_owned)
}
