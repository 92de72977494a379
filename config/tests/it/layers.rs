//! Which layer wins.

use std::time::Duration;

use crate::{dotenv, environment, loaded, pairs};
use soma_config::{CentralizedConfig, LogFormat, Mode, Size, Sources};

#[test]
fn with_nothing_set_it_is_dev_with_everything_built_in() {
    let config = loaded(Sources::default()).config;
    assert_eq!(config.deployment.mode, Mode::Dev);
    assert_eq!(config.storage.dsn, None);
    assert_eq!(config.gateway.bind.to_string(), "127.0.0.1:8010");
    assert_eq!(config.gateway.max_upload, Size::from_mib(25));
    assert!(!config.auth.required);
    assert!(!config.rate_limit.is_on());
    assert_eq!(config.shutdown.lame_duck, Duration::ZERO);
    assert!(config.deployment.runs("housekeeping"));
}

#[test]
fn prod_has_its_own_profile() {
    let config = loaded(environment(&crate::PROD)).config;
    assert!(config.auth.required);
    assert_eq!(config.rate_limit.per_second, 20);
    assert_eq!(config.telemetry.log_format, LogFormat::Json);
    assert_eq!(config.gateway.bind.to_string(), "0.0.0.0:8010");
}

#[test]
fn each_layer_is_stronger_than_the_one_before() {
    let name = "SA01_RATE_LIMIT_PER_SECOND";
    let per_second = |sources: &Sources| {
        let loaded = loaded(sources.clone());
        let row = loaded.report().rows.iter().find(|row| row.name == name).unwrap();
        (loaded.config.rate_limit.per_second, row.origin.to_string())
    };
    assert_eq!(CentralizedConfig::default().rate_limit.per_second, 20);
    let mut sources = Sources::default();
    assert_eq!(per_second(&sources), (0, "profile dev".to_owned()));
    sources.dotenv = Some(dotenv("SA01_RATE_LIMIT_PER_SECOND=1"));
    assert_eq!(per_second(&sources), (1, ".env".to_owned()));
    sources.environment = pairs(&[(name, "2")]);
    assert_eq!(per_second(&sources), (2, "environment".to_owned()));
    sources.flags = pairs(&[(name, "3")]);
    assert_eq!(per_second(&sources), (3, "flag".to_owned()));
}

#[test]
fn the_mode_may_come_from_any_layer() {
    let prod: Vec<_> =
        crate::PROD.into_iter().filter(|(name, _)| !name.ends_with("MODE")).collect();
    let mut sources = environment(&prod);
    sources.dotenv = Some(dotenv("SA01_DEPLOYMENT_MODE=prod"));
    assert!(loaded(sources.clone()).config.auth.required);
    sources.flags = pairs(&[("SA01_DEPLOYMENT_MODE", "dev")]);
    assert!(!loaded(sources).config.auth.required);
}

#[test]
fn an_empty_value_lets_the_layer_below_through() {
    let mut sources = environment(&[("SA01_LOG_LEVEL", ""), ("SA01_DB_DSN", " ")]);
    sources.dotenv = Some(dotenv("SA01_LOG_LEVEL=debug"));
    let config = loaded(sources).config;
    assert_eq!(config.telemetry.log_level, "debug");
    assert_eq!(config.storage.dsn, None);
}

#[test]
fn the_last_of_several_counts_and_dotenv_warns_of_it() {
    let text = "SA01_LOG_LEVEL=debug\nSA01_LOG_LEVEL=trace\n";
    let loaded_from_file = loaded(Sources { dotenv: Some(dotenv(text)), ..Sources::default() });
    assert_eq!(loaded_from_file.config.telemetry.log_level, "trace");
    assert_eq!(
        loaded_from_file.warnings[0].to_string(),
        "SA01_LOG_LEVEL stands twice in .env; the last one counts"
    );
    let flags = pairs(&[("SA01_LOG_LEVEL", "debug"), ("SA01_LOG_LEVEL", "warn")]);
    let loaded_from_flags = loaded(Sources { flags, ..Sources::default() });
    assert_eq!(loaded_from_flags.config.telemetry.log_level, "warn");
    assert!(loaded_from_flags.warnings.is_empty());
}

#[test]
fn dotenv_is_read_as_shells_read_it() {
    let text = "\u{feff}# a comment\n\nexport SA01_DATA_DIR=\"/a b\" # why\nOTHER=1\n\
                SA01_AUTH_JWT_SECRET='pa$$word-pa$$word-pa$$word-pa$$word'\n";
    let config = loaded(Sources { dotenv: Some(dotenv(text)), ..Sources::default() }).config;
    assert_eq!(config.storage.data_dir.to_str(), Some("/a b"));
    let secret = config.auth.jwt_secret.unwrap();
    assert_eq!(secret.expose(), "pa$$word-pa$$word-pa$$word-pa$$word");
}

#[test]
fn the_work_dir_follows_the_data_dir_unless_it_is_set() {
    let config = loaded(environment(&[("SA01_DATA_DIR", "/srv/soma")])).config;
    assert_eq!(config.tools.work_dir.to_str(), Some("/srv/soma/files"));
    let variables = [("SA01_DATA_DIR", "/srv/soma"), ("SA01_TOOLS_WORK_DIR", "/srv/files")];
    let config = loaded(environment(&variables)).config;
    assert_eq!(config.tools.work_dir.to_str(), Some("/srv/files"));
}

#[test]
fn the_process_hands_in_its_environment_and_the_flags() {
    let flags = pairs(&[("SA01_LOG_LEVEL", "debug")]);
    let sources = Sources::of_process(flags.clone()).unwrap();
    assert_eq!(sources.flags, flags);
    // Cargo sets this one for every test.
    let folder = env!("CARGO_MANIFEST_DIR").to_owned();
    assert!(sources.environment.contains(&("CARGO_MANIFEST_DIR".to_owned(), folder)));
}
