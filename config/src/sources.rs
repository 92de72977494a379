//! What a configuration is read from, handed in, so that tests need no process environment.

use std::{env, ffi::OsString, fmt, io, path::PathBuf};

use crate::{
    fault::{ConfigFaults, Findings},
    provenance::{Layer, Provenance},
};

/// What the configuration is read from, the built-in layers apart.
#[derive(Clone, Default)]
pub struct Sources {
    /// The variables of the process.
    pub environment: Vec<(String, String)>,
    /// The `.env` file, if there is one.
    pub dotenv: Option<DotEnv>,
    /// Names and values given on the command line; the names are those of the variables.
    pub flags: Vec<(String, String)>,
}

/// A `.env` file.
#[derive(Clone)]
pub struct DotEnv {
    /// Where it is, to be told in faults and the report.
    pub path: PathBuf,
    /// What it says. A value may refer to an earlier one or to a variable of the process as
    /// `${NAME}`; single quotes keep a `$` as it is.
    pub text: String,
}

impl Sources {
    /// Reads the environment of the process and the `.env` file of the working directory. This
    /// is the only place that does.
    ///
    /// # Errors
    /// There is a `.env` file and it cannot be read.
    pub fn of_process(flags: Vec<(String, String)>) -> Result<Self, ConfigFaults> {
        let path = PathBuf::from(".env");
        let mut findings = Findings::default();
        let dotenv = match std::fs::read_to_string(&path) {
            Ok(text) => Some(DotEnv { path, text }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                let origin = Provenance::of(Layer::DotEnv(path));
                let reason = format!("cannot be read: {error}");
                findings.unusable("`.env`", origin, reason, "make it readable or remove it");
                None
            }
        };
        findings.conclude()?;
        Ok(Self { environment: environment(), dotenv, flags })
    }
}

/// The variables of the process. What is no UTF-8 keeps its place with a replacement character,
/// which is a fault in a value that is used.
fn environment() -> Vec<(String, String)> {
    let text = |raw: OsString| raw.to_string_lossy().into_owned();
    env::vars_os().map(|(name, value)| (text(name), text(value))).collect()
}

impl fmt::Debug for Sources {
    /// Tells names only: there is no telling which values are secret.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |pairs: &[(String, String)]| -> Vec<String> {
            pairs.iter().map(|(name, _)| name.clone()).collect()
        };
        formatter
            .debug_struct("Sources")
            .field("environment", &names(&self.environment))
            .field("dotenv", &self.dotenv)
            .field("flags", &names(&self.flags))
            .finish()
    }
}

impl fmt::Debug for DotEnv {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("DotEnv").field("path", &self.path).finish_non_exhaustive()
    }
}
