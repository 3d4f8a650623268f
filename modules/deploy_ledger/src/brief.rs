//! Short descriptions of deploys and restore points for results.

use crate::ledger::{Deploy, RestorePoint};
use serde_json::{Value, json};

/// The keys of a deploy that a rollback needs.
pub fn brief(deploy: &Deploy) -> Value {
    json!({
        "deploy_id": deploy.id,
        "release": deploy.opening.release,
        "color": deploy.closed.as_ref().and_then(|closed| closed.color.as_ref()),
        "outcome": deploy.outcome(),
        "void": deploy.void.as_ref().map(|(_, why)| why),
        "config": deploy.opening.config,
    })
}

pub fn described_point(point: &RestorePoint) -> Value {
    json!({
        "layer": point.layer,
        "name": point.name,
        "guid": point.guid,
        "digest": point.digest,
        "host": point.host,
        "cost": point.cost.map(),
        "data": point.data.map(),
    })
}
