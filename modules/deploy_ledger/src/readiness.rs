//! Can one go back to the restore points of a deploy now? Pure: the record against what the caller
//! observed.
//!
//! Invariant: it fails closed. A layer that nobody looked at, a restore point that is not seen, a
//! name under which another guid lies: none of them is a way back.

use crate::brief::{brief, described_point};
use crate::ledger::{Deploy, Ledger, RestorePoint};
use ansible_module::Failure;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What was observed, by layer.
#[derive(Debug, Default)]
pub struct Layers(BTreeMap<String, Seen>);

#[derive(Debug)]
struct Seen {
    holds: Vec<Held>,
    open: bool,
    why: Option<String>,
}

/// Something that is there.
#[derive(Debug, Default)]
struct Held {
    /// A word of which nobody said whether it is a name, a guid or a digest.
    any: Option<String>,
    name: Option<String>,
    guid: Option<String>,
    digest: Option<String>,
}

impl Layers {
    pub fn parse(map: Map<String, Value>) -> Result<Layers, Failure> {
        let parsed = map.into_iter().map(|(layer, value)| {
            let seen = Seen::parse(value).map_err(|why| {
                Failure::new("bad_options", format!("argument 'layers': {layer}: {why}"))
            })?;
            Ok((layer, seen))
        });
        parsed.collect::<Result<_, Failure>>().map(Layers)
    }
}

impl Seen {
    fn parse(value: Value) -> Result<Seen, String> {
        let Value::Object(mut map) = value else {
            return Err(format!("expected a dictionary with open and holds, got {value}"));
        };
        let open = match map.remove("open") {
            Some(Value::Bool(open)) => open,
            // What a template was filled in with, on controllers that make text of it.
            Some(Value::String(word)) if word.eq_ignore_ascii_case("true") => true,
            Some(Value::String(word)) if word.eq_ignore_ascii_case("false") => false,
            Some(other) => return Err(format!("open must be true or false, got {other}")),
            None => return Err("it does not say open: true or open: false".into()),
        };
        let holds = match map.remove("holds") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(list)) => {
                list.into_iter().map(Held::parse).collect::<Result<_, _>>()?
            }
            Some(other) => return Err(format!("holds must be a list, got {other}")),
        };
        let why = map.remove("why").and_then(|why| word(&why)).filter(|why| !why.is_empty());
        match map.keys().next() {
            Some(key) => Err(format!("{key} is not known; there are holds, open and why")),
            None => Ok(Seen { holds, open, why }),
        }
    }
}

/// Ansible makes a number of a guid that nobody put into quotes.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

impl Held {
    fn parse(value: Value) -> Result<Held, String> {
        let Value::Object(map) = value else {
            let any = word(&value)
                .ok_or_else(|| format!("holds has {value}, which is no text and no dictionary"))?;
            return Ok(Held { any: Some(any), ..Held::default() });
        };
        // Other keys are welcome: the entry may be an answer of another module as it came.
        let get = |key: &str| map.get(key).and_then(word);
        let held = Held { any: None, name: get("name"), guid: get("guid"), digest: get("digest") };
        match (&held.name, &held.guid, &held.digest) {
            (None, None, None) => Err("holds has an entry without name, guid and digest".into()),
            _ => Ok(held),
        }
    }

    fn is(&self, point: &RestorePoint) -> Match {
        let same = |ours: &Option<String>, theirs: &Option<String>| match (ours, theirs) {
            (Some(ours), Some(theirs)) => Some(ours == theirs),
            _ => None,
        };
        if let Some(any) = &self.any {
            let sure = [&point.guid, &point.digest].into_iter().flatten().any(|it| it == any);
            return match (sure, *any == point.name) {
                (true, _) => Match::Yes,
                (false, true) => Match::Yes,
                (false, false) => Match::No,
            };
        }
        let identity = [same(&self.guid, &point.guid), same(&self.digest, &point.digest)];
        let named = self.name.as_ref() == Some(&point.name);
        if identity.contains(&Some(false)) {
            return if named { Match::Impostor } else { Match::No };
        }
        match identity.contains(&Some(true)) || named {
            true => Match::Yes,
            false => Match::No,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Match {
    Yes,
    No,
    /// The name is there, and something else under it.
    Impostor,
}

/// The answer for one layer.
struct Layer<'a> {
    why: Vec<String>,
    points: Vec<&'a RestorePoint>,
    missing: Vec<String>,
}

fn look<'a>(name: &str, deploy: &'a Deploy, seen: Option<&Seen>) -> Layer<'a> {
    let mut points: Vec<&RestorePoint> = Vec::new();
    for (_, point) in deploy.restore_points.iter().filter(|(_, point)| point.layer == name) {
        points.retain(|earlier| !earlier.is_same(point));
        points.push(point);
    }
    let mut layer = Layer { why: Vec::new(), points, missing: Vec::new() };
    let Some(seen) = seen else {
        layer.why.push(format!("nobody looked at the layer {name}"));
        return layer;
    };
    if layer.points.is_empty() {
        layer.why.push(format!("deploy {} captured nothing in the layer {name}", deploy.id));
    }
    if !seen.open {
        let why = seen.why.as_deref().unwrap_or("the layer does not say why");
        layer.why.push(format!("{name} cannot go back: {why}"));
    }
    for point in &layer.points {
        let found: Vec<Match> = seen.holds.iter().map(|held| held.is(point)).collect();
        if found.contains(&Match::Yes) {
            continue;
        }
        layer.missing.push(point.name.clone());
        layer.why.push(match found.contains(&Match::Impostor) {
            true => {
                format!("{name}: {} is there, but it is another one than was recorded", point.name)
            }
            false => format!("{name}: {} is gone", point.name),
        });
    }
    layer
}

/// Whether each layer can go back, by name: what was recorded, and what was asked about.
pub fn by_layer(deploy: &Deploy, layers: &Layers) -> BTreeMap<String, (bool, Value)> {
    let recorded = deploy.restore_points.iter().map(|(_, point)| &point.layer);
    let names: std::collections::BTreeSet<&String> = recorded.chain(layers.0.keys()).collect();
    let told = names.into_iter().map(|name| {
        let layer = look(name, deploy, layers.0.get(name));
        let ready = layer.why.is_empty();
        let points: Vec<Value> = layer.points.iter().map(|point| described_point(point)).collect();
        let value = json!({
            "ready": ready, "why": layer.why, "restore_points": points, "missing": layer.missing,
        });
        (name.clone(), (ready, value))
    });
    told.collect()
}

pub fn readiness(ledger: &Ledger, deploy: &Deploy, layers: &Layers) -> Value {
    let all = by_layer(deploy, layers);
    let mut why: Vec<Value> = Vec::new();
    if deploy.restore_points.is_empty() {
        why.push(json!(format!("deploy {} has no restore points", deploy.id)));
    }
    let before = ledger.before(&deploy.id);
    if let Some((before, (_, void))) = before.and_then(|it| it.void.as_ref().map(|void| (it, void)))
    {
        let release = before.opening.release.as_deref().unwrap_or("of deploy");
        why.push(json!(format!(
            "it would land on release {release} ({}), which is void: {void}",
            before.id
        )));
    }
    for (_, value) in all.values() {
        why.extend(value["why"].as_array().cloned().unwrap_or_default());
    }
    let layers: Map<String, Value> =
        all.into_iter().map(|(name, (_, value))| (name, value)).collect();
    json!({
        "deploy_id": deploy.id,
        "ready": why.is_empty(),
        "why": why,
        "lands_on": before.map(brief),
        "layers": layers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Data;

    fn point() -> RestorePoint {
        RestorePoint {
            layer: "dataset".into(),
            name: "tank/a@pre".into(),
            host: None,
            guid: Some("17".into()),
            digest: None,
            cost: Data::default(),
            data: Data::default(),
        }
    }

    fn matches(value: Value) -> bool {
        Held::parse(value).unwrap().is(&point()) == Match::Yes
    }

    #[test]
    fn a_name_is_not_enough_when_the_guid_is_another_one() {
        assert!(matches(json!("tank/a@pre")));
        assert!(matches(json!(17)));
        assert!(matches(json!({"name": "tank/a@pre"})));
        assert!(matches(json!({"name": "tank/a@renamed", "guid": 17})));
        assert!(matches(json!({"name": "tank/a@pre", "guid": "17", "digest": "x"})));
        assert!(!matches(json!({"name": "tank/a@pre", "guid": "18"})));
        assert!(!matches(json!("tank/a@pre2")));
        assert!(!matches(json!({"digest": "17"})));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let said = |value: Value| {
            let Value::Object(map) = json!({ "dataset": value }) else { unreachable!() };
            Layers::parse(map).unwrap_err().msg
        };
        assert!(said(json!(true)).contains("expected a dictionary"));
        assert!(said(json!({"holds": []})).contains("does not say open"));
        assert!(said(json!({"open": "maybe"})).contains("true or false"));
        assert!(said(json!({"open": true, "holds": "x"})).contains("must be a list"));
        assert!(said(json!({"open": true, "holds": [[]]})).contains("no text"));
        assert!(said(json!({"open": true, "holds": [{"x": 1}]})).contains("without name"));
        assert!(said(json!({"open": true, "hold": []})).contains("hold is not known"));
    }
}
