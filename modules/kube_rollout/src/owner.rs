//! Finds another tool that manages the workload and would undo our change, and names the commands to use instead. Pure.

use crate::subject::Subject;
use ansible_module::Failure;
use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    ArgoCd,
    Flux,
    Helm,
    ArgoRollouts,
    Flagger,
    /// An object of another kind that controls it, such as that of an operator.
    Controller,
}

/// The values of the option, in the order of [`Owner`].
pub const WORDS: &[&str] = &["argocd", "flux", "helm", "argo_rollouts", "flagger", "controller"];

impl Owner {
    pub fn parse(word: &str) -> Option<Owner> {
        let all = [
            Owner::ArgoCd,
            Owner::Flux,
            Owner::Helm,
            Owner::ArgoRollouts,
            Owner::Flagger,
            Owner::Controller,
        ];
        all.into_iter().find(|owner| owner.word() == word)
    }

    pub fn word(self) -> &'static str {
        WORDS[self as usize]
    }
}

/// An owner, and its name for the application or release that the workload belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub owner: Owner,
    pub of: String,
    /// The commands to use instead of this task.
    pub instead: String,
}

/// Finds the owner. Flux comes before Helm, since what Flux makes with Helm has the annotations of both.
pub fn find(workload: &Value, subject: &Subject) -> Option<Found> {
    let mark = |kind: &str, key: &str| workload["metadata"][kind][key].as_str().map(str::to_owned);
    let namespace = |of: Option<String>| of.unwrap_or_else(|| subject.namespace.clone());
    let managers = workload["metadata"]["managedFields"].as_array();
    let written_by = |name: &str| {
        managers.is_some_and(|all| {
            all.iter().any(|one| one["manager"].as_str().is_some_and(|by| by.starts_with(name)))
        })
    };
    let argo = mark("labels", "argocd.argoproj.io/instance")
        .or_else(|| {
            mark("annotations", "argocd.argoproj.io/tracking-id")
                .map(|id| id.split(':').next().unwrap_or_default().to_owned())
        })
        .or_else(|| mark("labels", "app.kubernetes.io/instance").filter(|_| written_by("argocd")));
    if let Some(of) = argo {
        let instead = format!(
            "`argocd app history {of}` and `argocd app rollback {of} <id>`, or first `argocd app set {of} --sync-policy none`"
        );
        return Some(Found { owner: Owner::ArgoCd, of, instead });
    }
    for (kind, short) in [("kustomize", "kustomization"), ("helm", "helmrelease")] {
        if let Some(of) = mark("labels", &format!("{kind}.toolkit.fluxcd.io/name")) {
            let place = namespace(mark("labels", &format!("{kind}.toolkit.fluxcd.io/namespace")));
            let instead =
                format!("a commit that goes back, or first `flux suspend {short} {of} -n {place}`");
            return Some(Found { owner: Owner::Flux, of, instead });
        }
    }
    if let Some(of) = mark("annotations", "meta.helm.sh/release-name") {
        let place = namespace(mark("annotations", "meta.helm.sh/release-namespace"));
        let context = &subject.access.context;
        let instead = format!(
            "`helm history {of} -n {place} --kube-context {context}` and `helm rollback {of} <revision> -n {place} --kube-context {context}`"
        );
        return Some(Found { owner: Owner::Helm, of, instead });
    }
    let controllers = workload["metadata"]["ownerReferences"].as_array()?;
    let by = controllers.iter().find(|one| one["controller"] == true)?;
    let of = format!(
        "{} {}",
        by["kind"].as_str().unwrap_or_default(),
        by["name"].as_str().unwrap_or_default()
    );
    // Flagger makes the workload that serves, and controls it: `web-primary` for the target `web`.
    let is_flagger =
        by["apiVersion"].as_str().is_some_and(|version| version.starts_with("flagger.app/"));
    let owner = if is_flagger { Owner::Flagger } else { Owner::Controller };
    let instead = match is_flagger {
        true => format!("a change of the target of {of}, which Flagger copies to this workload"),
        false => format!("a change of {of} itself"),
    };
    Some(Found { owner, of, instead })
}

/// Refuses a workload with an owner, unless the option `owner` names it.
pub fn refuse(
    found: Option<&Found>,
    allowed: Option<Owner>,
    subject: &Subject,
) -> Result<(), Failure> {
    let Some(found) = found.filter(|found| allowed != Some(found.owner)) else { return Ok(()) };
    let word = found.owner.word();
    let msg = format!(
        "{} belongs to {word} ({}), which would undo a change of ours; nothing was changed; use {}; or configure it to leave the workload alone and pass owner: {word}",
        subject.shown(),
        found.of,
        found.instead
    );
    Err(Failure::new("owned_by_other", msg)
        .with("owner", word)
        .with("owner_name", found.of.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(metadata: Value) -> Option<(Owner, String)> {
        let subject = Subject::sample();
        find(&json!({ "metadata": metadata }), &subject).map(|found| (found.owner, found.of))
    }

    #[test]
    fn the_owner_is_found_by_its_marks() {
        let tracked = json!({ "annotations": { "argocd.argoproj.io/tracking-id": "shop:apps/Deployment:shop/web" } });
        assert_eq!(found(tracked), Some((Owner::ArgoCd, "shop".into())));
        let by_helm = json!({ "labels": { "app.kubernetes.io/instance": "web" }, "annotations": { "meta.helm.sh/release-name": "web" } });
        assert_eq!(found(by_helm), Some((Owner::Helm, "web".into())));
        let both = json!({ "labels": { "helm.toolkit.fluxcd.io/name": "web" }, "annotations": { "meta.helm.sh/release-name": "web" } });
        assert_eq!(found(both), Some((Owner::Flux, "web".into())));
        let canary =
            json!({ "ownerReferences": [{ "kind": "Canary", "name": "web", "controller": true }] });
        assert_eq!(found(canary), Some((Owner::Controller, "Canary web".into())));
        let primary = json!({ "ownerReferences": [{ "apiVersion": "flagger.app/v1beta1", "kind": "Canary", "name": "web", "controller": true }] });
        assert_eq!(found(primary), Some((Owner::Flagger, "Canary web".into())));
        assert_eq!(found(json!({ "labels": { "app.kubernetes.io/instance": "web" } })), None);
        assert_eq!(found(json!({ "ownerReferences": [{ "kind": "App", "name": "x" }] })), None);
    }

    #[test]
    fn only_the_owner_that_the_option_names_is_allowed() {
        let subject = Subject::sample();
        let flux = Found { owner: Owner::Flux, of: "web".into(), instead: String::new() };
        assert!(refuse(Some(&flux), None, &subject).is_err());
        assert!(refuse(Some(&flux), Some(Owner::Helm), &subject).is_err());
        assert!(refuse(Some(&flux), Some(Owner::Flux), &subject).is_ok());
        for word in WORDS {
            assert_eq!(Owner::parse(word).map(Owner::word), Some(*word));
        }
    }
}
