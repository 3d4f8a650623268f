//! Pod templates: their images, the objects that they need, and how two differ. Pure.

use crate::subject::Kind;
use host::secret;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The label that the controller adds to the template of a ReplicaSet.
const HASH: &str = "pod-template-hash";

/// An object in the namespace that a pod cannot start without.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needed {
    ConfigMap(String),
    Secret(String),
    ServiceAccount(String),
    Claim(String),
}

impl Needed {
    /// Returns the plural of its kind, as in paths of the API, and its name.
    pub fn kind_and_name(&self) -> (&'static str, &str) {
        match self {
            Needed::ConfigMap(name) => ("configmaps", name),
            Needed::Secret(name) => ("secrets", name),
            Needed::ServiceAccount(name) => ("serviceaccounts", name),
            Needed::Claim(name) => ("persistentvolumeclaims", name),
        }
    }

    pub fn shown(&self) -> String {
        match self {
            Needed::ConfigMap(name) => format!("ConfigMap {name}"),
            Needed::Secret(name) => format!("Secret {name}"),
            Needed::ServiceAccount(name) => format!("ServiceAccount {name}"),
            Needed::Claim(name) => format!("PersistentVolumeClaim {name}"),
        }
    }
}

/// Returns the template of a revision, without what its controller has added.
pub fn of_revision(kind: Kind, holder: &Value) -> Value {
    let mut template = match kind {
        Kind::Deployment => holder["spec"]["template"].clone(),
        Kind::StatefulSet | Kind::DaemonSet => holder["data"]["spec"]["template"].clone(),
    };
    // A ControllerRevision is a patch of the workload.
    if let Some(all) = template.as_object_mut() {
        all.remove("$patch");
    }
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(HASH);
    }
    template
}

/// Returns the images by container, those of init containers included.
pub fn images(template: &Value) -> BTreeMap<String, String> {
    (containers(template))
        .filter_map(|one| {
            Some((one["name"].as_str()?.to_owned(), one["image"].as_str()?.to_owned()))
        })
        .collect()
}

pub fn shown_images(template: &Value) -> String {
    images(template)
        .into_values()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect::<Vec<_>>()
        .join(", ")
}

fn containers(template: &Value) -> impl Iterator<Item = &Value> {
    let list = |key: &str| template["spec"][key].as_array().into_iter().flatten();
    list("initContainers").chain(list("containers"))
}

/// Collects the objects that a pod of this template needs; optional ones are left out.
pub fn needs(template: &Value) -> BTreeSet<Needed> {
    references(template)
        .into_iter()
        .filter_map(|(needed, optional)| (!optional).then_some(needed))
        .collect()
}

/// Returns the names of all Secrets that a pod of this template reads, optional ones included.
pub fn secrets(template: &Value) -> BTreeSet<String> {
    let name = |needed| match needed {
        Needed::Secret(name) => Some(name),
        _ => None,
    };
    references(template).into_iter().filter_map(|(needed, _)| name(needed)).collect()
}

/// Returns the entries of `env` of all containers.
pub fn variables(template: &Value) -> impl Iterator<Item = &Value> {
    containers(template).flat_map(|one| list(&one["env"]))
}

/// Collects the objects that a pod of this template names, each with whether it is optional.
fn references(template: &Value) -> BTreeSet<(Needed, bool)> {
    let mut found = BTreeSet::new();
    let mut note = |make: fn(String) -> Needed, reference: &Value, key: &str| {
        if let Some(name) = reference[key].as_str() {
            found.insert((make(name.to_owned()), reference["optional"] == true));
        }
    };
    for container in containers(template) {
        for from in list(&container["envFrom"]) {
            note(Needed::ConfigMap, &from["configMapRef"], "name");
            note(Needed::Secret, &from["secretRef"], "name");
        }
        for variable in list(&container["env"]) {
            note(Needed::ConfigMap, &variable["valueFrom"]["configMapKeyRef"], "name");
            note(Needed::Secret, &variable["valueFrom"]["secretKeyRef"], "name");
        }
    }
    let spec = &template["spec"];
    for volume in list(&spec["volumes"]) {
        note(Needed::ConfigMap, &volume["configMap"], "name");
        note(Needed::Secret, &volume["secret"], "secretName");
        note(Needed::Claim, &volume["persistentVolumeClaim"], "claimName");
        for source in list(&volume["projected"]["sources"]) {
            note(Needed::ConfigMap, &source["configMap"], "name");
            note(Needed::Secret, &source["secret"], "name");
        }
    }
    note(Needed::ServiceAccount, spec, "serviceAccountName");
    found
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Compares two templates; returns the differing values of each by path. Values whose names suggest a secret are hidden.
pub fn differences(one: &Value, other: &Value) -> (Value, Value) {
    let (mut left, mut right) = (BTreeMap::new(), BTreeMap::new());
    flatten(one, String::new(), false, &mut left);
    flatten(other, String::new(), false, &mut right);
    let only = |these: &BTreeMap<String, (String, bool)>,
                those: &BTreeMap<String, (String, bool)>| {
        let differ = these.iter().filter(|(path, value)| those.get(*path) != Some(*value));
        let shown = differ.map(|(path, (text, hidden))| {
            let text = if *hidden { "(hidden)".to_owned() } else { text.clone() };
            (path.clone(), Value::String(text))
        });
        Value::Object(shown.collect())
    };
    (only(&left, &right), only(&right, &left))
}

/// Flattens a value into paths. Elements of a list are identified by their name if they have one, so that adding one changes no other path.
fn flatten(value: &Value, path: String, hidden: bool, into: &mut BTreeMap<String, (String, bool)>) {
    let below =
        |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(all) => {
            let named_secret =
                all.get("name").and_then(Value::as_str).is_some_and(secret::is_named);
            for (key, value) in all {
                flatten(value, below(key), hidden || (named_secret && key == "value"), into);
            }
        }
        Value::Array(all) => {
            for (number, value) in all.iter().enumerate() {
                let name = value["name"].as_str().map_or_else(|| number.to_string(), str::to_owned);
                flatten(value, format!("{path}[{name}]"), hidden, into);
            }
        }
        Value::String(text) => drop(into.insert(path, (text.clone(), hidden))),
        other => drop(into.insert(path, (other.to_string(), hidden))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn needed_objects_are_found_in_every_field() {
        let template = json!({ "spec": {
            "serviceAccountName": "web",
            "initContainers": [{ "name": "i", "envFrom": [{ "configMapRef": { "name": "a" } }, { "secretRef": { "name": "b", "optional": true } }] }],
            "containers": [{ "name": "c", "env": [
                { "name": "X", "valueFrom": { "secretKeyRef": { "name": "d", "key": "k" } } },
                { "name": "Y", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } }] }],
            "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "e" } }, { "name": "w", "secret": { "secretName": "f" } },
                { "name": "x", "projected": { "sources": [{ "configMap": { "name": "g" } }, { "secret": { "name": "h", "optional": false } }] } }],
        } });
        let names: Vec<String> = needs(&template).iter().map(Needed::shown).collect();
        let expected = [
            "ConfigMap a",
            "ConfigMap g",
            "Secret d",
            "Secret f",
            "Secret h",
            "ServiceAccount web",
            "PersistentVolumeClaim e",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn a_difference_shows_no_secret() {
        let template = |image: &str, password: &str| json!({ "spec": { "containers": [{ "name": "web", "image": image, "env": [{ "name": "DB_PASSWORD", "value": password }] }] } });
        let (before, after) = differences(&template("shop:1", "x"), &template("shop:2", "y"));
        assert_eq!(before["spec.containers[web].image"], "shop:1");
        assert_eq!(after["spec.containers[web].image"], "shop:2");
        assert_eq!(after["spec.containers[web].env[DB_PASSWORD].value"], "(hidden)");
        assert_eq!(after.as_object().map(serde_json::Map::len), Some(2));
    }

    #[test]
    fn a_revision_is_compared_without_its_hash() {
        let labels = json!({ "app": "web", "pod-template-hash": "58b4c8f4df" });
        let replica_set = json!({ "spec": { "template": { "metadata": { "labels": labels } } } });
        assert_eq!(
            of_revision(Kind::Deployment, &replica_set),
            json!({ "metadata": { "labels": { "app": "web" } } })
        );
    }
}
