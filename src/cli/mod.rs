//! The command line.
//!
//! `somaagent` alone runs everything. The other commands configure, look at or talk to a running
//! server over its public API; only those about the embedded store open its file.

pub mod client;

mod admin;
mod arguments;
mod chat;
mod health;
pub(crate) mod out;
mod promote;
mod settings;
mod store;
mod table;
#[cfg(test)]
mod testing;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, error::ErrorKind};

use self::arguments::{Arguments, Command};

/// The exit codes, from `sysexits.h` where it has one.
pub mod exit {
    /// Drained, or the command did what it was asked for.
    pub const OK: u8 = 0;
    /// Forced to end before the drain was over, or the command failed.
    pub const FAILED: u8 = 1;
    /// The command line is wrong (`EX_USAGE`).
    pub const USAGE: u8 = 64;
    /// The supervisor gave up: a critical service died (`EX_SOFTWARE`).
    pub const GAVE_UP: u8 = 70;
    /// The configuration is wrong (`EX_CONFIG`).
    pub const CONFIG: u8 = 78;
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    let command = arguments.command.unwrap_or_default();
    match command {
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Arguments::command(),
                "somaagent",
                &mut std::io::stdout(),
            );
            ExitCode::from(exit::OK)
        }
        Command::Sleep { time } => settings::sleep(time),
        Command::ReadPdf => crate::adapters::tools::read_pdf(),
        command => with_configuration(command, &arguments.common),
    }
}

fn usage(error: &clap::Error) -> ExitCode {
    let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if error.print().is_err() {
        return ExitCode::from(exit::FAILED);
    }
    ExitCode::from(if asked_for { exit::OK } else { exit::USAGE })
}

fn with_configuration(command: Command, common: &arguments::Common) -> ExitCode {
    let loaded = match settings::load(common) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    match command {
        Command::Run { dry_run: false, .. } => crate::app::main(&loaded),
        Command::Run { dry_run: true, json } => crate::app::dry_run::main(&loaded, json),
        Command::Config { json } => settings::print(&loaded, json),
        Command::Migrate => store::migrate(&loaded.config),
        Command::Backup { file } => store::backup(&loaded.config, &file),
        Command::Restore { file } => store::restore(&loaded.config, &file),
        Command::Promote { to } => promote::promote(&loaded.config, &to),
        command => settings::talk(&loaded.config, common, command),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
