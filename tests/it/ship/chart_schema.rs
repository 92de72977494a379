//! The chart's schema of values follows the executable's settings, and what is rendered follows
//! Kubernetes' own schemas.

use std::io::Write as _;

use serde_json::{Map, Value, json};
use soma_config::{Key, Secrecy};

use super::{
    chart::{CASES, id},
    tool, yaml,
};

const SCHEMA: &str = "charts/somaagent/values.schema.json";

/// What the chart sets itself, as it belongs together with ports, volumes and hooks.
const OWN: [&str; 7] = [
    "SA01_DEPLOYMENT_MODE",
    "SA01_SERVICES",
    "SA01_DATA_DIR",
    "SA01_GATEWAY_BIND",
    "SA01_ADMIN_BIND",
    "SA01_SHUTDOWN_LAME_DUCK",
    "SA01_AUTH_REQUIRED",
];

#[test]
fn values_may_have_every_setting_and_no_other() {
    let mut schema: Value = serde_json::from_str(&tool::read(SCHEMA)).unwrap();
    let of_keys = |wanted: fn(&Key) -> bool| {
        let keys = soma_config::keys().iter().filter(|key| !OWN.contains(&key.name));
        let pairs = keys.filter(|key| wanted(key)).map(|key| (key.name.to_owned(), of_kind(key)));
        json!({
            "type": "object",
            "additionalProperties": false,
            "properties": pairs.collect::<Map<_, _>>(),
        })
    };
    let expected = [
        ("config", of_keys(|key| key.secrecy != Secrecy::Secret)),
        ("secrets", of_keys(|key| key.secrecy != Secrecy::Open)),
    ];
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        for (name, section) in expected.clone() {
            schema["definitions"][name] = section;
        }
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        std::fs::write(tool::project().join(SCHEMA), text).unwrap();
    }
    for (name, section) in expected {
        let is = &schema["definitions"][name];
        assert_eq!(*is, section, "{name} in {SCHEMA}; UPDATE_GOLDEN=1 writes it anew");
    }
}

/// The schema of a setting's value.
fn of_kind(key: &Key) -> Value {
    let definition = match key.kind {
        "duration" => "duration",
        "size" => "size",
        "number" => "number",
        "URL" => "url",
        "`true` or `false`" => "flag",
        kind if kind.starts_with('`') => {
            let words: Vec<_> = kind.split('`').skip(1).step_by(2).collect();
            return json!({ "enum": words });
        }
        _ => "text",
    };
    json!({ "$ref": format!("#/definitions/{definition}") })
}

#[test]
fn every_value_has_a_default_and_a_schema() {
    let schema: Value = serde_json::from_str(&tool::read(SCHEMA)).unwrap();
    let values = yaml::parse(&tool::read("charts/somaagent/values.yaml"));
    let names = |object: &Value| {
        let mut names: Vec<String> = object.as_object().unwrap().keys().cloned().collect();
        names.sort_unstable();
        names
    };
    // Helm itself puts `global` into the values of a chart within a chart.
    let in_schema = names(&schema["properties"]);
    let described: Vec<_> = in_schema.into_iter().filter(|name| name != "global").collect();
    assert_eq!(names(&values), described);
}

#[test]
fn the_readme_is_current() {
    tool::script("chart-docs.sh", &["--check"]).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn the_chart_installs_this_version() {
    let chart = yaml::parse(&tool::read("charts/somaagent/Chart.yaml"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}

/// The oldest Kubernetes that the chart takes, and the newest with schemas.
const VERSIONS: [&str; 2] = ["1.27.0", super::chart::KUBERNETES];

#[test]
fn kubernetes_takes_every_object() {
    for case in CASES {
        let mut file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
        let objects = case.objects().0;
        let native = objects.iter().filter(|object| !super::chart_crds::is_custom(object));
        let mut count = 0;
        for object in native {
            // JSON is YAML.
            writeln!(file, "---\n{object}").unwrap();
            count += 1;
        }
        let path = file.path().to_str().unwrap();
        for version in VERSIONS {
            let arguments = ["--strict", "--kubernetes-version", version, path];
            let said = tool::run("kubernetes-validate", &arguments)
                .unwrap_or_else(|error| panic!("{}: {error}", case.name));
            let passed = said.lines().filter(|line| line.contains(" passed ")).count();
            assert_eq!(passed, count, "{} on {version}:\n{said}", case.name);
        }
    }
}

#[test]
fn no_two_objects_have_one_name() {
    for case in CASES {
        let mut names: Vec<_> = case.objects().0.iter().map(id).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "{}: {names:?}", case.name);
    }
}
