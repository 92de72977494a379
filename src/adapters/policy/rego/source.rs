//! Where a policy comes from: the shipped files or a folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use regorus::Engine;

/// The package whose rules are asked for, as the engine names it.
pub(super) const PACKAGE: &str = "data.soma.policy";

/// Why a policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegoError {
    /// A file or folder cannot be read.
    #[error("cannot read `{path}`")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The folder has no policy in it.
    #[error("there is no `.rego` file in `{0}`")]
    Empty(PathBuf),
    /// A file is not valid; the reason names line and column.
    #[error("`{file}` is not valid: {reason}")]
    Invalid {
        /// The file.
        file: String,
        /// What is wrong and where.
        reason: String,
    },
    /// No file declares what is asked for.
    #[error("no file declares `decision` or `allow` in package `soma.policy`")]
    NoRule,
}

/// The texts of a policy and its data.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// File names with their contents.
    modules: Vec<(String, String)>,
    /// The data document, with its file's name.
    data: Option<(String, String)>,
}

impl Source {
    /// Returns the policy that ships with the platform.
    pub(super) fn shipped() -> Self {
        let policy = include_str!("../../../../config/policy/soma.rego");
        let data = include_str!("../../../../config/policy/data.json");
        Self {
            modules: vec![("soma.rego".to_owned(), policy.to_owned())],
            data: Some(("data.json".to_owned(), data.to_owned())),
        }
    }

    /// Reads every `.rego` file of a folder, but for tests, and its `data.json`.
    ///
    /// # Errors
    ///
    /// Something cannot be read, or there is no policy.
    pub(super) fn read(folder: &Path) -> Result<Self, RegoError> {
        let entries = fs::read_dir(folder).map_err(unreadable(folder))?;
        let mut paths = Vec::new();
        for entry in entries {
            paths.push(entry.map_err(unreadable(folder))?.path());
        }
        // The order decides which of two faults is told.
        paths.sort();
        let modules = paths
            .iter()
            .filter(|path| is_policy(path))
            .map(|path| Ok((path.display().to_string(), text_of(path)?)))
            .collect::<Result<Vec<_>, RegoError>>()?;
        if modules.is_empty() {
            return Err(RegoError::Empty(folder.to_owned()));
        }
        let data = folder.join("data.json");
        let data =
            if data.exists() { Some((data.display().to_string(), text_of(&data)?)) } else { None };
        Ok(Self { modules, data })
    }

    /// Parses everything; tells which files are in the package that is asked.
    ///
    /// # Errors
    ///
    /// `Invalid`.
    pub(super) fn engine(&self) -> Result<(Engine, Vec<&str>), RegoError> {
        let mut engine = Engine::new();
        let mut asked = Vec::new();
        for (file, text) in &self.modules {
            let package = engine
                .add_policy(file.clone(), text.clone())
                .map_err(|error| invalid(file, &format!("{error:#}")))?;
            if package == PACKAGE {
                asked.push(file.as_str());
            }
        }
        if let Some((file, text)) = &self.data {
            engine.add_data_json(text).map_err(|error| invalid(file, &format!("{error:#}")))?;
        }
        Ok((engine, asked))
    }
}

fn is_policy(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    path.extension().is_some_and(|extension| extension == "rego") && !name.ends_with("_test.rego")
}

fn text_of(path: &Path) -> Result<String, RegoError> {
    fs::read_to_string(path).map_err(unreadable(path))
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> RegoError + '_ {
    move |source| RegoError::Unreadable { path: path.to_owned(), source }
}

fn invalid(file: &str, reason: &str) -> RegoError {
    RegoError::Invalid { file: file.to_owned(), reason: reason.trim().to_owned() }
}
