//! Values that must not be taken: by the schema, or because they contradict each other.

use super::chart::Case;

/// What is set on top of a case, and a part of what must be said about it.
const REFUSED: &[(&str, &str, &str)] = &[
    // The schema.
    ("prod", "replicas=3", "additional properties 'replicas' not allowed"),
    ("prod", "mode=staging", "'/mode'"),
    ("prod", "image.pullPolicy=Sometimes", "'/image/pullPolicy'"),
    ("prod", "image.digest=sha256:abc", "'/image/digest'"),
    ("prod", "image.tag=a b", "'/image/tag'"),
    ("prod", "replicaCount=-1", "'/replicaCount'"),
    ("prod", "replicaCount=two", "'/replicaCount'"),
    ("prod", "config.SA01_NOPE=1", "additional properties 'SA01_NOPE' not allowed"),
    ("prod", "config.SA01_DATA_DIR=/data", "'SA01_DATA_DIR' not allowed"),
    ("prod", "config.SA01_SERVICES=gateway", "'SA01_SERVICES' not allowed"),
    ("prod", "config.SA01_AUTH_REQUIRED=false", "'SA01_AUTH_REQUIRED' not allowed"),
    ("prod", "config.SA01_MODEL_API_KEY=key", "'SA01_MODEL_API_KEY' not allowed"),
    ("prod", "config.SA01_TURNS_LEASE=5", "'/config/SA01_TURNS_LEASE'"),
    ("prod", "config.SA01_TURNS_LEASE=5 sec", "'/config/SA01_TURNS_LEASE'"),
    ("prod", "config.SA01_GATEWAY_MAX_BODY=1MB", "'/config/SA01_GATEWAY_MAX_BODY'"),
    ("prod", "config.SA01_TURNS_ATTEMPTS=many", "'/config/SA01_TURNS_ATTEMPTS'"),
    ("prod", "config.SA01_LOG_FORMAT=xml", "'/config/SA01_LOG_FORMAT'"),
    ("prod", "config.SA01_POLICY_URL=opa:8181", "'/config/SA01_POLICY_URL'"),
    ("prod", "config.SA01_GATEWAY_READY_NEEDS_STORE=maybe", "'/config/SA01_GATEWAY_READY"),
    ("prod", "secrets.SA01_LOG_LEVEL=info", "'SA01_LOG_LEVEL' not allowed"),
    ("prod", "roles.Worker.services={gateway}", "'Worker' not allowed"),
    ("prod", "roles.a.services={gatway}", "'/roles/a/services/0'"),
    ("prod", "roles.a.replicaCount=1", "missing property 'services'"),
    ("prod", "resources.limits.memory=lots", "'/resources/limits/memory'"),
    ("prod", "resources.limits.ram=1Gi", "'ram' not allowed"),
    ("prod", "service.port=70000", "'/service/port'"),
    ("prod", "service.type=ExternalName", "'/service/type'"),
    ("prod", "ingress.hosts=null", "missing property 'hosts'"),
    ("prod", "ingress.hosts[0].paths[0].path=v1", "'/ingress/hosts/0"),
    ("prod", "probes.live.path=/", "additional properties 'path' not allowed"),
    ("prod", "bindAddress=127.0.0.1", "'/bindAddress'"),
    ("prod", "persistence.whenDeleted=Burn", "'/persistence/whenDeleted'"),
    ("prod", "podDisruptionBudget.maxUnavailable=half", "'/podDisruptionBudget/maxUnavailable'"),
    ("prod", "metrics.serviceMonitor.interval=15", "'/metrics/serviceMonitor/interval'"),
    ("prod", "keda.lagThreshold=0", "'/keda/lagThreshold'"),
    ("prod", "extraEnv[0].value=x", "missing property 'name'"),
    ("prod", "extraObjects[0].kind=Secret", "missing property 'apiVersion'"),
    ("prod", "personas[0].persona_id=a", "missing property 'prompt'"),
    ("prod", "commonLabels.a=1", "'/commonLabels/a'"),
    // What contradicts.
    ("dev", "mode=prod", "config.SA01_POLICY_URL is missing"),
    ("dev", "mode=prod", "config.SA01_KAFKA_BOOTSTRAP_SERVERS is missing"),
    ("prod", "existingSecret=", "secrets.SA01_DB_DSN is missing"),
    ("prod", "existingSecret=", "secrets.SA01_REDIS_URL is missing"),
    ("dev", "existingSecret=", "nobody could get in"),
    ("prod", "secrets.SA01_MODEL_API_KEY=key", "existingSecret and secrets are both set"),
    ("everything", "secrets.SA01_POLICY_URL=http://opa", "is in config and in secrets"),
    ("dev", "config.SA01_REDIS_URL=redis://cache", "replicas share it"),
    ("dev", "roles.a.services={gateway}", "roles need servers that they share"),
    ("prod", "roles.a.services={gateway}", "no role runs `conversation-worker`"),
    ("prod", "keda.enabled=true", "are both enabled"),
    ("dev", "autoscaling.enabled=true", "mode `dev` has one replica"),
    ("prod", "autoscaling.maxReplicas=2", "autoscaling.minReplicas is more than maxReplicas"),
    ("prod", "autoscaling.targetCPUUtilizationPercentage=0", "neither CPU nor memory"),
    ("prod", "shutdown.gracePeriodSeconds=55", "would be killed while they drain"),
    ("prod", "config.SA01_SHUTDOWN_KILL=1m", "would be killed while they drain"),
];

#[test]
fn what_makes_no_sense_is_refused_and_said_why() {
    for (case, set, reason) in REFUSED {
        match Case::named(case).helm(&["template", "somaagent"], &["--set", set]) {
            Ok(_) => panic!("{case} with {set} is taken"),
            Err(said) => assert!(said.contains(reason), "{case} with {set}:\n{said}"),
        }
    }
}

#[test]
fn without_values_every_missing_one_is_told_at_once() {
    let arguments = ["template", "somaagent", "charts/somaagent", "--kube-version", "1.37.0"];
    let said = super::tool::run("helm", &arguments).unwrap_err();
    for name in ["SA01_KAFKA_BOOTSTRAP_SERVERS", "SA01_POLICY_URL", "SA01_DB_DSN", "SA01_REDIS_URL"]
    {
        assert!(said.contains(name), "{name} in {said}");
    }
    assert!(said.contains("nobody could get in"), "{said}");
}

#[test]
fn a_kubernetes_that_is_too_old_is_refused() {
    let said = Case::named("dev").helm(&["template", "somaagent"], &["--kube-version", "1.26.0"]);
    assert!(said.unwrap_err().contains("kubeVersion"));
}
