//! The workload of a task, and its paths in the API.

use crate::kubectl::{Access, encoded};
use ansible_module::{Failure, Options as RawOptions};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Deployment,
    StatefulSet,
    DaemonSet,
}

pub const KINDS: &[&str] = &["Deployment", "StatefulSet", "DaemonSet"];

impl Kind {
    fn parse(word: &str) -> Kind {
        match word {
            "StatefulSet" => Kind::StatefulSet,
            "DaemonSet" => Kind::DaemonSet,
            _ => Kind::Deployment,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Kind::Deployment => "Deployment",
            Kind::StatefulSet => "StatefulSet",
            Kind::DaemonSet => "DaemonSet",
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Kind::Deployment => "deployments",
            Kind::StatefulSet => "statefulsets",
            Kind::DaemonSet => "daemonsets",
        }
    }

    /// The kind of object that holds a revision.
    pub fn holder(self) -> &'static str {
        match self {
            Kind::Deployment => "ReplicaSet",
            Kind::StatefulSet | Kind::DaemonSet => "ControllerRevision",
        }
    }

    pub fn holders(self) -> &'static str {
        match self {
            Kind::Deployment => "replicasets",
            Kind::StatefulSet | Kind::DaemonSet => "controllerrevisions",
        }
    }
}

/// A workload and its cluster.
#[derive(Clone, Debug)]
pub struct Subject {
    pub access: Access,
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
}

impl Subject {
    /// Parses the options that both modules share.
    pub fn parse(raw: &RawOptions) -> Result<Subject, Failure> {
        let context: String = raw.get("context")?;
        if context.trim().is_empty() {
            return Err(Failure::bad_option(
                "context",
                "expected the name of a context: the current one of a kubeconfig is never taken",
            ));
        }
        Ok(Subject {
            access: Access {
                kubectl: raw.get("kubectl")?,
                kubeconfig: raw.get("kubeconfig")?,
                context,
            },
            kind: Kind::parse(&raw.get::<String>("kind")?),
            namespace: object_name("namespace", raw.get("namespace")?)?,
            name: object_name("name", raw.get("name")?)?,
        })
    }

    /// Returns the path of the API for objects of this kind in the namespace.
    pub fn path(&self, group: &str, kind: &str) -> String {
        format!("{group}/namespaces/{}/{kind}", encoded(&self.namespace))
    }

    pub fn workload(&self) -> String {
        format!("{}/{}", self.path("/apis/apps/v1", self.kind.plural()), encoded(&self.name))
    }

    /// Names the workload for plans and messages.
    pub fn shown(&self) -> String {
        let kind = self.kind.word();
        format!("{kind} {}/{} (context {})", self.namespace, self.name, self.access.context)
    }
}

/// Checks that a name is an RFC 1123 subdomain, as Kubernetes requires, so that it cannot change a path.
fn object_name(option: &str, text: String) -> Result<String, Failure> {
    let is_allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
    let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    if bytes.len() <= 253
        && bytes.iter().all(|byte| is_allowed(*byte))
        && is_end(bytes.first())
        && is_end(bytes.last())
    {
        return Ok(text);
    }
    let expected = "a name of lower-case letters, digits, . and -";
    Err(Failure::bad_option(option, format!("expected {expected}, got {text:?}")))
}

#[cfg(test)]
impl Subject {
    pub fn sample() -> Subject {
        Subject {
            access: Access { kubectl: None, kubeconfig: None, context: "prod".into() },
            kind: Kind::Deployment,
            namespace: "shop".into(),
            name: "web".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_change_the_path() {
        for odd in ["", "..", "a/b", "web?x", "Web", "-web", "web.", "a%2fb"] {
            assert!(object_name("name", odd.into()).is_err(), "{odd}");
        }
        assert!(object_name("name", "web-1.shop".into()).is_ok());
    }
}
