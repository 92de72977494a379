//! The predecessor's names are still read, and told to be old.

use std::time::Duration;

use crate::{dotenv, environment, loaded};
use soma_config::{Mode, Size};

fn warnings(variables: &[(&str, &str)]) -> Vec<String> {
    loaded(environment(variables)).warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn an_old_name_is_read_with_a_warning_that_names_the_new_one() {
    let sources = environment(&[("POSTGRES_DSN", "postgresql://db/soma"), ("LOG_LEVEL", "INFO")]);
    let loaded = loaded(sources);
    assert_eq!(loaded.config.storage.dsn.unwrap().expose(), "postgresql://db/soma");
    let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "POSTGRES_DSN is the old name of SA01_DB_DSN; write that instead",
            "LOG_LEVEL is the old name of SA01_LOG_LEVEL; write that instead (`WARNING` is now \
             `warn`)",
        ]
    );
}

#[test]
fn the_new_name_wins_in_whatever_layer_it_is() {
    let mut sources = environment(&[("TOOL_WORK_DIR", "/old")]);
    sources.dotenv = Some(dotenv("SA01_TOOLS_WORK_DIR=/new"));
    let loaded = loaded(sources);
    assert_eq!(loaded.config.tools.work_dir.to_str(), Some("/new"));
    assert_eq!(
        loaded.warnings[0].to_string(),
        "TOOL_WORK_DIR is ignored, as it is the old name of SA01_TOOLS_WORK_DIR, which is set; \
         remove it"
    );
}

#[test]
fn an_old_name_is_stronger_than_the_profile() {
    let secret = "0123456789abcdef0123456789abcdef";
    let variables = [("GATEWAY_REQUIRE_AUTH", "true"), ("GATEWAY_JWT_SECRET", secret)];
    assert!(loaded(environment(&variables)).config.auth.required);
}

#[test]
fn old_spellings_are_understood() {
    let config = loaded(environment(&[
        ("SOMA_AGENT_ENV", "DEV"),
        ("TOOL_EXECUTOR_TIMEOUT", "45"),
        ("POLICY_CACHE_TTL", "0.5"),
        ("GATEWAY_UPLOAD_MAX_MB", "50"),
        ("LOG_LEVEL", "WARNING"),
        ("GATEWAY_JWT_TENANT_CLAIMS", "org,team"),
    ]))
    .config;
    assert_eq!(config.deployment.mode, Mode::Dev);
    assert_eq!(config.tools.timeout, Duration::from_secs(45));
    assert_eq!(config.policy.cache_ttl, Duration::from_millis(500));
    assert_eq!(config.gateway.max_upload, Size::from_mib(50));
    assert_eq!(config.telemetry.log_level, "warn");
    assert_eq!(config.auth.jwt_tenant_claims, ["org", "team"]);
}

#[test]
fn a_bad_value_by_an_old_name_is_told_with_both_names() {
    let told = crate::told(&[("TOOL_EXECUTOR_TIMEOUT", "a while")]);
    assert_eq!(told.len(), 1);
    let start = "SA01_TOOLS_TIMEOUT=`a while` (environment, as TOOL_EXECUTOR_TIMEOUT) is not";
    assert!(told[0].starts_with(start), "{told:?}");
}

#[test]
fn a_name_that_no_longer_means_anything_is_told_and_does_no_harm() {
    assert_eq!(
        warnings(&[("SA01_MEMORY_WAL_TOPIC", "memory.wal"), ("SA01_MASK_RULES_FILE", "/x")]),
        [
            "SA01_MEMORY_WAL_TOPIC is no longer used and may be removed: topics and groups have \
             fixed names",
            "SA01_MASK_RULES_FILE is no longer used and may be removed: it switched nothing, and \
             there is nothing to switch",
        ]
    );
}
