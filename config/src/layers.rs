//! Settles which text each key has: finds out what every given name means, then takes for each
//! key what the strongest layer says.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    fault::Findings,
    key::{self, Key},
    legacy::{self, Legacy},
    nearest,
    provenance::{Layer, Provenance},
    sources::{DotEnv, Sources},
    value::{Mode, Value},
};

/// The text of each key that a layer gave one, by name.
pub(crate) type Settled = BTreeMap<&'static str, Text>;

/// A text and where it came from.
#[derive(Debug)]
pub(crate) struct Text {
    pub(crate) text: String,
    pub(crate) origin: Provenance,
}

/// The built-in profile of a mode, in the form of a `.env` file.
pub(crate) fn profile(mode: Mode) -> &'static str {
    match mode {
        Mode::Dev => include_str!("../profiles/dev.env"),
        Mode::Prod => include_str!("../profiles/prod.env"),
    }
}

/// Settles the text of each key.
pub(crate) fn settle(sources: Sources, findings: &mut Findings) -> Settled {
    let mut offers = Vec::new();
    let mut offer = |layer: &Layer, pairs: Vec<(String, String)>, findings: &mut Findings| {
        for (name, text) in pairs {
            offers.extend(understand(layer, name, text, findings));
        }
    };
    if let Some(dotenv) = sources.dotenv {
        let pairs = parse_dotenv(&dotenv, findings);
        offer(&Layer::DotEnv(dotenv.path), pairs, findings);
    }
    offer(&Layer::Environment, sources.environment, findings);
    offer(&Layer::Flag, sources.flags, findings);

    let mut settled = Settled::new();
    for key in key::keys() {
        let offers: Vec<_> = offers.iter().filter(|offer| offer.key.name == key.name).collect();
        if let Some(text) = choose(key, &offers, findings) {
            settled.insert(key.name, text);
        }
    }
    add_profile(&mut settled, findings);
    settled
}

/// What one name in one layer offers to a key.
struct Offer {
    key: &'static Key,
    layer: Layer,
    /// The name as it was written.
    name: String,
    text: String,
    is_file: bool,
    legacy: Option<&'static Legacy>,
}

/// Finds out what a name means. One that means nothing is a fault if it looks like ours.
fn understand(layer: &Layer, name: String, text: String, findings: &mut Findings) -> Option<Offer> {
    let (stem, is_file) = match name.strip_suffix("_FILE") {
        Some(stem) if key::find(&name).is_none() && legacy::retired(&name).is_none() => {
            (stem, true)
        }
        _ => (name.as_str(), false),
    };
    let legacy = legacy::find(stem);
    let Some(key) = key::find(legacy.map_or(stem, |legacy| legacy.key)) else {
        unknown(layer, &name, findings);
        return None;
    };
    if is_file && !key.secrecy.allows_file() {
        if legacy.is_some() {
            // Such as LOG_LEVEL_FILE, which is somebody else's.
            return None;
        }
        let way_out = format!("set {stem} itself");
        let reason = "names a file, but only secrets and URLs are read from files";
        findings.unusable(name, Provenance::of(layer.clone()), reason, way_out);
        return None;
    }
    // An empty value is how compose files and shells say that a variable is not set.
    let is_set = !text.trim().is_empty();
    is_set.then_some(Offer { key, layer: layer.clone(), name, text, is_file, legacy })
}

fn unknown(layer: &Layer, name: &str, findings: &mut Findings) {
    let looks_like_ours = name.to_ascii_uppercase().starts_with("SA01_");
    if !looks_like_ours && *layer != Layer::Flag {
        return;
    }
    if let Some(reason) = legacy::retired(name) {
        findings.warn(name, format!("is no longer used and may be removed: {reason}"));
        return;
    }
    let names = key::keys().iter().map(|key| key.name);
    let way_out = match nearest::nearest(&name.to_ascii_uppercase(), names) {
        Some(near) => format!("did you mean {near}?"),
        None => "remove it; `somaagent config` lists every name".to_owned(),
    };
    findings.unusable(name, Provenance::of(layer.clone()), "is not a setting", way_out);
}

/// Takes what the strongest layer says. The key's own name wins over a legacy one in any layer:
/// whoever has written it has moved on.
fn choose(key: &Key, offers: &[&Offer], findings: &mut Findings) -> Option<Text> {
    // The last of several is taken, as shells and compose files do.
    let strongest = |legacy: bool| {
        let offers = offers.iter().filter(|offer| offer.legacy.is_some() == legacy);
        offers.max_by_key(|offer| &offer.layer).copied()
    };
    let chosen = strongest(false).or_else(|| strongest(true))?;
    for offer in offers {
        if let Some(legacy) = offer.legacy {
            let used = std::ptr::eq(*offer, chosen);
            findings.warn(&offer.name, legacy_warning(legacy, key, used));
        }
    }
    let rivals: Vec<_> = offers
        .iter()
        .filter(|offer| offer.layer == chosen.layer)
        .filter(|offer| offer.legacy.is_some() == chosen.legacy.is_some())
        .collect();
    let plain = rivals.iter().find(|offer| !offer.is_file);
    if let (Some(plain), Some(file)) = (plain, rivals.iter().find(|offer| offer.is_file)) {
        let reason = format!("is set and so is {}", file.name);
        findings.unusable(key.name, origin(plain), reason, "keep one of them");
        return None;
    }
    read(chosen, findings)
}

fn legacy_warning(legacy: &Legacy, key: &Key, used: bool) -> String {
    if used {
        let note = legacy.spelling.note();
        format!("is the old name of {}; write that instead{note}", key.name)
    } else {
        format!("is ignored, as it is the old name of {}, which is set; remove it", key.name)
    }
}

fn origin(offer: &Offer) -> Provenance {
    let mut origin = Provenance::of(offer.layer.clone());
    if offer.name != offer.key.name {
        origin.by_name = Some(offer.name.clone());
    }
    origin
}

/// The text of an offer, or of the file that it names.
fn read(offer: &Offer, findings: &mut Findings) -> Option<Text> {
    let mut origin = origin(offer);
    let mut text = offer.text.clone();
    if offer.is_file {
        let path = PathBuf::from(text.trim());
        origin = origin.through(&path);
        match read_file(&path) {
            Ok(secret) => text = secret,
            Err(reason) => {
                let way_out = "put the value into that file or set the variable itself";
                findings.unusable(offer.key.name, origin, reason, way_out);
                return None;
            }
        }
    }
    if let Some(legacy) = offer.legacy {
        text = legacy.spelling.modernise(&text);
    }
    Some(Text { text, origin })
}

/// Reads a secret from its file, without the line break that editors put at the end.
fn read_file(path: &Path) -> Result<String, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.trim().is_empty() { Err("is empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// Adds what the profile of the mode says where nothing else was said.
fn add_profile(settled: &mut Settled, findings: &mut Findings) {
    // A mode that cannot be read is told with all other faults; until then it is dev.
    let mode = settled.get("SA01_DEPLOYMENT_MODE").and_then(|text| Mode::parse(&text.text).ok());
    let mode = mode.unwrap_or(Mode::Dev);
    let path = PathBuf::from("built-in profile");
    let file = DotEnv { path, text: profile(mode).to_owned() };
    for (name, text) in parse_dotenv(&file, findings) {
        let origin = Provenance::of(Layer::Profile(mode));
        if let Some(key) = key::find(&name) {
            settled.entry(key.name).or_insert(Text { text, origin });
        }
    }
}

/// Parses a `.env` file. A line that cannot be parsed is named by its number only, as it may
/// hold a secret.
fn parse_dotenv(file: &DotEnv, findings: &mut Findings) -> Vec<(String, String)> {
    let text = file.text.trim_start_matches('\u{feff}');
    let layer = Layer::DotEnv(file.path.clone());
    let mut pairs: Vec<(String, String)> = Vec::new();
    for line in dotenvy::from_read_iter(text.as_bytes()) {
        match line {
            Ok((name, value)) => {
                if pairs.iter().any(|(earlier, _)| *earlier == name) {
                    let message = format!("stands twice in {layer}; the last one counts");
                    findings.warn(&name, message);
                }
                pairs.push((name, value));
            }
            Err(error) => {
                let way_out = "write NAME=value; quote a value with spaces, `#` or `$`";
                let origin = Provenance::of(layer.clone());
                findings.unusable(failed_line(text, &error), origin, "cannot be read", way_out);
            }
        }
    }
    pairs
}

fn failed_line(text: &str, error: &dotenvy::Error) -> String {
    let number = match error {
        dotenvy::Error::LineParse(failed, _) => line_number(text, failed),
        _ => None,
    };
    number.map_or_else(|| "a line".to_owned(), |number| format!("line {number}"))
}

/// The number of the line that ends as the failed text begins: the parser gives the text of the
/// line, or only of the value, or of several lines if a quote is never closed.
fn line_number(text: &str, failed: &str) -> Option<usize> {
    let failed = failed.lines().next()?.trim();
    text.lines().position(|line| line.trim().ends_with(failed)).map(|place| place + 1)
}
