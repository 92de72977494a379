//! The alerts: Prometheus' own tool loads them, fires each of them once and leaves it quiet once.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{binary, tool, yaml};

const RULES: &str = "charts/somaagent/rules/somaagent.yaml";
const TESTS: &str = "tests/it/ship/alerts.yaml";

#[test]
fn prometheus_takes_the_rules() {
    tool::run("promtool", &["check", "rules", "--lint-fatal", RULES])
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn alerts_fire_when_they_should_and_only_then() {
    tool::run("promtool", &["test", "rules", TESTS]).unwrap_or_else(|error| panic!("{error}"));

    let tests = yaml::parse(&tool::read(TESTS));
    let fires = |alert: &Value, expected: bool| {
        let entries = list(&tests["tests"]).flat_map(|test| list(&test["alert_rule_test"]));
        let of_alert = entries.filter(|entry| entry["alertname"] == *alert);
        of_alert.into_iter().any(|entry| list(&entry["exp_alerts"]).next().is_some() == expected)
    };
    let rules = yaml::parse(&tool::read(RULES));
    for rule in list(&rules["groups"]).flat_map(|group| list(&group["rules"])) {
        let alert = &rule["alert"];
        if alert.is_string() {
            assert!(fires(alert, true), "{alert} never fires in {TESTS}");
            assert!(fires(alert, false), "{alert} is never quiet in {TESTS}");
        }
    }
}

#[test]
fn each_alert_has_a_page_that_says_what_to_do() {
    let rules = yaml::parse(&tool::read(RULES));
    let mut pages = BTreeSet::new();
    for rule in list(&rules["groups"]).flat_map(|group| list(&group["rules"])) {
        let alert = rule["alert"].as_str().unwrap();
        let address = rule["annotations"]["runbook_url"].as_str().unwrap();
        assert!(address.ends_with(&format!("/docs/runbooks/{alert}.md")), "{address}");
        let page = tool::read(&format!("docs/runbooks/{alert}.md"));
        for command in page.lines().filter(|line| line.starts_with("somaagent ")) {
            let words: Vec<_> = command.split_whitespace().map(str::to_owned).collect();
            binary::assert_takes(&words);
        }
        pages.insert(format!("{alert}.md"));
    }
    pages.insert("README.md".to_owned());
    let files = std::fs::read_dir(tool::project().join("docs/runbooks")).unwrap();
    let files = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(pages, files);
}

/// The items of a list; none where it is missing.
pub(super) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
