//! Renders the chart for the cases that the other modules look at.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::Value;

use super::{
    binary::Environment,
    tool::{self, Outcome},
    yaml,
};

/// The newest Kubernetes that the validator has schemas of.
pub(super) const KUBERNETES: &str = "1.37.0";
const CHART: &str = "charts/somaagent";

/// Value files that are rendered together, and what a Secret of the operator has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) name: &'static str,
    values: &'static [&'static str],
}

/// Every case: what the chart's own files are for, and one that sets everything.
pub(super) const CASES: [Case; 6] = [
    Case { name: "dev", values: &["charts/somaagent/values-dev.yaml"] },
    Case { name: "prod", values: &["charts/somaagent/values-prod.yaml"] },
    Case {
        name: "roles",
        values: &["charts/somaagent/values-prod.yaml", "charts/somaagent/values-roles.yaml"],
    },
    Case {
        name: "multi-region",
        values: &["charts/somaagent/values-prod.yaml", "charts/somaagent/values-multi-region.yaml"],
    },
    Case {
        name: "opa",
        values: &["charts/somaagent/values-prod.yaml", "charts/somaagent/values-opa.yaml"],
    },
    Case { name: "everything", values: &["tests/it/ship/everything.yaml"] },
];

impl Case {
    /// The case of this name.
    pub(super) fn named(name: &str) -> Self {
        CASES.into_iter().find(|case| case.name == name).unwrap_or_else(|| panic!("{name}"))
    }

    /// Runs a command of helm on the chart with these values, and more settings.
    pub(super) fn helm(self, command: &[&str], more: &[&str]) -> Outcome {
        let files = self.values.iter().flat_map(|file| ["--values", file]);
        let mut arguments = command.to_vec();
        arguments.extend([CHART, "--kube-version", KUBERNETES, "--namespace", "agents"]);
        arguments.extend(files);
        arguments.extend(more);
        tool::run("helm", &arguments)
    }

    /// Returns what `helm template` prints.
    pub(super) fn text(self) -> String {
        self.helm(&["template", "somaagent"], &[]).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns the rendered objects.
    pub(super) fn objects(self) -> Objects {
        Objects(yaml::parse_all(&self.text()))
    }
}

/// The objects of a case.
#[derive(Debug)]
pub(super) struct Objects(pub(super) Vec<Value>);

impl Objects {
    /// The object `Kind/name`, if there is one.
    pub(super) fn find(&self, object: &str) -> Option<&Value> {
        self.0.iter().find(|value| id(value) == object)
    }

    /// The objects of a kind.
    pub(super) fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |value| value["kind"] == kind)
    }

    /// The objects that make pods: each `Deployment` and `StatefulSet`.
    pub(super) fn workloads(&self) -> impl Iterator<Item = &Value> {
        self.of_kind("Deployment").chain(self.of_kind("StatefulSet"))
    }

    /// The variables of a container, from all that it takes them from. What the operator's Secret
    /// has is not in the chart; this one has what the value files say it has.
    pub(super) fn environment(&self, container: &Value) -> Environment {
        let mut environment = Environment::new();
        for source in container["envFrom"].as_array().into_iter().flatten() {
            let map = source.pointer("/configMapRef/name").and_then(Value::as_str);
            let secret = source.pointer("/secretRef/name").and_then(Value::as_str);
            match (map, secret) {
                (Some(map), _) => {
                    environment.extend(text_map(&self.found(&format!("ConfigMap/{map}"))["data"]));
                }
                (_, Some(secret)) => match self.find(&format!("Secret/{secret}")) {
                    Some(ours) => environment.extend(text_map(&ours["stringData"])),
                    None => environment.extend(secret_of_the_operator(&environment)),
                },
                _ => panic!("{source}"),
            }
        }
        for variable in container["env"].as_array().into_iter().flatten() {
            if let (Some(name), Some(value)) =
                (variable["name"].as_str(), variable["value"].as_str())
            {
                environment.insert(name.to_owned(), value.to_owned());
            }
        }
        environment
    }

    /// The object `Kind/name`.
    pub(super) fn found(&self, object: &str) -> &Value {
        self.find(object).unwrap_or_else(|| panic!("there is no {object} among {}", self.names()))
    }

    fn names(&self) -> String {
        self.0.iter().fold(String::new(), |mut names, value| {
            write!(names, "{} ", id(value)).unwrap();
            names
        })
    }
}

fn secret_of_the_operator(so_far: &Environment) -> Environment {
    let mut secret = Environment::new();
    let mut has = |name: &str, value: &str| secret.insert(name.to_owned(), value.to_owned());
    if so_far["SA01_DEPLOYMENT_MODE"] == "dev" {
        has("SA01_AUTH_JWT_SECRET", "0123456789abcdef0123456789abcdef");
        return secret;
    }
    has("SA01_DB_DSN", "postgresql://soma:pw@db:5432/somaagent01");
    has("SA01_REDIS_URL", "rediss://:pw@cache:6379/0");
    has("SA01_KAFKA_SASL_USERNAME", "soma");
    has("SA01_KAFKA_SASL_PASSWORD", "pw");
    has("SA01_MODEL_API_KEY", "key");
    secret
}

/// `Kind/name`.
pub(super) fn id(object: &Value) -> String {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    format!("{}/{}", text("/kind"), text("/metadata/name"))
}

/// A map of texts.
pub(super) fn text_map(map: &Value) -> BTreeMap<String, String> {
    let pairs = map.as_object().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{value}")).to_owned();
    pairs.map(|(name, value)| (name.clone(), text(value))).collect()
}

#[test]
fn every_case_is_rendered_as_it_was_agreed_on() {
    for case in CASES {
        let path = tool::project().join(format!("tests/it/ship/golden/{}.yaml", case.name));
        let text = case.text();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(text == golden, "{} has changed; UPDATE_GOLDEN=1 accepts it", path.display());
    }
}

#[test]
fn helm_finds_nothing_to_complain_about() {
    for case in CASES {
        case.helm(&["lint", "--strict"], &[]).unwrap_or_else(|error| panic!("{error}"));
    }
}
