//! What the chart promises, one fact a line: of which object, where in it, which value.

use serde_json::Value;

use super::chart::{Case, Objects};

/// A place of an object and what stands there, as JSON; nothing: the place does not exist.
type Fact = (&'static str, &'static str);

/// Asserts facts of one object.
fn assert_facts(objects: &Objects, object: &str, facts: &[Fact]) {
    let found = objects.found(object);
    for (pointer, expected) in facts {
        let expected: Option<Value> =
            (!expected.is_empty()).then(|| serde_json::from_str(expected).expect(expected));
        assert_eq!(found.pointer(pointer), expected.as_ref(), "{object} {pointer}");
    }
}

/// What holds of the pod of every workload, whatever the values.
const POD: &[Fact] = &[
    ("/automountServiceAccountToken", "false"),
    ("/enableServiceLinks", "false"),
    ("/securityContext/runAsNonRoot", "true"),
    ("/securityContext/seccompProfile/type", r#""RuntimeDefault""#),
    ("/securityContext/fsGroupChangePolicy", r#""OnRootMismatch""#),
    ("/initContainers/0/name", r#""migrate""#),
    ("/initContainers/0/command", r#"["somaagent"]"#),
    ("/initContainers/0/args", r#"["migrate"]"#),
    ("/initContainers/0/securityContext/readOnlyRootFilesystem", "true"),
    ("/containers/0/name", r#""somaagent""#),
    ("/containers/0/command", r#"["somaagent"]"#),
    ("/containers/0/args/0", r#""run""#),
    ("/containers/0/workingDir", r#""/var/lib/somaagent""#),
    ("/containers/0/ports/0", r#"{"name": "api", "containerPort": 8010, "protocol": "TCP"}"#),
    ("/containers/0/ports/1", r#"{"name": "admin", "containerPort": 9400, "protocol": "TCP"}"#),
    ("/containers/0/startupProbe/httpGet", r#"{"path": "/startup", "port": "admin"}"#),
    ("/containers/0/livenessProbe/httpGet", r#"{"path": "/live", "port": "admin"}"#),
    ("/containers/0/readinessProbe/httpGet", r#"{"path": "/ready", "port": "admin"}"#),
    ("/containers/0/securityContext/allowPrivilegeEscalation", "false"),
    ("/containers/0/securityContext/readOnlyRootFilesystem", "true"),
    ("/containers/0/securityContext/capabilities", r#"{"drop": ["ALL"]}"#),
    ("/containers/0/resources/limits/cpu", ""),
    ("/hostNetwork", ""),
    ("/hostPID", ""),
];

#[test]
fn every_pod_is_as_restricted_and_as_watched_as_every_other() {
    for case in super::chart::CASES {
        for workload in case.objects().workloads() {
            for (pointer, expected) in POD {
                let place = format!("/spec/template/spec{pointer}");
                let expected: Option<Value> =
                    (!expected.is_empty()).then(|| serde_json::from_str(expected).unwrap());
                assert_eq!(workload.pointer(&place), expected.as_ref(), "{} {place}", case.name);
            }
        }
    }
}

#[test]
fn dev_is_one_pod_with_a_volume_of_its_own() {
    let objects = Case::named("dev").objects();
    assert_facts(
        &objects,
        "StatefulSet/somaagent",
        &[
            ("/metadata/namespace", r#""agents""#),
            ("/spec/replicas", "1"),
            ("/spec/serviceName", r#""somaagent-admin""#),
            ("/spec/strategy", ""),
            ("/spec/persistentVolumeClaimRetentionPolicy/whenDeleted", r#""Retain""#),
            ("/spec/volumeClaimTemplates/0/metadata/name", r#""data""#),
            ("/spec/volumeClaimTemplates/0/spec/accessModes", r#"["ReadWriteOnce"]"#),
            ("/spec/volumeClaimTemplates/0/spec/resources/requests/storage", r#""4Gi""#),
            ("/spec/volumeClaimTemplates/0/spec/storageClassName", ""),
            ("/spec/template/spec/terminationGracePeriodSeconds", "60"),
            ("/spec/template/spec/topologySpreadConstraints", ""),
            ("/spec/template/spec/containers/0/env", ""),
            ("/spec/template/spec/containers/0/image", r#""somaagent/somaagent:0.1.0""#),
            ("/spec/template/spec/containers/0/envFrom/1/secretRef/name", r#""somaagent""#),
            ("/spec/template/spec/volumes/0/name", r#""tmp""#),
            ("/spec/template/spec/volumes/1", ""),
        ],
    );
    assert_facts(
        &objects,
        "ConfigMap/somaagent",
        &[
            ("/data/SA01_DEPLOYMENT_MODE", r#""dev""#),
            ("/data/SA01_AUTH_REQUIRED", r#""true""#),
            ("/data/SA01_GATEWAY_BIND", r#""0.0.0.0:8010""#),
            ("/data/SA01_ADMIN_BIND", r#""0.0.0.0:9400""#),
            ("/data/SA01_DATA_DIR", r#""/var/lib/somaagent""#),
            ("/data/SA01_SHUTDOWN_LAME_DUCK", r#""0s""#),
            ("/data/SA01_LOG_FORMAT", r#""json""#),
            ("/data/SA01_LOG_LEVEL", r#""info,soma_conversation=debug""#),
            ("/data/SA01_KAFKA_BOOTSTRAP_SERVERS", ""),
        ],
    );
    for absent in ["Deployment/somaagent", "PodDisruptionBudget/somaagent", "Secret/somaagent"] {
        assert!(objects.find(absent).is_none(), "{absent}");
    }
}

#[test]
fn prod_rolls_over_without_a_gap() {
    let objects = Case::named("prod").objects();
    assert_facts(
        &objects,
        "Deployment/somaagent",
        &[
            ("/spec/replicas", ""),
            ("/spec/revisionHistoryLimit", "5"),
            ("/spec/minReadySeconds", "5"),
            ("/spec/strategy/type", r#""RollingUpdate""#),
            ("/spec/strategy/rollingUpdate", r#"{"maxUnavailable": 0, "maxSurge": 1}"#),
            ("/spec/template/spec/terminationGracePeriodSeconds", "60"),
            (
                "/spec/template/spec/containers/0/lifecycle/preStop/exec/command",
                r#"["somaagent", "sleep", "10"]"#,
            ),
            ("/spec/template/spec/containers/0/resources/requests/cpu", r#""1""#),
            ("/spec/template/spec/containers/0/resources/limits/memory", r#""2Gi""#),
            (
                "/spec/template/spec/volumes/0",
                r#"{"name": "data", "emptyDir": {"sizeLimit": "1Gi"}}"#,
            ),
            (
                "/spec/template/spec/volumes/1",
                r#"{"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}}"#,
            ),
            (
                "/spec/template/spec/volumes/2/persistentVolumeClaim/claimName",
                r#""somaagent-files""#,
            ),
            ("/spec/template/spec/volumes/3/secret/secretName", r#""kafka-ca""#),
            (
                "/spec/template/spec/topologySpreadConstraints/0/topologyKey",
                r#""topology.kubernetes.io/zone""#,
            ),
            (
                "/spec/template/spec/topologySpreadConstraints/1/topologyKey",
                r#""kubernetes.io/hostname""#,
            ),
            (
                "/spec/template/spec/topologySpreadConstraints/1/whenUnsatisfiable",
                r#""ScheduleAnyway""#,
            ),
        ],
    );
    assert_facts(
        &objects,
        "HorizontalPodAutoscaler/somaagent",
        &[
            (
                "/spec/scaleTargetRef",
                r#"{"apiVersion": "apps/v1", "kind": "Deployment", "name": "somaagent"}"#,
            ),
            ("/spec/minReplicas", "3"),
            ("/spec/maxReplicas", "12"),
            ("/spec/metrics/0/resource/name", r#""cpu""#),
            ("/spec/metrics/0/resource/target/averageUtilization", "70"),
            ("/spec/metrics/1", ""),
            ("/spec/behavior/scaleDown/stabilizationWindowSeconds", "300"),
        ],
    );
    assert_facts(
        &objects,
        "PodDisruptionBudget/somaagent",
        &[
            ("/spec/maxUnavailable", "1"),
            ("/spec/minAvailable", ""),
            ("/spec/unhealthyPodEvictionPolicy", r#""AlwaysAllow""#),
        ],
    );
    assert!(objects.find("Secret/somaagent").is_none());
    assert!(objects.find("ScaledObject/somaagent").is_none());
}

#[test]
fn prod_is_reached_through_its_services_only() {
    let objects = Case::named("prod").objects();
    assert_facts(
        &objects,
        "Service/somaagent",
        &[
            ("/spec/type", r#""ClusterIP""#),
            ("/spec/selector/somaagent~1api", r#""true""#),
            ("/spec/ports/0/port", "80"),
            ("/spec/ports/0/targetPort", r#""api""#),
            ("/spec/ports/0/nodePort", ""),
            ("/spec/ports/1", ""),
        ],
    );
    assert_facts(
        &objects,
        "Service/somaagent-admin",
        &[
            ("/spec/clusterIP", r#""None""#),
            ("/spec/publishNotReadyAddresses", "true"),
            ("/spec/ports/0/port", "9400"),
            ("/spec/ports/0/targetPort", r#""admin""#),
        ],
    );
    assert_facts(
        &objects,
        "Ingress/somaagent",
        &[
            ("/spec/ingressClassName", r#""nginx""#),
            ("/spec/rules/0/host", r#""agent.example.org""#),
            ("/spec/rules/0/http/paths/0/path", r#""/""#),
            ("/spec/rules/0/http/paths/0/backend/service/port/name", r#""api""#),
            ("/spec/tls/0/secretName", r#""agent-tls""#),
            ("/metadata/annotations/nginx.ingress.kubernetes.io~1proxy-buffering", r#""off""#),
        ],
    );
    assert_facts(
        &objects,
        "NetworkPolicy/somaagent",
        &[
            ("/spec/policyTypes", r#"["Ingress"]"#),
            ("/spec/egress", ""),
            ("/spec/ingress/0/ports/0/port", r#""api""#),
            ("/spec/ingress/1/ports/0/port", r#""admin""#),
            (
                "/spec/ingress/1/from/0/namespaceSelector/matchLabels/kubernetes.io~1metadata.name",
                r#""monitoring""#,
            ),
        ],
    );
    assert_facts(
        &objects,
        "ServiceMonitor/somaagent",
        &[
            ("/spec/endpoints/0/port", r#""admin""#),
            ("/spec/endpoints/0/path", r#""/metrics""#),
            ("/spec/endpoints/0/honorLabels", "true"),
            ("/spec/namespaceSelector/matchNames", r#"["agents"]"#),
        ],
    );
    assert_facts(
        &objects,
        "Pod/somaagent-test",
        &[
            ("/metadata/annotations/helm.sh~1hook", r#""test""#),
            ("/metadata/labels/app.kubernetes.io~1name", r#""somaagent-test""#),
            ("/spec/restartPolicy", r#""Never""#),
            ("/spec/containers/0/args", r#"["health", "--url", "http://somaagent:80"]"#),
        ],
    );
}

#[test]
fn each_role_scales_alone() {
    let objects = Case::named("roles").objects();
    let services = "/spec/template/spec/containers/0/env/0";
    for (object, runs) in [
        ("Deployment/somaagent-gateway", "gateway"),
        ("Deployment/somaagent-worker", "conversation-worker"),
        ("Deployment/somaagent-tools", "tool-executor"),
        ("Deployment/somaagent-memory", "unified-memory,housekeeping"),
    ] {
        let fact = format!(r#"{{"name": "SA01_SERVICES", "value": "{runs}"}}"#);
        let value: Value = serde_json::from_str(&fact).unwrap();
        assert_eq!(objects.found(object).pointer(services), Some(&value));
    }
    assert_facts(
        &objects,
        "Deployment/somaagent-gateway",
        &[
            ("/spec/replicas", ""),
            ("/spec/template/metadata/labels/somaagent~1api", r#""true""#),
            ("/spec/template/metadata/labels/app.kubernetes.io~1component", r#""gateway""#),
        ],
    );
    assert_facts(
        &objects,
        "Deployment/somaagent-worker",
        &[
            ("/spec/replicas", ""),
            ("/spec/template/metadata/labels/somaagent~1api", ""),
            (
                "/spec/template/spec/containers/0/env/1",
                r#"{"name": "SA01_TURNS_CONCURRENCY", "value": "512"}"#,
            ),
        ],
    );
    assert_facts(&objects, "Deployment/somaagent-tools", &[("/spec/replicas", "3")]);
    assert_facts(
        &objects,
        "Deployment/somaagent-memory",
        &[
            ("/spec/replicas", "2"),
            ("/spec/template/spec/containers/0/resources/limits/memory", r#""512Mi""#),
        ],
    );
    assert_facts(
        &objects,
        "ScaledObject/somaagent-worker",
        &[
            ("/spec/scaleTargetRef/name", r#""somaagent-worker""#),
            ("/spec/minReplicaCount", "3"),
            ("/spec/maxReplicaCount", "40"),
            ("/spec/triggers/0/type", r#""kafka""#),
            ("/spec/triggers/0/metadata/consumerGroup", r#""conversation-worker""#),
            ("/spec/triggers/0/authenticationRef/name", r#""somaagent-kafka""#),
            ("/spec/triggers/1/type", r#""prometheus""#),
            ("/spec/triggers/1/metadata/query", r#""max(soma_backlog_turns{namespace='agents'})""#),
            ("/spec/triggers/2", ""),
        ],
    );
    assert_eq!(objects.of_kind("HorizontalPodAutoscaler").count(), 1);
    assert_eq!(objects.of_kind("PodDisruptionBudget").count(), 3);
    assert_eq!(objects.of_kind("Deployment").count(), 4);
}

#[test]
fn a_standby_region_runs_nothing_and_can_take_over() {
    let case = Case::named("multi-region");
    let standby = case.objects();
    assert_facts(
        &standby,
        "Deployment/somaagent",
        &[
            ("/spec/replicas", "0"),
            (
                "/spec/template/spec/topologySpreadConstraints/0/whenUnsatisfiable",
                r#""DoNotSchedule""#,
            ),
            (
                "/spec/template/spec/topologySpreadConstraints/0/labelSelector/matchLabels/\
                 app.kubernetes.io~1instance",
                r#""somaagent""#,
            ),
        ],
    );
    assert_facts(&standby, "PodDisruptionBudget/somaagent", &[("/spec/minAvailable", r#""66%""#)]);
    assert!(standby.find("HorizontalPodAutoscaler/somaagent").is_none());

    let text = case.helm(&["template", "somaagent"], &["--set", "standby=false"]).unwrap();
    let live = Objects(super::yaml::parse_all(&text));
    assert_facts(&live, "Deployment/somaagent", &[("/spec/replicas", "")]);
    assert_facts(
        &live,
        "HorizontalPodAutoscaler/somaagent",
        &[("/spec/minReplicas", "6"), ("/spec/maxReplicas", "24")],
    );
}

#[test]
fn everything_that_can_be_set_is_set() {
    let objects = Case::named("everything").objects();
    assert_facts(
        &objects,
        "Deployment/sa01-everything",
        &[
            ("/metadata/labels/team", r#""agents""#),
            ("/metadata/annotations/example.org~1owner", r#""agents""#),
            ("/metadata/annotations/example.org~1reload", r#""true""#),
            ("/spec/revisionHistoryLimit", "2"),
            ("/spec/minReadySeconds", "10"),
            ("/spec/strategy/rollingUpdate/maxSurge", "2"),
            ("/spec/template/metadata/labels/example.org~1mesh", r#""yes""#),
            ("/spec/template/metadata/annotations/example.org~1inject", r#""true""#),
            ("/spec/template/spec/serviceAccountName", r#""agent""#),
            ("/spec/template/spec/terminationGracePeriodSeconds", "90"),
            ("/spec/template/spec/priorityClassName", r#""high""#),
            ("/spec/template/spec/runtimeClassName", r#""gvisor""#),
            ("/spec/template/spec/nodeSelector/kubernetes.io~1arch", r#""amd64""#),
            ("/spec/template/spec/tolerations/0/key", r#""agents""#),
            ("/spec/template/spec/dnsPolicy", r#""ClusterFirst""#),
            ("/spec/template/spec/dnsConfig/options/0/name", r#""ndots""#),
            ("/spec/template/spec/hostAliases/0/ip", r#""192.0.2.1""#),
            ("/spec/template/spec/imagePullSecrets/0/name", r#""registry""#),
            ("/spec/template/spec/securityContext/runAsUser", "1000"),
            ("/spec/template/spec/securityContext/runAsGroup", "65532"),
            ("/spec/template/spec/containers/0/securityContext/runAsUser", "1000"),
            ("/spec/template/spec/containers/0/imagePullPolicy", r#""Always""#),
            (
                "/spec/template/spec/containers/0/args",
                r#"["run", "--set", "SA01_TURNS_ATTEMPTS=3"]"#,
            ),
            ("/spec/template/spec/containers/0/lifecycle/preStop/exec/command/2", r#""15""#),
            ("/spec/template/spec/containers/0/env/0/value", r#""64""#),
            (
                "/spec/template/spec/containers/0/env/1/valueFrom/fieldRef/fieldPath",
                r#""spec.nodeName""#,
            ),
            ("/spec/template/spec/containers/1/name", r#""beside""#),
            ("/spec/template/spec/volumes/2/configMap/name", r#""sa01-everything-files""#),
            ("/spec/template/spec/volumes/4/secret/secretName", r#""certificates""#),
        ],
    );
    assert_facts(
        &objects,
        "ConfigMap/sa01-everything",
        &[
            ("/data/SA01_GATEWAY_BACKLOG_TOTAL", r#""2000000""#),
            ("/data/SA01_GATEWAY_BIND", r#""[::]:8010""#),
            ("/data/SA01_TURNS_PERSONAS", r#""/etc/somaagent/personas.json""#),
            ("/data/SA01_TOOLS_WORK_DIR", r#""/var/lib/somaagent-files""#),
            ("/data/SA01_DB_DSN", ""),
        ],
    );
    assert_facts(
        &objects,
        "Secret/sa01-everything",
        &[
            ("/type", r#""Opaque""#),
            ("/stringData/SA01_REDIS_URL", r#""redis://:pw@redis:6379/0""#),
        ],
    );
    assert_facts(
        &objects,
        "Service/sa01-everything",
        &[
            ("/spec/type", r#""LoadBalancer""#),
            ("/spec/ports/0/port", "443"),
            ("/spec/ports/0/nodePort", "30443"),
            ("/spec/externalTrafficPolicy", r#""Local""#),
            ("/spec/ipFamilyPolicy", r#""PreferDualStack""#),
            ("/spec/loadBalancerSourceRanges/0", r#""192.0.2.0/24""#),
        ],
    );
    assert_facts(
        &objects,
        "NetworkPolicy/sa01-everything",
        &[
            ("/spec/policyTypes", r#"["Ingress", "Egress"]"#),
            ("/spec/ingress/0/from", ""),
            ("/spec/ingress/1/from", r#"[{"podSelector": {}}]"#),
            ("/spec/egress/0/ports/0/port", "53"),
            ("/spec/egress/1/to/0/ipBlock/cidr", r#""10.0.0.0/8""#),
        ],
    );
    assert_facts(
        &objects,
        "PrometheusRule/sa01-everything",
        &[
            ("/metadata/labels/release", r#""prometheus""#),
            ("/spec/groups/0/name", r#""somaagent""#),
            ("/spec/groups/1/name", r#""ours""#),
        ],
    );
    assert_facts(&objects, "ConfigMap/somaagent-extra", &[("/data/of", r#""sa01-everything""#)]);
    assert_facts(&objects, "ServiceAccount/agent", &[("/automountServiceAccountToken", "false")]);
}
