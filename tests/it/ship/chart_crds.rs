//! Objects of the Prometheus operator and of KEDA, whose schemas the validator does not have: the
//! parts that the chart uses, and nothing else.
#![expect(dead_code, reason = "reading the fields is the check")]

use serde::Deserialize;
use serde_json::{Map, Value};

use super::chart::{CASES, id};

/// Whether the object is of a kind that Kubernetes itself does not have.
pub(super) fn is_custom(object: &Value) -> bool {
    let group = object["apiVersion"].as_str().unwrap_or_default();
    group.starts_with("monitoring.coreos.com/") || group.starts_with("keda.sh/")
}

#[test]
fn operators_take_their_objects() {
    let mut seen = 0;
    for case in CASES {
        for object in case.objects().0.iter().filter(|object| is_custom(object)) {
            let spec = object["spec"].clone();
            let read = match (object["apiVersion"].as_str(), object["kind"].as_str()) {
                (Some("monitoring.coreos.com/v1"), Some("ServiceMonitor")) => {
                    serde_json::from_value::<ServiceMonitor>(spec).map(drop)
                }
                (Some("monitoring.coreos.com/v1"), Some("PrometheusRule")) => {
                    serde_json::from_value::<PrometheusRule>(spec).map(drop)
                }
                (Some("keda.sh/v1alpha1"), Some("ScaledObject")) => {
                    serde_json::from_value::<ScaledObject>(spec).map(drop)
                }
                other => panic!("{other:?}"),
            };
            read.unwrap_or_else(|error| panic!("{} {}: {error}", case.name, id(object)));
            seen += 1;
        }
    }
    assert!(seen >= 6, "{seen}");
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ServiceMonitor {
    selector: Selector,
    namespace_selector: NamespaceSelector,
    pod_target_labels: Vec<String>,
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Selector {
    match_labels: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NamespaceSelector {
    match_names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Endpoint {
    port: String,
    path: String,
    honor_labels: bool,
    interval: String,
    scrape_timeout: String,
    #[serde(default)]
    relabelings: Vec<Relabeling>,
    #[serde(default)]
    metric_relabelings: Vec<Relabeling>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Relabeling {
    action: String,
    regex: String,
    #[serde(default)]
    source_labels: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PrometheusRule {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    name: String,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    alert: Option<String>,
    record: Option<String>,
    expr: String,
    r#for: Option<String>,
    #[serde(default)]
    labels: Map<String, Value>,
    #[serde(default)]
    annotations: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ScaledObject {
    scale_target_ref: ScaleTarget,
    min_replica_count: u32,
    max_replica_count: u32,
    polling_interval: u32,
    cooldown_period: u32,
    triggers: Vec<Trigger>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ScaleTarget {
    api_version: String,
    kind: String,
    name: String,
}

/// KEDA wants every value of a trigger's metadata to be text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Trigger {
    r#type: String,
    metadata: std::collections::BTreeMap<String, String>,
    authentication_ref: Option<Named>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
}
