//! The pages that are generated from the keys are up to date, and true.

use std::{env, fs, path::PathBuf};

use soma_config::{Secrecy, Sources, example_env, keys, reference_page};

use crate::{dotenv, loaded};

/// Compares a generated page with its file; with `UPDATE_GOLDEN=1` in the environment it writes
/// the file instead.
fn compare(path: &str, page: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    if env::var_os("UPDATE_GOLDEN").is_some_and(|update| update == "1") {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, page).unwrap();
    }
    let file = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        file == page,
        "{} differs; run `UPDATE_GOLDEN=1 cargo test -p soma-config`",
        path.display()
    );
}

#[test]
fn the_example_is_up_to_date() {
    compare("example.env", &example_env());
}

#[test]
fn the_reference_is_up_to_date() {
    compare("../docs/reference/configuration.md", &reference_page());
}

#[test]
fn the_example_has_every_key_and_can_be_used_as_it_is() {
    let uncommented: String = example_env()
        .lines()
        .filter_map(|line| line.strip_prefix("# SA01_"))
        .fold(String::new(), |text, line| format!("{text}SA01_{line}\n"));
    assert_eq!(uncommented.lines().count(), keys().len());
    let loaded = loaded(Sources { dotenv: Some(dotenv(&uncommented)), ..Sources::default() });
    for row in &loaded.report().rows {
        assert_eq!(row.origin.to_string(), ".env", "{}", row.name);
        let key = keys().iter().find(|key| key.name == row.name).unwrap();
        if key.secrecy == Secrecy::Open {
            let written = key.default.as_deref().or(key.example);
            assert_eq!(row.value.as_deref(), written, "{}", row.name);
        }
    }
}

#[test]
fn a_profile_sets_keys_that_exist_to_values_that_are_read() {
    for (profile, text) in [
        ("dev", include_str!("../../profiles/dev.env")),
        ("prod", include_str!("../../profiles/prod.env")),
    ] {
        let secret = "SA01_AUTH_JWT_SECRET=0123456789abcdef0123456789abcdef";
        let loaded = loaded(Sources {
            dotenv: Some(dotenv(&format!("{text}\n{secret}\n"))),
            ..Sources::default()
        });
        assert!(loaded.warnings.is_empty(), "{profile}: {:?}", loaded.warnings);
    }
}
