//! The dashboards: Prometheus' own tool parses their queries, which ask for metrics and labels that
//! the executable has.

use std::{collections::BTreeSet, io::Write as _};

use serde_json::{Value, json};

use super::{alerts::list, tool, yaml};

const FOLDER: &str = "docker/observability/dashboards";

/// Every dashboard with its file's name.
fn dashboards() -> Vec<(String, Value)> {
    let files = std::fs::read_dir(tool::project().join(FOLDER)).unwrap();
    let mut names: Vec<_> =
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    let read = |name: String| {
        let text = tool::read(&format!("{FOLDER}/{name}"));
        (name, serde_json::from_str(&text).unwrap())
    };
    names.into_iter().map(read).collect()
}

/// The queries of a dashboard, its variables replaced.
fn queries(dashboard: &Value) -> Vec<String> {
    let targets = list(&dashboard["panels"]).flat_map(|panel| list(&panel["targets"]));
    let expressions = targets.map(|target| target["expr"].as_str().unwrap());
    let replaced =
        expressions.map(|query| query.replace("$__rate_interval", "5m").replace("$instance", ".*"));
    replaced.collect()
}

/// The words in quotes of every source file that declares metrics: their names and labels.
pub(super) fn declared() -> BTreeSet<String> {
    fn visit(folder: &std::path::Path, words: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                visit(&path, words);
            } else if path.file_name().is_some_and(|name| name == "metrics.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                words.extend(text.split('"').skip(1).step_by(2).map(str::to_owned));
            }
        }
    }
    let mut words = BTreeSet::new();
    for folder in ["src", "actors"] {
        visit(&tool::project().join(folder), &mut words);
    }
    words
}

/// The words of a query outside of quotes, and what stands in its `by (…)`, `{…}`.
fn words(query: &str) -> impl Iterator<Item = &str> {
    let outside = query.split('"').step_by(2);
    outside.flat_map(|part| {
        part.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
    })
}

#[test]
fn prometheus_takes_every_query() {
    let mut rules = Vec::new();
    for (_, dashboard) in dashboards() {
        for query in queries(&dashboard) {
            rules.push(json!({ "record": format!("query:{}", rules.len()), "expr": query }));
        }
    }
    assert!(rules.len() > 80, "{}", rules.len());
    let mut file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let groups = json!({ "groups": [{ "name": "queries", "rules": rules }] });
    writeln!(file, "{groups}").unwrap();
    tool::run("promtool", &["check", "rules", file.path().to_str().unwrap()])
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn queries_ask_for_metrics_and_labels_that_exist() {
    let declared = declared();
    let language = [
        "sum",
        "max",
        "min",
        "by",
        "rate",
        "increase",
        "histogram_quantile",
        "or",
        "vector",
        "le",
        "instance",
        "m",
    ];
    for (name, dashboard) in dashboards() {
        for query in queries(&dashboard) {
            for word in words(&query).filter(|word| !language.contains(word)) {
                let is_number = word.chars().all(|letter| letter.is_ascii_digit() || letter == 'm');
                let metric = ["_bucket", "_count", "_sum"]
                    .iter()
                    .find_map(|suffix| word.strip_suffix(suffix))
                    .filter(|stem| declared.contains(*stem))
                    .unwrap_or(word);
                assert!(is_number || declared.contains(metric), "{name}: `{word}` in `{query}`");
            }
        }
    }
}

#[test]
fn each_service_has_a_dashboard_and_each_dashboard_a_name_of_its_own() {
    let dashboards = dashboards();
    let names: Vec<_> = dashboards.iter().map(|(name, _)| name.trim_end_matches(".json")).collect();
    for expected in soma_config::SERVICES.iter().chain(&["overview", "supervision"]) {
        assert!(names.contains(expected), "{expected}");
    }
    for field in ["uid", "title"] {
        let different: BTreeSet<_> =
            dashboards.iter().map(|(_, dashboard)| dashboard[field].as_str().unwrap()).collect();
        assert_eq!(different.len(), dashboards.len(), "{field}");
    }
    let sources =
        yaml::parse(&tool::read("docker/observability/provisioning/datasources/prometheus.yaml"));
    for (name, dashboard) in &dashboards {
        for panel in list(&dashboard["panels"]) {
            assert_eq!(panel["datasource"]["uid"], sources["datasources"][0]["uid"], "{name}");
            for target in list(&panel["targets"]) {
                assert_eq!(target["datasource"], panel["datasource"], "{name}");
            }
        }
    }
}

#[test]
fn prometheus_takes_its_configuration_and_finds_every_container() {
    let path = "docker/observability/prometheus.yml";
    tool::run("promtool", &["check", "config", "--syntax-only", path])
        .unwrap_or_else(|error| panic!("{error}"));
    let scraped = &yaml::parse(&tool::read(path))["scrape_configs"][0]["dns_sd_configs"][0];
    let mut names = yaml::strings(&scraped["names"]);
    names.sort_unstable();
    let mut containers: Vec<_> = super::compose::LAYOUTS
        .iter()
        .flat_map(|layout| super::compose::ours(layout))
        .map(|(name, _)| name)
        .filter(|name| name != "migrate")
        .collect();
    containers.sort_unstable();
    assert_eq!(names, containers);
    assert_eq!(scraped["port"], 9400);
}
