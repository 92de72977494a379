//! What the chart's objects say of each other and of the executable.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;
use soma_contract::topic::{Group, Topic};

use super::{
    binary,
    chart::{CASES, Objects, id, text_map},
    tool, yaml,
};

fn pod(workload: &Value) -> &Value {
    &workload["spec"]["template"]["spec"]
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The containers of a pod that run the executable.
fn ours(pod: &Value) -> Vec<&Value> {
    let all = list(&pod["initContainers"]).chain(list(&pod["containers"]));
    all.filter(|container| container["command"][0] == "somaagent").collect()
}

/// Every pod of a case with its labels.
fn pods(objects: &Objects) -> Vec<(&Value, &Value)> {
    let of_workloads = objects
        .workloads()
        .map(|workload| (pod(workload), &workload["spec"]["template"]["metadata"]["labels"]));
    let alone = objects.of_kind("Pod").map(|pod| (&pod["spec"], &pod["metadata"]["labels"]));
    of_workloads.chain(alone).collect()
}

fn selects(selector: &Value, labels: &Value) -> bool {
    let selector = text_map(selector);
    !selector.is_empty() && selector.iter().all(|(name, value)| labels[name] == *value)
}

#[test]
fn the_executable_takes_the_settings_of_every_container() {
    for case in CASES {
        let objects = case.objects();
        for workload in objects.workloads() {
            for container in ours(pod(workload)) {
                let environment = objects.environment(container);
                let config = binary::assert_configures(&environment);
                let data = config.storage.data_dir.to_str().unwrap().to_owned();
                let mounts: Vec<_> = list(&container["volumeMounts"])
                    .map(|mount| mount["mountPath"].as_str().unwrap().to_owned())
                    .collect();
                assert!(
                    mounts.contains(&data) && mounts.contains(&"/tmp".to_owned()),
                    "{mounts:?}"
                );
                let files = config.tools.work_dir.to_str().unwrap();
                assert!(mounts.iter().any(|mount| files.starts_with(mount)), "{files}: {mounts:?}");
                if let Some(personas) = &config.turns.personas {
                    assert!(mounts.iter().any(|mount| personas.starts_with(mount)), "{mounts:?}");
                }
            }
        }
    }
}

#[test]
fn ports_are_those_that_the_executable_listens_on() {
    for case in CASES {
        let objects = case.objects();
        for workload in objects.workloads() {
            let containers = ours(pod(workload));
            let main = containers.last().unwrap();
            let config = binary::assert_configures(&objects.environment(main));
            let port = |name: &str| {
                let found = list(&main["ports"]).find(|port| port["name"] == name).unwrap();
                found["containerPort"].as_u64().unwrap()
            };
            assert_eq!(port("api"), u64::from(config.gateway.bind.port()));
            assert_eq!(port("admin"), u64::from(config.gateway.admin_bind.port()));
            assert!(config.gateway.bind.ip().is_unspecified());
            assert!(config.gateway.admin_bind.ip().is_unspecified());
        }
    }
}

#[test]
fn a_pod_outlives_its_drain() {
    for case in CASES {
        let objects = case.objects();
        for workload in objects.workloads() {
            let containers = ours(pod(workload));
            let main = containers.last().unwrap();
            let shutdown = binary::assert_configures(&objects.environment(main)).shutdown;
            let hook = yaml::strings(&main["lifecycle"]["preStop"]["exec"]["command"]);
            let waits = Duration::from_secs(hook[2].parse().unwrap());
            let grace = pod(workload)["terminationGracePeriodSeconds"].as_u64().unwrap();
            assert!(waits + shutdown.kill < Duration::from_secs(grace), "{}", case.name);
            assert_eq!(shutdown.lame_duck, Duration::ZERO, "{}: the hook waits", case.name);
        }
    }
}

#[test]
fn the_executable_knows_every_command() {
    let mut seen = BTreeSet::new();
    for case in CASES {
        let objects = case.objects();
        for (pod, _) in pods(&objects) {
            for container in ours(pod) {
                let command = yaml::strings(&container["command"]);
                seen.insert([command, yaml::strings(&container["args"])].concat());
                let hook = &container["lifecycle"]["preStop"]["exec"]["command"];
                if hook.is_array() {
                    seen.insert(yaml::strings(hook));
                }
            }
        }
    }
    for command in seen {
        binary::assert_takes(&command);
    }
}

#[test]
fn roles_run_every_service() {
    for case in CASES {
        let objects = case.objects();
        let mut run = BTreeSet::new();
        for workload in objects.workloads() {
            let container = *ours(pod(workload)).last().unwrap();
            match objects.environment(container).get("SA01_SERVICES") {
                Some(services) => run.extend(services.split(',').map(str::to_owned)),
                None => run.extend(soma_config::SERVICES.map(str::to_owned)),
            }
        }
        assert_eq!(run, soma_config::SERVICES.map(str::to_owned).into(), "{}", case.name);
    }
}

#[test]
fn selectors_meet_the_pods_that_they_are_for() {
    for case in CASES {
        let objects = case.objects();
        let meets = |selector: &Value, at_least: usize, what: &Value| {
            let all = pods(&objects);
            let count = all.iter().filter(|(_, labels)| selects(selector, labels)).count();
            assert!(count >= at_least, "{}: {} meets {count} pods", case.name, id(what));
            count
        };
        let workloads = objects.workloads().count();
        for workload in objects.workloads() {
            assert_eq!(meets(&workload["spec"]["selector"]["matchLabels"], 1, workload), 1);
        }
        for budget in objects.of_kind("PodDisruptionBudget") {
            assert_eq!(meets(&budget["spec"]["selector"]["matchLabels"], 1, budget), 1);
        }
        for policy in objects.of_kind("NetworkPolicy") {
            let selector = &policy["spec"]["podSelector"]["matchLabels"];
            assert_eq!(meets(selector, workloads, policy), workloads);
        }
        for service in objects.of_kind("Service") {
            let count = meets(&service["spec"]["selector"], 1, service);
            let is_admin = id(service).ends_with("-admin");
            assert_eq!(count, if is_admin { workloads } else { 1 }, "{}", id(service));
        }
    }
}

#[test]
fn named_ports_and_objects_exist() {
    for case in CASES {
        let objects = case.objects();
        for ingress in objects.of_kind("Ingress") {
            for rule in list(&ingress["spec"]["rules"]) {
                for path in list(&rule["http"]["paths"]) {
                    let backend = &path["backend"]["service"];
                    let service = format!("Service/{}", backend["name"].as_str().unwrap());
                    let service = objects.found(&service);
                    assert!(has_port(&service["spec"]["ports"], &backend["port"]["name"]));
                }
            }
        }
        for monitor in objects.of_kind("ServiceMonitor") {
            let selector = &monitor["spec"]["selector"]["matchLabels"];
            let mut services = objects
                .of_kind("Service")
                .filter(|service| selects(selector, &service["metadata"]["labels"]));
            let service = services.next().expect("a Service to scrape");
            assert!(services.next().is_none(), "pods would be scraped twice");
            let port = &monitor["spec"]["endpoints"][0]["port"];
            assert!(has_port(&service["spec"]["ports"], port));
        }
        for scaler in
            objects.of_kind("HorizontalPodAutoscaler").chain(objects.of_kind("ScaledObject"))
        {
            let target = scaler["spec"]["scaleTargetRef"]["name"].as_str().unwrap();
            let target = objects.found(&format!("Deployment/{target}"));
            assert_eq!(target.pointer("/spec/replicas"), None, "two would decide on replicas");
        }
        for workload in objects.workloads() {
            let account = pod(workload)["serviceAccountName"].as_str().unwrap();
            objects.found(&format!("ServiceAccount/{account}"));
            if let Some(service) = workload["spec"]["serviceName"].as_str() {
                objects.found(&format!("Service/{service}"));
            }
            let claims = list(&workload["spec"]["volumeClaimTemplates"])
                .map(|claim| &claim["metadata"]["name"]);
            let volumes: Vec<_> = list(&pod(workload)["volumes"])
                .map(|volume| &volume["name"])
                .chain(claims)
                .collect();
            for container in ours(pod(workload)) {
                for mount in list(&container["volumeMounts"]) {
                    assert!(volumes.contains(&&mount["name"]), "{}: {mount}", case.name);
                }
            }
        }
    }
}

fn has_port(ports: &Value, name: &Value) -> bool {
    list(ports).any(|port| port["name"] == *name)
}

/// The Pod Security standard *restricted*, as far as a pod template says it.
#[test]
fn every_container_is_restricted() {
    for case in CASES {
        let objects = case.objects();
        for (pod, _) in pods(&objects) {
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
            assert_ne!(pod["securityContext"]["runAsUser"], 0);
            assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
            for container in list(&pod["initContainers"]).chain(list(&pod["containers"])) {
                let security = &container["securityContext"];
                assert_eq!(security["allowPrivilegeEscalation"], false, "{container}");
                assert_eq!(security["capabilities"]["drop"], serde_json::json!(["ALL"]));
                assert_eq!(security["privileged"], Value::Null);
            }
            let safe = ["configMap", "emptyDir", "persistentVolumeClaim", "secret"];
            for volume in list(&pod["volumes"]) {
                assert!(safe.iter().any(|kind| !volume[kind].is_null()), "{volume}");
            }
        }
    }
}

#[test]
fn scalers_watch_topics_that_exist() {
    for case in CASES {
        let objects = case.objects();
        let settings = objects.of_kind("ConfigMap").find_map(|map| {
            map["data"]["SA01_DEPLOYMENT_MODE"].is_string().then(|| text_map(&map["data"]))
        });
        let prefix = settings.unwrap().remove("SA01_KAFKA_PREFIX").unwrap_or_default();
        for scaler in objects.of_kind("ScaledObject") {
            for trigger in list(&scaler["spec"]["triggers"]).filter(|t| t["type"] == "kafka") {
                let name = |field: &str| {
                    let name = trigger["metadata"][field].as_str().unwrap();
                    name.strip_prefix(&prefix).unwrap_or_else(|| panic!("{name}")).to_owned()
                };
                let topic = Topic::named(&name("topic")).expect("a topic of ours");
                let groups = topic.groups().iter().copied().map(Group::as_str);
                assert!(groups.into_iter().any(|known| known == name("consumerGroup")));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_scrapes_and_alerts_ask_for_what_the_executable_has() {
    let server = binary::running().await;
    for case in CASES {
        let objects = case.objects();
        for workload in objects.workloads() {
            let containers = ours(pod(workload));
            let main = containers.last().unwrap();
            for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
                assert_eq!(main[probe]["httpGet"]["port"], "admin");
                let path = main[probe]["httpGet"]["path"].as_str().unwrap();
                binary::assert_serves(&server, path).await;
            }
        }
        for monitor in objects.of_kind("ServiceMonitor") {
            let path = monitor["spec"]["endpoints"][0]["path"].as_str().unwrap();
            binary::assert_serves(&server, path).await;
        }
    }
    // What counts by label shows after the first event of that label; its name is declared.
    let mut exported = binary::metrics(&server).await;
    exported.extend(super::dashboards::declared());
    let rules = yaml::parse(&tool::read("charts/somaagent/rules/somaagent.yaml"));
    let mut count = 0;
    for group in list(&rules["groups"]) {
        for rule in list(&group["rules"]) {
            binary::assert_exported(&exported, rule["expr"].as_str().unwrap());
            count += 1;
        }
    }
    assert!(count >= 15, "{count} alerts");
    for scaler in super::chart::Case::named("everything").objects().of_kind("ScaledObject") {
        for trigger in list(&scaler["spec"]["triggers"]) {
            if let Some(query) = trigger["metadata"]["query"].as_str() {
                binary::assert_exported(&exported, query);
            }
        }
    }
}
