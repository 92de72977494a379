//! Runs the tools that the tests call.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

/// The folder of the project.
pub(super) fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Reads a file of the project.
pub(super) fn read(path: &str) -> String {
    let path = project().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What a command printed, or what it said when it failed.
pub(super) type Outcome = Result<String, String>;

/// Where a tool of `scripts/tools.sh` is; they are installed on first use.
pub(super) fn path(tool: &str) -> PathBuf {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let installed = outcome(&mut Command::new(project().join("scripts/tools.sh")));
        PathBuf::from(installed.unwrap_or_else(|error| panic!("{error}")).trim())
    });
    FOLDER.join(tool)
}

/// Runs a tool of `scripts/tools.sh` in the project's folder.
pub(super) fn run(tool: &str, arguments: &[&str]) -> Outcome {
    outcome(Command::new(path(tool)).args(arguments))
}

/// Runs a script of the project.
pub(super) fn script(name: &str, arguments: &[&str]) -> Outcome {
    outcome(Command::new(project().join("scripts").join(name)).args(arguments))
}

/// Runs a command in the project's folder.
pub(super) fn outcome(command: &mut Command) -> Outcome {
    let output = command.current_dir(project()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let [out, err] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    if output.status.success() { Ok(out) } else { Err(format!("{command:?}\n{out}{err}")) }
}
