//! The compose files: valid by the specification's schema, and true to the executable.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Map, Value};

use super::{
    binary::{self, Environment},
    tool, yaml,
};

const FILES: [&str; 5] = [
    "docker/compose.yaml",
    "docker/compose.fallback.yaml",
    "docker/infrastructure.yaml",
    "docker/observability.yaml",
    "docker/base.yaml",
];
/// The files that are started, the others being their parts.
pub(super) const LAYOUTS: [&str; 2] = ["docker/compose.yaml", "docker/compose.fallback.yaml"];

/// The variables of `docker/.env`, as the example asks for them.
fn dotenv(name: &str) -> Option<String> {
    match name {
        "POSTGRES_PASSWORD" => Some("0123456789abcdef".to_owned()),
        "SA01_AUTH_JWT_SECRET" => Some("0123456789abcdef0123456789abcdef".to_owned()),
        _ => None,
    }
}

/// Replaces `${NAME:-default}` and `${NAME:?reason}` as compose does.
fn interpolate(text: &str) -> String {
    let Some((before, rest)) = text.split_once("${") else { return text.to_owned() };
    let (inside, after) = rest.split_once('}').expect(text);
    let (name, default) = inside.split_once(':').expect("a default or a reason");
    let default = match default.split_at(1) {
        ("-", default) => Some(default.to_owned()),
        ("?", _) => None,
        _ => panic!("{text}"),
    };
    let value = dotenv(name).or(default).unwrap_or_else(|| panic!("{name} is not in .env"));
    format!("{before}{value}{}", interpolate(after))
}

fn interpolated(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(interpolate(&text)),
        Value::Array(items) => items.into_iter().map(interpolated).collect(),
        Value::Object(map) => {
            map.into_iter().map(|(name, value)| (name, interpolated(value))).collect()
        }
        other => other,
    }
}

fn file(path: &str) -> Value {
    interpolated(yaml::parse(&tool::read(path)))
}

/// The services of a layout, with what they include and extend.
fn services(layout: &str) -> Map<String, Value> {
    let read = file(layout);
    let mut all = Map::new();
    for included in yaml::strings(&read["include"]) {
        let included = file(&format!("docker/{included}"));
        all.extend(included["services"].as_object().unwrap().clone());
    }
    for (name, service) in read["services"].as_object().unwrap() {
        all.insert(name.clone(), extended(service));
    }
    all
}

/// Merges a service over the one that it extends; none of ours adds to a list of its base.
fn extended(service: &Value) -> Value {
    let Some(extends) = service.get("extends") else { return service.clone() };
    let base = file(&format!("docker/{}", extends["file"].as_str().unwrap()));
    let mut merged = base["services"][extends["service"].as_str().unwrap()].clone();
    for (name, value) in service.as_object().unwrap() {
        merged[name] = value.clone();
    }
    merged
}

/// The services of a layout that run the executable.
pub(super) fn ours(layout: &str) -> Vec<(String, Value)> {
    let all = services(layout).into_iter();
    all.filter(|(_, service)| service.get("extends").is_some()).collect()
}

fn command(service: &Value) -> Vec<String> {
    [vec!["somaagent".to_owned()], yaml::strings(&service["command"])].concat()
}

fn environment(service: &Value) -> Environment {
    super::chart::text_map(&service["environment"])
}

#[test]
fn the_specification_takes_every_file() {
    let mut arguments = vec!["--builtin-schema", "vendor.compose-spec"];
    arguments.extend(FILES);
    tool::run("check-jsonschema", &arguments).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn the_executable_takes_the_settings_of_every_container() {
    for layout in LAYOUTS {
        for (name, service) in ours(layout) {
            let config = binary::assert_configures(&environment(&service));
            let is_written = |path: &str| {
                let places = [&service["tmpfs"], &service["volumes"]].map(yaml::strings).concat();
                places.iter().any(|place| place.split(':').any(|part| part == path))
            };
            for path in [&config.storage.data_dir, &config.tools.work_dir] {
                assert!(is_written(path.to_str().unwrap()), "{name} cannot write {path:?}");
            }
            assert!(is_written("/tmp"), "{name}");
        }
    }
}

#[test]
fn the_executable_knows_every_command_and_check() {
    for layout in LAYOUTS {
        for (_, service) in ours(layout) {
            binary::assert_takes(&command(&service));
            let check = &service["healthcheck"]["test"];
            if check.is_array() {
                let check = yaml::strings(check);
                assert_eq!(check[0], "CMD");
                binary::assert_takes(&check[1..]);
            }
        }
    }
}

#[test]
fn the_fallback_runs_each_service_in_one_container() {
    let mut run: Vec<String> = Vec::new();
    for (name, service) in ours("docker/compose.fallback.yaml") {
        let command = command(&service);
        if let Some(place) = command.iter().position(|word| word == "--services") {
            assert_eq!(command[place + 1], name);
            run.push(name);
        }
    }
    run.sort_unstable();
    let mut all = soma_config::SERVICES.map(str::to_owned).to_vec();
    all.sort_unstable();
    assert_eq!(run, all);
}

#[test]
fn published_ports_are_those_that_the_executable_listens_on() {
    for layout in LAYOUTS {
        let mut published = BTreeSet::new();
        for (name, service) in ours(layout) {
            let config = binary::assert_configures(&environment(&service));
            let listens = [config.gateway.bind.port(), config.gateway.admin_bind.port()];
            for port in yaml::strings(&service["ports"]) {
                let (outside, inside) = port.rsplit_once(':').unwrap();
                assert!(listens.contains(&inside.parse().unwrap()), "{name}: {port}");
                assert!(outside.starts_with("127.0.0.1:"), "{port} is open to the network");
                assert!(published.insert(outside.to_owned()), "{port} twice");
            }
        }
        assert_eq!(published.len(), 2, "{layout}");
    }
}

#[test]
fn addresses_in_settings_are_those_of_the_servers() {
    for layout in LAYOUTS {
        let all = services(layout);
        for (name, service) in ours(layout) {
            let config = binary::assert_configures(&environment(&service));
            let dsn = config.storage.dsn.unwrap();
            let postgres = environment(&all["postgres"]);
            let expected = format!(
                "postgresql://{}:{}@postgres:5432/{}",
                postgres["POSTGRES_USER"], postgres["POSTGRES_PASSWORD"], postgres["POSTGRES_DB"]
            );
            assert_eq!(dsn.expose(), expected, "{name}");
            let kafka = config.bus.bootstrap_servers.unwrap();
            let advertised = &environment(&all["kafka"])["KAFKA_ADVERTISED_LISTENERS"];
            assert_eq!(*advertised, format!("PLAINTEXT://{kafka}"));
            assert_eq!(config.live.redis_url.unwrap().expose(), "redis://redis:6379/0");
            assert!(all.contains_key("redis"));
            assert_eq!(config.policy.url.unwrap().expose(), "http://opa:8181");
            let opa = yaml::strings(&all["opa"]["command"]);
            assert!(opa.contains(&"--addr=0.0.0.0:8181".to_owned()));
        }
    }
    for policy in ["soma.rego", "data.json"] {
        tool::read(&format!("config/policy/{policy}"));
    }
}

#[test]
fn containers_start_in_an_order_that_ends_well() {
    for layout in LAYOUTS {
        let all = services(layout);
        for (name, service) in &all {
            for (needed, how) in service["depends_on"].as_object().into_iter().flatten() {
                let other = all.get(needed).unwrap_or_else(|| panic!("{name} needs {needed}"));
                match how["condition"].as_str().unwrap() {
                    "service_healthy" => {
                        assert!(other["healthcheck"]["test"].is_array(), "{needed} has no check");
                    }
                    "service_completed_successfully" => assert_eq!(other["restart"], "no"),
                    other => panic!("{other}"),
                }
                // What is started by a profile alone may not be needed by what always starts.
                let is_optional = other.get("profiles").is_some();
                assert!(!is_optional || service["profiles"] == other["profiles"], "{name}");
            }
            assert!(service["mem_limit"].is_string(), "{name} has no limit");
        }
        for (name, service) in ours(layout).iter().filter(|(name, _)| name != "migrate") {
            assert_eq!(
                service["depends_on"]["migrate"]["condition"], "service_completed_successfully",
                "{name}"
            );
        }
    }
}

#[test]
fn a_container_outlives_its_drain_and_writes_nowhere_else() {
    for layout in LAYOUTS {
        for (name, service) in ours(layout) {
            let shutdown = binary::assert_configures(&environment(&service)).shutdown;
            let grace = service["stop_grace_period"].as_str().unwrap().trim_end_matches('s');
            let grace = Duration::from_secs(grace.parse().unwrap());
            assert!(shutdown.kill < grace, "{name}");
            assert_eq!(service["read_only"], true, "{name}");
            assert_eq!(yaml::strings(&service["cap_drop"]), ["ALL"], "{name}");
            assert_eq!(yaml::strings(&service["security_opt"]), ["no-new-privileges:true"]);
        }
    }
}

#[test]
fn volumes_are_declared() {
    for layout in LAYOUTS {
        let read = file(layout);
        let mut declared: BTreeSet<String> = BTreeSet::new();
        for part in std::iter::once(read.clone()).chain(
            yaml::strings(&read["include"]).iter().map(|name| file(&format!("docker/{name}"))),
        ) {
            declared.extend(part["volumes"].as_object().unwrap().keys().cloned());
        }
        for (name, service) in services(layout) {
            for volume in yaml::strings(&service["volumes"]) {
                let source = volume.split(':').next().unwrap();
                if source.starts_with('.') {
                    assert!(tool::project().join("docker").join(source).exists(), "{volume}");
                } else {
                    assert!(declared.contains(source), "{name}: {volume}");
                }
            }
        }
    }
}

#[test]
fn the_example_of_the_environment_has_what_the_files_ask_for() {
    let mut asked = BTreeSet::new();
    for path in FILES {
        for part in tool::read(path).split("${").skip(1) {
            asked.insert(part.split(':').next().unwrap().to_owned());
        }
    }
    let example = tool::read("docker/.env.example");
    let offered: BTreeSet<_> = example
        .lines()
        .filter_map(|line| line.trim_start_matches('#').split_once('='))
        .map(|(name, _)| name.to_owned())
        .collect();
    assert_eq!(asked, offered);
}

#[test]
fn the_image_is_that_of_this_version() {
    let service = &file("docker/base.yaml")["services"]["somaagent"];
    let version = concat!(":", env!("CARGO_PKG_VERSION"));
    assert!(service["image"].as_str().unwrap().ends_with(version), "{}", service["image"]);
}

#[test]
fn the_balancer_takes_its_configuration() {
    let path = tool::project().join("docker/haproxy.cfg");
    tool::run("haproxy", &["-c", "-q", "-f", path.to_str().unwrap()])
        .unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_balancer_asks_replicas_that_exist_where_they_answer() {
    let server = binary::running().await;
    let all = services("docker/compose.yaml");
    let config = binary::assert_configures(&environment(&all["somaagent"]));
    let text = tool::read("docker/haproxy.cfg");
    let words: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    let mut replicas = Vec::new();
    for line in &words {
        match line.as_slice() {
            ["option", "httpchk", "GET", path] => binary::assert_serves(&server, path).await,
            ["default-server", "check", "port", port, ..] => {
                assert_eq!(port.parse(), Ok(config.gateway.admin_bind.port()));
            }
            ["server", _, address] => {
                let (name, port) = address.split_once(':').unwrap();
                assert_eq!(port.parse(), Ok(config.gateway.bind.port()));
                assert_eq!(environment(&all[name]), environment(&all["somaagent"]));
                replicas.push(name.to_owned());
            }
            _ => {}
        }
    }
    assert_eq!(replicas.len(), 3);
    for port in yaml::strings(&all["balancer"]["ports"]) {
        let inside = port.rsplit_once(':').unwrap().1;
        assert!(words.iter().any(|line| *line == ["bind", &format!(":{inside}")]), "{port}");
    }
}
