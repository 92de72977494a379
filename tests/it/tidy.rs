//! Rules of the house that the compiler does not know.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What a service may not use: vendors, and the actor library past the runtime. actix's own
/// handlers would let it answer by a `ResponseFuture`, whose panics nobody sees.
const OUTSIDE: &[&str] =
    &["actix", "actix-rt", "actix-web", "rdkafka", "redis", "regorus", "reqwest", "sqlx"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns what a crate is built of, without what its tests use.
fn dependencies(manifest: &Path) -> Vec<String> {
    let text = fs::read_to_string(manifest).unwrap();
    let lines = text.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    lines
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn services_know_the_contract_and_the_runtime_and_these_know_nobody() {
    let mut services = 0;
    for folder in fs::read_dir(root().join("actors")).unwrap() {
        let folder = folder.unwrap().path();
        let own = dependencies(&folder.join("Cargo.toml"));
        let known: Vec<_> = own.iter().filter(|name| name.starts_with("soma-")).collect();
        if folder.ends_with("runtime") || folder.ends_with("contract") {
            assert!(known.is_empty(), "{}: {known:?}", folder.display());
            continue;
        }
        services += 1;
        assert_eq!(known, ["soma-contract", "soma-runtime"], "{}", folder.display());
        for name in own {
            assert!(!OUTSIDE.contains(&name.as_str()), "{} uses {name}", folder.display());
        }
    }
    assert_eq!(services, 5);
}

#[test]
fn each_file_says_what_it_is_for() {
    let mut found = Vec::new();
    for folder in ["src", "actors", "config", "tests", "benches"] {
        files(&root().join(folder), &mut found);
    }
    assert!(found.len() > 100, "{}", found.len());
    for file in found {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//!"), "{} does not say what it is for", file.display());
    }
}
