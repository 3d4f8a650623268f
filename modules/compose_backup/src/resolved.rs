//! The parts of `docker compose config --format json` that are used here. Pure.
//!
//! Invariant: the value is kept as it was printed; in texts that are read from it, `$$` becomes `$`, as when
//! Compose reads its own output.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

#[derive(Clone, Debug)]
pub struct Resolved {
    pub value: Value,
    pub project: String,
    pub services: BTreeMap<String, Service>,
    pub volumes: BTreeMap<String, NamedVolume>,
    /// Files of `secrets:` and `configs:`.
    pub files: BTreeSet<PathBuf>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// The image; `None` if it is built and named after the project and the service.
    pub image: Option<String>,
    pub mounts: Vec<ConfiguredMount>,
    pub depends_on: BTreeMap<String, String>,
    pub scale: usize,
    pub environment: Vec<String>,
}

/// A mount in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfiguredMount {
    pub kind: String,
    /// A path, the key of a volume, or `None` for an anonymous volume.
    pub source: Option<String>,
    pub target: PathBuf,
    pub read_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedVolume {
    pub name: String,
    pub external: bool,
}

/// A network or volume that Compose expects to exist.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum External {
    Network(String),
    Volume(String),
}

impl Resolved {
    pub fn parse(value: Value) -> Result<Resolved> {
        let root = value.as_object().context("it is not an object")?;
        let project = text(root, "name").context("it has no project name")?;
        let mut services = BTreeMap::new();
        for (name, service) in objects(root, "services") {
            services.insert(
                name.clone(),
                Service::parse(service).with_context(|| format!("service {name}"))?,
            );
        }
        let named = objects(root, "volumes").map(|(key, volume)| {
            let name = text(volume, "name").unwrap_or_else(|| format!("{project}_{key}"));
            (key.clone(), NamedVolume { name, external: is_external(volume) })
        });
        let volumes = named.collect();
        let file = |(_, one): (&String, &Map<String, Value>)| text(one, "file").map(PathBuf::from);
        let files =
            objects(root, "secrets").chain(objects(root, "configs")).filter_map(file).collect();
        Ok(Resolved { project, services, volumes, files, value })
    }

    /// Returns the name of a service's image.
    pub fn image_of(&self, service: &str) -> String {
        let given = self.services.get(service).and_then(|one| one.image.clone());
        given.unwrap_or_else(|| format!("{}-{service}", self.project))
    }

    /// Returns the values of the services' environment, which may be secrets.
    pub fn environment(&self) -> impl Iterator<Item = String> + '_ {
        self.services.values().flat_map(|service| service.environment.iter().cloned())
    }

    /// Sorts the services into levels: each depends only on earlier ones.
    pub fn levels(&self) -> Vec<Vec<String>> {
        levels(self.services.iter().map(|(name, service)| (name, &service.depends_on)))
    }
}

/// Sorts services, given with their dependencies, into levels: each depends only on earlier ones.
pub fn levels<'a>(
    services: impl Iterator<Item = (&'a String, &'a BTreeMap<String, String>)>,
) -> Vec<Vec<String>> {
    let services: BTreeMap<&String, &BTreeMap<String, String>> = services.collect();
    let known = |name: &&String| services.contains_key(*name);
    let mut waiting: BTreeMap<&String, BTreeSet<&String>> = (services.iter())
        .map(|(name, depends_on)| (*name, depends_on.keys().filter(known).collect()))
        .collect();
    let mut levels = Vec::new();
    while !waiting.is_empty() {
        let free: Vec<&String> =
            waiting.iter().filter(|(_, needs)| needs.is_empty()).map(|(name, _)| *name).collect();
        // Compose refuses a circle; here the rest is taken in any order.
        let level = if free.is_empty() { waiting.keys().copied().collect() } else { free };
        waiting.retain(|name, _| !level.contains(name));
        waiting.values_mut().for_each(|needs| needs.retain(|one| !level.contains(one)));
        levels.push(level.into_iter().cloned().collect());
    }
    levels
}

impl Service {
    fn parse(service: &Map<String, Value>) -> Result<Service> {
        let mut mounts = Vec::new();
        for one in service.get("volumes").and_then(Value::as_array).into_iter().flatten() {
            let Some(one) = one.as_object() else { bail!("a mount is not an object: {one}") };
            mounts.push(ConfiguredMount {
                kind: text(one, "type").context("a mount has no type")?,
                source: text(one, "source"),
                target: text(one, "target").context("a mount has no target")?.into(),
                read_only: one.get("read_only") == Some(&Value::Bool(true)),
            });
        }
        let depends_on = match service.get("depends_on") {
            Some(Value::Object(map)) => (map.iter())
                .map(|(name, how)| {
                    let condition = how.get("condition").and_then(Value::as_str);
                    (name.clone(), condition.unwrap_or("service_started").to_owned())
                })
                .collect(),
            Some(Value::Array(list)) => (list.iter().filter_map(Value::as_str))
                .map(|name| (name.to_owned(), "service_started".to_owned()))
                .collect(),
            _ => BTreeMap::new(),
        };
        let number = |value: Option<&Value>| value.and_then(Value::as_u64);
        let scale = number(service.get("scale"))
            .or_else(|| number(service.get("deploy").and_then(|deploy| deploy.get("replicas"))))
            .unwrap_or(1);
        let environment = service.get("environment").and_then(Value::as_object);
        Ok(Service {
            image: text(service, "image"),
            mounts,
            depends_on,
            scale: usize::try_from(scale)?,
            environment: (environment.into_iter().flat_map(Map::values))
                .filter_map(|value| value.as_str().map(plain))
                .collect(),
        })
    }
}

/// Returns the external networks and volumes that any service uses. Compose checks all of them, whichever
/// services it starts (as of 2.26; newer versions check those of the started services).
pub fn external(config: &Value) -> BTreeSet<External> {
    let mut found = BTreeSet::new();
    let Some(root) = config.as_object() else { return found };
    let name_of = |list: &str, key: &str| {
        let (_, one) = objects(root, list).find(|(name, _)| *name == key)?;
        is_external(one).then(|| text(one, "name").unwrap_or_else(|| key.to_owned()))
    };
    for (_, service) in objects(root, "services") {
        // A network without options has the value null.
        let networks = service.get("networks").and_then(Value::as_object).into_iter().flatten();
        let names = networks.filter_map(|(key, _)| name_of("networks", key));
        found.extend(names.map(External::Network));
        let mounts = service.get("volumes").and_then(Value::as_array).into_iter().flatten();
        let volumes = mounts.filter(|one| one["type"] == "volume");
        let keys = volumes.filter_map(|one| one["source"].as_str());
        found.extend(keys.filter_map(|key| name_of("volumes", key)).map(External::Volume));
    }
    found
}

fn is_external(one: &Map<String, Value>) -> bool {
    one.get("external").is_some_and(|external| *external != Value::Bool(false))
}

fn text(map: &Map<String, Value>, key: &str) -> Option<String> {
    map.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(plain)
}

fn plain(text: &str) -> String {
    text.replace("$$", "$")
}

fn objects<'a>(
    map: &'a Map<String, Value>,
    key: &str,
) -> impl Iterator<Item = (&'a String, &'a Map<String, Value>)> {
    let inner = map.get(key).and_then(Value::as_object);
    inner.into_iter().flatten().filter_map(|(name, value)| Some((name, value.as_object()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_configuration_is_parsed() {
        let resolved = Resolved::parse(json!({
            "name": "shop",
            "services": {
                "web": {
                    "build": {"context": "/p"}, "image": "shop/web:1", "scale": 2,
                    "depends_on": {"db": {"condition": "service_healthy", "required": true}},
                    "environment": {"PASSWORD": "a$$b", "EMPTY": null},
                    "volumes": [{"type": "bind", "source": "/srv/$$x", "target": "/x", "bind": {}, "read_only": true}]
                },
                "db": {"volumes": [{"type": "volume", "source": "data", "target": "/d"}, {"type": "volume", "target": "/a"}]},
                "job": {"depends_on": ["web"]}
            },
            "volumes": {"data": {"name": "shop_data"}, "out": {"name": "out", "external": true}},
            "secrets": {"key": {"name": "shop_key", "file": "/p/key"}}
        }))
        .unwrap();
        assert_eq!(resolved.levels(), [["db"], ["web"], ["job"]]);
        let web = &resolved.services["web"];
        assert_eq!((web.scale, web.mounts[0].source.as_deref()), (2, Some("/srv/$x")));
        assert!(web.mounts[0].read_only);
        assert_eq!(web.depends_on["db"], "service_healthy");
        assert_eq!(resolved.environment().collect::<Vec<_>>(), ["a$b"]);
        assert_eq!(resolved.image_of("db"), "shop-db");
        assert_eq!(resolved.services["db"].mounts[1].source, None);
        assert!(resolved.volumes["out"].external && !resolved.volumes["data"].external);
        assert_eq!(resolved.files, BTreeSet::from(["/p/key".into()]));
    }

    #[test]
    fn external_networks_and_volumes_are_found() {
        let config = json!({
            "services": {
                "web": {"networks": {"default": null, "front": {"aliases": ["w"]}},
                        "volumes": [{"type": "volume", "source": "out", "target": "/o"}, {"type": "volume", "target": "/a"}]},
                "db": {"networks": {"default": null, "front": null}}
            },
            "networks": {"default": {"name": "shop_default"}, "front": {"name": "edge", "external": true},
                         "unused": {"name": "unused", "external": true}},
            "volumes": {"out": {"name": "files", "external": true}}
        });
        let seen = [External::Network("edge".into()), External::Volume("files".into())];
        assert_eq!(external(&config), BTreeSet::from(seen));
    }

    #[test]
    fn malformed_configurations_are_refused() {
        assert!(Resolved::parse(json!([])).is_err());
        assert!(Resolved::parse(json!({"services": {}})).is_err());
        let odd = json!({"name": "x", "services": {"a": {"volumes": ["a:b"]}}});
        assert!(Resolved::parse(odd).is_err());
    }
}
