//! The fields of `docker inspect` for containers and volumes that are used here.
//!
//! Invariant: a field that some versions omit has a default; an indispensable one has none.

use host::clock::Utc;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

pub const PROJECT: &str = "com.docker.compose.project";
pub const SERVICE: &str = "com.docker.compose.service";
pub const NUMBER: &str = "com.docker.compose.container-number";
pub const CONFIG_HASH: &str = "com.docker.compose.config-hash";
pub const ONE_OFF: &str = "com.docker.compose.oneoff";
pub const WORKING_DIR: &str = "com.docker.compose.project.working_dir";
pub const CONFIG_FILES: &str = "com.docker.compose.project.config_files";
pub const ENV_FILES: &str = "com.docker.compose.project.environment_file";

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Container {
    pub id: String,
    name: String,
    /// The time of creation in RFC 3339, with nanoseconds.
    #[serde(default)]
    created: String,
    /// The id of its image: the digest of a configuration, or of a manifest with the containerd image store.
    pub image: String,
    pub state: State,
    pub config: Config,
    #[serde(default)]
    pub mounts: Vec<MountPoint>,
    #[serde(default)]
    host_config: HostConfig,
    /// The size of its writable layer, if that was requested.
    #[serde(default, rename = "SizeRw")]
    own_layer: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    #[serde(default)]
    restart_policy: Option<RestartPolicy>,
}

/// When the engine restarts a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RestartPolicy {
    name: String,
    #[serde(default)]
    maximum_retry_count: u32,
}

impl RestartPolicy {
    pub fn no() -> RestartPolicy {
        RestartPolicy { name: "no".to_owned(), maximum_retry_count: 0 }
    }

    pub fn restarts(&self) -> bool {
        !matches!(self.name.as_str(), "" | "no")
    }
}

/// Formats it as an argument of `docker update --restart`.
impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.maximum_retry_count {
            0 => f.write_str(&self.name),
            most => write!(f, "{}:{most}", self.name),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct State {
    pub status: String,
    #[serde(default)]
    pub running: bool,
    #[serde(default)]
    pub paused: bool,
    #[serde(default)]
    pub exit_code: i64,
    #[serde(default)]
    started_at: String,
    #[serde(default)]
    pub health: Option<Health>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Health {
    pub status: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Config {
    /// The image as it was requested: a name or an id.
    #[serde(default)]
    pub image: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MountPoint {
    #[serde(rename = "Type", default)]
    pub kind: String,
    /// The name of a volume.
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub source: PathBuf,
    pub destination: PathBuf,
    #[serde(default, rename = "RW")]
    pub writable: bool,
}

impl Container {
    /// Returns the name without the engine's leading slash.
    pub fn name(&self) -> &str {
        self.name.trim_start_matches('/')
    }

    /// Returns when it was created, by the engine's clock in UTC.
    pub fn created(&self) -> Option<Utc> {
        format!("{}Z", self.created.get(..19)?).parse().ok()
    }

    /// Returns when it was last started, as the engine's text; `None` if never.
    pub fn started(&self) -> Option<&str> {
        let at = self.state.started_at.as_str();
        (!at.is_empty() && !at.starts_with("0001-")).then_some(at)
    }

    /// Returns the size of its writable layer, if it was requested and the engine knows it.
    pub fn own_layer(&self) -> Option<u64> {
        u64::try_from(self.own_layer?).ok()
    }

    pub fn restart_policy(&self) -> Option<&RestartPolicy> {
        self.host_config.restart_policy.as_ref()
    }

    pub fn label(&self, name: &str) -> Option<&str> {
        self.config.labels.as_ref()?.get(name).map(String::as_str)
    }

    pub fn service(&self) -> Option<&str> {
        self.label(SERVICE)
    }

    /// Returns its number among the containers of its service.
    pub fn number(&self) -> Option<u32> {
        self.label(NUMBER)?.parse().ok()
    }

    pub fn project(&self) -> Option<&str> {
        self.label(PROJECT)
    }

    pub fn is_one_off(&self) -> bool {
        self.label(ONE_OFF).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    pub fn anonymous_volumes(&self) -> impl Iterator<Item = (&Path, &str)> {
        let volumes = self.mounts.iter().filter(|one| one.kind == "volume");
        let named =
            volumes.filter_map(|one| Some((one.destination.as_path(), one.name.as_deref()?)));
        named.filter(|(_, name)| is_anonymous(name))
    }

    pub fn has_volume(&self, target: &Path, name: &str) -> bool {
        let mut mounts = self.mounts.iter();
        mounts.any(|one| one.destination == target && one.name.as_deref() == Some(name))
    }

    /// Whether it is running and not restarting.
    pub fn is_up(&self) -> bool {
        self.state.running && self.state.status != "restarting"
    }

    pub fn health(&self) -> Option<&str> {
        let status = self.state.health.as_ref()?.status.as_str();
        // It is empty for a paused container, and "none" without a health check in some versions.
        (!matches!(status, "" | "none")).then_some(status)
    }
}

/// Whether the engine has made up the name, of 32 random bytes.
pub fn is_anonymous(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Volume {
    pub name: String,
    pub driver: String,
    pub mountpoint: PathBuf,
    #[serde(default)]
    pub options: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub labels: Option<BTreeMap<String, String>>,
}

impl Volume {
    /// Whether it is a plain folder: the local driver without options.
    pub fn is_plain(&self) -> bool {
        self.driver == "local" && self.options.as_ref().is_none_or(BTreeMap::is_empty)
    }

    /// Returns the folder that a volume of the local driver is a bind mount of.
    pub fn bound_folder(&self) -> Option<PathBuf> {
        let options = self.options.as_ref().filter(|_| self.driver == "local")?;
        let is_bind = options
            .get("o")
            .is_some_and(|o| o.split(',').any(|one| matches!(one, "bind" | "rbind")));
        options.get("device").filter(|_| is_bind).map(PathBuf::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_of_the_local_driver() {
        let volume = |options: &str| -> Volume {
            let text = format!(
                r#"{{"Name":"v","Driver":"local","Mountpoint":"/d","Options":{options},"Labels":null}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        assert!(volume("null").is_plain() && volume("{}").is_plain());
        let bound = volume(r#"{"type":"none","o":"rw,bind","device":"/srv/x"}"#);
        assert!(!bound.is_plain());
        assert_eq!(bound.bound_folder(), Some("/srv/x".into()));
        assert_eq!(volume(r#"{"type":"nfs","o":"addr=1","device":":/x"}"#).bound_folder(), None);
    }
}
