//! A real Prometheus watches a real instance, and an alert really fires.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{binary, tool};
use crate::support::{Api, Server, until};

/// A Prometheus that scrapes one instance and has the rules. Dropping it ends it.
struct Prometheus {
    child: Child,
    api: Api,
    _folder: TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Prometheus {
    async fn watch(server: &Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let target = server.admin.trim_start_matches("http://");
        let rules = tool::project().join("charts/somaagent/rules/somaagent.yaml");
        // JSON is YAML.
        let configuration = json!({
            "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
            "rule_files": [rules],
            "scrape_configs": [
                { "job_name": "somaagent", "static_configs": [{ "targets": [target] }] },
            ],
        });
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, configuration.to_string()).unwrap();
        let address = free_address();
        let child = Command::new(tool::path("prometheus"))
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let api = Api::new(&format!("http://{address}"));
        let prometheus = Self { child, api, _folder: folder };
        until("Prometheus is ready", async || {
            let ready = prometheus.api.try_call(Method::GET, "/-/ready", None, None).await;
            ready.is_some_and(|(status, _)| status == StatusCode::OK)
        })
        .await;
        prometheus
    }

    /// The value of a query that has one.
    async fn value(&self, query: &str) -> Option<f64> {
        let answer = self.api.get(&format!("/api/v1/query?query={query}")).await;
        answer["data"]["result"][0]["value"][1].as_str().and_then(|value| value.parse().ok())
    }

    /// The alerts of this name that fire.
    async fn firing(&self, name: &str) -> Vec<Value> {
        let answer = self.api.get("/api/v1/alerts").await;
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        alerts
            .into_iter()
            .filter(|alert| alert["labels"]["alertname"] == name && alert["state"] == "firing")
            .collect()
    }
}

/// An address that was free a moment ago: Prometheus cannot be asked to choose one.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alert_fires_when_a_service_crashes_again_and_again() {
    let server = binary::running().await;
    let prometheus = Prometheus::watch(&server).await;
    let restarts = r#"soma_service_restarts_total{service="housekeeping"}"#;
    until("the instance is scraped", async || prometheus.value(restarts).await == Some(0.0)).await;
    assert!(prometheus.firing("SomaagentServiceRestarts").await.is_empty());

    for crash in 1..=5 {
        let fault = json!({ "kind": "panic" });
        let path = "/v1/services/housekeeping/fault";
        let (status, answer) = server.api.call(Method::POST, path, fault).await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{answer}");
        until("the crash is seen", async || {
            prometheus.value(restarts).await.is_some_and(|count| count >= f64::from(crash))
        })
        .await;
    }

    until("the alert fires", async || {
        let firing = prometheus.firing("SomaagentServiceRestarts").await;
        firing.iter().any(|alert| alert["labels"]["service"] == "housekeeping")
    })
    .await;
    let silent = prometheus.firing("SomaagentBacklogOld").await;
    assert!(silent.is_empty(), "{silent:?}");
}
