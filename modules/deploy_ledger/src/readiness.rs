//! Decides whether going back to the restore points of a deploy is possible now, by comparing the record
//! with what the caller observed. Pure.
//!
//! Invariant: it fails closed. A layer that was not observed, a restore point that was not found, and a
//! name with another guid are not ready.

use crate::brief::{brief, described_point};
use crate::ledger::{Deploy, Ledger, Outcome, RestorePoint};
use ansible_module::Failure;
use host::deploy_id::DeployId;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The observed layers, by name.
#[derive(Debug, Default)]
pub struct Layers(BTreeMap<String, Seen>);

#[derive(Debug)]
struct Seen {
    holds: Vec<Observed>,
    /// Hosts that did not answer, and why.
    silent: BTreeMap<String, String>,
    open: bool,
    why: Option<String>,
}

/// A restore point that was observed.
#[derive(Debug, Default)]
struct Observed {
    /// A single word, which may be a name, a guid or a digest.
    any: Option<String>,
    /// The host that it is on.
    host: Option<String>,
    /// The word by which the layer's module is asked to go back to it.
    word: Option<String>,
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
            // Some controllers make text of the result of a template.
            Some(Value::String(word)) if word.eq_ignore_ascii_case("true") => true,
            Some(Value::String(word)) if word.eq_ignore_ascii_case("false") => false,
            Some(other) => return Err(format!("open must be true or false, got {other}")),
            None => return Err("it does not say open: true or open: false".into()),
        };
        let holds = match map.remove("holds") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(list)) => {
                list.into_iter().map(Observed::parse).collect::<Result<_, _>>()?
            }
            Some(other) => return Err(format!("holds must be a list, got {other}")),
        };
        let silent = match map.remove("silent") {
            None | Some(Value::Null) => BTreeMap::new(),
            Some(Value::Object(hosts)) => {
                let pair = |(host, why): (String, Value)| {
                    (host, word(&why).unwrap_or_else(|| "it does not answer".into()))
                };
                hosts.into_iter().map(pair).collect()
            }
            Some(other) => {
                return Err(format!("silent must be a dictionary of hosts, got {other}"));
            }
        };
        let why = map.remove("why").and_then(|why| word(&why)).filter(|why| !why.is_empty());
        match map.keys().next() {
            Some(key) => Err(format!("{key} is not known; there are holds, silent, open and why")),
            None => Ok(Seen { holds, silent, open, why }),
        }
    }
}

/// Reads a word. Ansible makes a number of a guid without quotes.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

impl Observed {
    fn parse(value: Value) -> Result<Observed, String> {
        let Value::Object(map) = value else {
            let any = word(&value)
                .ok_or_else(|| format!("holds has {value}, which is no text and no dictionary"))?;
            return Ok(Observed { any: Some(any), ..Observed::default() });
        };
        // Other keys are ignored: the entry may be the unchanged result of another module.
        let get = |key: &str| map.get(key).and_then(word);
        let held = Observed {
            any: None,
            host: get("host"),
            word: get("word"),
            name: get("name"),
            guid: get("guid"),
            digest: get("digest"),
        };
        match (&held.word, &held.name, &held.guid, &held.digest) {
            (None, None, None, None) => {
                Err("holds has an entry without name, guid, digest and word".into())
            }
            _ => Ok(held),
        }
    }

    fn is(&self, deploy: &DeployId, point: &RestorePoint) -> Match {
        if matches!((&self.host, &point.host), (Some(here), Some(there)) if here != there) {
            return Match::No;
        }
        if let Some(word) = &self.word {
            return if *word == wanted(deploy, point) { Match::Yes } else { Match::No };
        }
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

/// The word by which the layer's module is asked for the restore point. Data that a rollback has parked
/// has another name.
fn wanted(deploy: &DeployId, point: &RestorePoint) -> String {
    let aside = |key: &str| Some(point.data.map().get(key)?.as_str()?.to_owned());
    match point.layer.as_str() {
        "dataset" => aside("parked").unwrap_or_else(|| deploy.to_string()),
        "compose" => aside("undo").unwrap_or_else(|| point.name.clone()),
        _ => point.name.clone(),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Match {
    Yes,
    No,
    /// The name exists, but with another guid or digest.
    Impostor,
}

/// The readiness of one layer.
struct Layer<'a> {
    why: Vec<String>,
    points: Vec<&'a RestorePoint>,
    missing: Vec<String>,
}

fn check<'a>(name: &str, deploy: &'a Deploy, seen: Option<&Seen>) -> Layer<'a> {
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
        if let Some(why) = missing(deploy, point, seen) {
            layer.missing.push(point.name.clone());
            layer.why.push(why);
        }
    }
    layer
}

/// Why the restore point was not found; `None` when it was.
fn missing(deploy: &Deploy, point: &RestorePoint, seen: &Seen) -> Option<String> {
    let (layer, name) = (&point.layer, &point.name);
    if let Some((host, why)) = point.host.as_ref().and_then(|host| seen.silent.get_key_value(host))
    {
        return Some(format!("{layer}: {host} cannot say whether it holds {name}: {why}"));
    }
    let found: Vec<Match> = seen.holds.iter().map(|held| held.is(&deploy.id, point)).collect();
    match (found.contains(&Match::Yes), found.contains(&Match::Impostor)) {
        (true, _) => None,
        (false, true) => {
            Some(format!("{layer}: {name} is there, but it is another one than was recorded"))
        }
        (false, false) => Some(format!("{layer}: {name} is gone")),
    }
}

/// Why going back to this restore point is not possible now; `None` when it is.
pub fn closed(deploy: &Deploy, point: &RestorePoint, layers: &Layers) -> Option<String> {
    let Some(seen) = layers.0.get(&point.layer) else {
        return Some(format!("nobody looked at the layer {}", point.layer));
    };
    missing(deploy, point, seen).or_else(|| {
        let why = seen.why.as_deref().unwrap_or("the layer does not say why");
        (!seen.open).then(|| format!("{} cannot go back: {why}", point.layer))
    })
}

/// By layer, whether going back to its newest restore point is possible. Only deploys count, not what a
/// killed run has left.
pub fn rollback_possible(ledger: &Ledger, layers: &Layers) -> BTreeMap<String, bool> {
    let known = ledger.deploys.iter().flat_map(|deploy| &deploy.restore_points);
    let mut names: Vec<&String> = known.map(|(_, point)| &point.layer).collect();
    names.extend(layers.0.keys());
    names.sort();
    names.dedup();
    let holds = |deploy: &Deploy, layer: &str| {
        deploy.restore_points.iter().any(|(_, it)| it.layer == layer)
    };
    let possible = |name: &String| {
        let newest = ledger.newest_that(|deploy| {
            let is_deploy = deploy.opening.back_to.is_none();
            // A deploy that went back by itself has taken back all but its databases, and a restore point
            // of a database that was made live is none any more.
            let is_valid = match name.as_str() {
                "database" => !ledger.deploys.iter().any(|later| {
                    later.opening.back_to.as_ref() == Some(&deploy.id) && holds(later, "database")
                }),
                _ => deploy.outcome() != Some(Outcome::FailedReverted),
            };
            is_deploy && is_valid && {
                let mut points = deploy.restore_points.iter().map(|(_, point)| point);
                points.any(|it| it.layer == *name && !it.data.map().contains_key("half_way"))
            }
        });
        let open =
            newest.is_some_and(|deploy| check(name, deploy, layers.0.get(name)).why.is_empty());
        (name.clone(), open)
    };
    names.into_iter().map(possible).collect()
}

/// The readiness of each recorded or observed layer, by name.
pub fn by_layer(deploy: &Deploy, layers: &Layers) -> BTreeMap<String, (bool, Value)> {
    let recorded = deploy.restore_points.iter().map(|(_, point)| &point.layer);
    let names: std::collections::BTreeSet<&String> = recorded.chain(layers.0.keys()).collect();
    let checked = names.into_iter().map(|name| {
        let layer = check(name, deploy, layers.0.get(name));
        let ready = layer.why.is_empty();
        let points: Vec<Value> = layer.points.iter().map(|point| described_point(point)).collect();
        let value = json!({
            "ready": ready, "why": layer.why, "restore_points": points, "missing": layer.missing,
        });
        (name.clone(), (ready, value))
    });
    checked.collect()
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
        let deploy = DeployId::parse("20261121t084500z-7f3a").unwrap();
        Observed::parse(value).unwrap().is(&deploy, &point()) == Match::Yes
    }

    #[test]
    fn one_host_does_not_hold_what_another_one_has_lost() {
        let mut on_a = point();
        on_a.host = Some("a".into());
        let deploy = DeployId::parse("20261121t084500z-7f3a").unwrap();
        let is = |value: Value| Observed::parse(value).unwrap().is(&deploy, &on_a) == Match::Yes;
        assert!(is(json!({"host": "a", "name": "tank/a@pre"})));
        assert!(!is(json!({"host": "b", "name": "tank/a@pre"})));
        // The module of datasets is asked for the deploy, or for what a rollback has set aside.
        assert!(is(json!({"host": "a", "word": "20261121t084500z-7f3a"})));
        assert!(!is(json!({"host": "a", "word": "tank/a@pre"})));
    }

    #[test]
    fn a_database_is_left_by_the_automatic_way_back_and_its_point_is_used_once() {
        let line = |id: &str, event: String| {
            format!(
                "{{\"v\":1,\"at\":\"2026-11-21T08:45:00Z\",\"deploy\":\"20261121t08450{id}\",\"event\":{event}}}\n"
            )
        };
        let run = |id: &str, back_to: &str, outcome: &str| {
            let open = format!(
                "{{\"open\":{{\"app\":\"shop\",\"env\":\"prod\",\"release\":null,\"by\":\"\",\"lease\":60,\"take_over\":null{back_to}}}}}"
            );
            let point =
                format!("{{\"restore_point\":{{\"layer\":\"database\",\"name\":\"of {id}\"}}}}");
            let close = format!("{{\"close\":{{\"outcome\":\"{outcome}\"}}}}");
            [open, point, close].map(|event| line(id, event)).concat()
        };
        let open = |text: &str, there: &str| {
            let ledger = Ledger::parse(text.as_bytes(), crate::ledger::Scope::All).ok().unwrap();
            let seen = json!({ "database": { "open": true, "holds": [there] } });
            let Value::Object(seen) = seen else { unreachable!() };
            rollback_possible(&ledger, &Layers::parse(seen).ok().unwrap())["database"]
        };
        let text = run("0z-0000", "", "done") + &run("1z-0000", "", "failed_reverted");
        assert!(open(&text, "of 1z-0000") && !open(&text, "of 0z-0000"));
        let back = ",\"back_to\":\"20261121t084501z-0000\"";
        let text = text + &run("2z-0000", back, "done");
        assert!(open(&text, "of 0z-0000") && !open(&text, "of 1z-0000"));
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
