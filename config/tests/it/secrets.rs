//! Secrets come from variables or files, and are never printed.

use std::{fs, path::Path};

use proptest::prelude::*;
use soma_config::{CentralizedConfig, Secrecy, Sources, keys};

use crate::{dotenv, environment, loaded, pairs, told};

#[test]
fn a_secret_may_be_in_a_file_without_its_last_line_break() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    fs::write(&path, "first line\nsecond line, 32 bytes and more\r\n").unwrap();
    let path = path.to_str().unwrap();
    let loaded = loaded(environment(&[("SA01_AUTH_JWT_SECRET_FILE", path)]));
    let secret = loaded.config.auth.jwt_secret.as_ref().unwrap();
    assert_eq!(secret.expose(), "first line\nsecond line, 32 bytes and more");
    let row = loaded.report().rows.iter().find(|row| row.name == "SA01_AUTH_JWT_SECRET").unwrap();
    let origin = format!("environment, as SA01_AUTH_JWT_SECRET_FILE, from {path}");
    assert_eq!(row.origin.to_string(), origin);
}

#[test]
fn a_url_with_a_password_may_be_in_a_file_by_its_old_name_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dsn");
    fs::write(&path, "postgresql://soma:hunter2@db/soma\n").unwrap();
    let loaded = loaded(environment(&[("POSTGRES_DSN_FILE", path.to_str().unwrap())]));
    let dsn = loaded.config.storage.dsn.unwrap();
    assert_eq!(dsn.expose(), "postgresql://soma:hunter2@db/soma");
    assert!(loaded.warnings[0].to_string().starts_with("POSTGRES_DSN_FILE is the old name"));
}

#[test]
fn a_file_that_cannot_be_read_or_is_empty_is_a_fault() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty");
    fs::write(&empty, "\n").unwrap();
    let missing = folder.path().join("missing");
    for (path, reason) in
        [(empty.as_path(), "is empty"), (&missing, "cannot be read"), (folder.path(), "cannot be")]
    {
        let path = path.to_str().unwrap();
        let told = told(&[("SA01_MODEL_API_KEY_FILE", path)]);
        assert_eq!(told.len(), 1, "{told:?}");
        let origin = format!("(environment, as SA01_MODEL_API_KEY_FILE, from {path}) {reason}");
        assert!(told[0].starts_with(&format!("SA01_MODEL_API_KEY {origin}")), "{told:?}");
    }
}

#[test]
fn a_secret_and_its_file_in_one_layer_is_a_fault_and_in_two_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    fs::write(&path, "from the file").unwrap();
    let file = ("SA01_SOMA_API_KEY_FILE", path.to_str().unwrap());
    let told = told(&[("SA01_SOMA_API_KEY", "x"), file]);
    assert_eq!(
        told,
        ["SA01_SOMA_API_KEY (environment) is set and so is SA01_SOMA_API_KEY_FILE; keep one of \
             them"]
    );
    let mut sources = environment(&[file]);
    sources.dotenv = Some(dotenv("SA01_SOMA_API_KEY=x"));
    assert_eq!(loaded(sources).config.memory.api_key.unwrap().expose(), "from the file");
}

#[test]
fn only_secrets_and_urls_are_read_from_files() {
    let told = told(&[("SA01_DATA_DIR_FILE", "/etc/passwd")]);
    assert_eq!(
        told,
        ["SA01_DATA_DIR_FILE (environment) names a file, but only secrets and URLs are read \
             from files; set SA01_DATA_DIR itself"]
    );
}

#[test]
fn a_secret_that_is_too_short_is_odd_but_works() {
    let loaded = loaded(environment(&[("SA01_AUTH_JWT_SECRET", "short")]));
    assert!(loaded.warnings[0].to_string().contains("is shorter than 32 bytes"));
}

/// Everything that can be printed of what these sources give.
fn printed(sources: &Sources) -> String {
    match CentralizedConfig::load(sources.clone()) {
        Ok(loaded) => {
            let json = serde_json::to_string(loaded.report()).unwrap();
            format!("{sources:?} {loaded:?} {json} {} {:?}", loaded.report(), loaded.warnings)
        }
        Err(faults) => format!("{sources:?} {faults:?} {faults}"),
    }
}

/// The variables that hold a secret, each with this one in it.
fn filled(secret: &str) -> Vec<(String, String)> {
    let url = |name: &str| match name {
        "SA01_DB_DSN" => format!("postgresql://soma:{secret}@db/soma"),
        "SA01_REDIS_URL" => format!("redis://:{secret}@redis"),
        _ => format!("http://{secret}@host/path"),
    };
    let value = |name: &str, secrecy| match secrecy {
        Secrecy::Open => None,
        Secrecy::Credentials => Some(url(name)),
        Secrecy::Secret => Some(secret.to_owned()),
    };
    keys()
        .iter()
        .filter_map(|key| value(key.name, key.secrecy).map(|value| (key.name.to_owned(), value)))
        .collect()
}

fn in_files(folder: &Path, variables: &[(String, String)]) -> Vec<(String, String)> {
    let written = variables.iter().map(|(name, value)| {
        let path = folder.join(name);
        fs::write(&path, value).unwrap();
        (format!("{name}_FILE"), path.to_str().unwrap().to_owned())
    });
    written.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_secret_is_never_printed(secret in "S3[!-~]{6,40}") {
        let with_servers = [
            filled(&secret),
            pairs(&[("SA01_KAFKA_BOOTSTRAP_SERVERS", "k:1"), ("SA01_MODEL_NAME", "m")]),
        ]
        .concat();
        let folder = tempfile::tempdir().unwrap();
        let broken = pairs(&[("SA01_DEPLOYMENT_MODE", "prod"), ("SA01_TURNS_LEASE", "1s")]);
        let url_without_a_host = |name: &str| (name.to_owned(), format!("http://soma:{secret}"));
        let unquoted = format!("SA01_MODEL_API_KEY={secret}\nSA01_DB_DSN={secret} {secret}\n");
        let unclosed = format!("SA01_MODEL_API_KEY='{}\n", secret.replace('\'', ""));
        let unknown = vec![("SA01_MODEL_APIKEY".to_owned(), secret.clone())];
        for sources in [
            Sources { environment: with_servers.clone(), ..Sources::default() },
            Sources { flags: with_servers.clone(), ..Sources::default() },
            Sources {
                environment: in_files(folder.path(), &filled(&secret)),
                ..Sources::default()
            },
            Sources { environment: [with_servers, broken].concat(), ..Sources::default() },
            Sources { dotenv: Some(dotenv(&unquoted)), ..Sources::default() },
            Sources { dotenv: Some(dotenv(&unclosed)), ..Sources::default() },
            Sources { environment: unknown, ..Sources::default() },
            Sources {
                environment: vec![
                    url_without_a_host("SA01_MODEL_BASE_URL"),
                    ("SA01_DB_DSN".to_owned(), secret.clone()),
                    ("POLICY_BASE_URL".to_owned(), secret.clone()),
                ],
                ..Sources::default()
            },
        ] {
            let printed = printed(&sources);
            prop_assert!(!printed.contains(&secret), "{}", printed);
        }
    }
}
