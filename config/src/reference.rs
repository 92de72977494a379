//! Writes what people read about the keys: `config/example.env` and the reference page.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{
    central::CentralizedConfig,
    key::{Key, keys},
    layers,
    legacy::{LEGACY, RETIRED},
    value::Mode,
};

/// The text of `config/example.env`: every key, explained and commented out.
pub fn example_env() -> String {
    let profiles = Profiles::new();
    let mut page = String::from(EXAMPLE_HEAD);
    for (title, about) in CentralizedConfig::titles() {
        add(&mut page, format_args!("\n# {title}: {}\n", one_line(about)));
        for key in keys_of(title) {
            page.push('\n');
            for line in key.about.trim_end().lines() {
                add(&mut page, format_args!("# {}\n", line.trim()));
            }
            let default = profiles.default_of(key);
            add(&mut page, format_args!("# Kind: {}. Default: {default}.\n", key.kind));
            let value = key.default.as_deref().or(key.example).unwrap_or_default();
            let quote = if value.contains([' ', '#', '$', '\\']) { "'" } else { "" };
            add(&mut page, format_args!("# {}={quote}{value}{quote}\n", key.name));
        }
    }
    page
}

const EXAMPLE_HEAD: &str = "\
# Every setting of SomaAgent01, with its default or, where there is none, an example. Copy what you
# change to `.env`. docs/reference/configuration.md says how settings are read. Generated from
# config/src/sections (UPDATE_GOLDEN=1 cargo test -p soma-config).
";

/// The text of `docs/reference/configuration.md`.
pub fn reference_page() -> String {
    let profiles = Profiles::new();
    let mut page = String::from(PAGE_HEAD);
    for (title, about) in CentralizedConfig::titles() {
        add(&mut page, format_args!("\n### {title}\n\n{}\n\n", one_line(about)));
        page.push_str("| Variable | Kind | Default | Meaning |\n| --- | --- | --- | --- |\n");
        for key in keys_of(title) {
            let cells = [one_line(key.about), profiles.default_of(key)].map(|text| cell(&text));
            let [about, default] = cells;
            let (name, kind) = (key.name, key.kind);
            add(&mut page, format_args!("| `{name}` | {kind} | {default} | {about} |\n"));
        }
    }
    page.push_str(LEGACY_HEAD);
    for legacy in &LEGACY {
        let note = legacy.spelling.note();
        add(&mut page, format_args!("| `{}` | `{}`{note} |\n", legacy.name, legacy.key));
    }
    page.push_str(RETIRED_HEAD);
    for (names, reason) in &RETIRED {
        add(&mut page, format_args!("| `{}` | {reason} |\n", names.join("`, `")));
    }
    page
}

const PAGE_HEAD: &str = "\
# Configuration

Generated from the sections in `config/src/sections`; a test fails if this page differs
(`UPDATE_GOLDEN=1 cargo test -p soma-config` writes it anew).

## How settings are read

Each setting is a variable. Where it is given more than once the stronger source wins, the
strongest last:

1. its default;
2. the profile of the deployment mode (`config/profiles/dev.env` or `config/profiles/prod.env`,
   built in);
3. `.env` in the working directory;
4. the environment;
5. the command line.

An empty value means that the variable is not set. `somaagent config` prints the value in effect
of every setting, secrets masked, and where it came from.

A secret or a URL may also be read from a file: `SA01_DB_DSN_FILE=/run/secrets/dsn`. A line break
at the end of the file is not part of the value. In `.env`, single quotes keep a `$` as it is;
elsewhere `${NAME}` stands for another variable.

Durations have a unit: `250ms`, `5s`, `10m`, `72h`, `30d`. Sizes are bytes, or have a unit:
`512B`, `64KiB`, `25MiB`, `1GiB`. Lists are separated by commas.

All faults are told at once, and the process ends with exit code 78. A variable that begins with
`SA01_` and is not a setting is a fault. (Kubernetes sets variables for each service of a
namespace: where one is called `sa01-...`, set `enableServiceLinks: false`.)

## Which engines go together

| Store | Bus | Live | |
| --- | --- | --- | --- |
| SQLite | built in | built in | one process, nothing to install |
| PostgreSQL | built in | built in | one process |
| PostgreSQL | Kafka | Redis | any number of processes |

Anything else is a fault. `SA01_DEPLOYMENT_MODE=prod` demands the last one, an OPA server and
authentication. In `dev` without authentication everything listens on loopback addresses only.

## Settings
";

const LEGACY_HEAD: &str = "
## Names of the predecessor

These are still read, with a warning. Where the new name is set as well it wins, wherever it is
set.

| Old name | New name |
| --- | --- |
";

const RETIRED_HEAD: &str = "
These mean nothing any more; a warning says so.

| Name | Why |
| --- | --- |
";

fn keys_of(title: &str) -> impl Iterator<Item = &'static Key> {
    keys().iter().filter(move |key| key.section == title)
}

/// What the built-in profiles set.
struct Profiles([(Mode, BTreeMap<String, String>); 2]);

impl Profiles {
    fn new() -> Self {
        Self([Mode::Dev, Mode::Prod].map(|mode| (mode, pairs_of(mode))))
    }

    /// The default of a key, and what the profiles make of it.
    fn default_of(&self, key: &Key) -> String {
        let mut parts: Vec<_> = key.default.iter().map(|default| format!("`{default}`")).collect();
        for (mode, profile) in &self.0 {
            let value = profile.get(key.name).filter(|value| Some(*value) != key.default.as_ref());
            parts.extend(value.map(|value| format!("`{value}` in {mode}")));
        }
        if parts.is_empty() { "not set".to_owned() } else { parts.join(", ") }
    }
}

/// The pairs of a built-in profile; that it can be parsed is tested.
fn pairs_of(mode: Mode) -> BTreeMap<String, String> {
    dotenvy::from_read_iter(layers::profile(mode).as_bytes()).filter_map(Result::ok).collect()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A `|` would end the cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// Writing to a string cannot fail.
fn add(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).unwrap_or_default();
}
