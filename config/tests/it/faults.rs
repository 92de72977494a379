//! Every fault is told, with what it takes to mend it.

use crate::{PROD, dotenv, environment, faults, loaded, told};
use soma_config::Sources;

#[test]
fn a_bad_value_is_told_with_name_value_origin_reason_and_way_out() {
    assert_eq!(
        told(&[("SA01_TURNS_LEASE", "fast")]),
        ["SA01_TURNS_LEASE=`fast` (environment) is not a duration; write a duration, such as \
             `250ms`, `5s`, `10m`, `72h` or `30d`"]
    );
}

#[test]
fn a_missing_value_is_told_by_its_name() {
    let without_dsn: Vec<_> = PROD.into_iter().filter(|(name, _)| *name != "SA01_DB_DSN").collect();
    assert_eq!(
        told(&without_dsn),
        ["SA01_DB_DSN is missing: `prod` runs on PostgreSQL; set it, such as \
             `postgresql://USER:PASSWORD@HOST:5432/DATABASE`"]
    );
}

#[test]
fn all_faults_are_told_at_once_in_the_order_of_the_keys() {
    let all = faults(environment(&[
        ("SA01_TURNS_MAX_STEPS", "0"),
        ("SA01_NO_SUCH_THING", "1"),
        ("SA01_GATEWAY_BIND", "somewhere"),
        ("SA01_REDIS_URL", "http://redis"),
    ]));
    let names: Vec<_> = all.faults.iter().map(|fault| fault.name.as_str()).collect();
    assert_eq!(
        names,
        ["SA01_REDIS_URL", "SA01_GATEWAY_BIND", "SA01_TURNS_MAX_STEPS", "SA01_NO_SUCH_THING"]
    );
    let page = all.to_string();
    assert!(page.starts_with("the configuration has 4 faults:\n  SA01_REDIS_URL="), "{page}");
    assert_eq!(page.lines().count(), 5, "{page}");
}

#[test]
fn a_name_that_means_nothing_is_a_fault_with_the_nearest_name() {
    let told = told(&[("SA01_MODLE_NAME", "x")]);
    assert_eq!(
        told,
        ["SA01_MODLE_NAME (environment) is not a setting; did you mean SA01_MODEL_NAME?"]
    );
}

#[test]
fn a_name_in_lower_case_is_a_fault_and_not_ignored() {
    let told = told(&[("sa01_db_dsn", "x")]);
    assert_eq!(told, ["sa01_db_dsn (environment) is not a setting; did you mean SA01_DB_DSN?"]);
}

#[test]
fn names_of_others_are_left_alone() {
    let loaded =
        loaded(environment(&[("PATH", "/bin"), ("RUST_LOG", "debug"), ("LOG_LEVEL_FILE", "x")]));
    assert!(loaded.warnings.is_empty());
}

#[test]
fn a_flag_must_be_a_setting_whatever_it_begins_with() {
    let flags = crate::pairs(&[("GATEWAY_BIND", "127.0.0.1:1")]);
    let all = faults(Sources { flags, ..Sources::default() });
    assert!(all.to_string().contains("GATEWAY_BIND (flag) is not a setting"), "{all}");
}

#[test]
fn a_way_out_is_made_plain_by_an_example() {
    let told = told(&[("SA01_POLICY_URL", "opa:8181"), ("SA01_LOG_LEVEL", "loud")]);
    assert!(told[0].ends_with("; write a URL, such as `http://opa:8181`"), "{told:?}");
    assert!(told[1].ends_with("; write a text, such as `info`"), "{told:?}");
}

#[test]
fn a_value_out_of_its_range_is_a_fault() {
    for (name, value, reason) in [
        ("SA01_TURNS_ATTEMPTS", "0", "must be 1 or more"),
        ("SA01_MODEL_CONTEXT_TOKENS", "511", "must be 512 or more"),
        ("SA01_GATEWAY_MAX_BODY", "1023", "must be 1KiB or more"),
        ("SA01_DB_POOL_MAX_SIZE", "1", "must be from 2 to 10000"),
        ("SA01_TURNS_CONCURRENCY", "70000", "must be from 1 to 65536"),
        ("SA01_TURNS_MAX_WORK", "99999d", "is too long"),
        ("SA01_SUPERVISION_HANG_LIMIT", "0s", "must not be zero"),
        ("SA01_KAFKA_BOOTSTRAP_SERVERS", "kafka", "is not a list of `host:port`"),
        ("SA01_MODEL_BASE_URL", "ftp://host", "does not begin with `http://` or `https://`"),
        ("SA01_LOG_LEVEL", "loud", "uses a level that is none of `off`"),
        ("SA01_AUTH_JWT_ALGORITHMS", "HS256,none", "is not one of the words"),
        ("SA01_SERVICES", "gateway,gatway", "did you mean `gateway`?"),
        ("SA01_GATEWAY_BIND", "127.0.0.1:\u{fffd}", "is not UTF-8"),
    ] {
        let told = told(&[(name, value)]);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with(&format!("{name}=`")), "{told:?}");
        assert!(told[0].contains(reason), "{told:?}");
    }
}

#[test]
fn what_must_be_longer_than_something_else_is_checked() {
    for (variables, at_fault) in [
        (vec![("SA01_TURNS_HEARTBEAT", "30s")], "SA01_TURNS_HEARTBEAT"),
        (vec![("SA01_SHUTDOWN_LAME_DUCK", "40s")], "SA01_SHUTDOWN_LAME_DUCK"),
        (vec![("SA01_SHUTDOWN_KILL", "40s")], "SA01_SHUTDOWN_DRAIN"),
        (vec![("SA01_GATEWAY_BACKLOG_TOTAL", "9999")], "SA01_GATEWAY_BACKLOG_PER_TENANT"),
        (vec![("SA01_MODEL_TOTAL_TIMEOUT", "5s")], "SA01_MODEL_CONNECT_TIMEOUT"),
        (vec![("SA01_RETENTION_INBOX", "7d")], "SA01_RETENTION_INBOX"),
        (
            vec![("SA01_RETENTION_TOPICS", "30d"), ("SA01_RETENTION_INBOX", "31d")],
            "SA01_RETENTION_MEMORY_TOMBSTONES",
        ),
    ] {
        let told = told(&variables);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with(at_fault), "{told:?}");
    }
}

#[test]
fn a_rule_is_silent_about_a_value_that_is_faulty_in_itself() {
    let told = told(&[("SA01_TURNS_HEARTBEAT", "40s"), ("SA01_TURNS_LEASE", "soon")]);
    assert_eq!(told.len(), 1, "{told:?}");
}

#[test]
fn what_belongs_together_is_checked() {
    for (variables, at_fault) in [
        (vec![("SA01_MODEL_BASE_URL", "http://llm/v1")], "SA01_MODEL_NAME is missing"),
        (vec![("SA01_MODEL_FALLBACK_NAME", "small")], "SA01_MODEL_FALLBACK_NAME=`small`"),
        (vec![("SA01_KAFKA_SECURITY_PROTOCOL", "sasl_ssl")], "SA01_KAFKA_SECURITY_PROTOCOL="),
        (vec![("SA01_ADMIN_BIND", "127.0.0.1:8010")], "SA01_ADMIN_BIND=`127.0.0.1:8010`"),
    ] {
        let told = told(&variables);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with(at_fault), "{told:?}");
    }
}

#[test]
fn a_model_without_an_endpoint_is_odd_but_works() {
    let loaded = loaded(environment(&[("SA01_MODEL_API_KEY", "sk-x")]));
    let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("SA01_MODEL_API_KEY is not used"), "{warnings:?}");
}

#[test]
fn a_line_of_dotenv_that_cannot_be_read_is_named_by_its_number() {
    let text = "SA01_LOG_LEVEL=debug\n\nSA01_DATA_DIR=a b c\nnonsense\nSA01_TURNS_LEASE='60s\n";
    let all = faults(Sources { dotenv: Some(dotenv(text)), ..Sources::default() });
    let told: Vec<_> = all.faults.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 3, "{told:?}");
    for (told, line) in told.iter().zip(["line 3", "line 4", "line 5"]) {
        assert!(told.starts_with(&format!("{line} (.env) cannot be read")), "{told}");
    }
}
