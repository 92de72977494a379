//! What is in effect and where it came from.

use crate::{dotenv, environment, loaded, pairs};
use soma_config::{Sources, keys};

#[test]
fn every_key_has_a_row_with_its_value_and_origin() {
    let mut sources = environment(&[
        ("SA01_DB_DSN", "postgresql://soma:hunter2@db/soma"),
        ("SOMA_API_KEY", "sk-old"),
    ]);
    sources.dotenv = Some(dotenv("SA01_LOG_LEVEL=debug"));
    sources.flags = pairs(&[("SA01_TURNS_LEASE", "60s")]);
    let loaded = loaded(sources);
    let rows = &loaded.report().rows;
    assert_eq!(rows.len(), keys().len());
    let told = |name| {
        let row = rows.iter().find(|row| row.name == name).unwrap();
        (row.section, row.value.as_deref(), row.origin.to_string())
    };
    let owned = str::to_owned;
    let dsn = Some("postgresql://***@db/soma");
    assert_eq!(told("SA01_DB_DSN"), ("Storage", dsn, owned("environment")));
    let key = ("Memory", Some("***"), owned("environment, as SOMA_API_KEY"));
    assert_eq!(told("SA01_SOMA_API_KEY"), key);
    assert_eq!(told("SA01_LOG_LEVEL"), ("Telemetry", Some("debug"), owned(".env")));
    assert_eq!(told("SA01_TURNS_LEASE"), ("Turns", Some("1m"), owned("flag")));
    assert_eq!(told("SA01_AUTH_REQUIRED"), ("Auth", Some("false"), owned("profile dev")));
    assert_eq!(told("SA01_REDIS_URL"), ("Live", None, owned("default")));
}

#[test]
fn the_report_is_a_table_for_people_and_json_for_programs() {
    let loaded = loaded(Sources::default());
    let table = loaded.report().to_string();
    assert!(table.starts_with("Deployment\n  SA01_DEPLOYMENT_MODE "), "{table}");
    assert!(table.contains("\n\nStorage\n  SA01_DATA_DIR "), "{table}");
    let json = serde_json::to_value(loaded.report()).unwrap();
    assert_eq!(
        json[0],
        serde_json::json!({
            "name": "SA01_DEPLOYMENT_MODE",
            "section": "Deployment",
            "value": "dev",
            "origin": "default",
        })
    );
}
