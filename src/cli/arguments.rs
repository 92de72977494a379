//! The commands and their arguments, as `--help` tells them.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use soma_config::ServerUrl;
use uuid::Uuid;

const EXAMPLES: &str = "\
Examples:
  somaagent                                 start everything in this folder
  somaagent chat                            talk to it, from another terminal
  somaagent run --dry-run                   check configuration, plan, store, policy and ports
  SA01_MODEL_BASE_URL=http://localhost:11434/v1 SA01_MODEL_NAME=llama3.2 somaagent
                                            answer with a model of a local Ollama
  somaagent config                          show every setting and where it comes from

Exit codes: 0 drained, 1 forced or failed, 64 usage, 70 the supervisor gave up, 78 configuration.";

/// An AI-agent platform in one process: every service supervised, every accepted message answered
/// exactly once, whatever is killed.
#[derive(Debug, Parser)]
#[command(name = "somaagent", version, after_help = EXAMPLES, propagate_version = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) common: Common,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// Sets a configuration key for this run, over environment and files; may be repeated
    #[arg(long = "set", global = true, value_name = "NAME=VALUE", value_parser = pair)]
    pub(super) set: Vec<(String, String)>,
    /// Runs only these services, separated by commas (same as `--set SA01_SERVICES=...`)
    #[arg(long, global = true, value_name = "NAMES")]
    pub(super) services: Option<String>,
    /// Where the server to talk to is [default: where `SA01_GATEWAY_BIND` listens]
    #[arg(long, global = true, value_name = "URL")]
    pub(super) url: Option<String>,
    /// A file with the API key or token to talk with [default: `SA01_CLIENT_KEY`]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) key_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Starts the platform (also what `somaagent` alone does)
    Run {
        /// Only prints the plan and whether a start would succeed; changes nothing
        #[arg(long)]
        dry_run: bool,
        /// Prints the dry run as JSON
        #[arg(long, requires = "dry_run")]
        json: bool,
    },
    /// Talks to a running server in the terminal
    Chat {
        /// The session to go on with [default: a new one]
        #[arg(long, value_name = "ID", conflicts_with = "resume")]
        session: Option<Uuid>,
        /// Goes on with the session of the last chat
        #[arg(long, short = 'c')]
        resume: bool,
        /// The persona to speak with
        #[arg(long, value_name = "ID")]
        persona: Option<String>,
    },
    /// Shows every setting, where it comes from, and warnings
    Config {
        /// Prints JSON
        #[arg(long)]
        json: bool,
    },
    /// Asks a running server how it is; exit code 1 unless every component is ok or degraded
    Health {
        /// Prints the answer as it came
        #[arg(long)]
        json: bool,
        /// Treats `degraded` as a failure too
        #[arg(long)]
        strict: bool,
    },
    /// Brings the store's schema to this version
    Migrate,
    /// Looks at what could not be delivered or answered, and tries again
    Dlq {
        #[command(subcommand)]
        what: Dlq,
    },
    /// Shows the supervision tree of a running server
    Services {
        /// Prints the answer as it came
        #[arg(long)]
        json: bool,
        /// Restarts this service in order
        #[arg(long, value_name = "NAME")]
        restart: Option<String>,
    },
    /// Makes, lists and revokes API keys
    Keys {
        #[command(subcommand)]
        what: Keys,
    },
    /// Waits; for images without a shell (a preStop hook)
    Sleep {
        /// How long, such as 10, 10s or 500ms
        #[arg(value_parser = duration)]
        time: Duration,
    },
    /// Copies the embedded store to a file, while the server runs
    Backup {
        /// The file to write; it must not exist
        file: PathBuf,
    },
    /// Fills an empty data directory from a backup
    Restore {
        /// The file that `backup` wrote
        file: PathBuf,
    },
    /// Copies the embedded store, on which no server runs, into an empty PostgreSQL; goes on where an
    /// earlier try broke off
    Promote {
        /// The database: postgres://user:password@host:port/name
        #[arg(long, value_name = "URL", value_parser = database)]
        to: ServerUrl,
    },
    /// Reads a PDF from its input and writes the text, within limits; for the server itself
    #[command(name = crate::adapters::tools::READ_PDF, hide = true)]
    ReadPdf,
    /// Prints a completion script
    Completions {
        /// For which shell
        shell: Shell,
    },
}

impl Default for Command {
    fn default() -> Self {
        Self::Run { dry_run: false, json: false }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Dlq {
    /// Lists dead letters, newest first
    List {
        /// At most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
    },
    /// Shows one dead letter whole
    Show {
        /// Its number
        id: i64,
    },
    /// Tries one again: its turn or write is queued, with what it has done already
    Replay {
        /// Its number
        id: i64,
    },
    /// Drops one for good
    Drop {
        /// Its number
        id: i64,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Keys {
    /// Makes a key and shows it, once
    Create {
        /// What it is for
        label: String,
        /// The tenant that it opens [default: your own]
        #[arg(long)]
        tenant: Option<String>,
        /// Lets it use the admin routes
        #[arg(long)]
        admin: bool,
    },
    /// Lists the keys
    List,
    /// Revokes a key
    Revoke {
        /// Its id, as `list` shows it
        key_id: String,
    },
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| "write it as NAME=VALUE".to_owned())?;
    Ok((name.trim().to_owned(), value.to_owned()))
}

/// Reads the address of a PostgreSQL database.
fn database(text: &str) -> Result<ServerUrl, String> {
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        Ok(ServerUrl::new(text))
    } else {
        Err("give the database as `postgres://user:password@host:port/name`".to_owned())
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 =
        number.parse().map_err(|error| format!("{error}; write it as 10, 10s or 500ms"))?;
    match unit {
        "" | "s" => Ok(Duration::from_secs(number)),
        "ms" => Ok(Duration::from_millis(number)),
        _ => Err(format!("`{unit}` is no unit; use s or ms")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promotion_goes_to_postgresql_only() {
        assert_eq!(database("postgres://a@b/c"), Ok(ServerUrl::new("postgres://a@b/c")));
        assert!(database("mysql://a@b/c").is_err());
    }

    #[test]
    fn durations_have_seconds_by_default() {
        assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(duration("5h").is_err());
        assert!(duration("s").is_err());
    }
}
